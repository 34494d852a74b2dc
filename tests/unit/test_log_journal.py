"""What journalctl prints, and does not."""

from __future__ import annotations

import json
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel import reasons
from check_conntrack.kernel.log import journal as jn
from check_conntrack.kernel.log.messages import Kind
from support.processes import gone

TEXT = "nf_conntrack: nf_conntrack: table full in netns 4026532177, dropping packet"
BOOT = "4be5d5d14ce0437c8f439ae750895973"
COMMAND = ["journalctl", "--fake"]


def entry(text=TEXT, **more):
    fields = {
        "__REALTIME_TIMESTAMP": "1795294806340443",
        "__MONOTONIC_TIMESTAMP": "2616712047",
        "_SOURCE_MONOTONIC_TIMESTAMP": "2616710822",
        "_BOOT_ID": BOOT,
        "SYSLOG_FACILITY": "0",
        "MESSAGE": text,
        **more,
    }
    return json.dumps({name: value for name, value in fields.items() if value != ""}).encode()


def never():
    return False


def test_the_arguments_ask_for_the_kernel_in_all_boots_without_a_shell():
    arguments = jn.journal_arguments(1795294806.9)
    assert arguments[0] == "journalctl"
    assert {"--no-pager", "--output=json", "--boot=all", "_TRANSPORT=kernel"} <= set(arguments)
    assert "--since=@1795294806" in arguments
    assert "-k" not in arguments


def test_the_arguments_for_this_boot_and_for_a_probe():
    assert "--boot=0" in jn.journal_arguments(boot=True)
    assert "--lines=1" in jn.journal_arguments(newest=1)
    assert not [word for word in jn.journal_arguments() if word.startswith("--since")]
    assert {"--until=@900", "--reverse", "--lines=1"} <= set(
        jn.journal_arguments(until=900.5, newest=1)
    )


def test_an_entry_is_as_old_as_the_kernels_stamp_says_and_not_as_its_reception():
    found = jn.parse_entry(
        entry(__MONOTONIC_TIMESTAMP="2616710822", _SOURCE_MONOTONIC_TIMESTAMP="616710822")
    )
    assert found.time == pytest.approx(1795294806.340443 - 2000)
    assert found.monotonic == 616710822


def test_an_entry_without_the_kernels_stamp_is_as_old_as_its_reception():
    found = jn.parse_entry(entry(_SOURCE_MONOTONIC_TIMESTAMP=""))
    assert found.time == pytest.approx(1795294806.340443)
    assert found.monotonic is None


def test_an_entry_becomes_an_event():
    event = jn.entry_event(jn.parse_entry(entry()))
    assert event.kind is Kind.TABLE_FULL
    assert (event.netns, event.boot, event.source) == (4026532177, BOOT, "journal")
    assert event.monotonic == 2616710822


@pytest.mark.parametrize(
    "fields",
    [
        {"SYSLOG_FACILITY": "1"},
        {"SYSLOG_FACILITY": None},
        {"MESSAGE": None},
        {"MESSAGE": [110, 102]},
        {"MESSAGE": "x " + TEXT},
    ],
)
def test_what_a_program_wrote_or_is_no_text_is_no_event(fields):
    assert jn.entry_event(jn.parse_entry(entry(**fields))) is None


@pytest.mark.parametrize(
    "line",
    [b"", b"x", b"[]", b"1", b"{}", b"{", b'{"__REALTIME_TIMESTAMP": 5}', b"[" * 100000, b"\xff"],
)
def test_what_is_no_entry_is_a_value_error(line):
    with pytest.raises(ValueError, match=r"."):
        jn.parse_entry(line)


@given(st.binary())
def test_any_bytes_are_an_entry_or_a_value_error(line):
    try:
        jn.parse_entry(line)
    except ValueError:
        return


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "__REALTIME_TIMESTAMP",
                "__MONOTONIC_TIMESTAMP",
                "_SOURCE_MONOTONIC_TIMESTAMP",
                "_BOOT_ID",
                "SYSLOG_FACILITY",
                "MESSAGE",
            ]
        ),
        st.one_of(
            st.none(),
            st.integers(),
            st.text(),
            st.sampled_from(["1", "0"]),
            st.lists(st.integers()),
        ),
    )
)
def test_any_values_are_an_entry_or_a_value_error(fields):
    try:
        jn.entry_event(jn.parse_entry(json.dumps(fields).encode()))
    except ValueError:
        return


def fake(fp, out=(), **more):
    fp.register(COMMAND, stdout=b"\n".join(out) + b"\n" if out else b"", **more)
    return jn.read_journal(COMMAND, never)


def test_events_are_found_among_other_entries(fp):
    found = fake(fp, [entry("first"), entry("other"), entry(), entry(SYSLOG_FACILITY="1")])
    assert len(found.events) == 1
    assert (found.entries, found.malformed, found.status, found.complete) == (4, 0, 0, True)
    assert found.oldest == pytest.approx(1795294806.34, abs=0.01)
    assert jn.journal_problem(found, probed=False) is None


def test_output_that_is_no_json_is_said(fp):
    found = fake(fp, [b"Nov 21 21:59:00 gw kernel: " + TEXT.encode()])
    assert found.malformed == 1
    assert jn.journal_problem(found, probed=False).reason == reasons.JOURNALCTL_TOO_OLD


def test_a_damaged_line_does_not_cost_the_others(fp):
    found = fake(fp, [entry("first"), entry()[:-9], entry()])
    assert (len(found.events), found.malformed) == (1, 1)
    assert jn.journal_problem(found, probed=False) is None


def test_a_failing_journalctl_is_said_with_its_words(fp):
    found = fake(fp, returncode=1, stderr=b"Failed to open /x|y: \x1b[31mInput/output error\n")
    problem = jn.journal_problem(found, probed=False)
    assert problem.reason == reasons.JOURNALCTL_FAILED
    assert "status 1" in problem.detail
    assert "Input/output error" in problem.detail
    assert "|" not in problem.detail
    assert "\x1b" not in problem.detail


def test_no_entry_in_a_window_is_quiet_and_none_at_all_is_unreadable(fp):
    found = fake(fp)
    assert jn.journal_problem(found, probed=False) is None
    assert jn.journal_problem(found, probed=True).reason == reasons.NO_KERNEL_LINES


@pytest.mark.parametrize(
    "said",
    [
        b"Hint: You are currently not seeing messages from other users and the system.\n",
        b"No journal files were opened due to insufficient permissions.\n",
        b"No journal files were found.\n",
    ],
)
def test_a_journal_without_the_right_is_unreadable_though_it_ends_well(fp, said):
    found = fake(fp, stderr=said)
    assert jn.journal_problem(found, probed=False).reason in (
        reasons.JOURNAL_DENIED,
        reasons.JOURNAL_NOT_FOUND,
    )


def test_a_hint_beside_entries_is_only_a_hint(fp):
    found = fake(fp, [entry()], stderr=b"Hint: You are currently not seeing messages ...\n")
    assert jn.journal_problem(found, probed=False) is None


def test_a_missing_journalctl_is_said():
    found = jn.read_journal(["/nonexistent/journalctl"], never)
    assert found.status == jn.MISSING
    assert "No such file" in jn.journal_problem(found, probed=False).detail


def python(code):
    return [sys.executable, "-c", code]


def test_a_journalctl_that_hangs_is_ended_in_time():
    begin = time.monotonic()
    found = jn.read_journal(python("import time; time.sleep(60)"), jn.deadline(0.5))
    assert time.monotonic() - begin < 5
    assert not found.complete
    assert jn.journal_problem(found, probed=False).reason == reasons.TIMED_OUT


def test_a_journalctl_that_closes_its_output_and_hangs_is_ended_too():
    code = "import os, time; os.close(1); os.close(2); time.sleep(60)"
    begin = time.monotonic()
    assert not jn.read_journal(python(code), jn.deadline(0.5)).complete
    assert time.monotonic() - begin < 5


def test_what_came_before_it_hung_counts():
    lines = (entry("a") + b"\n" + entry() + b"\n").decode()
    code = f"import sys, time; print({lines!r}, flush=True); time.sleep(60)"
    found = jn.read_journal(python(code), jn.deadline(1.0))
    assert (len(found.events), found.complete) == (1, False)


def test_a_journalctl_that_never_stops_printing_is_ended_in_time():
    code = f"import sys\nwhile True: sys.stdout.write({entry('x').decode()!r} + chr(10))"
    begin = time.monotonic()
    found = jn.read_journal(python(code), jn.deadline(0.5))
    assert time.monotonic() - begin < 5
    assert found.entries > 0


def test_what_a_hanging_wrapper_has_started_is_ended_with_it(tmp_path):
    begun = f"echo $$ > {tmp_path}/pid; exec sleep 60"
    wrapper = ["sh", "-c", f"sh -c '{begun}' & wait"]
    assert not jn.read_journal(wrapper, jn.deadline(0.5)).complete
    assert gone(int((tmp_path / "pid").read_text()))


def test_lines_are_put_together_from_pieces_of_any_size():
    data = entry("first") + b"\n" + entry() + b"\n" + entry("last") + b"\n"
    for size in (1, 7, 1000, 10**6):
        lines = jn._Lines()
        for at in range(0, len(data), size):
            lines.feed(data[at : at + size])
        lines.end()
        assert (lines.entries, len(lines.events), lines.malformed) == (3, 1, 0)


def test_a_line_without_an_end_costs_no_memory_and_is_malformed():
    lines = jn._Lines()
    lines.feed(b"{" * 1000)
    for _ in range(1000):
        lines.feed(b"x" * 65536)
        assert len(lines._rest) <= jn.LONGEST_LINE
    lines.feed(b"}\n" + entry() + b"\n")
    assert (len(lines.events), lines.malformed) == (1, 1)


def test_a_program_that_complains_without_end_does_not_fill_the_memory():
    code = "import sys\nfor _ in range(2000): sys.stderr.write('x' * 1000)"
    found = jn.read_journal(python(code), jn.deadline(20))
    assert found.complete
    assert len(found.said) <= 200
