"""The journal, by journalctl: its argument list, its JSON lines, and what its silence means.

Follows journalctl(1), systemd.journal-fields(7) and systemd's Journal Export Formats.
"""

from __future__ import annotations

import os
import re
import time

from .. import reasons
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
"""Status of a program that could not be started, as a shell has it."""
LONGEST_LINE = 1 << 16
"""Bytes of one entry; with the few fields asked for, an entry of the kernel has 600."""
_FIELDS = "MESSAGE,SYSLOG_FACILITY,_SOURCE_MONOTONIC_TIMESTAMP,_HOSTNAME"
# Only entries that may matter are unpacked.
_NEEDLE = re.compile(rb"conntrack|s suppressed")
_MICROSECONDS = re.compile(r"[0-9]{1,18}")
_BOOT = re.compile(r"[0-9a-f]{32}")
_SIGKILL = 9  # importing signal takes longer than it is worth


class Entry(NamedTuple):
    """One entry of the kernel's transport."""

    time: float
    """When it happened, in seconds since the epoch."""
    monotonic: int | None
    """Microseconds since boot by the kernel's own stamp."""
    boot: str | None
    """Boot id, 32 hexadecimal digits."""
    facility: int
    """0 for the kernel; a program that wrote to /dev/kmsg has another."""
    text: str | None
    """None where it is no text, or longer than journalctl shows."""


class Journal(NamedTuple):
    """What one call of journalctl has shown."""

    events: tuple[Event, ...] = ()
    entries: int = 0
    oldest: float | None = None
    """Time of the first entry, in seconds since the epoch."""
    malformed: int = 0
    """Lines that are no JSON object of the journal."""
    complete: bool = True
    """False when the reading was stopped before the end."""
    status: int = 0
    """Exit status; negative for a signal, MISSING where the program could not be started."""
    said: str = ""
    """The beginning of its standard error, one printable line."""


def journal_arguments(
    since: float | None = None,
    *,
    until: float | None = None,
    boot: bool = False,
    newest: int | None = None,
    directory: str | None = None,
    program: str = PROGRAM,
) -> list[str]:
    """Return the argument list that asks for the kernel's entries as JSON lines, oldest first.

    ``since`` in seconds since the epoch: entries are filed by the time they were received, which
    is never before they happened. ``until``: received by then, newest first. ``boot``: this boot
    alone. ``newest``: so many at most.
    Without ``boot`` all boots are asked for: it is ``-k`` that would mean the latest alone.
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
    return arguments


def parse_entry(line: bytes) -> Entry:
    """Return the entry in one line of ``journalctl --output=json``.

    For what was in the ring before journald started, the journal's own time is when it was read:
    the event was as much before as the kernel's stamp is before the journal's monotonic clock.
    Raises ValueError when the line is no such object.
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
    seen = _number(fields.get("__MONOTONIC_TIMESTAMP"))
    stamp = _number(fields.get("_SOURCE_MONOTONIC_TIMESTAMP"))
    if seen is not None and stamp is not None and stamp < seen:
        received -= seen - stamp
    facility = _number(fields.get("SYSLOG_FACILITY", "0"))
    boot = fields.get("_BOOT_ID")
    text = fields.get("MESSAGE")
    return Entry(
        received / 1e6,
        stamp,
        boot if isinstance(boot, str) and _BOOT.fullmatch(boot) else None,
        facility if facility is not None else -1,
        text if isinstance(text, str) else None,
    )


def _number(value: object) -> int | None:
    if isinstance(value, str) and _MICROSECONDS.fullmatch(value):
        return int(value)
    return None


def entry_event(entry: Entry) -> Event | None:
    """Return the event an entry reports, None when it is not the kernel's or no loss."""
    if entry.facility != 0 or entry.text is None:
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
    """Puts lines together from what a pipe gives, and counts what they hold."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.entries = 0
        self.malformed = 0
        self.oldest: float | None = None
        self._rest = b""
        self._overlong = False

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
                # Too long for a message of the kernel, whatever it is.
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
        if self.oldest is not None and not _NEEDLE.search(line):
            self.entries += 1
            return
        try:
            entry = parse_entry(line)
        except ValueError:
            self.malformed += 1
            return
        self.entries += 1
        if self.oldest is None:
            self.oldest = entry.time
        event = entry_event(entry)
        if event is not None:
            self.events.append(event)


def read_journal(arguments: Sequence[str], stop: Callable[[], bool]) -> Journal:
    """Run journalctl and return what it has shown.

    ``stop`` is asked while waiting and reading; once it says True the program is killed, and what
    came until then counts. Memory is bounded by the number of events. Raises nothing: what went
    wrong stands in ``status``, ``said`` and ``malformed``, and ``journal_problem`` says it.
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
        return Journal(status=MISSING, said=_printable(reason.encode()))
    lines = _Lines()
    said = b""
    complete = False
    try:
        said, complete = _drain(process, lines, stop)
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
        _printable(said),
    )


def _drain(
    process: subprocess.Popen[bytes], lines: _Lines, stop: Callable[[], bool]
) -> tuple[bytes, bool]:
    """Read both pipes to their ends; return (beginning of standard error, whether at the end)."""
    import select

    said = _Said()
    takers: dict[int, Callable[[bytes], None]] = {}
    poll = select.poll()
    for pipe, take in ((process.stdout, lines.feed), (process.stderr, said.feed)):
        descriptor = _descriptor(pipe)
        if descriptor is not None:
            takers[descriptor] = take
            poll.register(descriptor, select.POLLIN)
        elif pipe is not None:
            # No pipe but something in memory: it does not keep one waiting.
            take(pipe.read())
    while takers:
        if stop():
            return said.text, False
        for descriptor, _ in poll.poll(50):
            data = os.read(descriptor, 1 << 16)
            if data:
                takers[descriptor](data)
            else:
                poll.unregister(descriptor)
                del takers[descriptor]
    return said.text, not stop()


class _Said:
    """The beginning of what a program says on its standard error."""

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
    """Return the exit status; a program that does not end is killed and not waited for long."""
    import contextlib
    import subprocess

    if complete:
        while not stop():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.05)
    # It leads a session of its own: what it has started goes with it, where it was not waited for.
    with contextlib.suppress(OSError):
        os.killpg(process.pid, _SIGKILL)
    process.kill()
    # What hangs in the kernel (a disk that does not answer) is left to init.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    return None


def _printable(said: bytes) -> str:
    text = said.decode("ascii", "replace").strip()
    text = "".join(c if " " <= c <= "~" and c != "|" else " " for c in text)
    return " ".join(text.split())[:200]


def journal_problem(journal: Journal, *, probed: bool) -> SourceProblem | None:
    """Return why what was read is not to be relied on, or None.

    ``probed``: it was asked without a window (``newest=1``), where no entry at all means that none
    can be seen, and not that all is quiet. A journal with entries is readable, whatever else it
    said.
    """
    if journal.status == MISSING:
        return SourceProblem(SOURCE, reasons.JOURNALCTL_MISSING, journal.said)
    if not journal.complete:
        return SourceProblem(SOURCE, reasons.TIMED_OUT)
    lowered = journal.said.lower()
    if "permission" in lowered or "not seeing messages" in lowered:
        if not journal.entries:
            return SourceProblem(SOURCE, reasons.JOURNAL_DENIED, journal.said)
    elif "no journal files" in lowered and not journal.entries:
        return SourceProblem(SOURCE, reasons.JOURNAL_NOT_FOUND)
    if journal.status != 0:
        said = f": {journal.said}" if journal.said else ""
        return SourceProblem(SOURCE, reasons.JOURNALCTL_FAILED, f"status {journal.status}{said}")
    if journal.malformed and not journal.entries:
        return SourceProblem(SOURCE, reasons.JOURNALCTL_TOO_OLD)
    if probed and not journal.entries:
        return SourceProblem(SOURCE, reasons.NO_KERNEL_LINES, journal.said)
    return None


def deadline(seconds: float) -> Callable[[], bool]:
    """Return a ``stop`` that says True from so many seconds on."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end
