"""A real table that overflows, for the tests of what the kernel says then."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import uuid

import pytest

from support.rig import limit_lock

SYSCTL = "/proc/sys/net/netfilter/"
JOURNALD = "/lib/systemd/systemd-journald"


def need(*programs: str) -> None:
    """Skip the test where it cannot be made; in CI it has to be."""
    missing = [program for program in programs if shutil.which(program) is None]
    if os.geteuid() != 0:
        missing.insert(0, "root")
    if missing and os.environ.get("CI"):
        pytest.fail(f"needs {', '.join(missing)}, and nothing may be skipped in CI")
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


@contextlib.contextmanager
def machine_wide(**values: int):
    """Set sysctls of conntrack that belong to the whole machine, and put them back.

    Others test on the same machine: one at a time.
    """
    with limit_lock():
        former = {}
        for name in values:
            with open(SYSCTL + name) as file:
                former[name] = file.read().strip()
        try:
            for name, value in values.items():
                with open(SYSCTL + name, "w") as file:
                    file.write(str(value))
            yield
        finally:
            for name, value in former.items():
                with open(SYSCTL + name, "w") as file:
                    file.write(value)


@contextlib.contextmanager
def namespace():
    """A fresh network namespace that tracks connections; yields its name."""
    name = f"full-{uuid.uuid4().hex[:10]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        inside(name, "ip", "link", "set", "lo", "up")
        inside(name, "ip", "route", "add", "local", "10.0.0.0/8", "dev", "lo")
        inside(
            name,
            "nft",
            "add table inet t; add chain inet t o "
            "{ type filter hook output priority 0; }; add rule inet t o ct state new accept",
        )
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)


def inside(name: str, *command: str) -> str:
    """Run a command in the namespace; return what it printed."""
    done = subprocess.run(
        ["ip", "netns", "exec", name, *command], check=True, capture_output=True, text=True
    )
    return done.stdout


def inode(name: str) -> int:
    """The inode that the kernel calls the namespace by."""
    return os.stat(f"/run/netns/{name}").st_ino


_SEND = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(int(sys.argv[1]), int(sys.argv[2])):
    try:
        s.sendto(b"x", (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", 9))
    except OSError:
        pass
"""


def send(name: str, first: int, last: int) -> None:
    """Send a datagram each to so many addresses, which makes as many entries or losses."""
    inside(name, "python3", "-c", _SEND, str(first), str(last))


def fill_assured(name: str, count: int) -> None:
    """Make entries that the kernel does not evict."""
    for number in range(count):
        inside(
            name,
            "conntrack",
            "-I",
            "-p",
            "tcp",
            "-s",
            "10.1.0.1",
            "-d",
            "10.1.0.2",
            "--sport",
            str(1000 + number),
            "--dport",
            "80",
            "--state",
            "ESTABLISHED",
            "-u",
            "ASSURED,SEEN_REPLY",
            "-t",
            "300",
        )


def overflow(name: str, limit: int = 8, datagrams: int = 200) -> None:
    """Fill a table to its limit with what may not be evicted, and go on."""
    inside(name, "conntrack", "-F")  # what an earlier overflow has left
    fill_assured(name, limit)
    with machine_wide(nf_conntrack_max=limit):
        send(name, 0x020001, 0x020001 + datagrams)


def wait_until(condition, seconds: float = 20.0) -> bool:
    """Wait until the condition holds; tell whether it does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False


def netlink(name: str, request: bytes, *, dump: bool) -> bytes:
    """Send a ctnetlink request in the namespace; return the raw replies."""
    code = (
        "import socket,sys;s=socket.socket(16,3,12);s.bind((0,0));"
        f"s.send(bytes.fromhex('{request.hex()}'))\n"
        "while True:\n"
        "    d=s.recv(65536);sys.stdout.write(d.hex())\n"
        f"    if not {dump} or d[4:6]==b'\\x03\\0' or d[4:6]==b'\\x02\\0' or "
        "b'\\x14\\0\\0\\0\\x03\\0' in d: break\n"
    )
    return bytes.fromhex(inside(name, "python3", "-c", code))


_JOURNALD = """
mount -t tmpfs none /run && mkdir -p /var/log/journal && mount -t tmpfs none /var/log/journal
mkdir -p /run/systemd /etc/systemd && mount -t tmpfs none /etc/systemd
printf '[Journal]\\nStorage=volatile\\nAudit=no\\n' > /etc/systemd/journald.conf
if test -n "$3"; then
    echo "$3" > /run/boot_id && mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
fi
"$1" & journald=$!
sleep 2
kill $journald; wait $journald
cp -r /run/log/journal/. "$2"/
"""


def journal(folder: str, boot: str = "") -> None:
    """Let a real systemd-journald read the ring buffer into a journal in the folder."""
    need("journalctl", "unshare")
    if not os.path.exists(JOURNALD):
        need("systemd-journald")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", _JOURNALD, "sh", JOURNALD, folder, boot],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert any(files for _, _, files in os.walk(folder)), done.stderr


def kill(process: subprocess.Popen) -> None:
    """End a helper of a test."""
    process.send_signal(signal.SIGKILL)
    process.wait()
