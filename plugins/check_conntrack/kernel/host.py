"""What else about the host matters to whoever changes its limits: memory, and who sets them too."""

from __future__ import annotations

import os
import re

from .source import read_file

# Programs that write nf_conntrack_max themselves; k3s and RKE2 carry kube-proxy inside.
_KUBE_PROXY = frozenset({b"kube-proxy", b"k3s", b"k3s-server", b"k3s-agent", b"rke2"})


def available_memory() -> int | None:
    """Bytes that can be used without swapping (MemAvailable, proc_meminfo(5)); None: unknown."""
    match = re.search(rb"\nMemAvailable: +([0-9]+) kB\n", read_file("/proc/meminfo").data)
    return int(match[1]) * 1024 if match else None


def runs_kube_proxy() -> bool:
    """Whether a process of this host is kube-proxy; False also where processes are hidden."""
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return False
    return any(read_file(f"/proc/{pid}/comm", 32).data.strip() in _KUBE_PROXY for pid in pids)


def has_address(text: str) -> bool:
    """Whether an address is one of this network namespace's own.

    Asked of the routing table, without a packet: what goes to an own address comes from it.
    """
    import socket

    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        socket.inet_pton(family, text)  # Anything else would be looked up as a name.
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
            link.connect((text, 9))
            here: str = link.getsockname()[0]
    except OSError:
        return False
    return here == text
