"""Read the kernel's messages from the journal, by journalctl.

Follows journalctl(1), systemd.journal-fields(7), and sd-messages.h for journald's own notices.
"""

from __future__ import annotations

import os
import re

from .. import reasons
from ..coverage import Span
from ..namedtuple import NamedTuple
from ..reasons import SourceProblem
from .events import Event
from .messages import parse_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from typing import IO, Callable

SOURCE = "journal"
PROGRAM = "journalctl"
MISSING = 127
"""Exit status of a program that could not be started, as in a shell."""
LONGEST_LINE = 1 << 16
"""Bytes of one entry; with the few fields that are asked for, an entry has about 600."""
_FIELDS = "MESSAGE,SYSLOG_FACILITY,_SOURCE_MONOTONIC_TIMESTAMP,_HOSTNAME,_TRANSPORT"
# SD_MESSAGE_JOURNAL_MISSED: "Missed N kernel messages", written by journald itself.
_MISSED = "e9bf28e6e834481bb6f48f548ad13606"
# Only entries that may matter are parsed.
_NEEDLE = re.compile(rb"conntrack|_CONNTRACK|s suppress|Missed [0-9]+ kernel messages")
_NOTICE = re.compile(r"Missed (?P<number>[0-9]{1,18}) kernel messages")
_DRIVER = re.compile(rb'"_TRANSPORT" ?: ?"driver"')
_MICROSECONDS = re.compile(r"[0-9]{1,18}")
_BOOT = re.compile(r"[0-9a-f]{32}")
_SIGKILL = 9  # importing signal takes longer than it is worth


class Entry(NamedTuple):
    """One entry.

    time: when the kernel wrote it, in seconds since the epoch.
    monotonic: microseconds since boot by the kernel's own stamp.
    boot: boot id, 32 hexadecimal digits.
    facility: 0 for the kernel; a program that wrote to /dev/kmsg has another.
    text: None where it is no text, or longer than journalctl prints.
    transport: "kernel", or "driver" for journald's own notices.
    """

    time: float
    monotonic: int | None
    boot: str | None
    facility: int
    text: str | None
    transport: str | None = None


class Journal(NamedTuple):
    """The result of one call of journalctl.

    entries: entries of the kernel. oldest: time of the first of them, in seconds since the epoch.
    losses: the spans in which journald missed messages of the kernel. lost: how many.
    malformed: lines that are no JSON object of the journal.
    complete: False where the reading was stopped before the end.
    status: exit status; negative for a signal, MISSING where the program could not be started.
    stderr: the beginning of its standard error, one printable line.
    """

    events: tuple[Event, ...] = ()
    entries: int = 0
    oldest: float | None = None
    malformed: int = 0
    complete: bool = True
    status: int = 0
    stderr: str = ""
    losses: tuple[Span, ...] = ()
    lost: int = 0


def journal_arguments(
    since: float | None = None,
    *,
    until: float | None = None,
    boot: bool = False,
    newest: int | None = None,
    directory: str | None = None,
    program: str = PROGRAM,
) -> list[str]:
    """Return the arguments that ask for the kernel's entries as JSON lines, oldest first.

    ``since`` is in seconds since the epoch: journald files entries by the time it received them,
    which is never before they were written. ``until``: received by then, newest first. ``boot``:
    of this boot alone; otherwise of all boots, for which ``-k`` must not be used. ``newest``: at
    most so many entries. journald's notices of missed messages are included, but not where a
    number is asked for.
    """
    arguments = [program, "--no-pager", "--output=json", f"--output-fields={_FIELDS}"]
    if directory is not None:
        arguments.append(f"--directory={directory}")
    if since is not None:
        arguments.append(f"--since=@{max(0, int(since))}")
    if until is not None:
        # Without --reverse older ones count the newest from the end of the journal.
        arguments += [f"--until=@{max(0, int(until))}", "--reverse"]
    if newest is not None:
        arguments.append(f"--lines={newest}")
    arguments.append("--boot=0" if boot else "--boot=all")
    arguments.append("_TRANSPORT=kernel")
    if newest is None:
        arguments += ["+", "_TRANSPORT=driver", f"MESSAGE_ID={_MISSED}"]
    return arguments


def parse_entry(line: bytes) -> Entry:
    """Return the entry in one line of ``journalctl --output=json``.

    For messages older than journald, the journal's own time is when journald read them: they were
    written as much earlier as the kernel's stamp is before the journal's monotonic clock. Raises
    ValueError where the line is no such object.
    """
    import json

    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(fields, dict):
        raise ValueError("not an entry of the journal")
    received = _number(fields.get("__REALTIME_TIMESTAMP"))
    if received is None:
        raise ValueError("an entry without __REALTIME_TIMESTAMP")
    uptime = _number(fields.get("__MONOTONIC_TIMESTAMP"))
    stamp = _number(fields.get("_SOURCE_MONOTONIC_TIMESTAMP"))
    if uptime is not None and stamp is not None and stamp < uptime:
        received -= uptime - stamp
    facility = _number(fields.get("SYSLOG_FACILITY", "0"))
    boot = fields.get("_BOOT_ID")
    text = fields.get("MESSAGE")
    transport = fields.get("_TRANSPORT")
    return Entry(
        received / 1e6,
        stamp,
        boot if isinstance(boot, str) and _BOOT.fullmatch(boot) else None,
        facility if facility is not None else -1,
        text if isinstance(text, str) else None,
        transport if isinstance(transport, str) else None,
    )


def _number(value: object) -> int | None:
    if isinstance(value, str) and _MICROSECONDS.fullmatch(value):
        return int(value)
    return None


def entry_event(entry: Entry) -> Event | None:
    """Return the event that an entry reports, None where it is not the kernel's or no loss."""
    if entry.transport == "driver" or entry.facility != 0 or entry.text is None:
        return None
    message = parse_message(entry.text)
    if message is None:
        return None
    # Without the kernel's stamp the time is when journald received it.
    return Event(
        message.kind,
        message.times,
        entry.time,
        0.0 if entry.monotonic is not None else 1.0,
        entry.monotonic,
        entry.boot,
        message.netns,
        message.zone,
        None,
        SOURCE,
    )


class _Lines:
    """Joins lines from the pieces that a pipe yields, and counts what they hold."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.losses: list[Span] = []
        self.lost = 0
        self.entries = 0
        self.malformed = 0
        self.oldest: float | None = None
        self._rest = b""
        self._overlong = False
        self._before = b""

    def feed(self, data: bytes) -> None:
        lines = data.split(b"\n")
        if len(lines) > 1:
            if self._overlong:
                self._overlong = False
                self._rest = b""
            else:
                self._line(self._rest + lines[0])
            for line in lines[1:-1]:
                self._line(line)
            self._rest = b""
        if not self._overlong:
            self._rest += lines[-1]
            if len(self._rest) > LONGEST_LINE:
                # Too long for a message of the kernel.
                self._overlong = True
                self._rest = b""
                self.malformed += 1

    def end(self) -> None:
        if self._rest:
            self._line(self._rest)
            self._rest = b""

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        if not (line.startswith(b"{") and line.rstrip().endswith(b"}")):
            self.malformed += 1
            return
        before, self._before = self._before, line
        if self.oldest is not None and not _NEEDLE.search(line):
            self.entries += not _DRIVER.search(line)
            return
        try:
            entry = parse_entry(line)
        except ValueError:
            self.malformed += 1
            return
        if entry.transport == "driver":
            notice = _NOTICE.fullmatch(entry.text or "")
            if notice is not None:
                self.lost += int(notice["number"])
                self.losses.append(Span(_time(before, entry.time), entry.time))
            return
        self.entries += 1
        if self.oldest is None:
            self.oldest = entry.time
        event = entry_event(entry)
        if event is not None:
            self.events.append(event)


def _time(line: bytes, latest: float) -> float:
    """Return the time of an entry; ``latest`` where it has none, or a later one."""
    try:
        return min(parse_entry(line).time, latest)
    except ValueError:
        return latest


def read_journal(arguments: Sequence[str], stop: Callable[[], bool]) -> Journal:
    """Run journalctl and return the result.

    ``stop`` is called while waiting and reading; once it returns True the program is killed, and
    what was read until then counts. Memory is bounded by the number of events. Raises nothing:
    ``journal_problem`` tells from ``status``, ``stderr`` and ``malformed`` what went wrong.
    """
    import subprocess

    environment = {
        name: os.environ[name] for name in ("PATH", "TZ", "LD_LIBRARY_PATH") if name in os.environ
    }
    environment.update(
        LC_ALL="C", SYSTEMD_COLORS="0", SYSTEMD_PAGER="", SYSTEMD_LOG_TARGET="console"
    )
    try:
        process = subprocess.Popen(  # nosec B603 # noqa: S603 - an argument list, no shell
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Journal(status=MISSING, stderr=_printable(reason.encode()))
    lines = _Lines()
    stderr = b""
    complete = False
    try:
        stderr, complete = _drain(process, lines, stop)
    finally:
        status = _end(process, complete, stop)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if complete:
        lines.end()
    if status is None:
        complete, status = False, -9
    return Journal(
        tuple(lines.events),
        lines.entries,
        lines.oldest,
        lines.malformed,
        complete,
        status,
        _printable(stderr),
        tuple(lines.losses),
        lines.lost,
    )


def _drain(
    process: subprocess.Popen[bytes], lines: _Lines, stop: Callable[[], bool]
) -> tuple[bytes, bool]:
    """Read both pipes to their ends; return (beginning of standard error, whether complete)."""
    import select

    stderr = _Beginning()
    takers: dict[int, Callable[[bytes], None]] = {}
    poll = select.poll()
    for pipe, take in ((process.stdout, lines.feed), (process.stderr, stderr.feed)):
        descriptor = _descriptor(pipe)
        if descriptor is not None:
            takers[descriptor] = take
            poll.register(descriptor, select.POLLIN)
        elif pipe is not None:
            # An object in memory in place of a pipe: reading it never waits.
            take(pipe.read())
    while takers:
        if stop():
            return stderr.text, False
        for descriptor, _ in poll.poll(50):
            data = os.read(descriptor, 1 << 16)
            if data:
                takers[descriptor](data)
            else:
                poll.unregister(descriptor)
                del takers[descriptor]
    return stderr.text, not stop()


class _Beginning:
    """Keeps the beginning of a program's standard error."""

    def __init__(self) -> None:
        self.text = b""

    def feed(self, data: bytes) -> None:
        self.text += data[: 4096 - len(self.text)]


def _descriptor(pipe: IO[bytes] | None) -> int | None:
    if pipe is None:
        return None
    try:
        return pipe.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _end(process: subprocess.Popen[bytes], complete: bool, stop: Callable[[], bool]) -> int | None:
    """Return the exit status; kill a program that does not end, without waiting for long."""
    import contextlib
    import subprocess

    if complete:
        while not stop():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.05)
    # It leads a session of its own, so the programs it started are killed with it.
    with contextlib.suppress(OSError):
        os.killpg(process.pid, _SIGKILL)
    process.kill()
    # A process that hangs in the kernel (a disk that does not answer) is left to init.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    return None


def _printable(data: bytes) -> str:
    text = data.decode("ascii", "replace").strip()
    text = "".join(c if " " <= c <= "~" and c != "|" else " " for c in text)
    return " ".join(text.split())[:200]


def journal_problem(journal: Journal, *, probed: bool) -> SourceProblem | None:
    """Return why the result cannot be relied on, or None.

    ``probed``: it was asked without a window (``newest=1``), so that no entry at all means that
    entries cannot be read, and not that the kernel wrote none. A journal with entries is readable,
    whatever its standard error says.
    """
    if journal.status == MISSING:
        return SourceProblem(SOURCE, reasons.JOURNALCTL_MISSING, journal.stderr)
    if not journal.complete:
        return SourceProblem(SOURCE, reasons.TIMED_OUT)
    lowered = journal.stderr.lower()
    if "permission" in lowered or "not seeing messages" in lowered:
        if not journal.entries:
            return SourceProblem(SOURCE, reasons.JOURNAL_DENIED, journal.stderr)
    elif "no journal files" in lowered and not journal.entries:
        return SourceProblem(SOURCE, reasons.JOURNAL_NOT_FOUND)
    if journal.status != 0:
        detail = f": {journal.stderr}" if journal.stderr else ""
        return SourceProblem(SOURCE, reasons.JOURNALCTL_FAILED, f"status {journal.status}{detail}")
    if journal.malformed and not journal.entries:
        return SourceProblem(SOURCE, reasons.JOURNALCTL_TOO_OLD)
    if probed and not journal.entries:
        return SourceProblem(SOURCE, reasons.NO_KERNEL_LINES, journal.stderr)
    return None
