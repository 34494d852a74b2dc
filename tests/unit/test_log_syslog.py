"""Lines of log files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel.log.messages import Kind
from check_conntrack.kernel.log.syslog import (
    kernel_line,
    parse_repetition,
    parse_time,
)
from support.log_lines import parse_line

TEXT = "nf_conntrack: table full, dropping packet"
DATA = Path(__file__).parent.parent / "data" / "log"
NOV_21 = 1795298400.0  # 2026-11-21 22:00:00 UTC


@pytest.fixture
def zone(monkeypatch):
    def put(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    put("UTC")
    yield put
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def _utc(zone):
    zone("UTC")


@pytest.mark.parametrize(
    ("line", "ago", "monotonic", "host"),
    [
        ("Nov 21 21:59:00 gw kernel: {}", 60, None, "gw"),
        ("Nov 21 21:59:00 gw kernel: [ 1035.620501] {}", 60, 1035620501, "gw"),
        ("Nov 21 21:59:00 2001:db8::1 kernel: {}", 60, None, "2001:db8::1"),
        ("Nov 21 21:59:00 kernel: {}", 60, None, None),
        ("Nov 21 21:59:00.250000 gw kernel: {}", 59.75, None, "gw"),
        ("Nov 21 2026 21:59:00 gw kernel: {}", 60, None, "gw"),
        ("Nov 21 21:59:00 gw kern.warn kernel: [ 1035.620501] {}", 60, 1035620501, "gw"),
        ("Sat Nov 21 21:59:00 2026 kern.warn kernel: [ 1035.620501] {}", 60, 1035620501, None),
        ("2026-11-21T21:59:00.500000+00:00 gw kernel: [    1.620501] {}", 59.5, 1620501, "gw"),
        ("2026-11-21T22:59:00+01:00 gw kernel: {}", 60, None, "gw"),
        ("2026-11-21T16:29:00-0530 gw kernel: {}", 60, None, "gw"),
        ("2026-11-21T21:59:00Z gw kernel: {}", 60, None, "gw"),
        ("2026-11-21 21:59:00 gw kernel: {}", 60, None, "gw"),
        ("2026-11-21T21:59:00,500000+00:00 {}", 59.5, None, None),
        ("<4>1 2026-11-21T21:59:00Z gw kernel - - - [ 1035.620501] {}", 60, 1035620501, "gw"),
        ('<4>1 2026-11-21T21:59:00Z gw kernel - - [a b="c"] {}', 60, None, "gw"),
        # rsyslog's RSYSLOG_SyslogProtocol23Format, of what came in RFC 3164
        ("<4>1 2026-11-21T21:59:00Z gw kernel - - -  {}", 60, None, "gw"),
        ("<4>1 2026-11-21T21:59:00Z gw kernel - - -  [ 1035.620501] {}", 60, 1035620501, "gw"),
        # and its file formats, of what came in RFC 5424
        ("Nov 21 21:59:00 gw kernel {}", 60, None, "gw"),
        ("Nov 21 21:59:00 gw kernel [ 1035.620501] {}", 60, 1035620501, "gw"),
        ("2026-11-21T21:59:00.500000+00:00 gw kernel {}", 59.5, None, "gw"),
        ("2026-11-21T21:59:00+00:00 gw kernel  [ 1035.620501] {}", 60, 1035620501, "gw"),
        ("[ 1035.620501] {}", None, 1035620501, None),
        ("[1035620.501203] {}", None, 1035620501203, None),
        ("[ 1035.620501][  T123] {}", None, 1035620501, None),
        ("[ 1035.620501] gw kernel: {}", None, 1035620501, "gw"),
        ("<4>[ 1035.620501] {}", None, 1035620501, None),
        ("kern  :warn  : [ 1035.620501] {}", None, 1035620501, None),
        ("[ 1035.620501] 003: {}", None, 1035620501, None),
        ("Nov 21 21:59:00 gw kernel: [ 1035.620501] 003: {}", 60, 1035620501, "gw"),
        ("6.1.0-18-amd64,4,801,1035620501,-;{}", None, 1035620501, None),
        ("[1795298340.500000] gw kernel: {}", 59.5, None, "gw"),
        ("2026-11-21 21:59:00 +0000 UTC gw kernel: {}", 60, None, "gw"),
        ("[Sat Nov 21 21:59:00 2026] {}", 60, None, None),
        ("kern  :warn  : [Sat Nov 21 21:59:00 2026] {}", 60, None, None),
    ],
)
def test_line_of_each_form_has_time_stamp_and_host(line, ago, monotonic, host):
    found = parse_line(line.format(TEXT), NOV_21)
    assert found is not None
    assert found.message.kind is Kind.TABLE_FULL
    assert found.time == (None if ago is None else NOV_21 - ago)
    assert (found.monotonic, found.host) == (monotonic, host)


@pytest.mark.parametrize(
    "line",
    [
        "Nov 21 21:59:00 gw app[12]: {}",
        "Nov 21 21:59:00 gw app[12]: kernel: {}",
        "Nov 21 21:59:00 gw app: [ 1035.620501] {}",
        "2026-11-21T21:59:00Z gw app: {}",
        "Nov 21 21:59:00 app: kernel {}",
        "Nov 21 21:59:00 gw app[12]: kernel {}",
        "Nov 21 21:59:00 gw app kernel {}",
        "Nov 21 21:59:00 gw kernel x {}",
        "[Sat Nov 21 21:59:00 2026] app kernel {}",
        "gw kernel {}",
        "<12>[ 1035.620501] {}",
        "<4>1 2026-11-21T21:59:00Z gw app - - - {}",
        "user  :warn  : [ 1035.620501] {}",
        "[ 1035.620501] app: {}",
    ],
)
def test_line_of_a_program_is_none(line):
    assert parse_line(line.format(TEXT), NOV_21) is None


def test_line_with_a_repeated_message_counts_its_number():
    line = f"Nov 21 21:59:00 gw kernel: message repeated 5 times: [ [ 10.620501] {TEXT}]"
    assert parse_line(line, NOV_21).message.times == 5


def test_line_without_a_year_is_of_last_year_after_new_year():
    new_year = 1798761660.0  # 2027-01-01 00:01:00 UTC
    assert parse_line(f"Dec 31 23:59:00 gw kernel: {TEXT}", new_year).time == new_year - 120
    assert parse_line(f"Jan  1 00:00:30 gw kernel: {TEXT}", new_year).time == new_year - 30


def test_line_without_a_year_may_lie_a_little_ahead():
    assert parse_line(f"Nov 22 01:00:00 gw kernel: {TEXT}", NOV_21).time == NOV_21 + 3 * 3600


def test_line_without_a_year_and_far_ahead_is_of_last_year():
    found = parse_line(f"Dec 24 22:00:00 gw kernel: {TEXT}", NOV_21)
    assert found.time == NOV_21 - (365 - 33) * 86400


def test_line_of_february_29th_is_of_a_leap_year():
    found = parse_line(f"Feb 29 12:00:00 gw kernel: {TEXT}", NOV_21)
    assert time.gmtime(found.time)[:3] == (2024, 2, 29)


@pytest.mark.parametrize(
    "stamp",
    [
        "Feb 30 12:00:00 gw",
        "Nov 21 25:00:00 gw",
        "2026-13-01T00:00:00Z gw",
        "Nov  0 00:00:00 gw",
        "0000-01-01T00:00:00Z gw",
        "2026-02-29T00:00:00Z gw",
    ],
)
def test_line_with_an_impossible_time_counts_undated(stamp):
    found = parse_line(f"{stamp} kernel: {TEXT}", NOV_21)
    assert found.time is None
    assert found.message.times == 1


def test_line_of_a_leap_second_is_of_the_second_before():
    found = parse_line(f"Nov 21 21:59:60 gw kernel: {TEXT}", NOV_21)
    assert NOV_21 - found.time in (0, 1)


def test_line_without_an_offset_is_of_local_time(zone):
    zone("Europe/Berlin")
    assert parse_line(f"Nov 21 22:59:00 gw kernel: {TEXT}", NOV_21).time == NOV_21 - 60


def test_line_of_the_hour_that_comes_twice_is_the_latest_before_now(zone):
    zone("Europe/Berlin")
    first = 1792888200.0  # 2026-10-25 02:30 CEST, an hour before 02:30 CET
    line = f"Oct 25 02:20:00 gw kernel: {TEXT}"
    assert parse_line(line, first).time == first - 600
    assert parse_line(line, first + 3600).time == first + 3000
    assert parse_line(line, first + 86400).time == first + 3000


def test_line_of_the_hour_that_is_skipped_is_dated(zone):
    zone("Europe/Berlin")
    found = parse_line(f"Mar 29 02:30:00 gw kernel: {TEXT}", NOV_21)
    assert abs(found.time - 1774747800) <= 3600


def test_line_without_a_fraction_has_a_second_of_slack():
    assert parse_line(f"Nov 21 21:59:00 gw kernel: {TEXT}", NOV_21).slack == 1.0
    assert parse_line(f"2026-11-21T21:59:00.5Z gw kernel: {TEXT}", NOV_21).slack == 0.0


@pytest.mark.parametrize("year", [1970, 1999, 2000, 2024, 2026, 2100])
def test_line_in_rfc_3339_agrees_with_the_calendar(year):
    import calendar

    for month in range(1, 13):
        line = f"{year}-{month:02}-28T03:04:05Z gw kernel: {TEXT}"
        assert parse_line(line, NOV_21).time == calendar.timegm((year, month, 28, 3, 4, 5))


def test_time_of_a_line_of_any_program_is_parsed():
    assert parse_time("Nov 21 21:59:00 gw app[7]: x", NOV_21) == NOV_21 - 60
    assert parse_time("<30>1 2026-11-21T21:59:00Z gw app - - - x", NOV_21) == NOV_21 - 60
    assert parse_time("[ 1035.620501] x", NOV_21) is None
    assert parse_time("x", NOV_21) is None


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-21 20:00:00 install kernel 6.1",
        "Nov 21 20:00:00 Updated kernel 6.1.0-22.el9",
        "Nov 21 21:59:00 gw sshd[812]: kernel: x",
        "[Sat Nov 21 21:59:00 2026] [core:error] [pid 7] x",
        "type=EXECVE msg=audit(1763674222.123:411): a1=kernel:",
        "",
        "the kernel: a history",
    ],
)
def test_kernel_line_is_none_for_another_program(line):
    assert kernel_line(line, NOV_21) is None


@pytest.mark.parametrize(
    ("line", "host", "monotonic"),
    [
        ("Nov 21 21:59:00 gw kernel: eth0: link up", "gw", None),
        ("Nov 21 21:59:00 gw kernel: [ 1035.620501] eth0: link up", "gw", 1035620501),
        ("Nov 21 21:59:00 gw kernel eth0: link up", "gw", None),
        ("[ 1035.620501] gw kernel: eth0: link up", "gw", 1035620501),
        ("[ 1035.620501] rc.local[484]: + sed", None, 1035620501),
        ("_TRANSPORT=kernel", None, None),
        ("    SYSLOG_IDENTIFIER=kernel", None, None),
        ('\t"_TRANSPORT" : "kernel",', None, None),
        ('{"_TRANSPORT":"kernel","_HOSTNAME":"gw","MESSAGE":"x"}', "gw", None),
        ('{"facility":"Kernel","hostname":"gw","message":"eth0: link up"}', "gw", None),
        ('{"Computer":"gw","ProcessName":"kernel","SyslogMessage":"eth0: up"}', "gw", None),
        ("Linux version 2.6.32-279.el6.x86_64 (mockbuild@x86-008)", None, None),
    ],
)
def test_kernel_line_is_recognised_whatever_its_text(line, host, monotonic):
    assert kernel_line(line, NOV_21)[:2] == (host, monotonic)


@pytest.mark.parametrize("number", ["    12\t", "     12 "])
def test_number_of_a_line_is_no_day(number):
    line = parse_line(f"{number}Nov 21 21:59:00 gw kernel: {TEXT}", NOV_21)
    assert (line.time, line.host) == (NOV_21 - 60, "gw")


def test_host_that_a_tool_puts_before_a_line_is_its_host():
    assert parse_line(f"gw1: [ 1035.620501] {TEXT}", NOV_21).host == "gw1"
    assert parse_line(f"gw1: Nov 21 21:59:00 gw kernel: {TEXT}", NOV_21).host == "gw"


@pytest.mark.parametrize(
    "line",
    [
        '"2026-11-21T21:59:00Z","eth0: link up",gw,main',
        '"2026-11-21T21:59:00Z","Nov 21 21:59:00 gw kernel: eth0: link up",gw,main',
        'ts=2026-11-21T21:59:00Z level=warn msg="Nov 21 21:59:00 gw kernel: eth0: link up"',
        "time:2026-11-21T21:59:00Z\thost:gw\tident:kernel\tmessage:eth0: link up",
        '{"received_at":"2026-11-21T21:59:00Z","source_name":"gw","message":"eth0: link up"}',
    ],
)
def test_time_of_a_line_of_columns_is_that_of_its_field(line):
    assert parse_time(line, NOV_21) == NOV_21 - 60


def test_repetition_is_of_the_same_host():
    line = "Nov 21 21:59:00 gw last message repeated 7 times"
    assert parse_repetition(line, "gw", NOV_21)[0] == 7
    assert parse_repetition(line, "gw", NOV_21)[1].time == NOV_21 - 60
    assert parse_repetition(line, "other", NOV_21) is None
    assert parse_repetition("Nov 21 21:59:00 last message repeated 7 times", None, NOV_21)[0] == 7
    assert parse_repetition("last message repeated 7 times", "gw", NOV_21)[0] == 7
    assert (
        parse_repetition("Nov 21 21:59:00 gw app: last message repeated 7 times", "gw", 0) is None
    )


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_line_of_any_text_raises_nothing(line, reference):
    parse_line(line, reference)
    parse_time(line, reference)
    parse_repetition(line, "gw", reference)


@given(
    st.text(alphabet="<>0123456789[]:.,-+TZ Novkernl", max_size=80),
    st.sampled_from(["", " kernel: ", "] "]),
)
def test_line_with_anything_for_a_stamp_raises_nothing(stamp, tag):
    parse_line(stamp + tag + TEXT, NOV_21)


@pytest.mark.parametrize("name", ["linux-2.4.log", "linux-2.6.log", "linux-4.log", "linux-6.log"])
def test_line_of_real_kernels_is_parsed(name):
    for line in (DATA / name).read_text().splitlines():
        assert parse_line(line, NOV_21) or parse_repetition(line, "fw", NOV_21), line


def test_line_that_quotes_the_kernel_is_none():
    for line in (DATA / "quoted.log").read_text().splitlines():
        assert parse_line(line, NOV_21) is None, line
