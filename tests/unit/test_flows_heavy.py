from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.flows.heavy_hitters import HeavyHitters


@given(
    st.lists(st.lists(st.integers(0, 30) | st.integers(0, 3), max_size=30), max_size=30),
    st.integers(1, 8),
    st.integers(0, 8),
)
def test_no_count_is_further_off_than_the_stated_error(feedings, capacity, room):
    heavy = HeavyHitters(capacity, capacity + room)
    truth: collections.Counter[int] = collections.Counter()
    for feeding in feedings:
        heavy.feed(iter(feeding), len(feeding))
        truth.update(feeding)
    assert heavy.total == sum(truth.values())
    assert len(heavy.counts) <= heavy.limit
    assert heavy.error * (capacity + 1) <= heavy.total
    for key, true in truth.items():
        assert true - heavy.error <= heavy.counts[key] <= true


@given(
    st.lists(st.lists(st.integers(0, 40) | st.integers(0, 3), max_size=60), max_size=8),
    st.lists(st.lists(st.integers(0, 40) | st.integers(0, 3), max_size=60), max_size=8),
    st.integers(1, 8),
    st.integers(0, 8),
)
def test_the_counts_of_two_join_within_the_same_bounds(mine, theirs, capacity, room):
    heavy, other = (HeavyHitters(capacity, capacity + room) for _ in range(2))
    truth: collections.Counter[int] = collections.Counter()
    for one, feedings in ((heavy, mine), (other, theirs)):
        for feeding in feedings:
            one.feed(feeding, len(feeding))
            truth.update(feeding)
    heavy.join(*other.parts())
    assert heavy.total == sum(truth.values())
    assert len(heavy.counts) <= heavy.limit
    assert heavy.error * (capacity + 1) <= heavy.total
    for key, true in truth.items():
        assert true - heavy.error <= heavy.counts[key] <= true


@given(st.lists(st.integers(0, 9), max_size=200))
def test_few_keys_are_counted_exactly(keys):
    heavy = HeavyHitters(5, 10)
    for key in keys:
        heavy.add(key)
    assert heavy.counts == collections.Counter(keys)
    assert heavy.error == 0


@given(st.lists(st.integers(0, 1000), max_size=200), st.integers(1, 5))
def test_a_key_above_its_share_is_never_lost(others, capacity):
    heavy = HeavyHitters(capacity, capacity)
    for key in others:
        heavy.add(key)
        heavy.add("heavy", 2)
    if others:
        assert heavy.top(1)[0][0] == "heavy"


def test_a_capacity_beyond_the_limit_is_refused():
    for capacity, limit in ((0, 5), (6, 5)):
        with pytest.raises(ValueError, match="capacity"):
            HeavyHitters(capacity, limit)
