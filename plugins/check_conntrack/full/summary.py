"""Present: the status line and the long output."""

from __future__ import annotations

from nagiosplugin import Ok, Unknown

from .. import nagios, render, reports, session
from ..advice.source_problems import sentence
from ..kernel import counters
from ..kernel.log import events
from . import advice
from .contexts import figure
from .coverage import COUNTERS
from .labels import INSTANCE_LABELS, LABELS, MOST_NAMESPACES
from .names import Names, called, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from nagiosplugin import Result, Results

    from ..session import Session
    from .contexts import Evaluation
    from .coverage import Gap
    from .namespace_reports import NamespaceReport

    _Part = str | tuple[str, ...]

DAY = 86400.0
SHORT_PATHS = (60, 40, 24)  # characters of a log's path on a status line that lacks room
# A figure that is too large, in words: the fact, and what explains it where there is room.
FACTS = {
    "full_drops": ("{count} dropped{where}", " that failed inserts do not explain"),
    "early_drops": ("{count} evicted early{where}", ""),
    "insert_failures": (
        "{count} failed together with drops{where}",
        ": source-NAT ports are exhausted, or packets clashed",
    ),
    "chain_overflows": ("{count} refused{where}: hash chains too long", ""),
    "invalid_packets": ("{count} invalid{where}", ": they belong to no connection"),
}

UNITS = {
    "full_drops": ("packet", "packets"),
    "early_drops": ("entry", "entries"),
    "insert_failures": ("insert", "inserts"),
    "chain_overflows": ("insert", "inserts"),
    "invalid_packets": ("packet", "packets"),
}


class FullSummary(nagios.StatusSummary):
    """The sentences for the status line, and the lines below it."""

    def __init__(self, evaluation: Evaluation, options: argparse.Namespace, run: Session) -> None:
        self.evaluation = evaluation
        self.evidence = evaluation.evidence
        self.options = options
        self.session = run
        self.suspects = advice.suspects(self.evidence)
        self._names = Names(run)

    def ok(self, results: Results) -> str:
        """Return what was looked at, and since when."""
        if self.options.verbose:
            self._name_namespaces()
        return self._text(results)

    def problem(self, results: Results) -> str:
        """Return the gravest fact first, then what could not be read or is not covered.

        Namespaces are called by their owners, which takes time that a healthy run saves.
        """
        self._name_namespaces()
        return self._text(results)

    def _name_namespaces(self) -> None:
        self.evidence = self._names.named(self.evidence)
        self.evaluation = self.evaluation._replace(evidence=self.evidence)
        self.suspects = advice.suspects(self.evidence)

    def _text(self, results: Results) -> str:
        evidence = self.evidence
        counts = evidence.log.counts
        alarms = self._alarms(results)
        # EC2 refuses a packet before the kernel's table sees it.
        parts: list[_Part] = [*self._refused_by_instance(alarms), *self._at_limit()]
        facts = self._facts(alarms)
        problems: list[_Part] = [tuple(render.versions(each)) for each in self.evaluation.problems]
        gaps = self._gaps()
        undated: list[_Part] = [f"{self._undated()} not counted"] if evidence.log.undated else []
        if not parts and not facts and not counts.table_full:
            return render.fit([*problems, *self._quiet(gaps), *gaps, *undated], self.room)
        if nagios.worst(result.state for result in results) is Unknown:
            # Why it is UNKNOWN is not left out.
            parts += problems
            problems = []
            if self.options.if_incomplete == "unknown":
                parts += [*gaps, *undated]
                gaps = undated = []
        change = advice.limit_change(evidence)
        changes: list[_Part] = [change] if change else []
        if any(report.full for report in evidence.reports):
            # A limit that was lowered is why it is full: that is worth more than messages.
            parts += changes
            changes = []
        at = len(parts)
        messages = [self._messages()] if counts.table_full else []
        parts += [*messages, *facts, *changes, *problems, *gaps]
        if messages:
            # All other facts are worth more than the names of the sources and the window.
            room = self.room - len("; ".join(map(_longest, parts)))
            room += len(_longest(parts[at]))
            fitting = [text for text in self._messages() if len(text) <= room]
            parts[at] = fitting[0] if fitting else self._messages()[2:]
        return render.fit([*parts, *undated], self.room)

    def _quiet(self, gaps: Sequence[_Part]) -> list[_Part]:
        """Return what was seen, where that is nothing; the reason of a gap keeps its room."""
        if self.evidence.inactive:
            return ["conntrack is not active on this host"]
        if not self.evaluation.claim.sources:
            return []
        claims = self._claim()
        reasoned = [text for text in gaps[0] if ": " in text] if gaps else []
        room = self.room - len("; ") - len(reasoned[-1]) if reasoned else self.room
        return [tuple(text for text in claims if len(text) <= room) or claims[-1:]]

    def verbose(self, results: Results) -> list[str]:
        """Return alarms, what could not be read, what to do, and the figures."""
        self._name_namespaces()
        evidence = self.evidence
        lines = nagios.alarm_lines(self._alarms(results))
        lines += [f"UNKNOWN: {problem}" for problem in self.evaluation.problems]
        lines += self._gap_lines()
        lines += [f"Not read: {each}" for each in self.unread()]
        if self.session.forbidden:
            lines += session.grant("read what needs privileges", as_root=self.session.as_root)
        if evidence.log.undated:
            sources = render.few(
                list(dict.fromkeys(event.source for event in evidence.log.undated))
            )
            lines.append(f"Not counted: {self._undated()} in {sources} (--since all counts them)")
        changes = (*advice.limit_change(evidence)[:1], *advice.other_changes(evidence))
        lines += [change.capitalize() for change in changes]
        lines += self._namespaces()
        if self._names.problem and self.options.verbose:
            lines.append(f"Names of owners are missing: {self._names.problem}")
        lines += advice.of_instance(evidence, results)
        lines += advice.lines(self.evaluation, results, self.session.store)
        lines += advice.of_invalid(evidence, results)
        if self.options.verbose:
            lines += self._figures()
        if self.options.verbose > 2:
            lines += self._read()
        return lines + session.state_lines(self.session, self.options.verbose)

    def unread(self) -> list[str]:
        """Return the sources of this host that could not be read, as sentences."""
        log = map(sentence, self.evidence.log.problems)
        return list(dict.fromkeys([*log, *self.evidence.unavailable]))

    # --- the status line

    def _refused_by_instance(self, alarms: Sequence[Result]) -> list[tuple[str, ...]]:
        """Return what EC2 refused, where that alarms."""
        report = self.evidence.instance
        labels = [nagios.label_of(result) for result in alarms if not _is_low(result)]
        return [
            report.fact(label, self._when())
            for label in INSTANCE_LABELS
            if report and label in labels
        ]

    def _at_limit(self) -> list[tuple[str, ...]]:
        """Return what the tables at their limit do: drop, or evict early."""
        return [self._full(report) for report in self.evidence.reports if report.full][:3]

    def _full(self, report: NamespaceReport) -> tuple[str, ...]:
        where, short = reports.namespace_words(report.namespace)
        limits = report.limits
        entries = f"{limits.entries} of {limits.limit} entries" if limits else ""
        drops, evicted = report.full_drops, report.evicted
        if drops or self._messages_of(report):
            count = f" ({drops} {self._when()})" if drops else ""
            text = f"full: {entries}, new connections are dropped"
            return where + text + count, where + text, short + text
        if evicted:
            text = f"at the limit, evicting: {entries}, {evicted} evicted early"
            return f"{where}{text} {self._when()}", where + text, short + text
        text = f"at the limit: {entries}, no drops seen"
        return where + text, short + text

    def _messages_of(self, report: NamespaceReport) -> int:
        return advice.messages_of(self.evidence, report)

    def _messages(self) -> tuple[str, ...]:
        """Return what was lost, the "table full" messages, the latest, whose, and the source."""
        log = self.evidence.log
        counts = log.counts
        messages = render.plural(counts.table_full, '"table full" message')
        drops = 0
        if log.is_local:
            reports = [report for report in self.evidence.reports if self._messages_of(report)]
            # A table that is at its limit has said so itself.
            drops = sum(report.full_drops for report in reports if not report.full)
        lost = f"{render.plural(drops, 'packet')} dropped" if drops else ""
        text = f"{lost} {self._when()}, {messages}" if drops else f"{messages} {self._when()}"
        latest = ""
        if counts.latest and counts.latest.time is not None:
            latest = f", latest {self._ago(counts.latest.time)}"
        latest += self._whose()
        text += latest
        sources = f" ({', '.join(self._log_sources()) or 'read by an earlier run'})"
        suppressed = f", up to {counts.suppressed} more suppressed" if counts.suppressed else ""
        return text + sources + suppressed, text + sources, text, messages + latest

    def _whose(self) -> str:
        """Return the namespace that the messages are about, by their names or by the counters."""
        evidence = self.evidence
        latest = evidence.log.counts.latest
        if latest and latest.netns is not None:
            gone = evidence.is_gone(latest)
            return f" in {self._names.of(latest.netns, evidence, gone=gone)}"
        if not advice.unnamed_messages(self.evidence) or not evidence.log.is_local:
            return ""
        suspects = self.suspects
        if suspects and len(evidence.reports) > 1:
            worst = suspects[0]
            name = called(worst)
            more = f" and {len(suspects) - 1} more" if suspects[1:] else ""
            return f" in {name}{more} by the counters"
        first = evidence.first
        alone = first is not None and not self.options.netns and not first.full
        if alone and first and first.rise and first.rise.full_drops == 0:
            return ", no drops in this namespace: see --netns all"
        return ""

    def _facts(self, alarms: Sequence[Result]) -> list[str | tuple[str, ...]]:
        """Return the figures that alarm, each once, with the namespaces that they are of."""
        said = {
            (report.prefix, label)
            for report in self.evidence.reports
            if report.full or self._messages_of(report)
            for label in ("full_drops", "early_drops")
        }
        groups: dict[str, list[Result]] = {}
        facts: list[str | tuple[str, ...]] = []
        for result in alarms:
            label = nagios.label_of(result)
            if label == "table_full" and self.evidence.log.counts.table_full:
                continue
            if label in INSTANCE_LABELS and not _is_low(result):
                continue
            if (self._prefix(result), label) not in said:
                groups.setdefault(label, []).append(result)
        for label, results in groups.items():
            facts.append(self._fact(label, results))
        return facts

    def _fact(self, label: str, results: Sequence[Result]) -> str | tuple[str, ...]:
        """Return what a label's alarms say, in words where a figure is too large."""
        if _is_low(results[0]) or label not in (*FACTS, "other_loss"):
            return "; ".join(map(nagios.describe_alarm, results[:3]))
        when = "" if self.evidence.log.counts.table_full else f" {self._when()}"
        if label == "other_loss":
            counts = self.evidence.log.counts
            kinds = (("expectation table full", counts.expectations), ("zone limit", counts.zones))
            text = ", ".join(f'{times} "{kind}"' for kind, times in kinds if times)
            messages = "message" if counts.expectations + counts.zones == 1 else "messages"
            return f"{text} {messages}{when}"
        results = sorted(results, key=lambda result: -result.metric.value)
        versions = []
        for most in (len(results), 3, 2, 1):
            there = [self._report(result) for result in results[:most]]
            where = f" in {listed(there)}" if there[1:] or there[0].prefix else ""
            where += f" and {len(results) - most} more" if len(results) > most else ""
            count = sum(result.metric.value for result in results)
            fact, why = FACTS[label]
            said = fact.format(count=render.plural(count, *UNITS[label]), where=where + when)
            versions += [said + why, said]
        return tuple(dict.fromkeys(versions))

    def _claim(self) -> tuple[str, ...]:
        """Return since when the table was not full, and, where there is room, who says so."""
        sources = self.evaluation.claim.sources
        more = ""
        if self.evaluation.excused and self.evaluation.claim.gaps:
            more = f", watching since {self._clock(self.evidence.now.at)}"
        suppressed = self.evidence.log.counts.suppressed
        if suppressed and COUNTERS not in sources:
            # Drops would show in the counters, whatever the kernel did not log.
            more += f", {render.plural(suppressed, 'message')} suppressed by the rate limit"
        claim = self._claimed()
        few = f" ({sources[0]} and {len(sources) - 1} more)" if sources[1:] else ""
        versions = (f" ({', '.join(sources)})", few, "")
        return tuple(dict.fromkeys(f"{claim}{named}{more}" for named in versions))

    def _claimed(self) -> str:
        claim = self.evaluation.claim
        now = self.evidence.now
        if self.options.since == "all":
            return "not full in all that was read"
        if claim.from_boot or (self.options.since == "boot" and not claim.gaps):
            return f"not full since boot at {self._clock(now.boot_time)}"
        if not claim.gaps:
            return f"not full {self._when()}"
        if claim.since is None:
            return "no sign of a full table"
        if claim.since >= now.at - 0.01:
            return "not full now"
        return f"not full since {self._clock(claim.since)}"

    def _unexplained(self) -> list[Gap]:
        """Return the gaps, without what the problems have said already."""
        if self.evaluation.excused:
            return []
        problems = self.evaluation.problems
        names = {report.name for report in self.evidence.reports}
        unexplained = []
        for gap in self.evaluation.claim.gaps:
            reasons = tuple(reason for reason in gap.reasons if reason not in problems)
            if reasons or not gap.reasons or gap.subject in (*names, ""):
                unexplained.append(gap._replace(reasons=reasons))
        return unexplained

    def _gaps(self) -> list[_Part]:
        """Return the parts of the window that are not covered; the path goes before the reason."""
        gaps = self._unexplained()
        if not gaps:
            return []
        more = f" and {len(gaps) - 1} more" if gaps[1:] else ""
        reason = next((gap.reasons[0] for gap in gaps if gap.reasons), "")
        reason = reason.removeprefix(f"{gaps[0].subject}: ")
        text = self._gap(gaps[0]) + more
        shorter = [text]
        if gaps[0].subject not in {report.name for report in self.evidence.reports}:
            subjects = [render.short_path(gaps[0].subject, width) for width in SHORT_PATHS]
            shorter = [self._gap(gaps[0]._replace(subject=each)) + more for each in subjects]
        reasons = render.versions(reason) if reason else []
        said = [f"{text}: {each}" for each in reasons[:2]]
        said += [f"{each}: {reasons[:2][-1]}" for each in shorter if reasons]
        said += [f"{shorter[-1]}: {each}" for each in reasons[2:]]
        return [tuple(dict.fromkeys([*said, shorter[-1]]))]

    def _gap(self, gap: Gap) -> str:
        subject = ""
        if gap.subject:
            named = {report.name: report for report in self.evidence.reports}
            report = named.get(gap.subject)
            subject = reports.namespace_words(report.namespace)[0] if report else f"{gap.subject} "
        if gap.span is None:
            return f"{subject}incomplete"
        start, end = self._clock(gap.span.start), self._clock(gap.span.end)
        span = start if start == end else f"{start} to {end}"
        return f"{subject}not covered {span}"

    def _when(self) -> str:
        since = self.options.since
        if since == "all":
            return "in all that was read"
        if since == "boot":
            return "since boot"
        window = self.evidence.window
        return f"in the last {render.duration(window.end - (window.start or 0.0))}"

    def _clock(self, when: float) -> str:
        return render.clock_time(when, self.evidence.now.at)

    def _ago(self, when: float) -> str:
        """Return how long ago it was; after a day, its date."""
        import time

        ago = max(0.0, self.evidence.now.at - when)
        if ago < DAY:
            return f"{render.duration(ago)} ago"
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))

    def _log_sources(self) -> list[str]:
        return [each.source for each in self.evidence.log.coverage if each.usable]

    def _undated(self) -> str:
        count = events.count_messages(self.evidence.log.undated)
        return f"{render.plural(count, 'message')} of unknown time"

    def _alarms(self, results: Results) -> list[Result]:
        prefixes = [report.prefix for report in self.evidence.reports]
        if not self.evidence.has_first:
            prefixes.append("")
        found = [
            result for prefix in prefixes for result in nagios.results_of(prefix, LABELS, results)
        ]
        return nagios.alarms(found)

    def _prefix(self, result: Result) -> str:
        name: str = result.metric.name
        return name[: -len(nagios.label_of(result))]

    def _report(self, result: Result) -> NamespaceReport:
        """Return the report on the namespace that a figure is of."""
        prefix = self._prefix(result)
        return next(report for report in self.evidence.reports if report.prefix == prefix)

    # --- the long output

    def _gap_lines(self) -> list[str]:
        state = nagios.STATES[self.options.if_incomplete]
        word = "" if state is Ok else f"{state.text.upper()}: "
        lines: list[str] = []
        for gap in self._unexplained()[:MOST_NAMESPACES]:
            reasons = "; ".join(each.removeprefix(f"{gap.subject}: ") for each in gap.reasons)
            lines.append(f"{word}{self._gap(gap)}" + (f": {reasons}" if reasons else ""))
        return lines

    def _namespaces(self) -> list[str]:
        evidence = self.evidence
        rows = [("namespace", "messages", "drops", "entries")]
        for gone, counts in ((False, evidence.log.named), (True, evidence.log.gone)):
            for inode, count in sorted(counts.items(), key=lambda item: -item[1]):
                name = self._names.in_table(inode, evidence, gone=gone)
                there = (report for report in evidence.reports if report.inode == inode)
                report = None if gone else next(there, None)
                drops = figure(evidence, report, "full_drops") if report else None
                entries = str(report.limits.entries) if report and report.limits else ""
                rows.append((name, str(count), "" if drops is None else str(drops), entries))
        return render.table(rows[: MOST_NAMESPACES + 1]) if len(rows) > 1 else []

    def _figures(self) -> list[str]:
        lines = [f"Window: {self._when().removeprefix('in ')}"]
        most = None if self.options.verbose > 1 else MOST_NAMESPACES + 1
        for report in self.evidence.shown[:most]:
            if report.counters is not None:
                total = counters.total(report.counters)
                values = ", ".join(
                    f"{name} {value}" for name, value in zip(counters.COUNTERS, total[1:]) if value
                )
                name = reports.name_of(report.namespace)
                cpus = render.plural(len(report.counters.cpus), "CPU")
                lines.append(f"Counters of {cpus} ({name}): {values or 'all 0'}")
        return lines + (self.evidence.instance.lines() if self.evidence.instance else [])

    def _read(self) -> list[str]:
        """Return what was read from where: the log's sources, then the namespaces."""
        return [f"Read {what}" for what in self.evidence.log.read] + [
            f"Read {what} in net:[{report.inode}] {report.name}"
            for report in self.evidence.shown
            for what in report.read
        ]


def _is_low(result: Result) -> bool:
    """Tell whether a figure is too small, or in a range that it should not be in."""
    return (result.hint or "")[:1] == "@" or nagios.context_of(result).too_low(result)


def _longest(part: str | tuple[str, ...]) -> str:
    return part if isinstance(part, str) else (part or ("",))[0]
