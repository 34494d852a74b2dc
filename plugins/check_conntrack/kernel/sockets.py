"""Count the sockets of this process's own network namespace. Needs no privilege.

Source: /proc/net/tcp, tcp6, udp and udp6 (Documentation/networking/proc_net_tcp.rst). Not
sock_diag(7): a request for it loads modules, and no check may do that.
"""

from __future__ import annotations

import re

from .source import read_long_file

# A line is 150 bytes; so much holds 200,000 sockets, and takes a quarter of a second.
MOST_BYTES = 32 << 20
_LINE = rb"^ *[0-9]+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:([0-9A-F]{4}) %02X "
_SERVER = rb"^ *[0-9]+: [0-9A-F]+:%b [0-9A-F]+:0000 "
ESTABLISHED, CLOSE_WAIT = 1, 8  # include/net/tcp_states.h


def number_of(port: int, state: int) -> int | None:
    """Return how many TCP sockets in a state have a port on either side; None: unknown.

    Where there are more than fit MOST_BYTES it is a lower bound.
    """
    wanted = b"%04X" % port
    line = re.compile(_LINE % state, re.MULTILINE)
    number = None
    for name in ("tcp", "tcp6"):
        reading = read_long_file(f"/proc/net/{name}", MOST_BYTES)
        if reading.errno:
            continue
        number = (number or 0) + sum(wanted in ports for ports in line.findall(reading.data))
    return number


def has_udp_server(port: int) -> bool | None:
    """Return whether a UDP socket has a port and takes packets from anybody; None: unknown."""
    found = None
    for name in ("udp", "udp6"):
        reading = read_long_file(f"/proc/net/{name}", MOST_BYTES)
        if not reading.errno:
            found = found or bool(re.search(_SERVER % (b"%04X" % port), reading.data, re.MULTILINE))
    return found
