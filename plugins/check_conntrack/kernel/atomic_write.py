"""Write files whole or not at all (under another name, then rename(2)), and make folders."""

from __future__ import annotations

import os
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def make_folder(path: str, mode: int, folder: int | None = None) -> None:
    """Make a folder with exactly this mode, whatever the umask; raises OSError."""
    umask = os.umask(0)
    try:
        os.mkdir(path, mode, dir_fd=folder)
    finally:
        os.umask(umask)


def make_folders(path: str, mode: int) -> None:
    """Make the folders of an absolute path that are missing, each with exactly this mode.

    Raises OSError; where the path is too long, before anything is made.
    """
    missing = []
    while not _exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        with suppress(FileExistsError):  # another run has just made it
            make_folder(folder, mode)


def _exists(path: str) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def replace(folder: int, name: str, fresh: str, fill: Callable[[int], None]) -> None:
    """Replace `name` in a folder (a descriptor) with what `fill` writes to the descriptor it gets.

    The file is written under the name `fresh`, which must not exist, with mode 0600. If anything is
    raised, OSError or by `fill`, `name` stays as it was and `fresh` is removed.
    """
    descriptor = os.open(fresh, _FRESH, 0o600, dir_fd=folder)
    try:
        try:
            fill(descriptor)
        finally:
            os.close(descriptor)
        os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(fresh, dir_fd=folder)
        raise


def write(descriptor: int, data: bytes) -> None:
    """Write all of the data; raises OSError, for example if the disk is full."""
    while data:
        data = data[os.write(descriptor, data) :]
