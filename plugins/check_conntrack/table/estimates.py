"""Margins of estimated figures, and thresholds that lie within them.

Where a sample was read, an alarm needs a figure that violates its threshold with its margin:
everything within the margin has to violate it. Otherwise the state is that of the thresholds that
are certain, and a note names the one that is not.
"""

from __future__ import annotations

import math

from nagiosplugin import Critical, Ok, Range, Result, Warn

from .. import nagios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nagiosplugin import Context, Metric, Resource
    from nagiosplugin.state import ServiceState

    from ..ranges import AlertRange, Label, LabelThresholds, Thresholds
    from .report import NamespaceReport

_CONFIDENCE = 1.96  # standard deviations: 95% of samples lie within the margin
_SHARES = ("top_source_share", "top_destination_share", "top_service_share", "top_zone_share")


def margins(report: NamespaceReport) -> dict[str, float]:
    """Return how far each figure may be off, in its label's unit; none for exact figures.

    The half-width of the 95% interval for a draw of n of N entries without replacement.
    """
    table, figures = report.table, report.figures
    if table is None or figures is None or table.total is None:
        return {}
    read, total, kept = table.tally.read, table.total, table.tally.kept
    missing = math.sqrt(max(total - read, 0) / max(total - 1, 1))

    def of_count(count: float) -> float:
        return total * missing * _half_width(count / total, read)

    found = {
        name: of_count(value)
        for name, value in zip(figures._fields, figures)
        if isinstance(value, int) and name not in ("entries", "snat_ports")
    }
    found.update(
        (name, 100 * missing * _half_width(getattr(figures, name) / 100, kept)) for name in _SHARES
    )
    found["stale"] = of_count(sum(one.entries for one in report.stale))
    if kept < read:
        found["entries"] = of_count(figures.entries)
    if report.limits and report.limits.limit:
        found["protected_usage"] = 100 * found["protected"] / report.limits.limit
    if figures.snat_ports:
        ports = of_count(figures.snat_ports)
        found["snat_port_usage"] = figures.snat_port_usage * ports / figures.snat_ports
    return {report.prefix + name: margin for name, margin in found.items()}


def _half_width(share: float, sample: int) -> float:
    """Return the half-width of the 95% interval of a share (0 to 1) seen in a sample."""
    if not sample:
        return 1.0
    share = min(max(share, 0.0), 1.0)
    # What was not seen at all, or seen without exception, may differ by up to 3 in `sample`.
    return max(_CONFIDENCE * math.sqrt(share * (1 - share) / sample), min(3 / sample, 1.0))


class EstimateContext(nagios.LabelContext):
    """A label's context that raises an alarm only where the figure's margin leaves no doubt."""

    def __init__(
        self, label: Label, thresholds: LabelThresholds, *, hidden: bool, given: bool
    ) -> None:
        """Take also whether the user gave a threshold."""
        super().__init__(label, thresholds, hidden=hidden)
        self.given = given

    def evaluate(self, metric: Metric, resource: Resource) -> Result:
        """Return the worst state that is certain, with the range that is violated as the hint."""
        margin = _margin_of(metric, resource)
        if not margin:
            return super().evaluate(metric, resource)
        for state, threshold in self._by_severity():
            spelled = self._spell(threshold, metric, resource)
            if threshold and spelled and _violates(spelled, metric.value, margin):
                return Result(state, threshold.text, metric)
        return Result(Ok, None, metric)

    def doubts(self, metric: Metric, resource: Resource) -> str:
        """Return a sentence where a threshold lies within the margin; empty where none does.

        Of a default threshold nothing is said where the sample shows nothing: it would be said of
        every sample.
        """
        if not self.given and not metric.value:
            return ""
        margin = _margin_of(metric, resource)
        for _, threshold in self._by_severity():
            spelled = self._spell(threshold, metric, resource)
            if margin and threshold and spelled and _is_doubtful(spelled, metric.value, margin):
                return (
                    f"{metric.name} {self.print_value(metric, resource)} +-"
                    f"{max(margin, 10**-self.label.decimals):.{self.label.decimals}f}"
                    f"{self.label.unit} may or may not violate the threshold {threshold.text}"
                )
        return ""

    def _by_severity(self) -> tuple[tuple[ServiceState, AlertRange | None], ...]:
        return (Critical, self.thresholds.critical), (Warn, self.thresholds.warning)

    def _ranges(self, metric: Metric, resource: Resource) -> tuple[str | None, str | None]:
        """Return the ranges for the perfdata, without one that is violated with no certainty.

        Whoever evaluates the perfdata must not find a worse state than the one that is printed.
        """
        warning, critical = super()._ranges(metric, resource)
        margin = _margin_of(metric, resource)
        if not margin:
            return warning, critical

        def kept(spelled: str | None) -> str | None:
            doubtful = spelled and _is_doubtful(spelled, metric.value, margin)
            return None if doubtful and not Range(spelled or "").match(metric.value) else spelled

        return kept(warning), kept(critical)


def _margin_of(metric: Metric, resource: Resource) -> float:
    of: dict[str, float] = getattr(resource, "margins", {})
    return of.get(metric.name, 0.0)


def _is_doubtful(spelled: str, value: float, margin: float) -> bool:
    return not _violates(spelled, value, margin) and not _obeys(spelled, value, margin)


def _violates(spelled: str, value: float, margin: float) -> bool:
    """Return whether everything within the margin violates a range."""
    span = Range(spelled)
    low, high = value - margin, value + margin
    if span.invert:
        return bool(span.start <= low and high <= span.end)
    return bool(high < span.start or low > span.end)


def _obeys(spelled: str, value: float, margin: float) -> bool:
    """Return whether nothing within the margin violates a range."""
    span = Range(spelled)
    low, high = value - margin, value + margin
    if span.invert:
        return bool(high < span.start or low > span.end)
    # No count and no share is below 0.
    return bool(span.start <= max(low, 0) and high <= span.end)


def contexts(labels: Sequence[Label], thresholds: Thresholds, if_inactive: str) -> list[Context]:
    """Return the contexts of nagios.contexts, those of labels aware of margins."""
    return [
        EstimateContext(
            context.label,
            context.thresholds,
            hidden=context.hidden,
            given=context.label.name in thresholds.given,
        )
        if isinstance(context, nagios.LabelContext)
        else context
        for context in nagios.contexts(labels, thresholds, if_inactive)
    ]
