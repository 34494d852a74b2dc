"""Find the part of the window that the evidence covers, and what the status line may claim.

Pure functions of the evidence. Everything that a source of this host shows counts for all of its
namespaces; counters count for their own. A log that the user named and that is another host's,
or names no host, has to cover the window itself.
"""

from __future__ import annotations

import os

from .. import render
from ..advice.source_problems import gap_reason
from ..kernel.coverage import Coverage, Span, covered_since, gaps, union
from ..kernel.log import events
from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .evidence import Evidence

COUNTERS = "counters"
SILENT = 900.0
"""Seconds since the last line of a log from which on the status line says so."""


class Gap(NamedTuple):
    """A part of the window that nothing covers.

    subject: the namespace or the log; empty for the host.
    span: which part; None for a log that was to be read as a whole.
    reasons: why, as sentences.
    """

    subject: str
    span: Span | None
    reasons: tuple[str, ...]


class Claim(NamedTuple):
    """The coverage of the evidence up to this moment.

    gaps: the parts of the window that are not covered, oldest first.
    since: where there are gaps: since when all is covered, in seconds since the epoch; None where
    not even this moment is.
    from_boot: without gaps: it is covered as far back as this boot goes, not the whole window.
    sources: what covers it.
    """

    gaps: tuple[Gap, ...]
    since: float | None
    from_boot: bool
    sources: tuple[str, ...]


class _Subject(NamedTuple):
    """A namespace or a log that has to be covered."""

    name: str
    window: Span
    coverage: tuple[Coverage, ...]


def claim_of(evidence: Evidence) -> Claim:
    """Return what the evidence covers of the window."""
    start = evidence.window.start
    if start is None:
        return _of_everything(evidence)
    found: list[Gap] = []
    since: list[float | None] = []
    sources: dict[str, None] = {}
    from_boot = start < evidence.now.boot_time
    for subject in _subjects(evidence, Span(start, evidence.window.end)):
        spans = union(span for each in subject.coverage for span in each.spans)
        missing = gaps(spans, subject.window)
        if missing:
            reasons = tuple(filter(None, map(_reason, subject.coverage)))
            found += [Gap(subject.name, gap, reasons) for gap in missing]
            since.append(covered_since(spans, subject.window.end))
        from_boot = from_boot and bool(gaps(spans, Span(start, evidence.window.end)))
        end = subject.window.end
        sources.update(dict.fromkeys(_name(each, end) for each in subject.coverage if each.spans))
    known = [each for each in since if each is not None]
    return Claim(
        tuple(sorted(found, key=lambda gap: gap.span or Span(0.0, 0.0))),
        max(known) if known and len(known) == len(since) else None,
        from_boot and not found,
        tuple(sources),
    )


def _name(coverage: Coverage, now: float) -> str:
    """Return what to call a source; a log that is silent for long may be one that nobody writes."""
    if coverage.reason or coverage.last is None or now - coverage.last <= SILENT:
        return coverage.source
    return f"{coverage.source} silent for {render.duration(now - coverage.last)}"


def _reason(coverage: Coverage) -> str:
    return coverage.detail if coverage.source == COUNTERS else gap_reason(coverage)


def _of_everything(evidence: Evidence) -> Claim:
    """Return the claim for all that was read: a gap is a named log that was read in part."""
    log = evidence.log
    found = [
        Gap(each.source, None, (gap_reason(each),))
        for each in log.coverage
        if each.named and each.reason
    ]
    sources = [each.source for each in log.coverage if each.usable]
    counted = any(report.coverage for report in evidence.reports)
    # Counters of this host say nothing about the logs of others.
    if counted and (not log.coverage or not all(map(_is_foreign, log.coverage))):
        sources.append(COUNTERS)
    return Claim(tuple(found), None, from_boot=False, sources=tuple(sources))


def _is_foreign(coverage: Coverage) -> bool:
    """Tell whether a log is another host's, or names no host."""
    own = events.short(os.uname().nodename)
    return coverage.named and own not in map(events.short, coverage.hosts)


def _subjects(evidence: Evidence, window: Span) -> list[_Subject]:
    """Return all that has to be covered."""
    shared: list[Coverage] = []
    subjects: list[_Subject] = []
    for each in evidence.log.coverage:
        if _is_foreign(each):
            subjects.append(_Subject(each.source, window, (each,)))
        else:
            shared.append(each)
    if subjects and not shared and not evidence.others:
        # Only logs of other hosts were asked for.
        return subjects
    boot = evidence.now.boot_time
    reports = evidence.reports
    if not reports and not evidence.inactive:
        subjects.append(_Subject("", window, tuple(shared)))
    for report in reports:
        start = max(window.start, min(report.since or boot, window.end), min(boot, window.end))
        counted = Coverage(COUNTERS, report.coverage, detail=report.why_short)
        subjects.append(_Subject(report.name, Span(start, window.end), (*shared, counted)))
    return subjects
