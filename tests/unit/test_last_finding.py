"""The last diagnosis of check_conntrack_table, as the other checks read it."""

from __future__ import annotations

import json

import pytest

from check_conntrack.state import last_finding
from check_conntrack.state.codec import encode
from check_conntrack.state.last_finding import LastFinding

FLOOD = LastFinding(2000, "flood", "UDP flood on 192.0.2.1 udp/9", room=False)


def kept(**changed):
    """Return the finding as it is read from the store."""
    return {"here": json.loads(json.dumps(encode(FLOOD._replace(**changed))))}


def test_finding_is_read_back():
    assert last_finding.recent(kept(), "here", 3000) == FLOOD


@pytest.mark.parametrize(
    "changed",
    [
        {"at": 1100},
        {"at": 5000},
        {"at": "1"},
        {"at": True},
        {"cause": 5},
        {"headline": None},
        {"headline": "x" * 500},
    ],
)
def test_finding_that_is_old_or_damaged_is_none(changed):
    assert last_finding.recent(kept(**changed), "here", 3000) is None


@pytest.mark.parametrize("findings", [None, ["here"], {"here": 5}, {"elsewhere": encode(FLOOD)}])
def test_finding_that_was_not_kept_is_none(findings):
    assert last_finding.recent(findings, "here", 3000) is None
