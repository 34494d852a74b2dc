"""Acquire: the network namespaces that a run speaks of, with their limits and counters."""

from __future__ import annotations

import errno
import itertools
import os

from .. import namespaces
from ..kernel import KernelError, counters
from ..kernel.limits import OWN, own_inode
from ..kernel.log.gather import BY_READER, DIRECTLY
from ..kernel.namedtuple import NamedTuple
from ..kernel.namespaces import Namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from ..kernel.coverage import Span
    from ..kernel.limits import Limits
    from ..kernel.namespaces import NamespaceScan
    from ..kernel.reader_client import Frame
    from ..session import Session
    from ..state.counter_history import CounterRise

STATS_CPU = "stats_cpu"  # the reader's name of the counters over ctnetlink


class NamespaceReport(NamedTuple):
    """The figures of one network namespace.

    counters: None where they could not be read.
    rise: the sums over the window; None where nothing is known.
    coverage: the time in which its counters show every drop, by the wall clock.
    since: since when it exists, in seconds since the epoch; 0 where that is not known.
    messages: "table full" messages that name it.
    last_loss: when packets were last dropped or entries evicted early, at the latest, in seconds
    since the epoch; 0 where that is not known.
    known_since: for each label of RISES, since when all of it was counted, in seconds since the
    epoch; None where the kernel does not count it. Empty where the counters could not be read.
    why_short: why its counters cover no more of the window, as a sentence.
    read: which files were read, and how.
    """

    namespace: Namespace
    counters: counters.KernelCounters | None
    rise: CounterRise | None = None
    coverage: tuple[Span, ...] = ()
    since: float = 0.0
    messages: int = 0
    last_loss: float = 0.0
    known_since: tuple[float | None, ...] = ()
    why_short: str = ""
    read: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return its name; empty for the one that the check runs in."""
        return self.namespace.name

    @property
    def prefix(self) -> str:
        """Return the prefix of its labels; empty for the namespace of the plain labels."""
        return self.namespace.prefix

    @property
    def inode(self) -> int:
        """Return its number."""
        return self.namespace.inode

    @property
    def limits(self) -> Limits | None:
        """Return its entries and their limit; None where they could not be read."""
        return self.namespace.limits

    @property
    def full(self) -> bool:
        """Return whether it is at its limit at this moment."""
        return self.namespace.full

    def total(self, name: str) -> int | None:
        """Return one of its counters, over all CPUs; None where it is not known."""
        if self.counters is None:
            return None
        value: int | None = getattr(counters.total(self.counters), name)
        return value

    @property
    def full_drops(self) -> int:
        """Return the drops in the window that failed inserts do not explain; 0 if not known."""
        return (self.rise.full_drops or 0) if self.rise else 0

    @property
    def evicted(self) -> int:
        """Return the entries evicted early in the window; 0 if that is not known."""
        return (self.rise.early_drops or 0) if self.rise else 0

    @property
    def trouble(self) -> tuple[int, int, float]:
        """Return the sort key of further namespaces, the worst highest."""
        usage = self.limits.usage if self.limits else None
        entries = float(self.namespace.entries)
        return (self.messages, self.full_drops, entries if usage is None else usage)

    @property
    def notable(self) -> bool:
        """Return whether there is anything to say about it."""
        return bool(
            self.messages or self.namespace.entries or (self.rise and any(self.rise.counts))
        )


class Asking:
    """The way to the reader, which keeps why it was of no use."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.refused = ""
        self._ring: Iterator[Frame] | None = None

    def ask(self, fields: Sequence[bytes]) -> list[Frame]:
        """Return the answer to a request for small data. Raises KernelError."""
        try:
            return self.session.ask(fields)
        except KernelError as error:
            self.refused = str(error)
            raise

    def ring(self, fields: Sequence[bytes]) -> Iterator[Frame]:
        """Ask for the ring buffer, once a run."""
        self._ring, mine = itertools.tee(self._ring or self._stream(fields))
        return mine

    def _stream(self, fields: Sequence[bytes]) -> Iterator[Frame]:
        try:
            yield from self.session.stream(fields)
        except KernelError as error:
            self.refused = str(error)
            raise

    @property
    def may_ask(self) -> bool:
        """Return whether there is a reader to ask."""
        return self.session.may_ask or self._ring is not None


class NamespaceReading:
    """The namespaces that were asked for, with their counters."""

    def __init__(
        self, asking: Asking, options: argparse.Namespace, names: Mapping[int, str]
    ) -> None:
        self.unavailable: list[str] = []
        self._asking = asking
        scan = namespaces.scan(asking.session, options.netns, b"counters", names)
        self.problems = scan.problems
        self.inactive = bool(scan.inactive)
        self.first = self._report(scan, scan.first) if scan.first else None
        if scan.unreadable and not self.first:
            values, origin = self._own_counters()
            own = Namespace("", OWN, own_inode())
            self.first = NamespaceReport(own, values, read=(origin,) if origin else ())
        self.others = [self._report(scan, namespace) for namespace in scan.others]

    def _report(self, scan: NamespaceScan, namespace: Namespace) -> NamespaceReport:
        own = namespace.is_own
        values, origin = (
            self._own_counters()
            if own
            else self._counters(scan.frames.get(namespace.inode, {}), namespace.entries)
        )
        read = [origin] if origin else []
        if namespace.limits:
            how = DIRECTLY if own else BY_READER
            read.insert(0, f"{namespace.limits.origin}count and max {how}")
        return NamespaceReport(namespace, values, read=tuple(read))

    def _own_counters(self) -> tuple[counters.KernelCounters | None, str]:
        """Return the counters of the check's own namespace, and where they were read."""
        try:
            return counters.read_text(), f"{counters.PATH} {DIRECTLY}"
        except FileNotFoundError:
            return self._own_by_netlink()
        except (OSError, counters.CountersError) as error:
            self.unavailable.append(f"counters: {error}")
            return None, ""

    def _own_by_netlink(self) -> tuple[counters.KernelCounters | None, str]:
        """Return the counters where /proc has none (CONFIG_NF_CONNTRACK_PROCFS is off)."""
        try:
            frames = {
                frame.file: frame for frame in self._asking.ask([b"counters", os.fsencode(OWN)])
            }
            if STATS_CPU in frames and frames[STATS_CPU].errno in (errno.EPERM, errno.EACCES):
                self._asking.session.forbidden = True
                raise KernelError("permission denied (use --sudo)")
        except KernelError as error:
            self.unavailable.append(
                f"counters: {counters.PATH} not found, and ctnetlink needs CAP_NET_ADMIN: {error}"
            )
            return None, ""
        return self._counters(frames)

    def _counters(
        self, frames: Mapping[str, Frame], entries: int | None = None
    ) -> tuple[counters.KernelCounters | None, str]:
        """Parse the reader's frames: netlink's answer, else the text of /proc.

        entries: what the namespace's count says. Up to Linux 5.4 the text may be that of another
        namespace, which the reader has entered before.
        """
        problem = ""
        for file, parse, origin in (
            (STATS_CPU, counters.parse_stats_cpu, "the counters over ctnetlink"),
            ("stat", counters.parse_text, counters.PATH),
        ):
            frame = frames.get(file)
            if frame is None or frame.errno:
                problem = problem or (os.strerror(frame.errno) if frame else "not found")
                continue
            try:
                values = parse(frame.data)
            except (counters.CountersError, OSError) as error:
                problem = str(error)
                continue
            if _is_another(values.entries, entries):
                problem = f"{counters.PATH} shows another namespace"
                continue
            return values, f"{origin} {BY_READER}"
        self.unavailable.append(f"counters: {problem}")
        return None, ""


def _is_another(entries: int | None, count: int | None) -> bool:
    """Tell whether two readings of a table a moment apart differ by more than that explains."""
    if entries is None or count is None:
        return False
    return (not entries) != (not count) and max(entries, count) > FEW


FEW = 100
"""Entries that may come or go between two readings."""


def module_inode() -> int:
    """Return the inode of the loaded module, a new one each time it is loaded; 0 if built in."""
    try:
        return os.stat("/sys/module/nf_conntrack/initstate").st_ino
    except OSError:
        return 0
