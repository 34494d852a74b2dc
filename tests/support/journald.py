"""A real journal of this machine's ring buffer."""

from __future__ import annotations

import os
import subprocess

PROGRAM = "/lib/systemd/systemd-journald"

_JOURNALD = """
mount -t tmpfs none /run && mkdir -p /var/log/journal && mount -t tmpfs none /var/log/journal
mkdir -p /run/systemd /etc/systemd && mount -t tmpfs none /etc/systemd
printf '[Journal]\\nStorage=volatile\\nAudit=no\\n' > /etc/systemd/journald.conf
if test -n "$3"; then
    echo "$3" > /run/boot_id && mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
fi
"$1" & journald=$!
sleep 2
kill $journald; wait $journald
cp -r /run/log/journal/. "$2"/
"""


def journal(folder: str, boot: str = "") -> None:
    """Have systemd-journald read the ring buffer into a journal in the folder, as of a boot."""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", _JOURNALD, "sh", PROGRAM, folder, boot],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert any(files for _, _, files in os.walk(folder)), done.stderr
