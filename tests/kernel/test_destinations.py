"""The kernel's answers about a destination: its routes and neighbours, asked by anybody."""

from __future__ import annotations

import json
import time

import pytest

from check_conntrack.kernel import destinations
from check_conntrack.kernel.destinations import (
    FAILED,
    INCOMPLETE,
    NO_ROUTE,
    THERE,
    TO_ALL,
    UNKNOWN,
    Destination,
)
from support.commands import NOBODY, run
from support.netns import wait_until

LOOK_UP = """
import json, sys
sys.path.insert(0, sys.argv[1])
from check_conntrack.kernel import destinations
print(json.dumps(destinations.look_up(sys.argv[2:])))
"""


@pytest.fixture
def place(netns):
    """A namespace with a wire to nobody, and a route of each type."""
    made = netns()
    made.ip(
        "link add d0 type veth peer name d1\n"
        "link set d1 up\n"
        "addr add 10.5.0.1/24 dev d0\n"
        "addr add 2001:db8:5::1/64 dev d0 nodad\n"
        "link set d0 up\n"
        "neigh add 10.5.0.9 lladdr 02:00:00:00:00:01 dev d0\n"
        "neigh add 2001:db8:5::9 lladdr 02:00:00:00:00:01 dev d0\n"
        "route add blackhole 10.6.0.0/24\n"
        "route add unreachable 10.7.0.0/24\n"
        "route add prohibit 10.8.0.0/24\n"
        "route add 10.9.0.0/24 via 10.5.0.9\n"
        "route add blackhole 2001:db8:6::/64\n"
        "route add 2001:db8:9::/64 via 2001:db8:5::9\n"
    )
    return made


def look_up(namespace, *addresses):
    with namespace.inside():
        return destinations.look_up(addresses)


@pytest.mark.parametrize(
    ("address", "code", "device"),
    [
        ("10.5.0.1", THERE, ""),  # an own one
        ("2001:db8:5::1", THERE, ""),
        ("10.5.0.9", THERE, "d0"),
        ("2001:db8:5::9", THERE, "d0"),
        ("10.5.0.8", UNKNOWN, ""),  # nothing was ever sent there
        ("10.6.0.1", NO_ROUTE, ""),
        ("10.7.0.1", NO_ROUTE, ""),
        ("10.8.0.1", NO_ROUTE, ""),
        ("10.10.0.1", NO_ROUTE, ""),
        ("2001:db8:6::1", NO_ROUTE, ""),
        ("2001:db8:7::1", NO_ROUTE, ""),
        ("10.5.0.255", TO_ALL, ""),  # broadcast
        ("10.9.0.1", UNKNOWN, ""),  # behind a gateway
        ("2001:db8:9::1", UNKNOWN, ""),
    ],
)
def test_destination_is_what_routes_and_neighbours_say(place, address, code, device):
    assert look_up(place, address) == {address: Destination(code, device)}


@pytest.mark.parametrize("address", ["10.5.0.77", "2001:db8:5::77"])
def test_neighbour_that_does_not_answer_is_gone(need, place, address):
    need("ping")
    place.run("ping", "-c1", "-W1", address, check=False)
    assert look_up(place, address)[address].code in (INCOMPLETE, FAILED)
    assert wait_until(lambda: look_up(place, address)[address] == Destination(FAILED, "d0"))


def test_neighbour_that_does_not_answer_is_not_certain_where_rules_choose(place):
    place.run("ping", "-c1", "-W1", "10.5.0.77", check=False)
    assert look_up(place, "10.5.0.77")["10.5.0.77"].certain
    place.run("ip", "rule", "add", "fwmark", "5", "lookup", "100")
    found = look_up(place, "10.5.0.77")["10.5.0.77"]
    assert found.code in (INCOMPLETE, FAILED)
    assert not found.certain


@pytest.mark.parametrize(
    ("rule", "address"),
    [
        ("-4 rule add fwmark 5 lookup 100", "10.10.0.1"),
        ("-4 rule add from 10.5.0.1 lookup 100", "10.10.0.1"),
        ("-4 rule add iif d0 lookup 100", "10.10.0.1"),
        ("-4 rule add tos 0x10 lookup 100", "10.10.0.1"),
        ("-6 rule add fwmark 5 lookup 100", "2001:db8:7::1"),
    ],
)
def test_missing_route_proves_nothing_where_rules_choose(place, rule, address):
    assert look_up(place, address)[address].code == NO_ROUTE
    place.run("ip", *rule.split())
    assert look_up(place, address)[address].code == UNKNOWN


def test_anybody_may_ask_and_nothing_is_sent(place, installed):
    tree, python = installed
    addresses = ("10.5.0.9", "10.5.0.8", "10.10.0.1", "2001:db8:5::8")

    def sent():
        with place.inside(), open("/proc/thread-self/net/dev") as file:
            (line,) = [line for line in file if line.split()[0] == "d0:"]
        return line.split()[10]

    def neighbours():
        return place.run("ip", "neigh", "show", "dev", "d0")

    before = neighbours()

    def nothing_is_sent():
        packets = sent()
        time.sleep(2.2)
        return sent() == packets

    # IPv6 announces itself on a new interface, at most two seconds apart, for some time.
    place.sysctl(ipv6__conf__d0__router_solicitations=0)
    assert wait_until(nothing_is_sent)
    packets = sent()
    done = run(*place.command(*NOBODY, python, "-c", LOOK_UP, tree, *addresses))
    answer = {name: code for name, (code, *_) in json.loads(done.out).items()}
    assert answer == dict(zip(addresses, (THERE, UNKNOWN, NO_ROUTE, UNKNOWN)))
    assert neighbours() == before
    assert sent() == packets


def test_host_without_rtnetlink_gives_nothing(monkeypatch):
    def refuse(*_):
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(destinations.socket, "socket", refuse)
    assert destinations.look_up(["127.0.0.1"]) == {}
