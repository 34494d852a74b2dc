"""Call the addresses of a table by their owners: those of a live host, or those in a file."""

from __future__ import annotations

import collections

from .. import render
from ..advice import owner_words
from ..kernel import limits
from ..kernel.limits import OWN
from ..kernel.networks import packed_address
from ..kernel.owners import HERE, HOST, Owner, Ownership

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Union

    from ..advice.table_profile import TopItem
    from ..flows.heavy_hitters import HeavyHitters
    from ..flows.tally import Tally, Top
    from ..kernel.namespaces import Namespace
    from ..kernel.socket_owners import Holder

    FindHolder = Callable[[str, str, int, bool], Union[Holder, None]]


class Names:
    """The owners of addresses, as one table sees them.

    owners: by packed address; several where each of them may be meant.
    problem: why some are missing; empty where none are.
    evidence: sentences on whose sockets an address of this host was named after.
    """

    def __init__(
        self,
        owners: Mapping[bytes, tuple[Owner, ...]] | None = None,
        problem: str = "",
        find_holder: FindHolder | None = None,
    ) -> None:
        self.owners = owners or {}
        self.problem = problem
        self.evidence: list[str] = []
        self._find_holder = find_holder
        self._held: dict[tuple[str, str, int, bool], str] = {}

    def of(self, item: TopItem, service: TopItem, *, own: bool, server: bool) -> str:
        """Return what owns the address of an item, in short; empty if that is not known.

        service: the protocol and the port that most of its entries go to. own: the address is the
        host's own; then its sockets tell which unit or container it is. server: it has that port.
        """
        if not item.address:
            return ""
        held = self._holder(item.address, service, server) if own else ""
        return held or self._words(item.address, owner_words.short)

    def _holder(self, address: str, service: TopItem, server: bool) -> str:
        key = (address, service.protocol, service.port, server)
        if key not in self._held:
            found = self._find_holder(*key) if self._find_holder else None
            self._held[key] = owner_words.short(found.owner) if found else ""
            if found:
                where = "on" if server else "to"
                self.evidence.append(
                    f"{owner_words.full(found.owner)}, holds {found.sockets} of "
                    f"{render.plural(found.of, 'socket')} of {address} {where} {service.name}"
                )
        return self._held[key]

    def called(self, name: str) -> str:
        """Return the name of a line in a top list, with all that is known of its owner."""
        words = self._words(name.partition(" ")[0], owner_words.full)
        return f"{name} ({words})" if words else name

    def _words(self, address: str, words: Callable[[Owner], str]) -> str:
        try:
            found = self.owners.get(packed_address(address), ())
        except ValueError:
            return ""  # a network
        return owner_words.any_of([words(owner) for owner in found])

    def tops(
        self, tally: Tally, addresses: HeavyHitters, number: int, total: int | None
    ) -> list[Top]:
        """Return the owners with the most entries, of those whose addresses were counted.

        Addresses without an owner, and with several, are left out.
        """
        counts: collections.Counter[str] = collections.Counter()
        for key, count in addresses.counts.items() if self.owners else ():
            address, bits, _ = tally.address_of(key)
            owners = self.owners.get(address, ()) if bits == 8 * len(address) else ()
            if len(owners) == 1:
                counts[owner_words.full(owners[0])] += count
        return tally.tops(counts, number, total)


def seen_from(
    ownership: Ownership, namespace: Namespace, problem: str, time_is_up: Callable[[], bool]
) -> Names:
    """Return the names of all addresses that are known, as a namespace's table sees them."""
    owners = dict(_resolved(ownership, namespace))
    if namespace.path != OWN:
        return Names(owners, problem)

    def find_holder(address: str, protocol: str, port: int, server: bool) -> Holder | None:
        from ..kernel import socket_owners

        if time_is_up():
            return None
        packed = packed_address(address)
        return socket_owners.holder(packed, protocol, port, ownership.pods, server=server)

    return Names(owners, problem, find_holder)


def _resolved(
    ownership: Ownership, namespace: Namespace
) -> Iterator[tuple[bytes, tuple[Owner, ...]]]:
    is_host = namespace.path == OWN and limits.may_set_limits()
    for address in ownership.addresses:
        owners = ownership.of(address, namespace.inode)
        if owners and owners[0].kind == HERE and is_host:
            owners = (Owner(HOST),)
        if owners:
            yield address, owners
