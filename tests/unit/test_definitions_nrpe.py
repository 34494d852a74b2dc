"""The files in nrpe/ against the checks' parsers: neither can drift from the other."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from check_conntrack import cli, ranges
from check_conntrack.full import full_check
from check_conntrack.table import table_check
from check_conntrack.usage import usage_check

NRPE = Path(__file__).parent.parent.parent / "nrpe"
MODULES = {"usage": usage_check, "full": full_check, "table": table_check}
RUNBOOK = "/usr/share/doc/monitoring-plugins-conntrack/runbook.md"
PLUGINS = "/usr/lib/nagios/plugins/"


def commands(file):
    """The commands of a file: name → the words of its line."""
    found = {}
    for line in (NRPE / file).read_text().splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"command\[(\w+)\]=(.+)", line)
            assert match, line
            assert match[1] not in found
            found[match[1]] = match[2]
    return found


def options(check):
    """The long options of a check's parser."""
    actions = MODULES[check].parser()._actions
    return {word for action in actions for word in action.option_strings if word[:2] == "--"}


def in_script():
    """Return what conntrack_arguments takes and leaves out: check → options, option → reason."""
    text = (NRPE / "conntrack_arguments").read_text()
    left_out = dict(re.findall(r"^#   (--[a-z-]+) +(.+)$", text, re.MULTILINE))
    taken = {check: set() for check in MODULES}
    body = text.partition("\ntaken() {")[2].partition("\n}\n")[0]
    for check, option in re.findall(r"(usage|full|table)?(--[a-z][a-z-]+)", body):
        for name in [check] if check else MODULES:
            taken[name].add(option)
    return taken, left_out


def taken_by_script(check, word):
    """Return whether the script hands an argument on: it then fails to start a missing check."""
    slots = [word, *[""] * 15, "end"]
    script = NRPE / "conntrack_arguments"
    done = subprocess.run([script, check, *slots], capture_output=True, text=True, timeout=30)
    if done.stdout:
        assert (done.returncode, done.stderr) == (3, "")
        assert f"CONNTRACK_{check.upper()} UNKNOWN - over NRPE: argument 1 is none" in done.stdout
        return False
    assert f"check_conntrack_{check}" in done.stderr
    return True


@pytest.mark.parametrize("check", MODULES)
def test_every_option_is_taken_or_left_out_with_a_reason(check):
    taken, left_out = in_script()
    assert taken[check].isdisjoint(left_out)
    assert options(check) <= taken[check] | set(left_out)
    assert taken[check] <= options(check)


def test_what_is_left_out_is_an_option_and_has_a_reason():
    _, left_out = in_script()
    known = set().union(*map(options, MODULES))
    assert left_out
    assert set(left_out) <= known
    assert all(len(reason) > 5 for reason in left_out.values())


@pytest.mark.parametrize("check", MODULES)
def test_the_script_does_as_it_says(check):
    taken, left_out = in_script()
    flags = {"--exit-ok", "--verbose", "--names"}
    for option in options(check):
        plain, valued = taken_by_script(check, option), taken_by_script(check, f"{option}=1")
        expected = option in taken[check] and option != "--source"
        assert (plain, valued) == (expected and option in flags, expected and option not in flags)
        assert option in taken[check] or option in left_out
    for source in ("auto", "netlink", "proc"):
        assert taken_by_script(check, f"--source={source}") == (check == "table")
    for word in ("--source=autox", "--source=", "-w=1", "--", "-vvvv", "x", "--warning"):
        assert not taken_by_script(check, word)


@pytest.mark.parametrize(
    "words",
    [[], ["--warning=1"], [*[""] * 16], [*[""] * 16, "End"], [*[""] * 17, "end"]],
    ids=len,
)
def test_the_script_runs_as_its_commands_call_it_or_not_at_all(words):
    script = NRPE / "conntrack_arguments"
    done = subprocess.run([script, "usage", *words], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (3, "")
    assert "not called as in conntrack-arguments.cfg" in done.stdout
    assert subprocess.run([script, "other", *words], timeout=30).returncode == 3


def test_the_plain_commands_are_what_the_parsers_take():
    found = commands("conntrack.cfg")
    assert set(found) == {
        f"check_conntrack_{name}{end}" for name in MODULES for end in ("", "_netns")
    }
    for name, line in found.items():
        path, *arguments = shlex.split(line)
        check = name.removesuffix("_netns").removeprefix("check_conntrack_")
        assert path == f"{PLUGINS}check_conntrack_{check}"
        module = MODULES[check]
        chosen = module.parser().parse_args(arguments)
        # A label that is not the check's own raises.
        ranges.parse_thresholds(module.LABELS, chosen.warning, chosen.critical)
        assert (chosen.netns, chosen.state_key) == (
            (["all"], "netns") if name.endswith("_netns") else ([], "")
        )
        assert chosen.sudo
        assert chosen.timeout == cli.DEFAULT_TIMEOUT
        # Nothing in it means anything to a shell, and no argument comes from the network.
        assert re.fullmatch(r"[\w/. =:-]+", line)
        assert "$" not in line


def test_the_commands_with_arguments_quote_each():
    found = commands("conntrack-arguments.cfg")
    slots = " ".join(f"'$ARG{number}$'" for number in range(1, 17))
    assert found == {
        f"check_conntrack_{check}_args": f"{PLUGINS}conntrack_arguments {check} {slots} end"
        for check in MODULES
    }


def test_no_file_allows_arguments():
    for file in NRPE.iterdir():
        lines = [line.strip() for line in file.read_text().splitlines()]
        settings = [line for line in lines if not line.startswith("#")]
        assert not any("dont_blame_nrpe" in line for line in settings)
        assert not any("nasty_metachars" in line for line in settings)


def objects():
    """The Nagios objects: (kind, directives) in order."""
    text = (NRPE / "nagios.cfg").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found = []
    for kind, body in re.findall(r"^define (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        pairs = [line.split(None, 1) for line in body.splitlines() if line.strip()]
        assert len({key for key, _ in pairs}) == len(pairs)
        found.append((kind, {key: value.strip() for key, value in pairs}))
    return found


def test_services_ask_for_commands_that_are_shipped():
    services = [each for kind, each in objects() if kind == "service" and "register" not in each]
    assert len(services) == len(MODULES)
    for service in services:
        name, argument = service["check_command"].split("!")
        check = argument.removeprefix("check_conntrack_")
        assert name == "check_conntrack"
        assert argument in commands("conntrack.cfg")
        assert service["service_description"] == f"conntrack-{check}"
        assert service["notes"].endswith(f". Runbook: {RUNBOOK}, conntrack {check}")


def test_no_address_of_the_runbook_is_shipped():
    assert not [each for _, each in objects() if "notes_url" in each]
    text = (NRPE / "nagios.cfg").read_text()
    assert len(re.findall(r"^    # notes_url  https://", text, re.MULTILINE)) == 1


SCHEDULE = {
    "conntrack-usage": ("1", "0.5", "3", "15", "30"),
    "conntrack-full": ("5", "1", "1", "25", "50"),
    "conntrack-table": ("5", "1", "3", "20", "40"),
}


def test_the_schedule_is_the_one_that_was_agreed_on():
    keys = ("check_interval", "retry_interval", "max_check_attempts")
    keys += ("low_flap_threshold", "high_flap_threshold")
    services = {
        each.get("service_description"): each for kind, each in objects() if kind == "service"
    }
    for name, values in SCHEDULE.items():
        assert tuple(services[name][key] for key in keys) == values


def test_the_window_of_full_outlasts_its_interval():
    window = shlex.split(commands("conntrack.cfg")["check_conntrack_full"])
    seconds = ranges.parse_duration(window[window.index("--since") + 1])
    assert seconds >= 3 * 60 * int(SCHEDULE["conntrack-full"][0])


def test_the_drop_in_gives_what_the_checks_ask_for():
    text = (NRPE / "capabilities.conf").read_text()
    settings = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert settings == ["[Service]", "AmbientCapabilities=CAP_NET_ADMIN CAP_SYSLOG"]
