"""The reader with real rights: what it sees, what it tells, and what is left of its rights."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from check_conntrack.kernel.source import parse_answer

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
    done = subprocess.run(reader, input=request(*fields), capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    return parse_answer(done.stdout)


def test_it_reads_the_limits_of_a_namespace_and_nothing_else(netns, reader):
    namespace = netns()
    namespace.fill(321)
    path = f"/run/netns/{namespace.name}"
    count, limit = ask(reader, "limits", path)
    assert count == (namespace.inode, 0, "nf_conntrack_count", path, b"321\n")
    assert (limit.inode, limit.file) == (namespace.inode, "nf_conntrack_max")
    assert limit.data == Path("/proc/sys/net/netfilter/nf_conntrack_max").read_bytes()


def test_it_looks_into_each_namespace_once_however_it_is_asked(netns, reader):
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


def test_a_sysctl_that_is_not_there_is_told_by_its_error(reader):
    script = 'mount -t tmpfs none /proc/sys/net; exec "$@"'
    hidden = ["unshare", "-m", "sh", "-c", script, "sh", *reader]
    frames = ask(hidden, "limits", "/proc/self/ns/net")
    assert [(frame.file, frame.errno, frame.data) for frame in frames] == [
        ("nf_conntrack_count", 2, b""),
        ("nf_conntrack_max", 2, b""),
    ]


def test_without_the_right_to_enter_it_says_so(netns, reader):
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
    ],
)
def test_what_is_not_of_its_grammar_it_refuses_without_a_word(reader, bytes_):
    done = subprocess.run(reader, input=bytes_, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


def test_it_has_no_rights_when_it_writes(reader):
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
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(fields[kind], 16) == 0
    assert fields["NoNewPrivs"] == "1"


def test_it_dies_with_its_parent(reader):
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


def test_it_needs_nothing_of_the_suite(need, installed, tmp_path):
    need("setpriv")
    tree, _ = installed
    alone = shutil.copy(tree / "check_conntrack/kernel/reader.py", tmp_path)
    done = subprocess.run([alone], input=b"limits\0", capture_output=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"end\n", b"")


def test_it_tells_nothing_about_files_that_are_no_namespaces(reader, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    paths = ["/etc/shadow", "/not/there", str(fifo), "/dev/null", "/proc/self/ns/mnt"]
    assert ask(reader, "limits", *paths) == [(0, 2, "-", path, b"") for path in paths]
