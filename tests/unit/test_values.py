"""The small NamedTuple behaves as typing's own, in all that the suite uses."""

from __future__ import annotations

import copy
import operator
import pickle
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel import namedtuple


class Theirs(typing.NamedTuple):
    first: object
    second: object
    third: object = 7
    fourth: object = ()

    @property
    def both(self):
        return (self.first, self.second)


class Ours(namedtuple.NamedTuple):
    first: object
    second: object
    third: object = 7
    fourth: object = ()

    @property
    def both(self):
        return (self.first, self.second)


ITEMS = st.one_of(st.integers(-3, 3), st.text(max_size=2), st.none())
NAMES = st.sampled_from(["first", "second", "third", "fourth", "fifth"])
CALLS = st.tuples(st.lists(ITEMS, max_size=6), st.dictionaries(NAMES, ITEMS, max_size=4))


def outcome(made, positional, named):
    """Return what a call gives, as what is alike in both: the items, or the kind of error."""
    try:
        return tuple(made(*positional, **named))
    except TypeError:
        return TypeError


@given(CALLS)
def test_every_call_gives_the_same_items_or_the_same_error(call):
    assert outcome(Ours, *call) == outcome(Theirs, *call)


@given(st.lists(ITEMS, min_size=2, max_size=4))
def test_fields_length_hash_and_words_are_the_same(items):
    ours, theirs = Ours(*items), Theirs(*items)
    assert [getattr(ours, name) for name in Ours._fields] == list(theirs)
    assert (len(ours), hash(ours), ours[1:], list(ours)) == (
        len(theirs),
        hash(theirs),
        theirs[1:],
        list(theirs),
    )
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours.both == theirs.both
    assert ours == theirs == tuple(items) + (7, ())[len(items) - 2 :]


@given(
    st.lists(st.integers(), min_size=2, max_size=4), st.lists(st.integers(), min_size=2, max_size=4)
)
def test_order_and_equality_are_the_same(one, other):
    one, other = [*one, 0, 0][:4], [*other, 0, 0][:4]
    for compare in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt):
        assert compare(Ours(*one), Ours(*other)) == compare(Theirs(*one), Theirs(*other))


@given(st.dictionaries(NAMES, ITEMS))
def test_replace_gives_the_same_items_and_leaves_the_old_alone(named):
    ours, theirs = Ours(1, 2), Theirs(1, 2)
    if "fifth" in named:
        with pytest.raises((TypeError, ValueError)):
            theirs._replace(**named)
        with pytest.raises((TypeError, ValueError)):
            ours._replace(**named)
    else:
        assert tuple(ours._replace(**named)) == tuple(theirs._replace(**named))
        assert type(ours._replace(**named)) is Ours
    assert ours == (1, 2, 7, ())


@pytest.mark.parametrize("name", ["first", "third", "unheard_of"])
def test_nothing_can_be_assigned(name):
    for made in (Ours(1, 2), Theirs(1, 2)):
        with pytest.raises(AttributeError):
            setattr(made, name, 3)


def test_field_names_and_defaults_are_the_same():
    assert Ours._fields == Theirs._fields
    assert Ours._field_defaults == Theirs._field_defaults


def test_it_can_be_copied_pickled_and_unpacked():
    ours = Ours(1, second=2, fourth=(3,))
    assert pickle.loads(pickle.dumps(ours)) == ours
    assert type(pickle.loads(pickle.dumps(ours))) is Ours
    assert copy.deepcopy(ours) == ours
    first, *_, fourth = ours
    assert (first, fourth) == (1, (3,))


def test_one_default_is_not_shared_by_accident_with_a_field_that_was_given():
    assert Ours(1, 2, fourth="x") == (1, 2, 7, "x")
    with pytest.raises(TypeError, match="no second given"):
        Ours(1)
    with pytest.raises(TypeError, match="fifth"):
        Ours(1, 2, fifth=5)
