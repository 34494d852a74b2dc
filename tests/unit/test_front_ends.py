"""The text in a browser: what Icinga Web shows unfolded, and what web interfaces change.

That holds for every run of every test, because `contract.Run` looks at it. Here are the runs in
which it is hardest.
"""

from __future__ import annotations

import re

import pytest

from support import contract, tables
from support.full_host import Host

# Markup, a line break and a tab as Icinga Web knows them, and a character reference.
HOSTILE = r"<b>x</b>&amp;\n\t<a href='/'>y</a>"
ALARM = re.compile(r"(WARNING|CRITICAL): ")


def unfolded(run):
    """The lines that Icinga Web shows before somebody unfolds the rest."""
    return run.lines[:3]


def plain(run):
    """The output as the CGIs of Nagios show it: runs of blanks become one."""
    return [" ".join(line.split()) for line in run.lines]


@pytest.fixture
def full(tmp_path, monkeypatch, capfd, signals):
    """check_conntrack_full on a host that has just lost packets in every way."""
    host = Host(tmp_path, monkeypatch, capfd)
    host.run()
    host.own.counters = dict.fromkeys(("drop", "early_drop", "insert_failed", "chaintoolong"), 500)
    host.passes(300)
    return host.run


@pytest.fixture
def busy_table(inspect, tmp_path):
    """check_conntrack_table with a flood in the table, read from a file."""
    file = tmp_path / "table.txt"
    listing = tables.listing(tables.syn_flood())
    file.write_bytes(listing if isinstance(listing, bytes) else listing.encode())
    return lambda *words: inspect("--source", file, *words)


def test_usage_shows_what_to_do_however_many_labels_alarm(check, sysctls):
    sysctls.holds(950, 1000, 250)
    labels = ("entries", "limit", "load_factor")
    run = check(*(word for label in labels for word in ("-w", f"{label}=@0:100000")))
    first, second, third = unfolded(run)
    assert first.startswith("CRITICAL: usage 95.0%")
    assert second.startswith("WARNING: ")
    assert all(label in second for label in labels)
    assert not ALARM.match(third)


def test_table_shows_the_cause_however_many_labels_alarm(busy_table):
    labels = ("entries", "assured", "tcp", "ipv4", "unreplied")
    run = busy_table(*(word for label in labels for word in ("-w", f"{label}=1")))
    shown = unfolded(run)
    assert all(label in shown[0] for label in labels)
    assert "SYN flood" in shown[1]
    assert not ALARM.match(shown[2])


def test_full_shows_what_to_do_however_many_labels_alarm(full):
    run = full()
    assert run.state == "CRITICAL", run.out
    alarms = [line for line in run.lines if ALARM.match(line)]
    assert len(alarms) <= 2, run.out
    assert run.lines[: len(alarms)] == alarms
    assert len(run.data) > 4


@pytest.mark.parametrize("words", [("-w", HOSTILE), ("--netns", HOSTILE), ("--state-key", HOSTILE)])
def test_no_argument_reaches_a_browser_as_markup(check, words):
    run = check(*words)
    assert not contract.REWRITTEN.search(run.out.replace(" | ", " "))
    assert "<b>" not in run.out


def test_no_name_of_a_file_reaches_a_browser_as_markup(inspect, tmp_path):
    run = inspect("--source", tmp_path / HOSTILE.replace("/", ""))
    assert run.state == "UNKNOWN"
    assert r"\x3cb>" in run.out


def test_top_lists_can_be_read_where_blanks_are_collapsed(busy_table):
    lines = plain(busy_table("-v"))
    at = lines.index("protocol and state entries share")
    name, entries, share = lines[at + 1].rsplit(" ", 2)
    assert name == "tcp SYN_SENT"
    assert entries.isdigit()
    assert share.endswith("%")
