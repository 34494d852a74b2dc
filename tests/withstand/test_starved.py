"""A check whose memory or whose reader is taken away: the right verdict, or one that says so."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.contract import Run
from support.memory_group import memory_group
from support.processes import RUNS, answer

ENOUGH = 32 << 20  # bytes, for a check and its reader
WORDS = {
    "usage": ["--netns", "all", "-w", "usage=~:", "-c", "usage=~:"],
    "full": ["--if-incomplete", "ok"],
    "table": ["-w", "usage=~:", "-c", "usage=~:"],
}


@pytest.mark.parametrize("name", WORDS)
def test_memory_of_a_control_group_is_enough_or_the_kernel_ends_the_check(netns, checks, name):
    namespace = netns()
    namespace.fill(20000)
    command = namespace.command(*checks(name, "--no-state", "-t", "30", *WORDS[name]))
    with contextlib.ExitStack() as stack:
        try:
            limited = stack.enter_context(memory_group())
        except OSError as error:
            pytest.skip(str(error))
        for size in (8 << 20, 14 << 20, 20 << 20):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=60, preexec_fn=limited(size)
            )
            if done.returncode != -signal.SIGKILL:
                Run(done.returncode, done.stdout, done.stderr, command)
        run = answer(command, preexec_fn=limited(ENOUGH))
        assert run.state == answer(command).state
        if name == "table":
            assert run.data["entries"].value == 20000


def readers_below(pid: int) -> list[int]:
    """The pids of the readers that a check has started."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [
            int(child)
            for child in children
            if b"reader.py" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
    return []


@pytest.mark.parametrize("name", WORDS)
def test_reader_killed_at_any_moment_is_said_or_made_up_for(netns, checks, dice, name):
    namespace = netns()
    namespace.fill(20000)
    words = [word for word in WORDS[name] if word not in ("--netns", "all")]
    command = checks(name, "--no-state", "-t", "20", "--netns", namespace.name, *words)
    usual = answer(command)
    killed = tries = 0
    # A reader of one namespace ends within milliseconds: most kills come too late.
    while tries < RUNS * 2 or (not killed and name == "usage" and tries < 200):
        tries += 1
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            until = time.monotonic() + 10
            while not readers_below(process.pid) and time.monotonic() < until:
                if process.poll() is not None:
                    break
            time.sleep(dice.uniform(0, 0.01 if name == "usage" else 0.2))
            for reader in readers_below(process.pid):
                with contextlib.suppress(OSError):
                    os.kill(reader, signal.SIGKILL)
            out, err = process.communicate(timeout=60)
        run = Run(process.returncode, out, err, command)
        if "the reader was ended by signal 9" in run.out:
            killed += 1
            # The other checks have other sources, and say which one is missing.
            assert run.state == "UNKNOWN" or name != "usage"
        else:
            assert run.state == usual.state
        if name == "table" and run.state == usual.state:
            assert run.data["entries"].value == 20000, "whole, also from another source"
    assert killed or name != "usage"
