from __future__ import annotations

import errno
import os
import re
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from check_conntrack.kernel import namespace_request, namespaces, owner_request
from check_conntrack.kernel.limits import Limits
from check_conntrack.kernel.namespace_request import NamespaceRequest, read_answer, select
from check_conntrack.kernel.namespaces import Namespace, NamespaceScan
from check_conntrack.kernel.reader_client import Frame
from check_conntrack.kernel.source import FileReading

OWN = 4026531840
MOUNTINFO = b"""\
22 28 0:21 / /proc rw,nosuid shared:12 - proc proc rw
101 28 0:4 net:[4026532177] /run/netns/blue rw shared:7 - nsfs nsfs rw
102 28 0:4 net:[4026532178] /run/docker/netns/a\\040b\\134c rw - nsfs nsfs rw
103 28 0:4 net:[4026532179] /odd rw master:1 propagate_from:2 - nsfs nsfs rw
104 28 0:4 mnt:[4026532180] /run/snapd/ns/x.mnt rw - nsfs nsfs rw
105 28 0:4 net:[x] /broken rw - nsfs nsfs rw
106 28 0:4 net:[4026532181] /net:[1] rw - tmpfs nsfs rw
"""


def frames_of(inode, path, entries=5, limit=10, code=0):
    return [
        Frame(inode, code, "nf_conntrack_count", path, b"" if code else b"%d\n" % entries),
        Frame(inode, code, "nf_conntrack_max", path, b"" if code else b"%d\n" % limit),
    ]


def refused(path, code=errno.EPERM):
    return Frame(0, code, "-", path, b"")


# --- mounts


@pytest.fixture
def mountinfo(monkeypatch):
    def fake(data):
        monkeypatch.setattr(namespaces, "read_long_file", lambda path: FileReading(path, data))
        return namespaces.mounts()

    return fake


def test_mounts_that_hold_a_network_namespace_are_found_with_their_inode(mountinfo):
    assert mountinfo(MOUNTINFO) == {
        "/run/netns/blue": 4026532177,
        "/run/docker/netns/a b\\c": 4026532178,
        "/odd": 4026532179,
    }


@given(
    st.one_of(
        st.binary(max_size=80), st.binary(max_size=20).map(lambda tail: MOUNTINFO[:-30] + tail)
    )
)
@example(b"101 28 0:4 net:[4026532177] /x rw -")
@example(b"-")
@example(b"- nsfs")
def test_any_bytes_of_mountinfo_are_read_without_an_error(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(namespaces, "read_long_file", lambda path: FileReading(path, data))
        found = namespaces.mounts()
    assert all(
        b"net:[%d]" % inode in re.sub(rb"\[0+(?=\d)", b"[", data) for inode in found.values()
    )


def test_mountinfo_that_cannot_be_read_holds_no_mounts(mountinfo):
    assert mountinfo(b"") == {}


# --- names


def test_a_name_under_run_netns_wins_over_a_mount_and_the_first_of_several(netns, monkeypatch):
    netns(zebra=71, apple=71, other=72)
    monkeypatch.setattr(namespaces, "mounts", lambda: {"/m/z": 71, "/m/a": 73, "/m/b": 73})
    assert namespaces.names() == {71: "apple", 72: "other", 73: "a"}


def test_what_is_no_namespace_has_no_name(netns):
    directory = netns(good=71)
    (directory / "file").touch()
    (directory / "dangling").symlink_to("nowhere")
    assert namespaces.names() == {71: "good"}


def test_without_run_netns_mounts_alone_have_names(monkeypatch, tmp_path):
    monkeypatch.setattr(namespaces, "DIRECTORY", str(tmp_path / "none"))
    monkeypatch.setattr(namespaces, "mounts", lambda: {"/m/a": 73})
    assert namespaces.names() == {73: "a"}
    assert select(["*"], OWN).missing == (f"{tmp_path}/none: no namespace matches *",)


# --- what --netns asks for


def test_a_name_is_the_file_under_run_netns(netns):
    directory = netns(blue=71)
    asked = select(["blue"], OWN)
    assert asked.targets == (Namespace("blue", str(directory / "blue")),)
    assert (asked.own, asked.everything, asked.missing) == (False, False, ())
    assert asked.first == str(directory / "blue")


def test_a_glob_takes_every_name_that_matches_in_order(netns):
    netns({"web-2": 72, "web-1": 71, "db": 73, "Web-3": 74})
    assert [target.name for target in select(["web-*"], OWN).targets] == ["web-1", "web-2"]
    assert [target.name for target in select(["[dw]*[b1]"], OWN).targets] == ["db", "web-1"]
    assert [target.name for target in select(["d?"], OWN).targets] == ["db"]


def test_a_glob_that_matches_nothing_is_told(netns):
    directory = netns()
    assert select(["web-*"], OWN).missing == (f"{directory}: no namespace matches web-*",)


def test_a_path_is_called_by_its_last_part_and_that_of_a_process_by_its_pid(netns):
    netns({"/x/y/blue": 71, "/proc/12/ns/net": 72, "/proc/12/task/13/ns/net": 73})
    asked = select(["/x/y/../y/blue", "/proc/12/ns/net", "/proc/12/task/13/ns/net"], OWN)
    assert [target.name for target in asked.targets] == ["blue", "pid-12", "pid-12-13"]


def test_a_number_is_a_process(netns):
    netns({"/proc/12/ns/net": 71})
    assert select(["12", "012"], OWN).targets == (Namespace("pid-12", "/proc/12/ns/net"),)
    assert select(["999999999"], OWN).missing == ("namespace pid-999999999: process not found",)


def test_all_asks_for_names_mounts_processes_and_ones_own(netns, monkeypatch):
    directory = netns({"blue": 71, "/m/red": 72})
    monkeypatch.setattr(namespaces, "mounts", lambda: {"/m/red": 72})
    asked = select(["all"], OWN)
    assert asked.targets == (Namespace("blue", str(directory / "blue")), Namespace("red", "/m/red"))
    assert (asked.everything, asked.own, asked.first) == (True, True, OWN)
    assert asked.fields(b"limits") == [
        b"limits",
        os.fsencode(directory / "blue"),
        b"/m/red",
        b"processes",
    ]


def test_all_passes_over_names_that_are_no_namespace_or_vanished(netns):
    directory = netns(good=71)
    (directory / "file").touch()
    asked = select(["all"], OWN)
    assert [target.name for target in asked.targets] == ["good"]
    assert asked.missing == ()


def test_ones_own_namespace_is_never_a_target(netns):
    directory = netns(mine=OWN, blue=71)
    asked = select(["mine"], OWN)
    assert (asked.targets, asked.own, asked.first) == ((), True, OWN)
    asked = select(["blue", "mine"], OWN)
    assert (asked.own, asked.first) == (True, str(directory / "blue"))


def test_a_namespace_that_may_not_be_seen_is_left_to_the_reader(netns):
    netns({"/proc/1/ns/net": None})
    asked = select(["1"], OWN)
    assert asked.targets == (Namespace("pid-1", "/proc/1/ns/net"),)
    assert asked.missing == ()


def test_pid_whose_link_leads_to_procfs_is_left_to_the_reader(netns, monkeypatch):
    # Linux 5.10.262 shows stat() procfs' own directory where the privileges are missing.
    netns({})
    stat = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path: stat("/proc") if path == "/proc/12/ns/net" else stat(path)
    )
    for spec in ("12", "/proc/12/ns/net"):
        asked = select([spec], OWN)
        assert asked.targets == (Namespace("pid-12", "/proc/12/ns/net"),)
        assert asked.missing == ()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nemo", r"namespace nemo: not found \(.*/nemo\)"),
        ("/etc/passwd", "namespace passwd: /etc/passwd is not a network namespace"),
        ("/", "namespace /: / is not a network namespace"),
        ("", "namespace '': .* is not a network namespace"),
        ("..", "is not a network namespace"),
        ("x" * 300, "File name too long"),
        ("a\0b", "not a path"),
        ("\u0661\u0662", "not found"),
    ],
)
def test_what_is_not_there_or_no_namespace_is_told_by_name(netns, spec, words):
    netns()
    asked = select([spec], OWN)
    assert asked.targets == ()
    [sentence] = asked.missing
    assert pytest.raises(AssertionError, match=words).matches(AssertionError(sentence))


def test_a_first_one_that_is_missing_stays_the_first(netns):
    netns(blue=71)
    asked = select(["none*", "blue"], OWN)
    assert asked.first == "none*"
    assert len(asked.targets) == len(asked.missing) == 1


# --- what the reader saw of it


@pytest.fixture(autouse=True)
def no_other_process(monkeypatch):
    """No process but those a test makes up: path of /proc/PID/net/dev → its inode number."""
    numbers = {"/proc/self/net/dev": 1}
    monkeypatch.setattr(namespace_request, "_number", numbers.get)
    return numbers


def asking(*paths, everything=False):
    return NamespaceRequest(
        tuple(Namespace(os.path.basename(path), path) for path in paths), everything
    )


def test_each_namespace_is_found_with_its_limits():
    found = read_answer(asking("/r/blue"), frames_of(71, "/r/blue"), OWN, {71: "other name"})
    assert found.others == (Namespace("blue", "/r/blue", 71, Limits(5, 10)),)
    assert (found.problems, found.inactive, found.forbidden) == ((), (), False)


@pytest.mark.parametrize(
    ("stated", "limit"),
    [(7, 7), (10, 10), (12, 10), (0, 10), (None, 10)],
    ids=["host's is smaller", "the same", "own is smaller", "host has none", "not told"],
)
def test_limit_of_a_namespaces_own_counts_where_it_is_the_smaller_one(stated, limit):
    body = b"" if stated is None else struct.pack("=HH", 8, 2) + struct.pack(">I", stated)
    size = 20 + len(body)
    reply = struct.pack("=IHHIIBBH", size, 1 << 8 | 5, 0, 1, 0, 0, 0, 0) + body
    frames = [*frames_of(71, "/r/blue"), Frame(71, 0, "stats", "/r/blue", reply)]
    [found] = read_answer(asking("/r/blue"), frames, OWN, {}).others
    assert found.limits == Limits(5, limit)


@pytest.mark.parametrize("reply", [b"", b"\x18\0\0\0", bytes(40), b"\x1c" + bytes(27)])
def test_limit_of_the_sysctl_counts_where_ctnetlink_says_nothing(reply):
    frames = [*frames_of(71, "/r/blue"), Frame(71, 0, "stats", "/r/blue", reply)]
    [found] = read_answer(asking("/r/blue"), frames, OWN, {}).others
    assert found.limits == Limits(5, 10)


def test_found_by_all_it_is_called_by_its_name_its_mount_or_its_process(monkeypatch):
    monkeypatch.setattr(owner_request, "read_file", lambda path, most=0: FileReading(path, errno=2))
    frames = [*frames_of(71, "/proc/9/ns/net"), *frames_of(72, "/proc/10/ns/net")]
    found = read_answer(NamespaceRequest((), everything=True), frames, OWN, {71: "blue"})
    assert [namespace.name for namespace in found.others] == ["blue", "pid-10"]


def test_asked_for_by_pid_it_is_called_by_its_name_where_it_has_one(monkeypatch):
    monkeypatch.setattr(owner_request, "read_file", lambda path, most=0: FileReading(path, errno=2))
    targets = NamespaceRequest((Namespace("pid-9", "/proc/9/ns/net"),))
    frames = frames_of(71, "/proc/9/ns/net")
    assert read_answer(targets, frames, OWN, {71: "blue"}).others[0].name == "blue"
    assert read_answer(targets, frames, OWN, {}).others[0].name == "pid-9"


def test_ones_own_is_not_found_twice():
    targets = NamespaceRequest((), everything=True, own=True)
    assert read_answer(targets, frames_of(OWN, "/proc/9/ns/net"), OWN, {}).others == ()


def test_one_that_may_not_be_entered_is_a_problem_and_a_matter_of_rights():
    for path, code, capability in (
        ("/r/blue", errno.EPERM, " (CAP_SYS_ADMIN)"),
        ("/r/blue", errno.EACCES, ""),
        ("/proc/9/ns/net", errno.EACCES, " (CAP_SYS_PTRACE)"),
    ):
        found = read_answer(asking(path), [refused(path, code)], OWN, {})
        (problem,) = found.problems
        assert problem.endswith(f": cannot be entered: {os.strerror(code)}{capability}")
        assert found.forbidden
    found = read_answer(asking("/r/blue"), [refused("/r/blue", errno.EMFILE)], OWN, {})
    assert found.problems
    assert not found.forbidden


def test_one_that_vanished_is_skipped():
    found = read_answer(asking("/r/none"), [refused("/r/none", errno.ENOENT)], OWN, {})
    assert found == NamespaceScan()
    found = read_answer(
        NamespaceRequest((), True), [refused("/proc/9/ns/net", errno.ENOENT)], OWN, {}
    )
    assert found == NamespaceScan()


def test_one_that_is_there_and_no_namespace_is_a_problem(tmp_path):
    path = str(tmp_path)
    found = read_answer(asking(path), [refused(path, errno.ENOENT)], OWN, {})
    assert found.problems == (f"namespace {tmp_path.name}: {path} is not a network namespace",)


def test_one_without_conntrack_is_inactive_and_no_problem(monkeypatch):
    monkeypatch.setattr(namespace_request, "conntrack_trace", lambda: "")
    frames = frames_of(71, "/r/blue", code=errno.ENOENT)
    found = read_answer(asking("/r/blue"), frames, OWN, {})
    assert (found.others, found.inactive, found.problems) == ((), ("in namespace blue",), ())


@pytest.mark.parametrize(
    ("trace", "more"),
    [
        ("/sys/module/nf_conntrack", []),
        ("", [Frame(71, 0, "stats_cpu", "/r/blue", b"counters")]),
    ],
)
def test_one_whose_sysctls_are_hidden_is_a_problem_and_not_inactive(monkeypatch, trace, more):
    monkeypatch.setattr(namespace_request, "conntrack_trace", lambda: trace)
    frames = [*frames_of(71, "/r/blue", code=errno.ENOENT), *more]
    found = read_answer(asking("/r/blue"), frames, OWN, {})
    assert (found.others, found.inactive) == ((), ())
    assert "nf_conntrack_count: hidden, although" in found.problems[0]


@pytest.mark.parametrize("data", [b"", b"abc", b"-1", b"9" * 30])
def test_one_whose_files_hold_no_number_is_a_problem_and_hides_no_other(data):
    bad = [frame._replace(data=data) for frame in frames_of(71, "/r/blue")]
    found = read_answer(asking("/r/blue", "/r/red"), [*bad, *frames_of(72, "/r/red")], OWN, {})
    assert [namespace.name for namespace in found.others] == ["red"]
    assert found.problems[0].startswith(
        "namespace blue: /proc/sys/net/netfilter/nf_conntrack_count: "
    )


def test_a_file_the_reader_left_out_is_a_problem():
    found = read_answer(asking("/r/blue"), frames_of(71, "/r/blue")[:1], OWN, {})
    assert "nf_conntrack_max: Input/output error" in found.problems[0]


def test_processes_in_namespaces_nobody_looked_into_are_told_once(no_other_process):
    no_other_process.update(
        {"/proc/7/net/dev": 1, "/proc/8/net/dev": 2, "/proc/9/net/dev": 3, "/proc/10/net/dev": 2}
    )
    hidden = [refused(f"/proc/{pid}/ns/net", errno.EACCES) for pid in (7, 8, 9, 11)]
    found = read_answer(
        NamespaceRequest((), True), [*frames_of(72, "/proc/10/ns/net"), *hidden], OWN, {}
    )
    assert found.problems == ("network namespace of pid 9: cannot be entered (CAP_SYS_PTRACE)",)
    assert found.forbidden
    found = read_answer(NamespaceRequest((), True), hidden, OWN, {})
    assert found.problems == (
        "network namespace of pid 8 and of 1 more: cannot be entered (CAP_SYS_PTRACE)",
    )


FRAMES = st.lists(
    st.builds(
        Frame,
        st.sampled_from([0, 71, 72, OWN]),
        st.sampled_from([0, 1, 2, 13, 99999]),
        st.sampled_from(["-", "nf_conntrack_count", "nf_conntrack_max", "x"]),
        st.sampled_from(["/r/blue", "/proc/9/ns/net", "", "/", "x/ns/net", "/proc/self/ns/net"]),
        st.sampled_from([b"", b"5\n", b"abc"]),
    ),
    max_size=6,
)


@given(FRAMES, st.booleans())
def test_whatever_the_reader_answers_each_namespace_is_found_at_most_once(frames, everything):
    targets = asking("/r/blue", everything=everything)._replace(own=True)
    found = read_answer(targets, frames, OWN, {71: "one"})
    inodes = [namespace.inode for namespace in found.others]
    assert len(set(inodes)) == len(inodes)
    assert OWN not in inodes
    assert 0 not in inodes


def test_the_inode_of_a_file_that_is_not_there_is_unknown(monkeypatch):
    monkeypatch.undo()
    assert namespace_request._number("/nowhere/at/all") is None
    assert namespace_request._number("/proc/self/net/dev") == os.stat("/proc/self/net/dev").st_ino
