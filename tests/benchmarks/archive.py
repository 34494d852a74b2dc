"""How long a check takes that is one file, beside the same check as it is installed.

Both run interleaved in the same interpreter; printed are medians and their ratio.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 20
CHECKS = ("usage", "full", "table")
PYZ = Path(__file__).resolve().parent.parent.parent / "packaging" / "pyz.py"


def main() -> None:
    """Measure, print."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, PYZ, folder], check=True)
        taken: dict[tuple[str, str], list[float]] = {}
        commands = {}
        for check in CHECKS:
            name = f"check_conntrack_{check}"
            commands[name, "installed"] = Path(sys.executable).with_name(name)
            commands[name, "one file"] = Path(folder, name)
        for _ in range(ROUNDS):
            for which, command in random.sample(list(commands.items()), len(commands)):
                started = time.perf_counter()
                subprocess.run([sys.executable, command, "--no-state"], stdout=subprocess.DEVNULL)
                taken.setdefault(which, []).append(time.perf_counter() - started)
    print(f"whole process, median of {ROUNDS} runs, interleaved")
    for check in CHECKS:
        name = f"check_conntrack_{check}"
        installed, alone = (
            statistics.median(taken[name, form]) for form in ("installed", "one file")
        )
        print(
            f"  {name:<22} installed {1000 * installed:6.1f} ms   one file {1000 * alone:6.1f} ms"
            f"   ratio {alone / installed:.3f}"
        )


if __name__ == "__main__":
    main()
