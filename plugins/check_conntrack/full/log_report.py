"""Acquire: the window, and what the kernel log says of it, as values."""

from __future__ import annotations

import os
import time

from ..kernel.log import events, gather, kmsg
from ..kernel.log.messages import Kind
from ..kernel.log.opening import STANDARD_INPUT
from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from ..kernel.coverage import Coverage
    from ..kernel.log.opening import LogFiles
    from ..kernel.reasons import SourceProblem
    from .namespace_reports import Asking
    from .state import RunTime, ServiceState

DEFAULT_WINDOW = 900.0
"""Seconds."""
LOG_SHARE = 0.7
"""Of the time-out, the part that reading the log may take."""


class LogReport(NamedTuple):
    """The evidence of the kernel log for the window.

    usable: this run could read a source that shows anything.
    coverage: the spans of each source, also of those that show nothing.
    missing: what the user named and cannot be read.
    problems: what else cannot be read.
    counts: the figures of the window.
    undated: events whose time is not known, or lies in the future.
    hosts: the hosts that the events of the window name.
    is_local: "table full" messages are of this host and this boot: its counters know of them.
    named, gone: how many messages name a namespace by its inode: one that exists, one that does
    not any more.
    histories: what the next run gets.
    read: what was read, and how.
    """

    usable: bool = False
    coverage: tuple[Coverage, ...] = ()
    missing: tuple[SourceProblem, ...] = ()
    problems: tuple[SourceProblem, ...] = ()
    counts: events.EventCounts = events.EventCounts()
    undated: tuple[events.Event, ...] = ()
    hosts: tuple[str, ...] = ()
    is_local: bool = False
    named: Mapping[int, int] = {}
    gone: Mapping[int, int] = {}
    histories: tuple[tuple[str, gather.LogHistory], ...] = ()
    read: tuple[str, ...] = ()


def window_of(
    options: argparse.Namespace, clock: kmsg.Clock, now: RunTime, previous: float | None
) -> events.Window:
    """Return the window that was asked for; `previous` is the time of the run before."""
    if options.since == "all":
        return events.everything(now.at)
    if options.since == "boot":
        return events.since_boot(now.at, kmsg.boot_time(clock), now.boot.replace("-", ""))
    if options.since == "last":
        return events.since_last(now.at, previous, DEFAULT_WINDOW)
    return events.last_seconds(options.since, now.at, previous)


class LogQuestion(NamedTuple):
    """The values needed to read the log.

    opened: files that were opened before privileges were dropped.
    earlier: what the run before left.
    """

    options: argparse.Namespace
    asking: Asking
    opened: LogFiles
    clock: kmsg.Clock
    now: RunTime
    earlier: ServiceState


def read_log(
    asked: LogQuestion, window: events.Window, births: Mapping[int, float]
) -> tuple[LogReport, events.Window]:
    """Read the log, back to the last run that could read one.

    Return the window with it, which then reaches as far back.
    """
    options, now, earlier = asked.options, asked.now, asked.earlier
    deadline = time.monotonic() + LOG_SHARE * asked.asking.session.stage.left()

    def stop() -> bool:
        return time.monotonic() > deadline

    def read(span: events.Window, previous: float | None) -> gather.LogEvidence:
        return gather.gather(
            options.log or [gather.AUTO],
            span,
            now.boot,
            dict(earlier.logs),
            stop,
            asked.asking.ring if asked.asking.may_ask else None,
            asked.opened,
            options.log_timezone,
            previous=previous,
        )

    last = earlier.run.last_log_read if earlier.run else None
    start = window.start
    unread = last is not None and start is not None and last < start - gather.CLOCKS
    # Where no run has read a log for some time, the longer reading dates by their own times.
    log = read(window, earlier.run.at if earlier.run and not unread else None)
    inside = events.select(log.events, window)
    if unread and log.read and log.usable and STANDARD_INPUT not in options.log:
        # What this run has read stands, however far back the longer reading gets in time.
        window = window_of(options, asked.clock, now, last)
        longer = read(window, None)
        early = [each for each in longer.events if each.time and each.time < (start or 0.0)]
        inside = events.select([*early, *inside.inside, *inside.undated], window)
        log = log._replace(coverage=longer.coverage, problems=longer.problems)
    named, gone = _by_namespace(inside.inside, births)
    return LogReport(
        # What earlier runs read is covered too, and is no sign that this one could read anything.
        usable=bool(log.read and log.usable) or bool(inside.inside),
        coverage=log.coverage,
        missing=log.missing,
        problems=log.problems,
        counts=events.count_events(inside.inside),
        undated=inside.undated,
        hosts=tuple(dict.fromkeys(event.host for event in inside.inside if event.host)),
        is_local=any(_is_local(event, now) for event in inside.inside),
        named=named,
        gone=gone,
        histories=log.histories,
        read=log.read,
    ), window


def _by_namespace(
    inside: Sequence[events.Event], births: Mapping[int, float]
) -> tuple[dict[int, int], dict[int, int]]:
    """Return how many messages name each namespace: those that exist, and those that are gone."""
    named: dict[int, int] = {}
    gone: dict[int, int] = {}
    for event in inside:
        if event.kind is Kind.TABLE_FULL and event.netns is not None:
            counts = gone if is_gone(event, births) else named
            counts[event.netns] = counts.get(event.netns, 0) + event.times
    return named, gone


def _is_local(event: events.Event, now: RunTime) -> bool:
    """Tell whether an event is of this host and this boot, so that its counters know of it."""
    if event.kind is not Kind.TABLE_FULL:
        return False
    if event.boot is not None:
        return event.boot.replace("-", "") == now.boot.replace("-", "")
    own = events.short(os.uname().nodename)
    here = event.host is not None and events.short(event.host) == own
    return here and event.time is not None and event.time >= now.boot_time


def is_gone(event: events.Event, births: Mapping[int, float]) -> bool:
    """Tell whether an event names the number of a namespace that was made after it."""
    if event.netns is None or event.netns not in births:
        return False
    return event.time is None or event.time + event.slack + 1 < births[event.netns]
