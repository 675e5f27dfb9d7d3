"""Every write that can carry a fence is refused with one that is not the live run's, and changes nothing."""

import pytest
from google.protobuf.message import Message as ProtoMessage
from grpc import StatusCode

from sessiond.v1 import attachment_service_pb2 as a
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.run_pb2 import RunFence
from tests.support.requests import VALID, stock
from tests.support.wire import Wire


def carries_a_fence(request: ProtoMessage) -> bool:
    field = request.DESCRIPTOR.fields_by_name.get("run")
    return field is not None and field.message_type is RunFence.DESCRIPTOR


FENCED = sorted(rpc for rpc, request in VALID.items() if carries_a_fence(request))


def test_every_write_that_carries_a_fence_is_listed() -> None:
    # The one that streams has it in its header: tests/rpc/test_uploads.py.
    assert a.UploadHeader.DESCRIPTOR.fields_by_name["run"].message_type is RunFence.DESCRIPTOR
    assert FENCED == [
        "AppendMessages", "ApproveToolCall", "CancelToolCall", "CompleteToolCall", "CreateSummary",
        "DeleteAttachment", "DeleteMessages", "FailToolCall", "FinishRun", "HeartbeatRun", "RejectToolCall",
        "RequestToolCall", "RewindSession", "StartToolCall", "UpdateSession",
    ]  # fmt: skip


@pytest.mark.parametrize(("run_id", "fence"), [("r0", 2), ("r1", 1)])
@pytest.mark.parametrize("rpc", FENCED)
async def test_a_stale_fence_is_refused(wire: Wire, rpc: str, run_id: str, fence: int) -> None:
    await stock(wire)
    request = type(VALID[rpc])()
    request.CopyFrom(VALID[rpc])
    request.run.CopyFrom(RunFence(run_id=run_id, fence=fence))  # type: ignore[attr-defined]
    session_id = request.session.session_id if rpc == "UpdateSession" else request.session_id  # type: ignore[attr-defined]
    before = await wire.call("GetSession", s.GetSessionRequest(session_id=session_id))
    failure = await wire.failure(rpc, request)
    assert (failure.code, failure.reason) == (StatusCode.ABORTED, "RUN_FENCED")
    assert failure.metadata["session_id"] == session_id
    assert await wire.call("GetSession", s.GetSessionRequest(session_id=session_id)) == before
