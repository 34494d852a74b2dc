"""How long a search through a log takes, beside grep on the same file in the page cache.

    python tests/benchmarks/log_files.py [--size MIB] [--rounds N]

Each round runs all in turn, so that whatever else the machine does falls on all alike; medians
and their ratios are printed. Ours is check_conntrack_full as a whole process, as it is installed
beside this interpreter.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

CHECK = os.path.join(os.path.dirname(sys.executable), "check_conntrack_full")
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
TODAY = time.strftime("%b %e %H:%M:%S", time.localtime(time.time() - 3600))
HIT = (
    f"{TODAY} gw1 kernel: [%5d.620501] nf_conntrack: nf_conntrack: table full, dropping packet\n"
).encode()


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


def timed(*command: str) -> tuple[float, int, str]:
    """Run a command; return (seconds, peak memory in KiB, output)."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        out = process.stdout.read()
        _, _, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - begin
        process.returncode = 0
    return took, used.ru_maxrss, out


def search(path: str, state: str) -> tuple[float, int, int]:
    """Let the check search a log; return (seconds, peak memory in KiB, messages found)."""
    took, memory, out = timed(
        sys.executable, CHECK, "--log", path, "--since", "20d", "--state-dir", state, "-t", "0"
    )
    found = re.search(r"table_full=(\d+)", out)
    return took, memory, int(found[1]) if found else 0


def main() -> int:
    """Measure, print, judge."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", type=int, default=1024, help="MiB")
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as folder:
        os.chmod(folder, 0o755)
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
    known, fresh = (os.path.join(folder, name) for name in ("known", "fresh"))
    state(known)
    search(log, known)
    with open(log, "ab") as file:
        file.write(block()[: 1 << 20].rpartition(b"\n")[0] + b"\n" + HIT % 100)
    times: dict[str, list[float]] = {}
    memory = 0
    for _ in range(rounds):
        for name, path, wanted in (
            ("grep -c", "", 0),
            ("search", log, 101),
            ("second run", log, 101),
            ("empty log", empty, 0),
            ("one line of 500 MiB", line, 0),
        ):
            if not path:
                took, _, _ = timed("grep", "-c", "table full", log)
            else:
                state(fresh, known if name == "second run" else "")
                took, peak, found = search(path, fresh)
                memory = max(memory, peak)
                assert found == wanted, (name, found)
            times.setdefault(name, []).append(took)
    medians = {name: statistics.median(each) for name, each in times.items()}
    for name, median in medians.items():
        spread = f"{min(times[name]):.3f} to {max(times[name]):.3f}"
        print(f"{name:20} {median:7.3f} s   ({spread})")
    ratio = statistics.median(
        ours / theirs for ours, theirs in zip(times["search"], times["grep -c"])
    )
    more = medians["second run"] - medians["empty log"]
    print(f"search / grep -c     {ratio:7.2f}     (at most 1.1)")
    print(f"second run - empty   {more:7.3f} s   (at most 0.15)")
    print(f"memory               {memory / 1024:7.1f} MiB (less than 64)")
    return 0


def state(folder: str, like: str = "") -> None:
    """Make a state directory anew, as a copy of another where one is named."""
    shutil.rmtree(folder, ignore_errors=True)
    if like:
        shutil.copytree(like, folder)
    else:
        os.mkdir(folder, 0o700)
    if os.geteuid() == 0:
        # Root would be left for whoever owns it.
        for path, _, files in os.walk(folder):
            for name in (path, *(os.path.join(path, file) for file in files)):
                os.chown(name, 65534, 65534)


if __name__ == "__main__":
    sys.exit(main())
