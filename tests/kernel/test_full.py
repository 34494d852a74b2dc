"""check_conntrack_full on real overflows, through its front door."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from support import features, journald, overflow
from support.commands import EMULATED, NOBODY, hidden, passing
from support.machine import limit_lock, machine_wide
from support.netns import Namespace, wait_until

NO_RING = "mount --bind /dev/null /dev/kmsg"
NO_LOGS = "mount -t tmpfs none /var/log; mount -t tmpfs none /run/log 2>/dev/null || true"
NO_JOURNAL = "mount --bind /bin/false $(command -v journalctl)"
NO_PROC_COUNTERS = "mount -t tmpfs none /proc/$$/net; mount -t tmpfs none /proc/$$/task/$$/net"
MAY_READ_RING = [*NOBODY, "--inh-caps", "+syslog", "--ambient-caps", "+syslog"]


def lose_packets(name: str, limit: int = 8) -> None:
    """Lose a few packets: ten lines in five seconds are all the kernel logs for all tests."""
    overflow.overflow(Namespace(name), limit, 3)


@contextlib.contextmanager
def just_overflowed():
    """A namespace whose table has just overflowed, as the kernel itself has said; its age."""
    # A window that begins before the namespace was made covers all that its counters hold.
    begun = time.monotonic()
    with overflow.namespace() as namespace:
        name = namespace.name
        where = f" in netns {namespace.inode}" if features.log_names_namespaces() else ""
        message = f"table full{where}, dropping packet"
        with overflow.NewMessages() as new:

            def said():
                lose_packets(name)
                return new.hold(message)

            # The rate limit is the whole machine's: others may have used it up.
            assert wait_until(said, 40), "the kernel has said nothing"
        yield name, time.monotonic() - begun + 5


@pytest.fixture
def overflowed(need):
    """As just_overflowed."""
    need("ip", "nft", "conntrack")
    with just_overflowed() as found:
        yield found


@pytest.fixture
def logs():
    """A folder of log files that the unprivileged user may read."""
    folder = Path(tempfile.mkdtemp(prefix="check-conntrack-logs-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def stamp(ago: float) -> str:
    """A moment in the past as newer rsyslog writes it."""
    moment = time.time() - ago
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + ".000000+00:00"


TABLE_FULL = "nf_conntrack: nf_conntrack: table full, dropping packet"


def quiet() -> str:
    """Two lines of another host, which cover the window, also that of this boot."""
    since = 7200 + min(time.clock_gettime(time.CLOCK_BOOTTIME), 300 * 86400)
    return line(since, "all is quiet") + line(5, "all is quiet")


def line(ago: float, text: str = TABLE_FULL, host: str = "router") -> str:
    """A line of the kernel's in a log file."""
    # The kernel's own stamp is what tells two lines from two copies of one.
    return f"{stamp(ago)} {host} kernel: [{86400 * 400 - ago:12.6f}] {text}\n"


# --- the ring buffer


def test_full_finds_an_overflow_with_its_namespace_and_its_counters(overflowed, full):
    features.need_names_in_log()
    name, age = overflowed
    result = full("--netns", name, "--since", f"{age:.0f}s", user=())
    assert result.code == 2
    assert re.match(
        r"CONNTRACK_FULL CRITICAL - \d+ packets? dropped in the last [0-9ms ]+, "
        rf'\d+ "table full" messages?, latest \d+s ago in namespace {name} \(kernel log\)',
        result.status,
    )
    assert result.value("table_full") >= 1
    assert result.value("drop_total") > 0
    assert list(result.perfdata)[:3] == ["table_full", "suppressed", "other_loss"]
    assert any(re.match(rf"  {name} +\d+", text) for text in result.lines)
    assert any("sysctl -w net.netfilter.nf_conntrack_max=" in text for text in result.lines)


def test_full_all_names_the_namespace_that_lost_packets(overflowed, full):
    features.need_names_in_log()
    name, age = overflowed
    result = full("--netns", "all", "--since", f"{age:.0f}s", user=())
    assert result.code == 2
    assert result.value(f"{name}::table_full") >= 1
    assert result.value(f"{name}::drop_total") > 0
    labels = list(result.perfdata)
    assert labels.index(f"{name}::table_full") > labels.index("search_restart_total")


def test_full_all_finds_by_the_counters_whose_messages_without_a_name_are(overflowed, full):
    if features.log_names_namespaces():
        pytest.skip("this kernel's log names the namespace")
    name, age = overflowed
    result = full("--netns", "all", "--since", f"{age:.0f}s", user=())
    assert result.code == 2
    said = rf"latest \d+s ago in namespace {name} by the counters \(kernel log"
    assert re.search(said, result.status)
    assert result.value("table_full") >= 1
    assert result.value(f"{name}::full_drops") > 0
    alone = full("--netns", name, "--since", f"{age + 20:.0f}s", "--no-state", user=())
    assert (alone.code, alone.value("table_full") >= 1) == (2, True)


def test_full_a_namespace_with_a_reused_number_is_not_blamed(need, full):
    need("ip", "nft", "conntrack")
    features.need_host_never_suspended()
    features.need_names_in_log()
    for number in range(10):
        # The kernel gives the lowest free number, and takes namespaces down in its own time: one
        # of another test must not become free meanwhile.
        time.sleep(2)
        with just_overflowed() as (name, age):
            inode = Namespace(name).inode
            subprocess.run(["ip", "netns", "delete", name], check=True)
            time.sleep(2)
            fresh = f"anew-{number}-{name}"
            subprocess.run(["ip", "netns", "add", fresh], check=True)
            try:
                if Namespace(fresh).inode != inode:
                    continue
                result = full("--netns", "all", "--since", f"{age + 60:.0f}s", user=())
            finally:
                subprocess.run(["ip", "netns", "delete", fresh], check=True)
            break
    else:
        pytest.fail("nobody was given the number anew")
    assert result.code == 2
    assert f"namespace net:[{inode}]" in result.out
    assert f"  net:[{inode}] (gone)" in result.out
    assert f"namespace {fresh} " not in result.out


@pytest.mark.usefixtures("procfs")
def test_full_counters_cover_the_window_without_privileges(need, full):
    need("dmesg")
    if Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() != "1":
        pytest.skip("everybody may read the kernel log here")
    before = hidden(f"{NO_LOGS}; {NO_JOURNAL}")
    with overflow.namespace() as namespace:
        inside = ["ip", "netns", "exec", namespace.name, *before]
        fresh = full("-v", before=inside)
        lose_packets(namespace.name)
        first = full("--state-key", "later", before=inside)
        second = full("--state-key", "later", before=inside)
        alone = full("--no-state", before=inside)
    # Counters at zero show that nothing was lost since the namespace was made.
    assert fresh.code == 0
    assert re.fullmatch(
        r"CONNTRACK_FULL OK - not full (in the last 15m|since boot at \d\d:\d\d) \(counters\)",
        fresh.status,
    )
    assert "table_full" not in fresh.perfdata
    assert fresh.perfdata["drop_total"].endswith("c;;;0")
    assert any(text.startswith("Not read: /dev/kmsg: ") for text in fresh.lines)
    assert first.code == 0
    assert re.fullmatch(
        r"CONNTRACK_FULL OK - not full now \(counters\), watching since \d\d:\d\d", first.status
    )
    assert (second.code, alone.code) == (3, 3)
    for result in (second, alone):
        assert "; not covered " in result.status
        assert "in the last" not in result.status


def test_full_reads_the_ring_buffer_through_sudo(overflowed, full, sudoers):
    _, age = overflowed
    result = full("--sudo", "--since", f"{age:.0f}s")
    assert result.code == 2
    assert "(kernel log)" in result.status


def test_full_reads_the_ring_buffer_with_the_capability(overflowed, full):
    _, age = overflowed

    result = full("-vvv", "--since", f"{age:.0f}s", user=MAY_READ_RING)
    assert result.code == 2
    assert any("Checked as uid 65534" in text for text in result.lines)
    assert any(text.startswith("Read /dev/kmsg by the reader: ") for text in result.lines)


@pytest.mark.parametrize("more", [(), ("--netns", "all")], ids=["own", "all"])
def test_full_reads_the_ring_buffer_also_where_other_capabilities_are_missing(
    overflowed, full, more
):
    _, age = overflowed
    hide = hidden(NO_PROC_COUNTERS)
    result = full("-vvv", "--since", f"{age:.0f}s", *more, before=hide, user=MAY_READ_RING)
    assert result.code == 2
    assert any(text.startswith("Read /dev/kmsg by the reader: ") for text in result.lines)
    assert "CAP_SYSLOG" not in result.out


def test_full_leaves_out_what_a_program_writes_into_the_ring(full):
    with limit_lock():
        # What others have overflowed until now leaves the window first.
        time.sleep(1.1)
        begun = time.time()
        with open("/dev/kmsg", "w") as ring:
            ring.write("nf_conntrack: table full, dropping packet")
        result = full("--since", "1s", "--no-state", user=())
    assert time.time() - begun < 30
    assert result.value("table_full") == 0


def test_full_looks_elsewhere_for_what_was_before_the_boot(full, logs):
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    (logs / "messages").write_text(line(uptime + 7200, "eth0: link up") + line(uptime + 3600))
    alone = f"{NO_LOGS}; {NO_JOURNAL}"
    window = ("--no-state", "--since", f"{uptime + 5400:.0f}s", "-vvv")
    without = full(*window, user=(), before=hidden(alone))
    found = full(*window, user=(), before=hidden(f"{alone}; cp {logs}/messages /var/log/messages"))
    assert without.code != 3, "time before this boot is no gap"
    assert found.code == 2
    assert found.value("table_full") > without.value("table_full")
    assert any(text.startswith("Read /var/log/messages") for text in found.lines)


# --- the journal


@pytest.mark.usefixtures("procfs")
def test_full_reads_the_journal_where_the_ring_cannot_be_read(overflowed, full, tmp_path):
    _, age = overflowed
    need = tempfile.mkdtemp(prefix="check-conntrack-journal-")
    folder = Path(need)
    folder.chmod(0o755)
    try:
        journald.journal(str(folder))
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        machine = Path("/etc/machine-id").read_text().strip()
        place = f"/run/log/journal/{machine}"
        source = next(path for path in folder.rglob("*.journal")).parent
        script = (
            f"{NO_RING}; mount -t tmpfs none /var/log; mkdir -p /run/log; "
            f"mount -t tmpfs none /run/log; mkdir -p {place}; cp {source}/* {place}/"
        )
        result = full("--since", f"{age + 30:.0f}s", before=hidden(script))
        silent = full("--since", f"{age + 30:.0f}s", "-v", before=hidden(f"{NO_RING}; {NO_LOGS}"))
    finally:
        shutil.rmtree(folder)
    assert result.code == 2
    assert "(journal)" in result.status
    assert silent.code == 0
    assert silent.status.startswith("CONNTRACK_FULL OK - not full in the last ")
    assert silent.status.endswith(" (counters)")
    assert any(text.startswith("Not read: journal: ") for text in silent.lines)


# --- log files


def test_full_reads_a_log_file_once(full, logs):
    log = logs / "kern.log"
    log.write_text(line(2000) + line(100) + line(50))
    first = full("--log", log)
    second = full("--log", log)
    with open(log, "a") as file:
        file.write(line(1))
    third = full("--log", log)
    assert [each.value("table_full") for each in (first, second, third)] == [2, 2, 3]
    assert first.code == second.code == third.code == 2
    assert f"({log})" in first.status


def test_full_a_wider_window_finds_what_a_shorter_one_left_out(full, logs):
    log = logs / "kern.log"
    log.write_text(line(7200) + line(50))
    found = [full("--log", log, "--since", since) for since in ("15m", "1d", "15m")]
    assert [each.value("table_full") for each in found] == [1, 2, 1]


def test_full_a_rotation_between_two_runs_loses_nothing_and_counts_nothing_twice(full, logs):
    log = logs / "kern.log"
    log.write_text(line(100))
    assert full("--log", log).value("table_full") == 1
    with open(log, "a") as file:
        file.write(line(50))
    log.rename(logs / "kern.log.1")
    log.write_text(line(20))
    assert full("--log", log).value("table_full") == 3
    assert full("--log", log).value("table_full") == 3


def test_full_reads_collected_logs_of_any_age(full, logs):
    for number in range(3):
        with gzip.open(logs / f"kern.log.{number}.gz", "wt") as file:
            file.write(line(86400 * 40 * (number + 1)))
    result = full("--since", "all", "--log", f"{logs}/kern.log.*", "--no-state")
    assert result.value("table_full") == 3
    assert result.code == 2


def test_full_reads_standard_input(full):
    text = line(10) + line(5)
    result = full("--since", "all", "--log", "-", "--no-state", input=text)
    assert result.value("table_full") == 2


def test_full_counts_other_loss_and_suppressed_messages_apart(full, logs):
    log = logs / "messages"
    log.write_text(
        line(30, "nf_conntrack: expectation table full")
        + line(20, "openvswitch: zone: 7 exceeds conntrack limit")
        + line(10, "net_ratelimit: 1871 callbacks suppressed")
    )
    result = full("--log", log)
    assert result.code == 1
    assert result.value("other_loss") == 2
    assert result.value("suppressed") == 1871
    assert result.value("table_full") == 0
    assert '1 "expectation table full", 1 "zone limit" messages in the last 15m' in result.status
    assert any("nf_conntrack_expect_max=" in text for text in result.lines)
    assert "  ovs-appctl dpctl/ct-get-limits" in result.lines
    log.write_text(line(30, "nf_conntrack: expectation table full"))
    alone = full("--log", log, "--state-key", "alone")
    assert any("nf_conntrack_expect_max=" in text for text in alone.lines)
    assert not any("ovs-appctl" in text for text in alone.lines)


def test_full_says_that_messages_are_of_other_hosts(full, logs):
    log = logs / "messages"
    log.write_text("".join(line(at, TABLE_FULL, host=f"gw{at}") for at in range(5, 10)))
    elsewhere = full("--log", log, "--state-key", "elsewhere")
    said = "The messages are of gw9, gw8, gw7 and 2 more: run check_conntrack_usage -v there."
    assert said in elsewhere.lines
    log.write_text(log.read_text() + line(1, TABLE_FULL, host=os.uname().nodename))
    here = full("--log", log, "--state-key", "here")
    assert not any("The messages are of" in text for text in here.lines)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "a FIFO"),
        (lambda path: path.mkdir(), "a directory"),
        (lambda path: path.symlink_to("/etc/passwd"), "link"),
        (lambda path: path.write_bytes(bytes(range(256)) * 100), "no lines of the kernel"),
        (lambda path: path.write_text("hello\n" * 100), "no lines of the kernel"),
        (lambda path: (path.touch(), path.chmod(0)), "permission denied"),
        (lambda path: None, "not found"),
    ],
)
def test_full_says_why_a_file_is_no_log(full, logs, make, reason):
    log = logs / "kern.log"
    make(log)
    result = full("--log", log)
    assert result.code == 3
    assert reason in result.out
    assert str(log) in result.status


def test_full_counts_what_can_be_read_beside_what_cannot(full, logs):
    good, bad = logs / "kern.log", logs / "messages"
    good.write_text(line(10))
    whole = gzip.compress((line(20) + line(15)).encode() * 2000)
    bad.write_bytes(whole[: len(whole) // 2])
    result = full("--log", good, "--log", bad, "--log", logs / "none")
    assert result.code == 2
    assert result.value("table_full") >= 1
    assert any(f"{bad}: " in text for text in result.lines)
    assert any(f"{logs}/none: not found" in text for text in result.lines)


def test_full_a_named_log_that_is_missing_beside_a_quiet_one_is_unknown(full, logs):
    (logs / "kern.log").write_text(quiet())
    result = full("--log", logs / "kern.log", "--log", logs / "other.log")
    assert result.code == 3
    assert "/other.log: not found" in result.status, "the path may be shortened"
    assert f"{logs}/other.log: not found" in result.out
    assert full("--log", logs / "kern.log", "--state-key", "alone").code == 0


def test_full_a_log_that_was_just_rotated_is_quiet_and_an_empty_one_is_not(full, logs):
    log = logs / "kern.log"
    log.write_text(quiet())
    log.rename(logs / "kern.log.1")
    log.touch()
    result = full("--log", log)
    assert result.code == 0
    assert result.value("table_full") == 0
    assert full("--log", log, "--since", "all", "--no-state").code == 0
    (logs / "kern.log.1").unlink()
    # An emulated machine takes so long that a part of the window is not covered.
    assert full("--log", log).code == 0 or EMULATED, "what it was is remembered"
    unknown = full("--log", log, "--no-state")
    assert unknown.code == 3
    assert f"{log}: is empty" in unknown.status, unknown.status
    assert "table_full" not in unknown.perfdata


def test_full_root_s_own_files_are_read_by_hand(full):
    folder = Path(tempfile.mkdtemp(prefix="check-conntrack-root-"))
    try:
        log = folder / "dmesg.txt"
        log.write_text(line(10))
        log.chmod(0o600)
        by_root = full("--since", "all", "--no-state", "--log", log, user=())
        by_glob = full("--since", "all", "--no-state", "--log", f"{folder}/*.txt", user=())
        by_other = full("--since", "all", "--no-state", "--log", log, "--user", "nobody", user=())
    finally:
        shutil.rmtree(folder)
    assert (by_root.code, by_root.value("table_full")) == (2, 1)
    assert (by_glob.code, by_glob.value("table_full")) == (2, 1)
    assert by_other.code == 3
    assert "permission denied" in by_other.status


@pytest.mark.parametrize("since", ["15m", "all"])
def test_full_an_empty_pipe_is_no_quiet_log(full, since):
    for before in ((), ["sh", "-c", 'exec "$@" <&-', "sh"]):
        result = full("--since", since, "--log", "-", "--no-state", before=before, input="")
        assert result.code == 3
        assert "standard input: is empty" in result.status
        assert "table_full" not in result.perfdata


def test_full_a_date_in_the_future_is_said_and_not_counted(full, logs):
    log = logs / "kern.log"
    log.write_text(line(7200, "all is quiet") + line(-86400) + line(10))
    result = full("--log", log)
    assert result.value("table_full") == 1
    assert any(
        text.startswith(f"Not counted: 1 message of unknown time in {log}") for text in result.lines
    )


def test_full_escapes_in_a_log_never_reach_the_output(full, logs):
    log = logs / "kern.log"
    log.write_text(line(10) + line(5, "\x1b[31m| table full, dropping packet"))
    result = full("--log", log, "-vv")
    assert "\x1b" not in result.out
    assert result.value("table_full") == 1


# --- the counters


@pytest.mark.usefixtures("procfs")
def test_full_the_second_run_knows_what_rose_since_the_first(overflowed, full, logs):
    name, _ = overflowed
    log = logs / "kern.log"
    log.write_text(quiet())
    inside = ["ip", "netns", "exec", name]
    first = full("--log", log, before=inside)
    assert "full_drops" not in first.perfdata
    assert first.code == 0
    lose_packets(name)
    second = full("--log", log, before=inside)
    assert second.value("full_drops") > 0
    assert second.code >= 1
    third = full("--log", log, before=[*inside, *passing(600)])
    assert third.value("full_drops") == second.value("full_drops")
    gone = full("--log", log, "--state-key", "x", before=[*inside, *passing(600)])
    assert "full_drops" not in gone.perfdata


@pytest.mark.usefixtures("procfs")
def test_full_drops_leave_the_window(overflowed, full, logs):
    name, _ = overflowed
    log = logs / "kern.log"
    log.write_text(quiet())
    inside = ["ip", "netns", "exec", name]
    full("--log", log, before=[*inside, *passing(0)])
    lose_packets(name)
    assert full("--log", log, before=[*inside, *passing(60)]).value("full_drops") > 0
    full("--log", log, before=[*inside, *passing(120)])
    late = full("--log", log, before=[*inside, *passing(2000)])
    assert late.value("full_drops") == 0
    assert late.code == 0


@pytest.mark.usefixtures("procfs")
def test_full_since_boot_needs_no_history(overflowed, full, logs):
    name, _ = overflowed
    log = logs / "kern.log"
    log.write_text(quiet())
    result = full(
        "--log", log, "--since", "boot", "--no-state", before=["ip", "netns", "exec", name]
    )
    assert result.value("full_drops") > 0


@pytest.mark.usefixtures("procfs")
def test_full_drops_of_a_nearly_full_table_are_critical(overflowed, full, logs):
    name, _ = overflowed
    log = logs / "kern.log"
    log.write_text(quiet())
    inside = ["ip", "netns", "exec", name]
    entries = 40
    lose_packets(name, entries)
    options = ["--log", log, "--since", "boot", "--no-state"]
    with machine_wide(nf_conntrack_max=100 * entries):
        far = full(*options, before=inside)
    with machine_wide(nf_conntrack_max=entries + 1):
        near = full(*options, "-c", "table_full=~:", before=inside)
        own = full(*options, "-w", "full_drops=0", before=inside)
    assert far.value("early_drops") == 0, "nothing here can be evicted"
    assert (far.code, near.code, own.code) == (1, 2, 1)


@pytest.mark.usefixtures("procfs")
def test_full_finds_what_was_logged_while_the_log_could_not_be_read(full, logs):
    log = logs / "kern.log"
    log.write_text(line(900, "all is quiet", host=os.uname().nodename))
    words = ("--log", log, "--since", "last")
    assert full(*words).code == 0
    time.sleep(1.1)
    with log.open("a") as file:
        file.write(line(0, host=os.uname().nodename))
    log.chmod(0o600)
    time.sleep(1.1)
    assert full(*words).code == 3
    log.chmod(0o644)
    heard = full(*words)
    assert (heard.code, heard.value("table_full")) == (2, 1)
    assert full(*words).code == 0


def test_full_a_table_at_its_limit_is_critical_and_says_whether_it_evicts(netns, full, logs):
    log = logs / "kern.log"
    log.write_text(quiet())
    namespace = netns()
    namespace.fill(500)
    with machine_wide(nf_conntrack_max=500):
        idle = full("--log", log, before=namespace.command())
    assert idle.code == 2
    assert idle.status == (
        "CONNTRACK_FULL CRITICAL - at the limit: 500 of 500 entries, no drops seen"
    )


FLOOD = """
import itertools, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in itertools.count():
    try:
        s.sendto(b"x", (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", 9))
    except OSError:
        pass
"""


@pytest.mark.usefixtures("procfs")
def test_full_a_table_that_evicts_is_told_from_one_that_drops(full, logs):
    log = logs / "kern.log"
    log.write_text(quiet())
    with overflow.namespace() as namespace:
        inside = ["ip", "netns", "exec", namespace.name]
        full("--log", log, before=inside)
        # In long chains the kernel finds an unassured entry to evict for every new one. Its
        # garbage collector may make room at any moment: new ones have to come all the time.
        with machine_wide(nf_conntrack_max=2000, nf_conntrack_buckets=512):
            flood = subprocess.Popen([*inside, "python3", "-c", FLOOD])
            try:
                results = (full("--log", log, before=inside) for _ in range(30))
                evicting = next((each for each in results if each.code == 2), None)
            finally:
                flood.kill()
                flood.wait()
        namespace.flush()
        overflow.fill_assured(namespace, 300)
        with machine_wide(nf_conntrack_max=300):
            overflow.send(namespace, 0x040000, 0x040000 + 50)
            dropping = full("--log", log, "--state-key", "new", before=inside)
            again = full("--log", log, before=inside)
    assert evicting is not None, "it was never at its limit"
    assert re.match(
        r"CONNTRACK_FULL CRITICAL - at the limit, evicting: 2\d\d\d of 2000 entries, "
        r"\d+ evicted early in the last 15m",
        evicting.status,
    )
    assert "dropped" not in evicting.status
    assert dropping.code == 2
    assert re.match(
        r"CONNTRACK_FULL CRITICAL - full: 300 of 300 entries, new connections are dropped "
        r"\(\d+ in the last 15m\)",
        again.status,
    )


@pytest.mark.usefixtures("procfs")
def test_full_says_how_many_buckets_shorten_the_chains(netns, full, logs):
    log = logs / "kern.log"
    log.write_text(quiet())
    namespace = netns()
    features.need_chain_limit(namespace)
    with machine_wide(nf_conntrack_max=262144, nf_conntrack_buckets=512):
        full("--log", log, before=namespace.command())
        full("--log", log, "--netns", "all", user=())
        # Some of so many must be refused.
        namespace.ip("route add local 10.0.0.0/8 dev lo\n")
        overflow.send(namespace, 0, 24000)
        result = full("--log", log, before=namespace.command())
    assert result.value("chain_overflows") > 0
    assert result.value("full_drops") == 0
    assert result.code == 1
    assert any("hash chain" in text for text in result.lines)
    assert any("nf_conntrack_buckets=65536" in text for text in result.lines)
    # From outside too, although nothing had ever been counted there before.
    elsewhere = full("--log", log, "--netns", "all", user=())
    assert elsewhere.code == 1
    assert f"inserts refused in namespace {namespace.name} in the last" in elsewhere.status
    assert any(f"{namespace.name}::chain_overflows" in text for text in elsewhere.lines)


@pytest.mark.usefixtures("procfs")
def test_full_reads_counters_over_netlink_where_proc_has_none(overflowed, full, logs, sudoers):
    name, _ = overflowed
    log = logs / "kern.log"
    log.write_text(quiet())
    inside = ["ip", "netns", "exec", name]
    plain = full("--log", log, before=inside)
    hide = hidden(NO_PROC_COUNTERS)
    # What the check and the reader's parent see is hidden; both keep the namespace.
    blind = full("--log", log, "-v", "--state-key", "a", before=[*inside, *hide])
    assert plain.value("drop_total") > 0
    assert blind.code == 0
    assert any("CAP_NET_ADMIN" in text for text in blind.lines)
    assert any(" NOPASSWD: " in text for text in blind.lines)
    seen = full("--log", log, "--sudo", "--state-key", "a", before=[*inside, *hide])
    assert seen.perfdata["drop_total"] == plain.perfdata["drop_total"]


# --- nothing to go by


def test_full_without_any_source_is_unknown_and_says_what_to_grant(full):
    script = f"{NO_RING}; {NO_LOGS}; {NO_JOURNAL}; {NO_PROC_COUNTERS}"
    result = full(before=hidden(script))
    assert result.code == 3
    assert "neither the kernel log nor the counters can be read" in result.status
    for source in ("/dev/kmsg", "counters"):
        assert any(text.startswith(f"Not read: {source}: ") for text in result.lines)


def test_full_conntrack_that_is_not_active_cannot_have_been_full(full, logs):
    inactive = hidden(
        f"mount -t tmpfs none /proc/sys/net; {NO_PROC_COUNTERS}; mount -t tmpfs none /sys/module; "
        "if test -e /proc/modules; then mount --bind /dev/null /proc/modules; fi"
    )
    log = logs / "kern.log"
    log.write_text(line(5, "all is quiet"))
    quiet = full("--if-inactive", "warning", "--log", log, before=inactive)
    log.write_text(line(10))
    judged = full("--log", log, before=inactive)
    assert quiet.code == 1
    assert "conntrack is not active on this host" in quiet.status
    assert judged.code == 2
    assert judged.value("table_full") == 1


@pytest.mark.usefixtures("procfs")
def test_full_a_threshold_that_needs_a_history_is_a_warning_without_one(full, logs):
    log = logs / "kern.log"
    log.write_text(quiet())
    result = full("--log", log, "--no-state", "-w", "early_drops=5")
    assert result.code == 1
    assert "no history: --no-state" in result.status


def test_full_a_damaged_state_begins_anew(full, logs, state):
    log = logs / "kern.log"
    log.write_text(line(10))
    full("--log", log)
    kept = next(state.glob("65534/full*.json"))
    good = json.loads(kept.read_text())
    for key in good:
        for value in (None, "x", [], {}, -1, 1e300, [[1]]):
            kept.write_text(json.dumps({**good, key: value}))
            result = full("--log", log)
            assert result.code == 2
            assert result.value("table_full") == 1
    kept.write_text("[" * 5000)
    assert full("--log", log).value("table_full") == 1


@pytest.mark.parametrize(
    "arguments",
    [["--since", "yesterday"], ["--since", "-5m"], ["--since", "0"], ["-w", "usage=3"]],
)
def test_full_a_bad_command_line_is_unknown_in_one_sentence(full, arguments):
    result = full(*arguments)
    assert result.code == 3
    # It is printed whole below a status line that has to cut it.
    assert len(result.lines) == result.status.endswith("...")


# --- more than one namespace, and source NAT


def test_full_names_the_namespace_whose_window_is_not_covered(full):
    before = hidden(f"{NO_LOGS}; {NO_JOURNAL}; {NO_RING}")
    with overflow.namespace() as namespace:
        lose_packets(namespace.name)
        # It was made within the window: all that it has counted was lost within the window.
        young = full("--netns", namespace.name, user=(), before=before)
        time.sleep(3)
        again = full(
            "--netns", namespace.name, "--since", "2s", "--no-state", user=(), before=before
        )
    assert young.value("full_drops") > 0
    assert "not covered" not in young.status
    assert again.code == 3
    assert f"namespace {namespace.name} not covered " in again.status


def test_full_a_namespace_made_anew_with_the_same_name_counts_from_its_birth(full):
    before = hidden(f"{NO_LOGS}; {NO_JOURNAL}; {NO_RING}")
    with overflow.namespace() as namespace:
        lose_packets(namespace.name)
        old = full("--netns", namespace.name, user=(), before=before).value("drop_total")
        subprocess.run(["ip", "netns", "delete", namespace.name], check=True)
        subprocess.run(["ip", "netns", "add", namespace.name], check=True)
        fresh = Namespace(namespace.name)
        fresh.run("ip", "link", "set", "lo", "up")
        fresh.ip("route add local 10.0.0.0/8 dev lo\n")
        fresh.track()
        quiet_one = full("--netns", namespace.name, user=(), before=before)
        lose_packets(namespace.name)
        lossy = full("--netns", namespace.name, user=(), before=before)
    assert old > 0
    assert quiet_one.code == 0
    assert "not covered" not in quiet_one.status
    assert lossy.value("full_drops") == lossy.value("drop_total") > 0


_CONNECT = """
import socket
for port in range(30000, 30060):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("10.0.0.1", port))
    try:
        s.sendto(b"x", ("10.0.0.2", 53))
    except OSError:
        pass
    t = socket.socket()
    t.setblocking(False)
    t.bind(("10.0.0.1", port))
    t.connect_ex(("10.0.0.2", 80))
"""


@pytest.mark.usefixtures("procfs")
def test_full_source_nat_ports_that_are_exhausted_are_an_alarm(full, logs):
    log = logs / "kern.log"
    log.write_text(quiet())
    with overflow.namespace() as namespace:
        inside = ["ip", "netns", "exec", namespace.name]
        namespace.run("ip", "addr", "add", "10.0.0.1/32", "dev", "lo")
        namespace.run(
            "nft",
            "add table ip n; add chain ip n p { type nat hook postrouting priority 100; }; "
            "add rule ip n p ip protocol tcp snat to 10.9.9.9:20000-20009; "
            "add rule ip n p ip protocol udp snat to 10.9.9.9:20000-20009",
        )
        full("--log", log, before=inside)
        namespace.run("python3", "-c", _CONNECT)
        result = full("--log", log, "-v", before=inside)
    assert result.code == 1, result.out
    assert result.value("full_drops") == 0
    assert result.value("insert_failures") >= 50
    assert re.match(
        r"CONNTRACK_FULL WARNING - \d+ inserts failed together with drops in the last 15m: "
        r"source-NAT ports are exhausted, or packets clashed",
        result.status,
    )
