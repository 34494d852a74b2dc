"""What to do about a table that was full: the evidence for advice/capacity.py.

The advice goes by what was counted. A limit that was raised since the table was last full is not
raised again for the same messages.
"""

from __future__ import annotations

from .. import nagios, reports
from ..kernel.limits import read_expect_max
from ..state.trend import Moment
from .contexts import is_corroborated
from .labels import LABELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nagiosplugin import Result, Results

    from ..state.state_store import Store
    from ..state.trend import LimitChange
    from .contexts import Findings
    from .evidence import Evidence
    from .namespace_reports import NamespaceReport

ABOUT_LIMIT = frozenset({"table_full", "full_drops", "early_drops"})


def lines(findings: Findings, results: Results, store: Store) -> list[str]:
    """Return the advice for the alarms of the namespace that is worst.

    store: holds what check_conntrack_table found last.
    """
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
    worst = [report for report, _ in alarming] or list(evidence.reports[:1])
    if not labels or not worst:
        return []
    report = max(worst, key=lambda each: (each.full, each.trouble))
    if report.limits is None:
        return []
    change = _raised_since(evidence, report)
    text: list[str] = []
    if change and labels & ABOUT_LIMIT:
        text.append(
            "The table was last full before that: do not raise the limit again for what was "
            "logged and counted before."
        )
        labels -= ABOUT_LIMIT
    counted = evidence.series.peak if evidence.series and not report.prefix else 0
    peak = max(counted, _reached(evidence, report))
    found = nagios.last_finding(store, report.namespace.key)
    known = nagios.capacity_evidence(report.limits, peak, found)._replace(
        expect_max=read_expect_max(),
        expectations=bool(evidence.log.counts.expectations),
        zones=bool(evidence.log.counts.zones),
    )
    return text + capacity.advise(known, labels)


def limit_change(evidence: Evidence) -> tuple[str, ...]:
    """Return that the limit was changed in the window, the longest version first."""
    changes = _changes(evidence)
    since = evidence.window.start
    if not changes or (since is not None and changes[-1].before.wall < since):
        return ()
    text = _words(changes[-1], evidence)
    raised = any(_raised_since(evidence, report) for report in evidence.reports)
    longest = (f"{text}, since the last message",) if raised else ()
    return (*longest, text, text.partition(" between ")[0])


def _changes(evidence: Evidence) -> list[LimitChange]:
    series = evidence.series
    return [each for each in series.changes if each.what == "limit"] if series else []


def _words(change: LimitChange, evidence: Evidence) -> str:
    return reports.change_text(change, Moment(evidence.now.up, evidence.now.at))


def _last_full(evidence: Evidence, report: NamespaceReport) -> float:
    """Return when the table was last at its limit, as far as is known; 0 where it was not."""
    latest = evidence.log.counts.latest
    logged = latest.time if latest and latest.time is not None else 0.0
    return evidence.now.at if report.full else max(logged, report.last_loss)


def _raised_since(evidence: Evidence, report: NamespaceReport) -> LimitChange | None:
    """Return the change that raised the limit after the table was last full."""
    full = _last_full(evidence, report)
    raised = [
        change
        for change in _changes(evidence)
        if change.before.wall > full and (not change.new or 0 < change.old < change.new)
    ]
    return raised[-1] if raised and full else None


def _reached(evidence: Evidence, report: NamespaceReport) -> int:
    """Return the count that was reached when the table was full: the limit in force then."""
    full = _last_full(evidence, report)
    if not full or report.limits is None:
        return 0
    later = [change for change in _changes(evidence) if change.before.wall > full]
    return later[0].old if later else report.limits.limit


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
