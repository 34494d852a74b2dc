"""One line of a log, in whatever form: when, on which host, and what the kernel reports in it.

``parse_line`` searches the line for the kernel's messages (messages.py), reads what stands before
them (header.py, stamps.py), and takes JSON and the like apart first (structured.py).
"""

from __future__ import annotations

import re

from ..namedtuple import NamedTuple
from .header import KERNEL, Header, better_stamp, is_kernel_daemon, read_header, read_start
from .messages import Kind, Message, ends_message, find_messages
from .stamps import UNDATED, Stamp, read_stamp
from .structured import Record, entry_bounds, message_of_cut_json, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo

# Colours, as they are or as daemons escape them.
_COLOUR = re.compile(r"(?:\x1b|\\x1b|\\e|\\033|\\u001b|#033|\^\[)\[[0-9;?]*[A-Za-z]")
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
    if "[" in line:
        line = _COLOUR.sub("", line)
    return _CONTROL.sub(" ", line) if not line.isprintable() else line


def parse_line(line: str, reference: float, zone: tzinfo | None = None) -> LogLine | None:
    """Return what the kernel reports in the line, None where it is not the kernel's or no loss.

    A message counts unless what surrounds it proves that these are somebody else's words: a
    program's tag, a quotation, a sentence that goes on. ``reference`` is when the line was
    written at the latest, in seconds since the epoch (the file's last change, or now); ``zone``
    is the zone of times without an offset, None for the zone of this process. A time that is no
    time leaves the time unknown, and the message counts. Raises nothing.
    """
    if "{" in line or "\n" in line:
        data = records(line)
        if data is not None:
            return _parse_records(line, data, reference, zone)
        cut = message_of_cut_json(line)
        if cut is not None:
            line = cut
    return _parse_text(clean(line), reference, zone)


def _parse_records(
    line: str, data: Iterator[Record], reference: float, zone: tzinfo | None
) -> LogLine | None:
    found: list[LogLine] = []
    for record in data:
        text = record.text
        inner = parse_line(text, reference, zone) if text[0] == "{" else None
        inner = inner or _parse_text(clean(text), reference, zone)
        if inner is not None and _is_kernels(record, text, inner):
            found.append(_joined(record, inner, line, reference, zone))
    if not found:
        return None
    # One message under two keys (short_message and full_message) is one message.
    return found[0]


def _is_kernels(record: Record, text: str, inner: LogLine) -> bool:
    """Tell whether the fields beside a message leave it the kernel's."""
    tagged = text[:2000].lower().find("kernel") >= 0 or inner.monotonic is not None
    if record.transport == KERNEL:
        return record.facility in (None, "0", "kern")
    if record.program is not None:
        names = record.program.split()
        if any(is_kernel_daemon(name.rstrip(":")) for name in names):
            return True
        if not tagged:
            return False
    if record.transport not in (None, KERNEL, "syslog") and not tagged:
        return False
    return record.facility in (None, "0", "kern", "kernel", "kernel messages") or tagged


def _joined(
    record: Record, inner: LogLine, line: str, reference: float, zone: tzinfo | None
) -> LogLine:
    """Return the line of a record, with the fields' values where its text says less."""
    outer = UNDATED
    if record.time is not None:
        outer = read_stamp(record.time, reference, zone)
    if outer.time is None:
        outer = read_start(line.partition("{")[0], reference, zone).stamp
    stamp = better_stamp(outer, Stamp(inner.time, inner.slack, inner.offset))
    monotonic = inner.monotonic if inner.monotonic is not None else record.monotonic
    host = inner.host or record.host
    return LogLine(inner.message, stamp.time, stamp.slack, monotonic, host, stamp.offset)


def _parse_text(text: str, reference: float, zone: tzinfo | None) -> LogLine | None:
    found: list[Message] = []
    first: Header | None = None
    at = 0
    for match in find_messages(text):
        header = read_header(text[at : match.start], reference, zone)
        at = match.end
        if header.proof or not ends_message(text, match.end):
            if first is None:
                return None
            break
        if first is None:
            first = header
        found.append(match.message)
    if first is None or not first.times:
        return None
    message = found[0]
    times = first.times * sum(each.times for each in found if each.kind is message.kind)
    if message.kind is not Kind.SUPPRESSED or first.times > 1 or len(found) > 1:
        message = message._replace(times=times)
    stamp = first.stamp
    return LogLine(message, stamp.time, stamp.slack, first.monotonic, first.host, stamp.offset)


def parse_time(line: str, reference: float, zone: tzinfo | None = None) -> float | None:
    """Return when a line was written by its own stamp, of whatever program it is.

    In seconds since the epoch, None where it does not tell; ``reference`` and ``zone`` as for
    ``parse_line``. Raises nothing.
    """
    return read_start(clean(line[:512]), reference, zone).stamp.time


def kernel_line(line: str, reference: float, zone: tzinfo | None = None) -> KernelLine | None:
    """Return whose the line is and when it was written if it is the kernel's own, else None.

    Raises nothing.
    """
    brace = line.find("{")
    if brace >= 0:
        data = records(line)
        if data is not None:
            return _kernel_record(data, reference, zone)
    header = read_start(clean(line[:512]), reference, zone)
    if not header.kernel:
        return KernelLine() if _KERNELS_WORDS.match(line) else None
    return KernelLine(header.host, header.monotonic, header.stamp.time, header.stamp.offset)


def _kernel_record(
    data: Iterator[Record], reference: float, zone: tzinfo | None
) -> KernelLine | None:
    for record in data:
        inner = read_start(clean(record.text[:512]), reference, zone)
        named = any(is_kernel_daemon(name.rstrip(":")) for name in (record.program or "").split())
        own = record.facility in (None, "0", "kern")
        if inner.kernel or (own and (record.transport == KERNEL or named)):
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
    "parse_line",
    "parse_repetition",
    "parse_time",
]
