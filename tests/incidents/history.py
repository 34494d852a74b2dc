"""Incidents between two runs, and evidence that does not reach far enough."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import TYPE_CHECKING

from incidents.floods import WEB
from incidents.lab import Expect, Lab, first, incident
from support.machine import machine_wide
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
    "limit lowered below the count",
    Expect("usage", "CRITICAL", says=(r"full: 3000 of 2048 .*; limit lowered from 8192 to 2048",)),
    Expect("full", "CRITICAL", says=("limit lowered from 8192 to 2048",), options=SINCE),
    Expect("table", "CRITICAL", says=("limit lowered from 8192 to 2048", r"to 10\.9\.0\.80")),
)
def limit_below_count(lab: Lab) -> Iterator[None]:
    lab.limit(8192)
    established(lab, 3000)
    lab.check("full", *SINCE)
    assert [lab.check(check).state for check in ("usage", "table")] == ["OK", "OK"]
    lab.limit(LIMIT)
    lose_connections(lab, 0)
    yield
    for check in ("usage", "full", "table"):
        step = lab.step("nf_conntrack_max=8192", check)
        lab.paste(step.commands[:1])
    assert lab.router.count() >= 3000


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


FTP = """
table ip helpers {
  ct helper ftp {
    type "ftp" protocol tcp
  }
  chain prerouting {
    type filter hook prerouting priority filter;
    tcp dport 21 ct helper set "ftp"
  }
}
"""


@incident(
    "FTP server whose data connections are no longer expected",
    Expect(
        "full",
        "WARNING",
        says=(r'\d+ "expectation table full" messages',),
        below=("cannot be set from this namespace", r"^  sysctl .*expect_max=20$"),
        options=SINCE,
    ),
    Expect("usage", "OK"),
)
def expectations(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    lab.enter(machine_wide(nf_conntrack_expect_max=10))
    lab.router.nft(FTP)
    lab.check("full", *SINCE)
    server = lab.server(21)
    made = server.connect(lab.clients, first(30, hosts("198.18.8.0/24")), "10.1.0.21")
    with NewMessages() as new:
        for number, one in enumerate(made):
            one.server.send(b"220 ready\r\n")
            one.client.recv(99)
            # The kernel drops this where it may expect no more.
            passive = f"227 Entering Passive Mode (10,1,0,21,{number + 100},7)\r\n"
            one.server.send(passive.encode())
        assert wait_until(lambda: new.hold("expectation table full"))
    yield
    seen = lab.paste(lab.step("conntrack -L expect", "full").commands)
    assert seen.count("helper=ftp") == 10
    step = lab.step("expect_max", "full")
    lab.paste(step.commands)
    lab.paste(step.undo)


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
