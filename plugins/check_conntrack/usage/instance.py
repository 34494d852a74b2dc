"""EC2's own limit of tracked connections: acquire what is left of it, keep the peak, and word it.

Imported only where an interface of EC2 may be.
"""

from __future__ import annotations

from nagiosplugin import Metric

from .. import nagios, render
from ..kernel import ena
from ..kernel.namedtuple import NamedTuple
from ..state.codec import decode, encode
from ..state.instance_history import InstancePeak, peak
from ..state.state_store import boot_id
from .labels import INSTANCE_LABELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nagiosplugin import Result

    from ..state.state_store import Store

STATE_KEY = "instance/peak"


class InstanceReport(NamedTuple):
    """The connections that EC2 can still track for this instance.

    available: the fewest that an interface reports; None where none does.
    interface: the one that says so.
    kind: the instance type, or the boot id where that is not known.
    kept: the most that earlier runs have seen; None where there was none with this type.
    allowances: what each interface reports.
    problems: what could not be read, as sentences.
    """

    available: int | None
    interface: str
    kind: str
    kept: InstancePeak | None = None
    allowances: tuple[ena.Allowance, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def most(self) -> int:
        """Return the most that any run has seen, this one included: at most the limit."""
        return max(self.available or 0, self.kept.available if self.kept else 0)

    @property
    def usage(self) -> float | None:
        """Return the share that is in use, in percent; None in the first run."""
        if self.available is None or self.kept is None or not self.most:
            return None
        return 100 * (self.most - self.available) / self.most

    @property
    def not_applicable(self) -> tuple[str, ...]:
        """Return the labels that need no value in this run."""
        return ("instance_usage",) if self.available is not None and self.usage is None else ()

    def metrics(self) -> Iterator[Metric]:
        """Yield the values in the order of the labels."""
        values = {"instance_available": self.available, "instance_usage": self.usage}
        largest = {"instance_usage": 100}
        for name in INSTANCE_LABELS:
            value = values[name]
            if value is not None:
                yield Metric(name, value, None, 0, largest.get(name), name)

    def fact(self, alarms: Sequence[Result]) -> list[str]:
        """Return what alarms, the longest version first; none where nothing does."""
        if not alarms:
            return []
        where = f" ({render.clean(self.interface)})" if len(self.allowances) > 1 else ""
        low = [alarm for alarm in alarms if nagios.label_of(alarm) == "instance_available"]
        shares = [alarm for alarm in alarms if nagios.label_of(alarm) == "instance_usage"]
        if not shares:
            more = render.plural(int(low[0].metric.value), "more connection")
            text = f"EC2 can track {more}"
            return [f"{text} for this instance{where}", text]
        share = nagios.print_value(shares[0])
        text = f"EC2's own connection limit: {share} in use"
        left = f"{self.available} of {self.most} left"
        return [f"{text}, {left}{where}", f"{text}, {left}", text]

    def advice(self, alarms: Sequence[Result]) -> list[str]:
        """Return what to do about alarms of too few connections left."""
        labels = {
            nagios.label_of(alarm)
            for alarm in alarms
            if nagios.label_of(alarm) == "instance_available"
            or not nagios.context_of(alarm).too_low(alarm)
        }
        if not labels:
            return []
        from ..advice import instance

        return instance.advise(labels, self.interface)

    def lines(self) -> list[str]:
        """Return what each interface reports, for -v."""
        text = [
            f"EC2 ({render.clean(each.interface)}): "
            f"{render.plural(each.available, 'more connection')} can be tracked"
            for each in self.allowances
            if each.available is not None
        ]
        if text and self.usage is not None:
            text.append(f"EC2: most connections left that were seen: {self.most} ({self.kind})")
        return text


def read(store: Store) -> InstanceReport | None:
    """Return what EC2 can still track for this instance; None elsewhere than on EC2."""
    instance = ena.read()
    if instance is None:
        return None
    kind = ena.instance_type() or boot_id()
    told = [
        (each.available, each.interface)
        for each in instance.allowances
        if each.available is not None
    ]
    available, interface = min(told) if told else (None, "")
    kept = decode(InstancePeak, store.read(STATE_KEY))
    if kept and kept.kind != kind:
        kept = None
    return InstanceReport(available, interface, kind, kept, *instance)


def write(store: Store, report: InstanceReport) -> None:
    """Keep the most connections that were left, for later runs."""
    available = report.available
    if available is not None:
        store.update(
            STATE_KEY,
            lambda kept: encode(peak(decode(InstancePeak, kept), report.kind, available)),
        )
