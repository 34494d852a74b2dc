"""The command line of check_conntrack_table: its labels, its options, and what they ask for."""

from __future__ import annotations

from .. import cli
from ..ranges import Label
from .sources import AUTO, CONNTRACK, LIVE, NETLINK, PROC, ReadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

PURPOSE = """\
What fills the kernel's connection-tracking table, why, and what to do about it.
Reading the table needs CAP_NET_ADMIN, or the reader through --sudo."""
LABELS = (
    Label("usage", "all entries, in percent of the limit", "%", 1, warning="80", critical="90"),
    Label("protected_usage", "entries exempt from early eviction, in percent of the limit", "%", 1),
    Label(
        "snat_port_usage",
        "the fullest source-NAT port pool, in percent of its ports",
        "%",
        1,
        warning="80",
        critical="90",
    ),
    Label(
        "entries", "entries that the filters keep; a bound in % is of the limit", share_of="limit"
    ),
    *(
        Label(name, meaning, share_of="entries")
        for name, meaning in (
            ("assured", "traffic both ways: not evicted early while open"),
            ("unreplied", "no reply seen"),
            ("protected", "exempt from early eviction: assured and not closing"),
            ("offloaded", "in a flow table, bypassing the firewall rules"),
            ("nat", "translated, source or destination"),
            ("expected", "created by a helper expectation (netlink source only)"),
            ("ipv4", "entries of this family"),
            ("ipv6", "entries of this family"),
            ("tcp", "entries of this protocol, as the next five"),
            ("udp", ""),
            ("icmp", ""),
            ("icmpv6", ""),
            ("sctp", ""),
            ("gre", ""),
            ("other", "entries of any other protocol"),
            ("tcp_syn_sent", "TCP in this state, as the next seven"),
            ("tcp_syn_recv", ""),
            ("tcp_established", ""),
            ("tcp_fin_wait", ""),
            ("tcp_close_wait", ""),
            ("tcp_last_ack", ""),
            ("tcp_time_wait", ""),
            ("tcp_close", ""),
            ("tcp_other", "TCP in any other state"),
        )
    ),
    Label("top_source_share", "share of the largest source", "%", 1),
    Label("top_destination_share", "share of the largest destination", "%", 1),
    Label("top_service_share", "share of the largest protocol and port", "%", 1),
    Label("top_zone_share", "share of the largest zone; 0 without zones", "%", 1),
    Label("top_source_entries", "entries of the largest source", share_of="entries"),
    Label("top_destination_entries", "entries of the largest destination", share_of="entries"),
    Label(
        "stale",
        "entries still translated to where nobody is or newer flows do not go",
        share_of="entries",
        warning="10",
    ),
)
# So many further namespaces have perfdata, the fullest first, with these labels.
MOST_NAMESPACES = 10
NAMESPACE_LABELS = ("usage", "entries", "snat_port_usage")
DEFAULT_ENTRIES = 100000
MOST_LINES = 1000  # of a top list
EXAMPLES = """\
Examples:
  check_conntrack_table --sudo
  check_conntrack_table --sudo -w tcp_syn_recv=5% -c tcp_syn_recv=20% -w snat_port_usage=60
  check_conntrack_table --sudo --address 192.0.2.7 --top 5 -v
  check_conntrack_table --source /tmp/collected.gz --prefix 24/64 -v
  check_conntrack_table --sudo --netns all --save /var/lib/check-conntrack/snapshots
"""


def _valid(parse: Callable[[str], object]) -> Callable[[str], str]:
    """Return an argparse type that keeps the text of an argument if `parse` accepts it."""

    def check(text: str) -> str:
        import argparse

        try:
            parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return check


def _between(least: int, most: int) -> Callable[[str], int]:
    """Return an argparse type for a number in this range."""

    def number(text: str) -> int:
        import argparse

        if not (text.isascii() and text.isdigit() and len(text) <= 15):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number")
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most}")
        return int(text)

    return number


def _network(text: str) -> object:
    from ..kernel.networks import network

    return network(text)


def _protocol(text: str) -> object:
    from ..flows.match import protocol_number

    return protocol_number(text)


def _state(text: str) -> object:
    from ..flows.match import state_numbers

    return state_numbers(text)


def _mark(text: str) -> object:
    from ..flows.match import mark

    return mark(text)


def _prefixes(text: str) -> object:
    from ..flows.tally import prefixes

    return prefixes(text)


def port_range(text: str) -> tuple[int, int]:
    """Return the first and last port of a range such as 20000-20999; raises ValueError."""
    low, dash, high = text.partition("-")
    if not (dash and text.isascii() and low.isdigit() and high.isdigit()):
        raise ValueError(f"invalid port range {text!r} (LOW-HIGH, as in 20000-20999)")
    if not 1 <= int(low) <= int(high) <= 65535:
        raise ValueError(f"invalid port range {text!r} (1 to 65535, LOW not above HIGH)")
    return int(low), int(high)


def parser() -> cli.Parser:
    """Return the command line parser of this check."""
    table_parser = cli.make_parser("check_conntrack_table", PURPOSE, LABELS, EXAMPLES)
    add = table_parser.add_argument_group("options of this check").add_argument
    add(
        "--source",
        default=AUTO,
        metavar="SOURCE",
        help="auto (default: ctnetlink, then /proc, then conntrack -L), netlink, proc, conntrack, "
        "or a file with the output of one of these, also gzip; - is standard input",
    )
    add(
        "--timeouts",
        metavar="FILE",
        help="timeouts and limits of the host that a file came from: the output of sysctl -a",
    )
    add(
        "--address",
        action="append",
        default=[],
        type=_valid(_network),
        metavar="CIDR",
        help="keep flows with this address, original or translated; repeatable, as all filters",
    )
    for option, kind, help_ in (
        ("--protocol", _protocol, "keep flows of this protocol: a name, or a number"),
        ("--state", _state, "keep flows in this state, as in SYN_SENT"),
    ):
        add(
            option,
            action="append",
            default=[],
            type=_valid(kind),
            metavar=option[2:].upper(),
            help=help_,
        )
    add(
        "--port",
        action="append",
        default=[],
        type=_between(1, 65535),
        metavar="PORT",
        help="keep flows with this port, on either side",
    )
    add(
        "--zone",
        action="append",
        default=[],
        type=_between(0, 65535),
        metavar="N",
        help="keep flows in this conntrack zone, of either direction; 0 is no zone",
    )
    add(
        "--mark",
        action="append",
        default=[],
        type=_valid(_mark),
        metavar="VALUE[/MASK]",
        help="keep flows with this connection mark, as in 5 or 0x10/0xf0",
    )
    add(
        "--top",
        type=_between(1, MOST_LINES),
        default=10,
        metavar="N",
        help="lines of each top list (default: 10)",
    )
    add(
        "--names",
        action="store_true",
        help="name the owners of addresses: pods, containers, machines, units; needs the reader",
    )
    add(
        "--prefix",
        type=_valid(_prefixes),
        default="32/128",
        metavar="V4/V6",
        help="count addresses by their networks, as in 24/64",
    )
    add(
        "--nat-ports",
        type=_valid(port_range),
        metavar="LOW-HIGH",
        help="ports that the source-NAT rule allows, as in 20000-20999 (default: what the "
        "entries show, else 1024-65535)",
    )
    add(
        "--max-entries",
        type=_between(0, 10**9),
        default=DEFAULT_ENTRIES,
        metavar="N",
        help="if a live table has more than N entries, estimate from N of them; 0 reads all "
        "(default: 100000)",
    )
    add(
        "--save",
        metavar="DIR",
        help="save the whole table in DIR, as gzip text, when a problem begins and every 15 "
        "minutes while it lasts",
    )
    add(
        "--save-when",
        choices=("always", "warning", "critical"),
        default="warning",
        metavar="STATE",
        help="save from this state on: always, warning (default), critical",
    )
    add(
        "--keep",
        type=_between(1, 10000),
        default=10,
        metavar="N",
        help="number of snapshots to keep; the first of an incident stays longest (default: 10)",
    )
    return table_parser


def validate(options: argparse.Namespace) -> None:
    """Raise UsageError for options that exclude each other."""
    if options.netns and options.source not in (AUTO, NETLINK, PROC):
        raise cli.UsageError(f"--netns: cannot be combined with --source {options.source}")
    if options.timeouts and options.source in LIVE:
        raise cli.UsageError("--timeouts: needs a table from a file (add --source FILE)")
    if options.save and options.source not in LIVE:
        raise cli.UsageError("--save: needs a live table (leave out --source FILE)")


def read_request(options: argparse.Namespace) -> ReadRequest:
    """Return what to count, as the options ask for it; raises UsageError if nothing can match."""
    from ..flows import match, tally

    entries = match.parse(
        options.address,
        options.protocol,
        options.state,
        options.port,
        options.zone,
        options.mark,
    )
    contradiction = match.contradiction(entries)
    if contradiction:
        raise cli.UsageError(contradiction)
    most = options.max_entries if options.source in LIVE else 0
    nat_ports = port_range(options.nat_ports) if options.nat_ports else None
    return ReadRequest(entries, tally.prefixes(options.prefix), most, nat_ports)


def readers_needed(options: argparse.Namespace) -> int:
    """Return how many questions every run has for the reader: the namespaces, and the table."""
    if options.source not in LIVE:
        return 0
    return bool(options.netns) + (options.source in (AUTO, NETLINK, PROC))


def readers_to_spare(options: argparse.Namespace) -> int:
    """Return how many more questions a run may have for the reader."""
    if options.source not in LIVE:
        return 0
    # For a diagnosis the timeouts and the addresses of one namespace, or the names of all.
    number = 2 if options.netns else 0
    number += 1 if options.names else 0
    if options.source in (AUTO, NETLINK):
        # A filter that lets too much pass is followed by a sample of everything.
        filters = options.address or options.protocol or options.zone or options.mark
        number += 1 if filters else 0
    # Where netlink gives nothing, /proc may.
    number += int(options.source == AUTO)
    return number + (2 if options.save else 0)


def later_modules(options: argparse.Namespace) -> list[str]:
    """Return the modules that are imported on demand, after privileges were dropped."""
    modules = [] if options.source in LIVE else ["gzip"]
    suite = [
        "flows.bulk",
        "flows.text",
        "flows.text_columns",
        "kernel.table_file",
        "kernel.conntrack_cli",
        "kernel.own_addresses",
        "kernel.timeouts",
        "advice.diagnosis",
        "table.profile",
        "table.stale",
    ]
    if options.source not in LIVE:
        suite += ["flows.text_form", "table.files", "table.names"]
    if options.names:
        suite += ["kernel.socket_owners", "table.names"]
    if options.save:
        suite += ["table.snapshots", "table.table_text", "flows.text_writer"]
    return modules + ["check_conntrack." + name for name in suite]


def may_use_conntrack(options: argparse.Namespace) -> bool:
    """Return whether conntrack(8) is one of the sources that the options allow."""
    return options.source in (AUTO, CONNTRACK) and not options.netns
