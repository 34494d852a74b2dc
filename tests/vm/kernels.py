"""Boot the kernel tests under other kernels, in qemu without KVM, and print a table of outcomes.

    python tests/vm/kernels.py [--kernels 5.10,6.1,6.12,newest] [--quick] [--table FILE]

Kernels are Debian's cloud kernels, fetched with an apt configuration of their own from the mirrors
that this machine uses. The system is an initramfs: a minimal Debian with Python, nagiosplugin,
conntrack(8), nft and pytest, the kernel's network modules, and the tree. Everything is kept in
build/vm. It takes root (mmdebstrap), about 1 GiB of disk and 5 GiB of memory.
"""

from __future__ import annotations

import argparse
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
BUILD = ROOT / "build" / "vm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES = [
    "python3",
    "conntrack",
    "nftables",
    "iproute2",
    "sudo",
    "util-linux",
    "kmod",
    "procps",
    "systemd",
    "iptables",
    "passwd",
]
TOOLS = ("nagiosplugin", "pytest", "pytest-subprocess", "pytest-timeout", "hypothesis")
# The directories of a kernel package that the tests may need modules of.
MODULES = (
    "kernel/net",
    "kernel/lib",
    "kernel/crypto",
    "kernel/arch/x86/crypto",
    "kernel/drivers/net",
)
QUICK = (
    "tests/kernel/test_counters.py",
    "tests/kernel/test_reader.py",
    "tests/kernel/test_flows_table.py",
)
MEMORY = "5G"
BOOT = "console=ttyS0 panic=-1 mitigations=off nokaslr log_buf_len=1M quiet"
STARTED = "=== tests begin"
ENDED = "=== tests end"
INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /run /tmp /etc/sudoers.d
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
chmod 1777 /tmp /dev/shm
mkdir -p /run/lock /run/netns
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH=/opt/tests CI=true
ip link set lo up
depmod
for module in veth nf_conntrack nf_conntrack_netlink nf_tables nft_ct nft_masq nft_nat \\
    nft_chain_nat nf_nat nf_conntrack_ftp nft_connlimit nf_synproxy_core nft_synproxy; do
    modprobe -q $module
done
# What the tests set is the machine's: give it room.
sysctl -qw net.netfilter.nf_conntrack_max=262144
cd /tree
{
    echo "=== kernel $(uname -r)"
    echo "=== tests begin"
    python3 -m pytest -p no:cacheprovider -q --color=no -o timeout=900 \\
        --junitxml=/tmp/junit.xml $(cat /arguments)
    echo "=== tests end $?"
    cat /tmp/junit.xml
    echo
    echo "=== junit end"
} > /dev/ttyS1 2>&1
echo o > /proc/sysrq-trigger
sleep 60
"""


class Kernel(NamedTuple):
    """A Debian kernel: its name here, the suite, and the versions that it is chosen from."""

    name: str
    suite: str
    pattern: str


KERNELS = (
    Kernel("5.10", "bullseye-security", r"linux-image-5\.10\.[0-9-]+-cloud-amd64"),
    Kernel("6.1", "bookworm-security", r"linux-image-6\.1\.[0-9-]+-cloud-amd64"),
    Kernel("6.12", "trixie-security", r"linux-image-6\.12\.[0-9]+\+deb13(?:\.[0-9]+)?-cloud-amd64"),
    Kernel("newest", "trixie-backports", r"linux-image-[0-9.]+\+deb13-cloud-amd64"),
)


class Booted(NamedTuple):
    """What one kernel has shown: its release, and the outcomes of its tests by file."""

    name: str
    release: str
    outcomes: dict[str, dict[str, int]]
    failures: tuple[str, ...]
    seconds: float
    log: Path


def run(*command: object, **options: object) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True, **options
    )
    return str(done.stdout)


# --- packages


def mirrors() -> tuple[str, str]:
    """The URIs of the archive and of its security updates, as this machine's apt has them."""
    told = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    found = [uri for uri in dict.fromkeys(told.split()) if "debian" in uri]
    security = next((uri for uri in found if "security" in uri), "")
    archive = next(
        (uri for uri in found if "security" not in uri and uri.rstrip("/").endswith("debian")), ""
    )
    if not archive or not security:
        sys.exit("no Debian mirror in this machine's apt sources")
    return archive, security


def apt(archive: str, security: str) -> dict[str, str]:
    """The environment of an apt that knows the suites of KERNELS and nothing of this machine."""
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
        'APT::Sandbox::User "root";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(top / "apt.conf")}
    run("apt-get", "update", "-qq", env=environment)
    return environment


def newest(kernel: Kernel, environment: dict[str, str]) -> str:
    """The package of a kernel with the highest version."""
    listed = run("apt-cache", "pkgnames", "linux-image-", env=environment).split()
    fitting = [name for name in listed if re.fullmatch(kernel.pattern, name)]
    if not fitting:
        sys.exit(f"no package of {kernel.suite} matches {kernel.pattern}")
    return max(fitting, key=lambda name: [int(number) for number in re.findall("[0-9]+", name)])


def unpacked(package: str, environment: dict[str, str]) -> Path:
    """Return the directory of an unpacked kernel package, fetched where it is not there yet.

    Newer kernels come in parts: the image and the modules are packages that this one depends on.
    """
    top = BUILD / "kernels" / package
    if not (top / "complete").exists():
        shutil.rmtree(top, ignore_errors=True)
        top.mkdir(parents=True)
        needs = run("apt-cache", "depends", package, env=environment)
        parts = re.findall(r"Depends: (linux-(?:binary|modules)-\S+)", needs)
        run("apt-get", "download", "-qq", package, *parts, env=environment, cwd=top)
        for archive in top.glob("*.deb"):
            run("dpkg-deb", "-x", archive, top)
            archive.unlink()
        (top / "complete").touch()
    return top


# --- archives


def cpio(folder: Path, target: Path) -> Path:
    """Pack a directory as an initramfs; several of them can be put one after another."""
    with open(target, "wb") as file:
        listed = subprocess.Popen(["find", ".", "-print0"], cwd=folder, stdout=subprocess.PIPE)
        subprocess.run(
            [
                "cpio",
                "--null",
                "--create",
                "--format=newc",
                "--owner=0:0",
                "--quiet",
                "--reproducible",
            ],
            cwd=folder,
            stdin=listed.stdout,
            stdout=file,
            check=True,
        )
        if listed.wait():
            sys.exit(f"find failed in {folder}")
    return target


def system(archive: str) -> Path:
    """The initramfs of the system without the tree."""
    made = BUILD / "system.cpio"
    if made.exists():
        return made
    top = BUILD / "system"
    shutil.rmtree(top, ignore_errors=True)
    run(
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
        *('--aptopt=Acquire::Languages "none"', "--dpkgopt=path-exclude=/usr/share/doc/*"),
        *("--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/man/*"),
        *("bookworm", top, archive),
    )
    python = sys.executable
    run(python, "-m", "pip", "install", "-q", "--target", top / "opt" / "tests", *TOOLS)
    shutil.rmtree(top / "var/lib/apt/lists", ignore_errors=True)
    shutil.rmtree(top / "var/cache/apt", ignore_errors=True)
    (top / "init").write_text(INIT)
    (top / "init").chmod(0o755)
    cpio(top, made)
    shutil.rmtree(top)
    return made


def modules(kernel: Path) -> Path:
    """The initramfs of a kernel's modules."""
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
    """The initramfs of the tree and of what pytest is to run."""
    top = BUILD / "tree"
    shutil.rmtree(top, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for directory in ("plugins", "tests", "nrpe"):
        shutil.copytree(ROOT / directory, top / "tree" / directory, ignore=ignore)
    shutil.copy2(ROOT / "pyproject.toml", top / "tree")
    (top / "arguments").write_text(" ".join(arguments))
    return cpio(top, BUILD / "tree.cpio")


# --- booting


def boot(kernel: Kernel, package: str, top: Path, parts: list[Path], limit: float) -> Booted:
    """Boot a kernel with the parts as its initramfs, and read off what its tests said."""
    (image,) = top.rglob("vmlinuz*")
    initramfs, log = BUILD / "initramfs", BUILD / f"{kernel.name}.log"
    with open(initramfs, "wb") as file:
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, file)
    started = time.monotonic()
    log.unlink(missing_ok=True)
    try:
        subprocess.run(
            [
                *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off"),
                *("-smp", "2", "-m", MEMORY, "-nodefaults", "-display", "none", "-no-reboot"),
                *("-kernel", str(image), "-initrd", str(initramfs), "-append", BOOT),
                *("-serial", f"file:{BUILD / kernel.name}.console", "-serial", f"file:{log}"),
            ],
            stdin=subprocess.DEVNULL,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"{kernel.name}: not finished after {limit:.0f} s", flush=True)
    text = log.read_text(errors="replace") if log.exists() else ""
    release = re.search(r"=== kernel (\S+)", text)
    return Booted(
        kernel.name,
        release[1] if release else package,
        *outcomes(text),
        time.monotonic() - started,
        log,
    )


def outcomes(text: str) -> tuple[dict[str, dict[str, int]], tuple[str, ...]]:
    """Outcomes by file, and the names of failed tests, from what a kernel's tests printed."""
    report = re.search(r"(<\?xml.*</testsuites>)", text, re.DOTALL)
    if not report:
        return {}, ("no report: the tests did not end",)
    found: dict[str, dict[str, int]] = {}
    failures = []
    for case in ET.fromstring(report[1]).iter("testcase"):
        children = {child.tag for child in case}
        outcome = (
            "failed"
            if children & {"failure", "error"}
            else "skipped"
            if "skipped" in children
            else "passed"
        )
        name = str(case.get("classname")).rpartition(".")[2].replace("test_", "")
        counts = found.setdefault(name, {"passed": 0, "skipped": 0, "failed": 0})
        counts[outcome] += 1
        if outcome == "failed":
            failures.append(f"{name}: {case.get('name')}")
    return found, tuple(failures)


def table(booted: list[Booted]) -> str:
    """The outcomes as Markdown: a line for each group of tests, a column for each kernel."""
    groups = sorted({group for each in booted for group in each.outcomes})
    lines = ["| tests/kernel | " + " | ".join(each.release for each in booted) + " |"]
    lines.append("|---" * (len(booted) + 1) + "|")
    for group in groups:
        cells = []
        for each in booted:
            counts = each.outcomes.get(group)
            if not counts:
                cells.append("not run")
                continue
            cell = f"{counts['passed']} passed"
            cell += f", {counts['skipped']} skipped" if counts["skipped"] else ""
            cell += f", **{counts['failed']} failed**" if counts["failed"] else ""
            cells.append(cell)
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the matrix; 1 where a test failed or a kernel did not finish."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    known = ",".join(kernel.name for kernel in KERNELS)
    parser.add_argument("--kernels", default=known, help=f"names, separated by commas: {known}")
    parser.add_argument("--quick", action="store_true", help="counters, reader and flows only")
    parser.add_argument("--table", type=Path, help="put the table between the marks of this file")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for one kernel")
    parser.add_argument("tests", nargs="*", help="arguments of pytest instead of tests/kernel")
    options = parser.parse_args()
    wanted = options.kernels.split(",")
    if unknown := [name for name in wanted if name not in known.split(",")]:
        parser.error(f"unknown kernel {unknown[0]}: known are {known}")
    BUILD.mkdir(parents=True, exist_ok=True)
    archive, security = mirrors()
    environment = apt(archive, security)
    base = system(archive)
    source = tree(options.tests or (list(QUICK) if options.quick else ["tests/kernel"]))
    booted = []
    for kernel in KERNELS:
        if kernel.name in wanted:
            package = newest(kernel, environment)
            top = unpacked(package, environment)
            each = boot(kernel, package, top, [base, modules(top), source], options.limit)
            booted.append(each)
            passed = sum(counts["passed"] for counts in each.outcomes.values())
            failed = len(each.failures)
            print(f"{each.release}: {passed} passed, {failed} failed, {each.seconds:.0f} s")
            for failure in each.failures:
                print(f"  {failure}", flush=True)
    made = table(booted)
    print(made)
    if options.table:
        text = options.table.read_text()
        mark = "<!-- made by make kernels -->\n"
        before, _, rest = text.partition(mark)
        _, _, after = rest.partition(mark)
        options.table.write_text(before + mark + made + mark + after)
    return int(any(each.failures for each in booted))


if __name__ == "__main__":
    sys.exit(main())
