"""Count flows by where they were sent, and where that is translated to.

A translation is decided by the first packet of a flow, and kept as long as packets come: a client
that sends from one port goes on to a host that is gone, or goes on untranslated if it began before
there was a rule. Counted are UDP, and TCP in SYN_SENT; UDP that is answered and not translated
tells whether a destination answers anybody. Like the unanswered flows of unanswered.py these serve
a diagnosis: counting stops after so many entries, and so takes 0.03 s of processor time at most, of
a table of any size (Debian's CPython 3.11).
"""

from __future__ import annotations

import collections
import itertools
import struct

from ..kernel import ctnetlink as ct
from ..kernel.namedtuple import NamedTuple
from .columns import slices, weave
from .entry import IPPROTO_TCP, IPPROTO_UDP, Entry
from .groups import ASSURED, SEEN_REPLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .columns import Column

# Flows with a translated destination, without a reply and with one; UDP without either; and UDP
# with a reply alone.
UNREPLIED, REPLIED, UNTRANSLATED, ANSWERED = range(4)
# So many of each are counted. Those with a reply tell whether a target answers new flows, no more.
MOST = [1 << 14, 1 << 13, 1 << 13, 1 << 13]
# Protocol, flags of a group as far as they are KEPT, zone of the original direction, seconds left,
# and the ports of the original and of the translated destination; then both, packed.
HEAD = struct.Struct(">BBHIHH")
KEPT = SEEN_REPLY | ASSURED
NEARLY_ALL = 0.95
RECENT = 10  # seconds
JUST_NOW = 3  # seconds


class Translation(NamedTuple):
    """The flows to one destination that are translated to one other.

    Attributes:
        protocol, zone: as numbers
        destination, port: where they were sent
        target, target_port: where they go
        renewed: flows without a reply that had a packet of late (Translations.groups)
        aged: flows without a reply and without such a packet
        replied: flows with a reply
        brief: those of them that ended within seconds, some time ago: they are new
        kept_alive: those of UDP that last and had a packet within seconds
    """

    protocol: int
    zone: int
    destination: bytes
    port: int
    target: bytes
    target_port: int
    renewed: int = 0
    aged: int = 0
    replied: int = 0
    brief: int = 0
    kept_alive: int = 0

    @property
    def translated(self) -> bool:
        """Return whether they go elsewhere than they were sent to."""
        return (self.destination, self.port) != (self.target, self.target_port)

    @property
    def sent_to(self) -> tuple[int, int, bytes, int]:
        """Return what all translations of one destination have in common."""
        return self.protocol, self.zone, self.destination, self.port


class Answers(NamedTuple):
    """The UDP flows to one destination that were answered: how many, and how many just now."""

    entries: int = 0
    recent: int = 0


class Translations:
    """The flows of one tally that may have a stale translation, and those that tell of it.

    Attributes:
        counts: by UNREPLIED, REPLIED, UNTRANSLATED and ANSWERED: entries by HEAD and both
            destinations; of TCP only those in SYN_SENT
        counted: how many of each there are
    """

    __slots__ = ("counted", "counts")

    def __init__(self) -> None:
        """Start empty."""
        self.counts: list[collections.Counter[bytes]] = [collections.Counter() for _ in MOST]
        self.counted = [0 for _ in MOST]

    def full(self, kind: int) -> bool:
        """Return whether enough of them was counted."""
        return self.counted[kind] >= MOST[kind]

    def add(self, entry: Entry) -> None:
        """Count one entry, if it is of interest."""
        original, reply, protocol = entry.original, entry.reply, entry.protocol
        kind = REPLIED if not entry.unreplied else UNREPLIED
        if not entry.destination_translated:
            kind = UNTRANSLATED if entry.unreplied else ANSWERED
        if (
            entry.timeout is None
            or original.destination_port is None
            or reply.source_port is None
            or not is_counted(protocol, entry.state, kind, replied=not entry.unreplied)
            or self.full(kind)
        ):
            return
        zone = entry.zone if original.zone is None else original.zone
        ports = original.destination_port, reply.source_port
        head = HEAD.pack(protocol, entry.status & KEPT, zone, entry.timeout, *ports)
        self.counts[kind][head + original.destination + reply.source] += 1
        self.counted[kind] += 1

    def feed(self, columns: Sequence[Column], number: int, kind: int) -> None:
        """Count so many entries whose keys stand in columns."""
        self.feed_keys(slices(weave(columns, number), len(columns)), number, kind)

    def feed_keys(self, keys: Iterable[bytes], number: int, kind: int) -> None:
        """Count so many entries by their keys."""
        self.counts[kind].update(keys)
        self.counted[kind] += number

    def longest(self, protocol: int) -> int:
        """Return the most seconds that a flow without a reply has left; 0 for none."""
        keys = itertools.chain(self.counts[UNREPLIED], self.counts[UNTRANSLATED])
        heads = map(HEAD.unpack_from, keys)
        return max((head[3] for head in heads if head[0] == protocol), default=0)

    def targets(
        self, protocol: int, zone: int, destination: bytes, port: int
    ) -> list[tuple[bytes, int, float]]:
        """Return where flows without a reply to a destination go, the most first.

        Each is an address, a port, and their percentage. Only one where nearly all go there.
        """
        counts: collections.Counter[tuple[bytes, int]] = collections.Counter()
        asked = protocol, zone, destination, port
        for key, count in self.counts[UNREPLIED].items():
            group, _, _ = _taken_apart(key)
            if group[:4] == asked:
                counts[group[4:]] += count
        total = sum(counts.values())
        found = [(*target, 100 * count / total) for target, count in counts.most_common()]
        return found[:1] if found and found[0][2] >= 100 * NEARLY_ALL else found

    def answers(
        self, protocol: int, zone: int, destination: bytes, port: int, timeout: int
    ) -> Answers:
        """Return the flows to a destination that were answered.

        timeout: udp_timeout in seconds. A flow that is not assured and has nearly all of it left
        was answered within JUST_NOW seconds (see groups). One that is assured does not tell when.
        """
        number = recent = 0
        asked = protocol, zone, destination, port
        answered = (self.counts[kind].items() for kind in (REPLIED, ANSWERED))
        for key, count in itertools.chain.from_iterable(answered):
            group, seconds, flags = _taken_apart(key)
            if group[:4] == asked:
                number += count
                if not flags & ASSURED and timeout - JUST_NOW <= seconds <= timeout:
                    recent += count
        return Answers(number, recent)

    def groups(self, renewed: Mapping[int, int], stream: int = 0) -> list[Translation]:
        """Return the translations of destinations to which flows without a reply are sent.

        Those of other destinations are returned if they have flows that are kept alive.
        renewed: by protocol, the seconds that a flow has left at least if it had a packet of late.
        stream: the timeout of UDP flows that last, in seconds; 0 for none.
        udp_packet() of nf_conntrack_proto_udp.c makes a flow assured when it was answered and is
        older than 2 s. One that was answered and is not assured was made as long ago as its last
        packet came, or 2 s before.
        """
        found: dict[tuple[int, int, bytes, int, bytes, int], list[int]] = {}
        unanswered = (self.counts[kind].items() for kind in (UNREPLIED, UNTRANSLATED))
        for key, count in itertools.chain.from_iterable(unanswered):
            group, seconds, _ = _taken_apart(key)
            counts = found.setdefault(group, [0, 0, 0, 0, 0])
            counts[seconds < renewed[group[0]]] += count
        asked = {group[:4] for group in found}
        for key, count in self.counts[REPLIED].items():
            group, seconds, flags = _taken_apart(key)
            # Who has more left had no packet since the timeout was lowered.
            lasts = group[0] == IPPROTO_UDP and flags & ASSURED
            kept_alive = lasts and 0 < stream - RECENT <= seconds <= stream
            if kept_alive or group[:4] in asked:
                counts = found.setdefault(group, [0, 0, 0, 0, 0])
                counts[2] += count
                counts[4] += count if kept_alive else 0
                if not flags & ASSURED and seconds < renewed[group[0]]:
                    counts[3] += count
        return [Translation(*group, *counts) for group, counts in found.items()]


def is_counted(protocol: int, state: int | None, kind: int, *, replied: bool) -> bool:
    """Return whether flows of a protocol and state are of interest."""
    if kind in (UNTRANSLATED, ANSWERED):
        return protocol == IPPROTO_UDP and replied == (kind == ANSWERED)
    return protocol == IPPROTO_UDP or (
        protocol == IPPROTO_TCP and state == ct.TCP_CONNTRACK_SYN_SENT
    )


def _taken_apart(key: bytes) -> tuple[tuple[int, int, bytes, int, bytes, int], int, int]:
    """Return what tells translations apart, the seconds left, and the flags."""
    protocol, flags, zone, seconds, port, target_port = HEAD.unpack_from(key)
    middle = (len(key) + HEAD.size) // 2
    group = protocol, zone, key[HEAD.size : middle], port, key[middle:], target_port
    return group, seconds, flags
