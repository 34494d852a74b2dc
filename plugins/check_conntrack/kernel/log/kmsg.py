"""Read the kernel's ring buffer, /dev/kmsg: one record a read.

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
"""Bytes for one record: a record longer than the buffer is lost (EINVAL). Kernels need 8 KiB."""
STOPPED = b""
"""The last item of a reading that was stopped before the end of the ring."""
FACILITY_KERNEL = 0
# printk's clock is not disciplined by NTP, whose corrections may reach 500 parts in a million.
DRIFT = 500e-6

_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")
_PREFIX = re.compile(rb"([0-9]{1,10}),([0-9]{1,20}),([0-9]{1,20}),([^,;]*)(?:,[^;]*)?;")
_MARKER_EVERY = 256


class Record(NamedTuple):
    """One record of the ring.

    facility: FACILITY_KERNEL, or that of a program that wrote to /dev/kmsg.
    monotonic: microseconds since boot by printk's clock, which stops during suspend.
    text: unescaped; may hold control characters, and must not be printed as it is.
    properties: the continuation lines, such as ("SUBSYSTEM", "net").
    """

    facility: int
    severity: int
    sequence: int
    monotonic: int
    flags: str
    text: str
    properties: tuple[tuple[str, str], ...] = ()


class Clock(NamedTuple):
    """The clocks at one moment, in seconds; only ``boottime`` includes the time suspended."""

    realtime: float
    monotonic: float
    boottime: float


class Ring(NamedTuple):
    """The result of one reading of the ring.

    oldest: time of the oldest record of any facility, in seconds since the epoch.
    lost: records that were overwritten between two that were read. losses: for each such hole,
    the time from the record before it to the record after it.
    complete: False where the reading was stopped before the end.
    """

    events: tuple[Event, ...] = ()
    records: int = 0
    kernel_records: int = 0
    first_sequence: int | None = None
    oldest: float | None = None
    lost: int = 0
    losses: tuple[Span, ...] = ()
    malformed: int = 0
    complete: bool = True


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

    The time is exact to the drift of that clock, at most DRIFT of the record's age, unless the
    host was suspended since boot. Then it is the latest possible time, and the slack includes all
    the time spent suspended: nothing tells how much of it came after the record.
    """
    age = clock.monotonic - monotonic / 1e6
    suspended = max(0.0, clock.boottime - clock.monotonic)
    if suspended < 0.01:  # two readings of two clocks
        suspended = 0.0
    return clock.realtime - age, suspended + max(0.0, age) * DRIFT


def parse_record(raw: bytes) -> Record:
    """Return the record in ``raw``, the bytes of one read.

    Raises ValueError where they are no record.
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
        raw = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), raw)
    return raw.decode("utf-8", "replace")


def is_restricted() -> bool:
    """Return whether the ring buffer needs privileges (kernel.dmesg_restrict, or the mode)."""
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

    ``descriptor`` is open for reading with O_NONBLOCK. ``stop`` is called before each read: once
    it returns True, STOPPED is yielded and the reading ends. ``marker`` is a second descriptor at
    what was the ring's end: the reading ends there, also while the ring is written as fast as it
    is read. Records overwritten meanwhile (EPIPE) or too long (EINVAL) are skipped and leave a
    gap in the sequence. Any other OSError is raised.
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
    prefix = _PREFIX.match(raw)
    return int(prefix[2]) if prefix is not None else -1


def _sequence_at(marker: int) -> int | None:
    """Return the number of the first record written after the marker was set, if there is one."""
    try:
        raw = os.read(marker, RECORD_SIZE)
    except OSError:
        # EAGAIN: nothing was written. EPIPE: the marker was overwritten; the next record that it
        # yields is later than the end was, and still an end.
        return None
    sequence = _sequence(raw)
    return sequence if sequence >= 0 else None


def digest(raws: Iterable[bytes], clock: Clock, boot: str | None = None) -> Ring:
    """Return the events and the extent of a reading.

    ``raws`` is what ``read_kmsg`` yields; ``clock`` the clocks at the time of reading; ``boot``
    this boot's id. Only records of the kernel's own facility count, because privileged programs
    can write any text to /dev/kmsg. Memory is bounded by the number of events, not of records.
    Raises only what ``raws`` raises.
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
