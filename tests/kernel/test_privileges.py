"""Privileges given up for real: before, whoever gives them up, what is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from check_conntrack.kernel import privileges

PLUGINS = os.path.dirname(os.path.dirname(os.path.dirname(privileges.__file__)))
DROPPED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from check_conntrack.kernel import privileges, reader
drop = lambda *who: privileges.drop(privileges.User(*who), sudo=sys.argv[2] == "sudo")
if sys.argv[2] == "reader":
    drop = reader.drop_privileges
drop(5, 6, (7,))
print(os.getresuid(), os.getresgid(), os.getgroups())
print(privileges.held())
try:
    os.setuid(0)
except OSError:
    print("for good")
"""
NOTHING = "no capabilities, no new privileges\n"
SECUREBITS = [
    "",
    "+no_setuid_fixup",
    "+noroot",
    "+no_setuid_fixup,+noroot,+noroot_locked,+no_setuid_fixup_locked",
]


def dropped(before, way):
    command = [*before, sys.executable, "-I", "-S", "-c", DROPPED, PLUGINS, way]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("bits", SECUREBITS)
@pytest.mark.parametrize("way", ["check", "sudo", "reader"])
def test_root_becomes_another_for_good_and_keeps_no_capability(way, bits, need):
    need("setpriv")
    # With SECBIT_NOROOT, root has the ambient capabilities and no others.
    more = "+net_admin,+setpcap,+setuid,+setgid"
    before = ["setpriv", "--inh-caps", more, "--ambient-caps", more]
    before += ["--securebits", bits] if bits else []
    assert dropped(before, way) == f"(5, 5, 5) (6, 6, 6) [7]\n{NOTHING}for good\n"


def test_root_that_cannot_change_its_user_keeps_no_capability_and_says_so(need):
    need("setpriv")
    # Such is root of a container without CAP_SETUID.
    lines = dropped(["setpriv", "--bounding-set", "-all"], "check").splitlines()
    assert lines[0].startswith("(0, 0, 0) ")
    assert lines[1] == NOTHING.strip()


USER = ["setpriv", "--reuid", "5", "--regid", "6", "--clear-groups"]
AMBIENT = ["--inh-caps", "+net_admin,+setpcap", "--ambient-caps", "+net_admin,+setpcap"]


@pytest.mark.parametrize(
    ("options", "way", "left"),
    [
        (AMBIENT, "check", NOTHING),
        (AMBIENT, "reader", NOTHING),
        ([*AMBIENT, "--no-new-privs"], "check", NOTHING),
        (["--inh-caps", "+net_admin"], "sudo", None),
        (AMBIENT, "sudo", None),
        ([], "sudo", None),
    ],
    ids=["ambient", "reader", "no new privileges", "inheritable for sudo", "for sudo", "none"],
)
def test_ordinary_user_keeps_no_capability(need, options, way, left):
    need("setpriv")
    lines = dropped([*USER, *options], way).splitlines(keepends=True)
    assert lines[0] == "(5, 5, 5) (6, 6, 6) []\n"
    if left:
        assert lines[1] == left
    else:
        assert lines[1].startswith("no capabilities, bounding capabilities ")
        assert lines[1].endswith(", new privileges possible\n")
    assert lines[2] == "for good\n"


def test_ordinary_user_without_capabilities_cannot_gain_any(need):
    need("setpriv")
    # The bounding set takes CAP_SETPCAP to be emptied; nothing can be gained from it any more.
    lines = dropped(USER, "check").splitlines()
    assert lines[1].startswith("no capabilities, bounding capabilities ")
    assert lines[1].endswith(", no new privileges")


def test_capabilities_of_the_interpreters_file_are_given_up(need, tmp_path):
    need("setcap", "setpriv")
    folder = Path(tempfile.mkdtemp(prefix="check-conntrack-"))
    try:
        folder.chmod(0o755)
        python = shutil.copy("/usr/bin/python3", folder)
        subprocess.run(["setcap", "cap_net_admin,cap_setpcap+ep", python], check=True)
        tree = shutil.copytree(PLUGINS, folder / "plugins")
        script = [*USER, python, "-I", "-S", "-c", DROPPED, tree]
        done = subprocess.run([*script, "check"], capture_output=True, text=True, check=False)
    finally:
        shutil.rmtree(folder)
    assert done.stdout.splitlines()[1] == NOTHING.strip(), done.stderr
