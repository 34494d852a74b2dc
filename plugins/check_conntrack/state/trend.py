"""How a count has been moving: growth, peak, and when it will reach a limit.

Pure functions over samples that history.py keeps.
"""

from __future__ import annotations

from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Callable


MOST_SAMPLES = 32  # enough for a steady slope, few enough to compare each with each in 0.3 ms
FEWEST_RUNS = 3
SHORTEST_SPAN = 300.0  # seconds
PEAK_DAYS = 30
FARTHEST = 30 * 86400  # seconds; a date farther away than this is no forecast


class Sample(NamedTuple):
    """A count at a moment, in seconds since boot, suspend included (CLOCK_BOOTTIME)."""

    at: float
    entries: int


class Peak(NamedTuple):
    """The largest count of a day, the day in days since 1970-01-01 UTC."""

    day: int
    entries: int


def extended(samples: Sequence[Sample], new: Sample, window: float) -> tuple[Sample, ...]:
    """The samples of the window that ends with `new`, evenly thinned to MOST_SAMPLES.

    Samples that claim to be from the future belong to another clock and are left out.
    """
    kept = [old for old in samples if new.at - window <= old.at < new.at]
    kept.append(new)
    while len(kept) > MOST_SAMPLES:
        # The first and the newest span the window; of the others, the most crowded one goes.
        crowded = min(range(1, len(kept) - 1), key=lambda at: kept[at + 1].at - kept[at - 1].at)
        del kept[crowded]
    return tuple(kept)


def growth(samples: Sequence[Sample]) -> float | None:
    """Entries per second, signed; None below three runs or five minutes.

    Siegel's repeated median: of each sample's slopes to all others the median, of these the
    median. Up to half of the samples may be outliers without moving it far. Where a median lies
    between two slopes the one nearer to nothing counts, so that of three runs a burst in one is
    no growth.
    """
    if len(samples) < FEWEST_RUNS or samples[-1].at - samples[0].at < SHORTEST_SPAN:
        return None
    return _median(
        [
            _median(
                [
                    (other.entries - one.entries) / (other.at - one.at)
                    for other in samples
                    if other.at != one.at
                ]
            )
            for one in samples
        ]
    )


def _median(slopes: list[float]) -> float:
    slopes.sort()
    middle = slopes[(len(slopes) - 1) // 2 : len(slopes) // 2 + 1]
    return min(middle, key=abs)


def time_to_full(entries: int, limit: int, slope: float | None) -> float | None:
    """Seconds until `limit` is reached at that slope, 0 when it is.

    None where there is no limit, no growth, or 30 days are not enough.
    """
    if limit <= 0:
        return None
    if entries >= limit:
        return 0.0
    if slope is None or slope <= 0:
        return None
    seconds = (limit - entries) / slope
    return seconds if seconds < FARTHEST else None


def with_peak(peaks: Sequence[Peak], new: Peak) -> tuple[Peak, ...]:
    """The daily peaks of the last 30 days, `new` among them; days to come are a clock's error."""
    kept = {peak.day: peak.entries for peak in peaks if new.day - PEAK_DAYS < peak.day <= new.day}
    kept[new.day] = max(new.entries, kept.get(new.day, 0))
    return tuple(Peak(day, entries) for day, entries in sorted(kept.items()))


def held_for(samples: Sequence[Sample], holds: Callable[[int], bool]) -> float:
    """Seconds for which every sample up to the newest is one for which `holds` is true."""
    since = samples[-1].at if samples else 0.0
    for sample in reversed(samples):
        if not holds(sample.entries):
            break
        since = sample.at
    return samples[-1].at - since if samples else 0.0
