"""Acquire: the count and the limit of each namespace, with their history."""

from __future__ import annotations

from nagiosplugin import Metric, Resource

from .. import nagios, namespaces, reports
from ..kernel import KernelError
from ..kernel.limits import has_ena
from ..kernel.namedtuple import NamedTuple
from ..kernel.namespaces import Namespace, NamespaceScan
from ..state.forecast import UNHEARD, Forecast, forecast
from .labels import INSTANCE_LABELS, LISTENING_LABELS, NAMESPACE_LABELS, TABLE_LABELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from ..ranges import Thresholds
    from ..session import Session
    from ..state.outlook import Outlook
    from ..state.state_store import Store
    from ..state.trend import Series
    from .instance import InstanceReport
    from .listening import Heard


class NamespaceReport(NamedTuple):
    """A namespace's limits and their history.

    series: this run included; None where no history is kept.
    forecast: the growth, and where it leads.
    graphed: whether it has perfdata.
    outlook: where the table is heading; None without --listen, or if nothing was heard.
    """

    namespace: Namespace
    series: Series | None = None
    forecast: Forecast = Forecast()
    graphed: bool = True
    outlook: Outlook | None = None

    @property
    def growth(self) -> float | None:
        """Return the entries per second, signed; None if not known."""
        return self.forecast.growth

    @property
    def time_to_full(self) -> float | None:
        """Return the seconds until the table is full; None if that is not in sight.

        Of what the growth says and what was heard, the smaller one.
        """
        limits = self.namespace.limits
        if limits and limits.full:
            return 0.0
        heard = self.outlook.time_to_full if self.outlook else None
        known = [each for each in (self.forecast.time_to_full, heard) if each is not None]
        return min(known, default=None)

    def metrics(self) -> Iterator[Metric]:
        """Yield the values in the order of TABLE_LABELS; only NAMESPACE_LABELS beside the first."""
        limits, prefix = self.namespace.limits, self.namespace.prefix
        if limits is None:
            return
        values: dict[str, float | None] = {
            "usage": limits.usage,
            "entries": limits.entries,
            "limit": limits.limit,
            "load_factor": limits.entries / limits.buckets if limits.buckets else None,
            "growth": self.growth,
            "time_to_full": self.time_to_full,
        }
        if self.outlook:
            values.update((name, getattr(self.outlook, name)) for name in LISTENING_LABELS)
        largest = {"usage": 100, "entries": limits.limit or None}
        for label in TABLE_LABELS:
            value = values.get(label.name)
            if value is not None and (not prefix or label.name in NAMESPACE_LABELS):
                context = label.name if self.graphed else nagios.HIDDEN + label.name
                largest_value = largest.get(label.name)
                yield Metric(
                    prefix + label.name, value, None, label.minimum, largest_value, context
                )


def read(
    run: Session, options: argparse.Namespace, thresholds: Thresholds
) -> tuple[Usage, Callable[[], None]]:
    """Return the tables that were asked for, and what writes their histories after the verdict."""
    run.stage("reading /proc/sys/net/netfilter")
    try:
        scan = namespaces.scan(run, options.netns)
    except KernelError as error:
        scan = NamespaceScan(problems=(str(error),))
    heard, remember = _listen(run, options, scan)
    if heard:
        scan = scan._replace(
            first=_counted_again(scan.first, heard.entries),
            problems=(*scan.problems, *_not_evaluated(heard, thresholds)),
        )
    run.stage("reading the state")
    window = options.trend_window
    histories = reports.Histories("usage", options, run, window)
    graphed, hidden = reports.graphed(scan.others)
    shown = [scan.first, *graphed] if scan.first else graphed
    series = histories.read(shown)
    namespace_reports = [
        report_on(
            one,
            series[one.path],
            window,
            heard.outlook if heard and one is scan.first else None,
        )
        for one in shown
    ]
    namespace_reports += [NamespaceReport(one, graphed=False) for one in hidden]

    def write() -> None:
        histories.write()
        remember()

    return Usage(namespace_reports, scan, _instance(run), heard), write


def _listen(
    run: Session, options: argparse.Namespace, scan: NamespaceScan
) -> tuple[Heard | None, Callable[[], None]]:
    """Listen in the first namespace, if that is wanted and it has a table.

    Returns what was heard, and what keeps it for later runs.
    """
    if not options.listen or not scan.first:
        return None, lambda: None
    from .listening import Listener

    listener = Listener(options, run)
    return listener.listen(scan.first, reports.now), listener.write


def _counted_again(namespace: Namespace | None, entries: int | None) -> Namespace | None:
    """Return a namespace with the count at the end of listening, if there is one."""
    if namespace is None or namespace.limits is None or entries is None:
        return namespace
    return namespace._replace(limits=namespace.limits._replace(entries=entries))


def _not_evaluated(heard: Heard, thresholds: Thresholds) -> list[str]:
    """Return a problem if a range was given for a label that nothing was heard for."""
    names = [name for name in LISTENING_LABELS if name in thresholds.given]
    if not heard.problem or not names:
        return []
    return [f"{', '.join(names)} cannot be evaluated: {heard.problem}"]


def _instance(run: Session) -> InstanceReport | None:
    """Return what EC2 can still track; None elsewhere than on EC2."""
    if not has_ena():
        return None
    from . import instance

    run.stage("reading the statistics of the interfaces")
    return instance.read(run.store)


def report_on(
    namespace: Namespace, series: Series, window: float, heard: Outlook | None = None
) -> NamespaceReport:
    """Return the report on a namespace: how its count grows, and where that leads.

    heard: where the table is heading, as far as its events tell. If it settles below the limit, a
    growth of twice the time that an entry stays, or less, says nothing against that: a burst of
    connections looks like a flood.
    """
    limits = namespace.limits
    if limits is None:
        return NamespaceReport(namespace, series)
    shortest = 0.0
    # Where events were lost, more arrives than was heard, and the table settles higher.
    if heard and not heard.at_least and heard.settles_at is not None and heard.settles_at < 100:
        shortest = 2 * heard.stay
    held = series.held_before_boot(window)
    arrivals = heard.arrivals if heard else UNHEARD
    burst = heard.burst if heard else 0
    growth = forecast(series.samples, limits.limit, held, shortest, arrivals, burst)
    return NamespaceReport(namespace, series, growth, outlook=heard)


class Usage(Resource):
    """The tables that were asked for, the one that plain labels describe first.

    instance: EC2's own limit; None elsewhere than on EC2.
    heard: what was heard; None without --listen, or if there is no table.
    """

    def __init__(
        self,
        namespace_reports: Sequence[NamespaceReport],
        scan: NamespaceScan,
        instance: InstanceReport | None = None,
        heard: Heard | None = None,
    ) -> None:
        self.reports = namespace_reports
        self.heard = heard
        self.problems = scan.problems
        self.inactive = scan.inactive
        self.instance = instance

    @property
    def not_applicable(self) -> tuple[str, ...]:
        """Return the labels that have no value and need none: there is no table, or no limit."""
        first = self.reports[0].namespace.limits if self.reports else None
        later = self.instance.not_applicable if self.instance else ()
        if first is None:
            return (*(label.name for label in TABLE_LABELS if self.inactive), *later)
        return later if first.limit else ("usage", "entries", *later)

    @property
    def not_known_yet(self) -> tuple[str, ...]:
        """Return the labels of the first table that earlier runs are missing for."""
        report = self.reports[0] if self.reports else None
        if report is None or report.series is None:
            return ()
        outlook, instance = report.outlook, self.instance
        alone = len(report.series.samples) < 2
        listens = outlook is not None and outlook.end_rate is None
        limits = report.namespace.limits
        limited = limits is not None and limits.limit > 0
        settled = not limited or outlook is None or outlook.settles_at is not None
        in_burst = outlook is not None and outlook.burst > 0
        unknown = {
            "growth": report.growth is None,
            "time_to_full": report.time_to_full is None and alone,
            "end_rate": listens,
            "lifetime": listens,
            "settles_at": not settled and (listens or in_burst),
            "instance_usage": instance is not None and bool(instance.not_applicable),
        }
        return tuple(name for name, is_unknown in unknown.items() if is_unknown)

    @property
    def absent(self) -> tuple[str, ...]:
        """Return the labels of what does not exist here."""
        return () if self.instance else INSTANCE_LABELS

    def write(self, store: Store) -> None:
        """Keep what later runs need to know of EC2's limit."""
        if self.instance:
            from . import instance

            instance.write(store, self.instance)

    @property
    def notes(self) -> list[str]:
        """Return the line that is printed in any state: why nothing was heard."""
        if not self.heard or not self.heard.problem:
            return []
        return [f"Events could not be counted: {self.heard.problem}"]

    def probe(self) -> Iterator[Metric]:
        """Yield the first namespace's metrics, then the problems, then those of the others."""
        for report in self.reports:
            if not report.namespace.prefix:
                yield from report.metrics()
        if self.instance:
            yield from self.instance.metrics()
        for problem in self.problems:
            yield Metric("problem", problem, context="problem")
        if self.inactive:
            yield Metric("inactive", ", ".join(self.inactive), context="inactive")
        for report in self.reports:
            if report.namespace.prefix:
                yield from report.metrics()
