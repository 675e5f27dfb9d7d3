"""Conversion of dicts to Structs and back without changing a value."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sessiond
from sessiond.v1.session_pb2 import Session

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)  # other tests may be using the processor
@given(st.dictionaries(TEXT, JSON, max_size=5))
def test_structs_round_trip(value: dict[str, Any]) -> None:
    wire = Session(metadata=sessiond.to_struct(value)).SerializeToString()
    assert sessiond.from_struct(Session.FromString(wire).metadata) == value


def test_whole_numbers_are_ints() -> None:
    back = sessiond.from_struct(sessiond.to_struct({"a": 1, "b": 1.5, "c": True, "d": -0.0, "e": 1e300}))
    assert [type(value) for value in back.values()] == [int, float, bool, float, float]
    assert math.copysign(1, back["d"]) == -1


def test_tuples_become_lists_and_empty_values_are_kept() -> None:
    assert sessiond.from_struct(sessiond.to_struct({"t": (1, ()), "l": [], "d": {}})) == {
        "t": [1, []],
        "l": [],
        "d": {},
    }


@pytest.mark.parametrize(
    ("value", "error", "place"),
    [
        ({"a": {"b": [0, math.nan]}}, ValueError, r"^a\.b\[1\]: NaN"),
        ({"a": math.inf}, ValueError, "^a: NaN and infinity"),
        ({"a": 2**53 + 1}, ValueError, r"^a: .* 2\^53"),
        ({"a": -(2**60)}, ValueError, r"^a: .* 2\^53"),
        ({"a": b"bytes"}, TypeError, "^a: bytes is not JSON"),
        ({"a": {1}}, TypeError, "^a: set is not JSON"),
        ({"a": {1: 2}}, TypeError, "^a: keys must be str, not int"),
        ({1: 2}, TypeError, "^the object: keys must be str"),
    ],
)
def test_value_that_a_struct_cannot_hold_is_refused(value: Any, error: type[Exception], place: str) -> None:
    with pytest.raises(error, match=place):
        sessiond.to_struct(value)


@pytest.mark.parametrize("wrap", [lambda inner: {"a": inner}, lambda inner: [inner]])
def test_object_that_contains_itself_is_refused(wrap: Any) -> None:
    endless: dict[str, Any] = {}
    endless["self"] = wrap(endless)
    with pytest.raises(ValueError, match="levels"):
        sessiond.to_struct(endless)
