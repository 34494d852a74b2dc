"""Time spans that a source of evidence covers, and the gaps between them.

Pure functions over wall-clock spans. Each source says which spans it shows; the check draws its
verdict from their union, and everything in the window that no source shows is a gap.
"""

from __future__ import annotations

from .namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TOLERANCE = 1.0
"""Seconds by which two readings of the clocks may differ: a shorter one is not a gap."""


class Span(NamedTuple):
    """A closed span of time, in seconds since the epoch."""

    start: float
    end: float


class Coverage(NamedTuple):
    """The spans that one source shows.

    source: the name to print, such as "kernel log", "journal", a path, or "counters".
    spans: sorted and disjoint, oldest first.
    reason: why the source shows no more, a code of kernel/reasons.py; empty where it shows the
    whole window.
    detail: what the code leaves open.
    path: the file or source that the reason is about; empty for the source itself.
    hosts: names of hosts in its lines, in lower case without domain; empty where they name none,
    and for sources that are this host's alone.
    named: the user named the source.
    last: of a log file: time of its last line, in seconds since the epoch; None where not known.
    """

    source: str
    spans: tuple[Span, ...] = ()
    reason: str = ""
    detail: str = ""
    path: str = ""
    hosts: tuple[str, ...] = ()
    named: bool = False
    last: float | None = None

    @property
    def usable(self) -> bool:
        """Return whether the source shows anything."""
        return bool(self.spans) or not self.reason


def union(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return the spans sorted, with those that touch (to TOLERANCE) joined into one."""
    joined: list[Span] = []
    for span in sorted(span for span in spans if span.end >= span.start):
        if joined and span.start <= joined[-1].end + TOLERANCE:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return tuple(joined)


def clip(spans: Iterable[Span], window: Span) -> tuple[Span, ...]:
    """Return the parts of the spans that lie in the window."""
    return tuple(
        Span(max(span.start, window.start), min(span.end, window.end))
        for span in spans
        if span.end >= window.start and span.start <= window.end
    )


def gaps(spans: Iterable[Span], window: Span) -> tuple[Span, ...]:
    """Return the parts of the window that no span covers, oldest first.

    A hole of TOLERANCE or less is no gap.
    """
    found = []
    reached = window.start
    for span in union(clip(spans, window)):
        if span.start > reached + TOLERANCE:
            found.append(Span(reached, span.start))
        reached = max(reached, span.end)
    if window.end > reached + TOLERANCE:
        found.append(Span(reached, window.end))
    return tuple(found)


def without(spans: Iterable[Span], holes: Sequence[Span]) -> tuple[Span, ...]:
    """Return the parts of the spans that no hole takes."""
    found: list[Span] = []
    for span in spans:
        found += gaps(holes, span) if clip(holes, span) else (span,)
    return tuple(found)


def covered_since(spans: Iterable[Span], end: float) -> float | None:
    """Return the start of the span that reaches up to `end`; None where none does."""
    joined = union(spans)
    if joined and joined[-1].end >= end - TOLERANCE:
        return joined[-1].start
    return None
