"""The statistics of interfaces over the ethtool ioctl, and EC2's allowances among them."""

from __future__ import annotations

import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel import ena, ethtool, limits
from check_conntrack.kernel.source import KernelError
from support.ena_device import Instance

# What kernel 6.18 answered for a veth.
DRVINFO = "0300000076657468" + "00" * 28 + "312e30002e34342d" + "00" * 152
SSET_INFO = "370000000000000002000000000000000a000000"
GSTRINGS = (
    "1b000000010000000a000000"
    "706565725f6966696e6465780000000000000000000000000000000000000000"
    "72785f71756575655f305f7864705f7061636b65747300000000000000000000"
    "72785f71756575655f305f7864705f6279746573000000000000000000000000"
)
GSTATS = "1d0000000a0000000200000000000000ff000000000000000000000000000080"


@pytest.fixture
def instance(tmp_path, monkeypatch):
    return Instance(tmp_path, monkeypatch)


@pytest.fixture
def link():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        yield opened


def test_ethtool_decodes_recorded_answers():
    assert ethtool.decode_driver(bytes.fromhex(DRVINFO)) == "veth"
    assert ethtool.decode_count(bytes.fromhex(SSET_INFO)) == 10
    assert ethtool.decode_names(bytes.fromhex(GSTRINGS)) == [
        "peer_ifindex",
        "rx_queue_0_xdp_packets",
        "rx_queue_0_xdp_bytes",
    ]
    assert ethtool.decode_values(bytes.fromhex(GSTATS)) == [2, 255, 1 << 63]


def test_ethtool_an_interface_without_statistics_has_none():
    assert ethtool.decode_count(bytes.fromhex("3700000000000000" + "00" * 12)) == 0


@given(st.binary(max_size=300))
def test_ethtool_decoders_take_any_bytes_after_the_header(data):
    names = ethtool.decode_names(data.ljust(12, b"\xff"))
    values = ethtool.decode_values(data.ljust(8, b"\xff"))
    assert len(names) <= len(data) // 32 + 1
    assert len(values) <= len(data) // 8 + 1
    assert all(text.isascii() and "\0" not in text for text in names)


def test_ethtool_reads_the_statistics_of_a_driver_by_name(instance, link):
    instance.add("ens5", conntrack_allowance_available=136812)
    assert ethtool.driver(link, "ens5") == "ena"
    statistics = ethtool.statistics(link, "ens5")
    assert statistics["conntrack_allowance_available"] == 136812
    assert statistics["tx_timeout"] == statistics["ena_admin_q_completed_cmd"] == 7


@pytest.mark.parametrize("name", ["", "a-name-of-16-char"])
def test_ethtool_refuses_what_is_no_name_of_an_interface(instance, link, name):
    instance.add("ens5")
    with pytest.raises(KernelError, match="not the name of an interface"):
        ethtool.driver(link, name)


def test_ethtool_statistics_that_change_between_names_and_values_are_refused(
    instance, link, monkeypatch
):
    instance.add("ens5")
    monkeypatch.setattr(ethtool, "decode_names", lambda reply: ["one"])
    with pytest.raises(KernelError, match="ens5: the statistics of its driver changed"):
        ethtool.statistics(link, "ens5")


def test_ena_reads_the_allowances_of_each_interface(instance):
    instance.add("eth1").sets(available=300, refused=7, linklocal=2)
    instance.add("eth0").sets(available=500)
    assert ena.read() == ena.Instance(
        (ena.Allowance("eth0", 500, 0, 0), ena.Allowance("eth1", 300, 7, 2))
    )


def test_ena_is_none_without_its_driver(tmp_path, monkeypatch):
    for module in (limits, ena):
        monkeypatch.setattr(module, "ENA_DEVICES", str(tmp_path / "none"))
    assert not limits.has_ena()
    assert ena.read() is None


def test_ena_is_none_for_a_driver_without_devices(instance):
    assert limits.has_ena()
    assert ena.read() is None


def test_ena_passes_over_a_name_that_is_another_interface_here(instance):
    # sysfs may be that of another network namespace.
    instance.add("eth0", driver="veth")
    del instance.add("eth1").allowances["conntrack_allowance_available"]
    instance.add("eth2")
    del instance.interfaces["eth2"]
    assert ena.read() == ena.Instance((ena.Allowance("eth1", None, 0, 0),))


def test_ena_a_device_that_does_not_answer_is_a_problem_and_no_zero(instance):
    device = instance.add("eth0")
    device.sets(available=500, refused=3)
    device.answers = False
    assert ena.read() == ena.Instance(
        (ena.Allowance("eth0"),), ("eth0: the device did not answer its driver",)
    )


def test_ena_a_limit_that_is_reached_is_no_silence(instance):
    instance.add("eth0").sets(available=0, refused=3)
    assert ena.read().allowances == (ena.Allowance("eth0", 0, 3, 0),)


def test_ena_takes_the_type_of_the_instance_from_the_product_name(instance):
    assert ena.instance_type() == "m5.large"
    instance.product.unlink()
    assert ena.instance_type() == ""


def test_ena_asks_nothing_but_statistics(instance, monkeypatch):
    instance.add("eth0")
    asked = []
    real = ethtool._ask

    def ask(link, interface, request, *room):
        assert link.type & socket.SOCK_DGRAM
        assert link.getsockname() == ("0.0.0.0", 0), "bound to nothing"
        asked.append(int.from_bytes(request[:4], sys.byteorder))
        return real(link, interface, request, *room)

    monkeypatch.setattr(ethtool, "_ask", ask)
    ena.read()
    gets = [ethtool.ETHTOOL_GDRVINFO, ethtool.ETHTOOL_GSSET_INFO]
    assert asked == [*gets, ethtool.ETHTOOL_GSTRINGS, ethtool.ETHTOOL_GSTATS]
