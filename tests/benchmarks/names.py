"""The cost of `check_conntrack_table --names` on a host with 2,000 network namespaces.

As root. The check runs by turns with and without --names, as a whole process; printed are the
medians, wall clock and processor time of the check and its reader, and their difference.
"""

from __future__ import annotations

import resource
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "plugins")]

from check_conntrack.kernel import ctnetlink as ct  # noqa: E402
from support.entries import new_entry  # noqa: E402
from support.netns import Namespace  # noqa: E402
from support.node import crowd  # noqa: E402

CHECK = Path(__file__).parents[2] / "plugins" / "check_conntrack_table"
NAMESPACES, ENTRIES, ROUNDS = 2000, 1200, 5


def taken(command: list[str]) -> tuple[float, float]:
    """Return the seconds of wall clock and of processor time that a command takes."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before, start = used(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, used() - before


def main() -> None:
    """Measure, print."""
    options = ["--no-state", "-t", "0", "--exit-ok", "-w", "entries=300", "-v"]
    source, destination = map(socket.inet_aton, ("10.245.1.44", "203.0.113.9"))
    runs: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    with Namespace() as namespace, crowd(NAMESPACES):
        namespace.insert(
            new_entry(
                source,
                destination,
                socket.IPPROTO_TCP,
                1024 + number,
                443,
                state=ct.TCP_CONNTRACK_ESTABLISHED,
                status=ct.IPS_ASSURED | ct.IPS_SEEN_REPLY,
            )
            for number in range(ENTRIES)
        )
        enter = ["nsenter", f"--net=/run/netns/{namespace.name}", sys.executable, str(CHECK)]
        for _ in range(ROUNDS):
            runs["without"].append(taken([*enter, *options]))
            runs["with"].append(taken([*enter, *options, "--names"]))
    print(f"names among {NAMESPACES} namespaces, median of {ROUNDS}")
    medians = {}
    for name, times in runs.items():
        wall, processor = (statistics.median(each) for each in zip(*times))
        medians[name] = wall, processor
        print(f"  {name:<8} {wall:6.2f} s   (processor {processor:.2f} s)")
    wall, processor = (new - old for old, new in zip(medians["without"], medians["with"]))
    print(f"  more     {wall:6.2f} s   (processor {processor:.2f} s; aim 0.5)")


if __name__ == "__main__":
    main()
