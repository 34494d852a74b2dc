"""What tests ask about processes that they did not start themselves."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends in time; whoever adopts it reaps it when it likes."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.01)
    return False


def marked(mark: str) -> list[int]:
    """The processes whose environment holds a mark, zombies aside."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                environment = Path(f"/proc/{name}/environ").read_bytes()
                if os.fsencode(mark) in environment.split(b"\0"):
                    found.append(int(name))
    return found
