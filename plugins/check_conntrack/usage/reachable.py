"""Thresholds and trend windows that can never work, given how often the check runs.

A forecast reaches REACH times the trend window ahead, and a table can be full before the next run
sees it.
"""

from __future__ import annotations

from .. import render
from ..state.forecast import FEWEST_RUNS, REACH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..ranges import Thresholds

JITTER = 1.1  # a run may come a tenth of the interval late


def notes(thresholds: Thresholds, window: float, interval: float, *, listens: bool) -> list[str]:
    """Return what can never work of the ranges for growth and time_to_full, with the remedy.

    Nothing while the interval is not known.

    window: the trend window. interval: between two runs. Both in seconds.
    listens: the time to full is known from events as well, and reaches farther.
    """
    if not interval:
        return []
    lines = [*_short(window, interval), *_early(thresholds, interval)]
    if not listens:
        lines += _far(thresholds, window)
    return lines


def _short(window: float, interval: float) -> Iterator[str]:
    """Yield that the window cannot hold the runs that growth takes."""
    least = (FEWEST_RUNS - 1) * interval * JITTER
    if window < least:
        yield (
            f"--trend-window {render.duration(window)}: too short, runs are "
            f"{render.duration(interval)} apart and growth takes {FEWEST_RUNS} of them "
            f"(use {_option(least)})"
        )


def _early(thresholds: Thresholds, interval: float) -> Iterator[str]:
    """Yield the bounds on time_to_full that are shorter than the time between two runs."""
    for name, text, bound in _bounds(thresholds):
        if 0 < bound < interval:
            yield (
                f"{name} range {text!r} of time_to_full: runs are {render.duration(interval)} "
                f"apart, the table can be full before one alerts (use {_option(2 * interval)}:)"
            )


def _far(thresholds: Thresholds, window: float) -> Iterator[str]:
    """Yield the bounds on time_to_full that are farther away than a forecast reaches."""
    for name, text, bound in _bounds(thresholds):
        if bound > REACH * window:
            yield (
                f"{name} range {text!r} of time_to_full: a forecast reaches "
                f"{render.duration(REACH * window)} ahead, {REACH} times the trend window "
                f"(use --trend-window {_option(bound / REACH)})"
            )


def _bounds(thresholds: Thresholds) -> Iterator[tuple[str, str, float]]:
    """Yield the lower bounds on time_to_full that the user gave: (which, the range, seconds)."""
    ranges = thresholds.of["time_to_full"]
    if "time_to_full" in thresholds.given:
        for name, given in (("warning", ranges.warning), ("critical", ranges.critical)):
            if given and not given.inverted:
                yield name, given.text, given.start


def _option(seconds: float) -> str:
    """Return a duration as options take it, rounded up to whole minutes, or hours from two on."""
    unit, name = (3600, "h") if seconds > 7200 else (60, "m")
    return f"{-int(-seconds // unit)}{name}"
