"""Compute the figures of a table, each under the name of its label, from a Tally."""

from __future__ import annotations

import collections

from ..kernel import ctnetlink as ct
from ..kernel.namedtuple import NamedTuple
from .entry import (
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
)
from .groups import (
    ASSURED,
    DESTINATION_NAT,
    EXPECTED,
    KEPT_HIGH,
    SEEN_REPLY,
    SOURCE_NAT,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .tally import Tally


class Figures(NamedTuple):
    """The figures of one table, each under the name of its label.

    Counts are of the entries that the filter keeps, scaled to the table where a sample was read;
    shares are percent.

    Attributes:
        expected: None where the source does not show it
        snat_ports: ports that the fullest source-NAT pool takes
        snat_port_usage: the same in percent of the ports that it may take
    """

    entries: int
    assured: int
    unreplied: int
    protected: int
    offloaded: int
    nat: int
    expected: int | None
    ipv4: int
    ipv6: int
    tcp: int
    udp: int
    icmp: int
    icmpv6: int
    sctp: int
    gre: int
    other: int
    tcp_syn_sent: int
    tcp_syn_recv: int
    tcp_established: int
    tcp_fin_wait: int
    tcp_close_wait: int
    tcp_last_ack: int
    tcp_time_wait: int
    tcp_close: int
    tcp_other: int
    top_source_share: float
    top_destination_share: float
    top_service_share: float
    top_zone_share: float
    top_source_entries: int
    top_destination_entries: int
    snat_ports: int
    snat_port_usage: float


def figures_of(tally: Tally, total: int | None = None) -> Figures:
    """Return the figures of a tally; total: as for Tally.figures."""
    scale = tally.scale(total)

    def count(groups: Iterable[int]) -> int:
        return round(sum(groups) * scale)

    groups = list(tally.grouped())
    protocols: collections.Counter[int] = collections.Counter()
    states: collections.Counter[int | None] = collections.Counter()
    for group, number in groups:
        protocols[group.protocol] += number
        if group.protocol == IPPROTO_TCP:
            states[group.state] += number
    named = (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_GRE)
    pools, services = tally.top_pools(1, total), tally.top_services(1)
    flagged = {
        "assured": ASSURED,
        "offloaded": KEPT_HIGH,
        "nat": SOURCE_NAT | DESTINATION_NAT,
        "expected": EXPECTED,
    }
    having = {
        name: count(number for group, number in groups if group.flags & bits)
        for name, bits in flagged.items()
    }
    return Figures(
        entries=round(tally.kept * scale),
        assured=having["assured"],
        unreplied=count(number for group, number in groups if not group.flags & SEEN_REPLY),
        protected=count(number for group, number in groups if group.protected),
        offloaded=having["offloaded"],
        nat=having["nat"],
        expected=having["expected"] if tally.expected_known else None,
        ipv4=count(number for group, number in groups if group.family == 4),
        ipv6=count(number for group, number in groups if group.family == 6),
        tcp=count([protocols[IPPROTO_TCP]]),
        udp=count([protocols[IPPROTO_UDP]]),
        icmp=count([protocols[IPPROTO_ICMP]]),
        icmpv6=count([protocols[IPPROTO_ICMPV6]]),
        sctp=count([protocols[IPPROTO_SCTP]]),
        gre=count([protocols[IPPROTO_GRE]]),
        other=count(number for key, number in protocols.items() if key not in named),
        tcp_syn_sent=count([states[ct.TCP_CONNTRACK_SYN_SENT]]),
        tcp_syn_recv=count([states[ct.TCP_CONNTRACK_SYN_RECV]]),
        tcp_established=count([states[ct.TCP_CONNTRACK_ESTABLISHED]]),
        tcp_fin_wait=count([states[ct.TCP_CONNTRACK_FIN_WAIT]]),
        tcp_close_wait=count([states[ct.TCP_CONNTRACK_CLOSE_WAIT]]),
        tcp_last_ack=count([states[ct.TCP_CONNTRACK_LAST_ACK]]),
        tcp_time_wait=count([states[ct.TCP_CONNTRACK_TIME_WAIT]]),
        tcp_close=count([states[ct.TCP_CONNTRACK_CLOSE]]),
        tcp_other=count(n for key, n in states.items() if key is None or not 1 <= key <= 8),
        top_source_share=tally.largest_share(tally.sources),
        top_destination_share=tally.largest_share(tally.destinations),
        top_service_share=services[0].share if services else 0.0,
        top_zone_share=tally.largest_zone_share,
        top_source_entries=tally.largest_entries(tally.sources, total),
        top_destination_entries=tally.largest_entries(tally.destinations, total),
        snat_ports=pools[0].entries if pools else 0,
        snat_port_usage=pools[0].share if pools else 0.0,
    )
