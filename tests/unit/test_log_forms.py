"""Published forms of logs, through the front door: what is counted, and what is not."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from support.door import Door

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
MESSAGE = re.compile(
    rb"(?:(?:VE|CT|VPS):? ?[\w-]+: )?(?:[nN][fF]_|ip_)conntrack: ?(?:[nN]f_conntrack: )?"
    rb"(?:[nN][fF]_conntrack: |VE 101: |VPS 101 |VE101: )?"
    rb"(?:[tT]able full|TABLE FULL|expectation table full)(?: in netns \d+)?"
    rb"(?:, (?:DROPPING PACKET|dropping packet|droppin|dropping)\.?)?"
    rb"|openvswitch: zone: 7 exceeds conntrack limit"
    rb"|(?:net_ratelimit|__ratelimit|printk): \d+ (?:callbacks|messages) suppresse?d?\.?"
)
# Several messages in one line; a log that shows nothing of the kernel's.
PENDING = {"no-newline.txt", "others-words.txt"}


@pytest.fixture
def door(tmp_path, monkeypatch):
    return Door(tmp_path, monkeypatch)


def names(rows):
    return [row["file"].removesuffix(".txt") for row in rows]


@pytest.mark.parametrize("form", FORMS, ids=names(FORMS))
def test_form_of_a_log_is_counted_in_full(door, form, request):
    if form["file"] in PENDING:
        request.applymarker(pytest.mark.xfail(reason="pending"))
    answered = door.run("full", "--log", str(DATA / form["file"]), "--since", "all")
    low, _, high = form["table_full"].partition("-")
    assert int(low) <= answered.data["table_full"].value <= int(high or low), answered.out
    assert answered.data["suppressed"].value == int(form["suppressed"])
    assert answered.data["other_loss"].value == int(form["other_loss"])
    assert answered.code == int(form["state"]), answered.out
