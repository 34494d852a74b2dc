"""Call owners of addresses and namespaces by words: short for a status line, or in full."""

from __future__ import annotations

from ..kernel.owners import CONTAINER, HERE, HOST, ITSELF, PROCESS, UID, USER, Owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_OWNERS = 2  # of one address that are named


def short(owner: Owner) -> str:
    """Return what an owner is called, as in "pod shop/cart-7d9f"."""
    if owner.kind == HOST:
        return "this host"
    if owner.kind == HERE:
        return "this namespace"
    if owner.kind == ITSELF:
        return f"the {owner.name} itself"
    if owner.kind == USER:
        return f"uid {owner.name}"
    if owner.kind == PROCESS:
        return f"process {_program(owner)}"
    words = f"{owner.kind} {owner.name}"
    below = owner.below
    if below.startswith(UID):
        below = f"uid {below[len(UID) :]}"
    return f"{words}, {below}" if below else words


def full(owner: Owner) -> str:
    """Return the same with all that is known, as in "pod shop/cart-7d9f, container app"."""
    more = []
    if owner.engine:
        more.append(owner.engine)
    if owner.container:
        more.append(f"{CONTAINER} {owner.container}")
    if owner.program and owner.kind != PROCESS:
        more.append(_program(owner))
    if owner.host_name:
        more.append(f"host name {owner.host_name}")
    return ", ".join([short(owner), *more])


def _program(owner: Owner) -> str:
    return f"{owner.program}[{owner.pid}]" if owner.pid else owner.program


def any_of(words: Sequence[str]) -> str:
    """Return the words for an address that several owners have: each may be the one."""
    text = " or ".join(words[:MOST_OWNERS])
    return f"{text} or {len(words) - MOST_OWNERS} more" if len(words) > MOST_OWNERS else text
