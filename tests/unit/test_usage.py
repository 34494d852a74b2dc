"""check_conntrack_usage through its command line, the kernel's files and the reader made up."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack import reports, session
from check_conntrack.kernel import (
    host,
    limits,
    owner_request,
    privileges,
    reader,
    reader_client,
    reader_command,
    source,
)
from check_conntrack.state import state_store
from check_conntrack.state.codec import encode
from check_conntrack.state.last_finding import LastFinding

OWN = os.stat("/proc/self/ns/net").st_ino


# --- the figures


def test_a_table_with_room_is_ok_in_one_line(check):
    run = check()
    assert run.out == (
        "CONNTRACK_USAGE OK - 1000 of 10000 entries in use (10.0%) | "
        "usage=10.0%;80;90;0;100 entries=1000;;;0;10000 limit=10000;;;0 load_factor=0.49;;;0\n"
    )


@pytest.mark.parametrize(
    ("entries", "state", "share"),
    [
        (0, "OK", "0.0"),
        (300, "OK", "3.0"),
        (8000, "OK", "80.0"),
        (8001, "WARNING", "80.01"),
        (8500, "WARNING", "85.0"),
        (9000, "WARNING", "90.0"),
        (9001, "CRITICAL", "90.01"),
        (9999, "CRITICAL", "99.99"),
        (10000, "CRITICAL", "100.0"),
        (12000, "CRITICAL", "120.0"),
    ],
)
def test_the_default_thresholds_are_80_and_90_percent(check, sysctls, entries, state, share):
    sysctls.holds(entries, 10000, 2048)
    run = check()
    assert run.state == state
    assert run.data["usage"].text == share
    assert run.data["entries"][1:7] == (str(entries), "", "", "", 0, 10000)
    assert str(entries) in run.text


def test_a_full_table_is_called_full(check, sysctls):
    sysctls.holds(262144, 262144)
    assert check().text == "full: 262144 of 262144 entries"
    sysctls.holds(300000, 262144)
    assert check().text.startswith("full: 300000 of 262144 entries (114.4%)")


def test_nearly_full_is_neither_called_full_nor_100_percent(check, sysctls):
    sysctls.holds(4294967294, 4294967295)
    run = check()
    assert "full" not in run.text
    assert "(99.99999998%)" in run.text


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_any_figures_of_the_kernel_give_an_answer(check, sysctls, entries, limit, buckets):
    sysctls.holds(entries, limit, buckets)
    run = check("-v", "--no-state")
    assert ("usage" in run.data) == (limit > 0)
    assert run.data["entries"].text == str(entries)
    assert run.data["limit"].text == str(limit)
    assert ("load_factor" in run.data) == (buckets > 0)
    assert (run.data["time_to_full"].text == "0") if 0 < limit <= entries else True
    if limit:
        share = 100 * entries / limit
        state = "CRITICAL" if share > 90 else "WARNING" if share > 80 else "OK"
        assert run.state == state
    else:
        assert run.state == "OK"


def test_a_limit_of_0_is_no_limit(check, sysctls):
    sysctls.holds(5000, 0, 2048)
    run = check()
    assert (run.state, run.text) == ("OK", "5000 entries in use, no limit")
    assert list(run.data) == ["entries", "limit", "load_factor"]
    assert run.data["entries"].max is None
    sysctls.holds(1, 0, 2048)
    assert check().text == "1 entry in use, no limit"
    sysctls.holds(5000, 0, 2048)
    assert check("-w", "entries=80%").state == "OK", "a share of no limit"
    assert check("-w", "entries=4000").state == "WARNING"
    assert check("-c", "limit=1:").text.endswith("limit 0 too low")
    assert check("-v").code == 0


def test_a_kernel_of_old_is_read_too(check, sysctls):
    sysctls.holds(900, 1000, base=limits.OLD)
    run = check()
    assert run.state == "WARNING"
    assert "load_factor" not in run.data


@pytest.mark.parametrize("state", ["ok", "warning", "critical", "unknown"])
def test_without_conntrack_the_state_is_the_users_choice(check, sysctls, state):
    sysctls.clear()
    run = check("--if-inactive", state)
    assert run.state == state.upper()
    assert run.text == "conntrack is not active on this host"
    assert run.data == {}


def test_without_conntrack_it_is_ok_by_default(check, sysctls):
    sysctls.clear()
    assert check().code == 0


# --- thresholds


def test_each_label_can_be_judged_by_its_own_range(check):
    run = check("-w", "usage=5", "-w", "limit=20000:", "-c", "load_factor=0.2", "-w", "entries=50%")
    assert run.state == "CRITICAL"
    assert "load_factor 0.49 too high" in run.text
    assert "limit 10000 too low" in run.text
    assert run.data["entries"].warn == "5000"


def test_a_range_that_alerts_inside_is_told_as_such(check):
    assert check("-w", "limit=@5000:20000").text.endswith("limit 10000 (threshold @5000:20000)")


def test_a_range_that_never_fires_replaces_the_default(check, sysctls):
    sysctls.holds(10000, 10000)
    assert check("-w", "usage=~:", "-c", "usage=~:").code == 0


def test_a_tighter_critical_needs_no_warning_of_its_own(check, sysctls):
    sysctls.holds(7500, 10000)
    run = check("-c", "70")
    assert run.state == "CRITICAL"
    assert run.data["usage"].warn == ""


def test_a_share_is_of_the_limit(check, sysctls):
    sysctls.holds(9200, 10000)
    run = check("-c", "usage=~:", "-w", "usage=~:", "-c", "entries=91%")
    assert run.state == "CRITICAL"
    assert run.data["entries"].crit == "9100"
    assert "entries" in run.rest


def test_exit_ok_evaluates_and_prints_as_ever(check, sysctls):
    sysctls.holds(10000, 10000)
    with_it, without = check("--exit-ok", "--no-state"), check("--no-state")
    assert (with_it.code, without.code) == (0, 2)
    assert with_it.out == without.out


# --- long output


def test_a_problem_comes_with_advice_that_can_be_pasted(check, sysctls):
    sysctls.holds(9500, 10000, 10240)
    run = check()
    assert run.lines[0] == "CRITICAL: usage 95.0% (threshold 90)"
    assert "  sysctl -w net.netfilter.nf_conntrack_max=16384" in run.lines
    assert "nf_conntrack_buckets=" not in run.rest, "they equal the limit already"
    assert "Hash: 10240 buckets, 0.93 entries each" in run.lines


@pytest.mark.parametrize("low", ["usage=50:", "entries=50%:", "growth=2:", "load_factor=9:", "@20"])
def test_too_little_is_not_answered_with_what_helps_against_too_much(check, clock, sysctls, low):
    for _ in range(3):
        clock.now += 300
        run = check("-w", low)
    assert run.state == "WARNING"
    assert "limit" not in run.rest
    assert "sysctl" not in run.rest


def test_too_little_time_left_is_too_much_growth(check, clock, sysctls):
    for entries in (1000, 2000, 3000):
        clock.now += 300
        sysctls.holds(entries, 10000)
        run = check("-w", "time_to_full=30d:")
    assert run.state == "WARNING"
    assert "The limit of 10000 has room for the peak of 3000 entries plus 30%" in run.rest
    assert "Look for what grows:\n  check_conntrack_table -v" in run.rest


def test_verbosity_adds_lines_to_an_ok(check, clock, tmp_path):
    assert check().lines == []
    clock.now += 60
    lines = check("-v").lines
    assert f"History is kept in {tmp_path}/state/{os.geteuid()}" in lines
    assert any(line.startswith("Trend: ") for line in lines)
    assert len(check("-vvv").lines) > len(lines)


def test_a_note_of_the_state_is_for_verbosity_alone(check, tmp_path):
    check()
    [file] = (tmp_path / "state" / str(os.geteuid())).iterdir()
    file.write_text("rubbish")
    run = check("-v")
    assert run.code == 0
    assert any(": damaged" in line for line in run.lines)


# --- history


def minutes(check, clock, sysctls, counts, *arguments, step=60):
    """Run once a step with each count; the last run."""
    for count in counts:
        sysctls[limits.NEW + "count"] = b"%d\n" % count
        run = check(*arguments)
        clock.now += step
        clock.today += step
    return run


def test_growth_is_known_after_three_runs_and_five_minutes(check, clock, sysctls):
    run = minutes(check, clock, sysctls, range(1000, 1500, 100))
    assert "growth" not in run.data
    run = minutes(check, clock, sysctls, [1500])
    assert run.data["growth"].value == pytest.approx(100 / 60, abs=0.005)
    assert "time_to_full" not in run.data, "85 minutes away, after 5 minutes of growth"


def test_time_to_full_is_known_once_the_growth_has_lasted_for_a_tenth_of_it(check, clock, sysctls):
    run = minutes(check, clock, sysctls, range(1000, 1900, 100))
    assert "time_to_full" not in run.data
    run = minutes(check, clock, sysctls, range(1900, 2500, 100))
    assert run.data["growth"].value == pytest.approx(100 / 60, abs=0.005)
    assert run.data["time_to_full"].value == pytest.approx(7600 / 100 * 60, abs=1)
    assert run.text.endswith("(24.0%), full in about 1h 16m")
    assert list(run.data)[-2:] == ["growth", "time_to_full"]


def test_a_flood_has_a_time_to_full_from_the_second_run_on(check, clock, sysctls):
    run = minutes(check, clock, sysctls, [1000, 4000], "-c", "time_to_full=10m:")
    assert (run.state, run.data["time_to_full"].value) == ("CRITICAL", 120)
    assert run.data["growth"].value == 50


def test_a_step_alarms_once(check, clock, sysctls):
    arguments = ["-c", "time_to_full=10m:"]
    minutes(check, clock, sysctls, [1000] * 20, *arguments)
    states = [minutes(check, clock, sysctls, [4000], *arguments).state for _ in range(60)]
    assert states == ["CRITICAL", *["OK"] * 59]


def test_a_step_between_two_runs_by_hand_is_no_rate(check, clock, sysctls):
    arguments = ["-c", "time_to_full=10m:"]
    minutes(check, clock, sysctls, [1000] * 3, *arguments)
    sysctls.holds(9990, 10000, 16384)
    clock.now -= 59  # minutes() has moved it on
    run = check(*arguments, "-w", "usage=~:", "-c", "usage=~:")
    assert (run.state, "time_to_full" in run.data) == ("OK", False)
    assert run.text == "9990 of 10000 entries in use (99.9%)"


def test_two_runs_however_far_apart_are_no_trend(check, clock, sysctls):
    assert "growth" not in minutes(check, clock, sysctls, [10, 20], step=900).data
    assert "growth" in minutes(check, clock, sysctls, [30]).data


def test_a_shrinking_table_has_a_growth_and_no_time(check, clock, sysctls):
    run = minutes(check, clock, sysctls, range(2000, 1000, -100))
    assert run.data["growth"].value < 0
    assert "time_to_full" not in run.data


def test_what_is_farther_away_than_a_day_stands_in_the_perfdata_alone(check, clock, sysctls):
    run = minutes(
        check, clock, sysctls, range(7000, 8000, 100), "--trend-window", "30d", step=20000
    )
    assert "full in" not in run.text
    assert run.data["time_to_full"].value == pytest.approx(2100 / 100 * 20000, abs=1)


def test_a_time_to_full_is_judged_in_any_unit(check, clock, sysctls):
    arguments = ["-w", "time_to_full=4h:", "-c", "time_to_full=30m:"]
    assert minutes(check, clock, sysctls, range(1000, 3000, 50), *arguments).state == "WARNING"
    assert minutes(check, clock, sysctls, range(3000, 9000, 1000), *arguments).state == "CRITICAL"
    run = minutes(check, clock, sysctls, range(8900, 7000, -100), *arguments, "-w", "usage=~:")
    assert run.state == "OK", "a label that is absent does not fire"


def test_an_alarm_of_time_is_spelled_as_a_time(check, clock, sysctls):
    run = minutes(check, clock, sysctls, range(1000, 2700, 100), "-c", "time_to_full=4h:")
    assert run.state == "CRITICAL"
    assert run.text.endswith(", full in about 1h 14m")
    assert run.lines[0] == "CRITICAL: time_to_full 1h 14m (threshold 4h:)"


def test_the_trend_window_is_how_far_back_growth_looks(check, clock, sysctls):
    minutes(check, clock, sysctls, range(1000, 3000, 100), "--trend-window", "5m")
    run = minutes(check, clock, sysctls, [2900] * 6, "--trend-window", "5m")
    assert run.data["growth"].value == 0


def test_a_problem_says_since_when_as_far_as_it_is_known(check, clock, sysctls):
    run = minutes(check, clock, sysctls, [1000, 8500, 8600, 8700])
    assert run.lines[0] == "WARNING: usage 87.0% (threshold 80), for at least 2m"


def test_the_peak_of_thirty_days_is_what_the_advice_goes_by(check, clock, sysctls):
    minutes(check, clock, sysctls, [15000, 1000])
    clock.now += 20 * 86400
    clock.today += 20 * 86400
    run = minutes(check, clock, sysctls, [8500, 8500])
    assert "peak of 30 days 15000 entries" in run.rest
    assert "nf_conntrack_max=32768" in run.rest
    clock.now += 11 * 86400
    clock.today += 11 * 86400
    assert "the peak of 8500 entries" in minutes(check, clock, sysctls, [8500]).rest


def test_a_restart_forgets_the_trend_and_keeps_the_peak(check, clock, sysctls, monkeypatch):
    minutes(check, clock, sysctls, range(1000, 2000, 100))
    monkeypatch.setattr(reports, "boot_id", lambda: "another")
    clock.now = 10.0
    run = minutes(check, clock, sysctls, [500, 500], "-v")
    assert "growth" not in run.data
    assert "peak of 30 days 1900 entries" in run.rest


def test_a_restart_is_in_the_long_output_with_the_count_before(check, clock, sysctls, monkeypatch):
    minutes(check, clock, sysctls, [1000, 1900])
    monkeypatch.setattr(reports, "boot_id", lambda: "another")
    clock.now = 30.0
    booted = time.strftime("%H:%M", time.localtime(clock.today - 30))
    run = minutes(check, clock, sysctls, [500], "-v")
    assert f"Host booted at {booted}, with 1900 entries before" in run.lines
    clock.now += 90000
    clock.today += 90000
    assert "booted" not in check("-v").rest
    assert "booted" in check("-v", "--trend-window", "2d").rest


def test_a_table_that_fills_again_after_a_restart_is_no_alarm(check, clock, sysctls, monkeypatch):
    arguments = ["-c", "time_to_full=10m:"]
    minutes(check, clock, sysctls, [7000] * 3, *arguments)
    monkeypatch.setattr(reports, "boot_id", lambda: "another")
    clock.now = 60.0
    for entries in (1000, 3000, 5000, 7000):
        assert minutes(check, clock, sysctls, [entries], *arguments).state == "OK"
    assert minutes(check, clock, sysctls, [8000], *arguments).state == "CRITICAL"


def test_usage_is_too_high_since_the_limit_of_this_boot(check, clock, sysctls, monkeypatch):
    minutes(check, clock, sysctls, [7000] * 3)
    sysctls[limits.NEW + "max"] = b"9000\n"
    minutes(check, clock, sysctls, [7000])
    monkeypatch.setattr(reports, "boot_id", lambda: "another")
    clock.now = 60.0
    run = minutes(check, clock, sysctls, [8000] * 3)
    assert run.lines[0] == "WARNING: usage 88.9% (threshold 80), for at least 2m"


EARLY = (
    "critical range '30s:' of time_to_full: runs are 1m apart, the table can be full before one "
    "alerts (use 2m:)"
)
FAR = (
    "warning range '1d:' of time_to_full: a forecast reaches 10h ahead, 10 times the trend window "
    "(use --trend-window 3h)"
)


@pytest.mark.parametrize(
    ("arguments", "step", "note"),
    [
        (
            ("--trend-window", "5m", "-w", "growth=9"),
            300,
            "--trend-window 5m: too short, runs are 5m apart and growth takes 3 of them (use 11m)",
        ),
        (
            ("--trend-window", "5m", "-w", "growth=9"),
            3600,
            "--trend-window 5m: too short, runs are 1h apart and growth takes 3 of them (use 3h)",
        ),
        (
            ("-c", "time_to_full=30s:"),
            60,
            EARLY,
        ),
        (
            ("-w", "time_to_full=1d:"),
            60,
            FAR,
        ),
    ],
)
def test_a_threshold_that_can_never_work_is_told_in_any_state(
    check, clock, sysctls, arguments, step, note
):
    (first,) = check(*arguments, "--state-key", "x").lines
    assert first.startswith("Not known yet: "), "the interval is not known yet either"
    run = minutes(check, clock, sysctls, [1000] * 4, *arguments, step=step)
    assert (run.state, run.lines) == ("OK", [note])


def test_thresholds_that_work_are_not_talked_about(check, clock, sysctls):
    arguments = ["-w", "time_to_full=2h:", "-c", "time_to_full=10m:", "-w", "growth=500"]
    for step, number in ((10, 32), (60, 6), (300, 4)):
        run = minutes(check, clock, sysctls, [1000] * number, *arguments, step=step)
        assert (run.state, run.lines) == ("OK", [])


@pytest.mark.parametrize("back", [1000.0, 5000.0])
def test_a_clock_that_goes_backwards_costs_the_trend_alone(check, clock, sysctls, back):
    minutes(check, clock, sysctls, range(1000, 2000, 100))
    clock.now = max(clock.now - back, 0.0)
    clock.today -= 40 * 86400
    run = minutes(check, clock, sysctls, [1000])
    assert (run.code, run.state) == (0, "OK")
    assert "growth" not in run.data


def test_a_history_is_decoded_once_a_run(check, clock, sysctls, monkeypatch):
    minutes(check, clock, sysctls, [1000, 1100])
    decode, decoded = reports.decode, []
    monkeypatch.setattr(
        reports, "decode", lambda kind, plain: decoded.append(kind) or decode(kind, plain)
    )
    clock.now += 300
    clock.today += 300
    assert "growth" in check("-v").data
    assert len(decoded) == 1


def test_services_with_different_keys_do_not_share_a_history(check, clock, sysctls, tmp_path):
    minutes(check, clock, sysctls, range(1000, 2000, 100), "--state-key", "slow")
    assert "growth" not in check("--state-key", "fast").data
    assert "growth" not in check().data
    assert "growth" in check("--state-key", "slow").data
    assert len(list((tmp_path / "state" / str(os.geteuid())).iterdir())) == 3


def test_the_state_directory_of_the_command_line_wins(check, tmp_path):
    check("--state-dir", str(tmp_path / "mine"))
    assert (tmp_path / "mine").is_dir()
    assert not (tmp_path / "state").exists()


def test_without_state_nothing_is_left_behind_and_nothing_is_said(check, tmp_path):
    run = check("--no-state")
    assert (run.code, run.lines) == (0, [])
    assert not (tmp_path / "state").exists()
    assert "No history is kept: --no-state" in check("--no-state", "-v").lines


@pytest.mark.parametrize("spec", ["growth=5", "time_to_full=4h:", "growth=-1:1"])
@pytest.mark.parametrize("option", ["-w", "-c"])
def test_a_threshold_that_needs_a_history_that_cannot_be_kept_is_a_warning(check, option, spec):
    run = check("--no-state", option, spec)
    assert run.state == "WARNING"
    assert "no history: --no-state" in run.text
    run = check("--state-dir", "/dev/null/x", option, spec)
    assert run.state == "WARNING"
    assert "state directory /dev/null/x: Not a directory" in run.text
    assert "cannot be evaluated, no history" in run.rest


def test_a_worse_state_is_not_hidden_by_a_history_that_cannot_be_kept(check, sysctls):
    sysctls.holds(9500, 10000)
    assert check("--no-state", "-w", "growth=5").state == "CRITICAL"


STATES_OF_THE_STATE = ["read-only", "full", "locked", "damaged", "a file", "not allowed", "no lock"]


@pytest.mark.parametrize("trouble", STATES_OF_THE_STATE)
@pytest.mark.parametrize(("entries", "code"), [(1000, 0), (8500, 1), (9500, 2)])
def test_a_broken_state_directory_never_changes_the_verdict(
    check, sysctls, tmp_path, monkeypatch, trouble, entries, code
):
    sysctls.holds(entries, 10000)
    check()
    folder = tmp_path / "state" / str(os.geteuid())
    [file] = folder.iterdir()
    monkeypatch.setattr(state_store, "LOCK_WAIT", 0.01)
    real = os.open

    def failing(number):
        def fails(path, flags, *arguments, **options):
            if flags & os.O_CREAT:
                raise OSError(number, os.strerror(number))
            return real(path, flags, *arguments, **options)

        return fails

    def lock(descriptor, operation):
        raise BlockingIOError if trouble == "locked" else OSError(errno.ENOLCK, "No locks")

    if trouble == "damaged":
        file.write_bytes(b'{"boot": 1, "samples": [[')
    elif trouble == "a file":
        monkeypatch.setenv(state_store.STATE_VARIABLE, str(file))
    elif trouble == "not allowed":
        monkeypatch.setenv(state_store.STATE_VARIABLE, "/proc/1/nothing")
    elif trouble in ("locked", "no lock"):
        monkeypatch.setattr(state_store, "flock", lock)
    else:
        monkeypatch.setattr(
            os, "open", failing(errno.EROFS if trouble == "read-only" else errno.ENOSPC)
        )
    run = check()
    assert run.code == code
    assert f"{entries} of 10000" in run.text


@pytest.fixture(params=["open to others", "sticky", "open to a group", "a link", "a dangling link"])
def refused(request, tmp_path):
    """A state directory that is refused, and how the refusal is told."""
    folder = tmp_path / "refused"
    if "link" in request.param:
        if request.param == "a link":
            (tmp_path / "real").mkdir()
        folder.symlink_to(tmp_path / "real")
        return folder, f"state directory {folder}: is a link (name the folder itself)"
    folder.mkdir()
    folder.chmod({"open to others": 0o777, "sticky": 0o1777}.get(request.param, 0o770))
    why = (
        f"state directory {folder}: others may write to it "
        "(name a folder that only its owner may write to)"
    )
    return folder, why


@pytest.mark.parametrize(("entries", "code"), [(1000, 0), (8500, 1), (9500, 2), (10000, 2)])
def test_a_state_directory_that_is_refused_costs_the_memory_and_not_the_verdict(
    check, sysctls, refused, entries, code
):
    folder, why = refused
    sysctls.holds(entries, 10000)
    good = check("--no-state")
    run = check("--state-dir", str(folder))
    assert (run.code, run.text, run.data) == (code, good.text, good.data)
    assert run.lines.index(f"No history is kept: {why}") == (1 if code else 0)
    assert not folder.exists() or not os.listdir(folder)


def test_an_ok_has_one_line_on_a_refused_state_directory_and_no_other(check, refused):
    folder, why = refused
    assert check("--state-dir", str(folder)).lines == [f"No history is kept: {why}"]
    for level in ("-v", "-vvv"):
        lines = check("--state-dir", str(folder), level).lines
        assert [why in line for line in lines].count(True) == 1


def test_a_threshold_that_needs_a_refused_state_directory_is_a_warning_that_tells_once_why(
    check, refused
):
    folder, why = refused
    run = check("--state-dir", str(folder), "-w", "time_to_full=4h:")
    assert run.state == "WARNING"
    assert "no history: " in run.text
    assert [line for line in run.lines if why in line] == [
        f"WARNING: time_to_full cannot be evaluated, no history: {why}"
    ]


def test_long_output_that_is_cut_off_still_tells_of_a_refused_state_directory(
    check, entered, sysctls, refused
):
    _, why = refused
    entered({f"namespace-with-a-long-name-{n:060}": (n, 9900, 10000) for n in range(1, 60)})
    run = check("--netns", "namespace*", "--state-dir", str(refused[0]))
    assert run.code == 2
    assert run.lines[-1] == "(more with -v)"
    assert f"No history is kept: {why}" in run.lines


@given(st.one_of(st.binary(max_size=60), st.just(b"[" * 5000), st.just(b'{"boot":null}')))
def test_whatever_the_state_holds_the_verdict_is_the_same(check, sysctls, tmp_path, content):
    check()
    [file] = (tmp_path / "state" / str(os.geteuid())).iterdir()
    file.write_bytes(content)
    run = check()
    assert (run.code, run.text) == (0, "1000 of 10000 entries in use (10.0%)")


# --- other namespaces


@pytest.fixture
def entered(fp, monkeypatch, netns):
    """Run with the right to enter namespaces: name or path → (inode, entries, limit)."""
    monkeypatch.setattr(privileges, "has", lambda _: True)

    def make(places, tail=b"end\n", extra=b"", **how):
        directory = netns({name: place[0] for name, place in places.items() if place})
        frames = [extra]
        for name, place in places.items():
            path = os.fsencode(name if "/" in name else str(directory / name))
            if place is None or place[1] is None:
                frames.append(reader.frame(0, errno.EPERM, "-", path))
                continue
            for file, value in zip(reader.LIMITS, place[1:]):
                data = value if isinstance(value, bytes) else b"%d\n" % value
                frames.append(reader.frame(place[0], 0, file, path, data))
        spare, _ = reader_command.waiting_command()
        commands = [how.pop("command", reader_command.reader_command(sudo=False)), spare]
        times = how.pop("times", 30)
        for command in commands:
            fp.register(command, stdout=b"".join(frames) + tail, occurrences=times, **how)
        return directory

    return make


def test_no_reader_is_started_where_no_namespace_is_asked_for(check, fp, monkeypatch):
    monkeypatch.setattr(privileges, "has", lambda _: pytest.fail("it asked"))
    assert check().code == 0
    assert not fp.calls


def test_a_namespace_is_judged_and_named_and_has_the_plain_labels(check, entered):
    entered({"blue": (71, 95, 100)})
    run = check("--netns", "blue")
    assert run.state == "CRITICAL"
    assert run.text.startswith("namespace blue 95 of 100 entries in use (95.0%)")
    assert run.data["usage"].text == "95.0"
    assert run.data["load_factor"].text == "0.05", "the hash is everybody's"


def test_all_finds_the_full_one_beside_an_idle_host(check, entered):
    entered({"blue": (71, 100, 100), "red": (72, 1, 100), "idle": (73, 0, 100)})
    run = check("--netns", "all")
    assert run.state == "CRITICAL"
    assert run.text == ("namespace blue full: 100 of 100 entries")
    assert list(run.data) == [
        *("usage", "entries", "limit", "load_factor"),
        *("blue::usage", "blue::entries", "blue::time_to_full", "red::usage", "red::entries"),
    ]
    assert run.data["usage"].text == "10.0"
    assert any(re.fullmatch(r"  \(host\) +1000 +10\.0% +-", line) for line in run.lines)
    assert any(re.fullmatch(r"  blue +100 +100\.0% +now", line) for line in run.lines)


def test_at_most_ten_further_namespaces_are_graphed_the_fullest_first(check, entered):
    entered({f"n{number:02}": (100 + number, number + 1, 100) for number in range(30)})
    run = check("--netns", "all")
    graphed = [label[:3] for label in run.data if label.endswith("::usage")]
    assert graphed == [f"n{number}" for number in range(29, 19, -1)]
    assert "  and 20 more (-vv)" in check("--netns", "all", "-v").lines
    assert "n00" in check("--netns", "all", "-vv").rest


def test_growth_is_known_of_further_namespaces_whose_histories_share_one_file(
    check, entered, clock, fp, tmp_path
):
    for minute in range(6):
        places = {f"n{at}": (100 + at, 1000 * minute + at, 10000) for at in range(1, 6)}
        # Each run there is another one, the fullest, that no later run sees.
        entered({**places, f"gone{minute}": (200 + minute, 5000, 10000)}, times=1)
        run = check("--netns", "all")
        clock.now += 60
        clock.today += 60
    assert run.data["n5::time_to_full"].value == pytest.approx((10000 - 5005) / 1000 * 60, abs=1)
    assert "gone5::time_to_full" not in run.data
    assert len(list((tmp_path / "state").glob("*/*"))) == 2, "the host's, and one for all others"


def test_one_that_is_not_graphed_is_judged_all_the_same(check, entered):
    places = {f"n{number:02}": (100 + number, 70, 100) for number in range(10)}
    entered({**places, "small": (99, 1, 2)})
    run = check("--netns", "all", "-c", "usage=~:", "-w", "usage=~:", "-c", "entries=@1")
    assert run.state == "CRITICAL"
    assert "small" in run.text
    assert "small::usage" not in run.data


def test_output_of_many_namespaces_with_long_names_stays_below_4_kib(check, entered):
    entered({"n" * 200 + f"{number:02}": (100 + number, 95, 100) for number in range(40)})
    run = check("--netns", "all")
    assert run.state == "CRITICAL"
    assert len({label for label in run.data if label.endswith("::usage")}) == 10


@pytest.mark.parametrize(
    "name", ["a b", "x|y", "q'r=s", "\u00e9\u0661", "tab\there", "\x1b[31m", ";rm -rf"]
)
def test_names_of_any_characters_never_break_the_output(check, entered, name):
    entered({name: (71, 95, 100)})
    run = check("--netns", "all", "-v")
    assert run.state == "CRITICAL"
    assert run.data["limit"]
    assert sum(label.endswith("::usage") for label in run.data) == 1


def test_two_names_that_look_alike_have_two_labels(check, entered):
    entered({"a b": (71, 95, 100), "a_b": (72, 96, 100), "self": (73, 5, 100)})
    run = check("--netns", "all")
    assert {"a_b::usage", "a_b_2::usage", "self::usage"} <= set(run.data)


def test_one_that_may_not_be_entered_does_not_hide_a_full_one(check, entered):
    entered({"blue": (71, 100, 100), "dark": (72, None)})
    run = check("--netns", "all")
    assert run.state == "CRITICAL"
    assert "namespace dark: cannot be entered: Operation not permitted" in run.text
    assert "UNKNOWN: namespace dark" in run.rest
    assert "sudoers" in run.rest


def test_root_is_not_told_to_become_root(check, entered, monkeypatch):
    entered({"dark": (72, None)})
    monkeypatch.setattr(privileges, "is_root", lambda: True)
    run = check("--netns", "all")
    assert "sudo" not in run.rest
    assert "root needs more privileges" in run.rest


def test_one_that_may_not_be_entered_is_unknown_where_nothing_is_full(check, entered):
    entered({"blue": (71, 85, 100), "dark": (72, None)})
    run = check("--netns", "all")
    assert run.state == "UNKNOWN"
    assert "blue::usage" in run.data


@pytest.mark.parametrize("broken", [b"abc", b"", b"-1", b"9" * 30])
def test_one_whose_files_are_broken_does_not_hide_a_full_one(check, entered, broken):
    entered({"blue": (71, 100, 100), "odd": (72, broken, 100)})
    run = check("--netns", "all")
    assert run.state == "CRITICAL"
    assert "namespace odd: /proc/sys/net/netfilter/nf_conntrack_count" in run.text


@pytest.mark.parametrize("name", ["count", "max"])
def test_a_host_that_cannot_be_read_does_not_hide_a_full_namespace(check, entered, sysctls, name):
    sysctls[limits.NEW + name] = b"abc"
    entered({"blue": (71, 100, 100)})
    run = check("--netns", "all")
    assert run.state == "CRITICAL"
    assert "namespace blue full" in run.text
    assert f"nf_conntrack_{name}: malformed ('abc'" in run.text


def test_namespaces_that_were_asked_for_and_the_own_one_stand_side_by_side(check, entered, netns):
    directory = entered({"blue": (71, 95, 100)})
    netns(mine=OWN)
    run = check("--netns", "mine", "--netns", "blue")
    assert run.data["usage"].text == "10.0"
    assert run.data["blue::usage"].text == "95.0"
    run = check("--netns", str(directory / "blue"), "--netns", "mine")
    assert run.data["usage"].text == "95.0"
    assert run.data["self::usage"].text == "10.0"


def test_one_that_vanished_while_the_check_ran_is_skipped(check, entered, netns):
    entered({"blue": (71, 5, 100)}, extra=reader.frame(0, errno.ENOENT, "-", b"/proc/77/ns/net"))
    run = check("--netns", "all")
    assert (run.code, run.state) == (0, "OK")


def test_an_inactive_namespace_takes_the_state_for_it(check, entered, monkeypatch):
    directory = entered({}, extra=b"", tail=b"")
    frames = [
        reader.frame(71, errno.ENOENT, name, os.fsencode(directory / "blue"))
        for name in reader.LIMITS
    ]
    monkeypatch.setattr(
        reader_client.Reader,
        "ask",
        lambda self, fields: list(
            reader_client.parse_answer(io.BytesIO(b"".join(frames) + b"end\n"))
        ),
    )
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    (directory / "blue").symlink_to("/proc/self/ns/net")
    run = check("--netns", "all", "--if-inactive", "warning")
    assert run.state == "WARNING"
    assert "conntrack is not active in namespace blue" in run.text
    assert run.data["usage"].text == "10.0"
    assert "not active" not in check("--netns", "all").text


def test_only_a_namespace_that_was_asked_for_can_be_inactive(check, entered, sysctls):
    entered({"blue": (71, 10, 100)})
    sysctls.clear()
    assert check("--netns", "blue", "--if-inactive", "critical").state == "OK"
    run = check("--netns", "all", "--if-inactive", "critical")
    assert run.state == "CRITICAL"
    assert run.text.endswith("; conntrack is not active on this host")


BAD_ANSWERS = {
    "dies": ({"tail": b"", "returncode": 1, "stderr": b"boom\n"}, "ended with status 1: boom"),
    "is refused": ({"returncode": 2}, "ended with status 2"),
    "is killed": ({"returncode": -9}, "was ended by signal 9"),
    "says nothing": ({"tail": b""}, "incomplete answer"),
    "talks rubbish": ({"tail": b"\x1b[31m|rubbish\n"}, "malformed answer"),
    "incomplete answer": ({"tail": b"1 0 a 99 99\n/x"}, "incomplete answer"),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_a_reader_that_fails_is_unknown_and_the_host_is_judged(check, entered, kind):
    how, words = BAD_ANSWERS[kind]
    entered({}, **how)
    run = check("--netns", "all")
    assert run.state == "UNKNOWN"
    assert "the reader" in run.text
    assert words in run.text
    assert run.data["usage"].text == "10.0"


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_a_reader_that_fails_does_not_hide_a_full_host(check, entered, sysctls, kind):
    sysctls.holds(10000, 10000)
    entered({}, **BAD_ANSWERS[kind][0])
    assert check("--netns", "all").state == "CRITICAL"


def test_a_reader_that_is_missing_is_unknown(check, netns, monkeypatch):
    netns(blue=71)
    monkeypatch.setattr(privileges, "has", lambda _: True)
    monkeypatch.setattr(reader_command, "reader_command", lambda sudo: ["/none/reader"])
    run = check("--netns", "blue")
    assert run.code == 3
    assert "cannot be started: No such file or directory" in run.text


@pytest.fixture
def through_sudo(entered, monkeypatch, tmp_path):
    """Run without privileges of its own, with a sudo that is made up."""
    program = tmp_path / "sudo"
    program.touch(mode=0o755)
    monkeypatch.setattr(privileges, "has", lambda _: False)
    monkeypatch.setattr(reader_command, "SUDO_PATHS", (str(program),))

    def make(places, **how):
        return entered(places, command=[str(program), "-n", *reader_command.sudo_grant()], **how)

    return make


def test_sudo_starts_the_reader_only_where_it_is_asked_for(check, through_sudo, fp):
    through_sudo({"blue": (71, 95, 100)})
    assert check("--netns", "blue").state == "UNKNOWN"
    assert not fp.calls
    assert check("--netns", "blue", "--sudo").state == "CRITICAL"
    assert len(fp.calls) == 2, "one for the counts, one for the owners"


def test_a_sudo_that_refuses_is_unknown_with_the_line_that_grants_it(check, through_sudo):
    through_sudo({}, tail=b"", stderr=b"sudo: a password is required\n", returncode=1)
    run = check("--netns", "all", "--sudo")
    assert run.state == "UNKNOWN"
    assert "sudo: a password is required" in run.text
    assert "  " + reader_command.sudoers_line() in run.lines


def test_a_sudo_that_did_what_it_could_is_not_asked_for_again(check, through_sudo):
    through_sudo({"dark": (72, None)})
    run = check("--netns", "dark", "--sudo")
    assert run.state == "UNKNOWN"
    assert "sudoers" not in run.rest


@pytest.mark.parametrize("program", ["sleep 20", "kill -ALRM $$"], ids=["waits", "its own limit"])
def test_sudo_whose_time_is_up_is_no_lack_of_privileges(
    check, netns, monkeypatch, tmp_path, program
):
    netns(blue=71)
    sudo = tmp_path / "sudo"
    sudo.write_text(f"#!/bin/sh\n{program}\n")
    sudo.chmod(0o755)
    monkeypatch.setattr(privileges, "has", lambda _: False)
    monkeypatch.setattr(reader_command, "SUDO_PATHS", (str(sudo),))
    run = check("--netns", "blue", "--sudo", "-t", "2")
    assert (run.state, "timed out" in run.text) == ("UNKNOWN", True)
    assert "sudoers" not in run.rest
    assert "let this user" not in run.rest


def test_sudo_that_is_not_installed_is_unknown(check, netns, monkeypatch):
    netns(blue=71)
    monkeypatch.setattr(reader_command, "SUDO_PATHS", ())
    run = check("--netns", "blue", "--sudo")
    assert run.code == 3
    assert "sudo: not installed on this host" in run.text


def test_each_namespace_has_a_history_of_its_own(check, clock, entered):
    for number in range(8):
        entered({"blue": (71, 10 + 5 * number, 100)}, times=1)
        run = check("--netns", "all")
        clock.now += 60
    assert run.data["growth"].value == 0
    assert run.data["blue::time_to_full"].value == pytest.approx((100 - 45) / 5 * 60, abs=1)


def test_a_namespace_that_was_made_anew_under_its_name_has_no_trend_yet(check, clock, entered):
    known = []
    for inode in [71] * 7 + [72]:
        entered({"blue": (inode, 50, 100)}, times=1)
        known.append("growth" in check("--netns", "blue").data)
        clock.now += 60
    assert known == [False] * 5 + [True] * 2 + [False]


def test_advice_knows_kube_proxy_and_namespaces_that_may_not_set_the_limit(
    check, sysctls, monkeypatch
):
    sysctls.holds(9500, 10000, 2048)
    monkeypatch.setattr(limits, "may_set_limits", lambda: False)
    assert "Run on the host" in check().rest
    monkeypatch.setattr(host, "runs_kube_proxy", lambda: True)
    run = check()
    assert "--conntrack-min=16384" in run.rest
    assert "nf_conntrack_max=" not in run.rest


@pytest.mark.parametrize("age", [60, 3600])
def test_advice_leaves_the_limit_where_the_table_check_found_a_flood(check, clock, sysctls, age):
    sysctls.holds(9500, 10000, 2048)
    check()
    (folder,) = Path(os.environ[state_store.STATE_VARIABLE]).iterdir()
    headline = "SYN flood on 192.0.2.1 tcp/443"
    finding = LastFinding(int(clock.today) - age, "flood", headline, room=False)
    key = f"net:[{limits.own_inode()}]"
    (folder / "findings.json").write_text(json.dumps({key: encode(finding)}))
    run = check()
    flood = "Leave the limit as it is: SYN flood on 192.0.2.1 tcp/443." in run.rest
    assert flood == (age == 60)
    assert ("nf_conntrack_max=16384" in run.rest) != flood
    assert "  check_conntrack_table -v" in run.lines


def test_what_it_leaves_behind_is_small(check, clock, sysctls, tmp_path):
    minutes(check, clock, sysctls, range(1000, 1100), "--trend-window", "30d")
    [file] = (tmp_path / "state" / str(os.geteuid())).iterdir()
    assert file.stat().st_size < 2048
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


# --- the status line


def test_status_line_names_the_lowered_limit_as_the_cause(check, clock, sysctls):
    sysctls.holds(4000, 262144)
    check()
    clock.now += 300
    clock.today += 300
    sysctls.holds(4000, 4000)
    run = check()
    first, last = (time.strftime("%H:%M", time.localtime(clock.today - ago)) for ago in (300, 0))
    lowered = f"limit lowered from 262144 to 4000 between {first} and {last}"
    assert run.text == f"full: 4000 of 4000 entries; {lowered}"
    assert lowered.capitalize() in run.lines


def test_usage_has_been_too_high_since_the_limit_was_lowered(check, clock, sysctls):
    minutes(check, clock, sysctls, [8500] * 3, "-w", "usage=90", "-c", "usage=~:")
    sysctls[limits.NEW + "max"] = b"9000\n"
    run = minutes(check, clock, sysctls, [8500] * 3, "-w", "usage=90", "-c", "usage=~:")
    assert run.lines[0] == "WARNING: usage 94.4% (threshold 90), for at least 2m"


def test_a_raised_limit_and_more_buckets_are_in_the_long_output_only(check, clock, sysctls):
    sysctls.holds(9500, 10000, 2048)
    check()
    sysctls.holds(9500, 10240, 4096)
    clock.now += 60
    clock.today += 60
    run = check()
    assert "raised" not in run.text
    assert any(line.startswith("Limit raised from 10000 to 10240 ") for line in run.lines)
    assert any(line.startswith("Hash buckets raised from 2048 to 4096 ") for line in run.lines)


def test_a_healthy_table_says_nothing_of_its_lowered_limit(check, clock, sysctls):
    minutes(check, clock, sysctls, [1000])
    sysctls[limits.NEW + "max"] = b"9000\n"
    run = minutes(check, clock, sysctls, [1000])
    assert run.text == "1000 of 9000 entries in use (11.1%)"


def test_time_left_follows_the_cause(check, clock, sysctls):
    sysctls.holds(8000, 20000)
    minutes(check, clock, sysctls, range(8000, 8600, 100))
    sysctls[limits.NEW + "max"] = b"10000\n"
    run = minutes(check, clock, sysctls, [8600])
    assert re.search(r"\(86\.0%\); limit lowered from .*; full in about 14m$", run.text)


def test_each_namespace_that_alarms_is_named_the_fullest_first(check, entered):
    entered(
        {"blue": (71, 95, 100), "red": (72, 93, 100), "green": (73, 85, 100), "idle": (74, 1, 9)}
    )
    run = check("--netns", "all")
    assert run.text == (
        "namespace blue 95 of 100 entries in use (95.0%); also red 93.0%, green 85.0%"
    )
    assert "  5 namespaces  entries  usage  full in" in run.lines


def test_namespace_that_is_called_host_is_not_taken_for_the_host(check, entered, sysctls):
    entered({"blue": (71, 95, 100), "host": (72, 93, 100), "green": (73, 85, 100)})
    sysctls.holds(9100, 10000)
    run = check("--netns", "all")
    assert run.text == (
        "namespace blue 95 of 100 entries in use (95.0%); "
        "also namespace host 93.0%, host 91.0%, green 85.0%"
    )


def test_as_many_namespaces_are_named_as_fit_and_the_others_counted(check, entered):
    entered({f"router-{number:02}": (100 + number, 95, 100) for number in range(40)})
    run = check("--netns", "all")
    named = re.findall(r"router-\d\d", run.text)
    assert len(named) >= 4
    assert run.text.endswith(f" and {40 - len(named)} more")
    assert "..." not in run.status


def test_the_fullest_namespace_is_named_when_all_are_ok(check, entered):
    entered({"blue": (71, 45, 100), "red": (72, 1, 100)})
    run = check("--netns", "all")
    assert run.text == "1000 of 10000 entries in use (10.0%); fullest: namespace blue 45.0%"


def test_no_other_namespace_is_named_when_the_first_is_the_fullest(check, entered):
    entered({"blue": (71, 5, 100)})
    assert check("--netns", "all").text == "1000 of 10000 entries in use (10.0%)"


def test_facts_on_the_status_line_are_left_out_whole_or_not_at_all(check, entered):
    names = {"n" * 100 + str(number): (80 + number, 95, 100) for number in range(3)}
    entered({**names, "dark" + "x" * 90: (72, None)})
    run = check("--netns", "all")
    assert "95 of 100 entries in use (95.0%); " in run.text
    assert "; namespace dar" in run.text


@pytest.fixture
def inhabited(monkeypatch):
    """Say which control groups and command each process has: inhabited(pid=(groups, command))."""
    processes = {}

    def read(path, most=4096):
        _, _, pid, file = path.split("/")
        group, command = processes.get(int(pid), (b"", b""))
        return source.FileReading(path, group if file == "cgroup" else command)

    monkeypatch.setattr(owner_request, "read_file", read)

    def make(pid, groups, command=b"sleep\n"):
        processes[pid] = (groups, command)

    return make


ID = b"3f2a1b4c5d6e" + b"0" * 52


@pytest.mark.parametrize(
    ("groups", "name"),
    [
        (b"0::/system.slice/docker-%s.scope\n" % ID, "docker-3f2a1b4c5d6e"),
        (b"12:cpu:/docker/%s\n1:name=systemd:/docker/%s\n" % (ID, ID), "docker-3f2a1b4c5d6e"),
        (
            b"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_c.slice/"
            b"cri-containerd-%s.scope\n" % ID,
            "cri-containerd-3f2a1b4c5d6e",
        ),
        (b"0::/machine.slice/libpod-%s.scope/container\n" % ID, "libpod-3f2a1b4c5d6e"),
        (b"0::/lxc.payload.mail/system.slice/x.mount\n", "mail"),
        (b"0::/machine.slice/systemd-nspawn@web.service/payload\n", "web"),
        (b"0::/system.slice/named.service\n", "named"),
        (b"0::/user.slice/user-0.slice/user@0.service/app.slice/x.scope\n", "sleep"),
        (b"0::/\n", "sleep"),
        (b"", "sleep"),
        (b"\xff:\xff:/\xff\n", "sleep"),
    ],
)
def test_a_namespace_without_a_name_is_called_by_what_lives_in_it(
    check, entered, inhabited, groups, name
):
    inhabited(5827, groups)
    entered({"/proc/5827/ns/net": (71, 95, 100)})
    run = check("--netns", "all")
    assert run.text == f"namespace {name} 95 of 100 entries in use (95.0%)"
    assert f"{name}::usage" in run.data


@pytest.mark.parametrize(("pid", "command"), [(1, b"systemd\n"), (2, b"kthreadd\n")])
def test_namespace_of_the_host_is_called_host_from_inside_another(
    check, entered, inhabited, pid, command
):
    inhabited(pid, b"0::/init.scope\n", command)
    entered({f"/proc/{pid}/ns/net": (71, 95, 100)})
    assert check("--netns", "all").text.startswith("namespace host 95 of 100 entries in use")


@pytest.mark.parametrize(
    ("in_host", "name", "called"),
    [(True, None, "(host)"), (False, None, "(this namespace)"), (False, "edge-1", "(edge-1)")],
)
def test_list_calls_the_namespace_of_the_check_what_it_is(
    check, entered, netns, monkeypatch, in_host, name, called
):
    own = limits.own_inode()
    entered({"red": (71, 5, 100)})
    if name:
        netns({name: own})
    monkeypatch.setattr(limits, "may_set_limits", lambda: in_host)
    run = check("--netns", "all", "-v")
    assert any(line.startswith(f"  {called} ") for line in run.lines), run.lines


@pytest.mark.parametrize("command", [b"x|y\n", b"\x1b[31m\n", b"a b'c=d\n", b"\xff\n", b"\n"])
def test_hostile_names_of_processes_never_break_the_output(check, entered, inhabited, command):
    inhabited(5827, b"0::/\n", command)
    entered({"/proc/5827/ns/net": (71, 95, 100)})
    run = check("--netns", "all", "-vvv")
    assert run.state == "CRITICAL"
    assert sum(label.endswith("::usage") for label in run.data) == 1


def test_two_containers_of_one_command_have_two_labels(check, entered, inhabited):
    for pid in (5827, 5828):
        inhabited(pid, b"0::/\n")
    entered({"/proc/5827/ns/net": (71, 95, 100), "/proc/5828/ns/net": (72, 96, 100)})
    run = check("--netns", "all")
    assert {"sleep::usage", "sleep_2::usage"} <= set(run.data)


# --- thresholds and history that cannot be used


@pytest.mark.parametrize("option", ["-w", "-c"])
def test_a_threshold_on_a_label_without_a_value_is_unknown(check, sysctls, option):
    sysctls.holds(1000, 10000)
    run = check(option, "load_factor=2")
    assert (run.state, run.data["usage"].text) == ("UNKNOWN", "10.0")
    assert "load_factor cannot be evaluated" in run.text
    assert "UNKNOWN: load_factor cannot be evaluated, no value" in run.lines
    assert check(option, "load_factor=~:").state == "OK", "it can never fire"
    sysctls.holds(9900, 10000)
    assert check("-w", "load_factor=2").state == "CRITICAL"


@pytest.mark.parametrize("spec", ["growth=5", "time_to_full=1h:", "load_factor=9", "usage=90"])
def test_a_threshold_on_what_is_not_known_yet_or_not_there_fires_never(check, sysctls, spec):
    assert check("-c", spec).state == "OK"
    sysctls.clear()
    assert check("-c", spec).state == "OK", "conntrack is not active"
    sysctls.holds(1000, 0, 2048)
    assert check("-c", spec).state == "OK", "there is no limit"


def test_a_history_that_cannot_be_kept_is_said_in_every_run(check):
    for _ in range(2):
        run = check("--state-dir", "/dev/null/x")
        assert run.state == "OK"
        assert run.lines == ["No history is kept: state directory /dev/null/x: Not a directory"]


def test_a_history_that_cannot_be_written_is_a_warning_where_a_threshold_needs_it(
    check, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(state_store.atomic_write, "replace", full)
    run = check("-w", "time_to_full=4h:")
    assert run.state == "WARNING"
    assert "No space left on device" in run.text
    assert "time_to_full cannot be evaluated, no history: " in run.lines[0] + run.lines[1]
    run = check()
    assert (run.state, len(run.lines)) == ("OK", 1)


# --- hidden


def test_sysctls_that_are_hidden_are_unknown_and_not_inactive(check, sysctls, monkeypatch):
    sysctls.clear()
    monkeypatch.setattr(limits, "conntrack_trace", lambda: "/sys/module/nf_conntrack")
    run = check("--if-inactive", "ok")
    assert run.state == "UNKNOWN"
    assert run.text.startswith("/proc/sys/net/netfilter/nf_conntrack_count: hidden, although ")
    assert "not active" not in run.out


# --- out of time


def test_on_a_time_out_what_is_known_is_evaluated_and_what_is_missing_is_named(
    check, entered, monkeypatch, sysctls
):
    entered({"blue": (71, 10, 100)})
    monkeypatch.setattr(session.Session, "ask", lambda *_: signal.raise_signal(signal.SIGALRM))
    run = check("--netns", "all", "-t", "50")
    assert run.state == "UNKNOWN"
    assert run.text == (
        "1000 of 10000 entries in use (10.0%); "
        "other namespaces: timed out after 50s while reading /proc/sys/net/netfilter"
    )
    assert run.data["usage"].text == "10.0"
    sysctls.holds(9900, 10000)
    run = check("--netns", "all", "-t", "50")
    assert run.state == "CRITICAL"
    assert "other namespaces: timed out" in run.text
    assert "for at least" not in run.lines[0]
    assert "sysctl -w" in run.rest, "the advice is printed all the same"


def test_a_signal_stops_the_reading_and_what_is_known_is_printed(check, entered, monkeypatch):
    entered({"blue": (71, 10, 100)})

    def stopped(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    monkeypatch.setattr(session.Session, "ask", stopped)
    run = check("--netns", "all")
    assert run.state == "UNKNOWN"
    assert "other namespaces: stopped by SIGTERM" in run.text
    assert "usage" in run.data
