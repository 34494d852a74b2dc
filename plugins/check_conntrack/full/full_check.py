"""check_conntrack_full: find out whether, when and where the table was full, and what was lost.

The evidence is the kernel log, the counters, and the tables as they are now. A run acquires it
(evidence), finds which part of the window it covers (coverage), evaluates it (contexts), presents
it (summary), and then writes the state for the next run (state).
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from nagiosplugin import Ok

from .. import cli, nagios, render, runner, session
from ..kernel import counters, privileges
from ..kernel.log import gather, kmsg
from ..kernel.log.decompress import ZSTD
from ..kernel.log.opening import LogFiles
from ..ranges import parse_thresholds
from . import contexts
from .evidence import acquire, write
from .labels import INSTANCE_LABELS, LABELS, NAMESPACE_LABELS
from .log_report import DEFAULT_WINDOW
from .summary import FullSummary

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from datetime import tzinfo

    from .. import signals
    from .evidence import Evidence

__all__ = ["DEFAULT_WINDOW", "LABELS", "NAMESPACE_LABELS", "TITLE", "main", "parser", "run_check"]

TITLE = "CONNTRACK_FULL"
PURPOSE = """\
Has the kernel's connection-tracking table been full, when, in which namespace, and
what was lost? Reads the kernel log and the counters; both outlive the moment."""
# Modules that are imported on demand, after privileges were dropped.
LATER_MODULES = (
    *("bz2", "csv", "ctypes", "datetime", "fnmatch", "importlib", "lzma", "select"),
    *("zoneinfo", *ZSTD),
    *(
        f"check_conntrack.{name}"
        for name in (
            *("advice.instance", "advice.invalid_packets"),
            *("full.instance", "kernel.ethtool", "kernel.log.stream"),
        )
    ),
)
EXAMPLES = """\
Examples:
  check_conntrack_full
  check_conntrack_full --since 1h -w early_drops=100 -c full_drops=0
  check_conntrack_full --since boot --netns all --sudo
  check_conntrack_full --since all --log '/srv/collected/*/kern.log*'
  zcat kern.log.5.gz | check_conntrack_full --since all --log - --no-state
"""


def _since(text: str) -> float | str:
    import argparse

    if text in ("boot", "last", "all"):
        return text
    try:
        seconds = cli.parse_seconds(text)
    except argparse.ArgumentTypeError:
        problem = f"invalid window {text!r} (give a duration such as 15m, or boot, last, all)"
        raise argparse.ArgumentTypeError(problem) from None
    if not 1 <= seconds <= 366 * 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1s and 366d")
    return seconds


def _log(text: str) -> str:
    import argparse

    if not text:
        raise argparse.ArgumentTypeError("no path (give a log file, a glob, auto or -)")
    return text


def _zone(text: str) -> tzinfo:
    import argparse

    from ..kernel.log.stamps import parse_zone

    try:
        return parse_zone(text)
    except ValueError:
        problem = f"unknown time zone {text!r} (give a name such as Europe/Berlin, or +02:00)"
        raise argparse.ArgumentTypeError(problem) from None


def parser() -> cli.Parser:
    """Return the command line of this check."""
    made = cli.make_parser("check_conntrack_full", PURPOSE, LABELS, EXAMPLES)
    own = made.add_argument_group("options of this check")
    own.add_argument(
        "--since",
        type=_since,
        default=DEFAULT_WINDOW,
        metavar="WINDOW",
        help="the window: a duration (default: 15m), extended back to the previous run; boot; "
        "last (since the previous run exactly: set max_check_attempts 1, because a retry "
        "finds nothing new); all",
    )
    own.add_argument(
        "--log",
        type=_log,
        action="append",
        default=[],
        metavar="PATH",
        help="auto (default: the ring buffer, the journal and log files of this host, until the "
        "window is covered), a log file or glob with its rotated parts, or - ; repeatable",
    )
    own.add_argument(
        "--log-timezone",
        type=_zone,
        metavar="ZONE",
        help="time zone of log files whose times have no offset, such as Europe/Berlin or +02:00 "
        "(default: this host's)",
    )
    own.add_argument(
        "--if-incomplete",
        choices=list(nagios.STATES),
        default="unknown",
        metavar="STATE",
        help="state when a part of the window is not covered by any source: ok, warning, "
        "critical, unknown (default); the first run of a service is OK",
    )
    return made


def _capabilities(options: argparse.Namespace) -> list[int]:
    """Return a capability for each request that may need one: log, namespaces, own counters."""
    log = (not options.log or gather.AUTO in options.log) and kmsg.is_restricted()
    return (
        [privileges.CAP_SYSLOG] * log
        + [privileges.CAP_SYS_ADMIN] * bool(options.netns)
        + [privileges.CAP_NET_ADMIN] * (not os.path.exists(counters.PATH))
    )


def run_check(options: argparse.Namespace, stage: signals.Stage) -> runner.CheckResult:
    """Acquire, evaluate and present; then write the state.

    Privileges end in session.begin(), before anything that the kernel says is parsed.
    """
    thresholds = parse_thresholds(LABELS, options.warning, options.critical)
    with ExitStack() as stack:
        needed = _capabilities(options)
        opened = LogFiles()
        stack.callback(opened.close)
        named = [path for path in options.log if path != gather.AUTO]
        run = session.begin(
            options,
            stage,
            stack,
            readers=len(needed),
            spare=int(bool(needed)),  # for the owners of namespaces
            capabilities=needed,
            later_modules=LATER_MODULES,
            # Logs that root names may be root's alone.
            open_files=(lambda: opened.preopen(named)) if named else None,
        )
        evidence = acquire(options, run, opened)
        stage("evaluating what was read")
        kept = not run.store.trouble
        evaluation = contexts.evaluation_of(evidence, kept=kept)
        summary = FullSummary(evaluation, options, run)
        needs_history = options.since not in ("boot", "all")
        result = nagios.conclude(
            options,
            run,
            contexts.FullCheck(evaluation),
            summary,
            contexts.contexts(thresholds, options),
            thresholds=thresholds,
            not_applicable=contexts.not_applicable(evidence),
            absent=() if evidence.instance else INSTANCE_LABELS,
            remember=(lambda: write(evidence, options, run)) if needs_history else None,
            notes=contexts.history_notes(evaluation, thresholds) if kept else (),
        )
        if not needs_history:
            with stage.stoppable(run.store.notes.append):
                write(evidence, options, run)
        if options.since == "last" and options.no_state:
            window = render.duration(DEFAULT_WINDOW)
            note = f"--since last: no run before is known (--no-state), the window is {window}"
            lines = result.lines
            if result.state is Ok:
                result = result._replace(notes=[*result.notes, note])
            else:
                result = result._replace(lines=[*lines[:1], note, *lines[1:]])
        if result.state is Ok and not options.verbose:
            return result._replace(notes=[*result.notes, *_notes(evidence, summary)])
        return result


def _notes(evidence: Evidence, summary: FullSummary) -> list[str]:
    """Return one line on what an OK has not read; with -v the long output says it all."""
    unread = summary.unread()
    if evidence.log.usable:
        # Where one source covers what another lacks, nothing is missing.
        unread = list(evidence.unavailable)
    if not unread or evidence.inactive:
        return []
    more = f" (and {len(unread) - 1} more with -v)" if unread[1:] else ""
    return [f"Not read: {unread[0]}{more}"]


def main(elapsed: float = 0.0) -> int:
    """Run the executable; return the exit code. `elapsed`: seconds since it was started."""
    return runner.run(TITLE, parser(), run_check, elapsed=elapsed)
