"""Describe stale translations: flows that still go where nobody is, or where no rule sends them."""

from __future__ import annotations

from .. import render
from ..kernel import destinations
from . import rulesets
from .capacity import Step
from .table_profile import TopItem, with_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .table_profile import StaleFlows, TableProfile

MOST_NAMED = 3  # of the translations

_EVIDENCE = {
    destinations.FAILED: "no host answers for it{device} (neighbour FAILED)",
    destinations.INCOMPLETE: "no host answers for it{device} (neighbour INCOMPLETE)",
    destinations.NO_ROUTE: "there is no route to it",
}


def headline(profile: TableProfile) -> str:
    """Return which flows still go where, for the status line."""
    if not profile.stale:
        return "stale translations"
    first, *others = profile.stale
    goes = f"still go to {with_owner(first.target, first.target.address)}"
    if not first.translated:
        goes = "are not translated"
    why = f"new ones to {_elsewhere(first)}"
    if first.code in destinations.GONE:
        why = "which is gone"
    more = sum(one.entries for one in others)
    also = f" ({more} more)" if more else ""
    return (
        f"stale translations: {_flows(first.entries)} to {with_owner(first.destination)} {goes}, "
        f"{why}{also}"
    )


def sentence(profile: TableProfile) -> str:
    """Return the same with its evidence."""
    told = [_at_length(one) for one in profile.stale[:MOST_NAMED]]
    left = profile.stale[MOST_NAMED:]
    if left:
        ways = render.plural(len(left), "other way")
        told.append(f"and {_flows(sum(one.entries for one in left))} in {ways}")
    return (
        f"stale translations: {'; '.join(told)}. A flow keeps its translation as long as packets "
        "come, whatever the rules say by now"
    )


def _at_length(one: StaleFlows) -> str:
    """Return what is known of one translation."""
    why = []
    device = f" on {one.device}" if one.device else ""
    if one.code in _EVIDENCE:
        why.append(_EVIDENCE[one.code].format(device=device))
    if one.elsewhere:
        why.append(f"newer flows go to {_elsewhere(one)}, and are answered")
    goes = f"still go to {with_owner(one.target)}" if one.translated else "are not translated"
    reply = ", were answered before" if one.answered else " and no reply"
    return (
        f"{_flows(one.entries)} to {with_owner(one.destination)} had a packet in the last "
        f"{one.seconds}s{reply}, and {goes}: {', and '.join(why)}"
    )


def _elsewhere(one: StaleFlows) -> str:
    """Return where newer flows go, with the owner."""
    return with_owner(TopItem(one.elsewhere, owner=one.elsewhere_owner))


def _flows(number: int) -> str:
    return render.plural(number, "flow")


def steps(profile: TableProfile) -> list[Step]:
    """Return what ends stale translations, and what keeps them from coming back."""
    found = []
    numbers: dict[tuple[TopItem, TopItem], int] = {}
    for one in profile.stale:
        pair = one.destination, one.target
        numbers[pair] = numbers.get(pair, 0) + one.entries
    firsts = {(one.destination, one.target): one for one in reversed(profile.stale)}
    for pair in list(numbers)[:MOST_NAMED]:
        one = firsts[pair]
        sent_to = one.destination
        state = ("--state", "SYN_SENT") if sent_to.protocol == "tcp" else ()
        port = ("--dport", str(sent_to.port)) if sent_to.port else ()
        options = ("-p", sent_to.protocol, *state, "--orig-dst", sent_to.address, *port)
        # conntrack(8) compares the address of --dst-nat for IPv4 alone (seen with 1.4.7).
        plain = ":" in one.target.address or not one.translated
        target = "--reply-src" if plain else "--dst-nat"
        commands = rulesets.deletes(profile, sent_to, *options, target, one.target.address)
        if commands:
            found.append(
                Step(
                    f"Delete these entries: this frees {rulesets.entries(numbers[pair])} now. The "
                    "next packet of each flow is translated as the rules say today.",
                    commands,
                )
            )
    gone = next((one for one in profile.stale if not one.elsewhere), None)
    if gone:
        found.append(
            Step(
                f"If they come back, a rule still translates to {gone.target.address}: look for it "
                "in nft list ruleset, iptables-save -t nat or ipvsadm -Ln, and take it out."
            )
        )
    return [*found, _keep_away(profile)]


def _keep_away(profile: TableProfile) -> Step:
    """Return who has to delete such entries."""
    if profile.kube_proxy:
        return Step(
            "kube-proxy has to delete them, and only deletes those of UDP. Up to 1.31 it tries "
            "once, when an endpoint goes; from 1.32 on it compares the table with its services, "
            "but first left out services without endpoints (kubernetes issue 139628, fixed in "
            "June 2026) and deleted services (pull request 141371, August 2026): update it."
        )
    return Step(
        "Whatever changes the translation has to delete the entries that the old one made: let the "
        "script or the program run that command. Docker does from 23.0 on."
    )
