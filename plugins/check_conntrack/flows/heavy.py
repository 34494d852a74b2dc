"""The most frequent keys of a stream, in bounded memory: Misra-Gries, in bulk.

A plain counter that is cut back whenever it holds more than `limit` keys: the least d that
leaves `capacity` keys is taken from every count, and what falls to nothing is dropped (J. Misra,
D. Gries, "Finding repeated elements", 1982; the batched form is that of Agarwal and others,
"Mergeable summaries", 2012). Once a cut was needed, a feeding of more than `capacity` different
keys is cut by 1 of its own before it is added. Each cut takes d from more than `capacity` keys at
once, so that

    true count - error <= count <= true count,   error <= total / (capacity + 1)

for every key, `error` being the sum of all d, known exactly. Keys that make up more than
1 / (capacity + 1) of the stream are therefore never lost, and while no more than `limit` different
keys come, every count is exact.
"""

from __future__ import annotations

import collections
import heapq
import itertools
from collections.abc import Iterable
from typing import Any

CAPACITY = 4096
LIMIT = 65536


class HeavyHitters:
    """How often the most frequent keys came; at most `limit` keys and one feeding are held."""

    __slots__ = ("capacity", "counts", "error", "limit", "total")

    def __init__(self, capacity: int = CAPACITY, limit: int = LIMIT) -> None:
        """Raises ValueError unless 0 < capacity <= limit."""
        if not 0 < capacity <= limit:
            raise ValueError("a capacity is above 0, and not above the limit")
        self.capacity = capacity
        self.limit = limit
        self.counts: collections.Counter[Any] = collections.Counter()
        self.total = 0
        self.error = 0

    def feed(self, keys: Iterable[Any], number: int) -> None:
        """Count `number` keys. Memory grows by this one feeding before it is cut back."""
        self.total += number
        # Counter.update over an iterable is one C loop: nothing in Python is faster.
        if not self.error:
            self.counts.update(keys)
        else:
            # There are too many keys anyway: those that come once in a feeding need not go
            # through the large table. It is a cut of 1, made before the counts meet.
            fresh = collections.Counter(keys)
            taken = int(len(fresh) > self.capacity)
            self.error += taken
            counts = self.counts
            often = map(taken.__lt__, fresh.values())
            for key, count in itertools.compress(fresh.items(), often):
                counts[key] += count - taken
        if len(self.counts) > self.limit:
            self._cut()

    def add(self, key: object, number: int = 1) -> None:
        """Count one key `number` times."""
        self.counts[key] += number
        self.total += number
        if len(self.counts) > self.limit:
            self._cut()

    def _cut(self) -> None:
        # How many keys have each count: few different counts, whatever the stream.
        spread = collections.Counter(self.counts.values())
        above = len(self.counts)
        for taken in sorted(spread):
            above -= spread[taken]
            if above <= self.capacity:
                break
        kept = {key: count - taken for key, count in self.counts.items() if count > taken}
        self.counts = collections.Counter(kept)
        self.error += taken

    def top(self, number: int) -> list[tuple[Any, int]]:
        """The `number` most frequent keys with their counts, largest first (lower bounds)."""
        return heapq.nlargest(number, self.counts.items(), key=lambda item: item[1])
