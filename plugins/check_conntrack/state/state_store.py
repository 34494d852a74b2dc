"""What earlier runs left behind: small JSON files in a folder of the user's own.

A check's verdict never depends on this folder: what cannot be read is as if it were not there,
and what cannot be written is said (`trouble`). A folder in which somebody else could plant
something is `refused`: nothing in it is read or written. Every file is opened without following
links, locked through the folder, and replaced as a whole.
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
from ..state.trend import Peak, Sample

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Callable


SHARED = "/var/lib/check-conntrack"
STATE_VARIABLE = "CHECK_CONNTRACK_STATE_DIR"
LARGEST = 256 * 1024  # bytes; a larger file is not ours
MANY = 4 * 1024 * 1024  # bytes; the same, where thousands of namespaces share a file
MOST_FILES = 4096
MOST_SERIES = 150  # together in a file, where each may take 1.4 KB
OLDEST = 31 * 86400  # seconds after which a file of a service that is gone goes
DAY = 86400  # seconds; a service that ran within them is not gone
LOCK_WAIT = 0.5  # seconds
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


class _RefusedError(Exception):
    """A state directory that is a link, or that others may write to."""


class Store:
    """The folder that keeps what this user's checks remember.

    `folder` is its path once it is open. `trouble` says why nothing can be kept, empty where all
    is well, and `refused` that it is the folder's fault: somebody else could have had a hand in
    it. `notes` say what else was found out of order.
    """

    def __init__(self) -> None:
        self.folder = ""
        self.trouble = ""
        self.refused = False
        self.notes: list[str] = []
        self._descriptor = -1
        self._patience = LOCK_WAIT
        self._room = -1

    @classmethod
    def without(cls, why: str) -> Store:
        """A store that keeps nothing."""
        store = cls()
        store.trouble = why
        return store

    @classmethod
    def open(cls, explicit: str | None, environment: Mapping[str, str], home: str | None) -> Store:
        """The store that is named, by `explicit` or the environment, else the first default.

        Defaults are SHARED where it can be written, then a folder below `home`, or below the
        user's own home where that is None; none where it is empty. One that is refused has no
        other take its place: it is to be mended.
        """
        store = cls()
        named = explicit or environment.get(STATE_VARIABLE)
        if named:
            store._use(named)
            return store
        if os.path.lexists(SHARED):
            store._use(SHARED)
        if store._descriptor >= 0 or store.refused:
            return store
        if home == "":
            return cls.without(f"uid {os.geteuid()} has no home: give --user or --state-dir")
        place = _below_home(environment, home)
        if not os.path.isabs(place):
            # A container's uid that no passwd knows: "~" would be a folder of that name, here.
            return cls.without(f"uid {os.geteuid()} has no home: give --state-dir")
        store._use(place)
        return store

    def _use(self, path: str) -> None:
        """Open this user's folder below `path`, making what is missing."""
        path = os.path.abspath(path)
        base = -1
        self.trouble = ""
        try:
            with suppress(FileExistsError):  # a file or a link; opening it says which
                os.makedirs(path, 0o700)
            base = _open_folder(path, None, path)
            own = str(os.geteuid())
            with suppress(FileExistsError):
                os.mkdir(own, 0o700, dir_fd=base)
            descriptor = _open_folder(own, base, os.path.join(path, own))
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
        """What is kept under `key`; None where there is nothing, or nothing that can be read."""
        return self._read(_file_name(key), most) if self._descriptor >= 0 else None

    def update(self, key: str, change: Callable[[Any], Any], most: int = LARGEST) -> Any:
        """Replace what is kept under `key` by what `change` makes of it, and return that.

        `change` gets None where there is nothing, or nothing that can be read. More than `most`
        bytes are trouble, and what was kept stays.
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
                # Its age is that of the last run that needed it.
                with suppress(OSError):
                    os.utime(name, dir_fd=self._descriptor, follow_symlinks=False)
        finally:
            if locked:
                flock(self._descriptor, LOCK_UN)
        return new

    def update_each(self, key: str, changes: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
        """Replace by their `changes` what one file keeps under each of several names; return that.

        Names that are not among them stay, up to MOST_SERIES in all: those that were changed
        longest ago go.
        """
        made: dict[str, Any] = {}

        def change(kept: Any) -> dict[str, Any]:
            others = dict(kept) if isinstance(kept, dict) else {}
            for name, one in changes.items():
                made[name] = one(others.pop(name, None))
            # JSON keeps the order: the latest are the last.
            latest = [*others.items(), *made.items()][-max(MOST_SERIES, len(made)) :]
            return dict(latest)

        self.update(key, change)
        return made

    def close(self) -> None:
        """Let the folder go."""
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
                        self.notes.append(f"{self.folder} is locked: this run is not remembered")
                    # A run has many series and little time: it waits once.
                    self._patience = 0.0
                    return False
                time.sleep(0.01)
            except OSError as error:
                self.trouble = f"{self.folder} cannot be locked: {error.strerror}"
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
            self.notes.append(f"{self.folder}/{name} cannot be read: {error.strerror}")
            return None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > most:
                raise ValueError
            with os.fdopen(os.dup(descriptor), "rb") as file:
                return json.loads(file.read(most))
        except (OSError, ValueError, RecursionError):
            self.notes.append(f"{self.folder}/{name} is damaged: its history begins anew")
            return None
        finally:
            os.close(descriptor)

    def _write(self, name: str, data: bytes, most: int) -> None:
        fresh = f".{name}.new"
        if len(data) > most:
            # The next run would take it for damaged.
            self.trouble = f"{self.folder}/{name} would take {len(data)} of at most {most} bytes"
            return
        try:
            if not _exists(name, self._descriptor) and not self._makes_room():
                self.trouble = f"{self.folder} holds {MOST_FILES} files in use: no room for more"
                return
            # One that was left by a run that was killed: we hold the lock, nobody writes to it.
            with suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=self._descriptor)
            atomic_write.replace(
                self._descriptor,
                name,
                fresh,
                lambda descriptor: atomic_write.write(descriptor, data),
            )
        except OSError as error:
            self.trouble = f"{self.folder} cannot be written to: {error.strerror}"

    def _makes_room(self) -> bool:
        """Whether there is room for one more file; what services that are gone left goes first.

        What is in use stays: were each new file to push out the oldest, then of services that run
        in turn, one more than there is room for, none would ever find its own. The folder is
        looked through once a run.
        """
        if self._room < 0:
            self._room = max(0, MOST_FILES - self._prune())
        if not self._room:
            return False
        self._room -= 1
        return True

    def _prune(self) -> int:
        """Remove what is old, and of what nobody used for a day what is too much; what is left."""
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
    """The XDG Base Directory specification's place for state."""
    given = environment.get("XDG_STATE_HOME", "")
    if home is None and os.path.isabs(given):
        return os.path.join(given, "check-conntrack")
    return os.path.join(home or os.path.expanduser("~"), ".local/state/check-conntrack")


def _open_folder(path: str, base: int | None, shown: str) -> int:
    """A descriptor of a folder that only its owner may write to; raises OSError, _RefusedError.

    `path` is relative to the descriptor `base`, in which only one's own will do; `shown` is the
    whole of it, for people.
    """
    try:
        descriptor = os.open(path, _FOLDER, dir_fd=base)
    except OSError:
        if stat.S_ISLNK(os.stat(path, dir_fd=base, follow_symlinks=False).st_mode):
            raise _RefusedError(
                f"state directory {shown} is a link: name the directory itself"
            ) from None
        raise
    status = os.fstat(descriptor)
    why = ""
    if status.st_mode & 0o022:
        why = f"others may write to the state directory {shown}: name one that only its owner may"
    elif base is not None and status.st_uid != os.geteuid():
        why = f"state directory {shown} belongs to somebody else"
    if why:
        os.close(descriptor)
        raise _RefusedError(why)
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
    """How many bytes a value takes in a file."""
    return len(_encoded(value))


def _file_name(key: str) -> str:
    """A file name for any key, different for different keys."""
    raw = os.fsencode(key)
    name = "".join(chr(byte) if byte in _SAFE else f"%{byte:02x}" for byte in raw)
    if len(name) > 200:
        name = f"{name[:180]}%{zlib.crc32(raw):08x}"
    return name + ".json"


def boot_id() -> str:
    """What tells this boot from every other (random(4)); empty where the kernel does not say."""
    return read_file("/proc/sys/kernel/random/boot_id").data.strip().decode("ascii", "replace")


def series_of(kept: Any, boot: str, inode: int) -> tuple[tuple[Sample, ...], tuple[Peak, ...]]:
    """The samples and peaks in what a file held; none of what is not as it was written.

    Samples of another boot, or of a namespace that only has the same name, say nothing about
    growth; the peaks stay.
    """
    if not isinstance(kept, dict):
        return (), ()
    samples: tuple[Sample, ...] = ()
    if kept.get("boot") == boot and kept.get("netns") == inode:
        samples = tuple(Sample(float(at), count) for at, count in _pairs(kept.get("samples")))
    return samples, tuple(Peak(int(day), count) for day, count in _pairs(kept.get("peaks")))


def _pairs(value: Any) -> list[tuple[float, int]]:
    """The ascending (when, count) pairs of a list; empty where it is anything else."""
    if not isinstance(value, list) or len(value) > 1000:
        return []
    pairs = []
    last = 0.0
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            return []
        when, count = pair
        if type(when) not in (int, float) or type(count) is not int:
            return []
        if not last <= when < 1e12 or not 0 <= count < 1 << 32:
            return []
        pairs.append((when, count))
        last = when
    return pairs


def kept_series(
    boot: str, inode: int, samples: tuple[Sample, ...], peaks: tuple[Peak, ...]
) -> dict[str, Any]:
    """What to keep of a series, in the form that series_of takes."""
    return {
        "boot": boot,
        "netns": inode,
        "samples": [[round(sample.at, 1), sample.entries] for sample in samples],
        "peaks": [[peak.day, peak.entries] for peak in peaks],
    }
