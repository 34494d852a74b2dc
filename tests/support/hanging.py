"""File systems that do not answer, as NFS does without its server."""

from __future__ import annotations

import sys

# FUSE: nobody answers the kernel's first request; or that one only (the wait for others cannot be
# interrupted, as on hard NFS mounts). autofs: its daemon never mounts what is asked for.
KINDS = ("fuse without a server", "fuse with a dead server", "autofs without a daemon")

_PROGRAM = """
import ctypes, os, struct, subprocess, sys, threading
kind, place, *command = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
assert libc.mount(b"none", b"/", None, 1 << 18 | 1 << 14, None) == 0  # MS_PRIVATE | MS_REC
if kind == "autofs without a daemon":
    ours, its = os.pipe()
    options = f"fd={its},pgrp={os.getpgrp()},minproto=5,maxproto=5,indirect"
    os.setpgid(0, 0)  # what is of the daemon's own process group does not wait
    type_ = b"autofs"
else:
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other"
    type_ = b"fuse"
if libc.mount(b"none", os.fsencode(place), type_, 0, options.encode()):
    sys.exit(f"{kind}: {os.strerror(ctypes.get_errno())}")
if kind == "fuse with a dead server":
    def serve():
        request = os.read(fuse, 1 << 17)
        unique = struct.unpack_from("=Q", request, 8)[0]
        answer = struct.pack("=IIIIHHI", 7, 31, 65536, 0, 12, 10, 65536).ljust(64, b"\\0")
        os.write(fuse, struct.pack("=IiQ", 16 + len(answer), 0, unique) + answer)
        while True:
            os.read(fuse, 1 << 17)
    threading.Thread(target=serve, daemon=True).start()
check = subprocess.Popen(command)
if kind == "fuse with a dead server":
    # Nothing ends a process that waits for such a server; that it has printed has to do.
    os.close(1)
try:
    code = check.wait(20)
except subprocess.TimeoutExpired:
    check.kill()
    code = 99
os._exit(code)
"""


def hanging(kind: str, place: object) -> list[str]:
    """Return a prefix that runs a command where a folder is a file system that does not answer."""
    return [sys.executable, "-c", _PROGRAM, kind, str(place)]
