"""Look for known vulnerabilities in what the suite needs on monitored hosts; run by `make lint`.

pip-audit asks the vulnerability service of the package index. If no such service can be reached,
the program says so and succeeds; if pip-audit itself is missing, it fails.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

RUNTIME = ("nagiosplugin",)


def main() -> int:
    """Return 1 if a vulnerability is known or pip-audit is missing, else 0."""
    if importlib.util.find_spec("pip_audit") is None:
        print("pip-audit: not installed (pip install '.[quality]')")
        return 1
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
