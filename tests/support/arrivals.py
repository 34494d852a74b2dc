"""New entries at a known rate, in a namespace to which all of 10.0.0.0/8 belongs."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.netns import Namespace

_SEND = """
import socket, struct, sys, time
kind, rate, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
if kind == "unanswered":
    link, data, port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), b"x", 9
else:
    link, port = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP), 0
    data = struct.pack(">BBHHH", 8, 0, 0xF7FE, 1, 0)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
started, sent = time.monotonic(), 0
print("sending", flush=True)
while (passed := time.monotonic() - started) < seconds:
    for number in range(sent, int(passed * rate)):
        target = f"10.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        try:
            link.sendto(data, (target, port))
        except OSError:
            pass
        sent += 1
    time.sleep(0.002)
"""


@contextlib.contextmanager
def arriving(
    namespace: Namespace, rate: float, kind: str = "unanswered", seconds: float = 110
) -> Iterator[None]:
    """Make so many new entries a second meanwhile.

    kind: "unanswered" for datagrams to a port that is closed, "answered" for echo requests.
    """
    command = namespace.command("python3", "-c", _SEND, kind, rate, seconds)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == b"sending\n"
            yield
        finally:
            process.kill()
