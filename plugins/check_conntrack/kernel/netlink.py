"""Walk netlink messages and their attributes.

The rules of <linux/netlink.h> (NLMSG_OK) and net/netlink/attr.c (nla_ok): messages and attributes
start on multiples of four bytes, each holds its own header and ends within what contains it.
Headers are in host byte order.
"""

from __future__ import annotations

import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NETLINK_NETFILTER = 12
NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_OVERRUN = 4
NLM_F_REQUEST = 0x01
NLM_F_MULTI = 0x02
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

NLMSGHDR = struct.Struct("=IHHII")
NLATTR = struct.Struct("=HH")
_LENGTH = struct.Struct("=I")


class MalformedError(ValueError):
    """Bytes that are no netlink messages; the text says what is wrong."""


def message_end(data: bytes, start: int) -> int:
    """Return where the message that starts here ends; raises MalformedError where it is cut."""
    left = len(data) - start
    length: int = _LENGTH.unpack_from(data, start)[0] if left >= NLMSGHDR.size else 0
    if not NLMSGHDR.size <= length <= left:
        raise MalformedError(f"truncated netlink message: {left} of {length} bytes")
    return start + length


def messages(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each message; raises MalformedError."""
    start = 0
    while start < len(data):
        end = message_end(data, start)
        yield start, end
        start = end + 3 & ~3


def attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield type, start and end of each attribute's value in a part of a message.

    Fewer than four bytes left over at the end are no attribute. Raises MalformedError.
    """
    while end - start >= NLATTR.size:
        length, kind = NLATTR.unpack_from(data, start)
        if not NLATTR.size <= length <= end - start:
            raise MalformedError(
                f"malformed netlink message: attribute {kind & NLA_TYPE_MASK} has "
                f"length {length} where {end - start} bytes are left"
            )
        yield kind & NLA_TYPE_MASK, start + NLATTR.size, start + length
        start += length + 3 & ~3


def error_number(data: bytes, start: int, end: int) -> int:
    """Return the errno that NLMSG_ERROR or NLMSG_DONE carries, 0 for none.

    Raises MalformedError for NLMSG_ERROR without a number.
    """
    _, kind, _, _, _ = NLMSGHDR.unpack_from(data, start)
    value = data[start + NLMSGHDR.size : min(end, start + NLMSGHDR.size + 4)]
    if len(value) == 4:
        return -int.from_bytes(value, sys.byteorder, signed=True)
    if kind == NLMSG_ERROR:
        raise MalformedError("malformed netlink message: NLMSG_ERROR without a number")
    return 0


def error_text(number: int) -> str:
    """Return the words for an errno, whatever number the kernel sent."""
    try:
        return os.strerror(number)
    except (OverflowError, ValueError):
        return f"error {number}"
