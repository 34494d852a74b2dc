"""Describe a table by the values that a diagnosis goes by, and by the words they share."""

from __future__ import annotations

from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FEWEST = 100  # entries, below which shares say little
PRESSED = 70.0  # percent of the limit, from which on a large share of the ordinary matters
# Seconds without a packet after which an established connection is called idle. TCP keep-alive of
# an open connection begins after 7200 s and gives up 675 s later by default (tcp(7)).
LONG_IDLE = 9000
MANY = 1000  # entries from which on a cause matters in a table that is nearly empty
BUSY = 10.0  # percent of the limit from which on any does
SENDER = 50.0  # percent of unanswered entries that one source, network or target stands for
# An own address, with a program that takes UDP from anybody on that port, and with none.
LISTENS, CLOSED = "listens", "closed"
NAMED = 20.0  # percent, from which on a source or destination is named and met alone


class TopItem(NamedTuple):
    """The first line of a top list.

    Attributes:
        name: as the top list prints it, with its zone
        share: percent of what the list counts
        entries: the same as a number, scaled to the whole table
        address: an address or a network; empty for a service
        zone: of the address, in the original direction; 0 for none
        protocol: its name, as in "tcp"; empty for an address alone
        port: the destination port; 0 for none
        owner: what owns the address, in short; empty if that is not known
    """

    name: str = ""
    share: float = 0.0
    entries: int = 0
    address: str = ""
    zone: int = 0
    protocol: str = ""
    port: int = 0
    owner: str = ""


class Unanswered(NamedTuple):
    """Entries of one protocol whose flows got no answer, or were left half open.

    Attributes:
        protocol: its name, as in "udp"
        state: SYN_SENT or SYN_RECV for TCP; empty where the protocol has none
        entries: how many, scaled to the whole table
        share: percent of all entries
        source: the largest source; shares here and below are of these entries
        network: the largest source network (/24, /64, or --prefix)
        target: the largest destination with its protocol and port
        destination: the largest destination address, whatever the port
        destination_network: the smallest network that holds nearly all destinations
        sources, targets, ports: different ones that were counted
        spread: different sources of 100 entries; 100 where each has its own
        translated: percent of these entries whose destination is translated
        backends: the hosts that the target's go to after translation, the most first; one where
            nearly all go there, and none where they are not translated
        private, reserved: percent of the sources that are private addresses, and that nobody has
        answered, recent: other flows to the target that were answered, of UDP alone; and those of
            them that were answered just now
        source_translated: percent of these entries whose source is translated
        reached: what the kernel knows of the target, or of the one backend: a code of
            kernel/destinations.py, LISTENS or CLOSED; empty where nobody has asked
        device: the interface on which it would be
    """

    protocol: str
    state: str = ""
    entries: int = 0
    share: float = 0.0
    source: TopItem = TopItem()
    network: TopItem = TopItem()
    target: TopItem = TopItem()
    destination: TopItem = TopItem()
    destination_network: TopItem = TopItem()
    sources: int = 0
    targets: int = 0
    ports: int = 0
    spread: float = 0.0
    translated: float = 0.0
    backends: tuple[TopItem, ...] = ()
    private: float = 0.0
    reserved: float = 0.0
    answered: int = 0
    recent: int = 0
    source_translated: float = 0.0
    reached: str = ""
    device: str = ""

    @property
    def backend(self) -> TopItem:
        """Return the one host that nearly all of the target's go to; empty where there is none."""
        return self.backends[0] if len(self.backends) == 1 else TopItem()


class LeakEnds(NamedTuple):
    """The ends of leaked connections; shares are of these connections.

    Attributes:
        source, target: the largest of each; a target has a port
        destination: the largest destination, whatever the port
        to_target, to_destination, from_source: all connections of these in the same state, scaled
            to the whole table
    """

    source: TopItem = TopItem()
    target: TopItem = TopItem()
    to_target: int = 0
    destination: TopItem = TopItem()
    to_destination: int = 0
    from_source: int = 0


class StaleFlows(NamedTuple):
    """Flows whose translation leads nowhere, or where newer flows no longer go.

    Attributes:
        destination: where they were sent, with protocol and port
        target: where they go; the destination itself where they are not translated
        entries: how many, scaled to the whole table
        seconds: within which each of them had a packet
        code: what the kernel knows of the target (kernel/destinations.py)
        device: the interface on which the target would be
        elsewhere: where newer flows to the same destination go; empty where that is not known
        answered: they were answered before
        elsewhere_owner: what owns that address, in short; empty if that is not known
    """

    destination: TopItem
    target: TopItem
    entries: int
    seconds: int
    code: str = ""
    device: str = ""
    elsewhere: str = ""
    answered: bool = False
    elsewhere_owner: str = ""

    @property
    def translated(self) -> bool:
        """Return whether they go elsewhere than they were sent to."""
        sent_to, target = self.destination, self.target
        return (sent_to.address, sent_to.port) != (target.address, target.port)


class TableProfile(NamedTuple):
    """The values of a table that a diagnosis goes by. Shares are percent of `entries`.

    Attributes:
        entries: those that were counted; of a sample not more
        total: what they stand for, in the whole table
        usage: percent of the limit, of the whole table; None where no limit is known
        unanswered: by protocol and state, the most first; of shares from NAMED on
        time_wait, close_wait, established: TCP in this state, and the service it goes to
        fin_wait, last_ack, reset: TCP in FIN_WAIT, LAST_ACK and CLOSE
        closing_service: the service that most of the larger one of FIN_WAIT and LAST_ACK go to
        reset_service: the same of CLOSE
        idle: established TCP without a packet for LONG_IDLE or longer
        open_sockets: established TCP sockets of `established_service` that are open on this host;
            None where nobody knows
        closing_sockets: TCP sockets in CLOSE_WAIT of `close_wait_service` on this host; None where
            nobody knows
        dns: to port 53
        unreplied, assured, translated: entries that are; translated: source or destination
        source, network, destination, service: the first of each top list
        pool: the target of the fullest source-NAT pool; its share is of `pool_size`
        pool_address: the translated address of that pool
        pool_ports: the ports it takes
        pool_size: the ports it may take
        pool_range: the first and last of these, where the rule restricts them
        timeouts: seconds by the last words of their sysctl's name, (present or None, default)
        command: leads into the namespace, and ends with a space; else empty
        own: addresses in this profile that are this namespace's own, and networks that hold one
        own_known: all own addresses are known, not only loopback
        gateways: addresses in this profile that are default gateways, and networks that hold one
        gateways_known: all default gateways are known
        here: what the namespace or the host of the table is called
        kube_proxy: kube-proxy runs here and sets limits and some timeouts itself
        zones: entries have zones
        original_zones: some have one in the original direction alone
        tcp_loose: nf_conntrack_tcp_loose; None where it is not known
        stale: flows with a stale translation, the most first
        close_wait_ends, idle_ends: who has the connections in CLOSE_WAIT, and the idle ones
        closing_ends, reset_ends: who has those of closing_service, and of reset_service
    """

    entries: int
    total: int = 0
    usage: float | None = None
    unanswered: tuple[Unanswered, ...] = ()
    time_wait: float = 0.0
    time_wait_service: TopItem = TopItem()
    close_wait: float = 0.0
    close_wait_service: TopItem = TopItem()
    fin_wait: float = 0.0
    last_ack: float = 0.0
    closing_service: TopItem = TopItem()
    reset: float = 0.0
    reset_service: TopItem = TopItem()
    established: float = 0.0
    established_service: TopItem = TopItem()
    idle: float = 0.0
    open_sockets: int | None = None
    closing_sockets: int | None = None
    dns: float = 0.0
    unreplied: float = 0.0
    assured: float = 0.0
    translated: float = 0.0
    source: TopItem = TopItem()
    network: TopItem = TopItem()
    destination: TopItem = TopItem()
    service: TopItem = TopItem()
    pool: TopItem = TopItem()
    pool_address: str = ""
    pool_ports: int = 0
    pool_size: int = 0
    pool_range: tuple[int, int] | None = None
    timeouts: Mapping[str, tuple[int | None, int]] = {}
    command: str = ""
    own: frozenset[str] = frozenset()
    own_known: bool = False
    gateways: frozenset[str] = frozenset()
    gateways_known: bool = False
    here: str = "this host"
    kube_proxy: bool = False
    zones: bool = False
    original_zones: bool = False
    tcp_loose: int | None = None
    stale: tuple[StaleFlows, ...] = ()
    close_wait_ends: LeakEnds = LeakEnds()
    idle_ends: LeakEnds = LeakEnds()
    closing_ends: LeakEnds = LeakEnds()
    reset_ends: LeakEnds = LeakEnds()

    @property
    def leaks(self) -> tuple[LeakEnds, ...]:
        """Return the ends of all that may be leaked."""
        return self.close_wait_ends, self.idle_ends, self.closing_ends, self.reset_ends

    @property
    def closing_state(self) -> str:
        """Return the state of most connections that do not finish closing."""
        return "FIN_WAIT" if self.fin_wait >= self.last_ack else "LAST_ACK"

    @property
    def weighty(self) -> bool:
        """Return whether there are entries enough for any cause to matter."""
        if self.entries < FEWEST:
            return False
        return self.usage is None or self.usage >= BUSY or self.total >= MANY

    @property
    def pressed(self) -> bool:
        """Return whether the table is so full that what fills it matters, harmless or not."""
        return self.usage is not None and self.usage >= PRESSED


def overlaps(one: float, other: float) -> bool:
    """Return whether most entries of the second share must be in the first."""
    return one + other - 100 >= other / 2


def idle_goes_to_service(profile: TableProfile) -> bool:
    """Return whether most idle connections must go to the service of most established ones."""
    service = profile.established_service
    both = service.share + profile.idle - max(profile.established, service.share, profile.idle)
    return service.port > 0 and both >= profile.idle / 2


def called(item: TopItem, profile: TableProfile) -> str:
    """Return the name of an address with its owner, or whether it is the namespace's own."""
    owner = item.owner or (profile.here if item.address in profile.own else "")
    return f"{item.name} ({owner})" if owner else item.name


def with_owner(item: TopItem, name: str = "") -> str:
    """Return the name of an address, or another, with its owner, if that is known."""
    return f"{name or item.name} ({item.owner})" if item.owner else name or item.name
