from __future__ import annotations

import errno
import io
import os
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from check_conntrack.kernel import KernelError, source
from check_conntrack.kernel.source import Frame, Reader, ReaderError

COMMAND = ["the-reader"]


def parse_answer(answer):
    return list(source.parse_answer(io.BytesIO(answer)))


GOOD = b"7 0 nf_conntrack_count 2 2\n/a5\nend\n"


@pytest.fixture
def answered(fp):
    """Ask a reader that answers so."""

    def ask(stdout=b"", stderr=b"", returncode=0, fields=(b"limits", b"/a")):
        fp.register(COMMAND, stdout=stdout, stderr=stderr, returncode=returncode)
        with Reader(COMMAND) as reader:
            return reader.ask(fields)

    return ask


def test_an_answer_is_a_list_of_frames(answered):
    assert answered(GOOD) == [Frame(7, 0, "nf_conntrack_count", "/a", b"5\n")]
    assert answered(b"end\n") == []


def test_the_request_goes_to_its_standard_input_each_field_ended_by_a_nul(tmp_path):
    script = f"import sys; open({str(tmp_path / 'got')!r}, 'wb').write(sys.stdin.buffer.read())"
    with Reader([sys.executable, "-S", "-c", script + "; print('end')"]) as reader:
        assert reader.ask([b"limits", b"/a b\n", b"processes"]) == []
    assert (tmp_path / "got").read_bytes() == b"limits\0/a b\n\0processes\0"


def test_a_reader_that_is_missing_is_named(tmp_path):
    with pytest.raises(ReaderError, match=r"the reader \S*/none cannot be started: No such file"):
        Reader([str(tmp_path / "none")])


def test_a_reader_that_may_not_be_run_is_named(tmp_path):
    (tmp_path / "reader").write_text("#!/bin/sh\n")
    with pytest.raises(ReaderError, match="cannot be started: Permission denied"):
        Reader([str(tmp_path / "reader")])


def test_of_what_sudo_says_the_first_line_is_quoted(answered):
    said = b"We trust you ...\n\nsudo: The flag is set.\nsudo: If this is a container, ...\n"
    with pytest.raises(
        ReaderError, match=r"^the reader ended with status 1: sudo: The flag is set\.$"
    ):
        answered(stderr=said, returncode=1)


def test_one_that_dies_is_quoted_with_its_last_words(answered):
    with pytest.raises(ReaderError) as error:
        answered(stderr=b"first\nsudo: a password is required\n\n", returncode=1)
    assert str(error.value) == "the reader ended with status 1: sudo: a password is required"


def test_one_that_dies_without_a_word_is_told_by_its_status(answered):
    with pytest.raises(ReaderError, match=r"^the reader ended with status 2$"):
        answered(GOOD, returncode=2)


def test_one_whose_own_time_is_up_is_told_as_that(answered):
    with pytest.raises(ReaderError, match=r"took longer than it allows itself"):
        answered(GOOD[:-4], returncode=-14)


def test_one_that_is_killed_is_told_by_the_signal(answered):
    with pytest.raises(ReaderError, match=r"^the reader was ended by signal 9$"):
        answered(GOOD, returncode=-9)


@pytest.mark.parametrize(
    "answer", [b"", b"rubbish", b"end", b"end\n\n", b"\nend\n", b"end\nend\n", GOOD * 2]
)
def test_rubbish_is_not_understood(answered, answer):
    with pytest.raises(ReaderError, match=r"is rubbish|is cut short|goes on after"):
        answered(answer)


def test_an_answer_cut_at_any_byte_is_refused():
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
def test_a_head_that_is_not_of_the_grammar_is_refused(head):
    with pytest.raises(ReaderError, match=r"is rubbish|is cut short|goes on after"):
        parse_answer(head + b"\n/xend\n")


@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(st.sampled_from([GOOD, GOOD[:-4], b"end\n", b"0 2 - 1 0\n/"])).map(b"".join),
    )
)
@example(b"1 0 a 5 0\n/\0/xxend\n")
def test_any_bytes_are_frames_or_are_refused(answer):
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
        ("exec yes", "is rubbish"),
        ("exec yes '7 0 x 0 0'", "is longer than 1 MiB"),
        ("trap '' PIPE; while echo 1 0 x 1 5000000; do yes | head -c 5000001; done", "longer than"),
    ],
    ids=["rubbish", "small frames", "large frames"],
)
def test_an_answer_without_end_is_refused_and_its_reader_ended(monkeypatch, script, words):
    monkeypatch.setattr(source, "LARGEST_ANSWER", 1 << 20)
    with pytest.raises(ReaderError, match=words), Reader(["sh", "-c", script]) as reader:
        reader.ask([b"limits"])
    assert reader._process.returncode in (-9, -13)


def test_a_reader_that_is_never_asked_is_ended():
    with Reader(["cat"]) as reader:
        pass
    assert reader._process.returncode is not None


def test_a_reader_that_was_started_by_another_user_is_left_to_its_closed_pipes(monkeypatch):
    def forbidden(self):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(subprocess.Popen, "kill", forbidden)
    with Reader(["cat"]) as reader:
        pass
    assert reader._process.returncode == 0


def test_a_reader_that_does_not_end_is_not_waited_for(monkeypatch):
    def never(self, timeout=None):
        raise subprocess.TimeoutExpired("reader", timeout)

    reader = Reader(["cat"])
    wait = subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, "wait", never)
    reader.__exit__()
    wait(reader._process)


def test_one_that_ends_before_it_reads_is_quoted_and_the_broken_pipe_is_not():
    command = ["sh", "-c", "exec <&-; echo no >&2; exit 3"]
    with Reader(command) as reader:
        reader._process.wait()
        with pytest.raises(ReaderError, match="status 3: no"):
            reader.ask([b"limits"] * 20000)


# --- its command line


def test_without_sudo_it_runs_in_this_interpreter_isolated():
    assert source.reader_command(sudo=False) == [sys.executable, "-I", "-S", "-B", source.READER]


@pytest.fixture
def sudo(tmp_path, monkeypatch):
    program = tmp_path / "sudo"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setattr(source, "SUDO_PATHS", (str(tmp_path / "none"), str(program)))
    return str(program)


@pytest.fixture
def reader_file(tmp_path, monkeypatch):
    file = tmp_path / "reader.py"
    file.write_text("")
    file.chmod(0o755)
    monkeypatch.setattr(source, "READER", str(file))
    return file


def test_sudo_starts_exactly_the_reader_without_arguments_and_never_asks(sudo, reader_file):
    assert source.reader_command(sudo=True) == [sudo, "-n", str(reader_file)]


def test_a_reader_without_its_executable_bit_is_started_through_the_interpreter(sudo, reader_file):
    reader_file.chmod(0o644)
    if os.access(reader_file, os.X_OK):
        pytest.skip("this file system has no executable bit")
    grant = [sys.executable, "-I", "-S", "-B", str(reader_file)]
    assert source.reader_command(sudo=True) == [sudo, "-n", *grant]
    assert source.sudoers_line().endswith(" NOPASSWD: " + " ".join(grant))


def test_sudo_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr(source, "SUDO_PATHS", ())
    with pytest.raises(ReaderError, match="sudo is not installed"):
        source.reader_command(sudo=True)


def test_sudo_is_not_looked_for_along_the_callers_path():
    assert all(path.startswith("/") for path in source.SUDO_PATHS)


@pytest.mark.parametrize("loose", ["file", "folder", "owner", "link", None])
def test_what_others_could_put_in_the_readers_place_is_told(monkeypatch, tmp_path, need, loose):
    need()
    monkeypatch.setattr(source.os.path, "dirname", lambda path: folder if path == file else "/")
    folder, file = str(tmp_path), str(tmp_path / "reader.py")
    tmp_path.chmod(0o777 if loose == "folder" else 0o1777)
    (tmp_path / "real").touch(mode=0o755)
    if loose == "link":
        os.chown(tmp_path / "real", 65534, 65534)
        os.symlink("real", file)
    else:
        os.rename(tmp_path / "real", file)
        os.chmod(file, 0o757 if loose == "file" else 0o755)
        os.chown(file, 65534 if loose == "owner" else 0, 0)
    monkeypatch.setattr(source, "READER", file)
    told = {"folder": folder, "link": str(tmp_path / "real"), None: ""}
    assert source.replaceable() == told.get(loose, file)


def test_the_line_of_sudoers_allows_no_argument(reader_file, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert source.sudoers_line() == f'root ALL=(root) NOPASSWD: {reader_file} ""'


def test_a_user_without_a_name_is_allowed_by_number(reader_file, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4242424)
    assert source.sudoers_line().startswith("#4242424 ALL=")


# --- small files


def test_a_file_is_read_up_to_a_bound(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 5000)
    assert source.read_file(str(tmp_path / "file")) == (str(tmp_path / "file"), b"x" * 4096, 0)
    assert source.read_file(str(tmp_path / "file"), 3).data == b"xxx"
    assert source.read_whole(str(tmp_path / "file")).data == b"x" * 5000
    assert source.read_whole(str(tmp_path / "file"), 10).data == b"x" * 10


def test_a_file_that_is_not_there_is_missing_and_anything_else_an_error(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    codes = {
        "none": errno.ENOENT,
        "file/below": errno.ENOTDIR,
        "link": errno.ELOOP,
        "": errno.EISDIR,
    }
    for name, code in codes.items():
        reading = source.read_file(f"{tmp_path}/{name}")
        assert reading.errno == code
        assert reading.missing == (name in ("none", "file/below"))
    assert source.read_whole(str(tmp_path / "none")).missing


def test_a_pipe_in_the_place_of_a_file_does_not_make_the_check_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert source.read_file(str(tmp_path / "pipe")).data == b""


def test_what_the_reader_does_is_an_error_of_the_kernels_side():
    assert issubclass(ReaderError, KernelError)
