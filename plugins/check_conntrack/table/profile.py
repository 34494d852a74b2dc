"""From a tally to the TableProfile that a diagnosis goes by."""

from __future__ import annotations

from ..advice.table_profile import (
    CLOSED,
    LISTENS,
    LONG_IDLE,
    NAMED,
    SENDER,
    LeakEnds,
    TableProfile,
    TopItem,
    Unanswered,
)
from ..flows.entry import IPPROTO_TCP, IPPROTO_UDP, address_text, state_name
from ..flows.groups import DESTINATION_NAT, SOURCE_NAT
from ..flows.labels import protocol_label
from ..flows.tally import IDLE_SHIFT
from ..flows.translations import Answers
from ..kernel import ctnetlink as ct
from ..kernel import destinations, host, limits, sockets
from ..kernel.limits import OWN
from ..kernel.networks import is_for_all, packed_address
from ..kernel.own_addresses import NOT_KNOWN, holds_any
from ..kernel.timeouts import DEFAULTS, read_tcp_loose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..flows.leaks import Ends
    from ..flows.nat_pools import Pool
    from ..flows.tally import Tally, Top
    from ..flows.unanswered import Endpoint, UnansweredGroup
    from ..kernel.own_addresses import OwnAddresses
    from .names import Names
    from .report import NamespaceReport

# A timeout shows where this many established entries, and this share of them, have just been
# renewed: they have nearly all of it left. Entries from before a lower timeout have more left.
FEWEST_RENEWED, RENEWED_SHARE = 5, 0.01
RENEWED_BUCKETS = 3  # of 2**IDLE_SHIFT seconds each
RENEWED_DENSITY = 3  # times the mean of what has less left
MOST_OLDER = 0.05
_UNACKNOWLEDGED = ("tcp_timeout_unacknowledged", "tcp_timeout_max_retrans")
# From this share of idle connections on, their sockets are looked for.
_MANY_IDLE = 25.0
_MANY_CLOSING = 20.0


def table_profile(
    report: NamespaceReport,
    timeouts: Mapping[str, int],
    command: str = "",
    names: Names | None = None,
    own: OwnAddresses = NOT_KNOWN,
    *,
    kube_proxy: bool | None = None,
) -> TableProfile:
    """Return what a table holds, as far as a diagnosis goes by it.

    timeouts: those in force, in seconds, as far as they are known. command: leads into the
    namespace. names: of the owners of addresses. own: the namespace's addresses. kube_proxy:
    whether it runs here; None: look.
    """
    table, figures = report.table, report.figures
    assert table  # noqa: S101 - nobody asks about a table that was not read
    assert figures  # noqa: S101
    tally = table.tally
    entries = figures.entries or 1
    kept = tally.kept or 1
    here = report.path == OWN
    established = timeouts.get("tcp_timeout_established") or inferred_timeout(
        tally.established_timeouts
    )
    unacknowledged = max(timeouts.get(name, DEFAULTS[name]) for name in _UNACKNOWLEDGED)
    # Without a timeout nothing is known of idle entries.
    idle = 100 * tally.established_idle(LONG_IDLE, established or 0, unacknowledged) / kept

    def most_in(state: int) -> TopItem:
        return _service(tally.top_services(1, table.total, state))

    established_service = most_in(ct.TCP_CONNTRACK_ESTABLISHED)
    open_sockets = closing_sockets = None
    if here and idle >= _MANY_IDLE and established_service.port:
        open_sockets = sockets.number_of(established_service.port, sockets.ESTABLISHED)
    close_wait = 100 * figures.tcp_close_wait / entries
    close_wait_service = most_in(ct.TCP_CONNTRACK_CLOSE_WAIT)
    if here and close_wait >= _MANY_CLOSING and close_wait_service.port:
        closing_sockets = sockets.number_of(close_wait_service.port, sockets.CLOSE_WAIT)
    closing, number_closing = ct.TCP_CONNTRACK_FIN_WAIT, figures.tcp_fin_wait
    if figures.tcp_last_ack > number_closing:
        closing, number_closing = ct.TCP_CONNTRACK_LAST_ACK, figures.tcp_last_ack
    profile = TableProfile(
        entries=tally.kept,
        total=figures.entries,
        usage=report.limits.usage if report.limits else None,
        unanswered=tuple(
            _reached(_unanswered(tally, group, tally.scale(table.total), timeouts), here=here)
            for group in tally.unanswered_groups(NAMED / 4)
        ),
        time_wait=100 * figures.tcp_time_wait / entries,
        time_wait_service=most_in(ct.TCP_CONNTRACK_TIME_WAIT),
        close_wait=close_wait,
        close_wait_service=close_wait_service,
        fin_wait=100 * figures.tcp_fin_wait / entries,
        last_ack=100 * figures.tcp_last_ack / entries,
        closing_service=most_in(closing),
        reset=100 * figures.tcp_close / entries,
        reset_service=most_in(ct.TCP_CONNTRACK_CLOSE),
        established=100 * figures.tcp_established / entries,
        established_service=established_service,
        idle=idle,
        open_sockets=open_sockets,
        closing_sockets=closing_sockets,
        dns=tally.port_share(53),
        unreplied=100 * figures.unreplied / entries,
        assured=100 * figures.assured / entries,
        translated=100 * figures.nat / entries,
        source=_address(tally.largest(tally.sources), kept, tally.scale(table.total)),
        network=_address(tally.largest_network(), kept, tally.scale(table.total)),
        destination=_address(tally.largest(tally.destinations), kept, tally.scale(table.total)),
        service=_service(tally.top_services(1, table.total)),
        timeouts={name: (timeouts.get(name), default) for name, default in DEFAULTS.items()},
        command=command,
        here=_here(report.path),
        kube_proxy=host.runs_kube_proxy() if kube_proxy is None else kube_proxy,
        zones=tally.zoned > 0,
        original_zones=tally.original_zones > 0,
        tcp_loose=read_tcp_loose() if here else None,
        stale=report.stale,
        close_wait_ends=_ends(
            tally.leaks.ends(ct.TCP_CONNTRACK_CLOSE_WAIT), figures.tcp_close_wait
        ),
        idle_ends=_ends(
            tally.idle_ends(LONG_IDLE, established or 0, unacknowledged),
            round(idle * entries / 100),
        ),
        closing_ends=_ends(tally.leaks.ends(closing), number_closing),
        reset_ends=_ends(tally.leaks.ends(ct.TCP_CONNTRACK_CLOSE), figures.tcp_close),
    )
    profile = _with_pool(profile, tally.pools.top(1), tally.scale(table.total))
    profile = _with_own(profile, own, here=here)
    return _with_owners(profile, names) if names else profile


def _here(path: str) -> str:
    """Return what the host or the namespace of a table is called; path: what leads into it."""
    if not path:
        return "that host"
    return "this host" if path == OWN and limits.may_set_limits() else "this namespace"


def _ends(ends: Ends, number: int) -> LeakEnds:
    """Return the ends of leaked connections. number: how many these are in the whole table."""
    if not ends.counted:
        return LeakEnds()
    weight = number / ends.counted
    return LeakEnds(
        _address(ends.source, ends.counted, weight),
        _address(ends.target, ends.counted, weight, protocol_label(IPPROTO_TCP)),
        round(ends.to_target * weight),
        _address(ends.destination, ends.counted, weight),
        round(ends.to_destination * weight),
        round(ends.from_source * weight),
    )


def _with_pool(profile: TableProfile, pools: Sequence[Pool], scale: float) -> TableProfile:
    if not pools:
        return profile
    pool = pools[0]
    number = round(pool.entries * scale)
    return profile._replace(
        pool=TopItem(
            _name(pool.target, pool.zone, protocol_label(pool.protocol), pool.port),
            min(100 * number / pool.size, 100.0),
            number,
            address_text(pool.target),
            pool.zone,
            protocol_label(pool.protocol),
            pool.port,
        ),
        pool_address=address_text(pool.translated),
        pool_ports=min(number, pool.size),
        pool_size=pool.size,
        pool_range=(pool.first, pool.last) if pool.restricted else None,
    )


def _with_own(profile: TableProfile, own: OwnAddresses, *, here: bool) -> TableProfile:
    """Return the profile with those of its addresses that are its own, or its gateways.

    here: it is of the namespace of this process, whose routing table is asked as well.
    """
    items = [profile.source, profile.network, profile.destination]
    for ends in profile.leaks:
        items += [ends.source, ends.target, ends.destination]
    for one in profile.unanswered:
        items += [one.source, one.network, one.target, one.destination, one.destination_network]
    addresses = {item.address for item in items if item.address}
    gateways = host.default_gateways() if here else frozenset()
    return profile._replace(
        own=frozenset(
            each for each in addresses if own.include(each) or (here and host.has_address(each))
        ),
        own_known=own.known,
        gateways=frozenset(each for each in addresses if holds_any(each, gateways)),
        gateways_known=here,
    )


def _with_owners(profile: TableProfile, names: Names) -> TableProfile:
    """Return the profile with the owners of its addresses."""

    def owned(item: TopItem, service: TopItem, *, server: bool) -> TopItem:
        own = item.address in profile.own
        return item._replace(owner=names.of(item, service, own=own, server=server))

    def owned_ends(ends: LeakEnds) -> LeakEnds:
        return ends._replace(
            source=owned(ends.source, ends.target, server=False),
            target=owned(ends.target, ends.target, server=True),
            destination=owned(ends.destination, ends.target, server=True),
        )

    return profile._replace(
        source=owned(profile.source, profile.service, server=False),
        destination=owned(profile.destination, profile.service, server=True),
        close_wait_ends=owned_ends(profile.close_wait_ends),
        idle_ends=owned_ends(profile.idle_ends),
        closing_ends=owned_ends(profile.closing_ends),
        reset_ends=owned_ends(profile.reset_ends),
        stale=tuple(
            one._replace(
                destination=owned(one.destination, one.destination, server=True),
                target=owned(one.target, one.target, server=True),
                elsewhere_owner=owned(
                    TopItem(address=one.elsewhere), one.target, server=True
                ).owner,
            )
            for one in profile.stale
        ),
        unanswered=tuple(
            one._replace(
                source=owned(one.source, one.target, server=False),
                target=owned(one.target, one.target, server=True),
                destination=owned(one.destination, one.target, server=True),
            )
            for one in profile.unanswered
        ),
    )


def _unanswered(
    tally: Tally, group: UnansweredGroup, scale: float, timeouts: Mapping[str, int]
) -> Unanswered:
    protocol = protocol_label(group.protocol)
    of = group.entries or 1
    translated = _share_with(tally, group, DESTINATION_NAT)
    answers = _answers(tally, group, timeouts)
    source, network, destination, spanned = (
        _address(one, of, scale)
        for one in (group.source, group.network, group.destination, group.destination_network)
    )
    return Unanswered(
        protocol,
        state_name(group.protocol, group.state),
        round(group.entries * scale),
        100 * group.entries / (tally.kept or 1),
        source,
        network,
        _address(group.target, of, scale, protocol),
        destination,
        spanned,
        group.sources,
        group.targets,
        group.ports,
        group.spread,
        translated,
        _backends(tally, group, protocol) if translated >= SENDER else (),
        group.private,
        group.reserved,
        answers.entries,
        answers.recent,
        _share_with(tally, group, SOURCE_NAT),
    )


def _share_with(tally: Tally, group: UnansweredGroup, flag: int) -> float:
    """Return the percentage of unanswered entries that have a flag of groups."""
    number = sum(
        number
        for each, number in tally.grouped()
        if (each.protocol, each.state) == (group.protocol, group.state)
        and each.unanswered
        and each.flags & flag
    )
    return 100 * number / (group.entries or 1)


def _answers(tally: Tally, group: UnansweredGroup, timeouts: Mapping[str, int]) -> Answers:
    """Return what the largest target of a group answers beside it."""
    target, counted = group.target, tally.translations
    if target is None or group.protocol != IPPROTO_UDP:
        return Answers()
    timeout = timeouts.get("udp_timeout") or max(
        DEFAULTS["udp_timeout"], counted.longest(IPPROTO_UDP)
    )
    return counted.answers(IPPROTO_UDP, target.zone, target.address, target.port, timeout)


def _reached(one: Unanswered, *, here: bool) -> Unanswered:
    """Return unanswered entries with what the kernel knows of their target.

    here: they are of the namespace of this process, whose routes and neighbours are asked.
    """
    item = one.backend if one.backend.name else one.target
    if item.address and is_for_all(packed_address(item.address)):
        return one._replace(reached=destinations.TO_ALL)
    if not here or one.target.share < SENDER or not item.address or one.backends[1:]:
        return one
    found = destinations.look_up([item.address]).get(item.address)
    if found is None or not found.certain:
        return one
    code = found.code
    if code == destinations.THERE and not found.device and one.protocol == "udp" and item.port:
        bound = sockets.has_udp_server(item.port)
        if bound:
            code = LISTENS
        elif bound is not None and not host.has_ipvs():
            code = CLOSED
    return one._replace(reached=code, device=found.device)


def _backends(tally: Tally, group: UnansweredGroup, protocol: str) -> tuple[TopItem, ...]:
    """Return the hosts that entries of the largest target go to after translation."""
    target = group.target
    if target is None:
        return ()
    asked = group.protocol, target.zone, target.address, target.port
    return tuple(
        TopItem(
            _name(address, 0, protocol, port),
            share,
            round(target.entries * share / 100),
            address_text(address),
            protocol=protocol,
            port=port,
        )
        for address, port, share in tally.translations.targets(*asked)
    )


def _address(one: Endpoint | None, of: int, scale: float, protocol: str = "") -> TopItem:
    if one is None:
        return TopItem()
    text = address_text(one.address)
    if one.bits < 8 * len(one.address):
        text += f"/{one.bits}"
    return TopItem(
        _name(one.address, one.zone, protocol, one.port, text),
        100 * one.entries / of,
        round(one.entries * scale),
        text,
        one.zone,
        protocol,
        one.port,
    )


def _name(address: bytes, zone: int, protocol: str, port: int, text: str = "") -> str:
    service = f"{protocol}/{port}" if port else ""
    where = f"in zone {zone}" if zone else ""
    return " ".join(filter(None, (text or address_text(address), service, where)))


def _service(tops: Iterable[Top]) -> TopItem:
    for top in tops:
        protocol, _, port = top.name.partition("/")
        number = int(port) if port else 0
        return TopItem(top.name, top.share, top.entries, "", 0, protocol, number)
    return TopItem()


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
