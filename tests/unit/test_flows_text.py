from __future__ import annotations

import io
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from check_conntrack.flows import netlink, tally, text, text_columns, text_line, text_writer
from check_conntrack.flows.entry import state_name
from check_conntrack.kernel import ctnetlink as ct
from support import flows_dump as dump
from support.flows_dump import everything

EXTENDED = (
    "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=192.0.2.9 sport=40000 dport=443 "
    "packets=5 bytes=600 src=192.0.2.9 dst=203.0.113.1 sport=443 dport=2000 packets=4 bytes=500 "
    "[ASSURED] mark=7 secctx=system_u zone=3 delta-time=12 use=2"
)
PLAIN = (
    "udp      17 29 src=10.0.0.1 dst=192.0.2.9 sport=40000 dport=53 [UNREPLIED] src=192.0.2.9 "
    "dst=10.0.0.1 sport=53 dport=40000 mark=0 use=1 id=123"
)
PROC_GRE = (
    "ipv4     2 gre      47 170 timeout=30, stream_timeout=180 src=10.0.0.1 dst=192.0.2.9 "
    "srckey=0x1f dstkey=0x2 src=192.0.2.9 dst=10.0.0.1 srckey=0x2 dstkey=0x1f [ASSURED] "
    "mark=0 zone=0 use=2"
)
STAMPED = (
    "icmpv6   58 12 src=2001:db8::1 dst=2001:db8::2 type=128 code=0 id=7 src=2001:db8::2 "
    "dst=2001:db8::1 type=129 code=0 id=7 mark=0 use=1 id=99 "
    "[start=Sat Nov 21 20:30:50 2026] delta-time=5"
)
OFFLOADED = (
    "ipv6     10 tcp      6 src=2001:0db8:0000:0000:0000:0000:0000:0001 "
    "dst=2001:0db8:0000:0000:0000:0000:0000:0002 sport=1 dport=2 "
    "src=2001:0db8:0000:0000:0000:0000:0000:0002 "
    "dst=2001:0db8:0000:0000:0000:0000:0000:0001 sport=2 dport=1 [HW_OFFLOAD] mark=0 use=3"
)
FORMS = [EXTENDED, PLAIN, PROC_GRE, STAMPED, OFFLOADED]


def counted(content: bytes) -> tally.Tally:
    one = tally.Tally()
    text.count(io.BytesIO(content), one)
    return one


def slowly(content: bytes) -> tally.Tally:
    one = tally.Tally()
    for entry in text.entries(io.BytesIO(content), one):
        one.add(entry)
    return one


def test_line_has_every_field():
    entry = text_line.parse(EXTENDED)
    assert entry.original[:5] == (bytes((10, 0, 0, 1)), bytes((192, 0, 2, 9)), 6, 40000, 443)
    assert entry.reply[1] == bytes((203, 0, 113, 1))
    assert (state_name(6, entry.state), entry.timeout, entry.zone) == ("ESTABLISHED", 431999, 3)
    assert (entry.mark, entry.use, entry.secctx) == (7, 2, "system_u")
    assert entry.original_counters == (5, 600)
    assert entry.reply_counters == (4, 500)
    assert entry.status & ct.IPS_ASSURED
    assert entry.source_translated
    assert not entry.unreplied


def test_other_forms_of_a_line_are_read():
    udp, gre, icmp, offloaded = map(text_line.parse, FORMS[1:])
    assert udp.unreplied
    assert (gre.original.source_port, gre.original.destination_port) == (31, 2)
    assert gre.timeout == 170
    assert (icmp.original.icmp_id, icmp.original.icmp_type) == (7, 128)
    assert icmp.family == 6
    assert offloaded.status & ct.IPS_HW_OFFLOAD
    assert (offloaded.timeout, offloaded.state) == (None, None)


@pytest.mark.parametrize("line", FORMS)
def test_line_behind_what_a_container_log_puts_before_it_is_read(line):
    content = f"2026-11-21T20:30:50.1Z stdout F {line}\n".encode()
    assert (counted(content).read, counted(content).bad_lines) == (1, 0)


def test_written_line_reads_back():
    line = EXTENDED.replace(" delta-time=12", "")
    assert text_writer.line_of(text_line.parse(line)) == line
    entry = netlink.entry_at(dump.entry(*dump.V6, 58, 7, None, timeout=12))
    assert text_line.parse(text_writer.line_of(entry)).original == entry.original


@pytest.mark.parametrize("line", FORMS)
def test_columns_agree_with_lines_and_need_no_slow_path(line, monkeypatch):
    content = "".join(
        line.replace("=10.0.0.1", f"=10.0.{n}.1").replace("=40000", f"={40000 - n % 7}") + "\n"
        for n in range(50)
    ).encode()
    slow = slowly(content)
    monkeypatch.setattr(text_columns.LineCounter, "one", None)
    fast = counted(content)
    assert (fast.read, fast.bad_lines) == (50, 0)
    assert everything(fast) == everything(slow)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(FORMS),
            st.lists(
                st.tuples(
                    st.sampled_from(
                        [
                            *("40000", "10.0.0.1", "192.0.2.9", "::1", "[ASSURED]", "443", "src="),
                            *("ES", "431999", "zone=3", "sport=", "=443", " 2 ", " 6 ", "TIME_"),
                            *("0x", "[HW_OFFLOAD]", "0x1f", "use=", "mark=0", "ESTABLISHED"),
                        ]
                    ),
                    st.sampled_from(
                        [
                            *("4294967295", "4294967296", "1", "10.0.0.2", "99999", "", "x"),
                            *("300.1.1.1", " ", "::3", "9" * 5000, "s1rc=", "sr7c=", "|", "="),
                            *("[ASS9URED]", "1x", "0x1ffff", "-5", "LISTEN", "[A b/c3]", "sw4an"),
                            *("attrs= x=", "\r", "[DYING] ", "x: ", "[NEW] "),
                        ]
                    ),
                ),
                max_size=2,
            ),
            st.integers(1, 6),
        ),
        max_size=8,
    )
)
@settings(max_examples=60)
def test_columns_agree_with_lines_on_any_fault(described):
    lines = []
    for whole, changes, times in described:
        line = whole
        for old, new in changes:
            line = line.replace(old, new, 1)
        lines += [line] * times
    content = "\n".join(lines).encode()
    fast, slow = counted(content), slowly(content)
    assert (fast.bad_lines, everything(fast)) == (slow.bad_lines, everything(slow))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("431999", "9" * 5000),
        ("431999", "4294967296"),
        ("zone=3", "zone=99999"),
        (" src=10", " s7rc=10"),
        (" src=10", " src7=10"),
        # As many numbers as the others have, at other places.
        ("431999 ESTABLISHED src=", " ESTABLISHED s7rc="),
        ("sport=40000", "sport="),
        ("ESTABLISHED", "ESTABLISHED |"),
        ("dport=443 packets", "dp7ort= packets"),
    ],
)
def test_bad_line_among_lines_of_its_skeleton_is_bad(old, new):
    lines = [EXTENDED] * 5 + [EXTENDED.replace(old, new, 1)] + [EXTENDED] * 5
    content = "\n".join(lines).encode()
    fast, slow = counted(content), slowly(content)
    assert (fast.read, fast.bad_lines) == (10, 1)
    assert everything(fast) == everything(slow)


@pytest.mark.parametrize(
    ("line", "old", "new"),
    [
        (EXTENDED, "431999 ESTABLISHED", " ESTAB7LISHED"),
        (EXTENDED, "431999 ESTABLISHED", "-3 ESTABLISHED"),
        (EXTENDED, "ESTABLISHED", "ESTAB7LISHED"),
        (EXTENDED, "ESTABLISHED", "3"),
        (EXTENDED, "[ASSURED]", "[ASS7URED]"),
        (EXTENDED, "[ASSURED]", "[RTCACHE o33/r37] [ASSURED] [DYING]"),
        (EXTENDED, "mark=7", "mark=7 nomac sw7an attrs= ifw=3 mac=00:00:5e:00:53:01"),
        (EXTENDED, "use=2", "use=2\r"),
    ],
)
def test_unknown_word_among_lines_of_its_skeleton_is_passed_over(line, old, new):
    lines = [line] * 5 + [line.replace(old, new, 1)] * 5 + [line] * 5
    content = "\n".join(lines).encode()
    fast, slow = counted(content), slowly(content)
    assert (fast.read, fast.bad_lines) == (15, 0)
    assert everything(fast) == everything(slow)


@pytest.mark.parametrize(
    ("line", "old", "new"),
    [
        (OFFLOADED, "[HW_OFFLOAD]", "[HW_9OFFLOAD]"),
        (STAMPED, "icmpv6", "icm5pv6"),
        (PROC_GRE, "srckey=0x1f", "srckey=1x1f"),
        (PROC_GRE, "[ASSURED]", "[ASS9URED]"),
        (OFFLOADED, "sport=1", "sport=0x1ffff"),
    ],
)
def test_bad_line_among_hexadecimal_lines_is_bad(line, old, new):
    lines = [line] * 5 + [line.replace(old, new, 1)] + [line] * 5
    content = "\n".join(lines).encode()
    fast, slow = counted(content), slowly(content)
    assert (fast.read, fast.bad_lines) == (slow.read, slow.bad_lines)
    assert everything(fast) == everything(slow)


@given(st.binary(max_size=2000))
def test_any_bytes_are_counted_as_bad_lines(content):
    one = counted(content)
    assert one.read == 0


def test_bad_lines_are_counted_and_the_first_is_kept():
    content = f"{PLAIN}\nnonsense\n{PLAIN}\n\x1b[31mmore\n".encode()
    one = counted(content)
    assert (one.read, one.bad_lines, one.first_bad_line) == (2, 2, "nonsense")


def test_remarks_are_not_counted():
    content = f"# saved\n\n{PLAIN}\nconntrack v1.4.7: 1 flow entries have been shown.\n".encode()
    one = counted(content)
    assert (one.read, one.bad_lines) == (1, 0)


def test_text_does_not_know_expected_flows():
    assert counted(PLAIN.encode()).figures().expected is None


@pytest.mark.parametrize(
    ("place", "word", "directed"),
    [("use=", "zone=9", 0), ("[UNREPLIED]", "zone-orig=9", 5), ("mark=", "zone-reply=9", 0)],
)
def test_columns_count_zones_of_either_direction(place, word, directed):
    line = PLAIN.replace(place, f"{word} {place}")
    content = "\n".join([line, line.replace("=9 ", "=0 "), *[line] * 4]).encode()
    one = counted(content)
    assert everything(one) == everything(slowly(content))
    assert one.zones == {9: 5}
    assert one.original_zones == directed


def test_text_filter_is_applied():
    one = tally.Tally(match=text_match())
    text.count(io.BytesIO("\n".join(FORMS).encode()), one)
    assert (one.read, one.kept) == (5, 1)


def text_match():
    from check_conntrack.flows import match

    return match.parse(["203.0.113.0/24"])


class Endless(io.RawIOBase):
    """A line of many megabytes, then an entry."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.tail = f"\n{PLAIN}\n".encode()

    def read(self, size: int = -1) -> bytes:
        if self.left:
            now = min(size, self.left)
            self.left -= now
            return b"x" * now
        data, self.tail = self.tail, b""
        return data


def test_long_line_needs_little_memory():
    one = tally.Tally()
    tracemalloc.start()
    text.count(Endless(100 << 20), one)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
    assert (one.read, one.bad_lines) == (1, 1)
    assert len(one.first_bad_line) <= text.KEPT_OF_LINE
