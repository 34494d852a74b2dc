"""A host that a test makes up for check_conntrack_full: its clocks, tables, counters and logs.

The front door and all behind it are the check's own; only what the kernel says is replaced.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from check_conntrack import namespaces, runner, session
from check_conntrack.full import evidence, full_check, namespace_reports
from check_conntrack.kernel import counters as kernel_counters
from check_conntrack.kernel import host as kernel_host
from check_conntrack.kernel import limits, privileges
from check_conntrack.kernel import namespaces as kernel_namespaces
from check_conntrack.kernel.limits import OWN, Limits
from check_conntrack.kernel.log import gather, journal, kmsg
from check_conntrack.kernel.reader_client import Frame
from check_conntrack.state import state_store
from support.contract import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

NOW = 1_795_000_000.0
BOOT = "b" * 32
MESSAGE = "nf_conntrack: nf_conntrack: table full, dropping packet"
DENIED = PermissionError(errno.EPERM, "Operation not permitted")
COLUMNS = ("entries", "found", "invalid", "insert", "insert_failed", "drop", "early_drop")
MORE_COLUMNS = ("search_restart", "clashres", "chainlength")


def stat(entries: int, values: dict[str, int]) -> bytes:
    """Return what /proc/net/stat/nf_conntrack says on a host with one CPU."""
    names = {"clash_resolve": "clashres", "chaintoolong": "chainlength"}
    told = {"entries": entries, **{names.get(name, name): n for name, n in values.items()}}
    columns = (*COLUMNS, *MORE_COLUMNS)
    line = " ".join(f"{told.get(name, 0):08x}" for name in columns)
    return f"{' '.join(columns)}\n{line}\n".encode()


class Namespace:
    """A network namespace: `counters` are None where they cannot be read."""

    def __init__(self, inode: int, entries: int = 10, limit: int = 10000, **counted: int) -> None:
        self.inode, self.entries, self.limit = inode, entries, limit
        self.counters: dict[str, int] | None = counted
        self.born: float | None = None


class Host:
    """The host; `at` is its wall clock and `up` its uptime in seconds.

    own: the namespace that the check runs in; None where conntrack is not active.
    others: further ones by their names under /run/netns.
    records: the ring buffer as (uptime, text), None where it takes CAP_SYSLOG.
    first_sequence: the number of the oldest record; not 0 where the buffer has wrapped.
    journal, journal_before: what journalctl prints of the window, and of what was before.
    refused: what sudo says; empty where it is not asked.
    """

    def __init__(self, folder: Path, monkeypatch, capfd) -> None:
        self.folder, self.capfd = folder, capfd
        self.state = folder / "state"
        self.log = folder / "kern.log"
        self.at, self.up, self.boot, self.module = NOW, 86400.0 * 10, BOOT, 7
        self.own: Namespace | None = Namespace(4026531840)
        self.others: dict[str, Namespace] = {}
        self.records: list[tuple[float, str]] | None = None
        self.first_sequence = 0
        self.problems: tuple[str, ...] = ()
        self.refused = ""
        patch = monkeypatch.setattr
        patch(session, "drop_privileges", lambda *options: (None, None))
        patch(privileges, "has", lambda _: False)
        patch(privileges, "is_root", lambda: False)
        patch(kernel_host, "available_memory", lambda: 8 << 30)
        patch(kernel_host, "runs_kube_proxy", lambda: False)
        patch(limits, "may_set_limits", lambda: True)
        patch(limits, "buckets_sysctl_writable", lambda: True)
        patch(namespaces, "scan", lambda *_: self._scan())
        patch(evidence, "own_inode", lambda: 4026531840)
        patch(evidence, "module_inode", lambda: self.module)
        patch(
            kernel_namespaces,
            "names",
            lambda: {one.inode: name for name, one in self.others.items()},
        )
        patch(kernel_namespaces, "births", lambda _: self._births())
        patch(kernel_counters, "read_text", self._own_counters)
        patch(namespace_reports.NamespaceReading, "_own_by_netlink", lambda _: (None, ""))
        patch(kmsg, "read_clock", lambda: kmsg.Clock(self.at, self.up, self.up))
        patch(state_store, "boot_id", lambda: self.boot)
        patch(gather, "FILES", ())
        patch(gather._Gathering, "_ring", lambda asking, clock: self._ring(clock, asking.ask))
        patch(journal, "read_journal", lambda words, _: self._journal(words))
        patch(session.Session, "stream", lambda asked, _: self._refuse(asked))
        patch(session.Session, "ask", lambda asked, _: self._refuse(asked))
        patch(session.Session, "may_ask", property(lambda _: bool(self.refused)))
        self.journal = journal.Journal(status=journal.MISSING, stderr="No such file or directory")
        self.journal_before = journal.Journal()

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.at += seconds
        self.up += seconds

    def reboots(self, down: float = 30.0) -> None:
        """Let the host boot again, with counters at zero."""
        self.at += down
        self.up, self.boot = 5.0, "c" * 32
        for one in (self.own, *self.others.values()):
            if one and one.counters is not None:
                one.counters = {}

    def line(self, ago: float, text: str = MESSAGE, host: str = "") -> str:
        """Return a line of a log file, by default of this host's."""
        import os

        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.at - ago)) + "+00:00"
        kernel = f"[{self.up - ago:13.6f}] " if ago < self.up else ""
        return f"{stamp} {host or os.uname().nodename} kernel: {kernel}{text}\n"

    def logs(self, *lines: str, written: float = 0.0) -> Path:
        """Write the log file, so many seconds ago; return its path."""
        import os

        self.log.write_text("".join(lines))
        os.utime(self.log, (self.at - written, self.at - written))
        return self.log

    def run(self, *arguments: object) -> Run:
        """Return the answer of the check, held to the contract."""
        self.capfd.readouterr()
        words = [*map(str, arguments)]
        if "--no-state" not in words and "--state-dir" not in words:
            words += ["--state-dir", str(self.state)]
        # More time than by default: a machine may be busy.
        patient = ["-t", "80", *words]
        code = runner.run(full_check.TITLE, full_check.parser(), full_check.run_check, patient)
        out, err = self.capfd.readouterr()
        assert "internal error" not in out, out
        return Run(code, out, err, words)

    def clock(self, ago: float = 0.0) -> str:
        """Return a time of today as the check prints it."""
        return time.strftime("%H:%M", time.localtime(self.at - ago))

    def _scan(self) -> kernel_namespaces.NamespaceScan:
        own = self.own
        frames = {}
        others = []
        for name, one in self.others.items():
            counted = one.counters
            data = b"" if counted is None else stat(one.entries, counted)
            code = errno.EACCES if counted is None else 0
            frames[one.inode] = {"stat": Frame(one.inode, code, "stat", "", data)}
            known = Limits(one.entries, one.limit)
            path = f"/run/netns/{name}"
            namespace = kernel_namespaces.Namespace(
                name, path, one.inode, known, one.born or 0.0, f"{name}::"
            )
            others.append(namespace)
        first = None
        if own:
            known = Limits(own.entries, own.limit, 2048)
            first = kernel_namespaces.Namespace("", OWN, own.inode, known)
        return kernel_namespaces.NamespaceScan(
            first,
            tuple(others),
            self.problems,
            () if own else ("on this host",),
            frames=frames,
        )

    def _births(self) -> dict[int, float]:
        return {one.inode: one.born for one in self.others.values() if one.born is not None}

    def _own_counters(self) -> kernel_counters.KernelCounters:
        if self.own is None or self.own.counters is None:
            raise PermissionError(errno.EACCES, "Permission denied")
        return kernel_counters.parse_text(stat(self.own.entries, self.own.counters))

    def _ring(self, clock: kmsg.Clock, ask: Callable | None) -> kmsg.Ring:
        if self.records is None:
            if ask:
                list(ask([b"log"]))
            raise DENIED
        raws = [
            f"4,{number},{int(up * 1e6)},-;{text}\n".encode()
            for number, (up, text) in enumerate(self.records, self.first_sequence)
        ]
        return kmsg.digest(raws, clock, self.boot)

    def _journal(self, words: Sequence[str]) -> journal.Journal:
        probing = any(word.startswith("--lines") for word in words)
        return self.journal_before if probing else self.journal

    def _refuse(self, asked: session.Session) -> None:
        asked.forbidden = True
        raise session.ForbiddenError(self.refused or "permission denied")
