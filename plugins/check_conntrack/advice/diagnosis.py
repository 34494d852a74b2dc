"""Diagnose what fills a table: causes as data, judged from a TableProfile. Pure functions, no I/O.

To add a cause, write when it matches and its sentence here, its steps in remedies.py, and a line
of CAUSES.
"""

from __future__ import annotations

from ..kernel.namedtuple import NamedTuple
from . import remedies
from .capacity import Step
from .remedies import NAMED, percent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Callable

FEWEST = 100  # entries, below which shares say little
PRESSED = 70.0  # percent of the limit, from which on a large share of the ordinary matters
LONG_IDLE = 3600  # seconds without a packet after which an established connection is called idle


class TopItem(NamedTuple):
    """The first line of a top list.

    Attributes:
        name: as the top list prints it, with its zone
        share: percent of what the list counts
        entries: the same as a number, scaled to the whole table
        address: an address or a network; empty for a service
        zone: of the address, in the original direction; 0 for none
        protocol: its name, as in "tcp"; empty for an address alone
        port: the destination port; 0 for none
    """

    name: str = ""
    share: float = 0.0
    entries: int = 0
    address: str = ""
    zone: int = 0
    protocol: str = ""
    port: int = 0


class Unanswered(NamedTuple):
    """Entries of one protocol whose flows got no answer, or were left half open.

    Attributes:
        protocol: its name, as in "udp"
        state: SYN_SENT or SYN_RECV for TCP, else empty
        entries: how many, scaled to the whole table
        share: percent of all entries
        source: the largest source; shares here and below are of these entries
        network: the largest source network (/24, /64, or --prefix)
        target: the largest destination with its protocol and port
        destination_network: the largest destination network
        sources: different sources that were counted
        targets: different targets that were counted
        translated: percent of these entries whose destination is translated
    """

    protocol: str
    state: str = ""
    entries: int = 0
    share: float = 0.0
    source: TopItem = TopItem()
    network: TopItem = TopItem()
    target: TopItem = TopItem()
    destination_network: TopItem = TopItem()
    sources: int = 0
    targets: int = 0
    translated: float = 0.0


class TableProfile(NamedTuple):
    """What a table holds, as far as a diagnosis goes by it. Shares are percent of `entries`.

    Attributes:
        entries: those that were counted; of a sample not more
        total: what they stand for, in the whole table
        usage: percent of the limit, of the whole table; None where no limit is known
        unanswered: by protocol and state, the most first
        half_open, half_open_source, half_open_service: TCP in SYN_SENT or SYN_RECV; to go
        time_wait, close_wait, established: TCP in this state, and the service it goes to
        idle: established TCP without a packet for LONG_IDLE or longer
        open_sockets: established TCP sockets of `established_service` that are open on this host;
            None where nobody knows
        dns: to port 53
        unreplied, assured, translated: entries that are; translated: source or destination
        source, network, destination, service: the first of each top list
        pool: the fullest source-NAT pool; its share is of `pool_size`
        pool_ports: the ports it takes
        pool_size: the ports it may take
        pool_range: the first and last of these, where the rule restricts them
        timeouts: seconds by the last words of their sysctl's name, (present or None, default)
        command: leads into the namespace, and ends with a space; else empty
        own: addresses in this profile that are this namespace's own
        gateways: addresses in this profile that are default gateways
        kube_proxy: kube-proxy runs here and sets limits and some timeouts itself
    """

    entries: int
    total: int = 0
    usage: float | None = None
    unanswered: tuple[Unanswered, ...] = ()
    half_open: float = 0.0
    half_open_source: TopItem = TopItem()
    half_open_service: TopItem = TopItem()
    time_wait: float = 0.0
    time_wait_service: TopItem = TopItem()
    close_wait: float = 0.0
    close_wait_service: TopItem = TopItem()
    established: float = 0.0
    established_service: TopItem = TopItem()
    idle: float = 0.0
    open_sockets: int | None = None
    dns: float = 0.0
    unreplied: float = 0.0
    assured: float = 0.0
    translated: float = 0.0
    source: TopItem = TopItem()
    network: TopItem = TopItem()
    destination: TopItem = TopItem()
    service: TopItem = TopItem()
    pool: TopItem = TopItem()
    pool_ports: int = 0
    pool_size: int = 0
    pool_range: tuple[int, int] | None = None
    timeouts: Mapping[str, tuple[int | None, int]] = {}
    command: str = ""
    own: frozenset[str] = frozenset()
    gateways: frozenset[str] = frozenset()
    kube_proxy: bool = False

    @property
    def pressed(self) -> bool:
        """Return whether the table is so full that what fills it matters, harmless or not."""
        return self.usage is not None and self.usage >= PRESSED


class Cause(NamedTuple):
    """A line of CAUSES: when it matches, what is said of it, what to do about it.

    Attributes:
        name: its name in the runbook
        matches: judges a profile
        sentence: the cause, its culprit and its evidence
        steps: what to do
        room: a larger maximum may be advised as well
        plain: looked at only where no other cause matches
    """

    name: str
    matches: Callable[[TableProfile], bool]
    sentence: Callable[[TableProfile], str]
    steps: Callable[[TableProfile], list[Step]]
    room: bool = False
    plain: bool = False


def _asks_in_vain(profile: TableProfile) -> bool:
    """Whether it is this host itself whose connections nobody answers."""
    source = profile.half_open_source
    return profile.half_open >= 40 and source.share >= 50 and source.name in profile.own


def _is_flood(profile: TableProfile) -> bool:
    return profile.half_open >= 40 and not _asks_in_vain(profile)


def _flood(profile: TableProfile) -> str:
    source, service = profile.half_open_source, profile.half_open_service
    what = "SYN flood" if service.share >= 50 else "scan"
    where = f", {percent(service.share)} to {service.name}" if what == "SYN flood" else ""
    who = f"{percent(source.share)} from {source.name}"
    return (
        f"looks like a {what}: {percent(profile.half_open)} of entries are SYN_SENT or SYN_RECV "
        f"without reply, {who if source.share >= NAMED else 'from many sources'}{where}"
    )


def _ports(profile: TableProfile) -> str:
    return (
        f"source-NAT ports run out: {profile.pool.name} takes {profile.pool_ports} ports, "
        f"{percent(profile.pool.share)} of what there is"
    )


def _is_dns_churn(profile: TableProfile) -> bool:
    # A resolver's own table is full of queries too, answered for many: that is its work.
    asks_itself = profile.source.share >= 60
    return profile.dns >= 50 and (profile.pressed or asks_itself or profile.translated >= 50)


def _has_one_source(profile: TableProfile) -> bool:
    if profile.source.share < 50:
        return False
    # Where all goes to one place a proxy stands before it; a client is its own only source.
    spread = profile.destination.share < 60
    return profile.pressed or (spread and profile.source.share < 95)


def _too_small(profile: TableProfile) -> str:
    return (
        "the table is merely too small: no cause stands out, "
        f"{percent(profile.assured)} of entries are assured"
    )


# The first that matches is told first.
CAUSES = (
    Cause("nat ports", lambda m: m.pool.share >= 80, _ports, remedies.more_ports),
    Cause("flood", _is_flood, _flood, remedies.against_flood),
    Cause(
        "close_wait",
        lambda m: m.close_wait >= 25,
        lambda m: (
            f"leaked connections: {percent(m.close_wait)} of entries are in CLOSE_WAIT"
            + remedies.most(m.close_wait_service)
        ),
        remedies.closing,
    ),
    Cause(
        "idle",
        lambda m: m.idle >= 40,
        lambda m: (
            f"leaked connections: {percent(m.idle)} of entries are ESTABLISHED and silent for "
            f"{LONG_IDLE // 3600}h or longer{remedies.most(m.established_service)}"
        ),
        remedies.alive,
    ),
    Cause(
        "time_wait",
        lambda m: m.time_wait >= (45 if m.pressed else 60),
        lambda m: (
            f"short-lived connections: {percent(m.time_wait)} of entries are in TIME_WAIT"
            + remedies.most(m.time_wait_service)
        ),
        remedies.pooling,
        room=True,
    ),
    Cause(
        "dns",
        _is_dns_churn,
        lambda m: (
            f"DNS churn: {percent(m.dns)} of entries are queries to port 53, "
            f"{percent(m.source.share)} of all entries come from {m.source.name}"
        ),
        remedies.caching,
        room=True,
    ),
    Cause(
        "unreplied",
        lambda m: (m.unreplied >= 50 and not _is_flood(m)) or _asks_in_vain(m),
        lambda m: (
            f"traffic dies unreplied: {percent(m.unreplied)} of entries saw no answer"
            + remedies.most(m.service)
            + (", asked by this host" if _asks_in_vain(m) else "")
        ),
        remedies.answering,
    ),
    Cause(
        "source",
        _has_one_source,
        lambda m: (
            f"one source dominates: {percent(m.source.share)} of entries come from {m.source.name}"
        ),
        remedies.ask_source,
        plain=True,
    ),
    Cause(
        "service",
        # All the web behind one port is no service of anybody's.
        lambda m: m.pressed and m.service.share >= 60 and m.destination.share >= 50,
        lambda m: (
            f"one service dominates: {percent(m.service.share)} of entries go to {m.service.name}"
            f", {percent(m.destination.share)} to {m.destination.name}"
        ),
        lambda m: [
            Step(
                f"Spread {m.service.name} over more hosts, let its clients share connections, "
                "or make room for it:"
            )
        ],
        room=True,
        plain=True,
    ),
    Cause("small", lambda m: m.pressed, _too_small, lambda _: [], room=True, plain=True),
)
NO_CAUSE = "no known cause fits what the table holds"


def diagnose(profile: TableProfile) -> list[Cause]:
    """The causes that fit, the weightiest first; none for a table that looks healthy."""
    if profile.entries < FEWEST:
        return []
    found = [cause for cause in CAUSES if not cause.plain and cause.matches(profile)]
    if not found:
        found = [cause for cause in CAUSES if cause.plain and cause.matches(profile)][:1]
    return found
