"""Icinga 2 runs the suite as it is shipped: a master and an agent, TLS between them."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import types
from pathlib import Path

import pytest

from check_conntrack.full import full_check
from check_conntrack.full import labels as full_labels
from check_conntrack.state import codec, trend
from check_conntrack.table import table_check
from check_conntrack.usage import labels as usage_labels
from check_conntrack.usage import usage_check
from support import icinga_nodes as rig
from support import perfdata
from support.entries import mixed_entries
from support.machine import limit_lock, machine_limit

LIMIT = 1000
CHECKS = {"usage": usage_check, "full": full_check, "table": table_check}
# What needs more than two runs, or a table that grows.
WHEN_KNOWN = {"growth", "time_to_full", "end_rate", "lifetime", "settles_at"}
ON_EC2 = {*usage_labels.INSTANCE_LABELS, *full_labels.INSTANCE_LABELS}
OK, WARNING, CRITICAL, UNKNOWN = range(4)
WIKI = "https://wiki.example.com/conntrack"


@pytest.fixture(scope="module")
def cluster(need, installed):
    """Two daemons that are connected, and two further namespaces that the master sees."""
    need(*rig.PROGRAMS)
    tree, _ = installed
    top = Path(tempfile.mkdtemp(prefix="check-conntrack-icinga-"))
    try:
        top.chmod(0o755)
        with rig.namespaces(4) as (there, here, blue, red):
            rig.join(here, there)
            constant = f'const ConntrackRunbook = "{WIKI}"\n'
            master = rig.Node("master", top / "master", constant + rig.CLUSTER + rig.MASTER, here)
            agent = rig.Node("agent", top / "agent", rig.CLUSTER, there)
            for node in (master, agent):
                node.install(tree)
            rig.certify(master, agent)
            with agent.running([]), master.running([blue.name, red.name]):
                known = 'get_object(CheckCommand, "conntrack_table") != null'
                rig.wait_until(lambda: agent.tries(known), agent.console)
                joined = 'get_object(Endpoint, "agent").connected'
                rig.wait_until(lambda: master.evaluate(joined), master.console)
                yield types.SimpleNamespace(
                    master=master, agent=agent, blue=blue, red=red, canary=top / "canary"
                )
    finally:
        shutil.rmtree(top)


@pytest.fixture
def log(cluster):
    """A file of the kernel's messages for check_conntrack_full: the machine's own has others'."""
    file = cluster.master.top / "kern.log"
    line = "Nov 21 10:00:00 host kernel: [  100.000000] nf_conntrack: table full, dropping packet\n"
    file.write_text(line * 3)
    return {"conntrack_full_log": str(file), "conntrack_full_since": "all"}


def fill(namespace, entries, seed=3):
    with limit_lock():
        namespace.insert(mixed_entries(entries, 50, seed))
    assert namespace.count() == entries


def plain(bound):
    """A threshold as Icinga reads it: a number, or nothing where it is a range."""
    try:
        return float(bound)
    except ValueError:
        return None


# --- configuration


def test_the_daemon_takes_the_shipped_files_beside_its_library(cluster):
    code, said = cluster.master.validate("""
        object Host "agent" { check_command = "dummy"; zone = "master"; vars.conntrack = true }
        object Host "gateway" {
            check_command = "dummy"
            zone = "master"
            vars.conntrack = "agent"
            vars.agent_endpoint = "agent"
            vars.conntrack_netns = [ "blue", "red", "all" ]
        }
        object Host "old" { check_command = "dummy"; vars.conntrack = "nrpe" }
        object Host "master" {
            check_command = "dummy"
            vars.conntrack = "local"
            vars.conntrack_usage = false
            vars.conntrack_netns = { blue = { conntrack_usage_warning = "60" } }
        }
        object Host "other" { check_command = "dummy" }
    """)
    assert code == 0, said
    # 3, 3 + 3, 3, and 2 + 1 services; one table has no usage beside it.
    assert "Instantiated 15 Services" in said
    assert "Instantiated 3 Dependencies" in said
    assert "error" not in said.lower()
    assert [
        line for line in said.splitlines() if "warning/" in line and "on-call" not in line
    ] == []


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ("vars.conntrack = true", "no endpoint has its name"),
        ('vars.conntrack = "nrep"', "vars.conntrack must be"),
        ('vars.conntrack = "nrpe"; vars.conntrack_netns = [ "a" ]', "not supported over NRPE"),
    ],
)
def test_a_host_that_nobody_could_check_is_refused_with_its_name(cluster, variables, why):
    host = f'\nobject Host "lost" {{ check_command = "dummy"; {variables} }}\n'
    code, said = cluster.master.validate(host)
    assert code == 1
    assert "Host 'lost': " in said
    assert why in said


@pytest.mark.parametrize(
    ("service", "check", "retry", "attempts", "low", "high"),
    [
        ("usage", 60, 30, 3, 15, 30),
        ("full", 300, 60, 1, 25, 50),
        ("table", 300, 60, 3, 20, 40),
    ],
)
def test_services_have_their_schedule_and_lead_to_the_runbook(
    cluster, service, check, retry, attempts, low, high
):
    with cluster.master.host("scheduled", conntrack="local") as host:
        has = cluster.master.service(host, f"conntrack-{service}")
        (group,) = cluster.master.get(f"/v1/objects/hosts/{host}?attrs=groups")
    assert (has["check_interval"], has["retry_interval"]) == (check, retry)
    assert has["max_check_attempts"] == attempts
    assert has["enable_flapping"] is True
    assert (has["flapping_threshold_low"], has["flapping_threshold_high"]) == (low, high)
    assert has["notes_url"] == f"{WIKI}#conntrack-{service}"
    assert has["notes"]
    assert has["groups"] == ["conntrack"]
    assert group["attrs"]["groups"] == ["conntrack"]


def test_hosts_over_nrpe_get_its_command_under_our_name(cluster):
    more = {
        "conntrack_usage_nrpe_command": "check_conntrack_usage_args",
        "conntrack_usage_nrpe_arguments": ["--warning=70", "--netns=a b;$$(id)"],
        "nrpe_address": "127.0.0.1",
    }
    with cluster.master.host("far", conntrack="nrpe", **more) as host:
        has = {name: cluster.master.service(host, f"conntrack-{name}") for name in CHECKS}
        assert {each["check_command"] for each in has.values()} == {"nrpe"}
        for name in ("full", "table"):
            assert has[name]["vars"]["check_command"] == f"conntrack_{name}"
            assert has[name]["vars"]["nrpe_command"] == f"check_conntrack_{name}"
        assert {each["command_endpoint"] for each in has.values()} == {""}
        done = cluster.master.check(host, "conntrack-usage")
    assert done.command[done.command.index("-c") + 1] == "check_conntrack_usage_args"
    assert done.command[-3:] == ["-a", "--warning=70", "--netns=a b;$(id)"]
    # Nobody listens there.
    assert done.state == UNKNOWN, done.output


# --- execution


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_runs_and_every_label_is_understood(cluster, log, name):
    module = CHECKS[name]
    master = cluster.master
    fill(cluster.blue, 120)
    try:
        more = {f"conntrack_{name}_netns": [cluster.blue.name]}
        with master.host("plain", conntrack="local", **more, **log) as host:
            master.check(host, f"conntrack-{name}")
            # What rises is known from the second run on.
            done = master.check(host, f"conntrack-{name}")
    finally:
        cluster.blue.run("conntrack", "-F")
    state = CRITICAL if name == "full" else OK
    assert done.state == state, done.output
    assert done.output.startswith(f"CONNTRACK_{name.upper()} {['OK', '', 'CRITICAL'][state]} - ")
    assert set(done.perfdata) == {label.name for label in module.LABELS} - WHEN_KNOWN - ON_EC2
    printed = perfdata.parse(" ".join(done.attributes["last_check_result"]["performance_data"]))
    assert list(printed) == [label.name for label in module.LABELS if label.name in printed]
    units = {"%": "percent", "s": "seconds", "c": "", "": ""}
    for label, item in printed.items():
        read = done.perfdata[label]
        assert read["value"] == item.value, label
        # That a unit of c means a counter is lost on Icinga 2.13.
        assert read["unit"] == units[item.unit], label
        assert (read["warn"], read["crit"]) == (plain(item.warn), plain(item.crit)), label
        assert (read["min"], read["max"]) == (item.min, item.max), label
    if name == "full":
        assert (done.perfdata["table_full"]["value"], done.perfdata["table_full"]["crit"]) == (3, 0)
    else:
        assert done.perfdata["entries"]["value"] == 120
        shipped = (95, 98) if name == "usage" else (80, 98)
        assert (done.perfdata["usage"]["warn"], done.perfdata["usage"]["crit"]) == shipped


def test_growth_and_time_to_full_reach_icinga_when_they_are_known(cluster):
    state = cluster.master.top / "state"
    state.mkdir()
    shutil.chown(state, "nagios", "nagios")
    variables = {
        "conntrack_usage_netns": [cluster.red.name],
        "conntrack_usage_state_dir": str(state),
        "conntrack_usage_warning": ["~:80", "time_to_full=10m:"],
    }
    try:
        with cluster.master.host("growing", conntrack="local", **variables) as host:
            for entries in (60, 120, 240):
                fill(cluster.red, entries)
                done = cluster.master.check(host, "conntrack-usage")
                (file,) = state.rglob("usage*.json")
                kept = codec.decode(trend.Series, json.loads(file.read_text()))
                earlier = [each._replace(at=each.at - 110) for each in kept.samples]
                file.write_text(json.dumps(codec.encode(kept._replace(samples=tuple(earlier)))))
            # A count that stays as it is would be a step, and no growth.
            fill(cluster.red, 300)
            with machine_limit(LIMIT):
                done = cluster.master.check(host, "conntrack-usage")
    finally:
        cluster.red.run("conntrack", "-F")
    assert done.perfdata["growth"]["value"] > 0.1
    left = done.perfdata["time_to_full"]
    assert left["unit"] == "seconds"
    assert left["value"] > 600
    # A range is no plain number, and Icinga keeps none of it.
    assert left["warn"] is None
    assert done.state == OK, done.output


@pytest.mark.parametrize("name", CHECKS)
def test_each_namespace_has_its_labels_under_its_own_name(cluster, log, name):
    master = cluster.master
    fill(cluster.blue, 300)
    fill(cluster.red, 40)
    try:
        more = {f"conntrack_{name}_netns": "all"}
        with master.host("router", conntrack="local", **more, **log) as host:
            master.check(host, f"conntrack-{name}")
            done = master.check(host, f"conntrack-{name}")
    finally:
        for namespace in (cluster.blue, cluster.red):
            namespace.run("conntrack", "-F")
    labels = list(done.perfdata)
    plain = [label.name for label in CHECKS[name].LABELS if label.name not in WHEN_KNOWN | ON_EC2]
    assert [label for label in labels if "::" not in label] == plain
    assert labels[: len(plain)] == plain
    below = {}
    for label in labels[len(plain) :]:
        namespace, _, rest = label.partition("::")
        below.setdefault(namespace, []).append(rest)
    if name == "full":
        # Only where something was lost is there something to graph.
        assert set(below) <= {cluster.blue.name, cluster.red.name}
        return
    rest = {"usage": ["usage", "entries"], "table": ["usage", "snat_port_usage", "entries"]}[name]
    assert list(below) == [cluster.blue.name, cluster.red.name], done.output
    assert list(below.values()) == [rest, rest]
    values = {label: value["value"] for label, value in done.perfdata.items()}
    assert values[f"{cluster.blue.name}::entries"] == 300
    assert values[f"{cluster.red.name}::entries"] == 40
    assert values["entries"] == 0
    if name == "usage":
        share = 100 * 300 / values["limit"]
        assert math.isclose(values[f"{cluster.blue.name}::usage"], share, abs_tol=0.06)


def test_a_list_of_namespaces_gives_a_service_each_and_a_dictionary_thresholds_too(cluster):
    master, blue, red = cluster.master, cluster.blue, cluster.red
    fill(blue, 700)
    fill(red, 20)
    try:
        with (
            machine_limit(LIMIT),
            master.host(
                "listed",
                conntrack="local",
                conntrack_table=False,
                conntrack_netns=[blue.name, red.name],
                conntrack_usage_warning="50",
            ) as host,
        ):
            names = {f"conntrack-usage-{each.name}" for each in (blue, red)}
            assert master.services(host) == {"conntrack-usage", "conntrack-full", *names}
            warned = master.check(host, f"conntrack-usage-{blue.name}")
            calm = master.check(host, f"conntrack-usage-{red.name}")
        own = {blue.name: {"conntrack_usage_critical": "60"}, red.name: {}}
        with (
            machine_limit(LIMIT),
            master.host("named", conntrack="local", conntrack_netns=own) as host,
        ):
            critical = master.check(host, f"conntrack-usage-{blue.name}")
    finally:
        for namespace in (blue, red):
            namespace.run("conntrack", "-F")
    assert (warned.state, calm.state, critical.state) == (WARNING, OK, CRITICAL)
    assert (warned.perfdata["entries"]["value"], warned.perfdata["usage"]["warn"]) == (700, 50)
    assert (calm.perfdata["entries"]["value"], calm.perfdata["usage"]["crit"]) == (20, 90)
    assert critical.perfdata["usage"]["crit"] == 60


@pytest.mark.parametrize("way", ["agent", "nrpe"])
def test_the_agent_checks_its_own_table_and_the_master_shows_it_full(cluster, way):
    master, agent = cluster.master, cluster.agent
    agent.starts("table")
    agent.netns.fill(985)
    variables = {"conntrack": way, "nrpe_address": "192.0.2.2"}
    try:
        with (
            machine_limit(LIMIT),
            master.host("agent", **variables) as far,
            master.host("here", conntrack="local") as near,
        ):
            contents = master.check(far, "conntrack-table")
            count = master.check(far, "conntrack-usage")
            own = master.check(near, "conntrack-table")
    finally:
        agent.netns.flush()
    assert contents.state == CRITICAL, contents.output
    usage = "985 of 1000 entries in use (98.5%)"
    assert contents.output.startswith(f"CONNTRACK_TABLE CRITICAL - {usage}")
    assert len(contents.output.splitlines()) > 10
    entries = contents.perfdata["entries"]
    assert (entries["value"], entries["max"]) == (985, LIMIT)
    assert set(contents.perfdata) == {label.name for label in table_check.LABELS}
    assert count.state == CRITICAL, count.output
    assert count.output.startswith(f"CONNTRACK_USAGE CRITICAL - {usage}")
    source = "agent" if way == "agent" else "master"
    assert (contents.source, count.source, own.source) == (source, source, "master")
    assert (own.state, own.perfdata["entries"]["value"]) == (OK, 0)
    if way == "agent":
        # Unprivileged, through sudo, as is shipped.
        assert list(map(sorted, agent.starts("table"))) == [
            ["--critical", "--names", "--sudo", "98"]
        ]
        assert contents.attributes["check_command"] == "conntrack_table"
    else:
        assert contents.command[contents.command.index("-c") + 1] == "check_conntrack_table"
        # Graphs go by the command that was meant.
        assert contents.attributes["vars"]["check_command"] == "conntrack_table"


def test_without_the_line_for_sudo_the_agent_says_what_to_grant(cluster):
    file = cluster.agent.top / "sudoers.d" / "check-conntrack"
    kept = file.read_text()
    file.unlink()
    try:
        with cluster.master.host("agent", conntrack=True) as host:
            done = cluster.master.check(host, "conntrack-table")
    finally:
        file.write_text(kept)
        file.chmod(0o440)
    assert done.state == UNKNOWN
    assert (
        "cannot read the table: permission denied (tried netlink, proc, conntrack)" in done.output
    )
    assert "sudo: " in done.output
    assert f'nagios ALL=(root) NOPASSWD: {rig.READER} ""' in done.output


# --- every option

SHIPPED = (
    ("-c", "98"),
    ("-w", "95"),
    ("--critical", "time_to_full=10m:"),
    ("--listen", "1s"),
    ("--warning", "time_to_full=1h:"),
)


def without_shipped(words):
    """The words of a command line of usage without those that the command sets itself."""
    words = list(words)
    for option, value in SHIPPED:
        for at in range(len(words) - 1):
            if words[at : at + 2] == [option, value]:
                del words[at : at + 2]
                break
    return words


def samples(name):
    """A value for each option, which the parser takes."""
    return {
        "warning": ["91", "entries=95%"] if name != "full" else ["table_full=3", "drop_total=5"],
        "critical": ["95"],
        "timeout": "7",
        "verbose": 3,
        "exit_ok": True,
        "if_inactive": "warning",
        "netns": ["blue", "/proc/1/ns/net"],
        "sudo": True,
        "names": True,
        "user": "nobody",
        "state_dir": "/var/lib/elsewhere",
        "state_key": "a key",
        "no_state": True,
        "trend_window": "2h",
        "listen": "2s",
        "since": "boot",
        "log": ["auto", "/var/log/kern.log"],
        "if_incomplete": "ok",
        "log_timezone": "Europe/Berlin",
        "timeouts": "/var/lib/elsewhere/sysctl.txt",
        "nat_ports": "20000-20999",
        "source": "netlink",
        "address": ["192.0.2.0/24", "2001:db8::1"],
        "protocol": ["tcp", "17"],
        "state": ["SYN_SENT", "TIME_WAIT"],
        "port": ["53", "443"],
        "zone": ["7", "8"],
        "mark": ["1", "0x10/0xff"],
        "top": 5,
        "prefix": "24/64",
        "max_entries": 5000,
        "save": "/var/lib/elsewhere/snapshots",
        "save_when": "critical",
        "keep": 3,
    }


@pytest.mark.parametrize("name", CHECKS)
def test_every_option_is_set_by_its_variable(cluster, name):
    made = CHECKS[name].parser()
    values = samples(name)
    wanted = {
        action.dest: values[action.dest]
        for action in made._actions
        if action.dest not in ("help", "version")
    }
    variables = {f"conntrack_{name}_{option}": value for option, value in wanted.items()}
    cluster.master.starts(name)
    with cluster.master.host("all-options", conntrack="local", **variables) as host:
        done = cluster.master.check(host, f"conntrack-{name}")
    (arguments,) = cluster.master.starts(name)
    assert arguments == done.command[1:]
    words = []
    for option, value in wanted.items():
        dashed = "--" + option.replace("_", "-")
        if option == "verbose":
            words.append("-vvv")
        elif value is True:
            words.append(dashed)
        else:
            listed = value if isinstance(value, list) else [value]
            words += [word for each in listed for word in (dashed, str(each))]
    assert vars(made.parse_args(arguments)) == vars(made.parse_args(words))


@pytest.mark.parametrize(
    ("value", "words"), [(1, ["-v"]), ("2", ["-vv"]), (4, ["-vvv"]), (0, []), (True, ["-v"])]
)
def test_verbosity_is_a_number(cluster, value, words):
    variables = {"conntrack_usage_verbose": value, "conntrack_usage_sudo": False}
    with cluster.master.host("loud", conntrack="local", **variables) as host:
        done = cluster.master.check(host, "conntrack-usage")
    assert without_shipped(done.command[1:]) == words
    assert done.state == OK


# --- bad input

HOSTILE = [
    "'; touch {canary}; '",
    '"; touch {canary}; "',
    "; touch {canary}",
    "$$(touch {canary})",
    "`touch {canary}`",
    "| touch {canary}",
    "&& touch {canary}",
    "a\ntouch {canary}\n",
    "a\r\n\tb",
    "\\'; touch {canary} #",
    "*",
    "~root",
    "../../etc/passwd",
    "\u00e4\u2603",
    "x" * 10240,
    "' \" ; " * 2000,
]


@pytest.mark.parametrize("where", ["local", "agent"])
def test_hostile_text_reaches_the_check_as_one_argument_each(cluster, where):
    node = cluster.master if where == "local" else cluster.agent
    values = [text.format(canary=cluster.canary) for text in HOSTILE]
    variables = {
        "conntrack": where,
        "agent_endpoint": "agent",
        "conntrack_usage_netns": values,
        "conntrack_usage_state_key": values[0],
        "conntrack_usage_sudo": False,
    }
    node.starts("usage")
    with cluster.master.host("hostile", **variables) as host:
        done = cluster.master.check(host, "conntrack-usage")
    (arguments,) = node.starts("usage")
    meant = [value.replace("$$", "$") for value in values]
    expected = [word for value in meant for word in ("--netns", value)]
    assert without_shipped(arguments) == [*expected, "--state-key", meant[0]]
    assert done.command[1:] == arguments
    assert done.state == UNKNOWN, done.output
    assert not cluster.canary.exists()


@pytest.mark.parametrize("option", ["warning", "netns", "timeout", "state_dir", "if_inactive"])
def test_a_value_is_no_option(cluster, option):
    variables = {f"conntrack_usage_{option}": "--exit-ok", "conntrack_usage_sudo": False}
    with cluster.master.host("sly", conntrack="local", **variables) as host:
        done = cluster.master.check(host, "conntrack-usage")
    assert without_shipped(done.command[1:]) == ["--" + option.replace("_", "-"), "--exit-ok"]
    assert done.state == UNKNOWN
    assert "expected one argument" in done.output


def test_an_unclosed_macro_is_refused_by_icinga(cluster):
    for number, text in enumerate(["$(touch {canary})", "a$"]):
        variables = {"conntrack_usage_state_key": text.format(canary=cluster.canary)}
        name = f"unclosed-{number}"
        status, answer = cluster.master.add_host(name, conntrack="local", **variables)
        assert status == 500
        assert "Closing $ not found" in json.dumps(answer)
    assert not cluster.canary.exists()


def test_the_name_of_a_namespace_is_no_command_either(cluster):
    name = f"x'; touch {cluster.canary}; '$$(touch {cluster.canary})"
    name = name.replace("/", "\\")
    with cluster.master.host("named", conntrack="local", conntrack_netns=[name]) as host:
        (service,) = cluster.master.services(host) - {f"conntrack-{each}" for each in CHECKS}
        attributes = cluster.master.service(host, service)
    assert service == "conntrack-usage-" + name
    assert attributes["vars"]["conntrack_usage_netns"] == [name]


# --- notifications


def test_a_full_table_pages_once(cluster):
    master = cluster.master
    (master.top / "log" / "notes").unlink(missing_ok=True)
    expected = []

    def noted(text):
        expected.append(text)
        rig.wait_until(lambda: len(master.notes()) >= len(expected), lambda: str(master.notes()))
        assert master.notes() == expected

    with master.host("paged", conntrack="local", notified=True) as host:
        for service in ("usage", "table"):
            master.report(host, f"conntrack-{service}", OK)
        for _ in range(3):
            master.report(host, "conntrack-usage", CRITICAL)
        noted(f"PROBLEM {host}!conntrack-usage CRITICAL")
        for _ in range(3):
            master.report(host, "conntrack-table", CRITICAL)
        silent = master.service(host, "conntrack-table")
        assert (silent["state"], silent["state_type"]) == (CRITICAL, 1)
        assert silent["last_reachable"] is False
        # It is executed all the same, and informs.
        again = master.check(host, "conntrack-table")
        assert again.output.startswith("CONNTRACK_TABLE OK - ")
        master.report(host, "conntrack-usage", OK)
        noted(f"RECOVERY {host}!conntrack-usage OK")
        for _ in range(3):
            master.report(host, "conntrack-table", CRITICAL)
        noted(f"PROBLEM {host}!conntrack-table CRITICAL")
