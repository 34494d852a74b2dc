"""How far counters rose, and whether they wrapped or were reset."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel import counters as ct
from check_conntrack.kernel.counters import Course, CpuCounters, Origin

TOP = (1 << 32) - 1
HERE = Origin("b" * 32, 4026531840, 10403)


def reading(*cpus, **values):
    if values:
        cpus = (values,)
    return ct.KernelCounters(tuple(CpuCounters(n, **each) for n, each in enumerate(cpus)))


def test_rise_is_the_difference_where_nothing_fell():
    before = reading({"drop": 5, "found": 9}, {"drop": 7, "found": 9})
    after = reading({"drop": 6, "found": 9}, {"drop": 17, "found": 10})
    rise = ct.rise(before, after, HERE, HERE, 60)
    assert rise.course is Course.CONTINUED
    assert (rise.total.drop, rise.total.found) == (11, 1)
    assert [cpu.drop for cpu in rise.cpus] == [1, 10]


def test_rise_of_a_wrapped_counter():
    before = reading(found=TOP - 99, drop=50)
    after = reading(found=900, drop=60)
    rise = ct.rise(before, after, HERE, HERE, 60)
    # A reset is possible too by the figures alone: both are so small that 60 s allow either.
    assert rise.course is Course.UNCLEAR
    after = reading(found=900, drop=60, insert=3_000_000_000)
    before = reading(found=TOP - 99, drop=50, insert=2_999_999_000)
    rise = ct.rise(before, after, HERE, HERE, 60)
    assert rise.course is Course.WRAPPED
    assert (rise.total.found, rise.total.drop, rise.total.insert) == (1000, 10, 1000)


def test_rise_with_one_cpu_wrapped():
    before = reading({"found": TOP, "insert": 2_000_000_000}, {"found": 2_000_000_000})
    after = reading({"found": 4, "insert": 2_000_000_001}, {"found": 2_000_000_010})
    rise = ct.rise(before, after, HERE, HERE, 60)
    assert rise.course is Course.WRAPPED
    assert [cpu.found for cpu in rise.cpus] == [5, 10]


def test_rise_of_counters_too_small_to_have_wrapped_is_a_reset():
    before = reading(found=5000, drop=70, insert=80)
    after = reading(found=10, drop=2, insert=90)
    rise = ct.rise(before, after, HERE, HERE, 60)
    assert rise.course is Course.RESET
    assert (rise.total.found, rise.total.drop, rise.total.insert) == (10, 2, 90)


@pytest.mark.parametrize(
    "other",
    [
        HERE._replace(boot="c" * 32),
        HERE._replace(namespace=4026532177),
        HERE._replace(module=10999),
        # Inode numbers are no clock: a later one may be smaller.
        HERE._replace(namespace=4026531000),
        HERE._replace(module=17),
    ],
)
def test_rise_of_another_boot_namespace_or_module_is_a_reset(other):
    rise = ct.rise(reading(drop=5), reading(drop=7), HERE, other, 60)
    assert (rise.course, rise.total.drop) == (Course.RESET, 7)


def test_rise_compares_origins_by_value():
    again = Origin(*json.loads(json.dumps(HERE)))
    rise = ct.rise(reading(drop=5), reading(drop=7), again, HERE, 60)
    assert (rise.course, rise.total.drop) == (Course.CONTINUED, 2)


def test_rise_ignores_unknown_parts_of_the_origin():
    rise = ct.rise(reading(drop=5), reading(drop=7), HERE, Origin(), 60)
    assert (rise.course, rise.total.drop) == (Course.CONTINUED, 2)


def test_rise_with_another_number_of_cpus_is_a_reset():
    rise = ct.rise(reading({"drop": 5}), reading({"drop": 7}, {"drop": 1}), HERE, HERE, 60)
    assert (rise.course, rise.total.drop) == (Course.RESET, 8)


def test_rise_is_the_smaller_one_where_the_time_allows_both():
    before = reading(found=5000, drop=70)
    after = reading(found=10, drop=75)
    rise = ct.rise(before, after, HERE, HERE, 86400)
    assert rise.course is Course.UNCLEAR
    assert (rise.total.found, rise.total.drop) == (10, 5)


def test_rise_without_the_time_is_unclear():
    assert ct.rise(reading(drop=70), reading(drop=7)).course is Course.UNCLEAR
    assert ct.rise(reading(drop=70), reading(drop=7), seconds=-5).course is Course.UNCLEAR


def test_rise_that_fits_neither_is_unclear():
    before = reading(found=3_000_000_000, insert=100)
    after = reading(found=2_500_000_000, insert=50)
    assert ct.rise(before, after, HERE, HERE, 10).course is Course.UNCLEAR


def test_unclear_rise_has_the_smaller_full_drops():
    # Wrapped: 5 drops, none of them clashes. Reset: 75 drops, 10 of them clashes.
    before = reading(found=5000, drop=70, insert_failed=10)
    after = reading(found=10, drop=75, insert_failed=10)
    assert ct.rise(before, after, HERE, HERE, 86400).full_drops == 5


def test_rise_of_a_counter_that_one_reading_lacks_is_unknown():
    rise = ct.rise(reading(drop=5), reading(drop=7, chaintoolong=3), HERE, HERE, 60)
    assert (rise.total.drop, rise.total.chaintoolong) == (2, None)


@pytest.mark.parametrize(
    ("drop", "failed", "chains", "expected"),
    [
        (0, 0, 0, 0),
        (200, 0, 0, 200),
        (5, 5, 0, 0),  # clashes
        (5, 3, 0, 2),
        (0, 900, 900, 0),  # chains too long are not in drop
        (200, 900, 900, 200),
        (7, 905, 900, 2),
        (1, 5, 0, 0),
        (3, 1, 5, 3),
        (200, 0, None, 200),
        (None, 0, 0, None),
        (5, None, 0, None),
    ],
)
def test_full_drops_leave_out_failed_inserts(drop, failed, chains, expected):
    risen = CpuCounters(drop=drop, insert_failed=failed, chaintoolong=chains)
    assert ct.full_drops(risen) == expected


VALUES = st.fixed_dictionaries(
    {name: st.integers(0, TOP) for name in ("drop", "insert_failed", "found", "chaintoolong")}
)


@given(VALUES, VALUES, st.one_of(st.none(), st.floats(0, 1e6)))
def test_rise_is_never_negative_nor_above_wrap_and_reset(old, new, seconds):
    rise = ct.rise(reading(old), reading(new), HERE, HERE, seconds)
    for name in old:
        risen = getattr(rise.total, name)
        assert 0 <= risen <= max(new[name], (new[name] - old[name]) % (1 << 32))


@given(VALUES, st.lists(st.integers(0, 10**8), min_size=4, max_size=4))
def test_rise_is_right_or_unclear(old, steps):
    new = {name: (value + step) % (1 << 32) for (name, value), step in zip(old.items(), steps)}
    rise = ct.rise(reading(old), reading(new), HERE, HERE, 60)
    assert rise.course is not Course.RESET
    if rise.course is not Course.UNCLEAR:
        assert [getattr(rise.total, name) for name in old] == steps
    else:
        assert all(getattr(rise.total, name) <= step for name, step in zip(old, steps))
