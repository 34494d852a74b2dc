"""Man pages and completions say what the parsers say, and the shells complete by them."""

from __future__ import annotations

import importlib
import os
import pty
import re
import select
import signal
import subprocess

import pytest

from check_conntrack.launch import MODULES
from check_conntrack.runner import UsageError

from .conftest import CHECKS, done

SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "PERFDATA", "STATES", "FILES",
            "ENVIRONMENT", "PRIVILEGES", "EXAMPLES", "SEE ALSO"]  # fmt: skip


def module(check):
    return importlib.import_module(
        "check_conntrack." + MODULES[check.replace("check_conntrack_", "")]
    )


def actions(check):
    return [action for action in module(check).parser()._actions if action.option_strings]


@pytest.fixture(params=CHECKS)
def check(request):
    return request.param


@pytest.fixture
def shown(check, pages, need):
    """A page as a terminal shows it, as wide as need be."""
    need("man", root=False)
    environment = {**os.environ, "MANWIDTH": "500", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"}
    return done("man", "-l", pages / "man" / f"{check}.1", env=environment)


def test_a_page_renders_without_a_warning(check, pages, need):
    need("man", root=False)
    page = pages / "man" / f"{check}.1"
    for device in ("utf8", "ascii"):
        command = ["man", "--warnings", "-E", "UTF-8", "-l", f"-T{device}", "-Z", page]
        ended = subprocess.run(command, capture_output=True, env={**os.environ, "MANWIDTH": "80"})
        assert (ended.returncode, ended.stderr) == (0, b"")
    assert done("lexgrog", page).startswith(f'{page}: "{check} - ')


def test_a_page_has_its_sections_in_order(shown):
    assert re.findall(r"^([A-Z][A-Z ]+)$", shown, re.MULTILINE) == SECTIONS


def test_a_page_has_every_option_with_what_it_means(check, shown):
    options = shown[shown.index("\nOPTIONS") : shown.index("\nPERFDATA")]
    for action in actions(check):
        value = "" if action.nargs == 0 else f" {action.metavar}"
        spelled = ", ".join(option + value for option in action.option_strings)
        words = " ".join(action.help.split())
        entry = rf"^ +{re.escape(spelled)}\s+{re.escape(words)}$"
        assert re.search(entry, options, re.MULTILINE), spelled
        short = re.escape(action.option_strings[0] + value)
        assert re.search(rf"\[{short}\]", shown[: shown.index("\nDESCRIPTION")])


def test_a_page_has_every_label_with_its_unit_and_defaults(check, shown):
    text = shown[shown.index("\nPERFDATA") : shown.index("\nSTATES")]
    for label in module(check).LABELS:
        (line,) = re.findall(rf"^ {{7}}{label.name}(?: .*)?$", text, re.MULTILINE)
        for option, default in (("-w", label.warning), ("-c", label.critical)):
            assert (f"{option} {default}" in line) == bool(default)
        assert ("%" in line) == (label.unit == "%")


def test_examples_stand_as_they_are_typed(check, shown):
    section = shown[shown.index("\nEXAMPLES") : shown.index("\nSEE ALSO")]
    wanted = [line.strip() for line in module(check).EXAMPLES.splitlines()[1:]]
    assert [line.strip() for line in section.splitlines()[2:] if line.strip()] == wanted


# --- completion

# What readline does with a line: the words, the function that completes the command, its answer.
BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMP_LINE="$*"
COMP_POINT=${#COMP_LINE}
compopt() { echo "compopt $*" >&2; }
$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/') "$1" "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def bash(pages, check, *words):
    """Return what bash offers after these words."""
    script = ["bash", "--norc", "-euc", BASH, "bash", pages / "bash" / check]
    ended = subprocess.run([*script, check, *words], capture_output=True, text=True)
    said = [line for line in ended.stderr.splitlines() if not line.startswith("compopt ")]
    assert said == []
    return ended.stdout.split()


# A real zsh at a terminal, whose completion says what it adds, and when it is done.
ZSHRC = """
PS1= PROMPT_EOL_MARK= HISTFILE= LISTMAX=0
fpath=("$PAGES" $fpath)
autoload -Uz compinit && compinit -D -u
compadd() {
    [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\\ * ]] && { builtin compadd "$@"; return }
    typeset -a hits
    builtin compadd -A hits "$@"
    for hit in $hits; do print -r -- "<$hit>"; done
    builtin compadd "$@"
}
over() { print "<over>" }
comppostfuncs=(over)
print "<ready>"
"""


def zsh(pages, check, line, folder):
    """Return what zsh offers where somebody has typed a line, and then the tabulator."""
    (folder / ".zshrc").write_text(ZSHRC)
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(ZDOTDIR=str(folder), PAGES=str(pages / "zsh"), TERM="dumb", LC_ALL="C")
        os.execvp("zsh", ["zsh", "-i"])
    try:
        said = heard(terminal, "<ready>")
        os.write(terminal, f"{check} {line}\t".encode())
        said = heard(terminal, "<over>")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)
    return [hit for hit in re.findall("<([^<>]+)>", said) if hit != "over"]


def heard(terminal, until):
    """Return what a terminal says, until it says this."""
    said = ""
    while until not in said:
        ready, _, _ = select.select([terminal], [], [], 30)
        assert ready, said
        said += os.read(terminal, 65536).decode()
    return said


def test_bash_completes_every_option(check, pages):
    every = [option for action in actions(check) for option in action.option_strings]
    assert bash(pages, check, "") == every
    assert bash(pages, check, "-") == every
    assert bash(pages, check, "--st") == [each for each in every if each.startswith("--st")]
    assert bash(pages, check, "-v", "--exit") == ["--exit-ok"]


@pytest.mark.parametrize("option", ["-w", "--warning", "-c", "--critical"])
def test_bash_completes_every_label_of_a_threshold(check, pages, option):
    labels = [f"{label.name}=" for label in module(check).LABELS]
    assert bash(pages, check, option, "") == labels
    assert bash(pages, check, option, "=", labels[0][:3])[0] == labels[0]
    assert bash(pages, check, option, labels[-1][:-1]) == labels[-1:]
    # What follows a label is a figure.
    assert bash(pages, check, option, labels[0][:-1], "=", "8") == []


def test_bash_completes_what_an_option_takes(check, pages, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for action in actions(check):
        option = action.option_strings[-1]
        if action.choices:
            assert bash(pages, check, option, "") == list(action.choices)
        elif action.metavar == "DIR":
            assert bash(pages, check, option, f"{tmp_path}/f") == [f"{tmp_path}/folder"]
            assert bash(pages, check, option, "=", f"{tmp_path}/f") == [f"{tmp_path}/folder"]
        elif action.metavar in ("PATH", "SOURCE"):
            offered = sorted(bash(pages, check, option, f"{tmp_path}/f"))
            assert offered == [f"{tmp_path}/file", f"{tmp_path}/folder"]
    assert bash(pages, check, "--netns", "al") == ["all"]
    assert "nobody" in bash(pages, check, "--user", "nob")
    assert bash(pages, check, "--timeout", "") == []


def test_words_that_are_offered_are_taken(check, pages):
    parser = module(check).parser()
    offered = 0
    for action in actions(check):
        if action.nargs == 0 or action.metavar in ("[LABEL=]RANGE", "DIR", "NS", "USER"):
            continue
        for word in bash(pages, check, action.option_strings[-1], ""):
            if not os.path.lexists(word):
                try:
                    parser.parse_args([f"{action.option_strings[-1]}={word}"])
                except UsageError as error:
                    pytest.fail(f"{action.option_strings[-1]} {word}: {error}")
                offered += 1
    assert offered >= 4


def test_zsh_completes_options_labels_and_choices(check, pages, need, tmp_path):
    need("zsh", root=False)
    labels = [f"{label.name}=" for label in module(check).LABELS]
    every = {option for action in actions(check) for option in action.option_strings}
    offered = {each.rstrip("=") for each in zsh(pages, check, "-", tmp_path)}
    assert offered == every
    assert zsh(pages, check, "-w ", tmp_path) == labels
    assert labels[0] in zsh(pages, check, f"--critical={labels[0][:2]}", tmp_path)
    wanted = ["ok", "warning", "critical", "unknown"]
    assert zsh(pages, check, "--sudo --if-inactive ", tmp_path) == wanted
