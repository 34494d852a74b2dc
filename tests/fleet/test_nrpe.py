"""The checks over NRPE, as shipped: what they say arrives, and nothing else is to be had."""

from __future__ import annotations

import json
import pwd
import shutil
from pathlib import Path

import pytest

from check_conntrack.kernel.privileges import CAP_NET_ADMIN, CAP_SYSLOG
from support.nrpe_agent import READER, SHIPPED, UNIT, ambient_capabilities, commands, run_text

PLAIN = ["check_conntrack_usage", "check_conntrack_full", "check_conntrack_table"]
OK, WARNING, CRITICAL, UNKNOWN = range(4)
# What the table holds, of which limit, and the exit codes of usage, full and table.
SITUATIONS = {
    "roomy": (300, 10000, (OK, OK, OK)),
    "filling": (850, 1000, (OK, OK, WARNING)),
    "nearly full": (970, 1000, (WARNING, OK, WARNING)),
    "full": (1000, 1000, (CRITICAL, CRITICAL, CRITICAL)),
}


def forget(agent):
    """Let the next run be the first."""
    shutil.rmtree(agent.top / "home/.local", ignore_errors=True)


def first_run(agent, run, what):
    """The exit code, output and standard error of a run that remembers nothing."""
    forget(agent)
    done = run(what)
    return done.returncode, done.stdout, done.stderr


def compared(agent, command, line):
    """Return what the agent says, which is what the plugin prints here, byte for byte.

    Each run is the first. Where they differ it may be the host that changed (a second passed in
    "latest 3s ago", a namespace of somebody else's came): then both are run again.
    """
    for _ in range(20):
        here, over_nrpe = (
            first_run(agent, agent.run_here, line),
            first_run(agent, agent.ask, command),
        )
        if here == over_nrpe:
            return over_nrpe
    pytest.fail(f"never the same: {here} {over_nrpe}")


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_command_arrives_byte_for_byte(agent, situation):
    entries, limit, codes = SITUATIONS[situation]
    agent.limit(limit)
    agent.fill(entries)
    lines = commands("conntrack.cfg")
    for command, expected in zip(PLAIN, codes):
        code, out, err = compared(agent, command, lines[command])
        assert (code, err) == (expected, b"")
        assert b" | " in out
        if command != "check_conntrack_full":
            assert b" entries=%d;;;0;%d " % (entries, limit) in out


def test_those_of_all_namespaces_arrive_too(sudo_agent):
    entries, limit, _ = SITUATIONS["full"]
    sudo_agent.limit(limit)
    sudo_agent.fill(entries)
    lines = commands("conntrack.cfg")
    for command in PLAIN:
        code, out, err = compared(sudo_agent, command + "_netns", lines[command + "_netns"])
        assert (code, err) == (CRITICAL, b"")
        assert b": 1000 of 1000 entries" in out


def test_the_agent_has_no_right_but_those_of_the_drop_in(agent):
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {str(pwd.getpwnam("nagios").pw_uid)}
    numbers = {"net_admin": CAP_NET_ADMIN, "syslog": CAP_SYSLOG}
    names = ambient_capabilities() if agent.grant == "capabilities" else []
    expected = sum(1 << numbers[name] for name in names)
    assert {int(fields[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Amb")} == {expected}
    assert fields["NoNewPrivs"] == "0"


def test_there_is_a_test_for_every_command_that_is_shipped():
    tested = [*PLAIN, *(command + "_netns" for command in PLAIN)]
    assert sorted(commands("conntrack.cfg")) == sorted(tested)


def test_a_loss_in_the_log_arrives(agents):
    with agents("sudo") as agent:
        for age in (600, 599):
            agent.log("nf_conntrack: nf_conntrack: table full, dropping packet", age)
        result = agent.result("check_conntrack_full")
    assert result.code == CRITICAL
    assert '2 "table full" messages in the last 15m' in result.status
    assert result.perfdata["table_full"] == "2;;0;0"
    assert "CRITICAL: table_full 2 (threshold 0)" in result.lines


@pytest.mark.parametrize("size", [1024, 2048, 4096, 16384])
def test_long_output_arrives_whole(agents, size):
    line = "/usr/lib/nagios/plugins/check_conntrack_table --sudo -v --top"
    settings = "".join(f"command[top{top}]={line} {top}\n" for top in (40, 100, 200, 600))
    top = {1024: 40, 2048: 100, 4096: 200, 16384: 600}[size]
    with agents("sudo", settings=settings) as agent:
        agent.fill(1000)
        code, out, _ = compared(agent, f"top{top}", f"{line} {top}")
    assert code == OK
    assert size < len(out) < 64 << 10


def test_the_oldest_packets_hold_the_beginning(sudo_agent):
    sudo_agent.limit(1000)
    sudo_agent.fill(970)
    forget(sudo_agent)
    whole = sudo_agent.ask("check_conntrack_usage")
    forget(sudo_agent)
    cut = sudo_agent.ask("check_conntrack_usage", options=["-2"])
    assert (whole.returncode, cut.returncode) == (WARNING, WARNING)
    assert cut.stdout.rstrip(b"\n") == whole.stdout[:1023].rstrip(b"\n")
    told = b"CONNTRACK_USAGE WARNING - 970 of 1000 entries in use (97.0%), 0 new/s | "
    assert cut.stdout.startswith(told)


@pytest.mark.parametrize("argument", ["--warning=1", "-h", "80", ""])
def test_the_agent_as_packaged_takes_no_argument(sudo_agent, argument):
    forget(sudo_agent)
    done = sudo_agent.ask("check_conntrack_usage", argument)
    assert done.returncode == UNKNOWN
    assert b"CONNTRACK" not in done.stdout
    assert sudo_agent.state_files() == []


@pytest.mark.parametrize("grant", ["sudo", "capabilities"])
def test_the_ring_buffer_is_read_by_either_grant(agents, grant):
    with agents(grant, own_log=False) as agent:
        result = agent.result("check_conntrack_full")
    assert "(kernel log" in result.status
    assert "permission denied" not in result.out
    # It holds what it has room for: messages of other tests may have pushed the older ones out.
    assert result.code != UNKNOWN or "not covered" in result.out


def test_without_a_grant_it_is_unknown_and_says_what_to_grant(agents):
    with agents("nothing") as agent:
        agent.fill(50)
        result = agent.result("check_conntrack_table")
        assert result.code == UNKNOWN
        assert result.value("entries") == 50
        user, grant = "nagios ALL=(root) NOPASSWD:", f'{READER} ""'
        assert f"  {user} {grant}" in result.lines
        assert agent.result("check_conntrack_usage").code == OK
    # What it says is what is shipped.
    shipped = (SHIPPED / "sudoers").read_text()
    assert "User_Alias CONNTRACK_AGENT = nagios\n" in shipped
    assert f"Cmnd_Alias CONNTRACK_READER = {grant}\n" in shipped
    assert "\nCONNTRACK_AGENT ALL = (root) NOPASSWD: CONNTRACK_READER\n" in shipped


def test_with_capabilities_alone_other_namespaces_are_unknown(capable_agent):
    capable_agent.limit(10000)
    capable_agent.fill(300)
    result = capable_agent.result("check_conntrack_usage_netns")
    assert result.code == UNKNOWN
    assert result.value("entries") == 300


def test_with_capabilities_any_plugin_may_change_the_firewall_and_with_sudo_none(
    capable_agent, sudo_agent
):
    table = "nft add table ip changed_by_a_plugin"
    assert capable_agent.run_here(table).returncode == 0
    assert "changed_by_a_plugin" in capable_agent.netns.run("nft", "list", "tables")
    assert b"Operation not permitted" in sudo_agent.run_here(table).stderr


def test_what_is_remembered_is_the_agents_own_and_whole(sudo_agent):
    forget(sudo_agent)
    for command in PLAIN:
        sudo_agent.result(command)
    files = sudo_agent.state_files()
    assert len(files) >= len(PLAIN)
    for file in files:
        assert file.owner() == "nagios"
        assert json.loads(file.read_text())


def test_no_process_is_left_when_the_client_hangs_up(agents):
    check = "/usr/lib/nagios/plugins/check_conntrack_full --since all --log - --no-state"
    waiting = "until test -e /var/lib/nagios/go; do sleep 0.1; done"
    with agents("sudo", settings=f"command[slow]={waiting} | {check}\n") as agent:
        done = agent.ask("slow", options=["-t", "1:UNKNOWN"])
        assert done.returncode == UNKNOWN
        assert b"CONNTRACK" not in done.stdout
        # It goes on, and has nobody to tell what it finds.
        assert agent.processes()
        (agent.top / "home/go").touch()
        agent.wait_for_the_last()


def test_the_unit_takes_the_drop_in(need, tmp_path):
    need("systemd-analyze", root=False)
    unit = shutil.copy(UNIT, tmp_path)
    folder = tmp_path / f"{UNIT.name}.d"
    folder.mkdir()
    shipped = (SHIPPED / "capabilities.conf").read_text()
    file = folder / "check-conntrack.conf"
    environment = {"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}

    def complaints(text):
        file.write_text(text)
        done = run_text("systemd-analyze", "verify", "--man=no", unit, env=environment)
        return [line for line in (done.out + done.err).splitlines() if str(file) in line]

    assert complaints(shipped) == []
    assert complaints(shipped.replace("\nAmbientCap", "\nAmbientCup")) != []
