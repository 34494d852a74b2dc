"""From evidence to what to do about it: pure functions, no I/O.

A rule is a line of RULES: which labels call for it, and the function that makes its steps from
the evidence. A check hands in the evidence it has and the labels that alarm; what it cannot know
stays None, and a rule that needs it gives nothing. To add a rule, write the function and a line.
"""

from __future__ import annotations

from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Callable


INT_MAX = 0x7FFFFFFF
SPARE = 1.3  # the peak and 30 %
ENTRY_BYTES = 384  # an entry with accounting and NAT, measured; the slab's own figure is root's
BUCKET_BYTES = 8  # struct hlist_nulls_head
PAGE_BUCKETS = 512  # nf_ct_alloc_hashtable() rounds up to whole pages
_MAX = "net.netfilter.nf_conntrack_max"
_BUCKETS = "net.netfilter.nf_conntrack_buckets"
_EXPECT_MAX = "net.netfilter.nf_conntrack_expect_max"
_SYSCTL_FILE = "/etc/sysctl.d/99-check-conntrack.conf"  # a name that nobody else uses
_GREP = "grep -rs nf_conntrack /etc/sysctl.conf /etc/sysctl.d /usr/lib/sysctl.d /etc/modprobe.d"
_MODULES_FILE = "/etc/modules-load.d/nf_conntrack.conf"


class Evidence(NamedTuple):
    """What is known about a table; `peak` counts entries, `memory` is in bytes.

    `settable` is False inside a network namespace that may not change the limit. `crowded`: hash
    chains are too long. `expectations`, `zones`: messages said that these were at their limits.
    `growth` is in entries per second, 0 where the alarm is not about it. `raising` says that a
    larger limit is advised on as well.
    """

    entries: int
    limit: int
    peak: int
    buckets: int | None = None
    memory: int | None = None
    settable: bool = True
    buckets_sysctl: bool = True
    kube_proxy: bool = False
    expect_max: int | None = None
    crowded: bool = False
    expectations: bool = False
    zones: bool = False
    growth: float = 0.0
    raising: bool = False


class Step(NamedTuple):
    """A sentence, and the commands that carry it out, each ready to paste."""

    text: str
    commands: tuple[str, ...] = ()


class Rule(NamedTuple):
    """Labels whose alarm calls for some steps."""

    labels: frozenset[str]
    steps: Callable[[Evidence], list[Step]]


def roomy_limit(peak: int) -> int:
    """The least power of two that holds the peak with 30 % to spare, and the sysctl can hold."""
    needed = -(-peak * 13 // 10)
    return min(1 << max(needed - 1, 0).bit_length(), INT_MAX)


def quarter(limit: int, buckets: int | None) -> int:
    """Buckets for a limit: a quarter of it, as the kernel rounds it, never fewer than there are."""
    return max(-(-limit // 4 // PAGE_BUCKETS) * PAGE_BUCKETS, buckets or 0)


def _raised(evidence: Evidence) -> int:
    """The limit to advise: a roomy one, or the present one where that suffices or there is none."""
    wanted = roomy_limit(evidence.peak)
    if not evidence.limit or evidence.peak * SPARE <= evidence.limit:
        return evidence.limit
    return max(wanted, evidence.limit)


def _buckets_for(limit: int, evidence: Evidence) -> int:
    """Buckets for a limit; where chains are too long twice as many as there are, at least."""
    double = 2 * (evidence.buckets or 0) if evidence.crowded else 0
    return max(quarter(limit, evidence.buckets), double)


def mebibytes(size: float) -> str:
    """A size for people."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{max(size / 1024, 1):.0f} KiB"


def raise_limit(evidence: Evidence) -> list[Step]:
    """A maximum that suffices, buckets that fit it, and how both outlive a reboot."""
    if not evidence.limit:
        return []
    wanted = _raised(evidence)
    seen = f"the peak of {evidence.peak} entries plus 30 %"
    if wanted == evidence.limit:
        if evidence.growth > 0:
            return [
                Step(
                    f"The limit of {evidence.limit} has room for {seen}, but the table grows by "
                    f"{evidence.growth:.2f} entries/s: a larger limit would only put off the end. "
                    "Look for what grows.",
                    ("check_conntrack_table -v",),
                )
            ]
        return [
            Step(
                f"The limit suffices for what was seen: {seen} fits into {evidence.limit}. "
                "Look for what fills the table, or raise the threshold."
            )
        ]
    buckets = _buckets_for(wanted, evidence)
    more = evidence.buckets is None or buckets > evidence.buckets
    text = f"Raise the limit to {wanted}: {seen}, rounded up to a power of two."
    if evidence.entries >= evidence.limit:
        text += " What a full table turns away is not counted: it may take more."
    steps = [Step(text + _where(evidence), _now(wanted, buckets if more else None, evidence))]
    if not more:
        steps.append(Step(f"The {evidence.buckets} hash buckets are enough for it."))
    steps.append(_keep(wanted, buckets, evidence))
    steps.append(_cost(wanted, buckets, evidence))
    if evidence.kube_proxy:
        steps.append(
            Step(
                "kube-proxy runs here and sets the limit itself: give it conntrack.min "
                f"{wanted} (--conntrack-min={wanted}), or maxPerCore 0 to leave it alone."
            )
        )
    return steps


def more_buckets(evidence: Evidence) -> list[Step]:
    """More hash buckets, for chains that have grown long."""
    if not evidence.buckets:
        return []
    limit = _raised(evidence) if evidence.raising else evidence.limit
    wanted = _buckets_for(limit, evidence._replace(crowded=True))
    return [
        Step(
            f"{evidence.buckets} hash buckets hold {evidence.entries} entries, each entry twice: "
            f"{wanted} buckets ({mebibytes(wanted * BUCKET_BYTES)}) make the chains shorter."
            + _where(evidence),
            (_set_buckets(wanted, evidence),),
        )
    ]


def who_set_it(evidence: Evidence) -> list[Step]:
    """Where a limit that nobody expected comes from."""
    return [
        Step(
            f"The limit is {evidence.limit}: look for what sets it."
            + (" kube-proxy runs here and does." if evidence.kube_proxy else ""),
            (_GREP,),
        )
    ]


def _where(evidence: Evidence) -> str:
    return "" if evidence.settable else " Run on the host: it cannot be set from this namespace."


def _set_buckets(buckets: int, evidence: Evidence) -> str:
    if evidence.buckets_sysctl or not evidence.settable:
        return f"sysctl -w {_BUCKETS}={buckets}"
    return f"echo {buckets} > /sys/module/nf_conntrack/parameters/hashsize"


def _now(limit: int, buckets: int | None, evidence: Evidence) -> tuple[str, ...]:
    # Buckets first: a table that may grow should find its hash ready.
    first = () if buckets is None else (_set_buckets(buckets, evidence),)
    return (*first, f"sysctl -w {_MAX}={limit}")


def _keep(limit: int, buckets: int, evidence: Evidence) -> Step:
    # Both, also where the buckets do: the file may be there already, and hold more of them.
    lines = [f"{_BUCKETS} = {buckets}", f"{_MAX} = {limit}"]
    commands = []
    if evidence.settable and not evidence.buckets_sysctl:
        lines = lines[1:]
        commands.append(
            f"echo 'options nf_conntrack hashsize={buckets}' > /etc/modprobe.d/conntrack.conf"
        )
    quoted = " ".join(f"'{line}'" for line in lines)
    return Step(
        "Keep it over a reboot (without the module loaded early, the file comes too soon):",
        (
            *commands,
            f"printf '%s\\n' {quoted} > {_SYSCTL_FILE}",
            f"echo nf_conntrack > {_MODULES_FILE}",
        ),
    )


def _cost(limit: int, buckets: int, evidence: Evidence) -> Step:
    size = limit * ENTRY_BYTES + buckets * BUCKET_BYTES
    text = f"Full, it takes about {mebibytes(size)} of kernel memory"
    if evidence.memory is None:
        return Step(text + ".")
    has = mebibytes(evidence.memory)
    more = size - evidence.entries * ENTRY_BYTES - (evidence.buckets or 0) * BUCKET_BYTES
    if more <= evidence.memory:
        return Step(f"{text}; {has} are available.")
    return Step(f"{text}, and only {has} are available: find what fills the table, or add memory.")


def evicted(_: Evidence) -> list[Step]:
    """What a rise of early_drop means."""
    return [
        Step(
            "early_drop rises before the first connection is lost: the kernel evicts unassured "
            "entries to make room. There is little time left."
        )
    ]


def other_drops(_: Evidence) -> list[Step]:
    """What drops packets where nothing says that the table was full."""
    return [
        Step(
            "Nothing else says that the table was full, so no larger limit is advised: drop also "
            "rises where a helper (FTP, SIP, ...) gives up on a packet, or the kernel has no "
            "memory for an entry. Look what rises beside it, and for messages of helpers:",
            ("conntrack -S", "dmesg | grep nf_ct_"),
        )
    ]


def clashes(_: Evidence) -> list[Step]:
    """What a rise of insert_failed means."""
    return [
        Step(
            "insert_failed rises when two packets of one new connection race each other, mostly "
            "DNS (A and AAAA from one socket) behind NAT: a cache of names on the host, or "
            "'options single-request-reopen' in resolv.conf, ends that; for source NAT, ports "
            "chosen at random do (--random-fully, fully-random).",
            ("conntrack -S",),
        )
    ]


def long_chains(evidence: Evidence) -> list[Step]:
    """What a rise of chaintoolong means."""
    means = "chaintoolong rises when a hash chain is too long: an insert is refused, the table"
    return [Step(f"{means} is not full, and nothing is logged."), *more_buckets(evidence)]


def other_limits(evidence: Evidence) -> list[Step]:
    """What is behind the other messages of loss."""
    steps = []
    if evidence.expectations:
        commands: tuple[str, ...] = ()
        if evidence.expect_max:
            commands = (f"sysctl -w {_EXPECT_MAX}={2 * evidence.expect_max}",)
        steps.append(
            Step(
                "expectation table full: helpers (FTP, SIP, ...) expect more connections than "
                "nf_conntrack_expect_max allows.",
                commands,
            )
        )
    if evidence.zones:
        steps.append(
            Step(
                "exceeds conntrack limit: Open vSwitch refuses connections of a zone at its own "
                "limit.",
                ("ovs-appctl dpctl/ct-get-limits",),
            )
        )
    return steps


_CROWDED = frozenset({"load_factor", "chain_overflows"})
RULES = (
    Rule(frozenset({"early_drops"}), evicted),
    Rule(
        frozenset(
            {
                *("usage", "entries", "growth", "time_to_full"),
                *("table_full", "early_drops"),
            }
        ),
        raise_limit,
    ),
    Rule(frozenset({"load_factor"}), more_buckets),
    # The check that knows of a full table beside the drops calls them table_full.
    Rule(frozenset({"full_drops"}), other_drops),
    Rule(frozenset({"chain_overflows"}), long_chains),
    Rule(frozenset({"insert_failures"}), clashes),
    Rule(frozenset({"other_loss"}), other_limits),
    Rule(frozenset({"limit"}), who_set_it),
)


def advise(evidence: Evidence, alarms: Collection[str]) -> list[str]:
    """The lines that say what to do about alarms of these labels."""
    raising = any(rule.steps is raise_limit and rule.labels.intersection(alarms) for rule in RULES)
    evidence = evidence._replace(crowded=not _CROWDED.isdisjoint(alarms), raising=raising)
    lines: list[str] = []
    for rule in RULES:
        if rule.labels.intersection(alarms):
            for step in rule.steps(evidence):
                lines.append(step.text)
                # What two rules come to is done once.
                commands = ["  " + command for command in step.commands]
                lines += [command for command in commands if command not in lines]
    return lines


# --- what fills a table: causes, as data


FEWEST = 100  # entries, below which shares say little
PRESSED = 70.0  # percent of the limit, from which on a large share of the ordinary matters
LONG_IDLE = 3600  # seconds without a packet after which an established connection is called idle
_TIMEOUT = "net.netfilter.nf_conntrack_"


class Largest(NamedTuple):
    """The first line of a top list: a name from the table, and its share in percent."""

    name: str = ""
    share: float = 0.0


class Mixture(NamedTuple):
    """What a table holds, as far as a diagnosis goes by it. Shares are percent of `entries`.

    `entries` are those that were counted, of a sample not more. `usage` is of the whole table, None
    where no limit is known. `half_open`: TCP in SYN_SENT or SYN_RECV; the shares of
    `half_open_source` and `half_open_service` are of these. `idle`: established TCP, silent for
    LONG_IDLE or longer. `pool_ports` are the ports that the fullest source-NAT pool takes, its
    share is of all it has. `timeouts` are in seconds by the last words of their sysctl's name,
    (present or None, default). `command` leads into the namespace. `own` are those of the sources
    that are addresses of this host.
    """

    entries: int
    usage: float | None = None
    half_open: float = 0.0
    half_open_source: Largest = Largest()
    half_open_service: Largest = Largest()
    time_wait: float = 0.0
    time_wait_service: Largest = Largest()
    close_wait: float = 0.0
    close_wait_service: Largest = Largest()
    established: float = 0.0
    established_service: Largest = Largest()
    idle: float = 0.0
    dns: float = 0.0
    unreplied: float = 0.0
    assured: float = 0.0
    translated: float = 0.0
    source: Largest = Largest()
    destination: Largest = Largest()
    service: Largest = Largest()
    pool: Largest = Largest()
    pool_ports: int = 0
    timeouts: Mapping[str, tuple[int | None, int]] = {}
    command: str = ""
    own: frozenset[str] = frozenset()

    @property
    def pressed(self) -> bool:
        """Whether the table is so full that what fills it matters, harmless or not."""
        return self.usage is not None and self.usage >= PRESSED


class Cause(NamedTuple):
    """A line of CAUSES: when it fits, what is said of it, what to do about it.

    `plain` ones are looked at only where no other fits. Only where `room` is set may a larger
    maximum be advised.
    """

    name: str
    fits: Callable[[Mixture], bool]
    sentence: Callable[[Mixture], str]
    steps: Callable[[Mixture], list[Step]]
    room: bool = False
    plain: bool = False


def _percent(share: float) -> str:
    # Never rounded up to a whole that it is not.
    return f"{int(share)} %" if 99 <= share < 100 else f"{share:.0f} %"


def _most(largest: Largest, word: str = "most to") -> str:
    return f", {word} {largest.name}" if largest.name else ""


def _shorter(mixture: Mixture, name: str, wanted: int, caution: str = "") -> Step:
    """The timeout that keeps such entries: what it is, and a shorter one."""
    present, default = mixture.timeouts.get(name, (None, 0))
    sysctl = _TIMEOUT + name
    known = "is not known there" if present is None else f"is {present} s"
    text = f"{sysctl} {known}; the kernel's default is {default} s."
    if present is not None and present <= wanted:
        return Step(f"{text} It is short already.")
    return Step(f"{text} {caution}".rstrip(), (f"{mixture.command}sysctl -w {sysctl}={wanted}",))


def _saddr(name: str) -> str:
    return f"{'ip6' if ':' in name else 'ip'} saddr {name}"


def _drop(mixture: Mixture, table: str, priority: int, rule: str) -> tuple[str, ...]:
    """Commands that drop what a rule matches, in a table of their own that is easy to delete."""
    nft = f"{mixture.command}nft"
    return (
        f"{nft} add table inet {table}",
        f"{nft} 'add chain inet {table} in {{type filter hook prerouting priority {priority};}}'",
        f"{nft} add rule inet {table} in {rule} drop",
    )


NAMED = 20.0  # percent, from which on a source is one to be named and met alone


def _asks_in_vain(mixture: Mixture) -> bool:
    """Whether it is this host itself whose connections nobody answers."""
    source = mixture.half_open_source
    return mixture.half_open >= 40 and source.share >= 50 and source.name in mixture.own


def _is_flood(mixture: Mixture) -> bool:
    return mixture.half_open >= 40 and not _asks_in_vain(mixture)


def _flood(mixture: Mixture) -> str:
    source, service = mixture.half_open_source, mixture.half_open_service
    what = "SYN flood" if service.share >= 50 else "scan"
    where = f", {_percent(service.share)} to {service.name}" if what == "SYN flood" else ""
    who = f"{_percent(source.share)} from {source.name}"
    return (
        f"looks like a {what}: {_percent(mixture.half_open)} of entries are SYN_SENT or SYN_RECV "
        f"without reply, {who if source.share >= NAMED else 'from many sources'}{where}"
    )


def _against_flood(mixture: Mixture) -> list[Step]:
    source = mixture.half_open_source
    steps = []
    if source.share >= NAMED and source.name not in mixture.own:
        steps.append(
            Step(
                f"Keep {source.name} out before it is tracked, if it has no business here:",
                _drop(mixture, "blocked", -350, _saddr(source.name)),
            )
        )
    else:
        steps.append(
            Step("The sources are many, perhaps forged: a SYN proxy (nft synproxy) tracks none.")
        )
    if mixture.destination.share >= 40:
        steps.append(
            Step(
                "Clients whose service is down look the same: see whether "
                f"{mixture.destination.name} answers."
            )
        )
    steps.append(Step("A larger table only takes longer to fill: leave the limit as it is."))
    steps.append(_shorter(mixture, "tcp_timeout_syn_sent", 30))
    steps.append(_shorter(mixture, "tcp_timeout_syn_recv", 30))
    return steps


def _ports(mixture: Mixture) -> str:
    return (
        f"source-NAT ports run out: {mixture.pool.name} takes {mixture.pool_ports} ports, "
        f"{_percent(mixture.pool.share)} of what there is"
    )


def _more_ports(mixture: Mixture) -> list[Step]:
    return [
        Step(
            "Give the translation more addresses; each brings as many ports again for every "
            "destination, for example:",
            (
                f"{mixture.command}nft add rule ip nat postrouting "  # noqa: ISC004
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


def _pooling(mixture: Mixture) -> list[Step]:
    return [
        Step(
            "Let clients keep connections open and share them: HTTP keep-alive, a connection "
            f"pool{_most(mixture.time_wait_service, 'first for')}."
        ),
        _shorter(
            mixture,
            "tcp_timeout_time_wait",
            60,
            "With caution: below a minute, late packets of an old connection may meet a new one.",
        ),
    ]


def _closing(mixture: Mixture) -> list[Step]:
    return [
        Step(
            "The other side has closed and a program here, or behind this host, has not: look "
            "for the one that forgets to.",
            (f"{mixture.command}ss -tanp state close-wait",),
        ),
        _shorter(
            mixture,
            "tcp_timeout_close_wait",
            30,
            "With caution: a program that still sends loses its connection; the leak stays.",
        ),
    ]


def _alive(mixture: Mixture) -> list[Step]:
    return [
        Step(
            "Ends that are gone without a word leave entries behind: let programs use TCP "
            "keep-alive, and close what they no longer need"
            f"{_most(mixture.established_service, 'first for')}."
        ),
        _shorter(
            mixture,
            "tcp_timeout_established",
            86400,
            "Connections that are silent for longer lose their entry, and break behind NAT.",
        ),
    ]


def _caching(mixture: Mixture) -> list[Step]:
    return [
        Step(
            "Every query is an entry: answer from a cache on the host that asks (systemd-resolved, "
            "unbound, NodeLocal DNSCache), and look for needless search domains (ndots)."
        ),
        Step("Queries to a resolver of your own need no tracking: nft ... udp dport 53 notrack."),
        _shorter(mixture, "udp_timeout", 10),
        _shorter(mixture, "udp_timeout_stream", 30),
    ]


def _answering(mixture: Mixture) -> list[Step]:
    return [
        Step(
            "Look where the answers stay: a firewall, a route back that is missing, a service that "
            f"is down{_most(mixture.service, 'first')}."
        ),
        _shorter(mixture, "udp_timeout", 10),
        _shorter(mixture, "tcp_timeout_syn_sent", 30),
    ]


def _ask_source(mixture: Mixture) -> list[Step]:
    source = mixture.source
    if source.name in mixture.own:
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
                mixture, "limited", -150, f"ct state new {_saddr(source.name)} ct count over 1000"
            ),
        )
    ]


def _is_dns_churn(mixture: Mixture) -> bool:
    # A resolver's own table is full of queries too, answered for many: that is its work.
    asks_itself = mixture.source.share >= 60
    return mixture.dns >= 50 and (mixture.pressed or asks_itself or mixture.translated >= 50)


def _has_one_source(mixture: Mixture) -> bool:
    if mixture.source.share < 50:
        return False
    # Where all goes to one place a proxy stands before it; a client is its own only source.
    spread = mixture.destination.share < 60
    return mixture.pressed or (spread and mixture.source.share < 95)


def _too_small(mixture: Mixture) -> str:
    return (
        "the table is merely too small: no cause stands out, "
        f"{_percent(mixture.assured)} of entries are assured"
    )


# The first that fits is told first.
CAUSES = (
    Cause("nat ports", lambda m: m.pool.share >= 80, _ports, _more_ports),
    Cause("flood", _is_flood, _flood, _against_flood),
    Cause(
        "close_wait",
        lambda m: m.close_wait >= 25,
        lambda m: (
            f"leaked connections: {_percent(m.close_wait)} of entries are in CLOSE_WAIT"
            + _most(m.close_wait_service)
        ),
        _closing,
    ),
    Cause(
        "idle",
        lambda m: m.idle >= 40,
        lambda m: (
            f"leaked connections: {_percent(m.idle)} of entries are ESTABLISHED and silent for "
            f"{LONG_IDLE // 3600}h or longer{_most(m.established_service)}"
        ),
        _alive,
    ),
    Cause(
        "time_wait",
        lambda m: m.time_wait >= (45 if m.pressed else 60),
        lambda m: (
            f"short-lived connections: {_percent(m.time_wait)} of entries are in TIME_WAIT"
            + _most(m.time_wait_service)
        ),
        _pooling,
        room=True,
    ),
    Cause(
        "dns",
        _is_dns_churn,
        lambda m: (
            f"DNS churn: {_percent(m.dns)} of entries are queries to port 53, "
            f"{_percent(m.source.share)} of all entries come from {m.source.name}"
        ),
        _caching,
        room=True,
    ),
    Cause(
        "unreplied",
        lambda m: (m.unreplied >= 50 and not _is_flood(m)) or _asks_in_vain(m),
        lambda m: (
            f"traffic dies unreplied: {_percent(m.unreplied)} of entries saw no answer"
            + _most(m.service)
            + (", asked by this host" if _asks_in_vain(m) else "")
        ),
        _answering,
    ),
    Cause(
        "source",
        _has_one_source,
        lambda m: (
            f"one source dominates: {_percent(m.source.share)} of entries come from {m.source.name}"
        ),
        _ask_source,
        plain=True,
    ),
    Cause(
        "service",
        # All the web behind one port is no service of anybody's.
        lambda m: m.pressed and m.service.share >= 60 and m.destination.share >= 50,
        lambda m: (
            f"one service dominates: {_percent(m.service.share)} of entries go to {m.service.name}"
            f", {_percent(m.destination.share)} to {m.destination.name}"
        ),
        lambda m: [
            Step(
                f"Spread {m.service.name} over more hosts, let its clients share connections, "
                "or make room for it:"
            )
        ],
        room=True,
        plain=True,
    ),
    Cause("small", lambda m: m.pressed, _too_small, lambda _: [], room=True, plain=True),
)
NO_CAUSE = "no known cause fits what the table holds"


def diagnose(mixture: Mixture) -> list[Cause]:
    """The causes that fit, the weightiest first; none for a table that looks healthy."""
    if mixture.entries < FEWEST:
        return []
    found = [cause for cause in CAUSES if not cause.plain and cause.fits(mixture)]
    if not found:
        found = [cause for cause in CAUSES if cause.plain and cause.fits(mixture)][:1]
    return found


def remedies(mixture: Mixture, causes: Collection[Cause]) -> list[str]:
    """The lines that say what to do about the causes."""
    lines: dict[str, None] = {}
    for cause in causes:
        for step in cause.steps(mixture):
            lines[step.text] = None
            lines.update(dict.fromkeys("  " + command for command in step.commands))
    return list(lines)
