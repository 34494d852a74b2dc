"""One log with its rotated parts: what is read, what is read again, and which spans are claimed."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

import pytest

from check_conntrack.kernel import reasons
from check_conntrack.kernel.coverage import Span
from check_conntrack.kernel.log import files, rotation, scanner, stream
from check_conntrack.kernel.log.stamps import parse_zone
from check_conntrack.state.codec import decode, encode
from support.logs import (
    NINE,
    NOW,
    OTHER,
    ROTATIONS,
    TWICE,
    append,
    compress_at_once,
    copy_and_truncate,
    count,
    full,
    line,
    never,
    read,
    rename,
    written,
)

START = NOW - 900
MINUTE = 60.0


@pytest.fixture(autouse=True)
def _utc(utc):
    pass


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "kern.log"
    path.write_bytes(OTHER + full(1) + OTHER + full(2))
    return path


@pytest.mark.parametrize(
    "head",
    [
        "-- Logs begin at Sun 2026-11-01 10:00:00 UTC, end at Sat 2026-11-21 22:00:00 UTC. --",
        "-- Journal begins at Sun 2026-11-01 10:00:00 UTC, ends at Sat 2026-11-21 22:00:00 UTC. --",
        'Script started on 2026-11-01 10:00:00+00:00 [TERM="xterm" TTY="/dev/pts/0"]',
        "Updated: 2026-11-01 10:00:00",
    ],
)
def test_date_in_a_heading_is_not_where_a_log_begins(log, head):
    log.write_bytes(head.encode() + b"\n" + line(-300) + line(-10))
    os.utime(log, (NOW, NOW))
    assert read(log, start=START).coverage.spans == (Span(NOW - 300, NOW),)


def test_year_is_that_of_the_files_last_change(log):
    os.utime(log, (NOW - 2 * 365 * 86400, NOW - 2 * 365 * 86400))
    assert time.gmtime(read(log).events[0].time).tm_year == 2024


# --- what cannot be read


def test_what_is_no_file_is_refused_at_once(tmp_path, log):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(log)
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "socket"))
    unix.close()
    for name, reason, detail in [
        (tmp_path / "fifo", reasons.NOT_A_FILE, "a FIFO"),
        ("/dev/zero", reasons.NOT_A_FILE, "a device"),
        (tmp_path / "link", reasons.SYMBOLIC_LINK, ""),
        (tmp_path, reasons.NOT_A_FILE, "a directory"),
        (tmp_path / "socket", reasons.NOT_A_FILE, "a socket"),
        (tmp_path / "none", reasons.NOT_FOUND, ""),
        ("a\0b", reasons.INVALID_NAME, ""),
    ]:
        found = read(name)
        [problem] = found.problems
        assert (problem.path, problem.reason) == (str(name), reason)
        assert detail in problem.detail
        assert (found.coverage.spans, found.coverage.reason) == ((), reason)
        assert found.files == ()


def test_log_that_may_not_be_read_is_reported():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        log = Path(folder, "kern.log")
        log.write_bytes(full(1))
        log.chmod(0)
        user = os.geteuid()
        os.seteuid(user or 65534)
        try:
            [problem] = read(log).problems
        finally:
            os.seteuid(user)
    assert problem.reason == reasons.PERMISSION_DENIED


def test_error_while_reading_changes_nothing_of_what_is_remembered(log, monkeypatch):
    first = read(log)

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(rotation, "holds", fail)
    second = read(log, first.cursor)
    assert (second.cursor, second.followed, second.unfinished) == (first.cursor, True, True)
    assert second.problems[0][1:] == (reasons.READ_ERROR, "Input/output error")


# --- reading on


def test_stopped_reading_goes_on_next_time(tmp_path, monkeypatch):
    monkeypatch.setattr(scanner, "BLOCK", 1000)
    path = tmp_path / "kern.log"
    path.write_bytes(b"".join(full(n) for n in range(100)))
    asked = iter(range(1000))
    first = read(path, start=START, stop=lambda: next(asked) >= 3)
    assert (first.coverage.spans, first.coverage.reason) == ((), reasons.TIMED_OUT)
    os.utime(path, (NOW, NOW))
    second = read(path, first.cursor, START)
    assert 0 < count(first.events) < 100
    assert count(first.events) + count(second.events) == 100
    # What was read before the time was up is covered with the rest.
    assert second.coverage.spans[0].start == NINE


def test_second_run_reads_only_what_was_appended(log):
    first = read(log)
    append(log, full(3))
    second = read(log, first.cursor)
    assert second.followed
    assert second.read == len(full(3))
    assert count(second.events) == 1
    assert count(files.reconcile(first.events, second)) == 3


def test_run_on_an_unchanged_log_reads_nothing(log):
    first = read(log)
    again = read(log, first.cursor)
    assert (again.followed, again.events, again.read) == (True, (), 0)
    assert again.cursor == first.cursor


def test_last_line_without_an_end_counts_now_and_is_found_again(log):
    log.write_bytes(full(1) + full(2)[:-1])
    found = read(log)
    assert (count(found.events), count(found.pending)) == (1, 1)
    append(log, b"\n", full(3))
    again = read(log, found.cursor)
    assert again.followed
    assert count(again.events) == 2


def test_cursor_survives_json(log):
    append(log, full(3))
    cursor = read(log).cursor
    assert cursor.previous is not None
    assert decode(rotation.LogCursor, json.loads(json.dumps(encode(cursor)))) == cursor


def test_repetition_of_the_last_line_before_the_cursor_counts(log):
    first = read(log)
    append(log, b"Nov 21 21:30:00 gw last message repeated 3 times\n")
    assert count(read(log, first.cursor).events) == 3


def test_log_that_was_replaced_by_a_longer_copy_is_followed(log):
    first = read(log)
    shutil.copy(log, f"{log}.new")
    Path(f"{log}.new").replace(log)
    append(log, full(3))
    second = read(log, first.cursor)
    assert (second.followed, count(second.events)) == (True, 1)


# --- rotation between runs


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_rotation_between_runs_loses_nothing_and_counts_nothing_twice(log, rotate):
    first = read(log)
    append(log, full(10), full(11))
    rotate(log)
    append(log, full(30))
    second = read(log, first.cursor)
    extra = 2 if rotate in TWICE else 0
    assert second.followed
    assert count(second.events) == 3 + extra
    assert count(files.reconcile(first.events, second)) == 5 + extra
    third = read(log, second.cursor)
    assert (third.followed, third.events) == (True, ())


@pytest.mark.parametrize("rotate", [each for each in ROTATIONS if each not in TWICE])
def test_rotation_with_nothing_written_since_counts_nothing_twice(log, rotate):
    first = read(log)
    rotate(log)
    append(log, OTHER)
    second = read(log, first.cursor)
    assert (second.followed, count(second.events)) == (True, 0)


def test_log_rotated_and_not_written_again_yet_loses_nothing(log):
    first = read(log)
    append(log, full(10))
    rename(log)
    second = read(log, first.cursor)
    assert count(second.events) == 1
    assert second.coverage.reason == reasons.NOT_FOUND
    held = files.reconcile(first.events, second)
    append(log, full(30))
    third = read(log, second.cursor, start=NOW - 86400)
    assert count(files.reconcile(held, third)) == 4


@pytest.mark.parametrize("start", [None, START])
@pytest.mark.parametrize("lines", [b"", OTHER, full(30)[:-1]])
def test_lines_written_to_an_empty_log_before_it_was_truncated_count(log, start, lines):
    log.write_bytes(b"")
    first = read(log, start=start)
    append(log, full(1), full(2), full(3))
    copy_and_truncate(log)
    append(log, lines)
    second = read(log, first.cursor, start)
    assert second.files == (f"{log}.1", str(log))
    held = files.reconcile(first.events, second)
    assert count(held) == 3
    append(log, full(40) if lines.endswith(b"\n") else b"\n" + full(40))
    third = read(log, second.cursor, start)
    assert count(files.reconcile(held, third)) == 4 + bool(lines and lines != OTHER)


@pytest.mark.parametrize("rotate", [rename, compress_at_once, copy_and_truncate])
def test_log_that_stays_empty_after_its_rotation_counts_nothing_twice(log, rotate):
    first = read(log)
    rotate(log)
    log.touch()
    second = read(log, first.cursor)
    held = files.reconcile(first.events, second)
    for _ in range(2):
        second = read(log, second.cursor, start=START)
        held = files.reconcile(held, second)
    assert count(held) == 2


def test_empty_log_is_not_followed_by_what_was_rotated_long_before(log):
    rename(log)
    os.utime(f"{log}.1", (NOW - 3600, NOW - 3600))
    log.write_bytes(b"")
    first = read(log)
    append(log, full(30))
    second = read(log, first.cursor)
    assert second.files == (str(log),)
    assert count(second.events) == 1


@pytest.mark.parametrize("lines", [full(1), full(40) * 50])
def test_log_that_was_written_anew_is_read_again_and_counts_nothing_twice(log, lines):
    first = read(log)
    log.write_bytes(lines)
    second = read(log, first.cursor)
    assert not second.followed
    assert count(files.reconcile(first.events, second)) == (2 if lines == full(1) else 52)


def test_log_that_was_changed_before_the_cursor_is_read_again(log):
    first = read(log)
    data = bytearray(log.read_bytes())
    data[20:22] = b"ho"
    log.write_bytes(bytes(data) + full(9))
    second = read(log, first.cursor)
    assert not second.followed
    assert count(second.events) == 3


def test_first_run_after_a_rotation_reads_the_rotated_part_too(log):
    rename(log)
    append(log, full(30))
    old = Path(f"{log}.2.gz")
    old.write_bytes(gzip.compress(full(3)))
    os.utime(old, (NOW - 9 * 86400, NOW - 9 * 86400))
    found = read(log, start=NOW - 8 * 86400)
    assert count(found.events) == 3
    assert found.files == (f"{log}.1", str(log))
    assert count(read(log).events) == 1


def test_run_that_does_not_get_through_the_rotated_parts_is_done_again(log):
    first = read(log)
    append(log, full(10))
    rename(log)
    append(log, full(30))
    asked = iter(range(1000))
    cut = read(log, first.cursor, START, stop=lambda: next(asked) >= 3)
    assert cut.unfinished
    assert cut.problems[0].reason == reasons.TIMED_OUT
    assert cut.cursor == first.cursor
    assert count(cut.events) >= 1
    again = read(log, cut.cursor)
    assert count(files.reconcile(first.events, again)) == 4


def test_missing_log_forgets_nothing(log):
    first = read(log)
    log.unlink()
    second = read(log, first.cursor)
    assert second.problems[0].reason == reasons.NOT_FOUND
    assert (second.unfinished, second.cursor) == (True, first.cursor)
    assert files.reconcile(first.events, second) == first.events


# --- copies


def test_copy_of_a_log_is_not_counted_twice(log):
    for name in ("kern.log~", "kern.log.bak", "kern.log.save"):
        shutil.copy(log, log.with_name(name))
    append(log, full(3))
    assert count(read(log, start=0.0).events) == 3


def test_copy_of_a_part_that_was_compressed_since_is_not_counted_twice(log):
    shutil.copy(log, f"{log}.bak")
    compress_at_once(log)
    append(log, full(30))
    assert count(read(log, start=0.0).events) == 3


def test_files_that_only_begin_alike_are_all_counted(log):
    boot = b"[    0.000000] Linux version 6.1.0\n" * 100
    for number, name in enumerate(("kern.log.1", "kern.log")):
        stamp = f"[{number:5}.000000] {TEXT}\n".encode()
        log.with_name(name).write_bytes(boot + stamp * (2 - number))
    assert count(read(log, start=0.0).events) == 3


TEXT = "nf_conntrack: table full, dropping packet"


def test_part_that_is_being_compressed_is_read_once(log):
    rename(log)
    whole = gzip.compress(Path(f"{log}.1").read_bytes())
    Path(f"{log}.1.gz").write_bytes(whole[: len(whole) // 2])
    append(log, full(30))
    found = read(log, start=0.0)
    assert (count(found.events), found.problems) == (3, ())


# --- coverage


def covered(log, start=START, cursor=None, now=NOW, **more):
    """Return (spans relative to NOW, reason, the reason's file) of a reading."""
    own = read(log, cursor, start, now=now, **more).coverage
    spans = [(span.start - NOW, span.end - NOW) for span in own.spans]
    return spans, own.reason, os.path.basename(own.path)


def test_log_written_within_the_window_covers_up_to_now(log):
    written(log, line(-7200), line(-30), at=-30)
    assert covered(log) == ([(-7200, 0)], "", "")


def test_log_that_begins_within_the_window_covers_from_its_first_line(log):
    written(log, line(-300), line(-30), at=-30)
    assert covered(log)[0] == [(-300, 0)]


def test_log_last_written_before_the_window_covers_up_to_its_last_line(log):
    written(log, line(-20000), line(-10800), at=-10800)
    assert covered(log) == ([(-20000, -10800)], reasons.LAST_WRITTEN, "kern.log")


def test_copied_log_covers_up_to_its_last_line_whatever_its_own_time(log):
    written(log, line(-20000), line(-10850), at=-10)
    assert covered(log) == ([(-20000, -10850)], reasons.LAST_WRITTEN, "kern.log")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (b"", reasons.EMPTY),
        (b"Nov 21 21:59:00 gw sshd[1]: session opened\n", reasons.NO_KERNEL_LINES),
        (b"[    1.000000] eth0: link up\n", reasons.UNDATED),
    ],
)
def test_log_that_shows_nothing_covers_nothing(log, lines, reason):
    written(log, lines, at=-10)
    assert covered(log)[:2] == ([], reason)
    assert covered(log, start=0.0)[1] == ("" if reason == reasons.UNDATED else reason)


def test_rotated_parts_extend_the_span_of_the_log(log):
    written(log.with_name("kern.log.2.gz"), gzip.compress(line(-9000) + line(-5000)), at=-5000)
    written(log.with_name("kern.log.1"), line(-4900), line(-200), at=-200)
    written(log, line(-100), at=-100)
    assert covered(log) == ([(-5000, 0)], "", "")
    assert covered(log, start=NOW - 8000) == ([(-9000, 0)], "", "")


def test_part_that_ended_before_the_window_need_not_be_readable(log):
    written(log.with_name("kern.log.1.lz4"), b"\x04\x22\x4d\x18", at=-5000)
    written(log, line(-100), at=-100)
    assert covered(log) == ([(-5000, 0)], "", "")


@pytest.mark.parametrize(
    ("name", "start", "reason", "detail"),
    [
        ("kern.log.1.lz4", b"\x04\x22\x4d\x18" * 9, reasons.CANNOT_UNPACK, "lz4"),
        ("kern.log-20261121.Z", b"\x1f\x9d\x90" * 9, reasons.CANNOT_UNPACK, "compress"),
        ("kern.1.log.gz", b"\x1f\x8b" * 9, reasons.DAMAGED, "damaged (error)"),
        ("kern_1.log", b"LPKSHHRH", reasons.JOURNAL_FILE, ""),
    ],
)
def test_part_that_cannot_be_read_is_a_gap(log, name, start, reason, detail):
    written(log.with_name(name), start, at=-200)
    written(log, line(-100), at=-100)
    found = read(log, start=START)
    assert found.coverage.spans == (Span(NOW - 100, NOW),)
    assert found.coverage[2:5] == (reason, detail, str(log.with_name(name)))
    # Also where everything is asked for, and no span matters.
    assert read(log, start=0.0).coverage.reason == reason


def test_missing_part_is_a_gap(log):
    written(log.with_name("kern.log.3"), line(-9000), line(-800), at=-800)
    written(log.with_name("kern.log.1"), line(-500), line(-200), at=-200)
    written(log, line(-100), at=-100)
    spans = [(-9000, -800), (-500, 0)]
    assert covered(log) == (spans, reasons.PART_MISSING, "kern.log")
    assert covered(log, start=0.0)[1] == ""


def test_copy_is_no_proof_of_what_was_between(log):
    written(log.with_name("kern.log.bak"), line(-9000), line(-500), at=-500)
    written(log, line(-100), at=-100)
    assert covered(log)[:2] == ([(-9000, -500), (-100, 0)], reasons.PART_MISSING)


def test_log_that_was_just_rotated_is_covered_by_its_parts(log):
    written(log.with_name("kern.log.1"), line(-9000), line(-200), at=-200)
    written(log, at=-100)
    assert covered(log) == ([(-9000, 0)], "", "")
    written(log, b"Nov 21 21:59:00 gw sshd[1]: session opened\n", at=-60)
    assert covered(log) == ([(-9000, 0)], "", "")


def test_log_rotated_away_covers_up_to_its_last_line(log):
    written(log.with_name("kern.log.1"), line(-9000), line(-200), at=-200)
    log.unlink()
    assert covered(log) == ([(-9000, -200)], reasons.NOT_FOUND, "kern.log")


def test_rotation_since_the_last_run_is_covered(log):
    for rotate in ROTATIONS:
        shutil.rmtree(log.parent)
        log.parent.mkdir()
        written(log, line(-7200), line(-600), at=-600)
        cursor = read(log, start=START, now=NOW - 300).cursor
        if rotate in TWICE:
            log.rename(f"{log}.2")
            written(log.with_name("kern.log.1"), line(-250), at=-250)
        else:
            rotate(log)
        written(log, line(-100), at=-100)
        assert covered(log, cursor=cursor) == ([(-7200, 0)], "", ""), rotate.__name__


def test_second_run_covers_what_the_first_has_read(log):
    written(log, line(-7200), line(-600), at=-600)
    cursor = read(log, start=START, now=NOW - 300).cursor
    assert covered(log, cursor=cursor) == ([(-7200, 0)], "", "")
    assert covered(log, cursor=cursor, start=NOW + 2000, now=NOW + 2900) == (
        [(-7200, -600)],
        reasons.LAST_WRITTEN,
        "kern.log",
    )


def test_silence_of_minutes_does_not_make_a_log_abandoned(log):
    written(log, line(-7200), line(-600), at=-600)
    assert covered(log, start=NOW - 1) == ([(-7200, 0)], "", "")
    written(log, line(-7200), line(-1000), at=-1000)
    assert covered(log, start=NOW - 1)[1] == reasons.LAST_WRITTEN


def truncate(log):
    log.write_bytes(b"")


def move_to_another_folder(log):
    log.parent.joinpath("archive").mkdir()
    log.rename(log.parent / "archive" / "kern.log.1")


def rename_beyond_recognition(log):
    log.rename(log.with_name("yesterday.txt"))


@pytest.mark.parametrize("lose", [truncate, move_to_another_folder, rename_beyond_recognition])
@pytest.mark.parametrize("lines", [b"", line(-100)])
def test_lost_cursor_is_a_gap_from_the_last_run_on(log, lose, lines):
    written(log, line(-7200), line(-600), at=-600)
    written(log.with_name("kern.log.1"), line(-20000), line(-7300), at=-7300)
    cursor = read(log, start=START, now=NOW - 300).cursor
    append(log, line(-250))
    lose(log)
    written(log, lines, at=-100)
    spans, reason, _ = covered(log, cursor=cursor)
    assert [span for span in spans if span[1] > -300] == ([(-100, 0)] if lines else [])
    assert reason == reasons.CURSOR_LOST


def test_log_that_was_edited_has_no_gap(log):
    written(log, line(-7200), line(-600), at=-600)
    cursor = read(log, start=START, now=NOW - 300).cursor
    written(log, line(-7199), line(-600), line(-20), at=-20)
    assert covered(log, cursor=cursor) == ([(-7199, 0)], "", "")


def test_cursor_found_in_a_copy_continues_in_the_log(log):
    written(log, line(-7200), line(-600), at=-600)
    cursor = read(log, start=START, now=NOW - 300).cursor
    append(log, line(-280))
    shutil.copy(log, f"{log}.bak")
    written(log, line(-100), at=-100)
    assert covered(log, cursor=cursor) == ([(-7200, 0)], "", "")


def test_log_that_was_empty_is_covered_from_its_first_line(log):
    written(log, at=-400)
    cursor = read(log, start=START, now=NOW - 300).cursor
    written(log, line(-100), at=-100)
    assert covered(log, cursor=cursor)[0] == [(-100, 0)]


@pytest.mark.parametrize("rotate", [each for each in ROTATIONS if each not in TWICE])
def test_log_that_is_empty_after_its_rotation_is_covered(log, rotate):
    written(log, line(-7200), line(-600), at=-600)
    cursor = read(log, start=START, now=NOW - 300).cursor
    append(log, line(-290))
    rotate(log)
    for at in (-280, -270, -260):
        written(log, at=-280)
        assert covered(log, cursor=cursor, now=NOW + at)[:2] == ([(-7200, at)], "")
        cursor = read(log, cursor, START, now=NOW + at).cursor or cursor
    written(log, line(-20), at=-20)
    assert covered(log, cursor=cursor) == ([(-7200, 0)], "", "")


def test_everything_covers_from_the_first_to_the_last_line(log):
    written(log, line(-90000), line(-80000), at=-80000)
    assert covered(log, start=0.0) == ([(-90000, -80000)], "", "")


# --- lines of the kernel in older parts


def test_empty_log_is_the_kernels_where_older_parts_show_its_lines(log):
    rename(log)
    for number in (3, 2):
        Path(f"{log}.{number}.gz").write_bytes(gzip.compress(b"" if number == 2 else full(3)))
    Path(f"{log}.1").write_bytes(b"Nov 1 20:00:00 gw sshd[1]: session opened\n" * 9)
    for path in (Path(f"{log}.1"), Path(f"{log}.2.gz"), Path(f"{log}.3.gz")):
        os.utime(path, (NOW - 9 * 86400, NOW - 9 * 86400))
    log.touch()
    found = read(log, start=START)
    assert found.coverage.reason == reasons.LAST_WRITTEN
    assert found.files == (f"{log}.1", str(log)), "older parts are looked at, and not searched"
    assert read(log, found.cursor, START).coverage.reason == reasons.LAST_WRITTEN


def test_parts_that_cannot_be_read_are_the_reason_of_an_empty_log(log):
    log.write_bytes(b"")
    Path(f"{log}.1").write_bytes(b"BZh9 is no bzip2")
    os.utime(f"{log}.1", (NOW - 9 * 86400, NOW - 9 * 86400))
    assert read(log, start=START).coverage.reason == reasons.DAMAGED


# --- time zones


def test_log_in_a_zone_ahead_is_corrected(log):
    """Lines after the file's last change can only be of another zone."""
    written(log, line(7200 - 3000), line(7200 - 30, TEXT), at=-29)
    found = read(log, start=START)
    assert found.shift == -7200
    assert [event.time for event in found.events] == [NOW - 30]
    assert found.coverage.spans == (Span(NOW - 3000, NOW),)


def test_log_in_a_zone_behind_is_corrected_by_the_kernels_stamp(log, monkeypatch):
    clock = files.guess_zone.__globals__["kmsg"].Clock(NOW, 1e6, 1e6)
    monkeypatch.setattr(files.guess_zone.__globals__["kmsg"], "read_clock", lambda: clock)
    when = time.strftime("%b %e %H:%M:%S", time.gmtime(NOW - 30 - 5400))
    stamped = f"{when} gw kernel: [{1e6 - 30:.6f}] {TEXT}\n".encode()
    written(log, line(-5400 - 3000), stamped, at=-29)
    found = read(log, start=START)
    assert found.shift == 5400
    assert [event.time for event in found.events] == [NOW - 30]


@pytest.mark.parametrize(
    ("written", "dated"), [(0, True), (8 * 3600, True), (1234, False), (-1234, False)]
)
def test_zone_with_several_meanings_is_dated_by_the_files_last_change(log, written, dated):
    """CST is of America, of China, of Cuba: a stamp says so little only the last change helps."""
    stamp = time.strftime("%a %Y-%m-%d %H:%M:%S CST", time.gmtime(NOW + written))
    log.write_text(f"{stamp} gw kernel: {TEXT}\n")
    os.utime(log, (NOW, NOW))
    found = read(log, start=START)
    [event] = found.events
    assert event.time == (NOW if dated else None)
    assert bool(found.coverage.spans) == dated


def test_log_that_may_be_in_a_zone_behind_is_reported(log):
    written(log, line(-5400 - 3000), line(-5430), at=-29)
    found = read(log, start=START)
    assert (found.coverage.reason, found.coverage.detail) == (reasons.TIME_ZONE, "5400")
    assert found.shift == 0.0


def test_log_that_may_be_in_a_zone_behind_covers_no_window_that_is_longer_than_the_shift(log):
    """A message of 90 minutes ago bears a time from before the window of two hours."""
    written(log, line(-3600 - 9000), line(-3600 - 5400, TEXT), line(-3600 - 30), at=-29)
    found = read(log, start=NOW - 7200)
    assert found.coverage.spans[-1].end < NOW - 3600
    assert (found.coverage.reason, found.coverage.detail) == (reasons.TIME_ZONE, "3600")


def test_given_zone_is_used(log):
    written(log, line(-5400 - 3000), line(-5430, TEXT), at=-29)
    found = read(log, start=START, zone=parse_zone("-01:30"))
    assert [event.time for event in found.events] == [NOW - 30]
    assert found.coverage.spans == (Span(NOW - 3000, NOW),)


@pytest.mark.parametrize("lag", [0, 20, 400, 5400 + 200])
def test_lag_that_is_no_time_zone_is_none(log, lag):
    written(log, line(-5000 - lag), line(-30 - lag), at=-30)
    assert read(log, start=START).coverage.reason in ("", reasons.LAST_WRITTEN)


def test_lines_with_an_offset_are_in_no_other_zone(log):
    written(log, b"2026-11-21T19:59:30+00:00 gw kernel: eth0: link up\n", at=-30)
    assert read(log, start=START).coverage.reason == reasons.LAST_WRITTEN


# --- standard input


def piped(data, stop=never, start=None):
    out, into = os.pipe()
    try:
        os.write(into, data)
        os.close(into)
        return stream.read_stream(out, NOW, stop, start)
    finally:
        os.close(out)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_standard_input_is_read_plain_and_compressed(pack):
    for data in (full(1) + full(2), full(1) + full(2)[:-1]):
        found = piped(pack(data))
        assert count((*found.events, *found.pending)) == 2
        assert found.cursor is None
        assert found.problems == ()


@pytest.mark.parametrize("start", [None, START])
def test_empty_standard_input_is_unreadable(start):
    found = piped(b"", start=start)
    assert found.files == ()
    assert found.problems == (("standard input", reasons.EMPTY, ""),)
    assert found.coverage[:3] == ("standard input", (), reasons.EMPTY)


@pytest.mark.parametrize(
    ("data", "spans", "reason"),
    [
        (line(-5000) + line(-30), [(-5000, 0)], ""),
        (line(-5000) + line(-3000), [(-5000, -3000)], reasons.LAST_WRITTEN),
        (b"[    1.000000] eth0: link up\n", [], reasons.UNDATED),
        (b"garbage\n", [], reasons.NO_KERNEL_LINES),
        (b"\x04\x22\x4d\x18" * 20, [], reasons.CANNOT_UNPACK),
    ],
)
def test_standard_input_covers_from_its_first_to_its_last_line(data, spans, reason):
    own = piped(data, start=START).coverage
    assert [(span.start - NOW, span.end - NOW) for span in own.spans] == spans
    assert own.reason == reason


def test_short_standard_input_is_read_to_its_end():
    assert piped(b"abc").read == 3


def test_pipe_that_nobody_writes_to_is_not_waited_for():
    out, into = os.pipe()
    try:
        os.write(into, full(1) + full(2))
        begin = time.monotonic()
        found = stream.read_stream(out, NOW, lambda: time.monotonic() - begin > 0.3)
        assert time.monotonic() - begin < 5
    finally:
        os.close(out)
        os.close(into)
    assert found.problems[0].reason == reasons.TIMED_OUT
    assert (count((*found.events, *found.pending)), found.coverage.spans) == (2, ())


def test_closed_standard_input_is_reported():
    out, into = os.pipe()
    os.close(into)
    os.close(out)
    with contextlib.suppress(OSError):
        os.fstat(out)
        pytest.skip("the descriptor was used anew")
    assert stream.read_stream(out, NOW, never).problems
