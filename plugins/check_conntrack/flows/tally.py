"""What a table holds, counted: filled by bulk.py and text.py, or entry by entry; then read off.

Memory is bounded whatever the table holds: the groups are few by nature (family, protocol, state,
a handful of flags), everything an attacker may choose freely is counted by heavy.py.
"""

from __future__ import annotations

import collections
import math
import struct
import sys

from check_conntrack.flows.entry import (
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    PROTOCOL_NAMES,
    Entry,
    address_text,
    has_ports,
    state_name,
)
from check_conntrack.flows.heavy_hitters import HeavyHitters
from check_conntrack.flows.match import Match, prefix_mask
from check_conntrack.flows.nat_pools import FIRST_PORT, RANGE_HEAD, NatPools, Pool
from check_conntrack.flows.unanswered import NO_STATE, Endpoint, UnansweredFlows, UnansweredGroup
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Union

    # An address as a key: IPv4 as a number of its bytes in host order, IPv6 packed; both packed
    # behind their zone where they have one.
    AddressKey = Union[int, bytes]

# Flags of a group: the kernel's bits where they fit a byte, our own for what tuples tell.
EXPECTED = ct.IPS_EXPECTED
SEEN_REPLY = ct.IPS_SEEN_REPLY
ASSURED = ct.IPS_ASSURED
SOURCE_NAT = 1 << 3
DESTINATION_NAT = 1 << 4
OFFLOAD = ct.IPS_OFFLOAD >> 8
HW_OFFLOAD = ct.IPS_HW_OFFLOAD >> 8
KEPT_LOW = EXPECTED | SEEN_REPLY | ASSURED
KEPT_HIGH = OFFLOAD | HW_OFFLOAD

# States from which net/netfilter/nf_conntrack_core.c, gc_worker_can_early_drop(), evicts assured
# TCP (nf_conntrack_proto_tcp.c, tcp_can_early_drop).
TCP_CLOSING = frozenset(
    (
        ct.TCP_CONNTRACK_FIN_WAIT,
        ct.TCP_CONNTRACK_CLOSE_WAIT,
        ct.TCP_CONNTRACK_LAST_ACK,
        ct.TCP_CONNTRACK_TIME_WAIT,
        ct.TCP_CONNTRACK_CLOSE,
    )
)
HALF_OPEN = frozenset((ct.TCP_CONNTRACK_SYN_SENT, ct.TCP_CONNTRACK_SYN_RECV))
# Remaining timeouts are kept to 2**IDLE_SHIFT seconds.
IDLE_SHIFT = 8
LAST_BUCKET = 0xFFFF

_SERVICE = struct.Struct(">BBH")
# Before an address of a zone.
_ZONE = struct.Struct(">H")


class Group(NamedTuple):
    """What entries of one group have in common. flags: the constants of this module."""

    family: int
    protocol: int
    state: int | None
    flags: int


class Prefixes(NamedTuple):
    """How many bits of an address tell one top-list line from another."""

    v4: int = 32
    v6: int = 128

    def masks(self) -> tuple[bytes, bytes]:
        """The two prefixes as packed masks."""
        return prefix_mask(self.v4, 4), prefix_mask(self.v6, 16)


def prefixes(text: str) -> Prefixes:
    """`24/64`; raises ValueError."""
    v4, slash, v6 = text.partition("/")
    if not (slash and text.isascii() and v4.isdigit() and v6.isdigit()):
        raise ValueError(f"not V4/V6, as in 24/64: {text!r}")
    if int(v4) > 32 or int(v6) > 128:
        raise ValueError(f"at most 32/128: {text!r}")
    return Prefixes(int(v4), int(v6))


class Top(NamedTuple):
    """One line of a top list. share: percent of the entries counted."""

    name: str
    entries: int
    share: float


class Line(NamedTuple):
    """One line of the breakdown by protocol and state. state: "" for protocols without."""

    protocol: str
    state: str
    entries: int
    share: float


class Figures(NamedTuple):
    """The figures of one table, each under the name of its performance label.

    Counts are of the flows kept, scaled to the whole where a sample was read; shares are percent.
    `expected` is None where the source cannot tell. `snat_ports` are the ports that the fullest
    source-NAT pool takes, `snat_port_usage` the same in percent of those it may take.
    """

    entries: int
    assured: int
    unreplied: int
    protected: int
    offloaded: int
    nat: int
    expected: int | None
    ipv4: int
    ipv6: int
    tcp: int
    udp: int
    icmp: int
    icmpv6: int
    sctp: int
    gre: int
    other: int
    tcp_syn_sent: int
    tcp_syn_recv: int
    tcp_established: int
    tcp_fin_wait: int
    tcp_close_wait: int
    tcp_last_ack: int
    tcp_time_wait: int
    tcp_close: int
    tcp_other: int
    top_source_share: float
    top_destination_share: float
    top_service_share: float
    snat_ports: int
    snat_port_usage: float


# What a Tally is made of, besides how it counts.
_SUMS = ("read", "inbound", "outbound", "bad_lines", "zoned", "original_zones")
_COUNTERS = ("groups", "established_timeouts")
_LISTS = ("sources", "destinations", "services", "unanswered", "pools")


class Tally:
    """The counters of one pass. Read them through `figures`, `breakdown` and the top lists."""

    def __init__(self, prefixes: Prefixes | None = None, match: Match | None = None) -> None:
        """Group addresses by `prefixes`, keep what `match` accepts."""
        self.prefixes = prefixes or Prefixes()
        self.masks = self.prefixes.masks()
        self.match = match if match is not None and match.narrows() else None
        self.read = 0
        """Entries looked at, before the filter."""
        self.inbound = 0
        self.outbound = 0
        self.zoned = 0
        """Entries kept that have a zone in the original direction."""
        self.original_zones = 0
        """Those of them that have it in that direction alone."""
        self.expected_known = True
        self.bad_lines = 0
        self.first_bad_line = ""
        self.groups: collections.Counter[tuple[int, int, int | None, int]] = collections.Counter()
        # Remaining timeout of established TCP, in units of 2**IDLE_SHIFT seconds.
        self.established_timeouts: collections.Counter[int] = collections.Counter()
        self.sources = HeavyHitters()
        self.destinations = HeavyHitters()
        self.services = HeavyHitters()
        self.unanswered = UnansweredFlows(*self.prefixes)
        self.pools = NatPools()

    def like(self) -> Tally:
        """One that counts the same way, and has counted nothing yet."""
        other = Tally(self.prefixes, self.match)
        other.expected_known = self.expected_known
        return other

    def parts(self) -> tuple[object, ...]:
        """All that was counted, as values for another process; `join` takes them."""
        return (
            tuple(getattr(self, name) for name in _SUMS),
            self.first_bad_line,
            tuple(dict(getattr(self, name)) for name in _COUNTERS),
            tuple(getattr(self, name).parts() for name in _LISTS),
        )

    def join(self, parts: Any) -> None:
        """Add what another counted that is like this one (`parts`)."""
        sums, bad_line, counters, lists = parts
        for name, number in zip(_SUMS, sums):
            setattr(self, name, getattr(self, name) + number)
        self.first_bad_line = self.first_bad_line or bad_line
        for name, counts in zip(_COUNTERS, counters):
            getattr(self, name).update(counts)
        for name, heavy in zip(_LISTS, lists):
            getattr(self, name).join(*heavy)

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
        zone = entry.zone if original.zone is None else original.zone
        self.zoned += zone > 0
        self.original_zones += bool(original.zone)
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

    def clamp_timeouts(self) -> None:
        """Put established timeouts that were counted beyond the last bucket into it."""
        timeouts = self.established_timeouts
        for bucket in [bucket for bucket in timeouts if bucket > LAST_BUCKET]:
            timeouts[LAST_BUCKET] += timeouts.pop(bucket)

    def address_key(self, address: bytes, zone: int = 0) -> AddressKey:
        """The key under which a packed address is counted: cut to its prefix, with its zone."""
        mask = self.masks[len(address) != 4]
        number = int.from_bytes(address, sys.byteorder) & int.from_bytes(mask, sys.byteorder)
        if zone:
            return _ZONE.pack(zone) + number.to_bytes(len(address), sys.byteorder)
        return number if len(address) == 4 else number.to_bytes(16, sys.byteorder)

    @property
    def kept(self) -> int:
        """Entries that the filter kept (all of them, without one)."""
        return self.sources.total

    @property
    def exact(self) -> bool:
        """Whether no top list had to drop anything: every count in it is exact."""
        lists = self.sources, self.destinations, self.services, self.pools.flows
        return not any(one.error for one in lists)

    def scale(self, total: int | None) -> float:
        """What a count is multiplied by to speak of `total` entries instead of those read."""
        return total / self.read if total and self.read else 1.0

    def figures(self, total: int | None = None) -> Figures:
        """The figures of section 3 of the contract.

        total: the exact number of entries in the table, when only a sample of it was read.
        """
        scale = self.scale(total)

        def count(groups: Iterable[int]) -> int:
            return round(sum(groups) * scale)

        groups = [(Group(*key), number) for key, number in self.groups.items()]
        protocols: collections.Counter[int] = collections.Counter()
        states: collections.Counter[int | None] = collections.Counter()
        for group, number in groups:
            protocols[group.protocol] += number
            if group.protocol == IPPROTO_TCP:
                states[group.state] += number
        named = (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_GRE)
        pools = self.top_pools(1, total)
        flagged = {
            "assured": ASSURED,
            "offloaded": KEPT_HIGH,
            "nat": SOURCE_NAT | DESTINATION_NAT,
            "expected": EXPECTED,
        }
        having = {
            name: count(number for group, number in groups if group.flags & bits)
            for name, bits in flagged.items()
        }
        return Figures(
            entries=round(self.kept * scale),
            assured=having["assured"],
            unreplied=count(number for group, number in groups if not group.flags & SEEN_REPLY),
            protected=count(number for group, number in groups if _protected(group)),
            offloaded=having["offloaded"],
            nat=having["nat"],
            expected=having["expected"] if self.expected_known else None,
            ipv4=count(number for group, number in groups if group.family == 4),
            ipv6=count(number for group, number in groups if group.family == 6),
            tcp=count([protocols[IPPROTO_TCP]]),
            udp=count([protocols[IPPROTO_UDP]]),
            icmp=count([protocols[IPPROTO_ICMP]]),
            icmpv6=count([protocols[IPPROTO_ICMPV6]]),
            sctp=count([protocols[IPPROTO_SCTP]]),
            gre=count([protocols[IPPROTO_GRE]]),
            other=count(number for key, number in protocols.items() if key not in named),
            tcp_syn_sent=count([states[ct.TCP_CONNTRACK_SYN_SENT]]),
            tcp_syn_recv=count([states[ct.TCP_CONNTRACK_SYN_RECV]]),
            tcp_established=count([states[ct.TCP_CONNTRACK_ESTABLISHED]]),
            tcp_fin_wait=count([states[ct.TCP_CONNTRACK_FIN_WAIT]]),
            tcp_close_wait=count([states[ct.TCP_CONNTRACK_CLOSE_WAIT]]),
            tcp_last_ack=count([states[ct.TCP_CONNTRACK_LAST_ACK]]),
            tcp_time_wait=count([states[ct.TCP_CONNTRACK_TIME_WAIT]]),
            tcp_close=count([states[ct.TCP_CONNTRACK_CLOSE]]),
            tcp_other=count(n for key, n in states.items() if key is None or not 1 <= key <= 8),
            top_source_share=self._largest_share(self._named(self.sources)),
            top_destination_share=self._largest_share(self._named(self.destinations)),
            top_service_share=self._largest_share(self._services()),
            snat_ports=pools[0].entries if pools else 0,
            snat_port_usage=pools[0].share if pools else 0.0,
        )

    def _largest_share(self, counts: collections.Counter[str]) -> float:
        return 100 * max(counts.values()) / self.kept if counts else 0.0

    def _named(self, heavy: HeavyHitters, number: int = 1) -> collections.Counter[str]:
        """The largest address keys by name; spellings of one address meet here."""
        named: collections.Counter[str] = collections.Counter()
        for key, count in heavy.top(number):
            named[self._address_name(key)] += count
        return named

    def _address_name(self, key: AddressKey) -> str:
        return _address_name(*self.address_of(key))

    def address_of(self, key: AddressKey) -> tuple[bytes, int, int]:
        """The packed address of a key, its prefix length and its zone."""
        if isinstance(key, int):
            return key.to_bytes(4, sys.byteorder), self.prefixes.v4, 0
        address, zone = key, 0
        if len(key) != 16:
            address, zone = key[_ZONE.size :], _ZONE.unpack_from(key)[0]
        return address, self.prefixes.v4 if len(address) == 4 else self.prefixes.v6, zone

    def largest(self, addresses: HeavyHitters) -> Endpoint | None:
        """The largest of `sources` or `destinations`; None for none."""
        for key, count in addresses.top(1):
            address, bits, zone = self.address_of(key)
            return Endpoint(address, bits, zone, 0, count)
        return None

    def _services(self, state: int | None = None) -> collections.Counter[str]:
        """Services by name, over all states or of one TCP state."""
        named: collections.Counter[tuple[int, int]] = collections.Counter()
        for key, count in self.services.counts.items():
            protocol, key_state, port = _SERVICE.unpack(key.to_bytes(4, sys.byteorder))
            if state is None or (protocol == IPPROTO_TCP and key_state == state):
                named[protocol, port] += count
        return collections.Counter({_service_name(*key): count for key, count in named.items()})

    def _tops(self, counts: collections.Counter[str], number: int, total: int | None) -> list[Top]:
        scale, whole = self.scale(total), self.kept or 1
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return [Top(name, round(n * scale), 100 * n / whole) for name, n in ordered[:number]]

    def top_sources(self, number: int, total: int | None = None) -> list[Top]:
        """The originators with the most entries; `total` as in `figures`."""
        return self._tops(self._named(self.sources, number), number, total)

    def top_destinations(self, number: int, total: int | None = None) -> list[Top]:
        """The original destinations with the most entries."""
        return self._tops(self._named(self.destinations, number), number, total)

    def top_services(
        self, number: int, total: int | None = None, state: int | None = None
    ) -> list[Top]:
        """Protocol and original destination port; with `state`, of TCP entries in that state.

        Shares are of all entries kept, also with `state`.
        """
        return self._tops(self._services(state), number, total)

    def unanswered_groups(self, least: float) -> list[UnansweredGroup]:
        """Unanswered entries by protocol and state, of groups that have this share of the kept."""
        totals: collections.Counter[tuple[int, int | None]] = collections.Counter()
        for (_, protocol, state, flags), number in self.groups.items():
            if not flags & SEEN_REPLY or (protocol == IPPROTO_TCP and state in HALF_OPEN):
                totals[protocol, state] += number
        return self.unanswered.groups(
            {kind: number for kind, number in totals.items() if 100 * number >= least * self.kept}
        )

    def port_share(self, port: int) -> float:
        """The percentage of entries kept that go to a port, of whatever protocol."""
        found = 0
        for key, count in self.services.counts.items():
            _, _, key_port = _SERVICE.unpack(key.to_bytes(4, sys.byteorder))
            found += count if key_port == port else 0
        return 100 * found / self.kept if self.kept else 0.0

    @property
    def longest_established(self) -> int:
        """The longest time that an established TCP entry has left, in seconds, rounded down.

        Right to 2**IDLE_SHIFT seconds; 0 for none.
        """
        return max(self.established_timeouts, default=0) << IDLE_SHIFT

    def top_pools(self, number: int, total: int | None = None) -> list[Top]:
        """The fullest source-NAT port pools; the share is of the ports that each may take."""
        scale = self.scale(total)
        return [
            Top(
                pool_name(pool),
                round(pool.entries * scale),
                min(100 * pool.entries * scale / pool.size, 100.0),
            )
            for pool in self.pools.top(number)
        ]

    def breakdown(self, total: int | None = None) -> list[Line]:
        """Counts by protocol and state, largest first."""
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for (_, protocol, state, _), number in self.groups.items():
            counts[protocol_label(protocol), state_name(protocol, state)] += number
        scale, whole = self.scale(total), self.kept or 1
        return [
            Line(*key, round(n * scale), 100 * n / whole)
            for key, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        ]

    def established_idle(
        self, seconds: int, timeout: int, unacknowledged: int = 300, total: int | None = None
    ) -> int:
        """How many established TCP entries have been silent for `seconds` or longer.

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

    def margin(self, total: int) -> float:
        """How far a share may be off, in percentage points, when a sample was read.

        The half-width of the 95 % interval of a share, at its widest (a share of one half), for
        a draw without replacement: 100 * 1.96 * sqrt(0.25 / n) * sqrt((N - n) / (N - 1)), where
        n entries of N were kept from the sample. 0 when everything was read.
        """
        return margin(self.kept, round(self.kept * self.scale(total)))


def margin(sample: int, total: int) -> float:
    """The formula of Tally.margin."""
    if sample >= total or total < 2:
        return 0.0
    if not sample:
        return 100.0
    return 100 * 1.96 * math.sqrt(0.25 / sample) * math.sqrt((total - sample) / (total - 1))


def timeout_bucket(seconds: int) -> int:
    """The bucket of a remaining timeout; 24 bits of seconds are told apart, longer ones are not."""
    return min(seconds >> IDLE_SHIFT, LAST_BUCKET)


def service_key(protocol: int, state: int | None, port: int | None) -> int:
    """The key of a service: protocol, state and port in one number, bytes as bulk.py lays them."""
    return int.from_bytes(
        _SERVICE.pack(protocol, NO_STATE if state is None else state, _port(protocol, port)),
        sys.byteorder,
    )


def _port(protocol: int, port: int | None) -> int:
    return 0 if port is None or not has_ports(protocol) else port


def _protected(group: Group) -> bool:
    """Whether the kernel never evicts such an entry early.

    early_drop_list() passes over assured ones, gc_worker_can_early_drop() over assured ones that
    are not closing. Older kernels pass over offloaded ones too (early_drop_list() to about 6.3,
    the collector to 6.10): they are not counted on.
    """
    if not group.flags & ASSURED:
        return False
    return group.protocol != IPPROTO_TCP or group.state not in TCP_CLOSING


# Names of /etc/protocols that conntrack(8) takes and does not print.
_OTHER_NAMES = {2: "igmp", 4: "ipip", 41: "ipv6", 50: "esp", 51: "ah", 89: "ospf", 112: "vrrp"}


def protocol_label(protocol: int) -> str:
    """A protocol's name, or its number in words."""
    name = PROTOCOL_NAMES.get(protocol) or _OTHER_NAMES.get(protocol)
    return name or f"protocol {protocol}"


def _service_name(protocol: int, port: int) -> str:
    label = protocol_label(protocol)
    return f"{label}/{port}" if port else label


def _address_name(address: bytes, bits: int, zone: int) -> str:
    text = address_text(address)
    if bits < 8 * len(address):
        text += f"/{bits}"
    return f"{text} in zone {zone}" if zone else text


def pool_name(pool: Pool) -> str:
    """A pool as a top list prints it."""
    target, translated = address_text(pool.target), address_text(pool.translated)
    if len(pool.target) == 16:
        target = f"[{target}]"
    ports = f" ports {pool.first}-{pool.last}" if pool.restricted else ""
    where = f" in zone {pool.zone}" if pool.zone else ""
    return f"{protocol_label(pool.protocol)} {translated}{ports} to {target}:{pool.port}{where}"
