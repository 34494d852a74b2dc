"""The reader, by a user who may start it through sudo and would like more than that."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from check_conntrack.kernel import reader as kernel_reader
from check_conntrack.kernel.reader_client import parse_answer
from support.commands import NOBODY
from withstand.conftest import RUNS
from withstand.test_any_host import limited


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


def test_environment_does_not_reach_the_reader(reader, folder):
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
    return parse_answer(io.BytesIO(data))


@pytest.mark.parametrize("word", ["-c", "-h", "--help", "/etc/shadow", "", "-", "x; id"])
def test_grant_covers_no_argument(reader, word):
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
        b"owners\0/etc/shadow\0",
        b"events\0/etc/shadow\00010\0",
        b"owners\0/var/log/pods\0/proc/self/ns/uts\0",
        b"text\0//\0",
        b"limits\0" + b"/../" * 1000 + b"etc/shadow\0",
        b"table\0" + b"10:" + b"00" * 1025 + b"\0",
        os.urandom(3000),
    ],
    ids=lambda request: repr(request[:20]),
)
def test_request_reveals_nothing_but_conntrack_and_the_log(reader, request_):
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
def test_resource_limits_give_the_whole_answer_or_none(reader, kind):
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
def test_closed_descriptors_give_no_answer(reader, closed, way):
    command = reader if way == "sudo" else reader[-1:]
    redirections = " ".join(f"{number}<&-" for number in closed)
    done = ended(["sh", "-c", f'exec "$@" {redirections}', "sh", *command], OWN)
    if 0 in closed or 1 in closed:
        assert done.stdout == b""
    elif way == "itself":
        assert (done.returncode, done.stdout) == (2, b"")
    assert b"Traceback" not in done.stdout


def test_standard_error_holds_nothing_of_the_kernels(reader, folder):
    """Standard error may be a file of the caller's: nothing of the kernel may be in it."""
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


def test_blocked_signals_do_not_keep_it_alive(reader):
    with answering([sys.executable, "-c", BLOCKED, *reader[-1:]]) as (process, pid):
        status = Path(f"/proc/{pid}/status").read_text()
        assert int(status.partition("SigBlk:")[2].split()[0], 16) == 0
        os.kill(pid, signal.SIGALRM)
        assert process.wait(10) == -signal.SIGALRM


def test_open_descriptors_cannot_be_taken_from_it(reader):
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


def test_reader_that_is_stopped_half_way_ends(reader):
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


# --- a terminal


class OnTerminal:
    """The reader as a job of a shell on a terminal, through sudo, its standard streams in pipes."""

    def __init__(self, command):
        request, self._request = os.pipe()
        self._answer, answer = os.pipe()
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            # A shell with job control: in its absence nothing is stopped by a terminal.
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            job = os.fork()
            if job == 0:
                os.setpgid(0, 0)
                os.tcsetpgrp(2, os.getpid())
                signal.signal(signal.SIGTTOU, signal.SIG_DFL)
                os.dup2(request, 0)
                os.dup2(answer, 1)
                os.closerange(3, 64)
                os.execvp(command[0], command)
            os.closerange(3, 64)
            os.waitpid(job, 0)
            os._exit(0)
        os.close(request)
        os.close(answer)

    def ask(self, request):
        with open(self._request, "wb", closefd=False) as pipe:
            pipe.write(request)
        os.close(self._request)
        self._request = -1

    def begin(self):
        """Read the first byte of the answer."""
        assert os.read(self._answer, 1)

    def type(self, keys):
        os.write(self.terminal, keys)

    def hang_up(self):
        for descriptor in (self.terminal, self._answer, self._request):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def end(self):
        """Leave nothing behind."""
        self.hang_up()
        for pid in (*below(self.pid), self.pid):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def below(pid):
    """The descendants of a process."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in map(int, children) for each in (child, *below(child))]


def state_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def gone(pid, seconds):
    """Return whether a process ends within the time; a zombie has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if state_of(pid) in ("gone", "Z", "X"):
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def on_terminals(reader, default, scope=None):
    """Yield a function that starts the reader on a terminal; one default of sudoers is set."""
    scope = f"!{reader[-1]}" if scope is None else scope
    file = Path(f"/etc/sudoers.d/check-conntrack-pty-{os.getpid()}")
    file.write_text(f"Defaults{scope} {default}\n")
    file.chmod(0o440)
    started = []

    def start():
        started.append(OnTerminal(reader))
        return started[-1]

    try:
        yield start
    finally:
        file.unlink()
        for each in started:
            each.end()


@pytest.mark.parametrize("default", ["use_pty", "!use_pty"])
def test_terminal_cannot_keep_the_reader(reader, default):
    """Ctrl-Z stops sudo, and whoever started it. The reader goes on, and ends in time."""
    with on_terminals(reader, default) as start:
        run = start()
        run.ask(LONG)
        run.begin()
        pid = reader_of(run)
        run.type(b"\x1a")
        states = set()
        begun = time.monotonic()
        while time.monotonic() < begun + kernel_reader.STALL + kernel_reader.GRACE + 5:
            states.add(state_of(pid))
            if states & {"gone", "Z", "X"}:
                break
            time.sleep(0.02)
        assert "T" not in states
        assert states & {"gone", "Z", "X"}


def test_hang_up_ends_a_reader_that_a_terminal_stopped_at_any_moment(reader, dice):
    """Before its first line, a terminal can stop it like any program, until it hangs up.

    All other programs have a pseudo-terminal of sudo here, the default of Debian's sudoers.
    """
    with on_terminals(reader, "use_pty", "") as start:
        for _ in range(RUNS * 2):
            run = start()
            time.sleep(dice.uniform(0.0, 0.3))
            run.type(b"\x1a")
            time.sleep(0.05)
            pids = below(run.pid)
            run.hang_up()
            for pid in pids:
                assert gone(pid, kernel_reader.STALL + kernel_reader.GRACE + 5), state_of(pid)


# --- random requests

WORDS = [
    *(b"limits", b"counters", b"timeouts", b"table", b"text", b"log", b"owners", b"expectations"),
    *(b"events", b"events", b"events", b"10", b"30001"),
    *(b"processes", b"/proc/self/ns/net", b"/proc/1/ns/net", b"/run/netns/none", b"/etc/shadow"),
    *(b"/dev/zero", b"/proc/self/ns/mnt", b"/proc/self/fd/0", b"/proc/self/task/1/ns/net"),
    *(b"", b"x", b"/", b"0:", b"2:", b"10:", b"2:0800030000000006", b"2:08001a0000000006"),
    *(b"3:", b"2:zz"),
]


def random_request(dice):
    words = [dice.choice(WORDS) for _ in range(dice.randrange(1, 6))]
    data = bytearray(b"".join(word + b"\0" for word in words))
    for _ in range(dice.choice([0, 0, 0, 1, 3])):
        data[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(data)


def test_random_requests_are_answered_or_refused(reader, dice):
    paths = {os.fsdecode(word) for word in WORDS if word.startswith(b"/")}
    for _ in range(RUNS * 10):
        request = random_request(dice)
        done = ended(reader, request)
        assert done.returncode in (0, 2), request
        assert done.stderr == b"", request
        if done.returncode:
            assert done.stdout == b"", request
            continue
        for frame in parse(done.stdout):
            if not frame.inode and frame.file not in ("record", "pods"):
                assert frame.data == b"", request
            if frame.path in paths and "ns/net" not in frame.path:
                assert frame.errno != 0, request


@pytest.mark.parametrize("kind", ["SIGKILL", "SIGTERM", "SIGHUP"])
def test_killed_at_any_moment_nothing_is_left(reader, dice, kind):
    for _ in range(RUNS):
        process = subprocess.Popen(
            reader, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        process.stdin.write(LONG)
        process.stdin.close()
        time.sleep(dice.uniform(0, 0.3))
        pids = [process.pid, *below(process.pid)]
        for pid in reversed(pids):
            with contextlib.suppress(OSError):
                os.kill(pid, getattr(signal, kind))
        process.stdout.close()
        for pid in pids:
            assert gone(pid, kernel_reader.STALL + kernel_reader.GRACE + 5), (kind, state_of(pid))
        process.wait()
