"""The reader's closed grammar, its answers, and the order in which it gives up privileges."""

from __future__ import annotations

import _thread
import errno
import io
import os
import re
import struct
import subprocess
import sys
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from check_conntrack.kernel import reader, reader_client, reader_command

PATHS = st.binary(min_size=1, max_size=60).map(lambda name: b"/" + name.replace(b"\0", b"0"))
REQUEST = re.compile(
    rb"log\0|events\0/[^\0]{1,4094}\0(?:[0-2]?[0-9]{1,4}|30000)\0|(?:limits|counters|timeouts|text|owners)\0(?:(?:processes|/[^\0]{1,4094})\0)*"
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


def in_grammar(data):
    """Return whether bytes are a request, told without the reader's help."""
    match = REQUEST.fullmatch(data)
    return bool(match) and all(
        valid_attributes(bytes.fromhex(text.partition(b":")[2].decode()))
        for text in (match[1] or b"").split(b"\0")
    )


def valid_attributes(data):
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
    """Return what the reader makes of the bytes on a descriptor."""
    descriptor = os.memfd_create("request")
    try:
        with open(os.dup(descriptor), "wb") as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return reader.read_request(descriptor)
    finally:
        os.close(descriptor)


WHATS = [b"limits", b"counters", b"timeouts", b"table", b"text", b"events", b"owners", b"log"]
TIMES = [b"1000", b"0", b"30000", b"30001", b"99999", b"100000", b"-1", b"1 ", b"\xd9\xa1"]
WORDS = [*WHATS, b"expectations", b"processes", b"/a", b"/", b"", b"../x"]
WORDS += [*FILTERS, *BAD_FILTERS, *TIMES]


@given(
    st.one_of(
        st.binary(max_size=80),
        st.lists(st.sampled_from(WORDS), max_size=6).map(b"\0".join),
        st.tuples(
            st.sampled_from(WHATS),
            st.lists(st.one_of(PATHS, st.just(b"processes")), max_size=3),
            st.lists(st.sampled_from([*FILTERS, *TIMES]), max_size=9),
        ).map(lambda parts: b"".join(part + b"\0" for part in [parts[0], *parts[1], *parts[2]])),
    )
)
@example(b"")
@example(b"limits")
@example(b"limits\0")
@example(b"limits\0/x\0processes\0/y\nz\0")
@example(b"log\0")
@example(b"events\0/x\0001000\0")
@example(b"events\0/x\00030001\0")
@example(b"events\0/x\0/y\0001000\0")
@example(b"events\0processes\0001000\0")
@example(b"events\0/x\0")
@example(b"events\0001000\0")
@example(b"events\0")
@example(b"table\0" + b"0:\0" * 8)
@example(b"table\0" + b"0:\0" * 9)
def test_request_in_the_grammar_is_read_and_any_other_refused(data):
    try:
        fields = read_request(data)
    except reader.RefusedError:
        assert not in_grammar(data)
    else:
        assert in_grammar(data)
        assert b"".join(field + b"\0" for field in fields) == data


@pytest.mark.parametrize("text", BAD_FILTERS)
def test_filter_outside_the_grammar_is_refused(text):
    with pytest.raises(reader.RefusedError):
        read_request(b"table\0" + text + b"\0")


@pytest.mark.parametrize("text", FILTERS)
def test_filter_is_a_family_and_attributes(text):
    family, _, digits = text.partition(b":")
    assert read_request(b"table\0" + text + b"\0") == [b"table", text]
    assert reader.parse_filter(text) == (int(family), bytes.fromhex(digits.decode()))


@pytest.mark.parametrize("length", [2, 4095, 4096, 5000])
def test_path_is_at_most_as_long_as_path_max(length):
    request = b"limits\0" + b"/" * length + b"\0"
    if length <= 4095:
        assert read_request(request) == [b"limits", b"/" * length]
    else:
        with pytest.raises(reader.RefusedError):
            read_request(request)


def test_request_is_at_most_a_mebibyte():
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
def test_client_parses_every_frame(frames):
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
def test_program_answers_or_exits_2_without_a_byte(request):
    done = run(request)
    assert done.stderr == b""
    if in_grammar(request):
        assert done.returncode == 0
        parsed(done.stdout)
    else:
        assert (done.returncode, done.stdout) == (2, b"")


def test_procfs_own_directory_in_place_of_a_namespace_is_a_refusal():
    shown = os.stat("/proc")
    with pytest.raises(PermissionError):
        reader.namespace_inode(shown, b"/proc/1/ns/net")
    with pytest.raises(FileNotFoundError):
        reader.namespace_inode(shown, b"/proc/1/ns")
    with pytest.raises(FileNotFoundError):
        reader.namespace_inode(os.stat("/"), b"/tmp/ns/net")


def test_path_without_a_network_namespace_is_missing_and_not_opened(tmp_path):
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


def found(path):
    """The device and inode number of what the reader finds at a path, or the error."""
    try:
        descriptor = reader.find(os.fsencode(path))
    except OSError as error:
        return error.errno
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status.st_dev, status.st_ino


NAMESPACE = "/proc/self/ns/net"


@pytest.mark.parametrize(
    "path",
    [
        NAMESPACE,
        "//proc/./self/../self/ns/net",
        "/proc/thread-self/ns/net",
        "/proc/{pid}/task/{pid}/ns/net",
        "{}/absolute",
        "{}/relative",
        "{}/folder/ns/net",
        "{}/chain",
    ],
)
def test_path_to_a_namespace_is_followed_as_the_kernel_does(tmp_path, path):
    (tmp_path / "absolute").symlink_to(NAMESPACE)
    (tmp_path / "relative").symlink_to("../" * 20 + NAMESPACE)
    (tmp_path / "folder").symlink_to("/proc/self/")
    (tmp_path / "chain").symlink_to("absolute")
    status = os.stat(NAMESPACE)
    assert found(path.format(tmp_path, pid=os.getpid())) == (status.st_dev, status.st_ino)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/root/proc/self/ns/net",
        "/proc/self/root",
        "/proc/self/root/",
        "/proc/self/cwd/x",
        "/proc/self/exe",
        "/proc/self/fd/{descriptor}",
        "/proc/self/ns/../fd/{descriptor}",
        "/proc/self/ns/net/",
        "/proc/self/ns/uts",
        "/proc/self/task/../root/etc",
        "{folder}/link/etc",
        "{folder}/nothing",
    ],
)
def test_path_does_not_lead_out_of_proc(tmp_path, path):
    """Behind root, cwd and fd a process may have mounted what never answers."""
    (tmp_path / "link").symlink_to("/proc/self/root")
    with open(NAMESPACE) as file:
        assert found(path.format(folder=tmp_path, descriptor=file.fileno())) == errno.ENOENT


def test_path_of_links_without_end_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert found(tmp_path / "loop") == errno.ELOOP
    for number in range(50):
        (tmp_path / str(number)).symlink_to(str(number + 1))
    (tmp_path / "50").symlink_to(NAMESPACE)
    assert found(tmp_path / "0") == errno.ELOOP
    assert found(tmp_path / "20") != errno.ELOOP


def test_paths_leave_no_descriptor_open(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    before = os.listdir("/proc/self/fd")
    for path in (NAMESPACE, tmp_path / "loop", tmp_path / "none", "/proc/self/root/", "/etc/x/y"):
        found(path)
    assert os.listdir("/proc/self/fd") == before


def test_own_namespace_is_read_once():
    done = run(b"limits\0/proc/self/ns/net\0/proc/self/ns/net\0")
    frames = parsed(done.stdout)
    if frames[0].inode:
        assert [frame.file for frame in frames] == list(reader.LIMITS)
        assert {frame.inode for frame in frames} == {os.stat("/proc/self/ns/net").st_ino}
    else:
        assert {frame.errno for frame in frames} == {errno.EPERM}


def test_environment_and_directory_of_the_caller_are_ignored(tmp_path):
    trap = "raise SystemExit(77)\n"
    for name in ("ctypes.py", "signal.py", "sitecustomize.py", "errno.py"):
        (tmp_path / name).write_text(trap)
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "errno.py")}
    environment |= {"PYTHONHOME": str(tmp_path), "PYTHONINSPECT": "1"}
    done = run(b"limits\0", cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"end\n", b"")


def test_first_line_isolates_and_nothing_of_the_suite_is_imported():
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


def test_enter_own_namespace_calls_no_setns(setns, monkeypatch):
    monkeypatch.setattr(reader, "own_inode", lambda: OWN)
    assert reader.enter(b"/proc/self/ns/net", set()) == OWN
    assert setns == []


def test_enter_visits_a_namespace_once_and_leaves_no_descriptor(setns):
    before = os.listdir("/proc/self/fd")
    seen = set()
    assert reader.enter(b"/proc/self/ns/net", seen) == OWN
    assert reader.enter(b"/proc/thread-self/ns/net", seen) == 0
    assert (seen, setns) == ({OWN}, [reader.CLONE_NEWNET])
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("code", "reported"),
    [
        (errno.EINVAL, errno.ENOENT),
        (errno.ENXIO, errno.ENOENT),
        (errno.EPERM, errno.EPERM),
        (errno.EACCES, errno.EACCES),
    ],
)
def test_enter_reports_missing_or_forbidden_and_nothing_else(setns, code, reported):
    before = os.listdir("/proc/self/fd")
    setns.append(code)
    with pytest.raises(OSError, match=r"no namespace|denied|not permitted") as error:
        reader.enter(b"/proc/self/ns/net", set())
    assert error.value.errno == reported
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

    def enter(path, seen, **_):
        inode = given(known[path])
        if inode in seen:
            return 0
        seen.add(inode)
        return inode

    monkeypatch.setattr(reader, "enter", enter)
    monkeypatch.setattr(reader, "read_small", lambda path: given(files[path]))
    monkeypatch.setattr(reader, "leave", lambda *_: None)
    monkeypatch.setattr(reader, "widen_pipe", lambda pipe: None)
    monkeypatch.setattr(reader, "allow_descriptors", lambda: None)
    return known, files


def test_each_namespace_is_read_once_by_whatever_path(places, monkeypatch):
    places[0].update({b"/a": 71, b"/p/1": 71, b"/p/2": 72, b"/p/3": 72})
    monkeypatch.setattr(reader, "threads", lambda: [b"/p/1", b"/p/2", b"/p/3"])
    assert answer(b"limits", [b"/a", b"processes", b"/a"]) == [
        (inode, 0, name, path, b"5\n")
        for inode, path in ((71, "/a"), (72, "/p/2"))
        for name in reader.LIMITS
    ]


def test_place_that_is_named_again_is_not_looked_for_again(places, monkeypatch):
    places[0].update({b"/a": OSError(errno.ENOENT, ""), b"/p/1": 71})
    looked = []
    monkeypatch.setattr(reader, "threads", lambda: looked.append(1) or [b"/p/1"])
    answer(b"limits", [b"processes", b"/a"] * 1000)
    assert looked == [1]
    assert len(answer(b"limits", [b"/a"] * 1000)) == 1


def test_namespace_that_cannot_be_entered_is_a_frame_with_its_error(places):
    places[0].update({b"/a": OSError(errno.EPERM, ""), b"/b": OSError(errno.ENOENT, "")})
    for what in WHATS[:-1]:
        told = [frame for frame in answer(what, [b"/a", b"/b"]) if frame.file != "pods"]
        assert told == [
            (0, errno.EPERM, "-", "/a", b""),
            (0, errno.ENOENT, "-", "/b", b""),
        ]


def test_ctnetlink_is_asked_for_the_limit_where_it_is_not_that_of_here(places, monkeypatch):
    places[0].update({b"/a": 71, b"/b": 72})
    monkeypatch.setattr(reader, "table_stats", lambda: b"stats")
    count, maximum = reader.LIMITS
    # Before the first namespace, in it, and in the second one.
    read = iter([b"5\n", b"5\n", b"5\n", b"5\n", b"7\n"])
    monkeypatch.setattr(reader, "read_small", lambda path: next(read))
    assert answer(b"limits", [b"/a", b"/b"]) == [
        (71, 0, count, "/a", b"5\n"),
        (71, 0, maximum, "/a", b"5\n"),
        (72, 0, count, "/b", b"5\n"),
        (72, 0, maximum, "/b", b"7\n"),
        (72, 0, "stats", "/b", b"stats"),
    ]


def test_sysctl_that_cannot_be_read_is_a_frame_with_its_error(places):
    count, maximum = reader.LIMITS
    places[0][b"/a"] = 71
    places[1][reader.SYSCTLS + count] = OSError(errno.ENOENT, "")
    places[1][reader.SYSCTLS + maximum] = b"abc"
    assert answer(b"limits", [b"/a"]) == [
        (71, errno.ENOENT, count, "/a", b""),
        (71, 0, maximum, "/a", b"abc"),
    ]


def test_namespaces_of_processes_that_ended_are_left_out(places, monkeypatch):
    places[0].update({b"/p/1": OSError(errno.ENOENT, ""), b"/p/2": OSError(errno.EACCES, "")})
    monkeypatch.setattr(reader, "threads", lambda: [b"/p/1", b"/p/2"])
    assert answer(b"limits", [b"processes"]) == [(0, errno.EACCES, "-", "/p/2", b"")]


def test_threads_lists_each_process_and_its_other_threads():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        paths = list(reader.threads())
    finally:
        stop.set()
        thread.join()
    assert len(paths) == len(set(paths))
    pid = os.getpid()
    assert {b"/proc/%d/ns/net" % pid, b"/proc/%d/task/%d/ns/net" % (pid, thread.native_id)} <= {
        *paths
    }
    assert all(re.fullmatch(rb"/proc/[0-9]+(/task/[0-9]+)?/ns/net", path) for path in paths)


# --- whether a request could load a module

BUILTIN = "kernel/net/netfilter/{}.ko\n"


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """A kernel with these loaded modules, built-in modules and symbols; None for no such file."""

    def make(modules, builtin=None, symbols=None):
        for name, text in (
            ("MODULES", modules),
            ("BUILTIN_MODULES", builtin),
            ("SYMBOLS", symbols),
        ):
            file = tmp_path / name
            monkeypatch.setattr(reader, name, str(file))
            if text is not None:
                file.write_text(text)

    return make


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ((None,), True),
        (("nf_conntrack_netlink 57344 0 - Live 0x0\n",), True),
        (("nf_conntrack 1 1 nf_nat, Live 0x0\nnf_conntrack_netlink 1 0 - Loading 0x0\n",), False),
        (("nf_conntrack 172032 1 nf_nat, Live 0x0\n", BUILTIN.format("nfnetlink")), False),
        (("", BUILTIN.format("nf_conntrack_netlink")), True),
        (("", None, "0 t ctnetlink_dump_table\n"), True),
        (("", None, "0 t ctnetlink_dump_table\t[nf_conntrack_netlink]\n"), False),
        (("", None, "0 t nfnetlink_rcv\n"), False),
        (("", None, None), False),
    ],
    ids=[
        "kernel without modules",
        "loaded",
        "being loaded",
        "not loaded",
        "built in",
        "built in, by its symbols",
        "symbols of a module",
        "no such symbols",
        "nothing known",
    ],
)
def test_ctnetlink_is_asked_only_where_no_module_can_be_loaded(kernel, files, expected):
    kernel(*files)
    assert reader.ctnetlink_in_kernel() is expected


def test_modules_that_cannot_be_read_leave_ctnetlink_alone(kernel, monkeypatch, tmp_path):
    kernel("")
    monkeypatch.setattr(reader, "MODULES", str(tmp_path))
    assert reader.ctnetlink_in_kernel() is False


@pytest.fixture
def no_sockets(monkeypatch):
    """Any socket is an error."""

    def refuse(*_, **__):
        raise AssertionError("ctnetlink was asked")

    monkeypatch.setattr(reader, "request_dump", refuse)
    monkeypatch.setattr("socket.socket", refuse)


@pytest.mark.parametrize("what", ["counters", "table"])
@pytest.mark.parametrize("lacking", ["conntrack", "ctnetlink"])
def test_ctnetlink_that_is_not_in_the_kernel_is_not_asked(
    monkeypatch, tmp_path, no_sockets, what, lacking
):
    monkeypatch.setattr(reader, "SYSCTLS", f"{tmp_path}/")
    monkeypatch.setattr(reader, "ctnetlink_in_kernel", lambda: lacking == "conntrack")
    if lacking != "conntrack":
        (tmp_path / reader.COUNT).write_text("5\n")
    own = "/proc/self/ns/net"
    frames = {frame.file: frame for frame in answer(what.encode(), [own.encode()])}
    file = "stats_cpu" if what == "counters" else "dump_a"
    assert frames[file] == (OWN, errno.EPROTONOSUPPORT, file, own, b"")


@pytest.mark.parametrize("lacking", ["conntrack", "ctnetlink"])
def test_group_is_not_joined_where_it_would_load_a_module(
    monkeypatch, tmp_path, no_sockets, lacking
):
    monkeypatch.setattr(reader, "SYSCTLS", f"{tmp_path}/")
    monkeypatch.setattr(reader, "ctnetlink_in_kernel", lambda: lacking == "conntrack")
    if lacking != "conntrack":
        (tmp_path / reader.COUNT).write_text("5\n")
        (tmp_path / reader.EVENTS).write_text("2\n")
    own = "/proc/self/ns/net"
    before = os.listdir("/proc/self/fd")
    (frame,) = answer(b"events", [own.encode(), b"1000"])
    if lacking == "conntrack":
        assert frame == (OWN, errno.ENOENT, reader.EVENTS, own, b"")
    else:
        assert frame == (OWN, errno.EPROTONOSUPPORT, "events", own, b"")
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_empty_table_is_not_dumped(monkeypatch, tmp_path, no_sockets):
    monkeypatch.setattr(reader, "SYSCTLS", f"{tmp_path}/")
    (tmp_path / reader.COUNT).write_text("0\n")
    for filters in ([], [b"2:", b"10:"]):
        frames = answer(b"table", [b"/proc/self/ns/net", *filters])
        dumps = frames[::2]
        assert [frame.file for frame in dumps] == ["dump_a", "dump_b"][: len(filters) or 1]
        for frame in dumps:
            assert struct.unpack_from("=IH", frame.data) == (20, reader.NLMSG_DONE)
        assert {frame.data for frame in frames[1::2]} == {b""}


def test_tables_are_asked_for_where_they_are_walked_later(monkeypatch, tmp_path):
    """The walk of a hash begins when privileges are gone: each dump is a deferred one."""
    asked = []
    monkeypatch.setattr(reader, "SYSCTLS", f"{tmp_path}/")
    (tmp_path / reader.COUNT).write_text("1\n")
    monkeypatch.setattr(reader, "require_ctnetlink", lambda: None)
    monkeypatch.setattr(
        reader, "request_dump", lambda *_, deferred=False: asked.append(deferred) or Answers()
    )
    for filters in ([], [b"2:", b"10:"]):
        reader.prepare(b"table", [b"/proc/self/ns/net", *filters])
    assert asked == [True, True, True]


def test_file_of_another_namespace_is_stale(tmp_path):
    (tmp_path / "one").write_text("1")
    owners = {}
    for inode in (7, 7):
        os.close(reader.open_of_namespace(str(tmp_path / "one"), inode, owners))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Stale") as error:
        reader.open_of_namespace(str(tmp_path / "one"), 8, owners)
    assert error.value.errno == errno.ESTALE
    assert os.listdir("/proc/self/fd") == before


def test_leave_falls_back_to_a_new_namespace(monkeypatch):
    calls = []

    def call(function, *arguments):
        calls.append(function)
        if function == "setns":
            raise PermissionError(errno.EPERM, "")

    monkeypatch.setattr(reader, "call", call)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        reader.leave(home)
        assert calls == []
        reader.leave(home, "/proc/self/ns/uts")
    finally:
        os.close(home)
    assert calls == ["setns", "unshare"]


# --- the order of things


@pytest.fixture
def main(monkeypatch):
    """Run the reader's main with nothing done to this process; what would have been, in order."""
    order = []

    class TimeLimit:
        def set(self, seconds):
            order.append(round(seconds))

    monkeypatch.setattr(reader, "TimeLimit", TimeLimit)
    monkeypatch.setattr(reader, "is_pipe", lambda descriptor: True)
    monkeypatch.setattr(reader, "protect_process", lambda: order.append("protect"))
    monkeypatch.setattr(reader, "drop_privileges", lambda: order.append("drop"))
    monkeypatch.setattr(reader, "write", order.append)

    def run(request):
        monkeypatch.setattr(reader, "read_request", request)
        return reader.main(), order

    return run


def test_privileges_are_dropped_before_the_answer_is_written(main, places):
    places[0][b"/a"] = OSError(errno.EPERM, "")
    assert main(lambda descriptor: [b"limits", b"/a"]) == (
        0,
        [
            *("protect", reader.LIFETIME, reader.PREPARATION, "drop", "protect", reader.LIFETIME),
            *(reader.STALL, b"0 1 - 2 0\n/a", reader.LIFETIME, reader.STALL, b"end\n"),
        ],
    )


def test_refused_request_ends_with_status_2_and_no_byte(main):
    def refuse(descriptor):
        raise reader.RefusedError

    status, order = main(refuse)
    assert status == 2
    assert not [step for step in order if isinstance(step, bytes)]


def test_write_continues_after_a_short_write(monkeypatch):
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
        self.closed = False

    def close(self):
        """No more."""
        self.closed = True

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
    """The frames of deferred dumps: file, error, data."""
    frames = b"".join(map(bytes, reader.dump_frames(list(sockets), 7, b"/a")))
    assert all(link.closed for link in sockets)
    return [(frame[2], frame[1], frame[4]) for frame in parsed(frames + b"end\n")]


@pytest.mark.parametrize("threads", [True, False])
def test_dumps_begin_together_and_the_echo_is_left_out(threads, monkeypatch):
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


def test_batches_are_joined_into_large_frames():
    batches = [bytes((number,)) * 32000 for number in range(20)]
    told = dumped(Answers(refusal(errno.EINVAL), *batches, OSError(errno.ENOBUFS, "")))
    assert b"".join(data for _, _, data in told) == b"".join(batches)
    assert [len(data) for _, _, data in told] == [256000, 256000, 128000, 0]
    assert [code for _, code, _ in told] == [0, 0, 0, errno.ENOBUFS]


def test_call_raises_the_error_of_libc():
    with pytest.raises(OSError, match="Bad file descriptor") as error:
        reader.call("setns", -1, reader.CLONE_NEWNET)
    assert error.value.errno == errno.EBADF
