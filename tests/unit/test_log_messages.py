"""The kernel's wording."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel.log.messages import Kind, Message, parse_message

FULL = Message(Kind.TABLE_FULL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ip_conntrack: maximum limit of 8184 entries exceeded", FULL),
        ("ip_conntrack: table full, dropping packet.", FULL),
        ("nf_conntrack: table full, dropping packet.", FULL),
        ("nf_conntrack: table full, dropping packet", FULL),
        ("nf_conntrack: nf_conntrack: table full, dropping packet", FULL),
        (
            "nf_conntrack: nf_conntrack: table full in netns 4026532177, dropping packet",
            FULL._replace(netns=4026532177),
        ),
        (
            "nf_conntrack: table full in netns 4026532177, dropping packet",
            FULL._replace(netns=4026532177),
        ),
        ("nf_conntrack: expectation table full", Message(Kind.EXPECTATION_FULL)),
        ("nf_conntrack: nf_conntrack: expectation table full", Message(Kind.EXPECTATION_FULL)),
        ("openvswitch: zone: 7 exceeds conntrack limit", Message(Kind.ZONE_LIMIT, zone=7)),
        (
            "openvswitch: openvswitch: zone: 7 exceeds conntrack limit",
            Message(Kind.ZONE_LIMIT, zone=7),
        ),
        ("net_ratelimit: 1871 callbacks suppressed", Message(Kind.SUPPRESSED, 1871)),
        ("__ratelimit: 15 callbacks suppressed", Message(Kind.SUPPRESSED, 15)),
        ("__ratelimit: 1243 messages suppressed", Message(Kind.SUPPRESSED, 1243)),
        ("NET: 318 messages suppressed.", Message(Kind.SUPPRESSED, 318)),
        ("printk: 5 messages suppressed.", Message(Kind.SUPPRESSED, 5)),
        ("nf_conntrack: table full, dropping pack", FULL),
        ("nf_conntrack: table full", FULL),
        ("a\nnf_conntrack: table full, dropping packet\nb", FULL),
        ("NF_CONNTRACK: TABLE FULL, DROPPING PACKET", FULL),
        ("VE 101: nf_conntrack: table full, dropping packet", FULL),
        ("CT: 101: nf_conntrack: table full, dropping packet", FULL),
        ("ip_conntrack: VPS 101 table full, dropping packet.", FULL),
        ("ip_conntrack: CT 5f2a-11: table full, dropping packet.", FULL),
        ("net_ratelimit: 1871 callbacks suppresse", Message(Kind.SUPPRESSED, 1871)),
        ("__nf_conntrack_alloc: 12 callbacks suppressed", Message(Kind.SUPPRESSED, 12)),
        ("nf_conntrack: table full, dropping packet\r\n", FULL),
    ],
)
def test_message_in_every_spelling_of_kernels_is_parsed(text, message):
    assert parse_message(text) == message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "table full, dropping packet",
        "x nf_conntrack: table full, dropping packet",
        "nf_conntrack: table full, dropping packet, says grep",
        "nf_conntrack: table full in netns x, dropping packet",
        'audit: comm="nf_conntrack: table full, dropping packet"',
        "nf_conntrack: table full, dropping pack of hounds",
        "neigh_probe: 12 callbacks suppressed",
        "nf_conntrack: default automatic helper assignment has been turned off",
        "message repeated 5 times: [ sshd: nf_conntrack: table full, dropping packet]",
        "message repeated 5 times: nf_conntrack: table full, dropping packet",
        "message repeated 0 times: [ nf_conntrack: table full, dropping packet]",
        "neighbour: arp_cache: neighbor table overflow!",
        "net_ratelimit: ٣ callbacks suppressed",
        "net_ratelimit: 99999999999999999999 callbacks suppressed",
    ],
)
def test_message_within_other_text_is_none(text):
    assert parse_message(text) is None


@given(st.text())
def test_message_of_any_text_is_parsed_or_none(text):
    assert parse_message(text) is None or isinstance(parse_message(text), Message)


@given(st.text(min_size=1).filter(lambda text: text.strip() and len(text.splitlines()) == 1))
def test_message_with_text_before_it_is_none(text):
    assert parse_message(text.rstrip() + " nf_conntrack: table full, dropping packet") is None or (
        set(text.split()) <= {"nf_conntrack:", "ip_conntrack:"}
    )


def test_message_parsing_is_linear_in_the_length():
    assert parse_message("nf_conntrack: " * 20000) is None
    assert parse_message("message repeated 3 times: [" + "[ 1.0] " * 20000) is None
