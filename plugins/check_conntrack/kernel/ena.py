"""EC2's own limit of tracked connections, as the interfaces of an instance tell it.

EC2 tracks the connections of security groups outside the instance, at a limit that goes with the
instance type. The driver of the Elastic Network Adapter (drivers/net/ethernet/amazon/ena in the
kernel, ena_ethtool.c) passes on what the device says: refusals since its version 2.2.10, and what
is left of the limit since 2.8.1, on the Nitro hypervisor only.
"""

from __future__ import annotations

import os

from .limits import ENA_DEVICES
from .namedtuple import NamedTuple
from .source import KernelError, read_file

DRIVER = "ena"
PRODUCT = "/sys/class/dmi/id/product_name"
AVAILABLE = "conntrack_allowance_available"
REFUSED = "conntrack_allowance_exceeded"
LINKLOCAL = "linklocal_allowance_exceeded"
ALLOWANCES = (
    *("bw_in_allowance_exceeded", "bw_out_allowance_exceeded", "pps_allowance_exceeded"),
    *(REFUSED, LINKLOCAL, AVAILABLE),
)
"""In the order of the driver."""


class Allowance(NamedTuple):
    """The statistics of one interface. None: the driver or the device does not have it.

    available: connections that the instance may still track.
    refused: packets refused because that was 0, since the driver was reset.
    linklocal: packets to the DNS, metadata and time services refused because there were too many
    in a second, since the driver was reset.
    """

    interface: str
    available: int | None = None
    refused: int | None = None
    linklocal: int | None = None


class Instance(NamedTuple):
    """The allowances of an EC2 instance's interfaces in this network namespace.

    allowances: of each interface; all None where they could not be read.
    problems: why they could not be read, as sentences.
    """

    allowances: tuple[Allowance, ...] = ()
    problems: tuple[str, ...] = ()


def read() -> Instance | None:
    """Return what the interfaces with this driver say; None where there are none.

    sysfs lists them. It may be that of another network namespace, so each name is checked.
    """
    try:
        devices = os.listdir(ENA_DEVICES)
    except OSError:
        return None
    names: set[str] = set()
    for device in devices:
        if ":" in device:
            try:
                names.update(os.listdir(f"{ENA_DEVICES}/{device}/net"))
            except OSError:
                continue
    return _read(sorted(names)) if names else None


def _read(interfaces: list[str]) -> Instance | None:
    import socket

    from . import ethtool

    allowances, problems = [], []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        for interface in interfaces:
            try:
                if ethtool.driver(link, interface) != DRIVER:
                    continue
            except KernelError:
                continue
            try:
                allowances.append(allowance_of(interface, ethtool.statistics(link, interface)))
            except KernelError as error:
                problems.append(str(error))
                allowances.append(Allowance(interface))
    return Instance(tuple(allowances), tuple(problems)) if allowances else None


def allowance_of(interface: str, statistics: dict[str, int]) -> Allowance:
    """Return what the statistics of an interface say; raises KernelError for no answer.

    Where the device does not answer, the driver passes on zeros. A device that answers has
    connections left, or has refused some.
    """
    if AVAILABLE in statistics and not any(statistics.get(name) for name in ALLOWANCES):
        raise KernelError(f"{interface}: the device did not answer its driver")
    return Allowance(
        interface, statistics.get(AVAILABLE), statistics.get(REFUSED), statistics.get(LINKLOCAL)
    )


def instance_type() -> str:
    """Return the type of this instance, such as m5.large; empty where nothing tells it.

    On the Nitro hypervisor it is the name of the product in the DMI table, which everybody may
    read.
    """
    return read_file(PRODUCT, 100).data.strip().decode("ascii", "replace")
