"""Log files for tests: lines of the kernel, their times, and rotations."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import time
from pathlib import Path

from check_conntrack.kernel.log import files
from check_conntrack.kernel.log.events import count_events

TEXT = "nf_conntrack: table full, dropping packet"
NOW = 1_795_298_400.0
"""2026-11-21 22:00:00 UTC."""
NINE = NOW - 3600
OTHER = b"Nov 21 20:00:00 gw kernel: [ 1.000000] eth0: link up\n"
"""A line of the kernel's own that reports no loss, of two hours ago."""


def never():
    """Return False: a reading that is not stopped."""
    return False


def full(number=0, host="gw"):
    """Return a line that reports a full table, so many seconds after 21:00."""
    when = f"Nov 21 21:{number // 60:02}:{number % 60:02}"
    return f"{when} {host} kernel: [{number:5}.000000] {TEXT}\n".encode()


def line(seconds, text="eth0: link up", host="gw"):
    """Return a line of the kernel's own, so many seconds after NOW."""
    when = time.strftime("%b %e %H:%M:%S", time.gmtime(NOW + seconds))
    return f"{when} {host} kernel: [{9e5 + seconds:.6f}] {text}\n".encode()


def read(path, cursor=None, start=None, stop=never, now=NOW, **more):
    """Read a log."""
    return files.read_log(str(path), now, stop, cursor, start, **more)


def count(events):
    """Return the number of reports of a full table."""
    return count_events(events).table_full


def append(path, *lines):
    """Append lines to a log."""
    with path.open("ab") as file:
        file.write(b"".join(lines))


def written(path, *lines, at):
    """Write a log that was last changed so many seconds after NOW."""
    path.write_bytes(b"".join(lines))
    os.utime(path, (NOW + at, NOW + at))
    return path


# --- rotations


def rename(log):
    """Rotate as logrotate does."""
    log.rename(f"{log}.1")


def rename_by_date(log):
    """Rotate as logrotate does with dateext."""
    log.rename(f"{log}-20261121")


def rename_between(log):
    """Rotate as some daemons do."""
    log.rename(log.with_suffix(".1.log"))


def rename_to_old(log):
    """Rotate as simple scripts do."""
    log.rename(f"{log}.old")


def copy_and_truncate(log):
    """Rotate as logrotate does with copytruncate."""
    shutil.copy(log, f"{log}.1")
    os.truncate(log, 0)


def compress_at_once(log):
    """Rotate as logrotate does without delaycompress."""
    Path(f"{log}.1.gz").write_bytes(gzip.compress(log.read_bytes()))
    log.unlink()


def twice(log):
    """Rotate twice."""
    log.rename(f"{log}.2")
    Path(f"{log}.1").write_bytes(full(20) + full(21))


def twice_and_compressed(log):
    """Rotate twice, and compress the first part."""
    Path(f"{log}.2.xz").write_bytes(lzma.compress(log.read_bytes()))
    log.unlink()
    Path(f"{log}.1").write_bytes(full(20) + full(21))


ROTATIONS = [
    rename,
    rename_by_date,
    rename_between,
    rename_to_old,
    copy_and_truncate,
    compress_at_once,
    twice,
    twice_and_compressed,
]
TWICE = (twice, twice_and_compressed)
