"""NamedTuples as JSON and back: what was written comes back, damage is nothing."""

from __future__ import annotations

import enum
import json
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from check_conntrack.kernel.namedtuple import NamedTuple
from check_conntrack.state.codec import decode, decode_each, encode
from support.json_values import JSON


class Color(enum.Enum):
    RED = "red"


class Part(NamedTuple):
    count: int
    color: Color = Color.RED


class Whole(NamedTuple):
    at: float
    name: str
    known: bool
    parts: tuple[Part, ...]
    pair: tuple[str, Part]
    maybe: Part | None = None
    counts: tuple[int | None, ...] = ()


class Standard(typing.NamedTuple):
    at: float
    counts: tuple[int, ...] = ()


WHOLE = Whole(1.5, "a", True, (Part(1), Part(2)), ("x", Part(3)), Part(4), (1, None))
PARTS = st.builds(Part, st.integers(0, 2**63 - 1))
WHOLES = st.builds(
    Whole,
    st.floats(-1e14, 1e14),
    st.text(max_size=5),
    st.booleans(),
    st.lists(PARTS, max_size=3).map(tuple),
    st.tuples(st.text(max_size=5), PARTS),
    st.none() | PARTS,
    st.lists(st.none() | st.integers(0, 9), max_size=3).map(tuple),
)


def through_json(value):
    return json.loads(json.dumps(encode(value)))


@settings(max_examples=20)
@given(WHOLES)
def test_codec_returns_what_was_encoded(value):
    again = decode(Whole, through_json(value))
    assert again == value
    assert type(again) is Whole
    assert all(type(part) is Part for part in again.parts)


def test_codec_leaves_out_trailing_defaults():
    assert encode(Part(1)) == [1]
    assert encode(Part(1)._replace(color="blue")) == [1, "blue"]
    assert encode(WHOLE._replace(maybe=None, counts=())) == [
        *(1.5, "a", True, [[1], [2]], ["x", [3]]),
    ]


def test_codec_takes_whole_numbers_for_floats():
    assert decode(Whole, through_json(WHOLE._replace(at=7))) == WHOLE._replace(at=7.0)


def test_codec_reads_the_annotations_of_the_standard_library():
    value = Standard(1.0, (1, 2))
    assert decode(Standard, through_json(value)) == value


@given(JSON)
def test_codec_returns_a_record_or_nothing(plain):
    for kind in (Whole, Part):
        record = decode(kind, plain)
        assert record is None or decode(kind, through_json(record)) == record


@pytest.mark.parametrize("field", Whole._fields)
@settings(max_examples=20)
@given(damage=JSON)
def test_codec_refuses_a_damaged_field(field, damage):
    plain = encode(WHOLE)
    plain[Whole._fields.index(field)] = damage
    record = decode(Whole, plain)
    assert record is None or record._replace(**{field: None}) == WHOLE._replace(**{field: None})


@pytest.mark.parametrize(
    "plain",
    [
        None,
        {},
        [],
        [1, "green"],
        [1, []],
        [1, "red", 1],
        [True],
        [-1],
        [1.0],
        ["1"],
        [2**63],
        [10**400],
        [float("nan")],
    ],
)
def test_codec_refuses_what_was_not_written_so(plain):
    assert decode(Part, plain) is None


@pytest.mark.parametrize("at", [float("nan"), float("inf"), 1e15, -1e300, 10**400, "1", True])
def test_codec_refuses_a_float_that_no_clock_shows(at):
    assert decode(Standard, [at]) is None


def test_codec_refuses_a_nesting_deeper_than_the_record():
    deep = plain = []
    for _ in range(500):
        plain.append([])
        plain = plain[0]
    assert decode(Whole, deep) is None


def test_codec_leaves_out_what_is_damaged_of_many():
    parts = {"a": [1], "b": ["x"], "c": None}
    assert decode_each(Part, parts) == {"a": Part(1)}
    assert decode_each(Part, [1]) == {}
