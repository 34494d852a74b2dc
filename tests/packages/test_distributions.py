"""The packages of distributions: what they hold, and whole lives of them in clean systems."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

import check_conntrack
from support.commands import run

from .conftest import (
    APT,
    CHECKS,
    DISABLED,
    NAME,
    RELEASES,
    RPM_RELEASE,
    STATE,
    TREE,
    compiled,
    done,
    make_ready_for_rpm,
    only,
)

READER = "check_conntrack/kernel/reader.py"


# --- what linters say


def test_lintian_finds_nothing(dist, deb, tmp_path):
    changes = only(dist, "*.changes")
    assert deb.name in changes.read_text()
    command = ["lintian", "--allow-root", "--pedantic", "--fail-on=warning", changes]
    # It leaves files behind.
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    said = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (said.returncode, said.stdout) == (0, "")
    assert not list((TREE / "packaging" / "debian").glob("*overrides"))


def test_rpmlint_finds_nothing_but_what_its_reasons_are_written_down_for(rpm):
    folder = TREE / "packaging" / "rpm"
    said = done("rpmlint", "-c", folder / "rpmlint.toml", folder / f"{NAME}.spec", rpm)
    assert "1 packages and 1 specfiles checked; 0 errors, 0 warnings" in said


def test_every_package_has_the_suites_version(deb, rpm, wheel):
    version = check_conntrack.__version__
    assert done("dpkg-deb", "-f", deb, "Version").strip() == version
    assert done("rpm", "-qp", "--qf", "%{VERSION}", rpm) == version
    assert wheel.name.startswith(f"check_conntrack-{version}-")


# --- what a system with it does


def as_the_agent(system, layout, filled):
    """Every check runs as the agent's user and says what the tree's says."""
    plugins, user = layout
    for check in CHECKS:
        result = system.run(f"{plugins}/{check}", "--version")
        assert result.out == f"{check} {check_conntrack.__version__}\n"
        tree = [sys.executable, TREE / "plugins" / check, "--no-state"]
        result = system.run(f"{plugins}/{check}", "-vvv", user=user, netns=filled)
        wanted = run(*filled.command(*tree))
        assert result.err == ""
        uid = system.done("id", "-u", user).strip()
        [line] = [line for line in result.lines if line.startswith(f"Checked as uid {uid}, no cap")]
        assert line.endswith(", no new privileges")
        broken = ["env", "PYTHONHOME=/nowhere", "PYTHONPATH=/nowhere", "PYTHONSTARTUP=/nowhere"]
        assert system.run(*broken, f"{plugins}/{check}", "--version").code == 3
        if check == "check_conntrack_usage":
            assert (result.status, result.code) == (wanted.status, wanted.code)
            assert "40 of " in result.status
            assert result.perfdata.items() >= wanted.perfdata.items()
            assert f"History is kept in {STATE}/{uid}" in result.lines
        elif check == "check_conntrack_table":
            assert result.code == 3
            assert "40 of " in result.status


def with_sudo(system, layout, nrpe_d, filled):
    """Not before an administrator says so, the reader is started as root; then it is."""
    plugins, user = layout
    check = f"{plugins}/check_conntrack_table"
    reader = f"{plugins}/{READER}"
    line = f'  {user} ALL=(root) NOPASSWD: {reader} ""'
    refused = system.run(check, "--sudo", user=user, netns=filled)
    assert refused.code == 3
    assert line in refused.lines
    assert not any("only once the suite is where none but root" in each for each in refused.lines)

    disabled = f"/etc/sudoers.d/check-conntrack{DISABLED}"
    assert system.done("stat", "-c", "%a %U", disabled) == "440 root\n"
    system.done("visudo", "-c", "-f", disabled)
    system.done("ln", "-s", f"check-conntrack{DISABLED}", "/etc/sudoers.d/check-conntrack")
    system.done("visudo", "-c")
    allowed = system.run(check, "--sudo", "-vvv", user=user, netns=filled)
    wanted = run(*filled.command(sys.executable, TREE / "plugins" / "check_conntrack_table"))
    assert (allowed.code, allowed.value("entries")) == (0, 40)
    assert (allowed.status, allowed.perfdata) == (wanted.status, wanted.perfdata)
    assert any(line.startswith("Read ctnetlink, 40 entries") for line in allowed.lines)
    # Nothing else than the reader, and that without an argument.
    for command in ([reader, "x"], ["/usr/bin/id"], ["/usr/bin/python3", reader]):
        assert system.run("sudo", "-n", *command, user=user).code == 1

    # What NRPE runs, as it runs it: a line for a shell.
    names = ("conntrack.cfg", "conntrack-arguments.cfg")
    assert sorted(system.done("ls", nrpe_d).split()) == sorted(name + DISABLED for name in names)
    system.done("ln", "-s", names[0] + DISABLED, f"{nrpe_d}/{names[0]}")
    text = system.path(f"{nrpe_d}/{names[0]}").parent.joinpath(names[0] + DISABLED).read_text()
    commands = dict(re.findall(r"^command\[(\w+)\]=(.*)$", text, re.MULTILINE))
    assert set(CHECKS) <= set(commands)
    for name, command in commands.items():
        result = system.run("sh", "-c", command, user=user, netns=filled)
        title = "_".join(name.upper().split("_")[1:3])
        assert result.out.startswith(f"{title} "), command
        # The ring buffer is the machine's: other tests' messages push older ones out of it.
        assert result.code < 3 or "not covered" in result.out, result.out
        assert result.err == ""
    text = system.path(f"{nrpe_d}/{names[1]}{DISABLED}").read_text()
    wrapper = re.findall(r"^command\[\w+\]=(\S+)", text, re.MULTILINE)[0]
    arguments = ["usage", "--warning=80", *[""] * 15, "end"]
    assert system.run(wrapper, *arguments, user=user, netns=filled).code == 0


def documents(system, zsh):
    """Return what people and other programs look for lies where they look."""
    for check in CHECKS:
        assert system.path(f"/usr/share/man/man1/{check}.1.gz").is_file()
        assert system.path(f"/usr/share/bash-completion/completions/{check}").is_file()
        assert system.path(f"{zsh}/_{check}").is_file()
    for folder in ("icinga2", "graphs", "nrpe"):
        tree = [path for path in (TREE / folder).rglob("*") if path.is_file()]
        for path in tree:
            inside = f"/usr/share/{NAME}/{path.relative_to(TREE)}"
            if path.suffix in (".conf", ".json", ".ini") or path.name == "nagios.cfg":
                # panels.ini is what a program of the tree writes the others from.
                assert system.path(inside).is_file() == (path.name != "panels.ini")
    for path in (TREE / "docs").glob("*.md"):
        assert system.path(f"/usr/share/doc/{NAME}/{path.name}").is_file()


# --- Debian


@pytest.fixture(params=RELEASES)
def system(request, systems):
    return systems[request.param].wait()


def test_a_debian_package_lives_and_leaves_nothing(deb, system, filled, roomy):
    apt = APT
    shutil.copy(deb, system.path("/tmp/this.deb"))
    # What it depends on stays when it goes; it is no part of what it leaves.
    system.done(*apt, "install", "python3-nagiosplugin", "adduser")
    before = system.files()

    by_hand = system.path("/usr/lib/nagios/plugins/check_conntrack")
    by_hand.mkdir(parents=True)
    refused = system.run(*apt, "install", "/tmp/this.deb")
    assert refused.code != 0
    assert "by hand" in refused.out + refused.err
    by_hand.rmdir()

    said = system.done(*apt, "install", "/tmp/this.deb")
    assert "0 newly installed" not in said
    assert system.done("dpkg", "--verify", NAME) == ""
    assert system.done("stat", "-c", "%U:%G %a", STATE) == "nagios:nagios 755\n"
    assert compiled(system)
    layout = ("/usr/lib/nagios/plugins", "nagios")
    documents(system, "/usr/share/zsh/vendor-completions")
    as_the_agent(system, layout, filled)
    with_sudo(system, layout, "/etc/nagios/nrpe.d", filled)

    # An owner that an administrator has chosen is kept.
    system.done("chown", "daemon:", STATE)
    system.done(*apt, "--reinstall", "install", "/tmp/this.deb")
    assert system.done("stat", "-c", "%U", STATE) == "daemon\n"

    sudoers = system.path(f"/etc/sudoers.d/check-conntrack{DISABLED}")
    system.done(*apt, "remove", NAME)
    left = {path for path in system.files() - before if "/etc/" not in path and STATE not in path}
    assert left == set()
    assert sudoers.exists()
    shutil.rmtree(system.path(STATE))
    system.done(*apt, "install", "/tmp/this.deb")
    assert system.done("stat", "-c", "%U", STATE) == "nagios\n"
    system.done("dpkg", "--purge", NAME)
    assert system.files() - before == set()
    assert before - system.files() == set()


# --- RPM


def test_an_rpm_package_names_what_it_needs_and_what_an_administrator_may_change(rpm):
    def queried(*options):
        return done("rpm", "-qp", *options, rpm).splitlines()

    requires = {line for line in queried("--requires") if not line.startswith(("rpmlib", "config"))}
    assert requires == {
        "/bin/sh",
        "/usr/bin/python3",
        "python3 >= 3.9",
        "python3-nagiosplugin >= 1.3.2",
    }
    configuration = [f"/etc/nrpe.d/conntrack-arguments.cfg{DISABLED}"]
    configuration += [f"/etc/nrpe.d/conntrack.cfg{DISABLED}"]
    configuration += [f"/etc/sudoers.d/check-conntrack{DISABLED}"]
    assert queried("--configfiles") == configuration
    flags = queried("--qf", "[%{FILENAMES} %{FILEFLAGS:fflags}\n]")
    assert [line.split()[0] for line in flags if line.endswith(" cn")] == configuration
    assert {line.split()[1] for line in flags if len(line.split()) > 1} <= {"cn", "d", "l"}
    owners = queried("--qf", "[%{FILEUSERNAME}:%{FILEGROUPNAME}\n]")
    assert set(owners) == {"root:root"}


def test_an_rpm_package_lives_and_leaves_nothing(rpm, systems, filled, roomy):
    system = systems[RPM_RELEASE].wait()
    inside = make_ready_for_rpm(system)
    before = system.files()
    tool = ["rpm", "--root", system.folder, "--nodeps"]

    done(*tool, "-i", rpm)
    assert done(*tool, "-V", NAME) == ""
    assert system.done("stat", "-c", "%U:%G %a", STATE) == "nrpe:nrpe 755\n"
    assert compiled(system)
    layout = ("/usr/lib64/nagios/plugins", "nrpe")
    documents(system, "/usr/share/zsh/site-functions")
    as_the_agent(system, layout, filled)
    with_sudo(system, layout, "/etc/nrpe.d", filled)

    done(*tool, "-e", NAME)
    left = {path for path in system.files() - before if not path.startswith((STATE, inside))}
    # Folders that belong to other packages where it is at home.
    folders = ("/usr/lib64/nagios", "/usr/lib64/nagios/plugins", "/etc/nrpe.d")
    assert left <= {*folders, "/usr/share/licenses", "/usr/share/zsh/site-functions"}
    assert before - system.files() == set()


# --- one file, in a system that has nothing but Python


@pytest.mark.parametrize("release", RELEASES)
def test_a_copied_file_runs_and_its_reader_is_installed_for_sudo(
    dist, systems, filled, roomy, release
):
    system = systems[release].wait()
    check = "/usr/local/bin/check_conntrack_table"
    shutil.copy(dist / "pyz" / "check_conntrack_table", system.path(check))
    refused = system.run(check, "--no-state", "--sudo", user="nobody", netns=filled)
    assert refused.code == 3
    step = f"{check} --install-reader"
    assert f"  {step}" in refused.lines
    (line,) = [line.strip() for line in refused.lines if " NOPASSWD: " in line]
    system.done(*step.split())
    reader = system.path("/opt/check-conntrack/reader.py")
    assert reader.read_bytes() == (TREE / "plugins" / READER).read_bytes()
    grant = system.path("/etc/sudoers.d/check-conntrack-archive")
    grant.write_text(line + "\n")
    grant.chmod(0o440)
    result = system.run(check, "--no-state", "--sudo", user="nobody", netns=filled)
    assert (result.code, result.value("entries")) == (0, 40)
    # Another version's may not understand what it is asked.
    reader.write_bytes(reader.read_bytes() + b"\n")
    assert system.run(check, "--no-state", "--sudo", user="nobody", netns=filled).code == 3
    # Nor is it put where somebody else could have put something.
    system.done("chmod", "o+w", "/opt/check-conntrack")
    ended = system.run(*step.split())
    assert ended.code == 1
    assert "is not a directory that only root may change" in ended.err
    for path in (grant, reader, system.path(check)):
        path.unlink()
    reader.parent.rmdir()
