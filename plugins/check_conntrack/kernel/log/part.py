"""Read one file of a log: the log itself, or a part that was rotated out of it."""

from __future__ import annotations

import os

from .. import reasons
from ..namedtuple import NamedTuple
from ..reasons import SourceProblem, UnreadableError
from . import kmsg, rotation
from .decompress import Descriptor, Peekable, text_stream
from .header import read_start
from .stamps import zone_shift
from .syslog import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack
    from datetime import tzinfo
    from typing import Callable

    from .header import Header
    from .opening import LogFiles
    from .rotation import LogCursor, RotatedPart
    from .scanner import Scanner
    from .stamps import Stamp

HEAD = 1024
"""Bytes at the beginning of a file by which copies of it are recognised."""
_TAIL = 4096
_AHEAD, _BEHIND = 60.0, 5.0
"""Seconds by which a time zone may be missed: of lines ahead of the file's last change, which no
clock explains, and of lines behind it, where the file may also have been copied."""


class ZoneGuess(NamedTuple):
    """The time zone that a log seems to be written in.

    zone: of times without an offset; None for the zone of this process. shift: seconds to add to
    times that are read in the zone of this process. certain: it may be corrected for.
    """

    zone: tzinfo | None = None
    shift: float = 0.0
    certain: bool = True


class LogPart:
    """One file of a log: a rotated part, or the log itself (`rotated` is None).

    written: time of its last line, or of its last change where that is not known.
    first: time of its first line; None where that is not known.
    """

    def __init__(self, path: str, written: float, rotated: RotatedPart | None = None) -> None:
        self.path = path
        self.rotated = rotated
        self.written = written
        self.first: float | None = None
        self.descriptor = -1
        self.plain = True
        self.beginning = b""
        self.problem: SourceProblem | None = None
        self.scanner: Scanner | None = None

    def open(self, files: LogFiles, stack: ExitStack) -> None:
        """Open the file and look at its first bytes, unless that was done before."""
        if self.descriptor >= 0 or self.problem is not None:
            return
        try:
            self.descriptor = files.open(self.path)
            stack.callback(os.close, self.descriptor)
            self.written = os.fstat(self.descriptor).st_mtime
            stream, self.plain = self._text(0)
            self.beginning = stream.peek(HEAD)
        except UnreadableError as error:
            self.problem = error.problem

    def _text(self, offset: int) -> tuple[Peekable, bool]:
        os.lseek(self.descriptor, offset, os.SEEK_SET)
        return text_stream(Descriptor(self.descriptor, self.path), self.path)

    @property
    def usable(self) -> bool:
        """Return whether the file was searched to its end, or is an anchor, which need not be."""
        return self.problem is None and (self.scanner is None or self.scanner.complete)

    def scan(
        self, scanner: Scanner, stop: Callable[[], bool], cursor: LogCursor | None = None
    ) -> None:
        """Search the file, from the cursor on where there is one."""
        self.scanner = scanner
        skip = 0
        if cursor is not None:
            skip = cursor.offset
            scanner.midline, scanner.previous = cursor.midline, cursor.previous
        try:
            if self.plain:
                os.lseek(self.descriptor, skip, os.SEEK_SET)
                scanner.run(Descriptor(self.descriptor, self.path), stop)
            else:
                scanner.run(self._text(0)[0], stop, skip)
        except UnreadableError as error:
            self.problem = error.problem
        if scanner.timed_out:
            self.problem = SourceProblem(self.path, reasons.TIMED_OUT)
        self.first = scanner.first if cursor is None else cursor.since
        if scanner.last is not None:
            self.written = min(scanner.last, self.written)
        elif cursor is not None and not scanner.read:
            self.written = cursor.written

    def is_copy_of(self, other: LogPart, stop: Callable[[], bool]) -> bool:
        """Return whether the file is a copy of the other's beginning, such as an editor makes."""
        if not self.beginning or not self.plain or not other.beginning.startswith(self.beginning):
            return False
        end = rotation.make_cursor(self.descriptor, os.fstat(self.descriptor).st_size)
        return end is not None and other.holds(end, stop)

    def holds(self, cursor: LogCursor, stop: Callable[[], bool]) -> bool:
        """Return whether the file is the one of the cursor: moved, copied or compressed."""
        if self.problem is not None:
            return False
        if self.plain:
            return rotation.holds(self.descriptor, cursor)
        return rotation.unpacks_to(self.descriptor, self.path, cursor, stop)


def _local(header: Header) -> Stamp:
    """Return the stamp of a line, taken as this process's time where its zone is not certain."""
    stamp = header.stamp
    return stamp if stamp.time is not None else stamp._replace(time=stamp.if_local)


def guess_zone(descriptor: int) -> ZoneGuess:
    """Compare the last line's time with the file's last change and the kernel's own stamp.

    A line cannot be ahead of the file's last change. One that is behind it by a time zone was
    written in another zone, or the file was copied: the kernel's stamp tells, if the line is of
    this host's running kernel.
    """
    status = os.fstat(descriptor)
    tail = os.pread(descriptor, _TAIL, max(0, status.st_size - _TAIL))
    headers = [
        read_start(clean(raw[:512].decode("utf-8", "replace")), status.st_mtime)
        for raw in reversed(tail.split(b"\n")[-40:])
    ]
    last = next((stamp for stamp in map(_local, headers) if stamp.time is not None), None)
    if last is None or last.time is None or last.offset:
        return ZoneGuess()
    ahead = last.time > status.st_mtime
    shift = zone_shift(last.time, status.st_mtime, _AHEAD if ahead else _BEHIND)
    named = last.if_local is not None and abs(last.time - status.st_mtime) <= _AHEAD
    if not shift and not named:
        return ZoneGuess()
    if shift and not ahead:
        clock = kmsg.read_clock()
        stamps = (
            zone_shift(stamp.time, clock.realtime - clock.monotonic + each.monotonic / 1e6)
            for each, stamp in zip(headers, map(_local, headers))
            if stamp.time is not None and each.monotonic is not None
        )
        if next(stamps, 0.0) != shift:
            return ZoneGuess(None, shift, certain=False)
    import time
    from datetime import timedelta, timezone

    offset = time.localtime(last.time).tm_gmtoff - shift
    if abs(offset) >= 86400:
        return ZoneGuess()
    return ZoneGuess(timezone(timedelta(seconds=offset)), shift)
