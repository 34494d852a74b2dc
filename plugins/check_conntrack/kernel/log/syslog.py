"""One line of a log file: when, on which host, and what the kernel said in it.

The forms: RFC 3164 (rsyslog's and syslogd's traditional one, with or without a host, a year, a
fraction, busybox' facility), RFC 3339 (rsyslog's newer one, ``journalctl -o short-iso``), RFC 5424,
``dmesg`` with ``[ 1035.620501]``, with ``-T``, ``--time-format iso``, ``-x`` and ``-r``, and
OpenWrt's logread. Only the kernel's own lines: behind the tag ``kernel:`` (``kernel`` where
rsyslog had the line from another host in RFC 5424, and writes it in its own forms), or in dmesg's.
"""

from __future__ import annotations

import re
import time

from ..namedtuple import NamedTuple
from .messages import Message, parse_message

DAY = 86400.0

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CLOCK = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_STAMP = (
    # RFC 3339, and what journalctl and dmesg make of it
    r"(?P<iso>(?P<y>[0-9]{4})-(?P<mo>[0-9]{2})-(?P<d>[0-9]{2})[T ]"
    r"(?P<h>[0-9]{2}):(?P<mi>[0-9]{2}):(?P<s>[0-9]{2})(?P<fraction>[.,][0-9]{1,9})?"
    r"(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2})?) "
    # dmesg -T, and without brackets OpenWrt's logread; RFC 3164, and its variant with a year
    r"|(?P<bracket>\[)?(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) )?"
    r"(?P<month>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) (?P<day>[ 0-9]?[0-9]) "
    r"(?:(?P<year>[0-9]{4}) )?"
    rf"{_CLOCK}(?P<part>\.[0-9]{{1,9}})?(?: (?P<after>[0-9]{{4}}))?(?(bracket)\]) "
)
_LEAD = re.compile(
    r"(?:<(?P<priority>[0-9]{1,3})>(?P<version>1 )?)?"
    # dmesg -x
    r"(?:(?P<facility>[a-z0-9]{1,8}) *:[a-z]{1,8} *: )?"
    rf"(?:{_STAMP})?"
)
_UPTIME = re.compile(r"\[ *(?P<seconds>[0-9]{1,12})\.(?P<fraction>[0-9]{6})\] ?")
_CALLER = re.compile(r"\[ *[TC][0-9]{1,10}\] ?")
_TAG = re.compile(
    r"(?:(?P<host>\S{1,255}) {1,2})??(?:kern\.[a-z]{1,8} )?kernel(?:\[0\])?: ?",
)
# What reached rsyslog as RFC 5424 has a tag without a colon in its traditional forms. A program
# may say "kernel" behind a colon of its own, where the line names no host.
_BARE_TAG = re.compile(r"(?P<host>\S{0,254}[^\s:]) kernel ")
# What stands where a host stands in logread's lines of programs that call themselves kernel.
_PRIORITY = re.compile(r"(?:user|daemon|auth|authpriv|syslog|local[0-7]|cron|mail)\.[a-z]{1,8}")
_RFC5424 = re.compile(
    r"(?P<host>\S{1,255}) kernel \S{1,128} \S{1,32} (?:-|(?:\[[^\]]*\])+) ?(?:\ufeff)?"
)
_SINCE_LAST = re.compile(r"last message repeated (?P<times>[0-9]{1,9}) times?\s*")
_HOST = re.compile(r"(?P<host>\S{1,255}) (?:last message repeated )")


class Stamp(NamedTuple):
    """When a line was written."""

    time: float | None
    """Seconds since the epoch; None where the line does not tell."""
    slack: float
    """Seconds that the form leaves open."""


class Line(NamedTuple):
    """A line in which the kernel speaks of loss."""

    message: Message
    time: float | None
    slack: float
    monotonic: int | None
    """Microseconds since boot by the kernel's own stamp, where the line holds it."""
    host: str | None


UNKNOWN = Stamp(None, 0.0)


def parse_line(line: str, reference: float) -> Line | None:
    """Return what the kernel says in the line, None when it is not the kernel or no loss.

    ``reference`` is when the line was written at the latest, in seconds since the epoch (the
    time of the file's last change, or now): RFC 3164 has no year, and in the hour that the end of
    daylight saving repeats no offset. The year is the latest that puts the line no more than a
    day after ``reference``. Times without an offset are in the zone of this process. A time that
    is no time (``Feb 30``) leaves the time unknown, and the message counts. Raises nothing.
    """
    lead = _LEAD.match(line)
    if lead is None:  # pragma: no cover - every part is optional
        return None
    if lead["priority"] and int(lead["priority"]) >> 3:
        return None
    if lead["facility"] and lead["facility"] != "kern":
        return None
    rest = line[lead.end() :]
    host = None
    stamped = bool(lead["iso"] or lead["month"])
    own = bool(lead["bracket"] or lead["facility"] or (lead["fraction"] or "").startswith(","))
    monotonic, rest = _uptime(rest) if not stamped or own else (None, rest)
    tag = _RFC5424.match(rest) if lead["version"] else _TAG.match(rest)
    if tag is None and stamped and not own and not lead["version"]:
        tag = _BARE_TAG.match(rest)
    if tag is not None and (stamped or monotonic is not None or lead["version"]):
        host = tag["host"]
        if host and _PRIORITY.fullmatch(host):
            return None
        # rsyslog keeps the blank that RFC 3164 has before a message, behind one of its own.
        rest = rest[tag.end() :].lstrip(" ")
        inner, rest = _uptime(rest)
        monotonic = inner if inner is not None else monotonic
    elif not own and (stamped or monotonic is None):
        return None
    message = parse_message(rest)
    if message is None:
        return None
    stamp = _stamp(lead, reference)
    return Line(message, stamp.time, stamp.slack, monotonic, host)


def parse_time(line: str, reference: float) -> float | None:
    """Return when a line was written by its own stamp, of whatever program it is.

    In seconds since the epoch, None where it does not tell; ``reference`` as for ``parse_line``.
    """
    lead = _LEAD.match(line)
    return None if lead is None else _stamp(lead, reference).time


def parse_repetition(line: str, host: str | None, reference: float) -> tuple[int, Stamp] | None:
    """Return (times, when) of syslogd's ``last message repeated N times``, or None.

    It speaks of the line before it in the file. ``host`` is that line's: another host's
    repetition is not its own. Raises nothing.
    """
    lead = _LEAD.match(line)
    if lead is None or not (lead["iso"] or lead["month"]):
        return None
    rest = line[lead.end() :]
    named = _HOST.match(rest)
    if named is not None and named["host"] != "last":
        if host is not None and named["host"] != host:
            return None
        rest = rest[len(named["host"]) + 1 :]
    found = _SINCE_LAST.fullmatch(rest)
    if found is None:
        return None
    return int(found["times"]), _stamp(lead, reference)


def _uptime(text: str) -> tuple[int | None, str]:
    """Split off the kernel's stamp, and the caller that CONFIG_PRINTK_CALLER adds."""
    found = _UPTIME.match(text)
    if found is None:
        return None, text
    text = text[found.end() :]
    caller = _CALLER.match(text)
    if caller is not None:
        text = text[caller.end() :]
    return int(found["seconds"]) * 1000000 + int(found["fraction"]), text


def _stamp(lead: re.Match[str], reference: float) -> Stamp:
    if lead["iso"]:
        numbers = [int(lead[name]) for name in ("y", "mo", "d", "h", "mi", "s")]
        return _iso(numbers, lead["fraction"], lead["zone"], reference)
    if not lead["month"]:
        return UNKNOWN
    month = _MONTHS.index(lead["month"]) + 1
    part = lead["part"]
    slack = 0.0 if part else 1.0
    fraction = float("0" + part) if part else 0.0
    day = int(lead["day"])
    clock = (int(lead["hour"]), int(lead["minute"]), int(lead["second"]))
    told = lead["year"] or lead["after"]
    if told:
        found = _local((int(told), month, day, *clock), reference)
    else:
        found = _latest_year((month, day, *clock), reference)
    return UNKNOWN if found is None else Stamp(found + fraction, slack)


def _iso(numbers: list[int], fraction: str | None, zone: str | None, reference: float) -> Stamp:
    year, month, day, hour, minute, second = numbers
    parts = (year, month, day, hour, minute, second)
    if zone is None:
        found = _local(parts, reference)
    else:
        offset = 0
        if zone != "Z":
            offset = int(zone[1:3]) * 3600 + int(zone[-2:]) * 60
            offset = -offset if zone[0] == "-" else offset
        found = float(_epoch(parts) - offset) if _valid(parts) else None
    if found is None:
        return UNKNOWN
    if fraction is None:
        return Stamp(found, 1.0)
    return Stamp(found + float("0." + fraction[1:]), 0.0)


_LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _valid(parts: tuple[int, int, int, int, int, int]) -> bool:
    year, month, day, hour, minute, second = parts
    if not (year >= 1970 and 1 <= month <= 12 and 1 <= day <= _LENGTHS[month - 1]):
        return False
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if month == 2 and day == 29 and not leap:
        return False
    return hour < 24 and minute < 60 and second <= 60


def _epoch(parts: tuple[int, int, int, int, int, int]) -> int:
    """Seconds since the epoch of a valid time in UTC; calendar.timegm costs an import."""
    year, month, day, hour, minute, second = parts
    # Days since March 1st of the year 0: the leap day comes last that way.
    shifted = year - (month <= 2)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    days = shifted * 365 + shifted // 4 - shifted // 100 + shifted // 400 + day_of_year
    return (days - 719468) * 86400 + hour * 3600 + minute * 60 + second


def _local(parts: tuple[int, int, int, int, int, int], reference: float) -> float | None:
    """Seconds since the epoch of a local time, or None when it is no time.

    In the hour that comes twice, the later of the two that is not after ``reference``. In the
    hour that never comes, the time it would have been without the change.
    """
    if not _valid(parts):
        return None
    second = min(parts[5], 59)  # a leap second has no number of its own
    wanted = (*parts[:5], second)
    try:
        at = time.mktime((*wanted, 0, 0, -1))
        # Asked for with tm_isdst, glibc searches years for a change of clocks: ten times slower.
        found = [
            other
            for other in (at, at - 3600, at + 3600, at - 1800, at + 1800)
            if other == at or tuple(time.localtime(other)[:6]) == wanted
        ]
    except (OverflowError, ValueError, OSError):
        return None
    past = [at for at in found if at <= reference + 60]
    return max(past) if past else min(found)


def _latest_year(parts: tuple[int, int, int, int, int], reference: float) -> float | None:
    try:
        year = time.localtime(reference + DAY).tm_year
    except (OverflowError, ValueError, OSError):
        return None
    # February 29th may be eight years back.
    for candidate in range(year, max(year - 9, 1969), -1):
        found = _local((candidate, *parts), reference)
        if found is not None and found <= reference + DAY:
            return found
    return None
