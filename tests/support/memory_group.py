"""A control group with a limit on memory, where this machine lets one be made."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from support import guard

if TYPE_CHECKING:
    from collections.abc import Iterator

# Version 1, and version 2 with the controller switched on for groups below the root.
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def _place() -> tuple[Path, str]:
    if (_V1 / "memory.limit_in_bytes").exists():
        return _V1, "memory.limit_in_bytes"
    with contextlib.suppress(OSError):
        if "memory" in (_V2 / "cgroup.subtree_control").read_text().split():
            return _V2, "memory.max"
    raise OSError("no control group for memory")


@contextlib.contextmanager
def memory_group() -> Iterator[Callable[[int], Callable[[], None]]]:
    """Make a group; yield a function that sets its limit and returns what a child calls to join.

    Raises OSError where none can be made.
    """
    above, limit = _place()
    group = above / f"check-conntrack-{os.getpid()}"
    group.mkdir()
    with guard.undone_if_killed(["rmdir", str(group)]):
        try:

            def limited(size: int) -> Callable[[], None]:
                (group / limit).write_text(str(size))
                with contextlib.suppress(OSError):
                    (group / "memory.swap.max").write_text("0")
                return lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None

            yield limited
        finally:
            group.rmdir()
