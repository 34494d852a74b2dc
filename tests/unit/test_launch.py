"""The way in, as programs of their own: what is missing, what is imported, what hangs."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys

import nagiosplugin
import pytest

from check_conntrack import launch
from support.contract import Run
from support.processes import TIME_IS_UP, gone

PACKAGE = os.path.dirname(launch.__file__)
PLUGINS = os.path.dirname(PACKAGE)
CHECK_NAME = "check_conntrack_usage"
CHECK = os.path.join(PLUGINS, CHECK_NAME)
LIBRARIES = os.path.dirname(os.path.dirname(nagiosplugin.__file__))
NOBODY = 65534


def ended(command, arguments=(), **options):
    """The answer of a check that ran as a program of its own."""
    options.setdefault("timeout", 60)
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, **options
    )
    return Run(done.returncode, done.stdout, done.stderr, arguments)


# --- what is missing


def launched(monkeypatch, capfd, check="usage"):
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail(f"it ended with {code}"))
    assert launch.launch(check) == 3
    out, err = capfd.readouterr()
    assert err == ""
    assert len(out.splitlines()[0]) <= 160
    return out


def test_an_old_python_is_told_which_is_needed(monkeypatch, capfd):
    monkeypatch.setattr(launch, "OLDEST_PYTHON", (99, 1))
    out = launched(monkeypatch, capfd)
    assert out.startswith("CONNTRACK_USAGE UNKNOWN - Python 3.9 or later is needed, this is 3.")


def test_a_missing_library_is_told_with_the_command_that_installs_it(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "nagiosplugin", None)
    out = launched(monkeypatch, capfd)
    assert out.startswith("CONNTRACK_USAGE UNKNOWN - the Python library nagiosplugin is missing")
    assert "apt-get install python3-nagiosplugin" in out
    assert f"{sys.executable} -m pip install nagiosplugin" in out


def test_a_library_that_cannot_be_loaded_is_not_called_missing(tmp_path):
    (tmp_path / "nagiosplugin.py").write_text("raise ImportError('cannot map it', name='_json')\n")
    run = ended([sys.executable, CHECK], env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert run.code == 3
    assert run.text == "cannot start: OSError: nagiosplugin cannot be loaded: cannot map it"


def test_variables_of_systemds_libraries_are_removed(tmp_path):
    (tmp_path / "nagiosplugin.py").write_text(
        "import os\nraise OSError([name for name in os.environ if name.startswith('SYSTEMD')])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "SYSTEMD_LOG_LEVEL": "x"}
    run = ended([sys.executable, CHECK], env={**environment, "SYSTEMD_COLORS": "1"})
    assert run.text == "cannot start: OSError: ['SYSTEMD_COLORS']"


def test_a_module_that_is_missing_is_told(monkeypatch, capfd):
    assert "check_conntrack.unheard_of" in launched(monkeypatch, capfd, "unheard_of")


def test_an_error_without_words_is_told_by_its_kind(monkeypatch, capfd):
    def broken(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("builtins.__import__", broken)
    try:
        assert launch.launch("usage") == 3
    finally:
        monkeypatch.undo()
    assert capfd.readouterr().out == "CONNTRACK_USAGE UNKNOWN - cannot start: MemoryError\n"


def test_the_checks_own_exit_code_ends_the_process(monkeypatch):
    ended_with = []
    monkeypatch.setattr(os, "_exit", ended_with.append)
    monkeypatch.setattr("check_conntrack.usage.usage_check.main", lambda late: 2)
    launch.launch("usage")
    assert ended_with == [2]


def test_executables_differ_in_nothing_but_their_name_and_purpose():
    # What they share cannot be a file of its own: they tell where that is missing.
    texts = set()
    for check in ("usage", "full", "table"):
        with open(os.path.join(PLUGINS, f"check_conntrack_{check}")) as file:
            lines = file.read().replace(check, "NAME").replace(check.upper(), "NAME").splitlines()
        texts.add((lines[0], *lines[2:]))
    assert len(texts) == 1


@pytest.mark.parametrize("file", [CHECK, launch.__file__], ids=os.path.basename)
def test_what_tells_an_interpreter_that_it_is_old_is_written_for_old_ones(file):
    with open(file) as source:
        ast.parse(source.read(), feature_version=(3, 4))


def test_without_the_library_it_is_unknown_with_the_command_and_no_traceback():
    run = ended([sys.executable, "-S", "-E", CHECK])
    assert run.code == 3
    assert run.text.endswith("apt-get install python3-nagiosplugin")
    assert run.lines == [f"or: {sys.executable} -m pip install nagiosplugin"]


def test_without_its_folder_it_is_unknown_and_says_so(tmp_path):
    shutil.copy(CHECK, tmp_path)
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("PYTHON")}
    command = [sys.executable, "-S", str(tmp_path / "check_conntrack_usage")]
    run = ended(command, env=environment)
    assert run.code == 3
    assert "copy the folder check_conntrack too" in run.text


@pytest.mark.parametrize("full", [True, False], ids=["full", "closed"])
@pytest.mark.parametrize("missing", ["library", "folder"])
def test_what_is_missing_is_unknown_also_where_nobody_can_be_told(tmp_path, missing, full):
    shutil.copy(CHECK, tmp_path)
    if missing == "library":
        shutil.copytree(PACKAGE, tmp_path / "check_conntrack")
    closing = ">/dev/full" if full else ">&-"
    command = ["sh", "-c", f'exec "$0" -S -E "$1" {closing}', sys.executable, tmp_path / CHECK_NAME]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_comes_while_it_starts_is_an_answer(tmp_path, number):
    slow = f"import os, signal\nos.kill(os.getpid(), {int(number)})\nsignal.pause()\n"
    (tmp_path / "nagiosplugin.py").write_text(slow)
    run = ended([sys.executable, CHECK], env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (run.code, run.text) == (3, f"stopped by signal {int(number)} while starting")


@pytest.mark.parametrize("check", ["usage", "full", "table"])
@pytest.mark.parametrize(
    "broken", ["MemoryError", "OSError(24, 'Too many open files')", "KeyError"]
)
def test_whatever_stands_in_the_way_of_the_first_import_is_told(tmp_path, check, broken):
    file = f"check_conntrack_{check}"
    shutil.copy(os.path.join(PLUGINS, file), tmp_path)
    (tmp_path / "check_conntrack").mkdir()
    # A package of its own, or one that is installed comes first.
    (tmp_path / "check_conntrack" / "__init__.py").touch()
    (tmp_path / "check_conntrack" / "launch.py").write_text(f"raise {broken}\n")
    run = ended([sys.executable, str(tmp_path / file)])
    assert run.code == 3
    assert run.status.startswith(f"CONNTRACK_{check.upper()} UNKNOWN - cannot start: ")


# --- whole runs


def test_it_runs_as_a_program():
    environment = {
        **os.environ,
        "PYTHONPATH": os.path.dirname(os.path.dirname(nagiosplugin.__file__)),
    }
    run = ended([sys.executable, CHECK], ["--no-state", "-v"], env=environment)
    assert "internal error" not in run.text
    assert run.code in (0, 1, 2, 3)


def test_closed_standard_streams_do_not_make_a_traceback():
    for closing, codes in (("<&-", (0, 1, 2, 3)), (">&-", (3,)), ("2>&-", (0, 1, 2, 3))):
        command = ["sh", "-c", f'exec "$0" "$1" --no-state {closing}', sys.executable, CHECK]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in codes
        assert "Traceback" not in done.stdout + done.stderr


def test_a_full_standard_output_is_unknown():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, CHECK, "--no-state"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (3, b"")


# With what measures coverage, the interpreter imports more.
BARE = {key: os.environ[key] for key in os.environ if not key.startswith(("COVERAGE", "COV_"))}
TOO_DEAR = {"typing", "dataclasses", "subprocess", "pathlib", "inspect", "ctypes"}
TOO_DEAR |= {"tempfile", "shutil", "random", "nagiosplugin.cookie", "nagiosplugin.runtime"}
TOO_DEAR |= {"logging", "traceback", "threading", "gettext", "locale"}


def test_a_run_imports_nothing_that_it_does_not_need():
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            CHECK,
            "--no-state",
            "-w",
            "usage=~:",
            "-c",
            "usage=~:",
        ],
        capture_output=True,
        text=True,
        env=BARE,
        check=False,
    )
    assert done.stdout.startswith("CONNTRACK_USAGE OK"), done.stdout
    after_site = done.stderr[done.stderr.rindex("| site\n") :]
    imported = {line.rpartition("|")[2].strip() for line in after_site.splitlines()}
    assert "check_conntrack.usage.usage_check" in imported
    # Root gives up more than an ordinary user, and needs ctypes for it.
    assert not imported & (TOO_DEAR - {"ctypes"} if os.geteuid() == 0 else TOO_DEAR)
    ours = {name for name in imported if name.startswith("check_conntrack.")}
    if os.geteuid() == 0:
        ours.remove("check_conntrack.kernel.reader")
    assert ours == {
        "check_conntrack.launch",
        "check_conntrack.usage",
        "check_conntrack.usage.labels",
        "check_conntrack.usage.resource",
        "check_conntrack.usage.summary",
        "check_conntrack.usage.usage_check",
        "check_conntrack.namespaces",
        "check_conntrack.reports",
        "check_conntrack.state.codec",
        "check_conntrack.kernel.namespaces",
        "check_conntrack.nagios",
        "check_conntrack.session",
        "check_conntrack.runner",
        "check_conntrack.cli",
        "check_conntrack.signals",
        "check_conntrack.render",
        "check_conntrack.ranges",
        "check_conntrack.state",
        "check_conntrack.state.forecast",
        "check_conntrack.state.trend",
        "check_conntrack.state.state_store",
        "check_conntrack.kernel",
        "check_conntrack.kernel.namedtuple",
        "check_conntrack.kernel.source",
        "check_conntrack.kernel.limits",
        "check_conntrack.kernel.privileges",
        "check_conntrack.kernel.atomic_write",
    }


# --- a reader that hangs

DRIVER = """
import sys
from check_conntrack import session
from check_conntrack.usage import usage_check
from check_conntrack.kernel import privileges, reader_command
reader_command.SUDO_PATHS = (sys.argv.pop(1),)
session.drop_privileges = lambda *options: (None, None)
privileges.has = lambda _: False
privileges.is_root = lambda: False
sys.exit(usage_check.main())
"""
HANGING = {
    "before it reads": "",
    "after it has read": "cat >&2",
    "in the middle of a frame": "printf '7 0 nf_conntrack_count 2 2\\n/a'",
    "after its answer": "printf 'end\\n'; exec >&- 2>&-",
    "and ignores being told to end": "trap '' TERM HUP INT PIPE",
}


def through(tmp_path, script):
    """The command of a check whose sudo is a script; the script's pid goes to a file."""
    sudo = tmp_path / "sudo"
    sudo.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\n{script}\n")
    sudo.chmod(0o755)
    return [sys.executable, "-c", DRIVER, str(sudo)]


@pytest.mark.parametrize("kind", HANGING)
def test_a_reader_that_hangs_is_a_timeout_that_names_it_and_leaves_no_process(tmp_path, kind):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([PLUGINS, LIBRARIES])}
    arguments = ["--netns", "all", "--sudo", "--no-state", "-t", "50"]
    run = ended(through(tmp_path, HANGING[kind] + TIME_IS_UP), arguments, env=environment)
    assert run.code == 3
    reason = "timed out after 50s while waiting for the reader"
    # The check's own namespace is known and evaluated.
    assert run.text.endswith(f"other namespaces: {reason}")
    assert "entries" in run.data
    assert gone(int((tmp_path / "pid").read_text()))  # whoever adopts it reaps it when it likes


def test_a_reader_that_talks_rubbish_without_end_is_unknown_and_leaves_no_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([PLUGINS, LIBRARIES])}
    arguments = ["--netns", "all", "--sudo", "--no-state", "-t", "30"]
    run = ended(through(tmp_path, "exec yes"), arguments, env=environment)
    assert run.code in (2, 3)
    assert "malformed answer from the reader" in run.text
    assert gone(int((tmp_path / "pid").read_text()))
