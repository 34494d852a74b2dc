"""Debian packages for a virtual machine: find the mirror, choose kernels, download and unpack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "kernels"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Kernel(NamedTuple):
    """A cloud kernel of Debian.

    name: what it is called here. suite: the suite that has it. version: a regular expression for
    its version, of which the highest is taken. procfs: whether it has conntrack's files in
    /proc/net (CONFIG_NF_CONNTRACK_PROCFS).
    """

    name: str
    suite: str
    version: str
    procfs: bool = True


class MissingError(Exception):
    """Something that the kernel tests need is missing."""


class NoMirrorError(MissingError):
    """No mirror of Debian can be reached."""


def run(*command: object, **options: object) -> str:
    """Run a command that must succeed, and return its standard output."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True, **options
    )
    return str(done.stdout)


def mirrors() -> tuple[str, str]:
    """Return the URIs of Debian's archive and of its security updates in this machine's apt."""
    if not shutil.which("apt-get"):
        raise NoMirrorError("apt-get: not found (the kernels are packages of Debian)")
    for _ in range(2):
        words = ("--format", "$(LABEL)|$(REPO_URI)", "Created-By: Packages")
        told = run("apt-get", "indextargets", *words).splitlines()
        found = dict(line.split("|", 1) for line in reversed(told) if "|" in line)
        if {"Debian", "Debian-Security"} <= found.keys():
            return found["Debian"], found["Debian-Security"]
        run("apt-get", "update", "-qq")
    raise NoMirrorError("this machine's apt has no mirror of Debian with its security updates")


def apt(archive: str, security: str, suites: Iterable[str]) -> dict[str, str]:
    """Return the environment of an apt that knows these suites, and nothing else."""
    top = BUILD / "apt"
    for directory in ("lists/partial", "cache/archives/partial"):
        (top / directory).mkdir(parents=True, exist_ok=True)
    (top / "status").touch()
    lines = []
    for suite in dict.fromkeys(suites):
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
    try:
        run("apt-get", "update", "-qq", "-o", "APT::Update::Error-Mode=any", env=environment)
    except subprocess.CalledProcessError:
        raise NoMirrorError(f"{archive}: cannot be reached") from None
    return environment


def newest_package(kernel: Kernel, environment: dict[str, str]) -> str:
    """Return the package of a kernel with the highest version."""
    listed = run("apt-cache", "pkgnames", "linux-image-", env=environment).split()
    name = re.compile(rf"linux-image-({kernel.version})-cloud-amd64")
    fitting = [match for each in listed if (match := name.fullmatch(each))]
    if not fitting:
        raise MissingError(f"{kernel.suite}: no package {name.pattern} on the mirror")
    return max(fitting, key=lambda match: [int(part) for part in re.findall("[0-9]+", match[1])])[0]


def dependencies(package: str, pattern: str, environment: dict[str, str]) -> list[str]:
    """Return the packages that one depends on and whose names match."""
    told = run("apt-cache", "depends", package, env=environment)
    return re.findall(rf"Depends: ({pattern})$", told, re.MULTILINE)


def unpack(packages: list[str], top: Path, environment: dict[str, str]) -> Path:
    """Return a directory with the content of packages, fetched where it is not there yet."""
    if not (top / "complete").exists():
        shutil.rmtree(top, ignore_errors=True)
        top.mkdir(parents=True)
        try:
            run("apt-get", "download", "-qq", *packages, env=environment, cwd=top)
        except subprocess.CalledProcessError:
            raise MissingError(f"{', '.join(packages)}: cannot be downloaded") from None
        for archive in top.glob("*.deb"):
            run("dpkg-deb", "-x", archive, top)
            archive.unlink()
        (top / "complete").touch()
    return top


def unpacked_kernel(package: str, environment: dict[str, str]) -> Path:
    """Return the directory of an unpacked kernel package.

    Newer kernels come in parts: the image and the modules are packages that this one depends on.
    """
    parts = dependencies(package, r"linux-(?:binary|modules)-\S+", environment)
    return unpack([package, *parts], BUILD / "packages" / package, environment)
