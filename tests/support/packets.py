"""Packets with any source address, sent through raw sockets, and sockets by the thousand."""

from __future__ import annotations

import itertools
import resource
import select
import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from support.netns import Namespace

SYN, ACK, RST, FIN = 2, 16, 4, 1
ESP, SCTP, ICMPV6 = 50, 132, 58
IP_FREEBIND = 15


class Packet(NamedTuple):
    """An IP packet, header included, and where it goes."""

    destination: str
    data: bytes


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def packet(source: str, destination: str, protocol: int, payload: bytes, at: int = -1) -> Packet:
    """Build a packet; `at` is where in the payload the Internet checksum belongs, -1 for none."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    if at >= 0:
        pseudo = addresses + struct.pack(">LHBB", len(payload), 0, 0, protocol)
        if protocol == socket.IPPROTO_ICMP:
            pseudo = b""
        value = _checksum(pseudo + payload) or 0xFFFF
        payload = payload[:at] + struct.pack(">H", value) + payload[at + 2 :]
    if ":" in source:
        header = struct.pack(">LHBB", 6 << 28, len(payload), protocol, 64)
    else:
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    return Packet(destination, header + addresses + payload)


def tcp(
    source: str,
    destination: str,
    sport: int,
    dport: int,
    flags: int = SYN,
    sequence: int = 1000,
    acknowledged: int = 0,
) -> Packet:
    """Build a TCP segment without data."""
    offset = 5 << 12 | flags
    header = struct.pack(">HHLLHHHH", sport, dport, sequence, acknowledged, offset, 64240, 0, 0)
    return packet(source, destination, socket.IPPROTO_TCP, header, 16)


def udp(source: str, destination: str, sport: int, dport: int, data: bytes = b"x") -> Packet:
    """Build a datagram."""
    header = struct.pack(">HHHH", sport, dport, 8 + len(data), 0)
    return packet(source, destination, socket.IPPROTO_UDP, header + data, 6)


def echo(source: str, destination: str, identity: int) -> Packet:
    """Build an ICMP echo request."""
    protocol, kind = (ICMPV6, 128) if ":" in source else (socket.IPPROTO_ICMP, 8)
    return packet(source, destination, protocol, struct.pack(">BBHHH", kind, 0, 0, identity, 1), 2)


def esp(source: str, destination: str, spi: int) -> Packet:
    """Build an ESP packet, whose content nobody can read."""
    return packet(source, destination, ESP, struct.pack(">LL", spi, 1) + bytes(32))


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def sctp_init(source: str, destination: str, sport: int, dport: int) -> Packet:
    """Build the first packet of an SCTP association."""
    chunk = struct.pack(">BBHLLHHL", 1, 0, 20, 0x1234, 65535, 1, 1, 1)
    header = struct.pack(">HHL", sport, dport, 0)
    crc = struct.pack("<L", _crc32c(header + bytes(4) + chunk))
    return packet(source, destination, SCTP, header + crc + chunk)


def send(namespace: Namespace, packets: Iterable[Packet]) -> int:
    """Send packets from a namespace; return how many."""
    number = 0
    with namespace.inside():
        four = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        six = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with four, six:
        for one in packets:
            if ":" in one.destination:
                six.sendto(one.data, (one.destination, 0))
            else:
                four.sendto(one.data, (one.destination, 0))
            number += 1
    return number


def hosts(network: str, first: int = 1) -> Iterator[str]:
    """Return the addresses of a network in order, without end: they begin again."""
    base, _, length = network.partition("/")
    start = ip_address(base)
    size = 1 << (start.max_prefixlen - int(length))
    return (str(start + (first + number) % size) for number in itertools.count())


def allow_many_sockets() -> None:
    """Allow this process as many descriptors as it may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Connection(NamedTuple):
    """Both ends of a TCP connection."""

    client: socket.socket
    server: socket.socket

    def close(self) -> None:
        """Close both ends, the client's first."""
        self.client.close()
        self.server.close()


class Server:
    """A server in a namespace: TCP, on every address where none is given, or UDP, on one."""

    def __init__(self, namespace: Namespace, port: int, address: str = "") -> None:
        allow_many_sockets()
        self.port, self.address = port, address
        kind = socket.SOCK_DGRAM if address else socket.SOCK_STREAM
        with namespace.inside():
            self.socket = socket.socket(socket.AF_INET, kind)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((address, port))
        if not address:
            self.socket.listen(4096)
        self.opened: list[Connection] = []

    def connect(
        self, namespace: Namespace, sources: Iterable[str], target: str, *, seconds: float = 5
    ) -> list[Connection]:
        """Open a connection from each source address; both ends are kept open."""
        made = []
        with namespace.inside():
            for source in sources:
                client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                client.settimeout(seconds)
                client.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
                client.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
                try:
                    client.bind((source, 0))
                    client.connect((target, self.port))
                except BaseException:
                    client.close()
                    raise
                made.append(Connection(client, self.socket.accept()[0]))
        self.opened += made
        return made

    def answer(self) -> int:
        """Answer the datagrams that have arrived; return how many."""
        number = 0
        while True:
            try:
                data, sender = self.socket.recvfrom(2048, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return number
            self.socket.sendto(data, sender)
            number += 1

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.opened:
            one.close()
        self.socket.close()


def connects(namespace: Namespace, source: str, target: str, port: int, seconds: float = 2) -> bool:
    """Return whether a new TCP connection can be opened."""
    with namespace.inside():
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with client:
        client.settimeout(seconds)
        client.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        client.bind((source, 0))
        try:
            client.connect((target, port))
        except OSError:
            return False
        return True


def ask(namespace: Namespace, server: Server, source: str, target: str, seconds: float = 2) -> bool:
    """Return whether a datagram to a server is answered."""
    with namespace.inside():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client:
        client.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        client.bind((source, 0))
        client.sendto(b"?", (target, server.port))
        select.select([server.socket], [], [], seconds)
        server.answer()
        return bool(select.select([client], [], [], seconds)[0])
