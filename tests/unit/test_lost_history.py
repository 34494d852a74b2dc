"""Thresholds on what is a difference over time, in runs that do not know all of that time."""

from __future__ import annotations

import os

import pytest

from check_conntrack.full.labels import RISES
from support.full_host import Host, Namespace

COUNTED = {
    "full_drops": {"drop": 9},
    "early_drops": {"early_drop": 9},
    "insert_failures": {"drop": 9, "insert_failed": 9},
    "chain_overflows": {"chaintoolong": 9},
    "invalid_packets": {"invalid": 9},
}


@pytest.fixture
def host(tmp_path, monkeypatch, capfd, signals):
    """A host whose log covers the window, so that only the figures may be incomplete."""
    made = Host(tmp_path, monkeypatch, capfd)
    made.first_sequence = 0
    made.records = [(10.0, "eth0: link up")]
    return made


def loses_state(host):
    for kept in (host.state / str(os.geteuid())).iterdir():
        kept.unlink()


def noted(host, label, *words):
    """The line on a label that is not known, and the state of the run."""
    run = host.run("-w", f"{label}=1000", *words)
    lines = [line for line in run.lines if line.startswith("Not known before ")]
    return (lines[0] if lines else ""), run


@pytest.mark.parametrize("label", RISES)
def test_first_run_says_which_figures_it_does_not_know(host, label):
    host.own.counters = COUNTED[label]
    line, run = noted(host, label)
    assert run.state == "OK"
    assert line.startswith(f"Not known before {host.clock()}: ")
    assert label in line
    assert line.endswith(" (no earlier run is known)")
    assert label not in run.data


@pytest.mark.parametrize("label", RISES)
def test_runs_after_a_loss_of_state_say_so_until_they_know_the_window(host, label):
    host.own.counters = COUNTED[label]
    for _ in range(5):
        assert noted(host, label)[1].state == "OK"
        host.passes(300)
    assert noted(host, label)[0] == ""
    host.passes(300)
    loses_state(host)
    lost = host.at
    for passed in (0, 300, 600):
        line, run = noted(host, label)
        assert f"Not known before {host.clock(host.at - lost)}: " in line, passed
        assert line in run.lines
        host.passes(300)
    host.passes(1)
    assert noted(host, label)[0] == ""


def test_counter_that_is_zero_is_known_without_history(host):
    assert noted(host, "invalid_packets")[0] == ""


@pytest.mark.parametrize("label", ["invalid_packets", "early_drops"])
def test_module_that_was_loaded_again_has_counted_anew(host, label):
    for _ in range(5):
        host.own.counters = COUNTED[label]
        noted(host, label)
        host.passes(300)
    host.module = 8
    line, _ = noted(host, label)
    assert line.startswith(f"Not known before {host.clock()}: ")
    assert line.endswith("(nf_conntrack was loaded again)")


def test_boot_loses_no_figure(host):
    for _ in range(5):
        host.own.counters = COUNTED["invalid_packets"]
        noted(host, "invalid_packets")
        host.passes(300)
    host.reboots()
    host.records = [(1.0, "Linux version")]
    line, run = noted(host, "invalid_packets")
    assert (line, run.data["invalid_packets"].value) == ("", 0)


def test_namespace_that_was_made_anew_is_known_since_then(host):
    host.others = {"red": Namespace(4026532001, invalid=50)}
    host.others["red"].born = host.at - 5000
    line, _ = noted(host, "invalid_packets", "--netns", "all")
    assert line.startswith(f"Not known before {host.clock()} in 1 namespace: invalid_packets")
    host.passes(600)
    host.others = {"red": Namespace(4026532002, invalid=50)}
    host.others["red"].born = host.at - 60
    line, _ = noted(host, "invalid_packets", "--netns", "all")
    assert line == ""


def test_verbose_run_says_what_is_not_known_once(host):
    host.own.counters = COUNTED["invalid_packets"]
    run = host.run("-w", "invalid_packets=10", "-v")
    assert run.out.count("Not known before ") == 1


def test_state_that_cannot_be_kept_is_a_warning_instead(host):
    host.own.counters = COUNTED["invalid_packets"]
    run = host.run("-w", "invalid_packets=10", "--no-state")
    assert run.state == "WARNING"
    assert "invalid_packets cannot be evaluated, no history" in run.out
    assert "Not known before" not in run.out


def test_range_for_a_counter_that_the_kernel_does_not_have_is_unknown(host, monkeypatch):
    from check_conntrack.kernel import counters

    monkeypatch.setattr(
        counters,
        "read_text",
        lambda: counters.KernelCounters((counters.CpuCounters(0, drop=0, insert_failed=0),)),
    )
    host.run()
    host.passes(60)
    run = host.run("-w", "chain_overflows=5")
    assert run.state == "UNKNOWN"
    assert "chain_overflows cannot be evaluated, no value" in run.text


# --- check_conntrack_usage


@pytest.mark.parametrize("label", ["time_to_full=1h:", "growth=5"])
def test_first_run_says_that_growth_is_not_known_yet(check, clock, label):
    run = check("-w", label)
    name = label.partition("=")[0]
    assert run.state == "OK"
    assert run.lines == [f"Not known yet: {name} (no earlier run is known)"]
    clock.now += 60
    later = check("-w", label).lines
    assert later == (
        ["Not known yet: growth (it takes 3 runs and 5 minutes)"] if name == "growth" else []
    )
    for _ in range(5):
        clock.now += 60
        later = check("-w", label).lines
    assert later == []


def test_default_thresholds_of_usage_need_no_history(check):
    assert check().lines == []


def test_growth_that_cannot_be_kept_is_a_warning_instead(check):
    run = check("-w", "time_to_full=1h:", "--no-state")
    assert run.state == "WARNING"
    assert "Not known yet" not in run.out
