"""Any input: exit code 0 to 3, one status line, perfdata of the draft's grammar, no traceback.

Run (unit/contract.py) sees to that at each answer; Door adds that no error was unforeseen.
"""

from __future__ import annotations

import errno
import functools
import gzip
import operator
import subprocess
from pathlib import Path

import pytest
from hypothesis import strategies as st

from check_conntrack.full import full_check
from check_conntrack.table import table_check
from check_conntrack.usage import usage_check
from support.contract import Run
from support.door import EXAMPLES, MODULES, fuzz, mutated
from support.tables import listing, web_server

CORPUS = Path(__file__).parent / "corpus"
DATA = Path(__file__).parent.parent / "data"
CHECKS = ("usage", "full", "table")
LABELS = {"usage": usage_check.LABELS, "full": full_check.LABELS, "table": table_check.LABELS}


def corpus(kind):
    return [path.read_bytes() for path in sorted((CORPUS / kind).iterdir())]


# --- command lines

VALUES = ["80", "0", "-1", "~:", "@", "@10:20", ":", "1:", "10:5", "5%", "1e3", "1_0", "", "=", "٣"]
VALUES += ["5m", "1h", "0", "1ms", "nan", "inf", "9" * 30, "all", "boot", "last", "ok", "critical"]
VALUES += ["/", "/proc/1/ns/net", "nemo", "*", "[", "-", "--", "10.0.0.0/8", "::/0", "tcp", "NONE"]
VALUES += [
    "24/64",
    "auto",
    "netlink",
    "proc",
    "conntrack",
    "/dev/null",
    "/nowhere",
    "a\nb",
    "\x1b[0m|",
]


def command_lines(name):
    made = MODULES[name].parser()
    options = [
        word for action in made._actions if action.dest != "user" for word in action.option_strings
    ]
    labels = [label.name for label in LABELS[name]]
    value = st.one_of(
        st.sampled_from(VALUES),
        st.tuples(st.sampled_from(labels), st.sampled_from(VALUES)).map("=".join),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    )
    option = st.sampled_from(options)
    pair = st.one_of(
        st.tuples(option, value).map(list),
        option.map(lambda word: [word]),
        value.map(lambda v: [v]),
    )
    return st.lists(pair, max_size=4).map(lambda parts: functools.reduce(operator.iadd, parts, []))


@pytest.mark.parametrize("name", CHECKS)
def test_any_command_line(door, share, name):
    def body(words):
        # A short time, for a run that reads its standard input.
        door.run(name, *words, "-t", "5")

    fuzz(f"{name}: command lines", share, EXAMPLES, command_lines(name), body)


# --- what the kernel says

NUMBERS = st.one_of(
    st.integers(0, 2**33).map(lambda n: b"%d\n" % n),
    st.binary(max_size=30),
    st.sampled_from([b"", b"0\n", b"-1\n", b"4294967295\n", b"1_0\n", b"\xd9\xa3\n", b"0x10\n"]),
    st.sampled_from([errno.EACCES, errno.EIO, errno.ENOENT, errno.EPERM]),
)


@pytest.mark.parametrize("name", CHECKS)
def test_any_sysctls(door, share, name):
    def body(values):
        door.sysctls = dict(zip(("count", "max", "buckets"), values))
        run = door.run(name, "-t", "20")
        if all(isinstance(value, bytes) for value in values[:2]):
            count, limit = (value.strip() for value in values[:2])
            if count.isdigit() and limit.isdigit() and 0 < int(limit) <= int(count) < 2**31:
                assert run.state == "CRITICAL", "a full table is never anything else"

    fuzz(f"{name}: sysctls", share, EXAMPLES, st.tuples(NUMBERS, NUMBERS, NUMBERS), body)


STAT = [path.read_bytes() for path in sorted((DATA / "counters").iterdir())]


def test_any_counters(door, share):
    def body(data):
        for text in data:
            door.counters = text
            door.run("full", "-t", "20", "-c", "full_drops=10")

    fuzz("full: counters", share, EXAMPLES, st.lists(mutated(*STAT), max_size=3), body)


# --- logs


@pytest.mark.parametrize("since", ["15m", "boot", "last", "all"])
def test_any_log(door, share, since):
    log = door.folder / "kern.log"

    def body(pieces):
        log.write_bytes(b"")
        for data in pieces:
            with open(log, "ab") as file:
                file.write(data)
            door.run("full", "-t", "20", "--log", str(log), "--since", since)

    seeds = [*corpus("log"), gzip.compress(corpus("log")[0])]
    fuzz("full: logs", share, EXAMPLES // 2, st.lists(mutated(*seeds), max_size=3), body)


def test_anything_journalctl_prints(door, share):
    def body(parts):
        door.journal, door.status = parts
        door.run("full", "-t", "20")

    strategy = st.tuples(mutated(*corpus("log")), st.sampled_from([0, 0, 1, 127, 255]))
    fuzz("full: journal", share, EXAMPLES // 2, strategy, body)


# --- tables

SEPARATOR = b"\xf0\x0d\xf0\x0d"


def test_any_table_in_a_file(door, share):
    file = door.folder / "table"

    def body(data):
        file.write_bytes(data)
        door.run("table", "--source", str(file), "-t", "20")

    seeds = [*corpus("text"), gzip.compress(corpus("text")[0])]
    fuzz("table: files", share, EXAMPLES, mutated(*seeds), body)


def test_anything_conntrack_prints(door, share):
    def body(parts):
        data, door.status = parts
        door.lists(data)
        door.run("table", "--source", "conntrack", "-t", "20")

    strategy = st.tuples(mutated(*corpus("text")), st.sampled_from([0, 0, 1, 127]))
    fuzz("table: conntrack", share, EXAMPLES // 2, strategy, body)


def framed(batches, file="dump_a"):
    """The reader's answer with these batches of a dump."""
    head = "7 0 {} 18 {}\n/proc/self/ns/net"
    pieces = [head.format(file, len(data)).encode() + data for data in batches if data]
    return b"".join(pieces) + b"end\n"


def test_any_netlink_bytes(door, share):
    def body(parts):
        data, limit = parts
        door.answer = framed(data.split(SEPARATOR))
        for more in ([], ["--address", "10.0.0.1"], ["--max-entries", "2"])[:limit]:
            door.run("table", "--source", "netlink", "-t", "20", *more)

    strategy = st.tuples(mutated(*corpus("netlink")), st.integers(1, 3))
    fuzz("table: netlink", share, EXAMPLES, strategy, body)


def listened(stream):
    """The reader's answer with these events."""
    head = "7 0 {} 17 {}\n/proc/self/ns/net"
    pieces = [
        ("nf_conntrack_events", b"2\n"),
        ("nf_conntrack_count", b"1000\n"),
        ("events", stream),
        ("nf_conntrack_count", b"1100\n"),
        ("clock", b"1000000000"),
    ]
    frames = (head.format(file, len(data)).encode() + data for file, data in pieces)
    return b"".join(frames) + b"end\n"


EVENT = bytes.fromhex(
    "3c000000000100060000000000000000020000000800030000000008"
    "0800070000000078"
    "08000c0012345678"
    "08001a0000000000"
    "08000100ffffffff"
)


def test_any_stream_of_events(door, share):
    def body(stream):
        door.answer = listened(stream)
        answered = door.run("usage", "--listen", "1s", "--sudo", "-t", "20")
        assert answered.state == "OK"
        failed = any("could not be counted" in line for line in answered.lines)
        assert ("new_rate" in answered.data) != failed

    fuzz("usage: events", share, EXAMPLES, mutated(EVENT, EVENT * 40, *corpus("netlink")), body)


ANSWERS = [
    framed([corpus("netlink")[0]]),
    listened(EVENT),
    (
        b"71 0 nf_conntrack_count 15 2\n/run/netns/blue5\n"
        b"71 0 nf_conntrack_max 15 3\n/run/netns/blue10\nend\n"
    ),
    b"0 1 - 15 0\n/run/netns/blueend\n",
    b"0 0 record 0 40\n4,7,5,-;nf_conntrack: table full, dropping\nend\n",
]


WORDS = [[], ["--netns", "all"], ["--netns", "/run/netns/blue"]]


@pytest.mark.parametrize("name", CHECKS)
def test_anything_the_reader_or_sudo_writes(door, share, name):
    def body(parts):
        door.answer, door.status, words = parts
        door.run(name, "-t", "20", "--sudo", *words)

    strategy = st.tuples(
        mutated(*ANSWERS),
        st.sampled_from([0, 0, 1, 2, 255]),
        st.sampled_from(WORDS + ([["--listen", "1s"]] if name == "usage" else [])),
    )
    fuzz(f"{name}: reader", share, EXAMPLES // 2, strategy, body)


# --- what earlier runs left


@pytest.mark.parametrize("name", CHECKS)
def test_any_state_file(door, share, name):
    log = door.folder / "kern.log"
    log.write_bytes((CORPUS / "log/linux-6.log").read_bytes())
    words = {"full": ["--log", str(log), "--if-incomplete", "ok"], "usage": [], "table": []}[name]
    door.counters = STAT[1]
    door.lists(listing(web_server()[:1000]))
    door.run(name, *words)
    door.run(name, *words)
    kept = sorted(door.state.glob("*/*.json"))
    assert kept
    good = {path: path.read_bytes() for path in kept}

    def body(data):
        for path in kept:
            path.write_bytes(data)
        assert door.run(name, *words, "-t", "20").state != "UNKNOWN"

    seeds = [*good.values(), b"[" * 5000, b"null", b'{"at":1e400}', b'{"samples":[[1,2]]}']
    fuzz(f"{name}: state", share, EXAMPLES, mutated(*seeds), body)


# --- the whole of it, as processes


def test_real_processes(installed, share):
    tree, python = installed
    words = st.sampled_from(CHECKS).flatmap(
        lambda name: st.tuples(st.just(name), command_lines(name))
    )
    environment = st.dictionaries(
        st.sampled_from(["LC_ALL", "TZ", "HOME", "SUDO_UID", "PATH", "XDG_STATE_HOME", "COLUMNS"]),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
        max_size=3,
    )

    def body(parts):
        (name, arguments), variables, data = parts
        command = [python, "-E", "-s", tree / f"check_conntrack_{name}", *arguments, "-t", "5"]
        done = subprocess.run(
            [*command, "--no-state"],
            input=data,
            env=variables,
            capture_output=True,
            timeout=60,
            cwd="/",
        )
        out = done.stdout.decode("ascii")
        assert done.returncode in range(4)
        assert done.stderr == b""
        if not out.startswith(("usage: check_", "check_")):
            Run(done.returncode, out, "", [*arguments, "-v"])
            assert "internal error" not in out

    inputs = mutated(*corpus("log"), *corpus("text"))
    fuzz("processes", share, 15, st.tuples(words, environment, inputs), body)
