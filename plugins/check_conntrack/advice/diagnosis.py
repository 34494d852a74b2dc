"""Diagnose what fills a table: causes as data, matched against a TableProfile. Pure functions.

To add a cause, write when it matches and its sentences here, its steps in remedies.py or
leaks.py, and a line of CAUSES. Which cause unanswered entries stand for is decided in
unanswered.py; their sentences are in unanswered_words.py, their steps in unanswered_steps.py.
"""

from __future__ import annotations

from ..kernel.namedtuple import NamedTuple
from ..render import percent
from . import leaks, remedies, stale, unanswered, unanswered_steps, unanswered_words
from .table_profile import (
    FEWEST,
    LONG_IDLE,
    NAMED,
    SENDER,
    TopItem,
    Unanswered,
    called,
    idle_goes_to_service,
    overlaps,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from .capacity import Step
    from .table_profile import LeakEnds, TableProfile


class Cause(NamedTuple):
    """A line of CAUSES: when it matches, what is said of it, what to do about it.

    Attributes:
        name: its name in the runbook
        matches: tells whether a profile has it
        headline: the cause and its culprit, for the status line
        sentence: the same with its evidence
        steps: what to do
        room: a larger maximum may be advised as well
        plain: looked at only where no other cause matches
        fills: it is about what fills the table. Other causes are looked at beside one that is not,
            and it needs no number of entries
    """

    name: str
    matches: Callable[[TableProfile], bool]
    headline: Callable[[TableProfile], str]
    sentence: Callable[[TableProfile], str]
    steps: Callable[[TableProfile], list[Step]]
    room: bool = False
    plain: bool = False
    fills: bool = True


def _unanswered_cause(
    name: str,
    headline: Callable[[Unanswered, TableProfile], str],
    sentence: Callable[[Unanswered, TableProfile], str],
    steps: Callable[[TableProfile, Unanswered], list[Step]],
) -> Cause:
    """Return a cause that unanswered entries stand for."""

    def found(profile: TableProfile) -> Unanswered:
        return unanswered.standing_for(profile, name) or Unanswered("tcp", "SYN_SENT")

    return Cause(
        name,
        lambda profile: unanswered.standing_for(profile, name) is not None,
        lambda profile: headline(found(profile), profile),
        lambda profile: sentence(found(profile), profile),
        lambda profile: steps(profile, found(profile)),
    )


# --- other causes


def _who(profile: TableProfile, share: float = 0.0, about: TopItem | None = None) -> str:
    """Return the dominant source and destination, whatever the cause; empty for none.

    share: of the entries that the cause is about; where others may have gone there, that is said.
    about: the service that most of these go to. Where most others go to another one, only who
    certainly stands behind the cause is named.
    """
    source, target, service = profile.source, profile.destination, profile.service
    if source.share < NAMED and profile.network.share >= SENDER:
        source = profile.network
    named = [(source, f"from {called(source, profile)}")]
    if target.share >= NAMED:
        both = target.share >= SENDER and service.share >= SENDER
        port = f" {service.name}" if both else ""
        named.append((target, f"to {called(target, profile)}{port}"))
    elif not about or about.name != service.name or about.share < share / 2:
        named.append((service, f"to {service.name}"))  # elsewhere it is said already
    named = [(item, words) for item, words in named if item.share >= NAMED]
    if about and about.name and about.name != service.name:
        named = [(item, words) for item, words in named if overlaps(item.share, share)]
    text = ", ".join(f"{percent(item.share)} {words}" for item, words in named)
    apart = share and not all(overlaps(item.share, share) for item, _ in named)
    return f"of all entries {text}" if text and apart else text


def _has(ends: LeakEnds, profile: TableProfile) -> str:
    """Return who has leaked connections: a source, a target; empty where none stands out."""
    # Several services of one host say less than the host.
    target = ends.target
    if target.share < SENDER <= ends.destination.share:
        target = ends.destination
    named = ((ends.source, "from"), (target, "to"))
    words = [
        f"{percent(item.share)} {word} {called(item, profile)}"
        for item, word in named
        if item.share >= NAMED
    ]
    return f"of these {', '.join(words)}" if words else ""


def _with(text: str, *more: str) -> str:
    return ", ".join(filter(None, (text, *more)))


def _to(service: TopItem, share: float, ends: LeakEnds | None = None) -> str:
    """Return the service that most entries of a state go to; empty where none stands out.

    ends: who has these entries; where _has() names where they go, no service is said.
    """
    if ends and max(ends.target.share, ends.destination.share) >= NAMED:
        return ""
    return f" to {service.name}" if service.share >= share / 2 and service.name else ""


def _ports_headline(profile: TableProfile) -> str:
    pool = profile.pool
    within = ""
    if profile.pool_range:
        within = f" ({profile.pool_range[0]}-{profile.pool_range[1]})"
    return (
        f"source-NAT ports run out: {profile.pool_address} to {pool.name} takes "
        f"{profile.pool_ports} of {profile.pool_size} ports{within}"
    )


def _ports(profile: TableProfile) -> str:
    return (
        f"{_ports_headline(profile)}, {percent(profile.pool.share)}: new connections to "
        f"{profile.pool.name} fail when none is left, and nothing is logged"
    )


def _is_idle(profile: TableProfile) -> bool:
    if profile.idle < 40 or not profile.weighty:
        return False
    # An open socket is no leak: MQTT and WebSocket clients are idle for hours.
    number = profile.total * profile.idle / 100
    return profile.open_sockets is None or profile.open_sockets < number / 2


def _is_time_wait(profile: TableProfile) -> bool:
    if profile.usage is None:
        return profile.time_wait >= 60
    return profile.pressed and profile.time_wait >= 45


def _is_dns_churn(profile: TableProfile) -> bool:
    silent = sum(
        one.share * one.target.share / 100 for one in profile.unanswered if one.target.port == 53
    )
    if profile.dns < 50 or silent >= 0.8 * profile.dns:
        return False  # a resolver that does not answer is another cause
    # A resolver's own table is full of queries too, answered for many: that is its work.
    one_asks = profile.source.share >= 60
    return profile.pressed or (profile.usage is None and (one_asks or profile.translated >= 50))


def _has_one_source(profile: TableProfile) -> bool:
    if profile.source.share < SENDER:
        return False
    both = profile.source.address in profile.own and profile.destination.address in profile.own
    if both and profile.destination.share >= NAMED:
        return False  # this host is a proxy: it opens connections for those that it takes
    # Where all goes to one place a proxy stands before it; a client is its own only source.
    spread = profile.destination.share < 60
    return profile.pressed or (profile.usage is None and spread and profile.source.share < 95)


def _idle_for() -> str:
    return f"{LONG_IDLE // 3600}h {LONG_IDLE % 3600 // 60}m or longer"


def _idle_service(profile: TableProfile) -> str:
    """Return the service that idle connections go to, where no single target stands out."""
    service = profile.established_service
    if max(profile.idle_ends.target.share, profile.idle_ends.destination.share) >= NAMED:
        return ""
    return f" to {service.name}" if idle_goes_to_service(profile) else ""


def _in_close_wait(profile: TableProfile) -> str:
    share = profile.close_wait
    service = _to(profile.close_wait_service, share, profile.close_wait_ends)
    return f"{percent(share)} of entries in CLOSE_WAIT{service}"


def _is_closing(profile: TableProfile) -> bool:
    return profile.weighty and profile.fin_wait + profile.last_ack >= 40


def _closing(profile: TableProfile) -> str:
    """Return which connections do not finish closing."""
    larger = max(profile.fin_wait, profile.last_ack)
    smaller = min(profile.fin_wait, profile.last_ack)
    states = f"{percent(larger)} of entries in {profile.closing_state}"
    if smaller >= NAMED:
        other = "LAST_ACK" if profile.closing_state == "FIN_WAIT" else "FIN_WAIT"
        states += f" and {percent(smaller)} in {other}"
    ends = profile.closing_ends
    service = _to(profile.closing_service, larger, ends)
    return _with(f"connections that do not finish closing: {states}{service}", _has(ends, profile))


def _closing_at_length(profile: TableProfile) -> str:
    """Return the same with what the state means."""
    means = {
        "FIN_WAIT": "One end has sent a FIN, and no packet has passed here since: neither its "
        "acknowledgement nor a repetition",
        "LAST_ACK": "Both ends have sent a FIN, or one has repeated it, and no acknowledgement has "
        "passed here since",
    }
    state = profile.closing_state
    unreplied = next((one.share for one in profile.unanswered if one.state == state), 0.0)
    share = max(profile.fin_wait, profile.last_ack)
    one_way = ". Of most of them only one direction passes here" if 2 * unreplied >= share else ""
    return f"{_closing(profile)}. {means[state]}{one_way}"


def _reset(profile: TableProfile) -> str:
    """Return which connections were reset."""
    ends = profile.reset_ends
    service = _to(profile.reset_service, profile.reset, ends)
    share = f"{percent(profile.reset)} of entries in CLOSE{service}"
    return _with(f"connections ended by a reset: {share}", _has(ends, profile))


def _in_time_wait(profile: TableProfile) -> str:
    share = profile.time_wait
    return f"{percent(share)} of entries in TIME_WAIT{_to(profile.time_wait_service, share)}"


# The first that matches is the one of the status line.
CAUSES = (
    Cause(
        "nat ports",
        lambda p: p.pool.share >= 80,
        _ports_headline,
        _ports,
        remedies.more_ports,
    ),
    _unanswered_cause(
        unanswered.SYN_FLOOD,
        unanswered_words.syn_flood,
        unanswered_words.syn_flood_at_length,
        unanswered_steps.against_syn_flood,
    ),
    _unanswered_cause(
        unanswered.SCAN,
        unanswered_words.scan,
        unanswered_words.scan_at_length,
        unanswered_steps.against_scan,
    ),
    _unanswered_cause(
        unanswered.FLOOD,
        unanswered_words.flood,
        unanswered_words.flood_at_length,
        unanswered_steps.against_flood,
    ),
    _unanswered_cause(
        unanswered.SILENCE,
        unanswered_words.silence,
        unanswered_words.silence_at_length,
        unanswered_steps.against_silence,
    ),
    Cause(
        "close_wait",
        lambda p: p.weighty and p.close_wait >= 25,
        lambda p: _with(f"leaked connections: {_in_close_wait(p)}", _has(p.close_wait_ends, p)),
        lambda p: _with(f"leaked connections: {_in_close_wait(p)}", _has(p.close_wait_ends, p)),
        leaks.closing,
    ),
    Cause("closing", _is_closing, _closing, _closing_at_length, leaks.unfinished),
    Cause(
        "reset",
        lambda p: p.weighty and p.reset >= 40,
        _reset,
        lambda p: f"{_reset(p)}. One end has sent a RST, and such entries last for seconds only",
        leaks.resets,
        room=True,
    ),
    Cause(
        "idle",
        _is_idle,
        lambda p: _with(
            f"leaked connections: {percent(p.idle)} idle for hours{_idle_service(p)}",
            _has(p.idle_ends, p),
        ),
        lambda p: _with(
            f"leaked connections: {percent(p.idle)} of entries are ESTABLISHED without a packet "
            f"for {_idle_for()}",
            _has(p.idle_ends, p),
        ),
        leaks.alive,
    ),
    Cause(
        "time_wait",
        _is_time_wait,
        lambda p: _with(
            f"short-lived connections: {_in_time_wait(p)}",
            _who(p, p.time_wait, p.time_wait_service),
        ),
        lambda p: _with(
            f"short-lived connections: {_in_time_wait(p)}",
            _who(p, p.time_wait, p.time_wait_service),
        ),
        remedies.pooling,
        room=True,
    ),
    Cause(
        "dns",
        _is_dns_churn,
        lambda p: _with(f"DNS churn: {percent(p.dns)} to port 53", _who(p, p.dns)),
        lambda p: _with(
            f"DNS churn: {percent(p.dns)} of entries are queries to port 53", _who(p, p.dns)
        ),
        remedies.caching,
        room=True,
    ),
    Cause(
        "stale",
        lambda p: bool(p.stale),
        stale.headline,
        stale.sentence,
        stale.steps,
        fills=False,
    ),
    Cause(
        "source",
        _has_one_source,
        lambda p: _with("one source dominates", _who(p)),
        lambda p: _with("one source dominates", _who(p)),
        remedies.ask_source,
        plain=True,
    ),
    Cause(
        "small",
        lambda p: p.pressed,
        lambda p: _with("no cause stands out: the table may be too small", _who(p)),
        lambda p: _with(
            "no cause stands out: the table may be too small",
            f"{percent(p.assured)} of entries are assured",
            _who(p),
        ),
        remedies.spread,
        room=True,
        plain=True,
    ),
)
NO_CAUSE = "no dominant cause found"


def _passing(profile: TableProfile) -> dict[str, float]:
    """Return the shares of causes whose entries soon end by themselves, by name.

    So many of them come from what goes on now. Idle connections may be of last week.
    """
    shares = {
        "close_wait": profile.close_wait,
        "closing": profile.fin_wait + profile.last_ack,
        "reset": profile.reset,
    }
    for one in unanswered.joined(profile.unanswered):
        name = unanswered.verdict(one, profile)
        shares[name] = max(one.share, shares.get(name, 0.0))
    return shares


def diagnose(profile: TableProfile) -> list[Cause]:
    """Return the causes that match, the weightiest first; empty for a healthy table."""
    if profile.entries < FEWEST:
        return [cause for cause in CAUSES if not cause.fills and cause.matches(profile)]
    found = [cause for cause in CAUSES if not cause.plain and cause.matches(profile)]
    # The largest of those whose entries last for minutes at most comes first.
    shares = _passing(profile)
    places = [at for at, cause in enumerate(found) if cause.name in shares]
    ranked = sorted((found[at] for at in places), key=lambda cause: -shares[cause.name])
    for at, cause in zip(places, ranked):
        found[at] = cause
    if not any(cause.fills for cause in found):
        found += [cause for cause in CAUSES if cause.plain and cause.matches(profile)][:1]
    return found
