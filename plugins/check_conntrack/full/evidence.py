"""Acquire: what the namespaces, their counters and the kernel log say, as values.

acquire() reads; nothing is evaluated or written here.
"""

from __future__ import annotations

import os

from .. import render
from ..kernel import counters
from ..kernel.coverage import Span
from ..kernel.limits import has_ena, own_inode
from ..kernel.log import events, kmsg
from ..kernel.namedtuple import NamedTuple
from ..namespaces import further_key
from ..state import state_store
from ..state.counter_history import NamespaceState, compare
from . import state
from .log_report import LogQuestion, LogReport, is_gone, read_log, window_of
from .namespace_reports import Asking, NamespaceReading, NamespaceReport, module_inode
from .state import NamespaceStates, RunState, RunTime, ServiceState

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ..kernel.log.opening import LogFiles
    from ..session import Session
    from ..state.trend import Series
    from .instance import InstanceReport


class Evidence(NamedTuple):
    """All that a run has read.

    reports: the namespace of the plain labels first where there is one, then the others, the worst
    first.
    names: of namespaces, by inode.
    births: when the namespaces with names were made, by inode.
    problems: what the user asked for and could not be read.
    unavailable: counters that could not be read.
    refused: why --sudo was of no use; empty where it was.
    earlier: what the run before left of this service.
    kept: what the next run gets, and `rows` of further namespaces.
    reloaded: another module counted in the run before.
    instance: what EC2 refused; None elsewhere than on EC2.
    """

    now: RunTime
    window: events.Window
    log: LogReport
    reports: tuple[NamespaceReport, ...] = ()
    has_first: bool = False
    names: Mapping[int, str] = {}
    births: Mapping[int, float] = {}
    problems: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = ()
    inactive: bool = False
    refused: str = ""
    earlier: ServiceState = ServiceState()
    kept: ServiceState = ServiceState()
    rows: Mapping[str, NamespaceState] = {}
    further: NamespaceStates = NamespaceStates()
    service: str = ""
    reloaded: bool = False
    instance: InstanceReport | None = None

    @property
    def first(self) -> NamespaceReport | None:
        """Return the namespace that the plain labels speak of."""
        return self.reports[0] if self.has_first else None

    @property
    def others(self) -> tuple[NamespaceReport, ...]:
        """Return further namespaces, the worst first."""
        return self.reports[1:] if self.has_first else self.reports

    @property
    def shown(self) -> tuple[NamespaceReport, ...]:
        """Return the namespaces that there is something to say about."""
        return (
            *self.reports[: int(self.has_first)],
            *(each for each in self.others if each.notable),
        )

    @property
    def series(self) -> Series | None:
        """Return the peaks and the changes of the limit of the first namespace."""
        return self.kept.run.series if self.kept.run else None

    @property
    def of_this_host(self) -> bool:
        """Return whether messages may be this host's: they name it, or they name no host."""
        own = events.short(os.uname().nodename)
        return not self.log.hosts or own in map(events.short, self.log.hosts)

    def is_gone(self, event: events.Event) -> bool:
        """Tell whether the namespace with an event's number is a later one than the event's."""
        return is_gone(event, self.births)


def acquire(options: argparse.Namespace, session: Session, opened: LogFiles) -> Evidence:
    """Read everything that the options ask for. opened: logs, before privileges were dropped."""
    from ..kernel.namespaces import births, names

    clock = kmsg.read_clock()
    now = RunTime(
        round(clock.realtime, 3), round(clock.boottime, 3), state_store.boot_id(), module_inode()
    )
    asking = Asking(session)
    session.stage("reading /proc/sys/net/netfilter")
    called = names()
    born = births(called)
    found = NamespaceReading(asking, options, called)
    service = f"full/{_key(found.first, options)}/{options.state_key}"
    earlier = state.read_service(session.store, service, now)
    window = window_of(options, clock, now, state.previous_run(earlier.run, now))
    session.stage("reading the kernel log")
    asked = LogQuestion(options, asking, opened, clock, now, earlier)
    log = LogReport()
    late: list[str] = []
    with session.stage.stoppable(late.append):
        log, window = read_log(asked, window, born)
    start = _start_up(options, window, now)
    past = _Past(now, log.named, reloaded=_is_reloaded(earlier.run, now))
    first = kept = None
    if found.first:
        first, kept = _with_history(
            found.first, earlier.run.first if earlier.run else None, start, past
        )
    instance = _instance(session, service, now, start)
    further = NamespaceStates()
    if options.netns:
        further = state.read_namespaces(session.store, _further_key(options), now)
    unseen_at = further.up if further.complete else None
    past = past._replace(reloaded=further.reloaded, unseen_at=unseen_at)
    others, rows = [], {}
    for report in found.others:
        other, row = _with_history(report, further.rows.get(report.namespace.key), start, past)
        others.append(other)
        if row.cpus or row.rises:
            rows[report.namespace.key] = row
    others.sort(key=lambda report: report.trouble, reverse=True)
    return Evidence(
        now=now,
        window=window,
        log=log,
        reports=(*([first] if first else []), *others),
        has_first=first is not None,
        names=called,
        births=born,
        problems=(*found.problems, *late),
        unavailable=(*found.unavailable, *(instance.problems if instance else ())),
        inactive=found.inactive,
        refused=asking.refused if options.sudo and session.forbidden else "",
        earlier=earlier,
        kept=_kept_of(earlier, now, first, kept, log),
        rows=rows,
        further=further,
        service=service,
        reloaded=_is_reloaded(earlier.run, now),
        instance=instance,
    )


def _instance(
    session: Session, service: str, now: RunTime, start: float | None
) -> InstanceReport | None:
    """Return what EC2 refused since `start`; None elsewhere than on EC2."""
    if not has_ena():
        return None
    from . import instance

    session.stage("reading the statistics of the interfaces")
    return instance.read(session.store, service, now, start)


class _Past(NamedTuple):
    """The values to compare the history of a namespace with.

    named: how many messages name a namespace, by inode.
    reloaded: another module counted in the run before.
    unseen_at: when a run looked at every namespace, in seconds since boot; None where none did.
    """

    now: RunTime
    named: Mapping[int, int]
    reloaded: bool = False
    unseen_at: float | None = None


def _is_reloaded(run: RunState | None, now: RunTime) -> bool:
    return bool(run and run.boot == now.boot and run.module != now.module)


def write(evidence: Evidence, options: argparse.Namespace, session: Session) -> None:
    """Keep for the next run what this one has found. Problems are in session.store.trouble."""
    session.stage(f"writing the state {session.store.folder}".strip())
    if evidence.kept.run:
        state.write_service(session.store, evidence.service, evidence.kept)
    if evidence.instance:
        from . import instance

        instance.write(session.store, evidence.service, evidence.instance)
    if options.netns:
        trouble = state.write_namespaces(
            session.store,
            _further_key(options),
            evidence.further,
            evidence.rows,
            evidence.now,
            complete="all" in options.netns and not evidence.problems,
        )
        session.store.trouble = session.store.trouble or trouble


# --- history


def _start_up(options: argparse.Namespace, window: events.Window, now: RunTime) -> float | None:
    """Return the start of the window in seconds since boot; None for all that was counted."""
    if options.since == "boot":
        return 0.0
    return None if window.start is None else now.up - (window.end - window.start)


def _key(first: NamespaceReport | None, options: argparse.Namespace) -> str:
    key = first.namespace.key if first else f"net:[{own_inode()}]"
    return key + "".join(f"+{path}" for path in options.log)


def _further_key(options: argparse.Namespace) -> str:
    return further_key("full", options.netns, options.state_key)


def _with_history(
    report: NamespaceReport,
    before: NamespaceState | None,
    start: float | None,
    past: _Past,
) -> tuple[NamespaceReport, NamespaceState]:
    """Return the report with what its counters say of the window, and what the next run gets."""
    now, born = past.now, report.namespace.born
    usage = report.limits.usage if report.limits else None
    cpus = report.counters.cpus if report.counters else ()
    if report.prefix and cpus:
        # There may be thousands of these.
        cpus = (counters.total(counters.KernelCounters(cpus)),)
    began = max(0.0, min(now.up, now.up - (now.at - born))) if born else 0.0
    if before is None and past.unseen_at is not None:
        # The run before has looked everywhere and not found it.
        began = max(began, past.unseen_at)
    found = compare(
        before,
        NamespaceState(now.at, now.up, report.inode, born, began, round(usage or 0.0, 3), cpus),
        start,
        reloaded=past.reloaded,
    )
    losses = [rise.end for rise in found.kept.rises if rise.full_drops or rise.early_drops]
    shift = now.at - now.up
    return report._replace(
        rise=found.rise,
        coverage=tuple(Span(span.start + shift, span.end + shift) for span in found.spans),
        since=began + shift if began else 0.0,
        messages=past.named.get(report.inode, 0),
        known_since=tuple(each if each is None else each + shift for each in found.since),
        last_loss=losses[-1] + shift if losses else 0.0,
        why_short=_why_short(report, found.kept, past),
    ), found.kept


def _why_short(report: NamespaceReport, kept: NamespaceState, past: _Past) -> str:
    """Return why the counters cover no more than they do."""
    if report.counters is None:
        return ""
    if past.reloaded or kept.began == kept.up:
        return "counters: they began anew, nf_conntrack was loaded again"
    known = [rise.begin for rise in kept.rises if rise.full_drops is not None]
    since = known[0] if known else kept.up
    return f"counters: known since {render.clock_time(past.now.boot_time + since, past.now.at)}"


def _kept_of(
    earlier: ServiceState,
    now: RunTime,
    first: NamespaceReport | None,
    kept: NamespaceState | None,
    log: LogReport,
) -> ServiceState:
    """Return what the next run of the service gets."""
    run = earlier.run
    state_now = RunState(
        now.at,
        now.up,
        now.boot,
        now.module,
        watching=min(run.watching, now.at) if run else now.at,
        last_log_read=now.at if log.usable else run.last_log_read if run else None,
        series=state.series_of(run, first.namespace if first else None, now),
        first=kept or (run.first if run else None),
    )
    return ServiceState(state_now, tuple({**dict(earlier.logs), **dict(log.histories)}.items()))
