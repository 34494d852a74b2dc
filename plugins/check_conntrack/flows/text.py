"""The table as text: read in any form that is about, counted fast, and written.

Forms: /proc/net/nf_conntrack (ct_seq_show() of net/netfilter/nf_conntrack_standalone.c) and what
`conntrack -L` prints, plain or with `-o extended`, `id`, `timestamp`, `labels`
(src/conntrack/snprintf_default.c of libnetfilter_conntrack). A line is words: the protocol's names
and numbers, seconds left, a state, NAME=VALUE pairs in the order original, reply, rest, and
[FLAGS] between and after them.

`parse` reads one line into an Entry. `count` does not: lines with the same skeleton (the line
without its digits) are alike but for their numbers. They are put together, their layout is read
off the first, and all others are split in one call, so that each value is a column. What does not
fit goes through `parse`, line by line.

Measured on a million mixed entries (167 MB; Debian's CPython 3.11): 2.6 us of processor time a
line where mawk takes 0.33 to count one column. A third of it is to split lines, their skeletons and
their words, a fifth to delete and translate bytes, an eighth to count keys, a twelfth to pack
addresses. Tried and slower: a regular expression over whole blocks, lines put apart by the width of
each number as well (too many kinds), octets split and joined by bytes(map(int, ...)) (three times
inet_pton), constant words taken out before the rest is split. share.py lets two processes do this
work.

No text form shows IPS_EXPECTED, and a flow in a flow table hides whether it is assured: the
kernel takes it for protected either way, and so it is counted as assured here.
"""

from __future__ import annotations

import array
import collections
import itertools
import operator
import socket

from check_conntrack.flows import parallel_count
from check_conntrack.flows import tally as t
from check_conntrack.flows.columns import address_keys, integer, slices
from check_conntrack.flows.entry import (
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    STATE_NAMES,
    ConntrackTuple,
    Counters,
    Entry,
    address_text,
    packed_address,
    protocol_name,
    state_name,
)
from check_conntrack.flows.netlink import DumpStatus
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from typing import BinaryIO, Callable

    _Two = tuple[list[str], list[str]]

READ_SIZE = 1 << 18
# Longer than any line of a table by far; what is longer is one bad line, whatever its length.
LONGEST_LINE = 1 << 14
# Lines of one skeleton are worked off when this many lie ready: their words then fit the cache.
LEAST = 1 << 11
# Rare skeletons wait until so many lines were read, so that they fill columns too.
LINES = 1 << 15
# Of a bad line, this much is kept to be shown.
SHOWN = 200
# Fewer lines than this of one skeleton are cheaper to read one by one.
FEW = 4
# More skeletons than this at a time are no table.
MANY_SKELETONS = 1024

_L3 = {"ipv4": 4, "ipv6": 6}
_DIGITS = b"0123456789"
# Dots stay, so that the two families have different skeletons.
_HEX = b"0123456789abcdef:"
# What is left of lines where all values are decimal: those, blanks, and the marks between lines;
# "=" becomes a blank of its own (str.split takes \x1f for one).
_VALUES = bytes(0x1F if byte == ord("=") else byte for byte in range(256))
_NOT_VALUES = bytes(sorted(set(range(256)) - set(b"0123456789. =|")))
_MARK = "|"
_STATES = {
    protocol: {name: number for number, name in enumerate(names)}
    for protocol, names in STATE_NAMES.items()
}
_FLAGS = {
    "[UNREPLIED]": 0,
    "[ASSURED]": ct.IPS_ASSURED,
    "[OFFLOAD]": ct.IPS_OFFLOAD | ct.IPS_ASSURED,
    "[HW_OFFLOAD]": ct.IPS_HW_OFFLOAD | ct.IPS_OFFLOAD | ct.IPS_ASSURED,
}
# The first that is set is written, alone.
_FLAGS_WRITTEN = (
    ("[HW_OFFLOAD]", ct.IPS_HW_OFFLOAD),
    ("[OFFLOAD]", ct.IPS_OFFLOAD),
    ("[ASSURED]", ct.IPS_ASSURED),
)
# Names that belong to a tuple, in either direction.
_TUPLE_NAMES = frozenset(
    ("src", "dst", "sport", "dport", "srckey", "dstkey", "type", "code", "zone-orig", "zone-reply")
)
# conntrack(8) prints ports for these even where the kernel sends none.
_WITH_PORTS = frozenset((*STATE_NAMES, IPPROTO_UDP, IPPROTO_UDPLITE))
_COUNTED_NAMES = frozenset(("packets", "bytes"))


class _Places(NamedTuple):
    """What a line says, and at which of its words: found by (name, direction).

    Directions are 0 for the original tuple, 1 for the reply, 2 for the entry as a whole.
    """

    found: dict[tuple[str, int], int]
    protocol_at: int
    protocol: int
    timeout_at: int | None
    state_at: int | None
    state: int | None
    status: int


def _places(words: Sequence[str]) -> _Places:
    """Where things stand in the words of one line; raises ValueError saying what is wrong."""
    at = 2 if words[0] in _L3 else 0
    if len(words) < at + 4:
        raise ValueError("too short")
    number_at = at + 1
    protocol = _number(words[number_at], 255)
    at += 2
    timeout_at = state_at = state = None
    if words[at].isdigit():
        timeout_at = at
        at += 1
    if "=" not in words[at] and words[at][0] != "[":
        names = _STATES.get(protocol, {})
        if words[at] not in names:
            raise ValueError(f"unknown state {words[at]!r}")
        state_at, state = at, names[words[at]]
        at += 1
    found, status = _pairs(words, at, protocol)
    return _Places(found, number_at, protocol, timeout_at, state_at, state, status)


def _pairs(words: Sequence[str], at: int, protocol: int) -> tuple[dict[tuple[str, int], int], int]:
    """The named values from a word on, and the status bits that flags stand for."""
    found: dict[tuple[str, int], int] = {}
    status = ct.IPS_CONFIRMED | ct.IPS_SEEN_REPLY
    direction = -1
    for index in range(at, len(words)):
        word = words[index]
        name, equals, value = word.partition("=")
        if not equals:
            if word not in _FLAGS:
                raise ValueError(f"unknown word {word!r}")
            status |= _FLAGS[word]
            if word == "[UNREPLIED]":
                status &= ~ct.IPS_SEEN_REPLY
            continue
        if name in ("timeout", "stream_timeout"):  # /proc prints these for GRE.
            continue
        if name == "src":
            direction += 1
        in_tuple = name in _TUPLE_NAMES or name in _COUNTED_NAMES
        if name == "id" and protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6):
            in_tuple = ("id", direction) not in found
        key = name, direction if in_tuple else 2
        if not value or not -1 < key[1] < 3 or key in found:
            raise ValueError(f"{word!r} is out of place")
        found[key] = index
    if direction != 1 or ("dst", 0) not in found or ("dst", 1) not in found:
        raise ValueError("does not hold two tuples")
    return found, status


def _number(text: str, largest: int) -> int:
    value = int(text, 16) if text[:2] == "0x" else int(text) if text.isdigit() else -1
    if not 0 <= value <= largest:
        raise ValueError(f"not a number up to {largest}: {text!r}")
    return value


def parse(line: str) -> Entry:
    """The Entry of one line; raises ValueError with the reason.

    start: where `-o timestamp` shows it, it is left out (local time without a zone).
    """
    words = _words(line)
    if not words:
        raise ValueError("empty")
    places = _places(words)
    found = places.found

    def value(name: str, direction: int) -> str | None:
        at = found.get((name, direction))
        return None if at is None else words[at].partition("=")[2]

    def number(name: str, direction: int, largest: int) -> int | None:
        text = value(name, direction)
        return None if text is None else _number(text, largest)

    def direction(which: int) -> ConntrackTuple:
        names = ("srckey", "dstkey") if places.protocol == IPPROTO_GRE else ("sport", "dport")
        return ConntrackTuple(
            packed_address(value("src", which) or ""),
            packed_address(value("dst", which) or ""),
            places.protocol,
            number(names[0], which, 0xFFFF),
            number(names[1], which, 0xFFFF),
            number("id", which, 0xFFFF),
            number("type", which, 0xFF),
            number("code", which, 0xFF),
            number(("zone-orig", "zone-reply")[which], which, 0xFFFF),
        )

    def counters(which: int) -> Counters | None:
        packets, octets = (number(name, which, 2**64 - 1) for name in ("packets", "bytes"))
        return None if packets is None or octets is None else Counters(packets, octets)

    original, reply = direction(0), direction(1)
    if len({len(a) for a in (*original[:2], *reply[:2])}) != 1:
        raise ValueError("addresses of two families")
    seconds = None if places.timeout_at is None else _number(words[places.timeout_at], 2**32 - 1)
    return Entry(
        original=original,
        reply=reply,
        status=places.status,
        timeout=seconds,
        state=places.state,
        zone=number("zone", 2, 0xFFFF) or 0,
        mark=number("mark", 2, 2**32 - 1),
        helper=value("helper", 2),
        original_counters=counters(0),
        reply_counters=counters(1),
        identifier=number("id", 2, 2**32 - 1),
        use=number("use", 2, 2**32 - 1),
        secctx=value("secctx", 2),
    )


def _words(line: str) -> list[str]:
    """The words of a line, without the dates of `-o timestamp`, which have spaces in them."""
    for opening in ("[start=", "[stop="):
        start = line.find(opening)
        if start >= 0:
            end = line.find("]", start)
            line = line[:start] + line[end + 1 :] if end >= 0 else line
    return line.split()


def _no_entry(line: str) -> bool:
    """Lines that are no entry and no fault: blank, comments, the count conntrack(8) prints."""
    return not line.strip() or line.startswith("#") or line.endswith("have been shown.")


def blocks(file: BinaryIO, bad: Callable[[bytes], None]) -> Iterator[bytes]:
    """A file in pieces of whole lines; overlong ones go to `bad`, once each, cut short."""
    rest = b""
    skipping = False
    while True:
        data = file.read(READ_SIZE)
        if not data:
            break
        if skipping:
            _, newline, data = data.partition(b"\n")
            if not newline:
                continue
            skipping = False
        whole, newline, last = data.rpartition(b"\n")
        if not newline:
            rest += last
        else:
            yield rest + whole
            rest = last
        if len(rest) > LONGEST_LINE:
            bad(rest[:SHOWN])
            rest, skipping = b"", True
    if rest:
        yield rest


def entries(file: BinaryIO, tally: t.Tally) -> Iterator[Entry]:
    """Every Entry of a file, slowly; lines that are none are noted in the tally."""
    note = _noter(tally)
    for block in blocks(file, note):
        for line in block.split(b"\n"):
            entry = _entry(line, note)
            if entry is not None:
                yield entry


def _noter(tally: t.Tally) -> Callable[[bytes], None]:
    def note(line: bytes) -> None:
        tally.bad_lines += 1
        if tally.bad_lines == 1:
            tally.first_bad_line = line[:SHOWN].decode("ascii", "backslashreplace")

    return note


def _entry(line: bytes, note: Callable[[bytes], None]) -> Entry | None:
    text = line.decode("ascii", "replace")
    if _no_entry(text):
        return None
    if len(line) <= LONGEST_LINE:
        try:
            return parse(text)
        except ValueError:
            pass
    note(line)
    return None


def count(file: BinaryIO, tally: t.Tally) -> None:
    """Count every entry of a file (opened for bytes, unpacked) into `tally`.

    Lines that are no entries are counted in `tally.bad_lines`, the first that was met is kept; a
    file with `tally.read` 0 and bad lines is no table. Raises what reading the file raises, and
    KernelError as share.count does.
    """
    tally.expected_known = False
    parallel_count.count(blocks(file, _noter(tally)), count_blocks, tally)


def count_blocks(some: Iterable[bytes], tally: t.Tally) -> DumpStatus:
    """Count every entry of blocks of whole lines into `tally`."""
    counting = _Counting(tally, _noter(tally))
    for block in some:
        if tally.match is None:
            counting.sort(block)
        else:
            for line in block.split(b"\n"):
                counting.one(line)
    counting.work_off()
    return DumpStatus()


class _Counting:
    """One pass over one file."""

    def __init__(self, tally: t.Tally, note: Callable[[bytes], None]) -> None:
        self.tally = tally
        self.note = note
        self.skeletons: dict[bytes, list[bytes]] = {}
        # Of which a line was read whole: what lies outside the columns is sound too.
        self.sound: set[bytes] = set()
        self.ready = 0

    def one(self, line: bytes) -> None:
        """The slow way, for one line."""
        entry = _entry(line, self.note)
        if entry is not None:
            self.tally.add(entry)

    def sort(self, block: bytes) -> None:
        """Put each line to those of its skeleton; work off when enough lie ready."""
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
        """Put lines with hexadecimal numbers, and the first of each skeleton, where they belong."""
        skeletons = self.skeletons
        block = b"\n".join(others)
        plain = block.translate(None, _DIGITS).split(b"\n")
        # Their letters would stay behind, and no two skeletons be alike.
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
        """Count the lines of each skeleton of which at least so many lie ready."""
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
        """Count lines of one skeleton all at once; False when that cannot be done surely."""
        first = found[0].decode("ascii", "replace")
        words = first.split()
        try:
            if skeleton not in self.sound:
                parse(first)
            places = _places(words)
        except (ValueError, IndexError):
            return False
        if len(self.sound) < MANY_SKELETONS:
            self.sound.add(skeleton)
        if b"|" in skeleton:
            return False
        # With a mark between them it shows whether all lines have as many words.
        whole = b" | ".join(found)
        number = len(found)
        if b"= " in whole or found[-1].endswith(b"="):
            return False
        kept = [1] * len(words)
        plain = b":" not in found[0] and b"0x" not in found[0]
        if plain:
            # A state with a digit in it leaves the same skeleton, and its digit among the values.
            if places.state_at is not None:
                state = f" {words[places.state_at]} ".encode()
                if whole.count(state) != number:
                    return False
            # A name with a digit in it leaves that before its "=".
            left = _values(whole)
            if left.count(" \x1f") != found[0].count(b"=") * number:
                return False
            kept = [len(_values(word.encode()).split()) for word in words]
        else:
            left = whole.decode("ascii", "replace")
            for name in {key[0] for key in places.found if key[0] in _USED}:
                wanted = sum(key[0] == name for key in places.found)
                if whole.count(f" {name}=".encode()) != wanted * number:
                    return False
        columns = _Columns(left.split(), number, places, kept, plain)
        return columns.regular() and self._count(columns, places, number)

    def _count(self, columns: _Columns, places: _Places, number: int) -> bool:
        tally, protocol, state = self.tally, places.protocol, places.state
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
        flags = places.status & t.KEPT_LOW | places.status >> 8 & t.KEPT_HIGH
        for nat, times in _nat_flags(source_nat, target_nat, number):
            tally.groups[family, protocol, state, flags | nat] += times

        size = len(packed[0]) // number
        mask = tally.masks[family != 4]
        sources = address_keys([packed[0][i::size] for i in range(size)], mask, number)
        tally.sources.feed(sources, number)
        destinations = address_keys([packed[1][i::size] for i in range(size)], mask, number)
        tally.destinations.feed(destinations, number)
        if protocol == IPPROTO_TCP and state in t.HALF_OPEN:
            tally.half_open_sources.feed(sources, number)
        if protocol == IPPROTO_TCP and state == ct.TCP_CONNTRACK_ESTABLISHED:
            seconds = map(int, columns.timeouts())
            buckets = map(operator.rshift, seconds, itertools.repeat(t.IDLE_SHIFT))
            tally.established_timeouts.update(buckets)
            tally.clamp_timeouts()
        # Where there is no port, all lines are of one service.
        services = collections.Counter(ports[0]) if ports[0] else {"0": number}
        for port, times in services.items():
            tally.services.add(t.service_key(protocol, state, int(port)), times)
        if source_nat is not None and ports[1]:
            self._pools(columns, protocol, source_nat, family)
        return True

    def _pools(self, columns: _Columns, protocol: int, source_nat: bytes, family: int) -> None:
        if not t.has_ports(protocol):
            return

        def chosen(name: str, direction: int) -> list[str]:
            return list(itertools.compress(columns.values(name, direction), source_nat))

        ports = chosen("sport", 1)
        zones: Iterable[int] = itertools.repeat(0)
        if columns.has("zone-reply"):
            zones = map(int, chosen("zone-reply", 1))
        elif columns.has("zone"):
            zones = map(int, chosen("zone", 2))
        heads = map(t.POOL_HEAD.pack, itertools.repeat(protocol), zones, map(int, ports))
        size = 4 if family == 4 else 16
        targets, translated = (
            slices(bytearray(_packed(family, chosen(name, 1))), size) for name in ("src", "dst")
        )
        self.tally.pools.feed(map(b"".join, zip(heads, targets, translated)), len(ports))


_ZONES = frozenset(("zone", "zone-orig", "zone-reply"))
# Names whose values `_Counting` takes from columns.
_USED = frozenset(("src", "dst", "sport", "dport", "srckey", "dstkey", "id", *_ZONES))


def _values(text: bytes) -> str:
    """What is left of text where all values are decimal."""
    return text.translate(_VALUES, _NOT_VALUES).decode("ascii")


class _Columns:
    """The words of many lines of one skeleton, by place; a mark stands between lines.

    `kept` says how many of the words each word of the first line has become, `bare` that only
    digits and dots are left of them.
    """

    def __init__(
        self, words: list[str], number: int, places: _Places, kept: list[int], bare: bool
    ) -> None:
        self.words = words
        self.number = number
        self.places = places
        self.width = sum(kept) + 1
        self.index = list(itertools.accumulate([0, *kept]))
        self.kept = kept
        self.bare = bare
        self.flags = {place for place, word in enumerate(words[: len(kept)]) if word in _FLAGS}

    def regular(self) -> bool:
        """Whether every line has as many words as the first, and the same protocol and state."""
        marks = self.words[self.width - 1 :: self.width]
        if len(self.words) != self.width * self.number - 1 or marks.count(_MARK) != len(marks):
            return False
        # Names of protocols and states, their numbers, and flags are all alike.
        constant = set(range(self.places.protocol_at + 1)) | self.flags
        if self.places.state_at is not None:
            constant.add(self.places.state_at)
        for place in constant:
            if self.kept[place]:
                column = self.at(place)
                if column.count(column[0]) != self.number:
                    return False
        if self.places.timeout_at is None:
            return True
        seconds = self.at(self.places.timeout_at)
        longest = max(map(len, seconds))
        # As long as a number of 32 bits may be, int() is asked; longer ones would cost it dearly.
        small = longest < 10 or (longest == 10 and max(map(int, seconds)) < 1 << 32)
        return all(map(str.isdigit, seconds)) and small

    def has(self, name: str) -> bool:
        """Whether the lines say anything under this name."""
        return any(key[0] == name for key in self.places.found)

    def at(self, place: int) -> list[str]:
        """The column of words at a place in the line."""
        return self.words[self.index[place] :: self.width]

    def values(self, name: str, direction: int) -> list[str]:
        """The column of a name's values; raises KeyError where there is none."""
        column = self.at(self.places.found[name, direction])
        if self.bare:
            return column
        skip = len(name) + 1
        if name in ("srckey", "dstkey"):
            return [str(int(word[skip:], 16)) for word in column]
        return [word[skip:] for word in column]

    def timeouts(self) -> list[str]:
        """The column of seconds left; empty where the lines show none."""
        place = self.places.timeout_at
        return [] if place is None else self.at(place)

    def numbers(self) -> tuple[_Two, _Two] | None:
        """What tells a translated source, and a translated destination, beside the address.

        Ports, keys or ids of 16 bits, each of the original and the reply; empty where there are
        none. None when something is no such number.
        """
        protocol = self.places.protocol
        names = ("srckey", "dstkey") if protocol == IPPROTO_GRE else ("sport", "dport")
        wanted = [(names[0], 0), (names[1], 1), (names[1], 0), (names[0], 1)]
        if protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6):
            wanted[:2] = ("id", 0), ("id", 1)
        have = [key in self.places.found for key in wanted]
        if have[0] != have[1] or have[2] != have[3]:
            return None
        sources: _Two = ([], [])
        targets: _Two = ([], [])
        if have[0]:
            sources = self.values(*wanted[0]), self.values(*wanted[1])
        if have[2]:
            targets = self.values(*wanted[2]), self.values(*wanted[3])
        # Most often the two of a pair are alike, and service ports are few.
        different = set(targets[0])
        for column in (
            sources[0],
            sources[1] if sources[1] != sources[0] else (),
            different,
            targets[1] if targets[1] != targets[0] else (),
        ):
            if not self._sixteen_bits(column):
                return None
        return sources, targets

    def zones(self) -> bool:
        """Whether all zones are such, where lines name any."""
        named = [key for key in self.places.found if key[0] in _ZONES]
        return all(self._sixteen_bits(self.values(*key)) for key in named)

    def _sixteen_bits(self, column: Collection[str]) -> bool:
        # In bare columns there are digits and dots alone; int takes more than digits.
        if not (self.bare or not column or "".join(column).isdigit()):
            return False
        try:
            array.array("H", map(int, column))
        except (ValueError, OverflowError):
            return False
        return True


def _packed(family: int, column: Sequence[str]) -> bytes:
    """A column of addresses, packed and joined; raises OSError when one is none."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    return b"".join(map(socket.inet_pton, itertools.repeat(kind), column))


def _other(column: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """What stands in a column and not at the same place in one that is known to be sound."""
    if column == known:
        return ()
    return list(itertools.compress(column, map(operator.ne, column, known)))


def _nat_flags(
    source_nat: bytes | None, target_nat: bytes | None, number: int
) -> list[tuple[int, int]]:
    """Which NAT flags how many lines have."""
    if source_nat is None and target_nat is None:
        return [(0, number)]
    none = bytes(number)
    both = collections.Counter(zip(source_nat or none, target_nat or none))
    return [
        (t.SOURCE_NAT * one | t.DESTINATION_NAT * other, times)
        for (one, other), times in both.items()
    ]


def _differing(
    one: list[str], other: list[str], one_id: list[str], other_id: list[str]
) -> bytes | None:
    """A column of 1 where address or port differ; None when none does."""
    if one == other and one_id == other_id:
        return None
    differ = bytes(map(operator.ne, one, other))
    if one_id == other_id:
        return differ
    ids = bytes(map(operator.ne, one_id, other_id))
    return (integer(differ) | integer(ids)).to_bytes(len(one), "little")


def line_of(entry: Entry) -> str:
    """The entry as `conntrack -L -o extended` prints it, without the newline."""
    family = entry.family
    parts = [
        f"ipv{family}     {2 if family == 4 else 10}",
        f"{protocol_name(entry.protocol):<8} {entry.protocol}",
    ]
    if entry.timeout is not None:
        parts.append(str(entry.timeout))
    name = state_name(entry.protocol, entry.state)
    if name:
        parts.append(name)
    parts += _tuple_words(entry.original, "zone-orig")
    parts += _counter_words(entry.original_counters)
    if entry.unreplied:
        parts.append("[UNREPLIED]")
    parts += _tuple_words(entry.reply, "zone-reply")
    parts += _counter_words(entry.reply_counters)
    parts += next(([flag] for flag, bits in _FLAGS_WRITTEN if entry.status & bits), [])
    if entry.mark is not None:
        parts.append(f"mark={entry.mark}")
    if entry.secctx is not None:
        parts.append(f"secctx={entry.secctx}")
    if entry.zone:
        parts.append(f"zone={entry.zone}")
    if entry.helper is not None:
        parts.append(f"helper={entry.helper}")
    if entry.use is not None:
        parts.append(f"use={entry.use}")
    return " ".join(parts)


def _tuple_words(one: ConntrackTuple, zone_name: str) -> list[str]:
    words = [f"src={address_text(one.source)}", f"dst={address_text(one.destination)}"]
    if one.icmp_id is not None:
        words += [f"type={one.icmp_type or 0}", f"code={one.icmp_code or 0}", f"id={one.icmp_id}"]
    elif one.protocol == IPPROTO_GRE:
        words += [f"srckey=0x{one.source_port or 0:x}", f"dstkey=0x{one.destination_port or 0:x}"]
    elif one.source_port is not None or one.protocol in _WITH_PORTS:
        words += [f"sport={one.source_port or 0}", f"dport={one.destination_port or 0}"]
    if one.zone is not None:
        words.append(f"{zone_name}={one.zone}")
    return words


def _counter_words(counters: Counters | None) -> list[str]:
    return [] if counters is None else [f"packets={counters.packets}", f"bytes={counters.bytes}"]
