"""Names for what is not a table, by its first bytes.

People hand in what they have: the wrong option of conntrack(8), another program's table, a page
from a browser, a file that is still packed. A name says at once what went wrong.
"""

from __future__ import annotations

import re

from ..kernel.namedtuple import NamedTuple


class Form(NamedTuple):
    """The form of a file. remedy: how to make a table of it; empty where nothing can."""

    name: str
    remedy: str = ""


_WIDE_FORM = "UTF-16 text", "convert it with iconv -f UTF-16 -t UTF-8"
# The first bytes of files that are no text (file(1) knows more).
_MAGIC = (
    (b"\x1f\x8b", "gzip data within gzip data", "unpack it once"),
    (b"\xfd7zXZ\0", "xz data", "unpack it with xz -d"),
    (b"BZh", "bzip2 data", "unpack it with bzip2 -d"),
    (b"\x28\xb5\x2f\xfd", "zstd data", "unpack it with zstd -d"),
    (b"\x04\x22\x4d\x18", "lz4 data", "unpack it with lz4 -d"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"\xd4\xc3\xb2\xa1", "a packet capture (pcap)", ""),
    (b"\xa1\xb2\xc3\xd4", "a packet capture (pcap)", ""),
    (b"\x4d\x3c\xb2\xa1", "a packet capture (pcap)", ""),
    (b"\xa1\xb2\x3c\x4d", "a packet capture (pcap)", ""),
    (b"\x0a\x0d\x0d\x0a", "a packet capture (pcapng)", ""),
    (b"\x7fELF", "a program", ""),
    (b"%PDF", "a PDF document", ""),
    (b"\x89PNG", "a picture", ""),
    (b"\xff\xfe", *_WIDE_FORM),
    (b"\xfe\xff", *_WIDE_FORM),
)
_TAR = slice(257, 262), b"ustar"
_WIDE = re.compile(rb"(?:[\t\r\n -~]\0){8}|(?:\0[\t\r\n -~]){8}")
# Text, by what its first lines hold. The first that matches names it.
_TEXT = (
    (rb"<conntrack>|<flow>|<flow type=", "conntrack's XML (-o xml)"),
    (rb"(?i)\A\s*(?:<!doctype html|<html|<head)", "an HTML page"),
    (rb"\A\s*<\?xml", "XML"),
    (rb"\[(?:NEW|UPDATE|DESTROY)\]", "events of conntrack -E"),
    (rb"^-A .* -[sd] [0-9a-f.:]+ .*-[rq] [0-9a-f.:]+ ", "conntrack -o save"),
    (
        rb"\b(?:l3proto ?= ?[0-9]+ +)?proto ?= ?[0-9]+ +src=\S+ dst=\S+",
        "expectations (conntrack -L expect)",
    ),
    (rb"\borig=\(src=\S+\).*\breply=\(src=", "flows of Open vSwitch (ovs-appctl)"),
    (
        rb"^(?:TCP|UDP|ICMP\w*) (?:OUT|IN|SVC) \S+ -> \S+ ",
        "flows of Cilium (cilium bpf ct list)",
    ),
    (rb"(?i)IPVS connection entries", "connections of IPVS (ipvsadm -Lnc)"),
    (rb"\bcpu=[0-9]+\s+(?:found|searched|insert)", "counters (conntrack -S)"),
    (rb"^entries +(?:searched|clashres)\b", "counters (/proc/net/stat/nf_conntrack)"),
    (rb"\A\s*[0-9]+\s*\Z", "a number, as conntrack -C prints"),
    (rb"^Chain \S+ \(|^\*(?:filter|nat|mangle|raw)\b|^-[AP] [A-Z]", "rules of iptables"),
    (rb"^table (?:ip6?|inet|arp|bridge|netdev) \S+ \{", "rules of nftables"),
    (
        rb"^(?:Netid\s+State|State\s+Recv-Q|Active Internet connections|Proto Recv-Q)",
        "sockets (ss or netstat)",
    ),
    (
        rb"^(?:tcp|udp)[46]? +(?:(?:ESTAB|LISTEN|UNCONN|TIME-WAIT)\b|[0-9]+ +[0-9]+ +\S+[.:])",
        "sockets (ss or netstat)",
    ),
    (rb"\bIP6? \S+ > \S+: ", "packets as tcpdump prints them"),
    (rb"^\S+ (?:tcp|udp|icmp) \S+ (?:<-|->) \S+ +\S+:\S+", "states of pf (pfctl -ss)"),
    (rb"^net\.\S+ = ", "sysctls"),
    (rb"nf_conntrack: table full|kernel: \[", "a kernel log"),
    (
        (
            rb"^(?:[\w./-]+|conntrack v\S+ \(\S+\)): (?:[^:\n]+: )*"
            rb"(?:command not found|[Pp]ermission denied|[^:\n]*\bmust be root)\b"
        ),
        "an error message",
    ),
    (rb"\A\s*[\[{]", "JSON"),
)


def describe(start: bytes) -> Form | None:
    """Return what something is that is no table, by its first bytes; None where that is open."""
    for magic, name, remedy in _MAGIC:
        if start.startswith(magic):
            return Form(name, remedy)
    where, magic = _TAR
    if start[where] == magic:
        return Form("a tar archive", "unpack it")
    if _WIDE.match(start):
        return Form(*_WIDE_FORM)
    if b"\r" in start.rstrip() and b"\n" not in start:
        return Form("text with lines that end in CR alone", r"convert it with tr '\015' '\012'")
    for pattern, name in _TEXT:
        if re.search(pattern, start, re.MULTILINE):
            return Form(name)
    return None
