"""Connections that nobody closes, on a server behind the router."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incidents.floods import LIMIT, NO_LARGER_LIMIT, healthy_clients, unharmed
from incidents.lab import Expect, Lab, first, incident
from support.packets import hosts

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
