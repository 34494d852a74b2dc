"""Count TCP connections that may be leaked by their ends: established ones, and closing ones.

Like the unanswered flows of unanswered.py these serve a diagnosis: counting stops after MOST_FLOWS
entries of each state.
"""

from __future__ import annotations

import collections
import struct

from ..kernel import ctnetlink as ct
from ..kernel.namedtuple import NamedTuple
from .columns import slices, weave
from .unanswered import Endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .columns import Column

MOST_FLOWS = 1 << 12
STATES = (
    ct.TCP_CONNTRACK_ESTABLISHED,
    ct.TCP_CONNTRACK_CLOSE_WAIT,
    ct.TCP_CONNTRACK_FIN_WAIT,
    ct.TCP_CONNTRACK_LAST_ACK,
    ct.TCP_CONNTRACK_CLOSE,
)
# Time left (tally.timeout_bucket), zone of the original direction, and the port of the destination;
# then source and destination, packed.
HEAD = struct.Struct(">HHH")


class Ends(NamedTuple):
    """The ends of some connections.

    Attributes:
        counted: how many connections these are
        source, target: the largest of each; a target has a port. None for none
        destination: the largest destination, whatever the port; None for none
        to_target, to_destination, from_source: connections of these in the same state, whatever
            time they have left
    """

    counted: int = 0
    source: Endpoint | None = None
    target: Endpoint | None = None
    to_target: int = 0
    destination: Endpoint | None = None
    to_destination: int = 0
    from_source: int = 0


class LeakedFlows:
    """The established connections of one tally, and those that are closing.

    Attributes:
        flows: by state, entries by HEAD and addresses
        counted: by state, how many these are
    """

    __slots__ = ("counted", "flows")

    def __init__(self) -> None:
        """Start empty."""
        self.flows: dict[int, collections.Counter[bytes]]
        self.flows = {state: collections.Counter() for state in STATES}
        self.counted = dict.fromkeys(STATES, 0)

    def wanted(self, state: int | None) -> bool:
        """Return whether connections in this state are counted, and not enough of them were."""
        return state in self.counted and self.counted[state] < MOST_FLOWS

    def add(
        self, state: int, bucket: int, zone: int, port: int, source: bytes, destination: bytes
    ) -> None:
        """Count one connection."""
        self.feed_keys(state, [HEAD.pack(bucket, zone, port) + source + destination], 1)

    def feed(self, state: int, columns: Sequence[Column], number: int) -> None:
        """Count so many connections whose keys stand in columns."""
        self.feed_keys(state, slices(weave(columns, number), len(columns)), number)

    def feed_keys(self, state: int, keys: Iterable[bytes], number: int) -> None:
        """Count so many connections by their keys."""
        self.flows[state].update(keys)
        self.counted[state] += number

    def ends(self, state: int, first: int = 0, below: int = 1 << 16) -> Ends:
        """Return the ends of connections whose time left is in these buckets."""
        # By zone, port (0 for all) and address: those that are asked for, and all of them.
        lists = [(_Counts(), _Counts()) for _ in range(3)]
        for key, count in self.flows[state].items():
            bucket, zone, port = HEAD.unpack_from(key)
            middle = (len(key) + HEAD.size) // 2
            source, destination = key[HEAD.size : middle], key[middle:]
            ends = (zone, 0, source), (zone, port, destination), (zone, 0, destination)
            for end, (asked, every) in zip(ends, lists):
                every[end] += count
                if first <= bucket < below:
                    asked[end] += count
        counted = sum(lists[0][0].values())
        if not counted:
            return Ends()
        (source_, from_), (target, to_target), (host, to_host) = (
            _largest(asked, every) for asked, every in lists
        )
        return Ends(counted, source_, target, to_target, host, to_host, from_)


_Counts = collections.Counter["tuple[int, int, bytes]"]


def _largest(asked: _Counts, every: _Counts) -> tuple[Endpoint, int]:
    """Return the largest of those that are asked for, and how many it has of all."""
    end = max(asked, key=lambda one: (asked[one], one))
    zone, port, address = end
    return Endpoint(address, 8 * len(address), zone, port, asked[end]), every[end]
