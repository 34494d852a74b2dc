"""Commands that free entries, and rules that keep others from being made.

Every command may be pasted twice: rules stand in tables of their own that are flushed first. A step
that changes something has its undo.
"""

from __future__ import annotations

from ..render import percent, plural
from .capacity import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .table_profile import TableProfile, TopItem

_CONNTRACK = "net.netfilter.nf_conntrack_"
CONNECTIONS = 100  # that one source may hold where a limit is advised
MOST_BACKENDS = 4  # that are named
_NUMBERED = "protocol "  # before the number of a protocol without a name


def entries(number: int) -> str:
    """Return a number of entries with its noun."""
    return plural(number, "entry", "entries")


def nft(profile: TableProfile, *statements: str) -> tuple[str, ...]:
    """Return commands of nft in the namespace; statements with a semicolon are quoted."""
    return tuple(
        f"{profile.command}nft '{each}'" if ";" in each else f"{profile.command}nft {each}"
        for each in statements
    )


def undo(profile: TableProfile, table: str) -> tuple[str, ...]:
    """Return the command that deletes a table of rules."""
    return (f"{profile.command}nft delete table {table}",)


def address_family(address: str) -> str:
    """Return nft's word for the family of an address."""
    return "ip6" if ":" in address else "ip"


def protocol(name: str) -> str:
    """Return a protocol as conntrack(8) and nft take it."""
    return name.removeprefix(_NUMBERED)


def deletes(profile: TableProfile, item: TopItem, *options: str) -> tuple[str, ...]:
    """Return the command that deletes the entries that options choose, in the zone of an item.

    Empty where conntrack(8) cannot choose them: with zones of the original direction alone it has
    no word for the entries of none.
    """
    zone: tuple[str, ...] = ()
    if profile.zones and profile.original_zones:
        if not item.zone:
            return ()
        zone = "--orig-zone", str(item.zone)
    elif profile.zones:
        zone = "-w", str(item.zone)
    words = " ".join(("conntrack -D", *options, *zone))
    return (f"{profile.command}{words} > /dev/null",)


def toward(item: TopItem) -> tuple[str, ...]:
    """Return the options that choose entries of a target."""
    port = ("--dport", str(item.port)) if item.port else ()
    return ("-p", protocol(item.protocol), "-d", item.address, *port)


def frees(profile: TableProfile, item: TopItem, number: int, *options: str) -> list[Step]:
    """Return the step that deletes the entries that options choose; empty where it cannot."""
    commands = deletes(profile, item, *options)
    if not commands or not number:
        return []
    return [Step(free_text(number, answered="--state" not in options), commands)]


def frees_state(profile: TableProfile, state: str, share: float) -> list[Step]:
    """Return the step that deletes the TCP entries in a state. share: percent of all entries."""
    number = round(profile.total * share / 100)
    command = f"{profile.command}conntrack -D -p tcp --state {state} > /dev/null"
    if not number:
        return []
    return [Step(free_text(number), (command,))]


def free_text(number: int, *, answered: bool = False) -> str:
    """Return the sentence above a command that deletes entries.

    answered: it cannot tell those that were answered from those that were not.
    """
    text = f"Delete these entries: this frees {entries(number)} now"
    if answered:
        text += ", and answered ones beside them, which are tracked again with their next packet"
    return f"{text}."


def may_block(profile: TableProfile, item: TopItem) -> bool:
    """Return whether an address or a network has neither own addresses nor a default gateway."""
    return bool(item.address) and item.address not in profile.own | profile.gateways


def match(profile: TableProfile, zone: int) -> str:
    """Return what a rule has to match first, so that it is about one zone alone."""
    return f"ct original zone {zone} " if profile.zones else ""


def may_be_own(profile: TableProfile, item: TopItem) -> bool:
    """Return whether nobody knows that an address is not the namespace's own.

    Addresses of a link alone (fe80::/10) are not among those that are known of other namespaces.
    """
    return not profile.own_known or item.address.startswith("fe80:")


def not_own(profile: TableProfile, item: TopItem) -> str:
    """Return the condition that keeps somebody from shutting himself out."""
    whose = f"{profile.here}'s own address"
    return f"does not hold {whose}" if "/" in item.address else f"is not {whose}"


def joined(conditions: Sequence[str]) -> str:
    """Return conditions as one: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(conditions[:-1]), conditions[-1]]))


def block(profile: TableProfile, item: TopItem) -> Step:
    """Return how to drop what comes from an address or a network, before it takes an entry."""
    family, size = address_family(item.address), "6" if ":" in item.address else "4"
    table, name = "inet check_conntrack_block", f"v{size}"
    priority = -350  # before tracking
    if profile.zones:
        # A packet's zone is known once it was tracked; it is dropped before its entry is kept.
        name, priority = f"zone{item.zone}_v{size}", -150
    rule = f"{match(profile, item.zone)}{family} saddr @{name}"
    conditions = ["has no business here"]
    if may_be_own(profile, item):
        rule += " fib saddr type != local"
        conditions.append(not_own(profile, item))
    if not profile.gateways_known:
        conditions.append("is no gateway or proxy of yours")
    return Step(
        f"Block {item.name}, if it {joined(conditions)}:",
        nft(
            profile,
            f"add table {table}",
            f"add set {table} {name} {{ type ipv{size}_addr; flags interval; auto-merge; }}",
            f"add chain {table} in_{name} {{ type filter hook prerouting priority {priority}; }}",
            f"flush chain {table} in_{name}",
            f"add rule {table} in_{name} {rule} drop",
            f"add element {table} {name} {{ {item.address} }}",
        ),
        undo(profile, table),
    )


def limit(profile: TableProfile, target: TopItem) -> Step:
    """Return how to limit what each source may open, to a target where there is one."""
    address = target.address
    family, size = address_family(address), "6" if ":" in address else "4"
    table, name = "inet check_conntrack_limit", f"v{size}"
    port = f" {target.protocol} dport {target.port}" if target.port else ""
    where = f"{family} daddr {address}{port} "
    return Step(
        f"Let no source hold more than {CONNECTIONS} connections to {target.name}, counted from "
        "now on (choose a number that your largest client stays below):",
        nft(
            profile,
            f"add table {table}",
            f"add set {table} {name} {{ type ipv{size}_addr; size 65535; flags dynamic; }}",
            f"add chain {table} in_{name} {{ type filter hook prerouting priority -150; }}",
            f"flush chain {table} in_{name}",
            f"add rule {table} in_{name} {match(profile, target.zone)}{where}ct state new "
            f"add @{name} {{ {family} saddr ct count over {CONNECTIONS} }} drop",
        ),
        undo(profile, table),
    )


def synproxy(profile: TableProfile, target: TopItem) -> Step:
    """Return the ruleset that answers SYNs in place of a target, and tracks who answers back."""
    table = "inet check_conntrack_synproxy"
    to = f"{address_family(target.address)} daddr {target.address} tcp dport {target.port}"
    mss = 1440 if ":" in target.address else 1460
    proxy = f"synproxy mss {mss} wscale 7 timestamp sack-perm"
    sysctl = f"{profile.command}sysctl -w "
    loose = profile.tcp_loose != 0
    return Step(
        f"Let a SYN proxy answer for {target.name}: only clients that complete the handshake take "
        "an entry. It works for IPv4 and IPv6, here or behind this host, where nothing translates "
        "that destination; connections that are open now go on.",
        (
            *((f"{sysctl}{_CONNTRACK}tcp_loose=0",) if loose else ()),
            f"{sysctl}net.ipv4.tcp_syncookies=1",
            f"{sysctl}net.ipv4.tcp_timestamps=1",
            *nft(
                profile,
                f"add table {table}",
                f"add chain {table} prerouting {{ type filter hook prerouting priority -300; }}",
                f"add chain {table} forward {{ type filter hook forward priority -5; }}",
                f"add chain {table} input {{ type filter hook input priority -5; }}",
                f"flush table {table}",
                f"add rule {table} prerouting {to} tcp flags syn notrack",
                f"add rule {table} forward {to} ct state invalid, untracked {proxy}",
                f"add rule {table} forward {to} ct state invalid drop",
                f"add rule {table} input {to} ct state invalid, untracked {proxy}",
                f"add rule {table} input {to} ct state invalid drop",
            ),
        ),
        (
            *undo(profile, table),
            *((f"{sysctl}{_CONNTRACK}tcp_loose=1",) if loose else ()),
        ),
    )


def strict(profile: TableProfile) -> Step:
    """Return how to take up connections by their handshake alone."""
    sysctl = f"{profile.command}sysctl -w {_CONNTRACK}tcp_loose="
    return Step(
        "Let only a handshake begin an entry. Connections that are tracked go on; those that this "
        "host begins to see in their middle (after a failover or a restart of it) are invalid "
        "then, and break where rules drop invalid packets or translate:",
        (f"{sysctl}0",),
        (f"{sysctl}1",),
    )


def refuse(profile: TableProfile, target: TopItem, until: str = "Until it does") -> Step:
    """Return how to refuse connections to a dead target at once, so that they take no entry.

    until: the beginning of the sentence above the rule.
    """
    table = "inet check_conntrack_refuse"
    family = address_family(target.address)
    to = (
        f"{match(profile, target.zone)}ct original {family} daddr {target.address} "
        f"meta l4proto {target.protocol} ct original proto-dst {target.port} ct state new"
    )
    answer = "reject with tcp reset" if target.protocol == "tcp" else "reject"
    # What is for this host itself passes input, and never forward.
    chains = ("input", "output") if target.address in profile.own else ("forward", "output")
    return Step(
        f"{until}, refuse new connections to {target.name} at once, so that they take no "
        "entry (remove this first when it is back):",
        nft(
            profile,
            f"add table {table}",
            *(
                f"add chain {table} {chain} {{ type filter hook {chain} priority -5; }}"
                for chain in chains
            ),
            f"flush table {table}",
            *(f"add rule {table} {chain} {to} {answer}" for chain in chains),
        ),
        undo(profile, table),
    )


def untracked(profile: TableProfile, target: TopItem, if_up: str = "") -> Step:
    """Return how to let messages that nobody answers pass without an entry.

    if_up: the sentence before it, where it is right only for a service that is up.
    """
    whatever = "" if if_up else ", whether its program is up or down"
    table = "inet check_conntrack_untracked"
    to = f"{target.protocol} dport {target.port} notrack"
    if target.address:
        to = f"{address_family(target.address)} daddr {target.address} {to}"
    chains = "prerouting", "output"
    return Step(
        f"{if_up}Let what is sent to {target.name} pass without an entry: it needs none{whatever}. "
        "Where rules here accept by ct state, let them accept untracked too, or the messages are "
        "dropped:",
        nft(
            profile,
            f"add table {table}",
            *(
                f"add chain {table} {chain} {{ type filter hook {chain} priority -300; }}"
                for chain in chains
            ),
            f"flush table {table}",
            *(f"add rule {table} {chain} {to}" for chain in chains),
        ),
        undo(profile, table),
    )


def behind(
    profile: TableProfile, target: TopItem, backends: tuple[TopItem, ...], *options: str
) -> Step:
    """Return how to see which hosts behind a translated target do not answer.

    A rule against the target would refuse what the others behind it still answer. backends: those
    that the unanswered entries go to; empty where that is not known.
    """
    if backends[1:]:
        named = ", ".join(f"{percent(each.share)} {each.name}" for each in backends[:MOST_BACKENDS])
        more = len(backends) - MOST_BACKENDS
        return Step(
            f"{target.name} is translated here, and a rule against it would refuse what other "
            f"hosts behind it still answer. The unanswered entries go to {named}"
            f"{f' and {more} more' if more > 0 else ''}: take those that are down out of the "
            "translation or the load balancer. Where none is left, the service is down."
        )
    if backends:
        backend = backends[0]
        which = " ".join((*options, "--reply-src", backend.address))
        return Step(
            f"{target.name} is translated here, and a rule against it would refuse what other "
            f"hosts behind it still answer. Take {backend.address} out of the translation or the "
            "load balancer. These are its entries:",
            (f"{profile.command}conntrack -L -g {which} -o extended",),
        )
    return Step(
        f"{target.name} is translated here, and a rule against it would refuse what other hosts "
        "behind it still answer. See which one does not (the second src= of each line), and take "
        "it out of the translation or the load balancer:",
        (f"{profile.command}conntrack -L -g {' '.join(options)} -o extended",),
    )


def dropped(profile: TableProfile, target: TopItem) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return commands that drop all to a target, and their undo."""
    table = "inet check_conntrack_drop"
    priority = -150 if profile.zones else -350
    to = f"{match(profile, target.zone)}{address_family(target.address)} daddr {target.address}"
    what = f"meta l4proto {protocol(target.protocol)}"
    if target.port:
        what = f"{target.protocol} dport {target.port}"
    return (
        nft(
            profile,
            f"add table {table}",
            f"add chain {table} prerouting {{ type filter hook prerouting priority {priority}; }}",
            f"flush chain {table} prerouting",
            f"add rule {table} prerouting {to} {what} drop",
        ),
        undo(profile, table),
    )


def limit_source(profile: TableProfile, source: TopItem) -> Step:
    """Return how to limit what one source may open."""
    family, size = address_family(source.address), "6" if ":" in source.address else "4"
    table, name = "inet check_conntrack_limit", f"source_v{size}"
    doubt = f" and {not_own(profile, source)}" if may_be_own(profile, source) else ""
    return Step(
        f"Limit {source.name} to {10 * CONNECTIONS} connections, counted from now on, if it must "
        f"not hold more{doubt}:",
        nft(
            profile,
            f"add table {table}",
            f"add chain {table} in_{name} {{ type filter hook prerouting priority -150; }}",
            f"flush chain {table} in_{name}",
            f"add rule {table} in_{name} {match(profile, source.zone)}{family} saddr "
            f"{source.address} ct state new ct count over {10 * CONNECTIONS} drop",
        ),
        undo(profile, table),
    )
