"""The table of outcomes by kernel that `make kernels` writes into docs/kernels.md."""

from __future__ import annotations

from vm import outcomes

REPORT = """=== kernel {release}, clock tsc
tests/kernel/test_full.py::test_one PASSED
<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest">
<testcase classname="tests.kernel.test_full" name="test_one" time="1" />
<testcase classname="tests.kernel.test_full" name="test_two" time="1">{two}</testcase>
<testcase classname="tests.kernel.test_reader" name="test_a"><error message="x"/></testcase>
</testsuite></testsuites>
=== end
"""


def log(tmp_path, name, release, two):
    path = tmp_path / f"{name}.log"
    path.write_text(REPORT.format(release=release, two=two))
    return outcomes.read_log(name, path)


def test_table_has_a_line_for_each_group_and_the_reasons_of_skips(tmp_path):
    old = log(tmp_path, "5.10", "5.10.0-46-cloud-amd64", '<skipped message="no names"/>')
    bare = log(tmp_path, "6.1-no-procfs", "6.1.0-57-cloud-amd64", "<failure/>")
    assert outcomes.table([old, bare]).splitlines() == [
        "| tests | 5.10.0-46 | 6.1.0-57, no procfs |",
        "|---|---|---|",
        "| full | 1 passed, 1 skipped | 1 passed, 1 failed |",
        "| reader | 1 failed | 1 failed |",
        "",
        "Skipped:",
        "",
        "| reason | tests |",
        "|---|---|",
        "| no names | 5.10.0-46: 1 |",
    ]


def test_log_without_an_end_has_no_outcomes(tmp_path):
    path = tmp_path / "5.10.log"
    path.write_text("=== kernel 5.10.0-46-cloud-amd64, clock tsc\n")
    assert outcomes.read_log("5.10", path) == outcomes.Run("5.10", "5.10.0-46-cloud-amd64", ())
    assert outcomes.read_log("6.1", tmp_path / "none") == outcomes.Run("6.1", "6.1", ())
