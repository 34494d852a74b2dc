"""Which sources of the kernel log are read, in which order, and what they show together.

`auto` is the ring buffer, then the journal, then log files, as far as one is needed; a path is a
file with all that was rotated out of it, `-` is standard input.
"""

from __future__ import annotations

import errno
import os
import time

from ..namedtuple import NamedTuple
from ..source import KernelError
from . import events as ev
from . import files, journal, kmsg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Callable

    from ..reader_client import Frame

AUTO = "auto"
FILES = ("/var/log/kern.log", "/var/log/messages", "/var/log/syslog")
RING = "kernel log"
# How something was read, in words.
DIRECTLY, BY_READER = "directly", "by the reader"
_DMESG = "grant CAP_SYSLOG, by --sudo or to the agent's service"


class Known(NamedTuple):
    """How far a log file was read by earlier runs, and what they found in it."""

    position: files.Position
    events: tuple[ev.Event, ...] = ()
    start: float = 0.0
    """Since when all of them are remembered, in seconds since the epoch."""


class Source(NamedTuple):
    """A source that was read: what to call it, and the oldest moment it shows, where that matters.

    `oldest` is in seconds since the epoch, 0 for "since boot", None where it reaches far enough.
    """

    name: str
    oldest: float | None = None


class Evidence(NamedTuple):
    """What the kernel log shows, each event once; `problems` are what could not be read.

    `read` says of everything that was read what it is, how it was got at, and how much it was.
    `gap` is the one of the problems that says how much of the window no source shows.
    """

    events: tuple[ev.Event, ...] = ()
    sources: tuple[Source, ...] = ()
    problems: tuple[ev.Problem, ...] = ()
    known: tuple[tuple[str, Known], ...] = ()
    read: tuple[str, ...] = ()
    gap: ev.Problem | None = None


class _Gathering:
    def __init__(
        self,
        window: ev.Window,
        boot: str,
        known: Mapping[str, Known],
        stop: Callable[[], bool],
        ask: Callable[[Sequence[bytes]], Iterable[Frame]] | None,
    ) -> None:
        self.window = window
        self.boot = boot
        self.remembered = known
        self.stop = stop
        self.ask = ask
        self.parts: list[Sequence[ev.Event]] = []
        self.sources: list[Source] = []
        self.problems: list[ev.Problem] = []
        self.known: dict[str, Known] = {}
        self.short: list[float] = []
        """Where sources begin that were read and do not show the whole window."""
        self.covered: set[str] = set()
        self.read: list[str] = []
        self.gap: ev.Problem | None = None
        self.asked = False

    def _reaches(self, oldest: float | None) -> bool:
        """Tell whether a source that begins then shows the whole window."""
        start = self.window.start
        if start is not None and self.window.boot is not None:
            start += 2 * ev.FUTURE  # it begins before boot; what a boot logs first comes after
        return start is None or (oldest is not None and oldest <= start + CLOCKS)

    def ring(self) -> bool:
        """Read the ring buffer; whether it shows the whole window."""
        clock = kmsg.read_clock()
        try:
            ring = self._ring(clock)
        except (OSError, KernelError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            forbidden = isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EACCES)
            remedy = _DMESG if forbidden else "name log files with --log"
            self.problems.append(ev.Problem(kmsg.PATH, reason or "cannot be read", remedy))
            return False
        how = BY_READER if self.asked else DIRECTLY
        count = f"{ring.records} records, {ring.kernel_records} of the kernel's"
        self.read.append(f"{kmsg.PATH} {how}: {count}")
        if not ring.kernel_records:
            what = "shows no lines of the kernel"
            self.problems.append(ev.Problem(kmsg.PATH, what, "name log files with --log"))
            return False
        self.parts.append(ring.events)
        boot = kmsg.boot_time(clock)
        whole = ring.reaches(None if self.window.boot is not None else self.window.start, boot)
        since_boot = ring.first_sequence == 0 and not ring.lost
        if ring.complete or ring.events:
            self.sources.append(Source(RING, 0 if since_boot else ring.oldest))
        if not ring.complete:
            reason = "was not read to its end within the time"
            self.problems.append(ev.Problem(kmsg.PATH, reason, "raise --timeout"))
        elif since_boot and not whole:
            self.short.append(boot)
        elif not whole:
            reason = "no longer reaches back over the window"
            self.problems.append(ev.Problem(kmsg.PATH, reason, "boot with a larger log_buf_len"))
            if ring.oldest is not None:
                self.short.append(ring.oldest)
        return whole and ring.complete

    def _ring(self, clock: kmsg.Clock) -> kmsg.Ring:
        try:
            descriptor, marker = kmsg.open_kmsg()
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES) or self.ask is None:
                raise
            self.asked = True
            return kmsg.digest(self._asked(self.ask([b"log"])), clock, self.boot)
        try:
            return kmsg.digest(kmsg.read_kmsg(descriptor, self.stop, marker), clock, self.boot)
        finally:
            os.close(descriptor)
            os.close(marker)

    def _asked(self, frames: Iterable[Frame]) -> Iterator[bytes]:
        for frame in frames:
            if (frame.file == "record" and frame.errno == errno.EAGAIN) or self.stop():
                yield kmsg.STOPPED
                return
            if frame.errno:
                raise OSError(frame.errno, os.strerror(frame.errno))
            yield frame.data

    def journal(self) -> bool:
        """Read the journal; whether it shows the whole window."""
        start = self.window.start
        shown = journal.read_journal(journal.journal_arguments(start), self.stop)
        problem = journal.journal_problem(shown, probed=start is None)
        whole = problem is None and self._reaches(shown.oldest)
        if problem is None and not whole:
            # One line from before the window tells: of a volatile journal from a short one, and
            # of silence from no right to hear.
            arguments = journal.journal_arguments(until=start, newest=1)
            probe = journal.read_journal(arguments, self.stop)
            whole = bool(probe.entries)
            if not whole and not shown.entries:
                problem = journal.journal_problem(probe, probed=True)
        if shown.status != journal.MISSING:
            count = f"{shown.entries} entries of the kernel's"
            self.read.append(f"{journal.SOURCE} by {journal.PROGRAM}: {count}")
        self.parts.append(shown.events)
        oldest = None if whole or problem else shown.oldest
        if problem is None or shown.events:
            self.sources.append(Source(journal.SOURCE, oldest))
        if problem is not None:
            self.problems.append(problem)
        if oldest is not None:
            self.short.append(oldest)
        return whole

    def file(self, path: str) -> bool:
        """Read a log file, or standard input; whether it shows lines of the kernel.

        A log without any is no quiet one: it is another program's, or nobody writes it. One that
        is empty may have been rotated just now: then what was seen of it before counts.
        """
        now = self.window.end
        known = None
        if path == files.STANDARD_INPUT:
            reading = files.read_stream(0, now, self.stop)
        elif self.window.start is None:
            if path in self.covered:
                return True  # a glob names what was rotated out of a log beside it
            reading = files.read_log(path, now, self.stop, None, 0.0)
            self.covered.update(reading.files)
        else:
            known = self.remembered.get(path)
            if known and self.window.start < known.start - CLOCKS:
                known = None  # what an earlier, shorter window left out is wanted now
            position = known.position if known else None
            reading = files.read_log(path, now, self.stop, position, self.window.start)
        self.problems += reading.problems
        if reading.files:
            since = " since an earlier run" if reading.followed else ""
            self.read.append(f"{', '.join(reading.files)}: {reading.read} bytes{since}")
        earlier = self._earlier(known.events, reading) if known else ()
        remembered = files.reconcile(earlier, reading)
        self.parts.append((*remembered, *reading.pending))
        if reading.position is not None and self.window.start is not None:
            selection = ev.select(remembered, self.window)
            start = max(self.window.start, known.start if known else 0.0)
            kept = tuple(ev.fold((*selection.inside, *selection.untold), MOST_REMEMBERED))
            self.known[path] = Known(reading.position, kept, start)
        # Of a part, what it shows counts; what it does not show proves nothing.
        readable = bool(reading.files) and reading.kernel_lines and not reading.cut
        if readable or ev.select(self.parts[-1], self.window).inside:
            self.sources.append(Source(reading.path))
        elif not reading.problems:
            self.problems.append(_silent(path, reading))
        return readable

    def _earlier(self, known: tuple[ev.Event, ...], reading: files.Reading) -> tuple[ev.Event, ...]:
        """What earlier runs found, as far as it is still to be counted or mentioned.

        An event whose time cannot be told leaves no window: it is mentioned for as long as the
        log it was found in is the one that is written, and not for ever.
        """
        written_on = reading.followed and len(reading.files) < 2
        selection = ev.select(known, self.window)
        return (*selection.inside, *(selection.untold if written_on else ()))

    def auto(self) -> None:
        """The sources of this host, until one shows the whole window."""
        everything = self.window.start is None
        if self.ring() and not everything:
            return
        if self.journal() and not everything:
            return
        for path in FILES:
            readable = os.path.lexists(path) and self.file(path)
            if readable and not everything and self._whole(path):
                return
        if self.short and not everything:
            since = time.strftime("%Y-%m-%d %H:%M", time.localtime(min(self.short)))
            reason = f"nothing that can be read goes back beyond {since}"
            remedy = "keep the journal with Storage=persistent, or name log files with --log"
            self.gap = ev.Problem(RING, reason, remedy)
            self.problems.append(self.gap)

    def _whole(self, path: str) -> bool:
        """Tell whether the log that was read last shows the whole window."""
        oldest = files.oldest(path, self.window.end)
        # An empty log has no dates: where it cannot be told, the log is believed.
        if oldest is None or self._reaches(oldest):
            return True
        self.sources[-1] = self.sources[-1]._replace(oldest=oldest)
        self.short.append(oldest)
        return False


def _silent(path: str, reading: files.Reading) -> ev.Problem:
    """Why a log that was read to its end is no witness."""
    if not reading.empty:
        return ev.Problem(reading.path, "shows no lines of the kernel", "name the kernel's log")
    if path == files.STANDARD_INPUT:
        return ev.Problem(reading.path, "is empty", "see whether the command that feeds it fails")
    what = "is empty, and nothing of the kernel's was rotated out of it"
    return ev.Problem(reading.path, what, "name the kernel's log")


# Events of a log that are remembered; older ones are folded together.
MOST_REMEMBERED = 300
# Of many logs together; the memory of a run is 256 KiB at most.
MOST_REMEMBERED_IN_ALL = 600
# Events that are looked through for copies of each other, a second's work.
MOST_MERGED = 40000
# Seconds by which the time of boot is another each time it is computed.
CLOCKS = 1.0


def gather(
    wanted: Sequence[str],
    window: ev.Window,
    boot: str,
    known: Mapping[str, Known],
    stop: Callable[[], bool],
    ask: Callable[[Sequence[bytes]], Iterable[Frame]] | None,
) -> Evidence:
    """What the wanted sources show of the window; `auto` or paths, globs and `-`.

    `boot` is this boot's id, `known` what earlier runs remember of files, `stop` says when time
    is up, `ask` asks the reader where the ring buffer takes a right. Raises nothing for a source
    that cannot be read.
    """
    gathering = _Gathering(window, boot, known, stop, ask)
    paths, problems = files.expand([path for path in wanted if path != AUTO])
    gathering.problems += problems
    if AUTO in wanted:
        gathering.auto()
    for path in paths:
        gathering.file(path)
    most = MOST_REMEMBERED_IN_ALL // max(1, len(gathering.known))
    if most < MOST_REMEMBERED:
        for path, each in gathering.known.items():
            gathering.known[path] = each._replace(events=tuple(ev.fold(each.events, most)))
    return Evidence(
        ev.merge(*_bounded(gathering.parts)),
        tuple(gathering.sources),
        tuple(gathering.problems),
        tuple(gathering.known.items()),
        tuple(gathering.read),
        gathering.gap,
    )


def _bounded(parts: Sequence[Sequence[ev.Event]]) -> Sequence[Sequence[ev.Event]]:
    """The parts as they are, or folded: to bring millions of events together takes too long.

    Of folded ones the copies in two sources are not told from each other: they count twice.
    """
    if sum(map(len, parts)) <= MOST_MERGED:
        return parts
    return [ev.fold(part, MOST_MERGED // len(parts)) for part in parts]


def known_to_plain(known: Iterable[tuple[str, Known]]) -> dict[str, object]:
    """What is known of log files as JSON can hold it."""
    return {
        path: [
            files.position_to_plain(each.position),
            [ev.to_plain(event) for event in each.events],
            each.start,
        ]
        for path, each in known
    }


def known_from_plain(plain: object) -> dict[str, Known]:
    """What known_to_plain has written; nothing of what is not as it was written."""
    found: dict[str, Known] = {}
    if isinstance(plain, dict):
        for path, value in plain.items():
            try:
                position, events, start = value
                found[path] = Known(
                    files.position_from_plain(position),
                    tuple(ev.from_plain(event) for event in events),
                    float(start),
                )
            except (TypeError, ValueError, OverflowError):
                continue
    return found
