"""check_conntrack_table on the kernel's own tables, through its front door."""

from __future__ import annotations

import gzip
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support import features
from support.commands import EMULATED, NOBODY, SLOWNESS, run
from support.entries import BOTH_WAYS, many_entries, mixed_entries, new_entry
from support.machine import limit_lock, machine_limit
from support.netns import Namespace
from support.oracle import figures_by_hand, insert_every_kind, without_seconds
from support.tables import web_server

LIMIT = 20000
AMBIENT = [*NOBODY, "--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"]

# Takes connections and closes them, once it has said that it listens.
SERVE = """
import socket, sys
server = socket.socket()
server.bind((sys.argv[1], 443))
server.listen(512)
print("ready", flush=True)
while True:
    server.accept()[0].close()
"""
# Connections from one address to one destination, made and closed: their entries linger.
CONNECT = """
import socket, sys
source, target, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
for port in range(2000, 2000 + number):
    with socket.socket() as one:
        one.bind((source, port))
        one.connect((target, 443))
        one.recv(1)
"""


@pytest.fixture
def space(need):
    """A namespace with an empty table, whose entries are inserted."""
    need("ip", "nft", "conntrack", "unshare", "setpriv")
    with Namespace() as namespace:
        yield namespace


def inside(space):
    return ["ip", "netns", "exec", space.name]


def fill(space, number, sources=300, seed=3):
    with limit_lock():
        space.insert(mixed_entries(number, sources, seed))
    return space.count()


def sources():
    return ["auto", "netlink", *(["proc"] if features.has_procfs() else []), "conntrack"]


def listing(space):
    return space.run("conntrack", "-L", "-o", "extended")


def read(result):
    """Perfdata as numbers."""
    return {label: result.value(label) for label in result.perfdata}


def assert_agrees(space, table, tmp_path):
    """Every source says what conntrack(8) says."""
    file = tmp_path / "listing"
    file.write_text(listing(space))
    file.chmod(0o644)
    truth = figures_by_hand(file.read_text())

    def from_source(source):
        if source == "file":
            with file.open() as listed:
                return read(table("--source", "-", stdin=listed))
        return read(table("--source", source, before=inside(space), user=()))

    # All at a time, as far as there are processors.
    with machine_limit(LIMIT), ThreadPoolExecutor(2) as pool:
        found = dict(zip((*sources(), "file"), pool.map(from_source, (*sources(), "file"))))
    for source, data in found.items():
        for label, number in truth.items():
            if label in data:
                assert data[label] == number, (source, label)
        assert data["entries"] == truth.get("entries", 0), source
    first = found["netlink"]
    if "proc" in found:
        assert set(first) - set(found["proc"]) == {"expected"}
    for source in sources():
        assert {k: v for k, v in found[source].items() if k != "expected"} == {
            k: v for k, v in first.items() if k != "expected"
        }, source
    assert set(first) - set(found["file"]) == {"expected", "usage", "protected_usage"}
    return first


# --- right to the entry


def test_sources_agree_with_conntrack_on_every_kind_of_entry(space, table, tmp_path):
    with limit_lock():
        made = insert_every_kind(space)
    first = assert_agrees(space, table, tmp_path)
    assert first["entries"] == made >= 26
    assert (first["nat"], first["tcp_time_wait"]) == (2, 2)


def test_sources_agree_with_conntrack_on_random_tables(space, table, tmp_path):
    for seed in range(15):
        space.run("conntrack", "-F")
        rng = random.Random(seed)
        fill(space, rng.choice([1, 5, 60, 60, 400, 400, 3000]), rng.choice([1, 50, 700]), seed)
        assert_agrees(space, table, tmp_path)


@contextmanager
def serving(namespace, address):
    """A server on port 443 of an address in a namespace."""
    words = namespace.command(sys.executable, "-c", SERVE, address)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()


def test_masqueraded_connections_show_the_usage_of_their_pool(netns, table):
    gateway, outside = netns(), netns()
    wire = ["link", "add", "out", "type", "veth", "peer", "name", "in", "netns", outside.name]
    gateway.run("ip", *wire)
    for namespace, device, address in ((gateway, "out", "10.3.0.1"), (outside, "in", "10.3.0.2")):
        namespace.run("ip", "address", "add", f"{address}/24", "dev", device)
        namespace.run("ip", "link", "set", device, "up")
    gateway.run("ip", "address", "add", "10.1.0.7/32", "dev", "lo")
    outside.run("ip", "address", "add", "10.2.0.9/32", "dev", "lo")
    gateway.run("ip", "route", "add", "10.2.0.0/24", "via", "10.3.0.2")
    rules = (
        "add table ip n; add chain ip n p { type nat hook postrouting priority 100; };"
        "add rule ip n p oifname out ip saddr 10.1.0.0/16 masquerade"
    )
    gateway.run("nft", rules)
    # Entries of the first ones must not end before the last one is there.
    number, share = (600, "0.9") if EMULATED else (3000, "4.7")
    limit = float(share) - 0.5
    with machine_limit(LIMIT):
        with serving(outside, "10.2.0.9"):
            gateway.run(sys.executable, "-c", CONNECT, "10.1.0.7", "10.2.0.9", number)
        words = ("-v", "-w", f"snat_port_usage={limit:.1f}")
        result = table(*words, before=gateway.command(), user=())
    assert result.value("snat_port_usage") == pytest.approx(100 * number / 64512, abs=0.06)
    assert (result.value("nat"), result.value("entries")) == (number, number)
    assert result.code == 1
    assert f"WARNING: snat_port_usage {share}% (threshold {limit:.1f})" in result.lines
    assert any(
        re.match(rf"  tcp 10\.3\.0\.1 to 10\.2\.0\.9:443 +{number} +{share}%$", line)
        for line in result.lines
    )


def test_kernel_filter_agrees_with_grep(space, table):
    fill(space, 5000)
    lines = listing(space).splitlines()
    with machine_limit(LIMIT):
        for address in ("10.0.0.3", "203.0.113.0", "198.18.0.9", "2001:db8:0:2::5"):
            wanted = sum(bool(re.search(rf"={re.escape(address)}( |$)", line)) for line in lines)
            result = table("--address", address, before=inside(space), user=())
            assert result.value("entries") == wanted > 0, address
            assert f"{wanted} of {len(lines)} entries match" in result.status
            assert result.value("usage") == pytest.approx(100 * len(lines) / LIMIT, abs=0.06)
        udp = table("--protocol", "udp", "--port", "53", before=inside(space), user=())
    wanted = sum(" udp " in line and "port=53 " in line for line in lines)
    assert udp.value("entries") == wanted > 0


ZONED = re.compile(r" (zone|zone-orig|zone-reply)=([1-9]\d*)")


def test_zone_and_mark_agree_with_grep_in_every_source(space, table, tmp_path):
    fill(space, 3000 // SLOWNESS)
    for number, (option, zone) in enumerate(
        (("--orig-zone", 2), ("--reply-zone", 2), ("--orig-zone", 9), ("--reply-zone", 9)), 1
    ):
        words = "conntrack -I -t 300 -p tcp --state ESTABLISHED -s 10.7.0.1 -d 10.7.0.2"
        ports = f"--sport {number} --dport 80 -m 3 {option} {zone}"
        space.run(*words.split(), *ports.split())
    lines = listing(space).splitlines()
    zones = [match[2] if match else "0" for match in map(ZONED.search, lines)]
    marks = [int(re.search(r" mark=(\d+)", line)[1]) for line in lines]
    file = tmp_path / "listing"
    file.write_text("\n".join([*lines, ""]))
    with machine_limit(LIMIT):
        for words, wanted in (
            (("--zone", "2"), zones.count("2")),
            (("--zone", "9"), 2),
            (("--zone", "0", "--zone", "1"), zones.count("0") + zones.count("1")),
            (("--mark", "3"), marks.count(3)),
            (("--mark", "1/0x1"), sum(mark & 1 for mark in marks)),
            (("--zone", "2", "--mark", "3"), list(zip(zones, marks)).count(("2", 3))),
        ):
            for source in (*sources(), str(file)):
                options = ("--source", source, *words)
                result = table(*options, before=inside(space), user=())
                assert result.value("entries") == wanted > 0, options
        whole = table("-v", before=inside(space), user=())
    largest = max(zones.count(zone) for zone in "1239")
    assert whole.value("top_zone_share") == pytest.approx(100 * largest / len(lines), abs=0.06)
    start = whole.lines.index(next(one for one in whole.lines if one.startswith("  zone ")))
    assert [line.split()[:2] for line in whole.lines[start + 1 : start + 6]] == [
        [zone.replace("0", "none"), str(zones.count(zone))]
        for zone in sorted(set(zones), key=lambda one: (-zones.count(one), one))
    ]


def test_sample_is_close_to_the_whole_table(space, table):
    fill(space, 12000, 4000)
    with machine_limit(LIMIT):
        whole = read(table("--max-entries", "0", before=inside(space), user=()))
        for source in ("netlink", "proc", "conntrack"):
            words = ("--max-entries", "4000", "--source", source, "-v")
            result = table(*words, before=inside(space), user=())
            assert "Note: estimated from a sample of 4000 entries (+-1.3 points)" in result.lines
            sample = read(result)
            assert sample["entries"] == whole["entries"] == 12000
            for label in ("tcp", "udp", "tcp_established", "ipv6", "assured"):
                assert sample[label] == pytest.approx(whole[label], abs=0.03 * 12000), label


# --- privileges


def as_nobody(result):
    """Return whether the check evaluated as nobody, without a capability in effect."""
    (line,) = [line for line in result.lines if line.startswith("Checked as uid ")]
    return line.startswith("Checked as uid 65534, no capabilities")


def test_unprivileged_user_reads_the_table_through_sudo(space, table, sudoers):
    fill(space, 2000)
    with machine_limit(LIMIT):
        for source in ("auto", "netlink", "proc"):
            result = table("--sudo", "--source", source, "-vvv", before=inside(space))
            assert result.value("entries") == 2000
            assert as_nobody(result)
        named = table("--sudo", "--netns", space.name)
    assert named.value("entries") == 2000


def test_missing_privileges_are_printed_in_the_words_of_conntrack(space, table):
    result = table("--source", "conntrack", before=inside(space))
    assert result.code == 3
    assert "cannot read the table: permission denied (tried conntrack)" in result.status
    (tried,) = [line for line in result.lines if line.startswith("Tried conntrack: ")]
    assert tried.endswith(" (needs CAP_NET_ADMIN)")
    assert "said nothing" not in tried
    assert "conntrack-tools" not in tried


def test_missing_privileges_are_printed_with_what_to_grant(space, table, sudoers):
    with machine_limit(LIMIT):
        result = table(before=inside(space))
    assert result.code == 3
    assert (
        "cannot read the table: permission denied (tried netlink, proc, conntrack)" in result.status
    )
    assert f"  {sudoers}" in result.lines
    assert [line.split(":")[0] for line in result.lines if line.startswith("Tried")] == [
        "Tried netlink",
        "Tried proc",
        "Tried conntrack",
    ]
    assert "usage" in result.perfdata


def test_net_admin_is_enough_for_the_own_table(space, table):
    fill(space, 500)
    with machine_limit(LIMIT):
        for source in ("netlink", "conntrack"):
            result = table("--source", source, "-vvv", before=inside(space), user=AMBIENT)
            assert result.value("entries") == 500, result.out
            assert as_nobody(result)


def test_check_started_by_root_evaluates_as_nobody(space, table, state):
    with machine_limit(LIMIT):
        result = table("-vvv", before=inside(space), user=())
    assert as_nobody(result)
    assert {path.stat().st_uid for path in state.glob("*/*.json")} == {65534}


@pytest.fixture
def private(tmp_path):
    """A folder of root's own with a table and sysctls."""
    folder = tmp_path / "root"
    folder.mkdir(mode=0o700)
    lines = web_server()
    (folder / "table.gz").write_bytes(gzip.compress("".join(f"{one}\n" for one in lines).encode()))
    (folder / "sysctls").write_text("net.netfilter.nf_conntrack_max = 4000\n")
    for path in folder.iterdir():
        path.chmod(0o600)
    return folder


def test_file_in_the_folder_of_root_is_opened_before_privileges_are_dropped(table, private):
    words = ("--source", "./table.gz", "--timeouts", "./sysctls", "-vvv")
    result = table(*words, before=["env", "-C", private], user=())
    assert result.value("entries") == 4000
    assert result.status.startswith("CONNTRACK_TABLE CRITICAL - full: 4000 of 4000")


@pytest.mark.parametrize(
    ("words", "before"),
    [
        (("--user", "nobody"), ()),
        ((), ("env", "SUDO_UID=65534")),
        ((), tuple(NOBODY)),
    ],
    ids=["--user", "sudo", "unprivileged"],
)
def test_file_of_root_is_not_opened_for_others(table, private, words, before):
    private.chmod(0o755)
    path = private / "table.gz"
    result = table("--source", path, *words, before=before, user=())
    assert result.code == 3
    assert "Permission denied" in result.status


# --- namespaces


def test_each_namespace_is_evaluated(space, table):
    with Namespace() as other:
        fill(space, 300)
        fill(other, 19000, 4000)
        with machine_limit(LIMIT):
            result = table("--netns", space.name, "--netns", other.name, user=())
        assert result.code == 2
        assert f"namespace {other.name} 19000 of 20000 entries in use (95.0%)" in result.status
        assert list(result.perfdata)[-3:] == [
            f"{other.name}::{label}" for label in ("usage", "snat_port_usage", "entries")
        ]
        assert (result.value("entries"), result.value(f"{other.name}::entries")) == (300, 19000)


@pytest.mark.parametrize("source", ["netlink", "proc"])
def test_empty_table_of_a_namespace_is_evaluated(space, table, source):
    if source == "proc":
        features.need_procfs()
    with machine_limit(LIMIT):
        result = table("--source", source, "--netns", space.name, "-w", "nat=1:", user=())
    assert (result.code, result.value("entries"), result.value("tcp")) == (1, 0, 0)
    assert "nat 0 (threshold 1:)" in result.status


# --- causes


def dropped(space, network):
    """Rules that let nothing from a network arrive, and track connections."""
    rules = (
        "table inet t { chain o { type filter hook output priority 0; ct state new accept; }; "
        f"chain i {{ type filter hook input priority 0; ip saddr {network} drop; }}; }}"
    )
    space.run("nft", "-f", "-", text=rules)


# Connections that stay open, each of which has something to say; and whether they still say it.
TALK = """
import socket, sys, time
source, target, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
server = socket.create_server((target, 443), backlog=512)
def pair():
    one = socket.create_connection((target, 443), timeout=0.5, source_address=(source, 0))
    return one, server.accept()[0]
def hears(other):
    other.setblocking(False)
    try:
        return other.recv(9) == b"x"
    except BlockingIOError:
        return False
pairs = [pair() for _ in range(number)]
print("ready", flush=True)
sys.stdin.readline()
for one, _ in pairs:
    one.send(b"x")
time.sleep(0.5)
print(sum(hears(other) for _, other in pairs), flush=True)
try:
    more = bool(pair())
except socket.timeout:
    more = False
print(more, flush=True)
sys.stdin.readline()
"""


@contextmanager
def talk(space, *words):
    """TALK, once all its connections stand; a line makes it go on."""
    command = [*inside(space), sys.executable, "-c", TALK, *map(str, words)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with limit_lock(), subprocess.Popen(command, **pipes) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_printed_rule_limits_a_source_and_spares_established_connections(space, table):
    space.run("ip", "route", "add", "local", "10.0.0.0/8", "dev", "lo")
    dropped(space, "192.0.2.0/24")
    with talk(space, "10.7.0.1", "10.8.0.1", 150) as process:
        with machine_limit(200):
            result = table("--netns", space.name, "-vv", user=())
        lines = result.lines[: result.lines.index("Undo:")]
        commands = [line[2:] for line in lines if " nft " in line]
        assert commands, result.out
        assert any(line.startswith("One source dominates") for line in lines)
        for command in commands:
            few = command.replace("over 1000", "over 0")
            assert subprocess.run(["sh", "-c", few], capture_output=True).stderr == b""
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "150\n"
        assert process.stdout.readline() == "False\n"


def test_host_with_unanswered_connections_is_not_told_to_block_itself(space, table):
    space.run("ip", "address", "add", "10.5.5.5/32", "dev", "lo")
    space.run("ip", "route", "add", "local", "10.8.0.0/16", "dev", "lo")
    dropped(space, "10.5.5.5")
    script = (
        "import socket\n"
        "for port in range(2000, 2150):\n"
        "    one = socket.socket()\n"
        "    one.setblocking(False)\n"
        "    one.bind(('10.5.5.5', port))\n"
        "    one.connect_ex(('10.8.0.1', 7777))\n"
    )
    space.run(sys.executable, "-c", script)
    with machine_limit(170):
        here = table("-v", before=inside(space), user=())
        there = table("-v", "--netns", space.name, user=())
    for result in (here, there):
        assert result.code == 1
        assert "10.8.0.1" in result.status
        assert "saddr 10.5.5.5" not in result.out
        assert "10.5.5.5 (this namespace)" in result.status


def test_unacknowledged_connections_are_not_leaks(space, table):
    space.run("ip", "route", "add", "local", "10.0.0.0/8", "dev", "lo")
    dropped(space, "192.0.2.0/24")
    with talk(space, "10.7.0.1", "10.8.0.1", 120) as process:
        space.run("nft", "insert rule inet t i ip saddr 10.7.0.1 drop")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "0\n"
        assert int(re.search(r"6 (\d+) ESTAB", listing(space))[1]) <= 300
        result = table("-vv", before=inside(space), user=())
    assert result.value("tcp_established") == 120
    assert "silent" not in result.out


def test_timeouts_are_those_of_the_namespace(space, table):
    name = "net.netfilter.nf_conntrack_tcp_timeout_close_wait"
    space.run("sysctl", "-q", "-w", f"{name}=777")
    space.insert(
        new_entry(
            bytes((10, 0, 0, 1)), bytes((10, 9, 9, 9)), 6, 2000 + number, 443,
            state=5, status=BOTH_WAYS,
        )
        for number in range(200)
    )  # fmt: skip
    with machine_limit(240):
        result = table("--netns", space.name, user=())
    assert any(name in line and "777" in line for line in result.lines), result.out


# --- what goes wrong


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no table\n",
        random.Random(1).randbytes(100000),
        gzip.compress(b"")[:10],
        b"\0" * 10**6,
    ],
    ids=["empty", "words", "rubbish", "cut", "zeros"],
)
def test_bad_file_is_one_sentence_and_unknown(table, tmp_path, content):
    tmp_path.chmod(0o755)
    path = tmp_path / "bad"
    path.write_bytes(content)
    with path.open() as file:
        result = table("--source", "-", stdin=file)
    assert result.code == 3
    # It is printed whole below a status line that has to cut it.
    assert len(result.lines) == result.status.endswith("...")


# Lines of as many sources, two to each: none is like another.
LISTING = """
import sys
for first in range(0, int(sys.argv[1]), 10000):
    sys.stdout.write("".join(
        f"tcp      6 {n % 432000} ESTABLISHED src=10.{n >> 17}.{n >> 9 & 255}.{n >> 1 & 255} "
        f"dst=192.0.2.{n % 250} sport={1024 + n % 60000} dport=443 src=192.0.2.{n % 250} "
        f"dst=10.{n >> 17}.{n >> 9 & 255}.{n >> 1 & 255} sport=443 dport={1024 + n % 60000} "
        "[ASSURED] mark=0 use=1\\n"
        for n in range(first, first + 10000)
    ))
"""


def test_listing_of_a_million_lines_needs_little_memory(table):
    # 170 MB of text, half a million sources; make bench reads ten times as much.
    little = ["prlimit", f"--data={48 << 20}"]
    made = [sys.executable, "-c", LISTING, "1000000"]
    with subprocess.Popen(made, stdout=subprocess.PIPE) as lines:
        result = table("--source", "-", "-t", "0", before=little, stdin=lines.stdout)
    assert result.value("entries") == result.value("tcp_established") == 1000000
    assert result.value("top_service_share") == 100


def test_missing_namespace_is_unknown(table):
    result = table("--netns", "cct-never-was", "--sudo")
    assert (result.code, result.lines[:1]) == (
        3,
        ["UNKNOWN: namespace cct-never-was: not found (/run/netns/cct-never-was)"],
    )


def written(pid):
    """How many bytes a process has written."""
    with open(f"/proc/{pid}/io") as file:
        return int(re.search(r"wchar: (\d+)", file.read())[1])


def reader_of(process):
    """The pid of a check's reader, once there is one."""
    while process.poll() is None:
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            for child in map(int, file.read().split()):
                with open(f"/proc/{child}/cmdline") as words:
                    if "reader.py" in words.read():
                        return child
    raise AssertionError("the check ended without a reader")


def kill_reader_in_the_middle(process, whole):
    """Return whether the reader was killed when it had begun to hand out a dump, and not ended."""
    reader = reader_of(process)
    # A process that has ended and was not waited for has no such file any more.
    with suppress(OSError):
        while not written(reader):
            pass
        os.kill(reader, signal.SIGSTOP)
        if 0 < written(reader) < whole:
            os.kill(reader, signal.SIGKILL)
            return True
        os.kill(reader, signal.SIGCONT)
    return False


def test_reader_killed_during_a_dump_is_unknown(space, installed, state):
    tree, python = installed
    messages = list(many_entries(60000, 5000))
    words = ("--state-dir", state, "--source", "netlink", "--max-entries", "0", "-t", "0")
    with machine_limit(100000):
        space.insert(messages)
        whole = sum(map(len, space.dump()))
        for _ in range(10):
            with subprocess.Popen(
                [*inside(space), python, tree / "check_conntrack_table", *words],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            ) as check:  # fmt: skip
                # `ip` becomes the check, so that its pid is the check's.
                killed = kill_reader_in_the_middle(check, whole)
                out, _ = check.communicate()
            if killed:
                break
    assert killed
    assert check.returncode == 3
    # Where a processor is slow, some entries end before the check counts them.
    assert re.match(
        r"CONNTRACK_TABLE UNKNOWN - (\d+) of 100000 entries in use \((60.0|59.\d)%\); "
        r"cannot read the table: netlink: the reader was ended by signal 9 \| usage=",
        out,
    )
    assert "tcp=" not in out


def test_table_without_proc_files_is_read_over_netlink(space, table):
    fill(space, 100)
    hide = "mount -t tmpfs none /proc/$$/net; mount -t tmpfs none /proc/$$/task/$$/net"
    hidden = ["unshare", "-m", "sh", "-c", f'set -e; {hide}; exec "$@"', "sh"]
    with machine_limit(LIMIT):
        result = table(before=[*inside(space), *hidden], user=())
    assert result.value("entries") == 100


# --- snapshots


@pytest.fixture
def kept():
    """A folder for snapshots of the unprivileged user's own."""
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    shutil.chown(folder, 65534, 65534)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("source", ["netlink", "proc", "conntrack"])
def test_snapshot_agrees_with_conntrack(space, table, kept, source):
    if source == "proc":
        features.need_procfs()
    with limit_lock():
        insert_every_kind(space)
    fill(space, 3000)
    words = ("--source", source, "--save", kept, "-w", "entries=5")
    with machine_limit(LIMIT):
        result = table(*words, before=inside(space), user=())
        truth = listing(space)
    (path,) = kept.iterdir()
    assert f"Saved the table in {path}" in result.lines
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (65534, 0o600)
    header, *lines, end = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert header.startswith("# check-conntrack table time=")
    assert f" count={len(lines)} max={LIMIT} " in header
    assert end == f"# check-conntrack end entries={len(lines)}"
    assert sorted(map(without_seconds, lines)) == sorted(map(without_seconds, truth.splitlines()))


def test_unprivileged_user_saves_snapshots_through_sudo(space, table, kept, sudoers):
    fill(space, 3000)
    with machine_limit(3200):
        result = table("--sudo", "--save", kept, before=inside(space))
    assert result.code == 2
    assert len(list(kept.iterdir())) == 1


def test_full_disk_leaves_the_verdict_as_it_is(space, table, kept):
    fill(space, 12000, 4000)
    script = f"mount -t tmpfs -o size=16k,uid=65534 none {kept}"
    small = [
        "unshare",
        "-m",
        "sh",
        "-c",
        f'{script}; "$@"; code=$?; ls -A {kept}; exit $code',
        "sh",
    ]
    with machine_limit(13000):  # below 95%, where the kernel evicts
        result = table("--save", kept, before=[*inside(space), *small], user=())
    assert result.code == 2
    assert f"no snapshot: {kept}: No space left on device" in result.lines
    assert "conntrack-" not in result.out


def test_root_saves_nothing_where_its_user_may_not_write(space, table, tmp_path):
    fill(space, 100)
    tmp_path.chmod(0o755)
    with machine_limit(110):
        result = table("--save", tmp_path, before=inside(space), user=())
    assert result.code == 2
    assert f"no snapshot: {tmp_path}: Permission denied" in result.out
    assert list(tmp_path.iterdir()) == []


def test_check_leaves_no_child_behind(space, table):
    fill(space, 12000, 4000)
    with machine_limit(LIMIT):
        table("--max-entries", "1000", before=inside(space), user=())
    until = time.monotonic() + 3 * SLOWNESS
    while True:
        left = run("ip", "netns", "pids", space.name).out
        if not left or time.monotonic() > until:
            break
        time.sleep(0.05)
    assert left == ""
