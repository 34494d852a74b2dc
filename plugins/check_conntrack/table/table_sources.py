"""Where a table comes from: ctnetlink, /proc, conntrack(8), or a file; and how much of it is read.

Every source ends in a Table, or in a sentence that says why there is none. Nothing is kept of
what is read but its tally.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from itertools import groupby

from ..kernel import KernelError
from ..kernel.limits import OWN
from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO, Callable

    from ..flows.match import Match
    from ..flows.tally import Prefixes, Tally
    from ..kernel.conntrack_cli import Conntrack
    from ..kernel.source import Frame
    from ..session import Session

AUTO, NETLINK, PROC, CONNTRACK = "auto", "netlink", "proc", "conntrack"
PROC_PATH, CONNTRACK_PATH = "/proc/net/nf_conntrack", "conntrack -L"
LIVE = (AUTO, NETLINK, PROC, CONNTRACK)
# A count and a dump that lie farther apart than this were not of the same table.
FEWEST_APART, APART = 100, 0.1
# So many entries are written from a dump in about a second.
FEW_TO_WRITE = 40000
# What the kernel says where the dump lost its place, and what came before it is sound.
_LOST = (errno.ENOBUFS, errno.EINTR, errno.EAGAIN)


class Wanted(NamedTuple):
    """What to count: which entries, grouped how, and of how many at most (0 for all)."""

    match: Match
    prefixes: Prefixes
    most: int = 0


class Table(NamedTuple):
    """A table that was read. `known` is the exact number of entries, None where nobody says.

    `sampled` says that the tally holds a part of them. `notes` are for people; `fault` says why
    the figures are not to be trusted, empty where they are.
    """

    origin: str
    tally: Tally
    known: int | None = None
    sampled: bool = False
    notes: tuple[str, ...] = ()
    fault: str = ""

    @property
    def whole(self) -> int | None:
        """What the tally is scaled to; None where it holds everything."""
        return max(self.known or 0, self.tally.read) if self.sampled else None


class Refusal(NamedTuple):
    """Why a source gave no table. `right` says that it takes a right that is missing."""

    source: str
    reason: str
    right: str = ""

    def __str__(self) -> str:
        needs = f" (needs {self.right})" if self.right else ""
        return f"{self.source}: {self.reason}{needs}"


class _UselessFilterError(Exception):
    """The kernel's filter leaves more entries than are wanted, or its answer has no end."""


def _tally(wanted: Wanted) -> Tally:
    from ..flows.tally import Tally

    return Tally(wanted.prefixes, wanted.match)


def _by_path(frames: Iterable[Frame]) -> Iterator[tuple[str, Iterator[Frame]]]:
    return groupby(frames, lambda frame: frame.path)


# --- ctnetlink


def read_netlink(
    session: Session, wanted: Wanted, counts: Mapping[str, int]
) -> dict[str, Table | Refusal]:
    """The tables of the namespaces at the paths of `counts`, over ctnetlink.

    `counts` say how many entries each held a moment ago. A path whose namespace is gone is left
    out. Raises KernelError where the reader cannot be asked.
    """
    from ..flows import match

    filters: list[tuple[str, Match]] = []
    exact = False
    if wanted.match.narrows():
        found = match.kernel_filters(wanted.match)
        exact = any(each.only for _, each in found)
        few = not wanted.most or sum(counts.values()) <= wanted.most
        # A sample of the whole table tells how many there are of what is wanted; the first so
        # many that a filter lets pass do not.
        if exact or few:
            filters = [(_argument(kernel), each) for kernel, each in found]
    try:
        return dict(_netlink(session, wanted, counts, filters))
    except _UselessFilterError:
        return dict(_netlink(session, wanted, counts, []))


def _argument(wanted: object) -> str:
    """A filter in the grammar of the reader's request."""
    from ..kernel.ctnetlink import NFGENMSG, NLMSGHDR, KernelFilter, dump_request

    assert isinstance(wanted, KernelFilter)  # noqa: S101
    attributes = dump_request(0, wanted)[NLMSGHDR.size + NFGENMSG.size :]
    return f"{int(wanted.family)}:{attributes.hex()}"


def _netlink(
    session: Session,
    wanted: Wanted,
    counts: Mapping[str, int],
    filters: Sequence[tuple[str, Match]],
) -> Iterator[tuple[str, Table | Refusal]]:
    paths = [os.fsencode(path) for path in counts]
    fields = [b"table", *paths, *(text.encode() for text, _ in filters)]
    matches = [each for _, each in filters] or [wanted.match]
    frames = session.stream(fields)
    session.stage("reading the table over ctnetlink")
    for path, group in _by_path(frames):
        done = _dumps(group, wanted, matches, counts.get(path, 0), filtered=bool(filters))
        if done is not None:
            yield path, done
        if len(counts) == 1:
            return  # what the reader has not sent yet is not wanted


def _dumps(
    frames: Iterable[Frame],
    wanted: Wanted,
    matches: Sequence[Match],
    count: int,
    *,
    filtered: bool,
) -> Table | Refusal | None:
    """The table that the dumps of one namespace make together; None where it is gone."""
    from ..flows import bulk, parallel_count
    from ..flows.netlink import TableError

    tally = _tally(wanted)
    complete, interrupted = True, False
    fault, notes = "", []
    for name, dump in groupby(frames, lambda frame: frame.file):
        if name == "-":
            code = next(dump).errno
            return None if code == errno.ENOENT else _refused("netlink", code)
        tally.match = tally.match and matches[ord(name[-1]) - ord("a")]
        try:
            if wanted.most or filtered:
                status = bulk.count(_batches(dump), tally, wanted.most)
            else:
                status = parallel_count.count(_batches(dump), bulk.count, tally)
        except TableError as error:
            if error.errno not in _LOST:
                if not tally.read:
                    return _refused("netlink", error.errno, str(error))
                fault = str(error)
                break
            complete = False
            notes.append(f"the kernel lost part of the dump: {os.strerror(error.errno)}")
            continue
        interrupted = interrupted or status.interrupted
        if status.done:
            continue
        if filtered:
            raise _UselessFilterError
        complete = False
        if wanted.most and tally.read >= wanted.most:
            break
        notes.append("the dump ended before its end")
    if not complete and not tally.read:
        return _refused("netlink", errno.ENODATA, "the dump ended before it began")
    if interrupted:
        notes.append("the table changed under the dump: entries may be missing or counted twice")
    sampled = not filtered and not complete and tally.read < count
    return Table("ctnetlink", tally, count, sampled, tuple(notes), fault)


def _batches(frames: Iterable[Frame]) -> Iterator[bytes]:
    from ..flows.netlink import TableError

    for frame in frames:
        if frame.errno:
            raise TableError(f"the dump failed: {os.strerror(frame.errno)}", frame.errno)
        yield frame.data


def _refused(source: str, code: int, reason: str = "") -> Refusal:
    forbidden = code in (errno.EPERM, errno.EACCES)
    right = ("CAP_NET_ADMIN" if source == "netlink" else "root") if forbidden else ""
    return Refusal(source, reason or os.strerror(code), right)


# --- text


class _Pieces:
    """Pieces of text as a file, that ends after so many lines."""

    def __init__(self, pieces: Iterator[bytes], most: int) -> None:
        self._pieces = pieces
        self._left = most or -1
        self.cut = False

    def read(self, _: int) -> bytes:
        if self._left == 0:
            self.cut = self.cut or bool(next(self._pieces, b""))
            return b""
        piece = next(self._pieces, b"")
        lines = piece.count(b"\n")
        if 0 < self._left <= lines:
            *wanted, rest = piece.split(b"\n", self._left)
            piece = b"\n".join((*wanted, b""))
            lines, self.cut = self._left, bool(rest)
        self._left -= lines if self._left > 0 else 0
        return piece


def _count_text(pieces: Iterator[bytes], wanted: Wanted) -> tuple[Tally, bool]:
    """What the pieces hold, and whether that is all."""
    from ..flows import text

    tally = _tally(wanted)
    file = _Pieces(pieces, wanted.most)
    text.count(file, tally)  # type: ignore[arg-type]
    return tally, not file.cut


def read_proc(
    session: Session, wanted: Wanted, counts: Mapping[str, int]
) -> dict[str, Table | Refusal]:
    """The tables of the namespaces at the paths of `counts`, from /proc/net/nf_conntrack.

    Raises KernelError where the reader cannot be asked.
    """
    frames = session.stream([b"text", *map(os.fsencode, counts)])
    session.stage("reading /proc/net/nf_conntrack")
    found: dict[str, Table | Refusal] = {}
    for path, group in _by_path(frames):
        failed: list[Frame] = []
        tally, complete = _count_text(_texts(group, failed), wanted)
        if failed and not tally.read:
            missing = failed[0].errno == errno.ENOENT
            if missing and not failed[0].inode:
                continue  # the namespace is gone
            reason = "this kernel has no /proc/net/nf_conntrack" if missing else ""
            found[path] = _refused("proc", failed[0].errno, reason)
            continue
        count = counts.get(path, 0)
        sampled = not complete and tally.read < count
        found[path] = Table(PROC_PATH, tally, count, sampled)
        if len(counts) == 1:
            break
    return found


def _texts(frames: Iterable[Frame], failed: list[Frame]) -> Iterator[bytes]:
    for frame in frames:
        if frame.errno:
            failed.append(frame)
            return
        if frame.data:
            yield frame.data


def read_conntrack(
    program: Conntrack, stage: Callable[[str], None], wanted: Wanted, counts: Mapping[str, int]
) -> dict[str, Table | Refusal]:
    """The table of the own namespace, as conntrack(8) lists it."""
    stage("reading what conntrack -L prints")
    listing = program.listing()
    tally, complete = _count_text(iter(lambda: listing.read(1 << 18), b""), wanted)
    if complete:
        try:
            program.finish()
        except KernelError as error:
            # Its own words for EPERM, or the C library's: permission denied, not permitted.
            hints = ("must be root", "CAP_NET_ADMIN", "ermi")
            forbidden = any(hint in str(error) for hint in hints)
            return {OWN: Refusal("conntrack", str(error), "CAP_NET_ADMIN" if forbidden else "")}
    count = counts.get(OWN, 0)
    return {OWN: Table(CONNTRACK_PATH, tally, count, not complete and tally.read < count)}


# --- files


def read_listing(path: str, wanted: Wanted, stage: Callable[[str], None]) -> Table:
    """The table in a file, whole. Raises KernelError for what is no table.

    One that breaks off gives what came before, and a fault.
    """
    from ..flows import text
    from ..kernel.table_file import STANDARD_INPUT, open_listing, unreadable

    name = "standard input" if path == STANDARD_INPUT else path
    stage(f"reading {name}")
    tally = _tally(wanted)
    fault = ""
    with open_listing(path) as file:
        careful = _Careful(file)
        text.count(careful, tally)  # type: ignore[arg-type]
        if careful.why:
            fault = f"{name}: {unreadable(careful.why)}, after {tally.read} entries"
    if not tally.read:
        if fault:
            raise KernelError(f"{name} is no table: {fault.partition(': ')[2].partition(',')[0]}")
        if not tally.bad_lines:
            raise KernelError(f"{name} is empty: no entry stands in it")
        raise KernelError(f"{name} is no connection-tracking table: {tally.first_bad_line[:60]!r}")
    return Table(name, tally, None, False, (), fault)


class _Careful:
    """A file that ends where it cannot be read on; `why` then says so."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.why: Exception | None = None

    def read(self, size: int) -> bytes:
        import zlib

        if self.why:
            return b""
        try:
            # One read of what lies below at a time: read() would lose what came before an error.
            return self._file.read1(size)  # type: ignore[attr-defined, no-any-return]
        except (OSError, EOFError, zlib.error) as error:
            self.why = error
            return b""


# --- the whole, as text


def whole_text(
    session: Session, program: Conntrack | None, table: Table, path: str
) -> Iterator[bytes]:
    """All lines of a live table in the form of `conntrack -L -o extended`, many at a time.

    They come from where the table came from; many of them from /proc where that is there, which
    is several times as fast, and has no word for helpers. Raises KernelError where it is not whole.
    """
    if table.origin == CONNTRACK_PATH:
        if program is None:
            raise KernelError("conntrack -L was not started")
        listing = program.listing()
        yield from iter(lambda: listing.read(1 << 16), b"")
        program.finish()
        return
    if table.origin == PROC_PATH or (table.known or 0) > FEW_TO_WRITE:
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


def _rewritten(frames: Iterable[Frame]) -> Iterator[bytes]:
    """Lines of /proc as conntrack(8) writes them: other addresses, no needless words."""
    long_address = re.compile(rb"(?<==)[0-9a-f:]{39}(?= )")
    timeouts = re.compile(rb" timeout=[0-9]+, stream_timeout=[0-9]+(?= )")
    rest = b""
    for frame in frames:
        if frame.errno:
            raise KernelError(f"{PROC_PATH}: {os.strerror(frame.errno)}")
        whole, newline, rest = (rest + frame.data).rpartition(b"\n")
        text = long_address.sub(_short_address, whole + newline)
        if b" timeout=" in text:
            text = timeouts.sub(b"", text)
        if b" unknown " in text:
            text = b"\n".join(map(_named, text.split(b"\n")))
        yield text.replace(b" zone=0 ", b" ")
    yield rest


def _short_address(match: re.Match[bytes]) -> bytes:
    from ..flows.entry import address_text, packed_address

    try:
        return address_text(packed_address(match[0].decode("ascii"))).encode("ascii")
    except ValueError:
        return match[0]


def _named(line: bytes) -> bytes:
    """A line of a protocol that this kernel has no name for, and conntrack(8) may have."""
    from ..flows.text import line_of, parse

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
        yield from text_writer.listing(_batches(frames), status)
    except TableError as error:
        raise KernelError(str(error)) from None
    if not status.done:
        raise KernelError("the dump ended before its end")


def apart(table: Table, before: int, after: int) -> str:
    """A sentence where a table that was read whole is not the one that was counted."""
    read = table.tally.read
    low, high = min(before, after), max(before, after)
    room = max(FEWEST_APART, round(high * APART))
    if low - room <= read <= high + room:
        return ""
    return f"{read} entries were read where the kernel counts {after}: the hash may have changed"
