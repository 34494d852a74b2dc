"""The steps against unanswered entries: a scan, a flood, a destination that does not answer.

Pure functions, no I/O. Which of these it is, is decided in unanswered.py.
"""

from __future__ import annotations

from ..kernel import destinations
from . import rulesets, unanswered
from .capacity import Step
from .remedies import ask_source, bound_to, own_program
from .table_profile import NAMED, SENDER, TopItem
from .timeout_steps import shorter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .table_profile import TableProfile, Unanswered

_LEAVE = "Leave the limit as it is: a larger table only takes longer to fill."


def _culprit(one: Unanswered) -> TopItem | None:
    """Return the source or the source network that stands behind unanswered entries."""
    if one.source.share >= NAMED:
        return one.source
    return one.network if one.network.share >= 50 else None


def _state(one: Unanswered) -> tuple[str, ...]:
    """Return the options that choose the state of such entries; empty where TCP has none."""
    if one.protocol != "tcp" or not one.state.isupper():
        return ()
    return ("--state", one.state)


def _ends_by_itself(one: Unanswered) -> Step:
    """Return why entries in a state that answered ones have too are not deleted."""
    # conntrack -D takes "-u UNREPLIED" and deletes answered entries all the same (1.4.7).
    return Step(
        f"conntrack(8) cannot delete these alone: answered connections are {one.state} too. They "
        "time out, and until then the kernel evicts them first, because they are not assured."
    )


def _from(one: Unanswered, item: TopItem) -> tuple[str, ...]:
    """Return the options that choose such entries of a source."""
    return ("-p", rulesets.protocol(one.protocol), *_state(one), "-s", item.address)


def against_source(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return what ends a scan or a flood that has one source or one network."""
    item = _culprit(one)
    if item is None:
        return []
    steps = []
    if rulesets.may_block(profile, item):
        steps.append(rulesets.block(profile, item))
    elif "/" in item.address:
        what = profile.here if item.address in profile.own else "the default gateway"
        steps.append(
            Step(f"{item.name} holds an address of {what}: block hosts in it, not all of it.")
        )
    elif item.address in profile.gateways:
        steps.append(Step(f"{item.name} is the default gateway: ask there who is behind it."))
    else:
        steps.append(own_program(profile, item))
    return steps + rulesets.frees(profile, item, item.entries, *_from(one, item))


def against_syn_flood(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return what ends a SYN flood: block its source, or let a SYN proxy answer."""
    steps = against_source(profile, one)
    target = one.target
    if not steps or (one.source.share < 50 and one.network.share < 80):
        if target.share >= 50 and not profile.zones and one.translated < 1:
            steps.append(rulesets.synproxy(profile, target))
        elif target.share >= 50:
            why = "translated here" if one.translated >= 1 else "in a zone"
            steps.append(
                Step(
                    f"{target.name} is {why}, and a SYN proxy would break it here: run one on the "
                    "host behind (nft synproxy), and limit sources here:"
                )
            )
            steps.append(rulesets.limit(profile, target))
        states = [one.state] if one.state.isupper() else ["SYN_RECV", "SYN_SENT"]
        where = rulesets.toward(target)[2:] if target.share >= 50 else ()
        number = target.entries if target.share >= 50 else one.entries
        commands = [
            command
            for state in states
            for command in rulesets.deletes(profile, target, "-p", "tcp", "--state", state, *where)
        ]
        if commands:
            steps.append(Step(rulesets.free_text(number), tuple(commands)))
    elif target.share >= 50:
        steps.append(rulesets.limit(profile, target))
    steps.append(Step(_LEAVE))
    steps.append(shorter(profile, "tcp_timeout_syn_recv", 15))
    return steps


_UNANSWERED_TIMEOUTS = {
    "udp": ("udp_timeout", 10),
    "icmp": ("icmp_timeout", 10),
    "icmpv6": ("icmpv6_timeout", 10),
    "gre": ("gre_timeout", 10),
}

_HANDSHAKE_TIMEOUTS = {
    "": ("tcp_timeout_syn_sent", 30),
    "SYN_SENT": ("tcp_timeout_syn_sent", 30),
    "SYN_RECV": ("tcp_timeout_syn_recv", 15),
    unanswered.HALF_OPEN: ("tcp_timeout_syn_recv", 15),
}


def _shorter_unanswered(profile: TableProfile, one: Unanswered) -> list[Step]:
    if one.protocol in ("sctp", "dccp"):
        return []  # their first packets are forgotten soon
    if one.protocol == "tcp":
        # Which timeout an unreplied ESTABLISHED entry has depends on the version of the kernel.
        timeout = _HANDSHAKE_TIMEOUTS.get(one.state)
        return [shorter(profile, *timeout)] if timeout else []
    name, wanted = _UNANSWERED_TIMEOUTS.get(one.protocol, ("generic_timeout", 60))
    return [shorter(profile, name, wanted)]


def against_scan(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return what ends a scan."""
    if unanswered.is_peer_to_peer(one) and one.source.share >= SENDER:
        # It may be a customer, whose other traffic goes on.
        same = profile.source.address == one.source.address
        limited = ask_source(profile if same else profile._replace(source=one.source))
        return [*limited, Step(_LEAVE), *_shorter_unanswered(profile, one)]
    return [*against_source(profile, one), Step(_LEAVE), *_shorter_unanswered(profile, one)]


def against_flood(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return what ends a flood of a protocol without a handshake, or of TCP that does without."""
    steps = against_source(profile, one)
    target = one.target
    if unanswered.without_handshake(one):
        if not steps:
            steps.append(_ends_by_itself(one))
        if profile.tcp_loose != 0:
            steps = [rulesets.strict(profile), *steps]
        if unanswered.are_answers(one):
            steps.insert(0, _other_direction(profile, one.destination, "packets of their clients"))
        elif unanswered.may_be_one_way(one) and target.port:
            steps.insert(0, _other_direction(profile, target, "answers"))
    elif not steps and target.share >= 50:
        steps.append(
            Step(
                f"The sources are many: let the provider filter {one.protocol} to {target.address} "
                "before it arrives, or drop it here while that host can do without:",
                *rulesets.dropped(profile, target),
            )
        )
        steps += rulesets.frees(profile, target, target.entries, *rulesets.toward(target))
    elif not steps:
        network = one.destination_network
        where = network.address if network.share >= SENDER else "the destinations"
        steps.append(
            Step(
                "The sources and the destinations are many: let the provider filter "
                f"{one.protocol} to {where} before it arrives."
            )
        )
    return [*steps, Step(_LEAVE), *_shorter_unanswered(profile, one)]


def _other_direction(profile: TableProfile, item: TopItem, what: str) -> Step:
    """Return how to see whether connections are in use of which one direction passes here.

    item: where they go to. what: passes elsewhere.
    """
    where = profile.here if item.address in profile.own else item.address
    sockets = f"ss -tn 'sport = :{item.port}' on {where} lists their sources"
    if not item.port:
        sockets = "ss -tn on the host that sends lists their destinations"
    return Step(
        f"Find out first whether these connections are in use, and the {what} take a way that does "
        f"not lead through here (asymmetric routes, a failover): then {sockets}. In that case "
        "correct the routes, and do nothing of what follows:",
        (f"{profile.command}ip route get {item.address}",),
    )


def against_silence(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return what to do where a destination does not answer."""
    target = one.target
    steps = []
    if unanswered.tunnel(one):
        return _tunnel(profile, one)
    if one.reached == destinations.TO_ALL and unanswered.is_one_way(one):
        return _to_all(profile, one)
    if unanswered.is_in_doubt(one) or unanswered.is_one_way(one):
        return _in_doubt(profile, one)
    if target.share >= 50:
        steps.append(_why_silent(profile, one))
        options = (*rulesets.toward(target), *_state(one))
        if one.translated >= 1:
            steps.append(rulesets.behind(profile, target, one.backends, *options))
        elif target.protocol in ("tcp", "udp") and target.port:
            steps.append(rulesets.refuse(profile, target))
        if unanswered.without_handshake(one):
            steps.append(_ends_by_itself(one))
        else:
            steps += rulesets.frees(profile, target, target.entries, *options)
    else:
        steps.append(_way_out(profile, one))
    steps += _own_sockets(profile, one)
    return [*steps, Step(_LEAVE), *_shorter_unanswered(profile, one)]


def _way_out(profile: TableProfile, one: Unanswered) -> Step:
    """Return how to look for what loses the answers of many destinations."""
    text = (
        "Find out where the answers get lost: the way out (upstream, default route), a firewall, "
        "a missing route back, a host that is down."
    )
    address = one.destination.address
    if not address:
        return Step(text)
    return Step(
        f"{text} See which way packets to one of them take, {address}, and try it:",
        (f"{profile.command}ip route get {address}", f"{profile.command}ping -c 3 -W 1 {address}"),
    )


def _own_sockets(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return how to find the program where the connections are this host's own."""
    if one.source.share < NAMED or one.source.address not in profile.own:
        return []
    return [
        Step(
            f"The connections are {profile.here}'s own: find the program.",
            (f"{profile.command}{_sockets_of(one)}",),
        )
    ]


def _in_doubt(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return what to do where UDP to one target may be unanswered because it is down, or is not.

    First what finds out. Nothing here drops what real clients send to a service that works.
    """
    target = one.target
    asked = one.backend if one.backend.name else target
    first = f"Find out first whether {asked.name} is up."
    if unanswered.is_down(one):
        first = f"Find out why {asked.name} is down."
    text = f"{first} {_on_server(profile, one)}"
    steps = [Step(text, _tries(profile, one))]
    options = rulesets.toward(target)
    one_way = unanswered.is_one_way(one)
    # What is not tracked is not translated, and before tracking no packet has a zone.
    untrackable = not profile.zones and one.source_translated < 1
    down = "If it is down, start it. "
    if one.translated >= 1:
        step = rulesets.behind(profile, target, one.backends, *options)
        text = step.text.replace(" Take ", " If it is down, start it or take ")
        steps.append(step._replace(text=text if text != step.text else down + text))
        if one_way:
            steps.append(
                Step(
                    "If it is up, nothing is wrong: these entries translate the messages, so they "
                    "are needed. A shorter timeout (below) makes them fewer."
                )
            )
    elif one_way and untrackable:
        steps.append(rulesets.untracked(profile, target))
    else:
        steps.append(rulesets.refuse(profile, target, f"{down}Until then"))
        if untrackable:
            never = "If it is up and never answers (as of syslog or statsd), nothing is wrong. "
            steps.append(rulesets.untracked(profile, target, never))
    if one_way:
        steps += _one_socket(one)
    if unanswered.is_in_doubt(one):
        clients = "most senders are not its clients" if one_way else "answers its clients"
        steps.append(
            Step(
                f"If it is up and {clients}, this is a flood: let the provider filter "
                f"{one.protocol} to {target.address} before it arrives. Nothing here tells "
                "its packets from those of clients, so a rule here would shut these out too."
            )
        )
    steps += rulesets.frees(profile, target, target.entries, *options)
    steps += _own_sockets(profile, one)
    return [*steps, Step(_LEAVE), *_shorter_unanswered(profile, one)]


def _one_socket(one: Unanswered) -> list[Step]:
    """Return what helps where one source sends each message from another port."""
    if one.source.share < SENDER:
        return []
    return [
        Step(
            f"{one.source.name} takes another port for each message, and each port is an entry: "
            "let its program keep one socket open. Many senders behind one NAT address look the "
            "same."
        )
    ]


def _to_all(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return what to do about UDP to a multicast or broadcast address."""
    target = one.target
    steps = [
        Step(
            f"Nothing is down. If so many messages to {target.name} are not wanted, find out which "
            "programs send them (discovery of services, names or devices)."
        ),
        *_one_socket(one),
    ]
    if not profile.zones and one.source_translated < 1 and one.translated < 1:
        steps.append(rulesets.untracked(profile, target))
    steps += rulesets.frees(profile, target, target.entries, *rulesets.toward(target))
    steps += _own_sockets(profile, one)
    return [*steps, Step(_LEAVE), *_shorter_unanswered(profile, one)]


def _tunnel(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return what to do about the entries of a tunnel in UDP, whose hosts may be many."""
    port = one.target.port
    item = TopItem(f"udp/{port}", protocol="udp", port=port)
    fine = f"Nothing is down while the network in the {unanswered.tunnel(one)} tunnel works. "
    steps = [Step(f"{fine}Its many flows take these entries.")]
    if not profile.zones and one.source_translated < 1 and one.translated < 1:
        steps = [rulesets.untracked(profile, item, fine)]
        steps += rulesets.frees(profile, item, one.entries, "-p", "udp", "--dport", str(port))
    return [*steps, Step(_LEAVE), *_shorter_unanswered(profile, one)]


def _why_silent(profile: TableProfile, one: Unanswered) -> Step:
    """Return how to find out why a target, or what it is translated to, does not answer."""
    asked = one.backends[: rulesets.MOST_BACKENDS] or (one.target,)
    names = asked[0].name if len(asked) == 1 else f"what is behind {one.target.name}"
    text = (
        f"Find out why {names} does not answer: service down, host down, a firewall before it, or "
        "no route back."
    )
    if one.target.protocol == "tcp":
        text += (
            ' Where "open" is printed, it answers this host: then its answers to the others take '
            "another way (asymmetric routes) or are filtered. Refuse and delete nothing then."
        )
    elif one.target.protocol == "udp" and asked[0].port:
        text += f" {_on_server(profile, one)}"
    return Step(text, _tries(profile, one))


def _tries(profile: TableProfile, one: Unanswered) -> tuple[str, ...]:
    """Return the commands that try a target, or what it is translated to."""
    asked = one.backends[: rulesets.MOST_BACKENDS] or (one.target,)
    found = [f"ip route get {asked[0].address}"]
    if one.target.protocol == "tcp":
        found += [
            f"timeout 3 bash -c '</dev/tcp/{item.address}/{item.port}' && echo open"
            for item in asked
        ]
    elif one.target.protocol == "udp" and one.target.port:
        if one.target.address in profile.own and not one.backends:
            found = [_sockets_on(one.target.port)]
        else:
            found += [f"ping -c 3 -W 1 {item.address}" for item in asked]
    return tuple(f"{profile.command}{each}" for each in found)


def _on_server(profile: TableProfile, one: Unanswered) -> str:
    """Return how to see whether a program takes what is sent to a UDP service."""
    asked = one.backends or (one.target,)
    if one.target.address in profile.own and not one.backends:
        return "Its program must be in this list:"
    return (
        f"A host that is up may ignore ping. Run {_sockets_on(asked[0].port)} there: its program "
        "must be in that list."
    )


def _sockets_on(port: int) -> str:
    return f"ss -lunp 'sport = :{port}'"


def _sockets_of(one: Unanswered) -> str:
    """Return the command that shows whose the connections of a source of this host are."""
    if one.protocol == "tcp":
        return f"ss -tanp {bound_to(one.source)}"
    return "ss -uanp" if one.protocol == "udp" else "ss -wanp"  # these are seldom bound to it
