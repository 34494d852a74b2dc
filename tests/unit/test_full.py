"""check_conntrack_full through its front door, on hosts that a test makes up."""

from __future__ import annotations

import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack import owners
from check_conntrack.full import (
    advice,
    contexts,
    coverage,
    evidence,
    full_check,
    log_report,
    namespace_reports,
    state,
)
from check_conntrack.kernel import namespaces as kernel_namespaces
from check_conntrack.kernel.coverage import Coverage, Span, gaps, union
from check_conntrack.kernel.limits import OWN, Limits
from check_conntrack.kernel.log import events, gather, journal
from check_conntrack.kernel.log.messages import Kind
from check_conntrack.kernel.log.rotation import LogCursor
from check_conntrack.kernel.owners import Owner, Ownership
from check_conntrack.state import counter_history, state_store
from check_conntrack.state.counter_history import CounterRise, NamespaceState
from support.full_host import MESSAGE, Host, Namespace
from support.json_values import JSON

NO_NETNS = ("--netns", "all")


@pytest.fixture
def host(tmp_path, monkeypatch, capfd, signals):
    return Host(tmp_path, monkeypatch, capfd)


@pytest.fixture
def busy(host):
    """A host that dropped packets some day: its counters prove nothing without a history."""
    host.own.counters = {"drop": 100}
    return host


@pytest.fixture
def store(tmp_path):
    opened = state_store.Store.open(str(tmp_path / "kept"), {}, None)
    yield opened
    opened.close()


# --- what OK means: the whole window was covered


def test_full_counters_at_zero_cover_the_window_in_the_first_run(host):
    run = host.run()
    assert run.status == "CONNTRACK_FULL OK - not full in the last 15m (counters)"


def test_full_a_host_younger_than_the_window_claims_its_boot(host):
    host.up = 300.0
    host.own.counters = {"early_drop": 3}
    run = host.run("-w", "early_drops=~:")
    assert run.text == f"not full since boot at {host.clock(300)} (counters)"
    host.own.counters = {"drop": 3}
    run = host.run()
    assert run.state == "WARNING", "all of them were dropped within the window"
    assert run.data["full_drops"].value == 3


def test_full_the_first_run_is_ok_for_this_moment_and_says_since_when_it_watches(busy):
    run = busy.run()
    assert run.state == "OK"
    assert run.text == f"not full now (counters), watching since {busy.clock()}"
    assert run.values("full_drops", "early_drops") == [None, 0]


@pytest.mark.parametrize("since", ["15m", "1d"])
def test_full_counters_seen_for_a_second_do_not_vouch_for_the_window(busy, since):
    busy.run("--since", since)
    busy.passes(1)
    run = busy.run("--since", since)
    assert run.state == "UNKNOWN"
    assert run.text.startswith(f"not full since {busy.clock(1)} (counters); not covered ")
    assert "in the last" not in run.text


def test_full_a_gap_has_the_state_that_was_asked_for(busy):
    busy.run()
    busy.passes(60)
    for word in ("ok", "warning", "critical", "unknown"):
        run = busy.run("--if-incomplete", word)
        assert run.state == word.upper()
        assert f"not full since {busy.clock(60)} (counters)" in run.text


def test_full_counters_read_over_the_window_are_ok(busy):
    for _ in range(17):
        run = busy.run()
        busy.passes(60)
    assert run.status == "CONNTRACK_FULL OK - not full in the last 15m (counters)"


@pytest.mark.parametrize("how", ["lost", "other key"])
def test_full_state_that_is_lost_watches_from_now_on(busy, how):
    busy.run()
    busy.passes(3600)
    busy.run()
    words = ["--state-key", "new"] if how == "other key" else []
    if how == "lost":
        for kept in (busy.state / str(os.geteuid())).iterdir():
            kept.unlink()
    busy.passes(60)
    first = busy.run(*words)
    assert first.state == "OK"
    assert first.text == f"not full now (counters), watching since {busy.clock()}"
    busy.passes(60)
    assert busy.run(*words).state == "UNKNOWN"


def test_full_without_state_nothing_before_this_moment_is_known(busy):
    run = busy.run("--no-state")
    assert run.state == "UNKNOWN"
    assert "not covered" in run.text
    assert "in the last" not in run.text


def test_full_a_run_that_could_not_read_the_counters_leaves_no_gap(busy):
    for minute in range(20):
        busy.own.counters = None if minute in (17, 18) else {"drop": 100}
        run = busy.run()
        busy.passes(60)
        assert run.state == ("OK" if minute in (0, 15, 16, 19) else "UNKNOWN"), minute


def test_full_the_window_reaches_back_to_the_previous_run(busy):
    busy.run()
    busy.passes(7200)
    busy.own.counters = {"drop": 103}
    run = busy.run()
    assert run.data["full_drops"].value == 3
    assert "3 packets dropped in the last 2h" in run.text


def test_full_since_boot_needs_no_history(busy):
    run = busy.run("--since", "boot", "--no-state")
    assert run.state == "WARNING"
    assert run.data["full_drops"].value == 100
    busy.own.counters = {"early_drop": 3}
    run = busy.run("--since", "boot", "--no-state", "-w", "early_drops=~:")
    assert run.state == "OK"
    assert run.text.startswith("not full since boot at 2026-")


def test_full_since_last_is_the_time_since_the_previous_run(busy):
    busy.run("--since", "last")
    busy.passes(90)
    run = busy.run("--since", "last")
    assert run.state == "OK"
    assert run.text == "not full in the last 1m 30s (counters)"


def test_full_since_all_is_all_that_was_read(busy):
    busy.own.counters = {}
    run = busy.run("--since", "all", "--log", busy.logs(busy.line(86400 * 40, "eth0: up")))
    assert run.state == "OK"
    assert run.text == f"not full in all that was read ({busy.log}, counters)"


# --- clocks, boots, modules, namespaces


@pytest.mark.parametrize("step", [-3600.0, 3600.0, -86400.0 * 400])
def test_full_a_clock_that_is_set_makes_no_gap_and_hides_no_drop(busy, step):
    for minute in range(17):
        busy.run()
        busy.passes(60)
        if minute == 10:
            busy.own.counters = {"drop": 105}
    busy.at += step
    run = busy.run()
    assert run.state == "WARNING"
    assert run.data["full_drops"].value == 5
    assert "not covered" not in run.text
    for _ in range(16):
        busy.passes(60)
        run = busy.run()
    assert run.status == "CONNTRACK_FULL OK - not full in the last 15m (counters)"


def test_full_a_clock_that_is_set_does_not_stretch_the_window(busy):
    busy.records = [(1.0, "Linux version"), (busy.up - 3000, MESSAGE)]
    assert busy.run().state == "OK"
    busy.passes(60)
    for step in (7200.0, -7200.0, 86400.0):
        busy.at += step
        run = busy.run()
        assert run.state == "OK", run.out
        assert run.text.startswith("not full in the last 15m (kernel log")
        busy.passes(60)


def test_full_time_before_the_boot_is_no_gap_and_its_drops_count(busy):
    for _ in range(3):
        busy.run()
        busy.passes(60)
    busy.own.counters = {"drop": 109}
    busy.run()
    busy.reboots()
    run = busy.run()
    assert run.state == "WARNING"
    assert run.data["full_drops"].value == 9
    assert "not covered" not in run.text
    busy.passes(16 * 60)
    run = busy.run()
    assert run.state == "OK"


def test_full_what_a_reloaded_module_had_counted_is_a_gap(busy):
    for _ in range(17):
        busy.run()
        busy.passes(60)
    busy.module, busy.own.counters = 8, {}
    run = busy.run()
    assert run.state == "UNKNOWN"
    assert f"not covered {busy.clock(60)} to {busy.clock()}" in run.text
    assert "nf_conntrack was loaded again" in run.out
    for _ in range(16):
        busy.passes(60)
        run = busy.run()
    assert run.state == "OK"


def test_full_a_namespace_of_the_same_name_and_inode_is_told_by_its_birth(host):
    host.others["red"] = red = Namespace(77, drop=5)
    red.born = host.at - 86400
    for _ in range(17):
        host.run("--netns", "all")
        host.passes(60)
    assert host.run("--netns", "all").state == "OK"
    host.passes(60)
    red.born, red.counters = host.at - 30, {"drop": 7}
    run = host.run("--netns", "all")
    assert run.data["red::full_drops"].value == 7, "not the difference of 2"
    assert run.state == "WARNING"
    assert "not covered" not in run.text


def test_full_names_the_namespace_whose_window_is_not_covered(host):
    host.others["red"] = Namespace(77, drop=5)
    host.others["blue"] = Namespace(78)
    host.run("--netns", "all")
    host.passes(60)
    run = host.run("--netns", "all")
    assert run.state == "UNKNOWN"
    assert f"namespace red not covered {host.clock(900)} to {host.clock(60)}" in run.text
    assert "blue" not in run.text


def test_full_a_namespace_that_was_not_there_in_the_previous_run_is_covered_since_then(host):
    host.run("--netns", "all")
    host.passes(60)
    host.others["red"] = Namespace(77, drop=5)
    run = host.run("--netns", "all")
    assert run.data["red::full_drops"].value == 5
    assert run.state == "WARNING"
    assert "not covered" not in run.text


# --- log files


def test_full_a_log_that_begins_inside_the_window_is_a_gap(busy):
    busy.logs(busy.line(300, "eth0: up", host="elsewhere"), busy.line(5, "x", host="elsewhere"))
    run = busy.run("--log", busy.log, "--no-state")
    assert run.state == "UNKNOWN"
    assert f"not full since {busy.clock(300)}" in run.text
    assert f"/{busy.log.name} not covered {busy.clock(900)} to {busy.clock(300)}" in run.text


def test_full_the_first_run_with_such_a_log_says_since_when_it_watches(busy):
    busy.logs(busy.line(300, "eth0: up", host="elsewhere"), busy.line(5, "x", host="elsewhere"))
    run = busy.run("--log", busy.log)
    assert run.state == "OK"
    assert run.text.endswith(f", watching since {busy.clock()}")
    busy.passes(60)
    assert busy.run("--log", busy.log).state == "UNKNOWN"


def test_full_counters_of_this_host_stand_in_for_its_own_log_alone(host):
    host.logs(host.line(300, "eth0: up"), host.line(5, "eth1: up"))
    run = host.run("--log", host.log, "--no-state")
    assert run.state == "OK"
    assert run.text == f"not full in the last 15m ({host.log}, counters)"
    for other in ("elsewhere", ""):
        host.logs(*(host.line(ago, "eth0: up", host="elsewhere") for ago in (300, 5)))
        if not other:
            host.log.write_text("[1.5] eth0: up\n")
        assert host.run("--log", host.log, "--no-state").state == "UNKNOWN"


def test_full_a_log_that_nobody_writes_any_more_is_a_gap(busy):
    busy.logs(*(busy.line(ago, "x", host="elsewhere") for ago in (86400, 10800)), written=10800)
    run = busy.run("--log", busy.log)
    assert run.state == "UNKNOWN", "not even this moment is covered"
    assert "last written 3h ago" in run.out


def test_full_ok_says_what_the_kernel_did_not_log_where_no_counters_show_drops(busy):
    notice = "net_ratelimit: 1871 callbacks suppressed"
    for host, more in (("elsewhere", "1871 messages suppressed by the rate limit"), (None, "")):
        named = {"host": host} if host else {}
        lines = [busy.line(ago, text, **named) for ago, text in ((1000, "x"), (60, notice))]
        busy.logs(*lines)
        run = busy.run("--log", busy.log, "--no-state")
        assert run.state == "OK"
        assert ("suppressed by" in run.text) == bool(more)
        assert more in run.text


def test_full_ok_says_how_long_a_log_has_been_silent(busy):
    """Silence of 20 hours may be a host with nothing to say, or a daemon that is gone."""
    busy.logs(*(busy.line(ago, "x", host="elsewhere") for ago in (90000, 72000)), written=72000)
    run = busy.run("--log", busy.log, "--since", "1d")
    assert (run.state, run.text) == ("OK", f"not full in the last 1d ({busy.log} silent for 20h)")
    busy.logs(*(busy.line(ago, "x", host="elsewhere") for ago in (90000, 300)))
    assert "silent" not in busy.run("--log", busy.log, "--since", "1d").out


def test_full_since_last_counts_a_message_of_the_second_of_the_run_before_once(busy):
    """A log has whole seconds: the message seems to be from before that run."""
    words = ("--log", busy.log, "--since", "last")
    busy.logs(busy.line(5000, "eth0: up"), busy.line(10, "eth0: up"))
    busy.at += 0.123
    busy.up += 7.3
    busy.run(*words)
    for _ in range(12):
        busy.passes(0.4)
        with busy.log.open("a") as file:
            file.write(busy.line(0))
        busy.passes(60.337)
        assert busy.run(*words).data["table_full"].value == 1
    busy.passes(60)
    assert busy.run(*words).data["table_full"].value == 0


def test_full_counts_once_what_was_logged_while_the_log_was_away(busy):
    words = ("--log", busy.log, "--since", "last")
    away = busy.folder / "away"
    busy.logs(busy.line(5000, "eth0: up"), busy.line(10, "eth0: up"))
    busy.run(*words)
    busy.passes(60)
    with busy.log.open("a") as file:
        file.write(busy.line(20))
    busy.log.rename(away)
    assert busy.run(*words).state == "UNKNOWN"
    busy.passes(60)
    away.rename(busy.log)
    run = busy.run(*words)
    assert (run.state, run.data["table_full"].value) == ("CRITICAL", 1)
    busy.passes(60)
    assert busy.run(*words).data["table_full"].value == 0


def test_full_a_log_whose_cursor_is_gone_is_a_gap(busy):
    lines = [busy.line(ago, f"eth{ago}: up", host="elsewhere") for ago in (2000, 900, 5)]
    busy.logs(*lines)
    assert busy.run("--log", busy.log).state == "OK"
    busy.passes(60)
    busy.log.unlink()
    busy.logs(busy.line(10, "eth7: up", host="elsewhere"))
    run = busy.run("--log", busy.log)
    assert run.state == "UNKNOWN"
    assert "not covered" in run.text


@pytest.mark.parametrize("missing", ["file", "glob", "folder", "empty"])
def test_full_a_log_that_the_user_named_and_that_is_missing_is_unknown(host, missing, tmp_path):
    host.logs(host.line(3600, "eth0: up"), host.line(5, "eth1: up"))
    words = ["--log", host.log]
    other = tmp_path / "more" / "messages"
    other.parent.mkdir()
    if missing == "glob":
        words = ["--log", f"{other.parent}/*", "--log", host.log]
    elif missing == "empty":
        other.touch()
        words += ["--log", other]
    else:
        words += ["--log", other if missing == "file" else f"{tmp_path}/none/*"]
    run = host.run(*words)
    assert run.state == "UNKNOWN"
    host.logs(host.line(3600, "eth0: up"), host.line(5))
    assert host.run(*words, "--state-key", "x").state == "CRITICAL", "it never hides a full table"


def test_full_number_of_other_losses_agrees_with_its_noun(host):
    zone = "openvswitch: zone: 7 exceeds conntrack limit"
    run = host.run("--log", host.logs(host.line(20, zone)))
    assert '1 "zone limit" message in the last 15m' in run.text
    run = host.run("--log", host.logs(host.line(20, zone), host.line(10, zone)))
    assert '2 "zone limit" messages in the last 15m' in run.text


def test_full_a_log_without_a_name_is_a_usage_error(host):
    run = host.run("--log", "")
    assert run.state == "UNKNOWN"
    assert "no path (give a log file, a glob, auto or -)" in run.out


def test_full_a_reason_is_said_whole_beside_another(host, tmp_path):
    words = []
    for name in ("first", "second"):
        folder = tmp_path / ("a-long-folder-of-collected-logs-" + name) / "more"
        folder.mkdir(parents=True)
        (folder / "loop").symlink_to(folder / "loop")
        words += ["--log", f"{folder}/*/kern.log"]
    run = host.run(*words)
    assert run.state == "UNKNOWN"
    assert run.text.count("the folder cannot be listed") == 2
    assert "..." not in run.text.replace("...", "", 2), "cut in the paths alone"


def test_full_a_refused_sudo_is_unknown_whatever_else_was_read(host):
    host.refused = "sudo: a password is required"
    run = host.run("--sudo")
    assert run.state == "UNKNOWN"
    assert "--sudo: sudo: a password is required" in run.text
    host.refused = ""
    assert host.run().state == "OK"


def test_full_messages_of_unknown_time_are_a_gap(host):
    host.logs(f"[  100.123456] {MESSAGE}\n", host.line(3600, "eth0: up"), host.line(5, "x"))
    for word in ("unknown", "warning", "ok"):
        run = host.run("--log", host.log, "--if-incomplete", word)
        assert run.state == word.upper()
        assert run.data["table_full"].value == 0
        assert "1 message of unknown time not counted" in run.text
    assert (
        f"Not counted: 1 message of unknown time in {host.log}"
        in host.run("--log", host.log, "-v").rest
    )
    run = host.run("--log", host.log, "--since", "all")
    assert run.state == "CRITICAL"
    assert run.data["table_full"].value == 1


# --- the ring buffer and the journal


def test_full_a_ring_buffer_since_boot_covers_the_window(busy):
    busy.records = [(1.0, "Linux version"), (busy.up - 60, "eth0: up")]
    run = busy.run("--no-state", "-w", "full_drops=~:")
    assert run.text.startswith("not full in the last 15m (kernel log, counters)")
    assert run.state == "OK"


def test_full_a_ring_buffer_that_wrapped_inside_the_window_is_a_gap(busy):
    busy.records, busy.first_sequence = [(busy.up - 60, "eth0: up")], 77
    run = busy.run("--no-state")
    assert run.state == "UNKNOWN"
    assert f"not full since {busy.clock(60)} (kernel log, counters)" in run.text
    assert f"not covered {busy.clock(900)} to {busy.clock(60)}" in run.text


def test_full_a_ring_buffer_that_wraps_between_runs_is_no_gap(busy):
    off = ("-w", "full_drops=~:")
    busy.own.counters = None
    busy.records = [(1.0, "Linux version"), (busy.up - 2, MESSAGE)]
    assert busy.run(*off).data["table_full"].value == 1
    for minute in range(1, 15):
        busy.passes(60)
        busy.records, busy.first_sequence = [(busy.up - 61, "eth0: up")], 77 * minute
        busy.at += 5000 if minute == 7 else 0
        run = busy.run(*off)
        assert run.state == "CRITICAL", "what was overwritten still counts"
        assert (run.data["table_full"].value, "not covered" in run.text) == (1, False)
    busy.passes(120)
    busy.records = [(busy.up - 130, "eth0: up")]
    run = busy.run(*off)
    assert run.text.startswith("not full in the last 15m (kernel log)")
    busy.passes(120)
    busy.records = [(busy.up - 60, "eth0: up")]
    assert "not covered" in busy.run(*off).text, "nobody has read a minute of it"


def test_full_a_ring_buffer_of_an_earlier_boot_covers_nothing(busy):
    busy.own.counters = None
    busy.records = [(1.0, "Linux version"), (busy.up - 2, MESSAGE)]
    assert busy.run().data["table_full"].value == 1
    busy.reboots()
    busy.passes(60)
    busy.records, busy.first_sequence = [(30.0, "eth0: up")], 99
    assert "not covered" in busy.run().text


def test_full_counters_fill_the_gap_of_a_ring_buffer(host):
    host.records, host.first_sequence = [(host.up - 60, "eth0: up")], 77
    assert host.run().text == "not full in the last 15m (kernel log, counters)"


def test_full_a_journal_that_begins_inside_the_window_is_a_gap(busy):
    busy.journal = journal.Journal((), 5, busy.at - 300)
    run = busy.run("--no-state")
    assert run.state == "UNKNOWN"
    assert "not covered" in run.text


# --- thresholds that cannot be evaluated, state that cannot be kept


def test_full_a_given_threshold_without_a_figure_is_unknown(host):
    assert host.run().state == "OK"
    run = host.run("-c", "table_full=0")
    assert run.state == "UNKNOWN"
    assert "table_full cannot be evaluated" in run.text
    assert host.run("-c", "table_full=~:").state == "OK", "it was never to fire"
    host.own.counters = None
    host.records = [(1.0, "Linux version")]
    run = host.run("-w", "early_drops=5", "--state-key", "new")
    assert run.state == "UNKNOWN"
    assert "early_drops cannot be evaluated" in run.text


def test_full_a_given_threshold_that_is_not_known_yet_waits(busy):
    assert busy.run("-w", "full_drops=5").state == "OK"


def test_full_state_that_cannot_be_written_is_a_warning_in_every_run(host):
    host.state.write_text("a file, not a folder")
    for _ in range(2):
        run = host.run()
        assert run.state == "WARNING"
        assert "no history: state directory" in run.text
        needs = "full_drops, early_drops, insert_failures, chain_overflows cannot be evaluated"
        assert f"WARNING: {needs}, no history" in run.rest
        host.passes(60)
    off = [f"{name}=~:" for name in ("full_drops", "early_drops", "chain_overflows")]
    words = [word for each in (*off, "insert_failures=~:") for word in ("-w", each)]
    run = host.run(*words)
    assert run.state == "OK"
    assert "No history is kept: state directory" in run.rest


def test_full_missing_history_is_said_before_the_namespaces_and_not_among_them(host):
    host.state.write_text("a file, not a folder")
    text = "nf_conntrack: nf_conntrack: table full in netns 77, dropping packet"
    host.records = [(1.0, "Linux version"), (host.up - 12, text)]
    run = host.run("-c", "table_full=~:")
    assert run.state == "WARNING"
    assert run.lines[0].startswith("WARNING: full_drops, ")
    heading = next(at for at, line in enumerate(run.lines) if line.startswith("  namespace "))
    assert run.lines[heading + 1].startswith("  net:[77] ")


def test_full_a_disk_that_is_full_is_a_warning_in_every_run(host, monkeypatch):
    host.run()
    monkeypatch.setattr(state_store.Store, "_write", _no_space)
    for _ in range(2):
        host.passes(60)
        run = host.run()
        assert run.state == "WARNING"
        assert "no history: no space left on the disk" in run.text


def _no_space(store, *_):
    store.trouble = "no space left on the disk"


def test_full_the_first_run_that_cannot_keep_its_state_is_not_excused(busy):
    busy.state.write_text("a file, not a folder")
    assert busy.run().state == "UNKNOWN"


def test_full_no_state_is_the_user_s_choice(host):
    run = host.run("--no-state")
    assert run.state == "OK"
    assert "history" not in run.out
    assert "No history is kept: --no-state" in host.run("--no-state", "-v").rest
    run = host.run("--no-state", "-w", "early_drops=5")
    assert run.state == "WARNING"
    assert "no history: --no-state" in run.text


# --- the table at its limit


def test_full_at_the_limit_without_drops_is_critical_and_says_so(host):
    host.own.entries = 10000
    run = host.run()
    assert run.state == "CRITICAL"
    assert run.text == "at the limit: 10000 of 10000 entries, no drops seen"


def test_full_at_the_limit_and_evicting_says_that_and_how_many(host):
    host.run()
    host.passes(60)
    host.own = Namespace(host.own.inode, 10000, early_drop=2013)
    run = host.run()
    assert run.state == "CRITICAL"
    assert run.text.startswith(
        "at the limit, evicting: 10000 of 10000 entries, 2013 evicted early in the last 15m"
    )
    assert "dropped" not in run.text


def test_full_at_the_limit_and_dropping_says_that_and_how_many(host):
    host.run()
    host.passes(60)
    host.own = Namespace(host.own.inode, 10000, early_drop=5, drop=1871)
    run = host.run()
    assert run.state == "CRITICAL"
    assert run.text.startswith(
        "full: 10000 of 10000 entries, new connections are dropped (1871 in the last 15m)"
    )


def test_full_evictions_alone_are_a_warning(host):
    host.run()
    host.passes(60)
    host.own.counters = {"early_drop": 7}
    run = host.run()
    assert run.state == "WARNING"
    assert run.text == "7 entries evicted early in the last 15m"


# --- failed inserts


def test_full_inserts_that_fail_together_with_drops_are_an_alarm(host):
    host.run()
    host.passes(60)
    host.own.counters = {"drop": 200, "insert_failed": 200}
    run = host.run()
    assert run.state == "WARNING"
    assert run.text == (
        "200 inserts failed together with drops in the last 15m: "
        "source-NAT ports are exhausted, or packets clashed"
    )
    assert run.values("full_drops", "insert_failures") == [0, 200]


@pytest.mark.parametrize(
    "noise",
    [
        {"clash_resolve": 50000},
        {"clash_resolve": 50000, "drop": 9, "insert_failed": 9},
        {"insert_failed": 500},  # of entries that were flushed meanwhile
    ],
)
def test_full_clashes_that_cost_no_packet_are_no_alarm(host, noise):
    host.run()
    host.passes(60)
    host.own.counters = noise
    assert host.run().state == "OK"


def test_full_long_chains_are_told_from_failed_inserts(host):
    host.run()
    host.passes(60)
    host.own.counters = {"insert_failed": 50, "chaintoolong": 50}
    run = host.run()
    assert run.text == "50 inserts refused in the last 15m: hash chains too long"
    assert run.values("insert_failures", "chain_overflows") == [0, 50]


# --- limits that were changed


def overflows(host):
    """Let the table be full for a moment, and then half empty."""
    host.run()
    host.passes(60)
    host.own.counters = {"drop": 50, "early_drop": 900}
    host.records = [(1.0, "Linux version"), (host.up - 5, MESSAGE)]


def test_full_a_limit_that_was_raised_since_the_message_is_not_raised_again(host):
    host.own.limit = 2400
    overflows(host)
    run = host.run()
    assert run.state == "CRITICAL"
    assert "  sysctl -w net.netfilter.nf_conntrack_max=4096" in run.lines
    host.passes(120)
    host.own.limit = 8192
    run = host.run()
    assert run.state == "CRITICAL", "the message is in the window"
    between = f"raised from 2400 to 8192 between {host.clock(120)} and {host.clock()}"
    assert run.text.endswith(f"limit {between}, since the last message")
    assert any(line.startswith("The table was last full before that") for line in run.lines)
    assert "nf_conntrack_max=" not in run.rest
    # Full again: that is another matter.
    host.passes(120)
    host.records.append((host.up - 5, MESSAGE))
    assert "  sysctl -w net.netfilter.nf_conntrack_max=16384" in host.run().lines


def test_full_a_limit_that_was_lowered_is_said(host):
    host.own.limit = 262144
    host.run()
    host.passes(300)
    host.own.limit, host.own.entries, host.own.counters = 4000, 4000, {"drop": 9}
    run = host.run()
    assert "limit lowered from 262144 to 4000" in run.text
    between = f"between {host.clock(300)} and {host.clock()}"
    assert f"Limit lowered from 262144 to 4000 {between}" in run.lines
    assert "since the last message" not in run.text


def test_full_a_lowered_limit_is_said_before_the_messages(host):
    host.own.limit = 262144
    host.run()
    host.passes(60)
    host.own.limit, host.own.entries, host.own.counters = 4000, 5000, {"drop": 9}
    host.records = [(1.0, "Linux version"), *[(host.up - 5, MESSAGE)] * 10]
    run = host.run()
    assert run.text.startswith(
        "full: 5000 of 4000 entries, new connections are dropped; "
        'limit lowered from 262144 to 4000; 10 "table full" messages'
    )


def test_full_a_boot_in_the_window_is_in_the_long_output(host):
    host.run()
    host.reboots()
    run = host.run("-v")
    assert any(line.startswith("Host booted at ") for line in run.lines)


def test_full_a_message_under_a_lowered_limit_is_no_peak_of_the_higher_one(host):
    host.own.limit = 262144
    host.run()
    host.passes(300)
    host.own.limit = 4000
    host.records = [(1.0, "Linux version"), (host.up - 60, MESSAGE)]
    host.own.counters = {"drop": 9, "early_drop": 9}
    run = host.run()
    assert "limit lowered from 262144 to 4000" in run.text
    assert "262144 entries" not in run.rest
    assert "nf_conntrack_max=524288" not in run.rest


def test_full_the_peak_of_the_advice_was_counted(host):
    host.own.entries = 9000
    host.run()
    host.passes(60)
    host.own.entries = 300
    host.own.counters = {"drop": 50, "early_drop": 900}
    run = host.run()
    assert "the limit of 10000 was reached" in run.rest, "the kernel evicts at the limit alone"
    host.own.limit = 20000
    host.passes(60)
    host.run()
    host.passes(3600)
    host.own.counters = {"drop": 50, "early_drop": 901}
    assert "the limit of 20000 was reached" in host.run().rest


# --- messages and namespaces


def test_full_counters_tell_the_namespace_of_a_message_that_names_none(host):
    host.others.update(red=Namespace(77), blue=Namespace(78))
    host.run("--netns", "all")
    host.passes(60)
    host.others["red"].counters = {"drop": 1871}
    host.records = [(1.0, "Linux version"), (host.up - 12, MESSAGE)]
    run = host.run("--netns", "all")
    assert run.state == "CRITICAL"
    assert run.text.startswith(
        '1871 packets dropped in the last 15m, 1 "table full" message, latest 12s ago '
        "in namespace red by the counters"
    )


def test_full_a_message_without_drops_here_points_to_other_namespaces(host):
    host.records = [(1.0, "Linux version"), (host.up - 12, MESSAGE)]
    assert "no drops in this namespace: see --netns all" in host.run().text


def test_full_a_message_that_only_an_earlier_run_could_read_says_so(host):
    host.records = [(1.0, "Linux version"), (host.up - 12, MESSAGE)]
    assert " (kernel log)" in host.run().text
    host.passes(60)
    host.records = None
    run = host.run("-v")
    assert run.state == "CRITICAL"
    assert "()" not in run.text
    assert " (read by an earlier run)" in run.text


def test_full_a_message_names_its_namespace(host):
    host.others["red"] = Namespace(77)
    text = "nf_conntrack: nf_conntrack: table full in netns 77, dropping packet"
    host.records = [(1.0, "Linux version"), (host.up - 12, text)]
    run = host.run("--netns", "all")
    assert "latest 12s ago in namespace red (kernel log)" in run.text
    assert run.data["red::table_full"].value == 1


def test_full_a_message_from_before_this_namespace_is_of_one_that_is_gone(host):
    inode = host.own.inode
    host.others["red"] = Namespace(inode)
    host.others["red"].born = host.at - 5
    text = f"nf_conntrack: nf_conntrack: table full in netns {inode}, dropping packet"
    host.records = [(1.0, "Linux version"), (host.up - 12, text)]
    run = host.run()
    assert f"latest 12s ago in namespace net:[{inode}]" in run.text
    assert any(line.startswith(f"  net:[{inode}] (gone) ") for line in run.lines)
    assert "this namespace" not in run.status + run.rest


def test_full_a_log_that_is_not_there_is_said_once(host):
    run = host.run("--log", "/nope")
    assert run.state == "UNKNOWN"
    assert run.text == "/nope: not found (name a log that exists)"
    assert [line for line in run.lines if "/nope" in line] == [f"UNKNOWN: {run.text}"]


def test_full_an_unknown_says_its_reason_before_what_only_warns(host):
    host.run("--netns", "all")
    host.passes(60)
    host.others.update({"n" * 40: Namespace(77), "m" * 40: Namespace(78)})
    host.own.counters = {"insert_failed": 5000, "drop": 5000}
    host.records = [(1.0, "Linux version"), (host.up - 12, MESSAGE)]
    thresholds = ("-w", "table_full=0", "-w", "insert_failures=0", "-c", "table_full=~:")
    run = host.run("--log", "auto", "--log", "/var/log/collected/nope.log", *thresholds)
    assert run.state == "UNKNOWN"
    assert run.text.startswith("/var/log/collected/nope.log: not found")


@pytest.mark.parametrize("depth", [1, 4, 12])
def test_full_a_long_path_is_cut_before_the_reason_of_its_gap(host, depth):
    folder = host.folder.joinpath(*["collected-logs"] * depth)
    folder.mkdir(parents=True)
    host.log = folder / "kern.log"
    host.logs(*(host.line(ago, "x", host="gw") for ago in (86400, 10800)), written=10800)
    run = host.run("--log", host.log, "--no-state")
    assert run.state == "UNKNOWN"
    assert "/kern.log not covered " in run.text
    assert "last written 3h ago" in run.text
    assert all(line.count("kern.log") == 1 for line in run.lines if "not covered" in line)


def test_full_the_table_of_namespaces_shows_bare_names(host):
    host.others.update(red=Namespace(77))
    text = "nf_conntrack: nf_conntrack: table full in netns {}, dropping packet"
    host.records = [
        (1.0, "Linux version"),
        (host.up - 13, text.format(78)),
        (host.up - 12, text.format(77)),
    ]
    run = host.run("--netns", "all")
    heading = next(at for at, line in enumerate(run.lines) if line.startswith("  namespace "))
    names = sorted(line.split()[0] for line in run.lines[heading + 1 : heading + 3])
    assert names == ["net:[78]", "red"]


def test_full_a_message_of_another_boot_does_not_point_to_other_namespaces(host):
    host.logs(host.line(86400 * 20), host.line(5, "x"))
    run = host.run("--since", "all", "--log", host.log)
    assert "see --netns all" not in run.text
    host.logs(host.line(60, host="gw"), host.line(5, "x", host="gw"))
    run = host.run("--since", "all", "--log", host.log, "--state-key", "gw")
    assert "see --netns all" not in run.text
    assert "counters" not in run.text


def test_full_times_without_an_offset_are_of_the_zone_that_was_given(host):
    stamp = time.strftime("%b %d %H:%M:%S", time.gmtime(host.at - 60 + 5 * 3600))
    host.logs(host.line(7200, "x", host="gw"), f"{stamp} gw kernel: {MESSAGE}\n")
    run = host.run("--log", host.log, "--log-timezone", "+05:00")
    assert run.data["table_full"].value == 1
    assert "latest 1m ago" in run.text
    assert host.run("--log", host.log, "--log-timezone", "Mars/Base").state == "UNKNOWN"


def test_full_a_message_of_long_ago_has_a_date(host):
    host.logs(host.line(86400 * 2930, "nf_conntrack: table full, dropping packet"))
    run = host.run("--since", "all", "--log", host.log)
    date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(host.at - 86400 * 2930))
    assert f"latest {date}" in run.text


def test_full_names_each_namespace_that_alarms(host):
    host.others.update({name: Namespace(70 + at) for at, name in enumerate("abcdefghijkl")})
    host.run("--netns", "all")
    host.passes(60)
    for name in "bd":
        host.others[name].counters = {"drop": 7}
    run = host.run("--netns", "all")
    assert run.text.startswith("14 packets dropped in namespaces b, d in the last 15m")
    for each in host.others.values():
        each.counters = {"drop": 7}
    host.passes(60)
    run = host.run("--netns", "all", "-v")
    assert run.text.startswith("84 packets dropped in namespaces ")
    assert "not covered" not in run.text


@pytest.mark.parametrize(
    ("usage", "rise", "critical"),
    [
        (10, CounterRise(0, 1, 5, 0, 0, 0, 20.0), False),
        (10, CounterRise(0, 1, 5, 1, 0, 0, 20.0), True),
        (95, CounterRise(0, 1, 5, 0, 0, 0, 20.0), True),
        (10, CounterRise(0, 1, 5, 0, 0, 0, 95.0), True),
        (94, CounterRise(0, 1, 5, None, 0, 0, 94.9), False),
    ],
)
def test_full_drops_are_critical_beside_evictions_or_a_full_table(usage, rise, critical):
    own = kernel_namespaces.Namespace("", OWN, 1, Limits(usage, 100))
    report = namespace_reports.NamespaceReport(own, None, rise=rise)
    assert contexts.is_corroborated(report) is critical


@pytest.mark.parametrize(
    ("births", "time", "gone"),
    [
        ({7: 1000.0}, 990.0, True),
        ({7: 1000.0}, 1010.0, False),
        ({7: 1000.0}, 999.5, False),
        ({7: 1000.0}, None, True),
        ({}, 990.0, False),
    ],
)
def test_full_a_message_is_not_about_a_namespace_that_was_made_after_it(births, time, gone):
    event = events.Event(Kind.TABLE_FULL, 1, time, netns=7)
    assert log_report.is_gone(event, births) is gone


# --- further namespaces


def further(host, names, **counted):
    for at, name in enumerate(names):
        host.others.setdefault(name, Namespace(1000 + at)).counters = dict(counted)


def drops(host, *words):
    run = host.run("--netns", "all", *words)
    return {
        name: int(run.data[f"{name}::full_drops"].value)
        for name in host.others
        if f"{name}::full_drops" in run.data
    }


@pytest.fixture
def owned(monkeypatch):
    """Let namespace 77 be a pod's, and 78 a unit's; return how often anybody asked."""
    asked = []
    found = Ownership({77: Owner("pod", "shop/cart", container="app"), 78: Owner("unit", "x")})
    monkeypatch.setattr(owners, "read_owners", lambda run: (asked.append(run), (found, ""))[1])
    return asked


def test_full_calls_namespaces_by_their_owners(host, owned):
    host.others.update({"cni-1": Namespace(77), "red": Namespace(78)})
    host.run("--netns", "all")
    assert not owned, "a healthy run asks nobody"
    host.passes(60)
    for each in host.others.values():
        each.counters = {"drop": 7}
    run = host.run("--netns", "all")
    assert run.text.startswith("14 packets dropped in pod shop/cart and namespace red in the last ")
    assert "cni-1::full_drops" in run.data
    assert len(owned) == 1
    host.others["cni-1"].entries = host.others["cni-1"].limit
    run = host.run("--netns", "all")
    assert run.text.startswith("pod shop/cart full: 10000 of 10000 entries, new connections are ")


def test_full_calls_the_owner_of_a_namespace_that_a_message_names(host, owned):
    text = "nf_conntrack: nf_conntrack: table full in netns 77, dropping packet"
    host.records = [(1.0, "Linux version"), (host.up - 12, text)]
    run = host.run()
    assert "latest 12s ago in pod shop/cart (kernel log)" in run.text
    assert any(
        line.startswith("  net:[77] (pod shop/cart, container app) ") for line in run.lines
    ), run.lines
    quiet = host.run("-c", "table_full=~:")
    assert (quiet.state, len(owned)) == ("OK", 1)


def test_full_says_of_which_pod_nothing_is_known(host, owned):
    host.others["cni-1"] = Namespace(77, drop=5)
    host.run("--netns", "all")
    host.passes(60)
    run = host.run("--netns", "all")
    assert run.state == "UNKNOWN"
    assert "pod shop/cart not covered " in run.text
    assert any(line.startswith("UNKNOWN: pod shop/cart not covered ") for line in run.lines)


@pytest.mark.parametrize("count", [300, 900])
def test_full_drops_are_found_in_each_of_many_namespaces(host, count):
    names = [f"qrouter-{at:036}" for at in range(count)]
    further(host, names)
    host.run("--netns", "all", "-t", "60")
    host.passes(60)
    further(host, names, drop=10)
    run = host.run("--netns", "all", "-t", "60")
    assert run.text.startswith(f"{count * 10} packets dropped in namespace {names[0]} and ")
    host.passes(1000)
    further(host, names, drop=11)
    assert host.run("--netns", "all", "-t", "60").text.startswith(f"{count} packets dropped")
    assert len(list((host.state / str(os.geteuid())).iterdir())) == 2


def test_full_an_unreadable_namespace_keeps_its_counter_history(host):
    found = []
    for counted in (5, 15, None, 115):
        further(host, ["red"], drop=counted)
        if counted is None:
            host.others["red"].counters = None
        found.append(drops(host).get("red"))
        host.passes(1000)
    assert found == [None, 10, None, 100]


@pytest.mark.parametrize("counted", [0, 5])
def test_full_a_run_that_can_enter_no_namespace_keeps_their_history(host, counted):
    further(host, ["red"], drop=counted)
    drops(host)
    host.passes(60)
    kept, host.others, host.problems = host.others, {}, ("other namespaces: permission denied",)
    assert host.run("--netns", "all").state == "UNKNOWN"
    host.passes(60)
    host.others, host.problems = kept, ()
    further(host, ["red"], drop=counted + 100)
    assert drops(host) == {"red": 100}


def test_full_a_namespace_that_was_not_there_for_a_day_is_forgotten(host):
    for days, known in ((0.9, True), (1.1, False)):
        further(host, ["red"], drop=5)
        host.run("--netns", "red")
        del host.others["red"]
        host.passes(86400 * days)
        host.run("--netns", "red")
        further(host, ["red"], drop=15)
        host.passes(60)
        run = host.run("--netns", "red")
        assert ("red::full_drops" in run.data) is known
        host.passes(86400)


@pytest.mark.parametrize("anew", ["boot", "module", "inode"])
def test_full_what_is_made_anew_under_a_known_name_counts_from_zero(host, anew):
    further(host, ["red"], drop=500)
    drops(host)
    host.passes(1000)
    if anew == "boot":
        host.reboots()
    elif anew == "module":
        host.module = 8
    else:
        host.others["red"].inode += 100
    further(host, ["red"], drop=503)
    assert drops(host) == {"red": 503}


def test_full_more_namespaces_than_are_kept_are_said_and_known_ones_stay(host, monkeypatch):
    monkeypatch.setattr(state, "MOST_FURTHER", 3)
    further(host, "edc", drop=5)
    assert "too many" not in host.run("--netns", "all").out
    host.passes(60)
    further(host, "edcba", drop=5)
    run = host.run("--netns", "all")
    assert "no room to keep 2 of 5 further namespaces" in run.out
    host.passes(1000)
    further(host, "edcba", drop=6)
    assert {name: count for name, count in drops(host).items() if count == 1}.keys() >= set("edc")


def test_full_ten_thousand_namespaces_that_drop_in_every_run_fit_into_their_file(host, monkeypatch):
    monkeypatch.setattr(counter_history, "MOST_RISES_IN_ALL", 20)
    monkeypatch.setattr(state, "MOST_RISES_IN_ALL", 20)
    monkeypatch.setattr(state, "MOST_FURTHER", 10)
    names = [f"qrouter-{at:036}" for at in range(10)]
    many = {"found": 2**32 - 1, "invalid": 2**32 - 1, "insert": 2**32 - 1, "early_drop": 2**31}
    for drop in range(30):
        further(host, names, drop=2**31 + drop, insert_failed=2**31, **many)
        for at, each in enumerate(host.others.values()):
            each.inode, each.born = 4026532177 + at, host.at - 86400.5 - 60 * drop
        host.run("--netns", "all")
        host.passes(61)
    kept = max(path.stat().st_size for path in (host.state / str(os.geteuid())).glob("further*"))
    # A thousandth of what is allowed takes a thousandth of the room.
    assert kept < state_store.MANY / 1000


# --- state


def test_full_state_holds_more_logs_than_fit_by_leaving_out_some(store):
    cursor = LogCursor(3, 4, 5)
    lost = tuple(events.Event(Kind.TABLE_FULL, 1, 900.0 + at, source="kern") for at in range(9))
    logs = tuple(
        (f"/srv/collected/host-{at:04}/var/log/kern.log", gather.LogHistory(cursor, lost))
        for at in range(1500)
    )
    now = state.RunTime(1e9, 10.0, "b", 0)
    first = NamespaceState(1e9, 10.0, 1, 0.0, 0.0, 0.0)
    run = state.RunState(1e9, 10.0, "b", 0, 1e9, first=first)
    state.write_service(store, "key", state.ServiceState(run, logs))
    again = state.read_service(store, "key", now)
    assert store.trouble == ""
    assert again.run == run
    assert set(again.logs) < set(logs)
    assert len(again.logs) > 400
    left = 1500 - len(again.logs)
    assert store.notes == [
        f"too many log files to keep: each run reads {left} of 1500 from the start"
    ]


@given(JSON, JSON, JSON)
def test_full_whatever_stands_in_a_state_file_it_is_read_or_nothing(run, logs, rows):
    class Fake:
        def read(self, key, most=0):
            return {"run": run, "logs": logs, "rows": rows, "up": run, "boot": "b", "module": 1}

    now = state.RunTime(1e9, 10.0, "b", 0)
    assert isinstance(state.read_service(Fake(), "key", now), state.ServiceState)
    assert isinstance(state.read_namespaces(Fake(), "key", now), state.NamespaceStates)


@pytest.mark.parametrize("field", ["run", "logs"])
def test_full_a_damaged_part_of_the_state_leaves_the_others(host, field):
    host.logs(host.line(3600, "eth0: up"), host.line(100), host.line(50))
    host.run("--log", host.log)
    (kept,) = (host.state / str(os.geteuid())).glob("full*")
    good = json.loads(kept.read_text())
    for damage in (None, "x", [], {}, -1, 1e300, [[1]], {"/x": [1]}):
        kept.write_text(json.dumps({**good, field: damage}))
        run = host.run("--log", host.log)
        assert run.state == "CRITICAL"
        assert run.data["table_full"].value == 2


# --- advice


def test_full_drops_that_nothing_else_explains_ask_for_no_larger_limit(host):
    host.run()
    host.passes(60)
    host.own.counters = {"drop": 100, "insert_failed": 20, "chaintoolong": 15}
    run = host.run("-w", "chain_overflows=~:")
    assert run.state == "WARNING"
    assert run.text == ("95 packets dropped in the last 15m that failed inserts do not explain")
    assert "nf_conntrack_max=" not in run.rest
    assert "peak" not in run.rest
    assert "  conntrack -S" in run.lines


@pytest.mark.parametrize(
    ("entries", "counted", "run_state"),
    [
        (0, {"drop": 100, "early_drop": 1}, "CRITICAL"),
        (9500, {"drop": 100}, "CRITICAL"),
        (10000, {"drop": 100}, "CRITICAL"),
        (0, {"early_drop": 7}, "WARNING"),
    ],
)
def test_full_drops_of_a_table_that_was_full_ask_for_a_larger_limit(
    host, entries, counted, run_state
):
    host.own.entries = entries
    host.run()
    host.passes(60)
    host.own.counters = counted
    run = host.run()
    assert run.state == run_state
    known = "the peak of 10000 entries" if entries == 10000 else "the limit of 10000 was reached"
    assert f"Raise the limit to 16384: {known}" in run.rest
    assert "  sysctl -w net.netfilter.nf_conntrack_max=16384" in run.lines


def test_full_messages_of_a_limit_that_no_run_knew_ask_for_no_larger_one(host):
    host.logs(host.line(86400 * 5), host.line(5, "x"))
    run = host.run("--since", "7d", "--log", host.log)
    assert run.state == "CRITICAL"
    assert "nf_conntrack_max=" not in run.rest
    assert any("may have been raised since" in line for line in run.lines)


def test_full_advice_says_that_the_messages_are_of_another_host(host):
    host.logs(host.line(3600, "x", host="gw"), host.line(5, host="gw"))
    run = host.run("--log", host.log)
    assert "The messages are of gw: run check_conntrack_usage -v there." in run.lines
    assert "sysctl" not in run.rest


def test_full_messages_of_other_namespaces_are_no_peak_of_this_one(host):
    text = "nf_conntrack: nf_conntrack: table full in netns 77, dropping packet"
    host.records = [(1.0, "Linux version"), (host.up - 12, text)]
    run = host.run()
    assert run.state == "CRITICAL"
    assert "nf_conntrack_max=" not in run.rest
    assert "peak" not in run.rest
    line = "Nothing says that this table was full: the messages are of namespace net:[77]."
    assert line in run.lines
    assert "  check_conntrack_full -v --netns all" in run.lines
    host.others.update(red=Namespace(77, entries=10, limit=3000))
    run = host.run("--netns", "all")
    assert "Raise the limit to 4096: the limit of 3000 was reached" in run.rest


@pytest.mark.parametrize(("limit", "restores"), [(4000, True), (3000, False)])
def test_full_a_lowered_limit_is_restored_where_it_holds(host, limit, restores):
    host.own.limit = 262144
    host.others.update(red=Namespace(77, limit=limit))
    host.run("--netns", "all")
    host.passes(300)
    host.own.limit = 4000
    text = "nf_conntrack: nf_conntrack: table full in netns 77, dropping packet"
    host.records = [(1.0, "Linux version"), (host.up - 12, text)]
    run = host.run("--netns", "all")
    assert ("from 262144 to 4000: restore it" in run.rest) is restores
    assert ("the limit of 3000 was reached" in run.rest) is not restores


@pytest.mark.parametrize("arguments", [(), ("-c", "table_full=~:"), ("-v",)])
def test_full_since_last_without_state_says_its_window(host, arguments):
    host.records = [(1.0, "Linux version"), (host.up - 12, MESSAGE)]
    note = "--since last: no run before is known (--no-state), the window is 15m"
    assert note in host.run("--since", "last", "--no-state", *arguments).lines
    assert note not in host.run("--since", "last", *arguments).lines


def test_full_a_figure_that_is_too_small_asks_for_nothing(host):
    host.records = [(1.0, "Linux version")]
    run = host.run("-w", "table_full=1:")
    assert run.state == "WARNING"
    assert run.text.startswith("table_full 0 (threshold 1:)")
    assert "sysctl" not in run.rest
    assert {label.name for label in full_check.LABELS} >= advice.ABOUT_LIMIT


# --- what was read


def test_full_vvv_says_what_was_read_from_where(host):
    host.logs(host.line(3600, "eth0: up"), host.line(5, "eth1: up"))
    lines = host.run("-vvv", "--log", host.log).lines
    assert [line for line in lines if line.startswith("Read ")] == [
        f"Read {host.log}: {host.log.stat().st_size} bytes",
        "Read /proc/sys/net/netfilter/nf_conntrack_count and max directly in net:[4026531840]",
        "Read /proc/net/stat/nf_conntrack directly in net:[4026531840]",
    ]
    again = host.run("-vvv", "--log", host.log)
    assert f"Read {host.log}: 0 bytes since an earlier run" in again.lines
    assert "Read " not in host.run("-vv", "--log", host.log).out


def test_full_says_in_one_line_what_could_not_be_read_when_all_is_well(host):
    run = host.run()
    assert run.state == "OK"
    assert run.rest == (
        "Not read: /dev/kmsg: permission denied (grant CAP_SYSLOG, with --sudo or to the agent's "
        "service) (and 1 more with -v)"
    )
    host.records = [(1.0, "Linux version")]
    assert host.run().lines == [], "one source covers what another lacks"


def test_full_without_any_source_is_unknown(host):
    host.own.counters = None
    run = host.run()
    assert run.state == "UNKNOWN"
    assert "neither the kernel log nor the counters can be read" in run.text
    assert any(line.startswith("Not read: counters: ") for line in run.lines)


def test_full_a_table_that_is_not_there_was_not_full(host):
    host.own = None
    assert host.run().state == "OK"
    run = host.run("--if-inactive", "warning")
    assert run.state == "WARNING"
    assert run.text == "conntrack is not active on this host"
    host.logs(host.line(3600, "eth0: up"), host.line(5))
    run = host.run("--log", host.log)
    assert run.state == "CRITICAL"
    assert run.data["table_full"].value == 1


# --- the command line


@pytest.mark.parametrize(
    ("text", "since"), [("15m", 900.0), ("boot", "boot"), ("last", "last"), ("all", "all")]
)
def test_full_a_window_is_a_duration_or_a_word(text, since):
    assert full_check.parser().parse_args(["--since", text]).since == since


# --- the claim lies within the evidence

SPANS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 300)), max_size=4).map(
    lambda pairs: union(Span(float(at), float(min(1000, at + length))) for at, length in pairs)
)


@given(
    st.lists(st.tuples(SPANS, st.booleans(), st.booleans()), max_size=3),
    st.lists(st.tuples(SPANS, st.integers(0, 900)), max_size=3),
    st.integers(0, 990),
    st.integers(0, 900),
)
def test_full_claims_no_time_that_the_evidence_does_not_cover(logs, namespaces, start, boot):
    log = tuple(
        Coverage(f"log{at}", spans, hosts=(os.uname().nodename,) if own else (), named=named)
        for at, (spans, own, named) in enumerate(logs)
    )
    reports = tuple(
        namespace_reports.NamespaceReport(
            kernel_namespaces.Namespace(f"n{at}" if at else "", OWN, at + 1),
            None,
            coverage=spans,
            since=float(since),
        )
        for at, (spans, since) in enumerate(namespaces)
    )
    found = evidence.Evidence(
        now=state.RunTime(1000.0, 1000.0 - boot, "b", 0),
        window=events.Window(float(start), 1000.0),
        log=log_report.LogReport(coverage=log),
        reports=reports,
        has_first=bool(reports),
    )
    claim = coverage.claim_of(found)
    foreign = [each for each in log if each.named and not each.hosts]
    shared = [span for each in log if each not in foreign for span in each.spans]
    needed = [(each.spans, start) for each in foreign]
    if len(foreign) < len(log) or len(reports) > 1 or not foreign:
        needed += [
            ((*shared, *report.coverage), max(start, report.since or boot, boot))
            for report in reports
        ]
        if not reports:
            needed.append((tuple(shared), start))
    since = start if not claim.gaps else claim.since
    if since is None:
        return
    for spans, exists in needed:
        assert gaps(spans, Span(max(float(since), exists), 1000.0)) == ()
