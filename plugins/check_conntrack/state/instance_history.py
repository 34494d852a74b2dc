"""Packets that EC2 refused over a window, and the most connections that it could still track.

Pure functions over values; kernel/ena.py reads them. The times are seconds since this boot
(CLOCK_BOOTTIME), which nobody can set: those of an earlier boot are negative.
"""

from __future__ import annotations

from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..kernel.ena import Allowance

MOST_REFUSALS = 200
MOST_INTERFACES = 64


class InstancePeak(NamedTuple):
    """The largest number of connections that EC2 had left for this instance.

    kind: the instance type; of an unknown one the boot id, because only a stopped instance can
    change its type.
    """

    kind: str
    available: int


class InterfaceCounts(NamedTuple):
    """The counters of an interface at a run; None where it does not have one."""

    interface: str
    refused: int | None = None
    linklocal: int | None = None


class Refusals(NamedTuple):
    """How many packets of an interface were refused between the run before and that at `at`."""

    at: float
    interface: str
    refused: int = 0
    linklocal: int = 0


class InstanceState(NamedTuple):
    """The state that a run leaves to the next.

    at, up: when the run was, in seconds since the epoch and since boot.
    boot: boot id.
    counts: of each interface that was seen in this boot.
    refusals: those of this run and of earlier ones, oldest first.
    """

    at: float
    up: float
    boot: str
    counts: tuple[InterfaceCounts, ...] = ()
    refusals: tuple[Refusals, ...] = ()


class InstanceWindow(NamedTuple):
    """The packets that EC2 refused in a window.

    refused, linklocal: sums over all interfaces; None where nothing is known.
    interfaces: the sums of each interface that had refusals, the most first.
    kept: what the next run gets.
    """

    refused: int | None
    linklocal: int | None
    interfaces: tuple[Refusals, ...]
    kept: InstanceState


def peak(before: InstancePeak | None, kind: str, available: int) -> InstancePeak:
    """Return the largest number of connections left, this run's included.

    The limit goes with the instance type: what was seen with another type does not count.
    """
    if before is None or before.kind != kind:
        return InstancePeak(kind, available)
    return InstancePeak(kind, max(before.available, available))


def compare(
    before: InstanceState | None,
    now: InstanceState,
    allowances: Sequence[Allowance],
    start: float | None,
) -> InstanceWindow:
    """Compare the counters with those of the run before, over the window since `start`.

    now: this run, without counts. start: seconds since boot; None for all that is known.

    A counter that fell began anew at 0. One that is 0 may do so, or the device did not answer: the
    count before is kept, so that an answer in the next run is no rise. An interface that is new in
    a boot has counted all it has since the run before; so it has where the window begins before
    the boot.
    """
    same_boot = before is not None and before.boot == now.boot
    known = {each.interface: each for each in before.counts} if before and same_boot else {}
    counts = dict(known)
    earlier = _moved(before, now) if before else ()
    from_zero = before is not None or start is None or start <= 0
    found = []
    sums: list[list[int]] = [[], []]
    for allowance in allowances:
        old = known.get(allowance.interface)
        if old is None and from_zero:
            old = InterfaceCounts(allowance.interface, 0, 0)
        pairs = [
            (old.refused if old else None, allowance.refused),
            (old.linklocal if old else None, allowance.linklocal),
        ]
        rises = [_rise(*pair) for pair in pairs]
        for of_all, rise in zip(sums, rises):
            if rise is not None:
                of_all.append(rise)
        if any(rises):
            refused, linklocal = (rise or 0 for rise in rises)
            found.append(Refusals(now.up, allowance.interface, refused, linklocal))
        counts[allowance.interface] = InterfaceCounts(
            allowance.interface, *(new if new or old is None else old for old, new in pairs)
        )
    refusals = (*earlier, *found)
    inside = [each for each in refusals if start is None or start < each.at]
    return InstanceWindow(
        sum(each.refused for each in inside) if inside or sums[0] else None,
        sum(each.linklocal for each in inside) if inside or sums[1] else None,
        _by_interface(inside),
        now._replace(counts=tuple(counts.values())[-MOST_INTERFACES:], refusals=_bounded(refusals)),
    )


def _rise(old: int | None, new: int | None) -> int | None:
    """Return how far a counter rose; None where that is not known."""
    if new is None or not new:
        return new
    if old is None:
        return None
    return new - old if new >= old else new


def _moved(before: InstanceState, now: InstanceState) -> tuple[Refusals, ...]:
    """Return what earlier runs found, in this boot's uptime."""
    if before.boot == now.boot:
        return before.refusals
    shift = (before.at - before.up) - (now.at - now.up)
    return tuple(each._replace(at=min(0.0, each.at + shift)) for each in before.refusals)


def _by_interface(refusals: Sequence[Refusals]) -> tuple[Refusals, ...]:
    sums: dict[str, Refusals] = {}
    for each in refusals:
        sums[each.interface] = _joined(sums.get(each.interface), each)
    return tuple(
        sorted(sums.values(), key=lambda each: (-each.refused, -each.linklocal, each.interface))
    )


def _joined(one: Refusals | None, other: Refusals) -> Refusals:
    if one is None:
        return other
    return other._replace(
        refused=one.refused + other.refused, linklocal=one.linklocal + other.linklocal
    )


def _bounded(refusals: Sequence[Refusals]) -> tuple[Refusals, ...]:
    """Return at most so many refusals: the oldest is joined with the next of its interface."""
    kept = list(refusals)
    while len(kept) > MOST_REFUSALS:
        oldest = kept.pop(0)
        for at, each in enumerate(kept):
            if each.interface == oldest.interface:
                kept[at] = _joined(oldest, each)
                break
    return tuple(kept)
