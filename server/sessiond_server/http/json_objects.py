"""Messages as JSON objects: what MessageToDict makes of ours, with the names of the protos, in less than half
of its time, since what a type's fields need is found out once."""

import base64
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

_F = FieldDescriptor
_TEXTS_64: Final = (_F.TYPE_INT64, _F.TYPE_UINT64, _F.TYPE_SINT64, _F.TYPE_FIXED64, _F.TYPE_SFIXED64)

Convert = Callable[[Any], Any]


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def is_repeated(field: FieldDescriptor) -> bool:
    # Old releases of protobuf have no `is_repeated`, and new ones no `label`.
    return bool(field.default_value == [])


def to_object(message: Message) -> Any:
    """The object; of a time, a duration or a mask, the text."""
    return _converter(message.DESCRIPTOR)(message)


@cache
def _converter(descriptor: Descriptor) -> Convert:
    """What turns a message of this type into its JSON form."""
    return _WELL_KNOWN.get(descriptor.full_name) or _regular


def _regular(message: Message) -> dict[str, Any]:
    fields = _fields(message.DESCRIPTOR)
    found = {}
    for field, value in message.ListFields():
        name, convert = fields[field.number]
        found[name] = value if convert is None else convert(value)
    return found


@cache
def _fields(descriptor: Descriptor) -> Mapping[int, tuple[str, Convert | None]]:
    """The name of each field, by its number, and what converts its value; None: nothing need."""
    return {field.number: (field.name, _field(field)) for field in descriptor.fields}


def _field(field: FieldDescriptor) -> Convert | None:
    if is_map(field):
        assert field.message_type is not None
        inner = _single(field.message_type.fields_by_name["value"]) or _same
        # Keys are texts: another kind of key is in no message of ours.
        return lambda entries: {key: inner(entries[key]) for key in entries}
    single = _single(field)
    if is_repeated(field):
        each = single or _same
        return lambda values: [each(value) for value in values]
    return single


def _single(field: FieldDescriptor) -> Convert | None:
    if field.message_type is not None:
        return _converter(field.message_type)
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.type in _TEXTS_64:
        return str
    if field.type == _F.TYPE_BYTES:
        return _base64
    return _float if field.type == _F.TYPE_DOUBLE else None


def _enum(enum: EnumDescriptor) -> Convert:
    names = {number: value.name for number, value in enum.values_by_number.items()}
    # A newer server may know more values.
    return lambda number: names.get(number, number)


def _same(value: Any) -> Any:
    return value


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _text(message: Any) -> str:
    return str(message.ToJsonString())


def _time(time: Any) -> str:
    # Protobuf's own takes three times as long, and a session has several.
    whole = datetime.fromtimestamp(time.seconds, UTC).isoformat()[:19]
    return f"{whole}{_fraction(time.nanos)}Z"


def _fraction(nanos: int) -> str:
    """In as many threes of digits as there are."""
    if not nanos:
        return ""
    if not nanos % 1_000_000:
        return f".{nanos // 1_000_000:03}"
    return f".{nanos:09}" if nanos % 1000 else f".{nanos // 1000:06}"


def _struct(struct: Any) -> dict[str, Any]:
    fields = struct.fields
    return {name: _value(fields[name]) for name in fields}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _struct(value.struct_value)
    if kind == "list_value":
        return [_value(each) for each in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


_WELL_KNOWN: Final[Mapping[str, Convert]] = {
    "google.protobuf.Timestamp": _time,
    "google.protobuf.Duration": _text,
    "google.protobuf.FieldMask": _text,
    "google.protobuf.Struct": _struct,
    "google.protobuf.Value": _value,
}
