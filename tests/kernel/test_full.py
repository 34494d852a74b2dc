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

from support import journald, overflow
from support.commands import NOBODY, hidden, passing
from support.machine import limit_lock, machine_wide
from support.netns import Namespace, wait_until

NO_RING = "mount --bind /dev/null /dev/kmsg"
NO_LOGS = "mount -t tmpfs none /var/log; mount -t tmpfs none /run/log 2>/dev/null || true"
NO_JOURNAL = "mount --bind /bin/false $(command -v journalctl)"
NO_PROC_COUNTERS = "mount -t tmpfs none /proc/$$/net; mount -t tmpfs none /proc/$$/task/$$/net"


def lose_packets(name: str, limit: int = 8) -> None:
    """Lose a few packets: ten lines in five seconds are all the kernel logs for all tests."""
    overflow.overflow(Namespace(name), limit, 3)


@contextlib.contextmanager
def just_overflowed():
    """A namespace whose table has just overflowed, as the kernel itself has said; its age."""
    with overflow.namespace() as namespace:
        name = namespace.name
        message = f"table full in netns {namespace.inode}, dropping packet"

        def count():
            log = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
            return log.count(message)

        # An earlier namespace had the same number, maybe.
        before = count()

        def said():
            lose_packets(name)
            return count() > before

        # The rate limit is the whole machine's: others may have used it up.
        begun = time.monotonic()
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


def line(ago: float, text: str = TABLE_FULL, host: str = "router") -> str:
    """A line of the kernel's in a log file."""
    # The kernel's own stamp is what tells two lines from two copies of one.
    return f"{stamp(ago)} {host} kernel: [{86400 * 400 - ago:12.6f}] {text}\n"


# --- the ring buffer


def test_an_overflow_is_found_with_its_namespace_and_its_counters(overflowed, full):
    name, age = overflowed
    result = full("--netns", name, "--since", f"{age:.0f}s", user=())
    assert result.code == 2
    assert re.match(
        r"CONNTRACK_FULL CRITICAL - (full now: .*; )?"
        r'\d+ "table full" messages? in the last [0-9ms ]+, '
        rf"latest \d+s ago in namespace {name} \(kernel log\)",
        result.status.replace(f"namespace {name} full now", "full now"),
    )
    assert result.value("table_full") >= 1
    assert result.value("drop") > 0
    assert list(result.perfdata)[:3] == ["table_full", "suppressed", "other_loss"]
    assert any(re.match(rf"  namespace {name} +\d+", text) for text in result.lines)
    assert any("sysctl -w net.netfilter.nf_conntrack_max=" in text for text in result.lines)


def test_all_names_the_namespace_that_lost_packets(overflowed, full):
    name, age = overflowed
    result = full("--netns", "all", "--since", f"{age:.0f}s", user=())
    assert result.code == 2
    assert result.value(f"{name}::table_full") >= 1
    assert result.value(f"{name}::drop") > 0
    labels = list(result.perfdata)
    assert labels.index(f"{name}::table_full") > labels.index("search_restart")


def test_a_name_that_was_given_anew_is_not_blamed(need, full):
    need("ip", "nft", "conntrack")
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
    assert f"namespace net:[{inode}] (gone)" in result.out
    assert f"namespace {fresh} " not in result.out


def test_without_the_right_the_log_is_told_to_be_unseen_and_the_counters_judge(need, full):
    need("dmesg")
    if Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() != "1":
        pytest.skip("everybody may read the kernel log here")
    before = hidden(f"{NO_LOGS}; {NO_JOURNAL}")
    result = full("-v", before=before)
    assert result.code == 0
    assert result.status == (
        "CONNTRACK_FULL OK - the kernel log cannot be read, counters are recorded from now on"
    )
    assert "table_full" not in result.perfdata
    assert result.perfdata["drop"].endswith("c;;;0")
    assert any(text.startswith("Not seen: /dev/kmsg: ") for text in result.lines)
    # They judge by what is remembered; with neither, nothing is known, and never will be.
    blind = full("--no-state", before=before)
    assert blind.code == 3
    assert blind.status == (
        "CONNTRACK_FULL UNKNOWN - the kernel log cannot be read, "
        "and of counters nothing is remembered: --no-state"
    )


def test_the_ring_buffer_is_read_through_sudo(overflowed, full, sudoers):
    _, age = overflowed
    result = full("--sudo", "--since", f"{age:.0f}s")
    assert result.code == 2
    assert "(kernel log)" in result.status


def test_the_ring_buffer_is_read_with_the_capability(overflowed, full):
    _, age = overflowed

    ambient = ["--inh-caps", "+syslog", "--ambient-caps", "+syslog"]
    result = full("-vvv", "--since", f"{age:.0f}s", user=[*NOBODY, *ambient])
    assert result.code == 2
    assert any("uid 65534, capabilities 0" in text for text in result.lines)
    assert any(text.startswith("Read /dev/kmsg by the reader: ") for text in result.lines)


def test_what_a_program_writes_into_the_ring_is_not_the_kernel_s(full):
    with limit_lock():
        # What others have overflowed until now leaves the window first.
        time.sleep(1.1)
        begun = time.time()
        with open("/dev/kmsg", "w") as ring:
            ring.write("nf_conntrack: table full, dropping packet")
        result = full("--since", "1s", "--no-state", user=())
    assert time.time() - begun < 30
    assert result.value("table_full") == 0


def test_what_was_before_the_boot_that_the_ring_begins_with_is_looked_for_elsewhere(full, logs):
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    (logs / "messages").write_text(line(uptime + 7200, "eth0: link up") + line(uptime + 3600))
    alone = f"{NO_LOGS}; {NO_JOURNAL}"
    window = ("--no-state", "--since", f"{uptime + 5400:.0f}s", "-v")
    told = full(*window, user=(), before=hidden(alone))
    found = full(*window, user=(), before=hidden(f"{alone}; cp {logs}/messages /var/log/messages"))
    short = (
        "Not seen: kernel log: nothing that can be read goes back beyond ",
        "Not seen: /dev/kmsg",
    )
    assert any(text.startswith(short) for text in told.lines)
    assert told.code != 3
    assert found.code == 2
    assert found.value("table_full") > told.value("table_full")
    assert "/var/log/messages" in found.status
    assert not any(text.startswith(short[0]) for text in found.lines)


# --- the journal


def test_the_journal_takes_over_where_the_ring_cannot_be_read(overflowed, full, tmp_path):
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
    assert any(text.startswith("Not seen: journal: ") for text in silent.lines)


# --- log files


def test_a_log_file_is_read_once_and_remembered(full, logs):
    log = logs / "kern.log"
    log.write_text(line(100) + line(50) + line(2000))
    first = full("--log", log)
    second = full("--log", log)
    with open(log, "a") as file:
        file.write(line(1))
    third = full("--log", log)
    assert [each.value("table_full") for each in (first, second, third)] == [2, 2, 3]
    assert first.code == second.code == third.code == 2
    assert f"({log})" in first.status


def test_a_wider_window_finds_what_a_shorter_one_had_passed_over(full, logs):
    log = logs / "kern.log"
    log.write_text(line(7200) + line(50))
    found = [full("--log", log, "--since", since) for since in ("15m", "1d", "15m")]
    assert [each.value("table_full") for each in found] == [1, 2, 1]


def test_a_rotation_between_two_runs_loses_nothing_and_counts_nothing_twice(full, logs):
    log = logs / "kern.log"
    log.write_text(line(100))
    assert full("--log", log).value("table_full") == 1
    with open(log, "a") as file:
        file.write(line(50))
    log.rename(logs / "kern.log.1")
    log.write_text(line(20))
    assert full("--log", log).value("table_full") == 3
    assert full("--log", log).value("table_full") == 3


def test_collected_logs_are_searched_whatever_their_age(full, logs):
    for number in range(3):
        with gzip.open(logs / f"kern.log.{number}.gz", "wt") as file:
            file.write(line(86400 * 40 * (number + 1)))
    result = full("--since", "all", "--log", f"{logs}/kern.log.*", "--no-state")
    assert result.value("table_full") == 3
    assert result.code == 2


def test_standard_input_is_read(full):
    text = line(10) + line(5)
    result = full("--since", "all", "--log", "-", "--no-state", input=text)
    assert result.value("table_full") == 2


def test_other_loss_and_what_was_suppressed_are_counted_apart(full, logs):
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


def test_collected_messages_of_other_hosts_are_not_taken_for_this_ones(full, logs):
    log = logs / "messages"
    log.write_text("".join(line(at, TABLE_FULL, host=f"gw{at}") for at in range(5, 10)))
    elsewhere = full("--log", log, "--state-key", "elsewhere")
    said = "The messages are of gw9, gw8, gw7 and 2 more; limits and advice below are of this host."
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
        (lambda path: None, "does not exist"),
    ],
)
def test_a_log_that_is_none_is_unknown_in_words(full, logs, make, reason):
    log = logs / "kern.log"
    make(log)
    result = full("--log", log)
    assert result.code == 3
    assert reason in result.out
    assert str(log) in result.status


def test_what_can_be_read_counts_beside_what_cannot(full, logs):
    good, bad = logs / "kern.log", logs / "messages"
    good.write_text(line(10))
    whole = gzip.compress((line(20) + line(15)).encode() * 2000)
    bad.write_bytes(whole[: len(whole) // 2])
    result = full("--log", good, "--log", bad, "--log", logs / "none")
    assert result.code == 2
    assert result.value("table_full") >= 1
    assert any(f"{bad}: " in text for text in result.lines)
    assert any(f"{logs}/none: does not exist" in text for text in result.lines)


def test_a_named_log_that_is_missing_beside_a_quiet_one_is_told_in_one_line(full, logs):
    (logs / "kern.log").write_text(line(5, "all is quiet"))
    result = full("--log", logs / "kern.log", "--log", logs / "other.log")
    assert result.code == 0
    assert len(result.lines) == 1
    assert result.lines[0].startswith(f"Not seen: {logs}/other.log: does not exist")


def test_a_log_that_was_just_rotated_is_clean_and_one_that_was_always_empty_is_not(full, logs):
    log = logs / "kern.log"
    log.write_text(line(86400, "all is quiet"))
    os.utime(log, (time.time() - 86400,) * 2)
    log.rename(logs / "kern.log.1")
    log.touch()
    result = full("--log", log)
    assert result.code == 0
    assert result.value("table_full") == 0
    assert full("--log", log, "--since", "all", "--no-state").code == 0
    (logs / "kern.log.1").unlink()
    assert full("--log", log).code == 0, "what it was is remembered"
    unknown = full("--log", log, "--no-state")
    assert unknown.code == 3
    assert f"{log}: is empty" in unknown.status
    assert "table_full" not in unknown.perfdata


@pytest.mark.parametrize("since", ["15m", "all"])
def test_a_pipe_whose_first_command_failed_is_no_clean_log(full, since):
    for before in ((), ["sh", "-c", 'exec "$@" <&-', "sh"]):
        result = full("--since", since, "--log", "-", "--no-state", before=before, input="")
        assert result.code == 3
        assert "standard input: is empty" in result.status
        assert "table_full" not in result.perfdata


def test_a_date_in_the_future_is_told_and_not_counted(full, logs):
    log = logs / "kern.log"
    log.write_text(line(-86400) + line(10))
    result = full("--log", log)
    assert result.value("table_full") == 1
    assert any(
        text.startswith(f"Not counted: 1 message of unknown time in {log}") for text in result.lines
    )


def test_escapes_in_a_log_never_reach_the_output(full, logs):
    log = logs / "kern.log"
    log.write_text(line(10) + line(5, "\x1b[31m| table full, dropping packet"))
    result = full("--log", log, "-vv")
    assert "\x1b" not in result.out
    assert result.value("table_full") == 1


# --- the counters


def test_the_first_run_records_and_the_second_judges(overflowed, full, logs):
    name, _ = overflowed
    log = logs / "kern.log"
    log.write_text(f"{stamp(5)} router kernel: all is quiet\n")
    inside = ["ip", "netns", "exec", name]
    first = full("--log", log, before=inside)
    assert "full_drops" not in first.perfdata
    assert "counters from now on" in first.status
    lose_packets(name)
    second = full("--log", log, before=inside)
    assert second.value("full_drops") > 0
    assert second.code >= 1
    third = full("--log", log, before=[*inside, *passing(600)])
    assert third.value("full_drops") == second.value("full_drops")
    gone = full("--log", log, "--state-key", "x", before=[*inside, *passing(600)])
    assert "full_drops" not in gone.perfdata


def test_drops_leave_the_window(overflowed, full, logs):
    name, _ = overflowed
    log = logs / "kern.log"
    log.write_text(f"{stamp(5)} router kernel: all is quiet\n")
    inside = ["ip", "netns", "exec", name]
    full("--log", log, before=[*inside, *passing(0)])
    lose_packets(name)
    assert full("--log", log, before=[*inside, *passing(60)]).value("full_drops") > 0
    full("--log", log, before=[*inside, *passing(120)])
    late = full("--log", log, before=[*inside, *passing(2000)])
    assert late.value("full_drops") == 0
    assert late.code == 0


def test_since_boot_needs_no_history(overflowed, full, logs):
    name, _ = overflowed
    log = logs / "kern.log"
    log.write_text(f"{stamp(5)} router kernel: all is quiet\n")
    result = full(
        "--log", log, "--since", "boot", "--no-state", before=["ip", "netns", "exec", name]
    )
    assert result.value("full_drops") > 0


def test_drops_of_a_nearly_full_table_are_critical(overflowed, full, logs):
    name, _ = overflowed
    log = logs / "kern.log"
    log.write_text(f"{stamp(5)} router kernel: all is quiet\n")
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


def test_what_was_logged_while_the_log_could_not_be_read_is_found_by_the_run_that_can(full, logs):
    log = logs / "kern.log"
    log.write_text(f"{stamp(900)} router kernel: all is quiet\n")
    words = ("--log", log, "--since", "last")
    assert full(*words).code == 0
    time.sleep(1.1)
    with log.open("a") as file:
        file.write(f"{stamp(0)} router kernel: {TABLE_FULL}\n")
    log.chmod(0o600)
    time.sleep(1.1)
    assert full(*words).code == 3
    log.chmod(0o644)
    heard = full(*words)
    assert (heard.code, heard.value("table_full")) == (2, 1)
    assert full(*words).code == 0


def test_a_table_at_its_limit_is_critical_whatever_the_log_says(netns, full, logs):
    log = logs / "kern.log"
    log.write_text(f"{stamp(5)} router kernel: all is quiet\n")
    namespace = netns()
    namespace.fill(500)
    with machine_wide(nf_conntrack_max=500):
        result = full("--log", log, before=namespace.command())
    assert result.code == 2
    assert result.status == (
        "CONNTRACK_FULL CRITICAL - full now: 500 of 500 entries, new connections are dropped"
    )


def test_chains_too_long_are_told_with_the_buckets_that_would_do(netns, full, logs):
    log = logs / "kern.log"
    log.write_text(f"{stamp(5)} router kernel: all is quiet\n")
    namespace = netns()
    with machine_wide(nf_conntrack_buckets=512):
        full("--log", log, before=namespace.command())
        full("--log", log, "--netns", "all", user=())
        # Some of so many must be refused.
        namespace.ip("route add local 10.0.0.0/8 dev lo\n")
        overflow.send(namespace, 0, 24000)
        result = full("--log", log, before=namespace.command())
    assert result.value("chain_overflows") > 0
    assert result.value("full_drops") == 0
    assert result.code == 1
    assert any("chaintoolong rises when a hash chain is too long" in t for t in result.lines)
    assert any("nf_conntrack_buckets=65536" in text for text in result.lines)
    # From outside too, although nothing had ever been counted there before.
    elsewhere = full("--log", log, "--netns", "all", user=())
    assert elsewhere.code == 1
    assert f"inserts refused in namespace {namespace.name} in the last" in elsewhere.status
    assert any(f"{namespace.name}::chain_overflows" in text for text in elsewhere.lines)


def test_counters_come_over_netlink_where_proc_has_none(overflowed, full, logs, sudoers):
    name, _ = overflowed
    log = logs / "kern.log"
    log.write_text(f"{stamp(5)} router kernel: all is quiet\n")
    inside = ["ip", "netns", "exec", name]
    plain = full("--log", log, before=inside)
    hide = hidden(NO_PROC_COUNTERS)
    # What the check and the reader's parent see is hidden; both keep the namespace.
    blind = full("--log", log, "-v", "--state-key", "a", before=[*inside, *hide])
    assert plain.value("drop") > 0
    assert blind.code == 0
    assert any("CAP_NET_ADMIN" in text for text in blind.lines)
    assert any(" NOPASSWD: " in text for text in blind.lines)
    seen = full("--log", log, "--sudo", "--state-key", "a", before=[*inside, *hide])
    assert seen.perfdata["drop"] == plain.perfdata["drop"]


# --- nothing to go by


def test_without_any_source_it_is_unknown_and_says_what_to_grant(full):
    script = f"{NO_RING}; {NO_LOGS}; {NO_JOURNAL}; {NO_PROC_COUNTERS}"
    result = full(before=hidden(script))
    assert result.code == 3
    assert "neither the kernel log nor the counters can be read" in result.status
    for source in ("/dev/kmsg", "journal", "counters"):
        assert any(text.startswith(f"Not seen: {source}: ") for text in result.lines)


def test_conntrack_that_is_not_active_cannot_have_been_full(full, logs):
    inactive = hidden("mount -t tmpfs none /proc/sys/net")
    log = logs / "kern.log"
    log.write_text(line(5, "all is quiet"))
    quiet = full("--if-inactive", "warning", "--log", log, before=inactive)
    log.write_text(line(10))
    judged = full("--log", log, before=inactive)
    assert quiet.code == 1
    assert "conntrack is not active on this host" in quiet.status
    assert judged.code == 2
    assert judged.value("table_full") == 1


def test_a_threshold_on_a_rise_without_memory_is_a_warning(full, logs):
    log = logs / "kern.log"
    log.write_text(f"{stamp(5)} router kernel: all is quiet\n")
    result = full("--log", log, "--no-state", "-w", "early_drops=5")
    assert result.code == 1
    assert "counters cannot be judged: --no-state" in result.status


def test_a_damaged_memory_begins_anew(full, logs, state):
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
def test_a_bad_command_line_is_unknown_in_one_line(full, arguments):
    result = full(*arguments)
    assert result.code == 3
    assert result.out.count("\n") == 1
