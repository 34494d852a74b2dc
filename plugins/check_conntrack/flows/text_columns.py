"""Lines of a table counted by columns, without building a single Entry.

Lines with the same skeleton (the line without its digits) differ in nothing but their numbers.
They are put together, the layout of the first is that of all, and all are split in one call, so
that each value is a column. Lines that do not fit are parsed one by one (text_line.py).

Measured on a million mixed entries (167 MB; Debian's CPython 3.11): 2.6 us of processor time a
line where mawk takes 0.33 to count one column. A third of it is to split lines, their skeletons and
their words, a fifth to delete and translate bytes, an eighth to count keys, a twelfth to pack
addresses. Tried and slower: a regular expression over whole blocks, lines put apart by the width of
each number as well (too many kinds), octets split and joined by bytes(map(int, ...)) (three times
inet_pton), constant words taken out before the rest is split, and a second process (see bulk.py).
"""

from __future__ import annotations

import array
import collections
import itertools
import operator
import socket
import sys

from ..kernel import ctnetlink as ct
from . import groups, translations
from . import tally as t
from .columns import address_keys, integer, slices, zoned_keys
from .entry import (
    IPPROTO_TCP,
    has_ports,
)
from .line_columns import ZONES, LineColumns, values_of
from .nat_pools import FIRST_PORT, POOL_HEAD, RANGE_HEAD
from .text_line import (
    LONGEST_LINE,
    LineLayout,
    entry_of,
    layout_of,
    parse,
)
from .unanswered import NO_STATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Callable

# Lines of one skeleton are counted when this many are ready: their words then fit the cache.
LEAST = 1 << 11
# Rare skeletons wait until so many lines were read, so that they fill columns too.
LINES = 1 << 15
# Fewer lines than this of one skeleton are cheaper to read one by one.
FEW = 4
# More skeletons than this at a time are no table.
MANY_SKELETONS = 1024

_DIGITS = b"0123456789"
# Dots stay, so that the two families have different skeletons.
_HEX = b"0123456789abcdef:"
# Names whose values are taken from columns.
_USED = frozenset(("src", "dst", "sport", "dport", "srckey", "dstkey", "id", *ZONES))


class LineCounter:
    """One pass over the lines of a table.

    note: called with each bad line. remark: called with each line that is not counted by columns,
    before it is counted: what is said between entries is always among these.
    """

    def __init__(
        self, tally: t.Tally, note: Callable[[bytes], None], remark: Callable[[bytes], None]
    ) -> None:
        self.tally = tally
        self.note = note
        self.remark = remark
        self.skeletons: dict[bytes, list[bytes]] = {}
        # Of which a line was read whole: what lies outside the columns is sound too.
        self.sound: set[bytes] = set()
        self.ready = 0

    def one(self, line: bytes) -> None:
        """Count one line the slow way."""
        self.remark(line)
        try:
            entry = entry_of(line)
        except ValueError:
            self.note(line)
            return
        if entry is not None:
            self.tally.add(entry)

    def sort(self, block: bytes) -> None:
        """Add each line to those of its skeleton, and count those of which enough are ready."""
        skeletons = self.skeletons
        some = block.split(b"\n")
        # All at once, as if no line had hexadecimal numbers.
        bare = block.translate(None, _DIGITS).split(b"\n")
        others: list[bytes] = []
        fresh = set(bare).difference(skeletons)
        skeletons.update(dict.fromkeys(fresh, others))
        # One C loop; it yields nothing.
        any(map(list.append, map(skeletons.__getitem__, bare), some))
        for skeleton in fresh:
            del skeletons[skeleton]
        if others:
            self._sort_others(others)
        self.ready += len(some)
        if self.ready < LINES:
            self.work_off(LEAST)
        else:
            self.work_off()

    def _sort_others(self, others: list[bytes]) -> None:
        """Do the same for lines with hexadecimal numbers and for the first of each skeleton."""
        skeletons = self.skeletons
        block = b"\n".join(others)
        plain = block.translate(None, _DIGITS).split(b"\n")
        # Hexadecimal letters that stay would make every skeleton different.
        bare = block.translate(None, _HEX).split(b"\n")
        for line, with_letters, without in zip(others, plain, bare):
            skeleton = without if b":" in line or b"0x" in line else with_letters
            found = skeletons.get(skeleton)
            if found is not None:
                found.append(line)
            elif len(line) > LONGEST_LINE or len(skeletons) >= MANY_SKELETONS:
                self.one(line)
            else:
                skeletons[skeleton] = [line]

    def work_off(self, least: int = 1) -> None:
        """Count the lines of each skeleton of which at least so many are ready."""
        for skeleton, found in self.skeletons.items():
            if len(found) >= least:
                if len(found) < FEW or not self._columns(skeleton, found):
                    for line in found:
                        self.one(line)
                found.clear()
        if least == 1:
            self.skeletons.clear()
            self.ready = 0

    def _columns(self, skeleton: bytes, found: list[bytes]) -> bool:
        """Count lines of one skeleton together. Returns False where that is not certain to work."""
        first = found[0].decode("ascii", "replace")
        words = first.split()
        try:
            if skeleton not in self.sound:
                parse(first)
            layout = layout_of(words)
        except (ValueError, IndexError):
            return False
        if len(self.sound) < MANY_SKELETONS:
            self.sound.add(skeleton)
        past = layout.timeout_at is not None and words[layout.timeout_at][0] == "-"
        if past or b"|" in skeleton or b" been shown" in found[0]:
            return False
        # A mark between them shows whether all lines have as many words.
        block = b" | ".join(found)
        number = len(found)
        if b"= " in block or found[-1].endswith(b"="):
            return False
        kept = [1] * len(words)
        plain = b":" not in found[0] and b"0x" not in found[0]
        if plain:
            # A state with a digit in it leaves the same skeleton, and its digit among the values.
            if layout.state_at is not None:
                state = f" {words[layout.state_at]} ".encode()
                if block.count(state) != number:
                    return False
            # A name with a digit in it leaves that before its "=".
            left = values_of(block)
            if left.count(" \x1f") != found[0].count(b"=") * number:
                return False
            kept = [len(values_of(word.encode()).split()) for word in words]
        else:
            left = block.decode("ascii", "replace")
            for name in {key[0] for key in layout.fields if key[0] in _USED}:
                wanted = sum(key[0] == name for key in layout.fields)
                if block.count(f" {name}=".encode()) != wanted * number:
                    return False
        columns = LineColumns(left.split(), number, layout, kept, plain)
        return columns.regular() and self._count(columns, layout, number)

    def _count(self, columns: LineColumns, layout: LineLayout, number: int) -> bool:
        tally, protocol, state = self.tally, layout.protocol, layout.state
        get = columns.values
        source, target = get("src", 0), get("dst", 0)
        back_source, back_target = get("src", 1), get("dst", 1)
        family = 6 if ":" in source[0] else 4
        try:
            packed = _packed(family, source), _packed(family, target)
            # Those of the reply need only be sound, and mostly are the same again.
            _packed(family, _other(back_source, target))
            _packed(family, _other(back_target, source))
        except (OSError, UnicodeError):
            return False
        try:
            numbers = columns.numbers()
        except ValueError:
            return False
        if numbers is None or not columns.zones():
            return False
        ids, ports = numbers
        source_nat = _differing(back_target, source, *ids)
        target_nat = _differing(back_source, target, *ports)

        tally.read += number
        flags = layout.status & groups.KEPT_LOW | layout.status >> 8 & groups.KEPT_HIGH
        for nat, times in _nat_flags(source_nat, target_nat, number):
            tally.groups[family, protocol, state, flags | nat] += times

        size = len(packed[0]) // number
        mask = tally.masks[family != 4]
        zones = columns.zone_column("zone-orig", 0)
        zone = _two_columns(zones) if any(zones) else None
        columns.count_zones(tally)
        if zone is not None:
            zoned = number - zones.count(0)
            tally.zoned += zoned
            tally.original_zones += zoned if columns.directed_zone else 0
        addresses = [[packed[which][i::size] for i in range(size)] for which in (0, 1)]
        for heavy, address in zip((tally.sources, tally.destinations), addresses):
            if zone is None:
                heavy.feed(address_keys(address, mask, number), number)
            else:
                heavy.feed(zoned_keys(address, mask, number, zone), number)
        half_open = protocol == IPPROTO_TCP and state in groups.HALF_OPEN
        if (half_open or not flags & groups.SEEN_REPLY) and not tally.unanswered.full:
            has_port = ports[0] and has_ports(protocol)
            head = [protocol, NO_STATE if state is None else state, *(zone or (0, 0))]
            two = _two_columns(map(int, ports[0])) if has_port else (0, 0)
            tally.unanswered.feed([*head, *two, *addresses[0], *addresses[1]], number)
        if protocol == IPPROTO_TCP and state == ct.TCP_CONNTRACK_ESTABLISHED:
            seconds = map(int, columns.timeouts())
            buckets = map(operator.rshift, seconds, itertools.repeat(t.IDLE_SHIFT))
            tally.established_timeouts.update(buckets)
            tally.clamp_timeouts()
        if protocol == IPPROTO_TCP and state is not None and tally.leaks.wanted(state):
            columns_of_ports = _two_columns(map(int, ports[0])) if ports[0] else (0, 0)
            left = map(t.timeout_bucket, map(int, columns.timeouts() or ["0"] * number))
            head = [*_two_columns(left), *(zone or (0, 0)), *columns_of_ports]
            tally.leaks.feed(state, [*head, *addresses[0], *addresses[1]], number)
        # Where there is no port, all lines are of one service.
        services = collections.Counter(ports[0]) if ports[0] else {"0": number}
        for port, times in services.items():
            tally.services.add(t.service_key(protocol, state, int(port)), times)
        self._translated(columns, source_nat, target_nat, family)
        return True

    def _translated(
        self,
        columns: LineColumns,
        source_nat: bytes | None,
        target_nat: bytes | None,
        family: int,
    ) -> None:
        """Count what lines with a translated source or destination show."""
        if source_nat is not None and ("dport", 0) in columns.layout.fields:
            self._pools(columns, columns.layout.protocol, source_nat, family)
        none = bytes(columns.number)
        translated = integer(target_nat or none)
        replied = bool(columns.layout.status & groups.SEEN_REPLY)
        kind, plain = translations.UNREPLIED, translations.UNTRANSLATED
        if replied:
            kind, plain = translations.REPLIED, translations.ANSWERED
        every = integer(b"\1" * columns.number)
        for each, of_these in (
            (kind, translated),
            (plain, every & ~translated),
        ):
            if of_these and translations.is_counted(
                columns.layout.protocol, columns.layout.state, each, replied=replied
            ):
                chosen = of_these.to_bytes(columns.number, "little")
                self._translations(columns, chosen, family, each)

    def _translations(self, columns: LineColumns, wanted: bytes, family: int, kind: int) -> None:
        """Count lines that may have a stale translation, or tell of one."""
        layout, counted = columns.layout, self.tally.translations
        if layout.timeout_at is None or ("sport", 1) not in layout.fields or counted.full(kind):
            return

        def chosen(column: Iterable[str]) -> list[str]:
            return list(itertools.compress(column, wanted))

        heads = map(
            translations.HEAD.pack,
            itertools.repeat(layout.protocol),
            itertools.repeat(layout.status & translations.KEPT),
            itertools.compress(columns.zone_column("zone-orig", 0), wanted),
            map(int, chosen(columns.timeouts())),
            map(int, chosen(columns.values("dport", 0))),
            map(int, chosen(columns.values("sport", 1))),
        )
        size = 4 if family == 4 else 16
        both = (
            slices(bytearray(_packed(family, chosen(columns.values(*name)))), size)
            for name in (("dst", 0), ("src", 1))
        )
        keys = list(map(b"".join, zip(heads, *both)))
        counted.feed_keys(keys, len(keys), kind)

    def _pools(self, columns: LineColumns, protocol: int, source_nat: bytes, family: int) -> None:
        if not has_ports(protocol):
            return

        def chosen(name: str, direction: int) -> list[str]:
            return list(itertools.compress(columns.values(name, direction), source_nat))

        targets = chosen("sport", 1)
        zones = list(itertools.compress(columns.zone_column("zone-reply", 1), source_nat))
        protocols = itertools.repeat(protocol)
        heads = map(POOL_HEAD.pack, protocols, zones, map(int, targets))
        size = 4 if family == 4 else 16
        target, translated = (
            list(slices(bytearray(_packed(family, chosen(name, 1))), size))
            for name in ("src", "dst")
        )
        pools = self.tally.pools
        pools.flows.feed(map(b"".join, zip(heads, target, translated)), len(targets))
        if pools.enough_ports:
            return
        own, given = (list(map(int, chosen(*name))) for name in (("sport", 0), ("dport", 1)))
        changed = [one != two and one >= FIRST_PORT for one, two in zip(own, given)]
        if any(changed):
            heads = map(RANGE_HEAD.pack, protocols, zones)
            pools.feed_ports(
                list(itertools.compress(map(bytes.__add__, heads, translated), changed)),
                list(itertools.compress(given, changed)),
            )


def _packed(family: int, column: Sequence[str]) -> bytes:
    """Return a column of addresses, packed and joined. Raises OSError for any other word."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    return b"".join(map(socket.inet_pton, itertools.repeat(kind), column))


def _two_columns(numbers: Iterable[int]) -> tuple[bytes, bytes]:
    """Return numbers of 16 bits as the columns of their high and low bytes."""
    data = array.array("H", numbers)
    if sys.byteorder == "little":
        data.byteswap()
    both = data.tobytes()
    return both[::2], both[1::2]


def _other(column: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """Return the words of a column that differ from those of one that was checked."""
    if column == known:
        return ()
    return list(itertools.compress(column, map(operator.ne, column, known)))


def _nat_flags(
    source_nat: bytes | None, target_nat: bytes | None, number: int
) -> list[tuple[int, int]]:
    """Return the NAT flags and how many lines have them."""
    if source_nat is None and target_nat is None:
        return [(0, number)]
    none = bytes(number)
    both = collections.Counter(zip(source_nat or none, target_nat or none))
    return [
        (groups.SOURCE_NAT * one | groups.DESTINATION_NAT * other, times)
        for (one, other), times in both.items()
    ]


def _differing(
    one: list[str], other: list[str], one_id: list[str], other_id: list[str]
) -> bytes | None:
    """Return a column of 1 where address or port differ; None where none does."""
    if one == other and one_id == other_id:
        return None
    differ = bytes(map(operator.ne, one, other))
    if one_id == other_id:
        return differ
    ids = bytes(map(operator.ne, one_id, other_id))
    return (integer(differ) | integer(ids)).to_bytes(len(one), "little")
