"""A strict parser of performance data, by the IETF draft "The Monitoring Plugins Interface".

Stricter than any consumer: one space between items, digits and a point in numbers, every range a
range of the draft, no label twice. What it lets pass, every graphing tool can read.
"""

from __future__ import annotations

import re
from typing import NamedTuple

NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
_NUMBER = re.compile(NUMBER, re.ASCII)
_RANGE = re.compile(rf"@?(?:(?:~|{NUMBER}):(?:{NUMBER})?|{NUMBER})", re.ASCII)
_ITEM = re.compile(
    rf"(?:'(?P<quoted>[^'=|\x00-\x1f\x7f]+)'|(?P<bare>[^\s'=|]+))="
    rf"(?P<value>{NUMBER})(?P<unit>%|s|us|ms|c|B|KB|MB|GB|TB|)"
    r"(?:;(?P<warn>[^; ]*)(?:;(?P<crit>[^; ]*)(?:;(?P<min>[^; ]*)(?:;(?P<max>[^; ]*))?)?)?)?",
    re.ASCII,
)


class Item(NamedTuple):
    """One item: `text` is the value as printed, `spelled` all that follows the label."""

    label: str
    text: str
    unit: str
    warn: str
    crit: str
    min: float | None
    max: float | None
    spelled: str

    @property
    def value(self) -> float:
        return float(self.text)

    def alerts(self, text: str) -> bool:
        """Return whether the value alerts by a range of this item, as the draft has it."""
        if not text:
            return False
        start, colon, end = text.lstrip("@").rpartition(":")
        low = float("-inf") if start == "~" else float(start or 0) if colon else 0.0
        high = float(end) if end else float("inf")
        return (low <= self.value <= high) == text.startswith("@")


def _bound(text: str | None) -> float | None:
    if not text:
        return None
    assert _NUMBER.fullmatch(text), f"{text!r} is no number"
    return float(text)


def parse(text: str) -> dict[str, Item]:
    """The items by label, in their order; raises AssertionError where the grammar is broken."""
    items: dict[str, Item] = {}
    at = 0
    while True:
        match = _ITEM.match(text, at)
        assert match, f"no performance data: {text[at:]!r}"
        label = match["quoted"] or match["bare"]
        # Unquoted, some readers take a colon or a blank for their own.
        assert match["quoted"] or re.fullmatch(r"\w+", label, re.ASCII), f"{label} is not quoted"
        assert label not in items, f"{label} stands twice"
        for spelled in (match["warn"], match["crit"]):
            assert not spelled or _RANGE.fullmatch(spelled), f"{spelled!r} is no range"
        items[label] = Item(
            label,
            match["value"],
            match["unit"],
            match["warn"] or "",
            match["crit"] or "",
            _bound(match["min"]),
            _bound(match["max"]),
            match[0].partition("=")[2],
        )
        at = match.end()
        if at == len(text):
            return items
        assert text[at] == " ", f"rubbish after {match[0]!r}: {text[at:]!r}"
        at += 1
