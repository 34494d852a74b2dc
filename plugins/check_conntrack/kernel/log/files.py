"""Log files: current, rotated, compressed, and standard input.

A log of a gigabyte is searched about as fast as grep does: large reads into one buffer, a search
for the few words that every message of interest holds, and only the lines around a hit are looked
at. Memory is bounded by that buffer, whatever the file holds. What was searched before is not
searched again: a LogCursor, a plain value, remembers how far, and finds that place again when the
log has been rotated since.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import zlib

from .. import reasons
from ..coverage import Coverage, Span
from ..namedtuple import NamedTuple
from ..reasons import SourceProblem
from .events import Event, fold, from_plain, merge, short, to_plain
from .messages import Kind
from .syslog import parse_line, parse_repetition, parse_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Callable

BLOCK = 1 << 18
"""Bytes per read: the second search finds them in the processor's cache."""
LONGEST_LINE = 8192
"""Bytes of a line that can be one of the kernel's, whose messages end at 1024 (rsyslog: 8 KiB)."""
FINGERPRINT = 1024
"""Bytes at a file's beginning, and before a cursor, that a file is known again by."""
MOST_EVENTS = 20000
"""Events held one by one; beyond it older ones are folded together."""
XZ_MEMORY = 80 << 20
"""Bytes that unpacking xz may take: of ``xz -9`` it takes 65 MiB."""
STANDARD_INPUT = "-"
ZSTD = ("compression.zstd", "backports.zstd", "pyzstd")
"""Libraries with the manners of bz2; zstandard's decompressobj knows no bound on its output."""

# Every message of interest holds one of these: two, because no string is common to all of them.
# The longer a string, the faster it is looked for.
_NEEDLES = (b"conntrack", b"s suppressed")
LARGE = 4 << 20
"""Bytes from which libc's memmem is worth the import of ctypes. It takes half the time."""
# Also of RFC 5424, and of what rsyslog received in it. The first is rarely other programs' word.
_KERNEL_TAGS = (b" kernel: ", b" kernel ")
_KERNEL_LINE = re.compile(
    # Up to the tag a line of the kernel's has no colon but those of its time (and of an IPv6 host).
    rb"\S[^\n]{0,300}?(?<!:) kernel: |(?:<[0-7]>)?\[ *[0-9]+\.[0-9]{6}\]"
    rb"|<[0-7]>1 \S{1,64} \S{1,255} kernel "
    rb"|(?:<[0-7]>)?(?:[A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2}T\S{8,24})"
    rb" \S{0,254}[^\s:] kernel "
)
_ROTATED = re.compile(
    r"(?:\.(?P<number>[0-9]{1,6})|[-.](?P<date>[0-9]{4}-?[0-9]{2}-?[0-9]{2}(?:[-_T]?[0-9]{1,10})?))"
    r"(?:\.(?:gz|xz|lzma|bz2|zst))?"
)


class Unreadable(Exception):  # noqa: N818 - it is what is said of the file
    """A file that cannot be read, or not further: path, reason and remedy."""

    def __init__(self, path: str, reason: str, detail: str = "") -> None:
        """Hold the problem."""
        super().__init__(f"{path}: {reason}")
        self.problem = SourceProblem(path, reason, detail)


class LogCursor(NamedTuple):
    """How far a log has been searched."""

    device: int
    inode: int
    offset: int
    """Bytes; always the beginning of a line, but with ``midline``."""
    head: int
    """Checksum of the first FINGERPRINT bytes, or as many as there were before ``offset``."""
    tail: int
    """Checksum of the last FINGERPRINT bytes before ``offset``, or as many as there were."""
    midline: bool = False
    """The place is within a line longer than LONGEST_LINE."""
    kernel_lines: bool = False
    """Lines of the kernel's own were seen before it."""
    latest: float = 0.0
    """When the file was last changed, in seconds since the epoch."""
    last: Event | None = None
    """The event of the line right before, which "last message repeated" would speak of."""


class LogReading(NamedTuple):
    """What a log has shown."""

    path: str
    events: tuple[Event, ...] = ()
    """Events of complete lines after the cursor handed in. To be remembered beside the new
    cursor."""
    pending: tuple[Event, ...] = ()
    """Events of a last line that has no end yet: to be counted, not remembered, for the next run
    finds them again."""
    cursor: LogCursor | None = None
    """To be remembered; None where the next run has to begin anew."""
    followed: bool = False
    """The cursor handed in was found again: what was remembered with it is not in ``events``.
    Otherwise ``events`` may hold it again, and ``reconcile`` brings the two together."""
    complete: bool = True
    """False when the reading was stopped, or a file could not be read to its end."""
    kernel_lines: bool = False
    """Lines of the kernel's own were seen; a file with others only tells nothing."""
    read: int = 0
    """Bytes searched, after decompression."""
    files: tuple[str, ...] = ()
    """What was read, oldest first."""
    problems: tuple[SourceProblem, ...] = ()
    cut: bool = False
    """The time ended before the reading did: what was not found may still be there."""
    coverage: Coverage = Coverage("")
    """The spans that the log shows, and why not more."""
    empty: bool = False
    """There was not a byte in it, nor in what else was read. Then ``kernel_lines`` says what
    earlier runs have seen of the log, or what was rotated out of it shows."""


# -- opening -------------------------------------------------------------------------------------


def open_log(path: str) -> int:
    """Open a log for reading; return a descriptor of a regular file.

    A FIFO, a device, a directory or a symbolic link is refused, and nothing is waited for. Raises
    Unreadable.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError:
        raise Unreadable(path, reasons.INVALID_NAME) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise Unreadable(path, reasons.NOT_A_FILE, _what(mode))


def _what(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return name
    return "something else"


def _unreadable(path: str, error: OSError) -> Unreadable:
    code = error.errno
    if code == errno.ENOENT:
        return Unreadable(path, reasons.NOT_FOUND)
    if code == errno.ELOOP:
        return Unreadable(path, reasons.SYMBOLIC_LINK)
    if code in (errno.EACCES, errno.EPERM):
        return Unreadable(path, reasons.PERMISSION_DENIED)
    if code in (errno.ENXIO, errno.ENODEV):
        return Unreadable(path, reasons.NOT_A_FILE, "a socket or a device")
    return Unreadable(path, reasons.READ_ERROR, os.strerror(code or errno.EIO))


# -- compression ---------------------------------------------------------------------------------


class _Plain:
    """The bytes of a descriptor as they are."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path

    def readinto(self, view: memoryview) -> int:
        try:
            return os.readv(self._descriptor, [view])
        except OSError as error:
            raise _unreadable(self._path, error) from None


class _Packed:
    """The bytes a compressed file unpacks to, a bounded number at a time.

    ``fresh`` makes a decompressor in the manner of bz2 and lzma: decompress(data, max_length),
    eof, needs_input, unused_data. Files may hold several streams one after another.
    """

    def __init__(self, source: _Plain, path: str, fresh: Callable[[], Any]) -> None:
        self._source = source
        self._path = path
        self._fresh = fresh
        self._unpacker = fresh()
        self._begun = False
        self._ended = False
        self._buffer = bytearray(1 << 16)

    def readinto(self, view: memoryview) -> int:
        while True:
            data = self._more()
            if data is None:
                return 0
            try:
                out = self._unpacker.decompress(data, len(view))
            except Exception as error:
                # Each library has an error of its own; liblzma's says what is wrong in words alone.
                if "memory usage limit" in str(error).lower():
                    raise self._too_large() from None
                raise self._broken(f"damaged ({type(error).__name__})") from None
            if out:
                view[: len(out)] = out
                return len(out)
            if self._ended and not self._unpacker.eof:
                raise self._broken("end in the middle")

    def _more(self) -> bytes | None:
        """Return what the decompressor is to be given next, None at the end of all streams."""
        data = b""
        if self._unpacker.eof:
            data = self._unpacker.unused_data.lstrip(b"\0")  # padding, as tar and xz allow
            self._unpacker = self._fresh()
            self._begun = bool(data)
        if not data and not self._ended and self._unpacker.needs_input:
            count = self._source.readinto(memoryview(self._buffer))
            self._ended = not count
            data = bytes(self._buffer[:count])
            if not self._begun:
                data = data.lstrip(b"\0")
                self._begun = bool(data)
        if self._ended and not self._begun:
            return None
        # At the end of the file there may still be output that did not fit before.
        return data

    def _too_large(self) -> Unreadable:
        return Unreadable(self._path, reasons.UNPACK_MEMORY, str(XZ_MEMORY >> 20))

    def _broken(self, how: str) -> Unreadable:
        return Unreadable(self._path, reasons.DAMAGED, how)


class _Gunzip:
    """zlib's decompressor with the manners of bz2's; the gzip module costs its import."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(31)
        self._left = b""

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, most: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, most)


def _bz2() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> Any:
    import lzma

    return lzma.LZMADecompressor(memlimit=XZ_MEMORY)


def _zstd() -> Any:
    import importlib

    for name in ZSTD:
        try:
            return importlib.import_module(name).ZstdDecompressor()
        except ImportError:
            continue
    raise ImportError


_MAGIC: tuple[tuple[bytes, str, Callable[[], Any]], ...] = (
    (b"\x1f\x8b", "gzip", _Gunzip),
    (b"\xfd7zXZ\0", "xz", _xz),
    (b"BZh", "bzip2", _bz2),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
)


def _packing(start: bytes, path: str) -> tuple[str, Callable[[], Any]] | None:
    """Return name and decompressor by a file's first bytes: its name may lie.

    Raises Unreadable where this Python cannot unpack it.
    """
    if start.startswith(b"LPKSHHRH"):
        raise Unreadable(path, reasons.JOURNAL_FILE)
    for magic, name, fresh in _MAGIC:
        if start.startswith(magic):
            try:
                fresh()
            except ImportError:
                raise Unreadable(path, reasons.CANNOT_UNPACK, name) from None
            return name, fresh
    return None


# -- scanning ------------------------------------------------------------------------------------


def _fast_find(buffer: bytearray) -> Callable[[bytes, int, int], int]:
    """Return the equal of ``buffer.find`` by libc's memmem, where there is one."""
    try:
        import ctypes

        memmem = ctypes.CDLL(None).memmem
        base = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    except (ImportError, OSError, AttributeError):
        return buffer.find
    memmem.restype = ctypes.c_void_p
    size_t = ctypes.c_size_t
    memmem.argtypes = (ctypes.c_void_p, size_t, ctypes.c_char_p, size_t)

    def find(needle: bytes, begin: int, end: int) -> int:
        at: int | None = memmem(base + begin, end - begin, needle, len(needle))
        return -1 if at is None else at - base

    return find


class _Scan:
    """The search through one stream of bytes."""

    def __init__(self, path: str, family: str, reference: float) -> None:
        self.events: list[Event] = []
        self.pending: list[Event] = []
        self.kernel_lines = False
        self.complete = True
        self.cut = False
        self.read = 0
        self.held = 0
        self.midline = False
        self.last: Event | None = None
        self.glance = False  # the first line of the kernel's is all that is wanted
        self._path = path
        self._family = family
        self._reference = reference
        self._find: Callable[[bytes, int, int], int] = b"".find

    def run(
        self,
        readinto: Callable[[memoryview], int],
        stop: Callable[[], bool],
        skip: int = 0,
    ) -> None:
        """Search all that ``readinto`` gives after ``skip`` bytes; raise what it raises."""
        buffer = bytearray(LONGEST_LINE + BLOCK)
        view = memoryview(buffer)
        self._find = buffer.find
        held = 0
        try:
            while True:
                if stop():
                    self.complete = False
                    self.cut = True
                    break
                count = readinto(view[held : held + BLOCK])
                if not count:
                    self._finish(bytes(buffer[:held]))
                    break
                if skip >= count:
                    skip -= count
                    continue
                if skip:
                    buffer[: count - skip] = buffer[skip:count]
                    count -= skip
                    skip = 0
                if self.read <= LARGE < self.read + count:
                    self._find = _fast_find(buffer)
                self.read += count
                held = self._block(buffer, held + count)
                if self.glance and self.kernel_lines:
                    break
                if len(self.events) > MOST_EVENTS:
                    self.events = fold(self.events, MOST_EVENTS // 2)
        except Unreadable:
            self.complete = False
            self._finish(bytes(buffer[:held]))
            raise
        finally:
            self.held = held

    def _block(self, buffer: bytearray, end: int) -> int:
        """Search the complete lines of the buffer; return how much is held over at its front."""
        begin = 0
        if self.midline:
            newline = buffer.find(b"\n", 0, end)
            if newline < 0:
                return 0
            begin = newline + 1
            self.midline = False
            self.last = None
        stop = buffer.rfind(b"\n", begin, end) + 1
        if stop:
            if not self.kernel_lines:
                self.kernel_lines = _shows_kernel(buffer, begin, stop)
            self._lines(buffer, begin, stop)
        else:
            stop = begin
        held = end - stop
        if held > LONGEST_LINE:
            self.midline = True
            return 0
        if stop:
            buffer[:held] = buffer[stop:end]
        return held

    def _lines(self, buffer: bytearray, begin: int, stop: int) -> None:
        starts: set[int] = set()
        for needle in _NEEDLES:
            self._search(buffer, begin, stop, needle, starts)
        if self.last is not None:
            self._repetitions(buffer, begin, stop)
        for start in sorted(starts):
            line_end = buffer.find(b"\n", start, stop)
            event = self._event(buffer[start:line_end])
            if event is not None:
                self.events.append(event)
                self.last = event
                self._repetitions(buffer, line_end + 1, stop)

    def _search(
        self, buffer: bytearray, begin: int, stop: int, needle: bytes, starts: set[int]
    ) -> None:
        """Add the beginnings of the lines that hold the needle."""
        find = self._find
        at = find(needle, begin, stop)
        while at >= 0:
            start = buffer.rfind(b"\n", begin, at) + 1 or begin
            line_end = buffer.find(b"\n", at, stop)
            if line_end - start <= LONGEST_LINE:
                starts.add(start)
            at = find(needle, line_end, stop)

    def _repetitions(self, buffer: bytearray, begin: int, stop: int) -> None:
        """Count the lines "last message repeated" that follow the last event right away."""
        while self.last is not None and begin < stop:
            line_end = buffer.find(b"\n", begin, stop)
            found = None
            if line_end - begin <= LONGEST_LINE:
                line = buffer[begin:line_end].decode("utf-8", "replace")
                found = parse_repetition(line, self.last.host, self._reference)
            if found is None:
                self.last = None
                return
            times, stamp = found
            if times:
                self.events.append(
                    self.last._replace(
                        # Of a notice's number, that many times as much was swallowed.
                        times=times * (self.last.times if self._is_notice() else 1),
                        time=stamp.time,
                        slack=stamp.slack,
                        monotonic=None,
                    )
                )
            begin = line_end + 1

    def _is_notice(self) -> bool:
        return self.last is not None and self.last.kind is Kind.SUPPRESSED

    def _event(self, raw: bytes | bytearray) -> Event | None:
        line = parse_line(raw.decode("utf-8", "replace"), self._reference)
        if line is None:
            return None
        self.kernel_lines = True
        message = line.message
        return Event(
            message.kind,
            message.times,
            line.time,
            line.slack,
            line.monotonic,
            None,
            message.netns,
            message.zone,
            line.host,
            self._path,
            self._family,
        )

    def _finish(self, rest: bytes) -> None:
        """Look at what stands after the last newline."""
        if rest and not self.midline:
            if not self.kernel_lines:
                self.kernel_lines = _shows_kernel(rest, 0, len(rest))
            event = self._event(rest)
            if event is not None:
                self.pending.append(event)


def _shows_kernel(buffer: bytes | bytearray, begin: int, stop: int) -> bool:
    """Tell whether a line of the kernel's own is among the first lines worth a look."""
    if _KERNEL_LINE.match(buffer, begin, stop):
        return True
    for tag in _KERNEL_TAGS:
        at = begin
        for _ in range(16):
            at = buffer.find(tag, at, stop)
            if at < 0:
                break
            start = buffer.rfind(b"\n", begin, at) + 1 or begin
            if _KERNEL_LINE.match(buffer, start, stop):
                return True
            at += 1
    return False


# -- reading -------------------------------------------------------------------------------------


def read_log(
    path: str,
    now: float,
    stop: Callable[[], bool],
    cursor: LogCursor | None = None,
    start: float | None = None,
) -> LogReading:
    """Search one log and what was rotated out of it; return what it has shown.

    ``now`` in seconds since the epoch; ``stop`` is asked between blocks, and ends the reading
    once it says True. With ``cursor``, only what was written since: the rest of the file it was
    taken in, found again under the name that rotation gave it, then the files in between, then
    the log. Without, or when that file is gone: the log, and rotated files changed at or after
    ``start`` (None: the log alone; it is then all that is read). A log that is empty is looked for
    lines of the kernel where it was rotated to. What could not be read stands in ``problems``; what
    could be read counts. Raises nothing.
    """
    try:
        descriptor = open_log(path)
    except Unreadable as error:
        if not os.path.lexists(path) and (cursor is not None or start is not None):
            # Rotated away, and the next line has yet to be written.
            reading = _read_all(path, None, now, stop, cursor, start)
            if reading.files:
                return reading._replace(problems=(*reading.problems, error.problem))
        return _nothing(path, cursor, error.problem)
    try:
        return _read_all(path, descriptor, now, stop, cursor, start)
    except OSError as error:
        return _nothing(path, cursor, _unreadable(path, error).problem)
    finally:
        os.close(descriptor)


def _nothing(path: str, cursor: LogCursor | None, problem: SourceProblem) -> LogReading:
    """Return a reading that changes nothing of what is remembered."""
    return LogReading(
        path,
        cursor=cursor,
        followed=cursor is not None,
        complete=False,
        problems=(problem,),
        coverage=Coverage(path, (), problem.reason, problem.detail),
    )


class _Parts(NamedTuple):
    """What several files have shown together."""

    scans: list[_Scan]
    problems: list[SourceProblem]

    @property
    def complete(self) -> bool:
        return all(scan.complete for scan in self.scans)


def _read_all(
    path: str,
    descriptor: int | None,
    now: float,
    stop: Callable[[], bool],
    cursor: LogCursor | None,
    start: float | None,
) -> LogReading:
    """Read the log, open at ``descriptor``, and before it what rotation made of it."""
    parts = _Parts([], [])
    resumed, older = _plan(path, descriptor, cursor, start, stop, parts.problems)
    followed = resumed is not None
    new = None
    pending: list[Event] = []
    # The log first: when time runs out, what is newest has been seen.
    if descriptor is not None:
        at = cursor if resumed == path else None
        offset = at.offset if at is not None else 0
        found = os.fstat(descriptor)
        scan, problem = _scan_descriptor(path, path, descriptor, offset, now, stop, at)
        parts.scans.append(scan)
        pending = scan.pending
        if problem is None:
            new = _cursor(descriptor, found, offset + scan.read - scan.held, scan)
        else:
            parts.problems.append(problem)
    for name in reversed(older):
        at = cursor if resumed == name else None
        scan, problem = _scan_file(name, path, now, stop, at)
        # A rotated file is not written to any more: its last line is all there will be of it.
        scan.events += scan.pending
        parts.scans.append(scan)
        if problem is not None:
            parts.problems.append(problem)
    parts.scans.reverse()
    events = [event for scan in parts.scans for event in scan.events]
    if len(events) > MOST_EVENTS:
        events = fold(events, MOST_EVENTS // 2)
    read = sum(scan.read for scan in parts.scans)
    empty = not read and new is not None and not new.offset and parts.complete
    kernel_lines = any(scan.kernel_lines for scan in parts.scans)
    cut = any(scan.cut for scan in parts.scans)
    if cursor is not None and (followed or empty):
        kernel_lines = kernel_lines or cursor.kernel_lines
    if empty and not kernel_lines and start is not None:
        # Just rotated, or never written to? What was rotated out of it tells.
        kernel_lines, cut = _shown_before(path, now, stop, parts.problems)
    if new is not None:
        new = new._replace(kernel_lines=kernel_lines)
    if cut:
        parts.problems.append(SourceProblem(path, reasons.TIMED_OUT))
    if older and stop():
        # The next run takes up the same work: what was found counts, and is not remembered.
        pending, events, new, followed = [*events, *pending], [], cursor, True
    return LogReading(
        path,
        tuple(events),
        tuple(pending),
        new,
        followed,
        parts.complete,
        kernel_lines,
        read,
        (*older, path) if descriptor is not None else tuple(older),
        tuple(parts.problems),
        cut,
        _coverage(path, now, parts, events, kernel_lines=kernel_lines, empty=empty),
        empty,
    )


def _coverage(
    path: str,
    now: float,
    parts: _Parts,
    events: Sequence[Event],
    *,
    kernel_lines: bool,
    empty: bool,
) -> Coverage:
    hosts = tuple(dict.fromkeys(short(event.host) for event in events if event.host))
    if not kernel_lines:
        return Coverage(path, (), reasons.EMPTY if empty else reasons.NO_KERNEL_LINES)
    if parts.problems:
        return Coverage(path, (), *parts.problems[0][1:], parts.problems[0].path, hosts)
    begun = oldest(path, now)
    return Coverage(path, (Span(begun or 0.0, now),), hosts=hosts)


def _shown_before(
    path: str, now: float, stop: Callable[[], bool], problems: list[SourceProblem]
) -> tuple[bool, bool]:
    """Tell whether what was rotated out of a log shows lines of the kernel, and if time ended."""
    refused = []
    for name in reversed(rotated(path, 0.0)):
        scan = _Scan(name, path, now)
        scan.glance = True
        try:
            descriptor = open_log(name)
        except Unreadable as error:
            refused.append(error.problem)
            continue
        try:
            problem = _search(scan, descriptor, name, 0, stop)
        finally:
            os.close(descriptor)
        if scan.kernel_lines or scan.cut:
            return scan.kernel_lines, not scan.kernel_lines
        refused += [problem] if problem else []
    problems += refused
    return False, False


def _plan(
    path: str,
    descriptor: int | None,
    cursor: LogCursor | None,
    start: float | None,
    stop: Callable[[], bool],
    problems: list[SourceProblem],
) -> tuple[str | None, list[str]]:
    """Return (file the cursor was found in, rotated files to read, oldest first)."""
    if cursor is not None:
        if descriptor is not None and _stands_at(descriptor, cursor):
            # Of a log that was empty nothing is known again: since, it may have been copied and
            # truncated. Its copy then was changed after it.
            since = max(cursor.latest, start or 0.0)
            copies = [] if cursor.offset else rotated(path, since)
            return (None, copies) if copies else (path, [])
        names = rotated(path, 0.0)
        for at in range(len(names) - 1, -1, -1):
            if _is_former(names[at], cursor, stop, problems):
                return names[at], names[at:]
    if cursor is not None and start is not None:
        start = min(start, cursor.latest)
    return None, [] if start is None else rotated(path, start)


def _scan_file(
    name: str,
    family: str,
    now: float,
    stop: Callable[[], bool],
    resumed: LogCursor | None,
) -> tuple[_Scan, SourceProblem | None]:
    skip = resumed.offset if resumed is not None else 0
    try:
        descriptor = open_log(name)
    except Unreadable as error:
        scan = _Scan(name, family, now)
        scan.complete = False
        return scan, error.problem
    try:
        return _scan_descriptor(name, family, descriptor, skip, now, stop, resumed)
    finally:
        os.close(descriptor)


def _scan_descriptor(
    name: str,
    family: str,
    descriptor: int,
    skip: int,
    now: float,
    stop: Callable[[], bool],
    resumed: LogCursor | None,
) -> tuple[_Scan, SourceProblem | None]:
    # A line was written before the file was last changed: that is how the year of an old,
    # collected log is known.
    scan = _Scan(name, family, min(now, os.fstat(descriptor).st_mtime))
    if resumed is not None:
        scan.midline, scan.last = resumed.midline, resumed.last
    return scan, _search(scan, descriptor, name, skip, stop)


def _search(
    scan: _Scan, descriptor: int, name: str, skip: int, stop: Callable[[], bool]
) -> SourceProblem | None:
    """Search a file after ``skip`` bytes, unpacked where it is packed; return what went wrong."""
    try:
        packing = _packing(os.pread(descriptor, 16, 0), name)
        if packing is None:
            os.lseek(descriptor, skip, os.SEEK_SET)
            scan.run(_Plain(descriptor, name).readinto, stop)
        else:
            scan.run(_Packed(_Plain(descriptor, name), name, packing[1]).readinto, stop, skip)
    except Unreadable as error:
        scan.complete = False
        return error.problem
    except OSError as error:
        scan.complete = False
        return _unreadable(name, error).problem
    return None


def read_stream(
    descriptor: int, now: float, stop: Callable[[], bool], name: str = "standard input"
) -> LogReading:
    """Search a stream such as standard input to its end, or until ``stop`` says True.

    What is compressed is unpacked. A pipe that nobody writes to is not waited for longer than
    ``stop`` allows. Raises nothing.
    """
    scan = _Scan(name, name, now)
    waiting = _Waiting(descriptor, name, stop)
    problems: tuple[SourceProblem, ...] = ()
    try:
        start = waiting.peek(16)
        packing = _packing(start, name)
        if packing is None:
            scan.run(waiting.readinto, stop)
        else:
            scan.run(_Packed(waiting, name, packing[1]).readinto, stop)
    except Unreadable as error:
        scan.complete = False
        problems = (error.problem,)
    if waiting.cut:
        scan.complete = False
    if not scan.complete and not problems:
        problems = (SourceProblem(name, reasons.TIMED_OUT),)
    return LogReading(
        name,
        tuple(scan.events),
        tuple(scan.pending),
        None,
        False,
        scan.complete,
        scan.kernel_lines,
        scan.read,
        (name,),
        problems,
        waiting.cut or scan.cut,
        _stream_coverage(name, now, scan),
        scan.complete and not scan.read,
    )


def _stream_coverage(name: str, now: float, scan: _Scan) -> Coverage:
    hosts = tuple(dict.fromkeys(short(event.host) for event in scan.events if event.host))
    if not scan.complete:
        return Coverage(name, (), reasons.TIMED_OUT)
    if not scan.kernel_lines:
        return Coverage(name, (), reasons.NO_KERNEL_LINES if scan.read else reasons.EMPTY)
    return Coverage(name, (Span(0.0, now),), hosts=hosts)


class _Waiting(_Plain):
    """A descriptor that may have nothing to say for a while."""

    def __init__(self, descriptor: int, path: str, stop: Callable[[], bool]) -> None:
        super().__init__(descriptor, path)
        self._stop = stop
        self._peeked = b""
        self.cut = False

    def peek(self, count: int) -> bytes:
        while len(self._peeked) < count:
            buffer = bytearray(count - len(self._peeked))
            got = self._fill(memoryview(buffer))
            if not got:
                break
            self._peeked += bytes(buffer[:got])
        return self._peeked

    def readinto(self, view: memoryview) -> int:
        if self._peeked:
            count = min(len(view), len(self._peeked))
            view[:count] = self._peeked[:count]
            self._peeked = self._peeked[count:]
            return count
        return self._fill(view)

    def _fill(self, view: memoryview) -> int:
        import select

        poll = select.poll()
        try:
            poll.register(self._descriptor, select.POLLIN)
            while not poll.poll(50):
                if self._stop():
                    self.cut = True
                    return 0
        except OSError as error:
            raise _unreadable(self._path, error) from None
        return super().readinto(view)


# -- positions and rotation ----------------------------------------------------------------------


def _cursor(descriptor: int, found: os.stat_result, offset: int, scan: _Scan) -> LogCursor | None:
    try:
        head, tail = _fingerprint(descriptor, offset)
    except OSError:
        return None
    return LogCursor(
        found.st_dev,
        found.st_ino,
        offset,
        head,
        tail,
        scan.midline,
        scan.kernel_lines,
        found.st_mtime,
        scan.last,
    )


def _fingerprint(descriptor: int, offset: int) -> tuple[int, int]:
    size = min(FINGERPRINT, offset)
    return (
        zlib.crc32(os.pread(descriptor, size, 0)),
        zlib.crc32(os.pread(descriptor, size, offset - size)),
    )


def _stands_at(descriptor: int, cursor: LogCursor) -> bool:
    """Tell whether the file is the one of the cursor, and unchanged up to it."""
    found = os.fstat(descriptor)
    same = (found.st_dev, found.st_ino) == (cursor.device, cursor.inode)
    return same and _holds(descriptor, found, cursor)


def _holds(descriptor: int, found: os.stat_result, cursor: LogCursor) -> bool:
    if found.st_size < cursor.offset:
        return False  # it has shrunk
    try:
        return _fingerprint(descriptor, cursor.offset) == (cursor.head, cursor.tail)
    except OSError:
        return False


def _is_former(
    name: str, cursor: LogCursor, stop: Callable[[], bool], problems: list[SourceProblem]
) -> bool:
    """Tell whether a rotated file is the one of the cursor: moved, copied or compressed."""
    try:
        descriptor = open_log(name)
    except Unreadable:
        return False
    try:
        found = os.fstat(descriptor)
        if found.st_mtime < cursor.latest - 1 and found.st_ino != cursor.inode:
            return False  # it was done with before the cursor was taken
        try:
            packing = _packing(os.pread(descriptor, 16, 0), name)
        except Unreadable as error:
            problems.append(error.problem)
            return False
        if packing is None:
            if not cursor.offset:
                return (found.st_dev, found.st_ino) == (cursor.device, cursor.inode)
            return _holds(descriptor, found, cursor)
        return bool(cursor.offset) and _unpacks_to(
            _Packed(_Plain(descriptor, name), name, packing[1]), cursor, stop
        )
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _unpacks_to(packed: _Packed, cursor: LogCursor, stop: Callable[[], bool]) -> bool:
    size = min(FINGERPRINT, cursor.offset)
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    head = b""
    tail = b""
    passed = 0
    try:
        while passed < cursor.offset and not stop():
            count = packed.readinto(view[: min(BLOCK, cursor.offset - passed)])
            if not count:
                return False
            passed += count
            if len(head) < size:
                head = (head + buffer[:count])[:size]
                if len(head) == size and zlib.crc32(head) != cursor.head:
                    return False
            tail = (tail + buffer[max(0, count - size) : count])[-size:]
    except Unreadable:
        return False
    return passed == cursor.offset and zlib.crc32(tail) == cursor.tail


def rotated(path: str, since: float) -> list[str]:
    """Return the paths of what was rotated out of a log and changed since, oldest first.

    NAME.1, NAME.2.gz, NAME-20261121 and the like. Raises nothing: a directory that cannot be
    listed has none.
    """
    folder, name = os.path.split(path)
    found: list[tuple[float, int, str]] = []
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if not entry.name.startswith(name) or len(entry.name) == len(name):
                    continue
                match = _ROTATED.fullmatch(entry.name, len(name))
                if match is None:
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if status.st_mtime >= since:
                    number = -int(match["number"]) if match["number"] else 0
                    found.append((status.st_mtime, number, entry.name))
    except OSError:
        return []
    found.sort()
    return [os.path.join(folder, entry_name) for _, _, entry_name in found]


def oldest(path: str, now: float) -> float | None:
    """Return when a log with what was rotated out of it begins, in seconds since the epoch.

    By the first lines of the oldest file that tells; None where none does. Raises nothing.
    """
    for name in (*rotated(path, 0.0), path):
        try:
            begun = _begun(name, now)
        except (Unreadable, OSError):
            continue
        if begun is not None:
            return begun
    return None


def _begun(name: str, now: float) -> float | None:
    descriptor = open_log(name)
    try:
        reference = min(now, os.fstat(descriptor).st_mtime)
        packing = _packing(os.pread(descriptor, 16, 0), name)
        source = _Plain(descriptor, name)
        buffer = bytearray(LONGEST_LINE)
        reader = source if packing is None else _Packed(source, name, packing[1])
        text = bytes(buffer[: reader.readinto(memoryview(buffer))]).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
    times = (parse_time(line, reference) for line in text.split("\n"))
    return next((told for told in times if told is not None), None)


def expand(patterns: Sequence[str]) -> tuple[tuple[str, ...], tuple[SourceProblem, ...]]:
    """Return the files that names and globs stand for, each once, and what matches nothing.

    ``-`` stays. A name that exists is itself, also with brackets in it. Raises nothing.
    """
    paths: dict[str, None] = {}
    problems = []
    for pattern in patterns:
        if pattern == STANDARD_INPUT or os.path.lexists(pattern):
            paths[pattern] = None
            continue
        import glob

        matches = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not matches:
            problems.append(SourceProblem(pattern, reasons.NO_MATCH))
        for match in matches:
            paths[match] = None
    return tuple(paths), tuple(problems)


def reconcile(remembered: Sequence[Event], reading: LogReading) -> tuple[Event, ...]:
    """Return the events of all runs on one log, each once.

    ``remembered`` are those of earlier runs. Where the place was found again they are simply what
    came before; where not, the same lines may have been read again.
    """
    if reading.followed:
        return (*remembered, *reading.events)
    bare = [[event._replace(family="") for event in part] for part in (remembered, reading.events)]
    merged = merge(*bare)
    return tuple(event._replace(family=reading.path) for event in merged)


def cursor_to_plain(cursor: LogCursor) -> list[Any]:
    """Return the cursor as a list that JSON can hold."""
    last = None if cursor.last is None else to_plain(cursor.last)
    return [*cursor[:-1], last]


def cursor_from_plain(plain: object) -> LogCursor:
    """Return the cursor that ``cursor_to_plain`` has written.

    Raises ValueError for anything else.
    """
    if not isinstance(plain, list) or len(plain) != len(LogCursor._fields):
        raise ValueError("not a remembered cursor")
    *numbers, midline, kernel_lines, latest, last = plain
    if (
        not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers)
        or not isinstance(midline, bool)
        or not isinstance(kernel_lines, bool)
        or isinstance(latest, bool)
        or not isinstance(latest, (int, float))
    ):
        raise ValueError("not a remembered cursor")
    device, inode, offset, head, tail = numbers
    event = None if last is None else from_plain(last)
    return LogCursor(device, inode, offset, head, tail, midline, kernel_lines, float(latest), event)
