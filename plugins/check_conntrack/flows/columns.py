"""Work on columns: one byte, or one key, of many entries at a time, in C loops."""

from __future__ import annotations

import functools
import itertools
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Callable, Union

    Column = Union[bytes, int]


def translation(function: Callable[[int], int]) -> bytes:
    """Return what makes bytes.translate apply the function to each byte of a column."""
    return bytes(map(function, range(256)))


@functools.lru_cache(maxsize=256)
def masked(bits: int) -> bytes:
    """Return the translation that keeps some bits of each byte."""
    return translation(lambda value: value & bits)


@functools.lru_cache(maxsize=1024)
def equals(want: int, bits: int) -> bytes:
    """Return the translation that gives 1 where the masked byte is the one wanted, else 0."""
    return translation(lambda value: value & bits == want)


def integer(column: bytes) -> int:
    """Return a column as a long integer, so that one operation works on all its bytes."""
    return int.from_bytes(column, "little")


def histogram(column: bytes) -> list[tuple[int, int]]:
    """Return each value of a column and its number; for few values much faster than Counter."""
    values = []
    while column:
        value = column[0]
        times = column.count(value)
        values.append((value, times))
        if times == len(column):
            break
        column = column.translate(None, bytes((value,)))
    return values


def weave(columns: Sequence[Column], number: int) -> bytearray:
    """Return rows made of columns; an int is a column that holds nothing else."""
    width = len(columns)
    woven = bytearray(width * number)
    for at, column in enumerate(columns):
        if not isinstance(column, int):
            woven[at::width] = column
        elif column:
            woven[at::width] = bytes((column,)) * number
    return woven


def slices(rows: bytearray, width: int) -> Iterable[bytes]:
    """Return the rows one by one."""
    return itertools.chain.from_iterable(struct.iter_unpack(f"{width}s", rows))


def address_keys(columns: Sequence[bytes], mask: bytes, number: int) -> list[int] | list[bytes]:
    """Return Tally.address_key for the addresses in 4 or 16 columns."""
    woven = weave(_kept(columns, mask), number)
    if len(mask) == 4:
        return memoryview(woven).cast("I").tolist()
    return list(slices(woven, 16))


def zoned_keys(
    columns: Sequence[bytes], mask: bytes, number: int, zone: Sequence[bytes]
) -> Sequence[int | bytes]:
    """Return Tally.address_key for such addresses, each with the zone in two more columns."""
    width = len(zone) + len(mask)
    woven = weave([*zone, *_kept(columns, mask)], number)
    keys = list(slices(woven, width))
    in_none = integer(zone[0]) | integer(zone[1])
    if 0 not in in_none.to_bytes(number, "little"):
        return keys
    # The kernel sends no zone 0; other programs that do mean the address alone.
    plain = address_keys(columns, mask, number)
    mixed: list[int | bytes] = list(keys)
    for at, key in enumerate(keys):
        if key[:2] == b"\0\0":
            mixed[at] = plain[at]
    return mixed


def _kept(columns: Sequence[bytes], mask: bytes) -> list[Column]:
    return [
        column if bits == 0xFF else column.translate(masked(bits)) if bits else 0
        for column, bits in zip(columns, mask)
    ]
