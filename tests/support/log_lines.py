"""One line of a log, as most tests look at it."""

from __future__ import annotations

from check_conntrack.kernel.log.syslog import LogLine, parse_messages


def parse_line(line: str, reference: float, zone=None) -> LogLine | None:
    """Return the one message of the line, None where it has none."""
    lines = parse_messages(line, reference, zone)
    assert len(lines) < 2
    return lines[0] if lines else None
