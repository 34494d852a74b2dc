"""The output of conntrack(8), counted by hand, and a table with every kind of entry."""

from __future__ import annotations

import collections
import contextlib
import re


def figures_by_hand(listing: str) -> dict[str, int]:
    """Counted from what conntrack(8) prints, with nothing of the suite."""
    found: collections.Counter[str] = collections.Counter()
    for line in listing.splitlines():
        words = line.split()
        found["entries"] += 1
        found[words[0]] += 1
        found[words[2]] += 1
        found["assured"] += "[ASSURED]" in line
        found["unreplied"] += "[UNREPLIED]" in line
        if words[2] == "tcp":
            found["tcp_" + words[5].lower()] += 1
        one, two = re.split(r" src=", line)[1:3]
        ends = [
            (re.search(r"^(\S+) dst=(\S+)", part), re.search(r"sport=(\d+) dport=(\d+)", part))
            for part in (one, two)
        ]
        (a, p), (b, q) = ends
        moved = (a[1], a[2]) != (b[2], b[1])
        if p and q:
            moved = moved or (p[1], p[2]) != (q[2], q[1])
        found["nat"] += moved
    return dict(found)


def without_seconds(line: str) -> str:
    """Seconds and reference counts move between two readings."""
    line = re.sub(r"^(\S+ +\d+ \S+ +\d+ )\d+ ", r"\1N ", line)
    return re.sub(r" (use|delta-time)=\d+", "", line).rstrip()


def insert(space, *arguments: str) -> None:
    space.run("conntrack", "-I", "-t", "300", *arguments)


def insert_every_kind(space) -> int:
    """Return how many entries it has made: some kernels do not know all protocols."""
    for number, state in enumerate(
        [
            "SYN_SENT",
            "SYN_RECV",
            "ESTABLISHED",
            "FIN_WAIT",
            "CLOSE_WAIT",
            "LAST_ACK",
            "TIME_WAIT",
            "CLOSE",
        ]
    ):
        insert(
            space, "-s", "10.0.0.1", "-d", "10.0.0.2", "-p", "tcp", "--state", state,
            "--sport", str(1000 + number), "--dport", "443", "-u", "SEEN_REPLY,ASSURED",
        )  # fmt: skip
        insert(
            space, "-s", "2001:db8::1", "-d", "2001:db8::2", "-p", "tcp",
            "--state", state, "--sport", str(1000 + number), "--dport", "443",
        )  # fmt: skip
    for status in ("SEEN_REPLY", "SEEN_REPLY,ASSURED"):
        insert(space, "-s", "10.0.0.1", "-d", "10.0.0.2", "-p", "udp",
               "--sport", str(len(status)), "--dport", "53", "-u", status, "-m", "7")  # fmt: skip
    insert(space, "-s", "10.0.0.1", "-d", "10.0.0.2", "-p", "udp", "--sport", "5", "--dport", "53",
           "-w", "9")  # fmt: skip
    insert(space, "-s", "10.0.0.1", "-d", "10.0.0.2", "-p", "sctp", "--sport", "5", "--dport", "6",
           "--state", "ESTABLISHED", "--orig-vtag", "1", "--reply-vtag", "2")  # fmt: skip
    insert(space, "-s", "10.0.0.1", "-d", "10.0.0.2", "-p", "gre", "--srckey", "17",
           "--dstkey", "33")  # fmt: skip
    insert(space, "-s", "10.0.0.1", "-d", "10.0.0.2", "-p", "icmp", "--icmp-type", "8",
           "--icmp-code", "0", "--icmp-id", "99")  # fmt: skip
    insert(space, "-s", "2001:db8::1", "-d", "2001:db8::2", "-p", "icmpv6",
           "--icmpv6-type", "128", "--icmpv6-code", "0", "--icmpv6-id", "99")  # fmt: skip
    insert(space, "-s", "10.0.0.1", "-d", "10.0.0.2", "-p", "99")
    insert(space, "-s", "10.0.0.1", "-d", "10.0.0.2", "-p", "tcp", "--sport", "77",
           "--dport", "80", "--state", "ESTABLISHED", "-u", "SEEN_REPLY,ASSURED",
           "--src-nat", "203.0.113.1")  # fmt: skip
    insert(space, "-s", "10.0.0.1", "-d", "10.0.0.2", "-p", "udp", "--sport", "78",
           "--dport", "80", "--dst-nat", "10.0.0.3")  # fmt: skip
    with contextlib.suppress(RuntimeError):  # Newer kernels have no UDP-Lite.
        insert(space, "-s", "10.0.0.1", "-d", "10.0.0.2", "-p", "udplite", "--sport", "5",
               "--dport", "53")  # fmt: skip
    with contextlib.suppress(RuntimeError):  # Newer kernels have no DCCP.
        insert(space, "-s", "10.0.0.1", "-d", "10.0.0.2", "-p", "dccp", "--sport", "5",
               "--dport", "6", "--state", "OPEN", "--role", "client")  # fmt: skip
    return space.count()
