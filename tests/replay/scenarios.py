"""Incidents and healthy days as data: who opens connections, how fast, and for how long.

One row is one scenario; `table_model.py` makes the count of it, and `comparison.py` runs the alarms
over that. Rates are connections per second at a time in seconds; every incident begins at 0, after
at least BEFORE seconds of the load that the table is used to.
"""

from __future__ import annotations

import math
from typing import Callable, NamedTuple

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
BEFORE = 2 * HOUR
FOREVER = math.inf
SYN_SENT = TIME_WAIT = 120.0  # nf_conntrack_tcp_timeout_syn_sent, _time_wait
UDP = 30.0  # nf_conntrack_udp_timeout
MIXED = 600.0  # seconds that connections of many kinds stay, on average

Rate = Callable[[float], float]


class Stream(NamedTuple):
    """Connections of one kind.

    rate: how many are opened a second, at a time.
    lifetime: how long an entry stays, in seconds.
    timeout: the one that the kernel gives a new entry, in seconds.
    answered: whether packets come back within the second.
    """

    rate: Rate
    lifetime: float
    timeout: float = SYN_SENT
    answered: bool = True


class Scenario(NamedTuple):
    """A history of a table.

    limit: nf_conntrack_max. ends: when the replay ends, in seconds after 0.
    before: seconds that are replayed before 0.
    """

    name: str
    limit: int
    ends: float
    streams: tuple[Stream, ...]
    before: float = BEFORE

    @property
    def span(self) -> float:
        """Return the replayed seconds."""
        return self.before + self.ends


def steady(rate: float) -> Rate:
    """Return a rate that wavers by a twelfth, as traffic does, in periods of 2 to 40 minutes."""
    return lambda at: (
        rate * (1 + (math.sin(at / 23) + math.sin(at / 101 + 1) + math.sin(at / 383 + 2)) / 36)
    )


def between(begin: float, end: float, rate: float) -> Rate:
    """Return a constant rate from `begin` to `end`, and none at other times."""
    return lambda at: rate if begin <= at < end else 0.0


def daily(low: float, high: float, weekend: float, steepness: float = 1.0) -> Rate:
    """Return a curve with its low at 3 and its high at 15 o'clock; time 0 is a Sunday's midnight.

    weekend: the high of Saturday and Sunday. steepness: above 1, days rise and fall faster.
    """

    def rate(at: float) -> float:
        day, hour = divmod(at, DAY)
        top = weekend if int(day) % 7 in (0, 6) else high
        wave = math.sin((hour / DAY - 0.375) * 2 * math.pi) * steepness
        return low + (top - low) * (max(-1.0, min(1.0, wave)) + 1) / 2

    return rate


def wavering(rate: Rate) -> Rate:
    """Return a rate that wavers as steady() does."""
    noise = steady(1.0)
    return lambda at: rate(at) * noise(at)


def usual(share: float, limit: int, lifetime: float = MIXED) -> Stream:
    """Return the load that keeps a table at so many percent of its limit."""
    return Stream(steady(share / 100 * limit / lifetime), lifetime)


def unanswered(rate: float, timeout: float = SYN_SENT) -> Stream:
    """Return connections from 0 on that nobody answers."""
    return Stream(between(0, FOREVER, rate), timeout, timeout, answered=False)


def ramp(begin: float, rise: float, hold: float, fall: float, top: float) -> Rate:
    """Return a rate that rises to `top` as half a cosine, holds, and falls."""

    def rate(at: float) -> float:
        if at < begin + rise:
            part = max(0.0, (at - begin) / rise)
        else:
            part = 1 - min(1.0, max(0.0, (at - begin - rise - hold) / fall))
        return top * (1 - math.cos(math.pi * part)) / 2

    return rate


def cron(every: float, lasts: float, rate: float) -> Rate:
    """Return jobs that open connections for some seconds, again and again."""
    return lambda at: rate if at % every < lasts else 0.0


INCIDENTS = (
    Scenario(
        "masscan, 15000/s into 262144",
        262144,
        10 * MINUTE,
        (usual(3, 262144), unanswered(15000)),
    ),
    Scenario(
        "scan, 4000/s into 76957",
        76957,
        10 * MINUTE,
        (usual(3, 76957), unanswered(4000)),
    ),
    Scenario(
        "flood, 12000/s into 1048576",
        1048576,
        15 * MINUTE,
        (usual(10, 1048576), unanswered(12000)),
    ),
    Scenario(
        "UDP to a dead address, 10000/s, 13 h",
        262144,
        13 * HOUR,
        (usual(10, 262144), unanswered(10000, UDP)),
    ),
    Scenario(
        "web, 10000/s, TIME_WAIT, spike of 4 times",
        4194304,
        10 * MINUTE,
        (
            Stream(steady(10000), TIME_WAIT),
            Stream(between(0, 3 * MINUTE, 30000), TIME_WAIT),
        ),
    ),
    Scenario(
        "from 2% to 88% in 21 minutes, and on",
        262144,
        40 * MINUTE,
        (usual(2, 262144), Stream(between(0, FOREVER, 0.86 * 262144 / 1260), FOREVER)),
    ),
    Scenario(
        "from 30%, 1% of the limit a minute",
        262144,
        2 * HOUR,
        (usual(30, 262144), Stream(between(0, FOREVER, 262144 / 100 / 60), FOREVER)),
    ),
    Scenario(
        "leak of 1/s over days",
        262144,
        3 * DAY,
        (
            Stream(wavering(daily(5, 30, 15)), MIXED),
            Stream(between(0, FOREVER, 1), FOREVER),
        ),
    ),
)
HEALTHY = (
    Scenario(
        "75 minutes at 95.4% of 1000000",
        1000000,
        7 * HOUR,
        (
            usual(10, 1000000),
            Stream(ramp(-6 * HOUR, 6 * HOUR, 75 * MINUTE, 5 * HOUR, 851600 / 1800), 1800),
        ),
        before=7 * HOUR,
    ),
    Scenario(
        "daily curve to 70%, Sunday and Monday",
        262144,
        2 * DAY,
        (Stream(wavering(daily(60, 300, 170)), MIXED),),
    ),
    Scenario(
        "steep daily curve to 85%, Sunday and Monday",
        262144,
        2 * DAY,
        (Stream(wavering(daily(60, 350, 170, 2.0)), MIXED),),
    ),
    Scenario(
        "spike to 90% for 4 minutes",
        262144,
        HOUR,
        (
            usual(25, 262144, TIME_WAIT),
            Stream(between(0, 2 * MINUTE, 1190), TIME_WAIT),
        ),
    ),
    Scenario(
        "deploy that restarts everything, 40% to 75%",
        262144,
        2 * HOUR,
        (
            usual(5, 262144),
            # Those that were open stay in TIME_WAIT, while all come back within 20 s.
            Stream(between(-3 * HOUR, -3 * HOUR + 60, 0.35 * 262144 / 60), 3 * HOUR + TIME_WAIT),
            Stream(between(0, 20, 0.35 * 262144 / 20), FOREVER),
        ),
    ),
    Scenario(
        "failover that doubles the load, 30% to 60%",
        262144,
        3 * HOUR,
        (usual(30, 262144), Stream(between(0, FOREVER, 0.3 * 262144 / MIXED), MIXED)),
    ),
    Scenario(
        "web, 10000/s, TIME_WAIT, spike of 4 times",
        8388608,
        HOUR,
        (Stream(steady(10000), TIME_WAIT), Stream(between(0, 3 * MINUTE, 30000), TIME_WAIT)),
    ),
    Scenario(
        "jobs every 5 minutes, 50% to 70%",
        262144,
        6 * HOUR,
        (usual(50, 262144), Stream(cron(5 * MINUTE, 20, 0.15 * 262144 / 20), TIME_WAIT)),
    ),
    Scenario(
        "resolver, 1000/s, entries expire in bulk",
        65536,
        6 * HOUR,
        (Stream(steady(1000), UDP, UDP),),
    ),
)
