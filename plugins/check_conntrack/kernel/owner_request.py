"""Ask the reader what is in the network namespaces of this host, and read its answer."""

from __future__ import annotations

import errno
import os

from . import control_groups, limits, rtnetlink
from .control_groups import Process
from .namespaces import DIRECTORY, mounts
from .owners import HERE, HOST, NAMESPACE, STRONG, Owner, Ownership, safe
from .source import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .owners import Pod
    from .reader_client import Frame


def request() -> list[bytes]:
    """Return the request for all namespaces of this host (grammar: reader.py).

    Those with a name or a mount come first: they are root's, and no user can be in their way.
    """
    try:
        named = sorted(os.path.join(DIRECTORY, name) for name in os.listdir(DIRECTORY))
    except OSError:
        named = []
    paths = dict.fromkeys([*named, *sorted(mounts())])
    return [b"owners", *map(os.fsencode, paths), b"processes"]


def read_answer(frames: Iterable[Frame], own: int, called: Mapping[int, str]) -> Ownership:
    """Return the owners that the reader's frames show, and the addresses of their namespaces.

    own: the inode number of the namespace that the check runs in. called: names of namespaces by
    inode number.
    """
    addresses: dict[bytes, tuple[int, ...]] = {}
    processes: dict[int, Process] = {}
    pods: Mapping[str, Pod] = {}
    refused: list[int] = []
    for frame in frames:
        if frame.file == "pods":
            pods = control_groups.pods_by_uid(frame.data)
        elif not frame.inode:
            refused.append(frame.errno)
        elif frame.file == "addresses":
            for address in rtnetlink.global_addresses(frame.data):
                known = addresses.get(address, ())
                if frame.inode not in known:
                    addresses[address] = (*known, frame.inode)
        elif frame.file == "process":
            processes[frame.inode] = _process(frame)
    owners = {}
    inodes = {inode for each in addresses.values() for inode in each}
    for inode in inodes | processes.keys():
        owner = _owner_of_namespace(processes.get(inode, Process()), pods, called.get(inode, ""))
        if owner:
            owners[inode] = owner
    if limits.may_set_limits():
        owners[own] = Owner(HOST)
    return Ownership(owners, addresses, pods, _missing(refused, len(processes)))


def _missing(refused: Sequence[int], namespaces: int) -> int:
    """Return the errno of what is missing: there was no time for it, or no privilege; else 0.

    A single process that may not be looked at is none: each namespace is known by one that may.
    """
    if errno.ETIME in refused:
        return errno.ETIME
    forbidden = [code for code in refused if code in (errno.EPERM, errno.EACCES)]
    return forbidden[0] if len(forbidden) > namespaces else 0


def read_own(own: int) -> Ownership:
    """Return the addresses of the namespace that the check runs in. Needs no privilege."""
    addresses = rtnetlink.global_addresses(rtnetlink.read_addresses())
    return Ownership(
        {own: Owner(HOST if limits.may_set_limits() else HERE)}, dict.fromkeys(addresses, (own,))
    )


def _process(frame: Frame) -> Process:
    command, _, rest = frame.data.partition(b"\0")
    host_name, _, groups = rest.partition(b"\0")
    pid = frame.path.split("/")[2]
    return Process(int(pid) if pid.isdigit() else 0, groups, command, host_name)


def _owner_of_namespace(process: Process, pods: Mapping[str, Pod], name: str) -> Owner | None:
    """Return the owner of a namespace: by control group, else its name, else what runs in it."""
    owner = control_groups.owner_of(process, pods)
    if name and not (owner and owner.kind in STRONG):
        return Owner(NAMESPACE, safe(name))
    return owner


def read_process(pid: str) -> Process:
    """Return what everybody may see of a process; nothing of one that is gone."""
    groups = read_file(f"/proc/{pid}/cgroup").data
    command = read_file(f"/proc/{pid}/comm", 64).data
    return Process(int(pid) if pid.isdigit() else 0, groups, command)
