"""Acquire the tables: from the first source that gives them, for each network namespace.

`TableReader.read` does all reading and returns a TableReport (report.py); TableResource only hands
its figures to nagiosplugin. Peaks of earlier runs are read here, and written by `remember_peaks`
after the verdict.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial

from nagiosplugin import Metric, Resource

from .. import namespaces, session
from ..kernel import KernelError
from ..kernel.limits import OWN, number, read_limits
from ..kernel.namespaces import Namespace
from ..kernel.source import FileReading
from ..kernel.table_file import HostValues
from ..reports import Histories, Owners
from . import sources
from .estimates import margins
from .options import MOST_NAMESPACES
from .report import TREND_WINDOW, NamespaceReport, TableReport
from .sources import SourceError, TableReading

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import ExitStack

    from ..kernel.conntrack_cli import Conntrack
    from ..kernel.namespaces import NamespaceScan
    from ..kernel.own_addresses import OwnAddresses
    from ..session import Session
    from ..state.trend import Series
    from .files import OpenFiles
    from .names import Names
    from .sources import ReadRequest


NOT_READ = "timed out before the table was read (allow more time with --timeout)"


class TableResource(Resource):
    """The figures of a TableReport, as nagiosplugin takes them.

    total_entries: the entries that a bound in percent of the entries is a share of. margins: of
    estimated figures, by the name of their metric.
    """

    def __init__(self, report: TableReport) -> None:
        self.report = report
        first = next((one for one in report.namespaces if not one.prefix), None)
        self.total_entries = first.figures.entries if first and first.figures else None
        if not self.total_entries and first and first.table and first.table.fault:
            self.total_entries = None  # nothing was read of a table that is not empty
        self.margins: dict[str, float] = {}
        for one in report.namespaces:
            self.margins.update(margins(one))

    def probe(self) -> Iterator[Metric]:
        """Yield the first namespace's metrics, then problems, then the other namespaces'."""
        report = self.report
        others = [one for one in report.namespaces if one.prefix]
        graphed = [one for one in others[:MOST_NAMESPACES] if one.namespace.entries]
        for one in report.namespaces:
            if not one.prefix:
                yield from one.metrics(hidden=False)
        for problem in report.problems:
            yield Metric("problem", problem, context="problem")
        for one in report.namespaces:
            if one.table and one.table.unreadable:
                yield Metric("unreadable", one.table.unreadable, context="unreadable")
        if report.inactive:
            yield Metric("inactive", "conntrack is not active", context="inactive")
        for one in others:
            yield from one.metrics(hidden=one not in graphed)


class TableReader:
    """One run's way to tables.

    programs: conntrack(8) processes that were started while there were privileges. files: those
    that the options name.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        session: Session,
        request: ReadRequest,
        programs: list[Conntrack],
        files: OpenFiles,
        stack: ExitStack,
    ) -> None:
        self.options = options
        self.session = session
        self.request = request
        self._programs = programs
        self._files = files
        self._timeouts: dict[str, dict[str, int]] = {}
        self._names: dict[str, Names] = {}
        self.owners = Owners(session)
        self._tables: dict[str, TableReading] = {}
        self._gone: set[str] = set()
        self._stack = stack
        self._problems: list[str] = []
        self._histories: Histories | None = None
        self._errors: list[SourceError] = []

    def read(self, prepare: Callable[[TableReport], None] | None = None) -> TableReport:
        """Read everything that was asked for. Raises KernelError where nothing can be read.

        prepare: called with what is known before the tables are read, in case time runs out.
        """
        if self.options.source not in sources.LIVE:
            return self._read_file()
        stage = self.session.stage
        stage("reading /proc/sys/net/netfilter")
        scan = namespaces.scan(self.session, self.options.netns)
        self._problems += scan.problems
        first = [scan.first] if scan.first else []
        # The first is always read, of the others the largest: each takes its time.
        largest = sorted(scan.others, key=lambda one: one.entries, reverse=True)
        wanted = first + [one for one in largest[:MOST_NAMESPACES] if one.entries]
        # Limits are known by now: they are evaluated, whatever becomes of the tables.
        with stage.stoppable(self._problems.append):
            if prepare:
                prepare(self._report(scan, (), {})._replace(problems=(*self._problems, NOT_READ)))
            self._read_tables({one.path: one.entries for one in wanted})
        self._histories = Histories("table", self.options, self.session, TREND_WINDOW)
        return self._report(scan, wanted, self._histories.read(wanted))

    def _report(
        self, scan: NamespaceScan, wanted: Sequence[Namespace], histories: Mapping[str, Series]
    ) -> TableReport:
        """Return what is known by now. wanted: the namespaces whose tables were to be read."""
        reports = [
            _report(
                one,
                self._tables.get(one.path),
                histories.get(one.path),
                was_read=one in wanted,
            )
            for one in scan.all
            if one.path == OWN or one.path not in self._gone
        ]
        reports = list(map(self._with_stale, reports))
        others = [one for one in reports if one.prefix]
        others.sort(key=lambda one: one.namespace.fullness, reverse=True)
        plain = [one for one in reports if not one.prefix]
        return TableReport(
            (*plain, *others),
            tuple(self._problems),
            tuple(dict.fromkeys(self._errors)),
            inactive=bool(scan.inactive),
        )

    def _read_file(self) -> TableReport:
        from . import files

        options, stage = self.options, self.session.stage
        given = HostValues()
        if options.timeouts:
            given = files.read_host_values(options.timeouts, self._files, stage)
        table = files.read_file(options.source, self._files, self.request, stage)
        table = files.compared(table._replace(host=_merged(table.host, given)))
        host = Namespace(table.host.namespace, "", limits=table.host.limits(table.tally.read))
        report = self._with_stale(NamespaceReport(host, table, table.tally.figures()))
        problems = (table.fault,) if table.fault else ()
        return TableReport((report,), problems, from_file=True)

    def _with_stale(self, report: NamespaceReport) -> NamespaceReport:
        """Return a report with the flows whose translation is stale."""
        if not report.table or report.table.fault:
            return report
        from .stale import stale_flows

        here = report.path == OWN

        def timeouts() -> Mapping[str, int]:
            # The reader is kept for the diagnosis of the namespace that needs one.
            return self.timeouts(report) if here or not report.path else {}

        return report._replace(stale=stale_flows(report.table, timeouts, here=here))

    def _read_tables(self, counts: dict[str, int]) -> None:
        """Read tables of namespaces, by path and count, from the first source that has them."""
        left = dict(counts)
        for source in self._sources():
            if not left or (self._errors and sources.time_is_up(self.session.stage)):
                break
            answers = self._ask(source, left)
            for path, count in list(left.items()):
                table = answers.get(path)
                if table is None:
                    self._gone.add(path)
                    del left[path]
                elif isinstance(table, SourceError):
                    self._errors.append(table)
                else:
                    table = self._compared(table, path, count)
                    if not table.fault or path not in self._tables:
                        self._tables[path] = table
                    if not table.fault:
                        del left[path]
        self._problems += dict.fromkeys(one.fault for one in self._tables.values() if one.fault)
        if len(self._tables) + len(self._gone) < len(counts):
            self._problems.append(self._unreadable())

    def _sources(self) -> tuple[str, ...]:
        if self.options.source == sources.AUTO:
            return (sources.NETLINK, sources.PROC, sources.CONNTRACK)
        return (self.options.source,)

    def _ask(self, source: str, counts: dict[str, int]) -> dict[str, TableReading | SourceError]:
        """Return what a source gives for each path; a namespace that is gone is left out."""
        try:
            if source == sources.NETLINK:
                return sources.read_netlink(self.session, self.request, counts)
            if source == sources.PROC:
                return sources.read_proc(self.session, self.request, counts)
            return self._ask_conntrack(counts)
        except session.ForbiddenError:
            privilege = "CAP_NET_ADMIN" if source == sources.NETLINK else "root"
            error = SourceError(source, "permission denied, and no --sudo", privilege)
        except KernelError as failure:
            error = SourceError(source, str(failure))
        return dict.fromkeys(counts, error)

    def _ask_conntrack(self, counts: dict[str, int]) -> dict[str, TableReading | SourceError]:
        own = {path: count for path, count in counts.items() if path == OWN}
        elsewhere = SourceError(sources.CONNTRACK, "cannot read other namespaces")
        answers: dict[str, TableReading | SourceError]
        answers = dict.fromkeys(counts.keys() - own.keys(), elsewhere)
        if own:
            program = self.take_conntrack()
            answers.update(sources.read_conntrack(program, self.session.stage, self.request, own))
        return answers

    def take_conntrack(self) -> Conntrack:
        """Return a running conntrack(8), one with privileges if there is. Raises KernelError."""
        if not self._programs:
            from ..kernel.conntrack_cli import Conntrack

            self._programs.append(self._stack.enter_context(Conntrack()))
        return self._programs.pop()

    @property
    def has_conntrack(self) -> bool:
        """Return whether a conntrack(8) is left that was started while there were privileges."""
        return bool(self._programs)

    def _unreadable(self) -> str:
        """Return why there is no table, for the status line."""
        errors = dict.fromkeys(self._errors)
        if any(error.privilege for error in errors):
            tried = ", ".join(dict.fromkeys(error.source for error in errors))
            return f"cannot read the table: permission denied (tried {tried})"
        return "cannot read the table: " + "; ".join(map(str, errors))

    def _compared(self, table: TableReading, path: str, before: int) -> TableReading:
        """Return the table, held against the kernel's count before and after."""
        if self.request.match.narrows() and table.origin == sources.NETLINK_PATH:
            return table  # a filter of the kernel's may have left entries out
        compared = sources.compared(table, before, before)
        if compared is table:
            return table
        return sources.compared(table, before, self._count_again(path, before))

    def _count_again(self, path: str, before: int) -> int:
        """Return a namespace's count at this moment; the earlier one where it is not known."""
        with suppress(KernelError):
            if path == OWN:
                limits = read_limits()
                return limits.entries if limits else 0
            if self.session.may_ask:
                for frame in self.session.ask([b"limits", os.fsencode(path)]):
                    if frame.file == "nf_conntrack_count" and not frame.errno:
                        return number(FileReading(frame.file, frame.data))
        return before

    def timeouts(self, report: NamespaceReport) -> dict[str, int]:
        """Return the timeouts in force in a namespace in seconds, those that are known."""
        from ..kernel.timeouts import read_timeouts, timeouts_of

        path = report.path
        if not path:
            return dict(report.table.host.timeouts) if report.table else {}
        if path not in self._timeouts:
            self._timeouts[path] = {}
            if path == OWN:
                self._timeouts[path] = read_timeouts()
            elif self.session.may_ask and not sources.time_is_up(self.session.stage):
                with suppress(KernelError):
                    frames = self.session.ask([b"timeouts", os.fsencode(path)])
                    self._timeouts[path] = timeouts_of(frames)
        return self._timeouts[path]

    def names(self, report: NamespaceReport) -> Names:
        """Return the owners of addresses as a namespace sees them; asked for once, when needed."""
        from .names import Names, seen_from

        if report.table and not report.path:
            return Names(report.table.owners)
        if not self.options.names:
            return Names()
        if report.path not in self._names:
            owners = self.owners.read()
            self._names[report.path] = seen_from(
                owners,
                report.namespace,
                self.owners.problem,
                partial(sources.time_is_up, self.session.stage),
            )
        return self._names[report.path]

    def own_addresses(self, report: NamespaceReport) -> OwnAddresses:
        """Return the addresses of a namespace itself, or of the host that a file came from."""
        from ..kernel import own_addresses

        path, inode = report.path, report.namespace.inode
        if path == OWN:
            return own_addresses.of_this_namespace()
        if not path:
            return own_addresses.of_file(report.table.owners if report.table else {})
        if self.options.names:
            found = own_addresses.of_namespace(self.owners.read(), inode)
            if found.known:
                return found
        if self.session.may_ask and not sources.time_is_up(self.session.stage):
            forbidden = self.session.forbidden
            with suppress(KernelError):
                frames = self.session.ask(own_addresses.request(os.fsencode(path)))
                return own_addresses.read_answer(frames)
            # What is missing here is no reason to advise more privileges for the figures.
            self.session.forbidden = forbidden
        return own_addresses.NOT_KNOWN

    # --- peaks of earlier runs

    def remember_peaks(self) -> None:
        """Keep this run's counts for later runs; further namespaces share one file."""
        if self._histories:
            self._histories.write()


def _merged(own: HostValues, given: HostValues) -> HostValues:
    """Return what a file says of its host, with what another file says first."""
    return own._replace(
        entries=own.entries if given.entries is None else given.entries,
        limit=own.limit if given.limit is None else given.limit,
        buckets=given.buckets or own.buckets,
        timeouts={**own.timeouts, **given.timeouts},
    )


def _report(
    namespace: Namespace, table: TableReading | None, series: Series | None, *, was_read: bool
) -> NamespaceReport:
    """Return the report on a namespace, from what was read of it."""
    return NamespaceReport(
        namespace,
        table,
        table.tally.figures(table.total) if table else None,
        series,
        was_read,
    )
