"""Growth of a count, and the time until it reaches its limit. Pure functions over samples.

A flood fills a table in seconds, and a leak in days. So the growth is measured over the whole trend
window, its last half, its last quarter, and so on down to the last two runs, and the one that fills
the table first decides.

- Growth that has lasted for a time is believed for REACH times as long. The last two runs say
  something about the next minutes, not about the next day.
- Two runs within LEAST_SPAN, as when somebody starts the check by hand, show a step and no rate.
- Growth must go on: within each span, the medians of three parts have to rise from part to part
  (Tukey's resistant line), and the newest count must not be below the last of them. A single step
  or burst is growth in the last two runs only.
- A count that the trend window has seen before, without the table being full, is no growth. Jobs
  that open the same number of connections every five minutes do not alarm.

It was chosen among others by what they do in tests/replay (docs/lead-time.md has the table). With
runs 60 s apart and a warning below one hour: minutes of false WARNING and CRITICAL in 145 hours of
healthy tables, and seconds of warning before a ramp of 24 minutes from 2% fills the table, and one
of 70 minutes from 30%:

    estimator                                      WARNING  CRITICAL  24 min  70 min
    repeated median over the trend window (before)     128         0     491    2862
    least squares over 15 minutes                      282         1    1060    3162
    least squares over an hour                         163         1     280    1902
    the smaller slope between the three parts          156        11    1209    2922
    without the rule on counts that were seen before   626       297    1209    3042
    believed for 4 times as long                       157        10    1121    2737
    believed for 15 times as long                      179        12    1298    3042
    this one                                           176        12    1209    3042

The newest count held against the lowest of the last part, instead of its median, gave up to twice
the false alarms after a step. Samples thinned to upper envelopes lost a third of the warning with
runs 10 s apart.
"""

from __future__ import annotations

import math

from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeVar

    from .trend import Sample

    Number = TypeVar("Number", int, float)

REACH = 10  # times as long as growth was seen, it is believed to go on
FEWEST_RUNS = 3  # of a growth that fills no table
SHORTEST_SPAN = 300.0  # seconds
LEAST_SPAN = 5.0  # seconds; growth within a shorter time may be a step that is over
NEAREST = 1.0  # seconds; the time left of a table that is not full: 0 is for a full one
FARTHEST = 30 * 86400  # seconds; what is farther away is not a forecast
SMALL = 6  # samples; fewer have no three parts with a median of their own


class Arrivals(NamedTuple):
    """The new entries that were heard, as a bound on growth: a table gains no more than arrive.

    rate: entries per second. most: the same, as many as they may be but for chance.
    bursts: seconds after which growth stands that was not heard, because it comes in bursts.
    """

    rate: float = math.inf
    most: float = math.inf
    bursts: float = math.inf

    def bound(self, slope: float, span: float) -> float:
        """Return how much of a growth over so many seconds can still go on."""
        return slope if slope <= self.most or span >= self.bursts else self.rate


UNHEARD = Arrivals()  # without --listen


class Forecast(NamedTuple):
    """The growth that decides, and where it leads.

    growth: entries per second, signed; None if not known.
    time_to_full: seconds until the limit is reached, at least NEAREST, 0 if it is reached; None if
        that is not in sight.
    span: seconds over which the growth was measured.
    """

    growth: float | None = None
    time_to_full: float | None = None
    span: float = 0.0


def forecast(
    samples: Sequence[Sample],
    limit: int,
    held: int = 0,
    shortest: float = 0.0,
    arrivals: Arrivals = UNHEARD,
    step: int = 0,
) -> Forecast:
    """Return the growth that fills the table first; if none does, that of the trend window.

    samples: of the trend window, the newest last. limit: 0 for none.
    held: a count that the table has had lately and that is not among the samples, as before a boot.
    shortest: seconds of growth that say nothing, because more is known of that time; at least
        LEAST_SPAN.
    arrivals: what was heard of new entries.
    step: how many of the newest count came in a step, which is no growth.
    """
    if not samples:
        return Forecast()
    whole = Forecast(growth(samples), None, samples[-1].at - samples[0].at)
    entries = samples[-1].entries
    grown = [*samples[:-1], samples[-1]._replace(entries=entries - step)]
    if limit <= 0:
        return whole
    if entries >= limit:
        return whole._replace(time_to_full=0.0)
    threats = [
        Forecast(slope, seconds, span)
        for measured, span in _slopes(grown, limit, held)
        for slope in [arrivals.bound(measured, span)]
        for seconds in [time_to_full(entries, limit, slope)]
        if seconds is not None and seconds <= REACH * span and span >= max(shortest, LEAST_SPAN)
    ]
    return min(threats, key=lambda each: each.time_to_full or 0.0, default=whole)


def growth(samples: Sequence[Sample]) -> float | None:
    """Return the entries per second, signed; None below three runs or five minutes."""
    if len(samples) < FEWEST_RUNS or samples[-1].at - samples[0].at < SHORTEST_SPAN:
        return None
    return _sustained(samples, 0)


def time_to_full(entries: int, limit: int, slope: float | None) -> float | None:
    """Return the seconds until `limit` is reached at that slope, at least NEAREST; 0 if it is.

    None: there is no limit, no growth, or 30 days are not enough.
    """
    if limit <= 0:
        return None
    if entries >= limit:
        return 0.0
    if slope is None or slope <= 0:
        return None
    seconds = max((limit - entries) / slope, NEAREST)
    return seconds if seconds < FARTHEST else None


def _slopes(samples: Sequence[Sample], limit: int, held: int) -> Iterator[tuple[float, float]]:
    """Yield (entries per second, seconds) of the trend window, its last half, quarter, ...

    The last two runs come last, whatever time lies between them.
    """
    full = any(sample.entries >= limit for sample in samples)
    newest, begin = samples[-1].at, 0
    while begin < len(samples) - 1:
        before = [] if full else [held, *(sample.entries for sample in samples[:begin])]
        span = newest - samples[begin].at
        yield _sustained(samples[begin:], max(before, default=0)), span
        begin += 1
        while begin < len(samples) - 2 and samples[begin].at < newest - span / 2:
            begin += 1


def _sustained(samples: Sequence[Sample], base: int) -> float:
    """Return the entries per second of a growth that goes on; 0.0 if it does not.

    It is the slope from the first part to the last one, and at most twice the flatter one of the
    two slopes between: less noise than in these, and still 0 for a step.
    base: counts below it count as `base`.
    """
    points = _points(samples)
    (begin, first), (end, last) = points[0], points[-1]
    first, last = max(first, base), max(last, base)
    slope = (last - first) / (end - begin)
    if len(points) < 3:
        return slope
    at, middle = points[1]
    middle = max(middle, base)
    parts = (middle - first) / (at - begin), (last - middle) / (end - at)
    turned = (samples[-1].entries - last) * slope < 0
    if turned or parts[0] * parts[1] <= 0:
        return 0.0
    return min(slope, 2 * parts[0], 2 * parts[1], key=abs)


def _points(samples: Sequence[Sample]) -> list[tuple[float, int]]:
    """Return (time, count) of three parts of equal length; of two samples, both.

    A part has the median of its times and that of its counts. Of an even number the oldest is left
    out: the mean of two counts, between the levels of a step, is a count that was never seen.
    """
    if len(samples) < FEWEST_RUNS:
        return list(samples)
    begin, end = samples[0].at, samples[-1].at
    third = (end - begin) / 3
    parts = (
        [each for each in samples if each.at <= begin + third],
        [each for each in samples if begin + third < each.at < end - third],
        [each for each in samples if each.at >= end - third],
    )
    if len(samples) < SMALL or not parts[1]:
        middle = min(samples[1:-1], key=lambda each: abs(2 * each.at - begin - end))
        return [samples[0], middle, samples[-1]]
    odd = [part[len(part) % 2 == 0 :] for part in parts]
    return [
        (_median([each.at for each in part]), _median([each.entries for each in part]))
        for part in odd
    ]


def _median(values: list[Number]) -> Number:
    """Return the middle one of an odd number of values."""
    return sorted(values)[len(values) // 2]
