"""Packets with any source address, sent through raw sockets, and sockets by the thousand."""

from __future__ import annotations

import contextlib
import itertools
import os
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
IP_BIND_ADDRESS_NO_PORT = 24


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


def readable(sock: socket.socket, seconds: float) -> bool:
    """Wait until something can be read; return whether it can."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


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
        family = socket.AF_INET if "." in address else socket.AF_INET6
        with namespace.inside():
            self.socket = socket.socket(family, kind)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((address, port))
        if address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        else:
            self.socket.listen(4096)
        self.opened: list[Connection] = []

    def connect(
        self, namespace: Namespace, sources: Iterable[str], target: str, *, seconds: float = 5
    ) -> list[Connection]:
        """Open a connection from each source address; both ends are kept open."""
        made = []
        self.forget()
        with namespace.inside():
            for source in sources:
                client = _client(source, socket.SOCK_STREAM)
                client.settimeout(seconds)
                try:
                    client.connect((target, self.port))
                except BaseException:
                    client.close()
                    raise
                made.append(Connection(client, self.socket.accept()[0]))
        self.opened += made
        return made

    @contextlib.contextmanager
    def held_by_child(
        self, namespace: Namespace, sources: Iterable[str], target: str
    ) -> Iterator[None]:
        """Have a child process open connections and hold them: it may have its own descriptors."""
        ready, done = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            os.close(done[1])
            try:
                self.connect(namespace, sources, target)
                os.write(ready[1], b"y")
                os.read(done[0], 1)
            finally:
                os._exit(0)
        os.close(ready[1])
        os.close(done[0])
        try:
            assert os.read(ready[0], 1) == b"y", "the child could not connect"
            yield
        finally:
            os.close(ready[0])
            os.close(done[1])
            os.waitpid(child, 0)

    def forget(self) -> None:
        """Close connections that nobody has accepted."""
        while readable(self.socket, 0):
            self.socket.accept()[0].close()

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


def _client(source: str, kind: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    client = socket.socket(family, kind)
    client.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    client.bind((source, 0))
    return client


def connects(namespace: Namespace, source: str, target: str, port: int, seconds: float = 2) -> bool:
    """Return whether a new TCP connection can be opened."""
    with namespace.inside():
        client = _client(source, socket.SOCK_STREAM)
    with client:
        client.settimeout(seconds)
        try:
            client.connect((target, port))
        except OSError:
            return False
        return True


def ask(
    namespace: Namespace,
    server: Server,
    source: str,
    target: str = "",
    seconds: float = 2,
) -> bool:
    """Return whether a datagram to a server, or to an address that leads to it, is answered."""
    with namespace.inside():
        client = _client(source, socket.SOCK_DGRAM)
    with client:
        client.sendto(b"?", (target or server.address, server.port))
        readable(server.socket, seconds)
        server.answer()
        return readable(client, seconds)


def handshakes(
    clients: Namespace,
    servers: Namespace,
    pairs: Iterable[tuple[str, int]],
    target: str,
    port: int,
    seen: str = "",
) -> None:
    """Complete a TCP handshake for each source address and port, without a socket.

    Both ends have to be silent addresses. `seen` is the address that the target sees instead.
    """
    batches = iter(pairs)
    while batch := list(itertools.islice(batches, 500)):
        send(clients, (tcp(one, target, at, port, SYN, 100) for one, at in batch))
        answers = (tcp(target, seen or one, port, at, SYN | ACK, 500, 101) for one, at in batch)
        send(servers, answers)
        send(clients, (tcp(one, target, at, port, ACK, 101, 501) for one, at in batch))
