"""Events, the same for every source of the kernel log: windows, counts, merging, folding.

Pure functions.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice

from ..namedtuple import NamedTuple
from .messages import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FUTURE = 60.0
"""Seconds by which an event may lie ahead of the clock before its time is not believed."""
DENSE = 20
"""Events of one kind, namespace and second beyond which they are joined into one.

The kernel's rate limit passes ten in five seconds, unless net.core.message_cost is 0. Then, or
where somebody else writes the log, a flood must not take the time of the run.
"""
TOLERANCE = 2.0
"""Seconds between an event and its copy in another source.

A daemon writes the message later, and RFC 3164 has whole seconds only.
"""


class Event(NamedTuple):
    """One report of loss by the kernel, from one source.

    times: messages it stands for; for SUPPRESSED, the messages that were suppressed.
    time: seconds since the epoch; None where the source does not say.
    slack: seconds by which `time` may be wrong.
    monotonic: microseconds since boot by the kernel's own stamp.
    boot: boot id, 32 hexadecimal digits.
    netns: inode of the network namespace, where the kernel names it.
    zone: conntrack zone, for ZONE_LIMIT.
    host: named by a log line; None for this host.
    source: where it was read: a path, or `journal`.
    family: a log and its rotated parts are one family, which never holds the same event twice.
    """

    kind: Kind
    times: int = 1
    time: float | None = None
    slack: float = 0.0
    monotonic: int | None = None
    boot: str | None = None
    netns: int | None = None
    zone: int | None = None
    host: str | None = None
    source: str = ""
    family: str = ""


class Window(NamedTuple):
    """The time span that is evaluated.

    start: seconds since the epoch; None for everything, undated events included.
    end: now, in seconds since the epoch.
    boot: only events of this boot, where the source names the boot.
    """

    start: float | None
    end: float
    boot: str | None = None


class Selection(NamedTuple):
    """Events sorted by a window.

    undated: events without a time, or of the future: to be mentioned, not counted.
    """

    inside: tuple[Event, ...]
    undated: tuple[Event, ...]


class EventCounts(NamedTuple):
    """The figures of the events in a window.

    expectations: "expectation table full". zones: Open vSwitch's zone limit.
    latest: the latest "table full".
    namespaces: (inode, messages) of "table full" messages that name a namespace, most first.
    """

    table_full: int = 0
    suppressed: int = 0
    expectations: int = 0
    zones: int = 0
    latest: Event | None = None
    namespaces: tuple[tuple[int, int], ...] = ()

    @property
    def other_loss(self) -> int:
        """Return messages of loss that do not concern the table itself."""
        return self.expectations + self.zones


# --- windows


def last_seconds(seconds: float, now: float, previous: float | None = None) -> Window:
    """Return the window of a duration, extended back to the previous run.

    A previous run in the future is ignored: the clock was set back.
    """
    start = now - seconds
    if previous is not None and previous <= now:
        start = min(start, previous)
    return Window(start, now)


def since_boot(now: float, boot_time: float, boot: str | None = None) -> Window:
    """Return the window since boot; `boot_time` in seconds since the epoch.

    It begins FUTURE seconds earlier: the boot time is computed from clocks that are set later.
    Where the source names the boot, the boot id decides.
    """
    return Window(boot_time - FUTURE, now, boot)


def since_last(now: float, previous: float | None, first: float = 900.0) -> Window:
    """Return the window since the previous run exactly; `first` seconds where there is none."""
    if previous is None or previous > now:
        return Window(now - first, now)
    return Window(previous, now)


def everything(now: float) -> Window:
    """Return the window of all events, undated ones included."""
    return Window(None, now)


def select(events: Iterable[Event], window: Window) -> Selection:
    """Return the events in the window, and those that cannot be dated."""
    inside: list[Event] = []
    undated: list[Event] = []
    for event in events:
        if window.start is None:
            inside.append(event)
        elif window.boot is not None and event.boot is not None:
            if event.boot == window.boot:
                inside.append(event)
        elif event.time is None or event.time > window.end + FUTURE + event.slack:
            undated.append(event)
        elif event.time >= window.start:
            inside.append(event)
    return Selection(tuple(inside), tuple(undated))


def count_events(events: Iterable[Event]) -> EventCounts:
    """Count events that have been merged and selected."""
    full = suppressed = expectations = zones = 0
    latest: Event | None = None
    namespaces: dict[int, int] = {}
    for event in events:
        if event.kind is Kind.SUPPRESSED:
            suppressed += event.times
            continue
        if event.kind is Kind.TABLE_FULL:
            full += event.times
            if event.netns is not None:
                namespaces[event.netns] = namespaces.get(event.netns, 0) + event.times
            if latest is None or _when(event) >= _when(latest):
                latest = event
        elif event.kind is Kind.ZONE_LIMIT:
            zones += event.times
        else:
            expectations += event.times
    ordered = sorted(namespaces.items(), key=lambda item: (-item[1], item[0]))
    return EventCounts(full, suppressed, expectations, zones, latest, tuple(ordered))


def count_messages(events: Iterable[Event]) -> int:
    """Count the messages that events stand for; a notice of suppressed messages is one."""
    return sum(map(_units, events))


def _when(event: Event) -> float:
    return float("-inf") if event.time is None else event.time


# --- merging


class _MergedEvent:
    """An event of the merged list.

    unpaired: how many of its messages have no copy in the source that is being added yet.
    """

    __slots__ = ("event", "unpaired")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.unpaired = 0


def _units(event: Event) -> int:
    # A notice of suppression is one line, whatever the number in it.
    return 1 if event.kind is Kind.SUPPRESSED else event.times


def _key(event: Event) -> tuple[object, ...]:
    suppressed = event.times if event.kind is Kind.SUPPRESSED else None
    return (event.kind, event.netns, event.zone, suppressed)


def _contradict(one: Event, other: Event) -> bool:
    """Return whether boots or hosts prove two events to be different."""
    if one.boot is not None and other.boot is not None and one.boot != other.boot:
        return True
    return one.host is not None and other.host is not None and _host(one) != _host(other)


def _host(event: Event) -> str | None:
    return None if event.host is None else short(event.host)


def short(host: str) -> str:
    """Return a host's name for comparison: in lower case, without its domain."""
    return host.partition(".")[0].lower()


def merge(*sources: Sequence[Event]) -> tuple[Event, ...]:
    """Return the events of all sources, each once, in order of time.

    Of two copies, that of the first source is kept. Two events of one source (of one `family`,
    where it is named) are always two events. Events of different sources are copies where kind,
    namespace, zone and number are equal, boot and host do not differ, and the kernel's own stamps
    are equal; where one has no such stamp, where the times differ by no more than TOLERANCE and
    the slack of both. Each copy is paired with one event: three events and two copies are three
    events. A line that stands for several messages is paired with as many, back to the line of
    its source before it. More than DENSE events of one second are joined into one.
    """
    merged = _MergedEvents()
    for events in _families(sources):
        _merge_one(merged, _thinned(events))
    return tuple(sorted((one.event for one in merged.all), key=_when))


class _ByTime:
    """Merged events of one key and host in order of time, and their times."""

    __slots__ = ("events", "times")

    def __init__(self) -> None:
        self.events: list[_MergedEvent] = []
        self.times: list[float] = []


class _MergedEvents:
    """The merged list, with indexes by which an event's copies are found."""

    def __init__(self) -> None:
        self.all: list[_MergedEvent] = []
        self.stamped: dict[tuple[object, ...], list[_MergedEvent]] = {}
        self.timed: dict[tuple[object, ...], dict[str | None, _ByTime]] = {}
        self.widest = 0.0

    def of_host(self, event: Event) -> list[_ByTime]:
        """Return the events that may be copies: those of the same host, and of no known host."""
        of_hosts = self.timed.get(_key(event), {})
        if event.host is None:
            return list(of_hosts.values())
        return [of_hosts[host] for host in (_host(event), None) if host in of_hosts]

    def add(self, events: Iterable[Event]) -> None:
        """Add the new events of a family, all at once: each list is sorted once."""
        changed: dict[int, _ByTime] = {}
        for event in events:
            one = _MergedEvent(event)
            self.all.append(one)
            self.widest = max(self.widest, event.slack)
            if event.monotonic is not None:
                self.stamped.setdefault((*_key(event), event.monotonic), []).append(one)
            if event.time is not None:
                row = self.timed.setdefault(_key(event), {}).setdefault(_host(event), _ByTime())
                row.events.append(one)
                changed[id(row)] = row
        for row in changed.values():
            row.events.sort(key=lambda one: _when(one.event))
            row.times = [_when(one.event) for one in row.events]


def _families(sources: Sequence[Sequence[Event]]) -> list[list[Event]]:
    """Return the events by family, across sources; events without a family, by source."""
    families: dict[tuple[int, str], list[Event]] = {}
    named: dict[str, tuple[int, str]] = {}
    for number, events in enumerate(sources):
        for event in events:
            key = (number, event.family)
            if event.family:
                key = named.setdefault(event.family, key)
            families.setdefault(key, []).append(event)
    return list(families.values())


def _thinned(events: list[Event]) -> list[tuple[Event, float | None]]:
    """Join more than DENSE events of one second: the search for copies is quadratic in them.

    Return each with the time of the first of those joined; None for an event that was not.
    """
    if len(events) <= DENSE:
        return [(event, None) for event in events]
    seconds: dict[tuple[object, ...], list[Event]] = {}
    for event in events:
        second = None if event.time is None else int(event.time)
        key = (event.kind, event.netns, event.zone, event.boot, event.host, second)
        seconds.setdefault(key, []).append(event)
    thin: list[tuple[Event, float | None]] = []
    for some in seconds.values():
        if len(some) <= DENSE or some[0].time is None:
            thin += [(event, None) for event in some]
            continue
        latest = max(some, key=_when)
        times = sum(event.times for event in some)
        slack = max(event.slack for event in some) + 1.0
        joined = latest._replace(times=times, slack=slack, monotonic=None)
        thin.append((joined, min(map(_when, some))))
    return thin


def _merge_one(merged: _MergedEvents, events: list[tuple[Event, float | None]]) -> None:
    for one in merged.all:
        one.unpaired = _units(one.event)
    before: dict[tuple[object, ...], float] = {}
    fresh: list[Event] = []
    for event, first in sorted(events, key=lambda one: _when(one[0])):
        key = _key(event)
        need = _units(event)
        if event.monotonic is not None:
            need = _pair(merged.stamped.get((*key, event.monotonic), ()), event, need)
        if need and event.time is not None:
            since = event.time
            if first is not None:
                since = first
            elif need > 1:
                since = before.get(key, event.time)
            need = _pair(_near(merged, event, since), event, need)
        if event.time is not None:
            before[key] = event.time
        if need:
            fresh.append(event if event.kind is Kind.SUPPRESSED else event._replace(times=need))
    merged.add(fresh)


def _near(merged: _MergedEvents, event: Event, since: float) -> list[_MergedEvent]:
    """Return the events that may be copies by their time, the nearest first."""
    now = _when(event)
    reach = TOLERANCE + event.slack
    near = []
    for row in merged.of_host(event):
        low = bisect_left(row.times, since - reach - merged.widest)
        for one in islice(row.events, low, None):
            when = _when(one.event)
            if when > now + reach + merged.widest:
                break
            within = reach + one.event.slack
            stamped = event.monotonic is not None and one.event.monotonic is not None
            if since - within <= when <= now + within and not stamped:
                near.append(one)
    near.sort(key=lambda one: abs(_when(one.event) - now))
    return near


def _pair(events: Iterable[_MergedEvent], event: Event, need: int) -> int:
    """Pair `need` messages of an event with unpaired ones; return how many are left."""
    for one in events:
        if not need:
            break
        if one.unpaired and not _contradict(one.event, event):
            used = min(one.unpaired, need)
            one.unpaired -= used
            need -= used
    return need


# --- keeping

# Seconds, longer than any log. Then hosts are folded too: an attacker may have invented them.
_WIDEST = 60.0**6


def fold(events: Sequence[Event], limit: int) -> list[Event]:
    """Return at most about `limit` events with the same counts; the newest stay as they are.

    Older ones of the same kind, namespace, host and boot within a minute (an hour, 60 hours, ...
    as needed) become one with the time of the latest. Counts stay exact; a window that begins
    within such a span counts all of it.
    """
    if len(events) <= limit:
        return list(events)
    ordered = sorted(events, key=_when)
    keep = limit // 2
    old, recent = ordered[: len(ordered) - keep], ordered[len(ordered) - keep :]
    width = 60.0
    while True:
        buckets: dict[tuple[object, ...], Event] = {}
        for event in old:
            stretch = None if event.time is None else int(event.time // width)
            key: tuple[object, ...] = (event.kind, event.netns, event.source, stretch)
            if width < _WIDEST:
                key = (*key, event.zone, event.boot, event.host, event.family)
            held = buckets.get(key)
            if held is not None:
                event = event._replace(times=event.times + held.times)  # noqa: PLW2901
            buckets[key] = event
        if len(buckets) <= limit - keep or width >= _WIDEST:
            return [*buckets.values(), *recent]
        width *= 60.0
