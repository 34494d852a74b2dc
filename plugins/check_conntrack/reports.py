"""Print and keep facts about network namespaces, for two checks or more.

A check has a report of its own on each namespace; here is what these reports have in common: which
of them are graphed, what is kept of their counts, how they are called on the status line, what
advice on the limit needs.
"""

from __future__ import annotations

import time

from nagiosplugin import Ok

from . import nagios, render, signals
from .kernel import limits
from .namespaces import further_key
from .state import trend
from .state.codec import decode, encode
from .state.state_store import boot_id
from .state.trend import Moment, Series

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Callable, Protocol, TypeVar

    from nagiosplugin import Result, Results

    from .advice.capacity import CapacityEvidence
    from .kernel.limits import Limits
    from .kernel.namespaces import Namespace
    from .kernel.owners import Ownership
    from .ranges import Label
    from .session import Session
    from .state.last_finding import LastFinding
    from .state.state_store import Store

    class Report(Protocol):
        """The attributes that each check's report on a namespace has."""

        @property
        def namespace(self) -> Namespace:
            """Return the namespace."""

    AnyReport = TypeVar("AnyReport", bound=Report)

MOST_GRAPHED = 10  # namespaces beside the first that have perfdata
LONGEST_NAME = 24  # characters on the status line, if it is too long
SOON = 86400  # seconds; a longer time to full is not on the status line
LONGEST_OWNER = 32
HOST, THIS = "host", "this namespace"  # the namespace of the host, and that of the check
_FIRST_PROCESSES = ("/proc/1/", "/proc/2/")  # whose namespace is the host's
NO_TIME = "no time was left (allow more with --timeout)"
LEAST_TIME = 1.0  # seconds that must be left to ask for owners


# --- what is graphed, and what is kept


def now() -> Moment:
    """Return this moment by both clocks."""
    return Moment(round(time.clock_gettime(time.CLOCK_BOOTTIME), 1), round(time.time(), 1))


def graphed(others: Iterable[Namespace]) -> tuple[list[Namespace], list[Namespace]]:
    """Return the further namespaces that have perfdata, the fullest first, and all others."""
    ordered = sorted(others, key=lambda namespace: namespace.fullness, reverse=True)
    shown = [namespace for namespace in ordered[:MOST_GRAPHED] if namespace.entries]
    return shown, ordered[len(shown) :]


class Histories:
    """The series of a check's namespaces: read once, written after the verdict.

    The first namespace has a file of its own. All others share one: where namespaces come and go
    there would be thousands.
    """

    def __init__(
        self, check: str, options: argparse.Namespace, session: Session, window: float = 0.0
    ) -> None:
        self._check = check
        self._options = options
        self._store: Store = session.store
        self._window = window
        self._boot = boot_id()
        self._now = now()
        self._changes: dict[str, dict[str, Callable[[object], object]]] = {}
        self._series: dict[str, tuple[object, Series]] = {}

    def read(self, namespaces: Iterable[Namespace]) -> dict[str, Series]:
        """Return the series of namespaces by their inode path, this run's count included."""
        series = {}
        further = None
        for namespace in namespaces:
            file = self._file(namespace)
            if namespace.prefix and further is None:
                kept = self._store.read(file)
                further = kept if isinstance(kept, dict) else {}
            if namespace.prefix:
                kept = further.get(namespace.key) if further else None
            else:
                kept = self._store.read(file)
            change = self._change(namespace)
            self._changes.setdefault(file, {})[namespace.key if namespace.prefix else ""] = change
            series[namespace.path] = made = self._with_run(namespace, kept)
            self._series[namespace.path] = kept, made
        return series

    def write(self) -> None:
        """Keep this run's counts of all namespaces that were read, for later runs."""
        for file, changes in self._changes.items():
            if "" in changes:
                self._store.update(file, changes[""])
            else:
                self._store.update_each(file, changes)

    def _file(self, namespace: Namespace) -> str:
        key = self._options.state_key
        if namespace.prefix:
            return further_key(self._check, self._options.netns, key)
        return f"{self._check}/{namespace.key}/{key}"

    def _change(self, namespace: Namespace) -> Callable[[object], object]:
        def change(kept: object) -> object:
            before, made = self._series[namespace.path]
            # Another run may have written meanwhile.
            return encode(made if kept is before else self._with_run(namespace, kept))

        return change

    def _with_run(self, namespace: Namespace, kept: object) -> Series:
        series = trend.belonging_to(decode(Series, kept), self._boot, namespace.identity, self._now)
        if namespace.limits is None:
            return series
        return trend.with_run(series, namespace.limits, self._now, self._window)


# --- which namespace the status line is about


def results_of(report: Report, labels: Sequence[Label], results: Results) -> list[Result]:
    """Return the results of a namespace's labels, in the order of the labels."""
    return nagios.results_of(report.namespace.prefix, labels, results)


def by_severity(
    reports: Sequence[AnyReport], labels: Sequence[Label], results: Results
) -> list[AnyReport]:
    """Return the reports that the status line is about: the worst, the fullest of these first.

    If all are OK, it is the first report alone.
    """
    states = [
        nagios.worst([Ok, *(result.state for result in results_of(report, labels, results))])
        for report in reports
    ]
    if not reports or nagios.worst(states) is Ok:
        return list(reports[:1])
    alarming = [
        (nagios.SEVERITY.index(state), report.namespace.fullness, -at)
        for at, (state, report) in enumerate(zip(states, reports))
        if state is not Ok
    ]
    return [reports[-at] for _, _, at in sorted(alarming, reverse=True)]


# --- words


def namespace_words(namespace: Namespace) -> tuple[str, str]:
    """Return the words for a namespace at the beginning of a sentence, in full and short."""
    if not namespace.name:
        return "", ""
    if namespace.owner:
        from .advice import owner_words

        name = owner_words.short(namespace.owner)
        return f"{name} ", f"{_cut(name, LONGEST_OWNER)} "
    name = render.clean(namespace.name)
    return f"namespace {name} ", f"namespace {_cut(name, LONGEST_NAME)} "


def name_of(namespace: Namespace) -> str:
    """Return the name of a namespace in a list of several.

    That which the check runs in is "host" if it is the host's, else it may have a name as well.
    """
    if namespace.name or limits.may_set_limits():
        return render.clean(namespace.name) or HOST
    from .kernel.namespaces import names

    return render.clean(names().get(namespace.inode, "")) or THIS


def is_of_host(namespace: Namespace) -> bool:
    """Return whether a namespace is the host's, and none that somebody has called "host"."""
    if namespace.name:
        return namespace.name == HOST and namespace.path.startswith(_FIRST_PROCESSES)
    return limits.may_set_limits()


def title_of(namespace: Namespace) -> str:
    """Return a namespace at the beginning of a line of its own."""
    if is_of_host(namespace):
        return "This host"
    name = name_of(namespace)
    return f"Namespace {name}" if namespace.name or name != THIS else "This namespace"


def _briefly(namespace: Namespace) -> str:
    """Return a namespace in a list on the status line: a bare "host" is the host's own."""
    words = namespace_words(namespace)[1].strip()
    brief = words.removeprefix("namespace ") or name_of(namespace)
    return words if words and brief in (HOST, THIS) and not is_of_host(namespace) else brief


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 3] + "..."


class Owners:
    """The owners of namespaces and addresses: asked for once, when a line names one.

    problem: why they are missing; empty where they are not, or nobody has asked.
    """

    def __init__(self, session: Session) -> None:
        self.problem = ""
        self._session = session
        self._ownership: Ownership | None = None

    @property
    def _has_time(self) -> bool:
        """Return whether there is time to ask: a verdict comes first."""
        return not signals.stop_reason() and self._session.stage.left() > LEAST_TIME

    def read(self) -> Ownership:
        """Return all owners that can be had."""
        if self._ownership is None:
            if not self._has_time:
                from .kernel.owners import Ownership

                self.problem = NO_TIME
                return Ownership()
            from .owners import read_owners

            self._ownership, self.problem = read_owners(self._session)
        return self._ownership

    def named(self, reports: Sequence[AnyReport]) -> list[AnyReport]:
        """Return reports with the owners of their namespaces, of those that are proved."""
        if all(report.namespace.is_own or not report.namespace.inode for report in reports):
            return list(reports)
        if self._ownership is None and not self._has_time:
            self.problem = NO_TIME
            return list(reports)
        from .kernel.owners import STRONG

        namespaces = self.read().namespaces
        named: list[Any] = []
        for report in reports:
            owner = namespaces.get(report.namespace.inode)
            if owner and owner.kind in STRONG:
                one: Any = report
                named.append(one._replace(namespace=report.namespace._replace(owner=owner)))
            else:
                named.append(report)
        return named


def table_state(
    namespace: Namespace, share: str, suffix: str = "", *, brief: bool = False
) -> list[str]:
    """Return the state of a table for the status line, in full and ever shorter.

    share: its usage as in the perfdata, empty if there is no limit. brief: the usage may stand for
    the numbers, to make room for a cause.
    """
    limits = namespace.limits
    if limits is None:
        return []
    if not limits.limit:
        text = short = f"{render.plural(limits.entries, 'entry', 'entries')} in use, no limit"
    elif limits.full:
        over = f" ({share})" if limits.entries > limits.limit else ""
        text, short = f"full: {limits.entries} of {limits.limit} entries{over}", "full"
    else:
        text = f"{limits.entries} of {limits.limit} entries in use ({share})"
        short = f"{share} in use"
    words, short_words = namespace_words(namespace)
    choices = words + text, short_words + text, short_words + (short if brief else text)
    return [choice + suffix for choice in dict.fromkeys(choices)]


def time_left(seconds: float | None, *, always: bool = False) -> str:
    """Return when a table will be full; empty if that is not known or not soon, or if it is full.

    always: also if that is not soon.
    """
    if not seconds or not (seconds < SOON or always):
        return ""
    return f"full in about {render.duration(seconds)}"


def also(reports: Sequence[Report], results: Results, causes: Sequence[str] = ()) -> list[str]:
    """Return which other namespaces alarm, with their usage: as many as fit, and how many more.

    causes: those of the first of them, empty for none.
    """
    names = [
        " ".join(filter(None, [_briefly(report.namespace), usage_of(report, results)]))
        for report in reports
    ]
    if not names:
        return []
    choices = []
    for number in range(len(causes), 0, -1):
        told = [f"{name} ({cause})" if cause else name for name, cause in zip(names, causes)]
        choices.append("also " + ", ".join([*told[:number], *names[number:]]))
    choices.append("also " + ", ".join(names))
    for number in range(len(names) - 1, 0, -1):
        more = f"and {len(names) - number} more"
        choices.append(f"also {', '.join(names[:number])} {more}")
    number_alone = f"also {render.plural(len(names), 'other namespace')}"
    # A short name takes less room than the number in words.
    choices = list(dict.fromkeys(choices))
    return [*choices, *([number_alone] if len(number_alone) < len(choices[-1]) else [])]


def fullest(reports: Sequence[Report], first: Report, results: Results) -> list[str]:
    """Return which namespace is fuller than the first one, while all are OK; none if none is."""
    report = max(reports, key=lambda each: each.namespace.fullness)
    if report.namespace.fullness <= first.namespace.fullness or not usage_of(report, results):
        return []
    where = [words.strip() for words in dict.fromkeys(namespace_words(report.namespace))]
    return [f"fullest: {words} {usage_of(report, results)}" for words in where]


def usage_of(report: Report, results: Results) -> str:
    """Return the usage of a namespace as in the perfdata; empty if it has none."""
    name = report.namespace.prefix + "usage"
    return nagios.print_value(results[name]) if name in results else ""


def change_text(change: trend.Change, at: Moment) -> str:
    """Return a change in words: "limit lowered from 262144 to 4000 between 11:40 and 11:45".

    at: the moment of this run.
    """
    if change.what == trend.BOOT:
        when = render.clock_time(change.before.wall, at.wall)
        held = (
            f", with {render.plural(change.old, 'entry', 'entries')} before" if change.old else ""
        )
        return f"host booted at {when}{held}"
    verb = "lowered" if change.new and not 0 < change.old < change.new else "raised"
    name = "limit" if change.what == "limit" else "hash buckets"
    if change.what != "limit":
        verb = "lowered" if change.new < change.old else "raised"
    numbers = f"from {change.old or 'none'} to {change.new or 'none'}"
    if change.after.wall <= 0:
        return f"{name} {verb} {numbers} before {render.clock_time(change.before.wall, at.wall)}"
    first, last = (render.clock_time(one.wall, at.wall) for one in (change.after, change.before))
    if first == last:
        return f"{name} {verb} {numbers} at {last}"
    return f"{name} {verb} {numbers} between {first} and {last}"


def change_lines(series: Series | None, window: float = 0.0) -> list[str]:
    """Return what changed within a day, or within so many seconds if these are more."""
    changes = series.recent_changes(window) if series else ()
    texts = (change_text(change, series.last) for change in changes if series)
    return [text[:1].upper() + text[1:] for text in texts]


def too_high_or_low(result: Result) -> str:
    """Return an alarm without its range, which is printed below: "limit 10000 too low"."""
    context = nagios.context_of(result)
    if str(result.hint).startswith("@"):
        return nagios.describe_alarm(result)
    value = nagios.print_value(result)
    return f"{result.metric.name} {value} too {'low' if context.too_low(result) else 'high'}"


def namespace_table(
    reports: Sequence[Report],
    results: Results,
    more: Mapping[str, Callable[[Report], str]],
    most: int | None,
) -> list[str]:
    """Return the table of namespaces: entries, usage, and `more` columns by their titles."""
    rows = [(render.plural(len(reports), "namespace"), "entries", "usage", *more)]
    for report in reports[:most]:
        namespace = report.namespace
        name = name_of(namespace) if namespace.name else f"({name_of(namespace)})"
        if namespace.owner:
            from .advice import owner_words

            name += f" ({owner_words.full(namespace.owner)})"
        cells = (cell(report) for cell in more.values())
        rows.append((name, str(namespace.entries), usage_of(report, results), *cells))
    left = len(reports) - len(rows) + 1
    return render.table(rows) + ([f"  and {left} more (-vv)"] if left else [])


# --- for advice on the limit


def capacity_evidence(
    known: Limits, peak: int, finding: LastFinding | None = None
) -> CapacityEvidence:
    """Return what advice on the limit needs: limits, the largest count, memory, who sets limits.

    finding: what check_conntrack_table found last, see last_finding().
    """
    from .advice.capacity import CapacityEvidence
    from .kernel import host

    return CapacityEvidence(
        known.entries,
        known.limit,
        max(peak, known.entries),
        known.buckets,
        host.available_memory(),
        limits.may_set_limits(),
        limits.buckets_sysctl_writable(),
        host.runs_kube_proxy(),
        finding=finding,
    )


def last_finding(store: Store, namespace_key: str) -> LastFinding | None:
    """Return what check_conntrack_table found last in a namespace; None for nothing recent."""
    from .state import last_finding

    return last_finding.recent(store.read(last_finding.KEY), namespace_key, time.time())
