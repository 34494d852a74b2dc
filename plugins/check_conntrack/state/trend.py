"""The history of a count: samples, peaks, and what changed: the limit, the buckets, a reboot.

Pure functions and values; state_store.py keeps them between runs, and forecast.py says how fast the
count grows.
"""

from __future__ import annotations

from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Callable

    from ..kernel.limits import Limits


MOST_SAMPLES = 32
PEAK_DAYS = 30
DAY = 86400  # seconds
CHANGE_AGE = DAY  # seconds for which a change is mentioned, or the trend window if that is longer
MOST_CHANGES = 6
LIMIT, BUCKETS, BOOT = "limit", "buckets", "boot"
LATEST = 1e11  # seconds; no clock will show more


class Moment(NamedTuple):
    """A moment by both clocks.

    up: seconds since boot, suspend included (CLOCK_BOOTTIME), which nobody can set; 0 for a moment
    of an earlier boot.
    wall: seconds since the epoch (CLOCK_REALTIME).
    """

    up: float = 0.0
    wall: float = 0.0


class Sample(NamedTuple):
    """A count at a moment, in seconds since boot, suspend included (CLOCK_BOOTTIME)."""

    at: float
    entries: int


class Peak(NamedTuple):
    """The largest count of a day, the day in days since 1970-01-01 UTC."""

    day: int
    entries: int


class Change(NamedTuple):
    """A new limit, a new number of buckets, or a boot of the host.

    what: LIMIT, BUCKETS or BOOT.
    old, new: the numbers; of a boot the last count before it, and 0.
    after, before: the last run that read the old number, and the first that read the new one; of a
    boot, `before` is when it was.
    """

    what: str
    old: int
    new: int
    after: Moment
    before: Moment


class Series(NamedTuple):
    """The kept history of a namespace's count.

    boot: the id of the boot (state_store.boot_id). identity: that of the namespace.
    samples: of the trend window, the newest last. peaks: of 30 days.
    limit, buckets: as last read; None if never. last: when.
    changes: the newest last.
    gap: seconds between the last two runs; 0 if not known.
    """

    boot: str = ""
    identity: str = ""
    samples: tuple[Sample, ...] = ()
    peaks: tuple[Peak, ...] = ()
    limit: int | None = None
    buckets: int | None = None
    last: Moment = Moment()
    changes: tuple[Change, ...] = ()
    gap: float = 0.0

    @property
    def peak(self) -> int:
        """Return the largest count of 30 days; 0 if there is none."""
        return max((peak.entries for peak in self.peaks), default=0)

    def recent_changes(self, window: float = 0.0) -> tuple[Change, ...]:
        """Return the changes of the last day, or of so many seconds if these are more."""
        since = self.last.wall - max(CHANGE_AGE, window)
        return tuple(change for change in self.changes if change.before.wall >= since)

    def held_before_boot(self, window: float) -> int:
        """Return the count before the host booted; 0 if that was longer ago than the window."""
        boots = (change for change in self.changes if change.what == BOOT)
        since = self.last.wall - window
        return max((change.old for change in boots if change.before.wall >= since), default=0)

    @property
    def interval(self) -> float:
        """Return the usual seconds between two runs; 0 if not known."""
        recent = self.samples[-4:]
        gaps = [new.at - old.at for old, new in zip(recent, recent[1:])]
        return sorted(gaps)[len(gaps) // 2] if len(gaps) > 1 else self.gap


def belonging_to(series: Series | None, boot: str, identity: str, now: Moment) -> Series:
    """Return the part of a kept series that still holds for this boot and this namespace.

    Samples of another boot say nothing about growth, and neither do those of another namespace
    that had the same name. Peaks stay: they are what the namespace of this name has needed.
    """
    if series is None or not _is_ordered(series):
        return Series(boot, identity)
    if series.identity != identity:
        return Series(boot, identity, peaks=series.peaks)
    if series.boot == boot:
        return series
    last = series.last._replace(up=0.0)
    changes = tuple(
        change._replace(after=change.after._replace(up=0.0), before=change.before._replace(up=0.0))
        for change in series.changes
    )
    if series.boot and boot and last.wall > 0:
        count = series.samples[-1].entries if series.samples else 0
        booted = Moment(0.0, max(last.wall, now.wall - now.up))
        changes = (*changes, Change(BOOT, count, 0, last, booted))[-MOST_CHANGES:]
    return series._replace(boot=boot, samples=(), last=last, changes=changes, gap=0.0)


def _is_ordered(series: Series) -> bool:
    """Return whether a kept series can be one that was written."""
    times = [sample.at for sample in series.samples]
    days = [peak.day for peak in series.peaks]
    moments = [series.last, *(one for change in series.changes for one in change[3:])]
    return (
        all(old < new for old, new in zip(times, times[1:]))
        and days == sorted(days)
        and len(times) <= MOST_SAMPLES
        and len(days) <= PEAK_DAYS
        and all(0 <= time < LATEST for time in (*times, *(t for one in moments for t in one)))
        and all(day * DAY < LATEST for day in days)
        and 0 <= series.gap < LATEST
    )


def with_run(series: Series, limits: Limits, now: Moment, window: float) -> Series:
    """Return the series with this run's count and limits.

    window: how far back samples are kept, in seconds; 0: no samples.
    """
    series = _with_moved_days(series, now)
    changes = [
        Change(what, old, new, series.last, now)
        for what, old, new in (
            (LIMIT, series.limit, limits.limit),
            (BUCKETS, series.buckets, limits.buckets),
        )
        if old is not None and new is not None and old != new
    ]
    sample = Sample(round(now.up, 1), limits.entries)
    return series._replace(
        samples=extended(series.samples, sample, window) if window else (),
        peaks=with_peak(series.peaks, Peak(int(now.wall // DAY), limits.entries)),
        limit=limits.limit,
        buckets=series.buckets if limits.buckets is None else limits.buckets,
        last=now,
        changes=(*series.changes, *changes)[-MOST_CHANGES:],
        gap=max(0.0, round(now.up - series.last.up, 1)) if series.last.up else 0.0,
    )


def _with_moved_days(series: Series, now: Moment) -> Series:
    """Return the series with the days of its peaks moved by as much as the clock was set.

    Within a boot, CLOCK_BOOTTIME tells how much time has passed.
    """
    same_boot = 0 < series.last.up <= now.up
    passed = now.up - series.last.up
    days = round((now.wall - series.last.wall - passed) / DAY) if same_boot else 0
    if not days:
        return series
    moved = (peak._replace(day=peak.day + days) for peak in series.peaks)
    return series._replace(peaks=tuple(peak for peak in moved if peak.day >= 0))


def lowered(series: Series) -> Change | None:
    """Return the change that has lowered the limit to what it is, if it was within a day."""
    changes = [change for change in series.recent_changes() if change.what == LIMIT]
    if not changes or not changes[-1].new:
        return None
    return changes[-1] if not 0 < changes[-1].old <= changes[-1].new else None


def extended(samples: Sequence[Sample], new: Sample, window: float) -> tuple[Sample, ...]:
    """Return the samples of the window that ends with `new`, thinned to MOST_SAMPLES.

    The older they are, the fewer are kept: the distance between two is about the same part of their
    age. Samples from the future belong to another clock and are left out.
    """
    kept = [old for old in samples if new.at - window <= old.at < new.at]
    kept.append(new)
    while len(kept) > MOST_SAMPLES:
        # The first and the newest span the window; the most crowded of the others goes.
        crowded = min(
            range(1, len(kept) - 1),
            key=lambda at: (kept[at + 1].at - kept[at - 1].at) / (new.at - kept[at].at),
        )
        del kept[crowded]
    return tuple(kept)


def with_peak(peaks: Sequence[Peak], new: Peak) -> tuple[Peak, ...]:
    """Return the daily peaks of 30 days with `new`; days in the future are errors of the clock."""
    kept = {peak.day: peak.entries for peak in peaks if new.day - PEAK_DAYS < peak.day <= new.day}
    kept[new.day] = max(new.entries, kept.get(new.day, 0))
    return tuple(Peak(day, entries) for day, entries in sorted(kept.items()))


def held_for(samples: Sequence[Sample], holds: Callable[[int], bool]) -> float:
    """Return the seconds for which `holds` has been true of every sample up to the newest."""
    since = samples[-1].at if samples else 0.0
    for sample in reversed(samples):
        if not holds(sample.entries):
            break
        since = sample.at
    return samples[-1].at - since if samples else 0.0
