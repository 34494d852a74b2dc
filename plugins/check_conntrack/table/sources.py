"""The sources of a live table: ctnetlink, /proc, conntrack(8).

Each returns a TableReading, or a SourceError that says why there is none. Only the tally of what
was read is kept.
"""

from __future__ import annotations

import errno
import os
from itertools import groupby

from ..kernel import KernelError
from ..kernel.limits import OWN
from ..kernel.namedtuple import NamedTuple
from ..kernel.table_file import HostValues

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Callable

    from ..flows.match import Match
    from ..flows.tally import Prefixes, Tally
    from ..kernel.conntrack_cli import Conntrack
    from ..kernel.reader_client import Frame
    from ..session import Session

AUTO, NETLINK, PROC, CONNTRACK = "auto", "netlink", "proc", "conntrack"
PROC_PATH, CONNTRACK_PATH = "/proc/net/nf_conntrack", "conntrack -L"
LIVE = (AUTO, NETLINK, PROC, CONNTRACK)
# More bad lines than this share of all lines, and figures say little.
MANY_BAD_LINES = 0.1
# A count and a dump that lie farther apart than this were not of the same table.
FEWEST_APART, APART = 100, 0.1
# What the kernel says where the dump lost its place, and what came before it is sound.
_LOST = (errno.ENOBUFS, errno.EINTR, errno.EAGAIN)


class ReadRequest(NamedTuple):
    """The entries to count, how to group addresses, and how many to read at most (0 for all)."""

    match: Match
    prefixes: Prefixes
    most: int = 0


class TableReading(NamedTuple):
    """A table that was read.

    kernel_count: the exact number of entries, None where it is not known. sampled: the tally
    holds a part of them. notes: for people. fault: why the figures cannot be trusted, else empty.
    host: what a file says of its host.
    """

    origin: str
    tally: Tally
    kernel_count: int | None = None
    sampled: bool = False
    notes: tuple[str, ...] = ()
    fault: str = ""
    host: HostValues = HostValues()

    @property
    def unreadable(self) -> str:
        """Return how many lines could not be read, where these are many; else nothing."""
        bad, read = self.tally.bad_lines, self.tally.read
        if bad <= MANY_BAD_LINES * (bad + read):
            return ""
        return f"{bad} of {bad + read} lines could not be read"

    @property
    def total(self) -> int | None:
        """Return the number of entries the tally is scaled to; None where it holds everything."""
        return max(self.kernel_count or 0, self.tally.read) if self.sampled else None


class SourceError(NamedTuple):
    """Why a source gave no table. privilege: the one that is missing, empty where none is."""

    source: str
    reason: str
    privilege: str = ""

    def __str__(self) -> str:
        needs = f" (needs {self.privilege})" if self.privilege else ""
        return f"{self.source}: {self.reason}{needs}"


class _UselessFilterError(Exception):
    """The kernel's filter leaves more entries than may be read, or its answer has no end."""


def new_tally(request: ReadRequest) -> Tally:
    """Return an empty tally for a request."""
    from ..flows.tally import Tally

    return Tally(request.prefixes, request.match)


def _by_path(frames: Iterable[Frame]) -> Iterator[tuple[str, Iterator[Frame]]]:
    return groupby(frames, lambda frame: frame.path)


# --- ctnetlink


def read_netlink(
    session: Session, request: ReadRequest, counts: Mapping[str, int]
) -> dict[str, TableReading | SourceError]:
    """The tables of the namespaces at the paths of `counts`, over ctnetlink.

    `counts` say how many entries each held a moment ago. A path whose namespace is gone is left
    out. Raises KernelError where the reader cannot be asked.
    """
    from ..flows import match

    filters: list[tuple[str, Match]] = []
    exact = False
    if request.match.narrows():
        found = match.kernel_filters(request.match)
        exact = any(each.only for _, each in found)
        few = not request.most or sum(counts.values()) <= request.most
        # A sample of the whole table says how many entries match; the first N that a filter lets
        # pass do not.
        if exact or few:
            filters = [(_argument(kernel), each) for kernel, each in found]
    try:
        return dict(_netlink(session, request, counts, filters))
    except _UselessFilterError:
        return dict(_netlink(session, request, counts, []))


def _argument(kernel_filter: object) -> str:
    """Return a filter in the grammar of the reader's request."""
    from ..kernel.ctnetlink import NFGENMSG, NLMSGHDR, KernelFilter, dump_request

    assert isinstance(kernel_filter, KernelFilter)  # noqa: S101
    attributes = dump_request(0, kernel_filter)[NLMSGHDR.size + NFGENMSG.size :]
    return f"{int(kernel_filter.family)}:{attributes.hex()}"


def _netlink(
    session: Session,
    request: ReadRequest,
    counts: Mapping[str, int],
    filters: Sequence[tuple[str, Match]],
) -> Iterator[tuple[str, TableReading | SourceError]]:
    paths = [os.fsencode(path) for path in counts]
    fields = [b"table", *paths, *(text.encode() for text, _ in filters)]
    matches = [each for _, each in filters] or [request.match]
    frames = session.stream(fields)
    session.stage("reading the table over ctnetlink")
    for path, group in _by_path(frames):
        table = _dumps(group, request, matches, counts.get(path, 0), filtered=bool(filters))
        if table is not None:
            yield path, table
        if len(counts) == 1:
            return  # the rest of the answer is not needed


def _dumps(
    frames: Iterable[Frame],
    request: ReadRequest,
    matches: Sequence[Match],
    count: int,
    *,
    filtered: bool,
) -> TableReading | SourceError | None:
    """The table that the dumps of one namespace make together; None where it is gone."""
    from ..flows import bulk, parallel_count
    from ..flows.netlink import TableError

    tally = new_tally(request)
    complete, interrupted = True, False
    fault, notes = "", []
    for name, dump in groupby(frames, lambda frame: frame.file):
        if name == "-":
            code = next(dump).errno
            return None if code == errno.ENOENT else _source_error("netlink", code)
        tally.match = tally.match and matches[ord(name[-1]) - ord("a")]
        try:
            if request.most or filtered:
                status = bulk.count(batches(dump), tally, request.most)
            else:
                status = parallel_count.count(batches(dump), bulk.count, tally)
        except TableError as error:
            if error.errno not in _LOST:
                if not tally.read:
                    return _source_error("netlink", error.errno, str(error))
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
        if request.most and tally.read >= request.most:
            break
        notes.append("the dump ended before its end")
    if not complete and not tally.read:
        return _source_error("netlink", errno.ENODATA, "the dump ended before it began")
    if interrupted:
        notes.append("the table changed under the dump: entries may be missing or counted twice")
    sampled = not filtered and not complete and tally.read < count
    return TableReading("ctnetlink", tally, count, sampled, tuple(notes), fault)


def batches(frames: Iterable[Frame]) -> Iterator[bytes]:
    """Yield the data of frames. Raises TableError where a frame says that the dump failed."""
    from ..flows.netlink import TableError

    for frame in frames:
        if frame.errno:
            raise TableError(f"the dump failed: {os.strerror(frame.errno)}", frame.errno)
        yield frame.data


def _source_error(source: str, code: int, reason: str = "") -> SourceError:
    forbidden = code in (errno.EPERM, errno.EACCES)
    privilege = ("CAP_NET_ADMIN" if source == "netlink" else "root") if forbidden else ""
    return SourceError(source, reason or os.strerror(code), privilege)


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
            *lines_wanted, rest = piece.split(b"\n", self._left)
            piece = b"\n".join((*lines_wanted, b""))
            lines, self.cut = self._left, bool(rest)
        self._left -= lines if self._left > 0 else 0
        return piece


def _count_text(pieces: Iterator[bytes], request: ReadRequest) -> tuple[Tally, bool]:
    """What the pieces hold, and whether that is all."""
    from ..flows import text

    tally = new_tally(request)
    file = _Pieces(pieces, request.most)
    text.count(file, tally)  # type: ignore[arg-type]
    return tally, not file.cut


def read_proc(
    session: Session, request: ReadRequest, counts: Mapping[str, int]
) -> dict[str, TableReading | SourceError]:
    """The tables of the namespaces at the paths of `counts`, from /proc/net/nf_conntrack.

    Raises KernelError where the reader cannot be asked.
    """
    frames = session.stream([b"text", *map(os.fsencode, counts)])
    session.stage("reading /proc/net/nf_conntrack")
    found: dict[str, TableReading | SourceError] = {}
    for path, group in _by_path(frames):
        failed: list[Frame] = []
        tally, complete = _count_text(_texts(group, failed), request)
        if failed and not tally.read:
            missing = failed[0].errno == errno.ENOENT
            if missing and not failed[0].inode:
                continue  # the namespace is gone
            reason = "this kernel has no /proc/net/nf_conntrack" if missing else ""
            found[path] = _source_error("proc", failed[0].errno, reason)
            continue
        count = counts.get(path, 0)
        sampled = not complete and tally.read < count
        found[path] = TableReading(PROC_PATH, tally, count, sampled)
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
    program: Conntrack,
    stage: Callable[[str], None],
    request: ReadRequest,
    counts: Mapping[str, int],
) -> dict[str, TableReading | SourceError]:
    """The table of the own namespace, as conntrack(8) lists it."""
    stage("reading what conntrack -L prints")
    listing = program.listing()
    tally, complete = _count_text(iter(lambda: listing.read(1 << 18), b""), request)
    if complete:
        try:
            program.finish()
        except KernelError as error:
            # Its own words for EPERM, or the C library's: permission denied, not permitted.
            hints = ("must be root", "CAP_NET_ADMIN", "ermi")
            forbidden = any(hint in str(error) for hint in hints)
            return {OWN: SourceError("conntrack", str(error), "CAP_NET_ADMIN" if forbidden else "")}
    count = counts.get(OWN, 0)
    return {OWN: TableReading(CONNTRACK_PATH, tally, count, not complete and tally.read < count)}


# --- a dump and the kernel's count


def mismatch(table: TableReading, before: int, after: int) -> str:
    """A sentence where a table that was read whole is not the one that was counted."""
    read = table.tally.read
    low, high = min(before, after), max(before, after)
    room = max(FEWEST_APART, round(high * APART))
    if low - room <= read <= high + room:
        return ""
    return f"{read} entries were read where the kernel counts {after}: the hash may have changed"
