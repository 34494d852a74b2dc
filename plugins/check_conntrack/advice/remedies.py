"""Say what to do about a cause: steps with commands that can be pasted. Pure functions, no I/O."""

from __future__ import annotations

from .capacity import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from .diagnosis import Cause, TableProfile, TopItem

NAMED = 20.0  # percent, from which on a source is one to be named and met alone
_TIMEOUT = "net.netfilter.nf_conntrack_"


def percent(share: float) -> str:
    """Return a share in words, never rounded up to a whole that it is not."""
    return f"{int(share)} %" if 99 <= share < 100 else f"{share:.0f} %"


def most(item: TopItem, word: str = "most to") -> str:
    """Return a clause that names the largest of something; empty where there is none."""
    return f", {word} {item.name}" if item.name else ""


def shorter(profile: TableProfile, name: str, wanted: int, caution: str = "") -> Step:
    """The timeout that keeps such entries: what it is, and a shorter one."""
    present, default = profile.timeouts.get(name, (None, 0))
    sysctl = _TIMEOUT + name
    known = "is not known there" if present is None else f"is {present} s"
    text = f"{sysctl} {known}; the kernel's default is {default} s."
    if present is not None and present <= wanted:
        return Step(f"{text} It is short already.")
    return Step(f"{text} {caution}".rstrip(), (f"{profile.command}sysctl -w {sysctl}={wanted}",))


def _saddr(name: str) -> str:
    return f"{'ip6' if ':' in name else 'ip'} saddr {name}"


def _drop(profile: TableProfile, table: str, priority: int, rule: str) -> tuple[str, ...]:
    """Commands that drop what a rule matches, in a table of their own that is easy to delete."""
    nft = f"{profile.command}nft"
    return (
        f"{nft} add table inet {table}",
        f"{nft} 'add chain inet {table} in {{type filter hook prerouting priority {priority};}}'",
        f"{nft} add rule inet {table} in {rule} drop",
    )


def against_flood(profile: TableProfile) -> list[Step]:
    """Return what ends a flood."""
    source = profile.half_open_source
    steps = []
    if source.share >= NAMED and source.name not in profile.own:
        steps.append(
            Step(
                f"Keep {source.name} out before it is tracked, if it has no business here:",
                _drop(profile, "blocked", -350, _saddr(source.name)),
            )
        )
    else:
        steps.append(
            Step("The sources are many, perhaps forged: a SYN proxy (nft synproxy) tracks none.")
        )
    if profile.destination.share >= 40:
        steps.append(
            Step(
                "Clients whose service is down look the same: see whether "
                f"{profile.destination.name} answers."
            )
        )
    steps.append(Step("A larger table only takes longer to fill: leave the limit as it is."))
    steps.append(shorter(profile, "tcp_timeout_syn_sent", 30))
    steps.append(shorter(profile, "tcp_timeout_syn_recv", 30))
    return steps


def more_ports(profile: TableProfile) -> list[Step]:
    """Return what helps where source-NAT ports run out."""
    return [
        Step(
            "Give the translation more addresses; each brings as many ports again for every "
            "destination, for example:",
            (
                f"{profile.command}nft add rule ip nat postrouting "  # noqa: ISC004
                "oifname EXIT snat to 198.51.100.1-198.51.100.4",
            ),
        ),
        Step(
            "Let it choose ports at random (snat to ADDRESS random, masquerade random; iptables "
            "--random-fully): two packets that race no longer ask for the same one."
        ),
        Step("Keep connections to that destination open and share them: each takes a port."),
        Step("A larger table does not help: it is the ports that end, and no log says so."),
    ]


def pooling(profile: TableProfile) -> list[Step]:
    """Return what helps against short-lived connections."""
    return [
        Step(
            "Let clients keep connections open and share them: HTTP keep-alive, a connection "
            f"pool{most(profile.time_wait_service, 'first for')}."
        ),
        shorter(
            profile,
            "tcp_timeout_time_wait",
            60,
            "With caution: below a minute, late packets of an old connection may meet a new one.",
        ),
    ]


def closing(profile: TableProfile) -> list[Step]:
    """Return what helps against connections that one side never closes."""
    return [
        Step(
            "The other side has closed and a program here, or behind this host, has not: look "
            "for the one that forgets to.",
            (f"{profile.command}ss -tanp state close-wait",),
        ),
        shorter(
            profile,
            "tcp_timeout_close_wait",
            30,
            "With caution: a program that still sends loses its connection; the leak stays.",
        ),
    ]


def alive(profile: TableProfile) -> list[Step]:
    """Return what helps against idle connections."""
    return [
        Step(
            "Ends that are gone without a word leave entries behind: let programs use TCP "
            "keep-alive, and close what they no longer need"
            f"{most(profile.established_service, 'first for')}."
        ),
        shorter(
            profile,
            "tcp_timeout_established",
            86400,
            "Connections that are silent for longer lose their entry, and break behind NAT.",
        ),
    ]


def caching(profile: TableProfile) -> list[Step]:
    """Return what helps against DNS churn."""
    return [
        Step(
            "Every query is an entry: answer from a cache on the host that asks (systemd-resolved, "
            "unbound, NodeLocal DNSCache), and look for needless search domains (ndots)."
        ),
        Step("Queries to a resolver of your own need no tracking: nft ... udp dport 53 notrack."),
        shorter(profile, "udp_timeout", 10),
        shorter(profile, "udp_timeout_stream", 30),
    ]


def answering(profile: TableProfile) -> list[Step]:
    """Return what helps where nothing answers."""
    return [
        Step(
            "Look where the answers stay: a firewall, a route back that is missing, a service that "
            f"is down{most(profile.service, 'first')}."
        ),
        shorter(profile, "udp_timeout", 10),
        shorter(profile, "tcp_timeout_syn_sent", 30),
    ]


def ask_source(profile: TableProfile) -> list[Step]:
    """Return what helps against one dominant source."""
    source = profile.source
    if source.name in profile.own:
        return [
            Step(
                f"{source.name} is this host itself: look for the program.",
                (f"ss -tanp src {source.name}",),
            )
        ]
    return [
        Step(
            f"Ask what {source.name} is doing, and let it open no more than so many connections "
            "if it must not:",
            _drop(
                profile, "limited", -150, f"ct state new {_saddr(source.name)} ct count over 1000"
            ),
        )
    ]


def advice_lines(profile: TableProfile, causes: Collection[Cause]) -> list[str]:
    """The lines that say what to do about the causes."""
    lines: dict[str, None] = {}
    for cause in causes:
        for step in cause.steps(profile):
            lines[step.text] = None
            lines.update(dict.fromkeys("  " + command for command in step.commands))
    return list(lines)
