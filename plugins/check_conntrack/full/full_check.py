"""check_conntrack_full: has the table been full, when, in which namespace, and what was lost.

Evidence is the kernel log, the counters, and the table as it stands. In three acts: Full
(acquire), contexts (evaluate), FullSummary (present).
"""

from __future__ import annotations

import itertools
import os
import time
from contextlib import ExitStack

from nagiosplugin import Critical, Metric, Ok, Resource, Result, Results, Summary, Warn

from .. import cli, nagios, namespaces, render, runner, session
from ..advice.source_problems import gap_reason, sentence
from ..kernel import KernelError, counters, privileges
from ..kernel.coverage import Coverage, Span, gaps
from ..kernel.limits import OWN, Limits, own_inode, read_expect_max
from ..kernel.log import events, files, gather, kmsg
from ..kernel.log.messages import Kind
from ..kernel.namedtuple import NamedTuple
from ..nagios import LabelContext, StateContext
from ..ranges import Label, parse_thresholds
from ..state import state_store
from ..state.counter_history import (
    NEARLY_FULL,
    Further,
    Memory,
    Quiet,
    Rise,
    from_plain,
    risen_since,
    to_plain,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from nagiosplugin import Context

    from .. import signals
    from ..kernel.namespaces import Namespace, NamespaceScan
    from ..kernel.reader_client import Frame
    from ..ranges import Thresholds
    from ..session import Session

TITLE = "CONNTRACK_FULL"
PURPOSE = """\
Has the kernel's connection-tracking table been full, when, in which namespace, and
what was lost? Reads the kernel log and the counters; both outlive the moment."""
COUNTERS = (
    ("drop", "packets dropped: table full, a clash, or a helper gave up"),
    ("early_drop", "unassured entries evicted to make room"),
    ("insert_failed", "inserts refused: a clash, or a hash chain too long"),
    ("chaintoolong", "inserts refused because a hash chain was too long"),
    ("clash_resolve", "clashing inserts that could be resolved"),
    ("invalid", "packets that fit no connection"),
    ("search_restart", "look-ups begun again, the hash was being resized"),
)
LABELS = (
    Label("table_full", '"table full" messages in the window', critical="0"),
    Label("suppressed", "messages the rate limit swallowed in the window, up to"),
    Label("other_loss", "expectation table full, zone limit: in the window", warning="0"),
    Label("full_drops", "drops in the window, clashes aside", warning="0", needs_history=True),
    Label("early_drops", "rise of early_drop in the window", needs_history=True),
    Label("insert_failures", "rise of insert_failed in the window", needs_history=True),
    Label("chain_overflows", "rise of chaintoolong", warning="0", needs_history=True),
    *(Label(name, meaning, "c") for name, meaning in COUNTERS),
)
# Of a further namespace.
NAMESPACE_LABELS = ("table_full", "full_drops", "drop", "early_drop")
# What is judged of every further one, also where it is not graphed.
JUDGED = ("full_drops", "early_drops", "insert_failures", "chain_overflows")
MOST_NAMESPACES = 10
# Of further namespaces, which share a file of history.MANY bytes: so many are remembered, and as
# many more where nothing was ever counted.
MOST_FURTHER = 10000
MOST_QUIET = 10000
DEFAULT_WINDOW = 900.0  # seconds
# What the status line says of a figure that is too large, and when; the range stands below it.
FACTS = {
    "full_drops": "{} packets dropped{} that clashes do not explain",
    "early_drops": "{} entries evicted early{}",
    "insert_failures": "{} inserts failed{}",
    "chain_overflows": "{} inserts refused{}: hash chains too long",
}
# Of the time-out, what may go into reading the log; the rest is for counters and words.
LOG_SHARE = 0.7
# Imported only where a source needs them.
LATE = ("bz2", "ctypes", "glob", "lzma", "select", "subprocess", *files.ZSTD)
EXAMPLES = """\
Examples:
  check_conntrack_full
  check_conntrack_full --since 1h -w early_drops=100 -c full_drops=0
  check_conntrack_full --since boot --netns all --sudo
  check_conntrack_full --since all --log '/srv/collected/*/kern.log*'
  zcat kern.log.5.gz | check_conntrack_full --since all --log - --no-state
"""


class Place(NamedTuple):
    """A network namespace as this run found it; its labels begin with `prefix`.

    `limits` is None where conntrack is not active, `counters` where they cannot be read, `risen`
    (the sum over the window) where there is no history. `messages` are those that name it. `read`
    says where count, limit and counters were read, and how.
    """

    name: str
    prefix: str
    inode: int
    limits: Limits | None
    counters: counters.Counters | None
    named: bool = False
    risen: Rise | None = None
    messages: int = 0
    read: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What its memory goes by; only names under /run/netns are one namespace's alone."""
        return self.name if self.named else f"net:[{self.inode}]"

    @property
    def full(self) -> bool:
        """Whether it is at its limit at this moment."""
        return bool(self.limits and self.limits.full)

    @property
    def trouble(self) -> tuple[int, int, float]:
        """What orders further namespaces, the worst highest."""
        drops = self.risen.full_drops or 0 if self.risen else 0
        entries = self.limits.entries if self.limits else 0
        return (self.messages, drops, (self.limits.usage or 0.0) if self.limits else float(entries))


# --- acquire


class Full(Resource):
    """What the log, the counters and the tables say.

    After probe(): `window`, `log` (None: no log could be read), `tally` of what it holds in the
    window and the `hosts` it names, `untold` events whose time cannot be told, `places` (the one
    the plain labels speak of first), `problems` (what the user asked for and could not be looked
    at), `unseen` (other sources that could not be read), `missed` (those of them that nothing
    else stands in for), `read` (what of the log was read, and how), `inactive`.
    """

    def __init__(self, options: argparse.Namespace, session: Session) -> None:
        self.options = options
        self.session = session
        self.window = events.everything(time.time())
        self.log: gather.LogEvidence | None = None
        self.tally = events.EventCounts()
        self.untold: tuple[events.Event, ...] = ()
        self.places: list[Place] = []
        self.problems: list[str] = []
        self.unseen: list[str] = []
        self.missed: list[str] = []
        self.inactive = False
        self.called: dict[int, str] = {}
        self.named: dict[int, int] = {}
        self.gone: dict[int, int] = {}
        self.born: dict[int, float] = {}
        self.hosts: list[str] = []
        self.read: tuple[str, ...] = ()
        self._ring: Iterator[Frame] | None = None
        self._clock = kmsg.read_clock()
        self._boot = state_store.boot_id()

    def probe(self) -> Iterator[Metric]:
        """The figures of the first namespace, what stands in the way, then the others'."""
        first, others = self._look()
        key = f"full/{self._key(first)}/{self.options.state_key}"
        memory = from_plain(self.session.store.read(key))
        self.window = self._window(memory.at if memory else None)
        self._read_log(memory)
        if first:
            first = self._remembered(first, memory, key)
            self.places.append(first)
        elif self.log:
            # Without a table there is still a log to remember, and what was counted before.
            now = self._now(None)
            now = memory._replace(at=now.at) if memory else now
            self._remember(key, now._replace(known=self.log.histories, heard=now.at))
        others = self._with_histories(others)
        others.sort(key=lambda place: place.trouble, reverse=True)
        notable = [place for place in others if _notable(place)]
        self.places += notable
        yield from self._metrics(first)
        for problem in self.problems:
            yield Metric("problem", problem, context="problem")
        # Counters say nothing of the time before where no run remembers another.
        kept = not self.session.store.trouble
        heard = self.log or any(place.risen or (place.counters and kept) for place in self.places)
        if not heard and (self.options.log or not self.inactive):
            yield Metric("problem", "no source can be read", context="problem")
        if self.inactive:
            yield Metric("inactive", "conntrack is not active", context="inactive")
        if any(place.full for place in (*self.places, *others)):
            yield Metric("full_now", "the table is at its limit", context="full_now")
        if self.session.store.trouble and self.options.since not in ("boot", "all"):
            yield Metric("history", self.session.store.trouble, context="history")
        yield from _further(notable)

    def _metrics(self, first: Place | None) -> Iterator[Metric]:
        figures: dict[str, int | None] = {}
        if self.log:
            figures["table_full"] = self.tally.table_full
            figures["suppressed"] = self.tally.suppressed
            figures["other_loss"] = self.tally.other_loss
        for label in LABELS:
            value = figures.get(label.name)
            if value is None and first and label.name != "table_full":
                value = _figure(first, label.name)
            if value is not None:
                yield Metric(label.name, value, min=0)

    # where

    def _look(self) -> tuple[Place | None, list[Place]]:
        """The namespace the plain labels speak of, and the others that were asked for."""
        self.session.stage("reading /proc/sys/net/netfilter")
        from ..kernel.namespaces import names

        self.called = names()
        sight = namespaces.scan(self.session, self.options.netns, b"counters", self.called)
        self.problems += sight.problems
        self.inactive = bool(sight.inactive)
        first = self._place(sight, sight.first) if sight.first else None
        if sight.unreadable and not first:
            told, origin = self._own_counters()
            first = Place("", "", own_inode(), None, told, read=(origin,) if origin else ())
        return first, [self._place(sight, spot) for spot in sight.others]

    def _place(self, sight: NamespaceScan, spot: Namespace) -> Place:
        """A namespace that was seen, with its counters."""
        own = spot.path == OWN
        told, origin = self._own_counters() if own else self._counters(sight.frames[spot.inode])
        assert spot.limits  # noqa: S101 - a scan leaves out all others
        read = [f"{spot.limits.origin}count and max {gather.DIRECTLY if own else gather.BY_READER}"]
        read += [origin] if origin else []
        return Place(
            spot.name, spot.prefix, spot.inode, spot.limits, told, spot.named, read=tuple(read)
        )

    def _own_counters(self) -> tuple[counters.Counters | None, str]:
        """The counters of the check's own namespace, and where they were read."""
        try:
            return counters.read_text(), f"{counters.PATH} {gather.DIRECTLY}"
        except FileNotFoundError:
            return self._own_by_netlink()
        except (OSError, counters.CountersError) as error:
            self._miss(f"counters: {error}")
            return None, ""

    def _own_by_netlink(self) -> tuple[counters.Counters | None, str]:
        """The counters where /proc has none (CONFIG_NF_CONNTRACK_PROCFS is off)."""
        try:
            frames = self.session.ask([b"counters", os.fsencode(OWN)])
        except KernelError as error:
            self._miss(
                f"counters: {counters.PATH} is not there, and over ctnetlink it takes "
                f"CAP_NET_ADMIN: {error}"
            )
            return None, ""
        return self._counters({frame.file: frame for frame in frames})

    def _miss(self, what: str) -> None:
        self.unseen.append(what)
        self.missed.append(what)

    def _counters(self, frames: Mapping[str, Frame]) -> tuple[counters.Counters | None, str]:
        """What the reader's frames say: /proc's text where there is one, else netlink."""
        problem = ""
        for file, parse, origin in (
            ("stat", counters.parse_text, counters.PATH),
            ("stats_cpu", counters.parse_stats_cpu, "the counters over ctnetlink"),
        ):
            frame = frames.get(file)
            if frame is None or frame.errno:
                problem = problem or (os.strerror(frame.errno) if frame else "not told")
                continue
            try:
                return parse(frame.data), f"{origin} {gather.BY_READER}"
            except (counters.CountersError, OSError) as error:
                problem = str(error)
        self._miss(f"counters: {problem}")
        return None, ""

    # when

    def _window(self, previous: float | None) -> events.Window:
        """The window that was asked for, with an earlier run's time."""
        now, since = self._clock.realtime, self.options.since
        if since == "all":
            return events.everything(now)
        if since == "boot":
            return events.since_boot(now, kmsg.boot_time(self._clock), self._boot.replace("-", ""))
        if since == "last":
            return events.since_last(now, previous, DEFAULT_WINDOW)
        return events.last_seconds(since, now, previous)

    def _start_up(self, window: events.Window) -> float | None:
        """The window's begin in seconds since boot; None for all that the counters hold."""
        if self.options.since in ("all", "boot") or window.start is None:
            return None
        return self._clock.boottime - (window.end - window.start)

    # what

    def _read_log(self, memory: Memory | None) -> None:
        self.session.stage("reading the kernel log")
        begun = time.monotonic()
        timeout = self.options.timeout

        def stop() -> bool:
            return bool(timeout) and time.monotonic() - begun > LOG_SHARE * timeout

        log = self._gather(memory, stop)
        if memory and memory.heard is not None and log.usable:
            log = self._with_the_unheard(log, memory, memory.heard, stop)
        left = [gap_reason(each) for each in log.coverage if self._has_gap(each)]
        self.problems += [sentence(problem) for problem in log.missing]
        self.unseen += [sentence(problem) for problem in log.problems]
        named = any(each.named for each in log.coverage)
        refused = self.options.sudo and self.session.forbidden
        covered = [span for each in log.coverage for span in each.spans]
        if not log.usable or named or refused or self._has_gap(Coverage("", tuple(covered))):
            self.missed += left
        self.log = log if log.usable else None
        self.read = log.read
        selection = events.select(log.events, self.window)
        self.untold = selection.undated
        self.tally = events.count_events(selection.inside)
        self.hosts = list(dict.fromkeys(event.host for event in selection.inside if event.host))
        if self.tally.namespaces:
            self._by_namespace(selection.inside)

    def _has_gap(self, coverage: Coverage) -> bool:
        """Whether a source leaves a part of the window."""
        if self.window.start is None:
            return bool(coverage.reason)
        return bool(gaps(coverage.spans, Span(self.window.start, self.window.end)))

    def _gather(self, memory: Memory | None, stop: Callable[[], bool]) -> gather.LogEvidence:
        """What the log shows of the window."""
        return gather.gather(
            self.options.log or [gather.AUTO],
            self.window,
            self._boot,
            dict(memory.known) if memory else {},
            stop,
            self._ask_ring if self.session.may_ask or self._ring else None,
        )

    def _with_the_unheard(
        self, log: gather.LogEvidence, memory: Memory, heard: float, stop: Callable[[], bool]
    ) -> gather.LogEvidence:
        """The same, and what was logged since the last run that could read the log.

        What this run has read stands, however far back it gets in the time that is left, and no
        later run tries again.
        """
        start = self.window.start
        if start is None or start <= heard or files.STANDARD_INPUT in self.options.log:
            return log
        late = events.select(log.events, self.window)
        self.window = self._window(heard)
        longer = self._gather(memory, stop)
        early = [event for event in longer.events if event.time and event.time < start]
        if set(longer.problems) - set(log.problems):
            since = time.strftime("%Y-%m-%d %H:%M", time.localtime(heard))
            what = f"not all that was logged since {since}, while no run could read it"
            self.missed.append(f"{gather.RING}: {what}")
        return log._replace(events=(*early, *late.inside, *late.undated))

    def _ask_ring(self, fields: Sequence[bytes]) -> Iterator[Frame]:
        """The ring buffer from the reader, which is asked once."""
        self._ring, mine = itertools.tee(self._ring or self.session.stream(fields))
        return mine

    def _by_namespace(self, inside: Sequence[events.Event]) -> None:
        """How many messages name each namespace: one that is there, or one that was before it."""
        from ..kernel.namespaces import births

        self.born = births(self.called)
        for event in inside:
            if event.kind is Kind.TABLE_FULL and event.netns is not None:
                counts = self.gone if self.is_gone(event) else self.named
                counts[event.netns] = counts.get(event.netns, 0) + event.times

    def is_gone(self, event: events.Event) -> bool:
        """Whether the namespace with an event's number is a later one than the event's."""
        if event.netns not in self.born:
            return False
        return event.time is None or event.time + event.slack + 1 < self.born[event.netns]

    # history

    def _key(self, place: Place | None) -> str:
        key = place.key if place else f"net:[{own_inode()}]"
        return key + "".join(f"+{path}" for path in self.options.log)

    def _now(self, place: Place | None) -> Memory:
        usage = place.limits.usage if place and place.limits else None
        return Memory(
            round(self._clock.realtime, 3),
            round(self._clock.boottime, 3),
            self._boot,
            place.inode if place else 0,
            _module(),
            round(usage or 0.0, 3),
            place.counters if place else None,
        )

    def _remembered(self, place: Place, memory: Memory | None, key: str) -> Place:
        place, now = self._compared(place, memory, self._now(place))
        if self.log:
            now = now._replace(known=self.log.histories, heard=now.at)
        elif memory:
            now = now._replace(known=memory.known, heard=memory.heard)
        self._remember(key, now)
        return place

    def _compared(self, place: Place, memory: Memory | None, now: Memory) -> tuple[Place, Memory]:
        """The place with its rise since `memory`, and what is to be remembered of it."""
        risen, rises = risen_since(memory, now, self._start_up(self.window))
        if memory and now.counters is None:
            # The next run may read them again: it goes on from the last one that could.
            now = memory._replace(at=now.at)
        messages = self.named.get(place.inode, 0)
        return place._replace(risen=risen, messages=messages), now._replace(rises=rises)

    def _with_histories(self, others: list[Place]) -> list[Place]:
        """The further namespaces with what is remembered of them.

        Of those where nothing was ever counted, of thousands maybe, the inodes alone are kept.
        """
        if not self.options.netns:
            return others
        self.session.stage(f"remembering this run {self.session.store.folder}".strip())
        key = namespaces.further_key("full", self.options.netns, self.options.state_key)
        before = Further.from_plain(self.session.store.read(key, state_store.MANY))
        zeros = before.quiet.inodes if before.quiet and before.quiet.boot == self._boot else ()
        found = []
        silent: dict[int, None] = {}
        memories: dict[str, Memory] = {}
        for place in others:
            memory = before.memories.get(place.key)
            now = self._now(place)
            if place.counters:
                total = counters.total(place.counters)
                now = now._replace(counters=counters.Counters((total,)))
                if memory is None and not any(total[1:]):
                    silent[place.inode] = None
                elif memory is None and before.quiet:
                    memory = before.quiet.memory(now)
            elif memory is None and place.inode in zeros:
                silent[place.inode] = None
            compared, now = self._compared(place, memory, now)
            found.append(compared)
            if now.counters and place.inode not in silent:
                memories[place.key] = now
        if self.problems:
            # What could not be looked at is no less silent for it.
            seen = {place.inode for place in others}
            unseen = [inode for inode in zeros if inode not in seen]
            silent.update(dict.fromkeys(unseen[: max(0, MOST_QUIET - len(silent))]))
        self._remember_further(key, before, memories, list(silent))
        return found

    def _remember_further(
        self, key: str, before: Further, memories: dict[str, Memory], silent: list[int]
    ) -> None:
        """Keep what this run has seen, and for a day what an earlier one has and this has not."""
        store = self.session.store
        now = self._now(None)
        # Who is remembered already stays so: else each would go before its next run.
        live = sorted(memories, key=lambda name: name not in before.memories)
        lost = len(live[MOST_FURTHER:]) + len(silent[MOST_QUIET:])
        if lost:
            many = (
                f"{lost} of {len(live) + len(silent)} further namespaces are too many to remember"
            )
            store.trouble = store.trouble or many
        unseen = [name for name in before.memories if name not in memories]
        unseen.sort(key=lambda name: before.memories[name].at, reverse=True)
        kept = {name: memories[name] for name in live[:MOST_FURTHER]}
        for name in unseen[: MOST_FURTHER - len(kept)]:
            if before.memories[name].at > now.at - state_store.DAY:
                kept[name] = before.memories[name]
        quiet = Quiet(now.up, self._boot, tuple(silent[:MOST_QUIET]))
        plain = Further(kept, quiet).to_plain(now)
        store.update(key, lambda _: plain, state_store.MANY)

    def _remember(self, key: str, memory: Memory) -> None:
        self.session.stage(f"remembering this run {self.session.store.folder}".strip())
        plain = to_plain(memory)
        room = state_store.LARGEST - state_store.size(plain)
        if room < 0:
            known = plain["known"]
            plain["known"] = _fitting(known, room + state_store.size(known))
            left = len(known) - len(plain["known"])
            self.session.store.notes.append(
                f"too many log files to remember all: {left} of {len(known)} are read anew each run"
            )
        self.session.store.update(key, lambda _: plain)


def _fitting(known: Mapping[str, Any], room: int) -> dict[str, Any]:
    """Of what is known of log files as much as fits into so many bytes, of most files.

    Of the others nothing is kept, neither what they held nor how far they were read: then the next
    run reads them anew, and misses nothing.
    """
    kept = {}
    for size, path in sorted(
        (state_store.size({path: each}), path) for path, each in known.items()
    ):
        room -= size
        if room < 0:
            break
        kept[path] = known[path]
    return kept


def _further(places: Sequence[Place]) -> Iterator[Metric]:
    """The figures of further namespaces: of the first few for graphs, of all for the verdict."""
    for place in places[:MOST_NAMESPACES]:
        for name in NAMESPACE_LABELS:
            value = _figure(place, name)
            if value is not None:
                yield Metric(place.prefix + name, value, min=0, context=name)
    for number, place in enumerate(places):
        for name in JUDGED:
            value = _figure(place, name)
            if value is not None and (number >= MOST_NAMESPACES or name not in NAMESPACE_LABELS):
                yield Metric(place.prefix + name, value, min=0, context=nagios.HIDDEN + name)


def _notable(place: Place) -> bool:
    return bool(
        place.messages
        or (place.limits and place.limits.entries)
        or (place.risen and any(_figure(place, name) for name in JUDGED))
    )


def _figure(place: Place, name: str) -> int | None:
    """A figure of a namespace by its label; None where it is not known."""
    if name == "table_full":
        return place.messages
    if name in ("full_drops", "early_drops", "insert_failures", "chain_overflows"):
        value: int | None = getattr(place.risen, name) if place.risen else None
        return value
    if place.counters is None or name not in counters.COUNTERS:
        return None
    total: int | None = getattr(counters.total(place.counters), name)
    return total


def _module() -> int:
    """The inode of the loaded module, a new one each time it is loaded; 0 where it is built in."""
    try:
        return os.stat("/sys/module/nf_conntrack/initstate").st_ino
    except OSError:
        return 0


# --- evaluate


class FullDropsContext(LabelContext):
    """Drops that clashes do not explain: critical when something else says that it was the table.

    That is the default's business alone; a range of the user's is taken as it is.
    """

    default = True

    def evaluate(self, metric: Metric, resource: Resource) -> Result:
        """The state of the figure."""
        result = super().evaluate(metric, resource)
        if not self.default or result.state is not Warn or not isinstance(resource, Full):
            return result
        prefix = metric.name[: -len(self.label.name)]
        for place in resource.places:
            if place.prefix == prefix and _corroborated(place):
                return Result(Critical, result.hint, metric)
        return result


def _corroborated(place: Place) -> bool:
    """Whether something beside its drops says that the table was full, or nearly."""
    if place.risen is None:
        return False
    usage = (place.limits.usage or 0.0) if place.limits else 0.0
    return bool(place.risen.early_drops) or max(usage, place.risen.usage) >= NEARLY_FULL


def contexts(thresholds: Thresholds, options: argparse.Namespace) -> list[Context]:
    """All the contexts that this check's metrics name."""
    label = next(label for label in LABELS if label.name == "full_drops")
    made = nagios.contexts(LABELS, thresholds, options.if_inactive)
    for hidden in (False, True):
        drops = FullDropsContext(label, thresholds.of[label.name], hidden=hidden)
        drops.default = label.name not in thresholds.given
        made.append(drops)
    return [*made, StateContext("full_now", Critical)]


# --- present


class FullSummary(Summary):
    """The sentence for the status line, and the lines below it."""

    def __init__(self, full: Full) -> None:
        self.full = full

    def ok(self, results: Results) -> str:
        """That it was not full, in which time, and who says so."""
        return self.problem(results)

    def problem(self, results: Results) -> str:
        """What was seen, the gravest first, then what could not be seen."""
        full = self.full
        parts = [self._now(place) for place in full.places if place.full][:1]
        if full.tally.table_full:
            parts.append(self._messages())
        parts += [
            self._fact(result)
            for result in self._alarms(results)
            if nagios.label_of(result) != "table_full" or not full.tally.table_full
        ]
        sources = self._sources()
        quiet = not parts
        parts += full.problems
        if quiet and full.inactive:
            parts.append("conntrack is not active on this host")
        if quiet and sources and not self._known():
            trouble = full.session.store.trouble
            recorded = "counters are recorded from now on"
            parts.append(
                "the kernel log cannot be read, "
                + (f"and of counters nothing is remembered: {trouble}" if trouble else recorded)
            )
        elif quiet and sources:
            # Before the sources, whose names may be too long for the line.
            undated = f", {self._undated()} not counted" if full.untold else ""
            parts.append(f"not full {self._when()}{undated} ({', '.join(sources)})")
        if not sources and not full.problems and not full.inactive:
            parts.append("neither the kernel log nor the counters can be read")
        parts += [
            f"counters cannot be judged: {result.hint}" for result in nagios.history_alarms(results)
        ]
        return "; ".join(parts)

    def verbose(self, results: Results) -> list[str]:
        """What alarms, what was not seen, what it means, what to do, and the figures."""
        full = self.full
        lines = [
            f"{result.state.text.upper()}: {nagios.describe_alarm(result)}"
            for result in self._alarms(results)
        ]
        lines += [f"UNKNOWN: {problem}" for problem in full.problems]
        lines += [
            f"WARNING: counters cannot be judged: {result.hint}"
            for result in nagios.history_alarms(results)
        ]
        lines += [f"Not seen: {unseen}" for unseen in dict.fromkeys(full.unseen)]
        if full.session.forbidden:
            lines += session.grant("read what takes a right", as_root=full.session.as_root)
        if full.untold:
            sources = _few(list(dict.fromkeys(event.source for event in full.untold)))
            lines.append(f"Not counted: {self._undated()} in {sources} (--since all counts them)")
        lines += self._namespaces()
        lines += self._advice(results)
        if full.options.verbose:
            lines += self._figures()
        if full.options.verbose > 2:
            lines += self._read()
        return lines + nagios.state_lines(full.session, full.options.verbose)

    def _undated(self) -> str:
        count = events.count_messages(self.full.untold)
        return f"{count} message{'' if count == 1 else 's'} of unknown time"

    def _alarms(self, results: Results) -> list[Result]:
        found = [
            result
            for place in self.full.places
            for result in nagios.results_of(place.prefix, LABELS, results)
        ]
        if not any(place.prefix == "" for place in self.full.places):
            found += nagios.results_of("", LABELS, results)
        return nagios.alarms(found)

    def _fact(self, result: Result) -> str:
        """What an alarm says, in words where a figure is too large."""
        label = nagios.label_of(result)
        bounds = result.hint or ""
        if bounds[:1] == "@" or nagios.context_of(result).too_low(result):
            return nagios.describe_alarm(result)
        when = "" if self.full.tally.table_full else f" {self._when()}"
        place = result.metric.name[: -len(label)]
        where = f" in namespace {place[:-2]}" if place else ""
        tally = self.full.tally
        if label == "other_loss":
            kinds = (("expectation table full", tally.expectations), ("zone limit", tally.zones))
            said = ", ".join(f'{times} "{kind}"' for kind, times in kinds if times)
            return f"{said} messages{when}" if said else nagios.describe_alarm(result)
        if label not in FACTS:
            return nagios.describe_alarm(result)
        return FACTS[label].format(result.metric.value, where + when)

    def _when(self) -> str:
        since = self.full.options.since
        if since == "all":
            return "in all that was read"
        if since == "boot":
            return "since boot"
        seconds = self.full.window.end - (self.full.window.start or 0.0)
        return f"in the last {render.duration(seconds)}"

    def _messages(self) -> str:
        full = self.full
        tally = full.tally
        count = tally.table_full
        text = f'{count} "table full" message{"s" if count > 1 else ""} {self._when()}'
        if tally.latest and tally.latest.time is not None:
            ago = render.duration(max(0.0, full.window.end - tally.latest.time))
            text += f", latest {ago} ago"
        if tally.latest and tally.latest.netns is not None:
            text += f" in {self._called(tally.latest.netns, gone=full.is_gone(tally.latest))}"
        text += f" ({', '.join(self._sources(log=True))})"
        if tally.suppressed:
            text += f", up to {tally.suppressed} more suppressed"
        return text

    def _now(self, place: Place) -> str:
        where = f"namespace {place.name} " if place.name else ""
        limits = place.limits
        entries = f"{limits.entries} of {limits.limit}" if limits else ""
        return f"{where}full now: {entries} entries, new connections are dropped"

    def _called(self, inode: int, *, gone: bool) -> str:
        """What a namespace that a message names is called, where it still exists."""
        for place in self.full.places:
            if place.inode == inode and not place.prefix and not place.name:
                return "this namespace"
        name = "" if gone else self.full.called.get(inode)
        return f"namespace {name}" if name else f"namespace net:[{inode}]"

    def _sources(self, *, log: bool = False) -> list[str]:
        full = self.full
        named = []
        for coverage in full.log.coverage if full.log else ():
            if not coverage.usable:
                continue
            since = ""
            if not log and coverage.reason and coverage.spans:
                length = max(0.0, full.window.end - coverage.spans[-1].start)
                since = f" of {render.duration(length)}"
            named.append(coverage.source + since)
        if not log and any(place.counters for place in full.places):
            first_run = not any(place.risen for place in full.places)
            named.append("counters from now on" if first_run else "counters")
        return named

    def _known(self) -> bool:
        """Whether anything tells of the time before this run."""
        return bool(self.full.log) or any(place.risen for place in self.full.places)

    def _namespaces(self) -> list[str]:
        full = self.full
        rows = [("namespace", "messages", "drops", "entries")]
        for gone, counts in ((False, full.named), (True, full.gone)):
            for inode, count in sorted(counts.items(), key=lambda item: -item[1]):
                name = render.clean(self._called(inode, gone=gone)) + (" (gone)" if gone else "")
                there = (place for place in full.places if place.inode == inode)
                place = None if gone else next(there, None)
                drops = _figure(place, "full_drops") if place else None
                entries = str(place.limits.entries) if place and place.limits else ""
                rows.append((name, str(count), "" if drops is None else str(drops), entries))
        return render.table(rows[: MOST_NAMESPACES + 1]) if len(rows) > 1 else []

    def _advice(self, results: Results) -> list[str]:
        from ..advice import capacity

        full = self.full
        judged = [
            (place, _too_high(nagios.results_of(place.prefix, LABELS, results)))
            for place in full.places
        ]
        alarming = [place for place, labels in judged if place.full or labels]
        labels = _too_high(self._alarms(results))
        if any(_was_full(place, own) for place, own in judged):
            labels.add("table_full")
        if "table_full" in labels:
            labels.discard("full_drops")
        place = max(alarming, key=lambda each: (each.full, each.trouble)) if alarming else None
        place = place or next(iter(full.places), None)
        if not labels or place is None or place.limits is None:
            return []
        limits = place.limits
        peak = max(limits.entries, limits.limit if "table_full" in labels else 0)
        evidence = nagios.capacity_evidence(limits, peak)._replace(
            expect_max=read_expect_max(),
            expectations=bool(full.tally.expectations),
            zones=bool(full.tally.zones),
        )
        return self._elsewhere() + capacity.advise(evidence, labels)

    def _elsewhere(self) -> list[str]:
        """That the messages are of other hosts than the one whose figures the advice goes by."""
        own = events.short(os.uname().nodename)
        hosts = [host for host in self.full.hosts if events.short(host) != own]
        if not hosts or len(hosts) < len(self.full.hosts):
            return []
        return [f"The messages are of {_few(hosts)}; limits and advice below are of this host."]

    def _figures(self) -> list[str]:
        lines = [f"Window: {self._when()}"]
        most = None if self.full.options.verbose > 1 else MOST_NAMESPACES + 1
        for place in self.full.places[:most]:
            if place.counters is not None:
                total = counters.total(place.counters)
                told = ", ".join(
                    f"{name} {value}" for name, value in zip(counters.COUNTERS, total[1:]) if value
                )
                name = render.clean(place.name) or "host"
                lines.append(
                    f"Counters of {len(place.counters.cpus)} CPUs ({name}): {told or 'all 0'}"
                )
        return lines

    def _read(self) -> list[str]:
        """What was read from where: the log's sources, then the namespaces."""
        return [f"Read {what}" for what in self.full.read] + [
            f"Read {what} in net:[{place.inode}] {place.name}"
            for place in self.full.places
            for what in place.read
        ]


def _few(names: Sequence[str]) -> str:
    """The first few names from outside, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(render.clean, names[:3])) + more


def _too_high(results: Sequence[Result]) -> set[str]:
    """The labels of figures that are too large: of one that is too small there is nothing to do."""
    return {
        nagios.label_of(result)
        for result in nagios.alarms(results)
        if not nagios.context_of(result).too_low(result)
    }


def _was_full(place: Place, labels: set[str]) -> bool:
    """Whether a namespace's own figures say that it was full; `labels` are those too large.

    Drops alone do not: a helper may have given up. Where entries are evicted early, it was.
    """
    if place.full:
        return True
    return "early_drops" in labels or ("full_drops" in labels and _corroborated(place))


# --- the way in


def _since(text: str) -> float | str:
    import argparse

    if text in ("boot", "last", "all"):
        return text
    try:
        seconds = cli.parse_seconds(text)
    except argparse.ArgumentTypeError:
        what = f"{text!r}: give a duration such as 15m, or boot, last, all"
        raise argparse.ArgumentTypeError(what) from None
    if not 1 <= seconds <= 366 * 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1s and 366d")
    return seconds


def parser() -> cli.Parser:
    """The command line of this check."""
    made = cli.make_parser("check_conntrack_full", PURPOSE, LABELS, EXAMPLES)
    own = made.add_argument_group("options of this check")
    own.add_argument(
        "--since",
        type=_since,
        default=DEFAULT_WINDOW,
        metavar="WINDOW",
        help="a duration (default: 15m), stretched back to the previous run; boot; last (since "
        "the previous run exactly: use it with max_check_attempts 1, a retry sees nothing); all",
    )
    own.add_argument(
        "--log",
        action="append",
        default=[],
        metavar="PATH",
        help="auto (default: the first of the ring buffer, the journal, and log files that can "
        "be read), a log file or glob, with what was rotated out of it, or - ; repeatable",
    )
    return made


def _readers(options: argparse.Namespace) -> int:
    """How many questions may take a right: the log, the counters."""
    log = (not options.log or gather.AUTO in options.log) and kmsg.is_restricted()
    return int(log) + int(bool(options.netns) or not os.path.exists(counters.PATH))


def run_check(options: argparse.Namespace, stage: signals.Stage) -> runner.CheckResult:
    """The verdict. Rights end before the first byte of the kernel's is parsed."""
    thresholds = parse_thresholds(LABELS, options.warning, options.critical)
    with ExitStack() as stack:
        wanted = privileges.CAP_SYSLOG
        if options.netns or not os.path.exists(counters.PATH):
            wanted = privileges.CAP_SYS_ADMIN if options.netns else privileges.CAP_NET_ADMIN
        begun = session.begin(
            options, stage, stack, readers=_readers(options), capability=wanted, late=LATE
        )
        full = Full(options, begun)
        made = contexts(thresholds, options)
        outcome = nagios.conclude(options, begun, full, FullSummary(full), made)
        return outcome._replace(notes=[*outcome.notes, *_notes(full, outcome)])


def _notes(full: Full, outcome: runner.CheckResult) -> list[str]:
    """One line on what a verdict of OK has not seen; with -v the long output says it all."""
    missed = list(dict.fromkeys(full.missed))
    if not missed or outcome.state is not Ok or full.options.verbose:
        return []
    more = f" (and {len(missed) - 1} more with -v)" if missed[1:] else ""
    return [f"Not seen: {missed[0]}{more}"]


def main(late: float = 0.0) -> int:
    """Run the executable; returns the exit code. `late`: seconds that starting took."""
    return runner.run(TITLE, parser(), run_check, late=late)
