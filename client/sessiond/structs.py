"""JSON objects as `google.protobuf.Struct`, and back."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from sessiond.texts import naming_texts

_MOST_LEVELS = 64
"""Far above the service's limit (24) and far below Python's recursion limit. It stops objects that contain
themselves."""

_EXACT = 2**53
"""Struct numbers are doubles: integers up to this one keep their value."""


@naming_texts
def to_struct(value: Mapping[str, Any]) -> Struct:
    """Converts a mapping of str to None, bool, int, float, str, mappings and sequences of these to a Struct.

    No value is changed to fit. Raises TypeError for another type; ValueError for NaN, infinity, an integer beyond 2^53,
    which a double cannot hold, and more than 64 levels; InvalidFields for text that UTF-8 cannot encode. The error
    names the place, never the value.
    """
    return struct_of(value)


def struct_of(value: Mapping[str, Any]) -> Struct:
    """Converts as `to_struct` does, which is for callers of the client: raises UnicodeEncodeError for such text."""
    struct = Struct()
    _fill_struct(struct, value, "", 1)
    return struct


def from_struct(struct: Struct) -> dict[str, Any]:
    """Converts a Struct to a dict. Numbers without a fraction become int where that is exact.

    A Struct keeps no order. The keys are sorted, so that equal Structs give equal JSON.
    """
    return {key: _plain(struct.fields[key]) for key in sorted(struct.fields)}


def _fill_struct(struct: Struct, value: Mapping[str, Any], path: str, level: int) -> None:
    if level > _MOST_LEVELS:
        raise ValueError(f"more than {_MOST_LEVELS} levels")
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{path or 'the object'}: keys must be str, not {type(key).__name__}")
        _fill_value(struct.fields[key], item, f"{path}.{key}" if path else key, level)


def _fill_value(into: Value, value: object, path: str, level: int) -> None:
    match value:
        case None:
            into.null_value = 0  # type: ignore[assignment]  # NULL_VALUE, the enum's only member
        case bool():
            into.bool_value = value
        case str():
            into.string_value = value
        case int() | float():
            if isinstance(value, int) and abs(value) > _EXACT:
                raise ValueError(f"{path}: an integer beyond 2^53 would lose its value; send it as text")
            if not math.isfinite(value):
                raise ValueError(f"{path}: NaN and infinity are not JSON")
            into.number_value = value
        case Mapping():
            into.struct_value.SetInParent()
            _fill_struct(into.struct_value, value, path, level + 1)
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            if level >= _MOST_LEVELS:
                raise ValueError(f"more than {_MOST_LEVELS} levels")
            into.list_value.SetInParent()
            for index, item in enumerate(value):
                _fill_value(into.list_value.values.add(), item, f"{path}[{index}]", level + 1)
        case _:
            raise TypeError(f"{path}: {type(value).__name__} is not JSON")


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "bool_value":
            return value.bool_value
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            # -0.0 stays a float: as an int it would lose its sign.
            exact = number.is_integer() and abs(number) <= _EXACT and not (number == 0 and math.copysign(1, number) < 0)
            return int(number) if exact else number
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case _:
            return None
