"""The network namespaces of this host, and what those are called that have a name.

Names are files under /run/netns (ip-netns(8)). A namespace can also be held by a mount (type nsfs
in /proc/self/mountinfo) or by its processes only. Its inode number identifies it to the kernel,
until it is deleted and the number is given to another. Each namespace has its own count of entries,
and all are held against one limit. See network_namespaces(7).
"""

from __future__ import annotations

import os

from .limits import OWN, Limits
from .namedtuple import NamedTuple
from .source import read_long_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .owners import Owner
    from .reader_client import Frame


DIRECTORY = "/run/netns"


class Namespace(NamedTuple):
    """A network namespace.

    name: what it is called; empty for the one that the check runs in.
    path: a file that leads into it.
    inode: its number; 0 until it was entered.
    limits: its entries and their limit; None until they were read, or if they cannot be.
    born: when its name was made, in seconds since the epoch; 0 if that is not known.
    prefix: what its perfdata labels begin with; empty for the one that plain labels describe.
    owner: the pod, container or machine that it belongs to; None if that is not known.
    """

    name: str
    path: str
    inode: int = 0
    limits: Limits | None = None
    born: float = 0.0
    prefix: str = ""
    owner: Owner | None = None

    @property
    def named(self) -> bool:
        """Return whether it was entered by its name under /run/netns, which no other has."""
        return self.path == os.path.join(DIRECTORY, self.name)

    @property
    def is_own(self) -> bool:
        """Return whether it is the one that the check runs in."""
        return self.path == OWN

    @property
    def option(self) -> str:
        """Return what --netns takes for it; empty for the one that the check runs in."""
        return "" if self.is_own else self.name if self.named else self.path

    @property
    def key(self) -> str:
        """Return what its history is kept under."""
        return self.name if self.named else f"net:[{self.inode}]"

    @property
    def identity(self) -> str:
        """Return what tells it from a later namespace that has its name and number."""
        return f"{self.inode}@{self.born:.3f}" if self.born else str(self.inode)

    @property
    def entries(self) -> int:
        """Return its entries; 0 if they are not known."""
        return self.limits.entries if self.limits else 0

    @property
    def full(self) -> bool:
        """Return whether it is at its limit."""
        return bool(self.limits and self.limits.full)

    @property
    def fullness(self) -> tuple[float, int]:
        """Return a key that sorts namespaces by usage, then by entries."""
        return ((self.limits.usage or 0.0) if self.limits else 0.0, self.entries)


class NamespaceScan(NamedTuple):
    """The namespaces that were asked for, as far as they could be read.

    first: the one that plain labels describe; None if it could not be read.
    others: all others.
    problems: sentences about what could not be read.
    inactive: where conntrack is not active, as in "on this host".
    unreadable: whether the check's own namespace was asked for and could not be read.
    forbidden: whether privileges were missing.
    frames: the reader's answer by inode and file.
    """

    first: Namespace | None = None
    others: tuple[Namespace, ...] = ()
    problems: tuple[str, ...] = ()
    inactive: tuple[str, ...] = ()
    unreadable: bool = False
    forbidden: bool = False
    frames: Mapping[int, Mapping[str, Frame]] = {}

    @property
    def all(self) -> tuple[Namespace, ...]:
        """Return all namespaces, the first one first."""
        return ((self.first,) if self.first else ()) + self.others


# --- names


def names() -> dict[int, str]:
    """Return the names of all namespaces that have a name or a mount, by inode number.

    A name under /run/netns wins over a mount, and of several the first in alphabetical order.
    """
    called: dict[int, str] = {}
    for path, inode in sorted(mounts().items()):
        called.setdefault(inode, os.path.basename(path))
    try:
        device = os.stat(OWN).st_dev
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
    """Return when each named namespace got its name, in seconds since the epoch, by inode number.

    A message that names an inode number and is older speaks of an earlier namespace. Namespaces
    without a name under /run/netns are left out.
    """
    births = {}
    for inode, name in called.items():
        born = birth(os.path.join(DIRECTORY, name), inode)
        if born:
            births[inode] = born
    return births


def birth(path: str, inode: int) -> float:
    """Return when a name was made that leads to a namespace; 0 if it leads to another by now."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0.0
    return status.st_ctime if status.st_ino == inode else 0.0


def mounts() -> dict[str, int]:
    """Return the inode numbers of mounted namespaces by path (proc_pid_mountinfo(5))."""
    mounted = {}
    for line in read_long_file("/proc/self/mountinfo").data.splitlines():
        fields = line.split(b" ")
        # The optional fields end at the first "-"; the type of the file system follows.
        if len(fields) < 5 or b"-" not in fields:
            continue
        if fields[fields.index(b"-") :][1:2] != [b"nsfs"]:
            continue
        inode = fields[3][5:-1]
        if fields[3][:5] == b"net:[" and inode.isdigit():
            mounted[os.fsdecode(_unescape(fields[4]))] = int(inode)
    return mounted


def _unescape(field: bytes) -> bytes:
    import re

    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), field)
