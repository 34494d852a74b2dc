"""Count the most frequent keys of a stream in bounded memory: Misra-Gries, in bulk.

A plain counter that is cut back whenever it holds more than `limit` keys: the least d that
leaves `capacity` keys is taken from every count, and what falls to nothing is dropped (J. Misra,
D. Gries, "Finding repeated elements", 1982; the batched form is that of Agarwal and others,
"Mergeable summaries", 2012). Once a cut was needed, keys are gathered, and more than `capacity`
different ones are cut by 1 before they are added. Each cut takes d from more than `capacity` keys
at once, so that

    true count - error <= count <= true count,   error <= total / (capacity + 1)

for every key, `error` being the sum of all d, known exactly. Keys that make up more than
1 / (capacity + 1) of the stream are therefore never lost, and while no more than `limit` different
keys come, every count is exact.
"""

from __future__ import annotations

import collections
import heapq
import itertools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

CAPACITY = 4096
LIMIT = 65536


class HeavyHitters:
    """Counts of the most frequent keys; holds at most 5/4 `limit` keys and one feeding.

    Attributes:
        capacity: keys that a cut leaves
        limit: keys that are held before a cut
        total: keys counted, with repetitions
        error: by how much any count may be too low
    """

    __slots__ = ("_counts", "_waiting", "capacity", "error", "limit", "total")

    def __init__(self, capacity: int = CAPACITY, limit: int = LIMIT) -> None:
        """Start empty; raises ValueError unless 0 < capacity <= limit."""
        if not 0 < capacity <= limit:
            raise ValueError("a capacity is above 0, and not above the limit")
        self.capacity = capacity
        self.limit = limit
        self._counts: collections.Counter[Any] = collections.Counter()
        self._waiting: list[Any] = []
        self.total = 0
        self.error = 0

    def feed(self, keys: Iterable[Any], number: int) -> None:
        """Count `number` keys. Memory grows by this one feeding before it is cut back."""
        self.total += number
        if self.error:
            # There are too many keys anyway: gather more before the large counter is touched.
            self._waiting.extend(keys)
            if len(self._waiting) >= self.limit // 4:
                self._settle()
        else:
            # Counter.update over an iterable is one C loop: nothing in Python is faster.
            self._counts.update(keys)
            if len(self._counts) > self.limit:
                self._cut()

    def _settle(self) -> None:
        """Count the keys that wait; those that came once are not added to the large counter."""
        fresh = collections.Counter(self._waiting)
        self._waiting.clear()
        # A cut of 1, made before the counts meet; it must take from enough keys at once.
        taken = int(len(fresh) > self.capacity)
        self.error += taken
        counts = self._counts
        for key in _above(taken, fresh):
            counts[key] += fresh[key] - taken
        if len(counts) > self.limit:
            self._cut()

    @property
    def counts(self) -> collections.Counter[Any]:
        """Return every key held, with its count (a lower bound)."""
        if self._waiting:
            self._settle()
        return self._counts

    def add(self, key: object, number: int = 1) -> None:
        """Count one key `number` times."""
        self._counts[key] += number
        self.total += number
        if len(self._counts) > self.limit:
            self._cut()

    def _cut(self) -> None:
        # How many keys have each count; there are few different counts.
        spread = collections.Counter(self._counts.values())
        above = len(self._counts)
        for taken in sorted(spread):
            above -= spread[taken]
            if above <= self.capacity:
                break
        kept = {key: count - taken for key, count in self._counts.items() if count > taken}
        self._counts = collections.Counter(kept)
        self.error += taken

    def top(self, number: int) -> list[tuple[Any, int]]:
        """Return the most frequent keys with their counts (lower bounds), largest first."""
        return heapq.nlargest(number, self.counts.items(), key=lambda item: item[1])


def _above(least: int, counts: collections.Counter[Any]) -> Iterable[Any]:
    """Return the keys that came more often than that; C loops skip the others."""
    try:
        often = bytes(counts.values()).translate(bytes(value > least for value in range(256)))
    except ValueError:  # One came more than 255 times.
        often = bytes(map(least.__lt__, counts.values()))
    return itertools.compress(counts, often)
