"""Reason codes in words."""

from __future__ import annotations

import pytest

from check_conntrack.advice.source_problems import describe, gap_reason, sentence
from check_conntrack.kernel import reasons
from check_conntrack.kernel.coverage import Coverage
from check_conntrack.kernel.reasons import SourceProblem

CODES = sorted(
    value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)
)


@pytest.mark.parametrize("path", ["/var/log/kern.log", "/dev/kmsg", "journal", "standard input"])
@pytest.mark.parametrize("code", CODES)
def test_every_reason_code_has_a_problem_and_a_remedy(code, path):
    for detail in ("", "7200"):
        what, remedy = describe(SourceProblem(path, code, detail))
        assert what
        assert remedy
        assert code not in (what, remedy) or code == "damaged"
        assert "{" not in what + remedy
        assert sentence(SourceProblem(path, code, detail)) == f"{path}: {what} ({remedy})"


UNPACK = "cannot be unpacked here (unpack it and pipe it in:"
ZONE = "kern.log: its times seem to be in another time zone,"
KMSG = "/dev/kmsg: permission denied"
FOLDER = "/srv/*/kern.log: the folder cannot be listed: Permission denied"


@pytest.mark.parametrize(
    ("path", "reason", "detail", "expected"),
    [
        (
            "kern.log.1.lz4",
            reasons.CANNOT_UNPACK,
            "lz4",
            f"kern.log.1.lz4: compressed with lz4, {UNPACK} lz4 -dc kern.log.1.lz4 | ... --log -)",
        ),
        (
            "a b.Z",
            reasons.CANNOT_UNPACK,
            "compress",
            f"a b.Z: compressed with compress, {UNPACK} uncompress -c 'a b.Z' | ... --log -)",
        ),
        (
            "/dev/kmsg",
            reasons.PERMISSION_DENIED,
            "Operation not permitted",
            f"{KMSG} (grant CAP_SYSLOG, with --sudo or to the agent's service)",
        ),
        (
            "/srv/*/kern.log",
            reasons.FOLDER_UNREADABLE,
            "Permission denied",
            f"{FOLDER} (let the user list the folder, or name each file)",
        ),
        (
            "kern.log",
            reasons.TIME_ZONE,
            "5400",
            f"{ZONE} 1h 30m behind (name that zone with --log-timezone)",
        ),
        (
            "kern.log",
            reasons.TIME_ZONE,
            "-7200",
            f"{ZONE} 2h ahead (name that zone with --log-timezone)",
        ),
        (
            "/dev/kmsg",
            reasons.RECORDS_LOST,
            "1",
            "/dev/kmsg: 1 unread record overwritten by newer ones (boot with a larger log_buf_len)",
        ),
        (
            "journal",
            reasons.RECORDS_LOST,
            "12",
            "journal: 12 unread records overwritten by newer ones (boot with a larger log_buf_len)",
        ),
    ],
)
def test_problem_is_a_sentence(path, reason, detail, expected):
    assert sentence(SourceProblem(path, reason, detail)) == expected


def test_gap_is_explained_by_the_file_that_causes_it():
    assert gap_reason(Coverage("kern.log")) == ""
    part = Coverage("kern.log", (), reasons.DAMAGED, "incomplete", "kern.log.1.gz")
    assert gap_reason(part).startswith("kern.log.1.gz: the compressed data are incomplete (")
    assert gap_reason(part._replace(path="")).startswith("kern.log: ")


def test_unknown_code_is_said_as_it_is():
    assert describe(SourceProblem("x", "strange"))[0] == "strange"
