"""Fixtures of the incidents, and the table of what the checks said."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from incidents.lab import Lab, Row
from support.machine import limit_lock

_ROWS = pytest.StashKey[list[Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = []


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> list[Row]:
    """The table that is printed at the end."""
    return request.config.stash[_ROWS]


@pytest.fixture
def lab(need, installed):
    """A laboratory, alone on the machine; all of it is gone when the test ends."""
    need("ip", "nft", "conntrack", "sysctl", "setpriv")
    state = Path(tempfile.mkdtemp(prefix="check-conntrack-state-"))
    shutil.chown(state, 65534, 65534)
    tree, python = installed
    with limit_lock():
        made = Lab(tree, python, state)
        try:
            yield made
        finally:
            made.close()
            shutil.rmtree(state)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    rows = config.stash[_ROWS]
    if not rows:
        return
    terminalreporter.section("incidents")
    width = max(len(row.incident) for row in rows)
    for row in rows:
        terminalreporter.write_line(f"{row.incident.ljust(width)}  {row.line}")
        terminalreporter.write_line(f"{' ' * width}  => {row.verdict}")
