"""How far the counters of a namespace rose between runs, over a window, and which time they cover.

Pure functions over values; kernel/counters.py reads the counters. All times are seconds since
this boot (CLOCK_BOOTTIME), which nobody can set: those of an earlier boot are negative.
"""

from __future__ import annotations

from ..kernel import counters
from ..kernel.coverage import TOLERANCE, Span, covered_since, union
from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_RISES = 200
MOST_RISES_IN_ALL = 20000
"""Of all further namespaces together."""
NEARLY_FULL = 95.0
"""Usage in percent that makes drops the table's doing."""
EARLIER_BOOT = 0
"""In place of a namespace's inode: no namespace has this number."""


class CounterRise(NamedTuple):
    """How far the counters rose between two runs.

    begin, end: seconds since this boot. Equal where it is not known what was counted before.
    full_drops: packets dropped that failed inserts do not explain.
    early_drops: entries evicted early.
    insert_failures: packets dropped because their insert failed.
    chain_overflows: inserts refused because a hash chain was too long.
    usage: the larger of both runs', in percent; 0 without a limit.
    invalid_packets: packets that belong to no connection.

    A count is None where the kernel does not have the counter.
    """

    begin: float
    end: float
    full_drops: int | None = None
    early_drops: int | None = None
    insert_failures: int | None = None
    chain_overflows: int | None = None
    usage: float = 0.0
    invalid_packets: int | None = None

    @property
    def losses(self) -> tuple[int | None, ...]:
        """Return the counts of what was lost."""
        return (self.full_drops, self.early_drops, self.insert_failures, self.chain_overflows)

    @property
    def counts(self) -> tuple[int | None, ...]:
        """Return all counts."""
        return (*self.losses, self.invalid_packets)


class NamespaceState(NamedTuple):
    """The state of one namespace that a run leaves to the next.

    at: when the run was, in seconds since the epoch.
    up: the same, in seconds since boot.
    netns: inode of the namespace, or EARLIER_BOOT.
    born: when the namespace was made, in seconds since the epoch; 0 where that is not known.
    began: since when these counters count without a reset, in seconds since boot.
    usage: entries of the limit in percent.
    cpus: the counters; empty where they could not be read.
    rises: how far they rose between earlier runs, oldest first.
    """

    at: float
    up: float
    netns: int
    born: float
    began: float
    usage: float
    cpus: tuple[counters.CpuCounters, ...] = ()
    rises: tuple[CounterRise, ...] = ()


class CounterWindow(NamedTuple):
    """The evidence of the counters for a window.

    rise: the sums over the window; None where nothing is known.
    spans: the time in which they show every drop, in seconds since boot.
    kept: what the next run gets.
    since: for each of CounterRise.counts, since when nothing of it can have been missed, in seconds
    since boot; None where the kernel does not have the counter. Empty if none could be read.
    """

    rise: CounterRise | None
    spans: tuple[Span, ...]
    kept: NamespaceState
    since: tuple[float | None, ...] = ()


def from_boot(state: NamespaceState, up: float, at: float) -> NamespaceState:
    """Return the state of an earlier boot as this boot's uptime tells it, by the wall clock.

    up, at: this run, in seconds since boot and since the epoch.
    """
    shift = (state.at - state.up) - (at - up)
    rises = tuple(
        rise._replace(begin=min(0.0, rise.begin + shift), end=min(0.0, rise.end + shift))
        for rise in state.rises
    )
    return state._replace(up=min(0.0, state.up + shift), netns=EARLIER_BOOT, began=0.0, rises=rises)


def compare(
    before: NamespaceState | None, now: NamespaceState, start: float | None, *, reloaded: bool
) -> CounterWindow:
    """Compare this run's counters with those of the run before, over the window since `start`.

    now: this run, without rises. start: seconds since boot; None for all that was counted.
    reloaded: another module counts than in the run before.
    """
    if not now.cpus:
        return _unread(before, now, start, reloaded=reloaded)
    total = _sum_of(now.cpus)
    since_zero = _rise(total, counters.full_drops(total), now.began, now.up, now.usage)
    began = now.began
    proof = _proof(total, since_zero)
    never = _never_counted(proof)
    rises: tuple[CounterRise, ...] = (never._replace(begin=began),) if never else ()
    if before is not None:
        began, rises = _continued(before, now, since_zero, reloaded=reloaded)
    kept = now._replace(began=began, rises=_fold(rises, start=start))
    if start is None:
        return _window(since_zero, kept, proof, whole=True)
    whole = start <= began
    if whole:
        # All that these counters hold was counted within the window.
        inside = [rise for rise in kept.rises if rise.begin < began and start < rise.end <= began]
        rise: CounterRise | None = _sum([*inside, since_zero._replace(begin=began)])
    else:
        rise = _inside(kept.rises, start)
    return _window(rise, kept, proof, whole=whole)


def _proof(total: counters.CpuCounters, since_zero: CounterRise) -> CounterRise:
    """Return the rise since zero, its full drops as `drop` where more inserts failed than that.

    Some kernels count inserts that failed and cost no packet (4.18). So many more than `drop` would
    explain any drop; that none is left over does not show that the table was never full.
    """
    failed = (total.insert_failed or 0) - (total.chaintoolong or 0)
    if since_zero.full_drops == 0 and failed > (total.drop or 0):
        return since_zero._replace(full_drops=total.drop)
    return since_zero


def _unread(
    before: NamespaceState | None, now: NamespaceState, start: float | None, *, reloaded: bool
) -> CounterWindow:
    """Return what earlier runs know where this one could not read the counters."""
    if before is None or before.netns != now.netns:
        return CounterWindow(None, (), before or now)
    inside = _inside(before.rises, start)
    spans = [Span(rise.begin, rise.end) for rise in before.rises if rise.full_drops is not None]
    kept = before._replace(at=now.at)
    if reloaded:
        # The next run compares with nothing: what the module before had counted is lost.
        kept = kept._replace(began=now.up, cpus=())
    return CounterWindow(inside, union(spans), kept)


def _continued(
    before: NamespaceState, now: NamespaceState, since_zero: CounterRise, *, reloaded: bool
) -> tuple[float, tuple[CounterRise, ...]]:
    """Return since when the counters count, and all rises, that to this run included."""
    if before.netns == EARLIER_BOOT:
        return now.began, (*before.rises, since_zero)
    remade = bool(before.born and now.born and abs(before.born - now.born) > TOLERANCE)
    if before.netns != now.netns or remade:
        # It has the name of another that is gone, and was made after the run before.
        began = max(now.began, before.up)
        return began, (since_zero._replace(begin=began),)
    if not before.cpus:
        began = now.up if reloaded else before.began
        # Loaded again after the last reading: all that the counters hold they have counted since.
        fresh = (since_zero._replace(begin=began),) if began > before.up else ()
        return began, (*before.rises, *fresh)
    risen = counters.rise(
        counters.KernelCounters(before.cpus),
        counters.KernelCounters(now.cpus),
        counters.Origin(module=0),
        counters.Origin(module=int(reloaded)),
        now.up - before.up,
    )
    usage = max(now.usage, before.usage)
    if risen.course in (counters.Course.RESET, counters.Course.UNCLEAR):
        # What was counted between the run before and the reset is lost.
        rise = _rise(risen.total, risen.full_drops, now.up, now.up, usage)
        return now.up, (*before.rises, rise)
    rise = _rise(risen.total, risen.full_drops, min(before.up, now.up), now.up, usage)
    return before.began, (*before.rises, rise)


def _window(
    rise: CounterRise | None, kept: NamespaceState, since_zero: CounterRise, *, whole: bool
) -> CounterWindow:
    """Return the window, with the time that each count covers, this moment included."""
    spans = [_spans(kept, at, count, whole=whole) for at, count in enumerate(since_zero.counts)]
    return CounterWindow(
        rise, spans[0], kept, tuple(covered_since(each, kept.up) for each in spans)
    )


def _spans(
    kept: NamespaceState, place: int, since_zero: int | None, *, whole: bool
) -> tuple[Span, ...]:
    """Return the time in which one of the counts can have missed nothing.

    place: of the count in CounterRise.counts. since_zero: what its counters hold; None without any.
    """
    if since_zero is None:
        return ()
    spans = [Span(rise.begin, rise.end) for rise in kept.rises if rise.counts[place] is not None]
    spans.append(Span(kept.up, kept.up))
    if whole or not since_zero:
        spans.append(Span(min(kept.began, kept.up), kept.up))
    return union(spans)


def _inside(rises: Sequence[CounterRise], start: float | None) -> CounterRise | None:
    inside = [rise for rise in rises if start is None or start < rise.end]
    return _sum(inside) if inside else None


def _never_counted(since_zero: CounterRise) -> CounterRise | None:
    """Return what was never counted at all as a rise of 0; None where everything was."""
    never = since_zero._replace(
        begin=since_zero.end,
        full_drops=_zero(since_zero.full_drops),
        early_drops=_zero(since_zero.early_drops),
        insert_failures=_zero(since_zero.insert_failures),
        chain_overflows=_zero(since_zero.chain_overflows),
        invalid_packets=_zero(since_zero.invalid_packets),
    )
    return None if all(count is None for count in never.counts) else never


def _zero(count: int | None) -> int | None:
    return 0 if count == 0 else None


def _sum_of(cpus: tuple[counters.CpuCounters, ...]) -> counters.CpuCounters:
    return counters.total(counters.KernelCounters(cpus))


def _rise(
    total: counters.CpuCounters, full_drops: int | None, begin: float, end: float, usage: float
) -> CounterRise:
    failed = None
    if full_drops is not None and total.drop is not None:
        failed = max(0, total.drop - full_drops)
    losses = (full_drops, total.early_drop, failed, total.chaintoolong)
    return CounterRise(begin, end, *losses, usage, total.invalid)


def _may_join(one: CounterRise, other: CounterRise, start: float | None) -> bool:
    """Tell whether two rises may be one without a wrong sum over this window or a later one.

    start: of the present window. Invalid packets come all the time: those from before it, which no
    later window needs, are not worth a rise of their own.
    """
    if any(any(rise.losses) or rise.usage >= NEARLY_FULL for rise in (one, other)):
        return False
    if one.invalid_packets or other.invalid_packets:
        return start is not None and max(one.end, other.end) <= start
    return True


def _fold(
    rises: Sequence[CounterRise], most: int = MOST_RISES, *, start: float | None = None
) -> tuple[CounterRise, ...]:
    """Return at most so many rises; start: of the present window.

    Those in which nothing happened are joined with their like. Then the shortest of the older half
    are joined: a window that begins within such a stretch counts all of it.
    """
    kept: list[CounterRise] = []
    for rise in rises:
        if kept and _may_join(kept[-1], rise, start) and _touch(kept[-1], rise):
            kept[-1] = _join(kept[-1], rise)
        else:
            kept.append(rise)
    while len(kept) > most:
        old = range(len(kept) - max(1, most // 2))
        at = min(old, key=lambda at: kept[at + 1].end - kept[at].begin)
        kept[at : at + 2] = [_join(kept[at], kept[at + 1])]
    return tuple(kept)


def shortened(state: NamespaceState, most: int) -> NamespaceState:
    """Return the state with at most so many rises, and its counters summed over all CPUs."""
    cpus = (_sum_of(state.cpus),) if state.cpus else ()
    return state._replace(cpus=cpus, rises=_fold(state.rises, most))


def _touch(one: CounterRise, other: CounterRise) -> bool:
    same = [count is None for count in one.counts] == [count is None for count in other.counts]
    return same and other.begin <= one.end + TOLERANCE


def _join(one: CounterRise, other: CounterRise) -> CounterRise:
    """Return both as one, which covers no time that neither did."""
    begin = one.begin if _touch(one, other) else other.begin
    return _sum([one, other])._replace(begin=begin)


def _sum(rises: Sequence[CounterRise]) -> CounterRise:
    def total(counts: Sequence[int | None]) -> int | None:
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    return CounterRise(
        rises[0].begin,
        rises[-1].end,
        total([rise.full_drops for rise in rises]),
        total([rise.early_drops for rise in rises]),
        total([rise.insert_failures for rise in rises]),
        total([rise.chain_overflows for rise in rises]),
        max(rise.usage for rise in rises),
        total([rise.invalid_packets for rise in rises]),
    )
