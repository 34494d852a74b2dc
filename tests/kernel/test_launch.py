"""The checks as other users and as root: as whom they run, and what they say they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import nagiosplugin
import pytest

from check_conntrack import launch
from support.commands import PATIENCE, hidden
from support.contract import Run

PLUGINS = os.path.dirname(os.path.dirname(launch.__file__))
NOBODY = 65534


def ended(command, arguments=(), **options):
    """The answer of a check that ran as a program of its own."""
    options.setdefault("timeout", PATIENCE)
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


# --- root's own runs: neither through sudo nor with --user

AS_ROOT = {key: os.environ[key] for key in os.environ if key != "SUDO_UID"}
QUIET = ["-vvv", "-w", "usage=~:", "-c", "usage=~:"]


@pytest.mark.parametrize("made_before", [True, False])
def test_root_keeps_state_below_its_own_folder_for_the_user_it_becomes(
    everybodys, tmp_path, made_before
):
    _, command = everybodys
    state = tmp_path / "state"  # below a folder that nobody but root may enter
    if made_before:
        state.mkdir(mode=0o755)
    for _ in range(2):
        run = ended(command, ["--state-dir", str(state), *QUIET], env=AS_ROOT, umask=0)
        assert run.code == 0
        time.sleep(0.2)  # two samples of one moment would be one
        assert f"History is kept in {state}/{NOBODY}" in run.lines
        assert any(line.startswith(f"Checked as uid {NOBODY},") for line in run.lines)
    assert any(line.startswith("Trend: ") for line in run.lines), "the second run knows the first"
    status = os.stat(state)
    assert (status.st_uid, status.st_mode & 0o7777) == (0, 0o755)
    own = os.stat(state / str(NOBODY))
    assert (own.st_uid, own.st_mode & 0o7777) == (NOBODY, 0o700)
    assert [os.stat(file).st_uid for file in (state / str(NOBODY)).iterdir()] == [NOBODY]


@pytest.mark.parametrize("kind", ["a link", "open to others", "below a folder of a user's"])
def test_root_makes_no_folder_where_others_could_redirect_it(everybodys, tmp_path, kind):
    _, command = everybodys
    tmp_path.chmod(0o755)
    state = tmp_path / "state"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    if kind == "a link":
        state.symlink_to(elsewhere)
    elif kind == "open to others":
        state.mkdir()
        state.chmod(0o777)
    else:
        os.chown(elsewhere, 4242, 4242)
        state = elsewhere / "state"
    run = ended(command, ["--state-dir", str(state), *QUIET], env=AS_ROOT)
    assert run.code == 0
    assert any("No history is kept: state directory" in line for line in run.lines)
    assert os.listdir(elsewhere) == []
    assert not state.is_dir() or os.listdir(state) == []


@pytest.mark.parametrize("how", [{"SUDO_UID": "4242"}, {}])
def test_root_for_another_makes_no_folder_in_its_own_one(everybodys, tmp_path, how):
    _, command = everybodys
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    user = [] if how else ["--user", "4242"]
    run = ended(command, ["--state-dir", str(state), *QUIET, *user], env={**AS_ROOT, **how})
    assert any(line.startswith("Checked as uid 4242,") for line in run.lines)
    assert os.listdir(state) == []


def test_folders_have_their_modes_whatever_the_umask(everybodys, need):
    need("unshare")
    folder, command = everybodys
    home = Path(folder, "home")
    home.mkdir(mode=0o755)
    os.chown(home, NOBODY, NOBODY)
    # Without the shared folder of this machine.
    without = hidden("mount -t tmpfs none /var/lib")
    script = 'umask "$1"; shift; exec "$@"'
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    for umask in ("0000", "0777"):
        shutil.rmtree(home / ".local", ignore_errors=True)
        arguments = [*without, "sh", "-c", script, "sh", umask, *UNPRIVILEGED, *command, *QUIET]
        run = ended(arguments, env=environment)
        made = [home / ".local", home / ".local/state", home / ".local/state/check-conntrack"]
        made.append(made[-1] / str(NOBODY))
        assert f"History is kept in {made[-1]}" in run.lines
        assert [os.stat(path).st_mode & 0o7777 for path in made] == [0o700] * 4


OPENS = """
import sys
from check_conntrack import runner, session
from check_conntrack.usage import usage_check

path = sys.argv.pop()
opened = []


def open_files():
    opened.append(open(path, "rb"))


begin = session.begin
session.begin = lambda *given, **more: begin(*given, **more, open_files=open_files)
code = usage_check.main()
print("read after it:", opened and opened[0].read())
sys.exit(code)
"""


@pytest.mark.parametrize("how", [{}, {"SUDO_UID": "4242"}])
def test_files_are_opened_before_privileges_are_dropped_for_root_alone(everybodys, tmp_path, how):
    folder, (python, *_) = everybodys
    secret = tmp_path / "log"
    secret.write_text("text")
    secret.chmod(0o600)
    script = [python, "-E", "-s", "-c", "import sys; sys.path.insert(0, sys.argv.pop(1))" + OPENS]
    words = [f"{folder}/plugins", "--no-state", "-w", "usage=~:", "-c", "usage=~:"]
    done = subprocess.run(
        [*script, *words, str(secret)],
        capture_output=True,
        text=True,
        env={**AS_ROOT, **how},
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("CONNTRACK_USAGE OK")
    assert done.stdout.endswith("read after it: []\n" if how else "read after it: b'text'\n")
