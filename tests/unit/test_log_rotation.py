"""The rotated parts of a log by their names, and which of them follow each other."""

from __future__ import annotations

import pytest

from check_conntrack.kernel.log import rotation
from check_conntrack.kernel.log.rotation import follows, rotated_parts
from support.logs import NOW, full

DAY = 86400.0


def names(log, *listing):
    """Return the names that belong to a log; the first of `listing` was changed last."""
    parts = rotated_parts(log, [(name, NOW - at) for at, name in enumerate(listing)])
    return [part.path.rpartition("/")[2] for part in parts]


@pytest.mark.parametrize(
    "name",
    [
        "kern.log.1",
        "kern.log.0",
        "kern.log.2.gz",
        "kern.log.3.zst",
        "kern.log.4.lz4",
        "kern.log.5.Z",
        "kern.log.6.bz2",
        "kern.log.7.lzma",
        "kern.log_1",
        "kern.log-20261121",
        "kern.log.20261121",
        "kern.log-20261120.xz",
        "kern.log-2026-11-19",
        "kern.log-20261118-1795298400.gz",
        "kern.log-20261129.gz",
        "kern.log.old",
        "kern.log.bak",
        "kern.log.bak.gz",
        "kern.log.save",
        "kern.log~",
        "kern.1.log",
        "kern_1.log",
        "kern-20261129.log",
        "kern-20261129.log.gz",
        "kern.old.log",
    ],
)
def test_rotated_part_is_recognised(name):
    assert names("/var/log/kern.log", name) == [name]


@pytest.mark.parametrize(
    "name",
    [
        "kern.log",
        "kern.log.1.swp",
        "kern.logs",
        "xkern.log.1",
        "kern.log.gz",
        "kern.logger.1",
        "kern.1.txt",
        "kernel.1.log",
        "kern-proxy.log",
    ],
)
def test_other_file_is_no_rotated_part(name):
    assert names("/var/log/kern.log", name) == []


def test_log_without_extension_has_rotated_parts():
    assert names("messages", "messages.1", "messages-20261121", "messages") == [
        "messages-20261121",
        "messages.1",
    ]


def test_numbered_parts_are_ordered_by_number_whatever_their_times():
    assert names("kern.log", "kern.log.10.gz", "kern.log.2.gz", "kern.log.1") == [
        "kern.log.10.gz",
        "kern.log.2.gz",
        "kern.log.1",
    ]


def test_dated_parts_are_ordered_by_date_whatever_their_times():
    dates = ["kern.log-20261101", "kern.log-20261115.gz", "kern.log-2026-11-08"]
    assert names("kern.log", *dates) == [dates[0], dates[2], dates[1]]


def test_parts_of_several_schemes_are_ordered_by_time():
    assert names("kern.log", "kern.log.1", "kern.log.bak", "kern.log-20261101") == [
        "kern.log-20261101",
        "kern.log.bak",
        "kern.log.1",
    ]


def pair(older, newer=None):
    """Return two parts, or the newest one and None for the log itself."""
    listing = [(name, NOW) for name in (older, newer) if name]
    parts = rotated_parts("kern.log", listing)
    return parts[0], parts[1] if newer else None


@pytest.mark.parametrize(
    ("older", "newer", "silence", "expected"),
    [
        ("kern.log.1", None, 9 * DAY, True),
        ("kern.log.0", None, 9 * DAY, True),
        ("kern.log.old", None, 9 * DAY, True),
        ("kern.log.2.gz", "kern.log.1", 9 * DAY, True),
        ("kern.log.2.gz", None, 1.0, False),
        ("kern.log.3.gz", "kern.log.1", 1.0, False),
        ("kern.log-20261120", "kern.log-20261121", DAY / 2, True),
        ("kern.log-20261119", "kern.log-20261121", 1.1 * DAY, False),
        ("kern.log-20261121", None, DAY / 2, True),
        ("kern.log-2026112120", None, 600.0, True),
        ("kern.log-2026112119", None, 4000.0, False),
        ("kern.log.bak", None, 1.0, False),
    ],
)
def test_parts_follow_each_other_unless_one_may_be_missing(older, newer, silence, expected):
    assert follows(*pair(older, newer), silence) is expected


def test_cursor_of_a_closed_file_is_none():
    assert rotation.make_cursor(-1, 0) is None


def test_cursor_is_not_held_by_what_cannot_be_read():
    cursor = rotation.LogCursor(3, 4, 5)
    assert not rotation.holds(-1, cursor)
    assert not rotation.unpacks_to(-1, "x", cursor, lambda: False)


def test_folder_lists_names_with_their_times(tmp_path):
    tmp_path.joinpath("kern.log").write_bytes(full())
    [(name, written)] = rotation.list_folder(str(tmp_path / "kern.log"))
    assert name == "kern.log"
    assert written == tmp_path.joinpath("kern.log").stat().st_mtime
