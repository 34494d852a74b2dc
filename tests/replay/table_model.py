"""The count of a table, made of arrival rates and lifetimes.

Each entry lives for the lifetime of its stream, and is counted until the garbage collector passes
after that, or until a packet hashes to one of its buckets (docs/design/kernel.md). The count is
that of all streams, and at most the limit.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .scenarios import Scenario, Stream

MOST_STEPS = 20000
SHORTEST_STEP = 0.5  # seconds
LONGEST_GC = 60.0  # seconds between two passes of gc_worker() in nf_conntrack_core.c


class Opened(NamedTuple):
    """How many connections of a stream were opened, at each step from `begin` on."""

    stream: Stream
    begin: float
    step: float
    totals: list[float]

    def until(self, at: float) -> float:
        """Return how many were opened until a time; between two steps by interpolation."""
        place = max(0.0, (at - self.begin) / self.step)
        index = min(int(place), len(self.totals) - 2)
        low, high = self.totals[index], self.totals[index + 1]
        return low + (high - low) * (place - index)

    def counted(self, at: float, gc: float, buckets: int) -> float:
        """Return how many the kernel counts; `gc`: seconds between passes of the collector."""
        if self.stream.lifetime == math.inf:
            return self.until(at)
        since = at % gc
        gone = self.until(at - self.stream.lifetime)
        expired = gone - self.until(at - since - self.stream.lifetime)
        visits = 2 * self.stream.rate(at) / buckets * since
        left = -math.expm1(-visits) / visits if visits > 1e-3 else 1.0
        return self.until(at) - gone + expired * left


class Table:
    """The table of a scenario.

    first_drop: when the limit is reached; None if it never is.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        step = max(SHORTEST_STEP, scenario.span / MOST_STEPS)
        finite = [each.lifetime for each in scenario.streams if each.lifetime < math.inf]
        self.gc = min(LONGEST_GC, max(finite, default=LONGEST_GC) / 2)
        self.opened = [_opened(scenario, stream, step) for stream in scenario.streams]
        self.first_drop = self._first_drop(step)

    def demand(self, at: float) -> float:
        """Return the count that there would be without a limit."""
        return sum(each.counted(at, self.gc, self.scenario.limit) for each in self.opened)

    def entries(self, at: float) -> int:
        """Return the count."""
        return min(round(self.demand(at)), self.scenario.limit)

    def new_between(self, begin: float, end: float) -> float:
        """Return how many connections were opened in a time."""
        return sum(each.until(end) - each.until(begin) for each in self.opened)

    def first_timeout(self, begin: float, end: float) -> float | None:
        """Return the mean timeout of the connections opened in a time that nobody has answered.

        If all are answered, that of all; None if there are none.
        """
        new = [(each.until(end) - each.until(begin), each.stream) for each in self.opened]
        new = [(opened, stream) for opened, stream in new if opened > 0]
        new = [one for one in new if not one[1].answered] or new
        number = sum(opened for opened, _ in new)
        return sum(opened * stream.timeout for opened, stream in new) / number if number else None

    def answered(self, begin: float, end: float) -> float:
        """Return the share of the connections opened in a time that are answered."""
        number = sum(
            each.until(end) - each.until(begin) for each in self.opened if each.stream.answered
        )
        return number / max(self.new_between(begin, end), 1)

    def _first_drop(self, step: float) -> float | None:
        limit = self.scenario.limit
        for number in range(int(self.scenario.ends / step) + 1):
            at = number * step
            if self.demand(at) >= limit:
                before = self.demand(at - step)
                return at - step * (self.demand(at) - limit) / (self.demand(at) - before)
        return None


def _opened(scenario: Scenario, stream: Stream, step: float) -> Opened:
    bounded = stream.lifetime if stream.lifetime < 1e5 else 0.0
    begin = -scenario.before - bounded - step
    number = int((scenario.ends + bounded - begin) / step) + 2
    rates = (stream.rate(begin + (at + 0.5) * step) * step for at in range(number))
    return Opened(stream, begin, step, [0.0, *accumulate(rates)])
