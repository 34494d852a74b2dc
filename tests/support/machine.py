"""The conntrack settings that belong to the whole machine: its limit and its hash size."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from support import guard

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSCTLS = Path("/proc/sys/net/netfilter")
# Everybody who tests conntrack on one machine takes this lock before changing its limit, and before
# that another one that the environment may name.
LOCKS = (
    os.environ.get("CHECK_CONNTRACK_TEST_LOCK", os.devnull),
    str(Path(tempfile.gettempdir()) / "nf_conntrack_max.lock"),
)
_held = [0]


@contextlib.contextmanager
def limit_lock() -> Iterator[None]:
    """Keep every other test on this machine from changing its limit meanwhile; nests."""
    with contextlib.ExitStack() as stack:
        if not _held[0]:
            for path in LOCKS:
                lock = stack.enter_context(open(path, "a"))
                if path != os.devnull:
                    fcntl.flock(lock, fcntl.LOCK_EX)
        _held[0] += 1
        try:
            yield
        finally:
            _held[0] -= 1


def sysctl(name: str) -> int:
    """Return the value of a sysctl of conntrack, as in `nf_conntrack_max`."""
    return int((SYSCTLS / name).read_text())


@contextlib.contextmanager
def machine_wide(**values: int) -> Iterator[None]:
    """Set sysctls of conntrack that belong to the whole machine, and restore them."""
    with limit_lock(), contextlib.ExitStack() as stack:
        for name, value in values.items():
            path = SYSCTLS / name
            before = path.read_text().strip()
            stack.enter_context(guard.undone_if_killed(guard.write_command(str(path), before)))
            stack.callback(path.write_text, before)
            path.write_text(str(value))
        yield


@contextlib.contextmanager
def machine_limit(limit: int) -> Iterator[int]:
    """Set the machine's limit, and restore it."""
    with machine_wide(nf_conntrack_max=limit):
        yield limit


@contextlib.contextmanager
def raised_limit(limit: int) -> Iterator[None]:
    """Have a limit of at least so many, with a quarter as many buckets.

    In longer chains the kernel refuses entries.
    """
    with limit_lock():
        wanted = {"nf_conntrack_max": limit, "nf_conntrack_buckets": limit // 4}
        lower = {name: value for name, value in wanted.items() if sysctl(name) < value}
        with machine_wide(**lower):
            yield
