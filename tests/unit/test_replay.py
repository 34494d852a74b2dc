"""Aims for the lead time of check_conntrack_usage, on a part of `make incidents-replay`."""

from __future__ import annotations

import functools

import pytest

from check_conntrack.usage import summary
from replay import alarms, comparison
from replay.scenarios import (
    DAY,
    FOREVER,
    HEALTHY,
    INCIDENTS,
    Scenario,
    Stream,
    between,
    steady,
)
from replay.table_model import Table

OURS = "check, listening"
OTHERS = [name for name in comparison.ALARMS if not name.startswith("check")]
NAMES = {each.name: each for each in (*INCIDENTS, *HEALTHY) if each.span < DAY}


@functools.cache
def table(name):
    return Table(NAMES[name])


@functools.cache
def outcome(name, alarm, interval):
    return comparison.worst(table(name), comparison.ALARMS[alarm], interval)


def incidents(slower_than, faster_than=float("inf")):
    """The incidents that take so many seconds to fill the table."""
    drops = {name: table(name).first_drop for name in NAMES}
    return [name for name, drop in drops.items() if drop and slower_than < drop <= faster_than]


def healthy():
    return [name for name in NAMES if table(name).first_drop is None]


@pytest.mark.parametrize("interval", [10, 60, 300])
def test_replay_warns_an_interval_ahead_of_every_ramp_slower_than_two(interval):
    ramps = incidents(2 * interval, 60 * interval)
    leads = {name: outcome(name, OURS, interval).lead for name in ramps}
    assert leads
    assert {name: lead for name, lead in leads.items() if lead < interval} == {}


@pytest.mark.parametrize("interval", [10, 60, 300])
def test_replay_names_the_rate_of_a_faster_ramp_in_the_first_run_after(interval):
    for name in incidents(0, 2 * interval):
        scenario, filled = NAMES[name], table(name)
        check = alarms.Check(listens=True)
        for number in range(int(scenario.before / interval)):
            at = (number + 0.5) * interval - scenario.before
            check(alarms.Run(at, filled.entries(at), scenario.limit, filled))
        late = alarms.Run(filled.first_drop + 1, scenario.limit, scenario.limit, filled)
        report = check.report(late)
        rate = filled.new_between(late.at, late.at + 1)
        assert report.outlook.new_rate == pytest.approx(rate, rel=0.01)
        assert report.time_to_full == 0
        assert summary._heading(report, "")[0] == f"{report.outlook.new_rate:.0f} new/s"


@pytest.mark.parametrize("interval", [60, 300])
def test_replay_warns_no_later_than_the_best_of_the_others(interval):
    for name in incidents(0):
        best = max(outcome(name, other, interval).lead for other in OTHERS)
        assert outcome(name, OURS, interval).lead >= best - interval, name


@pytest.mark.parametrize("interval", [60, 300])
def test_replay_has_fewer_false_alarms_than_a_plain_bound(interval):
    plain = [outcome(name, "80% and 90%", interval) for name in healthy()]
    ours = [outcome(name, OURS, interval) for name in healthy()]
    assert sum(one.warning for one in ours) < sum(one.warning for one in plain)
    assert sum(one.critical for one in ours) < sum(one.critical for one in plain) / 2


def test_replay_does_not_page_for_a_burst_that_ends_below_the_limit():
    bursts = [name for name in healthy() if not name.startswith("75 minutes")]
    assert [name for name in bursts if outcome(name, OURS, 60).paged] == []


@pytest.mark.parametrize("interval", [10, 60, 300])
@pytest.mark.parametrize(
    ("lasts", "rate", "lifetime"),
    [(100, 1900, 120.0), (180, 1000, 600.0), (300, 600, FOREVER), (1800, 100, FOREVER)],
)
def test_replay_says_of_a_flood_that_has_stopped_only_what_was_heard(
    interval, lasts, rate, lifetime
):
    streams = (Stream(steady(0.5), 600), Stream(between(0, lasts, rate), lifetime, 120))
    scenario = Scenario("flood that stops", 262144, 3600, streams)
    filled, check = Table(scenario), alarms.Check(listens=True)
    for number in range(int((scenario.before + scenario.ends) / interval)):
        at = (number + 0.5) * interval - scenario.before
        report = check.report(alarms.Run(at, filled.entries(at), scenario.limit, filled))
        if at > lasts:
            left = scenario.limit - report.namespace.entries
            needed = left / report.time_to_full if report.time_to_full else 0
            assert needed <= 1.01 * report.outlook.arrivals.most, at
            assert report.outlook.settles_at is None or report.outlook.settles_at <= 100, at


def test_replay_is_the_same_every_time():
    first = comparison.worst(table("spike to 90% for 4 minutes"), alarms.plain, 60)
    assert first == comparison.worst(table("spike to 90% for 4 minutes"), alarms.plain, 60)


def test_replay_compares_the_thresholds_that_are_shipped():
    options = alarms.shipped_options()
    assert options.listen > 0
    bounds = {each for each in (*options.warning, *options.critical) if "time_to_full" in each}
    seconds = {"time_to_full=1h:": 3600.0, "time_to_full=10m:": 600.0}
    assert {seconds[each] for each in bounds} == set(alarms.HORIZONS)


def test_replay_table_in_the_document_is_complete():
    text = comparison.DOCUMENT.read_text()
    written = text[text.index(comparison.BEGIN) : text.index(comparison.END)]
    for scenario in (*INCIDENTS, *HEALTHY):
        assert f"| {scenario.name} |" in written
    assert written.count("### Runs ") == len(comparison.INTERVALS)
