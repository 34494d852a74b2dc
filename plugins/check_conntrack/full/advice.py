"""What to do about a table that was full: the evidence for advice/capacity.py.

The advice goes by what was counted. A limit that was raised since the table was last full is not
raised again for the same messages.
"""

from __future__ import annotations

from .. import nagios, render
from ..kernel.limits import read_expect_max
from .contexts import is_corroborated
from .labels import LABELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nagiosplugin import Result, Results

    from .contexts import Findings
    from .evidence import Evidence
    from .namespace_reports import NamespaceReport
    from .state import LimitChange

ABOUT_LIMIT = frozenset({"table_full", "full_drops", "early_drops"})


def lines(findings: Findings, results: Results) -> list[str]:
    """Return the advice for the alarms of the namespace that is worst."""
    from ..advice import capacity

    evidence = findings.evidence
    alarming: list[tuple[NamespaceReport, set[str]]] = []
    labels: set[str] = set()
    for report in evidence.reports:
        own = too_high(nagios.results_of(report.prefix, LABELS, results))
        if report.full or own:
            alarming.append((report, own))
        labels |= own
        if _was_full(report, own):
            labels.add("table_full")
    if not evidence.has_first:
        labels |= too_high(nagios.results_of("", LABELS, results))
    if "table_full" in labels:
        labels.discard("full_drops")
    reports = [report for report, _ in alarming] or list(evidence.reports[:1])
    if not labels or not reports:
        return []
    report = max(reports, key=lambda each: (each.full, each.trouble))
    if report.limits is None:
        return []
    change = _raised_since(evidence, report)
    text: list[str] = []
    if change and labels & ABOUT_LIMIT:
        text.append(
            f"The limit was {_values(change)} {_between(change, evidence)}, since the table was "
            "last full: "
            "do not raise it again for what was logged and counted before."
        )
        labels -= ABOUT_LIMIT
    peak = max([peak.entries for peak in findings.evidence.peaks] + [_reached(evidence, report)])
    known = nagios.capacity_evidence(report.limits, peak)._replace(
        expect_max=read_expect_max(),
        expectations=bool(evidence.log.counts.expectations),
        zones=bool(evidence.log.counts.zones),
    )
    return text + capacity.advise(known, labels)


def limit_change(evidence: Evidence) -> tuple[str, ...]:
    """Return that the limit was changed in the window, the longest version first."""
    changes = evidence.limit_changes
    since = evidence.window.start
    if not changes or (since is not None and changes[-1].at < since):
        return ()
    last = changes[-1]
    noticed = f"limit {_values(last)} at {render.clock_time(last.at, evidence.now.at)}"
    if not last.is_raised:
        return f"limit {_values(last)} {_between(last, evidence)}", noticed
    raised = any(_raised_since(evidence, report) for report in evidence.reports)
    return (f"{noticed}, since the last message", noticed) if raised else (noticed,)


def _values(change: LimitChange) -> str:
    verb = "raised" if change.is_raised else "lowered"
    return f"{verb} from {change.before or 'none'} to {change.after or 'none'}"


def _between(change: LimitChange, evidence: Evidence) -> str:
    """Return "between 11:40 and 11:45": the runs before and after the change."""
    now = evidence.now.at
    since, at = render.clock_time(change.since, now), render.clock_time(change.at, now)
    return f"at {at}" if since == at else f"between {since} and {at}"


def _last_full(evidence: Evidence, report: NamespaceReport) -> float:
    """Return when the table was last at its limit, as far as is known; 0 where it was not."""
    latest = evidence.log.counts.latest
    logged = latest.time if latest and latest.time is not None else 0.0
    return evidence.now.at if report.full else max(logged, report.last_loss)


def _raised_since(evidence: Evidence, report: NamespaceReport) -> LimitChange | None:
    """Return the change that raised the limit after the table was last full."""
    full = _last_full(evidence, report)
    raised = [change for change in evidence.limit_changes if change.is_raised and change.at > full]
    return raised[-1] if raised and full else None


def _reached(evidence: Evidence, report: NamespaceReport) -> int:
    """Return the count that was reached when the table was full: the limit in force then."""
    full = _last_full(evidence, report)
    if not full or report.limits is None:
        return 0
    later = [change for change in evidence.limit_changes if change.at > full]
    return later[0].before if later else report.limits.limit


def too_high(results: Sequence[Result]) -> set[str]:
    """Return the labels of figures that are too large: one that is too small asks for nothing."""
    return {
        nagios.label_of(result)
        for result in nagios.alarms(results)
        if not nagios.context_of(result).too_low(result)
    }


def _was_full(report: NamespaceReport, labels: set[str]) -> bool:
    """Tell whether a namespace's own figures say that it was full; `labels` are those too large.

    Drops alone do not: a helper may have given up. Where entries are evicted early, it was.
    """
    if report.full:
        return True
    return "early_drops" in labels or ("full_drops" in labels and is_corroborated(report))
