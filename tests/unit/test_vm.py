"""tests/vm: which kernels are chosen, how a machine is run, and the table of what it has shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vm import debian, kernels, outcomes

PACKAGES = """\
linux-image-5.10.0-9-cloud-amd64
linux-image-5.10.0-46-cloud-amd64
linux-image-5.10.0-47-cloud-amd64-unsigned
linux-image-5.10.0-48-amd64
linux-image-6.1.0-57-cloud-amd64
linux-image-6.1.0-58-rt-amd64
linux-image-6.12.94+deb13-cloud-amd64
linux-image-6.12.94+deb13.1-cloud-amd64
linux-image-6.12.100+deb13-cloud-amd64-dbg
linux-image-7.3.4+deb13-cloud-amd64
linux-image-7.3.4+deb13-cloud-arm64
linux-image-cloud-amd64
"""
LOG = """\
=== kernel 6.1.0-57-cloud-amd64, clock hpet, tests start after 5 s
collected 5 items
=== selected {"tests/kernel/test_reader.py": 2, "tests/kernel/test_full.py": 3}
tests/kernel/test_reader.py::test_a PASSED [ 20%]
=== test ["tests/kernel/test_reader.py", "test_a", "passed", "", [["limit of 0", "accepted"]]]
tests/kernel/test_reader.py::test_b[1] FAILED [ 40%]

tests/kernel/test_reader.py:5: in test_b
=== test ["tests/kernel/test_reader.py", "test_b[1]", "failed", "", []]
=== test ["tests/kernel/test_full.py", "test_c", "failed", "", []]
=== test ["tests/kernel/test_full.py", "test_d", "skipped", "no IPv9", []]
=== end
"""
FULL, READER = "tests/kernel/test_full.py", "tests/kernel/test_reader.py"


@pytest.fixture
def told(monkeypatch):
    """The outputs of apt's programs by their first words; they are taken one after another."""
    outputs = {}

    def run(*command, **_):
        for words, texts in outputs.items():
            if command[: len(words)] == words:
                text = texts.pop(0)
                if isinstance(text, Exception):
                    raise text
                return text
        raise AssertionError(command)

    monkeypatch.setattr(debian, "run", run)
    return outputs


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("5.10", "5.10.0-46"),
        ("6.1", "6.1.0-57"),
        ("6.1-no-procfs", "6.1.0-57"),
        ("6.12", "6.12.94+deb13.1"),
        ("newest", "7.3.4+deb13"),
    ],
)
def test_vm_kernel_is_the_highest_version_of_its_cloud_kernels(told, name, package):
    told["apt-cache",] = [PACKAGES]
    (kernel,) = [one for one in kernels.KERNELS if one.name == name]
    assert debian.newest_package(kernel, {}) == f"linux-image-{package}-cloud-amd64"


def test_vm_kernel_that_no_mirror_has_is_named(told):
    told["apt-cache",] = ["linux-image-cloud-amd64\n"]
    with pytest.raises(debian.MissingError, match=r"^bullseye-security: no package linux-image-"):
        debian.newest_package(kernels.KERNELS[0], {})


def test_vm_dependencies_are_those_that_match(told):
    text = "linux-image-7.3\n  Depends: linux-binary-7.3\n  Depends: kmod\n |Depends: dracut\n"
    told["apt-cache",] = [text]
    assert debian.dependencies("linux-image-7.3", r"linux-\S+", {}) == ["linux-binary-7.3"]


MIRRORS = "Debian|http://one/debian/\nDebian-Security|http://one/security/\nOther|http://two/\n"


@pytest.mark.parametrize("before", [[], ["Other|http://two/\n"]], ids=["known", "after an update"])
def test_vm_mirrors_are_those_of_this_machine(told, monkeypatch, before):
    monkeypatch.setattr(debian.shutil, "which", lambda name: name)
    told["apt-get", "indextargets"] = [*before, MIRRORS]
    told["apt-get", "update"] = [""]
    assert debian.mirrors() == ("http://one/debian/", "http://one/security/")


def test_vm_machine_without_a_mirror_says_so(told, monkeypatch):
    monkeypatch.setattr(debian.shutil, "which", lambda name: name)
    told["apt-get", "indextargets"] = ["", ""]
    told["apt-get", "update"] = ["", ""]
    with pytest.raises(debian.NoMirrorError, match="no mirror of Debian"):
        debian.mirrors()
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    with pytest.raises(debian.NoMirrorError, match="apt-get: not found"):
        debian.mirrors()


def test_vm_suites_come_from_the_archive_or_its_security_updates(told, monkeypatch, tmp_path):
    monkeypatch.setattr(debian, "BUILD", tmp_path)
    told["apt-get",] = [""]
    suites = ("bookworm-security", "trixie-backports", "bookworm-security")
    environment = debian.apt("http://one/", "http://two/", suites)
    lines = (tmp_path / "apt/sources.list").read_text().splitlines()
    assert [line.split("] ")[1] for line in lines] == [
        "http://two/ bookworm-security main",
        "http://one/ trixie-backports main",
    ]
    assert environment["APT_CONFIG"] == str(tmp_path / "apt/apt.conf")


def test_vm_mirror_that_cannot_be_reached_is_said(told, monkeypatch, tmp_path):
    monkeypatch.setattr(debian, "BUILD", tmp_path)
    told["apt-get",] = [subprocess.CalledProcessError(100, "apt-get")]
    with pytest.raises(debian.NoMirrorError, match="http://one/: cannot be reached"):
        debian.apt("http://one/", "http://two/", ["bookworm-security"])


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "1.log"
    path.write_text(LOG)
    return path


def test_vm_log_tells_the_outcome_of_each_test(log):
    run = outcomes.read_log("6.1", log)
    assert (run.release, run.ended) == ("6.1.0-57-cloud-amd64", True)
    assert run.selected == {READER: 2, FULL: 3}
    assert [one[:4] for one in run.outcomes] == [
        (READER, "test_a", "passed", ""),
        (READER, "test_b[1]", "failed", ""),
        (FULL, "test_c", "failed", ""),
        (FULL, "test_d", "skipped", "no IPv9"),
    ]
    assert dict(run.outcomes[0].facts) == {"limit of 0": "accepted"}
    assert (run.count("failed"), run.count("failed", FULL), run.count("passed")) == (2, 1, 1)


def test_vm_log_that_was_cut_has_the_outcomes_until_there(log):
    log.write_text(LOG[: LOG.index(' "failed"')])
    run = outcomes.read_log("6.1", log)
    assert (run.ended, [one.test for one in run.outcomes]) == (False, ["test_a"])
    assert outcomes.read_log("6.1", log.parent / "none") == outcomes.Run("6.1", "6.1")


RECORDED = """
import pytest

def test_passed(record_property):
    record_property("a fact", "a value")

def test_skipped():
    pytest.skip("no IPv9")

def test_failed():
    assert 1 == 2

@pytest.fixture
def broken():
    yield
    raise OSError("cleaning up")

def test_cleaned_up(broken):
    pass
"""


def test_vm_recorder_writes_what_the_log_tells(tmp_path):
    (tmp_path / "test_it.py").write_text(RECORDED)
    words = ["-m", "pytest", "-v", "--color=no", "-p", "no:cacheprovider", "-p", "vm.recorder"]
    done = subprocess.run(
        [sys.executable, *words, "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(kernels.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    (tmp_path / "log").write_text(done.stdout)
    run = outcomes.read_log("6.1", tmp_path / "log")
    assert [(one.test, one.what, one.reason) for one in run.outcomes] == [
        ("test_passed", "passed", ""),
        ("test_skipped", "skipped", "no IPv9"),
        ("test_failed", "failed", ""),
        ("test_cleaned_up", "failed", ""),
    ]
    assert dict(run.outcomes[0].facts) == {"a fact": "a value"}
    assert run.selected == {"test_it.py": 4}
    before, _, after = done.stdout.partition('"failed"')
    assert "assert 1 == 2" in before
    assert "cleaning up" in after


def test_vm_tables_have_facts_and_outcomes_by_kernel_and_reasons(log):
    passed = outcomes.Outcome(FULL, "c", "passed", facts=(("limit of 0", "refused"),))
    runs = [
        outcomes.read_log("6.1-no-procfs", log),
        outcomes.Run("newest", "7.3.4+deb13-cloud-amd64", (passed,)),
    ]
    assert outcomes.table(runs) == (
        "| kernel | 6.1.0-57, no procfs | 7.3.4+deb13 |\n"
        "| --- | --- | --- |\n"
        "| limit of 0 | accepted | refused |\n"
        "\n"
        "| tests | 6.1.0-57, no procfs | 7.3.4+deb13 |\n"
        "| --- | --- | --- |\n"
        "| test_full | 1 skipped, 1 failed, 1 not run | 1 passed |\n"
        "| test_reader | 1 passed, 1 failed | not run |\n"
        "| all | 1 passed, 1 skipped, 2 failed, 1 not run | 1 passed |\n"
        "\n"
        "| why tests were skipped | tests |\n"
        "| --- | --- |\n"
        "| no IPv9 | 6.1.0-57, no procfs: 1 |\n"
    )


@pytest.fixture
def write_log(tmp_path, monkeypatch):
    """A function that writes a log of a kernel; each is newer than the one before."""
    monkeypatch.setattr(kernels, "BUILD", tmp_path)
    monkeypatch.setattr(kernels, "KERNELS", kernels.KERNELS[:2])
    written = []

    def write(name, text):
        path = tmp_path / f"{name}.log"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        os.utime(path, (len(written), len(written)))
        written.append(path)

    return write


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "kernels.md"
    path.write_text(f"before\n{kernels.MARK}old\n{kernels.MARK}after\n")
    return path


def test_vm_table_is_written_between_the_marks(write_log, document):
    write_log("5.10/1", LOG)
    write_log("6.1/1", LOG)
    assert kernels.main(["--table", str(document)]) == 0
    before, table, after = document.read_text().split(kernels.MARK)
    assert (before, after) == ("before\n", "after\n")
    assert table.startswith("| kernel | 6.1.0-57 | 6.1.0-57 |\n")


def test_vm_table_has_the_last_outcome_of_each_test(write_log, document):
    write_log("5.10/old", LOG.replace("6.1.0-57", "6.1.0-56").replace("test_a", "test_z"))
    write_log("5.10/1", LOG)
    write_log("5.10/test_reader", LOG.replace('"failed"', '"passed"').replace(FULL, "test_more.py"))
    write_log("6.1/1", LOG)
    assert kernels.main(["--table", str(document)]) == 0
    text = document.read_text()
    assert "| test_reader | 2 passed | 1 passed, 1 failed |\n" in text
    one = "1 skipped, 1 failed, 1 not run"
    assert f"| test_full | {one} | {one} |\n" in text
    assert "| test_more | 1 passed, 1 skipped, 1 not run | not run |\n" in text


@pytest.mark.parametrize("text", ["", LOG[:70], None])
def test_vm_table_is_not_written_before_all_kernels_have_run(write_log, document, capsys, text):
    write_log("5.10/1", LOG)
    if text is not None:
        write_log("6.1/1", text)
    before = document.read_text()
    assert kernels.main(["--table", str(document)]) == 1
    assert document.read_text() == before
    assert capsys.readouterr().err == "kernels: no test has run yet under 6.1\n"


def machine(tmp_path, monkeypatch, script):
    """A machine whose qemu is a shell script, with the log as $1."""
    part = tmp_path / "part"
    part.write_bytes(b"cpio")
    log = tmp_path / "1.log"
    monkeypatch.setattr(kernels, "QEMU", ("sh", "-c", script, log))
    return kernels.Machine("6.1", tmp_path / "vmlinuz", [part, part], log)


@pytest.mark.parametrize(
    ("text", "good", "words"),
    [
        (LOG, False, "6.1 (1), 6.1.0-57-cloud-amd64: 1 passed, 2 failed, 1 skipped in "),
        (LOG.replace('"failed"', '"passed"'), True, "3 passed, 0 failed, 1 skipped"),
        (LOG.replace('"failed"', '"passed"')[:-8], False, "1 skipped, did not end (see "),
        ("", False, "6.1 (1), 6.1: 0 passed, 0 failed, 0 skipped, did not end (see "),
    ],
    ids=["failed", "passed", "cut", "nothing"],
)
def test_vm_machine_that_powers_off_is_reported(tmp_path, monkeypatch, capsys, text, good, words):
    (tmp_path / "text").write_text(text)
    made = machine(tmp_path, monkeypatch, f'cp "{tmp_path}/text" "$0"')
    assert kernels.report(made, *kernels.boot(made, 60)) is good
    out = capsys.readouterr().out
    assert words in out
    assert (f"{READER}::test_b[1] failed" in out) == (text == LOG)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["1.log", "part", "text"]


def test_vm_machine_that_hangs_is_ended(tmp_path, monkeypatch):
    made = machine(tmp_path, monkeypatch, "exec sleep 60")
    result, seconds = kernels.boot(made, 0.1)
    assert result.outcomes == ()
    assert seconds < 30


def test_vm_halves_hold_every_file_once():
    one, other = kernels.halves()
    files = {*one, *other}
    assert len(files) == len(one) + len(other)
    assert abs(len(one) - len(other)) <= 1
    assert {"tests/kernel/test_full.py", "tests/vm/test_facts.py", kernels.NO_PROCFS} <= files
    assert kernels.UNSUITABLE not in files
    missing = [each for each in kernels.QUICK if each.endswith(".py") and each not in files]
    assert missing == []


@pytest.mark.parametrize(
    ("words", "names", "tests"),
    [
        ([], ["5.10", "6.1", "6.1-no-procfs", "6.12", "newest"], []),
        (["--quick"], ["5.10", "newest"], []),
        (["--quick", "--kernels", "6.1,6.12"], ["6.1", "6.12"], []),
        (["--kernels", "6.1", "--", "a.py", "-k", "b"], ["6.1"], ["a.py", "-k", "b"]),
    ],
)
def test_vm_command_line_chooses_kernels_and_tests(words, names, tests):
    options = kernels.parse(words)
    assert (options.kernels, options.tests) == (names, tests)


def test_vm_unknown_kernel_is_a_usage_error(capsys):
    with pytest.raises(SystemExit):
        kernels.parse(["--kernels", "5.10,2.4"])
    assert "unknown kernel 2.4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (debian.NoMirrorError("no network"), [], 1),
        (debian.NoMirrorError("no network"), ["--optional"], 0),
        (debian.MissingError("no package"), ["--optional"], 1),
    ],
)
def test_vm_optional_tests_need_no_mirror(monkeypatch, capsys, error, words, code):
    def fail(*_):
        raise error

    monkeypatch.setattr(kernels, "run_kernels", fail)
    assert kernels.main(words) == code
    assert capsys.readouterr().err == f"kernels: {error}\n"
