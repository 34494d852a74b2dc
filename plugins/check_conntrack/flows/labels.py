"""Name protocols, services, addresses and source-NAT pools for people."""

from __future__ import annotations

from .entry import PROTOCOL_NAMES, address_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .nat_pools import Pool

# Names of /etc/protocols that conntrack(8) takes and does not print.
_OTHER_NAMES = {2: "igmp", 4: "ipip", 41: "ipv6", 50: "esp", 51: "ah", 89: "ospf", 112: "vrrp"}


def protocol_label(protocol: int) -> str:
    """Return a protocol's name, or its number in words."""
    name = PROTOCOL_NAMES.get(protocol) or _OTHER_NAMES.get(protocol)
    return name or f"protocol {protocol}"


def service_label(protocol: int, port: int) -> str:
    """Return a service as in tcp/443."""
    label = protocol_label(protocol)
    return f"{label}/{port}" if port else label


def address_label(address: bytes, bits: int, zone: int) -> str:
    """Return a packed address or network, with its zone."""
    text = address_text(address)
    if bits < 8 * len(address):
        text += f"/{bits}"
    return f"{text} in zone {zone}" if zone else text


def pool_label(pool: Pool) -> str:
    """Return a source-NAT pool as a top list prints it."""
    target, translated = address_text(pool.target), address_text(pool.translated)
    if len(pool.target) == 16:
        target = f"[{target}]"
    ports = f" ports {pool.first}-{pool.last}" if pool.restricted else ""
    where = f" in zone {pool.zone}" if pool.zone else ""
    return f"{protocol_label(pool.protocol)} {translated}{ports} to {target}:{pool.port}{where}"
