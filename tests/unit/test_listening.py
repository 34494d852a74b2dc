"""check_conntrack_usage --listen through its command line, with a reader that is made up."""

from __future__ import annotations

import errno
import struct

import pytest

from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel import limits, privileges, reader, reader_command
from check_conntrack.usage import listening, usage_check

OWN = limits.OWN.encode()
BOTH = ("--listen", "1s")


def event(number, *, timeout=30, answered=False):
    def message(flags, status):
        parts = (
            ct.attribute(kind, struct.pack(">I", value))
            for kind, value in ((ct.CTA_ID, number), (ct.CTA_STATUS, status), (7, timeout))
        )
        return ct.message(ct.IPCTNL_MSG_CT_NEW, flags, 0, 2, b"".join(parts))

    return message(0x600, 0) + (message(0, ct.IPS_SEEN_REPLY) if answered else b"")


def frame(file, data=b"", code=0):
    return reader.frame(7, code, file, OWN, data)


def heard(new, *, before, after, nanoseconds=1_000_000_000, settings=b"2\n", lost=False, **how):
    """The reader's answer: so many new entries."""
    stream = b"".join(event(number, **how) for number in range(new))
    return b"".join(
        [
            frame("nf_conntrack_events", settings),
            frame("nf_conntrack_count", b"%d\n" % before),
            frame("events", stream),
            frame("events", code=errno.ENOBUFS) if lost else b"",
            frame("nf_conntrack_count", b"%d\n" % after),
            frame("clock", b"%d" % nanoseconds),
            frame("events"),
        ]
    )


@pytest.fixture
def answers(fp, monkeypatch, check):
    """Let the reader answer so, and run the check with --listen."""
    monkeypatch.setattr(privileges, "has", lambda _: True)

    def run(answer, *arguments, tail=b"end\n", times=1, **how):
        command = reader_command.reader_command(sudo=False)
        fp.register(command, stdout=answer + tail, occurrences=times, **how)
        return check(*BOTH, *arguments)

    return run


def test_flood_tells_its_rate_and_where_it_settles(answers, sysctls):
    sysctls.holds(1000, 262144, 262144)
    run = answers(heard(2000, before=1000, after=3000))
    assert run.state == "OK"
    assert run.text == "3000 of 262144 entries in use (1.1%), 2000 new/s, settles at about 28%"
    assert run.data["new_rate"].spelled == "2000.0;;;0"
    assert run.data["settles_at"].spelled.endswith("%;100;;0")
    assert run.data["entries"].spelled == "3000;;;0;262144"
    assert not {"end_rate", "lifetime", "time_to_full"} & set(run.data)


def test_flood_beyond_the_limit_tells_when_the_table_is_full(answers, sysctls):
    sysctls.holds(1000, 10000, 16384)
    run = answers(heard(2000, before=1000, after=3000), "-c", "time_to_full=1m:")
    assert run.state == "CRITICAL"
    assert run.text == "3000 of 10000 entries in use (30.0%), 2000 new/s, full in about 4s"
    assert "CRITICAL: time_to_full 4s (threshold 1m:)" in run.lines
    assert any(line.startswith("WARNING: settles_at ") for line in run.lines)
    assert any("grows by 2000.00 entries/s" in line for line in run.lines)


def test_growth_is_what_was_heard_where_the_table_is_full_within_a_second(answers, sysctls):
    sysctls.holds(1000, 4000, 16384)
    run = answers(heard(4000, before=1000, after=1500), "-c", "time_to_full=1m:")
    assert run.text.endswith("4000 new/s, full in about 1s")
    assert any("grows by 4000.00 entries/s" in line for line in run.lines)


def test_time_left_is_the_same_in_the_text_and_in_the_perfdata(answers, sysctls):
    sysctls.holds(1000, 10300, 16384)
    run = answers(heard(2000, before=1000, after=3000), "-w", "time_to_full=1m:")
    assert run.data["time_to_full"].spelled.startswith("4s;")
    assert run.text.endswith("full in about 4s")
    assert "WARNING: time_to_full 4s (threshold 1m:)" in run.lines


def test_time_within_a_second_of_its_threshold_is_not_printed_as_the_threshold(answers, sysctls):
    sysctls.holds(1000, 10300, 16384)
    run = answers(heard(2000, before=1000, after=3000), "-c", "time_to_full=4s:")
    assert run.data["time_to_full"].spelled.startswith("3.6s;")
    assert "CRITICAL: time_to_full 3.6s (threshold 4s:)" in run.lines


def test_full_table_does_not_say_where_it_settles(answers, sysctls):
    sysctls.holds(10000, 10000, 16384)
    run = answers(heard(4000, before=10000, after=10000))
    assert run.text == "full: 10000 of 10000 entries, 4000 new/s"
    assert "Listening: 4000 new entries/s, settles at more than 1000% of the limit" in run.lines


def test_status_line_has_room_for_a_long_name_and_an_alarm(answers, sysctls):
    sysctls.holds(999_999_999, 2147483647, 16384)
    run = answers(
        heard(3, before=5, after=1_999_999_999, lost=True), "-w", "new_rate=1", "-w", "limit=5"
    )
    assert len(run.status) <= 160
    assert "1999999999 of 2147483647 entries in use (93.1%), at least 3 new/s" in run.text


def test_limit_that_was_lowered_does_not_hide_the_time_left(answers, sysctls):
    sysctls.holds(1000, 100000, 16384)
    answers(heard(1, before=1000, after=1000))
    sysctls.holds(1000, 4000, 16384)
    run = answers(heard(2000, before=1000, after=3800))
    assert "limit lowered from 100000 to 4000" in run.text
    assert run.text.endswith("2000 new/s, full in about 1s")


def test_answered_traffic_tells_its_rate_alone_in_the_first_run(answers):
    run = answers(heard(500, before=1000, after=1100, answered=True))
    assert run.text == "1100 of 10000 entries in use (11.0%), 500 new/s"
    assert "settles_at" not in run.data


def test_balance_of_earlier_runs_tells_end_rate_and_lifetime(answers, clock):
    for _ in range(6):
        run = answers(heard(20, before=1000, after=1000, answered=True), "-v")
        clock.now += 100
    assert run.text == "1000 of 10000 entries in use (10.0%), 20 new/s, settles at about 10%"
    assert run.data["end_rate"].spelled == "20.0;;;0"
    assert run.data["lifetime"].spelled == "50s;;;0"
    assert (
        "Listening: 20 new entries/s, 20 end per second, an entry counts for 50s on average, "
        "settles at 10% of the limit"
    ) in run.lines


def test_lost_events_are_said(answers):
    run = answers(heard(300, before=1000, after=1300, lost=True), "-v")
    assert "at least 300 new/s" in run.text
    assert any("the kernel had no room for all events" in line for line in run.lines)


def by_time(*new, before=100):
    """The reader's answer where so many entries were made in each half second."""
    frames = [frame("nf_conntrack_events", b"1\n")]
    frames.append(frame("nf_conntrack_count", b"%d\n" % before))
    made = 0
    for half, number in enumerate(new, 1):
        frames.append(frame("events", b"".join(event(made + each) for each in range(number))))
        made += number
        frames.append(frame("nf_conntrack_count", b"%d\n" % (before + made)))
        frames.append(frame("clock", b"%d" % (half * 500_000_000)))
    return b"".join([*frames, frame("events")])


@pytest.mark.parametrize("halves", [(3000, 0, 0), (0, 3000, 0), (0, 0, 3000)])
def test_burst_while_listening_is_no_rate_that_fills_the_table(answers, sysctls, halves):
    sysctls.holds(100, 4000, 4096)
    run = answers(by_time(*halves), "-c", "time_to_full=10m:")
    assert run.state == "OK"
    assert run.text == "3100 of 4000 entries in use (77.5%), 2000 new/s in a burst"
    assert run.data["new_rate"].spelled == "2000.0;;;0"
    assert not {"settles_at", "time_to_full"} & set(run.data)


def test_threshold_for_where_a_burst_leads_is_not_known_yet(answers, sysctls):
    sysctls.holds(100, 4000, 4096)
    assert answers(by_time(3000, 0, 0)).lines == []
    run = answers(by_time(3000, 0, 0), "-w", "settles_at=50")
    assert run.state == "OK"
    assert run.lines == ["Not known yet: settles_at (the new entries came in a burst)"]


def test_threshold_for_where_answered_traffic_leads_is_not_known_yet(answers, clock):
    for _ in range(2):
        clock.now += 60
        run = answers(heard(500, before=1000, after=1100, answered=True), "-w", "settles_at=50")
    assert run.lines == ["Not known yet: settles_at (it takes 3 runs and 5 minutes)"]


def test_burst_while_listening_is_no_growth_since_the_run_before(answers, clock, sysctls):
    sysctls.holds(100, 4000, 4096)
    answers(heard(0, before=100, after=100))
    clock.now += 60
    run = answers(by_time(0, 3000, 0), "-c", "time_to_full=10m:", "-v")
    assert (run.state, "time_to_full" in run.data) == ("OK", False)
    burst = "Listening: 2000 new entries/s in a burst (a later run knows whether it goes on)"
    assert any(line.startswith(burst) for line in run.lines)


def test_pulses_of_a_flood_are_growth_since_the_run_before(answers, clock, sysctls):
    sysctls.holds(100, 20000, 4096)
    answers(heard(0, before=100, after=100))
    clock.now += 60
    run = answers(by_time(0, 1500, 0, before=9100), "-c", "time_to_full=10m:")
    assert run.state == "CRITICAL"
    assert run.data["growth"].value == 150, "9000 entries in a minute; the last pulse is no rate"
    assert run.data["time_to_full"].value == pytest.approx(9400 / 150, abs=1)


@pytest.mark.parametrize("halves", [(1000, 1000, 1000), (1500, 700, 800)])
def test_flood_that_varies_is_no_burst(answers, sysctls, halves):
    sysctls.holds(100, 4000, 4096)
    run = answers(by_time(*halves), "-c", "time_to_full=10m:")
    assert run.state == "CRITICAL"
    assert run.text.endswith("2000 new/s, full in about 1s")


def test_few_new_entries_are_no_burst_by_chance(answers, sysctls):
    sysctls.holds(100, 4000, 4096)
    run = answers(by_time(20, 0, 0))
    assert run.text.startswith("120 of 4000 entries in use (3.0%), 13 new/s, settles at")


@pytest.mark.parametrize("lost", [False, True])
def test_growth_is_passed_over_only_where_all_events_were_heard(answers, clock, sysctls, lost):
    sysctls.holds(2000, 100_000, 16384)
    answers(heard(100, before=1990, after=2000))
    clock.now += 30
    sysctls.holds(40_000, 100_000, 16384)
    run = answers(heard(100, before=39_900, after=40_000, lost=lost))
    assert ("time_to_full" in run.data) == lost


def test_flood_that_has_stopped_fills_no_table(answers, clock, sysctls):
    sysctls.holds(1000, 100_000, 16384)
    answers(heard(0, before=1000, after=1000))
    for entries in (30_000, 60_000):
        clock.now += 60
        sysctls.holds(entries, 100_000, 16384)
        flood = answers(heard(500, before=entries - 500, after=entries, timeout=300))
    assert "500 new/s, full in about" in flood.text
    for new in (0, 1, 0, 0, 1):
        clock.now += 60
        sysctls.holds(80_000, 100_000, 16384)
        run = answers(heard(new, before=80_000, after=80_000), "-w", "~:", "-c", "~:")
        assert (run.state, f"{new} new/s" in run.text) == ("OK", True)
        assert "full in" not in run.text
        assert "time_to_full" not in run.data


def test_rate_that_does_not_fill_the_table_is_not_beside_the_time_left(answers, clock, sysctls):
    entries = 60_000
    for _ in range(12):  # connections come in bursts between the runs
        entries += 2000
        clock.now += 60
        sysctls.holds(entries, 100_000, 16384)
        run = answers(heard(0, before=entries, after=entries), "-v")
    assert run.text.endswith("full in about 8m")
    assert any(line.startswith("Listening: 0 new entries/s") for line in run.lines)
    assert any(line.endswith("; the table grew while nobody listened") for line in run.lines)


def test_listening_ends_when_enough_is_known(answers, monkeypatch):
    monkeypatch.setattr(listening, "ENOUGH", 100)
    first = heard(100, before=1000, after=1100, nanoseconds=500_000_000)
    run = answers(first + heard(1, before=0, after=0), tail=b"and no end")
    assert run.data["new_rate"].spelled == "200.0;;;0"


def test_burst_of_a_moment_is_not_enough(answers, monkeypatch):
    monkeypatch.setattr(listening, "ENOUGH", 100)
    burst = heard(100, before=1000, after=1100, nanoseconds=50_000_000)
    run = answers(burst + heard(0, before=1000, after=1100))
    assert run.data["new_rate"].spelled == "100.0;;;0"


NOT_HEARD = {
    "no events": (
        heard(0, before=5, after=5, settings=b"0\n"),
        "no events, net.netfilter.nf_conntrack_events is 0 (set it to 1)",
    ),
    "no events in this kernel": (
        frame("nf_conntrack_events", code=errno.ENOENT),
        "this kernel has no events of connection tracking (CONFIG_NF_CONNTRACK_EVENTS)",
    ),
    "no module": (
        frame("events", code=errno.EPROTONOSUPPORT),
        "nf_conntrack_netlink is not loaded (as root, run: modprobe nf_conntrack_netlink)",
    ),
    "no privilege": (
        frame("nf_conntrack_count", b"5\n") + frame("events", code=errno.EPERM),
        "permission denied (CAP_NET_ADMIN)",
    ),
    "another error": (frame("events", code=errno.EIO), "Input/output error"),
    "garbled": (
        heard(1, before=5, after=5) + b"garbled",
        "malformed answer from the reader",
    ),
    "cut event": (
        frame("events", event(1)[:-4]),
        "truncated event: 40 of 44 bytes",
    ),
    "no number": (frame("nf_conntrack_count", b"many"), "malformed answer from the reader"),
    "too little time": (
        heard(1, before=5, after=5, nanoseconds=1000)[: -len(frame("events"))] + b"x",
        "malformed answer from the reader",
    ),
    "nothing": (b"", "incomplete answer from the reader"),
}


@pytest.mark.parametrize("kind", NOT_HEARD)
def test_nothing_heard_is_one_line_and_no_label(answers, kind):
    answer, reason = NOT_HEARD[kind]
    run = answers(answer)
    assert (run.state, run.text) == ("OK", "1000 of 10000 entries in use (10.0%)")
    assert run.lines == [f"Events could not be counted: {reason}"]
    assert not {"new_rate", "end_rate", "lifetime", "settles_at"} & set(run.data)


@pytest.mark.parametrize("kind", NOT_HEARD)
def test_range_for_what_was_not_heard_is_unknown(answers, kind):
    answer, reason = NOT_HEARD[kind]
    run = answers(answer, "-c", "settles_at=95")
    assert run.state == "UNKNOWN"
    assert f"UNKNOWN: settles_at cannot be evaluated: {reason}" in run.lines
    assert "settles_at cannot be evaluated: " in run.text


def test_without_privileges_one_line_says_how_to_get_them(check):
    plain = check(*BOTH)
    assert (plain.state, plain.lines) == (
        "OK",
        ["Events could not be counted: permission denied (use --sudo)"],
    )
    more = check(*BOTH, "-v")
    assert any(line.startswith("To listen to events, let this user start") for line in more.lines)
    assert "  " + reader_command.sudoers_line() in more.lines


def test_inactive_conntrack_has_nothing_to_listen_to(check, sysctls):
    sysctls.clear()
    run = check(*BOTH, "-w", "settles_at=50")
    assert (run.state, run.lines) == ("OK", [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-w", "new_rate=5"], "a range for new_rate needs --listen (add --listen 1s)"),
        (["--listen", "0", "-c", "settles_at=5"], "a range for settles_at needs --listen"),
        (["--listen", "7s", "-t", "8"], "is too short for --listen 7 (allow at least 9s)"),
        (["--listen", "1s", "-t", "2.5"], "is too short for --listen 1 (allow at least 3s)"),
        (["--listen", "50s"], "'50s' is not between 0.1s and 30s, nor 0"),
        (["--listen", "0.05"], "'0.05' is not between 0.1s and 30s, nor 0"),
        (["--listen", "soon"], "invalid duration 'soon'"),
    ],
)
def test_listening_that_cannot_work_is_a_usage_error(check, arguments, words):
    run = check(*arguments)
    assert (run.code, run.lines, run.data) == (3, [], {})
    assert words in run.text


@pytest.mark.parametrize("arguments", [["-t", "0"], ["-t", "32"], ["-t", "1h"]])
def test_time_out_that_is_long_enough_is_taken(arguments):
    options = usage_check.parser().parse_args([*arguments, "--listen", "30"])
    usage_check.validate(options, usage_check.parse_thresholds(usage_check.LABELS, [], []))


def test_nobody_is_asked_to_listen_without_the_option(check, fp, monkeypatch):
    monkeypatch.setattr(privileges, "has", lambda _: pytest.fail("it asked"))
    assert check().state == "OK"
    assert not fp.calls
