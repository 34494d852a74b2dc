#!/usr/bin/env python3
"""Build one file for each check, a zip archive with everything it needs except Python itself.

    pyz.py OUT [--python PYTHON]...

writes OUT/check_conntrack_usage and so on. An archive holds the sources of the suite and of
nagiosplugin (as this interpreter finds it), which any Python from 3.9 on can run, and the modules
compiled for each PYTHON (default: this one), which then starts faster. The same input gives the
same bytes; time stamps are SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKS = ("usage", "full", "table")
MAIN = Path(__file__).with_name("archive_main.py").read_text()
# Run by the interpreter to compile for. Unchecked: sources in an archive do not change.
COMPILE = """\
import py_compile, sys
print(sys.implementation.cache_tag)
for line in sys.stdin.read().splitlines():
    source, shown, compiled = line.split("\\0")
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(source, compiled, shown, doraise=True, invalidation_mode=unchecked)
"""


def sources() -> dict[str, Path]:
    """Return the modules to import, by their names in the archive."""
    import nagiosplugin

    found = {}
    for package in (ROOT / "plugins" / "check_conntrack", Path(nagiosplugin.__file__).parent):
        for path in package.rglob("*.py"):
            name = path.relative_to(package.parent)
            if not {"examples", "tests"} & set(name.parts):
                found[name.as_posix()] = path
    return found


def licences() -> dict[str, bytes]:
    """Return the licences of the content."""
    found = {"LICENSE": (ROOT / "LICENSE").read_bytes()}
    for path in importlib.metadata.files("nagiosplugin") or ():
        if "license" in path.name.lower() or path.name == "METADATA":
            found[f"{path.parent.name}/{path.name}"] = Path(str(path.locate())).read_bytes()
    return found


def compiled(python: str, files: dict[str, Path]) -> dict[str, bytes]:
    """Return the modules compiled by an interpreter, by their names in the archive."""
    with tempfile.TemporaryDirectory() as folder:
        made = {name: Path(folder, name + "c") for name in files}
        for path in made.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{files[name]}\0{name}\0{made[name]}" for name in files]
        done = subprocess.run(
            [python, "-I", "-c", COMPILE],
            input="\n".join(lines),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        tag = done.stdout.strip()
        return {f"{tag}/{name}c": path.read_bytes() for name, path in made.items()} | {
            # Passed to an interpreter as text; kernel/reader_command.py looks for it here.
            f"{tag}/check_conntrack/kernel/reader.py": files[
                "check_conntrack/kernel/reader.py"
            ].read_bytes()
        }


def write(path: Path, contents: dict[str, bytes]) -> None:
    """Write an executable archive; the same contents give the same bytes."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    stamp = time.gmtime(max(epoch, 315532800))[:6]  # a zip archive has no dates before 1980
    with path.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w") as archive:
            for name in sorted(contents):
                entry = zipfile.ZipInfo(name, stamp)
                entry.external_attr = 0o644 << 16
                # Unpacking would cost more time at every start than the space is worth.
                often = name.endswith(".pyc") or name == "__main__.py"
                kind = zipfile.ZIP_STORED if often else zipfile.ZIP_DEFLATED
                archive.writestr(entry, contents[name], kind)
    path.chmod(0o755)


def main() -> int:
    """Write the archives; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--python", action="append", default=[])
    options = parser.parse_args()
    files = sources()
    contents = {name: path.read_bytes() for name, path in files.items()} | licences()
    for python in options.python or [sys.executable]:
        contents |= compiled(python, files)
    options.out.mkdir(parents=True, exist_ok=True)
    for check in CHECKS:
        main_file = MAIN.replace('launch("CHECK")', f'launch("{check}")').encode()
        write(options.out / f"check_conntrack_{check}", contents | {"__main__.py": main_file})
    return 0


if __name__ == "__main__":
    sys.exit(main())
