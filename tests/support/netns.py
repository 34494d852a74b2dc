"""Network namespaces to test in, and the programs run in them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import socket
import struct
import subprocess
import time
import uuid
from typing import TYPE_CHECKING, Callable

from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel import netlink
from support import guard
from support.entries import new_entry
from support.machine import limit_lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    """Wait until the condition holds; return whether it does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Namespace:
    """A network namespace, made on entering the context and removed on leaving it.

    `name` is its name under /run/netns.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name or f"cct-{uuid.uuid4().hex[:8]}"
        self._stack = contextlib.ExitStack()
        self._filled = 0

    def __enter__(self) -> Namespace:
        self._stack.enter_context(guard.undone_if_killed(guard.remove_command(self.name)))
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self._stack.callback(self.remove)
        try:
            self.run("ip", "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def remove(self) -> None:
        """Remove it and end the processes in it."""
        subprocess.run(guard.remove_command(self.name), check=False, capture_output=True)

    @property
    def path(self) -> str:
        """The file that leads into it."""
        return f"/run/netns/{self.name}"

    @property
    def inode(self) -> int:
        """The number by which the kernel calls it."""
        return os.stat(self.path).st_ino

    def command(self, *words: object) -> list[str]:
        """Return the command line that runs a command in this namespace."""
        return ["ip", "netns", "exec", self.name, *map(str, words)]

    def run(self, *words: object, text: str | None = None, check: bool = True) -> str:
        """Run a command inside; return its output, raise RuntimeError where it fails."""
        done = subprocess.run(self.command(*words), input=text, capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout

    def shell(self, script: str) -> str:
        """Run lines of shell inside, up to the first that fails."""
        return self.run("sh", "-ec", script)

    def nft(self, rules: str) -> None:
        """Load a ruleset."""
        self.run("nft", "-f", "-", text=rules)

    def ip(self, lines: str) -> None:
        """Run lines of ip(8), as in `link set lo up`."""
        self.run("ip", "-batch", "-", text=lines)

    def sysctl(self, **values: object) -> None:
        """Set sysctls of this namespace: names below net, with `__` for each dot."""
        with self.inside():
            for name, value in values.items():
                with open("/proc/sys/net/" + name.replace("__", "/"), "w") as file:
                    file.write(str(value))

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Enter it with this thread; sockets made here stay here."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(self.path, os.O_RDONLY)
        try:
            _setns(there)
            try:
                yield
            finally:
                _setns(before)
        finally:
            os.close(there)
            os.close(before)

    def track(self) -> None:
        """Have the connections of this namespace tracked, its own and forwarded ones."""
        self.nft(
            "table inet tracked {\n"
            "  chain forward { type filter hook forward priority 0; ct state new counter; }\n"
            "  chain output { type filter hook output priority 0; ct state new counter; }\n"
            "  chain input { type filter hook input priority 0; ct state new counter; }\n"
            "}\n"
        )

    def count(self) -> int:
        """Return how many entries the kernel counts here."""
        with self.inside(), open("/proc/sys/net/netfilter/nf_conntrack_count") as file:
            return int(file.read())

    def netlink(self) -> socket.socket:
        """Return a NETLINK_NETFILTER socket of this namespace."""
        with self.inside():
            link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETLINK_NETFILTER)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        link.bind((0, 0))
        return link

    def insert(self, messages: Iterable[bytes]) -> None:
        """Send NEW messages in bulk; raises OSError with the first error the kernel reports."""
        with self.netlink() as link:
            pending: list[bytes] = []
            for message in messages:
                pending.append(message)
                if len(pending) == 256:
                    link.send(b"".join(pending))
                    pending.clear()
                    _first_error(link)
            if pending:
                link.send(b"".join(pending))
            _first_error(link)

    def fill(self, entries: int) -> None:
        """Add assured UDP entries until there are so many.

        Assured, for above 95 % of its limit the kernel evicts others for a minute after any table
        on the machine was too full for an insert (gc_worker() in nf_conntrack_core.c).
        """
        local = bytes((127, 0, 0, 1))
        with limit_lock():
            self.insert(
                new_entry(
                    local,
                    bytes((127, 1, number // 30000, 1)),
                    socket.IPPROTO_UDP,
                    40000,
                    1 + number % 30000,
                    status=ct.IPS_ASSURED,
                    timeout=3600,
                )
                for number in range(self._filled, entries)
            )
        self._filled = entries
        assert self.count() == entries

    def flush(self) -> None:
        """Remove all entries."""
        self.run("conntrack", "-F")
        self._filled = 0

    def ask(self, request: bytes) -> Iterator[bytes]:
        """Send a ctnetlink request; return the raw answers, each as one recv gives it.

        A dump is read up to NLMSG_DONE or an error, anything else is one answer.
        """
        dump = struct.unpack_from("=H", request, 6)[0] & netlink.NLM_F_DUMP == netlink.NLM_F_DUMP
        with self.netlink() as link:
            link.send(request)
            while True:
                answer = link.recv(65536)
                yield answer
                kind = int.from_bytes(answer[4:6], "little")
                if not dump or kind in (netlink.NLMSG_DONE, netlink.NLMSG_ERROR) or ends(answer):
                    return

    def dump(self, wanted: ct.KernelFilter | None = None) -> Iterator[bytes]:
        """Return the raw batches of a dump of the table."""
        return self.ask(ct.dump_request(secrets.randbits(32), wanted))

    def entries(self, *filters: object) -> list[str]:
        """Return the entries that conntrack(8) lists, as lines."""
        return self.run("conntrack", "-L", "-o", "extended", *filters).splitlines()


def ends(batch: bytes) -> bool:
    """Return whether the last message is NLMSG_DONE (20 bytes without extended errors)."""
    last = batch[-20:]
    return len(last) == 20 and struct.unpack_from("=IH", last) == (20, netlink.NLMSG_DONE)


def _first_error(link: socket.socket) -> None:
    while True:
        try:
            answer = link.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        code = -struct.unpack_from("=i", answer, 16)[0]
        # EBUSY, EOPNOTSUPP: the flow is there already and would have to be changed.
        if code not in (0, errno.EEXIST, errno.EBUSY, errno.EOPNOTSUPP):
            raise OSError(code, os.strerror(code))


class Container(Namespace):
    """A network namespace without a name, held open by a process alone."""

    def __init__(self, *command: str) -> None:
        super().__init__()
        self._holder = command or ("sleep", "600")
        self.pid = 0

    def __enter__(self) -> Container:
        with contextlib.ExitStack() as stack:
            process = subprocess.Popen(["unshare", "-n", *self._holder])
            stack.callback(process.wait)
            stack.callback(process.kill)
            stack.enter_context(guard.undone_if_killed(["kill", "-9", str(process.pid)]))
            self.pid = process.pid
            own = os.stat("/proc/self/ns/net").st_ino
            assert wait_until(lambda: self.inode != own)
            self.run("ip", "link", "set", "lo", "up")
            self._stack = stack.pop_all()
        return self

    @property
    def path(self) -> str:
        return f"/proc/{self.pid}/ns/net"

    def command(self, *words: object) -> list[str]:
        return ["nsenter", f"--net={self.path}", *map(str, words)]
