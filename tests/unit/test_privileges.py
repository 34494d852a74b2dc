"""Privileges: which there are, which user root becomes, and that nothing is left afterwards."""

from __future__ import annotations

import errno
import os
import pwd
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel import KernelError, privileges, reader
from check_conntrack.kernel.privileges import NOBODY, User, named_user, unprivileged_user
from check_conntrack.kernel.source import FileReading

PLUGINS = os.path.dirname(os.path.dirname(os.path.dirname(privileges.__file__)))
PEOPLE = {
    "root": (0, 0, "/root"),
    "icinga": (412, 413, "/var/lib/icinga"),
    "rooted": (900, 0, "/home/rooted"),
    "toor": (0, 0, "/root"),
}


@pytest.fixture(autouse=True)
def people(monkeypatch):
    """The users of a host that has these and no other."""
    entries = {
        name: pwd.struct_passwd((name, "x", uid, gid, "", home, "/bin/sh"))
        for name, (uid, gid, home) in PEOPLE.items()
    }
    by_number = {entry.pw_uid: entry for entry in entries.values()}
    monkeypatch.setattr(pwd, "getpwnam", entries.__getitem__)
    monkeypatch.setattr(pwd, "getpwuid", by_number.__getitem__)
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 4, 0])


def status(monkeypatch, data):
    monkeypatch.setattr(privileges, "read_file", lambda path, most=4096: FileReading(path, data))


def test_has_reads_one_bit_of_the_effective_set(monkeypatch):
    status(monkeypatch, b"CapPrm:\t000001ffffffffff\nCapEff:\t0000000000200000\nCapBnd:\t0\n")
    assert privileges.held().effective == 1 << 21
    assert privileges.has(privileges.CAP_SYS_ADMIN)
    status(monkeypatch, b"CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffdfffff\n")
    assert not privileges.has(privileges.CAP_SYS_ADMIN)


def test_held_is_nothing_where_the_kernel_says_nothing(monkeypatch):
    status(monkeypatch, b"")
    assert privileges.held() == privileges.Privileges()
    assert not privileges.has(privileges.CAP_SYS_ADMIN)


def test_named_user_by_name_or_number_without_roots_group():
    icinga = User(412, 413, (413, 4), "/var/lib/icinga")
    assert named_user("icinga") == named_user("412") == icinga
    assert named_user("rooted") == User(900, NOBODY, (4,), "/home/rooted")


def test_named_user_by_number_without_a_name_has_no_groups():
    assert named_user("7777") == User(7777, NOBODY)
    assert named_user("4294967294") == User(4294967294, NOBODY)


@pytest.mark.parametrize("name", ["root", "0", "toor", "000"])
def test_named_user_refuses_root_by_any_name(name):
    with pytest.raises(KernelError, match="is root"):
        named_user(name)


@pytest.mark.parametrize(
    "name", ["nemo", "", "-1", "4294967295", "99999999999", "\u0661", "\udcff", "1.0"]
)
def test_named_user_that_does_not_exist_is_an_error(name):
    with pytest.raises(KernelError, match="not found on this host"):
        named_user(name)


def test_root_becomes_the_named_user_first(tmp_path):
    assert unprivileged_user("rooted", "412", str(tmp_path)).uid == 900


def test_root_becomes_the_caller_of_sudo_next():
    assert unprivileged_user(None, "412", "/nowhere") == named_user("icinga")
    assert unprivileged_user(None, "7777", "/nowhere") == User(7777, NOBODY)


def owned_by(monkeypatch, uid):
    monkeypatch.setattr(os, "lstat", lambda path: os.stat_result([0, 0, 0, 0, uid, 0, 0, 0, 0, 0]))


@pytest.mark.parametrize("sudo_uid", [None, "", "0", "65534", "x", "-1", "1e3", "9" * 11])
def test_root_becomes_the_owner_of_the_state_directory_next(monkeypatch, sudo_uid):
    owned_by(monkeypatch, 412)
    assert unprivileged_user(None, sudo_uid, "/state").uid == 412


def test_root_becomes_nobody_last(monkeypatch):
    assert unprivileged_user(None, None, "/nowhere/at/all") == User(NOBODY, NOBODY)
    assert unprivileged_user(None, None, "a\0b") == User(NOBODY, NOBODY)
    owned_by(monkeypatch, 0)
    assert unprivileged_user(None, "0", "/state") == User(NOBODY, NOBODY)


@given(st.one_of(st.none(), st.text(max_size=12), st.integers().map(str)))
def test_root_never_stays_root_whatever_sudo_uid_holds(sudo_uid):
    chosen = unprivileged_user(None, sudo_uid, "/nowhere")
    assert 0 < chosen.uid < 0xFFFFFFFF
    assert chosen.gid != 0
    assert 0 not in chosen.groups


# --- giving privileges up


@pytest.fixture
def calls(monkeypatch):
    """Return what would have been done to this process, in order; the bounding set has two bits."""
    order = []
    for name in ("setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, lambda *given, name=name: order.append((name, *given)))

    def call(name, *arguments):
        if arguments[0] == reader.PR_CAPBSET_DROP and arguments[1] > 1:
            raise OSError(errno.EINVAL, "Invalid argument")
        order.append((name, *arguments[:2]) if name == "prctl" else (name,))

    monkeypatch.setattr(reader, "call", call)
    return order


BOUNDING = [("prctl", reader.PR_CAPBSET_DROP, 0), ("prctl", reader.PR_CAPBSET_DROP, 1)]
CAPABILITIES = [("prctl", reader.PR_CAP_AMBIENT, reader.PR_CAP_AMBIENT_CLEAR_ALL), ("capset",)]
NO_NEW = [("prctl", reader.PR_SET_NO_NEW_PRIVS, 1)]


def holding(monkeypatch, *results):
    """Return what the kernel says about this process, call by call; the last for ever."""
    left = [privileges.Privileges(**each) for each in results]
    monkeypatch.setattr(privileges, "held", lambda: left.pop(0) if len(left) > 1 else left[0])


@pytest.mark.parametrize("sudo", [True, False])
def test_drop_as_root_leaves_groups_before_the_user_and_every_capability(monkeypatch, calls, sudo):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    holding(monkeypatch, {})
    privileges.drop(User(5, 6, (7,)), sudo=sudo)
    ids = [("setgroups", (7,)), ("setresgid", 6, 6, 6), ("setresuid", 5, 5, 5)]
    assert calls == [*BOUNDING, *ids, *CAPABILITIES, *NO_NEW]


def refuse(*_):
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_drop_as_root_that_cannot_become_another_gives_up_capabilities(monkeypatch, calls):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, refuse)
    holding(monkeypatch, {"permitted": 1}, {})
    privileges.drop(User(5, 6))
    assert calls == [*BOUNDING, *CAPABILITIES, *NO_NEW]


def test_drop_as_root_that_may_not_set_groups_still_leaves_its_user(monkeypatch, calls):
    # A user namespace with setgroups "deny" (user_namespaces(7)).
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "setgroups", refuse)
    holding(monkeypatch, {})
    privileges.drop(User(5, 6))
    ids = [("setresgid", 6, 6, 6), ("setresuid", 5, 5, 5)]
    assert calls == [*BOUNDING, *ids, *CAPABILITIES, *NO_NEW]


SETS = ["inheritable", "permitted", "effective", "ambient"]


@pytest.mark.parametrize("kind", SETS)
def test_drop_as_ordinary_user_empties_every_set(monkeypatch, calls, kind):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    holding(monkeypatch, {kind: 1 << 12}, {"no_new_privileges": True})
    privileges.drop(User(1000, 1000))
    assert calls == [*BOUNDING, *CAPABILITIES, *NO_NEW]


@pytest.mark.parametrize("kind", SETS)
def test_drop_for_sudo_empties_the_sets_and_leaves_new_privileges_possible(
    monkeypatch, calls, kind
):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    holding(monkeypatch, {kind: 1 << 12, "bounding": 3}, {"bounding": 3})
    privileges.drop(User(1000, 1000), sudo=True)
    assert calls == CAPABILITIES


@pytest.mark.parametrize("shortcut", [True, False])
def test_drop_without_capabilities_forbids_new_privileges(monkeypatch, calls, shortcut):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(privileges, "_forbid_new_privileges", lambda: shortcut)
    holding(monkeypatch, {"bounding": 3})
    privileges.drop(User(1000, 1000))
    assert calls == ([] if shortcut else [*BOUNDING, *CAPABILITIES, *NO_NEW])


@pytest.mark.parametrize(
    ("before", "sudo"), [({"no_new_privileges": True}, False), ({"bounding": 3}, True)]
)
def test_drop_does_nothing_where_nothing_is_held(monkeypatch, calls, before, sudo):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(privileges, "_forbid_new_privileges", lambda: pytest.fail("not needed"))
    holding(monkeypatch, before)
    privileges.drop(User(1000, 1000), sudo=sudo)
    assert calls == []


def test_drop_that_fails_is_an_error(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    holding(monkeypatch, {"permitted": 1})
    monkeypatch.setattr(reader, "call", refuse)
    with pytest.raises(KernelError, match="cannot be given up: Operation not permitted"):
        privileges.drop(User(1000, 1000))


def test_drop_that_leaves_a_capability_is_an_error(monkeypatch, calls):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    holding(monkeypatch, {"permitted": 1, "ambient": 1})
    with pytest.raises(KernelError, match=r"cannot be given up \(permitted capabilities 1, amb"):
        privileges.drop(User(1000, 1000))


def test_held_names_each_set_that_is_not_empty(monkeypatch):
    status(
        monkeypatch,
        b"CapInh:\t0\nCapPrm:\t1000\nCapEff:\t0\nCapBnd:\t1ff\nCapAmb:\t0\nNoNewPrivs:\t0\n",
    )
    text = "permitted capabilities 1000, bounding capabilities 1ff, new privileges possible"
    assert str(privileges.held()) == text
    status(monkeypatch, b"NoNewPrivs:\t1\n")
    assert str(privileges.held()) == "no capabilities, no new privileges"


SHORT = """
import sys
sys.path.insert(0, sys.argv[1])
from check_conntrack.kernel import privileges
done = privileges._forbid_new_privileges()
print(done, privileges.held().no_new_privileges, "ctypes" in sys.modules)
"""


def test_new_privileges_are_forbidden_without_ctypes():
    command = [sys.executable, "-I", "-S", "-c", SHORT, PLUGINS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "True True False\n", done.stderr
