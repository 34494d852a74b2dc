"""Diagnose what fills a table: causes as data, judged from a TableProfile. Pure functions, no I/O.

To add a cause, write when it matches and its sentence here, its steps in remedies.py, and a line
of CAUSES.
"""

from __future__ import annotations

from ..kernel.namedtuple import NamedTuple
from . import remedies
from .remedies import NAMED, overlaps, percent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Callable

    from .capacity import Step

FEWEST = 100  # entries, below which shares say little
PRESSED = 70.0  # percent of the limit, from which on a large share of the ordinary matters
# Seconds without a packet after which an established connection is called idle. TCP keep-alive of
# an open connection begins after 7200 s and gives up 675 s later by default (tcp(7)).
LONG_IDLE = 9000
MANY = 1000  # entries from which on a cause matters in a table that is nearly empty
BUSY = 10.0  # percent of the limit from which on any does
NEGLIGIBLE = 1.0  # percent, below which nothing is named
SENDER = 50.0  # percent of unanswered entries that one source, network or target stands for


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
        state: SYN_SENT or SYN_RECV for TCP; empty where the protocol has none
        entries: how many, scaled to the whole table
        share: percent of all entries
        source: the largest source; shares here and below are of these entries
        network: the largest source network (/24, /64, or --prefix)
        target: the largest destination with its protocol and port
        destination: the largest destination address, whatever the port
        destination_network: the smallest network that holds nearly all destinations
        sources, targets, ports: different ones that were counted
        spread: different sources of 100 entries; 100 where each has its own
        translated: percent of these entries whose destination is translated
    """

    protocol: str
    state: str = ""
    entries: int = 0
    share: float = 0.0
    source: TopItem = TopItem()
    network: TopItem = TopItem()
    target: TopItem = TopItem()
    destination: TopItem = TopItem()
    destination_network: TopItem = TopItem()
    sources: int = 0
    targets: int = 0
    ports: int = 0
    spread: float = 0.0
    translated: float = 0.0


class TableProfile(NamedTuple):
    """What a table holds, as far as a diagnosis goes by it. Shares are percent of `entries`.

    Attributes:
        entries: those that were counted; of a sample not more
        total: what they stand for, in the whole table
        usage: percent of the limit, of the whole table; None where no limit is known
        unanswered: by protocol and state, the most first; of shares from NAMED on
        time_wait, close_wait, established: TCP in this state, and the service it goes to
        idle: established TCP without a packet for LONG_IDLE or longer
        open_sockets: established TCP sockets of `established_service` that are open on this host;
            None where nobody knows
        dns: to port 53
        unreplied, assured, translated: entries that are; translated: source or destination
        source, network, destination, service: the first of each top list
        pool: the target of the fullest source-NAT pool; its share is of `pool_size`
        pool_address: the translated address of that pool
        pool_ports: the ports it takes
        pool_size: the ports it may take
        pool_range: the first and last of these, where the rule restricts them
        timeouts: seconds by the last words of their sysctl's name, (present or None, default)
        command: leads into the namespace, and ends with a space; else empty
        own: addresses in this profile that are this namespace's own
        gateways: addresses in this profile that are default gateways
        kube_proxy: kube-proxy runs here and sets limits and some timeouts itself
        zones: entries have zones
        original_zones: some have one in the original direction alone
        tcp_loose: nf_conntrack_tcp_loose; None where it is not known
    """

    entries: int
    total: int = 0
    usage: float | None = None
    unanswered: tuple[Unanswered, ...] = ()
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
    pool_address: str = ""
    pool_ports: int = 0
    pool_size: int = 0
    pool_range: tuple[int, int] | None = None
    timeouts: Mapping[str, tuple[int | None, int]] = {}
    command: str = ""
    own: frozenset[str] = frozenset()
    gateways: frozenset[str] = frozenset()
    kube_proxy: bool = False
    zones: bool = False
    original_zones: bool = False
    tcp_loose: int | None = None

    @property
    def weighty(self) -> bool:
        """Return whether there are entries enough for any cause to matter."""
        if self.entries < FEWEST:
            return False
        return self.usage is None or self.usage >= BUSY or self.total >= MANY

    @property
    def pressed(self) -> bool:
        """Return whether the table is so full that what fills it matters, harmless or not."""
        return self.usage is not None and self.usage >= PRESSED


class Cause(NamedTuple):
    """A line of CAUSES: when it matches, what is said of it, what to do about it.

    Attributes:
        name: its name in the runbook
        matches: judges a profile
        headline: the cause and its culprit, for the status line
        sentence: the same with its evidence
        steps: what to do
        room: a larger maximum may be advised as well
        plain: looked at only where no other cause matches
    """

    name: str
    matches: Callable[[TableProfile], bool]
    headline: Callable[[TableProfile], str]
    sentence: Callable[[TableProfile], str]
    steps: Callable[[TableProfile], list[Step]]
    room: bool = False
    plain: bool = False


# --- words


def _who(profile: TableProfile, share: float = 0.0) -> str:
    """Return the dominant source and destination, whatever the cause; empty for none.

    share: of the entries that the cause is about; where others may have gone there, that is said.
    """
    source, target, service = profile.source, profile.destination, profile.service
    named = [(source, f"from {_called(source, profile)}")]
    if target.share >= NAMED:
        both = target.share >= SENDER and service.share >= SENDER
        port = f" {service.name}" if both else ""
        named.append((target, f"to {_called(target, profile)}{port}"))
    else:
        named.append((service, f"to {service.name}"))
    named = [(item, words) for item, words in named if item.share >= NAMED]
    text = ", ".join(f"{percent(item.share)} {words}" for item, words in named)
    apart = share and not all(overlaps(item.share, share) for item, _ in named)
    return f"of all entries {text}" if text and apart else text


def _called(item: TopItem, profile: TableProfile) -> str:
    return f"{item.name} (this host)" if item.address in profile.own else item.name


def _with(text: str, *more: str) -> str:
    return ", ".join(filter(None, (text, *more)))


def _to(service: TopItem, share: float) -> str:
    """Return the service that most entries of a state go to; empty where none stands out."""
    return f" to {service.name}" if service.share >= share / 2 and service.name else ""


def _kind(one: Unanswered) -> str:
    """Return what the entries are, as in "SYN_SENT" or "unreplied UDP"."""
    return one.state if one.protocol == "tcp" and one.state else f"unreplied {_upper(one)}"


def _upper(one: Unanswered) -> str:
    return {"icmpv6": "ICMPv6"}.get(one.protocol) or (
        one.protocol.upper() if " " not in one.protocol else one.protocol
    )


def _senders(one: Unanswered, profile: TableProfile) -> str:
    """Return where unanswered entries come from: one source, one network, or many."""
    if one.source.share >= NAMED:
        return f"from {_called(one.source, profile)}"
    if one.network.share >= SENDER:
        return f"from {one.network.name}"
    return "from forged sources" if _forged(one) else "from many sources"


def _forged(one: Unanswered) -> bool:
    """Return whether nearly every entry has a source of its own."""
    return one.spread >= 90 and one.sources >= 500


def _aim(one: Unanswered) -> str:
    """Return where unanswered entries go: a target, an address, or a network."""
    for item in (one.target, one.destination, one.destination_network):
        if item.share >= SENDER:
            return item.name
    return "many destinations"


def _share_of_senders(one: Unanswered) -> str:
    if one.source.share >= NAMED:
        return f"{percent(one.source.share)} of these from {one.source.name}"
    if one.network.share >= SENDER:
        return f"{percent(one.network.share)} of these from {one.network.name}"
    return f"no source has more than {max(one.source.share, 1):.0f}% of these"


def _share_of_aim(one: Unanswered) -> str:
    for item in (one.target, one.destination, one.destination_network):
        if item.share >= NAMED:
            return f"{percent(item.share)} to {item.name}"
    return f"to {one.targets} destinations"


# --- unanswered entries: a scan, a flood, or a destination that is silent


# UDP services that a dead host leaves unanswered in numbers, or that never answer (syslog, SNMP
# traps, NetFlow, sFlow, statsd, GELF, collectd, RADIUS, DNS, NTP, ...).
_SERVICES = frozenset(
    (
        *(53, 67, 68, 69, 88, 123, 137, 138, 161, 162, 389, 443, 500, 514, 1194, 1812, 1813, 2055),
        *(4500, 4739, 4789, 5060, 5353, 6343, 6514, 8125, 8472, 9995, 9996, 11211, 12201, 25826),
        *(51820,),
    )
)
HALF_OPEN = "half open"  # SYN_SENT and SYN_RECV together
SCAN, SYN_FLOOD, FLOOD, SILENCE = "scan", "syn flood", "flood", "unreplied"


def _verdict(one: Unanswered, profile: TableProfile) -> str:
    """Return what unanswered entries look like: the name of a cause."""
    source = one.source.share >= SENDER or one.network.share >= SENDER
    target = one.target.share >= SENDER
    if one.source.share >= SENDER and one.source.address in profile.own:
        return SILENCE
    if source and one.target.share <= NAMED and one.targets >= 50:
        return SCAN
    if one.state in ("SYN_RECV", HALF_OPEN):
        return SYN_FLOOD
    # A peer that is down leaves the first packet of a handshake without an answer.
    if one.protocol in ("tcp", "sctp", "dccp") or not (source or target):
        return SILENCE
    if one.protocol == "udp" and target and one.target.port in _SERVICES:
        return SILENCE
    return FLOOD


def _judged(profile: TableProfile, cause: str) -> Unanswered | None:
    """Return the unanswered entries that stand for a cause; None for none."""
    if not profile.weighty:
        return None
    least = 25.0 if profile.pressed else 40.0
    for one in _joined(profile.unanswered):
        if one.share >= least and _verdict(one, profile) == cause:
            return one
    return None


def _joined(unanswered: tuple[Unanswered, ...]) -> list[Unanswered]:
    """Return the groups, with SYN_SENT and SYN_RECV of one target as one.

    A server that is flooded answers some SYNs, and then no more.
    """
    by_state = {one.state: one for one in unanswered if one.protocol == "tcp"}
    sent, received = by_state.get("SYN_SENT"), by_state.get("SYN_RECV")
    if not sent or not received or received.share < 5:
        return list(unanswered)
    if _where(sent.target) != _where(received.target):
        return list(unanswered)
    number = sent.entries + received.entries

    def both(name: str) -> TopItem:
        one, other = getattr(sent, name), getattr(received, name)
        if _where(one) == _where(other):
            most = one.entries + other.entries
        else:
            one, most = max(((one, one.entries), (other, other.entries)), key=lambda pair: pair[1])
        item: TopItem = one._replace(entries=most, share=100 * most / (number or 1))
        return item

    joined = received._replace(
        state=HALF_OPEN,
        entries=number,
        share=sent.share + received.share,
        source=both("source"),
        network=both("network"),
        target=both("target"),
        destination=both("destination"),
        destination_network=both("destination_network"),
        sources=max(sent.sources, received.sources),
        targets=max(sent.targets, received.targets),
    )
    others = [one for one in unanswered if one is not sent and one is not received]
    return sorted([joined, *others], key=lambda one: -one.share)


def _where(item: TopItem) -> tuple[str, int, int]:
    return item.address, item.zone, item.port


def _unanswered_cause(
    name: str,
    headline: Callable[[Unanswered, TableProfile], str],
    sentence: Callable[[Unanswered, TableProfile], str],
    steps: Callable[[TableProfile, Unanswered], list[Step]],
) -> Cause:
    """Return a cause that is judged by unanswered entries."""

    def found(profile: TableProfile) -> Unanswered:
        return _judged(profile, name) or Unanswered("tcp", "SYN_SENT")

    return Cause(
        name,
        lambda profile: _judged(profile, name) is not None,
        lambda profile: headline(found(profile), profile),
        lambda profile: sentence(found(profile), profile),
        lambda profile: steps(profile, found(profile)),
    )


def _scan(one: Unanswered, profile: TableProfile) -> str:
    count = f" ({percent(one.share)} {_kind(one)})"
    what = _aim(one)
    if one.destination.share >= SENDER:
        what = f"{one.destination.name}, {one.ports} ports"
    elif one.destination_network.share < SENDER:
        what = f"{one.targets} destinations"
    elif one.ports == 1:
        what = f"{what} {one.target.protocol}/{one.target.port}"
    return f"scan of {what} {_senders(one, profile)}{count}"


def _scan_at_length(one: Unanswered, profile: TableProfile) -> str:
    return (
        f"{_scan(one, profile)}: {percent(one.share)} of entries are {_kind(one)}, "
        f"{_share_of_senders(one)}, to {one.targets} destinations"
    )


def _syn_flood(one: Unanswered, profile: TableProfile) -> str:
    return f"SYN flood on {_aim(one)} {_senders(one, profile)} ({percent(one.share)} {_kind(one)})"


def _syn_flood_at_length(one: Unanswered, profile: TableProfile) -> str:
    means = "it answered, and the clients went silent"
    if one.state == HALF_OPEN:
        means = "SYN_RECV, where it answered and the client went silent, and SYN_SENT"
    return (
        f"SYN flood on {_aim(one)} {_senders(one, profile)}: {percent(one.share)} of entries are "
        f"{_kind(one)} ({means}), {_share_of_senders(one)}, {_share_of_aim(one)}"
    )


def _flood(one: Unanswered, profile: TableProfile) -> str:
    return (
        f"{_upper(one)} flood on {_aim(one)} {_senders(one, profile)} "
        f"({percent(one.share)} unreplied)"
    )


def _flood_at_length(one: Unanswered, profile: TableProfile) -> str:
    return (
        f"{_upper(one)} flood on {_aim(one)} {_senders(one, profile)}: {percent(one.share)} of "
        f"entries are {_kind(one)}, {_share_of_senders(one)}, {_share_of_aim(one)}"
    )


def _silence(one: Unanswered, profile: TableProfile) -> str:
    return f"{_does_not_answer(one, profile)} ({percent(one.share)} {_kind(one)})"


def _does_not_answer(one: Unanswered, profile: TableProfile) -> str:
    aim = _aim(one)
    does = "do not answer" if aim == "many destinations" else "does not answer"
    senders = _senders(one, profile)[len("from ") :].replace("forged", "many")
    return f"{aim} {does} {senders}"


def _silence_at_length(one: Unanswered, profile: TableProfile) -> str:
    why = "a dead service or host, a firewall, or a missing route back"
    if one.protocol == "tcp":
        why += "; or a flood that it no longer answers"
    return (
        f"{_does_not_answer(one, profile)}: {percent(one.share)} of entries are {_kind(one)}, "
        f"{_share_of_aim(one)}, {_share_of_senders(one)}. That is {why}"
    )


# --- other causes


def _ports_headline(profile: TableProfile) -> str:
    pool = profile.pool
    within = ""
    if profile.pool_range:
        within = f" ({profile.pool_range[0]}-{profile.pool_range[1]})"
    return (
        f"source-NAT ports run out: {profile.pool_address} to {pool.name} takes "
        f"{profile.pool_ports} of {profile.pool_size} ports{within}"
    )


def _ports(profile: TableProfile) -> str:
    return (
        f"{_ports_headline(profile)}, {percent(profile.pool.share)}: new connections to "
        f"{profile.pool.name} fail when none is left, and nothing is logged"
    )


def _is_idle(profile: TableProfile) -> bool:
    if profile.idle < 40 or not profile.weighty:
        return False
    # An open socket is no leak: MQTT and WebSocket clients are silent for hours.
    number = profile.total * profile.idle / 100
    return profile.open_sockets is None or profile.open_sockets < number / 2


def _is_time_wait(profile: TableProfile) -> bool:
    if profile.usage is None:
        return profile.time_wait >= 60
    return profile.pressed and profile.time_wait >= 45


def _is_dns_churn(profile: TableProfile) -> bool:
    if profile.dns < 50:
        return False
    # A resolver's own table is full of queries too, answered for many: that is its work.
    one_asks = profile.source.share >= 60
    return profile.pressed or (profile.usage is None and (one_asks or profile.translated >= 50))


def _has_one_source(profile: TableProfile) -> bool:
    if profile.source.share < SENDER:
        return False
    # Where all goes to one place a proxy stands before it; a client is its own only source.
    spread = profile.destination.share < 60
    return profile.pressed or (profile.usage is None and spread and profile.source.share < 95)


def _idle_for() -> str:
    return f"{LONG_IDLE // 3600}h {LONG_IDLE % 3600 // 60}m or longer"


def _in_close_wait(profile: TableProfile) -> str:
    share = profile.close_wait
    return f"{percent(share)} of entries in CLOSE_WAIT{_to(profile.close_wait_service, share)}"


def _in_time_wait(profile: TableProfile) -> str:
    share = profile.time_wait
    return f"{percent(share)} of entries in TIME_WAIT{_to(profile.time_wait_service, share)}"


# The first that matches is the one of the status line.
CAUSES = (
    Cause(
        "nat ports",
        lambda p: p.pool.share >= 80,
        _ports_headline,
        _ports,
        remedies.more_ports,
    ),
    _unanswered_cause(SYN_FLOOD, _syn_flood, _syn_flood_at_length, remedies.against_syn_flood),
    _unanswered_cause(SCAN, _scan, _scan_at_length, remedies.against_scan),
    _unanswered_cause(FLOOD, _flood, _flood_at_length, remedies.against_flood),
    _unanswered_cause(SILENCE, _silence, _silence_at_length, remedies.against_silence),
    Cause(
        "close_wait",
        lambda p: p.weighty and p.close_wait >= 25,
        lambda p: _with(f"leaked connections: {_in_close_wait(p)}", _who(p, p.close_wait)),
        lambda p: _with(f"leaked connections: {_in_close_wait(p)}", _who(p, p.close_wait)),
        remedies.closing,
    ),
    Cause(
        "idle",
        _is_idle,
        lambda p: _with(f"leaked connections: {percent(p.idle)} idle for hours", _who(p, p.idle)),
        lambda p: _with(
            f"leaked connections: {percent(p.idle)} of entries are ESTABLISHED without a packet "
            f"for {_idle_for()}",
            _who(p, p.idle),
        ),
        remedies.alive,
    ),
    Cause(
        "time_wait",
        _is_time_wait,
        lambda p: _with(f"short-lived connections: {_in_time_wait(p)}", _who(p, p.time_wait)),
        lambda p: _with(f"short-lived connections: {_in_time_wait(p)}", _who(p, p.time_wait)),
        remedies.pooling,
        room=True,
    ),
    Cause(
        "dns",
        _is_dns_churn,
        lambda p: _with(f"DNS churn: {percent(p.dns)} to port 53", _who(p, p.dns)),
        lambda p: _with(
            f"DNS churn: {percent(p.dns)} of entries are queries to port 53", _who(p, p.dns)
        ),
        remedies.caching,
        room=True,
    ),
    Cause(
        "source",
        _has_one_source,
        lambda p: _with("one source dominates", _who(p)),
        lambda p: _with("one source dominates", _who(p)),
        remedies.ask_source,
        plain=True,
    ),
    Cause(
        "small",
        lambda p: p.pressed,
        lambda p: _with("no cause stands out: the table may be too small", _who(p)),
        lambda p: _with(
            "no cause stands out: the table may be too small",
            f"{percent(p.assured)} of entries are assured",
            _who(p),
        ),
        remedies.spread,
        room=True,
        plain=True,
    ),
)
NO_CAUSE = "no dominant cause found"


def diagnose(profile: TableProfile) -> list[Cause]:
    """Return the causes that match, the weightiest first; empty for a healthy table."""
    if profile.entries < FEWEST:
        return []
    found = [cause for cause in CAUSES if not cause.plain and cause.matches(profile)]
    # Of those that unanswered entries stand for, the largest comes first.
    order = [_verdict(one, profile) for one in _joined(profile.unanswered)]
    places = [at for at, cause in enumerate(found) if cause.name in order]
    ranked = sorted((found[at] for at in places), key=lambda cause: order.index(cause.name))
    for at, cause in zip(places, ranked):
        found[at] = cause
    if not found:
        found = [cause for cause in CAUSES if cause.plain and cause.matches(profile)][:1]
    return found
