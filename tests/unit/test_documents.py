"""The documents are held to the tree: what they name exists, and what alarms is in the runbook."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from check_conntrack import ranges
from check_conntrack.advice import capacity, diagnosis, table_profile
from check_conntrack.full import full_check, state, summary
from check_conntrack.state import state_store
from check_conntrack.table import table_check
from check_conntrack.usage import usage_check

TREE = Path(__file__).parents[2]
DOCUMENTS = [
    *sorted(TREE.glob("*.md")),
    *sorted((TREE / "docs").glob("*.md")),
    *sorted((TREE / "docs" / "design").glob("*.md")),
]
CHECKS = {"usage": usage_check, "full": full_check, "table": table_check}
RUNBOOK = TREE / "docs" / "runbook.md"
SUDOERS = re.compile(r"^ +(\S+ ALL=\(root\) NOPASSWD: .*)$", re.MULTILINE)
# Options of other programs that the documents speak of.
FOREIGN = {"--random-fully", "--conntrack-min", "--system"}
# Documents of developers name options of many programs, and have no commands of the checks.
FOR_USERS = [path for path in DOCUMENTS if path.parent.name != "design" and path.stem.islower()]
FOR_USERS.append(TREE / "README.md")
# What only a file of `make pyz` understands, before the check sees it.
OF_ARCHIVES = ["--install-reader"]
# As in README.md: what stands for something of the reader's own.
STANDS_FOR = {"LABEL", "NAME", "NAMESPACE"}

documents = pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.name) for path in DOCUMENTS]
)
for_users = pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.name) for path in FOR_USERS]
)


def sources():
    """The text of the library, its strings joined as the interpreter joins them."""
    text = "\n".join(path.read_text() for path in (TREE / "plugins").rglob("*.py"))
    return re.sub(r'"\s*\n\s*f?"', "", text)


def slug(heading):
    """Return what a heading is called in a link."""
    text = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def headings(path, level="#+"):
    return re.findall(rf"^{level} (.*)$", path.read_text(), re.MULTILINE)


def sections(path, level):
    """Headings of a level, each with the text below it up to the next heading of that level."""
    parts = re.split(rf"^{level} (.*)$", path.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def options_of(check):
    return {name for action in check.parser()._actions for name in action.option_strings}


def commands(text):
    """Every run of a check in a block of code: its name, its words."""
    for line in re.findall(r"^ {4,}(.*)$", text, re.MULTILINE):
        match = re.search(r"(?:^|[\s=/])check_conntrack_(usage|full|table)(?: +(.*))?$", line)
        if match and not re.match(r"CONNTRACK_|\|", line) and "-c check_conntrack" not in line:
            words = re.split(r" [|>] ", match[2] or "")[0]
            if not words or words.startswith("-"):
                yield match[1], shlex.split(words.rstrip('"]'))


@for_users
def test_options_that_are_named_exist(path):
    known = set().union(*map(options_of, CHECKS.values())) | FOREIGN
    # A table's rows and sentences; commands of other programs have options of their own.
    text = re.sub(r"^ {4}.*$", "", path.read_text(), flags=re.MULTILINE)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert named <= known
    if path.name in ("README.md", "table.md"):
        assert named


@for_users
def test_commands_can_be_pasted(path):
    found = list(commands(path.read_text()))
    assert found or path.name in ("kernels.md", "reference.md", "security.md")
    for name, words in found:
        if words == OF_ARCHIVES:
            assert words[0] in (TREE / "packaging" / "archive_main.py").read_text()
            continue
        check = CHECKS[name]
        options = check.parser().parse_args(words)
        ranges.parse_thresholds(check.LABELS, options.warning, options.critical)


@documents
def test_labels_of_namespaces_exist(path):
    known = {label for check in CHECKS.values() for label in check.NAMESPACE_LABELS} | STANDS_FOR
    assert set(re.findall(r"`[\w]+::(\w+)`", path.read_text())) <= known


@documents
def test_files_of_the_tree_exist(path):
    named = re.findall(
        r"(?<![\w/.-])(?:plugins|graphs|docs|nrpe|icinga2|tests)/[\w./-]*\w", path.read_text()
    )
    missing = [name for name in named if not (TREE / name).exists()]
    assert not missing


@documents
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file) if file else path
        assert there.exists(), target
        if anchor:
            assert anchor in map(slug, headings(there)), target


def test_pictures_are_small_and_described():
    text = (TREE / "README.md").read_text()
    named = dict(re.findall(r"!\[([^]]+)\]\((docs/images/[^)]+)\)", text))
    assert {TREE / path for path in named.values()} == set((TREE / "docs" / "images").iterdir())
    for words, path in named.items():
        assert len(words) > 40
        picture = (TREE / path).read_bytes()
        assert picture[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(picture) < 60 << 10


def test_packages_install_all_documents_with_links_that_lead_somewhere(tmp_path):
    subprocess.run(
        [TREE / "packaging" / "install", tmp_path],
        check=True,
        env={**os.environ, "PYTHON": sys.executable},
        timeout=60,
    )
    folder = tmp_path / "usr/share/doc/monitoring-plugins-conntrack"
    installed = {str(path.relative_to(folder)) for path in folder.rglob("*.md")}
    docs = {str(path.relative_to(TREE / "docs")) for path in (TREE / "docs").rglob("*.md")}
    assert installed == docs | {"README.md", "SECURITY.md"}
    for path in (TREE / "docs" / "images").iterdir():
        assert (folder / "images" / path.name).read_bytes() == path.read_bytes()
    for path in folder.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
            if not re.match(r"https?:", target):
                there = tmp_path / target[1:] if target.startswith("/") else path.parent / target
                assert there.exists(), f"{path.name}: {target}"


@documents
def test_there_is_one_line_for_sudo(path):
    lines = SUDOERS.findall(path.read_text())
    assert set(lines) <= {SUDOERS.search((TREE / "docs" / "deploy.md").read_text())[1]}
    # With what keeps a reader that was stopped from outliving its terminal.
    reader = "/usr/lib/nagios/plugins/check_conntrack/kernel/reader.py"
    before = re.findall(r"^ +(.*)\n +\S+ ALL=\(root\) NOPASSWD: ", path.read_text(), re.MULTILINE)
    assert set(before) <= {f"Defaults!{reader} !use_pty"}


@documents
def test_headings_can_be_told_apart(path):
    names = [slug(heading) for heading in headings(path)]
    assert len(set(names)) == len(names)


# --- language


TEXTS = [
    path
    for path in (
        *DOCUMENTS,
        *(TREE / "nrpe").iterdir(),
        *(TREE / "icinga2").glob("*.*"),
        *(path for path in (TREE / "packaging").rglob("*") if path.is_file()),
        TREE / "Makefile",
        TREE / ".ci" / "run",
    )
    if path.name not in ("language.md", "copyright") and path.suffix != ".pyc"
]


@pytest.mark.parametrize("path", [pytest.param(each, id=each.name) for each in TEXTS])
def test_texts_use_the_terms_of_the_language_page(path):
    text = path.read_text()
    avoided = r"\b(?:rights|judge[sd]?|witness\w*|remember\w*|untold|unseen|blind|deaf)\b|\d %"
    lines = [line for line in text.splitlines() if re.search(avoided, line, re.IGNORECASE)]
    assert not lines


@for_users
def test_outputs_in_documents_have_the_form_of_the_contract(path):
    for line in re.findall(r"^ {4}(CONNTRACK_.*)$", path.read_text(), re.MULTILINE):
        status = line.partition(" | ")[0]
        assert re.match(r"CONNTRACK_(USAGE|FULL|TABLE) (OK|WARNING|CRITICAL|UNKNOWN) - ", status)
        assert status.isascii()
        assert len(status) <= 160


def test_reference_names_the_bounds_of_the_code():
    text = " ".join((TREE / "docs" / "reference.md").read_text().split())
    assert f"keeps {state.MOST_FURTHER} of them" in text
    assert f"the other checks the {state_store.MOST_SERIES} that were last" in text
    assert f"a directory at most {state_store.MOST_FILES} files" in text
    assert f"A file has at most {state_store.LARGEST >> 10} KiB" in text
    assert f"({state_store.MANY >> 20} MiB for" in text
    for name, check in CHECKS.items():
        (row,) = re.findall(rf"\| `check_conntrack_{name}` \| ((?:`NAME::\w+`,? ?)+)\|", text)
        labels = re.findall(r"NAME::(\w+)", row)
        assert sorted(labels) == sorted(check.NAMESPACE_LABELS)


@pytest.mark.parametrize("name", CHECKS)
def test_reference_and_contract_name_every_option_and_label(name):
    reference = (TREE / "docs" / "reference.md").read_text()
    chapter = sections(TREE / "docs" / "reference.md", "##")[f"check_conntrack_{name}"]
    contract = (TREE / "docs" / "design" / "contract.md").read_text()
    readme = (TREE / "README.md").read_text()
    for label in CHECKS[name].LABELS:
        assert f"`{label.name}`" in chapter
        assert f"`{label.name}`" in contract
    for option in (word for word in options_of(CHECKS[name]) if word.startswith("--")):
        assert option in readme or option in reference or option in ("--help", "--version")


# --- the runbook


@pytest.mark.parametrize("name", CHECKS)
def test_every_label_has_its_section_in_the_runbook(name):
    chapter = sections(RUNBOOK, "##")[f"conntrack {name}"]
    told = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^### (.*)$", chapter, re.MULTILINE))))
    assert {label.name for label in CHECKS[name].LABELS} <= told


def test_every_heading_of_the_runbook_is_a_label_or_something_a_check_says():
    labels = {label.name for check in CHECKS.values() for label in check.LABELS}
    said = sources()
    for heading in headings(RUNBOOK, "###"):
        cause = re.fullmatch(r"Cause: (.*)", heading)
        if cause:
            assert cause[1] in [each.name for each in diagnosis.CAUSES]
            continue
        phrases = re.findall(r"`([^`]+)`", heading)
        assert phrases, heading
        for phrase in phrases:
            assert phrase in labels or phrase in said, phrase


# What is said of them begins or ends with an address.
CAUSES = {
    "syn flood": "SYN flood on",
    "scan": "scan of",
    "flood": "flood on",
    "unreplied": "do not answer",
}


@pytest.mark.parametrize("cause", [pytest.param(each, id=each.name) for each in diagnosis.CAUSES])
def test_every_cause_has_its_section_and_says_what_is_said(cause):
    chapter = sections(RUNBOOK, "###")[f"Cause: {cause.name}"]
    words = (
        CAUSES.get(cause.name)
        or re.split(r"[:,]", cause.sentence(table_profile.TableProfile(1000)))[0]
    )
    assert words in " ".join(chapter.split())
    assert words in cause.sentence(table_profile.TableProfile(1000))
    assert f"](runbook.md#{slug('Cause: ' + cause.name)})" in (TREE / "docs/table.md").read_text()


def test_every_loss_is_told_in_the_words_of_the_check():
    for label, words in summary.FACTS.items():
        chapter = " ".join(sections(RUNBOOK, "###")[f"`{label}`"].split())
        for part in re.split(r"\{\w+\}|: ", "".join(words)):
            assert part.strip() in chapter, label


def test_every_rule_of_the_advice_is_about_something_in_the_runbook():
    told = " ".join(headings(RUNBOOK, "###"))
    for rule in capacity.RULES:
        for label in rule.labels:
            assert f"`{label}`" in told


def test_the_alarms_of_a_section_say_what_they_mean_and_what_to_do():
    for heading, text in sections(RUNBOOK, "###").items():
        assert re.search(r"\*\*Means|\bSee \[|Means, do", text), heading


# --- shares and numbers


def test_the_diagnosis_names_the_bounds_of_the_code():
    text = (TREE / "docs" / "table.md").read_text()
    assert f"{table_profile.PRESSED:.0f}% full" in text
    plain = {cause.name for cause in diagnosis.CAUSES if cause.plain}
    assert set(re.findall(r"\| \[([\w ]+)\]\([^)]*\) \(\*plain\*\)", text)) == plain
    room = [cause.name for cause in diagnosis.CAUSES if cause.room]
    *most, last = [f"`{name}`" for name in room]
    assert f"{', '.join(most)} and {last}" in " ".join(text.split())
    # Weightiest first.
    named = re.findall(r"^\| \[([\w ]+)\]\(runbook", text, re.MULTILINE)
    assert named == [cause.name for cause in diagnosis.CAUSES]
