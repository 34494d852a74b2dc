"""Read standard input as a log, and say which span it covers."""

from __future__ import annotations

from .. import reasons
from ..coverage import Coverage, Span
from ..reasons import SourceProblem, UnreadableError
from .decompress import Pipe, text_stream
from .files import ALIVE, LogReading
from .scanner import Scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import tzinfo
    from typing import Callable


def read_stream(
    descriptor: int,
    now: float,
    stop: Callable[[], bool],
    start: float | None = None,
    zone: tzinfo | None = None,
    name: str = "standard input",
) -> LogReading:
    """Search a stream such as standard input to its end, or until `stop` says True.

    A pipe that nobody writes to is not waited for longer than `stop` allows. Raises nothing.
    """
    scanner = Scanner(name, name, now, zone)
    pipe = Pipe(descriptor, name, stop)
    problem: SourceProblem | None = None
    try:
        scanner.run(text_stream(pipe, name)[0], stop)
    except UnreadableError as error:
        problem = error.problem
    spans: tuple[Span, ...] = ()
    if pipe.timed_out or scanner.timed_out:
        problem = SourceProblem(name, reasons.TIMED_OUT)
    elif problem is None and not scanner.read:
        problem = SourceProblem(name, reasons.EMPTY)
    elif problem is None and not scanner.kernel_lines:
        problem = SourceProblem(name, reasons.NO_KERNEL_LINES)
    unreadable = (problem,) if problem is not None else ()
    if problem is None and scanner.first is not None and scanner.last is not None:
        alive = start and scanner.last >= min(start, now - ALIVE)
        spans = (Span(scanner.first, max(scanner.first, now if alive else scanner.last)),)
        if start and not alive:
            age = str(round(now - scanner.last))
            problem = SourceProblem(name, reasons.LAST_WRITTEN, age)
    elif problem is None and start:
        problem = SourceProblem(name, reasons.UNDATED)
    coverage = Coverage(name, spans, hosts=tuple(scanner.hosts), last=scanner.last)
    if problem is not None:
        coverage = coverage._replace(reason=problem.reason, detail=problem.detail)
    return LogReading(
        name,
        tuple(scanner.events),
        tuple(scanner.pending),
        coverage=coverage,
        read=scanner.read,
        files=(name,) if scanner.read else (),
        problems=unreadable,
        losses=tuple(scanner.losses),
    )
