"""How far counters rose between runs, and what a run of check_conntrack_full leaves to the next.

Values and pure functions: what reads the counters is kernel/counters.py, what keeps the rest
history.py.
"""

from __future__ import annotations

from ..kernel import counters
from ..kernel.log import gather
from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

MOST_RISES = 200
# Of all further namespaces together.
MOST_RISES_IN_ALL = 20000
# A usage that makes drops the table's doing, in percent.
NEARLY_FULL = 95.0


class Rise(NamedTuple):
    """How far the counters rose between two runs; times in seconds since boot.

    `full_drops` is None where the kernel does not tell; `usage` is the larger of both runs', in
    percent, 0 without a limit.
    """

    begin: float
    end: float
    full_drops: int | None = None
    early_drops: int | None = None
    insert_failures: int | None = None
    chain_overflows: int | None = None
    usage: float = 0.0


class Memory(NamedTuple):
    """What a run leaves to the next: when it was, what the counters said, what the log held.

    `at` is in seconds since the epoch, `up` since boot. `module` is the inode of the loaded
    module, 0 where it is built in. `heard` is `at` of the last run that could read a log, None
    where none could.
    """

    at: float
    up: float
    boot: str
    netns: int
    module: int
    usage: float
    counters: counters.Counters | None = None
    rises: tuple[Rise, ...] = ()
    known: tuple[tuple[str, gather.LogHistory], ...] = ()
    heard: float | None = None


class Quiet(NamedTuple):
    """Namespaces where nothing had ever been counted, by their inodes, `up` seconds after boot."""

    up: float
    boot: str
    inodes: tuple[int, ...]

    @classmethod
    def from_plain(cls, plain: Any) -> Quiet | None:
        """What JSON has made of it; None for anything else."""
        try:
            up, boot, inodes = plain
            return cls(float(up), str(boot), tuple(int(inode) for inode in inodes))
        except (TypeError, ValueError, OverflowError):
            return None

    def memory(self, now: Memory) -> Memory | None:
        """What a run then would have remembered of the namespace of `now`, had it been kept."""
        if now.boot != self.boot or now.netns not in self.inodes or now.counters is None:
            return None
        zero = tuple(
            counters.CpuCounters(cpu.cpu, *(None if value is None else 0 for value in cpu[1:]))
            for cpu in now.counters.cpus
        )
        at = now.at - (now.up - self.up)
        return now._replace(at=at, up=self.up, usage=0.0, counters=counters.Counters(zero))


def to_plain(memory: Memory) -> dict[str, Any]:
    """What is remembered as JSON can hold it."""
    plain: dict[str, Any] = dict(zip(memory._fields, memory))
    plain["counters"] = counters.to_plain(memory.counters) if memory.counters else None
    plain["rises"] = [list(rise) for rise in memory.rises]
    plain["known"] = gather.histories_to_plain(memory.known)
    return plain


def from_plain(plain: Any) -> Memory | None:
    """What to_plain has written; None for anything else."""
    try:
        told, heard = plain["counters"], plain["heard"]
        memory = Memory(
            float(plain["at"]),
            float(plain["up"]),
            str(plain["boot"]),
            int(plain["netns"]),
            int(plain["module"]),
            float(plain["usage"]),
            counters.from_plain(told) if told is not None else None,
            tuple(_rise(*numbers) for numbers in plain["rises"]),
            tuple(gather.histories_from_plain(plain["known"]).items()),
            float(heard) if heard is not None else None,
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return memory if 0 <= memory.at < 1e12 and 0 <= memory.up < 1e12 else None


def to_row(memory: Memory, most: int) -> list[Any]:
    """What is remembered of a further namespace, `most` rises at most, as JSON can hold it.

    Short, for there may be thousands: sums over all CPUs, and of rises those that say something.
    """
    total = counters.total(memory.counters)[1:] if memory.counters else ()
    rises = _fold([rise for rise in memory.rises if _tells(rise)], most)
    return [
        round(memory.at),
        memory.up,
        memory.netns,
        memory.usage,
        list(total),
        [list(rise) for rise in rises],
    ]


def from_row(row: Any, boot: str, module: int) -> Memory | None:
    """What to_row has written in that boot, with that module; None for anything else."""
    try:
        at, up, netns, usage, sums, rises = row
        memory = Memory(
            float(at),
            float(up),
            boot,
            int(netns),
            module,
            float(usage),
            counters.Counters((counters.CpuCounters(None, *map(_count, sums)),)),
            tuple(_rise(*numbers) for numbers in rises),
        )
    except (TypeError, ValueError, OverflowError):
        return None
    return memory if 0 <= memory.at < 1e12 and 0 <= memory.up < 1e12 else None


def _count(value: Any) -> int | None:
    if value is None or (type(value) is int and 0 <= value < 1 << 63):
        return value
    raise ValueError("no sum of counters")


def _tells(rise: Rise) -> bool:
    """Whether a rise changes the sum over any window that it is in."""
    return bool(
        rise.full_drops
        or rise.early_drops
        or rise.insert_failures
        or rise.chain_overflows
        or rise.usage >= NEARLY_FULL
    )


class Further(NamedTuple):
    """What a run leaves to the next of further namespaces: `memories` by their keys, and `quiet`.

    One file holds them all: thousands of files would crowd out what other services remember.
    """

    memories: Mapping[str, Memory] = {}
    quiet: Quiet | None = None

    @classmethod
    def from_plain(cls, plain: Any) -> Further:
        """What to_plain has written; nothing of what is not as it was written."""
        try:
            boot, module, rows = str(plain["boot"]), int(plain["module"]), plain["rows"]
            read = {key: from_row(row, boot, module) for key, row in rows.items()}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return cls()
        memories = {key: memory for key, memory in read.items() if memory}
        return cls(memories, Quiet.from_plain(plain.get("quiet")))

    def to_plain(self, now: Memory) -> dict[str, Any]:
        """What is remembered as JSON can hold it, by the run of `now`."""
        risen = sum(bool(memory.rises) for memory in self.memories.values())
        most = min(MOST_RISES, max(2, MOST_RISES_IN_ALL // max(1, risen)))
        rows = {}
        for key, memory in self.memories.items():
            same = (memory.boot, memory.module) == (now.boot, now.module)
            # Another boot's or module's counters are as those of another namespace: no inode is 0.
            kept = memory if same else memory._replace(netns=0, rises=())
            rows[key] = to_row(kept, most)
        quiet = list(self.quiet) if self.quiet else None
        return {"boot": now.boot, "module": now.module, "quiet": quiet, "rows": rows}


def _rise(
    begin: Any, end: Any, drops: Any, early: Any, failures: Any, overflows: Any, usage: Any
) -> Rise:
    def whole(count: Any) -> int | None:
        float(0 if count is None else count)  # raises OverflowError for what is no sum of counters
        return None if count is None else max(0, int(count))

    return Rise(
        float(begin),
        float(end),
        whole(drops),
        whole(early),
        whole(failures),
        whole(overflows),
        float(usage),
    )


def risen_since(
    memory: Memory | None, now: Memory, start: float | None
) -> tuple[Rise | None, tuple[Rise, ...]]:
    """The rise over the window, and all rises to be remembered.

    `now` is this run, not yet with rises. `start` is the window's begin in seconds since boot,
    None for all since the counters began. The rise is None where that is not known.
    """
    if now.counters is None:
        return None, memory.rises if memory and memory.boot == now.boot else ()
    total = counters.total(now.counters)
    since_zero = Rise(
        0.0,
        now.up,
        counters.full_drops(total),
        total.early_drop,
        total.insert_failed,
        total.chaintoolong,
        now.usage,
    )
    rises: list[Rise] = []
    if memory and memory.counters:
        same = memory.boot == now.boot and memory.netns == now.netns
        risen = counters.rise(
            memory.counters,
            now.counters,
            counters.Origin(memory.boot, memory.netns, memory.module),
            counters.Origin(now.boot, now.netns, now.module),
            now.up - memory.up if same else None,
        )
        rises = list(memory.rises) if same else []
        begin = memory.up if same and memory.up <= now.up else 0.0
        rises.append(
            Rise(
                begin,
                now.up,
                risen.full_drops,
                risen.total.early_drop,
                risen.total.insert_failed,
                risen.total.chaintoolong,
                max(now.usage, memory.usage) if same else now.usage,
            )
        )
    kept = _fold(rises)
    if start is None:
        return since_zero, kept
    inside = [rise for rise in kept if start < rise.end <= now.up]
    return (_sum(inside) if inside else None), kept


def _fold(rises: list[Rise], most: int = MOST_RISES) -> tuple[Rise, ...]:
    """At most so many, the newest half as they are; of the others the shortest are joined.

    A window that begins within a joined stretch counts all of it.
    """
    while len(rises) > most:
        old = range(len(rises) - most // 2)
        at = min(old, key=lambda at: rises[at + 1].end - rises[at].begin)
        rises[at : at + 2] = [_sum(rises[at : at + 2])]
    return tuple(rises)


def _sum(rises: Sequence[Rise]) -> Rise:
    def total(values: Sequence[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    return Rise(
        rises[0].begin,
        rises[-1].end,
        total([rise.full_drops for rise in rises]),
        total([rise.early_drops for rise in rises]),
        total([rise.insert_failures for rise in rises]),
        total([rise.chain_overflows for rise in rises]),
        max(rise.usage for rise in rises),
    )
