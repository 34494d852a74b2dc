"""Count flows that got no answer, or were left half open: who sends them, and where to.

An entry counts here when no reply was seen, or when TCP is in SYN_SENT or SYN_RECV. Counts serve a
diagnosis, which a sample serves as well: counting stops after MOST_FLOWS entries. So a flood of
a million costs no more than one of 32,768 (0.2 us an entry), and no list has to be cut back.
"""

from __future__ import annotations

import collections
import struct

from ..kernel.namedtuple import NamedTuple
from ..kernel.networks import is_private, is_reserved, prefix_mask
from .columns import slices, weave

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Callable

    from .columns import Column

NO_STATE = 0xFF
MOST_FLOWS = 1 << 15
# Protocol, state, and zone of the original direction; then the destination's port, and the packed
# source and destination.
HEAD = struct.Struct(">BBH")
_PORT = struct.Struct(">H")
_ADDRESSES = HEAD.size + _PORT.size
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
        private, reserved: percent of the sources that are private addresses, and that nobody has
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
    private: float
    reserved: float


class UnansweredFlows:
    """The unanswered entries of one tally.

    Attributes:
        bits, masks: the prefixes of networks, for IPv4 and IPv6
        flows: entries by protocol, state, zone, port and addresses
        total: entries that were counted
    """

    __slots__ = ("bits", "flows", "masks", "total")

    def __init__(self, v4: int = 32, v6: int = 128) -> None:
        """Gather sources by these prefixes; NETWORK_PREFIXES stand in for whole addresses."""
        whole = NETWORK_PREFIXES
        self.bits = v4 if v4 < 32 else whole[0], v6 if v6 < 128 else whole[1]
        self.masks = prefix_mask(self.bits[0], 4), prefix_mask(self.bits[1], 16)
        self.flows: collections.Counter[bytes] = collections.Counter()
        self.total = 0

    @property
    def full(self) -> bool:
        """Return whether enough was counted."""
        return self.total >= MOST_FLOWS

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
        if not self.full:
            head = HEAD.pack(protocol, NO_STATE if state is None else state, zone)
            self.flows[head + _PORT.pack(port) + source + destination] += 1
            self.total += 1

    def feed(self, columns: Sequence[Column], number: int) -> None:
        """Count so many entries whose keys stand in columns."""
        self.flows.update(slices(weave(columns, number), len(columns)))
        self.total += number

    def groups(self, totals: Mapping[tuple[int, int | None], int]) -> list[UnansweredGroup]:
        """Return what was counted by protocol and state, the most first.

        totals: of the groups that are wanted, how many entries each has.
        """
        kinds: dict[bytes, dict[bytes, int]] = {
            bytes((protocol, NO_STATE if state is None else state)): {}
            for protocol, state in totals
        }
        for key, count in self.flows.items():
            flows = kinds.get(key[:2])
            if flows is not None:
                flows[key] = count
        found = [
            self._group(protocol, state, number, flows)
            for ((protocol, state), number), flows in zip(totals.items(), kinds.values())
        ]
        return sorted(found, key=lambda group: (-group.entries, group.protocol, str(group.state)))

    def _group(
        self, protocol: int, state: int | None, number: int, flows: Mapping[bytes, int]
    ) -> UnansweredGroup:
        sources: collections.Counter[bytes] = collections.Counter()
        targets: collections.Counter[bytes] = collections.Counter()
        destinations: collections.Counter[bytes] = collections.Counter()
        for key, count in flows.items():
            middle = (len(key) + _ADDRESSES) // 2
            head, target = key[: HEAD.size], key[middle:]
            sources[head + key[_ADDRESSES:middle]] += count
            targets[key[:_ADDRESSES] + target] += count
            destinations[head + target] += count
        total = sum(flows.values()) or 1

        def scaled(one: Endpoint | None) -> Endpoint | None:
            return one and one._replace(entries=round(one.entries * number / total))

        return UnansweredGroup(
            protocol,
            state,
            number,
            scaled(_largest(sources)),
            scaled(self.largest_network(sources)),
            scaled(_largest(targets)),
            scaled(_largest(destinations)),
            scaled(_spanned(destinations)),
            len(sources),
            len(targets),
            len({key[HEAD.size : _ADDRESSES] for key in targets}),
            100 * len(sources) / total,
            _share_of(sources, is_private),
            _share_of(sources, is_reserved),
        )

    def largest_network(self, sources: Mapping[bytes, int]) -> Endpoint | None:
        """Return the network with the most entries of sources behind a HEAD; None for none."""
        networks: collections.Counter[bytes] = collections.Counter()
        for key, count in sources.items():
            size = len(key) - HEAD.size
            mask = b"\xff" * HEAD.size + self.masks[size != 4]
            networks[bytes(map(int.__and__, key, mask))] += count
        return _largest(networks, self.bits)


def _share_of(sources: Mapping[bytes, int], wanted: Callable[[bytes], bool]) -> float:
    """Return the percentage of the addresses behind a HEAD that are wanted."""
    found = sum(wanted(key[HEAD.size :]) for key in sources)
    return 100 * found / (len(sources) or 1)


def _largest(counts: Mapping[bytes, int], bits: tuple[int, int] | None = None) -> Endpoint | None:
    """Return the largest of addresses behind a HEAD, or behind a HEAD and a port."""
    if not counts:
        return None
    key = max(counts, key=lambda each: (counts[each], each))
    has_port = len(key) not in (HEAD.size + 4, HEAD.size + 16)
    address = key[_ADDRESSES if has_port else HEAD.size :]
    port = _PORT.unpack_from(key, HEAD.size)[0] if has_port else 0
    length = bits[len(address) != 4] if bits else 8 * len(address)
    return Endpoint(address, length, HEAD.unpack_from(key)[2], port, counts[key])


def _spanned(destinations: Mapping[bytes, int]) -> Endpoint | None:
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
            zone = HEAD.unpack_from(network)[2]
            return Endpoint(network[HEAD.size :], bits, zone, 0, count)
    return None
