"""check_conntrack_table: what fills the connection-tracking table, why, and what to do about it.

Reads every entry, or a sample of them, through the reader, from conntrack(8), or from a file. In
three acts: Contents (acquire), contexts (evaluate), TableSummary (present).
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress

from nagiosplugin import Metric, Ok, Resource, Result, Results, Summary, Unknown

from .. import nagios, places, render, runner, session
from ..kernel import KernelError, privileges
from ..kernel.limits import OWN, read_limits
from ..kernel.namedtuple import NamedTuple
from ..ranges import Label, parse_thresholds
from ..state import trend
from ..state.state_store import boot_id, kept_series, series_of
from ..table import table_sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence, Set

    from ..advice.advice_rules import Cause, Largest, Mixture
    from ..flows.match import Match
    from ..flows.tally import Figures, Top
    from ..kernel.conntrack_cli import Conntrack
    from ..kernel.limits import Limits
    from ..session import Session

TITLE = "CONNTRACK_TABLE"
PURPOSE = """\
What fills the kernel's connection-tracking table, why, and what to do about it.
Reading the table takes a right: CAP_NET_ADMIN, or the reader through --sudo."""
LABELS = (
    Label("usage", "entries of the limit, whatever is kept", "%", 1, warning="80", critical="90"),
    Label("protected_usage", "entries the kernel frees for nobody, of the limit", "%", 1),
    Label(
        "snat_port_usage",
        "the fullest source-NAT port pool, of 64512 ports",
        "%",
        1,
        warning="80",
        critical="90",
    ),
    Label("entries", "entries kept; a bound in % is of the limit", share_of="limit"),
    *(
        Label(name, meaning, share_of="entries")
        for name, meaning in (
            ("assured", "traffic both ways: never evicted early while open"),
            ("unreplied", "nothing came back"),
            ("protected", "freed for nobody: assured or offloaded, and not closing"),
            ("offloaded", "in a flow table"),
            ("nat", "translated, source or destination"),
            ("expected", "born of an expectation; only netlink tells"),
            ("ipv4", "of this family"),
            ("ipv6", "of this family"),
            ("tcp", "of this protocol, as the next six"),
            ("udp", ""),
            ("icmp", ""),
            ("icmpv6", ""),
            ("sctp", ""),
            ("gre", ""),
            ("other", "of any other protocol"),
            ("tcp_syn_sent", "TCP in this state, as the next eight"),
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
)
# Of further namespaces so many are graphed, the fullest first, by these labels.
MOST_NAMESPACES = 10
NAMESPACE_LABELS = ("usage", "entries", "snat_port_usage")
DEFAULT_ENTRIES = 100000
SPARE_TIME = 0.5  # seconds that a snapshot leaves for what comes after it
MOST_LINES = 1000
# Without -v, of each list.
FEW_LINES = 3
EXAMPLES = """\
Examples:
  check_conntrack_table --sudo
  check_conntrack_table --sudo -w tcp_syn_recv=5% -c tcp_syn_recv=20% -w snat_port_usage=60
  check_conntrack_table --sudo --address 192.0.2.7 --top 5 -v
  check_conntrack_table --source /tmp/collected.gz --prefix 24/64 -v
  check_conntrack_table --sudo --netns all --save /var/lib/check-conntrack/snapshots
"""


class Place(NamedTuple):
    """A network namespace, or a file, with its table as far as it could be read.

    `limits` is None for a file, `table` where nothing could be read. `peak` is the largest count
    known, `key` what the place's memory goes by.
    """

    name: str
    prefix: str
    inode: int
    path: str
    limits: Limits | None
    table: table_sources.Table | None = None
    figures: Figures | None = None
    peak: int = 0
    key: str = ""

    @property
    def fullness(self) -> tuple[float, int]:
        """What orders places, the fullest highest."""
        if not self.limits:
            return (0.0, 0)
        return (self.limits.usage or 0.0, self.limits.entries)

    def metrics(self, *, quiet: bool) -> Iterator[Metric]:
        """The figures in the order of LABELS; of further namespaces the main ones alone."""
        values = dict(zip(self.figures._fields, self.figures)) if self.figures else {}
        most: dict[str, int | None] = {}
        limits = self.limits
        if limits:
            values["usage"] = limits.usage
            values.setdefault("entries", limits.entries)
            most["entries"] = limits.limit or None
            if self.figures and limits.limit:
                values["protected_usage"] = 100 * self.figures.protected / limits.limit
        for label in LABELS:
            value = values.get(label.name)
            if value is not None and (not self.prefix or label.name in NAMESPACE_LABELS):
                yield Metric(
                    self.prefix + label.name,
                    value,
                    min=label.minimum,
                    max=100 if label.unit == "%" else most.get(label.name),
                    context=("quiet " if quiet else "") + label.name,
                )


# --- acquire


class Contents(Resource):
    """The tables of the network namespaces, or the file, that were asked for.

    After probe(): `places`, the one the plain labels speak of first; `problems`, what could not
    be looked at; `refusals`, of each source that gave nothing; `inactive`; `whole`, what a share
    of the entries is a share of.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        session: Session,
        wanted: table_sources.Wanted,
        programs: list[Conntrack],
        stack: ExitStack,
    ) -> None:
        self.options = options
        self.session = session
        self.store = session.store
        self.wanted = wanted
        self.programs = programs
        self.stack = stack
        self.places: list[Place] = []
        self.problems: list[str] = []
        self.refusals: list[table_sources.Refusal] = []
        self.inactive = False
        self.whole: int | None = None

    @property
    def from_file(self) -> bool:
        """Whether the table is in a file, of a host that need not be this one."""
        return self.options.source not in table_sources.LIVE

    def probe(self) -> Iterator[Metric]:
        """The first place's metrics, what stands in the way, then the other namespaces'."""
        first: Place | None
        others: list[Place]
        first, others = (self._listing(), []) if self.from_file else self._live()
        others.sort(key=lambda place: place.fullness, reverse=True)
        graphed = [place for place in others[:MOST_NAMESPACES] if place.fullness[1]]
        quiet = others[len(graphed) :]
        if first:
            self.whole = first.figures.entries if first.figures else None
            self.places.append(first)
            yield from first.metrics(quiet=False)
        self.places += graphed + quiet
        for problem in self.problems:
            yield Metric("problem", problem, context="problem")
        if self.inactive:
            yield Metric("inactive", "conntrack is not active", context="inactive")
        for place in graphed:
            yield from place.metrics(quiet=False)
        for place in quiet:
            yield from place.metrics(quiet=True)

    def _listing(self) -> Place:
        table = table_sources.read_listing(self.options.source, self.wanted, self.session.stage)
        if table.fault:
            self.problems.append(table.fault)
        return Place("", "", 0, "", None, table, table.tally.figures())

    def _live(self) -> tuple[Place | None, list[Place]]:
        self.session.stage("reading /proc/sys/net/netfilter")
        sight = places.look(self.session, self.options.netns)
        self.problems += sight.problems
        self.inactive = bool(sight.inactive)
        spots = [sight.first] if sight.first else []
        spots += sight.others
        # The largest ones are read, the first always: each takes its time.
        full = sorted(sight.others, key=lambda spot: spot.limits.entries, reverse=True)
        read = ([sight.first] if sight.first else []) + [
            spot for spot in full[:MOST_NAMESPACES] if spot.limits.entries
        ]
        found = self._read({spot.path: spot.limits.entries for spot in read})
        seen = []
        for spot in spots:
            table = found.get(spot.path)
            if spot in read and isinstance(table, table_sources.Table):
                seen.append(_place(spot, self._compared(table, spot)))
            elif spot not in read or spot.path in found or spot.path == OWN:
                seen.append(_place(spot, None))
            # Any other is gone since it was looked at.
        self.session.stage(f"remembering this run in {self.store.folder}")
        first = next((place for place in seen if not place.prefix), None)
        others = [place for place in seen if place.prefix]
        return self._with_peak(first), self._with_peaks(others, {spot.path for spot in read})

    def _read(
        self, counts: dict[str, int]
    ) -> dict[str, table_sources.Table | table_sources.Refusal]:
        """The tables by the paths of their namespaces, from the first source that gives them."""
        found: dict[str, table_sources.Table | table_sources.Refusal] = {}
        left = dict(counts)
        for source in self._sources():
            if not left:
                break
            got = self._try(source, left)
            for path in list(left):
                table = got.get(path)
                if isinstance(table, table_sources.Table):
                    if not table.fault or path not in found:
                        found[path] = table
                    if not table.fault:
                        del left[path]
                elif table is None:  # gone
                    del left[path]
                else:
                    self.refusals.append(table)
                    found.setdefault(path, table)
        self.problems += dict.fromkeys(
            table.fault
            for table in found.values()
            if isinstance(table, table_sources.Table)
            if table.fault
        )
        if any(isinstance(table, table_sources.Refusal) for table in found.values()):
            self.problems.append(self._unread())
        return found

    def timeouts(self, place: Place) -> dict[str, int]:
        """The timeouts in force in a place, as far as anybody tells; none for a file."""
        from ..kernel.timeouts import read_timeouts, timeouts_of

        if place.path == OWN:
            return read_timeouts()
        if not place.path or not self.session.may_ask:
            return {}
        with suppress(KernelError):
            return timeouts_of(self.session.ask([b"timeouts", os.fsencode(place.path)]))
        return {}

    def _compared(self, table: table_sources.Table, spot: places.Spot) -> table_sources.Table:
        """The table, with a note where it is not the one that was counted."""
        if table.sampled or table.fault or self.wanted.match.narrows():
            return table
        before = after = spot.limits.entries
        if spot.path == OWN:
            with suppress(KernelError):
                limits = read_limits()
                after = limits.entries if limits else 0
        note = table_sources.apart(table, before, after)
        return table._replace(notes=(*table.notes, note)) if note else table

    def _sources(self) -> tuple[str, ...]:
        if self.options.source == table_sources.AUTO:
            return (table_sources.NETLINK, table_sources.PROC, table_sources.CONNTRACK)
        return (self.options.source,)

    def _try(
        self, source: str, counts: dict[str, int]
    ) -> dict[str, table_sources.Table | table_sources.Refusal]:
        try:
            if source == table_sources.NETLINK:
                return table_sources.read_netlink(self.session, self.wanted, counts)
            if source == table_sources.PROC:
                return table_sources.read_proc(self.session, self.wanted, counts)
            own = {path: count for path, count in counts.items() if path == OWN}
            elsewhere = table_sources.Refusal(source, "it looks into no other namespace")
            got: dict[str, table_sources.Table | table_sources.Refusal]
            got = dict.fromkeys(counts.keys() - own.keys(), elsewhere)
            if own:
                program = self.program()
                got.update(
                    table_sources.read_conntrack(program, self.session.stage, self.wanted, own)
                )
            return got
        except session.ForbiddenError:
            right = "CAP_NET_ADMIN" if source == table_sources.NETLINK else "root"
            refusal = table_sources.Refusal(source, "no right, and no --sudo", right)
        except KernelError as error:
            refusal = table_sources.Refusal(source, str(error))
        return dict.fromkeys(counts, refusal)

    def program(self) -> Conntrack:
        """conntrack(8), started before rights ended, or now. Raises KernelError."""
        if not self.programs:
            from ..kernel.conntrack_cli import Conntrack

            self.programs.append(self.stack.enter_context(Conntrack()))
        return self.programs.pop()

    def _unread(self) -> str:
        """Why there is no table, for the status line."""
        reasons = dict.fromkeys(self.refusals)
        if any(refusal.right for refusal in reasons):
            tried = ", ".join(dict.fromkeys(refusal.source for refusal in reasons))
            return f"no right to read the table (tried {tried})"
        return "the table cannot be read: " + "; ".join(map(str, reasons))

    def _with_peak(self, first: Place | None) -> Place | None:
        """The first place with the largest count of 30 days, this run's included."""
        if first is None:
            return None
        kept = self.store.update(f"table/{first.key}/{self.options.state_key}", _change(first))
        return first._replace(peak=_peak(first, kept))

    def _with_peaks(self, others: list[Place], read: Set[str]) -> list[Place]:
        """The same of further places, whose peaks share a file: of those at the paths in `read`."""
        changes = {place.key: _change(place) for place in others if place.path in read}
        if not changes:
            return others
        key = places.further_key("table", self.options.netns, self.options.state_key)
        kept = self.store.update_each(key, changes)
        return [
            place._replace(peak=_peak(place, kept[place.key])) if place.key in kept else place
            for place in others
        ]


def _place(spot: places.Spot, table: table_sources.Table | None) -> Place:
    """The place with what was read of it."""
    figures = table.tally.figures(table.whole) if table else None
    entries = spot.limits.entries
    return Place(
        spot.name,
        spot.prefix,
        spot.inode,
        spot.path,
        spot.limits,
        table,
        figures,
        entries,
        spot.key,
    )


def _change(place: Place) -> Callable[[object], object]:
    """What adds this run to the peaks that are kept of a place."""
    boot = boot_id()
    today = trend.Peak(int(time.time() // 86400), place.peak)

    def change(kept: object) -> object:
        _, peaks = series_of(kept, boot, place.inode)
        return kept_series(boot, place.inode, (), trend.with_peak(peaks, today))

    return change


def _peak(place: Place, kept: object) -> int:
    """The largest count that is kept of a place."""
    _, peaks = series_of(kept, boot_id(), place.inode)
    return max(peak.entries for peak in peaks)


# --- present


def mixture(place: Place, timeouts: Mapping[str, int], command: str = "") -> Mixture:
    """What a diagnosis goes by, from what was counted; `timeouts` are those in force, if known."""
    from ..advice import advice_rules
    from ..kernel import ctnetlink as ct
    from ..kernel import host
    from ..kernel.timeouts import DEFAULTS

    table, figures = place.table, place.figures
    assert table  # noqa: S101 - nobody asks about a table that was not read
    assert figures  # noqa: S101
    tally = table.tally
    whole = figures.entries or 1
    kept = tally.kept or 1
    established = timeouts.get("tcp_timeout_established") or _assumed(tally.longest_established)
    unacknowledged = max(
        timeouts.get(name, DEFAULTS[name])
        for name in ("tcp_timeout_unacknowledged", "tcp_timeout_max_retrans")
    )
    idle = tally.established_idle(advice_rules.LONG_IDLE, established, unacknowledged)
    names = _largest(tally.top_sources(1)), _largest(tally.top_half_open_sources(1))

    def most_in(state: int) -> Largest:
        return _largest(tally.top_services(1, state=state))

    return advice_rules.Mixture(
        entries=tally.kept,
        usage=place.limits.usage if place.limits else None,
        half_open=100 * tally.half_open_sources.total / kept,
        half_open_source=names[1],
        half_open_service=_largest(tally.top_half_open_services(1)),
        time_wait=100 * figures.tcp_time_wait / whole,
        time_wait_service=most_in(ct.TCP_CONNTRACK_TIME_WAIT),
        close_wait=100 * figures.tcp_close_wait / whole,
        close_wait_service=most_in(ct.TCP_CONNTRACK_CLOSE_WAIT),
        established=100 * figures.tcp_established / whole,
        established_service=most_in(ct.TCP_CONNTRACK_ESTABLISHED),
        idle=100 * idle / kept,
        dns=tally.port_share(53),
        unreplied=100 * figures.unreplied / whole,
        assured=100 * figures.assured / whole,
        translated=100 * figures.nat / whole,
        source=names[0],
        destination=_largest(tally.top_destinations(1)),
        service=_largest(tally.top_services(1)),
        pool=_largest(tally.top_pools(1, table.whole)),
        pool_ports=figures.snat_ports,
        timeouts={name: (timeouts.get(name), default) for name, default in DEFAULTS.items()},
        command=command,
        own=frozenset(
            each.name for each in names if place.path == OWN and host.has_address(each.name)
        ),
    )


def _largest(tops: Sequence[Top]) -> Largest:
    from ..advice.advice_rules import Largest

    return Largest(tops[0].name, tops[0].share) if tops else Largest()


# What people set the timeout of established connections to, in seconds.
_USUAL = (600, 1800, 3600, 7200, 10800, 21600, 43200, 54000, 86400, 172800, 259200, 432000)


def _assumed(longest: int) -> int:
    """The timeout that was in force where a table was collected, by the longest time left."""
    return next((usual for usual in _USUAL if usual >= longest), longest)


class TableSummary(Summary):
    """The sentence for the status line, and the lines below it.

    `shown` is the place that the sentence is about.
    """

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.shown: Place | None = None
        self._found: tuple[Place, Mixture, list[Cause]] | None = None

    def ok(self, results: Results) -> str:
        """The figures of the first place."""
        return self.problem(results)

    def problem(self, results: Results) -> str:
        """The fullest of the worst, what it looks like, what alarms, and what was not seen."""
        contents = self.contents
        parts = []
        head = self.shown = self.head(results)
        if head:
            alarms = nagios.alarms(_of(head, results))
            narrowed = head.table and contents.wanted.match.narrows()
            if head.limits or not narrowed:
                parts.append(_sentence(head, results))
            if narrowed:
                parts.append(_matching(head, contents.wanted.match))
            parts += contents.problems
            parts += [
                nagios.alarm(result)
                for result in alarms
                if nagios.label_of(result) not in ("usage", "entries")
            ]
            rest = _doubts(head)
            if alarms or contents.from_file:
                causes = [cause.sentence(self._mixture(head)) for cause in self.causes(head)[:1]]
                parts += [_fitted(cause, [*parts, *rest]) for cause in causes]
            parts += rest
        else:
            if contents.inactive:
                parts.append("conntrack is not active on this host")
            parts += contents.problems
        if len(contents.places) > 1:
            parts.append(f"{len(contents.places)} namespaces seen")
        return "; ".join(parts)

    def empty(self) -> str:
        """There is nothing to say anything about."""
        return "every namespace that was asked for is gone"

    def verbose(self, results: Results) -> list[str]:
        """What alarms, why and what to do, what was not seen, and what the table holds."""
        contents = self.contents
        verbose = contents.options.verbose
        head = self.head(results)
        alarms = nagios.alarms(_of(head, results)) if head else []
        lines = [f"{result.state.text.upper()}: {nagios.alarm(result)}" for result in alarms]
        lines += [f"UNKNOWN: {problem}" for problem in contents.problems]
        if contents.refusals and (contents.problems or verbose > 1):
            lines += [f"Tried {refusal}" for refusal in dict.fromkeys(contents.refusals)]
        if contents.problems and (
            contents.session.forbidden or any(refusal.right for refusal in contents.refusals)
        ):
            lines += _grants(contents)
        if head and head.table:
            if alarms or contents.from_file or verbose:
                lines += self._diagnosis(head, alarms)
            lines += [f"Note: {note}" for note in _notes(head)]
            lines += _lists(head, contents.options.top, whole=bool(verbose))
        if len(contents.places) > 1:
            lines += _listing(contents.places, results)
        if verbose > 2:
            lines += [
                f"Read {place.table.origin}, {place.table.tally.read} entries"
                + (f", in net:[{place.inode}] {place.name}" if place.inode else "")
                for place in contents.places
                if place.table
            ]
        if contents.from_file:
            return lines
        return lines + nagios.remembered(contents.session, verbose)

    def head(self, results: Results) -> Place | None:
        """The place that the status line is about: the fullest of those that are worst."""
        found = self.contents.places
        if not found:
            return None
        judged = [_of(place, results) for place in found]
        return found[nagios.decisive(judged, [place.fullness for place in found])]

    def causes(self, place: Place) -> list[Cause]:
        """What fills a place's table, by its figures; none where they do not tell."""
        return self._judged(place)[2] if place.table and not self._one_sided else []

    @property
    def _one_sided(self) -> bool:
        """Whether the figures are of some protocols, states or ports alone, chosen by the user."""
        match = self.contents.wanted.match
        return bool(match.protocols or match.states or match.ports)

    def _mixture(self, place: Place) -> Mixture:
        return self._judged(place)[1]

    def _judged(self, place: Place) -> tuple[Place, Mixture, list[Cause]]:
        if self._found is None or self._found[0] is not place:
            from ..advice import advice_rules

            mixed = mixture(place, self.contents.timeouts(place), _into(place))
            self._found = (place, mixed, advice_rules.diagnose(mixed))
        return self._found

    def _diagnosis(self, place: Place, alarms: Sequence[Result]) -> list[str]:
        """Causes, remedies, and room where more room is a remedy."""
        from ..advice import advice_rules

        mixed, causes = self._mixture(place), self.causes(place)
        lines = [_capital(cause.sentence(mixed)) + "." for cause in causes]
        if self._one_sided:
            lines.append("No diagnosis: it takes flows of every protocol, state and port.")
        elif not causes:
            lines.append(_capital(advice_rules.NO_CAUSE) + ".")
        lines += advice_rules.remedies(mixed, causes)
        labels = {nagios.label_of(result) for result in alarms}
        if place.limits and all(cause.room for cause in causes):
            lines += advice_rules.advise(nagios.evidence(place.limits, place.peak), labels)
        return lines


def _fitted(sentence: str, others: Sequence[str]) -> str:
    """A sentence as long as the status line has room for beside others; it stands below too."""
    room = render.STATUS_WIDTH - len(f"{TITLE} CRITICAL - ") - sum(len(part) + 2 for part in others)
    shortest = 24  # what it is fits in there; below that, the line itself is cut
    return sentence if len(sentence) <= room else sentence[: max(room - 3, shortest)] + "..."


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _of(place: Place, results: Results) -> list[Result]:
    return nagios.results_of(place.prefix, LABELS, results)


def _into(place: Place) -> str:
    """What stands before a command that is to run in a place's namespace."""
    if not place.name or place.path == OWN:
        return ""
    import shlex

    return f"nsenter --net={shlex.quote(place.path)} "


def _sentence(place: Place, results: Results) -> str:
    limits, figures = place.limits, place.figures
    where = f"namespace {place.name} " if place.name else ""
    if limits is None:
        return f"{figures.entries if figures else 0} entries"
    if not limits.limit:
        return f"{where}{limits.entries} entries, no limit"
    share = nagios.shown(results[place.prefix + "usage"])
    if limits.full:
        over = f" ({share})" if limits.entries > limits.limit else ""
        return (
            f"{where}full: {limits.entries} of {limits.limit} entries{over}, "
            "new connections are dropped"
        )
    return f"{where}{limits.entries} of {limits.limit} entries ({share})"


def _matching(place: Place, match: Match) -> str:
    """How many entries are those that were asked for."""
    table, figures = place.table, place.figures
    assert table  # noqa: S101 - nobody asks about a table that was not read
    assert figures  # noqa: S101
    whole = place.limits.entries if place.limits else table.tally.read
    text = f"{figures.entries} of {max(whole, figures.entries)} entries match"
    if match.networks:
        scale = table.tally.scale(table.whole)
        inbound, outbound = (
            round(number * scale) for number in (table.tally.inbound, table.tally.outbound)
        )
        text += f" ({inbound} inbound, {outbound} outbound)"
    return text


def _doubts(place: Place) -> list[str]:
    """What the reader of the figures has to know of how they came about."""
    table = place.table
    if not table:
        return []
    doubts = []
    if table.whole:
        margin = table.tally.margin(table.whole)
        doubts.append(
            f"estimated from a sample of {table.tally.read} (+-{max(margin, 0.1):.1f} points)"
        )
    if table.tally.bad_lines:
        doubts.append(f"{table.tally.bad_lines} lines could not be read")
    return doubts + list(table.notes)


def _notes(place: Place) -> list[str]:
    table = place.table
    assert table  # noqa: S101
    notes = _doubts(place)
    if table.tally.bad_lines:
        notes.append(f"the first line that could not be read: {table.tally.first_bad_line}")
    if not table.tally.exact:
        notes.append("sources and destinations are many: top lists may be short by a few")
    return notes


def _percent(share: float) -> str:
    return f"{share:.1f}%"


def _lists(place: Place, top: int, *, whole: bool) -> list[str]:
    """The breakdown by protocol and state, and the top lists; without -v the first of each."""
    table = place.table
    assert table  # noqa: S101
    tally, total = table.tally, table.whole
    most = top if whole else min(top, FEW_LINES)
    lines = _columns(
        ("protocol and state", "entries", "share"),
        [
            (f"{line.protocol} {line.state}".rstrip(), str(line.entries), _percent(line.share))
            for line in tally.breakdown(total)[: None if whole else FEW_LINES]
        ],
    )
    for title, share, tops in (
        ("source", "share", tally.top_sources(most, total)),
        ("destination", "share", tally.top_destinations(most, total)),
        ("service", "share", tally.top_services(most, total)),
        ("source-NAT pool", "of its ports", tally.top_pools(most, total)),
    ):
        lines += _columns(
            (title, "entries", share),
            [(line.name, str(line.entries), _percent(line.share)) for line in tops],
        )
    return lines


def _columns(head: tuple[str, str, str], rows: Sequence[tuple[str, str, str]]) -> list[str]:
    return render.table([head, *rows]) if rows else []


def _listing(found: Sequence[Place], results: Results) -> list[str]:
    rows = [("namespace", "entries", "usage")]
    for place in found[: MOST_NAMESPACES + 1]:
        name = place.prefix + "usage"
        rows.append(
            (
                render.clean(place.name) or "(host)",
                str(place.fullness[1]),
                nagios.shown(results[name]) if name in results else "",
            )
        )
    more = len(found) - len(rows) + 1
    return render.table(rows) + ([f"  and {more} more"] if more else [])


def _grants(contents: Contents) -> list[str]:
    """How each source that was tried could be read."""
    as_root = contents.session.as_root
    lines = session.grant("read the table over netlink or from /proc", as_root=as_root)
    if as_root:
        return lines
    if contents.options.source in (table_sources.AUTO, table_sources.CONNTRACK):
        lines.append(
            "conntrack -L asks by itself: it takes CAP_NET_ADMIN of the agent's service "
            "(AmbientCapabilities=), and every plugin of that agent then may change the firewall."
        )
    lines.append("Or start the check as root: it gives its rights up before it parses anything.")
    return lines


# --- the way in


def _checked(parse: Callable[[str], object]) -> Callable[[str], str]:
    """An argument as it stands, where `parse` takes it."""

    def check(text: str) -> str:
        import argparse

        try:
            parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return check


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        import argparse

        if not (text.isascii() and text.isdigit() and len(text) <= 15):
            raise argparse.ArgumentTypeError(f"{text!r} is no number")
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most}")
        return int(text)

    return number


def _network(text: str) -> object:
    from ..flows.match import network

    return network(text)


def _protocol(text: str) -> object:
    from ..flows.match import protocol_number

    return protocol_number(text)


def _state(text: str) -> object:
    from ..flows.match import state_numbers

    return state_numbers(text)


def _prefixes(text: str) -> object:
    from ..flows.tally import prefixes

    return prefixes(text)


def parser() -> runner.Parser:
    """The command line of this check."""
    made = runner.parser("check_conntrack_table", PURPOSE, LABELS, EXAMPLES)
    add = made.add_argument_group("options of this check").add_argument
    add(
        "--source",
        default=table_sources.AUTO,
        metavar="SOURCE",
        help="auto (default: ctnetlink, then /proc, then conntrack -L), netlink, proc, conntrack, "
        "or a file of what these print, gzip too; - is standard input",
    )
    add(
        "--address",
        action="append",
        default=[],
        type=_checked(_network),
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
            type=_checked(kind),
            metavar=option[2:].upper(),
            help=help_,
        )
    add(
        "--port",
        action="append",
        default=[],
        type=_between(0, 65535),
        metavar="PORT",
        help="keep flows with this port, on either side",
    )
    add(
        "--top",
        type=_between(1, MOST_LINES),
        default=10,
        metavar="N",
        help="lines of each top list (default: 10)",
    )
    add(
        "--prefix",
        type=_checked(_prefixes),
        default="32/128",
        metavar="V4/V6",
        help="count addresses by their networks, as in 24/64",
    )
    add(
        "--max-entries",
        type=_between(0, 10**9),
        default=DEFAULT_ENTRIES,
        metavar="N",
        help="past N entries of a live table estimate from so many, 0 for never (default: 100000)",
    )
    add(
        "--save",
        metavar="DIR",
        help="keep the whole table there, as gzip text, when a problem begins and every 15 minutes",
    )
    add(
        "--save-when",
        choices=("always", "warning", "critical"),
        default="warning",
        metavar="STATE",
        help="from which state on a problem is worth a snapshot: always, warning (default), "
        "critical",
    )
    add(
        "--keep",
        type=_between(1, 10000),
        default=10,
        metavar="N",
        help="snapshots to keep, the first of an incident longest (default: 10)",
    )
    return made


def _wanted(options: argparse.Namespace) -> table_sources.Wanted:
    from ..flows import match, tally

    wanted = match.parse(options.address, options.protocol, options.state, options.port)
    most = options.max_entries if options.source in table_sources.LIVE else 0
    return table_sources.Wanted(wanted, tally.prefixes(options.prefix), most)


def _readers(options: argparse.Namespace) -> int:
    """How many questions a run may have for the reader."""
    if options.source not in table_sources.LIVE:
        return 0
    # Who is there, and for a diagnosis the timeouts there.
    number = 2 if options.netns else 0
    if options.source in (table_sources.AUTO, table_sources.NETLINK):
        # A filter that lets too much pass makes room for a sample of everything.
        number += 2 if options.address or options.protocol else 1
    if options.source in (table_sources.AUTO, table_sources.PROC):
        number += 1
    return number + (2 if options.save else 0)


def _late(options: argparse.Namespace) -> list[str]:
    """The modules that are imported where they are needed, after rights have ended."""
    late = ["shlex"] if options.netns else []
    if options.source not in table_sources.LIVE:
        late.append("gzip")
    suite = [
        "flows.bulk",
        "flows.parallel_count",
        "flows.text",
        "kernel.table_file",
        "kernel.conntrack_cli",
        "kernel.timeouts",
    ]
    if options.save:
        suite += ["table.snapshots", "flows.text_writer"]
    return late + ["check_conntrack." + name for name in suite]


def judge(options: argparse.Namespace, stage: runner.Stage) -> runner.Outcome:
    """The verdict. Rights end before the first byte of the kernel's is parsed."""
    thresholds = parse_thresholds(LABELS, options.warning, options.critical)
    if options.netns and options.source not in (
        table_sources.AUTO,
        table_sources.NETLINK,
        table_sources.PROC,
    ):
        raise runner.UsageError(f"--netns does not go with --source {options.source}")
    if options.save and options.source not in table_sources.LIVE:
        raise runner.UsageError("--save keeps a live table, not a file")
    began = time.monotonic()
    wanted = _wanted(options)
    with ExitStack() as stack:
        programs = []
        if (
            options.source in (table_sources.AUTO, table_sources.CONNTRACK)
            and not options.netns
            and privileges.has(privileges.CAP_NET_ADMIN)
        ):
            programs = _with_rights(stack, 2 if options.save else 1)
        begun = session.begin(
            options,
            stage,
            stack,
            readers=_readers(options),
            capability=privileges.CAP_SYS_ADMIN if options.netns else privileges.CAP_NET_ADMIN,
            late=_late(options),
        )
        contents = Contents(options, begun, wanted, programs, stack)
        made = nagios.contexts(LABELS, thresholds, options.if_inactive)
        summary = TableSummary(contents)
        outcome = nagios.conclude(options, begun, contents, summary, made)
        if not options.save or not summary.shown:
            return outcome
        end = began + options.timeout - SPARE_TIME if options.timeout else None
        return _kept(outcome, contents, summary.shown, end)


def _with_rights(stack: ExitStack, number: int) -> list[Conntrack]:
    """conntrack(8) behind its gate, started while there are rights; none where it is not."""
    from ..kernel.conntrack_cli import Conntrack

    try:
        return [stack.enter_context(Conntrack()) for _ in range(number)]
    except KernelError:
        return []


def _kept(
    outcome: runner.Outcome, contents: Contents, place: Place, end: float | None
) -> runner.Outcome:
    """The verdict, with a line about the snapshot it calls for; nothing here can change it."""
    from . import snapshots

    options, store = contents.options, contents.store
    least = {"always": 0, "warning": 1, "critical": 2}[options.save_when]
    # An unknown table is none to keep.
    problem = least == 0 or (outcome.state is not Unknown and int(outcome.state) >= least)
    name = place.name or f"net:[{place.inode}]"
    key = f"snapshot/{name}/{options.state_key}"
    now = time.time()
    try:
        if not problem or not place.table:
            # What is not known ends no incident.
            if not problem and outcome.state is not Unknown:
                store.update(key, lambda _: snapshots.remember(problem=False, saved=None))
            return outcome
        said = _save(contents, place, end, now, store.read(key))
        if said:
            store.update(key, lambda _: snapshots.remember(problem=True, saved=now))
            return outcome._replace(lines=[*outcome.lines, said])
    except (Exception, runner.StoppedError) as error:
        failed = f"no snapshot: {error}"
        if outcome.state is Ok:
            return outcome._replace(text=f"{outcome.text}; {failed}")
        return outcome._replace(lines=[*outcome.lines[:1], failed, *outcome.lines[1:]])
    return outcome


def _save(contents: Contents, place: Place, end: float | None, now: float, memory: object) -> str:
    """Make a snapshot if one is due; the sentence about it, empty where none is."""
    from . import snapshots

    assert place.table  # noqa: S101
    options = contents.options
    contents.session.stage(f"keeping the table in {options.save}")
    folder = snapshots.Folder(options.save)
    try:
        part = snapshots.due(memory, folder.kept(place.name), now)
        # The first of an incident stays; where there is room for one, that is all.
        if not part or (part == snapshots.LATER and options.keep == 1):
            return ""
        program = contents.programs.pop() if contents.programs else None
        if place.table.origin == table_sources.CONNTRACK_PATH and program is None:
            program = contents.program()
        pieces = table_sources.whole_text(contents.session, program, place.table, place.path)

        def expired() -> bool:
            return end is not None and time.monotonic() > end

        path = folder.save(place.name, part, now, pieces, expired)
        folder.prune(place.name, options.keep)
    finally:
        folder.close()
    return f"Kept the table in {path}"


def main() -> int:
    """The executable's way in; returns the exit code."""
    return runner.run(TITLE, parser(), judge)
