"""Name the numbers of ctnetlink, and write the request for a dump.

Every name is the one in <linux/netfilter/nfnetlink.h>,
<linux/netfilter/nfnetlink_conntrack.h>, <linux/netfilter/nf_conntrack_common.h>,
nf_conntrack_tcp.h and nf_conntrack_sctp.h. The flags of CTA_FILTER are in the kernel's
net/netfilter/nf_internals.h alone. Values are big-endian, except for the flags of CTA_FILTER, which
the kernel reads in host byte order.
"""

from __future__ import annotations

import struct

from .namedtuple import NamedTuple
from .netlink import NLA_F_NESTED, NLATTR, NLM_F_DUMP, NLM_F_REQUEST, NLMSGHDR

# <linux/netfilter/nfnetlink.h>
NFNL_SUBSYS_CTNETLINK = 1
NFNETLINK_V0 = 0

# enum cntl_msg_types
IPCTNL_MSG_CT_NEW = 0
IPCTNL_MSG_CT_GET = 1

# enum ctattr_type
CTA_TUPLE_ORIG = 1
CTA_TUPLE_REPLY = 2
CTA_STATUS = 3
CTA_PROTOINFO = 4
CTA_HELP = 5
CTA_NAT_SRC = 6
CTA_TIMEOUT = 7
CTA_MARK = 8
CTA_COUNTERS_ORIG = 9
CTA_COUNTERS_REPLY = 10
CTA_USE = 11
CTA_ID = 12
CTA_NAT_DST = 13
CTA_TUPLE_MASTER = 14
CTA_SEQ_ADJ_ORIG = 15
CTA_SEQ_ADJ_REPLY = 16
CTA_SECMARK = 17
CTA_ZONE = 18
CTA_SECCTX = 19
CTA_TIMESTAMP = 20
CTA_MARK_MASK = 21
CTA_LABELS = 22
CTA_LABELS_MASK = 23
CTA_SYNPROXY = 24
CTA_FILTER = 25
CTA_STATUS_MASK = 26

# enum ctattr_tuple
CTA_TUPLE_IP = 1
CTA_TUPLE_PROTO = 2
CTA_TUPLE_ZONE = 3

# enum ctattr_ip
CTA_IP_V4_SRC = 1
CTA_IP_V4_DST = 2
CTA_IP_V6_SRC = 3
CTA_IP_V6_DST = 4

# enum ctattr_l4proto
CTA_PROTO_NUM = 1
CTA_PROTO_SRC_PORT = 2
CTA_PROTO_DST_PORT = 3
CTA_PROTO_ICMP_ID = 4
CTA_PROTO_ICMP_TYPE = 5
CTA_PROTO_ICMP_CODE = 6
CTA_PROTO_ICMPV6_ID = 7
CTA_PROTO_ICMPV6_TYPE = 8
CTA_PROTO_ICMPV6_CODE = 9

# enum ctattr_protoinfo and what nests in it
CTA_PROTOINFO_TCP = 1
CTA_PROTOINFO_DCCP = 2
CTA_PROTOINFO_SCTP = 3
CTA_PROTOINFO_TCP_STATE = 1
CTA_PROTOINFO_TCP_WSCALE_ORIGINAL = 2
CTA_PROTOINFO_TCP_WSCALE_REPLY = 3
CTA_PROTOINFO_TCP_FLAGS_ORIGINAL = 4
CTA_PROTOINFO_TCP_FLAGS_REPLY = 5
CTA_PROTOINFO_DCCP_STATE = 1
CTA_PROTOINFO_DCCP_ROLE = 2
CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ = 3
CTA_PROTOINFO_SCTP_STATE = 1
CTA_PROTOINFO_SCTP_VTAG_ORIGINAL = 2
CTA_PROTOINFO_SCTP_VTAG_REPLY = 3

# enum ctattr_counters, ctattr_tstamp, ctattr_help, ctattr_secctx, ctattr_seqadj, ctattr_synproxy
CTA_COUNTERS_PACKETS = 1
CTA_COUNTERS_BYTES = 2
CTA_COUNTERS32_PACKETS = 3
CTA_COUNTERS32_BYTES = 4
CTA_TIMESTAMP_START = 1
CTA_TIMESTAMP_STOP = 2
CTA_HELP_NAME = 1
CTA_HELP_INFO = 2
CTA_SECCTX_NAME = 1
CTA_SEQADJ_CORRECTION_POS = 1
CTA_SEQADJ_OFFSET_BEFORE = 2
CTA_SEQADJ_OFFSET_AFTER = 3
CTA_SYNPROXY_ISN = 1
CTA_SYNPROXY_ITS = 2
CTA_SYNPROXY_TSOFF = 3

# enum ctattr_filter, and the bits of its flags (net/netfilter/nf_internals.h)
CTA_FILTER_ORIG_FLAGS = 1
CTA_FILTER_REPLY_FLAGS = 2
CTA_FILTER_F_CTA_IP_SRC = 1 << 0
CTA_FILTER_F_CTA_IP_DST = 1 << 1
CTA_FILTER_F_CTA_PROTO_NUM = 1 << 3
CTA_FILTER_F_CTA_PROTO_SRC_PORT = 1 << 4
CTA_FILTER_F_CTA_PROTO_DST_PORT = 1 << 5

# enum ip_conntrack_status
IPS_EXPECTED = 1 << 0
IPS_SEEN_REPLY = 1 << 1
IPS_ASSURED = 1 << 2
IPS_CONFIRMED = 1 << 3
IPS_SRC_NAT = 1 << 4
IPS_DST_NAT = 1 << 5
IPS_SEQ_ADJUST = 1 << 6
IPS_SRC_NAT_DONE = 1 << 7
IPS_DST_NAT_DONE = 1 << 8
IPS_DYING = 1 << 9
IPS_FIXED_TIMEOUT = 1 << 10
IPS_HELPER = 1 << 13
IPS_OFFLOAD = 1 << 14
IPS_HW_OFFLOAD = 1 << 15

# enum tcp_conntrack
TCP_CONNTRACK_NONE = 0
TCP_CONNTRACK_SYN_SENT = 1
TCP_CONNTRACK_SYN_RECV = 2
TCP_CONNTRACK_ESTABLISHED = 3
TCP_CONNTRACK_FIN_WAIT = 4
TCP_CONNTRACK_CLOSE_WAIT = 5
TCP_CONNTRACK_LAST_ACK = 6
TCP_CONNTRACK_TIME_WAIT = 7
TCP_CONNTRACK_CLOSE = 8
TCP_CONNTRACK_SYN_SENT2 = 9

NFGENMSG = struct.Struct(">BBH")


class TupleFilter(NamedTuple):
    """Values that one direction's tuple must have. The kernel compares whole addresses only.

    Attributes:
        source, destination: packed addresses; None for any
        protocol: its number; None for any
    """

    source: bytes | None = None
    destination: bytes | None = None
    protocol: int | None = None


class KernelFilter(NamedTuple):
    """A filter for the kernel: every part must match. Filter the answer again.

    Kernels before 5.8 ignore CTA_FILTER and send the whole table without a word.

    Attributes:
        family: AF_INET, AF_INET6, or 0 for both
        original, reply: what the tuples must hold; None for anything
        zone: of either direction; None for any
        mark: the value, and the mask that is laid over a mark before; None for any
    """

    family: int = 0
    original: TupleFilter | None = None
    reply: TupleFilter | None = None
    zone: int | None = None
    mark: tuple[int, int] | None = None


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one struct nlattr with its payload, padded to four bytes."""
    return NLATTR.pack(4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that holds others."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def message(kind: int, flags: int, sequence: int, family: int = 0, payload: bytes = b"") -> bytes:
    """Return one ctnetlink message: struct nlmsghdr, struct nfgenmsg, attributes."""
    header = NLMSGHDR.pack(
        NLMSGHDR.size + NFGENMSG.size + len(payload),
        NFNL_SUBSYS_CTNETLINK << 8 | kind,
        flags,
        sequence,
        0,
    )
    return header + NFGENMSG.pack(family, NFNETLINK_V0, 0) + payload


def dump_request(sequence: int, wanted: KernelFilter | None = None) -> bytes:
    """Return the message that asks for the table: IPCTNL_MSG_CT_GET with NLM_F_DUMP.

    net/netfilter/nf_conntrack_netlink.c, ctnetlink_alloc_filter(). `sequence` comes back in every
    message of the answer. Raises ValueError for a filter on tuples without a family, which the
    kernel would refuse.
    """
    wanted = wanted or KernelFilter()
    tuples: list[bytes] = []
    flags: list[bytes] = []
    for fields, kind, flag_kind in (
        (wanted.original, CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS),
        (wanted.reply, CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS),
    ):
        if fields is None:
            continue
        if not wanted.family:
            raise ValueError("a filter on tuples needs an address family")
        bits, tuple_attribute = _tuple_filter(kind, fields)
        tuples.append(tuple_attribute)
        flags.append(attribute(flag_kind, struct.pack("=I", bits)))
    parts = [*tuples, nested(CTA_FILTER, *flags)] if flags else []
    if wanted.zone is not None:
        parts.append(attribute(CTA_ZONE, struct.pack(">H", wanted.zone)))
    if wanted.mark is not None:
        for kind, number in zip((CTA_MARK, CTA_MARK_MASK), wanted.mark):
            parts.append(attribute(kind, struct.pack(">I", number)))
    return message(
        IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, sequence, wanted.family, b"".join(parts)
    )


def _tuple_filter(kind: int, fields: TupleFilter) -> tuple[int, bytes]:
    """Return the flag bits and the nested tuple of CTA_FILTER for one direction."""
    bits = 0
    addresses: list[bytes] = []
    for address, bit, v4, v6 in (
        (fields.source, CTA_FILTER_F_CTA_IP_SRC, CTA_IP_V4_SRC, CTA_IP_V6_SRC),
        (fields.destination, CTA_FILTER_F_CTA_IP_DST, CTA_IP_V4_DST, CTA_IP_V6_DST),
    ):
        if address is not None:
            bits |= bit
            addresses.append(attribute(v4 if len(address) == 4 else v6, address))
    parts = [nested(CTA_TUPLE_IP, *addresses)] if addresses else []
    if fields.protocol is not None:
        bits |= CTA_FILTER_F_CTA_PROTO_NUM
        parts.append(nested(CTA_TUPLE_PROTO, attribute(CTA_PROTO_NUM, bytes([fields.protocol]))))
    return bits, nested(kind, *parts)
