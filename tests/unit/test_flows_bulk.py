from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from check_conntrack.flows import bulk, match, netlink, tally
from check_conntrack.kernel import ctnetlink as ct
from support import flows_dump as dump
from support.flows_dump import everything


def slowly(batches: list[bytes], into: tally.Tally) -> netlink.DumpStatus:
    status = netlink.DumpStatus()
    for entry in dump.decoded(batches, status):
        into.add(entry)
    return status


@pytest.fixture(params=["columns", "few"], autouse=True)
def thresholds(request, monkeypatch):
    # So that small dumps go through columns, in several rounds.
    if request.param == "columns":
        monkeypatch.setattr(bulk, "FEW", 1)
        monkeypatch.setattr(bulk, "ROWS", 5)
        monkeypatch.setattr(bulk, "LEAST", 3)
        monkeypatch.setattr(bulk, "CHUNK", 2000)


def asked() -> st.SearchStrategy[match.Match | None]:
    networks = st.lists(
        st.sampled_from(["10.0.0.0/16", "10.0.1.1", "10.0.2.0/23", "2001:db8::2", "::/0"]),
        max_size=2,
    )
    return st.one_of(
        st.none(),
        st.builds(
            match.parse,
            networks,
            st.lists(st.sampled_from(["tcp", "udp", "99"]), max_size=2),
            st.lists(st.sampled_from(["established", "closed", "NONE"]), max_size=2),
            st.lists(st.sampled_from([53, 443]), max_size=2),
            st.lists(st.sampled_from([0, 5, 6, 7]), max_size=2),
            st.lists(st.sampled_from(["0", "7", "4/4", "0/1"]), max_size=2),
        ),
    )


@given(dump.dumps(), asked(), st.sampled_from(["32/128", "24/64", "19/33", "0/0"]))
@settings(max_examples=60)
def test_bulk_counts_what_the_general_decoder_counts(batches, wanted, grouping):
    fast, slow = (tally.Tally(tally.prefixes(grouping), wanted) for _ in range(2))
    status = bulk.count(iter(batches), fast)
    assert status.done == slowly(batches, slow).done
    assert everything(fast) == everything(slow)
    assert fast.figures() == slow.figures()


@given(dump.damaged())
@settings(max_examples=60)
def test_bulk_refuses_the_damage_that_the_general_decoder_refuses(batches):
    fast, slow = tally.Tally(), tally.Tally()
    try:
        slowly(batches, slow)
    except netlink.TableError:
        with pytest.raises(netlink.TableError):
            bulk.count(batches, fast)
    else:
        bulk.count(batches, fast)
        assert everything(fast) == everything(slow)


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_bulk_counts_any_bytes_or_raises_one_error(batches):
    with contextlib.suppress(netlink.TableError):
        bulk.count(batches, tally.Tally())


@pytest.mark.parametrize("wanted", [1, 2, 199, 200, 201, 350])
def test_sample_has_exactly_the_requested_size(wanted):
    batches = [dump.entry() * 100, dump.entry(protocol=17) * 100, dump.entry() * 150, dump.done()]
    into = tally.Tally()
    status = bulk.count(batches, into, wanted)
    assert into.read == wanted
    assert not status.done


def test_sample_larger_than_the_table_is_complete():
    into = tally.Tally()
    assert bulk.count([dump.entry() * 9, dump.done()], into, 10).done
    assert into.read == 9


def test_batch_may_be_a_memoryview():
    into = tally.Tally()
    bulk.count([memoryview(dump.entry() * 9), bytearray(dump.done())], into)
    assert into.read == 9


def test_entries_before_the_damage_are_counted():
    into = tally.Tally()
    with pytest.raises(netlink.TableError):
        bulk.count([dump.entry() * 9, dump.entry()[:-4]], into)
    assert into.read == 9


def test_entries_of_four_dumps_for_one_address_count_once():
    hosts = [bytes((10, 0, 0, n)) for n in range(4)]
    entries = [
        dump.entry(one, two, reply=(back, to, 443, 40000))
        for one in hosts for two in hosts for back in hosts for to in hosts
    ]  # fmt: skip
    wanted = match.parse(["10.0.0.1"])
    whole, parts = tally.Tally(match=wanted), tally.Tally()
    bulk.count([b"".join(entries)], whole)
    for _, narrowed in match.kernel_filters(wanted):
        parts.match = narrowed
        # A kernel that ignores the filter sends everything, four times.
        bulk.count([b"".join(entries)], parts)
    assert whole.kept == parts.kept == 256 - 81
    assert whole.groups == parts.groups
    assert (whole.inbound, whole.outbound) == (parts.inbound, parts.outbound)


def test_shape_may_change_within_a_dump():
    # Same length, same first attributes; mark and use trade places with the timeout.
    one = dump.entry(state=3, timeout=1000, more=[dump.packed(ct.CTA_MARK, 2, 4)])
    two = dump.entry(
        state=3, timeout=None, more=[dump.packed(ct.CTA_MARK, 2, 4), dump.packed(7, 99999, 4)]
    )
    assert len(one) == len(two)
    fast, slow = tally.Tally(), tally.Tally()
    batches = [(one * 3 + two * 2) * 20]
    bulk.count(batches, fast)
    slowly(batches, slow)
    assert everything(fast) == everything(slow)
    assert len(fast.established_timeouts) == 2


def test_damaged_first_attribute_after_a_sound_message_is_an_error():
    damaged = bytearray(dump.entry())
    damaged[20:22] = bytes(2)
    with pytest.raises(netlink.TableError):
        bulk.count([dump.entry() + damaged], tally.Tally())
