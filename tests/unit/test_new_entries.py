"""A stream of ctnetlink events: how many entries are new, how they begin, and broken streams."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.flows import new_entries
from check_conntrack.flows.new_entries import NewEntries
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel.netlink import MalformedError

CREATED = 0x600  # NLM_F_CREATE and NLM_F_EXCL


def event(number, *, status=0, timeout=30, flags=CREATED, kind=ct.IPCTNL_MSG_CT_NEW):
    parts = [
        ct.attribute(ct.CTA_ID, struct.pack(">I", number)),
        ct.attribute(ct.CTA_STATUS, struct.pack(">I", status)),
    ]
    if timeout is not None:
        parts.append(ct.attribute(ct.CTA_TIMEOUT, struct.pack(">I", timeout)))
    return ct.message(kind, flags, 0, 2, b"".join(parts))


def reply(number):
    return event(number, status=ct.IPS_SEEN_REPLY, flags=0, timeout=120)


def counted(*batches):
    entries = NewEntries()
    for batch in batches:
        entries.count(batch)
        entries.tick()
    return entries


def test_new_entries_are_counted_and_updates_and_ends_are_not():
    stream = event(1) + event(2) + reply(1) + event(3, kind=2, flags=0) + event(4)
    found = counted(stream)
    assert (found.number, found.events) == (3, 5)


def test_first_timeout_is_the_mean_of_what_nobody_answered():
    found = counted(event(1, timeout=30) + event(2, timeout=120) + event(3, timeout=10) + reply(3))
    assert found.first_timeout(600) == 75
    assert found.first_timeout(60) == 45


def test_first_timeout_of_answered_entries_is_told_where_there_are_no_others():
    assert counted(event(1, timeout=30) + reply(1)).first_timeout(600) == 30
    assert counted(event(1, timeout=None)).first_timeout(600) is None
    assert counted().first_timeout(600) is None


def test_answered_share_is_of_entries_that_had_time_for_it():
    old = [event(number) for number in range(10)]
    answers = b"".join(reply(number) for number in range(8))
    young = b"".join(event(100 + number) for number in range(50))
    found = counted(b"".join(old), answers, b"", b"", young)
    assert found.answered() == 0.8
    # While none had time, all count.
    assert counted(event(1) + event(2) + reply(2)).answered() == 0.5
    assert counted().answered() == 0


def test_entry_that_begins_with_an_answer_is_answered():
    assert counted(event(1, status=ct.IPS_SEEN_REPLY)).answered() == 1


def test_sample_and_updates_are_bounded(monkeypatch):
    monkeypatch.setattr(new_entries, "SAMPLE", 10)
    monkeypatch.setattr(new_entries, "MOST_UPDATES", 5)
    found = counted(b"".join(event(number) for number in range(100)))
    found.count(b"".join(reply(number) for number in range(10)))
    assert (found.number, found.events) == (100, 110)
    assert found.answered() == 0.5


@pytest.mark.parametrize("cut", [1, 15, 19, 20, 27, 30])
def test_event_that_is_cut_short_is_malformed(cut):
    whole = event(1)
    with pytest.raises(MalformedError):
        counted(whole + whole[:cut])


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("=IHHII", 16, 256, CREATED, 0, 0) + bytes(4),
        struct.pack("=IHHII", 0xFFFFFFFF, 256, CREATED, 0, 0) + bytes(4),
        ct.message(ct.IPCTNL_MSG_CT_NEW, CREATED, 0, 2, struct.pack("=HH", 0, 12)),
        ct.message(ct.IPCTNL_MSG_CT_NEW, CREATED, 0, 2, struct.pack("=HH", 99, 12)),
    ],
    ids=["no family", "too long", "attribute without a length", "attribute too long"],
)
def test_event_with_wrong_lengths_is_malformed(data):
    with pytest.raises(MalformedError):
        counted(data)


@given(st.lists(st.one_of(st.binary(max_size=60), st.builds(event, st.integers(0, 9))), max_size=8))
def test_any_bytes_are_counted_or_malformed(pieces):
    entries = NewEntries()
    with contextlib.suppress(MalformedError):
        entries.count(b"".join(pieces))
    assert 0 <= entries.number <= entries.events
    assert 0 <= entries.answered() <= 1
    timeout = entries.first_timeout(600)
    assert timeout is None or 0 <= timeout <= 600
