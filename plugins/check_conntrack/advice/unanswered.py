"""Diagnose unanswered entries: a scan, a flood, or a destination that does not answer."""

from __future__ import annotations

from ..kernel import destinations
from ..render import percent
from .table_profile import CLOSED, LISTENS, NAMED, SENDER, TopItem, called, with_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .table_profile import TableProfile, Unanswered

# UDP services that a dead host leaves unanswered in numbers, or that never answer (syslog, SNMP
# traps, NetFlow, sFlow, statsd, GELF, collectd, RADIUS, DNS, NTP, ...).
_SERVICES = frozenset(
    (
        *(53, 67, 68, 69, 88, 123, 137, 138, 161, 162, 389, 443, 500, 514, 1194, 1812, 1813, 2055),
        *(4500, 4739, 4789, 5060, 5353, 6343, 6514, 8125, 8472, 9995, 9996, 11211, 12201, 25826),
        *(51820,),
    )
)
# Those of them that nobody answers while all is well: TFTP's notices, SNMP traps, syslog, NetFlow,
# IPFIX, sFlow, statsd, collectd, GELF.
_ONE_WAY = frozenset((162, 514, 2055, 4739, 6343, 8125, 9995, 9996, 12201, 25826))
# Tunnels in UDP: each flow in them takes a source port of its own, and answers are other entries.
_TUNNELS = {2152: "GTP-U", 4789: "VXLAN", 6081: "GENEVE", 8472: "VXLAN"}
MOSTLY = 80.0  # percent of the sources that say where all are from
FORGED = 1.0  # percent of the sources that nobody has, from which on they are forged
FEWEST_CLIENTS = 5  # hosts of one network, for clients and no scanners
FEWEST_ANSWERED = 3  # flows that were answered of late, for a service that works
HALF_OPEN = "half open"  # SYN_SENT and SYN_RECV together
# What a connection in one of these states stands for: a flood of segments makes none of them.
_CLOSING = {"FIN_WAIT": "closing", "LAST_ACK": "closing", "CLOSE_WAIT": "close_wait"}
_CLOSING.update(TIME_WAIT="time_wait", CLOSE="reset")
_HANDSHAKE = ("SYN_SENT", "SYN_RECV", HALF_OPEN)
SCAN, SYN_FLOOD, FLOOD, SILENCE = "scan", "syn flood", "flood", "unreplied"


def verdict(one: Unanswered, profile: TableProfile) -> str:
    """Return what unanswered entries look like: the name of a cause."""
    if one.protocol == "tcp" and one.state in _CLOSING:
        return _CLOSING[one.state]
    if tunnel(one) and not forged(one):
        return SILENCE
    network = one.network.share >= SENDER and not are_clients(one, profile)
    source = one.source.share >= SENDER or network
    target = one.target.share >= SENDER
    if one.source.share >= SENDER and one.source.address in profile.own:
        return SILENCE
    if source and one.target.share <= NAMED and one.targets >= 50 and not are_answers(one):
        return SCAN
    if one.state in ("SYN_RECV", HALF_OPEN):
        return SYN_FLOOD
    if without_handshake(one) and (source or (one_each(one) and one.private < MOSTLY)):
        return FLOOD
    # A peer that is down leaves the first packet of a handshake without an answer.
    if one.protocol in ("tcp", "sctp", "dccp"):
        return SILENCE
    if not (source or target):
        return FLOOD if one_each(one) and forged(one) else SILENCE
    if one.protocol == "udp" and target and not _is_udp_flood(one):
        return SILENCE
    return FLOOD


def are_clients(one: Unanswered, profile: TableProfile) -> bool:
    """Return whether the senders are many hosts of a network that this gateway serves.

    Where none of them stands out, they hardly scan all together: their way out is broken.
    """
    served = one.private >= MOSTLY or one.source_translated >= SENDER
    served = served or one.network.address in profile.own
    return served and one.sources >= FEWEST_CLIENTS and one.source.share < SENDER


def _is_udp_flood(one: Unanswered) -> bool:
    """Return whether UDP to one target is a flood for certain, or has one source."""
    if one.source.share >= SENDER:
        return one.target.port not in _SERVICES and one.reached != destinations.TO_ALL
    # Clients of a service that is down come back, each from other ports, and are few.
    return one_each(one) and (forged(one) or answers_others(one))


def is_in_doubt(one: Unanswered) -> bool:
    """Return whether nothing tells a UDP service that is down from a flood.

    Each source has one entry. Nobody answers; but the target may be up, and the sources forged.
    """
    return (
        one.protocol == "udp"
        and one.target.share >= SENDER
        and one_each(one)
        and not (forged(one) or answers_others(one))
        and not (is_down(one) or one.private >= MOSTLY)
    )


def is_down(one: Unanswered) -> bool:
    """Return whether the kernel knows that nobody can answer: no host, no route, no program."""
    return one.reached == CLOSED or one.reached in destinations.GONE


def is_one_way(one: Unanswered) -> bool:
    """Return whether entries are of a service that nobody answers while all is well."""
    known = one.target.port in _ONE_WAY or one.reached == destinations.TO_ALL
    return one.protocol == "udp" and one.target.share >= SENDER and known


def tunnel(one: Unanswered) -> str:
    """Return the name of the tunnel that entries are of; empty for none."""
    known = one.target.share >= SENDER or one.ports == 1
    return _TUNNELS.get(one.target.port, "") if one.protocol == "udp" and known else ""


def answers_others(one: Unanswered) -> bool:
    """Return whether the target has answered other flows of UDP in the last seconds."""
    return one.recent >= FEWEST_ANSWERED


def standing_for(profile: TableProfile, cause: str) -> Unanswered | None:
    """Return the unanswered entries that stand for a cause; None for none."""
    if not profile.weighty:
        return None
    least = 25.0 if profile.pressed else 40.0
    for one in joined(profile.unanswered):
        if one.share >= least and verdict(one, profile) == cause:
            return one
    return None


def joined(unanswered: tuple[Unanswered, ...]) -> list[Unanswered]:
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


def without_handshake(one: Unanswered) -> bool:
    """Return whether connections were taken up in their middle, from a packet that is no SYN."""
    return one.protocol == "tcp" and bool(one.state) and one.state not in _HANDSHAKE


def may_be_one_way(one: Unanswered) -> bool:
    """Return whether connections may be in use, their answers taking another way.

    They are taken up in their middle, after a failover for example. Each source has one.
    """
    if are_answers(one):
        return True
    lone = one.source.share < SENDER and one.network.share < SENDER
    return without_handshake(one) and lone and one_each(one) and not forged(one)


def are_answers(one: Unanswered) -> bool:
    """Return whether of connections only what servers send may pass here.

    It goes to as many ports as there are connections, and to many hosts; a scan asks few ports of
    many hosts, or many of one. The clients' packets take another way.
    """
    wide = one.destination.share < NAMED and one.ports >= one.targets / 2
    return without_handshake(one) and wide and not one_each(one)


# --- words


def _kind(one: Unanswered) -> str:
    """Return what the entries are, as in "SYN_SENT" or "unreplied UDP"."""
    if without_handshake(one):
        return f"unreplied {one.state}"
    return one.state if one.protocol == "tcp" and one.state else f"unreplied {_upper(one)}"


def _upper(one: Unanswered) -> str:
    return {"icmpv6": "ICMPv6"}.get(one.protocol) or (
        one.protocol.upper() if " " not in one.protocol else one.protocol
    )


def _senders(one: Unanswered, profile: TableProfile) -> str:
    """Return where unanswered entries come from: one source, one network, or many."""
    if one.source.share >= NAMED:
        return f"from {called(one.source, profile)}"
    if one.network.share >= SENDER:
        return f"from {one.network.name}"
    # TCP's clients would complete a handshake; what is sent without one may be all there is.
    certain = forged(one) or (one.protocol == "tcp" and not without_handshake(one))
    return "from forged sources" if one_each(one) and certain else "from many sources"


def one_each(one: Unanswered) -> bool:
    """Return whether nearly every entry has a source of its own."""
    return one.spread >= 90 and one.sources >= 500


def forged(one: Unanswered) -> bool:
    """Return whether there are sources that nobody has."""
    return one.reserved >= FORGED


def _aim(one: Unanswered) -> str:
    """Return where unanswered entries go: a target, an address, or a network."""
    for item in (one.target, one.destination):
        if item.share >= SENDER:
            return with_owner(item)
    port = f" {one.target.protocol}/{one.target.port}" if one.ports == 1 and one.target.port else ""
    if one.destination_network.share >= SENDER:
        return f"{with_owner(one.destination_network)}{port}"
    return f"many destinations{port}"


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


def scan(one: Unanswered, profile: TableProfile) -> str:
    """Return what is scanned, and by whom, for the status line."""
    count = f" ({percent(one.share)} {_kind(one)})"
    if is_peer_to_peer(one):
        senders = _senders(one, profile)
        return f"scan or peer-to-peer traffic {senders} to {one.targets} destinations{count}"
    what = _aim(one)
    if one.destination.share >= SENDER:
        what = f"{with_owner(one.destination)}, {one.ports} ports"
    elif one.destination_network.share < SENDER:
        what = f"{one.targets} destinations"
    return f"scan of {what} {_senders(one, profile)}{count}"


def is_peer_to_peer(one: Unanswered) -> bool:
    """Return whether a scan may be a peer-to-peer program: each peer has a port of its own."""
    if one.destination.share >= NAMED or one.ports < max(one.targets / 2, 1):
        return False
    # Peers of TCP are all over the Internet; a scan of all ports of a network is in that network.
    everywhere = one.destination_network.share < SENDER
    return one.protocol == "udp" or (one.state == "SYN_SENT" and everywhere)


def scan_at_length(one: Unanswered, profile: TableProfile) -> str:
    """Return the same with its evidence."""
    aim = f"to {one.targets} destinations"
    if one.destination.share >= SENDER:  # its ports are what was counted
        aim = f"{percent(one.destination.share)} to {one.destination.name}"
    return (
        f"{scan(one, profile)}: {percent(one.share)} of entries are {_kind(one)}, "
        f"{_share_of_senders(one)}, {aim}"
    )


def syn_flood(one: Unanswered, profile: TableProfile) -> str:
    """Return the target and the sources of a SYN flood, for the status line."""
    return f"SYN flood on {_aim(one)} {_senders(one, profile)} ({percent(one.share)} {_kind(one)})"


def syn_flood_at_length(one: Unanswered, profile: TableProfile) -> str:
    """Return the same with its evidence."""
    means = "it answered, and the clients went silent"
    if one.state == HALF_OPEN:
        means = "SYN_RECV, where it answered and the client went silent, and SYN_SENT"
    return (
        f"SYN flood on {_aim(one)} {_senders(one, profile)}: {percent(one.share)} of entries are "
        f"{_kind(one)} ({means}), {_share_of_senders(one)}, {_share_of_aim(one)}"
    )


def _flood(one: Unanswered) -> str:
    return "TCP ACK" if without_handshake(one) else _upper(one)


def _answers(one: Unanswered, profile: TableProfile) -> str:
    return f"one-way connections {_senders(one, profile)} to {_aim(one)}, or a TCP ACK flood"


def flood(one: Unanswered, profile: TableProfile) -> str:
    """Return the target and the sources of a flood, for the status line."""
    if are_answers(one):
        return f"{_answers(one, profile)} ({percent(one.share)} unreplied)"
    if may_be_one_way(one):
        return (
            f"TCP ACK flood or one-way connections to {_aim(one)} {_senders(one, profile)} "
            f"({percent(one.share)} unreplied)"
        )
    return (
        f"{_flood(one)} flood on {_aim(one)} {_senders(one, profile)} "
        f"({percent(one.share)} unreplied)"
    )


def flood_at_length(one: Unanswered, profile: TableProfile) -> str:
    """Return the same with its evidence."""
    means = " (taken up from a packet without a handshake)" if without_handshake(one) else ""
    what, doubt = f"{_flood(one)} flood on {_aim(one)} {_senders(one, profile)}", ""
    if are_answers(one):
        what = _answers(one, profile)
        doubt = ". The answers of a server look so where its clients' packets take another way"
    elif may_be_one_way(one):
        doubt = ". Connections of which only one direction passes here look the same"
    elif one.protocol == "udp" and one.source.share >= SENDER:
        doubt = (
            ". A program that sends each message from another port looks the same, and so do many "
            "clients behind one NAT address"
        )
    return (
        f"{what}: {percent(one.share)} of entries are {_kind(one)}{means}, "
        f"{_share_of_senders(one)}, {_share_of_aim(one)}{_evidence(one, profile)}{doubt}"
    )


def silence(one: Unanswered, profile: TableProfile) -> str:
    """Return which destination does not answer whom, for the status line."""
    if is_in_doubt(one):
        count = f"({percent(one.share)} unreplied)"
        if is_one_way(one):
            return f"many senders of one-way messages, or a UDP flood, to {silent(one)} {count}"
        return f"{silent(one)} is down, one-way or under a UDP flood {count}"
    return f"{_does_not_answer(one, profile)} ({percent(one.share)} {_kind(one)})"


def silent(one: Unanswered) -> str:
    """Return what does not answer: a backend with the address that it is behind in brackets."""
    target, backend = one.target, one.backend
    if target.share < SENDER or not backend.name:
        return _aim(one)
    behind = target.address if target.port == backend.port and not target.zone else target.name
    return f"{backend.name} ({behind})"


def _does_not_answer(one: Unanswered, profile: TableProfile) -> str:
    aim = silent(one)
    if tunnel(one):
        return f"{tunnel(one)} tunnel {_senders(one, profile)} to {aim}"
    if is_one_way(one) and not is_down(one):
        return f"one-way messages {_senders(one, profile)} to {aim}"
    does = "do not answer" if aim.startswith("many destinations") else "does not answer"
    senders = _senders(one, profile)[len("from ") :].replace("forged", "many")  # clients, here
    return f"{aim} {does} {senders}"


def silence_at_length(one: Unanswered, profile: TableProfile) -> str:
    """Return the same with its evidence."""
    to = _share_of_aim(one)
    if one.backend.name and one.target.share >= SENDER:
        to += f" and translated to {one.backend.name}"
    return (
        f"{_does_not_answer(one, profile)}: {percent(one.share)} of entries are {_kind(one)}, "
        f"{to}, {_share_of_senders(one)}{_evidence(one, profile)}. {_why_silent(one)}"
    )


_REACHED = {
    destinations.FAILED: "no host answers for {name}{device} (neighbour FAILED)",
    destinations.INCOMPLETE: "no host answers for {name}{device} (neighbour INCOMPLETE)",
    destinations.NO_ROUTE: "there is no route to {name}",
    CLOSED: "no program of {here} takes {service}",
    LISTENS: "a program of {here} takes {service}",
}


def _evidence(one: Unanswered, profile: TableProfile) -> str:
    """Return what tells a service that is down from a flood; each begins with a comma."""
    found = []
    if one.reached in _REACHED:
        item = one.backend if one.backend.name else one.target
        device = f" on {one.device}" if one.device else ""
        service = f"{item.protocol}/{item.port}"
        words = {"name": item.address, "device": device, "service": service, "here": profile.here}
        found.append(_REACHED[one.reached].format_map(words))
    if one.protocol == "udp" and one.target.share >= SENDER:
        if answers_others(one):
            found.append("while it has just answered others")
        elif one.answered:
            found.append("while others were answered before")
    if one_each(one) and one.protocol != "tcp":
        if forged(one):
            found.append(f"{percent(one.reserved)} of the sources are addresses that nobody has")
        elif one.private >= MOSTLY:
            found.append(f"{percent(one.private)} of the sources are private addresses")
    return "".join(f", {each}" for each in found)


def _why_silent(one: Unanswered) -> str:
    """Return what it may mean that a destination does not answer."""
    if is_down(one):
        return "So it is down"
    if one.reached == destinations.TO_ALL:
        return (
            "That is the address of a group or of a whole network: nobody answers from it, also "
            "while all is well"
        )
    if tunnel(one):
        return (
            "Each flow in a tunnel takes a source port of its own, and what comes back is another "
            "entry, so none is ever answered, also while all is well"
        )
    if is_one_way(one):
        means = "Nobody answers what is sent to this port, also while all is well"
        flood = ". A flood from forged sources looks the same" if is_in_doubt(one) else ""
        return f"{means}, so the service may be up or down{flood}"
    if is_in_doubt(one):
        return (
            "A service that is down, or that takes messages and never answers (as of syslog or "
            "statsd), looks like a flood from forged sources if it has as many clients"
        )
    if without_handshake(one):
        return (
            "Only one direction of these connections passes here (asymmetric routes, a failover), "
            "or nobody answers"
        )
    why = "a dead service or host, a firewall, or a missing route back"
    if one.target.share < SENDER and one.destination.share < SENDER:
        why = "a broken way there or back (upstream, route, firewall), or hosts that are down"
        if one.sources >= FEWEST_CLIENTS:
            why += "; or a scan or a flood from many hosts"
    elif one.protocol in ("tcp", "udp"):
        why += "; or a flood that it no longer answers"
    return f"That is {why}"
