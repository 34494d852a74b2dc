"""How long the kernel keeps an idle entry, by protocol and state.

Source: Documentation/networking/nf_conntrack-sysctl.rst; the defaults are those of the files
net/netfilter/nf_conntrack_proto_*.c.
"""

from __future__ import annotations

import os
from contextlib import suppress

from .limits import NEW, number
from .source import FileReading, KernelError, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .reader_client import Frame

# By the last words of the sysctl's name: the default in seconds.
DEFAULTS = {
    "tcp_timeout_syn_sent": 120,
    "tcp_timeout_syn_recv": 60,
    "tcp_timeout_established": 432000,
    "tcp_timeout_fin_wait": 120,
    "tcp_timeout_close_wait": 60,
    "tcp_timeout_last_ack": 30,
    "tcp_timeout_time_wait": 120,
    "tcp_timeout_close": 10,
    "tcp_timeout_max_retrans": 300,
    "tcp_timeout_unacknowledged": 300,
    "udp_timeout": 30,
    "udp_timeout_stream": 120,
    "icmp_timeout": 30,
    "icmpv6_timeout": 30,
    "gre_timeout": 30,
    "gre_timeout_stream": 180,
    "generic_timeout": 600,
}


def read_timeouts() -> dict[str, int]:
    """Return the timeouts of this process's own network namespace, as far as they can be read."""
    return _known(read_file(NEW + name) for name in DEFAULTS)


def read_tcp_loose() -> int | None:
    """Return nf_conntrack_tcp_loose of this process's own namespace; None where it is unknown."""
    try:
        return number(read_file(NEW + "tcp_loose"))
    except KernelError:
        return None


def timeouts_of(frames: Iterable[Frame]) -> dict[str, int]:
    """Return the timeouts of a namespace that the reader could read."""
    folder = os.path.dirname(NEW)
    return _known(
        FileReading(f"{folder}/{frame.file}", frame.data, frame.errno)
        for frame in frames
        if frame.file.partition("nf_conntrack_")[2] in DEFAULTS
    )


def _known(readings: Iterable[FileReading]) -> dict[str, int]:
    found = {}
    for reading in readings:
        with suppress(KernelError):
            found[reading.path[len(NEW) :]] = number(reading)
    return found
