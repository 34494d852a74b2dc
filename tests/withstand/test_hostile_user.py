"""A local user who would like to be the check, or to be root by way of it."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from check_conntrack.kernel.reader_client import parse_answer
from check_conntrack.table import snapshots
from support.commands import NOBODY, hidden
from support.machine import limit_lock
from support.processes import RUNS, answer
from withstand.test_any_host import limited

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


# --- the reader, by whoever may start it through sudo


@pytest.fixture
def reader(need, installed, sudoers):
    """The command that an unprivileged user may start as root, and its file."""
    tree, _ = installed
    return [*NOBODY, "sudo", "-n", str(tree / "check_conntrack/kernel/reader.py")]


def ended(command, request=b"log\0", **options):
    options.setdefault("timeout", 60)
    return subprocess.run(command, input=request, capture_output=True, **options)


OWN = b"limits\0/proc/self/ns/net\0"
TRAP = "import os\nos.write(2, b'trapped')\nos._exit(77)\n"


def test_no_environment_reaches_the_reader(reader, folder):
    for name in ("ctypes", "signal", "sitecustomize", "usercustomize", "errno", "struct", "os"):
        (folder / f"{name}.py").write_text(TRAP)
    (folder / "python3").write_text("#!/bin/sh\necho trapped >&2\n")
    (folder / "python3").chmod(0o755)
    # The linker complains of it wherever it is taken.
    built = folder / "evil.so"
    built.write_bytes(b"\x7fELF")
    place = str(folder)
    environment = {
        "PATH": f"{place}:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": place,
        "PYTHONHOME": place,
        "PYTHONSTARTUP": f"{place}/os.py",
        "PYTHONINSPECT": "1",
        "PYTHONUSERBASE": place,
        "PYTHONPLATLIBDIR": place,
        "PYTHONBREAKPOINT": "os.system",
        "PYTHONWARNINGS": "error::x.y",
        "LD_LIBRARY_PATH": place,
        "LD_AUDIT": str(built),
        "GCONV_PATH": place,
        "LOCPATH": place,
        "LC_ALL": "../../evil",
        "TZ": "../../evil",
        "GLIBC_TUNABLES": "glibc.malloc.check=3",
        "HOME": place,
        "BASH_ENV": f"{place}/os.py",
        "ENV": f"{place}/os.py",
        "XDG_CONFIG_HOME": place,
    }
    environment["LD_PRELOAD"] = str(built)
    words = [f"{name}={value}" for name, value in environment.items()]
    user, program = reader[: len(NOBODY)], reader[len(NOBODY) :]
    control = ended([*user, "env", *words, "/usr/bin/python3", "-c", "pass"])
    assert b"evil.so" in control.stderr
    assert control.returncode != 0, "an interpreter that listens does not even start"
    done = ended([*user, "env", *words, *program], OWN, cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(list(parse(done.stdout))) == 2


def parse(data):
    import io

    return parse_answer(io.BytesIO(data))


@pytest.mark.parametrize("word", ["-c", "-h", "--help", "/etc/shadow", "", "-", "x; id"])
def test_the_grant_covers_no_argument(reader, word):
    done = ended([*reader, word])
    assert done.returncode == 1
    assert b"password is required" in done.stderr or b"not allowed" in done.stderr


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"\0" * 4096,
        b"text\0/etc/shadow\0",
        b"text\0/proc/1/root/etc/shadow\0",
        b"limits\0/dev/watchdog\0/dev/mem\0",
        b"table\0/proc/self/fd/0\0",
        b"limits\0/proc/self/exe\0",
        b"log\0log\0",
        b"text\0//\0",
        b"limits\0" + b"/../" * 1000 + b"etc/shadow\0",
        b"table\0" + b"10:" + b"00" * 1025 + b"\0",
        os.urandom(3000),
    ],
    ids=lambda request: repr(request[:20]),
)
def test_no_request_gives_anything_but_conntrack_and_the_log(reader, request_):
    done = ended(reader, request_)
    assert done.stderr == b""
    if done.returncode == 0:
        assert {(frame.inode, frame.data) for frame in parse(done.stdout)} <= {(0, b"")}
    else:
        assert (done.returncode, done.stdout) == (2, b"")


LIMITS = {
    "no file may grow": limited("FSIZE", 0),
    "few descriptors": limited("NOFILE", 5),
    "no more descriptors": limited("NOFILE", 3),
    "little memory": limited("AS", 30 << 20),
    "hardly any memory": limited("AS", 12 << 20),
    "a second of time": limited("CPU", 1),
    "no stack": limited("STACK", 64 << 10),
    "no core": limited("CORE", 1 << 30),
    "no process more": limited("NPROC", 1),
    "no locked memory": limited("MEMLOCK", 0),
}


@pytest.mark.parametrize("kind", LIMITS)
def test_no_limit_makes_the_reader_do_what_it_does_not_do_without(reader, kind):
    good = ended(reader, OWN)
    done = ended(reader, OWN, preexec_fn=LIMITS[kind])
    # All of the answer, or the beginning of it, and a status that says so.
    if done.returncode == 0:
        told = [frame[:4] for frame in parse(done.stdout)]
        assert told == [frame[:4] for frame in parse(good.stdout)]
    else:
        assert b"end\n" not in done.stdout
    assert not list(Path("/").glob("core*"))


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("way", ["sudo", "itself"])
def test_descriptors_that_are_closed_are_no_hole(reader, closed, way):
    command = reader if way == "sudo" else reader[-1:]
    redirections = " ".join(f"{number}<&-" for number in closed)
    done = ended(["sh", "-c", f'exec "$@" {redirections}', "sh", *command], OWN)
    if 0 in closed or 1 in closed:
        assert done.stdout == b""
    elif way == "itself":
        assert (done.returncode, done.stdout) == (2, b"")
    assert b"Traceback" not in done.stdout


def test_what_it_says_goes_to_no_file_but_the_callers(reader, folder):
    """Standard error may be a file of the caller's: there stands nothing of the kernel's."""
    said = folder / "said"
    with open(said, "wb") as file:
        done = subprocess.run(
            reader, input=b"text\0/proc/self/ns/net\0", stdout=subprocess.PIPE, stderr=file
        )
    assert done.returncode == 0
    assert said.read_bytes() == b""


BLOCKED = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
    signal.signal(number, signal.SIG_IGN)
os.umask(0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
# Longer than a pipe holds: the reader stands in write(2).
LONG = b"limits\0" + b"".join(b"/%04d" % number + b"x" * 4000 + b"\0" for number in range(250))


def reader_of(process) -> int:
    """The pid of the reader itself, below sudo where that stays."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        pid = process.pid
        while True:
            with contextlib.suppress(OSError):
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"python" in arguments[0] and arguments[-2].endswith(b"reader.py"):
                    return pid
            below = Path(f"/proc/{pid}/task/{pid}/children")
            try:
                pid = int(below.read_text().split()[0])
            except (OSError, IndexError):
                break
        time.sleep(0.02)
    raise AssertionError("no reader")


@contextlib.contextmanager
def answering(command):
    """The reader in the midst of its answer, and its pid."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdin.write(LONG)
        process.stdin.close()
        process.stdout.read(1)
        yield process, reader_of(process)
    finally:
        process.stdout.close()
        process.kill()
        process.wait()


def test_signals_that_are_blocked_do_not_make_it_live_for_ever(reader):
    with answering([sys.executable, "-c", BLOCKED, *reader[-1:]]) as (process, pid):
        status = Path(f"/proc/{pid}/status").read_text()
        assert int(status.partition("SigBlk:")[2].split()[0], 16) == 0
        os.kill(pid, signal.SIGALRM)
        assert process.wait(10) == -signal.SIGALRM


def test_what_it_holds_cannot_be_taken_from_it(reader):
    """It is nobody by then, and so is who asks: its sockets and files are still its own."""
    with answering(reader) as (_, pid):
        assert "65534" in Path(f"/proc/{pid}/status").read_text().partition("Uid:")[2].split()
        for what in ("fd", "environ", "mem", "maps", "ns/net", "root"):
            look = "import os, sys; p = sys.argv[1]\n" + (
                "os.listdir(p)" if what in ("fd", "root") else "os.open(p, os.O_RDONLY)"
            )
            done = subprocess.run(
                [*NOBODY, "/usr/bin/python3", "-c", look, f"/proc/{pid}/{what}"],
                capture_output=True,
            )
            assert b"Permission" in done.stderr, (what, done.stderr)
        taken = subprocess.run(
            [*NOBODY, "/usr/bin/python3", "-c", STEAL, str(pid)], capture_output=True, text=True
        )
        assert taken.stdout.split() == ["EPERM"], taken.stderr


STEAL = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
pidfd = os.pidfd_open(int(sys.argv[1]))
got = libc.syscall(438, pidfd, 1, 0)  # pidfd_getfd
print(errno.errorcode[ctypes.get_errno()] if got < 0 else "taken")
"""


def test_a_reader_that_is_stopped_half_way_says_nothing_more_and_ends(reader):
    with answering(reader) as (process, pid):
        os.kill(pid, signal.SIGSTOP)
        process.stdout.close()
        os.kill(pid, signal.SIGCONT)
        until = time.monotonic() + 20
        while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < until:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                break
            process.poll()
            time.sleep(0.02)
        else:
            assert not Path(f"/proc/{pid}").exists()


def test_a_table_of_somebody_elses_never_reaches_a_user_without_the_grant(checks):
    run = answer(checks("table", "--sudo", "--no-state", before=STRANGER))
    assert run.state == "UNKNOWN"
    assert "entries" not in run.data or "usage" in run.data
