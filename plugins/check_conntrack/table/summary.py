"""Present a TableReport: the status line, and the lines below it."""

from __future__ import annotations

from nagiosplugin import Summary

from .. import nagios, render, session
from ..kernel.limits import OWN
from . import sources
from .options import LABELS, MOST_NAMESPACES

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from nagiosplugin import Result, Results

    from ..advice.diagnosis import Cause, TableProfile
    from ..flows.match import Match
    from .resource import NamespaceReport, TableReader, TableReport

TITLE = "CONNTRACK_TABLE"
# Without -v, of each list.
FEW_LINES = 3


class TableSummary(Summary):
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
        self._judged: tuple[NamespaceReport, TableProfile, list[Cause]] | None = None

    def ok(self, results: Results) -> str:
        """Return the figures of the first namespace."""
        return self.problem(results)

    def problem(self, results: Results) -> str:
        """Return the fullest of the worst, its cause, what alarms, and what was not read."""
        report = self.report
        parts = []
        main = self.shown = self.main(results)
        if main:
            alarms = nagios.alarms(_of(main, results))
            match = self.reader.request.match
            narrowed = main.table and match.narrows()
            if main.limits or not narrowed:
                parts.append(_sentence(main, results))
            if narrowed:
                parts.append(_matching(main, match))
            parts += report.problems
            parts += [
                nagios.describe_alarm(result)
                for result in alarms
                if nagios.label_of(result) not in ("usage", "entries")
            ]
            rest = _doubts(main)
            if alarms or report.from_file:
                causes = [cause.sentence(self._profile(main)) for cause in self.causes(main)[:1]]
                parts += [_fitted(cause, [*parts, *rest]) for cause in causes]
            parts += rest
        else:
            if report.inactive:
                parts.append("conntrack is not active on this host")
            parts += report.problems
        if len(report.namespaces) > 1:
            parts.append(f"{len(report.namespaces)} namespaces seen")
        return "; ".join(parts)

    def empty(self) -> str:
        """Return what to say where there is nothing to say anything about."""
        return "every namespace that was asked for is gone"

    def verbose(self, results: Results) -> list[str]:
        """Return what alarms, why, what to do, what was not read, and what the table holds."""
        report = self.report
        verbose = self.options.verbose
        main = self.main(results)
        alarms = nagios.alarms(_of(main, results)) if main else []
        lines = [
            f"{result.state.text.upper()}: {nagios.describe_alarm(result)}" for result in alarms
        ]
        lines += [f"UNKNOWN: {problem}" for problem in report.problems]
        if report.errors and (report.problems or verbose > 1):
            lines += [f"Tried {error}" for error in report.errors]
        if report.problems and (
            self.reader.session.forbidden or any(error.privilege for error in report.errors)
        ):
            lines += self._grants()
        if main and main.table:
            if alarms or report.from_file or verbose:
                lines += self._diagnosis(main, alarms)
            lines += [f"Note: {note}" for note in _notes(main)]
            lines += _lists(main, self.options.top, all_lines=bool(verbose))
        if len(report.namespaces) > 1:
            lines += _namespaces(report.namespaces, results)
        if verbose > 2:
            lines += [
                f"Read {one.table.origin}, {one.table.tally.read} entries"
                + (f", in net:[{one.inode}] {one.name}" if one.inode else "")
                for one in report.namespaces
                if one.table
            ]
        if report.from_file:
            return lines
        return lines + nagios.state_lines(self.reader.session, verbose)

    def main(self, results: Results) -> NamespaceReport | None:
        """Return the report that the status line is about: the fullest of those that are worst."""
        reports = self.report.namespaces
        if not reports:
            return None
        judged = [_of(one, results) for one in reports]
        return reports[nagios.decisive(judged, [one.fullness for one in reports])]

    def causes(self, report: NamespaceReport) -> list[Cause]:
        """Return what fills a table; empty where its figures do not say."""
        return self._judge(report)[2] if report.table and not self._one_sided else []

    @property
    def _one_sided(self) -> bool:
        """Return whether the user chose some protocols, states or ports."""
        match = self.reader.request.match
        return bool(match.protocols or match.states or match.ports)

    def _profile(self, report: NamespaceReport) -> TableProfile:
        return self._judge(report)[1]

    def _judge(self, report: NamespaceReport) -> tuple[NamespaceReport, TableProfile, list[Cause]]:
        if self._judged is None or self._judged[0] is not report:
            from ..advice import diagnosis
            from .profile import table_profile

            profile = table_profile(report, self.reader.timeouts(report), _into(report))
            self._judged = (report, profile, diagnosis.diagnose(profile))
        return self._judged

    def _diagnosis(self, report: NamespaceReport, alarms: Sequence[Result]) -> list[str]:
        """Return causes, remedies, and a larger limit where that is a remedy."""
        from ..advice import capacity, diagnosis, remedies

        profile, causes = self._profile(report), self.causes(report)
        lines = [_capital(cause.sentence(profile)) + "." for cause in causes]
        if self._one_sided:
            lines.append("No diagnosis: it needs flows of every protocol, state and port.")
        elif not causes:
            lines.append(_capital(diagnosis.NO_CAUSE) + ".")
        lines += remedies.advice_lines(profile, causes)
        labels = {nagios.label_of(result) for result in alarms}
        if report.limits and all(cause.room for cause in causes):
            lines += capacity.advise(nagios.capacity_evidence(report.limits, report.peak), labels)
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


def _fitted(sentence: str, others: Sequence[str]) -> str:
    """Return a sentence as long as the status line has room for beside others."""
    room = render.STATUS_WIDTH - len(f"{TITLE} CRITICAL - ") - sum(len(part) + 2 for part in others)
    shortest = 24  # enough for the name of a cause; below that, the line itself is cut
    return sentence if len(sentence) <= room else sentence[: max(room - 3, shortest)] + "..."


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _of(report: NamespaceReport, results: Results) -> list[Result]:
    return nagios.results_of(report.prefix, LABELS, results)


def _into(report: NamespaceReport) -> str:
    """Return the words before a command that is to run in a namespace."""
    path = report.path
    if not path and report.table:
        path = report.table.host.path
    if not path or path == OWN:
        return ""
    import shlex

    return f"nsenter --net={shlex.quote(path)} "


def _sentence(report: NamespaceReport, results: Results) -> str:
    limits, figures = report.limits, report.figures
    where = f"namespace {report.name} " if report.name else ""
    if limits is None:
        return f"{figures.entries if figures else 0} entries"
    if not limits.limit:
        return f"{where}{limits.entries} entries, no limit"
    share = nagios.print_value(results[report.prefix + "usage"])
    if limits.full:
        over = f" ({share})" if limits.entries > limits.limit else ""
        return (
            f"{where}full: {limits.entries} of {limits.limit} entries{over}, "
            "new connections are dropped"
        )
    return f"{where}{limits.entries} of {limits.limit} entries ({share})"


def _matching(report: NamespaceReport, match: Match) -> str:
    """Return how many entries match the filters."""
    table, figures = report.table, report.figures
    assert table  # noqa: S101 - nobody asks about a table that was not read
    assert figures  # noqa: S101
    entries = report.limits.entries if report.limits else table.tally.read
    text = f"{figures.entries} of {max(entries, figures.entries)} entries match"
    if match.networks:
        scale = table.tally.scale(table.total)
        inbound, outbound = (
            round(number * scale) for number in (table.tally.inbound, table.tally.outbound)
        )
        text += f" ({inbound} inbound, {outbound} outbound)"
    return text


def _doubts(report: NamespaceReport) -> list[str]:
    """Return what limits the meaning of the figures."""
    table = report.table
    if not table:
        return []
    doubts = []
    if table.total:
        margin = table.tally.margin(table.total)
        doubts.append(
            f"estimated from a sample of {table.tally.read} (+-{max(margin, 0.1):.1f} points)"
        )
    if table.tally.bad_lines:
        doubts.append(f"{table.tally.bad_lines} lines could not be read")
    return doubts + list(table.notes)


def _notes(report: NamespaceReport) -> list[str]:
    table = report.table
    assert table  # noqa: S101
    notes = _doubts(report)
    if table.tally.bad_lines:
        notes.append(f"the first line that could not be read: {table.tally.first_bad_line}")
    if not table.tally.exact:
        notes.append("sources and destinations are many: top lists may be short by a few")
    return notes


def _percent(share: float) -> str:
    return f"{share:.1f}%"


def _lists(report: NamespaceReport, top: int, *, all_lines: bool) -> list[str]:
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
        ("destination", "share", tally.top_destinations(most, total)),
        ("service", "share", tally.top_services(most, total)),
        ("source-NAT pool", "of its ports", tally.top_pools(most, total)),
    ):
        lines += _columns(
            (title, "entries", share),
            [(line.name, str(line.entries), _percent(line.share)) for line in tops],
        )
    return lines


def _columns(head: tuple[str, str, str], rows: Sequence[tuple[str, str, str]]) -> list[str]:
    return render.table([head, *rows]) if rows else []


def _namespaces(reports: Sequence[NamespaceReport], results: Results) -> list[str]:
    rows = [("namespace", "entries", "usage")]
    for report in reports[: MOST_NAMESPACES + 1]:
        name = report.prefix + "usage"
        rows.append(
            (
                render.clean(report.name) or "(host)",
                str(report.fullness[1]),
                nagios.print_value(results[name]) if name in results else "",
            )
        )
    more = len(reports) - len(rows) + 1
    return render.table(rows) + ([f"  and {more} more"] if more else [])
