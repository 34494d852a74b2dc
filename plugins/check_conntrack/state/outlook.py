"""Compute where a table is heading: rates, lifetime, settling point, and the time to full.

The rate of new entries is counted while listening to the kernel's events. The rate at which entries
end cannot be counted in a second: an expired entry stays in the table, and in the kernel's count,
until the garbage collector passes (gc_worker() in net/netfilter/nf_conntrack_core.c; every 1 to 60
seconds) or a packet hashes to its bucket. So it comes from the counts of earlier runs.

Pure functions and values; nothing here reads a clock.
"""

from __future__ import annotations

import math

from ..kernel.namedtuple import NamedTuple
from .forecast import NEAREST, UNHEARD, Arrivals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW = 900.0  # seconds of earlier runs that the end rate comes from
OLDEST = 3600.0  # seconds; where runs are rare, the last ones count up to this age
SHORTEST_SPAN = 300.0  # seconds; several passes of the garbage collector
FEWEST_RUNS = 3
MOST_RUNS = 32
APART = 25.0  # seconds; runs that are closer together are not kept each
FEWEST_EVENTS = 100  # of all runs, for a lifetime that is known to a tenth
GC_SHORTEST, GC_LONGEST = 1.0, 60.0  # seconds between two passes of the garbage collector
# Seconds. A longer first timeout is that of an established connection, which ends in another way.
LONGEST_FIRST_TIMEOUT = 600.0
MOST_PERCENT = 1000.0  # of the limit; it stands for all that is more
FARTHEST = 30 * 86400.0  # seconds; what is farther away is not a forecast
GROWING = 0.25  # of the new entries
FEW_ANSWERED = 0.1  # of the new entries
BURST = 0.25  # of the mean rate; a third of the time with less is a pause beside a burst
DEVIATIONS = 3.0  # standard deviations of a number of events that are chance


class Listening(NamedTuple):
    """The events of a table that were heard while listening.

    seconds: how long. new: entries that were made meanwhile.
    before, after: the kernel's count at the beginning and at the end.
    first_timeout: the mean of the timeouts, in seconds, that the kernel gave the new entries which
    nobody has answered; None if there were none.
    answered: the share of the new entries that saw a packet come back meanwhile.
    overrun: whether the kernel lost events, so that `new` is a lower bound.
    fewest: the new entries of the third of the time in which the fewest were made; None where that
        is not known.
    """

    seconds: float
    new: int
    before: int
    after: int
    first_timeout: float | None = None
    answered: float = 0.0
    overrun: bool = False
    fewest: float | None = None

    @property
    def new_rate(self) -> float:
        """Return the new entries per second."""
        return self.new / self.seconds

    @property
    def in_burst(self) -> bool:
        """Return whether the new entries came in a burst: they are no rate that leads anywhere.

        A flood that has just begun looks the same.
        """
        third = self.new / 3
        chance = DEVIATIONS * math.sqrt(third + 1)
        if self.overrun or self.fewest is None:
            return False
        return self.fewest < min(BURST * third, third - chance)


class RateSample(NamedTuple):
    """An earlier run that listened: when, in seconds since boot, the count, and what it heard."""

    at: float
    entries: int
    seconds: float
    new: int


class RateHistory(NamedTuple):
    """The kept runs that listened in a namespace, the newest last.

    boot: the id of the boot (state_store.boot_id). identity: that of the namespace.
    """

    boot: str = ""
    identity: str = ""
    samples: tuple[RateSample, ...] = ()


class Outlook(NamedTuple):
    """The direction in which a table is heading; None for what is not known.

    new_rate, end_rate: entries per second. lifetime: seconds that an entry is counted, on average.
    settles_at: percent of the limit where the present rate leads.
    time_to_full: seconds, if it leads to the limit.
    at_least: whether the rates are lower bounds, because events were lost.
    stay: seconds that an entry counts which nobody answers; 0 if not known.
    arrivals: the growth that the new entries allow.
    burst: the entries that the table gained in a burst; 0 if there was none.
    """

    new_rate: float
    end_rate: float | None = None
    lifetime: float | None = None
    settles_at: float | None = None
    time_to_full: float | None = None
    at_least: bool = False
    stay: float = 0.0
    arrivals: Arrivals = UNHEARD
    burst: int = 0


class _Past(NamedTuple):
    """The last minutes: the mean rates, the mean count, and the mean count of their first half."""

    new_rate: float
    end_rate: float
    entries: float
    level: float
    events: int

    @property
    def lifetime(self) -> float | None:
        """Return for how many seconds an entry counts, on average.

        None while a table grows: few of the new entries can have ended.
        """
        known = self.end_rate and self.end_rate >= self.new_rate / 2
        return self.entries / self.end_rate if known else None


def outlook(
    heard: Listening, limit: int, buckets: int | None, earlier: Sequence[RateSample] = ()
) -> Outlook:
    """Return where a table is heading.

    limit: 0 for none. earlier: runs before this one and this one, the oldest first, of one boot.
    """
    past = _past(earlier)
    end_rate = lifetime = None
    if past:
        end_rate = past.end_rate
        lifetime = past.lifetime if past.events >= FEWEST_EVENTS else None
    stay = _stay(heard, buckets, past)
    settled = None
    if not heard.in_burst:
        settled = _settled(heard, limit, past, stay, _burst(earlier, limit))
    share = left = None
    if limit and settled is not None:
        share = min(100 * settled / limit, MOST_PERCENT)
        left = _time_to_full(heard, limit, settled)
    arrivals = _arrivals(heard, earlier)
    step = max(heard.after - heard.before, 0) if heard.in_burst else 0
    return Outlook(
        heard.new_rate, end_rate, lifetime, share, left, heard.overrun, stay, arrivals, step
    )


def _arrivals(heard: Listening, samples: Sequence[RateSample]) -> Arrivals:
    """Return the growth that the new entries allow.

    Jobs may open connections between the runs: where the count rose twice between runs that heard
    no more than this one, growth over that time is not over.
    """
    if heard.overrun:
        return UNHEARD
    seen = (heard.after - heard.before) / heard.seconds
    most = max(seen, (heard.new + DEVIATIONS * math.sqrt(heard.new + 1)) / heard.seconds)
    calm = [one for one in samples if one.new <= most * one.seconds]
    rises = [
        one.at
        for one, other in zip(calm, calm[1:])
        if other.entries - one.entries > most * (other.at - one.at)
    ]
    bursts = samples[-1].at - rises[-2] if len(rises) > 1 else math.inf
    return Arrivals(heard.new_rate, most, bursts)


def _settled(
    heard: Listening, limit: int, past: _Past | None, stay: float, burst: float
) -> float | None:
    """Return the number of entries where the present rate leads; None if that is not known.

    The entries of the past end at their rate, and as many new ones replace them. Of those that
    arrive beyond that, one that is never answered stays exactly as long as the kernel's first
    timeout says, and one that is answered as long as entries of the past do. If there is no past,
    only a table that fills up with unanswered entries tells where it is heading. burst: a rate up
    to this one was over before.
    """
    if past is None:
        unanswered = heard.new_rate * (1 - heard.answered) * stay
        few = heard.answered <= FEW_ANSWERED
        if not heard.new or not (few or 0 < limit <= unanswered):
            return None
        return max(heard.after, heard.new_rate * stay if few else unanswered)
    rate = heard.new_rate
    expected = past.new_rate * heard.seconds
    chance = DEVIATIONS * math.sqrt(expected + 1)
    if past.new_rate <= rate <= burst or abs(heard.new - expected) <= chance:
        rate = past.new_rate
    more = rate - past.end_rate
    if more <= 0:
        return past.entries * rate / past.end_rate if past.end_rate else past.entries
    few = heard.answered <= FEW_ANSWERED
    unanswered = more if few else min(more, rate * (1 - heard.answered))
    settled = past.level + unanswered * stay
    if past.lifetime:
        settled += (more - unanswered) * past.lifetime
    elif more - unanswered > FEW_ANSWERED * more and not 0 < limit <= settled:
        return None
    # If fewer end than that, the table grows for certain.
    return max(settled, heard.after) if more > GROWING * rate else settled


def _burst(samples: Sequence[RateSample], limit: int) -> float:
    """Return the highest rate of an earlier burst that was over, and a tenth; 0 if there is none.

    If the table was full since, a burst is what filled it.
    """
    if any(0 < limit <= one.entries for one in samples):
        return 0.0
    rates = [one.new / one.seconds for one in samples[:-1]]
    over = [rate for at, rate in enumerate(rates) if min(rates[at:]) < rate / 2]
    return 1.1 * max(over, default=0.0)


def _stay(heard: Listening, buckets: int | None, past: _Past | None) -> float:
    """Return for how many seconds an entry is counted that nobody answers."""
    if heard.first_timeout is None:
        return 0.0
    timeout = min(heard.first_timeout, LONGEST_FIRST_TIMEOUT)
    entries, rate = (past.entries, past.new_rate) if past else (heard.after, heard.new_rate)
    alone = entries <= rate * (timeout + GC_LONGEST)
    return timeout + removal_lag(timeout, heard.new_rate, buckets, alone=alone)


def removal_lag(timeout: float, rate: float, buckets: int | None, *, alone: bool) -> float:
    """Return the mean seconds for which the kernel counts an entry after its timeout.

    The garbage collector passes after the mean of the timeouts that are left in all tables, 60
    seconds at most. Before that, any packet that hashes to one of an entry's two buckets removes
    it. alone: whether there are no other entries, with longer timeouts.
    """
    gc = min(max(timeout / 2 if alone else GC_LONGEST, GC_SHORTEST), GC_LONGEST)
    visits = 2 * rate / buckets if buckets else 0.0
    if visits * gc < 1e-3:
        return gc / 2
    return (1 - (1 - math.exp(-visits * gc)) / (visits * gc)) / visits


def _time_to_full(heard: Listening, limit: int, settled: float) -> float | None:
    """Return the seconds until the limit is reached; None if the table settles before."""
    if heard.after >= limit:
        return 0.0
    if settled < limit:
        return None
    seen = (heard.after - heard.before) / heard.seconds
    slope = max(seen, heard.new_rate * (1 - heard.after / settled))
    seconds = max((limit - heard.after) / slope, NEAREST) if slope > 0 else FARTHEST
    return seconds if seconds < FARTHEST else None


def _past(samples: Sequence[RateSample]) -> _Past | None:
    """Return the means of the last runs; None where these are too few or too close together."""
    if not samples:
        return None
    now = samples[-1].at
    recent = [one for one in samples if one.at >= now - WINDOW]
    if len(recent) < FEWEST_RUNS:
        recent = list(samples[-FEWEST_RUNS:])
    if len(recent) < FEWEST_RUNS or now - recent[0].at < SHORTEST_SPAN:
        return None
    half = len(recent) // 2
    first, last = recent[:half], recent[-half:]
    level = _mean([one.entries for one in first])
    change = _mean([one.entries for one in last]) - level
    slope = change / (_mean([one.at for one in last]) - _mean([one.at for one in first]))
    events = sum(one.new for one in recent)
    rate = events / sum(one.seconds for one in recent)
    entries = _mean([one.entries for one in recent])
    return _Past(rate, max(rate - slope, 0.0), entries, level, events)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def with_run(history: RateHistory, new: RateSample) -> RateHistory:
    """Return a history with this run; runs that are close together are thinned out."""
    kept = [one for one in history.samples if new.at - OLDEST <= one.at < new.at]
    if len(kept) > 1 and kept[-1].at - kept[-2].at < APART:
        del kept[-1]
    return history._replace(samples=(*kept, new)[-MOST_RUNS:])


def belonging_to(history: RateHistory | None, boot: str, identity: str) -> RateHistory:
    """Return a kept history if it is of this boot and this namespace, else an empty one."""
    fits = history is not None and (history.boot, history.identity) == (boot, identity)
    if history is None or not fits or not _is_possible(history.samples):
        return RateHistory(boot, identity)
    return history


def _is_possible(samples: Sequence[RateSample]) -> bool:
    """Return whether kept runs can be ones that were written."""
    times = [one.at for one in samples]
    return times == sorted(times) and all(
        one.at >= 0 and one.entries >= 0 and one.new >= 0 and 0 < one.seconds < OLDEST
        for one in samples
    )
