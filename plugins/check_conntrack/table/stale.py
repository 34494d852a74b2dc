"""Find stale translations: from a tally, and from what the kernel knows of their targets.

A flow without a reply counts if it had a packet in the first half of its timeout, and

- its target is gone (kernel/destinations.py), or
- newer flows to the same destination go elsewhere and are answered, none goes to this target, and
  the target is not known to be there. A newer flow is one that ended within seconds, some time ago.
  If a rule still chose this target, as many would have ended there as at each other target. A flow
  that began before there was a rule is not translated, and counts in the same way.

A flow that was answered before counts if it had a packet within seconds, and its target is gone for
certain: nobody can have answered that packet. Newer flows elsewhere say nothing of such a flow.

So UDP that is sent one way to a host that is there does not count, and without evidence nothing
does.
"""

from __future__ import annotations

from ..advice.table_profile import StaleFlows, TopItem
from ..flows.entry import IPPROTO_TCP, IPPROTO_UDP, address_text
from ..flows.labels import protocol_label
from ..flows.translations import RECENT, REPLIED, UNREPLIED, UNTRANSLATED
from ..kernel import destinations
from ..kernel.namedtuple import NamedTuple
from ..kernel.timeouts import DEFAULTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..flows.translations import Translation
    from ..kernel.destinations import Destination
    from .sources import TableReading

MOST_LOOKED_UP = 32  # targets, of those with the most flows
# With so many brief flows to each other target, new flows to this one would have left some here.
FEWEST_BRIEF = 10
_STREAM = "udp_timeout_stream"
_TIMEOUTS = {IPPROTO_UDP: "udp_timeout", IPPROTO_TCP: "tcp_timeout_syn_sent"}


def stale_flows(
    table: TableReading, timeouts: Callable[[], Mapping[str, int]], *, here: bool
) -> tuple[StaleFlows, ...]:
    """Return the flows of a table with a stale translation, the most first.

    timeouts: returns those in force, in seconds, as far as they are known. here: the table is that
    of this process's own network namespace, whose routes and neighbours are asked.
    """
    tally = table.tally
    counts = tally.translations.counts
    # What is not translated is stale only where newer flows are.
    if not counts[UNREPLIED] and not ((here or counts[UNTRANSLATED]) and counts[REPLIED]):
        return ()
    known = timeouts()
    renewed = {
        protocol: (known.get(name) or max(DEFAULTS[name], tally.translations.longest(protocol)))
        // 2
        for protocol, name in _TIMEOUTS.items()
    }
    stream = known.get(_STREAM, DEFAULTS[_STREAM]) if here else 0
    groups = tally.translations.groups(renewed, stream)
    scale = tally.scale(table.total)
    weights = {
        True: scale * tally.translation_weight(UNREPLIED),
        False: scale * tally.translation_weight(UNTRANSLATED),
    }
    largest = sorted(groups, key=lambda one: (-one.renewed, one))
    candidates = [one for one in largest if one.renewed]
    kept_alive = [one for one in groups if one.kept_alive and one.translated]
    kept_alive.sort(key=lambda one: (-one.kept_alive, one))
    known_here: dict[str, destinations.Destination] = {}
    if here:
        translated = [*(one for one in candidates if one.translated), *kept_alive]
        targets = dict.fromkeys(address_text(one.target) for one in translated)
        known_here = destinations.look_up(list(targets)[:MOST_LOOKED_UP])
    answering: dict[tuple[int, int, bytes, int], list[Translation]] = {}
    for one in groups:
        if one.replied and one.translated:
            answering.setdefault(one.sent_to, []).append(one)
    newer = {sent_to: _newer(targets) for sent_to, targets in answering.items()}
    found = []
    for one in candidates:
        destination = known_here.get(address_text(one.target)) if one.translated else None
        code = destination.code if destination else destinations.UNKNOWN
        elsewhere = _elsewhere(one, newer.get(one.sent_to))
        if code in destinations.GONE or (elsewhere and code != destinations.THERE):
            number = round(one.renewed * weights[one.translated])
            flows = _flows(one, number, renewed[one.protocol], destination)
            found.append(flows._replace(elsewhere=elsewhere))
    for one in kept_alive:
        destination = known_here.get(address_text(one.target))
        if destination and destination.certain and destination.code in destinations.GONE:
            number = round(one.kept_alive * scale * tally.translation_weight(REPLIED))
            found.append(_flows(one, number, RECENT, destination)._replace(answered=True))
    return tuple(sorted(found, key=lambda each: -each.entries))


def _flows(
    one: Translation, entries: int, seconds: int, destination: Destination | None
) -> StaleFlows:
    """Return the flows of a translation, with what is known of its target."""
    return StaleFlows(
        _item(one.protocol, one.zone, one.destination, one.port),
        _item(one.protocol, 0, one.target, one.target_port),
        entries,
        seconds,
        destination.code if destination else destinations.UNKNOWN,
        destination.device if destination else "",
    )


class _Newer(NamedTuple):
    """The newer flows to one destination.

    Attributes:
        each: how many a target has, on average of those that answer
        target: the one with the most
    """

    each: float
    target: str


def _newer(targets: Sequence[Translation]) -> _Newer:
    busiest = max(targets, key=lambda one: (one.brief, one))
    return _Newer(sum(one.brief for one in targets) / len(targets), address_text(busiest.target))


def _elsewhere(one: Translation, newer: _Newer | None) -> str:
    """Return where newer flows to the same destination go; empty where they may still go here."""
    if one.replied or newer is None or newer.each < FEWEST_BRIEF:
        return ""
    return "" if FEWEST_BRIEF * one.aged > newer.each else newer.target


def _item(protocol: int, zone: int, address: bytes, port: int) -> TopItem:
    name, text = protocol_label(protocol), address_text(address)
    where = f" in zone {zone}" if zone else ""
    return TopItem(f"{text} {name}/{port}{where}", 0.0, 0, text, zone, name, port)
