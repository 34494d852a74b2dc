"""check_conntrack_usage: how full the connection-tracking table is, and when it will be full.

Reads sysctls that everybody may read; only other network namespaces and listening take the reader,
and privileges. In three acts: acquire (resource.py), evaluate (contexts in nagios.py), present
(summary.py).
"""

from __future__ import annotations

from contextlib import ExitStack

from .. import cli, nagios, runner, session
from ..kernel import privileges
from ..ranges import parse_thresholds
from ..state.forecast import FEWEST_RUNS, SHORTEST_SPAN
from .labels import LABELS, LISTENING_LABELS, NAMESPACE_LABELS
from .resource import read
from .summary import UsageSummary

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from ..ranges import Thresholds
    from ..session import Session
    from ..signals import Stage
    from .resource import Usage

__all__ = ["EXAMPLES", "LABELS", "NAMESPACE_LABELS", "TITLE", "main", "parser", "run_check"]
TITLE = "CONNTRACK_USAGE"
PURPOSE = """\
How full is the kernel's connection-tracking table, and when will it be full? A full
table drops new connections while established ones go on. Needs no privileges, unless
it listens."""
LONGEST_WINDOW = 30 * 86400  # seconds
SHORTEST_LISTENING, LONGEST_LISTENING = 0.1, 30.0  # seconds; the reader allows no more
LISTENING_RESERVE = 2.0  # seconds of the time-out for all the rest
# Modules that are imported on demand, after privileges were dropped.
LATER_MODULES = tuple(
    f"check_conntrack.{name}"
    for name in (
        *("advice.instance", "kernel.ethtool"),
        *("usage.instance", "usage.listening", "usage.reachable"),
    )
)
EXAMPLES = """\
Examples:
  check_conntrack_usage -w 80 -c 90
  check_conntrack_usage -w time_to_full=4h: -c time_to_full=30m:
  check_conntrack_usage -w 70 -w limit=262144: -c entries=90%
  check_conntrack_usage --listen 1s --sudo -w settles_at=80 -c time_to_full=5m:
  check_conntrack_usage --netns all --sudo
  check_conntrack_usage -v --trend-window 6h --state-key slow
"""


def _window(text: str) -> float:
    seconds = cli.parse_seconds(text)
    if not SHORTEST_SPAN <= seconds <= LONGEST_WINDOW:
        raise cli.ArgumentTypeError(f"{text!r} is not between 5m and 30d")
    return seconds


def _listening_time(text: str) -> float:
    seconds = cli.parse_seconds(text)
    if seconds and not SHORTEST_LISTENING <= seconds <= LONGEST_LISTENING:
        raise cli.ArgumentTypeError(f"{text!r} is not between 0.1s and 30s, nor 0")
    return seconds


def validate(options: argparse.Namespace, thresholds: Thresholds) -> None:
    """Raise UsageError where --listen and the other options do not go together."""
    if not options.listen:
        names = [name for name in LISTENING_LABELS if name in thresholds.given]
        if names:
            raise cli.UsageError(f"a range for {', '.join(names)} needs --listen (add --listen 1s)")
    elif 0 < options.timeout < options.listen + LISTENING_RESERVE:
        raise cli.UsageError(
            f"--timeout {options.timeout:g} is too short for --listen {options.listen:g} "
            f"(allow at least {options.listen + LISTENING_RESERVE:g}s)"
        )


def parser() -> cli.Parser:
    """Return the parser of this check's command line."""
    made = cli.make_parser("check_conntrack_usage", PURPOSE, LABELS, EXAMPLES)
    add = made.add_argument_group("options of this check").add_argument
    add(
        "--trend-window",
        type=_window,
        default=3600.0,
        metavar="DURATION",
        help="longest time span for growth (default: 1h)",
    )
    add(
        "--listen",
        type=_listening_time,
        default=0.0,
        metavar="DURATION",
        help="count new entries for so long, 0.1s to 30s, and say where the table is heading; "
        "takes the reader (default: 0, do not listen)",
    )
    return made


def run_check(options: argparse.Namespace, stage: Stage) -> runner.CheckResult:
    """Run the check. Privileges are dropped before anything from the kernel is parsed."""
    thresholds = parse_thresholds(LABELS, options.warning, options.critical)
    validate(options, thresholds)
    with ExitStack() as stack:
        run = session.begin(
            options,
            stage,
            stack,
            readers=bool(options.netns) + bool(options.listen),
            spare=int(bool(options.netns)),  # for the owners of namespaces
            capabilities=[privileges.CAP_SYS_ADMIN if options.netns else privileges.CAP_NET_ADMIN],
            later_modules=LATER_MODULES,
        )
        usage, write = read(run, options, thresholds)

        never = _unreachable(usage, thresholds, options)

        def remember() -> None:
            write()
            usage.write(run.store)

        return nagios.conclude(
            options,
            run,
            usage,
            UsageSummary(usage, run, options.verbose, options.trend_window),
            nagios.contexts(LABELS, thresholds, options.if_inactive),
            thresholds=thresholds,
            not_applicable=usage.not_applicable,
            absent=usage.absent,
            remember=remember,
            notes=[*usage.notes, *(never or _not_known_yet(usage, thresholds, run))],
        )


def _unreachable(usage: Usage, thresholds: Thresholds, options: argparse.Namespace) -> list[str]:
    """Return the lines on thresholds that can never work."""
    if not thresholds.given & {"growth", "time_to_full"}:
        return []
    from . import reachable

    series = usage.reports[0].series if usage.reports else None
    interval = series.interval if series else 0.0
    return reachable.notes(thresholds, options.trend_window, interval, listens=bool(options.listen))


def _not_known_yet(usage: Usage, thresholds: Thresholds, run: Session) -> list[str]:
    """Return the line on labels with a range that need more runs than there were.

    Where no run is kept, that is said instead.
    """
    unknown = () if run.store.trouble else usage.not_known_yet
    names = [
        each.name
        for each in LABELS
        if each.name in unknown
        and thresholds.can_alert(each)
        and (each.name != "settles_at" or each.name in thresholds.given)  # it has a default
    ]
    if not names:
        return []
    series = usage.reports[0].series
    outlook = usage.reports[0].outlook
    why = f"it takes {FEWEST_RUNS} runs and 5 minutes"
    if names == ["settles_at"] and outlook and outlook.burst:
        why = "the new entries came in a burst"
    elif series is None or len(series.samples) < 2:
        why = "no earlier run is known"
    return [f"Not known yet: {', '.join(names)} ({why})"]


def main(elapsed: float = 0.0) -> int:
    """Run the executable; returns the exit code. `elapsed`: seconds since it was started."""
    return runner.run(TITLE, parser(), run_check, elapsed=elapsed)
