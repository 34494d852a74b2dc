"""Count flows that got no answer, or were left half open: who sends them, and where to.

An entry counts here when no reply was seen, or when TCP is in SYN_SENT or SYN_RECV. Lists are kept
by protocol and state. They serve a diagnosis, which a sample serves as well: each process stops
after MOST_FLOWS entries, so that a flood of a million costs as much as one of 32,768 (0.6 us an
entry) and the lists of two processes never hold more keys than HeavyHitters keeps exactly.
"""

from __future__ import annotations

import collections
import struct

from check_conntrack.flows.columns import masked, slices, weave
from check_conntrack.flows.heavy_hitters import HeavyHitters
from check_conntrack.flows.match import prefix_mask
from check_conntrack.kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence
    from typing import Any

    from check_conntrack.flows.columns import Column

NO_STATE = 0xFF
MOST_FLOWS = 1 << 15
# Protocol, state, and zone of the original direction; an address follows, of a target its port
# first.
HEAD = struct.Struct(">BBH")
TARGET_HEAD = struct.Struct(">BBHH")
# Networks in which sources are gathered unless the user names others.
NETWORK_PREFIXES = (24, 64)
# Networks that may hold what one sender tries to reach, the smallest first.
_SPANS = {4: (24, 16, 8), 16: (64, 48, 32)}
_SPANNED = 0.8  # of the entries lie in a network that is named


class Endpoint(NamedTuple):
    """An address or network of a list: packed, its prefix length, zone, port and entries."""

    address: bytes
    bits: int
    zone: int
    port: int
    entries: int


class UnansweredGroup(NamedTuple):
    """Unanswered entries of one protocol and state.

    Attributes:
        protocol, state: as numbers; state is None where the protocol has none
        entries: how many there are
        source, network, target, destination: the largest of each, scaled to `entries`; a target
            is a destination with its port; None for none
        destination_network: the smallest network that holds nearly all destinations; None for none
        sources, targets, ports: how many different ones were counted
        spread: different sources of 100 entries; 100 where each has its own
    """

    protocol: int
    state: int | None
    entries: int
    source: Endpoint | None
    network: Endpoint | None
    target: Endpoint | None
    destination: Endpoint | None
    destination_network: Endpoint | None
    sources: int
    targets: int
    ports: int
    spread: float


class UnansweredFlows:
    """The lists of one tally; a list's keys are HEAD or TARGET_HEAD and a packed address."""

    __slots__ = ("bits", "masks", "networks", "sources", "targets")

    def __init__(self, v4: int = 32, v6: int = 128) -> None:
        """Gather sources by these prefixes; NETWORK_PREFIXES stand in for whole addresses."""
        whole = NETWORK_PREFIXES
        self.bits = v4 if v4 < 32 else whole[0], v6 if v6 < 128 else whole[1]
        self.masks = prefix_mask(self.bits[0], 4), prefix_mask(self.bits[1], 16)
        self.sources = HeavyHitters()
        self.networks = HeavyHitters()
        self.targets = HeavyHitters()

    @property
    def full(self) -> bool:
        """Return whether enough was counted."""
        return self.sources.total >= MOST_FLOWS

    def add(
        self,
        protocol: int,
        state: int | None,
        zone: int,
        source: bytes,
        destination: bytes,
        port: int,
    ) -> None:
        """Count one entry, unless enough were counted."""
        if self.full:
            return
        kind = NO_STATE if state is None else state
        head = HEAD.pack(protocol, kind, zone)
        mask = self.masks[len(source) != 4]
        network = bytes(byte & bits for byte, bits in zip(source, mask))
        self.sources.add(head + source)
        self.networks.add(head + network)
        self.targets.add(TARGET_HEAD.pack(protocol, kind, zone, port) + destination)

    def feed(
        self,
        head: Sequence[Column],
        source: Sequence[Column],
        destination: Sequence[Column],
        port: Sequence[Column],
        number: int,
    ) -> None:
        """Count so many entries whose values stand in columns; `head` are the four of HEAD."""
        mask = self.masks[len(source) != 4]
        network = [
            column if bits == 0xFF or isinstance(column, int) else column.translate(masked(bits))
            for column, bits in zip(source, mask)
            if bits
        ]
        network += [0] * (len(source) - len(network))
        for heavy, rest in (
            (self.sources, source),
            (self.networks, network),
            (self.targets, [*port, *destination]),
        ):
            width = len(head) + len(rest)
            heavy.feed(slices(weave([*head, *rest], number), width), number)

    def parts(self) -> tuple[object, ...]:
        """Return all that was counted, as values for another process; `join` takes them."""
        return self.sources.parts(), self.networks.parts(), self.targets.parts()

    def join(self, sources: Any, networks: Any, targets: Any) -> None:
        """Add what another counted."""
        self.sources.join(*sources)
        self.networks.join(*networks)
        self.targets.join(*targets)

    def groups(self, totals: Mapping[tuple[int, int | None], int]) -> list[UnansweredGroup]:
        """Return what was counted by protocol and state, the most first.

        totals: of the groups that are wanted, how many entries each has.
        """
        wanted = {
            bytes((protocol, NO_STATE if state is None else state)): number
            for (protocol, state), number in totals.items()
            if state is None or state <= NO_STATE
        }
        if not wanted:
            return []
        lists = [_by_kind(heavy, wanted) for heavy in (self.sources, self.networks, self.targets)]
        found = [
            self._group(kind, number, *(one.get(kind, {}) for one in lists))
            for kind, number in wanted.items()
        ]
        return sorted(found, key=lambda group: (-group.entries, group.protocol, str(group.state)))

    def _group(
        self,
        kind: bytes,
        number: int,
        sources: dict[bytes, int],
        networks: dict[bytes, int],
        targets: dict[bytes, int],
    ) -> UnansweredGroup:
        protocol, state = kind
        destinations: collections.Counter[bytes] = collections.Counter()
        for key, count in targets.items():
            destinations[key[: HEAD.size] + key[TARGET_HEAD.size :]] += count
        scale = number / (sum(networks.values()) or 1)

        def scaled(one: Endpoint | None) -> Endpoint | None:
            return one and one._replace(entries=round(one.entries * scale))

        return UnansweredGroup(
            protocol,
            None if state == NO_STATE else state,
            number,
            scaled(_largest(sources, HEAD.size)),
            scaled(_largest(networks, HEAD.size, self.bits)),
            scaled(_largest(targets, TARGET_HEAD.size)),
            scaled(_largest(destinations, HEAD.size)),
            scaled(_spanned(destinations)),
            len(sources),
            len(targets),
            len({key[HEAD.size : TARGET_HEAD.size] for key in targets}),
            100 * len(sources) / (sum(sources.values()) or 1),
        )


def _by_kind(heavy: HeavyHitters, wanted: Container[bytes]) -> dict[bytes, dict[bytes, int]]:
    """Return the counts by the first two bytes of their keys, protocol and state."""
    kinds: dict[bytes, dict[bytes, int]] = {}
    for key, count in heavy.counts.items():
        kind = key[:2]
        if kind in wanted:
            kinds.setdefault(kind, {})[key] = count
    return kinds


def _largest(
    counts: dict[bytes, int], head: int, bits: tuple[int, int] | None = None
) -> Endpoint | None:
    if not counts:
        return None
    key = max(counts, key=lambda each: (counts[each], each))
    address = key[head:]
    zone = int.from_bytes(key[2:4], "big")
    port = int.from_bytes(key[4:6], "big") if head == TARGET_HEAD.size else 0
    length = bits[len(address) != 4] if bits else 8 * len(address)
    return Endpoint(address, length, zone, port, counts[key])


def _spanned(destinations: dict[bytes, int]) -> Endpoint | None:
    """Return the smallest network that holds nearly all destinations; None for none."""
    total = sum(destinations.values())
    if len(destinations) < 2:
        return None
    for level in range(len(_SPANS[4])):
        counts: collections.Counter[bytes] = collections.Counter()
        for key, count in destinations.items():
            size = len(key) - HEAD.size
            kept = HEAD.size + _SPANS[size][level] // 8
            counts[key[:kept].ljust(len(key), b"\0")] += count
        network, count = counts.most_common(1)[0]
        if count >= _SPANNED * total:
            bits = _SPANS[len(network) - HEAD.size][level]
            zone = int.from_bytes(network[2:4], "big")
            return Endpoint(network[HEAD.size :], bits, zone, 0, count)
    return None
