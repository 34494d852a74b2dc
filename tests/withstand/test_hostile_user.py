"""A local user who would like to be the check, or to be root by way of it."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import threading
import time

import pytest

from check_conntrack.table import snapshots
from support.commands import hidden
from support.machine import limit_lock
from support.processes import RUNS, answer

OTHER = 65533
STRANGER = ("setpriv", "--reuid", str(OTHER), "--regid", str(OTHER), "--clear-groups")


# --- what lies in the way


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "socket", "folder"])
def test_what_lies_in_the_place_of_a_state_file_is_not_touched(usage, state, folder, kind):
    usage()
    [kept] = state.glob("65534/*.json")
    kept.unlink()
    precious = folder / "precious"
    precious.write_text("precious")
    precious.chmod(0o666)
    fresh = kept.with_name(f".{kept.name}.new")
    for place in (kept, fresh):
        if kind == "link":
            place.symlink_to(precious)
        elif kind == "hard link":
            os.link(precious, place)
        elif kind == "fifo":
            os.mkfifo(place)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(place))
        else:
            place.mkdir()
    result = usage("-v")
    assert result.code == 0
    assert precious.read_text() == "precious"
    if kind != "folder":
        assert kept.stat().st_nlink == 1
        assert kept.stat().st_ino != precious.stat().st_ino
        assert not fresh.exists()


def test_a_folder_that_is_swapped_between_check_and_use_is_no_way_out(usage, folder, need):
    """A stranger owns the folder above, and swaps the check's own for a link all the time."""
    arena = folder / "arena"
    arena.mkdir()
    target = folder / "target"
    target.mkdir()
    shutil.chown(target, 65534, 65534)
    (arena / "real").mkdir(mode=0o755)
    shutil.chown(arena / "real", 65534, 65534)
    (arena / "link").symlink_to(target)
    place = arena / "place"
    (arena / "real").rename(place)
    stop = threading.Event()
    swaps = []

    def swap():
        exchange = 2  # RENAME_EXCHANGE, linux/fs.h
        import ctypes

        libc = ctypes.CDLL(None)
        while not stop.is_set():
            done = libc.renameat2(
                -100, os.fsencode(place), -100, os.fsencode(arena / "link"), exchange
            )
            swaps.append(done)
            time.sleep(0.0005)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        results = [usage("--state-dir", place) for _ in range(max(12, RUNS))]
    finally:
        stop.set()
        swapper.join()
    assert 0 in swaps
    assert {result.code for result in results} == {0}, "the verdict stands"
    assert os.listdir(target) == [], "nothing was ever written through the link"


@pytest.mark.parametrize("kind", ["open", "link"])
@pytest.mark.parametrize("name", ["usage", "full", "table"])
def test_a_state_directory_that_a_stranger_may_have_a_hand_in_never_costs_the_verdict(
    checks, folder, netns, name, kind
):
    namespace = netns()
    namespace.fill(30)
    log = folder / "kern.log"
    log.write_text("Jan  1 00:00:00 h kernel: nf_conntrack: table full, dropping packet\n")
    log.chmod(0o644)
    alarm = ["--log", log, "--since", "all"] if name == "full" else ["-w", "0", "-c", "0"]
    quiet = [*alarm, "-c", "9"] if name == "full" else ["-w", "99", "-c", "99"]
    place = folder / "place"

    def judged():
        command = checks(name, "--state-dir", place)
        return [answer(namespace.command(*command, *words)) for words in (alarm, quiet)]

    def spoil():
        if kind == "open":
            place.chmod(0o777)
            return f"state directory {place}: others may write to it"
        place.rename(folder / "elsewhere")
        place.symlink_to("elsewhere")
        os.chown(place, 65534, 65534, follow_symlinks=False)
        return f"state directory {place}: is a link (name the folder itself)"

    def kept():
        return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}

    place.mkdir(mode=0o700)
    shutil.chown(place, 65534, 65534)
    with limit_lock():
        good = judged()
        why = spoil()
        before = kept()
        bad = judged()
    assert [run.state for run in good] == ["CRITICAL", "OK"]
    assert all("No history is kept" not in run.out for run in good)
    assert [(run.code, run.text) for run in bad] == [(run.code, run.text) for run in good]
    for run in bad:
        (told,) = [line for line in run.lines if "history" in line]
        assert told.startswith(f"No history is kept: {why}")
    assert before, "something could have been read there"
    assert kept() == before, "and nothing is written"


def test_snapshots_of_others_neither_count_nor_go(folder):
    folder.chmod(0o1777)
    names = [f"conntrack-20260101T00000{n}Z-begin.txt.gz" for n in range(9)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(b"not ours")
        os.utime(folder / name, (number, number))
        os.chown(folder / name, OTHER, OTHER)
    os.symlink("/etc/passwd", folder / "conntrack-20260101T000010Z-begin.txt.gz")
    os.mkfifo(folder / "conntrack-20260101T000011Z-later.txt.gz")
    before = sorted(os.listdir(folder))
    opened = snapshots.Folder(str(folder))
    try:
        assert opened.kept("") == []
        opened.save("", snapshots.BEGIN, time.time(), [b"line\n"], lambda: False)
        opened.prune("", 1)
    finally:
        opened.close()
    [ours] = set(os.listdir(folder)) - set(before)
    assert sorted(set(os.listdir(folder)) - {ours}) == before
    assert gzip.decompress((folder / ours).read_bytes()) == b"line\n"


NAME = "a\x1b[31m\n|b' 'c=1;\\"


def test_a_namespace_with_an_evil_name_is_shown_escaped(netns, checks):
    namespace = netns()
    namespace.fill(20)
    script = (
        f"mount --bind /run/netns/{namespace.name} /mnt/ns; mount -t tmpfs none /run/netns; "
        'touch "/run/netns/$EVIL"; mount --bind /mnt/ns "/run/netns/$EVIL"'
    )
    before = hidden(f"mount -t tmpfs none /mnt; touch /mnt/ns; {script}")
    environment = {**os.environ, "EVIL": NAME}
    for name in ("usage", "full", "table"):
        words = ["--netns", "all", "--no-state", "-v"]
        words += ["--since", "1s"] if name == "full" else []
        run = answer([*before, *checks(name, *words)], env=environment)
        labels = [label for label in run.data if "::" in label]
        assert any(label.startswith("a__31m__b___c_1__::") for label in labels), labels
        assert "\\x1b[31m\\x0a\\x7cb" in run.out or name == "full"


def test_a_table_of_somebody_elses_never_reaches_a_user_without_the_grant(checks):
    run = answer(checks("table", "--sudo", "--no-state", before=STRANGER))
    assert run.state == "UNKNOWN"
    assert "entries" not in run.data or "usage" in run.data
