"""One line of a log, in whatever form: when, on which host, and what the kernel reports in it.

``parse_messages`` searches the line for the kernel's messages (messages.py), reads what stands
before them (header.py, stamps.py), and parses JSON and the like first (structured.py).
"""

from __future__ import annotations

import re
from itertools import chain

from ..namedtuple import NamedTuple
from .header import Header, better_stamp, read_header, read_start
from .header_items import KERNEL, is_kernel_daemon
from .messages import Message, ends_message, find_messages
from .stamps import UNDATED, Stamp, read_stamp
from .structured import Record, entry_bounds, message_of_cut_json, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo

# Colours, as they are or as daemons escape them.
_COLOUR = re.compile(r"(?:\x1b|\\x1b|\\e|\\033|\\u001b|#033|\^\[)\[[0-9;?]*[A-Za-z]")
_ESCAPES = ("\x1b", "\\", "#033", "^[")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b\ufeff]")
_REPETITION = re.compile(
    r"(?:-{2,3} ?)?(?:last|previous) (?:message|output|line)"
    r"(?: '(?P<quoted>[^']{0,80})')? (?:was )?"
    r"repeated (?P<times>[0-9]{1,9}) times?(?:, suppressed by syslog-ng on .*)?\.?(?: ?-{2,3})?\s*",
    re.IGNORECASE,
)
_REPEATED_WORDS = re.compile(r"(?:last|previous) (?:message|output|line) ", re.IGNORECASE)


# Without any stamp, as dmesg of RHEL 6 prints: what every kernel says when it boots.
_KERNELS_WORDS = re.compile(
    r"(?:Linux version [0-9]+\.|(?:Kernel )?[Cc]ommand line: |BIOS-provided physical RAM map"
    r"|Initializing cgroup subsys|Booting Linux on physical CPU|"
    r"(?:nf|ip)_conntrack version [0-9.]+ \([0-9]+ buckets)"
)


_CANDIDATE = re.compile(r"conntrack|suppress", re.IGNORECASE)
_FLUENT_BIT = re.compile(r"\[\[?(?P<time>[0-9]{10}\.[0-9]{1,9}), ")
_TIME_FIELD = re.compile(
    r'"(?:__REALTIME_TIMESTAMP|@timestamp|timestamp|time|ts|date)" ?: ?"?(?P<time>[^",}]{10,40})'
)
_STRUCTURE = ("{", "\n", '"', "\t")
_LEVEL = re.compile(r"<[0-7]>(?:\[ *[0-9]{1,12}\.[0-9]{1,9}\] ?)?\Z")
_KERNEL_FACILITIES = (None, "0", "kern", "kernel", "kernel messages")
# Lines of an entry of several lines.
_KERNELS_FIELD = re.compile(
    r"\s*(?:(?:_TRANSPORT|SYSLOG_IDENTIFIER)=kernel\s*\Z"
    r'|"(?:_TRANSPORT|SYSLOG_IDENTIFIER)" ?: "kernel"|"dmesg" ?: \[)'
)
# util-linux writes dmesg's times in ISO 8601 with a comma, and no host.
_ISO_DMESG = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8},[0-9]{6}[+-][0-9]{2}:[0-9]{2} ")


class LogLine(NamedTuple):
    """A line in which the kernel reports loss.

    ``time`` is in seconds since the epoch, None where the line does not tell; ``slack`` are the
    seconds that its form leaves open. ``monotonic`` is in microseconds since boot by the kernel's
    own stamp. ``offset``: the time bears its own offset from UTC.
    """

    message: Message
    time: float | None = None
    slack: float = 0.0
    monotonic: int | None = None
    host: str | None = None
    offset: bool = False


class KernelLine(NamedTuple):
    """A line of the kernel's own, whatever it says; the fields are those of LogLine."""

    host: str | None = None
    monotonic: int | None = None
    time: float | None = None
    offset: bool = False


def clean(line: str) -> str:
    """Return the line without colours and control characters."""
    if any(escape in line for escape in _ESCAPES):
        line = _COLOUR.sub("", line)
    return _CONTROL.sub(" ", line) if not line.isprintable() else line


def parse_messages(line: str, reference: float, zone: tzinfo | None = None) -> tuple[LogLine, ...]:
    """Return what the kernel reports in the line; nothing where it is not the kernel's or no loss.

    A message counts unless what surrounds it proves that these are somebody else's words: a
    program's tag, a quotation, a sentence that goes on. ``line`` may be an entry of several lines
    (entry_bounds). One line holds several messages where a kernel left out a newline. Raises
    nothing.

    ``reference`` is when the line was written at the latest, in seconds since the epoch (the
    file's last change, or now); ``zone`` is the zone of times without an offset, None for the
    zone of this process. A time that is no time leaves the time unknown, and the message counts.
    """
    if any(mark in line for mark in _STRUCTURE):
        data = records(line)
        if data is not None:
            return _parse_records(line, data, reference, zone)
        cut = message_of_cut_json(line)
        if cut is not None:
            line = cut
    return tuple(parsed for parsed, _ in _parse_text(clean(line), reference, zone))


def _parse_text(text: str, reference: float, zone: tzinfo | None) -> list[tuple[LogLine, Header]]:
    """Return what a plain line reports, each with what stands before it."""
    lines: list[tuple[LogLine, Header]] = []
    at = 0
    matches = find_messages(text)
    for number, match in enumerate(matches):
        header = read_header(text[at : match.start], reference, zone)
        if header.proof and _LEVEL.search(text, at, match.start):
            # Old kernels wrote records into one line; each begins with its level.
            start = read_start(text[at : match.start], reference, zone)
            header = start if start.kernel else header
        at = match.end
        following = matches[number + 1 : number + 2]
        glued = bool(following) and not text[at : following[0].start].strip()
        if header.proof or not (glued or ends_message(text, at)):
            break
        if header.times:
            message = match.message
            if header.times > 1:
                message = message._replace(times=message.times * header.times)
            stamp = header.stamp
            line = LogLine(
                message, stamp.time, stamp.slack, header.monotonic, header.host, stamp.offset
            )
            lines.append((line, header))
    return lines


def _parse_records(
    line: str, data: Iterator[Record], reference: float, zone: tzinfo | None
) -> tuple[LogLine, ...]:
    """Return what the records report that are the kernel's.

    One message under two names (short_message and full_message) is one message.
    """
    brace = line.find("{") if "{" in line and "\n" not in line.strip() else 0
    prefix = line[:brace].removeprefix("data: ")
    outer = read_start(clean(prefix), reference, zone)
    entries: dict[int, tuple[LogLine, ...]] = {}
    for record in data:
        if record.entry not in entries and _CANDIDATE.search(record.text):
            lines = _parse_record(record, outer, prefix, reference, zone)
            if lines:
                entries[record.entry] = lines
    return tuple(chain.from_iterable(entries.values()))


def _parse_record(
    record: Record, outer: Header, prefix: str, reference: float, zone: tzinfo | None
) -> tuple[LogLine, ...]:
    """Return what one record reports, nothing where it is not the kernel's."""
    stamp = _record_stamp(record, outer, prefix, reference, zone)
    latest = reference if stamp.time is None else stamp.time
    inner: list[tuple[LogLine, Header]] = []
    for text in record.text.split("\n"):
        if text[:1] == "{":
            nested = parse_messages(text, latest, zone)
            inner += [(each, Header(kernel=True)) for each in nested]
        else:
            inner += _parse_text(clean(text), latest, zone)
    return tuple(
        _joined(record, each, stamp) for each, header in inner if _is_kernels(record, header, outer)
    )


def _is_kernels(record: Record, inner: Header, outer: Header) -> bool:
    """Tell whether the fields beside a message, and what stands before it all, leave it so."""
    names = (record.program or "").split()
    named = any(is_kernel_daemon(name.rstrip(":")) for name in names)
    if outer.proof:
        # Fluentd puts its own tag, with dots, before an object.
        tag = outer.program or ""
        shipped = "." in tag and (inner.kernel or named or "kmsg" in tag or "kern" in tag)
        if not shipped:
            return False
    if record.bare:
        dated = inner.stamp.time is not None or inner.monotonic is not None
        return inner.kernel and dated
    if record.transport == KERNEL:
        return record.facility in _KERNEL_FACILITIES
    if named or inner.kernel:
        return True
    if names or record.transport not in (None, "syslog"):
        return False
    return record.facility in _KERNEL_FACILITIES


def _record_stamp(
    record: Record, outer: Header, prefix: str, reference: float, zone: tzinfo | None
) -> Stamp:
    """Return when a record was made, by its fields or by what stands before it."""
    if record.time is not None:
        stamp = read_stamp(record.time, reference, zone)
        if stamp.time is not None:
            return stamp
    shipped = _FLUENT_BIT.search(prefix)
    return outer.stamp if shipped is None else read_stamp(shipped["time"], reference)


def _joined(record: Record, inner: LogLine, outer: Stamp) -> LogLine:
    """Return the line of a record, with the fields' values where its text says less."""
    stamp = better_stamp(outer, Stamp(inner.time, inner.slack, inner.offset))
    monotonic = inner.monotonic if inner.monotonic is not None else record.monotonic
    host = inner.host or record.host
    return LogLine(inner.message, stamp.time, stamp.slack, monotonic, host, stamp.offset)


def parse_time(line: str, reference: float, zone: tzinfo | None = None) -> float | None:
    """Return when a line was written by its own stamp, of whatever program it is.

    In seconds since the epoch, None where it does not tell; ``reference`` and ``zone`` as for
    ``parse_messages``. Raises nothing.
    """
    if any(mark in line for mark in _STRUCTURE):
        data = records(line)
        record = None if data is None else next(data, None)
        if record is not None and record.time is not None:
            stamp = read_stamp(record.time, reference, zone)
            if stamp.time is not None or "{" in line:
                return stamp.time
    if "{" in line:
        match = _TIME_FIELD.search(line)
        if match is not None:
            return read_stamp(match["time"], reference, zone).time
    return read_start(clean(line[:512]), reference, zone).stamp.time


def kernel_line(line: str, reference: float, zone: tzinfo | None = None) -> KernelLine | None:
    """Return whose the line is and when it was written if it is the kernel's own, else None.

    Raises nothing.
    """
    if any(mark in line for mark in _STRUCTURE):
        data = records(line)
        if data is not None:
            return _kernel_record(data, reference, zone)
    text = clean(line[:512])
    header = read_start(text, reference, zone)
    if not header.kernel:
        if _ISO_DMESG.match(text):
            return KernelLine(None, None, header.stamp.time, header.stamp.offset)
        known = _KERNELS_WORDS.match(text) or _KERNELS_FIELD.match(text)
        return KernelLine() if known else None
    return KernelLine(header.host, header.monotonic, header.stamp.time, header.stamp.offset)


def _kernel_record(
    data: Iterator[Record], reference: float, zone: tzinfo | None
) -> KernelLine | None:
    for record in data:
        inner = read_start(clean(record.text[:512]), reference, zone)
        named = any(is_kernel_daemon(name.rstrip(":")) for name in (record.program or "").split())
        marked = record.transport == KERNEL or named or record.facility is not None
        if inner.kernel or (marked and record.facility in _KERNEL_FACILITIES):
            outer = read_stamp(record.time, reference, zone) if record.time else UNDATED
            stamp = better_stamp(outer, inner.stamp)
            monotonic = inner.monotonic if inner.monotonic is not None else record.monotonic
            return KernelLine(inner.host or record.host, monotonic, stamp.time, stamp.offset)
    return None


def parse_repetition(
    line: str, host: str | None, reference: float, zone: tzinfo | None = None
) -> tuple[int, Stamp] | None:
    """Return (times, when) of a daemon's ``last message repeated N times``, or None.

    It speaks of the line before it in the file. ``host`` is that line's: another host's
    repetition is not its own. Raises nothing.
    """
    if "repeated" not in line:
        return None
    text = clean(line)
    begin = _REPEATED_WORDS.search(text)
    if begin is None:
        return None
    start = len(text[: begin.start()].rstrip("- "))
    match = _REPETITION.fullmatch(text[start:].lstrip())
    if match is None:
        return None
    header = read_header(text[:start] + " " if start else "", reference, zone)
    if header.proof or (header.stamp == UNDATED and start):
        return None
    if host is not None and header.host is not None and header.host != host:
        return None
    return int(match["times"]), header.stamp


__all__ = [
    "KernelLine",
    "LogLine",
    "entry_bounds",
    "kernel_line",
    "parse_messages",
    "parse_repetition",
    "parse_time",
]
