"""The addresses of a network namespace itself, so that no advice shuts it out.

Loopback addresses always are (RFC 1122, 3.2.1.3, and RFC 4291, 2.5.3).
"""

from __future__ import annotations

from . import rtnetlink
from .namedtuple import NamedTuple
from .networks import Network, network
from .owners import HERE, HOST, ITSELF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .owners import Owner, Ownership
    from .reader_client import Frame

_LOOPBACK = (Network(b"\x7f\0\0\0", 8), Network(b"\0" * 15 + b"\1", 128))


class OwnAddresses(NamedTuple):
    """The addresses of a network namespace.

    addresses: packed. known: whether these are all; else only loopback addresses are certain.
    """

    addresses: frozenset[bytes] = frozenset()
    known: bool = False

    def include(self, text: str) -> bool:
        """Return whether an address is among them, or a network holds one of them."""
        own = (Network(each, 8 * len(each)) for each in self.addresses)
        return _overlaps_any(text, [*_LOOPBACK, *own])


NOT_KNOWN = OwnAddresses()


def holds_any(text: str, addresses: Iterable[str]) -> bool:
    """Return whether an address is among others, or a network holds one of them."""
    return _overlaps_any(text, filter(None, map(_network, addresses)))


def _overlaps_any(text: str, others: Iterable[Network]) -> bool:
    one = _network(text)
    return one is not None and any(map(one.overlaps, others))


def _network(text: str) -> Network | None:
    """Return an address or a network; None for other texts."""
    try:
        return network(text)
    except ValueError:
        return None


def of_this_namespace() -> OwnAddresses:
    """Return the addresses of the namespace of this process. Needs no privilege."""
    dump = rtnetlink.read_addresses()
    return OwnAddresses(frozenset(rtnetlink.all_addresses(dump)), bool(dump))


def request(path: bytes) -> list[bytes]:
    """Return the request for the addresses of a namespace (grammar: reader.py)."""
    return [b"owners", path]


def read_answer(frames: Iterable[Frame]) -> OwnAddresses:
    """Return the addresses that the reader's answer to `request` shows."""
    for frame in frames:
        if frame.file == "addresses" and not frame.errno:
            return OwnAddresses(frozenset(rtnetlink.all_addresses(frame.data)), known=True)
    return NOT_KNOWN


def of_namespace(ownership: Ownership, inode: int) -> OwnAddresses:
    """Return the addresses of a namespace, if the owners of addresses were read for it."""
    found = frozenset(address for address, inodes in ownership.addresses.items() if inode in inodes)
    return OwnAddresses(found, known=bool(found))


def of_file(owners: Mapping[bytes, Sequence[Owner]]) -> OwnAddresses:
    """Return the addresses of the host or namespace that a snapshot was made in."""
    own = frozenset((HERE, HOST, ITSELF))
    found = frozenset(
        address
        for address, several in owners.items()
        if any(owner.kind in own for owner in several)
    )
    return OwnAddresses(found, known=bool(found))
