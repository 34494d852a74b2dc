"""Fixtures for tests against the kernel's own conntrack."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import pytest

from support.rig import NOBODY, Netns, Result, run


@pytest.fixture
def netns(need):
    """A function that makes a namespace; all that it made are gone when the test ends."""
    need("ip", "nft", "unshare", "setpriv")
    made: list[Netns] = []

    def make() -> Netns:
        made.append(Netns())
        return made[-1]

    yield make
    for namespace in made:
        namespace.remove()


@pytest.fixture
def state():
    """A state directory of the unprivileged user's own."""
    folder = Path(tempfile.mkdtemp(prefix="check-conntrack-state-"))
    shutil.chown(folder, 65534, 65534)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def front_door(need, installed, state):
    """Runs a check by its name as the unprivileged user, as a scheduler would."""
    need("setpriv", "unshare")
    tree, python = installed

    def check(name: str, *options: object, before=(), user=NOBODY, **more) -> Result:
        command = [*before, *user, python, tree / name, "--state-dir", state]
        result = run(*command, *options, **more)
        assert result.err == ""
        assert result.code in range(4)
        assert len(result.status) <= 160
        return result

    return check


@pytest.fixture
def usage(front_door):
    """Runs check_conntrack_usage."""
    return partial(front_door, "check_conntrack_usage")


@pytest.fixture
def full(front_door):
    """Runs check_conntrack_full."""
    return partial(front_door, "check_conntrack_full")


@pytest.fixture
def table(front_door):
    """Runs check_conntrack_table."""
    return partial(front_door, "check_conntrack_table")


@pytest.fixture
def sudoers(need, installed):
    """The sudoers file that the checks themselves ask for; its line."""
    need("sudo", "visudo")
    tree, _ = installed
    file = Path(f"/etc/sudoers.d/check-conntrack-test-{os.getpid()}")
    line = f'nobody ALL=(root) NOPASSWD: {tree}/check_conntrack/kernel/reader.py ""\n'
    try:
        file.write_text(line)
        file.chmod(0o440)
        subprocess.run(["visudo", "-c", "-f", file], check=True, capture_output=True)
        yield line.strip()
    finally:
        file.unlink()
