"""No message is lost behind any header of the known kinds, and no quotation counts."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from check_conntrack.kernel.log.messages import Kind
from check_conntrack.kernel.log.syslog import (
    entry_bounds,
    kernel_line,
    parse_messages,
    parse_repetition,
    parse_time,
)

NOV_21 = 1795298400.0  # 2026-11-21 22:00:00 UTC
FULL = "nf_conntrack: nf_conntrack: table full, dropping packet"
PHRASES = {
    FULL: Kind.TABLE_FULL,
    "nf_conntrack: table full, dropping packet.": Kind.TABLE_FULL,
    "ip_conntrack: table full, dropping packet.": Kind.TABLE_FULL,
    "ip_conntrack: maximum limit of 8184 entries exceeded": Kind.TABLE_FULL,
    "nf_conntrack: table full in netns 4026532177, dropping packet": Kind.TABLE_FULL,
    "VE 101: nf_conntrack: table full, dropping packet": Kind.TABLE_FULL,
    "ip_conntrack: VPS 101 table full, dropping packet.": Kind.TABLE_FULL,
    "nf_conntrack: expectation table full": Kind.EXPECTATION_FULL,
    "openvswitch: zone: 7 exceeds conntrack limit": Kind.ZONE_LIMIT,
    "net_ratelimit: 1871 callbacks suppressed": Kind.SUPPRESSED,
    "__ratelimit: 15 callbacks suppressed": Kind.SUPPRESSED,
    "NET: 318 messages suppressed.": Kind.SUPPRESSED,
}
phrases = st.sampled_from(sorted(PHRASES))


def words(text):
    return st.sampled_from(text.split("\n"))


wrappers = words(
    "\n/var/log/kern.log:\n/var/log/messages-20251101.gz:12:\n[pod/kmsg-x7k2p/reader] \n"
    "2026-11-21T20:11:08.482113999Z stdout F \nkmsg-1  | \n\ufeff\n\x1b[32m"
)
stamps = words(
    "\nNov 21 21:59:00\nNov  1 21:59:00.123456\nNov 21 2026 21:59:00\n2026 Nov 21 21:59:00.123\n"
    "2026-11-21T21:59:00Z\n2026-11-21T21:59:00.123456+01:00\n2026-11-21T21:59:00,123+0100\n"
    "2026-11-21 21:59:00\n2026-11-21 21:59:00.123\nSat 2026-11-21 21:59:00 UTC\n20261121T215900Z\n"
    "Sat Nov 21 21:59:00 2026\nSat Nov 21 21:59:00 CET 2026\n21 Nov 2026 21:59:00\n1795298400\n"
    "1795298400.123456\n@400000006b0112600a1b2c3d\n21.11.2026 21:59:00\n2026/11/21 21:59:00\n"
    "11/21/2026 09:59:00 PM\nOkt 21 21:59:00\nfévr. 21 21:59:00\nноя 21 21:59:00\n"
    "11月 21 21:59:00\n2026年11月21日 21:59:00\nlapkr. 21 21:59:00\n21:59:00\n"
    "[Sat Nov 21 21:59:00 2026]\n[sam. nov. 21 21:59:00 2026]\n[2026-11-21 21:59:00]\n[1795298400]"
)
hosts = words(
    "\ngw\ngw1.example.org\n192.0.2.1\n2001:db8::1\n(none)\nmy_host\nrelay gw\ni-***\njan"
)
levels = words("\nkern.warn\nuser.warn\nWARNING\nwarning\n[warn]\n[kern.warning]")
tags = words("kernel:\nkernel[0]:\nkernel[123]:\nKernel:\nklogd:\nvmunix:\n/kernel:\n[kernel]")
uptimes = words(
    "\n[ 1035.620501]\n[1035620.501203]\n[    0.000001]\n[ 6218.194622@2]\n[ 1035.620501 T123]\n"
    "[ 1035.620501 <    0.000001>]\n[812345.6]\n[  +0.000003]\n** 399 printk messages dropped **\n"
    "** 9 printk messages dropped ** [   28.489694]"
)
callers = words("\n[T123]\n[  T123]\n[     C1]\n[0:      swapper/0:    0]\n(0)[123:kworker/0:1]")
ends = words("\n \n\r\n.\n\\n\n#012\n\0\n\x1b[0m\n   ")


@st.composite
def kernel_headers(draw):
    """A header of the kinds that daemons write before a message of the kernel."""
    stamp, host = draw(stamps), draw(hosts)
    parts = [stamp, host if stamp else "", draw(levels) if stamp else ""]
    if draw(st.booleans()):
        parts.append(draw(tags))
    elif host.count(" ") or "[" in stamp:
        parts[1:] = []
    parts += [draw(uptimes), draw(callers)]
    header = " ".join(part for part in parts if part)
    priority = draw(words("\n<4>\n<0>")) if not header.startswith(("[", "*")) else ""
    return draw(wrappers) + priority + header + " " * bool(header)


@given(kernel_headers(), phrases, ends)
@example("", FULL, "")
def test_message_behind_any_known_header_is_counted(header, phrase, end):
    found = parse_messages(header + phrase + end, NOV_21)
    assert [line.message.kind for line in found] == [PHRASES[phrase]], header


@given(kernel_headers(), phrases, st.integers(2, 999))
def test_repeated_message_behind_any_known_header_counts_as_often_as_it_says(header, phrase, times):
    [line] = parse_messages(f"{header}message repeated {times} times: [ {phrase}]", NOV_21)
    [once] = parse_messages(phrase, NOV_21)
    assert line.message.times == times * once.message.times


@given(kernel_headers(), phrases, words("MESSAGE\nmessage\nmsg\nlog\nshort_message\ntext\nline"))
def test_message_in_json_is_counted(header, phrase, key):
    wrapped = json.dumps({"stream": "stdout", key: f"{header}{phrase}\n", "n": 1})
    for line in (wrapped, json.dumps({"log": wrapped + "\n"}), f"data: {wrapped}"):
        assert len(parse_messages(line, NOV_21)) == 1


programs = words(
    "sshd[812]:\nmyapp:\nsudo:\nCRON[12]:\nnrpe[7]:\naudit:\nsnoopy[7]:\nfoo: kernel:\n"
    "root: kernel:\n"
    "python3[99]: kernel:\nsystemd[1]:\npostfix/cleanup[5]:\n[sshd]\nkernel: audit:\nmain.go:52]"
)
quotations = words(
    "\"{}\"\n'{}'\n`{}`\ncomm=\"{}\"\nmsg='{}'\nthe log says: {}\ngrep {} /var/log/kern.log\n"
    "COMMAND=/bin/grep {}\n{}, says grep\n{} from 192.0.2.7\nInvalid user {}\n{} was found\n"
    "Subject: {}\npattern={}\n/{}\nx{}\n{} (see the runbook) for help"
)


@given(stamps, hosts, programs, phrases)
def test_message_behind_the_tag_of_a_program_does_not_count(stamp, host, program, phrase):
    header = " ".join(part for part in (stamp, host, program) if part)
    assert parse_messages(f"{header} {phrase}", NOV_21) == ()


@given(st.one_of(st.just(""), kernel_headers()), quotations, phrases)
def test_quotation_does_not_count(header, quotation, phrase):
    if quotation.startswith("{}") or not header:
        header = header or "Nov 21 21:59:00 gw kernel: "
    assert parse_messages(header + quotation.format(phrase.rstrip(".")), NOV_21) == ()


@given(stamps, programs, quotations, phrases)
def test_quotation_by_a_program_does_not_count(stamp, program, quotation, phrase):
    assert parse_messages(f"{stamp} gw {program} {quotation.format(phrase)}", NOV_21) == ()


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=2), min_size=3, max_size=9), phrases)
def test_sentence_does_not_count(sentence, phrase):
    assert parse_messages(f"{' '.join(sentence)} {phrase}", NOV_21) == ()
    assert parse_messages(f"{phrase.rstrip('.')} {' '.join(sentence)}", NOV_21) == ()


@given(words("sshd\nmyapp\npython3"), phrases)
def test_message_of_a_program_in_json_does_not_count(program, phrase):
    for fields in (
        {"SYSLOG_IDENTIFIER": program, "_TRANSPORT": "syslog", "MESSAGE": phrase},
        {"SYSLOG_IDENTIFIER": program, "_TRANSPORT": "kernel", "SYSLOG_FACILITY": "3"}
        | {"MESSAGE": phrase},
        {"appname": program, "message": phrase},
        {"log": f"{program}[7]: {phrase}\n"},
        {"msg": f"found {phrase}", "level": "info"},
        {"pattern": phrase},
    ):
        assert parse_messages(json.dumps(fields), NOV_21) == ()


anything = st.one_of(
    st.text(),
    st.text('<>0123456789[]{}()=":.,-+TZ\t\nNovkernlWarn月ноя', max_size=80),
    kernel_headers(),
)


@given(anything, st.sampled_from(["", " kernel: ", "] ", '{"msg":"', "a="]), anything)
def test_any_text_around_a_message_raises_nothing(before, tag, after):
    for line in (before, before + tag + FULL + after):
        parse_messages(line, NOV_21)
        parse_time(line, NOV_21)
        kernel_line(line, NOV_21)
        parse_repetition(line + " last message repeated 3 times", "gw", NOV_21)


@given(st.lists(anything), st.integers(0, 9))
def test_bounds_of_an_entry_hold_the_line(lines, number):
    data = "\n".join([*lines, ""]).encode("utf-8", "replace")
    starts = [0, *(at + 1 for at, byte in enumerate(data) if byte == 10)][:-1]
    if starts:
        start = starts[number % len(starts)]
        stop = data.index(b"\n", start)
        begin, end = entry_bounds(data, 0, len(data), start, stop)
        assert 0 <= begin <= start <= stop <= end <= len(data)


@pytest.mark.parametrize(
    "line",
    [
        "nf_conntrack: " * 20000,
        "message repeated 3 times: [" + "[ 1.0] " * 20000,
        "a " * 20000 + FULL,
        "1 " * 20000 + FULL,
        "a: " * 20000 + FULL,
        "kernel " * 20000 + FULL,
        "[" * 20000 + FULL,
        '{"a":' * 20000 + FULL,
        "=" * 20000 + '"' + FULL,
        "Nov 21 21:59:00 " * 5000 + FULL,
    ],
)
def test_long_line_takes_no_longer_than_its_length(line):
    assert len(parse_messages(line, NOV_21)) <= 1
    kernel_line(line, NOV_21)
    parse_time(line, NOV_21)
