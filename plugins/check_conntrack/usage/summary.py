"""Present: the status line and the long output of check_conntrack_usage."""

from __future__ import annotations

from nagiosplugin import Ok

from .. import nagios, render, reports, session
from ..state import trend
from ..state.forecast import NEAREST
from .labels import INSTANCE_LABELS, TABLE_LABELS
from .resource import NamespaceReport, Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nagiosplugin import Result, Results

    from ..session import Session
    from ..state.outlook import Outlook
    from ..state.state_store import Store

FED = 0.5  # of the rate that fills the table in the time that is left: the rest is chance


class UsageSummary(nagios.StatusSummary):
    """The text of the status line, and the long output."""

    def __init__(self, usage: Usage, run: Session, verbose: int, window: float) -> None:
        self.usage = usage
        self.run = run
        self.verbosity = verbose
        self.window = window
        self._owners = reports.Owners(run)

    def ok(self, results: Results) -> str:
        """Return the state of the first table, and of the fullest one."""
        if self.verbosity:
            self.usage.reports = self._owners.named(self.usage.reports)
        return self._text(results)

    def problem(self, results: Results) -> str:
        """Return the state of the worst table, the cause, other namespaces, the time left.

        Namespaces are called by their owners, which takes time that a healthy run saves.
        """
        self.usage.reports = self._owners.named(self.usage.reports)
        return self._text(results)

    def _text(self, results: Results) -> str:
        shown = reports.by_severity(self.usage.reports, TABLE_LABELS, results)
        # EC2 refuses a packet before the kernel's table sees it.
        instance = self.usage.instance
        parts: list[Sequence[str]] = [instance.fact(self._of_instance(results)) if instance else ()]
        if shown:
            alarms = nagios.alarms(reports.results_of(shown[0], TABLE_LABELS, results))
            cause = _cause(shown[0], alarms)
            left = _time_left(shown[0], alarms)
            where_to = [each for each in (*_heading(shown[0], left), left) if each]
            suffix = "" if cause else "".join(f", {each}" for each in where_to)
            usage = reports.usage_of(shown[0], results)
            parts.append(reports.table_state(shown[0].namespace, usage, suffix))
            parts += map(render.versions, self.usage.problems)
            parts.append([cause])
            parts += [
                [reports.too_high_or_low(alarm)]
                for alarm in alarms
                if nagios.label_of(alarm) not in ("usage", "entries", "time_to_full", "settles_at")
            ]
            parts.append([", ".join(where_to), left] if cause else [])
            if alarms:
                parts.append(reports.also(shown[1:], results))
            else:
                parts.append(reports.fullest(self.usage.reports, shown[0], results))
        else:
            parts += map(render.versions, self.usage.problems)
        if self.usage.inactive and not shown:
            parts.append(["conntrack is not active on this host"])
        elif self.usage.inactive and results["inactive"].state is not Ok:
            parts.append([f"conntrack is not active {', '.join(self.usage.inactive)}"])
        return render.fit(parts, self.room)

    def _of_instance(self, results: Results) -> list[Result]:
        """Return the alarms of EC2's own limit."""
        names = [name for name in INSTANCE_LABELS if name in results]
        return nagios.alarms(results[name] for name in names)

    def empty(self) -> str:
        """Return the text if there is nothing to evaluate."""
        return "all namespaces that were asked for are gone"

    def verbose(self, results: Results) -> list[str]:
        """Return what alarms and since when, what could not be read, what to do, the numbers."""
        usage = self.usage
        usage.reports = self._owners.named(usage.reports)
        shown = reports.by_severity(usage.reports, TABLE_LABELS, results)
        alarms = nagios.alarms(reports.results_of(shown[0], TABLE_LABELS, results)) if shown else []
        of_instance = self._of_instance(results)
        lines = nagios.alarm_lines(
            [*of_instance, *alarms],
            lambda alarm: _since(shown[0], alarm) if alarm in alarms else "",
        )
        lines += [f"UNKNOWN: {problem}" for problem in usage.problems]
        if self._owners.problem and self.verbosity:
            lines.append(f"Names of owners are missing: {self._owners.problem}")
        if usage.instance:
            lines += [f"Not read: {problem}" for problem in usage.instance.problems]
            lines += usage.instance.advice(of_instance)
        if self.run.forbidden:
            lines += session.grant("read other namespaces", as_root=self.run.as_root)
        elif usage.heard and usage.heard.forbidden:
            lines += session.grant("listen to events", as_root=self.run.as_root)
        if len(usage.reports) > 1:
            most = None if self.verbosity > 1 else reports.MOST_GRAPHED + 1
            left = {"full in": _full_in}
            lines += reports.namespace_table(usage.reports, results, left, most)
        if shown:
            lines += _history(shown[0], self.window) + _advice(shown[0], alarms, self.run.store)
        if usage.instance and self.verbosity:
            lines += usage.instance.lines()
        if self.verbosity > 2:
            lines += [
                f"Read {one.limits.origin}count and max in net:[{one.inode}] {one.name}"
                for one in (report.namespace for report in usage.reports)
                if one.limits
            ]
        return lines + session.state_lines(self.run, self.verbosity)


def _cause(report: NamespaceReport, alarms: Sequence[Result]) -> str:
    """Return that the limit was lowered, if too many entries are in use; else nothing."""
    change = trend.lowered(report.series) if report.series else None
    labels = {nagios.label_of(alarm) for alarm in alarms if _is_too_full(alarm)}
    if change is None or report.series is None or not labels:
        return ""
    return reports.change_text(change, report.series.last)


def _time_left(report: NamespaceReport, alarms: Sequence[Result]) -> str:
    """Return when the table will be full, if that is soon or an alarm; empty if it is full."""
    left = report.time_to_full
    alarming = any(nagios.label_of(alarm) == "time_to_full" for alarm in alarms)
    return reports.time_left(left, always=alarming)


def _heading(report: NamespaceReport, left: str) -> list[str]:
    """Return the rate of new entries, and where it leads if that is not to a full table.

    Beside a time until the table is full stands only a rate that can fill it.
    """
    outlook = report.outlook
    if outlook is None or (left and not _is_fed(report)):
        return []
    words = [_per_second(outlook) + " new/s" + (" in a burst" if outlook.burst else "")]
    limits = report.namespace.limits
    full = limits is not None and limits.full
    if outlook.settles_at is not None and not left and not full:
        words.append(f"settles at {_settles_at(outlook.settles_at, 'about ')}")
    return words


def _is_fed(report: NamespaceReport) -> bool:
    """Return whether so many new entries as were heard fill the table in the time that is left.

    They do not where connections come in bursts between the runs, or one in a few seconds.
    """
    left, limits = report.time_to_full, report.namespace.limits
    if report.outlook is None or not limits or not left:
        return True
    return report.outlook.new_rate >= FED * (limits.limit - limits.entries) / left


def _settles_at(share: float, about: str = "") -> str:
    """Return a share of the limit in words; MOST_PERCENT stands for all that is more."""
    from ..state.outlook import MOST_PERCENT

    return f"{about if share < MOST_PERCENT else 'more than '}{render.percent(share)}"


def _per_second(outlook: Outlook) -> str:
    """Return the rate of new entries, as a lower bound if events were lost."""
    rate = outlook.new_rate
    number = f"{rate:.0f}" if rate >= 10 or rate == int(rate) else f"{rate:.1f}"
    return f"at least {number}" if outlook.at_least else number


def _full_in(report: reports.Report) -> str:
    left = report.time_to_full if isinstance(report, NamespaceReport) else None
    return "" if left is None else render.duration(left) if left else "now"


def _since(report: NamespaceReport, alarm: Result) -> str:
    """Return for how long usage has violated its threshold, as far back as the history goes.

    With another limit the same count was another usage: only runs with the present limit count.
    """
    context, limits, series = nagios.context_of(alarm), report.namespace.limits, report.series
    if context.label.name != "usage" or not limits or not series:
        return ""
    limit = limits.limit
    since = max(
        [change.before.up for change in series.changes if change.what == "limit"], default=0.0
    )
    held = trend.held_for(
        [sample for sample in series.samples if sample.at >= since],
        lambda entries: context.violates(alarm.state, 100 * entries / limit),
    )
    return f", for at least {render.duration(int(held))}" if held else ""


def _is_too_full(alarm: Result) -> bool:
    """Return whether an alarm says that the table is or will be too full, or its limit is wrong."""
    context = nagios.context_of(alarm)
    if context.label.name in ("new_rate", "end_rate", "lifetime"):
        return False
    return context.label.name in ("limit", "time_to_full") or not context.too_low(alarm)


def _history(report: NamespaceReport, window: float) -> list[str]:
    """Return the trend, what changed within the trend window, and the load of the hash."""
    limits, series = report.namespace.limits, report.series
    lines = []
    if series and len(series.samples) > 1:
        span = series.samples[-1].at - series.samples[0].at
        peak = render.plural(series.peak, "entry", "entries")
        growth = "" if report.growth is None else f"growth {report.growth:+.2f} entries/s"
        if growth and report.forecast.span < span:
            growth += f" in the last {render.duration(report.forecast.span)}"
        lines.append(
            f"Trend: {growth}{growth and ', '}peak of {trend.PEAK_DAYS} days {peak} "
            f"({len(series.samples)} runs in {render.duration(span)})"
        )
    lines += reports.change_lines(series, window)
    if report.outlook:
        more = "" if _is_fed(report) else "; the table grew while nobody listened"
        lines.append(_heard(report.outlook) + more)
    if limits and limits.buckets:
        load = limits.entries / limits.buckets
        lines.append(f"Hash: {limits.buckets} buckets, {load:.2f} entries each")
    return lines


def _heard_growth(report: NamespaceReport) -> float:
    """Return the entries per second by which the table fills up, if that was heard; else 0."""
    outlook, limits = report.outlook, report.namespace.limits
    left = outlook.time_to_full if outlook else None
    if outlook is None or not limits or not left:
        return 0.0
    # What is left is at least NEAREST, however fast it grows.
    return outlook.new_rate if left <= NEAREST else (limits.limit - limits.entries) / left


def _heard(outlook: Outlook) -> str:
    """Return what was heard while listening, and what follows from it."""
    parts = [f"{_per_second(outlook)} new entries/s"]
    if outlook.burst:
        parts[0] += " in a burst (a later run knows whether it goes on)"
    if outlook.end_rate is not None:
        parts.append(f"{outlook.end_rate:.0f} end per second")
    if outlook.lifetime is not None:
        parts.append(f"an entry counts for {render.duration(outlook.lifetime)} on average")
    if outlook.settles_at is not None:
        parts.append(f"settles at {_settles_at(outlook.settles_at)} of the limit")
    lost = " (the kernel had no room for all events)" if outlook.at_least else ""
    return f"Listening: {', '.join(parts)}{lost}"


def _advice(report: NamespaceReport, alarms: Sequence[Result], store: Store) -> list[str]:
    limits = report.namespace.limits
    if not alarms or limits is None:
        return []
    from ..advice import capacity

    labels = {nagios.label_of(alarm) for alarm in alarms if _is_too_full(alarm)}
    peak = report.series.peak if report.series else limits.entries
    finding = reports.last_finding(store, report.namespace.key)
    evidence = reports.capacity_evidence(limits, peak, finding)
    evidence = evidence._replace(netns=report.namespace.option)
    change = trend.lowered(report.series) if report.series else None
    if change:
        evidence = evidence._replace(lowered_from=change.old)
    if labels & {"growth", "time_to_full", "settles_at"}:
        evidence = evidence._replace(growth=max(report.growth or 0.0, _heard_growth(report)))
    return capacity.advise(evidence, labels)
