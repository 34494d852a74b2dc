"""Claims that hold for any bytes: a target takes them, and raises AssertionError where it does not.

Shared by everything that makes up bytes: hypothesis, atheris (guided by coverage), and the corpus
that is kept. The first byte chooses among the ways in where a target has several.
"""

from __future__ import annotations

import io
import json
import os
from contextlib import suppress

from check_conntrack.flows import bulk, netlink, tally, text, text_writer
from check_conntrack.kernel import counters
from check_conntrack.kernel.log import events, files, journal, kmsg, stream
from check_conntrack.kernel.log import syslog as syslog_lines
from check_conntrack.kernel.reader_client import ReaderError, parse_answer
from check_conntrack.state import codec
from support.flows_dump import decoded, everything

NOW = 1_800_000_000.0
CLOCK = kmsg.Clock(NOW, 5000.0, 5000.0)


def _small_rounds() -> None:
    # So that a few entries go through columns, in several rounds.
    bulk.FEW, bulk.ROWS, bulk.LEAST, bulk.CHUNK = 1, 5, 3, 2000


def dump(data: bytes) -> None:
    """A dump of the table: the fast path, the general decoder and the writer agree."""
    batches = [piece for piece in data.split(b"\xf0\x0d\xf0\x0d") if piece]
    slow, fast = tally.Tally(), tally.Tally()
    fault = False
    lines = []
    status = netlink.DumpStatus()
    try:
        for entry in decoded(batches, status):
            slow.add(entry)
            lines.append(text_writer.line_of(entry))
    except netlink.TableError:
        fault = True
    try:
        counted = bulk.count(iter(batches), fast)
    except netlink.TableError:
        assert fault, "the fast path refuses what the general decoder takes"
    else:
        assert not fault, "the fast path takes what the general decoder refuses"
        assert counted.done == status.done
        assert everything(fast) == everything(slow)
        assert fast.figures() == slow.figures()
    try:
        written = b"".join(text_writer.listing(batches, netlink.DumpStatus())).decode("ascii")
    except netlink.TableError:
        assert fault, "the writer refuses what the decoder takes"
    else:
        assert written.splitlines() == lines
    for line in lines:
        assert line.isprintable(), line


def answers(data: bytes) -> None:
    """Return what ctnetlink says of counters, and what the reader answers: values, or one error."""
    for parse in (counters.parse_stats_cpu, counters.parse_text):
        with suppress(counters.CountersError, counters.NetlinkError):
            parse(data)
    with suppress(ReaderError):
        for frame in parse_answer(io.BytesIO(data)):
            assert frame.data in data


def any_netlink(data: bytes) -> None:
    """Bytes from a netlink socket."""
    _small_rounds()
    (answers if data[:1] == b"\xff" else dump)(data[1:] if data[:1] == b"\xff" else data)


def listing(data: bytes) -> None:
    """A table as text: columns and lines agree, and whatever is kept of it can be printed."""
    fast, slow = tally.Tally(), tally.Tally()
    slow.expected_known = False  # text cannot tell
    text.count(io.BytesIO(data), fast)
    for entry in text.entries(io.BytesIO(data), slow):
        slow.add(entry)
        text_writer.line_of(entry)
    assert fast.read + fast.bad_lines == slow.read + slow.bad_lines
    if not slow.bad_lines:
        assert everything(fast) == everything(slow)
        assert fast.figures() == slow.figures()


def _known(found: tuple[events.Event, ...]) -> None:
    for event in found:
        assert codec.decode(events.Event, json.loads(json.dumps(codec.encode(event)))) == event
        assert event.times >= 0
        assert event.time is None or abs(event.time) < 1e12


def log(data: bytes) -> None:
    """A log: read as a file, a stream, the ring buffer and the journal; events that are sound."""
    descriptor = os.memfd_create("log")
    try:
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        whole = stream.read_stream(descriptor, NOW, lambda: False)
        _known((*whole.events, *whole.pending))
        path = f"/proc/self/fd/{descriptor}"
        assert files.read_log(path, NOW, lambda: False).problems, "a link is no log"
    finally:
        os.close(descriptor)
    for line in data.decode("utf-8", "replace").split("\n"):
        syslog_lines.parse_messages(line, NOW)
        syslog_lines.parse_repetition(line, "host", NOW)
    ring = kmsg.digest(data.split(b"\n\n"), CLOCK)
    _known(ring.events)
    for line in data.split(b"\n"):
        with suppress(ValueError):
            entry = journal.parse_entry(line)
            event = journal.entry_event(entry)
            _known((event,) if event else ())
    found = (*whole.events, *whole.pending)
    merged = events.merge(found, ring.events)
    assert events.count_events(merged).table_full >= events.count_events(found).table_full
    folded = events.count_events(events.fold(merged, 4))
    assert folded[:4] == events.count_events(merged)[:4]


TARGETS = {"netlink": any_netlink, "text": listing, "log": log}
