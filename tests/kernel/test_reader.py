"""The reader with real privileges: its answers, and what is left of its privileges."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from check_conntrack.flows.new_entries import NewEntries
from check_conntrack.kernel import ctnetlink, rtnetlink, timeouts
from check_conntrack.kernel import reader as kernel_reader
from check_conntrack.kernel.reader_client import parse_answer
from support import features
from support.commands import PATIENCE
from support.netns import ends, wait_until

MEASURED = True
# So much is asked for that the answer does not fit into a pipe: the reader stands in write(2)
# until somebody reads.
LONG = [b"/%04d" % number + b"x" * 4000 for number in range(60)]


@pytest.fixture(params=["executed", "imported"])
def reader(request, need, installed):
    """The command that starts it: by itself as sudo does, or by the interpreter under test."""
    need("ip", "nft", "setpriv", "unshare")
    tree, _ = installed
    if request.param == "executed":
        return [tree / "check_conntrack/kernel/reader.py"]
    script = (
        f"import sys; sys.path.insert(0, {str(tree)!r}); "
        "from check_conntrack.kernel import reader; sys.exit(reader.main())"
    )
    return [sys.executable, "-c", script]


def request(*fields):
    """The bytes of a request."""
    return b"".join(os.fsencode(field) + b"\0" for field in fields)


def ask(reader, *fields):
    """The frames of its answer."""
    done = subprocess.run(reader, input=request(*fields), capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")
    return list(parse_answer(io.BytesIO(done.stdout)))


def test_limits_are_those_of_the_namespace(netns, reader):
    namespace = netns()
    namespace.fill(321)
    path = f"/run/netns/{namespace.name}"
    count, limit = ask(reader, "limits", path)
    assert count == (namespace.inode, 0, "nf_conntrack_count", path, b"321\n")
    assert (limit.inode, limit.file) == (namespace.inode, "nf_conntrack_max")
    assert limit.data == Path("/proc/sys/net/netfilter/nf_conntrack_max").read_bytes()


def test_namespace_is_read_once_by_whatever_path(netns, reader):
    namespace = netns()
    path = f"/run/netns/{namespace.name}"
    holder = subprocess.Popen(namespace.command("sleep", "60"))
    try:
        while os.stat(f"/proc/{holder.pid}/ns/net").st_ino != namespace.inode:
            time.sleep(0.01)
        frames = ask(reader, "limits", path, f"/proc/{holder.pid}/ns/net", path, "processes")
    finally:
        holder.kill()
        holder.wait()
    mine = [frame for frame in frames if frame.inode == namespace.inode]
    assert [frame.file for frame in mine] == ["nf_conntrack_count", "nf_conntrack_max"]
    own = os.stat("/proc/self/ns/net").st_ino
    assert [frame.file for frame in frames if frame.inode == own] == [
        "nf_conntrack_count",
        "nf_conntrack_max",
    ]


def test_counters_are_those_of_the_namespace(netns, reader):
    namespace = netns()
    namespace.fill(5)
    path = f"/run/netns/{namespace.name}"
    frames = {frame.file: frame for frame in ask(reader, "counters", path)}
    assert frames["nf_conntrack_count"].data == b"5\n"
    # A message a CPU, and NLMSG_DONE after them.
    data = frames["stats_cpu"].data
    kinds = []
    while data:
        size, kind = struct.unpack_from("=IH", data)
        kinds.append(kind)
        data = data[size + 3 & ~3 :]
    assert kinds == [(1 << 8) | 4] * (len(kinds) - 1) + [3]
    if features.has_procfs():
        text = namespace.run("cat", "/proc/net/stat/nf_conntrack").encode()
        assert frames["stat"].data == text
        assert len(text.splitlines()) == len(kinds)
    else:
        assert (frames["stat"].errno, frames["stat"].data) == (errno.ENOENT, b"")
        assert len(kinds) > 1


def entries(frames, name="dump_a"):
    """How many messages of entries the batches of a dump hold."""
    count = 0
    for frame in frames:
        data = frame.data if frame.file == name else b""
        while data:
            size, kind = struct.unpack_from("=IH", data)
            count += kind == 1 << 8
            data = data[size + 3 & ~3 :]
    return count


def test_table_holds_every_entry(netns, reader):
    namespace = netns()
    namespace.fill(3000)
    frames = ask(reader, "table", f"/run/netns/{namespace.name}")
    assert {(frame.inode, frame.errno, frame.file) for frame in frames} == {
        (namespace.inode, 0, "dump_a")
    }
    assert entries(frames) == 3000


def of_protocol(number):
    """The attributes of a filter, as the suite makes them."""
    wanted = ctnetlink.KernelFilter(2, ctnetlink.TupleFilter(protocol=number))
    return ctnetlink.dump_request(0, wanted)[20:]


def test_table_has_a_dump_for_each_filter(netns, reader):
    namespace = netns()
    namespace.fill(3000)
    path = f"/run/netns/{namespace.name}"
    tcp, udp = f"2:{of_protocol(6).hex()}", f"2:{of_protocol(17).hex()}"
    frames = ask(reader, "table", path, tcp, "2:", udp)
    counts = [entries(frames, f"dump_{letter}") for letter in "abc"]
    assert counts == [0, 3000, 3000]


def test_deferred_dump_walks_the_table_when_it_is_read(netns):
    namespace = netns()
    namespace.fill(3000)
    with namespace.inside():
        asked = [
            kernel_reader.request_dump(
                kernel_reader.IPCTNL_MSG_CT_GET, 2, attributes, deferred=True
            )
            for attributes in (b"", of_protocol(6))
        ]
    try:
        namespace.flush()
        namespace.fill(7)
        assert kernel_reader.first_batches(asked) == [b"", b""]
        dumps = [b"".join(kernel_reader.read_dump(link)) for link in asked]
    finally:
        for link in asked:
            link.close()
    # What was there when it was read, and not when it was asked.
    assert [ends(data) for data in dumps] == [True, True]
    assert [dump.count(b"\x7f\0\0\1") // 2 for dump in dumps] == [7, 0]


def test_text_holds_every_entry(netns, reader):
    features.need_procfs()
    namespace = netns()
    namespace.fill(700)
    frames = ask(reader, "text", f"/run/netns/{namespace.name}")
    lines = b"".join(frame.data for frame in frames).splitlines()
    assert len(lines) == 700
    assert all(b"udp" in line for line in lines)
    # A table that is empty is there all the same.
    (frame,) = ask(reader, "text", f"/run/netns/{netns().name}")
    assert (frame.errno, frame.file, frame.data) == (0, "text", b"")


def test_timeouts_are_those_of_the_namespace(netns, reader):
    namespace = netns()
    namespace.run("sysctl", "-q", "-w", "net.netfilter.nf_conntrack_tcp_timeout_established=7777")
    frames = ask(reader, "timeouts", f"/run/netns/{namespace.name}")
    known = timeouts.timeouts_of(frames)
    assert known["tcp_timeout_established"] == 7777
    assert known.keys() == timeouts.DEFAULTS.keys()
    assert all("_timeout" in frame.file for frame in frames)


def test_log_has_a_frame_for_each_record(reader):
    frames = ask(reader, "log")
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        for frame in frames:
            assert frame == (0, 0, "record", "", os.read(log, 16384))
    finally:
        os.close(log)
    assert len(frames) > 10


def test_events_are_handed_on_with_the_count_and_the_clock(netns, reader):
    namespace = netns()
    path = f"/run/netns/{namespace.name}"
    with subprocess.Popen(reader, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(request("events", path, "1500"))
        process.stdin.close()
        frames = parse_answer(process.stdout)
        told = [next(frames), next(frames)]
        # Listening has begun, and its privileges are gone.
        assert "CapEff:\t0000000000000000\n" in Path(f"/proc/{process.pid}/status").read_text()
        namespace.fill(700)
        told += list(frames)
    settings = namespace.run("cat", "/proc/sys/net/netfilter/nf_conntrack_events").encode()
    assert told[0] == (namespace.inode, 0, "nf_conntrack_events", path, settings)
    assert told[1] == (namespace.inode, 0, "nf_conntrack_count", path, b"0\n")
    assert not any(frame.errno for frame in told)
    entries = NewEntries()
    for frame in told:
        entries.count(frame.data if frame.file == "events" else b"")
    assert entries.number == 700
    assert entries.first_timeout(1e9) == pytest.approx(3600, abs=2)
    assert [frame.data for frame in told if frame.file == "nf_conntrack_count"][-1] == b"700\n"
    clocks = [int(frame.data) for frame in told if frame.file == "clock"]
    assert clocks == sorted(clocks)
    assert 1.5e9 <= clocks[-1] < 2.5e9
    assert told[-1] == (namespace.inode, 0, "events", path, b"")


def test_events_of_other_namespaces_are_not_handed_on(netns, reader):
    namespace, other = netns(), netns()
    with subprocess.Popen(reader, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(request("events", f"/run/netns/{namespace.name}", "1000"))
        process.stdin.close()
        frames = parse_answer(process.stdout)
        next(frames)
        other.fill(50)
        namespace.fill(3)
        stream = b"".join(frame.data for frame in frames if frame.file == "events")
    entries = NewEntries()
    entries.count(stream)
    assert entries.number == 3


def test_listening_ends_after_its_time(netns, reader):
    started = time.monotonic()
    frames = ask(reader, "events", f"/run/netns/{netns().name}", "300")
    assert 0.3 <= time.monotonic() - started < PATIENCE / 20
    assert 3 <= len([frame for frame in frames if frame.file == "clock"]) < 20
    assert ask(reader, "events", "/etc/passwd", "300") == [(0, 2, "-", "/etc/passwd", b"")]


def test_events_without_the_capability_are_a_frame_with_its_error(netns, reader):
    own = f"/run/netns/{netns().name}"
    command = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", *reader]
    (frame,) = ask(command, "events", own, "300")
    assert (frame.errno, frame.file) == (1, "events")


def test_owners_are_addresses_groups_and_folders_and_nothing_else(netns, reader):
    namespace = netns()
    namespace.ip("addr add 10.1.2.3/32 dev lo\n")
    path = f"/run/netns/{namespace.name}"
    name = ["unshare", "-u", "sh", "-c", "hostname web1; exec sleep 60"]
    holder = subprocess.Popen(namespace.command(*name))
    process = Path(f"/proc/{holder.pid}")
    try:
        while (process / "comm").read_text() != "sleep\n":
            time.sleep(0.01)
        groups = (process / "cgroup").read_bytes()
        pods, *frames = ask(reader, "owners", path, "processes")
        own = ask(reader, "owners", path)[1:]
    finally:
        holder.kill()
        holder.wait()
    assert (pods.inode, pods.file, pods.path) == (0, "pods", "/var/log/pods")
    mine = {frame.file: frame for frame in frames if frame.inode == namespace.inode}
    assert {file: (frame.path, frame.data) for file, frame in mine.items()} == {
        "addresses": (path, mine["addresses"].data),
        "process": (f"{process}/ns/net", b"sleep\n\0web1\0" + groups),
    }
    assert list(rtnetlink.global_addresses(mine["addresses"].data)) == [bytes((10, 1, 2, 3))]
    assert {frame.file for frame in frames} <= {"addresses", "process", "-"}
    # Without "processes" nothing is said of any.
    assert [frame.file for frame in own] == ["addresses"]


def called(pid):
    return Path(f"/proc/{pid}/comm").read_text().strip()


@pytest.mark.parametrize("alone", [False, True], ids=["beside another process", "alone"])
def test_namespace_is_not_called_after_a_reader_that_looks_into_it(netns, reader, alone):
    namespace = netns()
    # It waits for its request there; others are there for a moment, each time they look.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(namespace.command(*reader), **pipes) as other:
        holder = None if alone else subprocess.Popen(namespace.command("sleep", "60"))
        there = holder or other
        try:
            assert wait_until(lambda: inode_of(there.pid) == namespace.inode)
            # Until it has its name it is a Python that starts: no reader is in a foreign namespace.
            assert wait_until(lambda: called(other.pid) == "reader.py")
            frames = ask(reader, "owners", "processes") + ask(reader, "limits", "processes")
        finally:
            other.stdin.close()
            if holder:
                holder.kill()
                holder.wait()
    mine = {frame.file: frame.path for frame in frames if frame.inode == namespace.inode}
    assert set(mine) == {"process", "addresses", "nf_conntrack_count", "nf_conntrack_max"}
    if holder:
        assert set(mine.values()) == {f"/proc/{holder.pid}/ns/net"}


def inode_of(pid):
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def test_name_of_the_host_is_its_own_again_before_it_writes(netns, reader):
    name = ["unshare", "-u", "-n", "sh", "-c", "hostname web1; exec sleep 60"]
    with subprocess.Popen(name) as holder:
        process = subprocess.Popen(reader, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            while Path(f"/proc/{holder.pid}/comm").read_text() != "sleep\n":
                time.sleep(0.01)
            process.stdin.write(request("owners", *LONG, "processes"))
            process.stdin.close()
            process.stdout.read(1)
            own = os.stat("/proc/self/ns/uts").st_ino
            assert os.stat(f"/proc/{process.pid}/ns/uts").st_ino == own
        finally:
            holder.kill()
            process.stdout.read()
            process.wait()
            process.stdout.close()


@pytest.mark.parametrize("what", ["table", "text", "timeouts"])
def test_path_without_a_namespace_is_a_frame_with_its_error(reader, what):
    assert ask(reader, what, "/etc/passwd") == [(0, 2, "-", "/etc/passwd", b"")]


def test_refusal_of_the_kernel_is_passed_on(netns, reader):
    namespace = netns()
    namespace.fill(5)
    own = f"/run/netns/{namespace.name}"
    command = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", *reader]
    counters = {frame.file: frame for frame in ask(command, "counters", own)}
    told = [*ask(command, "table", own), *ask(command, "table", own, "2:", "10:")]
    # Each dump ends with a frame that is empty.
    assert [bool(frame.data) for frame in told] == [True, False] * 3
    for frame in (*told[::2], counters["stats_cpu"]):
        _, kind, error = struct.unpack_from("=IH10xi", frame.data)
        assert (kind, error) == (2, -1)  # NLMSG_ERROR, EPERM
    assert counters["nf_conntrack_count"].errno == 0


def test_missing_sysctl_is_a_frame_with_its_error(reader):
    script = 'mount -t tmpfs none /proc/sys/net; exec "$@"'
    hidden = ["unshare", "-m", "sh", "-c", script, "sh", *reader]
    frames = ask(hidden, "limits", "/proc/self/ns/net")
    assert [(frame.file, frame.errno, frame.data) for frame in frames] == [
        ("nf_conntrack_count", 2, b""),
        ("nf_conntrack_max", 2, b""),
    ]


def test_namespace_that_may_not_be_entered_is_a_frame_with_its_error(netns, reader):
    path = f"/run/netns/{netns().name}"
    bounded = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", *reader]
    assert ask(bounded, "limits", path) == [(0, 1, "-", path, b"")]


@pytest.mark.parametrize(
    "bytes_",
    [
        b"",
        b"limits",
        b"limits\0processes",
        b"limits\0process\0",
        b"limits\0relative\0",
        b"limits\0/\0",
        b"limits\0\0",
        b"tables\0",
        b"\0limits\0",
        b"limits\0/" + b"x" * 4095 + b"\0",
        b"limits\0" + b"/x\0" * 400000,
        b"log\0/x\0",
        b"table\0002:\0/x\0",
        b"table\0/x\0002:xx\0",
        b"table\0/x\0003:\0",
        b"table\0/x\0002:0800\0",
        b"table\0/x\0002:09000300\0",
        b"table\0/x\0002:03000300\0",
        b"table\0/x\0002:0800070000000000\0",
        b"table\0/x\0" + b"2:\0" * 9,
        b"table\0/x\0002:" + b"0800030000000000" * 129 + b"\0",
        b"text\0/x\0002:\0",
        b"events\0",
        b"events\0/x\0",
        b"events\0001000\0",
        b"events\0/x\00030001\0",
        b"events\0/x\0-1\0",
        b"events\0processes\0001000\0",
        b"events\0/x\0/y\0001000\0",
        b"events\0/x\0001000\0002:\0",
        b"expectations\0",
        b"expectations\0/x\0",
    ],
    # A name of a test goes into the environment, which is not made for a megabyte.
    ids=lambda request: repr(request[:24]),
)
def test_request_outside_the_grammar_is_refused_without_a_byte(reader, bytes_):
    done = subprocess.run(reader, input=bytes_, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


def test_no_privileges_are_left_when_it_writes(reader):
    process = subprocess.Popen(reader, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdin.write(request("limits", *LONG))
        process.stdin.close()
        process.stdout.read(1)
        fields = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
    finally:
        process.stdout.read()
        process.wait()
        process.stdout.close()
    assert fields["Uid"] == fields["Gid"] == "65534\t65534\t65534\t65534"
    assert fields["Groups"].strip() == ""
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[kind], 16) == 0
    assert fields["NoNewPrivs"] == "1"


def test_alarm_ends_it_whatever_its_caller_ignores(reader):
    ignoring = ["sh", "-c", 'trap \'\' ALRM; exec "$0" "$@"', *reader]
    process = subprocess.Popen(ignoring, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdin.write(request("limits", *LONG))
        process.stdin.close()
        process.stdout.read(1)
        process.send_signal(signal.SIGALRM)
        assert process.wait(PATIENCE) == -signal.SIGALRM
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_reader_dies_with_its_parent(reader):
    script = (
        "import subprocess, sys, time\n"
        "end = int(sys.argv[1])\n"
        "reader = subprocess.Popen(sys.argv[2:], stdin=sys.stdin, stdout=end)\n"
        "print(reader.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    # The pipe is ours and stays open and full: nothing but its parent's death can end it.
    ours, its = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(its), *map(str, reader)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[its],
    )
    os.close(its)
    try:
        pid = int(parent.stdout.readline())
        parent.stdin.write(request("limits", *LONG))
        parent.stdin.close()
        assert os.read(ours, 1) == b"0"
        assert Path(f"/proc/{pid}").exists()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        for _ in range(500):
            if not Path(f"/proc/{pid}").exists():
                break
            time.sleep(0.01)
        assert not Path(f"/proc/{pid}").exists()
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        os.close(ours)


def test_reader_needs_nothing_of_the_suite(need, installed, tmp_path):
    need("setpriv")
    tree, _ = installed
    alone = shutil.copy(tree / "check_conntrack/kernel/reader.py", tmp_path)
    done = subprocess.run([alone], input=b"limits\0", capture_output=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"end\n", b"")


def test_files_that_are_no_namespaces_are_not_revealed(reader, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    paths = ["/etc/shadow", "/not/there", str(fifo), "/dev/null", "/proc/self/ns/mnt"]
    assert ask(reader, "limits", *paths) == [(0, 2, "-", path, b"") for path in paths]
