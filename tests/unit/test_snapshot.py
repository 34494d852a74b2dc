"""Snapshots: when one is due, which stay, and what stands in the way."""

from __future__ import annotations

import gzip
import os
import stat
import time
import types

import pytest

from check_conntrack.table import snapshots, table_check, table_text
from check_conntrack.table.snapshots import BEGIN, LATER, Kept
from support import flows_dump, tables

NOW = float(int(time.time()))


def stamp(at=0):
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(NOW + at))


def kept(*parts):
    return [Kept(f"{number}", "", NOW + number, part) for number, part in enumerate(parts)]


def names(found):
    return [one.name for one in found]


@pytest.fixture
def folder(tmp_path):
    made = snapshots.Folder(str(tmp_path))
    yield made
    made.close()


def never():
    return False


def save(folder, part=BEGIN, now=NOW, pieces=(b"one\n",), namespace="", expired=never):
    path = folder.save(namespace, part, now, iter(pieces), expired)
    os.utime(path, (now, now))
    return path


# --- which stay


def test_later_snapshots_are_removed_before_beginnings():
    found = kept(BEGIN, LATER, LATER, BEGIN, LATER, LATER)
    assert names(snapshots.superfluous(found, 5)) == ["1"]
    assert names(snapshots.superfluous(found, 3)) == ["1", "2", "4"]
    assert names(snapshots.superfluous(found, 2)) == ["1", "2", "4", "0"]
    # The beginning of the incident that lasts outlives all that came later.
    assert names(snapshots.superfluous(found, 1)) == ["1", "2", "4", "0", "5"]


def test_oldest_beginnings_are_removed_first():
    assert names(snapshots.superfluous(kept(BEGIN, BEGIN, BEGIN), 2)) == ["0"]


def test_nothing_is_removed_while_there_is_room():
    assert snapshots.superfluous(kept(BEGIN, LATER), 2) == []


# --- when one is due


@pytest.mark.parametrize(
    ("memory", "ages", "part"),
    [
        (None, [], BEGIN),
        (None, [60], ""),
        (None, [900], LATER),
        (None, [1800], BEGIN),
        ({"problem": False}, [60], BEGIN),
        ({"problem": True, "saved": NOW - 60}, [], ""),
        ({"problem": True, "saved": NOW - 899}, [60], ""),
        ({"problem": True, "saved": NOW - 900}, [], LATER),
        ({"problem": True, "saved": NOW + 60}, [], LATER),  # the clock went backwards
        ({"problem": True, "saved": "x"}, [60], ""),
        ({"problem": True, "saved": 10**400}, [60], LATER),
        ({"problem": True, "saved": -(10**400)}, [60], LATER),
        ([1], [60], ""),
    ],
)
def test_snapshot_is_due_when_a_problem_begins_and_every_15_minutes(memory, ages, part):
    found = [Kept("x", "", NOW - age, BEGIN) for age in ages]
    assert snapshots.due(memory, found, NOW) == part


# --- what is written


def test_snapshot_is_gzip_for_its_owner_only(folder, tmp_path):
    path = save(folder, pieces=[b"one\n", b"two\n"])
    assert os.listdir(tmp_path) == [f"conntrack-{stamp()}-begin.txt.gz"]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with gzip.open(path) as file:
        assert file.read() == b"one\ntwo\n"


def test_snapshots_of_namespaces_do_not_mix(folder):
    save(folder, namespace="r1")
    save(folder, namespace="r1-begin/../x")
    save(folder, namespace="")
    assert len(folder.kept("r1")) == len(folder.kept("")) == 1
    folder.prune("r1", 1)
    assert len(folder.kept("r1-begin/../x")) == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError(28, "No space")])
def test_failed_snapshot_leaves_no_file(folder, tmp_path, error):
    def pieces():
        yield b"one\n"
        raise error

    with pytest.raises((RuntimeError, KeyboardInterrupt, snapshots.SnapshotError)):
        save(folder, pieces=pieces())
    assert os.listdir(tmp_path) == []


def test_snapshot_ends_when_no_time_is_left(folder, tmp_path):
    with pytest.raises(snapshots.SnapshotError, match="no time was left after 0 entries"):
        save(folder, expired=lambda: True)
    assert os.listdir(tmp_path) == []


def test_leftover_of_a_killed_run_is_removed_and_other_files_stay(folder, tmp_path):
    old = tmp_path / ".conntrack-20270115T080000Z-begin.txt.gz.123.new"
    young = tmp_path / ".conntrack-20270115T080000Z-later.txt.gz.124.new"
    other = tmp_path / ".other.new"
    for path in (old, young, other):
        path.touch()
        os.utime(path, (NOW - 10, NOW - 10) if path is young else (NOW - 7200, NOW - 7200))
    save(folder)
    assert not old.exists()
    assert young.exists()
    assert other.exists()


def test_link_is_refused_as_a_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(snapshots.SnapshotError, match="is a link"):
        snapshots.Folder(str(tmp_path / "link"))


def test_link_with_the_name_of_a_snapshot_is_not_followed(folder, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    fresh = f".conntrack-{stamp()}-begin.txt.gz.{os.getpid()}.new"
    (tmp_path / fresh).symlink_to(victim)
    with pytest.raises(snapshots.SnapshotError):
        save(folder)
    assert victim.read_text() == "mine"


# --- in a run of the check


@pytest.fixture
def problem(reader, sysctls, inspect, tmp_path, monkeypatch):
    """Runs the check on a table of 95 of 100 entries, with snapshots; `at` seconds later."""
    directory = tmp_path / "kept"
    directory.mkdir()
    batch = b"".join(
        flows_dump.entry(bytes((10, 0, 0, n)), state=3, timeout=431000) for n in range(95)
    )

    def run(*words, at=0, limit=100):
        sysctls.holds(95, limit)
        reader.answers.clear()
        reader.hands_out("table", batch, flows_dump.done())
        monkeypatch.setattr(time, "time", lambda: NOW + at)
        result = inspect("--save", directory, *words)
        for name in os.listdir(directory):
            if stamp(at) in name:
                os.utime(directory / name, (NOW + at, NOW + at))
        return result

    run.directory = directory
    return run


def parts(problem):
    return [name.split("-")[-1].split(".")[0] for name in sorted(os.listdir(problem.directory))]


def test_problem_is_saved_when_it_begins_and_every_15_minutes(problem):
    assert "Saved the table in" in problem().rest
    assert parts(problem) == ["begin"]
    problem(at=300)
    assert parts(problem) == ["begin"]
    problem(at=900)
    problem(at=1000)
    assert parts(problem) == ["begin", "later"]
    problem(at=1100, limit=1000)  # it is over
    assert parts(problem) == ["begin", "later"]
    problem(at=1200)  # and begins anew
    assert parts(problem) == ["begin", "later", "begin"]


def test_snapshot_is_the_whole_table_as_conntrack_prints_it(problem, inspect):
    problem("--max-entries", "10", "--address", "10.0.0.1")
    (name,) = os.listdir(problem.directory)
    run = inspect("--source", problem.directory / name)
    assert run.data["entries"].value == 95
    with gzip.open(problem.directory / name) as file:
        header, first = file.readline().decode(), file.readline().decode()
    assert header.startswith("# check-conntrack table time=")
    assert " count=95 max=100 tcp_timeout_syn_sent=120 " in header
    assert (
        first
        == tables.tcp("ESTABLISHED", "10.0.0.0", "192.0.2.9", 40000, 443, 431000)
        .replace("mark=0 use=1", "")
        .rstrip(" ")
        + "\n"
    )


def test_snapshot_without_state_is_due_by_the_files(problem):
    problem("--no-state")
    problem("--no-state", at=300)
    assert parts(problem) == ["begin"]
    problem("--no-state", at=1000)
    assert parts(problem) == ["begin", "later"]


def test_healthy_table_is_not_saved(problem):
    problem(limit=1000)
    problem("--save-when", "critical", "-c", "99")
    assert parts(problem) == []
    problem("--save-when", "always", limit=1000)
    assert parts(problem) == ["begin"]


def test_keep_bounds_the_snapshots_and_spares_the_first(problem):
    for number in range(6):
        problem("--keep", "3", at=number * 900)
    assert parts(problem) == ["begin", "later", "later"]
    assert f"conntrack-{stamp()}-begin.txt.gz" in os.listdir(problem.directory)


@pytest.mark.parametrize("way", ["missing", "link", "file"])
def test_unusable_folder_leaves_the_verdict_as_it_is(problem, tmp_path, way):
    path = tmp_path / way
    if way == "link":
        path.symlink_to(problem.directory)
    if way == "file":
        path.touch()
    run = problem("--save", path)
    assert run.state == "CRITICAL"
    assert [line for line in run.lines if line.startswith(f"no snapshot: {path}: ")]
    assert parts(problem) == []
    for words in ((), ("--save-when", "always")):
        fine = problem("--save", path, *words, limit=1000)
        assert fine.state == "OK"
        assert f"no snapshot: {path}" in fine.text[:200] or "no snapshot" in fine.text


def test_folder_that_may_not_be_written_to_is_said_before_a_problem_begins(problem, monkeypatch):
    assert "no snapshot" not in problem(limit=1000).text
    monkeypatch.setattr(snapshots.os, "access", lambda *_, **how: "dir_fd" not in how)
    run = problem(limit=1000)
    assert run.state == "OK"
    assert "; no snapshot: " in run.text


def test_failed_snapshot_is_tried_again_as_the_first(problem, reader, monkeypatch):
    monkeypatch.setattr(snapshots.Folder, "_fill", lambda *_: 1 / 0)
    run = problem()
    assert (run.state, len(os.listdir(problem.directory))) == ("CRITICAL", 0)
    assert any(line.startswith("no snapshot: division by zero") for line in run.lines)
    monkeypatch.undo()


def test_snapshot_never_delays_the_verdict(problem, monkeypatch):
    # All of the time belongs to what comes after it.
    monkeypatch.setattr(table_check, "SPARE_TIME", 60.0)
    run = problem("-t", "60")
    assert run.state == "CRITICAL"
    assert "no snapshot: " in run.rest


PROC = b"""\
ipv4     2 tcp      6 9 CLOSE src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 \
sport=2 dport=1 [ASSURED] mark=0 zone=0 use=2
ipv6     10 udp      17 9 src=2001:0db8:0000:0000:0000:0000:0000:0001 \
dst=2001:0db8:0000:0000:0000:0000:0000:0002 sport=1 dport=2 [UNREPLIED] \
src=2001:0db8:0000:0000:0000:0000:0000:0002 dst=2001:0db8:0000:0000:0000:0000:0000:0001 \
sport=2 dport=1 mark=0 zone=7 use=2
ipv4     2 gre      47 9 timeout=0, stream_timeout=0 src=10.0.0.1 dst=10.0.0.2 srckey=0x1 \
dstkey=0x2 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 srckey=0x2 dstkey=0x1 mark=0 zone=0 use=2
"""
AS_CONNTRACK_PRINTS = """\
ipv4     2 tcp      6 9 CLOSE src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 \
sport=2 dport=1 [ASSURED] mark=0 use=2
ipv6     10 udp      17 9 src=2001:db8::1 dst=2001:db8::2 sport=1 dport=2 [UNREPLIED] \
src=2001:db8::2 dst=2001:db8::1 sport=2 dport=1 mark=0 zone=7 use=2
ipv4     2 gre      47 9 src=10.0.0.1 dst=10.0.0.2 srckey=0x1 dstkey=0x2 [UNREPLIED] \
src=10.0.0.2 dst=10.0.0.1 srckey=0x2 dstkey=0x1 mark=0 use=2
"""


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_snapshot_of_many_entries_comes_from_proc(
    reader, sysctls, inspect, tmp_path, monkeypatch, size
):
    monkeypatch.setattr(table_text, "FEW_TO_WRITE", 50)
    sysctls.holds(95, 100)
    reader.hands_out("table", flows_dump.entry(state=3) * 95, flows_dump.done())
    reader.hands_out("text", *(PROC[at : at + size] for at in range(0, len(PROC), size)))
    inspect("--save", tmp_path)
    (path,) = tmp_path.glob("conntrack-*")
    _, *lines, end = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
    assert "".join(lines) == AS_CONNTRACK_PRINTS
    assert end == "# check-conntrack end entries=3\n"


def test_snapshot_of_many_entries_comes_from_a_dump_without_proc(
    reader, sysctls, inspect, tmp_path, monkeypatch
):
    monkeypatch.setattr(table_text, "FEW_TO_WRITE", 50)
    sysctls.holds(95, 100)
    reader.hands_out("table", flows_dump.entry(state=3) * 95, flows_dump.done())
    reader.hands_out("text", 2, file="-")
    inspect("--save", tmp_path)
    (path,) = tmp_path.glob("conntrack-*")
    assert gzip.decompress(path.read_bytes()).count(b"\n") == 97  # a header and a last line


def test_dump_without_its_end_is_not_saved(reader, sysctls, inspect, tmp_path):
    sysctls.holds(95, 100)
    reader.hands_out("table", flows_dump.entry(state=3) * 95)
    run = inspect("--save", tmp_path)
    assert run.state == "CRITICAL"
    assert "no snapshot: the dump ended before its end" in run.lines
    assert not list(tmp_path.glob("*conntrack-*"))


@pytest.mark.parametrize(
    ("flags", "problem"),
    [(0, "Permission denied"), (os.ST_RDONLY, "Read-only file system")],
)
def test_folder_that_takes_no_files_says_why(monkeypatch, tmp_path, flags, problem):
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    monkeypatch.setattr(os, "fstatvfs", lambda _: types.SimpleNamespace(f_flag=flags))
    with pytest.raises(snapshots.SnapshotError, match=f"{tmp_path}: {problem}"):
        snapshots.check_writable(str(tmp_path))
