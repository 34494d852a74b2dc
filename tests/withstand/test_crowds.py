"""A hundred at once on one state directory: every verdict right, nothing lost."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.commands import NOBODY
from support.contract import Run

CROWD = 100
FULL = b"Nov 21 10:00:00 gw kernel: [%d.000000] nf_conntrack: table full, dropping packet\n"


def crowd(command, number=CROWD):
    """The answers of so many runs, a dozen of them at any one time."""

    def one(_):
        done = subprocess.run(command, capture_output=True, text=True, timeout=110)
        return Run(done.returncode, done.stdout, done.stderr, command)

    with ThreadPoolExecutor(12) as runs:
        return list(runs.map(one, range(number)))


@pytest.mark.timeout(240)
def test_a_hundred_runs_at_once_are_all_right_and_all_remembered(checks, state):
    words = ["-t", "60", "-v", "-w", "usage=~:", "-c", "usage=~:", "--state-dir", state]
    answers = crowd(checks("usage", *words, before=NOBODY))
    assert {answer.state for answer in answers} == {"OK"}
    locked = sum("is locked" in answer.rest for answer in answers)
    [file] = state.glob("65534/*.json")
    samples = json.loads(file.read_bytes())[2]
    times = [at for at, _ in samples]
    assert times == sorted(times)
    # The history keeps one sample a while; what it keeps is whole, and nobody waited in vain.
    assert 1 <= len(samples) <= CROWD - locked
    assert list(state.rglob(".*")) == []


@pytest.mark.timeout(240)
def test_a_crowd_reads_one_log_and_each_finds_every_message(checks, state, folder):
    log = folder / "kern.log"
    log.write_bytes(b"".join(FULL % number for number in range(57)))
    words = ["--log", log, "--since", "all", "-t", "60", "--state-dir", state]
    answers = crowd(checks("full", *words, before=NOBODY), 24)
    assert {answer.data["table_full"].value for answer in answers} == {57}
    assert {answer.state for answer in answers} == {"CRITICAL"}
    assert list(state.rglob(".*")) == []


@pytest.mark.timeout(240)
def test_two_schedulers_on_one_state_get_the_same_verdicts(netns, checks, state, folder):
    """All three checks, each by both at the same time, as root and with a namespace besides."""
    namespace = netns()
    namespace.fill(40)
    log = folder / "kern.log"
    log.write_bytes(b"".join(FULL % number for number in range(11)))
    words = {
        "usage": ["--netns", namespace.name, "-w", "usage=~:", "-c", "usage=~:"],
        "full": ["--log", log, "--since", "all"],
        "table": ["--netns", namespace.name, "--save", folder, "--save-when", "always"],
    }
    words["table"] += ["-w", "usage=~:", "-c", "usage=~:"]
    shared = ["-t", "60", "--state-dir", state, "--user", "65534"]

    def scheduler(_):
        seen = []
        for _ in range(4):
            for name, own in words.items():
                command = checks(name, *shared, *own)
                done = subprocess.run(command, capture_output=True, text=True, timeout=110)
                run = Run(done.returncode, done.stdout, done.stderr, command)
                label = "table_full" if name == "full" else "entries"
                seen.append((name, run.state, run.data[label].value))
        return seen

    with ThreadPoolExecutor(2) as both:
        one, other = both.map(scheduler, range(2))
    assert one == other
    assert set(one) == {("usage", "OK", 40), ("full", "CRITICAL", 11), ("table", "OK", 40)}
    for file in state.rglob("*.json"):
        assert json.loads(file.read_bytes()), file
    left = [*state.rglob(".*"), *folder.glob(".*")]
    assert left == []
