"""Published forms of logs, through the front door: what is counted, and what is not."""

from __future__ import annotations

import csv
import re
import time
from pathlib import Path

import pytest

from check_conntrack.kernel.log import files
from check_conntrack.kernel.log.events import count_messages
from support.door import Door
from support.logs import never

DATA = Path(__file__).parent.parent / "data" / "log"
with (DATA / "expected.tsv").open(encoding="utf-8") as table:
    FORMS = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))
# Without a stamp or a tag nothing but its messages shows that a log is the kernel's.
UNMARKED = {
    "bare-dmesg.txt",
    "journal-cat.txt",
    "no-tag.txt",
    "json-cut.txt",
    "docker-json.txt",
    "others-words.txt",
}
QUIET = [form for form in FORMS if form["file"] not in UNMARKED]


@pytest.fixture
def door(tmp_path, monkeypatch):
    return Door(tmp_path, monkeypatch)


def names(rows):
    return [row["file"].removesuffix(".txt") for row in rows]


@pytest.mark.parametrize("form", FORMS, ids=names(FORMS))
def test_form_of_a_log_is_counted_in_full(door, form):
    answered = door.run("full", "--log", str(DATA / form["file"]), "--since", "all")
    assert answered.code == int(form["state"]), answered.out
    if answered.state == "UNKNOWN":
        return
    low, _, high = form["table_full"].partition("-")
    assert int(low) <= answered.data["table_full"].value <= int(high or low), answered.out
    assert answered.data["suppressed"].value == int(form["suppressed"])
    assert answered.data["other_loss"].value == int(form["other_loss"])


@pytest.mark.parametrize("form", FORMS, ids=names(FORMS))
def test_form_of_a_log_is_dated(form, utc):
    reading = files.read_log(str(DATA / form["file"]), time.time(), never, start=0.0)
    found = [*reading.events, *reading.pending]
    undated = count_messages(event for event in found if event.time is None)
    assert undated == int(form["undated"])


@pytest.mark.parametrize("form", QUIET, ids=names(QUIET))
def test_quiet_log_of_every_form_is_ok(door, form, tmp_path):
    data = (DATA / form["file"]).read_bytes()
    if data.startswith(b"\xff\xfe"):
        data = data.decode("utf-16").encode()
    log = tmp_path / "quiet.log"
    log.write_bytes(re.sub(rb"(?i)conntrack|suppress", b"cfg80211", data))
    answered = door.run("full", "--log", str(log), "--since", "all")
    assert (answered.code, answered.data["table_full"].value) == (0, 0), answered.out
