"""Say what to do about a cause: steps with commands that can be pasted. Pure functions, no I/O.

Every command may be pasted twice: rules stand in tables of their own that are flushed first. A step
that changes something has its undo. Nothing here raises a limit; capacity.py does.
"""

from __future__ import annotations

from .capacity import Step, lines_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from .diagnosis import Cause, TableProfile, TopItem, Unanswered

NAMED = 20.0  # percent, from which on a source or destination is named and met alone
CONNECTIONS = 100  # that one source may hold where a limit is advised
PATIENCE = 900  # seconds that an idle connection keeps its entry once that is shortened
LEAVE = "Leave the limit as it is: a larger table only takes longer to fill."
_TIMEOUT = "net.netfilter.nf_conntrack_"
_KUBE_PROXY = {
    "tcp_timeout_established": "--conntrack-tcp-timeout-established",
    "tcp_timeout_close_wait": "--conntrack-tcp-timeout-close-wait",
}
# Protocols that conntrack(8) and nft know by these names; others by number.
_NUMBERED = "protocol "


def percent(share: float) -> str:
    """Return a share in words, never rounded up to a whole that it is not."""
    return f"{int(share)}%" if 99 <= share < 100 else f"{share:.0f}%"


def overlaps(one: float, other: float) -> bool:
    """Return whether most entries of the second share must be in the first."""
    return one + other - 100 >= other / 2


def entries(number: int) -> str:
    """Return a number of entries with its noun."""
    return f"{number} {'entry' if number == 1 else 'entries'}"


def advice_lines(profile: TableProfile, causes: Collection[Cause]) -> list[str]:
    """Return the lines that say what to do about the causes."""
    return lines_of(step for cause in causes for step in cause.steps(profile))


# --- parts of commands


def _nft(profile: TableProfile, *statements: str) -> tuple[str, ...]:
    return tuple(
        f"{profile.command}nft '{each}'" if ";" in each else f"{profile.command}nft {each}"
        for each in statements
    )


def _undo(profile: TableProfile, table: str) -> tuple[str, ...]:
    return (f"{profile.command}nft delete table {table}",)


def _family(address: str) -> str:
    return "ip6" if ":" in address else "ip"


def _protocol(name: str) -> str:
    return name.removeprefix(_NUMBERED)


def _deletes(profile: TableProfile, item: TopItem, *options: str) -> tuple[str, ...]:
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


def _toward(item: TopItem) -> tuple[str, ...]:
    """Return the options that choose entries of a target."""
    port = ("--dport", str(item.port)) if item.port else ()
    return ("-p", _protocol(item.protocol), "-d", item.address, *port)


def _frees(profile: TableProfile, item: TopItem, number: int, *options: str) -> list[Step]:
    commands = _deletes(profile, item, *options)
    if not commands or not number:
        return []
    return [Step(_free_text(number), commands)]


def _free_text(number: int) -> str:
    return f"Free what is there: this frees {entries(number)} now."


def _may_block(profile: TableProfile, item: TopItem) -> bool:
    return bool(item.address) and item.address not in profile.own | profile.gateways


def _match(profile: TableProfile, zone: int) -> str:
    """Return what a rule has to match first, so that it is about one zone alone."""
    return f"ct original zone {zone} " if profile.zones else ""


def _block(profile: TableProfile, item: TopItem) -> Step:
    """Return how to drop what comes from an address or a network, before it takes an entry."""
    family, size = _family(item.address), "6" if ":" in item.address else "4"
    table, name = "inet check_conntrack_block", f"v{size}"
    priority = -350  # before tracking
    if profile.zones:
        # A packet's zone is known once it was tracked; it is dropped before its entry is kept.
        name, priority = f"zone{item.zone}_v{size}", -150
    rule = f"{_match(profile, item.zone)}{family} saddr @{name}"
    if profile.command:
        # Nobody has told which addresses are that namespace's own.
        rule += " fib saddr type != local"
    doubt = " and is no gateway or proxy of yours" if profile.command else ""
    return Step(
        f"Block {item.name}, if it has no business here{doubt}:",
        _nft(
            profile,
            f"add table {table}",
            f"add set {table} {name} {{ type ipv{size}_addr; flags interval; auto-merge; }}",
            f"add chain {table} in_{name} {{ type filter hook prerouting priority {priority}; }}",
            f"flush chain {table} in_{name}",
            f"add rule {table} in_{name} {rule} drop",
            f"add element {table} {name} {{ {item.address} }}",
        ),
        _undo(profile, table),
    )


def _limit(profile: TableProfile, target: TopItem) -> Step:
    """Return how to limit what each source may open, to a target where there is one."""
    address = target.address
    family, size = _family(address), "6" if ":" in address else "4"
    table, name = "inet check_conntrack_limit", f"v{size}"
    port = f" {target.protocol} dport {target.port}" if target.port else ""
    where = f"{family} daddr {address}{port} "
    return Step(
        f"Let no source hold more than {CONNECTIONS} connections to {target.name} (choose a number "
        "that your largest client stays below):",
        _nft(
            profile,
            f"add table {table}",
            f"add set {table} {name} {{ type ipv{size}_addr; size 65535; flags dynamic; }}",
            f"add chain {table} in_{name} {{ type filter hook prerouting priority -150; }}",
            f"flush chain {table} in_{name}",
            f"add rule {table} in_{name} {_match(profile, target.zone)}{where}ct state new "
            f"add @{name} {{ {family} saddr ct count over {CONNECTIONS} }} drop",
        ),
        _undo(profile, table),
    )


def _synproxy(profile: TableProfile, target: TopItem) -> Step:
    """Return the ruleset that answers SYNs in place of a target, and tracks who answers back."""
    table = "inet check_conntrack_synproxy"
    to = f"{_family(target.address)} daddr {target.address} tcp dport {target.port}"
    mss = 1440 if ":" in target.address else 1460
    proxy = f"synproxy mss {mss} wscale 7 timestamp sack-perm"
    sysctl = f"{profile.command}sysctl -w "
    loose = profile.tcp_loose != 0
    return Step(
        f"Let a SYN proxy answer for {target.name}: only clients that complete the handshake take "
        "an entry. It works for IPv4 and IPv6, here or behind this host, where nothing translates "
        "that destination; connections that are open now go on.",
        (
            *((f"{sysctl}{_TIMEOUT}tcp_loose=0",) if loose else ()),
            f"{sysctl}net.ipv4.tcp_syncookies=1",
            f"{sysctl}net.ipv4.tcp_timestamps=1",
            *_nft(
                profile,
                f"add table {table}",
                f"add chain {table} prerouting {{ type filter hook prerouting priority -300; }}",
                f"add chain {table} forward {{ type filter hook forward priority -5; }}",
                f"add chain {table} input {{ type filter hook input priority -5; }}",
                f"flush table {table}",
                f"add rule {table} prerouting {to} tcp flags syn notrack",
                f"add rule {table} forward {to} ct state invalid,untracked {proxy}",
                f"add rule {table} forward {to} ct state invalid drop",
                f"add rule {table} input {to} ct state invalid,untracked {proxy}",
                f"add rule {table} input {to} ct state invalid drop",
            ),
        ),
        (
            *_undo(profile, table),
            *((f"{sysctl}{_TIMEOUT}tcp_loose=1",) if loose else ()),
        ),
    )


def _refuse(profile: TableProfile, target: TopItem) -> Step:
    """Return how to refuse connections to a dead target at once, so that they take no entry."""
    table = "inet check_conntrack_refuse"
    family = _family(target.address)
    to = (
        f"{_match(profile, target.zone)}ct original {family} daddr {target.address} "
        f"meta l4proto {target.protocol} ct original proto-dst {target.port} ct state new"
    )
    answer = "reject with tcp reset" if target.protocol == "tcp" else "reject"
    return Step(
        f"Until it does, refuse new connections to {target.name} at once, so that they take no "
        "entry (remove this first when it is back):",
        _nft(
            profile,
            f"add table {table}",
            f"add chain {table} forward {{ type filter hook forward priority -5; }}",
            f"add chain {table} output {{ type filter hook output priority -5; }}",
            f"flush table {table}",
            f"add rule {table} forward {to} {answer}",
            f"add rule {table} output {to} {answer}",
        ),
        _undo(profile, table),
    )


def _shorter(profile: TableProfile, name: str, wanted: int, caution: str = "") -> Step:
    """Return a shorter timeout for such entries, with the present one and the kernel's default."""
    present, default = profile.timeouts.get(name, (None, 0))
    sysctl = _TIMEOUT + name
    known = "is not known" if present is None else f"is {present} s"
    text = f"{sysctl} {known} (kernel default {default} s)."
    if present is not None and present <= wanted:
        return Step(f"{text} It is short already.")
    keeps = "Existing entries keep the timeout they have."
    if profile.kube_proxy and name in _KUBE_PROXY:
        flag = f"{_KUBE_PROXY[name]}={wanted}s"
        text += f" kube-proxy sets it: start kube-proxy with {flag}."
        return Step(" ".join(filter(None, (text, keeps, caution))))
    command = f"{profile.command}sysctl -w {sysctl}="
    undo = (f"{command}{default if present is None else present}",)
    text += " Shorten it for new entries."
    return Step(" ".join(filter(None, (text, keeps, caution))), (f"{command}{wanted}",), undo)


# --- steps of each cause


def _culprit(one: Unanswered) -> TopItem | None:
    """Return the source or the source network that stands behind unanswered entries."""
    if one.source.share >= NAMED:
        return one.source
    return one.network if one.network.share >= 50 else None


def _from(one: Unanswered, item: TopItem) -> tuple[str, ...]:
    """Return the options that choose such entries of a source."""
    known = one.protocol == "tcp" and one.state.isupper()
    state = ("--state", one.state) if known else ()
    return ("-p", _protocol(one.protocol), *state, "-s", item.address)


def against_source(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return what ends a scan or a flood that has one source or one network."""
    item = _culprit(one)
    if item is None:
        return []
    steps = []
    if _may_block(profile, item):
        steps.append(_block(profile, item))
    elif item.address in profile.gateways:
        steps.append(Step(f"{item.name} is the default gateway: ask there who is behind it."))
    return steps + _frees(profile, item, item.entries, *_from(one, item))


def against_syn_flood(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return what ends a SYN flood: block its source, or let a SYN proxy answer."""
    steps = against_source(profile, one)
    target = one.target
    if not steps or (one.source.share < 50 and one.network.share < 80):
        if target.share >= 50 and not profile.zones and one.translated < 1:
            steps.append(_synproxy(profile, target))
        elif target.share >= 50:
            why = "translated here" if one.translated >= 1 else "in a zone"
            steps.append(
                Step(
                    f"{target.name} is {why}, and a SYN proxy would break it here: run one on the "
                    "host behind (nft synproxy), and limit sources here:"
                )
            )
            steps.append(_limit(profile, target))
        states = [one.state] if one.state.isupper() else ["SYN_RECV", "SYN_SENT"]
        where = _toward(target)[2:] if target.share >= 50 else ()
        number = target.entries if target.share >= 50 else one.entries
        commands = [
            command
            for state in states
            for command in _deletes(profile, target, "-p", "tcp", "--state", state, *where)
        ]
        if commands:
            steps.append(Step(_free_text(number), tuple(commands)))
    elif target.share >= 50:
        steps.append(_limit(profile, target))
    steps.append(Step(LEAVE))
    steps.append(_shorter(profile, "tcp_timeout_syn_recv", 15))
    return steps


_UNANSWERED_TIMEOUTS = {
    "tcp": ("tcp_timeout_syn_sent", 30),
    "udp": ("udp_timeout", 10),
    "icmp": ("icmp_timeout", 10),
    "icmpv6": ("icmpv6_timeout", 10),
    "gre": ("gre_timeout", 10),
    "sctp": ("sctp_timeout_cookie_wait", 2),
}


def _shorter_unanswered(profile: TableProfile, one: Unanswered) -> Step:
    name, wanted = _UNANSWERED_TIMEOUTS.get(one.protocol, ("generic_timeout", 60))
    return _shorter(profile, name, wanted)


def against_scan(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return what ends a scan."""
    return [*against_source(profile, one), Step(LEAVE), _shorter_unanswered(profile, one)]


def against_flood(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return what ends a flood of a protocol without a handshake."""
    steps = against_source(profile, one)
    target = one.target
    if not steps and target.share >= 50:
        steps.append(
            Step(
                f"The sources are many: let the provider filter {one.protocol} to {target.address} "
                "before it arrives, or drop it here while that host can do without:",
                *_dropped(profile, target),
            )
        )
        steps += _frees(profile, target, target.entries, *_toward(target))
    return [*steps, Step(LEAVE), _shorter_unanswered(profile, one)]


def _dropped(profile: TableProfile, target: TopItem) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return commands that drop all to a target, and their undo."""
    table = "inet check_conntrack_drop"
    priority = -150 if profile.zones else -350
    to = f"{_match(profile, target.zone)}{_family(target.address)} daddr {target.address}"
    what = f"meta l4proto {_protocol(target.protocol)}"
    if target.port:
        what = f"{target.protocol} dport {target.port}"
    return (
        _nft(
            profile,
            f"add table {table}",
            f"add chain {table} prerouting {{ type filter hook prerouting priority {priority}; }}",
            f"flush chain {table} prerouting",
            f"add rule {table} prerouting {to} {what} drop",
        ),
        _undo(profile, table),
    )


def against_silence(profile: TableProfile, one: Unanswered) -> list[Step]:
    """Return what to do where a destination does not answer."""
    target = one.target
    steps = []
    if target.share >= 50:
        look = [f"{profile.command}ip route get {target.address}"]
        if target.protocol == "tcp":
            look.append(f"{profile.command}nc -z -v -w 3 {target.address} {target.port}")
        steps.append(
            Step(
                f"Find out why {target.name} does not answer: service down, host down, a firewall "
                "before it, or no route back.",
                tuple(look),
            )
        )
        if target.protocol in ("tcp", "udp") and target.port:
            steps.append(_refuse(profile, target))
        options = _toward(target)
        if one.state and one.protocol == "tcp":
            options = (*options, "--state", one.state)
        steps += _frees(profile, target, target.entries, *options)
    else:
        steps.append(
            Step(
                "Find out where the answers get lost: a firewall, a missing route back, a host "
                "that is down."
            )
        )
    if one.source.share >= NAMED and one.source.address in profile.own:
        steps.append(
            Step(
                "The connections are this host's own: find the program.",
                (f"ss -tuanp src {one.source.address}",),
            )
        )
    return [*steps, Step(LEAVE), _shorter_unanswered(profile, one)]


def more_ports(profile: TableProfile) -> list[Step]:
    """Return what helps where source-NAT ports run out."""
    pool = profile.pool
    family = _family(pool.address)
    table = f"{family} check_conntrack_snat"
    translated = f"[{profile.pool_address}]" if family == "ip6" else profile.pool_address
    rule = f"{family} daddr {pool.address} {pool.protocol} dport {pool.port} "
    rule = _match(profile, pool.zone) + rule
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
    commands = _nft(
        profile,
        f"add table {table}",
        f"add chain {table} postrouting {{ type nat hook postrouting priority 99; }}",
        f"flush chain {table} postrouting",
        f"add rule {table} postrouting {rule}",
    )
    steps = [Step(text, commands, _undo(profile, table))]
    delete = _deletes(profile, pool, *_toward(pool), "--state", "TIME_WAIT")
    if pool.protocol == "tcp" and delete:
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
        *_frees_state(profile, "TIME_WAIT", profile.time_wait),
        Step(f"Let clients keep connections open: HTTP keep-alive, a connection pool{first}."),
        _shorter(
            profile,
            "tcp_timeout_time_wait",
            60,
            "Below a minute, late packets of an old connection may meet a new one.",
        ),
    ]


def _frees_state(profile: TableProfile, state: str, share: float) -> list[Step]:
    number = round(profile.total * share / 100)
    command = f"{profile.command}conntrack -D -p tcp --state {state} > /dev/null"
    if not number:
        return []
    return [Step(_free_text(number), (command,))]


def closing(profile: TableProfile) -> list[Step]:
    """Return what helps against connections that one side never closes."""
    target = profile.destination
    where = "here or behind this host"
    if overlaps(target.share, profile.close_wait):
        where = "on this host" if target.address in profile.own else f"on {target.name}"
    return [
        Step(
            f"One side has closed and a program {where} has not. Look there for the program that "
            "does not close its sockets, and restart it:",
            ("ss -tanp state close-wait",),
        ),
        *_frees_state(profile, "CLOSE_WAIT", profile.close_wait),
        _shorter(
            profile,
            "tcp_timeout_close_wait",
            30,
            "A program that still sends loses its connection; the leak stays.",
        ),
    ]


def alive(profile: TableProfile) -> list[Step]:
    """Return what helps against idle connections."""
    service = profile.established_service
    first = f", first for {service.name}" if service.name else ""
    options = ["-p", "tcp", "--state", "ESTABLISHED"]
    target = profile.destination
    item = target if overlaps(target.share, profile.idle) else target._replace(zone=0)
    if overlaps(target.share, profile.idle):
        options += ["-d", item.address]
    if overlaps(service.share, profile.idle) and service.port:
        options += ["--dport", str(service.port)]
    number = round(profile.total * profile.idle / 100)
    all_of_them = round(profile.total * profile.established / 100)
    if "--dport" in options:
        all_of_them = service.entries
    all_of_them = max(number, all_of_them)
    default = profile.timeouts.get("tcp_timeout_established", (None, 432000))
    before = default[1] if default[0] is None else default[0]
    steps = []
    update = [
        command.replace("conntrack -D", "conntrack -U", 1).replace(
            " > /dev/null", f" -t {PATIENCE} > /dev/null"
        )
        for command in _deletes(profile, item, *options)
    ]
    if update and number:
        steps.append(
            Step(
                f"Let idle connections go: this frees {entries(number)} within {PATIENCE // 60} "
                "minutes. A connection that sends a packet in that time keeps its entry; one that "
                "is open and silent loses it, and breaks behind NAT.",
                tuple(update),
                tuple(command.replace(f"-t {PATIENCE}", f"-t {before}") for command in update),
            )
        )
        steps.append(
            Step(
                f"Or free them at once: this frees {entries(all_of_them)} now, with those in use. "
                "A connection that nothing translates is tracked again with its next packet.",
                _deletes(profile, item, *options),
            )
        )
    return [
        *steps,
        Step(
            "Hosts that vanish without closing leave entries behind: let programs use TCP "
            f"keep-alive, and close what they no longer need{first}."
        ),
        _shorter(
            profile,
            "tcp_timeout_established",
            86400,
            "Connections that are idle for longer lose their entry, and break behind NAT.",
        ),
    ]


def caching(profile: TableProfile) -> list[Step]:
    """Return what helps against DNS churn."""
    return [
        Step(
            "Every query takes an entry: answer from a cache on the host that asks (NodeLocal "
            "DNSCache, systemd-resolved, unbound), and look for needless search domains (ndots)."
        ),
        Step(
            "Free the entries of queries that are answered already:",
            (f"{profile.command}conntrack -D -p udp --dport 53 -u SEEN_REPLY > /dev/null",),
        ),
        _shorter(profile, "udp_timeout", 10),
        _shorter(profile, "udp_timeout_stream", 30),
    ]


def ask_source(profile: TableProfile) -> list[Step]:
    """Return what helps against one dominant source."""
    source = profile.source
    if source.address in profile.own:
        return [
            Step(
                f"{source.name} is this host itself: look for the program.",
                (f"ss -tuanp src {source.address}",),
            )
        ]
    steps = [Step(f"Find out what {source.name} does, and whether it should.")]
    if source.address in profile.gateways:
        steps.append(Step(f"{source.name} is the default gateway: ask there who is behind it."))
    else:
        steps.append(_limit_source(profile, source))
        commands = _deletes(profile, source, "-s", source.address)
        if commands:
            steps.append(
                Step(
                    f"End its connections: this frees {entries(source.entries)} now, and "
                    "interrupts what it does.",
                    commands,
                )
            )
    return steps


def _limit_source(profile: TableProfile, source: TopItem) -> Step:
    """Return how to limit what one source may open."""
    family, size = _family(source.address), "6" if ":" in source.address else "4"
    table, name = "inet check_conntrack_limit", f"source_v{size}"
    return Step(
        f"Limit {source.name} to 10 times {CONNECTIONS} connections, if it must not hold more:",
        _nft(
            profile,
            f"add table {table}",
            f"add chain {table} in_{name} {{ type filter hook prerouting priority -150; }}",
            f"flush chain {table} in_{name}",
            f"add rule {table} in_{name} {_match(profile, source.zone)}{family} saddr "
            f"{source.address} ct state new ct count over {10 * CONNECTIONS} drop",
        ),
        _undo(profile, table),
    )


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
