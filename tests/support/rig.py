"""A real conntrack to test against: namespaces, entries in them, the machine's limit."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from check_conntrack.kernel import ctnetlink as ct
from support import flows_rig

SYSCTLS = Path("/proc/sys/net/netfilter")
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")

# One datagram to each port of each address makes one entry: nobody listens, and the kernel's
# refusals belong to the entries that are there.
FILL = """
import socket, sys
count = int(sys.argv[1])
with open("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "w") as file:
    file.write("3600")
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.bind(("127.0.0.1", 40000))
first = int(sys.argv[2])
for number in range(first, first + count):
    address = ("127.1.%d.1" % (number // 30000), 1 + number % 30000)
    for _ in range(3):
        try:
            sender.sendto(b"", address)
            break
        except ConnectionRefusedError:
            pass
"""


class Result(NamedTuple):
    """What a check printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def status(self) -> str:
        """The status line without its perfdata."""
        return self.out.partition("\n")[0].partition(" | ")[0]

    @property
    def perfdata(self) -> dict[str, str]:
        """Perfdata in order: label → value with unit and thresholds, as printed."""
        found = {}
        text = self.out.partition("\n")[0].partition(" | ")[2]
        while text:
            label, _, rest = text.partition("=")
            item, _, text = rest.partition(" ")
            found[label.strip("'")] = item
        return found

    def value(self, label: str) -> float:
        """The number of a label."""
        return float(self.perfdata[label].partition(";")[0].rstrip("%sc"))

    @property
    def lines(self) -> list[str]:
        """The long output."""
        return self.out.splitlines()[1:]


def run(*command: object, **options: object) -> Result:
    """Run a command to its end."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, **options)
    return Result(done.returncode, done.stdout, done.stderr)


class Netns:
    """A network namespace of our own whose connections are tracked."""

    def __init__(self) -> None:
        self.name = f"cct-{uuid.uuid4().hex[:8]}"
        self._entries = 0
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        try:
            subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True)
            rules = "add table ip t; add chain ip t o { type filter hook output priority 0; };"
            self.exec("nft", rules + "add rule ip t o ct state new accept")
        except BaseException:
            self.remove()
            raise

    @property
    def inode(self) -> int:
        """What the kernel calls it."""
        return os.stat(f"/run/netns/{self.name}").st_ino

    def command(self, *words: object) -> list[str]:
        """The command line that runs a command in this namespace."""
        return ["ip", "netns", "exec", self.name, *map(str, words)]

    def exec(self, *words: object) -> str:
        """What a command prints that runs in this namespace and succeeds."""
        done = subprocess.run(self.command(*words), check=True, capture_output=True, text=True)
        return done.stdout

    def fill(self, entries: int) -> None:
        """Add UDP entries until there are so many.

        The kernel evicts none of them, as it does with others above 95 % of its limit for a minute
        after any table on the machine was too full for an insert (gc_worker(), early_drop() in
        nf_conntrack_core.c).
        """
        messages = [
            flows_rig.new_entry(
                bytes((127, 0, 0, 1)),
                bytes((127, 1, number // 30000, 1)),
                socket.IPPROTO_UDP,
                40000,
                1 + number % 30000,
                status=ct.IPS_ASSURED,
                timeout=3600,
            )
            for number in range(self._entries, entries)
        ]
        with limit_lock():
            flows_rig.Namespace(self.name).insert(messages)
        self._entries = entries
        assert self.count() == entries

    def count(self) -> int:
        """How many entries the kernel counts."""
        return int(self.exec("cat", SYSCTLS / "nf_conntrack_count"))

    def remove(self) -> None:
        """Leave nothing behind."""
        subprocess.run(["ip", "netns", "del", self.name], check=True)


_held = [0]


@contextmanager
def limit_lock():
    """Nobody else who tests conntrack on this machine changes its limit meanwhile."""
    with open(Path(tempfile.gettempdir()) / "nf_conntrack_max.lock", "w") as lock:
        if not _held[0]:
            fcntl.flock(lock, fcntl.LOCK_EX)
        _held[0] += 1
        try:
            yield
        finally:
            _held[0] -= 1


@contextmanager
def machine_limit(limit: int):
    """Set the limit of the whole machine for a moment."""
    with limit_lock():
        before = (SYSCTLS / "nf_conntrack_max").read_text()
        try:
            (SYSCTLS / "nf_conntrack_max").write_text(str(limit))
            yield limit
        finally:
            (SYSCTLS / "nf_conntrack_max").write_text(before)


def hidden(script: str) -> list[str]:
    """A prefix that runs a command with other sysctls: a script for a mount namespace first."""
    return ["unshare", "-m", "sh", "-c", f'set -e; {script}; exec "$@"', "sh"]
