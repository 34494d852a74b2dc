"""Translations that outlive what they lead to: a removed pod, a rule that points elsewhere."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from incidents.floods import NO_LARGER_LIMIT
from incidents.lab import Expect, Lab, first, incident
from support.netns import wait_until
from support.packets import ask, hosts

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICE, PORT = "10.96.0.53", 53
OLD, NEW = "10.0.0.20", "10.0.0.21"  # pods on the router's own wire
FLOWS = 20


def point_to(lab: Lab, pod: str) -> None:
    """Have the rule lead to a pod, as whatever manages it would: its table is made anew."""
    lab.router.nft(
        "add table ip service\n"
        "delete table ip service\n"
        "table ip service {\n"
        "  chain prerouting {\n"
        "    type nat hook prerouting priority dstnat;\n"
        f"    ip daddr {SERVICE} udp dport {PORT} dnat to {pod}\n"
        "  }\n"
        "}\n"
    )


def pod(lab: Lab, address: str) -> None:
    """Add a pod on the router's own wire."""
    lab.servers.ip(f"addr add {address}/24 dev eth0\n")


def removed(lab: Lab, address: str) -> None:
    """Remove a pod, and wait until the router has noticed."""
    lab.servers.ip(f"addr del {address}/24 dev eth0\n")
    # By itself the kernel doubts an address after half a minute.
    lab.router.run("ip", "neigh", "del", address, "dev", "lan", check=False)
    assert wait_until(lambda: "FAILED" in neighbour(lab, address))


class Senders:
    """Clients that send from one port each, several times a second, as a log shipper does."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.sockets = []
        with lab.clients.inside():
            for source in first(number, hosts("198.18.0.0/24")):
                client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                client.bind((source, 20000))
                self.sockets.append(client)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._done.wait(0.2):
            self.send()

    def send(self) -> None:
        """Send one datagram from each."""
        for client in self.sockets:
            with contextlib.suppress(OSError):  # the router says that the host is unreachable
                client.sendto(b"metric:1|c", (SERVICE, PORT))

    def __enter__(self) -> Senders:
        self.send()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        for client in self.sockets:
            client.close()


class Answerer:
    """A program on a pod that answers each datagram."""

    def __init__(self, lab: Lab, address: str) -> None:
        with lab.servers.inside():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.bind((address, PORT))
        self._socket.settimeout(0.2)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._done.is_set():
            with contextlib.suppress(OSError):
                data, sender = self._socket.recvfrom(99)
                self._socket.sendto(data, sender)

    def __enter__(self) -> Answerer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()


def neighbour(lab: Lab, address: str) -> str:
    """Return what ip(8) says of a neighbour of the router."""
    return lab.router.run("ip", "neigh", "show", address, "dev", "lan")


def moved(lab: Lab) -> None:
    """Paste the command that deletes the entries: all flows go to the new pod then."""
    lab.paste(lab.step("conntrack -D").commands)
    assert wait_until(lambda: len(lab.router.entries("-p", "udp", "--dst-nat", NEW)) == FLOWS)


@incident(
    "UDP to a removed pod, the rule points elsewhere",
    Expect(
        "table",
        "WARNING",
        says=(r"stale translations: 20 flows", r"10\.96\.0\.53", r"10\.0\.0\.20\b", "gone"),
        below=(
            r"no host answers for it on lan \(neighbour (FAILED|INCOMPLETE)\)",
            r"conntrack -D -p udp --orig-dst 10\.96\.0\.53 .*--dst-nat 10\.0\.0\.20\b",
        ),
        never=(*NO_LARGER_LIMIT, "flood", "scan"),
    ),
    ci=True,
)
def removed_pod(lab: Lab) -> Iterator[None]:
    pod(lab, OLD)
    pod(lab, NEW)
    point_to(lab, OLD)
    lab.enter(Senders(lab, FLOWS))
    assert wait_until(lambda: lab.router.count() >= FLOWS)
    point_to(lab, NEW)
    removed(lab, OLD)
    yield
    moved(lab)
    assert not lab.router.entries("-p", "udp", "--dst-nat", OLD)
    again = lab.check("table")
    assert (again.state, again.data["stale"].value) == ("OK", 0)


@incident(
    "UDP to a removed pod that had answered, the rule points elsewhere",
    Expect(
        "table",
        "WARNING",
        says=(r"stale translations: 20 flows", r"10\.96\.0\.53", r"10\.0\.0\.20\b", "gone"),
        below=(
            r"had a packet in the last 10s, were answered before, and still go to 10\.0\.0\.20\b",
            r"conntrack -D -p udp --orig-dst 10\.96\.0\.53 .*--dst-nat 10\.0\.0\.20\b",
        ),
        never=(*NO_LARGER_LIMIT, "flood", "scan"),
    ),
)
def removed_pod_that_had_answered(lab: Lab) -> Iterator[None]:
    pod(lab, OLD)
    pod(lab, NEW)
    point_to(lab, OLD)
    lab.enter(Senders(lab, FLOWS))
    with Answerer(lab, OLD):
        assert wait_until(lambda: str(lab.router.entries()).count("[ASSURED]") >= FLOWS)
    healthy = lab.check("table")
    assert (healthy.state, healthy.data["stale"].value) == ("OK", 0)
    point_to(lab, NEW)
    removed(lab, OLD)
    yield
    moved(lab)
    again = lab.check("table")
    assert (again.state, again.data["stale"].value) == ("OK", 0)


@incident(
    "UDP one way to a host that is there",
    Expect("table", "OK", never=("stale translations",), options=("-vv",)),
    ci=True,
)
def one_way(lab: Lab) -> Iterator[None]:
    pod(lab, OLD)
    point_to(lab, OLD)
    lab.enter(Senders(lab, FLOWS))
    assert wait_until(lambda: lab.router.count() >= FLOWS)
    assert wait_until(lambda: "REACHABLE" in neighbour(lab, OLD))
    yield


@incident(
    "UDP to a host behind a gateway, the rule points elsewhere",
    Expect(
        "table",
        "WARNING",
        says=(r"stale translations: 20 flows", r"10\.9\.0\.20\b", r"new ones to 10\.1\.0\.53\b"),
        below=("newer flows go to 10.1.0.53, and are answered",),
        never=(*NO_LARGER_LIMIT, "which is gone", "still translates"),
    ),
)
def moved_service(lab: Lab) -> Iterator[None]:
    point_to(lab, "10.9.0.20")  # behind the servers, silent
    yield from served_elsewhere(lab)


@incident(
    "UDP from before there was a rule",
    Expect(
        "table",
        "WARNING",
        says=(r"20 flows", r"10\.96\.0\.53 udp/53 are not translated, new ones to 10\.1\.0\.53\b"),
        below=("newer flows go to 10.1.0.53, and are answered", "--reply-src 10.96.0.53"),
        never=(*NO_LARGER_LIMIT, "which is gone", "still translates"),
    ),
)
def before_the_rule(lab: Lab) -> Iterator[None]:
    lab.router.ip(f"route add {SERVICE} via 10.0.0.2\n")  # where nobody has it
    yield from served_elsewhere(lab)


def served_elsewhere(lab: Lab) -> Iterator[None]:
    """Stage flows that are kept alive, and newer ones that another host answers; end the former."""
    lab.enter(Senders(lab, FLOWS))
    assert wait_until(lambda: lab.router.count() >= FLOWS)
    point_to(lab, "10.1.0.53")
    server = lab.server(PORT, "10.1.0.53")
    for source in first(40, hosts("198.18.8.0/24")):
        assert ask(lab.clients, server, source, SERVICE)
    # New flows are told by what little they have left: half of their timeout has to pass.
    assert wait_until(lambda: _brief(lab) >= 40, 25)
    yield
    lab.paste(lab.step("conntrack -D").commands)
    assert wait_until(lambda: _from_senders(lab) == FLOWS)
    again = lab.check("table")
    assert (again.state, again.data["stale"].value) == ("OK", 0)


def _from_senders(lab: Lab) -> int:
    """Count the flows of the senders that go to the new target."""
    lines = lab.router.entries("-p", "udp", "--dst-nat", "10.1.0.53")
    return sum("sport=20000 dport=53" in line for line in lines)


def _brief(lab: Lab) -> int:
    """Count the answered flows of which less than half of the timeout is left."""
    lines = lab.router.entries("-p", "udp", "--dst-nat", "10.1.0.53")
    return sum(int(line.split()[4]) < 15 for line in lines)
