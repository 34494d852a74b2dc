"""Decode what rtnetlink(7) says of addresses.

Source: struct ifaddrmsg and the attributes IFA_* of <linux/if_addr.h>.
"""

from __future__ import annotations

import struct
from contextlib import suppress

from . import netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES = 1 << 20  # of a dump: some ten thousand addresses
NETLINK_ROUTE = 0
RTM_NEWADDR, RTM_GETADDR = 20, 22
IFA_ADDRESS, IFA_LOCAL = 1, 2
RT_SCOPE_LINK = 253  # from here on an address means something on one link, or one host, alone
RT_SCOPE_NOWHERE = 255
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index


def read_addresses() -> bytes:
    """Return the dump of the addresses of the own namespace; empty where it cannot be had.

    Needs no privilege, and loads no module: rtnetlink is part of every kernel with networking.
    """
    import socket

    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    flags = netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP
    data = b""
    with suppress(OSError), socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE) as link:
        link.send(netlink.NLMSGHDR.pack(17, RTM_GETADDR, flags, 1, 0) + b"\0")
        while len(data) < MOST_BYTES:
            data += link.recv(1 << 16, socket.MSG_DONTWAIT)
    return data


def global_addresses(dump: bytes) -> Iterator[bytes]:
    """Yield the packed addresses of a namespace that others may know it by.

    What is malformed or cut off ends them.
    """
    return _addresses(dump, RT_SCOPE_LINK)


def all_addresses(dump: bytes) -> Iterator[bytes]:
    """Yield all packed addresses of a namespace, as global_addresses() does."""
    return _addresses(dump, RT_SCOPE_NOWHERE)


def _addresses(dump: bytes, scopes: int) -> Iterator[bytes]:
    """Yield the packed addresses of a scope below `scopes`."""
    try:
        for start, end in netlink.messages(dump):
            kind = netlink.NLMSGHDR.unpack_from(dump, start)[1]
            first = start + netlink.NLMSGHDR.size
            if kind == RTM_NEWADDR and end - first >= _IFADDRMSG.size:
                scope = _IFADDRMSG.unpack_from(dump, first)[3]
                if scope < scopes:
                    yield from _address(dump, first + _IFADDRMSG.size, end)
    except netlink.MalformedError:
        return


def _address(dump: bytes, start: int, end: int) -> Iterator[bytes]:
    """Yield the address of a message: the local one, where a peer has another."""
    found: dict[int, bytes] = {}
    for kind, first, last in netlink.attributes(dump, start, end):
        if kind in (IFA_ADDRESS, IFA_LOCAL):
            found[kind] = dump[first:last]
    address = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, b"")
    if len(address) in (4, 16):
        yield address
