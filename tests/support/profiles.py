"""Profiles of tables for the diagnosis, built in code."""

from __future__ import annotations

from check_conntrack.advice.table_profile import StaleFlows, TableProfile, TopItem, Unanswered
from check_conntrack.kernel import timeouts

TIMEOUTS = {name: (default, default) for name, default in timeouts.DEFAULTS.items()}


def address(name, share=90.0, entries=900, zone=0):
    return TopItem(f"{name} in zone {zone}" if zone else name, share, entries, name, zone)


def target(name, port=443, share=90.0, *, protocol="tcp", zone=0):
    return TopItem(f"{name} {protocol}/{port}", share, 900, name, zone, protocol, port)


def unanswered(protocol="tcp", state="SYN_RECV", **named):
    values = {
        "entries": 1000,
        "share": 90.0,
        "source": address("203.0.113.9"),
        "network": address("203.0.113.0/24"),
        "target": target("198.51.100.1", protocol=protocol),
        "destination": address("198.51.100.1"),
        "sources": 1,
        "targets": 1,
        "ports": 1,
        **named,
    }
    return Unanswered(protocol, state, **values)


def profile(*groups, **named):
    values = {"entries": 1100, "total": 1100, "usage": 90.0, "timeouts": TIMEOUTS, **named}
    return TableProfile(unanswered=groups, **values)


def stale(destination="10.96.0.10", to="10.244.1.9", *, protocol="udp", zone=0, **named):
    values = {"entries": 20, "seconds": 15, "code": "failed", "device": "cni0", **named}
    sent_to = target(destination, 53, protocol=protocol, zone=zone)
    return StaleFlows(sent_to, target(to, 5353, protocol=protocol), **values)


FORGED = {
    "source": address("10.1.149.10", 0.2, 2),
    "network": address("10.1.149.0/24", 1.0, 10),
    "sources": 990,
    "spread": 99.0,
}


def cases():
    named = address("192.0.2.1", 90.0)
    v6 = {"source": address("2001:db8::9"), "target": target("2001:db8::1")}
    yield "nat ports", profile(pool=target("192.0.2.1"), pool_address="203.0.113.1", pool_size=9)
    yield "syn flood", profile(unanswered())
    yield "syn flood", profile(unanswered(**FORGED))
    yield "syn flood", profile(unanswered(**v6))
    yield "syn flood", profile(unanswered(translated=100.0, **FORGED))
    yield "scan", profile(unanswered(target=target("192.0.2.1", 22, 1.0), targets=99))
    yield "flood", profile(unanswered("icmp", ""))
    yield (
        "flood",
        profile(
            unanswered(
                "udp", "", **FORGED, reserved=6.0, target=target("192.0.2.1", 9, protocol="udp")
            )
        ),
    )
    yield (
        "unreplied",
        profile(unanswered("udp", "", **FORGED, target=target("192.0.2.1", 9, protocol="udp"))),
    )
    yield (
        "unreplied",
        profile(unanswered("udp", "", **FORGED, target=target("192.0.2.1", 514, protocol="udp"))),
    )
    yield "unreplied", profile(unanswered(state="SYN_SENT"))
    yield "close_wait", profile(close_wait=80.0)
    yield "closing", profile(fin_wait=80.0)
    yield "closing", profile(last_ack=50.0, fin_wait=30.0)
    yield "reset", profile(reset=80.0)
    yield "idle", profile(idle=80.0, source=named, destination=named)
    yield "time_wait", profile(time_wait=80.0)
    yield "dns", profile(dns=80.0)
    yield "stale", profile(usage=20.0, stale=(stale(), stale("2001:db8::53", "2001:db8:1::9")))
    yield "stale", profile(usage=20.0, stale=(stale(elsewhere="10.244.1.10", code="unknown"),))
    yield "stale", profile(usage=20.0, stale=(stale(protocol="tcp"),), kube_proxy=True)
    yield "source", profile(source=named)
    yield "small", profile(service=TopItem("tcp/443", 90.0), destination=named)
    yield "small", profile(assured=99.6)
