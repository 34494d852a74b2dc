"""Many requests at once on one host: every answer right, and nothing damaged or left behind.

CHECK_CONNTRACK_REQUESTS says how many; few by default, for the sake of time.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.machine import limit_lock
from support.nrpe_agent import commands

REQUESTS = int(os.environ.get("CHECK_CONNTRACK_REQUESTS", "150"))
AT_ONCE = 50
PATIENCE = 300  # seconds: fifty at once share what processors there are
COMMANDS = ("check_conntrack_usage", "check_conntrack_full", "check_conntrack_table")
ENTRIES = 300
# Growth is known after five minutes; it comes last. The buckets are the machine's. The first run
# has a note.
ANSWERS = {
    "check_conntrack_usage": (
        r"CONNTRACK_USAGE OK - 300 of 10000 entries in use \(3\.0%\)"
        r"(, [0-9.]+ new/s(, settles at about [0-9.]+%)?)? \| usage=3\.0%;95;98;0;100 "
        r"entries=300;;;0;10000 limit=10000;;;0 load_factor=[0-9.]+;;;0( growth=-?0\.00)?(;;;)?"
        r"( (new_rate|end_rate|lifetime|settles_at)=[0-9.]+[%s]?[0-9;:]*)*"
    ),
    "check_conntrack_full": (
        r"CONNTRACK_FULL OK - not full in the last [0-9]+m( [0-9]+s)? "
        r"\(/var/log/kern\.log, counters\) \| table_full=0;;0;0 suppressed=0;;;0 "
        r"other_loss=0;0;;0 (full_drops=0;0;;0 early_drops=0;0;;0 insert_failures=0;10;;0 "
        r"chain_overflows=0;0;;0 invalid_packets=0;;;0 )?drop_total=0c;;;0 early_drop_total=0c;;;0 "
        r"insert_failed_total=0c;;;0 chaintoolong_total=0c;;;0 clash_resolve_total=0c;;;0 "
        r"invalid_total=0c;;;0 search_restart_total=0c;;;0"
    ),
    "check_conntrack_table": (
        r"CONNTRACK_TABLE OK - 300 of 10000 entries in use \(3\.0%\) \| usage=3\.0%;80;98;0;100 "
        r"[a-z_=0-9.%; ]* entries=300;;;0;10000 [a-z_=0-9.%; ]* unreplied=300;;;0 "
        r"[a-z_=0-9.%; ]*top_service_share=0\.3%;;;0;100 top_zone_share=0\.0%;;;0;100 "
        r"top_source_entries=[0-9]+;;;0 top_destination_entries=[0-9]+;;;0 stale=0;10;;0"
    ),
}


def temporary_files():
    """Return what the agent's user has in the folder for temporary files."""
    user = pwd.getpwnam("nagios").pw_uid
    found = set()
    for path in Path("/tmp").iterdir():
        try:
            if path.lstat().st_uid == user:
                found.add(path)
        except FileNotFoundError:
            pass
    return found


@pytest.fixture(scope="module")
def patient_agent(agents):
    """An agent whose commands are as shipped, but for the time they may take."""
    settings = f"command_timeout={PATIENCE}\n"
    lines = commands("conntrack.cfg")
    for name in COMMANDS:
        settings += f"command[patient_{name}]={lines[name]} --timeout {PATIENCE}\n"
    with agents("sudo", settings=settings) as agent:
        agent.limit(10000)
        agent.fill(ENTRIES)
        yield agent


@pytest.mark.timeout(3600)
def test_every_answer_is_right_and_nothing_is_left(patient_agent):
    agent = patient_agent
    before = temporary_files()

    def ask(number):
        name = COMMANDS[number % len(COMMANDS)]
        begun = time.monotonic()
        done = agent.ask(f"patient_{name}", options=["-t", str(PATIENCE)])
        return name, done.returncode, done.stdout.decode("ascii"), time.monotonic() - begun

    begun = time.monotonic()
    # A dump counts entries twice while somebody changes the number of buckets, and says so.
    with limit_lock(), ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(ask, range(REQUESTS)))
    seconds = time.monotonic() - begun
    wrong = [
        answer[:3]
        for answer in answers
        if answer[1] != 0
        or not re.fullmatch(ANSWERS[answer[0]] + r"\n(Not known yet: .*\n)?", answer[2])
    ]
    slowest = max(answer[3] for answer in answers)
    print(f"{REQUESTS} requests, {AT_ONCE} at once, in {seconds:.0f} s, slowest {slowest:.1f} s")
    files = agent.state_files()
    assert len(files) >= len(COMMANDS)
    for file in files:
        assert file.suffix == ".json"
        assert json.loads(file.read_text())
    agent.wait_for_the_last()
    assert temporary_files() == before
    # Those that are remembered are of this load.
    usage = [file for file in files if file.name.startswith("usage")]
    assert f"{ENTRIES}" in usage[0].read_text()
    assert wrong == [], f"{len(wrong)} of {REQUESTS}: {Counter(wrong).most_common(5)}"
