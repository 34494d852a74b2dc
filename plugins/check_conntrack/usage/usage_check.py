"""check_conntrack_usage: how full the connection-tracking table is, and when it will be full.

Reads sysctls that everybody may read; only other network namespaces need privileges, and the
reader. In three acts: acquire (resource.py), evaluate (contexts in nagios.py), present
(summary.py).
"""

from __future__ import annotations

from contextlib import ExitStack

from .. import cli, nagios, runner, session
from ..ranges import parse_thresholds
from ..state import trend
from .labels import LABELS, NAMESPACE_LABELS
from .resource import read
from .summary import UsageSummary

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from ..signals import Stage

__all__ = ["EXAMPLES", "LABELS", "NAMESPACE_LABELS", "TITLE", "main", "parser", "run_check"]
TITLE = "CONNTRACK_USAGE"
PURPOSE = """\
How full is the kernel's connection-tracking table, and when will it be full? A full
table refuses new connections while established ones go on. Needs no privileges."""
LONGEST_WINDOW = 30 * 86400  # seconds
EXAMPLES = """\
Examples:
  check_conntrack_usage -w 80 -c 90
  check_conntrack_usage -w time_to_full=4h: -c time_to_full=30m:
  check_conntrack_usage -w 70 -w limit=262144: -c entries=90%
  check_conntrack_usage --netns all --sudo
  check_conntrack_usage -v --trend-window 6h --state-key slow
"""


def _window(text: str) -> float:
    seconds = cli.parse_seconds(text)
    if not trend.SHORTEST_SPAN <= seconds <= LONGEST_WINDOW:
        raise cli.ArgumentTypeError(f"{text!r} is not between 5m and 30d")
    return seconds


def parser() -> cli.Parser:
    """Return the parser of this check's command line."""
    made = cli.make_parser("check_conntrack_usage", PURPOSE, LABELS, EXAMPLES)
    made.add_argument_group("options of this check").add_argument(
        "--trend-window",
        type=_window,
        default=3600.0,
        metavar="DURATION",
        help="time span for growth (default: 1h); growth is known after 3 runs and 5 minutes",
    )
    return made


def run_check(options: argparse.Namespace, stage: Stage) -> runner.CheckResult:
    """Run the check. Privileges are dropped before anything from the kernel is parsed."""
    thresholds = parse_thresholds(LABELS, options.warning, options.critical)
    with ExitStack() as stack:
        run = session.begin(options, stage, stack, readers=1 if options.netns else 0)
        usage, histories = read(run, options)

        def remember() -> None:
            histories.write()
            usage.write(run.store)

        return nagios.conclude(
            options,
            run,
            usage,
            UsageSummary(usage, run, options.verbose),
            nagios.contexts(LABELS, thresholds, options.if_inactive),
            thresholds=thresholds,
            not_applicable=usage.not_applicable,
            absent=usage.absent,
            remember=remember,
        )


def main(late: float = 0.0) -> int:
    """Run the executable; returns the exit code. `late`: seconds that starting took."""
    return runner.run(TITLE, parser(), run_check, late=late)
