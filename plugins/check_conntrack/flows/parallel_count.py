"""A large table counted by two processes, where there are two processors for them.

Once so much was read that the table is a large one, this process forks. Whatever piece of the
table (whole messages, or whole lines) the other is ready for is handed to it, the rest is counted
here; at the end its tally joins this one. Which process counts an entry makes no difference to any
figure: all are sums, and the errors of heavy.py add up too. The other holds nothing but two pipes
and ends when either is closed.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import signal
import struct
import sys
import termios
from contextlib import suppress

from check_conntrack.flows.netlink import DumpStatus, TableError
from check_conntrack.kernel import atomic_write
from check_conntrack.kernel.source import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Callable, NoReturn

    from check_conntrack.flows.tally import Tally

    # What counts pieces into a tally: bulk.count, text.count.
    Counting = Callable[[Iterable[bytes], Tally], DumpStatus]

# Less than this is counted before a second process is of any use.
ALONE = 1 << 22  # bytes
# So much waits for the second process at most: it always finds work, and both end together.
WAITING = 1 << 18  # bytes
# The priority (nice value) of both from then on: who hands the table out, and all that the host is
# there for, comes first.
GIVES_WAY = 5
PIPE_SIZE = 1 << 20  # bytes, what /proc/sys/fs/pipe-max-size allows everybody
F_SETPIPE_SZ = 1031  # linux/fcntl.h
_SIZE = struct.Struct("=Q")
# What this process answers, and the second one must not: the answer would be given twice.
_ANSWERED = (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def count(pieces: Iterable[bytes], counting: Counting, tally: Tally) -> DumpStatus:
    """`counting` of all pieces into the tally, here and, past ALONE bytes, in a second process.

    Raises TableError as `counting` does in either process, with what was sound in the tally, and
    KernelError where the second one fails.
    """
    second = _Second(counting, tally)
    try:
        try:
            status = counting(second.others_left(pieces), tally)
        except TableError:
            second.join(DumpStatus())
            raise
        second.join(status)
        return status
    finally:
        second.end()


class _Second:
    """The second process, once there is one."""

    def __init__(self, counting: Counting, tally: Tally) -> None:
        self._counting = counting
        self._tally = tally
        self._pid = 0
        self._pieces = self._answer = -1

    def others_left(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces that it does not take."""
        read = 0
        alone = len(os.sched_getaffinity(0)) < 2
        for piece in pieces:
            if self._pid:
                if not self._takes(piece):
                    yield piece
                continue
            read += len(piece)
            if read > ALONE and not alone:
                # Where there may be no more processes, it is slower.
                with suppress(OSError):
                    self._start()
                alone = not self._pid
            yield piece

    def _start(self) -> None:
        theirs, self._pieces = os.pipe()
        self._answer, answer = os.pipe()
        try:
            with suppress(OSError):  # The user has too many: then each waits for the other.
                fcntl.fcntl(self._pieces, F_SETPIPE_SZ, PIPE_SIZE)
            own = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, 0, max(own, GIVES_WAY))
            signal.pthread_sigmask(signal.SIG_BLOCK, _ANSWERED)
            self._pid = os.fork()
            if not self._pid:
                _second(theirs, answer, self._counting, self._tally)
        finally:
            os.close(theirs)
            os.close(answer)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ANSWERED)

    def _takes(self, piece: bytes) -> bool:
        """Hand it a piece, unless enough is waiting for it already."""
        waiting = bytearray(4)
        fcntl.ioctl(self._pieces, termios.FIONREAD, waiting)
        if int.from_bytes(waiting, sys.byteorder) > WAITING:
            return False
        try:
            atomic_write.write(self._pieces, _SIZE.pack(len(piece)))
            atomic_write.write(self._pieces, piece)
        except BrokenPipeError:
            # It has found a fault, which join() tells of: nothing that follows counts.
            return True
        return True

    def join(self, status: DumpStatus) -> None:
        """Add what it counted, and what it saw of the dump; raises as `count`."""
        if not self._pid:
            return
        os.close(self._pieces)
        self._pieces = -1
        answer = b"".join(iter(lambda: os.read(self._answer, 1 << 20), b""))
        _, how = os.waitpid(self._pid, 0)
        self._pid = 0
        if how or not answer:
            code = os.waitstatus_to_exitcode(how)
            said = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
            raise KernelError(f"the second process that counts {said}")
        # What this process's own child wrote, of the same user and no more rights.
        reason, errno, done, interrupted, counted = marshal.loads(answer)  # noqa: S302 # nosec B302
        self._tally.join(counted)
        status.done = status.done or done
        status.interrupted = status.interrupted or interrupted
        if reason:
            raise TableError(reason, errno)

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        for descriptor in (self._pieces, self._answer):
            if descriptor >= 0:
                os.close(descriptor)
        self._pieces = self._answer = -1
        if self._pid:
            with suppress(OSError):
                os.kill(self._pid, 9)
                os.waitpid(self._pid, 0)
            self._pid = 0


def _second(pieces: int, answer: int, counting: Counting, tally: Tally) -> NoReturn:
    """What the second process does; `tally` is the first one's."""
    code = 1
    try:
        for number in _ANSWERED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ANSWERED)
        os.dup2(pieces, 0)
        os.dup2(answer, 1)
        _close_others()
        data = _answer(counting, tally.like())
        # Whoever hands out pieces must not wait for one that will take none.
        os.close(0)
        atomic_write.write(1, data)
        code = 0
    finally:
        os._exit(code)


def _close_others() -> None:
    """Close all but standard input and output."""
    # Not os.closerange: where a service may open a thousand million files, Python 3.9, and any
    # on a kernel without close_range(2), would try each number, for minutes.
    os.close(2)  # One is needed to look at the others.
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 1:
            with suppress(OSError):  # the one that the list came from
                os.close(int(name))


def _answer(counting: Counting, tally: Tally) -> bytes:
    status = DumpStatus()
    reason, errno = "", 0
    try:
        status = counting(_handed(), tally)
    except TableError as error:
        reason, errno = str(error), error.errno
    answer: Any = (reason, errno, status.done, status.interrupted, tally.parts())
    return marshal.dumps(answer)


def _handed() -> Iterator[bytes]:
    """The pieces on standard input."""
    with open(0, "rb", closefd=False) as file:
        while True:
            size = file.read(_SIZE.size)
            if not size:
                return
            yield file.read(_SIZE.unpack(size)[0])
