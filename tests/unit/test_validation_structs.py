"""Rules of structs: the first fault, where it is, and how deep is too deep."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import ListValue, NullValue, Struct, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond.v1.message_pb2 import Message
from sessiond.v1.message_service_pb2 import AppendMessagesRequest
from sessiond_server.domain import structs
from tests.support.effort import examples


def struct(**fields: Value) -> Struct:
    return Struct(fields=fields)


def objects(levels: int) -> Struct:
    """Objects in each other, as many as said, the outermost included."""
    inner = Struct()
    for _ in range(levels - 1):
        inner = struct(a=Value(struct_value=inner))
    return inner


def arrays(levels: int) -> Struct:
    """Arrays in each other inside an object, as many levels as said with the object."""
    value = Value(list_value=ListValue())
    for _ in range(levels - 2):
        value = Value(list_value=ListValue(values=[value]))
    return struct(a=value)


@pytest.mark.parametrize(
    ("value", "path", "rule"),
    [
        (struct(a=Value()), '.fields["a"]', "value"),
        (struct(a=Value(number_value=float("nan"))), '.fields["a"]', "finite"),
        (struct(a=Value(number_value=float("inf"))), '.fields["a"]', "finite"),
        (struct(a=Value(number_value=float("-inf"))), '.fields["a"]', "finite"),
        (struct(a=Value(string_value="x\0y")), '.fields["a"]', "U+0000"),
        (struct(**{"a\0": Value(bool_value=True)}), r'.fields["a\u0000"]', "U+0000"),
        (struct(a=Value(null_value=7)), '.fields["a"]', "known"),  # type: ignore[arg-type]
        (
            struct(a=Value(struct_value=struct(b=Value(string_value="\0")))),
            '.fields["a"].struct_value.fields["b"]',
            "U+0000",
        ),
        (
            struct(a=Value(list_value=ListValue(values=[Value(bool_value=False), Value()]))),
            '.fields["a"].list_value.values[1]',
            "value",
        ),
        (objects(25), "." + ".".join(['fields["a"].struct_value'] * 24), "24 levels"),
        (arrays(25), '.fields["a"].list_value' + ".values[0].list_value" * 23, "24 levels"),
        (struct(größe=Value()), r'.fields["gr\u00f6\u00dfe"]', "value"),
        (struct(**{"k" * 41: Value()}), f'.fields["{"k" * 40}..."]', "value"),
    ],
)
def test_fault(value: Struct, path: str, rule: str) -> None:
    found = structs.fault(value)
    assert found is not None
    assert found[0] == path
    assert rule in found[1]


@pytest.mark.parametrize(
    "value",
    [
        Struct(),
        objects(24),
        arrays(24),
        struct(
            a=Value(null_value=NullValue.NULL_VALUE),
            b=Value(bool_value=False),
            c=Value(number_value=0),
            d=Value(string_value=""),
            e=Value(list_value=ListValue()),
            f=Value(struct_value=Struct()),
            **{"": Value(number_value=1.7976931348623157e308), "k" * 5000: Value(string_value="語\x01")},
        ),
    ],
)
def test_sound(value: Struct) -> None:
    assert structs.fault(value) is None


def test_size_includes_its_bound() -> None:
    value = struct(a=Value(string_value="x" * 20))
    assert structs.fault(value, value.ByteSize()) is None
    assert structs.fault(value, value.ByteSize() - 1) == (
        "",
        f"must be at most {value.ByteSize() - 1} bytes serialised",
    )


def looked_at(request: AppendMessagesRequest) -> tuple[structs.Ahead, int]:
    """What was found, and in how many pieces."""
    ahead = structs.Ahead()
    return ahead, sum(1 for _ in ahead.look(request)) + 1


def test_object_of_many_values_is_looked_at_in_pieces() -> None:
    many = struct(**{f"k{number}": Value(number_value=number) for number in range(6 * structs.SLICE)})
    # Deeper than the many values, which are so looked at before it, in whatever order a map has them.
    wrong = struct(a=Value(struct_value=many))
    wrong.fields["a"].struct_value.fields["b"].struct_value.fields["c"].string_value = "\0"
    for value, most in ((many, 6), (wrong, 12)):
        request = AppendMessagesRequest(messages=[Message(), Message(metadata=value)])
        ahead, pieces = looked_at(request)
        assert 5 < pieces <= most + 1
        with ahead.known():
            assert structs.fault(request.messages[1].metadata) == structs.fault(value)


def test_object_that_was_looked_at_is_not_walked_again() -> None:
    request = AppendMessagesRequest(messages=[Message(metadata=struct(a=Value(bool_value=True)))])
    metadata, other = request.messages[0].metadata, struct(a=Value())
    ahead, pieces = looked_at(request)
    assert pieces == 1
    metadata.fields["a"].string_value = "\0"
    with ahead.known():
        assert structs.fault(metadata) is None
        assert structs.fault(metadata, 1) is not None
        assert structs.fault(other) is not None
    assert structs.fault(metadata) is not None


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(alphabet="a\0é", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="b\0", max_size=2), inner, max_size=3),
    max_leaves=12,
)


def is_sound(value: Any) -> bool:
    """The same question asked of plain Python values."""
    match value:
        case dict():
            return all("\0" not in key and is_sound(member) for key, member in value.items())
        case list():
            return all(is_sound(member) for member in value)
        case str():
            return "\0" not in value
        case float():
            return value - value == 0
    return True


@settings(max_examples=examples(100, 300))
@given(st.dictionaries(st.text(alphabet="ab\0", max_size=2), json_values, max_size=4))
def test_both_walks_agree_with_plain_values(plain: dict[str, Any]) -> None:
    value = Struct()
    value.update(plain)
    found = structs.fault(value)
    assert (found is None) == is_sound(plain)
    if found is None:
        MessageToDict(value)
    else:
        assert found[0].startswith('.fields["')
