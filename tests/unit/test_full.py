"""The arithmetic and the memory of check_conntrack_full."""

from __future__ import annotations

import errno
import json
import os
import time
import types
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack import runner
from check_conntrack.full import full_check
from check_conntrack.full.full_check import Place
from check_conntrack.kernel import host, privileges
from check_conntrack.kernel.counters import Counters, CpuCounters
from check_conntrack.kernel.limits import Limits
from check_conntrack.kernel.log import events, gather, journal, kmsg
from check_conntrack.kernel.log.files import Position, Reading
from check_conntrack.kernel.log.messages import Kind
from check_conntrack.kernel.reader_client import Frame
from check_conntrack.state import counter_history, state_store
from check_conntrack.state.counter_history import (
    MOST_RISES,
    Further,
    Memory,
    Quiet,
    Rise,
    from_plain,
    risen_since,
    to_plain,
)
from support.contract import Run

BOOT = "b" * 32
POSITION = Position(1, 2, 3, 4, 5, False, True, 6.0)


@pytest.fixture
def store(tmp_path):
    opened = state_store.Store.open(str(tmp_path / "state"), {}, None)
    yield opened
    opened.close()


def counters(**values):
    """One CPU's counters, all others zero."""
    zero = dict.fromkeys(
        ("drop", "early_drop", "insert_failed", "chaintoolong", "invalid", "insert"), 0
    )
    return Counters((CpuCounters(0, **{**zero, **values}),))


def memory(up, told, *, boot=BOOT, netns=1, usage=0.0, rises=()):
    """What a run at `up` seconds since boot knows."""
    return Memory(1e9 + up, up, boot, netns, 0, usage, told, tuple(rises))


# --- rises


def test_a_first_run_knows_no_rise_and_remembers_none():
    assert risen_since(None, memory(1000, counters(drop=5)), 100) == (None, ())


def test_between_two_runs_the_difference_has_risen():
    before = memory(1000, counters(drop=5, early_drop=1, insert_failed=2, chaintoolong=1))
    after = memory(1060, counters(drop=9, early_drop=4, insert_failed=4, chaintoolong=2))
    risen, rises = risen_since(before, after, 900)
    # 4 drops, of which one insert failed that no long chain explains.
    assert risen == Rise(1000, 1060, 3, 3, 2, 1, 0.0)
    assert rises == (risen,)


def test_what_rose_before_the_window_has_left_it():
    rises = (Rise(0, 100, 7, 7, 7, 7, 99.0), Rise(100, 200, 1, 2, 3, 4, 50.0))
    before = memory(200, counters(drop=8), rises=rises)
    risen, kept = risen_since(before, memory(300, counters(drop=8)), 150)
    assert risen == Rise(100, 300, 1, 2, 3, 4, 50.0)
    assert kept[:2] == rises
    assert len(kept) == 3


def test_after_a_reboot_all_that_is_counted_has_risen_since_the_last_run():
    before = memory(90000, counters(drop=500), boot="a" * 32, rises=[Rise(1, 2, 9, 9, 9, 9, 9.0)])
    risen, kept = risen_since(before, memory(60, counters(drop=3)), -840)
    assert risen == Rise(0.0, 60, 3, 0, 0, 0, 0.0)
    assert kept == (risen,)


def test_a_namespace_made_anew_counts_from_zero():
    before = memory(1000, counters(drop=500), netns=1)
    risen, _ = risen_since(before, memory(1060, counters(drop=3), netns=2), 900)
    assert risen is not None
    assert risen.full_drops == 3


def test_since_boot_everything_counts_whatever_is_remembered():
    now = memory(5000, counters(drop=12, insert_failed=2))
    assert risen_since(None, now, None)[0] == Rise(0.0, 5000, 10, 0, 2, 0, 0.0)


def test_without_counters_nothing_rises_and_what_was_known_is_kept():
    rises = (Rise(0, 100, 7, 7, 7, 7, 99.0),)
    before = memory(200, counters(), rises=rises)
    assert risen_since(before, memory(300, None), 100) == (None, rises)


def test_the_usage_on_record_is_the_largest_of_the_window():
    before = memory(1000, counters(), usage=97.0)
    risen, _ = risen_since(before, memory(1060, counters(), usage=3.0), 900)
    assert risen is not None
    assert risen.usage == 97.0


def test_what_rose_long_ago_is_not_forgotten_within_the_window():
    """A day of runs each minute."""
    told = memory(0, counters())
    for minute in range(1, 1440):
        now = memory(60 * minute, counters(drop=7 if minute > 30 else 0))
        risen, rises = risen_since(told, now, 0)
        told = now._replace(rises=rises)
    assert risen is not None
    assert risen.full_drops == 7
    assert len(rises) == MOST_RISES
    # It leaves a window of three quarters of a day.
    assert risen_since(told, memory(86400, counters(drop=7)), 86400 / 4)[0].full_drops == 0


def test_a_run_that_cannot_read_the_counters_leaves_the_earlier_ones(monkeypatch):
    before = memory(1000, counters(drop=5), rises=[Rise(900, 1000, 1, 1, 1, 1, 1.0)])
    kept = []
    look = object.__new__(full_check.Full)
    look.window, look.log, look.named = events.Window(1e9, 1e9 + 1060), None, {}
    monkeypatch.setattr(full_check.Full, "_now", lambda *_: memory(1060, None))
    monkeypatch.setattr(full_check.Full, "_start_up", lambda *_: 100)
    monkeypatch.setattr(full_check.Full, "_remember", lambda _, key, memory: kept.append(memory))
    look._remembered(Place("", "", 1, None, None), before, "key")
    assert kept == [before._replace(at=1e9 + 1060)]


def test_what_is_remembered_is_bounded():
    rises = [Rise(at, at + 1, 0, 0, 0, 0, 0.0) for at in range(1000)]
    _, kept = risen_since(memory(1001, counters(), rises=rises), memory(1002, counters()), 0)
    assert len(kept) == MOST_RISES
    assert kept[-1].end == 1002


# --- what is remembered


def test_memory_outlives_json():
    known = gather.Known(
        Position(1, 2, 3, 4, 5, False, True, 6.0),
        (events.Event(Kind.TABLE_FULL, 2, 1e9, boot=BOOT, netns=7),),
        1e9 - 900,
    )
    kept = memory(10, counters(drop=3), rises=[Rise(1, 2, None, 3, None, 5, 6.0)])._replace(
        known=(("/var/log/kern.log", known),)
    )
    assert from_plain(json.loads(json.dumps(to_plain(kept)))) == kept


def test_where_nothing_was_ever_counted_all_that_is_counted_has_risen_since():
    quiet = Quiet.from_plain(json.loads(json.dumps(Quiet(1000, BOOT, (1, 7)))))
    assert quiet == Quiet(1000, BOOT, (1, 7))
    now = memory(1060, counters(drop=3), netns=7)
    risen, _ = risen_since(quiet.memory(now), now, 900)
    assert risen == Rise(1000, 1060, 3, 0, 0, 0, 0.0)
    assert quiet.memory(now._replace(netns=8)) is None
    assert quiet.memory(now._replace(boot="a" * 32)) is None


# --- what is remembered of further namespaces


class Router:
    """Runs of a check with `--netns all` one after the other, each a minute later."""

    def __init__(self, monkeypatch, folder):
        self.folder = folder
        self.up = 1000.0
        self.boot = BOOT
        self.module = 7
        self.trouble = ""
        self.problems = []
        monkeypatch.setattr(full_check, "_module", lambda: self.module)

    def run(self, told, first=1):
        """The full_drops of the namespaces whose counters are `told`, by their names."""
        self.up += 60
        store = state_store.Store.open(str(self.folder), {}, None)
        assert store.trouble == ""
        look = object.__new__(full_check.Full)
        look.options = types.SimpleNamespace(netns=["all"], state_key="")
        look.session = types.SimpleNamespace(stage=lambda _: None, store=store)
        look.window = events.Window(1e9 + self.up - 30, 1e9 + self.up)
        look.log, look.named, look.problems = None, {}, self.problems
        look._boot = self.boot
        look._clock = types.SimpleNamespace(realtime=1e9 + self.up, boottime=self.up)
        look._start_up = lambda window: self.up - 30
        found = look._with_histories(
            [
                Place(name, f"{name}::", first + crc32(name.encode()), None, counted, named=True)
                for name, counted in told.items()
            ]
        )
        assert [place.name for place in found] == list(told)
        self.trouble = store.trouble
        self.files = os.listdir(store.folder)
        self.size = sum(os.stat(os.path.join(store.folder, name)).st_size for name in self.files)
        store.close()
        return [place.risen.full_drops if place.risen else None for place in found]


@pytest.fixture
def router(monkeypatch, tmp_path):
    return Router(monkeypatch, tmp_path / "state")


def same(names, drop):
    told = counters(drop=drop) if drop is not None else None
    return dict.fromkeys(names, told)


@pytest.mark.parametrize("count", [500, 520, 3000])
def test_drops_are_seen_in_each_of_however_many_namespaces(router, count):
    names = [f"qrouter-{at:036}" for at in range(count)]
    assert router.run(same(names, 0)) == [None] * count
    assert router.run(same(names, 1000)) == [1000] * count
    assert router.run(same(names, 2000)) == [1000] * count
    assert router.trouble == ""
    assert len(router.files) == 1


def test_a_run_that_cannot_read_a_further_namespace_loses_none_of_its_drops(router):
    rises = [router.run(same(["red"], drop)) for drop in (5, 15, None, 115)]
    assert rises == [[None], [10], [None], [100]]


def test_nor_does_one_where_nothing_had_been_counted(router):
    rises = [router.run(same(["red"], drop)) for drop in (0, None, 100)]
    assert rises == [[None], [None], [100]]


def test_a_run_without_any_table_leaves_what_was_counted_of_the_first(monkeypatch, store):
    before = memory(1000, counters(drop=5), rises=[Rise(900, 1000, 1, 1, 1, 1, 1.0)])
    store.update("full/net:[1]/", lambda _: to_plain(before))
    look = object.__new__(full_check.Full)
    look.options = full_check.parser().parse_args(["--netns", "red"])
    look.session = types.SimpleNamespace(stage=lambda _: None, store=store)
    look.places, look.problems, look.inactive = [], ["namespace red: no right"], False
    monkeypatch.setattr(full_check.Full, "_look", lambda _: (None, []))
    monkeypatch.setattr(full_check, "own_inode", lambda: 1)
    monkeypatch.setattr(full_check.Full, "_window", lambda *_: events.everything(1e9))
    monkeypatch.setattr(full_check.Full, "_now", lambda *_: memory(1060, None))
    monkeypatch.setattr(full_check.Full, "_with_histories", lambda _, others: others)
    monkeypatch.setattr(full_check.Full, "_metrics", lambda *_: iter(()))
    known = (("/var/log/kern.log", gather.Known(POSITION, (), 900.0)),)

    def read(self, memory):
        self.log = gather.Evidence((), (gather.Source("x"),), (), known)

    monkeypatch.setattr(full_check.Full, "_read_log", read)
    list(look.probe())
    told = from_plain(store.read("full/net:[1]/"))
    assert told == before._replace(at=1e9 + 1060, known=known, heard=1e9 + 1060)


@pytest.mark.parametrize("drop", [0, 5])
def test_a_run_that_can_look_nowhere_forgets_nothing(router, drop):
    router.run(same(["red"], drop))
    router.problems = ["no right to enter"]
    assert router.run({}) == []
    router.problems = []
    assert router.run(same(["red"], drop + 100)) == [100]


def test_what_was_not_seen_for_a_day_is_forgotten(router):
    for days, kept in ((0.9, True), (1.1, False)):
        router.run(same(["red"], 5))
        router.up += 86400 * days
        router.run(same(["blue"], 5))
        assert router.run(same(["red"], 15)) == [10 if kept else None]


@pytest.mark.parametrize("anew", ["boot", "module", "inode"])
def test_what_is_made_anew_under_a_known_name_counts_from_zero(router, anew):
    router.run(same(["red", "blue"], 500))
    if anew == "boot":
        router.boot = "a" * 32
    elif anew == "module":
        router.module = 8
    first = 8 if anew == "inode" else 1
    assert router.run({"red": counters(drop=503)}, first) == [503]
    # Also one that the first run afterwards did not see.
    told = {"red": counters(drop=503), "blue": counters(drop=504)}
    assert router.run(told, first) == [0, 504]


def test_more_namespaces_than_are_remembered_are_said_and_the_known_ones_stay(router, monkeypatch):
    monkeypatch.setattr(full_check, "MOST_FURTHER", 3)
    names = ["e", "d", "c", "b", "a"]
    router.run(same(names[:3], 5))
    assert router.trouble == ""
    router.run(same(names[::-1], 5))
    assert router.trouble == "2 of 5 further namespaces are too many to remember"
    assert router.run(same(names, 6)) == [1, 1, 1, None, None]
    monkeypatch.setattr(full_check, "MOST_QUIET", 3)
    router.run(dict.fromkeys("vwxyz", counters()))
    assert router.trouble == "2 of 5 further namespaces are too many to remember"


def test_ten_thousand_namespaces_that_drop_at_every_run_fit_into_their_file(router, monkeypatch):
    monkeypatch.setattr(counter_history, "MOST_RISES_IN_ALL", 20)
    monkeypatch.setattr(full_check, "MOST_FURTHER", 10)
    names = [f"qrouter-{at:036}" for at in range(10)]
    sums = dict.fromkeys(CpuCounters._fields[1:], 2**40)
    for drop in range(30):
        told = Counters((CpuCounters(0, **{**sums, "drop": 2**41 + drop}),))
        router.run(dict.fromkeys(names, told), 4026532177)
    assert router.trouble == ""
    # A thousandth of what is allowed takes a thousandth of the room.
    assert router.size < state_store.MANY / 1000


def test_counters_of_many_processors_that_pass_the_top_of_32_bits_have_risen(router):
    def told(drop):
        # What else it has counted is too much for a minute: it has not begun anew.
        cpu = CpuCounters(0, drop=drop, insert_failed=0, invalid=2 * 10**9)
        return {"red": Counters((cpu, cpu._replace(cpu=1)))}

    router.run(told(2**32 - 3))
    assert router.run(told(7)) == [20]


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        {"boot": BOOT, "module": 7, "rows": []},
        {"boot": BOOT, "module": 7, "rows": {"red": None, "blue": [1], "green": [1] * 6}},
        {"boot": BOOT, "module": 7, "rows": {"red": [1e9, 1, 1, 0, [10**400], []]}},
        {"boot": BOOT, "module": 7, "rows": {"red": [1e9, 1, 1, 0, [-1], []]}},
        {"boot": BOOT, "module": 7, "rows": {"red": [1e9, 1, 1, 0, [1] * 99, []]}},
        {"boot": BOOT, "module": 7, "rows": {"red": [-1, 1, 1, 0, [1], []]}},
    ],
)
def test_what_was_not_written_so_is_no_memory_of_further_namespaces(plain):
    assert Further.from_plain(plain) == Further()


# --- what is remembered of many logs


def test_of_more_logs_than_can_be_remembered_the_counters_stay_and_some_are_read_anew(store):
    lost = tuple(event(900.0 + at, at, "/srv/collected/kern.log") for at in range(3))
    known = tuple(
        (f"/srv/collected/host-{at:04}/var/log/kern.log", gather.Known(POSITION, lost, 900.0))
        for at in range(1500)
    )
    kept = memory(10, counters(drop=3))._replace(known=known)
    assert state_store.size(to_plain(kept)) > state_store.LARGEST
    look = object.__new__(full_check.Full)
    look.session = types.SimpleNamespace(stage=lambda _: None, store=store)
    look._remember("key", kept)
    again = from_plain(store.read("key"))
    assert store.trouble == "", "no threshold goes blind for it"
    assert again._replace(known=()) == kept._replace(known=())
    assert set(again.known) < set(known)
    assert len(again.known) > 500
    left = 1500 - len(again.known)
    assert store.notes == [
        f"too many log files to remember all: {left} of 1500 are read anew each run"
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.sampled_from(Memory._fields), JSON)
def test_whatever_stands_in_a_file_it_is_a_memory_or_nothing(field, value):
    plain = to_plain(memory(10, counters(drop=3), rises=[Rise(1, 2, 0, 0, 0, 0, 6.0)]))
    plain[field] = value
    read = from_plain(plain)
    assert read is None or isinstance(read, Memory)
    if read is not None:
        # And a run can go on from it.
        assert risen_since(read, memory(100, counters(drop=4)), 0)


def test_a_rise_that_no_float_holds_is_none():
    plain = to_plain(memory(10, counters(drop=3), rises=[Rise(1, 2, 10**400, 0, 0, 0, 6.0)]))
    assert from_plain(plain) is None


@given(JSON)
def test_what_is_no_memory_is_nothing(value):
    assert from_plain(value) is None


# --- corroboration


@pytest.mark.parametrize(
    ("usage", "risen", "critical"),
    [
        (10, Rise(0, 1, 5, 0, 0, 0, 20.0), False),
        (10, Rise(0, 1, 5, 1, 0, 0, 20.0), True),
        (95, Rise(0, 1, 5, 0, 0, 0, 20.0), True),
        (10, Rise(0, 1, 5, 0, 0, 0, 95.0), True),
        (94, Rise(0, 1, 5, None, 0, 0, 94.9), False),
    ],
)
def test_drops_are_the_table_s_doing_beside_evictions_or_a_full_table(usage, risen, critical):
    place = Place("", "", 1, Limits(usage, 100), None, risen=risen)
    assert full_check._corroborated(place) is critical


@pytest.mark.parametrize(
    ("born", "time", "gone"),
    [
        ({7: 1000.0}, 990.0, True),
        ({7: 1000.0}, 1010.0, False),
        ({7: 1000.0}, 999.5, False),
        ({7: 1000.0}, None, True),
        ({}, 990.0, False),
    ],
)
def test_a_message_is_put_down_to_a_name_that_is_older_than_it(born, time, gone):
    class Stand:
        pass

    stand = Stand()
    stand.born = born
    about = events.Event(Kind.TABLE_FULL, 1, time, netns=7)
    assert full_check.Full.is_gone(stand, about) is gone


# --- which sources are read


class Sources:
    """Stands in for the sources of this host; `read` says which were asked, in order."""

    def __init__(self, monkeypatch, ring=None, shown=None, probe=None, logs=None, begun=None):
        self.read = []
        self.begun = begun or {}
        self.ring, self.shown, self.probe, self.logs = ring, shown, probe, logs or {}
        monkeypatch.setattr(kmsg, "read_clock", lambda: kmsg.Clock(1000.0, 990.0, 990.0))
        monkeypatch.setattr(gather._Gathering, "_ring", self._ring)
        monkeypatch.setattr(journal, "read_journal", self._journal)
        monkeypatch.setattr(gather.files, "read_log", self._log)
        monkeypatch.setattr(gather.files, "oldest", lambda path, _: self.begun.get(path))
        monkeypatch.setattr(gather.os.path, "lexists", lambda path: path in self.logs)

    def _ring(self, clock):
        self.read.append("ring")
        if isinstance(self.ring, Exception):
            raise self.ring
        return self.ring

    def _journal(self, arguments, stop):
        probing = any(argument.startswith("--lines") for argument in arguments)
        self.read.append("probe" if probing else "journal")
        return self.probe if probing else self.shown

    def _log(self, path, *_):
        self.read.append(path)
        return self.logs[path]


def event(time, stamp, source="x"):
    return events.Event(Kind.TABLE_FULL, 1, time, 0.0, stamp, BOOT, source=source)


FULL = "nf_conntrack: table full, dropping packet"


def look(*wanted, start=900.0, ask=None, boot=None):
    window = events.Window(start, 1000.0, boot)
    return gather.gather(wanted or ("auto",), window, BOOT, {}, lambda: False, ask)


WHOLE = kmsg.Ring((event(950.0, 5),), 10, 10, 0, 1.0)
SHORT = kmsg.Ring((event(950.0, 5),), 10, 10, 77, 940.0)
DENIED = PermissionError(errno.EPERM, "Operation not permitted")
QUIET = journal.Journal()
HEARD = journal.Journal((event(950.0, 5), event(910.0, 2)), 30, 900.5)
# It begins with this boot, and then what it shows from before the window.
VOLATILE = HEARD._replace(oldest=910.0)
EARLIER = journal.Journal((), 1, 300.0)


def test_a_ring_that_shows_the_whole_window_is_enough(monkeypatch):
    sources = Sources(monkeypatch, ring=WHOLE)
    found = look()
    assert sources.read == ["ring"]
    assert found.sources == (gather.Source("kernel log", 0),)
    assert found.problems == ()


def test_a_ring_that_has_wrapped_is_told_and_the_journal_fills_in(monkeypatch):
    sources = Sources(monkeypatch, ring=SHORT, shown=HEARD)
    found = look()
    assert sources.read == ["ring", "journal"]
    # The copy in the journal is no second event.
    assert [each.time for each in found.events] == [910.0, 950.0]
    assert [each.name for each in found.sources] == ["kernel log", "journal"]
    assert "no longer reaches back" in found.problems[0].reason


BOOTED = 10.0  # by the clock of Sources


def test_a_ring_since_boot_does_not_show_what_was_before_and_the_journal_is_read(monkeypatch):
    sources = Sources(monkeypatch, ring=WHOLE, shown=HEARD, probe=EARLIER)
    found = look(start=BOOTED - 5)
    assert sources.read == ["ring", "journal", "probe"]
    assert found.sources == (gather.Source("kernel log", 0), gather.Source("journal"))
    # What the ring lacks the journal has: nothing is unseen.
    assert found.problems == ()
    sources.read.clear()
    look(start=BOOTED + 5)
    assert sources.read == ["ring"]


def test_since_boot_the_ring_of_this_boot_is_the_whole_of_it(monkeypatch):
    sources = Sources(monkeypatch, ring=WHOLE)
    window = events.since_boot(1000.0, BOOTED, BOOT)
    found = look(start=window.start, boot=window.boot)
    assert sources.read == ["ring"]
    assert found.problems == ()


def test_since_boot_a_journal_of_this_boot_alone_is_the_whole_of_it(monkeypatch):
    sources = Sources(monkeypatch, ring=DENIED, shown=HEARD._replace(oldest=BOOTED + 0.5))
    window = events.since_boot(1000.0, BOOTED, BOOT)
    found = look(start=window.start, boot=window.boot)
    assert sources.read == ["ring", "journal"]
    assert found.sources == (gather.Source("journal"),)


def test_a_journal_that_was_lost_with_the_reboot_is_followed_by_the_files(monkeypatch):
    path = gather.FILES[1]
    lost = (event(5.0, None, path), event(950.0, None, path))
    log = Reading(path, lost, kernel_lines=True, read=10, files=(path,))
    sources = Sources(
        monkeypatch, WHOLE, HEARD._replace(oldest=BOOTED), QUIET, {path: log}, {path: 1.0}
    )
    found = look(start=2.0)
    assert sources.read == ["ring", "journal", "probe", path]
    # Of three sources the copies count once.
    assert [each.time for each in found.events] == [5.0, 910.0, 950.0]
    assert found.sources == (
        gather.Source("kernel log", 0),
        gather.Source("journal", BOOTED),
        gather.Source(path),
    )
    assert found.problems == ()


def test_what_no_source_reaches_is_told_in_one_line(monkeypatch):
    shown = HEARD._replace(oldest=BOOTED)
    path = gather.FILES[0]
    log = Reading(path, kernel_lines=True, read=10, files=(path,))
    for logs in ({}, {path: log}):
        Sources(monkeypatch, WHOLE, shown, QUIET, logs, {path: 400.0})
        found = look(start=-86400.0)
        [problem] = found.problems
        assert problem.path == "kernel log"
        assert "nothing that can be read goes back beyond 1970-01-01 " in problem.reason
        assert "--log" in problem.remedy
    assert found.sources[-1] == gather.Source(path, 400.0)


def test_a_ring_since_boot_that_is_the_only_source_is_short_and_readable(monkeypatch):
    missing = journal.Journal(status=journal.MISSING, said="No such file or directory")
    Sources(monkeypatch, ring=WHOLE, shown=missing)
    found = look(start=BOOTED - 600)
    assert found.sources == (gather.Source("kernel log", 0),)
    assert [each.path for each in found.problems] == ["journal", "kernel log"]


def test_a_log_that_begins_within_the_window_is_followed_by_the_next(monkeypatch):
    first, second, third = gather.FILES
    logs = {path: Reading(path, kernel_lines=True, read=10, files=(path,)) for path in gather.FILES}
    begun = {first: 950.0, second: 100.0, third: 100.0}
    sources = Sources(monkeypatch, DENIED, QUIET, QUIET, logs, begun)
    found = look()
    assert sources.read[-2:] == [first, second]
    assert found.sources == (gather.Source(first, 950.0), gather.Source(second))
    assert [each.path for each in found.problems] == ["/dev/kmsg", "journal"]


def test_a_journal_that_begins_within_the_window_may_only_have_been_quiet_before(monkeypatch):
    sources = Sources(monkeypatch, ring=DENIED, shown=VOLATILE, probe=EARLIER)
    found = look()
    assert sources.read == ["ring", "journal", "probe"]
    assert found.sources == (gather.Source("journal"),)


def test_silence_of_the_journal_is_probed(monkeypatch):
    sources = Sources(monkeypatch, ring=DENIED, shown=QUIET, probe=HEARD)
    found = look()
    assert sources.read == ["ring", "journal", "probe"]
    assert [each.name for each in found.sources] == ["journal"]
    assert found.events == ()
    assert found.problems[0].path == "/dev/kmsg"
    assert "CAP_SYSLOG" in found.problems[0].remedy


def test_a_journal_without_a_line_of_the_kernel_is_unreadable_and_files_come_next(monkeypatch):
    path = gather.FILES[1]
    log = Reading(path, (event(950.0, None, path),), kernel_lines=True, read=10, files=(path,))
    sources = Sources(monkeypatch, ring=DENIED, shown=QUIET, probe=QUIET, logs={path: log})
    found = look()
    assert sources.read == ["ring", "journal", "probe", path]
    assert [each.name for each in found.sources] == [path]
    assert len(found.events) == 1
    assert [each.path for each in found.problems] == ["/dev/kmsg", "journal"]


def test_everything_is_asked_of_every_source(monkeypatch):
    path = gather.FILES[0]
    log = Reading(path, kernel_lines=True, read=10, files=(path,))
    sources = Sources(monkeypatch, ring=WHOLE, shown=HEARD, logs={path: log})
    look(start=None)
    assert sources.read == ["ring", "journal", path]


def test_a_file_that_shows_other_lines_only_is_unreadable(monkeypatch):
    path = gather.FILES[2]
    log = Reading(path, kernel_lines=False, read=10, files=(path,))
    Sources(monkeypatch, ring=DENIED, shown=QUIET, probe=QUIET, logs={path: log})
    found = look()
    assert found.sources == ()
    assert found.problems[-1].reason == "shows no lines of the kernel"


def test_a_ring_of_programs_alone_is_unreadable(monkeypatch):
    silent = kmsg.Ring((), 10, 0, 0, 1.0)
    sources = Sources(monkeypatch, ring=silent, shown=HEARD)
    found = look()
    assert sources.read == ["ring", "journal"]
    assert [each.name for each in found.sources] == ["journal"]


def test_a_ring_that_time_did_not_suffice_for_is_told(monkeypatch):
    Sources(monkeypatch, ring=WHOLE._replace(complete=False), shown=HEARD)
    assert "within the time" in look().problems[0].reason


FAILED = journal.Journal((event(950.0, 5),), 1, complete=False)


def test_what_a_source_shows_counts_also_where_it_fails_afterwards(monkeypatch):
    Sources(monkeypatch, ring=DENIED, shown=FAILED)
    found = look()
    assert [each.name for each in found.sources] == ["journal"]
    assert len(found.events) == 1
    assert [each.path for each in found.problems] == ["/dev/kmsg", "journal"]


def test_the_silence_of_a_part_proves_nothing(monkeypatch):
    path = gather.FILES[0]
    log = Reading(path, kernel_lines=True, read=10, files=(path,), complete=False, cut=True)
    silent = WHOLE._replace(events=(), complete=False)
    Sources(monkeypatch, ring=silent, shown=FAILED._replace(events=()), logs={path: log})
    assert look().sources == ()
    assert look(path).sources == ()


def test_a_log_of_which_not_a_byte_could_be_read_is_no_quiet_log(monkeypatch):
    path = gather.FILES[0]
    problem = events.Problem(path, "is compressed with zstd", "unpack it")
    log = Reading(path, files=(path,), complete=False, problems=(problem,))
    Sources(monkeypatch, ring=DENIED, logs={path: log})
    assert look(path).sources == ()


def test_a_log_that_holds_nothing_is_no_quiet_log(monkeypatch):
    path, next_path = gather.FILES[:2]
    log = Reading(path, files=(path,), empty=True)
    other = Reading(next_path, kernel_lines=True, read=10, files=(next_path,))
    logs = {path: log, next_path: other}
    Sources(monkeypatch, ring=DENIED, shown=QUIET, probe=QUIET, logs=logs)
    assert look(path).sources == ()
    assert [each.reason for each in look(path).problems] == [
        "is empty, and nothing of the kernel's was rotated out of it"
    ]
    assert [each.name for each in look().sources] == [next_path]
    # One that was just rotated is quiet.
    Sources(monkeypatch, logs={path: log._replace(kernel_lines=True)})
    assert [each.name for each in look(path).sources] == [path]
    assert look(path).problems == ()


@pytest.mark.parametrize("start", [None, 900.0])
def test_standard_input_that_holds_nothing_is_a_pipe_that_failed(monkeypatch, start):
    silent = Reading("standard input", files=("standard input",), empty=True)
    monkeypatch.setattr(gather.files, "read_stream", lambda *_: silent)
    found = look("-", start=start)
    assert found.sources == ()
    assert found.problems == (
        events.Problem("standard input", "is empty", "see whether the command that feeds it fails"),
    )


def test_all_of_a_log_is_also_what_was_rotated_out_of_it_each_file_once(tmp_path):
    log = tmp_path / "kern.log"
    stamps = (("", 3), (".1", 2), (".2", 1))
    for suffix, stamp in stamps:
        text = f"Nov 21 21:00:0{stamp} gw kernel: [ {stamp}.000000] {FULL}\n"
        tmp_path.joinpath(f"kern.log{suffix}").write_text(text)
    for wanted in (str(log), f"{log}*"):
        found = look(wanted, start=None)
        assert sorted(each.monotonic for each in found.events) == [1000000, 2000000, 3000000]
        assert found.sources == (gather.Source(str(log)),)
    # Where the log itself cannot be read, those that are named are.
    log.unlink()
    log.mkdir()
    assert len(look(f"{log}*", start=None).events) == 2


def test_what_a_shorter_window_has_left_out_is_read_again(monkeypatch):
    path = gather.FILES[0]
    position = Position(1, 2, 3, 4, 5, False, True, 6.0)
    known = {path: gather.Known(position, (), 900.0)}
    asked = []

    def read(path, now, stop, position, start):
        asked.append(position)
        return Reading(path, position=position, kernel_lines=True, files=(path,), read=1)

    monkeypatch.setattr(gather.files, "read_log", read)
    for start in (950.0, 899.5, 500.0):
        window = events.Window(start, 1000.0)
        gather.gather((path,), window, BOOT, known, lambda: False, None)
    # The time of boot is another by a hair each time: that is no wider window.
    assert asked == [position, position, None]


def test_the_reader_s_records_are_the_ring_s(monkeypatch):
    def refuse(path=kmsg.PATH):
        raise DENIED

    monkeypatch.setattr(kmsg, "open_kmsg", refuse)
    asked = []

    def ask(fields):
        asked.append(fields)
        text = b"4,0,5,-;nf_conntrack: nf_conntrack: table full in netns 77, dropping packet\n"
        yield Frame(0, 0, "record", "", text)
        yield Frame(0, errno.EAGAIN, "record", "", b"")

    monkeypatch.setattr(journal, "read_journal", lambda *_: HEARD)
    found = look(ask=ask)
    assert asked == [[b"log"]]
    assert [each.netns for each in found.events if each.netns] == [77]
    assert "within the time" in found.problems[0].reason
    assert found.read[0] == "/dev/kmsg by the reader: 1 records, 1 of the kernel's"


def test_what_was_read_is_told_with_how_it_was_got_at(monkeypatch):
    path = gather.FILES[0]
    older = Reading(path, kernel_lines=True, read=10, files=(f"{path}.1", path), followed=True)
    Sources(monkeypatch, ring=SHORT, shown=HEARD, logs={path: older})
    assert look(start=None).read == (
        "/dev/kmsg directly: 10 records, 10 of the kernel's",
        "journal by journalctl: 30 entries of the kernel's",
        f"{path}.1, {path}: 10 bytes since an earlier run",
    )
    missing = journal.Journal(status=journal.MISSING)
    Sources(monkeypatch, ring=DENIED, shown=missing)
    assert look().read == ()


def test_a_reader_without_the_right_either_is_told(monkeypatch):
    def refuse(path=kmsg.PATH):
        raise DENIED

    monkeypatch.setattr(kmsg, "open_kmsg", refuse)
    monkeypatch.setattr(journal, "read_journal", lambda *_: HEARD)
    found = look(ask=lambda _: iter([Frame(0, errno.EPERM, "-", "", b"")]))
    assert found.problems[0].reason == "Operation not permitted"
    assert [each.name for each in found.sources] == ["journal"]


def test_what_is_known_of_many_logs_stays_small(monkeypatch):
    def read(path, now, stop, position, start):
        lost = tuple(event(900.0 + at / 2, at, path) for at in range(150))
        position = Position(1, 2, 3, 4, 5, False, True, 6.0)
        return Reading(path, lost, (), position, kernel_lines=True, files=(path,), read=1)

    monkeypatch.setattr(gather.files, "read_log", read)
    window = events.Window(900.0, 1000.0)
    paths = [f"/srv/collected/host{number}/kern.log" for number in range(40)]
    found = gather.gather(paths, window, BOOT, {}, lambda: False, None)
    assert len(found.known) == 40
    assert all(sum(each.times for each in known.events) == 150 for _, known in found.known)
    assert len(json.dumps(gather.known_to_plain(found.known))) < 256 * 1024


@given(JSON)
def test_what_is_known_of_files_is_read_or_passed_over(value):
    for known in gather.known_from_plain(value).values():
        assert isinstance(known, gather.Known)
    assert gather.known_from_plain({"/x": value}) == {} or isinstance(value, list)


# --- through the front door

QUIET_LINE = "Nov 21 20:00:00 gw kernel: all is quiet\n"


@pytest.fixture
def door(monkeypatch, tmp_path, capfd, signals, sysctls):
    """Run check_conntrack_full on one log, in this process, which keeps its rights.

    `log` is the log, `counters` sets what the kernel has counted.
    """
    monkeypatch.setattr(runner, "drop_rights", lambda options, late=(): None)
    monkeypatch.setattr(privileges, "has", lambda _: False)
    monkeypatch.setattr(privileges, "is_root", lambda: False)
    monkeypatch.setattr(host, "available_memory", lambda: 8 << 30)
    log = tmp_path / "kern.log"
    log.write_text(QUIET_LINE)

    def run(*arguments, log=log):
        capfd.readouterr()
        words = ["--log", str(log), "--state-dir", str(tmp_path / "state"), *arguments]
        code = runner.run(full_check.TITLE, full_check.parser(), full_check.judge, words)
        return Run(code, *capfd.readouterr(), words)

    def count(**values):
        monkeypatch.setattr(full_check.counters, "read_text", lambda: counters(**values))

    count()
    run.log, run.counters = log, count
    return run


def test_drops_that_nothing_else_explains_ask_for_no_larger_table(door, sysctls):
    sysctls.holds(0, 1100000, 262144)
    door()
    door.counters(drop=100, insert_failed=20, chaintoolong=5)
    run = door("-w", "chain_overflows=~:")
    assert run.state == "WARNING"
    assert "85 packets dropped" in run.text
    assert "sysctl -w" not in run.rest
    assert "peak" not in run.rest
    assert "a helper (FTP, SIP, ...) gives up" in run.rest
    assert "  conntrack -S" in run.lines


@pytest.mark.parametrize(
    ("entries", "values", "state"),
    [
        (0, {"drop": 100, "early_drop": 1}, "CRITICAL"),
        (9500, {"drop": 100}, "CRITICAL"),
        (10000, {"drop": 100}, "CRITICAL"),
        (0, {"early_drop": 7}, "WARNING"),  # of a threshold of the user's
    ],
)
def test_drops_of_a_table_that_was_full_ask_for_more_than_its_limit(
    door, sysctls, entries, values, state
):
    sysctls.holds(entries, 10000, 2048)
    door()
    door.counters(**values)
    run = door("-w", "early_drops=5")
    assert run.state == state
    assert "the peak of 10000 entries plus 30 %" in run.rest
    assert "  sysctl -w net.netfilter.nf_conntrack_max=16384" in run.lines
    assert "helper" not in run.rest


def test_messages_say_that_the_drops_beside_them_are_the_table_s(door):
    door()
    door.counters(drop=100)
    door.log.write_text(f"{time.strftime('%b %d %H:%M:%S')} gw kernel: {FULL}\n")
    run = door()
    assert run.state == "CRITICAL"
    assert "  sysctl -w net.netfilter.nf_conntrack_max=16384" in run.lines
    assert "helper" not in run.rest


def test_vvv_says_what_was_read_from_where(door):
    inode = full_check.own_inode()
    size = door.log.stat().st_size
    lines = door("-vvv").lines
    assert [line for line in lines if line.startswith("Read ")] == [
        f"Read {door.log}: {size} bytes",
        f"Read /proc/sys/net/netfilter/nf_conntrack_count and max directly in net:[{inode}]",
        f"Read /proc/net/stat/nf_conntrack directly in net:[{inode}]",
    ]
    assert f"Read {door.log}: 0 bytes since an earlier run" in door("-vvv").lines
    assert "Read " not in door("-vv").out


def test_vvv_says_that_the_reader_read(door, monkeypatch):
    path = "/run/netns/gw"
    frames = {"stats_cpu": Frame(7, 0, "stats_cpu", path, b"")}
    spot = full_check.places.Spot("gw", "gw::", 7, path, Limits(1, 100))
    sight = full_check.places.Sight(spot, frames={7: frames})
    monkeypatch.setattr(full_check.places, "look", lambda *_: sight)
    monkeypatch.setattr(full_check.counters, "parse_stats_cpu", lambda _: counters(drop=1))
    lines = door("-vvv", "--netns", "gw").lines
    assert [line for line in lines if line.startswith("Read ")][1:] == [
        "Read /proc/sys/net/netfilter/nf_conntrack_count and max by the reader in net:[7] gw",
        "Read the counters over ctnetlink by the reader in net:[7] gw",
    ]


UNDATED = f"[  100.123456] {FULL}\n"


def test_a_message_of_unknown_time_is_mentioned_in_this_run_and_in_later_ones(door):
    door.log.write_text(UNDATED + QUIET_LINE + UNDATED.replace("100", "101"))
    for run in (door(), door(), door("-v")):
        assert run.state == "OK"
        assert run.data["table_full"].value == 0
        assert ", 2 messages of unknown time not counted (" in run.text
    said = f"Not counted: 2 messages of unknown time in {door.log} (--since all counts them)"
    assert said in run.lines
    everything = door("--since", "all", "--no-state")
    assert everything.data["table_full"].value == 2
    assert "unknown time" not in everything.out


def test_what_has_no_time_is_mentioned_until_the_log_it_stands_in_was_rotated(door):
    door.log.write_text(UNDATED)
    assert "1 message of unknown time not counted" in door().text
    with open(door.log, "a") as file:
        file.write(QUIET_LINE)
    assert "1 message of unknown time not counted" in door().text
    door.log.rename(f"{door.log}.1")
    door.log.write_text(QUIET_LINE)
    assert "unknown time" not in door().out
    # One that is written over, as dmesg's file is at boot, is mentioned by what is in it now.
    door.log.write_text(QUIET_LINE + UNDATED.replace("100", "205"))
    assert "1 message of unknown time not counted" in door().text


def test_a_message_from_the_future_counts_once_its_time_has_come(tmp_path):
    log = tmp_path / "kern.log"
    log.write_text(f"1970-01-01T01:00:00+00:00 gw kernel: {FULL}\n")
    known = {}
    counted = []
    for now in (1000.0, 2000.0, 3600.0, 4000.0, 5000.0):
        window = events.Window(now - 900, now)
        found = gather.gather((str(log),), window, BOOT, known, lambda: False, None)
        known = dict(found.known)
        told = events.select(found.events, window)
        counted.append((len(told.inside), len(told.untold)))
    assert counted == [(0, 1), (0, 1), (1, 0), (1, 0), (0, 0)]


def test_a_figure_that_is_too_small_asks_for_nothing(door):
    run = door("-w", "table_full=1:")
    assert run.state == "WARNING"
    assert "sysctl" not in run.rest


# --- words


@pytest.mark.parametrize(
    ("text", "since"), [("15m", 900.0), ("boot", "boot"), ("last", "last"), ("all", "all")]
)
def test_a_window_is_a_duration_or_a_word(text, since):
    assert full_check.parser().parse_args(["--since", text]).since == since


# --- what was not seen

MISSING = events.Problem("/var/log/none", "does not exist", "name a log that exists")


@pytest.mark.parametrize(
    ("log", "sudo", "forbidden", "seen", "said"),
    [
        ([], False, True, True, False),  # another source stands in for it
        ([], True, True, True, True),  # sudo was asked for, and refused
        ([], True, False, True, False),
        (["/var/log/none", "/var/log/kern.log"], False, False, True, True),
        ([], False, False, False, True),
    ],
)
def test_what_nothing_else_stands_in_for_is_said_in_one_line_when_all_is_well(
    monkeypatch, log, sudo, forbidden, seen, said
):
    sources = (gather.Source("journal"),) if seen else ()
    found = gather.Evidence((), sources, (MISSING, MISSING._replace(path="/var/log/nil")))
    monkeypatch.setattr(full_check.gather, "gather", lambda *_: found)
    options = full_check.parser().parse_args([f"--log={path}" for path in log] + ["--sudo"] * sudo)
    session = types.SimpleNamespace(stage=lambda _: None, may_ask=False, forbidden=forbidden)
    looked = full_check.Full(options, session)
    looked._read_log(None)
    assert len(looked.unseen) == 2
    expected = [
        "Not seen: /var/log/none: does not exist (name a log that exists) (and 1 more with -v)"
    ]
    well = runner.Outcome(full_check.Ok, "")
    assert full_check._notes(looked, well) == (expected if said else [])
    assert full_check._notes(looked, well._replace(state=full_check.Critical)) == []


def test_what_no_source_shows_of_the_window_is_said_when_all_is_well(monkeypatch):
    gap = events.Problem("kernel log", "nothing goes back beyond noon", "keep more")
    found = gather.Evidence((), (gather.Source("journal"),), (MISSING, gap), gap=gap)
    monkeypatch.setattr(full_check.gather, "gather", lambda *_: found)
    session = types.SimpleNamespace(stage=lambda _: None, may_ask=False, forbidden=False)
    looked = full_check.Full(full_check.parser().parse_args([]), session)
    looked._read_log(None)
    assert full_check._notes(looked, runner.Outcome(full_check.Ok, "")) == [
        "Not seen: kernel log: nothing goes back beyond noon (keep more)"
    ]


def test_how_far_back_a_run_gets_does_not_change_what_it_has_heard(monkeypatch):
    """The run after others that could not read the log looks at what they have missed, once."""
    session = types.SimpleNamespace(stage=lambda _: None, may_ask=False, forbidden=False)
    looked = full_check.Full(full_check.parser().parse_args([]), session)
    now = looked._clock.realtime
    looked.window = looked._window(now - 60)
    late, early, earlier = (event(now - ago, ago) for ago in (30.0, 5000.0, 90000.0))
    windows = []
    cut = events.Problem("journal", "was not read to its end", "raise --timeout")

    def show(wanted, window, *_):
        windows.append(window)
        source = (gather.Source("journal"),)
        if len(windows) == 1:
            return gather.Evidence((earlier, late), source)
        return gather.Evidence((early,), source, (cut,))

    monkeypatch.setattr(full_check.gather, "gather", show)
    before = memory(now - 60, counters())._replace(heard=now - 80000)
    looked._read_log(before)
    assert [window.start for window in windows] == [now - 900, now - 80000]
    assert looked.tally.table_full == 2
    assert looked.missed[0].startswith("kernel log: not all that was logged since ")
    # Whose last run has heard all has nothing to catch up with.
    windows.clear()
    looked.window = looked._window(now - 60)
    looked._read_log(before._replace(heard=now - 60))
    assert len(windows) == 1
