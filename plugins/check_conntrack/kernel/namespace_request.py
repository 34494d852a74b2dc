"""Ask the reader for other network namespaces: what --netns means, and what the answer says."""

from __future__ import annotations

import errno
import os

from . import namespaces
from .limits import NEW, OWN, Limits, conntrack_trace, hidden_error, parse_limits
from .namedtuple import NamedTuple
from .namespaces import Namespace, NamespaceScan, birth
from .source import FileReading, KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .owners import Owner
    from .reader_client import Frame


class NamespaceRequest(NamedTuple):
    """The namespaces that `--netns` asks for.

    targets: namespaces to enter. The check's own is not among them: reading it is not privileged.
    everything: whether the namespaces of all processes are asked for as well.
    own: whether the check's own namespace is asked for.
    first: the inode (own) or the path of the first one, which plain labels describe.
    missing: sentences about what was not found.
    """

    targets: tuple[Namespace, ...] = ()
    everything: bool = False
    own: bool = False
    first: int | str = ""
    missing: tuple[str, ...] = ()

    def fields(self, what: bytes) -> list[bytes]:
        """Return the request for the reader (grammar: reader.py)."""
        paths = [os.fsencode(target.path) for target in self.targets]
        return [what, *paths, *([b"processes"] if self.everything else [])]


# --- what --netns asks for


def select(specs: Iterable[str], own: int) -> NamespaceRequest:
    """Return the namespaces that the user means: names, globs of names, paths, pids, and `all`."""
    targets: dict[Namespace, None] = {}
    missing: list[str] = []
    everything = False
    own_asked = False
    first: int | str = ""
    for spec in specs:
        if spec == "all":
            everything = own_asked = True
            first = first or own
        candidates = _candidates(spec)
        if not candidates and spec != "all":
            missing.append(f"{namespaces.DIRECTORY}: no namespace matches {spec}")
            first = first or spec
        for target in candidates:
            first = first or target.path
            inode, problem = _inode(target)
            if inode == own:
                own_asked = True
                first = own if first == target.path else first
            elif not problem:
                # A path that stands here twice costs nothing: each namespace is entered once.
                targets[target] = None
            elif spec != "all":
                missing.append(problem)
    return NamespaceRequest(tuple(targets), everything, own_asked, first, tuple(missing))


def _candidates(spec: str) -> list[Namespace]:
    if spec == "all":
        named = [_by_name(name) for name in _listed()]
        return named + [
            Namespace(os.path.basename(path), path) for path in sorted(namespaces.mounts())
        ]
    if "/" in spec:
        return [_at_path(os.path.abspath(spec))]
    if spec.isascii() and spec.isdigit() and len(spec) <= 10:
        return [Namespace(f"pid-{int(spec)}", f"/proc/{int(spec)}/ns/net")]
    if any(character in spec for character in "*?["):
        import fnmatch

        return [_by_name(name) for name in _listed() if fnmatch.fnmatchcase(name, spec)]
    return [_by_name(spec)]


def _listed() -> list[str]:
    try:
        return sorted(os.listdir(namespaces.DIRECTORY))
    except OSError:
        return []


def _by_name(name: str) -> Namespace:
    return Namespace(name, os.path.join(namespaces.DIRECTORY, name))


def _at_path(path: str) -> Namespace:
    ids = _process_ids(path)
    return Namespace("-".join(["pid", *ids]) if ids else os.path.basename(path) or path, path)


def _inode(target: Namespace) -> tuple[int | None, str]:
    """Return the inode of a target if this process may see it, and why it is no namespace."""
    name = f"namespace {target.name or repr('')}"
    try:
        status = os.stat(target.path)
    except PermissionError:
        return None, ""  # something is there; the reader can tell
    except OSError as error:
        if _process_ids(target.path):
            return None, f"{name}: process not found"
        if error.errno == errno.ENOENT:
            return None, f"{name}: not found ({target.path})"
        return None, f"{name}: {target.path}: {os.strerror(error.errno or errno.EIO)}"
    except ValueError:
        return None, f"{name}: not a path"
    try:
        device = os.stat(OWN).st_dev
    except OSError:
        device = status.st_dev
    if status.st_dev != device and _process_ids(target.path):
        return None, ""  # some kernels show procfs' own directory to the unprivileged: ask
    if status.st_dev != device:
        return None, f"{name}: {target.path} is not a network namespace"
    return status.st_ino, ""


# --- namespaces without a name


def _process_ids(path: str) -> list[str]:
    """Return the ids in /proc/PID[/task/TID]/ns/net; empty for any other path."""
    parts = path.split("/")
    if parts[:2] != ["", "proc"] or parts[-2:] != ["ns", "net"]:
        return []
    ids = parts[2:-2]
    if len(ids) == 3 and ids[1] == "task":
        ids = [ids[0], ids[2]]
    if len(ids) not in (1, 2) or not ids[-1].isascii():
        return []
    if len(ids) == 1 and ids[0] in ("self", "thread-self"):
        return ids
    return ids if all(part.isascii() and part.isdigit() and len(part) <= 10 for part in ids) else []


def inhabitant(pid: str) -> str:
    """Return what a namespace without a name is called, by a process in it.

    That of the first process, and of the kernel's own threads, is the host's.
    Its pod, container, machine or unit, else its command; empty if the process is gone. What a user
    or a unit has made itself is called by that too, so it passes for nothing else: uid-1000-pod-1.
    """
    from . import control_groups, owner_request

    process = owner_request.read_process(pid)
    if pid == "1" or (pid == "2" and process.command == b"kthreadd\n"):
        return "host"
    owner = control_groups.owner_of(process, {})
    if owner is None:
        return ""
    name = _called(owner)
    return f"{owner.below.replace(':', '-')}-{name}" if owner.below and name else name


def _called(owner: Owner) -> str:
    from . import owners

    if owner.kind == owners.POD:
        return f"pod-{owner.name}"
    if owner.kind == owners.CONTAINER:
        machine = owner.engine == owners.NSPAWN
        return owner.name if machine else f"{owner.engine or owners.CONTAINER}-{owner.name}"
    if owner.kind in owners.STRONG:
        return owner.name
    if owner.kind == owners.UNIT:
        return owner.name.removesuffix(".service")
    return owner.program


# --- the reader's answer


def by_namespace(frames: Iterable[Frame]) -> dict[int, dict[str, Frame]]:
    """Return the frames of each namespace that was entered, by inode and file."""
    files: dict[int, dict[str, Frame]] = {}
    for frame in frames:
        if frame.inode:
            files.setdefault(frame.inode, {})[frame.file] = frame
    return files


def read_answer(
    request: NamespaceRequest, frames: Sequence[Frame], own: int, called: Mapping[int, str]
) -> NamespaceScan:
    """Return what the reader's frames say about the targets, in their order, each namespace once.

    A namespace that is gone by now is left out; one that is there and could not be entered is a
    problem. Without a name, it is called by its mount or by what runs in it.
    """
    targets = {target.path: target for target in request.targets}
    files = by_namespace(frames)
    problems: list[str] = []
    closed: list[str] = []
    forbidden = False
    for frame in frames:
        if frame.inode:
            continue
        target = targets.get(frame.path)
        if target is None:
            if frame.errno != errno.ENOENT:
                closed.append(frame.path)
        elif frame.errno != errno.ENOENT:
            forbidden = forbidden or frame.errno in (errno.EPERM, errno.EACCES)
            reason = os.strerror(frame.errno) + _needed_capability(frame)
            problems.append(f"namespace {target.name}: cannot be entered: {reason}")
        elif os.path.exists(frame.path):
            problems.append(f"namespace {target.name}: {frame.path} is not a network namespace")
    namespaces = []
    inactive = []
    for inode, parts in files.items():
        if inode == own and request.own:
            continue
        path = next(iter(parts.values())).path
        name = _name(request, targets, path, inode, called)
        try:
            limits = _limits_of(parts)
        except KernelError as error:
            problems.append(f"namespace {name}: {error}")
            continue
        if limits is None:
            inactive.append(f"in namespace {name}")
            continue
        namespaces.append(Namespace(name, path, inode, limits, _birth(path, inode, called)))
    unread = _unread(closed, [part.path for parts in files.values() for part in parts.values()])
    if unread:
        more = f" and of {len(unread) - 1} more" if unread[1:] else ""
        problems.append(
            f"network namespace of pid {unread[0]}{more}: cannot be entered (CAP_SYS_PTRACE)"
        )
    return NamespaceScan(
        None,
        tuple(namespaces),
        tuple(problems),
        tuple(inactive),
        forbidden=forbidden or bool(unread),
        frames=files,
    )


def _name(
    request: NamespaceRequest,
    targets: Mapping[str, Namespace],
    path: str,
    inode: int,
    called: Mapping[int, str],
) -> str:
    """Return what to call a namespace that was entered by `path`."""
    target = targets.get(path)
    ids = _process_ids(path)
    if target and not request.everything:
        return called.get(inode, target.name) if ids else target.name
    return called.get(inode) or (inhabitant(ids[0]) if ids else "") or _at_path(path).name


def _birth(path: str, inode: int, called: Mapping[int, str]) -> float:
    if path.startswith(namespaces.DIRECTORY + "/"):
        return birth(path, inode)
    return (
        birth(os.path.join(namespaces.DIRECTORY, called[inode]), inode) if inode in called else 0.0
    )


def _needed_capability(frame: Frame) -> str:
    """Return the capability that entering a namespace needs, if it was missing."""
    if frame.errno == errno.EPERM:
        return " (CAP_SYS_ADMIN)"
    needs_ptrace = frame.errno == errno.EACCES and _process_ids(frame.path)
    return " (CAP_SYS_PTRACE)" if needs_ptrace else ""


def _limits_of(parts: Mapping[str, Frame]) -> Limits | None:
    def reading(what: str) -> FileReading:
        frame = parts.get("nf_conntrack_" + what)
        if frame is None:
            return FileReading(NEW + what, errno=errno.EIO)
        return FileReading(NEW + what, frame.data, frame.errno)

    limits = parse_limits(reading("count"), reading("max"), None)
    if limits and "stats" in parts:
        from .counters import parse_stats_limit

        # A namespace with a limit of its own is held to the smaller one of it and the host's.
        known = parse_stats_limit(parts["stats"].data)
        limits = limits._replace(limit=min(filter(None, (limits.limit, known)), default=0))
    if limits is None:
        counted = [part.file for part in parts.values() if part.data and not part.errno]
        trace = conntrack_trace() or ("its counters" if counted else "")
        if trace:
            raise hidden_error(trace)
    return limits


def _unread(closed: Iterable[str], entered: Iterable[str]) -> list[str]:
    """Return the pids, of processes whose namespace is closed to the reader, in unread namespaces.

    Looking at /proc/PID/net is not privileged, and a file there that each namespace has, has
    another inode number in each.
    """
    mark = "/net/dev"
    known = {_number("/proc/self" + mark)}
    known |= {_number(path[: -len("/ns/net")] + mark) for path in entered if _process_ids(path)}
    pids = [
        path.split("/")[2]
        for path in closed
        if _number(path[: -len("/ns/net")] + mark) not in known | {None}
    ]
    return list(dict.fromkeys(pids))  # a process has a path for each of its threads


def _number(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
