"""How fast and how small check_conntrack_table is, on tables of a million entries and of four.

    python tests/benchmarks/table.py [--entries N] [--large N] [--rounds N] [--only PART]

Root alone. Fills a namespace over ctnetlink with mixed entries (two thirds TCP in all states, a
tenth IPv6, 400,000 sources at a million), and measures the check as a whole process, as it is
installed beside this interpreter, beside what else reads the same table. All of a part runs in
turn, round after round, so that whatever else the machine does falls on all alike; medians and
their ratios are printed, wall clock and processor time.

The parts: live, one_core, memory, address (in the table of N entries), text (a file of it), sample
and large (in the table of so many more). --entries 20000 --large 60000 --rounds 1 is a quick one.
nf_conntrack_max and nf_conntrack_buckets are raised while a table stands, and put back.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Callable, NamedTuple

from support.entries import many_entries
from support.machine import raised_limit
from support.netns import Namespace

CHECK = os.path.join(os.path.dirname(sys.executable), "check_conntrack_table")
COUNT_BY_HAND = "conntrack -L 2>/dev/null | awk '{print $1}' | sort | uniq -c"
COUNT_TEXT = "{c[$3]++} END {for (k in c) print k, c[k]}"
LIVE = ("--source", "netlink")
EVERYTHING = (*LIVE, "--max-entries", "0", "-v")
# Labels that are shares already, or no figures of the entries.
SHARES = ("top_source_share", "top_destination_share", "top_service_share", "top_zone_share")
NO_COUNTS = ("usage", "protected_usage", "snat_port_usage", "entries", *SHARES)


class Run(NamedTuple):
    """Seconds of wall clock and of processor time (children included), and what was printed."""

    wall: float
    processor: float
    out: str

    def figures(self) -> dict[str, float]:
        """Perfdata by label."""
        found = re.findall(r"([a-z_0-9]+)=([0-9.]+)", self.out.partition(" | ")[2])
        return {label: float(value) for label, value in found}


def timed(call: Callable[[], str | None]) -> Run:
    """Call, and say what it took here and in what it started."""

    def used() -> float:
        both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(one.ru_utime + one.ru_stime for one in both)

    before, start = used(), time.perf_counter()
    out = call() or ""
    return Run(time.perf_counter() - start, used() - before, out)


def drain(space: Namespace) -> None:
    """Receive a dump and throw it away."""
    for _ in space.dump():
        pass


def inside(space: Namespace, *command: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{space.name}", *command]


def command(*words: str) -> list[str]:
    return [sys.executable, CHECK, "--no-state", "-t", "0", "--exit-ok", *words]


def printed(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def peak_memory(command: list[str]) -> float:
    """MiB that a command and all that it starts hold at most: the sum of proportional sets."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, proportional(process.pid))
            time.sleep(0.005)
    assert peak
    return peak / 1024


def proportional(pid: int) -> int:
    """KiB of the proportional set of a process and of its descendants."""
    total = 0
    with contextlib.suppress(OSError, ProcessLookupError):  # It has ended, or is about to.
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total = int(re.search(r"Pss: +(\d+)", file.read())[1])
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            total += sum(proportional(int(child)) for child in file.read().split())
    return total


def rounds(number: int, **calls: Callable[[], str | None]) -> dict[str, list[Run]]:
    """Each call in turn, so many times."""
    took: dict[str, list[Run]] = {name: [] for name in calls}
    for _ in range(number):
        for name, call in calls.items():
            took[name].append(timed(call))
    return took


def report(
    title: str,
    took: dict[str, list[Run]],
    bounds: dict[str, float],
    processor_bounds: dict[str, float] | None = None,
) -> None:
    """Medians of each, and of the first to each of the bounds, with what is aimed at."""
    print(f"{title}, median of {len(next(iter(took.values())))}")
    wall = {name: statistics.median(run.wall for run in runs) for name, runs in took.items()}
    processor = {
        name: statistics.median(run.processor for run in runs) for name, runs in took.items()
    }
    for name, runs in took.items():
        spread = f"{min(run.wall for run in runs):.2f} to {max(run.wall for run in runs):.2f}"
        print(f"  {name:<22} {wall[name]:6.2f} s  ({spread}; processor {processor[name]:.2f} s)")
    first = next(iter(took))
    for times, of, wanted in (
        (wall, "", bounds),
        (processor, " of processor", processor_bounds or {}),
    ):
        for name, most in wanted.items():
            ratio = times[first] / times[name]
            print(f"  {first} / {name:<{20 - len(first)}} {ratio:6.2f}{of}    (aim {most})")


def part_live(space: Namespace, empty: Namespace, number: int) -> None:
    by_hand = inside(space, "sh", "-c", COUNT_BY_HAND)
    took = rounds(
        number,
        check=lambda: printed(inside(space, *command(*EVERYTHING))),
        drain=lambda: drain(space),
        by_hand=lambda: printed(by_hand),
    )
    report("live, all entries", took, {"drain": 1.3, "by_hand": 0.5})
    hand = sum(int(line.split()[0]) for line in took["by_hand"][0].out.splitlines())
    print(f"  entries: {took['check'][0].figures()['entries']:.0f}, by hand {hand}")


def part_one_core(space: Namespace, empty: Namespace, number: int) -> None:
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_of_them)})
    try:
        took = rounds(
            number,
            check=lambda: printed(inside(space, *command(*EVERYTHING))),
            drain=lambda: drain(space),
        )
    finally:
        os.sched_setaffinity(0, all_of_them)
    report("live, all entries, on one processor", took, {}, {"drain": 2.0})


def part_memory(space: Namespace, empty: Namespace, number: int) -> None:
    base, full = (peak_memory(inside(one, *command(*EVERYTHING))) for one in (empty, space))
    print(f"memory, all processes: {full:.1f} MiB, {base:.1f} of an empty table")
    print(f"  above an empty table   {full - base:6.1f} MiB  (aim 32)")


def part_address(space: Namespace, empty: Namespace, number: int) -> None:
    one = (*LIVE, "--max-entries", "0", "--address", "10.0.12.34")
    took = rounds(
        number,
        one=lambda: printed(inside(space, *command(*one))),
        all=lambda: printed(inside(space, *command(*EVERYTHING))),
        nothing=lambda: printed(inside(empty, *command(*one))),
    )
    report("one address, by the kernel's filter", took, {"all": 0.2})
    print(f"  entries: {took['one'][0].figures()['entries']:.0f}")


def part_text(path: str, number: int) -> None:
    took = rounds(
        number,
        check=lambda: printed(command("--source", path, "-v")),
        awk=lambda: printed(["awk", COUNT_TEXT, path]),
    )
    report(f"text file of {os.path.getsize(path) >> 20} MiB", took, {"awk": 2.5})
    hand = sum(int(line.split()[1]) for line in took["awk"][0].out.splitlines())
    print(f"  entries: {took['check'][0].figures()['entries']:.0f}, by awk {hand}")


def part_long(path: str) -> None:
    many = ["sh", "-c", 'for n in 0 1 2 3 4 5 6 7 8 9; do cat "$0"; done | "$@"', path]
    peaks = []

    def run() -> None:
        peaks.append(peak_memory([*many, *command("--source", "-", "-v")]))

    took = timed(run)
    base = peak_memory(command("--source", os.devnull))
    print(f"ten times that text: {took.wall:.0f} s, processor {took.processor:.0f} s")
    print(f"  above an empty file    {peaks[0] - base:6.1f} MiB  (aim 64)\n")


def part_sample(space: Namespace, empty: Namespace, number: int) -> None:
    took = rounds(
        number,
        sample=lambda: printed(inside(space, *command(*LIVE))),
        nothing=lambda: printed(inside(empty, *command(*LIVE))),
    )
    report("default sample (aim 0.3 s)", took, {})
    sample = took["sample"][0].figures()
    whole = timed(lambda: printed(inside(space, *command(*EVERYTHING)))).figures()

    def shares(figures: dict[str, float]) -> dict[str, float]:
        return {
            label: value if label in SHARES else 100 * value / figures["entries"]
            for label, value in figures.items()
            if label not in NO_COUNTS or label in SHARES
        }

    true = shares(whole)
    off = {label: abs(share - true[label]) for label, share in shares(sample).items()}
    worst = max(off, key=off.__getitem__)
    print(f"  entries: {sample['entries']:.0f}, whole {whole['entries']:.0f}")
    print(f"  largest error of a share {off[worst]:.2f} points, of {worst}  (aim 1)")


PARTS = {
    "live": part_live,
    "one_core": part_one_core,
    "memory": part_memory,
    "address": part_address,
    "text": None,
}
LARGE = {"sample": part_sample, "large": part_memory}


@contextlib.contextmanager
def table(messages: list[bytes]):
    """A namespace with these entries, which were made before the machine's limit is held."""
    with Namespace() as space:
        with raised_limit(len(messages) + 100_000):
            start = time.monotonic()
            space.insert(messages)
            print(f"a table of {space.count()} entries")
            yield space
            # Emptied here: a namespace is taken down later.
            space.run("conntrack", "-F", check=False)
        print(f"  the limit was raised for {time.monotonic() - start:.0f} s\n")


def listed(space: Namespace, path: str) -> None:
    """Write what conntrack(8) prints."""
    with open(path, "w") as file:
        words = inside(space, "conntrack", "-L", "-o", "extended")
        subprocess.run(words, stdout=file, stderr=subprocess.DEVNULL, check=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--entries", type=int, default=1_000_000)
    options.add_argument("--large", type=int, default=4_000_000)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", action="append", choices=[*PARTS, *LARGE])
    chosen = options.parse_args()
    # So that the machine's limit is put back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    number, wanted = chosen.rounds, chosen.only or [*PARTS, *LARGE]
    print(f"{sys.version.partition(chr(10))[0]}, {len(os.sched_getaffinity(0))} processors\n")
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as folder, Namespace() as empty:
        os.chmod(folder, 0o755)
        listing = os.path.join(folder, "listing")
        for entries, parts in ((chosen.entries, PARTS), (chosen.large, LARGE)):
            names = [part for part in parts if part in wanted]
            if not names:
                continue
            messages = list(many_entries(entries, min(entries * 2 // 5, 400_000)))
            for name in names:
                with table(messages) as space:
                    if name == "text":
                        listed(space, listing)
                    else:
                        parts[name](space, empty, number)
        if "text" in wanted:
            part_text(listing, number)
            part_long(listing)


if __name__ == "__main__":
    main()
