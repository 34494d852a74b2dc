"""What the tests in a virtual machine have shown: read from its log, and written as tables."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Outcome(NamedTuple):
    """The outcome of one test.

    what: passed, skipped or failed. reason: why it was skipped. facts: what it has recorded of the
    kernel, as names and values.
    """

    group: str
    test: str
    what: str
    reason: str = ""
    facts: tuple[tuple[str, str], ...] = ()


class Run(NamedTuple):
    """What tests under a kernel have shown; no outcomes where they did not end."""

    name: str
    release: str
    outcomes: tuple[Outcome, ...]

    def count(self, what: str, group: str = "") -> int:
        """Return how many tests, of a group or of all, had an outcome."""
        return sum(one.what == what and group in ("", one.group) for one in self.outcomes)


def read_log(name: str, log: Path) -> Run:
    """Return what a log says: the kernel's release, and the outcomes in the report at its end."""
    text = log.read_text(errors="replace") if log.exists() else ""
    release = re.search(r"=== kernel ([^ ,]+)", text)
    report = re.search(r"<\?xml.*</testsuites>", text, re.DOTALL)
    outcomes = map(outcome, ET.fromstring(report[0]).iter("testcase")) if report else ()
    return Run(name, release[1] if release else name, tuple(outcomes))


def joined(runs: list[Run]) -> Run:
    """Return the last outcome of each test, of runs under the release of the last one."""
    last: dict[tuple[str, str], Outcome] = {}
    for each in runs:
        if each.release == runs[-1].release:
            last.update(((one.group, one.test), one) for one in each.outcomes)
    return runs[-1]._replace(outcomes=tuple(last.values()))


def group(path: str) -> str:
    """Return what the tests of a file are called, by the name of the file or of its module."""
    return re.split("[./]", path.removesuffix(".py"))[-1].removeprefix("test_")


def outcome(case: ET.Element) -> Outcome:
    """Return the outcome of a test in a JUnit report."""
    children = {child.tag: child for child in case}
    what = "failed" if children.keys() & {"failure", "error"} else "passed"
    reason = ""
    if what == "passed" and "skipped" in children:
        what, reason = "skipped", str(children["skipped"].get("message"))
    facts = [(str(each.get("name")), str(each.get("value"))) for each in case.iter("property")]
    return Outcome(
        group(str(case.get("classname"))), str(case.get("name")), what, reason, tuple(facts)
    )


def title(run: Run) -> str:
    """Return what a kernel is called in the table: its release, and what is special about it."""
    special = run.name.partition("-")[2].replace("-", " ")
    release = run.release.removesuffix("-cloud-amd64")
    return f"{release}, {special}" if special else release


def table(runs: list[Run]) -> str:
    """Return the runs as Markdown: facts and groups of tests by kernel, and skipped tests."""
    facts = [dict(fact for one in each.outcomes for fact in one.facts) for each in runs]
    groups = sorted({one.group for each in runs for one in each.outcomes})
    named = [title(each) for each in runs]
    parts = [
        rows(
            ("kernel", *named),
            [
                (name, *(each.get(name, "") for each in facts))
                for name in dict.fromkeys(name for each in facts for name in each)
            ],
        ),
        rows(
            ("tests", *named),
            [(group, *(counts(each, group) for each in runs)) for group in groups],
        ),
    ]
    skipped: dict[str, list[str]] = {}
    for each in runs:
        for reason in dict.fromkeys(one.reason for one in each.outcomes if one.what == "skipped"):
            number = sum(one.reason == reason for one in each.outcomes)
            skipped.setdefault(reason, []).append(f"{title(each)}: {number}")
    if skipped:
        found = [(reason, ", ".join(skipped[reason])) for reason in sorted(skipped)]
        parts.append(rows(("why tests were skipped", "tests"), found))
    return "\n".join(parts)


def counts(run: Run, group: str) -> str:
    """Return how many tests of a group had which outcome, in words."""
    found = [(what, run.count(what, group)) for what in ("passed", "skipped", "failed")]
    return ", ".join(f"{number} {what}" for what, number in found if number) or "not run"


def rows(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    rule = ("---",) * len(head)
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines))
