"""The perfdata labels of check_conntrack_usage, and which of them other namespaces have."""

from __future__ import annotations

from ..ranges import Label

LABELS = (
    Label("usage", "entries in percent of the limit", "%", 1, warning="80", critical="90"),
    Label("entries", "entries in the table; a bound in % is of the limit", share_of="limit"),
    Label("limit", "nf_conntrack_max, 0 for none"),
    Label("load_factor", "entries per hash bucket", decimals=2),
    Label(
        "growth",
        "entries per second, when known",
        decimals=2,
        minimum=None,
        needs_history=True,
        when_known=True,
    ),
    Label(
        "time_to_full",
        "time left until the table is full, when known",
        "s",
        needs_history=True,
        when_known=True,
    ),
    Label("new_rate", "new entries per second, with --listen", decimals=1, when_known=True),
    Label(
        "end_rate",
        "entries that end per second, with --listen, when known",
        decimals=1,
        needs_history=True,
        when_known=True,
    ),
    Label(
        "lifetime",
        "mean seconds that an entry counts, with --listen, when known",
        "s",
        needs_history=True,
        when_known=True,
    ),
    Label(
        "settles_at",
        "percent of the limit where this rate leads, with --listen",
        "%",
        1,
        warning="100",
        when_known=True,
    ),
    Label("instance_available", "connections that EC2 can still track for this instance"),
    Label(
        "instance_usage",
        "EC2's own limit of tracked connections in use, when known",
        "%",
        1,
        warning="80",
        critical="90",
        needs_history=True,
    ),
)
INSTANCE_LABELS = ("instance_available", "instance_usage")  # of EC2, absent elsewhere
TABLE_LABELS = tuple(label for label in LABELS if label.name not in INSTANCE_LABELS)
LISTENING_LABELS = ("new_rate", "end_rate", "lifetime", "settles_at")
NAMESPACE_LABELS = ("usage", "entries", "time_to_full")  # of namespaces beside the first
