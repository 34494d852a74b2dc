"""Messages of rtnetlink(7) about addresses."""

from __future__ import annotations

import struct


def address_message(address, scope=0, local=b""):
    """Return a message RTM_NEWADDR."""
    body = struct.pack("=BBBBI", 2 if len(address) == 4 else 10, 24, 0, scope, 1)
    for kind, value in ((1, address), (2, local)):
        if value:
            body += struct.pack("=HH", 4 + len(value), kind) + value
    return struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 0) + body
