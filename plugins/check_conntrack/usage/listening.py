"""Acquire: listen to the kernel's events of new entries, and say where the table is heading."""

from __future__ import annotations

import bisect
import errno
import os

from ..flows.new_entries import NewEntries
from ..kernel import KernelError
from ..kernel.namedtuple import NamedTuple
from ..kernel.netlink import MalformedError
from ..state import outlook
from ..state.codec import decode, encode
from ..state.outlook import Listening, Outlook, RateHistory, RateSample
from ..state.state_store import boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from ..kernel.namespaces import Namespace
    from ..kernel.reader_client import Frame
    from ..session import Session
    from ..state.trend import Moment

ENOUGH = 10_000  # new entries; then the rate is known to a hundredth of it
MOST_EVENTS = 30_000  # new entries and updates; reading more costs too much
SHORTEST = 0.25  # seconds; a shorter time may be a gap between two bursts
_REASONS = {
    errno.EPROTONOSUPPORT: (
        "nf_conntrack_netlink is not loaded (as root, run: modprobe nf_conntrack_netlink)"
    ),
    errno.EPERM: "permission denied (CAP_NET_ADMIN)",
    errno.EACCES: "permission denied (CAP_NET_ADMIN)",
}


class NotHeardError(Exception):
    """Nothing was heard; the text says why."""


class Heard(NamedTuple):
    """The result of listening: where the table is heading, or why that is not known.

    entries: the kernel's count at the end. forbidden: whether a privilege is missing.
    """

    outlook: Outlook | None = None
    entries: int | None = None
    problem: str = ""
    forbidden: bool = False


class EventStream:
    """The reader's frames, counted while they arrive.

    listening: up to the last time that the clock was read; None before.
    forbidden: whether a privilege is missing.
    """

    def __init__(self) -> None:
        self.listening: Listening | None = None
        self.forbidden = False
        self._new = NewEntries()
        self._before: int | None = None
        self._after = 0
        self._overrun = False
        # When the clock was read, and how many new entries there were by then.
        self._times = [0.0]
        self._numbers = [0]

    def read(self, frames: Iterable[Frame]) -> None:
        """Read frames until they end or enough is known.

        Raises NotHeardError, and KernelError where the reader fails.
        """
        for frame in frames:
            try:
                self._read(frame)
            except NotHeardError:
                self.forbidden = frame.errno in (errno.EPERM, errno.EACCES)
                raise
            heard = self.listening
            enough = heard and (heard.new >= ENOUGH or self._new.events >= MOST_EVENTS)
            if heard and enough and heard.seconds >= SHORTEST:
                return

    def _read(self, frame: Frame) -> None:
        if frame.errno == errno.ENOBUFS:
            self._overrun = True
        elif frame.errno:
            raise NotHeardError(_reason(frame))
        elif frame.file == "events":
            try:
                self._new.count(frame.data)
            except MalformedError as error:
                raise NotHeardError(str(error)) from None
        elif frame.file == "nf_conntrack_events":
            if _number(frame.data) == 0:
                raise NotHeardError(
                    "no events, net.netfilter.nf_conntrack_events is 0 (set it to 1)"
                )
        elif frame.file == "nf_conntrack_count":
            self._after = _number(frame.data)
            if self._before is None:
                self._before = self._after
        elif frame.file == "clock":
            seconds = _number(frame.data) / 1e9
            if seconds > 0 and self._before is not None:
                new = self._new
                new.tick()
                if seconds > self._times[-1]:
                    self._times.append(seconds)
                    self._numbers.append(new.number)
                self.listening = Listening(
                    seconds,
                    new.number,
                    self._before,
                    self._after,
                    new.first_timeout(outlook.LONGEST_FIRST_TIMEOUT),
                    new.answered(),
                    self._overrun,
                    self._fewest(),
                )

    def _fewest(self) -> float:
        """Return the new entries of the third of the time in which the fewest were made."""
        end = self._times[-1]
        marks = [self._number_at(end * part / 3) for part in range(4)]
        return min(later - earlier for earlier, later in zip(marks, marks[1:]))

    def _number_at(self, seconds: float) -> float:
        """Return the new entries up to a moment; between two looks at the clock, its share."""
        place = min(bisect.bisect_right(self._times, seconds), len(self._times) - 1)
        (begin, end), (few, many) = (
            values[place - 1 : place + 1] for values in (self._times, self._numbers)
        )
        return few + (many - few) * min((seconds - begin) / (end - begin), 1.0)


def _number(data: bytes) -> int:
    text = data.strip()
    if not text.isdigit() or len(text) > 20:
        raise NotHeardError("malformed answer from the reader")
    return int(text)


def _reason(frame: Frame) -> str:
    if frame.file == "nf_conntrack_events" and frame.errno == errno.ENOENT:
        return "this kernel has no events of connection tracking (CONFIG_NF_CONNTRACK_EVENTS)"
    return _REASONS.get(frame.errno, os.strerror(frame.errno))


class Listener:
    """Listens in the namespace that plain labels describe, and keeps what it hears."""

    def __init__(self, options: argparse.Namespace, run: Session) -> None:
        self._seconds: float = options.listen
        self._state_key: str = options.state_key
        self._run = run
        self._keep: tuple[str, Callable[[object], object]] | None = None

    def listen(self, namespace: Namespace, now: Callable[[], Moment]) -> Heard:
        """Listen, and return where the table is heading. `now` returns the present moment."""
        run, stream, failed = self._run, EventStream(), False
        problems: list[str] = []
        scan_was_forbidden = run.forbidden
        with run.stage.stoppable(problems.append):
            try:
                fields = [b"events", os.fsencode(namespace.path), b"%d" % (self._seconds * 1000)]
                frames = run.stream(fields)
                run.stage("listening to events")
                stream.read(frames)
            except (KernelError, NotHeardError) as error:
                failed = True
                problems.append(str(error))
        forbidden = run.forbidden or stream.forbidden
        run.forbidden = scan_was_forbidden
        listening, limits = stream.listening, namespace.limits
        too_short = listening is None or listening.seconds < min(SHORTEST, self._seconds)
        if failed or too_short or listening is None or limits is None:
            problem = problems[0] if problems else "incomplete answer from the reader"
            return Heard(problem=problem, forbidden=forbidden)
        moment = now()
        sample = RateSample(moment.up, listening.after, listening.seconds, listening.new)
        file = f"listen/{namespace.key}/{self._state_key}"
        boot, identity = boot_id(), namespace.identity

        def with_run(kept: object) -> RateHistory:
            history = outlook.belonging_to(decode(RateHistory, kept), boot, identity)
            return outlook.with_run(history, sample)

        self._keep = file, lambda kept: encode(with_run(kept))
        history = with_run(run.store.read(file))
        found = outlook.outlook(listening, limits.limit, limits.buckets, history.samples)
        return Heard(found, listening.after)

    def write(self) -> None:
        """Keep this run for later ones."""
        if self._keep:
            self._run.store.update(*self._keep)
