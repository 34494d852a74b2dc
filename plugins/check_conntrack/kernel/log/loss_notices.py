"""Find what a log itself says of lines that it lost.

- rsyslog: "imjournal: N messages lost due to rate-limiting (20000 allowed within 600 seconds)", and
  imklog the same, and on a central host what takes the lines of others (imudp, imptcp, and tcperver
  for imtcp). N is told when the interval is over; until then "imjournal from <gw:shop>: begin to
  drop messages due to rate-limiting" stands for it. imuxsock takes no lines of the kernel, so its
  notices say nothing of them, and neither does "Suppressed N messages from" of journald: it limits
  services alone.
- journald: "Missed N kernel messages". In the journal itself journal.py finds them.
- The kernel on a console: "** N printk messages dropped **".

A search for three more strings would take a fifth longer. So a large log is searched for them only
while it is written so fast that a rate limit may strike, and for WATCHED minutes after that; the
first bytes of a reading always, which is all that most runs have to read.
"""

from __future__ import annotations

import re

from ..coverage import Span
from ..namedtuple import NamedTuple
from .header import read_start
from .syslog import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import tzinfo

NEEDLES = (b"due to rate-limiting", b" kernel messages", b"printk messages dropped")
SMALL = 4 << 20
"""Bytes that are always searched."""
FAST = 2
"""Minutes within which a block of the search (256 KiB) is written where a rate limit may strike:
rsyslog allows 33 lines a second."""
WATCHED = 15
"""Minutes; rsyslog tells what it lost when its interval of 10 minutes is over."""
MOST_LOSSES = 1000
RATE_INTERVAL = 600.0
"""Seconds; rsyslog's default, where an old one does not name it."""
_DAY = 1440
_CLOCK = re.compile(rb"(?<![0-9])([01][0-9]|2[0-3]):([0-5][0-9]):[0-5][0-9]")
_CLOCK_WITHIN = 64  # bytes of a line
_LIMITED = re.compile(
    r"\b(?:im(?:journal|klog|udp|ptcp)|tcps?erver)(?:\[[0-9]{1,5}\])?(?: from <[^>]{0,300}>)?: "
    r"(?:(?P<begun>begin to drop)|(?P<number>[0-9]{1,10})) messages (?:lost )?due to rate-limiting"
    r"(?: \([0-9]{1,10} allowed within (?P<seconds>[0-9]{1,6}) seconds\))?\s*\Z"
)
_MISSED = re.compile(r": Missed (?P<number>[0-9]{1,10}) kernel messages\s*\Z")
_DROPPED = re.compile(r"\*\* ?(?P<number>[0-9]{1,10}) printk messages dropped ?\*\*")
# RHEL 7 calls them rsyslogd-2177 and systemd-journal.
_PROGRAMS = (
    (re.compile(r"rsyslogd(?:-[0-9]{1,5})?\Z"), _LIMITED),
    (re.compile(r"(?:systemd-)?journald?\Z"), _MISSED),
    (re.compile(r"kernel\Z"), _DROPPED),
)


class Loss(NamedTuple):
    """Lines that a log says it lost.

    span: when. number: how many, at least. begun: it may go on, to the end of the span at most.
    """

    span: Span
    number: int
    begun: bool = False


class LossWatch:
    """Tells which blocks of one reading are searched for notices."""

    def __init__(self) -> None:
        self._minute: int | None = None
        self._fast: int | None = None

    def wants(self, read: int, last_line: bytes) -> bool:
        """Return whether a block is to be searched.

        read: bytes up to its end. last_line: the beginning of its last line. Where lines have no
        clock, how fast they come is not known.
        """
        match = _CLOCK.search(last_line, 0, _CLOCK_WITHIN)
        minute = 60 * int(match[1]) + int(match[2]) if match else None
        before, self._minute = self._minute, minute
        if read <= SMALL or minute is None or before is None:
            return True
        if (minute - before) % _DAY <= FAST:
            self._fast = minute
            return True
        return self._fast is not None and (before - self._fast) % _DAY <= WATCHED


def with_loss(losses: list[Loss], loss: Loss) -> list[Loss]:
    """Return the losses with another one; one that had begun is over where it tells how many."""
    if losses and losses[-1].begun and loss.span.start <= losses[-1].span.start <= loss.span.end:
        losses = losses[:-1]
    return [*losses, loss] if len(losses) < MOST_LOSSES else losses


def parse_loss(text: str, before: str, reference: float, zone: tzinfo | None = None) -> Loss | None:
    """Return the loss that a line tells of; None for other lines, and where its time is unknown.

    before: the line before it. reference, zone: as for syslog.parse_time.
    """
    header = read_start(clean(text[:512]), reference, zone)
    end = header.stamp.time
    program = header.program or ""
    pattern = next((notice for name, notice in _PROGRAMS if name.match(program)), None)
    match = pattern.search(text) if pattern else None
    if match is None or end is None:
        return None
    if pattern is _LIMITED and match["begun"]:
        return Loss(Span(end, end + RATE_INTERVAL), 1, begun=True)
    if pattern is _LIMITED:
        start = end - float(match["seconds"] or RATE_INTERVAL)
    else:
        earlier = read_start(clean(before[:512]), reference, zone).stamp.time
        start = end if earlier is None else min(earlier, end)
    return Loss(Span(start, end), int(match["number"]))
