"""check_conntrack_table: what fills the connection-tracking table, why, and what to do about it.

The entry: drop privileges, read (resource), evaluate and present (summary), then write the state
and the snapshot that the verdict calls for.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial

from nagiosplugin import Ok, Unknown, Warn

from .. import nagios, runner, session, signals
from ..kernel import KernelError, privileges
from ..ranges import parse_thresholds
from . import estimates
from . import options as table_options
from .files import OpenFiles
from .options import EXAMPLES, LABELS, NAMESPACE_LABELS, PURPOSE, parser
from .resource import TableReader, TableResource
from .sources import CONNTRACK, CONNTRACK_PATH, LIVE
from .summary import TITLE, TableSummary

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Container

    from ..kernel.conntrack_cli import Conntrack
    from .report import NamespaceReport, TableReport

__all__ = [
    "EXAMPLES",
    "LABELS",
    "NAMESPACE_LABELS",
    "PURPOSE",
    "TITLE",
    "main",
    "parser",
    "run_check",
]
SPARE_TIME = 0.5  # seconds that a snapshot leaves for what comes after it
BUSY = 2.5  # times the processor time that a start takes, from which on time may run out


def run_check(options: argparse.Namespace, stage: signals.Stage) -> runner.CheckResult:
    """Run the check. Privileges are dropped before the first byte of the kernel's is parsed."""
    thresholds = parse_thresholds(LABELS, options.warning, options.critical)
    table_options.validate(options)
    started = time.monotonic()
    request = table_options.read_request(options)
    with ExitStack() as stack:
        programs = []
        files = OpenFiles(options)
        # Started later, it could not use capabilities of its file: new privileges are forbidden.
        by_name = options.source == CONNTRACK
        if table_options.may_use_conntrack(options) and (
            by_name or privileges.has(privileges.CAP_NET_ADMIN)
        ):
            programs = _privileged_conntrack(stack, 2 if options.save else 1)
        run = session.begin(
            options,
            stage,
            stack,
            readers=table_options.readers_needed(options),
            spare=table_options.readers_to_spare(options),
            capabilities=[privileges.CAP_SYS_ADMIN if options.netns else privileges.CAP_NET_ADMIN],
            later_modules=table_options.later_modules(options),
            open_files=files.open_all if options.source not in LIVE else None,
        )
        reader = TableReader(options, run, request, programs, files, stack)
        contexts = [
            *estimates.contexts(LABELS, thresholds, options.if_inactive),
            nagios.StateContext("unreadable", Warn),
        ]

        def evaluate(
            report: TableReport, remember: Callable[[], None] | None = None
        ) -> tuple[runner.CheckResult, TableSummary]:
            summary = TableSummary(report, reader, options)
            result = nagios.conclude(
                options,
                run,
                TableResource(report),
                summary,
                contexts,
                thresholds=thresholds,
                not_applicable=_not_applicable(report),
                remember=remember,
            )
            return result, summary

        def prepare(limits: TableReport) -> None:
            code, text = runner.printed(TITLE, evaluate(limits)[0])
            stage.answer = (0 if options.exit_ok else code, text)
            stage.result = None  # the limits alone are not the verdict

        report = reader.read(prepare if stage.slowdown > BUSY else None)
        result, summary = evaluate(report, None if report.from_file else reader.remember_peaks)
        _remember_findings(reader, summary)
        if not options.save or not summary.shown:
            return result
        deadline = started + options.timeout - SPARE_TIME if options.timeout else None
        return _with_snapshot(result, reader, summary.shown, deadline)


def _not_applicable(report: TableReport) -> Container[str]:
    """Return the labels that have no value because there is nothing to measure."""
    if report.inactive and not report.namespaces:
        return [label.name for label in LABELS]
    limits = [one.limits for one in report.namespaces if one.limits]
    if limits and not any(each.limit for each in limits):
        # There is no usage, and a bound in percent for `entries` is a share of the limit.
        return ("usage", "protected_usage", "entries")
    return ()


def _remember_findings(reader: TableReader, summary: TableSummary) -> None:
    """Keep the diagnosis for the other checks, which advise on the limit."""
    from ..state import last_finding
    from ..state.codec import encode

    changes = {
        key: partial(_replaced, encode(finding)) for key, finding in summary.findings.items()
    }
    if changes:
        reader.session.store.update_each(last_finding.KEY, changes)


def _replaced(new: object, _: object) -> object:
    return new


def _privileged_conntrack(stack: ExitStack, number: int) -> list[Conntrack]:
    """Start conntrack(8) while there are privileges; returns none where it is not installed."""
    from ..kernel.conntrack_cli import Conntrack

    try:
        return [stack.enter_context(Conntrack()) for _ in range(number)]
    except KernelError:
        return []


def _with_snapshot(
    result: runner.CheckResult,
    reader: TableReader,
    report: NamespaceReport,
    deadline: float | None,
) -> runner.CheckResult:
    """Return the verdict with a line about its snapshot; nothing here can change the state."""
    from . import snapshots

    options, store = reader.options, reader.session.store
    least = {"always": 0, "warning": 1, "critical": 2}[options.save_when]
    # An unknown table is not worth a snapshot.
    problem = least == 0 or (result.state is not Unknown and int(result.state) >= least)
    name = report.namespace.name or f"net:[{report.namespace.inode}]"
    key = f"snapshot/{name}/{options.state_key}"
    now = time.time()
    try:
        if not problem or not report.table:
            # UNKNOWN does not end an incident.
            if not problem and result.state is not Unknown:
                store.update(key, lambda _: snapshots.remember(problem=False, saved=None))
                # It is said now, and not when the first problem begins.
                reader.session.stage(f"opening {options.save}")
                snapshots.check_writable(options.save)
            return result
        line = _save(reader, report, deadline, now, store.read(key))
        if line:
            store.update(key, lambda _: snapshots.remember(problem=True, saved=now))
            return result._replace(lines=[*result.lines, line])
    except (Exception, signals.StoppedError) as error:
        failed = f"no snapshot: {error}"
        if result.state is Ok:
            return result._replace(text=f"{result.text}; {failed}")
        return result._replace(lines=[*result.lines[:1], failed, *result.lines[1:]])
    return result


def _save(
    reader: TableReader,
    report: NamespaceReport,
    deadline: float | None,
    now: float,
    earlier: object,
) -> str:
    """Write a snapshot if one is due; returns the line about it, empty where none is due."""
    from . import snapshots
    from .table_text import described, host_values, table_text

    assert report.table  # noqa: S101 - checked by the caller
    options = reader.options
    reader.session.stage(f"saving the table in {options.save}")
    folder = snapshots.Folder(options.save)
    try:
        part = snapshots.due(earlier, folder.kept(report.namespace.name), now)
        # The first snapshot of an incident stays; with room for one, it is the only one.
        if not part or (part == snapshots.LATER and options.keep == 1):
            return ""
        program = None
        if reader.has_conntrack or report.table.origin == CONNTRACK_PATH:
            program = reader.take_conntrack()
        pieces = described(
            table_text(reader.session, program, report.table, report.path),
            host_values(report, reader.timeouts(report)),
            now,
            reader.names(report).owners,
        )

        def expired() -> bool:
            return deadline is not None and time.monotonic() > deadline

        path = folder.save(report.namespace.name, part, now, pieces, expired)
        folder.prune(report.namespace.name, options.keep)
    finally:
        folder.close()
    return f"Saved the table in {path}"


def main(elapsed: float = 0.0) -> int:
    """Run the executable; returns the exit code. `elapsed`: seconds since it was started."""
    return runner.run(TITLE, parser(), run_check, elapsed=elapsed)
