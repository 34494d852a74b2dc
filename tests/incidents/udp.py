"""UDP that nobody answers: a service that is down, one that never answers, and floods.

Each source has one entry, so the entries look alike.
"""

from __future__ import annotations

import contextlib
import ipaddress
import random
import threading
from typing import TYPE_CHECKING

from incidents.floods import LIMIT, MOST, NO_LARGER_LIMIT, ended, flood, healthy_clients, unharmed
from incidents.lab import Expect, Lab, incident
from support.netns import wait_until
from support.packets import Packet, Server, ask, hosts, udp
from support.router import ROUTER_WAN

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERYWHERE = "198.18.16.0/20"  # no private addresses
NEIGHBOUR = "10.0.0.99"  # on the router's own wire, where nobody has it
HARMLESS = (*NO_LARGER_LIMIT, "from forged sources \\(", "tcp_timeout", "synproxy", r"@v4 drop")


def messages(number: int, sources: str, target: str, port: int) -> Iterator[Packet]:
    """Return a datagram from each of so many sources."""
    return (
        udp(source, target, 20000 + n, port) for n, source in zip(range(number), hosts(sources))
    )


@incident(
    "dead UDP service with as many clients as entries",
    Expect(
        "table",
        "CRITICAL",
        says=(r"10\.9\.0\.5 udp/9125 is down, one-way or under a UDP flood",),
        below=(
            r"looks like a flood from forged sources if .*\.\nFind out first whether 10\.9\.0\.5",
            r"ping -c 3 -W 1 10\.9\.0\.5\b",
            "If it is down, start it",
            "If it is up and answers its clients",
            "If it is up and never answers",
        ),
        never=(*HARMLESS, "dport 9125 drop"),
    ),
    ci=True,
)
def dead_service(lab: Lab) -> Iterator[None]:
    flood(lab, messages(MOST, EVERYWHERE, "10.9.0.5", 9125))
    yield
    route, ping = lab.step("ping").commands
    assert "via 10.0.0.2" in lab.paste([route])
    assert "100% packet loss" in lab.router.run("sh", "-c", ping, check=False)
    again = messages(1000, EVERYWHERE, "10.9.0.5", 9125)
    ended(lab, lab.step("refuse new connections"), again, "-p", "udp")


@incident(
    "DNS server that is down, with clients in private networks",
    Expect(
        "table",
        "CRITICAL",
        says=(r"10\.9\.0\.53 udp/53 does not answer many sources",),
        below=(r"100% of the sources are private addresses", "a dead service or host"),
        never=(*HARMLESS, "flood on", "under a UDP flood"),
    ),
)
def dead_dns(lab: Lab) -> Iterator[None]:
    flood(lab, messages(MOST, "10.77.0.0/16", "10.9.0.53", 53))
    yield
    again = messages(1000, "10.77.0.0/16", "10.9.0.53", 53)
    ended(lab, lab.step("refuse new connections"), again, "-p", "udp")


@incident(
    "UDP to a host that is gone from the router's wire",
    Expect(
        "table",
        "CRITICAL",
        says=(r"10\.0\.0\.99 udp/9125 does not answer many sources",),
        below=(r"no host answers for 10\.0\.0\.99 on lan \(neighbour (FAILED|INCOMPLETE)\)",),
        never=(*HARMLESS, "flood on", "under a UDP flood"),
    ),
)
def dead_host(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    healthy_clients(lab)
    done = threading.Event()

    def send() -> None:  # the kernel asks for the host as long as somebody sends
        while not done.wait(0.2):
            lab.send(messages(5, EVERYWHERE, NEIGHBOUR, 9125))

    lab.send(messages(MOST, EVERYWHERE, NEIGHBOUR, 9125))
    thread = threading.Thread(target=send)
    thread.start()
    try:
        lab.wait_for_entries(MOST)
        yield
    finally:
        done.set()
        thread.join()
    ended(
        lab,
        lab.step("refuse new connections"),
        messages(1000, EVERYWHERE, NEIGHBOUR, 9125),
        "-p",
        "udp",
    )


@incident(
    "UDP to a port of the router on which nothing listens",
    Expect(
        "table",
        "CRITICAL",
        says=(r"198\.51\.100\.1 udp/9125 does not answer many sources",),
        below=(r"no program of this (host|namespace) takes udp/9125",),
        never=(*HARMLESS, "flood on", "under a UDP flood"),
    ),
)
def closed_port(lab: Lab) -> Iterator[None]:
    flood(lab, messages(MOST, EVERYWHERE, ROUTER_WAN, 9125))
    yield
    assert "9125" not in lab.paste(lab.step("ss -lunp").commands)
    again = messages(1000, EVERYWHERE, ROUTER_WAN, 9125)
    ended(lab, lab.step("refuse new connections"), again, "-p", "udp")


@incident(
    "syslog server with many senders",
    Expect(
        "table",
        "CRITICAL",
        says=(r"many senders of one-way messages, or a UDP flood, to 10\.9\.0\.14 udp/514",),
        below=("also while all is well", r"ping -c 3", "pass without an entry"),
        never=(*HARMLESS, "dport 514 drop"),
    ),
)
def syslog_server(lab: Lab) -> Iterator[None]:
    flood(lab, messages(MOST, EVERYWHERE, "10.9.0.14", 514))
    yield
    again = messages(1000, EVERYWHERE, "10.9.0.14", 514)
    ended(lab, lab.step("pass without an entry"), again, "-p", "udp")


@incident(
    "syslog server that is up, on a port that nobody knows",
    Expect(
        "table",
        "CRITICAL",
        says=(r"10\.1\.0\.14 udp/5514 is down, one-way or under a UDP flood",),
        below=("If it is up and never answers", "dport 5514 notrack"),
        never=(*HARMLESS, "dport 5514 drop"),
    ),
)
def syslog_elsewhere(lab: Lab) -> Iterator[None]:
    lab.server(5514, "10.1.0.14")
    flood(lab, messages(MOST, EVERYWHERE, "10.1.0.14", 5514))
    yield
    again = messages(1000, EVERYWHERE, "10.1.0.14", 5514)
    ended(lab, lab.step("never answers"), again, "-p", "udp")


@incident(
    "statsd clients behind one address",
    Expect(
        "table",
        "CRITICAL",
        says=(r"one-way messages from 203\.0\.113\.9 to 10\.9\.0\.15 udp/8125",),
        below=("Many senders behind one NAT address", "dport 8125 notrack"),
        never=(*HARMLESS, "flood", "does not answer"),
    ),
)
def statsd_behind_nat(lab: Lab) -> Iterator[None]:
    flood(lab, (udp("203.0.113.9", "10.9.0.15", 20000 + n, 8125) for n in range(MOST)))
    yield
    again = (udp("203.0.113.9", "10.9.0.15", 30000 + n, 8125) for n in range(1000))
    ended(lab, lab.step("pass without an entry"), again, "-p", "udp")


def anywhere(number: int) -> list[str]:
    """Return addresses from all that can be written, as who forges them takes them."""
    chance, found = random.Random(7), []
    while len(found) < number:
        one = ipaddress.IPv4Address(chance.getrandbits(32))
        kept = (one.is_loopback, one.is_multicast, one.packed[0] in (0, 10, 198, 255))
        found += [] if any(kept) else [str(one)]
    return found


@incident(
    "UDP flood, sources forged from all addresses",
    Expect(
        "table",
        "CRITICAL",
        says=(r"UDP flood on 10\.9\.0\.27 udp/9125 from forged sources",),
        below=(r"[4-9]% of the sources are addresses that nobody has",),
        never=(*NO_LARGER_LIMIT, "is down", "does not answer"),
    ),
)
def forged_flood(lab: Lab) -> Iterator[None]:
    forged = anywhere(MOST)
    flood(lab, (udp(one, "10.9.0.27", 1024 + n, 9125) for n, one in enumerate(forged)))
    yield
    again = [udp(one, "10.9.0.27", 1024 + n, 9125) for n, one in enumerate(forged[:1000])]
    ended(lab, lab.step(r"nft .*10\.9\.0\.27"), again, "-p", "udp")


class Served:
    """Clients that ask a server several times a second, and are answered."""

    def __init__(self, lab: Lab, server: Server) -> None:
        self._lab, self._server = lab, server
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = 0

    def _run(self) -> None:
        for source in hosts("198.18.0.0/24"):
            if self._done.wait(0.1):
                return
            with contextlib.suppress(OSError):
                self.answered += ask(self._lab.clients, self._server, source)

    def __enter__(self) -> Served:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@incident(
    "UDP flood on a service that answers its clients",
    Expect(
        "table",
        "CRITICAL",
        says=(r"UDP flood on 10\.1\.0\.53 udp/9125 from many sources",),
        below=("while it has just answered others",),
        never=(*NO_LARGER_LIMIT, "is down", "does not answer", "forged"),
    ),
)
def flooded_service(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    healthy_clients(lab)
    server = lab.server(9125, "10.1.0.53")
    # It answers what it knows, and nothing else.
    lab.servers.nft(
        "table ip known {\n chain input {\n type filter hook input priority 0;\n"
        "udp dport 9125 ip saddr != 198.18.0.0/24 drop\n }\n }\n"
    )
    served = lab.enter(Served(lab, server))
    assert wait_until(lambda: served.answered >= 10)
    lab.send(messages(MOST - 50, EVERYWHERE, "10.1.0.53", 9125))
    lab.wait_for_entries(MOST)
    yield
    unharmed(lab)
