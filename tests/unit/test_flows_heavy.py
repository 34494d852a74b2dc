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
def test_heavy_hitters_are_within_the_stated_error(feedings, capacity, room):
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


@given(st.lists(st.integers(0, 9), max_size=200))
def test_heavy_hitters_count_few_keys_exactly(keys):
    heavy = HeavyHitters(5, 10)
    for key in keys:
        heavy.add(key)
    assert heavy.counts == collections.Counter(keys)
    assert heavy.error == 0


@given(st.lists(st.integers(0, 1000), max_size=200), st.integers(1, 5))
def test_heavy_hitters_never_lose_a_key_above_its_share(others, capacity):
    heavy = HeavyHitters(capacity, capacity)
    for key in others:
        heavy.add(key)
        heavy.add("heavy", 2)
    if others:
        assert heavy.top(1)[0][0] == "heavy"


def test_heavy_hitters_refuse_a_capacity_above_the_limit():
    for capacity, limit in ((0, 5), (6, 5)):
        with pytest.raises(ValueError, match="capacity"):
            HeavyHitters(capacity, limit)
