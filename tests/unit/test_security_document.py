"""docs/security.md claims nothing that no test shows."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
DOCUMENT = (TESTS.parent / "docs/security.md").read_text()
NAMED = sorted(set(re.findall(r"`(test_\w+)`", DOCUMENT)))


def test_each_test_that_the_document_names_exists():
    written = set()
    for path in TESTS.rglob("test_*.py"):
        written |= set(re.findall(r"^ *def (test_\w+)\(", path.read_text(), re.MULTILINE))
    assert len(NAMED) > 40
    assert [name for name in NAMED if name not in written] == []


def test_each_attack_on_the_reader_has_its_test():
    attacks = DOCUMENT.partition("| attack |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(attacks) > 8
    assert [line for line in attacks if "`test_" not in line] == []
