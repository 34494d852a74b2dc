"""How many entries the connection-tracking table of a network namespace holds, and may hold.

Source: net/netfilter/nf_conntrack_standalone.c and Documentation/networking/nf_conntrack-sysctl.rst
in the kernel; the old names are those of ip_conntrack (Linux 2.4 to 4.8).
"""

from __future__ import annotations

import os

from .namedtuple import NamedTuple
from .source import FileReading, KernelError, read_file

# The network namespace that a process is in (namespaces(7)).
OWN = "/proc/self/ns/net"
NEW = "/proc/sys/net/netfilter/nf_conntrack_"
OLD = "/proc/sys/net/ipv4/netfilter/ip_conntrack_"
UINT_MAX = 0xFFFFFFFF


class Limits(NamedTuple):
    """A namespace's count of entries and its limits.

    `limit` is 0 where the kernel sets none. `buckets` is None where the kernel does not tell, and
    `fault` then says why, where that is not simply an old kernel. `origin` is the path that was
    read, less the last word.
    """

    entries: int
    limit: int
    buckets: int | None = None
    fault: str = ""
    origin: str = NEW

    @property
    def usage(self) -> float | None:
        """Entries of the limit, in percent; None where there is no limit."""
        return 100 * self.entries / self.limit if self.limit else None

    @property
    def full(self) -> bool:
        """Whether the kernel drops what would need a new entry."""
        return 0 < self.limit <= self.entries


def number(reading: FileReading) -> int:
    """The number a sysctl holds; raises KernelError naming its path and what is wrong."""
    if reading.errno:
        raise KernelError(f"{reading.path} cannot be read: {os.strerror(reading.errno)}")
    text = reading.data.strip(b" \t\n")
    if not text.isdigit() or len(text) > 10 or int(text) > UINT_MAX:
        shown = reading.data[:20].decode("ascii", "backslashreplace").strip()
        what = (
            f"holds {shown!r}" + ("..." if len(reading.data) > 20 else "") if text else "is empty"
        )
        raise KernelError(f"{reading.path} {what}, which is no count of entries")
    return int(text)


def parse_limits(
    count: FileReading, limit: FileReading, buckets: FileReading | None
) -> Limits | None:
    """What the three sysctls say; None where there is no count, for conntrack is not active.

    Raises KernelError where the count or its limit cannot be read or is no number. Buckets that
    are no number leave the rest as it is: they are no reason to hide a full table.
    """
    if count.missing:
        return None
    entries = number(count)
    maximum = number(limit)
    fault = ""
    hashed = None
    if buckets is not None and not buckets.missing:
        try:
            hashed = number(buckets) or None
        except KernelError as error:
            fault = str(error)
    return Limits(entries, maximum, hashed, fault, count.path[: -len("count")])


def read_limits() -> Limits | None:
    """The limits of the network namespace this process runs in; None where conntrack is inactive.

    Needs no right. Raises KernelError as parse_limits does, and where /proc/sys/net is not there
    at all, which says nothing about conntrack.
    """
    for base in (NEW, OLD):
        count = read_file(base + "count")
        if not count.missing:
            return parse_limits(count, read_file(base + "max"), read_file(base + "buckets"))
    if not os.path.isdir("/proc/sys/net"):
        raise KernelError("/proc/sys/net does not exist: is /proc mounted?")
    return None


def own_inode() -> int:
    """The inode number of this process's own network namespace."""
    try:
        return os.stat(OWN).st_ino
    except OSError as error:
        raise KernelError(f"{OWN} cannot be read: {error.strerror}") from None


def read_expect_max() -> int | None:
    """How many expectations there may be (nf_conntrack_expect_max); None where that is not told."""
    try:
        return number(read_file(NEW + "expect_max"))
    except KernelError:
        return None


def may_set_limits() -> bool:
    """Whether the sysctls can be set from this namespace: only the host's own has them writable."""
    try:
        return bool(os.stat(NEW + "max").st_mode & 0o200)
    except OSError:
        return False


def buckets_sysctl_writable() -> bool:
    """Whether a new number of buckets can be set by sysctl (Linux 4.9 and later)."""
    try:
        return bool(os.stat(NEW + "buckets").st_mode & 0o200)
    except OSError:
        return False
