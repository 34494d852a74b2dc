"""The sentences about unanswered entries: for the status line, and at length with their evidence.

What the entries stand for is decided in unanswered.py; the steps against them are in
unanswered_steps.py.
"""

from __future__ import annotations

from ..kernel import destinations
from ..render import percent
from .table_profile import CLOSED, LISTENS, NAMED, SENDER, called, with_owner
from .unanswered import (
    FEWEST_CLIENTS,
    HALF_OPEN,
    MOSTLY,
    answers_others,
    are_answers,
    forged,
    is_down,
    is_in_doubt,
    is_one_way,
    is_peer_to_peer,
    may_be_one_way,
    one_each,
    tunnel,
    without_handshake,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .table_profile import TableProfile, Unanswered


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


def scan_at_length(one: Unanswered, profile: TableProfile) -> str:
    """Return the same with its evidence."""
    aim = f"to {one.targets} destinations"
    if one.destination.share >= SENDER:  # its ports are what was counted
        aim = f"{percent(one.destination.share)} to {one.destination.name}"
    doubt = ""
    if one.protocol == "udp" and is_peer_to_peer(one):
        doubt = ". A telephone system, whose audio (RTP) goes to many ports, looks the same"
    return (
        f"{scan(one, profile)}: {percent(one.share)} of entries are {_kind(one)}, "
        f"{_share_of_senders(one)}, {aim}{doubt}"
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
