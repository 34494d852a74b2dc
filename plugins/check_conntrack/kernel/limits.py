"""The number of entries in a network namespace's connection-tracking table, and its limit.

Source: net/netfilter/nf_conntrack_standalone.c and Documentation/networking/nf_conntrack-sysctl.rst
in the kernel; the old names are those of ip_conntrack (Linux 2.4 to 4.8).
"""

from __future__ import annotations

import os

from .namedtuple import NamedTuple
from .source import FileReading, KernelError, read_file, read_long_file

OWN = "/proc/self/ns/net"  # the network namespace that a process is in (namespaces(7))
NEW = "/proc/sys/net/netfilter/nf_conntrack_"
OLD = "/proc/sys/net/ipv4/netfilter/ip_conntrack_"
UINT_MAX = 0xFFFFFFFF
# One of these exists wherever conntrack is active, unless it is hidden as well.
TRACES = ("/proc/net/nf_conntrack", "/proc/net/stat/nf_conntrack", "/sys/module/nf_conntrack")
MODULES = "/proc/modules"
ENA_DEVICES = "/sys/bus/pci/drivers/ena"


class HiddenError(KernelError):
    """Conntrack is active, but its sysctls are hidden from this process."""


class Limits(NamedTuple):
    """A namespace's count of entries and its limits.

    entries: nf_conntrack_count.
    limit: nf_conntrack_max; 0 if the kernel sets none.
    buckets: nf_conntrack_buckets; None if the kernel does not tell.
    fault: why buckets are not known, unless the kernel is simply too old.
    origin: the path that was read, without its last word.
    """

    entries: int
    limit: int
    buckets: int | None = None
    fault: str = ""
    origin: str = NEW

    @property
    def usage(self) -> float | None:
        """Return the entries in percent of the limit; None if there is no limit."""
        return 100 * self.entries / self.limit if self.limit else None

    @property
    def full(self) -> bool:
        """Return whether the table is at its limit: a new entry is refused or evicts another."""
        return 0 < self.limit <= self.entries


def number(reading: FileReading) -> int:
    """Return the number in a sysctl; raises KernelError with its path and the problem."""
    if reading.errno:
        raise KernelError(f"{reading.path}: {os.strerror(reading.errno)}")
    text = reading.data.strip(b" \t\n")
    if not text:
        raise KernelError(f"{reading.path}: empty")
    if not text.isdigit() or len(text) > 10 or int(text) > UINT_MAX:
        shown = reading.data[:20].decode("ascii", "backslashreplace").strip()
        more = "..." if len(reading.data) > 20 else ""
        raise KernelError(f"{reading.path}: malformed ({shown!r}{more})")
    return int(text)


def parse_limits(
    count: FileReading, limit: FileReading, buckets: FileReading | None
) -> Limits | None:
    """Return the limits that three sysctls tell; None if there is no count.

    Raises KernelError if the count or its limit cannot be read or is not a number. A malformed
    number of buckets is a fault only: it must not hide a full table.
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
    """Return the limits of this process's network namespace; None if conntrack is not active.

    Not privileged. Raises KernelError as parse_limits() does, and HiddenError if the sysctls are
    missing although conntrack is active.
    """
    for base in (NEW, OLD):
        count = read_file(base + "count")
        if not count.missing:
            return parse_limits(count, read_file(base + "max"), read_file(base + "buckets"))
    if not os.path.isdir("/proc/sys/net"):
        raise KernelError("/proc/sys/net: not found (is /proc mounted?)")
    trace = conntrack_trace()
    if trace:
        raise hidden_error(trace)
    return None


def conntrack_trace() -> str:
    """Return a path that shows that conntrack is active; empty if there is none.

    Nothing is loaded by looking, as a request to ctnetlink would do.
    """
    for path in TRACES:
        if os.path.exists(path):
            return path
    loaded = b"\n" + read_long_file(MODULES).data
    return MODULES if b"\nnf_conntrack " in loaded else ""


def hidden_error(trace: str) -> HiddenError:
    """Return the error for sysctls that are hidden, by what shows that conntrack is active."""
    return HiddenError(
        f"{NEW}count: hidden, although {trace} shows that conntrack is active "
        "(make /proc/sys/net/netfilter visible here, or check from the host)"
    )


def has_ena() -> bool:
    """Return whether the driver of EC2's interfaces is loaded, so that kernel/ena.py is needed."""
    return os.path.isdir(ENA_DEVICES)


def own_inode() -> int:
    """Return the inode number of this process's network namespace; raises KernelError."""
    try:
        return os.stat(OWN).st_ino
    except OSError as error:
        raise KernelError(f"{OWN}: {error.strerror}") from None


def read_expect_max() -> int | None:
    """Return how many expectations there may be (nf_conntrack_expect_max); None if unknown."""
    try:
        return number(read_file(NEW + "expect_max"))
    except KernelError:
        return None


def may_set_limits() -> bool:
    """Return whether this is the host's own namespace: only there the limits can be set."""
    return _is_writable(NEW + "max")


def buckets_sysctl_writable() -> bool:
    """Return whether the number of buckets can be set by sysctl (Linux 4.9 and later)."""
    return _is_writable(NEW + "buckets")


def _is_writable(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & 0o200)
    except OSError:
        return False
