"""Recommend a limit and hash buckets, and explain alarms of counters. Pure functions, no I/O.

A rule is a line of RULES: which labels call for it, and the function that makes its steps from
the evidence. A check hands in the evidence it has and the labels that alarm; what it cannot know
stays None, and a rule that needs it gives nothing. To add a rule, write the function and a line.
"""

from __future__ import annotations

from .. import render
from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Callable

    from ..state.last_finding import LastFinding


INT_MAX = 0x7FFFFFFF
SPARE = 1.3  # the peak and 30%
ENTRY_BYTES = 384  # an entry with accounting and NAT, measured; the slab's own figure is root's
BUCKET_BYTES = 8  # struct hlist_nulls_head
PAGE_BUCKETS = 512  # nf_ct_alloc_hashtable() rounds up to whole pages
_MAX = "net.netfilter.nf_conntrack_max"
_BUCKETS = "net.netfilter.nf_conntrack_buckets"
_EXPECT_MAX = "net.netfilter.nf_conntrack_expect_max"
_SYSCTL_FILE = "/etc/sysctl.d/99-check-conntrack.conf"  # a name that nobody else uses
_GREP = "grep -rs nf_conntrack /etc/sysctl.conf /etc/sysctl.d /usr/lib/sysctl.d /etc/modprobe.d"
_MODULES_FILE = "/etc/modules-load.d/check-conntrack.conf"
_MODPROBE_FILE = "/etc/modprobe.d/check-conntrack.conf"
TABLE_CHECK = "check_conntrack_table -v"


class CapacityEvidence(NamedTuple):
    """The known facts about a table and its host.

    Attributes:
        entries: in the table now
        limit: nf_conntrack_max, 0 for none
        peak: the largest number of entries that was counted
        reached: the limit in force when the table was full; 0 where nothing says that it was
        buckets: of the hash; None where the kernel does not say
        memory: available, in bytes
        settable: False inside a network namespace that may not change the limit
        buckets_sysctl: buckets are set by sysctl, and not by the module's parameter
        kube_proxy: kube-proxy runs here and sets the limit itself
        expect_max: nf_conntrack_expect_max
        crowded: hash chains are too long
        expectations, zones: messages said that these were at their limits
        lowered_from: the limit that was lowered to the present one lately; 0 for none
        growth: entries per second, 0 where the alarm is not about it
        raising: a larger limit is advised on as well
        finding: what check_conntrack_table found last
        diagnosed: the caller is check_conntrack_table, and no cause forbids a larger limit
        netns: what --netns takes for the namespace; empty for the one that the check runs in
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
    lowered_from: int = 0
    growth: float = 0.0
    raising: bool = False
    finding: LastFinding | None = None
    diagnosed: bool = False
    netns: str = ""
    reached: int = 0

    @property
    def needed(self) -> int:
        """Return how many entries there were, as far as is known."""
        return max(self.peak, self.reached)


class Step(NamedTuple):
    """A sentence, the commands that carry it out, and those that undo them, ready to paste."""

    text: str
    commands: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()


def table_check(evidence: CapacityEvidence) -> str:
    """Return the command that tells what fills the table."""
    if not evidence.netns:
        return TABLE_CHECK
    import shlex

    return f"{TABLE_CHECK} --netns {shlex.quote(evidence.netns)}"


def lines_of(steps: Iterable[Step]) -> list[str]:
    """Return the lines of steps: text, and commands indented by two spaces. None comes twice."""
    lines: list[str] = []
    done: set[Step] = set()
    commands: set[str] = set()
    for step in steps:
        if step in done:
            continue
        done.add(step)
        lines.append(step.text)
        # What two rules come to is done once.
        lines += [f"  {command}" for command in step.commands if command not in commands]
        if step.undo and not commands.issuperset(step.commands):
            lines.append("Undo:")
            lines += [f"  {command}" for command in step.undo]
        commands.update(command for command in step.commands if " -w " in command)
    return lines


class Rule(NamedTuple):
    """Labels whose alarm calls for some steps."""

    labels: frozenset[str]
    steps: Callable[[CapacityEvidence], list[Step]]


def roomy_limit(peak: int) -> int:
    """Return the least power of two that holds the peak and 30%, and that the sysctl takes."""
    needed = -(-peak * 13 // 10)
    return min(1 << max(needed - 1, 0).bit_length(), INT_MAX)


def quarter(limit: int, buckets: int | None) -> int:
    """Return a quarter of a limit in whole pages of buckets, never fewer than there are."""
    return max(-(-limit // 4 // PAGE_BUCKETS) * PAGE_BUCKETS, buckets or 0)


def _raised(evidence: CapacityEvidence) -> int:
    """Return the limit to advise: a roomy one, or the present one where that suffices."""
    wanted = roomy_limit(evidence.needed)
    if not evidence.limit or evidence.needed * SPARE <= evidence.limit:
        return evidence.limit
    return max(wanted, evidence.limit)


def _buckets_for(limit: int, evidence: CapacityEvidence) -> int:
    """Return buckets for a limit; where chains are too long at least twice the present number."""
    double = 2 * (evidence.buckets or 0) if evidence.crowded else 0
    return max(quarter(limit, evidence.buckets), double)


def raise_limit(evidence: CapacityEvidence) -> list[Step]:
    """Return a limit that suffices, buckets that fit it, and how both outlive a reboot.

    No limit helps against a flood or a leak: where the table check found one, that is said instead.
    """
    if not evidence.limit:
        return []
    finding = evidence.finding
    if finding and not finding.room and finding.cause:
        return [
            Step(
                f"Leave the limit as it is: {finding.headline}. What to do about it:",
                (table_check(evidence),),
            )
        ]
    if evidence.lowered_from > evidence.limit:
        return [_restore(evidence)]
    wanted = _raised(evidence)
    counted = f"the peak of {render.plural(evidence.peak, 'entry', 'entries')} plus 30%"
    if evidence.reached > evidence.peak:
        counted = f"the limit of {evidence.reached} was reached; that plus 30%"
    if wanted == evidence.limit:
        if evidence.growth > 0:
            return [
                Step(
                    f"The limit of {evidence.limit} has room for {counted}, but the table grows by "
                    f"{evidence.growth:.2f} entries/s: a larger limit would only put off the end. "
                    "Look for what grows:",
                    (table_check(evidence),),
                )
            ]
        return [
            Step(
                f"The limit suffices for what was counted: {counted} fits into {evidence.limit}. "
                "Look for what fills the table, or raise the threshold:",
                () if evidence.diagnosed else (table_check(evidence),),
            )
        ]
    steps = []
    if not evidence.diagnosed and not finding:
        steps.append(
            Step(
                "Find out first what fills the table. A flood, a scan or a leak fills any limit; "
                "where this names one, do what it says and leave the limit:",
                (table_check(evidence),),
            )
        )
    text = f"Raise the limit to {wanted}: {counted}, rounded up to a power of two."
    if evidence.entries >= evidence.limit:
        text += " What a full table turns away is not counted: it may take more."
    buckets = _buckets_for(wanted, evidence)
    if evidence.kube_proxy:
        return [*steps, _by_kube_proxy(text, wanted), _cost(wanted, buckets, evidence)]
    more = evidence.buckets is None or buckets > evidence.buckets
    steps.append(
        Step(
            text + _where(evidence),
            _now(wanted, buckets if more else None, evidence),
            _now(evidence.limit, evidence.buckets if more else None, evidence)[::-1],
        )
    )
    if not more:
        steps.append(Step(f"The {evidence.buckets} hash buckets are enough for it."))
    return [*steps, _keep(wanted, buckets, evidence), _cost(wanted, buckets, evidence)]


def _restore(evidence: CapacityEvidence) -> Step:
    """Return how to restore a limit that was lowered."""
    text = f"The limit was lowered from {evidence.lowered_from} to {evidence.limit}: restore it"
    if evidence.kube_proxy:
        return Step(f"{text} (--conntrack-min={evidence.lowered_from} of kube-proxy).")
    return Step(
        f"{text}, and find out what lowered it.{_where(evidence)}",
        (*_now(evidence.lowered_from, None, evidence), _GREP),
        _now(evidence.limit, None, evidence),
    )


def _by_kube_proxy(text: str, wanted: int) -> Step:
    return Step(
        f"{text} kube-proxy runs here and sets the limit itself when it starts, to the larger of "
        "--conntrack-min and --conntrack-max-per-core times the processors: start it with "
        f"--conntrack-min={wanted} (conntrack.min in its configuration), on every node."
    )


def more_buckets(evidence: CapacityEvidence) -> list[Step]:
    """Return how to get more hash buckets, for chains that have grown long."""
    if not evidence.buckets:
        return []
    limit = _raised(evidence) if evidence.raising else evidence.limit
    wanted = _buckets_for(limit, evidence._replace(crowded=True))
    return [
        Step(
            f"{evidence.buckets} hash buckets hold {evidence.entries} entries, each entry twice: "
            f"{wanted} buckets ({render.size(wanted * BUCKET_BYTES)}) make the chains shorter."
            + _where(evidence),
            (_set_buckets(wanted, evidence),),
            (_set_buckets(evidence.buckets, evidence),),
        )
    ]


def who_set_it(evidence: CapacityEvidence) -> list[Step]:
    """Return where to look for what set an unexpected limit."""
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
    undo = [f"rm -f {_SYSCTL_FILE} {_MODULES_FILE}"]
    if evidence.settable and not evidence.buckets_sysctl:
        lines = lines[1:]
        commands.append(f"echo options nf_conntrack hashsize={buckets} > {_MODPROBE_FILE}")
        undo = [f"rm -f {_SYSCTL_FILE} {_MODULES_FILE} {_MODPROBE_FILE}"]
    arrows = [">", ">>"]
    commands += [f"echo {line} {arrow} {_SYSCTL_FILE}" for line, arrow in zip(lines, arrows)]
    commands.append(f"echo nf_conntrack > {_MODULES_FILE}")
    return Step(
        "Keep it over a reboot (load the module at boot, otherwise sysctl.d is applied before it):",
        tuple(commands),
        tuple(undo),
    )


def _cost(limit: int, buckets: int, evidence: CapacityEvidence) -> Step:
    size = limit * ENTRY_BYTES + buckets * BUCKET_BYTES
    text = f"A table of that size takes about {render.size(size)} of kernel memory"
    if evidence.memory is None:
        return Step(text + ".")
    has = render.size(evidence.memory)
    more = size - evidence.entries * ENTRY_BYTES - (evidence.buckets or 0) * BUCKET_BYTES
    if more <= evidence.memory:
        return Step(f"{text}; {has} are available.")
    return Step(f"{text}, and only {has} are available: find what fills the table, or add memory.")


def evicted(_: CapacityEvidence) -> list[Step]:
    """Return what a rise of early_drop means."""
    return [
        Step(
            "The table was at its limit, and the kernel evicted entries that are not assured to "
            "make room for new ones (early_drop). When it finds none to evict, it drops new "
            "connections."
        )
    ]


def other_drops(_: CapacityEvidence) -> list[Step]:
    """Return what drops packets where nothing says that the table was full."""
    return [
        Step(
            "Nothing else says that the table was full, so no larger limit is advised: drop also "
            "rises where a helper (FTP, SIP, ...) gives up on a packet, or the kernel has no "
            "memory for an entry. See which counters rise beside it, and look for messages of "
            "helpers (nf_ct_...) in the kernel log:",
            ("conntrack -S", "dmesg --ctime"),
        )
    ]


def clashes(evidence: CapacityEvidence) -> list[Step]:
    """Return what packets that were dropped because their insert failed mean."""
    return [
        Step(
            "An insert fails, and its packet is dropped, when source NAT finds no free port for a "
            "new connection. See how full the port pools are (snat_port_usage):",
            (table_check(evidence),),
        ),
        Step(
            "Where no pool is full, two packets of one new connection raced each other, mostly "
            "DNS queries (A and AAAA from one socket) behind NAT. A DNS cache on the host ends "
            "that, or options single-request-reopen in resolv.conf. For other traffic, let source "
            "NAT choose ports at random (fully-random)."
        ),
    ]


def long_chains(evidence: CapacityEvidence) -> list[Step]:
    """Return what a rise of chaintoolong means, and more buckets."""
    text = (
        "chaintoolong rises when a hash chain is too long: the kernel drops the new connection, "
        "although the table is not full, and logs nothing."
    )
    return [Step(text), *more_buckets(evidence)]


def other_limits(evidence: CapacityEvidence) -> list[Step]:
    """Return what is behind the other messages of loss."""
    steps = []
    if evidence.expectations:
        steps.append(
            Step(
                "expectation table full: helpers (FTP, SIP, ...) expect more connections than "
                "nf_conntrack_expect_max allows. See which helper, and for whom (helper=, "
                "master-src=):",
                ("conntrack -L expect",),
            )
        )
        if evidence.expect_max:
            steps.append(
                Step(
                    f"If these are wanted, allow twice as many.{_where(evidence)}",
                    (f"sysctl -w {_EXPECT_MAX}={2 * evidence.expect_max}",),
                    (f"sysctl -w {_EXPECT_MAX}={evidence.expect_max}",),
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
                *("usage", "entries", "growth", "time_to_full", "settles_at"),
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
    """Return the lines that say what to do about alarms of these labels."""
    raising = any(rule.steps is raise_limit and rule.labels.intersection(alarms) for rule in RULES)
    evidence = evidence._replace(crowded=not _CROWDED.isdisjoint(alarms), raising=raising)
    return lines_of(
        step for rule in RULES if rule.labels.intersection(alarms) for step in rule.steps(evidence)
    )
