"""Read the table with conntrack(8): start it with privileges, let it run when its output is wanted.

It asks the kernel by itself, so it needs the privileges of the reader, or file capabilities.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

from .source import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import IO

# Looked for here, and not along a PATH that somebody else may have set.
CONNTRACK_PATHS = ("/usr/sbin/conntrack", "/sbin/conntrack", "/usr/bin/conntrack")
ARGUMENTS = ("-L", "-o", "extended")
# It calls itself by name and version before whatever it says, a failure too (conntrack.c).
_NAME = re.compile(r"conntrack v\S+(?: \(conntrack-tools\))?: ")
_COUNT = "flow entries have been shown."


class Conntrack:
    """The program behind a gate: nothing is asked of the kernel before `listing` is called.

    Use it as a context manager: no child is left when it ends. Raises KernelError where the
    program is not installed.
    """

    def __init__(self) -> None:
        import subprocess

        program = next((path for path in CONNTRACK_PATHS if os.access(path, os.X_OK)), None)
        if program is None:
            raise KernelError("conntrack(8) is not installed")
        gate = ["/bin/sh", "-c", 'read -r go && exec "$0" "$@"', program, *ARGUMENTS]
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(  # nosec B603 # noqa: S603 - fixed words
                gate,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            )
        except OSError as error:
            raise KernelError(f"{program} cannot be started: {error.strerror}") from None

    def __enter__(self) -> Conntrack:
        return self

    def __exit__(self, *_: object) -> None:
        import subprocess

        process = self._process
        for pipe in (process.stdin, process.stdout, process.stderr):
            with suppress(OSError):
                if pipe:
                    pipe.close()
        with suppress(OSError, subprocess.TimeoutExpired):
            process.wait(0.2)
        if process.poll() is None:
            # It may run as root and we not: then the closed pipes are what ends it.
            with suppress(OSError):
                process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)

    def listing(self) -> IO[bytes]:
        """Return its output; end with `finish`.

        Raises KernelError where it would make the kernel load a module.
        """
        from . import reader

        try:
            reader.require_ctnetlink()
        except OSError:
            raise KernelError(
                "nf_conntrack_netlink: not loaded (as root: modprobe nf_conntrack_netlink)"
            ) from None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin  # noqa: S101 - they were asked for
        assert stdout  # noqa: S101
        with suppress(BrokenPipeError):
            stdin.write(b"go\n")
            stdin.close()
        return stdout

    def finish(self) -> None:
        """Wait for its end; raises KernelError with its own words where it failed."""
        stderr = self._process.stderr
        assert stderr  # noqa: S101
        lines = stderr.read(4096).decode("ascii", "replace").split("\n")
        if self._process.wait() != 0:
            said = [_NAME.sub("", line.strip(), 1) for line in lines]
            reason = next((words for words in said if words and not words.endswith(_COUNT)), "")
            raise KernelError(reason or "it failed and said nothing")
