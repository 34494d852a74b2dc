#!/usr/bin/env python3
"""Write the CheckCommands and the Director's basket from the command lines of the checks.

Every option becomes an argument with a custom variable of its own, so none is forgotten. Run it
when an option changes (`make definitions`); a test fails until that is done.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from check_conntrack.full import full_check
from check_conntrack.table import table_check
from check_conntrack.usage import usage_check

HERE = Path(__file__).parent
COMMANDS = HERE / "conntrack-commands.conf"
BASKET = HERE / "conntrack-basket.json"

# Where the packages install it.
RUNBOOK = "/usr/share/doc/monitoring-plugins-conntrack/runbook.md"
# Seconds until Icinga ends a check. The check itself gives up earlier, after --timeout, and says
# what it was waiting for.
TIMEOUT = 60
# Options that print a page instead of a verdict.
PAGES = ("--help", "--version")
# The basket's template of all services.
COMMON = "conntrack-service"
# Defaults that differ from those of the checks: agents are expected to have the shipped sudoers
# file. The checks use sudo only where they lack a privilege.
DEFAULTS = {"sudo": True}
# Counting new entries for a second tells where the table is heading. Where the reader may not do so
# a line of the output says it. An address is worth little without its owner. nrpe/conntrack.cfg has
# the reasons of the thresholds.
DEFAULTS_OF = {
    "usage": {
        "listen": "1s",
        "warning": ["time_to_full=1h:"],
        "critical": ["time_to_full=10m:"],
    },
    "table": {"critical": ["98"], "names": True},
}
# Thresholds that hold while a host sets no others. These are no variables, because a host may set
# one threshold alone: the check would refuse a warning of 95 beside a critical threshold of 85.
BOUNDS = {"usage": {"-c": "98", "-w": "95"}}
MORE = {"--timeout": f"; Icinga itself ends the check after {TIMEOUT} s, see check_timeout"}
NUMBERS = ("top", "max_entries", "keep", "verbose")

HEADER = """\
/* Icinga 2: the commands of check-conntrack, with one custom variable for each option.
 *
 * Written by generate.py from the command lines of the checks. An option that may be repeated takes
 * a value or an array of values. Thresholds are [LABEL=]RANGE:
 *   vars.conntrack_usage_warning = [ "70", "time_to_full=4h:" ]
 * A value of a host replaces the shipped one as a whole: repeat time_to_full in it. usage is 95 and
 * 98 while a host sets neither warning nor critical, else the check's own 80 and 90.
 * Write $$ for a $ in a value. The plugins are in PluginContribDir (constants.conf).
 */
"""


class Check(NamedTuple):
    """A check and its services' schedule; times in seconds, flapping in percent."""

    name: str
    parser: argparse.ArgumentParser
    display: str
    notes: str
    check_interval: int
    retry_interval: int
    attempts: int
    flapping_low: int
    flapping_high: int

    @property
    def command(self) -> str:
        """Return the name of the CheckCommand, which its custom variables begin with."""
        return f"conntrack_{self.name}"

    @property
    def service(self) -> str:
        """Return the name of the service template, of the service, and of the runbook's chapter."""
        return f"conntrack-{self.name}"

    @property
    def all_notes(self) -> str:
        """Return the notes, with the place of the runbook."""
        return f"{self.notes} Runbook: {RUNBOOK}, conntrack {self.name}"


CHECKS = (
    Check(
        "usage",
        usage_check.parser(),
        "Connection tracking: usage",
        "How full the connection-tracking table is, and when it will be full.",
        60,
        30,
        3,
        15,
        30,
    ),
    Check(
        "full",
        full_check.parser(),
        "Connection tracking: drops",
        "Whether the connection-tracking table has been full, and what was lost.",
        300,
        60,
        1,
        25,
        50,
    ),
    Check(
        "table",
        table_check.parser(),
        "Connection tracking: contents",
        "What fills the connection-tracking table, why, and what to do.",
        300,
        60,
        3,
        20,
        40,
    ),
)


class Option(NamedTuple):
    """An option of a check as a custom variable; `level` is the number of v in -v, -vv, -vvv.

    An option with a `fixed` value and a `condition` has no variable.
    """

    key: str
    variable: str
    description: str
    flag: bool = False
    repeatable: bool = False
    number: bool = False
    level: int = 0
    fixed: str = ""
    condition: str = ""

    @property
    def set_if(self) -> str:
        """Return the condition in Icinga's language; empty if there is none."""
        if not self.level:
            return self.condition
        compare = ">=" if self.level == 3 else "=="
        return f'number(macro("${self.variable}$")) {compare} {self.level}'


def options(check: Check) -> list[Option]:
    """Return the options of a check, in the order of its help page."""
    found = []
    for action in check.parser._actions:
        long = next(option for option in action.option_strings if option.startswith("--"))
        if long in PAGES:
            continue
        variable = f"{check.command}_{long[2:].replace('-', '_')}"
        text = str(action.help)
        if " (default" not in text.partition(":")[0]:
            text = text[0].upper() + text[1:]
        text += MORE.get(long, "")
        if isinstance(action, argparse._CountAction):
            found.append(
                Option("-v", variable, "More long output: 1, 2 or 3", number=True, level=1)
            )
            found += [Option("-" + "v" * n, variable, text, number=True, level=n) for n in (2, 3)]
            continue
        found.append(
            Option(
                long,
                variable,
                text,
                flag=action.nargs == 0,
                repeatable=isinstance(action, argparse._AppendAction),
                number=action.dest in NUMBERS,
            )
        )
    return found


def bounds(check: Check) -> list[Option]:
    """Return the thresholds of BOUNDS as options."""
    shipped = {f"{check.command}_{name}": value for name, value in defaults(check).items()}
    variables = [f"{check.command}_{name}" for name in ("warning", "critical")]
    condition = " && ".join(
        f'macro("${name}$") == {json.dumps(shipped.get(name))}' for name in variables
    )
    text = "usage above {}%, while neither warning nor critical is set for the host"
    return [
        Option(key, "", text.format(value), fixed=value, condition=condition)
        for key, value in BOUNDS.get(check.name, {}).items()
    ]


def defaults(check: Check) -> dict[str, Any]:
    """Return the values of the custom variables that a command sets itself, sorted by name."""
    return dict(sorted({**DEFAULTS, **DEFAULTS_OF.get(check.name, {})}.items()))


def quoted(text: str) -> str:
    """Return a string of Icinga's language."""
    return json.dumps(text, ensure_ascii=True)


# --- CheckCommands


def commands() -> str:
    """Return the text of conntrack-commands.conf."""
    return HEADER + "".join(_command(check) for check in CHECKS)


def _command(check: Check) -> str:
    lines = [
        "",
        f"object CheckCommand {quoted(check.command)} {{",
        f"\tcommand = [ PluginContribDir + {quoted('/check_' + check.command)} ]",
        f"\ttimeout = {TIMEOUT}s",
        "",
        "\targuments = {",
    ]
    for option in [*options(check), *bounds(check)]:
        lines.append(f"\t\t{quoted(option.key)} = {{")
        if option.set_if:
            lines.append(f"\t\t\tset_if = {{{{ {option.set_if} }}}}")
        if option.fixed:
            lines.append(f"\t\t\tvalue = {quoted(option.fixed)}")
        elif not option.level:
            attribute = "set_if" if option.flag else "value"
            lines.append(f"\t\t\t{attribute} = {quoted(f'${option.variable}$')}")
        if option.level < 2:
            lines.append(f"\t\t\tdescription = {quoted(option.description)}")
        if option.repeatable:
            lines.append("\t\t\trepeat_key = true")
        lines.append("\t\t}")
    lines += ["\t}", ""]
    lines += [
        f"\tvars.{check.command}_{name} = {json.dumps(value)}"
        for name, value in defaults(check).items()
    ]
    return "\n".join([*lines, "}", ""])


# --- the Director's basket


def basket() -> str:
    """Return the text of conntrack-basket.json, byte for byte as the Director itself dumps it.

    That is: keys in its order, numbers of objects as text, and nothing that has its default; all
    else is "modified" when it is compared with a restored basket. It has none of the UUIDs that the
    Director exports from version 1.11 on: older versions refuse them, and newer ones find an object
    by its name.
    """
    fields: dict[str, dict[str, Any]] = {}
    made: dict[str, Any] = {
        "Command": {check.command: _basket_command(check, fields) for check in CHECKS},
        "ServiceGroup": {
            "conntrack": {
                "display_name": "Connection tracking",
                "object_name": "conntrack",
                "object_type": "object",
            }
        },
        "ServiceTemplate": {
            COMMON: _basket_common(),
            **{check.service: _basket_template(check) for check in CHECKS},
        },
        "HostTemplate": {"conntrack": _basket_host(fields)},
        "ServiceSet": {"conntrack": _basket_set()},
        "Dependency": {"conntrack-usage": _basket_dependency()},
        "Datafield": fields,
    }
    return json.dumps(made, indent=4) + "\n"


def _field(
    fields: dict[str, dict[str, Any]], variable: str, caption: str, text: str, kind: str
) -> dict[str, Any]:
    """Return a new data field, and the reference to it."""
    number = len(fields) + 1
    fields[str(number)] = {
        "varname": variable,
        "caption": caption,
        "description": text,
        "datatype": f"Icinga\\Module\\Director\\DataType\\DataType{kind}",
        "format": None,
        "originalId": str(number),
        "settings": {"visibility": "visible"} if kind == "String" else {},
        "category": None,
    }
    return {"datafield_id": number, "is_required": "n", "var_filter": None}


def _kind(option: Option) -> str:
    if option.flag:
        return "Boolean"
    if option.repeatable:
        return "Array"
    return "Number" if option.number else "String"


def _basket_command(check: Check, fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found = options(check)
    references = []
    for option in sorted(found, key=lambda each: each.variable):
        if option.level < 2:
            caption = f"Conntrack {check.name}: {option.variable[len(check.command) + 1 :]}"
            references.append(
                _field(fields, option.variable, caption, option.description, _kind(option))
            )
    return {
        "arguments": {
            option.key: _basket_argument(option)
            for option in sorted([*found, *bounds(check)], key=lambda each: each.key)
        },
        "command": f"PluginContribDir + /check_{check.command}",
        "fields": references,
        "methods_execute": "PluginCheck",
        "object_name": check.command,
        "object_type": "object",
        "timeout": str(TIMEOUT),
        "vars": {f"{check.command}_{name}": value for name, value in defaults(check).items()},
    }


def _basket_argument(option: Option) -> dict[str, Any]:
    argument: dict[str, Any] = {}
    if option.level < 2:
        argument["description"] = option.description
    if option.repeatable:
        argument["repeat_key"] = True
    if option.set_if:
        argument["set_if"] = option.set_if
        argument["set_if_format"] = "expression"
    if option.fixed:
        argument["value"] = option.fixed
    elif option.level:
        pass
    elif option.flag:
        argument["set_if"] = f"${option.variable}$"
        argument["set_if_format"] = "string"
    else:
        argument["value"] = f"${option.variable}$"
    return argument


def _basket_common() -> dict[str, Any]:
    """Return the template that all services import: the one place for a notes_url."""
    return {
        "enable_flapping": True,
        "fields": [],
        "groups": ["conntrack"],
        "object_name": COMMON,
        "object_type": "template",
        "use_agent": True,
    }


def _basket_template(check: Check) -> dict[str, Any]:
    return {
        "check_command": check.command,
        "check_interval": str(check.check_interval),
        "display_name": check.display,
        "fields": [],
        "flapping_threshold_high": str(check.flapping_high),
        "flapping_threshold_low": str(check.flapping_low),
        "imports": [COMMON],
        "max_check_attempts": str(check.attempts),
        "notes": check.all_notes,
        "object_name": check.service,
        "object_type": "template",
        "retry_interval": str(check.retry_interval),
    }


def _basket_host(fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a host template; the services run on the host's agent, which therefore must exist."""
    text = "Network namespaces of the host, each with a usage service of its own"
    return {
        "fields": [_field(fields, "conntrack_netns", "Conntrack: namespaces", text, "Array")],
        "has_agent": True,
        "object_name": "conntrack",
        "object_type": "template",
        "vars": {"conntrack": True},
    }


def _basket_set() -> dict[str, Any]:
    services: dict[str, dict[str, Any]] = {
        check.service: {
            "fields": [],
            "imports": [check.service],
            "object_name": check.service,
            "object_type": "object",
        }
        for check in CHECKS
    }
    services["conntrack-usage-"] = {
        "apply_for": "host.vars.conntrack_netns",
        "display_name": "Connection tracking: usage in $config$",
        "fields": [],
        "imports": ["conntrack-usage"],
        "object_name": "conntrack-usage-",
        "object_type": "object",
        "vars": {"conntrack_usage_netns": "$config$", "conntrack_usage_state_key": "$config$"},
    }
    return {
        "assign_filter": "host.vars.conntrack=true",
        "description": "What check-conntrack watches on a host",
        "object_name": "conntrack",
        "object_type": "template",
        "services": dict(sorted(services.items())),
    }


def _basket_dependency() -> dict[str, Any]:
    return {
        "apply_to": "service",
        "assign_filter": 'service.name="conntrack-table"&host.vars.conntrack=true',
        "disable_checks": False,
        "disable_notifications": True,
        "object_name": "conntrack-usage",
        "object_type": "apply",
        "parent_service_by_name": "conntrack-usage",
        "states": ["OK", "Unknown", "Warning"],
    }


def main() -> int:
    """Write both files; return the exit status."""
    COMMANDS.write_text(commands())
    BASKET.write_text(basket())
    return 0


if __name__ == "__main__":
    sys.exit(main())
