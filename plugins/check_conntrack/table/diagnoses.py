"""Diagnose the tables of a run: the worst namespace's at length, those of others in words."""

from __future__ import annotations

import re
import time

from .. import reports
from ..kernel.limits import OWN
from . import sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..advice.diagnosis import Cause
    from ..advice.table_profile import TableProfile
    from ..state.last_finding import LastFinding
    from .report import NamespaceReport
    from .resource import TableReader


class Diagnoses:
    """The causes that fill the tables of a run; each table is diagnosed once.

    The first one that is asked for is the worst: the timeouts in force and the owners of addresses
    are read for it alone.
    """

    def __init__(self, reader: TableReader) -> None:
        self.reader = reader
        self._made: dict[str, tuple[NamespaceReport, TableProfile, list[Cause]]] = {}

    def causes(self, report: NamespaceReport) -> list[Cause]:
        """Return what fills a table; empty where its figures do not say."""
        return [] if self.why_none(report) else self._of(report)[2]

    def profile(self, report: NamespaceReport) -> TableProfile:
        """Return the values that the causes go by."""
        return self._of(report)[1]

    def why_none(self, report: NamespaceReport) -> str:
        """Return why a table is not diagnosed; empty where it is."""
        match = self.reader.request.match
        if not report.table:
            return "the table was not read"
        if report.table.fault:
            return "the table was not read to its end"
        if report.table.unreadable:
            return "too many lines could not be read"
        if match.protocols or match.states or match.ports or match.marks:
            return "it needs flows of every protocol, state, port and mark"
        return ""

    def _of(self, report: NamespaceReport) -> tuple[NamespaceReport, TableProfile, list[Cause]]:
        if report.path not in self._made:
            from ..advice.diagnosis import diagnose
            from .profile import table_profile

            enter = _into(report)
            worst = next(iter(self._made.values()), None)
            if worst:
                known = worst[1].kube_proxy
                profile = table_profile(report, {}, enter, kube_proxy=known)
            else:
                timeouts, names = self.reader.timeouts(report), self.reader.names(report)
                own = self.reader.own_addresses(report)
                profile = table_profile(report, timeouts, enter, names, own)
            self._made[report.path] = report, profile, diagnose(profile)
        return self._made[report.path]

    # --- of further namespaces

    def in_short(self, others: Sequence[NamespaceReport]) -> list[str]:
        """Return the first cause of each for the status line; empty for none."""
        texts = []
        for report in self._in_time(others):
            causes = self.causes(report)
            texts.append(_short(causes[0].headline(self.profile(report))) if causes else "")
        return texts

    def at_length(self, others: Sequence[NamespaceReport]) -> list[str]:
        """Return the causes of each in a line, with the command that advises on them."""
        from ..advice.capacity import CapacityEvidence, table_check
        from ..advice.diagnosis import NO_CAUSE

        lines = []
        for report in self._in_time(others):
            if self.why_none(report):
                continue
            profile = self.profile(report)
            said = [cause.sentence(profile) for cause in self.causes(report)] or [NO_CAUSE]
            asking = table_check(CapacityEvidence(0, 0, 0, netns=report.namespace.option))
            where = reports.title_of(report.namespace)
            lines.append(f"{where}: {'; '.join(said)}. What to do there: {asking}")
        return lines

    def _in_time(self, others: Sequence[NamespaceReport]) -> Iterator[NamespaceReport]:
        """Yield the namespaces that there is time for."""
        for report in others[: reports.MOST_GRAPHED]:
            if sources.time_is_up(self.reader.session.stage):
                return
            yield report

    # --- for the other checks

    @property
    def findings(self) -> dict[str, LastFinding]:
        """Return what was diagnosed, by the namespace's key."""
        return {
            report.namespace.key: _finding(profile, causes)
            for report, profile, causes in self._made.values()
        }


def _short(headline: str) -> str:
    """Return a cause and its culprit without shares and evidence in parentheses."""
    plain = re.sub(r"\b\d+% (?=(?:from|to) )", "", headline)
    return plain[: plain.rindex(" (")] if plain.endswith(")") else plain


def _into(report: NamespaceReport) -> str:
    """Return the words before a command that is to run in a namespace."""
    path = report.path
    if not path and report.table:
        path = report.table.host.path
    if not path or path == OWN:
        return ""
    import shlex

    return f"nsenter --net={shlex.quote(path)} "


def _finding(profile: TableProfile, found: Sequence[Cause]) -> LastFinding:
    """Return what to keep of a diagnosis."""
    from ..state.last_finding import LastFinding

    causes = [cause for cause in found if cause.fills]
    cause = causes[0] if causes else None
    return LastFinding(
        int(time.time()),
        cause.name if cause else "",
        cause.headline(profile) if cause else "",
        all(cause.room for cause in causes),
    )
