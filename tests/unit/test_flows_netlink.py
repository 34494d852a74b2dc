from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from check_conntrack.flows import netlink
from check_conntrack.flows.entry import Counters, SctpInfo, SynProxy, TcpInfo, state_name
from check_conntrack.kernel import ctnetlink as ct
from support import flows_dump as dump


def read(*batches: bytes) -> list[netlink.Entry]:
    return list(netlink.entries(batches))


def test_every_attribute_of_an_entry_is_read_by_its_type():
    counters = [
        ct.nested(kind, dump.packed(1, number, 8), dump.packed(2, number * 100, 8))
        for kind, number in ((ct.CTA_COUNTERS_ORIG, 3), (ct.CTA_COUNTERS_REPLY, 4))
    ]
    tcp = ct.nested(
        ct.CTA_PROTOINFO,
        ct.nested(
            ct.CTA_PROTOINFO_TCP,
            dump.packed(1, 3, 1),
            dump.packed(2, 7, 1),
            dump.packed(3, 8, 1),
            ct.attribute(4, b"\x23\x01"),
            ct.attribute(5, b"\x33\x02"),
        ),
    )
    message = dump.entry(
        status=0x2E,
        timeout=431999,
        zone=12,
        more=[
            *counters,
            tcp,
            dump.packed(ct.CTA_MARK, 0xDEADBEEF, 4),
            dump.packed(ct.CTA_ID, 77, 4),
            dump.packed(ct.CTA_USE, 2, 4),
            ct.attribute(ct.CTA_LABELS, bytes(range(16))),
            ct.nested(ct.CTA_HELP, ct.attribute(ct.CTA_HELP_NAME, b"ftp\0")),
            ct.nested(ct.CTA_SECCTX, ct.attribute(ct.CTA_SECCTX_NAME, b"system_u\0")),
            ct.nested(ct.CTA_TIMESTAMP, dump.packed(1, 10**18, 8), dump.packed(2, 10**18 + 1, 8)),
            ct.nested(ct.CTA_SYNPROXY, *(dump.packed(n, n, 4) for n in (1, 2, 3))),
            ct.nested(ct.CTA_SEQ_ADJ_ORIG, *(dump.packed(n, n * 5, 4) for n in (1, 2, 3))),
            dump.tuple_(ct.CTA_TUPLE_MASTER, *dump.V4, 6, 1000, 21),
        ],
    )
    (entry,) = read(message)
    assert entry.original == (*dump.V4, 6, 40000, 443, None, None, None, None)
    assert entry.reply[:5] == (dump.V4[1], dump.V4[0], 6, 443, 40000)
    assert (entry.status, entry.timeout, entry.state, entry.zone) == (0x2E, 431999, 3, 12)
    assert (entry.mark, entry.identifier, entry.use) == (0xDEADBEEF, 77, 2)
    assert entry.labels == bytes(range(16))
    assert (entry.helper, entry.secctx) == ("ftp", "system_u")
    assert (entry.original_counters, entry.reply_counters) == (Counters(3, 300), Counters(4, 400))
    assert (entry.start, entry.stop) == (10**18, 10**18 + 1)
    assert entry.synproxy == SynProxy(1, 2, 3)
    assert entry.original_adjustment == (5, 10, 15)
    assert entry.master is not None
    assert entry.master.destination_port == 21
    assert entry.tcp == TcpInfo(7, 8, (0x23, 1), (0x33, 2))
    assert state_name(entry.protocol, entry.state) == "ESTABLISHED"


def test_sctp_and_dccp_have_their_own_states():
    sctp = ct.nested(
        ct.CTA_PROTOINFO,
        ct.nested(ct.CTA_PROTOINFO_SCTP, *(dump.packed(n, n + 2, s) for n, s in
                                           ((1, 1), (2, 4), (3, 4)))),
    )  # fmt: skip
    one, two = read(dump.entry(protocol=132, more=[sctp]) + dump.entry(protocol=33, state=4))
    assert (state_name(132, one.state), one.sctp) == ("COOKIE_ECHOED", SctpInfo(4, 5))
    assert state_name(33, two.state) == "OPEN"


def test_icmp_has_type_code_and_id_instead_of_ports():
    v4, v6 = read(dump.entry(protocol=1, sport=9, dport=None), dump.entry(*dump.V6, 58, 9, None))
    assert v4.original[3:8] == (None, None, 9, 8, 0)
    assert v6.original[3:8] == (None, None, 9, 8, 0)
    assert v6.family == 6


# What nf_conntrack_netlink.c puts into its attributes, by the numbers of their header.
SIZES = {
    **dict.fromkeys([(1, 1, 1), (1, 1, 2), (2, 1, 2), (ct.CTA_TUPLE_MASTER, 1, 1)], 4),
    **dict.fromkeys([(1, 1, 3), (2, 1, 4)], 16),
    **dict.fromkeys([(1, 2, 1), (1, 2, 5), (1, 2, 6), (1, 2, 8), (2, 2, 9)], 1),
    **dict.fromkeys([(1, 2, 2), (1, 2, 3), (1, 2, 4), (2, 2, 7), (1, 3), (18,)], 2),
    **dict.fromkeys([(9, 1), (9, 2), (10, 1), (20, 1), (20, 2)], 8),
    **dict.fromkeys([(9, 3), (10, 4), (3,), (7,), (8,), (11,), (12,)], 4),
    **dict.fromkeys([(4, 1, 1), (4, 1, 2), (4, 3, 1)], 1),
}


@pytest.mark.parametrize(("path", "size"), SIZES.items(), ids=str)
def test_an_attribute_may_be_longer_than_its_value_and_never_shorter(path, size):
    def carrying(length):
        part = ct.attribute(path[-1], b"\1" * length)
        for kind in reversed(path[:-1]):
            part = ct.nested(kind, part)
        return part

    for length in (size, size + 4):
        assert netlink.layout(dump.entry(more=[carrying(length)])).fields[path][1] == length
    with pytest.raises(netlink.TableError, match="damaged"):
        read(dump.entry(more=[carrying(size - 1)]))


@pytest.mark.parametrize(
    ("raw", "shown"),
    [(b"ftp\0", "ftp"), (b"f\x1bp\n\0", "f\\x1bp\\n"), (b"\xff\0", "\\xff"), (b"ftp\0\x07", "ftp")],
)
def test_the_name_of_a_helper_holds_nothing_that_cannot_be_shown(raw, shown):
    named = ct.nested(ct.CTA_HELP, ct.attribute(ct.CTA_HELP_NAME, raw))
    assert netlink.entry_at(dump.entry(more=[named])).helper == shown


def test_an_unknown_attribute_is_passed_over():
    assert read(dump.entry(more=[ct.attribute(999, b"abc")])) == read(dump.entry())


def test_nothing_after_the_end_of_the_dump_is_read():
    status = netlink.DumpStatus()
    batches = [dump.entry() + dump.done() + dump.entry(), dump.entry()]
    assert len(list(netlink.entries(batches, status))) == 1
    assert status.done


def test_a_dump_without_its_end_is_not_done():
    status = netlink.DumpStatus()
    assert len(list(netlink.entries([dump.entry()], status))) == 1
    assert not status.done


@pytest.mark.parametrize("last", [dump.error(1), dump.done(-1)])
def test_an_error_of_the_kernel_surfaces_with_its_number(last):
    with pytest.raises(netlink.TableError, match="Operation not permitted") as caught:
        read(dump.entry(), last)
    assert caught.value.errno == 1


def test_an_interrupted_dump_is_read_on_and_noted():
    status = netlink.DumpStatus()
    flags = ct.NLM_F_MULTI | ct.NLM_F_DUMP_INTR
    batches = [dump.entry() + dump.entry(flags=flags), dump.done()]
    assert len(list(netlink.entries(batches, status))) == 2
    assert status.interrupted
    assert status.done


@pytest.mark.parametrize("cut", [1, 3, 15, 16, 19, 100])
def test_a_message_cut_short_is_an_error(cut):
    with pytest.raises(netlink.TableError, match="truncated"):
        read(dump.entry()[:cut])


def test_an_overrun_and_a_foreign_message_are_errors():
    for kind, word in ((ct.NLMSG_OVERRUN, "OVERRUN"), (0x200, "type 0x200")):
        with pytest.raises(netlink.TableError, match=word):
            read(dump.answer(b"", kind=kind))


def test_a_noop_is_passed_over():
    assert len(read(dump.answer(b"", kind=ct.NLMSG_NOOP) + dump.entry())) == 1


@pytest.mark.parametrize("lacking", [ct.CTA_TUPLE_ORIG, ct.CTA_TUPLE_REPLY, ct.CTA_STATUS])
def test_an_entry_without_what_makes_one_is_an_error(lacking):
    whole = dump.entry()
    parts = {
        ct.CTA_TUPLE_ORIG: whole[20:72],
        ct.CTA_TUPLE_REPLY: whole[72:124],
        ct.CTA_STATUS: whole[124:132],
    }
    with pytest.raises(netlink.TableError, match="damaged"):
        read(dump.answer(b"".join(part for kind, part in parts.items() if kind != lacking)))


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_any_bytes_give_entries_or_one_error(batches):
    with contextlib.suppress(netlink.TableError):
        read(*batches)


@given(dump.damaged())
def test_a_damaged_dump_gives_entries_or_one_error(batches):
    with contextlib.suppress(netlink.TableError):
        read(*batches)


@given(dump.dumps())
@settings(max_examples=200)
def test_a_layout_that_is_recognised_gives_what_walking_it_gives(batches):
    # Twice, so that every layout has been seen before.
    walked = [netlink.entry_at(one) for one in netlink.messages(batches, netlink.DumpStatus())]
    every = [*netlink.messages(batches, netlink.DumpStatus())] * 2
    assert list(netlink.entries([b"".join(every)])) == walked * 2


@given(dump.damaged())
@settings(max_examples=300)
def test_damage_behind_a_known_layout_is_judged_as_by_walking(batches):
    def walk():
        return [netlink.entry_at(one) for one in netlink.messages(batches, netlink.DumpStatus())]

    try:
        walked = walk()
    except netlink.TableError as error:
        with pytest.raises(netlink.TableError, match=re.escape(str(error))):
            list(netlink.entries(batches))
    else:
        assert list(netlink.entries(batches)) == walked
