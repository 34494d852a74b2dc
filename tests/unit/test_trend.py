from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack import render
from check_conntrack.kernel.limits import Limits
from check_conntrack.state import trend
from check_conntrack.state.codec import decode, encode
from check_conntrack.state.trend import Change, Moment, Peak, Sample, Series

NOW = Moment(60.0, 1_800_000_700.0)


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


def test_thinning_keeps_the_newest_runs_and_ever_fewer_of_the_older_ones():
    kept = ()
    for at in range(0, 36000, 10):
        kept = trend.extended(kept, Sample(float(at), at), 3600)
    assert len(kept) == trend.MOST_SAMPLES
    assert kept[-1].at - kept[0].at > 3000
    ages = [kept[-1].at - sample.at for sample in kept]
    assert ages[-5:] == [40, 30, 20, 10, 0]
    assert all(old <= 2 * new for old, new in zip(ages, ages[1:-2]))


def test_a_clock_that_went_backwards_leaves_what_is_to_come_out():
    kept = trend.extended([Sample(10.0, 1), Sample(900.0, 2)], Sample(20.0, 3), 3600)
    assert kept == ((10.0, 1), (20.0, 3))


def test_a_second_run_at_the_same_moment_takes_the_place_of_the_first():
    assert trend.extended([Sample(10.0, 1)], Sample(10.0, 3), 3600) == ((10.0, 3),)


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


# --- what is kept of a count

MOMENTS = st.builds(Moment, st.floats(0, 10**7), st.floats(0, 10**10))
COUNTS = st.integers(0, 2**32 - 1)
SERIES = st.builds(
    Series,
    st.sampled_from(["boot", "other"]),
    st.sampled_from(["7", "7@1800000000.123"]),
    st.lists(
        st.builds(Sample, st.integers(0, 10**7).map(lambda n: n / 10), COUNTS),
        max_size=32,
        unique_by=lambda sample: sample.at,
    ).map(lambda samples: tuple(sorted(samples))),
    st.dictionaries(st.integers(0, 40000), COUNTS, max_size=30).map(
        lambda peaks: tuple(Peak(*pair) for pair in sorted(peaks.items()))
    ),
    st.none() | COUNTS,
    st.none() | COUNTS,
    MOMENTS,
    st.lists(
        st.builds(Change, st.sampled_from(["limit", "buckets"]), COUNTS, COUNTS, MOMENTS, MOMENTS),
        max_size=4,
    ).map(tuple),
    st.floats(0, 10**6),
)


@given(SERIES)
def test_a_series_comes_back_as_it_was_kept(series):
    kept = decode(Series, json.loads(json.dumps(encode(series))))
    assert trend.belonging_to(kept, series.boot, series.identity, NOW) == series


@given(SERIES)
def test_another_boot_drops_the_samples_and_another_namespace_all_but_the_peaks(series):
    restarted = trend.belonging_to(series, "third", series.identity, NOW)
    last = series.last._replace(up=0.0)
    assert restarted._replace(changes=()) == series._replace(
        boot="third", samples=(), last=last, changes=(), gap=0.0
    )
    recreated = trend.belonging_to(series, series.boot, "8", NOW)
    assert recreated == Series(series.boot, "8", peaks=series.peaks)


@given(SERIES)
def test_no_change_of_an_earlier_boot_has_a_time_of_this_one(series):
    restarted = trend.belonging_to(series, "third", series.identity, NOW)
    assert len(restarted.changes) <= trend.MOST_CHANGES
    assert all(change.after.up == change.before.up == 0 for change in restarted.changes)


def test_a_boot_is_a_change_with_its_time_and_the_count_before():
    series = run_at(Series("a", "1"), 600, entries=70)
    series = trend.belonging_to(series, "b", "1", NOW)
    booted = Moment(0.0, NOW.wall - NOW.up)
    assert series.changes == (Change("boot", 70, 0, Moment(0.0, 1_800_000_600.0), booted),)
    series = run_at(series, 60, entries=5, ahead=640)
    assert series.held_before_boot(3600) == 70
    assert series.recent_changes() == series.changes
    series = run_at(series, 5000, entries=5, ahead=640)
    assert series.held_before_boot(3600) == 0
    series = run_at(series, 100_000, entries=5, ahead=640)
    assert series.recent_changes() == ()
    assert series.recent_changes(200_000) == series.changes


def test_a_boot_is_none_where_nothing_is_known_of_the_time_before():
    assert trend.belonging_to(Series("a", "1"), "b", "1", NOW).changes == ()
    series = run_at(Series("", "1"), 600)
    assert trend.belonging_to(series, "b", "1", NOW).changes == ()


def test_the_interval_is_the_usual_gap_between_runs():
    series = run_at(Series("b", "1"), 1000)
    assert series.interval == 0
    assert run_at(run_at(series, 6000), 11000).interval == 5000, "none of them is in the window"
    assert run_at(series, 1300).interval == 300
    for at in (1060, 1120, 1125, 1180, 1240, 1300):
        series = run_at(series, at)
    assert series.interval == 60


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.one_of(JSON, st.tuples(st.just("b"), st.just("1"), JSON, JSON).map(list)))
def test_anything_that_was_not_written_so_is_no_series(kept):
    series = trend.belonging_to(decode(Series, kept), "b", "1", NOW)
    for when, entries in (*series.samples, *series.peaks):
        assert 0 <= when < 1e12
        assert entries >= 0
    assert len(series.samples) <= trend.MOST_SAMPLES
    assert list(series.samples) == sorted(series.samples, key=lambda sample: sample.at)


@pytest.mark.parametrize(
    "pairs",
    [
        [[2.0, 1], [1.0, 1]],
        [[-1.0, 1]],
        [[1.0, -1]],
        [[1.0, 1.5]],
        [[1.0, True]],
        [["1", 1]],
        [[1.0]],
        [[1.0, 1, 1]],
        [[float("nan"), 1]],
        [[float("inf"), 1]],
        [7],
        "12",
        {"1": 1},
        [[1.0, 1]] * 2,
        [[float(at), 1] for at in range(33)],
    ],
)
def test_samples_that_were_not_written_so_are_dropped(pairs):
    series = trend.belonging_to(decode(Series, ["b", "1", pairs, []]), "b", "1", NOW)
    assert series == Series("b", "1")


def run_at(series, seconds, limit=1000, buckets=512, entries=5, ahead=0):
    moment = Moment(float(seconds), 1_800_000_000.0 + seconds + ahead)
    return trend.with_run(series, Limits(entries, limit, buckets), moment, 3600)


def test_a_changed_limit_is_dated_between_the_run_before_and_this_one():
    series = run_at(run_at(Series("b", "1"), 0), 300)
    assert series.changes == ()
    series = run_at(series, 600, limit=400, buckets=1024)
    before, now = Moment(300.0, 1_800_000_300.0), Moment(600.0, 1_800_000_600.0)
    assert series.changes == (
        Change("limit", 1000, 400, before, now),
        Change("buckets", 512, 1024, before, now),
    )
    assert trend.lowered(series) == series.changes[0]
    assert trend.lowered(run_at(series, 700, limit=2000)) is None, "it was raised since"
    assert trend.lowered(run_at(series, 700 + trend.CHANGE_AGE, limit=400)) is None


@pytest.mark.parametrize(
    ("old", "new", "lowered"),
    [(1000, 400, True), (400, 1000, False), (0, 400, True), (400, 0, False)],
)
def test_a_limit_of_0_is_higher_than_any_other(old, new, lowered):
    series = run_at(run_at(Series("b", "1"), 0, limit=old), 60, limit=new)
    assert bool(trend.lowered(series)) == lowered


def test_a_limit_that_was_changed_while_the_host_restarted_is_known():
    series = trend.belonging_to(run_at(Series("b", "1"), 600), "next", "1", NOW)
    series = run_at(series, 60, limit=500, ahead=1000)
    assert trend.lowered(series).old == 1000
    assert len(series.samples) == 1


@pytest.mark.parametrize("days", [-400, -1, 1, 40, 4000])
def test_setting_the_clock_moves_the_peaks_along_with_it(days):
    series = run_at(Series("b", "1"), 1, entries=900)
    series = run_at(series, 60, entries=5, ahead=days * 86400)
    assert max(peak.entries for peak in series.peaks) == 900
    assert series.peak == 900


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (0.4, "0s"),
        (0.9, "1s"),
        (59.4, "59s"),
        (59.9, "1m"),
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


@given(st.floats(0, 30 * 86400))
def test_duration_is_rounded_as_perfdata_is(seconds):
    assert render.duration(seconds) == render.duration(int(f"{seconds:.0f}"))
