"""Interfaces of an EC2 instance that a test makes up: the kernel's side of the ethtool ioctl."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from check_conntrack.kernel import ena, ethtool, limits

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

# As drivers/net/ethernet/amazon/ena/ena_ethtool.c has them, for one queue.
GLOBAL = [
    "tx_timeout",
    "suspend",
    "resume",
    "wd_expired",
    "interface_up",
    "interface_down",
    "admin_q_pause",
]
QUEUE = ["queue_0_tx_cnt", "queue_0_tx_bytes", "queue_0_rx_cnt", "queue_0_rx_bytes"]
ADMIN = ["ena_admin_q_aborted_cmd", "ena_admin_q_submitted_cmd", "ena_admin_q_completed_cmd"]


class Interface:
    """An interface; `allowances` are what its device says, by the driver's names."""

    def __init__(self, driver: str = "ena", **allowances: int) -> None:
        self.driver = driver
        self.allowances = dict.fromkeys(ena.ALLOWANCES, 0)
        self.allowances.update(allowances)
        self.answers = True

    def old_driver(self) -> None:
        """Have a driver that does not know how much of the limit is left."""
        del self.allowances[ena.AVAILABLE]

    def sets(self, *, available: int | None = None, refused: int = 0, linklocal: int = 0) -> None:
        """Set what the device says."""
        self.allowances[ena.REFUSED] = refused
        self.allowances[ena.LINKLOCAL] = linklocal
        if available is not None:
            self.allowances[ena.AVAILABLE] = available

    def statistics(self) -> list[tuple[str, int]]:
        """Return what the driver says; zeros for a device that does not answer."""
        told = [(name, value * self.answers) for name, value in self.allowances.items()]
        others = [(name, 7) for name in (*GLOBAL, *QUEUE, *ADMIN)]
        return [*others[: len(GLOBAL)], *told, *others[len(GLOBAL) :]]


class Instance:
    """An EC2 instance: its interfaces by name, and its type."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.interfaces: dict[str, Interface] = {}
        self.folder = folder / "drivers-ena"
        self.product = folder / "product_name"
        self.product.write_text("m5.large\n")
        (self.folder / "module").mkdir(parents=True)
        (self.folder / "bind").touch()
        for module in (limits, ena):
            monkeypatch.setattr(module, "ENA_DEVICES", str(self.folder))
        monkeypatch.setattr(ena, "PRODUCT", str(self.product))
        monkeypatch.setattr(fcntl, "ioctl", self._ioctl)

    def add(self, name: str = "eth0", driver: str = "ena", **allowances: int) -> Interface:
        """Add an interface."""
        number = len(self.interfaces) + 5
        (self.folder / f"0000:00:{number:02x}.0" / "net" / name).mkdir(parents=True)
        self.interfaces[name] = Interface(driver, **allowances)
        return self.interfaces[name]

    def _ioctl(self, _: object, request: int, argument: bytes) -> int:
        assert request == ethtool.SIOCETHTOOL
        name, address = struct.unpack_from("16sP", argument)
        interface = self.interfaces.get(name.rstrip(b"\0").decode())
        if interface is None:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        command = struct.unpack("=I", ctypes.string_at(address, 4))[0]
        answer = self._answer(interface, command)
        ctypes.memmove(address, answer, len(answer))
        return 0

    def _answer(self, interface: Interface, command: int) -> bytes:
        told = interface.statistics()
        if command == ethtool.ETHTOOL_GDRVINFO:
            return struct.pack("=I32s32s", command, interface.driver.encode(), b"6.1.0")
        if command == ethtool.ETHTOOL_GSSET_INFO:
            return struct.pack("=I4xQI", command, 2, len(told))
        if command == ethtool.ETHTOOL_GSTRINGS:
            names = b"".join(struct.pack("32s", name.encode()) for name, _ in told)
            return struct.pack("=III", command, 1, len(told)) + names
        assert command == ethtool.ETHTOOL_GSTATS
        values = [value for _, value in told]
        return struct.pack(f"=II{len(told)}Q", command, len(told), *values)
