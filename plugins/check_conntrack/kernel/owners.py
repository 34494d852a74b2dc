"""The owners of addresses and network namespaces, as values.

All names come from other people's programs: safe() leaves nothing of them that could break a line,
a terminal or the perfdata, and nothing long.
"""

from __future__ import annotations

import re

from .namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

POD, CONTAINER, LXC, VM = "pod", "container", "lxc", "vm"
UNIT, USER, PROCESS = "unit", "user", "process"
NAMESPACE, HOST, HERE, ITSELF = "namespace", "host", "here", "itself"
KINDS = frozenset((POD, CONTAINER, LXC, VM, UNIT, USER, PROCESS, NAMESPACE, HOST, HERE))
# Kinds that the control group of a process proves, so that no name of a namespace is better.
STRONG = frozenset((POD, CONTAINER, LXC, VM))
NSPAWN = "systemd-nspawn"  # the engine of a machine, which has a name and no id
UID = "uid:"  # before the number of a user, where a unit could stand as well
LONGEST_NAME = 80  # characters; a pod's name may have 253
_UNSAFE = re.compile(r"[^A-Za-z0-9_.@:/+-]")


class Owner(NamedTuple):
    """The owner of a network namespace, of an address in it, or of sockets.

    Attributes:
        kind: one of KINDS; HOST is this host, HERE the namespace that a table is of. In a file
            that was saved elsewhere both are ITSELF
        name: of a pod NAMESPACE/POD, or its uid; of a container the first 12 digits of its id
        engine: of a container or a machine, as in "docker"; empty where that is not known
        container: the only container of a pod
        program: the command of a process
        pid: its number; 0 where that is not known
        host_name: what it calls itself, where that is another name
        below: the unit or the user that made the control group itself, if it is not the system's
    """

    kind: str
    name: str = ""
    engine: str = ""
    container: str = ""
    program: str = ""
    pid: int = 0
    host_name: str = ""
    below: str = ""


class Pod(NamedTuple):
    """The name of a pod, NAMESPACE/POD, and its containers."""

    name: str
    containers: tuple[str, ...] = ()


class Ownership(NamedTuple):
    """The owners of the network namespaces of a host, and the addresses in these.

    Attributes:
        namespaces: owners by the inode number of the namespace
        addresses: by packed address, the inode numbers of the namespaces that have it
        pods: by their uid
        missing: the errno of what could not be read; 0 where nothing is missing
    """

    namespaces: Mapping[int, Owner] = {}
    addresses: Mapping[bytes, tuple[int, ...]] = {}
    pods: Mapping[str, Pod] = {}
    missing: int = 0

    def of(self, address: bytes, here: int) -> tuple[Owner, ...]:
        """Return the owners of an address, as the namespace `here` sees it; empty for none.

        Its own addresses come first, then the host's, then those of pods, containers and machines:
        any user may make a namespace with any address. Several owners are as good as each other.
        """
        inodes = self.addresses.get(address, ())
        if here in inodes:
            return (Owner(HERE),)
        found = dict.fromkeys(
            self.namespaces[inode] for inode in inodes if inode in self.namespaces
        )
        for kinds in (frozenset((HOST,)), STRONG):
            best = tuple(owner for owner in found if owner.kind in kinds)
            if best:
                return best
        return tuple(found)


def safe(name: str) -> str:
    """Return a name in which each unusual character is "_", shortened in its middle."""
    text = _UNSAFE.sub("_", name[: 4 * LONGEST_NAME])
    if len(text) <= LONGEST_NAME:
        return text
    half = LONGEST_NAME // 2
    return f"{text[: half - 2]}..{text[-half:]}"
