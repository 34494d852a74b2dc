"""Measure coverage: in this process, and in those of a few modules."""

from __future__ import annotations

import os

import pytest

from support import features


@pytest.fixture(autouse=True)
def measured(request, monkeypatch):
    """Measure the processes that a test starts only if its module says so (MEASURED).

    To measure one costs as much processor time as a run of a check.
    """
    if not getattr(request.module, "MEASURED", False):
        for name in os.environ:
            if name.startswith("COVERAGE_PROCESS"):
                monkeypatch.delenv(name)


@pytest.fixture
def procfs():
    """Skip where conntrack has no files in /proc/net (tests/vm/test_no_procfs.py is for that)."""
    features.need_procfs()
