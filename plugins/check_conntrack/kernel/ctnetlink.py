"""The ctnetlink vocabulary: numbers with their kernel names, and the request for a dump.

Every name is the one in <linux/netlink.h>, <linux/netfilter/nfnetlink.h>,
<linux/netfilter/nfnetlink_conntrack.h>, <linux/netfilter/nf_conntrack_common.h>,
nf_conntrack_tcp.h and nf_conntrack_sctp.h. The flags of CTA_FILTER stand in the kernel's
net/netfilter/nf_internals.h alone. Attribute headers are in host byte order, values big-endian,
save the flags of CTA_FILTER, which the kernel reads in host order.
"""

from __future__ import annotations

import struct

from .namedtuple import NamedTuple

# <linux/netlink.h>
NETLINK_NETFILTER = 12
NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_OVERRUN = 4
NLM_F_REQUEST = 0x01
NLM_F_MULTI = 0x02
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

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

NLMSGHDR = struct.Struct("=IHHII")
NFGENMSG = struct.Struct(">BBH")
NLATTR = struct.Struct("=HH")


class TupleFilter(NamedTuple):
    """What one direction's tuple must hold; None means anything. Addresses are packed.

    The kernel compares addresses whole (no prefixes) and ports only where a protocol is given.
    """

    source: bytes | None = None
    destination: bytes | None = None
    protocol: int | None = None
    source_port: int | None = None
    destination_port: int | None = None


class KernelFilter(NamedTuple):
    """What the kernel is asked to keep; every part must match. Filter the answer again.

    Kernels before 5.8 ignore CTA_FILTER, older ones CTA_STATUS and CTA_ZONE too: they hand out
    the whole table, and say nothing.
    """

    family: int = 0
    original: TupleFilter | None = None
    reply: TupleFilter | None = None
    status: int | None = None
    status_mask: int = 0
    zone: int | None = None
    mark: int | None = None
    mark_mask: int = 0xFFFFFFFF


def attribute(kind: int, payload: bytes) -> bytes:
    """One struct nlattr with its payload, padded to four bytes."""
    return NLATTR.pack(4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def message(kind: int, flags: int, sequence: int, family: int, payload: bytes) -> bytes:
    """One ctnetlink message: struct nlmsghdr, struct nfgenmsg, attributes."""
    header = NLMSGHDR.pack(
        NLMSGHDR.size + NFGENMSG.size + len(payload),
        NFNL_SUBSYS_CTNETLINK << 8 | kind,
        flags,
        sequence,
        0,
    )
    return header + NFGENMSG.pack(family, NFNETLINK_V0, 0) + payload


def dump_request(sequence: int, wanted: KernelFilter | None = None) -> bytes:
    """The message that asks for the table: IPCTNL_MSG_CT_GET with NLM_F_DUMP.

    net/netfilter/nf_conntrack_netlink.c, ctnetlink_alloc_filter(). `sequence` comes back in every
    message of the answer. Raises ValueError for what the kernel would refuse: a tuple without a
    family, a port without a protocol.
    """
    wanted = wanted or KernelFilter()
    parts: list[bytes] = []
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
        parts.append(tuple_attribute)
        flags.append(attribute(flag_kind, struct.pack("=I", bits)))
    if flags:
        parts.append(nested(CTA_FILTER, *flags))
    if wanted.status is not None:
        parts.append(attribute(CTA_STATUS, struct.pack(">I", wanted.status)))
        parts.append(attribute(CTA_STATUS_MASK, struct.pack(">I", wanted.status_mask)))
    if wanted.zone is not None:
        parts.append(attribute(CTA_ZONE, struct.pack(">H", wanted.zone)))
    if wanted.mark is not None:
        parts.append(attribute(CTA_MARK, struct.pack(">I", wanted.mark)))
        parts.append(attribute(CTA_MARK_MASK, struct.pack(">I", wanted.mark_mask)))
    return message(
        IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, sequence, wanted.family, b"".join(parts)
    )


def _tuple_filter(kind: int, fields: TupleFilter) -> tuple[int, bytes]:
    """The flag bits and the nested tuple that CTA_FILTER wants for one direction."""
    bits = 0
    addresses: list[bytes] = []
    for address, bit, v4, v6 in (
        (fields.source, CTA_FILTER_F_CTA_IP_SRC, CTA_IP_V4_SRC, CTA_IP_V6_SRC),
        (fields.destination, CTA_FILTER_F_CTA_IP_DST, CTA_IP_V4_DST, CTA_IP_V6_DST),
    ):
        if address is not None:
            bits |= bit
            addresses.append(attribute(v4 if len(address) == 4 else v6, address))
    ports: list[bytes] = []
    for port, bit, port_kind in (
        (fields.source_port, CTA_FILTER_F_CTA_PROTO_SRC_PORT, CTA_PROTO_SRC_PORT),
        (fields.destination_port, CTA_FILTER_F_CTA_PROTO_DST_PORT, CTA_PROTO_DST_PORT),
    ):
        if port is not None:
            if fields.protocol is None:
                raise ValueError("a filter on a port needs a protocol")
            bits |= bit
            ports.append(attribute(port_kind, struct.pack(">H", port)))
    parts: list[bytes] = []
    if addresses:
        parts.append(nested(CTA_TUPLE_IP, *addresses))
    if fields.protocol is not None:
        bits |= CTA_FILTER_F_CTA_PROTO_NUM
        number = attribute(CTA_PROTO_NUM, bytes([fields.protocol]))
        parts.append(nested(CTA_TUPLE_PROTO, number, *ports))
    return bits, nested(kind, *parts)
