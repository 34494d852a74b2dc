"""The fast path: a dump counted without building a single Entry.

Within one dump all messages of one shape (the same attributes in the same order) are alike byte
for byte but for their values. So messages are sorted by shape, those of a shape are joined into
one string of rows of equal length, and everything else is done on columns: `rows[at::size]` is
the byte at offset `at` of every message, in one C loop.

1. `_sort` walks a batch. The first 24 bytes of a message (length, type, flags, sequence, port id,
   family, first attribute) choose its list, so one dictionary look-up tells the message's length
   and that it is an entry of this dump.
2. `_same_shape` looks the first message up with the general decoder's own `layout` and holds
   every attribute header of every other message against it. Messages that differ anywhere are
   set apart and make a shape of their own: a column is only ever read where `layout` says it is.
3. `_count` reads columns. Flags are merged by OR-ing whole columns as long integers, few values
   are counted by bytes.count, keys are woven from columns and counted by Counter.update.

Shapes with few messages, and whatever is unusual, go to the general decoder one by one.

Measured on a million mixed entries (230 MB of dump; Debian's CPython 3.11, a 2.5 GHz processor):
3.0 us an entry, a third of it for sorting messages, nearly a third for counting keys. The reader
takes 1.8 us meanwhile, 0.1 more than it takes to receive the dump and throw it away: the rest is
the kernel's. share.py lets two processes do this work.

Tried and slower: struct.iter_unpack over joined rows (300 for one address alone, where woven
columns take 120), strided memoryview casts (15 to 30 a column, where a byte column takes 1 to 2),
Counter over a column of few values (85 to 130, where peeling off value after value takes a few),
rows beyond the second-level cache (the headers then take 700), headers compared eight bytes at a
time through memoryviews (twice the time of byte columns), frequent ports picked out by bits before
the rest is counted. No faster, and harder to prove: bytes.split at the bytes every header shares,
or re.findall with a branch for each length, then sorting the pieces by length; walking by the low
byte of the length and holding whole heads against each other afterwards. Switching the garbage
collector off changes nothing.
"""

from __future__ import annotations

import collections
import functools
import itertools
import operator
import struct
import sys

from check_conntrack.flows import tally as t
from check_conntrack.flows.columns import (
    address_keys,
    equals,
    histogram,
    integer,
    slices,
    table,
    weave,
    zoned_keys,
)
from check_conntrack.flows.entry import IPPROTO_TCP
from check_conntrack.flows.match import (
    ORIGINAL_DESTINATION,
    ORIGINAL_SOURCE,
    REPLY_DESTINATION,
    REPLY_SOURCE,
    Match,
)
from check_conntrack.flows.nat_pools import FIRST_PORT
from check_conntrack.flows.netlink import (
    FIRST_ATTRIBUTE,
    HEADER,
    Batch,
    DumpStatus,
    Layout,
    control,
    entry_at,
    layout,
    messages,
    truncated,
)
from check_conntrack.flows.unanswered import NO_STATE
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Callable

    from check_conntrack.flows.columns import Column

# The bytes that choose a list: struct nlmsghdr, struct nfgenmsg, the first attribute's header.
HEAD = FIRST_ATTRIBUTE + ct.NLATTR.size
# Messages of one kind are counted when so many lie ready: enough to fill columns, and so few that
# a pipe holds what its other end writes meanwhile. Neither end then waits for the other.
LEAST = 1 << 10
# Rare kinds wait longer, until this many bytes were read, so that they fill columns too.
CHUNK = 1 << 24
# Messages of one shape that are made rows of at a time: what fits the second-level cache.
ROWS = 1 << 12
# Fewer messages than this of one shape are cheaper to decode one by one.
FEW = 3
# More shapes than this in one chunk are no kernel's doing.
MANY_SHAPES = 64

_LENGTH = struct.Struct("=I")
_LOW_FLAGS = table(lambda value: value & t.KEPT_LOW)
_HIGH_FLAGS = table(lambda value: value & t.KEPT_HIGH)
_SOURCE_NAT = table(lambda value: t.SOURCE_NAT if value else 0)
_DESTINATION_NAT = table(lambda value: t.DESTINATION_NAT if value else 0)
_HALF_OPEN = table(lambda value: value in t.HALF_OPEN)
_NO_REPLY = table(lambda value: not value & t.SEEN_REPLY)
_UNPRIVILEGED = table(lambda value: value >= FIRST_PORT >> 8)
_CHANGED = table(bool)
_ESTABLISHED = table(lambda value: value == ct.TCP_CONNTRACK_ESTABLISHED)


class _Shape(NamedTuple):
    """Where the values of one shape stand, as offsets in the message; None for what it lacks."""

    size: int
    # Offset and value of each byte in which all messages of the shape agree.
    fixed: tuple[tuple[int, bytes], ...]
    family: int
    protocol: int
    # The four addresses, in the order of the position constants of match.py.
    addresses: tuple[int, int, int, int]
    # What tells a translated source or destination beside the address: original, reply.
    source_id: tuple[int, int] | None
    destination_id: tuple[int, int] | None
    # Ports of both tuples, wherever there are any.
    ports: tuple[int, ...]
    # Of the original tuple's source and the reply's destination.
    source_ports: tuple[int, int] | None
    destination_port: int | None
    reply_source_port: int | None
    status: int
    state: int | None
    timeout: int | None
    original_zone: int | None
    # Whether that zone is of the original direction alone.
    directed_zone: bool
    reply_zone: int | None


def count(batches: Iterable[Batch], tally: t.Tally, max_entries: int = 0) -> DumpStatus:
    """Count the entries of a dump into `tally`, each batch as one recv gave it.

    max_entries: stop after exactly that many (0 for all); the status is then not `done`. For one
    of several dumps set `tally.match` before. Raises TableError for a dump that is damaged or
    refused; what came before is in the tally.
    """
    counting = _Counting(tally)
    try:
        counting.sort_all(batches, max_entries)
    finally:
        counting.work_off()
    return counting.status


class _Counting:
    """One pass over one dump."""

    def __init__(self, tally: t.Tally) -> None:
        self.tally = tally
        self.status = DumpStatus()
        # By the first HEAD bytes: length of such messages, where to put them, where they lie.
        self.lists: dict[bytes, tuple[int, Callable[[bytes], None], list[bytes]]] = {}
        self.shapes: dict[bytes, list[_Shape]] = {}

    def sort_all(self, batches: Iterable[Batch], max_entries: int) -> None:
        """Sort batch after batch; count what lies ready in numbers, now and then everything."""
        read = 0
        for batch in batches:
            data = bytes(batch)
            if max_entries:
                left = max_entries - self.tally.read - sum(len(e[2]) for e in self.lists.values())
                # Far from the limit, and a message has at least HEADER bytes, nobody need count.
                if left <= len(data) // HEADER:
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
            raise truncated(size, end - start)

    def _admit(self, data: bytes, at: int) -> int:
        """Look at a message of a new kind; where to go on."""
        left = len(data) - at
        size = _LENGTH.unpack_from(data, at)[0] if left >= HEADER else 0
        if size < HEADER or size > left:
            raise truncated(size, left)
        message = data[at : at + size]
        after = min(at + (size + 3 & ~3), len(data))
        if not control(message, self.status):
            return after
        if size < HEAD or size % 4 or len(self.lists) >= MANY_SHAPES:
            self._one(message)
            return after
        found: list[bytes] = []
        self.lists[data[at : at + HEAD]] = size, found.append, found
        return at

    def _one(self, message: bytes) -> None:
        """The slow way, for one message."""
        self.tally.add(entry_at(message))

    def work_off(self, least: int = 1) -> None:
        """Count the messages of each kind of which at least so many lie ready."""
        for _, _, found in self.lists.values():
            if len(found) >= least:
                try:
                    self._rows(found)
                finally:
                    found.clear()
        if least == 1 and len(self.lists) >= MANY_SHAPES:
            self.lists.clear()
            self.shapes.clear()

    def _rows(self, found: list[bytes]) -> None:
        """Count messages of one length and first attribute, shape by shape."""
        waiting = [found[at : at + ROWS] for at in range(0, len(found), ROWS)]
        allowed = len(waiting) + MANY_SHAPES
        while waiting:
            group = waiting.pop()
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
                self._count(group, rows, shape)
            else:
                waiting.extend(_parted(group, other))

    def _shape(self, message: bytes) -> _Shape | None:
        """The shape of a message; None when only the general decoder knows what to do with it."""
        known = self.shapes.setdefault(message[:HEAD], [])
        for shape in known:
            if all(message[at] == value[0] for at, value in shape.fixed):
                return shape
        found = layout(message)
        entry_at(message, found)  # What is wrong with one is wrong with all of its shape.
        fresh = _compile(message, found)
        if fresh is not None:
            if len(known) >= MANY_SHAPES:
                known.clear()
            known.insert(0, fresh)
        return fresh

    def _count(self, group: list[bytes], rows: bytes, shape: _Shape) -> None:
        tally = self.tally
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
        flags, source_nat = _flags(rows, number, shape)
        states = None if shape.state is None else rows[shape.state :: size]
        for state, flag, times in _pairs(states, flags):
            tally.groups[shape.family, shape.protocol, state, flag] += times

        for position, heavy in (
            (ORIGINAL_SOURCE, tally.sources),
            (ORIGINAL_DESTINATION, tally.destinations),
        ):
            heavy.feed(_address_keys(tally, rows, number, shape, position), number)
        tally.services.feed(_service_keys(rows, number, shape, states), number)
        if shape.original_zone is not None:
            zoned = number - _zeros(_columns(rows, size, shape.original_zone, 2), number)
            tally.zoned += zoned
            tally.original_zones += zoned if shape.directed_zone else 0
        no_answer = flags.translate(_NO_REPLY)
        if shape.protocol == IPPROTO_TCP and states is not None:
            self._count_timeouts(rows, shape, states)
            half_open = integer(no_answer) | integer(states.translate(_HALF_OPEN))
            no_answer = half_open.to_bytes(number, "little")
        if 1 in no_answer and not tally.unanswered.full:
            self._count_unanswered(_chosen(group, rows, no_answer)[1], shape)
        if source_nat is not None and t.has_ports(shape.protocol):
            self._count_pools(*_chosen(group, rows, source_nat), shape)

    def _count_timeouts(self, rows: bytes, shape: _Shape, states: bytes) -> None:
        """Count how long established TCP may stay silent."""
        if shape.timeout is not None:
            established = states.translate(_ESTABLISHED)
            if 1 in established:
                buckets = _timeout_buckets(rows, len(states), shape.size, shape.timeout)
                chosen = itertools.compress(buckets, established)
                self.tally.established_timeouts.update(chosen)

    def _count_unanswered(self, rows: bytes, shape: _Shape) -> None:
        """Count senders and targets of messages that saw no answer, or were left half open."""
        size, number = shape.size, len(rows) // shape.size
        length = 4 if shape.family == 4 else 16
        state: Column = NO_STATE if shape.state is None else rows[shape.state :: size]
        columns = [shape.protocol, state, *_columns(rows, size, shape.original_zone, 2)]
        columns += _columns(rows, size, shape.destination_port, 2)
        columns += _columns(rows, size, shape.addresses[ORIGINAL_SOURCE], length)
        columns += _columns(rows, size, shape.addresses[ORIGINAL_DESTINATION], length)
        self.tally.unanswered.feed(columns, number)

    def _count_pools(self, group: list[bytes], rows: bytes, shape: _Shape) -> None:
        """Count the source-NAT pools of messages whose source is translated."""
        if shape.reply_source_port is None:
            return
        pools, size, number = self.tally.pools, shape.size, len(group)
        length = 4 if shape.family == 4 else 16
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
    """The messages for which the column is not 0, in a list and as rows."""
    if 0 not in column:
        return group, rows
    chosen = list(itertools.compress(group, column))
    return chosen, b"".join(chosen)


def _zeros(columns: Sequence[Column], number: int) -> int:
    """How many values are 0 that stand in columns."""
    either = functools.reduce(
        operator.or_, (integer(one) for one in columns if not isinstance(one, int)), 0
    )
    return either.to_bytes(number, "little").count(0)


def _columns(rows: bytes, size: int, at: int | None, width: int) -> list[Column]:
    """The columns of a value; zeros where the messages have none."""
    if at is None:
        return [0] * width
    return [rows[at + index :: size] for index in range(width)]


def _odd_column(rows: bytes, number: int, shape: _Shape) -> bytes | None:
    """The first column in which the rows are not all as the shape has them; None for none."""
    size = shape.size
    for at, value in shape.fixed:
        column = rows[at::size]
        # Cheaper than column.count(value) == number: one memset, one memcmp.
        if column != value * number:
            return column
    return None


def _parted(group: list[bytes], column: bytes) -> list[list[bytes]]:
    """The group in parts, by the value each message has in the column."""
    return [
        list(itertools.compress(group, column.translate(equals(value, 0xFF))))
        for value, _ in histogram(column)
    ]


def _compile(message: bytes, found: Layout) -> _Shape | None:
    """The shape of a message the general decoder has read without complaint."""
    fields = found.fields

    def at(*path: int) -> int | None:
        span = fields.get(path)
        return None if span is None else span[0]

    def either(*places: int | None) -> int | None:
        return next((place for place in places if place is not None), None)

    def proto(direction: int, *kinds: int) -> int | None:
        return either(*(at(direction, ct.CTA_TUPLE_PROTO, kind) for kind in kinds))

    original, reply = ct.CTA_TUPLE_ORIG, ct.CTA_TUPLE_REPLY
    directions = original, reply
    family = 4
    v4 = [
        at(d, ct.CTA_TUPLE_IP, k) for d in directions for k in (ct.CTA_IP_V4_SRC, ct.CTA_IP_V4_DST)
    ]
    v6 = [
        at(d, ct.CTA_TUPLE_IP, k) for d in directions for k in (ct.CTA_IP_V6_SRC, ct.CTA_IP_V6_DST)
    ]
    places = [place for place in v4 if place is not None]
    if not places:
        family = 6
        places = [place for place in v6 if place is not None]
    number_at, status = proto(original, ct.CTA_PROTO_NUM), at(ct.CTA_STATUS)
    if len(places) != 4 or number_at is None or status is None:
        return None
    ids = ct.CTA_PROTO_ICMP_ID, ct.CTA_PROTO_ICMPV6_ID
    source_id = (
        proto(original, *ids, ct.CTA_PROTO_SRC_PORT),
        proto(reply, *ids, ct.CTA_PROTO_DST_PORT),
    )
    destination_port = proto(original, ct.CTA_PROTO_DST_PORT)
    reply_source_port = proto(reply, ct.CTA_PROTO_SRC_PORT)
    if (source_id[0] is None) != (source_id[1] is None):
        return None
    if (destination_port is None) != (reply_source_port is None):
        return None
    protocol = message[number_at]
    fixed = {number_at: message[number_at : number_at + 1]}
    for header in found.headers:
        for place in range(header, header + ct.NLATTR.size):
            if place >= HEAD:  # What comes before is alike within a list.
                fixed[place] = message[place : place + 1]
    ports = [
        proto(direction, kind)
        for direction in directions
        for kind in (ct.CTA_PROTO_SRC_PORT, ct.CTA_PROTO_DST_PORT)
    ]
    info = ct.CTA_PROTOINFO
    return _Shape(
        size=len(message),
        fixed=tuple(fixed.items()),
        family=family,
        protocol=protocol,
        addresses=(places[0], places[1], places[2], places[3]),
        source_id=_both(*source_id),
        destination_id=_both(destination_port, reply_source_port),
        ports=tuple(p for p in ports if p is not None) if t.has_ports(protocol) else (),
        source_ports=_both(
            proto(original, ct.CTA_PROTO_SRC_PORT), proto(reply, ct.CTA_PROTO_DST_PORT)
        ),
        destination_port=destination_port if t.has_ports(protocol) else None,
        reply_source_port=reply_source_port,
        status=status,
        state=either(
            at(info, ct.CTA_PROTOINFO_TCP, ct.CTA_PROTOINFO_TCP_STATE),
            at(info, ct.CTA_PROTOINFO_DCCP, ct.CTA_PROTOINFO_DCCP_STATE),
            at(info, ct.CTA_PROTOINFO_SCTP, ct.CTA_PROTOINFO_SCTP_STATE),
        ),
        timeout=at(ct.CTA_TIMEOUT),
        original_zone=either(at(original, ct.CTA_TUPLE_ZONE), at(ct.CTA_ZONE)),
        directed_zone=at(original, ct.CTA_TUPLE_ZONE) is not None,
        reply_zone=either(at(reply, ct.CTA_TUPLE_ZONE), at(ct.CTA_ZONE)),
    )


def _both(one: int | None, other: int | None) -> tuple[int, int] | None:
    return None if one is None or other is None else (one, other)


def _differ(rows: bytes, size: int, pairs: Iterable[tuple[int, int]]) -> int:
    """Not zero, in each message's byte, where it has different bytes at any pair of offsets."""
    differ = 0
    for one, other in pairs:
        left, right = rows[one::size], rows[other::size]
        if left != right:
            differ |= integer(left) ^ integer(right)
    return differ


def _flags(rows: bytes, number: int, shape: _Shape) -> tuple[bytes, bytes | None]:
    """The column of flags as tally.py has them, and of those with a translated source, if any."""
    size = shape.size
    length = 4 if shape.family == 4 else 16
    from_source, to_target, back_source, back_target = shape.addresses
    flags = integer(rows[shape.status + 3 :: size].translate(_LOW_FLAGS))
    flags |= integer(rows[shape.status + 2 :: size].translate(_HIGH_FLAGS))

    def differ(one: int, other: int, ids: tuple[int, int] | None) -> int:
        pairs = [(one + i, other + i) for i in range(length)]
        if ids is not None:
            pairs += [(ids[0] + i, ids[1] + i) for i in range(2)]
        return _differ(rows, size, pairs)

    source_nat = None
    differing = differ(from_source, back_target, shape.source_id)
    if differing:
        source_nat = differing.to_bytes(number, "little").translate(_SOURCE_NAT)
        flags |= integer(source_nat)
    differing = differ(to_target, back_source, shape.destination_id)
    if differing:
        column = differing.to_bytes(number, "little").translate(_DESTINATION_NAT)
        flags |= integer(column)
    return flags.to_bytes(number, "little"), source_nat


def _pairs(states: bytes | None, flags: bytes) -> Iterable[tuple[int | None, int, int]]:
    """Each pair of state and flags that occurs, and how often."""
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
    tally: t.Tally, rows: bytes, number: int, shape: _Shape, position: int
) -> Sequence[t.AddressKey]:
    """Tally.address_key of one position of the original tuple, for every row."""
    mask = tally.masks[shape.family != 4]
    start = shape.addresses[position]
    columns = [rows[at :: shape.size] for at in range(start, start + len(mask))]
    zone = shape.original_zone
    if zone is None:
        return address_keys(columns, mask, number)
    return zoned_keys(
        columns, mask, number, [rows[at :: shape.size] for at in range(zone, zone + 2)]
    )


def _service_keys(rows: bytes, number: int, shape: _Shape, states: bytes | None) -> Sequence[int]:
    """tally.service_key for every row."""
    at, size = shape.destination_port, shape.size
    port: list[Column] = [0, 0] if at is None else [rows[at::size], rows[at + 1 :: size]]
    state = NO_STATE if states is None else states
    return memoryview(weave([shape.protocol, state, *port], number)).cast("I").tolist()


def _timeout_buckets(rows: bytes, number: int, size: int, at: int) -> Sequence[int]:
    """tally.timeout_bucket for every row: the middle bytes, if the first is zero."""
    high = rows[at::size]
    if high.count(0) != number:
        seconds = zip(high, rows[at + 1 :: size], rows[at + 2 :: size], rows[at + 3 :: size])
        return [t.timeout_bucket(int.from_bytes(four, "big")) for four in seconds]
    middle: list[Column] = [rows[at + 1 :: size], rows[at + 2 :: size]]
    if sys.byteorder == "little":
        middle.reverse()
    return memoryview(weave(middle, number)).cast("H").tolist()


def _held(
    match: Match, shape: _Shape, equal: Callable[[int, bytes, bytes], int]
) -> tuple[int, int, int]:
    """Which rows the networks choose, and which are inbound and outbound (Match.directions)."""
    seen = chosen = 0
    held = [0, 0, 0, 0]
    for index, wanted in enumerate(match.networks):
        if len(wanted.address) != (4 if shape.family == 4 else 16):
            continue
        for position, at in enumerate(shape.addresses):
            hit = equal(at, wanted.address, wanted.mask())
            held[position] |= hit
            if match.only == (index, position):
                chosen = hit & ~seen
            seen |= hit
    return (
        seen if match.only is None else chosen,
        held[ORIGINAL_DESTINATION] | held[REPLY_SOURCE],
        held[ORIGINAL_SOURCE] | held[REPLY_DESTINATION],
    )


def _select(tally: t.Tally, match: Match, rows: bytes, number: int, shape: _Shape) -> bytes | None:
    """Match.accepts and Match.directions for every row: a column of 0 and 1; None for all 0."""
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
        keep &= integer(rows[shape.state :: size].translate(table(lambda v: v in wanted)))
    if match.ports:
        wanted_ports = [port.to_bytes(2, "big") for port in match.ports]
        places = itertools.product(shape.ports, wanted_ports)
        hits = (equal(at, port, b"\xff\xff") for at, port in places)
        keep &= functools.reduce(operator.or_, hits, 0)
    if match.networks and keep:
        chosen, inbound, outbound = _held(match, shape, equal)
        keep &= chosen
        tally.inbound += (keep & inbound).to_bytes(number, "little").count(1)
        tally.outbound += (keep & outbound).to_bytes(number, "little").count(1)
    return keep.to_bytes(number, "little") if keep else None
