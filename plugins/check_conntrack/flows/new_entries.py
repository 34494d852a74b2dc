"""Count the new entries in a stream of ctnetlink events, and see how they begin.

A NEW event is a message IPCTNL_MSG_CT_NEW with NLM_F_CREATE; without that flag it is an update
(net/netfilter/nf_conntrack_netlink.c, ctnetlink_conntrack_event()). Every event is counted. Of the
first SAMPLE new entries the timeout is read, and whether an update says that a packet came back.
"""

from __future__ import annotations

import struct

from ..kernel.ctnetlink import (
    CTA_ID,
    CTA_STATUS,
    CTA_TIMEOUT,
    IPCTNL_MSG_CT_NEW,
    IPS_SEEN_REPLY,
    NFGENMSG,
    NFNL_SUBSYS_CTNETLINK,
)
from ..kernel.namedtuple import NamedTuple
from ..kernel.netlink import NLMSGHDR, MalformedError, attributes

SAMPLE = 1024
MOST_UPDATES = 20_000  # that are read, 4 microseconds each
TIME_TO_ANSWER = 4  # ticks; what is younger may still be answered
NLM_F_CREATE = 0x400
_NEW = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW
_SMALLEST = NLMSGHDR.size + NFGENMSG.size
_HEAD = struct.Struct("=IHH")
_NUMBER = struct.Struct(">I")
_WANTED = (CTA_ID, CTA_STATUS, CTA_TIMEOUT)


class _Beginning(NamedTuple):
    """The beginning of a new entry: the tick of its event, and its timeout in seconds, if any."""

    tick: int
    timeout: int | None


class NewEntries:
    """The new entries of a stream of events.

    number: how many there were. events: how many events there were in all.
    """

    def __init__(self) -> None:
        self.number = 0
        self.events = 0
        self._tick = 0
        self._updates = 0
        self._sample: dict[int, _Beginning] = {}
        self._answered: set[int] = set()

    def count(self, data: bytes) -> None:
        """Count the events in whole messages; raises MalformedError."""
        start, end = 0, len(data)
        head = _HEAD.unpack_from
        while start < end:
            if end - start < _SMALLEST:
                raise MalformedError(f"truncated event: {end - start} of {_SMALLEST} bytes")
            length, kind, flags = head(data, start)
            if not _SMALLEST <= length <= end - start:
                raise MalformedError(f"truncated event: {end - start} of {length} bytes")
            self.events += 1
            if kind == _NEW:
                if flags & NLM_F_CREATE:
                    self.number += 1
                    if len(self._sample) < SAMPLE:
                        self._begin(data, start, length)
                elif self._updates < MOST_UPDATES:
                    self._updates += 1
                    self._update(data, start, length)
            start += length + 3 & ~3

    def tick(self) -> None:
        """Say that a moment has passed, the same each time."""
        self._tick += 1

    def _begin(self, data: bytes, start: int, length: int) -> None:
        found = _numbers(data, start, length)
        if CTA_ID in found:
            self._sample[found[CTA_ID]] = _Beginning(self._tick, found.get(CTA_TIMEOUT))
            self._see_reply(found)

    def _update(self, data: bytes, start: int, length: int) -> None:
        self._see_reply(_numbers(data, start, length))

    def _see_reply(self, found: dict[int, int]) -> None:
        if found.get(CTA_STATUS, 0) & IPS_SEEN_REPLY and found.get(CTA_ID) in self._sample:
            self._answered.add(found[CTA_ID])

    def answered(self) -> float:
        """Return the share of the new entries that were answered; 0 if there are none."""
        old = [key for key, one in self._sample.items() if one.tick + TIME_TO_ANSWER <= self._tick]
        counted = old or list(self._sample)
        return sum(key in self._answered for key in counted) / len(counted) if counted else 0.0

    def first_timeout(self, longest: float) -> float | None:
        """Return the mean timeout in seconds of unanswered entries, each at most `longest`.

        If all are answered, that of all; None if there is none.
        """
        every = {key: one.timeout for key, one in self._sample.items() if one.timeout is not None}
        unanswered = [timeout for key, timeout in every.items() if key not in self._answered]
        timeouts = unanswered or list(every.values())
        return sum(min(each, longest) for each in timeouts) / len(timeouts) if timeouts else None


def _numbers(data: bytes, start: int, length: int) -> dict[int, int]:
    """Return the wanted attributes of a message, as far as they hold a number of 32 bits."""
    return {
        kind: _NUMBER.unpack_from(data, first)[0]
        for kind, first, last in attributes(data, start + _SMALLEST, start + length)
        if kind in _WANTED and last - first == _NUMBER.size
    }
