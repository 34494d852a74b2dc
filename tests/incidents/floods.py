"""Floods, scans and dead backends: entries that nobody answers, or nobody completes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from incidents.lab import Expect, Lab, Step, first, incident
from support.packets import (
    ACK,
    Packet,
    connects,
    echo,
    esp,
    handshakes,
    hosts,
    sctp_init,
    tcp,
    udp,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Above 95 % of the limit the kernel may evict unassured entries of its own accord, for a minute
# after any table of the machine was full (gc_worker() in nf_conntrack_core.c).
LIMIT = 4000
MOST = 3500
WEB, WEB6 = "10.1.0.80", "2001:db8:2:1::80"
NO_LARGER_LIMIT = (r"sysctl.*nf_conntrack_max", r"raise the limit")


def healthy_clients(lab: Lab, number: int = 200) -> None:
    """Serve clients that keep their connections."""
    lab.server(443).connect(lab.clients, first(number, hosts("198.18.1.0/24")), WEB)


def flood(lab: Lab, packets: Iterable[Packet]) -> None:
    """Stage a flood that nearly fills the table, beside healthy clients."""
    lab.limit(LIMIT)
    healthy_clients(lab)
    lab.send(packets)
    lab.wait_for_entries(MOST + 170)


def unharmed(lab: Lab, number: int = 200) -> None:
    """Assert that the clients kept their entries, and that new connections work."""
    assert len(lab.router.entries("-p", "tcp", "--state", "ESTABLISHED")) >= number
    assert connects(lab.clients, "198.18.2.1", WEB, 443)


def ended(lab: Lab, step: Step, again: Iterable[Packet], *filters: str) -> None:
    """Assert that a rule ends the flood, harms nobody, does not stack, and can be undone."""
    before = lab.ruleset()
    lab.paste_twice(step)
    lab.paste(lab.step("conntrack -D").commands)
    lab.send(again)
    entries = lab.router.entries(*filters)
    assert len(entries) < 50, entries[:3]
    unharmed(lab)
    assert step.undo, f"no undo beside: {step.text}"
    lab.paste(step.undo)
    assert lab.ruleset() == before


@incident(
    "SYN flood, forged sources",
    Expect(
        "table",
        "CRITICAL",
        says=("SYN flood", r"10\.1\.0\.80", r"tcp/443|:443", "forged|spoofed|many sources"),
        below=("SYN_RECV", "synproxy"),
        never=NO_LARGER_LIMIT,
    ),
    Expect("usage", "CRITICAL", never=NO_LARGER_LIMIT),
    ci=True,
)
def syn_flood_forged(lab: Lab) -> Iterator[None]:
    forged = hosts("203.0.0.0/16", 7)

    def packets(number: int) -> Iterator[Packet]:
        return (tcp(next(forged), WEB, 1024 + n, 443) for n in range(number))

    flood(lab, packets(MOST))
    yield
    ended(lab, lab.step("synproxy"), packets(1000), "-p", "tcp", "--state", "SYN_RECV")


@incident(
    "SYN flood that fills the table",
    Expect("table", "CRITICAL", says=("SYN flood", r"10\.1\.0\.80"), never=NO_LARGER_LIMIT),
    Expect("full", "CRITICAL", never=NO_LARGER_LIMIT, options=("--since", "1s")),
    Expect("usage", "CRITICAL", never=NO_LARGER_LIMIT),
)
def syn_flood_full(lab: Lab) -> Iterator[None]:
    forged = hosts("203.0.0.0/16", 7)
    ports = itertools.cycle(range(1024, 60000))

    def packet() -> Packet:
        return tcp(next(forged), WEB, next(ports), 443)

    lab.limit(LIMIT)
    healthy_clients(lab)
    lab.check("full", "--since", "1s")
    lab.send(packet() for _ in range(2 * LIMIT))
    lab.enter(lab.kept_full(LIMIT, packet))
    lab.wait_for_entries(LIMIT)
    yield


@incident(
    "SYN flood from one /64",
    Expect(
        "table",
        "CRITICAL",
        says=("SYN flood", r"2001:db8:bad:\S*/64", r"2001:db8:2:1::80", "tcp/443|:443"),
        never=NO_LARGER_LIMIT,
    ),
)
def syn_flood_one_network(lab: Lab) -> Iterator[None]:
    bad = hosts("2001:db8:bad::/64", 7)

    def packets(number: int) -> Iterator[Packet]:
        return (tcp(next(bad), WEB6, 1024 + n, 443) for n in range(number))

    flood(lab, packets(MOST))
    yield
    ended(lab, lab.step(r"nft .*2001:db8:bad:\S*/64"), packets(1000), "-f", "ipv6")


@incident(
    "SYN flood from one source",
    Expect(
        "table",
        "CRITICAL",
        says=("SYN flood", r"203\.0\.113\.9\b", r"10\.1\.0\.80", "tcp/443|:443"),
        never=NO_LARGER_LIMIT,
    ),
    ci=True,
)
def syn_flood_one_source(lab: Lab) -> Iterator[None]:
    flood(lab, (tcp("203.0.113.9", WEB, 1024 + n, 443) for n in range(MOST)))
    yield
    again = (tcp("203.0.113.9", WEB, 1024 + n, 443) for n in range(1000))
    ended(lab, lab.step(r"nft .*203\.0\.113\.9"), again, "-s", "203.0.113.9")


@incident(
    "TCP ACK flood, forged sources",
    Expect(
        "table",
        "CRITICAL",
        says=("TCP ACK flood", r"10\.9\.0\.80", "tcp/443", "one-way connections", "many sources"),
        below=(
            "cannot delete these alone",
            r"only one direction passes here look the same\.\nFind out first whether these",
        ),
        never=(*NO_LARGER_LIMIT, "SYN", "does not answer", "synproxy", "reject", "conntrack -D"),
    ),
)
def ack_flood(lab: Lab) -> Iterator[None]:
    silent = "10.9.0.80"
    forged = hosts("203.0.0.0/16", 7)

    def packets(number: int) -> Iterator[Packet]:
        return (tcp(next(forged), silent, 1024 + n, 443, ACK) for n in range(number))

    lab.limit(LIMIT)
    healthy_clients(lab)
    inside = ((f"203.0.113.{n + 1}", 2000) for n in range(200))
    handshakes(lab.clients, lab.servers, inside, silent, 443)
    lab.send(packets(MOST - 100))
    lab.wait_for_entries(MOST + 170)
    yield
    before = lab.ruleset()
    step = lab.step("only a handshake")
    lab.paste_twice(step)
    lab.router.run("conntrack", "-D", "-s", "203.0.0.0/20")
    lab.send(packets(1000))
    assert lab.router.count() < 450
    unharmed(lab)
    # Connections to the same service, in the same state, are still tracked.
    kept = lab.router.entries("-p", "tcp", "-d", silent)
    assert sum("[ASSURED]" in line for line in kept) == 200
    lab.paste(step.undo)
    assert lab.ruleset() == before


@incident(
    "dead backend",
    Expect(
        "table",
        "CRITICAL",
        says=(r"10\.9\.0\.80", r"tcp/8080|:8080", "not answer|no answer|never answer|unreplied"),
        never=(*NO_LARGER_LIMIT, "SYN flood", "scan", "synproxy"),
    ),
    ci=True,
)
def dead_backend(lab: Lab) -> Iterator[None]:
    clients = hosts("198.18.8.0/24")
    flood(lab, (tcp(next(clients), "10.9.0.80", 1024 + n, 8080) for n in range(MOST)))
    yield
    lab.paste(lab.step(r"conntrack -D").commands)
    assert not lab.router.entries("-d", "10.9.0.80")
    unharmed(lab)


BALANCED = """
table ip balanced {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    ip daddr 198.51.100.1 tcp dport 443 dnat to numgen inc mod 2 map { 0: WEB, 1: 10.9.0.81 };
  }
}
"""


@incident(
    "one of two backends behind a load balancer is dead",
    Expect(
        "table",
        "CRITICAL",
        says=(r"10\.9\.0\.81 tcp/443 \(198\.51\.100\.1\) does not answer",),
        below=("translated here", "load balancer"),
        never=(*NO_LARGER_LIMIT, "flood on", "scan", "synproxy", "reject"),
    ),
    ci=True,
)
def balanced_backend(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    server = lab.server(443)
    lab.router.nft(BALANCED.replace("WEB", WEB))
    clients = hosts("198.18.8.0/24")
    lab.send(tcp(next(clients), "198.51.100.1", 2000 + n, 443) for n in range(MOST + 300))
    lab.wait_for_entries(MOST)
    yield

    def served(number: int = 20) -> int:
        numbers = range(number)
        works = [connects(lab.clients, next(clients), "198.51.100.1", 443, 0.1) for _ in numbers]
        server.forget()
        return sum(works)

    assert served() >= 9
    assert "10.9.0.81" in lab.paste(lab.step("translated here").commands)
    lab.paste(lab.step("conntrack -D").commands)
    assert not lab.router.entries("-p", "tcp", "--state", "SYN_SENT")
    assert served() >= 9


@incident(
    "dead UDP service on a port that nobody knows",
    Expect(
        "table",
        "CRITICAL",
        says=(r"10\.9\.0\.5\b", "udp/9125|:9125", "not answer"),
        never=(*NO_LARGER_LIMIT, "flood on", "tcp_timeout", "DNS", "synproxy"),
    ),
)
def dead_udp_service(lab: Lab) -> Iterator[None]:
    clients = hosts("198.18.60.0/23")

    def packets(number: int) -> Iterator[Packet]:
        return (udp(next(clients), "10.9.0.5", 20000 + n, 9125) for n in range(number))

    flood(lab, packets(MOST))
    yield
    ended(lab, lab.step("refuse new connections"), packets(1000), "-p", "udp")


@incident(
    "ICMPv6 flood from one /64",
    Expect(
        "table",
        "CRITICAL",
        says=("ICMPv6 flood", r"2001:db8:2:9::1\b", r"2001:db8:bad:7::/64"),
        never=(*NO_LARGER_LIMIT, "SYN", "udp_timeout", "tcp_timeout", "synproxy"),
    ),
)
def icmpv6_flood(lab: Lab) -> Iterator[None]:
    bad = hosts("2001:db8:bad:7::/64", 9)

    def packets(number: int) -> Iterator[Packet]:
        return (echo(next(bad), "2001:db8:2:9::1", n) for n in range(number))

    flood(lab, packets(MOST))
    yield
    ended(lab, lab.step(r"nft .*2001:db8:bad:7::/64"), packets(1000), "-p", "icmpv6")


@incident(
    "SYN flood on a translated service",
    Expect(
        "table",
        "CRITICAL",
        says=("SYN flood", r"198\.51\.100\.1", "tcp/9443|:9443", "forged|many sources"),
        below=("a SYN proxy would break it here",),
        never=NO_LARGER_LIMIT,
    ),
)
def syn_flood_translated(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    service = "198.51.100.1"
    lab.router.nft(
        "table ip service {\n chain prerouting {\n type nat hook prerouting priority dstnat;\n"
        f"ip daddr {service} tcp dport 9443 dnat to {WEB}\n }}\n }}\n"
    )
    server = lab.server(9443)
    server.connect(lab.clients, first(150, hosts("198.18.1.0/24")), service)
    forged = hosts("203.0.0.0/16", 7)
    lab.send(tcp(next(forged), service, 1024 + n, 9443) for n in range(MOST))
    lab.wait_for_entries(MOST)
    yield

    def taken() -> int:
        """Return how many entries one source may take."""
        lab.router.run("conntrack", "-D", "-s", "203.1.1.1", check=False)
        server.forget()
        lab.send(tcp("203.1.1.1", service, 1024 + n, 9443) for n in range(400))
        return len(lab.router.entries("-s", "203.1.1.1"))

    before = lab.ruleset()
    step = lab.step("check_conntrack_limit")
    lab.paste(lab.step("conntrack -D").commands)
    assert taken() > 300
    lab.paste_twice(step)
    assert taken() <= 101
    server.forget()
    assert connects(lab.clients, "198.18.2.1", service, 9443)
    assert len(lab.router.entries("-p", "tcp", "--state", "ESTABLISHED")) >= 150
    lab.paste(step.undo)
    assert lab.ruleset() == before


@incident(
    "scan",
    Expect(
        "table",
        "CRITICAL",
        says=("scan", r"203\.0\.113\.66", r"10\.9\.0\."),
        never=(*NO_LARGER_LIMIT, "flood", "synproxy"),
    ),
)
def scan(lab: Lab) -> Iterator[None]:
    def packets(number: int) -> Iterator[Packet]:
        targets = hosts("10.9.0.0/24")
        return (tcp("203.0.113.66", next(targets), 40000, 1 + n // 15) for n in range(number))

    flood(lab, packets(MOST))
    yield
    ended(lab, lab.step(r"nft .*203\.0\.113\.66"), packets(1000), "-s", "203.0.113.66")


@incident(
    "UDP flood",
    Expect(
        "table",
        "CRITICAL",
        says=("UDP flood", r"10\.9\.0\.27", "udp/27015|:27015"),
        never=(*NO_LARGER_LIMIT, "SYN", "tcp_timeout", "DNS", "synproxy"),
    ),
)
def udp_flood(lab: Lab) -> Iterator[None]:
    forged = hosts("203.0.0.0/16", 7)

    def packets(number: int) -> Iterator[Packet]:
        return (udp(next(forged), "10.9.0.27", 1024 + n, 27015) for n in range(number))

    flood(lab, packets(MOST))
    yield
    ended(lab, lab.step(r"nft .*10\.9\.0\.27"), packets(1000), "-p", "udp")


@incident(
    "UDP flood from one source",
    Expect(
        "table",
        "CRITICAL",
        says=("UDP flood", r"203\.0\.113\.31", r"10\.9\.0\.27", "udp/27015|:27015"),
        never=(*NO_LARGER_LIMIT, "SYN", "tcp_timeout", "DNS", "synproxy"),
    ),
)
def udp_flood_one_source(lab: Lab) -> Iterator[None]:
    def packets(number: int) -> Iterator[Packet]:
        return (udp("203.0.113.31", "10.9.0.27", 1024 + n, 27015) for n in range(number))

    flood(lab, packets(MOST))
    yield
    ended(lab, lab.step(r"nft .*203\.0\.113\.31"), packets(1000), "-p", "udp")


@incident(
    "ICMP flood",
    Expect(
        "table",
        "CRITICAL",
        says=("ICMP flood", r"10\.9\.0\.1\b"),
        never=(*NO_LARGER_LIMIT, "SYN", "udp_timeout", "tcp_timeout", "synproxy"),
    ),
)
def icmp_flood(lab: Lab) -> Iterator[None]:
    forged = hosts("203.0.0.0/16", 7)

    def packets(number: int) -> Iterator[Packet]:
        return (echo(next(forged), "10.9.0.1", n) for n in range(number))

    flood(lab, packets(MOST))
    yield
    ended(lab, lab.step(r"nft .*10\.9\.0\.1\b"), packets(1000), "-p", "icmp")


@incident(
    "ESP flood",
    Expect(
        "table",
        "CRITICAL",
        says=("ESP|protocol 50|unknown 50", r"10\.9\.0\.50"),
        never=(*NO_LARGER_LIMIT, "SYN", "udp_timeout", "tcp_timeout", "synproxy"),
    ),
)
def esp_flood(lab: Lab) -> Iterator[None]:
    forged = hosts("203.0.0.0/16", 7)
    flood(lab, (esp(next(forged), "10.9.0.50", n) for n in range(MOST)))
    yield
    again = (esp(next(forged), "10.9.0.50", n) for n in range(1000))
    ended(lab, lab.step(r"nft .*10\.9\.0\.50"), again, "-d", "10.9.0.50")


@incident(
    "dead SCTP peer",
    Expect(
        "table",
        "CRITICAL",
        says=(r"10\.9\.0\.38", r"sctp/3868|:3868"),
        never=(*NO_LARGER_LIMIT, "SYN", "udp_timeout", "tcp_timeout", "synproxy"),
    ),
)
def dead_sctp_peer(lab: Lab) -> Iterator[None]:
    clients = hosts("198.18.8.0/24")
    flood(lab, (sctp_init(next(clients), "10.9.0.38", 1024 + n, 3868) for n in range(MOST)))
    yield
    lab.paste(lab.step(r"conntrack -D").commands)
    assert not lab.router.entries("-p", "sctp")
    unharmed(lab)
