"""The run of a check from its command line to its exit code.

run() prints exactly one status line and returns an exit code from 0 to 3, whatever happens inside.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from functools import partial

# The runner needs states for errors; everything else about nagiosplugin is in nagios.py.
from nagiosplugin import Ok, Unknown

from . import render, signals
from .cli import PageRequest, UsageError
from .kernel import KernelError
from .kernel.namedtuple import NamedTuple
from .ranges import ThresholdError
from .signals import Stage, StoppedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Callable

    from nagiosplugin.state import ServiceState

    from .cli import Parser

# How the loader says that there is no memory for a library (glibc, elf/dl-load.c).
NO_ROOM = ("failed to map segment", "annot allocate memory", "annot create shared object")


class CheckResult(NamedTuple):
    """The verdict of a check, ready to be printed.

    text: what follows the state on the status line.
    perfdata: items in the order in which they are printed.
    lines: long output, printed in any state but OK, and with -v.
    notes: long output that is always printed, before the lines.
    """

    state: ServiceState
    text: str
    perfdata: Sequence[str] = ()
    lines: Sequence[str] = ()
    notes: Sequence[str] = ()


def run(
    title: str,
    parser: Parser,
    run_check: Callable[[argparse.Namespace, Stage], CheckResult],
    arguments: Sequence[str] | None = None,
    elapsed: float = 0.0,
) -> int:
    """Run a check and print its result; returns the exit code.

    elapsed: seconds since the process was started; the time-out includes them.
    """
    hook = sys.unraisablehook
    stage = Stage(title)
    try:
        _fill_standard_descriptors()
        sys.unraisablehook = signals.raise_again
        code, text = _answer(title, parser, run_check, arguments, stage, elapsed)
    except StoppedError as error:  # it came while another answer was being made
        code = int(Unknown)
        text = render.status_line(title, "UNKNOWN", str(error)) + "\n"
    except Exception as error:  # the answer itself could not be made
        code = int(Unknown)
        problem = f"internal error while printing: {type(error).__name__}: {error}"
        text = render.status_line(title, "UNKNOWN", problem) + "\n"
    finally:
        sys.unraisablehook = hook
    stage.begin_printing()
    written = render.write(text)
    stage.stop_timer()
    return code if written else int(Unknown)


def _answer(
    title: str,
    parser: Parser,
    run_check: Callable[[argparse.Namespace, Stage], CheckResult],
    arguments: Sequence[str] | None,
    stage: Stage,
    elapsed: float,
) -> tuple[int, str]:
    """Return the exit code and the text to print. After this no signal raises any more."""
    options = None
    complete = False
    try:
        signals.take_over()
        options = parser.parse_args(arguments)
        stage.set_timer(options.timeout, elapsed)
        stage.printed = partial(_printed, title, options, stage)
        result = run_check(options, stage)
        complete = True
    except PageRequest as page:
        return int(Unknown), str(page)
    except (UsageError, ThresholdError, KernelError) as error:
        result = _refused(title, str(error))
    except StoppedError as error:
        if stage.answer and stage.result is None:
            return stage.answer  # what is known of it
        result = _stopped(stage, str(error))
    except KeyboardInterrupt:
        result = _stopped(stage, f"interrupted while {stage.now}")
    except MemoryError:
        result = CheckResult(Unknown, f"out of memory while {stage.now}")
    except Exception as error:
        reason = signals.stop_reason()
        result = _stopped(stage, reason) if reason else _internal_error(error, stage, options)
    finally:
        stage.settle()
    code, text = printed(title, result, 0 if options is None else options.verbose)
    complete = complete or stage.result is not None
    return (int(Ok), text) if complete and options and options.exit_ok else (code, text)


def _refused(title: str, why: str) -> CheckResult:
    """Return UNKNOWN with its reason; below it once more where the status line has to cut it."""
    whole = render.clean(why)
    cut = whole not in render.status_line(title, Unknown.text.upper(), why)
    return CheckResult(Unknown, why, (), [why] if cut else ())


def printed(title: str, result: CheckResult, verbose: int = 0) -> tuple[int, str]:
    """Return the exit code and the output of a result."""
    status = render.status_line(title, result.state.text.upper(), result.text)
    text = render.page(
        status,
        result.perfdata,
        [*result.notes, *(result.lines if verbose or result.state is not Ok else ())],
        bounded=not verbose,
    )
    return int(result.state), text


def _printed(title: str, options: argparse.Namespace, stage: Stage, reason: str) -> tuple[int, str]:
    """Return the exit code and the output of a check that was stopped after its verdict."""
    code, text = printed(title, _stopped(stage, reason), options.verbose)
    return (int(Ok) if options.exit_ok else code), text


def _stopped(stage: Stage, reason: str) -> CheckResult:
    """Return the verdict if it was known when the check was stopped, else UNKNOWN."""
    result: CheckResult | None = stage.result
    if result is None:
        return CheckResult(Unknown, reason)
    return result._replace(notes=[*result.notes, reason])


def _internal_error(
    error: Exception, stage: Stage, options: argparse.Namespace | None
) -> CheckResult:
    no_room = isinstance(error, ImportError) and any(each in str(error) for each in NO_ROOM)
    if no_room or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return CheckResult(Unknown, f"out of memory while {stage.now}")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return CheckResult(Unknown, f"{os.strerror(error.errno)} while {stage.now}")
    place = ""
    step = error.__traceback__
    while step:
        place = f"{os.path.basename(step.tb_frame.f_code.co_filename)}:{step.tb_lineno}"
        step = step.tb_next
    lines = []
    if options and options.verbose > 2:
        with suppress(OSError, MemoryError):  # the import may lack just these
            import traceback

            lines = traceback.format_exc().splitlines()
    text = f"internal error while {stage.now}: {type(error).__name__} ({place}): {error}"
    return CheckResult(Unknown, text, (), lines)


def _fill_standard_descriptors() -> None:
    """Open /dev/null in place of closed standard streams, so that no file takes their numbers."""
    while not all(map(_is_open, range(3))):
        os.open(os.devnull, os.O_RDONLY)  # takes the lowest number that is free


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
