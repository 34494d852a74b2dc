"""Whether what runs on monitored hosts beside the suite has known vulnerabilities; `make lint`.

pip-audit asks the vulnerability service of the package index. Where no such service can be
reached, that is said, and no more than that can be done.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

RUNTIME = ("nagiosplugin",)


def main() -> int:
    """0 where nothing is known against them, or nobody can be asked; 1 where something is."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, report = Path(folder, "requirements.txt"), Path(folder, "report.json")
        wanted.write_text("".join(f"{name}=={version(name)}\n" for name in RUNTIME))
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps"]
        command += ["--progress-spinner=off", "--timeout=10", "--format=json", f"--output={report}"]
        done = subprocess.run(
            [*command, f"--requirement={wanted}"], capture_output=True, text=True, check=False
        )
        found = json.loads(report.read_text())["dependencies"] if report.exists() else []
    for one in found:
        for weakness in one.get("vulns", ()):
            print(f"{one['name']} {one['version']}: {weakness['id']}, see {weakness['aliases']}")
        if "skip_reason" in one:
            print(f"not audited, the service does not know it: {one['name']}")
    if not found:
        print("not audited, no service can be reached:", done.stderr.strip().rpartition("\n")[2])
    return int(any(one.get("vulns") for one in found))


if __name__ == "__main__":
    sys.exit(main())
