"""A router between clients and servers, each a network namespace: no packet leaves them.

The router forwards between `wan` (the clients' side, its default route) and `lan`. Every address
of the networks below is the clients' or the servers' own, so that plain sockets can use them; the
router sends to the clients whatever it knows no other route to, so that answers to forged sources
end there in silence.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from support.netns import Namespace

if TYPE_CHECKING:
    from types import TracebackType

ROUTER_WAN, ROUTER_LAN = "198.51.100.1", "10.0.0.1"
CLIENT, SERVER = "198.51.100.2", "10.0.0.2"
CLIENTS = "198.18.0.0/16"
SERVERS = "10.1.0.0/16"
SILENT = "10.9.0.0/24"  # hosts that drop whatever they are sent
CLIENTS6, SERVERS6, SILENT6 = "2001:db8:100::/48", "2001:db8:2:1::/64", "2001:db8:2:9::/64"
MACS = tuple(f"02:00:00:00:00:{number:02x}" for number in range(1, 5))


def _neighbours(device: str, mac: str, *addresses: str) -> str:
    """Return lines of ip(8): who is next is known, so that no packet is lost meanwhile."""
    return "".join(
        f"neigh replace {address} lladdr {mac} dev {device} nud permanent\n"
        for address in addresses
    )


class Network:
    """The three namespaces, connected: `clients`, `router` (of a name) and `servers`."""

    def __init__(self, router: str = "") -> None:
        self._router = router
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Network:
        with contextlib.ExitStack() as stack:
            self.clients = stack.enter_context(Namespace())
            self.router = stack.enter_context(Namespace(self._router))
            self.servers = stack.enter_context(Namespace())
            self._connect()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _connect(self) -> None:
        clients, router, servers = self.clients, self.router, self.servers
        router.ip(
            f"link add wan address {MACS[0]} type veth "
            f"peer name eth0 address {MACS[1]} netns {clients.name}\n"
            f"link add lan address {MACS[2]} type veth "
            f"peer name eth0 address {MACS[3]} netns {servers.name}\n"
            f"addr add {ROUTER_WAN}/24 dev wan\n"
            f"addr add {ROUTER_LAN}/24 dev lan\n"
            "addr add 2001:db8:1::1/64 dev wan nodad\n"
            "addr add 2001:db8:2::1/64 dev lan nodad\n"
            "link set wan up\n"
            "link set lan up\n"
            + _neighbours("wan", MACS[1], CLIENT, "2001:db8:1::2")
            + _neighbours("lan", MACS[3], SERVER, "2001:db8:2::2")
        )
        clients.ip(
            f"addr add {CLIENT}/24 dev eth0\n"
            "addr add 2001:db8:1::2/64 dev eth0 nodad\n"
            "link set eth0 up\n"
            f"route add default via {ROUTER_WAN}\n"
            "route add default via 2001:db8:1::1\n"
            + _neighbours("eth0", MACS[0], ROUTER_WAN, "2001:db8:1::1")
            + f"route add local {CLIENTS} dev lo\n"
            f"route add local {CLIENTS6} dev lo\n"
        )
        servers.ip(
            f"addr add {SERVER}/24 dev eth0\n"
            "addr add 2001:db8:2::2/64 dev eth0 nodad\n"
            "link set eth0 up\n"
            f"route add default via {ROUTER_LAN}\n"
            "route add default via 2001:db8:2::1\n"
            + _neighbours("eth0", MACS[2], ROUTER_LAN, "2001:db8:2::1")
            + f"route add local {SERVERS} dev lo\n"
            f"route add local {SERVERS6} dev lo\n"
            f"route add blackhole {SILENT}\n"
            f"route add blackhole {SILENT6}\n"
        )
        router.ip(
            f"route add default via {CLIENT}\n"
            "route add default via 2001:db8:1::2\n"
            f"route add {SERVERS} via {SERVER}\n"
            f"route add {SILENT} via {SERVER}\n"
            f"route add {SERVERS6} via 2001:db8:2::2\n"
            f"route add {SILENT6} via 2001:db8:2::2\n"
        )
        router.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        router.track()
