"""The table, kept for later: gzip files of what `conntrack -L -o extended` would have printed.

A snapshot is written beside, and renamed when it is whole; nothing is left half-written. The first
of an incident is kept longest. A verdict never depends on any of this: what stands in the way is a
SnapshotError, one sentence.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
import zlib
from contextlib import suppress

from .. import render
from ..kernel import atomic_write
from ..kernel.namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Callable

AGAIN = 900  # seconds between two snapshots of one incident
BEGIN, LATER = "begin", "later"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME = re.compile(r"conntrack-(?:(.*)-)?[0-9]{8}T[0-9]{6}Z-(begin|later)\.txt\.gz", re.ASCII)
_LEFT_OVER = re.compile(r"\.conntrack-.*\.txt\.gz\.new", re.ASCII)
_STALE = 3600  # seconds after which an unfinished file belongs to a run that was killed
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.@-")
_GZIP = 31  # zlib's word for its own format with gzip's head, and the largest window


class SnapshotError(Exception):
    """A snapshot that was not made: where, and why."""


class Kept(NamedTuple):
    """A snapshot in the folder: of which namespace, taken when (seconds since the epoch)."""

    name: str
    namespace: str
    at: float
    part: str


class Folder:
    """The folder of snapshots, held open. Raises SnapshotError for a link, or what is not there."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, _FOLDER)
        except (OSError, ValueError) as error:
            if os.path.islink(path):
                why = "is a link: name the directory itself"
            else:
                why = getattr(error, "strerror", None) or "no valid name"
            raise SnapshotError(f"{path}: {why}") from None

    def close(self) -> None:
        """Let the folder go."""
        os.close(self._descriptor)

    def check_writable(self) -> None:
        """Raise SnapshotError if this user may not make files in it."""
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=self._descriptor):
            flags = os.fstatvfs(self._descriptor).f_flag
            code = errno.EROFS if flags & os.ST_RDONLY else errno.EACCES
            raise SnapshotError(f"{self.path}: {os.strerror(code)}")

    def kept(self, namespace: str) -> list[Kept]:
        """Return this user's snapshots of a namespace, the oldest first. Raises SnapshotError.

        Others' files of such names, in a folder for several, count for nothing and stay.
        """
        try:
            names = os.listdir(self._descriptor)
        except OSError as error:
            raise SnapshotError(f"{self.path}: {error.strerror}") from None
        found = []
        for name in names:
            match = _NAME.fullmatch(name)
            if match and (match[1] or "") == _safe(namespace):
                with suppress(OSError):
                    status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
                    if status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode):
                        found.append(Kept(name, namespace, status.st_mtime, match[2]))
        return sorted(found, key=lambda kept: (kept.at, kept.name))

    def save(
        self,
        namespace: str,
        part: str,
        now: float,
        pieces: Iterable[bytes],
        expired: Callable[[], bool],
    ) -> str:
        """Write a snapshot; returns its path. Raises SnapshotError, and whatever `pieces` raise.

        `expired` is asked as often as there is a piece.
        """
        middle = f"{_safe(namespace)}-" if namespace else ""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        name = f"conntrack-{middle}{stamp}-{part}.txt.gz"
        # Two runs at once do not meet in one file.
        fresh = f".{name}.{os.getpid()}.new"
        try:
            self._sweep(now)
            atomic_write.replace(
                self._descriptor,
                name,
                fresh,
                lambda descriptor: self._fill(descriptor, pieces, expired),
            )
        except OSError as error:
            raise SnapshotError(f"{self.path}: {error.strerror}") from None
        return os.path.join(self.path, name)

    def _fill(self, descriptor: int, pieces: Iterable[bytes], expired: Callable[[], bool]) -> None:
        # A host in trouble: little work, little memory.
        packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
        lines = 0
        for piece in pieces:
            if expired():
                written = render.plural(lines, "entry", "entries")
                raise SnapshotError(f"{self.path}: no time was left after {written}")
            lines += piece.count(b"\n")
            atomic_write.write(descriptor, packer.compress(piece))
        atomic_write.write(descriptor, packer.flush())

    def _sweep(self, now: float) -> None:
        """Remove what runs that were killed have left behind."""
        for name in os.listdir(self._descriptor):
            if _LEFT_OVER.fullmatch(re.sub(r"\.[0-9]+\.new$", ".new", name)):
                with suppress(OSError):
                    status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
                    if status.st_uid == os.geteuid() and status.st_mtime < now - _STALE:
                        os.unlink(name, dir_fd=self._descriptor)

    def prune(self, namespace: str, keep: int) -> None:
        """Leave so many snapshots of a namespace. Raises SnapshotError."""
        for kept in superfluous(self.kept(namespace), keep):
            try:
                os.unlink(kept.name, dir_fd=self._descriptor)
            except OSError as error:
                raise SnapshotError(f"{self.path}/{kept.name}: {error.strerror}") from None


def check_writable(path: str) -> None:
    """Raise SnapshotError where no snapshot can be saved in a folder."""
    folder = Folder(path)
    try:
        folder.check_writable()
    finally:
        folder.close()


def superfluous(kept: Iterable[Kept], keep: int) -> list[Kept]:
    """Return the snapshots that go so that `keep` stay; `kept` has the oldest first.

    First what came later in an incident, the oldest first, but not the newest of all; then the
    beginnings of incidents, the oldest first.
    """
    left = list(kept)
    gone = []
    while len(left) > keep:
        later = [one for one in left[:-1] if one.part == LATER]
        beginnings = [one for one in left if one.part == BEGIN]
        going = later[0] if later else beginnings[0] if len(beginnings) > 1 else left[-1]
        left.remove(going)
        gone.append(going)
    return gone


def due(earlier: object, kept: Iterable[Kept], now: float) -> str:
    """Return which snapshot a problem calls for: BEGIN, LATER, or nothing.

    `earlier` is what `remember` made of the last run, or anything else where that is not known:
    then the snapshots there are tell.
    """
    if isinstance(earlier, dict) and earlier.get("problem") is False:
        return BEGIN
    ages = [now - one.at for one in kept]
    if isinstance(earlier, dict) and type(earlier.get("saved")) in (int, float):
        # Not their difference: no float holds whatever a damaged state may say.
        return "" if now - AGAIN < earlier["saved"] <= now else LATER
    youngest = min((age for age in ages if age >= 0), default=None)
    if youngest is None or youngest >= 2 * AGAIN:
        return BEGIN
    return LATER if youngest >= AGAIN else ""


def remember(*, problem: bool, saved: float | None) -> dict[str, object]:
    """Return the facts that the next run needs."""
    if not problem or saved is None:
        return {"problem": False}
    return {"problem": True, "saved": round(saved)}


def _safe(namespace: str) -> str:
    return "".join(character if character in _SAFE else "_" for character in namespace)[:64]
