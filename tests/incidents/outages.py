"""Dead upstreams, asymmetric routes, tunnels, broadcasts: they look like attacks and are none."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from incidents.floods import LIMIT, MOST, NO_LARGER_LIMIT, healthy_clients, unharmed
from incidents.lab import Expect, Lab, first, incident
from incidents.nat import masquerade
from support.packets import allow_many_sockets, hosts, tcp, udp
from support.router import CLIENT, SERVER

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTACK = (*NO_LARGER_LIMIT, "scan of", "flood on", "check_conntrack_block", "synproxy")
LAN = "192.168.1"


def internet(lab: Lab) -> None:
    """Have the router send whatever it knows no route to towards the servers, who drop it."""
    lab.router.ip(
        f"route replace default via {SERVER}\n"
        f"route add 198.18.0.0/16 via {CLIENT}\n"
        f"route add 192.168.0.0/16 via {CLIENT}\n"
    )


def elsewhere(number: int) -> str:
    """Return an address on the Internet; numbers are far apart."""
    return f"{20 + number % 170}.{number * 7 % 250}.{number * 13 % 250}.{number % 250 + 1}"


@incident(
    "gateway whose upstream is dead",
    Expect(
        "table",
        "CRITICAL",
        says=(r"many destinations do not answer 192\.168\.1\.0/24",),
        below=("upstream, route, firewall", "ip route get", "ping -c 3"),
        never=ATTACK,
    ),
    Expect("usage", "CRITICAL", never=NO_LARGER_LIMIT),
    ci=True,
)
def dead_upstream(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    masquerade(lab)
    internet(lab)
    sent = []
    for n in range(MOST + 200):
        inside, outside = f"{LAN}.{n % 120 + 2}", elsewhere(n % 700)
        if n % 10 < 6:
            sent.append(tcp(inside, outside, 20000 + n, 443 if n % 9 else 80))
        elif n % 10 < 8:
            sent.append(udp(inside, outside, 20000 + n, 443))
        else:
            sent.append(udp(inside, "8.8.8.8", 20000 + n, 53))
    lab.send(sent)
    lab.wait_for_entries(MOST + 150)
    yield
    route, ping = lab.step("ping").commands
    assert f"via {SERVER}" in lab.paste([route])
    assert "100% packet loss" in lab.router.run("sh", "-c", ping, check=False)


@incident(
    "gateway of IPv6 whose upstream is dead",
    Expect(
        "table",
        "CRITICAL",
        says=(r"2001:db8:2:9::/64 tcp/443 does not answer 2001:db8:1::/64",),
        never=ATTACK,
    ),
)
def dead_upstream6(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    inside, outside = hosts("2001:db8:1::/120", 16), hosts("2001:db8:2:9::/116")
    lab.send(tcp(next(inside), next(outside), 20000 + n, 443) for n in range(MOST + 200))
    lab.wait_for_entries(MOST + 150)
    yield


def second_wire(lab: Lab) -> None:
    """Connect clients and servers past the router."""
    lab.clients.ip(
        f"link add direct type veth peer name direct netns {lab.servers.name}\n"
        "addr add 10.66.0.1/30 dev direct\n"
        "link set direct up\n"
    )
    lab.servers.ip("addr add 10.66.0.2/30 dev direct\nlink set direct up\n")


@incident(
    "connections of which only the answers pass here",
    Expect(
        "table",
        "CRITICAL",
        says=(r"one-way connections from 10\.1\.0\.80 to 198\.18\.0\.0/16",),
        below=(r"^Find out first whether these connections are in use",),
        never=(*NO_LARGER_LIMIT, "scan of", "synproxy"),
    ),
    ci=True,
)
def answers_alone(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    second_wire(lab)
    lab.clients.ip("route add 10.1.0.0/16 via 10.66.0.2\n")
    server = lab.server(443)
    made = server.connect(lab.clients, first(MOST + 200, hosts("198.18.8.0/21")), "10.1.0.80")
    for one in made:
        one.server.send(b"hello")
    lab.wait_for_entries(MOST + 150)
    yield
    assert "10.1.0.80]:443" in lab.servers.run("ss", "-tn")
    lab.paste(lab.step("are in use").commands)


@incident(
    "connections of which only the requests pass here",
    Expect(
        "table",
        "CRITICAL",
        says=(r"10\.1\.0\.80 tcp/443 does not answer many sources",),
        below=("Refuse and delete nothing then",),
        never=ATTACK,
    ),
)
def requests_alone(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    second_wire(lab)
    lab.servers.ip("route add 198.18.0.0/16 via 10.66.0.1\n")
    server = lab.server(443)
    server.connect(lab.clients, first(MOST + 200, hosts("198.18.8.0/21")), "10.1.0.80")
    lab.wait_for_entries(MOST + 150)
    yield
    assert "open" in lab.paste(lab.step("/dev/tcp/").commands)


@incident(
    "peer-to-peer program over TCP behind NAT",
    Expect(
        "table",
        "CRITICAL",
        says=(r"scan or peer-to-peer traffic from 192\.168\.1\.77",),
        below=(r"Limit 192\.168\.1\.77 to 1000",),
        never=(*NO_LARGER_LIMIT, "check_conntrack_block"),
    ),
)
def peer_to_peer(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    masquerade(lab)
    internet(lab)
    healthy_clients(lab)

    def peers(number: int) -> Iterator[object]:
        return (
            tcp(f"{LAN}.77", elsewhere(n), 10000 + n, 1024 + n * 7919 % 60000)
            for n in range(number)
        )

    lab.send(peers(MOST))
    lab.wait_for_entries(MOST + 150)
    yield
    before = lab.ruleset()
    step = lab.step("check_conntrack_limit")
    lab.paste_twice(step)
    lab.paste(lab.step("conntrack -D").commands)
    lab.send(peers(MOST))
    assert len(lab.router.entries("-s", f"{LAN}.77")) <= 1001
    unharmed(lab)
    lab.paste(step.undo)
    assert lab.ruleset() == before


@incident(
    "broadcasts of many hosts",
    Expect(
        "table",
        "CRITICAL",
        says=(r"one-way messages from many sources to 198\.51\.100\.255 udp/138",),
        below=("Nothing is down", "dport 138 notrack"),
        never=(*ATTACK, "does not answer", "reject", "ping"),
    ),
)
def broadcasts(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    healthy_clients(lab)
    with lab.clients.inside():
        sender = lab.enter(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)

    def send(number: int, network: str) -> None:
        for _, source in zip(range(number), hosts(network)):
            packet = udp(source, "198.51.100.255", 138, 138)
            sender.sendto(packet.data, (packet.destination, 0))

    send(MOST, "10.30.0.0/16")
    lab.wait_for_entries(MOST + 150)
    yield
    before = lab.ruleset()
    step = lab.step("notrack")
    lab.paste_twice(step)
    lab.paste(lab.step("conntrack -D").commands)
    send(1000, "10.31.0.0/16")
    assert not lab.router.entries("-p", "udp")
    unharmed(lab)
    lab.paste(step.undo)
    assert lab.ruleset() == before


@incident(
    "CLOSE_WAIT leak beside a scanner",
    Expect(
        "table",
        "CRITICAL",
        says=("CLOSE_WAIT", r"10\.1\.0\.90 tcp/8080", "; also scan"),
        below=(r"^Scan of 10\.9\.0\.0/24 from 203\.0\.113\.66", r"\{ 203\.0\.113\.66 \}"),
        never=NO_LARGER_LIMIT,
    ),
)
def leak_and_scanner(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    healthy_clients(lab)
    server = lab.server(8080)
    for one in server.connect(lab.clients, first(2300, hosts("198.18.8.0/22")), "10.1.0.90"):
        one.client.close()
    targets = hosts("10.9.0.0/24")
    lab.send(tcp("203.0.113.66", next(targets), 40000, 22 + n // 250) for n in range(1150))
    lab.wait_for_state("CLOSE_WAIT", 2250)
    yield
    for step in ("CLOSE_WAIT", r"-s 203\.0\.113\.66"):
        lab.paste(lab.step(f"conntrack -D .*{step}").commands)
    assert lab.router.count() < 300
    unharmed(lab)


@incident(
    "program of this host whose server of IPv6 is dead",
    Expect(
        "table",
        "CRITICAL",
        says=(r"2001:db8:2:9::5 tcp/8080 does not answer 2001:db8:2::1",),
        below=(r"ss -tanp src '\[2001:db8:2::1\]'",),
        never=ATTACK,
    ),
)
def own_program6(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    allow_many_sockets()
    for _ in range(MOST + 200):
        with lab.router.inside():
            client = lab.enter(socket.socket(socket.AF_INET6))
        client.setblocking(False)
        client.bind(("2001:db8:2::1", 0))
        client.connect_ex(("2001:db8:2:9::5", 8080))
    lab.wait_for_entries(MOST + 150)
    yield
    assert lab.paste(lab.step("ss -tanp").commands).count("SYN-SENT") > MOST


TUNNEL = """
table inet tunnel {
  chain prerouting { type filter hook prerouting priority raw; iifname "vx" notrack; }
  chain output { type filter hook output priority raw; oifname "vx" notrack; }
}
"""


@incident(
    "node of a VXLAN network with many flows",
    Expect(
        "table",
        "CRITICAL",
        says=(r"VXLAN tunnel from 10\.0\.0\.2", r"to 10\.0\.0\.1 udp/4789"),
        below=("Nothing is down", "dport 4789 notrack"),
        never=(*ATTACK, "does not answer", "reject"),
        where="servers",
    ),
)
def vxlan(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    node, other = lab.servers, lab.router
    node.track()
    node.nft(TUNNEL)
    for one, address, remote, device in (
        (node, "10.244.0.2", "10.0.0.1", "eth0"),
        (other, "10.244.0.1", "10.0.0.2", "lan"),
    ):
        one.ip(
            f"link add vx type vxlan id 7 remote {remote} dstport 4789 dev {device}\n"
            f"addr add {address}/24 dev vx\n"
            "link set vx up\n"
        )
    other.nft("table inet tracked { }\ndelete table inet tracked\n")
    with node.inside():
        sender = lab.enter(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))

    def send(number: int) -> None:
        for n in range(number):
            packet = udp("10.244.0.2", "10.244.0.1", 1024 + n, 9)
            sender.sendto(packet.data, (packet.destination, 0))

    send(MOST + 500)
    lab.wait_for_entries(MOST, node)
    yield
    step = lab.step("notrack")
    lab.paste([*step.commands, *lab.step("conntrack -D").commands], "servers")
    send(1000)
    assert node.count() < 50
    assert " 0% packet loss" in node.run("ping", "-c", "1", "10.244.0.1")
    lab.paste(step.undo, "servers")
