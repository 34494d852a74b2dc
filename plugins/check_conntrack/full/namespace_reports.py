"""Acquire: the network namespaces that a run speaks of, with their limits and counters."""

from __future__ import annotations

import itertools
import os

from .. import places
from ..kernel import KernelError, counters
from ..kernel.limits import OWN, Limits, own_inode
from ..kernel.log.gather import BY_READER, DIRECTLY
from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from ..kernel.coverage import Span
    from ..kernel.reader_client import Frame
    from ..session import Session
    from ..state.counter_history import CounterRise


class NamespaceReport(NamedTuple):
    """The figures of one network namespace.

    prefix: what its labels begin with; empty for the namespace of the plain labels.
    limits: None where they could not be read; counters likewise.
    rise: the sums over the window; None where nothing is known.
    coverage: the time in which its counters show every drop, by the wall clock.
    born: since when it exists, in seconds since the epoch; this boot where that is not known.
    messages: "table full" messages that name it.
    last_loss: when packets were last dropped or entries evicted early, at the latest, in seconds
    since the epoch; 0 where that is not known.
    why_short: why its counters cover no more of the window, as a sentence.
    read: which files were read, and how.
    """

    name: str
    prefix: str
    inode: int
    limits: Limits | None
    counters: counters.Counters | None
    named: bool = False
    rise: CounterRise | None = None
    coverage: tuple[Span, ...] = ()
    born: float = 0.0
    messages: int = 0
    last_loss: float = 0.0
    why_short: str = ""
    read: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What its state goes by; only names under /run/netns are one namespace's alone."""
        return places.key(self.name, self.inode, named=self.named)

    @property
    def full(self) -> bool:
        """Whether it is at its limit at this moment."""
        return bool(self.limits and self.limits.full)

    def total(self, name: str) -> int | None:
        """Return one of its counters, over all CPUs; None where it is not known."""
        if self.counters is None:
            return None
        value: int | None = getattr(counters.total(self.counters), name)
        return value

    @property
    def full_drops(self) -> int:
        """Packets dropped in the window that failed inserts do not explain, as far as known."""
        return (self.rise.full_drops or 0) if self.rise else 0

    @property
    def evicted(self) -> int:
        """Entries evicted early in the window, as far as known."""
        return (self.rise.early_drops or 0) if self.rise else 0

    @property
    def trouble(self) -> tuple[int, int, float]:
        """What orders further namespaces, the worst highest."""
        entries = self.limits.entries if self.limits else 0
        usage = self.limits.usage if self.limits else None
        return (self.messages, self.full_drops, float(entries) if usage is None else usage)

    @property
    def notable(self) -> bool:
        """Whether there is anything to say about it."""
        return bool(
            self.messages
            or (self.limits and self.limits.entries)
            or (self.rise and any(self.rise[2:6]))
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
        """Whether there is a reader to ask."""
        return self.session.may_ask or self._ring is not None


class NamespaceReading:
    """The namespaces that were asked for, with their counters."""

    def __init__(
        self, asking: Asking, options: argparse.Namespace, names: Mapping[int, str]
    ) -> None:
        self.unavailable: list[str] = []
        self._asking = asking
        sight = places.look(asking.session, options.netns, b"counters", names)
        self.problems = tuple(sight.problems)
        self.inactive = bool(sight.inactive)
        self.first = self._report(sight, sight.first) if sight.first else None
        if sight.blind and not self.first:
            values, origin = self._own_counters()
            read = (origin,) if origin else ()
            self.first = NamespaceReport("", "", own_inode(), None, values, read=read)
        self.others = [self._report(sight, spot) for spot in sight.others]

    def _report(self, sight: places.Sight, spot: places.Spot) -> NamespaceReport:
        own = spot.path == OWN
        values, origin = self._own_counters() if own else self._counters(sight.frames[spot.inode])
        how = DIRECTLY if own else BY_READER
        read = [f"{spot.limits.origin}count and max {how}", *([origin] if origin else [])]
        return NamespaceReport(
            spot.name, spot.prefix, spot.inode, spot.limits, values, spot.named, read=tuple(read)
        )

    def _own_counters(self) -> tuple[counters.Counters | None, str]:
        """Return the counters of the check's own namespace, and where they were read."""
        try:
            return counters.read_text(), f"{counters.PATH} {DIRECTLY}"
        except FileNotFoundError:
            return self._own_by_netlink()
        except (OSError, counters.CountersError) as error:
            self.unavailable.append(f"counters: {error}")
            return None, ""

    def _own_by_netlink(self) -> tuple[counters.Counters | None, str]:
        """Return the counters where /proc has none (CONFIG_NF_CONNTRACK_PROCFS is off)."""
        try:
            frames = self._asking.ask([b"counters", os.fsencode(OWN)])
        except KernelError as error:
            self.unavailable.append(
                f"counters: {counters.PATH} not found, and ctnetlink needs CAP_NET_ADMIN: {error}"
            )
            return None, ""
        return self._counters({frame.file: frame for frame in frames})

    def _counters(self, frames: Mapping[str, Frame]) -> tuple[counters.Counters | None, str]:
        """Parse the reader's frames: /proc's text where there is one, else netlink."""
        problem = ""
        for file, parse, origin in (
            ("stat", counters.parse_text, counters.PATH),
            ("stats_cpu", counters.parse_stats_cpu, "the counters over ctnetlink"),
        ):
            frame = frames.get(file)
            if frame is None or frame.errno:
                problem = problem or (os.strerror(frame.errno) if frame else "not found")
                continue
            try:
                return parse(frame.data), f"{origin} {BY_READER}"
            except (counters.CountersError, OSError) as error:
                problem = str(error)
        self.unavailable.append(f"counters: {problem}")
        return None, ""


def module_inode() -> int:
    """Return the inode of the loaded module, a new one each time it is loaded; 0 if built in."""
    try:
        return os.stat("/sys/module/nf_conntrack/initstate").st_ino
    except OSError:
        return 0
