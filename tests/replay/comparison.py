"""Replay incidents and healthy days; print the seconds of warning and the minutes of false alarms.

    PYTHONPATH=plugins:tests python -m replay.comparison [--write]

Every alarm gets the same counts, 10, 60 and 300 seconds apart, with a jitter of a twentieth. An
incident is replayed in four phases between scheduler and incident, and the worst counts. `--write`
puts the tables into docs/lead-time.md. The same code gives the same figures.
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Callable, NamedTuple

from . import alarms
from .scenarios import DAY, HEALTHY, INCIDENTS, Scenario
from .table_model import Table

INTERVALS = (10, 60, 300)
PHASES = 3
JITTER = 1 / 20
DOCUMENT = Path(__file__).parents[2] / "docs/lead-time.md"
BEGIN, END = "<!-- written by make incidents-replay -->", "<!-- end -->"
ALARMS: dict[str, Callable[[], alarms.Alarm]] = {
    "80% and 90%": alarms.plain,
    "predict_linear, 15m": lambda: alarms.predict_linear(900),
    "predict_linear, 1h": lambda: alarms.predict_linear(3600),
    "check": lambda: alarms.Check(listens=False),
    "check, listening": lambda: alarms.Check(listens=True),
}


class Outcome(NamedTuple):
    """The result of an alarm in a scenario.

    lead: seconds from the beginning of the alarm that was on at the first drop until that drop; 0
    if none was on. None where nothing was dropped.
    warning, critical: minutes of false alarms; WARNING includes CRITICAL.
    paged: whether three runs in a row were CRITICAL without need.
    """

    lead: float | None
    warning: float
    critical: float
    paged: bool


def replay(table: Table, alarm: alarms.Alarm, interval: float, phase: float) -> Outcome:
    """Give an alarm all runs up to the first drop, or the end."""
    scenario = table.scenario
    chance = random.Random(f"{scenario.name} {interval} {phase}")
    begin, end = -scenario.before, table.first_drop or scenario.ends
    warning = critical = in_a_row = 0
    paged, since = False, None
    for number in range(int((end - begin) / interval) + 1):
        at = begin + interval * (number + phase + chance.uniform(-JITTER, JITTER))
        if not begin <= at < end:
            continue
        state = alarm(alarms.Run(at, table.entries(at), scenario.limit, table))
        since = None if not state else at if since is None else since
        if table.first_drop is None or at < 0:
            warning += state > 0
            critical += state > 1
            in_a_row = in_a_row + 1 if state > 1 else 0
            paged = paged or in_a_row == 3
    lead = None
    if table.first_drop is not None:
        lead = 0.0 if since is None else table.first_drop - max(since, 0.0)
    return Outcome(lead, warning * interval / 60, critical * interval / 60, paged)


def worst(table: Table, make: Callable[[], alarms.Alarm], interval: float) -> Outcome:
    """Return the smallest lead and the mean minutes of several phases; of days there is one."""
    replayed = table.scenario.before + (table.first_drop or table.scenario.ends)
    phases = PHASES if replayed < DAY / 4 else 1
    each = [replay(table, make(), interval, (at + 0.5) / phases) for at in range(phases)]
    leads = [one.lead for one in each if one.lead is not None]
    return Outcome(
        min(leads) if leads else None,
        sum(one.warning for one in each) / phases,
        sum(one.critical for one in each) / phases,
        any(one.paged for one in each),
    )


def too_long(scenario: Scenario, interval: float) -> bool:
    """Return whether a replay would take minutes and show nothing new."""
    return scenario.span > DAY and interval < 60


def tables() -> str:
    """Return the outcomes as tables for a document."""
    lines = []
    drops = {scenario: Table(scenario) for scenario in (*INCIDENTS, *HEALTHY)}
    for interval in INTERVALS:
        rows = {
            scenario: {name: worst(table, make, interval) for name, make in ALARMS.items()}
            for scenario, table in drops.items()
            if not too_long(scenario, interval)
        }
        lines += [
            f"### Runs {interval} s apart",
            "",
            _row("seconds of warning", "full in", *ALARMS),
        ]
        lines.append(_row("---", *["---:"] * (len(ALARMS) + 1)))
        for scenario, outcomes in rows.items():
            if drops[scenario].first_drop is not None:
                leads = [f"{one.lead:.0f}" for one in outcomes.values()]
                lines.append(_row(scenario.name, f"{drops[scenario].first_drop:.0f}", *leads))
        lines += ["", _row("minutes of false WARNING / CRITICAL", "hours", *ALARMS)]
        lines.append(_row("---", *["---:"] * (len(ALARMS) + 1)))
        healthy = [each for each in rows if drops[each].first_drop is None]
        for scenario in healthy:
            minutes = [_minutes(one.warning, one.critical) for one in rows[scenario].values()]
            lines.append(_row(scenario.name, f"{scenario.span / 3600:.0f}", *minutes))
        sums = [
            _minutes(
                sum(rows[each][name].warning for each in healthy),
                sum(rows[each][name].critical for each in healthy),
            )
            for name in ALARMS
        ]
        hours = sum(scenario.span for scenario in healthy) / 3600
        lines += [_row("all of them", f"{hours:.0f}", *sums), ""]
    return "\n".join(lines)


def _minutes(warning: float, critical: float) -> str:
    return f"{warning:.0f} / {critical:.0f}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables, or write them into the document."""
    text = tables()
    print(text)
    if "--write" in sys.argv[1:]:
        old = DOCUMENT.read_text()
        new = re.sub(f"(?s){BEGIN}.*{END}", f"{BEGIN}\n\n{text}\n{END}", old)
        DOCUMENT.write_text(new)


if __name__ == "__main__":
    main()
