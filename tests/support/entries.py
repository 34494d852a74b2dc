"""Messages that make entries in a table, by the million, as ctnetlink takes them."""

from __future__ import annotations

import random
import socket
import struct

from check_conntrack.flows.netlink import layout
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel import netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

NLM_F_CREATE = 0x400


def _addresses(source: bytes, destination: bytes) -> bytes:
    if len(source) == 4:
        kinds = ct.CTA_IP_V4_SRC, ct.CTA_IP_V4_DST
    else:
        kinds = ct.CTA_IP_V6_SRC, ct.CTA_IP_V6_DST
    return ct.nested(
        ct.CTA_TUPLE_IP, ct.attribute(kinds[0], source), ct.attribute(kinds[1], destination)
    )


def _ports(protocol: int, source: int, destination: int) -> bytes:
    number = ct.attribute(ct.CTA_PROTO_NUM, bytes([protocol]))
    if protocol in (1, 58):
        base = ct.CTA_PROTO_ICMP_ID if protocol == 1 else ct.CTA_PROTO_ICMPV6_ID
        return ct.nested(
            ct.CTA_TUPLE_PROTO,
            number,
            ct.attribute(base, struct.pack(">H", source)),
            ct.attribute(base + 1, bytes([destination])),
            ct.attribute(base + 2, b"\0"),
        )
    return ct.nested(
        ct.CTA_TUPLE_PROTO,
        number,
        ct.attribute(ct.CTA_PROTO_SRC_PORT, struct.pack(">H", source)),
        ct.attribute(ct.CTA_PROTO_DST_PORT, struct.pack(">H", destination)),
    )


# ICMP request and reply types, for the reply tuple of an echo.
_ICMP_REPLY = {1: (8, 0), 58: (128, 129)}


def new_entry(
    source: bytes,
    destination: bytes,
    protocol: int,
    source_port: int = 0,
    destination_port: int = 0,
    *,
    state: int = 0,
    status: int = 0,
    timeout: int = 600,
    snat: bytes | None = None,
    snat_port: int | None = None,
    mark: int = 0,
    zone: int = 0,
    helper: str = "",
) -> bytes:
    """An IPCTNL_MSG_CT_NEW message that makes this entry; ICMP takes its id as source port.

    With `snat` the entry is translated as a masquerading rule would: CTA_NAT_SRC.
    """
    reply_ports = destination_port, source_port
    original_ports = source_port, destination_port
    if protocol in _ICMP_REPLY:
        asked, answered = _ICMP_REPLY[protocol]
        original_ports, reply_ports = (source_port, asked), (source_port, answered)
    parts = [
        ct.nested(
            ct.CTA_TUPLE_ORIG,
            _addresses(source, destination),
            _ports(protocol, *original_ports),
        ),
        ct.nested(
            ct.CTA_TUPLE_REPLY,
            _addresses(destination, source),
            _ports(protocol, *reply_ports),
        ),
        ct.attribute(ct.CTA_STATUS, struct.pack(">I", status | ct.IPS_CONFIRMED)),
        ct.attribute(ct.CTA_TIMEOUT, struct.pack(">I", timeout)),
        ct.attribute(ct.CTA_MARK, struct.pack(">I", mark)),
    ]
    if state:
        parts.append(
            ct.nested(
                ct.CTA_PROTOINFO,
                ct.nested(
                    ct.CTA_PROTOINFO_TCP,
                    ct.attribute(ct.CTA_PROTOINFO_TCP_STATE, bytes([state])),
                ),
            )
        )
    if snat is not None:
        nat = [ct.attribute(1, snat), ct.attribute(2, snat)]
        if snat_port is not None:
            port = struct.pack(">H", snat_port)
            nat.append(ct.nested(3, ct.attribute(1, port), ct.attribute(2, port)))
        parts.append(ct.nested(ct.CTA_NAT_SRC, *nat))
    if zone:
        parts.append(ct.attribute(ct.CTA_ZONE, struct.pack(">H", zone)))
    if helper:
        name = helper.encode() + b"\0"
        parts.append(ct.nested(ct.CTA_HELP, ct.attribute(ct.CTA_HELP_NAME, name)))
    family = socket.AF_INET if len(source) == 4 else socket.AF_INET6
    return ct.message(
        ct.IPCTNL_MSG_CT_NEW, netlink.NLM_F_REQUEST | NLM_F_CREATE, 0, family, b"".join(parts)
    )


TCP_TIMEOUTS = {1: 120, 2: 60, 3: 432000, 4: 120, 5: 60, 6: 30, 7: 120, 8: 10, 9: 120}
BOTH_WAYS = ct.IPS_SEEN_REPLY | ct.IPS_ASSURED


def mixed_entries(total: int, sources: int, seed: int = 3) -> Iterator[bytes]:
    """`total` NEW messages as a busy gateway has them.

    Two thirds TCP in all states, a tenth IPv6, `sources` distinct source addresses, a tenth
    translated, some in zones, marked. No two alike; the order is by number.
    """
    rng = random.Random(seed)
    pick = rng.random
    states = [3] * 10 + [7] * 6 + [1] * 3 + [2, 4, 5, 6, 8]
    services = [443] * 8 + [80] * 4 + [53, 22, 5432, 25]
    for number in range(total):
        v6 = number % 10 == 9
        # A tenth of the flows come from eight busy sources, the rest spread evenly.
        host = rng.randrange(8) if pick() < 0.1 else number % sources
        port = 1024 + (number // sources * 7919 + number) % 64512
        server = rng.randrange(2000)
        if v6:
            source = bytes.fromhex("20010db8000000010000") + struct.pack(">HI", 0, host)
            destination = bytes.fromhex("20010db8000000020000") + struct.pack(">HI", 0, server)
        else:
            source = struct.pack(">I", 0x0A000000 + host)
            destination = struct.pack(">I", 0xC6120000 + server)
        extra: dict[str, object] = {}
        if number % 20 == 5:
            extra["zone"] = 1 + number % 3
        if number % 16 == 3:
            extra["mark"] = number % 5
        kind = pick()
        if kind < 0.667:
            state = states[rng.randrange(len(states))]
            status = 0 if state == 1 else ct.IPS_SEEN_REPLY if state == 2 else BOTH_WAYS
            if not v6 and not number % 10 and state != 1:
                extra["snat"] = bytes([203, 0, 113, number // 10 % 8])
            timeout = TCP_TIMEOUTS[state]
            yield new_entry(
                source, destination, 6, port, rng.choice(services),
                state=state, status=status, timeout=600 + int(timeout * pick()), **extra,
            )  # fmt: skip
        elif kind < 0.93:
            replied = pick()
            status = 0 if replied < 0.3 else ct.IPS_SEEN_REPLY if replied < 0.6 else BOTH_WAYS
            yield new_entry(
                source, destination, 17, port, 53 if pick() < 0.7 else 123,
                status=status, timeout=600 + int(180 * pick()), **extra,
            )  # fmt: skip
        elif kind < 0.98:
            yield new_entry(source, destination, 58 if v6 else 1, port, timeout=630, **extra)
        elif kind < 0.99:
            # The port stands in for the entry's number: UDP-Lite is "other".
            yield new_entry(source, destination, 136, port, 9, timeout=630, **extra)
        else:
            yield new_entry(source, destination, 47, port, port, timeout=630, **extra)


# Where an entry's source stands in both its tuples, and its source port, or what it has for one.
_SOURCES = (
    (ct.CTA_TUPLE_ORIG, ct.CTA_TUPLE_IP, (ct.CTA_IP_V4_SRC, ct.CTA_IP_V6_SRC)),
    (ct.CTA_TUPLE_REPLY, ct.CTA_TUPLE_IP, (ct.CTA_IP_V4_DST, ct.CTA_IP_V6_DST)),
)
_IDS = ct.CTA_PROTO_ICMP_ID, ct.CTA_PROTO_ICMPV6_ID
_PORTS = (
    (ct.CTA_TUPLE_ORIG, ct.CTA_TUPLE_PROTO, (ct.CTA_PROTO_SRC_PORT, *_IDS)),
    (ct.CTA_TUPLE_REPLY, ct.CTA_TUPLE_PROTO, (ct.CTA_PROTO_DST_PORT, *_IDS)),
)
BUSY = 8


def many_entries(total: int, sources: int, seed: int = 3) -> Iterator[bytes]:
    """As mixed_entries, many times as fast: each message comes again from other sources.

    What comes from a busy source comes from another port of it.
    """
    times = max(1, total // 10_000)
    step = max(BUSY, sources // times)
    for message in mixed_entries(total // times, step, seed):
        fields = layout(message).fields

        def found(which: Any, fields: Any = fields) -> list[tuple[int, int]]:
            paths = [(one, nest, kind) for one, nest, kinds in which for kind in kinds]
            return [fields[path] for path in paths if path in fields]

        places = found(_SOURCES)
        at, size = places[0]
        busy = int.from_bytes(message[at + size - 3 : at + size], "big") < BUSY
        if busy:
            places = found(_PORTS)
            at, size = places[0]
        first = int.from_bytes(message[at : at + size], "big")
        for number in range(times):
            value = 1024 + (first + number * 3001) % 64512 if busy else first + number * step
            copy = bytearray(message)
            for at, size in places:
                copy[at : at + size] = value.to_bytes(size, "big")
            yield bytes(copy)
