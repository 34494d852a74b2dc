"""The general ctnetlink decoder: any batch of a dump, every attribute by its type.

A message is read in two steps. `layout` walks the attributes and says where each known one
lies; `entry_at` takes the values from there. The fast path of bulk.py takes its columns from the
same layout, so that both read the same bytes.

Rules, after net/netlink/attr.c (nla_ok, nla_for_each_attr) and the policies of
net/netfilter/nf_conntrack_netlink.c: attributes lie on four bytes, a header is at least four
bytes long and ends within its parent, fewer than four bytes left over at the end are no
attribute. An attribute that is known may be longer than its value, never shorter; of two alike
the last counts; an unknown one is passed over.
"""

from __future__ import annotations

import itertools
import operator
import os
import struct
import sys

from check_conntrack.flows.entry import (
    ConntrackTuple,
    Counters,
    DccpInfo,
    Entry,
    SctpInfo,
    SequenceAdjustment,
    SynProxy,
    TcpInfo,
)
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel.namedtuple import NamedTuple

# What one recv gives.
Batch = bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, Callable, Union

    Path = tuple[int, ...]
    # What nests in what; a number is the least length of the value in bytes.
    Schema = dict[int, Union["Schema", int]]

# Layouts of one length that are remembered; a kernel sends a few.
MOST_LAYOUTS = 32

HEADER = ct.NLMSGHDR.size
FIRST_ATTRIBUTE = HEADER + ct.NFGENMSG.size
ENTRY_TYPE = ct.NFNL_SUBSYS_CTNETLINK << 8 | ct.IPCTNL_MSG_CT_NEW


class TableError(Exception):
    """A dump that cannot be read to its end: one sentence why. `errno` is the kernel's, or 0."""

    def __init__(self, reason: str, errno: int = 0) -> None:
        """`reason` is what a person reads."""
        super().__init__(reason)
        self.errno = errno


_TUPLE: Schema = {
    ct.CTA_TUPLE_IP: {
        ct.CTA_IP_V4_SRC: 4,
        ct.CTA_IP_V4_DST: 4,
        ct.CTA_IP_V6_SRC: 16,
        ct.CTA_IP_V6_DST: 16,
    },
    ct.CTA_TUPLE_PROTO: {
        ct.CTA_PROTO_NUM: 1,
        ct.CTA_PROTO_SRC_PORT: 2,
        ct.CTA_PROTO_DST_PORT: 2,
        ct.CTA_PROTO_ICMP_ID: 2,
        ct.CTA_PROTO_ICMP_TYPE: 1,
        ct.CTA_PROTO_ICMP_CODE: 1,
        ct.CTA_PROTO_ICMPV6_ID: 2,
        ct.CTA_PROTO_ICMPV6_TYPE: 1,
        ct.CTA_PROTO_ICMPV6_CODE: 1,
    },
    ct.CTA_TUPLE_ZONE: 2,
}
_COUNTERS: Schema = {
    ct.CTA_COUNTERS_PACKETS: 8,
    ct.CTA_COUNTERS_BYTES: 8,
    ct.CTA_COUNTERS32_PACKETS: 4,
    ct.CTA_COUNTERS32_BYTES: 4,
}
_SEQADJ: Schema = {
    ct.CTA_SEQADJ_CORRECTION_POS: 4,
    ct.CTA_SEQADJ_OFFSET_BEFORE: 4,
    ct.CTA_SEQADJ_OFFSET_AFTER: 4,
}
SCHEMA: Schema = {
    ct.CTA_TUPLE_ORIG: _TUPLE,
    ct.CTA_TUPLE_REPLY: _TUPLE,
    ct.CTA_TUPLE_MASTER: _TUPLE,
    ct.CTA_STATUS: 4,
    ct.CTA_PROTOINFO: {
        ct.CTA_PROTOINFO_TCP: {
            ct.CTA_PROTOINFO_TCP_STATE: 1,
            ct.CTA_PROTOINFO_TCP_WSCALE_ORIGINAL: 1,
            ct.CTA_PROTOINFO_TCP_WSCALE_REPLY: 1,
            ct.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: 2,
            ct.CTA_PROTOINFO_TCP_FLAGS_REPLY: 2,
        },
        ct.CTA_PROTOINFO_DCCP: {
            ct.CTA_PROTOINFO_DCCP_STATE: 1,
            ct.CTA_PROTOINFO_DCCP_ROLE: 1,
            ct.CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ: 8,
        },
        ct.CTA_PROTOINFO_SCTP: {
            ct.CTA_PROTOINFO_SCTP_STATE: 1,
            ct.CTA_PROTOINFO_SCTP_VTAG_ORIGINAL: 4,
            ct.CTA_PROTOINFO_SCTP_VTAG_REPLY: 4,
        },
    },
    ct.CTA_HELP: {ct.CTA_HELP_NAME: 0},
    ct.CTA_TIMEOUT: 4,
    ct.CTA_MARK: 4,
    ct.CTA_COUNTERS_ORIG: _COUNTERS,
    ct.CTA_COUNTERS_REPLY: _COUNTERS,
    ct.CTA_USE: 4,
    ct.CTA_ID: 4,
    ct.CTA_SEQ_ADJ_ORIG: _SEQADJ,
    ct.CTA_SEQ_ADJ_REPLY: _SEQADJ,
    ct.CTA_ZONE: 2,
    ct.CTA_SECCTX: {ct.CTA_SECCTX_NAME: 0},
    ct.CTA_TIMESTAMP: {ct.CTA_TIMESTAMP_START: 8, ct.CTA_TIMESTAMP_STOP: 8},
    ct.CTA_LABELS: 0,
    ct.CTA_SYNPROXY: {ct.CTA_SYNPROXY_ISN: 4, ct.CTA_SYNPROXY_ITS: 4, ct.CTA_SYNPROXY_TSOFF: 4},
}


class Layout(NamedTuple):
    """Where things lie in one message: value spans by attribute path, and every header walked."""

    fields: dict[Path, tuple[int, int]]
    headers: list[int]


def layout(message: bytes) -> Layout:
    """Where the known attributes of one entry message lie; raises TableError when it is damaged.

    `fields` maps the path of attribute types to (offset, length) of the value, `headers` lists the
    offsets of all attribute headers that were looked at, nested ones included.
    """
    found = Layout({}, [])
    _walk(message, FIRST_ATTRIBUTE, len(message), SCHEMA, (), found)
    return found


def _walk(message: bytes, offset: int, end: int, schema: Schema, path: Path, found: Layout) -> None:
    unpack = ct.NLATTR.unpack_from
    while end - offset >= ct.NLATTR.size:
        length, kind = unpack(message, offset)
        if length < ct.NLATTR.size or length > end - offset:
            raise TableError(
                f"damaged netlink message: attribute {_dotted(path, kind & ct.NLA_TYPE_MASK)} "
                f"claims {length} bytes where {end - offset} are left"
            )
        found.headers.append(offset)
        kind &= ct.NLA_TYPE_MASK
        rule = schema.get(kind)
        value, value_length = offset + ct.NLATTR.size, length - ct.NLATTR.size
        if isinstance(rule, dict):
            # Of two alike the last counts, with all that nests in it.
            inner = (*path, kind)
            for old in [key for key in found.fields if key[: len(inner)] == inner]:
                del found.fields[old]
            found.fields[inner] = (value, value_length)
            _walk(message, value, offset + length, rule, inner, found)
        elif rule is not None:
            if value_length < rule:
                raise TableError(
                    f"damaged netlink message: attribute {_dotted(path, kind)} "
                    f"holds {value_length} bytes, not {rule}"
                )
            place = (*path, kind)
            found.fields[place] = (value, value_length)
        offset += length + 3 & ~3


def _dotted(path: Path, kind: int) -> str:
    return ".".join(map(str, (*path, kind)))


class _Values:
    """Values of one message by path; None for what is not there."""

    __slots__ = ("fields", "message")

    def __init__(self, message: bytes, fields: dict[Path, tuple[int, int]]) -> None:
        self.message = message
        self.fields = fields

    def has(self, *path: int) -> bool:
        return path in self.fields

    def raw(self, path: Path) -> bytes | None:
        span = self.fields.get(path)
        return None if span is None else self.message[span[0] : span[0] + span[1]]

    def number(self, size: int, *path: int) -> int | None:
        value = self.raw(path)
        return None if value is None else int.from_bytes(value[:size], "big")

    def text(self, *path: int) -> str | None:
        value = self.raw(path)
        return None if value is None else _text(value)

    def pair(self, *path: int) -> tuple[int, int] | None:
        value = self.raw(path)
        return None if value is None else (value[0], value[1])


def entry_at(message: bytes, found: Layout | None = None) -> Entry:
    """The Entry of one whole message, header included; raises TableError when it is damaged."""
    return _entry(_Values(message, (found or layout(message)).fields))


def _entry(values: _Values) -> Entry:
    number = values.number
    original = _tuple(values, ct.CTA_TUPLE_ORIG)
    reply = _tuple(values, ct.CTA_TUPLE_REPLY)
    tcp = ct.CTA_PROTOINFO, ct.CTA_PROTOINFO_TCP
    dccp = ct.CTA_PROTOINFO, ct.CTA_PROTOINFO_DCCP
    sctp = ct.CTA_PROTOINFO, ct.CTA_PROTOINFO_SCTP
    state = number(1, *tcp, ct.CTA_PROTOINFO_TCP_STATE)
    if state is None:
        state = number(1, *dccp, ct.CTA_PROTOINFO_DCCP_STATE)
    if state is None:
        state = number(1, *sctp, ct.CTA_PROTOINFO_SCTP_STATE)
    status = number(4, ct.CTA_STATUS)
    if status is None:
        raise TableError("damaged netlink message: an entry without CTA_STATUS")
    return Entry(
        original=original,
        reply=reply,
        status=status,
        timeout=number(4, ct.CTA_TIMEOUT),
        state=state,
        zone=number(2, ct.CTA_ZONE) or 0,
        mark=number(4, ct.CTA_MARK),
        labels=values.raw((ct.CTA_LABELS,)),
        helper=values.text(ct.CTA_HELP, ct.CTA_HELP_NAME),
        original_counters=_counters(values, ct.CTA_COUNTERS_ORIG),
        reply_counters=_counters(values, ct.CTA_COUNTERS_REPLY),
        start=number(8, ct.CTA_TIMESTAMP, ct.CTA_TIMESTAMP_START),
        stop=number(8, ct.CTA_TIMESTAMP, ct.CTA_TIMESTAMP_STOP),
        master=_tuple(values, ct.CTA_TUPLE_MASTER) if values.has(ct.CTA_TUPLE_MASTER) else None,
        identifier=number(4, ct.CTA_ID),
        use=number(4, ct.CTA_USE),
        secctx=values.text(ct.CTA_SECCTX, ct.CTA_SECCTX_NAME),
        tcp=TcpInfo(
            number(1, *tcp, ct.CTA_PROTOINFO_TCP_WSCALE_ORIGINAL),
            number(1, *tcp, ct.CTA_PROTOINFO_TCP_WSCALE_REPLY),
            values.pair(*tcp, ct.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL),
            values.pair(*tcp, ct.CTA_PROTOINFO_TCP_FLAGS_REPLY),
        )
        if values.has(*tcp)
        else None,
        dccp=DccpInfo(
            number(1, *dccp, ct.CTA_PROTOINFO_DCCP_ROLE),
            number(8, *dccp, ct.CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ),
        )
        if values.has(*dccp)
        else None,
        sctp=SctpInfo(
            number(4, *sctp, ct.CTA_PROTOINFO_SCTP_VTAG_ORIGINAL),
            number(4, *sctp, ct.CTA_PROTOINFO_SCTP_VTAG_REPLY),
        )
        if values.has(*sctp)
        else None,
        original_adjustment=_adjustment(values, ct.CTA_SEQ_ADJ_ORIG),
        reply_adjustment=_adjustment(values, ct.CTA_SEQ_ADJ_REPLY),
        synproxy=SynProxy(
            number(4, ct.CTA_SYNPROXY, ct.CTA_SYNPROXY_ISN) or 0,
            number(4, ct.CTA_SYNPROXY, ct.CTA_SYNPROXY_ITS) or 0,
            number(4, ct.CTA_SYNPROXY, ct.CTA_SYNPROXY_TSOFF) or 0,
        )
        if values.has(ct.CTA_SYNPROXY)
        else None,
    )


def _text(value: bytes) -> str:
    text = value.split(b"\0", 1)[0].decode("ascii", "backslashreplace")
    # It is written into lines that people look at.
    return text if text.isprintable() else ascii(text)[1:-1]


_DIRECTIONS = {
    ct.CTA_TUPLE_ORIG: "CTA_TUPLE_ORIG",
    ct.CTA_TUPLE_REPLY: "CTA_TUPLE_REPLY",
    ct.CTA_TUPLE_MASTER: "CTA_TUPLE_MASTER",
}


def _tuple(values: _Values, kind: int) -> ConntrackTuple:
    address = kind, ct.CTA_TUPLE_IP
    proto = kind, ct.CTA_TUPLE_PROTO
    source = values.raw((*address, ct.CTA_IP_V4_SRC))
    destination = values.raw((*address, ct.CTA_IP_V4_DST))
    size = 4
    if source is None or destination is None:
        source = values.raw((*address, ct.CTA_IP_V6_SRC))
        destination = values.raw((*address, ct.CTA_IP_V6_DST))
        size = 16
    protocol = values.number(1, *proto, ct.CTA_PROTO_NUM)
    if source is None or destination is None or protocol is None:
        raise TableError(
            f"damaged netlink message: {_DIRECTIONS[kind]} lacks an address or a protocol"
        )
    number = values.number
    icmp = [
        number(size, *proto, ct.CTA_PROTO_ICMP_ID + index)
        for index, size in enumerate((2, 1, 1, 2, 1, 1))
    ]
    if icmp[0] is None:
        icmp = icmp[3:]
    return ConntrackTuple(
        source[:size],
        destination[:size],
        protocol,
        number(2, *proto, ct.CTA_PROTO_SRC_PORT),
        number(2, *proto, ct.CTA_PROTO_DST_PORT),
        icmp[0],
        icmp[1],
        icmp[2],
        number(2, kind, ct.CTA_TUPLE_ZONE),
    )


def _counters(values: _Values, kind: int) -> Counters | None:
    if not values.has(kind):
        return None
    packets = values.number(8, kind, ct.CTA_COUNTERS_PACKETS)
    octets = values.number(8, kind, ct.CTA_COUNTERS_BYTES)
    if packets is None:
        packets = values.number(4, kind, ct.CTA_COUNTERS32_PACKETS)
    if octets is None:
        octets = values.number(4, kind, ct.CTA_COUNTERS32_BYTES)
    return Counters(packets or 0, octets or 0)


def _adjustment(values: _Values, kind: int) -> SequenceAdjustment | None:
    if not values.has(kind):
        return None
    return SequenceAdjustment(
        values.number(4, kind, ct.CTA_SEQADJ_CORRECTION_POS) or 0,
        values.number(4, kind, ct.CTA_SEQADJ_OFFSET_BEFORE) or 0,
        values.number(4, kind, ct.CTA_SEQADJ_OFFSET_AFTER) or 0,
    )


class _Place:
    """Where a value will be found in each message of a layout: what _Values stands for there."""

    def __init__(
        self, at: int, code: str, convert: Callable[[bytes], object] | None = None
    ) -> None:
        self.at = at
        self.code = code
        self.convert = convert

    def __getitem__(self, cut: slice) -> _Place:
        return _Place(self.at, f"{cut.stop}s")


class _Places(_Values):
    """Places instead of values, so that `_entry` puts them where their values belong."""

    __slots__ = ()

    def raw(self, path: Path) -> Any:
        span = self.fields.get(path)
        return None if span is None else _Place(span[0], f"{span[1]}s")

    def number(self, size: int, *path: int) -> Any:
        span = self.fields.get(path)
        return None if span is None else _Place(span[0], {1: "B", 2: "H", 4: "I", 8: "Q"}[size])

    def text(self, *path: int) -> Any:
        span = self.fields.get(path)
        return None if span is None else _Place(span[0], f"{span[1]}s", _text)

    def pair(self, *path: int) -> Any:
        span = self.fields.get(path)
        return None if span is None else _Place(span[0], "2s", tuple)


class _Compiled:
    """How to read messages of one layout: one struct, then tuples made of what it unpacked."""

    def __init__(self, message: bytes, found: Layout) -> None:
        mask = bytearray(len(message))
        for header in found.headers:
            mask[header : header + ct.NLATTR.size] = b"\xff" * ct.NLATTR.size
        # Same length, same bytes in all headers: the same layout.
        self.mask = int.from_bytes(mask, "little")
        self.headers = int.from_bytes(message, "little") & self.mask
        places: list[_Place] = []
        constants: list[object] = []
        template: tuple[object, ...] = _entry(_Places(message, found.fields))
        inner = [part for part in template if isinstance(part, tuple)]
        for part in (*template, *itertools.chain.from_iterable(inner)):
            if isinstance(part, _Place):
                places.append(part)
            elif not isinstance(part, tuple):
                constants.append(part)
        places.sort(key=lambda place: place.at)
        form, at = ">", 0
        for place in places:
            form += f"{place.at - at}x{place.code}"
            at = place.at + struct.calcsize(">" + place.code)
        self.unpack = struct.Struct(form).unpack_from
        self.convert = [(i, place.convert) for i, place in enumerate(places) if place.convert]
        self.constants = constants
        order = {id(part): i for i, part in enumerate((*places, *constants, *inner))}

        def getter(parts: Iterable[object]) -> Callable[[Sequence[object]], tuple[object, ...]]:
            return operator.itemgetter(*(order[id(part)] for part in parts))

        self.inner = [(type(part), getter(part)) for part in inner]
        self.outer = getter(template)

    def entry(self, message: bytes) -> Entry:
        """The Entry of a message that has this layout."""
        values: list[object] = list(self.unpack(message))
        for index, convert in self.convert:
            values[index] = convert(values[index])  # type: ignore[arg-type]
        values += self.constants
        for kind, parts in self.inner:
            values.append(tuple.__new__(kind, parts(values)))
        return tuple.__new__(Entry, self.outer(values))


class _Decoder:
    """entry_at for many messages: each layout is walked once, and then recognised."""

    def __init__(self) -> None:
        self.known: dict[int, list[_Compiled]] = {}

    def entry(self, message: bytes) -> Entry:
        """The Entry of one whole message; raises TableError when it is damaged."""
        known = self.known.setdefault(len(message), [])
        if known:
            number = int.from_bytes(message, "little")
            for compiled in known:
                if number & compiled.mask == compiled.headers:
                    return compiled.entry(message)
        found = layout(message)
        entry = entry_at(message, found)
        if len(known) < MOST_LAYOUTS:
            known.append(_Compiled(message, found))
        return entry


class DumpStatus:
    """How a dump went, filled while it is read."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.done = False
        """NLMSG_DONE was seen: this was the whole answer."""
        self.interrupted = False
        """NLM_F_DUMP_INTR was seen: the table changed under the dump, entries may be missing."""


def control(message: bytes, status: DumpStatus) -> bool:
    """What a message says of the dump itself. True for an entry, False for what to pass over.

    Sets `status`; raises TableError for NLMSG_ERROR, NLMSG_OVERRUN, and what belongs to no dump
    of the table. <linux/netlink.h>.
    """
    _, kind, flags, _, _ = ct.NLMSGHDR.unpack_from(message)
    if flags & ct.NLM_F_DUMP_INTR:
        status.interrupted = True
    if kind == ENTRY_TYPE:
        if len(message) < FIRST_ATTRIBUTE:
            raise TableError(f"damaged netlink message: an entry of {len(message)} bytes")
        return True
    if kind == ct.NLMSG_NOOP:
        return False
    if kind == ct.NLMSG_OVERRUN:
        raise TableError("the kernel lost part of the dump (NLMSG_OVERRUN)")
    if kind in (ct.NLMSG_DONE, ct.NLMSG_ERROR):
        # NLMSG_DONE carries the dump's last error, if it carries anything.
        code = 0
        if len(message) >= HEADER + 4:
            code = -int.from_bytes(message[HEADER : HEADER + 4], sys.byteorder, signed=True)
        elif kind == ct.NLMSG_ERROR:
            raise TableError("damaged netlink message: NLMSG_ERROR without a number")
        if code > 0:
            raise TableError(f"the kernel refused the dump: {_why(code)}", code)
        status.done = True
        return False
    raise TableError(f"netlink message of type {kind:#x} in a dump of the connection table")


def _why(code: int) -> str:
    try:
        return os.strerror(code)
    except (OverflowError, ValueError):
        return f"error {code}"


def truncated(claimed: int, left: int) -> TableError:
    """The error for a message that ends beyond its batch, or has no room for its header."""
    return TableError(
        f"truncated netlink batch: a message claims {claimed} bytes where {left} are left"
    )


def messages(batches: Iterable[Batch], status: DumpStatus) -> Iterator[bytes]:
    """The entry messages of a dump one by one, until NLMSG_DONE or the batches' end.

    Each batch holds whole messages, as one recv gives them. Raises TableError as `control` does,
    and for a message cut short.
    """
    length_at = struct.Struct("=I").unpack_from
    for batch in batches:
        data = bytes(batch)
        offset, end = 0, len(data)
        while offset < end:
            length = length_at(data, offset)[0] if end - offset >= HEADER else 0
            if length < HEADER or length > end - offset:
                raise truncated(length, end - offset)
            message = data[offset : offset + length]
            if control(message, status):
                yield message
            if status.done:
                return
            offset += length + 3 & ~3


def entries(batches: Iterable[Batch], status: DumpStatus | None = None) -> Iterator[Entry]:
    """Every Entry of a dump. Raises TableError, and nothing else, for a dump that is damaged."""
    decoder = _Decoder()
    for message in messages(batches, status or DumpStatus()):
        yield decoder.entry(message)
