"""Decode ctnetlink dumps: every message, and every attribute that the suite reads.

A message is read in two steps. `layout` walks the attributes and returns where each known one is;
`entry_at` takes the values from there. The fast paths (shape.py, text_writer.py) take their offsets
from the same layout, so that all read the same bytes.

After the policies of net/netfilter/nf_conntrack_netlink.c, an attribute that is known may be longer
than its value, never shorter; of two alike the last counts; an unknown one is passed over.
"""

from __future__ import annotations

from ..kernel import ctnetlink as ct
from ..kernel import netlink
from ..kernel.namedtuple import NamedTuple
from .entry import ConntrackTuple, Entry, FlowCounters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Union

    Path = tuple[int, ...]
    # What nests in what; a number is the least length of the value in bytes.
    Schema = dict[int, Union["Schema", int]]

# What one recv gives.
Batch = bytes

FIRST_ATTRIBUTE = netlink.NLMSGHDR.size + ct.NFGENMSG.size
ENTRY_TYPE = ct.NFNL_SUBSYS_CTNETLINK << 8 | ct.IPCTNL_MSG_CT_NEW


class TableError(Exception):
    """A dump that cannot be read to its end.

    Attributes:
        errno: the kernel's error number; 0 where the error is not the kernel's
    """

    def __init__(self, reason: str, errno: int = 0) -> None:
        """Take the sentence that people read."""
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
SCHEMA: Schema = {
    ct.CTA_TUPLE_ORIG: _TUPLE,
    ct.CTA_TUPLE_REPLY: _TUPLE,
    ct.CTA_STATUS: 4,
    ct.CTA_PROTOINFO: {
        ct.CTA_PROTOINFO_TCP: {ct.CTA_PROTOINFO_TCP_STATE: 1},
        ct.CTA_PROTOINFO_DCCP: {ct.CTA_PROTOINFO_DCCP_STATE: 1},
        ct.CTA_PROTOINFO_SCTP: {ct.CTA_PROTOINFO_SCTP_STATE: 1},
    },
    ct.CTA_HELP: {ct.CTA_HELP_NAME: 0},
    ct.CTA_TIMEOUT: 4,
    ct.CTA_MARK: 4,
    ct.CTA_COUNTERS_ORIG: _COUNTERS,
    ct.CTA_COUNTERS_REPLY: _COUNTERS,
    ct.CTA_USE: 4,
    ct.CTA_ZONE: 2,
    ct.CTA_SECCTX: {ct.CTA_SECCTX_NAME: 0},
}


class Layout(NamedTuple):
    """The positions of values in one message.

    Attributes:
        fields: offset and length of each known value, by its path of attribute types
        headers: offsets of all attribute headers on the way, nested ones included
    """

    fields: dict[Path, tuple[int, int]]
    headers: list[int]

    def mask(self, size: int) -> bytearray:
        """Return so many bytes, 0xFF where an attribute header is.

        Messages of one length that are equal there have the same layout.
        """
        mask = bytearray(size)
        for header in self.headers:
            mask[header : header + netlink.NLATTR.size] = b"\xff" * netlink.NLATTR.size
        return mask


def layout(message: bytes) -> Layout:
    """Return where the known attributes of one entry's message are; raises TableError."""
    result = Layout({}, [])
    try:
        _walk(message, FIRST_ATTRIBUTE, len(message), SCHEMA, (), result)
    except netlink.MalformedError as error:
        raise TableError(str(error)) from None
    return result


def _walk(message: bytes, start: int, end: int, schema: Schema, path: Path, result: Layout) -> None:
    for kind, value, value_end in netlink.attributes(message, start, end):
        result.headers.append(value - netlink.NLATTR.size)
        rule = schema.get(kind)
        inner = (*path, kind)
        if isinstance(rule, dict):
            # If two are alike, the last one counts, with all that nests in it.
            for old in [key for key in result.fields if key[: len(inner)] == inner]:
                del result.fields[old]
            result.fields[inner] = value, value_end - value
            _walk(message, value, value_end, rule, inner, result)
        elif rule is not None:
            if value_end - value < rule:
                raise netlink.MalformedError(
                    f"malformed netlink message: attribute {'.'.join(map(str, inner))} has "
                    f"length {value_end - value}, not {rule}"
                )
            result.fields[inner] = value, value_end - value


class _Values:
    """Read values of one message by path; None for what is not there."""

    __slots__ = ("fields", "message")

    def __init__(self, message: bytes, fields: dict[Path, tuple[int, int]]) -> None:
        self.message = message
        self.fields = fields

    def raw(self, *path: int) -> bytes | None:
        span = self.fields.get(path)
        return None if span is None else self.message[span[0] : span[0] + span[1]]

    def number(self, size: int, *path: int) -> int | None:
        value = self.raw(*path)
        return None if value is None else int.from_bytes(value[:size], "big")

    def text(self, *path: int) -> str | None:
        value = self.raw(*path)
        if value is None:
            return None
        text = value.split(b"\0", 1)[0].decode("ascii", "backslashreplace")
        # It is written into lines that people read.
        return text if text.isprintable() else ascii(text)[1:-1]


_STATES = (
    (ct.CTA_PROTOINFO, ct.CTA_PROTOINFO_TCP, ct.CTA_PROTOINFO_TCP_STATE),
    (ct.CTA_PROTOINFO, ct.CTA_PROTOINFO_DCCP, ct.CTA_PROTOINFO_DCCP_STATE),
    (ct.CTA_PROTOINFO, ct.CTA_PROTOINFO_SCTP, ct.CTA_PROTOINFO_SCTP_STATE),
)


def entry_at(message: bytes, known: Layout | None = None) -> Entry:
    """Return the Entry of one message, header included; raises TableError.

    known: the message's layout, where the caller has it.
    """
    values = _Values(message, (known or layout(message)).fields)
    number = values.number
    original = _tuple(values, ct.CTA_TUPLE_ORIG)
    reply = _tuple(values, ct.CTA_TUPLE_REPLY)
    status = number(4, ct.CTA_STATUS)
    if status is None:
        raise TableError("malformed netlink message: an entry without CTA_STATUS")
    states = (number(1, *path) for path in _STATES)
    return Entry(
        original=original,
        reply=reply,
        status=status,
        timeout=number(4, ct.CTA_TIMEOUT),
        state=next((state for state in states if state is not None), None),
        zone=number(2, ct.CTA_ZONE) or 0,
        mark=number(4, ct.CTA_MARK),
        helper=values.text(ct.CTA_HELP, ct.CTA_HELP_NAME),
        original_counters=_counters(values, ct.CTA_COUNTERS_ORIG),
        reply_counters=_counters(values, ct.CTA_COUNTERS_REPLY),
        use=number(4, ct.CTA_USE),
        secctx=values.text(ct.CTA_SECCTX, ct.CTA_SECCTX_NAME),
    )


def _tuple(values: _Values, kind: int) -> ConntrackTuple:
    address = kind, ct.CTA_TUPLE_IP
    proto = kind, ct.CTA_TUPLE_PROTO
    source = values.raw(*address, ct.CTA_IP_V4_SRC)
    destination = values.raw(*address, ct.CTA_IP_V4_DST)
    size = 4
    if source is None or destination is None:
        source = values.raw(*address, ct.CTA_IP_V6_SRC)
        destination = values.raw(*address, ct.CTA_IP_V6_DST)
        size = 16
    protocol = values.number(1, *proto, ct.CTA_PROTO_NUM)
    if source is None or destination is None or protocol is None:
        name = "CTA_TUPLE_ORIG" if kind == ct.CTA_TUPLE_ORIG else "CTA_TUPLE_REPLY"
        raise TableError(f"malformed netlink message: {name} lacks an address or a protocol")
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


def _counters(values: _Values, kind: int) -> FlowCounters | None:
    if (kind,) not in values.fields:
        return None
    packets = values.number(8, kind, ct.CTA_COUNTERS_PACKETS)
    octets = values.number(8, kind, ct.CTA_COUNTERS_BYTES)
    if packets is None:
        packets = values.number(4, kind, ct.CTA_COUNTERS32_PACKETS)
    if octets is None:
        octets = values.number(4, kind, ct.CTA_COUNTERS32_BYTES)
    return FlowCounters(packets or 0, octets or 0)


class DumpStatus:
    """How a dump went, filled while it is read.

    Attributes:
        done: NLMSG_DONE was there, so this was the whole answer
        interrupted: NLM_F_DUMP_INTR was there: the table changed under the dump, and entries may be
            missing
    """

    def __init__(self) -> None:
        self.done = False
        self.interrupted = False


def control(message: bytes, status: DumpStatus) -> bool:
    """Return whether a message is an entry; note in `status` what others say of the dump.

    Raises TableError for NLMSG_ERROR, NLMSG_OVERRUN, and what belongs to no dump of the table.
    """
    _, kind, flags, _, _ = netlink.NLMSGHDR.unpack_from(message)
    if flags & netlink.NLM_F_DUMP_INTR:
        status.interrupted = True
    if kind == ENTRY_TYPE:
        if len(message) < FIRST_ATTRIBUTE:
            raise TableError(f"malformed netlink message: an entry of {len(message)} bytes")
        return True
    if kind == netlink.NLMSG_NOOP:
        return False
    if kind == netlink.NLMSG_OVERRUN:
        raise TableError("the kernel lost part of the dump (NLMSG_OVERRUN)")
    if kind in (netlink.NLMSG_DONE, netlink.NLMSG_ERROR):
        try:
            code = netlink.error_number(message, 0, len(message))
        except netlink.MalformedError as error:
            raise TableError(str(error)) from None
        if code > 0:
            raise TableError(f"the kernel refused the dump: {netlink.error_text(code)}", code)
        status.done = True
        return False
    raise TableError(f"netlink message of type {kind:#x} in a dump of the connection table")


def messages(batches: Iterable[Batch], status: DumpStatus) -> Iterator[bytes]:
    """Yield the entry messages of a dump, until NLMSG_DONE or the end of the batches.

    Each batch holds whole messages, as one recv gives them. Raises TableError as `control` does,
    and for a message that is cut short.
    """
    try:
        for batch in batches:
            data = bytes(batch)
            for start, end in netlink.messages(data):
                message = data[start:end]
                if control(message, status):
                    yield message
                if status.done:
                    return
    except netlink.MalformedError as error:
        raise TableError(str(error)) from None
