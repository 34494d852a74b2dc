"""The rules of docs/design/architecture.md that no other tool checks."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from check_conntrack import session
from check_conntrack.full import full_check
from check_conntrack.table import options as table_options
from check_conntrack.table import table_check
from check_conntrack.usage import usage_check

TREE = Path(__file__).parents[2]
LIBRARY = TREE / "plugins" / "check_conntrack"
PAGE = (TREE / "docs" / "design" / "architecture.md").read_text()
CHECKS = (usage_check, full_check, table_check)
# It calls journalctl, some of whose options are called like options of the checks.
JOURNAL = LIBRARY / "kernel" / "log" / "journal.py"


def test_every_module_has_one_line_and_every_line_a_module():
    modules = sorted(
        str(path.relative_to(LIBRARY))
        for path in LIBRARY.rglob("*.py")
        if path.name != "__init__.py"
    )
    tree = PAGE[PAGE.index("## The tree") : PAGE.index("## The rules")]
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", tree, re.MULTILINE)
    assert sorted(listed) == modules, "docs/design/architecture.md: add or remove a line"


def test_files_and_names_in_where_a_change_goes_exist():
    text = PAGE[PAGE.index("## Where a change goes") : PAGE.index("## The library nagiosplugin")]
    source = "\n".join(path.read_text() for path in LIBRARY.rglob("*.py"))
    makefile = (TREE / "Makefile").read_text()
    for name in re.findall(r"`([^`]+)`", text):
        if name.startswith("--"):
            continue
        if name.startswith("make "):
            assert re.search(rf"^{name[5:]}:", makefile, re.MULTILINE), name
        elif re.search(r"/|\.(py|md|tsv)$", name):
            candidates = (LIBRARY / name, TREE / name, TREE / "tests/data/log" / name)
            assert any(path.exists() for path in candidates), name
        else:
            word = name.removesuffix("()").rpartition(".")[2]
            assert re.search(rf"\b{word}\b", source), name


def test_names_are_defined_in_the_files_that_are_said_to_have_them():
    named = re.findall(r"`(\w+)(?:\(\))?` in `([^`]+\.py)`", PAGE)
    assert named
    for name, file in named:
        text = (LIBRARY / file).read_text()
        assert re.search(rf"^(?:class|def) {name}\b|^{name}\b.* = ", text, re.MULTILINE), name


def strings(path):
    """The string constants of a module without docstrings."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and id(node) not in documents:
            yield text


def test_kernel_knows_no_option_of_a_check():
    options = {
        option
        for check in CHECKS
        for action in check.parser()._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    for path in (LIBRARY / "kernel").rglob("*.py"):
        named = {word for text in strings(path) for word in re.findall(r"--[a-z][a-z-]+", text)}
        assert path == JOURNAL or not named & options, path


# With these, the table check may import each module that it imports late.
TABLE_OPTIONS = ["--names", "--save", "/x", "--source", "/x"]


def imported_in_functions(path, package):
    """The modules that functions of a file import."""
    functions = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)
    ]
    for node in (node for function in functions for node in ast.walk(function)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(name, package)
            yield base
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if (LIBRARY.parent / f"{inner.replace('.', '/')}.py").exists():
                    yield inner


@pytest.mark.parametrize(
    ("check", "late"),
    [
        ("usage", usage_check.LATER_MODULES),
        ("full", full_check.LATER_MODULES),
        ("table", table_options.later_modules(table_check.parser().parse_args(TABLE_OPTIONS))),
    ],
)
def test_every_late_import_can_be_made_before_privileges_are_dropped(check, late):
    """The user that root becomes may not be allowed to read them."""
    program = (
        "import sys\n"
        "for name in sys.argv[1:]:\n"
        "    try: __import__(name)\n"
        "    except ImportError: pass\n"
        "print(*sys.modules)"
    )
    # What drop_privileges() imports itself, and what is needed to drop them.
    always = [*imported_in_functions(LIBRARY / "session.py", "check_conntrack"), "pwd", "_ctypes"]
    reader = "check_conntrack.kernel.reader"  # a process of its own imports when it likes
    names = [f"check_conntrack.{check}.{check}_check", *always, reader]
    command = [sys.executable, "-c", program, *names, *late, *session.LATER_MODULES]
    loaded = set(
        subprocess.run(
            command, cwd=LIBRARY.parent, check=True, capture_output=True, text=True
        ).stdout.split()
    )
    for name in sorted(loaded - {reader}):
        if not name.startswith("check_conntrack."):
            continue
        path = LIBRARY.parent / f"{name.replace('.', '/')}.py"
        if path.exists():
            missing = set(imported_in_functions(path, name.rpartition(".")[0])) - loaded
            assert not missing, (name, missing)


def test_docstrings_begin_as_the_language_page_asks():
    """Rule 3 of docs/design/language.md."""
    found = []
    for folder in ("plugins", "packaging", "graphs", "icinga2", "tests"):
        for path in (TREE / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    text = ast.get_docstring(node, clean=False) or ""
                    if re.match(r"\s*(What|Who|Whether|Where|That)\b", text):
                        found.append(f"{path.relative_to(TREE)}: {text[:40]}")
    assert not found
