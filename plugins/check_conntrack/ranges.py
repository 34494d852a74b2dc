"""Labels, the ranges that the user gives for them, and durations: parsing only.

The range syntax is that of the IETF draft "The Monitoring Plugins Interface", section "Ranges",
and nothing looser. A bound may carry a unit that fits its label.
"""

from __future__ import annotations

import re

from .kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


INFINITY = float("inf")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# A double holds fifteen digits exactly; re.ASCII keeps out the digits of other scripts.
_NUMBER = r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?"
_RANGE = re.compile(rf"(@)?(?:(~|{_NUMBER}[%smhd]?):)?({_NUMBER}[%smhd]?)?", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd]?)", re.ASCII)
_MOST_DECIMALS = 9


class ThresholdError(ValueError):
    """A threshold that is malformed or could never fire; the text says why."""


class Label(NamedTuple):
    """A performance-data label: a name that users rely on, and how its value is evaluated.

    name: as printed, without the prefix of a namespace.
    meaning: for the help page.
    unit: as printed after the value: "%", "s", "c" or none.
    decimals: printed at least; more where the verdict needs them.
    minimum: the least value it can have; None where it may be negative.
    share_of: for a label that counts entries, the base of `%`: "entries" or "limit".
    warning, critical: default ranges; none where empty.
    needs_history: whether the value comes from what earlier runs have recorded.
    when_known: whether the label is absent in runs that could read everything, because what it
    tells is not known yet or not in sight.
    """

    name: str
    meaning: str
    unit: str = ""
    decimals: int = 0
    minimum: int | None = 0
    share_of: str = ""
    warning: str = ""
    critical: str = ""
    needs_history: bool = False
    when_known: bool = False

    @property
    def units(self) -> str:
        """Return the units that a bound may carry, one character each."""
        if self.unit == "s":
            return "smhd"
        return "%" if self.unit == "%" or self.share_of else ""


class Interval(NamedTuple):
    """An interval of values, and whether its ends belong to it."""

    low: float
    has_low: bool
    high: float
    has_high: bool

    def is_within(self, other: Interval) -> bool:
        """Return whether each of its values is one of the other's."""
        above = self.low > other.low or (
            self.low == other.low and (other.has_low or not self.has_low)
        )
        below = self.high < other.high or (
            self.high == other.high and (other.has_high or not self.has_high)
        )
        return above and below


class AlertRange(NamedTuple):
    """A parsed range.

    text: as the user wrote it.
    start, end: in the label's base unit, or in percent where `share` is set.
    inverted: whether values inside alert (@).
    share: whether the bounds are shares of the label's base.
    """

    text: str
    start: float
    end: float
    inverted: bool
    share: bool

    @property
    def scaleless(self) -> bool:
        """Return whether it means the same as a share and as a number: 0 and infinity do."""
        return {self.start, self.end} <= {0.0, INFINITY, -INFINITY}

    def alerts(self, minimum: int | None) -> list[Interval]:
        """Return the values that alert; minimum: the least that there can be, None for any."""
        start = self.start
        if minimum is not None and start <= minimum:
            start = -INFINITY  # no value is below the minimum
        if self.inverted:
            return [Interval(start, True, self.end, True)]
        below = [Interval(-INFINITY, True, start, False)] if start > -INFINITY else []
        above = [Interval(self.end, False, INFINITY, True)] if self.end < INFINITY else []
        return below + above

    def spell(self, factor: float = 1.0) -> str:
        """Return the range in the draft's syntax, its bounds multiplied by `factor`."""
        at = "@" if self.inverted else ""
        start = "~:" if self.start == -INFINITY else f"{plain(self.start * factor)}:"
        end = "" if self.end == INFINITY else plain(self.end * factor)
        return at + ("" if start == "0:" and end else start) + end


class LabelThresholds(NamedTuple):
    """The two ranges of a label; None never fires."""

    warning: AlertRange | None
    critical: AlertRange | None


class Thresholds(NamedTuple):
    """The ranges of all labels by name, and the names of the labels that the user gave one for."""

    of: Mapping[str, LabelThresholds]
    given: frozenset[str]

    def can_alert(self, label: Label) -> bool:
        """Return whether any value of a label can alert."""
        return any(each.alerts(label.minimum) for each in self.of[label.name] if each)


def plain(value: float, decimals: int = _MOST_DECIMALS) -> str:
    """Return a number in the form that perfdata requires: no exponent, no trailing zeros."""
    text = f"{value:.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def parse_duration(text: str) -> float:
    """Return the seconds of `90`, `90s`, `15m`, `4h` or `30d`; raises ThresholdError."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ThresholdError(f"invalid duration {text!r} (a number and s, m, h or d, as in 15m)")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def parse_range(text: str, label: Label) -> AlertRange:
    """Return the range that `text` means for `label`.

    Raises ThresholdError if it is malformed, reversed, or has a unit that the label does not take.
    """
    match = _RANGE.fullmatch(text)
    if not match or (match[2] is None and match[3] is None):
        # A shell replaces an unquoted ~ by the path of a home directory.
        quote = "; quote the ~, the shell has replaced it" if text[:1] == "/" else ""
        raise ThresholdError(
            f"invalid range {text!r} for {label.name} (write 10, 10:, ~:10, 10:20 or @10:20{quote})"
        )
    start, start_is_share = _bound(match[2], label, 0.0)
    end, end_is_share = _bound(match[3], label, INFINITY)
    shares = {is_share for is_share in (start_is_share, end_is_share) if is_share is not None}
    if len(shares) > 1:
        raise ThresholdError(
            f"invalid range {text!r} for {label.name}: its bounds must have the same unit"
        )
    if start > end:
        raise ThresholdError(
            f"invalid range {text!r} for {label.name}: {match[2] or 0} is greater than {match[3]}"
        )
    return AlertRange(text, start, end, bool(match[1]), True in shares)


def _bound(text: str | None, label: Label, absent: float) -> tuple[float, bool | None]:
    """Return a bound in the base unit, and whether it is a share (None: it may be either)."""
    if text is None:
        return absent, None
    if text == "~":
        return -INFINITY, None
    unit = text[-1] if text[-1] in "%smhd" else ""
    if unit and unit not in label.units:
        takes = " or ".join(label.units) or "no unit"
        raise ThresholdError(f"invalid unit in {text!r}: {label.name} takes {takes}")
    value = float(text[: len(text) - len(unit)])
    if label.unit == "s":
        return value * _SECONDS[unit or "s"], False
    if value == 0:
        return value, None
    return value, bool(unit and label.share_of)


def _never_fires(warning: AlertRange, critical: AlertRange, label: Label) -> bool:
    """Return whether every warning would be critical already (equal ranges are fine)."""
    if warning.share != critical.share and not (warning.scaleless or critical.scaleless):
        return False
    inner, outer = warning.alerts(label.minimum), critical.alerts(label.minimum)
    return inner not in ([], outer) and all(any(a.is_within(b) for b in outer) for a in inner)


def parse_thresholds(
    labels: Iterable[Label], warnings: Iterable[str], criticals: Iterable[str]
) -> Thresholds:
    """Return the ranges that `-w`, `-c` and the defaults give each label of a check.

    The first label is the main metric. Raises ThresholdError for an unknown label, a malformed
    range, and a warning range that its critical range covers. A default warning range that a given
    critical range covers is dropped.
    """
    known = {label.name: label for label in labels}
    warning = _by_label(known, warnings)
    critical = _by_label(known, criticals)
    of = {}
    for name, label in known.items():
        warn = warning.get(name) or _default(label, label.warning)
        crit = critical.get(name) or _default(label, label.critical)
        if warn and crit and _never_fires(warn, crit, label):
            if name in warning:
                default = "" if name in critical else "default "
                raise ThresholdError(
                    f"warning range {warn.text!r} of {name} can never fire: "
                    f"the {default}critical range {crit.text!r} covers it"
                )
            warn = None
        of[name] = LabelThresholds(warn, crit)
    return Thresholds(of, frozenset(warning) | frozenset(critical))


def _default(label: Label, text: str) -> AlertRange | None:
    return parse_range(text, label) if text else None


def _by_label(known: Mapping[str, Label], specs: Iterable[str]) -> dict[str, AlertRange]:
    ranges = {}
    main = next(iter(known))
    for spec in specs:
        name, equals, text = spec.rpartition("=")
        if not equals:
            name = main
        if name not in known:
            shown = name if len(name) <= 32 else name[:29] + "..."
            raise ThresholdError(f"unknown label {shown!r} (known: {', '.join(known)})")
        ranges[name] = parse_range(text, known[name])
    return ranges
