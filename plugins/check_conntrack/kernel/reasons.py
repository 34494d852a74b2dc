"""Reason codes: why a source of evidence cannot be read, or does not show the whole window.

Codes are values for programs. advice/source_problems.py turns them into sentences with remedies.
"""

from __future__ import annotations

from .namedtuple import NamedTuple

# A path.
NOT_FOUND = "not-found"
NO_MATCH = "no-match"
PERMISSION_DENIED = "permission-denied"
INVALID_NAME = "invalid-name"
SYMBOLIC_LINK = "symbolic-link"
NOT_A_FILE = "not-a-file"  # detail: what it is, "a directory"
FOLDER_UNREADABLE = "folder-unreadable"  # detail: strerror
READ_ERROR = "read-error"  # detail: strerror

# The content of a file.
EMPTY = "empty"
NO_KERNEL_LINES = "no-kernel-lines"
UNDATED = "undated"
JOURNAL_FILE = "journal-file"
CANNOT_UNPACK = "cannot-unpack"  # detail: name of the compression
UNPACK_MEMORY = "unpack-memory"  # detail: the limit in MiB
DAMAGED = "damaged"  # detail: what is wrong

# The spans of a source.
BEGINS_LATER = "begins-later"
LAST_WRITTEN = "last-written"
CURSOR_LOST = "cursor-lost"
PART_MISSING = "part-missing"
TIME_ZONE = "time-zone"  # detail: seconds by which the log's clock differs
TIMED_OUT = "timed-out"
RECORDS_LOST = "records-lost"  # detail: how many
LINES_LOST = "lines-lost"  # detail: how many

# The journal.
JOURNALCTL_MISSING = "journalctl-missing"  # detail: strerror
JOURNALCTL_FAILED = "journalctl-failed"  # detail: status and the beginning of standard error
JOURNALCTL_TOO_OLD = "journalctl-too-old"
JOURNAL_DENIED = "journal-denied"  # detail: the beginning of standard error
JOURNAL_NOT_FOUND = "journal-not-found"


class SourceProblem(NamedTuple):
    """A source that cannot be read, or not further.

    path: a path, or the name of the source.
    reason: a reason code.
    detail: what the code leaves open; see the comments beside the codes.
    """

    path: str
    reason: str
    detail: str = ""


class UnreadableError(Exception):
    """A source that cannot be read, or not further."""

    def __init__(self, path: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{path}: {reason}")
        self.problem = SourceProblem(path, reason, detail)
