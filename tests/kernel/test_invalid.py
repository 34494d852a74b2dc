"""Invalid packets of a real connection: counted, and explained by the commands that are printed."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import pytest

from support import features, guard
from support.commands import NOBODY, hidden
from support.machine import limit_lock
from support.netns import Namespace, wait_until
from support.packets import ACK, Server, send, tcp

ADDRESS, PORT = "10.1.1.1", 8080
NO_LOG = (
    "mount -t tmpfs none /var/log; mount -t tmpfs none /run/log 2>/dev/null || true; "
    "mount --bind /bin/false $(command -v journalctl); mount --bind /dev/null /dev/kmsg"
)
LOG_ALL = Path("/proc/sys/net/netfilter/nf_log_all_netns")


@pytest.fixture
def space(need):
    need("ip", "nft")
    with Namespace() as namespace:
        namespace.track()
        namespace.ip(
            "link add up0 type veth peer name up1\n"
            f"addr add {ADDRESS}/24 dev up0\n"
            "link set up0 up\n"
            "link set up1 up\n"
            "route add default via 10.1.1.254 dev up0\n"
        )
        yield namespace


def next_numbers(client):
    """The sequence number that a connection sends next, and the one that it expects (tcp(7))."""
    repair, queue, number = 19, 20, 21  # TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ: linux/tcp.h
    client.setsockopt(socket.IPPROTO_TCP, repair, 1)
    found = []
    for which in (2, 1):  # TCP_SEND_QUEUE, TCP_RECV_QUEUE
        client.setsockopt(socket.IPPROTO_TCP, queue, which)
        found.append(client.getsockopt(socket.IPPROTO_TCP, number) & 0xFFFFFFFF)
    client.setsockopt(socket.IPPROTO_TCP, repair, -1)  # TCP_REPAIR_OFF_NO_WP
    return found


@pytest.fixture
def connected(space):
    """A function that sends so many packets that are out of the window of a connection."""
    with Server(space, PORT) as server:
        (connection,) = server.connect(space, [ADDRESS], ADDRESS)
        port = connection.client.getsockname()[1]
        sent, expected = next_numbers(connection.client)
        # Above the window: whether what is below it is invalid depends on more.
        above = [(sent + (1 << 30) + 100000 * at) % (1 << 32) for at in range(1000)]

        def out_of_window(number):
            packets = (
                tcp(ADDRESS, ADDRESS, port, PORT, ACK, above[at], expected) for at in range(number)
            )
            send(space, packets)

        yield out_of_window


def invalid_since(space, full):
    """Run the check where it sees the counters of the namespace, and no log."""
    before = ["ip", "netns", "exec", space.name, *hidden(NO_LOG)]
    # Without the files in /proc/net the counters take a capability.
    user = NOBODY if features.has_procfs() else ()
    return full("-w", "invalid_packets=5", "--if-incomplete", "ok", before=before, user=user)


def test_invalid_packets_of_a_connection_are_counted_and_alarm(space, connected, full):
    first = invalid_since(space, full)
    assert (first.code, first.value("invalid_packets")) == (0, 0)
    connected(20)
    second = invalid_since(space, full)
    count = int(second.value("invalid_packets"))
    assert count >= 20
    assert second.code == 1
    assert f"{count} packets invalid" in second.status
    assert second.value("invalid_total") == count
    assert not any("sysctl -w net.netfilter.nf_conntrack_max" in line for line in second.lines)
    with_liberal = " ".join(second.lines)
    assert "nf_conntrack_tcp_be_liberal to 1" in with_liberal
    assert "tcp_loose" not in with_liberal
    assert "default routes" not in with_liberal


def test_invalid_packets_end_with_the_command_that_is_printed_and_come_back_with_its_undo(
    space, connected, full
):
    invalid_since(space, full)
    connected(20)
    lines = invalid_since(space, full).lines
    setting = "net.netfilter.nf_conntrack_tcp_be_liberal"
    at = lines.index(f"  sysctl -w {setting}=1")
    assert lines[at + 1] == "Undo:"
    for command, expected in ((lines[at], False), (lines[at + 2], True)):
        space.shell(command)
        before = invalid_since(space, full).value("invalid_total")
        connected(20)
        after = invalid_since(space, full).value("invalid_total")
        assert (after > before) == expected


def test_invalid_packets_advice_names_what_the_namespace_shows(space, connected, full):
    space.shell("sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0 net.ipv4.conf.up1.rp_filter=1")
    space.ip("route add default via 10.1.1.253 dev up1 onlink metric 200\n")
    invalid_since(space, full)
    connected(20)
    said = " ".join(invalid_since(space, full).lines)
    assert "There are default routes through up0, up1: " in said
    assert "rp_filter is 1 on up1" in said
    assert "nf_conntrack_tcp_loose is 0" in said
    assert "sysctl -w net.netfilter.nf_conntrack_tcp_loose=0" in said, "the undo"


def test_invalid_packets_are_logged_with_their_reason_by_the_printed_commands(
    need, space, connected, full
):
    need("dmesg")
    if not LOG_ALL.exists():
        pytest.skip("this kernel logs no packets of namespaces")
    invalid_since(space, full)
    connected(20)
    lines = invalid_since(space, full).lines
    start = next(at for at, line in enumerate(lines) if line.startswith("Log them for a minute"))
    *modules, switch, log, look = map(str.strip, lines[start + 1 : lines.index("Undo:", start)])
    assert switch == "sysctl -w net.netfilter.nf_log_all_netns=1"
    assert look == "dmesg --ctime"
    if modules:
        assert modules == ["modprobe nf_log_syslog"]
        assert "(before Linux 5.13 nf_log_ipv4)" in " ".join(lines)
        assert any(
            subprocess.run(["modprobe", "-q", name]).returncode == 0
            for name in ("nf_log_syslog", "nf_log_ipv4")
        )
    before = LOG_ALL.read_text().strip()
    with limit_lock(), guard.undone_if_killed(guard.write_command(str(LOG_ALL), before)):
        try:
            subprocess.run(["sh", "-ec", switch], check=True, capture_output=True)
            shorter = re.sub(r"sleep 60", "sleep 2", log)
            assert shorter != log
            with subprocess.Popen(space.command("sh", "-ec", shorter), stdout=subprocess.DEVNULL):
                setting = "/proc/sys/net/netfilter/nf_conntrack_log_invalid"
                assert wait_until(lambda: space.run("cat", setting).strip() == "255", 10)
                connected(3)
        finally:
            LOG_ALL.write_text(before)
    assert space.run("cat", setting).strip() == "0"
    said = subprocess.run(["sh", "-ec", look], check=True, capture_output=True, text=True).stdout
    found = [line for line in said.splitlines() if "nf_ct_" in line and f"SRC={ADDRESS}" in line]
    assert found, said[-2000:]
    assert re.search(r"SEQ|ACK|window", found[-1])
