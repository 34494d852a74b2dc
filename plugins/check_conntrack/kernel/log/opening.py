"""Open log files by name or glob, now or before privileges are dropped."""

from __future__ import annotations

import errno
import os
import stat

from .. import reasons
from ..reasons import SourceProblem, UnreadableError
from . import rotation
from .decompress import os_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .rotation import RotatedPart

STANDARD_INPUT = "-"
MOST_PREOPENED = 256
"""Files opened before privileges are dropped; a process may have 1024 open by default."""


def open_log(path: str) -> int:
    """Return a descriptor of a regular file; raise UnreadableError for anything else.

    Symbolic links are not followed, and nothing is waited for.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise os_problem(path, error) from None
    except ValueError:
        raise UnreadableError(path, reasons.INVALID_NAME) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise UnreadableError(path, reasons.NOT_A_FILE, _file_type(mode))


def _file_type(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            return name
    return "a special file"


class LogFiles:
    """Log files by name: opened now, or before privileges were dropped."""

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}
        self._parts: dict[str, list[RotatedPart]] = {}
        self._expanded: dict[str, tuple[list[str], list[SourceProblem]]] = {}

    def preopen(self, patterns: Iterable[str]) -> None:
        """Open the logs that names and globs stand for, with their rotated parts.

        What cannot be opened is tried again when it is read, and reported then.
        """
        for pattern in patterns:
            if pattern == STANDARD_INPUT:
                continue
            self._expanded[pattern] = self._expand(pattern)
            for path in self._expanded[pattern][0]:
                self._parts[path] = self.parts(path)
                for name in (path, *(part.path for part in reversed(self._parts[path]))):
                    self._preopen(name)

    def _preopen(self, path: str) -> None:
        if path not in self._descriptors and len(self._descriptors) < MOST_PREOPENED:
            try:
                self._descriptors[path] = open_log(path)
            except UnreadableError:
                return

    def close(self) -> None:
        """Close what was opened before."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def open(self, path: str) -> int:
        """Return a descriptor, to be closed by the caller. Raises UnreadableError."""
        held = self._descriptors.get(path)
        return open_log(path) if held is None else os.dup(held)

    def parts(self, path: str) -> list[RotatedPart]:
        """Return the rotated parts of a log, oldest first; none where the folder is unreadable."""
        if path in self._parts:
            return self._parts[path]
        try:
            return rotation.rotated_parts(path, rotation.list_folder(path))
        except (OSError, ValueError):
            return []

    def expand(self, patterns: Sequence[str]) -> tuple[list[str], list[SourceProblem]]:
        """Return the files that names and globs stand for, each once, and what is unreadable.

        `-` stays. A name that exists is itself, also with brackets in it.
        """
        paths: dict[str, None] = {}
        problems: list[SourceProblem] = []
        for pattern in patterns:
            matches, wrong = self._expanded.get(pattern) or self._expand(pattern)
            paths.update(dict.fromkeys(matches))
            problems += wrong
        return list(paths), problems

    def _expand(self, pattern: str) -> tuple[list[str], list[SourceProblem]]:
        if not any(mark in pattern for mark in "*?[") or os.path.lexists(pattern):
            return [pattern], []
        problems: list[SourceProblem] = []
        paths = sorted(_matches(pattern, problems))
        if not paths and not problems:
            problems.append(SourceProblem(pattern, reasons.NO_MATCH))
        return paths, problems


def preopen(patterns: Iterable[str]) -> LogFiles:
    """Return the logs that names and globs stand for, opened with this process's privileges."""
    files = LogFiles()
    files.preopen(patterns)
    return files


def _matches(pattern: str, problems: list[SourceProblem]) -> Iterator[str]:
    """Yield what a glob matches; add folders that cannot be listed to the problems.

    glob.glob passes over what it may not read.
    """
    import fnmatch

    folder, name = os.path.split(pattern)
    if folder == pattern:  # the root
        yield pattern
        return
    folders: Iterable[str] = [folder]
    if any(mark in folder for mark in "*?["):
        folders = list(_matches(folder, problems))
    for each in folders:
        try:
            if any(mark in name for mark in "*?["):
                for entry in fnmatch.filter(os.listdir(each or "."), name):
                    if name[0] == "." or entry[0] != ".":
                        yield os.path.join(each, entry)
            else:
                os.lstat(os.path.join(each, name))
                yield os.path.join(each, name)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                detail = os.strerror(error.errno or errno.EIO)
                problems.append(SourceProblem(each, reasons.FOLDER_UNREADABLE, detail))
