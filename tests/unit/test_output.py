from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nagiosplugin import (
    Context,
    Critical,
    Metric,
    Ok,
    Performance,
    Resource,
    Result,
    Unknown,
    Warn,
)

from check_conntrack import nagios, render
from support import contract

LINES = st.lists(st.text(max_size=300), max_size=60)


def test_the_worst_state_is_critical_then_unknown_then_warning_then_ok():
    order = [Critical, Unknown, Warn, Ok]
    for number in range(1, 5):
        for states in itertools.permutations(order, number):
            assert nagios.worst(states) is min(states, key=order.index)


def test_results_take_the_worst_state_and_raise_where_there_are_none():
    results = nagios.WorstResults(Result(Unknown), Result(Critical), Result(Ok))
    assert results.most_significant_state is Critical
    with pytest.raises(ValueError, match="empty"):
        _ = nagios.WorstResults().most_significant_state


class Everything(Context):
    def performance(self, metric, resource):
        return Performance(metric.name, metric.value)


def test_perfdata_stays_in_the_order_in_which_it_was_measured():
    class Several(Resource):
        def probe(self):
            for name in ("usage", "entries", "a::usage", "b-2::usage", "B::usage", "an_other"):
                yield Metric(name, 1, context="all")

    check = nagios.OrderedCheck(Several(), nagios.WorstResults(), Everything("all"))
    check()
    assert check.perfdata == [
        "usage=1",
        "entries=1",
        "'a::usage'=1",
        "'b-2::usage'=1",
        "'B::usage'=1",
        "an_other=1",
    ]


@given(st.text())
def test_cleaned_text_is_printable_ascii_without_a_bar(text):
    shown = render.clean(text)
    assert all(" " <= character <= "~" and character != "|" for character in shown)
    assert render.clean(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a\\x7cb"),
        ("a\nb\tc\0", "a\\x0ab\\x09c\\x00"),
        ("\x1b[31mred\x7f", "\\x1b[31mred\\x7f"),
        ("\u00e9 \u2028 \U0001f525", "\\xe9 \\u2028 \\U0001f525"),
        (os.fsdecode(b"\xff"), "\\udcff"),
        ("plain ~ text", "plain ~ text"),
    ],
)
def test_whatever_cannot_be_printed_is_shown_escaped(text, shown):
    assert render.clean(text) == shown


@given(st.lists(st.text(max_size=80), max_size=20))
def test_names_become_parts_of_labels_that_differ_and_need_no_escape(names):
    taken = {}
    for name in names:
        part = render.label_part(name, taken)
        assert part not in taken
        assert part.isascii()
        assert not set(part) & set("'=|\"; \t\n:")
        assert len(part) <= 70
        taken[part] = name


def test_an_ordinary_name_is_its_own_label_part():
    assert render.label_part("qrouter-3f0c_a.b@c", {}) == "qrouter-3f0c_a.b@c"
    assert render.label_part("a b'=c", {}) == "a_b__c"
    assert render.label_part("a", {"a": 0, "a_2": 0}) == "a_3"


@given(st.text(max_size=400), st.sampled_from([Ok, Warn, Critical, Unknown]))
def test_a_status_line_has_at_most_160_characters(text, state):
    line = render.status_line("CONNTRACK_USAGE", state.text.upper(), text)
    assert len(line) <= 160
    assert line.startswith(f"CONNTRACK_USAGE {state.text.upper()} - ")
    assert line.endswith(("...", render.clean(text)))


def test_a_status_line_of_exactly_160_characters_is_left_whole():
    room = 160 - len("T OK - ")
    assert render.status_line("T", "OK", "x" * room) == "T OK - " + "x" * room
    assert render.status_line("T", "OK", "x" * (room + 1)) == "T OK - " + "x" * (room - 3) + "..."


@given(LINES)
def test_a_bounded_page_stays_below_4_kib_and_says_what_is_missing(lines):
    text = render.page("STATUS", ["usage=1", "entries=2"], lines, bounded=True)
    assert len(text.encode("ascii")) <= 4096
    first, *shown = text[:-1].split("\n")
    assert first == "STATUS | usage=1 entries=2"
    whole = [render.clean(line).rstrip() for line in lines]
    if shown != whole:
        assert shown.pop() == "(more with -v)"
        assert shown == whole[: len(shown)]
        assert len(render.page("S", [], lines, bounded=False)) > 3700


@given(LINES)
def test_an_unbounded_page_holds_every_line(lines):
    text = render.page("STATUS", [], lines, bounded=False)
    assert text == "\n".join(["STATUS", *(render.clean(line).rstrip() for line in lines)]) + "\n"


def test_what_matters_comes_first_in_a_page_that_is_cut():
    text = render.page("S", [], ["first", "x" * 5000, "third"], bounded=True)
    assert text == "S\nfirst\n(more with -v)\n"


def test_a_table_has_its_names_to_the_left_and_its_figures_to_the_right():
    rows = [("name", "entries", "full in"), ("a", "5", ""), ("longer one", "1234567890", "3h 20m")]
    assert render.table(rows) == [
        "  name           entries  full in",
        "  a                    5        -",
        "  longer one  1234567890    3h20m",
    ]


def test_a_table_can_be_read_where_blanks_are_collapsed():
    rows = [("name", "entries", "full in"), ("", "", "2d 3h"), ("b c", "7", "")]
    shown = [" ".join(line.split()) for line in render.table(rows)[1:]]
    # The last two words are the last two columns.
    assert [line.split()[-2:] for line in shown] == [["-", "2d3h"], ["7", "-"]]
    assert shown[0] == "- - 2d3h"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"C:\new\table", r"C:\x5cnew\x5ctable"),
        (r"a\b", r"a\b"),
        ("<b>bold</b>", r"\x3cb>bold</b>"),
        ("a < b", "a < b"),
        ("&lt;&#10;", r"\x26lt;\x26#10;"),
        ("this & that;", "this & that;"),
    ],
)
def test_what_a_web_interface_would_change_is_escaped(text, shown):
    assert render.clean(text) == shown
    assert not contract.REWRITTEN.search(render.clean(text))


def test_writing_puts_every_byte_on_standard_output(capfd):
    assert render.write("status\nline\n" * 3000)
    assert capfd.readouterr() == ("status\nline\n" * 3000, "")


def test_writing_goes_on_where_a_pipe_took_less_than_all(monkeypatch):
    taken = []

    def few(descriptor, data):
        assert descriptor == 1
        taken.append(data[:3])
        return len(taken[-1])

    monkeypatch.setattr(os, "write", few)
    assert render.write("abcdefgh")
    assert b"".join(taken) == b"abcdefgh"


def test_writing_to_what_is_closed_or_full_is_told_not_raised(monkeypatch):
    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert not render.write("abc")
