"""Addresses and networks of both families: from text to packed bytes, and what they have in common.

An address is 4 or 16 bytes; a network is its first address and the length of its prefix.
"""

from __future__ import annotations

import socket

from .namedtuple import NamedTuple

_MAPPED = bytes(10) + b"\xff\xff"  # an IPv4 address in IPv6 sockets, never in a packet


class Network(NamedTuple):
    """Addresses that share a prefix: packed, host bits cleared, and the prefix length in bits."""

    address: bytes
    prefix: int

    def mask(self) -> bytes:
        """Return the prefix as a packed mask."""
        return prefix_mask(self.prefix, len(self.address))

    def holds(self, address: bytes) -> bool:
        """Return whether the packed address is one of them."""
        return len(address) == len(self.address) and all(
            have & bits == want for have, bits, want in zip(address, self.mask(), self.address)
        )

    def overlaps(self, other: Network) -> bool:
        """Return whether an address is in both."""
        wide, narrow = (self, other) if self.prefix <= other.prefix else (other, self)
        return wide.holds(narrow.address)


def prefix_mask(prefix: int, size: int) -> bytes:
    """Return a mask of `prefix` one bits in `size` bytes."""
    whole = (1 << 8 * size) - 1
    return (whole ^ (whole >> prefix)).to_bytes(size, "big")


def packed_address(text: str) -> bytes:
    """Return an address of either family, packed; raises ValueError where the text is none."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        raise ValueError(f"invalid address {text!r}") from None


def network(text: str) -> Network:
    """Return `10.0.0.0/8`, `2001:db8::/32` or one address as a Network; raises ValueError.

    Host bits are cleared in silence: 10.1.2.3/8 means 10.0.0.0/8.
    """
    address_text, slash, prefix_text = text.partition("/")
    address = packed_address(address_text)
    bits = 8 * len(address)
    prefix = bits
    if slash:
        if not (prefix_text.isascii() and prefix_text.isdigit()) or int(prefix_text) > bits:
            raise ValueError(f"invalid prefix length {prefix_text!r} (0 to {bits})")
        prefix = int(prefix_text)
    if len(address) == 16 and address.startswith(_MAPPED) and prefix >= 8 * len(_MAPPED):
        mapped = socket.inet_ntoa(address[len(_MAPPED) :])
        raise ValueError(f"invalid address {text!r} (write {mapped})")
    mask = prefix_mask(prefix, len(address))
    return Network(bytes(have & keep for have, keep in zip(address, mask)), prefix)


def is_private(address: bytes) -> bool:
    """Return whether an address is of networks that are nobody's on the Internet.

    RFC 1918, RFC 6598 (between a provider and its customers), RFC 3927, RFC 4193 and fe80::/10.
    """
    first, second = address[0], address[1]
    if len(address) != 4:
        return first & 0xFE == 0xFC or (first == 0xFE and second & 0xC0 == 0x80)
    return (
        first == 10
        or (first == 172 and second & 0xF0 == 16)
        or (first, second) in ((192, 168), (169, 254))
        or (first == 100 and second & 0xC0 == 64)
    )


def is_reserved(address: bytes) -> bool:
    """Return whether nobody has an address: 240.0.0.0/4, and 6000:: to fbff:: (RFC 4291)."""
    return address[0] >= 0xF0 if len(address) == 4 else 0x60 <= address[0] < 0xFC


def is_for_all(address: bytes) -> bool:
    """Return whether an address is multicast (224.0.0.0/4, ff00::/8) or 255.255.255.255."""
    if len(address) != 4:
        return address[0] == 0xFF
    return address[0] & 0xF0 == 0xE0 or address == b"\xff" * 4
