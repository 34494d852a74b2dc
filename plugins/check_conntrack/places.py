"""The network namespaces a run speaks of: the one it runs in, and those that --netns names."""

from __future__ import annotations

from . import output
from .kernel import KernelError
from .kernel.limits import Limits, own_inode, read_limits
from .kernel.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .kernel.namespaces import Found, Targets
    from .session import Session

OWN = "/proc/self/ns/net"


class Spot(NamedTuple):
    """A network namespace and its limits; labels that speak of it begin with `prefix`.

    `name` is empty for the one the check runs in, and `path` leads into it.
    """

    name: str
    prefix: str
    inode: int
    path: str
    limits: Limits


class Sight(NamedTuple):
    """What was seen: the namespace that plain labels speak of, the others, and what was not.

    `inactive` says that conntrack is not loaded in one of them.
    """

    first: Spot | None
    others: tuple[Spot, ...] = ()
    problems: tuple[str, ...] = ()
    inactive: bool = False


def look(session: Session, specs: Sequence[str]) -> Sight:
    """The namespaces that `specs` ask for, or the check's own where there are none."""
    problems: list[str] = []
    inactive = False
    own: Spot | None = None
    inode = 0
    try:
        inode = own_inode()
        limits = read_limits()
    except KernelError as error:
        problems.append(str(error))
    else:
        inactive = limits is None
        if limits:
            own = Spot("", "", inode, OWN, limits)
            if limits.fault:
                problems.append(limits.fault)
    if not specs:
        return Sight(own, (), tuple(problems), inactive)
    return _others(session, specs, own, inode, problems)


def _others(
    session: Session, specs: Sequence[str], own: Spot | None, inode: int, problems: list[str]
) -> Sight:
    from .kernel import namespaces

    targets = namespaces.find(specs, inode)
    problems += targets.missing
    found = _enter(session, targets, inode)
    problems += found.problems
    inactive = False
    spots: dict[str, Spot] = {}
    for namespace in found.namespaces:
        part = output.label_part(namespace.name, spots)
        if namespace.limits is None:
            inactive = True
            continue
        # One hash holds the entries of all namespaces.
        limits = namespace.limits._replace(buckets=own.limits.buckets if own else None)
        prefix = "" if namespace.path == targets.first else f"{part}::"
        spots[part] = Spot(namespace.name, prefix, namespace.inode, namespace.path, limits)
    others = list(spots.values())
    first = next((spot for spot in others if not spot.prefix), None)
    if targets.own and own is None:
        inactive = True
    elif own and targets.own and targets.first == inode:
        first = own
    elif own and targets.own:
        others.append(own._replace(name="self", prefix=f"{output.label_part('self', spots)}::"))
    return Sight(
        first, tuple(spot for spot in others if spot is not first), tuple(problems), inactive
    )


def _enter(session: Session, targets: Targets, own: int) -> Found:
    """What the reader sees in the targets."""
    from .kernel import namespaces

    if not targets.targets and not targets.everything:
        return namespaces.Found(())
    if not session.may_ask:
        session.forbidden = True
        names = ", ".join(target.name for target in targets.targets)
        what = "other namespaces" if targets.everything else f"namespace {names}"
        return namespaces.Found((), (f"{what}: no right to enter (CAP_SYS_ADMIN)",))
    try:
        frames = session.ask(targets.fields(b"limits"))
    except KernelError as error:
        return namespaces.Found((), (str(error),))
    found = namespaces.look(targets, frames, own, namespaces.names())
    session.forbidden = found.forbidden
    return found
