"""The search through a byte stream: edges of blocks, junk, encodings, samples."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel.log import scanner
from check_conntrack.kernel.log.events import count_events
from check_conntrack.kernel.log.messages import Kind
from check_conntrack.kernel.log.scanner import LONGEST_LINE, Scanner
from support.logs import NINE, NOW, OTHER, TEXT, count, full, never

DATA = Path(__file__).parent.parent / "data" / "log"


@pytest.fixture(autouse=True)
def _utc(utc):
    pass


class Bytes:
    """A stream of bytes in memory, so many a read."""

    def __init__(self, data, size=1 << 20):
        self.data = data
        self.size = size

    def readinto(self, view):
        piece = self.data[: min(len(view), self.size)]
        view[: len(piece)] = piece
        self.data = self.data[len(piece) :]
        return len(piece)


def scan(*parts, size=1 << 20, stop=never):
    scanned = Scanner("kern.log", "kern.log", NOW)
    scanned.run(Bytes(b"".join(parts), size), stop)
    return scanned


def every(scanned):
    return [*scanned.events, *scanned.pending]


# --- what is found


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("linux-2.4.log", (12, 318, 0)),
        ("linux-2.6.log", (3, 1258, 0)),
        ("linux-4.log", (5, 1871, 2)),
        ("linux-6.log", (2, 5988, 0)),
        ("quoted.log", (0, 0, 0)),
    ],
)
def test_scanner_counts_the_logs_of_old_and_new_kernels(name, figures):
    scanned = scan((DATA / name).read_bytes())
    counts = count_events(scanned.events)
    assert (counts.table_full, counts.suppressed, counts.other_loss) == figures
    assert scanned.complete
    assert scanned.kernel_lines


def test_event_bears_file_time_host_and_stamp():
    [event] = scan(full(2)).events
    assert (event.kind, event.source, event.family, event.host, event.monotonic, event.time) == (
        Kind.TABLE_FULL,
        "kern.log",
        "kern.log",
        "gw",
        2_000_000,
        NINE + 2,
    )


def test_line_with_two_needles_is_one_event():
    line = b"message repeated 2 times: [ nf_conntrack: 5 callbacks suppressed]\n"
    assert len(scan(b"Nov 21 20:00:00 gw kernel: " + line + full()).events) == 2


@pytest.mark.parametrize("size", [1, 20, 300])
def test_events_at_the_edges_of_blocks_are_found_once(monkeypatch, size):
    monkeypatch.setattr(scanner, "BLOCK", 100 + size)
    scanned = scan(*(full(n) + OTHER * (n % 3) for n in range(200)))
    assert [event.monotonic for event in scanned.events] == [n * 1_000_000 for n in range(200)]


@pytest.mark.parametrize("size", [1, 20, 70])
def test_repetition_beyond_the_edge_of_a_block_belongs_to_its_event(monkeypatch, size):
    monkeypatch.setattr(scanner, "BLOCK", 100 + size)
    repeated = b"Nov 21 21:30:00 gw last message repeated 3 times\n"
    assert count(scan((full(1) + repeated * 2) * 20, OTHER, repeated).events) == 20 * 7


EXPORT = (
    b"__REALTIME_TIMESTAMP=%d000000\n_TRANSPORT=kernel\n_HOSTNAME=gw\nSYSLOG_FACILITY=0\n"
    b"_SOURCE_MONOTONIC_TIMESTAMP=%d000000\nMESSAGE=" + TEXT.encode() + b"\n\n"
)


@pytest.mark.parametrize("size", [300, 1000, 1 << 18])
def test_entry_of_several_lines_at_the_edge_of_a_block_keeps_its_fields(monkeypatch, size):
    monkeypatch.setattr(scanner, "BLOCK", size)
    found = every(scan(*(EXPORT % (NINE + n, n) for n in range(50))))
    assert [(event.time, event.host) for event in found] == [(NINE + n, "gw") for n in range(50)]


def test_memmem_finds_what_pythons_search_finds():
    buffer = bytearray(b"conntrack\0xx conntrackconntrack\nconntrac")
    fast = scanner._fast_find(buffer)
    for begin in range(len(buffer)):
        for end in range(begin, len(buffer) + 1):
            assert fast(b"conntrack", begin, end) == buffer.find(b"conntrack", begin, end)


def test_large_stream_is_searched_like_a_small_one(monkeypatch):
    monkeypatch.setattr(scanner, "LARGE", 1000)
    monkeypatch.setattr(scanner, "BLOCK", 5000)
    assert count(scan(*(full(n) + OTHER * 20 for n in range(200))).events) == 200


def test_search_without_memmem_uses_pythons(monkeypatch):
    import ctypes

    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert scanner._fast_find(bytearray(b"xconntrack"))(b"conntrack", 0, 10) == 1


def test_stream_of_nothing_but_events_is_folded_and_counted(monkeypatch):
    monkeypatch.setattr(scanner, "MOST_EVENTS", 100)
    scanned = scan(*(full(n % 3600) for n in range(4000)))
    assert count(scanned.events) == 4000
    assert len(scanned.events) < 2000


def test_stopped_scan_says_so(monkeypatch):
    monkeypatch.setattr(scanner, "BLOCK", 1000)
    asked = iter(range(1000))
    scanned = scan(*(full(n) for n in range(100)), stop=lambda: next(asked) >= 3)
    assert (scanned.complete, scanned.timed_out) == (False, True)
    assert 0 < count(scanned.events) < 100


# --- junk


def test_line_cut_at_its_beginning_or_within_the_message_is_no_event():
    scanned = scan(full()[:50], b"\n", OTHER)
    assert scanned.events == []


def test_last_line_without_an_end_is_pending():
    scanned = scan(full(1), full(2)[:-1])
    assert (count(scanned.events), count(scanned.pending)) == (1, 1)
    assert scanned.held == len(full(2)) - 1


def test_binary_junk_hides_no_event():
    noise = bytes(range(256)) * 50
    scanned = scan(noise, b"\n", full(1), b"\xff\xfe\n", noise, b"\n", full(2))
    assert count(scanned.events) == 2


@pytest.mark.parametrize("length", [1, 500, 5000, LONGEST_LINE, 1_000_000])
def test_nul_bytes_before_a_line_hide_no_event(length):
    for place in (b"", OTHER, OTHER[:30]):
        scanned = scan(full(1), place, b"\0" * length, full(2), b"\0" * length, full(3))
        assert [event.monotonic for event in scanned.events] == [1_000_000, 2_000_000, 3_000_000]


@pytest.mark.parametrize("end", [b"\r\n", b"\n\r", b"\r\r\n", b"\0\n", b" \r\n"])
def test_line_ends_of_other_systems_hide_no_event(end):
    scanned = scan(*(line[:-1] + end for line in (full(1), OTHER, full(2))))
    assert [event.time for event in every(scanned)] == [NINE + 1, NINE + 2]


def test_text_overwritten_on_a_terminal_hides_no_event():
    assert count(scan(b"Starting up... 50%\r", full(1)).events) == 1


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_byte_order_mark_before_the_first_line_hides_no_event(mark):
    scanned = scan(mark + full(1))
    assert [event.time for event in scanned.events] == [NINE + 1]
    assert scanned.first == NINE + 1


def test_overlong_line_costs_no_memory_and_hides_no_event():
    data = full(1) + b"x conntrack " * 500_000 + b"\n" + full(2)
    tracemalloc.start()
    scanned = scan(data, size=1 << 18)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count(scanned.events) == 2
    assert peak < len(data) * 2 + (2 << 20)


def test_message_at_the_end_of_an_overlong_line_is_no_message():
    scanned = scan(b"x" * 2 * LONGEST_LINE + full(1), full(2))
    assert [event.monotonic for event in scanned.events] == [2_000_000]


def test_end_within_an_overlong_line_is_remembered():
    scanned = scan(full(1), b"x" * 2 * LONGEST_LINE)
    assert (scanned.midline, scanned.held) == (True, 0)
    later = Scanner("kern.log", "kern.log", NOW)
    later.midline = True
    later.run(Bytes(full(2) + full(3)), never)
    assert [event.monotonic for event in later.events] == [3_000_000]


@pytest.mark.parametrize("comma", [b",", b", "])
@pytest.mark.parametrize("after", [b"", b"\n", b"\n" + full(7)])
def test_json_array_of_any_length_on_one_line_is_counted(comma, after):
    entry = b'{"time":"2026-11-21T21:%02d:%02d+00:00","ident":"kernel","message":"' + TEXT.encode()
    entries = [entry % (n // 60, n % 60) + b'","pad":"' + b"x" * 200 + b'"}' for n in range(3000)]
    found = every(scan(full(1), b"[", comma.join(entries), b"]", after))
    assert len(found) == 3001 + (after == b"\n" + full(7))
    assert {event.time for event in found} >= {NINE + n for n in range(3000)}


@given(st.binary(max_size=3000), st.integers(0, 1), st.sampled_from([1, 7, 4096]))
def test_any_bytes_around_a_line_do_not_hide_it(data, end, size):
    scanned = scan(b"x" + data + b"\n" + full(7) + data * end, size=size)
    assert any(event.monotonic == 7_000_000 for event in every(scanned))


# --- samples


def test_log_without_lines_of_the_kernel_says_so():
    other = b"Nov 21 20:00:00 gw sshd[1]: session opened\n" * 100
    assert not scan(other).kernel_lines
    assert scan(other + OTHER).kernel_lines
    assert scan(b"[    1.000000] eth0: link up\n").kernel_lines


@pytest.mark.parametrize(
    "line",
    [
        b"<6>1 2026-11-21T20:00:00.000000+00:00 gw kernel - - -  eth0: link up\n",
        b"Nov 21 20:00:00 gw kernel eth0: link up\n",
        b"2026-11-21T20:00:00.000000+00:00 gw kernel [    1.000000] eth0: link up\n",
    ],
)
def test_log_of_a_central_host_shows_lines_of_the_kernel(line):
    before = b"Nov 21 20:00:00 gw sshd[1]: session opened\n" * 100
    assert scan(before, line).kernel_lines
    assert scan(before, line[:-1]).kernel_lines


@pytest.mark.parametrize(
    "line",
    [
        b"Nov 21 20:00:00 gw sshd[1]: the kernel eth0: link up\n",
        b"<6>1 2026-11-21T20:00:00Z gw app - - - kernel eth0: link up\n",
    ],
)
def test_log_that_mentions_the_kernel_shows_no_line_of_its_own(line):
    assert not scan(line * 100).kernel_lines


def test_hosts_are_those_of_the_kernels_lines_also_in_a_quiet_log():
    host = OTHER.replace(b" gw ", b" Router7.example.net ")
    program = b"Nov 21 20:00:00 mail sshd[1]: session opened\n"
    assert list(scan(host, program * 50, OTHER).hosts) == ["router7", "gw"]


def test_hosts_are_bounded():
    lines = [full(n, f"host{n}") for n in range(100)]
    assert len(scan(*lines).hosts) == scanner.MOST_HOSTS


def test_first_and_last_date_are_found_beside_undated_lines():
    scanned = scan(b"cut off\n" * 3, full(5), OTHER * 5000, full(9), b"\n\ngarbage\n")
    assert (scanned.first, scanned.last) == (NINE + 5, NINE + 9)
    assert scan(b"[    1.000000] eth0: link up\n" * 500).first is None


def test_last_date_may_be_that_of_a_line_without_an_end():
    assert scan(full(5), full(9)[:-3]).last == NINE + 9
