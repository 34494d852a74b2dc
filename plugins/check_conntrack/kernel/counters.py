"""Read the counters of connection tracking of each CPU, and how far they rose between readings.

Follows ct_cpu_seq_show in net/netfilter/nf_conntrack_standalone.c for the text, and
ctnetlink_ct_stat_cpu_fill_info in net/netfilter/nf_conntrack_netlink.c for netlink.
"""

from __future__ import annotations

import enum
import os
import struct

from . import ctnetlink as ct
from . import netlink
from .namedtuple import NamedTuple

PATH = "/proc/net/stat/nf_conntrack"
# The counters are unsigned int in the kernel.
MODULUS = 1 << 32
# The most packets a second that one CPU counts: all that ten gigabit Ethernet can carry. Conntrack
# alone takes more than the 67 ns that this leaves for a packet.
FASTEST = 14_880_952


class CpuCounters(NamedTuple):
    """The counters of one CPU, or their sums; None for what this kernel does not have.

    Where the kernel's two interfaces differ, the names are those of conntrack(8).

    Attributes:
        cpu: CPU number over netlink; in the text the number of the line, which names no CPU; None
            for sums
    """

    cpu: int | None = None
    found: int | None = None
    invalid: int | None = None
    insert: int | None = None
    insert_failed: int | None = None
    drop: int | None = None
    early_drop: int | None = None
    error: int | None = None
    search_restart: int | None = None
    clash_resolve: int | None = None
    chaintoolong: int | None = None
    expect_new: int | None = None
    expect_create: int | None = None
    expect_delete: int | None = None


COUNTERS = CpuCounters._fields[1:]
# Counters by the names in the header. Retired columns (searched, new, ignore, delete, delete_list)
# are not read: kernels that still have them print zeros or other things.
_COLUMNS = {
    "icmp_error": "error",
    "clashres": "clash_resolve",
    "chainlength": "chaintoolong",
    **{name: name for name in COUNTERS},
}


class KernelCounters(NamedTuple):
    """One reading of the counters.

    Attributes:
        cpus: of each CPU
        entries: in the table; None over netlink
    """

    cpus: tuple[CpuCounters, ...]
    entries: int | None = None


class CountersError(ValueError):
    """Bytes that are no counters; the message says what is wrong."""


class NetlinkError(OSError):
    """The kernel refused the request: EPERM without CAP_NET_ADMIN."""


# --- the text


def parse_text(text: bytes) -> KernelCounters:
    """Return the counters in /proc/net/stat/nf_conntrack, by the names in its header.

    Columns with other names are passed over. Raises CountersError.
    """
    lines = text.decode("ascii", "replace").splitlines()
    names = lines[0].split() if lines else []
    if "entries" not in names:
        raise CountersError(f"{PATH} has no header")
    cpus = []
    entries = None
    for number, line in enumerate(lines[1:]):
        values = line.split()
        if not values:
            continue
        if len(values) != len(names):
            raise CountersError(f"{PATH} has {len(values)} values under {len(names)} names")
        fields = {}
        for name, value in zip(names, values):
            if name == "entries":
                # The whole table's, repeated in each line.
                entries = _hexadecimal(value)
            elif name in _COLUMNS:
                fields[_COLUMNS[name]] = _hexadecimal(value)
        cpus.append(CpuCounters(number, **fields))
    if not cpus:
        raise CountersError(f"{PATH} has no line for any CPU")
    return KernelCounters(tuple(cpus), entries)


def _hexadecimal(text: str) -> int:
    # int() takes signs, underscores and 0x.
    if not 1 <= len(text) <= 8 or text.strip("0123456789abcdefABCDEF"):
        raise CountersError(f"{PATH} holds what is not a hexadecimal number of 32 bits")
    return int(text, 16)


def read_text(path: str = PATH) -> KernelCounters:
    """Read the counters of the network namespace of ``path``. Needs no privileges.

    Raises FileNotFoundError where the kernel has no such file
    (CONFIG_NF_CONNTRACK_PROCFS) or conntrack is not active, another OSError where it cannot be
    read, CountersError where it holds something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        parts: list[bytes] = []
        while True:
            part = os.read(descriptor, 1 << 16)
            if not part:
                return parse_text(b"".join(parts))
            parts.append(part)
    finally:
        os.close(descriptor)


# --- netlink

IPCTNL_MSG_CT_GET_STATS_CPU, IPCTNL_MSG_CT_GET_STATS = 4, 5
CTA_STATS_GLOBAL_MAX_ENTRIES = 2
_BE32 = struct.Struct(">I")
# enum ctattr_stats_cpu; what is left out is "no longer used"
_CTA_STATS = {
    2: "found",
    4: "invalid",
    8: "insert",
    9: "insert_failed",
    10: "drop",
    11: "early_drop",
    12: "error",
    13: "search_restart",
    14: "clash_resolve",
    15: "chaintoolong",
}


def parse_stats_cpu(replies: bytes) -> KernelCounters:
    """Return the counters in the replies to IPCTNL_MSG_CT_GET_STATS_CPU, joined.

    Unknown attributes are passed over. Raises NetlinkError where the kernel refused, CountersError
    where the bytes are no such replies or the dump has no end.
    """
    cpus: list[CpuCounters] = []
    done = False
    try:
        for start, end in netlink.messages(replies):
            _, kind, _, _, _ = netlink.NLMSGHDR.unpack_from(replies, start)
            if kind == netlink.NLMSG_DONE:
                done = True
            elif kind == netlink.NLMSG_ERROR:
                code = netlink.error_number(replies, start, end)
                if code:
                    raise NetlinkError(code, netlink.error_text(code))
            elif kind == ct.NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS_CPU:
                cpus.append(_cpu(replies, start + netlink.NLMSGHDR.size, end))
    except netlink.MalformedError as error:
        raise CountersError(str(error)) from None
    if not done:
        raise CountersError("the kernel's counters are cut short")
    if not cpus:
        raise CountersError("the kernel sent the counters of no CPU")
    return KernelCounters(tuple(cpus))


def parse_stats_limit(reply: bytes) -> int | None:
    """Return the limit in the reply to IPCTNL_MSG_CT_GET_STATS; None where there is none."""
    try:
        for start, end in netlink.messages(reply):
            _, kind, _, _, _ = netlink.NLMSGHDR.unpack_from(reply, start)
            if kind == ct.NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS:
                body = start + netlink.NLMSGHDR.size + ct.NFGENMSG.size
                for attribute, value, stop in netlink.attributes(reply, body, end):
                    if attribute == CTA_STATS_GLOBAL_MAX_ENTRIES and stop - value == _BE32.size:
                        return int(_BE32.unpack_from(reply, value)[0])
    except netlink.MalformedError:
        pass
    return None


def _cpu(replies: bytes, start: int, end: int) -> CpuCounters:
    """Return the counters of one CPU, whose number is in res_id."""
    if end - start < ct.NFGENMSG.size:
        raise netlink.MalformedError("truncated netlink message: no struct nfgenmsg")
    _, _, number = ct.NFGENMSG.unpack_from(replies, start)
    fields = {
        _CTA_STATS[kind]: _BE32.unpack_from(replies, value)[0]
        for kind, value, stop in netlink.attributes(replies, start + ct.NFGENMSG.size, end)
        if kind in _CTA_STATS and stop - value == _BE32.size
    }
    return CpuCounters(number, **fields)


# --- arithmetic


def total(counters: KernelCounters) -> CpuCounters:
    """Return the sums over all CPUs; None where the kernel does not have the counter."""
    return _sum(counters.cpus)


def _sum(cpus: tuple[CpuCounters, ...]) -> CpuCounters:
    sums: dict[str, int | None] = {}
    for name in COUNTERS:
        values = [value for cpu in cpus if (value := getattr(cpu, name)) is not None]
        sums[name] = sum(values) if values else None
    return CpuCounters(None, **sums)


class Origin(NamedTuple):
    """The origin of counters. Two readings of the same origin were not set to zero in between.

    Attributes:
        boot: boot id
        namespace: inode of the network namespace
        module: inode of /sys/module/nf_conntrack, a new one each time the module is loaded

    None where it is not known, which proves nothing.
    """

    boot: str | None = None
    namespace: int | None = None
    module: int | None = None


class Course(enum.Enum):
    """The change of the counters between two readings; the value may be stored.

    Attributes:
        CONTINUED: none fell
        WRAPPED: some passed 2**32
        RESET: they began again at zero. The rise is what they counted since; what was counted
            between the earlier reading and the reset is lost
        UNCLEAR: some fell, and nothing proves a wrap or a reset. The rise is the smaller of both
    """

    CONTINUED = "continued"
    WRAPPED = "wrapped"
    RESET = "reset"
    UNCLEAR = "unclear"


class Rise(NamedTuple):
    """How far the counters rose between two readings.

    Attributes:
        course: what happened to them
        total: sums over all CPUs
        cpus: of each CPU
        full_drops: packets dropped that failed inserts do not explain; None: unknown
    """

    course: Course
    total: CpuCounters
    cpus: tuple[CpuCounters, ...] = ()
    full_drops: int | None = None


def rise(
    before: KernelCounters,
    after: KernelCounters,
    origin_before: Origin = Origin(),  # noqa: B008 - a value that does not change
    origin_after: Origin = Origin(),  # noqa: B008
    seconds: float | None = None,
) -> Rise:
    """Return how far the counters rose, and whether they wrapped or were reset, without guessing.

    The rule, in this order:

    1. Another boot, namespace or loading of the module, or another set of CPUs, proves a RESET.
    2. No counter of any CPU fell: CONTINUED.
    3. Some fell. A CPU counts at most FASTEST times a second. A wrap means that each counter rose
       by (after - before) modulo 2**32 within ``seconds``; a reset, that each rose by all it now
       holds. Where the time allows only one of the two, it is that one.
    4. Otherwise, or where ``seconds`` is not known: UNCLEAR, and each rise is the smaller of both.

    After a reset, counters that have passed their earlier values again are only noticed by rule 1.
    Whole turns of 2**32, for which a CPU takes five minutes at least, are never noticed.
    """
    reset_proved = any(
        one is not None and other is not None and one != other
        for one, other in zip(origin_before, origin_after)
    )
    if reset_proved or [cpu.cpu for cpu in before.cpus] != [cpu.cpu for cpu in after.cpus]:
        return _result(Course.RESET, after.cpus)
    fallen = [
        (old_value, new_value)
        for old, new in zip(before.cpus, after.cpus)
        for old_value, new_value in zip(old[1:], new[1:])
        if old_value is not None and new_value is not None and new_value < old_value
    ]
    wrapped = _differences(before, after)
    if not fallen:
        return _result(Course.CONTINUED, wrapped)
    if seconds is not None and seconds >= 0:
        most = FASTEST * (seconds + 1)
        may_wrap = all(value <= most for value in _values(wrapped))
        # Only what the earlier reading has too began at zero within the time.
        may_reset = all(value <= most for value in _values(after.cpus))
        if may_wrap != may_reset:
            if may_wrap:
                return _result(Course.WRAPPED, wrapped)
            return _result(Course.RESET, after.cpus)
    least = tuple(
        CpuCounters(one.cpu, *(_least(*pair) for pair in zip(one[1:], other[1:])))
        for one, other in zip(wrapped, after.cpus)
    )
    drops = [full_drops(_sum(wrapped)), full_drops(_sum(after.cpus))]
    known = [value for value in drops if value is not None]
    return Rise(Course.UNCLEAR, _sum(least), least, min(known) if known else None)


def _least(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else min(one, other)


def _result(course: Course, cpus: tuple[CpuCounters, ...]) -> Rise:
    summed = _sum(cpus)
    return Rise(course, summed, cpus, full_drops(summed))


def _differences(before: KernelCounters, after: KernelCounters) -> tuple[CpuCounters, ...]:
    differences = []
    for old, new in zip(before.cpus, after.cpus):
        values = [
            None if one is None or other is None else (other - one) % MODULUS
            for one, other in zip(old[1:], new[1:])
        ]
        differences.append(CpuCounters(new.cpu, *values))
    return tuple(differences)


def _values(cpus: tuple[CpuCounters, ...]) -> list[int]:
    return [value for cpu in cpus for value in cpu[1:] if value is not None]


def full_drops(risen: CpuCounters) -> int | None:
    """Return how many packets were dropped that failed inserts do not explain, at least 0.

    drop - (insert_failed - chaintoolong): a clash counts in both drop and insert_failed, a chain
    too long in insert_failed and chaintoolong and not in drop. None where the kernel has no
    ``drop`` or ``insert_failed``; kernels without ``chaintoolong`` have no such refusals.
    """
    if risen.drop is None or risen.insert_failed is None:
        return None
    clashes = max(0, risen.insert_failed - (risen.chaintoolong or 0))
    return max(0, risen.drop - clashes)
