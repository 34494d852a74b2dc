"""Run the tests of tests/kernel under other kernels, in qemu without KVM.

    python tests/vm/kernels.py [--kernels 5.10,6.1,6.12,newest] [--quick] [-- ARGUMENT ...]
    python tests/vm/kernels.py --table docs/kernels.md

The kernels are Debian's cloud kernels, found by an apt configuration of their own on the mirror
that this machine uses. The system is an initramfs: a minimal Debian with Python, nagiosplugin,
conntrack(8), nft and pytest, the network modules of the kernel, and the tree. build/kernels keeps
all of it, and what each kernel said: NAME.log, NAME-quick.log or NAME-part.log. It takes root (for
mmdebstrap), about 1 GiB of disk and 5 GiB of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "kernels"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# The system: a release of Debian, the version of its Python, packages, and wheels of PyPI.
RELEASE, PYTHON = "bookworm", "3.11"
PACKAGES = (
    *("python3", "conntrack", "nftables", "iptables", "iproute2", "sudo", "util-linux", "kmod"),
    *("procps", "systemd", "passwd"),
)
WHEELS = ("nagiosplugin", "pytest", "pytest-subprocess", "pytest-timeout", "hypothesis")
# The directories of a kernel package that the tests may need modules of.
MODULES = (
    *("kernel/net", "kernel/lib", "kernel/crypto", "kernel/arch/x86/crypto"),
    "kernel/drivers/net",
)
# What other kernels are likely to break, and what only an emulated machine can be used for.
QUICK = (
    "tests/kernel/test_counters.py",
    "tests/kernel/test_reader.py",
    "tests/kernel/test_flows_table.py",
    "tests/vm",
    # A third of the time, for a hundred tables that say more of Python than of the kernel.
    "--deselect=tests/kernel/test_flows_table.py::test_random_tables_are_counted_alike_by_all_sources",
)
# Promises about time do not hold where a processor is emulated.
ALL = ("tests/kernel", "tests/vm", "--ignore=tests/kernel/test_table_load.py")
MEMORY = "5G"
BOOT = (
    "console=ttyS0 panic=-1 quiet mitigations=off nokaslr log_buf_len=1M "
    # What makes an emulated processor faster: its time stamp counter as the clock, no zeroing of
    # each page, short grace periods (which deleting a namespace waits for), no security modules.
    "tsc=reliable clocksource=tsc init_on_alloc=0 rcupdate.rcu_expedited=1 audit=0 lsm="
)
MARK = "<!-- made by make kernels -->\n"


class Kernel(NamedTuple):
    """A Debian kernel: what it is called here, its suite, and which packages it is chosen from."""

    name: str
    suite: str
    pattern: str


KERNELS = (
    Kernel("5.10", "bullseye-security", r"linux-image-5\.10\.[0-9-]+-cloud-amd64"),
    Kernel("6.1", "bookworm-security", r"linux-image-6\.1\.[0-9-]+-cloud-amd64"),
    Kernel("6.12", "trixie-security", r"linux-image-6\.12\.[0-9]+\+deb13(?:\.[0-9]+)?-cloud-amd64"),
    Kernel("newest", "trixie-backports", r"linux-image-[0-9.]+\+deb13-cloud-amd64"),
)


class Outcome(NamedTuple):
    """The outcome of one test: passed, skipped or failed, and why it was skipped."""

    group: str
    test: str
    what: str
    reason: str = ""


class Run(NamedTuple):
    """What one kernel has shown; no outcomes where the tests did not end."""

    kernel: Kernel
    release: str
    outcomes: tuple[Outcome, ...]

    def count(self, what: str, group: str = "") -> int:
        """Return how many tests, of a group or of all, had an outcome."""
        return sum(one.what == what and group in ("", one.group) for one in self.outcomes)


class MissingError(Exception):
    """Something that cannot be had, in words."""


class NoMirrorError(MissingError):
    """This machine has no mirror of Debian to get kernels from."""


def run(*command: object, **options: object) -> str:
    """Run a command that must succeed, and return its standard output."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True, **options
    )
    return str(done.stdout)


# --- packages


def mirrors() -> tuple[str, str]:
    """Return the URIs of Debian's archive and of its security updates in this machine's apt."""
    if not shutil.which("apt-get"):
        raise NoMirrorError("apt-get: not found (the kernels are packages of Debian)")
    found = {}
    for _ in range(2):
        words = ("--format", "$(LABEL)|$(REPO_URI)", "Created-By: Packages")
        told = run("apt-get", "indextargets", *words).splitlines()
        found = dict(line.split("|", 1) for line in reversed(told) if "|" in line)
        if {"Debian", "Debian-Security"} <= found.keys():
            return found["Debian"], found["Debian-Security"]
        run("apt-get", "update", "-qq")
    raise NoMirrorError("this machine's apt has no mirror of Debian with its security updates")


def apt(archive: str, security: str) -> dict[str, str]:
    """Return the environment of an apt that knows the suites of KERNELS, and nothing else."""
    top = BUILD / "apt"
    for directory in ("lists/partial", "cache/archives/partial"):
        (top / directory).mkdir(parents=True, exist_ok=True)
    (top / "status").touch()
    lines = []
    for suite in dict.fromkeys(kernel.suite for kernel in KERNELS):
        uri = security if suite.endswith("-security") else archive
        lines.append(f"deb [signed-by={KEYRING}] {uri} {suite} main\n")
    (top / "sources.list").write_text("".join(lines))
    (top / "apt.conf").write_text(
        f'Dir::State "{top}"; Dir::State::status "{top}/status"; Dir::State::lists "{top}/lists";\n'
        f'Dir::Cache "{top}/cache"; Dir::Etc::sourcelist "{top}/sources.list";\n'
        'Dir::Etc::sourceparts "-"; APT::Architecture "amd64"; Acquire::Languages "none";\n'
        'APT::Sandbox::User "root"; Acquire::Retries "3";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(top / "apt.conf")}
    run("apt-get", "update", "-qq", env=environment)
    return environment


def newest(kernel: Kernel, environment: dict[str, str]) -> str:
    """Return the package of a kernel with the highest version."""
    listed = run("apt-cache", "pkgnames", "linux-image-", env=environment).split()
    fitting = [name for name in listed if re.fullmatch(kernel.pattern, name)]
    if not fitting:
        raise MissingError(f"the mirror has no package of {kernel.suite} like {kernel.pattern}")
    return max(fitting, key=lambda name: [int(number) for number in re.findall("[0-9]+", name)])


def unpacked(package: str, environment: dict[str, str]) -> Path:
    """Return the directory of an unpacked kernel package, fetched where it is not there yet.

    Newer kernels come in parts: the image and the modules are packages that this one depends on.
    """
    top = BUILD / "packages" / package
    if not (top / "complete").exists():
        shutil.rmtree(top, ignore_errors=True)
        top.mkdir(parents=True)
        needs = run("apt-cache", "depends", package, env=environment)
        parts = re.findall(r"Depends: (linux-(?:binary|modules)-\S+)", needs)
        try:
            run("apt-get", "download", "-qq", package, *parts, env=environment, cwd=top)
        except subprocess.CalledProcessError:
            raise MissingError(f"{package}: cannot be downloaded") from None
        for archive in top.glob("*.deb"):
            run("dpkg-deb", "-x", archive, top)
            archive.unlink()
        (top / "complete").touch()
    return top


# --- archives


def cpio(folder: Path, target: Path) -> Path:
    """Pack a directory as an initramfs; several of them can be put one after another."""
    part = target.with_suffix(".part")
    words = ("--null", "--create", "--format=newc", "--owner=0:0", "--quiet", "--reproducible")
    with open(part, "wb") as file:
        listed = subprocess.Popen(["find", ".", "-print0"], cwd=folder, stdout=subprocess.PIPE)
        subprocess.run(["cpio", *words], cwd=folder, stdin=listed.stdout, stdout=file, check=True)
        if listed.wait():
            raise OSError(f"{folder}: find failed")
    return part.rename(target)


def system(archive: str) -> Path:
    """Return the initramfs of the system, made where there is none of these packages yet."""
    wanted = repr((RELEASE, PYTHON, PACKAGES, WHEELS)).encode()
    made = BUILD / f"system-{hashlib.sha256(wanted).hexdigest()[:12]}.cpio"
    if made.exists():
        return made
    for old in BUILD.glob("system*.cpio"):
        old.unlink()
    top = BUILD / "system"
    shutil.rmtree(top, ignore_errors=True)
    left_out = ("doc", "locale", "man", "i18n", "info")
    run(
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
        '--aptopt=Acquire::Languages "none"',
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in left_out),
        *(RELEASE, top, archive),
    )
    run(
        *(sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"),
        *("--python-version", PYTHON, "--only-binary=:all:", "--target", top / "opt/tests"),
        *WHEELS,
    )
    for path in ("var/lib/apt/lists", "var/cache/apt"):
        shutil.rmtree(top / path, ignore_errors=True)
    cpio(top, made)
    shutil.rmtree(top)
    return made


def modules(kernel: Path) -> Path:
    """Return the initramfs of a kernel's modules."""
    made = kernel / "modules.cpio"
    if made.exists():
        return made
    base = next(
        path for path in (kernel / "usr/lib/modules", kernel / "lib/modules") if path.is_dir()
    )
    (source,) = base.iterdir()
    top = kernel / "modules"
    shutil.rmtree(top, ignore_errors=True)
    target = top / "usr/lib/modules" / source.name
    for directory in MODULES:
        if (source / directory).is_dir():
            shutil.copytree(source / directory, target / directory)
    for file in source.glob("modules.*"):
        shutil.copy2(file, target)
    return cpio(top, made)


def tree(arguments: list[str]) -> Path:
    """Return the initramfs of the tree, its first program, and what pytest is to run."""
    top = BUILD / "tree"
    shutil.rmtree(top, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for directory in ("plugins", "tests", "nrpe"):
        shutil.copytree(ROOT / directory, top / "tree" / directory, ignore=ignore)
    shutil.copy2(ROOT / "pyproject.toml", top / "tree")
    (top / "tree/arguments").write_text("".join(f"{each}\n" for each in arguments))
    shutil.copy2(ROOT / "tests/vm/init", top)
    (top / "init").chmod(0o755)
    return cpio(top, BUILD / "tree.cpio")


# --- booting


def boot(kernel: Kernel, folder: Path, parts: list[Path], log: Path, limit: float) -> None:
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
        *("-machine", "pc,hpet=off", "-smp", "2", "-m", MEMORY, "-nodefaults", "-no-reboot"),
        *("-display", "none", "-kernel", image, "-initrd", initramfs, "-append", BOOT),
        *("-serial", f"file:{log.with_suffix('.console')}", "-serial", f"file:{log}"),
    ]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(list(map(str, words)), stdin=subprocess.DEVNULL, timeout=limit, check=False)


def read_log(kernel: Kernel, log: Path) -> Run:
    """Return what a log says: the kernel's release, and the outcomes in the report at its end."""
    text = log.read_text(errors="replace") if log.exists() else ""
    release = re.search(r"=== kernel ([^ ,]+)", text)
    report = re.search(r"<\?xml.*</testsuites>", text, re.DOTALL)
    outcomes = map(outcome, ET.fromstring(report[0]).iter("testcase")) if report else ()
    return Run(kernel, release[1] if release else kernel.name, tuple(outcomes))


def outcome(case: ET.Element) -> Outcome:
    """Return the outcome of a test in a JUnit report."""
    group = str(case.get("classname")).rpartition(".")[2].replace("test_", "")
    children = {child.tag: child for child in case}
    what = "failed" if children.keys() & {"failure", "error"} else "passed"
    reason = ""
    if what == "passed" and "skipped" in children:
        what, reason = "skipped", str(children["skipped"].get("message"))
    return Outcome(group, str(case.get("name")), what, reason)


# --- the table


def table(runs: list[Run]) -> str:
    """Return the outcomes as Markdown: a line for each group of tests, a column for each kernel."""
    groups = sorted({one.group for each in runs for one in each.outcomes})
    lines = [
        "| tests | " + " | ".join(each.release for each in runs) + " |",
        "|---" * (len(runs) + 1) + "|",
    ]
    for group in groups:
        cells = [
            ", ".join(
                f"{number} {what}"
                for what in ("passed", "skipped", "failed")
                if (number := each.count(what, group))
            )
            for each in runs
        ]
        lines.append(f"| {group} | " + " | ".join(cell or "not run" for cell in cells) + " |")
    reasons: dict[str, dict[str, int]] = {}
    for each in runs:
        for one in each.outcomes:
            if one.what == "skipped":
                counts = reasons.setdefault(one.reason, {})
                counts[each.release] = counts.get(each.release, 0) + 1
    if reasons:
        lines += ["", "Skipped:", "", "| reason | tests |", "|---|---|"]
        for reason, counts in sorted(reasons.items()):
            numbers = ", ".join(f"{release}: {number}" for release, number in counts.items())
            lines.append(f"| {reason} | {numbers} |")
    return "\n".join(lines) + "\n"


def write_table(path: Path) -> int:
    """Put the table of the last complete runs between the marks of a file."""
    runs = [read_log(kernel, BUILD / f"{kernel.name}.log") for kernel in KERNELS]
    if missing := [each.kernel.name for each in runs if not each.outcomes]:
        print(f"no table: all tests have not run yet on {', '.join(missing)}", file=sys.stderr)
        return 1
    before, _, rest = path.read_text().partition(MARK)
    _, _, after = rest.partition(MARK)
    path.write_text(before + MARK + table(runs) + MARK + after)
    return 0


# --- the command line


def run_kernels(wanted: list[str], tests: list[str], suffix: str, limit: float) -> int:
    """Run tests on kernels; 1 where a test failed or a kernel did not come to its end."""
    for program in ("qemu-system-x86_64", "mmdebstrap", "cpio", "dpkg-deb"):
        if not shutil.which(program):
            raise MissingError(f"the program {program}: not found")
    BUILD.mkdir(parents=True, exist_ok=True)
    archive, security = mirrors()
    environment = apt(archive, security)
    base, source = system(archive), tree(tests)
    bad = 0
    for kernel in (each for each in KERNELS if each.name in wanted):
        folder = unpacked(newest(kernel, environment), environment)
        log = BUILD / f"{kernel.name}{suffix}.log"
        started = time.monotonic()
        boot(kernel, folder, [base, modules(folder), source], log, limit)
        each = read_log(kernel, log)
        counts = ", ".join(f"{each.count(what)} {what}" for what in ("passed", "failed", "skipped"))
        if not each.outcomes:
            counts = f"the tests did not end (see {log} and {log.with_suffix('.console')})"
        print(f"{each.release}: {counts} in {time.monotonic() - started:.0f} s", flush=True)
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
    tests = options.tests or list(QUICK if options.quick else ALL)
    try:
        return run_kernels(wanted, tests, suffix, options.limit)
    except MissingError as error:
        print(f"kernels: not tested: {error}", file=sys.stderr)
        return 0 if options.optional and isinstance(error, NoMirrorError) else 1


if __name__ == "__main__":
    sys.exit(main())
