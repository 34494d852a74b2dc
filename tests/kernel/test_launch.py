"""The checks as other users and as root: as whom they run, and what they say they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

import nagiosplugin
import pytest

from check_conntrack import launch
from support.contract import Run

PLUGINS = os.path.dirname(os.path.dirname(launch.__file__))
NOBODY = 65534


def ended(command, arguments=(), **options):
    """The answer of a check that ran as a program of its own."""
    options.setdefault("timeout", 60)
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, **options
    )
    return Run(done.returncode, done.stdout, done.stderr, arguments)


@pytest.fixture(scope="module")
def everybodys(need):
    """The suite and its library where every user can read them, and the system's Python."""
    python = "/usr/bin/python3"
    need("setpriv")
    version = "import sys; sys.exit(sys.version_info < (3, 9))"
    if (
        not os.path.exists(python)
        or subprocess.run([python, "-c", version], check=False).returncode
    ):
        pytest.skip("needs a Python of the system, 3.9 or later")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PLUGINS, os.path.join(folder, "plugins"), ignore=ignored)
        library = os.path.dirname(nagiosplugin.__file__)
        shutil.copytree(library, os.path.join(folder, "plugins", "nagiosplugin"), ignore=ignored)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        yield folder, [python, "-E", "-s", os.path.join(folder, "plugins", "check_conntrack_usage")]


UNPRIVILEGED = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]


def test_an_unprivileged_user_needs_no_right_for_its_own_namespace(everybodys):
    folder, command = everybodys
    state = os.path.join(folder, "state")
    os.mkdir(state, 0o755)
    os.chown(state, NOBODY, NOBODY)
    arguments = ["--state-dir", state, "-vvv", "-w", "usage=~:", "-c", "usage=~:"]
    run = ended([*UNPRIVILEGED, *command], arguments)
    assert run.code == 0
    assert f"History is kept in {state}/{NOBODY}" in run.lines
    assert any(line.startswith(f"Checked as uid {NOBODY},") for line in run.lines)


def test_an_unprivileged_user_is_told_what_to_grant_for_others(everybodys):
    _, command = everybodys
    run = ended([*UNPRIVILEGED, *command], ["--netns", "all", "--no-state"])
    assert run.code in (2, 3)
    assert "permission denied (CAP_SYS_ADMIN" in run.text
    assert "sudoers.d" in run.rest


def test_root_becomes_the_owner_of_the_state_directory(everybodys):
    folder, command = everybodys
    state = os.path.join(folder, "owned")
    os.mkdir(state, 0o755)
    os.chown(state, 4242, 4242)
    environment = {key: os.environ[key] for key in os.environ if key != "SUDO_UID"}
    arguments = ["--state-dir", state, "-vvv", "-w", "usage=~:", "-c", "usage=~:"]
    run = ended(command, arguments, env=environment)
    assert run.code == 0
    assert any(line.startswith("Checked as uid 4242,") for line in run.lines)
    assert os.listdir(state) == ["4242"]
    assert os.stat(os.path.join(state, "4242")).st_uid == 4242


def test_root_becomes_the_user_it_is_told_or_says_that_there_is_none(everybodys):
    _, command = everybodys
    run = ended(
        command, ["--no-state", "-vvv", "--user", "4243", "-w", "usage=~:", "-c", "usage=~:"]
    )
    assert any(line.startswith("Checked as uid 4243,") for line in run.lines)
    for user in ("root", "0", "no-such-user", "", "4294967295"):
        run = ended(command, ["--no-state", "--user", user])
        assert run.code == 3
        assert run.text.startswith("--user")
