#!/usr/bin/env python3
"""Make a release: version, date, packages, checksums, and the tests of the packages.

    packaging/release.py VERSION [--date YYYY-MM-DD] [--dry-run] [--no-tests]

Sets the version in plugins/check_conntrack/__init__.py and dates the section [Unreleased] of
CHANGELOG.md, builds every package into dist/ with SHA256SUMS, runs tests/packages (linters, and
each package in a clean system), and prints what is left to do by hand. A dry run does all of this
in a copy of the last commit below build/, and leaves the tree as it is.

The packages carry the release's date, 0:00 UTC, so a later build of the same tree is the same, byte
for byte.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
VERSION_FILE = "plugins/check_conntrack/__init__.py"
KINDS = ("deb", "rpm", "dist", "pyz")
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_SET = re.compile(r'^__version__ = "(.*)"$', re.MULTILINE)
_UNRELEASED = "## [Unreleased]\n"


class ReleaseError(Exception):
    """Why there can be no release; the message is for the person who asked for it."""


def set_version(text: str, version: str) -> str:
    """Return the text of VERSION_FILE with a later version; raises ReleaseError."""
    now = _SET.search(text)
    if not now:
        raise ReleaseError(f"{VERSION_FILE}: no __version__")
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"{version}: not a version (write MAJOR.MINOR.PATCH, as in 1.0.0)")
    if _numbers(version) <= _numbers(now[1]):
        raise ReleaseError(f"{version}: not later than {now[1]} ({VERSION_FILE})")
    return text[: now.start(1)] + version + text[now.end(1) :]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def date_changelog(text: str, version: str, date: datetime.date) -> str:
    """Return the changelog with its [Unreleased] section as the version; raises ReleaseError."""
    before, heading, after = text.partition(_UNRELEASED)
    if not heading:
        raise ReleaseError("CHANGELOG.md: no section [Unreleased]")
    notes = re.split(r"^## ", after, maxsplit=1, flags=re.MULTILINE)[0]
    if not notes.strip():
        raise ReleaseError("CHANGELOG.md: the section [Unreleased] is empty")
    if f"## [{version}]" in text:
        raise ReleaseError(f"CHANGELOG.md: {version} has a section already")
    return f"{before}{heading}\n## [{version}] - {date}\n{after}"


def checksums(folder: Path) -> str:
    """Return a line of SHA256SUMS for each file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
        for path in files
        if path.name != "SHA256SUMS"
    )


def git(*words: str, tree: Path = TREE) -> str:
    """Return what a git command prints; raises ReleaseError."""
    try:
        ended = subprocess.run(
            ["git", *words], cwd=tree, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ReleaseError(f"git: {error.strerror} (a release needs a git checkout)") from None
    if ended.returncode:
        raise ReleaseError(f"git {words[0]}: {ended.stderr.strip()}")
    return ended.stdout


def copy_of_the_last_commit() -> Path:
    """Return a fresh clone of the tree."""
    copy = TREE / "build" / "release"
    shutil.rmtree(copy, ignore_errors=True)
    copy.parent.mkdir(exist_ok=True)
    git("clone", "--quiet", "--no-hardlinks", str(TREE), str(copy))
    return copy


def write_version(tree: Path, version: str, date: datetime.date) -> None:
    """Set the version and date the changelog; both are refused before one is written."""
    version_file, changelog = tree / VERSION_FILE, tree / "CHANGELOG.md"
    new = {
        version_file: set_version(version_file.read_text(), version),
        changelog: date_changelog(changelog.read_text(), version, date),
    }
    for path, text in new.items():
        path.write_text(text)


def build(tree: Path, date: datetime.date) -> Path:
    """Build every package anew; return the folder that has them and their checksums."""
    out = tree / "dist"
    shutil.rmtree(out, ignore_errors=True)
    midnight = datetime.datetime.combine(date, datetime.time(), datetime.timezone.utc)
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "SOURCE_DATE_EPOCH": str(int(midnight.timestamp())),
    }
    for kind in KINDS:
        subprocess.run([tree / "packaging" / "build", kind, out], env=environment, check=True)
    (out / "SHA256SUMS").write_text(checksums(out))
    return out


def steps(version: str) -> str:
    """Return what is left to do by hand, as commands."""
    return f"""\
  git commit -am 'release: {version}'
  git tag -a v{version} -m 'check-conntrack {version}'
  git push origin HEAD v{version}
  (cd dist && sha256sum -c SHA256SUMS)
and publish the files of dist/, SHA256SUMS with them."""


def main() -> int:
    """Make the release; return the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("version", metavar="VERSION")
    parser.add_argument("--date", type=datetime.date.fromisoformat, help="today by default, UTC")
    parser.add_argument("--dry-run", action="store_true", help="in a copy of the last commit")
    parser.add_argument("--no-tests", action="store_true", help="do not run tests/packages")
    options = parser.parse_args()
    date = options.date or datetime.datetime.now(datetime.timezone.utc).date()
    try:
        if not options.dry_run and git("status", "--porcelain"):
            raise ReleaseError("there are changes that are not committed (see git status)")
        if f"v{options.version}" in git("tag", "--list").split():
            raise ReleaseError(f"the tag v{options.version} exists already")
        tree = copy_of_the_last_commit() if options.dry_run else TREE
        write_version(tree, options.version, date)
        out = build(tree, date)
        if not options.no_tests:
            subprocess.run([sys.executable, "-m", "pytest", "tests/packages"], cwd=tree, check=True)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"release: {error}", file=sys.stderr)
        if not options.dry_run:
            print(f"To begin again: git checkout CHANGELOG.md {VERSION_FILE}", file=sys.stderr)
        return 1
    print((out / "SHA256SUMS").read_text(), end="")
    print(f"\nThe packages and SHA256SUMS are in {out}")
    if options.dry_run:
        print("This was a dry run: the tree is as it was. A release ends with these steps:")
    else:
        print("Now look at CHANGELOG.md once more. Then:")
    print(steps(options.version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
