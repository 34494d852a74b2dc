"""Answers about processes that they did not start themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from support import guard
from support.contract import Run

# How many times a random test is run, at most; CI makes do with few.
RUNS = int(os.environ.get("WITHSTAND_RUNS", "4"))

# Lines for a shell script that a check starts and waits for: the check's time is up as soon as it
# waits, however busy the machine is, and the script hangs.
TIME_IS_UP = """
until read -r _ _ state _ < /proc/$PPID/stat && test "$state" = S; do sleep 0.01; done
kill -ALRM $PPID
exec sleep 60
"""


def deadline(seconds: float):
    """Return a `stop` that returns True once so many seconds have passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Return whether a process ends in time; whoever adopts it reaps it when it likes."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.01)
    return False


def marked(mark: str) -> list[int]:
    """The processes whose environment holds a mark, zombies aside."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                environment = Path(f"/proc/{name}/environ").read_bytes()
                if os.fsencode(mark) in environment.split(b"\0"):
                    found.append(int(name))
    return found


def children() -> list[int]:
    """The processes whose parent this one is, but for the one that undoes what tests do."""
    found = []
    for task in os.listdir("/proc/self/task"):
        with suppress(OSError):
            found += map(int, Path(f"/proc/self/task/{task}/children").read_text().split())
    return [pid for pid in found if pid not in guard.pids()]


def orphans_after(seconds: float = 10.0) -> list[str]:
    """The command lines of children that do not end within the time."""
    until = time.monotonic() + seconds
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = children()
        if not left or time.monotonic() > until:
            return [Path(f"/proc/{pid}/cmdline").read_text() for pid in left]
        time.sleep(0.02)


def answer(command, **options) -> Run:
    """Return what a check answered, held to the contract."""
    options.setdefault("timeout", 60)
    done = subprocess.run(command, capture_output=True, text=True, **options)
    return Run(done.returncode, done.stdout, done.stderr, command)


def python_of(command) -> str:
    """The interpreter in a command line that `checks` has made."""
    return next(word for word in command if "python" in word) or sys.executable
