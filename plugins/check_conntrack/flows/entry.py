"""One tracked connection as a value, with the kernel's nouns.

Field by field what ctnetlink_fill_info() of net/netfilter/nf_conntrack_netlink.c sends; the text
forms (see text.py) fill what they show and leave the rest None. NamedTuple and not dataclass: the
dataclasses module costs a check more start-up time than it would save lines.
"""

from __future__ import annotations

import socket

from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel.namedtuple import NamedTuple

IPPROTO_ICMP = 1
IPPROTO_TCP = 6
IPPROTO_UDP = 17
IPPROTO_DCCP = 33
IPPROTO_GRE = 47
IPPROTO_ICMPV6 = 58
IPPROTO_SCTP = 132
IPPROTO_UDPLITE = 136

PROTOCOL_NAMES = {
    IPPROTO_ICMP: "icmp",
    IPPROTO_TCP: "tcp",
    IPPROTO_UDP: "udp",
    IPPROTO_DCCP: "dccp",
    IPPROTO_GRE: "gre",
    IPPROTO_ICMPV6: "icmpv6",
    IPPROTO_SCTP: "sctp",
    IPPROTO_UDPLITE: "udplite",
}

# enum tcp_conntrack; 9 was LISTEN, and is a simultaneous open today.
TCP_STATES = (
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
)
# enum ct_dccp_states, net/netfilter/nf_conntrack_proto_dccp.c
DCCP_STATES = (
    "NONE",
    "REQUEST",
    "RESPOND",
    "PARTOPEN",
    "OPEN",
    "CLOSEREQ",
    "CLOSING",
    "TIMEWAIT",
    "IGNORE",
    "INVALID",
)
# enum sctp_conntrack
SCTP_STATES = (
    "NONE",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "ESTABLISHED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
    "HEARTBEAT_ACKED",
)
STATE_NAMES = {
    IPPROTO_TCP: TCP_STATES,
    IPPROTO_DCCP: DCCP_STATES,
    IPPROTO_SCTP: SCTP_STATES,
}


class ConntrackTuple(NamedTuple):
    """One direction: struct nf_conntrack_tuple. Addresses are packed (4 or 16 bytes).

    Ports are None where the protocol has none. For GRE they are the two keys.
    """

    source: bytes
    destination: bytes
    protocol: int
    source_port: int | None = None
    destination_port: int | None = None
    icmp_id: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    zone: int | None = None


class Counters(NamedTuple):
    """Accounting of one direction (nf_conntrack_acct)."""

    packets: int
    bytes: int


class TcpInfo(NamedTuple):
    """CTA_PROTOINFO_TCP beside the state: window scales and flags (flags, mask)."""

    wscale_original: int | None = None
    wscale_reply: int | None = None
    flags_original: tuple[int, int] | None = None
    flags_reply: tuple[int, int] | None = None


class DccpInfo(NamedTuple):
    """CTA_PROTOINFO_DCCP beside the state."""

    role: int | None = None
    handshake_seq: int | None = None


class SctpInfo(NamedTuple):
    """CTA_PROTOINFO_SCTP beside the state: verification tags."""

    vtag_original: int | None = None
    vtag_reply: int | None = None


class SequenceAdjustment(NamedTuple):
    """CTA_SEQ_ADJ_*: how far a helper moved one direction's TCP sequence numbers."""

    correction_position: int
    offset_before: int
    offset_after: int


class SynProxy(NamedTuple):
    """CTA_SYNPROXY: what the SYN proxy keeps for a connection."""

    isn: int
    its: int
    tsoff: int


class Entry(NamedTuple):
    """A tracked connection: struct nf_conn, as far as it is shown.

    status: bits IPS_*. timeout: seconds left, None for offloaded flows. state: the protocol's own
    number, see STATE_NAMES. start, stop: nanoseconds since the epoch. labels: 128 bits as sent.
    """

    original: ConntrackTuple
    reply: ConntrackTuple
    status: int
    timeout: int | None = None
    state: int | None = None
    zone: int = 0
    mark: int | None = None
    labels: bytes | None = None
    helper: str | None = None
    original_counters: Counters | None = None
    reply_counters: Counters | None = None
    start: int | None = None
    stop: int | None = None
    master: ConntrackTuple | None = None
    identifier: int | None = None
    use: int | None = None
    secctx: str | None = None
    tcp: TcpInfo | None = None
    dccp: DccpInfo | None = None
    sctp: SctpInfo | None = None
    original_adjustment: SequenceAdjustment | None = None
    reply_adjustment: SequenceAdjustment | None = None
    synproxy: SynProxy | None = None

    @property
    def protocol(self) -> int:
        """The layer 4 protocol's number."""
        return self.original.protocol

    @property
    def family(self) -> int:
        """4 or 6."""
        return 4 if len(self.original.source) == 4 else 6

    @property
    def unreplied(self) -> bool:
        """No packet came back (IPS_SEEN_REPLY is not set)."""
        return not self.status & ct.IPS_SEEN_REPLY

    @property
    def source_translated(self) -> bool:
        """Whether replies go to another address or port than the original came from.

        Judged by the tuples, which every source shows alike; the kernel's bit IPS_SRC_NAT says
        the same of what netfilter translated, and nothing of what IPVS did.
        """
        one, two = self.original, self.reply
        return one.source != two.destination or _given(
            one.source_port if one.icmp_id is None else one.icmp_id
        ) != _given(two.destination_port if two.icmp_id is None else two.icmp_id)

    @property
    def destination_translated(self) -> bool:
        """Whether replies come from another address or port than the original went to."""
        one, two = self.original, self.reply
        return one.destination != two.source or _given(one.destination_port) != _given(
            two.source_port
        )


def _given(port: int | None) -> int:
    return 0 if port is None else port


def state_name(protocol: int, state: int | None) -> str:
    """A protocol's state in the kernel's word; the bare number when it is unknown; "" for none."""
    names = STATE_NAMES.get(protocol)
    if names is None or state is None:
        return ""
    return names[state] if state < len(names) else str(state)


def protocol_name(protocol: int) -> str:
    """As conntrack(8) prints it; "unknown" for those it has no name for."""
    return PROTOCOL_NAMES.get(protocol, "unknown")


def address_text(address: bytes) -> str:
    """A packed address in its short form."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def packed_address(text: str) -> bytes:
    """An address of either family, packed; raises ValueError for what is none."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, UnicodeError):
        raise ValueError(f"not an address: {text!r}") from None
