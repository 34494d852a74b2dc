"""Programs that tests run, checks among them, and what these print."""

from __future__ import annotations

import os
import subprocess
from typing import NamedTuple

from support import perfdata

EMULATED = bool(os.environ.get("CHECK_CONNTRACK_VM"))
# How many times longer than on real processors a test may take, and the time-outs of the checks.
SLOWNESS = 10 if EMULATED else 1
# Seconds that a program may take, a check's own time-out included.
PATIENCE = 60 * SLOWNESS
PATIENT = ("-t", "120") if EMULATED else ()
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


class Result(NamedTuple):
    """The output of a command, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def status(self) -> str:
        """The status line of a check, without its perfdata."""
        return self.out.partition("\n")[0].partition(" | ")[0]

    @property
    def items(self) -> dict[str, perfdata.Item]:
        """The perfdata of a check by label, in its order."""
        text = self.out.partition("\n")[0].partition(" | ")[2]
        return perfdata.parse(text) if text else {}

    @property
    def perfdata(self) -> dict[str, str]:
        """Perfdata by label: the value with unit and ranges, as printed."""
        return {label: item.spelled for label, item in self.items.items()}

    def value(self, label: str) -> float:
        """Return the number of a label."""
        return self.items[label].value

    @property
    def lines(self) -> list[str]:
        """The long output of a check."""
        return self.out.splitlines()[1:]


def run(*command: object, **options: object) -> Result:
    """Run a command to its end."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, **options)
    return Result(done.returncode, done.stdout, done.stderr)


# What shows that conntrack is active, hidden from one process ($$): as if it were not loaded.
INACTIVE = (
    "mount -t tmpfs none /proc/sys/net/netfilter; mount -t tmpfs none /sys/module; "
    "mount -t tmpfs none /proc/$$/net; "
    "if test -e /proc/modules; then mount --bind /dev/null /proc/modules; fi"
)


def hidden(script: str) -> list[str]:
    """Return a prefix that runs a command in a mount namespace, after a script there."""
    return ["unshare", "-m", "sh", "-c", f'set -e; {script}; exec "$@"', "sh"]


def passing(seconds: float) -> list[str]:
    """Return a prefix that runs a command as if it were so many seconds later.

    Offsets of a time namespace are absolute: the tests may run in one themselves. On older kernels
    (seen on 5.10) only a child is in the new namespace, not the process that has made it.
    """
    offset = 0
    if os.path.exists("/proc/self/timens_offsets"):
        with open("/proc/self/timens_offsets") as file:
            offset = next(int(line.split()[1]) for line in file if line.startswith("boottime"))
    return ["unshare", "-T", "--fork", "--kill-child", "--boottime", str(offset + int(seconds))]
