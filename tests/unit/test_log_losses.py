"""A log's own notices of lost lines make its claim smaller, and nothing else does."""

from __future__ import annotations

import time

import pytest

from check_conntrack.advice.source_problems import describe
from check_conntrack.kernel import reasons
from check_conntrack.kernel.coverage import Span, without
from check_conntrack.kernel.log import events, gather, loss_notices, scanner
from check_conntrack.kernel.log.loss_notices import LossWatch, parse_loss
from check_conntrack.kernel.reasons import SourceProblem
from support.logs import NOW, append, line, never, read, written

BOOT = "11111111-1111-1111-1111-111111111111"


@pytest.fixture(autouse=True)
def _utc(utc):
    pass


def said(seconds, text, program="rsyslogd[812]", host="gw"):
    """A line of a program, so many seconds after NOW."""
    when = time.strftime("%b %e %H:%M:%S", time.gmtime(NOW + seconds))
    return f"{when} {host} {program}: {text}\n".encode()


LIMITED = "imjournal: 12 messages lost due to rate-limiting (20000 allowed within 600 seconds)"
FORMS = {
    "imjournal": (said(-60, LIMITED), -660, 12),
    "imjournal, another interval": (said(-60, LIMITED.replace("600", "30")), -90, 12),
    "imjournal, of old": (said(-60, LIMITED.partition(" (")[0]), -660, 12),
    "imklog": (said(-60, LIMITED.replace("imjournal", "imklog")), -660, 12),
    "origin": (
        said(-60, f'[origin software="rsyslogd" swVersion="8.2302.0" x-pid="812"] {LIMITED}'),
        -660,
        12,
    ),
    "of a central host": (said(-60, LIMITED.replace("imjournal", "imudp")), -660, 12),
    "of a program": (said(-60, LIMITED.replace("imjournal", "imjournal from <gw:shop>")), -660, 12),
    "ISO 8601": (f"2026-11-21T21:59:00.5+00:00 gw rsyslogd: {LIMITED}\n".encode(), -659.5, 12),
    "RFC 5424": (f"<46>1 2026-11-21T21:59:00Z gw rsyslogd - - - {LIMITED}\n".encode(), -660, 12),
    "RHEL 7": (said(-60, LIMITED.partition(" (")[0], "rsyslogd-2177"), -660, 12),
    "journald of RHEL 7": (said(-60, "Missed 7 kernel messages", "systemd-journal[300]"), -200, 7),
    "journald": (said(-60, "Missed 7 kernel messages", "systemd-journald[300]"), -200, 7),
    "console": (
        line(-60, "x").replace(b"[899940.000000] x", b"** 9 printk messages dropped **"),
        -200,
        9,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_notice_of_lost_lines_tells_when_and_how_many(form):
    notice, start, number = FORMS[form]
    loss = parse_loss(notice.decode(), line(-200).decode(), NOW)
    assert loss.number == number
    assert loss.span.start - NOW == pytest.approx(start)
    assert loss.span.end - NOW == pytest.approx(-60, abs=0.6)


OTHERS = {
    "of one program": said(-60, "imuxsock lost 5 messages from pid 7 due to rate-limiting"),
    "of one socket": said(-60, LIMITED.replace("imjournal", "imuxsock[pid: 7]")),
    "of one service": said(
        -60, "Suppressed 812 messages from shop.service", "systemd-journald[300]"
    ),
    "of another rate limit": line(-60, "audit: 3 callbacks suppressed"),
    "quoted": said(-60, f"grep rsyslogd: {LIMITED}", "sudo"),
    "quoted by journald": said(-60, "Missed 7 kernel messages, again", "systemd-journald[300]"),
    "by another": said(-60, "Missed 7 kernel messages", "shop"),
    "no time": f"rsyslogd: {LIMITED}\n".encode(),
}


@pytest.mark.parametrize("form", OTHERS)
def test_other_notices_say_nothing_of_the_kernels_lines(form):
    assert parse_loss(OTHERS[form].decode(), line(-200).decode(), NOW) is None


# --- what is claimed


def run(log, histories, *, at=0.0, window=900.0):
    now = NOW + at
    looked = events.Window(None if window is None else now - window, now)
    found = gather.gather([str(log)], looked, BOOT, histories, never, None)
    histories.update(found.histories)
    (own,) = found.coverage
    return [(span.start - NOW, span.end - NOW) for span in own.spans], own.reason, own.detail


@pytest.mark.parametrize("form", FORMS)
def test_claim_leaves_out_what_was_lost(tmp_path, form):
    notice, start, number = FORMS[form]
    log = written(tmp_path / "kern.log", line(-7200), line(-200), notice, line(-20), at=-20)
    spans, reason, detail = run(log, {})
    assert (reason, detail) == (reasons.LINES_LOST, str(number))
    assert spans[0] == (-7200, pytest.approx(start - 2, abs=1))
    assert spans[1] == (pytest.approx(-58, abs=1), 0)


@pytest.mark.parametrize("form", OTHERS)
def test_claim_is_whole_beside_other_notices(tmp_path, form):
    log = written(tmp_path / "kern.log", line(-7200), line(-200), OTHERS[form], line(-20), at=-20)
    assert run(log, {}) == ([(-7200, 0)], "", "")


def test_loss_before_the_window_does_not_matter(tmp_path):
    notice = said(-3000, LIMITED)
    log = written(tmp_path / "kern.log", line(-7200), notice, line(-20), at=-20)
    spans, reason, _ = run(log, {})
    assert (len(spans), reason) == (2, "")


def test_lines_that_were_lost_before_the_window_are_not_counted(tmp_path):
    older, newer = said(-3000, LIMITED), said(-60, LIMITED.replace("12", "1"))
    log = written(tmp_path / "kern.log", line(-7200), older, newer, line(-20), at=-20)
    _, reason, detail = run(log, {})
    assert (reason, detail) == (reasons.LINES_LOST, "1")
    assert describe(SourceProblem("kern.log", reason, detail))[0] == "it says that it lost 1 line"


def test_everything_that_was_asked_for_has_a_gap(tmp_path):
    notice = said(-3000, LIMITED)
    log = written(tmp_path / "kern.log", line(-7200), notice, line(-20), at=-20)
    assert run(log, {}, window=None)[1:] == (reasons.LINES_LOST, "12")


def test_loss_that_is_told_later_takes_back_what_was_claimed(tmp_path):
    log, histories = tmp_path / "kern.log", {}
    written(log, line(-7200), line(-20), at=-20)
    assert run(log, histories)[1] == ""
    append(log, said(280, LIMITED), line(290))
    spans, reason, _ = run(log, histories, at=300)
    assert reason == reasons.LINES_LOST
    assert [round(end) for _, end in spans] == [-322, 300]
    append(log, line(590))
    assert run(log, histories, at=600)[1] == reasons.LINES_LOST
    append(log, line(1290))
    assert run(log, histories, at=1300)[1] == "", "it has left the window"


BEGUN = "imjournal from <gw:shop>: begin to drop messages due to rate-limiting"


def test_loss_that_has_begun_is_a_gap_until_it_is_told_how_much(tmp_path):
    log, histories = tmp_path / "kern.log", {}
    written(log, line(-7200), said(-60, BEGUN), line(-20), at=-20)
    spans, reason, detail = run(log, histories)
    assert (spans, reason, detail) == (
        [(-7200, pytest.approx(-62, abs=1))],
        reasons.LINES_LOST,
        "1",
    )
    append(log, said(520, LIMITED), line(590))
    spans, reason, detail = run(log, histories, at=600)
    assert (reason, detail) == (reasons.LINES_LOST, "12")
    assert [round(end) for _, end in spans] == [-82, 600]


def test_loss_that_is_over_counts_once(tmp_path):
    log = tmp_path / "kern.log"
    limited = LIMITED.replace("600", "30")
    written(log, line(-7200), said(-60, BEGUN), said(-50, limited), line(-20), at=-20)
    spans, reason, detail = run(log, {})
    assert (reason, detail) == (reasons.LINES_LOST, "12")
    assert [round(end) for _, end in spans] == [-82, 0]


def test_holes_take_parts_of_spans_and_leave_others_as_they_are():
    spans = (Span(0, 10), Span(20, 20), Span(30, 50))
    left = Span(0, 8), Span(20, 20), Span(30, 35), Span(40, 50)
    assert without(spans, [Span(35, 40), Span(8, 12)]) == left
    assert without(spans, []) == spans


# --- large logs


def test_large_log_is_searched_where_it_is_written_fast():
    watch = LossWatch()
    large = loss_notices.SMALL + 1

    def wants(clock, read=large):
        return watch.wants(read, f"Nov 21 {clock}:07 gw kernel: x".encode())

    assert wants("10:00", 1000)
    assert not wants("10:30")
    assert not wants("11:00")
    assert wants("11:02"), "within two minutes"
    assert wants("11:17"), "a quarter of an hour after that"
    assert wants("12:30"), "the lines of this block begin at 11:17"
    assert not wants("13:30")
    assert not wants("23:59")
    assert wants("00:01"), "midnight"


def test_large_log_without_clocks_is_searched():
    watch = LossWatch()
    assert watch.wants(loss_notices.SMALL + 1, b"[12345.678] x")
    assert watch.wants(loss_notices.SMALL + 1, b"[12346.678] x")


@pytest.mark.parametrize("apart", [0.01, 30.0])
def test_notice_in_a_large_log_is_found_after_a_burst_alone(tmp_path, monkeypatch, apart):
    monkeypatch.setattr(loss_notices, "SMALL", 1 << 10)
    monkeypatch.setattr(scanner, "BLOCK", 1 << 12)
    number = 2000
    lines = [line(-200 - apart * (number - n), "veth: " + 60 * "x") for n in range(number)]
    log = written(tmp_path / "kern.log", *lines, said(-60, LIMITED), line(-20), at=-20)
    assert [loss.number for loss in read(log).losses] == ([12] if apart < 1 else [])
