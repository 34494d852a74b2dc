"""Each file of the corpus goes through its target: what was found, or is a good beginning."""

from __future__ import annotations

from pathlib import Path

import pytest

from check_conntrack.flows import bulk
from fuzz.targets import TARGETS
from support.door import fuzz, mutated

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(path for path in CORPUS.glob("*/*"))


@pytest.fixture(autouse=True)
def usual_rounds(monkeypatch):
    """Return what the targets set, to be put back."""
    for name in ("FEW", "ROWS", "LEAST", "CHUNK"):
        monkeypatch.setattr(bulk, name, getattr(bulk, name))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_holds(path):
    TARGETS[path.parent.name](path.read_bytes())


def test_the_corpus_has_something_for_every_target_and_stays_small():
    assert {path.parent.name for path in FILES} == set(TARGETS)
    assert sum(path.stat().st_size for path in FILES) < 200_000


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_made_of_the_corpus_holds(name, share):
    seeds = [path.read_bytes() for path in FILES if path.parent.name == name]
    fuzz(name, share, 150, mutated(*seeds), TARGETS[name])
