"""The privileged side: its grammar is closed, and what it writes its counterpart understands."""

from __future__ import annotations

import _thread
import errno
import io
import os
import re
import struct
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from check_conntrack.kernel import reader, reader_client, reader_command

PATHS = st.binary(min_size=1, max_size=60).map(lambda name: b"/" + name.replace(b"\0", b"0"))
REQUEST = re.compile(
    rb"log\0|(?:limits|counters|expectations|text)\0(?:(?:processes|/[^\0]{1,4094})\0)*"
    rb"|table\0(?:(?:processes|/[^\0]{1,4094})\0)*((?:(?:0|2|10):(?:[0-9a-fA-F]{2})*\0){0,8})",
    re.DOTALL,
)
STATUS = b"0800030000000006"  # CTA_STATUS, a well-formed attribute
FILTERS = [b"0:", b"2:", b"10:", b"2:" + STATUS, b"10:" + STATUS * 2]
BAD_FILTERS = [b"0", b":", b"7:", b"02:", b"2:0", b"2:zz", b"2: " + STATUS, b"2:08 00030000000006"]
BAD_FILTERS += [
    b"2:0800",
    b"2:03000300",
    b"2:0900030000000006",
    b"2:0800040000000006",
    b"2:\xd9\xa1",
]
BAD_FILTERS += [b"2:" + STATUS * 200]


def of_the_grammar(data):
    """Whether bytes are a request, told without the reader's help."""
    match = REQUEST.fullmatch(data)
    return bool(match) and all(
        whole_attributes(bytes.fromhex(text.partition(b":")[2].decode()))
        for text in (match[1] or b"").split(b"\0")
    )


def whole_attributes(data):
    while data:
        size, kind = (
            int.from_bytes(data[:2], sys.byteorder),
            int.from_bytes(data[2:4], sys.byteorder),
        )
        if not 4 <= size <= len(data) or kind & 0x3FFF not in (1, 2, 3, 8, 18, 21, 25, 26):
            return False
        data = data[(size + 3) // 4 * 4 :]
    return True


def parsed(answer):
    return list(reader_client.parse_answer(io.BytesIO(answer)))


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


WHATS = [b"limits", b"counters", b"timeouts", b"table", b"expectations", b"text", b"log"]
WORDS = [*WHATS, b"processes", b"/a", b"/", b"", b"../x", *FILTERS, *BAD_FILTERS]


@given(
    st.one_of(
        st.binary(max_size=80),
        st.lists(st.sampled_from(WORDS), max_size=6).map(b"\0".join),
        st.tuples(
            st.sampled_from(WHATS),
            st.lists(st.one_of(PATHS, st.just(b"processes")), max_size=3),
            st.lists(st.sampled_from(FILTERS), max_size=9),
        ).map(lambda parts: b"".join(part + b"\0" for part in [parts[0], *parts[1], *parts[2]])),
    )
)
@example(b"")
@example(b"limits")
@example(b"limits\0")
@example(b"limits\0/x\0processes\0/y\nz\0")
@example(b"log\0")
@example(b"table\0" + b"0:\0" * 8)
@example(b"table\0" + b"0:\0" * 9)
def test_any_bytes_are_a_request_of_the_grammar_or_are_refused(data):
    try:
        fields = read_request(data)
    except reader.RefusedError:
        assert not of_the_grammar(data)
    else:
        assert of_the_grammar(data)
        assert b"".join(field + b"\0" for field in fields) == data


@pytest.mark.parametrize("text", BAD_FILTERS)
def test_a_filter_that_is_not_of_the_grammar_is_refused(text):
    with pytest.raises(reader.RefusedError):
        read_request(b"table\0" + text + b"\0")


@pytest.mark.parametrize("text", FILTERS)
def test_a_filter_is_a_family_and_the_bytes_of_attributes(text):
    family, _, digits = text.partition(b":")
    assert read_request(b"table\0" + text + b"\0") == [b"table", text]
    assert reader.parse_filter(text) == (int(family), bytes.fromhex(digits.decode()))


@pytest.mark.parametrize("length", [2, 4095, 4096, 5000])
def test_a_path_is_as_long_as_the_kernel_takes_it_and_no_longer(length):
    request = b"limits\0" + b"/" * length + b"\0"
    if length <= 4095:
        assert read_request(request) == [b"limits", b"/" * length]
    else:
        with pytest.raises(reader.RefusedError):
            read_request(request)


def test_a_request_is_not_longer_than_a_mebibyte():
    fits = b"limits\0" + b"processes\0" * ((reader.LONGEST_REQUEST - 7) // 10)
    assert len(read_request(fits)) == 1 + (reader.LONGEST_REQUEST - 7) // 10
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
    assert parsed(answer) == [
        (inode, code, name, os.fsdecode(path), data) for inode, code, name, path, data in frames
    ]


def run(request, **options):
    """The reader as a program of its own; what it may, this test may."""
    command = [sys.executable, "-I", "-S", "-B", reader_command.READER]
    return subprocess.run(
        command, input=request, capture_output=True, timeout=30, check=False, **options
    )


@settings(max_examples=12)
@given(
    st.one_of(
        st.binary(max_size=40), st.sampled_from([b"", b"limits", b"limits\0\0", b"table\0/\0"])
    )
)
def test_as_a_program_it_answers_or_exits_2_and_writes_nothing(request):
    done = run(request)
    assert done.stderr == b""
    if of_the_grammar(request):
        assert done.returncode == 0
        parsed(done.stdout)
    else:
        assert (done.returncode, done.stdout) == (2, b"")


def test_what_is_no_network_namespace_is_called_missing_and_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("secret")
    (tmp_path / "link").symlink_to("/dev/zero")
    paths = [os.fsencode(tmp_path / name) for name in ("fifo", "file", "link", "nothing")]
    paths += [b"/dev/zero", b"/proc/self/mem", b"/proc/self/ns/mnt", b"/etc/shadow", b"/tmp"]
    done = run(b"limits\0" + b"".join(path + b"\0" for path in paths))
    frames = parsed(done.stdout)
    assert [os.fsencode(frame.path) for frame in frames] == paths
    assert {frame[:3] + frame[4:] for frame in frames} <= {
        (0, errno.ENOENT, "-", b""),
        (0, errno.EACCES, "-", b""),
        (0, errno.EPERM, "-", b""),
    }
    assert done.returncode == 0


def test_its_own_namespace_is_read_once_or_said_to_be_closed():
    done = run(b"limits\0/proc/self/ns/net\0/proc/self/ns/net\0")
    frames = parsed(done.stdout)
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
    with open(reader_command.READER) as file:
        text = file.read()
    assert text.startswith("#!/usr/bin/python3 -ISB\n")
    imported = set(re.findall(r"^ *(?:from|import) (\S+)", text, re.MULTILINE))
    assert not {
        name for name in imported if name.startswith((".", "check_conntrack", "nagiosplugin"))
    }
    assert "subprocess" not in imported


# --- what it does with the kernel, which stands in for itself here

OWN = os.stat("/proc/self/ns/net").st_ino


@pytest.fixture
def setns(monkeypatch):
    """The calls of setns(2), which are not made; put an error into the list and it is raised."""
    calls = []

    def call(function, *arguments):
        assert function == "setns"
        if calls and isinstance(calls[-1], int):
            raise OSError(calls[-1], os.strerror(calls[-1]))
        calls.append(arguments[1])

    monkeypatch.setattr(reader, "call", call)
    monkeypatch.setattr(reader, "own_inode", lambda: 0)
    return calls


def test_to_stay_where_it_is_it_needs_no_right(setns, monkeypatch):
    monkeypatch.setattr(reader, "own_inode", lambda: OWN)
    assert reader.enter(b"/proc/self/ns/net", set()) == OWN
    assert setns == []


def test_a_namespace_is_entered_once_and_no_descriptor_is_left_open(setns):
    before = os.listdir("/proc/self/fd")
    seen = set()
    assert reader.enter(b"/proc/self/ns/net", seen) == OWN
    assert reader.enter(b"/proc/thread-self/ns/net", seen) == 0
    assert (seen, setns) == ({OWN}, [reader.CLONE_NEWNET])
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.EINVAL, errno.ENOENT),
        (errno.ENXIO, errno.ENOENT),
        (errno.EPERM, errno.EPERM),
        (errno.EACCES, errno.EACCES),
    ],
)
def test_what_cannot_be_entered_is_missing_or_forbidden_and_nothing_else(setns, code, told):
    before = os.listdir("/proc/self/fd")
    setns.append(code)
    with pytest.raises(OSError, match=r"no namespace|denied|not permitted") as error:
        reader.enter(b"/proc/self/ns/net", set())
    assert error.value.errno == told
    assert os.listdir("/proc/self/fd") == before


def answer(what, arguments):
    return parsed(
        b"".join(piece for part in reader.prepare(what, arguments) for piece in part) + b"end\n"
    )


@pytest.fixture
def places(monkeypatch):
    """Namespaces by path, small files by path; an error number where the kernel gives one."""
    known, files = {}, {reader.SYSCTLS + name: b"5\n" for name in reader.LIMITS}

    def given(value):
        if isinstance(value, OSError):
            raise value
        return value

    def enter(path, seen):
        inode = given(known[path])
        if inode in seen:
            return 0
        seen.add(inode)
        return inode

    monkeypatch.setattr(reader, "enter", enter)
    monkeypatch.setattr(reader, "small", lambda path: given(files[path]))
    return known, files


def test_every_namespace_is_read_once_whatever_leads_to_it(places, monkeypatch):
    places[0].update({b"/a": 71, b"/p/1": 71, b"/p/2": 72, b"/p/3": 72})
    monkeypatch.setattr(reader, "processes", lambda: [b"/p/1", b"/p/2", b"/p/3"])
    assert answer(b"limits", [b"/a", b"processes", b"/a"]) == [
        (inode, 0, name, path, b"5\n")
        for inode, path in ((71, "/a"), (72, "/p/2"))
        for name in reader.LIMITS
    ]


def test_a_namespace_that_cannot_be_entered_is_a_frame_with_its_error(places):
    places[0].update({b"/a": OSError(errno.EPERM, ""), b"/b": OSError(errno.ENOENT, "")})
    for what in WHATS[:-1]:
        assert answer(what, [b"/a", b"/b"]) == [
            (0, errno.EPERM, "-", "/a", b""),
            (0, errno.ENOENT, "-", "/b", b""),
        ]


def test_a_sysctl_that_cannot_be_read_is_a_frame_with_its_error(places):
    count, maximum = reader.LIMITS
    places[0][b"/a"] = 71
    places[1][reader.SYSCTLS + count] = OSError(errno.ENOENT, "")
    places[1][reader.SYSCTLS + maximum] = b"abc"
    assert answer(b"limits", [b"/a"]) == [
        (71, errno.ENOENT, count, "/a", b""),
        (71, 0, maximum, "/a", b"abc"),
    ]


def test_processes_are_those_of_the_kernel():
    paths = reader.processes()
    assert b"/proc/%d/ns/net" % os.getpid() in paths
    assert all(re.fullmatch(rb"/proc/[0-9]+/ns/net", path) for path in paths)


@pytest.fixture
def main(monkeypatch):
    """Run the reader's main with nothing done to this process; what would have been, in order."""
    order = []
    monkeypatch.setattr(reader.signal, "alarm", lambda seconds: order.append("alarm"))
    monkeypatch.setattr(reader.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(reader, "call", lambda name, *_: order.append(name))
    monkeypatch.setattr(reader, "drop_rights", lambda: order.append("drop"))
    monkeypatch.setattr(reader, "write", order.append)

    def run(request):
        monkeypatch.setattr(reader, "read_request", request)
        return reader.main(), order

    return run


def test_the_right_to_look_ends_before_the_answer_is_written(main, places):
    places[0][b"/a"] = OSError(errno.EPERM, "")
    assert main(lambda descriptor: [b"limits", b"/a"]) == (
        0,
        ["alarm", "prctl", "alarm", "drop", "alarm", "prctl", b"0 1 - 2 0\n/a", b"end\n"],
    )


def test_a_refused_request_gets_status_2_and_not_a_byte(main):
    def refuse(descriptor):
        raise reader.RefusedError

    status, order = main(refuse)
    assert status == 2
    assert not [step for step in order if isinstance(step, bytes)]


def test_writing_goes_on_where_a_pipe_took_less_than_all(monkeypatch):
    taken = []
    monkeypatch.setattr(
        reader.os, "write", lambda fd, data: taken.append(data[:3]) or len(data[:3])
    )
    reader.write(b"abcdefgh")
    assert b"".join(taken) == b"abcdefgh"


class Answers:
    """A socket that has these to say."""

    def __init__(self, *said):
        self.said = list(said)

    def recv(self, size, flags=0):
        """The next; raised where it is an error."""
        one = self.said.pop(0) if self.said else BlockingIOError()
        if isinstance(one, OSError):
            raise one
        return one

    def recv_into(self, room, size, flags):
        """The next, put where it is wanted."""
        one = self.recv(len(room))
        room[: len(one)] = one
        return len(one)


def refusal(code):
    """NLMSG_ERROR with an error number."""
    return struct.pack("=IHHIIi", 20, reader.NLMSG_ERROR, 0, 0, 0, -code)


def dumped(*sockets):
    """The frames of dumps that were asked for later: file, error, data."""
    frames = b"".join(map(bytes, reader.tables(list(sockets), 7, b"/a", later=True)))
    return [(frame[2], frame[1], frame[4]) for frame in parsed(frames + b"end\n")]


@pytest.mark.parametrize("threads", [True, False])
def test_dumps_begin_together_and_the_echo_is_not_handed_out(threads, monkeypatch):
    if not threads:

        def refuse(*_):
            raise RuntimeError

        monkeypatch.setattr(_thread, "start_new_thread", refuse)
    echo, no_right = refusal(errno.EINVAL), refusal(errno.EPERM)
    told = dumped(
        Answers(echo, b"one", b"two"),
        Answers(no_right),
        # A kernel that did not wait, and one that has lost something.
        Answers(b"a batch", b"another"),
        Answers(OSError(errno.ENOBUFS, ""), b"rest"),
        Answers(echo),
    )
    assert told == [
        ("dump_a", 0, b"onetwo"),
        ("dump_a", 0, b""),
        ("dump_b", 0, no_right),
        ("dump_b", 0, b""),
        ("dump_c", 0, b"a batchanother"),
        ("dump_c", 0, b""),
        ("dump_d", 0, b"rest"),
        ("dump_d", 0, b""),
        ("dump_e", 0, b""),
    ]


def test_batches_are_put_together_in_frames_of_some_hundred_kilobytes():
    batches = [bytes((number,)) * 32000 for number in range(20)]
    told = dumped(Answers(refusal(errno.EINVAL), *batches, OSError(errno.ENOBUFS, "")))
    assert b"".join(data for _, _, data in told) == b"".join(batches)
    assert [len(data) for _, _, data in told] == [256000, 256000, 128000, 0]
    assert [code for _, code, _ in told] == [0, 0, 0, errno.ENOBUFS]


def test_a_call_of_libc_that_fails_raises_with_its_error():
    with pytest.raises(OSError, match="Bad file descriptor") as error:
        reader.call("setns", -1, reader.CLONE_NEWNET)
    assert error.value.errno == errno.EBADF
