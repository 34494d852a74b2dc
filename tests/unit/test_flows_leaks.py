"""The ends of connections that may be leaked, in whatever way they are counted."""

from __future__ import annotations

import pytest

from check_conntrack.flows import leaks
from check_conntrack.kernel import ctnetlink as ct
from support import flows_dump as dump
from support.translated import columns, slowly

ESTABLISHED, CLOSE_WAIT, *_ = leaks.STATES
HOST = bytes((10, 0, 0, 7))


def connection(number, state=ESTABLISHED, source=HOST, timeout=400000, zone=None):
    return dump.entry(source, sport=2000 + number, state=state, timeout=timeout, zone=zone)


MIXED = [
    *(connection(n, CLOSE_WAIT) for n in range(30)),
    *(connection(n, CLOSE_WAIT, dump.V4[0], zone=5) for n in range(9)),
    *(connection(n) for n in range(20)),
    *(connection(n, source=dump.V4[0], timeout=431999) for n in range(40)),
    *(connection(n, timeout=200) for n in range(5)),
    *(connection(n, state=7) for n in range(50)),
    *(dump.entry(*dump.V6, state=CLOSE_WAIT, sport=n) for n in range(4)),
]


@pytest.mark.parametrize("count", [slowly, columns])
def test_ends_are_those_of_one_state_and_of_the_time_left(count):
    one = count(MIXED)
    ends = one.leaks.ends(CLOSE_WAIT)
    assert ends.counted == 43
    assert (ends.source.address, ends.source.entries, ends.source.zone) == (HOST, 30, 0)
    assert (ends.target.address, ends.target.port, ends.target.entries) == (dump.V4[1], 443, 30)
    idle = one.idle_ends(9000, 432000)
    assert (idle.counted, idle.source.address, idle.target.entries) == (20, HOST, 20)
    assert (idle.destination.address, idle.destination.port) == (dump.V4[1], 0)
    assert (idle.to_destination, idle.from_source) == (65, 25)
    assert idle.to_target == 65  # active ones, and those that wait for an acknowledgement
    assert one.established_idle(9000, 432000) == idle.counted


def test_table_without_such_connections_has_no_ends():
    assert slowly([connection(1, state=7)]).leaks.ends(CLOSE_WAIT) == leaks.Ends()


@pytest.mark.parametrize("count", [slowly, columns])
def test_connections_are_sampled_above_their_limit(monkeypatch, count):
    monkeypatch.setattr(leaks, "MOST_FLOWS", 50)
    one = count([connection(n, CLOSE_WAIT) for n in range(400)] + [connection(1)] * 9)
    assert 50 <= one.leaks.counted[CLOSE_WAIT] <= 400
    assert one.leaks.counted[ESTABLISHED] == 9
    assert not one.leaks.wanted(CLOSE_WAIT)
    assert one.leaks.ends(CLOSE_WAIT).source.address == HOST
    assert ct.TCP_CONNTRACK_TIME_WAIT not in one.leaks.flows
