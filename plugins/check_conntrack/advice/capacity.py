"""From evidence to what to do about it: pure functions, no I/O.

A rule is a line of RULES: which labels call for it, and the function that makes its steps from
the evidence. A check hands in the evidence it has and the labels that alarm; what it cannot know
stays None, and a rule that needs it gives nothing. To add a rule, write the function and a line.
"""

from __future__ import annotations

from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
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


class CapacityEvidence(NamedTuple):
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
    steps: Callable[[CapacityEvidence], list[Step]]


def roomy_limit(peak: int) -> int:
    """The least power of two that holds the peak with 30 % to spare, and the sysctl can hold."""
    needed = -(-peak * 13 // 10)
    return min(1 << max(needed - 1, 0).bit_length(), INT_MAX)


def quarter(limit: int, buckets: int | None) -> int:
    """Buckets for a limit: a quarter of it, as the kernel rounds it, never fewer than there are."""
    return max(-(-limit // 4 // PAGE_BUCKETS) * PAGE_BUCKETS, buckets or 0)


def _raised(evidence: CapacityEvidence) -> int:
    """The limit to advise: a roomy one, or the present one where that suffices or there is none."""
    wanted = roomy_limit(evidence.peak)
    if not evidence.limit or evidence.peak * SPARE <= evidence.limit:
        return evidence.limit
    return max(wanted, evidence.limit)


def _buckets_for(limit: int, evidence: CapacityEvidence) -> int:
    """Buckets for a limit; where chains are too long twice as many as there are, at least."""
    double = 2 * (evidence.buckets or 0) if evidence.crowded else 0
    return max(quarter(limit, evidence.buckets), double)


def mebibytes(size: float) -> str:
    """A size for people."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{max(size / 1024, 1):.0f} KiB"


def raise_limit(evidence: CapacityEvidence) -> list[Step]:
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


def more_buckets(evidence: CapacityEvidence) -> list[Step]:
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


def who_set_it(evidence: CapacityEvidence) -> list[Step]:
    """Where a limit that nobody expected comes from."""
    return [
        Step(
            f"The limit is {evidence.limit}: look for what sets it."
            + (" kube-proxy runs here and does." if evidence.kube_proxy else ""),
            (_GREP,),
        )
    ]


def _where(evidence: CapacityEvidence) -> str:
    return "" if evidence.settable else " Run on the host: it cannot be set from this namespace."


def _set_buckets(buckets: int, evidence: CapacityEvidence) -> str:
    if evidence.buckets_sysctl or not evidence.settable:
        return f"sysctl -w {_BUCKETS}={buckets}"
    return f"echo {buckets} > /sys/module/nf_conntrack/parameters/hashsize"


def _now(limit: int, buckets: int | None, evidence: CapacityEvidence) -> tuple[str, ...]:
    # Buckets first: a table that may grow should find its hash ready.
    first = () if buckets is None else (_set_buckets(buckets, evidence),)
    return (*first, f"sysctl -w {_MAX}={limit}")


def _keep(limit: int, buckets: int, evidence: CapacityEvidence) -> Step:
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


def _cost(limit: int, buckets: int, evidence: CapacityEvidence) -> Step:
    size = limit * ENTRY_BYTES + buckets * BUCKET_BYTES
    text = f"Full, it takes about {mebibytes(size)} of kernel memory"
    if evidence.memory is None:
        return Step(text + ".")
    has = mebibytes(evidence.memory)
    more = size - evidence.entries * ENTRY_BYTES - (evidence.buckets or 0) * BUCKET_BYTES
    if more <= evidence.memory:
        return Step(f"{text}; {has} are available.")
    return Step(f"{text}, and only {has} are available: find what fills the table, or add memory.")


def evicted(_: CapacityEvidence) -> list[Step]:
    """What a rise of early_drop means."""
    return [
        Step(
            "early_drop rises before the first connection is lost: the kernel evicts unassured "
            "entries to make room. There is little time left."
        )
    ]


def other_drops(_: CapacityEvidence) -> list[Step]:
    """What drops packets where nothing says that the table was full."""
    return [
        Step(
            "Nothing else says that the table was full, so no larger limit is advised: drop also "
            "rises where a helper (FTP, SIP, ...) gives up on a packet, or the kernel has no "
            "memory for an entry. Look what rises beside it, and for messages of helpers:",
            ("conntrack -S", "dmesg | grep nf_ct_"),
        )
    ]


def clashes(_: CapacityEvidence) -> list[Step]:
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


def long_chains(evidence: CapacityEvidence) -> list[Step]:
    """What a rise of chaintoolong means."""
    means = "chaintoolong rises when a hash chain is too long: an insert is refused, the table"
    return [Step(f"{means} is not full, and nothing is logged."), *more_buckets(evidence)]


def other_limits(evidence: CapacityEvidence) -> list[Step]:
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


def advise(evidence: CapacityEvidence, alarms: Collection[str]) -> list[str]:
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
