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


def test_the_right_to_enter_namespaces_is_one_bit_of_the_effective_capabilities(monkeypatch):
    status(monkeypatch, b"CapPrm:\t000001ffffffffff\nCapEff:\t0000000000200000\nCapBnd:\t0\n")
    assert privileges.capabilities() == 1 << 21
    assert privileges.has(privileges.CAP_SYS_ADMIN)
    status(monkeypatch, b"CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffdfffff\n")
    assert not privileges.has(privileges.CAP_SYS_ADMIN)


def test_a_kernel_that_does_not_tell_grants_nothing(monkeypatch):
    status(monkeypatch, b"")
    assert privileges.capabilities() == 0
    assert not privileges.has(privileges.CAP_SYS_ADMIN)


def test_a_user_is_named_by_name_or_number_and_leaves_roots_group_behind():
    icinga = User(412, 413, (413, 4), "/var/lib/icinga")
    assert named_user("icinga") == named_user("412") == icinga
    assert named_user("rooted") == User(900, NOBODY, (4,), "/home/rooted")


def test_a_number_without_a_name_is_a_user_of_no_group():
    assert named_user("7777") == User(7777, NOBODY)
    assert named_user("4294967294") == User(4294967294, NOBODY)


@pytest.mark.parametrize("name", ["root", "0", "toor", "000"])
def test_root_by_any_name_is_no_unprivileged_user(name):
    with pytest.raises(KernelError, match="must name an unprivileged user"):
        named_user(name)


@pytest.mark.parametrize(
    "name", ["nemo", "", "-1", "4294967295", "99999999999", "\u0661", "\udcff", "1.0"]
)
def test_a_user_that_is_not_there_is_told(name):
    with pytest.raises(KernelError, match="--user: there is no user"):
        named_user(name)


def test_root_becomes_whom_the_command_line_names_before_all_others(tmp_path):
    assert unprivileged_user("rooted", "412", str(tmp_path)).uid == 900


def test_else_who_called_sudo():
    assert unprivileged_user(None, "412", "/nowhere") == named_user("icinga")
    assert unprivileged_user(None, "7777", "/nowhere") == User(7777, NOBODY)


def owned_by(monkeypatch, uid):
    monkeypatch.setattr(os, "lstat", lambda path: os.stat_result([0, 0, 0, 0, uid, 0, 0, 0, 0, 0]))


@pytest.mark.parametrize("sudo_uid", [None, "", "0", "65534", "x", "-1", "1e3", "9" * 11])
def test_else_the_owner_of_the_state_directory(monkeypatch, sudo_uid):
    owned_by(monkeypatch, 412)
    assert unprivileged_user(None, sudo_uid, "/state").uid == 412


def test_else_nobody(monkeypatch):
    assert unprivileged_user(None, None, "/nowhere/at/all") == User(NOBODY, NOBODY)
    assert unprivileged_user(None, None, "a\0b") == User(NOBODY, NOBODY)
    owned_by(monkeypatch, 0)
    assert unprivileged_user(None, "0", "/state") == User(NOBODY, NOBODY)


@given(st.one_of(st.none(), st.text(max_size=12), st.integers().map(str)))
def test_whatever_sudo_uid_holds_root_never_stays_root(sudo_uid):
    chosen = unprivileged_user(None, sudo_uid, "/nowhere")
    assert 0 < chosen.uid < 0xFFFFFFFF
    assert chosen.gid != 0
    assert 0 not in chosen.groups


# --- giving rights up


@pytest.fixture
def calls(monkeypatch):
    """What would have been done to this process, had it been allowed to."""
    made = []
    for name in ("setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, lambda *given, name=name: made.append((name, *given)))
    monkeypatch.setattr(reader, "call", lambda name, *given: made.append((name,)))
    return made


def test_root_leaves_its_groups_before_its_user(monkeypatch, calls):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(privileges, "capabilities", lambda: 0)
    privileges.drop(User(5, 6, (7,)))
    assert calls == [("setgroups", (7,)), ("setresgid", 6, 6, 6), ("setresuid", 5, 5, 5)]


def refused(*ids):
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_a_root_that_cannot_become_another_gives_up_its_capabilities(monkeypatch, calls):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, refused)
    monkeypatch.setattr(privileges, "capabilities", lambda: 1)
    privileges.drop(User(5, 6))
    assert calls == [("capset",), ("prctl",)]


def test_a_root_that_may_not_set_groups_still_leaves_its_user(monkeypatch, calls):
    # A user namespace with setgroups "deny" (user_namespaces(7)).
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "setgroups", refused)
    monkeypatch.setattr(privileges, "capabilities", lambda: 0)
    left = [("setresgid", 6, 6, 6), ("setresuid", 5, 5, 5)]
    privileges.drop(User(5, 6))
    assert calls == left
    reader.drop_rights(5, 6)
    assert calls == [*left, *left, ("capset",), ("prctl",)]


def test_an_ordinary_user_with_capabilities_gives_them_up(monkeypatch, calls):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(privileges, "capabilities", lambda: 1 << 12)
    privileges.drop(User(1000, 1000))
    assert calls == [("capset",), ("prctl",)]


def test_sudo_is_not_barred_where_it_is_asked_for(monkeypatch, calls):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(privileges, "capabilities", lambda: 1 << 12)
    privileges.drop(User(1000, 1000), sudo=True)
    assert calls == [("capset",)]


def test_an_ordinary_user_without_any_has_nothing_to_give_up(monkeypatch, calls):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(privileges, "capabilities", lambda: 0)
    privileges.drop(User(1000, 1000))
    assert calls == []


def test_rights_that_cannot_be_given_up_are_an_error(monkeypatch):
    def refused(name, *arguments):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(privileges, "capabilities", lambda: 1)
    monkeypatch.setattr(reader, "call", refused)
    with pytest.raises(KernelError, match="rights cannot be given up: Operation not permitted"):
        privileges.drop(User(1000, 1000))


DROPPED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from check_conntrack.kernel import privileges, reader
drop = lambda *who: privileges.drop(privileges.User(*who))
if sys.argv[2] == "reader":
    drop = reader.drop_rights
drop(5, 6, (7,))
print(os.getresuid(), os.getresgid(), os.getgroups(), privileges.capabilities())
try:
    os.setuid(0)
except OSError:
    print("for good")
"""


@pytest.mark.parametrize("before", [(), ("setpriv", "--securebits", "+no_setuid_fixup")])
@pytest.mark.parametrize("way", ["rights", "reader"])
def test_root_becomes_another_for_good_and_keeps_no_capability(way, before, need):
    need(*before[:1])
    command = [*before, sys.executable, "-I", "-S", "-c", DROPPED, PLUGINS, way]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "(5, 5, 5) (6, 6, 6) [7] 0\nfor good\n", done.stderr
