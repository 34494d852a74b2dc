"""How long the table takes: drained and thrown away, against drained and counted. Root alone.

    python tests/benchmarks/flows_pipeline.py [ENTRIES] [ROUNDS]

Fills a namespace with mixed entries (400,000 sources at a million), then interleaves: receiving
the dump and throwing it away; the reader handing it down its pipe while this process counts.
Prints medians, ratios and peak memory. Raises nf_conntrack_max while it runs, where need be, and
puts it back.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import sys
import time

from check_conntrack.flows import bulk, tally
from check_conntrack.kernel import source
from kernel import flows_rig as rig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def drain(space: rig.Namespace) -> float:
    start = time.perf_counter()
    for _ in space.dump():
        pass
    return time.perf_counter() - start


def framed(space: rig.Namespace) -> Iterator[bytes]:
    """The dump as the reader hands it down its pipe, the reader's start included."""
    with source.Reader(source.reader_command(sudo=False)) as reader:
        for frame in reader.stream([b"table", f"/run/netns/{space.name}".encode()]):
            yield frame.data


def pipeline(space: rig.Namespace) -> float:
    start = time.perf_counter()
    one = tally.Tally()
    assert bulk.count(framed(space), one).done
    one.figures()
    one.top_sources(10)
    return time.perf_counter() - start


def peak_memory(space: rig.Namespace) -> int:
    """KiB that one counting of the table needs at most, drain included, in a fresh process."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            pipeline(space)
            both = [
                resource.getrusage(who).ru_maxrss
                for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
            ]
            os.write(writing, str(sum(both)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    return int(os.read(reading, 99))


def main() -> None:
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    limit = rig.raised_limit(total + 100_000) if total > 200_000 else contextlib.nullcontext()
    with limit, rig.Namespace() as space:
        empty = peak_memory(space)
        space.insert(rig.mixed_entries(total, min(total * 2 // 5, 400_000)))
        took: dict[str, list[float]] = {"drain": [], "pipeline": []}
        for _ in range(rounds):
            took["drain"].append(drain(space))
            took["pipeline"].append(pipeline(space))
        medians = {name: statistics.median(times) for name, times in took.items()}
        for name, times in took.items():
            print(f"{name:10} {medians[name]:.2f} s  ({', '.join(f'{t:.2f}' for t in times)})")
        print(f"ratio      {medians['pipeline'] / medians['drain']:.2f}")
        print(f"memory     {(peak_memory(space) - empty) / 1024:.1f} MiB above an empty table")


if __name__ == "__main__":
    main()
