"""Packets that EC2 refused over a window, and the most connections that it could still track."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel.ena import Allowance
from check_conntrack.state.codec import decode, encode
from check_conntrack.state.instance_history import (
    MOST_REFUSALS,
    InstancePeak,
    InstanceState,
    compare,
    peak,
)

EPOCH = 1e9
BOOT = "a" * 32


def eth0(refused, linklocal=0, interface="eth0"):
    return Allowance(interface, 1000, refused, linklocal)


def runs(*steps, start=0.5, seconds=60.0, boot=BOOT):
    """The window of the last of several runs a minute apart; a step is what a run reads."""
    kept, window = None, None
    for number, allowances in enumerate(steps):
        up = 5000 + number * seconds
        now = InstanceState(EPOCH + up, up, boot)
        window = compare(
            kept, now, [allowances] if hasattr(allowances, "_fields") else allowances, start
        )
        kept = decode(InstanceState, json.loads(json.dumps(encode(window.kept))))
        assert kept == window.kept
    return window


def figures(window):
    return window.refused, window.linklocal


def test_instance_history_of_a_first_run_knows_only_counters_at_zero():
    assert figures(runs(eth0(0, 7))) == (0, None)
    assert figures(runs(eth0(5, 0))) == (None, 0)


def test_instance_history_of_a_window_from_before_the_boot_needs_no_earlier_run():
    assert figures(runs(eth0(5, 7), start=0.0)) == (5, 7)
    assert figures(runs(eth0(5, 7), start=None)) == (5, 7)


def test_instance_history_between_runs_is_the_difference():
    assert figures(runs(eth0(5, 7), eth0(25, 8), eth0(26, 8))) == (21, 1)


def test_instance_history_leaves_out_what_was_refused_before_the_window():
    assert figures(runs(eth0(5), eth0(25), eth0(28), start=5060)) == (3, 0)


def test_instance_history_of_counters_that_began_anew_counts_from_zero():
    assert figures(runs(eth0(500), eth0(30), eth0(50))) == (50, 0)
    assert figures(runs(eth0(500), eth0(0), eth0(30))) == (30, 0)


def test_instance_history_takes_a_device_that_did_not_answer_for_no_rise():
    # An old driver passes on zeros for it.
    assert figures(runs(eth0(500), eth0(0), eth0(510))) == (10, 0)
    assert figures(runs(eth0(500), Allowance("eth0"), eth0(510))) == (10, 0)
    assert figures(runs(Allowance("eth0"), eth0(510))) == (None, 0)
    assert figures(runs(eth0(500), eth0(510), Allowance("eth0"))) == (10, 0), "it stays known"


def test_instance_history_of_several_interfaces_is_the_sum_and_says_which():
    window = runs(
        [eth0(5), eth0(7, 3, "eth1")],
        [eth0(6), eth0(107, 3, "eth1"), eth0(9, 0, "eth2")],
    )
    assert figures(window) == (1 + 100 + 9, 0)
    assert [(each.interface, each.refused) for each in window.interfaces] == [
        ("eth1", 100),
        ("eth2", 9),
        ("eth0", 1),
    ]


def test_instance_history_of_an_interface_that_comes_back_is_the_difference():
    window = runs([eth0(5), eth0(7, 0, "eth1")], [eth0(5)], [eth0(5), eth0(9, 0, "eth1")])
    assert figures(window) == (2, 0)


def test_instance_history_outlives_a_reboot():
    before = runs(eth0(5), eth0(25)).kept
    now = InstanceState(EPOCH + 5060 + 90, 30.0, "b" * 32)
    window = compare(before, now, [eth0(4)], now.up - 900)
    assert figures(window) == (24, 0), "20 of the boot before, and all that was counted since"
    later = compare(window.kept, now._replace(at=now.at + 60, up=90.0), [eth0(4)], 80.0)
    assert figures(later) == (0, 0)


def test_instance_history_is_bounded_and_loses_none():
    window = runs(*([eth0(at), eth0(2 * at, 0, "eth1")] for at in range(300)), seconds=1.0)
    assert len(window.kept.refusals) == MOST_REFUSALS
    assert figures(window) == (299 * 3, 0)


@given(st.lists(st.integers(0, 1 << 62), min_size=1, max_size=20))
def test_instance_history_is_never_negative(counts):
    window = runs(*(eth0(count) for count in counts))
    assert window.refused is None or window.refused >= 0
    assert sum(each.refused for each in window.interfaces) == (window.refused or 0)


def test_instance_peak_is_the_highest_of_the_type():
    first = peak(None, "m5.large", 500)
    assert first == InstancePeak("m5.large", 500)
    assert peak(first, "m5.large", 400) == first
    assert peak(first, "m5.large", 600).available == 600
    assert peak(first, "t3.nano", 100) == InstancePeak("t3.nano", 100), "a smaller type"
