"""What the checks have in common toward the user: options, time, and an answer in every case.

run() is the only way out of a check: whatever happens inside, one status line is printed and the
exit code is 0 to 3.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import suppress

from nagiosplugin import Ok, Unknown

from check_conntrack.state.state_store import SHARED, STATE_VARIABLE, Store

from . import __version__, render
from .kernel import KernelError, privileges
from .kernel.namedtuple import NamedTuple
from .ranges import Label, ThresholdError, duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Callable, NoReturn

    from nagiosplugin.state import ServiceState


DEFAULT_TIMEOUT = 8.0  # seconds; check_nrpe gives up at 10
LAST_MOMENT = 0.5  # seconds to print a verdict in, once somebody wants the check to stop
THRESHOLDS = (("-w", "--warning", "warning"), ("-c", "--critical", "critical"))
RANGES = """\
Ranges are those of the Monitoring Plugins: a value alerts when it lies
  10      below 0 or above 10        10:20   below 10 or above 20
  10:     below 10                   @10:20  from 10 to 20
  ~:10    above 10                   LABEL=~:  never
"""
QUOTES = """\
In a shell a range with ~ or @ wants quotes: -w "~:10", -w "usage=~:". One that
begins with - wants an equals sign before it: -w=-5:5.
"""
UNITS = """\
A bound may carry its label's unit: 80%, and for times s, m, h, d. Naming a
label replaces its default. A warning that could never fire beside the critical
range is refused.
"""
STATES = """\
Exit codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN; the worst decides, in the
order CRITICAL, UNKNOWN, WARNING, OK. 3 also for --help, --version, a bad command
line, a missing right and a time-out.
"""


class UsageError(Exception):
    """A command line that cannot be carried out."""


class _PageError(Exception):
    """Not an error: a text that was asked for (--help, --version) instead of a verdict."""


class StoppedError(BaseException):
    """Time is up, or a signal said so. No handler of ordinary errors may swallow it."""


class Outcome(NamedTuple):
    """A check's verdict, ready to be printed.

    `lines` are for problems and for -v, `notes` stand before them and are printed in any case.
    """

    state: ServiceState
    text: str
    perfdata: Sequence[str] = ()
    lines: Sequence[str] = ()
    notes: Sequence[str] = ()


class Stage:
    """What a check is doing at the moment, for the one who asks why it took so long."""

    def __init__(self) -> None:
        self.now = "starting"

    def __call__(self, now: str) -> None:
        """Say what comes next."""
        self.now = now


class Parser(argparse.ArgumentParser):
    """argparse without its own ideas about exit codes and streams."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        for short, long, _ in THRESHOLDS:
            # argparse takes a range below zero for an option.
            if message == f"argument {short}/{long}: expected one argument":
                message += f"; a range that begins with - is written {short}=-5:5"
        raise UsageError(f"{message} (see --help)")


class _Manual(argparse.RawDescriptionHelpFormatter):
    # argparse makes a formatter for every option it is told of; asking the terminal for its width
    # each time takes longer than all the rest of the parser.
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=80)


class _Show(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise _PageError(
            parser.format_help() if self.dest == "help" else f"{parser.prog} {__version__}\n"
        )


def parser(name: str, purpose: str, labels: Sequence[Label], examples: str) -> Parser:
    """A parser with the options of every check, and a help page that is the check's manual."""
    made = Parser(
        prog=name,
        usage="%(prog)s [options]",
        description=purpose,
        epilog="\n".join([_table(labels), RANGES, QUOTES, UNITS, STATES, examples]),
        formatter_class=_Manual,
        add_help=False,
        allow_abbrev=False,
    )
    main = labels[0].name
    add = made.add_argument
    for short, long, what in THRESHOLDS:
        add(
            short,
            long,
            action="append",
            default=[],
            metavar="[LABEL=]RANGE",
            help=f"{what} where LABEL (default: {main}) lies outside RANGE; repeatable",
        )
    add(
        "-t",
        "--timeout",
        type=_seconds,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="give up after SECONDS, 0 for never (default: 8)",
    )
    add("-v", "--verbose", action="count", default=0, help="more long output; repeatable, to -vvv")
    add("--exit-ok", action="store_true", help="evaluate and print as ever, exit 0")
    add(
        "--if-inactive",
        choices=list(render.STATES),
        default="ok",
        metavar="STATE",
        help="state when conntrack is not loaded: ok (default), warning, critical, unknown",
    )
    add(
        "--netns",
        action="append",
        default=[],
        metavar="NS",
        help="look at network namespace NS: a name or glob of names under /run/netns, a path, "
        "a pid, or all; repeatable",
    )
    add("--sudo", action="store_true", help="start the privileged reader through sudo -n")
    add("--user", metavar="USER", help="started as root, become USER before anything is parsed")
    add("--state-dir", metavar="DIR", help="where earlier runs are remembered")
    add("--state-key", default="", metavar="KEY", help="keep this service's memory apart")
    add("--no-state", action="store_true", help="remember nothing")
    add("-V", "--version", nargs=0, action=_Show, help="print the version and exit (with 3)")
    add("-h", "--help", nargs=0, action=_Show, help="print this page and exit (with 3)")
    return made


def _table(labels: Sequence[Label]) -> str:
    rows = [("label", "unit", "-w", "-c", "meaning")]
    rows += [
        (label.name, label.unit, label.warning, label.critical, label.meaning) for label in labels
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  " + "  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in rows]
    return "\n".join(["Performance data, with default thresholds:", *lines, ""])


def _seconds(text: str) -> float:
    try:
        seconds = duration(text)
    except ThresholdError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if 0 < seconds < 0.001 or seconds > 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1ms and 1d")
    return seconds


def drop_rights(options: argparse.Namespace, late: Sequence[str] = ()) -> str | None:
    """Become unprivileged for good; returns the home of whom root became, None where it was not.

    The home is empty where that user has none. `late` are modules that are imported only where
    they are needed, after this. Raises KernelError where the user is not to be had, or rights
    cannot be given up.
    """
    if os.geteuid() != 0:
        privileges.drop(privileges.User(os.geteuid(), os.getegid()), sudo=options.sudo)
        return None
    # What is imported only where it is needed must be in reach: whom root becomes may not be
    # allowed to read the folder that the suite, or Python itself, was installed in.
    from .advice import capacity  # noqa: F401
    from .kernel import host, namespaces, reader_client, reader_command  # noqa: F401

    for name in late:
        with suppress(ImportError):  # not every Python has every library; who needs it will say so
            __import__(name)
    directory = options.state_dir or os.environ.get(STATE_VARIABLE) or SHARED
    user = privileges.unprivileged_user(options.user, os.environ.get("SUDO_UID"), directory)
    privileges.drop(user)
    return user.home


def open_store(options: argparse.Namespace, home: str | None) -> Store:
    """The store that the options name."""
    if options.no_state:
        return Store.without("--no-state")
    return Store.open(options.state_dir, os.environ, home)


def run(
    title: str,
    made: Parser,
    judge: Callable[[argparse.Namespace, Stage], Outcome],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse, judge, print; returns the exit code."""
    hook = sys.unraisablehook
    try:
        _fill_standard_descriptors()
        sys.unraisablehook = _lost
        code, text = _answer(title, made, judge, arguments)
    except StoppedError as why:  # it came while another answer was being made
        code = int(Unknown)
        text = render.page(render.status_line(title, Unknown, str(why)), (), (), bounded=True)
    except Exception as error:  # the answer itself could not be made
        code = int(Unknown)
        what = f"no answer could be made: {type(error).__name__}: {error}"
        text = render.status_line(title, Unknown, what) + "\n"
    finally:
        sys.unraisablehook = hook
    return code if render.write(text) else int(Unknown)


def _answer(
    title: str,
    made: Parser,
    judge: Callable[[argparse.Namespace, Stage], Outcome],
    arguments: Sequence[str] | None,
) -> tuple[int, str]:
    """The exit code, and what is to be printed. When it is made, no signal raises any more."""
    stage = Stage()
    options = None
    judged = False
    try:
        _stops.clear()
        _listen(_stopped)
        _disinherit()
        options = made.parse_args(arguments)
        _set_timer(options.timeout, stage)
        outcome = judge(options, stage)
        judged = True
        signal.setitimer(signal.ITIMER_REAL, 0)
    except _PageError as asked:
        return int(Unknown), str(asked)
    except (UsageError, ThresholdError, KernelError) as error:
        outcome = Outcome(Unknown, str(error))
    except StoppedError as why:
        outcome = Outcome(Unknown, str(why))
    except KeyboardInterrupt:
        outcome = Outcome(Unknown, f"interrupted while {stage.now}")
    except MemoryError:
        outcome = Outcome(Unknown, f"out of memory while {stage.now}")
    except Exception as error:
        # Where C code runs Python, the interpreter may make another error of an order to stop.
        outcome = Outcome(Unknown, _stops[0]) if _stops else _unforeseen(error, stage, options)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, _leave)
        _listen(_hasten)
    verbose = 0 if options is None else options.verbose
    text = render.page(
        render.status_line(title, outcome.state, outcome.text),
        outcome.perfdata,
        [*outcome.notes, *(outcome.lines if verbose or outcome.state is not Ok else ())],
        bounded=not verbose,
    )
    return int(Ok if judged and options and options.exit_ok else outcome.state), text


def _unforeseen(error: Exception, stage: Stage, options: argparse.Namespace | None) -> Outcome:
    place = ""
    step = error.__traceback__
    while step:
        place = f"{os.path.basename(step.tb_frame.f_code.co_filename)}:{step.tb_lineno}"
        step = step.tb_next
    lines = []
    if options and options.verbose > 2:
        with suppress(OSError, MemoryError):  # the import takes what may be lacking
            import traceback

            lines = traceback.format_exc().splitlines()
    text = f"unforeseen {type(error).__name__} while {stage.now} ({place}): {error}"
    return Outcome(Unknown, text, (), lines)


def _fill_standard_descriptors() -> None:
    """Let no file that is opened later become standard output by taking its number."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        while True:
            descriptor = os.open(os.devnull, os.O_RDONLY)
            if descriptor > 2:
                os.close(descriptor)
                return


def _listen(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handler)


def _disinherit() -> None:
    """Undo what whoever started the check does with signals: it is inherited.

    Where SIGALRM is blocked, the time-out would never come; where SIGCHLD is ignored, nobody could
    tell how a child has ended.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # One that waits from before is not this check's time-out; to ignore it takes it away.
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM, *_NAMES))


# The order to stop that came, if one did. The second is the first again.
_stops: list[str] = []
# No enumeration has to be asked in a handler, which may interrupt that very enumeration.
_NAMES = {int(number): number.name for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}


def _stopped(number: int, _: FrameType | None) -> None:
    if not _stops:
        _stops.append(f"stopped by {_NAMES[number]}")
        raise StoppedError(_stops[0])


def _hasten(_: int, __: FrameType | None) -> None:
    # The verdict is made: it is printed within a moment, or nobody takes it any more.
    signal.setitimer(signal.ITIMER_REAL, LAST_MOMENT)


def _leave(_: int, __: FrameType | None) -> None:
    os._exit(int(Unknown))


def _lost(unraisable: sys.UnraisableHookArgs) -> None:
    """What was raised where nothing can be: standard error is no place for it.

    An order to stop must not be lost there. It comes again.
    """
    error = unraisable.exc_value
    if isinstance(error, StoppedError):
        why = str(error)

        def again(_: int, __: FrameType | None) -> None:
            raise StoppedError(why)

        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 1.0)


def _set_timer(seconds: float, stage: Stage) -> None:
    def expired(_: int, __: FrameType | None) -> None:
        raise StoppedError(f"timed out after {seconds:g}s while {stage.now}")

    if seconds:
        signal.signal(signal.SIGALRM, expired)
        # Again every second, for the one that falls into a place where exceptions are lost.
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
