"""Tables in files, in all the shapes that people hand in: through the front door."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from support import flows_dump, tables

DATA = Path(__file__).parent.parent / "data" / "table"
COLLECT = "(use conntrack -L -o extended > FILE)"
ENTRY = tables.tcp("ESTABLISHED", "10.0.0.1", "10.0.0.2", 40000, 443, 431000)
SYSCTLS = """\
net.netfilter.nf_conntrack_buckets = 65536
net.netfilter.nf_conntrack_count = 4000
net.netfilter.nf_conntrack_max = 4500
net.netfilter.nf_conntrack_tcp_timeout_close_wait = 60
net.netfilter.nf_conntrack_tcp_timeout_established = 86400
net.ipv4.tcp_syncookies = 1
"""


@pytest.fixture
def file(tmp_path):
    def write(data, name="table.txt"):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return write


def figures(run, *labels):
    return {label: run.data[label].value for label in labels}


# --- published inputs


@pytest.mark.parametrize(
    ("name", "states", "expected"),
    [
        (
            "crlf-trailer",
            "OK",
            {"entries": 3, "tcp": 3, "tcp_established": 2, "offloaded": 1, "nat": 2},
        ),
        ("empty-listing", "OK", {"entries": 0, "tcp": 0}),
        ("unknown-flag", "OK", {"entries": 2, "tcp": 2, "tcp_syn_sent": 1, "unreplied": 1}),
        ("old-state", "OK", {"entries": 2, "tcp": 2, "tcp_established": 1, "tcp_other": 1}),
        (
            "established-unreplied",
            "OK",
            {"entries": 150, "tcp": 150, "tcp_established": 150, "unreplied": 150, "assured": 0}
            | {"nat": 0, "top_source_share": 100.0},
        ),
        ("one-old-entry", "OK WARNING", {"entries": 1001}),
        ("established-timeout-7440", "OK WARNING", {"entries": 1000}),
        ("close-wait", "OK WARNING CRITICAL", {"entries": 500, "tcp_close_wait": 400}),
    ],
)
def test_published_table_has_its_figures(inspect, name, states, expected):
    run = inspect("--source", DATA / f"{name}.txt", "-v")
    assert run.state in states.split()
    assert figures(run, *expected) == expected
    assert "could not be read" not in run.out


@pytest.mark.parametrize("name", ["one-old-entry", "established-timeout-7440", "old-state"])
def test_published_table_without_idle_connections_shows_no_leak(inspect, name):
    run = inspect("--source", DATA / f"{name}.txt", "-v")
    assert not re.search("leak|idle|silent", run.out, re.IGNORECASE)


def test_published_table_of_close_wait_shows_the_leak(inspect):
    assert "CLOSE_WAIT" in inspect("--source", DATA / "close-wait.txt").text


def test_mostly_unreadable_file_is_a_warning_without_diagnosis(inspect):
    run = inspect("--source", DATA / "mostly-unreadable.txt", "-v")
    assert run.state == "WARNING"
    assert "373 of 392 lines could not be read" in run.text
    assert "No diagnosis: too many lines could not be read." in run.lines
    assert not re.search(r"flood|scan|nft|sysctl|drop", run.out)


@pytest.mark.parametrize(
    ("name", "what"), [("xml", "conntrack's XML (-o xml)"), ("events", "events of conntrack -E")]
)
def test_published_output_that_is_no_table_is_refused_by_name(inspect, name, what):
    run = inspect("--source", DATA / f"{name}.txt", "-v")
    assert (run.state, run.lines) == ("UNKNOWN", [])
    assert f"{name}.txt: not a table, but {what} (use" in run.text


# --- words around and within entries


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[ASSURED]", "[ASSURED] [DYING]", {"assured": 1}),
        ("[ASSURED]", "[CONFIRMED] [ASSURED] [UNSEEN]", {"assured": 1}),
        ("[ASSURED]", "[FASTNAT] [RTCACHE o33/r37]", {"assured": 0}),
        ("mark=0", "mark=0 nmark=256 sc=0 mac=00:00:5e:00:53:01 slan attrs= secmark=0", {}),
        ("431000 ESTABLISHED", "-7 ESTABLISHED", {"tcp_established": 1}),
        ("ESTABLISHED", "LISTEN", {"tcp_other": 1}),
        ("ESTABLISHED", "SYN_SENT2", {"tcp_other": 1}),
        ("ESTABLISHED", "11", {"tcp_other": 1}),
        ("use=1", "use=1\r", {}),
        ("ipv4     2 tcp ", "tcp ", {"ipv4": 1}),
        ("ipv4     2 tcp ", "unknown", {"tcp": 1}),
        ("use=1", "use=1 id=4294967295 [start=Sat Nov 21 20:30:50 2026] delta-time=5", {}),
    ],
)
@pytest.mark.parametrize("number", [1, 10])
def test_unknown_word_in_an_entry_is_passed_over(inspect, file, old, new, expected, number):
    line = ENTRY.replace(old, new, 1)
    run = inspect("--source", file(tables.listing([line] * number)))
    assert run.state == "OK"
    assert "could not be read" not in run.text
    assert figures(run, "entries", *expected) == {
        "entries": number,
        **{label: number * value for label, value in expected.items()},
    }


WRAPPINGS = {
    "grep with a file name": lambda n, line: f"/tmp/conntrack.txt:{line}",
    "grep with a line number": lambda n, line: f"{n}:{line}",
    "grep with both": lambda n, line: f"/proc/net/nf_conntrack:{n}:{line}",
    "cat -n": lambda n, line: f"{n:6}\t{line}",
    "an e-mail": lambda n, line: f"> {line}",
    "kubectl logs --prefix": lambda n, line: f"[pod/node-debug-x7k2p/shell] {line}",
    "kubectl logs --timestamps": lambda n, line: f"2026-11-28T10:00:00.{n:09}Z {line}",
    "a container's log": lambda n, line: f"2026-11-28T10:00:00.{n:09}Z stdout F {line}",
    "docker's JSON": lambda n, line: json.dumps(
        {"log": f"{line}\n", "stream": "stdout", "time": f"2026-11-28T10:00:00.{n}Z"}
    ),
    "ansible": lambda n, line: f"gw1 | {line}",
    "syslog": lambda n, line: f"Nov 28 10:00:00 gw1 conntrack[{n}]: {line}",
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_entry_within_other_words_is_counted(inspect, file, wrapping):
    plain = tables.nat_gateway()
    wrapped = [WRAPPINGS[wrapping](n, line) for n, line in enumerate(plain)]
    run = inspect("--source", file(tables.listing(wrapped)))
    assert "could not be read" not in run.text
    assert run.data == inspect("--source", file(tables.listing(plain))).data


@pytest.mark.parametrize(
    "remark",
    [
        "conntrack v1.4.7 (conntrack-tools): {n} flow entries have been shown.",
        "conntrack v1.4.6 (conntrack-tools): {n} flow entries have been shown.\r",
        "conntrack v0.9.14 (conntrack-tools): {n} flow entries has been shown.",
        "gw1 | conntrack v1.4.7 (conntrack-tools): {n} flow entries have been shown.",
        "# collected on gw1",
        "",
    ],
)
@pytest.mark.parametrize("at", [0, 5, 10])
def test_remark_anywhere_in_a_listing_is_no_fault(inspect, file, remark, at):
    lines = tables.web_server()[:10]
    lines.insert(at, remark.format(n=10))
    run = inspect("--source", file(tables.listing(lines)))
    assert (run.state, run.text) == ("OK", "10 entries")


def test_few_unreadable_lines_are_counted_and_the_first_is_shown(inspect, file):
    lines = tables.web_server()
    lines.insert(7, "tcp 6 what | is this")
    lines.append("and this")
    run = inspect("--source", file(tables.listing(lines)), "-v")
    assert (run.state, run.text) == ("OK", "4000 entries; 2 lines could not be read")
    assert any("the first: tcp 6 what \\x7c is this" in line for line in run.lines)


# --- what is no table

NO_TABLES = {
    "conntrack's XML": b'<?xml version="1.0"?>\n<conntrack>\n<flow><meta>\n',
    "an HTML page": b"<!DOCTYPE html>\n<html><head><title>Login</title></head></html>\n",
    "XML": b'<?xml version="1.0"?>\n<rpc-reply></rpc-reply>\n',
    "events of conntrack -E": b"    [NEW] " + ENTRY[13:].encode() + b"\n",
    "events of conntrack -E ": b"[1796040000.123456\t] [DESTROY] " + ENTRY[13:].encode() + b"\n",
    "conntrack -o save": (
        b"-A -t 431990 -u SEEN_REPLY,ASSURED -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 "
        b"-p tcp --sport 40000 --dport 443 --state ESTABLISHED\n"
    ),
    "expectations": (
        b"297 proto=6 src=10.0.0.1 dst=10.0.0.2 sport=0 dport=2021 mask-src=255.255.255.255\n"
    ),
    "expectations (conntrack -L expect)": (
        b"300 l3proto = 2 proto=6 src=10.0.0.2 dst=10.0.0.1 sport=0 dport=39541 PERMANENT ftp\n"
    ),
    "flows of Open vSwitch": (
        b"tcp,orig=(src=10.1.1.1,dst=10.1.1.2,sport=36692,dport=80),"
        b"reply=(src=10.1.1.2,dst=10.1.1.1,sport=80,dport=36692),protoinfo=(state=ESTABLISHED)\n"
    ),
    "flows of Cilium": (
        b"TCP OUT 10.0.0.5:46852 -> 10.0.1.7:4240 expires=17612345 Packets=0 Bytes=0 RxFlagsSeen"
        b"=0x02 LastRxReport=17612335\n"
    ),
    "connections of IPVS": b"IPVS connection entries\npro expire state       source\n",
    "counters (conntrack -S)": b"cpu=0   \tfound=0 invalid=3 insert=0 insert_failed=0 drop=0\n",
    "counters (/proc/net/stat/nf_conntrack)": b"entries  clashres found new invalid ignore\n",
    "a number": b"48210\n",
    "rules of iptables": b"Chain INPUT (policy ACCEPT)\ntarget prot opt source destination\n",
    "rules of iptables ": b"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n",
    "rules of nftables": b"table inet filter {\n\tchain input {\n",
    "sockets": b"State  Recv-Q Send-Q Local Address:Port Peer Address:Port\nESTAB 0 0 1.2.3.4:22\n",
    "sockets ": b"Active Internet connections (w/o servers)\nProto Recv-Q Send-Q Local Address\n",
    "sockets  ": b"tcp        0      0 10.0.0.1:22      10.0.0.2:50000   ESTABLISHED\n",
    "sockets   ": b"tcp   ESTAB 0      0      10.0.0.1:22   10.0.0.2:50000\n",
    "packets as tcpdump": b"10:00:00.123456 IP 10.0.0.1.40000 > 10.0.0.2.443: Flags [S], seq 1\n",
    "a packet capture (pcap)": b"\xd4\xc3\xb2\xa1\x02\0\x04\0" + bytes(100),
    "a packet capture (pcapng)": b"\x0a\x0d\x0d\x0a" + bytes(100),
    "UTF-16 text": b"\xff\xfe" + (ENTRY + "\r\n").encode("utf-16-le"),
    "text with lines that end in CR alone": (ENTRY + "\r").encode() * 20,
    "UTF-16 text ": (ENTRY + "\r\n").encode("utf-16-le"),
    "xz data": b"\xfd7zXZ\0" + bytes(100),
    "zstd data": b"\x28\xb5\x2f\xfd" + bytes(100),
    "bzip2 data": b"BZh91AY&SY" + bytes(100),
    "gzip data within gzip": gzip.compress(gzip.compress(ENTRY.encode())),
    "a tar archive": b"table.txt" + bytes(248) + b"ustar" + bytes(250),
    "a tar archive ": gzip.compress(b"table.txt" + bytes(248) + b"ustar" + bytes(250)),
    "a zip archive": b"PK\x03\x04" + bytes(100),
    "sysctls": SYSCTLS.encode(),
    "a kernel log": b"[12345.6] nf_conntrack: nf_conntrack: table full, dropping packet\n",
    "an error message": b"bash: conntrack: command not found\n",
    "an error message ": b"cat: /proc/net/nf_conntrack: Permission denied\n",
    "JSON": b'{"nftables": [{"metainfo": {"version": "1.0.6"}}]}\n',
}


@pytest.mark.parametrize("what", NO_TABLES)
@pytest.mark.parametrize("times", [1, 3])
def test_file_that_is_no_table_is_refused_by_name(inspect, file, what, times):
    data = NO_TABLES[what]
    text = b"\0" not in data and not data.startswith(b"\x1f\x8b") and what[:8] != "a number"
    run = inspect("--source", file(data * times if text else data, "f"))
    assert (run.state, run.lines) == ("UNKNOWN", [])
    assert "f: not a table, but " + what.strip() in run.text
    assert COLLECT in run.text or re.search(r"\((?:unpack|convert) it.*\)$", run.text)


@pytest.mark.parametrize(
    "data",
    [bytes(range(1, 256)) * 20, b"root:x:0:0::/root:/bin/sh\n" * 50, bytes(100000), b"|;\x1b[2J"],
    ids=["noise", "passwd", "zeros", "escape"],
)
def test_file_that_is_unknown_to_the_check_is_refused_with_its_beginning(inspect, file, data):
    run = inspect("--source", file(data))
    assert run.state == "UNKNOWN"
    assert "table.txt: not a table (use conntrack " in run.text
    cut = run.text.endswith("...")
    assert [line[: len(run.text) - 3] for line in run.lines] == [run.text[:-3]] * cut


@pytest.mark.parametrize(
    "text",
    [
        "A check without privileges says: permission denied (see --sudo)\n",
        "# Errors\n\n    UNKNOWN: /proc/net/nf_conntrack: permission denied\n",
        "- command not found: install conntrack\n",
    ],
)
def test_document_that_speaks_of_errors_is_no_error_message(inspect, file, text):
    run = inspect("--source", file(text))
    assert run.state == "UNKNOWN"
    assert "an error message" not in run.text


def test_reason_of_an_unknown_has_room_beside_a_long_cause(inspect):
    run = inspect("--source", DATA / "close-wait.txt", "-c", "entries=1%")
    assert run.state == "UNKNOWN"
    assert run.text == (
        "500 entries; 80% of entries in CLOSE_WAIT, from 192.168.1.50, to 192.168.1.10 tcp/1704; "
        "entries cannot be evaluated, no value"
    )
    assert run.lines[0] == "UNKNOWN: entries cannot be evaluated, no value"
    assert run.lines[1].startswith("Leaked connections: ")


def test_unreplied_established_entries_are_no_reason_for_a_shorter_timeout(inspect):
    run = inspect("--source", DATA / "established-unreplied.txt", "-c", "entries=1")
    assert "one-way connections from 192.0.2.73 to 198.51.0.0/16, or a TCP ACK flood" in run.text
    assert "100% of entries are unreplied ESTABLISHED" in run.rest
    assert "Leave the limit as it is" in run.rest
    assert "timeout" not in run.rest


@pytest.mark.parametrize("data", [b"", b"\n\n", b"# nothing\n"])
def test_empty_file_is_unknown_in_one_line(inspect, file, data):
    run = inspect("--source", file(data))
    assert (run.state, run.lines) == ("UNKNOWN", [])
    assert run.text.endswith("table.txt: empty (the table was empty, or could not be read)")


# --- parts of a table


def test_file_with_fewer_entries_than_it_says_is_unknown(inspect, file):
    lines = [*tables.web_server()[:500], "conntrack v1.4.7: 4000 flow entries have been shown."]
    run = inspect("--source", file(tables.listing(lines)), "-v")
    assert run.state == "UNKNOWN"
    assert "table.txt: incomplete: 500 of 4000 entries" in run.rest
    assert "No diagnosis: the table was not read to its end." in run.lines


@pytest.mark.parametrize("times", [1, 5])
def test_file_that_says_within_lines_how_long_it_is_is_held_to_that(inspect, file, times):
    # What goes to standard error comes before what is left of standard output, amid a line.
    lines = tables.web_server()[:500]
    said = "conntrack v1.4.7 (conntrack-tools): 4000 flow entries have been shown."
    for at in range(times):
        lines[at] = f"{lines[at]} {said}"
    run = inspect("--source", file(tables.listing(lines)), "-v")
    assert run.state == "UNKNOWN"
    assert f" of {4000 * times} entries" in run.rest


def test_file_with_two_listings_has_the_entries_of_both(inspect, file):
    one = [*tables.web_server()[:5], "conntrack v1.4.7: 5 flow entries have been shown."]
    run = inspect("--source", file(tables.listing(one * 2)))
    assert (run.state, run.text) == ("OK", "10 entries")


def test_file_that_ends_within_an_entry_is_unknown(inspect, file):
    run = inspect("--source", file(tables.listing(tables.web_server())[:-100]))
    assert run.state == "UNKNOWN"
    assert "ends within a line, after 3999 entries" in run.rest


def test_file_that_ends_after_a_word_of_an_entry_is_unknown(inspect, file):
    whole = tables.listing(tables.web_server())
    run = inspect("--source", file(whole[: whole.rindex(b" mark=")]))
    assert run.state == "UNKNOWN"
    assert "ends within a line" in run.rest
    assert inspect("--source", file(whole[:-1])).state == "OK", "pasted without its newline"


@pytest.mark.parametrize(
    "mark",
    [
        "^C",
        "Killed",
        "Terminated",
        "--More--",
        "timeout: sending signal TERM to command 'conntrack'",
        "Connection to gw1 closed by remote host.",
        "client_loop: send disconnect: Broken pipe",
        "Read from remote host gw1: Connection reset by peer",
        "Timeout, server gw1 not responding.",
        "command terminated with exit code 137",
    ],
)
def test_file_of_a_listing_that_was_ended_is_unknown(inspect, file, mark):
    run = inspect("--source", file(tables.listing([*tables.web_server()[:500], mark])))
    assert run.state == "UNKNOWN"
    assert "after 500 entries" in run.rest


def test_file_that_ends_in_a_shell_prompt_is_read_to_its_end(inspect, file):
    run = inspect("--source", file(tables.listing(tables.web_server()) + b"root@gw1:~# "))
    assert (run.state, run.text) == ("OK", "4000 entries; 1 line could not be read")


def test_file_with_the_failure_of_conntrack_is_unknown(inspect, file):
    said = "conntrack v1.4.7 (conntrack-tools): Operation failed: No buffer space available"
    run = inspect("--source", file(tables.listing([*tables.web_server()[:5], said])))
    assert run.state == "UNKNOWN"
    assert "conntrack(8) failed after 5 entries: Operation failed: No buffer space" in run.rest
    alone = inspect("--source", file(tables.listing([said])))
    assert alone.state == "UNKNOWN"
    assert "conntrack(8) failed after 0 entries: Operation" in alone.text


# --- limits and timeouts of the host that a file came from


def test_timeouts_file_gives_usage_and_thresholds(inspect, file):
    table = file(tables.listing(tables.nat_gateway()))
    run = inspect("--source", table, "--timeouts", file(SYSCTLS, "sysctls"))
    assert run.state == "WARNING"
    assert run.text.startswith("4000 of 4500 entries in use (88.9%)")
    assert run.data["usage"].value == 88.9
    assert "nf_conntrack_max=8192" in run.rest


def test_count_that_is_below_the_entries_is_of_another_table(inspect, file):
    table = file(tables.listing(tables.nat_gateway()))
    run = inspect("--source", table, "--timeouts", file(SYSCTLS.replace("4000", "7"), "sysctls"))
    assert run.text.startswith("4000 of 4500 entries in use (88.9%)")


def test_file_far_below_the_count_of_its_host_is_incomplete(inspect, file):
    table = file(tables.listing(tables.nat_gateway()[:1000]))
    run = inspect("--source", table, "--timeouts", file(SYSCTLS, "sysctls"), "-v")
    assert run.state == "UNKNOWN"
    assert "incomplete: 1000 entries, nf_conntrack_count was 4000" in run.rest
    assert "No diagnosis: the table was not read to its end." in run.lines


def test_share_of_a_limit_that_is_not_known_is_unknown(inspect, file):
    table = file(tables.listing(tables.nat_gateway()))
    run = inspect("--source", table, "-c", "entries=80%")
    assert run.state == "UNKNOWN"
    assert "entries cannot be evaluated" in run.text
    known = ("--timeouts", file(SYSCTLS, "sysctls"))
    assert inspect("--source", table, "-c", "entries=80%", *known).state == "CRITICAL"


@pytest.mark.parametrize(
    "text",
    [
        SYSCTLS,
        "nf_conntrack_tcp_timeout_established=86400\n",
        "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established:86400\n",
        "net.ipv4.netfilter.ip_conntrack_tcp_timeout_established = 86400\n",
    ],
    ids=["sysctl -a", "names alone", "grep", "an old kernel"],
)
def test_timeouts_file_tells_what_is_idle(inspect, file, text):
    table = file(tables.listing(tables.idle()))
    # The same remaining times are idle by five days, and were just renewed by one.
    assert "idle for hours" in inspect("--source", table).text
    lines = [line.replace(" 431", " 86") for line in tables.idle()]
    shown = inspect("--source", file(tables.listing(lines)), "--timeouts", file(text, "t"))
    assert "ESTABLISHED" not in shown.text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("kernel.pid_max = 4194304\n", "no conntrack settings found"),
        (gzip.compress(SYSCTLS.encode(), mtime=0)[:40], "cut short"),
        (None, "not found"),
    ],
    ids=["others", "damaged", "missing"],
)
def test_timeouts_file_that_says_nothing_is_unknown(inspect, file, tmp_path, text, why):
    path = tmp_path / "none" if text is None else file(text, "t")
    run = inspect("--source", file(tables.listing(tables.idle())), "--timeouts", path)
    assert run.state == "UNKNOWN"
    assert why in run.text


def test_timeouts_go_with_a_file(inspect, file):
    run = inspect("--timeouts", file(SYSCTLS, "t"))
    assert run.state == "UNKNOWN"
    assert "--timeouts: needs a table from a file" in run.text


@pytest.fixture
def snapshot(reader, sysctls, inspect, tmp_path):
    """A snapshot of 95 entries of 100, unpacked."""
    sysctls.holds(95, 100, 512)
    batch = b"".join(
        flows_dump.entry(bytes((10, 0, 0, n)), state=3, timeout=431000) for n in range(95)
    )
    reader.hands_out("table", batch, flows_dump.done())
    inspect("--save", tmp_path)
    (path,) = tmp_path.glob("conntrack-*")
    return gzip.decompress(path.read_bytes())


def test_snapshot_has_usage_and_thresholds_anywhere(inspect, file, snapshot):
    run = inspect("--source", file(gzip.compress(snapshot), "kept.gz"), "-v")
    assert run.state == "CRITICAL"
    assert run.text.startswith("95 of 100 entries in use (95.0%)")


def test_snapshot_without_its_last_line_is_unknown(inspect, file, snapshot):
    run = inspect("--source", file(snapshot[: snapshot.rindex(b"#")]))
    assert run.state == "CRITICAL"
    assert "the last line of the snapshot is missing, after 95 entries" in run.rest


def test_snapshot_with_an_entry_removed_is_incomplete(inspect, file, snapshot):
    lines = snapshot.splitlines(keepends=True)
    run = inspect("--source", file(b"".join(lines[:10] + lines[11:])))
    assert "incomplete: 94 of 95 entries" in run.rest


@pytest.mark.parametrize(
    "header",
    [
        b"# check-conntrack table count=-5 max=x buckets=99999999999999 namespace=" + b"x" * 500,
        b"# check-conntrack table " + b"=" * 300,
        b"# check-conntrack table max=0 count=5",
    ],
)
def test_malformed_header_of_a_snapshot_is_passed_over(inspect, file, header):
    data = header + b"\n" + tables.listing(tables.web_server())
    run = inspect("--source", file(data + b"# check-conntrack end entries=4000\n"))
    assert run.state == "OK"
    assert run.data["entries"].value == 4000


# --- files that cannot be read


@pytest.mark.parametrize(
    ("path", "why"),
    [("missing", "not found"), (".", "not a file"), ("fifo", "not a file")],
)
def test_path_that_is_no_file_is_refused_without_waiting(inspect, tmp_path, path, why):
    import os

    os.mkfifo(tmp_path / "fifo")
    run = inspect("--source", tmp_path / path)
    assert run.state == "UNKNOWN"
    assert why in run.text


def test_gzip_is_unpacked(inspect, file):
    packed = file(gzip.compress(tables.listing(tables.web_server())))
    assert inspect("--source", packed).data["entries"].value == 4000


def test_gzip_that_is_damaged_gives_what_came_before_and_is_unknown(inspect, file):
    data = gzip.compress(tables.listing(tables.nat_gateway()))
    run = inspect("--source", file(data[: len(data) // 2], "cut.gz"))
    assert run.state == "UNKNOWN"
    assert 100 < run.data["entries"].value < 4000
    assert "cut.gz: the file is cut short, after " in run.rest
    damaged = bytearray(data)
    damaged[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    assert inspect("--source", file(bytes(damaged))).state == "UNKNOWN"
