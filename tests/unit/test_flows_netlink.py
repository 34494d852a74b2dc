from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.flows import netlink
from check_conntrack.flows.entry import Entry, FlowCounters, state_name
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel import netlink as nl
from support import flows_dump as dump


def read(*batches: bytes) -> list[Entry]:
    return list(dump.decoded(batches))


def test_entry_has_every_attribute_by_its_type():
    counters = [
        ct.nested(kind, dump.packed(1, number, 8), dump.packed(2, number * 100, 8))
        for kind, number in ((ct.CTA_COUNTERS_ORIG, 3), (ct.CTA_COUNTERS_REPLY, 4))
    ]
    message = dump.entry(
        status=0x2E,
        timeout=431999,
        zone=12,
        state=3,
        more=[
            *counters,
            dump.packed(ct.CTA_MARK, 0xDEADBEEF, 4),
            dump.packed(ct.CTA_USE, 2, 4),
            ct.nested(ct.CTA_HELP, ct.attribute(ct.CTA_HELP_NAME, b"ftp\0")),
            ct.nested(ct.CTA_SECCTX, ct.attribute(ct.CTA_SECCTX_NAME, b"system_u\0")),
        ],
    )
    (entry,) = read(message)
    assert entry.original == (*dump.V4, 6, 40000, 443, None, None, None, None)
    assert entry.reply[:5] == (dump.V4[1], dump.V4[0], 6, 443, 40000)
    assert (entry.status, entry.timeout, entry.state, entry.zone) == (0x2E, 431999, 3, 12)
    assert (entry.mark, entry.use) == (0xDEADBEEF, 2)
    assert (entry.helper, entry.secctx) == ("ftp", "system_u")
    assert (entry.original_counters, entry.reply_counters) == (
        FlowCounters(3, 300),
        FlowCounters(4, 400),
    )
    assert state_name(entry.protocol, entry.state) == "ESTABLISHED"


def test_entry_has_the_state_of_its_protocol():
    one, two = read(dump.entry(protocol=132, state=3) + dump.entry(protocol=33, state=4))
    assert state_name(132, one.state) == "COOKIE_ECHOED"
    assert state_name(33, two.state) == "OPEN"


def test_icmp_entry_has_type_code_and_id_instead_of_ports():
    v4, v6 = read(dump.entry(protocol=1, sport=9, dport=None), dump.entry(*dump.V6, 58, 9, None))
    assert v4.original[3:8] == (None, None, 9, 8, 0)
    assert v6.original[3:8] == (None, None, 9, 8, 0)
    assert v6.family == 6


# What nf_conntrack_netlink.c puts into its attributes, by the numbers of their header.
SIZES = {
    **dict.fromkeys([(1, 1, 1), (1, 1, 2), (2, 1, 2)], 4),
    **dict.fromkeys([(1, 1, 3), (2, 1, 4)], 16),
    **dict.fromkeys([(1, 2, 1), (1, 2, 5), (1, 2, 6), (1, 2, 8), (2, 2, 9)], 1),
    **dict.fromkeys([(1, 2, 2), (1, 2, 3), (1, 2, 4), (2, 2, 7), (1, 3), (18,)], 2),
    **dict.fromkeys([(9, 1), (9, 2), (10, 1)], 8),
    **dict.fromkeys([(9, 3), (10, 4), (3,), (7,), (8,), (11,)], 4),
    **dict.fromkeys([(4, 1, 1), (4, 2, 1), (4, 3, 1)], 1),
}


@pytest.mark.parametrize(("path", "size"), SIZES.items(), ids=str)
def test_attribute_may_be_longer_than_its_value_never_shorter(path, size):
    def carrying(length):
        part = ct.attribute(path[-1], b"\1" * length)
        for kind in reversed(path[:-1]):
            part = ct.nested(kind, part)
        return part

    for length in (size, size + 4):
        assert netlink.layout(dump.entry(more=[carrying(length)])).fields[path][1] == length
    with pytest.raises(netlink.TableError, match="malformed"):
        read(dump.entry(more=[carrying(size - 1)]))


@pytest.mark.parametrize(
    ("raw", "shown"),
    [(b"ftp\0", "ftp"), (b"f\x1bp\n\0", "f\\x1bp\\n"), (b"\xff\0", "\\xff"), (b"ftp\0\x07", "ftp")],
)
def test_helper_name_is_printable(raw, shown):
    named = ct.nested(ct.CTA_HELP, ct.attribute(ct.CTA_HELP_NAME, raw))
    assert netlink.entry_at(dump.entry(more=[named])).helper == shown


def test_unknown_attribute_is_ignored():
    assert read(dump.entry(more=[ct.attribute(999, b"abc")])) == read(dump.entry())


def test_messages_end_at_nlmsg_done():
    status = netlink.DumpStatus()
    batches = [dump.entry() + dump.done() + dump.entry(), dump.entry()]
    assert len(list(dump.decoded(batches, status))) == 1
    assert status.done


def test_dump_without_nlmsg_done_is_not_done():
    status = netlink.DumpStatus()
    assert len(list(dump.decoded([dump.entry()], status))) == 1
    assert not status.done


@pytest.mark.parametrize("last", [dump.error(1), dump.done(-1)])
def test_kernel_error_is_raised_with_its_number(last):
    with pytest.raises(netlink.TableError, match="Operation not permitted") as caught:
        read(dump.entry(), last)
    assert caught.value.errno == 1


def test_interrupted_dump_is_read_to_its_end():
    status = netlink.DumpStatus()
    flags = nl.NLM_F_MULTI | nl.NLM_F_DUMP_INTR
    batches = [dump.entry() + dump.entry(flags=flags), dump.done()]
    assert len(list(dump.decoded(batches, status))) == 2
    assert status.interrupted
    assert status.done


@pytest.mark.parametrize("cut", [1, 3, 15, 16, 19, 100])
def test_truncated_message_is_an_error(cut):
    with pytest.raises(netlink.TableError, match="truncated"):
        read(dump.entry()[:cut])


def test_overrun_and_foreign_message_are_errors():
    for kind, word in ((nl.NLMSG_OVERRUN, "OVERRUN"), (0x200, "type 0x200")):
        with pytest.raises(netlink.TableError, match=word):
            read(dump.answer(b"", kind=kind))


def test_noop_is_ignored():
    assert len(read(dump.answer(b"", kind=nl.NLMSG_NOOP) + dump.entry())) == 1


@pytest.mark.parametrize("lacking", [ct.CTA_TUPLE_ORIG, ct.CTA_TUPLE_REPLY, ct.CTA_STATUS])
def test_entry_without_tuple_or_status_is_an_error(lacking):
    message = dump.entry()
    parts = {
        ct.CTA_TUPLE_ORIG: message[20:72],
        ct.CTA_TUPLE_REPLY: message[72:124],
        ct.CTA_STATUS: message[124:132],
    }
    with pytest.raises(netlink.TableError, match="malformed"):
        read(dump.answer(b"".join(part for kind, part in parts.items() if kind != lacking)))


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_any_bytes_give_entries_or_one_error(batches):
    with contextlib.suppress(netlink.TableError):
        read(*batches)


@given(dump.damaged())
def test_damaged_dump_gives_entries_or_one_error(batches):
    with contextlib.suppress(netlink.TableError):
        read(*batches)
