"""The journal: what journalctl is asked for, prints, and fails with."""

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
from support.processes import deadline, gone

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


def test_journal_arguments_ask_for_the_kernel_in_all_boots():
    arguments = jn.journal_arguments(1795294806.9)
    assert arguments[0] == "journalctl"
    assert {"--no-pager", "--output=json", "--boot=all", "_TRANSPORT=kernel"} <= set(arguments)
    assert "--since=@1795294806" in arguments
    assert "-k" not in arguments
    notices = arguments[arguments.index("+") :]
    assert notices == ["+", "_TRANSPORT=driver", "MESSAGE_ID=e9bf28e6e834481bb6f48f548ad13606"]


def test_journal_arguments_ask_for_one_boot_or_one_entry():
    assert "--boot=0" in jn.journal_arguments(boot=True)
    assert "--lines=1" in jn.journal_arguments(newest=1)
    assert not [word for word in jn.journal_arguments() if word.startswith("--since")]
    assert {"--until=@900", "--reverse", "--lines=1"} <= set(
        jn.journal_arguments(until=900.5, newest=1)
    )


def test_journal_entry_has_the_time_of_the_kernels_stamp():
    found = jn.parse_entry(
        entry(__MONOTONIC_TIMESTAMP="2616710822", _SOURCE_MONOTONIC_TIMESTAMP="616710822")
    )
    assert found.time == pytest.approx(1795294806.340443 - 2000)
    assert found.monotonic == 616710822


def test_journal_entry_without_the_kernels_stamp_has_the_time_of_its_reception():
    found = jn.parse_entry(entry(_SOURCE_MONOTONIC_TIMESTAMP=""))
    assert found.time == pytest.approx(1795294806.340443)
    assert found.monotonic is None


def test_journal_entry_becomes_an_event():
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
def test_journal_entry_of_a_program_or_without_text_is_no_event(fields):
    assert jn.entry_event(jn.parse_entry(entry(**fields))) is None


@pytest.mark.parametrize(
    "line",
    [b"", b"x", b"[]", b"1", b"{}", b"{", b'{"__REALTIME_TIMESTAMP": 5}', b"[" * 100000, b"\xff"],
)
def test_journal_entry_that_is_malformed_raises_value_error(line):
    with pytest.raises(ValueError, match=r"."):
        jn.parse_entry(line)


@given(st.binary())
def test_journal_entry_of_any_bytes_is_parsed_or_raises_value_error(line):
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
def test_journal_entry_of_any_values_is_parsed_or_raises_value_error(fields):
    try:
        jn.entry_event(jn.parse_entry(json.dumps(fields).encode()))
    except ValueError:
        return


def fake(fp, out=(), **more):
    fp.register(COMMAND, stdout=b"\n".join(out) + b"\n" if out else b"", **more)
    return jn.read_journal(COMMAND, never)


def test_journal_counts_events_among_other_entries(fp):
    found = fake(fp, [entry("first"), entry("other"), entry(), entry(SYSLOG_FACILITY="1")])
    assert len(found.events) == 1
    assert (found.entries, found.malformed, found.status, found.complete) == (4, 0, 0, True)
    assert found.oldest == pytest.approx(1795294806.34, abs=0.01)
    assert jn.journal_problem(found, probed=False) is None


def test_journal_without_json_is_a_problem(fp):
    found = fake(fp, [b"Nov 21 21:59:00 gw kernel: " + TEXT.encode()])
    assert found.malformed == 1
    assert jn.journal_problem(found, probed=False).reason == reasons.JOURNALCTL_TOO_OLD


def test_journal_with_a_damaged_line_keeps_the_others(fp):
    found = fake(fp, [entry("first"), entry()[:-9], entry()])
    assert (len(found.events), found.malformed) == (1, 1)
    assert jn.journal_problem(found, probed=False) is None


def test_journal_problem_quotes_a_failing_journalctl(fp):
    found = fake(fp, returncode=1, stderr=b"Failed to open /x|y: \x1b[31mInput/output error\n")
    problem = jn.journal_problem(found, probed=False)
    assert problem.reason == reasons.JOURNALCTL_FAILED
    assert "status 1" in problem.detail
    assert "Input/output error" in problem.detail
    assert "|" not in problem.detail
    assert "\x1b" not in problem.detail


def test_journal_without_entries_is_a_problem_only_when_probed(fp):
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
def test_journal_without_privileges_is_a_problem_whatever_its_status(fp, said):
    found = fake(fp, stderr=said)
    assert jn.journal_problem(found, probed=False).reason in (
        reasons.JOURNAL_DENIED,
        reasons.JOURNAL_NOT_FOUND,
    )


def test_journal_with_entries_and_a_hint_is_readable(fp):
    found = fake(fp, [entry()], stderr=b"Hint: You are currently not seeing messages ...\n")
    assert jn.journal_problem(found, probed=False) is None


def test_journal_problem_names_a_missing_journalctl():
    found = jn.read_journal(["/nonexistent/journalctl"], never)
    assert found.status == jn.MISSING
    assert "No such file" in jn.journal_problem(found, probed=False).detail


def python(code):
    return [sys.executable, "-c", code]


def test_journalctl_that_hangs_is_killed_in_time():
    begin = time.monotonic()
    found = jn.read_journal(python("import time; time.sleep(60)"), deadline(0.5))
    assert time.monotonic() - begin < 5
    assert not found.complete
    assert jn.journal_problem(found, probed=False).reason == reasons.TIMED_OUT


def test_journalctl_that_closes_its_output_and_hangs_is_killed():
    code = "import os, time; os.close(1); os.close(2); time.sleep(60)"
    begin = time.monotonic()
    assert not jn.read_journal(python(code), deadline(0.5)).complete
    assert time.monotonic() - begin < 5


def test_journalctl_that_hangs_keeps_what_was_read(tmp_path):
    (tmp_path / "lines").write_bytes(entry("a") + b"\n" + entry() + b"\n")
    hanging = ["sh", "-c", f"cat {tmp_path}/lines; exec sleep 60"]
    found = jn.read_journal(hanging, deadline(2.0))
    assert (len(found.events), found.complete) == (1, False)


def test_journalctl_that_never_stops_printing_is_killed_in_time():
    begin = time.monotonic()
    found = jn.read_journal(["yes", entry("x").decode()], deadline(0.5))
    assert time.monotonic() - begin < 5
    assert found.entries > 0


def test_journalctl_in_a_wrapper_is_killed_with_it(tmp_path):
    begun = f"echo $$ > {tmp_path}/pid; exec sleep 60"
    wrapper = ["sh", "-c", f"sh -c '{begun}' & wait"]
    assert not jn.read_journal(wrapper, deadline(0.5)).complete
    assert gone(int((tmp_path / "pid").read_text()))


def test_journal_lines_are_joined_from_pieces_of_any_size():
    data = entry("first") + b"\n" + entry() + b"\n" + entry("last") + b"\n"
    for size in (1, 7, 1000, 10**6):
        lines = jn._Lines()
        for at in range(0, len(data), size):
            lines.feed(data[at : at + size])
        lines.end()
        assert (lines.entries, len(lines.events), lines.malformed) == (3, 1, 0)


def test_journal_line_without_an_end_is_malformed_and_takes_no_memory():
    lines = jn._Lines()
    lines.feed(b"{" * 1000)
    for _ in range(1000):
        lines.feed(b"x" * 65536)
        assert len(lines._rest) <= jn.LONGEST_LINE
    lines.feed(b"}\n" + entry() + b"\n")
    assert (len(lines.events), lines.malformed) == (1, 1)


def test_journalctl_that_prints_errors_without_end_takes_no_memory():
    code = "import sys\nfor _ in range(2000): sys.stderr.write('x' * 1000)"
    found = jn.read_journal(python(code), deadline(20))
    assert found.complete
    assert len(found.stderr) <= 200


def notice(text="Missed 12 kernel messages", **more):
    return entry(text, _TRANSPORT="driver", SYSLOG_FACILITY="", **more)


def test_journal_that_missed_messages_says_when(fp):
    later = str(1795294806340443 + 90_000_000)
    out = [entry("first"), notice(__REALTIME_TIMESTAMP=later, _SOURCE_MONOTONIC_TIMESTAMP="")]
    journal = fake(fp, [*out, entry()])
    [loss] = journal.losses
    assert loss.end - loss.start == pytest.approx(90, abs=0.01)
    assert (journal.entries, len(journal.events), journal.lost) == (2, 1, 12)


def test_journal_notice_of_another_kind_is_no_loss_and_no_entry(fp):
    journal = fake(fp, [entry("first"), notice("Runtime journal is using 8.0M"), notice("x")])
    assert (journal.losses, journal.entries) == ((), 1)


def test_journal_message_of_journald_is_no_event(fp):
    assert fake(fp, [entry("first"), notice(TEXT)]).events == ()
