"""Read when a line was written, in whatever order and language its date stands.

A date is read word by word: a clock, an ISO date, the name of a month, a day, a year and a zone
may come in any order that logs use. ``Dates`` collects them; ``datetime`` does the arithmetic.
"""

from __future__ import annotations

import re
import time

from ..namedtuple import NamedTuple
from .calendar_words import (
    AFTERNOON,
    AMBIGUOUS_ZONES,
    FILLERS,
    MONTHS,
    MORNING,
    WEEKDAYS,
    ZONES,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import tzinfo

DAY = 86400.0
QUARTER = 900.0
"""Seconds: time zones differ by multiples of a quarter of an hour."""
WIDEST_ZONE = 26 * 3600.0
"""Seconds between the zones that lie farthest apart, UTC-12 and UTC+14."""

# Strings, not compiled: re compiles and keeps what a log needs, and most logs need two of them.
_ZONE = r"(?P<zone>Z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)?"
_CLOCK_PARTS = (
    r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})"
    r"(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
)
_CLOCK = rf"{_CLOCK_PARTS}(?P<half>[aApP][mM])?{_ZONE}"
_YEAR_FIRST = (
    r"(?P<year>[0-9]{4})(?P<mark>[-/.:]|)(?P<month>[0-9]{2})(?P=mark)(?P<day>[0-9]{2})"
    rf"(?:[T_:-]{_CLOCK_PARTS}{_ZONE}|[T_-]?(?P<h>[0-9]{{2}})(?P<m>[0-9]{{2}})(?P<s>[0-9]{{2}})Z?)?"
)
_DAY_FIRST = (
    r"(?P<day>[0-9]{1,2})(?P<mark>[-/.])(?P<month>[0-9]{1,2}|[^\W\d_]{3,9})(?P=mark)"
    rf"(?P<year>[0-9]{{4}})(?:[T_:]{_CLOCK_PARTS}{_ZONE})?"
)
_MONTH_FIRST = r"(?P<month>[0-9]{2}|[^\W\d_]{3})[-/](?P<day>[0-9]{2})(?:/(?P<year>[0-9]{4}))?"
_GLUED = r"(?P<month>[^\W\d_]{3,9}\.?)(?P<day>[0-9]{1,2})"
_EAST_ASIAN = (
    r"(?:(?P<year>[0-9]{4})[年년])?(?P<month>[0-9]{1,2})[月월](?:(?P<day>[0-9]{1,2})[日일]?)?"
)
_EAST_ASIAN_CLOCK = (
    r"(?P<half>上午|下午|午前|午後|오전|오후)?(?P<hour>[0-9]{1,2})[时時시:](?P<minute>[0-9]{1,2})[分분:]"
    r"(?P<second>[0-9]{1,2})[秒초]?"
)
_EPOCH = (
    r"(?P<seconds>[0-9]{10})(?:(?P<more>[0-9]{3}|[0-9]{6}|[0-9]{9})|[.,](?P<fraction>[0-9]{1,9}))?"
)
_TAI64 = r"@4(?P<seconds>[0-9a-f]{15})(?P<nanoseconds>[0-9a-f]{8})?"
_OFFSET = r"(?:UTC|GMT)?(?P<offset>[+-][0-9]{1,2}(?::?[0-9]{2})?)"
_NUMBER = r"(?P<number>[0-9]{1,4})(?P<unit>[.,日일年년]?,?)"


class Stamp(NamedTuple):
    """When a line was written.

    ``time`` is in seconds since the epoch, None where the line does not tell. ``slack`` are the
    seconds that the form leaves open. ``offset``: it bears its own offset from UTC. ``if_local``:
    the time if an abbreviation with several meanings (IST) is that of this process's zone.
    """

    time: float | None
    slack: float = 0.0
    offset: bool = False
    if_local: float | None = None


UNDATED = Stamp(None)


class Dates:
    """The parts of one date, collected word by word."""

    def __init__(self) -> None:
        """Start without any part."""
        self.epoch: float | None = None
        self.year: int | None = None
        self.month: int | None = None
        self.day: int | None = None
        self.clock: tuple[int, int, int] | None = None
        self.fraction: str | None = None
        self.zone: str | None = None
        self.afternoon: bool | None = None
        self.weekday = False
        self.doubtful = False
        self.ambiguous = False  # two numbers beside a month: which one is the day?
        self.slack = 1.0
        self.comma = False

    @classmethod
    def of_text(cls, text: str) -> Dates:
        """Return the date in a text that holds nothing else."""
        dates = cls()
        words = [word for word in text.replace(", ", " ").split() if word not in FILLERS]
        for word, following in zip(words, [*words[1:], ""]):
            dates.take(word, following)
        return dates

    def __bool__(self) -> bool:
        """Tell whether it can be a date: a clock, or a point in time."""
        return self.clock is not None or self.epoch is not None

    @property
    def started(self) -> bool:
        """Tell whether it has any part."""
        return bool(self) or self.weekday or any((self.month, self.day, self.year))

    @property
    def complete(self) -> bool:
        """Tell whether it names a day and a time of day."""
        return self.epoch is not None or (self.clock is not None and self.day is not None)

    def take(self, word: str, following: str = "") -> bool:
        """Take the word as a part of this date; return whether it is one.

        ``following`` is the next word: a number alone is a day only beside a month.
        """
        if not word:
            return False
        if word[0].isdigit() or word[0] in "@+-":
            return self._take_number(word, following)
        return self._take_word(word, following)

    def _take_number(self, word: str, following: str) -> bool:
        if self.epoch is not None:
            return False
        if len(word) < 5 and word.rstrip(".,").isdigit():
            return self._take_plain_number(word, following)
        if self.clock is None and (":" in word or not word.isascii()):
            match = re.fullmatch(_CLOCK, word) or re.fullmatch(_EAST_ASIAN_CLOCK, word)
            if match is not None:
                self._take_clock(match)
                return True
        for pattern in (_YEAR_FIRST, _DAY_FIRST, _MONTH_FIRST, _EAST_ASIAN):
            match = re.fullmatch(pattern, word.rstrip(",")) if self.month is None else None
            if match is not None and self._take_date(match, day_first=pattern is _DAY_FIRST):
                return True
        if self.clock is not None and self.zone is None:
            match = re.fullmatch(_OFFSET, word)
            if match is not None:
                self.zone = match["offset"]
                return True
        return self._take_plain_number(word, following) or self._take_epoch(word)

    def _take_plain_number(self, word: str, following: str) -> bool:
        match = re.fullmatch(_NUMBER, word)
        if match is None:
            return False
        number = int(match["number"])
        if len(match["number"]) == 4:
            if 1970 <= number < 2200 and self.year is None and (self.month or not self.clock):
                self.year = number
                return True
            return False
        if self.day and self.month and not self.clock and ":" in following:
            self.ambiguous = True
            return True
        beside = self.month is not None or _month(following) is not None
        if self.day is None and beside and len(match["number"]) < 3:
            self.day = number
            return True
        return False

    def _take_epoch(self, word: str) -> bool:
        if self.clock is not None or self.month is not None:
            return False
        match = re.fullmatch(_EPOCH, word)
        if match is not None:
            fraction = match["fraction"] or match["more"]
            self.epoch = int(match["seconds"]) + (float("0." + fraction) if fraction else 0.0)
            self.slack = 0.0 if fraction else 1.0
            return True
        match = re.fullmatch(_TAI64, word)
        if match is not None:
            # 10 s: the offset that daemontools and s6 use; leap seconds are not counted.
            self.epoch = int(match["seconds"], 16) - 10.0
            if match["nanoseconds"]:
                self.epoch += int(match["nanoseconds"], 16) / 1e9
            self.slack = 0.0
            return True
        return False

    def _take_clock(self, match: re.Match[str]) -> None:
        parts = match.groupdict()
        self.clock = (int(parts["hour"]), int(parts["minute"]), int(parts["second"] or 0))
        if parts["second"] is None:
            self.slack = 60.0
        fraction = parts.get("fraction")
        if fraction:
            self.fraction = fraction
            self.slack = 0.0
            self.comma = "," in match[0]
        self.zone = self.zone or parts.get("zone")
        half = parts.get("half")
        if half:
            self._take_half(half.lower())

    def _take_date(self, match: re.Match[str], *, day_first: bool) -> bool:
        parts = match.groupdict()
        month = _month(parts["month"]) or (int(parts["month"]) if parts["month"].isdigit() else 0)
        day = int(parts["day"] or 0)
        if parts.get("mark") == "/" and day_first and parts["month"].isdigit():
            month, day = _american(month, day)
        if not month and not day_first:
            return False
        self.month, self.day = month, day if parts["day"] else self.day
        self.year = int(parts["year"]) if parts["year"] else self.year
        if parts.get("hour"):
            self._take_clock(match)
        elif parts.get("h"):
            self.clock = (int(parts["h"]), int(parts["m"]), int(parts["s"]))
            self.zone = "Z" if match[0].endswith("Z") else self.zone
        return True

    def _take_half(self, word: str) -> bool:
        if self.afternoon is None and (word in MORNING or word in AFTERNOON):
            self.afternoon = word in AFTERNOON or word[:2] in AFTERNOON
            return True
        return False

    def _take_word(self, word: str, following: str) -> bool:
        if self.epoch is not None:
            return False
        if self.clock is None and not word.isascii():
            match = re.fullmatch(_EAST_ASIAN_CLOCK, word)
            if match is not None:
                self._take_clock(match)
                return True
        plain = word.rstrip(".,").lower()
        if self.month is None or self.doubtful:
            # Languages share short names: "mar" is a month, and a day of the week before one.
            month = _month(plain)
            after_day = self.day is not None or following.rstrip(".,日일").isdigit()
            if month is not None and (after_day or plain not in WEEKDAYS):
                self.doubtful = self.month is None and plain in WEEKDAYS
                self.month = month
                return True
            match = re.fullmatch(_GLUED, word) or re.fullmatch(_MONTH_FIRST, word.rstrip(","))
            if match is not None and _month(match["month"]) is not None:
                return self._take_date_of_word(match)
        if self.clock is None:
            if plain.strip("()") in WEEKDAYS and not self.weekday:
                self.weekday = True
                return True
            return self._take_half(plain)
        return self._take_half(plain) or self._take_zone(word)

    def _take_date_of_word(self, match: re.Match[str]) -> bool:
        self.month, self.day = _month(match["month"]), int(match["day"])
        year = match.groupdict().get("year")
        self.year = int(year) if year else self.year
        return True

    def _take_zone(self, word: str) -> bool:
        if self.zone is not None:
            return self.zone[0] in "+-" and word in ZONES  # Go writes both: "+0000 UTC"
        match = re.fullmatch(_OFFSET, word)
        if match is not None:
            self.zone = match["offset"]
            return True
        if word in ZONES or word in AMBIGUOUS_ZONES or word in time.tzname:
            self.zone = word
            return True
        return False

    def stamp(self, reference: float, zone: tzinfo | None = None) -> Stamp:
        """Return the point in time.

        ``reference`` is when the line was written at the latest, in seconds since the epoch (the
        file's last change, or now). A date without a year is of the latest year that puts it no
        more than a day after it. A time without an offset is in ``zone``, or in the zone of this
        process; in the hour that comes twice it is the later one that is not after
        ``reference``. A date that no calendar has leaves the time unknown, and so does an
        abbreviation with several meanings that is not of this process, where ``zone`` is None.
        """
        if self.epoch is not None:
            return Stamp(self.epoch, self.slack, True)
        if self.clock is None or not self.month or not self.day or self.ambiguous:
            return UNDATED
        hour, minute, second = self.clock
        if self.afternoon is not None and 1 <= hour <= 12:
            hour = hour % 12 + (12 if self.afternoon else 0)
        parts = (self.month, self.day, hour, minute, min(second, 59) if second == 60 else second)
        own = None if self.zone is None or self.zone in AMBIGUOUS_ZONES else _fixed(self.zone)
        where = own or zone
        if self.zone is not None and own is None and self.zone in time.tzname:
            where = None
        try:
            moment = (
                _latest_year(parts, where, reference)
                if self.year is None
                else _time((self.year, *parts), where, reference)
            )
        except (ValueError, OverflowError, OSError):
            return UNDATED
        if moment is None:
            return UNDATED
        moment += float("0." + self.fraction) if self.fraction else 0.0
        if self.zone in AMBIGUOUS_ZONES and zone is None and self.zone not in time.tzname:
            return Stamp(None, if_local=moment)
        return Stamp(moment, self.slack, own is not None)


def read_stamp(text: str, reference: float, zone: tzinfo | None = None) -> Stamp:
    """Return the point in time that a text by itself tells, such as the value of a field.

    A number is in seconds, milli-, micro- or nanoseconds since the epoch, by its size.
    """
    return Dates.of_text(text).stamp(reference, zone)


def _month(word: str) -> int | None:
    return MONTHS.get(word.rstrip(".,").lower())


def _american(month: int, day: int) -> tuple[int, int]:
    """Return (month, day) of two numbers with slashes, (0, 0) where both orders make sense."""
    if month > 12:
        return day, month
    if day > 12 or day == month:
        return month, day
    return 0, 0


def _fixed(text: str) -> tzinfo | None:
    """Return the zone of an offset (``+02:00``, ``-0530``, ``+1``) or of an abbreviation."""
    from datetime import timedelta, timezone

    if text == "Z":
        return timezone.utc
    hours = ZONES.get(text.upper())
    if hours is None:
        match = re.fullmatch(_OFFSET, text)
        if match is None:
            return None
        sign, digits = match["offset"][0], match["offset"][1:].replace(":", "")
        hour, minutes = (digits[:-2], digits[-2:]) if len(digits) > 2 else (digits, "0")
        hours = (int(hour) + int(minutes) / 60) * (-1 if sign == "-" else 1)
    if abs(hours) >= 24:
        return None
    return timezone(timedelta(hours=hours))


def _time(
    parts: tuple[int, int, int, int, int, int], zone: tzinfo | None, reference: float
) -> float:
    from datetime import datetime

    if not 1970 <= parts[0] < 2200:
        raise ValueError("not a year of a log")
    late = datetime(*parts, tzinfo=zone, fold=1).timestamp()
    if late <= reference + 60:
        return late
    return datetime(*parts, tzinfo=zone).timestamp()


def _latest_year(
    parts: tuple[int, int, int, int, int], zone: tzinfo | None, reference: float
) -> float | None:
    year = time.gmtime(reference + 2 * DAY).tm_year
    # February 29th may be eight years back.
    for candidate in range(year, max(year - 10, 1969), -1):
        try:
            moment = _time((candidate, *parts), zone, reference)
        except ValueError:
            continue
        if moment <= reference + DAY:
            return moment
    return None


def parse_zone(text: str) -> tzinfo:
    """Return the time zone of a name (``Europe/Berlin``) or of an offset (``+02:00``, ``UTC``).

    Raises ValueError where there is no such zone.
    """
    zone = _fixed(text)
    if zone is not None:
        return zone
    try:
        from zoneinfo import ZoneInfo

        return ZoneInfo(text)
    except (ImportError, KeyError, ValueError, OSError):
        raise ValueError(f"unknown time zone {text!r}") from None


def zone_shift(written: float, actual: float, tolerance: float = 60.0) -> float:
    """Return the seconds to add to times of a log that was written in another zone, or 0.0.

    ``written`` is what a line's stamp without an offset says in our zone; ``actual`` is when the
    line was really written: boot time and the kernel's own stamp, or when the file was last
    changed for its last line. Zones differ by multiples of 15 minutes, and by 26 hours at most; a
    difference that is no such multiple, to ``tolerance`` seconds, is no zone's.
    """
    difference = actual - written
    shift = round(difference / QUARTER) * QUARTER
    if abs(shift) > WIDEST_ZONE or abs(difference - shift) > tolerance:
        return 0.0
    return shift
