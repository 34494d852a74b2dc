"""The fast writer of snapshots against the slow one."""

from __future__ import annotations

import pytest
from hypothesis import given

from check_conntrack.flows import netlink, text_writer
from check_conntrack.kernel import ctnetlink as ct
from support import flows_dump


def written(batches):
    status = netlink.DumpStatus()
    return b"".join(text_writer.listing(batches, status)).decode(), status


@given(flows_dump.dumps())
def test_templates_agree_with_the_general_writer(batches):
    whole, status = written(batches)
    assert whole.splitlines() == [
        text_writer.line_of(entry) for entry in flows_dump.decoded(batches)
    ]
    assert status.done


@given(flows_dump.damaged())
def test_damaged_dump_gives_lines_or_one_error(batches):
    try:
        expected = [text_writer.line_of(entry) for entry in flows_dump.decoded(batches)]
    except netlink.TableError:
        with pytest.raises(netlink.TableError):
            written(batches)
    else:
        assert written(batches)[0].splitlines() == expected


def test_counters_and_flags_are_where_conntrack_prints_them():
    counters = [
        ct.nested(kind, flows_dump.packed(1, packets, 8), flows_dump.packed(2, octets, 8))
        for kind, packets, octets in (
            (ct.CTA_COUNTERS_ORIG, 3, 180),
            (ct.CTA_COUNTERS_REPLY, 2, 99),
        )
    ]
    message = flows_dump.entry(state=3, more=[*counters, flows_dump.packed(ct.CTA_USE, 1, 4)])
    # The first of a shape goes the general way, the second does not.
    lines = written([message * 2, flows_dump.done()])[0].splitlines()
    line = (
        "ipv4     2 tcp      6 300 ESTABLISHED src=10.0.0.1 dst=192.0.2.9 sport=40000 dport=443 "
        "packets=3 bytes=180 src=192.0.2.9 dst=10.0.0.1 sport=443 dport=40000 "
        "packets=2 bytes=99 [ASSURED] use=1"
    )
    assert lines == [line, line]


@pytest.mark.parametrize("protocol", [1, 6, 17, 47, 132])
def test_ordinary_entries_use_templates(protocol, monkeypatch):
    message = flows_dump.entry(protocol=protocol, state=3 if protocol in (6, 132) else None)
    slow = []
    monkeypatch.setattr(text_writer, "line_of", lambda entry: slow.append(entry) or "slow")
    lines = written([message * 5, flows_dump.done()])[0].splitlines()
    assert len(slow) == 1
    assert len(lines) == 5
