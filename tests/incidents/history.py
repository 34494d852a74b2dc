"""Incidents between two runs, and evidence that does not reach far enough."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import TYPE_CHECKING

from incidents.floods import WEB
from incidents.lab import Expect, Lab, incident
from support.netns import wait_until
from support.overflow import NewMessages
from support.packets import Packet, connects, handshakes, hosts, tcp, udp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 2048
SINCE = ("--since", "1s")  # stretched back to the run before; what others did counts no longer


def established(lab: Lab, number: int) -> None:
    """Fill the router's table with connections that the kernel does not evict."""
    inside = hosts("203.0.8.0/22")
    pairs = ((next(inside), 1024 + n) for n in range(number))
    handshakes(lab.clients, lab.servers, pairs, "10.9.0.80", 443)
    assert lab.router.count() >= number


def lose_connections(lab: Lab, seconds: float) -> None:
    """Try to open connections for so long, and until the kernel, rate-limited, has said so."""
    end = time.monotonic() + seconds
    clients = hosts("198.18.8.0/24")
    with NewMessages() as new:

        def send_until(done: Callable[[], bool]) -> bool:
            def tried() -> bool:
                lab.send(tcp(next(clients), WEB, 1024 + n, 443) for n in range(20))
                return done()

            return wait_until(tried, seconds + 20)

        assert send_until(lambda: new.hold("table full")), "the kernel has said nothing"
        assert send_until(lambda: time.monotonic() > end)


@incident(
    "full for three seconds between two runs",
    Expect("full", "CRITICAL", says=(r"\d+ packets? dropped|dropped \d+",), options=SINCE),
    Expect("usage", "OK"),
    ci=True,
)
def full_between_runs(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    assert lab.check("full", *SINCE).state == "OK"
    established(lab, LIMIT)
    lose_connections(lab, 3)
    lab.router.run("conntrack", "-F")
    yield


@incident(
    "at the limit, dropping",
    Expect("usage", "CRITICAL", says=(f"{LIMIT} of {LIMIT}",), never=("evicting",)),
    Expect("full", "CRITICAL", says=("connections are dropped|dropping",), options=SINCE),
)
def dropping(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    lab.server(443)
    lab.check("full", *SINCE)
    established(lab, LIMIT)
    lose_connections(lab, 0)
    assert not connects(lab.clients, "198.18.2.1", WEB, 443, 0.2)
    yield


@incident(
    "at the limit, evicting",
    # It reads no counters, so it says no more than that the table is full.
    Expect("usage", "CRITICAL", says=(f"{LIMIT} of {LIMIT}",), never=("dropped", "evicting")),
    Expect(
        "full",
        "CRITICAL|WARNING",
        says=("evict",),
        never=("connections are dropped",),
        options=SINCE,
    ),
)
def evicting(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    lab.server(443)
    lab.check("full", *SINCE)
    # Few buckets: early eviction finds an entry in them each time.
    lab.buckets(256)
    clients = hosts("198.18.8.0/22")
    ports = itertools.cycle(range(1024, 60000))

    def packet() -> Packet:
        return udp(next(clients), "10.9.0.27", next(ports), 514)

    lab.send(packet() for _ in range(3 * LIMIT))
    assert connects(lab.clients, "198.18.2.1", WEB, 443)
    lab.enter(lab.kept_full(LIMIT, packet))
    lab.wait_for_entries(LIMIT)
    yield


@incident(
    "a burst between two runs by hand",
    # The table jumped within a second, and stands: that is no rate.
    Expect("usage", "OK", says=(r"in use \(75\.\d%\)$",), never=("full in", "time_to_full")),
)
def burst_between_runs_by_hand(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    assert lab.check("usage").state == "OK"
    established(lab, 3 * LIMIT // 4)
    yield


@incident(
    "a burst while the check listens",
    Expect(
        "usage",
        "OK",
        says=(r"\(7\d\.\d%\), \d+ new/s in a burst$",),
        never=("full in", "time_to_full", "settles"),
        options=("--listen", "2s"),
    ),
)
def burst_while_listening(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    clients = hosts("198.18.8.0/22")

    def burst() -> None:
        if wait_until(lambda: listens(lab), 20):
            lab.send(udp(next(clients), "10.9.0.27", 1024 + n, 514) for n in range(1500))

    thread = threading.Thread(target=burst)
    thread.start()
    yield
    thread.join()
    again = lab.check("usage", "--listen", "1s", "-v")
    assert (again.state, "full in" in again.text) == ("OK", False)


def listens(lab: Lab) -> bool:
    """Return whether a program gets netfilter's events in the router's namespace."""
    lines = lab.router.run("cat", "/proc/net/netlink").splitlines()[1:]
    sockets = (line.split() for line in lines)
    return any(fields[1] == "12" and int(fields[3], 16) for fields in sockets)


@incident(
    "limit lowered",
    Expect("usage", "CRITICAL", says=("lowered from 8192 to 2048",)),
    ci=True,
)
def limit_lowered(lab: Lab) -> Iterator[None]:
    lab.limit(8192)
    established(lab, 2000)
    assert lab.check("usage").state == "OK"
    lab.limit(LIMIT)
    yield


@incident(
    "log host dead for three hours",
    Expect("full", "UNKNOWN", says=("last written 3h",), options=("--log", "LOG")),
    ci=True,
)
def dead_log_host(lab: Lab) -> Iterator[None]:
    written = time.time() - 3 * 3600
    lines = [
        time.strftime(f"%b %e %H:%M:%S gw{n % 3} kernel: device eth{n} up\n", time.localtime(at))
        for n, at in enumerate((written - 7200, written - 3600, written))
    ]
    log = lab.file("LOG", "".join(lines))
    os.utime(log, (written, written))
    yield
