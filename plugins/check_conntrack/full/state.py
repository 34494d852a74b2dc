"""Keep the state that a run of check_conntrack_full leaves to the next.

Values, read before the evaluation and written after it. The host's or first namespace has a file
with the log cursors; all further namespaces share one, for thousands of files would crowd out the
state of other services.
"""

from __future__ import annotations

from ..kernel.log.gather import LogHistory
from ..kernel.namedtuple import NamedTuple
from ..state import state_store, trend
from ..state.codec import decode, decode_each, encode
from ..state.counter_history import (
    MOST_RISES,
    MOST_RISES_IN_ALL,
    NamespaceState,
    from_boot,
    shortened,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ..kernel.namespaces import Namespace
    from ..state.state_store import Store

MOST_FURTHER = 10000
"""Further namespaces that are kept, which fit into a file of state_store.MANY bytes."""
LATEST = 1e12
"""Seconds since the epoch, or since boot, that no clock shows."""


class RunTime(NamedTuple):
    """The time of a run.

    at: seconds since the epoch.
    up: seconds since boot, suspend included.
    boot: boot id.
    module: inode of the loaded module, a new one each time it is loaded; 0 where it is built in.
    """

    at: float
    up: float
    boot: str
    module: int

    @property
    def boot_time(self) -> float:
        """Return when this boot began, in seconds since the epoch."""
        return self.at - self.up


class RunState(NamedTuple):
    """The state that a run leaves to the next of its service.

    at, up, boot, module: as in RunTime.
    watching: when the first run of this service was, in seconds since the epoch.
    last_log_read: `at` of the last run that could read a log; None where none could.
    series: the peaks and the changes of the limit of the first namespace.
    first: the namespace that the plain labels speak of.
    """

    at: float
    up: float
    boot: str
    module: int
    watching: float
    last_log_read: float | None = None
    series: trend.Series | None = None
    first: NamespaceState | None = None

    @property
    def boot_time(self) -> float:
        """Return when its boot began, by the clock of that run."""
        return self.at - self.up


class ServiceState(NamedTuple):
    """The file of a service: its last run, and how far its log files were read.

    run: None where no run is known.
    logs: what is known of each log, by its path.
    """

    run: RunState | None = None
    logs: tuple[tuple[str, LogHistory], ...] = ()


class NamespaceStates(NamedTuple):
    """The file of further namespaces.

    up: the run that wrote it, in seconds since this boot; None where it is of an earlier boot.
    complete: that run looked into every namespace there was.
    reloaded: another module counted then.
    rows: by the namespace's key.
    """

    up: float | None = None
    complete: bool = False
    reloaded: bool = False
    rows: Mapping[str, NamespaceState] = {}


def read_service(store: Store, key: str, now: RunTime) -> ServiceState:
    """Return what earlier runs of a service left, in this boot's uptime."""
    plain = store.read(key)
    if not isinstance(plain, dict):
        return ServiceState()
    run = decode(RunState, plain.get("run"))
    if run and not (0 <= run.at < LATEST and 0 <= run.up < LATEST):
        run = None
    if run and run.boot != now.boot and run.first:
        run = run._replace(first=from_boot(run.first, now.up, now.at))
    if run and run.boot == now.boot and run.last_log_read is not None:
        # The clock may have been set since.
        run = run._replace(last_log_read=run.last_log_read + now.boot_time - run.boot_time)
    return ServiceState(run, tuple(decode_each(LogHistory, plain.get("logs")).items()))


def previous_run(run: RunState | None, now: RunTime) -> float | None:
    """Return when the run before was, by the present clock; None where that cannot be known.

    Within a boot the uptime decides: the clock may have been set since.
    """
    if run is None:
        return None
    if run.boot == now.boot and run.up <= now.up:
        return now.at - (now.up - run.up)
    return run.at if run.at <= now.at else None


def series_of(
    run: RunState | None, namespace: Namespace | None, now: RunTime
) -> trend.Series | None:
    """Return what is known of a namespace's count and limit, that of this run included."""
    if namespace is None or namespace.limits is None:
        return run.series if run else None
    moment = trend.Moment(now.up, now.at)
    series = trend.belonging_to(run.series if run else None, now.boot, namespace.identity, moment)
    return trend.with_run(series, namespace.limits, moment, 0.0)


def write_service(store: Store, key: str, state: ServiceState) -> None:
    """Keep the state of a service: of log files as many as fit, the counters in any case."""
    logs = {path: encode(each) for path, each in state.logs}
    plain = {"run": encode(state.run) if state.run else None, "logs": logs}
    room = state_store.LARGEST - state_store.size(plain)
    if room < 0:
        plain["logs"] = kept = _fitting(logs, room + state_store.size(logs))
        left = len(logs) - len(kept)
        store.notes.append(
            f"too many log files to keep: each run reads {left} of {len(logs)} from the start"
        )
    store.update(key, lambda _: plain)


def _fitting(logs: Mapping[str, Any], room: int) -> dict[str, Any]:
    """Return as many logs as fit into so many bytes, the smallest first.

    Of the others nothing is kept, neither their events nor how far they were read: the next run
    reads them from the start, and misses nothing.
    """
    kept = {}
    for size, path in sorted((state_store.size({path: each}), path) for path, each in logs.items()):
        room -= size
        if room < 0:
            break
        kept[path] = logs[path]
    return kept


def read_namespaces(store: Store, key: str, now: RunTime) -> NamespaceStates:
    """Return what earlier runs left of further namespaces, in this boot's uptime."""
    plain = store.read(key, state_store.MANY)
    if not isinstance(plain, dict):
        return NamespaceStates()
    rows = decode_each(NamespaceState, plain.get("rows"))
    rows = {name: row for name, row in rows.items() if 0 <= row.at < LATEST and row.up < LATEST}
    if plain.get("boot") != now.boot:
        moved = {name: from_boot(row, now.up, now.at) for name, row in rows.items()}
        return NamespaceStates(rows=moved)
    up: Any = plain.get("up")
    return NamespaceStates(
        float(up) if type(up) in (int, float) and 0 <= up <= now.up else None,
        plain.get("complete") is True,
        plain.get("module") != now.module,
        rows,
    )


def write_namespaces(
    store: Store,
    key: str,
    before: NamespaceStates,
    rows: Mapping[str, NamespaceState],
    now: RunTime,
    *,
    complete: bool,
) -> str:
    """Keep the rows of this run, and for a day those that it has not seen.

    Return why not all can be kept; empty where they can.
    """
    # A namespace that is kept already stays: else each would go before its next run.
    live = sorted(rows, key=lambda name: name not in before.rows)
    lost = len(live[MOST_FURTHER:])
    kept = {name: rows[name] for name in live[:MOST_FURTHER]}
    unseen = [name for name in before.rows if name not in rows]
    unseen.sort(key=lambda name: before.rows[name].at, reverse=True)
    for name in unseen[: MOST_FURTHER - len(kept)]:
        row = before.rows[name]
        if row.at > now.at - state_store.DAY:
            # What the module counted before it was loaded again is lost.
            kept[name] = row._replace(began=now.up, cpus=()) if before.reloaded else row
    plain = {
        "up": now.up,
        "boot": now.boot,
        "module": now.module,
        "complete": complete and not lost,
        "rows": {name: encode(row) for name, row in _short(kept).items()},
    }
    store.update(key, lambda _: plain, state_store.MANY)
    return f"no room to keep {lost} of {len(live)} further namespaces" if lost else ""


def _short(rows: Mapping[str, NamespaceState]) -> dict[str, NamespaceState]:
    """Return the rows with as many rises as fit into their file."""
    long = sum(len(row.rises) > 1 for row in rows.values())
    most = min(MOST_RISES, max(2, MOST_RISES_IN_ALL // max(1, long)))
    return {name: shortened(row, most) for name, row in rows.items()}
