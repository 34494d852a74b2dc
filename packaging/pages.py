#!/usr/bin/env python3
"""Write man pages and completions (bash, zsh) from the parsers and label tables of the checks.

    pages.py OUT [--plugins DIR] [--user USER]

writes OUT/man/CHECK.1, OUT/bash/CHECK and OUT/zsh/_CHECK. The texts on options, labels, ranges and
examples come from the checks. This file has what a parser does not know: files, privileges, and how
to complete a value. Pages are dated by SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "plugins"))

from check_conntrack import __version__, cli  # noqa: E402
from check_conntrack.launch import MODULES  # noqa: E402
from check_conntrack.ranges import Label  # noqa: E402
from check_conntrack.state.state_store import SHARED, STATE_VARIABLE  # noqa: E402

CHECKS = ("usage", "full", "table")
SYSCTLS = "/proc/sys/net/netfilter/"

# How to complete the value of an option, by its metavar: a kind of value, or words.
KINDS = {
    "[LABEL=]RANGE": "label",
    "DIR": "folder",
    "NS": "namespace",
    "PATH": "file",
    "SOURCE": "file",
    "FILE": "file",
    "USER": "user",
}
WORDS = {
    "PATH": ("auto", "-"),
    "SOURCE": ("auto", "netlink", "proc", "conntrack", "-"),
    "ZONE": ("UTC", "+00:00", "Europe/Berlin"),
    "WINDOW": ("15m", "boot", "last", "all"),
    "V4/V6": ("32/128", "24/64", "16/48"),
    "PROTOCOL": ("tcp", "udp", "icmp", "icmpv6", "sctp", "gre"),
}

FILES = {
    "usage": [
        (SYSCTLS + "nf_conntrack_count", "the number of entries, with nf_conntrack_max and "
         "nf_conntrack_buckets beside it"),
    ],
    "full": [
        ("/dev/kmsg", "the kernel's ring buffer"),
        ("/run/log/journal, /var/log/journal", "the journal"),
        ("/var/log/kern.log, /var/log/messages, /var/log/syslog", "logs of a syslog daemon, with "
         "their rotated parts"),
        ("/proc/net/stat/nf_conntrack", "the counters of each processor; if the kernel has no "
         "such file, they come over ctnetlink"),
        (SYSCTLS + "nf_conntrack_count", "the number of entries, with nf_conntrack_max beside it"),
    ],
    "table": [
        ("/proc/net/nf_conntrack", "the entries, if they do not come over ctnetlink"),
        (SYSCTLS + "nf_conntrack_count", "the number of entries, with nf_conntrack_max and "
         "nf_conntrack_buckets beside it"),
    ],
}  # fmt: skip
PRIVILEGES = {
    "usage": "The check needs no privileges for the namespace that it runs in, but CAP_NET_ADMIN "
    "for --listen. Other namespaces (--netns) need CAP_SYS_ADMIN.",
    "full": "The journal needs the group systemd-journal, log files the group adm. The ring buffer "
    "needs CAP_SYSLOG if kernel.dmesg_restrict is set. Counters need CAP_NET_ADMIN if the kernel "
    "has no /proc/net/stat/nf_conntrack. Other namespaces (--netns) need CAP_SYS_ADMIN.",
    "table": "Reading the entries needs CAP_NET_ADMIN (ctnetlink), or root (/proc). Other "
    "namespaces (--netns) need CAP_SYS_ADMIN. A collected file (--source) only has to be readable.",
}
SEE_ALSO = {
    "usage": ("sysctl(8)", "ip-netns(8)"),
    "full": ("dmesg(1)", "journalctl(1)", "ip-netns(8)"),
    "table": ("conntrack(8)", "nft(8)", "ip-netns(8)"),
}


class Check:
    """A check, as described by its module and its executable."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.module = importlib.import_module("check_conntrack." + MODULES[key])
        self.name = f"check_conntrack_{key}"
        self.parser = self.module.parser()
        self.labels: tuple[Label, ...] = self.module.LABELS
        document = ast.get_docstring(ast.parse((ROOT / "plugins" / self.name).read_text())) or ""
        purpose = document.partition("?")[0].rstrip(".")
        self.summary = purpose[0].lower() + purpose[1:]

    @property
    def actions(self) -> list[argparse.Action]:
        """Return its options, in the order of the help page."""
        return [action for _, actions in self.groups for action in actions]

    @property
    def groups(self) -> list[tuple[str, list[argparse.Action]]]:
        """Return its options under their titles, those of all checks first."""
        found = [(group.title or "", group._group_actions) for group in self.parser._action_groups]
        return [(title, actions) for title, actions in found if actions]


# --- roff


def plain(text: str) -> str:
    """Return text in roff; words that look like options keep their ASCII hyphens."""
    text = text.replace("\\", "\\e").replace("~", "\\(ti").replace("^", "\\(ha")
    text = re.sub(r"(?<![\w-])-{1,2}(?=[\w-]|\s|$)\S*", lambda word: _hyphens(word[0]), text)
    text = re.sub(r"(?<=/)\S*", lambda path: _hyphens(path[0]), text)
    # Do not divide names and options. Within a word the same sign would allow it.
    text = re.sub(r"(?<!\S)(?=\S*(?:_|::|/|\\-)\S)", r"\\%", text)
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def literal(text: str) -> str:
    """Return text in roff that is to be typed: no character may be replaced."""
    text = text.replace("\\", "\\e").replace("~", "\\(ti").replace("^", "\\(ha")
    text = text.replace("'", "\\(aq").replace("`", "\\(ga")
    return re.sub(r"^([.'])", r"\\&\1", _hyphens(text), flags=re.MULTILINE)


def _hyphens(text: str) -> str:
    return re.sub(r"(?<!\\)-", r"\\-", text)


def bold(text: str) -> str:
    """Return literal text in bold."""
    return f"\\fB{literal(text)}\\fR"


def italic(text: str) -> str:
    """Return literal text in italics, for a placeholder."""
    return f"\\fI{literal(text)}\\fR"


def paragraph(text: str) -> str:
    """Return text as one paragraph."""
    return plain(" ".join(text.split()))


def spelled(action: argparse.Action, separator: str = ", ") -> str:
    """Return the spellings of an option with its value."""
    value = "" if action.nargs == 0 else " " + italic(str(action.metavar))
    return separator.join(bold(option) + value for option in action.option_strings)


def synopsis(check: Check) -> str:
    """Return every option once, in its first spelling."""
    parts = []
    for action in check.actions:
        value = "" if action.nargs == 0 else " " + italic(str(action.metavar))
        value = value.replace(" ", "\\ ")
        more = "..." if type(action).__name__ in ("_AppendAction", "_CountAction") else ""
        parts.append(f"[{bold(action.option_strings[0])}{value}]{more}")
    return "\n".join([bold(check.name), *parts])


def options(check: Check) -> list[str]:
    """Return the options and their meaning, those of this check first."""
    lines = []
    own, *others = reversed(check.groups)
    for title, actions in (("Of this check", own[1]), *(("Of every check", a) for _, a in others)):
        lines.append(f".SS {title}")
        for action in actions:
            lines += [".TP", spelled(action), paragraph(action.help or "")]
    return lines


def perfdata(check: Check) -> list[str]:
    """Return labels, units and defaults; labels without a meaning share the one before them."""
    lines = []
    at = 0
    while at < len(check.labels):
        end = at + 1
        while end < len(check.labels) and not check.labels[end].meaning:
            end += 1
        for number, label in enumerate(check.labels[at:end]):
            facts = [{"c": "counter"}.get(label.unit, label.unit)]
            facts += [f"{o} {v}" for o, v in (("-w", label.warning), ("-c", label.critical)) if v]
            shown = ", ".join(filter(None, facts))
            lines.append(".TQ" if number else ".TP")
            lines.append(bold(label.name) + (f" ({literal(shown)})" if shown else ""))
        lines.append(paragraph(re.sub(r", as the next \w+$", "", check.labels[at].meaning)))
        at = end
    names = ", ".join(f"NAME::{name}" for name in check.module.NAMESPACE_LABELS)
    further = f"With {{}} of several namespaces each further one adds {names}."
    return [*lines, ".PP", paragraph(further.format("--netns"))]


def examples(text: str) -> list[str]:
    """Return the command lines of the help page."""
    lines = [line.strip() for line in text.splitlines()[1:]]
    return [".EX", *(".RS 4\n" + literal(line) + "\n.RE" for line in lines if line), ".EE"]


def verbatim(text: str) -> list[str]:
    """Return lines that are printed unchanged."""
    return [".RS 4", ".EX", *map(literal, text.rstrip("\n").splitlines()), ".EE", ".RE"]


def man_page(check: Check, plugins: str, user: str) -> str:
    """Return the whole page, in the man macros that every roff has."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    date = time.strftime("%Y-%m-%d", time.gmtime(epoch))
    reader = f"{plugins}/check_conntrack/kernel/reader.py"
    ranges_head, _, ranges = cli.RANGES.partition("\n")
    others = [f"check_conntrack_{key}(1)" for key in CHECKS if key != check.key]
    see = [*others, *SEE_ALSO[check.key], "sudoers(5)"]
    files = [
        *FILES[check.key],
        (reader, "the reader: the only program that is started with privileges"),
        ("/etc/sudoers.d/check-conntrack", "who may start it, once an administrator activates it"),
        (f"{SHARED}, ~/.local/state/check-conntrack", "the history of earlier runs, a directory "
         "for each user: without --state-dir, the first one that can be written"),
    ]  # fmt: skip
    head = [check.name.upper(), "1", date, f"check-conntrack {__version__}", "Monitoring Plugins"]
    lines = [
        ".TH " + " ".join(f'"{literal(word)}"' for word in head),
        ".ad l",
        ".SH NAME",
        f"{literal(check.name)} \\- {plain(check.summary)}",
        ".SH SYNOPSIS",
        ".nh",
        synopsis(check),
        ".SH DESCRIPTION",
        paragraph(check.module.PURPOSE),
        ".PP",
        "A plugin for Nagios, Icinga and compatible monitoring systems. It prints one status line "
        "with performance data, long output below a problem, and returns the state as exit code.",
        ".SH OPTIONS",
        *options(check),
        ".SS Ranges",
        paragraph(ranges_head),
        *verbatim(ranges),
        ".PP",
        paragraph(cli.QUOTES),
        ".PP",
        paragraph(cli.UNITS),
        ".SH PERFDATA",
        "Unit and default thresholds are in parentheses.",
        *perfdata(check),
        ".SH STATES",
        paragraph(cli.STATES),
        ".SH FILES",
        *(line for path, what in files for line in (".TP", italic(path), paragraph(what))),
        ".SH ENVIRONMENT",
        ".TP",
        bold(STATE_VARIABLE),
        paragraph("the directory for the history of earlier runs, without --state-dir"),
        ".SH PRIVILEGES",
        paragraph(PRIVILEGES[check.key]),
        ".PP",
        paragraph(
            "The reader reads everything that needs a capability. It understands nothing of it, "
            "and drops its privileges before it writes. --sudo starts it; that needs lines of "
            "sudoers(5) such as these. The check prints the lines for its installation:"
        ),
        *verbatim(f"Defaults!{reader} !use_pty"),
        *verbatim(f'{user} ALL=(root) NOPASSWD: {reader} ""'),
        ".PP",
        paragraph(
            "If a privilege is missing, the check is UNKNOWN and prints what to grant, and to "
            "which user. A check that is started as root becomes --user, else the user who called "
            "sudo, else the owner of the state directory, else nobody, before it parses anything."
        ),
        ".SH EXAMPLES",
        *examples(check.module.EXAMPLES),
        ".SH SEE ALSO",
        ",\n".join(
            re.sub(r"(.*)(\(\d\))", lambda m: "\\%" + bold(m[1]) + m[2], page) for page in see
        ),
    ]
    return "\n".join(lines) + "\n"


# --- completion


def values(action: argparse.Action) -> tuple[str, list[str]]:
    """Return how to complete an option's value: a kind, and words."""
    metavar = str(action.metavar)
    words = [str(choice) for choice in action.choices or WORDS.get(metavar, ())]
    return KINDS.get(metavar, ""), words


BASH = {
    "folder": 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$word")',
    "user": 'mapfile -t COMPREPLY < <(compgen -u -- "$word")',
    "namespace": "mapfile -t COMPREPLY < "
    '<(compgen -W "all $(ls /run/netns 2>/dev/null)" -- "$word")',
}


def bash(check: Check) -> str:
    """Return the completion for bash, which uses only its built-ins."""
    cases = []
    for action in check.actions:
        if action.nargs == 0:
            continue
        kind, words = values(action)
        if kind == "label":
            names = " ".join(f"{label.name}=" for label in check.labels)
            body = (
                f"compopt -o nospace; mapfile -t COMPREPLY < <(compgen -W '{names}' -- \"$word\")"
            )
        elif kind == "file":
            listed = " ".join(words)
            body = (
                f"compopt -o filenames; mapfile -t COMPREPLY < "
                f"<(compgen -f -W '{listed}' -- \"$word\")"
            )
        elif words:
            body = f"mapfile -t COMPREPLY < <(compgen -W '{' '.join(words)}' -- \"$word\")"
        else:
            body = BASH.get(kind, ":")
        cases.append(f"        {'|'.join(action.option_strings)})\n            {body} ;;")
    every = " ".join(option for action in check.actions for option in action.option_strings)
    lines = "\n".join(cases)
    return f"""\
# bash completion of {check.name}, generated from its parser

_{check.name}() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} option=${{COMP_WORDS[COMP_CWORD - 1]}}
    COMPREPLY=()
    # bash takes the = of --option=value as a word.
    if [[ $word == "=" ]]; then
        word=
    elif [[ $option == "=" ]] && ((COMP_CWORD > 2)); then
        option=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    case $option in
{lines}
        *)
            [[ $word == -* || -z $word ]] &&
                mapfile -t COMPREPLY < <(compgen -W '{every}' -- "$word") ;;
    esac
}} && complete -F _{check.name} {check.name}
"""


ZSH = {
    "folder": "_directories",
    "user": "_users",
    "namespace": "{compadd -- all /run/netns/*(N\\:t)}",
}


def zsh(check: Check) -> str:
    """Return the completion for zsh, a call of its _arguments."""
    specs = []
    for action in check.actions:
        many = type(action).__name__ in ("_AppendAction", "_CountAction")
        spellings = action.option_strings
        others = f"'({' '.join(spellings)})'" if len(spellings) > 1 else ""
        first = "'*'" if many else others
        takes = action.nargs != 0
        shown = [
            option + ("=" if takes and option.startswith("--") else "") for option in spellings
        ]
        shown = [
            option + ("+" if takes and not option.startswith("--") else "") for option in shown
        ]
        options_ = "{" + ",".join(shown) + "}" if len(shown) > 1 else shown[0]
        text = f"[{_zsh(' '.join((action.help or '').split()))}]"
        if takes:
            kind, words = values(action)
            if kind == "label":
                names = " ".join(f"{label.name}=" for label in check.labels)
                way = f'{{compadd -S "" -- {names}}}'
            elif kind == "file":
                way = "{compadd -- " + " ".join(words) + "; _files}"
            else:
                way = f"({' '.join(words)})" if words else ZSH.get(kind, " ")
            text += f":{_zsh(str(action.metavar))}:{way}"
        specs.append(f"    {first}{options_}'{text}'")
    return (
        f"#compdef {check.name}\n# generated from its parser\n\n_arguments -s -S \\\n"
        + " \\\n".join(specs)
        + "\n"
    )


def _zsh(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text).replace("'", "'\\''")


# --- files


def main() -> int:
    """Write all files; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--plugins", default="/usr/lib/nagios/plugins")
    parser.add_argument("--user", default="nagios")
    wanted = parser.parse_args()
    for check in map(Check, CHECKS):
        for path, text in (
            (wanted.out / "man" / f"{check.name}.1", man_page(check, wanted.plugins, wanted.user)),
            (wanted.out / "bash" / check.name, bash(check)),
            (wanted.out / "zsh" / f"_{check.name}", zsh(check)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
