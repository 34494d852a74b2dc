"""Dumps made by hand: what the kernel would send for entries a test describes."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from check_conntrack.flows.netlink import DumpStatus, entry_at, messages
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel import netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from check_conntrack.flows import tally
    from check_conntrack.flows.entry import Entry

# A busy machine is no fault of the code under test.
settings.register_profile("flows", deadline=None)
settings.load_profile("flows")

SEQUENCE, PORT_ID = 0x5EED, 4711
V4 = bytes((10, 0, 0, 1)), bytes((192, 0, 2, 9))
V6 = bytes.fromhex("20010db8" + "0" * 23 + "1"), bytes.fromhex("20010db8" + "0" * 23 + "2")


def packed(kind: int, value: int, size: int) -> bytes:
    return ct.attribute(kind, value.to_bytes(size, "big"))


def tuple_(
    kind: int,
    source: bytes,
    destination: bytes,
    protocol: int,
    one: int | None = None,
    two: int | None = None,
    zone: int | None = None,
) -> bytes:
    base = ct.CTA_IP_V4_SRC if len(source) == 4 else ct.CTA_IP_V6_SRC
    ports = []
    if protocol in (1, 58):
        icmp = ct.CTA_PROTO_ICMP_ID if protocol == 1 else ct.CTA_PROTO_ICMPV6_ID
        ports = [packed(icmp, one or 0, 2), packed(icmp + 1, 8, 1), packed(icmp + 2, 0, 1)]
    elif one is not None and two is not None:
        ports = [packed(ct.CTA_PROTO_SRC_PORT, one, 2), packed(ct.CTA_PROTO_DST_PORT, two, 2)]
    parts = [
        ct.nested(ct.CTA_TUPLE_IP, ct.attribute(base, source), ct.attribute(base + 1, destination)),
        ct.nested(ct.CTA_TUPLE_PROTO, packed(ct.CTA_PROTO_NUM, protocol, 1), *ports),
    ]
    if zone is not None:
        parts.append(packed(ct.CTA_TUPLE_ZONE, zone, 2))
    return ct.nested(kind, *parts)


def entry(
    source: bytes = V4[0],
    destination: bytes = V4[1],
    protocol: int = 6,
    sport: int | None = 40000,
    dport: int | None = 443,
    *,
    status: int = ct.IPS_CONFIRMED | ct.IPS_SEEN_REPLY | ct.IPS_ASSURED,
    state: int | None = None,
    timeout: int | None = 300,
    zone: int | None = None,
    zones: tuple[int | None, int | None] = (None, None),
    reply: tuple[bytes, bytes, int | None, int | None] | None = None,
    more: Iterable[bytes] = (),
    flags: int = netlink.NLM_F_MULTI,
) -> bytes:
    """One message of a dump. reply: source, destination, source port, destination port.

    zone: of both directions; zones: of each alone.
    """
    back = reply or (destination, source, dport, sport)
    if protocol in (1, 58) and reply is None:
        back = (destination, source, sport, sport)
    parts = [
        tuple_(ct.CTA_TUPLE_ORIG, source, destination, protocol, sport, dport, zones[0]),
        tuple_(ct.CTA_TUPLE_REPLY, back[0], back[1], protocol, back[2], back[3], zones[1]),
        packed(ct.CTA_STATUS, status, 4),
    ]
    if timeout is not None:
        parts.append(packed(ct.CTA_TIMEOUT, timeout, 4))
    if state is not None:
        nest = {6: ct.CTA_PROTOINFO_TCP, 33: ct.CTA_PROTOINFO_DCCP, 132: ct.CTA_PROTOINFO_SCTP}
        inner = ct.nested(nest.get(protocol, ct.CTA_PROTOINFO_TCP), packed(1, state, 1))
        parts.append(ct.nested(ct.CTA_PROTOINFO, inner))
    if zone is not None:
        parts.append(packed(ct.CTA_ZONE, zone, 2))
    return answer(b"".join([*parts, *more]), family=2 if len(source) == 4 else 10, flags=flags)


def answer(
    payload: bytes, *, family: int = 2, kind: int = 0x100, flags: int = netlink.NLM_F_MULTI
) -> bytes:
    length = 20 + len(payload)
    head = netlink.NLMSGHDR.pack(length, kind, flags, SEQUENCE, PORT_ID)
    return head + ct.NFGENMSG.pack(family, 0, 0) + payload


def done(code: int = 0) -> bytes:
    return netlink.NLMSGHDR.pack(20, netlink.NLMSG_DONE, 2, SEQUENCE, PORT_ID) + struct.pack(
        "=i", code
    )


def error(code: int) -> bytes:
    head = netlink.NLMSGHDR.pack(36, netlink.NLMSG_ERROR, 0, SEQUENCE, PORT_ID)
    return head + struct.pack("=i", -code) + bytes(16)


_FEW_PORTS = st.sampled_from([53, 80, 443, 0, 65535, 40000])
_MORE = st.lists(
    st.sampled_from(
        [
            packed(ct.CTA_MARK, 7, 4),
            packed(ct.CTA_USE, 1, 4),
            packed(99, 1, 4),
            ct.attribute(ct.CTA_LABELS, bytes(16)),
            ct.nested(ct.CTA_HELP, ct.attribute(ct.CTA_HELP_NAME, b"ftp\0")),
            ct.nested(ct.CTA_HELP, ct.attribute(ct.CTA_HELP_NAME, b"pptp\0")),
            ct.nested(ct.CTA_TIMESTAMP, packed(ct.CTA_TIMESTAMP_START, 5, 8)),
            tuple_(ct.CTA_TUPLE_MASTER, *V4, 6, 1, 2),
        ]
    ),
    max_size=2,
)


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    """Messages of few addresses and many kinds, so that shapes repeat and values meet."""
    make = draw(st.sampled_from([4, 4, 4, 6]))
    last = draw(st.integers(0, 3))
    hosts = [
        (bytes((10, 0, n, 1)) if make == 4 else bytes.fromhex("20010db8") + bytes(11) + bytes([n]))
        for n in (last, draw(st.integers(0, 3)), 7)
    ]
    protocol = draw(st.sampled_from([6, 6, 6, 17, 17, 1, 58, 132, 33, 47, 136, 99]))
    ports: tuple[Any, Any] = draw(_FEW_PORTS), draw(_FEW_PORTS)
    if protocol == 99:
        ports = None, None
    reply = None
    if draw(st.booleans()) and protocol not in (1, 58):
        reply = (
            draw(st.sampled_from(hosts)),
            draw(st.sampled_from(hosts)),
            ports[1] if draw(st.booleans()) or ports[0] is None else draw(_FEW_PORTS),
            ports[0],
        )
    return entry(
        hosts[0], hosts[1], protocol, *ports,
        status=draw(st.sampled_from([0, 1, 2, 6, 7, 0x1E, 0x4006, 0xC00E, 0xFFFF])),
        state=draw(st.integers(0, 10)) if protocol in (6, 33, 132) else None,
        timeout=draw(st.sampled_from([None, 0, 5, 431999, 2**24 - 1, 2**32 - 1])),
        zone=draw(st.sampled_from([None, None, 0, 5])),
        zones=draw(st.sampled_from([(None, None)] * 3 + [(5, None), (None, 6), (0, 7)])),
        reply=reply,
        more=draw(_MORE),
    )  # fmt: skip


@st.composite
def dumps(draw: st.DrawFn, most: int = 40) -> list[bytes]:
    """A dump in batches: entries that repeat, in any order, and its end."""
    kinds = draw(st.lists(entries(), min_size=1, max_size=6))
    chosen = draw(st.lists(st.sampled_from(kinds), max_size=most))
    cut = draw(st.integers(0, len(chosen)))
    return [b"".join(part) for part in (chosen[:cut], chosen[cut:]) if part] + [done()]


@st.composite
def damaged(draw: st.DrawFn) -> list[bytes]:
    """A dump in which bytes were changed, or its end cut off."""
    batches = [bytearray(batch) for batch in draw(dumps())]
    for _ in range(draw(st.integers(1, 4))):
        batch = draw(st.sampled_from(batches))
        if batch:
            batch[draw(st.integers(0, len(batch) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        batch = draw(st.sampled_from(batches))
        del batch[draw(st.integers(0, len(batch))) :]
    return [bytes(batch) for batch in batches]


def decoded(batches: Iterable[bytes], status: DumpStatus | None = None) -> Iterator[Entry]:
    """Yield each entry of a dump as the general decoder reads it."""
    return map(entry_at, messages(batches, status or DumpStatus()))


LISTS = ("sources", "destinations", "services")
PLAIN = (
    *("read", "inbound", "outbound", "groups", "established_timeouts", "bad_lines"),
    *("zoned", "original_zones", "zones"),
)


def everything(one: tally.Tally) -> dict[str, object]:
    """All that a tally holds."""
    found: dict[str, object] = {name: getattr(one, name) for name in PLAIN}
    for name in LISTS:
        heavy = getattr(one, name)
        found[name] = (heavy.counts, heavy.total, heavy.error)
    found["unanswered"] = (one.unanswered.flows, one.unanswered.total)
    found["translations"] = (one.translations.counts, one.translations.counted)
    found["leaks"] = (one.leaks.flows, one.leaks.counted)
    found["pools"] = (one.pools.flows.counts, one.pools.flows.error, one.pools.ranges)
    return found
