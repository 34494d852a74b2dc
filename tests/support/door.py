"""The front door in this process: a check, what the kernel and programs tell it, what it prints.

A real process takes a tenth of a second, which is too long for thousands. The edges are replaced,
all between them is the check's own. Run holds every answer to the contract.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from check_conntrack import runner, session
from check_conntrack.full import full_check
from check_conntrack.kernel import (
    conntrack_cli,
    counters,
    host,
    limits,
    namespace_request,
    privileges,
    reader_client,
    reader_command,
    source,
    timeouts,
)
from check_conntrack.kernel import (
    reader as kernel_reader,
)
from check_conntrack.kernel.log import gather, journal, kmsg
from check_conntrack.table import table_check
from check_conntrack.usage import usage_check
from support.contract import Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULES = {"usage": usage_check, "full": full_check, "table": table_check}
# 0: what CI runs, the same each time. Else new examples for so long, all tests together.
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
EXAMPLES = 40
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)
executions: dict[str, int] = {}


def fuzz(name: str, seconds: float, examples: int, strategy, body) -> None:
    """Call `body` with examples of the strategy: so many, or again and again for the seconds."""

    @settings(
        max_examples=examples,
        derandomize=not seconds,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def one(example):
        executions[name] = executions.get(name, 0) + 1
        body(example)

    until = time.monotonic() + seconds
    one()
    while time.monotonic() < until:
        one()


@contextmanager
def _kept_signals() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    timer = signal.getitimer(signal.ITIMER_REAL)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


@contextmanager
def _caught() -> Iterator[tuple[int, int]]:
    """Standard output and standard error as files, for as long."""
    sys.stdout.flush()
    sys.stderr.flush()
    files = os.memfd_create("out"), os.memfd_create("err")
    before = os.dup(1), os.dup(2)
    try:
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        yield files
    finally:
        for number, old in enumerate(before, 1):
            os.dup2(old, number)
            os.close(old)
        for file in files:
            os.close(file)


def _read(file: int) -> str:
    return os.pread(file, 1 << 22, 0).decode("ascii")


class Door:
    """A host that a test makes up, and the way to a check on it.

    `sysctls` are bytes or error numbers by the last part of their names, `counters` what /proc
    tells of them, `answer` what the reader writes (None where it may not be asked),
    `journal` and `listing` what the programs print, `status` how they end.
    """

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state.mkdir(mode=0o755)
        self.sysctls: dict[str, bytes | int] = {}
        self.counters: bytes | int = errno.ENOENT
        self.answer: bytes | None = None
        self.journal = b""
        self.status = 0
        self.reset()
        patch = monkeypatch.setattr
        patch(session, "drop_privileges", lambda *options: (None, None))
        patch(privileges, "has", lambda _: False)
        patch(privileges, "is_root", lambda: False)
        patch(host, "runs_kube_proxy", lambda: False)
        patch(limits, "read_file", self._sysctl)
        patch(limits, "conntrack_trace", lambda: "")
        patch(namespace_request, "conntrack_trace", lambda: "")
        patch(timeouts, "read_file", self._sysctl)
        patch(counters, "read_text", self._counters)
        patch(kmsg, "open_kmsg", self._forbidden)
        patch(gather, "FILES", ())
        patch(journal, "journal_arguments", lambda *_, **__: self._program("journal"))
        patch(conntrack_cli, "CONNTRACK_PATHS", (str(folder / "conntrack"),))
        patch(kernel_reader, "require_ctnetlink", lambda: None)
        patch(session.Session, "may_ask", property(lambda _: self.answer is not None))
        patch(reader_command, "reader_command", lambda *, sudo: self._program("answer"))
        patch(session.Session, "_reader", lambda asked: self._reader(asked))  # noqa: PLW0108

    def reset(self) -> None:
        """A host in good order, with 1000 of 10000 entries."""
        self.sysctls = {"count": b"1000\n", "max": b"10000\n", "buckets": b"2048\n"}
        self.counters = errno.ENOENT
        self.answer, self.journal, self.status = None, b"", 0
        self.lists(b"")

    def lists(self, data: bytes) -> None:
        """Let conntrack(8) print this."""
        script = self.folder / "conntrack"
        (self.folder / "listing").write_bytes(data)
        script.write_text(f"#!/bin/sh\ncat {self.folder}/listing\nexit {self.status}\n")
        script.chmod(0o755)

    def _sysctl(self, path: str, most: int = 4096) -> source.FileReading:
        value = self.sysctls.get(path.rpartition("nf_conntrack_")[2], errno.ENOENT)
        if isinstance(value, int):
            return source.FileReading(path, errno=value)
        return source.FileReading(path, value[:most])

    def _counters(self) -> counters.KernelCounters:
        if isinstance(self.counters, int):
            raise OSError(self.counters, os.strerror(self.counters))
        return counters.parse_text(self.counters)

    def _forbidden(self) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def _program(self, what: str) -> list[str]:
        file = self.folder / what
        file.write_bytes(getattr(self, what) or b"")
        taking = "cat >/dev/null; " if what == "answer" else ""
        return ["/bin/sh", "-c", f"{taking}cat {file}; exit {self.status}"]

    def _reader(self, asked: session.Session) -> reader_client.Reader:
        if self.answer is None:
            asked.forbidden = True
            raise session.ForbiddenError("permission denied (use --sudo)")
        return asked._stack.enter_context(
            reader_client.Reader(reader_command.reader_command(sudo=True))
        )

    def run(self, name: str, *words: str) -> Run | None:
        """Return a check's answer, held to the contract; None for the page that was asked for."""
        check = MODULES[name]
        arguments = [*words, "--state-dir", str(self.state)]
        with _kept_signals(), _caught() as (out, err):
            code = runner.run(check.TITLE, check.parser(), check.run_check, arguments)
            answer = code, _read(out), _read(err)
        if answer[1].startswith(("usage: check_", "check_")):
            assert (code, answer[2]) == (3, "")
            return None
        answered = Run(*answer, arguments)
        assert "internal error" not in answered.out, answered.out
        return answered


def mutated(*seeds: bytes) -> st.SearchStrategy[bytes]:
    """Something of the seeds: cut, repeated, with bytes changed; or any bytes at all."""

    def change(parts: tuple[bytes, list[tuple[int, bytes]], int, int]) -> bytes:
        data, changes, keep, times = parts
        for number, piece in changes:
            at = number % (len(data) + 1)
            data = data[:at] + piece + data[at + len(piece) :]
        return (data[: len(data) * keep // 100] if keep < 100 else data) * times

    pieces = st.one_of(
        st.binary(max_size=4),
        st.sampled_from([b"\n", b"\0", b"|", b"\x1b[31m", b" ", b"99999999999", b"-1", b"\xff"]),
    )
    return st.one_of(
        st.binary(max_size=200),
        st.tuples(
            st.sampled_from(seeds),
            st.lists(st.tuples(st.integers(0, 5000), pieces), max_size=4),
            st.one_of(st.just(100), st.integers(0, 100)),
            st.sampled_from([1, 1, 1, 2, 7]),
        ).map(change),
    )
