"""Sort the messages of a dump by shape, so that count_rows.py counts them without one Entry.

1. `_sort` walks a batch. The first 24 bytes of a message (length, type, flags, sequence, port id,
   family, first attribute) choose its list, so one dictionary look-up tells the message's length
   and that it is an entry of this dump.
2. `_shape` walks the first message of a list with the general decoder's own `layout`. `_rows` joins
   the messages into one string of rows of equal length and compares every attribute header of every
   row with it, column by column. Messages that differ anywhere are set apart and have a shape of
   their own: a column is only read where `layout` says it is.
3. count_rows.py counts columns.

Shapes with few messages, and whatever is unusual, go to the general decoder one by one.

Measured on 240,000 mixed entries (55 MB of dump; Debian's CPython 3.11, two shared processors):
1.3 us of processor time an entry, a third of it for sorting messages, nearly a third for counting
keys.

Tried and slower: struct.iter_unpack over joined rows (300 ns for one address alone, where woven
columns take 120), strided memoryview casts (15 to 30 ns a column, where a byte column takes 1 to
2), Counter over a column of few values (85 to 130, where taking value after value takes a few),
rows beyond the second-level cache (the headers then take 700), headers compared eight bytes at a
time through memoryviews (twice the time of byte columns), frequent ports picked out by bits before
the rest is counted. No faster, and harder to prove: bytes.split at the bytes every header shares;
re.findall with a branch for each length, then sorting the pieces by length. Switching the garbage
collector off changes nothing.

There was a second process that counted half of the batches (fork, two pipes, 200 lines). With both
processors idle it took 0.82 of the time for entries in memory (by the least value; 1.27 by the
median) and 0.83 for their text. In a live run the reader needs the other processor: a million
entries took 2.51 s with the second process and 2.24 s without it (medians of four interleaved).
"""

from __future__ import annotations

import itertools

from ..kernel.netlink import NLMSGHDR, MalformedError, message_end
from .columns import equals, histogram
from .count_rows import count_rows
from .netlink import (
    Batch,
    DumpStatus,
    TableError,
    control,
    entry_at,
    layout,
    messages,
)
from .shape import HEAD, Shape, shape_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Callable

    from .tally import Tally

# Messages of one kind are counted when so many are ready: enough to fill columns, and so few that
# a pipe holds what its other end writes meanwhile. Neither end then waits for the other.
LEAST = 1 << 10
# Rare kinds wait longer, until this many bytes were read, so that they fill columns too.
CHUNK = 1 << 24
# Messages of one shape that are made rows of at a time: what fits the second-level cache.
ROWS = 1 << 12
# Fewer messages than this of one shape are cheaper to decode one by one.
FEW = 3
# No kernel sends more shapes than this in one chunk.
MANY_SHAPES = 64


def count(batches: Iterable[Batch], tally: Tally, max_entries: int = 0) -> DumpStatus:
    """Count the entries of a dump into `tally`, each batch as one recv gave it.

    max_entries: stop after exactly that many (0 for all); the status is then not `done`. For one
    of several dumps set `tally.match` before. Raises TableError for a dump that is malformed or
    refused; what came before is in the tally.
    """
    counting = _Counting(tally)
    try:
        counting.sort_all(batches, max_entries)
    except MalformedError as error:
        raise TableError(str(error)) from None
    finally:
        counting.work_off()
    return counting.status


class _Counting:
    """One pass over one dump.

    Attributes:
        lists: by the first HEAD bytes: length of such messages, how to append one, those that wait
        shapes: known shapes, by the first HEAD bytes
    """

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.status = DumpStatus()
        self.lists: dict[bytes, tuple[int, Callable[[bytes], None], list[bytes]]] = {}
        self.shapes: dict[bytes, list[Shape]] = {}

    def sort_all(self, batches: Iterable[Batch], max_entries: int) -> None:
        """Sort batch after batch; count kinds with many messages, from time to time everything."""
        read = 0
        for batch in batches:
            data = bytes(batch)
            if max_entries:
                left = max_entries - self.tally.read - sum(len(e[2]) for e in self.lists.values())
                # A message has at least a header: while the limit is far, any batch fits.
                if left <= len(data) // NLMSGHDR.size:
                    for message in itertools.islice(messages([data], self.status), left):
                        self._sort(message)
                        left -= 1
                    if not left or self.status.done:
                        return
                    continue
            self._sort(data)
            if self.status.done:
                return
            read += len(data)
            if read < CHUNK:
                self.work_off(LEAST)
            else:
                self.work_off()
                read = 0

    def _sort(self, data: bytes) -> None:
        lists = self.lists
        at, end = 0, len(data)
        while at < end:
            try:
                size, put, _ = lists[data[at : at + HEAD]]
            except KeyError:
                at = self._admit(data, at)
                if self.status.done:
                    return
                continue
            after = at + size
            put(data[at:after])
            at = after
        if at > end:
            start = at - size
            lists[data[start : start + HEAD]][2].pop()
            message_end(data, start)  # raises

    def _admit(self, data: bytes, at: int) -> int:
        """Handle a message of a new kind; return where to go on."""
        message = data[at : message_end(data, at)]
        size = len(message)
        after = min(at + (size + 3 & ~3), len(data))
        if not control(message, self.status):
            return after
        if size < HEAD or size % 4 or len(self.lists) >= MANY_SHAPES:
            self._one(message)
            return after
        waiting: list[bytes] = []
        self.lists[data[at : at + HEAD]] = size, waiting.append, waiting
        return at

    def _one(self, message: bytes) -> None:
        """Count one message the slow way."""
        self.tally.add(entry_at(message))

    def work_off(self, least: int = 1) -> None:
        """Count the messages of each kind of which at least so many wait."""
        for _, _, waiting in self.lists.values():
            if len(waiting) >= least:
                try:
                    self._rows(waiting)
                finally:
                    waiting.clear()
        if least == 1 and len(self.lists) >= MANY_SHAPES:
            self.lists.clear()
            self.shapes.clear()

    def _rows(self, alike: list[bytes]) -> None:
        """Count messages of one length and first attribute, shape by shape."""
        groups = [alike[at : at + ROWS] for at in range(0, len(alike), ROWS)]
        allowed = len(groups) + MANY_SHAPES
        while groups:
            group = groups.pop()
            allowed -= 1
            shape = None
            if len(group) >= FEW and allowed >= 0:
                shape = self._shape(group[0])
            if shape is None:
                for message in group:
                    self._one(message)
                continue
            rows = b"".join(group)
            other = _odd_column(rows, len(group), shape)
            if other is None:
                count_rows(self.tally, group, rows, shape)
            else:
                groups.extend(_parted(group, other))

    def _shape(self, message: bytes) -> Shape | None:
        """Return the shape of a message; None when only the general decoder can count it."""
        known = self.shapes.setdefault(message[:HEAD], [])
        for shape in known:
            if all(message[at] == value[0] for at, value in shape.fixed):
                return shape
        known_layout = layout(message)
        entry_at(message, known_layout)  # What is wrong with one is wrong with all of its shape.
        fresh = shape_of(message, known_layout)
        if fresh is not None:
            if len(known) >= MANY_SHAPES:
                known.clear()
            known.insert(0, fresh)
        return fresh


def _odd_column(rows: bytes, number: int, shape: Shape) -> bytes | None:
    """Return the first column in which the rows are not all as the shape has them; None: none."""
    size = shape.size
    for at, value in shape.fixed:
        column = rows[at::size]
        # Cheaper than column.count(value) == number: one memset, one memcmp.
        if column != value * number:
            return column
    return None


def _parted(group: list[bytes], column: bytes) -> list[list[bytes]]:
    """Return the group in parts, by the value each message has in the column."""
    return [
        list(itertools.compress(group, column.translate(equals(value, 0xFF))))
        for value, _ in histogram(column)
    ]
