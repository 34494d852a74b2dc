"""The arithmetic and the memory of check_conntrack_full."""

from __future__ import annotations

import json
import os
import time
import types
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack import runner, session
from check_conntrack.full import full_check
from check_conntrack.full.full_check import Place
from check_conntrack.kernel import host, privileges
from check_conntrack.kernel.counters import Counters, CpuCounters
from check_conntrack.kernel.limits import Limits
from check_conntrack.kernel.log import events, gather
from check_conntrack.kernel.log.files import LogCursor
from check_conntrack.kernel.log.messages import Kind
from check_conntrack.kernel.namespaces import Namespace, NamespaceScan
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
CURSOR = LogCursor(1, 2, 3, 4, 5, False, True, 6.0)


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
    known = gather.LogHistory(
        LogCursor(1, 2, 3, 4, 5, False, True, 6.0),
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
    known = (("/var/log/kern.log", gather.LogHistory(CURSOR, (), 900.0)),)

    def read(self, memory):
        self.log = gather.LogEvidence(histories=known)

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
        (f"/srv/collected/host-{at:04}/var/log/kern.log", gather.LogHistory(CURSOR, lost, 900.0))
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


def event(time, stamp, source="x"):
    return events.Event(Kind.TABLE_FULL, 1, time, 0.0, stamp, BOOT, source=source)


FULL = "nf_conntrack: table full, dropping packet"


# --- through the front door

QUIET_LINE = "Nov 21 20:00:00 gw kernel: all is quiet\n"


@pytest.fixture
def door(monkeypatch, tmp_path, capfd, signals, sysctls):
    """Run check_conntrack_full on one log, in this process, which keeps its rights.

    `log` is the log, `counters` sets what the kernel has counted.
    """
    monkeypatch.setattr(session, "drop_privileges", lambda options, late=(): None)
    monkeypatch.setattr(privileges, "has", lambda _: False)
    monkeypatch.setattr(privileges, "is_root", lambda: False)
    monkeypatch.setattr(host, "available_memory", lambda: 8 << 30)
    log = tmp_path / "kern.log"
    log.write_text(QUIET_LINE)

    def run(*arguments, log=log):
        capfd.readouterr()
        words = ["--log", str(log), "--state-dir", str(tmp_path / "state"), *arguments]
        code = runner.run(full_check.TITLE, full_check.parser(), full_check.run_check, words)
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
    spot = Namespace("gw", path, 7, Limits(1, 100), prefix="gw::")
    sight = NamespaceScan(spot, frames={7: frames})
    monkeypatch.setattr(full_check.namespaces, "scan", lambda *_: sight)
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
