"""The privileged side: its grammar is closed, and what it writes its counterpart understands."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from check_conntrack.kernel import reader, source

PATHS = st.binary(min_size=1, max_size=60).map(lambda name: b"/" + name.replace(b"\0", b"0"))
REQUEST = re.compile(rb"limits\0(?:(?:processes|/[^\0]{1,4094})\0)*", re.DOTALL)


def read_request(data):
    """What the reader makes of the bytes on a descriptor."""
    descriptor = os.memfd_create("request")
    try:
        with open(os.dup(descriptor), "wb") as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return reader.read_request(descriptor)
    finally:
        os.close(descriptor)


@given(
    st.one_of(
        st.binary(max_size=80),
        st.lists(
            st.sampled_from([b"limits", b"processes", b"/a", b"/", b"", b"\0", b"../x", b"table"]),
            max_size=6,
        ).map(b"\0".join),
        st.lists(PATHS, max_size=4).map(
            lambda paths: b"".join([b"limits\0", *(p + b"\0" for p in paths)])
        ),
    )
)
@example(b"")
@example(b"limits")
@example(b"limits\0")
@example(b"limits\0/x\0processes\0/y\nz\0")
def test_any_bytes_are_a_request_of_the_grammar_or_are_refused(data):
    try:
        fields = read_request(data)
    except reader.RefusedError:
        assert not REQUEST.fullmatch(data)
    else:
        assert REQUEST.fullmatch(data)
        assert b"".join(field + b"\0" for field in [b"limits", *fields]) == data


@pytest.mark.parametrize("length", [2, 4095, 4096, 5000])
def test_a_path_is_as_long_as_the_kernel_takes_it_and_no_longer(length):
    request = b"limits\0" + b"/" * length + b"\0"
    if length <= 4095:
        assert read_request(request) == [b"/" * length]
    else:
        with pytest.raises(reader.RefusedError):
            read_request(request)


def test_a_request_is_not_longer_than_a_mebibyte():
    fits = b"limits\0" + b"processes\0" * ((reader.LONGEST_REQUEST - 7) // 10)
    assert len(read_request(fits)) == (reader.LONGEST_REQUEST - 7) // 10
    with pytest.raises(reader.RefusedError):
        read_request(fits + b"processes\0")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**64 - 1),
            st.integers(0, 4095),
            st.sampled_from(["-", *reader.LIMITS]),
            PATHS,
            st.binary(max_size=80),
        ),
        max_size=5,
    )
)
def test_the_counterpart_understands_every_frame(frames):
    answer = b"".join(reader.frame(*frame) for frame in frames) + b"end\n"
    assert source.parse_answer(answer) == [
        (inode, code, name, os.fsdecode(path), data) for inode, code, name, path, data in frames
    ]


def run(request, **options):
    """The reader as a program of its own; what it may, this test may."""
    command = [sys.executable, "-I", "-S", "-B", source.READER]
    return subprocess.run(
        command, input=request, capture_output=True, timeout=30, check=False, **options
    )


@settings(max_examples=12)
@given(
    st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"limits", b"limits\0\0", b"table\0"]))
)
def test_as_a_program_it_answers_or_exits_2_and_writes_nothing(request):
    done = run(request)
    assert done.stderr == b""
    if REQUEST.fullmatch(request):
        assert done.returncode == 0
        source.parse_answer(done.stdout)
    else:
        assert (done.returncode, done.stdout) == (2, b"")


def test_what_is_no_network_namespace_is_called_missing_and_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("secret")
    (tmp_path / "link").symlink_to("/dev/zero")
    paths = [os.fsencode(tmp_path / name) for name in ("fifo", "file", "link", "nothing")]
    paths += [b"/dev/zero", b"/proc/self/mem", b"/proc/self/ns/mnt", b"/etc/shadow", b"/tmp"]
    done = run(b"limits\0" + b"".join(path + b"\0" for path in paths))
    frames = source.parse_answer(done.stdout)
    assert [os.fsencode(frame.path) for frame in frames] == paths
    assert {frame[:3] + frame[4:] for frame in frames} <= {
        (0, errno.ENOENT, "-", b""),
        (0, errno.EACCES, "-", b""),
        (0, errno.EPERM, "-", b""),
    }
    assert done.returncode == 0


def test_its_own_namespace_is_read_once_or_said_to_be_closed():
    done = run(b"limits\0/proc/self/ns/net\0/proc/self/ns/net\0")
    frames = source.parse_answer(done.stdout)
    if frames[0].inode:
        assert [frame.file for frame in frames] == list(reader.LIMITS)
        assert {frame.inode for frame in frames} == {os.stat("/proc/self/ns/net").st_ino}
    else:
        assert {frame.errno for frame in frames} == {errno.EPERM}


def test_the_callers_environment_and_folder_have_no_say(tmp_path):
    trap = "raise SystemExit(77)\n"
    for name in ("ctypes.py", "signal.py", "sitecustomize.py", "errno.py"):
        (tmp_path / name).write_text(trap)
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "errno.py")}
    environment |= {"PYTHONHOME": str(tmp_path), "PYTHONINSPECT": "1"}
    done = run(b"limits\0", cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"end\n", b"")


def test_it_imports_nothing_of_the_suite_and_its_first_line_isolates_it():
    with open(source.READER) as file:
        text = file.read()
    assert text.startswith("#!/usr/bin/python3 -ISB\n")
    assert re.findall(r"^ *(?:from|import) ([\w.]+)", text, re.MULTILINE) == [
        "__future__",
        "ctypes",
        "errno",
        "os",
        "signal",
        "sys",
    ]


# --- what it does with the kernel, which stands in for itself here


class Kernel:
    """Namespaces by path; an error where the kernel gives one."""

    def __init__(self, monkeypatch, places, sysctls=None):
        self.places = places
        self.sysctls = sysctls or dict.fromkeys(reader.LIMITS, b"5\n")
        self.entered = []
        self.open = set()
        monkeypatch.setattr(reader, "open_namespace", self.open_namespace)
        monkeypatch.setattr(reader, "enter", self.enter)
        monkeypatch.setattr(reader, "read_sysctl", self.read_sysctl)
        monkeypatch.setattr(
            reader.os, "fstat", lambda descriptor: os.stat_result([0, descriptor] + [0] * 8)
        )
        monkeypatch.setattr(reader.os, "close", self.open.remove)

    def open_namespace(self, path):
        inode = self.places[path]
        if isinstance(inode, OSError):
            raise inode
        self.open.add(abs(inode))
        return abs(inode)

    def enter(self, descriptor):
        if -descriptor in self.places.values():
            raise OSError(errno.EPERM, "")
        if descriptor == 22:
            raise OSError(errno.EINVAL, "")
        self.entered.append(descriptor)

    def read_sysctl(self, name):
        value = self.sysctls[name]
        if isinstance(value, OSError):
            raise value
        return value


def looked(wheres):
    return source.parse_answer(b"".join(reader.look(wheres)) + b"end\n")


def test_every_namespace_is_entered_once_whatever_leads_to_it(monkeypatch):
    monkeypatch.setattr(reader, "processes", lambda: [b"/p/1", b"/p/2", b"/p/3"])
    kernel = Kernel(monkeypatch, {b"/a": 71, b"/p/1": 71, b"/p/2": 72, b"/p/3": 72})
    frames = looked([b"/a", b"processes", b"/a"])
    assert kernel.entered == [71, 72]
    assert [(frame.inode, frame.path, frame.file) for frame in frames] == [
        (inode, path, name) for inode, path in ((71, "/a"), (72, "/p/2")) for name in reader.LIMITS
    ]
    assert kernel.open == set(), "descriptors are left open"


def test_what_cannot_be_entered_is_told_by_its_error(monkeypatch):
    kernel = Kernel(
        monkeypatch,
        {
            b"/gone": OSError(errno.ENOENT, ""),
            b"/odd": OSError(errno.ENXIO, ""),
            b"/closed": OSError(errno.EACCES, ""),
            b"/foreign": -73,
            b"/mnt": 22,
        },
    )
    frames = looked([b"/gone", b"/odd", b"/closed", b"/foreign", b"/mnt"])
    assert [(frame.inode, frame.errno, frame.file) for frame in frames] == [
        (0, errno.ENOENT, "-"),
        (0, errno.ENOENT, "-"),
        (0, errno.EACCES, "-"),
        (0, errno.EPERM, "-"),
        (0, errno.ENOENT, "-"),
    ]
    assert kernel.open == set()


def test_a_sysctl_that_cannot_be_read_is_a_frame_with_its_error(monkeypatch):
    count, maximum = reader.LIMITS
    Kernel(monkeypatch, {b"/a": 71}, {count: OSError(errno.ENOENT, ""), maximum: b"abc"})
    assert looked([b"/a"]) == [(71, errno.ENOENT, count, "/a", b""), (71, 0, maximum, "/a", b"abc")]


def test_processes_are_those_of_the_kernel():
    paths = reader.processes()
    assert b"/proc/%d/ns/net" % os.getpid() in paths
    assert all(re.fullmatch(rb"/proc/[0-9]+/ns/net", path) for path in paths)


def test_the_right_to_look_ends_before_the_answer_is_written(monkeypatch):
    order = []
    monkeypatch.setattr(reader.signal, "alarm", lambda seconds: order.append("alarm"))
    monkeypatch.setattr(reader, "call", lambda name, *_: order.append(name))
    monkeypatch.setattr(reader, "read_request", lambda descriptor: order.append("request") or [])
    monkeypatch.setattr(reader, "drop_rights", lambda: order.append("drop"))
    monkeypatch.setattr(reader.os, "write", lambda fd, data: order.append(bytes(data)) or 3)
    assert reader.main() == 0
    assert order == ["alarm", "prctl", "request", "drop", "prctl", b"end\n", b"\n"]


def test_a_refused_request_gets_status_2_and_not_a_byte(monkeypatch):
    def refuse(descriptor):
        raise reader.RefusedError

    for name, fake in (("call", lambda *_: None), ("drop_rights", lambda: None)):
        monkeypatch.setattr(reader, name, fake)
    monkeypatch.setattr(reader.signal, "alarm", lambda seconds: None)
    monkeypatch.setattr(reader, "read_request", refuse)
    monkeypatch.setattr(reader.os, "write", lambda *_: pytest.fail("it wrote"))
    assert reader.main() == 2


def test_a_call_of_libc_that_fails_raises_with_its_error():
    with pytest.raises(OSError, match="Bad file descriptor") as error:
        reader.enter(-1)
    assert error.value.errno == errno.EBADF
