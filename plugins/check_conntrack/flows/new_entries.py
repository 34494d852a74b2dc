"""Count the new entries in a stream of ctnetlink events, and the timeouts that they begin with.

A NEW event is a message IPCTNL_MSG_CT_NEW with NLM_F_CREATE; an update has no such flag
(net/netfilter/nf_conntrack_netlink.c, ctnetlink_conntrack_event()). All events are counted, and the
attributes of the first SAMPLE are read.
"""

from __future__ import annotations

import struct

from ..kernel.ctnetlink import CTA_TIMEOUT, IPCTNL_MSG_CT_NEW, NFGENMSG, NFNL_SUBSYS_CTNETLINK
from ..kernel.netlink import NLMSGHDR, MalformedError, attributes

SAMPLE = 4096
NLM_F_CREATE = 0x400
_NEW = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW
_HEAD = struct.Struct("=IHH")
_TIMEOUT = struct.Struct(">I")


class NewEntries:
    """The new entries of a stream of events.

    number: how many there were.
    """

    def __init__(self) -> None:
        self.number = 0
        self._timeouts: list[int] = []

    def count(self, data: bytes) -> None:
        """Count the events in whole messages; raises MalformedError."""
        start, end = 0, len(data)
        smallest = NLMSGHDR.size + NFGENMSG.size
        head, timeouts = _HEAD.unpack_from, self._timeouts
        while start < end:
            if end - start < smallest:
                raise MalformedError(f"truncated event: {end - start} bytes are left")
            length, kind, flags = head(data, start)
            if not smallest <= length <= end - start:
                raise MalformedError(f"truncated event: {end - start} bytes are left of {length}")
            if kind == _NEW and flags & NLM_F_CREATE:
                self.number += 1
                if len(timeouts) < SAMPLE:
                    self._read_timeout(data, start + smallest, start + length)
            start += length + 3 & ~3

    def _read_timeout(self, data: bytes, start: int, end: int) -> None:
        for kind, first, last in attributes(data, start, end):
            if kind == CTA_TIMEOUT and last - first == _TIMEOUT.size:
                self._timeouts.append(_TIMEOUT.unpack_from(data, first)[0])

    def first_timeout(self, longest: float) -> float | None:
        """Return the mean timeout in seconds, each at most `longest`; None if there is none."""
        if not self._timeouts:
            return None
        return sum(min(timeout, longest) for timeout in self._timeouts) / len(self._timeouts)
