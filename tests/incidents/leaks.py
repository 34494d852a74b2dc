"""Connections that nobody closes, or that do not finish closing, on a server behind the router."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from incidents.floods import LIMIT, NO_LARGER_LIMIT, healthy_clients, unharmed
from incidents.lab import Expect, Lab, first, incident
from incidents.nat import masquerade
from support.packets import ACK, FIN, handshakes, hosts, tcp
from support.router import ROUTER_LAN, ROUTER_WAN

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAKED = 3500
APPLICATION = "10.1.0.90"
ENDS = [(f"203.0.{8 + n // 250}.{n % 250 + 1}", 10_000 + n) for n in range(LEAKED)]


@incident(
    "CLOSE_WAIT leak behind the router",
    Expect(
        "table",
        "CRITICAL",
        says=("CLOSE_WAIT", r"10\.1\.0\.90", "tcp/8080|:8080"),
        below=("existing entries keep",),
        never=(*NO_LARGER_LIMIT, "flood", "scan"),
    ),
    ci=True,
)
def close_wait_leak(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    healthy_clients(lab)
    server = lab.server(8080)
    for one in server.connect(lab.clients, first(LEAKED, hosts("198.18.8.0/22")), APPLICATION):
        one.client.close()

    lab.wait_for_state("CLOSE_WAIT", LEAKED - 30)
    yield
    lab.paste(lab.step("conntrack -D").commands)
    assert not lab.router.entries("-p", "tcp", "--state", "CLOSE_WAIT")
    unharmed(lab)


@incident(
    "idle leak behind the router",
    Expect(
        "table",
        "CRITICAL",
        says=("idle", r"10\.1\.0\.90", "tcp/3306|:3306"),
        below=("existing entries keep",),
        never=(*NO_LARGER_LIMIT, "flood", "scan"),
    ),
)
def idle_leak(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    server = lab.server(3306)
    with lab.aged(132_000):
        server.connect(lab.clients, first(LEAKED, hosts("198.18.8.0/22")), APPLICATION)
    healthy_clients(lab)
    yield
    lab.paste(lab.step("conntrack -D").commands)
    assert not lab.router.entries("-p", "tcp", "--dport", "3306")
    unharmed(lab)


@incident(
    "CLOSE_WAIT leak beside a busy client of another service",
    Expect(
        "table",
        "CRITICAL",
        says=("CLOSE_WAIT", r"from 198\.18\.7\.8\b", r"to 10\.1\.0\.90 tcp/8080"),
        below=(r"198\.18\.5\.5",),
        never=(*NO_LARGER_LIMIT, "flood", "scan", "of all entries", "5 tcp/443"),
    ),
)
def close_wait_beside_busy(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    application, web = lab.server(8080), lab.server(443)
    for one in application.connect(lab.clients, ["198.18.7.8"] * 1600, APPLICATION):
        one.client.close()
    web.connect(lab.clients, ["198.18.5.5"] * 2100, "10.1.0.80")
    lab.wait_for_state("CLOSE_WAIT", 1600)
    yield
    lab.paste(lab.step("conntrack -D").commands)
    assert not lab.router.entries("-p", "tcp", "--state", "CLOSE_WAIT")
    assert len(lab.router.entries("-s", "198.18.5.5")) == 2100


@incident(
    "CLOSE_WAIT leak of a program of this host, as a client",
    Expect(
        "table",
        "WARNING|CRITICAL",
        says=("CLOSE_WAIT", r"from 10\.0\.0\.1\b", r"to 10\.1\.0\.54 tcp/5432"),
        below=(r"has not: there are 33\d\d sockets in CLOSE_WAIT",),
        never=(*NO_LARGER_LIMIT, "flood", "scan", "on the server", "of these from"),
    ),
)
def close_wait_of_own_client(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    server = lab.server(5432)
    for one in server.connect(lab.router, [ROUTER_LAN] * 3300, "10.1.0.54"):
        one.server.close()
    lab.wait_for_state("CLOSE_WAIT", 3300)
    yield
    assert "10.1.0.54:5432" in lab.paste(lab.step("ss -tanp").commands)


@incident(
    "idle leak to several services of one host, behind NAT",
    Expect(
        "table",
        "CRITICAL",
        says=("idle", r"to 10\.9\.0\.72\b"),
        below=("this frees 3450 entries now, of which 3450 are idle",),
        never=(*NO_LARGER_LIMIT, "flood", "scan"),
    ),
)
def idle_services(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    masquerade(lab)
    with lab.aged(40_000):
        for port in (5671, 5672, 61613):
            inside = ((f"203.0.8.{n % 200 + 1}", 10_000 + n) for n in range(1150))
            handshakes(lab.clients, lab.servers, inside, "10.9.0.72", port, seen=ROUTER_LAN)
    healthy_clients(lab)
    yield
    lab.paste(lab.step("conntrack -D").commands)
    assert not lab.router.entries("-d", "10.9.0.72")
    unharmed(lab)


@incident(
    "connections whose last packets take another way, FIN_WAIT",
    Expect(
        "table",
        "CRITICAL",
        says=(
            "do not finish closing",
            "FIN_WAIT",
            r"to 10\.9\.0\.80 tcp/443",
        ),
        below=(
            "no packet has passed here since",
            "asymmetric routes",
            "ss -tan state fin-wait-1 state fin-wait-2",
            r"nf_conntrack_tcp_timeout_fin_wait is 120 s \(kernel default 120 s\)",
        ),
        never=(*NO_LARGER_LIMIT, "flood", "scan", "no cause stands out", "only one direction"),
    ),
    Expect("usage", "CRITICAL", never=NO_LARGER_LIMIT),
    ci=True,
)
def fin_wait(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    healthy_clients(lab)
    silent = "10.9.0.80"
    handshakes(lab.clients, lab.servers, ENDS, silent, 443)
    lab.send(tcp(one, silent, port, 443, FIN | ACK, 101, 501) for one, port in ENDS)
    lab.wait_for_state("FIN_WAIT", LEAKED - 50)
    yield
    assert "via 10.0.0.2" in lab.paste(lab.step("do(es)? not finish").commands)
    lab.paste(lab.step("conntrack -D").commands)
    assert not lab.router.entries("-p", "tcp", "--state", "FIN_WAIT")
    unharmed(lab)
    step = lab.step("tcp_timeout_fin_wait")
    lab.paste(step.commands)
    handshakes(lab.clients, lab.servers, ENDS[:5], silent, 443)
    lab.send(tcp(one, silent, port, 443, FIN | ACK, 101, 501) for one, port in ENDS[:5])
    left = [int(line.split()[4]) for line in lab.router.entries("-d", silent)]
    assert left
    assert max(left) <= 30
    lab.paste(step.undo)


@incident(
    "server that vanishes while its clients close, LAST_ACK",
    Expect(
        "table",
        "CRITICAL",
        says=("do not finish closing", "LAST_ACK", r"to 10\.1\.0\.90 tcp/8080"),
        below=(
            "one has repeated it, and no acknowledgement has passed here since",
            "its FIN is not acknowledged, so the other end is gone or filtered",
            r"nf_conntrack_tcp_timeout_last_ack is 30 s",
        ),
        never=(*NO_LARGER_LIMIT, "flood", "scan", "no cause stands out"),
    ),
)
def last_ack(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    healthy_clients(lab)
    server = lab.server(8080)
    made = server.connect(lab.clients, first(LEAKED, hosts("198.18.8.0/22")), APPLICATION)
    lab.servers.nft(
        "table ip gone {\n chain input {\n type filter hook input priority 0;\n"
        "tcp dport 8080 drop\n }\n }\n"
    )
    for one in made:
        one.client.close()
    lab.wait_for_state("LAST_ACK", LEAKED - 50)
    yield
    states = lab.clients.run("sh", "-c", lab.step("ss -tan state").commands[0])
    assert states.count("FIN-WAIT-1") > LEAKED / 2, states[:300]
    lab.paste(lab.step("conntrack -D").commands)
    unharmed(lab)


@incident(
    "connections that clients reset",
    Expect(
        "table",
        "CRITICAL",
        says=("connections ended by a reset", "in CLOSE", r"to 10\.1\.0\.90 tcp/8080"),
        below=("Find out who resets them", "It is short already"),
        never=("flood", "scan", "no cause stands out"),
    ),
)
def resets(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    healthy_clients(lab)
    server = lab.server(8080)
    at_once = struct.pack("ii", 1, 0)
    for one in server.connect(lab.clients, first(LEAKED, hosts("198.18.8.0/22")), APPLICATION):
        one.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        one.client.close()
    lab.wait_for_state("CLOSE", LEAKED - 50)
    yield
    lab.paste(lab.step("conntrack -D").commands)
    assert not lab.router.entries("-p", "tcp", "--state", "CLOSE")
    unharmed(lab)


@incident(
    "one client that resets its connections to a translated server",
    Expect(
        "table",
        "CRITICAL",
        says=("ended by a reset", r"from 198\.18\.7\.7", r"to 198\.51\.100\.1 tcp/8080"),
        below=("or where that is translated to, of 198.18.7.7, and of load balancers",),
        never=("flood", "scan"),
    ),
)
def resets_of_one_client(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    healthy_clients(lab)
    lab.router.nft(
        "table ip behind {\n chain pre {\n type nat hook prerouting priority -100;\n"
        f"ip daddr {ROUTER_WAN} tcp dport 8080 dnat to 10.1.0.90\n }}\n }}\n"
    )
    server = lab.server(8080)
    at_once = struct.pack("ii", 1, 0)
    for one in server.connect(lab.clients, ["198.18.7.7"] * LEAKED, ROUTER_WAN):
        one.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        one.client.close()
    lab.wait_for_state("CLOSE", LEAKED - 50)
    yield
    lab.paste(lab.step("conntrack -D").commands)
    unharmed(lab)


@incident(
    "connections of which one direction passes here, FIN_WAIT",
    Expect(
        "table",
        "CRITICAL",
        says=("do not finish closing", r"to 10\.9\.0\.80 tcp/443"),
        below=("Of most of them only one direction passes here",),
        never=(*NO_LARGER_LIMIT, "flood", "scan"),
    ),
)
def one_direction(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    healthy_clients(lab)
    for flags in (ACK, FIN | ACK):
        lab.send(tcp(one, "10.9.0.80", port, 443, flags, 101, 501) for one, port in ENDS)
    lab.wait_for_state("FIN_WAIT", LEAKED - 50)
    yield
    lab.paste(lab.step("conntrack -D").commands)
    unharmed(lab)
