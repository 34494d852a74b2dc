"""check_conntrack_table where there is too little processor time, or none at all."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from support.entries import many_entries
from support.machine import machine_wide
from support.netns import Namespace

LIMIT = 160000
ENTRIES = 150000
PROMISED = 8.0  # seconds, the default time-out
GIVEN_UP = 10.0  # seconds after which check_nrpe does not wait any more


@contextmanager
def busy(loops):
    """So many processes that do nothing but use processor time."""
    command = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.fixture
def large(need):
    """A namespace with a large table, inserted once the limit is raised."""
    need("ip", "nft")
    sizes = {"nf_conntrack_max": LIMIT, "nf_conntrack_buckets": LIMIT // 2}
    with Namespace() as namespace, machine_wide(**sizes):
        namespace.insert(many_entries(ENTRIES, 5000))
        yield namespace
        namespace.flush()


def interpreter_start() -> float:
    """Return the seconds that Python needs to start, with the largest module of the checks."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import nagiosplugin"], check=True)
    return time.monotonic() - start


def timed(table, *words, **more):
    start = time.monotonic()
    result = table(*words, user=(), **more)
    return result, time.monotonic() - start


def test_check_on_a_busy_host_ends_in_time_with_a_sample(large, table):
    before = ["ip", "netns", "exec", large.name]
    quiet, _ = timed(table, "-v", before=before)
    with busy(20):
        result, took = timed(table, "-v", before=before)
    assert took < GIVEN_UP
    # What is known in any case is evaluated: 150,000 of 160,000 are too many.
    assert quiet.code == result.code == 2
    # How much of the table is counted, and in how many words it is told, depends on the time.
    assert "93.8%" in result.status
    assert result.value("usage") == pytest.approx(93.75, abs=0.06)


@pytest.mark.parametrize("seconds", [0.3, 1, 2])
def test_check_without_time_evaluates_the_limits(large, table, seconds):
    before = ["ip", "netns", "exec", large.name]
    with busy(20):
        start = interpreter_start()
        result, took = timed(table, "-t", seconds, "--max-entries", "0", before=before)
    # Nobody can promise when Python starts on such a host: the check, and its reader.
    assert took < seconds + (GIVEN_UP - PROMISED) + 2 * start
    assert result.code in (2, 3)
    assert "timed out" in result.out or "tcp" in result.perfdata
