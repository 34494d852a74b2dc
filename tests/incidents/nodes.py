"""Hosts with more than one table: nodes, routers in namespaces, zones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incidents.floods import LIMIT
from incidents.lab import HOST, Expect, Lab, incident
from support import packets
from support.netns import Container, Namespace
from support.packets import ask, handshakes, hosts, tcp, udp

if TYPE_CHECKING:
    from collections.abc import Iterator


def pod(namespace: Namespace, entries: int) -> None:
    """Let a namespace track so many datagrams to itself."""
    namespace.ip("route add local 10.244.0.0/16 dev lo\n")
    namespace.track()
    packets.send(
        namespace, (udp("10.244.0.9", "10.244.1.5", 1024 + n, 8125) for n in range(entries))
    )
    assert namespace.count() >= entries


@incident(
    "node with 30 pods, one wild",
    Expect(
        "usage",
        "CRITICAL",
        says=(r"pod-wild", r"9\d\.\d%"),
        options=("--netns", "cct-pod-*"),
        where=HOST,
    ),
    Expect(
        "table",
        "CRITICAL",
        says=(r"pod-wild", r"10\.244\.0\.9", r"10\.244\.1\.5", "udp/8125|:8125"),
        options=("--netns", "cct-pod-*"),
        where=HOST,
    ),
)
def wild_pod(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    for number in range(30):
        pod(lab.enter(Namespace(f"cct-pod-{number}")), 20)
    wild = lab.enter(Namespace("cct-pod-wild"))
    pod(wild, LIMIT - 250)
    yield
    step = lab.step("conntrack -D")
    lab.paste(step.commands, where=HOST)
    assert wild.count() < 50


@incident(
    "wild container without a name",
    Expect(
        "usage",
        "CRITICAL",
        says=("sleep",),
        never=(r"namespace pid-\d+",),
        options=("--netns", "all"),
        where=HOST,
    ),
)
def nameless_container(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    pod(lab.enter(Container()), LIMIT - 250)
    yield


@incident(
    "router in a namespace full, host idle",
    Expect("usage", "OK", where=HOST),
    Expect(
        "usage",
        "CRITICAL",
        says=("cct-router", "full|at the limit"),
        options=("--netns", "all"),
        where=HOST,
    ),
    Expect("full", "CRITICAL", says=("cct-router", "drop"), options=("--netns", "all"), where=HOST),
    Expect(
        "table",
        "CRITICAL",
        says=("cct-router", r"10\.9\.0\.80", "tcp/443|:443"),
        options=("--netns", "cct-router"),
        where=HOST,
    ),
)
def router_full(lab: Lab) -> Iterator[None]:
    lab.limit(2048)
    lab.network_of("cct-router")
    lab.check("full", "--netns", "all", where=HOST)
    inside = hosts("203.0.8.0/22")
    pairs = ((next(inside), 1024 + n) for n in range(2048))
    handshakes(lab.clients, lab.servers, pairs, "10.9.0.80", 443)
    lab.send(tcp(next(inside), "10.9.0.80", 9000 + n, 443) for n in range(200))
    assert lab.router.count() == 2048
    yield


ZONES = """
table inet zones {
  chain prerouting {
    type filter hook prerouting priority raw;
    iifname "red" ct zone set 1
    iifname "blue" ct zone set 2
    iifname "lan" ct zone set 2
  }
}
"""
TENANT = "10.77.0.5"


@incident(
    "two tenants with one address in conntrack zones",
    Expect(
        "table",
        "CRITICAL",
        says=(r"10\.77\.0\.5", r"10\.9\.0\.80", "zone 1"),
        below=("zone 1", "zone 2"),
    ),
    Expect(
        "table",
        "CRITICAL",
        says=(r"; \d{4} of \d{4} entries match",),
        below=(r"^  10\.77\.0\.5 in zone 1 +\d{4} +\d+\.\d%$", r"^  1 +\d{4} +100\.0%$"),
        never=("zone 2",),
        options=("--zone", "1", "-v"),
    ),
    Expect(
        "table",
        "CRITICAL",
        says=("50 of \\d{4} entries match",),
        below=(r"^  udp +50 +100\.0%$", r"^  2 +50 +100\.0%$"),
        never=("zone 1", r"10\.9\.0\.80"),
        options=("--zone", "2", "-v"),
    ),
    Expect(
        "table",
        "CRITICAL",
        says=("zone 1",),
        below=("WARNING: top_zone_share 9", r"^  zone +entries +share$", r"^  1 +\d{4} +9\d"),
        options=("-w", "top_zone_share=50", "-v"),
    ),
)
def zones(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    red, blue = lab.enter(Namespace()), lab.enter(Namespace())
    for tenant, side in ((red, "red"), (blue, "blue")):
        lab.router.ip(
            f"link add {side} type veth peer name eth0 netns {tenant.name}\n"
            f"addr add 10.77.{1 if tenant is red else 2}.1/24 dev {side}\n"
            f"link set {side} up\n"
        )
        tenant.ip(
            f"addr add 10.77.{1 if tenant is red else 2}.2/24 dev eth0\n"
            f"addr add {TENANT}/32 dev lo\n"
            "link set eth0 up\n"
            f"route add default via 10.77.{1 if tenant is red else 2}.1\n"
        )
    lab.router.ip(f"route add {TENANT}/32 via 10.77.2.2\n")
    lab.router.nft(ZONES)
    server = lab.server(53, "10.1.0.53")
    for _ in range(50):
        assert ask(blue, server, TENANT)
    blue_entries = len(lab.router.entries("--zone", "2"))
    packets.send(red, (tcp(TENANT, "10.9.0.80", 1024 + n, 443) for n in range(LIMIT - 350)))
    lab.wait_for_entries(LIMIT - 330)
    yield
    step = lab.step("nft .*10")
    lab.paste_twice(step)
    lab.paste(lab.step("conntrack -D").commands)
    assert len(lab.router.entries("--zone", "1")) < 50
    assert len(lab.router.entries("--zone", "2")) == blue_entries
    assert ask(blue, server, TENANT)
