"""Say in words why a source cannot be read or does not show the whole window, and what to do.

Pure functions of reason codes (kernel/reasons.py).
"""

from __future__ import annotations

import shlex

from ..kernel import reasons
from ..kernel.reasons import SourceProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..kernel.coverage import Coverage

_NAME_ANOTHER = "name log files with --log"
_GROUP = "add the user to the group systemd-journal or adm"

# Code -> (problem, remedy). {detail} and {path} are filled in; {said} is the detail after a colon.
_SENTENCES = {
    reasons.NOT_FOUND: ("not found", "name a log that exists"),
    reasons.NO_MATCH: ("matches no file", "check the pattern"),
    reasons.PERMISSION_DENIED: (
        "permission denied",
        "add the user to the group that may read it, adm on Debian, or use the journal",
    ),
    reasons.INVALID_NAME: ("invalid file name", "name a log file"),
    reasons.SYMBOLIC_LINK: ("is a symbolic link", "name the file it points to"),
    reasons.NOT_A_FILE: ("is {detail}, not a file", "name a log file"),
    reasons.FOLDER_UNREADABLE: (
        "the folder cannot be listed{said}",
        "let the user list the folder, or name each file",
    ),
    reasons.READ_ERROR: ("cannot be read{said}", "check the file and its disk"),
    reasons.EMPTY: ("is empty", "check that the log is written to it"),
    reasons.NO_KERNEL_LINES: ("has no lines of the kernel", "name the kernel's log with --log"),
    reasons.UNDATED: (
        "its lines have no time",
        "use --since all to count them, or --log-timezone if only their zone is unknown",
    ),
    reasons.JOURNAL_FILE: (
        "is a journal file, not text",
        "pipe it in: journalctl --file={path} -k -o short-iso | ... --log -",
    ),
    reasons.CANNOT_UNPACK: (
        "compressed with {detail}, cannot be unpacked here",
        "unpack it and pipe it in: {tool} {path} | ... --log -",
    ),
    reasons.UNPACK_MEMORY: (
        "takes more than {detail} MiB of memory to unpack",
        "unpack it and pipe it in: xz -dc {path} | ... --log -",
    ),
    reasons.DAMAGED: (
        "the compressed data are {detail}",
        "everything before that place was read; fetch the file again or leave it out",
    ),
    reasons.BEGINS_LATER: ("does not reach back over the window", "keep more of the log"),
    reasons.LAST_WRITTEN: (
        "last written {ago} ago",
        "check the log daemon, or name the current log",
    ),
    reasons.CURSOR_LOST: (
        "what was read before is gone, lines since then may be lost",
        "keep rotated logs beside the log, and check who truncates it",
    ),
    reasons.PART_MISSING: ("a rotated part is missing", "keep rotated logs beside the log"),
    reasons.TIME_ZONE: (
        "its times seem to be in another time zone, {zone}",
        "name that zone with --log-timezone",
    ),
    reasons.TIMED_OUT: ("not read to its end in time", "raise --timeout"),
    reasons.RECORDS_LOST: (
        "{detail} unread record{s} overwritten by newer ones",
        "boot with a larger log_buf_len",
    ),
    reasons.LINES_LOST: (
        "it says that it lost {detail} line{s}",
        "raise the rate limit of rsyslog's imjournal, or boot with a larger log_buf_len",
    ),
    reasons.JOURNALCTL_MISSING: ("journalctl{said}", f"install systemd, or {_NAME_ANOTHER}"),
    reasons.JOURNALCTL_FAILED: ("journalctl failed: {detail}", "run it by hand"),
    reasons.JOURNALCTL_TOO_OLD: (
        "journalctl printed no JSON",
        "journalctl of systemd 236 or later is needed",
    ),
    reasons.JOURNAL_DENIED: ("permission denied{said}", _GROUP),
    reasons.JOURNAL_NOT_FOUND: ("no journal files were found", f"{_GROUP}, or {_NAME_ANOTHER}"),
}
# What is different for a source that is no file.
_OF_SOURCE = {
    ("/dev/kmsg", reasons.PERMISSION_DENIED): (
        "permission denied",
        "grant CAP_SYSLOG, with --sudo or to the agent's service",
    ),
    ("/dev/kmsg", reasons.READ_ERROR): ("cannot be read{said}", _NAME_ANOTHER),
    ("/dev/kmsg", reasons.NO_KERNEL_LINES): ("has no lines of the kernel", _NAME_ANOTHER),
    ("/dev/kmsg", reasons.BEGINS_LATER): (
        "no longer reaches back over the window",
        "boot with a larger log_buf_len",
    ),
    ("journal", reasons.NO_KERNEL_LINES): ("no lines of the kernel can be read{said}", _GROUP),
    ("journal", reasons.BEGINS_LATER): (
        "does not reach back over the window",
        "keep the journal with Storage=persistent",
    ),
    ("standard input", reasons.EMPTY): ("is empty", "check the command that feeds it"),
}
_TOOLS = {"compress": "uncompress -c", "zip": "unzip -p", "7z": "7z x -so"}


def describe(problem: SourceProblem) -> tuple[str, str]:
    """Return (problem, remedy) of a source's problem, in words."""
    words = _OF_SOURCE.get((problem.path, problem.reason)) or _SENTENCES.get(
        problem.reason, (problem.reason, "look at it by hand")
    )
    fields = {
        "detail": problem.detail,
        "s": "" if problem.detail == "1" else "s",
        "said": f": {problem.detail}" if problem.detail else "",
        "path": shlex.quote(problem.path),
        "tool": _TOOLS.get(problem.detail, f"{problem.detail} -dc"),
        "zone": _difference(problem.detail),
        "ago": _length(problem.detail),
    }
    return words[0].format_map(fields), words[1].format_map(fields)


def _difference(seconds: str) -> str:
    """Return by how much a log's times differ, in words."""
    try:
        shift = int(seconds)
    except ValueError:
        return ""
    return f"{_length(seconds.lstrip('-'))} {'behind' if shift > 0 else 'ahead'}"


def _length(seconds: str) -> str:
    """Return a number of seconds as a duration, as in "3h 20m"."""
    minutes = int(seconds) // 60 if seconds.isdigit() else 0
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [f"{number}{unit}" for number, unit in zip((days, hours, minutes), "dhm") if number]
    return " ".join(parts[:2]) or "0m"


def sentence(problem: SourceProblem) -> str:
    """Return `path: problem (remedy)`."""
    what, remedy = describe(problem)
    return f"{problem.path}: {what} ({remedy})"


def gap_reason(coverage: Coverage) -> str:
    """Return why a source shows no more, with its remedy; empty where it shows the whole window."""
    if not coverage.reason:
        return ""
    path = coverage.path or coverage.source
    return sentence(SourceProblem(path, coverage.reason, coverage.detail))
