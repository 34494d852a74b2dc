"""The checks as real processes, where a host does its worst."""

from __future__ import annotations

import ctypes
import random
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.processes import RUNS

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    """Return what a check leaves behind becomes this process's child, where it can be seen."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
