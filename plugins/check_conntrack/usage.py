"""check_conntrack_usage: how full the connection-tracking table is, and when it will be full.

Reads sysctls that everybody may read. Only other network namespaces take a right, and then the
reader looks. In three acts: Usage (acquire), contexts (evaluate), UsageSummary (present).
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from nagiosplugin import Metric, Ok, Resource, Result, Results, Summary

from . import cli, nagios, namespaces, render, runner, session
from .kernel import KernelError
from .kernel.namedtuple import NamedTuple
from .kernel.namespaces import Namespace, NamespaceScan
from .ranges import Label, parse_thresholds
from .state import trend
from .state.state_store import boot_id, kept_series, series_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Callable

    from . import signals
    from .kernel.limits import Limits
    from .session import Session

TITLE = "CONNTRACK_USAGE"
PURPOSE = """\
How full is the kernel's connection-tracking table, and when will it be full? A full
table drops every new connection while established ones go on. Needs no right."""
LABELS = (
    Label("usage", "entries of the limit", "%", 1, warning="80", critical="90"),
    Label("entries", "entries in the table; a bound in % is of the limit", share_of="limit"),
    Label("limit", "nf_conntrack_max, 0 for none"),
    Label("load_factor", "entries per hash bucket", decimals=2),
    Label("growth", "entries per second, when known", decimals=2, minimum=None, needs_history=True),
    Label("time_to_full", "time left at that growth, when known", "s", needs_history=True),
)
# Of further namespaces so many are graphed, the fullest first, by these labels.
MOST_NAMESPACES = 10
NAMESPACE_LABELS = ("usage", "entries", "time_to_full")
LONGEST_WINDOW = 30 * 86400  # seconds
SOON = 86400  # seconds; what is farther away stands in the perfdata alone
EXAMPLES = """\
Examples:
  check_conntrack_usage -w 80 -c 90
  check_conntrack_usage -w time_to_full=4h: -c time_to_full=30m:
  check_conntrack_usage -w 70 -w limit=262144: -c entries=90%
  check_conntrack_usage --netns all --sudo
  check_conntrack_usage -v --trend-window 6h --state-key slow
"""


class Place(NamedTuple):
    """A network namespace as this run found it, and what is remembered of it.

    `samples` end with this run's, `growth` is in entries per second, None where it is not known.
    """

    spot: Namespace
    samples: tuple[trend.Sample, ...] = ()
    peak: int = 0
    growth: float | None = None

    @property
    def name(self) -> str:
        """What it is called, empty for the one the check runs in."""
        return self.spot.name

    @property
    def prefix(self) -> str:
        """What its labels begin with."""
        return self.spot.prefix

    @property
    def limits(self) -> Limits:
        """Its entries and its limit."""
        assert self.spot.limits  # noqa: S101 - a scan leaves out all others
        return self.spot.limits

    @property
    def time_to_full(self) -> float | None:
        """Seconds until the table is full; None where that is not in sight."""
        return trend.time_to_full(self.limits.entries, self.limits.limit, self.growth)

    @property
    def fullness(self) -> tuple[float, int]:
        """What orders places, the fullest highest."""
        return (self.limits.usage or 0.0, self.limits.entries)

    def metrics(self, *, quiet: bool) -> Iterator[Metric]:
        """The figures in the order of LABELS; of further namespaces the main ones alone."""
        limits = self.limits
        values: dict[str, float | None] = {
            "usage": limits.usage,
            "entries": limits.entries,
            "limit": limits.limit,
            "load_factor": limits.entries / limits.buckets if limits.buckets else None,
            "growth": self.growth,
            "time_to_full": self.time_to_full,
        }
        most = {"usage": 100, "entries": limits.limit or None}
        for label in LABELS:
            value = values[label.name]
            if value is not None and (not self.prefix or label.name in NAMESPACE_LABELS):
                yield Metric(
                    self.prefix + label.name,
                    value,
                    min=label.minimum,
                    max=most.get(label.name),
                    context=(nagios.HIDDEN if quiet else "") + label.name,
                )


# --- acquire


class Usage(Resource):
    """The tables of the network namespaces that were asked for.

    After probe(): `places`, the one the plain labels speak of first; `problems`, what could not
    be looked at; `inactive`, where conntrack is not active.
    """

    def __init__(self, options: argparse.Namespace, session: Session) -> None:
        self.options = options
        self.session = session
        self.store = session.store
        self.places: list[Place] = []
        self.problems: list[str] = []
        self.inactive: list[str] = []

    def probe(self) -> Iterator[Metric]:
        """The first namespace's metrics, what stands in the way, then the other namespaces'."""
        self.session.stage("reading /proc/sys/net/netfilter")
        try:
            sight = namespaces.scan(self.session, self.options.netns)
        except KernelError as error:
            sight = NamespaceScan(problems=(str(error),))
        self.problems += sight.problems
        self.inactive += sight.inactive
        first = Place(sight.first) if sight.first else None
        others = [Place(spot) for spot in sight.others]
        self.session.stage(f"remembering this run {self.store.folder}".strip())
        boot = boot_id()
        others.sort(key=lambda place: place.fullness, reverse=True)
        graphed = [place for place in others[:MOST_NAMESPACES] if place.limits.entries]
        quiet = others[len(graphed) :]
        graphed = self._with_histories(graphed, boot)
        if first:
            key = f"usage/{first.spot.key}/{self.options.state_key}"
            kept = self.store.update(key, self._change(first, boot))
            first = _remembered(first, kept, boot)
            self.places.append(first)
            yield from first.metrics(quiet=False)
        self.places += graphed + quiet
        for problem in self.problems:
            yield Metric("problem", problem, context="problem")
        if self.inactive:
            yield Metric("inactive", ", ".join(self.inactive), context="inactive")
        if self.store.trouble:
            yield Metric("history", self.store.trouble, context="history")
        for place in graphed:
            yield from place.metrics(quiet=False)
        for place in quiet:
            yield from place.metrics(quiet=True)

    def _with_histories(self, graphed: list[Place], boot: str) -> list[Place]:
        """The further places with what earlier runs saw of them, to which this run is added.

        All of them share one file: where namespaces come and go there would be thousands.
        """
        if not graphed:
            return []
        key = namespaces.further_key("usage", self.options.netns, self.options.state_key)
        changes = {place.spot.key: self._change(place, boot) for place in graphed}
        kept = self.store.update_each(key, changes)
        return [_remembered(place, kept[place.spot.key], boot) for place in graphed]

    def _change(self, place: Place, boot: str) -> Callable[[object], object]:
        """What adds this run to what is kept of a place."""
        now = trend.Sample(round(time.clock_gettime(time.CLOCK_BOOTTIME), 1), place.limits.entries)
        today = trend.Peak(int(time.time() // 86400), place.limits.entries)

        def change(kept: object) -> object:
            samples, peaks = series_of(kept, boot, place.spot.inode)
            samples = trend.extended(samples, now, self.options.trend_window)
            return kept_series(boot, place.spot.inode, samples, trend.with_peak(peaks, today))

        return change


def _remembered(place: Place, kept: object, boot: str) -> Place:
    """The place with what is kept of it, this run included."""
    samples, peaks = series_of(kept, boot, place.spot.inode)
    return place._replace(
        samples=samples,
        peak=max(peak.entries for peak in peaks),
        growth=trend.growth(samples),
    )


# --- present


class UsageSummary(Summary):
    """The sentence for the status line, and the lines below it."""

    def __init__(self, usage: Usage) -> None:
        self.usage = usage

    def ok(self, results: Results) -> str:
        """The figures of the first namespace."""
        return self.problem(results)

    def problem(self, results: Results) -> str:
        """The fullest of the worst, what else alarms there, and what could not be seen."""
        parts = []
        head = self._head(results)
        if head:
            parts.append(self._sentence(head, results))
            parts += [
                nagios.describe_alarm(result)
                for result in nagios.alarms(_of(head, results))
                if nagios.label_of(result) not in ("usage", "entries")
            ]
        if self.usage.inactive and not head:
            parts.append("conntrack is not active on this host")
        elif self.usage.inactive and results["inactive"].state is not Ok:
            parts.append(f"conntrack is not active {', '.join(self.usage.inactive)}")
        parts += self.usage.problems
        parts += [f"growth unknown: {result.hint}" for result in nagios.history_alarms(results)]
        if len(self.usage.places) > 1:
            parts.append(f"{len(self.usage.places)} namespaces seen")
        return "; ".join(parts)

    def empty(self) -> str:
        """There is nothing to say anything about."""
        return "every namespace that was asked for is gone"

    def verbose(self, results: Results) -> list[str]:
        """What alarms and since when, what was not seen, what to do, and the figures."""
        usage = self.usage
        head = self._head(results)
        lines: list[str] = []
        alarms = nagios.alarms(_of(head, results)) if head else []
        lines += [
            f"{result.state.text.upper()}: {nagios.describe_alarm(result)}{_since(head, result)}"
            for result in alarms
            if head
        ]
        lines += [f"UNKNOWN: {problem}" for problem in usage.problems]
        lines += [
            f"WARNING: growth cannot be judged: {result.hint}"
            for result in nagios.history_alarms(results)
        ]
        if usage.session.forbidden:
            lines += session.grant("look into other namespaces", as_root=usage.session.as_root)
        if len(usage.places) > 1:
            lines += _listing(usage.places, results, whole=usage.options.verbose > 1)
        if head:
            lines += _figures(head)
            if alarms:
                from .advice import capacity

                labels = {nagios.label_of(result) for result in alarms if _too_full(result)}
                evidence = nagios.capacity_evidence(head.limits, head.peak)
                if labels & {"growth", "time_to_full"}:
                    evidence = evidence._replace(growth=head.growth or 0.0)
                lines += capacity.advise(evidence, labels)
        if usage.options.verbose > 2:
            lines += [
                f"Read {place.limits.origin}count and max in net:[{place.spot.inode}] {place.name}"
                for place in usage.places
            ]
        return lines + nagios.state_lines(usage.session, usage.options.verbose)

    def _head(self, results: Results) -> Place | None:
        """The place that the status line is about: the fullest of those that are worst."""
        places = self.usage.places
        if not places:
            return None
        judged = [_of(place, results) for place in places]
        return places[nagios.decisive(judged, [place.fullness for place in places])]

    def _sentence(self, place: Place, results: Results) -> str:
        limits = place.limits
        where = f"namespace {place.name} " if place.name else ""
        if not limits.limit:
            return f"{where}{limits.entries} entries in use, no limit"
        share = nagios.print_value(results[place.prefix + "usage"])
        if limits.full:
            over = f" ({share})" if limits.entries > limits.limit else ""
            return (
                f"{where}full: {limits.entries} of {limits.limit} entries{over}, "
                "new connections are dropped"
            )
        left = place.time_to_full
        soon = f", full in about {render.duration(left)}" if left and left < SOON else ""
        return f"{where}{limits.entries} of {limits.limit} entries in use ({share}){soon}"


def _of(place: Place, results: Results) -> list[Result]:
    return nagios.results_of(place.prefix, LABELS, results)


def _since(place: Place, result: Result) -> str:
    """For how long usage has been outside its range, as far back as runs are remembered."""
    context = nagios.context_of(result)
    if context.label.name != "usage":
        return ""
    held = trend.held_for(
        place.samples,
        lambda entries: context.violates(result.state, 100 * entries / place.limits.limit),
    )
    return f", for {render.duration(held)} at least" if held else ""


def _too_full(result: Result) -> bool:
    """Whether an alarm says that the table is, or will be, too full, or its limit not as meant."""
    context = nagios.context_of(result)
    return context.label.name in ("limit", "time_to_full") or not context.too_low(result)


def _figures(place: Place) -> list[str]:
    limits = place.limits
    lines = []
    if len(place.samples) > 1:
        span = place.samples[-1].at - place.samples[0].at
        grown = "" if place.growth is None else f"growth {place.growth:+.2f} entries/s, "
        lines.append(
            f"Trend: {grown}peak of {trend.PEAK_DAYS} days {place.peak} entries "
            f"({len(place.samples)} runs in {render.duration(span)})"
        )
    if limits.buckets:
        load = limits.entries / limits.buckets
        lines.append(f"Hash: {limits.buckets} buckets, {load:.2f} entries each")
    return lines


def _listing(places: list[Place], results: Results, *, whole: bool) -> list[str]:
    shown = places if whole else places[: MOST_NAMESPACES + 1]
    rows = [("namespace", "entries", "usage", "full in")]
    for place in shown:
        left = place.time_to_full
        rows.append(
            (
                render.clean(place.name) or "(host)",
                str(place.limits.entries),
                nagios.print_value(results[place.prefix + "usage"]) if place.limits.limit else "",
                "" if left is None else render.duration(left) if left else "now",
            )
        )
    more = len(places) - len(shown)
    return render.table(rows) + ([f"  and {more} more (-vv)"] if more else [])


# --- the way in


def _window(text: str) -> float:
    import argparse

    seconds = cli.parse_seconds(text)
    if not trend.SHORTEST_SPAN <= seconds <= LONGEST_WINDOW:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 5m and 30d")
    return seconds


def parser() -> cli.Parser:
    """The command line of this check."""
    made = cli.make_parser("check_conntrack_usage", PURPOSE, LABELS, EXAMPLES)
    made.add_argument_group("options of this check").add_argument(
        "--trend-window",
        type=_window,
        default=3600.0,
        metavar="DURATION",
        help="how far back growth looks (default: 1h); known after 3 runs and 5 minutes",
    )
    return made


def run_check(options: argparse.Namespace, stage: signals.Stage) -> runner.CheckResult:
    """The verdict. Rights end before the first byte of the kernel's is parsed."""
    thresholds = parse_thresholds(LABELS, options.warning, options.critical)
    with ExitStack() as stack:
        begun = session.begin(options, stage, stack, readers=1 if options.netns else 0)
        usage = Usage(options, begun)
        made = nagios.contexts(LABELS, thresholds, options.if_inactive)
        return nagios.conclude(options, begun, usage, UsageSummary(usage), made)


def main(late: float = 0.0) -> int:
    """Run the executable; returns the exit code. `late`: seconds that starting took."""
    return runner.run(TITLE, parser(), run_check, late=late)
