"""The sources of a live table: ctnetlink, /proc, conntrack(8).

Each returns a TableReading, or a SourceError that says why there is none. Only the tally of what
was read is kept.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from itertools import groupby

from .. import render
from ..kernel import KernelError
from ..kernel.limits import OWN
from ..kernel.namedtuple import NamedTuple
from ..kernel.table_file import HostValues

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ..flows.match import Match
    from ..flows.netlink import TableError
    from ..flows.tally import Prefixes, Tally
    from ..kernel.conntrack_cli import Conntrack
    from ..kernel.owners import Owner
    from ..kernel.reader_client import Frame
    from ..session import Session
    from ..signals import Stage

AUTO, NETLINK, PROC, CONNTRACK = "auto", "netlink", "proc", "conntrack"
NETLINK_PATH = "ctnetlink"
PROC_PATH, CONNTRACK_PATH = "/proc/net/nf_conntrack", "conntrack -L"
LIVE = (AUTO, NETLINK, PROC, CONNTRACK)
# More bad lines than this share of all lines, and figures say little.
MANY_BAD_LINES = 0.1
# A count and a dump that lie farther apart than this were not of the same table.
FEWEST_APART, APART = 100, 0.1
# What the kernel says where the dump lost its place, and what came before it is sound.
_LOST = (errno.ENOBUFS, errno.EINTR, errno.EAGAIN)
# Reading ends so many seconds before the time is up: a smaller sample is better than none.
READ_RESERVE = 0.5
# What the reader means by these, which nothing else says here.
_REASONS = {
    errno.EPROTONOSUPPORT: (
        "nf_conntrack_netlink is not loaded (as root, run: modprobe nf_conntrack_netlink)"
    ),
    errno.ESTALE: "/proc shows the table of another namespace (kernels before 5.11)",
}
_TIMED_OUT = "timed out (allow more time with --timeout)"


class ReadRequest(NamedTuple):
    """The entries to count, how to group addresses, and how many to read at most (0 for all).

    nat_ports: the first and last port that source NAT may take, where the user says so.
    """

    match: Match
    prefixes: Prefixes
    most: int = 0
    nat_ports: tuple[int, int] | None = None


class TableReading(NamedTuple):
    """A table that was read.

    kernel_count: the exact number of entries, None where it is not known. sampled: the tally
    holds a part of them. notes: for people. fault: why the figures cannot be trusted, else empty.
    host: what a file says of its host. owners: what a file says of its addresses, packed.
    """

    origin: str
    tally: Tally
    kernel_count: int | None = None
    sampled: bool = False
    notes: tuple[str, ...] = ()
    fault: str = ""
    host: HostValues = HostValues()
    owners: Mapping[bytes, tuple[Owner, ...]] = {}

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


def time_is_up(stage: Stage) -> bool:
    """Return whether reading has to end."""
    return stage.left() < READ_RESERVE


def timed(frames: Iterable[Frame], stage: Stage) -> Iterator[Frame]:
    """Yield frames; raises TableError with ETIME when reading has to end."""
    from ..flows.netlink import TableError

    for frame in frames:
        yield frame
        if time_is_up(stage):
            raise TableError(_TIMED_OUT, errno.ETIME)


class _UselessFilterError(Exception):
    """The kernel's filter leaves more entries than may be read, or its answer has no end."""


def new_tally(request: ReadRequest) -> Tally:
    """Return an empty tally for a request."""
    from ..flows.tally import Tally

    tally = Tally(request.prefixes, request.match)
    tally.pools.given = request.nat_ports
    return tally


def _until_time_is_up(
    groups: Iterator[tuple[str, Iterator[Frame]]],
) -> Iterator[tuple[str, Iterator[Frame]]]:
    """Yield groups of frames, those of whole namespaces that fit into the time."""
    from ..flows.netlink import TableError

    with suppress(TableError):
        yield from groups


def _by_path(frames: Iterable[Frame]) -> Iterator[tuple[str, Iterator[Frame]]]:
    return groupby(frames, lambda frame: frame.path)


# --- ctnetlink


def read_netlink(
    session: Session, request: ReadRequest, counts: Mapping[str, int]
) -> dict[str, TableReading | SourceError]:
    """Return the tables of the namespaces at the paths of `counts`, over ctnetlink.

    `counts` say how many entries each held a moment ago. A path whose namespace is gone is left
    out. Raises KernelError where the reader cannot be asked.
    """
    from ..flows import match

    filters: list[tuple[str, Match]] = []
    if request.match.narrows():
        found = match.kernel_filters(request.match)
        # A filter for one address, zone or mark may let few enough pass.
        exact = any(each.only or kernel.zone or kernel.mark for kernel, each in found)
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
    from ..kernel.ctnetlink import NFGENMSG, KernelFilter, dump_request
    from ..kernel.netlink import NLMSGHDR

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
    stage = session.stage
    frames = timed(session.stream(fields), stage)
    stage("reading the table over ctnetlink")
    answered = set()
    for path, group in _until_time_is_up(_by_path(frames)):
        answered.add(path)
        table = _dumps(group, request, matches, counts.get(path, 0), filtered=bool(filters))
        if table is not None:
            yield path, table
        if len(counts) == 1:
            return  # the rest of the answer is not needed
    if time_is_up(stage):
        timed_out = SourceError("netlink", _TIMED_OUT)
        yield from ((path, timed_out) for path in counts if path not in answered)


def _dumps(
    frames: Iterable[Frame],
    request: ReadRequest,
    matches: Sequence[Match],
    count: int,
    *,
    filtered: bool,
) -> TableReading | SourceError | None:
    """Return the table that the dumps of one namespace make together; None where it is gone."""
    counter = _DumpCounter(request, filtered=filtered)
    for name, dump in groupby(frames, lambda frame: frame.file):
        if name == "-":
            code = next(dump).errno
            return None if code == errno.ENOENT else _source_error("netlink", code)
        at = ord(name[-1]) - ord("a")
        if not name.startswith("dump_") or not 0 <= at < len(matches):
            raise KernelError(f"malformed answer from the reader: {name}")
        if not counter.count(dump, matches[at]):
            break
    return counter.result(count)


class _DumpCounter:
    """Counts the dumps of one namespace into one tally.

    complete: nothing is missing so far. fault, error: why the figures, or everything, is unusable.
    """

    def __init__(self, request: ReadRequest, *, filtered: bool) -> None:
        self.tally = new_tally(request)
        self.complete = True
        self.fault = ""
        self.error: SourceError | None = None
        self._notes: list[str] = []
        self._most = request.most
        self._filtered = filtered

    def count(self, dump: Iterable[Frame], match: Match) -> bool:
        """Count a dump; returns whether another one makes sense. Raises _UselessFilterError."""
        from ..flows import bulk
        from ..flows.netlink import TableError

        tally = self.tally
        tally.match = tally.match and match
        try:
            status = bulk.count(batches(dump), tally, self._most)
        except TableError as error:
            return self._failed(error)
        if status.interrupted:
            self.fault = "the table changed during the dump: entries are missing or counted twice"
        if status.done:
            return True
        if self._filtered:
            raise _UselessFilterError
        self.complete = False
        if self._most and tally.read >= self._most:
            return False
        self._notes.append("the dump ended before its end")
        return True

    def _failed(self, error: TableError) -> bool:
        if error.errno == errno.ETIME:
            self.complete = False
            self._notes.append(_cut_short(self.tally))
            return False
        if error.errno in _LOST:
            self.complete = False
            self._notes.append(f"the kernel lost part of the dump: {os.strerror(error.errno)}")
            return True
        self.fault = str(error)
        if not self.tally.read:
            self.error = _source_error("netlink", error.errno, str(error))
        return False

    def result(self, count: int) -> TableReading | SourceError:
        """Return what the dumps hold; `count` is the kernel's count before them."""
        tally, reasons = self.tally, "; ".join(self._notes)
        if self.error:
            return self.error
        if not self.complete and not tally.read:
            return SourceError("netlink", reasons or "the dump ended before it began")
        fault = self.fault
        if self._filtered and not self.complete:
            # It is not known how many entries of the rest match.
            fault = fault or f"only a part of the matching entries was read: {reasons}"
        sampled = not self._filtered and not self.complete and tally.read < count
        return TableReading(NETLINK_PATH, tally, count, sampled, tuple(self._notes), fault)


def _cut_short(tally: Tally) -> str:
    read = render.plural(tally.read, "entry", "entries")
    return f"timed out after {read}: the sample is smaller than usual"


def batches(frames: Iterable[Frame]) -> Iterator[bytes]:
    """Yield the data of frames. Raises TableError where a frame says that the dump failed."""
    from ..flows.netlink import TableError

    for frame in frames:
        if frame.errno:
            raise TableError(f"the dump failed: {os.strerror(frame.errno)}", frame.errno)
        yield frame.data


def _source_error(source: str, code: int, reason: str = "") -> SourceError:
    forbidden = code in (errno.EPERM, errno.EACCES)
    reason = _REASONS.get(code, reason)
    privilege = ("CAP_NET_ADMIN" if source == "netlink" else "root") if forbidden else ""
    return SourceError(source, reason or os.strerror(code), privilege)


# --- text


class _Pieces:
    """Pieces of text as a file, that ends after so many lines."""

    def __init__(self, pieces: Iterator[bytes], most: int, stage: Stage) -> None:
        self._pieces = pieces
        self._stage = stage
        self._left = most or -1
        self.cut = False

    def read(self, _: int) -> bytes:
        if self._left == 0:
            self.cut = self.cut or bool(next(self._pieces, b""))
            return b""
        if time_is_up(self._stage):
            self.cut = True
            return b""
        piece = next(self._pieces, b"")
        lines = piece.count(b"\n")
        if 0 < self._left <= lines:
            *lines_wanted, rest = piece.split(b"\n", self._left)
            piece = b"\n".join((*lines_wanted, b""))
            lines, self.cut = self._left, bool(rest)
        self._left -= lines if self._left > 0 else 0
        return piece


def _count_text(pieces: Iterator[bytes], request: ReadRequest, stage: Stage) -> tuple[Tally, bool]:
    """Return what the pieces hold, and whether that is all."""
    from ..flows import text

    tally = new_tally(request)
    file = _Pieces(pieces, request.most, stage)
    text.count(file, tally)  # type: ignore[arg-type]
    return tally, not file.cut


def read_proc(
    session: Session, request: ReadRequest, counts: Mapping[str, int]
) -> dict[str, TableReading | SourceError]:
    """Return the tables of the namespaces at the paths of `counts`, from /proc/net/nf_conntrack.

    Raises KernelError where the reader cannot be asked.
    """
    stage = session.stage
    frames = timed(session.stream([b"text", *map(os.fsencode, counts)]), stage)
    stage("reading /proc/net/nf_conntrack")
    found: dict[str, TableReading | SourceError] = {}
    for path, group in _until_time_is_up(_by_path(frames)):
        failed: list[Frame] = []
        tally, complete = _count_text(_texts(group, failed), request, stage)
        if failed and not tally.read:
            missing = failed[0].errno == errno.ENOENT
            if missing and not failed[0].inode:
                continue  # the namespace is gone
            reason = "this kernel has no /proc/net/nf_conntrack" if missing else ""
            found[path] = _source_error("proc", failed[0].errno, reason)
            continue
        found[path] = _text_reading(PROC_PATH, tally, counts.get(path, 0), stage, complete=complete)
        if len(counts) == 1:
            break
    if time_is_up(stage):
        for path in counts:
            found.setdefault(path, SourceError("proc", _TIMED_OUT))
    return found


def _text_reading(
    origin: str, tally: Tally, count: int, stage: Stage, *, complete: bool
) -> TableReading:
    sampled = not complete and tally.read < count
    notes = (_cut_short(tally),) if sampled and time_is_up(stage) else ()
    return TableReading(origin, tally, count, sampled, notes)


def _texts(frames: Iterable[Frame], failed: list[Frame]) -> Iterator[bytes]:
    from ..flows.netlink import TableError

    with suppress(TableError):  # the time is up
        for frame in frames:
            if frame.errno:
                failed.append(frame)
                return
            if frame.data:
                yield frame.data


def read_conntrack(
    program: Conntrack,
    stage: Stage,
    request: ReadRequest,
    counts: Mapping[str, int],
) -> dict[str, TableReading | SourceError]:
    """Return the table of the own namespace, as conntrack(8) lists it."""
    stage("reading what conntrack -L prints")
    listing = program.listing()
    tally, complete = _count_text(iter(lambda: listing.read(1 << 18), b""), request, stage)
    if complete:
        try:
            program.finish()
        except KernelError as error:
            # Its own words for EPERM, or the C library's: permission denied, not permitted.
            hints = ("must be root", "CAP_NET_ADMIN", "ermi")
            forbidden = any(hint in str(error) for hint in hints)
            return {OWN: SourceError("conntrack", str(error), "CAP_NET_ADMIN" if forbidden else "")}
    if time_is_up(stage) and not tally.read:
        return {OWN: SourceError("conntrack", _TIMED_OUT)}
    count = counts.get(OWN, 0)
    return {OWN: _text_reading(CONNTRACK_PATH, tally, count, stage, complete=complete)}


# --- a dump and the kernel's count


def compared(table: TableReading, before: int, after: int) -> TableReading:
    """Return a table that was read to its end, held against the kernel's counts around the dump.

    The count holds expired entries until they are swept, and the dump, which leaves them out,
    sweeps them: so the count after the dump is the one that has to agree. Fewer entries than both
    counts allow for are a part of the table, and a random one: the hash's key is. From no entry at
    all, and from more than both counts, no figures can be taken.
    """
    if table.sampled or table.fault:
        return table
    read = table.tally.read + table.tally.bad_lines
    low, high = min(before, after), max(before, after)
    if not read and low > _churn(low):
        return table._replace(fault=f"the dump holds none of {after} entries")
    if read < low - _churn(low):
        note = f"the dump holds {read} of {after} entries: the hash table may have been resized"
        return table._replace(kernel_count=after, sampled=True, notes=(*table.notes, note))
    if read > high + _churn(high):
        return table._replace(
            fault=f"the table changed while it was read: {read} of {after} entries"
        )
    return table


def _churn(count: int) -> int:
    """Return how many entries may come or go during a dump."""
    return max(FEWEST_APART, round(count * APART))
