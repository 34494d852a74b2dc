from __future__ import annotations

import pytest

from check_conntrack.flows import match, netlink
from check_conntrack.kernel import ctnetlink as ct
from check_conntrack.kernel import networks
from check_conntrack.kernel.netlink import NLMSGHDR, attributes
from support import flows_dump as dump


def entry(*arguments, **named):
    return netlink.entry_at(dump.entry(*arguments, **named))


TRANSLATED = entry(
    bytes((10, 0, 0, 5)),
    bytes((198, 51, 100, 7)),
    6,
    40000,
    443,
    state=3,
    reply=(bytes((198, 51, 100, 7)), bytes((203, 0, 113, 1)), 443, 2000),
)


@pytest.mark.parametrize(
    ("address", "inbound", "outbound"),
    [
        ("10.0.0.5", False, True),
        ("203.0.113.0/24", False, True),
        ("198.51.100.7", True, False),
        ("0.0.0.0/0", True, True),
    ],
)
def test_match_finds_an_address_in_any_position_with_its_direction(address, inbound, outbound):
    wanted = match.parse([address])
    assert wanted.accepts(TRANSLATED)
    assert wanted.directions(TRANSLATED) == (inbound, outbound)


@pytest.mark.parametrize("address", ["10.0.0.4", "10.0.0.6/31", "2001:db8::/32", "::/0"])
def test_match_refuses_another_address(address):
    assert not match.parse([address]).accepts(TRANSLATED)


def test_match_needs_one_value_of_every_part():
    assert match.parse(["10.0.0.5", "1.2.3.4"], ["tcp", "udp"], ["established"], [443]).accepts(
        TRANSLATED
    )
    assert not match.parse(["10.0.0.5"], ["udp"]).accepts(TRANSLATED)
    assert not match.parse(states=["TIME_WAIT"]).accepts(TRANSLATED)


@pytest.mark.parametrize(("port", "kept"), [(443, True), (40000, True), (2000, True), (80, False)])
def test_match_finds_a_port_in_either_tuple(port, kept):
    assert match.parse(ports=[port]).accepts(TRANSLATED) is kept


def test_match_takes_no_gre_key_for_a_port():
    assert not match.parse(ports=[443]).accepts(entry(protocol=47))


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        ({"zone": 5}, True),
        ({"zones": (5, None)}, True),
        ({"zones": (None, 5)}, True),
        ({"zone": 6}, False),
        ({}, False),
    ],
)
def test_match_finds_a_zone_in_either_direction(named, kept):
    assert match.parse(zones=[5]).accepts(entry(**named)) is kept
    assert match.parse(zones=[5, 0]).accepts(entry(**named)) is (kept or not named)


@pytest.mark.parametrize(
    ("text", "kept"),
    [("7", True), ("0x7", True), ("6/6", True), ("1/0x9", True), ("6", False), ("0/1", False)],
)
def test_match_compares_the_bits_of_a_mark(text, kept):
    marked = entry(more=[dump.packed(ct.CTA_MARK, 7, 4)])
    assert match.parse(marks=[text]).accepts(marked) is kept


def test_match_takes_an_entry_without_a_mark_for_mark_0():
    assert match.parse(marks=["0"]).accepts(entry())
    assert not match.parse(marks=["1"]).accepts(entry())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "VALUE"),
        ("-1", "VALUE"),
        ("1_0", "VALUE"),
        ("x", "VALUE"),
        ("1/", "VALUE"),
        ("\u00b2", "VALUE"),
        ("0x100000000", "32 bits"),
        ("3/1", "the mask leaves out"),
    ],
)
def test_mark_refuses_other_text(text, why):
    with pytest.raises(ValueError, match=why):
        match.mark(text)


def test_network_clears_host_bits():
    assert networks.network("10.1.2.3/8") == networks.Network(bytes((10, 0, 0, 0)), 8)


@pytest.mark.parametrize(
    "text", ["", "10.0.0", "10.0.0.1/33", "10.0.0.1/", "10.0.0.1/-1", "::/129", "a.b", "1.2.3.4/²"]
)
def test_network_refuses_other_text(text):
    with pytest.raises(ValueError, match=r"invalid (address|prefix length)"):
        networks.network(text)


def test_unknown_protocols_and_states_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="tcp"):
        match.protocol_number("tpc")
    with pytest.raises(ValueError, match="SYN_SENT"):
        match.state_numbers("SYNSENT")
    assert match.protocol_number("6") == match.protocol_number("TCP") == 6


def test_kernel_filters_of_an_address_are_four_of_a_network_none():
    filters = match.kernel_filters(match.parse(["10.0.0.5"]))
    assert [narrowed.only for _, narrowed in filters] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert filters[2][0].reply == ct.TupleFilter(source=bytes((10, 0, 0, 5)))
    assert match.kernel_filters(match.parse(["10.0.0.0/8", "::1"])) == []
    assert match.kernel_filters(match.Match()) == []


def test_kernel_filters_of_ipv6_are_by_family_alone():
    for address, family in (("2001:db8::1", 10), ("10.0.0.0/8", 2)):
        wanted = match.parse([address])
        assert match.kernel_filters(wanted) == [(ct.KernelFilter(family), wanted)]


def test_kernel_filters_of_one_protocol_are_one_a_family():
    filters = match.kernel_filters(match.parse(protocols=["udp"]))
    assert [(kernel.family, kernel.original) for kernel, _ in filters] == [
        (2, ct.TupleFilter(protocol=17)),
        (10, ct.TupleFilter(protocol=17)),
    ]


def test_kernel_filters_of_one_zone_or_mark_narrow_every_dump():
    wanted = match.parse(zones=[5], marks=["0x10/0xf0"])
    common = ct.KernelFilter(zone=5, mark=(0x10, 0xF0))
    assert match.kernel_filters(wanted) == [(common, wanted)]
    filters = match.kernel_filters(match.parse(["10.0.0.5"], zones=[5]))
    assert [kernel.zone for kernel, _ in filters] == [5] * 4
    for zones in ([0], [5, 6]):
        assert match.kernel_filters(match.parse(zones=zones)) == []


def test_dump_request_has_zone_and_mark_as_the_kernel_takes_them():
    request = ct.dump_request(1, ct.KernelFilter(zone=5, mark=(0x10, 0xF0)))
    found = {kind: request[start:end] for kind, start, end in netlink_attributes(request)}
    assert found == {
        ct.CTA_ZONE: b"\0\5",
        ct.CTA_MARK: b"\0\0\0\x10",
        ct.CTA_MARK_MASK: b"\0\0\0\xf0",
    }


def netlink_attributes(request):
    return attributes(request, NLMSGHDR.size + ct.NFGENMSG.size, len(request))


def test_dump_request_is_a_dump_of_ctnetlink():
    size, kind, flags, sequence, _ = NLMSGHDR.unpack_from(ct.dump_request(7))
    assert (size, kind, flags, sequence) == (20, 0x101, 0x301, 7)


def test_dump_request_that_the_kernel_would_refuse_is_not_built():
    with pytest.raises(ValueError, match="family"):
        ct.dump_request(1, ct.KernelFilter(original=ct.TupleFilter(source=bytes(4))))


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"protocols": ["icmp"], "ports": [53]}, "no flow of protocol icmp can have this port"),
        ({"protocols": ["254", "gre"], "ports": [1]}, "protocol gre, 254 can have this port"),
        ({"protocols": ["udp"], "states": ["ESTABLISHED"]}, "udp can have this state"),
        ({"protocols": ["sctp"], "states": ["TIME_WAIT"]}, "sctp can have this state"),
        ({"protocols": ["icmp"], "addresses": ["::1"]}, "icmp can have this address"),
        ({"protocols": ["icmpv6"], "addresses": ["10.0.0.0/8"]}, "icmpv6 can have this address"),
        (
            {"protocols": ["udp"], "states": ["close"], "ports": [1]},
            "can have this state and this port",
        ),
    ],
)
def test_filter_that_can_match_nothing_is_a_contradiction(parts, why):
    assert why in match.contradiction(match.parse(**parts))


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"protocols": ["icmp", "tcp"], "ports": [53]},
        {"protocols": ["udp", "tcp"], "states": ["ESTABLISHED"], "ports": [1]},
        {"protocols": ["icmp"], "addresses": ["::1", "10.0.0.1"]},
        {"protocols": ["sctp"], "states": ["ESTABLISHED"]},
        {"addresses": ["::/0"], "ports": [53]},
        {"addresses": ["::/80"]},
    ],
)
def test_filter_that_can_match_a_flow_is_no_contradiction(parts):
    assert match.contradiction(match.parse(**parts)) == ""


@pytest.mark.parametrize(
    ("text", "instead"), [("::ffff:10.0.0.1", "10.0.0.1"), ("::ffff:0:0/96", "0.0.0.0")]
)
def test_mapped_address_is_refused(text, instead):
    with pytest.raises(ValueError, match=rf"invalid address .* \(write {instead}\)"):
        networks.network(text)
