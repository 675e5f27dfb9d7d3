"""Rules of google.protobuf.Struct: what Postgres' jsonb and every JSON reader can take."""

import math
from collections.abc import Iterator

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from sessiond_server.domain.text import NUL_RULE, quoted_key

DEPTH = 24
"""Most levels: the object itself is the first, and each object or array in another is one more."""

Fault = tuple[str, str]
"""(path behind the struct's own, such as `.fields["a"].list_value.values[3]`; the rule)."""


def fault(struct: Struct, most_bytes: int = 0) -> Fault | None:
    """The first fault of an object, or None. `most_bytes` bounds its serialised size; 0: no bound.

    Takes time in proportion to the size, and stops at a level that is too deep.
    """
    if most_bytes and struct.ByteSize() > most_bytes:
        return "", f"must be at most {most_bytes} bytes serialised"
    return next(_object_faults(struct, "", 1), None)


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
