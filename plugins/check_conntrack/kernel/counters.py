"""The counters of connection tracking, per CPU, and how far they rose between two readings.

Follows ct_cpu_seq_show in net/netfilter/nf_conntrack_standalone.c for the text, and
ctnetlink_ct_stat_cpu_fill_info in net/netfilter/nf_conntrack_netlink.c for netlink.
"""

from __future__ import annotations

import enum
import os
import struct

from .namedtuple import NamedTuple

PATH = "/proc/net/stat/nf_conntrack"
MODULUS = 1 << 32
"""The counters are unsigned int in the kernel."""
FASTEST = 14_880_952
"""Packets a second that one CPU counts at the utmost: all that ten gigabit Ethernet can carry.
Conntrack alone takes more than the 67 ns this leaves for a packet."""


class CpuCounters(NamedTuple):
    """The counters of one CPU, or their sums; None for what this kernel does not have.

    The names are those of conntrack(8), where the kernel's two interfaces differ.
    """

    cpu: int | None = None
    """CPU number over netlink; in the text the number of the line, which names no CPU."""
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
# The header's names, where they are not ours. What columns once counted (searched, new, ignore,
# delete, delete_list) is not read: kernels that still have it print zeros or other things.
_COLUMNS = {
    "icmp_error": "error",
    "clashres": "clash_resolve",
    "chainlength": "chaintoolong",
    **{name: name for name in COUNTERS},
}


class Counters(NamedTuple):
    """One reading."""

    cpus: tuple[CpuCounters, ...]
    entries: int | None = None
    """Entries in the table, where the text tells."""


class TableStats(NamedTuple):
    """What GET_STATS tells of a namespace's table."""

    entries: int | None = None
    limit: int | None = None


class CountersError(ValueError):
    """Bytes that are no counters; the message says what is wrong."""


class NetlinkError(OSError):
    """The kernel refused the request: EPERM without CAP_NET_ADMIN."""


# -- the text ------------------------------------------------------------------------------------


def parse_text(text: bytes) -> Counters:
    """Return what /proc/net/stat/nf_conntrack says, by the names in its header.

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
    return Counters(tuple(cpus), entries)


def _hexadecimal(text: str) -> int:
    # int() takes signs, underscores and 0x.
    if not 1 <= len(text) <= 8 or text.strip("0123456789abcdefABCDEF"):
        raise CountersError(f"{PATH} holds what is no hexadecimal number of 32 bits")
    return int(text, 16)


def read_text(path: str = PATH) -> Counters:
    """Read the counters of the network namespace that ``path`` stands in.

    Needs no right. Raises FileNotFoundError where the kernel has no such file
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


# -- netlink -------------------------------------------------------------------------------------

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr, in the host's byte order
_GENERIC = struct.Struct(">BBH")  # struct nfgenmsg; res_id is big-endian
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_BE32 = struct.Struct(">I")
_I32 = struct.Struct("=i")

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 1
NLM_F_DUMP = 0x300
NLA_TYPE_MASK = 0x3FFF
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET_STATS_CPU = 4
IPCTNL_MSG_CT_GET_STATS = 5
CTA_STATS_GLOBAL_ENTRIES = 1
CTA_STATS_GLOBAL_MAX_ENTRIES = 2
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


def stats_cpu_request(sequence: int = 1) -> bytes:
    """Return the request for the counters of each CPU, a dump."""
    return _request(IPCTNL_MSG_CT_GET_STATS_CPU, NLM_F_REQUEST | NLM_F_DUMP, sequence)


def stats_request(sequence: int = 1) -> bytes:
    """Return the request for entries and limit. It is no dump: asked as one it never ends."""
    return _request(IPCTNL_MSG_CT_GET_STATS, NLM_F_REQUEST, sequence)


def _request(message: int, flags: int, sequence: int) -> bytes:
    kind = NFNL_SUBSYS_CTNETLINK << 8 | message
    size = _HEADER.size + _GENERIC.size
    return _HEADER.pack(size, kind, flags, sequence, 0) + _GENERIC.pack(0, 0, 0)


def parse_stats_cpu(replies: bytes) -> Counters:
    """Return the counters in the replies to ``stats_cpu_request``, all of them joined.

    Attributes are told by their type; unknown ones are passed over. Raises NetlinkError where the
    kernel refused, CountersError where the bytes are no such replies or the dump has no end.
    """
    cpus = []
    messages, done = _messages(replies, IPCTNL_MSG_CT_GET_STATS_CPU)
    for number, attributes in messages:
        fields = {_CTA_STATS[kind]: value for kind, value in attributes if kind in _CTA_STATS}
        cpus.append(CpuCounters(number, **fields))
    if not done:
        raise CountersError("the kernel's counters are cut short")
    if not cpus:
        raise CountersError("the kernel told the counters of no CPU")
    return Counters(tuple(cpus))


def parse_stats(reply: bytes) -> TableStats:
    """Return entries and limit from the reply to ``stats_request``.

    Raises as ``parse_stats_cpu`` does.
    """
    messages, _ = _messages(reply, IPCTNL_MSG_CT_GET_STATS)
    if not messages:
        raise CountersError("the kernel told nothing of its table")
    told = dict(messages[0][1])
    return TableStats(told.get(CTA_STATS_GLOBAL_ENTRIES), told.get(CTA_STATS_GLOBAL_MAX_ENTRIES))


def _messages(replies: bytes, wanted: int) -> tuple[list[tuple[int, list[tuple[int, int]]]], bool]:
    """Return [(res_id, [(attribute, value)])] of the wanted messages, and whether DONE came."""
    found = []
    at = 0
    done = False
    while at < len(replies):
        if len(replies) - at < _HEADER.size:
            raise CountersError("netlink messages are cut short")
        size, kind, _, _, _ = _HEADER.unpack_from(replies, at)
        end = at + size
        if size < _HEADER.size or end > len(replies):
            raise CountersError("a netlink message has a wrong length")
        body = at + _HEADER.size
        at += size + 3 & ~3
        if kind == NLMSG_DONE:
            done = True
        elif kind == NLMSG_ERROR:
            if end - body < _I32.size:
                raise CountersError("a netlink error is cut short")
            code = -_I32.unpack_from(replies, body)[0]
            if code:
                raise NetlinkError(code, os.strerror(code))
        elif kind == NFNL_SUBSYS_CTNETLINK << 8 | wanted:
            if end - body < _GENERIC.size:
                raise CountersError("a netlink message is cut short")
            number = _GENERIC.unpack_from(replies, body)[2]
            found.append((number, _attributes(replies, body + _GENERIC.size, end)))
    return found, done


def _attributes(data: bytes, at: int, end: int) -> list[tuple[int, int]]:
    found = []
    while end - at >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size or at + size > end:
            raise CountersError("a netlink attribute has a wrong length")
        if size == _ATTRIBUTE.size + _BE32.size:
            value = _BE32.unpack_from(data, at + _ATTRIBUTE.size)[0]
            found.append((kind & NLA_TYPE_MASK, value))
        at += size + 3 & ~3
    return found


# -- arithmetic ----------------------------------------------------------------------------------


def total(counters: Counters) -> CpuCounters:
    """Return the sums over all CPUs; None where the kernel does not have the counter."""
    return _sum(counters.cpus)


def _sum(cpus: tuple[CpuCounters, ...]) -> CpuCounters:
    sums: dict[str, int | None] = {}
    for name in COUNTERS:
        values = [value for cpu in cpus if (value := getattr(cpu, name)) is not None]
        sums[name] = sum(values) if values else None
    return CpuCounters(None, **sums)


class Origin(NamedTuple):
    """What a reading's counters belong to: all of it the same, and they were never set to zero.

    None where it is not known, which proves nothing.
    """

    boot: str | None = None
    """Boot id."""
    namespace: int | None = None
    """Inode of the network namespace."""
    module: int | None = None
    """Inode of /sys/module/nf_conntrack, a new one each time the module is loaded."""


class Course(enum.Enum):
    """What happened to the counters between two readings; the value may be stored."""

    CONTINUED = "continued"
    """None fell."""
    WRAPPED = "wrapped"
    """Some passed 2**32."""
    RESET = "reset"
    """They began again at zero: the rise is what they have counted since, and what was counted
    between the earlier reading and the reset is lost."""
    UNCLEAR = "unclear"
    """Some fell, and what is known proves neither: the rise is what both leave, at least."""


class Rise(NamedTuple):
    """How far the counters rose between two readings."""

    course: Course
    total: CpuCounters
    """Sums over all CPUs."""
    cpus: tuple[CpuCounters, ...] = ()
    full_drops: int | None = None
    """Packets dropped that failed inserts do not explain."""


def rise(
    before: Counters,
    after: Counters,
    origin_before: Origin = Origin(),  # noqa: B008 - a value that does not change
    origin_after: Origin = Origin(),  # noqa: B008
    seconds: float | None = None,
) -> Rise:
    """Return how far the counters rose, and whether they wrapped or were reset, without guessing.

    The rule, in this order:

    1. Another boot, namespace or loading of the module: RESET, proved. So is another set of CPUs.
    2. No counter of any CPU fell: CONTINUED.
    3. Some fell. A CPU counts at most FASTEST times a second. Had they wrapped, each must have
       risen by (after - before) modulo 2**32 within ``seconds``, and each that did not fall by
       the difference; had they been reset, each by all it now holds. Where the time allows the
       one and not the other, that one it was.
    4. Otherwise, or with ``seconds`` not known: UNCLEAR, and each rise the least of both.

    A reset that every counter has made good by the time of the second reading cannot be seen but
    by 1; nor can whole turns of 2**32 be, for which a CPU takes five minutes at the very least.
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


def _differences(before: Counters, after: Counters) -> tuple[CpuCounters, ...]:
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
