"""The state directory: small JSON files that each run leaves for the next, in a user's folder.

What cannot be read counts as missing, and what cannot be written is said (`trouble`). A folder in
which another user could plant something is `refused`: nothing in it is read or written. Every file
is opened without following links, locked through the folder, and replaced as a whole.
"""

from __future__ import annotations

import json
import os
import stat
import time
import zlib
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

from ..kernel import atomic_write
from ..kernel.source import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Callable

    _Version = tuple[int, int, int]
    """Of a file: each new one has another inode number or time."""

SHARED = "/var/lib/check-conntrack"
STATE_VARIABLE = "CHECK_CONNTRACK_STATE_DIR"
LARGEST = 256 * 1024  # bytes; a larger file is not ours
MANY = 4 * 1024 * 1024  # bytes; the same, where thousands of namespaces share a file
MOST_FILES = 4096
MOST_SERIES = 110  # together in a file, where each may take 2.3 KB
OLDEST = 31 * 86400  # seconds after which a file of a service that is gone goes
DAY = 86400  # seconds; a service that ran within them is not gone
LOCK_WAIT = 0.5  # seconds
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


class _RefusedError(Exception):
    """A state directory that is a link, or that others may write to."""


class Store:
    """The folder that keeps the histories of this user's checks.

    folder: its path; empty until it is open.
    trouble: why nothing can be kept; empty if everything is well.
    refused: whether the folder itself is the trouble: another user could have changed it.
    notes: sentences on what else was wrong.
    """

    def __init__(self, trouble: str = "") -> None:
        self.folder = ""
        self.trouble = trouble
        self.refused = False
        self.notes: list[str] = []
        self._descriptor = -1
        self._patience = LOCK_WAIT
        self._room = -1
        self._known: dict[str, tuple[_Version, Any]] = {}

    @classmethod
    def without(cls, why: str) -> Store:
        """Return a store that keeps nothing."""
        return cls(why)

    @classmethod
    def open(cls, explicit: str | None, environment: Mapping[str, str], home: str | None) -> Store:
        """Open the store named by `explicit` or by the environment, else the first default.

        The defaults are SHARED if it can be written to, then a folder below `home`: the user's own
        if that is None; none if it is empty. If the first one is refused, no other is tried: the
        administrator has to correct it.
        """
        store = cls()
        named = explicit or environment.get(STATE_VARIABLE)
        if named:
            store._use(named, os.geteuid())
            return store
        if os.path.lexists(SHARED):
            store._use(SHARED, os.geteuid())
        if store._descriptor >= 0 or store.refused:
            return store
        if home == "":
            return cls(f"state directory: uid {os.geteuid()} has no home (use --state-dir)")
        folder = _below_home(environment, home)
        if not os.path.isabs(folder):
            # A container's uid without an entry in passwd: "~" would be a folder of that name.
            return cls(f"state directory: uid {os.geteuid()} has no home (use --state-dir)")
        store._use(folder, os.geteuid())
        return store

    @classmethod
    def open_as_root(
        cls, explicit: str | None, environment: Mapping[str, str], uid: int, gid: int
    ) -> Store | None:
        """Open a store below a folder of root's for the user that root is about to become.

        The folder is the one that open() would use, made if it is missing. The user's own folder
        below it is made, given to the user and opened. None: the folder is not root's alone, so
        that root must not touch it; the user may still open() it.
        """
        path = os.path.abspath(explicit or environment.get(STATE_VARIABLE) or SHARED)
        if not _is_roots_alone(path):
            return None
        store = cls()
        with suppress(OSError):  # if it fails, opening it says why
            atomic_write.make_folders(path, 0o755)
        if os.path.lexists(path) and not _is_roots_alone(path):
            return None  # somebody was faster, in a folder that is open to all
        store._use(path, uid, gid)
        return store

    def _use(self, path: str, uid: int, gid: int | None = None) -> None:
        """Open a user's folder below `path`, and make what is missing; a new one gets the `gid`."""
        path = os.path.abspath(path)
        base = -1
        own = str(uid)
        self.trouble = ""
        try:
            with suppress(FileExistsError):  # a file or a link; opening it says which
                atomic_write.make_folders(path, 0o700)
            base = _open_folder(path, path)
            with suppress(FileExistsError):
                atomic_write.make_folder(own, 0o700, base)
                if gid is not None:
                    os.chown(own, uid, gid, dir_fd=base, follow_symlinks=False)
            descriptor = _open_folder(own, os.path.join(path, own), base, uid)
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            if mode & 0o077:  # whoever may read it may lock it, and for ever
                with suppress(OSError):
                    os.fchmod(descriptor, mode & 0o700)
        except _RefusedError as error:
            self.trouble = str(error)
            self.refused = True
            return
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.trouble = f"state directory {path}: {reason}"
            return
        finally:
            if base >= 0:
                os.close(base)
        self.folder = os.path.join(path, own)
        self._descriptor = descriptor

    def read(self, key: str, most: int = LARGEST) -> Any:
        """Return what is kept under `key`; None if that is nothing, or nothing readable.

        Nobody may change what is returned: update() hands out the same, where no other run has
        written meanwhile.
        """
        return self._read(_file_name(key), most) if self._descriptor >= 0 else None

    def update(self, key: str, change: Callable[[Any], Any], most: int = LARGEST) -> Any:
        """Replace what is kept under `key` with what `change` makes of it, and return that.

        `change` gets what read() returns. If the result has more than `most` bytes, that is
        trouble, and the old value stays.
        """
        if self._descriptor < 0:
            return change(None)
        name = _file_name(key)
        locked = self._lock()
        try:
            old = self._read(name, most)
            new = change(old)
            if locked and new != old:
                self._write(name, _encoded(new), most)
            elif locked:
                # The age of a file is that of the last run that needed it.
                with suppress(OSError):
                    os.utime(name, dir_fd=self._descriptor, follow_symlinks=False)
        finally:
            if locked:
                flock(self._descriptor, LOCK_UN)
        return new

    def update_each(self, key: str, changes: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
        """Apply `changes` to the values that one file keeps under several names; return those.

        Other names stay, up to MOST_SERIES in all: those that were changed longest ago are removed.
        """
        new: dict[str, Any] = {}

        def change(kept: Any) -> dict[str, Any]:
            others = dict(kept) if isinstance(kept, dict) else {}
            for name, one in changes.items():
                new[name] = one(others.pop(name, None))
            # JSON keeps the order: the latest are the last.
            latest = [*others.items(), *new.items()][-max(MOST_SERIES, len(new)) :]
            return dict(latest)

        self.update(key, change)
        return new

    def fail(self, reason: str) -> None:
        """Say why this run cannot be kept."""
        self.trouble = self.trouble or reason

    def close(self) -> None:
        """Close the folder."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _lock(self) -> bool:
        give_up = time.monotonic() + self._patience
        while True:
            try:
                flock(self._descriptor, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    if self._patience:
                        self.notes.append(
                            f"{self.folder}: locked by another run, this run is not kept"
                        )
                    # A run may keep many files and has little time: it waits once.
                    self._patience = 0.0
                    return False
                time.sleep(0.01)
            except OSError as error:
                self.trouble = f"{self.folder}: cannot be locked: {error.strerror}"
                return False
            else:
                return True

    def _read(self, name: str, most: int) -> Any:
        try:
            descriptor = os.open(
                name,
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                dir_fd=self._descriptor,
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            self.notes.append(f"{self.folder}/{name}: {error.strerror}")
            return None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > most:
                raise ValueError
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            before = self._known.get(name)
            if before and before[0] == version:
                return before[1]
            with os.fdopen(os.dup(descriptor), "rb") as file:
                value = json.loads(file.read(most))
            self._known[name] = version, value
            return value
        except (OSError, ValueError, RecursionError):
            note = f"{self.folder}/{name}: damaged, its history starts again"
            if note not in self.notes:  # it is read again before it is replaced
                self.notes.append(note)
            return None
        finally:
            os.close(descriptor)

    def _write(self, name: str, data: bytes, most: int) -> None:
        fresh = f".{name}.new"
        if len(data) > most:
            # The next run would take it for damaged.
            self.trouble = f"{self.folder}/{name}: {len(data)} bytes are more than {most}"
            return
        try:
            if not _exists(name, self._descriptor) and not self._makes_room():
                self.trouble = f"{self.folder}: no room, {MOST_FILES} files are in use"
                return
            # A killed run may have left it. With the lock held, nobody is writing to it.
            with suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=self._descriptor)
            atomic_write.replace(
                self._descriptor,
                name,
                fresh,
                lambda descriptor: atomic_write.write(descriptor, data),
            )
        except OSError as error:
            self.trouble = f"{self.folder}: cannot be written to: {error.strerror}"

    def _makes_room(self) -> bool:
        """Return whether there is room for a new file; files of past services are removed first.

        Files in use stay. If a new file replaced the oldest one, and services ran in turn that are
        one more than there is room for, none of them would ever find its own file. The folder is
        listed once a run.
        """
        if self._room < 0:
            self._room = max(0, MOST_FILES - self._prune())
        if not self._room:
            return False
        self._room -= 1
        return True

    def _prune(self) -> int:
        """Remove old files, and the surplus of those unused for a day; return how many are left."""
        dated = []
        for name in os.listdir(self._descriptor):
            with suppress(OSError):
                dated.append(
                    (
                        os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mtime,
                        name,
                    )
                )
        dated.sort()
        left = len(dated)
        now = time.time()
        for when, name in dated:
            if when < now - OLDEST or (when < now - DAY and left >= MOST_FILES):
                with suppress(OSError):
                    os.unlink(name, dir_fd=self._descriptor)
                    left -= 1
        return left


def _below_home(environment: Mapping[str, str], home: str | None) -> str:
    """Return the folder for state of the XDG Base Directory Specification."""
    given = environment.get("XDG_STATE_HOME", "")
    if home is None and os.path.isabs(given):
        return os.path.join(given, "check-conntrack")
    return os.path.join(home or os.path.expanduser("~"), ".local/state/check-conntrack")


def _is_roots_alone(path: str) -> bool:
    """Return whether a path, or its nearest existing parent, can be changed by root only.

    Root may make folders there: nobody else can redirect it by a link.
    """
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    try:
        while True:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode) or not stat.S_ISDIR(status.st_mode):
                return False
            # In a sticky folder nobody can replace a folder of root's.
            open_to_others = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
            if status.st_uid != 0 or open_to_others:
                return False
            if path == "/":
                return True
            path = os.path.dirname(path)
    except OSError:
        return False


def _open_folder(path: str, shown: str, base: int | None = None, owner: int | None = None) -> int:
    """Open a folder that only its owner may write to; raises OSError or _RefusedError.

    path: relative to the descriptor `base`. shown: the whole path, for messages.
    owner: the uid that it must belong to.
    """
    try:
        descriptor = os.open(path, _FOLDER, dir_fd=base)
    except OSError:
        if stat.S_ISLNK(os.stat(path, dir_fd=base, follow_symlinks=False).st_mode):
            raise _RefusedError(
                f"state directory {shown}: is a link (name the folder itself)"
            ) from None
        raise
    status = os.fstat(descriptor)
    problem = ""
    if status.st_mode & 0o022:
        problem = "others may write to it (name a folder that only its owner may write to)"
    elif owner is not None and status.st_uid != owner:
        problem = "belongs to another user"
    if problem:
        os.close(descriptor)
        raise _RefusedError(f"state directory {shown}: {problem}")
    return descriptor


def _exists(name: str, base: int) -> bool:
    try:
        os.stat(name, dir_fd=base, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def size(value: Any) -> int:
    """Return how many bytes a value takes in a file."""
    return len(_encoded(value))


def _file_name(key: str) -> str:
    """Return a file name for any key, different for different keys."""
    raw = os.fsencode(key)
    name = "".join(chr(byte) if byte in _SAFE else f"%{byte:02x}" for byte in raw)
    if len(name) > 200:
        name = f"{name[:180]}%{zlib.crc32(raw):08x}"
    return name + ".json"


def boot_id() -> str:
    """Return the id of this boot (random(4)); empty if the kernel does not tell."""
    return read_file("/proc/sys/kernel/random/boot_id").data.strip().decode("ascii", "replace")
