"""Hosts in good order, some of them busy: no cause is named, no sysctl advised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incidents.lab import Expect, Lab, first, incident
from incidents.nat import masquerade
from support import packets
from support.netns import wait_until
from support.packets import ask, echo, hosts, tcp, udp
from support.router import ROUTER_LAN, ROUTER_WAN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.netns import Namespace

NOTHING = ("looks like", "flood", "scan", "leak", "churn", "dominat", "unreplied traffic")
OK = (
    Expect("table", "OK", never=(*NOTHING, r"^ *sysctl"), options=("-v",)),
    Expect("usage", "OK", never=(r"^ *sysctl", "raise the limit"), options=("-v",)),
)


def on_server(lab: Lab) -> Namespace:
    """Have the servers' host track connections itself."""
    lab.servers.track()
    return lab.servers


def of(where: str) -> tuple[Expect, ...]:
    """Return what is expected of the checks on the servers' host or the router."""
    return tuple(one._replace(where=where) for one in OK)


@incident("healthy web server", *of("servers"), ci=True)
def web_server(lab: Lab) -> Iterator[None]:
    lab.limit(4096)
    on_server(lab)
    server = lab.server(443)
    connections = server.connect(lab.clients, first(2000, hosts("198.18.8.0/22")), "10.1.0.80")
    for one in connections[:700]:
        one.close()
    lab.send(tcp("203.0.113.7", "10.1.0.80", 1024 + n, 443) for n in range(60))
    yield


@incident("healthy NAT gateway", *OK, ci=True)
def nat_gateway(lab: Lab) -> Iterator[None]:
    lab.limit(4096)
    masquerade(lab)
    web, dns = lab.server(443), lab.server(53, "10.1.0.53")
    targets = hosts("10.1.16.0/24")
    inside = hosts("198.18.8.0/25")
    for n in range(40):
        some = web.connect(lab.clients, first(40, inside), next(targets))
        for one in some[: n % 3 * 10]:
            one.close()
    lab.send(udp(next(inside), "10.96.0.53", 2000 + n, 53) for n in range(300))
    assert wait_until(dns.answer)
    lab.send(udp(next(inside), f"10.9.0.{n % 200 + 1}", 4000 + n, 443) for n in range(80))
    yield


@incident("healthy resolver", *of("servers"), ci=True)
def resolver(lab: Lab) -> Iterator[None]:
    lab.limit(4096)
    host = on_server(lab)
    dns = lab.server(53, "10.1.0.53")
    clients = hosts("198.18.8.0/22")
    for start in range(0, 1400, 200):
        lab.send(udp(next(clients), "10.1.0.53", 2000 + start + n, 53) for n in range(200))
        assert wait_until(dns.answer)
    with lab.router.inside():
        pass
    upstream = lab.enter(packets.Server(lab.clients, 53, "198.18.0.53"))
    for start in range(0, 600, 200):
        packets.send(
            host, (udp("10.1.0.53", "198.18.0.53", 20000 + start + n, 53) for n in range(200))
        )
        assert wait_until(upstream.answer)
    packets.send(host, (udp("10.1.0.53", f"203.0.113.{n + 1}", 30000 + n, 53) for n in range(100)))
    yield


@incident("healthy node", *OK)
def node(lab: Lab) -> Iterator[None]:
    lab.limit(4096)
    masquerade(lab)
    dns, service, probe = lab.server(53, "10.1.0.53"), lab.server(8080), lab.server(10254)
    pods = hosts("198.18.7.0/28")
    for n in range(60):
        some = service.connect(lab.clients, first(20, pods), f"10.1.7.{n % 30 + 1}")
        for one in some[:12]:
            one.close()
    for start in range(0, 600, 100):
        lab.send(udp(next(pods), "10.96.0.53", 2000 + start + n, 53) for n in range(100))
        assert wait_until(dns.answer)
    for one in probe.connect(lab.clients, first(200, pods), "10.1.7.1"):
        one.close()
    yield


@incident("healthy MQTT server with 20,000 clients", *of("servers"))
def mqtt_server(lab: Lab) -> Iterator[None]:
    lab.limit(32768)
    host = on_server(lab)
    server = lab.server(1883)
    with lab.aged(30_000, host):
        for number in range(4):
            sources = first(5000, hosts(f"198.18.{64 + 32 * number}.0/19"))
            lab.enter(server.held_by_child(lab.clients, sources, "10.1.0.18"))
    lab.wait_for_entries(20_000, host)
    yield


@incident("healthy monitoring server", *of("servers"))
def monitoring_server(lab: Lab) -> Iterator[None]:
    lab.limit(4096)
    host = on_server(lab)
    targets = first(400, hosts("198.18.8.0/22"))
    snmp = {}
    for one in targets[:300]:
        snmp[one] = lab.enter(packets.Server(lab.clients, 161, one))
        assert ask(host, snmp[one], "10.1.0.5")
    packets.send(host, (echo("10.1.0.5", one, n + 1) for n, one in enumerate(targets)))
    nrpe = lab.enter(packets.Server(lab.clients, 5666))
    for one in targets:
        nrpe.connect(host, ["10.1.0.5"], one)[0].close()
    # Some hosts are down.
    packets.send(host, (echo("10.1.0.5", f"203.0.113.{n + 1}", 900 + n) for n in range(40)))
    packets.send(host, (tcp("10.1.0.5", f"203.0.113.{n + 1}", 9000, 5666) for n in range(40)))
    yield


@incident(
    "flash crowd",
    *(
        Expect(check, "WARNING", never=NOTHING, where="servers", options=("-v",))
        for check in ("table", "usage")
    ),
    ci=True,
)
def flash_crowd(lab: Lab) -> Iterator[None]:
    lab.limit(4096)
    on_server(lab)
    server = lab.server(443)
    connections = server.connect(lab.clients, first(3300, hosts("198.18.8.0/21")), "10.1.0.80")
    for one in connections[:1200]:
        one.close()
    lab.send(tcp("203.0.113.7", "10.1.0.80", 1024 + n, 443) for n in range(150))
    lab.send(tcp(f"203.0.112.{n}", "10.1.0.80", 1024 + n, 443) for n in range(1, 100))
    yield


@incident(
    "flash crowd on a proxy",
    Expect("table", "WARNING", says=("the table may be too small",), never=NOTHING),
    Expect("usage", "WARNING", never=NOTHING),
)
def proxy(lab: Lab) -> Iterator[None]:
    lab.limit(4096)
    front, behind = lab.enter(packets.Server(lab.router, 443)), lab.server(8080)
    front.connect(lab.clients, first(1700, hosts("198.18.8.0/21")), ROUTER_WAN)
    for number in range(18):
        behind.connect(lab.router, [ROUTER_LAN] * 100, f"10.1.0.{number + 1}")
    yield
