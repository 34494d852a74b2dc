"""Read a log file with its rotated parts, and say which spans they cover.

What was read before is not read again: a LogCursor remembers how far, and is found again when the
log has been rotated since.
"""

from __future__ import annotations

from contextlib import ExitStack

from .. import reasons
from ..coverage import TOLERANCE, Coverage, Span
from ..namedtuple import NamedTuple
from ..reasons import SourceProblem
from . import rotation
from .decompress import os_problem
from .events import Event, fold, merge
from .opening import LogFiles
from .part import LogPart, ZoneGuess, guess_zone
from .scanner import MOST_EVENTS, Scanner
from .stamps import WIDEST_ZONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo
    from typing import Callable

    from .events import Window
    from .loss_notices import Loss
    from .rotation import LogCursor, RotatedPart

ALIVE = 900.0
"""Seconds since its last line within which a log is taken to be still written, also in a shorter
window: the kernel of a healthy host is silent for minutes."""
GLANCED = 3
"""Rotated parts that are searched for lines of the kernel when the log shows none."""
_OF_WINDOWS = (
    reasons.PART_MISSING,
    reasons.LAST_WRITTEN,
    reasons.UNDATED,
    reasons.TIME_ZONE,
    reasons.CURSOR_LOST,
)
"""Reasons that matter only where a window has a begin."""


class LogReading(NamedTuple):
    """The content of one log.

    events: of complete lines after the cursor handed in; to be remembered with the new cursor.
    pending: of a last line without an end; to be counted and not remembered, for the next run
    finds them again.
    cursor: to be remembered; None where the next run has to start anew.
    followed: the cursor handed in was found: what was remembered with it is not in `events`.
    Otherwise `events` may hold it again, and reconcile() brings the two together.
    unfinished: nothing of this reading is to be remembered: the next run does the same work.
    coverage: the spans that the files show, from the cursor's `since` on, and why not more.
    read: bytes searched, after unpacking. files: what was read, oldest first.
    problems: what could not be read. shift: seconds that were added to times without an offset,
    because the log is written in another time zone. losses: what the log says of lines that it
    lost.
    """

    path: str
    events: tuple[Event, ...] = ()
    pending: tuple[Event, ...] = ()
    cursor: LogCursor | None = None
    followed: bool = False
    unfinished: bool = False
    coverage: Coverage = Coverage("")
    read: int = 0
    files: tuple[str, ...] = ()
    problems: tuple[SourceProblem, ...] = ()
    shift: float = 0.0
    losses: tuple[Loss, ...] = ()


class Extent(NamedTuple):
    """The time that a log shows.

    spans: the spans it covers. since: when the last stretch of parts without a hole begins, None
    where that is not known. problem: why it shows no more.
    """

    spans: tuple[Span, ...] = ()
    since: float | None = None
    problem: SourceProblem | None = None


# --- a log with its rotated parts


def read_log(
    path: str,
    now: float,
    stop: Callable[[], bool],
    cursor: LogCursor | None = None,
    start: float | None = None,
    files: LogFiles | None = None,
    zone: tzinfo | None = None,
) -> LogReading:
    """Search one log and its rotated parts.

    now: seconds since the epoch. stop: asked between blocks; ends the reading once it says True.
    cursor: read only what was written since: the rest of the file it was taken in, the parts
    rotated out since, then the log. Without it, or where it is found nowhere: the log, and rotated
    parts changed at or after `start` (None: none; 0.0: everything). zone: of times without an
    offset; None: inferred, else that of this process. Raises nothing.
    """
    with ExitStack() as stack:
        log = _Log(path, now, stop, start, files or LogFiles(), stack)
        log.zone = ZoneGuess(zone)
        try:
            return log.read(cursor)
        except OSError as error:
            return log.unreadable(cursor, os_problem(path, error).problem)


class _Log:
    """The reading of one log.

    live: the log itself. newest: the same, or the newest rotated part where the log is missing.
    stretch: the parts from `newest` back to the first that is missing or unreadable.
    lost: a cursor was handed in and found nowhere.
    """

    def __init__(
        self,
        path: str,
        now: float,
        stop: Callable[[], bool],
        start: float | None,
        files: LogFiles,
        stack: ExitStack,
    ) -> None:
        self.path = path
        self.now = now
        self.stop = stop
        self.start = start
        self.files = files
        self.stack = stack
        self.live = self.newest = LogPart(path, now)
        self.live.open(files, stack)
        self.stretch: list[LogPart] = []
        self.zone = ZoneGuess()
        self.lost = False

    def read(self, cursor: LogCursor | None) -> LogReading:
        live = self.live
        if live.problem is not None and live.problem.reason != reasons.NOT_FOUND:
            return self.unreadable(cursor, live.problem)
        rotated = self.files.parts(self.path) if cursor or self.start is not None else []
        candidates = _without_twins(rotated)
        where, parts = self._plan(cursor, candidates)
        if live.problem is not None and not any(part.problem is None for part in parts):
            return self.unreadable(cursor, live.problem)
        if live.problem is None and live.plain and self.zone.zone is None:
            self.zone = guess_zone(live.descriptor)
        # The log first: when time runs out, the newest lines have been read.
        for part in (live, *reversed(parts)):
            if part.problem is None:
                self._scan(part, cursor if part is where else None)
        anchor = [] if cursor is not None else self._anchor(parts, candidates)
        chain = [*anchor, *parts, live]
        if live.descriptor < 0:
            # Rotated away, and its next line has yet to be written.
            chain.pop()
            self.newest = chain[-1]
        return self._reading(cursor, where, chain)

    def unreadable(self, cursor: LogCursor | None, problem: SourceProblem) -> LogReading:
        """Return a reading that changes nothing of what is remembered."""
        coverage = Coverage(self.path, (), problem.reason, problem.detail)
        return LogReading(
            self.path,
            cursor=cursor,
            followed=cursor is not None,
            unfinished=True,
            coverage=coverage,
            problems=(problem,),
        )

    # which files

    def _plan(
        self, cursor: LogCursor | None, parts: list[LogPart]
    ) -> tuple[LogPart | None, list[LogPart]]:
        """Return (the file that holds the cursor, the rotated parts to read, oldest first)."""
        since = self.start
        if cursor is not None and not cursor.offset:
            # Nothing is found again of a log that was empty. Since, it may have been written,
            # copied, truncated and rotated: then the copy was changed after it.
            return None, self._changed(parts, max(cursor.written, self.start or 0.0))
        if cursor is not None:
            if self.live.problem is None and rotation.holds(self.live.descriptor, cursor):
                return self.live, []
            for at in range(len(parts) - 1, -1, -1):
                if self._is_former(parts[at], cursor):
                    return parts[at], self._opened(parts[at:])
            self.lost = True
            since = None if since is None else min(since, cursor.read_at)
        if since is None:
            return None, []
        changed = self._changed(parts, since)
        if not changed and parts and not self.live.beginning and not self._everything:
            changed = self._opened(parts[-1:])  # just rotated: somewhere to keep the cursor
        return None, changed

    def _changed(self, parts: Sequence[LogPart], since: float) -> list[LogPart]:
        return self._opened([part for part in parts if part.written >= since])

    def _opened(self, parts: Sequence[LogPart]) -> list[LogPart]:
        """Open parts; leave out copies of newer ones."""
        kept: list[LogPart] = []
        for part in reversed(parts):
            part.open(self.files, self.stack)
            if not any(part.is_copy_of(newer, self.stop) for newer in (self.live, *kept)):
                kept.append(part)
        return kept[::-1]

    def _is_former(self, part: LogPart, cursor: LogCursor) -> bool:
        """Return whether a rotated part is the file of the cursor."""
        if part.written < cursor.written - 1:
            return False  # it was finished before the cursor was taken
        part.open(self.files, self.stack)
        return part.holds(cursor, self.stop)

    def _anchor(self, parts: Sequence[LogPart], candidates: Sequence[LogPart]) -> list[LogPart]:
        """Return the part before those to read: that it exists shows how far back they reach."""
        older = candidates[: candidates.index(parts[0])] if parts else candidates
        if not older or self._everything:
            return []
        anchor = LogPart(older[-1].path, older[-1].written, older[-1].rotated)
        anchor.first = anchor.written
        return [anchor]

    def _scan(
        self, part: LogPart, cursor: LogCursor | None = None, *, glance: bool = False
    ) -> None:
        reference = min(self.now, part.written)
        scanner = Scanner(part.path, self.path, reference, self.zone.zone)
        scanner.glance = glance
        part.scan(scanner, self.stop, cursor)

    # what they show

    def _reading(
        self, cursor: LogCursor | None, where: LogPart | None, chain: list[LogPart]
    ) -> LogReading:
        scanned = [(part, part.scanner) for part in chain if part.scanner is not None]
        events: list[Event] = []
        pending: list[Event] = []
        for part, scanner in scanned:
            events += scanner.events
            # A rotated part is not written to any more: its last line is complete.
            (pending if part is self.live else events).extend(scanner.pending)
        if len(events) > MOST_EVENTS:
            events = fold(events, MOST_EVENTS // 2)
        problems = [part.problem for part in (*chain, self.live) if part.problem is not None]
        known = bool(cursor and where and cursor.kernel_lines)
        kernel_lines = known or any(scanner.kernel_lines for _, scanner in scanned)
        if not kernel_lines and self.start is not None:
            kernel_lines = self._glance(chain, problems)
        spans, since, problem = self._extent(cursor, where, chain)
        read = sum(scanner.read for _, scanner in scanned)
        if not kernel_lines:
            empty = not read and not (cursor and where and cursor.offset)
            reason = reasons.EMPTY if empty else reasons.NO_KERNEL_LINES
            spans = ()
            problem = next(iter(problems), SourceProblem(self.path, reason))
        hosts = tuple(dict.fromkeys(host for _, scanner in scanned for host in scanner.hosts))
        coverage = Coverage(self.path, spans, hosts=hosts, last=self._last(chain))
        if problem is not None:
            coverage = coverage._replace(
                reason=problem.reason, detail=problem.detail, path=problem.path
            )
        losses = tuple(loss for _, scanner in scanned for loss in scanner.losses)
        if since is not None and losses:
            # The next run claims nothing anew of what was lost; its spans are remembered.
            since = max(since, *(loss.span.end + 2 * TOLERANCE for loss in losses))
        new = self._new_cursor(cursor, where, since, known=kernel_lines)
        unfinished = len(scanned) > 1 and any(scanner.timed_out for _, scanner in scanned)
        if self.newest is not self.live and (new is None or self.lost):
            unfinished = True
        return LogReading(
            self.path,
            tuple(events),
            tuple(pending),
            cursor if unfinished else new,
            where is not None,
            unfinished,
            coverage,
            read,
            tuple(part.path for part, _ in scanned),
            tuple(dict.fromkeys(problems)),
            self.zone.shift if self.zone.zone is not None else 0.0,
            losses,
        )

    def _new_cursor(
        self,
        cursor: LogCursor | None,
        where: LogPart | None,
        since: float | None,
        *,
        known: bool,
    ) -> LogCursor | None:
        last = self.newest
        if not last.beginning and since is not None:
            # A cursor in an empty log finds nothing again: keep it at the end of the part before.
            last = next((part for part in reversed(self.stretch) if part.beginning), last)
        scanner = last.scanner
        if scanner is None or not last.plain or not (scanner.complete or scanner.timed_out):
            return None
        skip = cursor.offset if cursor is not None and where is last else 0
        held = scanner.held if last is self.live else 0
        new = rotation.make_cursor(last.descriptor, skip + scanner.read - held)
        if new is None:
            return None
        return new._replace(
            midline=scanner.midline,
            kernel_lines=known,
            written=last.written,
            since=since,
            read_at=self.now,
            previous=scanner.previous,
        )

    def _glance(self, chain: Sequence[LogPart], problems: list[SourceProblem]) -> bool:
        """Return whether older parts show lines of the kernel: the log may be new and quiet."""
        read = {part.path for part in chain if part.scanner is not None}
        older = [part for part in self.files.parts(self.path) if part.path not in read]
        for each in older[: -GLANCED - 1 : -1]:
            part = LogPart(each.path, each.written, each)
            part.open(self.files, self.stack)
            if part.problem is None:
                self._scan(part, glance=True)
            if part.scanner is not None and part.scanner.kernel_lines:
                return True
            if part.problem is not None:
                problems.append(part.problem)
        return False

    def _extent(
        self, cursor: LogCursor | None, where: LogPart | None, chain: Sequence[LogPart]
    ) -> Extent:
        """Return the spans up to the end of the log, or up to now while it is written."""
        earlier, start, problem = self._stretches(cursor, where, chain)
        spans = list(earlier)
        newest = self.newest
        if newest is not self.live:
            spans += [Span(start, max(start, newest.written))] if start is not None else []
            problem = self.live.problem
        elif start is not None and newest.usable:
            written = self._last(chain)
            alive = self.start is None or written >= min(self.start, self.now - ALIVE)
            # By a zone that is not certain the last line may be of now, and all others later too.
            alive = alive and self.zone.certain
            end = self.now if alive and not self._everything else written
            spans.append(Span(start, max(start, end)))
            if not alive:
                age = str(round(self.now - written))
                problem = problem or SourceProblem(self.path, reasons.LAST_WRITTEN, age)
        elif start is None and newest.beginning:
            problem = problem or SourceProblem(self.path, reasons.UNDATED)
        if not self.zone.certain:
            detail = str(round(self.zone.shift))
            problem = SourceProblem(self.path, reasons.TIME_ZONE, detail)
        if self.lost and cursor is not None:
            first = next((span.start for span in spans if span.end >= cursor.read_at), self.now)
            if first > cursor.read_at:
                problem = SourceProblem(self.path, reasons.CURSOR_LOST)
        if self._everything and problem is not None and problem.reason in _OF_WINDOWS:
            problem = None
        return Extent(tuple(spans), start, problem)

    def _last(self, chain: Sequence[LogPart]) -> float:
        """Return the time of the last line, also where the log was rotated since."""
        return max(
            (part.written for part in chain if part.beginning or part is not self.newest),
            default=self.newest.written,
        )

    def _stretches(
        self, cursor: LogCursor | None, where: LogPart | None, chain: Sequence[LogPart]
    ) -> Extent:
        """Return the spans before the last stretch, and since when that one is.

        Parts that follow each other are one stretch. A part that is missing, unreadable or was
        lost between two runs ends it.
        """
        spans: list[Span] = []
        problem: SourceProblem | None = None
        start: float | None = None
        end = 0.0
        before: LogPart | None = None
        for part in chain:
            joined = before is None or self._follows(before, end, part, cursor, where)
            if not joined:
                problem = SourceProblem(self.path, reasons.PART_MISSING)
            problem = part.problem or problem
            if start is not None and not (joined and part.usable):
                spans.append(Span(start, max(start, end)))
                start = None
            if start is None:
                self.stretch = []
                start = part.first
                if start is None and part is not self.newest:
                    start = part.written  # without dates at least its end is known
            if part is not self.newest or part.beginning:
                end = part.written
            if cursor is not None and part is where:
                end = max(end, cursor.read_at)
            if not part.usable and part is not self.newest:
                start = None
            self.stretch.append(part)
            before = part
        return Extent(tuple(spans), start, problem)

    @property
    def _everything(self) -> bool:
        return self.start == 0.0

    def _follows(
        self,
        before: LogPart,
        end: float,
        part: LogPart,
        cursor: LogCursor | None,
        where: LogPart | None,
    ) -> bool:
        """Return whether nothing is missing between two parts; `end` is the end of the first."""
        begin = part.written if part.first is None else part.first
        if self.lost and cursor is not None and end <= cursor.read_at <= begin:
            return False
        if before.rotated is None or (before is where and before.rotated.scheme == "copy"):
            return True
        return rotation.follows(before.rotated, part.rotated, begin - end)


def _without_twins(rotated: Sequence[RotatedPart]) -> list[LogPart]:
    """Return the parts; of one that is just being compressed, the plain file, which is complete."""
    parts: dict[tuple[object, ...], LogPart] = {}
    for each in rotated:
        key = (each.path,) if each.scheme == "copy" else (each.scheme, each.order)
        if key not in parts or len(each.path) < len(parts[key].path):
            parts[key] = LogPart(each.path, each.written, each)
    return list(parts.values())


# --- several runs


def dated_by_arrival(reading: LogReading, read_at: float, window: Window) -> LogReading:
    """Return the reading with no event from before the window that has a start.

    What was added to a log since the run that read it up to the cursor is new, also where its time
    is earlier: it was delayed, the clock was set, its host is in another time zone, or its time has
    whole seconds only. No earlier run has counted it, so it is dated with that run (`read_at`), or
    with this one where that is no time of the window. Times that no zone explains are kept: a
    daemon writes old lines anew.
    """
    start, now = window.start or 0.0, window.end
    arrived = read_at if start <= read_at <= now else max(start, now - 1.0)
    oldest = min(read_at, start) - WIDEST_ZONE

    def dated(event: Event) -> Event:
        if event.time is None or not oldest <= event.time < start:
            return event
        return event._replace(time=arrived)

    return reading._replace(
        events=tuple(map(dated, reading.events)), pending=tuple(map(dated, reading.pending))
    )


def reconcile(remembered: Sequence[Event], reading: LogReading) -> tuple[Event, ...]:
    """Return the events of all runs on one log, each once; `remembered` are those of earlier runs.

    Where the cursor was not found again, the same lines may have been read again.
    """
    if reading.followed:
        return (*remembered, *reading.events)
    bare = [[event._replace(family="") for event in part] for part in (remembered, reading.events)]
    return tuple(event._replace(family=reading.path) for event in merge(*bare))
