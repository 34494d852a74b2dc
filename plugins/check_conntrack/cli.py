"""The command line: the options that all checks have, and the help page.

A wrong command line raises UsageError, a page that the user asked for PageRequest; neither prints
nor ends the process.
"""

from __future__ import annotations

import argparse
from argparse import ArgumentTypeError

from . import __version__
from .ranges import Label, ThresholdError, parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


__all__ = ["ArgumentTypeError", "Parser", "make_parser", "parse_seconds"]

DEFAULT_TIMEOUT = 8.0  # seconds; check_nrpe gives up after 10
STATE_NAMES = ("ok", "warning", "critical", "unknown")
_THRESHOLDS = (("-w", "--warning", "warning"), ("-c", "--critical", "critical"))
RANGES = """\
Ranges are those of the Monitoring Plugins. A value alerts
  10      below 0 or above 10        10:20   below 10 or above 20
  10:     below 10                   @10:20  from 10 to 20
  ~:10    above 10                   LABEL=~:  never
"""
QUOTES = """\
In a shell, quote a range with ~ or @: -w "~:10", -w "usage=~:". A range that
begins with - needs an equals sign before it: -w=-5:5.
"""
UNITS = """\
A bound may carry its label's unit: 80%, and for times s, m, h, d. Naming a
label replaces its default. A warning range that the critical range covers
entirely is refused, because it could never fire.
"""
STATES = """\
Exit codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN. Of several results the worst
decides, in the order CRITICAL, UNKNOWN, WARNING, OK. The exit code is also 3
for --help, --version, a wrong command line, missing privileges and a time-out.
"""


class UsageError(Exception):
    """A command line that cannot be carried out."""


class PageRequest(Exception):  # noqa: N818 - not an error
    """A text that the user asked for (--help, --version) instead of a verdict."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that neither prints nor ends the process."""

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> object:
        """Refuse a value `--`: until Python 3.13, argparse makes an empty list of it."""
        if arg_strings == ["--"]:
            raise argparse.ArgumentError(action, "-- is not a value")
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        for short, long, _ in _THRESHOLDS:
            # argparse takes a range that begins with - for an option.
            if message == f"argument {short}/{long}: expected one argument":
                message += f"; a range that begins with - is written {short}=-5:5"
        raise UsageError(f"{message} (see --help)")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    # argparse makes a formatter for each option that is added, and asking the terminal for its
    # width each time takes longer than everything else the parser does.
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=80)


class _ShowPage(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise PageRequest(
            parser.format_help() if self.dest == "help" else f"{parser.prog} {__version__}\n"
        )


def make_parser(name: str, purpose: str, labels: Sequence[Label], examples: str) -> Parser:
    """Return a parser with the options of all checks; the help page is the check's manual."""
    parser = Parser(
        prog=name,
        usage="%(prog)s [options]",
        description=purpose,
        epilog="\n".join([_label_table(labels), RANGES, QUOTES, UNITS, STATES, examples]),
        formatter_class=_HelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    main = labels[0].name
    add = parser.add_argument
    for short, long, state in _THRESHOLDS:
        add(
            short,
            long,
            action="append",
            default=[],
            metavar="[LABEL=]RANGE",
            help=f"{state} if LABEL (default: {main}) is outside RANGE; repeatable",
        )
    add(
        "-t",
        "--timeout",
        type=_timeout,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="print what is known after SECONDS, 0 for no limit (default: 8)",
    )
    add("-v", "--verbose", action="count", default=0, help="more long output; up to -vvv")
    add("--exit-ok", action="store_true", help="print the result as usual, but exit with 0")
    add(
        "--if-inactive",
        choices=list(STATE_NAMES),
        default="ok",
        metavar="STATE",
        help="state if conntrack is not loaded: ok (default), warning, critical, unknown",
    )
    add(
        "--netns",
        action="append",
        default=[],
        metavar="NS",
        help="check the network namespace NS: a name or glob of names under /run/netns, a path, "
        "a process id, or all; repeatable",
    )
    add("--sudo", action="store_true", help="start the privileged reader with sudo -n")
    add("--user", metavar="USER", help="if started as root, become USER before parsing anything")
    add("--state-dir", metavar="DIR", help="keep the history of earlier runs in DIR")
    add("--state-key", default="", metavar="KEY", help="keep this service's history separate")
    add("--no-state", action="store_true", help="keep no history")
    add("-V", "--version", nargs=0, action=_ShowPage, help="print the version and exit with 3")
    add("-h", "--help", nargs=0, action=_ShowPage, help="print this page and exit with 3")
    return parser


def _label_table(labels: Sequence[Label]) -> str:
    rows = [("label", "unit", "-w", "-c", "meaning")]
    rows += [
        (label.name, label.unit, label.warning, label.critical, label.meaning) for label in labels
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  " + "  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in rows]
    return "\n".join(["Performance data, with default thresholds:", *lines, ""])


def parse_seconds(text: str) -> float:
    """Return the seconds of a duration; raises ArgumentTypeError, for use as an option's type."""
    try:
        return parse_duration(text)
    except ThresholdError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _timeout(text: str) -> float:
    seconds = parse_seconds(text)
    if 0 < seconds < 0.001 or seconds > 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1ms and 1d")
    return seconds
