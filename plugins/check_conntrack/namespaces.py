"""Find the network namespaces of a run: the one that it runs in, and those that --netns names."""

from __future__ import annotations

from . import render
from .kernel import KernelError
from .kernel.limits import OWN, own_inode, read_limits
from .kernel.namespaces import Namespace, NamespaceScan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .kernel.namespace_request import NamespaceRequest
    from .session import Session


def further_key(check: str, specs: Sequence[str], state_key: str) -> str:
    """Return the key of the file that keeps the histories of a check's further namespaces."""
    return "+".join((f"further/{check}/{state_key}", *specs))


def scan(
    session: Session,
    specs: Sequence[str],
    what: bytes = b"limits",
    called: Mapping[int, str] | None = None,
) -> NamespaceScan:
    """Return the namespaces that `specs` ask for, or the check's own if there are none.

    what: what the reader is asked for. called: names by inode number; looked up if None.
    If time runs out while the reader is asked, the check's own namespace is returned, and the rest
    is a problem. Raises KernelError if not even the own namespace can be identified.
    """
    own, problems, unreadable = _read_own()
    inactive = ("on this host",) if own.limits is None and not unreadable else ()
    if not specs:
        return NamespaceScan(
            own if own.limits else None, (), problems, inactive, unreadable=unreadable
        )
    from .kernel import namespace_request

    request = namespace_request.select(specs, own.inode)
    if not request.own:
        problems, inactive, unreadable = (), (), False
    answers: list[NamespaceScan] = []
    timed_out: list[str] = []
    with session.stage.stoppable(timed_out.append):
        answers.append(_ask(session, request, own.inode, what, called))
    answer = answers[0] if answers else NamespaceScan()
    missing = [f"{_describe(request)}: {reason}" for reason in timed_out]
    first, others = _with_prefixes(request, own, answer.others)
    return answer._replace(
        first=first,
        others=others,
        problems=request.missing + problems + answer.problems + tuple(missing),
        inactive=inactive + answer.inactive,
        unreadable=unreadable,
    )


def _read_own() -> tuple[Namespace, tuple[str, ...], bool]:
    """Return the check's own namespace, problems, and whether its limits cannot be read."""
    inode = own_inode()
    try:
        limits = read_limits()
    except KernelError as error:
        return Namespace("", OWN, inode), (str(error),), True
    problems = (limits.fault,) if limits and limits.fault else ()
    return Namespace("", OWN, inode, limits), problems, False


def _with_prefixes(
    request: NamespaceRequest, own: Namespace, entered: Sequence[Namespace]
) -> tuple[Namespace | None, tuple[Namespace, ...]]:
    """Return the namespace that plain labels describe, and the others with their prefixes."""
    others: dict[str, Namespace] = {}
    for namespace in entered:
        part = render.label_part(namespace.name, others)
        limits = namespace.limits
        if limits:
            # One hash holds the entries of all namespaces.
            limits = limits._replace(buckets=own.limits.buckets if own.limits else None)
        prefix = "" if namespace.path == request.first else f"{part}::"
        others[part] = namespace._replace(prefix=prefix, limits=limits)
    first = next((namespace for namespace in others.values() if not namespace.prefix), None)
    if own.limits and request.own:
        if request.first == own.inode:
            first = own
        else:
            part = render.label_part("self", others)
            others[part] = own._replace(name="self", prefix=f"{part}::")
    return first, tuple(namespace for namespace in others.values() if namespace is not first)


def _describe(request: NamespaceRequest) -> str:
    if request.everything:
        return "other namespaces"
    return "namespace " + ", ".join(target.name for target in request.targets)


def _ask(
    session: Session,
    request: NamespaceRequest,
    own: int,
    what: bytes,
    called: Mapping[int, str] | None,
) -> NamespaceScan:
    """Return what the reader sees of the targets."""
    from .kernel import namespace_request
    from .kernel.namespaces import names

    if not request.targets and not request.everything:
        return NamespaceScan()
    if not session.may_ask:
        session.forbidden = True
        problem = f"{_describe(request)}: permission denied (CAP_SYS_ADMIN, see --sudo)"
        return NamespaceScan(problems=(problem,), forbidden=True)
    try:
        frames = session.ask(request.fields(what))
    except KernelError as error:
        return NamespaceScan(problems=(f"{_describe(request)}: {error}",))
    answer = namespace_request.read_answer(
        request, frames, own, names() if called is None else called
    )
    session.forbidden = answer.forbidden
    return answer
