"""The labels of check_conntrack_full: what users set thresholds on, and graphs are drawn of."""

from __future__ import annotations

from ..ranges import Label

COUNTERS = (
    ("drop", "packets dropped: table full, a clash, or a helper gave up"),
    ("early_drop", "unassured entries evicted to make room"),
    ("insert_failed", "inserts that failed: a clash, or a hash chain too long"),
    ("chaintoolong", "inserts refused because a hash chain was too long"),
    ("clash_resolve", "clashes that cost no packet"),
    ("invalid", "packets that belong to no connection"),
    ("search_restart", "lookups restarted while the hash was resized"),
)
TOTAL = "_total"
LABELS = (
    Label("table_full", '"table full" messages in the window', critical="0"),
    Label("suppressed", "log messages suppressed by rate limiting (upper bound)"),
    Label("other_loss", "messages: expectation table full, zone limit", warning="0"),
    Label(
        "full_drops", "packets dropped, except by failed inserts", warning="0", needs_history=True
    ),
    Label("early_drops", "entries evicted early", warning="0", needs_history=True),
    Label(
        "insert_failures",
        "packets dropped because their insert failed: NAT ports exhausted, or a clash",
        warning="10",
        needs_history=True,
    ),
    Label(
        "chain_overflows", "inserts refused: hash chain too long", warning="0", needs_history=True
    ),
    Label("invalid_packets", "packets that belong to no connection", needs_history=True),
    *(Label(name + TOTAL, meaning, "c") for name, meaning in COUNTERS),
    Label(
        "instance_refused",
        "packets that EC2 refused at its own limit of tracked connections",
        warning="100",
        critical="1000",
        needs_history=True,
    ),
    Label(
        "linklocal_refused",
        "packets to EC2's DNS, metadata and time services that were too many",
        warning="100",
        needs_history=True,
    ),
)
INSTANCE_LABELS = ("instance_refused", "linklocal_refused")
"""Of an EC2 instance; absent elsewhere."""
NAMESPACE_LABELS = ("table_full", "full_drops", "drop_total", "early_drop_total")
"""Of a further namespace."""
RISES = ("full_drops", "early_drops", "insert_failures", "chain_overflows", "invalid_packets")
"""Evaluated of every further namespace, also where it is not graphed."""
MOST_NAMESPACES = 10
"""Further namespaces that are graphed."""
