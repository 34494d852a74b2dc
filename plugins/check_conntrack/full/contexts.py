"""Evaluate: the states of the figures, of gaps, and of a history that cannot be kept."""

from __future__ import annotations

from nagiosplugin import Critical, Metric, Ok, Resource, Result, Warn

from .. import nagios, render
from ..advice.source_problems import gap_reason, sentence
from ..kernel.coverage import TOLERANCE
from ..kernel.namedtuple import NamedTuple
from ..nagios import LabelContext, StateContext
from ..state.counter_history import NEARLY_FULL
from .coverage import Claim, claim_of
from .labels import INSTANCE_LABELS, LABELS, MOST_NAMESPACES, NAMESPACE_LABELS, RISES, TOTAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from nagiosplugin import Context

    from ..ranges import Thresholds
    from .evidence import Evidence
    from .namespace_reports import NamespaceReport


class Evaluation(NamedTuple):
    """The results of a run, and what to evaluate beside its figures.

    problems: what the user asked for and could not be had: UNKNOWN.
    excused: gaps are OK: it is the first run, and this moment is covered.
    """

    evidence: Evidence
    claim: Claim
    problems: tuple[str, ...] = ()
    excused: bool = False


def evaluation_of(evidence: Evidence, *, kept: bool) -> Evaluation:
    """Return what is to be evaluated. kept: the next run will know of this one."""
    claim = claim_of(evidence)
    problems = list(evidence.problems)
    if evidence.refused:
        problems.append(f"--sudo: {evidence.refused}")
    problems += [sentence(problem) for problem in evidence.log.missing]
    useless = [each for each in evidence.log.coverage if each.named and not each.usable]
    problems += map(gap_reason, useless)
    if not claim.sources and not problems and not evidence.inactive:
        problems.append("neither the kernel log nor the counters can be read")
    return Evaluation(
        evidence,
        claim,
        tuple(dict.fromkeys(problems)),
        excused=evidence.earlier.run is None and kept and claim.since is not None,
    )


def not_applicable(evidence: Evidence) -> tuple[str, ...]:
    """Return the labels that need no value in this run: there is no table, or no history yet."""
    if evidence.inactive:
        return tuple(label.name for label in LABELS)
    first, instance = evidence.first, evidence.instance
    later = [name for name in INSTANCE_LABELS if instance and instance.known_later(name)]
    known = first.known_since if first else ()
    return (*later, *(name for name, since in zip(RISES, known) if since is not None))


def history_notes(evaluation: Evaluation, thresholds: Thresholds) -> list[str]:
    """Return the line on figures that are not known for the whole window, and can alert.

    The log may cover a window whose counters nobody has read.
    """
    evidence = evaluation.evidence
    if evidence.window.start is None or evidence.inactive:
        return []
    alerting = [
        label.name for label in LABELS if label.needs_history and thresholds.can_alert(label)
    ]
    told = {gap.subject for gap in evaluation.claim.gaps}
    found = [
        (since, name, report.name)
        for report in evidence.reports
        if report.name not in told
        for name, since in zip(RISES, report.known_since)
        if name in alerting and since is not None and since > _start(evidence, report) + TOLERANCE
    ]
    instance = evidence.instance
    found += [
        (evidence.now.at, name, "")
        for name in INSTANCE_LABELS
        if name in alerting
        and instance
        and instance.figure(name) is None
        and instance.known_later(name)
    ]
    if not found:
        return []
    names = [label.name for label in LABELS if any(label.name == name for _, name, _ in found)]
    found_in = list(dict.fromkeys(where for _, _, where in found))
    where = "" if found_in == [""] else f" in {render.plural(len(found_in), 'namespace')}"
    since = max(since for since, _, _ in found)
    watching = evidence.earlier.run.watching if evidence.earlier.run else evidence.now.at
    why = "no earlier run is known"
    if evidence.reloaded:
        why = "nf_conntrack was loaded again"
    elif since > watching + TOLERANCE and not evidence.others:
        why = "the counters began anew"
    known = render.clock_time(since, evidence.now.at)
    return [f"Not known before {known}{where}: {', '.join(names)} ({why})"]


def _start(evidence: Evidence, report: NamespaceReport) -> float:
    """Return since when a namespace's figures can be known: in the window, this boot, its life."""
    return max(evidence.window.start or 0.0, evidence.now.boot_time, report.since)


def figure(evidence: Evidence, report: NamespaceReport | None, name: str) -> int | None:
    """Return a figure by its label; None where it is not known.

    Of a namespace, or, for those of the log in the plain labels, of the host.
    """
    counts = evidence.log.counts
    if report is None or not report.prefix:
        logged = {
            "table_full": counts.table_full,
            "suppressed": counts.suppressed,
            "other_loss": counts.other_loss,
        }
        if name in logged:
            return logged[name] if evidence.log.usable else None
        if name in INSTANCE_LABELS:
            return evidence.instance.figure(name) if evidence.instance else None
    if report is None:
        return None
    if name == "table_full":
        return report.messages
    if name in RISES:
        value: int | None = getattr(report.rise, name) if report.rise else None
        return value
    return report.total(name[: -len(TOTAL)]) if name.endswith(TOTAL) else None


class FullCheck(Resource):
    """Hands the figures of a run to their contexts."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.reports = {report.prefix: report for report in evaluation.evidence.reports}

    def probe(self) -> Iterator[Metric]:
        """Yield the figures of the first namespace, what is missing, then the others'."""
        evaluation = self.evaluation
        evidence = evaluation.evidence
        for label in LABELS:
            value = figure(evidence, evidence.first, label.name)
            if value is not None:
                yield Metric(label.name, value, min=0)
        for problem in evaluation.problems:
            yield Metric("problem", problem, context="problem")
        if evidence.inactive:
            yield Metric("inactive", "conntrack is not active", context="inactive")
        if any(report.full for report in evidence.reports):
            yield Metric("full_now", "the table is at its limit", context="full_now")
        for gap in evaluation.claim.gaps:
            context = "watching" if evaluation.excused else "incomplete"
            yield Metric("gap", gap.subject, context=context)
        if evidence.log.undated:
            yield Metric("undated", "messages without a time", context="incomplete")
        yield from self._further([report for report in evidence.others if report.notable])

    def _further(self, reports: Sequence[NamespaceReport]) -> Iterator[Metric]:
        """Yield further namespaces' figures: of the first few for graphs, of all to evaluate."""
        evidence = self.evaluation.evidence
        for report in reports[:MOST_NAMESPACES]:
            for name in NAMESPACE_LABELS:
                value = figure(evidence, report, name)
                if value is not None:
                    yield Metric(report.prefix + name, value, min=0, context=name)
        for number, report in enumerate(reports):
            for name in RISES:
                value = figure(evidence, report, name)
                if value is None or (number < MOST_NAMESPACES and name in NAMESPACE_LABELS):
                    continue
                yield Metric(report.prefix + name, value, min=0, context=nagios.HIDDEN + name)


class FullDropsContext(LabelContext):
    """Packets dropped: critical where something else says that the table was full.

    That holds for the default threshold alone; one of the user's is taken as it is.
    """

    default = True

    def evaluate(self, metric: Metric, resource: Resource) -> Result:
        """Return the state of the figure."""
        result = super().evaluate(metric, resource)
        if not self.default or result.state is not Warn or not isinstance(resource, FullCheck):
            return result
        report = resource.reports.get(metric.name[: -len(self.label.name)])
        if report and is_corroborated(report):
            return Result(Critical, result.hint, metric)
        return result


def is_corroborated(report: NamespaceReport) -> bool:
    """Tell whether something beside its drops says that a table was full, or nearly."""
    if report.rise is None:
        return False
    usage = (report.limits.usage or 0.0) if report.limits else 0.0
    return bool(report.rise.early_drops) or max(usage, report.rise.usage) >= NEARLY_FULL


def contexts(thresholds: Thresholds, options: argparse.Namespace) -> list[Context]:
    """Return all the contexts that this check's metrics name."""
    all_contexts = nagios.contexts(LABELS, thresholds, options.if_inactive)
    for at, context in enumerate(all_contexts):
        if isinstance(context, LabelContext) and context.label.name == "full_drops":
            drops = FullDropsContext(context.label, context.thresholds, hidden=context.hidden)
            drops.default = context.label.name not in thresholds.given
            all_contexts[at] = drops
    return [
        *all_contexts,
        StateContext("full_now", Critical),
        StateContext("incomplete", nagios.STATES[options.if_incomplete]),
        StateContext("watching", Ok),
    ]
