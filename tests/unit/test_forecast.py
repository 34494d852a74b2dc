from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.state import forecast as module
from check_conntrack.state.forecast import REACH, Forecast, forecast, growth, time_to_full
from check_conntrack.state.trend import Sample

LIMIT = 100_000
BURSTS = st.integers(-(10**6), 10**6)


def line(number, slope, step=200, start=10**7):
    return [Sample(at * step, start + slope * at * step) for at in range(number)]


def counts(*entries, step=60):
    return [Sample(float(at * step), each) for at, each in enumerate(entries)]


# --- the slope over a span


@given(st.integers(3, 32), st.integers(-50, 50), st.integers(150, 3600))
def test_growth_of_a_straight_line_is_its_slope(number, slope, step):
    assert growth(line(number, slope, step)) == slope


@given(st.lists(st.integers(1, 300), min_size=6, max_size=31), st.integers(-50, 50))
def test_growth_does_not_depend_on_when_the_scheduler_runs(gaps, slope):
    at, samples = 0, [Sample(0.0, 10**6)]
    for gap in [300, *gaps]:
        at += gap
        samples.append(Sample(float(at), 10**6 + slope * at))
    assert growth(samples) == pytest.approx(slope)


@pytest.mark.parametrize("number", range(3, 33))
@pytest.mark.parametrize("burst", [-900, 7, 100000])
def test_growth_ignores_a_burst_in_any_one_run(number, burst):
    for at in range(number):
        samples = line(number, 0)
        samples[at] = samples[at]._replace(entries=10**7 + burst)
        assert growth(samples) == 0


@given(st.integers(3, 32), st.integers(-50, 50), BURSTS, st.data())
def test_growth_is_at_most_twice_as_steep_through_a_burst(number, slope, burst, data):
    samples = line(number, slope, start=10**7)
    at = data.draw(st.integers(0, number - 1))
    samples[at] = samples[at]._replace(entries=samples[at].entries + burst)
    assert abs(growth(samples)) <= 2 * abs(slope)
    assert growth(samples) * slope >= 0


@given(st.integers(3, 32), st.integers(1, 31), st.integers(1, 10**6))
def test_growth_of_a_step_is_none_wherever_it_is(number, place, height):
    samples = [
        each._replace(entries=each.entries + (height if at >= place else 0))
        for at, each in enumerate(line(number, 0))
    ]
    assert growth(samples) == 0


def test_growth_is_unknown_below_three_runs_or_five_minutes():
    assert growth([]) is None
    assert growth(line(2, 1, step=1000)) is None
    assert growth(line(3, 1, step=149)) is None
    assert growth(line(3, 1, step=150)) == 1
    assert growth(line(4, 1, step=99)) is None


# --- where it leads


def test_time_to_full_is_the_room_left_over_the_growth():
    assert time_to_full(900, 1000, 0.5) == 200
    assert time_to_full(1000, 1000, None) == 0
    assert time_to_full(1200, 1000, -3.0) == 0
    assert time_to_full(1, module.FARTHEST, 1.0) == module.FARTHEST - 1


@pytest.mark.parametrize(
    ("entries", "limit", "slope"),
    [(5, 0, 1.0), (5, 10, None), (5, 10, 0.0), (5, 10, -1.0), (0, module.FARTHEST, 1.0)],
    ids=["no limit", "unknown", "still", "shrinking", "farther than 30 days"],
)
def test_time_to_full_is_unknown_where_it_is_not_in_sight(entries, limit, slope):
    assert time_to_full(entries, limit, slope) is None


def test_forecast_sees_a_flood_in_the_last_two_runs_after_an_hour_flat():
    seen = forecast(counts(*[2000] * 31, 30000), LIMIT)
    assert seen == Forecast(28000 / 60, 70000 / (28000 / 60), 60.0)


def test_forecast_sees_a_ramp_of_minutes_after_an_hour_flat():
    ramp = [2000 + 4000 * at for at in range(1, 7)]
    seen = forecast(counts(*[2000] * 25, *ramp), LIMIT)
    assert seen.growth == pytest.approx(4000 / 60)
    assert seen.time_to_full == pytest.approx((LIMIT - 26000) / 4000 * 60)


@given(st.integers(2, 32), st.integers(1, 1000), st.integers(10, 600))
def test_forecast_reaches_no_farther_than_the_growth_was_seen(number, slope, step):
    seen = forecast(line(number, slope, step), 10**9)
    if seen.time_to_full is not None:
        assert seen.time_to_full <= REACH * seen.span


def test_forecast_of_a_step_is_gone_with_the_next_run():
    assert forecast(counts(*[20000] * 20, 50000), LIMIT).time_to_full == 100
    for later in range(1, 30):
        seen = forecast(counts(*[20000] * 20, 50000, *[50000] * later), LIMIT)
        assert seen.time_to_full is None


@pytest.mark.parametrize("seconds", [0.1, 1.0, 4.9])
def test_forecast_makes_no_rate_of_two_runs_within_seconds(seconds):
    step = [*counts(20000, 20000), Sample(60 + seconds, 95000)]
    assert forecast(step, LIMIT).time_to_full is None
    assert forecast(step[1:], LIMIT) == Forecast(None, None, pytest.approx(seconds))
    later = [*counts(20000, 20000), Sample(65.0, 95000)]
    assert forecast(later, LIMIT).time_to_full == 1.0


def test_forecast_of_a_flood_goes_on_beside_a_run_by_hand():
    flood = counts(2000, 12000, 22000, 32000)
    by_hand = [*flood, Sample(flood[-1].at + 0.5, 32100)]
    assert forecast(by_hand, LIMIT).time_to_full == pytest.approx(67900 / 10000 * 60, rel=0.05)


def test_forecast_is_never_now_while_a_table_is_not_full():
    assert forecast(counts(0, LIMIT - 1), LIMIT).time_to_full == module.NEAREST == 1.0
    assert forecast(counts(0, LIMIT), LIMIT).time_to_full == 0.0


def test_forecast_leaves_out_a_step_of_the_newest_count():
    seen = forecast(counts(100, 1000), 4000, step=900)
    assert seen.time_to_full is None
    assert forecast(counts(100, 2500), 4000, step=900).time_to_full == 1500 / 25


def test_forecast_takes_no_alarm_at_a_burst_that_the_window_has_seen():
    burst = [50000, 50000, 65000, 65000, 50000]
    assert forecast(counts(*burst, 50000, 65000), LIMIT).time_to_full is None
    assert forecast(counts(*burst, 50000, 95000), LIMIT).time_to_full is not None


def test_forecast_takes_alarm_where_the_window_has_seen_the_table_full():
    before = [2000, 2000, LIMIT, 2000, 2000]
    assert forecast(counts(*before, 40000), LIMIT).time_to_full == pytest.approx(60000 / 38000 * 60)


def test_forecast_takes_no_alarm_while_a_table_fills_again_after_a_boot():
    again = counts(100, 9000, 18000)
    assert forecast(again, 40000).time_to_full is not None
    assert forecast(again, 40000, held=20000).time_to_full is None
    assert forecast(counts(100, 18000, 34000), 40000, held=20000).time_to_full is not None


def test_forecast_leaves_out_spans_that_more_is_known_of():
    flood = counts(*[2000] * 31, 30000)
    assert forecast(flood, LIMIT, shortest=61).time_to_full is None
    assert forecast(flood, LIMIT, shortest=60).time_to_full is not None


def test_forecast_prefers_the_larger_threat():
    steady = [1000 * at for at in range(30)]
    assert forecast(counts(*steady), LIMIT).growth == pytest.approx(1000 / 60)
    assert forecast(counts(*steady, 60000), LIMIT).growth == pytest.approx(31000 / 60)


def test_forecast_of_a_table_without_limit_has_a_growth_alone():
    assert forecast(line(5, 1), 0) == Forecast(1, None, 800)
    assert forecast(line(5, 1, start=0), 10) == Forecast(1, 0.0, 800)
    assert forecast([], 10) == Forecast()
