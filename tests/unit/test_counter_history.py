"""How far counters rose over a window, and which time they cover."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel.counters import CpuCounters
from check_conntrack.kernel.coverage import Span, clip, gaps
from check_conntrack.state.codec import decode, encode
from check_conntrack.state.counter_history import (
    EARLIER_BOOT,
    MOST_RISES,
    CounterRise,
    NamespaceState,
    compare,
    from_boot,
)

EPOCH = 1e9
ZERO = dict.fromkeys(("drop", "early_drop", "insert_failed", "chaintoolong", "invalid"), 0)


def state(up, *, netns=1, born=0.0, began=0.0, usage=0.0, **counted):
    """A run `up` seconds after boot."""
    cpus = (CpuCounters(0, **{**ZERO, **counted}),)
    return NamespaceState(EPOCH + up, up, netns, born, began, usage, cpus)


def unread(up, **more):
    """A run that could not read the counters."""
    return state(up, **more)._replace(cpus=())


def runs(*states, start, reloaded=False):
    """The window of the last of several runs, one after the other."""
    kept, window = None, None
    for each in states:
        window = compare(kept, each, start, reloaded=reloaded)
        kept = window.kept
    return window


def figures(window):
    return window.rise.losses if window.rise else None


# --- rises


def test_history_of_a_first_run_knows_only_what_was_never_counted():
    first = runs(state(5000, drop=5), start=4100)
    assert figures(first) == (None, 0, 0, 0)
    busy = {"early_drop": 1, "insert_failed": 2, "chaintoolong": 1, "invalid": 9}
    assert runs(state(5000, drop=5, **busy), start=4100).rise is None


def test_history_between_two_runs_is_the_difference():
    window = runs(
        state(5000, drop=5, early_drop=1, insert_failed=2, chaintoolong=1, invalid=7),
        state(5060, drop=9, early_drop=4, insert_failed=4, chaintoolong=2, invalid=9),
        start=4900,
    )
    # Of 4 drops one is that of an insert which no long chain explains.
    assert window.rise == CounterRise(5000, 5060, 3, 3, 1, 1, invalid_packets=2)


def test_history_leaves_out_what_rose_before_the_window():
    window = runs(state(5000, drop=1), state(5100, drop=8), state(5200, drop=10), start=5100)
    assert window.rise.full_drops == 2


def test_history_keeps_the_largest_usage_of_the_window():
    window = runs(state(5000, drop=1, usage=97.0), state(5060, drop=2, usage=3.0), start=4900)
    assert window.rise.usage == 97.0


def test_history_of_a_day_loses_no_drop_that_is_in_the_window():
    kept = None
    for minute in range(2, 1440):
        drop = 7 if minute > 30 else 1
        window = compare(kept, state(60 * minute, drop=drop, usage=99.0), 60, reloaded=False)
        kept = window.kept
    assert window.rise.full_drops == 6
    assert len(kept.rises) == MOST_RISES
    late = compare(kept, state(86400, drop=7), 86400 / 4, reloaded=False)
    assert late.rise.full_drops == 0


def test_history_of_quiet_runs_is_one_stretch():
    window = runs(*(state(60 * at, drop=3, early_drop=2) for at in range(90, 200)), start=9000)
    assert window.kept.rises[-1] == CounterRise(5400, 60 * 199, 0, 0, 0, 0, 0.0, 0)
    assert len(window.kept.rises) <= 2


def test_history_since_boot_is_all_that_was_counted():
    window = runs(state(5000, drop=12, insert_failed=2), start=None)
    assert window.rise == CounterRise(0.0, 5000, 10, 0, 2, 0, 0.0, 0)
    assert window.spans == (Span(0.0, 5000),)


def test_history_counts_invalid_packets_of_the_window_alone():
    counted = [state(60 * at, drop=3, invalid=7 * at) for at in range(100, 200)]
    window = runs(*counted, start=60 * 199 - 900)
    assert window.rise.invalid_packets == 7 * 15
    # Those of before the window, which nobody needs any more, are one stretch.
    assert len(window.kept.rises) <= 17
    assert sum(rise.invalid_packets or 0 for rise in window.kept.rises) == 7 * 99
    whole = runs(*counted, start=60 * 100)
    assert whole.rise.invalid_packets == 7 * 99


def test_history_of_invalid_packets_is_not_joined_with_quiet_runs_after_it():
    counts = [0, 50, *[50] * 40]
    counted = [state(60 * (100 + at), drop=3, invalid=7 + n) for at, n in enumerate(counts)]
    assert runs(*counted[:10], start=60 * 109 - 900).rise.invalid_packets == 50
    assert runs(*counted, start=60 * 141 - 900).rise.invalid_packets == 0


@given(st.lists(st.integers(0, 3), min_size=3, max_size=60), st.integers(1, 20))
def test_history_counts_the_invalid_packets_of_any_window_exactly(steps, width):
    kept, total = None, 5
    for at, step in enumerate(steps):
        total += step
        start = 60 * (100 + at - width)
        window = compare(kept, state(60 * (100 + at), drop=3, invalid=total), start, reloaded=False)
        kept = window.kept
        if at:
            assert window.rise.invalid_packets == sum(steps[max(1, at - width + 1) : at + 1])


def test_history_of_invalid_packets_hides_no_loss():
    first = state(5000, drop=1, invalid=5)
    window = runs(
        first, state(5060, drop=1, invalid=9), state(5120, drop=4, invalid=20), start=5060
    )
    assert (window.rise.full_drops, window.rise.invalid_packets) == (3, 11)


def test_history_of_a_window_longer_than_the_uptime_needs_no_earlier_run():
    window = runs(state(300, drop=12), start=-600)
    assert window.rise.full_drops == 12
    assert window.spans == (Span(0.0, 300),)


def test_history_of_a_run_that_could_not_read_keeps_the_earlier_counters():
    window = runs(state(5000, drop=1), state(5060, drop=3), unread(5120), start=4900)
    assert window.rise.full_drops == 2, "the alarm stays while it is in the window"
    later = compare(window.kept, state(5180, drop=10), 5100, reloaded=False)
    assert later.rise.full_drops == 7


# --- resets


def test_history_after_a_reboot_is_all_that_was_counted_and_what_was_before():
    before = runs(state(89900, drop=500), state(90000, drop=503), start=80000).kept
    now = state(60, drop=3)._replace(at=EPOCH + 90100)
    moved = from_boot(before, 60, EPOCH + 90100)
    assert moved.netns == EARLIER_BOOT
    assert moved.up == -40
    window = compare(moved, now, -840, reloaded=False)
    assert window.rise.full_drops == 6
    assert window.spans[-1] == Span(0.0, 60)
    assert compare(moved, now, 0.0, reloaded=False).rise.full_drops == 3


def test_history_of_a_namespace_made_anew_counts_from_its_birth():
    window = runs(
        state(5000, drop=500),
        state(5060, drop=3, netns=2, born=EPOCH + 5030, began=5030),
        start=4900,
    )
    assert window.rise.full_drops == 3
    assert window.spans == (Span(5030, 5060),)


def test_history_tells_a_namespace_of_the_same_name_and_inode_by_its_birth():
    window = runs(
        state(5000, drop=1, born=EPOCH + 10),
        state(5060, drop=3, born=EPOCH + 5030, began=5030),
        start=4900,
    )
    assert window.rise.full_drops == 3, "not the difference of 2"


def test_history_does_not_cover_what_a_reloaded_module_had_counted():
    before = runs(state(4000, drop=5), state(5000, drop=5), start=4000).kept
    window = compare(before, state(5060, drop=0), 4500, reloaded=True)
    assert gaps(window.spans, Span(4500, 5060)) == (Span(5000, 5060),)
    later = compare(window.kept, state(5120, drop=0), 4500, reloaded=False)
    assert gaps(later.spans, Span(4500, 5120)) == (Span(5000, 5060),)
    assert gaps(later.spans, Span(5070, 5120)) == ()


# --- coverage


def test_counters_at_zero_cover_everything_since_boot():
    assert runs(state(5000, early_drop=7), start=4100).spans == (Span(0.0, 5000),)


def test_drops_beside_more_failed_inserts_cover_nothing_in_a_first_run():
    """Kernel 4.18 counts failed inserts that cost no packet: they may hide a full table."""
    assert runs(state(5000, drop=26, insert_failed=5000), start=4100).spans == (Span(5000, 5000),)
    later = runs(
        state(5000, drop=26, insert_failed=5000),
        state(5060, drop=26, insert_failed=5100),
        start=5010,
    )
    assert gaps(later.spans, Span(5010, 5060)) == ()


@pytest.mark.parametrize(("drop", "failed"), [(0, 5000), (26, 26)])
def test_drops_that_failed_inserts_explain_exactly_cover_everything_since_boot(drop, failed):
    window = runs(state(5000, drop=drop, insert_failed=failed), start=4100)
    assert window.spans == (Span(0.0, 5000),)


def test_module_that_was_loaded_again_while_nothing_could_be_read_is_a_gap():
    before = runs(state(4000, drop=5), state(5000, drop=5), start=4000).kept
    unseen = compare(before, unread(5060), 4500, reloaded=True)
    window = compare(unseen.kept, state(5120, drop=7), 4500, reloaded=False)
    assert gaps(window.spans, Span(4500, 5120)) == (Span(5000, 5060),)
    assert window.rise.full_drops == 7, "not the difference of 2"
    later = compare(window.kept, state(5180, drop=7), 5100, reloaded=False)
    assert later.rise.full_drops == 7, "also in a window that begins after the module was loaded"
    assert gaps(later.spans, Span(5100, 5180)) == ()
    never_read = compare(runs(unread(5000), start=4100).kept, state(5060), 4500, reloaded=True)
    assert gaps(never_read.spans, Span(4500, 5060)) == (Span(4500, 5060),)


def test_counters_that_were_at_zero_once_cover_what_was_before():
    window = runs(state(5000), state(5060, drop=5), start=4160)
    assert gaps(window.spans, Span(4160, 5060)) == ()
    assert window.rise.full_drops == 5


def test_a_first_run_covers_this_moment():
    assert runs(state(5000, drop=5), start=4100).spans == (Span(5000, 5000),)


def test_counters_that_were_read_once_a_minute_cover_the_minutes():
    window = runs(state(5000, drop=5), state(5060, drop=5), state(5120, drop=6), start=4200)
    assert window.spans == (Span(5000, 5120),)


def test_a_run_that_could_not_read_covers_nothing_new():
    window = runs(state(5000, drop=5), state(5060, drop=5), unread(5120), start=4200)
    assert window.spans == (Span(5000, 5060),)
    later = compare(window.kept, state(5180, drop=5), 4300, reloaded=False)
    assert later.spans == (Span(5000, 5180),), "the counters show what no run read"


def test_counters_without_drops_in_them_cover_nothing():
    """Kernels may lack the column."""
    cpus = (CpuCounters(0, early_drop=0),)
    assert runs(state(5000)._replace(cpus=cpus), start=None).spans == ()


STEPS = st.lists(
    st.tuples(
        st.integers(3, 500),
        st.sampled_from(["read", "read", "read", "unread", "reload", "anew", "reboot"]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=30,
)


@given(STEPS, st.integers(3, 2000))
def test_counters_cover_no_time_in_which_a_drop_may_have_been_missed(steps, window):
    """A drop lies between two runs; each that was lost lies in a gap, each other is counted."""
    up, at, total, inode, born = 1000.0, EPOCH, 2, 1, 0.0
    kept = None
    losses: list[tuple[float, float, int]] = []
    for seconds, what, drops in steps:
        begin = at
        at, up = at + seconds, up + seconds
        lost = None
        if what == "reboot":
            up, total, inode = 1.0, 0, 1
            kept = from_boot(kept, up, at) if kept else None
            losses = []
        elif what == "anew":
            total, inode, born, losses = 0, inode + 1, at - 1, []
        elif what == "reload":
            lost, total = (begin, at, drops), 0
        else:
            total += drops
            losses.append((begin, at, drops))
        losses += [lost] if lost and drops else []
        began = max(0.0, up - (at - born)) if born else 0.0
        now = state(up, netns=inode, born=born, began=began, drop=total)._replace(at=at)
        if what == "unread":
            now = now._replace(cpus=())
        found = compare(kept, now, up - window, reloaded=what == "reload")
        kept = found.kept
    shift = at - up
    spans = [Span(span.start + shift, span.end + shift) for span in found.spans]
    start = max(at - window, at - up)
    inside = [loss for loss in losses if loss[0] >= start and loss[2]]
    whole = not gaps(spans, Span(start, at))
    if whole and at > start:
        assert (found.rise.full_drops or 0) >= sum(drops for _, _, drops in inside)
    assert all(span.end <= at and span.start <= span.end for span in clip(spans, Span(0, at)))


# --- JSON


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=10))
def test_state_of_a_namespace_comes_back_from_json(pairs):
    rises = tuple(CounterRise(a, a + b, b, None, a, 0, 99.0) for a, b in pairs)
    kept = state(10, drop=3)._replace(rises=rises)
    assert decode(NamespaceState, json.loads(json.dumps(encode(kept)))) == kept


@pytest.mark.parametrize("field", NamespaceState._fields)
def test_state_with_a_field_that_no_run_wrote_is_nothing(field):
    for damage in ("x", -(10**400), [["x"]], {}, True):
        plain = encode(state(10, drop=3, usage=1.0, born=1.0, began=1.0))
        plain.append([])
        plain[NamespaceState._fields.index(field)] = damage
        assert decode(NamespaceState, plain) is None
