"""Packages that Python's own tools make: sdist, wheel, and archives that run."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

import check_conntrack
from support.commands import NOBODY, run

from .conftest import CHECKS, TREE, build, done, only

SYSTEM_PYTHON = "/usr/bin/python3"
READER = "check_conntrack/kernel/reader.py"


@pytest.fixture(scope="module")
def reachable():
    """A folder that every user may look into."""
    with tempfile.TemporaryDirectory(prefix="check-conntrack-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def environment(wheel, reachable):
    """A clean environment of the system's Python with the wheel in it, and what pip brought."""
    folder = reachable / "venv"
    done(SYSTEM_PYTHON, "-m", "venv", folder)
    done(folder / "bin" / "pip", "install", "-q", "--disable-pip-version-check", wheel)
    return folder


@pytest.fixture(scope="module")
def archives(dist, reachable):
    """The archives, where somebody copied them to, under names of his own."""
    folder = reachable / "copied"
    folder.mkdir()
    for check in CHECKS:
        shutil.copy(dist / "pyz" / check, folder / f"{check}.pyz")
    return folder


def test_the_metadata_is_whole(dist, wheel):
    said = done(sys.executable, "-m", "twine", "check", "--strict", wheel, only(dist, "*.tar.gz"))
    assert said.count("PASSED") == 2
    assert (
        "lists of files in version control and sdist match"
        in done(sys.executable, "-m", "check_manifest", TREE)
        or not (TREE / ".git").exists()
    )


def test_pyroma_misses_nothing_but_a_home_page_and_an_address():
    # There is neither, and none is made up.
    said = done(sys.executable, "-m", "pyroma", "--min=8", TREE, cwd="/")
    findings = said.split("------------------------------")[-3].strip().splitlines()
    assert len(findings) == 2
    assert findings[0] == "Your package does not have author-email data."
    assert findings[1].startswith("Your package should have a 'url' field")


def test_an_archive_of_the_sources_is_the_tree_and_the_pages(dist):
    with tarfile.open(only(dist, "*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if "/" in name}
        assert {member.uid for member in archive.getmembers()} == {0}
    known = done("git", "-C", TREE, "ls-files").split("\n")[:-1]
    assert {name for name in known if (TREE / name).exists()} <= names
    for check in CHECKS:
        assert f"packaging/made/man/{check}.1" in names


@pytest.mark.parametrize("check", CHECKS)
def test_the_wheel_gives_a_command(environment, filled, roomy, check):
    command = [*NOBODY, environment / "bin" / check]
    assert run(*command, "--version").out == f"{check} {check_conntrack.__version__}\n"
    result = run(*filled.command(*command, "--no-state"))
    tree = run(*filled.command(sys.executable, TREE / "plugins" / check, "--no-state"))
    assert result.err == ""
    assert result.out.startswith(f"CONNTRACK_{check.rpartition('_')[2].upper()} ")
    if check == "check_conntrack_usage":
        assert (result.code, result.out) == (tree.code, tree.out)
    elif check == "check_conntrack_table":  # entries need a privilege; their number does not
        assert (result.code, result.value("entries")) == (3, 40)
    assert (environment / "share" / "man" / "man1" / f"{check}.1").is_file()
    assert (environment / "share/bash-completion/completions" / check).is_file()
    assert (environment / "share/zsh/site-functions" / f"_{check}").is_file()


def test_the_wheels_reader_reads_the_table_for_root(environment, filled, roomy):
    command = filled.command(environment / "bin" / "check_conntrack_table", "--no-state")
    assert run(*command).value("entries") == 40


def test_the_wheels_check_prints_the_sudoers_line_of_its_installation(environment):
    result = run(*NOBODY, environment / "bin" / "check_conntrack_table", "--no-state")
    (reader,) = environment.glob(f"lib/python3*/site-packages/{READER}")
    python = environment / "bin" / "python3"
    line = f"  nobody ALL=(root) NOPASSWD: {python} -I -S -B {reader}"
    assert line in result.lines


# --- one file


@pytest.mark.parametrize("check", CHECKS)
def test_a_file_that_is_copied_runs_without_anything_else(archives, check):
    environment = {"PATH": "/usr/bin:/bin"}
    # Isolated, and without what the system has installed.
    command = [*NOBODY, SYSTEM_PYTHON, "-I", "-S", archives / f"{check}.pyz"]
    result = run(*command, "--version", env=environment, cwd="/")
    assert (result.out, result.err) == (f"{check} {check_conntrack.__version__}\n", "")
    result = run(*command, "--no-state", "-vvv", env=environment, cwd="/")
    assert result.out.startswith(f"CONNTRACK_{check.rpartition('_')[2].upper()} ")
    assert "internal error" not in result.out
    assert any(line.startswith("Checked as uid 65534, no capab") for line in result.lines)
    assert run(archives / f"{check}.pyz", "-V", env=environment).code == 3


@pytest.mark.parametrize("tag", ["compiled", "source"])
def test_it_imports_what_was_compiled_for_its_interpreter_or_the_source(archives, tmp_path, tag):
    archive = archives / "check_conntrack_usage.pyz"
    if tag == "source":
        with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(tmp_path / "bare", "w") as bare:
            for name in whole.namelist():
                if not name.endswith(".pyc"):
                    bare.writestr(name, whole.read(name))
        archive = tmp_path / "bare"
    command = [SYSTEM_PYTHON, "-I", "-S", "-v", archive, "--no-state"]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    ours = re.findall(
        r"import '(?:check_conntrack|nagiosplugin)\S*' # <zipimporter object (\S+)>", said
    )
    assert len(ours) > 10
    # Nothing else lies there than what was compiled, and the reader.
    assert all(("/cpython-" in path) == (tag == "compiled") for path in ours)


def test_its_reader_reads_the_table_for_root_and_lies_nowhere(archives, filled, roomy):
    archive = archives / "check_conntrack_table.pyz"
    command = filled.command(SYSTEM_PYTHON, "-I", "-S", archive, "--no-state", "-vvv")
    # A folder for temporary files that cannot be written to, and a state that is none.
    result = run(*command, env={**os.environ, "TMPDIR": "/proc"})
    assert (result.value("entries"), result.code) == (40, 0)
    assert any(line.startswith("Read ctnetlink, 40 entries") for line in result.lines)
    assert any(line.startswith("Checked as uid 65534, no capab") for line in result.lines)
    assert not os.path.lexists("/opt/check-conntrack")


def test_without_its_reader_installed_sudo_is_refused_with_the_command(archives):
    archive = archives / "check_conntrack_table.pyz"
    result = run(*NOBODY, SYSTEM_PYTHON, "-I", "-S", archive, "--no-state", "--sudo")
    assert result.code == 3
    assert f"  {archive} --install-reader" in result.lines
    line = '  nobody ALL=(root) NOPASSWD: /opt/check-conntrack/reader.py ""'
    assert line in result.lines


def test_nobody_else_than_root_installs_the_reader(archives):
    ended = run(*NOBODY, archives / "check_conntrack_table.pyz", "--install-reader")
    assert ended.code == 1
    assert "Permission denied: '/opt/check-conntrack'" in ended.err
    assert not os.path.lexists("/opt/check-conntrack")


# --- the same bytes


@pytest.mark.parametrize("what", ["deb", "rpm", "dist", "pyz"])
def test_the_same_tree_gives_the_same_bytes_wherever_it_lies(dist, tmp_path, what):
    """Built again, from a copy elsewhere, with another umask, by another clock and locale."""
    tree = tmp_path / "elsewhere" / "a tree"
    made = ("build", "dist", ".venv", ".tox", "__pycache__")

    def passed_over(folder, names):
        return [name for name in names if name in made and os.path.isdir(f"{folder}/{name}")]

    shutil.copytree(TREE, tree, symlinks=True, ignore=passed_over)
    more = {"PYTHONS": SYSTEM_PYTHON} if what == "pyz" else {}
    before = os.umask(0o077)
    try:
        out = build(what, tmp_path / "out", tree, TZ="Asia/Tokyo", LC_ALL="C.UTF-8", **more)
    finally:
        os.umask(before)
    made = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".buildinfo"]
    made = [path for path in made if path.suffix != ".changes"]
    assert made
    for path in made:
        assert filecmp.cmp(path, dist / path.relative_to(out), shallow=False), path.name
