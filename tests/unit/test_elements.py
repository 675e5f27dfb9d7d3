"""Large requests are parsed in slices, and those of too many elements refused."""

import json
from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from struct import pack
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from sessiond.v1.message_pb2 import Message, Part
from sessiond.v1.message_service_pb2 import AppendMessagesRequest
from sessiond.v1.run_pb2 import RunStatus
from sessiond.v1.run_service_pb2 import ListRunsRequest
from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import BatchGetSessionsRequest, CreateSessionRequest
from sessiond_server.rpc import elements
from sessiond_server.rpc.elements import MOST, SLICE, UNCUT
from tests.support.effort import batches

ENTRIES = 50_000
"""Of an object of 1 MiB, all small: the most that the API's limits allow."""


def pieces(message: ProtoMessage) -> list[bytes | None]:
    descriptor: Any = message.DESCRIPTOR
    return list(elements.slices(message.SerializeToString(), elements.table(descriptor)))


def read(found: ProtoMessage, data: bytes) -> ProtoMessage:
    descriptor: Any = found.DESCRIPTOR
    for piece in elements.slices(data, elements.table(descriptor)):
        if piece is not None:
            found.MergeFromString(piece)
    return found


def parsed(message: ProtoMessage) -> ProtoMessage:
    return read(type(message)(), message.SerializeToString())


def too_many(message: ProtoMessage) -> bool:
    try:
        pieces(message)
    except elements.TooManyElements:
        return True
    return False


def array(size: int) -> Struct:
    value = Value(number_value=0)
    return Struct(fields={"list": Value(list_value=ListValue(values=[value] * size))})


def entries(size: int) -> Struct:
    return Struct.FromString(b"".join(_entry(f"key{number}".encode()) for number in range(size)))


def _entry(key: bytes) -> bytes:
    inner = b"\x0a" + bytes([len(key)]) + key + b"\x12\x09\x11" + pack("<d", 1.0)
    return b"\x0a" + bytes([len(inner)]) + inner


@pytest.mark.parametrize(
    "make",  # called in the test, not by every worker that collects it
    [
        lambda: AppendMessagesRequest(messages=[Message()] * (MOST + 1)),
        lambda: AppendMessagesRequest(messages=[Message(parts=[Part()] * (MOST + 1))]),
        lambda: BatchGetSessionsRequest(session_ids=["a"] * (MOST + 1)),
        lambda: CreateSessionRequest(session=Session(state=array(MOST + 1))),
        lambda: ListRunsRequest(statuses=[RunStatus.RUN_STATUS_RUNNING] * (2 * MOST + 1)),
    ],
    ids=["messages", "parts", "session_ids", "state", "statuses"],
)
def test_elements_are_counted_at_every_level(make: Callable[[], ProtoMessage]) -> None:
    assert too_many(make())


def test_object_of_one_mebibyte_may_have_fifty_thousand_entries() -> None:
    request = CreateSessionRequest(session=Session(state=entries(ENTRIES)))
    assert request.session.state.ByteSize() > 1_000_000
    cut = pieces(request)
    assert None not in cut
    assert max(len(piece) for piece in cut if piece is not None) < 2 * SLICE * 10
    assert parsed(request) == request


def test_what_cannot_be_cut_is_bounded_by_what_it_takes_to_parse() -> None:
    def nested(size: int) -> AppendMessagesRequest:
        return AppendMessagesRequest(messages=[Message(metadata=entries(size))])

    assert too_many(nested(UNCUT // elements.ENTRY + 1))
    most = nested(UNCUT // elements.ENTRY - 1_000 * 10)
    assert None in pieces(most), "others have a turn while it is counted"
    assert parsed(most) == most


def test_long_texts_are_one_element() -> None:
    request = AppendMessagesRequest(messages=[Message(parts=[Part(text="x" * 1_000_000)])])
    assert pieces(request) == [request.SerializeToString()]


@pytest.mark.parametrize("data", [b"\x12", b"\x12\xff", b"\xff" * 20, b"\x12\x7f", b"\x08", b"\x09\x00"])
def test_malformed_bytes_are_refused_as_the_parser_does(data: bytes) -> None:
    request = b"\x0a\x7f" + b"x" * 127 + data
    with pytest.raises(DecodeError):
        AppendMessagesRequest.FromString(request)
    with pytest.raises((DecodeError, elements.Malformed)):
        read(AppendMessagesRequest(), request)


def test_elements_before_a_malformed_place_are_counted() -> None:
    request = (
        AppendMessagesRequest(messages=[Message(parts=[Part()] * (MOST + 1))]).SerializeToString() + b"\x12\x01\xff"
    )
    with pytest.raises(elements.TooManyElements):
        list(elements.slices(request, elements.table(AppendMessagesRequest.DESCRIPTOR)))


def test_messages_nested_deeper_than_the_parser_goes_are_malformed() -> None:
    inner = b""
    for _ in range(200):
        values = b"\x32" + elements._length(len(inner)) + inner  # Value.list_value
        inner = b"\x0a" + elements._length(len(values)) + values  # ListValue.values
    with pytest.raises(elements.Malformed):
        list(elements.slices(inner, elements.table(ListValue.DESCRIPTOR)))
    with pytest.raises(DecodeError):
        ListValue.FromString(inner)


def test_groups_which_no_field_is_are_refused() -> None:
    with pytest.raises(elements.TooManyElements):
        list(elements.slices(b"\x0b\x0c" * 100, elements.table(AppendMessagesRequest.DESCRIPTOR)))


def _json(chance: Random, budget: Iterator[int], depth: int) -> Any:
    kind = chance.randrange(7 if depth < 6 else 4)
    if next(budget) > 300:
        return None
    if kind == 4:
        return [_json(chance, budget, depth + 1) for _ in range(chance.randrange(30))]
    if kind > 4:
        return {f"k{number}": _json(chance, budget, depth + 1) for number in range(chance.randrange(40))}
    return (None, True, chance.random(), "x" * chance.randrange(200))[kind]


@pytest.mark.parametrize("seed", batches(10, 40))
def test_slices_together_are_the_message(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = Random(seed)
    monkeypatch.setattr(elements, "SLICE", chance.choice((1, 7, 100)))
    monkeypatch.setattr(elements, "CUT_FROM", chance.choice((1, 50, 4096)))
    made = [{f"r{n}": _json(chance, count(), 0) for n in range(chance.randrange(20))} for _ in range(3)]
    session = {"state": made[0], "metadata": made[1], "labels": {f"l{n}": "v" for n in range(chance.randrange(50))}}
    request = json_format.Parse(json.dumps({"requestId": "r", "session": session}), CreateSessionRequest())
    message = {"parts": [{"text": "x"}] * chance.randrange(9), "metadata": made[2]}
    append = json_format.Parse(json.dumps({"sessionId": "s", "messages": [message] * 3}), AppendMessagesRequest())
    assert parsed(request) == request
    assert parsed(append) == append


def test_slices_leave_two_thirds_of_the_time_to_other_calls() -> None:
    now = 100.0
    pace = elements.Pace(lambda: now)
    now += 0.010
    assert pace.pause() == pytest.approx(0.020)
    now += 0.500  # the loop had much else to do
    pace.go_on()
    now += 0.004
    assert pace.pause() == pytest.approx(0.008)
