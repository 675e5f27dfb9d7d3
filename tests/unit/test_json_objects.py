"""Messages as JSON objects: what protobuf's own conversion makes of them."""

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct

from sessiond.v1.export_service_pb2 import ExportRecord
from sessiond_server.http.json_objects import is_map, is_repeated, to_object
from sessiond_server.http.json_texts import dump_dict
from sessiond_server.http.rules import RPCS
from tests.support.rows import table

F = FieldDescriptor
TIMES = (
    1,
    10**9,
    1_790_000_000_123_456_789,
    1_790_000_000_123_000_000,
    1_790_000_000_123_456_000,
    -1,
    -62_135_596_800 * 10**9,
)
TEXTS = ("", "a", "日本 🚄", '"\\/\n\x7f', "x" * 300)
NUMBERS = (0, 1, -1, 2**31 - 1)


def test_every_message_becomes_what_protobuf_makes_of_it() -> None:
    chance = random.Random(20261130)
    types = {each.full_name: each for rpc in RPCS.values() for each in (rpc.input_type, rpc.output_type)}
    types[ExportRecord.DESCRIPTOR.full_name] = ExportRecord.DESCRIPTOR
    with table() as rows:
        for name, descriptor in types.items():
            for _ in range(5):
                message = GetMessageClass(descriptor)()
                fill(message, chance, 3)
                with rows.row(name):
                    expected = MessageToDict(message, preserving_proto_field_name=True)
                    assert dump_dict({"": to_object(message)}) == dump_dict({"": expected})


def fill(message: Message, chance: random.Random, levels: int) -> None:
    """Sets some fields, of all kinds, to some values."""
    kind = message.DESCRIPTOR.full_name
    if kind == Struct.DESCRIPTOR.full_name:
        message.update({"a": None, "b": [1, 2.5, True, {"c": "ü"}], "d": {}})  # type: ignore[attr-defined]
    elif kind in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        message.FromNanoseconds(chance.choice(TIMES))  # type: ignore[attr-defined]
    elif kind == "google.protobuf.FieldMask":
        message.paths.extend(["session_id", "config.max_messages"])  # type: ignore[attr-defined]
    else:
        for field in message.DESCRIPTOR.fields:
            if chance.random() < 0.7:
                _set(message, field, chance, levels)


def _set(message: Message, field: Any, chance: random.Random, levels: int) -> None:
    target = getattr(message, field.name)
    if is_map(field):
        for _ in range(3):
            target[f"k{chance.random()}"] = chance.choice(TEXTS)
    elif field.message_type is not None:
        if levels:
            for inner in [target.add() for _ in range(2)] if is_repeated(field) else [target]:
                inner.SetInParent()
                fill(inner, chance, levels - 1)
    elif is_repeated(field):
        target.extend(_value(field, chance) for _ in range(3))
    else:
        setattr(message, field.name, _value(field, chance))


def _value(field: FieldDescriptor, chance: random.Random) -> Any:
    if field.type == F.TYPE_STRING:
        return chance.choice(TEXTS)
    if field.type == F.TYPE_BYTES:
        return chance.randbytes(5)
    if field.type == F.TYPE_BOOL:
        return chance.random() < 0.5
    if field.type == F.TYPE_DOUBLE:
        return chance.choice((0.0, 0.1, 1.0, float("nan"), float("inf"), float("-inf")))
    if field.enum_type is not None:
        return chance.choice([*field.enum_type.values_by_number, 99])
    large = 2**62 if field.type == F.TYPE_INT64 else 2**31 - 1
    return abs(chance.choice((*NUMBERS, large))) if field.type == F.TYPE_UINT32 else chance.choice((*NUMBERS, large))
