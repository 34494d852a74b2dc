from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.flows import netlink, tally
from check_conntrack.flows.tally import Tally, prefixes
from check_conntrack.kernel import ctnetlink as ct
from support import flows_dump as dump

BOTH = ct.IPS_SEEN_REPLY | ct.IPS_ASSURED


def tallied(*messages: bytes, grouping: str = "32/128") -> Tally:
    one = Tally(prefixes(grouping))
    for message in messages:
        one.add(netlink.entry_at(message))
    return one


def test_closing_tcp_is_assured_and_yet_not_protected():
    figures = tallied(*(dump.entry(status=BOTH, state=state) for state in range(1, 9))).figures()
    assert figures.assured == 8
    assert figures.protected == 3  # SYN_SENT, SYN_RECV and ESTABLISHED.
    assert figures[16:25] == (1, 1, 1, 1, 1, 1, 1, 1, 0)


def test_an_offloaded_flow_is_protected_and_its_state_unknown():
    figures = tallied(dump.entry(status=ct.IPS_OFFLOAD, timeout=None)).figures()
    assert (figures.offloaded, figures.protected, figures.assured) == (1, 1, 0)
    assert figures.tcp_other == 1


def test_protocols_without_a_label_are_other():
    figures = tallied(*(dump.entry(protocol=p) for p in (17, 1, 132, 47, 136, 99))).figures()
    assert (figures.udp, figures.icmp, figures.sctp, figures.gre, figures.other) == (1, 1, 1, 1, 2)


def test_expected_is_unknown_where_the_source_cannot_tell():
    one = tallied(dump.entry(status=ct.IPS_EXPECTED))
    assert one.figures().expected == 1
    one.expected_known = False
    assert one.figures().expected is None


def test_a_source_nat_pool_is_filled_by_translated_flows_to_one_target():
    target, outside = bytes((198, 51, 100, 7)), bytes((203, 0, 113, 1))
    flows = [
        dump.entry(bytes((10, 0, 0, n)), target, 6, 40000, 443,
                   reply=(target, outside, 443, 2000 + n))
        for n in range(8)
    ]  # fmt: skip
    elsewhere = dump.entry(reply=(dump.V4[1], outside, 443, 5))
    untranslated = dump.entry(bytes((10, 0, 0, 1)), target)
    one = tallied(*flows, elsewhere, untranslated)
    assert one.figures().nat == 9
    assert one.figures().snat_ports == 8
    assert one.figures().snat_port_usage == pytest.approx(100 * 8 / 64512)
    assert one.top_pools(1)[0][:2] == ("tcp 203.0.113.1 to 198.51.100.7:443", 8)


def test_pools_of_different_zones_are_different():
    reply = (dump.V4[1], bytes((203, 0, 113, 1)), 443, 5)
    one = tallied(*(dump.entry(zone=zone, reply=reply) for zone in (1, 2, 2)))
    assert one.figures().snat_ports == 2
    assert one.top_pools(1)[0].name.endswith("in zone 2")


def test_a_translated_destination_is_nat_and_no_pool():
    one = tallied(dump.entry(reply=(bytes((10, 9, 9, 9)), dump.V4[0], 8443, 40000)))
    assert one.figures().nat == 1
    assert one.figures().snat_ports == 0


def test_top_lists_group_by_prefix():
    hosts = [bytes((10, 0, n, 1)) for n in (1, 1, 2)]
    one = tallied(*(dump.entry(host) for host in hosts), dump.entry(*dump.V6), grouping="16/32")
    assert one.top_sources(9) == [
        ("10.0.0.0/16", 3, 75.0),
        ("2001:db8::/32", 1, 25.0),
    ]
    assert one.figures().top_source_share == 75.0


def test_services_are_protocol_and_destination_port():
    one = tallied(
        dump.entry(state=7), dump.entry(state=3), dump.entry(state=7, dport=80),
        dump.entry(protocol=17, dport=53), dump.entry(protocol=1), dump.entry(protocol=47),
    )  # fmt: skip
    assert [top[:2] for top in one.top_services(2)] == [("tcp/443", 2), ("gre", 1)]
    assert {top.name for top in one.top_services(9)} == {
        "tcp/443", "tcp/80", "udp/53", "icmp", "gre"
    }  # fmt: skip
    assert [top.name for top in one.top_services(9, state=7)] == ["tcp/443", "tcp/80"]


def test_half_open_connections_have_their_own_top_list():
    one = tallied(
        dump.entry(bytes(4), state=1), dump.entry(bytes(4), state=2), dump.entry(state=3),
        dump.entry(state=1),
    )  # fmt: skip
    assert one.top_half_open_sources(1) == [("0.0.0.0", 2, pytest.approx(200 / 3))]


def test_the_breakdown_names_protocol_and_state():
    one = tallied(dump.entry(state=1), dump.entry(state=1), dump.entry(protocol=99))
    assert [line[:3] for line in one.breakdown()] == [
        ("tcp", "SYN_SENT", 2),
        ("protocol 99", "", 1),
    ]


def test_a_sample_is_scaled_to_the_whole_table():
    one = tallied(*[dump.entry(state=3)] * 3, dump.entry(protocol=17))
    figures = one.figures(total=4000)
    assert (figures.entries, figures.tcp, figures.udp) == (4000, 3000, 1000)
    assert figures.top_service_share == 75.0
    assert one.top_sources(1, 4000)[0].entries == 4000
    assert one.breakdown(4000)[0].entries == 3000


def test_the_margin_is_that_of_a_draw_without_replacement():
    assert tally.margin(100000, 4000000) == pytest.approx(0.306, abs=0.001)
    assert tally.margin(5, 5) == 0
    assert tally.margin(0, 5) == 100


@given(st.lists(st.integers(0, 432000), min_size=1, max_size=30), st.integers(0, 432000))
def test_idle_established_connections_are_never_overcounted(timeouts, seconds):
    one = tallied(*(dump.entry(state=3, timeout=left) for left in timeouts))
    found = one.established_idle(seconds, 432000)
    assert sum(432000 - left >= seconds + 256 and left >= 512 for left in timeouts) <= found
    assert found <= sum(432000 - left >= seconds for left in timeouts)


def test_what_waits_for_an_acknowledgement_is_not_idle():
    # tcp_timeout_unacknowledged and _max_retrans: 300 s are left to who spoke a second ago.
    one = tallied(*(dump.entry(state=3, timeout=left) for left in (299, 300, 80000)))
    assert one.established_idle(3600, 432000) == 1
    longer = tallied(*(dump.entry(state=3, timeout=left) for left in (1199, 80000)))
    assert longer.established_idle(3600, 432000, 1200) == 1


def test_an_empty_table_has_figures():
    figures = Tally().figures()
    assert figures.entries == 0
    assert figures.top_source_share == 0.0


@pytest.mark.parametrize("text", ["", "24", "33/64", "24/129", "a/b", "24/64/1", "-1/64", "²/64"])
def test_what_is_no_pair_of_prefixes_is_refused(text):
    with pytest.raises(ValueError, match="/"):
        prefixes(text)
