"""How the reader is started, and what sudoers must allow for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from check_conntrack.kernel import reader_command
from check_conntrack.kernel.reader_command import ReaderError


def test_command_without_sudo_isolates_this_interpreter():
    assert reader_command.reader_command(sudo=False) == [
        sys.executable,
        "-I",
        "-S",
        "-B",
        reader_command.READER,
    ]


@pytest.mark.parametrize("name", ["/tmp/trap", "/bin/sh", ""])
def test_interpreter_is_not_taken_from_the_environment(name):
    """Python 3.11 and later do so, also with -E and -I."""
    plugins = os.path.dirname(os.path.dirname(os.path.dirname(reader_command.__file__)))
    script = f"import sys; sys.path.insert(0, {plugins!r})\n"
    script += "from check_conntrack.kernel import reader_command\n"
    script += "print(*reader_command.reader_command(sudo=False), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        env={"PYTHONEXECUTABLE": name},
        capture_output=True,
        text=True,
        check=True,
    )
    program, *rest = done.stdout.splitlines()
    assert os.path.samefile(program, sys.executable)
    assert rest == ["-I", "-S", "-B", reader_command.READER]


@pytest.fixture
def sudo(tmp_path, monkeypatch):
    program = tmp_path / "sudo"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setattr(reader_command, "SUDO_PATHS", (str(tmp_path / "none"), str(program)))
    return str(program)


@pytest.fixture
def reader_file(tmp_path, monkeypatch):
    file = tmp_path / "reader.py"
    file.write_text("")
    file.chmod(0o755)
    monkeypatch.setattr(reader_command, "READER", str(file))
    return file


def test_command_with_sudo_is_the_reader_without_arguments(sudo, reader_file):
    assert reader_command.reader_command(sudo=True) == [sudo, "-n", str(reader_file)]


def test_reader_that_is_not_executable_is_started_by_the_interpreter(sudo, reader_file):
    reader_file.chmod(0o644)
    if os.access(reader_file, os.X_OK):
        pytest.skip("this file system has no executable bit")
    grant = [sys.executable, "-I", "-S", "-B", str(reader_file)]
    assert reader_command.reader_command(sudo=True) == [sudo, "-n", *grant]
    default, line = reader_command.sudoers_lines()
    assert line.endswith(" NOPASSWD: " + " ".join(grant))
    # The grammar of sudoers has no place for its arguments.
    assert default == f"Defaults:{line.split()[0]} !use_pty"


def test_sudo_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(reader_command, "SUDO_PATHS", ())
    with pytest.raises(ReaderError, match="sudo: not installed"):
        reader_command.reader_command(sudo=True)


def test_sudo_is_not_searched_along_the_callers_path():
    assert all(path.startswith("/") for path in reader_command.SUDO_PATHS)


def test_sudoers_line_allows_no_argument(reader_file, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert reader_command.sudoers_line() == f'root ALL=(root) NOPASSWD: {reader_file} ""'


def test_sudoers_lines_keep_no_pseudo_terminal(reader_file):
    default, line = reader_command.sudoers_lines()
    assert default == f"Defaults!{reader_file} !use_pty"
    assert line == reader_command.sudoers_line()


def test_sudoers_line_names_a_nameless_user_by_number(reader_file, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4242424)
    assert reader_command.sudoers_line().startswith("#4242424 ALL=")
