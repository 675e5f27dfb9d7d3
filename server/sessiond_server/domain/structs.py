"""Validates google.protobuf.Struct: only values that Postgres' jsonb and every JSON parser accept."""

import math
from collections.abc import Iterator
from itertools import chain

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from sessiond_server.domain.text import NUL_RULE, quoted_key

DEPTH = 24
"""Most levels of nesting. The object itself is level 1; each object or array inside another adds one."""

Fault = tuple[str, str]
"""(path relative to the struct, such as `.fields["a"].list_value.values[3]`; the broken rule)."""


def fault(struct: Struct, most_bytes: int = 0) -> Fault | None:
    """Returns the first fault of an object, or None. `most_bytes` bounds its serialised size; 0: no bound.

    Takes about a microsecond for each value. Stops at an object that is too large or too deep.
    """
    if most_bytes and struct.ByteSize() > most_bytes:
        return "", f"must be at most {most_bytes} bytes serialised"
    # Nearly all objects are valid. A second, slower walk finds the path of the fault in one that is not.
    return None if _is_sound(struct) else next(_object_faults(struct, "", 1))


def _is_sound(struct: Struct) -> bool:
    """Whether the object has no fault. Walks level by level and builds no paths."""
    objects, arrays = [struct], list[ListValue]()
    for _ in range(DEPTH):
        if any("\0" in "".join(o.fields) for o in objects):
            return False
        values = chain(
            chain.from_iterable(o.fields.values() for o in objects), chain.from_iterable(a.values for a in arrays)
        )
        objects, arrays = [], []
        for value in values:
            kind = value.WhichOneof("kind")
            if kind == "string_value":
                if "\0" in value.string_value:
                    return False
            elif kind == "number_value":
                if not math.isfinite(value.number_value):
                    return False
            elif kind == "struct_value":
                objects.append(value.struct_value)
            elif kind == "list_value":
                arrays.append(value.list_value)
            elif kind is None or value.null_value != 0:
                # null_value of a value of another kind reads as its default, 0.
                return False
        if not objects and not arrays:
            return True
    return False


def _object_faults(struct: Struct, path: str, level: int) -> Iterator[Fault]:
    if level > DEPTH:
        yield path, f"must be at most {DEPTH} levels deep"
        return
    for key, value in struct.fields.items():
        if "\0" in key:
            yield f"{path}.fields[{quoted_key(key)}]", "keys " + NUL_RULE
        for behind, rule in _value_faults(value, level):
            yield f"{path}.fields[{quoted_key(key)}]{behind}", rule


def _array_faults(array: ListValue, level: int) -> Iterator[Fault]:
    if level > DEPTH:
        yield "", f"must be at most {DEPTH} levels deep"
        return
    for index, value in enumerate(array.values):
        for behind, rule in _value_faults(value, level):
            yield f".values[{index}]{behind}", rule


def _value_faults(value: Value, level: int) -> Iterator[Fault]:
    match value.WhichOneof("kind"):
        case "string_value":
            if "\0" in value.string_value:
                yield "", NUL_RULE
        case "number_value":
            if not math.isfinite(value.number_value):
                yield "", "must be a finite number"
        case "struct_value":
            for behind, rule in _object_faults(value.struct_value, "", level + 1):
                yield f".struct_value{behind}", rule
        case "list_value":
            for behind, rule in _array_faults(value.list_value, level + 1):
                yield f".list_value{behind}", rule
        case "null_value":
            if value.null_value != 0:
                yield "", "must be a known value"
        case None:
            yield "", "must have a value"
