"""The alarms that are compared: each takes a run after the other, and returns a state.

0 is OK, 1 WARNING, 2 CRITICAL. `Check` is the code of check_conntrack_usage, with the thresholds of
nrpe/conntrack.cfg.
"""

from __future__ import annotations

import re
import shlex
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NamedTuple

from nagiosplugin import Critical, Ok

from check_conntrack import nagios
from check_conntrack.kernel.limits import Limits
from check_conntrack.kernel.namespaces import Namespace
from check_conntrack.ranges import parse_thresholds
from check_conntrack.state import outlook, trend
from check_conntrack.state.outlook import Listening, Outlook, RateHistory, RateSample
from check_conntrack.state.trend import Moment, Series
from check_conntrack.usage import resource, usage_check
from check_conntrack.usage.labels import LABELS

if TYPE_CHECKING:
    from .table_model import Table

SHIPPED = Path(__file__).parents[2] / "nrpe/conntrack.cfg"
AFTER_BOOT = 1e7  # seconds since boot at time 0
HORIZONS = 3600.0, 600.0  # seconds; time_to_full of SHIPPED as -w and -c


class Run(NamedTuple):
    """The input of a run: the time, the count and the limit; and the table, to listen to."""

    at: float
    entries: int
    limit: int
    table: Table


Alarm = Callable[[Run], int]


def plain() -> Alarm:
    """Alarm above 80% and 90%."""
    return lambda run: sum(run.entries > share / 100 * run.limit for share in (80, 90))


def predict_linear(window: float) -> Alarm:
    """Alarm as predict_linear(entries[window], seconds) > limit does in Prometheus.

    That is the line of least squares through the samples of the window, at least two, as it is at
    the evaluation plus so many seconds.
    """
    samples: deque[tuple[float, int]] = deque()
    sums = [0.0] * 4  # of the times, the counts, the squares of the times, and the products

    def add(at: float, entries: int, sign: int) -> None:
        for place, value in enumerate((at, entries, at * at, at * entries)):
            sums[place] += sign * value

    def state(run: Run) -> int:
        samples.append((run.at, run.entries))
        add(run.at, run.entries, 1)
        while samples[0][0] <= run.at - window:
            add(*samples.popleft(), -1)
        number = len(samples)
        if number < 2:
            return 0
        times, counts, squares, products = sums
        slope = (products - times * counts / number) / (squares - times * times / number)
        level = counts / number + slope * (run.at - times / number)
        return sum(level + slope * seconds > run.limit for seconds in HORIZONS)

    return state


def shipped_options():
    """Return the options of check_conntrack_usage in SHIPPED."""
    line = re.search(r"\ncommand\[check_conntrack_usage\]=\S+(.*)", SHIPPED.read_text())
    return usage_check.parser().parse_args(shlex.split(line[1]))


class Check:
    """Alarm as the shipped check does; `listens`: with what a second of events tells."""

    def __init__(self, *, listens: bool) -> None:
        self.options = shipped_options()
        self.listens = listens
        thresholds = parse_thresholds(LABELS, self.options.warning, self.options.critical)
        self.contexts = {
            context.name: context for context in nagios.contexts(LABELS, thresholds, "ok")
        }
        self.series = Series("boot", "1")
        self.rates = RateHistory("boot", "1")

    def __call__(self, run: Run) -> int:
        """Return the state of a run."""
        states = [
            self.contexts[metric.context].evaluate(metric, None).state
            for metric in self.report(run).metrics()
        ]
        worst = nagios.worst(states)
        return 0 if worst is Ok else 2 if worst is Critical else 1

    def report(self, run: Run) -> resource.NamespaceReport:
        """Return what the check knows in this run; it keeps its history for the next."""
        heard = self._listen(run) if self.listens else None
        at = run.at + self.options.listen if heard else run.at
        entries = run.table.entries(at)
        now = Moment(AFTER_BOOT + at, AFTER_BOOT + at)
        limits = Limits(entries, run.limit, run.limit)
        self.series = trend.with_run(self.series, limits, now, self.options.trend_window)
        namespace = Namespace("", "", 1, limits=limits)
        return resource.report_on(namespace, self.series, self.options.trend_window, heard)

    def _listen(self, run: Run) -> Outlook:
        """Return where the table is heading, by the events of the next second."""
        seconds, table = self.options.listen, run.table
        end = run.at + seconds
        heard = Listening(
            seconds,
            round(table.new_between(run.at, end)),
            table.entries(run.at),
            table.entries(end),
            table.first_timeout(run.at, end),
            table.answered(run.at, end),
        )
        sample = RateSample(AFTER_BOOT + end, heard.after, seconds, heard.new)
        self.rates = outlook.with_run(self.rates, sample)
        return outlook.outlook(heard, run.limit, run.limit, self.rates.samples)
