"""One line of a table as text, parsed into an Entry.

Forms: /proc/net/nf_conntrack (ct_seq_show() of net/netfilter/nf_conntrack_standalone.c), its
predecessor /proc/net/ip_conntrack, and what `conntrack -L` prints, plain or with `-o extended`,
`id`, `timestamp`, `labels` (src/conntrack/snprintf_default.c of libnetfilter_conntrack). A line is
words: the protocol's names and numbers, seconds left, a state, NAME=VALUE pairs in the order
original, reply, rest, and [FLAGS] between and after them. Vendors' kernels add flags, bare words
and pairs of their own: these are passed over, as are states that have no name here.

No text form shows IPS_EXPECTED, and a flow in a flow table hides whether it is assured: it is
counted as assured here.
"""

from __future__ import annotations

import re

from ..kernel import ctnetlink as ct
from ..kernel.namedtuple import NamedTuple
from ..kernel.networks import packed_address
from .entry import (
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    STATE_NAMES,
    ConntrackTuple,
    Entry,
    FlowCounters,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Longer than any line of a table by far; a longer one is one bad line, whatever its length.
LONGEST_LINE = 1 << 14
UINT32_MAX = 2**32 - 1

_L3 = {"ipv4": 4, "ipv6": 6}
_STATES = {
    protocol: {name: number for number, name in enumerate(names)}
    for protocol, names in STATE_NAMES.items()
}
_FLAGS = {
    "[ASSURED]": ct.IPS_ASSURED,
    "[OFFLOAD]": ct.IPS_OFFLOAD | ct.IPS_ASSURED,
    "[HW_OFFLOAD]": ct.IPS_HW_OFFLOAD | ct.IPS_OFFLOAD | ct.IPS_ASSURED,
}
_UNREPLIED = "[UNREPLIED]"
# Names that belong to a tuple, in either direction.
_TUPLE_NAMES = frozenset(
    ("src", "dst", "sport", "dport", "srckey", "dstkey", "type", "code", "zone-orig", "zone-reply")
)
_COUNTED_NAMES = frozenset(("packets", "bytes"))
# Names of the entry as a whole; all others are passed over.
_ENTRY_NAMES = frozenset(("zone", "mark", "helper", "id", "use", "secctx"))
_STATE = re.compile(r"[A-Z][A-Z0-9_]*")
_SECONDS = re.compile(r"-?[0-9]+", re.ASCII)

# The beginning of an entry; what stands before it was put there by grep, nl or a container's log.
ENTRY_START = re.compile(
    rb"(?:ipv[46] +[0-9]+ +)?[a-z][a-z0-9-]* +[0-9]{1,3} +(?:-?[0-9]+ +)?(?:[A-Z][A-Z0-9_]* +)?"
    rb"(?:timeout=[0-9]+, stream_timeout=[0-9]+ +)?src=[0-9A-Fa-f.:]+ dst="
)
# conntrack -E puts one of these before an entry: it is news of an entry, and no entry.
_EVENT = re.compile(rb"\[(?:NEW|UPDATE|DESTROY)\]")
# How conntrack(8) ends a listing; older ones say "has been shown".
SHOWN = re.compile(rb"([0-9]{1,15}) flow entries ha(?:ve|s) been shown")
# A line within JSON ends in an escaped newline, a quote, and further members.
_JSON_END = re.compile(rb'(?:\\[nr])*"[^"=]*(?:[,}].*)?$')


class LineLayout(NamedTuple):
    """The meaning of each word of a line.

    fields: the index of a word by its name and direction (0 original, 1 reply, 2 the entry).
    *_at: indices of words, None where the line has no such word. state: None for one without a
    name here.
    """

    fields: dict[tuple[str, int], int]
    protocol_at: int
    protocol: int
    timeout_at: int | None
    state_at: int | None
    state: int | None
    status: int


def layout_of(words: Sequence[str]) -> LineLayout:
    """Return where things stand in a line. Raises ValueError saying what is wrong."""
    at = 2 if words[0] in _L3 else 0
    if len(words) < at + 4:
        raise ValueError("too short")
    protocol_at = at + 1
    protocol = _number(words[protocol_at], 255)
    at += 2
    timeout_at = state_at = state = None
    if _SECONDS.fullmatch(words[at]):
        timeout_at = at
        at += 1
    if "=" not in words[at] and words[at][0] != "[":
        state_at, state = at, _state(protocol, words[at])
        at += 1
    fields, status = _pairs(words, at, protocol)
    return LineLayout(fields, protocol_at, protocol, timeout_at, state_at, state, status)


def _state(protocol: int, word: str) -> int | None:
    """Return the number of a state; None for a name that is not known here."""
    if word.isdigit():
        return _number(word, 255)
    if not _STATE.fullmatch(word):
        raise ValueError(f"not a state: {word!r}")
    return _STATES.get(protocol, {}).get(word)


def _pairs(words: Sequence[str], at: int, protocol: int) -> tuple[dict[tuple[str, int], int], int]:
    """Return the named values from a word on, and the status bits that flags stand for."""
    fields: dict[tuple[str, int], int] = {}
    status = ct.IPS_CONFIRMED | ct.IPS_SEEN_REPLY
    direction = -1
    flag = ""  # one with a blank in it, until it closes
    for index in range(at, len(words)):
        word = words[index]
        name, equals, value = word.partition("=")
        if flag or word[0] == "[":
            flag = f"{flag} {word}".strip()
            if word[-1] == "]":
                status |= _FLAGS.get(flag, 0)
                if flag == _UNREPLIED:
                    status &= ~ct.IPS_SEEN_REPLY
                flag = ""
            continue
        if not equals:
            if ("dst", 1) not in fields:
                raise ValueError(f"unexpected word {word!r}")
            continue
        if name == "src":
            direction += 1
        in_tuple = name in _TUPLE_NAMES or name in _COUNTED_NAMES
        if not in_tuple and name not in _ENTRY_NAMES:
            continue
        if name == "id" and protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6):
            in_tuple = ("id", direction) not in fields
        key = name, direction if in_tuple else 2
        if not value or not -1 < key[1] < 3 or key in fields:
            raise ValueError(f"unexpected {word!r}")
        fields[key] = index
    if flag or direction != 1 or ("dst", 0) not in fields or ("dst", 1) not in fields:
        raise ValueError("does not hold two tuples")
    return fields, status


def _number(text: str, largest: int) -> int:
    value = int(text, 16) if text[:2] == "0x" else int(text) if text.isdigit() else -1
    if not 0 <= value <= largest:
        raise ValueError(f"not a number up to {largest}: {text!r}")
    return value


def parse(line: str) -> Entry:
    """Return the Entry of one line. Raises ValueError with the reason.

    start: where `-o timestamp` shows it, it is left out (local time without a zone). timeout: an
    entry past its time, which some kernels show as a negative number, has 0 seconds left.
    """
    words = split_words(line)
    if not words:
        raise ValueError("empty")
    layout = layout_of(words)
    fields = layout.fields

    def value(name: str, direction: int) -> str | None:
        at = fields.get((name, direction))
        return None if at is None else words[at].partition("=")[2]

    def number(name: str, direction: int, largest: int) -> int | None:
        text = value(name, direction)
        return None if text is None else _number(text, largest)

    def direction(which: int) -> ConntrackTuple:
        names = ("srckey", "dstkey") if layout.protocol == IPPROTO_GRE else ("sport", "dport")
        return ConntrackTuple(
            packed_address(value("src", which) or ""),
            packed_address(value("dst", which) or ""),
            layout.protocol,
            number(names[0], which, 0xFFFF),
            number(names[1], which, 0xFFFF),
            number("id", which, 0xFFFF),
            number("type", which, 0xFF),
            number("code", which, 0xFF),
            number(("zone-orig", "zone-reply")[which], which, 0xFFFF),
        )

    def counters(which: int) -> FlowCounters | None:
        packets, octets = (number(name, which, 2**64 - 1) for name in ("packets", "bytes"))
        return None if packets is None or octets is None else FlowCounters(packets, octets)

    original, reply = direction(0), direction(1)
    if any(
        (one.source_port is None) != (one.destination_port is None) for one in (original, reply)
    ):
        raise ValueError("one port without the other")
    if len({len(a) for a in (*original[:2], *reply[:2])}) != 1:
        raise ValueError("addresses of two families")
    seconds = None
    if layout.timeout_at is not None:
        word = words[layout.timeout_at]
        seconds = 0 if word[0] == "-" else _number(word, UINT32_MAX)
    return Entry(
        original=original,
        reply=reply,
        status=layout.status,
        timeout=seconds,
        state=layout.state,
        zone=number("zone", 2, 0xFFFF) or 0,
        mark=number("mark", 2, UINT32_MAX),
        helper=value("helper", 2),
        original_counters=counters(0),
        reply_counters=counters(1),
        use=number("use", 2, UINT32_MAX),
        secctx=value("secctx", 2),
    )


def split_words(line: str) -> list[str]:
    """Return the words of a line, without the dates of `-o timestamp`, which have blanks."""
    for opening in ("[start=", "[stop="):
        start = line.find(opening)
        if start >= 0:
            end = line.find("]", start)
            line = line[:start] + line[end + 1 :] if end >= 0 else line
    return line.split()


def entry_part(line: bytes) -> bytes:
    """Return the part of a line that looks like an entry, without what was put around it.

    Raises ValueError for an event, and for a line without such a part.
    """
    start = ENTRY_START.search(line)
    if start is None:
        raise ValueError("not an entry")
    before, entry = line[: start.start()], line[start.start() :]
    if _EVENT.search(before):
        raise ValueError("an event")
    if b'"' in before:
        entry = _JSON_END.sub(b"", entry)
    return entry


def is_remark(line: bytes) -> bool:
    """Return whether a line is neither an entry nor a fault.

    Such are blank lines, comments, and what conntrack(8) says of itself.
    """
    return not line.strip() or line.startswith((b"#", b"conntrack v")) or bool(SHOWN.search(line))


def entry_of(line: bytes) -> Entry | None:
    """Return the Entry of a line, None for a remark. Raises ValueError for any other line."""
    if is_remark(line):
        return None
    if len(line) > LONGEST_LINE:
        raise ValueError("too long")
    try:
        return parse(line.decode("ascii", "replace"))
    except ValueError:
        part = entry_part(line)
        if part == line:
            raise
        return parse(part.decode("ascii", "replace"))
