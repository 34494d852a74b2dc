"""The text of a live table for a snapshot, in the form of `conntrack -L -o extended`."""

from __future__ import annotations

import os
import re
from contextlib import suppress

from ..kernel import KernelError
from ..kernel.table_file import HostValues, end_line, header_line, owner_lines
from .sources import CONNTRACK_PATH, PROC_PATH, batches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ..kernel.conntrack_cli import Conntrack
    from ..kernel.owners import Owner
    from ..kernel.reader_client import Frame
    from ..session import Session
    from .report import NamespaceReport
    from .sources import TableReading

# So many entries are written from a dump in about a second.
FEW_TO_WRITE = 40000


def table_text(
    session: Session, program: Conntrack | None, table: TableReading, path: str
) -> Iterator[bytes]:
    """Yield all lines of a live table, many at a time.

    They come from the source that the table came from. A large table comes from /proc where that
    is there: several times as fast, without the names of helpers. Raises KernelError where the
    table cannot be read to its end.
    """
    if table.origin == CONNTRACK_PATH:
        if program is None:
            raise KernelError("conntrack -L was not started")
        listing = program.listing()
        yield from iter(lambda: listing.read(1 << 16), b"")
        program.finish()
        return
    if table.origin == PROC_PATH or (table.kernel_count or 0) > FEW_TO_WRITE:
        lines = _rewritten(session.stream([b"text", os.fsencode(path)]))
        try:
            yield next(lines, b"")
        except KernelError:
            if table.origin == PROC_PATH:
                raise
        else:
            yield from lines
            return
    yield from _written(session, path)


def host_values(report: NamespaceReport, timeouts: Mapping[str, int]) -> HostValues:
    """Return what a snapshot says of its host."""
    limits = report.limits
    # Only a path under /run/netns leads into the same namespace later.
    named = report.path.startswith("/run/netns/")
    return HostValues(
        limits.entries if limits else None,
        limits.limit if limits else None,
        limits.buckets if limits else None,
        timeouts,
        report.namespace.name,
        report.path if named else "",
    )


def described(
    pieces: Iterable[bytes],
    values: HostValues,
    now: float,
    owners: Mapping[bytes, Sequence[Owner]],
) -> Iterator[bytes]:
    """Yield a table's text after a header, then its owners, then the number of its entries."""
    yield header_line(values, now)
    entries = 0
    for piece in pieces:
        entries += piece.count(b"\n")
        yield piece
    yield from owner_lines(owners)
    yield end_line(entries)


def _rewritten(frames: Iterable[Frame]) -> Iterator[bytes]:
    """Yield lines of /proc as conntrack(8) writes them: short addresses, no unused words."""
    long_address = re.compile(rb"(?<==)[0-9a-f:]{39}(?= )")
    timeouts = re.compile(rb" timeout=[0-9]+, stream_timeout=[0-9]+(?= )")
    rest = b""
    for frame in frames:
        if frame.errno:
            raise KernelError(f"{PROC_PATH}: {os.strerror(frame.errno)}")
        lines, newline, rest = (rest + frame.data).rpartition(b"\n")
        text = long_address.sub(_short_address, lines + newline)
        if b" timeout=" in text:
            text = timeouts.sub(b"", text)
        if b" unknown " in text:
            text = b"\n".join(map(_named, text.split(b"\n")))
        yield text.replace(b" zone=0 ", b" ")
    yield rest


def _short_address(match: re.Match[bytes]) -> bytes:
    from ..flows.entry import address_text
    from ..kernel.networks import packed_address

    try:
        return address_text(packed_address(match[0].decode("ascii"))).encode("ascii")
    except ValueError:
        return match[0]


def _named(line: bytes) -> bytes:
    """Return a line with the protocol's name where the kernel has none and conntrack(8) has."""
    from ..flows.text_line import parse
    from ..flows.text_writer import line_of

    if b" unknown " in line:
        # What cannot be read is kept as it is: somebody may find out why.
        with suppress(ValueError):
            return line_of(parse(line.decode("ascii", "replace"))).encode("ascii")
    return line


def _written(session: Session, path: str) -> Iterator[bytes]:
    from ..flows import text_writer
    from ..flows.netlink import DumpStatus, TableError

    status = DumpStatus()
    try:
        frames = session.stream([b"table", os.fsencode(path)])
        yield from text_writer.listing(batches(frames), status)
    except TableError as error:
        raise KernelError(str(error)) from None
    if not status.done:
        raise KernelError("the dump ended before its end")
