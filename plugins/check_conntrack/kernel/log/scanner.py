"""Search a byte stream for the kernel's messages of lost connections.

Large reads into one buffer, a search for the few strings that every message holds, and only the
lines around a hit are parsed. Memory is bounded by that buffer, whatever the stream holds.
"""

from __future__ import annotations

import re
from itertools import chain

from ..reasons import UnreadableError
from . import loss_notices
from .events import Event, fold, short
from .messages import NEEDLES, Kind
from .syslog import entry_bounds, kernel_line, parse_messages, parse_repetition, parse_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo
    from typing import Callable

    from .decompress import Stream
    from .syslog import KernelLine

BLOCK = 1 << 18
"""Bytes per read: the second search finds them in the processor's cache."""
LONGEST_LINE = 1 << 15
"""Bytes of a line that can hold a message. Messages end at 1024; a daemon may wrap them in JSON."""
MOST_EVENTS = 20000
"""Events kept one by one; beyond it older ones are folded together."""
MOST_HOSTS = 8
SHORT = 512
"""Bytes of a line that hold its time."""
LARGE = 4 << 20
"""Bytes from which libc's memmem pays for the import of ctypes.

Searching 512 MiB for two strings in blocks took 0.42 to 0.64 s with memmem, 1.6 to 2.1 s with
bytearray.find (Python 3.11, glibc 2.36, two shared cores); `grep -c` took 0.73 s.
"""
_DATED = 200
"""Lines that are searched for the first date."""
_SAMPLED = 20
"""Lines at the beginning, and at the end, that are searched for the kernel's own and its hosts."""
_TAIL = 4096
"""Bytes before the end that are searched for the last date."""
_TAGGED = 16
"""Lines of a block with the word kernel in them that are tested."""
_FIELD = re.compile(rb"[ \t\"{}]|[A-Z0-9_]+=")
"""The beginning of a line that may be one of an entry's several lines."""
_BREAKS = re.compile(rb"\r+|\0{2,}")


class Scanner:
    """The search through one stream.

    After run():
    events: of complete lines. pending: of a last line without an end.
    kernel_lines: a line of the kernel's own was read. hosts: names in such lines.
    first, last: times of the first and the last dated line, None where none is dated.
    read: bytes searched. held: those of them after the last line's end. midline: the end is within
    a line longer than LONGEST_LINE.
    complete: the end was reached. timed_out: `stop` said True before.
    losses: what the log says of lines that it lost.
    previous: the event of the last line, which "last message repeated" would speak of.
    """

    def __init__(
        self, path: str, family: str, reference: float, zone: tzinfo | None = None
    ) -> None:
        self.events: list[Event] = []
        self.pending: list[Event] = []
        self.kernel_lines = False
        self.hosts: dict[str, None] = {}
        self.first: float | None = None
        self.last: float | None = None
        self.read = 0
        self.held = 0
        self.midline = False
        self.complete = True
        self.timed_out = False
        self.losses: list[loss_notices.Loss] = []
        self.previous: Event | None = None
        self.glance = False
        """Stop at the first line of the kernel's own."""
        self._path = path
        self._family = family
        self._reference = reference
        self._zone = zone
        self._find: Callable[[bytes, int, int], int] = b"".find
        self._undated = 0
        self._sampled = 0
        self._tail = b""
        self._watch = loss_notices.LossWatch()

    def run(self, stream: Stream, stop: Callable[[], bool], skip: int = 0) -> None:
        """Search the stream after `skip` bytes. Raises UnreadableError."""
        buffer = bytearray(LONGEST_LINE + BLOCK)
        view = memoryview(buffer)
        self._find = buffer.find
        held = 0
        try:
            while True:
                if stop():
                    self.complete, self.timed_out = False, True
                    break
                count = stream.readinto(view[held : held + BLOCK])
                if not count:
                    self._finish(bytes(buffer[:held]))
                    break
                if skip >= count:
                    skip -= count
                    continue
                if skip:
                    buffer[: count - skip] = buffer[skip:count]
                    count, skip = count - skip, 0
                if self.read <= LARGE < self.read + count:
                    self._find = _fast_find(buffer)
                self.read += count
                held = self._block(buffer, held + count)
                if self.glance and self.kernel_lines:
                    break
                if len(self.events) > MOST_EVENTS:
                    self.events = fold(self.events, MOST_EVENTS // 2)
        except UnreadableError:
            self.complete = False
            self._finish(bytes(buffer[:held]))
            raise
        finally:
            self.held = held

    # --- blocks and lines

    def _block(self, buffer: bytearray, end: int, begin: int = 0) -> int:
        """Search the complete lines of the buffer; return how much is held over at its front."""
        if self.midline:
            begin = _line_after(buffer, end)
            if begin < 0:
                return 0
            self.midline = False
            self.previous = None
        stop = buffer.rfind(b"\n", begin, end) + 1
        if stop:
            stop = _entry_start(buffer, begin, stop)
        if stop:
            self._sample(buffer, begin, stop)
            self._lines(buffer, begin, stop)
            self._tail = bytes(buffer[max(begin, stop - _TAIL) : stop])
        else:
            stop = begin
        if end - stop > LONGEST_LINE:
            # A crash may leave a long run of NUL before a line.
            after = buffer.rfind(b"\0", stop, end) + 1
            if _split_objects(buffer, stop, end):
                return self._block(buffer, end, stop)
            if not after or end - after > LONGEST_LINE:
                self.midline = True
                return 0
            stop = after
        held = end - stop
        if stop:
            buffer[:held] = buffer[stop:end]
        return held

    def _lines(self, buffer: bytearray, begin: int, stop: int) -> None:
        starts: dict[int, int] = {}
        for needle in NEEDLES:
            self._search(buffer, begin, stop, needle, starts)
        if self.previous is not None:
            self._repetitions(buffer, begin, stop)
        last = buffer.rfind(b"\n", begin, stop - 1) + 1 or begin
        if self._watch.wants(self.read, bytes(buffer[last : last + SHORT])):
            self._find_losses(buffer, begin, stop)
        done = begin
        for start in sorted(starts):
            if start < done:
                continue  # a line of the entry before it
            first, done = entry_bounds(buffer, begin, stop, start, starts[start])
            for event in self._events(bytes(buffer[first:done])):
                self.events.append(event)
                self.previous = event
            if self.previous is not None:
                self._repetitions(buffer, starts[start] + 1, stop)

    def _find_losses(self, buffer: bytearray, begin: int, stop: int) -> None:
        """Find what the log says of lines that it lost."""
        starts: dict[int, int] = {}
        for needle in loss_notices.NEEDLES:
            self._search(buffer, begin, stop, needle, starts)
        for start, line_end in starts.items():
            first = buffer.rfind(b"\n", begin, max(begin, start - 1)) + 1 or begin
            before = bytes(buffer[first : min(start, first + SHORT)])
            for text in _texts(bytes(buffer[start:line_end])):
                loss = loss_notices.parse_loss(
                    text, before.decode("utf-8", "replace"), self._reference, self._zone
                )
                if loss is not None:
                    self.losses = loss_notices.with_loss(self.losses, loss)

    def _search(
        self, buffer: bytearray, begin: int, stop: int, needle: bytes, starts: dict[int, int]
    ) -> None:
        """Add the lines that hold the needle: where each begins and ends."""
        find = self._find
        at = find(needle, begin, stop)
        while at >= 0:
            start = buffer.rfind(b"\n", begin, at) + 1 or begin
            line_end = buffer.find(b"\n", at, stop)
            if line_end - start > LONGEST_LINE:
                if _split_objects(buffer, start, line_end):
                    continue
                start = max(start, buffer.rfind(b"\0", start, at) + 1)
            if line_end - start <= LONGEST_LINE:
                starts[start] = line_end
            at = find(needle, line_end, stop)

    def _repetitions(self, buffer: bytearray, begin: int, stop: int) -> None:
        """Count the lines "last message repeated" that follow the previous event directly."""
        while self.previous is not None and begin < stop:
            line_end = buffer.find(b"\n", begin, stop)
            repetition = None
            if line_end - begin <= LONGEST_LINE:
                [line] = _texts(bytes(buffer[begin:line_end]))[:1]
                repetition = parse_repetition(line, self.previous.host, self._reference, self._zone)
            if repetition is None:
                self.previous = None
                return
            times, stamp = repetition
            if times:
                # A repeated notice stands for its number of suppressed messages each time.
                notice = self.previous.kind is Kind.SUPPRESSED
                self.events.append(
                    self.previous._replace(
                        times=times * (self.previous.times if notice else 1),
                        time=stamp.time,
                        slack=stamp.slack,
                        monotonic=None,
                    )
                )
            begin = line_end + 1

    def _events(self, raw: bytes) -> Iterator[Event]:
        lines = (parse_messages(text, self._reference, self._zone) for text in _texts(raw))
        for line in chain.from_iterable(lines):
            self.kernel_lines = True
            self._add_host(line.host)
            message = line.message
            yield Event(
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
        """Look at the last line or entry, which may have no end yet, and for the last date."""
        if rest and not self.midline:
            self._sample(rest, 0, len(rest))
            events, previous = self.events, self.previous
            self.events = self.pending
            buffer = bytearray(rest + b"\n")
            self._find = buffer.find
            self._lines(buffer, 0, len(buffer))
            self.events, self.previous = events, previous
        lines = [*self._tail.split(b"\n"), *rest[-_TAIL:].split(b"\n")]
        for raw in reversed(lines):
            self.last = self._time_of(raw)
            if self.last is not None:
                break
        for raw in lines[-_SAMPLED:]:
            self._test_kernel(raw)

    # --- samples

    def _sample(self, buffer: bytes | bytearray, begin: int, stop: int) -> None:
        """Look for the first date, the kernel's own lines and its hosts among the first lines."""
        if self.first is None and self._undated < _DATED:
            self._find_date(buffer, begin, stop)
        at = begin
        while self._sampled < _SAMPLED and at < stop:
            line_end = buffer.find(b"\n", at, stop)
            line_end = stop if line_end < 0 else line_end
            self._test_kernel(bytes(buffer[at : min(line_end, at + LONGEST_LINE)]))
            self._sampled += 1
            at = line_end + 1
        if self.kernel_lines:
            return
        at = begin
        for _ in range(_TAGGED):
            at = buffer.find(b"kernel", at, stop)
            if at < 0:
                return
            start = buffer.rfind(b"\n", begin, at) + 1 or begin
            line_end = buffer.find(b"\n", at, stop)
            line_end = stop if line_end < 0 else line_end
            if line_end - start <= LONGEST_LINE and self._test_kernel(
                bytes(buffer[start:line_end])
            ):
                return
            at = line_end

    def _find_date(self, buffer: bytes | bytearray, begin: int, stop: int) -> None:
        at = begin
        while at < stop and self.first is None and self._undated < _DATED:
            line_end = buffer.find(b"\n", at, stop)
            line_end = stop if line_end < 0 else line_end
            self._undated += 1
            self.first = self._time_of(bytes(buffer[at : min(line_end, at + LONGEST_LINE)]))
            at = line_end + 1

    def _time_of(self, raw: bytes) -> float | None:
        """Return when a line was written; None where it does not tell."""
        for text in _texts(raw):
            time = parse_time(text, self._reference, self._zone)
            if time is None and "{" in text:
                line = self._kernel_line(text)
                time = line.time if line else None
            if time is not None:
                return time
        return None

    def _kernel_line(self, text: str) -> KernelLine | None:
        return kernel_line(text, self._reference, self._zone)

    def _test_kernel(self, raw: bytes) -> bool:
        for text in _texts(raw):
            line = self._kernel_line(text)
            if line is not None:
                self.kernel_lines = True
                self._add_host(line.host)
        return self.kernel_lines

    def _add_host(self, host: str | None) -> None:
        if host and len(self.hosts) < MOST_HOSTS:
            self.hosts[short(host)] = None


def _line_after(buffer: bytearray, end: int) -> int:
    """Return where the line after an overlong one begins; -1 where it does not end."""
    newline = buffer.find(b"\n", 0, end)
    after = buffer.rfind(b"\0", 0, newline if newline >= 0 else end) + 1
    return after or (newline + 1 if newline >= 0 else -1)


def _split_objects(buffer: bytearray, begin: int, end: int) -> bool:
    """Put each object of an overlong JSON array on a line of its own; return whether it is one."""
    if buffer.find(b"}", begin, end) < 0:
        return False
    data = bytes(buffer[begin:end])
    lines = data.replace(b"},{", b"}\n{").replace(b"}, {", b"}\n {")
    buffer[begin:end] = lines
    return lines != data


def _entry_start(buffer: bytearray, begin: int, stop: int) -> int:
    """Return where the last entry begins if it has several lines and may go on, else `stop`."""
    last = buffer.rfind(b"\n", begin, stop - 1) + 1 or begin
    if not _FIELD.match(buffer, last):
        return stop
    first, _ = entry_bounds(buffer, begin, stop, last, stop - 1)
    return first if begin < first < last else stop


def _texts(raw: bytes) -> list[str]:
    """Return the texts in a line: without byte order mark and NUL, split where a CR overwrites.

    An entry of several lines is one text.
    """
    if b"\n" in raw:
        pieces = [raw.translate(None, b"\r\0")]
    elif b"\r" in raw or b"\0" in raw:
        # Where every other byte is NUL, it is UTF-16 within another text, and was not searched.
        pieces = [piece for piece in _BREAKS.split(raw) if piece.count(0) * 3 < len(piece)]
        pieces = [piece.replace(b"\0", b"") for piece in pieces]
    else:
        pieces = [raw]
    return [piece.decode("utf-8", "replace").lstrip("\ufeff") for piece in pieces if piece] or [""]


def _fast_find(buffer: bytearray) -> Callable[[bytes, int, int], int]:
    """Return the equivalent of buffer.find by libc's memmem, where there is one."""
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
