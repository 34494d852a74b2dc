"""Run the tests of tests/kernel under other kernels, in qemu without KVM.

    python tests/vm/kernels.py [--kernels 5.10,newest] [--quick] [-- ARGUMENT ...]
    python tests/vm/kernels.py --table docs/kernels.md

The kernels are Debian's cloud kernels, found by an apt configuration of their own on the mirror
that this machine uses, and one of them again without conntrack's files in /proc/net. The system is
an initramfs: a minimal Debian with Python, nagiosplugin, conntrack(8), nft and pytest, the network
modules of the kernel, and the tree. build/kernels keeps all of it, and what each kernel said:
NAME.log, NAME-quick.log or NAME-part.log. It takes root (for mmdebstrap), about 3 GiB of disk and
5 GiB of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

from archives import modules, system, tree, without_procfs
from debian import (
    BUILD,
    Kernel,
    MissingError,
    NoMirrorError,
    apt,
    mirrors,
    newest,
    unpacked_kernel,
)
from outcomes import read_log, table

# What other kernels are likely to break, and what only an emulated machine can be used for.
QUICK = (
    "tests/kernel/test_counters.py",
    "tests/kernel/test_reader.py",
    "tests/kernel/test_flows_table.py",
    "tests/vm",
    # Half of the time, for what says more of Python than of the kernel, and for the reader under
    # the interpreter of the tests, which here is that of the system.
    *("-k", "not random_tables and not columns_and_entries and not imported"),
)
# Promises about time do not hold where a processor is emulated.
ALL = ("tests/kernel", "tests/vm", "--ignore=tests/kernel/test_table_load.py")
MEMORY = "5G"
BOOT = (
    "console=ttyS0 panic=-1 quiet mitigations=off nokaslr log_buf_len=1M "
    # Where the host is busy, the kernel measures a wrong rate of the time stamp counter: its clock
    # was seen to run 30 times too fast.
    "clocksource=hpet tsc=unstable "
    # What makes an emulated processor faster: no zeroing of each page, short grace periods (which
    # deleting a namespace waits for), no security modules.
    "init_on_alloc=0 rcupdate.rcu_expedited=1 audit=0 lsm="
)
MARK = "<!-- made by make kernels -->\n"
OF_6_1 = r"linux-image-6\.1\.[0-9-]+-cloud-amd64"
KERNELS = (
    Kernel("5.10", "bullseye-security", r"linux-image-5\.10\.[0-9-]+-cloud-amd64"),
    Kernel("6.1", "bookworm-security", OF_6_1),
    Kernel("6.1-no-procfs", "bookworm-security", OF_6_1, procfs=False),
    Kernel("6.12", "trixie-security", r"linux-image-6\.12\.[0-9]+\+deb13(?:\.[0-9]+)?-cloud-amd64"),
    Kernel("newest", "trixie-backports", r"linux-image-[0-9.]+\+deb13-cloud-amd64"),
)


def boot(folder: Path, parts: list[Path], log: Path, limit: float) -> None:
    """Boot a kernel with the parts as its initramfs, and have what its tests say in the log."""
    (image,) = folder.rglob("vmlinuz*")
    initramfs = BUILD / "initramfs"
    with open(initramfs, "wb") as file:
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, file)
    log.write_text("")
    words = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "Nehalem"),
        *("-machine", "pc", "-smp", "2", "-m", MEMORY, "-nodefaults", "-no-reboot"),
        *("-display", "none", "-kernel", image, "-initrd", initramfs, "-append", BOOT),
        *("-serial", f"file:{log.with_suffix('.console')}", "-serial", f"file:{log}"),
    ]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(list(map(str, words)), stdin=subprocess.DEVNULL, timeout=limit, check=False)


def write_table(path: Path) -> int:
    """Put the table of the last complete runs between the marks of a file."""
    runs = [read_log(kernel.name, BUILD / f"{kernel.name}.log") for kernel in KERNELS]
    if missing := [each.name for each in runs if not each.outcomes]:
        print(f"no table: all tests have not run yet on {', '.join(missing)}", file=sys.stderr)
        return 1
    before, _, rest = path.read_text().partition(MARK)
    _, _, after = rest.partition(MARK)
    path.write_text(before + MARK + table(runs) + MARK + after)
    return 0


# --- the command line


def run_kernels(wanted: list[str], tests: list[str], suffix: str, limit: float) -> int:
    """Run tests on kernels, by default all; 1 where one failed or a kernel did not end.

    Where the files of /proc/net are missing, that is all that differs: QUICK will do.
    """
    for program in ("qemu-system-x86_64", "mmdebstrap", "cpio", "dpkg-deb"):
        if not shutil.which(program):
            raise MissingError(f"the program {program}: not found")
    BUILD.mkdir(parents=True, exist_ok=True)
    archive, security = mirrors()
    environment = apt(archive, security, (kernel.suite for kernel in KERNELS))
    base = system(archive)
    bad = 0
    for kernel in (each for each in KERNELS if each.name in wanted):
        package = newest(kernel, environment)
        folder = unpacked_kernel(package, environment)
        parts = [base, modules(folder), tree(tests or list(ALL if kernel.procfs else QUICK))]
        if not kernel.procfs:
            parts.append(without_procfs(package, folder, environment))
        log = BUILD / f"{kernel.name}{suffix}.log"
        started = time.monotonic()
        boot(folder, parts, log, limit)
        each = read_log(kernel.name, log)
        counts = ", ".join(f"{each.count(what)} {what}" for what in ("passed", "failed", "skipped"))
        if not each.outcomes:
            counts = f"the tests did not end (see {log} and {log.with_suffix('.console')})"
        print(
            f"{kernel.name}, {each.release}: {counts} in {time.monotonic() - started:.0f} s",
            flush=True,
        )
        for one in each.outcomes:
            if one.what == "failed":
                print(f"  {one.group}: {one.test} failed (see {log})", flush=True)
        bad |= not each.outcomes or each.count("failed") > 0
    return int(bad)


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    known = [kernel.name for kernel in KERNELS]
    ends = [known[0], known[-1]]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--kernels",
        metavar="NAMES",
        help=f"of {', '.join(known)}, separated by commas; default: all, with --quick the ends",
    )
    parser.add_argument("--quick", action="store_true", help="counters, reader, flows and modules")
    parser.add_argument("--table", type=Path, help="write the table of the last complete runs")
    parser.add_argument(
        "--limit", type=float, default=3600, help="seconds for one kernel (%(default)s)"
    )
    parser.add_argument(
        "--optional", action="store_true", help="end with 0 where this machine has no mirror"
    )
    parser.add_argument("tests", nargs="*", help="after --: arguments of pytest, for other tests")
    options = parser.parse_args()
    if options.table:
        return write_table(options.table)
    names = ends if options.quick else known
    wanted = options.kernels.split(",") if options.kernels else names
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"unknown kernel {unknown[0]}: known are {', '.join(known)}")
    suffix = "-part" if options.tests else "-quick" if options.quick else ""
    tests = options.tests or list(QUICK if options.quick else ())
    try:
        return run_kernels(wanted, tests, suffix, options.limit)
    except MissingError as error:
        print(f"kernels: not tested: {error}", file=sys.stderr)
        return 0 if options.optional and isinstance(error, NoMirrorError) else 1


if __name__ == "__main__":
    sys.exit(main())
