"""Where the raw bytes come from: small files of the kernel, and the reader.

Everything here hands out bytes or says why it could not; what the bytes mean is for others.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress

from .namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence
    from typing import IO, Any

READER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reader.py")
# Where sudo starts it if the suite is one archive, in which nothing can be started.
READER_OF_ARCHIVE = "/opt/check-conntrack/reader.py"
# sudo is looked for here, and not along a PATH that somebody else may have set.
SUDO_PATHS = ("/usr/bin/sudo", "/bin/sudo", "/usr/local/bin/sudo", "/run/wrappers/bin/sudo")
LARGEST_ANSWER = 64 << 20  # bytes; a hundred thousand namespaces need a quarter of it

_HEAD = re.compile(rb"([0-9]{1,20}) ([0-9]{1,5}) ([a-z0-9_]{1,64}|-) ([0-9]{1,4}) ([0-9]{1,8})\n")
_LONGEST_HEAD = 128
_SIGPIPE, _SIGALRM = 13, 14  # importing signal takes longer than it is worth


class KernelError(Exception):
    """Something that the kernel did not let us know: what, why, and what to do about it."""


class ReaderError(KernelError):
    """The reader could not be started, died, or did not answer by its grammar."""


class Reading(NamedTuple):
    """What reading a file gave: its bytes, or the error number that stood in the way."""

    path: str
    data: bytes = b""
    errno: int = 0

    @property
    def missing(self) -> bool:
        """Whether there is no such file."""
        return self.errno in (errno.ENOENT, errno.ENOTDIR)


class Frame(NamedTuple):
    """A piece of the reader's answer (the grammar stands in reader.py)."""

    inode: int
    errno: int
    file: str
    path: str
    data: bytes


def read_file(path: str, most: int = 4096) -> Reading:
    """The first `most` bytes of a file of the kernel, opened without following a link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return Reading(path, os.read(descriptor, most))
        finally:
            os.close(descriptor)
    except OSError as error:
        return Reading(path, errno=error.errno or errno.EIO)


def read_whole(path: str, most: int = 16 << 20) -> Reading:
    """All of a file that is larger than one read hands out (/proc/self/mountinfo)."""
    try:
        with open(path, "rb") as file:
            return Reading(path, file.read(most))
    except OSError as error:
        return Reading(path, errno=error.errno or errno.EIO)


def sudo_path() -> str | None:
    """Where sudo is installed; None where it is not."""
    return next((path for path in SUDO_PATHS if os.access(path, os.X_OK)), None)


def reader_command(*, sudo: bool) -> list[str]:
    """The command line that starts the reader.

    A reader that is not executable (pip clears that bit) is started through the interpreter of
    the check; the sudoers line must then name exactly that. One in an archive is handed to that
    interpreter as text: no copy of it lies anywhere.

    Raises ReaderError where sudo is asked for and not installed, or the archive's reader is not.
    """
    if not sudo:
        text = archived_reader()
        return [*_isolated_python(), *(["-c", text.decode()] if text else [READER])]
    program = sudo_path()
    if program is None:
        raise ReaderError("--sudo: sudo is not installed on this host")
    step = reader_to_install()
    if step:
        raise ReaderError(f"--sudo: the reader is not installed: as root, run {step}")
    return [program, "-n", *sudo_grant()]


def sudo_grant() -> list[str]:
    """The command that sudoers must allow, argument by argument."""
    if archived_reader():
        return [READER_OF_ARCHIVE]
    return [READER] if os.access(READER, os.X_OK) else [*_isolated_python(), READER]


def archived_reader() -> bytes:
    """The reader's text where the suite is one archive (zipapp), and the reader no file; else none.

    It is as trustworthy as the archive, which is what runs.
    """
    if os.path.exists(READER):
        return b""
    try:
        text: bytes = getattr(__spec__.loader, "get_data")(READER)  # noqa: B009 - not of all
    except OSError:
        return b""
    return text


def reader_to_install() -> str:
    """What root must run before sudo can start an archive's reader; empty where nothing is.

    It is to be the very reader of the archive: another version may not understand its requests.
    """
    text = archived_reader()
    if not text or read_whole(READER_OF_ARCHIVE, len(text) + 1).data == text:
        return ""
    import shlex

    return shlex.quote(getattr(__spec__.loader, "archive", "")) + " --install-reader"


def sudoers_line() -> str:
    """The line of sudoers(5) that lets this user start the reader, and nothing else."""
    import pwd

    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"#{uid}"
    command = sudo_grant()
    # Without an argument list sudo would let the caller choose one.
    arguments = command[1:] or ['""']
    words = [_escaped(word) if word != '""' else word for word in (command[0], *arguments)]
    return f"{_escaped(name)} ALL=(root) NOPASSWD: {' '.join(words)}"


def _escaped(word: str) -> str:
    """A word as sudoers(5) takes it."""
    return re.sub(r"([\\ ,:=!*?\[\]])", r"\\\1", word)


def replaceable() -> str:
    """The first part of a path of sudo_grant that others than root may change; empty where none."""
    words = [word for word in sudo_grant() if word.startswith("/")]
    parts = [part for word in words for part in (*_chain(word), *_chain(os.path.realpath(word)))]
    return next((part for part in parts if _changeable(part)), "")


def _chain(path: str) -> list[str]:
    """A path and all folders above it."""
    return [path] if path == "/" else [path, *_chain(os.path.dirname(path))]


def _changeable(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return True
    # The mode of a link says nothing, and in a sticky folder only its owner replaces a file.
    fixed = stat.S_ISLNK(status.st_mode) or status.st_mode & stat.S_ISVTX
    return status.st_uid != 0 or bool(status.st_mode & 0o022 and not fixed)


def _isolated_python() -> list[str]:
    import sys

    return [sys.executable or "/usr/bin/python3", "-I", "-S", "-B"]


class Reader:
    """The reader as a child process, started while there are rights and asked when there are none.

    Raises ReaderError where it cannot be started. Use it as a context manager: when it ends, the
    child is killed, or where that takes a right that was given up, its pipes are closed, by which
    it ends; one that hangs where it looks at no pipe has its own LIFETIME.
    """

    def __init__(self, command: Sequence[str]) -> None:
        import subprocess

        self.command = list(command)
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(  # nosec B603 # noqa: S603 - no shell
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                close_fds=True,
                cwd="/",
            )
        except OSError as error:
            raise ReaderError(
                f"the reader {self.command[0]} cannot be started: {error.strerror}"
            ) from None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        import subprocess

        process = self._process
        if process.poll() is None:
            # It may run as root and we not any more; nor does PR_SET_PDEATHSIG end it then.
            with suppress(OSError):
                process.kill()
        for pipe in self._pipes():
            with suppress(OSError):
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)

    def _pipes(self) -> tuple[Any, Any, Any]:
        return self._process.stdin, self._process.stdout, self._process.stderr

    def ask(self, fields: Sequence[bytes]) -> list[Frame]:
        """The whole answer to a request for small things.

        Raises ReaderError where there is none that can be trusted, or it is longer than all that
        a host could say.
        """
        frames = []
        size = 0
        for frame in self.stream(fields):
            frames.append(frame)
            size += len(frame.path) + len(frame.data) + 100
            if size > LARGEST_ANSWER:
                raise ReaderError(f"the reader's answer is longer than {LARGEST_ANSWER >> 20} MiB")
        return frames

    def stream(self, fields: Sequence[bytes]) -> Iterator[Frame]:
        """The frames of the answer to one request, as they come.

        Raises ReaderError where the answer ends before its end, or is not of the grammar.
        """
        stdin, stdout, stderr = self._pipes()
        # Where it ended before it read, its own words, below, say why.
        with suppress(BrokenPipeError):
            stdin.write(b"".join(field + b"\0" for field in fields))
            stdin.close()
        fault = None
        try:
            yield from parse_answer(stdout)
        except ReaderError as error:
            fault = error
        stdout.close()
        words = stderr.read(4096).decode("ascii", "replace").split("\n")
        status = self._process.wait()
        # One that we stopped listening to ends by SIGPIPE; why we did is what counts.
        if status != 0 and not (fault and status == -_SIGPIPE):
            said = _reason([word.strip() for word in words if word.strip()])
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            if status == -_SIGALRM:
                how = "took longer than it allows itself (too many namespaces?)"
            raise ReaderError(f"the reader {how}" + (f": {said}" if said else ""))
        if fault:
            raise fault


def _reason(words: Sequence[str]) -> str:
    """The line that says why: sudo's first, what follows it is advice; a traceback's last."""
    return next((word for word in words if word.startswith("sudo: ")), words[-1] if words else "")


def parse_answer(answer: IO[bytes]) -> Iterator[Frame]:
    """The frames of a reader's answer; raises ReaderError where it is not of the grammar."""
    while True:
        line = answer.readline(_LONGEST_HEAD)
        if line == b"end\n":
            if answer.read(1):
                raise ReaderError("the reader's answer goes on after its end")
            return
        head = _HEAD.fullmatch(line)
        if not head:
            raise ReaderError("the reader's answer " + ("is rubbish" if line else "is cut short"))
        path = answer.read(int(head[4]))
        data = answer.read(int(head[5]))
        if len(path) != int(head[4]) or len(data) != int(head[5]):
            raise ReaderError("the reader's answer is cut short")
        if b"\0" in path:
            raise ReaderError("the reader's answer is rubbish")
        yield Frame(int(head[1]), int(head[2]), head[3].decode("ascii"), os.fsdecode(path), data)
