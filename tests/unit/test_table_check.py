"""check_conntrack_table from its command line to its output, with a kernel that stands in."""

from __future__ import annotations

import errno
import json
import random
import re
import socket
import types

import pytest

from check_conntrack import reports, runner, session, signals
from check_conntrack.kernel import conntrack_cli, netlink, privileges, reader_command
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel import reader as kernel_reader
from check_conntrack.kernel.namespaces import Namespace
from check_conntrack.state.codec import decode_each
from check_conntrack.state.last_finding import LastFinding
from check_conntrack.table import sources, summary, table_check
from support import flows_dump, tables
from support.addresses import address_message
from support.processes import TIME_IS_UP

FEW = flows_dump.entry(state=3, timeout=431000)


def dump(number, **more):
    """So many entries, all different."""
    batch = [
        flows_dump.entry(bytes((10, n >> 16, n >> 8 & 255, n & 255)), state=3, **more)
        for n in range(number)
    ]
    return [b"".join(batch[at : at + 100]) for at in range(0, number, 100)]


@pytest.fixture
def file(tmp_path):
    def write(data, name="table.txt"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


# --- the verdict


def test_healthy_table_is_one_line(reader, sysctls, inspect):
    sysctls.holds(300, 10000)
    reader.hands_out("table", *dump(300), flows_dump.done())
    run = inspect()
    assert (run.state, run.text) == ("OK", "300 of 10000 entries in use (3.0%)")
    assert run.lines == []


def test_perfdata_has_the_labels_in_the_order_of_the_manual(reader, sysctls, inspect):
    reader.hands_out("table", *dump(1000), flows_dump.done())
    run = inspect()
    assert list(run.data) == [label.name for label in table_check.LABELS]
    reader.answers.clear()
    reader.hands_out("text", tables.listing(tables.web_server()[:1000]))
    assert list(inspect("--source", "proc").data) == [
        label.name for label in table_check.LABELS if label.name != "expected"
    ]


def test_protected_usage_is_a_share_of_the_limit(reader, sysctls, inspect):
    closing = flows_dump.entry(state=ct.TCP_CONNTRACK_TIME_WAIT)
    open_ = flows_dump.entry(state=ct.TCP_CONNTRACK_ESTABLISHED)
    sysctls.holds(100, 200)
    reader.hands_out("table", closing * 60 + open_ * 40, flows_dump.done())
    data = inspect().data
    assert (data["protected"].value, data["protected_usage"].value) == (40, 20)
    assert data["assured"].value == 100


@pytest.mark.parametrize("arguments", [(), ("--address", "192.0.2.77")])
def test_threshold_in_percent_holds_where_there_is_no_entry(reader, sysctls, inspect, arguments):
    """No entry of none is no share above a bound, and not below one."""
    sysctls.holds(0, 200)
    reader.hands_out("table", flows_dump.done())
    run = inspect(*arguments, "-w", "tcp_syn_recv=5%", "-c", "assured=10%:")
    assert run.state == "OK", run.out
    run = inspect(*arguments, "-w", "tcp_syn_recv=@0%:5%")
    assert run.state == "WARNING", run.out


def test_threshold_in_percent_is_unknown_where_the_dump_holds_nothing_of_the_table(
    reader, sysctls, inspect
):
    sysctls.holds(5000, 10000)
    reader.hands_out("table", flows_dump.done())
    run = inspect("-w", "tcp_syn_recv=5%")
    assert run.state == "UNKNOWN"
    assert "the dump holds none of 5000 entries" in run.text


def test_threshold_in_percent_is_of_the_entries_or_of_the_limit(reader, sysctls, inspect):
    reader.hands_out("table", *dump(1000), flows_dump.done())
    run = inspect("-w", "tcp_established=5%", "-c", "entries=50%")
    assert run.state == "WARNING"
    assert (run.data["tcp_established"].warn, run.data["entries"].crit) == ("50", "5000")
    assert "tcp_established 1000 (threshold 5%)" in run.text


def test_full_table_is_at_the_limit(reader, sysctls, inspect):
    sysctls.holds(1000, 1000)
    reader.hands_out("table", *dump(1000), flows_dump.done())
    run = inspect()
    assert run.state == "CRITICAL"
    assert run.text.startswith("full: 1000 of 1000 entries; ")


def test_table_without_a_limit_has_no_usage(reader, sysctls, inspect):
    sysctls.holds(1000, 0)
    reader.hands_out("table", *dump(1000), flows_dump.done())
    run = inspect()
    assert run.text == "1000 entries in use, no limit"
    assert not {"usage", "protected_usage"} & set(run.data)
    assert run.data["entries"].max is None


@pytest.mark.parametrize(("state", "word"), [("ok", "OK"), ("critical", "CRITICAL")])
def test_inactive_conntrack_has_the_state_that_the_user_chose(sysctls, inspect, state, word):
    sysctls.clear()
    run = inspect("--if-inactive", state)
    assert (run.state, run.text) == (word, "conntrack is not active on this host")


def test_file_is_evaluated_where_conntrack_is_inactive(sysctls, inspect, file):
    sysctls.clear()
    path = file(tables.listing(tables.web_server()))
    run = inspect("--source", path, "-c", "tcp_established=100")
    assert run.state == "CRITICAL"
    assert "usage" not in run.data


# --- sources


def test_auto_tries_the_next_source_after_a_failure(reader, sysctls, inspect):
    reader.hands_out("table", flows_dump.error(errno.EOPNOTSUPP))
    reader.hands_out("text", tables.listing(tables.web_server()[:1000]))
    run = inspect("-vvv")
    assert [asked[0] for asked in reader.asked] == ["table", "text"]
    assert any("Read /proc/net/nf_conntrack, 1000 entries" in line for line in run.lines)
    assert "Tried netlink: the kernel refused the dump: Operation not supported" in run.lines


CALLS_ITSELF = "conntrack v1.4.7 (conntrack-tools): "
NOT_ROOT = "Operation failed: sorry, you must be root or get CAP_NET_ADMIN capability to do this"
NOT_PERMITTED = "Operation failed: Operation not permitted"
NO_MEMORY = "Can't open handler (netlink): no memory"
COUNTED = CALLS_ITSELF + "7 flow entries have been shown."
SILENT = "it failed and said nothing"


@pytest.mark.parametrize(
    ("said", "reason", "right"),
    [
        (CALLS_ITSELF + NOT_ROOT, NOT_ROOT, True),
        (f"conntrack v0.9.15: {NOT_ROOT}", NOT_ROOT, True),
        (f"{COUNTED}\n{CALLS_ITSELF}{NOT_PERMITTED}", NOT_PERMITTED, True),
        ("sh: exec: Permission denied", "sh: exec: Permission denied", True),
        (CALLS_ITSELF + NO_MEMORY, NO_MEMORY, False),
        (COUNTED, SILENT, False),
        ("", SILENT, False),
    ],
)
def test_conntrack_failure_is_printed_with_what_to_grant(
    inspect, monkeypatch, tmp_path, said, reason, right
):
    fake = tmp_path / "conntrack"
    fake.write_text(f"#!/bin/sh\ncat >&2 <<'EOF'\n{said}\nEOF\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(conntrack_cli, "CONNTRACK_PATHS", (str(fake),))
    run = inspect("--source", "conntrack")
    assert run.state == "UNKNOWN"
    needs = " (needs CAP_NET_ADMIN)" if right else ""
    assert f"Tried conntrack: {reason}{needs}" in run.lines
    assert any("AmbientCapabilities" in line for line in run.lines) == right
    assert ("permission denied" in run.text) == right


def test_conntrack_is_not_started_where_it_would_load_a_module(inspect, monkeypatch, tmp_path):
    fake = tmp_path / "conntrack"
    fake.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    fake.chmod(0o755)
    monkeypatch.setattr(conntrack_cli, "CONNTRACK_PATHS", (str(fake),))

    def refuse():
        raise OSError(errno.EPROTONOSUPPORT, "")

    monkeypatch.setattr(kernel_reader, "require_ctnetlink", refuse)
    run = inspect("--source", "conntrack")
    assert run.state == "UNKNOWN"
    assert "nf_conntrack_netlink: not loaded (as root: modprobe nf_conntrack_netlink)" in run.out
    assert not (tmp_path / "asked").exists()


def test_missing_privileges_are_printed_for_each_source(sysctls, inspect):
    sysctls.holds(300, 10000)
    run = inspect()
    assert run.state == "UNKNOWN"
    assert run.text == (
        "300 of 10000 entries in use (3.0%); cannot read the table: permission denied "
        "(tried netlink, proc, conntrack)"
    )
    assert "Tried netlink: permission denied, and no --sudo (needs CAP_NET_ADMIN)" in run.lines
    assert "Tried proc: permission denied, and no --sudo (needs root)" in run.lines
    assert "Tried conntrack: conntrack(8) is not installed" in run.lines
    assert any(re.match(r"  \S+ ALL=\(root\) NOPASSWD: .*reader.py", line) for line in run.lines)
    assert run.data["usage"].value == 3


def test_full_table_that_cannot_be_read_is_critical(sysctls, inspect):
    sysctls.holds(1000, 1000)
    assert inspect().state == "CRITICAL"


def test_eperm_of_the_kernel_is_a_missing_privilege(reader, sysctls, inspect):
    reader.hands_out("table", flows_dump.error(errno.EPERM))
    run = inspect("--source", "netlink")
    assert run.state == "UNKNOWN"
    assert run.text.endswith("cannot read the table: permission denied (tried netlink)")


# --- samples, and dumps that go wrong


def test_sample_is_scaled_to_the_exact_count(reader, sysctls, inspect):
    sysctls.holds(4000, 10000)
    reader.hands_out("table", *dump(2000), *dump(2000, protocol=17), flows_dump.done())
    run = inspect("--max-entries", "1000", "-v")
    assert run.text == "4000 of 10000 entries in use (40.0%)"
    assert "Note: estimated from a sample of 1000 entries (+-2.7 points)" in run.lines
    assert run.data["tcp"].value == run.data["entries"].value == 4000


@pytest.mark.parametrize("source", ["netlink", "proc"])
def test_table_of_max_entries_is_read_to_its_end(reader, sysctls, inspect, source):
    sysctls.holds(1000, 10000)
    reader.hands_out("table", *dump(1000), flows_dump.done())
    reader.hands_out("text", tables.listing(tables.web_server()[:1000]))
    assert "sample" not in inspect("--max-entries", "1000", "--source", source).text


def test_sample_of_text_is_scaled_to_the_exact_count(reader, sysctls, inspect):
    sysctls.holds(4000, 10000)
    data = tables.listing(tables.web_server())
    reader.hands_out("text", data[:1234], data[1234:70000], data[70000:])
    run = inspect("--max-entries", "1000", "--source", "proc", "-v")
    assert "estimated from a sample of 1000 " in run.rest
    assert run.data["entries"].value == 4000
    assert "could not be read" not in run.text


def test_file_is_read_beyond_max_entries(inspect, file):
    path = file(tables.listing(tables.web_server()))
    assert inspect("--max-entries", "10", "--source", path).data["entries"].value == 4000


def test_dump_that_lost_messages_is_an_estimate(reader, sysctls, inspect):
    sysctls.holds(1000, 10000)
    reader.hands_out("table", *dump(700), errno.ENOBUFS)
    run = inspect("-v")
    assert run.state == "OK"
    assert "estimated from a sample of 700" in run.rest
    assert "the kernel lost part of the dump: No buffer space available" in run.text


def test_dump_that_was_interrupted_is_unknown(reader, sysctls, inspect):
    reader.hands_out("table", *dump(1000, flags=netlink.NLM_F_DUMP_INTR), flows_dump.done())
    run = inspect()
    assert run.state == "UNKNOWN"
    assert "the table changed during the dump: entries are missing or counted twice" in run.text


def test_damaged_dump_is_unknown(reader, sysctls, inspect):
    batches = dump(1000)
    batches[5] = batches[5][:-7]
    reader.hands_out("table", *batches, flows_dump.done())
    run = inspect()
    assert run.state == "UNKNOWN"
    assert "truncated netlink message" in run.text


def test_damaged_dump_is_followed_by_another_source(reader, sysctls, inspect):
    batches = dump(1000)
    batches[5] = batches[5][:-7]
    reader.hands_out("table", *batches)
    reader.hands_out("text", tables.listing(tables.web_server()[:1000]))
    run = inspect()
    assert (run.state, run.text) == ("OK", "1000 of 10000 entries in use (10.0%)")


def test_dump_short_of_the_count_is_an_estimate(reader, sysctls, inspect):
    sysctls.holds(5000, 10000)
    reader.hands_out("table", *dump(2000), flows_dump.done())
    run = inspect("-v")
    assert run.state == "OK"
    assert "the dump holds 2000 of 5000 entries" in run.text
    assert "estimated from a sample of 2000 entries (+-1.7 points)" in run.rest
    assert run.data["tcp"].value == 5000


# --- filters


def test_address_filter_asks_the_kernel_for_each_position(reader, sysctls, inspect):
    mine = flows_dump.entry(b"\x0a\0\0\x01", state=3)
    asked = flows_dump.entry(b"\x0a\0\0\x02", b"\x0a\0\0\x01", state=3)
    other = flows_dump.entry(b"\x0a\0\0\x09", state=3)
    for name in "abcd":
        # As old kernels answer, that do not know filters.
        reader.hands_out(
            "table", mine * 3 + asked * 2 + other, flows_dump.done(), file=f"dump_{name}"
        )
    run = inspect("--address", "10.0.0.1")
    what, path, *filters = reader.asked[0]
    assert (what, path, len(filters)) == ("table", "/proc/self/ns/net", 4)
    assert all(re.fullmatch(r"2:[0-9a-f]+", text) for text in filters)
    assert run.data["entries"].value == 5
    assert "5 of 1000 entries match (2 inbound, 3 outbound)" in run.text
    assert run.data["usage"].value == 10


def test_filter_that_passes_too_much_is_followed_by_a_sample(reader, sysctls, inspect):
    sysctls.holds(4000, 10000)
    reader.hands_out("table", *dump(3000), flows_dump.done())
    run = inspect("--address", "192.0.2.9", "--max-entries", "1000", "-v")
    assert [len(asked) for asked in reader.asked] == [6, 2]
    assert "estimated from a sample of 1000" in run.rest
    assert "about 4000 of 4000 entries match" in run.text


def test_filter_without_an_end_is_followed_by_the_whole_table(reader, sysctls, inspect):
    stream = reader.stream

    def answer(fields):
        reader.answers.clear()
        if len(fields) > 2:
            reader.hands_out("table", b"", file="dump_a")
        else:
            reader.hands_out("table", *dump(1000), flows_dump.done(), b"")
        return stream(fields)

    reader.stream = answer
    reader.hands_out("table", b"")
    run = inspect("--address", "10.0.0.7")
    assert [len(asked) for asked in reader.asked] == [6, 2]
    assert "1 of 1000 entries matches" in run.text


def test_kernel_without_ctnetlink_is_read_from_proc(reader, sysctls, inspect):
    reader.hands_out("table", b"", file="dump_a")
    reader.hands_out("text", tables.listing(tables.web_server()[:1000]), b"")
    for words in ((), ("--address", "198.18.0.1")):
        run = inspect(*words, "-vv")
        assert run.data["tcp"].value > 0
        assert any(line.startswith("Tried netlink: the dump ended before") for line in run.lines)


def test_filter_applies_to_a_file(inspect, file):
    path = file(tables.listing(tables.nat_gateway()))
    run = inspect("--source", path, "--protocol", "udp", "--port", "53")
    assert run.text == "800 of 4000 entries match"
    assert run.data["udp"].value == run.data["entries"].value == 800


def test_prefix_groups_addresses(inspect, file):
    path = file(tables.listing(tables.resolver()))
    run = inspect("--source", path, "--prefix", "16/64", "-v", "--top", "2")
    assert any(re.match(r"  198\.18\.0\.0/16 +26", line) for line in run.lines)


def test_top_sets_the_lines_of_each_list(inspect, file):
    path = file(tables.listing(tables.nat_gateway()))
    run = inspect("--source", path, "-v", "--top", "7")
    start = run.lines.index(next(line for line in run.lines if line.startswith("  source ")))
    assert run.lines[start + 8].startswith("  destination")


# --- the command line


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--address", "10.0.0.0/33"], "invalid prefix length"),
        (["--address", "example.org"], "invalid address"),
        (["--protocol", "tpc"], "invalid protocol"),
        (["--state", "OPENISH"], "invalid state"),
        (["--port", "65536"], "not between 1 and 65535"),
        (["--port", "0"], "not between 1 and 65535"),
        (["--address", "::ffff:127.0.0.1"], "(write 127.0.0.1)"),
        (["--protocol", "icmp", "--port", "53"], "no flow of protocol icmp can have this port"),
        (["--protocol", "udp", "--state", "ESTABLISHED"], "can have this state"),
        (["--port", "1_000"], "is not a number"),
        (["--zone", "65536"], "not between 0 and 65535"),
        (["--mark", "3/1"], "invalid mark '3/1' (the value has bits that the mask leaves out)"),
        (["--top", "0"], "not between 1 and"),
        (["--prefix", "24"], "invalid prefixes"),
        (["--prefix", "24/129"], "(at most 32/128)"),
        (["--max-entries", "-1"], "--max-entries"),
        (["--keep", "0"], "not between 1 and"),
        (["--save-when", "never"], "--save-when"),
        (["--netns", "x", "--source", "conntrack"], "--netns: cannot be combined with"),
        (["--netns", "x", "--source", "/tmp/x"], "--netns: cannot be combined with"),
        (["--save", "/tmp", "--source", "/tmp/x"], "--save: needs a live table"),
        (["-w", "load=5"], "unknown label 'load'"),
        (["-w", "tcp=5s"], "tcp takes %"),
    ],
)
def test_wrong_command_line_is_one_sentence_and_unknown(inspect, words, why):
    run = inspect(*words)
    assert run.state == "UNKNOWN"
    assert why in run.out
    # It is printed whole below a status line that has to cut it.
    assert len(run.lines) == run.text.endswith("...")


def test_examples_of_the_manual_are_valid(capfd, signals):
    code = runner.run(table_check.TITLE, table_check.parser(), table_check.run_check, ["--help"])
    page = capfd.readouterr().out
    assert code == 3
    examples = [line.split() for line in page.splitlines() if line.startswith("  check_conntrack_")]
    assert len(examples) == 5
    for words in examples:
        table_check.parser().parse_args(words[1:])


# --- namespaces


def test_further_namespaces_add_their_main_labels_last(reader, sysctls, inspect, netns):
    directory = netns(r1=101, r2=102)
    for name, inode, count in (("r1", 101, 50), ("r2", 102, 9500)):
        path = str(directory / name)
        for file, value in (("nf_conntrack_count", count), ("nf_conntrack_max", 10000)):
            reader.hands_out("limits", b"%d\n" % value, path=path, file=file, inode=inode)
    for name, inode, count in (("r1", 101, 50), ("r2", 102, 9500)):
        path = str(directory / name)
        reader.hands_out("table", *dump(count), flows_dump.done(), path=path, inode=inode)
    run = inspect("--netns", "r*")
    assert run.state == "CRITICAL"
    assert run.text.startswith("namespace r2 9500 of 10000 entries in use (95.0%)")
    assert list(run.data)[-3:] == ["r2::usage", "r2::snat_port_usage", "r2::entries"]
    assert run.data["entries"].value == 50
    assert run.data["r2::entries"].value == 9500


def alarming(reader, netns, causes):
    """Namespaces with tables that something fills, each nearly full."""
    directory = netns(**{name: 100 + at for at, name in enumerate(causes)})
    for at, (name, (lines, limit)) in enumerate(causes.items()):
        path, inode = str(directory / name), 100 + at
        for file, value in (("nf_conntrack_count", len(lines)), ("nf_conntrack_max", limit)):
            reader.hands_out("limits", b"%d\n" % value, path=path, file=file, inode=inode)
    for at, (name, (lines, _)) in enumerate(causes.items()):
        path = str(directory / name)
        reader.hands_out("text", tables.listing(lines), path=path, inode=100 + at)


def test_each_alarming_namespace_has_its_cause_and_the_command_that_advises(
    reader, sysctls, inspect, netns, tmp_path
):
    causes = {
        "red": (tables.syn_flood(), 3100),
        "blue": (tables.scan(), 4200),
        "calm": (tables.calm(880), 950),
    }
    alarming(reader, netns, causes)
    run = inspect("--netns", "red", "--netns", "blue", "--netns", "calm", "--source", "proc")
    assert run.state == "CRITICAL"
    assert run.text.startswith("namespace red 3040 of 3100 entries in use (98.1%); SYN flood on ")
    assert run.text.endswith("also 2 other namespaces")
    (blue,) = (line for line in run.lines if line.startswith("Namespace blue: "))
    assert "scan of 198.51.0.0/16 from 203.0.113.9" in blue
    assert blue.endswith(". What to do there: check_conntrack_table -v --netns blue")
    assert not any(line.startswith("Namespace red") for line in run.lines), "told before"
    (found,) = (tmp_path / "state").glob("*/findings.json")
    kept = decode_each(LastFinding, json.loads(found.read_text()))
    assert (kept["red"].cause, kept["blue"].cause) == ("syn flood", "scan")
    assert set(kept) == {"red", "blue", "calm"}


@pytest.mark.parametrize("name", ["host", "this namespace"])
def test_namespace_that_is_called_like_the_host_is_not_taken_for_it(reader, inspect, netns, name):
    alarming(reader, netns, {"red": (tables.syn_flood(), 3100), name: (tables.scan(), 4200)})
    run = inspect("--netns", "red", "--netns", name, "--source", "proc")
    assert any(line.startswith(f"Namespace {name}: scan of ") for line in run.lines)
    assert not any(line.startswith("This ") for line in run.lines)
    assert "also namespace " in run.text or run.text.endswith("also 1 other namespace")


@pytest.mark.parametrize("known", ["address", "network", "others", "not at all"])
def test_namespace_is_not_told_to_block_itself(reader, sysctls, inspect, netns, known):
    alarming(reader, netns, {"red": (tables.syn_flood(), 3100)})
    own = {"address": "203.0.113.9", "network": "203.0.113.8", "others": "192.0.2.1"}.get(known)
    if own:
        dump = address_message(socket.inet_aton(own))
        reader.hands_out("owners", dump, path="/r", file="addresses", inode=100)
    run = inspect("--netns", "red", "--source", "proc", "-v")
    asked = [words for words in reader.asked if words[0] == "owners"]
    assert [len(words) for words in asked] == [2], "no other namespace is looked into"
    if known == "address":
        assert "check_conntrack_block" not in run.rest
        assert "203.0.113.9 (this namespace)" in run.text
    else:
        assert "check_conntrack_block" in run.rest
    doubt = "and is not this namespace's own address" in run.rest.replace(",", " and")
    guard = "fib saddr type != local" in run.rest
    assert (doubt, guard) == ((known == "not at all"),) * 2


def test_causes_of_further_namespaces_give_way_before_their_names():
    others = [
        types.SimpleNamespace(namespace=Namespace(name, f"/run/netns/{name}"))
        for name in ("red", "blue", "green")
    ]
    assert reports.also(others, {}, ["a scan", ""]) == [
        "also red (a scan), blue, green",
        "also red, blue, green",
        "also red, blue and 1 more",
        "also red and 2 more",
    ]
    assert reports.also(others[:1], {}, ["a flood"]) == ["also red (a flood)", "also red"]
    assert reports.also([], {}, []) == []


def test_table_whose_limit_was_lowered_asks_for_the_old_one(reader, sysctls, inspect):
    for limit in (262144, 1000):
        reader.answers.clear()
        sysctls.holds(900, limit)
        reader.hands_out("table", *dump(900), flows_dump.done())
        run = inspect()
    assert run.state != "OK"
    assert "in use (90.0%); limit lowered from 262144 to 1000 at " in run.text
    assert "The limit was lowered from 262144 to 1000: restore it" in run.rest
    assert "  sysctl -w net.netfilter.nf_conntrack_max=262144" in run.lines
    assert "Raise the limit" not in run.rest


def test_time_left_is_on_the_status_line(reader, sysctls, inspect, clock):
    for count in (6000, 6500, 7000, 7500):
        reader.answers.clear()
        sysctls.holds(count, 8000)
        reader.hands_out("text", tables.listing((tables.scan() * 2)[:count]))
        run = inspect("--source", "proc")
        clock.now += 150
        clock.today += 150
    # 500 entries in 150 s, and 500 are free.
    assert run.state == "CRITICAL"
    assert "; full in about 2m 30s" in run.text
    assert "scan of 198.51.0.0/16 from 203.0.113.9" in run.text


def test_time_left_is_not_told_without_growth(reader, sysctls, inspect, clock):
    for _ in range(4):
        reader.answers.clear()
        sysctls.holds(2000, 8000)
        reader.hands_out("text", tables.listing(tables.scan()[:2000]))
        run = inspect("--source", "proc")
        clock.now += 150
        clock.today += 150
    assert "full in" not in run.out


def test_table_tells_changed_limit_and_buckets_in_the_long_output(reader, sysctls, inspect):
    for limit, buckets in ((1000, 512), (2000, 1024)):
        reader.answers.clear()
        sysctls.holds(900, limit, buckets)
        reader.hands_out("table", *dump(900), flows_dump.done())
        run = inspect("-v")
    assert any(line.startswith("Limit raised from 1000 to 2000 ") for line in run.lines)
    assert any(line.startswith("Hash buckets raised from 512 to 1024 ") for line in run.lines)


def test_peaks_of_further_namespaces_share_one_file(reader, sysctls, inspect, netns, tmp_path):
    directory = netns(**{f"r{at}": 100 + at for at in range(1, 6)})
    for count in (900, 50):
        reader.answers.clear()
        for at in range(1, 6):
            path, inode = str(directory / f"r{at}"), 100 + at
            for file, value in (("nf_conntrack_count", count), ("nf_conntrack_max", 1000)):
                reader.hands_out("limits", b"%d\n" % value, path=path, file=file, inode=inode)
        for at in range(1, 6):
            path = str(directory / f"r{at}")
            reader.hands_out("table", *dump(count), flows_dump.done(), path=path, inode=100 + at)
        run = inspect("--netns", "r*", "-w", "usage=4")
    assert "the peak of 900 entries" in run.rest
    assert len(list((tmp_path / "state").glob("*/*"))) == 3, (
        "the first's, one for all others, and what was found"
    )


def test_namespace_that_vanishes_is_skipped(reader, sysctls, inspect, netns):
    directory = netns(r1=101, r2=102)
    for name, inode in (("r1", 101), ("r2", 102)):
        path = str(directory / name)
        for file, value in (("nf_conntrack_count", 50), ("nf_conntrack_max", 10000)):
            reader.hands_out("limits", b"%d\n" % value, path=path, file=file, inode=inode)
    reader.hands_out("table", *dump(50), flows_dump.done(), path=str(directory / "r1"), inode=101)
    reader.hands_out("table", errno.ENOENT, path=str(directory / "r2"), inode=0, file="-")
    run = inspect("--netns", "r*")
    assert run.state == "OK"
    assert "r2::usage" not in run.data


def test_namespace_that_may_not_be_entered_is_unknown_with_what_to_grant(sysctls, inspect, netns):
    netns(r1=101)
    run = inspect("--netns", "r1")
    assert run.state == "UNKNOWN"
    assert "permission denied (CAP_SYS_ADMIN" in run.text
    assert any("NOPASSWD" in line for line in run.lines)


def test_reader_failure_is_printed_in_its_own_words(reader, sysctls, inspect):
    reader.answers["table"] = session.KernelError("sudo: no")
    run = inspect("--source", "netlink", "--sudo")
    assert run.state == "UNKNOWN"
    assert "sudo: no" in run.text


# --- estimates, and thresholds within their margin


def mixed(tcp, udp):
    """A dump of so many TCP and UDP entries, well mixed."""
    batch = [
        flows_dump.entry(bytes((10, n >> 16, n >> 8 & 255, n & 255)), state=3) for n in range(tcp)
    ] + [flows_dump.entry(bytes((10, 99, n >> 8 & 255, n & 255)), protocol=17) for n in range(udp)]
    random.Random(1).shuffle(batch)
    return [b"".join(batch[at : at + 100]) for at in range(0, len(batch), 100)]


@pytest.mark.parametrize(
    ("threshold", "state", "doubtful"),
    [
        ("udp=20%", "WARNING", False),  # 30% +- 2.8 is more for sure
        ("udp=29%", "OK", True),
        ("udp=31%", "OK", True),
        ("udp=40%", "OK", False),
        ("udp=@25%:35%", "WARNING", False),
        ("udp=@29%:31%", "OK", True),
        ("udp=40%:", "WARNING", False),
        ("udp=29.5%:", "OK", True),
    ],
)
def test_threshold_within_the_margin_of_an_estimate_raises_no_alarm(
    reader, sysctls, inspect, threshold, state, doubtful
):
    sysctls.holds(10000, 100000)
    reader.hands_out("table", *mixed(700, 300), errno.ENOBUFS)
    run = inspect("-w", threshold, "-v")
    assert run.state == state, run.text
    assert ("may or may not violate the threshold" in run.text) == doubtful
    assert ("may or may not violate the threshold" in run.rest) == doubtful
    assert run.data["udp"].value == 3000


def test_count_of_the_largest_destination_has_the_margin_of_an_estimate(reader, sysctls, inspect):
    sysctls.holds(10000, 100000)
    reader.hands_out("table", *mixed(700, 300), errno.ENOBUFS)
    run = inspect("-w", "top_destination_entries=9000", "-w", "top_source_entries=30")
    assert run.state == "WARNING"
    assert run.data["top_destination_entries"].value == 10000
    # One of 1000 entries that were read: as little is known of it.
    assert "top_source_entries 10 +-28 may or may not violate the threshold 30" in run.rest


def test_critical_threshold_within_the_margin_leaves_a_certain_warning(reader, sysctls, inspect):
    sysctls.holds(10000, 100000)
    reader.hands_out("table", *mixed(700, 300), errno.ENOBUFS)
    run = inspect("-w", "udp=20%", "-c", "udp=29%")
    assert run.state == "WARNING"
    assert re.search(r"udp 3000 \+-2[67][0-9] may or may not violate the threshold 29%", run.rest)
    assert (run.data["udp"].warn, run.data["udp"].crit) == ("2000", "")


def test_figures_of_a_table_that_was_read_to_its_end_have_no_margin(reader, sysctls, inspect):
    sysctls.holds(1000, 100000)
    reader.hands_out("table", *mixed(700, 300), flows_dump.done())
    assert inspect("-w", "udp=29.9%").state == "WARNING"


def test_expired_entries_in_the_count_are_not_missing_from_the_dump(reader, sysctls, inspect):
    sysctls.holds(5000, 100000)
    stream = reader.stream

    def dump_sweeps(fields):
        yield from stream(fields)
        sysctls.holds(2000, 100000)

    reader.stream = dump_sweeps
    reader.hands_out("table", *dump(2000), flows_dump.done())
    run = inspect("-v")
    assert run.state == "OK"
    assert "the dump holds" not in run.out
    assert run.data["tcp"].value == 2000


def test_dump_with_more_entries_than_the_count_is_unknown(reader, sysctls, inspect):
    sysctls.holds(1000, 100000)
    reader.hands_out("table", *dump(1500), flows_dump.done())
    run = inspect()
    assert run.state == "UNKNOWN"
    assert "the table changed while it was read: 1500 of 1000 entries" in run.text


def test_threshold_of_a_label_that_the_source_does_not_know_is_unknown(reader, sysctls, inspect):
    reader.hands_out("text", tables.listing(tables.web_server()[:1000]))
    run = inspect("--source", "proc", "-w", "expected=0")
    assert run.state == "UNKNOWN"
    assert "expected cannot be evaluated" in run.text


# --- time-outs


def test_time_that_runs_out_makes_a_smaller_sample(reader, sysctls, inspect, monkeypatch):
    sysctls.holds(4000, 10000)
    reader.hands_out("table", *mixed(3000, 1000), flows_dump.done())
    frames = iter(range(100))
    monkeypatch.setattr(sources, "time_is_up", lambda _: next(frames) >= 10)
    run = inspect("-v")
    assert run.state == "OK"
    assert "timed out after 1100 entries: the sample is smaller than usual" in run.text
    assert "estimated from a sample of 1100 entries" in run.rest
    assert run.data["tcp"].value == pytest.approx(3000, abs=150)


def test_time_out_after_the_verdict_does_not_cost_it(reader, sysctls, inspect, monkeypatch):
    sysctls.holds(950, 1000)

    def never(*_):
        raise signals.StoppedError("timed out after 8s while writing the state")

    monkeypatch.setattr(table_check, "_remember_findings", never)
    run = inspect()
    assert run.state == "CRITICAL"
    assert "timed out after 8s while writing the state" in run.rest


def test_order_to_stop_before_the_words_leaves_the_verdict(reader, sysctls, inspect, monkeypatch):
    sysctls.holds(950, 1000)

    def never(*_):
        raise signals.StoppedError("stopped by SIGTERM")

    monkeypatch.setattr(summary.TableSummary, "verbose", never)
    run = inspect()
    assert run.state == "CRITICAL"
    assert run.text == "usage 95.0% (threshold 90)"
    assert run.data["usage"].value == 95
    assert "stopped by SIGTERM" in run.rest


def test_time_out_while_sudo_works_is_no_lack_of_privileges(
    check, sysctls, monkeypatch, tmp_path, capfd
):
    sysctls.holds(950, 1000)
    monkeypatch.setattr(conntrack_cli, "CONNTRACK_PATHS", ())
    sudo = tmp_path / "sudo"
    sudo.write_text(f"#!/bin/sh\n{TIME_IS_UP}")
    sudo.chmod(0o755)
    monkeypatch.setattr(privileges, "has", lambda _: False)
    monkeypatch.setattr(reader_command, "SUDO_PATHS", (str(sudo),))
    words = ["--sudo", "-t", "50"]
    code = runner.run(table_check.TITLE, table_check.parser(), table_check.run_check, words)
    output = capfd.readouterr().out
    assert code == 2
    assert "; timed out after 50s while waiting for the reader" in output
    assert "visudo" not in output


@pytest.mark.parametrize("source", ["netlink", "proc"])
def test_time_out_before_the_table_evaluates_the_limits(
    reader, sysctls, inspect, monkeypatch, source
):
    sysctls.holds(950, 1000)

    def never(fields):
        raise signals.StoppedError("timed out after 8s while reading")
        yield

    monkeypatch.setattr(reader, "stream", never)
    run = inspect("--source", source)
    assert run.state == "CRITICAL"
    assert run.text.startswith("950 of 1000 entries in use (95.0%); timed out after 8s while")
    assert run.data["usage"].value == 95
