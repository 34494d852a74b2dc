"""A real journald that has rotated, vacuumed or kept nothing: only what it has is claimed."""

from __future__ import annotations

import pytest

from support.commands import NOBODY
from support.journald import PROGRAM
from support.processes import answer

# A journald beside which nothing else tells of the past: neither the ring, log files nor counters.
_BESIDE = """
set -e
exec 3>&1 > /dev/null 2>&1
mount -t tmpfs none /run
mkdir -p /var/log/journal /run/systemd/journal /etc/systemd
mount -t tmpfs none /var/log
mkdir /var/log/journal
mount -t tmpfs none /etc/systemd
for file in journald.conf journald@other.conf; do
    printf '[Journal]\\nStorage=%s\\nAudit=no\\n' "$1" > /etc/systemd/$file
done
"$0" $2 & journald=$!
for try in $(seq 100); do  # on a busy machine it takes a while to begin
    if ls /run/systemd/journal*/stdout; then break; fi
    sleep 0.2
done
sleep $3
eval "$4"
kill $journald; wait $journald || true
chmod -R a+rX /run/log /var/log || true
mount --bind /dev/null /dev/kmsg
mount -t tmpfs none /proc/$$/net
mount -t tmpfs none /proc/$$/task/$$/net
exec 1>&3 3>&-
shift 4
exec "$@"
"""
WINDOW = 6  # seconds; a journal reaches back to when its journald began


@pytest.fixture
def beside(need, checks):
    """A function that runs check_conntrack_full where a journald was, after words of a shell."""
    need("journalctl", "unshare", PROGRAM)

    def run(then="true", storage="volatile", instance="", age=WINDOW + 1):
        before = ["unshare", "-m", "sh", "-c", _BESIDE, PROGRAM, storage, instance, str(age), then]
        # The time before counts: the process is older than the check.
        words = ["--no-state", "-v", "-t", "60", "--since", f"{WINDOW}s"]
        return answer(checks("full", *words, before=[*before, *NOBODY]), timeout=100)

    return run


@pytest.mark.parametrize(
    ("storage", "then"),
    [("volatile", "true"), ("persistent", "journalctl --rotate; journalctl --rotate")],
    ids=["volatile", "persistent and rotated"],
)
def test_journal_covers_the_window_also_after_rotation(beside, storage, then):
    run = beside(then, storage)
    assert run.state in ("OK", "CRITICAL"), run.out
    assert "(journal)" in run.text


@pytest.mark.parametrize("storage", ["volatile", "persistent"])
def test_journal_that_was_vacuumed_claims_nothing_of_what_is_gone(beside, storage):
    # The file with what was before the rotation is removed.
    run = beside("journalctl --rotate; journalctl --vacuum-files=1", storage)
    assert run.state == "UNKNOWN", run.out
    assert "journal: does not reach back over the window" in run.out


@pytest.mark.parametrize("how", ["keeps nothing", "keeps another namespace"])
def test_journal_without_the_kernel_is_no_evidence(beside, how):
    """The journald of a namespace does not read the ring of the kernel."""
    run = beside(
        storage="none" if how == "keeps nothing" else "volatile",
        instance="other" if how == "keeps another namespace" else "",
        age=2,
    )
    assert run.state == "UNKNOWN", run.out
    assert "(journal)" not in run.text
