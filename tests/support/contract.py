"""What every run of a check owes its reader, whatever it was asked (CONTRACT.md, section 1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from support import perfdata

if TYPE_CHECKING:
    from collections.abc import Sequence

STATES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
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

    @property
    def rest(self) -> str:
        """The long output."""
        return "\n".join(self.lines)
