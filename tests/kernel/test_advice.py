"""Every command of the advice, pasted: it is accepted, does not stack, and its undo restores."""

from __future__ import annotations

import itertools
import re

import pytest

from check_conntrack.advice import capacity, diagnosis
from check_conntrack.advice.table_profile import LeakEnds
from check_conntrack.kernel import ctnetlink as ct
from support.entries import new_entry
from support.machine import limit_lock
from support.netns import Namespace
from support.oracle import without_seconds
from support.profiles import FORGED, address, cases, profile, stale, target, unanswered

# To be replaced by hand.
PLACEHOLDER, VALUE = "FIRST-LAST", "203.0.113.1-203.0.113.4"
# These look at something, which is not there.
LOOKS = ("ss ", "timeout ", "ip ", "ping ")


@pytest.fixture(autouse=True)
def needs(need):
    need("ip", "nft", "conntrack")


@pytest.fixture
def space():
    with Namespace() as namespace:
        namespace.track()
        yield namespace


def more_cases():
    zoned = {"source": address("203.0.113.9", zone=5), "target": target("192.0.2.1", zone=5)}
    yield profile(unanswered(**zoned), zones=True)
    yield profile(unanswered(**zoned), zones=True, original_zones=True)
    yield profile(unanswered(**{**zoned, **FORGED}), zones=True)
    yield profile(unanswered(state="SYN_SENT", **zoned), zones=True)
    yield profile(unanswered(network=address("2001:db8::/64"), source=address("2001:db8::1", 1.0)))
    v6 = {"target": target("2001:db8::80"), "destination": address("2001:db8::80")}
    yield profile(unanswered(**FORGED, **v6))
    yield profile(unanswered(translated=9.0, **FORGED, **v6))
    yield profile(unanswered(state="SYN_SENT", **FORGED, **v6))
    for protocol in ("udp", "icmp", "icmpv6", "gre", "sctp", "esp", "protocol 99"):
        port = 9 if protocol in ("udp", "sctp") else 0
        aim = target("192.0.2.1", port, protocol=protocol)
        yield profile(unanswered(protocol, "", target=aim, **FORGED))
        yield profile(unanswered(protocol, "", target=aim))
    yield profile(
        pool=target("192.0.2.1"),
        pool_address="203.0.113.1",
        pool_ports=990,
        pool_size=1000,
        pool_range=(20000, 20999),
    )
    yield profile(
        pool=target("2001:db8::80"),
        pool_address="2001:db8::1",
        pool_ports=990,
        pool_size=1000,
        pool_range=(20000, 20999),
    )
    yield profile(source=address("2001:db8::9"))
    yield profile(source=address("10.0.0.7", zone=3), zones=True)


ALL = [*(table for _, table in cases()), *more_cases()]


def paste(space, commands):
    for command in commands:
        if not command.startswith(LOOKS):
            # conntrack(8) ends with 1 where it finds nothing to delete.
            end = " || true" if "conntrack -" in command else ""
            space.shell(command.replace(PLACEHOLDER, VALUE) + end)


def state(space):
    """The ruleset, and the sysctls that advice sets."""
    rules = re.sub(r"counter packets \d+ bytes \d+", "", space.run("nft", "list", "ruleset"))
    names = "sysctl net.netfilter net.ipv4.tcp_syncookies net.ipv4.tcp_timestamps"
    values = [line for line in space.shell(names).splitlines() if "_count" not in line]
    return rules, values


@pytest.mark.parametrize("table", ALL, ids=range(len(ALL)))
def test_each_step_may_be_pasted_twice_and_its_undo_restores(space, table):
    for cause in diagnosis.diagnose(table):
        for step in cause.steps(table):
            before = state(space)
            paste(space, step.commands)
            once = state(space)
            paste(space, step.commands)
            assert state(space) == once
            assert once == before or step.undo, step.text
            paste(space, step.undo)
            assert state(space) == before, step.text


def test_a_block_keeps_what_an_earlier_one_blocked(space):
    before = state(space)
    for name in ("203.0.113.9", "203.0.113.0/24", "198.51.100.7"):
        table = profile(unanswered(source=address(name), network=address(name)))
        (block, *_) = diagnosis.diagnose(table)[0].steps(table)
        paste(space, block.commands)
    rules = state(space)[0]
    assert "203.0.113.0/24" in rules
    assert "198.51.100.7" in rules
    paste(space, block.undo)
    assert state(space) == before


def entry(source, destination, port, **named):
    return new_entry(bytes(source), bytes(destination), 6, 1000 + source[3], port, **named)


def test_conntrack_frees_the_entries_that_the_advice_names():
    """Entries of another source, zone, port and state stay."""
    web, other = (192, 0, 2, 1), (192, 0, 2, 2)
    seen = ct.IPS_SEEN_REPLY
    with Namespace() as inside:
        inside.track()
        for zone in (0, 5):
            inside.insert(
                entry((203, 0, 113, number), destination, 443, state=tcp, status=seen, zone=zone)
                for number in range(1, 5)
                for destination in (web, other)
                for tcp in (2,)
            )
            inside.insert(
                [
                    entry(
                        (203, 0, 113, 9), web, 443, state=3, status=seen | ct.IPS_ASSURED, zone=zone
                    )
                ]
            )
        assert inside.count() == 18
        aim = target("192.0.2.1", 443, zone=5)
        table = profile(unanswered(**FORGED)._replace(target=aim), zones=True)
        steps = diagnosis.diagnose(table)[0].steps(table)
        commands = [each for step in steps for each in step.commands if "conntrack -D" in each]
        paste(inside, commands)
        left = inside.entries()
        assert len(left) == 14
        assert not [line for line in left if "dst=192.0.2.1 " in line and "zone=5" in line
                    and "SYN_RECV" in line]  # fmt: skip
        assert len([line for line in left if "ESTABLISHED" in line]) == 2


SERVICES = {4: ("10.96.0.10", "10.96.0.11"), 6: ("2001:db8:96::10", "2001:db8:96::11")}
PODS = {4: ("10.244.1.9", "10.244.1.10"), 6: ("2001:db8:244::9", "2001:db8:244::10")}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("zone", "translated"), [(0, True), (5, True), (0, False)])
def test_entries_with_a_stale_translation_are_freed_and_no_others(family, zone, translated):
    source = "10.0.0.1" if family == 4 else "2001:db8::1"
    with limit_lock(), Namespace() as inside:
        inside.track()
        for number, (service, pod, port, in_zone) in enumerate(
            itertools.product(SERVICES[family], (*PODS[family], ""), (53, 8125), (0, 5))
        ):
            nat = ("--dst-nat", pod) if pod else ()
            inside.run(
                *("conntrack", "-I", "-p", "udp", "-t", "30", "-s", source, "-d", service),
                *("--sport", 1000 + number, "--dport", port, *nat, "-w", in_zone),
            )
        before = inside.entries("-f", f"ipv{family}")
        assert len(before) == 24
        goes_to = PODS[family][0] if translated else SERVICES[family][0]
        one = stale(SERVICES[family][0], goes_to, zone=zone)
        one = one if translated else one._replace(target=one.destination)
        table = profile(usage=20.0, stale=(one,), zones=True)
        (step, *_) = diagnosis.diagnose(table)[0].steps(table)
        paste(inside, step.commands)
        after = inside.entries("-f", f"ipv{family}")
        (freed,) = set(map(without_seconds, before)) - set(map(without_seconds, after))
        assert len(after) == 23
        words = (f"dst={SERVICES[family][0]} ", "dport=53 ", f" src={goes_to} ")
        assert all(word in freed for word in words)
        assert ("zone=5" in freed) == (zone == 5)


def test_idle_connections_are_let_go_and_those_in_use_stay():
    with Namespace() as inside:
        inside.track()
        status = ct.IPS_SEEN_REPLY | ct.IPS_ASSURED
        inside.insert(
            entry((10, 0, 0, number), (10, 9, 9, 9), 3306, state=3, status=status, timeout=90000)
            for number in range(1, 9)
        )
        table = profile(
            idle=80.0,
            idle_ends=LeakEnds(target=target("10.9.9.9", 3306, 95.0)),
        )
        (step, *_) = diagnosis.diagnose(table)[0].steps(table)
        paste(inside, step.commands)
        assert {line.split()[4] for line in inside.entries()} <= {"900", "899", "898"}
        paste(inside, step.undo)
        assert all(int(line.split()[4]) > 431000 for line in inside.entries())


def test_each_advice_on_capacity_is_a_command_that_sysctl_knows(space):
    evidence = capacity.CapacityEvidence(10000, 10000, 10000, 2048, diagnosed=True)
    lines = capacity.advise(evidence, {"usage"})
    for line in lines:
        if line.startswith("  sysctl -w "):
            name = line.split()[2].partition("=")[0]
            assert space.shell(f"sysctl -n {name}").strip().isdigit()
