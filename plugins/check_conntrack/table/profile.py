"""From a tally to the TableProfile that a diagnosis goes by."""

from __future__ import annotations

from ..advice.diagnosis import LONG_IDLE, TableProfile, TopItem
from ..flows.tally import IDLE_SHIFT
from ..kernel import ctnetlink as ct
from ..kernel import host
from ..kernel.limits import OWN
from ..kernel.timeouts import DEFAULTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..flows.tally import Top
    from .resource import NamespaceReport

# A timeout shows where this many established entries, and this share of them, have just been
# renewed: they have nearly all of it left. Entries from before a lower timeout have more left.
FEWEST_RENEWED, RENEWED_SHARE = 5, 0.01
RENEWED_BUCKETS = 3  # of 2**IDLE_SHIFT seconds each
RENEWED_DENSITY = 3  # times the mean of what has less left
MOST_OLDER = 0.05
_UNACKNOWLEDGED = ("tcp_timeout_unacknowledged", "tcp_timeout_max_retrans")


def table_profile(
    report: NamespaceReport, timeouts: Mapping[str, int], command: str = ""
) -> TableProfile:
    """Return what a table holds, as far as a diagnosis goes by it.

    timeouts: those in force, in seconds, as far as they are known. command: leads into the
    namespace.
    """
    table, figures = report.table, report.figures
    assert table  # noqa: S101 - nobody asks about a table that was not read
    assert figures  # noqa: S101
    tally = table.tally
    entries = figures.entries or 1
    kept = tally.kept or 1
    established = timeouts.get("tcp_timeout_established") or inferred_timeout(
        tally.established_timeouts
    )
    unacknowledged = max(timeouts.get(name, DEFAULTS[name]) for name in _UNACKNOWLEDGED)
    # Without a timeout nothing is known of idle entries.
    idle = tally.established_idle(LONG_IDLE, established or 0, unacknowledged)
    names = _top_item(tally.top_sources(1)), _top_item(tally.top_half_open_sources(1))

    def most_in(state: int) -> TopItem:
        return _top_item(tally.top_services(1, state=state))

    return TableProfile(
        entries=tally.kept,
        usage=report.limits.usage if report.limits else None,
        half_open=100 * tally.half_open_sources.total / kept,
        half_open_source=names[1],
        half_open_service=_top_item(tally.top_half_open_services(1)),
        time_wait=100 * figures.tcp_time_wait / entries,
        time_wait_service=most_in(ct.TCP_CONNTRACK_TIME_WAIT),
        close_wait=100 * figures.tcp_close_wait / entries,
        close_wait_service=most_in(ct.TCP_CONNTRACK_CLOSE_WAIT),
        established=100 * figures.tcp_established / entries,
        established_service=most_in(ct.TCP_CONNTRACK_ESTABLISHED),
        idle=100 * idle / kept,
        dns=tally.port_share(53),
        unreplied=100 * figures.unreplied / entries,
        assured=100 * figures.assured / entries,
        translated=100 * figures.nat / entries,
        source=names[0],
        destination=_top_item(tally.top_destinations(1)),
        service=_top_item(tally.top_services(1)),
        pool=_top_item(tally.top_pools(1, table.total)),
        pool_ports=figures.snat_ports,
        timeouts={name: (timeouts.get(name), default) for name, default in DEFAULTS.items()},
        command=command,
        own=frozenset(
            each.name for each in names if report.path == OWN and host.has_address(each.name)
        ),
    )


def _top_item(tops: Sequence[Top]) -> TopItem:
    return TopItem(tops[0].name, tops[0].share) if tops else TopItem()


def inferred_timeout(remaining: Mapping[int, int]) -> int | None:
    """Return the timeout of established connections where their table was collected, in seconds.

    remaining: how many entries have how much left, in units of 2**IDLE_SHIFT seconds. Entries that
    were just renewed stand close together at the timeout in force; a few above it are older than
    a timeout that was lowered. None where no such place is found. Rounded down, so that no entry
    is taken for idle too early.
    """
    # What has so little left waits for an acknowledgement (Tally.established_idle).
    waiting = max(DEFAULTS[name] for name in _UNACKNOWLEDGED) >> IDLE_SHIFT
    buckets = sorted((at for at in remaining if at > waiting), reverse=True)
    total = sum(remaining[at] for at in buckets)
    older = 0
    for top in buckets:
        renewed = sum(remaining.get(top - step, 0) for step in range(RENEWED_BUCKETS))
        below = total - older - renewed
        mean = RENEWED_BUCKETS * below / max(top - RENEWED_BUCKETS + 1 - buckets[-1], 1)
        if renewed >= max(FEWEST_RENEWED, RENEWED_SHARE * total, RENEWED_DENSITY * mean):
            return top << IDLE_SHIFT
        older += remaining[top]
        if older > MOST_OLDER * total:
            break
    return None
