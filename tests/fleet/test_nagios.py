"""Nagios takes our objects as they are, and runs them over NRPE to a hard CRITICAL and back."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from support.machine import limit_lock
from support.netns import Namespace
from support.nrpe_agent import CHECK_NRPE, PLUGIN_FOLDER, SHIPPED, as_nagios, run_text

NAGIOS = "/usr/sbin/nagios4"
DEBIAN = Path("/etc/nagios4/objects")
OK, WARNING, CRITICAL = range(3)
SOFT, HARD = range(2)
SERVICES = ("conntrack-usage", "conntrack-full", "conntrack-table")
RUNBOOK = "https://wiki.example.org/conntrack/runbook"
# A minute of the definitions is a second here.
MAIN = """
log_file={top}/nagios.log
cfg_file={objects}/templates.cfg
cfg_file={objects}/timeperiods.cfg
cfg_file={shipped}
cfg_file={top}/host.cfg
object_cache_file={top}/objects.cache
precached_object_file={top}/objects.precache
resource_file={top}/resource.cfg
status_file={top}/status.dat
status_update_interval=1
nagios_user=nagios
nagios_group=nagios
check_external_commands=1
command_file={top}/nagios.cmd
query_socket={top}/nagios.qh
lock_file={top}/nagios.pid
temp_file={top}/nagios.tmp
temp_path={top}
check_result_path={top}/results
check_result_reaper_frequency=1
retain_state_information=0
interval_length=1
enable_notifications=1
enable_flap_detection=1
execute_service_checks=1
check_for_updates=0
use_syslog=0
illegal_macro_output_chars=`~$&|'"<>
"""
HOST = """
define command {{
    command_name  note
    command_line  echo '$NOTIFICATIONTYPE$ $SERVICEDESC$ $SERVICESTATE$ $SERVICENOTESURL$' >> {to}
}}
define contact {{
    contact_name                   operator
    host_notification_period       24x7
    service_notification_period    24x7
    host_notification_options      d,r
    service_notification_options   w,u,c,r
    host_notification_commands     note
    service_notification_commands  note
}}
define contactgroup {{
    contactgroup_name  admins
    alias              operators
    members            operator
}}
define host {{
    host_name           router
    alias               router
    address             127.0.0.1
    hostgroups          +conntrack
    max_check_attempts  1
    check_period        24x7
    contact_groups      admins
}}
define host {{
    host_name           other
    alias               other
    address             127.0.0.1
    max_check_attempts  1
    check_period        24x7
    contact_groups      admins
}}
"""


@pytest.fixture
def folder(need):
    """A folder for Nagios with its settings in it; ours are named where they are shipped."""
    need(NAGIOS, str(CHECK_NRPE), "ip", "nft")
    top = Path(tempfile.mkdtemp(prefix="check-conntrack-nagios-"))
    try:
        shipped = (SHIPPED / "nagios.cfg").read_text()
        # As an administrator sets the address of the runbook: by taking the # away.
        assert shipped.count(f"# notes_url  {RUNBOOK}\n") == 1
        objects = shipped.replace("# notes_url ", "notes_url ")
        (top / "conntrack.cfg").write_text(objects)
        names = {
            "top": top,
            "to": top / "notified",
            "objects": DEBIAN,
            "shipped": top / "conntrack.cfg",
        }
        (top / "nagios.cfg").write_text(MAIN.format(**names))
        (top / "host.cfg").write_text(HOST.format(**names))
        (top / "resource.cfg").write_text("$USER1$=/usr/lib/nagios/plugins\n")
        (top / "results").mkdir()
        for path in (top, *top.iterdir()):
            shutil.chown(path, "nagios", "nagios")
        yield top
    finally:
        shutil.rmtree(top)


def verified(folder):
    """Return what nagios says of the objects."""
    return run_text(*as_nagios(capabilities=False), NAGIOS, "-v", folder / "nagios.cfg")


def blocks(file, kind):
    """The blocks of a kind in a file of Nagios's: name → value each."""
    text = file.read_text(errors="replace")
    found = re.findall(rf"^(?:define )?{kind} \{{\n(.*?)^\s*\}}", text, re.MULTILINE | re.DOTALL)
    return [
        dict(re.split(r"[=\t ]", line.strip(), maxsplit=1) for line in block.splitlines())
        for block in found
    ]


def test_nagios_accepts_the_objects(folder):
    done = verified(folder)
    assert done.code == 0, done.out
    assert "Total Warnings: 0" in done.out
    assert "Total Errors:   0" in done.out
    assert "Checked 3 services" in done.out
    assert "Checked 1 host groups" in done.out


def test_nagios_would_not_accept_anything(folder):
    file = folder / "conntrack.cfg"
    file.write_text(file.read_text().replace("command_name  check_conntrack", "command_name  x"))
    done = verified(folder)
    assert done.code == 1
    assert "Total Errors:   3" in done.out


def test_an_agent_that_does_not_answer_is_unknown_and_not_critical(folder):
    (line,) = re.findall(r"command_line +(.+check_nrpe.+)", (folder / "conntrack.cfg").read_text())
    macros = {
        "$USER1$": str(PLUGIN_FOLDER),
        "$HOSTADDRESS$": "127.0.0.1",
        "$ARG1$": "check_conntrack_usage",
    }
    for macro, value in macros.items():
        line = line.replace(macro, value)
    assert "$" not in line
    with Namespace() as nobody_listens:
        done = run_text(*nobody_listens.command("sh", "-c", line))
    assert done.code == 3
    assert "refused" in done.out + done.err


class Nagios:
    """The daemon, on the host of an agent."""

    def __init__(self, agent, folder):
        self.folder = folder
        command = agent.inside(*as_nagios(capabilities=False), NAGIOS, folder / "nagios.cfg")
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def stop(self):
        """End it, its workers too."""
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()

    def status(self):
        """Return what the status file says of each service."""
        file = self.folder / "status.dat"
        if not file.exists():
            return {}
        return {each["service_description"]: each for each in blocks(file, "servicestatus")}

    def states(self):
        """The state and the kind of state of each service."""
        return {
            name: (int(each["current_state"]), int(each["state_type"]))
            for name, each in self.status().items()
            if each["has_been_checked"] == "1"
        }

    def until(self, **wanted):
        """Wait until the services are in these hard states."""
        names = {f"conntrack-{name}": (state, HARD) for name, state in wanted.items()}
        give_up = time.monotonic() + 90
        while not names.items() <= self.states().items():
            assert self.process.poll() is None
            assert time.monotonic() < give_up, f"{self.states()}\n{self.log()}"
            time.sleep(0.2)

    def order(self, command):
        """Give it an external command."""
        with open(self.folder / "nagios.cmd", "w") as file:
            file.write(f"[{int(time.time())}] {command}\n")

    def log(self):
        """Return what it has logged."""
        return (self.folder / "nagios.log").read_text()

    def notified(self):
        """The notifications: type, service, state, URL."""
        file = self.folder / "notified"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.timeout(600)
def test_the_daemon_runs_them_to_a_hard_critical_and_back(agents, folder):
    # Where somebody lowered the machine's own limit meanwhile, packets would be dropped here.
    with limit_lock(), agents("sudo") as agent:
        run_through_all_states(agent, folder)


def run_through_all_states(agent, folder):
    agent.limit(1000)
    agent.fill(100)
    nagios = Nagios(agent, folder)
    try:
        nagios.until(usage=OK, full=OK, table=OK)
        agent.fill(850)
        nagios.until(usage=OK, full=OK, table=WARNING)
        # Usage first, so that there is something to depend on.
        nagios.order("DISABLE_SVC_CHECK;router;conntrack-table")
        agent.fill(970)
        nagios.until(usage=WARNING, full=OK)
        status = nagios.status()["conntrack-usage"]
        assert status["plugin_output"].startswith(
            "CONNTRACK_USAGE WARNING - 970 of 1000 entries in use (97.0%)"
        )
        assert status["performance_data"].startswith("usage=97.0%;95;98;0;100 entries=970;;;0;1000")
        # The table check has found its cause, which a larger limit would not help.
        assert "check_conntrack_table -v" in status["long_plugin_output"]
        agent.fill(1000)
        nagios.until(usage=CRITICAL, full=CRITICAL)
        nagios.order("ENABLE_SVC_CHECK;router;conntrack-table")
        nagios.order(f"SCHEDULE_FORCED_SVC_CHECK;router;conntrack-table;{int(time.time())}")
        nagios.until(usage=CRITICAL, full=CRITICAL, table=CRITICAL)
        # It goes on running.
        before = int(nagios.status()["conntrack-table"]["last_check"])
        give_up = time.monotonic() + 60
        while int(nagios.status()["conntrack-table"]["last_check"]) < before + 5:
            assert time.monotonic() < give_up
            time.sleep(0.2)
        assert nagios.states()["conntrack-table"] == (CRITICAL, HARD)
        agent.fill(100)
        nagios.until(usage=OK, full=OK, table=OK)
    finally:
        nagios.stop()
    notified = nagios.notified()
    problems = {(name, state) for kind, name, state, _ in notified if kind == "PROBLEM"}
    # A machine with too much to do may have let one run out of time.
    assert {problem for problem in problems if problem[1] != "UNKNOWN"} == {
        ("conntrack-usage", "WARNING"),
        ("conntrack-usage", "CRITICAL"),
        ("conntrack-table", "WARNING"),
        ("conntrack-full", "CRITICAL"),
    }
    assert ("RECOVERY", "conntrack-usage", "OK") in [tuple(words[:3]) for words in notified]
    assert {words[3] for words in notified} == {RUNBOOK}
    # A drop is a hard state at the first look, the others take three.
    log = nagios.log()
    assert "SERVICE ALERT: router;conntrack-full;CRITICAL;HARD;1;" in log
    assert "SERVICE ALERT: router;conntrack-usage;WARNING;HARD;3;" in log
    assert ";conntrack-full;CRITICAL;SOFT;" not in log
    assert "FLAPPING" not in log or ";UNKNOWN;" in log
    agent.wait_for_the_last()


def test_the_dependency_is_within_each_host(folder):
    host = folder / "host.cfg"
    second = "host_name  second\n    hostgroups  conntrack"
    host.write_text(host.read_text().replace("host_name           other", second))
    # -p writes what the objects come to.
    command = [*as_nagios(capabilities=False), NAGIOS, "-pv", folder / "nagios.cfg"]
    assert run_text(*command).code == 0
    found = blocks(folder / "objects.precache", "servicedependency")
    assert sorted((each["host_name"], each["dependent_host_name"]) for each in found) == [
        ("router", "router"),
        ("second", "second"),
    ]
    for each in found:
        assert each["service_description"] == "conntrack-usage"
        assert each["dependent_service_description"] == "conntrack-table"
        assert each["notification_failure_options"] == "c"
        assert each.get("execution_failure_options", "n") == "n"
