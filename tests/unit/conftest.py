"""Fakes at the edges: the kernel's small files, the clock, whom the check becomes."""

from __future__ import annotations

import errno
import os
import signal
import time
import types

import pytest
from hypothesis import HealthCheck, settings

from check_conntrack import reports, runner, session
from check_conntrack.kernel import (
    conntrack_cli,
    destinations,
    host,
    limits,
    namespace_request,
    namespaces,
    privileges,
    reader_client,
    source,
    timeouts,
)
from check_conntrack.kernel import (
    reader as kernel_reader,
)
from check_conntrack.state import state_store
from check_conntrack.table import table_check
from check_conntrack.usage import usage_check
from support.contract import Run

settings.register_profile(
    "unit",
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Let no check that runs in this process end it: a busy machine may be late."""
    monkeypatch.setattr("check_conntrack.signals.LEAST_LEFT", 60.0)
    monkeypatch.setattr("check_conntrack.signals.Stage.watch", lambda _: None)


# Checks that run in this process have more time than by default: a machine may be busy.
PATIENT = ("-t", "80")
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)


@pytest.fixture
def signals():
    """Put back the handlers and the timer that a check takes, pytest-timeout's among them."""
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    timer = signal.getitimer(signal.ITIMER_REAL)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


class Sysctls(dict):
    """The files that the check reads its limits from: bytes, or an error number."""

    def holds(self, entries, limit, buckets=None, base=limits.NEW):
        self.clear()
        for name, value in (("count", entries), ("max", limit), ("buckets", buckets)):
            if value is not None:
                self[base + name] = value if isinstance(value, bytes) else b"%d\n" % value

    def read(self, path, most=4096):
        value = self.get(path, errno.ENOENT)
        if isinstance(value, int):
            return source.FileReading(path, errno=value)
        return source.FileReading(path, value[:most])


@pytest.fixture
def sysctls(monkeypatch):
    """The kernel's answer, 1000 of 10000 entries until told otherwise."""
    fake = Sysctls()
    fake.holds(1000, 10000, 2048)
    monkeypatch.setattr(limits, "read_file", fake.read)
    monkeypatch.setattr(limits, "conntrack_trace", lambda: "")
    monkeypatch.setattr(namespace_request, "conntrack_trace", lambda: "")
    return fake


@pytest.fixture
def clock(monkeypatch):
    """The time: `now` in seconds since boot, `today` in seconds since 1970."""
    fake = types.SimpleNamespace(
        now=5000.0,
        today=1_800_000_000.0,
        CLOCK_BOOTTIME=7,
        clock_gettime=lambda which: fake.now,
        time=lambda: fake.today,
    )
    monkeypatch.setattr(reports, "time", fake)
    return fake


@pytest.fixture
def check(monkeypatch, tmp_path, capfd, signals, sysctls, clock):
    """Run check_conntrack_usage in this process, with its privileges, and hold it to account."""
    monkeypatch.setattr(session, "drop_privileges", lambda *options: (None, None))
    monkeypatch.setattr(privileges, "has", lambda _: False)
    monkeypatch.setattr(privileges, "is_root", lambda: False)
    monkeypatch.setattr(host, "runs_kube_proxy", lambda: False)
    monkeypatch.setattr(host, "available_memory", lambda: 8 << 30)
    monkeypatch.setattr(limits, "may_set_limits", lambda: True)
    monkeypatch.setattr(limits, "buckets_sysctl_writable", lambda: True)
    monkeypatch.setenv(state_store.STATE_VARIABLE, str(tmp_path / "state"))

    def run(*arguments):
        capfd.readouterr()
        words = [*PATIENT, *arguments]
        code = runner.run(usage_check.TITLE, usage_check.parser(), usage_check.run_check, words)
        out, err = capfd.readouterr()
        return Run(code, out, err, arguments)

    return run


@pytest.fixture
def help_page(capfd, signals):
    """Run the check for a page that is no verdict: its exit code, output and standard error."""

    def run(*arguments):
        capfd.readouterr()
        code = runner.run(
            usage_check.TITLE, usage_check.parser(), usage_check.run_check, list(arguments)
        )
        return (code, *capfd.readouterr())

    return run


@pytest.fixture
def netns(monkeypatch, tmp_path):
    """Network namespaces that are names and inode numbers alone: netns(name=inode, ...).

    A name with a slash is a path. None for an inode: there is something that may not be seen.
    """
    directory = tmp_path / "netns"
    directory.mkdir()
    monkeypatch.setattr(namespaces, "DIRECTORY", str(directory))
    monkeypatch.setattr(namespaces, "mounts", dict)
    device = os.stat("/proc/self/ns/net").st_dev
    known = {}
    real = os.stat

    def stat(path, *arguments, **options):
        if path in known:
            if known[path] is None:
                raise PermissionError(errno.EACCES, "Permission denied")
            fields = [0] * 10
            fields[1], fields[2] = known[path], device
            return os.stat_result(fields)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)

    def make(named=(), **more):
        for name, inode in {**dict(named), **more}.items():
            path = name if "/" in name else str(directory / name)
            known[path] = inode
            if "/" not in name:
                (directory / name).touch()
        return directory

    return make


class Reader:
    """The reader's answers: frames by what is asked, or an error; `asked` are the requests."""

    def __init__(self):
        self.answers = {}
        self.asked = []

    def hands_out(self, what, *pieces, path="/proc/self/ns/net", file=None, inode=4026531840):
        """A piece is bytes, or an error number."""
        file = file or {"table": "dump_a", "text": "text"}[what]
        self.answers.setdefault(what, []).extend(
            reader_client.Frame(inode, piece, file, path, b"")
            if isinstance(piece, int)
            else reader_client.Frame(inode, 0, file, path, piece)
            for piece in pieces
        )

    def stream(self, fields):
        self.asked.append([field.decode() for field in fields])
        answer = self.answers.get(fields[0].decode(), session.ForbiddenError("no right"))
        if isinstance(answer, Exception):
            raise answer
        yield from answer


@pytest.fixture
def reader(monkeypatch):
    """Return what stands in for the reader; without answers it may not be asked."""
    fake = Reader()
    monkeypatch.setattr(session.Session, "stream", lambda _, fields: fake.stream(fields))
    monkeypatch.setattr(session.Session, "ask", lambda _, fields: list(fake.stream(fields)))
    monkeypatch.setattr(session.Session, "may_ask", property(lambda _: bool(fake.answers)))
    return fake


@pytest.fixture
def inspect(check, reader, monkeypatch, capfd):
    """Run check_conntrack_table in this process; without answers of `reader`, nothing is read."""
    monkeypatch.setattr(conntrack_cli, "CONNTRACK_PATHS", ())
    monkeypatch.setattr(kernel_reader, "require_ctnetlink", lambda: None)
    monkeypatch.setattr(destinations, "look_up", lambda addresses: {})
    monkeypatch.setattr(timeouts, "read_file", lambda path: source.FileReading(path, b"120\n"))

    def run(*arguments):
        capfd.readouterr()
        words = [str(word) for word in arguments]
        code = runner.run(
            table_check.TITLE, table_check.parser(), table_check.run_check, [*PATIENT, *words]
        )
        return Run(code, *capfd.readouterr(), words)

    return run


@pytest.fixture
def utc(monkeypatch):
    """Let this process be in UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
