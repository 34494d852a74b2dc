"""A signal at any moment: an answer or none, the old state or the new, and nothing left behind.

Between the start of the interpreter and the first line of ours (some 15 ms) a signal does what it
does to any program of Python's. WITHSTAND_RUNS=50 makes hundreds of runs of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.contract import Run
from support.processes import RUNS, answer, orphans_after

WORDS = {
    "usage": ["--netns", "all", "-w", "usage=~:", "-c", "usage=~:"],
    "full": ["--netns", "all"],
    "table": ["--save-when", "always", "--keep", "2"],
}


def caught(pid: int, number: int) -> bool:
    """Return whether the check has taken a signal into its own hands."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    mask = int(status.partition("SigCgt:")[2].split()[0], 16)
    # Python itself catches SIGINT: SIGTERM is the one that tells.
    return bool(mask >> (signal.SIGTERM - 1) & 1)


def kept(state):
    return {path.name: path.read_bytes() for path in state.glob("65534/*.json")}


def sound(files) -> bool:
    return all(json.loads(data) is not None for data in files.values())


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("kind", ["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"])
def test_a_signal_at_any_moment(checks, state, folder, orphanage, dice, name, kind):
    number = getattr(signal, kind)
    words = [*WORDS[name], "--state-dir", state]
    words += ["--save", folder] if name == "table" else []
    command = checks(name, *words)
    started = time.monotonic()
    answer(command)
    usual = time.monotonic() - started
    for _ in range(RUNS):
        before = kept(state)
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(dice.uniform(0, 1.1 * usual))
        ours = caught(process.pid, number)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        if kind != "SIGKILL" and (ours or process.returncode in (0, 2)):
            run = Run(process.returncode, out, err, command)
            if run.code == 3 and "stopped" in run.text:
                assert f"stopped by {kind}" in run.text or "while starting" in run.text
        elif kind != "SIGKILL" and out:
            Run(process.returncode, out, err, command)
        else:
            # It had not begun, or nobody can answer.
            assert process.returncode in (-number, 1, 130, 0, 2)
        assert orphans_after() == []
        assert_nothing_is_locked_or_lost(state, before)
        if kind != "SIGKILL":
            assert [*state.rglob(".*"), *folder.glob(".*")] == []
    answer(command)
    assert list(state.rglob(".*")) == [], "the next run cleans up"


def assert_nothing_is_locked_or_lost(state, before):
    own = os.open(state / "65534", os.O_RDONLY)
    try:
        fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(own)
    after = kept(state)
    assert before.keys() <= after.keys()
    assert sound(after), "what is there is the old or the new, whole"


def test_two_signals_at_once_are_one_answer(checks, state, orphanage):
    command = checks("full", "--log", "-", "-t", "30", "--state-dir", state)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 20
    while not caught(process.pid, signal.SIGTERM):
        assert time.monotonic() < until
        time.sleep(0.005)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.stdin.close()
    process.stdin = None
    run = Run(process.wait(30), process.stdout.read(), process.stderr.read(), command)
    process.stdout.close()
    process.stderr.close()
    assert run.code == 3
    assert "stopped by SIG" in run.text
    assert orphans_after() == []


def test_a_verdict_that_nobody_takes_does_not_keep_the_check(checks, state):
    ours, its = os.pipe()
    fcntl.fcntl(its, 1031, 4096)  # F_SETPIPE_SZ
    os.set_blocking(its, False)
    try:
        while True:
            os.write(its, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(its, True)
    process = subprocess.Popen(checks("usage", "--state-dir", state), stdout=its)
    try:
        until = time.monotonic() + 20
        while "pipe_write" not in Path(f"/proc/{process.pid}/wchan").read_text():
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 3
    finally:
        process.kill()
        process.wait()
        os.close(its)
        os.close(ours)
