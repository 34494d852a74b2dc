"""Tables collected in files: read to the end, or refused with a name for what they are."""

from __future__ import annotations

import re

from .. import render
from ..kernel import KernelError
from ..kernel.table_file import (
    STANDARD_INPUT,
    HostValues,
    open_file,
    parse_header,
    parse_owners,
    read_error,
    read_sysctls,
    unpacked,
)
from .sources import ReadRequest, TableReading, new_tally

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from io import BufferedReader
    from typing import BinaryIO

    from ..flows.tally import Tally
    from ..flows.text import Listing
    from ..signals import Stage

COLLECT = "use conntrack -L -o extended > FILE"
LONGEST_NAME = 36  # characters; a longer path would leave no room for what is wrong
# So many bytes without an entry are named for what they are.
START = 1 << 16
# A last line that begins like an entry, and is none, was cut off.
SAME_TABLE = 0.8
"""The share of the host's count that a table holds at least. The two may be seconds apart."""
_ENTRY = re.compile(rb"ipv[46]\b|(?:tcp|udp|icmp|icmpv6|sctp|gre|dccp|udplite|unknown) +[0-9]")


class OpenFiles:
    """The files that the options name: opened early where root may, else when they are read."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._paths = [path for path in (options.source, options.timeouts) if path]
        self._opened: dict[str, BufferedReader | KernelError] = {}

    def open_all(self) -> None:
        """Open the files; what is wrong with one is raised when it is taken."""
        for path in self._paths:
            if path != STANDARD_INPUT:
                try:
                    self._opened[path] = open_file(path)
                except KernelError as error:
                    self._opened[path] = error

    def take(self, path: str) -> BufferedReader:
        """Return an opened file. Raises KernelError."""
        found = self._opened.pop(path, None)
        if isinstance(found, KernelError):
            raise found
        return open_file(path) if found is None else found


def read_file(path: str, files: OpenFiles, request: ReadRequest, stage: Stage) -> TableReading:
    """Return the table in a file. Raises KernelError for what is no table.

    One that breaks off gives what came before, and a fault.
    """
    from ..flows import text

    name = _shown(path)
    stage(f"reading {name}")
    tally = new_tally(request)
    with unpacked(files.take(path), name) as content:
        source = _FileSource(content, stage)
        _refuse(name, source.start)
        listing = text.count(source, tally)  # type: ignore[arg-type]
    values = parse_header(source.start.partition(b"\n")[0])
    fault = _fault(source, listing, tally, values)
    if not tally.read:
        _refuse_empty(name, fault, listing, tally)
    fault = f"{name}: {fault}" if fault else ""
    owners = parse_owners(listing.owners)
    return TableReading(name, tally, fault=fault, host=values or HostValues(), owners=owners)


def read_host_values(path: str, files: OpenFiles, stage: Stage) -> HostValues:
    """Return what a file of sysctls says. Raises KernelError."""
    stage(f"reading {path}")
    return read_sysctls(files.take(path), _shown(path))


def compared(table: TableReading) -> TableReading:
    """Return a table from a file, held against the count of its host where that is known.

    The count is of about the same time: a table that is far below it is a part.
    """
    count, read = table.host.entries or 0, table.tally.read + table.tally.bad_lines
    if table.fault or read >= SAME_TABLE * count:
        return table
    entries = render.plural(table.tally.read, "entry", "entries")
    fault = f"incomplete: {entries}, nf_conntrack_count was {count}"
    return table._replace(fault=f"{table.origin}: {fault}")


def _shown(path: str) -> str:
    """Return a path as messages name it: its end, where it is long."""
    if path == STANDARD_INPUT:
        return "standard input"
    return path if len(path) <= LONGEST_NAME else f"...{path[3 - LONGEST_NAME :]}"


def _refuse(name: str, start: bytes) -> None:
    """Raise KernelError where the first bytes show something that is known and no table."""
    from ..flows.text_line import entry_of

    lines = start.split(b"\n")
    for line in lines[:-1] or lines:
        try:
            if entry_of(line) is not None:
                return
        except ValueError:
            continue
    from ..flows.text_form import describe

    form = describe(start)
    if form:
        raise KernelError(f"{name}: not a table, but {form.name} ({form.remedy or COLLECT})")


def _fault(source: _FileSource, listing: Listing, tally: Tally, values: HostValues | None) -> str:
    """Return why a file does not hold the whole table; empty where nothing shows that."""
    after = f"after {render.plural(tally.read, 'entry', 'entries')}"
    if source.timed_out:
        return f"timed out {after} (allow more time with --timeout)"
    if source.error:
        return f"{read_error(source.error)}, {after}"
    if listing.failure:
        return f"conntrack(8) failed {after}: {listing.failure}"
    if listing.cut and tally.read and _is_cut(listing):
        return f"ends within a line, {after}"
    if listing.shown is None and values is not None:
        return f"incomplete: the last line of the snapshot is missing, {after}"
    if listing.shown is not None and tally.read + tally.bad_lines < listing.shown:
        return f"incomplete: {tally.read} of {listing.shown} entries"
    return ""


def _is_cut(listing: Listing) -> bool:
    from ..flows.text_line import entry_of

    if not _ENTRY.match(listing.cut):
        return False
    try:
        entry_of(listing.cut)
    except ValueError:
        return True
    return listing.breaks_off()


def _refuse_empty(name: str, fault: str, listing: Listing, tally: Tally) -> None:
    """Raise KernelError for a file without an entry, unless it is the listing of an empty table."""
    if fault:
        raise KernelError(f"{name}: {fault}")
    if tally.bad_lines:
        raise KernelError(
            f"{name}: not a table ({COLLECT}); it begins with {tally.first_bad_line[:40]!r}"
        )
    if listing.shown is None:
        raise KernelError(f"{name}: empty (the table was empty, or could not be read)")


class _FileSource:
    """A file that ends where it cannot be read on, or when the time is up.

    start: its first bytes. error: what ended it, None for its end.
    """

    def __init__(self, file: BinaryIO, stage: Stage) -> None:
        self._file = file
        self._stage = stage
        self.error: Exception | None = None
        self.timed_out = False
        self.start = b""
        while len(self.start) < START:
            data = self._read(START - len(self.start))
            if not data:
                break
            self.start += data
        self._first = self.start

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end."""
        first, self._first = self._first, b""
        return first or self._read(size)

    def _read(self, size: int) -> bytes:
        import zlib

        if self.error or self.timed_out:
            return b""
        if self._stage.left() < 0:
            self.timed_out = True
            return b""
        try:
            # read() would lose what came before an error.
            return self._file.read1(size)  # type: ignore[attr-defined, no-any-return]
        except (OSError, EOFError, zlib.error) as error:
            self.error = error
            return b""
