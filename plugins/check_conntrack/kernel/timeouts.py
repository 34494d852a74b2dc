"""How long the kernel keeps an idle entry, by protocol and state.

Source: Documentation/networking/nf_conntrack-sysctl.rst; the defaults are those of the files
net/netfilter/nf_conntrack_proto_*.c.
"""

from __future__ import annotations

from .limits import NEW, number
from .source import KernelError, read_file

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
    "udp_timeout": 30,
    "udp_timeout_stream": 120,
    "icmp_timeout": 30,
    "icmpv6_timeout": 30,
    "gre_timeout": 30,
    "gre_timeout_stream": 180,
    "generic_timeout": 600,
}


def read_timeouts() -> dict[str, int]:
    """The timeouts of this process's own network namespace, as far as they can be read."""
    found = {}
    for name in DEFAULTS:
        try:
            found[name] = number(read_file(NEW + name))
        except KernelError:
            continue
    return found
