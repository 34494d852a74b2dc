"""The clock of the host is set between runs: the verdict stays, and the history is not lost."""

from __future__ import annotations

import json
import os

import pytest

from support.commands import NOBODY
from support.processes import answer

DAY = 86400
# date(1) as the check sees it; what counts since boot goes on.
SET = """
import runpy, sys, time
offset, path = float(sys.argv[1]), sys.argv[2]
real = time.time
time.time = lambda: real() + offset
sys.argv = sys.argv[2:]
sys.path.insert(0, path.rpartition("/")[0])
runpy.run_path(path, run_name="__main__")
"""


def at(command, offset: float):
    """The command with a clock that is ahead by so many seconds."""
    place = next(number for number, word in enumerate(command) if "check_conntrack_" in word)
    return [*command[:place], "-c", SET, str(offset), *command[place:]]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("usage", ["-w", "80", "-c", "90"]),
        ("full", ["--since", "10s", "--if-incomplete", "ok"]),
        ("table", ["--save-when", "always", "--save"]),
    ],
)
def test_clock_that_is_set_changes_no_verdict(netns, checks, state, folder, name, words):
    namespace = netns()
    namespace.fill(50)
    user = NOBODY if name != "table" else ()
    words = [*words, folder] if name == "table" else words
    command = namespace.command(*checks(name, "--state-dir", state, *words, before=user))
    label = "drop_total" if name == "full" else "entries"
    usual = answer(command)
    assert usual.state == "OK"
    # Forward, back, far ahead, before it all, and as it was.
    for offset in (DAY, -DAY, 10 * 365 * DAY, -40 * 365 * DAY, 0, 0):
        run = answer(at(command, offset))
        assert (run.state, run.data[label].value) == (usual.state, usual.data[label].value), offset
    for path in state.glob("65534/*.json"):
        assert json.loads(path.read_bytes())
    if name == "table":
        saved = [entry for entry in os.listdir(folder) if entry.endswith(".txt.gz")]
        assert len(saved) >= 2
        assert not [entry for entry in os.listdir(folder) if entry.startswith(".")]
