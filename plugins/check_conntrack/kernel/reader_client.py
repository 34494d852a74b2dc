"""The reader as a child process: started, asked once, and its answer parsed into frames.

The grammar of requests and answers is in reader.py.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

from .namedtuple import NamedTuple
from .reader_command import ReaderError, ReaderTimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence
    from typing import IO, Any

LARGEST_ANSWER = 64 << 20  # bytes; a hundred thousand namespaces need a quarter of it

_HEADER = re.compile(rb"([0-9]{1,20}) ([0-9]{1,5}) ([a-z0-9_]{1,64}|-) ([0-9]{1,4}) ([0-9]{1,8})\n")
_LONGEST_HEADER = 128
_SIGPIPE, _SIGALRM = 13, 14  # importing signal costs more time than it is worth
# What sudo says when it refuses, and what it says besides: a warning often stands first.
_REASONS = re.compile(
    r"password is required|not allowed|not in the sudoers|may not run|no new privileges"
    r"|must have a tty|must be owned by uid|effective uid|account validation|policy plugin"
    r"|command not found"
)
_WARNINGS = re.compile(r"unable to resolve host|setrlimit|unknown defaults|audit")


class Frame(NamedTuple):
    """One piece of the reader's answer."""

    inode: int
    errno: int
    file: str
    path: str
    data: bytes


class Reader:
    """The reader as a child process: start it while there are privileges, ask it afterwards.

    before: what the command wants to read before the request.

    Use it as a context manager. At the end the child is killed; where that takes privileges that
    were given up, closing its pipes ends it, and otherwise its own time limits do.
    Raises ReaderError where it cannot be started.
    """

    def __init__(self, command: Sequence[str], before: bytes = b"") -> None:
        import subprocess

        self.command = list(command)
        self._before = before
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(  # nosec B603 # noqa: S603 - no shell
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                close_fds=True,
                cwd="/",
                env=_environment(),
            )
        except OSError as error:
            raise ReaderError(
                f"the reader {self.command[0]}: cannot be started: {error.strerror}"
            ) from None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        import subprocess

        process = self._process
        if process.poll() is None:
            # EPERM where it runs as root and this process no longer does.
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
        """Return all frames of the answer to a request for small things.

        Raises ReaderError where the answer is malformed, cut short, or larger than any host's.
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
        """Yield the frames of the answer to a request as they arrive.

        Raises ReaderError where the answer is malformed or cut short, or the reader failed.
        """
        stdin, stdout, stderr = self._pipes()
        # Where the reader ended before it read, its standard error, below, says why.
        with suppress(BrokenPipeError):
            stdin.write(self._before + b"".join(field + b"\0" for field in fields))
            stdin.close()
        fault = None
        try:
            yield from parse_answer(stdout)
        except ReaderError as error:
            fault = error
        stdout.close()
        lines = stderr.read(4096).decode("ascii", "replace").split("\n")
        status = self._process.wait()
        # A malformed answer is not read to its end, so SIGPIPE is our doing.
        if status != 0 and not (fault and status == -_SIGPIPE):
            said = _reason([line.strip() for line in lines if line.strip()])
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            if status == -_SIGALRM:
                why = "timed out (its own time limits; are there very many namespaces?)"
                raise ReaderTimeoutError(f"the reader {why}" + (f": {said}" if said else ""))
            if said.startswith("sudo: "):
                raise ReaderError(said)
            raise ReaderError(f"the reader {how}" + (f": {said}" if said else ""))
        if fault:
            raise fault


def _environment() -> dict[str, str]:
    """Return the environment of the reader.

    sudo's words are compared with those of _REASONS. A shell takes functions from its environment.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BASH")}
    return {**kept, "LC_ALL": "C"}


def _reason(lines: Sequence[str]) -> str:
    """Return the line of standard error that says why the reader, or sudo, failed.

    The line that names a refusal; else sudo's first that is no mere warning, for advice follows
    it; else the last, which is a traceback's reason.
    """
    of_sudo = [line for line in lines if line.startswith("sudo: ")]
    for line in of_sudo:
        if _REASONS.search(line):
            return line
    for line in of_sudo:
        if not _WARNINGS.search(line):
            return line
    return lines[-1] if lines else ""


def parse_answer(answer: IO[bytes]) -> Iterator[Frame]:
    """Yield the frames of a reader's answer; raises ReaderError where it is malformed."""
    while True:
        line = answer.readline(_LONGEST_HEADER)
        if line == b"end\n":
            if answer.read(1):
                raise ReaderError("malformed answer from the reader: it goes on after its end")
            return
        header = _HEADER.fullmatch(line)
        if not header:
            why = "malformed answer from" if line else "incomplete answer from"
            raise ReaderError(f"{why} the reader")
        path = answer.read(int(header[4]))
        data = answer.read(int(header[5]))
        if len(path) != int(header[4]) or len(data) != int(header[5]):
            raise ReaderError("incomplete answer from the reader")
        if b"\0" in path:
            raise ReaderError("malformed answer from the reader")
        yield Frame(int(header[1]), int(header[2]), header[3].decode(), os.fsdecode(path), data)
