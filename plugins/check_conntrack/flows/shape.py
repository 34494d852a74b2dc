"""Describe the shape of messages: the offset of each value in all messages of one layout.

Within one dump all messages of one shape (the same attributes in the same order) are alike byte
for byte but for their values. bulk.py sorts messages by shape, count_rows.py reads columns.
"""

from __future__ import annotations

from ..kernel import ctnetlink as ct
from ..kernel.namedtuple import NamedTuple
from ..kernel.netlink import NLATTR
from .entry import has_ports
from .netlink import FIRST_ATTRIBUTE, Layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# The first bytes, which bulk.py looks up: struct nlmsghdr, struct nfgenmsg, the first attribute's
# header.
HEAD = FIRST_ATTRIBUTE + NLATTR.size


class Shape(NamedTuple):
    """The offsets of the values in a message of one shape; None for what it lacks.

    Attributes:
        size: length of the message
        fixed: offset and value of each byte in which all messages of the shape agree
        family: 4 or 6
        protocol: the number of the layer 4 protocol
        addresses: the four addresses, in the order of the position constants of match.py
        source_id: what tells a translated source beside the address, original and reply
        destination_id: the same for a translated destination
        ports: of both tuples, wherever there are any
        source_ports: of the original's source and the reply's destination
        destination_port: of the original
        reply_source_port: of the reply
        status: four bytes, big-endian
        state: one byte
        timeout: four bytes, big-endian
        original_zone, reply_zone: two bytes, big-endian
        directed_zone: whether the first is of the original direction alone
        zones: all zones there are: of both directions, of the original, of the reply
        mark: four bytes, big-endian
    """

    size: int
    fixed: tuple[tuple[int, bytes], ...]
    family: int
    protocol: int
    addresses: tuple[int, int, int, int]
    source_id: tuple[int, int] | None
    destination_id: tuple[int, int] | None
    ports: tuple[int, ...]
    source_ports: tuple[int, int] | None
    destination_port: int | None
    reply_source_port: int | None
    status: int
    state: int | None
    timeout: int | None
    original_zone: int | None
    directed_zone: bool
    reply_zone: int | None
    zones: tuple[int, ...]
    mark: int | None

    @property
    def address_length(self) -> int:
        """Return the bytes of an address."""
        return 4 if self.family == 4 else 16


class _Offsets:
    """Look up offsets by the path of attribute types."""

    def __init__(self, layout: Layout) -> None:
        self._fields = layout.fields

    def at(self, *path: int) -> int | None:
        span = self._fields.get(path)
        return None if span is None else span[0]

    def proto(self, direction: int, *kinds: int) -> int | None:
        """Return the first of these attributes in a direction's CTA_TUPLE_PROTO."""
        return _first(self.at(direction, ct.CTA_TUPLE_PROTO, kind) for kind in kinds)

    def addresses(self, *kinds: int) -> list[int]:
        """Return the addresses of both directions that have one of these types."""
        offsets = (
            self.at(direction, ct.CTA_TUPLE_IP, kind)
            for direction in (ct.CTA_TUPLE_ORIG, ct.CTA_TUPLE_REPLY)
            for kind in kinds
        )
        return [offset for offset in offsets if offset is not None]


def shape_of(message: bytes, layout: Layout) -> Shape | None:
    """Return the shape of a message that the general decoder has read without complaint.

    None where the message is unusual, so that only the general decoder can count it.
    """
    offsets = _Offsets(layout)
    at, proto = offsets.at, offsets.proto
    original, reply = ct.CTA_TUPLE_ORIG, ct.CTA_TUPLE_REPLY
    source, destination = ct.CTA_PROTO_SRC_PORT, ct.CTA_PROTO_DST_PORT
    family = 4
    addresses = offsets.addresses(ct.CTA_IP_V4_SRC, ct.CTA_IP_V4_DST)
    if not addresses:
        family = 6
        addresses = offsets.addresses(ct.CTA_IP_V6_SRC, ct.CTA_IP_V6_DST)
    protocol_at, status = proto(original, ct.CTA_PROTO_NUM), at(ct.CTA_STATUS)
    if len(addresses) != 4 or protocol_at is None or status is None:
        return None
    ids = ct.CTA_PROTO_ICMP_ID, ct.CTA_PROTO_ICMPV6_ID
    source_id = proto(original, *ids, source), proto(reply, *ids, destination)
    destination_id = proto(original, destination), proto(reply, source)
    if any((one is None) != (other is None) for one, other in (source_id, destination_id)):
        return None
    protocol = message[protocol_at]
    mask = layout.mask(len(message))
    mask[protocol_at] = 0xFF
    mask[:HEAD] = bytes(HEAD)  # What comes before is alike within a list.
    directions = original, reply
    ports = [proto(direction, kind) for direction in directions for kind in (source, destination)]
    info = ct.CTA_PROTOINFO
    zones = at(ct.CTA_ZONE), at(original, ct.CTA_TUPLE_ZONE), at(reply, ct.CTA_TUPLE_ZONE)
    return Shape(
        size=len(message),
        fixed=tuple((n, message[n : n + 1]) for n, bits in enumerate(mask) if bits),
        family=family,
        protocol=protocol,
        addresses=(addresses[0], addresses[1], addresses[2], addresses[3]),
        source_id=_both(*source_id),
        destination_id=_both(*destination_id),
        ports=tuple(p for p in ports if p is not None) if has_ports(protocol) else (),
        source_ports=_both(proto(original, source), proto(reply, destination)),
        destination_port=destination_id[0] if has_ports(protocol) else None,
        reply_source_port=destination_id[1],
        status=status,
        state=_first(
            (
                at(info, ct.CTA_PROTOINFO_TCP, ct.CTA_PROTOINFO_TCP_STATE),
                at(info, ct.CTA_PROTOINFO_DCCP, ct.CTA_PROTOINFO_DCCP_STATE),
                at(info, ct.CTA_PROTOINFO_SCTP, ct.CTA_PROTOINFO_SCTP_STATE),
            )
        ),
        timeout=at(ct.CTA_TIMEOUT),
        original_zone=_first((zones[1], zones[0])),
        directed_zone=zones[1] is not None,
        reply_zone=_first((zones[2], zones[0])),
        zones=tuple(zone for zone in zones if zone is not None),
        mark=at(ct.CTA_MARK),
    )


def _first(offsets: Iterable[int | None]) -> int | None:
    return next((offset for offset in offsets if offset is not None), None)


def _both(one: int | None, other: int | None) -> tuple[int, int] | None:
    return None if one is None or other is None else (one, other)
