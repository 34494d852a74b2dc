"""Connections that nobody closes, on a server behind the router."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incidents.floods import LIMIT, NO_LARGER_LIMIT, healthy_clients, unharmed
from incidents.lab import Expect, Lab, first, incident
from incidents.nat import masquerade
from support.packets import handshakes, hosts
from support.router import ROUTER_LAN

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAKED = 3500
APPLICATION = "10.1.0.90"


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
