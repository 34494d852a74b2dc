"""The outlook of a table: the rates, the lifetime, the settling point and the time to full."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.state import outlook
from check_conntrack.state.codec import decode, encode
from check_conntrack.state.outlook import Listening, RateHistory, RateSample

LIMIT, BUCKETS = 262144, 262144


def heard(new=1000, after=5000, *, before=None, seconds=1.0, timeout=30.0, **more):
    return Listening(seconds, new, after if before is None else before, after, timeout, **more)


def runs(entries, new, *, every=60.0, start=1000.0, seconds=1.0):
    """Earlier runs with these counts and these numbers of new entries."""
    return [
        RateSample(start + every * number, count, seconds, fresh)
        for number, (count, fresh) in enumerate(zip(entries, new))
    ]


def steady(entries, rate, number=12):
    return runs([entries] * number, [rate] * number)


def told(listening, earlier=(), limit=LIMIT):
    return outlook.outlook(listening, limit, BUCKETS, earlier)


# --- the first run


def test_first_run_of_a_flood_settles_at_rate_times_timeout_and_lag():
    found = told(heard(new=2000, after=6000, timeout=30.0))
    lag = outlook.removal_lag(30.0, 2000, BUCKETS, alone=True)
    assert found.new_rate == 2000
    assert found.settles_at == pytest.approx(100 * 2000 * (30 + lag) / LIMIT)
    assert 0 < lag < 7.5
    assert (found.end_rate, found.lifetime, found.time_to_full) == (None, None, None)


def test_first_run_of_a_scan_tells_when_the_table_is_full():
    found = told(heard(new=15000, before=30000, after=45000, timeout=120.0))
    assert found.settles_at > 600
    assert found.time_to_full == pytest.approx((LIMIT - 45000) / 15000, rel=0.01)


def test_first_run_of_answered_traffic_does_not_know_where_it_settles():
    found = told(heard(new=5000, before=50000, after=55000, timeout=120.0, answered=0.95))
    assert found[:6] == (5000, None, None, None, None, False)


def test_first_run_tells_a_full_table_whatever_the_answered_do():
    found = told(heard(new=15000, before=30000, after=45000, timeout=120.0, answered=0.3))
    assert found.settles_at > 400
    assert found.time_to_full is not None


def test_first_run_without_new_entries_knows_nothing_more():
    assert told(heard(new=0, timeout=None))[:7] == (0, None, None, None, None, False, 0.0)


def test_long_timeout_of_a_connection_that_was_picked_up_is_not_believed():
    found = told(heard(new=10, after=100, timeout=432000.0))
    assert found.settles_at < 100 * 10 * (600 + 60) / LIMIT


# --- with earlier runs


def test_balanced_table_settles_where_it_is():
    found = told(heard(new=1000, after=67000, timeout=120.0, answered=0.9), steady(67000, 1000))
    assert found.end_rate == pytest.approx(1000)
    assert found.lifetime == pytest.approx(67)
    assert found.settles_at == pytest.approx(100 * 67000 / LIMIT)
    assert found.time_to_full is None


def test_saw_of_late_removal_is_no_growth():
    # Up by 50 seconds' worth, and down at once, every minute; runs meet it anywhere.
    counts = [60000 + 1000 * (number * 37 % 50) for number in range(15)]
    found = told(heard(after=counts[-1], answered=0.9), runs(counts, [1000] * 15))
    assert found.end_rate == pytest.approx(1000, rel=0.05)
    assert found.settles_at == pytest.approx(100 * sum(counts) / 15 / LIMIT, rel=0.15)
    assert found.time_to_full is None


def test_chance_in_a_small_number_is_no_other_rate():
    calm = told(heard(new=3, after=2000, timeout=120.0), steady(2000, 6))
    assert calm.settles_at == pytest.approx(100 * 2000 / LIMIT)


def test_twice_the_answered_traffic_settles_at_twice_the_entries():
    twice = heard(new=2000, after=67000, timeout=120.0, answered=1.0)
    found = told(twice, steady(67000, 1000))
    # The run itself is one of twelve, so that the past is a little above 1000.
    assert found.settles_at == pytest.approx(100 * 2 * 67000 / LIMIT, rel=0.01)


def test_flood_upon_long_lived_connections_adds_rate_times_timeout():
    # 100000 connections of which 50 a second end: a mean of 2000 s says nothing about the flood.
    flood = heard(new=3050, before=100000, after=103000, timeout=30.0, answered=0.02)
    found = told(flood, steady(100000, 50))
    lag = outlook.removal_lag(30.0, 3050, BUCKETS, alone=False)
    assert found.settles_at == pytest.approx(100 * (100000 + 3000 * (30 + lag)) / LIMIT, rel=0.02)


def test_flood_that_is_over_leads_back_down():
    after_it = runs([60000, 60000, 60000, 60000], [2000, 2000, 2000, 200], every=120)
    found = told(heard(new=200, after=60000, answered=1.0), after_it)
    assert found.settles_at < 100 * 60000 / LIMIT / 5
    assert found.time_to_full is None


def test_lifetime_is_unknown_while_a_table_grows():
    growing = runs([1000 * number for number in range(12)], [50] * 12, every=30)
    found = told(heard(new=50, after=11000, answered=0.9), growing)
    assert found.end_rate is not None
    assert found.end_rate < 25
    assert found.lifetime is None


def test_lifetime_of_a_handful_of_events_is_not_told():
    assert told(heard(new=1, after=2000), steady(2000, 1)).lifetime is None
    assert told(heard(new=10, after=2000), steady(2000, 10)).lifetime == pytest.approx(200)


@pytest.mark.parametrize("earlier", [steady(1000, 10, 2), runs([1] * 9, [1] * 9, every=30)])
def test_few_runs_or_a_short_time_are_no_past(earlier):
    assert told(heard(), earlier).end_rate is None


def test_rare_runs_are_a_past_too():
    rare = runs([50000] * 3, [500] * 3, every=900)
    assert told(heard(new=500, after=50000), rare).lifetime == pytest.approx(100)


# --- limits


def test_without_a_limit_only_rates_are_told():
    found = told(heard(), steady(5000, 1000), limit=0)
    assert (found.settles_at, found.time_to_full) == (None, None)
    assert found.end_rate == pytest.approx(1000)


def test_full_table_has_no_time_left():
    assert told(heard(new=5000, after=LIMIT, timeout=120.0)).time_to_full == 0


def test_share_of_the_limit_ends_at_ten_times_it():
    assert told(heard(new=900000, timeout=600.0)).settles_at == outlook.MOST_PERCENT


def test_lost_events_make_the_rate_a_lower_bound():
    assert told(heard(overrun=True)).at_least is True


def test_removal_lags_by_half_a_pass_where_no_packet_helps():
    assert outlook.removal_lag(120.0, 0.0, BUCKETS, alone=False) == 30
    assert outlook.removal_lag(10.0, 0.0, BUCKETS, alone=True) == 2.5
    assert outlook.removal_lag(10.0, 1000.0, None, alone=False) == 30


@given(
    st.builds(
        Listening,
        st.floats(0.001, 30),
        st.integers(0, 10**9),
        st.integers(0, 2**32),
        st.integers(0, 2**32),
        st.one_of(st.none(), st.floats(0, 2**32)),
        st.floats(0, 1),
        st.booleans(),
    ),
    st.integers(0, 2**32),
    st.one_of(st.none(), st.integers(1, 2**32)),
    st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 10**9)), max_size=9),
    st.floats(0.1, 900),
)
def test_any_values_give_figures_that_can_be_printed(listening, limit, buckets, past, every):
    earlier = runs([one for one, _ in past], [new for _, new in past], every=every)
    found = outlook.outlook(listening, limit, buckets, earlier)
    for value in found[:5]:
        assert value is None or (math.isfinite(value) and value >= 0), found
    assert found.settles_at is None or found.settles_at <= outlook.MOST_PERCENT
    assert found.time_to_full is None or found.time_to_full < outlook.FARTHEST


# --- what is kept


def test_history_is_thinned_bounded_and_survives_the_disk():
    history = RateHistory("boot", "7@1.0")
    for number in range(400):
        history = outlook.with_run(history, RateSample(10.0 * number, number, 1.0, 5))
    assert len(history.samples) <= outlook.MOST_RUNS
    assert history.samples[-1].at == 3990
    gaps = [b.at - a.at for a, b in zip(history.samples, history.samples[1:])]
    assert min(gaps[:-1]) >= outlook.APART
    kept = decode(RateHistory, encode(history))
    assert outlook.belonging_to(kept, "boot", "7@1.0") == history


@pytest.mark.parametrize(("boot", "identity"), [("other", "7"), ("boot", "8")])
def test_history_of_another_boot_or_namespace_is_none(boot, identity):
    history = RateHistory("boot", "7", (RateSample(1.0, 1, 1.0, 1),))
    assert outlook.belonging_to(history, boot, identity) == RateHistory(boot, identity)


@pytest.mark.parametrize(
    "samples",
    [
        (RateSample(5.0, 1, 1.0, 1), RateSample(4.0, 1, 1.0, 1)),
        (RateSample(5.0, 1, 0.0, 1),),
        (RateSample(5.0, -1, 1.0, 1),),
        (RateSample(5.0, 1, float("nan"), 1),),
    ],
)
def test_history_that_was_never_written_is_none(samples):
    kept = RateHistory("boot", "7", samples)
    assert outlook.belonging_to(kept, "boot", "7") == RateHistory("boot", "7")
    assert outlook.belonging_to(None, "boot", "7") == RateHistory("boot", "7")


# --- what the new entries allow


def test_growth_is_bounded_by_what_is_heard():
    stopped = told(heard(new=0, after=60000, timeout=None)).arrivals
    assert stopped.bound(500.0, 60.0) == 0
    assert stopped.bound(1.0, 3600.0) == 1  # one a second may be missed in a second
    slower = told(heard(new=40, before=60000, after=60040)).arrivals
    assert slower.bound(500.0, 60.0) == 40
    assert slower.bound(50.0, 60.0) == 50  # 40 may be 50 but for chance
    assert slower.bound(-50.0, 60.0) == -50


@pytest.mark.parametrize(
    "listening",
    [heard(new=0, after=60000, overrun=True), heard(new=0, before=50000, after=60000)],
    ids=["events were lost", "it grows meanwhile"],
)
def test_growth_stands_where_not_all_is_heard(listening):
    assert told(listening).arrivals.bound(500.0, 60.0) == 500


def test_growth_in_bursts_between_the_runs_stands():
    jobs = runs([1000, 1000, 6000, 6000, 11000, 16000, 16000], [0] * 7)
    silent = told(heard(new=0, after=16000, timeout=None), jobs).arrivals
    assert silent.bound(40.0, 60.0) == 0
    assert silent.bound(40.0, silent.bursts) == 40
    assert silent.bursts == 180


def test_growth_of_one_flood_between_silent_runs_is_over():
    flood = runs([1000, 1000, 30000, 90000, 90000, 90000], [0, 0, 1000, 1000, 0, 0])
    assert told(heard(new=0, after=90000, timeout=None), flood).arrivals.bursts == math.inf


def test_lull_after_a_flood_settles_below_the_limit():
    # The flood was over before: what was heard then does not come again by itself.
    flood = runs([1000, 60000, 120000, 180000, 180000, 180000], [1, 1000, 1000, 1000, 1, 1])
    found = told(heard(new=1, after=180000, timeout=120.0, answered=0.5), flood)
    assert found.settles_at is None or found.settles_at < 100
    assert found.time_to_full is None


# --- bursts of the last hour


def test_rate_of_a_burst_that_was_over_before_leads_nowhere():
    rates = [100, 100, 3000, 100, 100, 100, 3000]
    jobs = runs([60000] * len(rates), rates)
    burst = heard(new=3000, after=60000, timeout=120.0, answered=1.0)
    assert told(burst, jobs).time_to_full is None
    assert told(burst, jobs).settles_at < 100
    larger = heard(new=9000, after=60000, timeout=120.0, answered=1.0)
    assert told(larger, [*jobs[:-1], jobs[-1]._replace(new=9000)]).time_to_full is not None


def test_rate_of_a_flood_that_goes_on_leads_to_a_full_table():
    rates = [100, 100, 100, 100, 100, 3000, 3000, 3000]
    flood = runs([60000] * len(rates), rates)
    assert told(heard(new=3000, after=60000, timeout=120.0), flood).time_to_full is not None


def test_rate_of_a_burst_that_filled_the_table_leads_there_again():
    rates = [100, 100, 3000, 100, 100, 100, 3000]
    again = runs([60000, 60000, LIMIT, 60000, 60000, 60000, 60000], rates)
    assert told(heard(new=3000, after=60000, timeout=120.0), again).time_to_full is not None


def test_stay_of_an_unanswered_entry_is_its_timeout_and_the_lag():
    found = told(heard(new=2000, after=6000, timeout=30.0))
    lag = outlook.removal_lag(30.0, 2000, BUCKETS, alone=True)
    assert found.stay == pytest.approx(30 + lag)
