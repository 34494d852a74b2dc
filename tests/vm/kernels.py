"""Run the tests of tests/kernel under other kernels, in qemu without KVM.

    python tests/vm/kernels.py [--kernels 5.10,newest] [--quick] [-- ARGUMENT ...]
    python tests/vm/kernels.py --table docs/kernels.md

The kernels are Debian's cloud kernels, found by an apt configuration of their own on the mirror
that this machine uses, and one of them again without conntrack's files in /proc/net. The system is
an initramfs: a minimal Debian with Python, nagiosplugin, conntrack(8), nft and pytest, the network
modules of the kernel, and the tree. build/kernels keeps all of it, and in a directory for each
kernel the output of its machines: 1.log and 2.log for half of the tests each, quick.log, or a log
named after test files. It takes root (for mmdebstrap), 3 GiB of disk, and 2 GiB of memory for each
machine that runs.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parents[1])]

from vm.archives import modules, system, tree, without_procfs  # noqa: E402
from vm.debian import (  # noqa: E402
    BUILD,
    ROOT,
    Kernel,
    MissingError,
    NoMirrorError,
    apt,
    mirrors,
    newest_package,
    unpacked_kernel,
)
from vm.outcomes import Run, joined, read_log, table  # noqa: E402

KERNELS = (
    Kernel("5.10", "bullseye-security", r"5\.10\.0-\d+"),
    Kernel("6.1", "bookworm-security", r"6\.1\.0-\d+"),
    Kernel("6.1-no-procfs", "bookworm-security", r"6\.1\.0-\d+", procfs=False),
    Kernel("6.12", "trixie-security", r"6\.12\.\d+\+deb13(?:\.\d+)?"),
    Kernel("newest", "trixie-backports", r"[0-9.]+\+deb13(?:\.\d+)?"),
)
# Its promises about time do not hold where a processor is emulated.
UNSUITABLE = "tests/kernel/test_table_load.py"
# What depends on Python and files of the suite more than on the kernel, and takes long.
LEFT_OUT = ("imported", "grammar", "million", "random_tables", "columns_and_entries")
LEFT_OUT += ("no_number", "damaged", "close_to_the_whole")
SELECTED = ("-k", " and ".join(f"not {each}" for each in LEFT_OUT))
NO_PROCFS = "tests/vm/test_no_procfs.py"
# Files that depend on the kernel most, without the slow tests that depend on Python instead.
QUICK = (
    "tests/kernel/test_counters.py",
    "tests/kernel/test_reader.py",
    "tests/kernel/test_flows_table.py",
    "tests/vm/test_facts.py",
    "tests/vm/test_modules.py",
    NO_PROCFS,
    *SELECTED,
)
PROGRAMS = ("qemu-system-x86_64", "mmdebstrap", "cpio", "depmod", "dpkg-deb")
# One processor each: two machines at a time get more done than one with two processors. Memory that
# is not used takes none of the host's.
QEMU = (
    *("qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", "Nehalem", "-machine", "pc"),
    *("-smp", "1", "-m", "5G", "-nodefaults", "-display", "none", "-no-reboot"),
)
BOOT = (
    "console=ttyS0 panic=-1 quiet mitigations=off nokaslr log_buf_len=1M "
    # Where the host is busy, the kernel measures a wrong rate of the time stamp counter: its clock
    # was seen to run 30 times too fast.
    "clocksource=hpet tsc=unstable "
    # What makes an emulated processor faster: programs at the same addresses each time (their
    # code is translated once), no zeroing of each page, short grace periods (which deleting a
    # namespace waits for), no security modules.
    "norandmaps init_on_alloc=0 rcupdate.rcu_expedited=1 audit=0 lsm="
)
MARK = "<!-- made by make kernels -->\n"


def halves() -> tuple[list[str], list[str]]:
    """Return the files of all tests in two halves: two machines run at a time."""
    found = [
        path for part in ("kernel", "vm") for path in (ROOT / "tests" / part).glob("test_*.py")
    ]
    found.sort(key=lambda path: (-path.stat().st_size, path))
    files = [str(path.relative_to(ROOT)) for path in found]
    files.remove(UNSUITABLE)
    return files[::2], files[1::2]


class Machine(NamedTuple):
    """A machine to boot: a kernel's name and its image, parts of its initramfs, and its log."""

    name: str
    image: Path
    parts: list[Path]
    log: Path


def prepare(kernel: Kernel, tests: list[str], part: str, environment: dict[str, str]) -> Machine:
    """Return the machine that runs tests under a kernel; downloads and builds what it needs."""
    package = newest_package(kernel, environment)
    folder = unpacked_kernel(package, environment)
    (image,) = folder.rglob("vmlinuz*")
    log = BUILD / kernel.name / f"{part}.log"
    log.parent.mkdir(exist_ok=True)
    parts = [modules(folder)]
    if kernel.procfs:
        tests = [each for each in tests if each != NO_PROCFS]
    else:
        parts.append(without_procfs(package, folder, environment))
    parts.append(tree(tests, log.with_suffix(".tree")))
    return Machine(kernel.name, image, parts, log)


def boot(machine: Machine, limit: float) -> tuple[Run, float]:
    """Run a machine until it powers off or the time is over; return its run and the seconds."""
    started = time.monotonic()
    initramfs = machine.log.with_suffix(".initramfs")
    with open(initramfs, "wb") as file:
        for part in machine.parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, file)
    machine.log.unlink(missing_ok=True)
    ports = (machine.log.with_suffix(".console"), machine.log)
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [
                *(*QEMU, "-kernel", machine.image, "-initrd", initramfs, "-append", BOOT),
                *(word for port in ports for word in ("-serial", f"file:{port}")),
            ],
            stdin=subprocess.DEVNULL,
            timeout=limit,
            check=False,
        )
    initramfs.unlink()
    return read_log(machine.name, machine.log), time.monotonic() - started


def report(machine: Machine, result: Run, seconds: float) -> bool:
    """Print the outcome of a machine; return whether its tests ended and none failed."""
    counts = ", ".join(f"{result.count(what)} {what}" for what in ("passed", "failed", "skipped"))
    if not result.ended:
        counts += f", did not end (see {machine.log} and .console)"
    print(f"{machine.name} ({machine.log.stem}), {result.release}: {counts} in {seconds:.0f} s")
    for one in result.outcomes:
        if one.what == "failed":
            print(f"  {one.file}::{one.test} failed (see {machine.log})")
    sys.stdout.flush()
    return result.ended and result.count("passed") > 0 and not result.count("failed")


def run_kernels(kernels: list[Kernel], options: argparse.Namespace) -> int:
    """Run the tests that the options ask for; return 1 where one failed or did not end."""
    for program in PROGRAMS:
        if not shutil.which(program):
            raise MissingError(f"the program {program}: not found")
    if options.tests:
        files = [Path(each.partition("::")[0]) for each in options.tests]
        parts = {"+".join(each.stem for each in files if each.suffix): options.tests}
    elif options.quick:
        parts = {"quick": [*QUICK]}
    else:
        parts = {name: [*files, *SELECTED] for name, files in zip("12", halves())}
    BUILD.mkdir(parents=True, exist_ok=True)
    archive, security = mirrors()
    environment = apt(archive, security, (kernel.suite for kernel in kernels))
    base = system(archive)
    machines = [
        prepare(kernel, tests, part, environment)
        for kernel in kernels
        for part, tests in parts.items()
    ]
    good = True
    with ThreadPoolExecutor(options.at_once) as pool:
        complete = [machine._replace(parts=[base, *machine.parts]) for machine in machines]
        runs = pool.map(lambda machine: boot(machine, options.limit), complete)
        for machine, (result, seconds) in zip(machines, runs):
            good &= report(machine, result, seconds)
    return int(not good)


def last_run(kernel: Kernel) -> Run:
    """Return the last outcomes under a kernel; raise MissingError where there is none."""
    logs = sorted((BUILD / kernel.name).glob("*.log"), key=lambda log: log.stat().st_mtime)
    runs = [run for log in logs if (run := read_log(kernel.name, log)).outcomes]
    if not runs:
        raise MissingError(f"no test has run yet under {kernel.name}")
    return joined(runs)


def write_table(path: Path) -> int:
    """Put the tables of the last outcomes between the marks of a file."""
    runs = [last_run(kernel) for kernel in KERNELS]
    before, _, rest = path.read_text().partition(MARK)
    _, _, after = rest.partition(MARK)
    path.write_text(before + MARK + table(runs) + MARK + after)
    return 0


# --- the command line


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of a command line."""
    names = [kernel.name for kernel in KERNELS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--kernels",
        metavar="NAMES",
        help=f"of {', '.join(names)}, separated by commas; default: all of them, with --quick "
        "the first and the last",
    )
    parser.add_argument("--quick", action="store_true", help="counters, reader, flows and modules")
    parser.add_argument(
        "--at-once", type=int, default=2, metavar="N", help="run N machines at a time (%(default)s)"
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=3600,
        metavar="SECONDS",
        help="end a machine after this time (%(default)s)",
    )
    parser.add_argument(
        "--optional", action="store_true", help="end with 0 where no mirror can be reached"
    )
    parser.add_argument("--table", type=Path, help="write the tables of the last outcomes")
    parser.add_argument("tests", nargs="*", help="after --: arguments of pytest, for other tests")
    options = parser.parse_args(arguments)
    usual = [names[0], names[-1]] if options.quick else names
    options.kernels = options.kernels.split(",") if options.kernels else usual
    if unknown := [name for name in options.kernels if name not in names]:
        parser.error(f"unknown kernel {unknown[0]} (known: {', '.join(names)})")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    options = parse(arguments)
    try:
        if options.table:
            return write_table(options.table)
        return run_kernels([one for one in KERNELS if one.name in options.kernels], options)
    except MissingError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 0 if options.optional and isinstance(error, NoMirrorError) else 1


if __name__ == "__main__":
    sys.exit(main())
