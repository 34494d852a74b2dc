"""What the user may be warned of: labels, ranges, and when a value lies outside one.

The range syntax is that of the IETF draft "The Monitoring Plugins Interface", section "Ranges",
and nothing looser. A bound may carry a unit that fits its label.
"""

from __future__ import annotations

import re

from nagiosplugin import (
    Context,
    Critical,
    Metric,
    Ok,
    Performance,
    Range,
    Resource,
    Result,
    Warn,
)

from .kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nagiosplugin.state import ServiceState


INFINITY = float("inf")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# Fifteen digits are what a double holds exactly; re.ASCII keeps other scripts' digits out.
_NUMBER = r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?"
_RANGE = re.compile(rf"(@)?(?:(~|{_NUMBER}[%smhd]?):)?({_NUMBER}[%smhd]?)?", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd]?)", re.ASCII)
_MOST_DECIMALS = 9
_ALL_DECIMALS = 17  # what tells a double from its neighbours


class ThresholdError(ValueError):
    """A threshold that cannot be understood, or that could never fire; the text says which."""


class Label(NamedTuple):
    """One performance-data label: a name that users rely on, and how its value is judged.

    `share_of` names what `%` means for a label that counts entries: "entries" or "limit".
    `minimum` is the least value it can have, None where it may be negative.
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

    @property
    def units(self) -> str:
        """The units a bound may carry, as characters."""
        if self.unit == "s":
            return "smhd"
        return "%" if self.unit == "%" or self.share_of else ""


class Bounds(NamedTuple):
    """A range as the user meant it: in the label's base unit, or as shares in percent."""

    text: str
    start: float
    end: float
    inverted: bool
    share: bool

    @property
    def scaleless(self) -> bool:
        """Whether it means the same as a share and as a figure: nothing, and the infinite, do."""
        return {self.start, self.end} <= {0.0, INFINITY, -INFINITY}

    def alerts(self, minimum: int | None) -> list[tuple[float, bool, float, bool]]:
        """The values that alert, as intervals (low, low is in, high, high is in)."""
        start = self.start
        if minimum is not None and start <= minimum:
            start = -INFINITY  # nothing lies below the minimum
        if self.inverted:
            return [(start, True, self.end, True)]
        below = [(-INFINITY, True, start, False)] if start > -INFINITY else []
        above = [(self.end, False, INFINITY, True)] if self.end < INFINITY else []
        return below + above


class Limits(NamedTuple):
    """The two ranges that hold for a label; None never fires."""

    warning: Bounds | None
    critical: Bounds | None


class Thresholds(NamedTuple):
    """The ranges of every label, and which labels the user named."""

    of: Mapping[str, Limits]
    given: frozenset[str]


def plain(value: float, decimals: int = _MOST_DECIMALS) -> str:
    """A number as perfdata takes it: digits and a point, no exponent, no needless zeros."""
    text = f"{value:.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def duration(text: str) -> float:
    """Seconds from `90`, `90s`, `15m`, `4h` or `30d`.

    Raises ThresholdError for anything else.
    """
    match = _DURATION.fullmatch(text)
    if not match:
        raise ThresholdError(f"{text!r} is no duration: give a number and s, m, h or d, as in 15m")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def parse_bounds(text: str, label: Label) -> Bounds:
    """The range that `text` spells for `label`.

    Raises ThresholdError where it is malformed, reversed, or carries a unit that does not fit.
    """
    match = _RANGE.fullmatch(text)
    if not match or (match[2] is None and match[3] is None):
        # What a shell makes of ~ is the path of a home.
        quote = "; put ~ in quotes, a shell has replaced it" if text[:1] == "/" else ""
        raise ThresholdError(
            f"{text!r} is no range for {label.name}: write 10, 10:, ~:10, 10:20 or @10:20{quote}"
        )
    start, start_is_share = _bound(match[2], label, 0.0)
    end, end_is_share = _bound(match[3], label, INFINITY)
    shares = {is_share for is_share in (start_is_share, end_is_share) if is_share is not None}
    if len(shares) > 1:
        raise ThresholdError(f"{text!r} for {label.name}: both bounds must have the same unit")
    if start > end:
        raise ThresholdError(
            f"{text!r} for {label.name} is reversed: {match[2] or 0} is above {match[3]}"
        )
    return Bounds(text, start, end, bool(match[1]), True in shares)


def _bound(text: str | None, label: Label, absent: float) -> tuple[float, bool | None]:
    """A bound's value in the base unit, and whether it is a share (None: it fits either)."""
    if text is None:
        return absent, None
    if text == "~":
        return -INFINITY, None
    unit = text[-1] if text[-1] in "%smhd" else ""
    if unit and unit not in label.units:
        takes = " or ".join(label.units) or "no unit"
        raise ThresholdError(f"{text!r}: {label.name} takes {takes}")
    value = float(text[: len(text) - len(unit)])
    if label.unit == "s":
        return value * _SECONDS[unit or "s"], False
    if value == 0:
        return value, None
    return value, bool(unit and label.share_of)


def _never_fires(warning: Bounds, critical: Bounds, label: Label) -> bool:
    """Whether all that alerts as a warning is critical already (equal ranges are fine)."""
    if warning.share != critical.share and not (warning.scaleless or critical.scaleless):
        return False
    inner, outer = warning.alerts(label.minimum), critical.alerts(label.minimum)
    return inner not in ([], outer) and all(any(_within(a, b) for b in outer) for a in inner)


def _within(inner: tuple[float, bool, float, bool], outer: tuple[float, bool, float, bool]) -> bool:
    low, low_in, high, high_in = inner
    outer_low, outer_low_in, outer_high, outer_high_in = outer
    return (low > outer_low or (low == outer_low and (outer_low_in or not low_in))) and (
        high < outer_high or (high == outer_high and (outer_high_in or not high_in))
    )


def parse_thresholds(
    labels: Iterable[Label], warnings: Iterable[str], criticals: Iterable[str]
) -> Thresholds:
    """What `-w` and `-c` mean for the labels of a check; the first label is its main metric.

    Raises ThresholdError for an unknown label, a malformed range, and a warning that could never
    fire beside its critical range. A default warning gives way to a tighter critical.
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
                    f"warning {warn.text!r} of {name} can never fire: "
                    f"it lies beyond the {default}critical {crit.text!r}"
                )
            warn = None
        of[name] = Limits(warn, crit)
    return Thresholds(of, frozenset(warning) | frozenset(critical))


def _default(label: Label, text: str) -> Bounds | None:
    return parse_bounds(text, label) if text else None


def _by_label(known: Mapping[str, Label], specs: Iterable[str]) -> dict[str, Bounds]:
    found = {}
    main = next(iter(known))
    for spec in specs:
        name, equals, text = spec.rpartition("=")
        if not equals:
            name = main
        if name not in known:
            shown = name if len(name) <= 32 else name[:29] + "..."
            raise ThresholdError(f"unknown label {shown!r}: known are {', '.join(known)}")
        found[name] = parse_bounds(text, known[name])
    return found


class LabelContext(Context):
    """Judges a label's metrics, and prints each so that what is read is what was judged.

    A quiet one judges and prints nothing: for namespaces that are not graphed.

    A metric's `max` is the whole that a share bound of `entries` speaks of; other labels ask the
    resource (`whole`), which returns None where there is none and the bound cannot fire.
    """

    def __init__(self, label: Label, limits: Limits, *, quiet: bool = False) -> None:
        super().__init__(("quiet " if quiet else "") + label.name)
        self.quiet = quiet
        self.label = label
        self.limits = limits

    def evaluate(self, metric: Metric, resource: Resource) -> Result:
        """The state of a metric, with the range it violates as the hint."""
        for state, bounds in ((Critical, self.limits.critical), (Warn, self.limits.warning)):
            resolved = self._resolve(bounds, metric, resource)
            if bounds and resolved and not Range(resolved).match(metric.value):
                return Result(state, bounds.text, metric)
        return Result(Ok, None, metric)

    def performance(self, metric: Metric, resource: Resource) -> Performance | None:
        """The metric as perfdata, thresholds as absolute numbers."""
        if self.quiet:
            return None
        warning, critical = self._ranges(metric, resource)
        return Performance(
            metric.name,
            self.settle(metric, warning, critical),
            self.label.unit,
            warning or "",
            critical or "",
            metric.min,
            None if metric.max is None else plain(metric.max),
        )

    def show(self, metric: Metric, resource: Resource) -> str:
        """The metric's value with its unit, for a sentence."""
        return self.settle(metric, *self._ranges(metric, resource)) + self.label.unit

    def outside(self, state: ServiceState, value: float) -> bool:
        """Whether a value would have had this state, or a worse one; not for share bounds."""
        ranges = [self.limits.critical] + ([self.limits.warning] if state is Warn else [])
        return any(
            not Range(resolved).match(value)
            for bounds in ranges
            if bounds and not bounds.share and (resolved := _spelled(bounds, 1.0))
        )

    def too_low(self, result: Result) -> bool:
        """Whether a higher value than that of this result, which is not OK, would have been OK."""
        bounds = self.limits.critical if result.state is Critical else self.limits.warning
        span = Range(self._resolve(bounds, result.metric, result.metric.resource) or "")
        if span.invert:
            least = self.label.minimum
            return span.start <= (-INFINITY if least is None else least)
        return bool(result.metric.value < span.start)

    def _ranges(self, metric: Metric, resource: Resource) -> tuple[str | None, str | None]:
        return (
            self._resolve(self.limits.warning, metric, resource),
            self._resolve(self.limits.critical, metric, resource),
        )

    def settle(self, metric: Metric, warning: str | None, critical: str | None) -> str:
        """The value with the label's decimals, or as many more as its verdict needs.

        89.96 of a range up to 90 must not be printed as 90.0 where 90.0 gets another verdict, and
        nothing below its maximum is printed as the maximum.
        """
        ranges = [Range(text) for text in (warning, critical) if text]
        if metric.max is not None and self.label.unit == "%":
            ranges += [Range(f"~:{plain(metric.max)}"), Range(f"{plain(metric.max)}:")]
        text = ""
        for decimals in range(self.label.decimals, _ALL_DECIMALS + 1):
            text = f"{metric.value:.{decimals}f}"
            if all(span.match(float(text)) == span.match(metric.value) for span in ranges):
                break
        return text if text.strip("-0.") else text.lstrip("-")

    def _resolve(self, bounds: Bounds | None, metric: Metric, resource: Resource) -> str | None:
        """The range in the draft's syntax and the base unit; None where it cannot be told."""
        if bounds is None:
            return None
        factor = 1.0
        if bounds.share:
            whole = metric.max if self.label.share_of == "limit" else _whole(resource)
            if not whole:
                return None
            factor = whole / 100
        return _spelled(bounds, factor)


class StateContext(Context):
    """Judges what is no figure and has a state all the same; its value says what it is about."""

    def __init__(self, name: str, state: ServiceState) -> None:
        super().__init__(name)
        self.state = state

    def evaluate(self, metric: Metric, resource: Resource) -> Result:
        """The state, with the metric's value as the hint."""
        return Result(self.state, str(metric.value), metric)


def _spelled(bounds: Bounds, factor: float) -> str:
    """A range in the draft's syntax."""
    at = "@" if bounds.inverted else ""
    start = "~:" if bounds.start == -INFINITY else f"{plain(bounds.start * factor)}:"
    end = "" if bounds.end == INFINITY else plain(bounds.end * factor)
    return at + ("" if start == "0:" and end else start) + end


def _whole(resource: Resource) -> float | None:
    whole: float | None = getattr(resource, "whole", None)
    return whole
