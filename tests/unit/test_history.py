from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.state import state_store, trend
from check_conntrack.state.codec import encode
from check_conntrack.state.state_store import Store
from check_conntrack.state.trend import Change, Moment, Peak, Sample, Series

PLUGINS = os.path.dirname(os.path.dirname(os.path.dirname(state_store.__file__)))


@pytest.fixture
def store(tmp_path):
    opened = Store.open(str(tmp_path / "state"), {}, None)
    assert opened.trouble == ""
    yield opened
    opened.close()


def bump(kept):
    return (kept or 0) + 1


def everything(folder):
    return sorted(os.listdir(folder))


# --- which folder


def test_the_folder_named_on_the_command_line_comes_before_the_environments(tmp_path):
    environment = {state_store.STATE_VARIABLE: str(tmp_path / "b")}
    own = str(os.geteuid())
    assert Store.open(str(tmp_path / "a"), environment, None).folder == str(tmp_path / "a" / own)
    assert Store.open(None, environment, None).folder == str(tmp_path / "b" / own)


def test_without_a_name_the_shared_folder_is_used_where_it_can_be_written(tmp_path, monkeypatch):
    shared, home = tmp_path / "shared", tmp_path / "home"
    monkeypatch.setattr(state_store, "SHARED", str(shared))
    below_home = str(home / ".local/state/check-conntrack" / str(os.geteuid()))
    assert Store.open(None, {}, str(home)).folder == below_home
    assert not shared.exists()
    shared.mkdir(mode=0o755)
    assert Store.open(None, {}, str(home)).folder == str(shared / str(os.geteuid()))


def test_a_shared_folder_that_cannot_be_written_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "shared").write_text("a file")
    monkeypatch.setattr(state_store, "SHARED", str(tmp_path / "shared"))
    store = Store.open(None, {}, str(tmp_path))
    assert store.folder.startswith(str(tmp_path / ".local"))
    assert store.trouble == ""


def test_the_xdg_place_is_used_for_ones_own_home_and_only_where_it_is_absolute(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(state_store, "SHARED", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    xdg = {"XDG_STATE_HOME": str(tmp_path / "xdg")}
    own = str(os.geteuid())
    at_home = str(tmp_path / "home/.local/state/check-conntrack" / own)
    assert Store.open(None, xdg, None).folder == str(tmp_path / "xdg/check-conntrack" / own)
    assert Store.open(None, {"XDG_STATE_HOME": "rel"}, None).folder == at_home
    other = str(tmp_path / "other")
    assert Store.open(None, xdg, other).folder.startswith(other), "root's variable, another's home"


def test_what_it_makes_is_for_its_owner_alone(store, tmp_path):
    store.update("key", bump)
    modes = [
        os.stat(path).st_mode & 0o777
        for path in (tmp_path / "state", store.folder, os.path.join(store.folder, "key.json"))
    ]
    assert modes == [0o700, 0o700, 0o600]


# --- which folder is refused


def refused(path):
    """Why the store is refused; what lies below `path` is neither read nor written then."""
    store = Store.open(str(path), {}, None)
    assert store.refused
    assert store.folder == ""
    assert store.read("key") is None
    assert [store.update("key", bump) for _ in range(2)] == [1, 1]
    assert store.notes == []
    trouble = store.trouble
    store.close()
    return trouble


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775, 0o720, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path, mode):
    folder = tmp_path / "state"
    own = folder / str(os.geteuid())
    own.mkdir(parents=True, mode=0o700)
    (own / "key.json").write_text("41")
    folder.chmod(mode)
    said = (
        f"state directory {folder}: others may write to it "
        "(name a folder that only its owner may write to)"
    )
    assert refused(folder) == said
    assert everything(folder) == [own.name]
    assert everything(own) == ["key.json"]
    assert (own / "key.json").read_text() == "41"


def test_a_folder_that_is_refused_is_not_even_given_one_of_ones_own(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o777)
    refused(folder)
    assert everything(folder) == []


def test_a_shared_folder_that_is_refused_has_no_other_take_its_place(tmp_path, monkeypatch):
    shared, home = tmp_path / "shared", tmp_path / "home"
    monkeypatch.setattr(state_store, "SHARED", str(shared))
    shared.mkdir()
    shared.chmod(0o777)
    for where in (str(home), ""):
        store = Store.open(None, {}, where)
        assert store.refused
        assert "others may write to" in store.trouble
    assert not home.exists()


@pytest.mark.parametrize("spelling", ["link", "link/", "./link/."])
def test_a_link_is_refused_however_it_is_spelled(tmp_path, spelling, monkeypatch):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    assert (
        refused(spelling) == f"state directory {tmp_path}/link: is a link (name the folder itself)"
    )
    assert everything(tmp_path / "real") == []


@pytest.mark.parametrize("target", ["nowhere", "file"])
def test_a_link_to_no_folder_is_refused_too(tmp_path, target):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / target)
    assert "/link: is a link" in refused(tmp_path / "link")
    assert everything(tmp_path) == ["file", "link"]


def test_a_link_in_place_of_ones_own_folder_is_refused_by_its_whole_path(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / str(os.geteuid())).symlink_to(tmp_path / "other")
    assert f"{tmp_path}/{os.geteuid()}: is a link" in refused(tmp_path)
    assert everything(tmp_path / "other") == []


def test_own_folder_is_closed_to_others_who_could_lock_it(tmp_path):
    own = tmp_path / "state" / str(os.geteuid())
    own.mkdir(parents=True)
    own.chmod(0o755)
    store = Store.open(str(tmp_path / "state"), {}, None)
    store.close()
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_ones_own_folder_open_to_others_is_refused(tmp_path):
    own = tmp_path / str(os.geteuid())
    own.mkdir()
    own.chmod(0o777)
    assert f"state directory {own}: others may write to it" in refused(tmp_path)
    assert everything(own) == []


# --- trouble that is no reason to refuse


@pytest.mark.parametrize(
    "path",
    ["/dev/null", "/dev/null/below", "/proc/nothing", "x" * 300, "a\0b", "d/" * 3000],
    ids=lambda path: repr(path[:20]),
)
def test_a_folder_that_cannot_be_made_is_trouble_with_its_path_and_reason(path):
    store = Store.open(path, {}, None)
    assert store.trouble.startswith("state directory /")
    assert store.folder == ""
    assert store.update("key", bump) == 1
    store.close()


def test_folder_below_very_many_others_is_made(tmp_path):
    deep = f"{tmp_path}/{'d/' * 1100}d"
    store = Store.open(deep, {}, None)
    store.close()
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # too deep for pytest
    assert store.trouble == ""


def test_one_without_a_home_is_told_what_to_name(monkeypatch, tmp_path):
    monkeypatch.setattr(state_store, "SHARED", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    store = Store.open(None, {"XDG_STATE_HOME": str(tmp_path)}, "")
    assert store.trouble == f"state directory: uid {os.geteuid()} has no home (use --state-dir)"
    assert os.listdir(tmp_path) == []


def test_a_uid_that_nobody_knows_leaves_nothing_in_the_current_folder(monkeypatch, tmp_path):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(state_store, "SHARED", str(tmp_path / "none"))
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    store = Store.open(None, {}, None)
    assert store.trouble == f"state directory: uid {os.geteuid()} has no home (use --state-dir)"
    assert os.listdir(tmp_path) == []
    xdg = Store.open(None, {"XDG_STATE_HOME": str(tmp_path / "xdg")}, None)
    assert xdg.trouble == ""
    xdg.close()


def test_a_store_that_keeps_nothing_says_why():
    store = Store.without("--no-state")
    assert store.update("key", bump) == 1
    assert store.update("key", bump) == 1
    assert store.trouble == "--no-state"


# --- keeping


def test_what_is_kept_is_given_to_the_next_run(store, tmp_path):
    assert [store.update("key", bump) for _ in range(3)] == [1, 2, 3]
    again = Store.open(str(tmp_path / "state"), {}, None)
    assert again.update("key", bump) == 4
    assert everything(store.folder) == ["key.json"]


def test_what_512_processors_leave_behind_is_kept_and_no_file_beyond_a_quarter_mebibyte(store):
    large = "x" * 200_000
    store.update("key", lambda _: large)
    assert store.read("key") == large
    assert state_store.LARGEST == 262_144
    assert store.trouble == ""
    store.update("key", lambda _: "x" * 262_144)
    assert store.read("key") == large, "what no run would read is not written"
    path = os.path.join(store.folder, "key.json")
    assert store.trouble == f"{path}: 262146 bytes are more than 262144"
    assert store.notes == []


def test_a_file_of_thousands_of_namespaces_may_be_larger(store):
    large = "x" * 300_000
    store.update("key", lambda _: large, state_store.MANY)
    assert store.read("key", state_store.MANY) == large
    assert store.trouble == ""


def test_a_store_leaves_no_descriptor_behind_however_often_it_is_closed(tmp_path):
    before = os.listdir("/proc/self/fd")
    for _ in range(2):
        opened = Store.open(str(tmp_path / "state"), {}, None)
        opened.close()
        opened.close()
    assert os.listdir("/proc/self/fd") == before
    assert os.fstat(0)


def test_what_a_run_has_read_is_not_read_again_unless_another_has_written(store, monkeypatch):
    loads, parsed = json.loads, []
    monkeypatch.setattr(state_store.json, "loads", lambda data: parsed.append(data) or loads(data))
    store.update("a", lambda _: [1])
    assert (store.read("a"), store.update("a", lambda kept: [*kept, 2])) == ([1], [1, 2])
    assert len(parsed) == 1
    assert store.read("a") == [1, 2]
    other = Store.open(os.path.dirname(store.folder), {}, None)
    other.update("a", lambda kept: [*kept, 3])
    other.close()
    assert store.update("a", lambda kept: [*kept, 4]) == [1, 2, 3, 4]
    assert store.read("a") == [1, 2, 3, 4]


def test_nothing_is_written_where_nothing_changed(store):
    store.update("key", lambda kept: {"a": 1})
    before = os.stat(os.path.join(store.folder, "key.json")).st_ino
    store.update("key", lambda kept: {"a": 1})
    assert os.stat(os.path.join(store.folder, "key.json")).st_ino == before


@given(st.sets(st.text(max_size=250).filter(lambda t: "\0" not in t), max_size=8))
def test_different_keys_have_different_files_below_the_folder(keys):
    keys = [key for key in keys if key.isprintable()]
    names = [state_store._file_name(key) for key in keys]
    assert len(set(names)) == len(keys)
    for name in names:
        assert "/" not in name
        assert name.isascii()
        assert name not in (".", "..")
        assert len(name) <= 255


def test_keys_that_differ_only_far_behind_have_different_files():
    assert state_store._file_name("x" * 300 + "a") != state_store._file_name("x" * 300 + "b")
    assert state_store._file_name(os.fsdecode(b"\xff")) == "%ff.json"


DAMAGED = [b"", b"{", b"\xff\xfe", b"nonsense", b"[" * 100000, b"{}" * (200 << 10), b"\0" * 10]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_as_none_is_noted_and_is_replaced(store, content):
    path = os.path.join(store.folder, "key.json")
    with open(path, "wb") as file:
        file.write(content)
    assert store.read("key") is None
    assert store.update("key", bump) == 1
    assert store.trouble == ""
    assert store.notes == [f"{path}: damaged, its history starts again"]
    assert store.update("key", bump) == 2


def test_a_link_in_place_of_a_file_is_neither_followed_nor_written_through(store, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("41")
    path = os.path.join(store.folder, "key.json")
    os.symlink(secret, path)
    assert store.update("key", bump) == 1
    assert "Too many levels of symbolic links" in store.notes[0]
    assert secret.read_text() == "41"
    assert not os.path.islink(path)


def test_a_pipe_in_place_of_a_file_does_not_make_the_check_wait(store):
    os.mkfifo(os.path.join(store.folder, "key.json"))
    assert store.update("key", bump) == 1
    assert "damaged" in store.notes[0]
    assert store.update("key", bump) == 2


def test_a_folder_in_place_of_a_file_is_trouble_and_no_temporary_file_is_left(store):
    os.mkdir(os.path.join(store.folder, "key.json"))
    assert store.update("key", bump) == 1
    assert "cannot be written to" in store.trouble
    assert everything(store.folder) == ["key.json"]


def test_what_a_killed_run_left_behind_is_replaced(store):
    with open(os.path.join(store.folder, ".key.json.new"), "w") as file:
        file.write("half of a fi")
    assert store.update("key", bump) == 1
    assert everything(store.folder) == ["key.json"]
    assert store.trouble == ""


@pytest.mark.parametrize("function", ["open", "write", "rename", "listdir"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_disk_that_is_full_or_read_only_is_trouble_and_the_old_file_stays(
    store, monkeypatch, function, code
):
    store.update("key", lambda kept: 41)
    real = getattr(os, function)

    def broken(*arguments, **options):
        if function == "open" and not arguments[1] & os.O_CREAT:
            return real(*arguments, **options)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, function, broken)
    store._room = -1  # as in a new run
    key = "other" if function == "listdir" else "key"
    assert store.update(key, bump) == (1 if key == "other" else 42)
    monkeypatch.undo()
    assert store.trouble == f"{store.folder}: cannot be written to: {os.strerror(code)}"
    assert everything(store.folder) == ["key.json"]
    assert store.update("key", lambda kept: kept) == 41


def test_a_write_that_took_less_than_all_never_becomes_the_file(store, monkeypatch):
    store.update("key", lambda kept: 41)
    really = os.write

    def nearly_full(descriptor, data):
        # A disk with room for all but the last byte (write(2)).
        if len(data) > 1:
            return really(descriptor, data[:-1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", nearly_full)
    assert store.update("key", bump) == 42
    monkeypatch.undo()
    assert "No space left" in store.trouble
    assert store.update("key", lambda kept: kept) == 41


def test_being_stopped_while_writing_leaves_no_temporary_file(store, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        store.update("key", bump)
    monkeypatch.undo()
    assert everything(store.folder) == []
    # And the lock is free again.
    assert store.update("key", bump) == 1


class Hurried:
    """Time that passes only when somebody waits."""

    def __init__(self):
        self.now = 0.0
        self.time = time.time

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_a_folder_that_stays_locked_is_read_and_not_written_and_waited_for_once(store, monkeypatch):
    store.update("key", bump)
    holder = os.open(store.folder, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    clock = Hurried()
    monkeypatch.setattr(state_store, "time", clock)
    assert [store.update("key", bump) for _ in range(11)] == [2] * 11
    assert clock.now < 2 * state_store.LOCK_WAIT
    assert store.notes == [f"{store.folder}: locked by another run, this run is not kept"]
    assert store.trouble == ""
    os.close(holder)
    assert store.update("key", bump) == 2


def test_a_file_system_without_locks_is_trouble(store, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(state_store, "flock", no_locks)
    assert store.update("key", bump) == 1
    assert "cannot be locked: No locks available" in store.trouble


def age(store, key, seconds):
    """Let what is kept under a key be so old."""
    when = time.time() - seconds
    os.utime(os.path.join(store.folder, key + ".json"), (when, when))


def test_the_number_of_files_is_bounded_and_the_oldest_unused_go(tmp_path, monkeypatch):
    monkeypatch.setattr(state_store, "MOST_FILES", 5)
    for number in range(8):
        store = Store.open(str(tmp_path / "state"), {}, None)
        store.update(f"key{number}", bump)
        age(store, f"key{number}", 2 * 86400 - number)
        store.close()
    assert everything(store.folder) == [f"key{number}.json" for number in range(3, 8)]
    assert store.trouble == ""


def test_what_ran_within_a_day_is_not_pushed_out_by_what_is_new(tmp_path, monkeypatch):
    monkeypatch.setattr(state_store, "MOST_FILES", 5)
    for turn in range(1, 4):
        for number in range(6):
            store = Store.open(str(tmp_path / "state"), {}, None)
            kept = store.update(f"key{number}", bump)
            assert kept == (turn if number < 5 else 1)
            assert store.trouble == (
                "" if number < 5 else f"{store.folder}: no room, 5 files are in use"
            )
            store.close()


def test_a_full_folder_is_looked_through_once_a_run(store, monkeypatch):
    monkeypatch.setattr(state_store, "MOST_FILES", 5)
    looked = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: looked.append(folder) or real(folder))
    for number in range(9):
        store.update(f"key{number}", bump)
    assert len(looked) == 1
    assert len(real(store.folder)) == 5


def test_what_does_not_change_is_in_use_all_the_same(store):
    store.update("key", lambda _: "same")
    age(store, "key", 40 * 86400)
    store.update("key", lambda _: "same")
    store._room = -1  # as in a new run
    store.update("new", bump)
    assert everything(store.folder) == ["key.json", "new.json"]


def test_series_that_share_a_file_are_bounded_and_the_longest_unchanged_go(store, monkeypatch):
    monkeypatch.setattr(state_store, "MOST_SERIES", 3)
    for name in "abcad":
        store.update_each("key", {name: bump})
    assert store.read("key") == {"c": 1, "a": 2, "d": 1}
    # All of one run stay.
    assert store.update_each("key", dict.fromkeys("abde", bump)) == {"a": 3, "b": 1, "d": 2, "e": 1}
    assert list(store.read("key")) == list("abde")


def test_as_many_series_as_are_kept_fit_into_a_file(store):
    samples = tuple(Sample(99_999_999.0 + at / 10, 2**32 - 1) for at in range(32))
    peaks = tuple(Peak(20_000 + day, 2**32 - 1) for day in range(30))
    moment = Moment(99_999_999.9, 9_999_999_999.9)
    change = Change("buckets", 2**32 - 1, 2**32 - 1, moment, moment)
    series = encode(
        Series(
            "b" * 36, "4026532177@1800000000.123", samples, peaks, 2**32 - 1, 2**32 - 1, moment
        )._replace(changes=(change,) * trend.MOST_CHANGES)
    )
    names = [f"{at:0>255}" for at in range(state_store.MOST_SERIES)]
    store.update_each("key", dict.fromkeys(names, lambda _: series))
    assert store.trouble == ""
    assert list(store.read("key")) == names


@pytest.mark.parametrize("content", ["[1]", '"x"', "7", '{"a": "x"}'])
def test_series_go_on_from_whatever_stands_in_their_file(store, content):
    with open(os.path.join(store.folder, "key.json"), "w") as file:
        file.write(content)
    assert store.update_each("key", {"b": bump}) == {"b": 1}
    assert store.read("key")["b"] == 1


def test_files_of_services_that_are_gone_for_a_month_go(store):
    for key, seconds in (("old", 31 * 86400 + 60), ("young", 31 * 86400 - 60)):
        store.update(key, bump)
        age(store, key, seconds)
    store._room = -1  # as in a new run
    store.update("new", bump)
    assert everything(store.folder) == ["new.json", "young.json"]


# --- many writers, and killed ones

WRITERS = """
import os, sys
sys.path.insert(0, sys.argv[1])
from check_conntrack.state import state_store
state_store.LOCK_WAIT = 30
begin, go = os.pipe()
pids = []
for number in range(100):
    pid = os.fork()
    if not pid:
        os.close(go)
        os.read(begin, 1)
        store = state_store.Store.open(sys.argv[2], {}, None)
        store.update("key", lambda kept: [*(kept or []), number])
        os._exit(bool(store.trouble or store.notes))
    pids.append(pid)
os.close(go)
sys.exit(sum(os.waitpid(pid, 0)[1] != 0 for pid in pids))
"""


def test_a_hundred_writers_at_once_lose_nothing_and_leave_no_temporary_file(tmp_path):
    folder = tmp_path / "state"
    command = [sys.executable, "-I", "-S", "-c", WRITERS, PLUGINS, str(folder)]
    assert subprocess.run(command, check=False).returncode == 0
    own = folder / str(os.geteuid())
    assert everything(own) == ["key.json"]
    assert sorted(json.loads((own / "key.json").read_text())) == list(range(100))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("function", ["open", "write", "close", "rename", "flock"])
def test_a_writer_killed_at_any_step_leaves_the_old_or_the_new(store, tmp_path, function, when):
    store.update("key", lambda kept: "old")
    pid = os.fork()
    if not pid:
        module = state_store if function == "flock" else os
        real = getattr(module, function)

        def fatal(*arguments, **options):
            if when == "after":
                real(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        victim = Store.open(str(tmp_path / "state"), {}, None)

        def change(kept):
            if function != "flock":
                setattr(module, function, fatal)
            return "new"

        if function == "flock":
            state_store.flock = fatal
        victim.update("key", change)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    found = store.update("key", lambda kept: kept)
    assert found == ("new" if (function, when) == ("rename", "after") else "old")
    assert store.update("key", lambda kept: "newer") == "newer"
    assert everything(store.folder) == ["key.json"]
    assert not store.notes


def test_the_boot_id_is_that_of_the_kernel():
    with open("/proc/sys/kernel/random/boot_id") as file:
        assert state_store.boot_id() == file.read().strip()
