"""Differences between kernels, recorded for the table in docs/kernels.md.

Each test names what kernels are known to do. Another behaviour is news: look at what relies on it.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel import netlink
from support import features
from support.commands import NOBODY
from support.entries import new_entry
from support.netns import Namespace

ADDRESSES = {
    socket.AF_INET: [bytes((10, 0, 0, number)) for number in range(9)],
    socket.AF_INET6: [bytes.fromhex("20010db8") + bytes(11) + bytes((n,)) for n in range(9)],
}


def of_status(status):
    """A request for entries with a bit of the status."""
    word = struct.pack(">I", status)
    wanted = ct.attribute(ct.CTA_STATUS, word) + ct.attribute(ct.CTA_STATUS_MASK, word)
    flags = netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP
    return ct.message(ct.IPCTNL_MSG_CT_GET, flags, 1, socket.AF_INET, wanted)


@pytest.fixture
def space(need):
    need("ip", "nft", "conntrack", "unshare", "setpriv")
    with Namespace() as namespace:
        namespace.track()
        yield namespace


def of(family, **wanted):
    """A request for entries that match."""
    return ct.dump_request(1, ct.KernelFilter(family, **wanted))


IPV4, IPV6 = socket.AF_INET, socket.AF_INET6
ONE = {family: ct.TupleFilter(ADDRESSES[family][1]) for family in ADDRESSES}
# A filter that the first of eight entries matches, and what kernels do with it.
FILTERS = {
    "an IPv4 address": (of(IPV4, original=ONE[IPV4]), {"honoured"}),
    "an IPv6 address": (of(IPV6, original=ONE[IPV6]), {"honoured", "inverted"}),
    "a mark": (of(IPV4, mark=(3, 3)), {"honoured"}),
    "a zone": (of(IPV4, zone=5), {"honoured", "ignored"}),
    "a status": (of_status(ct.IPS_ASSURED), {"honoured", "ignored"}),
}
ANSWERS = {(1, *[0] * 7): "honoured", (0, *[1] * 7): "inverted", (1,) * 8: "ignored"}


@pytest.mark.parametrize("what", FILTERS)
def test_fact_kernel_filter(space, record_property, what):
    request, known = FILTERS[what]
    addresses = ADDRESSES[IPV6 if "IPv6" in what else IPV4]
    marked = {"zone": 5, "mark": 3, "status": ct.IPS_ASSURED}
    space.insert(
        new_entry(address, addresses[0], socket.IPPROTO_UDP, 4000, 53, **more)
        for address, more in zip(addresses[1:], (marked, *[{}] * 7))
    )
    dumped = b"".join(space.ask(request))
    # Each address is in the original and in the reply tuple.
    counts = tuple(dumped.count(address) // 2 for address in addresses[1:])
    told = ANSWERS.get(counts, str(counts))
    record_property(f"filter for {what}", told)
    assert told in known


def test_fact_names_in_the_log(need, record_property):
    need("ip", "nft", "conntrack")
    record_property(
        '"table full" names the namespace', "yes" if features.log_names_namespaces() else "no"
    )


def test_fact_length_of_hash_chains(space, record_property):
    record_property("length of hash chains", "limited" if features.limits_chains(space) else "any")


def test_fact_limit_of_zero(need, record_property):
    need()
    told = "accepted" if features.accepts_limit_of_zero() else "refused"
    record_property("nf_conntrack_max 0", told)


def test_fact_files_in_proc_net(need, record_property):
    need()
    there = {
        Path(path).exists() for path in ("/proc/net/nf_conntrack", "/proc/net/stat/nf_conntrack")
    }
    assert there == {features.has_procfs()}
    record_property("conntrack's files in /proc/net", "yes" if features.has_procfs() else "no")


@pytest.mark.parametrize("protocol", ["udplite", "dccp"])
def test_fact_protocol(space, record_property, protocol):
    words = ["-s", "10.0.0.1", "-d", "10.0.0.2", "--sport", "5", "--dport", "6", "-t", "300"]
    words += ["--state", "OPEN", "--role", "client"] if protocol == "dccp" else []
    space.run("conntrack", "-I", "-p", protocol, *words, check=False)
    entries = space.entries("-p", protocol)
    assert space.count() == len(entries)
    # Where the kernel does not know the protocol, an entry has no ports.
    tracked = [line for line in entries if "sport=5 dport=6" in line]
    record_property(f"ports of {protocol}", "tracked" if tracked else "not tracked")


def test_fact_namespace_of_another_user(space, record_property):
    """Record whether stat(2) of /proc/PID/ns/net tells that the privilege is missing."""
    path = f"/proc/{os.getpid()}/ns/net"
    done = subprocess.run([*NOBODY, "stat", "-L", "-c", "%F", path], capture_output=True, text=True)
    told = done.stdout.strip() or done.stderr.strip().rpartition(": ")[2]
    assert told in ("Permission denied", "directory")
    record_property("stat(2) of /proc/PID/ns/net without privileges", told)
