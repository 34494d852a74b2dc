"""Count flows with a translated destination, by where they were sent and where they go.

A translation is decided by the first packet of a flow, and kept as long as packets come: a client
that sends from one port goes on to a host that is gone. Counted are UDP, and TCP in SYN_SENT. Like
the unanswered flows of unanswered.py these serve a diagnosis: counting stops after so many entries.
Of 200,000 entries that are all translated, this takes a twentieth of the time of counting them.
"""

from __future__ import annotations

import collections
import struct

from check_conntrack.flows.columns import slices, weave
from check_conntrack.flows.entry import IPPROTO_TCP, IPPROTO_UDP, Entry
from check_conntrack.flows.groups import ASSURED, SEEN_REPLY
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from check_conntrack.flows.columns import Column

MOST_UNREPLIED = 1 << 15
MOST_REPLIED = 1 << 13  # only whether new flows go to a target, and are answered, is asked of them
PROTOCOLS = frozenset((IPPROTO_TCP, IPPROTO_UDP))
# Protocol, flags of a group as far as they are KEPT, zone of the original direction, seconds left,
# and the ports of the original and of the translated destination; then both, packed.
HEAD = struct.Struct(">BBHIHH")
KEPT = SEEN_REPLY | ASSURED
NEARLY_ALL = 0.95


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

    @property
    def sent_to(self) -> tuple[int, int, bytes, int]:
        """Return what all translations of one destination have in common."""
        return self.protocol, self.zone, self.destination, self.port


class Translations:
    """The flows of one tally whose destination is translated.

    Attributes:
        unreplied, replied: entries by HEAD and both destinations; of TCP only those in SYN_SENT
        counted: how many of each there are
    """

    __slots__ = ("counted", "replied", "unreplied")

    def __init__(self) -> None:
        """Start empty."""
        self.unreplied: collections.Counter[bytes] = collections.Counter()
        self.replied: collections.Counter[bytes] = collections.Counter()
        self.counted = [0, 0]

    def full(self, *, replied: bool) -> bool:
        """Return whether enough of them was counted."""
        return self.counted[replied] >= (MOST_REPLIED if replied else MOST_UNREPLIED)

    def add(self, entry: Entry) -> None:
        """Count one entry with a translated destination, if it is of interest."""
        original, reply, replied = entry.original, entry.reply, not entry.unreplied
        if (
            entry.protocol not in PROTOCOLS
            or entry.timeout is None
            or original.destination_port is None
            or reply.source_port is None
            or (entry.protocol == IPPROTO_TCP and entry.state != ct.TCP_CONNTRACK_SYN_SENT)
            or self.full(replied=replied)
        ):
            return
        zone = entry.zone if original.zone is None else original.zone
        ports = original.destination_port, reply.source_port
        flags = entry.status & KEPT
        head = HEAD.pack(entry.protocol, flags, zone, entry.timeout, *ports)
        counts = self.replied if replied else self.unreplied
        counts[head + original.destination + reply.source] += 1
        self.counted[replied] += 1

    def feed(self, columns: Sequence[Column], number: int, *, replied: bool) -> None:
        """Count so many entries whose keys stand in columns."""
        self.feed_keys(slices(weave(columns, number), len(columns)), number, replied=replied)

    def feed_keys(self, keys: Iterable[bytes], number: int, *, replied: bool) -> None:
        """Count so many entries by their keys."""
        counts = self.replied if replied else self.unreplied
        counts.update(keys)
        self.counted[replied] += number

    def longest(self, protocol: int) -> int:
        """Return the most seconds that a flow without a reply has left; 0 for none."""
        heads = (HEAD.unpack_from(key) for key in self.unreplied)
        return max((head[3] for head in heads if head[0] == protocol), default=0)

    def target(
        self, protocol: int, zone: int, destination: bytes, port: int
    ) -> tuple[bytes, int] | None:
        """Return where nearly all flows without a reply to a destination go: address and port.

        None where they go to several, or none was counted.
        """
        counts: collections.Counter[tuple[bytes, int]] = collections.Counter()
        asked = protocol, zone, destination, port
        for key, count in self.unreplied.items():
            group, _, _ = _taken_apart(key)
            if group[:4] == asked:
                counts[group[4:]] += count
        if not counts:
            return None
        target, most = counts.most_common(1)[0]
        return target if most >= NEARLY_ALL * sum(counts.values()) else None

    def groups(self, renewed: Mapping[int, int]) -> list[Translation]:
        """Return the translations of all destinations to which flows without a reply are sent.

        renewed: by protocol, the seconds that a flow has left at least if it had a packet of late.
        udp_packet() of nf_conntrack_proto_udp.c makes a flow assured when it was answered and is
        older than 2 s. One that was answered and is not assured was made as long ago as its last
        packet came, or 2 s before.
        """
        found: dict[tuple[int, int, bytes, int, bytes, int], list[int]] = {}
        for key, count in self.unreplied.items():
            group, seconds, _ = _taken_apart(key)
            counts = found.setdefault(group, [0, 0, 0, 0])
            counts[seconds < renewed[group[0]]] += count
        asked = {group[:4] for group in found}
        for key, count in self.replied.items():
            group, seconds, flags = _taken_apart(key)
            if group[:4] in asked:
                counts = found.setdefault(group, [0, 0, 0, 0])
                counts[2] += count
                if not flags & ASSURED and seconds < renewed[group[0]]:
                    counts[3] += count
        return [Translation(*group, *counts) for group, counts in found.items()]


def _taken_apart(key: bytes) -> tuple[tuple[int, int, bytes, int, bytes, int], int, int]:
    """Return what tells translations apart, the seconds left, and the flags."""
    protocol, flags, zone, seconds, port, target_port = HEAD.unpack_from(key)
    middle = (len(key) + HEAD.size) // 2
    group = protocol, zone, key[HEAD.size : middle], port, key[middle:], target_port
    return group, seconds, flags
