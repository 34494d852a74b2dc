"""The network namespaces a run speaks of: the one it runs in, and those that --netns names."""

from __future__ import annotations

from . import render
from .kernel import KernelError
from .kernel.limits import OWN, Limits, own_inode, read_limits
from .kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .kernel.namespaces import Targets
    from .kernel.reader_client import Frame
    from .session import Session


def key(name: str, inode: int, *, named: bool = False) -> str:
    """What a namespace's history goes by; only names under /run/netns are one namespace's alone."""
    return name if named else f"{name}net:[{inode}]"


def further_key(check: str, specs: Sequence[str], state_key: str) -> str:
    """What the histories of a check's further namespaces go by, which share one file."""
    return "+".join((f"further/{check}/{state_key}", *specs))


class Spot(NamedTuple):
    """A network namespace and its limits; labels that speak of it begin with `prefix`.

    `name` is empty for the one the check runs in, and `path` leads into it. `named` says that it
    was entered by its name under /run/netns, which no other has.
    """

    name: str
    prefix: str
    inode: int
    path: str
    limits: Limits
    named: bool = False

    @property
    def key(self) -> str:
        """What its history goes by; only names under /run/netns are one namespace's alone."""
        return key(self.name, self.inode, named=self.named)


class Sight(NamedTuple):
    """What was seen: the namespace that plain labels speak of, the others, and what was not.

    `inactive` says where conntrack is not active, `blind` that the check's own namespace was asked
    for and its limits could not be read. `frames` are what the reader told, by inode and file.
    """

    first: Spot | None
    others: tuple[Spot, ...] = ()
    problems: tuple[str, ...] = ()
    inactive: tuple[str, ...] = ()
    blind: bool = False
    frames: Mapping[int, Mapping[str, Frame]] = {}


def look(
    session: Session,
    specs: Sequence[str],
    what: bytes = b"limits",
    called: Mapping[int, str] | None = None,
) -> Sight:
    """The namespaces that `specs` ask for, or the check's own where there are none.

    The reader is asked for `what` of the others; `called` are their names by inode, looked up where
    that is None. Raises KernelError where not even the own namespace can be told.
    """
    inode = own_inode()
    own: Spot | None = None
    problems: tuple[str, ...] = ()
    blind = False
    try:
        limits = read_limits()
        if limits:
            own = Spot("", "", inode, OWN, limits)
            problems = (limits.fault,) if limits.fault else ()
    except KernelError as error:
        problems = (str(error),)
        blind = True
    inactive = ("on this host",) if own is None and not blind else ()
    if not specs:
        return Sight(own, (), problems, inactive, blind)
    from .kernel import namespaces

    targets = namespaces.find(specs, inode)
    if not targets.own:
        problems, inactive, blind = (), (), False
    sight = _enter(session, targets, inode, what, called)
    spots: dict[str, Spot] = {}
    for spot in sight.others:
        part = render.label_part(spot.name, spots)
        # One hash holds the entries of all namespaces.
        limits = spot.limits._replace(buckets=own.limits.buckets if own else None)
        prefix = "" if spot.path == targets.first else f"{part}::"
        spots[part] = spot._replace(prefix=prefix, limits=limits)
    others = list(spots.values())
    first = next((spot for spot in others if not spot.prefix), None)
    if own and targets.own and targets.first == inode:
        first = own
    elif own and targets.own:
        others.append(own._replace(name="self", prefix=f"{render.label_part('self', spots)}::"))
    return sight._replace(
        first=first,
        others=tuple(spot for spot in others if spot is not first),
        problems=targets.missing + problems + sight.problems,
        inactive=inactive + sight.inactive,
        blind=blind,
    )


def _enter(
    session: Session, targets: Targets, own: int, what: bytes, called: Mapping[int, str] | None
) -> Sight:
    """What the reader sees in the targets."""
    from .kernel import namespaces

    if not targets.targets and not targets.everything:
        return Sight(None)
    if not session.may_ask:
        session.forbidden = True
        names = ", ".join(target.name for target in targets.targets)
        where = "other namespaces" if targets.everything else f"namespace {names}"
        return Sight(None, (), (f"{where}: no right to enter (CAP_SYS_ADMIN)",))
    try:
        frames = session.ask(targets.fields(what))
    except KernelError as error:
        return Sight(None, (), (str(error),))
    found = namespaces.look(targets, frames, own, namespaces.names() if called is None else called)
    session.forbidden = found.forbidden
    return Sight(
        None,
        tuple(
            Spot(one.name, "", one.inode, one.path, one.limits, one.named)
            for one in found.namespaces
            if one.limits
        ),
        found.problems,
        tuple(f"in namespace {one.name}" for one in found.namespaces if one.limits is None),
        frames=namespaces.by_namespace(frames),
    )
