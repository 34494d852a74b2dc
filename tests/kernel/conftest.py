"""Fixtures for tests against the kernel's own conntrack."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from kernel.rig import NOBODY, Netns, Result, run


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
def usage(need, installed, state):
    """Runs check_conntrack_usage as the unprivileged user, as a scheduler would."""
    need("setpriv", "unshare")
    tree, python = installed

    def check(*options: object, before=(), user=NOBODY, **more) -> Result:
        command = [*before, *user, python, tree / "check_conntrack_usage", "--state-dir", state]
        result = run(*command, *options, **more)
        assert result.err == ""
        assert result.code in range(4)
        assert len(result.status) <= 160
        return result

    return check
