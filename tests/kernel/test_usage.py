"""check_conntrack_usage on the kernel's own tables, through its front door."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from support import features
from support.commands import INACTIVE, NOBODY, SLOWNESS, hidden, passing, run
from support.machine import SYSCTLS, machine_limit

LIMIT = 10000


@pytest.mark.parametrize(
    ("entries", "code", "status", "shown"),
    [
        (300, 0, "OK - 300 of 10000 entries in use (3.0%)", "3.0%;80;90;0;100"),
        (8500, 1, "WARNING - 8500 of 10000 entries in use (85.0%)", "85.0%;80;90;0;100"),
        (
            10000,
            2,
            "CRITICAL - full: 10000 of 10000 entries",
            "100.0%;80;90;0;100",
        ),
        (
            12000,
            2,
            "CRITICAL - full: 12000 of 10000 entries (120.0%)",
            "120.0%;80;90;0;100",
        ),
    ],
)
def test_a_table_is_judged_by_its_share_of_the_limit(netns, usage, entries, code, status, shown):
    namespace = netns()
    with machine_limit(2 * LIMIT):
        namespace.fill(entries)
    with machine_limit(LIMIT):
        result = usage(before=namespace.command())
    assert result.code == code
    assert result.status == f"CONNTRACK_USAGE {status}"
    assert result.perfdata["usage"] == shown
    assert result.perfdata["entries"] == f"{entries};;;0;{LIMIT}"
    assert result.perfdata["limit"] == f"{LIMIT};;;0"
    buckets = int((SYSCTLS / "nf_conntrack_buckets").read_text())
    assert result.perfdata["load_factor"] == f"{entries / buckets:.2f};;;0"
    assert bool(result.lines) == bool(code)


def test_one_entry_below_the_limit_is_not_full(netns, usage):
    namespace = netns()
    namespace.fill(LIMIT - 1)
    with machine_limit(LIMIT):
        result = usage(before=namespace.command())
    assert result.status == "CONNTRACK_USAGE CRITICAL - 9999 of 10000 entries in use (99.99%)"
    assert result.perfdata["usage"] == "99.99%;80;90;0;100"


def test_without_a_limit_nothing_is_full_and_other_thresholds_apply(netns, usage):
    namespace = netns()
    features.need_limit_of_zero()
    namespace.fill(500)
    with machine_limit(0):
        plain = usage(before=namespace.command())
        judged = usage("-c", "entries=400", "-w", "entries=50%", before=namespace.command())
    assert (plain.code, plain.status) == (0, "CONNTRACK_USAGE OK - 500 entries in use, no limit")
    assert list(plain.perfdata) == ["entries", "limit", "load_factor"]
    assert plain.perfdata["limit"] == "0;;;0"
    assert judged.code == 2
    assert judged.perfdata["entries"] == "500;;400;0"


def test_growth_tells_when_the_table_will_be_full(netns, usage):
    namespace = netns()
    # 6 entries a second, in a kernel that really counts them: 100 s pass between two runs.
    for number in range(6):
        namespace.fill(600 * (number + 1))
        with machine_limit(LIMIT):
            result = usage(
                "-w",
                "time_to_full=1h:",
                before=[*namespace.command(), *passing(1000 + 100 * number)],
            )
        if number < 2:
            # 24 minutes are too far away for a growth of 100 s.
            assert "growth" not in result.perfdata
            assert result.code == 0
    assert result.value("growth") == pytest.approx(6, rel=0.1)
    assert result.value("time_to_full") == pytest.approx((LIMIT - 3600) / 6, rel=0.1)
    assert result.code == 1
    assert re.search(r"in use \(36\.0%\), full in about 1[678]m", result.status)
    assert any(line.startswith("WARNING: time_to_full 1") for line in result.lines)


def test_a_burst_is_growth_in_one_run(netns, usage):
    namespace = netns()
    namespace.fill(100)
    for number in range(7):
        if number == 5:
            namespace.fill(5000)
        with machine_limit(LIMIT):
            result = usage(before=[*namespace.command(), *passing(1000 + 100 * number)])
        if number == 5:
            assert result.value("time_to_full") == pytest.approx(100, rel=0.1)
    assert result.perfdata["growth"] == "0.00"
    assert "time_to_full" not in result.perfdata


def test_a_full_table_has_no_time_left(netns, usage):
    namespace = netns()
    namespace.fill(LIMIT)
    with machine_limit(LIMIT):
        result = usage("-c", "time_to_full=1h:", before=namespace.command())
    assert result.perfdata["time_to_full"] == "0s;;3600:;0"


def test_the_peak_outlives_the_table_and_raises_the_limit_that_is_advised(netns, usage):
    namespace = netns()
    with machine_limit(4 * LIMIT):
        namespace.fill(36000)
        usage(before=namespace.command())
        namespace.flush()
        namespace.fill(21000)
        result = usage("-w", "50", before=namespace.command())
    assert any("peak of 30 days 36000 entries" in line for line in result.lines)
    assert "  sysctl -w net.netfilter.nf_conntrack_max=65536" in result.lines


def test_advice_never_shrinks_the_hash(netns, usage):
    buckets = int((SYSCTLS / "nf_conntrack_buckets").read_text())
    namespace = netns()
    namespace.fill(LIMIT)
    with machine_limit(LIMIT):
        result = usage(before=namespace.command())
    assert f"The {buckets} hash buckets are enough for it." in result.lines
    # What is written is what there is.
    named = [line for line in result.lines if "nf_conntrack_buckets" in line]
    assert len(named) == 1
    assert f"net.netfilter.nf_conntrack_buckets = {buckets} " in named[0]
    assert "  sysctl -w net.netfilter.nf_conntrack_max=16384" in result.lines
    assert any("Run on the host" in line for line in result.lines)


def commands_below(lines):
    """The commands of the advice by the first word of the sentence that they stand below."""
    found = {}
    below = ""
    for line in lines:
        if line.startswith("  "):
            found.setdefault(below, []).append(line.strip())
        else:
            below = line.split()[0]
    return found


def test_advice_can_be_pasted_does_what_it_says_and_can_be_undone(netns, usage, tmp_path):
    namespace = netns()
    namespace.fill(950)
    buckets = int((SYSCTLS / "nf_conntrack_buckets").read_text())
    for folder in ("sysctl.d", "modules-load.d"):
        (tmp_path / folder).mkdir()

    def paste(command):
        subprocess.run(["sh", "-c", command.replace("/etc/", f"{tmp_path}/")], check=True)

    with machine_limit(1000):
        commands = commands_below(usage(before=namespace.command()).lines)
        for command in (*commands["Raise"], *commands["Keep"]):
            paste(command)
        assert (SYSCTLS / "nf_conntrack_max").read_text() == "2048\n"
        assert (tmp_path / "sysctl.d/99-check-conntrack.conf").read_text() == (
            f"net.netfilter.nf_conntrack_buckets = {buckets}\n"
            "net.netfilter.nf_conntrack_max = 2048\n"
        )
        [module] = (tmp_path / "modules-load.d").iterdir()
        assert module.read_text() == "nf_conntrack\n"
        for command in commands["Undo:"]:
            paste(command)
        assert (SYSCTLS / "nf_conntrack_max").read_text() == "1000\n"
        assert [*tmp_path.glob("*.d/*")] == []


# --- namespaces


def test_all_finds_the_full_namespace_by_its_name(netns, usage):
    full, idle, empty = netns(), netns(), netns()
    full.fill(LIMIT)
    idle.fill(100)
    with machine_limit(LIMIT):
        result = usage("--netns", "all", user=())
    assert result.code == 2
    assert result.status.startswith(
        f"CONNTRACK_USAGE CRITICAL - namespace {full.name} full: 10000 of 10000 entries"
    )
    labels = list(result.perfdata)
    assert labels[:4] == ["usage", "entries", "limit", "load_factor"]
    mine = [label for label in labels if full.name in label or idle.name in label]
    assert mine == [
        f"{full.name}::usage",
        f"{full.name}::entries",
        f"{full.name}::time_to_full",
        f"{idle.name}::usage",
        f"{idle.name}::entries",
    ]
    assert labels.index(mine[0]) > labels.index("load_factor")
    assert result.perfdata[f"{full.name}::usage"] == "100.0%;80;90;0;100"
    assert not any(empty.name in label for label in labels)
    assert any(re.match(rf"  {empty.name} +0 +0.0% +-$", line) for line in result.lines)


@pytest.mark.parametrize("how", ["name", "path", "pid", "glob"])
def test_a_namespace_can_be_asked_for_by(netns, usage, how):
    namespace = netns()
    namespace.fill(1234)
    holder = subprocess.Popen(namespace.command("sleep", "60"))
    try:
        while os.stat(f"/proc/{holder.pid}/ns/net").st_ino != namespace.inode:
            time.sleep(0.01)
        spec = {
            "name": namespace.name,
            "path": f"/run/netns/{namespace.name}",
            "pid": holder.pid,
            "glob": namespace.name[:-1] + "?",
        }[how]
        result = usage("--netns", spec, "-c", "entries=1000", user=())
    finally:
        holder.kill()
        holder.wait()
    assert result.code == 2
    assert result.perfdata["entries"].startswith("1234;;1000;0;")
    assert list(result.perfdata)[:4] == ["usage", "entries", "limit", "load_factor"]
    assert f"namespace {namespace.name} 1234 of " in result.status


def test_a_process_of_the_own_namespace_leads_back_to_it(usage):
    result = usage("--netns", os.getpid(), user=())
    assert result.code == 0
    assert result.perfdata["entries"] == usage().perfdata["entries"]
    assert f"namespace pid-{os.getpid()} " in result.status


def test_the_own_namespace_may_be_one_of_several(netns, usage):
    namespace = netns()
    namespace.fill(10)
    own = "/proc/self/ns/net"
    first = usage("--netns", own, "--netns", namespace.name, user=())
    second = usage("--netns", namespace.name, "--netns", own, "-v", user=())
    assert first.value(f"{namespace.name}::entries") == 10
    assert first.value("entries") != 10
    assert second.value("entries") == 10
    assert any(line.startswith("  self ") for line in second.lines)


def test_a_namespace_that_only_a_process_holds_is_found_by_all(need, usage):
    need("unshare")
    holder = subprocess.Popen(["unshare", "-n", "sleep", "60"])
    try:
        own = os.stat("/proc/self/ns/net").st_ino
        while os.stat(f"/proc/{holder.pid}/ns/net").st_ino == own:
            time.sleep(0.01)
        result = usage("--netns", "all", "-v", user=())
    finally:
        holder.kill()
        holder.wait()
    assert any(line.startswith("  sleep ") for line in result.lines)


def test_a_namespace_that_only_a_mount_holds_is_found_by_all(need, usage, tmp_path):
    need("unshare", "mount")
    place = tmp_path / "held here"
    place.touch()
    script = 'unshare --net="$1" true; shift; "$@"; code=$?; umount "$0"; exit $code'
    result = usage("--netns", "all", "-v", before=["sh", "-c", script, place, place], user=())
    assert result.code == 0
    assert any(line.startswith("  held here ") for line in result.lines)


def test_a_name_that_is_left_over_is_no_namespace(netns, usage):
    left = Path("/run/netns") / f"{netns().name}-left"
    left.touch()
    try:
        named = usage("--netns", left.name, user=())
        everything = usage("--netns", "all", user=())
    finally:
        left.unlink()
    assert named.code == 3
    assert f"{left} is not a network namespace" in named.status
    assert everything.code == 0


def test_a_namespace_that_cannot_be_read_does_not_hide_a_full_one(netns, usage):
    namespace = netns()
    namespace.fill(LIMIT)
    with machine_limit(LIMIT):
        both = usage("--netns", "cct-not-there", "--netns", namespace.name, user=())
        alone = usage("--netns", "cct-not-there", user=())
    assert both.code == 2
    assert both.perfdata[f"{namespace.name}::usage"] == "100.0%;80;90;0;100"
    assert "usage" not in both.perfdata
    assert any(line.startswith("UNKNOWN: namespace cct-not-there") for line in both.lines)
    assert alone.code == 3
    assert alone.status == (
        "CONNTRACK_USAGE UNKNOWN - namespace cct-not-there: not found (/run/netns/cct-not-there)"
    )


def test_without_the_right_the_host_is_judged_and_the_grant_is_told(netns, usage):
    namespace = netns()
    one = usage("--netns", namespace.name)
    everything = usage("--netns", "all")
    assert one.code == everything.code == 3
    assert "permission denied (CAP_SYS_ADMIN" in one.status
    assert "usage" in everything.perfdata
    assert any(" ALL=(root) NOPASSWD: " in line for line in one.lines)


def test_an_unprivileged_user_sees_all_through_sudo(netns, usage, sudoers):
    full = netns()
    full.fill(LIMIT)
    with machine_limit(LIMIT):
        result = usage("--netns", "all", "--sudo")
        by_name = usage("--netns", full.name, "--sudo")
    assert result.code == by_name.code == 2
    assert result.perfdata[f"{full.name}::entries"] == f"{LIMIT};;;0;{LIMIT}"
    assert by_name.perfdata["entries"] == f"{LIMIT};;;0;{LIMIT}"


def test_the_grant_that_is_told_is_the_one_that_works(netns, usage, sudoers):
    refused = usage("--netns", netns().name)
    assert f"  {sudoers}" in refused.lines


def test_sudo_that_refuses_is_told_in_its_own_words(netns, usage):
    result = usage("--netns", netns().name, "--sudo")
    assert result.code == 3
    assert "sudo: a password is required" in result.status


def test_sudo_allows_the_reader_no_argument(need, installed, sudoers):
    tree, _ = installed
    reader = tree / "check_conntrack/kernel/reader.py"
    result = run(*NOBODY, "sudo", "-n", reader, "x", stdin=subprocess.DEVNULL)
    assert result.code == 1
    assert "a password is required" in result.err


def test_ambient_capabilities_do_what_sudo_does(netns, usage):
    namespace = netns()
    namespace.fill(77)
    ambient = ["--inh-caps", "+sys_admin", "--ambient-caps", "+sys_admin"]
    result = usage("--netns", namespace.name, "-vvv", user=[*NOBODY, *ambient])
    assert result.code == 0
    assert result.value("entries") == 77
    assert any("uid 65534, no capabilities" in line for line in result.lines)


def test_other_capabilities_do_not_bar_sudo(netns, usage, sudoers):
    namespace = netns()
    ambient = ["--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"]
    result = usage("--netns", namespace.name, "--sudo", "-vvv", user=[*NOBODY, *ambient])
    assert result.code == 0, result.out
    assert any("uid 65534, no capabilities" in line for line in result.lines)


def test_a_service_that_bars_sudo_is_told_why(netns, usage):
    result = usage("--netns", netns().name, "--sudo", user=[*NOBODY, "--no-new-privs"])
    assert result.code == 3
    assert 'sudo: The "no new privileges" flag is set' in result.status


# --- privileges


def test_a_check_that_root_starts_gives_up_its_rights(usage, state):
    result = usage("-vvv", user=())
    assert any("uid 65534, no capabilities" in line for line in result.lines)
    own = os.stat("/proc/self/ns/net").st_ino
    assert f"Read {SYSCTLS}/nf_conntrack_count and max in net:[{own}]" in result.lines
    kept = list(state.glob("*/*.json"))
    assert [path.parent.name for path in kept] == ["65534"]
    assert kept[0].stat().st_uid == 65534


def test_root_becomes_the_user_that_is_named_or_that_called_sudo(usage, state):
    named = usage("-vvv", "--user", "daemon", user=())
    called = usage("-vvv", user=(), env={**os.environ, "SUDO_UID": "2"})
    nobody = usage("-vvv", "--user", "no-such-user", user=())
    root = usage("--user", "root", user=())
    assert any("uid 1, no capabilities" in line for line in named.lines)
    assert any("uid 2, no capabilities" in line for line in called.lines)
    assert (nobody.code, root.code) == (3, 3)
    assert "user 'no-such-user': not found" in nobody.status
    assert "unprivileged" in root.status


# --- conntrack that is not there, and sysctls that hold what they should not


HIDDEN = "mount -t tmpfs none /proc/sys/net/netfilter"


@pytest.mark.parametrize(
    ("state", "code"), [(None, 0), ("ok", 0), ("warning", 1), ("critical", 2), ("unknown", 3)]
)
def test_inactive_conntrack_is_what_the_user_says(usage, state, code):
    result = usage(*(["--if-inactive", state] if state else []), before=hidden(INACTIVE))
    assert result.code == code
    assert result.status.endswith(" - conntrack is not active on this host")
    assert result.perfdata == {}


def test_hidden_sysctls_are_unknown_and_what_is_hidden_is_named(usage):
    result = usage("--if-inactive", "ok", before=hidden(HIDDEN))
    assert result.code == 3
    assert "/proc/sys/net/netfilter/nf_conntrack_count: hidden, although " in result.status
    assert "not active" not in result.out


def test_inactive_conntrack_is_inactive_in_every_namespace(netns, usage):
    script = f"{INACTIVE}; mount -t tmpfs none /proc/sys/net"
    result = usage("--netns", netns().name, before=hidden(script), user=())
    assert (result.code, result.status) == (
        0,
        "CONNTRACK_USAGE OK - conntrack is not active on this host",
    )


def test_a_proc_that_is_not_there_says_nothing_about_conntrack(usage):
    result = usage(before=hidden("mount -t tmpfs none /proc/sys"))
    assert result.code == 3
    assert "/proc/sys/net: not found (is /proc mounted?)" in result.status


@pytest.mark.parametrize("file", ["count", "max", "buckets"])
@pytest.mark.parametrize(
    "content", ["abc", "", "-1", "1" * 30, "4294967296", "1_000", "12 34", "0x10", "\x1b[31m|"]
)
def test_a_sysctl_that_holds_no_number_is_named(usage, tmp_path, file, content):
    fake = tmp_path / "fake"
    fake.write_text(content)
    fake.chmod(0o644)
    path = SYSCTLS / f"nf_conntrack_{file}"
    result = usage(before=hidden(f"mount --bind {shlex.quote(str(fake))} {path}"))
    assert result.code == 3
    assert str(path) in result.status
    assert "\x1b" not in result.out
    assert result.out.count("|") == (1 if file == "buckets" else 0)


def test_buckets_that_cannot_be_read_do_not_hide_a_full_table(netns, usage, tmp_path):
    fake = tmp_path / "fake"
    fake.write_text("abc")
    namespace = netns()
    namespace.fill(1000)
    bind = hidden(f"mount --bind {shlex.quote(str(fake))} {SYSCTLS}/nf_conntrack_buckets")
    with machine_limit(1000):
        result = usage(before=[*namespace.command(), *bind])
    assert result.code == 2
    assert any("nf_conntrack_buckets: malformed ('abc'" in line for line in result.lines)


def test_a_sysctl_that_may_not_be_read_is_unknown(usage, tmp_path):
    fake = tmp_path / "fake"
    fake.write_text("7")
    fake.chmod(0o600)
    path = SYSCTLS / "nf_conntrack_count"
    result = usage(before=hidden(f"mount --bind {shlex.quote(str(fake))} {path}"))
    assert result.code == 3
    assert result.status.endswith(f"{path}: Permission denied")


def test_the_old_names_of_ip_conntrack_are_known(usage):
    script = (
        "mount -t tmpfs none /proc/sys/net; mkdir -p /proc/sys/net/ipv4/netfilter; "
        "cd /proc/sys/net/ipv4/netfilter; echo 60000 > ip_conntrack_count; "
        "echo 65536 > ip_conntrack_max; echo 8192 > ip_conntrack_buckets; cd /"
    )
    result = usage(before=hidden(script))
    assert result.code == 2
    assert result.perfdata["usage"] == "91.6%;80;90;0;100"
    assert result.perfdata["load_factor"] == "7.32;;;0"


# --- what is remembered


def verdict(result):
    """Return what must not depend on the history."""
    return result.code, result.status, result.perfdata["usage"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("mount -o bind {state} {state}; mount -o remount,ro,bind {state}", "Read-only"),
        ("mount -t tmpfs -o nr_inodes=1,mode=700,uid=65534 none {state}", "No space left"),
    ],
)
def test_a_state_directory_out_of_order_never_changes_the_verdict(usage, state, script, reason):
    before = hidden(script.format(state=state))
    good = usage("--no-state")
    bad = usage(before=before)
    blind = usage("-w", "time_to_full=1h:", before=before)
    told = usage("-v", before=before)
    assert verdict(bad) == verdict(good)
    (line,) = bad.lines
    assert line.startswith("No history is kept: ")
    assert reason in line
    assert blind.code == 1
    assert "no history: " in blind.status
    assert any(reason in line for line in told.lines)


def test_a_state_directory_that_is_a_file_never_changes_the_verdict(usage, state):
    (state / "file").touch()
    result = usage("--state-dir", state / "file", "-v")
    assert verdict(result) == verdict(usage("--no-state"))
    assert any("/file: " in line for line in result.lines)


def test_a_disk_that_is_full_costs_the_history_alone(usage, state):
    script = (
        f"mount -t tmpfs -o size=4k,mode=700,uid=65534 none {state}; "
        f"head -c 4096 /dev/zero > {state}/ballast"
    )
    result = usage("-v", before=hidden(script))
    assert result.code == 0
    assert any("No space left on device" in line for line in result.lines)


def test_a_damaged_history_begins_anew(usage, state):
    usage()
    kept = next(state.glob("*/*.json"))
    for damage in (b"", b"{", b"\xff", b"[]", b"[" * 100000, b'{"samples": [[1, -1]]}'):
        kept.write_bytes(damage)
        result = usage("-v")
        assert result.code == 0
        assert kept.read_bytes().startswith(b'["')
    assert list(state.glob("*/.*")) == []


def test_what_another_run_holds_locked_is_left_alone(need, usage, state):
    import fcntl

    usage()
    folder = os.open(next(state.iterdir()), os.O_RDONLY)
    kept = next(state.glob("*/*.json"))
    before = kept.read_bytes()
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        result = usage("-v")
    finally:
        os.close(folder)
    assert result.code == 0
    assert any("locked by another run" in line for line in result.lines)
    assert kept.read_bytes() == before


def test_runs_inside_different_namespaces_do_not_share_a_history(netns, usage, state):
    usage(before=netns().command())
    usage()
    assert len(list(state.glob("65534/*.json"))) == 2


def test_runs_under_different_keys_do_not_share_a_history(usage, state):
    usage("--state-key", "a")
    usage("--state-key", "b/../c")
    usage()
    assert len(list(state.glob("65534/*.json"))) == 3


# --- time


def test_a_reader_that_hangs_is_given_up_in_time_and_leaves_no_child(netns, installed, state):
    tree, python = installed
    other = tree.parent / "hanging"
    shutil.copytree(tree, other)
    reader = other / "check_conntrack/kernel/reader.py"
    # The check has no privilege any more to end what root runs: it can only close the pipes.
    hangs = (
        "import select\n    poll = select.poll()\n    poll.register(1, 0)\n    poll.poll(60_000)\n"
    )
    text = reader.read_text()
    reader.write_text(text.replace("    sys.exit(main())\n", "    " + hangs))
    namespace = netns()
    started = time.monotonic()
    limit = ("-t", SLOWNESS)
    result = run(
        *(python, other / "check_conntrack_usage", *limit, "--netns", namespace.name, "--no-state")
    )
    shutil.rmtree(other)
    assert result.code == 3
    assert f"namespace {namespace.name}: timed out after {SLOWNESS}s" in result.status
    assert result.status.endswith("while waiting for the reader")
    assert time.monotonic() - started < 10 * SLOWNESS
    until = time.monotonic() + 5 * SLOWNESS
    while left := [line for line in command_lines() if os.fsencode(reader) in line]:
        assert time.monotonic() < until, left
        time.sleep(0.05)


def command_lines():
    """The command lines of all processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()
