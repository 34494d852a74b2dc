"""Count the entries of a table, and read top lists and shares from the counts.

count_rows.py and text_columns.py count many entries at a time, Tally.add counts one. Memory is
bounded: there are few groups (groups.py), and heavy_hitters.py counts all that an attacker may
choose freely.
"""

from __future__ import annotations

import collections
import math
import struct
import sys

from ..kernel import ctnetlink as ct
from ..kernel.namedtuple import NamedTuple
from ..kernel.networks import prefix_mask
from .entry import (
    IPPROTO_TCP,
    Entry,
    has_ports,
    state_name,
)
from .figures import Figures, figures_of
from .groups import (
    DESTINATION_NAT,
    HALF_OPEN,
    KEPT_HIGH,
    KEPT_LOW,
    SEEN_REPLY,
    SOURCE_NAT,
    Group,
)
from .heavy_hitters import HeavyHitters
from .labels import address_label, pool_label, protocol_label, service_label
from .leaks import Ends, LeakedFlows
from .nat_pools import FIRST_PORT, RANGE_HEAD, NatPools
from .translations import (
    ANSWERED,
    REPLIED,
    UNREPLIED,
    Translations,
    is_counted,
)
from .unanswered import (
    HEAD,
    NO_STATE,
    Endpoint,
    UnansweredFlows,
    UnansweredGroup,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Union

    from .match import Match

    # An address as a key: IPv4 as a number of its bytes in host order, IPv6 packed; both packed
    # behind their zone where they have one.
    AddressKey = Union[int, bytes]

# Remaining timeouts are kept to 2**IDLE_SHIFT seconds.
IDLE_SHIFT = 8
LAST_BUCKET = 0xFFFF

_SERVICE = struct.Struct(">BBH")
# Before an address of a zone.
_ZONE = struct.Struct(">H")


class Prefixes(NamedTuple):
    """Bits of an address by which top lists group it."""

    v4: int = 32
    v6: int = 128

    def masks(self) -> tuple[bytes, bytes]:
        """Return both prefixes as packed masks."""
        return prefix_mask(self.v4, 4), prefix_mask(self.v6, 16)


def prefixes(text: str) -> Prefixes:
    """Return the prefixes in a text such as 24/64; raises ValueError."""
    v4, slash, v6 = text.partition("/")
    if not (slash and text.isascii() and v4.isdigit() and v6.isdigit()):
        raise ValueError(f"invalid prefixes {text!r} (write V4/V6, as in 24/64)")
    if int(v4) > 32 or int(v6) > 128:
        raise ValueError(f"invalid prefixes {text!r} (at most 32/128)")
    return Prefixes(int(v4), int(v6))


class Top(NamedTuple):
    """One line of a top list.

    Attributes:
        share: percent of the entries that the filter keeps; of a pool, percent of its ports
    """

    name: str
    entries: int
    share: float


class Line(NamedTuple):
    """One line of the breakdown by protocol and state.

    Attributes:
        state: "" for protocols without states
        share: percent of the entries that the filter keeps
    """

    protocol: str
    state: str
    entries: int
    share: float


class Tally:
    """The counts of one pass over a table.

    Attributes:
        prefixes, masks: how addresses are grouped
        match: which entries are kept; None for all
        read: entries that were read, before the filter
        inbound, outbound: entries kept, by the direction seen from the networks of the filter
        zoned: entries kept that have a zone in the original direction
        original_zones: those of them that have it in that direction alone
        zones: entries kept by zone, whichever direction it is of; without zone 0
        expected_known: whether the source shows expected entries
        bad_lines, first_bad_line: of text
        groups: entries by family, protocol, state and flags (groups.Group)
        established_timeouts: entries of established TCP, by seconds left >> IDLE_SHIFT
        sources, destinations, services: the most frequent
        unanswered, pools, translations, leaks: see there
    """

    def __init__(self, prefixes: Prefixes | None = None, match: Match | None = None) -> None:
        """Group addresses by `prefixes`, keep what `match` accepts."""
        self.prefixes = prefixes or Prefixes()
        self.masks = self.prefixes.masks()
        self.match = match if match is not None and match.narrows() else None
        self.read = 0
        self.inbound = 0
        self.outbound = 0
        self.zoned = 0
        self.original_zones = 0
        self.zones: collections.Counter[int] = collections.Counter()
        self.expected_known = True
        self.bad_lines = 0
        self.first_bad_line = ""
        self.groups: collections.Counter[tuple[int, int, int | None, int]] = collections.Counter()
        self.established_timeouts: collections.Counter[int] = collections.Counter()
        self.sources = HeavyHitters()
        self.destinations = HeavyHitters()
        self.services = HeavyHitters()
        self.unanswered = UnansweredFlows(*self.prefixes)
        self.pools = NatPools()
        self.translations = Translations()
        self.leaks = LeakedFlows()

    def add(self, entry: Entry) -> None:
        """Count one entry, if the filter keeps it."""
        self.read += 1
        if self.match is not None:
            if not self.match.accepts(entry):
                return
            if self.match.networks:
                inbound, outbound = self.match.directions(entry)
                self.inbound += inbound
                self.outbound += outbound
        original, reply, protocol, state = entry.original, entry.reply, entry.protocol, entry.state
        translated = entry.source_translated
        flags = entry.status & KEPT_LOW | entry.status >> 8 & KEPT_HIGH
        flags |= SOURCE_NAT * translated | DESTINATION_NAT * entry.destination_translated
        self.groups[entry.family, protocol, state, flags] += 1
        self.translations.add(entry)
        zone = entry.zone if original.zone is None else original.zone
        self.zoned += zone > 0
        self.original_zones += bool(original.zone)
        self.count_zones((entry.any_zone,))
        self.sources.add(self.address_key(original.source, zone))
        self.destinations.add(self.address_key(original.destination, zone))
        half_open = protocol == IPPROTO_TCP and state in HALF_OPEN
        if half_open or not flags & SEEN_REPLY:
            self.unanswered.add(
                protocol,
                state,
                zone,
                original.source,
                original.destination,
                _port(protocol, original.destination_port),
            )
        if (
            protocol == IPPROTO_TCP
            and state == ct.TCP_CONNTRACK_ESTABLISHED
            and entry.timeout is not None
        ):
            self.established_timeouts[timeout_bucket(entry.timeout)] += 1
        if protocol == IPPROTO_TCP and state is not None and self.leaks.wanted(state):
            self.leaks.add(
                state,
                timeout_bucket(entry.timeout or 0),
                zone,
                _port(protocol, original.destination_port),
                original.source,
                original.destination,
            )
        self.services.add(service_key(protocol, state, original.destination_port))
        if translated and has_ports(protocol) and reply.source_port is not None:
            self._add_pool(entry)

    def _add_pool(self, entry: Entry) -> None:
        """Count the source-NAT pool of an entry, and its port where that was changed."""
        original, reply, protocol = entry.original, entry.reply, entry.protocol
        zone = entry.zone if reply.zone is None else reply.zone
        self.pools.add(protocol, zone, reply.source_port or 0, reply.source, reply.destination)
        own, port = original.source_port, reply.destination_port
        if self.pools.enough_ports:
            return
        if own is not None and port is not None and own != port and own >= FIRST_PORT:
            head = RANGE_HEAD.pack(protocol, zone) + reply.destination
            self.pools.add_ports(head, port, port, 1)

    def count_zones(self, zones: Iterable[int]) -> None:
        """Count entries by zone."""
        self.zones.update(zones)
        del self.zones[0]

    def clamp_timeouts(self) -> None:
        """Put established timeouts that were counted beyond the last bucket into it."""
        timeouts = self.established_timeouts
        for bucket in [bucket for bucket in timeouts if bucket > LAST_BUCKET]:
            timeouts[LAST_BUCKET] += timeouts.pop(bucket)

    def address_key(self, address: bytes, zone: int = 0) -> AddressKey:
        """Return the key of a packed address: cut to its prefix, with its zone."""
        mask = self.masks[len(address) != 4]
        number = int.from_bytes(address, sys.byteorder) & int.from_bytes(mask, sys.byteorder)
        if zone:
            return _ZONE.pack(zone) + number.to_bytes(len(address), sys.byteorder)
        return number if len(address) == 4 else number.to_bytes(16, sys.byteorder)

    @property
    def kept(self) -> int:
        """Return how many entries the filter kept (all of them without one)."""
        return self.sources.total

    @property
    def exact(self) -> bool:
        """Return whether every count in the top lists is exact: nothing had to be dropped."""
        lists = self.sources, self.destinations, self.services, self.pools.flows
        return not any(one.error for one in lists)

    def scale(self, total: int | None) -> float:
        """Return the factor from entries read to `total` entries."""
        return total / self.read if total and self.read else 1.0

    def figures(self, total: int | None = None) -> Figures:
        """Return the figures by label.

        total: the exact number of entries in the table, where only a sample of it was read.
        """
        return figures_of(self, total)

    def grouped(self) -> Iterator[tuple[Group, int]]:
        """Yield each group and its number of entries."""
        for key, number in self.groups.items():
            yield Group(*key), number

    def largest_share(self, addresses: HeavyHitters) -> float:
        """Return the percentage of the largest of `sources` or `destinations`."""
        named = self._named(addresses)
        return 100 * max(named.values()) / self.kept if named else 0.0

    def largest_entries(self, addresses: HeavyHitters, total: int | None = None) -> int:
        """Return the entries of the largest of `sources` or `destinations`."""
        named = self._named(addresses)
        return round(max(named.values()) * self.scale(total)) if named else 0

    def _named(self, heavy: HeavyHitters, number: int = 1) -> collections.Counter[str]:
        """Return the largest address keys by name, with all keys of one address together."""
        named: collections.Counter[str] = collections.Counter()
        for key, count in heavy.top(number):
            named[address_label(*self.address_of(key))] += count
        return named

    def address_of(self, key: AddressKey) -> tuple[bytes, int, int]:
        """Return the packed address of a key, its prefix length and its zone."""
        if isinstance(key, int):
            return key.to_bytes(4, sys.byteorder), self.prefixes.v4, 0
        address, zone = key, 0
        if len(key) != 16:
            address, zone = key[_ZONE.size :], _ZONE.unpack_from(key)[0]
        return address, self.prefixes.v4 if len(address) == 4 else self.prefixes.v6, zone

    def largest(self, addresses: HeavyHitters) -> Endpoint | None:
        """Return the largest of `sources` or `destinations`; None for none."""
        for key, count in addresses.top(1):
            address, bits, zone = self.address_of(key)
            return Endpoint(address, bits, zone, 0, count)
        return None

    def largest_network(self) -> Endpoint | None:
        """Return the network that most entries come from; None for none."""
        sources: dict[bytes, int] = {}
        for key, count in self.sources.counts.items():
            address, _, zone = self.address_of(key)
            sources[HEAD.pack(0, 0, zone) + address] = count
        return self.unanswered.largest_network(sources)

    def _services(self, state: int | None = None) -> collections.Counter[str]:
        """Return services by name, of all states or of one TCP state."""
        named: collections.Counter[tuple[int, int]] = collections.Counter()
        for key, count in self.services.counts.items():
            protocol, key_state, port = _SERVICE.unpack(key.to_bytes(4, sys.byteorder))
            if state is None or (protocol == IPPROTO_TCP and key_state == state):
                named[protocol, port] += count
        return collections.Counter({service_label(*key): count for key, count in named.items()})

    def tops(self, counts: collections.Counter[str], number: int, total: int | None) -> list[Top]:
        """Return the largest of some counts of entries as lines; `total` as in `figures`."""
        scale, kept = self.scale(total), self.kept or 1
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return [Top(name, round(n * scale), 100 * n / kept) for name, n in ordered[:number]]

    def top_sources(self, number: int, total: int | None = None) -> list[Top]:
        """Return the sources with the most entries; `total` as in `figures`."""
        return self.tops(self._named(self.sources, number), number, total)

    def top_destinations(self, number: int, total: int | None = None) -> list[Top]:
        """Return the original destinations with the most entries."""
        return self.tops(self._named(self.destinations, number), number, total)

    def top_services(
        self, number: int, total: int | None = None, state: int | None = None
    ) -> list[Top]:
        """Return the services (protocol and original destination port) with the most entries.

        state: of TCP entries in that state alone; shares are still of all entries kept.
        """
        return self.tops(self._services(state), number, total)

    def top_zones(self, number: int, total: int | None = None) -> list[Top]:
        """Return the zones with the most entries, and what is in no zone.

        Empty where there are no zones.
        """
        if not self.zones:
            return []
        named = collections.Counter({str(zone): count for zone, count in self.zones.items()})
        named["none"] = self.kept - sum(self.zones.values())
        return self.tops(+named, number, total)

    @property
    def largest_zone_share(self) -> float:
        """Return the percentage of the largest zone; 0 where there are no zones."""
        return 100 * max(self.zones.values()) / self.kept if self.zones else 0.0

    def unanswered_groups(self, least: float) -> list[UnansweredGroup]:
        """Return unanswered entries by protocol and state.

        least: leave out groups with less than this percentage of the entries kept.
        """
        totals: collections.Counter[tuple[int, int | None]] = collections.Counter()
        for group, number in self.grouped():
            if group.unanswered:
                totals[group.protocol, group.state] += number
        return self.unanswered.groups(
            {kind: number for kind, number in totals.items() if 100 * number >= least * self.kept}
        )

    def translation_weight(self, kind: int) -> float:
        """Return how many entries that were read one of those in Translations stands for."""
        if not self.translations.full(kind):
            return 1.0
        replied, translated = kind in (REPLIED, ANSWERED), kind in (UNREPLIED, REPLIED)
        number = sum(
            number
            for group, number in self.grouped()
            if bool(group.flags & DESTINATION_NAT) == translated
            and bool(group.flags & SEEN_REPLY) == replied
            and is_counted(group.protocol, group.state, kind, replied=replied)
        )
        return max(1.0, number / self.translations.counted[kind])

    def port_share(self, port: int) -> float:
        """Return the percentage of entries kept that go to a port, of any protocol."""
        number = 0
        for key, count in self.services.counts.items():
            _, _, key_port = _SERVICE.unpack(key.to_bytes(4, sys.byteorder))
            number += count if key_port == port else 0
        return 100 * number / self.kept if self.kept else 0.0

    def top_pools(self, number: int, total: int | None = None) -> list[Top]:
        """Return the fullest source-NAT pools; the share is of the ports that each may take."""
        scale = self.scale(total)
        return [
            Top(
                pool_label(pool),
                round(pool.entries * scale),
                min(100 * pool.entries * scale / pool.size, 100.0),
            )
            for pool in self.pools.top(number)
        ]

    def breakdown(self, total: int | None = None) -> list[Line]:
        """Return counts by protocol and state, largest first."""
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for (_, protocol, state, _), number in self.groups.items():
            counts[protocol_label(protocol), state_name(protocol, state)] += number
        scale, kept = self.scale(total), self.kept or 1
        return [
            Line(*key, round(n * scale), 100 * n / kept)
            for key, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        ]

    def established_idle(
        self, seconds: int, timeout: int, unacknowledged: int = 300, total: int | None = None
    ) -> int:
        """Return how many established TCP entries have been idle for `seconds` or longer.

        timeout: nf_conntrack_tcp_timeout_established, from which each entry counts down. One that
        waits for an acknowledgement counts down from `unacknowledged` and may have spoken just now
        (tcp_timeout_unacknowledged and _max_retrans, nf_conntrack_tcp_packet() of
        nf_conntrack_proto_tcp.c): what has so little left is not counted. Right to 2**IDLE_SHIFT
        seconds, and never too many.
        """
        latest = timeout - seconds
        first = (unacknowledged >> IDLE_SHIFT) + 1
        below = latest + 1 >> IDLE_SHIFT
        number = sum(
            n for bucket, n in self.established_timeouts.items() if first <= bucket < below
        )
        return round(number * self.scale(total))

    def idle_ends(self, seconds: int, timeout: int, unacknowledged: int = 300) -> Ends:
        """Return the ends of those that established_idle counts."""
        first = (unacknowledged >> IDLE_SHIFT) + 1
        below = timeout - seconds + 1 >> IDLE_SHIFT
        return self.leaks.ends(ct.TCP_CONNTRACK_ESTABLISHED, first, below)

    def margin(self, total: int) -> float:
        """Return how far a share of a sample may be wrong, in percentage points.

        The half-width of the 95 % interval of a share, at its widest (a share of one half), for
        a draw without replacement: 100 * 1.96 * sqrt(0.25 / n) * sqrt((N - n) / (N - 1)), where
        n entries of N were kept from the sample. 0 when everything was read.
        """
        return margin(self.kept, round(self.kept * self.scale(total)))


def margin(sample: int, total: int) -> float:
    """Return the margin of a share in a sample; see Tally.margin."""
    if sample >= total or total < 2:
        return 0.0
    if not sample:
        return 100.0
    return 100 * 1.96 * math.sqrt(0.25 / sample) * math.sqrt((total - sample) / (total - 1))


def timeout_bucket(seconds: int) -> int:
    """Return the bucket of a remaining timeout; the last one holds all from 2**24 seconds."""
    return min(seconds >> IDLE_SHIFT, LAST_BUCKET)


def service_key(protocol: int, state: int | None, port: int | None) -> int:
    """Return the key of a service: protocol, state and port, in the bytes of one number."""
    return int.from_bytes(
        _SERVICE.pack(protocol, NO_STATE if state is None else state, _port(protocol, port)),
        sys.byteorder,
    )


def _port(protocol: int, port: int | None) -> int:
    return 0 if port is None or not has_ports(protocol) else port
