"""Two processes count what one counts."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import resource
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from check_conntrack.flows import bulk, match, netlink, parallel_count, tally, text
from check_conntrack.kernel import KernelError
from support import flows_dump as dump
from support.flows_dump import everything
from unit.test_flows_text import FORMS

# The runner of the tests has threads; a check has none.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def children():
    """The pids of this thread's children, ended ones that nobody waited for among them."""
    with open("/proc/thread-self/children") as file:
        return set(file.read().split())


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    """A second process from the second piece on, and none of them left."""
    monkeypatch.setattr(parallel_count, "ALONE", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    before, priority = children(), os.getpriority(os.PRIO_PROCESS, 0)
    yield
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, priority)
    assert children() <= before


def test_who_counts_gives_way_and_never_takes_more_than_it_had():
    for own, then in (
        (0, parallel_count.GIVES_WAY),
        (parallel_count.GIVES_WAY + 2, parallel_count.GIVES_WAY + 2),
    ):
        if own >= os.getpriority(os.PRIO_PROCESS, 0):
            os.setpriority(os.PRIO_PROCESS, 0, own)
            counted([dump.entry() * 9, dump.entry() * 5 + dump.done()])
            assert os.getpriority(os.PRIO_PROCESS, 0) == then


def taken(monkeypatch):
    """Which pieces the second process took of those it was offered: the first one always."""
    took = []
    before = parallel_count._Second._takes

    def takes(self, piece):
        took.append(before(self, piece))
        return took[-1]

    monkeypatch.setattr(parallel_count._Second, "_takes", takes)
    return took


def counted(batches, wanted=None):
    one = tally.Tally(match=wanted)
    return one, parallel_count.count(iter(batches), bulk.count, one)


@given(dump.dumps(), st.sampled_from([None, "10.0.0.0/16"]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_dump_is_counted_alike_by_one_process_and_by_two(batches, network):
    wanted = network and match.parse([network])
    alone = tally.Tally(match=wanted)
    status = bulk.count(batches, alone)
    both, shared = counted(batches, wanted)
    assert (shared.done, shared.interrupted) == (status.done, status.interrupted)
    assert everything(both) == everything(alone)
    assert both.figures() == alone.figures()


def test_a_file_is_counted_alike_by_one_process_and_by_two(monkeypatch):
    monkeypatch.setattr(text, "READ_SIZE", 4096)
    took = taken(monkeypatch)
    lines = [
        line.replace("=10.0.0.1", f"=10.0.{n}.1").replace("=40000", f"={40000 - n % 7}")
        for n in range(200)
        for line in (*FORMS, "nonsense", "x" * (1 << 15))
    ]
    content = "\n".join(lines).encode()
    both, alone = tally.Tally(), tally.Tally()
    text.count(io.BytesIO(content), both)
    assert any(took)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    number = len(took)
    text.count(io.BytesIO(content), alone)
    assert len(took) == number
    assert (both.read, both.bad_lines) == (1000, 400)
    assert both.bad_lines == alone.bad_lines
    assert both.first_bad_line.startswith(("nonsense", "xxx"))
    assert both.expected_known is alone.expected_known is False
    assert everything(both) == everything(alone)


def test_the_end_of_a_dump_may_be_seen_by_the_second_process(monkeypatch):
    took = taken(monkeypatch)
    one, status = counted([dump.entry() * 9, dump.entry() * 5 + dump.done()])
    assert took == [True]
    assert status.done
    assert one.read == 14


def test_damage_that_the_second_process_meets_is_an_error_and_what_came_before_counts(monkeypatch):
    took = taken(monkeypatch)
    one = tally.Tally()
    pieces = [dump.entry() * 9, dump.entry() * 5 + dump.entry()[:-4]]
    with pytest.raises(netlink.TableError, match="truncated netlink message"):
        parallel_count.count(pieces, bulk.count, one)
    assert took == [True]
    assert one.read == 14


def test_damage_that_the_first_process_meets_leaves_what_the_second_counted():
    one = tally.Tally()

    def pieces():
        yield dump.entry() * 9
        yield dump.entry() * 5
        raise netlink.TableError("the dump failed", 105)

    with pytest.raises(netlink.TableError) as caught:
        parallel_count.count(pieces(), bulk.count, one)
    assert caught.value.errno == 105
    assert one.read == 14


def test_a_refusal_that_the_second_process_meets_keeps_its_number():
    with pytest.raises(netlink.TableError) as caught:
        counted([dump.entry() * 9, dump.error(1)])
    assert caught.value.errno == 1


def test_a_second_process_that_dies_is_a_fault_and_no_figures(monkeypatch):
    fork = os.fork

    def doomed():
        pid = fork()
        if not pid:
            os.kill(os.getpid(), signal.SIGKILL)
        return pid

    monkeypatch.setattr(os, "fork", doomed)
    with pytest.raises(KernelError, match="second process that counts was ended by signal 9"):
        counted([dump.entry() * 9] * 5)


def test_the_second_process_gives_no_answer_to_a_signal(monkeypatch):
    fork = os.fork

    def signalled():
        pid = fork()
        if not pid:
            os.kill(os.getpid(), signal.SIGTERM)
        return pid

    reading, writing = os.pipe()
    monkeypatch.setattr(os, "fork", signalled)
    before = signal.signal(signal.SIGTERM, lambda *_: os.write(writing, b"stopped"))
    try:
        with pytest.raises(KernelError, match="second process that counts was ended by signal 15"):
            counted([dump.entry() * 9] * 5)
    finally:
        signal.signal(signal.SIGTERM, before)
    os.close(writing)
    assert os.read(reading, 10) == b""
    os.close(reading)


def test_a_second_process_that_fails_is_a_fault(monkeypatch):
    def failing(pieces, one):
        for _ in pieces:
            if os.getpid() != here:
                raise ZeroDivisionError
        return netlink.DumpStatus()

    here = os.getpid()
    with pytest.raises(KernelError, match="second process that counts ended with status 1"):
        parallel_count.count([b"x"] * 9, failing, tally.Tally())


def test_where_there_may_be_no_further_process_one_counts_alone(monkeypatch):
    def refused():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    descriptors = len(os.listdir("/proc/self/fd"))
    one, status = counted([dump.entry() * 9, dump.entry() * 9, dump.done()])
    assert status.done
    assert one.read == 18
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_whatever_stops_the_first_process_ends_the_second():
    def pieces():
        yield dump.entry() * 9
        yield dump.entry() * 9
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        counted(pieces())


def test_a_second_process_ends_when_the_first_is_killed():
    reading, writing = os.pipe()
    first = os.fork()
    if not first:
        with contextlib.suppress(BaseException):
            signal.alarm(20)

            def pieces():
                yield dump.entry() * 9
                yield dump.entry() * 9
                signal.pause()

            counted(pieces())
        os._exit(1)
    os.close(writing)
    with open(f"/proc/{first}/task/{first}/children") as file:
        while not file.read():
            file.seek(0)
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    # Both held its other end.
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_the_second_process_holds_nothing_of_the_firsts():
    reading, writing = os.pipe()

    def looking(pieces, one):
        for _ in pieces:
            if os.getpid() != here:
                with open("/dev/null") as file:
                    one.read += file.fileno()
        return netlink.DumpStatus()

    here = os.getpid()
    one = tally.Tally()
    parallel_count.count([b"x"] * 2, looking, one)
    os.close(reading)
    os.close(writing)
    # The two pipes are 0 and 1, and everything else is closed.
    assert one.read == 2


def test_no_descriptor_is_kept_whatever_the_limit_on_their_number(monkeypatch):
    def looking(pieces, one):
        for _ in pieces:
            if os.getpid() != here:
                one.read += len(os.listdir("/proc/self/fd"))
        return netlink.DumpStatus()

    # Thousands of millions may be allowed: to try them all takes minutes.
    monkeypatch.setattr(os, "closerange", None)
    here = os.getpid()
    one = tally.Tally()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    above = fcntl.fcntl(0, fcntl.F_DUPFD, 300)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        parallel_count.count([b"x"] * 2, looking, one)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(above)
    # The two pipes, and the one that looks.
    assert one.read == 3
