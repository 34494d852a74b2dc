"""Dates of log lines, in every order and language, and time zones."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel.log.calendar_words import MONTHS
from check_conntrack.kernel.log.stamps import parse_zone, read_stamp, zone_shift
from support.log_lines import parse_line

TEXT = "nf_conntrack: table full, dropping packet"
NOV_21 = 1795298400.0  # 2026-11-21 22:00:00 UTC
EVENING = 1763677822.0  # 2025-11-20 22:30:22 UTC
HOUR = 3600.0


pytestmark = pytest.mark.usefixtures("utc")


@pytest.mark.parametrize(
    "stamp",
    [
        "Thu Nov 20 22:30:22 2025",
        "Nov 20 2025 22:30:22",
        "2025 Nov 20 22:30:22",
        "20 Nov 2025 22:30:22",
        "Thu 20 Nov 2025 10:30:22 PM",
        "20.11.2025 22:30:22",
        "20-11-2025 22:30:22",
        "2025/11/20 22:30:22",
        "20251120 22:30:22",
        "20251120T223022",
        "20/Nov/2025:22:30:22",
        "11/20/2025 10:30:22PM",
        "20/11/2025 22:30:22",
        "2025-11-20_22:30:22",
        "2025-11-20T22:30:22Z",
        "2025-11-20T23:30:22+0100",
        "2025-11-20 17:30:22 -0500",
        "Thu Nov 20 23:30:22 CET 2025",
        "Thu 2025-11-20 22:30:22 UTC",
        "Nov 20, 2025, 11:30:22 PM GMT+1",
        "1763677822",
        "1763677822.0",
        "1763677822000",
        "1763677822000000",
        "@40000000691f96880a1b2c3d",
        # languages
        "Do 20 Nov 2025 22:30:22",
        "Do 20. November 2025 22:30:22",
        "jeu. 20 nov. 2025 22:30:22",
        "jeu. nov. 20 22:30:22 2025",
        "jue nov 20 22:30:22 2025",
        "20 de noviembre de 2025 22:30:22",
        "gio nov 20 22:30:22 2025",
        "qui nov 20 22:30:22 2025",
        "do nov 20 22:30:22 2025",
        "Чт ноя 20 22:30:22 2025",
        "Чт 20 ноя 2025 22:30:22",
        "czw lis 20 22:30:22 2025",
        "Čt lis 20 22:30:22 2025",
        "tors nov 20 22:30:22 2025",
        "to marras 20 22:30:22 2025",
        "Per Kas 20 22:30:22 2025",
        "木 11月 20 22:30:22 2025",
        "2025年11月20日 22:30:22",
        "2025年 11月 20日 木曜日 22:30:22",
        "2025年11月20日 22時30分22秒",
        "2025年11月20日 下午10:30:22",
        "2025년 11월 20일 (목) 오후 10:30:22",
    ],
)
def test_date_in_any_order_and_language_is_the_same_moment(stamp):
    found = read_stamp(stamp, NOV_21)
    assert found.time == pytest.approx(EVENING, abs=0.9), datetime.fromtimestamp(
        found.time or 0, timezone.utc
    )


@pytest.mark.parametrize(
    ("stamp", "month"),
    [
        ("mar. 25 nov. 2025 22:30:22", 11),
        ("mar 25 nov 22:30:22 2025", 11),
        ("mar. déc. 02 22:30:22 2025", 12),
        ("mar 04 mar 2025 22:30:22", 3),
        ("mar mar 04 22:30:22 2025", 3),
        ("mars 04 22:30:22 2025", 3),
        ("Mär 04 22:30:22 2025", 3),
        ("ma 04 mrt 2025 22:30:22", 3),
        ("mei 04 22:30:22 2025", 5),
        ("мая 04 22:30:22 2025", 5),
        ("czw sty 02 22:30:22 2025", 1),
        ("čen 04 22:30:22 2025", 6),
        ("čec 04 22:30:22 2025", 7),
        ("Ağu 04 22:30:22 2025", 8),
        ("set 04 22:30:22 2025", 9),
        ("ott 04 22:30:22 2025", 10),
        ("paź 04 22:30:22 2025", 10),
        ("ara 04 22:30:22 2025", 12),
    ],
)
def test_month_of_a_language_is_not_its_day_of_the_week(stamp, month):
    assert time.gmtime(read_stamp(stamp, NOV_21).time).tm_mon == month


@pytest.mark.parametrize(
    "stamp",
    ["05/06/2025 22:30:22", "Feb 30 2025 22:30:22", "22:30:22", "Nov 20 2025", "lapkr. 20 22:30:22",
     "Nov 20 25:00:00", "0000-01-01T00:00:00Z", "9999-01-01T00:00:00Z", "", "Nov", "x"],
)  # fmt: skip
def test_date_that_means_no_one_moment_is_unknown(stamp):
    assert read_stamp(stamp, NOV_21).time is None


def test_date_of_minutes_leaves_a_minute_open():
    found = read_stamp("Nov20 22:30", NOV_21)
    assert (found.time, found.slack) == (NOV_21 - 86400 + 1800, 60.0)


def test_names_of_months_are_lower_case_and_complete():
    assert set(MONTHS.values()) == set(range(1, 13))
    assert all(name == name.lower() for name in MONTHS)


@given(st.datetimes(datetime(1971, 1, 2), datetime(2099, 12, 30)), st.integers(-14 * 4, 14 * 4))
def test_dates_with_an_offset_agree_with_datetime(moment, quarters):
    zone = timezone(timedelta(minutes=15 * quarters))
    stamp = moment.replace(tzinfo=zone)
    expected = stamp.timestamp()
    if expected > 0:
        assert read_stamp(stamp.isoformat(), NOV_21).time == pytest.approx(expected)
        assert read_stamp(stamp.strftime("%a %b %d %H:%M:%S %Y %z"), NOV_21).time == int(
            stamp.replace(microsecond=0).timestamp()
        )


# --- zones


@pytest.mark.parametrize(
    ("text", "hours"),
    [("UTC", 0), ("Z", 0), ("+02:00", 2), ("-0530", -5.5), ("+1", 1), ("Asia/Kolkata", 5.5),
     ("CET", 1), ("JST", 9), ("GMT+3", 3)],
)  # fmt: skip
def test_zone_by_name_or_offset_dates_a_line(text, hours):
    zone = parse_zone(text)
    line = f"Nov 20 2025 22:30:22 gw kernel: {TEXT}"
    found = parse_line(line, NOV_21, zone)
    assert (found.time, found.offset) == (EVENING - hours * HOUR, False)
    own = parse_line(f"2025-11-20T22:30:22Z gw kernel: {TEXT}", NOV_21, zone)
    assert (own.time, own.offset) == (EVENING, True)


@pytest.mark.parametrize("text", ["", "Mars/Olympus", "+25:00", "../etc/passwd", "\0", "12"])
def test_unknown_zone_is_a_value_error(text):
    with pytest.raises(ValueError, match="unknown time zone"):
        parse_zone(text)


def test_zone_with_daylight_saving_uses_the_offset_of_the_day():
    zone = parse_zone("Europe/Berlin")
    winter = parse_line(f"Nov 20 2025 23:30:22 gw kernel: {TEXT}", NOV_21, zone)
    summer = parse_line(f"Jul 20 2025 23:30:22 gw kernel: {TEXT}", NOV_21, zone)
    assert winter.time == EVENING
    assert time.gmtime(summer.time)[3:5] == (21, 30)


def test_hour_that_comes_twice_is_the_later_one_that_is_not_in_the_future():
    zone = parse_zone("Europe/Berlin")
    first = 1792888200.0  # 2026-10-25 02:30 CEST, an hour before 02:30 CET
    line = f"Oct 25 02:20:00 gw kernel: {TEXT}"
    assert parse_line(line, first, zone).time == first - 600
    assert parse_line(line, first + 3600, zone).time == first + 3000


@pytest.mark.parametrize(
    ("actual", "shift"),
    [(0, 0), (59, 0), (-59, 0), (3600, 3600), (-7200, -7200), (3630, 3600), (20700, 20700),
     (500, 0), (4000, 0), (26 * 3600, 26 * 3600), (27 * 3600, 0), (86400 * 30, 0)],
)  # fmt: skip
def test_zone_shift_is_a_multiple_of_a_quarter_of_an_hour(actual, shift):
    assert zone_shift(NOV_21, NOV_21 + actual) == shift


def test_zone_of_the_outer_stamp_corrects_the_inner_one():
    line = f"2025-11-20T21:30:25.1Z stdout F Nov 20 22:30:22 gw kernel: {TEXT}"
    assert parse_line(line, NOV_21).time == EVENING - HOUR
    late = f"2025-11-20T22:40:00.1Z stdout F Nov 20 22:30:22 gw kernel: {TEXT}"
    assert parse_line(late, NOV_21).time == EVENING
