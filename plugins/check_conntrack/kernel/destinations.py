"""Ask the kernel about a destination: whether there is a route, and who is next to this host.

Asked over rtnetlink(7), of this process's own network namespace. RTM_GETROUTE, RTM_GETNEIGH and
RTM_GETRULE need no privilege, send no packet and load no module. The numbers are those of
<linux/rtnetlink.h>, <linux/neighbour.h> and <linux/fib_rules.h>; RTM_GETNEIGH for one address came
with Linux 5.0.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress

from .namedtuple import NamedTuple
from .netlink import (
    NLATTR,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSGHDR,
    MalformedError,
    attributes,
    error_number,
    messages,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NETLINK_ROUTE = 0
RTM_GETROUTE, RTM_GETNEIGH, RTM_GETRULE = 26, 30, 34
RTN_LOCAL, RTN_BROADCAST, RTN_MULTICAST = 2, 3, 5
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_VIA = 1, 4, 5, 18
NDA_DST = 1
NUD_INCOMPLETE, NUD_FAILED = 0x01, 0x20
# What a rule may have and still hold for every packet: FRA_PRIORITY, FRA_SUPPRESS_PREFIXLEN,
# FRA_TABLE, FRA_PROTOCOL.
_FOR_ALL = frozenset({6, 14, 15, 21})
# fib_props of net/ipv4/fib_semantics.c, by the type of a route: none, unreachable, blackhole,
# prohibit.
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES})

_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_INDEX = struct.Struct("=I")
_TIME = 1.0  # seconds for one answer
_LARGEST = 1 << 16  # bytes of one answer
_MOST_ANSWERS = 64  # of a dump

# What is known of a destination.
THERE, NO_ROUTE, FAILED, INCOMPLETE, TO_ALL, UNKNOWN = (
    "there",
    "no route",
    "failed",
    "incomplete",
    "to all",
    "unknown",
)
GONE = frozenset({NO_ROUTE, FAILED, INCOMPLETE})


class Destination(NamedTuple):
    """A destination, as far as it is known.

    Attributes:
        code: THERE, or one of GONE; TO_ALL for a multicast or broadcast address, from which nobody
            answers; UNKNOWN also behind a gateway, which says nothing of it
        device: the interface that it is next to; empty for none
        certain: no rule may send some packets another way than the one that was asked for
    """

    code: str
    device: str = ""
    certain: bool = True


def look_up(addresses: Iterable[str]) -> dict[str, Destination]:
    """Return what the kernel knows of these addresses; empty where it cannot be asked."""
    found = {}
    with suppress(OSError, MalformedError), _Link() as link:
        for address in addresses:
            found[address] = _look_up(link, address)
    return found


class _Link:
    """A socket of rtnetlink."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
        self._socket.settimeout(_TIME)
        self._sequence = 0

    def __enter__(self) -> _Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, kind: int, payload: bytes, flags: int = 0) -> Iterator[bytes]:
        """Yield the messages that answer a request; raises OSError with the kernel's error."""
        self._sequence += 1
        size = NLMSGHDR.size + len(payload)
        head = NLMSGHDR.pack(size, kind, NLM_F_REQUEST | flags, self._sequence, 0)
        self._socket.send(head + payload)
        for _ in range(_MOST_ANSWERS if flags else 1):
            data = self._socket.recv(_LARGEST)
            for start, end in messages(data):
                _, answer, _, sequence, _ = NLMSGHDR.unpack_from(data, start)
                if sequence != self._sequence:
                    continue
                if answer in (NLMSG_DONE, NLMSG_ERROR):
                    code = error_number(data, start, end)
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                yield data[start:end]

    def ask_one(self, kind: int, payload: bytes) -> bytes:
        """Return the one message that answers a request; raises OSError as `ask` does."""
        for message in self.ask(kind, payload):
            return message
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))


def _look_up(link: _Link, address: str) -> Destination:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    request = _RTMSG.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    try:
        route = link.ask_one(RTM_GETROUTE, request + _attribute(RTA_DST, packed))
    except OSError as error:
        if error.errno not in _NO_ROUTE or _rules_choose(link, family):
            return Destination(UNKNOWN)
        return Destination(NO_ROUTE)
    kind = _RTMSG.unpack_from(route, NLMSGHDR.size)[7]
    values = _values(route, NLMSGHDR.size + _RTMSG.size)
    if kind == RTN_LOCAL:
        return Destination(THERE)
    if kind in (RTN_BROADCAST, RTN_MULTICAST):
        return Destination(TO_ALL)
    if RTA_GATEWAY in values or RTA_VIA in values or len(values.get(RTA_OIF, b"")) < _INDEX.size:
        return Destination(UNKNOWN)
    index = _INDEX.unpack_from(values[RTA_OIF])[0]
    with suppress(OSError):
        code = _neighbour(link, family, index, packed)
        certain = code not in GONE or not _rules_choose(link, family)
        return Destination(code, socket.if_indextoname(index), certain)
    return Destination(UNKNOWN)


def _neighbour(link: _Link, family: int, index: int, packed: bytes) -> str:
    """Return what is known of an address next to this host; raises OSError."""
    request = _NDMSG.pack(family, index, 0, 0, 0) + _attribute(NDA_DST, packed)
    answer = link.ask_one(RTM_GETNEIGH, request)
    state = _NDMSG.unpack_from(answer, NLMSGHDR.size)[2]
    if state & NUD_FAILED:
        return FAILED
    return INCOMPLETE if state & NUD_INCOMPLETE else THERE


def _rules_choose(link: _Link, family: int) -> bool:
    """Return whether some packets have other routes: by mark, source, TOS, interface or VRF.

    True where that cannot be excluded.
    """
    request = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    try:
        for rule in link.ask(RTM_GETRULE, request, NLM_F_DUMP):
            service = _RTMSG.unpack_from(rule, NLMSGHDR.size)[3]  # TOS, of struct fib_rule_hdr
            if service or set(_values(rule, NLMSGHDR.size + _RTMSG.size)) - _FOR_ALL:
                return True
    except OSError as error:
        return error.errno != errno.EOPNOTSUPP  # a kernel without policy routing
    return False


def _attribute(kind: int, value: bytes) -> bytes:
    return NLATTR.pack(NLATTR.size + len(value), kind) + value


def _values(message: bytes, start: int) -> dict[int, bytes]:
    """Return the attributes of a message that begin at an offset."""
    return {kind: message[at:end] for kind, at, end in attributes(message, start, len(message))}
