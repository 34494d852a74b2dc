"""Present a TableReport: the status line, and the lines below it."""

from __future__ import annotations

import re

from nagiosplugin import Unknown

from .. import nagios, render, reports, session
from ..state import trend
from . import sources
from .diagnoses import Diagnoses
from .estimates import EstimateContext
from .options import LABELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from nagiosplugin import Result, Results

    from ..advice.diagnosis import Cause
    from ..advice.table_profile import TableProfile
    from ..flows.match import Match
    from ..state.last_finding import LastFinding
    from .names import Names
    from .report import NamespaceReport, TableReport
    from .resource import TableReader
    from .sources import TableReading

TITLE = "CONNTRACK_TABLE"
# Without -v, of each list.
FEW_LINES = 3
LONGEST_OWNER = 32  # characters on the status line, where one lacks room
# The label whose alarm a cause explains, so that it is not repeated.
_MENTIONED = {"nat ports": "snat_port_usage", "stale": "stale"}


class TableSummary(nagios.StatusSummary):
    """The sentence for the status line, and the lines below it.

    `shown` is the report that the sentence is about.
    """

    def __init__(
        self, report: TableReport, reader: TableReader, options: argparse.Namespace
    ) -> None:
        self.report = report
        self.reader = reader
        self.options = options
        self.shown: NamespaceReport | None = None
        self.diagnoses = Diagnoses(reader)

    def ok(self, results: Results) -> str:
        """Return the figures of the first namespace."""
        if self.options.verbose:
            self._name_namespaces()
        return self._text(results)

    def problem(self, results: Results) -> str:
        """Return the state of the table, its cause, what alarms, and what was not read.

        What does not fit is in the long output.
        """
        self._name_namespaces()
        return self._text(results)

    def _name_namespaces(self) -> None:
        """Call namespaces by their owners, which takes time that a healthy run saves."""
        if self.options.names and any(one.path and one.table for one in self.report.namespaces):
            named = self.reader.owners.named(self.report.namespaces)
            self.report = self.report._replace(namespaces=tuple(named))

    def _text(self, results: Results) -> str:
        report = self.report
        ordered = reports.by_severity(report.namespaces, LABELS, results)
        if not ordered:
            inactive = ["conntrack is not active on this host"] if report.inactive else []
            return render.fit([*inactive, *map(render.versions, report.problems)], self.room)
        main = self.shown = ordered[0]
        problems = [render.versions(problem) for problem in report.problems]
        alarms = nagios.alarms(_of(main, results))
        causes = self.diagnoses.causes(main) if alarms or report.from_file else []
        parts: list[Sequence[str]] = self._state(main, results, bool(causes))
        if nagios.worst(result.state for result in results) is Unknown:
            parts += problems
            problems = []
        parts.append(_lowered(main, alarms))
        left = reports.time_left(main.time_to_full)
        if causes:
            profile = self.diagnoses.profile(main)
            least = len(left) + len("; ") if left else 0
            least += sum(len(min(choices, key=len)) + len("; ") for choices in parts if choices)
            headline = causes[0].headline(profile)
            parts.append(_headline_versions(headline, _owners_in(profile), self.room - least))
        parts.append([left])
        parts += [[text] for text in _alarm_texts(alarms, causes)]
        parts += [*problems, *([doubt] for doubt in _doubts(main, results))]
        if alarms:
            others = ordered[1:]
            parts.append(reports.also(others, results, self.diagnoses.in_short(others)))
        else:
            parts.append(reports.fullest(report.namespaces, main, results))
        if main.table:
            parts += [[_bad_lines(main.table)], *([note] for note in main.table.notes)]
        text = render.fit(parts, self.room)
        return text + self._second_cause(main, causes, self.room - len(text))

    def _second_cause(self, main: NamespaceReport, causes: Sequence[Cause], room: int) -> str:
        """Return the second cause for the status line, where nothing has to go for it."""
        if not causes[1:]:
            return ""
        cause, headline = causes[1], causes[1].headline(self.diagnoses.profile(main))
        kind = headline.partition(": ")[0] if ": " in headline else cause.name
        versions = [*_headline_versions(headline, [], 0), kind]
        return next((f"; also {one}" for one in versions if len(one) + len("; also ") <= room), "")

    def _state(self, report: NamespaceReport, results: Results, brief: bool) -> list[Sequence[str]]:
        """Return how full a table is, and how many entries are the ones that were asked for."""
        share = reports.usage_of(report, results)
        state: list[Sequence[str]] = []
        if report.limits:
            state.append(reports.table_state(report.namespace, share, brief=brief))
        match = self.reader.request.match
        if report.table and match.narrows():
            state.append([_matching(report, match)])
        elif not report.limits:
            entries = report.figures.entries if report.figures else 0
            where = reports.namespace_words(report.namespace)[0]
            state.append([where + render.plural(entries, "entry", "entries")])
        return state

    def empty(self) -> str:
        """Return what to say where there is nothing to say anything about."""
        return "every namespace that was asked for is gone"

    def verbose(self, results: Results) -> list[str]:
        """Return what alarms, why, what to do, what was not read, and what the table holds."""
        self._name_namespaces()
        report = self.report
        verbose = self.options.verbose
        main = next(iter(reports.by_severity(report.namespaces, LABELS, results)), None)
        alarms = nagios.alarms(_of(main, results)) if main else []
        lines = nagios.alarm_lines(alarms)
        if main and main.table and main.table.unreadable:
            lines.append(f"WARNING: {main.table.unreadable}")
        lines += [f"UNKNOWN: {problem}" for problem in report.problems]
        if report.errors and (report.problems or verbose > 1):
            lines += [f"Tried {error}" for error in report.errors]
        if report.problems and (
            self.reader.session.forbidden or any(error.privilege for error in report.errors)
        ):
            lines += self._grants()
        if main and main.table:
            # A healthy table gets figures; its diagnosis is for whoever asks twice.
            if alarms or report.from_file or verbose > 1:
                others = reports.by_severity(report.namespaces, LABELS, results)[1:]
                lines += self._diagnosis(main, alarms, others)
            lines += [f"Note: {note}" for note in _notes(main, results)]
            lines += reports.change_lines(main.series)
            names = self.reader.names(main)
            lines += [f"{_capital(sentence)}." for sentence in names.evidence]
            if names.problem and verbose:
                lines.append(f"Names of owners are missing: {names.problem}")
            lines += _lists(main, names, self.options.top, all_lines=bool(verbose))
        if len(report.namespaces) > 1:
            most = None if verbose > 1 else reports.MOST_GRAPHED + 1
            lines += reports.namespace_table(report.namespaces, results, {}, most)
        if verbose > 2:
            lines += [
                f"Read {one.table.origin}, "
                + render.plural(one.table.tally.read, "entry", "entries")
                + (f", in net:[{one.namespace.inode}] {one.namespace.name}" if one.path else "")
                for one in report.namespaces
                if one.table
            ]
        if report.from_file:
            return lines
        return lines + session.state_lines(self.reader.session, verbose)

    @property
    def findings(self) -> dict[str, LastFinding]:
        """Return what was diagnosed, by the namespace's key, for the other checks."""
        return {} if self.report.from_file else self.diagnoses.findings

    def _diagnosis(
        self, report: NamespaceReport, alarms: Sequence[Result], others: Sequence[NamespaceReport]
    ) -> list[str]:
        """Return causes, remedies, and a larger limit where that is a remedy.

        others: further namespaces that alarm; their causes are told before the remedies of this.
        """
        from ..advice import capacity, diagnosis, remedies

        why_not = self.diagnoses.why_none(report)
        if why_not:
            return [f"No diagnosis: {why_not}."]
        profile, causes = self.diagnoses.profile(report), self.diagnoses.causes(report)
        lines = [_capital(cause.sentence(profile)) + "." for cause in causes]
        if not causes:
            lines.append(_capital(diagnosis.NO_CAUSE) + ".")
        lines += self.diagnoses.at_length(others[: None if self.options.verbose else FEW_LINES])
        lines += remedies.advice_lines(profile, causes)
        labels = {nagios.label_of(result) for result in alarms}
        limits = report.limits
        if limits and all(cause.room for cause in causes if cause.fills):
            if self.report.from_file:
                # Nothing else is known of that host.
                evidence = capacity.CapacityEvidence(
                    limits.entries, limits.limit, limits.entries, limits.buckets
                )
            else:
                evidence = reports.capacity_evidence(limits, report.peak)._replace(
                    lowered_from=report.lowered_from
                )
            lines += capacity.advise(evidence._replace(diagnosed=True), labels)
        return lines

    def _grants(self) -> list[str]:
        """Return how each source that was tried could be read."""
        as_root = self.reader.session.as_root
        lines = session.grant("read the table over netlink or from /proc", as_root=as_root)
        if as_root:
            return lines
        if self.options.source in (sources.AUTO, sources.CONNTRACK):
            lines.append(
                "conntrack -L asks the kernel itself: it needs CAP_NET_ADMIN of the agent's "
                "service (AmbientCapabilities=), and then every plugin of that agent may change "
                "the firewall."
            )
        lines.append("Or start the check as root: it drops its privileges before it parses.")
        return lines


def _headline_versions(headline: str, owners: Sequence[str], room: int) -> list[str]:
    """Return the cause and its culprit for the status line, whole and ever shorter.

    Shares go first, then evidence in parentheses, then the kind of cause; never an address. Its
    owner is cut, or goes, only where there would be no room for it even then.
    """
    plain = re.sub(r"\b(?:of (?:these|all entries) )?\d+% (?=(?:from|to) )", "", headline)
    last = plain[plain.rindex(" (") + 2 : -1] if plain.endswith(")") else ""
    bare = plain[: -len(last) - 3] if last and last not in owners else plain
    short = bare.partition(": ")[2] or bare
    versions = [headline, plain, bare, short]
    for longest in (LONGEST_OWNER, 0):
        if len(versions[-1]) <= room:
            break
        shorter = short
        for owner in owners:
            words = f" ({owner[:longest]}...)" if longest else ""
            shorter = shorter.replace(f" ({owner})", words) if len(owner) > longest else shorter
        versions.append(shorter)
    return list(dict.fromkeys(versions))


def _owners_in(profile: TableProfile) -> list[str]:
    """Return the owners that a headline may name."""
    items = [profile.source, profile.destination]
    for ends in profile.leaks:
        items += [ends.source, ends.target, ends.destination]
    for one in profile.unanswered:
        items += [one.source, one.target, one.destination]
    for flows in profile.stale:
        items += [flows.destination, flows.target]
    owners = [item.owner for item in items] + [flows.elsewhere_owner for flows in profile.stale]
    return list(filter(None, owners))


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _lowered(report: NamespaceReport, alarms: Sequence[Result]) -> Sequence[str]:
    """Return that the limit was lowered, where too much of it is in use; else nothing."""
    change = trend.lowered(report.series) if report.series else None
    usage = [alarm for alarm in alarms if nagios.label_of(alarm) == "usage"]
    if (
        not change
        or not report.series
        or not usage
        or nagios.context_of(usage[0]).too_low(usage[0])
    ):
        return []
    text = reports.change_text(change, report.series.last)
    return [text, text.partition(" between ")[0]]


def _of(report: NamespaceReport, results: Results) -> list[Result]:
    return nagios.results_of(report.prefix, LABELS, results)


def _matching(report: NamespaceReport, match: Match) -> str:
    """Return how many entries match the filters."""
    table, figures = report.table, report.figures
    assert table  # noqa: S101 - nobody asks about a table that was not read
    assert figures  # noqa: S101
    entries = report.limits.entries if report.limits else table.tally.read
    about = "about " if table.total else ""
    verb = "matches" if figures.entries == 1 else "match"
    text = f"{about}{figures.entries} of {max(entries, figures.entries)} entries {verb}"
    if match.networks:
        scale = table.tally.scale(table.total)
        inbound, outbound = (
            round(number * scale) for number in (table.tally.inbound, table.tally.outbound)
        )
        text += f" ({inbound} inbound, {outbound} outbound)"
    return text


def _alarm_texts(alarms: Sequence[Result], causes: Sequence[Cause]) -> list[str]:
    """Return the alarms that neither the state nor the first cause has mentioned."""
    mentioned = {"usage", "entries", *(_MENTIONED.get(cause.name, "") for cause in causes[:1])}
    return [
        nagios.describe_alarm(result)
        for result in alarms
        if nagios.label_of(result) not in mentioned
    ]


def _doubts(report: NamespaceReport, results: Results) -> list[str]:
    """Return the thresholds that lie within the margin of an estimate."""
    found = []
    for result in _of(report, results):
        context = nagios.context_of(result)
        if isinstance(context, EstimateContext):
            doubt = context.doubts(result.metric, result.metric.resource)
            found += [doubt] if doubt else []
    return found


def _bad_lines(table: TableReading) -> str:
    number = table.tally.bad_lines
    if not number or table.unreadable:
        return table.unreadable
    return f"{render.plural(number, 'line')} could not be read"


def _notes(report: NamespaceReport, results: Results) -> list[str]:
    """Return what limits the meaning of the figures."""
    table = report.table
    assert table  # noqa: S101
    tally = table.tally
    notes = []
    if table.total:
        margin = max(tally.margin(table.total), 0.1)
        notes.append(f"estimated from a sample of {tally.read} entries (+-{margin:.1f} points)")
    notes += [*_doubts(report, results), *table.notes]
    if tally.bad_lines:
        notes.append(f"{_bad_lines(table)}, the first: {tally.first_bad_line}")
    if not tally.exact:
        notes.append("sources and destinations are many: top lists may be short by a few")
    return notes


def _percent(share: float) -> str:
    return f"{share:.1f}%"


def _lists(report: NamespaceReport, names: Names, top: int, *, all_lines: bool) -> list[str]:
    """Return the breakdown by protocol and state, and the top lists."""
    table = report.table
    assert table  # noqa: S101
    tally, total = table.tally, table.total
    most = top if all_lines else min(top, FEW_LINES)
    lines = _columns(
        ("protocol and state", "entries", "share"),
        [
            (f"{line.protocol} {line.state}".rstrip(), str(line.entries), _percent(line.share))
            for line in tally.breakdown(total)[: None if all_lines else FEW_LINES]
        ],
    )
    for title, share, tops in (
        ("source", "share", tally.top_sources(most, total)),
        ("source by owner", "share", names.tops(tally, tally.sources, most, total)),
        ("destination", "share", tally.top_destinations(most, total)),
        ("destination by owner", "share", names.tops(tally, tally.destinations, most, total)),
        ("service", "share", tally.top_services(most, total)),
        ("zone", "share", tally.top_zones(most, total)),
        ("source-NAT pool", "of its ports", tally.top_pools(most, total)),
    ):
        lines += _columns(
            (title, "entries", share),
            [(names.called(line.name), str(line.entries), _percent(line.share)) for line in tops],
        )
    return lines


def _columns(head: tuple[str, str, str], rows: Sequence[tuple[str, str, str]]) -> list[str]:
    return render.table([head, *rows]) if rows else []
