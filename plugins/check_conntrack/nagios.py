"""Everything that knows nagiosplugin: contexts, results, severity, the order of the perfdata.

The library's own order of states hides CRITICAL behind UNKNOWN, it sorts perfdata by label, and
prints no long output unless it is verbose; contract.md says what the suite does instead.
"""

from __future__ import annotations

from nagiosplugin import (
    Check,
    Context,
    Critical,
    Metric,
    Ok,
    Performance,
    Range,
    Resource,
    Result,
    Results,
    Summary,
    Unknown,
    Warn,
)

from . import render
from .ranges import INFINITY, plain
from .runner import CheckResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Container, Iterable, Sequence

    from nagiosplugin.state import ServiceState

    from .ranges import AlertRange, Label, LabelThresholds, Thresholds
    from .session import Session

STATES = {"ok": Ok, "warning": Warn, "critical": Critical, "unknown": Unknown}
SEVERITY = (Ok, Warn, Unknown, Critical)
HIDDEN = "hidden "  # before the name of a context that prints no perfdata
_ALL_DECIMALS = 17  # enough to tell a double from its neighbours


# --- severity and order


def worst(states: Iterable[ServiceState]) -> ServiceState:
    """Return the state that decides; UNKNOWN is worse than WARNING, and CRITICAL than both."""
    return max(states, key=SEVERITY.index)


class WorstResults(Results):
    """Results whose most significant state follows SEVERITY."""

    @property
    def most_significant_state(self) -> ServiceState:
        """Return the worst state; raises ValueError if there are no results."""
        return worst(result.state for result in self.results)


class OrderedCheck(Check):
    """A check whose perfdata keeps the order in which the metrics were yielded."""

    def __call__(self) -> None:
        """Run the check."""
        super().__call__()
        order: dict[str, int] = {}
        for result in self.results.results:
            if isinstance(result.metric, Metric):
                order.setdefault(result.metric.name, len(order))
        self.perfdata.sort(key=lambda item: order[item.rpartition("=")[0].strip("'")])


# --- contexts


class LabelContext(Context):
    """Evaluates a label's metrics, and prints each with the decimals that its verdict needs.

    A hidden one evaluates and prints no perfdata, for namespaces that are not graphed.

    A share (`%`) of a label that counts entries is of the metric's `max` where the label says
    "limit", else of the resource's `total_entries`; where that is None the range cannot fire.
    """

    def __init__(self, label: Label, thresholds: LabelThresholds, *, hidden: bool = False) -> None:
        super().__init__((HIDDEN if hidden else "") + label.name)
        self.hidden = hidden
        self.label = label
        self.thresholds = thresholds

    @property
    def can_alert(self) -> bool:
        """Return whether any value can alert."""
        return any(
            threshold.alerts(self.label.minimum) for threshold in self.thresholds if threshold
        )

    def can_evaluate(self, metric: Metric, resource: Resource) -> bool:
        """Return whether the base of each share is known."""
        given = (threshold for threshold in self.thresholds if threshold)
        return all(self._spell(each, metric, resource) is not None for each in given)

    def evaluate(self, metric: Metric, resource: Resource) -> Result:
        """Return the state of a metric, with the range that it violates as the hint."""
        for state, threshold in (
            (Critical, self.thresholds.critical),
            (Warn, self.thresholds.warning),
        ):
            spelled = self._spell(threshold, metric, resource)
            if threshold and spelled and not Range(spelled).match(metric.value):
                return Result(state, threshold.text, metric)
        return Result(Ok, None, metric)

    def performance(self, metric: Metric, resource: Resource) -> Performance | None:
        """Return the metric as perfdata, with absolute numbers as thresholds."""
        if self.hidden:
            return None
        warning, critical = self._ranges(metric, resource)
        return Performance(
            metric.name,
            self.settle(metric, warning, critical),
            self.label.unit,
            warning or "",
            critical or "",
            metric.min,
            None if metric.max is None else plain(metric.max),
        )

    def print_value(self, metric: Metric, resource: Resource) -> str:
        """Return the metric's value with its unit, as in the perfdata."""
        return self.settle(metric, *self._ranges(metric, resource)) + self.label.unit

    def violates(self, state: ServiceState, value: float) -> bool:
        """Return whether a value would have this state or a worse one; not for shares."""
        thresholds = [self.thresholds.critical]
        thresholds += [self.thresholds.warning] if state is Warn else []
        return any(
            not Range(threshold.spell()).match(value)
            for threshold in thresholds
            if threshold and not threshold.share and threshold.spell()
        )

    def too_low(self, result: Result) -> bool:
        """Return whether this result, which is not OK, would be OK with a higher value."""
        thresholds = self.thresholds
        threshold = thresholds.critical if result.state is Critical else thresholds.warning
        span = Range(self._spell(threshold, result.metric, result.metric.resource) or "")
        if span.invert:
            least = self.label.minimum
            return span.start <= (-INFINITY if least is None else least)
        return bool(result.metric.value < span.start)

    def settle(self, metric: Metric, warning: str | None, critical: str | None) -> str:
        """Return the value with the label's decimals, or as many more as its verdict needs.

        89.96 must not be printed as 90.0 where 90.0 would have another state, and a percentage
        below its maximum not as the maximum.
        """
        ranges = [Range(text) for text in (warning, critical) if text]
        if metric.max is not None and self.label.unit == "%":
            ranges += [Range(f"~:{plain(metric.max)}"), Range(f"{plain(metric.max)}:")]
        text = ""
        for decimals in range(self.label.decimals, _ALL_DECIMALS + 1):
            text = f"{metric.value:.{decimals}f}"
            if all(span.match(float(text)) == span.match(metric.value) for span in ranges):
                break
        return text if text.strip("-0.") else text.lstrip("-")

    def _ranges(self, metric: Metric, resource: Resource) -> tuple[str | None, str | None]:
        return (
            self._spell(self.thresholds.warning, metric, resource),
            self._spell(self.thresholds.critical, metric, resource),
        )

    def _spell(
        self, threshold: AlertRange | None, metric: Metric, resource: Resource
    ) -> str | None:
        """Return a range in absolute numbers; None where there is none, or no base of its share."""
        if threshold is None:
            return None
        factor = 1.0
        if threshold.share:
            of_limit = self.label.share_of == "limit"
            # 0 is no limit, and an empty table: no entry of none is a share of 0.
            base = metric.max or None if of_limit else getattr(resource, "total_entries", None)
            if base is None:
                return None
            factor = base / 100
        return threshold.spell(factor)


class StateContext(Context):
    """Gives a fixed state to a metric that is a fact and not a number; its value is the text."""

    def __init__(self, name: str, state: ServiceState) -> None:
        super().__init__(name)
        self.state = state

    def evaluate(self, metric: Metric, resource: Resource) -> Result:
        """Return the state, with the metric's value as the hint."""
        return Result(self.state, str(metric.value), metric)


def contexts(labels: Sequence[Label], thresholds: Thresholds, if_inactive: str) -> list[Context]:
    """Return the contexts of all labels, and of "problem" and "inactive"."""
    return [
        *(LabelContext(label, thresholds.of[label.name]) for label in labels),
        *(LabelContext(label, thresholds.of[label.name], hidden=True) for label in labels),
        StateContext("problem", Unknown),
        StateContext("inactive", STATES[if_inactive]),
    ]


# --- results


def results_of(prefix: str, labels: Sequence[Label], results: Results) -> list[Result]:
    """Return the results of a namespace's labels, in the order of the labels."""
    names = [prefix + label.name for label in labels]
    return [results[name] for name in names if name in results]


def alarm_lines(
    results: Sequence[Result], more: Callable[[Result], str] = lambda _: ""
) -> list[str]:
    """Return a line for each alarm, or for more than two alarms a line for each state.

    A web interface shows the first four lines and hides the others: cause and remedy follow at
    once. more: what to add to an alarm.
    """
    texts = [(one.state.text.upper(), describe_alarm(one) + more(one)) for one in results]
    if len(texts) <= 2:
        return [f"{state}: {text}" for state, text in texts]
    states = dict.fromkeys(state for state, _ in texts)
    return [f"{state}: " + "; ".join(text for of, text in texts if of == state) for state in states]


def alarms(results: Iterable[Result]) -> list[Result]:
    """Return the results that are not OK, the worst first."""
    alarming = [result for result in results if result.state is not Ok]
    return sorted(alarming, key=lambda result: SEVERITY.index(result.state), reverse=True)


def context_of(result: Result) -> LabelContext:
    """Return the context of a label's result."""
    context: LabelContext = result.metric.contextobj
    return context


def label_of(result: Result) -> str:
    """Return the name of a result's label, without the prefix of its namespace."""
    return context_of(result).label.name


def print_value(result: Result) -> str:
    """Return the value with its unit, as in the perfdata."""
    return context_of(result).print_value(result.metric, result.metric.resource)


def describe_alarm(result: Result) -> str:
    """Return the value and the violated threshold, as in "usage 95.0% (threshold 90)".

    A time whose first two units would not tell it from its threshold is printed as in the perfdata.
    """
    value = print_value(result)
    if context_of(result).label.unit == "s" and "." not in value:
        duration = render.duration(int(value[:-1]))
        value = value if duration in str(result.hint).strip("@~:").split(":") else duration
    return f"{result.metric.name} {value} (threshold {result.hint})"


# --- what all checks print


class StatusSummary(Summary):
    """The text of a check; `room` is how many characters of the status line it may take."""

    room = render.TEXT_WIDTH


def conclude(
    options: argparse.Namespace,
    session: Session,
    resource: Resource,
    summary: StatusSummary,
    all_contexts: Sequence[Context],
    *,
    thresholds: Thresholds | None = None,
    not_applicable: Container[str] = (),
    absent: Container[str] = (),
    remember: Callable[[], None] | None = None,
    notes: Sequence[str] = (),
) -> CheckResult:
    """Run nagiosplugin's check, keep the history, and return state, text, perfdata, long output.

    thresholds: with them, a label that a range was given for and that could not be evaluated is
    UNKNOWN, unless it is in `not_applicable`, or `absent`: what it tells does not exist here.
    remember: writes the history, once the verdict is known. With it, a history that cannot be kept
    is said in every run; it is a WARNING if a range, a default one included, needs it. If the user
    wants no history (--no-state), that holds for given ranges only, and is said with -v.
    notes: lines of long output that are printed in any state.
    """
    check = OrderedCheck(resource, summary, WorstResults(), *all_contexts)
    check()
    labels = [context for context in all_contexts if isinstance(context, LabelContext)]
    extra: list[Sequence[str]] = []
    notes = list(notes)
    problem = ""
    if thresholds:
        labels = [context for context in labels if context.label.name not in absent]
        missing = _unevaluated(labels, thresholds, check.results, not_applicable)
        if missing:
            problem = f"{', '.join(missing)} cannot be evaluated, no value"
            check.results.add(Result(Unknown, problem, Metric("problem", 0, context="problem")))
            extra.append([problem])
            notes.append(f"UNKNOWN: {problem}")
    if remember:
        with session.stage.stoppable(session.store.fail):
            session.stage("writing the state")
            remember()
    trouble = session.store.trouble
    if remember and trouble:
        needs = thresholds and _needs_history(labels, thresholds, given=options.no_state)
        if needs:
            metric = Metric("history", 0, context="history")
            check.results.add(Result(Warn, trouble, metric))
            extra.append([f"no history: {each}" for each in render.versions(trouble)])
            notes.append(f"WARNING: {', '.join(needs)} cannot be evaluated, no history: {trouble}")
        elif not options.no_state:
            notes.append(f"No history is kept: {trouble}")
    state = check.state
    session.stage.result = CheckResult(state, _plain_words(check.results, state), check.perfdata)
    session.stage("describing the verdict")
    detailed = options.verbose or state is not Ok
    lines = list(check.verbose_str) if detailed else []
    if problem and state is Unknown:
        # Why it is UNKNOWN is worth more than the last words of the summary.
        summary.room -= len("; ") + len(problem)
    text = render.fit([[check.summary_str], *extra])
    if problem and state is Unknown and problem not in text:
        text = render.fit([[problem], [check.summary_str]])
    if session.store.refused and not any(trouble in line for line in (*lines, *notes)):
        notes.append(f"No history is kept: {trouble}")
    notes = [note for note in notes if note not in lines]
    if state is not Ok:
        # After the worst alarm, where the bound on the output does not cut them off.
        alarms = tuple(f"{each.text.upper()}: " for each in (Critical, Unknown, Warn))
        after = bool(lines) and lines[0].startswith(alarms)
        lines, notes = [*lines[:after], *notes, *lines[after:]], []
    result = CheckResult(state, text, check.perfdata, lines, notes)
    session.stage.result = result
    return result


def _plain_words(results: Results, state: ServiceState) -> str:
    """Return what was decisive, for when there is no time for a summary."""
    if state is Ok:
        return "within all thresholds"
    decisive = [result for result in results.results if result.state is state]
    if state is not Unknown:
        alarms = [one for one in decisive if isinstance(one.metric.contextobj, LabelContext)]
        return render.fit([*map(describe_alarm, alarms)] or [*map(str, decisive)])
    return render.fit(map(str, decisive))


def _unevaluated(
    labels: Sequence[LabelContext],
    thresholds: Thresholds,
    results: Results,
    not_applicable: Container[str],
) -> list[str]:
    """Return the labels that a range was given for, and that nothing can be said of.

    They have no value in any namespace, or the bounds are shares of what is not known.
    """
    evaluated = {
        result.metric.contextobj.label.name
        for result in results
        if isinstance(result.metric.contextobj, LabelContext)
        and result.metric.contextobj.can_evaluate(result.metric, result.metric.resource)
    }
    return [
        context.label.name
        for context in labels
        if not context.hidden
        and context.label.name in thresholds.given
        and context.label.name not in evaluated
        and context.label.name not in not_applicable
        and not context.label.when_known
        and context.can_alert
    ]


def _needs_history(
    labels: Sequence[LabelContext], thresholds: Thresholds, *, given: bool
) -> list[str]:
    """Return the labels that need a history and can alert; `given`: of those with given ranges."""
    return [
        context.label.name
        for context in labels
        if not context.hidden
        and context.label.needs_history
        and context.can_alert
        and (context.label.name in thresholds.given or not given)
    ]
