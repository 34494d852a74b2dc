"""The time-out and the signals that stop a check, and what is still printed then.

A time-out or a signal raises StoppedError once, in the main thread. A check that can say something
without the step that was stopped wraps that step in stoppable(): the reason is reported, the check
goes on with what it has, and has until the promised time to print it. When that time is up the
process prints one line and ends, whatever it is doing.

No signal reaches a process that waits for a file system that does not answer (NFS without its
server). A thread then prints that line.
"""

from __future__ import annotations

import os
import signal
import time
from _thread import allocate_lock, stack_size, start_new_thread
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sys
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any, Callable

LAST_MOMENT = 0.5  # seconds to print a verdict in, once somebody wants the check to stop
RESERVE = 1.0  # seconds of the time-out that are kept for evaluating and printing ...
RESERVED_SHARE = 1 / 8  # ... or this share of a short one
FINISH = 0.25  # seconds of processor time that evaluating and printing takes; on a busy host more
MOST_RESERVED = 1 / 2  # of the time-out is kept for it
LEAST_LEFT = 0.05  # seconds to print in, however late it is
STACK = 1 << 17  # bytes, for the thread that prints in place of the main one
ENDING = 5.0  # seconds, the most that it may take that thread to end
MOST_ELAPSED = 3 / 4  # of the time-out is the most that a slow start is charged with
UNKNOWN = 3  # the exit code

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A handler must not look names up in the enumeration: it may have interrupted that very look-up.
_NAMES = {int(number): number.name for number in _SIGNALS}
# Why the check is to stop; only the first reason counts.
_reasons: list[str] = []


class StoppedError(BaseException):
    """The time is up, or a signal came. Handlers of ordinary errors must not catch it."""


class Stage:
    """The step that a check is at, and the time that is left.

    now: words for the step, printed when it takes too long.
    deadline: time.monotonic() at which StoppedError is raised; None without a time-out.
    printing: whether output has begun, so that no other line may be printed.
    answer: exit code and output for when there is no time for a better one; None for one line.
    result: the CheckResult, once it is known, if in plain words: what comes after it cannot cost
        the verdict, and its better words are not stopped before the promised time.
    printed: returns exit code and output of the result, with the reason why there is no more.
    slowdown: seconds that a second of processor time has taken so far, at least 1.
    """

    def __init__(self, title: str = "") -> None:
        self.now = "starting"
        self.deadline: float | None = None
        self.printing = False
        self.answer: tuple[int, str] | None = None
        self.result: Any = None
        self.printed: Callable[[str], tuple[int, str]] | None = None
        self.slowdown = 1.0
        self._title = title
        self._end: float | None = None
        self._seconds = 0.0
        self._settled = False
        self._stoppable = 0  # steps that are in stoppable()
        self._watcher: Watcher | None = None
        self._voice = allocate_lock()

    def __call__(self, now: str) -> None:
        """Name the next step."""
        self.now = now

    def left(self) -> float:
        """Return the seconds until StoppedError is raised; infinity without a time-out."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    def set_timer(self, seconds: float, elapsed: float = 0.0) -> None:
        """Raise StoppedError within `seconds`, of which `elapsed` have passed; 0: never."""
        if not seconds:
            return
        self.slowdown = max(elapsed / max(time.process_time(), 0.01), 1.0)
        self._seconds = seconds
        self._end = time.monotonic() + seconds - min(elapsed, seconds * MOST_ELAPSED)
        reserve = max(min(RESERVE, seconds * RESERVED_SHARE), FINISH * (self.slowdown - 1))
        self.deadline = self._end - min(reserve, (self._end - time.monotonic()) * MOST_RESERVED)

        def expire(_: int, __: FrameType | None) -> None:
            if not _reasons:
                _reasons.append(self._time_out())
            if self.result is not None and not self._stoppable:
                self.settle()  # the rest of the time is for the words
            else:
                raise StoppedError(_reasons[0])

        signal.signal(signal.SIGALRM, expire)
        # It comes again every second, in case an exception is lost where it is raised.
        signal.setitimer(signal.ITIMER_REAL, max(self.left(), 0.001), 1.0)

    def _time_out(self) -> str:
        return f"timed out after {self._seconds:g}s while {self.now}"

    def stop_timer(self) -> None:
        """Let no alarm come any more."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._watcher:
            self._watcher.call_off()  # nobody waits for the thread: it has nothing to give up
            self._watcher = None

    def watch(self) -> None:
        """Start the thread that prints a line where the main thread cannot.

        It has the privileges that this thread has now, and keeps them: unwatch() before dropping.
        """
        self.unwatch()
        if self._end is not None:
            with suppress(RuntimeError):  # no more threads are allowed: the signals remain
                self._watcher = Watcher(
                    self._end,
                    lambda: self._print_and_end(stop_reason() or self._time_out()),
                )

    def unwatch(self) -> bool:
        """End the thread of watch(); returns whether it is gone."""
        watcher, self._watcher = self._watcher, None
        return watcher is None or watcher.end()

    def begin_printing(self) -> None:
        """Let nothing but the main thread print from here on."""
        self.printing = True
        self._voice.acquire()  # where the thread has it, that ends the process

    def _print_and_end(self, reason: str) -> None:
        """Print the answer, or one line, and end the process, unless somebody else does so."""
        if not self._voice.acquire(blocking=False):
            return
        code, text = self.answer or (UNKNOWN, f"{self._title} UNKNOWN - {reason}\n")
        if self.result is not None and self.printed:
            with suppress(Exception):  # without memory one line has to do
                code, text = self.printed(reason)
        with suppress(OSError):
            os.write(1, text.encode("ascii", "backslashreplace"))
            os.close(1)  # whoever reads it need not wait for a main thread that hangs
        os._exit(code)

    def settle(self) -> None:
        """Let no signal raise any more; at the promised time, print one line and end."""

        def end(_: int, __: FrameType | None) -> None:
            if self.printing:
                os._exit(UNKNOWN)
            self._print_and_end(stop_reason() or f"no time left while {self.now}")

        def hasten(_: int, __: FrameType | None) -> None:
            signal.setitimer(signal.ITIMER_REAL, LAST_MOMENT)

        signal.setitimer(signal.ITIMER_REAL, 0)
        self._settled = True
        signal.signal(signal.SIGALRM, end)
        _listen(hasten)
        if self._end is not None:
            signal.setitimer(signal.ITIMER_REAL, max(self._end - time.monotonic(), LEAST_LEFT))
        elif _reasons:
            signal.setitimer(signal.ITIMER_REAL, LAST_MOMENT)

    @contextmanager
    def stoppable(self, report: Callable[[str], None]) -> Iterator[None]:
        """Report a time-out or a signal that stops this step, instead of raising it.

        Later steps are not stopped again: they are to evaluate and print what is known.
        """
        self._stoppable += 1
        try:
            yield
        except StoppedError as error:
            self.settle()
            report(str(error))
        except Exception:
            if self._settled or not stop_reason():
                raise
            self.settle()
            report(stop_reason())
        finally:
            self._stoppable -= 1


class Watcher:
    """A thread that calls a function at a time of time.monotonic(), unless it is ended before.

    Raises RuntimeError where no thread can be started.
    """

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self._ended = allocate_lock()
        self._ended.acquire()
        self._others = _threads()

        def wait() -> None:
            if not self._ended.acquire(timeout=max(at - time.monotonic(), 0.0)):
                call()

        usual = stack_size(STACK)
        try:
            start_new_thread(wait, ())
        finally:
            stack_size(usual)

    def call_off(self) -> None:
        """Let the thread end by itself, without a call."""
        self._ended.release()

    def end(self) -> bool:
        """End the thread, and return whether the kernel has none of it any more."""
        self.call_off()
        until = time.monotonic() + ENDING
        while _threads() - self._others:
            if time.monotonic() > until:
                return False
            time.sleep(0.0002)
        return True


def _threads() -> set[str]:
    """Return the ids of this process's threads."""
    try:
        return set(os.listdir("/proc/self/task"))
    except OSError:
        return set()


def stop_reason() -> str:
    """Return why the check is to stop; empty while it is not.

    Where C code calls Python, the interpreter may turn StoppedError into another exception.
    """
    return _reasons[0] if _reasons else ""


def take_over() -> None:
    """Answer signals, and undo what the parent process has left of blocked and ignored ones.

    With SIGALRM blocked the time-out would never come; with SIGCHLD ignored a child's exit status
    would be lost.
    """
    _reasons.clear()
    _listen(_stop_by_signal)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A pending SIGALRM is not this check's time-out; ignoring the signal discards it.
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM, *_NAMES))


def raise_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Raise an order to stop again that was lost where nothing can be raised (sys.unraisablehook).

    Other exceptions are dropped: standard error is not the place for them.
    """
    if isinstance(unraisable.exc_value, StoppedError):
        reason = str(unraisable.exc_value)

        def again(_: int, __: FrameType | None) -> None:
            raise StoppedError(reason)

        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 1.0)


def _listen(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in _SIGNALS:
        signal.signal(number, handler)


def _stop_by_signal(number: int, _: FrameType | None) -> None:
    # A second signal is the first one again.
    if not _reasons:
        _reasons.append(f"stopped by {_NAMES[number]}")
        raise StoppedError(_reasons[0])
