"""Tables kept in files: opened, unpacked, and never waited for."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager

from .source import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from typing import BinaryIO

STANDARD_INPUT = "-"
_GZIP = b"\x1f\x8b"


@contextmanager
def open_listing(path: str) -> Iterator[BinaryIO]:
    """A file of entries as text, or standard input for "-", unpacked where it is gzip.

    Raises KernelError, naming the path, for what is no file that can be read.
    """
    with _opened(path) as file:
        try:
            packed = file.peek(2)[:2] == _GZIP
        except OSError as error:
            raise KernelError(f"{path} cannot be read: {error.strerror}") from None
        if not packed:
            yield file
            return
        import gzip

        with gzip.GzipFile(fileobj=file) as unpacked:
            yield unpacked  # type: ignore[misc]


def _opened(path: str) -> BufferedReader:
    if path == STANDARD_INPUT:
        return os.fdopen(os.dup(0), "rb")
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise KernelError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise KernelError("--source: no valid file name") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise KernelError(f"{path} is not a file")
    return os.fdopen(descriptor, "rb")


def unreadable(error: Exception) -> str:
    """Why a file could not be read on: one that is damaged, cut short, or on a bad disk."""
    if isinstance(error, EOFError):
        return "it is cut short"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "the packed data is damaged"
