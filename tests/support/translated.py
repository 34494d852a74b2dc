"""Entries whose destination is translated, as the kernel sends them."""

from __future__ import annotations

from check_conntrack.flows import bulk, tally
from check_conntrack.flows.netlink import entry_at
from check_conntrack.kernel import ctnetlink as ct
from support import flows_dump as dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

CONFIRMED = ct.IPS_CONFIRMED
ANSWERED = CONFIRMED | ct.IPS_SEEN_REPLY
SERVICE, OLD, NEW = bytes((10, 96, 0, 10)), bytes((10, 244, 1, 9)), bytes((10, 244, 1, 10))
V6 = [bytes.fromhex("20010db8") + bytes(11) + bytes([n]) for n in range(3)]


def flow(
    number: int,
    to: bytes = OLD,
    *,
    status: int = CONFIRMED,
    protocol: int = 17,
    state: int | None = None,
    timeout: int | None = 28,
    zone: int | None = None,
    destination: bytes = SERVICE,
    target_port: int = 5353,
) -> bytes:
    """A flow of a source of its own to port 53 of a destination, translated to port 5353."""
    source = bytes((10, 0, number >> 8, number & 255)) if len(to) == 4 else V6[0][:-1] + b"\x99"
    return dump.entry(
        source,
        destination,
        protocol,
        20000 + number,
        53,
        status=status,
        state=state,
        timeout=timeout,
        zone=zone,
        reply=(to, source, target_port, 20000 + number),
    )


def slowly(messages: Iterable[bytes]) -> tally.Tally:
    """Return a tally to which each entry was added by itself."""
    one = tally.Tally()
    for message in messages:
        one.add(entry_at(message))
    return one


def columns(messages: Iterable[bytes]) -> tally.Tally:
    """Return a tally to which the entries were added by columns, as a dump is counted."""
    one = tally.Tally()
    bulk.count([b"".join(messages), dump.done()], one)
    return one
