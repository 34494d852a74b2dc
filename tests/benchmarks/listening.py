"""The cost of listening to events of new entries: the kernel for each entry, the reader, the check.

As root. New UDP entries are made as fast as possible, by turns while nobody listens and while a
socket is in the groups that the reader joins; printed are the best of several rounds.
Then entries are made at fixed rates, over ctnetlink, while the reader listens for a second, and
while the check does.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "plugins")]

from check_conntrack.flows.new_entries import NewEntries  # noqa: E402
from check_conntrack.kernel import reader  # noqa: E402
from check_conntrack.kernel.reader_client import parse_answer  # noqa: E402
from support import overflow  # noqa: E402
from support.entries import new_entry  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.netns import Namespace

PLUGINS = Path(__file__).parents[2] / "plugins"
ENTRIES, ROUNDS = 20_000, 7
RATES = (5_000, 20_000, 36_000, 50_000)


def seconds_to_make(namespace: Namespace, first: int, *, listening: bool) -> float:
    """Return the processor seconds that so many new entries take, softirqs included."""
    with namespace.inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        link = reader.join_events() if listening else None
    targets = [
        f"10.{1 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in range(first, first + ENTRIES)
    ]
    with sender:
        started = time.process_time()
        for target in targets:
            sender.sendto(b"x", (target, 9))
        taken = time.process_time() - started
    if link:
        link.close()
    return taken


def cost_for_the_kernel() -> None:
    """Print what an entry takes while nobody listens, and while somebody does."""
    best = {"nobody listens": 9.0, "somebody listens": 9.0}
    with overflow.namespace() as namespace:
        for number in range(ROUNDS):
            for at, name in enumerate(best):
                first = (2 * number + at) * ENTRIES
                taken = seconds_to_make(namespace, first, listening=bool(at))
                best[name] = min(best[name], taken / ENTRIES)
            namespace.flush()
    least = best["nobody listens"]
    print(f"sending a datagram that makes an entry, best of {ROUNDS} rounds of {ENTRIES}")
    for name, taken in best.items():
        print(f"  {name:<18} {taken * 1e6:6.2f} us of processor time   ratio {taken / least:.3f}")
    more = best["somebody listens"] - least
    print(f"  at 50000 new entries a second: {more * 50_000:.3f} s of processor time in a second")


def used() -> float:
    """Return the processor seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def entering(namespace: Namespace, rate: int) -> Iterator[None]:
    """Make so many new entries a second meanwhile, 5 seconds at most."""
    local = bytes((127, 0, 0, 1))
    messages = [
        new_entry(local, bytes((10, n >> 16, n >> 8 & 255, n & 255)), 17, 9, 9)
        for n in range(5 * rate)
    ]
    over = threading.Event()

    def send() -> None:
        started, sent = time.monotonic(), 0
        while sent < len(messages) and not over.is_set():
            due = int((time.monotonic() - started) * rate)
            namespace.insert(messages[sent:due])
            sent = due
            time.sleep(0.005)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def cost_of_reader_and_check() -> None:
    """Print what the reader takes for a full second, and what a whole check takes."""
    program = [sys.executable, "-ISB", str(PLUGINS / "check_conntrack/kernel/reader.py")]
    check = [sys.executable, str(PLUGINS / "check_conntrack_usage"), "--no-state"]
    with overflow.namespace() as namespace:
        request = b"events\0%s\0001000\0" % os.fsencode(namespace.path)
        before = used()
        subprocess.run(namespace.command(*check), capture_output=True, check=False)
        print(f"a check that does not listen: {used() - before:.3f} s of processor time")
        for rate in RATES:
            with entering(namespace, rate):
                before = used()
                answer = subprocess.run(program, input=request, capture_output=True, check=True)
                after = used()
            namespace.flush()
            with entering(namespace, rate):
                done = subprocess.run(
                    namespace.command(*check, "--listen", "1s"), capture_output=True, text=True
                )
                last = used()
            namespace.flush()
            entries, lost, clock = NewEntries(), False, 1
            for frame in parse_answer(io.BytesIO(answer.stdout)):
                entries.count(frame.data if frame.file == "events" else b"")
                lost = lost or bool(frame.errno)
                clock = int(frame.data) if frame.file == "clock" else clock
            heard = f"heard {entries.number / clock * 1e9:.0f}/s{' and lost some' if lost else ''}"
            said = done.stdout.partition(" | ")[0].partition("), ")[2].partition(",")[0]
            print(
                f"{rate:>6}/s: the reader {heard}, with {after - before:.3f} s of processor time "
                f"in {clock / 1e9:.2f} s; the whole check took {last - after:.3f} s and said {said}"
            )


if __name__ == "__main__":
    cost_for_the_kernel()
    cost_of_reader_and_check()
