"""The driver of a network interface and its statistics, over the ethtool ioctl. Not privileged.

Source: include/uapi/linux/ethtool.h and dev_ethtool() in net/ethtool/ioctl.c, which asks for
CAP_NET_ADMIN for none of the four commands that are used here.
"""

from __future__ import annotations

import array
import fcntl
import os
import struct

from .source import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

SIOCETHTOOL = 0x8946
ETHTOOL_GDRVINFO = 0x03
ETHTOOL_GSTRINGS = 0x1B
ETHTOOL_GSTATS = 0x1D
ETHTOOL_GSSET_INFO = 0x37
ETH_SS_STATS = 1
ETH_GSTRING_LEN = 32
IFNAMSIZ = 16
_DRVINFO = struct.Struct("=I32s160x")
_SSET_INFO = struct.Struct("=I4xQI")
_GSTRINGS = struct.Struct("=III")
_GSTATS = struct.Struct("=II")
_IFREQ = struct.Struct(f"{IFNAMSIZ}sP{24 - struct.calcsize('P')}x")
MOST_STATISTICS = 1 << 16
SPARE = 4096
"""Statistics that may be added while they are asked for: the kernel writes as many as there are."""


def driver(link: socket.socket, interface: str) -> str:
    """Return the name of an interface's driver; raises KernelError."""
    return decode_driver(_ask(link, interface, _DRVINFO.pack(ETHTOOL_GDRVINFO, b"")))


def statistics(link: socket.socket, interface: str) -> dict[str, int]:
    """Return the statistics of an interface's driver by their names; raises KernelError."""
    request = _SSET_INFO.pack(ETHTOOL_GSSET_INFO, 1 << ETH_SS_STATS, 0)
    count = decode_count(_ask(link, interface, request))
    room = count + SPARE
    request = _GSTRINGS.pack(ETHTOOL_GSTRINGS, ETH_SS_STATS, count)
    names = decode_names(_ask(link, interface, request, room * ETH_GSTRING_LEN))
    values = decode_values(_ask(link, interface, _GSTATS.pack(ETHTOOL_GSTATS, count), room * 8))
    if len(names) != len(values):
        raise KernelError(f"{interface}: the statistics of its driver changed while they were read")
    return dict(zip(names, values))


def decode_driver(reply: bytes) -> str:
    """Return the driver's name in a struct ethtool_drvinfo."""
    return _text(_DRVINFO.unpack_from(reply)[1])


def decode_count(reply: bytes) -> int:
    """Return the number of statistics in a struct ethtool_sset_info; 0 where there are none."""
    _, mask, count = _SSET_INFO.unpack_from(reply)
    return min(count, MOST_STATISTICS) if mask & 1 << ETH_SS_STATS else 0


def decode_names(reply: bytes) -> list[str]:
    """Return the names in a struct ethtool_gstrings; those that do not fit are left out."""
    _, _, count = _GSTRINGS.unpack_from(reply)
    starts = range(_GSTRINGS.size, len(reply) - ETH_GSTRING_LEN + 1, ETH_GSTRING_LEN)
    return [_text(reply[start : start + ETH_GSTRING_LEN]) for start in starts[:count]]


def decode_values(reply: bytes) -> list[int]:
    """Return the values in a struct ethtool_stats; those that do not fit are left out."""
    _, count = _GSTATS.unpack_from(reply)
    count = min(count, (len(reply) - _GSTATS.size) // 8)
    return list(struct.unpack_from(f"={count}Q", reply, _GSTATS.size))


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("ascii", "backslashreplace")


def _ask(link: socket.socket, interface: str, request: bytes, room: int = 0) -> bytes:
    """Return the kernel's answer to a request, which overwrites it and may have `room` bytes more.

    The ioctl takes the address of a buffer; an array has one, and needs no ctypes.
    """
    name = os.fsencode(interface)
    if not 0 < len(name) < IFNAMSIZ:
        raise KernelError(f"{interface}: not the name of an interface")
    buffer = array.array("B", request + bytes(room))
    try:
        fcntl.ioctl(link, SIOCETHTOOL, _IFREQ.pack(name, buffer.buffer_info()[0]))
    except OSError as error:
        raise KernelError(f"{interface}: {error.strerror}") from None
    return buffer.tobytes()
