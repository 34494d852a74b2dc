"""The contract of every run of a check (docs/design/contract.md, section 1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from support import perfdata

if TYPE_CHECKING:
    from collections.abc import Sequence

STATES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
# What Icinga Web changes in plain text, or takes for HTML or for a character reference.
REWRITTEN = re.compile(r"\\[nt]|<\w+(?:\s\w+=[^>]*)?>|&#?\w+;")
# Behind such a comma it puts an invisible blank. No command has one: it could not be pasted.
BROKEN = re.compile(r",(?=\S)")
_PRINTABLE = re.compile(r"[ -~]*")


class Run:
    """The answer of a check, held to the contract at once.

    `state` is the word on the status line, `text` what follows it, `lines` the long output.
    """

    def __init__(self, code: int, out: str, err: str, arguments: Sequence[str] = ()) -> None:
        self.code, self.out = code, out
        assert err == "", f"standard error: {err}"
        assert code in (0, 1, 2, 3), f"exit code {code}"
        assert out.endswith("\n"), f"no line: {out!r}"
        first, *self.lines = out[:-1].split("\n")
        for line in (first, *self.lines):
            assert _PRINTABLE.fullmatch(line), f"not printable ASCII: {line!r}"
        assert "|" not in "".join(self.lines)
        assert "Traceback" not in out
        for line in (first, *self.lines):
            assert not REWRITTEN.search(line), f"a web interface changes it: {line!r}"
        status, bar, data = first.partition(" | ")
        assert "|" not in status
        assert "|" not in data
        assert len(status) <= 160, status
        self.status = status
        match = re.fullmatch(
            r"CONNTRACK_(?:USAGE|FULL|TABLE) (OK|WARNING|CRITICAL|UNKNOWN) - (.+)", status
        )
        assert match, status
        self.state, self.text = match[1], match[2]
        if "--exit-ok" not in arguments:
            assert code == STATES.index(self.state), status
        self.data = perfdata.parse(data) if bar else {}
        if not any(argument.startswith(("-v", "--verb")) for argument in arguments):
            assert len(out) <= 4096
        self._judge_columns()
        alarms = [
            line for line in self.lines if re.match(r"(?:WARNING|CRITICAL): \w+ \S+ \(", line)
        ]
        assert len(alarms) <= 2, "Icinga Web hides what stands below the fourth line"
        if bar:
            self._judge_again()

    def _judge_again(self) -> None:
        """Nothing printed as perfdata may call for a worse state than the one above it."""
        items = self.data.values()
        if any(item.alerts(item.crit) for item in items):
            assert self.state == "CRITICAL", self.out
        elif any(item.alerts(item.warn) for item in items):
            assert self.state != "OK", self.out
        plain = ["::" in item.label for item in items]
        assert plain == sorted(plain), "namespaced labels come last"

    def _judge_columns(self) -> None:
        """A table can be read where several blanks are shown as one: a cell is a word."""
        columns = 0
        for line in self.lines:
            cells = re.split(r" {2,}", line.strip())
            if not line.startswith("  ") or len(cells) == 1:
                columns = 0
                assert not line.startswith("  ") or not BROKEN.search(line), line
            elif columns and all(re.fullmatch(r"-|.*[\d%].*", cell) for cell in cells[1:]):
                assert len(cells) == columns, f"an empty cell: {line!r}"
                assert not any(" " in cell for cell in cells[1:]), f"a cell of two words: {line!r}"
            else:
                columns = len(cells)

    def values(self, *labels: str) -> list[float | None]:
        """Return the values of labels; None where a label is absent."""
        return [self.data[each].value if each in self.data else None for each in labels]

    @property
    def rest(self) -> str:
        """The long output."""
        return "\n".join(self.lines)
