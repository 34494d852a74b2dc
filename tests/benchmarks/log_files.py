"""How long a search through a log takes, beside grep on the same file in the page cache.

    python tests/benchmarks/log_files.py [--size MIB] [--rounds N]

Each round runs all in turn, so that whatever else the machine does falls on all alike; medians
and their ratios are printed. Ours is a whole process, the start of Python included. Exits with 1
when a target of the issue is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

PLUGINS = os.path.join(os.path.dirname(__file__), "..", "..", "plugins")
LINES = (
    (
        "[{t:12.6f}] audit: type=1400 audit(1763757056.123:{n}): apparmor=DENIED operation=open "
        "profile=/usr/sbin/cups-browsed name=/etc/ld.so.cache pid={n} comm=cups-browsed"
    ),
    (
        "[{t:12.6f}] [UFW BLOCK] IN=eth0 OUT= MAC=52:54:00:12:34:56:52:55:0a:00:02:02:08:00 "
        "SRC=10.0.{a}.{b} DST=10.0.2.15 LEN=60 TOS=0x00 TTL=64 ID={n} DF PROTO=TCP SPT={n} DPT=22"
    ),
    "[{t:12.6f}] device veth{n} entered promiscuous mode",
    "[{t:12.6f}] br-{n}: port 3(veth{n}) entered forwarding state",
    "[{t:12.6f}] IPv6: ADDRCONF(NETDEV_CHANGE): veth{n}: link becomes ready",
    "[{t:12.6f}] EXT4-fs (sda1): re-mounted. Opts: errors=remount-ro. Quota mode: none.",
)
HIT = (
    b"Nov 21 10:00:00 gw1 kernel: [%5d.620501] "
    b"nf_conntrack: nf_conntrack: table full, dropping packet\n"
)
SEARCH = """
import sys, json, time, resource
sys.path.insert(0, sys.argv[1])
from check_conntrack.kernel.log import files
position = None
if len(sys.argv) > 3:
    position = files.position_from_plain(json.loads(sys.argv[3]))
found = files.read_log(sys.argv[2], time.time(), lambda: False, position)
print(json.dumps([sum(e.times for e in found.events),
                  resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                  files.position_to_plain(found.position)]))
"""


def block() -> bytes:
    """A few thousand lines such as a gateway writes."""
    lines = []
    for n in range(20000):
        stamp = f"Nov {1 + n // 1000:2} {n % 24:02}:{n % 60:02}:{n * 7 % 60:02} gw1 kernel: "
        text = LINES[n * 7919 % len(LINES)]
        lines.append(stamp + text.format(t=n * 3.1, n=n * 31 % 60000, a=n % 250, b=n % 199))
    return ("\n".join(lines) + "\n").encode()


def make(path: str, size: int, hits: int) -> None:
    """Write a log of about ``size`` bytes with so many messages in it."""
    lines = block()
    with open(path, "wb") as file:
        for hit in range(hits):
            while file.tell() < size * hit // hits:
                file.write(lines)
            file.write(HIT % hit)
        while file.tell() < size:
            file.write(lines)


def timed(*command: str) -> tuple[float, str]:
    """Run a command; return (seconds, output)."""
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - begin, done.stdout


def search(path: str, *position: str) -> tuple[float, list]:
    """Search a log in a process of its own."""
    took, out = timed(sys.executable, "-c", SEARCH, PLUGINS, path, *position)
    return took, json.loads(out)


def main() -> int:
    """Measure, print, judge."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", type=int, default=1024, help="MiB")
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as folder:
        return measure(folder, chosen.size << 20, chosen.rounds)


def measure(folder: str, size: int, rounds: int) -> int:
    """Run the rounds in a folder."""
    log, empty, line = (os.path.join(folder, name) for name in ("kern.log", "empty", "line"))
    make(log, size, 100)
    open(empty, "w").close()
    with open(line, "wb") as file:
        for _ in range(500):
            file.write(b"conntrack x" * (1 << 20 >> 4))
            file.write(b"x" * ((1 << 20) - 11 * (1 << 20 >> 4)))
    _, (_, _, position) = search(log)
    with open(log, "ab") as file:
        file.write(block()[: 1 << 20].rpartition(b"\n")[0] + b"\n" + HIT % 100)
    times: dict[str, list[float]] = {}
    memory = 0
    for _ in range(rounds):
        for name, run in (
            ("grep -c", lambda: timed("grep", "-c", "table full", log)),
            ("search", lambda: search(log)),
            ("second run", lambda: search(log, json.dumps(position))),
            ("empty log", lambda: search(empty)),
            ("one line of 500 MiB", lambda: search(line)),
        ):
            took, found = run()
            times.setdefault(name, []).append(took)
            if isinstance(found, list):
                memory = max(memory, found[1])
                wanted = {"search": 101, "second run": 1}.get(name, 0)
                assert found[0] == wanted, (name, found[0])
    medians = {name: statistics.median(each) for name, each in times.items()}
    for name, median in medians.items():
        spread = f"{min(times[name]):.3f} to {max(times[name]):.3f}"
        print(f"{name:20} {median:7.3f} s   ({spread})")
    ratio = statistics.median(
        ours / theirs for ours, theirs in zip(times["search"], times["grep -c"])
    )
    more = medians["second run"] - medians["empty log"]
    print(f"search / grep -c     {ratio:7.2f}     (at most 1.5)")
    print(f"second run - empty   {more:7.3f} s   (at most 0.15)")
    print(f"memory               {memory / 1024:7.1f} MiB (less than 64)")
    return 0 if ratio <= 1.5 and more <= 0.15 and memory < 64 << 10 else 1


if __name__ == "__main__":
    sys.exit(main())
