from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.flows import netlink, tally
from check_conntrack.flows import unanswered as unanswered_flows
from check_conntrack.flows.tally import Tally, prefixes
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel import networks
from support import flows_dump as dump

BOTH = ct.IPS_SEEN_REPLY | ct.IPS_ASSURED


def tallied(*messages: bytes, grouping: str = "32/128") -> Tally:
    one = Tally(prefixes(grouping))
    for message in messages:
        one.add(netlink.entry_at(message))
    return one


def test_closing_tcp_is_assured_but_not_protected():
    figures = tallied(*(dump.entry(status=BOTH, state=state) for state in range(1, 9))).figures()
    assert figures.assured == 8
    assert figures.protected == 3  # SYN_SENT, SYN_RECV and ESTABLISHED.
    assert figures[16:25] == (1, 1, 1, 1, 1, 1, 1, 1, 0)


def test_offloaded_flow_is_protected_where_assured():
    figures = tallied(dump.entry(status=ct.IPS_OFFLOAD, timeout=None)).figures()
    assert (figures.offloaded, figures.protected, figures.assured) == (1, 0, 0)
    assert figures.tcp_other == 1
    assured = ct.IPS_OFFLOAD | ct.IPS_ASSURED
    assert tallied(dump.entry(status=assured, timeout=None)).figures().protected == 1


def test_protocols_without_a_label_are_other():
    figures = tallied(*(dump.entry(protocol=p) for p in (17, 1, 132, 47, 136, 99))).figures()
    assert (figures.udp, figures.icmp, figures.sctp, figures.gre, figures.other) == (1, 1, 1, 1, 2)


def test_expected_is_unknown_where_the_source_does_not_show_it():
    one = tallied(dump.entry(status=ct.IPS_EXPECTED))
    assert one.figures().expected == 1
    one.expected_known = False
    assert one.figures().expected is None


def test_source_nat_pool_holds_translated_flows_to_one_target():
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


def test_translated_destination_is_nat_but_no_pool():
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


def unanswered(number: int, **named) -> bytes:
    status = ct.IPS_CONFIRMED | (ct.IPS_SEEN_REPLY if named.get("state") == 2 else 0)
    return dump.entry(bytes((10, 0, number >> 8, number & 255)), status=status, **named)


def test_unanswered_flows_are_counted_by_protocol_and_state():
    one = tallied(
        *(unanswered(n, state=1) for n in range(6)),
        *(unanswered(0, state=2, sport=n) for n in range(3)),
        unanswered(7, protocol=17, dport=53),
        dump.entry(state=3),
    )
    sent, received, udp = one.unanswered_groups(0)
    assert (sent.protocol, sent.state, sent.entries) == (6, 1, 6)
    assert (sent.sources, sent.targets, sent.ports) == (6, 1, 1)
    assert (sent.target.address, sent.target.port, sent.target.entries) == (dump.V4[1], 443, 6)
    assert (sent.network.address, sent.network.bits) == (bytes((10, 0, 0, 0)), 24)
    assert (received.source.address, received.source.entries) == (bytes((10, 0, 0, 0)), 3)
    assert (udp.protocol, udp.state, udp.target.port) == (17, None, 53)
    assert [group.entries for group in one.unanswered_groups(50)] == [6]


def test_unanswered_group_names_the_scanned_network():
    one = tallied(
        *(
            dump.entry(destination=bytes((198, 51, n % 90, 7)), state=1, status=0, dport=22)
            for n in range(200)
        )
    )
    (group,) = one.unanswered_groups(1)
    spanned = group.destination_network
    assert (spanned.address, spanned.bits, spanned.entries) == (bytes((198, 51, 0, 0)), 16, 200)
    assert (group.targets, group.ports) == (90, 1)


def test_unanswered_networks_follow_the_given_prefix():
    one = tallied(*(unanswered(n, state=1) for n in range(600)), grouping="16/48")
    (group,) = one.unanswered_groups(1)
    assert (group.network.bits, group.network.entries) == (16, 600)


def test_unanswered_flows_are_sampled_above_their_limit(monkeypatch):
    monkeypatch.setattr(unanswered_flows, "MOST_FLOWS", 100)
    one = tallied(*(unanswered(n % 4, state=1, sport=n + 1) for n in range(400)))
    (group,) = one.unanswered_groups(1)
    assert group.entries == 400
    assert one.unanswered.total == 100
    assert group.source.entries == 100  # a fourth of 400, by a fourth of 100


def test_address_in_another_zone_is_another_address():
    one = tallied(
        *(dump.entry(zone=zone) for zone in (None, 5, 5, 6)),
        dump.entry(zones=(7, None)),
        dump.entry(zones=(None, 8)),
        dump.entry(*dump.V6, zone=5),
    )
    assert [top[:2] for top in one.top_sources(9)] == [
        ("10.0.0.1", 2),
        ("10.0.0.1 in zone 5", 2),
        ("10.0.0.1 in zone 6", 1),
        ("10.0.0.1 in zone 7", 1),
        ("2001:db8::1 in zone 5", 1),
    ]
    assert (one.zoned, one.original_zones) == (5, 1)


def test_zone_is_counted_in_either_direction():
    one = tallied(
        *(dump.entry(zone=zone) for zone in (None, 0, 5, 5, 6)),
        dump.entry(zones=(5, None)),
        dump.entry(zones=(None, 8)),
    )
    assert [top[:2] for top in one.top_zones(9)] == [("5", 3), ("none", 2), ("6", 1), ("8", 1)]
    assert [top.name for top in one.top_zones(1)] == ["5"]
    assert one.figures().top_zone_share == pytest.approx(100 * 3 / 7)


def test_table_without_zones_has_no_list_of_zones():
    one = tallied(dump.entry(), dump.entry(zone=0))
    assert one.top_zones(9) == []
    assert one.figures().top_zone_share == 0


def test_entries_of_the_largest_are_scaled_to_the_table():
    one = tallied(dump.entry(), dump.entry(), dump.entry(*dump.V6))
    figures = one.figures(300)
    assert (figures.top_source_entries, figures.top_destination_entries) == (200, 200)
    assert tally.Tally().figures().top_source_entries == 0


def translated(port: int, given: int, source: int = 1, outside: int = 1) -> bytes:
    out = bytes((203, 0, 113, outside))
    return dump.entry(bytes((10, 0, 0, source)), sport=port, reply=(dump.V4[1], out, 443, given))


def test_restricted_pool_has_the_range_of_its_changed_ports():
    ports = [20000, *range(20100, 20500), 20999]
    one = tallied(*(translated(40000 + n, port) for n, port in enumerate(ports)))
    (pool,) = one.pools.top(1)
    assert (pool.first, pool.last, pool.restricted) == (20000, 20999, True)
    assert one.figures().snat_port_usage == pytest.approx(100 * 402 / 1000)
    assert one.top_pools(1)[0].name == "tcp 203.0.113.1 ports 20000-20999 to 192.0.2.9:443"


def test_pool_with_ports_of_the_full_range_is_not_restricted():
    one = tallied(*(translated(40000 + n, 1024 + n * 433 % 64512) for n in range(300)))
    (pool,) = one.pools.top(1)
    assert (pool.size, pool.restricted) == (64512, False)


def test_pool_with_unchanged_ports_is_not_restricted():
    one = tallied(*(translated(40000 + n, 40000 + n) for n in range(300)))
    assert one.pools.top(1)[0].size == 64512
    # A privileged port becomes another privileged one.
    one = tallied(*(translated(123, 1 + n) for n in range(300)))
    assert one.pools.top(1)[0].size == 64512


def test_fullest_pool_has_the_largest_share():
    one = tallied(
        *(translated(40000 + n, 20000 + n, outside=1) for n in range(200)),
        *(translated(30000 + n, 30000 + n, outside=2) for n in range(900)),
    )
    assert [pool.translated[3] for pool in one.pools.top(2)] == [1, 2]
    one.pools.given = (1024, 2047)
    (pool,) = one.pools.top(1)
    assert (pool.translated[3], pool.size) == (2, 1024)
    assert one.top_pools(1)[0].share == pytest.approx(100 * 900 / 1024)


def test_breakdown_names_protocol_and_state():
    one = tallied(dump.entry(state=1), dump.entry(state=1), dump.entry(protocol=99))
    assert [line[:3] for line in one.breakdown()] == [
        ("tcp", "SYN_SENT", 2),
        ("protocol 99", "", 1),
    ]


def test_figures_of_a_sample_are_scaled_to_the_table():
    one = tallied(*[dump.entry(state=3)] * 3, dump.entry(protocol=17))
    figures = one.figures(total=4000)
    assert (figures.entries, figures.tcp, figures.udp) == (4000, 3000, 1000)
    assert figures.top_service_share == 75.0
    assert one.top_sources(1, 4000)[0].entries == 4000
    assert one.breakdown(4000)[0].entries == 3000


def test_margin_is_that_of_a_draw_without_replacement():
    assert tally.margin(100000, 4000000) == pytest.approx(0.306, abs=0.001)
    assert tally.margin(5, 5) == 0
    assert tally.margin(0, 5) == 100


@given(st.lists(st.integers(0, 432000), min_size=1, max_size=30), st.integers(0, 432000))
def test_established_idle_never_counts_too_many(timeouts, seconds):
    one = tallied(*(dump.entry(state=3, timeout=left) for left in timeouts))
    found = one.established_idle(seconds, 432000)
    assert sum(432000 - left >= seconds + 256 and left >= 512 for left in timeouts) <= found
    assert found <= sum(432000 - left >= seconds for left in timeouts)


def test_established_idle_leaves_out_unacknowledged():
    # tcp_timeout_unacknowledged and _max_retrans: 300 s are left to who spoke a second ago.
    one = tallied(*(dump.entry(state=3, timeout=left) for left in (299, 300, 80000)))
    assert one.established_idle(3600, 432000) == 1
    longer = tallied(*(dump.entry(state=3, timeout=left) for left in (1199, 80000)))
    assert longer.established_idle(3600, 432000, 1200) == 1


def test_empty_tally_has_figures():
    figures = Tally().figures()
    assert figures.entries == 0
    assert figures.top_source_share == 0.0


@pytest.mark.parametrize("text", ["", "24", "33/64", "24/129", "a/b", "24/64/1", "-1/64", "²/64"])
def test_prefixes_refuse_other_text(text):
    with pytest.raises(ValueError, match="/"):
        prefixes(text)


@pytest.mark.parametrize(
    ("text", "private", "reserved"),
    [
        ("10.0.0.1", True, False),
        ("172.31.255.1", True, False),
        ("172.32.0.1", False, False),
        ("192.168.7.7", True, False),
        ("100.127.0.1", True, False),
        ("100.128.0.1", False, False),
        ("169.254.1.1", True, False),
        ("198.18.0.1", False, False),
        ("203.0.113.9", False, False),
        ("240.0.0.1", False, True),
        ("255.1.2.3", False, True),
        ("fd12::1", True, False),
        ("fe80::1", True, False),
        ("2001:db8::1", False, False),
        ("64:ff9b::1", False, False),
        ("5f00::1", False, False),
        ("6000::1", False, True),
        ("fbff::1", False, True),
    ],
)
def test_addresses_that_are_private_and_that_nobody_has(text, private, reserved):
    address = networks.packed_address(text)
    assert networks.is_private(address) == private
    assert networks.is_reserved(address) == reserved
