"""The kernel's own message about a table that overflows, where the kernel leaves it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid

import pytest

from check_conntrack.kernel import reasons
from check_conntrack.kernel.log import journal, kmsg
from check_conntrack.kernel.log.events import count_events, merge
from check_conntrack.kernel.log.messages import Kind
from support import features, journald, overflow
from support.commands import SLOWNESS
from support.netns import wait_until
from support.processes import deadline


@pytest.fixture
def namespace(need):
    need("ip", "nft", "conntrack")
    with overflow.namespace() as made:
        yield made


def ring(stop=lambda: False):
    try:
        descriptor, marker = kmsg.open_kmsg()
    except OSError as error:
        pytest.skip(f"/dev/kmsg: {error}")
    try:
        return kmsg.digest(kmsg.read_kmsg(descriptor, stop, marker), kmsg.read_clock(), "b" * 32)
    finally:
        os.close(descriptor)
        os.close(marker)


def named(namespace):
    """The namespace that the kernel's messages about it name."""
    return namespace.inode if features.log_names_namespaces() else None


def logged_overflow(namespace):
    """Overflow the table until the kernel has said so; return (begin, messages).

    The rate limit belongs to the whole machine: others may have used it up.
    """
    begin = time.time()
    inode = named(namespace)
    # The kernel gives a new namespace the inode of one that is gone.
    before = max((event.monotonic for event in ring().events), default=0)
    found = []

    def said():
        overflow.overflow(namespace)
        found[:] = [
            event for event in ring().events if event.netns == inode and event.monotonic > before
        ]
        return bool(found)

    assert wait_until(said, 30), "the kernel has said nothing"
    return begin, found


def test_kmsg_event_names_the_namespace(namespace):
    features.need_names_in_log()
    begin, found = logged_overflow(namespace)
    assert {event.kind for event in found} == {Kind.TABLE_FULL}
    assert all(begin - 2 <= event.time <= time.time() + 2 for event in found)


def test_kmsg_record_of_a_program_is_not_counted(need):
    need()
    mark = 400_000_000 + int(uuid.uuid4().hex[:6], 16)
    try:
        with open("/dev/kmsg", "w") as file:
            file.write(f"<4>nf_conntrack: table full in netns {mark}, dropping packet\n")
    except OSError as error:
        pytest.skip(f"/dev/kmsg: {error}")
    descriptor, marker = kmsg.open_kmsg()
    try:
        raws = list(kmsg.read_kmsg(descriptor, lambda: False))
    finally:
        os.close(descriptor)
        os.close(marker)
    assert any(str(mark).encode() in raw for raw in raws)
    assert not [
        event for event in kmsg.digest(raws, kmsg.read_clock()).events if event.netns == mark
    ]


def test_kmsg_reading_ends_while_the_ring_is_written(need):
    need()
    code = "import os\nfd=os.open('/dev/kmsg',os.O_WRONLY)\nwhile True: os.write(fd,b'<15>check')"
    writer = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.3)
        begin = time.monotonic()
        found = ring(deadline(5))
        assert time.monotonic() - begin < 5 + SLOWNESS
        assert found.records > 0
    finally:
        writer.kill()
        writer.wait()


def test_journal_events_that_the_ring_holds_count_once(namespace, tmp_path):
    _, found = logged_overflow(namespace)
    journald.journal(str(tmp_path))
    read = journal.read_journal(
        journal.journal_arguments(found[0].time - 60, directory=str(tmp_path)),
        deadline(20),
    )
    assert journal.journal_problem(read, probed=False) is None
    same = [event for event in read.events if event.netns == named(namespace)]
    stamps = {event.monotonic for event in found}
    assert stamps <= {event.monotonic for event in same}
    for event in same:
        if event.monotonic in stamps:
            # It was in the ring before journald started: its time is the kernel's all the same.
            [twin] = [one for one in found if one.monotonic == event.monotonic]
            assert event.time == pytest.approx(twin.time, abs=1)
    bare = [event._replace(boot=None) for event in found]
    merged = merge(bare, [event for event in same if event.monotonic in stamps])
    assert count_events(merged).table_full == count_events(found).table_full > 0


def test_journal_of_an_earlier_boot_is_read(namespace, tmp_path):
    logged_overflow(namespace)
    earlier = str(uuid.uuid4())
    journald.journal(str(tmp_path), earlier)
    read = journal.read_journal(journal.journal_arguments(directory=str(tmp_path)), deadline(20))
    assert {event.boot for event in read.events} == {earlier.replace("-", "")}


def test_journal_probe_tells_whether_it_reaches_back(need, tmp_path):
    need()
    journald.journal(str(tmp_path))

    def shown(until):
        arguments = journal.journal_arguments(until=until, newest=1, directory=str(tmp_path))
        return journal.read_journal(arguments, deadline(20)).entries

    # What was in the ring is filed by when it was received.
    assert shown(time.time() + 5) == 1
    assert shown(time.time() - 3600) == 0


def test_journal_record_of_a_program_is_not_counted(need, tmp_path):
    need()
    mark = 400_000_000 + int(uuid.uuid4().hex[:6], 16)
    with open("/dev/kmsg", "w") as file:
        file.write(f"<4>x nf_conntrack: table full in netns {mark}, dropping packet\n")
        file.flush()
        file.write(f"<4>nf_conntrack: nf_conntrack: table full in netns {mark}, dropping packet\n")
    journald.journal(str(tmp_path))
    arguments = journal.journal_arguments(directory=str(tmp_path))
    listed = subprocess.run(arguments, capture_output=True, check=True).stdout
    assert str(mark).encode() in listed
    read = journal.read_journal(arguments, deadline(20))
    assert read.entries > 0
    assert mark not in {event.netns for event in read.events}


def test_journal_that_is_empty_is_a_problem_when_probed(need, tmp_path):
    need("journalctl")
    arguments = journal.journal_arguments(newest=1, directory=str(tmp_path))
    read = journal.read_journal(arguments, deadline(20))
    assert journal.journal_problem(read, probed=True) is not None


def test_journal_without_privileges_is_a_problem(need, tmp_path):
    need("setpriv")
    tmp_path.chmod(0o700)
    arguments = journal.journal_arguments(newest=1, directory=str(tmp_path))
    drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    read = journal.read_journal([*drop, *arguments], deadline(20))
    denied = (reasons.JOURNAL_DENIED, reasons.JOURNAL_NOT_FOUND, reasons.JOURNALCTL_FAILED)
    assert journal.journal_problem(read, probed=True).reason in denied
