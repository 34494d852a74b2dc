from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack import render
from check_conntrack.state import trend
from check_conntrack.state.trend import Peak, Sample

BURSTS = st.integers(-(10**6), 10**6)


def line(number, slope, step=200, start=1000):
    return [Sample(at * step, start + slope * at * step) for at in range(number)]


@given(st.integers(3, 32), st.integers(-50, 50), st.integers(150, 3600))
def test_the_growth_of_a_straight_line_is_its_slope(number, slope, step):
    assert trend.growth(line(number, slope, step)) == slope


@pytest.mark.parametrize("number", range(3, 33))
@pytest.mark.parametrize("burst", [-900, 7, 100000])
def test_a_burst_in_any_one_run_is_no_growth(number, burst):
    for at in range(number):
        samples = line(number, 0)
        samples[at] = samples[at]._replace(entries=1000 + burst)
        assert trend.growth(samples) == 0


@given(st.integers(4, 32), st.integers(-50, 50), BURSTS, st.data())
def test_from_four_runs_on_a_burst_does_not_move_the_growth(number, slope, burst, data):
    samples = line(number, slope)
    at = data.draw(st.integers(0, number - 1))
    samples[at] = samples[at]._replace(entries=samples[at].entries + burst)
    assert trend.growth(samples) == slope


@given(st.integers(-50, 50), BURSTS, st.integers(0, 2))
def test_a_burst_among_three_runs_never_makes_the_growth_look_steeper(slope, burst, at):
    samples = line(3, slope)
    samples[at] = samples[at]._replace(entries=samples[at].entries + burst)
    assert abs(trend.growth(samples)) <= abs(slope)


@given(st.integers(10, 32), st.data())
def test_two_bursts_among_ten_runs_do_not_move_the_growth(number, data):
    samples = line(number, 3)
    for at in data.draw(st.sets(st.integers(0, number - 1), min_size=2, max_size=2)):
        samples[at] = samples[at]._replace(entries=data.draw(st.integers(0, 10**6)))
    assert trend.growth(samples) == 3


def test_growth_is_unknown_below_three_runs_or_five_minutes():
    assert trend.growth([]) is None
    assert trend.growth(line(2, 1, step=1000)) is None
    assert trend.growth(line(3, 1, step=149)) is None
    assert trend.growth(line(3, 1, step=150)) == 1
    assert trend.growth(line(4, 1, step=99)) is None


def test_two_runs_at_one_moment_do_not_divide_by_zero():
    samples = [Sample(0.0, 10), Sample(0.0, 12), Sample(400.0, 10), Sample(400.0, 10)]
    assert trend.growth(samples) == 0


@given(
    st.lists(st.integers(0, 5000), max_size=100, unique=True).map(sorted), st.integers(300, 9000)
)
def test_what_is_kept_is_bounded_lies_in_the_window_and_ends_with_the_newest(moments, window):
    new = Sample(5001.0, 5)
    old = [Sample(float(at), at) for at in moments]
    kept = trend.extended(old, new, window)
    assert len(kept) <= trend.MOST_SAMPLES
    assert kept[-1] == new
    assert list(kept) == sorted(kept)
    assert all(sample.at >= new.at - window for sample in kept)
    assert set(kept[:-1]) <= set(old)
    inside = [sample for sample in old if sample.at >= new.at - window]
    if len(inside) < trend.MOST_SAMPLES:
        assert list(kept[:-1]) == inside
    else:
        assert len(kept) == trend.MOST_SAMPLES
        assert kept[0] == inside[0], "the window would shrink"


def test_thinning_run_after_run_keeps_the_window_evenly_covered():
    kept = ()
    for at in range(0, 36000, 60):
        kept = trend.extended(kept, Sample(float(at), at), 3600)
    assert len(kept) == trend.MOST_SAMPLES
    gaps = [later.at - earlier.at for earlier, later in zip(kept, kept[1:])]
    assert kept[-1].at - kept[0].at > 3000
    assert max(gaps) <= 600


def test_a_clock_that_went_backwards_leaves_what_is_to_come_out():
    kept = trend.extended([Sample(10.0, 1), Sample(900.0, 2)], Sample(20.0, 3), 3600)
    assert kept == ((10.0, 1), (20.0, 3))


def test_a_second_run_at_the_same_moment_takes_the_place_of_the_first():
    assert trend.extended([Sample(10.0, 1)], Sample(10.0, 3), 3600) == ((10.0, 3),)


def test_time_to_full_is_the_room_left_over_the_growth():
    assert trend.time_to_full(900, 1000, 0.5) == 200
    assert trend.time_to_full(1000, 1000, None) == 0
    assert trend.time_to_full(1200, 1000, -3.0) == 0


@pytest.mark.parametrize(
    ("entries", "limit", "slope"),
    [(5, 0, 1.0), (5, 10, None), (5, 10, 0.0), (5, 10, -1.0), (0, trend.FARTHEST, 1.0)],
    ids=["no limit", "unknown", "still", "shrinking", "farther than 30 days"],
)
def test_time_to_full_is_unknown_where_it_is_not_in_sight(entries, limit, slope):
    assert trend.time_to_full(entries, limit, slope) is None


def test_time_to_full_is_known_just_below_thirty_days():
    assert trend.time_to_full(1, trend.FARTHEST, 1.0) == trend.FARTHEST - 1


def test_the_peak_of_a_day_only_rises():
    peaks = trend.with_peak((), Peak(5, 10))
    peaks = trend.with_peak(peaks, Peak(5, 30))
    assert trend.with_peak(peaks, Peak(5, 20)) == ((5, 30),)


def test_peaks_are_kept_by_day_for_thirty_days():
    peaks = ()
    for day in range(100, 150):
        peaks = trend.with_peak(peaks, Peak(day, day))
    assert [peak.day for peak in peaks] == list(range(120, 150))


def test_peaks_of_days_to_come_are_a_clocks_error():
    assert trend.with_peak([Peak(7, 70), Peak(9, 90)], Peak(8, 1)) == ((7, 70), (8, 1))


def test_held_for_reaches_back_to_the_first_of_the_unbroken_runs():
    samples = [Sample(0.0, 9), Sample(10.0, 1), Sample(25.0, 9), Sample(60.0, 9)]
    assert trend.held_for(samples, lambda entries: entries > 5) == 35
    assert trend.held_for(samples, lambda entries: entries > 10) == 0
    assert trend.held_for(samples, lambda entries: entries > 0) == 60
    assert trend.held_for([], lambda entries: True) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (0.9, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (61, "1m 1s"),
        (3600, "1h"),
        (12000, "3h 20m"),
        (12059, "3h 20m"),
        (86400 + 5, "1d"),
        (30 * 86400 - 1, "29d 23h"),
    ],
)
def test_a_duration_is_spelled_in_the_two_units_that_matter(seconds, words):
    assert render.duration(seconds) == words
