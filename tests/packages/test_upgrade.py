"""From an older version to this one and back: nothing lost, no question, nothing left."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import NamedTuple

import pytest

import check_conntrack
from check_conntrack.state import codec, trend

from .conftest import (
    APT,
    CHECKS,
    DISABLED,
    NAME,
    RELEASES,
    RPM_RELEASE,
    STATE,
    compiled,
    done,
    make_ready_for_rpm,
    only,
)

SUDOERS = "/etc/sudoers.d/check-conntrack"
EDITED, REMARK = f"conntrack-arguments.cfg{DISABLED}", "# an administrator's remark\n"


class Layout(NamedTuple):
    """The places of a distribution, and the user of its agent."""

    plugins: str
    nrpe_d: str
    user: str


DEBIAN = Layout("/usr/lib/nagios/plugins", "/etc/nagios/nrpe.d", "nagios")
RHEL = Layout("/usr/lib64/nagios/plugins", "/etc/nrpe.d", "nrpe")


def set_up(system, layout):
    """Switch on what the packages ship, as docs/packages.md says: sudo as it is, NRPE changed."""
    system.done("ln", "-sf", f"check-conntrack{DISABLED}", SUDOERS)
    shipped = system.path(f"{layout.nrpe_d}/conntrack.cfg{DISABLED}").read_text()
    own = shipped.replace(" -w 95 ", " -w 93 ")
    assert own != shipped
    system.path(f"{layout.nrpe_d}/conntrack.cfg").write_text(own)
    # A file of the package that was edited, although a copy would have been better.
    with system.path(f"{layout.nrpe_d}/{EDITED}").open("a") as file:
        file.write(REMARK)
    return own


def checked(system, layout, filled):
    """Run the administrator's commands as the agent does; returns the samples that usage keeps."""
    text = system.path(f"{layout.nrpe_d}/conntrack.cfg").read_text()
    commands = dict(re.findall(r"^command\[(\w+)\]=(.*)$", text, re.MULTILINE))
    for check in CHECKS:
        result = system.run("sh", "-c", commands[check], user=layout.user, netns=filled)
        assert result.err == ""
        if check == "check_conntrack_full":
            # It tells what the machine's own log holds, whatever that is.
            assert result.out.startswith("CONNTRACK_FULL "), result.out
            assert "permission denied" not in result.out
        else:
            assert (result.code, "40 of " in result.status) == (0, True), result.out
    usage = system.run("sh", "-c", commands[CHECKS[0]], user=layout.user, netns=filled)
    assert usage.perfdata["usage"].split(";")[1:3] == ["93", "98"]
    (file,) = system.path(STATE).rglob("usage*.json")
    kept = codec.decode(trend.Series, json.loads(file.read_text()))
    assert kept.samples
    return kept.samples


def version(system, layout):
    """The version that the installed checks say."""
    said = {system.run(f"{layout.plugins}/{check}", "-V").out.split()[1] for check in CHECKS}
    assert len(said) == 1
    return said.pop()


def lives_through(system, layout, filled, older, newer, back):
    """Go from an older version to this one, and back; the arguments install each."""
    older()
    before = version(system, layout)
    assert before != check_conntrack.__version__
    own = set_up(system, layout)
    kept = checked(system, layout, filled)
    state = {path.name for path in system.path(STATE).rglob("*.json")}

    newer()
    assert version(system, layout) == check_conntrack.__version__
    assert compiled(system)
    assert system.path(f"{layout.nrpe_d}/conntrack.cfg").read_text() == own
    assert system.path(f"{layout.nrpe_d}/{EDITED}").read_text().endswith(REMARK)
    assert system.path(SUDOERS).is_symlink()
    system.done("visudo", "-c")
    shipped = system.path(f"{layout.nrpe_d}/conntrack.cfg{DISABLED}").read_text()
    assert "the older version's" not in shipped + system.path(SUDOERS + DISABLED).read_text()
    # The history goes on.
    assert checked(system, layout, filled)[: len(kept)] == kept
    assert {path.name for path in system.path(STATE).rglob("*.json")} >= state

    back()
    assert version(system, layout) == before
    assert checked(system, layout, filled)[: len(kept)] == kept


@pytest.mark.parametrize("release", RELEASES)
def test_a_debian_package_is_upgraded_and_downgraded_without_a_question(
    older, deb, systems, filled, roomy, release
):
    system = systems[release].wait()
    shutil.copy(only(older, "*.deb"), system.path("/tmp/older.deb"))
    shutil.copy(deb, system.path("/tmp/this.deb"))
    system.done(*APT, "install", "python3-nagiosplugin", "adduser")
    before = system.files()
    system.done(*APT, "install", "/tmp/this.deb")
    fresh = system.files()
    system.done("dpkg", "--purge", NAME)

    def install(file, *options):
        system.done(*APT, *options, "install", file)
        altered = system.done("dpkg", "--verify", NAME).splitlines()
        assert [line for line in altered if not line.endswith(EDITED)] == []
        if file == "/tmp/this.deb":
            # Nothing of the older version is left.
            own = {f"{DEBIAN.nrpe_d}/conntrack.cfg", SUDOERS}
            more = {path for path in system.files() - fresh - own if not path.startswith(STATE)}
            assert more == set()

    lives_through(
        system,
        DEBIAN,
        filled,
        lambda: install("/tmp/older.deb"),
        lambda: install("/tmp/this.deb"),
        lambda: install("/tmp/older.deb", "--allow-downgrades"),
    )
    system.done("dpkg", "--purge", NAME)
    # A file that an administrator has made is his to remove.
    own = f"{DEBIAN.nrpe_d}/conntrack.cfg"
    left = system.files() - before
    assert left - {"/etc/nagios", DEBIAN.nrpe_d} == {own}
    for path in sorted(left, reverse=True):
        outside = system.path(path)
        outside.rmdir() if outside.is_dir() else outside.unlink()


def test_an_rpm_package_is_upgraded_and_downgraded(older, rpm, systems, filled, roomy):
    system = systems[RPM_RELEASE].wait()
    inside = make_ready_for_rpm(system)
    before = system.files()
    tool = ["rpm", "--root", system.folder, "--nodeps"]

    def install(*words):
        assert "warning" not in done(*tool, *words)
        altered = subprocess.run(
            list(map(str, [*tool, "-V", NAME])), capture_output=True, text=True
        ).stdout.splitlines()
        assert [line for line in altered if not line.endswith(EDITED)] == []

    lives_through(
        system,
        RHEL,
        filled,
        lambda: install("-i", only(older, "*.rpm")),
        lambda: install("-U", rpm),
        lambda: install("-U", "--oldpackage", only(older, "*.rpm")),
    )
    assert not list(system.path("/etc").rglob("*.rpm[nos]*"))
    done(*tool, "-e", NAME)
    # Files that an administrator has made or edited are his to remove.
    for name in ("conntrack.cfg", f"{EDITED}.rpmsave"):
        system.path(f"{RHEL.nrpe_d}/{name}").unlink()
    left = {path for path in system.files() - before if not path.startswith((STATE, inside))}
    folders = {"/usr/lib64/nagios", RHEL.plugins, RHEL.nrpe_d}
    assert left <= {*folders, "/usr/share/licenses", "/usr/share/zsh/site-functions"}
    shutil.rmtree(system.path(STATE))
