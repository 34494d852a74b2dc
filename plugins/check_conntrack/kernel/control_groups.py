"""Tell from its control groups to whom a process belongs: a pod, a container, a machine, a unit.

A program may make control groups below its own, and call them what it likes. So the outermost group
that names an owner decides; one that a unit or a user has made carries the name of that one too.
See cgroups(7), systemd.slice(5), and the drivers `systemd` and `cgroupfs` of kubelet, containerd,
CRI-O, Docker and Podman.
"""

from __future__ import annotations

import re

from .namedtuple import NamedTuple
from .owners import (
    CONTAINER,
    LXC,
    NSPAWN,
    POD,
    PROCESS,
    STRONG,
    UID,
    UNIT,
    USER,
    VM,
    Owner,
    Pod,
    safe,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ID_DIGITS = 12  # of a container's id, as many as its engine prints
MOST_PARTS = 40  # of a path
_ID = r"[0-9a-f]{64}"
_UID = r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32}"
# kubepods-burstable-podUID.slice (systemd); kubepods/burstable/podUID (cgroupfs).
_POD_SLICE = re.compile(rf"(?:[a-z0-9]+-)*?kubepods(?:-[a-z]+)?-pod({_UID})\.slice")
_POD_FOLDER = re.compile(rf"pod({_UID})")
# docker-ID.scope, cri-containerd-ID.scope, crio-ID (cgroupfs), or the bare ID.
_CONTAINER = re.compile(rf"(?:([a-z][a-z0-9-]*?)-)?({_ID})(?:\.scope)?")
_LXC = re.compile(r"lxc\.(?:payload|monitor)\.(.+)")
_MACHINE = re.compile(r"machine-(.+)\.scope|systemd-nspawn@(.+)\.service")
_DOMAIN = re.compile(r"(qemu|lxc)-[0-9]+-(.+)")  # of libvirt, with its number
_OLD_MACHINE = re.compile(r"(?:qemu-[0-9]+-)?(.+)\.libvirt-(qemu|lxc)")
_USER_SLICE = re.compile(r"user-([0-9]+)\.slice")
_UNIT = re.compile(r".+\.(?:service|socket|mount|scope)")
# The folder that an engine without a word of its own in the name puts its containers into.
_ENGINES = {
    "docker": "docker",
    "libpod_parent": "libpod",
    "crio": "crio",
    "k8s.io": "containerd",
    "default": "containerd",
    "moby": "docker",
}
# Units below which an engine puts the containers of others, where its driver is set up so.
_ENGINE_UNITS = frozenset(
    f"{name}.service"
    for name in ("containerd", "crio", "docker", "k3s", "k3s-agent", "kubelet", "podman")
)


def _owner(path: str) -> Owner | None:
    """Return the owner that a path of control groups names; None for none."""
    # A driver that was set up wrongly has PREFIX:ENGINE:ID as one part.
    text = path.replace(":", "/") if path.count(":") == 2 else path
    parts = [part for part in text.split("/") if part and part != ".."][:MOST_PARTS]
    weak: Owner | None = None
    for at, part in enumerate(parts):
        above = parts[:at]
        below = parts[at + 1] if at + 1 < len(parts) else ""
        strong = _pod(part, above) or _machine(part, above) or _lxc(part, below)
        strong = strong or _container(part, above)
        if strong:
            return strong._replace(below=_maker(weak)) if weak else strong
        if weak is None or not weak.name:
            weak = _weak(part) or weak
    return weak if weak and weak.name else None


def _pod(part: str, above: Sequence[str]) -> Owner | None:
    found = _POD_SLICE.fullmatch(part)
    if not found and "kubepods" in above:
        found = _POD_FOLDER.fullmatch(part)
    return Owner(POD, found[1].replace("_", "-")) if found else None


def _container(part: str, above: Sequence[str]) -> Owner | None:
    found = _CONTAINER.fullmatch(part)
    if not found:
        return None
    engine = found[1] or _ENGINES.get(above[-1] if above else "", "")
    # The monitor beside a container has a group like the container's.
    return Owner(CONTAINER, found[2][:ID_DIGITS], engine.partition("-conmon")[0])


def _lxc(part: str, below: str) -> Owner | None:
    found = _LXC.fullmatch(part)
    name = found[1] if found else below if part in ("lxc", "lxc.payload") else ""
    return Owner(LXC, safe(name)) if name else None


def _machine(part: str, above: Sequence[str]) -> Owner | None:
    parent = above[-1] if above else ""
    if parent == "qemu.slice" and part.endswith(".scope"):
        return Owner(VM, safe(part[: -len(".scope")]))  # Proxmox
    found = _MACHINE.fullmatch(part) if parent in ("machine.slice", "system.slice") else None
    if found:
        name = _unescaped(found[1] or found[2])
        domain = _DOMAIN.fullmatch(name)
        if domain:
            return Owner(VM if domain[1] == "qemu" else LXC, safe(domain[2]))
        return Owner(CONTAINER, safe(name), NSPAWN)
    old = _OLD_MACHINE.fullmatch(part) if "machine" in above else None
    return Owner(VM if old[2] == "qemu" else LXC, safe(old[1])) if old else None


def _weak(part: str) -> Owner | None:
    user = _USER_SLICE.fullmatch(part)
    if user:
        return Owner(USER, user[1])
    if part == "user.slice":
        return Owner(USER)  # the next part names the user
    return Owner(UNIT, safe(part)) if _UNIT.fullmatch(part) else None


def _maker(weak: Owner) -> str:
    """Return who made a group below its own; empty for an engine, whose work that is."""
    if weak.kind == USER:
        return f"{UID}{weak.name}"
    return "" if weak.name in _ENGINE_UNITS else weak.name


def _unescaped(name: str) -> str:
    """Return the name of a unit without the escapes of systemd-escape(1)."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), name)


class Process(NamedTuple):
    """A process, as the kernel describes it.

    Attributes:
        pid: its number; 0 where that is not known
        groups: /proc/PID/cgroup
        command: /proc/PID/comm
        host_name: what its UTS namespace is called; empty for the host's own
    """

    pid: int = 0
    groups: bytes = b""
    command: bytes = b""
    host_name: bytes = b""


def paths_of(groups: bytes) -> list[str]:
    """Return the different paths in /proc/PID/cgroup; those that systemd keeps come first."""
    paths: dict[str, None] = {}
    # splitlines() would end a line at characters that a name may have; only the newline is refused.
    lines = groups.decode("utf-8", "replace").split("\n")
    for line in sorted(lines, key=lambda line: not line.startswith(("0::", "1:name="))):
        fields = line.split(":", 2)
        if len(fields) == 3 and fields[2].strip("/"):
            paths[fields[2]] = None
    return list(paths)


def owner_of_paths(paths: Iterable[str]) -> Owner | None:
    """Return the owner that these paths name: the first strong one, else the first."""
    first: Owner | None = None
    for path in paths:
        owner = _owner(path)
        if owner and owner.kind in STRONG:
            return owner
        first = first or owner
    return first


def owner_of(process: Process, pods: Mapping[str, Pod]) -> Owner | None:
    """Return the owner of a process; None where nothing at all is known of it."""
    owner = owner_of_paths(paths_of(process.groups))
    program = _text(process.command)
    if owner is None:
        if not program:
            return None
        owner = Owner(PROCESS)
    host_name = _text(process.host_name)
    if owner.kind == POD:
        pod = pods.get(owner.name)
        if pod:
            only = pod.containers[0] if len(pod.containers) == 1 else ""
            return owner._replace(name=pod.name, container=only)
        # A pod is called by its name, also within.
        return owner._replace(name=host_name or owner.name)
    if owner.kind not in STRONG:
        owner = owner._replace(program=program, pid=process.pid)
    same = not host_name or owner.name.startswith(host_name) or host_name.startswith(owner.name)
    return owner if same and owner.name else owner._replace(host_name=host_name)


def _text(name: bytes) -> str:
    return safe(name.decode("utf-8", "replace").strip())


def pods_by_uid(names: bytes) -> dict[str, Pod]:
    """Return the pods by their uid, from names of folders, each ended by a NUL byte.

    A folder is called NAMESPACE_POD_UID; in it is one for each container.
    """
    pods: dict[str, Pod] = {}
    for entry in names.split(b"\0"):
        folder, _, container = entry.decode("utf-8", "replace").partition("/")
        namespace, _, rest = folder.partition("_")
        name, _, uid = rest.rpartition("_")
        if namespace and name and re.fullmatch(_UID, uid):
            pod = pods.get(uid, Pod(safe(f"{namespace}/{name}")))
            containers = (*pod.containers, safe(container)) if container else pod.containers
            pods[uid] = pod._replace(containers=containers)
    return pods
