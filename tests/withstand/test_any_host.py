"""Hosts that lack something: memory, descriptors, files, privileges, an environment. Hosts that
have too much: processors, namespaces, entries. The right verdict, or a clear UNKNOWN.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from support.commands import INACTIVE, NOBODY, SLOWNESS, hidden
from support.contract import Run
from support.processes import answer, python_of

CHECKS = ("usage", "full", "table")


def limited(what: str, most: int):
    return partial(resource.setrlimit, getattr(resource, "RLIMIT_" + what), (most, most))


def starts(command, **options) -> bool:
    """Return whether the interpreter gets as far as our first line, under the same limits."""
    words = [python_of(command), "-E", "-s", "-c", "import argparse, subprocess"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, **options)
    return (done.returncode, done.stderr) == (0, "")


def gave_up(done: subprocess.CompletedProcess) -> bool:
    """Return whether CPython aborted for want of memory: then no code of ours can run, and the
    monitoring system sees a signal instead of an exit code.
    """
    return done.returncode == -signal.SIGABRT and done.stderr.startswith("Fatal Python error: ")


@pytest.mark.parametrize("name", CHECKS)
def test_little_memory_is_a_verdict_or_said(checks, name):
    words = ["--no-state", "-t", "30"] + (["--netns", "all"] if name != "table" else [])
    command = checks(name, *words)
    expected = answer(command).state
    said = []
    for most in (14, 18, 22, 30, 40, 2048):
        scarce = limited("AS", most << 20)
        if not starts(command, preexec_fn=scarce):
            continue
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, preexec_fn=scarce
        )
        if most < 2048 and gave_up(done):
            continue
        run = Run(done.returncode, done.stdout, done.stderr, command)
        assert run.state in (expected, "UNKNOWN", "CRITICAL")
        said.append(run.state)
        if run.state == "UNKNOWN" != expected:
            words = ("emory", "cannot", "reader", "SystemError")
            assert any(word in run.text for word in words), run.out
    assert said[-1] == expected


@pytest.mark.parametrize("name", CHECKS)
def test_without_descriptors_it_is_a_verdict_or_said(checks, name):
    words = ["--no-state", "-t", "30"] + (["--netns", "all"] if name != "table" else [])
    command = checks(name, *words)
    seen = set()
    for most in (5, 6, 8, 11, 64):
        scarce = limited("NOFILE", most)
        if not starts(command, preexec_fn=scarce):
            continue
        run = answer(command, preexec_fn=scarce)
        seen.add(run.state)
        if run.state == "UNKNOWN":
            assert "Too many open files" in run.out
    assert "UNKNOWN" in seen
    assert answer(command, preexec_fn=limited("NOFILE", 64)).state == answer(command).state


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LC_ALL": "xx_YY.UTF-99", "LANG": "\udcff", "HOME": "", "PATH": "", "TZ": "/etc/passwd"},
        {"HOME": "/nowhere", "XDG_STATE_HOME": "relative", "TMPDIR": "/nowhere", "COLUMNS": "-1"},
        {"CHECK_CONNTRACK_STATE_DIR": "/proc", "PYTHONIOENCODING": "latin-1:boom"},
        {"SUDO_UID": "-1", "SUDO_USER": "root", "PYTHONHASHSEED": "x", "IFS": "/"},
    ],
    ids=["empty", "no locale", "no home", "a bad folder", "lies about sudo"],
)
def test_no_environment_changes_the_verdict(checks, name, environment):
    words = ["-w", "usage=~:", "-c", "usage=~:"] if name != "full" else ["--since", "boot"]
    command = checks(name, *words)
    assert answer(command, env=environment).state == answer(command).state


@pytest.mark.parametrize("name", CHECKS)
def test_a_host_without_temporary_folders_and_places_to_write(checks, name):
    script = (
        "for place in /tmp /var/tmp /dev/shm; do "
        "[ ! -d $place ] || mount -t tmpfs -o ro,mode=000 none $place; done"
    )
    keep = "mkdir -p /run/{0} && mount --bind {1} /run/{0} && "
    command = checks(name)
    # The suite and its interpreter may lie in one of those places themselves.
    tree = os.path.dirname(next(word for word in command if "check_conntrack_" in word))
    python = os.path.dirname(os.path.dirname(python_of(command)))
    moved = [
        word.replace(tree, "/run/suite").replace(python + "/bin/", "/run/python/bin/")
        for word in command
    ]
    kept = keep.format("suite", tree) + keep.format("python", python)
    before = hidden("mount -t tmpfs none /run; " + kept + script)
    run = answer([*before, *moved], env={"HOME": "/nowhere"})
    assert run.state == answer(command).state


def test_a_folder_that_is_gone_and_any_mask_do_not_matter(checks, folder):
    gone = folder / "gone"
    gone.mkdir()
    for name in CHECKS:
        command = ["sh", "-c", 'umask 0777; rmdir "$0" 2>/dev/null; exec "$@"', gone]
        gone.mkdir(exist_ok=True)
        run = answer([*map(str, command), *checks(name, "--no-state")], cwd=gone)
        assert run.state == answer(checks(name, "--no-state")).state


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("closing", [">&-", ">/dev/full"])
def test_an_answer_that_cannot_be_given_is_unknown(checks, name, closing):
    command = ["sh", "-c", f'exec "$@" {closing}', "sh", *checks(name, "--no-state", "--exit-ok")]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"")


# --- what the kernel has not

CONTAINERS = {
    "no conntrack": INACTIVE,
    "hidden sysctls of conntrack": "mount -t tmpfs none /proc/sys/net/netfilter",
    "no files in proc": (
        "mount -t tmpfs none /proc/$$/net; mount -t tmpfs none /proc/$$/task/$$/net; "
        "mount -t tmpfs none /dev"
    ),
    "no sysctls": "mount -t tmpfs none /proc/sys",
    "no processes": "mount -t proc -o hidepid=2,subset=pid none /proc || mount -t tmpfs none /mnt",
}


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("name", CHECKS)
def test_a_host_that_hides_things_has_an_answer_that_says_so(checks, name, kind):
    words = ["--no-state"] + (["--log", "/dev/null"] if name == "full" else [])
    run = answer([*hidden(CONTAINERS[kind]), *NOBODY, *checks(name, *words)])
    assert "internal error" not in run.out
    if kind == "no conntrack" and name != "full":
        assert (run.state, run.text) == ("OK", "conntrack is not active on this host")
    if kind == "hidden sysctls of conntrack":
        assert (run.state, "hidden, although" in run.text) == ("UNKNOWN", True)
    if kind == "no files in proc" and name == "usage":
        assert run.state == "OK"
    if run.state == "UNKNOWN":
        assert run.lines or "cannot" in run.text or "hidden" in run.text or "is not" in run.text


@pytest.mark.parametrize("name", CHECKS)
def test_a_container_without_rights_has_an_answer(checks, name):
    # Root of a user namespace that maps itself alone: a root that can become nobody else.
    before = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc"]
    for words in ([], ["--netns", "all"]):
        run = answer([*before, *checks(name, "--no-state", *words)])
        assert "internal error" not in run.out


@pytest.mark.parametrize(
    ("count", "limit", "state", "words"),
    [
        ("5", "0", "OK", "no limit"),
        ("300", "200", "CRITICAL", "300 of 200 entries"),
        ("4294967295", "4294967295", "CRITICAL", "4294967295 of 4294967295 entries"),
        ("0", "1", "OK", "0 of 1 entries"),
    ],
)
@pytest.mark.parametrize("name", ["usage", "table"])
def test_any_count_and_limit_is_a_verdict(checks, name, count, limit, state, words):
    script = "mount -t tmpfs none /proc/sys/net/netfilter; cd /proc/sys/net/netfilter; " + "".join(
        f"echo {value} > nf_conntrack_{what}; "
        for what, value in (("count", count), ("max", limit), ("buckets", "512"))
    )
    run = answer([*hidden(script + "cd /"), *checks(name, "--no-state")])
    assert (run.state, words in run.text) == (state, True), run.out


# --- what the kernel has too much of

NAMES = "entries searched found new invalid ignore delete delete_list insert insert_failed drop"


def stat(cpus: int, drop: int, insert: int = 7) -> str:
    values = f"0000000a 00000000 00000001 00000000 00000002 00000000 00000000 00000000 {insert:08x}"
    line = f"{values} 00000000 {drop & 0xFFFFFFFF:08x} 00000000\n"
    return f"{NAMES} early_drop\n" + line * cpus


def counted(path):
    net = "mount -t tmpfs none {0}; mkdir {0}/stat; cp " + str(path) + " {0}/stat/nf_conntrack; "
    return hidden(net.format("/proc/$$/net") + net.format("/proc/$$/task/$$/net") + "true")


def test_512_processors_are_counted_and_remembered(full, folder):
    # As large as numbers get: what is remembered of them still fits.
    file, log = folder / "stat", folder / "kern.log"
    now = time.time()
    times = [time.strftime("%b %e %H:%M:%S", time.localtime(at)) for at in (now - 7200, now)]
    log.write_text("".join(f"{stamp} gw kernel: all is quiet\n" for stamp in times))
    options = ["--log", log, "--since", "1h"]
    largest = 0xFFFFFFF0
    file.write_text(stat(512, largest, 0xFFFFFFF1))
    first = full(*options, before=counted(file))
    assert first.code == 0
    assert first.perfdata["drop_total"].startswith(f"{512 * largest}c")
    file.write_text(stat(512, largest + 3, 0xFFFFFFF2))
    second = full(*options, before=counted(file))
    assert second.value("full_drops") == 512 * 3
    # Past the top of 32 bits, on every processor at once.
    file.write_text(stat(512, largest + 20, 0xFFFFFFF3))
    third = full(*options, before=counted(file))
    assert third.value("full_drops") == 512 * 20
    assert third.code == 1


MANY = """
import ctypes, os, sys
count, place = int(sys.argv[1]), sys.argv[2]
held = b"/proc/self/fd/%d" % os.open(place, os.O_RDONLY)
libc = ctypes.CDLL(None)
libc.mount(b"none", b"/run/netns", b"tmpfs", 0, None)
for number in range(count):
    target = b"/run/netns/router-%05d" % number
    os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    if number % 4 == 0 and libc.mount(held, target, None, 4096, None):
        raise SystemExit("mount failed")
os.execvp(sys.argv[3], sys.argv[3:])
"""


@pytest.mark.parametrize("name", CHECKS)
def test_ten_thousand_names_are_looked_into_in_time(netns, checks, name):
    namespace = netns()
    namespace.fill(30)
    # A quarter of them lead into one namespace, the rest is left over.
    many = [sys.executable, "-c", MANY, "10000", f"/run/netns/{namespace.name}"]
    words = ["--netns", "all", "--no-state", "-t", "50"]
    words += ["--log", "/dev/null"] if name == "full" else []
    run = answer([*hidden("true"), *many, *checks(name, *words)])
    labels = [label for label in run.data if label.startswith("router-") and "::" in label]
    assert labels, run.out
    assert len({label.partition("::")[0] for label in labels}) == 1, "it is seen once"


THOUSANDS = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.mount(b"none", b"/run/netns", b"tmpfs", 0, None)
home = os.open("/proc/self/ns/net", os.O_RDONLY)
for number in range(int(sys.argv[1])):
    target = b"/run/netns/tenant-%05d" % number
    os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    made = libc.unshare(0x40000000) == 0  # CLONE_NEWNET
    if not made or libc.mount(b"/proc/self/ns/net", target, None, 4096, None):
        raise SystemExit("no namespace")
libc.setns(home, 0x40000000)
os.execvp(sys.argv[2], sys.argv[2:])
"""
MANY_NAMESPACES = 1200 // SLOWNESS


@pytest.mark.parametrize("limit", [1 * SLOWNESS, 50 * SLOWNESS])
def test_thousands_of_namespaces_are_read_or_the_time_out_holds(need, checks, limit):
    """Looking up their sysctls takes the kernel a time that grows with the square."""
    need("unshare")
    many = [sys.executable, "-c", THOUSANDS, str(MANY_NAMESPACES), "sh", "-c"]
    many += ['date +%s.%N >&2; exec "$@"', "sh"]
    command = checks("usage", "--netns", "all", "--no-state", "-v", "-t", limit)
    done = subprocess.run([*hidden("true"), *many, *command], capture_output=True, text=True)
    took = time.time() - float(done.stderr)
    run = Run(done.returncode, done.stdout, "", command)
    assert took < limit + 2 * SLOWNESS
    if limit < 50:
        assert run.state == "OK" or "timed out after" in run.out
    else:
        assert run.state == "OK", run.out
        told = next(line for line in run.lines if line.endswith("full in"))
        assert int(told.split()[0]) > MANY_NAMESPACES
