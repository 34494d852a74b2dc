"""Read the kernel log's sources in order, and say what they show and which spans they cover.

`auto` is the ring buffer, then the journal, then log files, as far as one is needed to cover the
window. A path is a log file with its rotated parts; `-` is standard input.
"""

from __future__ import annotations

import errno
import os

from .. import reasons
from ..coverage import TOLERANCE, Coverage, Span, clip, gaps, union, without
from ..namedtuple import NamedTuple
from ..reasons import SourceProblem, UnreadableError
from ..source import KernelError
from . import events as ev
from . import journal, kmsg
from .opening import STANDARD_INPUT, LogFiles
from .rotation import LogCursor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import tzinfo
    from typing import Callable

    from ..reader_client import Frame
    from .files import LogReading

AUTO = "auto"
FILES = ("/var/log/kern.log", "/var/log/messages", "/var/log/syslog")
RING = "kernel log"
DIRECTLY, BY_READER = "directly", "by the reader"
MOST_REMEMBERED = 300
"""Events that are remembered of one log; older ones are folded together."""
MOST_REMEMBERED_IN_ALL = 600
"""Events that are remembered of all logs together; the state of a run is 256 KiB at most."""
MOST_MERGED = 40000
"""Events that are searched for copies of each other, a second's work."""
MOST_SPANS = 20
MOST_HOSTS = 8
CLOCKS = 1.0
"""Seconds by which two computations of the boot time may differ."""


class LogHistory(NamedTuple):
    """The part of one log that earlier runs read, and what they found in it.

    cursor: how far it was read.
    events: those found, as far as they are still to be counted or mentioned.
    start: events are remembered from here on, in seconds since the epoch.
    spans: the spans that earlier runs covered, none of them before `start`.
    hosts: names of hosts in the log's lines.
    reason, detail, path: why the spans have gaps, as in Coverage.
    boot: of the ring buffer: boot id. Then all times are in seconds since that boot, whatever the
    clock is set to.
    """

    cursor: LogCursor
    events: tuple[ev.Event, ...] = ()
    start: float = 0.0
    spans: tuple[Span, ...] = ()
    hosts: tuple[str, ...] = ()
    reason: str = ""
    detail: str = ""
    path: str = ""
    boot: str = ""


class LogEvidence(NamedTuple):
    """The content of the kernel log, from all sources.

    events: each event once, in order of time.
    coverage: what each source covers, in the order of reading, also sources that show nothing.
    With a window that has a start, a gap is what the spans leave of it. For a window of everything
    spans say nothing, and a gap is a source with a reason.
    missing: sources named by the user that cannot be read.
    problems: what else cannot be read.
    histories: what to keep of each log file, by its path.
    read: for each source that was read, how, and how much.
    """

    events: tuple[ev.Event, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    missing: tuple[SourceProblem, ...] = ()
    problems: tuple[SourceProblem, ...] = ()
    histories: tuple[tuple[str, LogHistory], ...] = ()
    read: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Return whether any source shows anything."""
        return any(each.usable for each in self.coverage)


class _Gathering:
    """The reading of all sources.

    histories: what earlier runs have kept of each log; kept: what the next run gets.
    sources: the events of each source. asked: the reader was asked for the ring buffer.
    previous: as for gather().
    coverage, missing, problems, read: as in LogEvidence.
    """

    def __init__(
        self,
        window: ev.Window,
        boot: str,
        histories: Mapping[str, LogHistory],
        stop: Callable[[], bool],
        ask: Callable[[Sequence[bytes]], Iterable[Frame]] | None,
        opened: LogFiles,
        zone: tzinfo | None,
    ) -> None:
        self.window = window
        self.boot = boot
        self.histories = histories
        self.stop = stop
        self.ask = ask
        self.opened = opened
        self.zone = zone
        self.sources: list[Sequence[ev.Event]] = []
        self.coverage: list[Coverage] = []
        self.missing: list[SourceProblem] = []
        self.problems: list[SourceProblem] = []
        self.kept: dict[str, LogHistory] = {}
        self.read: list[str] = []
        self.asked = False
        self.previous: float | None = None

    @property
    def span(self) -> Span | None:
        """Return the window as one span; None for everything.

        A boot's window begins a moment before it, and what a boot logs first comes a moment after.
        """
        start = self.window.start
        if start is None:
            return None
        if self.window.boot is not None:
            start += 2 * ev.FUTURE
        return Span(min(start, self.window.end), self.window.end)

    def _gaps(self, spans: Iterable[Span]) -> tuple[Span, ...]:
        return gaps(spans, self.span) if self.span else ()

    def _add_coverage(
        self, name: str, problem: SourceProblem | None, spans: Sequence[Span]
    ) -> None:
        """Add the coverage of a source of this host."""
        if problem is not None:
            self.problems.append(problem)
            why = (problem.reason, problem.detail, problem.path)
            self.coverage.append(Coverage(name, tuple(spans), *why))
        else:
            self.coverage.append(Coverage(name, tuple(spans)))

    # --- the sources of this host

    def auto(self) -> None:
        """Read the sources of this host until they cover the window."""
        for read in (self.ring, self.journal, *(self._host_file(path) for path in FILES)):
            read()
            spans = [span for each in self.coverage for span in each.spans]
            if self.span and not self._gaps(spans):
                return

    def _host_file(self, path: str) -> Callable[[], None]:
        def read() -> None:
            if os.path.lexists(path):
                self.file(path)

        return read

    def ring(self) -> None:
        """Read the ring buffer."""
        clock = kmsg.read_clock()
        boot = kmsg.boot_time(clock)
        history = self._ring_before(boot)
        try:
            ring = self._ring(clock)
        except (OSError, KernelError) as error:
            code = reasons.READ_ERROR
            if isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EACCES):
                code = reasons.PERMISSION_DENIED
            detail = error.strerror if isinstance(error, OSError) else str(error)
            # What an earlier run has read has happened, whoever may read it now.
            self.sources.append(history.events)
            self._add_coverage(RING, SourceProblem(kmsg.PATH, code, detail or ""), ())
            return
        how = BY_READER if self.asked else DIRECTLY
        count = f"records {ring.records}, of the kernel {ring.kernel_records}"
        self.read.append(f"{kmsg.PATH} {how}: {count}")
        oldest = self.window.end if ring.oldest is None else ring.oldest
        # What has been overwritten since. Where the host slept, times alone do not tell.
        there = {each.monotonic for each in ring.events}
        gone = tuple(
            each
            for each in history.events
            if (each.time or 0.0) < oldest and each.monotonic not in there
        )
        self.sources.append((*gone, *ring.events))
        problem, spans = self._ring_coverage(ring, boot, history.spans)
        self._add_coverage(RING, problem, spans)
        if self.window.start is not None and ring.complete:
            self._remember_ring((*gone, *ring.events), spans, boot)

    def _ring_before(self, boot: float) -> LogHistory:
        """Return what earlier runs of this boot read of the ring, by the present clock."""
        history = self.histories.get(kmsg.PATH)
        if history is None or history.boot != self.boot or self.window.start is None:
            return LogHistory(LogCursor(0, 0, 0))
        return history._replace(
            events=tuple(each._replace(time=(each.time or 0.0) + boot) for each in history.events),
            spans=tuple(Span(span.start + boot, span.end + boot) for span in history.spans),
        )

    def _remember_ring(
        self, events: tuple[ev.Event, ...], spans: Sequence[Span], boot: float
    ) -> None:
        start = self.window.start or 0.0
        inside = ev.fold(ev.select(events, self.window).inside, MOST_REMEMBERED)
        covered = clip(spans, Span(start, self.window.end))[-MOST_SPANS:]
        self.kept[kmsg.PATH] = LogHistory(
            LogCursor(0, 0, 0),
            tuple(each._replace(time=(each.time or 0.0) - boot) for each in inside),
            start - boot,
            tuple(Span(span.start - boot, span.end - boot) for span in covered),
            boot=self.boot,
        )

    def _ring_coverage(
        self, ring: kmsg.Ring, boot: float, earlier: Sequence[Span]
    ) -> tuple[SourceProblem | None, tuple[Span, ...]]:
        start = boot if ring.first_sequence == 0 else ring.oldest
        if start is None or not ring.kernel_records:
            return SourceProblem(kmsg.PATH, reasons.NO_KERNEL_LINES), ()
        if not ring.complete:
            return SourceProblem(kmsg.PATH, reasons.TIMED_OUT), ()
        spans = union((*gaps(_widened(ring.losses), Span(start, self.window.end)), *earlier))
        if ring.lost and self._gaps([Span(start, self.window.end)]) != self._gaps(spans):
            return SourceProblem(kmsg.PATH, reasons.RECORDS_LOST, str(ring.lost)), spans
        # A ring that begins with the boot has lost nothing: the gap is the time before it.
        if ring.first_sequence != 0 and self._gaps(spans):
            return SourceProblem(kmsg.PATH, reasons.BEGINS_LATER), spans
        return None, spans

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

    def journal(self) -> None:
        """Read the journal."""
        start = self.window.start
        shown = journal.read_journal(journal.journal_arguments(start), self.stop)
        problem = journal.journal_problem(shown, probed=start is None)
        since = shown.oldest
        if problem is None and self._gaps([Span(since or self.window.end, self.window.end)]):
            # One entry from before the window shows that the journal reaches back over it, and
            # that a journal without entries in the window was readable.
            arguments = journal.journal_arguments(until=start, newest=1)
            probe = journal.read_journal(arguments, self.stop)
            if probe.entries:
                since = start
            elif not shown.entries:
                problem = journal.journal_problem(probe, probed=True)
        if shown.status != journal.MISSING:
            count = f"entries of the kernel {shown.entries}"
            self.read.append(f"{journal.SOURCE} by {journal.PROGRAM}: {count}")
        self.sources.append(shown.events)
        spans = [] if problem or since is None else [Span(since, self.window.end)]
        if problem is None and self._gaps(spans):
            problem = SourceProblem(journal.SOURCE, reasons.BEGINS_LATER)
        elif problem is None and shown.losses:
            spans = list(gaps(_widened(shown.losses), spans[0]))
            if self._gaps(spans):
                problem = SourceProblem(journal.SOURCE, reasons.RECORDS_LOST, str(shown.lost))
        self._add_coverage(journal.SOURCE, problem, spans)

    # --- files

    def named(self, wanted: Sequence[str]) -> None:
        """Read the logs that the user named."""
        paths, problems = self.opened.expand(wanted)
        self.missing += problems
        logs = [path for path in paths if path != STANDARD_INPUT]
        rotated = {part.path: path for path in logs for part in self.opened.parts(path)}
        for path in paths:
            # A rotated part is read with its log, unless that cannot be read.
            log = rotated.get(path)
            if log is None or not self._opens(log):
                self.file(path, named=True)
            else:
                self._opens(path, self.missing)

    def _opens(self, path: str, problems: list[SourceProblem] | None = None) -> bool:
        try:
            os.close(self.opened.open(path))
        except UnreadableError as error:
            if problems is not None:
                problems.append(error.problem)
            return False
        return True

    def file(self, path: str, *, named: bool = False) -> None:
        """Read a log file or standard input."""
        # The parser of lines takes longer to import than the ring to read.
        from . import files, stream

        now, start = self.window.end, self.window.start
        history = None if start is None else self.histories.get(path)
        if path == STANDARD_INPUT:
            reading = stream.read_stream(0, now, self.stop, start, self.zone)
        else:
            # Events before history.start were not kept: then the log has to be read again.
            goes_on = history and start is not None and start >= history.start - CLOCKS
            cursor = history.cursor if history and goes_on else None
            reading = files.read_log(
                path, now, self.stop, cursor, start or 0.0, self.opened, self.zone
            )
        if reading.files:
            since = " since an earlier run" if reading.followed else ""
            shift = f", times corrected by {round(reading.shift)} s" if reading.shift else ""
            self.read.append(f"{', '.join(reading.files)}: {reading.read} bytes{since}{shift}")
        if history and reading.followed and self._was_read_before(history):
            reading = files.dated_by_arrival(reading, history.cursor.read_at, self.window)
        earlier = self._still_wanted(history.events, reading) if history else ()
        events = files.reconcile(earlier, reading)
        self.sources.append((*events, *reading.pending))
        if named and not reading.files:
            self.missing += reading.problems
        else:
            self.problems += reading.problems
        coverage = self._file_coverage(reading, history, named=named)
        self.coverage.append(coverage)
        if start is None:
            return
        if reading.unfinished and history:
            self.kept[path] = history
        elif reading.cursor is not None and not reading.unfinished:
            self._remember(reading, history, events, coverage)

    def _was_read_before(self, history: LogHistory) -> bool:
        """Return whether the run before has read a log: what was added since is new.

        With `auto` it may have had no need to. What was written before a boot is not of that boot.
        """
        if self.previous is None or self.window.start is None or self.window.boot is not None:
            return False
        return abs(history.cursor.read_at - self.previous) < CLOCKS

    def _file_coverage(
        self, reading: LogReading, history: LogHistory | None, *, named: bool
    ) -> Coverage:
        """Return what this run and earlier ones have read of a log."""
        own = reading.coverage
        hosts = tuple(dict.fromkeys((*own.hosts, *(history.hosts if history else ()))))[:MOST_HOSTS]
        spans = union((*own.spans, *(history.spans if history else ())))
        holes = _widened(loss.span for loss in reading.losses)
        shown = without(spans, holes)
        lost = [
            loss.number
            for loss in reading.losses
            if self.span is None or clip([loss.span], self.span)
        ]
        if lost and (self.span is None or self._gaps(shown) != self._gaps(spans)):
            own = own._replace(reason=reasons.LINES_LOST, detail=str(sum(lost)), path="")
        spans = shown
        if self.span and not self._gaps(spans):
            own = own._replace(reason="", detail="", path="")
        elif history and not own.reason:
            own = own._replace(reason=history.reason, detail=history.detail, path=history.path)
        if self._gaps(spans) and not own.reason:
            own = own._replace(reason=reasons.BEGINS_LATER)
        return own._replace(spans=spans, hosts=hosts, named=named)

    def _remember(
        self,
        reading: LogReading,
        history: LogHistory | None,
        events: tuple[ev.Event, ...],
        coverage: Coverage,
    ) -> None:
        start = self.window.start or 0.0
        if history is not None and reading.followed:
            start = max(start, history.start)
        selection = ev.select(events, self.window)
        kept = tuple(ev.fold((*selection.inside, *selection.undated), MOST_REMEMBERED))
        spans = clip(coverage.spans, Span(start, self.window.end))[-MOST_SPANS:]
        reason = (coverage.reason, coverage.detail, coverage.path)
        assert reading.cursor is not None  # noqa: S101 - the caller has looked
        self.kept[reading.path] = LogHistory(
            reading.cursor, kept, start, spans, coverage.hosts, *reason
        )

    def _still_wanted(
        self, earlier: tuple[ev.Event, ...], reading: LogReading
    ) -> tuple[ev.Event, ...]:
        """Return what earlier runs found, as far as it is still to be counted or mentioned.

        An undated event leaves no window: it is mentioned for as long as the log it was found in
        is the one that is written.
        """
        written_on = reading.followed and len(reading.files) < 2
        selection = ev.select(earlier, self.window)
        return (*selection.inside, *(selection.undated if written_on else ()))


def _widened(losses: Iterable[Span]) -> list[Span]:
    """Return the holes that lost records left, wide enough to be gaps.

    A burst loses records within less than the tolerance.
    """
    return [Span(lost.start - 2 * TOLERANCE, lost.end + 2 * TOLERANCE) for lost in losses]


def gather(
    wanted: Sequence[str],
    window: ev.Window,
    boot: str,
    histories: Mapping[str, LogHistory],
    stop: Callable[[], bool],
    ask: Callable[[Sequence[bytes]], Iterable[Frame]] | None,
    opened: LogFiles | None = None,
    zone: tzinfo | None = None,
    *,
    previous: float | None = None,
) -> LogEvidence:
    """Return what the wanted sources show of the window: `auto` or paths, globs and `-`.

    boot: this boot's id. histories: what earlier runs have kept of log files. stop: says when time
    is up. ask: asks the reader where reading the ring buffer takes a capability. opened: files
    opened before privileges were dropped. zone: of times without an offset in files. previous:
    when the run before was, by its clock: what was added since to a log that it has read counts
    whatever its time, unless the window is a boot's. Raises nothing for a source that cannot be
    read.
    """
    gathering = _Gathering(window, boot, histories, stop, ask, opened or LogFiles(), zone)
    gathering.previous = previous
    if AUTO in wanted:
        gathering.auto()
    gathering.named([path for path in wanted if path != AUTO])
    most = MOST_REMEMBERED_IN_ALL // max(1, len(gathering.kept))
    if most < MOST_REMEMBERED:
        for path, each in gathering.kept.items():
            gathering.kept[path] = each._replace(events=tuple(ev.fold(each.events, most)))
    return LogEvidence(
        ev.merge(*_bounded(gathering.sources)),
        tuple(gathering.coverage),
        tuple(gathering.missing),
        tuple(gathering.problems),
        tuple(gathering.kept.items()),
        tuple(gathering.read),
    )


def _bounded(parts: Sequence[Sequence[ev.Event]]) -> Sequence[Sequence[ev.Event]]:
    """Return the parts, folded where they are too many to be merged in time.

    Copies of folded events in two sources are not recognised: they count twice.
    """
    if sum(map(len, parts)) <= MOST_MERGED:
        return parts
    return [ev.fold(part, MOST_MERGED // len(parts)) for part in parts]
