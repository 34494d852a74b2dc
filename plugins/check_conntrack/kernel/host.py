"""Facts about the host that advice on limits needs: memory, kube-proxy, own addresses."""

from __future__ import annotations

import os
import re

from .limits import NEW, number
from .source import KernelError, read_file, read_long_file

# Programs that write nf_conntrack_max themselves; k3s and RKE2 carry kube-proxy inside.
_KUBE_PROXY = frozenset({b"kube-proxy", b"k3s", b"k3s-server", b"k3s-agent", b"rke2"})


def available_memory() -> int | None:
    """Return the bytes usable without swapping (MemAvailable, proc_meminfo(5)); None if unknown."""
    match = re.search(rb"\nMemAvailable: +([0-9]+) kB\n", read_file("/proc/meminfo").data)
    return int(match[1]) * 1024 if match else None


def runs_kube_proxy() -> bool:
    """Return whether kube-proxy runs here; False also if processes are hidden."""
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return False
    return any(read_file(f"/proc/{pid}/comm", 32).data.strip() in _KUBE_PROXY for pid in pids)


def has_ipvs() -> bool:
    """Return whether IPVS may take what is sent to an own address, without a socket."""
    return os.path.exists("/proc/net/ip_vs")


def has_address(text: str) -> bool:
    """Return whether an address belongs to this network namespace.

    The routing table tells, without a packet: traffic to an own address has it as its source.
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


def conntrack_setting(name: str) -> int | None:
    """Return a setting of this network namespace, by the end of its name; None if unknown."""
    try:
        return number(read_file(NEW + name))
    except KernelError:
        return None


def logs_packets() -> bool:
    """Return whether a packet that netfilter logs reaches the kernel log (IPv4)."""
    # The file ends with the name of the logger.
    told = read_file("/proc/sys/net/netfilter/nf_log/2")
    return bool(told.errno) or told.data.strip() != b"NONE"


def logs_all_namespaces() -> bool:
    """Return whether packets of every namespace are logged; known in the host's namespace alone."""
    return read_file("/proc/sys/net/netfilter/nf_log_all_netns").data.strip() == b"1"


def default_interfaces() -> tuple[str, ...]:
    """Return the interfaces of this network namespace's default routes, IPv4, main table.

    Source: /proc/net/route (fib_route_seq_show() of net/ipv4/fib_trie.c).
    """
    lines = (line.split() for line in read_long_file("/proc/net/route").data.splitlines()[1:])
    names = [words[0] for words in lines if len(words) > 7 and words[1] == words[7] == b"00000000"]
    return tuple(dict.fromkeys(os.fsdecode(name) for name in names))


def reverse_path_is_strict(interface: str) -> bool:
    """Return whether the kernel drops what would be answered through another interface.

    The larger of the two settings holds (Documentation/networking/ip-sysctl.rst, rp_filter).
    """
    values = [read_file(f"/proc/sys/net/ipv4/conf/{of}/rp_filter") for of in ("all", interface)]
    return max(value.data.strip() for value in values) == b"1"


def default_gateways() -> frozenset[str]:
    """Return the addresses of this network namespace's default gateways.

    Source: /proc/net/route (fib_route_seq_show() of net/ipv4/fib_trie.c: hexadecimal, in host
    order) and /proc/net/ipv6_route (ipv6_route_seq_show() of net/ipv6/route.c).
    """
    import socket
    import sys

    found = set()
    for line in read_long_file("/proc/net/route").data.splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and words[1] == words[7] == b"00000000" != words[2]:
            packed = int(words[2], 16).to_bytes(4, sys.byteorder)
            found.add(socket.inet_ntop(socket.AF_INET, packed))
    for line in read_long_file("/proc/net/ipv6_route").data.splitlines():
        words = line.split()
        if len(words) > 4 and words[:2] == [b"0" * 32, b"00"] and words[4] != b"0" * 32:
            packed = bytes.fromhex(words[4].decode("ascii"))
            found.add(socket.inet_ntop(socket.AF_INET6, packed))
    return frozenset(found)
