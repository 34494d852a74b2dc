"""Keep the last diagnosis of check_conntrack_table: other checks go by it when they advise."""

from __future__ import annotations

from ..kernel.namedtuple import NamedTuple
from .codec import decode

AGE = 1800  # seconds for which a finding tells about the present alarm of another check
LONGEST_HEADLINE = 400  # characters
KEY = "findings"  # the store's key of them all, by the keys of their namespaces


class LastFinding(NamedTuple):
    """The last diagnosis of check_conntrack_table, kept for the other checks.

    Attributes:
        at: seconds since the epoch
        cause: the name of the weightiest cause; empty where none was found
        headline: what it says in the status line
        room: whether a larger limit is a remedy
    """

    at: int
    cause: str
    headline: str
    room: bool


def recent(findings: object, namespace_key: str, now: float) -> LastFinding | None:
    """Return a namespace's finding of those that were kept; None for none, or for an old one."""
    kept = findings.get(namespace_key) if isinstance(findings, dict) else None
    finding = decode(LastFinding, kept)
    if finding is None or len(finding.headline) > LONGEST_HEADLINE:
        return None
    return finding if 0 <= now - finding.at <= AGE else None
