"""The wording: the text of one kernel message, and what it says about lost connections.

Follows net/netfilter/nf_conntrack_core.c, nf_conntrack_expect.c, net/openvswitch/conntrack.c and
lib/ratelimit.c, from Linux 2.4's ip_conntrack to the newest.
"""

from __future__ import annotations

import enum
import re

from ..namedtuple import NamedTuple


class Kind(enum.Enum):
    """What a message reports; the value is stable and may be stored."""

    TABLE_FULL = "table_full"
    """A packet was dropped because the table was at its limit."""
    EXPECTATION_FULL = "expectation_full"
    """A helper could not announce a related connection: nf_conntrack_expect_max."""
    ZONE_LIMIT = "zone_limit"
    """Open vSwitch refused a connection: the zone's own limit."""
    SUPPRESSED = "suppressed"
    """The kernel's rate limit swallowed messages, of conntrack or of other networking code."""


class Message(NamedTuple):
    """What one message says."""

    kind: Kind
    times: int = 1
    """Messages it stands for; for SUPPRESSED, messages that were swallowed."""
    netns: int | None = None
    """Inode of the network namespace, where the kernel names it."""
    zone: int | None = None
    """Conntrack zone, for ZONE_LIMIT."""


# Kernels put their module's name before the text, and some of the texts hold it already.
_MESSAGE = re.compile(
    r"(?:(?:nf|ip)_conntrack: ){1,3}"
    r"(?:(?P<full>table full(?: in netns (?P<netns>[0-9]{1,20}))?, dropping packet"
    r"|maximum limit of [0-9]{1,20} entries exceeded)"
    r"|(?P<expectation>expectation table full))\.?"
    r"|(?:openvswitch: ){1,3}zone: (?P<zone>[0-9]{1,10}) exceeds conntrack limit\.?"
    # Other functions' "callbacks suppressed" belong to rate limits of their own. Before 2.6.27
    # the notice came from printk or NET.
    r"|(?:net_ratelimit|__ratelimit|printk|NET): (?P<suppressed>[0-9]{1,10}) "
    r"(?:callbacks|messages) suppressed\.?"
)
_REPEATED = re.compile(
    r"message repeated (?P<times>[0-9]{1,9}) times?: \[ ?(?:\[ *[0-9]+\.[0-9]+\] ?)?(?P<text>.*)\]"
)
# rsyslog folds only what it has just written itself, so one level is all there is.
_TRAILING = " \t\r\n\0"


def parse_message(text: str) -> Message | None:
    """Return what the message says, or None when it says nothing of lost connections.

    ``text`` is the message alone, without time stamp, host or ``kernel:``. The whole of it must
    be the kernel's wording: a text that quotes the wording says nothing. rsyslog's ``message
    repeated N times: [ ... ]`` counts N. Raises nothing.
    """
    text = text.rstrip(_TRAILING)
    times = 1
    if text.startswith("message repeated "):
        repeated = _REPEATED.fullmatch(text)
        if repeated is None:
            return None
        times = int(repeated["times"])
        text = repeated["text"].rstrip(_TRAILING)
    found = _MESSAGE.fullmatch(text)
    if found is None or not times:
        return None
    if found["full"]:
        netns = found["netns"]
        return Message(Kind.TABLE_FULL, times, int(netns) if netns else None)
    if found["expectation"]:
        return Message(Kind.EXPECTATION_FULL, times)
    if found["zone"]:
        return Message(Kind.ZONE_LIMIT, times, zone=int(found["zone"]))
    return Message(Kind.SUPPRESSED, times * int(found["suppressed"]))
