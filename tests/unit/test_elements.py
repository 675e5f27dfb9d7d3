"""Elements of serialised requests, counted without parsing."""

from typing import Any

import pytest
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.struct_pb2 import Struct

from sessiond.v1.message_pb2 import Message, Part
from sessiond.v1.message_service_pb2 import AppendMessagesRequest
from sessiond.v1.run_pb2 import RunStatus
from sessiond.v1.run_service_pb2 import ListRunsRequest
from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import BatchGetSessionsRequest, CreateSessionRequest
from sessiond_server.rpc import elements

MOST = 100


def too_many(message: ProtoMessage, most: int = MOST) -> bool:
    descriptor: Any = message.DESCRIPTOR
    return elements.too_many(message.SerializeToString(), elements.table(descriptor), most)


def struct(count: int) -> Struct:
    values = Struct()
    values["list"] = [0] * count
    return values


@pytest.mark.parametrize(
    "message",
    [
        AppendMessagesRequest(messages=[Message()] * (MOST + 1)),
        AppendMessagesRequest(messages=[Message(parts=[Part()] * (MOST + 1))]),
        BatchGetSessionsRequest(session_ids=["a"] * (MOST + 1)),
        CreateSessionRequest(session=Session(state=struct(MOST + 1))),
        ListRunsRequest(statuses=[RunStatus.RUN_STATUS_RUNNING] * (2 * MOST + 1)),
    ],
)
def test_elements_are_counted_at_every_level(message: ProtoMessage) -> None:
    assert too_many(message)
    assert not too_many(message, most=4 * MOST)


def test_long_texts_are_one_element() -> None:
    assert not too_many(AppendMessagesRequest(messages=[Message(parts=[Part(text="x" * 1_000_000)])]))


def test_small_requests_are_not_looked_into() -> None:
    assert not elements.too_many(b"\x12\x00" * MOST, {2: None}, MOST)


@pytest.mark.parametrize("data", [b"\x12", b"\x12\xff", b"\xff" * 20, b"\x12\x7f", b"\x08", b"\x09\x00"])
def test_malformed_bytes_are_left_to_the_parser(data: bytes) -> None:
    fields = elements.table(AppendMessagesRequest.DESCRIPTOR)
    assert not elements.too_many(b"\x0a\x7f" + b"x" * 127 + data, fields, 50)


def test_groups_which_no_field_is_are_refused() -> None:
    fields = elements.table(AppendMessagesRequest.DESCRIPTOR)
    assert elements.too_many(b"\x0b\x0c" * 100, fields, 50)
