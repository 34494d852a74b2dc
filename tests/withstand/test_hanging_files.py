"""Files on a file system that does not answer: the time-out holds all the same."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from support.commands import NOBODY
from support.contract import Run
from support.hanging import KINDS, hanging
from withstand.test_any_host import limited

LIMIT = 2.0  # seconds, the time-out of these runs
LONGER = 6.0  # what is saved is read first
FILES = {
    "state": ("usage", ["--state-dir"]),
    "log": ("full", ["--no-state", "--log"]),
    "table": ("table", ["--no-state", "--source"]),
    "timeouts": ("table", ["--no-state", "--source", os.devnull, "--timeouts"]),
    "snapshots": ("table", ["--no-state", "-w", "usage=~:", "--save-when", "always", "--save"]),
}


def answer_in_time(command, file, kind):
    """The answer of a check that waits for a file, and how long it took.

    Where the process itself cannot end yet, the answer ends all the same.
    """
    begun = time.monotonic()
    with subprocess.Popen(
        [*hanging(kind, file.parent), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            out = process.stdout.read()
            took = time.monotonic() - begun
            if kind == KINDS[1]:
                # Its code is not known before its file system is gone.
                states = ["OK", "WARNING", "CRITICAL", "UNKNOWN"]
                code = states.index(out.split()[1]) if out else None
            else:
                code = process.wait(30)
        finally:
            process.kill()
    return Run(code, out, "", command), took


@pytest.fixture
def file(folder):
    (folder / "mount").mkdir()
    return folder / "mount/file"


# Nobody has no table to save.
RUNS = [(KINDS[0], user, what) for user in ("root", "nobody") for what in FILES][:-1]
RUNS += [(kind, "nobody", what) for kind in KINDS[1:] for what in ("state", "log")]
RUNS += [(kind, "root", "snapshots") for kind in KINDS[1:]]


@pytest.mark.parametrize(("kind", "user", "what"), RUNS)
def test_timeout_holds_where_a_file_system_does_not_answer(checks, file, kind, user, what):
    name, words = FILES[what]
    before = NOBODY if user == "nobody" else ()
    limit = LONGER if what == "snapshots" else LIMIT
    run, took = answer_in_time(checks(name, "-t", limit, *words, file, before=before), file, kind)
    assert took < limit + 3
    if what == "snapshots":
        assert run.state == "OK", "the verdict is known by then"
        assert "in use" in run.text
        assert "timed out after 6s while saving the table" in run.out
    else:
        assert run.state == "UNKNOWN"
        assert "timed out after 2s while" in run.text


@pytest.mark.parametrize("what", ["log", "table", "state", "snapshots"])
def test_fifo_in_place_of_a_file_is_not_waited_for(checks, folder, what):
    name, words = FILES[what]
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    fifo.chmod(0o666)
    done = subprocess.run(
        checks(name, "-t", LIMIT, *words, fifo), capture_output=True, text=True, timeout=LIMIT + 5
    )
    run = Run(done.returncode, done.stdout, done.stderr, name)
    assert "timed out" not in run.out
    assert str(fifo) in run.out


def test_threads_hold_no_privilege_that_was_given_up(checks, file):
    """The thread that prints in place of one that hangs has what the check has, and no more."""
    command = checks("full", "-t", 6, "--no-state", "--user", "65534", "--log", file)
    with subprocess.Popen([*hanging(KINDS[0], file.parent), *command]) as process:
        try:
            told = threads_of_the_check(process)
        finally:
            process.kill()
    assert len(told) == 2
    for status in told:
        assert status["Uid"].split() == ["65534"] * 4
        assert status["NoNewPrivs"] == "1"
        sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        assert {int(status[each], 16) for each in sets} == {0}


def threads_of_the_check(launcher):
    """The status of each thread of the check, once it waits for its file."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
            try:
                waits = "D" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
            except OSError:
                continue
            if waits and len(texts) > 1:
                return [
                    dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
                    for text in texts
                ]
        time.sleep(0.02)
    raise AssertionError("it does not wait")


def test_without_a_further_thread_a_check_runs_as_usual(checks):
    alone = ("setpriv", "--reuid", "61234", "--regid", "61234", "--clear-groups")
    done = subprocess.run(
        checks("usage", "--no-state", "-w", "usage=~:", "-c", "usage=~:", before=alone),
        capture_output=True,
        text=True,
        preexec_fn=limited("NPROC", 1),
    )
    assert Run(done.returncode, done.stdout, done.stderr, "usage").state == "OK"
