"""Count the messages of one shape by columns, without building a single Entry.

The messages lie joined in rows of equal length. `rows[at::size]` is the byte at offset `at` of
every message, in one C loop. Flags are merged by OR-ing whole columns as long integers, few values
are counted by bytes.count, keys are woven from columns and counted by Counter.update. Tally.add
counts the same of one Entry; a test holds the two together.
"""

from __future__ import annotations

import collections
import functools
import itertools
import operator
import struct
import sys

from ..kernel import ctnetlink as ct
from . import groups, leaks, translations
from . import tally as t
from .columns import (
    address_keys,
    equals,
    histogram,
    integer,
    slices,
    translation,
    weave,
    zoned_keys,
)
from .entry import IPPROTO_TCP, IPPROTO_UDP, has_ports
from .match import (
    ORIGINAL_DESTINATION,
    ORIGINAL_SOURCE,
    REPLY_DESTINATION,
    REPLY_SOURCE,
    Match,
)
from .nat_pools import FIRST_PORT
from .unanswered import NO_STATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Callable

    from .columns import Column
    from .shape import Shape

_LOW_FLAGS = translation(lambda value: value & groups.KEPT_LOW)
_HIGH_FLAGS = translation(lambda value: value & groups.KEPT_HIGH)
_SOURCE_NAT = translation(lambda value: groups.SOURCE_NAT if value else 0)
_DESTINATION_NAT = translation(lambda value: groups.DESTINATION_NAT if value else 0)
_HALF_OPEN = translation(lambda value: value in groups.HALF_OPEN)
_NO_REPLY = translation(lambda value: not value & groups.SEEN_REPLY)
_TRANSLATED = translation(lambda value: value & groups.DESTINATION_NAT > 0)
_REPLY_FLAGS = translation(lambda value: value & translations.KEPT)
_SYN_SENT = translation(lambda value: value == ct.TCP_CONNTRACK_SYN_SENT)
_UNPRIVILEGED = translation(lambda value: value >= FIRST_PORT >> 8)
_CHANGED = translation(bool)
_ESTABLISHED = translation(lambda value: value == ct.TCP_CONNTRACK_ESTABLISHED)


def count_rows(tally: t.Tally, group: list[bytes], rows: bytes, shape: Shape) -> None:
    """Count messages of one shape, each an item of the group and a row of the rows."""
    tally.read += len(group)
    if tally.match is not None:
        selection = _select(tally, tally.match, rows, len(group), shape)
        if selection is None:
            return
        group = list(itertools.compress(group, selection))
        if not group:
            return
        rows = b"".join(group)
    size, number = shape.size, len(group)
    flags, source_nat, destination_nat = _flags(rows, number, shape)
    states = None if shape.state is None else rows[shape.state :: size]
    for state, flag, times in _pairs(states, flags):
        tally.groups[shape.family, shape.protocol, state, flag] += times

    for position, heavy in (
        (ORIGINAL_SOURCE, tally.sources),
        (ORIGINAL_DESTINATION, tally.destinations),
    ):
        heavy.feed(_address_keys(tally, rows, number, shape, position), number)
    tally.services.feed(_service_keys(rows, number, shape, states), number)
    if shape.zones:
        tally.count_zones(_zone_numbers(rows, shape))
    if shape.original_zone is not None:
        zoned = number - _zeros(_columns(rows, size, shape.original_zone, 2), number)
        tally.zoned += zoned
        tally.original_zones += zoned if shape.directed_zone else 0
    no_answer = flags.translate(_NO_REPLY)
    if shape.protocol == IPPROTO_TCP and states is not None:
        _count_timeouts(tally, rows, shape, states)
        _count_leaks(tally, rows, shape, states)
        half_open = integer(no_answer) | integer(states.translate(_HALF_OPEN))
        no_answer = half_open.to_bytes(number, "little")
    if 1 in no_answer and not tally.unanswered.full:
        _count_unanswered(tally, _chosen(group, rows, no_answer)[1], shape)
    if source_nat is not None and has_ports(shape.protocol):
        _count_pools(tally, *_chosen(group, rows, source_nat), shape)
    if shape.protocol == IPPROTO_UDP or (
        shape.protocol == IPPROTO_TCP and destination_nat is not None
    ):
        _count_translations(tally, group, rows, shape, flags)


def _count_timeouts(tally: t.Tally, rows: bytes, shape: Shape, states: bytes) -> None:
    """Count how long established TCP entries have left."""
    if shape.timeout is not None:
        established = states.translate(_ESTABLISHED)
        if 1 in established:
            buckets = _timeout_buckets(rows, len(states), shape.size, shape.timeout)
            chosen = itertools.compress(buckets, established)
            tally.established_timeouts.update(chosen)


def _count_leaks(tally: t.Tally, rows: bytes, shape: Shape, states: bytes) -> None:
    """Count the ends of connections in the states that are wanted."""
    size, length = shape.size, shape.address_length
    for state in leaks.STATES:
        number = states.count(state)
        if not number or not tally.leaks.wanted(state):
            continue
        chosen = rows
        if number < len(states):
            every = memoryview(rows)
            column = states.translate(equals(state, 0xFF))
            parts = (every[at * size : at * size + size] for at in range(len(states)))
            chosen = b"".join(itertools.compress(parts, column))
        columns: list[Column] = [0, 0]
        if shape.timeout is not None:
            buckets = _timeout_buckets(chosen, number, size, shape.timeout)
            packed = struct.pack(f">{number}H", *buckets)
            columns = [packed[::2], packed[1::2]]
        columns += _columns(chosen, size, shape.original_zone, 2)
        columns += _columns(chosen, size, shape.destination_port, 2)
        columns += _columns(chosen, size, shape.addresses[ORIGINAL_SOURCE], length)
        columns += _columns(chosen, size, shape.addresses[ORIGINAL_DESTINATION], length)
        tally.leaks.feed(state, columns, number)


def _count_unanswered(tally: t.Tally, rows: bytes, shape: Shape) -> None:
    """Count sources and targets of flows that got no answer, or were left half open."""
    size, number = shape.size, len(rows) // shape.size
    length = shape.address_length
    state: Column = NO_STATE if shape.state is None else rows[shape.state :: size]
    columns = [shape.protocol, state, *_columns(rows, size, shape.original_zone, 2)]
    columns += _columns(rows, size, shape.destination_port, 2)
    columns += _columns(rows, size, shape.addresses[ORIGINAL_SOURCE], length)
    columns += _columns(rows, size, shape.addresses[ORIGINAL_DESTINATION], length)
    tally.unanswered.feed(columns, number)


def _count_translations(
    tally: t.Tally, group: list[bytes], rows: bytes, shape: Shape, flags: bytes
) -> None:
    """Count translated destinations, and UDP that is not translated."""
    if shape.timeout is None or shape.destination_port is None:
        return
    translated = integer(flags.translate(_TRANSLATED))
    unreplied = integer(flags.translate(_NO_REPLY))
    plain = integer(b"\1" * len(group)) & ~translated
    if shape.protocol == IPPROTO_TCP:
        if shape.state is None:
            return
        translated &= integer(rows[shape.state :: shape.size].translate(_SYN_SENT))
        unreplied &= translated
        plain = 0
    for kind, of_these in (
        (translations.UNREPLIED, translated & unreplied),
        (translations.REPLIED, translated & ~unreplied),
        (translations.UNTRANSLATED, plain & unreplied),
        (translations.ANSWERED, plain & ~unreplied),
    ):
        if not of_these or tally.translations.full(kind):
            continue
        column = of_these.to_bytes(len(group), "little")
        chosen, its_rows = _chosen(group, rows, column)
        kept = bytes(itertools.compress(flags, column)).translate(_REPLY_FLAGS)
        size, length, both = shape.size, shape.address_length, shape.addresses
        columns = [shape.protocol, kept, *_columns(its_rows, size, shape.original_zone, 2)]
        columns += _columns(its_rows, size, shape.timeout, 4)
        columns += _columns(its_rows, size, shape.destination_port, 2)
        columns += _columns(its_rows, size, shape.reply_source_port, 2)
        columns += _columns(its_rows, size, both[ORIGINAL_DESTINATION], length)
        columns += _columns(its_rows, size, both[REPLY_SOURCE], length)
        tally.translations.feed(columns, len(chosen), kind)


def _count_pools(tally: t.Tally, group: list[bytes], rows: bytes, shape: Shape) -> None:
    """Count the source-NAT pools of messages whose source is translated."""
    if shape.reply_source_port is None:
        return
    pools, size, number = tally.pools, shape.size, len(group)
    length = shape.address_length
    zone = _columns(rows, size, shape.reply_zone, 2)
    translated = _columns(rows, size, shape.addresses[REPLY_DESTINATION], length)
    parts = [shape.protocol, *zone, *_columns(rows, size, shape.reply_source_port, 2)]
    parts += _columns(rows, size, shape.addresses[REPLY_SOURCE], length)
    parts += translated
    pools.flows.feed(slices(weave(parts, number), len(parts)), number)
    if shape.source_ports is None or pools.enough_ports:
        return
    own, given = shape.source_ports
    differ = _differ(rows, size, [(own, given), (own + 1, given + 1)])
    if not differ:
        return
    changed = integer(differ.to_bytes(number, "little").translate(_CHANGED))
    changed &= integer(rows[own::size].translate(_UNPRIVILEGED))
    if not changed:
        return
    group, rows = _chosen(group, rows, changed.to_bytes(number, "little"))
    number = len(group)
    head = [shape.protocol, *_columns(rows, size, shape.reply_zone, 2)]
    head += _columns(rows, size, shape.addresses[REPLY_DESTINATION], length)
    port = _columns(rows, size, given, 2)
    if sys.byteorder == "little":
        port.reverse()
    pools.feed_ports(
        list(slices(weave(head, number), len(head))),
        memoryview(weave(port, number)).cast("H").tolist(),
    )


def _chosen(group: list[bytes], rows: bytes, column: bytes) -> tuple[list[bytes], bytes]:
    """Return the messages for which the column is not 0, in a list and as rows."""
    if 0 not in column:
        return group, rows
    chosen = list(itertools.compress(group, column))
    return chosen, b"".join(chosen)


def _zone_numbers(rows: bytes, shape: Shape) -> Sequence[int]:
    """Return Entry.any_zone for every row of a shape with zones."""
    numbers: list[int] = []
    for at in shape.zones:
        pair = _columns(rows, shape.size, at, 2)
        if sys.byteorder == "little":
            pair.reverse()
        found = memoryview(weave(pair, len(rows) // shape.size)).cast("H").tolist()
        # The kernel sends one zone for an entry; nothing hangs on it.
        numbers = [one or other for one, other in zip(numbers, found)] if numbers else found
    return numbers


def _zeros(columns: Sequence[Column], number: int) -> int:
    """Return how many values are 0; a value is what one row has in all the columns."""
    either = functools.reduce(
        operator.or_, (integer(one) for one in columns if not isinstance(one, int)), 0
    )
    return either.to_bytes(number, "little").count(0)


def _columns(rows: bytes, size: int, at: int | None, width: int) -> list[Column]:
    """Return the columns of a value; zeros where the messages have none."""
    if at is None:
        return [0] * width
    return [rows[at + index :: size] for index in range(width)]


def _differ(rows: bytes, size: int, pairs: Iterable[tuple[int, int]]) -> int:
    """Return a column as an integer: not 0 for messages that differ at any pair of offsets."""
    differ = 0
    for one, other in pairs:
        left, right = rows[one::size], rows[other::size]
        if left != right:
            differ |= integer(left) ^ integer(right)
    return differ


def _flags(rows: bytes, number: int, shape: Shape) -> tuple[bytes, bytes | None, bytes | None]:
    """Return the column of flags (tally.py), and those of translated sources and destinations.

    The latter two are None where there are none.
    """
    size = shape.size
    length = shape.address_length
    from_source, to_target, back_source, back_target = shape.addresses
    flags = integer(rows[shape.status + 3 :: size].translate(_LOW_FLAGS))
    flags |= integer(rows[shape.status + 2 :: size].translate(_HIGH_FLAGS))

    def differ(one: int, other: int, ids: tuple[int, int] | None) -> int:
        pairs = [(one + i, other + i) for i in range(length)]
        if ids is not None:
            pairs += [(ids[0] + i, ids[1] + i) for i in range(2)]
        return _differ(rows, size, pairs)

    source_nat = destination_nat = None
    differing = differ(from_source, back_target, shape.source_id)
    if differing:
        source_nat = differing.to_bytes(number, "little").translate(_SOURCE_NAT)
        flags |= integer(source_nat)
    differing = differ(to_target, back_source, shape.destination_id)
    if differing:
        destination_nat = differing.to_bytes(number, "little").translate(_DESTINATION_NAT)
        flags |= integer(destination_nat)
    return flags.to_bytes(number, "little"), source_nat, destination_nat


def _pairs(states: bytes | None, flags: bytes) -> Iterable[tuple[int | None, int, int]]:
    """Return each pair of state and flags that occurs, and how often."""
    flag_values = histogram(flags)
    if states is None:
        return [(None, flag, times) for flag, times in flag_values]
    state_values = histogram(states)
    if len(state_values) > 16 or len(flag_values) > 16:
        counted = collections.Counter(zip(states, flags))
        return [(state, flag, times) for (state, flag), times in counted.items()]
    # Both in one byte: four bits say which state, four which flags.
    state_index, flag_index = bytearray(256), bytearray(256)
    for index, (value, _) in enumerate(state_values):
        state_index[value] = index << 4
    for index, (value, _) in enumerate(flag_values):
        flag_index[value] = index
    both = integer(states.translate(state_index)) | integer(flags.translate(flag_index))
    return [
        (state_values[value >> 4][0], flag_values[value & 15][0], times)
        for value, times in histogram(both.to_bytes(len(flags), "little"))
    ]


def _address_keys(
    tally: t.Tally, rows: bytes, number: int, shape: Shape, position: int
) -> Sequence[t.AddressKey]:
    """Return Tally.address_key of one position of the original tuple, for every row."""
    mask = tally.masks[shape.family != 4]
    start = shape.addresses[position]
    columns = [rows[at :: shape.size] for at in range(start, start + len(mask))]
    zone = shape.original_zone
    if zone is None:
        return address_keys(columns, mask, number)
    return zoned_keys(
        columns, mask, number, [rows[at :: shape.size] for at in range(zone, zone + 2)]
    )


def _service_keys(rows: bytes, number: int, shape: Shape, states: bytes | None) -> Sequence[int]:
    """Return tally.service_key for every row."""
    at, size = shape.destination_port, shape.size
    port: list[Column] = [0, 0] if at is None else [rows[at::size], rows[at + 1 :: size]]
    state = NO_STATE if states is None else states
    return memoryview(weave([shape.protocol, state, *port], number)).cast("I").tolist()


def _timeout_buckets(rows: bytes, number: int, size: int, at: int) -> Sequence[int]:
    """Return tally.timeout_bucket for every row: the middle bytes, if the first is zero."""
    high = rows[at::size]
    if high.count(0) != number:
        seconds = zip(high, rows[at + 1 :: size], rows[at + 2 :: size], rows[at + 3 :: size])
        return [t.timeout_bucket(int.from_bytes(four, "big")) for four in seconds]
    middle: list[Column] = [rows[at + 1 :: size], rows[at + 2 :: size]]
    if sys.byteorder == "little":
        middle.reverse()
    return memoryview(weave(middle, number)).cast("H").tolist()


def _held(
    match: Match, shape: Shape, equal: Callable[[int, bytes, bytes], int]
) -> tuple[int, int, int]:
    """Return columns of chosen, inbound and outbound rows, as integers (Match.directions)."""
    any_network = chosen = 0
    held = [0, 0, 0, 0]
    for index, wanted in enumerate(match.networks):
        if len(wanted.address) != (shape.address_length):
            continue
        for position, at in enumerate(shape.addresses):
            hit = equal(at, wanted.address, wanted.mask())
            held[position] |= hit
            if match.only == (index, position):
                chosen = hit & ~any_network
            any_network |= hit
    return (
        any_network if match.only is None else chosen,
        held[ORIGINAL_DESTINATION] | held[REPLY_SOURCE],
        held[ORIGINAL_SOURCE] | held[REPLY_DESTINATION],
    )


def _in_zones(match: Match, rows: bytes, shape: Shape, every: int) -> int:
    """Return the rows that are in one of the zones, as a column of 0 and 1."""
    if not shape.zones:
        return every if 0 in match.zones else 0
    return integer(bytes(map(match.zones.__contains__, _zone_numbers(rows, shape))))


def _marked(
    match: Match, shape: Shape, equal: Callable[[int, bytes, bytes], int], every: int
) -> int:
    """Return the rows that have one of the marks, as a column of 0 and 1."""
    at = shape.mark
    if at is None:
        return every if any(one.holds(0) for one in match.marks) else 0
    hits = (
        equal(at, one.value.to_bytes(4, "big"), one.mask.to_bytes(4, "big")) for one in match.marks
    )
    return functools.reduce(operator.or_, hits, 0)


def _select(tally: t.Tally, match: Match, rows: bytes, number: int, shape: Shape) -> bytes | None:
    """Return Match.accepts for every row as a column of 0 and 1; None for all 0.

    Counts the rows in which the networks are inbound and outbound (Match.directions).
    """
    if match.protocols and shape.protocol not in match.protocols:
        return None
    size = shape.size
    every = integer(b"\1" * number)

    def equal(at: int, want: bytes, mask: bytes) -> int:
        keep = every
        for index, (value, bits) in enumerate(zip(want, mask)):
            if bits:
                keep &= integer(rows[at + index :: size].translate(equals(value, bits)))
        return keep

    keep = every
    if match.states:
        wanted = {state for protocol, state in match.states if protocol == shape.protocol}
        if shape.state is None or not wanted:
            return None
        keep &= integer(rows[shape.state :: size].translate(translation(lambda v: v in wanted)))
    if match.ports:
        wanted_ports = [port.to_bytes(2, "big") for port in match.ports]
        pairs = itertools.product(shape.ports, wanted_ports)
        hits = (equal(at, port, b"\xff\xff") for at, port in pairs)
        keep &= functools.reduce(operator.or_, hits, 0)
    if match.zones and keep:
        keep &= _in_zones(match, rows, shape, every)
    if match.marks and keep:
        keep &= _marked(match, shape, equal, every)
    if match.networks and keep:
        chosen, inbound, outbound = _held(match, shape, equal)
        keep &= chosen
        tally.inbound += (keep & inbound).to_bytes(number, "little").count(1)
        tally.outbound += (keep & outbound).to_bytes(number, "little").count(1)
    return keep.to_bytes(number, "little") if keep else None
