"""Free objects: protobuf's Struct from and to values of JSON."""

from typing import Any, Final

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct, Value

from sessiond_server.domain.structs import DEPTH
from sessiond_server.http.agentos.refusals import Json
from sessiond_server.http.problems import invalid

EXACT: Final = 2.0**53
"""Up to which a double holds every whole number."""


def shown(struct: Struct) -> Json:
    """The object. Whole numbers have no fraction, as most were given, for a Struct knows only doubles."""
    return {name: _shown(value) for name, value in struct.fields.items()}


def _shown(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= EXACT else number
    if kind == "struct_value":
        return shown(value.struct_value)
    if kind == "list_value":
        return [_shown(each) for each in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def _depth(value: Any) -> int:
    """Levels of objects and lists; DEPTH + 1 for more."""
    level, values = 0, [value]
    while values and level <= DEPTH:
        values = [
            inner
            for each in values
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        level += 1
    return level


def put(target: Struct, value: Json, field: str) -> None:
    """Sets an object, an empty one too. Raises Problem, which names the field."""
    if _depth(value) > DEPTH:
        # Protobuf copies no message of a hundred levels, of which one here takes three.
        raise invalid(field, f"must be at most {DEPTH} levels deep")
    target.SetInParent()
    try:
        ParseDict(value, target)
    except (ParseError, ValueError, TypeError, RecursionError):
        raise invalid(field, "must be a JSON object whose numbers have double precision") from None
