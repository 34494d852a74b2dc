"""How long a text file of the table takes, against awk reading one column of it.

python tests/benchmarks/flows_text.py FILE [ROUNDS]

Interleaves both, prints medians and their ratio.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from check_conntrack.flows import tally, text

AWK = "{c[$3]++} END {for (k in c) print k, c[k]}"


def main() -> None:
    path = sys.argv[1]
    took: dict[str, list[float]] = {"awk": [], "count": []}
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 5):
        start = time.perf_counter()
        subprocess.run(["awk", AWK, path], check=True, stdout=subprocess.DEVNULL)
        took["awk"].append(time.perf_counter() - start)
        start = time.perf_counter()
        with open(path, "rb") as file:
            one = tally.Tally()
            text.count(file, one)
        took["count"].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in took.items()}
    for name, times in took.items():
        print(f"{name:6} {medians[name]:.2f} s  ({', '.join(f'{t:.2f}' for t in times)})")
    print(f"ratio  {medians['count'] / medians['awk']:.2f} for {one.read} entries")


if __name__ == "__main__":
    main()
