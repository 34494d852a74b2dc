"""The checks as real processes, where a host does its worst."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kernel.conftest import front_door, full, netns, state, sudoers, table, usage  # noqa: F401
from support.contract import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

# How many times a random test is run, at most; CI makes do with few.
RUNS = int(os.environ.get("WITHSTAND_RUNS", "4"))
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@pytest.fixture
def dice(request):
    """Random numbers: the same each time in CI, others in a longer run."""
    seed = request.node.nodeid if RUNS <= 4 else None
    return random.Random(seed)


@pytest.fixture
def checks(need, installed):
    """A function that makes the command line of a check by its name."""
    need("setpriv", "unshare")
    tree, python = installed

    def command(name: str, *words: object, before=()) -> list[str]:
        own = [python, "-E", "-s", tree / f"check_conntrack_{name}"]
        return [str(word) for word in (*before, *own, *words)]

    return command


@pytest.fixture
def folder():
    """A folder of the unprivileged user's own, that everybody can reach."""
    made = Path(tempfile.mkdtemp(prefix="check-conntrack-withstand-"))
    shutil.chown(made, 65534, 65534)
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def orphanage() -> Iterator[None]:
    """What a check leaves behind becomes this process's child, where it can be seen."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def children() -> list[int]:
    """The processes whose parent this one is."""
    found = []
    for task in os.listdir("/proc/self/task"):
        with suppress(OSError):
            found += map(int, Path(f"/proc/self/task/{task}/children").read_text().split())
    return found


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
    """What a check answered, held to the contract."""
    options.setdefault("timeout", 60)
    done = subprocess.run(command, capture_output=True, text=True, **options)
    return Run(done.returncode, done.stdout, done.stderr, command)


def python_of(command) -> str:
    """The interpreter in a command line that `checks` has made."""
    return next(word for word in command if "python" in word) or sys.executable
