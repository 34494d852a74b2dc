"""Translated connections: churn, DNS, and source-NAT port pools that run out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incidents.floods import LIMIT, NO_LARGER_LIMIT, WEB
from incidents.lab import Expect, Lab, first, incident, steps
from support.netns import wait_until
from support.packets import ask, connects, handshakes, hosts, tcp, udp
from support.router import ROUTER_LAN

if TYPE_CHECKING:
    from collections.abc import Iterator

MASQUERADE = """
table ip translation {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname "lan" PORTS
  }
  chain prerouting {
    type nat hook prerouting priority dstnat;
    ip daddr 10.96.0.53 udp dport 53 dnat to 10.1.0.53
  }
}
"""


def masquerade(lab: Lab, how: str = "masquerade") -> None:
    """Have the router translate what goes to the servers."""
    lab.clients.ip("route add 10.96.0.0/16 via 198.51.100.1\n")
    lab.router.nft(MASQUERADE.replace("PORTS", how))


@incident(
    "HTTP churn through NAT",
    Expect(
        "table",
        "CRITICAL",
        says=("TIME_WAIT", r"10\.1\.0\.80", "tcp/80|:80"),
        below=("existing entries keep", "keep-alive"),
        never=("flood", "scan", "leak"),
    ),
)
def http_churn(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    masquerade(lab)
    server = lab.server(80)
    clients = hosts("198.18.8.0/24")
    for _ in range(37):
        for one in server.connect(lab.clients, first(100, clients), WEB):
            one.close()
    lab.wait_for_state("TIME_WAIT", 3670)
    yield
    for step in steps(lab.answers["table"].lines):
        lab.paste(step.commands)
    assert len(server.connect(lab.clients, first(20, clients), WEB)) == 20


@incident(
    "DNS through DNAT and masquerade",
    Expect(
        "table",
        "CRITICAL",
        says=("DNS", r"198\.18\.7\.7\b", r"10\.96\.0\.53|10\.1\.0\.53"),
        never=("notrack", "flood", "scan"),
    ),
    ci=True,
)
def dns_churn(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    masquerade(lab)
    server = lab.server(53, "10.1.0.53")
    for start in range(0, 3700, 100):
        lab.send(udp("198.18.7.7", "10.96.0.53", 2000 + start + n, 53) for n in range(100))
        assert wait_until(server.answer)
    lab.wait_for_entries(3670)
    yield
    for step in steps(lab.answers["table"].lines):
        lab.paste(step.commands)
        assert ask(lab.clients, server, "198.18.7.8", "10.96.0.53"), step


@incident(
    "source-NAT pool nearly used up",
    Expect(
        "table",
        "CRITICAL",
        says=("port", r"10\.0\.0\.1\b", r"10\.9\.0\.80", "tcp/443|:443|tcp 443"),
        never=NO_LARGER_LIMIT,
    ),
)
def whole_pool(lab: Lab) -> Iterator[None]:
    lab.limit(131072)
    masquerade(lab)
    inside = hosts("203.0.8.0/22")
    pairs = ((next(inside), 1024 + n) for n in range(60_000))
    handshakes(lab.clients, lab.servers, pairs, "10.9.0.80", 443, seen=ROUTER_LAN)
    lab.wait_for_entries(59_900)
    yield
    # The rule it prints, with addresses for the words that are to be replaced.
    step = lab.step("snat to FIRST-LAST")
    lab.router.ip("addr add 10.0.0.5/24 dev lan\naddr add 10.0.0.6/24 dev lan\n")
    lab.paste(word.replace("FIRST-LAST", "10.0.0.5-10.0.0.6") for word in step.commands)
    lab.send(tcp(f"198.18.9.{n + 1}", "10.9.0.80", 2000 + n, 443) for n in range(50))
    new = [line for line in lab.router.entries("-p", "tcp") if "src=198.18.9." in line]
    assert len(new) == 50
    assert all("dst=10.0.0.5 " in line or "dst=10.0.0.6 " in line for line in new)
    lab.paste(step.undo)


@incident(
    "source-NAT pool of 1,000 ports used up",
    Expect(
        "table",
        "CRITICAL",
        says=("20000-20999", r"10\.0\.0\.1\b", r"10\.1\.0\.80"),
        never=NO_LARGER_LIMIT,
    ),
    Expect(
        "full",
        "WARNING|CRITICAL",
        says=("source-NAT port",),
        never=NO_LARGER_LIMIT,
        options=("--since", "1s"),
    ),
)
def restricted_pool(lab: Lab) -> Iterator[None]:
    masquerade(lab, "meta l4proto tcp masquerade to :20000-20999")
    server = lab.server(443)
    clients = hosts("198.18.8.0/24")
    lab.check("full", "--since", "1s")
    server.connect(lab.clients, first(950, clients), WEB)
    failed = 0
    while failed < 20:
        if connects(lab.clients, next(clients), WEB, 443, 0.02):
            server.forget()
        else:
            failed += 1
    yield
    before = lab.ruleset()
    step = lab.step("snat to")
    lab.paste_twice(step)
    server.forget()
    assert len(server.connect(lab.clients, first(100, clients), WEB)) == 100
    lab.paste(step.undo)
    assert lab.ruleset() == before
