"""The values that a run has read: a NamespaceReport for each namespace, in one TableReport."""

from __future__ import annotations

from nagiosplugin import Metric

from .. import nagios
from ..kernel.namedtuple import NamedTuple
from ..state import trend
from ..state.forecast import forecast
from .options import LABELS, NAMESPACE_LABELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..advice.table_profile import StaleFlows
    from ..flows.figures import Figures
    from ..kernel.limits import Limits
    from ..kernel.namespaces import Namespace
    from ..state.trend import Series
    from .sources import SourceError, TableReading

TREND_WINDOW = 3600.0  # seconds, as of check_conntrack_usage


class NamespaceReport(NamedTuple):
    """The figures of one network namespace, or of the host that a file came from.

    namespace: with a file, its name and its limits as far as the file says them. table: None where
    it was not read. series: its limits and peaks of earlier runs; None if none are kept.
    was_read: whether its table was asked for. stale: flows with a stale translation.
    """

    namespace: Namespace
    table: TableReading | None = None
    figures: Figures | None = None
    series: Series | None = None
    was_read: bool = True
    stale: tuple[StaleFlows, ...] = ()

    @property
    def peak(self) -> int:
        """Return the largest count known, in entries."""
        return self.series.peak if self.series else self.namespace.entries

    @property
    def lowered_from(self) -> int:
        """Return the limit that was lowered to the present one lately; 0 for none."""
        change = trend.lowered(self.series) if self.series else None
        return change.old if change else 0

    @property
    def time_to_full(self) -> float | None:
        """Return the seconds until the table is full; None if that is not known or not in sight."""
        if self.series is None or self.limits is None:
            return None
        held = self.series.held_before_boot(TREND_WINDOW)
        return forecast(self.series.samples, self.limits.limit, held).time_to_full

    @property
    def limits(self) -> Limits | None:
        """Return its entries and their limit; None where they are not known."""
        return self.namespace.limits

    @property
    def path(self) -> str:
        """Return what leads into it; empty for a file."""
        return self.namespace.path

    @property
    def prefix(self) -> str:
        """Return what its labels begin with."""
        return self.namespace.prefix

    def metrics(self, *, hidden: bool) -> Iterator[Metric]:
        """Yield the figures in the order of LABELS; only the main ones of further namespaces."""
        values = dict(zip(self.figures._fields, self.figures)) if self.figures else {}
        if self.figures:
            values["stale"] = sum(one.entries for one in self.stale)
        most: dict[str, int | None] = {}
        limits = self.limits
        if limits:
            values["usage"] = limits.usage
            values.setdefault("entries", limits.entries)
            most["entries"] = limits.limit or None
            if self.figures and limits.limit:
                values["protected_usage"] = 100 * self.figures.protected / limits.limit
        for label in LABELS:
            value = values.get(label.name)
            if value is not None and (not self.prefix or label.name in NAMESPACE_LABELS):
                yield Metric(
                    self.prefix + label.name,
                    value,
                    min=label.minimum,
                    max=100 if label.unit == "%" else most.get(label.name),
                    context=(nagios.HIDDEN if hidden else "") + label.name,
                )


class TableReport(NamedTuple):
    """All that a run has read.

    namespaces: the one that plain labels speak of first, then the others, the fullest first.
    problems: sentences on what could not be read. errors: of each source that gave no table.
    inactive: conntrack is not active on this host. from_file: the table may come from another host.
    """

    namespaces: tuple[NamespaceReport, ...] = ()
    problems: tuple[str, ...] = ()
    errors: tuple[SourceError, ...] = ()
    inactive: bool = False
    from_file: bool = False
