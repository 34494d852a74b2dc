"""A real table that overflows."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from check_conntrack.kernel import ctnetlink as ct
from support.entries import new_entry
from support.machine import machine_wide
from support.netns import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEND = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(int(sys.argv[1]), int(sys.argv[2])):
    try:
        s.sendto(b"x", (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", 9))
    except OSError:
        pass
"""


class NewMessages:
    """The records of /dev/kmsg from now on; a full ring drops old ones, so a count says nothing."""

    def __init__(self) -> None:
        self._ring = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._ring, 0, os.SEEK_END)

    def __enter__(self) -> NewMessages:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._ring)

    def hold(self, text: str) -> bool:
        """Return whether a record that was not looked at before holds the text."""
        while True:
            try:
                if os.fsencode(text) in os.read(self._ring, 16384):
                    return True
            except BrokenPipeError:  # overwritten before it was read
                continue
            except BlockingIOError:
                return False


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace that tracks connections, and to which all of 10.0.0.0/8 belongs."""
    with Namespace() as made:
        made.ip("route add local 10.0.0.0/8 dev lo\n")
        made.track()
        yield made


def send(where: Namespace, first: int, last: int) -> None:
    """Send a datagram to each of so many addresses, which makes as many entries or losses."""
    where.run("python3", "-c", _SEND, first, last)


def fill_assured(where: Namespace, count: int) -> None:
    """Make established connections, which the kernel does not evict."""
    where.insert(
        new_entry(
            bytes((10, 1, 0, 1)),
            bytes((10, 1, 0, 2)),
            socket.IPPROTO_TCP,
            1000 + number,
            80,
            state=3,
            status=ct.IPS_ASSURED | ct.IPS_SEEN_REPLY,
            timeout=300,
        )
        for number in range(count)
    )


def overflow(where: Namespace, limit: int = 8, datagrams: int = 200) -> None:
    """Fill a table to its limit with what is not evicted, and send more."""
    where.flush()  # what an earlier overflow has left
    fill_assured(where, limit)
    with machine_wide(nf_conntrack_max=limit):
        send(where, 0x020001, 0x020001 + datagrams)
