"""Select the entries that a user asked for: --address, --protocol, --state, --port, --zone, --mark.

The same question is answered twice: of one Entry (`accepts`), and of a column of entries by
bulk.py, which takes the parts of a Match and asks them of whole columns. A test holds the two
together. `kernel_filters` says what the kernel can be asked to leave out beforehand.
"""

from __future__ import annotations

import socket

from ..kernel import ctnetlink as ct
from ..kernel.namedtuple import NamedTuple
from ..kernel.networks import Network, network
from .entry import (
    IPPROTO_DCCP,
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    PROTOCOL_NAMES,
    STATE_NAMES,
    Entry,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Where an address can stand, in the order in which positions are asked.
ORIGINAL_SOURCE, ORIGINAL_DESTINATION, REPLY_SOURCE, REPLY_DESTINATION = range(4)


_WITH_PORTS = frozenset({IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, IPPROTO_SCTP, IPPROTO_DCCP})
_WHOLE_MARK = 0xFFFFFFFF
_ONE_FAMILY = {IPPROTO_ICMP: 4, IPPROTO_ICMPV6: 16}  # bytes of an address


class Mark(NamedTuple):
    """A mark of connections: the bits that are compared, and the value they must have."""

    value: int
    mask: int

    def holds(self, mark: int) -> bool:
        """Return whether a connection mark is one of these."""
        return mark & self.mask == self.value


def protocol_number(text: str) -> int:
    """Return a layer 4 protocol by name or number; raises ValueError, naming the known ones."""
    for number, name in PROTOCOL_NAMES.items():
        if text.lower() == name:
            return number
    if text.isascii() and text.isdigit() and int(text) < 256:
        return int(text)
    known = ", ".join(sorted(PROTOCOL_NAMES.values()))
    raise ValueError(f"invalid protocol {text!r} (known: {known}, and numbers below 256)")


def state_numbers(text: str) -> frozenset[tuple[int, int]]:
    """Return the (protocol, state) pairs of a state's name; raises ValueError for no state."""
    found = frozenset(
        (protocol, number)
        for protocol, names in STATE_NAMES.items()
        for number, name in enumerate(names)
        if name == text.upper()
    )
    if not found:
        known = dict.fromkeys(name for names in STATE_NAMES.values() for name in names)
        raise ValueError(f"invalid state {text!r} (known: {', '.join(known)})")
    return found


def mark(text: str) -> Mark:
    """Return the mark in `5`, `0x10` or `0x10/0xf0`; raises ValueError with the reason."""
    value_text, slash, mask_text = text.partition("/")
    value = _mark_number(value_text, text)
    mask = _mark_number(mask_text, text) if slash else _WHOLE_MARK
    if value & ~mask:
        raise ValueError(f"invalid mark {text!r} (the value has bits that the mask leaves out)")
    return Mark(value, mask)


def _mark_number(digits: str, text: str) -> int:
    base = 16 if digits[:2] in ("0x", "0X") else 10
    try:
        if not digits.isascii() or not digits.isalnum():  # int() takes signs, blanks and more
            raise ValueError
        number = int(digits, base)
    except ValueError:
        raise ValueError(f"invalid mark {text!r} (VALUE[/MASK], as in 5 or 0x10/0xf0)") from None
    if number > _WHOLE_MARK:
        raise ValueError(f"invalid mark {text!r} (a mark has 32 bits)")
    return number


class Match(NamedTuple):
    """Conditions on an entry. Any one value of a part suffices, and all parts must agree.

    networks: an address in any of the four tuple positions. ports: a port in any of them.
    states: (protocol, state) pairs. zones: of either direction, 0 for none. marks: an entry without
    a mark has mark 0. `only` is for an answer put together from several dumps: with
    the index of a network and a position, an entry counts only where that is the first place in
    which it matches, so that none counts twice.
    """

    networks: tuple[Network, ...] = ()
    protocols: frozenset[int] = frozenset()
    states: frozenset[tuple[int, int]] = frozenset()
    ports: frozenset[int] = frozenset()
    only: tuple[int, int] | None = None
    zones: frozenset[int] = frozenset()
    marks: tuple[Mark, ...] = ()

    def narrows(self) -> bool:
        """Return whether anything is asked for at all."""
        by_tuple = self.networks or self.protocols or self.states or self.ports
        return bool(by_tuple or self.zones or self.marks)

    def accepts(self, entry: Entry) -> bool:
        """Return whether the entry is one of those asked for."""
        if self.protocols and entry.protocol not in self.protocols:
            return False
        if self.states and (entry.protocol, entry.state) not in self.states:
            return False
        if self.ports and self.ports.isdisjoint(_ports(entry)):
            return False
        if self.zones and entry.any_zone not in self.zones:
            return False
        if self.marks and not any(one.holds(entry.mark or 0) for one in self.marks):
            return False
        return not self.networks or self._holds_address(entry)

    def _holds_address(self, entry: Entry) -> bool:
        places = positions(entry)
        for index, wanted in enumerate(self.networks):
            for position, address in enumerate(places):
                if wanted.holds(address):
                    return self.only is None or self.only == (index, position)
        return False

    def directions(self, entry: Entry) -> tuple[bool, bool]:
        """Return whether a flow kept is inbound, outbound, or both (within the networks).

        Outbound: the address asks, as source or as what the source is translated to. Inbound: it
        is asked, as destination or as what the destination is translated to.
        """
        held = [any(wanted.holds(place) for wanted in self.networks) for place in positions(entry)]
        return (
            held[ORIGINAL_DESTINATION] or held[REPLY_SOURCE],
            held[ORIGINAL_SOURCE] or held[REPLY_DESTINATION],
        )


def positions(entry: Entry) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the four addresses in the order of the position constants."""
    one, two = entry.original, entry.reply
    return one.source, one.destination, two.source, two.destination


def _ports(entry: Entry) -> tuple[int | None, ...]:
    if entry.protocol == IPPROTO_GRE:  # It has keys where others have ports.
        return ()
    one, two = entry.original, entry.reply
    return one.source_port, one.destination_port, two.source_port, two.destination_port


def kernel_filters(match: Match) -> list[tuple[ct.KernelFilter, Match]]:
    """Return the dumps that together hold every entry the match accepts, each with its own match.

    Up to two exact IPv4 addresses become four dumps each, one a position (the kernel joins the
    directions with AND). IPv6 addresses cannot be asked for: ctnetlink_filter_match_tuple() takes
    ipv6_addr_cmp() for a truth value, and hands out all but those wanted (seen on 6.18); they
    become a dump of their family. One protocol, zone or mark narrows every dump; not zone 0, which
    the first kernels that filtered by zones took for any. An empty list: only the whole table will
    do, with the match as it is. Old kernels ignore filters, so that every answer is to be filtered
    again, by the match that stands beside it. Each dump walks the whole hash, which is one for all
    namespaces: 0.3 s at a million entries, whatever it finds. Those of one namespace walk it at the
    same time (reader.py, `first`).
    """
    protocol = next(iter(match.protocols)) if len(match.protocols) == 1 else None
    zone = next(iter(match.zones)) if len(match.zones) == 1 else 0
    common = ct.KernelFilter(
        zone=zone or None, mark=match.marks[0] if len(match.marks) == 1 else None
    )
    exact = all(wanted.prefix == 32 and len(wanted.address) == 4 for wanted in match.networks)
    if match.networks and exact and len(match.networks) <= 2:
        return [
            (
                _at(common, wanted.address, position, protocol),
                match._replace(only=(index, position)),
            )
            for index, wanted in enumerate(match.networks)
            for position in range(4)
        ]
    families = {len(wanted.address) for wanted in match.networks} or {4, 16}
    if len(families) == 2 and protocol is None:
        return [] if common == ct.KernelFilter() else [(common, match)]
    return [
        (
            common._replace(
                family=socket.AF_INET if size == 4 else socket.AF_INET6,
                original=None if protocol is None else ct.TupleFilter(protocol=protocol),
            ),
            match,
        )
        for size in sorted(families)
    ]


def _at(
    common: ct.KernelFilter, address: bytes, position: int, protocol: int | None
) -> ct.KernelFilter:
    family = socket.AF_INET
    if position in (ORIGINAL_SOURCE, REPLY_SOURCE):
        wanted = ct.TupleFilter(source=address, protocol=protocol)
    else:
        wanted = ct.TupleFilter(destination=address, protocol=protocol)
    if position in (ORIGINAL_SOURCE, ORIGINAL_DESTINATION):
        return common._replace(family=family, original=wanted)
    return common._replace(family=family, reply=wanted)


def parse(
    addresses: Sequence[str] = (),
    protocols: Sequence[str] = (),
    states: Sequence[str] = (),
    ports: Sequence[int] = (),
    zones: Sequence[int] = (),
    marks: Sequence[str] = (),
) -> Match:
    """Return a Match from the words of a command line; raises ValueError for a malformed one."""
    wanted_states: frozenset[tuple[int, int]] = frozenset()
    for state in states:
        wanted_states |= state_numbers(state)
    return Match(
        tuple(network(text) for text in addresses),
        frozenset(protocol_number(text) for text in protocols),
        wanted_states,
        frozenset(ports),
        zones=frozenset(zones),
        marks=tuple(map(mark, marks)),
    )


def contradiction(wanted: Match) -> str:
    """Return why no flow can match; empty where one can."""
    if not wanted.protocols or any(_possible(wanted, each) for each in wanted.protocols):
        return ""
    names = [PROTOCOL_NAMES.get(each, str(each)) for each in sorted(wanted.protocols)]
    parts = (("address", wanted.networks), ("state", wanted.states), ("port", wanted.ports))
    others = [f"this {name}" for name, values in parts if values]
    return f"no flow of protocol {', '.join(names)} can have {' and '.join(others)}"


def _possible(wanted: Match, protocol: int) -> bool:
    """Return whether a flow of this protocol can match the other parts."""
    size = _ONE_FAMILY.get(protocol)
    return (
        (not wanted.ports or protocol in _WITH_PORTS)
        and (not wanted.states or any(protocol == each for each, _ in wanted.states))
        and (
            not size
            or not wanted.networks
            or any(len(each.address) == size for each in wanted.networks)
        )
    )
