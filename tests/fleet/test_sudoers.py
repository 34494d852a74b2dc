"""The shipped sudoers file allows the reader, and nothing else, whatever the agent's user tries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from support.netns import wait_until
from support.nrpe_agent import ENVIRONMENT, READER, SHIPPED, as_nagios, run_text

FOLDER = READER.parent
REFUSED = "sudo: a password is required"
LAX = """
Defaults setenv, !env_reset, requiretty
Defaults env_keep += "PYTHONPATH PYTHONSTARTUP LD_PRELOAD EVIL"
"""
EVIL = {
    "EVIL": "1",
    "PYTHONPATH": "/tmp/evil",
    "PYTHONSTARTUP": "/tmp/evil/start.py",
    "PYTHONHOME": "/tmp/evil",
    "PYTHONINSPECT": "1",
    "GCONV_PATH": "/tmp/evil",
    "BASH_ENV": "/tmp/evil/env",
    "TZ": "/tmp/evil/tz",
}
OWN = {"MAIL", "PATH", "LOGNAME", "USER", "HOME", "SHELL", "TERM", "LANG"}


@pytest.fixture(scope="module")
def host(sudo_agent):
    """The host of an agent, with a folder ~/own of that user's, and a copy of the reader in it."""
    own = sudo_agent.top / "home/own"
    own.mkdir()
    shutil.chown(own, "nagios", "nagios")
    copy = own / "reader.py"
    copy.write_text("#!/usr/bin/python3\nprint('run as root')\n")
    copy.chmod(0o755)
    (own / "link").mkdir()
    (own / "link/reader.py").symlink_to(READER)
    (own / "kernel").symlink_to(FOLDER)
    (own / "linked.py").symlink_to(READER)
    return sudo_agent


def started(host, line, environment=ENVIRONMENT):
    """The command line and the environment of the reader that a line starts; it must be root's."""
    command = host.inside(*as_nagios(capabilities=False), "sh", "-c", f"exec {line}")
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        give_up = time.monotonic() + 60
        while process.poll() is None:
            assert time.monotonic() < give_up
            for pid in host.processes():
                try:
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
                    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")[:-1]
                except OSError:
                    continue
                # Where sudo has forked but not begun it, this is still sudo.
                if words and b"python3" in words[0]:
                    assert os.stat(f"/proc/{pid}").st_uid == 0
                    return [os.fsdecode(word) for word in words], set(variables)
            time.sleep(0.01)
        pytest.fail(f"it did not start: {process.stderr.read()}")
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
        process.stderr.close()


def test_visudo_takes_it():
    done = run_text("visudo", "-c", "-s", "-f", SHIPPED / "sudoers")
    assert (done.code, done.err) == (0, "")


def test_visudo_would_not_take_anything():
    done = run_text("visudo", "-c", "-s", "-f", SHIPPED / "nagios.cfg")
    assert done.code == 1


def test_shipped_file_sets_the_defaults_of_the_reader():
    [line] = [
        line
        for line in (SHIPPED / "sudoers").read_text().splitlines()
        if line.startswith("Defaults!CONNTRACK_READER ")
    ]
    # Without a pseudo-terminal of sudo's, see tests/withstand/test_reader_grant.py.
    assert set(re.split(r"[ ,]+", line)[1:]) == {
        *("env_reset", "!env_keep", "!env_check", "!setenv", "!requiretty", "!use_pty")
    }


def test_the_reader_answers(host):
    done = host.as_agent(rf"printf 'limits\0/proc/self/ns/net\0' | sudo -n {READER}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nf_conntrack_count" in done.stdout
    assert done.stdout.endswith("end\n")


def test_it_is_all_that_the_user_may_do(host):
    listed = run_text(*host.inside("sudo", "-l", "-U", "nagios")).out
    allowed = listed.partition("may run the following commands")[2].splitlines()[1:]
    assert [line.strip() for line in allowed] == [f'(root) NOPASSWD: {READER} ""']
    assert "not allowed to run sudo" in run_text(*host.inside("sudo", "-l", "-U", "daemon")).out


@pytest.mark.parametrize(
    "line",
    [
        f"sudo -n {READER} x",
        f"sudo -n {READER} ''",
        f"sudo -n {READER} --",
        f"sudo -n {READER} /etc/shadow",
        f"sudo -n /usr/bin/python3 -ISB {READER}",
        f"sudo -n /usr/bin/python3 {READER}",
        "sudo -n /usr/lib/nagios/plugins/check_conntrack_table",
        "sudo -n /bin/sh",
        "sudo -n ~/own/reader.py",
        "cd ~/own && sudo -n ./reader.py",
        "cd ~/own && PATH=$PWD:$PATH sudo -n reader.py",
        "sudo -n ~/own/linked.py",
        f"sudo -n -u nobody {READER}",
        f"sudo -n -u daemon {READER}",
        f"sudo -n -g root {READER}",
        f"sudo -n -g shadow {READER}",
        f"sudo -n -e {READER}",
        "sudo -n -e /etc/passwd",
        f"sudoedit -n {READER}",
        "sudo -n -s",
        "sudo -n -i",
        f"sudo -n -i {READER}",
        "sudo -n -l -U root",
    ],
)
def test_anything_else_is_refused(host, line):
    done = host.as_agent(line)
    assert done.returncode == 1
    assert done.stdout == ""
    assert REFUSED in done.stderr.replace("sudoedit:", "sudo:") or "not allowed" in done.stderr


@pytest.mark.parametrize(
    "option",
    [
        "-u '#-1'",
        "-u '#4294967295'",
        "-E",
        "EVIL=1",
        "PYTHONPATH=/tmp",
        "-C 5",
        "-D /tmp",
        "-R /tmp",
        "-T 1",
        "-h other",
    ],
)
def test_no_option_of_sudos_changes_how_it_runs(host, option):
    done = host.as_agent(f"sudo -n {option} {READER}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sudo: ")


@pytest.mark.parametrize(
    "path", ["~/own/link/reader.py", "~/own/kernel/reader.py", f"{FOLDER}/../kernel/reader.py"]
)
def test_another_way_to_the_reader_ends_at_the_path_that_is_allowed(host, path):
    # Through a link of the user's own he could put something else there between look and run.
    words, _ = started(host, f"sudo -n {path}")
    assert words == ["/usr/bin/python3", "-ISB", str(READER)]


@pytest.mark.parametrize("defaults", ["", LAX], ids=["own", "lax"])
def test_nothing_of_the_callers_environment_reaches_it(host, defaults):
    # Whatever the host's other users may hand on.
    file = host.top / "sudoers.d/00-others"
    file.write_text(defaults)
    file.chmod(0o440)
    try:
        words, variables = started(host, f"sudo -n {READER}", {**ENVIRONMENT, **EVIL})
        refused = host.as_agent(f"sudo -n EVIL=1 {READER}; sudo -n -E {READER}")
    finally:
        file.unlink()
    assert words == ["/usr/bin/python3", "-ISB", str(READER)]
    names = {variable.partition("=")[0] for variable in variables}
    assert {name for name in names if not name.startswith("SUDO_")} <= OWN
    assert "HOME=/root" in variables
    assert refused.stderr.count("sudo: sorry, you are not allowed") == 2


def test_the_files_own_defaults_are_what_keeps_it_out(host):
    file = host.top / "sudoers.d/00-others"
    shipped = host.top / "sudoers.d/check-conntrack"
    text = shipped.read_text()
    file.write_text(LAX.replace(", requiretty", ""))
    file.chmod(0o440)
    try:
        lines = [line for line in text.splitlines() if not line.startswith("Defaults!")]
        shipped.write_text("\n".join(lines) + "\n")
        _, variables = started(host, f"sudo -n {READER}", {**ENVIRONMENT, **EVIL})
    finally:
        file.unlink()
        shipped.write_text(text)
    assert "EVIL=1" in variables


def test_no_library_of_the_callers_is_loaded(host, need, tmp_path):
    need("gcc")
    source = tmp_path / "evil.c"
    source.write_text(
        "#include <stdio.h>\n#include <unistd.h>\n"
        "__attribute__((constructor)) void begin(void)\n"
        '{ if (geteuid() == 0) fclose(fopen("/var/lib/nagios/own/loaded", "w")); }\n'
    )
    library = host.top / "home/own/evil.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    inside = "/var/lib/nagios/own/evil.so"
    marker = host.top / "home/own/loaded"
    preload = f"LD_PRELOAD={inside} LD_LIBRARY_PATH=/var/lib/nagios/own"
    # It would work, were root's own environment to hold it.
    run_text(*host.inside("sh", "-c", f"{preload} /bin/true"))
    assert marker.exists()
    marker.unlink()
    done = host.as_agent(rf"printf 'limits\0' | {preload} sudo -n {READER}")
    assert (done.returncode, done.stdout) == (0, "end\n")
    assert not marker.exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_descriptors_end_it_and_nothing_is_written(host, closed):
    sentinel = host.top / "home/own/sentinel"
    sentinel.write_text("untouched")
    # The lowest number that is free would be its standard output.
    line = rf"printf 'limits\0' | sudo -n {READER} {closed} 3<>~/own/sentinel 4<&3"
    sentinel.chmod(0o666)
    host.as_agent(f"{line}; echo $? >~/own/code")
    assert sentinel.read_text() == "untouched"
    assert int((host.top / "home/own/code").read_text()) in range(256)
    assert wait_until(lambda: not any("python" in _name(pid) for pid in host.processes()))


def _name(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""
