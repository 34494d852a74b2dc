"""Icinga's definitions say what the checks' own command lines say, and the basket says the same."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from check_conntrack import cli, ranges
from check_conntrack.full import full_check
from check_conntrack.table import table_check
from check_conntrack.usage import usage_check

FOLDER = Path(__file__).parent.parent.parent / "icinga2"
COMMANDS = (FOLDER / "conntrack-commands.conf").read_text()
SERVICES = (FOLDER / "conntrack-services.conf").read_text()
BASKET = json.loads((FOLDER / "conntrack-basket.json").read_text())
PARSERS = {
    "usage": usage_check.parser(),
    "full": full_check.parser(),
    "table": table_check.parser(),
}
LABELS = {"usage": usage_check.LABELS, "full": full_check.LABELS, "table": table_check.LABELS}
RUNBOOK = "/usr/share/doc/monitoring-plugins-conntrack/runbook.md"
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
EVERY = pytest.mark.parametrize("name", PARSERS)


def block(text: str, opening: str) -> str:
    """Return what stands between the braces that follow an opening line, to the one below it."""
    begin = text.index(opening + " {\n") + len(opening) + 3
    indent = re.match(r"\t*", opening)[0]
    return text[begin : text.index(f"\n{indent}}}", begin) + 1]


def attributes(text: str, indent: str = "\t") -> dict[str, str]:
    """The plain attributes of a block, as they are spelled."""
    return dict(re.findall(rf"^{indent}([\w.]+) \+?= (.+)$", text, re.MULTILINE))


def arguments(name: str) -> dict[str, dict[str, Any]]:
    """The arguments of a CheckCommand: by their keys, the attributes."""
    inside = block(block(COMMANDS, f'object CheckCommand "conntrack_{name}"'), "\targuments =")
    found = {}
    for key, body in re.findall(
        r'^\t\t"([^"]+)" = \{\n(.*?)^\t\t\}', inside, re.MULTILINE | re.DOTALL
    ):
        assert key not in found
        found[key] = {
            attribute: value if value.startswith("{{") else json.loads(value)
            for attribute, value in attributes(body, "\t\t\t").items()
        }
    return found


def seconds(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([smh]?)", text).groups()
    return int(number) * UNITS[unit]


def judged(name: str) -> dict[str, argparse.Action]:
    """The options of a check that lead to a verdict, by their long names."""
    found = {}
    for action in PARSERS[name]._actions:
        (long,) = (option for option in action.option_strings if option.startswith("--"))
        if long not in ("--help", "--version"):
            found[long] = action
    return found


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_generator_writes():
    made = generator()
    assert made.commands() == COMMANDS
    assert json.loads(made.basket()) == BASKET
    assert made.basket() == (FOLDER / "conntrack-basket.json").read_text()


# --- CheckCommands and parsers


@EVERY
def test_every_option_has_an_argument_with_a_variable_of_its_own(name):
    has = arguments(name)
    for long, action in judged(name).items():
        variable = f"$conntrack_{name}_{long[2:].replace('-', '_')}$"
        if isinstance(action, argparse._CountAction):
            for level, compare in ((1, "== 1"), (2, "== 2"), (3, ">= 3")):
                argument = has.pop("-" + "v" * level)
                assert argument["set_if"] == f'{{{{ number(macro("{variable}")) {compare} }}}}'
                assert "value" not in argument
            continue
        argument = has.pop(long)
        assert argument["description"]
        if action.nargs == 0:
            assert argument["set_if"] == variable
            assert "value" not in argument
        else:
            assert argument["value"] == variable
            assert "set_if" not in argument
        repeatable = isinstance(action, argparse._AppendAction)
        assert argument.get("repeat_key", False) is repeatable
    assert set(has) == ({"-w", "-c"} if name == "usage" else set()), "unknown arguments"


@EVERY
def test_descriptions_tell_the_default_and_the_choices(name):
    has = arguments(name)
    for long, action in judged(name).items():
        if action.choices:
            assert all(choice in has[long]["description"] for choice in action.choices)
        if isinstance(action.default, int) and action.nargs is None and long in has:
            assert str(action.default) in has[long]["description"]


def own_variables(name):
    """Return the custom variables that a command sets itself."""
    own = {f"conntrack_{name}_sudo": True}
    if name == "usage":
        own |= {
            "conntrack_usage_listen": "1s",
            "conntrack_usage_warning": ["time_to_full=1h:"],
            "conntrack_usage_critical": ["time_to_full=10m:"],
        }
    if name == "table":
        own |= {"conntrack_table_names": True, "conntrack_table_critical": ["98"]}
    return own


@EVERY
def test_a_command_runs_the_plugin_and_outlasts_its_time_out(name):
    inside = block(COMMANDS, f'object CheckCommand "conntrack_{name}"')
    has = attributes(inside)
    assert has["command"] == f'[ PluginContribDir + "/check_conntrack_{name}" ]'
    assert (FOLDER.parent / "plugins" / f"check_conntrack_{name}").exists()
    assert seconds(has["timeout"]) > cli.DEFAULT_TIMEOUT
    assert f"after {seconds(has['timeout'])} s" in arguments(name)["--timeout"]["description"]
    defaults = {key[5:]: json.loads(value) for key, value in has.items() if key.startswith("vars.")}
    assert defaults == own_variables(name)
    assert PARSERS[name].get_default("sudo") is False


@EVERY
def test_a_host_that_sets_nothing_is_checked_with_what_nrpe_ships(name):
    text = (FOLDER.parent / "nrpe" / "conntrack.cfg").read_text()
    line = re.search(rf"^command\[check_conntrack_{name}\]=(.*)$", text, re.MULTILINE)[1]
    words = []
    for variable, value in own_variables(name).items():
        option = "--" + variable.removeprefix(f"conntrack_{name}_").replace("_", "-")
        listed = value if isinstance(value, list) else [value]
        words += [option] if value is True else [f"{option}={each}" for each in listed]
    for key, argument in arguments(name).items():
        words += [key, argument["value"]] if "$" not in argument.get("value", "$") else []
    here = vars(PARSERS[name].parse_args(words))
    there = vars(PARSERS[name].parse_args(line.split()[1:]))
    thresholds = [
        ranges.parse_thresholds(LABELS[name], each.pop("warning"), each.pop("critical"))
        for each in (here, there)
    ]
    assert thresholds[0] == thresholds[1]
    assert here == there


def test_shipped_usage_holds_while_a_host_sets_no_threshold():
    own = own_variables("usage")
    variables = [f"conntrack_usage_{name}" for name in ("warning", "critical")]
    wanted = " && ".join(f'macro("${name}$") == {json.dumps(own[name])}' for name in variables)
    for key in ("-w", "-c"):
        assert arguments("usage")[key]["set_if"] == f"{{{{ {wanted} }}}}"


def test_nothing_is_left_to_a_shell():
    assert len(re.findall(r"^\tcommand = \[", COMMANDS, re.MULTILINE)) == len(PARSERS)
    assert len(re.findall(r"^\tcommand =", COMMANDS, re.MULTILINE)) == len(PARSERS)


# --- the services


@EVERY
def test_a_service_has_its_template_schedule_and_part_of_the_runbook(name):
    has = attributes(block(SERVICES, f'template Service "conntrack-{name}"'))
    assert has["check_command"] == f'"conntrack_{name}"'
    inside = block(SERVICES, f'template Service "conntrack-{name}"')
    address = f'notes_url = ConntrackRunbook + "#conntrack-{name}"'
    assert f"\tif (ConntrackRunbook) {{\n\t\t{address}\n\t}}\n" in inside
    assert json.loads(has["notes"]).endswith(f" Runbook: {RUNBOOK}, conntrack {name}")
    assert has["groups"] == '[ "conntrack" ]'
    assert seconds(has["retry_interval"]) < seconds(has["check_interval"])
    applied = block(SERVICES, f'apply Service "conntrack-{name}"')
    assert f'import "conntrack-{name}"' in applied
    assert f"host.vars.conntrack_{name} != false" in applied


@EVERY
def test_nagios_has_the_same_schedule(name):
    objects = (FOLDER.parent / "nrpe" / "nagios.cfg").read_text().split("}")
    (service,) = (each for each in objects if f"service_description    conntrack-{name}\n" in each)
    there = dict(re.findall(r"^    (\w+) +(.+)$", service, re.MULTILINE))
    here = attributes(block(SERVICES, f'template Service "conntrack-{name}"'))
    for interval in ("check_interval", "retry_interval"):
        assert 60 * float(there[interval]) == seconds(here[interval])
    assert there["max_check_attempts"] == here["max_check_attempts"]
    assert there["low_flap_threshold"] == here["flapping_threshold_low"]
    assert there["high_flap_threshold"] == here["flapping_threshold_high"]
    assert there["display_name"] == json.loads(here["display_name"])
    assert "notes_url" not in there
    assert there["notes"].endswith(f". Runbook: {RUNBOOK}, conntrack {name}")


def test_what_was_lost_is_found_within_one_run():
    has = attributes(block(SERVICES, 'template Service "conntrack-full"'))
    assert has["max_check_attempts"] == "1"
    assert seconds(has["check_interval"]) < full_check.DEFAULT_WINDOW


def test_variables_in_the_services_are_ones_that_a_command_knows():
    known = {
        argument.get("value", argument.get("set_if")).strip("$")
        for name in PARSERS
        for argument in arguments(name).values()
    }
    driving = {"conntrack_netns", *(f"conntrack_{name}" for name in PARSERS)}
    driving |= {f"conntrack_usage_nrpe_{what}" for what in ("command", "arguments")}
    assert set(re.findall(r"\bconntrack_\w+", SERVICES)) - driving <= known
    assert set(re.findall(r'"(conntrack_\w+)"', SERVICES)) <= {f"conntrack_{n}" for n in PARSERS}


# --- the basket


@EVERY
def test_the_basket_has_the_same_commands(name):
    command = BASKET["Command"][f"conntrack_{name}"]
    here = attributes(block(COMMANDS, f'object CheckCommand "conntrack_{name}"'))
    assert command["object_name"] == f"conntrack_{name}"
    # The Director writes a prefix before " + " as it stands, and what follows as a string.
    constant, path = command["command"].split(" + ")
    assert here["command"] == f'[ {constant} + "{path}" ]'
    assert command["timeout"] == str(seconds(here["timeout"]))
    assert command["vars"] == own_variables(name)
    there = {}
    for key, argument in command["arguments"].items():
        there[key] = dict(argument)
        if there[key].pop("set_if_format", "string") == "expression":
            there[key]["set_if"] = f"{{{{ {argument['set_if']} }}}}"
    assert there == arguments(name)


@EVERY
def test_every_variable_is_a_data_field_of_its_command(name):
    fields = BASKET["Datafield"]
    command = BASKET["Command"][f"conntrack_{name}"]
    linked = [fields[str(each["datafield_id"])] for each in command["fields"]]
    wanted = {}
    for long, action in judged(name).items():
        kind = "String"
        if isinstance(action, argparse._AppendAction):
            kind = "Array"
        elif isinstance(action, argparse._CountAction) or isinstance(action.default, int):
            kind = "Boolean" if action.nargs == 0 and action.const is True else "Number"
        variable = f"conntrack_{name}_{long[2:].replace('-', '_')}"
        wanted[variable] = f"Icinga\\Module\\Director\\DataType\\DataType{kind}"
    assert {field["varname"]: field["datatype"] for field in linked} == wanted
    assert all(field["description"] and field["caption"] for field in linked)


def test_each_data_field_is_used_once_and_is_of_a_variable_of_its_own():
    used = [
        field["datafield_id"]
        for kind in ("Command", "ServiceTemplate", "HostTemplate")
        for each in BASKET[kind].values()
        for field in each["fields"]
    ]
    assert sorted(used) == list(range(1, len(BASKET["Datafield"]) + 1))
    names = [field["varname"] for field in BASKET["Datafield"].values()]
    assert len(set(names)) == len(names)


@EVERY
def test_the_basket_has_the_same_schedule(name):
    here = attributes(block(SERVICES, f'template Service "conntrack-{name}"'))
    there = BASKET["ServiceTemplate"][f"conntrack-{name}"]
    # Numbers are text, as the Director writes them itself.
    for interval in ("check_interval", "retry_interval"):
        assert there[interval] == str(seconds(here[interval]))
    for number in ("max_check_attempts", "flapping_threshold_low", "flapping_threshold_high"):
        assert there[number] == here[number]
    for text in ("check_command", "display_name", "notes"):
        assert there[text] == json.loads(here[text])
    assert there["imports"] == ["conntrack-service"]
    common = BASKET["ServiceTemplate"]["conntrack-service"]
    assert common["enable_flapping"] is (here["enable_flapping"] == "true")
    assert common["groups"] == json.loads(here["groups"])


def test_no_address_of_the_runbook_is_in_the_basket():
    assert "notes_url" not in json.dumps(BASKET)


def test_the_host_template_has_the_agent_that_its_services_run_on():
    assert BASKET["ServiceTemplate"]["conntrack-service"]["use_agent"] is True
    assert BASKET["HostTemplate"]["conntrack"]["has_agent"] is True


def test_keys_of_the_basket_are_in_the_directors_order():
    kinds = ("Command", "ServiceTemplate", "HostTemplate", "ServiceSet", "Dependency")
    for each in (one for kind in kinds for one in BASKET[kind].values()):
        assert list(each) == sorted(each)
        assert list(each.get("vars", {})) == sorted(each.get("vars", {}))


def test_nothing_in_the_basket_has_its_default():
    """The Director leaves it out, and would call what is restored from it modified."""

    def look(value):
        if isinstance(value, dict):
            for key, each in value.items():
                assert (key, each) not in [("imports", []), ("vars", {}), ("disabled", False)]
                assert key in ("format", "category", "var_filter") or each is not None, key
                look(each)
        elif isinstance(value, list):
            for each in value:
                look(each)

    look(BASKET)


def test_the_basket_has_the_same_services_and_dependency():
    (chosen,) = BASKET["ServiceSet"].values()
    applied = set(re.findall(r'^apply Service "([^"]+)"', SERVICES, re.MULTILINE))
    assert set(chosen["services"]) == applied
    assert all(
        each["imports"][0] in BASKET["ServiceTemplate"] for each in chosen["services"].values()
    )
    here = attributes(block(SERVICES, 'apply Dependency "conntrack-usage" to Service'))
    (there,) = BASKET["Dependency"].values()
    assert there["states"] == sorted(here["states"].strip("[ ]").split(", "), key=str.upper)
    assert "Critical" not in there["states"]
    assert there["disable_checks"] is (here["disable_checks"] == "true")
    assert there["disable_notifications"] is (here["disable_notifications"] == "true")
    assert there["parent_service_by_name"] == json.loads(here["parent_service_name"])
