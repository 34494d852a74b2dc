"""Advise on a table that was full: collect the evidence for advice/capacity.py.

The advice goes by what was counted. A limit that was raised since the table was last full is not
raised again for the same messages.
"""

from __future__ import annotations

from .. import nagios, render, reports
from ..kernel.limits import read_expect_max
from ..state import state_store, trend
from ..state.trend import LIMIT, Moment
from .contexts import is_corroborated
from .labels import INSTANCE_LABELS, LABELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nagiosplugin import Result, Results

    from ..state.state_store import Store
    from ..state.trend import Change
    from .contexts import Evaluation
    from .evidence import Evidence
    from .namespace_reports import NamespaceReport

ABOUT_LIMIT = frozenset({"table_full", "full_drops", "early_drops"})
ABOUT_NO_TABLE = frozenset({"invalid_packets", *INSTANCE_LABELS})


def lines(evaluation: Evaluation, results: Results, store: Store) -> list[str]:
    """Return the advice for the alarms of the namespace that is worst.

    store: where check_conntrack_table keeps its last finding.
    """
    from ..advice import capacity

    evidence = evaluation.evidence
    labels, report = _alarming(evidence, results)
    text: list[str] = []
    if "table_full" in labels and not evidence.of_this_host:
        # The limit of this host has nothing to do with theirs.
        hosts = render.few(evidence.log.hosts)
        text.append(f"The messages are of {hosts}: run check_conntrack_usage -v there.")
        labels -= {"table_full"}
    elif "table_full" in labels and report and not _last_full(evidence, report):
        # The host's label counts the messages of all namespaces.
        named = _named(evidence)
        whose = f"namespace{'s' if named[1:] else ''} {render.few(named)}" if named else "others"
        text.append(f"Nothing says that this table was full: the messages are of {whose}.")
        if evidence.log.named and not evidence.others:
            text += ["See their tables:", "  check_conntrack_full -v --netns all"]
        labels -= {"table_full"}
    if not labels or report is None or report.limits is None:
        return text
    if "table_full" in labels:
        labels.discard("full_drops")
    change = _raised_since(evidence, report)
    if labels & ABOUT_LIMIT and (change or _is_before_watching(evidence, report)):
        text.append(
            "The table was last full before that: do not raise the limit again for what was "
            "logged and counted before."
            if change
            else f"The limit is {report.limits.limit}, and may have been raised since the last "
            "message: see what the table needs now (check_conntrack_usage -v)."
        )
        labels -= ABOUT_LIMIT
    if not labels:
        return text
    counted = evidence.series.peak if evidence.series and not report.prefix else 0
    series = evidence.series if _changes(evidence, report) else None
    lowered = trend.lowered(series) if series else None
    finding = reports.last_finding(store, report.namespace.key)
    known = reports.capacity_evidence(report.limits, counted, finding)._replace(
        netns=report.namespace.option,
        reached=_reached(evidence, report),
        lowered_from=lowered.old if lowered else 0,
        expect_max=read_expect_max(),
        expectations=bool(evidence.log.counts.expectations),
        zones=bool(evidence.log.counts.zones),
    )
    return text + capacity.advise(known, labels)


def of_instance(evidence: Evidence, results: Results) -> list[str]:
    """Return the advice for what EC2 refused."""
    labels = too_high(nagios.results_of("", LABELS, results)).intersection(INSTANCE_LABELS)
    if not evidence.instance or not labels:
        return []
    from ..advice import instance

    interfaces = evidence.instance.window.interfaces
    return instance.advise(labels, interfaces[0].interface if interfaces else "")


def of_invalid(evidence: Evidence, results: Results) -> list[str]:
    """Return the advice for invalid packets in the namespace that has most of them."""
    found: list[tuple[int, NamespaceReport]] = []
    for report in evidence.reports:
        labels = too_high(nagios.results_of(report.prefix, LABELS, results))
        if "invalid_packets" in labels and report.rise:
            found.append((report.rise.invalid_packets or 0, report))
    if not found:
        return []
    from ..advice import invalid_packets

    count, report = max(found, key=lambda pair: pair[0])
    window = evidence.window
    known = invalid_packets.InvalidEvidence(
        rate=count / max(1.0, window.end - (window.start or evidence.now.boot_time))
    )
    from ..kernel import host, limits

    if not report.namespace.is_own:
        import shlex

        enter = f"nsenter --net={shlex.quote(report.namespace.path)} "
        known = known._replace(enter=enter, logs_all=host.logs_all_namespaces())
        return invalid_packets.advise(known)
    routes = host.default_interfaces()
    return invalid_packets.advise(
        known._replace(
            logs_all=limits.may_set_limits() or host.logs_all_namespaces(),
            be_liberal=host.conntrack_setting("tcp_be_liberal"),
            loose=host.conntrack_setting("tcp_loose"),
            log_invalid=host.conntrack_setting("log_invalid"),
            logs=host.logs_packets(),
            routes=routes,
            strict=tuple(filter(host.reverse_path_is_strict, routes)),
        )
    )


def _alarming(evidence: Evidence, results: Results) -> tuple[set[str], NamespaceReport | None]:
    """Return the labels of figures that are too large, and the namespace that is worst."""
    worst: list[NamespaceReport] = []
    labels: set[str] = set()
    for report in evidence.reports:
        own = too_high(nagios.results_of(report.prefix, LABELS, results)) - ABOUT_NO_TABLE
        if report.full or own:
            worst.append(report)
        labels |= own
        if _was_full(report, own):
            labels.add("table_full")
    if not evidence.has_first:
        labels |= too_high(nagios.results_of("", LABELS, results)) - ABOUT_NO_TABLE
    worst = worst or list(evidence.reports[:1])
    return labels, max(worst, key=lambda each: (each.full, each.trouble), default=None)


def _is_before_watching(evidence: Evidence, report: NamespaceReport) -> bool:
    """Tell whether the table was full when no run knew the limit, more than a day ago or unknown.

    What was logged within a day is taken to be of the present limit.
    """
    full = _last_full(evidence, report)
    run = evidence.earlier.run
    watching = run.watching if run else evidence.now.at
    return full < min(watching, evidence.now.at - state_store.DAY)


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


def other_changes(evidence: Evidence) -> list[str]:
    """Return the changes of the buckets, and the boots, in the window."""
    since = evidence.window.start
    return [
        _words(change, evidence)
        for change in (evidence.series.changes if evidence.series else ())
        if change.what != LIMIT and (since is None or change.before.wall >= since)
    ]


def _changes(evidence: Evidence, report: NamespaceReport | None = None) -> list[Change]:
    """Return the changes of the limit; none for a namespace that has a limit of its own."""
    series = evidence.series
    if report and report.prefix and series and report.limits:
        series = series if report.limits.limit == series.limit else None
    return [each for each in series.changes if each.what == LIMIT] if series else []


def _words(change: Change, evidence: Evidence) -> str:
    return reports.change_text(change, Moment(evidence.now.up, evidence.now.at))


def _last_full(evidence: Evidence, report: NamespaceReport) -> float:
    """Return when the table was last at its limit, as far as is known; 0 where it was not."""
    latest = evidence.log.counts.latest
    own = latest is not None and evidence.of_this_host
    dropped = suspects(evidence)
    likely = report in dropped if dropped else not report.prefix
    about = messages_of(evidence, report) or (likely and unnamed_messages(evidence))
    logged = latest.time or 0.0 if own and about and latest else 0.0
    return evidence.now.at if report.full else max(logged, report.last_loss)


def suspects(evidence: Evidence) -> list[NamespaceReport]:
    """Return the namespaces whose counters say that they dropped packets, the worst first."""
    dropped = (report for report in evidence.reports if report.full_drops)
    return sorted(dropped, key=lambda report: -report.full_drops)


def unnamed_messages(evidence: Evidence) -> int:
    """Return how many "table full" messages name no namespace."""
    counts = evidence.log.counts
    return counts.table_full - sum(count for _, count in counts.namespaces)


def messages_of(evidence: Evidence, report: NamespaceReport) -> int:
    """Return the messages about this namespace: those that name it, or those that name none."""
    if report.messages:
        return report.messages
    alone = len(evidence.reports) == 1 or suspects(evidence) == [report]
    return unnamed_messages(evidence) if alone else 0


def _named(evidence: Evidence) -> list[str]:
    """Return the namespaces that messages name, by name or number, those of most messages first."""
    log = evidence.log
    there = sorted(log.named, key=lambda inode: -log.named[inode])
    names = [evidence.names.get(inode) or f"net:[{inode}]" for inode in there]
    return [*names, *(f"net:[{inode}]" for inode in log.gone)]


def _raised_since(evidence: Evidence, report: NamespaceReport) -> Change | None:
    """Return the change that raised the limit after the table was last full."""
    full = _last_full(evidence, report)
    raised = [
        change
        for change in _changes(evidence, report)
        if change.before.wall > full and (not change.new or 0 < change.old < change.new)
    ]
    return raised[-1] if raised and full else None


def _reached(evidence: Evidence, report: NamespaceReport) -> int:
    """Return the count that was reached when the table was full: the limit in force then."""
    full = _last_full(evidence, report)
    if not full or report.limits is None:
        return 0
    later = [change for change in _changes(evidence, report) if change.before.wall > full]
    if not later:
        return report.limits.limit
    change = later[0]
    if change.after.wall >= full:
        return change.old
    # It was full between the runs that read the two limits: the lower one was reached.
    return min(change.old or change.new, change.new or change.old)


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
