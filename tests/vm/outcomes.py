"""What the tests have shown in a machine in qemu: read from its log, and written as a table."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Outcome(NamedTuple):
    """The outcome of one test: passed, skipped or failed, and why it was skipped."""

    group: str
    test: str
    what: str
    reason: str = ""


class Run(NamedTuple):
    """What one kernel has shown; no outcomes where the tests did not end."""

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


def outcome(case: ET.Element) -> Outcome:
    """Return the outcome of a test in a JUnit report."""
    group = str(case.get("classname")).rpartition(".")[2].replace("test_", "")
    children = {child.tag: child for child in case}
    what = "failed" if children.keys() & {"failure", "error"} else "passed"
    reason = ""
    if what == "passed" and "skipped" in children:
        what, reason = "skipped", str(children["skipped"].get("message"))
    return Outcome(group, str(case.get("name")), what, reason)


def title(run: Run) -> str:
    """Return what a kernel is called in the table: its release, and what is special about it."""
    special = run.name.partition("-")[2].replace("-", " ")
    release = run.release.removesuffix("-cloud-amd64")
    return f"{release}, {special}" if special else release


def table(runs: list[Run]) -> str:
    """Return the outcomes as Markdown: a line for each group of tests, a column for each kernel."""
    groups = sorted({one.group for each in runs for one in each.outcomes})
    lines = [
        "| tests | " + " | ".join(map(title, runs)) + " |",
        "|---" * (len(runs) + 1) + "|",
    ]
    for group in groups:
        cells = [
            ", ".join(
                f"{number} {what}"
                for what in ("passed", "skipped", "failed")
                if (number := each.count(what, group))
            )
            for each in runs
        ]
        lines.append(f"| {group} | " + " | ".join(cell or "not run" for cell in cells) + " |")
    reasons: dict[str, dict[str, int]] = {}
    for each in runs:
        for one in each.outcomes:
            if one.what == "skipped":
                counts = reasons.setdefault(one.reason, {})
                counts[title(each)] = counts.get(title(each), 0) + 1
    if reasons:
        lines += ["", "Skipped:", "", "| reason | tests |", "|---|---|"]
        for reason, counts in sorted(reasons.items()):
            numbers = ", ".join(f"{kernel}: {number}" for kernel, number in counts.items())
            lines.append(f"| {reason} | {numbers} |")
    return "\n".join(lines) + "\n"
