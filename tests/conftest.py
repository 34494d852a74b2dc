"""Fixtures for every test: the privilege to run at all, and a copy of the suite for everybody."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import nagiosplugin
import pytest

from support.commands import NOBODY, PATIENT, Result, run
from support.netns import Namespace

PLUGINS = Path(__file__).parent.parent / "plugins"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give each run a directory of its own for tmp_path, and clean up also where it is terminated.

    In the directory that pytest shares between runs, two runs that end at the same time clear away
    the same old directories, and the one that comes second fails.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if config.option.basetemp is None:
        config.option.basetemp = tempfile.mkdtemp(prefix="check-conntrack-pytest-")
        config.add_cleanup(partial(shutil.rmtree, config.option.basetemp, ignore_errors=True))


@pytest.fixture(scope="session")
def need():
    """A function that skips where root or a program is missing, and fails there in CI."""

    def _need(*programs: str, root: bool = True) -> None:
        missing = [f"the program {name}" for name in programs if not shutil.which(name)]
        if root and os.geteuid() != 0:
            missing.insert(0, "root")
        if missing:
            reason = f"needs {' and '.join(missing)}"
            if os.environ.get("CI"):
                pytest.fail(f"{reason}, and nothing may be skipped in CI")
            pytest.skip(reason)

    return _need


def reachable(python: str) -> bool:
    """Return whether an unprivileged user can run an interpreter (and gets no other one)."""
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", python]
    done = subprocess.run(
        [*command, "-c", "import sys; print(sys.version)"], capture_output=True, text=True
    )
    return done.returncode == 0 and done.stdout.strip() == sys.version


@pytest.fixture(scope="session")
def installed():
    """The suite where every user may read it: plugins/ with nagiosplugin beside, and a Python."""
    top = Path(tempfile.mkdtemp(prefix="check-conntrack-"))
    try:
        top.chmod(0o755)
        tree = top / "plugins"
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PLUGINS, tree, ignore=ignore)
        shutil.copytree(Path(nagiosplugin.__file__).parent, tree / "nagiosplugin", ignore=ignore)
        python = sys.executable
        if os.geteuid() == 0 and not reachable(python):
            python = "/usr/bin/python3"
        # As packages do: to compile takes longer than all else that a check does.
        subprocess.run([python, "-m", "compileall", "-q", tree], check=True)
        yield tree, python
    finally:
        shutil.rmtree(top)


@pytest.fixture
def netns(need):
    """A function that makes a namespace; all that it made are gone when the test ends."""
    need("ip", "nft", "unshare", "setpriv")
    with ExitStack() as stack:

        def make() -> Namespace:
            made = stack.enter_context(Namespace())
            made.track()
            return made

        yield make


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
        command = [*before, *user, python, tree / name, "--state-dir", state, *PATIENT]
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
    """The sudoers file that the checks themselves ask for; the line that grants."""
    need("sudo", "visudo")
    tree, _ = installed
    file = Path(f"/etc/sudoers.d/check-conntrack-test-{os.getpid()}")
    program = f"{tree}/check_conntrack/kernel/reader.py"
    line = f'nobody ALL=(root) NOPASSWD: {program} ""\n'
    try:
        file.write_text(f"Defaults!{program} !use_pty\n{line}")
        file.chmod(0o440)
        subprocess.run(["visudo", "-c", "-f", file], check=True, capture_output=True)
        yield line.strip()
    finally:
        file.unlink()
