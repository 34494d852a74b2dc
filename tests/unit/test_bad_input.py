"""Whatever is wrong: exit 3, one clear line, nothing on standard error (Run sees to the rest)."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel import limits
from check_conntrack.usage.usage_check import LABELS

NAMES = ", ".join(label.name for label in LABELS)
BAD_COMMAND_LINES = [
    (["--bogus"], "unrecognized arguments: --bogus"),
    (["--exit"], "unrecognized arguments: --exit"),
    (["stray"], "unrecognized arguments: stray"),
    (["--bogus", "a|b\n\x1b[0m"], "unrecognized arguments: --bogus a\\x7cb\\x0a\\x1b[0m"),
    (["-w"], "argument -w/--warning: expected one argument"),
    (
        ["-w", "-5:5"],
        "expected one argument; a range that begins with - is written -w=-5:5 (see --help)",
    ),
    (["--critical", "-5:5"], "a range that begins with - is written -c=-5:5 (see --help)"),
    (
        ["-w", "/home/nagios:10"],
        "or @10:20; quote the ~, the shell has replaced it)",
    ),
    (["-w", "usage=/root:"], "quote the ~, the shell has replaced it"),
    (["-w", "bogus=5"], f"unknown label 'bogus' (known: {NAMES[:60]}"),
    (["-c", "bogus=5"], f"unknown label 'bogus' (known: {NAMES[:60]}"),
    (["-w", "x" * 300 + "=5"], f"...' (known: {NAMES[:60]}"),
    (["-w", "x" * 32 + "=5"], f"unknown label {'x' * 32!r}"),
    (["-w", "x" * 33 + "=5"], f"unknown label {'x' * 29 + '...'!r}"),
    (["-w", "growth=-5"], "invalid range '-5' for growth: 0 is greater than -5"),
    (["-w", "abc"], "invalid range 'abc' for usage (write 10, 10:, ~:10, 10:20 or @10:20)"),
    (["-w", ""], "invalid range '' for usage"),
    (["-w", "1_000"], "invalid range '1_000'"),
    (["-w", "\u0668\u0660"], "for usage (write 10"),
    (["-w", "80\n"], "for usage (write 10"),
    (["-w", "growth=1e3"], "invalid range '1e3' for growth"),
    (["-c", "90:80"], "invalid range '90:80' for usage: 90 is greater than 80"),
    (["-w", "usage=80s"], "invalid unit in '80s': usage takes %"),
    (["-w", "limit=5%"], "invalid unit in '5%': limit takes no unit"),
    (
        ["-w", "95", "-c", "90"],
        "warning range '95' of usage can never fire: the critical range '90' covers it",
    ),
    (["-w", "95"], "the default critical range '90' covers it"),
    (["-t", "-1"], "argument -t/--timeout: invalid duration '-1'"),
    (["--timeout=-1"], "argument -t/--timeout: invalid duration '-1'"),
    (["-t", "abc"], "invalid duration 'abc'"),
    (["-t", "1e9"], "invalid duration '1e9'"),
    (["-t", "nan"], "invalid duration 'nan'"),
    (["-t", "2d"], "'2d' is not between 1ms and 1d"),
    (["-t", "999999999"], "is not between 1ms and 1d"),
    (["--if-inactive", "fine"], "argument --if-inactive: invalid choice: 'fine'"),
    (["--trend-window", "1m"], "'1m' is not between 5m and 30d"),
    (["--trend-window", "31d"], "'31d' is not between 5m and 30d"),
    (["--trend-window", "soon"], "invalid duration 'soon'"),
    (["--netns"], "argument --netns: expected one argument"),
]


@pytest.mark.parametrize(
    ("arguments", "words"),
    BAD_COMMAND_LINES,
    ids=[" ".join(case[0])[:30] for case in BAD_COMMAND_LINES],
)
def test_a_bad_command_line_is_unknown_in_one_clear_line(check, arguments, words):
    run = check(*arguments)
    assert (run.code, run.data) == (3, {})
    assert words in run.text
    if run.text.endswith("..."):
        (whole,) = run.lines
        assert whole.startswith(run.text[:-3])
    else:
        assert run.lines == []


def test_unknown_label_lists_all_known_ones(check):
    run = check("-w", "nosuch=1")
    assert run.text.startswith("unknown label 'nosuch' (known: usage, entries, limit, ")
    (line,) = run.lines
    assert line.endswith(", ".join(label.name for label in LABELS) + ")")


@pytest.mark.parametrize(("arguments", "words"), BAD_COMMAND_LINES[::4])
def test_exit_ok_does_not_cover_a_bad_command_line(check, arguments, words):
    assert check("--exit-ok", *arguments).code == 3


OPTIONS = ["-w", "-c", "-t", "-v", "--exit-ok", "--if-inactive", "--state-key", "--trend-window"]
OPTIONS += ["--user", "--no-state", "--"]


@given(
    st.lists(
        st.one_of(
            st.sampled_from(OPTIONS),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10),
            st.sampled_from(["80", "usage=", "=", "ok", "5m", "@", "time_to_full=4h:", "-1", "~:"]),
        ),
        max_size=5,
    )
)
def test_no_command_line_breaks_the_contract(check, arguments):
    run = check(*arguments, "-t", "30")
    assert run.code in (0, 1, 3)
    assert "internal error" not in run.text


BAD_NUMBERS = {
    "letters": (b"abc\n", "malformed ('abc'"),
    "nothing": (b"", "empty"),
    "a line end": (b"\n", "empty"),
    "a negative": (b"-5\n", "malformed ('-5'"),
    "thirty digits": (b"9" * 30 + b"\n", "malformed ('99999999999999999999'..."),
    "too large": (b"4294967296\n", "malformed ('4294967296'"),
    "two numbers": (b"1 2\n", "malformed ('1 2'"),
    "escapes": (b"\x1b[31m|\n", "malformed ('\\x1b[31m\\x7c'"),
    "rubbish": (b"\xff\x00", "malformed ("),
}


@pytest.mark.parametrize("name", ["count", "max", "buckets"])
@pytest.mark.parametrize("kind", BAD_NUMBERS)
def test_a_file_that_holds_no_number_is_unknown_and_named(check, sysctls, name, kind):
    data, words = BAD_NUMBERS[kind]
    sysctls[limits.NEW + name] = data
    run = check()
    assert run.code == 3
    assert f"/proc/sys/net/netfilter/nf_conntrack_{name}: " in run.text
    assert words in run.text


@pytest.mark.parametrize("name", ["count", "max", "buckets"])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR, errno.ELOOP])
def test_a_file_that_cannot_be_read_is_unknown_with_its_path_and_reason(check, sysctls, name, code):
    sysctls[limits.NEW + name] = code
    run = check()
    assert run.code == 3
    assert f"nf_conntrack_{name}: {os.strerror(code)}" in run.text


def test_a_count_without_a_limit_is_unknown(check, sysctls):
    del sysctls[limits.NEW + "max"]
    run = check()
    assert run.code == 3
    assert "nf_conntrack_max: No such file or directory" in run.text


def test_buckets_that_cannot_be_read_hide_no_full_table(check, sysctls):
    sysctls.holds(9999, 10000, b"abc")
    run = check()
    assert run.code == 2
    assert "9999 of 10000 entries in use" in run.text
    assert "nf_conntrack_buckets: malformed ('abc'" in run.text
    assert "load_factor" not in run.data


@pytest.mark.parametrize("spec", ["nemo", "none*", "/nowhere/x", "4194999", "/etc/passwd", ""])
def test_a_namespace_that_is_not_there_is_unknown_by_its_name(check, netns, spec):
    netns()
    run = check("--netns", spec)
    assert run.code == 3
    assert spec in run.text
    assert run.data == {}


def test_a_namespace_that_may_not_be_entered_is_unknown_with_what_to_grant(check, netns):
    netns(blue=71)
    run = check("--netns", "blue")
    assert run.code == 3
    assert "namespace blue: permission denied (CAP_SYS_ADMIN" in run.text
    assert "sudoers" in run.rest
    assert "NOPASSWD" in run.rest


def test_an_error_nobody_foresaw_is_unknown_with_its_place(check, monkeypatch):
    def broken():
        raise RuntimeError("what | is\nthis")

    monkeypatch.setattr("check_conntrack.namespaces.read_limits", broken)
    run = check()
    assert (run.code, run.lines) == (3, [])
    assert "internal error while reading /proc/sys/net/netfilter: RuntimeError (" in run.text
    assert "what \\x7c is\\x0athis" in run.text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError, "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (
            ImportError("/usr/lib/_ctypes.so: failed to map segment from shared object"),
            "out of memory",
        ),
        (KeyboardInterrupt, "interrupted"),
        (RecursionError, "internal error"),
    ],
)
def test_what_no_check_can_help_is_unknown_too(check, monkeypatch, error, words):
    def broken():
        raise error

    monkeypatch.setattr("check_conntrack.namespaces.read_limits", broken)
    run = check("--exit-ok")
    assert run.code == 3
    assert words in run.text
