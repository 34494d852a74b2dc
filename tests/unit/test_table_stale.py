"""Stale translations: what is one, and what is none, by the evidence there is."""

from __future__ import annotations

import pytest

from check_conntrack.advice import diagnosis
from check_conntrack.flows.entry import address_text
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel import destinations
from check_conntrack.kernel.destinations import Destination
from check_conntrack.table import stale
from check_conntrack.table.sources import TableReading
from support import flows_dump as dump
from support import profiles
from support.translated import ANSWERED, CONFIRMED, NEW, OLD, SERVICE, flow, slowly

TIMEOUTS = {"udp_timeout": 30, "tcp_timeout_syn_sent": 120}


@pytest.fixture
def kernel(monkeypatch):
    """Return what the kernel knows of targets, by their packed address."""
    known = {}

    def look_up(addresses):
        return {one: known[one] for one in addresses if one in known}

    monkeypatch.setattr(destinations, "look_up", look_up)

    def tell(address, code, device="cni0"):
        known[address_text(address)] = Destination(code, device)

    return tell


def found(messages, *, here=True, timeouts=TIMEOUTS, count=None):
    table = TableReading("ctnetlink", slowly(messages), count, count is not None)
    return [
        (one.destination.name, one.target.address, one.entries, one.code, one.elsewhere)
        for one in stale.stale_flows(table, lambda: timeouts, here=here)
    ]


KEPT_ALIVE = [flow(n) for n in range(20)]
NEW_FLOWS = [flow(100 + n, NEW, status=ANSWERED, timeout=5) for n in range(15)]


@pytest.mark.parametrize(
    "code", [destinations.FAILED, destinations.INCOMPLETE, destinations.NO_ROUTE]
)
def test_flows_to_a_target_that_is_gone_are_stale(kernel, code):
    kernel(OLD, code)
    assert found(KEPT_ALIVE) == [("10.96.0.10 udp/53", "10.244.1.9", 20, code, "")]


def test_one_way_flows_to_a_target_that_is_there_are_not_stale(kernel):
    kernel(OLD, destinations.THERE)
    assert found(KEPT_ALIVE) == []


def test_flows_without_evidence_are_not_stale(kernel):
    assert found(KEPT_ALIVE) == []
    kernel(OLD, destinations.UNKNOWN)
    assert found(KEPT_ALIVE) == []


def test_routes_of_this_host_say_nothing_of_another_table(kernel):
    kernel(OLD, destinations.FAILED)
    assert found(KEPT_ALIVE, here=False) == []


def test_flows_whose_last_packet_is_long_ago_are_not_stale(kernel):
    kernel(OLD, destinations.FAILED)
    assert found([flow(n, timeout=14) for n in range(20)]) == []


def test_answered_flows_are_not_stale(kernel):
    kernel(OLD, destinations.FAILED)
    assert found([flow(n, status=ANSWERED) for n in range(20)]) == []


LASTING = [flow(n, status=ANSWERED | ct.IPS_ASSURED, timeout=115) for n in range(12)]
STREAMS = {**TIMEOUTS, "udp_timeout_stream": 120}


def test_flows_that_were_answered_before_are_stale_where_their_target_is_gone(kernel):
    kernel(OLD, destinations.FAILED)
    expected = [("10.96.0.10 udp/53", "10.244.1.9", 12, "failed", "")]
    assert found(LASTING, timeouts=STREAMS) == expected
    assert found(LASTING, timeouts=STREAMS, here=False) == []
    assert found(LASTING + KEPT_ALIVE, timeouts=STREAMS) == [
        ("10.96.0.10 udp/53", "10.244.1.9", 20, "failed", ""),
        *expected,
    ]


def test_flows_that_were_answered_before_need_a_packet_within_seconds(kernel):
    kernel(OLD, destinations.FAILED)
    quiet = [flow(n, status=ANSWERED | ct.IPS_ASSURED, timeout=105) for n in range(12)]
    assert found(quiet, timeouts=STREAMS) == []


@pytest.mark.parametrize("known", [("there", True), ("unknown", True), ("failed", False)])
def test_flows_that_were_answered_before_need_certain_evidence(monkeypatch, known):
    code, certain = known
    told = {address_text(OLD): Destination(code, "cni0", certain)}
    monkeypatch.setattr(destinations, "look_up", lambda addresses: told)
    assert found(LASTING, timeouts=STREAMS) == []
    assert found(LASTING + NEW_FLOWS, timeouts=STREAMS) == []


def test_flows_that_were_answered_before_are_told_as_such_and_deleted_once():
    before = profiles.stale(answered=True, seconds=10, entries=12)
    table = profiles.profile(usage=1.0, stale=(profiles.stale(), before))
    (cause,) = diagnosis.diagnose(table)
    assert (
        "12 flows to 10.96.0.10 udp/53 had a packet in the last 10s, were answered before, and "
        in (cause.sentence(table))
    )
    deleting = [
        step for step in cause.steps(table) if any("conntrack -D" in one for one in step.commands)
    ]
    assert len(deleting) == 1
    assert "this frees 32 entries now" in deleting[0].text


def test_half_open_tcp_to_a_target_that_is_gone_is_stale(kernel):
    kernel(OLD, destinations.NO_ROUTE)
    messages = [flow(n, protocol=6, state=1, timeout=100) for n in range(3)]
    messages += [flow(9, protocol=6, state=1, timeout=59)]
    messages += [flow(n, protocol=6, state=3, status=ANSWERED) for n in range(10, 20)]
    assert found(messages) == [("10.96.0.10 tcp/53", "10.244.1.9", 3, "no route", "")]


def test_flows_whose_destination_is_translated_elsewhere_by_newer_flows_are_stale(kernel):
    expected = [("10.96.0.10 udp/53", "10.244.1.9", 20, "unknown", "10.244.1.10")]
    assert found(KEPT_ALIVE + NEW_FLOWS) == expected
    assert found(KEPT_ALIVE + NEW_FLOWS, here=False) == expected


def test_target_that_is_there_may_have_a_rule_of_its_own(kernel):
    kernel(OLD, destinations.THERE)
    assert found(KEPT_ALIVE + NEW_FLOWS) == []


def untranslated(number, **named):
    return flow(number, SERVICE, target_port=53, **named)


def test_flows_that_began_before_there_was_a_rule_are_stale(kernel):
    kept = [untranslated(n) for n in range(20)]
    assert found(kept + NEW_FLOWS, here=False) == [
        ("10.96.0.10 udp/53", "10.96.0.10", 20, "unknown", "10.244.1.10")
    ]
    # Nothing tells that there is a rule; and new ones are not translated either.
    assert found(kept) == []
    assert found(kept + NEW_FLOWS + [untranslated(90, timeout=3) for _ in range(2)]) == []


def test_missing_route_to_a_destination_is_no_stale_translation(kernel):
    kernel(SERVICE, destinations.NO_ROUTE)
    assert found([untranslated(n) for n in range(20)]) == []
    assert found([*(untranslated(n) for n in range(20)), *NEW_FLOWS[:3]]) == []


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(NEW_FLOWS[:9], id="too few new flows"),
        pytest.param(
            [flow(100 + n, NEW, status=CONFIRMED, timeout=5) for n in range(15)],
            id="new flows are not answered either",
        ),
        pytest.param(
            [flow(100 + n, NEW, status=ANSWERED | 4, timeout=5) for n in range(15)],
            id="the others are old, and end",
        ),
        pytest.param(
            NEW_FLOWS + [flow(200 + n, timeout=5) for n in range(2)],
            id="new flows come here too",
        ),
        pytest.param(
            [*NEW_FLOWS, flow(200, status=ANSWERED, timeout=5)], id="the target answers some"
        ),
        pytest.param(
            [
                flow(100 + n, NEW, status=ANSWERED, timeout=5, destination=bytes((10, 96, 0, 9)))
                for n in range(15)
            ],
            id="new flows are of another destination",
        ),
        pytest.param(
            [flow(100 + n, NEW, status=ANSWERED, timeout=5, zone=3) for n in range(15)],
            id="new flows are of another zone",
        ),
    ],
)
def test_flows_that_may_still_be_sent_there_are_not_stale(kernel, more):
    assert found(KEPT_ALIVE + more) == []


def test_untranslated_flows_ask_for_no_timeouts_and_no_route(monkeypatch):
    monkeypatch.setattr(destinations, "look_up", None)
    table = TableReading("ctnetlink", slowly([dump.entry(protocol=17, status=CONFIRMED)]))
    assert stale.stale_flows(table, lambda: pytest.fail("asked"), here=True) == ()


def test_timeout_that_is_not_known_is_the_longest_that_is_seen(kernel):
    kernel(OLD, destinations.FAILED)
    messages = [*(flow(n, timeout=60) for n in range(5)), *(flow(n, timeout=20) for n in (7, 8))]
    assert found(messages)[0][2] == 7
    assert found(messages, timeouts={})[0][2] == 5


def test_stale_flows_of_a_sample_are_scaled_to_the_table(kernel):
    kernel(OLD, destinations.FAILED)
    assert found(KEPT_ALIVE, count=2000)[0][2] == 2000


def test_number_of_look_ups_is_bounded(kernel, monkeypatch):
    monkeypatch.setattr(stale, "MOST_LOOKED_UP", 2)
    for n in range(4):
        kernel(bytes((10, 244, 9, n)), destinations.FAILED)
    messages = [flow(10 * n + m, bytes((10, 244, 9, n))) for n in range(4) for m in range(n + 1)]
    assert [one[1:3] for one in found(messages)] == [("10.244.9.3", 4), ("10.244.9.2", 3)]


# --- the check


def batches(messages, count):
    return [b"".join(messages), dump.done()], count


def test_stale_translations_are_a_label_and_a_cause(kernel, reader, sysctls, inspect, monkeypatch):
    monkeypatch.setattr(
        destinations, "look_up", lambda addresses: {OLD_TEXT: Destination("failed", "cni0")}
    )
    monkeypatch.setattr("check_conntrack.kernel.timeouts.read_file", read_timeout)
    sysctls.holds(20, 10000)
    reader.hands_out("table", b"".join(KEPT_ALIVE), dump.done())
    run = inspect()
    assert run.state == "WARNING"
    assert run.data["stale"].value == 20
    assert "stale translations: 20 flows to 10.96.0.10 udp/53 still go to 10.244.1.9" in run.text
    assert "stale 20" not in run.text
    assert (
        "  conntrack -D -p udp --orig-dst 10.96.0.10 --dport 53 --dst-nat 10.244.1.9 > /dev/null"
        in run.lines
    )


OLD_TEXT = "10.244.1.9"


def read_timeout(path):
    from check_conntrack.kernel.source import FileReading

    return FileReading(path, b"30\n")


def test_stale_translations_are_no_reason_for_a_full_table():
    table = profiles.profile(stale=(profiles.stale(),), time_wait=80.0)
    names = [cause.name for cause in diagnosis.diagnose(table)]
    assert names == ["time_wait", "stale"]
    table = profiles.profile(stale=(profiles.stale(),))
    assert [cause.name for cause in diagnosis.diagnose(table)] == ["stale", "small"]
    assert [cause.room for cause in diagnosis.diagnose(table) if cause.fills] == [True]


def test_sentence_has_the_evidence_of_each_translation():
    others = [profiles.stale(f"10.96.0.{n}", code="no route") for n in range(3)]
    first = profiles.stale(elsewhere="10.244.1.10")
    (cause,) = diagnosis.diagnose(profiles.profile(usage=1.0, stale=(first, *others)))
    text = cause.sentence(profiles.profile(stale=(first, *others)))
    assert (
        "20 flows to 10.96.0.10 udp/53 had a packet in the last 15s and no reply, and still go to "
        "10.244.1.9 udp/5353: no host answers for it on cni0 (neighbour FAILED), and newer flows "
        "go to 10.244.1.10, and are answered; "
    ) in text
    assert "there is no route to it; " in text
    assert "; and 20 flows in 1 other way." in text


def test_flows_that_are_not_translated_are_told_and_freed():
    one = profiles.stale(code="unknown", elsewhere="10.244.1.10")
    one = one._replace(target=one.destination)
    table = profiles.profile(usage=1.0, stale=(one,))
    (cause,) = diagnosis.diagnose(table)
    assert cause.headline(table) == (
        "stale translations: 20 flows to 10.96.0.10 udp/53 are not translated, new ones to "
        "10.244.1.10"
    )
    assert "and are not translated: newer flows go to 10.244.1.10, and are" in cause.sentence(table)
    (command,) = cause.steps(table)[0].commands
    assert command == (
        "conntrack -D -p udp --orig-dst 10.96.0.10 --dport 53 --reply-src 10.96.0.10 > /dev/null"
    )


def test_stale_translation_names_the_owners_of_its_addresses():
    one = profiles.stale(elsewhere="10.244.1.10", code="unknown")
    one = one._replace(
        target=one.target._replace(owner="pod shop/new"), elsewhere_owner="pod shop/dns"
    )
    table = profiles.profile(usage=1.0, stale=(one,))
    (cause,) = diagnosis.diagnose(table)
    assert cause.headline(table) == (
        "stale translations: 20 flows to 10.96.0.10 udp/53 still go to 10.244.1.9 (pod shop/new), "
        "new ones to 10.244.1.10 (pod shop/dns)"
    )
    said = cause.sentence(table)
    assert "still go to 10.244.1.9 udp/5353 (pod shop/new): " in said
    assert "newer flows go to 10.244.1.10 (pod shop/dns), and are answered" in said
    step = cause.steps(table)[0]
    assert "pod" not in step.commands[0]


def test_commands_choose_protocol_state_and_zone():
    table = profiles.profile(stale=(profiles.stale(protocol="tcp", zone=5),), zones=True)
    step = diagnosis.diagnose(table)[0].steps(table)[0]
    (command,) = step.commands
    assert command == (
        "conntrack -D -p tcp --state SYN_SENT --orig-dst 10.96.0.10 --dport 53 "
        "--dst-nat 10.244.1.9 -w 5 > /dev/null"
    )
