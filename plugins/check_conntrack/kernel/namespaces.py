"""The network namespaces of this host: which there are, what they are called, what they hold.

Names are files under /run/netns (ip-netns(8)); a namespace can also be held by a mount alone
(type nsfs in /proc/self/mountinfo) or by its processes alone. Its inode number names it for the
kernel. Every namespace has its own count, held against the one limit. See network_namespaces(7).
"""

from __future__ import annotations

import errno
import os
import re

from .limits import NEW, Limits, parse_limits
from .namedtuple import NamedTuple
from .source import FileReading, KernelError, read_long_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .reader_client import Frame


DIRECTORY = "/run/netns"
_PROCESS = re.compile(r"/proc/([0-9]{1,10}|self|thread-self)(?:/task/([0-9]{1,10}))?/ns/net")
_PID = re.compile(r"[0-9]{1,10}", re.ASCII)


class Target(NamedTuple):
    """A namespace that was asked for: what to call it, and the file that leads into it."""

    name: str
    path: str


class Targets(NamedTuple):
    """What `--netns` asks for; `missing` are sentences about what is not there.

    The check's own namespace is not among the targets, it is `own`: to read it takes no right.
    `first` is the inode or path of the first one asked for, which the plain labels speak of.
    """

    targets: tuple[Target, ...]
    everything: bool = False
    own: bool = False
    first: int | str = ""
    missing: tuple[str, ...] = ()

    def fields(self, what: bytes) -> list[bytes]:
        """The question about them for the reader (the grammar stands in reader.py)."""
        paths = [os.fsencode(target.path) for target in self.targets]
        return [what, *paths, *([b"processes"] if self.everything else [])]


class Namespace(NamedTuple):
    """A namespace that was entered by `path`, and its limits; None where conntrack is inactive."""

    name: str
    inode: int
    path: str
    limits: Limits | None

    @property
    def named(self) -> bool:
        """Whether it was entered by its name under /run/netns, which no other has."""
        return self.path == os.path.join(DIRECTORY, self.name)


class Found(NamedTuple):
    """What was found in the namespaces, and sentences about what could not be looked into."""

    namespaces: tuple[Namespace, ...]
    problems: tuple[str, ...] = ()
    forbidden: bool = False


def names() -> dict[int, str]:
    """What each namespace is called that has a name or a mount, by inode number.

    A name under /run/netns wins; of several, the first in order.
    """
    called: dict[int, str] = {}
    for path, inode in sorted(mounts().items()):
        called.setdefault(inode, os.path.basename(path))
    try:
        device = os.stat("/proc/self/ns/net").st_dev
        listed = sorted(os.listdir(DIRECTORY), reverse=True)
    except OSError:
        return called
    for name in listed:
        try:
            status = os.stat(os.path.join(DIRECTORY, name))
        except OSError:
            continue
        if status.st_dev == device:
            called[status.st_ino] = name
    return called


def births(called: Mapping[int, str]) -> dict[int, float]:
    """Since when each named namespace has had its inode number, in seconds since the epoch.

    The kernel gives the number of a namespace that is gone to the next one, so a message that
    names a number may speak of another. What has no name under /run/netns is left out.
    """
    found = {}
    for inode, name in called.items():
        try:
            status = os.stat(os.path.join(DIRECTORY, name))
        except (OSError, ValueError):
            continue
        if status.st_ino == inode:
            found[inode] = status.st_ctime
    return found


def mounts() -> dict[str, int]:
    """The mounts that hold a network namespace: path → inode number (proc_pid_mountinfo(5))."""
    found = {}
    for line in read_long_file("/proc/self/mountinfo").data.splitlines():
        fields = line.split(b" ")
        # The optional fields end at the first "-", which the type follows.
        if len(fields) < 5 or b"-" not in fields:
            continue
        if fields[fields.index(b"-") :][1:2] != [b"nsfs"]:
            continue
        inode = fields[3][5:-1]
        if fields[3][:5] == b"net:[" and inode.isdigit():
            found[os.fsdecode(_unescape(fields[4]))] = int(inode)
    return found


def _unescape(field: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def find(specs: Iterable[str], own: int) -> Targets:
    """The namespaces that the user means: names, globs of names, paths, pids and `all`."""
    targets: dict[Target, None] = {}
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
            missing.append(f"no namespace under {DIRECTORY} matches {spec}")
            first = first or spec
        for target in candidates:
            first = first or target.path
            inode, fault = _inode(target)
            if inode == own:
                own_asked = True
                first = own if first == target.path else first
            elif not fault:
                # A path twice costs nothing (each namespace is looked into once).
                targets[target] = None
            elif spec != "all":
                missing.append(fault)
    return Targets(tuple(targets), everything, own_asked, first, tuple(missing))


def _candidates(spec: str) -> list[Target]:
    if spec == "all":
        named = [Target(name, os.path.join(DIRECTORY, name)) for name in _listed()]
        return named + [Target(os.path.basename(path), path) for path in sorted(mounts())]
    if "/" in spec:
        return [_at_path(os.path.abspath(spec))]
    if _PID.fullmatch(spec):
        return [Target(f"pid-{int(spec)}", f"/proc/{int(spec)}/ns/net")]
    if any(character in spec for character in "*?["):
        return _matching(spec)
    return [Target(spec, os.path.join(DIRECTORY, spec))]


def _listed() -> list[str]:
    try:
        return sorted(os.listdir(DIRECTORY))
    except OSError:
        return []


def _matching(pattern: str) -> list[Target]:
    import fnmatch

    return [
        Target(name, os.path.join(DIRECTORY, name))
        for name in _listed()
        if fnmatch.fnmatchcase(name, pattern)
    ]


def _at_path(path: str) -> Target:
    process = _PROCESS.fullmatch(path)
    if process:
        return Target("-".join(["pid", *(part for part in process.groups() if part)]), path)
    return Target(os.path.basename(path), path)


def _inode(target: Target) -> tuple[int | None, str]:
    """The inode of a target as far as this process may see it, and why it is no namespace."""
    name = f"namespace {target.name}"
    try:
        status = os.stat(target.path)
    except PermissionError:
        return None, ""  # there is something; the reader will tell
    except OSError as error:
        if _PROCESS.fullmatch(target.path):
            return None, f"{name}: there is no such process"
        return None, f"{name}: {target.path}: {os.strerror(error.errno or errno.EIO)}"
    except ValueError:
        return None, f"{name}: not a path"
    try:
        device = os.stat("/proc/self/ns/net").st_dev
    except OSError:
        device = status.st_dev
    if status.st_dev != device and _PROCESS.fullmatch(target.path):
        return None, ""  # some kernels show procfs' own directory to the unprivileged: ask
    if status.st_dev != device:
        return None, f"{name}: {target.path} is not a network namespace"
    return status.st_ino, ""


def by_namespace(frames: Iterable[Frame]) -> dict[int, dict[str, Frame]]:
    """The frames of each namespace that was entered, by inode and file."""
    files: dict[int, dict[str, Frame]] = {}
    for frame in frames:
        if frame.inode:
            files.setdefault(frame.inode, {})[frame.file] = frame
    return files


def look(targets: Targets, frames: Sequence[Frame], own: int, called: Mapping[int, str]) -> Found:
    """What the reader's frames say about the targets, in their order, each namespace once.

    A namespace that is gone by now is skipped; one that is there and could not be entered is a
    problem. Found by `all`, it is called by its name, its mount, or one of its processes.
    """
    asked = {target.path: target for target in targets.targets}
    files = by_namespace(frames)
    problems: list[str] = []
    hidden: list[str] = []
    forbidden = False
    for frame in frames:
        if frame.inode:
            continue
        if frame.path not in asked:
            if frame.errno != errno.ENOENT:
                hidden.append(frame.path)
        elif frame.errno != errno.ENOENT:
            forbidden = forbidden or frame.errno in (errno.EPERM, errno.EACCES)
            problems.append(
                f"namespace {asked[frame.path].name}: cannot be entered: "
                + os.strerror(frame.errno)
                + _lacking(frame)
            )
        elif os.path.exists(frame.path):
            problems.append(
                f"namespace {asked[frame.path].name}: {frame.path} is not a network namespace"
            )
    namespaces = []
    for inode, parts in files.items():
        if inode == own and targets.own:
            continue
        path = next(iter(parts.values())).path
        target = asked.get(path) or _at_path(path)
        name = called.get(inode, target.name)
        if path in asked and not targets.everything:
            name = target.name if not target.name.startswith("pid-") else name
        try:
            limits = _limits_of(parts)
        except KernelError as error:
            problems.append(f"namespace {name}: {error}")
            continue
        namespaces.append(Namespace(name, inode, path, limits))
    unseen = _unseen(hidden, [part.path for parts in files.values() for part in parts.values()])
    if unseen:
        forbidden = True
        problems.append(
            f"{len(unseen)} processes, such as pid {unseen[0]}, are in a network namespace "
            "that could not be looked into (CAP_SYS_PTRACE)"
        )
    return Found(tuple(namespaces), tuple(problems), forbidden)


def _lacking(frame: Frame) -> str:
    """The capability that would have led into a namespace, where that is what was missing."""
    if frame.errno == errno.EPERM:
        return " (CAP_SYS_ADMIN)"
    looked = frame.errno == errno.EACCES and _PROCESS.fullmatch(frame.path)
    return " (CAP_SYS_PTRACE)" if looked else ""


def _limits_of(parts: Mapping[str, Frame]) -> Limits | None:
    def reading(what: str) -> FileReading:
        frame = parts.get("nf_conntrack_" + what)
        if frame is None:
            return FileReading(NEW + what, errno=errno.EIO)
        return FileReading(NEW + what, frame.data, frame.errno)

    return parse_limits(reading("count"), reading("max"), None)


def _unseen(hidden: Iterable[str], seen: Iterable[str]) -> list[str]:
    """The pids, of processes the reader could not look into, whose namespace it has not seen.

    /proc/PID/net can be looked at without a right, and each namespace has its own inode numbers
    there: those of a file that every namespace has tell namespaces apart.
    """
    mark = "/net/dev"
    known = {_number("/proc/self" + mark)}
    known |= {_number(path[: -len("/ns/net")] + mark) for path in seen if _PROCESS.fullmatch(path)}
    pids = [
        path.split("/")[2]
        for path in hidden
        if _number(path[: -len("/ns/net")] + mark) not in known | {None}
    ]
    return list(dict.fromkeys(pids))  # a process has a path for each of its threads


def _number(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
