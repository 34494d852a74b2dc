"""Packets that EC2 itself refused in the window: acquire, keep and word them.

Imported only where an interface of EC2 may be.
"""

from __future__ import annotations

from .. import render
from ..kernel import ena
from ..kernel.namedtuple import NamedTuple
from ..state.codec import decode, encode
from ..state.instance_history import InstanceState, InstanceWindow, compare
from .state import LATEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..state.state_store import Store
    from .state import RunTime


class InstanceReport(NamedTuple):
    """The refusals of EC2 in the window.

    window: the figures, and what the next run gets.
    allowances: what each interface reports.
    problems: what could not be read, as sentences.
    """

    window: InstanceWindow
    allowances: tuple[ena.Allowance, ...] = ()
    problems: tuple[str, ...] = ()

    def figure(self, label: str) -> int | None:
        """Return a figure by its label; None where it is not known."""
        return self.window.refused if label == "instance_refused" else self.window.linklocal

    def known_later(self, label: str) -> bool:
        """Tell whether the counter of a label could be read, so that the next run knows it."""
        refused = label == "instance_refused"
        counts = (each.refused if refused else each.linklocal for each in self.allowances)
        return any(count is not None for count in counts)

    def fact(self, label: str, when: str) -> tuple[str, ...]:
        """Return what was refused, the longest version first; when: "in the last 15m"."""
        refused = label == "instance_refused"
        counts = {
            each.interface: each.refused if refused else each.linklocal
            for each in self.window.interfaces
        }
        names = [name for name, count in counts.items() if count]
        where = f" ({render.few(names)})" if names else ""
        count = render.plural(self.figure(label) or 0, "packet")
        if refused:
            text = f"EC2 refused {count} {when} at its own connection limit"
            return (text + where, text)
        text = f"EC2 refused {count} to its DNS, metadata and time services"
        return (f"{text} {when}{where}", f"{text} {when}", text)

    def lines(self) -> list[str]:
        """Return the figures of each interface, for -v."""
        sums = {each.interface: each for each in self.window.interfaces}
        text = []
        for each in self.allowances:
            found = sums.get(each.interface)
            values = [
                f"{render.plural(found.refused if found else 0, 'packet')} refused",
                f"{found.linklocal if found else 0} to link-local services",
            ]
            if each.available is not None:
                more = render.plural(each.available, "more connection")
                values.append(f"{more} can be tracked")
            if each.refused is not None:
                text.append(f"EC2 ({render.clean(each.interface)}): {', '.join(values)}")
        return text


def read(store: Store, service: str, now: RunTime, start: float | None) -> InstanceReport | None:
    """Return what EC2 refused since `start`, in seconds since boot; None elsewhere than on EC2."""
    instance = ena.read()
    if instance is None:
        return None
    before = decode(InstanceState, store.read(_key(service)))
    if before and not (0 <= before.at < LATEST and 0 <= before.up < LATEST):
        before = None
    this_run = InstanceState(now.at, now.up, now.boot)
    window = compare(before, this_run, instance.allowances, start)
    return InstanceReport(window, instance.allowances, instance.problems)


def write(store: Store, service: str, report: InstanceReport) -> None:
    """Keep for the next run what this one has found."""
    store.update(_key(service), lambda _: encode(report.window.kept))


def _key(service: str) -> str:
    return f"instance/{service}"
