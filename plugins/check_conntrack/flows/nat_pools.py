"""Count what source-NAT port pools hold, and find out how large they are.

A translated source takes a port that is its own for (protocol, translated address, destination,
destination port): these make a pool. Without a range in the rule the kernel gives out 1024 to 65535
to sources from 1024 up, and keeps the source's own port where that is free
(nf_nat_l4proto_unique_tuple() of net/netfilter/nf_nat_core.c). A rule with a range
(`masquerade to :20000-20999`) changes every port outside it into one inside it, so that the lowest
and the highest of the changed ports tell the range.
"""

from __future__ import annotations

import heapq
import struct

from ..kernel.namedtuple import NamedTuple
from .heavy_hitters import HeavyHitters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Ports that a translated source may take without a range in the rule: 1024 to 65535.
PORT_POOL = 64512
FIRST_PORT = 1024
# Protocol, zone, source port of the reply; then its source and its destination.
POOL_HEAD = struct.Struct(">BHH")
# Protocol and zone; then the translated address.
RANGE_HEAD = struct.Struct(">BH")
# So many changed ports are looked at, of so many translated addresses.
MOST_PORTS = 1 << 15
MOST_RANGES = 4096
# A range is inferred from so many changed ports at least, where they leave out a tenth of the
# whole: so many drawn from the whole would not.
ENOUGH_PORTS = 100
NARROW = 0.9


class Pool(NamedTuple):
    """A source-NAT pool.

    Attributes:
        protocol, zone: as numbers
        translated, target: packed addresses
        port: the target's
        entries: ports taken, as counted
        first, last: the ports it may take
        restricted: whether first and last are a range of the rule, and not the kernel's own
    """

    protocol: int
    zone: int
    translated: bytes
    target: bytes
    port: int
    entries: int
    first: int = FIRST_PORT
    last: int = 65535
    restricted: bool = False

    @property
    def size(self) -> int:
        """Return how many ports it may take."""
        return self.last - self.first + 1


class NatPools:
    """The pools of one tally.

    Attributes:
        flows: entries by pool
        ranges: lowest and highest changed port, and how many were changed, by RANGE_HEAD and
            translated address
        ports: changed ports that were looked at
        given: first and last port of all pools, where the user says so
    """

    __slots__ = ("flows", "given", "ports", "ranges")

    def __init__(self) -> None:
        self.flows = HeavyHitters()
        self.ranges: dict[bytes, tuple[int, int, int]] = {}
        self.ports = 0
        self.given: tuple[int, int] | None = None

    @property
    def enough_ports(self) -> bool:
        """Return whether enough changed ports were looked at."""
        return self.ports >= MOST_PORTS

    def add(self, protocol: int, zone: int, port: int, target: bytes, translated: bytes) -> None:
        """Count one entry of a pool."""
        self.flows.add(POOL_HEAD.pack(protocol, zone, port) + target + translated)

    def add_ports(self, head: bytes, low: int, high: int, number: int) -> None:
        """Note changed ports of a translated address: the lowest, the highest, how many."""
        self.ports += number
        known = self.ranges.get(head)
        if known:
            self.ranges[head] = min(low, known[0]), max(high, known[1]), known[2] + number
        elif len(self.ranges) < MOST_RANGES:
            self.ranges[head] = low, high, number

    def feed_ports(self, heads: Sequence[bytes], ports: Sequence[int]) -> None:
        """Note changed ports, each with its head."""
        if not heads:
            return
        if heads.count(heads[0]) == len(heads):
            self.add_ports(heads[0], min(ports), max(ports), len(ports))
            return
        found: dict[bytes, tuple[int, int, int]] = {}
        for head, port in zip(heads, ports):
            low, high, number = found.get(head, (port, port, 0))
            found[head] = (
                min(low, port),
                max(high, port),
                number + 1,
            )
        for head, (low, high, number) in found.items():
            self.add_ports(head, low, high, number)

    def _restricted(self) -> dict[bytes, tuple[int, int]]:
        """Return the ranges that are narrower than the kernel's own."""
        return {
            head: (low, high)
            for head, (low, high, number) in self.ranges.items()
            if number >= ENOUGH_PORTS and high - low + 1 < NARROW * PORT_POOL
        }

    def top(self, number: int) -> list[Pool]:
        """Return the fullest pools, by the share of their ports."""
        restricted = {} if self.given else self._restricted()
        counts: Iterable[tuple[bytes, int]] = self.flows.counts.items()
        if not restricted:
            counts = self.flows.top(number)
        pools = (self._pool(key, count, restricted) for key, count in counts)
        return heapq.nlargest(number, pools, key=lambda pool: (pool.entries / pool.size, pool))

    def _pool(self, key: bytes, count: int, restricted: dict[bytes, tuple[int, int]]) -> Pool:
        protocol, zone, port = POOL_HEAD.unpack_from(key)
        size = (len(key) - POOL_HEAD.size) // 2
        target, translated = key[POOL_HEAD.size : -size], key[-size:]
        pool = Pool(protocol, zone, translated, target, port, count)
        within = self.given or restricted.get(RANGE_HEAD.pack(protocol, zone) + translated)
        if within is None:
            return pool
        return pool._replace(first=within[0], last=within[1], restricted=True)
