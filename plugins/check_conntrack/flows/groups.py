"""Group entries by what few of them differ in: family, protocol, state and flags."""

from __future__ import annotations

from ..kernel import ctnetlink as ct
from ..kernel.namedtuple import NamedTuple
from .entry import IPPROTO_TCP

# Flags of a group: the kernel's bits where they fit a byte, and own ones for what tuples show.
EXPECTED = ct.IPS_EXPECTED
SEEN_REPLY = ct.IPS_SEEN_REPLY
ASSURED = ct.IPS_ASSURED
SOURCE_NAT = 1 << 3
DESTINATION_NAT = 1 << 4
OFFLOAD = ct.IPS_OFFLOAD >> 8
HW_OFFLOAD = ct.IPS_HW_OFFLOAD >> 8
KEPT_LOW = EXPECTED | SEEN_REPLY | ASSURED
KEPT_HIGH = OFFLOAD | HW_OFFLOAD

# States from which net/netfilter/nf_conntrack_core.c, gc_worker_can_early_drop(), evicts assured
# TCP (nf_conntrack_proto_tcp.c, tcp_can_early_drop).
TCP_CLOSING = frozenset(
    (
        ct.TCP_CONNTRACK_FIN_WAIT,
        ct.TCP_CONNTRACK_CLOSE_WAIT,
        ct.TCP_CONNTRACK_LAST_ACK,
        ct.TCP_CONNTRACK_TIME_WAIT,
        ct.TCP_CONNTRACK_CLOSE,
    )
)
HALF_OPEN = frozenset((ct.TCP_CONNTRACK_SYN_SENT, ct.TCP_CONNTRACK_SYN_RECV))


class Group(NamedTuple):
    """The properties that the entries of one group share.

    Attributes:
        family: 4 or 6
        protocol: the number of the layer 4 protocol
        state: the protocol's own number; None where it has none
        flags: constants of this module
    """

    family: int
    protocol: int
    state: int | None
    flags: int

    @property
    def half_open(self) -> bool:
        """Return whether these are half-open TCP connections."""
        return self.protocol == IPPROTO_TCP and self.state in HALF_OPEN

    @property
    def unanswered(self) -> bool:
        """Return whether no reply was seen, or the connections are half open."""
        return self.half_open or not self.flags & SEEN_REPLY

    @property
    def protected(self) -> bool:
        """Return whether the kernel never evicts such an entry early.

        early_drop_list() passes over assured ones, gc_worker_can_early_drop() over assured ones
        that are not closing. Older kernels pass over offloaded ones too (early_drop_list() to about
        6.3, the collector to 6.10): nobody should rely on that.
        """
        if not self.flags & ASSURED:
            return False
        return self.protocol != IPPROTO_TCP or self.state not in TCP_CLOSING
