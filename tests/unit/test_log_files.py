"""Log files: what is found in them, what is refused, and the place that is found again."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import shutil
import socket
import subprocess
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from check_conntrack.kernel import reasons
from check_conntrack.kernel.log import files as fl
from check_conntrack.kernel.log.events import count_events
from check_conntrack.kernel.log.messages import Kind

DATA = Path(__file__).parent.parent / "data" / "log"
TEXT = "nf_conntrack: table full, dropping packet"
OTHER = b"Nov 21 20:00:00 gw kernel: [ 1.000000] eth0: link up\n"
NOW = 1_795_298_400.0  # 2026-11-21 22:00:00 UTC


@pytest.fixture(autouse=True)
def _utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def never():
    return False


def full(number=0):
    when = f"Nov 21 21:{number // 60:02}:{number % 60:02}"
    return f"{when} gw kernel: [{number:5}.000000] {TEXT}\n".encode()


def read(path, position=None, start=None, stop=never):
    return fl.read_log(str(path), NOW, stop, position, start)


def count(events):
    return count_events(events).table_full


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "kern.log"
    path.write_bytes(OTHER + full(1) + OTHER + full(2))
    return path


# -- what is found


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("linux-2.4.log", (12, 318, 0)),
        ("linux-2.6.log", (3, 1258, 0)),
        ("linux-4.log", (5, 1871, 2)),
        ("linux-6.log", (2, 5988, 0)),
        ("quoted.log", (0, 0, 0)),
    ],
)
def test_the_logs_of_old_and_new_kernels_are_counted(name, figures):
    found = read(DATA / name)
    told = count_events(found.events)
    assert (told.table_full, told.suppressed, told.other_loss) == figures
    assert found.complete
    assert found.kernel_lines
    assert found.problems == ()


def test_an_event_bears_its_file_time_host_and_stamp(log):
    event = read(log).events[1]
    assert event.kind is Kind.TABLE_FULL
    assert (event.source, event.family, event.host) == (str(log), str(log), "gw")
    assert event.monotonic == 2_000_000


def test_the_year_is_that_of_the_files_last_change(log):
    os.utime(log, (NOW - 2 * 365 * 86400, NOW - 2 * 365 * 86400))
    assert time.gmtime(read(log).events[0].time).tm_year == 2024


def test_two_needles_in_one_line_are_one_event(log):
    log.write_bytes(
        b"Nov 21 20:00:00 gw kernel: message repeated 2 times: [ conntrack s suppressed]\n" + full()
    )
    assert len(read(log).events) == 1


@pytest.mark.parametrize("size", [1, 20, 300])
def test_events_at_the_edges_of_blocks_are_found_once(tmp_path, monkeypatch, size):
    monkeypatch.setattr(fl, "BLOCK", 100 + size)
    path = tmp_path / "kern.log"
    path.write_bytes(b"".join(full(n) + OTHER * (n % 3) for n in range(200)))
    assert [event.monotonic for event in read(path).events] == [n * 1_000_000 for n in range(200)]


@pytest.mark.parametrize("size", [1, 20, 70])
def test_repetitions_beyond_the_edge_of_a_block_belong_to_their_event(tmp_path, monkeypatch, size):
    monkeypatch.setattr(fl, "BLOCK", 100 + size)
    path = tmp_path / "kern.log"
    path.write_bytes(
        (full(1) + b"Nov 21 21:30:00 gw last message repeated 3 times\n" * 2) * 20
        + OTHER
        + b"Nov 21 21:30:00 gw last message repeated 3 times\n"
    )
    assert count(read(path).events) == 20 * 7


def test_libcs_search_and_pythons_find_the_same():
    buffer = bytearray(b"conntrack\0xx conntrackconntrack\nconntrac")
    fast = fl._fast_find(buffer)
    for begin in range(len(buffer)):
        for end in range(begin, len(buffer) + 1):
            assert fast(b"conntrack", begin, end) == buffer.find(b"conntrack", begin, end)


def test_a_large_file_is_searched_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(fl, "LARGE", 1000)
    monkeypatch.setattr(fl, "BLOCK", 5000)
    path = tmp_path / "kern.log"
    path.write_bytes(b"".join(full(n) + OTHER * 20 for n in range(200)))
    assert count(read(path).events) == 200


def test_without_libcs_search_pythons_serves(monkeypatch):
    import ctypes

    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert fl._fast_find(bytearray(b"xconntrack"))(b"conntrack", 0, 10) == 1


# -- bad input


def test_a_line_cut_in_the_middle_is_no_event(log):
    log.write_bytes(full()[30:] + OTHER + full()[:-20])
    found = read(log)
    assert (found.events, found.pending) == ((), ())


def test_a_last_line_without_an_end_counts_now_and_is_found_again(log):
    log.write_bytes(full(1) + full(2)[:-1])
    found = read(log)
    assert (count(found.events), count(found.pending)) == (1, 1)
    with log.open("ab") as file:
        file.write(b"\n" + full(3))
    again = read(log, found.cursor)
    assert again.followed
    assert count(again.events) == 2


def test_binary_and_invalid_utf_8_do_not_hide_an_event(log):
    noise = bytes(range(256)) * 50
    log.write_bytes(noise + b"\n" + full(1) + b"\xff\xfe\n" + noise + b"\n" + full(2))
    assert count(read(log).events) == 2


def test_a_line_of_any_length_costs_no_more_memory_and_hides_nothing(tmp_path):
    path = tmp_path / "kern.log"
    with path.open("wb") as file:
        file.write(full(1))
        for _ in range(100):
            file.write(b"x conntrack " * 50_000)
        file.write(b"\n" + full(2))
    tracemalloc.start()
    found = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count(found.events) == 2
    assert peak < 4 << 20


def test_a_message_at_the_end_of_an_overlong_line_is_no_message(log):
    log.write_bytes(b"x" * 20_000 + full(1) + full(2))
    assert [event.monotonic for event in read(log).events] == [2_000_000]


def test_the_rest_of_an_overlong_line_is_not_taken_for_a_line_next_time(log):
    log.write_bytes(full(1) + b"x" * 20_000)
    found = read(log)
    with log.open("ab") as file:
        file.write(full(2) + full(3))
    again = read(log, found.cursor)
    assert [event.monotonic for event in again.events] == [3_000_000]


def test_a_file_of_nothing_but_events_is_folded_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(fl, "MOST_EVENTS", 100)
    path = tmp_path / "kern.log"
    path.write_bytes(b"".join(full(n % 3600) for n in range(4000)))
    found = read(path)
    assert count(found.events) == 4000
    assert len(found.events) < 2000


def test_a_log_without_lines_of_the_kernel_says_so(log):
    log.write_bytes(b"Nov 21 20:00:00 gw sshd[1]: kernel: nothing\n" * 100)
    assert not read(log).kernel_lines
    log.write_bytes(b"Nov 21 20:00:00 gw sshd[1]: nothing\n" * 100 + OTHER)
    assert read(log).kernel_lines
    log.write_bytes(b"[    1.000000] eth0: link up\n")
    assert read(log).kernel_lines


@pytest.mark.parametrize(
    "line",
    [
        b"<6>1 2026-11-21T20:00:00.000000+00:00 gw kernel - - -  eth0: link up\n",
        b"Nov 21 20:00:00 gw kernel eth0: link up\n",
        b"2026-11-21T20:00:00.000000+00:00 gw kernel [    1.000000] eth0: link up\n",
    ],
)
def test_a_central_hosts_log_shows_lines_of_the_kernel(log, line):
    log.write_bytes(b"Nov 21 20:00:00 gw sshd[1]: nothing\n" * 100 + line)
    assert read(log).kernel_lines
    log.write_bytes(line[:-1])
    assert read(log).kernel_lines


@pytest.mark.parametrize(
    "line",
    [
        b"Nov 21 20:00:00 gw sshd[1]: the kernel eth0: link up\n",
        b"Nov 21 20:00:00 app: kernel eth0: link up\n",
        b"<14>1 2026-11-21T20:00:00Z gw kernel - - - eth0: link up\n",
        b"<6>1 2026-11-21T20:00:00Z gw app - - - kernel eth0: link up\n",
        b"2026-11-21 20:00:00 install kernel 6.1\n",
    ],
)
def test_a_log_that_speaks_of_the_kernel_shows_no_line_of_its_own(log, line):
    log.write_bytes(line * 100)
    assert not read(log).kernel_lines


def test_a_central_hosts_events_are_found_in_a_log_of_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(fl, "LARGE", 1000)
    monkeypatch.setattr(fl, "BLOCK", 5000)
    path = tmp_path / "gw.log"
    forms = (
        "<4>1 2026-11-21T21:{:02}:00Z gw kernel - - -  " + TEXT,
        "Nov 21 21:{:02}:00 gw kernel " + TEXT,
        "Nov 21 21:{:02}:00 gw kernel: " + TEXT,
    )
    lines = [form.format(minute) for minute in range(60) for form in forms]
    path.write_bytes(("\n".join(lines) + "\n").encode() + OTHER)
    assert count(read(path).events) == 180


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
        [problem] = read(name).problems
        assert (problem.path, problem.reason) == (str(name), reason)
        assert detail in problem.detail


def test_a_log_that_may_not_be_read_says_what_to_grant():
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


def test_reading_ends_when_it_is_told_to_and_goes_on_next_time(tmp_path, monkeypatch):
    monkeypatch.setattr(fl, "BLOCK", 1000)
    path = tmp_path / "kern.log"
    path.write_bytes(b"".join(full(n) for n in range(100)))
    asked = iter(range(1000))
    found = read(path, stop=lambda: next(asked) >= 3)
    assert not found.complete
    rest = read(path, found.cursor)
    assert 0 < count(found.events) < 100
    assert count(found.events) + count(rest.events) == 100


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 1))
def test_any_bytes_before_and_after_do_not_hide_a_line(tmp_path, data, end):
    path = tmp_path / "kern.log"
    path.write_bytes(b"x" + data + b"\n" + full(7) + data * end)
    found = read(path)
    assert any(event.monotonic == 7_000_000 for event in (*found.events, *found.pending))


# -- compression

PACKERS = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
}


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_logs_are_read_also_of_several_streams(tmp_path, suffix):
    pack = PACKERS[suffix]
    path = tmp_path / f"kern.log.2.{suffix}"
    path.write_bytes(pack(OTHER * 50_000 + full(1)) + pack(full(2)))
    found = read(path)
    assert (count(found.events), found.complete, found.problems) == (2, True, ())


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("keep", [0.2, 0.9])
def test_of_a_compressed_log_cut_in_the_middle_what_can_be_read_counts(tmp_path, suffix, keep):
    whole = PACKERS[suffix](b"".join(full(n % 3600) + os.urandom(40) + b"\n" for n in range(9000)))
    path = tmp_path / f"kern.log.2.{suffix}"
    path.write_bytes(whole[: int(len(whole) * keep)])
    found = read(path)
    assert not found.complete
    assert found.problems[0].detail == "end in the middle"
    # xz and bzip2 give what they have block by block.
    assert count(found.events) > (6000 * keep if suffix == "gz" else -1)


def pack_xz(data, dictionary):
    """As xz packs with a dictionary of so many bytes, of which `xz -9` has 64 MiB."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": dictionary}]
    return lzma.compress(data, filters=filters)


def test_what_xz_has_packed_as_well_as_it_can_is_read(tmp_path):
    path = tmp_path / "kern.log.2.xz"
    path.write_bytes(pack_xz(OTHER + full(1), 64 << 20))
    found = read(path)
    assert (count(found.events), found.problems) == (1, ())


def test_what_takes_more_memory_than_unpacking_may_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(fl, "XZ_MEMORY", 4 << 20)
    path = tmp_path / "kern.log.2.xz"
    path.write_bytes(pack_xz(OTHER + full(1), 8 << 20))
    [problem] = read(path).problems
    assert problem[1:] == (reasons.UNPACK_MEMORY, "4")


def test_a_damaged_archive_is_said_and_what_stands_before_counts(tmp_path):
    whole = bytearray(gzip.compress(b"".join(full(n % 3600) for n in range(50_000)), 1))
    whole[len(whole) // 2 : len(whole) // 2 + 200] = b"\xff" * 200
    path = tmp_path / "kern.log.2.gz"
    path.write_bytes(whole)
    found = read(path)
    assert found.problems[0].reason
    assert not found.complete
    assert count(found.events) > 1000


def test_a_name_does_not_decide_what_is_compressed(tmp_path):
    plain, packed = tmp_path / "kern.log.2.gz", tmp_path / "kern.log"
    plain.write_bytes(full(1))
    packed.write_bytes(gzip.compress(full(1)))
    assert count(read(plain).events) == count(read(packed).events) == 1


def test_a_little_archive_of_a_huge_log_costs_no_memory(tmp_path):
    path = tmp_path / "kern.log.2.gz"
    path.write_bytes(gzip.compress(b"x" * (100 << 20)) + gzip.compress(b"\n" + full(1)))
    tracemalloc.start()
    found = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count(found.events) == 1
    assert peak < 8 << 20


def test_zstd_is_read_or_said_to_be_beyond_this_python(tmp_path):
    if shutil.which("zstd") is None:
        pytest.skip("needs zstd")
    path = tmp_path / "kern.log.2"
    path.write_bytes(full(1))
    subprocess.run(["zstd", "-q", str(path)], check=True)
    found = read(tmp_path / "kern.log.2.zst")
    if found.problems:
        assert found.problems[0][1:] == (reasons.CANNOT_UNPACK, "zstd")
    else:
        assert count(found.events) == 1


def test_a_file_of_the_journal_is_named_as_what_it_is(log):
    log.write_bytes(b"LPKSHHRH" + b"\0" * 100)
    assert read(log).problems[0].reason == reasons.JOURNAL_FILE


# -- the place that is found again


def append(path, *parts):
    with path.open("ab") as file:
        file.write(b"".join(parts))


def test_a_second_run_reads_what_was_appended_alone(log):
    first = read(log)
    append(log, full(3))
    second = read(log, first.cursor)
    assert second.followed
    assert second.read == len(full(3))
    assert count(second.events) == 1
    assert count(fl.reconcile(first.events, second)) == 3


def test_a_run_on_an_unchanged_log_finds_nothing_new(log):
    first = read(log)
    again = read(log, first.cursor)
    assert (again.followed, again.events, again.read) == (True, (), 0)
    assert again.cursor == first.cursor


def test_a_position_survives_json(log):
    append(log, full(3))
    position = read(log).cursor
    assert position.last is not None
    plain = json.loads(json.dumps(fl.cursor_to_plain(position)))
    assert fl.cursor_from_plain(plain) == position


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("value", ["x", -1, 1.5j, [], {}])
def test_a_damaged_position_is_a_value_error(log, place, value):
    plain = fl.cursor_to_plain(read(log).cursor)
    plain[place] = value
    if place == 7 and value == -1:
        return
    with pytest.raises(ValueError):  # noqa: PT011 - of whatever wording
        fl.cursor_from_plain(plain)


def test_a_repetition_of_the_last_line_before_the_position_counts(log):
    first = read(log)
    append(log, b"Nov 21 21:30:00 gw last message repeated 3 times\n")
    assert count(read(log, first.cursor).events) == 3


def rename(log):
    log.rename(f"{log}.1")


def rename_by_date(log):
    log.rename(f"{log}-20261121")


def copy_and_truncate(log):
    shutil.copy(log, f"{log}.1")
    os.truncate(log, 0)


def compress_at_once(log):
    Path(f"{log}.1.gz").write_bytes(gzip.compress(log.read_bytes()))
    log.unlink()


def twice(log):
    log.rename(f"{log}.2")
    Path(f"{log}.1").write_bytes(full(20) + full(21))


def twice_and_compressed(log):
    Path(f"{log}.2.xz").write_bytes(lzma.compress(log.read_bytes()))
    log.unlink()
    Path(f"{log}.1").write_bytes(full(20) + full(21))


ROTATIONS = [
    rename,
    rename_by_date,
    copy_and_truncate,
    compress_at_once,
    twice,
    twice_and_compressed,
]


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_a_rotation_between_runs_loses_nothing_and_counts_nothing_twice(log, rotate):
    first = read(log)
    append(log, full(10), full(11))
    rotate(log)
    append(log, full(30))
    second = read(log, first.cursor)
    extra = 2 if rotate in (twice, twice_and_compressed) else 0
    assert second.followed
    assert count(second.events) == 3 + extra
    assert count(fl.reconcile(first.events, second)) == 5 + extra
    third = read(log, second.cursor)
    assert (third.followed, third.events) == (True, ())


@pytest.mark.parametrize(
    "rotate", [each for each in ROTATIONS if each not in (twice, twice_and_compressed)]
)
def test_a_rotation_with_nothing_written_since_counts_nothing_twice(log, rotate):
    first = read(log)
    rotate(log)
    append(log, OTHER)
    second = read(log, first.cursor)
    assert (second.followed, count(second.events)) == (True, 0)


def test_a_log_rotated_and_not_written_again_yet_loses_nothing(log):
    first = read(log)
    append(log, full(10))
    rename(log)
    second = read(log, first.cursor)
    assert count(second.events) == 1
    held = fl.reconcile(first.events, second)
    append(log, full(30))
    third = read(log, second.cursor, start=NOW - 86400)
    assert count(fl.reconcile(held, third)) == 4


@pytest.mark.parametrize("start", [None, NOW - 900])
@pytest.mark.parametrize("written", [b"", OTHER, full(30)[:-1]])
def test_what_was_written_to_an_empty_log_before_it_was_truncated_counts(log, start, written):
    log.write_bytes(b"")
    first = read(log, start=start)
    append(log, full(1), full(2), full(3))
    copy_and_truncate(log)
    append(log, written)
    second = read(log, first.cursor, start)
    assert second.files == (f"{log}.1", str(log))
    held = fl.reconcile(first.events, second)
    assert count(held) == 3
    append(log, full(40) if written.endswith(b"\n") else b"\n" + full(40))
    third = read(log, second.cursor, start)
    assert count(fl.reconcile(held, third)) == 4 + bool(written and written != OTHER)


@pytest.mark.parametrize("rotate", [rename, compress_at_once, copy_and_truncate])
def test_a_log_that_stays_empty_after_its_rotation_counts_nothing_twice(log, rotate):
    first = read(log)
    rotate(log)
    log.touch()
    second = read(log, first.cursor)
    held = fl.reconcile(first.events, second)
    for _ in range(2):
        second = read(log, second.cursor, start=NOW - 900)
        held = fl.reconcile(held, second)
    assert count(held) == 2


def test_an_empty_log_is_not_followed_by_what_was_rotated_long_before(log):
    rename(log)
    os.utime(f"{log}.1", (NOW - 3600, NOW - 3600))
    log.write_bytes(b"")
    first = read(log)
    append(log, full(30))
    second = read(log, first.cursor)
    assert (second.followed, second.files) == (True, (str(log),))
    assert count(second.events) == 1


def test_a_rotation_that_left_nothing_behind_reads_the_new_log_whole(log):
    first = read(log)
    log.unlink()
    append(log, full(30))
    second = read(log, first.cursor)
    assert not second.followed
    assert count(fl.reconcile(first.events, second)) == 3


def test_a_log_that_shrinks_is_read_again_and_counts_nothing_twice(log):
    first = read(log)
    log.write_bytes(full(1))
    second = read(log, first.cursor)
    assert not second.followed
    assert count(fl.reconcile(first.events, second)) == 2


def test_a_log_that_was_changed_before_the_position_is_read_again(log):
    first = read(log)
    data = bytearray(log.read_bytes())
    data[20:22] = b"ho"
    log.write_bytes(bytes(data) + full(9))
    second = read(log, first.cursor)
    assert not second.followed
    assert count(second.events) == 3


def test_an_inode_used_anew_does_not_deceive(log):
    first = read(log)
    log.write_bytes(full(40) * 50)
    assert not read(log, first.cursor).followed


def test_a_first_run_right_after_a_rotation_looks_into_the_rotated_log_too(log):
    rename(log)
    append(log, full(30))
    old = Path(f"{log}.2.gz")
    old.write_bytes(gzip.compress(full(3)))
    os.utime(old, (NOW - 9 * 86400, NOW - 9 * 86400))
    found = read(log, start=NOW - 8 * 86400)
    assert count(found.events) == 3
    assert found.files == (f"{log}.1", str(log))
    assert count(read(log).events) == 1


def test_a_run_that_does_not_get_through_the_rotated_logs_does_the_same_work_again(
    log, monkeypatch
):
    first = read(log)
    append(log, full(10))
    rename(log)
    append(log, full(30))
    asked = iter(range(1000))
    cut = read(log, first.cursor, stop=lambda: next(asked) >= 3)
    assert not cut.complete
    assert cut.cut
    assert cut.problems[0].reason == reasons.TIMED_OUT
    assert cut.cursor == first.cursor
    assert fl.reconcile(first.events, cut) == first.events
    assert count(cut.pending) >= 1
    whole = read(log, cut.cursor)
    assert count(fl.reconcile(first.events, whole)) == 4


def test_a_missing_log_forgets_nothing(log):
    first = read(log)
    log.unlink()
    second = read(log, first.cursor)
    assert second.problems[0].reason == reasons.NOT_FOUND
    assert fl.reconcile(first.events, second) == first.events


def test_rotated_logs_are_told_from_other_files(tmp_path):
    names = [
        "kern.log.1",
        "kern.log.2.gz",
        "kern.log-20261121",
        "kern.log-20261120.xz",
        "kern.log.3.zst",
        "kern.log-2026-11-19",
        "kern.log-20261118-1795298400.gz",
    ]
    others = [
        "kern.log",
        "kern.log.bak",
        "kern.log.1.swp",
        "kern.logs",
        "xkern.log.1",
        "kern.log.gz",
    ]
    for number, name in enumerate(names + others):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (NOW - number, NOW - number))
    found = fl.rotated(str(tmp_path / "kern.log"), 0)
    assert [os.path.basename(name) for name in found] == names[::-1]
    assert fl.rotated(str(tmp_path / "none" / "kern.log"), 0) == []


def test_an_empty_log_shows_what_was_rotated_out_of_it_whenever_that_was(log):
    rename(log)
    for number in (3, 2):
        Path(f"{log}.{number}.gz").write_bytes(gzip.compress(b"" if number == 2 else full(3)))
    old = Path(f"{log}.1")
    old.write_bytes(b"Nov 1 20:00:00 gw sshd[1]: nothing\n" * 9)
    for path in (old, Path(f"{log}.2.gz"), Path(f"{log}.3.gz")):
        os.utime(path, (NOW - 9 * 86400, NOW - 9 * 86400))
    log.touch()
    found = read(log, start=NOW - 900)
    assert found.empty
    assert found.kernel_lines
    assert found.files == (str(log),), "they are looked at, and not searched"
    assert count(found.events) == 0
    # What was seen once is not looked for again.
    assert read(log, found.cursor).kernel_lines


def test_an_empty_log_of_which_nothing_was_rotated_shows_nothing(log):
    log.write_bytes(b"")
    Path(f"{log}.1").touch()
    found = read(log, start=NOW - 900)
    assert found.empty
    assert not found.kernel_lines
    assert not read(log, found.cursor, start=NOW - 900).kernel_lines
    # Time that ends meanwhile, and a file that is none, are why, and not the log.
    Path(f"{log}.1").write_bytes(OTHER)
    os.utime(f"{log}.1", (NOW - 9 * 86400, NOW - 9 * 86400))
    asked = iter([False])
    assert read(log, start=NOW - 900, stop=lambda: next(asked, True)).cut
    Path(f"{log}.1").write_bytes(b"BZh9 is no bzip2")
    os.utime(f"{log}.1", (NOW - 9 * 86400, NOW - 9 * 86400))
    assert read(log, start=NOW - 900).problems[0].reason == reasons.DAMAGED


def test_a_log_that_is_emptied_is_still_the_kernel_s(log):
    first = read(log)
    log.write_bytes(b"")
    assert read(log, first.cursor, start=NOW - 900).kernel_lines


def test_other_lines_that_were_read_before_make_no_quiet_log(log):
    log.write_bytes(b"Nov 21 20:00:00 gw sshd[1]: nothing\n")
    first = read(log, start=NOW - 900)
    Path(f"{log}.1").write_bytes(OTHER)
    second = read(log, first.cursor, start=NOW - 900)
    assert not second.read
    assert not second.empty
    assert not second.kernel_lines


# -- how far a log goes back

HALF_PAST_NINE = NOW - 1800


def test_a_log_goes_back_as_far_as_what_was_rotated_out_of_it(log):
    begun = NOW - 7200
    assert fl.oldest(str(log), NOW) == begun
    rename(log)
    log.write_bytes(full(30))
    assert fl.oldest(str(log), NOW) == begun
    Path(f"{log}.1").unlink()
    assert fl.oldest(str(log), NOW) == HALF_PAST_NINE - 1770


@pytest.mark.parametrize("pack", [bytes, *PACKERS.values()])
def test_a_log_begins_with_the_first_line_that_tells_of_the_oldest_file_that_can_be_read(log, pack):
    Path(f"{log}.3.gz").write_bytes(b"\x1f\x8bdamaged")
    os.mkfifo(f"{log}.4")
    Path(f"{log}.2").write_bytes(pack(b"cut off: x\n" + b"Nov 21 21:30:00 gw app[7]: x\n" + full()))
    log.write_bytes(full(50))
    for number, name in enumerate((f"{log}.4", f"{log}.3.gz", f"{log}.2", log)):
        os.utime(name, (NOW + number, NOW + number))
    assert fl.oldest(str(log), NOW) == HALF_PAST_NINE


def test_a_log_without_a_date_does_not_tell_how_far_it_goes_back(log):
    log.write_bytes(b"[    1.000000] eth0: link up\n" * 1000)
    assert fl.oldest(str(log), NOW) is None
    log.write_bytes(b"")
    assert fl.oldest(str(log), NOW) is None
    log.unlink()
    assert fl.oldest(str(log), NOW) is None


# -- names and streams


def test_globs_stand_for_files_and_what_matches_nothing_is_said(tmp_path, log):
    (tmp_path / "kern.log.1").touch()
    (tmp_path / "odd[1].log").touch()
    paths, problems = fl.expand(
        [f"{tmp_path}/kern*", str(log), "-", f"{tmp_path}/odd[1].log", f"{tmp_path}/x*"]
    )
    assert paths == (str(log), f"{log}.1", "-", f"{tmp_path}/odd[1].log")
    assert [problem.path for problem in problems] == [f"{tmp_path}/x*"]


def piped(data, stop=never):
    out, into = os.pipe()
    try:
        os.write(into, data)
        os.close(into)
        return fl.read_stream(out, NOW, stop)
    finally:
        os.close(out)


def test_standard_input_is_read_plain_and_compressed():
    for data in (full(1) + full(2), gzip.compress(full(1) + full(2)), full(1) + full(2)[:-1]):
        found = piped(data)
        assert count((*found.events, *found.pending)) == 2
        assert found.cursor is None
        assert found.complete


def test_short_and_empty_input_is_read_to_its_end():
    assert piped(b"").complete
    assert piped(b"").empty
    assert piped(b"abc").read == 3
    assert not piped(b"abc").empty


def test_a_pipe_that_nobody_writes_to_is_not_waited_for_longer_than_allowed():
    out, into = os.pipe()
    try:
        os.write(into, full(1) + full(2))
        begin = time.monotonic()
        found = fl.read_stream(out, NOW, lambda: time.monotonic() - begin > 0.3)
        assert time.monotonic() - begin < 5
    finally:
        os.close(out)
        os.close(into)
    assert not found.complete
    assert found.problems[0].reason == reasons.TIMED_OUT
    assert count(found.events) == 2


def test_a_closed_standard_input_is_a_problem_and_no_crash():
    out, into = os.pipe()
    os.close(into)
    os.close(out)
    with contextlib.suppress(OSError):
        os.fstat(out)
        pytest.skip("the descriptor was used anew")
    assert fl.read_stream(out, NOW, never).problems
