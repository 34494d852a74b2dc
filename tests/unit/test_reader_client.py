"""The reader's client: what it asks, and which answers it refuses."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from check_conntrack.kernel import KernelError, reader_client, reader_command
from check_conntrack.kernel.reader_client import Frame, Reader
from check_conntrack.kernel.reader_command import ReaderError

COMMAND = ["the-reader"]


def parse_answer(answer):
    return list(reader_client.parse_answer(io.BytesIO(answer)))


GOOD = b"7 0 nf_conntrack_count 2 2\n/a5\nend\n"


@pytest.fixture
def answered(fp):
    """Ask a reader that answers so."""

    def ask(stdout=b"", stderr=b"", returncode=0, fields=(b"limits", b"/a")):
        fp.register(COMMAND, stdout=stdout, stderr=stderr, returncode=returncode)
        with Reader(COMMAND) as reader:
            return reader.ask(fields)

    return ask


def test_ask_returns_the_frames_of_the_answer(answered):
    assert answered(GOOD) == [Frame(7, 0, "nf_conntrack_count", "/a", b"5\n")]
    assert answered(b"end\n") == []


def test_ask_writes_each_field_with_a_nul_to_standard_input(tmp_path):
    script = f"import sys; open({str(tmp_path / 'got')!r}, 'wb').write(sys.stdin.buffer.read())"
    with Reader([sys.executable, "-S", "-c", script + "; print('end')"]) as reader:
        assert reader.ask([b"limits", b"/a b\n", b"processes"]) == []
    assert (tmp_path / "got").read_bytes() == b"limits\0/a b\n\0processes\0"


@pytest.fixture
def spare(tmp_path, monkeypatch):
    """The command of a spare reader, which leaves a file when it starts."""
    started = tmp_path / "started"
    script = f"open({str(started)!r}, 'w'); import sys; data = sys.stdin.buffer.read()"
    answer = "; sys.stdout.write(f'7 0 got {0} {len(data)}\\n{data.decode()}end\\n')"
    command = [sys.executable, "-S", "-c", script + answer]
    monkeypatch.setattr(reader_command, "reader_command", lambda *, sudo: command)
    return reader_command.waiting_command, started


def test_spare_reader_starts_when_it_is_asked(spare):
    command, started = spare
    with Reader(*command()) as reader:
        words = b""
        while not words:  # empty for a moment after execve(2)
            words = Path(f"/proc/{reader._process.pid}/cmdline").read_bytes()
        assert words.startswith(b"/bin/sh\0")
        assert not started.exists()
        assert reader.ask([b"limits", b"/a"]) == [Frame(7, 0, "got", "", b"limits\0/a\0")]


def test_spare_reader_takes_no_function_of_its_caller(spare, monkeypatch):
    command, _ = spare
    monkeypatch.setenv("BASH_FUNC_read%%", "() { exit 7; }")
    monkeypatch.setattr(reader_command, "SHELL", "/bin/bash")
    with Reader(*command()) as reader:
        assert reader.ask([b"limits"])


def test_spare_reader_ends_where_it_is_not_asked(spare):
    command, started = spare
    with Reader(*command()) as reader:
        reader._process.stdin.close()
        assert reader._process.wait(10) != 0
    assert not started.exists()


def test_spare_reader_needs_no_shell(spare, monkeypatch):
    command, _ = spare
    monkeypatch.setattr(reader_command, "SHELL", "/none")
    with Reader(*command()) as reader:
        assert [frame.data for frame in reader.ask([b"limits"])] == [b"limits\0"]


def test_start_names_a_missing_reader(tmp_path):
    with pytest.raises(ReaderError, match=r"the reader \S*/none: cannot be started: No such file"):
        Reader([str(tmp_path / "none")])


def test_start_names_a_reader_that_is_not_executable(tmp_path):
    (tmp_path / "reader").write_text("#!/bin/sh\n")
    with pytest.raises(ReaderError, match="cannot be started: Permission denied"):
        Reader([str(tmp_path / "reader")])


REFUSED = "sudo: a password is required"
FLAG = 'sudo: The "no new privileges" flag is set, which prevents sudo from running as root.'


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["We trust you ...", "", FLAG, "sudo: If sudo is running in a container, ..."], FLAG),
        (["sudo: unable to resolve host gw: Name or service not known", REFUSED], REFUSED),
        (["sudo: setrlimit(RLIMIT_CORE): Operation not permitted", REFUSED], REFUSED),
        (["sudo: unable to resolve host gw: ...", "sudo: something new"], "sudo: something new"),
        (
            ["sudo: unable to resolve host gw: ...", "ModuleNotFoundError: os"],
            "ModuleNotFoundError: os",
        ),
        (
            ["nagios is not in the sudoers file.", "This incident has been reported."],
            "This incident has been reported.",
        ),
    ],
    ids=["advice follows", "host name", "resource limit", "unknown", "reader's own", "another"],
)
def test_failure_quotes_the_line_of_sudo_that_says_why(answered, lines, reason):
    with pytest.raises(ReaderError) as error:
        answered(stderr="\n".join(lines).encode() + b"\n", returncode=1)
    assert str(error.value).endswith(reason)
    assert reason.startswith("sudo: ") == (str(error.value) == reason)


def test_failure_quotes_the_last_line_of_standard_error(answered):
    with pytest.raises(ReaderError) as error:
        answered(stderr=b"first\nsudo: a password is required\n\n", returncode=1)
    assert str(error.value) == "sudo: a password is required"


def test_failure_without_words_names_the_status(answered):
    with pytest.raises(ReaderError, match=r"^the reader ended with status 2$"):
        answered(GOOD, returncode=2)


def test_failure_by_sigalrm_says_timed_out(answered):
    with pytest.raises(ReaderError, match=r"timed out"):
        answered(GOOD[:-4], returncode=-14)


def test_failure_by_signal_names_it(answered):
    with pytest.raises(ReaderError, match=r"^the reader was ended by signal 9$"):
        answered(GOOD, returncode=-9)


@pytest.mark.parametrize(
    "answer", [b"", b"rubbish", b"end", b"end\n\n", b"\nend\n", b"end\nend\n", GOOD * 2]
)
def test_malformed_answer_is_refused(answered, answer):
    with pytest.raises(ReaderError, match=r"malformed|incomplete"):
        answered(answer)


def test_answer_cut_at_any_byte_is_refused():
    for length in range(len(GOOD)):
        with pytest.raises(ReaderError):
            parse_answer(GOOD[:length])


@pytest.mark.parametrize(
    "head",
    [
        b"-1 0 a 1 1",
        b"1 0 A 1 1",
        b"1 0 a 1",
        b"1  0 a 1 1",
        b"1 0 a +1 1",
        b"1 0 a 1 999999999",
        b"1 0 ../a 1 1",
        b"1" * 21 + b" 0 a 1 1",
        b"\xd9\xa1 0 a 1 1",
    ],
)
def test_malformed_header_is_refused(head):
    with pytest.raises(ReaderError, match=r"malformed|incomplete"):
        parse_answer(head + b"\n/xend\n")


@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(st.sampled_from([GOOD, GOOD[:-4], b"end\n", b"0 2 - 1 0\n/"])).map(b"".join),
    )
)
@example(b"1 0 a 5 0\n/\0/xxend\n")
def test_any_bytes_are_frames_or_refused(answer):
    try:
        frames = parse_answer(answer)
    except ReaderError:
        return
    assert answer.endswith(b"end\n")
    assert all(frame.data in answer for frame in frames)
    assert not any("\0" in frame.path for frame in frames), "no path of the kernel's"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exec yes", "malformed answer"),
        ("exec yes '7 0 x 0 0'", "is longer than 1 MiB"),
        ("trap '' PIPE; while echo 1 0 x 1 5000000; do yes | head -c 5000001; done", "longer than"),
    ],
    ids=["rubbish", "small frames", "large frames"],
)
def test_endless_answer_is_refused_and_its_reader_ended(monkeypatch, script, words):
    monkeypatch.setattr(reader_client, "LARGEST_ANSWER", 1 << 20)
    with pytest.raises(ReaderError, match=words), Reader(["sh", "-c", script]) as reader:
        reader.ask([b"limits"])
    assert reader._process.returncode in (-9, -13)


def test_reader_that_is_never_asked_is_ended():
    with Reader(["cat"]) as reader:
        pass
    assert reader._process.returncode is not None


def test_reader_of_another_user_ends_by_its_closed_pipes(monkeypatch):
    def forbidden(self):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(subprocess.Popen, "kill", forbidden)
    with Reader(["cat"]) as reader:
        pass
    assert reader._process.returncode == 0


def test_reader_that_does_not_end_is_not_waited_for(monkeypatch):
    def never(self, timeout=None):
        raise subprocess.TimeoutExpired("reader", timeout)

    reader = Reader(["cat"])
    wait = subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, "wait", never)
    reader.__exit__()
    wait(reader._process)


def test_reader_that_ends_before_it_reads_is_quoted():
    command = ["sh", "-c", "exec <&-; echo no >&2; exit 3"]
    with Reader(command) as reader:
        reader._process.wait()
        with pytest.raises(ReaderError, match="status 3: no"):
            reader.ask([b"limits"] * 20000)


def test_reader_error_is_a_kernel_error():
    assert issubclass(ReaderError, KernelError)


def test_start_asks_programs_for_english(tmp_path):
    command = ["sh", "-c", 'echo "$LC_ALL" >&2; exit 1']
    with Reader(command) as reader, pytest.raises(ReaderError, match=r"status 1: C$"):
        reader.ask([b"limits"])
