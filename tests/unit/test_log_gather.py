"""Sources of log lines: which are read, in which order, and what they cover together."""

from __future__ import annotations

import errno
import gzip
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel import reasons
from check_conntrack.kernel.coverage import Coverage, Span
from check_conntrack.kernel.log import events, files, gather, journal, kmsg, opening, stream
from check_conntrack.kernel.log.files import LogReading
from check_conntrack.kernel.log.messages import Kind
from check_conntrack.kernel.log.rotation import LogCursor
from check_conntrack.kernel.reader_client import Frame
from check_conntrack.kernel.reasons import SourceProblem
from check_conntrack.state.codec import decode, encode
from support.json_values import JSON
from support.logs import NOW, append, copy_and_truncate, count, full, line, never, rename, written

BOOT = "b" * 32
FULL = "nf_conntrack: table full, dropping packet"
BOOTED = 10.0
"""When the kernel started, by the clock of Sources."""


@pytest.fixture(autouse=True)
def _utc(utc):
    pass


def event(time, stamp, source="x"):
    return events.Event(Kind.TABLE_FULL, 1, time, 0.0, stamp, BOOT, source=source)


class Sources:
    """Stands in for the sources of this host; `read` says which were asked, in order."""

    def __init__(self, monkeypatch, ring=None, shown=None, probe=None, logs=None):
        self.read = []
        self.ring, self.shown, self.probe, self.logs = ring, shown, probe, logs or {}
        monkeypatch.setattr(kmsg, "read_clock", lambda: kmsg.Clock(1000.0, 990.0, 990.0))
        monkeypatch.setattr(gather._Gathering, "_ring", self._ring)
        monkeypatch.setattr(journal, "read_journal", self._journal)
        monkeypatch.setattr(files, "read_log", self._log)
        monkeypatch.setattr(gather.os.path, "lexists", lambda path: path in self.logs)

    def _ring(self, clock):
        self.read.append("ring")
        if isinstance(self.ring, Exception):
            raise self.ring
        return self.ring

    def _journal(self, arguments, stop):
        probing = any(argument.startswith("--lines") for argument in arguments)
        self.read.append("probe" if probing else "journal")
        return self.probe if probing else self.shown

    def _log(self, path, *_):
        self.read.append(path)
        return self.logs[path]


def log_reading(path, begin, *found):
    """Return the reading of a log that begins then."""
    return LogReading(
        path, found, read=10, files=(path,), coverage=Coverage(path, (Span(begin, 1000.0),))
    )


def look(*wanted, start=900.0, ask=None, boot=None):
    window = events.Window(start, 1000.0, boot)
    return gather.gather(wanted or ("auto",), window, BOOT, {}, never, ask)


def spans(found):
    """Return the spans of each source by its name."""
    return {each.source: [tuple(span) for span in each.spans] for each in found.coverage}


def codes(found):
    return [(problem.path, problem.reason) for problem in found.problems]


WHOLE = kmsg.Ring((event(950.0, 5),), 10, 10, 0, 11.0)
SHORT = kmsg.Ring((event(950.0, 5),), 10, 10, 77, 940.0)
DENIED = PermissionError(errno.EPERM, "Operation not permitted")
QUIET = journal.Journal()
HEARD = journal.Journal((event(950.0, 5), event(910.0, 2)), 30, 900.5)
EARLIER = journal.Journal((), 1, 300.0)
DENIED_RING = ("/dev/kmsg", reasons.PERMISSION_DENIED)

# --- the ring buffer


def test_ring_that_covers_the_window_is_enough(monkeypatch):
    sources = Sources(monkeypatch, ring=WHOLE)
    found = look()
    assert sources.read == ["ring"]
    assert found.coverage == (Coverage("kernel log", (Span(BOOTED, 1000.0),)),)
    assert found.problems == ()


def test_ring_that_has_wrapped_in_the_window_covers_its_rest(monkeypatch):
    sources = Sources(monkeypatch, ring=SHORT, shown=HEARD)
    found = look()
    assert sources.read == ["ring", "journal"]
    # The copy in the journal is no second event.
    assert [each.time for each in found.events] == [910.0, 950.0]
    assert spans(found) == {"kernel log": [(940.0, 1000.0)], "journal": [(900.5, 1000.0)]}
    assert codes(found) == [("/dev/kmsg", reasons.BEGINS_LATER)]


def test_ring_of_a_boot_within_the_window_is_not_too_small(monkeypatch):
    sources = Sources(
        monkeypatch, ring=WHOLE._replace(first_sequence=0), shown=HEARD, probe=EARLIER
    )
    found = look(start=BOOTED - 500.0)
    assert sources.read[:2] == ["ring", "journal"]
    assert "/dev/kmsg" not in [path for path, _ in codes(found)]


@pytest.mark.parametrize("width", [0.0, 0.5, 30.0])
def test_records_lost_in_the_window_split_the_span_of_the_ring(monkeypatch, width):
    lost = WHOLE._replace(lost=7, losses=(Span(950.0, 950.0 + width),))
    Sources(monkeypatch, ring=lost, shown=journal.Journal(status=journal.MISSING))
    found = look()
    [before, after] = found.coverage[0].spans
    assert before.end < 950.0 < after.start
    assert after.start > 950.0 + width
    assert found.coverage[0].reason == reasons.RECORDS_LOST
    assert found.coverage[0].detail == "7"


def test_records_lost_before_the_window_do_not_matter(monkeypatch):
    lost = WHOLE._replace(lost=7, losses=(Span(500.0, 501.0),))
    sources = Sources(monkeypatch, ring=lost)
    assert look().problems == ()
    assert sources.read == ["ring"]


def test_ring_since_boot_does_not_cover_what_was_before(monkeypatch):
    sources = Sources(monkeypatch, ring=WHOLE, shown=HEARD, probe=EARLIER)
    found = look(start=BOOTED - 5)
    assert sources.read == ["ring", "journal", "probe"]
    assert spans(found) == {"kernel log": [(BOOTED, 1000.0)], "journal": [(BOOTED - 5, 1000.0)]}
    sources.read.clear()
    look(start=BOOTED + 5)
    assert sources.read == ["ring"]


def test_ring_covers_the_window_since_boot(monkeypatch):
    sources = Sources(monkeypatch, ring=WHOLE)
    window = events.since_boot(1000.0, BOOTED, BOOT)
    found = look(start=window.start, boot=window.boot)
    assert sources.read == ["ring"]
    assert found.problems == ()


def test_ring_without_records_of_the_kernel_is_unreadable(monkeypatch):
    sources = Sources(monkeypatch, ring=kmsg.Ring((), 10, 0, 0, 1.0), shown=HEARD)
    found = look()
    assert sources.read == ["ring", "journal"]
    assert found.coverage[0][:3] == ("kernel log", (), reasons.NO_KERNEL_LINES)


def test_ring_that_was_not_read_to_its_end_covers_nothing(monkeypatch):
    Sources(monkeypatch, ring=WHOLE._replace(complete=False), shown=HEARD)
    found = look()
    assert found.coverage[0][:3] == ("kernel log", (), reasons.TIMED_OUT)
    assert count(found.events) == 2


def refuse(path=kmsg.PATH):
    raise DENIED


def test_reader_reads_the_ring_where_a_capability_is_missing(monkeypatch):
    monkeypatch.setattr(kmsg, "open_kmsg", refuse)
    asked = []

    def ask(fields):
        asked.append(fields)
        text = b"4,0,5,-;nf_conntrack: nf_conntrack: table full in netns 77, dropping packet\n"
        yield Frame(0, 0, "record", "", text)
        yield Frame(0, errno.EAGAIN, "record", "", b"")

    monkeypatch.setattr(journal, "read_journal", lambda *_: HEARD)
    found = look(ask=ask)
    assert asked == [[b"log"]]
    assert [each.netns for each in found.events if each.netns] == [77]
    assert codes(found) == [("/dev/kmsg", reasons.TIMED_OUT)]
    assert found.read[0] == "/dev/kmsg by the reader: records 1, of the kernel 1"


def test_reader_without_the_capability_is_reported(monkeypatch):
    monkeypatch.setattr(kmsg, "open_kmsg", refuse)
    monkeypatch.setattr(journal, "read_journal", lambda *_: HEARD)
    found = look(ask=lambda _: iter([Frame(0, errno.EPERM, "-", "", b"")]))
    assert codes(found) == [DENIED_RING]
    assert spans(found)["journal"] == [(900.5, 1000.0)]


# --- the journal


def test_journal_covers_the_window_since_boot(monkeypatch):
    sources = Sources(monkeypatch, ring=DENIED, shown=HEARD._replace(oldest=BOOTED + 0.5))
    window = events.since_boot(1000.0, BOOTED, BOOT)
    look(start=window.start, boot=window.boot)
    assert sources.read == ["ring", "journal"]


@pytest.mark.parametrize("shown", [QUIET, HEARD._replace(oldest=950.0)])
def test_journal_with_an_entry_from_before_covers_the_window(monkeypatch, shown):
    sources = Sources(monkeypatch, ring=DENIED, shown=shown, probe=EARLIER)
    found = look()
    assert sources.read == ["ring", "journal", "probe"]
    assert spans(found)["journal"] == [(900.0, 1000.0)]
    assert codes(found) == [DENIED_RING]


def test_journal_that_was_vacuumed_in_the_window_covers_its_rest(monkeypatch):
    Sources(monkeypatch, ring=DENIED, shown=HEARD._replace(oldest=950.0), probe=QUIET)
    found = look()
    assert spans(found)["journal"] == [(950.0, 1000.0)]
    assert codes(found) == [DENIED_RING, ("journal", reasons.BEGINS_LATER)]


def test_journal_without_lines_of_the_kernel_is_unreadable_and_files_come_next(monkeypatch):
    path = gather.FILES[1]
    log = log_reading(path, 100.0, event(950.0, None, path))
    sources = Sources(monkeypatch, ring=DENIED, shown=QUIET, probe=QUIET, logs={path: log})
    found = look()
    assert sources.read == ["ring", "journal", "probe", path]
    assert spans(found) == {"kernel log": [], "journal": [], path: [(100.0, 1000.0)]}
    assert codes(found) == [DENIED_RING, ("journal", reasons.NO_KERNEL_LINES)]


def test_journal_that_fails_midway_covers_nothing_and_its_events_count(monkeypatch):
    failed = journal.Journal((event(950.0, 5),), 1, complete=False)
    Sources(monkeypatch, ring=DENIED, shown=failed)
    found = look()
    assert spans(found)["journal"] == []
    assert count(found.events) == 1
    assert codes(found)[1] == ("journal", reasons.TIMED_OUT)
    assert not found.usable


# --- all sources of a host


def test_journal_lost_with_the_reboot_is_followed_by_the_files(monkeypatch):
    path = gather.FILES[1]
    log = log_reading(path, 1.0, event(5.0, None, path), event(950.0, None, path))
    sources = Sources(monkeypatch, WHOLE, HEARD._replace(oldest=BOOTED), QUIET, {path: log})
    found = look(start=2.0)
    assert sources.read == ["ring", "journal", "probe", path]
    # Of three sources the copies count once.
    assert [each.time for each in found.events] == [5.0, 910.0, 950.0]


def test_log_that_begins_within_the_window_is_followed_by_the_next(monkeypatch):
    first, second, third = gather.FILES
    begins = {first: 950.0, second: 100.0, third: 100.0}
    logs = {path: log_reading(path, begin) for path, begin in begins.items()}
    sources = Sources(monkeypatch, DENIED, QUIET, QUIET, logs)
    found = look()
    assert sources.read[-2:] == [first, second]
    assert spans(found)[first] == [(950.0, 1000.0)]
    assert [each.reason for each in found.coverage[2:]] == [reasons.BEGINS_LATER, ""]
    assert not any(each.named for each in found.coverage)


def test_everything_is_asked_of_every_source(monkeypatch):
    path = gather.FILES[0]
    sources = Sources(monkeypatch, WHOLE, HEARD, logs={path: log_reading(path, 1.0)})
    found = look(start=None)
    assert sources.read == ["ring", "journal", path]
    assert [each.reason for each in found.coverage] == ["", "", ""]


def test_read_says_how_each_source_was_read(monkeypatch):
    path = gather.FILES[0]
    older = log_reading(path, 1.0)._replace(files=(f"{path}.1", path), followed=True, shift=7200.0)
    Sources(monkeypatch, ring=SHORT, shown=HEARD, logs={path: older})
    assert look(start=None).read == (
        "/dev/kmsg directly: records 10, of the kernel 10",
        "journal by journalctl: entries of the kernel 30",
        f"{path}.1, {path}: 10 bytes since an earlier run, times corrected by 7200 s",
    )
    Sources(monkeypatch, ring=DENIED, shown=journal.Journal(status=journal.MISSING))
    assert look().read == ()


# --- named logs


class Host:
    """Runs one after another on logs in a folder; the state between them passes through JSON."""

    def __init__(self, folder):
        self.folder = folder
        self.log = folder / "kern.log"
        self.histories = {}
        self.previous = None

    def run(self, *wanted, at=0.0, window=900.0, stop=never, opened=None, boot=None):
        now = NOW + at
        looked = events.Window(None if window is None else now - window, now, boot)
        patterns = [str(self.folder / name) for name in wanted or ["kern.log"]]
        found = gather.gather(
            patterns, looked, BOOT, self.histories, stop, None, opened, previous=self.previous
        )
        self.previous = now
        self.histories = {
            path: decode(gather.LogHistory, json.loads(json.dumps(encode(history))))
            for path, history in found.histories
        }
        assert None not in self.histories.values()
        self.counted = count(events.select(found.events, looked).inside)
        return found


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def since(found, at=0.0):
    """Return (spans relative to NOW + at, reason) of the first source."""
    own = found.coverage[0]
    return [(span.start - NOW - at, span.end - NOW - at) for span in own.spans], own.reason


def test_named_log_covers_the_window_over_many_runs(host):
    written(host.log, line(-7200), line(-30, FULL), at=-30)
    for at in (0, 300, 600, 840):
        assert since(host.run(at=at))[1] == ""
        assert host.counted == 1
    # Nobody writes it any more: what is claimed ends with the last run that saw it fresh.
    found = host.run(at=1000)
    assert found.coverage[0].spans[-1].end == NOW + 840
    assert found.coverage[0].reason == reasons.LAST_WRITTEN


def test_gap_of_a_lost_cursor_is_reported_until_it_has_left_the_window(host):
    written(host.log, line(-7200), line(-30), at=-30)
    host.run()
    written(host.log, line(200), at=200)
    found = host.run(at=300)
    assert since(found)[0][-1] == (200, 300)
    assert found.coverage[0].reason == reasons.CURSOR_LOST
    append(host.log, line(500))
    os.utime(host.log, (NOW + 500, NOW + 500))
    found = host.run(at=600)
    assert found.coverage[0].reason == reasons.CURSOR_LOST
    assert since(found)[0][-1] == (200, 600)
    assert host.run(at=1200).coverage[0].reason == ""


@pytest.mark.parametrize("rotate", [rename, copy_and_truncate])
def test_rotation_between_runs_leaves_no_gap(host, rotate):
    written(host.log, line(-7200), line(-30, FULL), at=-30)
    host.run()
    append(host.log, line(100, FULL))
    rotate(host.log)
    written(host.log, line(200, FULL), at=200)
    found = host.run(at=300)
    assert found.coverage[0].reason == ""
    assert host.counted == 3


def test_what_a_shorter_window_left_out_is_read_again(host):
    written(host.log, line(-7200, FULL), line(-30, FULL), at=-30)
    host.run()
    assert host.counted == 1
    found = host.run(window=8000.0)
    assert host.counted == 2
    assert "since an earlier run" not in found.read[0]
    found = host.run(window=8000.5)
    assert "since an earlier run" in found.read[0]


def test_what_was_read_before_counts_where_the_files_are_gone(host):
    written(host.log, line(-7200), line(-800, FULL), at=-800)
    host.run()
    written(host.log, line(40), at=40)
    found = host.run(at=60)
    assert host.counted == 1
    assert since(found)[0] == [(-900, 0), (40, 60)]


def test_missing_log_keeps_its_history(host):
    written(host.log, line(-7200), line(-30, FULL), at=-30)
    host.run()
    host.log.rename(host.folder / "hidden")
    found = host.run(at=60)
    assert [problem.reason for problem in found.missing] == [reasons.NOT_FOUND]
    assert host.counted == 1
    (host.folder / "hidden").rename(host.log)
    assert host.run(at=120).coverage[0].reason == ""


def test_missing_log_beside_a_readable_one_is_missing(host):
    written(host.log, line(-7200), line(-30), at=-30)
    found = host.run("kern.log", "other.log")
    assert [problem[:2] for problem in found.missing] == [
        (str(host.folder / "other.log"), reasons.NOT_FOUND)
    ]
    assert [each.named for each in found.coverage] == [True, True]
    assert found.usable


def test_empty_log_is_a_gap_and_empty_standard_input_is_missing(host, monkeypatch):
    written(host.log, at=-30)
    assert since(host.run()) == ([], reasons.EMPTY)
    assert host.run(window=None).coverage[0].reason == reasons.EMPTY
    silent = LogReading("standard input", problems=(SourceProblem("standard input", "empty"),))
    monkeypatch.setattr(stream, "read_stream", lambda *_: silent)
    found = gather.gather(["-"], events.Window(900.0, 1000.0), BOOT, {}, never, None)
    assert found.missing == silent.problems


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (900.0, line(30 - 3600, FULL, "router")),  # in another time zone, or delayed by a relay
        (60.0, line(-1, FULL)),  # whole seconds: it may have been written after the run of NOW
    ],
)
def test_message_added_since_the_run_before_counts_once_whatever_its_time(host, window, text):
    written(host.log, line(-7200), line(-30), at=-30)
    host.run(at=0.0, window=window)
    append(host.log, text, line(50))
    os.utime(host.log, (NOW + 50, NOW + 50))
    found = host.run(at=60.0, window=window)
    assert host.counted == 1
    assert NOW <= [event.time for event in found.events][-1] <= NOW + 60
    host.run(at=120.5, window=60.0)
    assert host.counted == 0


def test_message_added_since_the_run_before_counts_where_the_last_line_is_of_a_zone_ahead(host):
    """Then all times of the log are read in that zone."""
    written(host.log, line(-7200), line(-30), at=-30)
    host.run()
    append(host.log, line(40, FULL), line(3600 + 50, host="router"))
    os.utime(host.log, (NOW + 50, NOW + 50))
    host.run(at=60.0)
    assert host.counted == 1


def test_message_from_before_the_clock_was_set_forward_counts(host):
    written(host.log, line(-7200), line(-30), at=-30)
    host.run()
    append(host.log, line(30, FULL), line(3650))
    os.utime(host.log, (NOW + 3650, NOW + 3650))
    host.run(at=3660.0)
    assert host.counted == 1
    host.run(at=3720.0)
    assert host.counted == 1


def test_message_of_a_log_that_the_run_before_did_not_need_keeps_its_time(host):
    """With auto the ring buffer may have shown it, and been enough."""
    written(host.log, line(-7200), line(-30), at=-30)
    host.run()
    append(host.log, line(30, FULL), line(5000))
    os.utime(host.log, (NOW + 5000, NOW + 5000))
    host.previous = NOW + 4000
    host.run(at=5010.0)
    assert host.counted == 0


def test_message_from_before_the_boot_is_not_since_boot(host):
    written(host.log, line(-7200), line(-30), at=-30)
    host.run()
    append(host.log, line(30, FULL), line(350))
    os.utime(host.log, (NOW + 350, NOW + 350))
    host.run(at=360.0, window=300.0, boot=BOOT)
    assert host.counted == 0


def test_lines_of_days_ago_that_a_daemon_writes_anew_do_not_count_as_new(host):
    written(host.log, line(-7200), line(-30), at=-30)
    host.run()
    append(host.log, line(-2 * 86400, FULL), line(50))
    os.utime(host.log, (NOW + 50, NOW + 50))
    host.run(at=60.0)
    assert host.counted == 0


def test_glob_reads_each_log_once_with_its_rotated_parts(host):
    written(host.folder / "kern.log.2.gz", gzip.compress(line(-9000, FULL)), at=-9000)
    written(host.folder / "kern.log.1", line(-500, FULL), at=-500)
    written(host.log, line(-30, FULL), at=-30)
    for pattern in ("kern.log", "kern.log*"):
        found = host.run(pattern, window=None)
        assert count(found.events) == 3
        assert [each.source for each in found.coverage] == [str(host.log)]
    assert count(host.run("kern.log*").events) == 2


def test_rotated_parts_are_read_by_name_where_the_log_cannot_be(host):
    written(host.folder / "kern.log.1", line(-500, FULL), at=-500)
    host.log.mkdir()
    found = host.run("kern.log*", window=None)
    assert count(found.events) == 1
    assert [problem.reason for problem in found.missing] == [reasons.NOT_A_FILE]


def test_unreadable_member_of_a_glob_is_missing(host, monkeypatch):
    for name in ("kern.log.1", "kern.log", "mail.log"):
        written(host.folder / name, line(-7200), line(-30), at=-30)
    real = opening.open_log

    def forbid(path):
        if path.endswith((".1", "mail.log")):
            raise opening.UnreadableError(path, reasons.PERMISSION_DENIED)
        return real(path)

    monkeypatch.setattr(opening, "open_log", forbid)
    found = host.run("*.log*")
    assert {os.path.basename(problem.path) for problem in found.missing} == {
        "kern.log.1",
        "mail.log",
    }


def test_hosts_of_a_log_are_remembered(host):
    written(host.log, line(-7200, host="gw1.example.net"), line(-30, host="gw2"), at=-30)
    assert host.run().coverage[0].hosts == ("gw1", "gw2")
    assert host.run(at=10).coverage[0].hosts == ("gw1", "gw2")


def test_run_out_of_time_remembers_nothing_of_what_it_has_not_finished(host):
    written(host.log, line(-7200), line(-800, FULL), at=-800)
    host.run()
    append(host.log, line(10, FULL))
    rename(host.log)
    written(host.log, line(20, FULL), at=20)
    before = host.histories
    asked = iter(range(1000))
    found = host.run(at=60, stop=lambda: next(asked) >= 3)
    assert found.coverage[0].reason == reasons.TIMED_OUT
    assert host.histories == before
    host.run(at=70)
    assert host.counted == 3


def test_undated_event_is_mentioned_until_its_log_was_rotated(host):
    host.log.write_text(f"[  100.123456] {FULL}\n")
    for at in (0, 60):
        found = host.run(at=at)
        assert len(events.select(found.events, events.Window(NOW - 900, NOW)).undated) == 1
    assert found.coverage[0].reason == reasons.UNDATED
    rename(host.log)
    written(host.log, line(70), at=70)
    assert count(host.run(at=120).events) == 0


def test_message_from_the_future_counts_once_its_time_has_come(host):
    host.log.write_text(f"2026-11-21T22:43:20+00:00 gw kernel: {FULL}\n")
    counted = []
    for at in (0, 1000, 2600, 3000, 4000):
        host.run(at=at)
        counted.append(host.counted)
    assert counted == [0, 0, 1, 1, 0]


def test_files_opened_before_are_read_after_privileges_were_dropped(host, monkeypatch):
    written(host.folder / "kern.log.1", line(-7200), line(-500, FULL), at=-500)
    written(host.log, line(-30, FULL), at=-30)
    opened = opening.preopen([str(host.folder / "kern.*"), "-"])
    host.folder.chmod(0)

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(opening.os, "open", refuse)
    monkeypatch.setattr(opening.rotation, "list_folder", refuse)
    try:
        for _ in range(2):
            found = host.run("kern.*", opened=opened)
            assert (host.counted, found.coverage[0].reason, found.missing) == (2, "", ())
    finally:
        host.folder.chmod(0o700)
        opened.close()


# --- what is remembered


def test_histories_of_many_logs_stay_small(monkeypatch):
    def read(path, *_):
        found = tuple(event(900.0 + at / 2, at, path) for at in range(150))
        cursor = LogCursor(3, 4, 5, False, True, 6.0)
        return log_reading(path, 1.0, *found)._replace(cursor=cursor)

    monkeypatch.setattr(files, "read_log", read)
    paths = [f"/srv/collected/host{number}/kern.log" for number in range(40)]
    found = look(*paths)
    assert len(found.histories) == 40
    assert all(sum(each.times for each in known.events) == 150 for _, known in found.histories)
    size = len(json.dumps({path: encode(each) for path, each in found.histories}))
    assert size < 256 * 1024


HISTORY = gather.LogHistory(
    LogCursor(3, 4, 5, False, True, 6.0, 5.0, 7.0, event(6.0, 1)),
    (event(5.0, 1), event(6.0, 2)),
    1.0,
    (Span(1.0, 7.0),),
    ("gw",),
)


def test_history_survives_json():
    assert decode(gather.LogHistory, json.loads(json.dumps(encode(HISTORY)))) == HISTORY


@given(st.integers(0, 4), JSON)
def test_run_goes_on_from_whatever_was_remembered(tmp_path, place, value):
    plain = encode(HISTORY)
    plain[place] = value
    history = decode(gather.LogHistory, plain)
    if history is None:
        return
    log = written(tmp_path / "kern.log", line(-7200), full(1), line(-30), at=-30)
    window = events.Window(NOW - 900, NOW)
    found = gather.gather([str(log)], window, BOOT, {str(log): history}, never, None)
    assert found.histories


def test_reading_without_a_cursor_is_not_remembered(host):
    host.log.write_bytes(gzip.compress(line(-7200) + line(-30, FULL)))
    for _ in range(2):
        host.run()
        assert host.counted == 1
        assert host.histories == {}


def test_reconciled_events_are_those_of_all_runs():
    known = (event(900.0, 1, "a"),)
    reading = LogReading("a", (event(900.0, 1, "a"), event(901.0, 2, "a")))
    assert count(files.reconcile(known, reading)) == 2
