"""packaging/release.py: what a version changes in the tree, and what is refused."""

from __future__ import annotations

import datetime
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import check_conntrack

TREE = Path(__file__).parents[2]
SCRIPT = TREE / "packaging" / "release.py"
DAY = datetime.date(2030, 1, 2)


@pytest.fixture(scope="module")
def release():
    spec = importlib.util.spec_from_file_location("release", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path, release):
    """A copy of what a release changes."""
    for name in (release.VERSION_FILE, "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((TREE / name).read_text())
    return tmp_path


def test_release_sets_the_version_and_dates_the_changelog(release, tree):
    release.write_version(tree, "97.1.0", DAY)
    assert '__version__ = "97.1.0"\n' in (tree / release.VERSION_FILE).read_text()
    changelog = (tree / "CHANGELOG.md").read_text()
    assert "\n## [Unreleased]\n\n## [97.1.0] - 2030-01-02\n" in changelog


def test_released_changelog_needs_new_notes_for_the_next_release(release, tree):
    release.write_version(tree, "97.1.0", DAY)
    before = {path: path.read_text() for path in tree.rglob("*") if path.is_file()}
    with pytest.raises(release.ReleaseError, match=r"section \[Unreleased\] is empty"):
        release.write_version(tree, "97.2.0", DAY)
    assert {path: path.read_text() for path in before} == before


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ("1.0", "not a version"),
        ("v97.0.0", "not a version"),
        ("0.0.1", "not later than"),
        (check_conntrack.__version__, "not later than"),
    ],
)
def test_release_refuses_a_version(release, tree, version, problem):
    with pytest.raises(release.ReleaseError, match=problem):
        release.write_version(tree, version, DAY)


def test_version_stands_in_one_place_only():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TREE, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    version = f'"{check_conntrack.__version__}"'
    holding = [
        name
        for name in listed.stdout.split("\0")
        if name.split("/")[0] in ("plugins", "packaging", "setup.cfg", "pyproject.toml")
        and (
            version in (text := (TREE / name).read_text(errors="replace"))
            or f"Version:        {check_conntrack.__version__}" in text
        )
    ]
    assert holding == ["plugins/check_conntrack/__init__.py"]


def test_checksums_name_every_file(release, tmp_path):
    (tmp_path / "pyz").mkdir()
    (tmp_path / "pyz" / "check").write_bytes(b"")
    (tmp_path / "SHA256SUMS").write_text("old")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert release.checksums(tmp_path) == f"{empty}  pyz/check\n"


def test_release_is_refused_with_one_line_outside_of_git(tmp_path):
    copy = tmp_path / "packaging" / "release.py"
    copy.parent.mkdir()
    copy.write_bytes(SCRIPT.read_bytes())
    ended = subprocess.run(
        [sys.executable, copy, "97.0.0"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("release: git")
    assert ended.stderr.count("\n") == 1


def test_release_says_what_to_commit_tag_push_and_publish(release):
    said = release.steps("97.1.0")
    for command in (
        "git commit -am 'release: 97.1.0'",
        "git tag -a v97.1.0 -m 'check-conntrack 97.1.0'",
        "git push origin HEAD v97.1.0",
        "sha256sum -c SHA256SUMS",
    ):
        assert command in said
