"""Decide what unanswered entries stand for: a scan, a flood, a destination that does not answer.

Pure functions. The sentences are in unanswered_words.py, the steps in unanswered_steps.py.
"""

from __future__ import annotations

from ..kernel import destinations
from .table_profile import CLOSED, NAMED, SENDER, TopItem

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
    """Return whether these may be the packets of servers whose clients' packets take another way.

    They go to as many ports as there are connections, and to many hosts; a scan asks few ports of
    many hosts, or many of one.
    """
    wide = one.destination.share < NAMED and one.ports >= one.targets / 2
    return without_handshake(one) and wide and not one_each(one)


def one_each(one: Unanswered) -> bool:
    """Return whether nearly every entry has a source of its own."""
    return one.spread >= 90 and one.sources >= 500


def forged(one: Unanswered) -> bool:
    """Return whether there are sources that nobody has."""
    return one.reserved >= FORGED


def is_peer_to_peer(one: Unanswered) -> bool:
    """Return whether a scan may be a peer-to-peer program: each peer has a port of its own."""
    if one.destination.share >= NAMED or one.ports < max(one.targets / 2, 1):
        return False
    # Peers of TCP are all over the Internet; a scan of all ports of a network is in that network.
    everywhere = one.destination_network.share < SENDER
    return one.protocol == "udp" or (one.state == "SYN_SENT" and everywhere)
