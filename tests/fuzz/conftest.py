"""Fuzzing in tests: the same examples each time in CI, new ones for FUZZ_SECONDS."""

from __future__ import annotations

import pytest

from support import door as front

# Tests that take a share of FUZZ_SECONDS.
shared: list[str] = []


def pytest_collection_finish(session):
    shared[:] = [item.nodeid for item in session.items if "share" in item.fixturenames]


@pytest.fixture
def share():
    """The seconds that a test may go on making up examples; 0 for a fixed number of them."""
    return front.SECONDS / max(1, len(shared))


@pytest.fixture
def door(tmp_path, monkeypatch):
    """A made-up host and the checks on it."""
    return front.Door(tmp_path, monkeypatch)


def pytest_terminal_summary(terminalreporter):
    if front.executions:
        terminalreporter.write_line(
            "examples: " + ", ".join(f"{name} {n}" for name, n in front.executions.items())
        )
