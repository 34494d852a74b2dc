"""A plugin of pytest for a machine that may not come to the end: it prints each outcome at once."""

from __future__ import annotations

import collections
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


class Recorder:
    """Writes why a test failed, and its outcome as a line that vm.outcomes reads."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.what, self.reason = "passed", ""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Write how many tests of each file are to run."""
        files = collections.Counter(item.nodeid.partition("::")[0] for item in session.items)
        self.write("selected", files)

    def write(self, what: str, value: object) -> None:
        """Write a line that vm.outcomes reads."""
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        terminal.write_line(f"=== {what} {json.dumps(value)}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a phase; write that of the test after the last one."""
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        if report.failed:
            self.what, self.reason = "failed", ""
            terminal.write_line(f"\n{report.longreprtext}\n")
        elif report.skipped and self.what == "passed":
            self.what, self.reason = "skipped", report.longrepr[2].removeprefix("Skipped: ")
        if report.when == "teardown":
            file, _, test = report.nodeid.partition("::")
            self.write("test", [file, test, self.what, self.reason, report.user_properties])
            self.what, self.reason = "passed", ""


def pytest_configure(config: pytest.Config) -> None:
    """Add the plugin."""
    config.pluginmanager.register(Recorder(config))
