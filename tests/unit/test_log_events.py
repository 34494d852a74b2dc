"""Windows, figures, and events that several sources hold."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel.log import events as ev
from check_conntrack.kernel.log.events import Event
from check_conntrack.kernel.log.messages import Kind

NOW = 1_795_298_400.0
FULL = Event(Kind.TABLE_FULL, time=NOW - 60, source="a")


def test_a_window_of_seconds_begins_as_long_ago():
    assert ev.last_seconds(900, NOW) == ev.Window(NOW - 900, NOW)


def test_a_window_is_stretched_back_to_the_previous_run_and_never_shortened():
    assert ev.last_seconds(900, NOW, NOW - 5000).start == NOW - 5000
    assert ev.last_seconds(900, NOW, NOW - 60).start == NOW - 900


def test_a_previous_run_in_the_future_is_not_believed():
    assert ev.last_seconds(900, NOW, NOW + 5000).start == NOW - 900
    assert ev.since_last(NOW, NOW + 5000, 900).start == NOW - 900


def test_since_last_is_since_the_previous_run_exactly():
    assert ev.since_last(NOW, NOW - 10).start == NOW - 10
    assert ev.since_last(NOW, None, 900).start == NOW - 900


def test_events_before_the_window_do_not_count():
    window = ev.last_seconds(900, NOW)
    old = FULL._replace(time=NOW - 901)
    edge = FULL._replace(time=NOW - 900)
    assert ev.select([old, edge, FULL], window) == ev.Selection((edge, FULL), ())


def test_an_event_of_unknown_time_counts_under_all_alone():
    unknown = FULL._replace(time=None, monotonic=5)
    assert ev.select([unknown], ev.last_seconds(900, NOW)) == ev.Selection((), (unknown,))
    assert ev.select([unknown], ev.everything(NOW)) == ev.Selection((unknown,), ())


def test_a_notice_is_one_message_whatever_it_counts():
    assert ev.count_messages([]) == 0
    assert ev.count_messages([Event(Kind.TABLE_FULL, 3), Event(Kind.SUPPRESSED, 1871)]) == 4


def test_an_event_in_the_future_cannot_be_told():
    ahead = FULL._replace(time=NOW + 3600)
    hardly = FULL._replace(time=NOW + 5)
    assert ev.select([ahead, hardly], ev.last_seconds(900, NOW)) == ev.Selection(
        (hardly,), (ahead,)
    )
    assert ev.select([ahead], ev.everything(NOW)).inside == (ahead,)


def test_since_boot_goes_by_the_boot_id_where_there_is_one():
    window = ev.since_boot(NOW, NOW - 1000, "b" * 32)
    before = FULL._replace(boot="a" * 32)
    now = FULL._replace(boot="b" * 32, time=NOW - 5000)
    unnamed = FULL._replace(time=NOW - 5000)
    assert ev.select([before, now, unnamed, FULL], window).inside == (now, FULL)


def test_figures_are_those_of_the_contract():
    events = [
        FULL._replace(times=3, netns=7),
        FULL._replace(netns=8, time=NOW - 10),
        FULL._replace(time=None),
        Event(Kind.SUPPRESSED, 1871, NOW),
        Event(Kind.EXPECTATION_FULL, 2, NOW - 30),
        Event(Kind.ZONE_LIMIT, 1, NOW - 40, zone=3),
    ]
    counted = ev.count_events(events)
    assert counted == ev.EventCounts(5, 1871, 2, 1, events[1], ((7, 3), (8, 1)))
    assert counted.other_loss == 3
    assert ev.count_events([]) == ev.EventCounts()


# --- merging


def stamped(microseconds, **more):
    return FULL._replace(monotonic=microseconds, **more)


def test_the_same_stamp_in_two_sources_is_one_event_and_the_first_source_is_kept():
    ring = stamped(5, source="ring", time=NOW)
    file = stamped(5, source="file", time=NOW + 1)
    assert ev.merge([ring], [file]) == (ring,)


def test_two_stamps_are_two_events_at_whatever_time():
    assert len(ev.merge([stamped(5)], [stamped(6)])) == 2


def test_without_a_stamp_the_time_decides():
    near = FULL._replace(time=FULL.time + 1, source="b")
    far = FULL._replace(time=FULL.time + 10, source="b")
    assert ev.merge([stamped(5)], [near]) == (stamped(5),)
    assert len(ev.merge([stamped(5)], [far])) == 2


def test_the_slack_of_both_widens_what_is_near():
    far = FULL._replace(time=FULL.time + 10, source="b")
    assert len(ev.merge([stamped(5, slack=9.0)], [far])) == 1
    assert len(ev.merge([stamped(5)], [far._replace(slack=9.0)])) == 1


def test_each_copy_is_used_up_by_one_event():
    three = [stamped(n) for n in range(3)]
    two = [FULL._replace(source="b")] * 2
    assert len(ev.merge(three, two)) == 3
    assert ev.count_events(ev.merge(two, three)).table_full == 3


def test_two_events_of_one_source_are_two_events():
    assert len(ev.merge([FULL, FULL])) == 2


def test_files_of_one_family_never_hold_the_same_event():
    here = FULL._replace(family="kern.log", source="kern.log")
    there = FULL._replace(family="kern.log", source="kern.log.1")
    assert len(ev.merge([here], [there])) == 2
    assert len(ev.merge([here], [there._replace(family="syslog")])) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"netns": 4},
        {"kind": Kind.EXPECTATION_FULL},
        {"zone": 4},
        {"boot": "c" * 32},
        {"host": "other"},
    ],
)
def test_events_that_differ_in_what_both_know_are_two(other):
    one = stamped(5, boot="b" * 32, host="gw")
    two = stamped(5)._replace(**{"host": "gw", "boot": "b" * 32, **other})
    assert len(ev.merge([one], [two])) == 2


def test_a_host_is_the_same_with_its_domain_and_one_that_is_not_named_is_any():
    assert len(ev.merge([FULL._replace(host="gw")], [FULL._replace(host="GW.example.org")])) == 1
    assert len(ev.merge([FULL._replace(host="gw")], [FULL])) == 1


def test_a_repeated_line_stands_for_as_many_events_of_another_source():
    ring = [stamped(n, time=NOW - 10 + n / 10) for n in range(6)]
    file = [
        FULL._replace(time=NOW - 10, source="file"),
        FULL._replace(time=NOW - 9, times=5, source="file"),
    ]
    assert ev.count_events(ev.merge(ring, file)).table_full == 6
    assert ev.count_events(ev.merge(file, ring)).table_full == 6


def test_what_a_repeated_line_has_beyond_another_source_counts():
    file = [FULL._replace(times=5, source="file")]
    assert ev.count_events(ev.merge([stamped(1)], file)).table_full == 5


def test_notices_are_the_same_when_their_number_is():
    one = Event(Kind.SUPPRESSED, 5, NOW, source="a")
    assert ev.count_events(ev.merge([one], [one._replace(source="b")])).suppressed == 5
    assert ev.count_events(ev.merge([one], [one._replace(source="b", times=6)])).suppressed == 11


def test_events_of_unknown_time_are_the_same_by_their_stamp():
    bare = stamped(5, time=None)
    assert len(ev.merge([stamped(5)], [bare])) == 1
    assert len(ev.merge([FULL], [FULL._replace(time=None)])) == 2


def test_merged_events_are_in_order_of_time():
    late = FULL._replace(time=NOW)
    assert ev.merge([late, FULL]) == (FULL, late)


EVENTS = st.lists(
    st.builds(
        Event,
        kind=st.sampled_from(list(Kind)),
        times=st.integers(1, 5),
        time=st.one_of(st.none(), st.floats(NOW - 20, NOW)),
        slack=st.floats(0, 5),
        monotonic=st.one_of(st.none(), st.integers(0, 20)),
        netns=st.one_of(st.none(), st.integers(1, 2)),
        host=st.sampled_from([None, "a", "b"]),
        boot=st.none(),
        zone=st.none(),
        source=st.just("a"),
        family=st.just(""),
    ),
    max_size=8,
)


def messages(events):
    found = ev.count_events(events)
    return found.table_full + found.other_loss


@given(EVENTS, EVENTS)
def test_merging_never_loses_and_never_invents(one, other):
    together = messages(ev.merge(one, other))
    assert max(messages(one), messages(other)) <= together <= messages(one) + messages(other)


@pytest.mark.parametrize("seed", range(30))
def test_what_is_denser_than_any_kernel_keeps_its_figures(seed):
    rng = random.Random(seed)
    events = [
        Event(
            rng.choice([Kind.TABLE_FULL, Kind.TABLE_FULL, Kind.SUPPRESSED]),
            rng.randint(1, 3),
            rng.choice([None, NOW + rng.random() * 3, NOW + rng.random() * 3]),
            monotonic=rng.choice([None, rng.randint(0, 100)]),
            netns=rng.choice([None, 7]),
            source="a",
        )
        for _ in range(rng.randint(30, 400))
    ]
    merged, plain = ev.count_events(ev.merge(events)), ev.count_events(events)
    assert merged._replace(latest=None) == plain._replace(latest=None)
    assert merged.latest.time == plain.latest.time
    copies = [event._replace(source="copy") for event in events]
    together = ev.count_events(ev.merge(events, copies)).table_full
    assert plain.table_full <= together <= 2 * plain.table_full


def test_a_flood_is_no_copy_of_what_came_long_before_it():
    ring = [Event(Kind.TABLE_FULL, time=NOW - 50 + n / 10, monotonic=n) for n in range(5)]
    flood = [Event(Kind.TABLE_FULL, time=NOW + n / 100, source="journal") for n in range(25)]
    earlier = Event(Kind.TABLE_FULL, time=NOW - 90, source="journal")
    assert ev.count_events(ev.merge(ring, [earlier, *flood])).table_full == 31


def test_two_copies_of_a_flood_are_one_flood_and_cost_no_square(monkeypatch):
    looked = []
    near = ev._near
    monkeypatch.setattr(
        ev, "_near", lambda *given: looked.append(len(found := near(*given))) or found
    )
    flood = [Event(Kind.TABLE_FULL, time=NOW + n / 5000, host="gw") for n in range(20000)]
    copies = [event._replace(time=event.time + 0.3, source="b") for event in flood]
    assert ev.count_events(ev.merge(flood, copies)).table_full == 20000
    assert sum(looked) < 1000


TIMED = st.lists(
    st.builds(
        Event,
        kind=st.sampled_from([Kind.TABLE_FULL, Kind.SUPPRESSED]),
        times=st.integers(1, 5),
        time=st.integers(int(NOW) - 20, int(NOW)).map(float),
        netns=st.one_of(st.none(), st.integers(1, 2)),
        slack=st.just(0.0),
        monotonic=st.none(),
        boot=st.none(),
        zone=st.none(),
        host=st.none(),
        source=st.just("a"),
        family=st.just(""),
    ),
    max_size=8,
)


@given(TIMED)
def test_a_source_merged_with_itself_or_nothing_is_itself(events):
    same = [event._replace(source="copy") for event in events]
    for other in ([], same):
        merged = ev.count_events(ev.merge(events, other))
        assert merged._replace(latest=None) == ev.count_events(events)._replace(latest=None)


@given(EVENTS, st.integers(2, 10))
def test_folding_keeps_every_figure(events, limit):
    folded = ev.fold(events, limit)
    one, other = ev.count_events(events), ev.count_events(folded)
    assert one._replace(latest=None) == other._replace(latest=None)


def test_folding_bounds_the_number_and_keeps_the_newest_apart():
    events = [FULL._replace(time=NOW - n) for n in range(10_000)]
    folded = ev.fold(events, 100)
    assert len(folded) <= 100
    assert sum(event.time > NOW - 50 and event.times == 1 for event in folded) == 50


def test_hosts_that_someone_invented_do_not_break_the_bound():
    events = [FULL._replace(time=NOW - n, host=f"h{n}") for n in range(10_000)]
    assert len(ev.fold(events, 100)) <= 100


def test_the_latest_is_the_latest_table_full_whatever_else_was_lost_since():
    other = FULL._replace(kind=Kind.EXPECTATION_FULL, time=NOW - 1)
    assert ev.count_events([FULL, other]).latest == FULL


def test_hosts_with_the_same_stamps_are_kept_apart_and_their_copies_found():
    hosts = [[FULL._replace(host=f"h{number}", source=f"s{number}")] for number in range(3)]
    copy = FULL._replace(host="h1.example.org", source="copy")
    anyone = FULL._replace(source="ring")
    assert len(ev.merge(*hosts, [copy], [anyone])) == 3
    assert len(ev.merge(*hosts, [copy._replace(host="h3")])) == 4
