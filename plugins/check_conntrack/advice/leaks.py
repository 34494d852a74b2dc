"""Say what to do about connections that nobody closes. Pure functions, no I/O."""

from __future__ import annotations

from . import rulesets
from .capacity import Step
from .table_profile import NAMED, SENDER, TopItem, called, idle_goes_to_service
from .timeout_steps import shorter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .table_profile import TableProfile


def closing(profile: TableProfile) -> list[Step]:
    """Return what helps against connections that one side never closes."""
    return [
        Step(_not_closed(profile), (f"{profile.command}ss -tanp state close-wait",)),
        *rulesets.frees_state(profile, "CLOSE_WAIT", profile.close_wait),
        shorter(
            profile,
            "tcp_timeout_close_wait",
            30,
            "A program that still sends loses its connection; the leak stays.",
        ),
    ]


def _not_closed(profile: TableProfile) -> str:
    """Return where the program is that does not close its sockets, as far as is known."""
    number = profile.closing_sockets
    if number and number >= profile.total * profile.close_wait / 200:
        return (
            f"One side has closed and a program on {profile.here} has not: there are {number} "
            "sockets in CLOSE_WAIT. Find it, and restart it:"
        )
    ends, sides = profile.close_wait_ends, []
    for item, role in ((ends.target, "server"), (ends.source, "client")):
        # A server may be in a container, or behind this host.
        away = role == "server" and profile.translated >= 1
        if number is not None and item.address in profile.own and not away:
            continue
        name = f", {called(item, profile)}" if item.share >= SENDER and item.address else ""
        where = " or where that is translated to" if away and name else ""
        sides.append(f"on the {role}{name}{where}{',' if name else ''}")
    return (
        "One side has closed and a program on the other has not. An entry does not tell which: "
        f"look {' and '.join(sides)} for sockets in CLOSE_WAIT, and restart the program that has "
        "them:"
    )


def _server(item: TopItem, profile: TableProfile) -> str:
    """Return what a server is called; it may be in a container, or behind this host."""
    where = " or where that is translated to" if profile.translated >= 1 else ""
    return f"{called(item, profile)}{where}"


def unfinished(profile: TableProfile) -> list[Step]:
    """Return what helps against connections that do not finish closing."""
    ends = profile.closing_ends
    sides = [
        f"on the {role} {name}"
        for item, role, name in (
            (ends.source, "client", called(ends.source, profile)),
            (ends.target, "server", _server(ends.target, profile)),
        )
        if item.share >= SENDER and item.address
    ]
    states = "state fin-wait-1 state fin-wait-2 state closing state last-ack"
    text = (
        f"Find the end that does not finish: look {' and '.join(sides) or 'on both ends'}. "
        "A socket in fin-wait-1, closing or last-ack: its FIN is not acknowledged, so the other "
        "end is gone or filtered. One in fin-wait-2: the other end has not closed. Where neither "
        "end has such a socket, both are done, and their last packets take a way that does not "
        "lead through here (asymmetric routes):"
    )
    addresses = [item.address for item in (ends.source, ends.target) if item.address]
    # On another host nothing leads into this namespace.
    into = profile.command if profile.own.intersection(addresses) else ""
    others = (each for each in addresses if each not in profile.own)  # an own one leads to lo
    routes = (f"{profile.command}ip route get {each}" for each in others)
    steps = [Step(text, (f"{into}ss -tan {states}", *routes))]
    caution = "A close that takes longer loses its entry; behind NAT its last packets get lost."
    timeouts = []
    for each, share, name, wanted in (
        ("FIN_WAIT", profile.fin_wait, "tcp_timeout_fin_wait", 30),
        ("LAST_ACK", profile.last_ack, "tcp_timeout_last_ack", 10),
    ):
        if each == profile.closing_state or share >= NAMED:
            steps += rulesets.frees_state(profile, each, share)
            timeouts.append(shorter(profile, name, wanted, caution))
    return steps + timeouts


def resets(profile: TableProfile) -> list[Step]:
    """Return what helps against connections that are ended by a reset."""
    ends = profile.reset_ends
    server = _server(ends.target, profile) if ends.target.share >= SENDER else "the servers"
    if ends.source.share >= SENDER and ends.source.address:
        server += f", of {called(ends.source, profile)}"
    return [
        Step(
            f"Find out who resets them: look into the logs of {server}, and of load balancers and "
            "firewalls on the way. Health checks reset connections on purpose. So do programs that "
            "close with unread data, and servers whose queue is full."
        ),
        *rulesets.frees_state(profile, "CLOSE", profile.reset),
        shorter(profile, "tcp_timeout_close", 10),
    ]


def alive(profile: TableProfile) -> list[Step]:
    """Return what helps against idle connections."""
    service = profile.established_service
    first = f", first for {service.name}" if service.name else ""
    options = "-p", "tcp", "--state", "ESTABLISHED"
    ends = profile.idle_ends
    to, port, host, source = ends.target.address, ends.target.port, ends.destination, ends.source
    choices = (
        (ends.target, ("-d", to, "--dport", str(port)), ends.to_target),
        (host, ("-d", host.address), ends.to_destination),
        (source, ("-s", source.address), ends.from_source),
    )
    target, more, all_of_them = next(
        (each for each in choices if each[0].share >= SENDER),
        (TopItem(), (), round(profile.total * profile.established / 100)),
    )
    number = target.entries or round(profile.total * profile.idle / 100)
    if not more and idle_goes_to_service(profile):
        more, all_of_them = ("--dport", str(service.port)), service.entries
    all_of_them = max(number, all_of_them)
    # conntrack -U could shorten what they have left, but stops after a few hundred (ENOBUFS).
    steps = []
    commands = rulesets.deletes(profile, target, *options, *more)
    # All connections are deleted only where each is taken up again.
    if commands and number and (more or not profile.translated):
        steps.append(
            Step(
                f"Free them: this frees {rulesets.entries(all_of_them)} now, of which "
                f"{number} are idle. A connection that nothing translates is tracked again with "
                "its next packet; behind NAT one that is in use breaks.",
                commands,
            )
        )
    return [
        *steps,
        Step(
            "Hosts that vanish without closing leave entries behind: let programs use TCP "
            f"keep-alive, and close what they no longer need{first}."
        ),
        shorter(
            profile,
            "tcp_timeout_established",
            86400,
            "Connections that are idle for longer lose their entry, and break behind NAT.",
        ),
    ]
