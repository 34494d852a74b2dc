"""What the checks have in common between their figures and their words.

Contexts for labels and states, the results that belong to a place, sentences about them, and the
last step from nagiosplugin's check to an outcome.
"""

from __future__ import annotations

import os

from nagiosplugin import Ok, Unknown, Warn

from . import render
from .ranges import LabelContext, StateContext
from .runner import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from nagiosplugin import Context, Resource, Result, Results, Summary

    from .advice.capacity import CapacityEvidence
    from .kernel.limits import Limits
    from .ranges import Label, Thresholds
    from .session import Session


def contexts(labels: Sequence[Label], thresholds: Thresholds, if_inactive: str) -> list[Context]:
    """The contexts of all labels, loud and quiet, and of "problem", "inactive" and "history".

    "history" is the trouble with the store: a warning where a threshold that the user gave needs
    it, for that would never fire, and nobody would know.
    """
    blind = any(
        bounds.alerts(label.minimum)
        for label in labels
        if label.needs_history and label.name in thresholds.given
        for bounds in thresholds.of[label.name]
        if bounds
    )
    return [
        *(LabelContext(label, thresholds.of[label.name]) for label in labels),
        *(LabelContext(label, thresholds.of[label.name], quiet=True) for label in labels),
        StateContext("problem", Unknown),
        StateContext("history", Warn if blind else Ok),
        StateContext("inactive", render.STATES[if_inactive]),
    ]


def results_of(prefix: str, labels: Sequence[Label], results: Results) -> list[Result]:
    """The results of a namespace's figures, in the order of the labels."""
    names = [prefix + label.name for label in labels]
    return [results[name] for name in names if name in results]


def decisive(judged: Sequence[Iterable[Result]], fullness: Sequence[tuple[float, int]]) -> int:
    """Which of several places the status line is about: the fullest of those that are worst.

    `judged` are the results of each. Where all is OK it is the first.
    """
    states = [render.worst(result.state for result in results) for results in judged]
    worst = render.worst(states)
    if worst is Ok:
        return 0
    return max((at for at, state in enumerate(states) if state is worst), key=fullness.__getitem__)


def alarms(results: Iterable[Result]) -> list[Result]:
    """Those that are not OK, the worst first."""
    found = [result for result in results if result.state is not Ok]
    return sorted(found, key=lambda result: render.SEVERITY.index(result.state), reverse=True)


def blind(results: Results) -> list[Result]:
    """The result that says that a threshold can never fire; none where there is no such."""
    return [
        result for result in results if result.metric.context == "history" and result.state is Warn
    ]


def context_of(result: Result) -> LabelContext:
    """The context of a figure's result."""
    context: LabelContext = result.metric.contextobj
    return context


def label_of(result: Result) -> str:
    """The name of a figure's label, without its namespace."""
    return context_of(result).label.name


def shown(result: Result) -> str:
    """The value as it stands in the perfdata."""
    return context_of(result).show(result.metric, result.metric.resource)


def alarm(result: Result) -> str:
    """What lies outside which range, or inside one where that is what alerts."""
    from check_conntrack.state.trend import spell

    timed = context_of(result).label.unit == "s"
    value = spell(result.metric.value) if timed else shown(result)
    bounds = result.hint or ""
    where = f"inside {bounds[1:]}" if bounds[:1] == "@" else f"outside {bounds}"
    return f"{result.metric.name} {value} is {where}"


def evidence(limits: Limits, peak: int) -> CapacityEvidence:
    """What advice goes by: limits, the largest count seen, and what the host says of itself."""
    from .advice.capacity import CapacityEvidence
    from .kernel import host
    from .kernel.limits import buckets_sysctl_writable, may_set_limits

    return CapacityEvidence(
        limits.entries,
        limits.limit,
        max(peak, limits.entries),
        limits.buckets,
        host.available_memory(),
        may_set_limits(),
        buckets_sysctl_writable(),
        host.runs_kube_proxy(),
    )


def remembered(session: Session, verbose: int) -> list[str]:
    """With -v, what the store says of itself; with -vvv, as whom the run judged."""
    store = session.store
    lines = list(store.notes) if verbose else []
    if verbose:
        # A folder that was opened may have kept some of it.
        lost = "Not all" if store.folder else "Nothing"
        trouble = f"{lost} is remembered: {store.trouble}"
        lines.append(trouble if store.trouble else f"Remembered in {store.folder}")
    if verbose > 2:
        from .kernel import privileges

        lines.append(f"Judged as uid {os.geteuid()}, capabilities {privileges.capabilities():x}")
    return lines


def conclude(
    options: argparse.Namespace,
    session: Session,
    resource: Resource,
    summary: Summary,
    made: Sequence[Context],
) -> Outcome:
    """Run nagiosplugin's check over all this, and take its verdict, words and figures.

    A state directory that is refused costs the memory and not the verdict, but an OK must not
    hide it: somebody else may have laid it there.
    """
    check = render.OrderedCheck(resource, summary, render.WorstResults(), *made)
    check()
    detailed = options.verbose or check.state is not Ok
    lines = list(check.verbose_str) if detailed else []
    notes = []
    store = session.store
    if store.refused and not any(store.trouble in line for line in lines):
        refusal = f"Nothing is remembered: {store.trouble}"
        if check.state is Ok:
            notes.append(refusal)
        else:
            # After what alarms most, where no bound on the output cuts it off.
            lines.insert(1, refusal)
    return Outcome(check.state, check.summary_str, check.perfdata, lines, notes)
