"""The words of many lines of a table, as columns.

text_columns.py puts lines of one skeleton together and splits them in one call. Here is which word
of a line stands where, and whether all lines have the same form.
"""

from __future__ import annotations

import array
import itertools

from .entry import IPPROTO_GRE, IPPROTO_ICMP, IPPROTO_ICMPV6
from .text_line import UINT32_MAX, LineLayout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from .tally import Tally

    _Two = tuple[list[str], list[str]]

# What is left of lines where all values are decimal: those, blanks, and the marks between lines;
# "=" becomes a blank of its own (str.split takes \x1f for one).
_VALUES = bytes(0x1F if byte == ord("=") else byte for byte in range(256))
_NOT_VALUES = bytes(sorted(set(range(256)) - set(b"0123456789. =|")))
_MARK = "|"
_ZONE_KEYS = (("zone", 2), ("zone-orig", 0), ("zone-reply", 1))
ZONES = frozenset(name for name, _ in _ZONE_KEYS)


def values_of(text: bytes) -> str:
    """Return the numbers of a text in which all values are decimal."""
    return text.translate(_VALUES, _NOT_VALUES).decode("ascii")


class LineColumns:
    """The words of many lines of one skeleton, with a mark between lines.

    kept: how many words each word of the first line has become. bare: only digits and dots are
    left of them.
    """

    def __init__(
        self, words: list[str], number: int, layout: LineLayout, kept: list[int], bare: bool
    ) -> None:
        self.words = words
        self.number = number
        self.layout = layout
        self.width = sum(kept) + 1
        self.index = list(itertools.accumulate([0, *kept]))
        self.kept = kept
        self.bare = bare
        self.flags = {at for at, word in enumerate(words[: len(kept)]) if word[0] == "["}

    def regular(self) -> bool:
        """Return whether every line has the first one's number of words, protocol and state."""
        marks = self.words[self.width - 1 :: self.width]
        if len(self.words) != self.width * self.number - 1 or marks.count(_MARK) != len(marks):
            return False
        # Names of protocols and states, their numbers, and flags are all alike.
        constant = set(range(self.layout.protocol_at + 1)) | self.flags
        if self.layout.state_at is not None:
            constant.add(self.layout.state_at)
        for place in constant:
            if self.kept[place]:
                column = self.at(place)
                if column.count(column[0]) != self.number:
                    return False
        if self.layout.timeout_at is None:
            return True
        seconds = self.at(self.layout.timeout_at)
        longest = max(map(len, seconds))
        # As long as a number of 32 bits may be, int() is asked; longer ones would cost it dearly.
        small = longest < 10 or (longest == 10 and max(map(int, seconds)) <= UINT32_MAX)
        return all(map(str.isdigit, seconds)) and small

    def at(self, place: int) -> list[str]:
        """Return the column of words at a place in the line."""
        return self.words[self.index[place] :: self.width]

    def values(self, name: str, direction: int) -> list[str]:
        """Return the column of a name's values. Raises KeyError where there is none."""
        column = self.at(self.layout.fields[name, direction])
        if self.bare:
            return column
        skip = len(name) + 1
        if name in ("srckey", "dstkey"):
            return [str(int(word[skip:], 16)) for word in column]
        return [word[skip:] for word in column]

    def timeouts(self) -> list[str]:
        """Return the column of seconds left; empty where the lines show none."""
        place = self.layout.timeout_at
        return [] if place is None else self.at(place)

    def numbers(self) -> tuple[_Two, _Two] | None:
        """Return the ports, keys or ids that show a translated source and destination.

        Each pair holds the numbers of 16 bits of the original and of the reply, and is empty where
        there are none. None where something is not such a number.
        """
        protocol = self.layout.protocol
        names = ("srckey", "dstkey") if protocol == IPPROTO_GRE else ("sport", "dport")
        wanted = [(names[0], 0), (names[1], 1), (names[1], 0), (names[0], 1)]
        if protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6):
            wanted[:2] = ("id", 0), ("id", 1)
        have = [key in self.layout.fields for key in wanted]
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
        """Return whether all zones are numbers of 16 bits."""
        named = [key for key in self.layout.fields if key[0] in ZONES]
        return all(self._sixteen_bits(self.values(*key)) for key in named)

    @property
    def directed_zone(self) -> bool:
        """Return whether the lines name a zone of the original direction alone."""
        return ("zone-orig", 0) in self.layout.fields

    def count_zones(self, tally: Tally) -> None:
        """Count Entry.any_zone of each line."""
        keys = [key for key in _ZONE_KEYS if key in self.layout.fields]
        if len(keys) == 1:
            tally.count_zones(map(int, self.values(*keys[0])))
        elif keys:
            found = zip(*(map(int, self.values(*key)) for key in keys))
            tally.count_zones(next(filter(None, zones), 0) for zones in found)

    def zone_column(self, name: str, direction: int) -> list[int]:
        """Return the zones of one direction: its own, the entry's, or 0 for none."""
        for key in ((name, direction), ("zone", 2)):
            if key in self.layout.fields:
                return list(map(int, self.values(*key)))
        return [0] * self.number

    def _sixteen_bits(self, column: Collection[str]) -> bool:
        # In bare columns there are digits and dots alone; int takes more than digits.
        if not (self.bare or not column or "".join(column).isdigit()):
            return False
        try:
            array.array("H", map(int, column))
        except (ValueError, OverflowError):
            return False
        return True
