"""Flows with a translated destination: the fast paths count what one entry at a time gives."""

from __future__ import annotations

import io

import pytest

from check_conntrack.flows import tally, text, text_writer
from check_conntrack.flows import translations as module
from check_conntrack.flows.netlink import entry_at
from check_conntrack.kernel import ctnetlink as ct
from support import flows_dump as dump
from support.flows_dump import everything
from support.translated import ANSWERED, CONFIRMED, NEW, OLD, SERVICE, V6, columns, flow, slowly

MIXED = [
    *(flow(n) for n in range(20)),
    *(flow(n, timeout=3) for n in range(20, 25)),
    *(flow(n, NEW, status=ANSWERED, timeout=5) for n in range(30, 42)),
    *(flow(n, NEW, status=ANSWERED | ct.IPS_ASSURED, timeout=5) for n in range(50, 54)),
    *(flow(n, zone=7) for n in range(60, 66)),
    *(flow(n, protocol=6, state=1, timeout=110) for n in range(70, 78)),
    *(flow(n, protocol=6, state=3, status=ANSWERED, timeout=9000) for n in range(80, 88)),
    *(flow(n, V6[2], destination=V6[1]) for n in range(90, 99)),
    *(flow(n, SERVICE) for n in range(100, 104)),  # only the port is another
    *(dump.entry(protocol=17, status=CONFIRMED, sport=n) for n in range(9)),  # not translated
    *(flow(n, timeout=None) for n in range(110, 115)),
]


def groups(one):
    return {
        (group.protocol, group.zone, group.target): group[6:]
        for group in one.translations.groups({17: 15, 6: 60})
    }


def test_columns_count_translations_as_single_entries_do():
    assert everything(columns(MIXED)) == everything(slowly(MIXED))
    assert columns(MIXED).translations.counted == slowly(MIXED).translations.counted


def test_text_counts_translations_as_netlink_does():
    lines = [text_writer.line_of(entry_at(message)) for message in MIXED]
    one = tally.Tally()
    text.count(io.BytesIO("\n".join(lines).encode()), one)
    assert one.translations.counts == slowly(MIXED).translations.counts


def test_groups_tell_where_flows_of_one_destination_go():
    # renewed, aged, replied, brief, kept alive
    assert groups(slowly(MIXED)) == {
        (17, 0, OLD): (20, 5, 0, 0, 0),
        (17, 0, NEW): (0, 0, 16, 12, 0),
        (17, 7, OLD): (6, 0, 0, 0, 0),
        (6, 0, OLD): (8, 0, 0, 0, 0),
        (17, 0, V6[2]): (9, 0, 0, 0, 0),
        (17, 0, SERVICE): (4, 0, 0, 0, 0),
        (17, 0, dump.V4[1]): (9, 0, 0, 0, 0),  # not translated
    }


def test_answered_flows_of_other_destinations_make_no_group():
    assert groups(slowly([flow(n, NEW, status=ANSWERED) for n in range(5)])) == {}


@pytest.mark.parametrize("count", [slowly, columns])
def test_answered_flows_that_are_kept_alive_make_a_group(count):
    lasting = ANSWERED | ct.IPS_ASSURED
    messages = [flow(n, status=lasting, timeout=115) for n in range(5)]
    messages += [flow(10 + n, status=lasting, timeout=109) for n in range(3)]
    messages += [flow(20, status=lasting, timeout=150), flow(21, status=ANSWERED, timeout=115)]
    (one,) = count(messages).translations.groups({17: 15, 6: 60}, 120)
    assert (one.target, one.kept_alive) == (OLD, 5)
    assert count(messages).translations.groups({17: 15, 6: 60}) == []


@pytest.mark.parametrize("count", [slowly, columns])
def test_translations_are_sampled_above_their_limit(monkeypatch, count):
    monkeypatch.setattr(module, "MOST", [50, 50, 50, 50])
    messages = [flow(n) for n in range(400)]
    messages += [flow(1000 + n, NEW, status=ANSWERED) for n in range(300)]
    messages += [dump.entry(protocol=17, status=CONFIRMED, sport=n) for n in range(200)]
    messages += [dump.entry(protocol=17, status=ANSWERED, sport=n) for n in range(100)]
    one = count(messages)
    for kind, number in enumerate((400, 300, 200, 100)):
        assert one.translations.full(kind)
        assert 50 <= one.translations.counted[kind] <= number
        weight = one.translation_weight(kind)
        assert one.translations.counted[kind] * weight == pytest.approx(number)


@pytest.mark.parametrize("count", [slowly, columns])
def test_answers_of_a_destination_tell_how_many_came_just_now(count):
    messages = [flow(n, status=ANSWERED, timeout=28) for n in range(4)]
    messages += [flow(10 + n, NEW, status=ANSWERED, timeout=27) for n in range(3)]
    messages += [flow(20 + n, NEW, status=ANSWERED, timeout=20) for n in range(5)]
    messages += [flow(30 + n, status=ANSWERED | ct.IPS_ASSURED, timeout=29) for n in range(6)]
    messages += [flow(40 + n, status=ANSWERED, timeout=90) for n in range(7)]
    messages += [flow(50 + n, protocol=6, state=3, status=ANSWERED, timeout=29) for n in range(8)]
    messages += [flow(60 + n, timeout=29) for n in range(9)]
    plain = [dump.entry(protocol=17, status=ANSWERED, sport=n, timeout=29) for n in range(3)]
    found = count([*messages, *plain]).translations
    assert found.answers(17, 0, SERVICE, 53, 30) == module.Answers(25, 7)
    assert found.answers(17, 0, dump.V4[1], dump_port(plain), 30) == module.Answers(3, 3)
    assert found.answers(17, 7, SERVICE, 53, 30) == module.Answers()


def dump_port(messages):
    return entry_at(messages[0]).original.destination_port


def test_longest_time_left_is_that_of_unanswered_flows_of_a_protocol():
    one = slowly(MIXED).translations
    assert (one.longest(17), one.longest(6), one.longest(132)) == (300, 110, 0)
