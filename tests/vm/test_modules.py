"""Checks where nf_conntrack is a module that goes and comes back: in a machine of its own only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from check_conntrack.kernel import reader as kernel_reader
from support import overflow
from support.commands import NOBODY
from support.netns import Namespace, wait_until

OURS = ("nf_", "nft_", "nfnetlink", "xt_", "x_tables", "ip_tables", "ip6_tables", "iptable_")
CONNTRACK = ("nf_conntrack", "nf_conntrack_netlink")


class Host(Namespace):
    """The namespace that the tests run in, as one to overflow."""

    path = "/proc/self/ns/net"

    def command(self, *words):
        return [*map(str, words)]


def loaded():
    """The modules that are loaded, and how many others use each."""
    lines = Path("/proc/modules").read_text().splitlines()
    return {line.split()[0]: int(line.split()[2]) for line in lines}


def unload():
    """Remove nf_conntrack and all that uses it; namespaces are taken down in their own time."""

    def gone():
        unused = [name for name, users in loaded().items() if not users and name.startswith(OURS)]
        subprocess.run(["rmmod", *unused], capture_output=True)
        return "nf_conntrack" not in loaded()

    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert wait_until(gone, 60), loaded()


def load():
    subprocess.run(["modprobe", "-a", *CONNTRACK], check=True)


@pytest.fixture
def host(need):
    """The host's namespace, where connections are tracked and lost; loaded modules afterwards."""
    need("ip", "nft", "conntrack", "modprobe", "rmmod")
    if not os.environ.get("CHECK_CONNTRACK_VM"):
        pytest.skip("unloads modules: only in the machine of make kernels")
    made = Host("host")
    made.run("ip", "route", "add", "local", "10.0.0.0/8", "dev", "lo")
    try:
        yield made
    finally:
        subprocess.run(["ip", "route", "del", "local", "10.0.0.0/8", "dev", "lo"])
        subprocess.run(["nft", "flush", "ruleset"])
        load()


def test_full_keeps_the_drops_of_a_module_that_was_loaded_anew(host, full, tmp_path):
    tmp_path.chmod(0o755)
    log = tmp_path / "kern.log"
    stamp = [
        time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - n)) for n in (9e4, 1)
    ]
    log.write_text("".join(f"{each} router kernel: all is quiet\n" for each in stamp))
    log.chmod(0o644)

    def check():
        # Root reads the counters also where conntrack has no files in /proc/net.
        return full("--log", log, user=())

    def lose():
        before = check()
        host.track()
        overflow.overflow(host, datagrams=20)
        after = check()
        return before, after

    load()
    before, lossy = lose()
    assert "full_drops" not in before.perfdata or before.value("full_drops") == 0
    assert lossy.value("full_drops") >= 15, lossy.out
    unload()
    without = check()
    assert "conntrack is not active on this host" in without.status
    load()
    anew = check()
    assert anew.value("drop_total") == 0, anew.out
    _, again = lose()
    assert 15 <= again.value("drop_total") < lossy.value("drop_total") + 15
    assert again.value("full_drops") == lossy.value("full_drops") + again.value("drop_total"), (
        again.out
    )


ALL = ("--netns", "all")
# Options, and the user: root, or one who may start the reader.
RUNS = (((), ()), (ALL, ()), (("--sudo", *ALL), NOBODY))


def test_checks_load_no_module(host, usage, full, table, sudoers):
    with Namespace():
        unload()
        before = loaded().keys()
        for check in (usage, full, table):
            for words, user in RUNS:
                check(*words, user=user)
                assert loaded().keys() == before, (check, words)


REQUESTS = (
    *((what, "processes") for what in ("limits", "counters", "table", "text", "timeouts")),
    ("owners", "processes"),
    ("table", "/proc/self/ns/net", "2:"),
    ("table", "/proc/self/ns/net", "0:080008000200000f"),  # a mark
    ("events", "/proc/self/ns/net", "100"),
    ("log",),
)


def test_requests_of_the_reader_load_no_module(host):
    with Namespace():
        unload()
        before = loaded().keys()
        for fields in REQUESTS:
            request = "".join(f"{field}\0" for field in fields).encode()
            done = subprocess.run(
                [sys.executable, "-ISB", kernel_reader.__file__],
                input=request, capture_output=True, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, fields
            assert done.stdout.endswith(b"end\n"), fields
            assert loaded().keys() == before, fields
