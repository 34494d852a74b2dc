"""check_conntrack_usage: how full the connection-tracking table is, and when it will be full.

Reads sysctls that everybody may read; only other network namespaces need privileges, and the
reader. In three acts: acquire (read, Usage), evaluate (contexts in nagios.py), present
(UsageSummary).
"""

from __future__ import annotations

from contextlib import ExitStack

from nagiosplugin import Metric, Ok, Resource

from . import cli, nagios, namespaces, render, reports, runner, session
from .kernel import KernelError
from .kernel.namedtuple import NamedTuple
from .kernel.namespaces import Namespace, NamespaceScan
from .ranges import Label, parse_thresholds
from .state import trend

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from nagiosplugin import Result, Results

    from .session import Session
    from .signals import Stage
    from .state.state_store import Store
    from .state.trend import Series

TITLE = "CONNTRACK_USAGE"
PURPOSE = """\
How full is the kernel's connection-tracking table, and when will it be full? A full
table refuses new connections while established ones go on. Needs no privileges."""
LABELS = (
    Label("usage", "entries in percent of the limit", "%", 1, warning="80", critical="90"),
    Label("entries", "entries in the table; a bound in % is of the limit", share_of="limit"),
    Label("limit", "nf_conntrack_max, 0 for none"),
    Label("load_factor", "entries per hash bucket", decimals=2),
    Label(
        "growth",
        "entries per second, when known",
        decimals=2,
        minimum=None,
        needs_history=True,
        when_known=True,
    ),
    Label(
        "time_to_full",
        "time left at that growth, when known",
        "s",
        needs_history=True,
        when_known=True,
    ),
)
NAMESPACE_LABELS = ("usage", "entries", "time_to_full")  # of namespaces beside the first
LONGEST_WINDOW = 30 * 86400  # seconds
SOON = 86400  # seconds; a longer time to full is not on the status line
EXAMPLES = """\
Examples:
  check_conntrack_usage -w 80 -c 90
  check_conntrack_usage -w time_to_full=4h: -c time_to_full=30m:
  check_conntrack_usage -w 70 -w limit=262144: -c entries=90%
  check_conntrack_usage --netns all --sudo
  check_conntrack_usage -v --trend-window 6h --state-key slow
"""


# --- acquire


class NamespaceReport(NamedTuple):
    """A namespace's limits and their history.

    series: this run included; None where no history is kept.
    growth: entries per second, signed; None if not known yet.
    graphed: whether it has perfdata.
    """

    namespace: Namespace
    series: Series | None = None
    growth: float | None = None
    graphed: bool = True

    @property
    def time_to_full(self) -> float | None:
        """Return the seconds until the table is full; None if that is not in sight."""
        limits = self.namespace.limits
        return trend.time_to_full(limits.entries, limits.limit, self.growth) if limits else None

    def metrics(self) -> Iterator[Metric]:
        """Yield the values in the order of LABELS; only NAMESPACE_LABELS beside the first."""
        limits, prefix = self.namespace.limits, self.namespace.prefix
        if limits is None:
            return
        values = {
            "usage": limits.usage,
            "entries": limits.entries,
            "limit": limits.limit,
            "load_factor": limits.entries / limits.buckets if limits.buckets else None,
            "growth": self.growth,
            "time_to_full": self.time_to_full,
        }
        largest = {"usage": 100, "entries": limits.limit or None}
        for label in LABELS:
            value = values[label.name]
            if value is not None and (not prefix or label.name in NAMESPACE_LABELS):
                context = label.name if self.graphed else nagios.HIDDEN + label.name
                largest_value = largest.get(label.name)
                yield Metric(
                    prefix + label.name, value, None, label.minimum, largest_value, context
                )


def read(run: Session, options: argparse.Namespace) -> tuple[Usage, reports.Histories]:
    """Return the tables that were asked for, and the histories to write after the verdict."""
    run.stage("reading /proc/sys/net/netfilter")
    try:
        scan = namespaces.scan(run, options.netns)
    except KernelError as error:
        scan = NamespaceScan(problems=(str(error),))
    run.stage("reading the state")
    histories = reports.Histories("usage", options, run, options.trend_window)
    graphed, hidden = reports.graphed(scan.others)
    shown = [scan.first, *graphed] if scan.first else graphed
    series = histories.read(shown)
    namespace_reports = [
        NamespaceReport(one, series[one.path], trend.growth(series[one.path].samples))
        for one in shown
    ]
    namespace_reports += [NamespaceReport(one, graphed=False) for one in hidden]
    return Usage(namespace_reports, scan), histories


class Usage(Resource):
    """The tables that were asked for, the one that plain labels describe first."""

    def __init__(self, namespace_reports: Sequence[NamespaceReport], scan: NamespaceScan) -> None:
        self.reports = namespace_reports
        self.problems = scan.problems
        self.inactive = scan.inactive

    @property
    def not_applicable(self) -> tuple[str, ...]:
        """Return the labels that have no value and need none: there is no table, or no limit."""
        first = self.reports[0].namespace.limits if self.reports else None
        if first is None:
            return tuple(label.name for label in LABELS) if self.inactive else ()
        return () if first.limit else ("usage", "entries")

    def probe(self) -> Iterator[Metric]:
        """Yield the first namespace's metrics, then the problems, then those of the others."""
        for report in self.reports:
            if not report.namespace.prefix:
                yield from report.metrics()
        for problem in self.problems:
            yield Metric("problem", problem, context="problem")
        if self.inactive:
            yield Metric("inactive", ", ".join(self.inactive), context="inactive")
        for report in self.reports:
            if report.namespace.prefix:
                yield from report.metrics()


# --- present


class UsageSummary(nagios.StatusSummary):
    """The text of the status line, and the long output."""

    def __init__(self, usage: Usage, run: Session, verbose: int) -> None:
        self.usage = usage
        self.run = run
        self.verbosity = verbose

    def ok(self, results: Results) -> str:
        """Return the state of the first table, and of the fullest one."""
        return self.problem(results)

    def problem(self, results: Results) -> str:
        """Return the state of the worst table, the cause, other namespaces, the time left."""
        shown = reports.by_severity(self.usage.reports, LABELS, results)
        parts: list[Sequence[str]] = []
        if shown:
            alarms = nagios.alarms(reports.results_of(shown[0], LABELS, results))
            cause = _cause(shown[0], alarms)
            left = _time_left(shown[0], alarms)
            suffix = f", {left}" if left and not cause else ""
            usage = reports.usage_of(shown[0], results)
            parts.append(reports.table_state(shown[0].namespace, usage, suffix))
            parts += map(render.versions, self.usage.problems)
            parts.append([cause])
            parts += [
                [reports.too_high_or_low(alarm)]
                for alarm in alarms
                if nagios.label_of(alarm) not in ("usage", "entries", "time_to_full")
            ]
            parts.append([left if cause else ""])
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

    def empty(self) -> str:
        """Return the text if there is nothing to evaluate."""
        return "all namespaces that were asked for are gone"

    def verbose(self, results: Results) -> list[str]:
        """Return what alarms and since when, what could not be read, what to do, the numbers."""
        usage = self.usage
        shown = reports.by_severity(usage.reports, LABELS, results)
        alarms = nagios.alarms(reports.results_of(shown[0], LABELS, results)) if shown else []
        lines = [
            f"{alarm.state.text.upper()}: {nagios.describe_alarm(alarm)}{_since(shown[0], alarm)}"
            for alarm in alarms
        ]
        lines += [f"UNKNOWN: {problem}" for problem in usage.problems]
        if self.run.forbidden:
            lines += session.grant("read other namespaces", as_root=self.run.as_root)
        if len(usage.reports) > 1:
            most = None if self.verbosity > 1 else reports.MOST_GRAPHED + 1
            left = {"full in": _full_in}
            lines += reports.namespace_table(usage.reports, results, left, most)
        if shown:
            lines += _history(shown[0]) + _advice(shown[0], alarms, self.run.store)
        if self.verbosity > 2:
            lines += [
                f"Read {one.limits.origin}count and max in net:[{one.inode}] {one.name}"
                for one in (report.namespace for report in usage.reports)
                if one.limits
            ]
        return lines + nagios.state_lines(self.run, self.verbosity)


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
    if not left or not (left < SOON or alarming):
        return ""
    return f"full in about {render.duration(left)}"


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
    return f", for at least {render.duration(held)}" if held else ""


def _is_too_full(alarm: Result) -> bool:
    """Return whether an alarm says that the table is or will be too full, or its limit is wrong."""
    context = nagios.context_of(alarm)
    return context.label.name in ("limit", "time_to_full") or not context.too_low(alarm)


def _history(report: NamespaceReport) -> list[str]:
    """Return the trend, the changes of the limit and the buckets, and the load of the hash."""
    limits, series = report.namespace.limits, report.series
    lines = []
    if series and len(series.samples) > 1:
        span = render.duration(series.samples[-1].at - series.samples[0].at)
        growth = "" if report.growth is None else f"growth {report.growth:+.2f} entries/s, "
        lines.append(
            f"Trend: {growth}peak of {trend.PEAK_DAYS} days {series.peak} entries "
            f"({len(series.samples)} runs in {span})"
        )
    for change in series.recent_changes if series else ():
        text = reports.change_text(change, series.last if series else change.before)
        lines.append(text[:1].upper() + text[1:])
    if limits and limits.buckets:
        load = limits.entries / limits.buckets
        lines.append(f"Hash: {limits.buckets} buckets, {load:.2f} entries each")
    return lines


def _advice(report: NamespaceReport, alarms: Sequence[Result], store: Store) -> list[str]:
    limits = report.namespace.limits
    if not alarms or limits is None:
        return []
    from .advice import capacity

    labels = {nagios.label_of(alarm) for alarm in alarms if _is_too_full(alarm)}
    peak = report.series.peak if report.series else limits.entries
    finding = nagios.last_finding(store, report.namespace.key)
    evidence = nagios.capacity_evidence(limits, peak, finding)
    evidence = evidence._replace(netns=report.namespace.option)
    change = trend.lowered(report.series) if report.series else None
    if change:
        evidence = evidence._replace(lowered_from=change.old)
    if labels & {"growth", "time_to_full"}:
        evidence = evidence._replace(growth=report.growth or 0.0)
    return capacity.advise(evidence, labels)


# --- the entry


def _window(text: str) -> float:
    seconds = cli.parse_seconds(text)
    if not trend.SHORTEST_SPAN <= seconds <= LONGEST_WINDOW:
        raise cli.ArgumentTypeError(f"{text!r} is not between 5m and 30d")
    return seconds


def parser() -> cli.Parser:
    """Return the parser of this check's command line."""
    made = cli.make_parser("check_conntrack_usage", PURPOSE, LABELS, EXAMPLES)
    made.add_argument_group("options of this check").add_argument(
        "--trend-window",
        type=_window,
        default=3600.0,
        metavar="DURATION",
        help="time span for growth (default: 1h); growth is known after 3 runs and 5 minutes",
    )
    return made


def run_check(options: argparse.Namespace, stage: Stage) -> runner.CheckResult:
    """Run the check. Privileges are dropped before anything from the kernel is parsed."""
    thresholds = parse_thresholds(LABELS, options.warning, options.critical)
    with ExitStack() as stack:
        run = session.begin(options, stage, stack, readers=1 if options.netns else 0)
        usage, histories = read(run, options)
        return nagios.conclude(
            options,
            run,
            usage,
            UsageSummary(usage, run, options.verbose),
            nagios.contexts(LABELS, thresholds, options.if_inactive),
            thresholds=thresholds,
            not_applicable=usage.not_applicable,
            remember=histories.write,
        )


def main(late: float = 0.0) -> int:
    """Run the executable; returns the exit code. `late`: seconds that starting took."""
    return runner.run(TITLE, parser(), run_check, late=late)
