"""Count TCP connections that may be leaked by their ends: established ones, and CLOSE_WAIT.

Like the unanswered flows of unanswered.py these serve a diagnosis: counting stops after MOST_FLOWS
entries of each state.
"""

from __future__ import annotations

import collections
import struct

from check_conntrack.flows.columns import slices, weave
from check_conntrack.flows.unanswered import Endpoint
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from check_conntrack.flows.columns import Column

MOST_FLOWS = 1 << 12
STATES = (ct.TCP_CONNTRACK_ESTABLISHED, ct.TCP_CONNTRACK_CLOSE_WAIT)
# Time left (tally.timeout_bucket), zone of the original direction, and the port of the destination;
# then source and destination, packed.
HEAD = struct.Struct(">HHH")


class Ends(NamedTuple):
    """The ends of some connections.

    Attributes:
        counted: how many connections these are
        source, target: the largest of each; a target has a port. None for none
        to_target: connections to that target in the same state, whatever time they have left
    """

    counted: int = 0
    source: Endpoint | None = None
    target: Endpoint | None = None
    to_target: int = 0


class LeakedFlows:
    """The established connections of one tally, and those in CLOSE_WAIT.

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
        sources: collections.Counter[tuple[int, bytes]] = collections.Counter()
        targets: collections.Counter[tuple[int, int, bytes]] = collections.Counter()
        every: collections.Counter[tuple[int, int, bytes]] = collections.Counter()
        for key, count in self.flows[state].items():
            bucket, zone, port = HEAD.unpack_from(key)
            middle = (len(key) + HEAD.size) // 2
            target = zone, port, key[middle:]
            every[target] += count
            if first <= bucket < below:
                sources[zone, key[HEAD.size : middle]] += count
                targets[target] += count
        if not sources:
            return Ends()
        source = max(sources, key=lambda one: (sources[one], one))
        target = max(targets, key=lambda one: (targets[one], one))
        return Ends(
            sum(sources.values()),
            Endpoint(source[1], 8 * len(source[1]), source[0], 0, sources[source]),
            Endpoint(target[2], 8 * len(target[2]), target[0], target[1], targets[target]),
            every[target],
        )
