"""The tables of facts and outcomes by kernel that `make kernels` writes into docs/kernels.md."""

from __future__ import annotations

import json

from vm import outcomes

FULL, READER = "tests/kernel/test_full.py", "tests/kernel/test_reader.py"
OLD = "5.10.0-46-cloud-amd64"


def log(tmp_path, name, release, *tests, end=True):
    """Return the log of a virtual machine about tests: file, test, outcome, reason, facts."""
    path = tmp_path / f"{name}.log"
    selected = {FULL: 2, READER: 1}
    lines = [f"=== kernel {release}, clock tsc", f"=== selected {json.dumps(selected)}"]
    lines += [f"=== test {json.dumps(test)}" for test in tests]
    path.write_text("\n".join([*lines, "noise", "=== end" if end else "", ""]))
    return outcomes.read_log(name, path)


def test_tables_have_a_column_for_each_kernel_and_the_reasons_of_skips(tmp_path):
    facts = [["filter for a zone", "ignored"]]
    old = log(
        tmp_path, "5.10", OLD,
        [FULL, "one", "passed", "", facts],
        [FULL, "two", "skipped", "no names", []],
        [READER, "a", "failed", "", []],
    )  # fmt: skip
    bare = log(
        tmp_path,
        "6.1-no-procfs",
        "6.1.0-57-cloud-amd64",
        [FULL, "one", "passed", "", []],
        end=False,
    )
    assert (old.ended, bare.ended) == (True, False)
    assert outcomes.table([old, bare]).splitlines() == [
        "| kernel | 5.10.0-46 | 6.1.0-57, no procfs |",
        "| --- | --- | --- |",
        "| filter for a zone | ignored |  |",
        "",
        "| tests | 5.10.0-46 | 6.1.0-57, no procfs |",
        "| --- | --- | --- |",
        "| test_full | 1 passed, 1 skipped | 1 passed, 1 not run |",
        "| test_reader | 1 failed | not run |",
        "| all | 1 passed, 1 skipped, 1 failed | 1 passed, 2 not run |",
        "",
        "| why tests were skipped | tests |",
        "| --- | --- |",
        "| no names | 5.10.0-46: 1 |",
    ]


def test_last_outcome_of_a_test_under_the_last_release_counts(tmp_path):
    other = log(tmp_path, "a", "5.10.0-45-cloud-amd64", [READER, "a", "failed", "", []])
    first = log(
        tmp_path, "b", OLD, [FULL, "one", "failed", "", []], [FULL, "two", "passed", "", []]
    )
    again = log(tmp_path, "c", OLD, [FULL, "one", "passed", "", []])
    run = outcomes.joined([other, first, again])
    assert (run.count("passed", FULL), run.count("failed"), run.count("passed", READER)) == (
        2,
        0,
        0,
    )


def test_log_without_an_outcome_has_none(tmp_path):
    path = tmp_path / "5.10.log"
    path.write_text(f"=== kernel {OLD}, clock tsc\n")
    assert outcomes.read_log("5.10", path) == outcomes.Run("5.10", OLD)
    assert outcomes.read_log("6.1", tmp_path / "none") == outcomes.Run("6.1", "6.1")
