"""Advise on packets that belong to no connection. Pure functions, no input or output.

Source: net/netfilter/nf_conntrack_proto_tcp.c and Documentation/networking/nf_conntrack-sysctl.rst
in the kernel.
"""

from __future__ import annotations

from .. import render
from ..kernel.namedtuple import NamedTuple
from .capacity import Step, lines_of

PREFIX = "net.netfilter.nf_conntrack_"
LOG_ALL = "net.netfilter.nf_log_all_netns"
MOST_LOGGED = 3000
"""Lines in the kernel log: netfilter logs each packet, without a rate limit."""
LONGEST, SHORTEST = 60, 1
"""Seconds to log."""


class InvalidEvidence(NamedTuple):
    """The known facts about a namespace with invalid packets; None for a setting: not known.

    enter: what to put before a command so that it runs in the namespace; empty for the own one.
    rate: packets a second.
    be_liberal, loose, log_invalid: its settings nf_conntrack_tcp_be_liberal and so on.
    logs: a packet that netfilter logs reaches the kernel log.
    logs_all: so it does in every namespace, and not in the host's alone.
    routes: the interfaces of its default routes.
    strict: those of them with rp_filter 1.
    """

    enter: str = ""
    rate: float = 0.0
    be_liberal: int | None = None
    loose: int | None = None
    log_invalid: int | None = None
    logs: bool = True
    logs_all: bool = True
    routes: tuple[str, ...] = ()
    strict: tuple[str, ...] = ()


def advise(evidence: InvalidEvidence) -> list[str]:
    """Return the lines that say what invalid packets mean, and how to find out which they are."""
    steps = [_rules(evidence), _log(evidence)]
    if len(evidence.routes) > 1:
        steps.append(_routes(evidence))
    if evidence.loose == 0:
        steps.append(_loose(evidence))
    if evidence.be_liberal is not None:
        steps.append(_window(evidence))
    return lines_of(steps)


def _rules(evidence: InvalidEvidence) -> Step:
    return Step(
        "Conntrack lets invalid packets pass, but does not translate them; they are lost where a "
        "rule drops them. Look for rules with ct state invalid, and what they count:",
        (f"{evidence.enter}nft list ruleset", f"{evidence.enter}iptables-save -c"),
    )


def _log(evidence: InvalidEvidence) -> Step:
    seconds = LONGEST
    if evidence.rate > MOST_LOGGED / LONGEST:
        seconds = max(SHORTEST, int(MOST_LOGGED / evidence.rate))
    setting = f"{PREFIX}log_invalid"
    commands, undo = [], []
    text = ""
    if not evidence.logs:
        text = " It takes a module (before Linux 5.13 nf_log_ipv4)."
        commands.append("modprobe nf_log_syslog")
    if not evidence.logs_all:
        text += (
            f" Those of other namespaces than the host's need {LOG_ALL}, set on the host itself."
        )
        commands.append(f"sysctl -w {LOG_ALL}=1")
        undo.append(f"sysctl -w {LOG_ALL}=0")
    off = f"{evidence.enter}sysctl -w {setting}={evidence.log_invalid or 0}"
    commands.append(f"{evidence.enter}sysctl -w {setting}=255; sleep {seconds}; {off}")
    # For whoever stops the command while it sleeps.
    undo.append(off)
    commands.append("dmesg --ctime")
    duration = "a minute" if seconds == LONGEST else render.plural(seconds, "second")
    return Step(
        f"Log them for {duration}, each with its reason and addresses (nf_ct_...).{text}",
        tuple(commands),
        tuple(undo),
    )


def _routes(evidence: InvalidEvidence) -> Step:
    names = render.few(evidence.routes)
    text = (
        f"There are default routes through {names}: where the answers of a connection take another "
        "way than its requests, conntrack sees half of it, and its packets are invalid. See which "
        "way they take, and set rules so that answers leave where the requests came in:"
    )
    if evidence.strict:
        text = text[:-1] + (
            f" (rp_filter is 1 on {render.few(evidence.strict)}: what came in the wrong way is "
            "dropped as well):"
        )
    return Step(text, ("ip route show default", "ip rule"))


def _loose(evidence: InvalidEvidence) -> Step:
    return Step(
        "nf_conntrack_tcp_loose is 0: connections from before a restart or a failover are invalid. "
        "Set it to 1, unless a SYN proxy (nft synproxy) runs here, which needs 0:",
        (f"{evidence.enter}sysctl -w {PREFIX}tcp_loose=1",),
        (f"{evidence.enter}sysctl -w {PREFIX}tcp_loose=0",),
    )


def _window(evidence: InvalidEvidence) -> Step:
    if evidence.be_liberal:
        return Step(
            "nf_conntrack_tcp_be_liberal is 1 already: of the packets out of the TCP window only "
            "RST packets are invalid."
        )
    return Step(
        "If the log says that a sequence number is out of the window (SEQ, ACK, window): packets "
        "come late or a middlebox changes them. Where translated connections are reset, set "
        "nf_conntrack_tcp_be_liberal to 1; then only RST packets are invalid for that:",
        (f"{evidence.enter}sysctl -w {PREFIX}tcp_be_liberal=1",),
        (f"{evidence.enter}sysctl -w {PREFIX}tcp_be_liberal=0",),
    )
