"""Undo what a test did to the machine, even where the test is killed.

A child process holds the list of what is to be undone. It runs the list when its standard input
ends, which happens at the latest when this process does.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHILD = """
import json, signal, subprocess, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
jobs = {}
for line in sys.stdin:
    key, commands = json.loads(line)
    if commands is None:
        jobs.pop(key, None)
    else:
        jobs[key] = commands
for commands in reversed(list(jobs.values())):
    for command in commands:
        subprocess.run(command, check=False, capture_output=True)
"""
_keys = itertools.count()
_child: list[subprocess.Popen[str]] = []


def _end() -> None:
    for child in _child:
        assert child.stdin
        child.stdin.close()
        child.wait()


def pids() -> list[int]:
    """Return the pids of the child, where there is one."""
    return [child.pid for child in _child]


def _tell(key: int, commands: list[list[str]] | None) -> None:
    if not _child:
        command = [sys.executable, "-I", "-c", _CHILD]
        _child.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        )
        atexit.register(_end)
    pipe = _child[0].stdin
    assert pipe
    pipe.write(json.dumps([key, commands]) + "\n")
    pipe.flush()


@contextlib.contextmanager
def undone_if_killed(*commands: list[str]) -> Iterator[None]:
    """Have the commands run if this process ends before the context does."""
    key = next(_keys)
    _tell(key, list(commands))
    try:
        yield
    finally:
        _tell(key, None)


def write_command(path: str, text: str) -> list[str]:
    """Return the command that writes a text into a file."""
    return ["sh", "-c", 'printf %s "$1" > "$2"', "sh", text, path]


def remove_command(namespace: str) -> list[str]:
    """Return the command that removes a network namespace and ends the processes in it."""
    script = 'ip netns pids "$1" | xargs -r kill -9; ip netns delete "$1"'
    return ["sh", "-c", script, "sh", namespace]
