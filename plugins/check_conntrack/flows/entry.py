"""Describe one tracked connection as a value, with the kernel's names.

The fields come from ctnetlink_fill_info() of net/netfilter/nf_conntrack_netlink.c; the text forms
(see text_line.py) fill what they show and leave the rest None.
"""

from __future__ import annotations

import socket

from ..kernel import ctnetlink as ct
from ..kernel.namedtuple import NamedTuple

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
    """One direction of a flow: struct nf_conntrack_tuple.

    Attributes:
        source, destination: packed addresses (4 or 16 bytes)
        protocol: the number of the layer 4 protocol
        source_port, destination_port: None where the protocol has none; the two keys of GRE
        icmp_id, icmp_type, icmp_code: None for other protocols
        zone: of this direction alone; None for none
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


class FlowCounters(NamedTuple):
    """Accounting of one direction (nf_conntrack_acct)."""

    packets: int
    bytes: int


class Entry(NamedTuple):
    """A tracked connection: struct nf_conn, as far as the suite reads it.

    Attributes:
        original, reply: the tuples of both directions
        status: bits IPS_*
        timeout: seconds left; None for offloaded flows
        state: the protocol's own number, see STATE_NAMES; None where it has none
        zone: of both directions; 0 for none
        mark, helper, use, secctx: None where the kernel shows none
        original_counters, reply_counters: None without accounting
    """

    original: ConntrackTuple
    reply: ConntrackTuple
    status: int
    timeout: int | None = None
    state: int | None = None
    zone: int = 0
    mark: int | None = None
    helper: str | None = None
    original_counters: FlowCounters | None = None
    reply_counters: FlowCounters | None = None
    use: int | None = None
    secctx: str | None = None

    @property
    def protocol(self) -> int:
        """Return the number of the layer 4 protocol."""
        return self.original.protocol

    @property
    def family(self) -> int:
        """Return 4 or 6."""
        return 4 if len(self.original.source) == 4 else 6

    @property
    def any_zone(self) -> int:
        """Return the zone of the entry, whichever direction it is of; 0 for none.

        The kernel keeps one zone for an entry, and the directions in which the entry has it
        (struct nf_conntrack_zone).
        """
        return self.zone or self.original.zone or self.reply.zone or 0

    @property
    def unreplied(self) -> bool:
        """Return whether no packet came back (IPS_SEEN_REPLY is not set)."""
        return not self.status & ct.IPS_SEEN_REPLY

    @property
    def source_translated(self) -> bool:
        """Return whether replies go to another address or port than the original came from.

        The tuples decide, since every source shows them. The kernel's bit IPS_SRC_NAT says the same
        of what netfilter translated, and nothing of what IPVS translated.
        """
        one, two = self.original, self.reply
        return one.source != two.destination or _given(
            one.source_port if one.icmp_id is None else one.icmp_id
        ) != _given(two.destination_port if two.icmp_id is None else two.icmp_id)

    @property
    def destination_translated(self) -> bool:
        """Return whether replies come from another address or port than the original went to."""
        one, two = self.original, self.reply
        return one.destination != two.source or _given(one.destination_port) != _given(
            two.source_port
        )


def has_ports(protocol: int) -> bool:
    """Return whether a protocol's port fields are ports. GRE's are keys."""
    return protocol != IPPROTO_GRE


def _given(port: int | None) -> int:
    return 0 if port is None else port


def state_name(protocol: int, state: int | None) -> str:
    """Return the kernel's word for a state; its number when it is unknown, "" for none."""
    names = STATE_NAMES.get(protocol)
    if names is None or state is None:
        return ""
    return names[state] if state < len(names) else str(state)


def protocol_name(protocol: int) -> str:
    """Return the name that conntrack(8) prints; "unknown" where it has none."""
    return PROTOCOL_NAMES.get(protocol, "unknown")


def address_text(address: bytes) -> str:
    """Return a packed address in its short form."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
