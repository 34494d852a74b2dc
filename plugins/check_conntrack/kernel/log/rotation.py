"""Find the rotated parts of a log, and the cursor up to which it was read before.

Names are those of logrotate, newsyslog, savelog and administrators: NAME.1, NAME.2.gz, NAME.old,
NAME-20261129, STEM.1.log, STEM-20261129.log.
"""

from __future__ import annotations

import os
import re
import zlib

from ..namedtuple import NamedTuple
from ..reasons import UnreadableError
from .decompress import Descriptor, text_stream
from .events import Event  # noqa: TC001 - its decoder looks it up here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Callable

FINGERPRINT = 1024
"""Bytes at a file's beginning, and before a cursor, by which a file is recognised."""
BLOCK = 1 << 18
DAY = 22 * 3600.0
HOUR = 55 * 60.0
"""Seconds without a line between two dated parts beyond which one may be missing. Names with a date
allow one rotation a day, those with a time one an hour; timers deviate a little."""

_PACKED = r"(?:\.(?:gz|xz|lzma|bz2|zst|zstd|lz4|lz|lzo|Z|z|zip|7z))?"
_NUMBER = r"(?P<number>[0-9]{1,6})"
_DATE = r"(?P<date>[0-9]{4}[-_.]?[0-9]{2}[-_.]?[0-9]{2}(?P<clock>[-_T.]?[0-9]{1,10})?)"
# Behind the full name, and between the stem and the extension.
_BEHIND = re.compile(
    rf"(?:[._-]{_NUMBER}|[._-]{_DATE}|(?P<copy>[._-](?:old|bak|save|prev|orig)|~)){_PACKED}",
    re.IGNORECASE,
)
_BETWEEN = rf"[._-](?:{_NUMBER}|{_DATE}|(?P<copy>old|bak|save|prev|orig))"


class RotatedPart(NamedTuple):
    """A file that was rotated out of a log.

    path, written: its path and its last change, in seconds since the epoch.
    scheme: "number", "date" or "copy".
    order: sorts the parts of one scheme, the oldest first.
    longest: seconds without a line before it that prove no missing part.
    """

    path: str
    written: float
    scheme: str
    order: tuple[int, str]
    longest: float = 0.0

    @property
    def number(self) -> int:
        """Return the number in the name, 0 or 1 for the newest part; -1 without one."""
        return -self.order[0] if self.scheme == "number" else -1


class LogCursor(NamedTuple):
    """How far a log was read.

    offset: bytes; the beginning of a line unless `midline`.
    start_checksum: of the first FINGERPRINT bytes, or as many as there were before `offset`.
    end_checksum: of the last FINGERPRINT bytes before `offset`, or as many as there were.
    midline: the offset is within a line longer than the scanner takes.
    kernel_lines: lines of the kernel's own stand before it.
    written: time of the last line before it, in seconds since the epoch.
    since: all lines from then up to the cursor were read; None where they are undated.
    read_at: when it was read up to here.
    previous: the event of the line before it, which "last message repeated" would speak of.
    """

    offset: int
    start_checksum: int
    end_checksum: int
    midline: bool = False
    kernel_lines: bool = False
    written: float = 0.0
    since: float | None = None
    read_at: float = 0.0
    previous: Event | None = None


# --- names


def rotated_parts(path: str, listing: Iterable[tuple[str, float]]) -> list[RotatedPart]:
    """Return the rotated parts of a log, oldest first.

    listing: (file name, last change) of what lies in its folder.
    """
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    parts = []
    for each, written in listing:
        match = None
        if each.startswith(name):
            match = _BEHIND.fullmatch(each, len(name))
        elif extension and each.startswith(stem):
            between = re.compile(_BETWEEN + re.escape(extension) + _PACKED)
            match = between.fullmatch(each, len(stem))
        if match is not None:
            parts.append(_part(os.path.join(folder, each), written, match))
    # Copies keep their times or not; names are reliable, but do not compare across schemes.
    one_scheme = len({part.scheme for part in parts}) == 1
    parts.sort(key=lambda part: (0.0 if one_scheme else part.written, part.order, part.written))
    return parts


def _part(path: str, written: float, match: re.Match[str]) -> RotatedPart:
    if match["number"]:
        return RotatedPart(path, written, "number", (-int(match["number"]), ""))
    if match["date"]:
        digits = re.sub("[^0-9]", "", match["date"])
        return RotatedPart(path, written, "date", (0, digits), HOUR if match["clock"] else DAY)
    if "old" in match["copy"].lower():
        return RotatedPart(path, written, "number", (-1, ""))  # the one part that is kept
    return RotatedPart(path, written, "copy", (0, ""))


def list_folder(path: str) -> list[tuple[str, float]]:
    """Return (file name, last change) of what lies beside a log. Raises OSError."""
    listing = []
    with os.scandir(os.path.dirname(path) or ".") as entries:
        for entry in entries:
            try:
                listing.append((entry.name, entry.stat(follow_symlinks=False).st_mtime))
            except OSError:
                continue
    return listing


def follows(part: RotatedPart, after: RotatedPart | None, silence: float) -> bool:
    """Return whether nothing lies between a part and the next one; None is the log itself.

    silence: seconds between the last line of the part and the first line after it.
    """
    if part.scheme == "number":
        return part.number <= 1 if after is None else part.number - after.number == 1
    return part.scheme == "date" and silence <= part.longest


# --- cursors


def make_cursor(descriptor: int, offset: int) -> LogCursor | None:
    """Return the cursor at an offset of a file; None where it cannot be read."""
    try:
        return LogCursor(offset, *_fingerprint(descriptor, offset))
    except OSError:
        return None


def _fingerprint(descriptor: int, offset: int) -> tuple[int, int]:
    size = min(FINGERPRINT, offset)
    return (
        zlib.crc32(os.pread(descriptor, size, 0)),
        zlib.crc32(os.pread(descriptor, size, offset - size)),
    )


def holds(descriptor: int, cursor: LogCursor) -> bool:
    """Return whether a plain file is unchanged up to the cursor, under whatever name."""
    try:
        status = os.fstat(descriptor)
        return status.st_size >= cursor.offset and _fingerprint(descriptor, cursor.offset) == (
            cursor.start_checksum,
            cursor.end_checksum,
        )
    except OSError:
        return False


def unpacks_to(descriptor: int, path: str, cursor: LogCursor, stop: Callable[[], bool]) -> bool:
    """Return whether a file, compressed since, is what the cursor was taken in."""
    size = min(FINGERPRINT, cursor.offset)
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    first = last = b""
    passed = 0
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        stream, _ = text_stream(Descriptor(descriptor, path), path)
        while passed < cursor.offset and not stop():
            count = stream.readinto(view[: min(BLOCK, cursor.offset - passed)])
            if not count:
                return False
            passed += count
            if len(first) < size:
                first = (first + buffer[:count])[:size]
                if len(first) == size and zlib.crc32(first) != cursor.start_checksum:
                    return False
            last = (last + buffer[max(0, count - size) : count])[-size:]
    except (UnreadableError, OSError):
        return False
    return passed == cursor.offset and zlib.crc32(last) == cursor.end_checksum
