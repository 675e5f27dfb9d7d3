"""Requests of many elements: accepted up to what the API's limits allow, and no other call waits for their parsing."""

import pytest
from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode

from sessiond.v1.message_pb2 import Message, Part
from sessiond.v1.message_service_pb2 import AppendMessagesRequest
from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import CreateSessionRequest, GetSessionRequest
from tests.support.waiting import until
from tests.support.wire import OTHER_TENANT, Wire


def _state(entries: int) -> Struct:
    state = Struct()
    state.update({f"key-{number:08}": True for number in range(entries)})
    return state


async def test_state_of_one_mebibyte_of_small_entries_is_stored(wire: Wire) -> None:
    state = _state(50_000)
    assert 990_000 < state.ByteSize() <= 1024 * 1024
    session = await wire.call("CreateSession", CreateSessionRequest(session=Session(session_id="s", state=state)))
    assert session.state == state


@pytest.mark.long
async def test_calls_of_others_go_on_while_a_request_is_parsed_in_slices(wire: Wire) -> None:
    await wire.create("o", key=OTHER_TENANT)
    large = AppendMessagesRequest(session_id="s", messages=[Message(parts=[Part()] * 240_000)]).SerializeToString()
    ended: list[str] = []
    heavy = [wire.start("AppendMessages", large) for _ in range(3)]
    for call in heavy:
        call.add_done_callback(lambda _: ended.append("heavy"))
    await until(lambda: wire.server.calls >= len(heavy) or bool(ended))
    await wire.call("GetSession", GetSessionRequest(session_id="o"), key=OTHER_TENANT)
    assert len(ended) < len(heavy)
    assert {await call.code() for call in heavy} == {StatusCode.INVALID_ARGUMENT}
