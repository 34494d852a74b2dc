"""What every test may ask for: the right to run at all, and a copy of the suite for everybody."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nagiosplugin
import pytest

PLUGINS = Path(__file__).parent.parent / "plugins"


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
    """Whether a user without rights can run an interpreter (and gets that one, and no other)."""
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
        yield tree, python
    finally:
        shutil.rmtree(top)
