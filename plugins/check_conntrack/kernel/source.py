"""Small files of the kernel, as bytes or as the error that reading them met."""

from __future__ import annotations

import errno
import os

from .namedtuple import NamedTuple


class KernelError(Exception):
    """Something could not be read from the kernel: the object, the problem, the remedy."""


class FileReading(NamedTuple):
    """The result of reading a file: its bytes, or the number of the error (errno(3))."""

    path: str
    data: bytes = b""
    errno: int = 0

    @property
    def missing(self) -> bool:
        """Return whether the file does not exist."""
        return self.errno in (errno.ENOENT, errno.ENOTDIR)


def read_file(path: str, most: int = 4096) -> FileReading:
    """Read up to `most` bytes of a file in one read, without following a link or waiting."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return FileReading(path, os.read(descriptor, most))
        finally:
            os.close(descriptor)
    except OSError as error:
        return FileReading(path, errno=error.errno or errno.EIO)


def read_long_file(path: str, most: int = 16 << 20) -> FileReading:
    """Read up to `most` bytes of a file that one read does not return as a whole (mountinfo)."""
    try:
        with open(path, "rb") as file:
            return FileReading(path, file.read(most))
    except OSError as error:
        return FileReading(path, errno=error.errno or errno.EIO)
