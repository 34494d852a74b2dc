"""The addresses of a namespace itself: nobody is told to shut himself out."""

from __future__ import annotations

import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel import own_addresses
from check_conntrack.kernel.own_addresses import NOT_KNOWN, OwnAddresses, holds_any
from check_conntrack.kernel.owners import Owner, Ownership
from check_conntrack.kernel.reader_client import Frame
from support.addresses import address_message

V4, V6 = socket.inet_aton("192.0.2.7"), socket.inet_pton(socket.AF_INET6, "2001:db8::7")
LINK = socket.inet_pton(socket.AF_INET6, "fe80::7")


@pytest.mark.parametrize("text", ["127.0.0.1", "127.8.9.9", "127.0.0.0/24", "::1", "::/64"])
def test_loopback_is_always_own(text):
    assert NOT_KNOWN.include(text)


@pytest.mark.parametrize("text", ["192.0.2.7", "192.0.2.0/24", "2001:db8::7", "2001:db8::/64"])
def test_own_addresses_and_the_networks_that_hold_one_are_own(text):
    assert OwnAddresses(frozenset((V4, V6)), known=True).include(text)
    assert not NOT_KNOWN.include(text)


@pytest.mark.parametrize("text", ["192.0.2.8", "192.0.3.0/24", "2001:db8::8", "2001:db8:1::/64"])
def test_other_addresses_and_networks_are_not_own(text):
    assert not OwnAddresses(frozenset((V4, V6)), known=True).include(text)


def test_gateway_is_found_in_its_network():
    gateways = {"192.0.2.1", "fe80::1"}
    assert holds_any("192.0.2.1", gateways)
    assert holds_any("192.0.2.0/24", gateways)
    assert not holds_any("192.0.3.0/24", gateways)


@given(st.text(max_size=20))
def test_any_text_is_own_or_not(text):
    assert OwnAddresses(frozenset((V4,)), known=True).include(text) in (True, False)


def test_answer_of_the_reader_tells_all_addresses():
    dump = address_message(V4) + address_message(LINK, scope=253)
    answer = [Frame(0, errno.ENOENT, "pods", "", b""), Frame(7, 0, "addresses", "/r", dump)]
    assert own_addresses.read_answer(answer) == OwnAddresses(frozenset((V4, LINK)), known=True)
    refused = [Frame(0, errno.EPERM, "-", "/r", b"")]
    assert own_addresses.read_answer(refused) == NOT_KNOWN


def test_owners_of_addresses_tell_those_of_a_namespace():
    ownership = Ownership({7: Owner("pod", "a/x")}, {V4: (3, 7), V6: (3,)})
    assert own_addresses.of_namespace(ownership, 7) == OwnAddresses(frozenset((V4,)), known=True)
    assert own_addresses.of_namespace(ownership, 8) == NOT_KNOWN


def test_snapshot_tells_the_addresses_of_its_host():
    owners = {V4: (Owner("itself", "host"),), V6: (Owner("pod", "a/x"),)}
    assert own_addresses.of_file(owners) == OwnAddresses(frozenset((V4,)), known=True)
    assert own_addresses.of_file({}) == NOT_KNOWN


def test_addresses_of_this_namespace_need_no_privilege():
    assert own_addresses.of_this_namespace().known
