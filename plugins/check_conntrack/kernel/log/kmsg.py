"""The kernel's ring buffer, /dev/kmsg: one record a read, as it is in the kernel's memory.

Follows Documentation/ABI/testing/dev-kmsg.
"""

from __future__ import annotations

import errno
import os
import re
import time

from ..coverage import Span
from ..namedtuple import NamedTuple
from .events import Event
from .messages import parse_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Callable

PATH = "/dev/kmsg"
RECORD_SIZE = 16384
"""Bytes for one record; a shorter buffer than the record loses it (EINVAL). Kernels need 8 KiB."""
STOPPED = b""
"""Last item of a reading that was stopped before the end of the ring."""
FACILITY_KERNEL = 0
# printk's clock is not disciplined by NTP, whose corrections may reach 500 parts in a million.
DRIFT = 500e-6

_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")
_PREFIX = re.compile(rb"([0-9]{1,10}),([0-9]{1,20}),([0-9]{1,20}),([^,;]*)(?:,[^;]*)?;")
_MARKER_EVERY = 256


class Record(NamedTuple):
    """One record of the ring."""

    facility: int
    """FACILITY_KERNEL, or that of a program that wrote to /dev/kmsg."""
    severity: int
    sequence: int
    monotonic: int
    """Microseconds since boot by printk's clock, which stands still during suspend."""
    flags: str
    text: str
    """Unescaped; may hold control characters, and is never to be printed as it is."""
    properties: tuple[tuple[str, str], ...] = ()
    """The continuation lines, such as ("SUBSYSTEM", "net")."""


class Clock(NamedTuple):
    """The clocks at one moment, in seconds."""

    realtime: float
    monotonic: float
    """Without the time spent suspended."""
    boottime: float
    """With it."""


class Ring(NamedTuple):
    """What a reading of the ring has shown."""

    events: tuple[Event, ...] = ()
    records: int = 0
    kernel_records: int = 0
    first_sequence: int | None = None
    oldest: float | None = None
    """Time of the oldest record of any facility, in seconds since the epoch."""
    lost: int = 0
    """Records that were overwritten between two that were read."""
    losses: tuple[Span, ...] = ()
    """For each such hole, the time from the record before it to the record after it."""
    malformed: int = 0
    complete: bool = True
    """False when the reading was stopped before the end."""

    def reaches(self, start: float | None, boot: float) -> bool:
        """Tell whether the ring goes back to ``start`` (None: to boot) without a gap.

        ``boot`` is when the kernel started, in seconds since the epoch: with its first record the
        ring goes back as far, and no further.
        """
        if self.lost:
            return False
        if self.first_sequence == 0:
            return start is None or start >= boot
        return start is not None and self.oldest is not None and self.oldest <= start


def read_clock() -> Clock:
    """Read the clocks. Raises nothing on Linux."""
    return Clock(
        time.time(),
        time.clock_gettime(time.CLOCK_MONOTONIC),
        time.clock_gettime(time.CLOCK_BOOTTIME),
    )


def boot_time(clock: Clock) -> float:
    """Return when the kernel started, in seconds since the epoch by today's clock."""
    return clock.realtime - clock.boottime


def wall_time(clock: Clock, monotonic: int) -> tuple[float, float]:
    """Return (seconds since the epoch, slack) of a stamp of printk's clock in microseconds.

    Exact to the drift of that clock, at most DRIFT of the record's age, as long as the host was
    not suspended since. After a suspend the time returned is the latest possible, and the slack
    holds all the time spent suspended since boot: which of it lies after the record, no one says.
    """
    age = clock.monotonic - monotonic / 1e6
    suspended = max(0.0, clock.boottime - clock.monotonic)
    if suspended < 0.01:  # two readings of two clocks
        suspended = 0.0
    return clock.realtime - age, suspended + max(0.0, age) * DRIFT


def parse_record(raw: bytes) -> Record:
    """Return the record in ``raw``, the bytes of one read.

    Raises ValueError when they are no record.
    """
    prefix = _PREFIX.match(raw)
    if prefix is None:
        raise ValueError("not a record of /dev/kmsg")
    body, *lines = raw[prefix.end() :].split(b"\n")
    priority = int(prefix[1])
    properties = []
    for line in lines:
        if line.startswith(b" "):
            name, _, value = line[1:].partition(b"=")
            properties.append((_text(name), _text(value)))
    return Record(
        priority >> 3,
        priority & 7,
        int(prefix[2]),
        int(prefix[3]),
        _text(prefix[4]),
        _text(body),
        tuple(properties),
    )


def _text(raw: bytes) -> str:
    if b"\\" in raw:
        raw = _ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), raw)
    return raw.decode("utf-8", "replace")


def is_restricted() -> bool:
    """Whether the ring buffer takes a right (kernel.dmesg_restrict, or the device's mode)."""
    try:
        with open("/proc/sys/kernel/dmesg_restrict", "rb") as file:
            return file.read(8).strip() != b"0" or not os.stat(PATH).st_mode & 0o004
    except OSError:
        return True


def open_kmsg(path: str = PATH) -> tuple[int, int]:
    """Open the ring; return (descriptor at its beginning, descriptor at its end).

    Raises OSError: EPERM where kernel.dmesg_restrict is set and CAP_SYSLOG is missing, ENOENT
    where a container has no such device.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    marker = os.open(path, flags)
    try:
        os.lseek(marker, 0, os.SEEK_END)
        return os.open(path, flags), marker
    except OSError:
        os.close(marker)
        raise


def read_kmsg(
    descriptor: int, stop: Callable[[], bool], marker: int | None = None
) -> Iterator[bytes]:
    """Yield the records of a ring, oldest first, up to its end.

    ``descriptor`` is open for reading with O_NONBLOCK. ``stop`` is asked before each read: once
    it says True, STOPPED is yielded and the reading ends. ``marker``, a second descriptor that
    stood at the ring's end before, ends it at what was there then, also when the ring is written
    as fast as it is read. Records overwritten meanwhile (EPIPE) or too long (EINVAL) are passed
    over: the gap in the sequence tells. Any other OSError is raised.
    """
    end: int | None = None
    reads = 0
    while True:
        if stop():
            yield STOPPED
            return
        if marker is not None and end is None and reads % _MARKER_EVERY == 0:
            end = _sequence_at(marker)
        reads += 1
        try:
            raw = os.read(descriptor, RECORD_SIZE)
        except BlockingIOError:
            return
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.EINVAL):
                continue
            raise
        if not raw:
            return
        if end is not None and _sequence(raw) >= end:
            return
        yield raw


def _sequence(raw: bytes) -> int:
    found = _PREFIX.match(raw)
    return int(found[2]) if found is not None else -1


def _sequence_at(marker: int) -> int | None:
    """Return the number of the first record written after the marker was set, if there is one."""
    try:
        raw = os.read(marker, RECORD_SIZE)
    except OSError:
        # EAGAIN: nothing was written. EPIPE: so much was that the marker was overrun; the next
        # record it gives is later than the end it stood for, and still an end.
        return None
    sequence = _sequence(raw)
    return sequence if sequence >= 0 else None


def digest(raws: Iterable[bytes], clock: Clock, boot: str | None = None) -> Ring:
    """Return what the records of a reading say.

    ``raws`` is what ``read_kmsg`` yields, or the same from elsewhere; ``clock`` the clocks at the
    time of reading; ``boot`` this boot's id. Only records of the kernel's own facility count: any
    program with the right may write "table full" to /dev/kmsg. Memory is bounded by the number of
    events, not of records. Raises nothing but what ``raws`` raises.
    """
    boot = boot.replace("-", "") if boot is not None else None
    events: list[Event] = []
    records = kernel_records = lost = malformed = 0
    first: int | None = None
    before: int | None = None
    oldest: int | None = None
    previous = 0
    losses: list[Span] = []
    complete = True
    for raw in raws:
        if raw == STOPPED:
            complete = False
            break
        try:
            record = parse_record(raw)
        except ValueError:
            malformed += 1
            continue
        records += 1
        if before is None:
            first, oldest = record.sequence, record.monotonic
        elif record.sequence > before + 1:
            lost += record.sequence - before - 1
            around = (wall_time(clock, stamp)[0] for stamp in (previous, record.monotonic))
            losses.append(Span(*around))
        before, previous = record.sequence, record.monotonic
        if record.facility != FACILITY_KERNEL:
            continue
        kernel_records += 1
        message = parse_message(record.text)
        if message is not None:
            when, slack = wall_time(clock, record.monotonic)
            events.append(
                Event(
                    message.kind,
                    message.times,
                    when,
                    slack,
                    record.monotonic,
                    boot,
                    message.netns,
                    message.zone,
                    None,
                    PATH,
                )
            )
    since = None if oldest is None else wall_time(clock, oldest)[0]
    return Ring(
        tuple(events),
        records,
        kernel_records,
        first,
        since,
        lost,
        tuple(losses),
        malformed,
        complete,
    )
