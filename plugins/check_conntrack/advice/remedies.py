"""Say what to do about a cause: steps with commands that can be pasted. Pure functions, no I/O.

Steps against unanswered entries are in unanswered_steps.py, against connections that nobody closes
in leaks.py, against stale translations in stale.py. Rules and commands are made in rulesets.py.
Nothing here raises a limit; capacity.py does.
"""

from __future__ import annotations

from . import rulesets
from .capacity import Step, lines_of
from .table_profile import SENDER
from .timeout_steps import shorter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from .diagnosis import Cause
    from .table_profile import TableProfile, TopItem


def advice_lines(profile: TableProfile, causes: Collection[Cause]) -> list[str]:
    """Return the lines that say what to do about the causes."""
    return lines_of(step for cause in causes for step in cause.steps(profile))


# --- steps of each cause


def more_ports(profile: TableProfile) -> list[Step]:
    """Return what helps where source-NAT ports run out."""
    pool = profile.pool
    family = rulesets.address_family(pool.address)
    table = f"{family} check_conntrack_snat"
    translated = f"[{profile.pool_address}]" if family == "ip6" else profile.pool_address
    rule = f"{family} daddr {pool.address} {pool.protocol} dport {pool.port} "
    rule = rulesets.match(profile, pool.zone) + rule
    if profile.pool_range:
        low, high = profile.pool_range
        text = (
            f"The rule gives {profile.pool_address} ports {low}-{high} only: widen that range. "
            "This does it for that destination, if nothing else uses the other ports of "
            f"{profile.pool_address}:"
        )
        rule += f"snat to {translated}:1024-65535"
    else:
        text = (
            "Give the translation more addresses: each brings as many ports again. Replace "
            "FIRST-LAST by addresses that are routed to this host:"
        )
        rule += "snat to FIRST-LAST"
    commands = rulesets.nft(
        profile,
        f"add table {table}",
        f"add chain {table} postrouting {{ type nat hook postrouting priority 99; }}",
        f"flush chain {table} postrouting",
        f"add rule {table} postrouting {rule}",
    )
    steps = [Step(text, commands, rulesets.undo(profile, table))]
    delete = rulesets.deletes(profile, pool, *rulesets.toward(pool), "--state", "TIME_WAIT")
    if pool.protocol == "tcp" and delete and profile.time_wait:
        steps.append(
            Step("Free the ports of connections that are closed already (TIME_WAIT):", delete)
        )
    steps.append(
        Step(
            f"Let clients of {pool.address} keep connections open and share them: each takes a "
            "port. The kernel logs nothing when ports run out, and a larger table does not help."
        )
    )
    return steps


def pooling(profile: TableProfile) -> list[Step]:
    """Return what helps against short-lived connections."""
    service = profile.time_wait_service.name
    first = f", first for {service}" if service else ""
    return [
        *rulesets.frees_state(profile, "TIME_WAIT", profile.time_wait),
        Step(f"Let clients keep connections open: HTTP keep-alive, a connection pool{first}."),
        shorter(
            profile,
            "tcp_timeout_time_wait",
            60,
            "Below a minute, late packets of an old connection may meet a new one.",
        ),
    ]


def caching(profile: TableProfile) -> list[Step]:
    """Return what helps against DNS churn."""
    source, steps = profile.source, []
    if source.share >= SENDER and rulesets.may_block(profile, source):
        step = rulesets.block(profile, source)
        why = (
            f"If {source.name} is no client of yours, its address is probably forged, so that the "
            "answers hit the one who has it (DNS amplification). "
        )
        steps.append(step._replace(text=why + step.text))
    return [
        *steps,
        Step(
            "Every query takes an entry: answer from a cache on the host that asks (NodeLocal "
            "DNSCache, systemd-resolved, unbound), and look for needless search domains (ndots)."
        ),
        Step(
            "Free the entries of queries that are answered already:",
            (f"{profile.command}conntrack -D -p udp --dport 53 -u SEEN_REPLY > /dev/null",),
        ),
        shorter(profile, "udp_timeout", 10),
        shorter(profile, "udp_timeout_stream", 30),
    ]


def bound_to(item: TopItem) -> str:
    """Return the filter of ss(8) for an own address; it takes one of IPv6 in brackets alone."""
    return f"src '[{item.address}]'" if ":" in item.address else f"src {item.address}"


def own_program(profile: TableProfile, source: TopItem) -> Step:
    """Return how to find the program of the namespace itself that opens connections."""
    return Step(
        f"{source.name} is {profile.here} itself: look for the program.",
        (f"{profile.command}ss -tuanp {bound_to(source)}",),
    )


def ask_source(profile: TableProfile) -> list[Step]:
    """Return what helps against one dominant source."""
    source = profile.source
    if source.address in profile.own:
        return [own_program(profile, source)]
    steps = [Step(f"Find out what {source.name} does, and whether it should.")]
    if source.address in profile.gateways:
        steps.append(Step(f"{source.name} is the default gateway: ask there who is behind it."))
    else:
        steps.append(rulesets.limit_source(profile, source))
        commands = rulesets.deletes(profile, source, "-s", source.address)
        if commands:
            steps.append(
                Step(
                    f"End its connections: this frees {rulesets.entries(source.entries)} now, and "
                    "interrupts what it does.",
                    commands,
                )
            )
    return steps


def spread(profile: TableProfile) -> list[Step]:
    """Return what else than a larger limit helps where one destination holds most entries."""
    if profile.destination.share < 50 or profile.service.share < 50:
        return []
    return [
        Step(
            f"If {profile.destination.name} {profile.service.name} shall not have so many "
            "connections, spread it over more hosts or let its clients share connections."
        )
    ]
