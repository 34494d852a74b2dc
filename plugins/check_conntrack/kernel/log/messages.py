"""Find the kernel's messages of lost connections in a text, whatever surrounds them.

The wording follows net/netfilter/nf_conntrack_core.c, nf_conntrack_expect.c,
net/openvswitch/conntrack.c and lib/ratelimit.c, from Linux 2.4's ip_conntrack to the newest, and
OpenVZ's kernels, which name the container.
"""

from __future__ import annotations

import enum
import re

from ..namedtuple import NamedTuple

NEEDLES = (b"conntrack", b"s suppress", b"_CONNTRACK")
"""Byte strings to search a log for: each message of interest holds one of them.

The third is for logs in capitals, without the status lines of this suite. It takes an eighth of the
time of a search.
"""


class Kind(enum.Enum):
    """The kind of a message; the value is stable and may be stored."""

    TABLE_FULL = "table_full"
    """A packet was dropped because the table was at its limit."""
    EXPECTATION_FULL = "expectation_full"
    """A helper could not announce a related connection: nf_conntrack_expect_max."""
    ZONE_LIMIT = "zone_limit"
    """Open vSwitch refused a connection: the zone's own limit."""
    SUPPRESSED = "suppressed"
    """The kernel's rate limit suppressed messages, of conntrack or of other networking code."""


class Message(NamedTuple):
    """One message.

    ``times`` is the number of messages it stands for; for SUPPRESSED, the number of suppressed
    messages. ``netns`` is the inode of the network namespace, where the kernel names it. ``zone``
    is the conntrack zone, for ZONE_LIMIT.
    """

    kind: Kind
    times: int = 1
    netns: int | None = None
    zone: int | None = None


_TABLE_FULL = Message(Kind.TABLE_FULL)


class Match(NamedTuple):
    """A message in a text, and where it begins and ends."""

    message: Message
    start: int
    end: int


def _or_truncated(words: str) -> str:
    """Return a pattern for the words, or for as many of them as fit before the end of the text."""
    pattern = ""
    for letter in reversed(words):
        pattern = f"(?:{re.escape(letter)}{pattern})?" if pattern else f"{re.escape(letter)}?"
    return rf"(?:{re.escape(words)}|{pattern}\Z)"


# Kernels put their module's name before the text, and some of the texts hold it already.
_MODULE = r"(?:[ni][fp]6?\\?_(?:conntrack|ct)(?:_[a-z0-9_]{1,32})?: {0,2})"
_CONTAINER = r"(?:\b(?:VE|VPS|CT)[ :#]{0,2}[\w.-]{1,64}:? {1,2})"
_PHRASE = re.compile(
    rf"(?:{_MODULE}{{1,3}}{_CONTAINER}?(?:"
    rf"(?P<full>table full(?: in netns (?P<netns>[0-9]{{1,20}}))?"
    + _or_truncated(", dropping packet")
    + r"|maximum limit of [0-9]{1,20} entries exceeded)"
    r"|(?P<expectation>expectation table full))"
    # Some kernels leave out the colon behind the module's name.
    r"|(?P<bare>[ni][fp]_conntrack table full, dropping packet)"
    r"|(?:openvswitch: (?:netlink: )?){1,3}zone: (?P<zone>[0-9]{1,10}) exceeds conntrack limit"
    r")\.?",
    re.IGNORECASE | re.ASCII,
)
_CONTAINER_BEFORE = re.compile(rf"{_CONTAINER}\Z", re.ASCII)
# Other functions' "callbacks suppressed" belong to rate limits of their own. Before 2.6.27 the
# notice came from printk or NET.
_NOTICE = re.compile(
    r"(?<![\w.-])(?:net_ratelimit|__ratelimit|printk|NET|\w{0,40}conntrack\w{0,40}): "
    r"(?P<suppressed>[0-9]{1,10}) (?:callbacks|messages) suppresse?d?\.?",
    re.ASCII,
)


def find_messages(text: str) -> list[Match]:
    """Return the messages in the text in their order, whoever's words they are. Raise nothing."""
    matches = []
    # To begin at the module's name takes a third of the time.
    begin = 0 if "openvswitch" in text else max(0, text.find("_conntrack") - 4)
    for match in _PHRASE.finditer(text, begin):
        if match["full"] or match["bare"]:
            netns = match["netns"]
            message = Message(Kind.TABLE_FULL, 1, int(netns)) if netns else _TABLE_FULL
        elif match["zone"]:
            message = Message(Kind.ZONE_LIMIT, zone=int(match["zone"]))
        else:
            message = Message(Kind.EXPECTATION_FULL)
        start = match.start()
        if text[start - 2 : start] == ": ":
            container = _CONTAINER_BEFORE.search(text, max(0, start - 80), start)
            start = start if container is None else container.start()
        matches.append(Match(message, start, match.end()))
    if " suppress" in text:
        for match in _NOTICE.finditer(text):
            message = Message(Kind.SUPPRESSED, int(match["suppressed"]))
            matches.append(Match(message, match.start(), match.end()))
        matches.sort(key=lambda match: match.start)
    return matches


# A message ends its line, or a bracket, a quotation mark of what wraps it or the next message
# follows. Daemons write a newline as #012, \n or ^M. NX-OS appends the program.
_END = re.compile(
    r"[.!]?(?:\s|\\+[nr](?![a-z])|\\u000[aAdD]|#01[25]|&#x?[0-9a-fA-F]{1,4};|\^M|\0|</?br ?/?>)*"
    r"(?:\Z|[\[\]{}<|*;]|\)|\([^()]*\)\s*\Z|- kernel\s*\Z|\t|[\"'](?:[\s,;|}\])]|\Z))"
)


def ends_message(text: str, end: int) -> bool:
    """Tell whether a message that ends at ``end`` is complete there.

    A sentence that goes on behind it quotes the message.
    """
    return "\t" in text[end : end + 2] or _END.match(text, end) is not None


def parse_message(text: str) -> Message | None:
    """Return the message in a record of the kernel's own, or None.

    ``text`` is the record's text alone, without time stamp, host or ``kernel:``. A text that
    quotes a message reports nothing. Raises nothing.
    """
    for line in text.splitlines():
        for match in find_messages(line):
            if not line[: match.start].strip() and ends_message(line, match.end):
                return match.message
    return None
