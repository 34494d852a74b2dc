"""From evidence to what to do about it: pure functions, no I/O.

A rule is a line of RULES: which labels call for it, and the function that makes its steps from
the evidence. A check hands in the evidence it has and the labels that alarm; what it cannot know
stays None, and a rule that needs it gives nothing. To add a rule, write the function and a line.
"""

from __future__ import annotations

from .kernel.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Callable


INT_MAX = 0x7FFFFFFF
SPARE = 1.3  # the peak and 30 %
ENTRY_BYTES = 384  # an entry with accounting and NAT, measured; the slab's own figure is root's
BUCKET_BYTES = 8  # struct hlist_nulls_head
_MAX = "net.netfilter.nf_conntrack_max"
_BUCKETS = "net.netfilter.nf_conntrack_buckets"
_EXPECT_MAX = "net.netfilter.nf_conntrack_expect_max"
_SYSCTL_FILE = "/etc/sysctl.d/99-check-conntrack.conf"  # a name that nobody else uses
_GREP = "grep -rs nf_conntrack /etc/sysctl.conf /etc/sysctl.d /usr/lib/sysctl.d /etc/modprobe.d"
_MODULES_FILE = "/etc/modules-load.d/nf_conntrack.conf"


class Evidence(NamedTuple):
    """What is known about a table; `peak` counts entries, `memory` is in bytes.

    `settable` is False inside a network namespace that may not change the limit. `crowded`: hash
    chains are too long.
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
    """Buckets for a limit: a quarter of it, never fewer than there are."""
    return max(limit // 4, buckets or 0)


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
    wanted = roomy_limit(evidence.peak)
    seen = f"the peak of {evidence.peak} entries plus 30 %"
    if wanted <= evidence.limit or evidence.peak * SPARE <= evidence.limit:
        return [
            Step(
                f"The limit suffices for what was seen: {seen} fits into {evidence.limit}. "
                "Look for what fills the table, or raise the threshold."
            )
        ]
    buckets = quarter(wanted, evidence.buckets)
    if evidence.crowded:
        buckets = max(buckets, 2 * (evidence.buckets or 0))
    more = evidence.buckets is None or buckets > evidence.buckets
    text = f"Raise the limit to {wanted}: {seen}, rounded up to a power of two."
    if evidence.entries >= evidence.limit:
        text += " What a full table turns away is not counted: it may take more."
    steps = [Step(text + _where(evidence), _now(wanted, buckets if more else None, evidence))]
    if not more:
        steps.append(Step(f"The {evidence.buckets} hash buckets are enough for it."))
    steps.append(_keep(wanted, buckets if more else None, evidence))
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
    wanted = max(quarter(evidence.limit, evidence.buckets), 2 * evidence.buckets)
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


def _keep(limit: int, buckets: int | None, evidence: Evidence) -> Step:
    lines = [] if buckets is None else [f"{_BUCKETS} = {buckets}"]
    commands = []
    if lines and evidence.settable and not evidence.buckets_sysctl:
        lines = []
        commands.append(
            f"echo 'options nf_conntrack hashsize={buckets}' > /etc/modprobe.d/conntrack.conf"
        )
    lines.append(f"{_MAX} = {limit}")
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
    commands: tuple[str, ...] = ()
    if evidence.expect_max:
        commands = (f"sysctl -w {_EXPECT_MAX}={2 * evidence.expect_max}",)
    return [
        Step(
            "expectation table full: helpers (FTP, SIP, ...) expect more connections than "
            "nf_conntrack_expect_max allows.",
            commands,
        ),
        Step(
            "exceeds conntrack limit: Open vSwitch refuses connections of a zone at its own limit.",
            ("ovs-appctl dpctl/ct-get-limits",),
        ),
    ]


_CROWDED = frozenset({"load_factor", "chain_overflows"})
RULES = (
    Rule(frozenset({"early_drops"}), evicted),
    Rule(
        frozenset(
            {
                *("usage", "entries", "growth", "time_to_full"),
                *("table_full", "full_drops", "early_drops"),
            }
        ),
        raise_limit,
    ),
    Rule(frozenset({"load_factor"}), more_buckets),
    Rule(frozenset({"chain_overflows"}), long_chains),
    Rule(frozenset({"insert_failures"}), clashes),
    Rule(frozenset({"other_loss"}), other_limits),
    Rule(frozenset({"limit"}), who_set_it),
)


def advise(evidence: Evidence, alarms: Collection[str]) -> list[str]:
    """The lines that say what to do about alarms of these labels."""
    evidence = evidence._replace(crowded=not _CROWDED.isdisjoint(alarms))
    lines: list[str] = []
    for rule in RULES:
        if rule.labels.intersection(alarms):
            for step in rule.steps(evidence):
                lines.append(step.text)
                # What two rules come to is done once.
                commands = ["  " + command for command in step.commands]
                lines += [command for command in commands if command not in lines]
    return lines
