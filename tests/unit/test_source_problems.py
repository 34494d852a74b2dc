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


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (
            SourceProblem("/var/log/kern.log.1.lz4", reasons.CANNOT_UNPACK, "lz4"),
            (
                "/var/log/kern.log.1.lz4: compressed with lz4, cannot be unpacked here (unpack it and "
                "pipe it in: lz4 -dc /var/log/kern.log.1.lz4 | ... --log -)"
            ),
        ),
        (
            SourceProblem("/logs/a b.Z", reasons.CANNOT_UNPACK, "compress"),
            (
                "/logs/a b.Z: compressed with compress, cannot be unpacked here (unpack it and pipe it "
                "in: uncompress -c '/logs/a b.Z' | ... --log -)"
            ),
        ),
        (
            SourceProblem("/dev/kmsg", reasons.PERMISSION_DENIED, "Operation not permitted"),
            (
                "/dev/kmsg: permission denied (grant CAP_SYSLOG, with --sudo or to the agent's "
                "service)"
            ),
        ),
        (
            SourceProblem("/srv/*/kern.log", reasons.FOLDER_UNREADABLE, "Permission denied"),
            (
                "/srv/*/kern.log: the folder cannot be listed: Permission denied (let the user list "
                "the folder, or name each file)"
            ),
        ),
        (
            SourceProblem("kern.log", reasons.TIME_ZONE, "5400"),
            (
                "kern.log: its times seem to be of another time zone, 1h 30m behind (name that zone "
                "with --log-timezone)"
            ),
        ),
        (
            SourceProblem("kern.log", reasons.TIME_ZONE, "-7200"),
            (
                "kern.log: its times seem to be of another time zone, 2h ahead (name that zone with "
                "--log-timezone)"
            ),
        ),
    ],
)
def test_problem_is_a_sentence(problem, expected):
    assert sentence(problem) == expected


def test_gap_is_explained_by_the_file_that_causes_it():
    assert gap_reason(Coverage("kern.log")) == ""
    part = Coverage("kern.log", (), reasons.DAMAGED, "incomplete", "kern.log.1.gz")
    assert gap_reason(part).startswith("kern.log.1.gz: the compressed data are incomplete (")
    assert gap_reason(part._replace(path="")).startswith("kern.log: ")


def test_unknown_code_is_said_as_it_is():
    assert describe(SourceProblem("x", "strange"))[0] == "strange"
