"""A table as text: read in blocks of whole lines, and counted.

text_line.py knows the forms of a line, text_columns.py counts many at a time, text_form.py names
what is not a table, text_writer.py writes.
"""

from __future__ import annotations

import re

from ..kernel.table_file import MOST_OWNERS, OWNER
from .text_columns import LineCounter
from .text_line import (
    ENTRY_START,
    LONGEST_LINE,
    SHOWN,
    entry_of,
    entry_part,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, Callable

    from .entry import Entry
    from .tally import Tally

READ_SIZE = 1 << 18
# So much of a bad line is kept to be shown.
KEPT_OF_LINE = 200
# So many lines at the beginning of a text show whether something stands before every entry.
FIRST_LINES = 20
_BEFORE_ENTRY = re.compile(rb"^[^\n]*?(?=" + ENTRY_START.pattern + rb")", re.MULTILINE)
# How a snapshot says at its end how many entries there are.
_ENTRIES = re.compile(rb"^# check-conntrack end entries=([0-9]{1,15})$", re.MULTILINE)
_OWNER = re.compile(rb"^" + OWNER + rb"[^\n]{1,999}$", re.MULTILINE)
_FAILED = re.compile(rb"^conntrack v[^\n]*?: (Operation failed[^\r\n]*)")
_USES = re.compile(rb" use=[0-9]")
# What a shell, a terminal, a pager or a connection adds to a listing that was ended.
_ENDED = re.compile(
    rb"^(?:\^C|Killed|Terminated|Interrupt|Hangup|--More--[^\n]*|timeout: sending signal[^\n]*"
    rb"|[^\n]{0,120}(?:Broken pipe|closed by remote host\.?|Connection (?:reset|timed out)[^\n]*"
    rb"|not responding\.?|terminated with exit code [0-9]+))\s*\Z",
    re.MULTILINE,
)


class Listing:
    """A text in blocks of whole lines, and what it says of itself.

    shown: the entries that it is said to hold at its end, None where that is not said.
    owners: lines that name the owner of an address.
    failure: the words with which it failed, empty where it did not. cut: the last line, where it
    has no newline. size: bytes read.
    """

    def __init__(self, file: BinaryIO, bad: Callable[[bytes], None]) -> None:
        self.shown: int | None = None
        self.owners: list[bytes] = []
        self.failure = ""
        self.cut = b""
        self.size = 0
        self._has_uses = False
        self._file = file
        self._bad = bad

    def blocks(self) -> Iterator[bytes]:
        """Yield blocks of whole lines; overlong lines go to `bad`, once each, cut short."""
        strip = None
        for block in self._lines():
            if _ENDED.search(block[-KEPT_OF_LINE:]):
                self.failure = self.failure or "it was ended"
            if b"#" in block:  # to look for one byte costs a tenth of looking for several
                self._of_a_snapshot(block)
            if strip is None:
                strip = _is_wrapped(block)
            yield _BEFORE_ENTRY.sub(b"", block) if strip else block

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        skipping = False
        while True:
            data = self._file.read(READ_SIZE)
            if not data:
                break
            self.size += len(data)
            if skipping:
                _, newline, data = data.partition(b"\n")
                if not newline:
                    continue
                skipping = False
            lines, newline, last = data.rpartition(b"\n")
            if not newline:
                rest += last
            else:
                self._has_uses = self._has_uses or b" use=" in lines
                yield rest + lines
                rest = last
            if len(rest) > LONGEST_LINE:
                self._bad(rest[:KEPT_OF_LINE])
                rest, skipping = b"", True
        self.cut = rest
        if rest:
            yield rest

    def breaks_off(self) -> bool:
        """Return whether the last line lacks a word that every kernel writes at its end."""
        return bool(self.cut) and self._has_uses and _USES.search(self.cut) is None

    def _of_a_snapshot(self, block: bytes) -> None:
        for number in _ENTRIES.findall(block):
            self.shown = (self.shown or 0) + int(number)
        if len(self.owners) < MOST_OWNERS:
            self.owners += _OWNER.findall(block)[:MOST_OWNERS]

    def remark(self, line: bytes) -> None:
        """Keep what conntrack(8) says of its listing, if this is such a line."""
        if b" been shown" in line:
            for number in SHOWN.findall(line):
                self.shown = (self.shown or 0) + int(number)
        failed = _FAILED.match(line)
        if failed and not self.failure:
            self.failure = failed[1][:KEPT_OF_LINE].decode("ascii", "backslashreplace").strip()


def _is_wrapped(block: bytes) -> bool:
    """Return whether most of the first lines have something before their entry.

    Lines within JSON are left to the slow path, which also cuts off what follows.
    """
    before = 0
    lines = block.split(b"\n", FIRST_LINES)[:FIRST_LINES]
    for line in lines:
        try:
            before += entry_part(line) != line and b'"' not in line
        except ValueError:
            continue
    return 2 * before > len(lines)


def entries(file: BinaryIO, tally: Tally) -> Iterator[Entry]:
    """Yield every Entry of a file, slowly; other lines are noted in the tally."""
    note = noter(tally)
    for block in Listing(file, note).blocks():
        for line in block.split(b"\n"):
            try:
                entry = entry_of(line)
            except ValueError:
                note(line)
                continue
            if entry is not None:
                yield entry


def noter(tally: Tally) -> Callable[[bytes], None]:
    """Return a function that notes a bad line in the tally."""

    def note(line: bytes) -> None:
        tally.bad_lines += 1
        if tally.bad_lines == 1:
            tally.first_bad_line = line[:KEPT_OF_LINE].decode("ascii", "backslashreplace")

    return note


def count(file: BinaryIO, tally: Tally) -> Listing:
    """Count every entry of a file (opened for bytes, unpacked) into `tally`.

    Other lines are counted in `tally.bad_lines`, and the first is kept; a file with `tally.read` 0
    and bad lines is no table. Raises what reading the file raises.
    """
    tally.expected_known = False
    bad = noter(tally)
    listing = Listing(file, bad)
    counter = LineCounter(tally, bad, listing.remark)
    for block in listing.blocks():
        if tally.match is None:
            counter.sort(block)
        else:
            for line in block.split(b"\n"):
                counter.one(line)
    counter.work_off()
    return listing
