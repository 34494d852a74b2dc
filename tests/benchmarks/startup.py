"""How long a run of check_conntrack_usage takes beside the least that a check on nagiosplugin can.

Both run interleaved in the same interpreter's installation; printed are medians and their ratio.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 40
FLOOR = """\
import argparse
import nagiosplugin


class Usage(nagiosplugin.Resource):
    def probe(self):
        count = int(open("/proc/sys/net/netfilter/nf_conntrack_count").read())
        limit = int(open("/proc/sys/net/netfilter/nf_conntrack_max").read())
        yield nagiosplugin.Metric("usage", 100 * count / limit, "%", min=0, max=100)


@nagiosplugin.guarded
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-w", default="80")
    parser.add_argument("-c", default="90")
    options = parser.parse_args()
    context = nagiosplugin.ScalarContext("usage", options.w, options.c)
    nagiosplugin.Check(Usage(), context).main()


main()
"""


def main() -> None:
    """Measure, print."""
    check = Path(sys.executable).with_name("check_conntrack_usage")
    with tempfile.TemporaryDirectory() as folder:
        floor = Path(folder, "floor.py")
        floor.write_text(FLOOR)
        state = Path(folder, "state")
        state.mkdir(mode=0o700)
        commands = {
            "ten lines on nagiosplugin": [floor],
            "check_conntrack_usage": [check, "--state-dir", state],
            "check_conntrack_usage --no-state": [check, "--no-state"],
        }
        if os.geteuid() == 0:
            # Root would be left for whoever owns the state, so that there is one to keep.
            Path(folder).chmod(0o755)
            os.chown(state, 65534, 65534)
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in random.sample(list(commands.items()), len(commands)):
                started = time.perf_counter()
                subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
                taken[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    least = next(iter(medians.values()))
    print(f"whole process, median of {ROUNDS} runs, interleaved (aim: a ratio of 1)")
    for name, median in medians.items():
        print(f"  {name:<34} {1000 * median:7.1f} ms   ratio {median / least:.3f}")


if __name__ == "__main__":
    main()
