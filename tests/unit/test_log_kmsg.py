"""Records of /dev/kmsg."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel.log import kmsg
from check_conntrack.kernel.log.messages import Kind

FULL = b"nf_conntrack: nf_conntrack: table full, dropping packet"
CLOCK = kmsg.Clock(realtime=1_000_000.0, monotonic=500.0, boottime=500.0)
BOOT = kmsg.boot_time(CLOCK)


def record(sequence, text=FULL, priority=4, microseconds=100_000_000, more=b""):
    return b"%d,%d,%d,-%s;%s\n" % (priority, sequence, microseconds, more, text)


def never():
    return False


def test_kmsg_record_is_parsed():
    raw = b"12,339,5140900,c,caller=T1;eth0: link\\x09up\n SUBSYSTEM=net\n DEVICE=n2\n"
    assert kmsg.parse_record(raw) == kmsg.Record(
        1, 4, 339, 5140900, "c", "eth0: link\tup", (("SUBSYSTEM", "net"), ("DEVICE", "n2"))
    )


def test_kmsg_escapes_are_decoded_and_a_backslash_stays():
    assert kmsg.parse_record(b"4,1,1,-;\\xc3\\xa4 \\x5cx41 \\x1b[31m").text == "ä \\x41 \x1b[31m"


def test_kmsg_record_may_hold_any_bytes():
    assert kmsg.parse_record(b"4,1,1,-;a\\xffb\xfe").text == "a\ufffdb\ufffd"


@pytest.mark.parametrize("raw", [b"", b"x", b"4,1;", b"4,1,1,-", b"-4,1,1,-;a", b"4,1_0,1,-;a"])
def test_kmsg_record_that_is_malformed_raises_value_error(raw):
    with pytest.raises(ValueError, match="not a record"):
        kmsg.parse_record(raw)


@given(st.binary())
def test_kmsg_record_of_any_bytes_is_parsed_or_raises_value_error(raw):
    with contextlib.suppress(ValueError):
        kmsg.parse_record(raw)


@given(st.lists(st.binary(min_size=1)))
def test_kmsg_digest_counts_records_of_any_bytes(raws):
    ring = kmsg.digest(raws, CLOCK)
    assert ring.records + ring.malformed == len(raws)


def test_kmsg_digest_counts_only_the_kernels_facility():
    ring = kmsg.digest([record(1, priority=12), record(2, priority=4)], CLOCK)
    assert len(ring.events) == 1
    assert (ring.records, ring.kernel_records) == (2, 1)


def test_kmsg_gap_in_the_sequence_is_lost_records():
    records = [record(5), record(6), record(9, microseconds=107_000_000)]
    ring = kmsg.digest(records, CLOCK)
    [loss] = ring.losses
    assert (ring.lost, loss.start < loss.end) == (2, True)


def test_kmsg_ring_tells_its_first_record():
    ring = kmsg.digest([record(7, microseconds=100_000_000)], CLOCK)
    assert (ring.first_sequence, ring.oldest) == (7, 1_000_000.0 - 400)
    empty = kmsg.digest([], CLOCK)
    assert (empty.first_sequence, empty.oldest) == (None, None)


def test_kmsg_event_has_the_wall_clock_time_of_its_stamp():
    [event] = kmsg.digest([record(1, microseconds=100_000_000)], CLOCK, "ab-cd").events
    assert event.kind is Kind.TABLE_FULL
    assert event.time == pytest.approx(1_000_000 - 400)
    assert event.slack == pytest.approx(400 * kmsg.DRIFT)
    assert (event.monotonic, event.boot, event.source) == (100_000_000, "abcd", "/dev/kmsg")


def test_kmsg_time_is_inexact_by_the_time_spent_suspended():
    slept = CLOCK._replace(boottime=CLOCK.boottime + 3600)
    time, slack = kmsg.wall_time(slept, 499_000_000)
    assert time == pytest.approx(999_999)
    assert slack == pytest.approx(3600, abs=1)


def test_kmsg_time_ignores_the_delay_between_two_clocks():
    clock = kmsg.read_clock()
    assert kmsg.wall_time(clock._replace(boottime=clock.monotonic + 0.001), 0)[1] == (
        pytest.approx(clock.monotonic * kmsg.DRIFT)
    )


def test_kmsg_boot_time_includes_suspend():
    assert kmsg.boot_time(kmsg.Clock(1000.0, 100.0, 300.0)) == 700.0


def test_kmsg_reading_that_was_stopped_is_incomplete():
    ring = kmsg.digest([record(0), kmsg.STOPPED], CLOCK)
    assert not ring.complete
    assert len(ring.events) == 1


class Ring:
    """os.read of a ring that answers as it is told to."""

    def __init__(self, answers):
        self.answers = list(answers)

    def __call__(self, descriptor, size):
        assert size >= 8192
        answer = self.answers.pop(0) if self.answers else BlockingIOError(errno.EAGAIN, "")
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.fixture
def ring(monkeypatch):
    def make(*answers):
        monkeypatch.setattr(os, "read", Ring(answers))

    return make


def test_kmsg_reading_ends_with_the_ring(ring):
    ring(record(1), record(2))
    assert list(kmsg.read_kmsg(3, never)) == [record(1), record(2)]


def test_kmsg_reading_skips_overwritten_and_overlong_records(ring):
    ring(
        record(1),
        OSError(errno.EPIPE, ""),
        record(4),
        OSError(errno.EINVAL, ""),
        InterruptedError(),
        record(6),
    )
    assert kmsg.digest(kmsg.read_kmsg(3, never), CLOCK).lost == 3


def test_kmsg_reading_raises_other_errors(ring):
    ring(record(1), OSError(errno.EIO, ""))
    with pytest.raises(OSError, match="5"):
        list(kmsg.read_kmsg(3, never))


def test_kmsg_reading_ends_at_the_end_of_a_file(ring):
    ring(record(1), b"")
    assert len(list(kmsg.read_kmsg(3, never))) == 1


def test_kmsg_reading_of_a_ring_that_is_written_as_fast_is_stopped(monkeypatch):
    counter = iter(range(10**9))
    monkeypatch.setattr(os, "read", lambda *_: record(next(counter)))
    asked = iter(range(1000))
    raws = list(kmsg.read_kmsg(3, lambda: next(asked) >= 500))
    assert len(raws) == 501
    assert raws[-1] == kmsg.STOPPED


def test_kmsg_reading_of_overwritten_records_is_stopped(monkeypatch):
    def overwritten(*_):
        raise OSError(errno.EPIPE, "")

    monkeypatch.setattr(os, "read", overwritten)
    asked = iter(range(1000))
    assert list(kmsg.read_kmsg(3, lambda: next(asked) >= 500)) == [kmsg.STOPPED]


def test_kmsg_reading_ends_at_the_marker(monkeypatch):
    counter = iter(range(10**9))

    def read(descriptor, _):
        return record(600) if descriptor == 4 else record(next(counter))

    monkeypatch.setattr(os, "read", read)
    raws = list(kmsg.read_kmsg(3, never, marker=4))
    assert len(raws) == 600
    assert raws[-1] == record(599)


def test_kmsg_reading_continues_without_records_after_the_marker(monkeypatch):
    answers = [record(1), record(2)]

    def read(descriptor, _):
        if descriptor == 4 or not answers:
            raise BlockingIOError(errno.EAGAIN, "")
        return answers.pop(0)

    monkeypatch.setattr(os, "read", read)
    assert len(list(kmsg.read_kmsg(3, never, marker=4))) == 2


def test_kmsg_that_cannot_be_opened_raises_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        kmsg.open_kmsg(str(tmp_path / "kmsg"))
