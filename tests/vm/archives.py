"""The initramfs of a virtual machine, in parts: the system, modules of its kernel, and the tree."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from vm.debian import BUILD, ROOT, dependencies, run, unpack

if TYPE_CHECKING:
    from pathlib import Path

# The system: a release of Debian, the version of its Python, packages, and wheels of PyPI.
RELEASE, PYTHON = "bookworm", "3.11"
PACKAGES = (
    *("python3", "conntrack", "nftables", "iptables", "iproute2", "sudo", "util-linux", "kmod"),
    *("procps", "systemd", "passwd", "iputils-ping", "libcap2-bin"),
)
WHEELS = ("nagiosplugin", "pytest", "pytest-subprocess", "pytest-timeout", "hypothesis")
# The directories of a kernel package that the tests may need modules of.
MODULES = (
    *("kernel/net", "kernel/lib", "kernel/crypto", "kernel/arch/x86/crypto"),
    *("kernel/drivers/net", "kernel/fs/fuse", "kernel/fs/overlayfs"),
)
# The sources of conntrack's files in /proc/net.
PROC_SOURCES = ("nf_conntrack_standalone.c", "nf_conntrack_expect.c")


def _digest(*wanted: object) -> str:
    """Return what tells an archive from one that other settings would make."""
    return hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]


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
    made = BUILD / f"system-{_digest(RELEASE, PYTHON, PACKAGES, WHEELS)}.cpio"
    if made.exists():
        return made
    for old in BUILD.glob("system*.cpio"):
        old.unlink()
    top = BUILD / "system"
    shutil.rmtree(top, ignore_errors=True)
    left_out = ("doc", "locale", "man", "i18n", "info")
    run(
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
        *('--aptopt=Acquire::Languages "none"', "--dpkgopt=force-unsafe-io"),
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
    made = kernel / f"modules-{_digest(MODULES)}.cpio"
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
    # It warns of files that newer kernels have in other packages.
    run("depmod", "--basedir", top / "usr", source.name, stderr=subprocess.DEVNULL)
    return cpio(top, made)


def tree(arguments: list[str], made: Path) -> Path:
    """Return the initramfs of the tree, its first program, and the arguments of pytest."""
    top = BUILD / "tree"
    shutil.rmtree(top, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for directory in ("plugins", "tests", "nrpe"):
        shutil.copytree(ROOT / directory, top / "tree" / directory, ignore=ignore)
    shutil.copy2(ROOT / "pyproject.toml", top / "tree")
    (top / "tree/arguments").write_text("".join(f"{each}\n" for each in arguments))
    shutil.copy2(ROOT / "tests/vm/init", top)
    (top / "init").chmod(0o755)
    return cpio(top, made)


def without_procfs(package: str, folder: Path, environment: dict[str, str]) -> Path:
    """Return an initramfs with a kernel's nf_conntrack, built without its files in /proc/net.

    The module is made of the kernel's own source and headers, and takes half a minute of a
    processor; all other modules are Debian's. Structures stay as they are: the setting is undone
    after the headers were read.
    """
    made = folder / "no-procfs.cpio"
    if made.exists():
        return made
    headers = package.replace("linux-image-", "linux-headers-")
    release = package.replace("linux-image-", "")
    version = ".".join(release.split(".")[:2])
    parts = dependencies(headers, r"linux-headers-\S+-common|linux-kbuild-\S+", environment)
    top = unpack(
        [headers, *parts, f"linux-source-{version}"], BUILD / "packages" / headers, environment
    )
    archive = top / f"usr/src/linux-source-{version}.tar.xz"
    run("tar", "-C", top, "-xf", archive, f"linux-source-{version}/net/netfilter")
    source = top / f"linux-source-{version}/net/netfilter"
    for name in PROC_SOURCES:
        text = (source / name).read_text()
        end = text.index("\n", text.rindex("\n#include") + 1) + 1
        undone = text[:end] + "#undef CONFIG_NF_CONNTRACK_PROCFS\n" + text[end:]
        (source / name).write_text(undone)
    makefile = top / f"usr/src/{headers}/Makefile"
    makefile.write_text(makefile.read_text().replace("include /usr/", f"include {top}/usr/"))
    words = ("make", "-C", makefile.parent, f"M={source}", "CC=gcc", "nf_conntrack.ko")
    with open(folder / "no-procfs.log", "w") as log:
        subprocess.run([*map(str, words)], stdout=log, stderr=subprocess.STDOUT, check=True)
    place = folder / "no-procfs" / "usr/lib/modules" / release / "kernel/net/netfilter"
    place.mkdir(parents=True, exist_ok=True)
    run("strip", "--strip-debug", "-o", place / "nf_conntrack.ko", source / "nf_conntrack.ko")
    return cpio(folder / "no-procfs", made)
