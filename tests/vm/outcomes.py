"""The outcomes of tests in a virtual machine: read from its log, and written as tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple


class Outcome(NamedTuple):
    """The outcome of one test, as vm.recorder writes it.

    what: passed, skipped or failed. reason: why it was skipped. facts: what it has recorded of the
    kernel, as names and values.
    """

    file: str
    test: str
    what: str
    reason: str = ""
    facts: tuple[tuple[str, str], ...] = ()


class Run(NamedTuple):
    """The outcomes of tests under a kernel.

    selected: how many tests of each file were to run. ended: whether pytest came to its end.
    """

    name: str
    release: str
    outcomes: tuple[Outcome, ...] = ()
    selected: dict[str, int] = {}  # noqa: RUF012
    ended: bool = False

    def count(self, what: str, file: str = "") -> int:
        """Return how many tests, of a file or of all, had an outcome."""
        return sum(one.what == what and file in ("", one.file) for one in self.outcomes)


def read_log(name: str, log: Path) -> Run:
    """Return what a log says: the kernel's release, and the outcomes until it ends."""
    text = log.read_text(errors="replace") if log.exists() else ""
    release = re.search(r"=== kernel ([^ ,]+)", text)
    lines = re.findall(r"^=== test (\[.*\])$", text, re.MULTILINE)
    outcomes = tuple(Outcome(*json.loads(line)) for line in lines)
    selected = re.search(r"^=== selected (\{.*\})$", text, re.MULTILINE)
    files = json.loads(selected[1]) if selected else {}
    return Run(name, release[1] if release else name, outcomes, files, "\n=== end" in text)


def joined(runs: list[Run]) -> Run:
    """Return the last outcome of each test, of runs under the release of the last one."""
    last: dict[tuple[str, str], Outcome] = {}
    selected: dict[str, int] = {}
    for each in runs:
        if each.release == runs[-1].release:
            last.update(((one.file, one.test), one) for one in each.outcomes)
            for file, number in each.selected.items():
                selected[file] = max(number, selected.get(file, 0))
    return runs[-1]._replace(outcomes=tuple(last.values()), selected=selected)


def title(run: Run) -> str:
    """Return what a kernel is called in the table: its release, and what is special about it."""
    special = run.name.partition("-")[2].replace("-", " ")
    release = run.release.removesuffix("-cloud-amd64")
    return f"{release}, {special}" if special else release


def table(runs: list[Run]) -> str:
    """Return the runs as Markdown: facts and outcomes by kernel, and skipped tests."""
    facts = [dict(fact for one in each.outcomes for fact in one.facts) for each in runs]
    files = sorted({one.file for each in runs for one in each.outcomes})
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
            [
                *((Path(file).stem, *(counts(each, file) for each in runs)) for file in files),
                ("all", *(counts(each, "") for each in runs)),
            ],
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


def counts(run: Run, file: str) -> str:
    """Return how many tests, of a file or of all, had which outcome, in words."""
    found = [(what, run.count(what, file)) for what in ("passed", "skipped", "failed")]
    known = sum(number for _, number in found)
    missing = (sum(run.selected.values()) if not file else run.selected.get(file, 0)) - known
    if known and missing > 0:
        found.append(("not run", missing))
    return ", ".join(f"{number} {what}" for what, number in found if number) or "not run"


def rows(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    rule = ("---",) * len(head)
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines))
