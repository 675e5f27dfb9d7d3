"""Nothing that people have written is anywhere at rest: in the data folder of Postgres, in what Valkey dumps, in the
storage of attachments, or in a log. The proof that every column, copy and piece is encrypted."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
import redis
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from sessiond.v1 import attachment_service_pb2 as a
from sessiond.v1 import context_service_pb2 as x
from sessiond.v1 import document_service_pb2 as d
from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import export_service_pb2 as ex
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import run_service_pb2 as r
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1 import tool_call_service_pb2 as t
from sessiond.v1.document_pb2 import Document, DocumentScope, DocumentWrite
from sessiond.v1.message_pb2 import Message as ChatMessage
from sessiond.v1.message_pb2 import Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.run_pb2 import Failure, Run, RunFence, RunStatus
from sessiond.v1.session_pb2 import Session, SessionStatus, SessionView
from sessiond.v1.summary_pb2 import Summary
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.embedded import running_dsn
from tests.support.encryption import line
from tests.support.marked import Markers
from tests.support.requests import TENANT_WIDE, USER, WRITES
from tests.support.serve_process import data_folder, serving
from tests.support.wire import PATHS, RPCS, header

WITHOUT_WORDS = {
    "ActivateSession", "SuspendSession", "ResumeSession", "EndSession", "TouchSession", "DeleteSession", "EraseUser",
    "BatchDeleteSessions", "DeleteAttachment", "HeartbeatRun", "CancelRun", "StartToolCall", "CancelToolCall",
    "DeleteDocument", "RequestSummary",
}  # fmt: skip
"""Writes whose requests have no words: ids only."""
IN_THE_CLEAR = {"PlaceHold", "LiftHold", "SetRetentionPolicy", "PutTemplate", "DeleteTemplate"}
"""Writes whose words are no content: reasons of holds are a record that outlives contents, and stay in the clear;
templates do too, as docs/encryption.md says."""

NO_WORDS = ("usage", "forked_from", "last_event_id", "live_run_id")
"""Fields of a session that callers do not set, or that are numbers."""
ACTIVE = SessionStatus.SESSION_STATUS_ACTIVE
CONTENT = DocumentScope.DOCUMENT_SCOPE_SESSION


class Talk:
    """Calls a server, and notes which RPCs were called."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.called: set[str] = set()

    async def __call__(self, name: str, *requests: Message) -> Any:
        self.called.add(name)
        method = RPCS[name]
        answer = GetMessageClass(method.output_type).FromString
        if method.client_streaming:
            open_call: Any = self._channel.stream_unary if not method.server_streaming else self._channel.stream_stream
        else:
            open_call = self._channel.unary_unary if not method.server_streaming else self._channel.unary_stream
        call: Any = open_call(
            PATHS[name], request_serializer=lambda each: each.SerializeToString(), response_deserializer=answer
        )
        given: Any = iter(requests) if method.client_streaming else requests[0]
        if method.server_streaming:
            return [item async for item in call(given)]
        return await call(given)


def spoken(markers: Markers, role: Role.ValueType = Role.ROLE_USER) -> ChatMessage:
    """A message with a part of each kind."""
    message = ChatMessage(role=role)
    for field in Part.DESCRIPTOR.oneofs[0].fields:
        part = message.parts.add()
        if field.name == "json":
            part.json = f'{{"{markers.text("Part.json")}": "{markers.text("Part.json")}"}}'
        elif field.type == field.TYPE_STRING:
            setattr(part, field.name, markers.text(f"Part.{field.name}"))
        elif field.message_type is not None and field.message_type.full_name == "google.protobuf.Struct":
            part.data.update({markers.text("Part.data"): markers.text("Part.data")})
        else:
            getattr(part, field.name).SetInParent()
    message.parts[[p.name for p in Part.DESCRIPTOR.oneofs[0].fields].index("tool_call")].tool_call.CopyFrom(
        ToolCallPart(tool_call_id="c", arguments_json=f'["{markers.text("ToolCallPart.arguments_json")}"]')
    )
    message.parts[[p.name for p in Part.DESCRIPTOR.oneofs[0].fields].index("tool_result")].tool_result.CopyFrom(
        ToolResultPart(tool_call_id="c", text=markers.text("ToolResultPart.text"))
    )
    markers.fill(message, "usage", "redact_reason", "media_type")
    return message


async def said_everything(talk: Talk, markers: Markers, tenant_file: bytes) -> None:
    """Every write, with markers wherever its request can have words."""
    fill = markers.fill
    given = Session(session_id="s", status=ACTIVE, user_id="u")
    fill(given, *NO_WORDS, "name", "allowed_tools")
    preset = fill(Run(run_id="old", status=RunStatus.RUN_STATUS_FAILED), "usage")
    for time in (preset.create_time, preset.start_time, preset.end_time):
        time.seconds = 1
    await talk("CreateSession", s.CreateSessionRequest(session=given, runs=[preset]))
    named = fill(Session(session_id="named", status=ACTIVE), *NO_WORDS, "allowed_tools")
    strict = fill(Session(session_id="strict", status=ACTIVE), *NO_WORDS)
    sessions = [s.NewSession(session=each) for each in (named, strict)]
    await talk("BatchCreateSessions", s.BatchCreateSessionsRequest(sessions=sessions))
    put = DocumentWrite(put=fill(Document(key="with", scope=CONTENT, scope_id="s", json='{"a": 1}')))
    messages = [spoken(markers), spoken(markers, Role.ROLE_ASSISTANT), spoken(markers)]
    for number, each in enumerate(messages):
        each.message_id = f"m{number}"
    await talk("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=messages, documents=[put]))
    for number in range(3):
        update = Session(session_id="s")
        update.state.update({markers.text("Session.state"): {markers.text("Session.state"): "x" * 5000 * (not number)}})
        request = s.UpdateSessionRequest(session=update, struct_update=s.STRUCT_UPDATE_MERGE)
        request.update_mask.paths.append("state")
        await talk("UpdateSession", request)
    update = Session(session_id="s", summary=markers.text("Session.summary"), name=markers.text("Session.name"))
    change = s.SessionUpdate(session=update)
    change.update_mask.paths.extend(["summary", "name"])
    await talk("BatchUpdateSessions", s.BatchUpdateSessionsRequest(updates=[change]))
    summary = fill(Summary(through_seq=2, actor=""), "usage", "actor")
    await talk("CreateSummary", x.CreateSummaryRequest(session_id="s", summary=summary))
    await _worked(talk, markers)
    for scope, name in ((TENANT_WIDE, ""), (USER, "u"), (CONTENT, "s")):
        text = markers.text("Document.json")
        document = Document(key="k", scope=scope, scope_id=name, json=f'{{"{text}": "{text}"}}')
        await talk("PutDocument", d.PutDocumentRequest(document=document, request_id=f"put-{scope}"))
        data = Document(key="bytes", scope=scope, scope_id=name, data=markers.text("Document.data").encode())
        await talk("PutDocument", d.PutDocumentRequest(document=data))
    await _uploaded(talk, markers, tenant_file)
    await talk("ForkSession", s.ForkSessionRequest(session_id="s", fork_session_id="branch"))
    await talk("ForkSession", s.ForkSessionRequest(session_id="s", message_id="m2", fork_session_id="twig"))
    deltas = [e.Delta(message_id="m9", text=markers.text("Delta.text"))]
    await talk("PublishDelta", e.PublishDeltaRequest(session_id="s", deltas=deltas))
    redaction = fill(m.RedactMessageRequest(session_id="branch", message_id="m0"))
    await talk("RedactMessage", redaction)
    await talk("DeleteMessages", m.DeleteMessagesRequest(session_id="named", last_n=1, return_messages=True))
    lost = m.AppendMessagesRequest(session_id="named", messages=[spoken(markers), spoken(markers)])
    await talk("AppendMessages", lost)
    gone = m.DeleteMessagesRequest(session_id="named", last_n=1, return_messages=True, request_id="deletion")
    await talk("DeleteMessages", gone)
    strict_words = [ChatMessage(role=Role.ROLE_USER, parts=[Part(text=markers.text("Part.text"))]) for _ in range(3)]
    for number, each in enumerate(strict_words):
        each.message_id = f"w{number}"
    await talk("AppendMessages", m.AppendMessagesRequest(session_id="strict", messages=strict_words))
    await talk("RewindSession", s.RewindSessionRequest(session_id="strict", message_id="w0"))
    await _moved(talk)


async def _worked(talk: Talk, markers: Markers) -> None:
    fill = markers.fill
    run = fill(Run(run_id="r", agent_id="a"), "usage", "error")
    begun = await talk("BeginRun", r.BeginRunRequest(session_id="s", run=run))
    live = RunFence(run_id="r", fence=begun.fence)
    for name, approval in (("good", True), ("bad", True), ("ugly", False), ("late", False)):
        call = ToolCall(tool_call_id=name, requires_approval=approval)
        fill(call, "result", "error", "late_result", "approval", "actor", "requester")
        call.run_id = "r"
        await talk("RequestToolCall", t.RequestToolCallRequest(session_id="s", tool_call=call, run=live))
    approve = fill(t.ApproveToolCallRequest(session_id="s", tool_call_id="good"), "run")
    await talk("ApproveToolCall", approve)
    await talk("RejectToolCall", fill(t.RejectToolCallRequest(session_id="s", tool_call_id="bad"), "run"))
    for name in ("good", "ugly", "late"):
        await talk("StartToolCall", t.StartToolCallRequest(session_id="s", tool_call_id=name, run=live))
    await talk("CompleteToolCall", fill(t.CompleteToolCallRequest(session_id="s", tool_call_id="good", run=live)))
    await talk("FailToolCall", fill(t.FailToolCallRequest(session_id="s", tool_call_id="ugly", run=live)))
    failed = r.FinishRunRequest(session_id="s", run=live, status=RunStatus.RUN_STATUS_FAILED, error=Failure())
    await talk("FinishRun", fill(failed, "usage", "run"))
    await talk("CompleteToolCall", fill(t.CompleteToolCallRequest(session_id="s", tool_call_id="late")))


async def _uploaded(talk: Talk, markers: Markers, content: bytes) -> None:
    chunks = [a.UploadAttachmentRequest(chunk=content[i : i + 60_000]) for i in range(0, len(content), 60_000)]
    first = header("s", "whole", content, name=markers.text("UploadHeader.name"))
    await talk("UploadAttachment", first, *chunks)
    unfinished = header("s", "half", content + b"x", name=markers.text("UploadHeader.name"))
    with pytest.raises(grpc.aio.AioRpcError):
        await talk("UploadAttachment", unfinished, *chunks)


async def _moved(talk: Talk) -> None:
    """A session that is imported, and one of which an import was cut."""
    exported = await talk("ExportSession", ex.ExportSessionRequest(session_id="s"))
    records = [record for answer in exported for record in answer.records]
    for name, some in (("moved", records), ("cut", records[: len(records) // 2])):
        first = ex.ImportSessionRequest(header=ex.ImportHeader(record=records[0], session_id=name))
        rest = [ex.ImportSessionRequest(records=[each]) for each in some[1:]]
        if name == "moved":
            await talk("ImportSession", first, *rest)
        else:
            with pytest.raises(grpc.aio.AioRpcError):
                await talk("ImportSession", first, *rest)


@pytest.mark.long
@pytest.mark.parametrize("storage", ["database", "folder"])
async def test_no_word_is_at_rest(storage: str, tmp_path: Path) -> None:
    markers = Markers()
    content = b"".join(markers.text("chunk").encode() + bytes(5_000) for _ in range(130))
    keys = tmp_path / "keys"
    keys.write_text(line("kek"))
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    with data_folder() as folder:
        where = ("--blob-store", f"file://{blobs}") if storage == "folder" else ()
        arguments = ("--data-dir", folder, "--encryption-keys", f"file:{keys}", *where)
        async with serving(*arguments, "--log-level", "debug") as server:
            async with grpc.aio.insecure_channel(server.target) as channel:
                talk = Talk(channel)
                await said_everything(talk, markers, content)
                assert set(WRITES) == (talk.called & set(WRITES)) | WITHOUT_WORDS | IN_THE_CLEAR
                await _read_back(talk, markers, content)
            dumped = await _flushed(folder)
            places = [*_files(folder), *_files(blobs), server.log]
            assert storage != "folder" or any(blobs.rglob("*/*"))
            found = {place for path in places for place in markers.found_in(path.read_bytes())}
            found |= {f"Valkey: {place}" for place in markers.found_in(dumped)}
            assert found == set()
            # The proof that the search itself finds what is there: the keys are in the clear.
            assert any(b"branch" in path.read_bytes() for path in _files(folder))
            assert dumped
            assert await server.stop() == 0
        assert {place for path in _files(folder) for place in markers.found_in(path.read_bytes())} == set()


async def _read_back(talk: Talk, markers: Markers, content: bytes) -> None:
    """What was written can be read: the markers are there."""
    session = await talk("GetSession", s.GetSessionRequest(session_id="s", view=SessionView.SESSION_VIEW_FULL))
    assert {"Session.state", "Session.summary", "Session.name"} <= markers.found_in(session.SerializeToString())
    for name in ("s", "twig", "moved"):
        page = await talk("ListMessages", m.ListMessagesRequest(session_id=name))
        assert {"Part.text", "Part.json"} <= markers.found_in(page.SerializeToString()), name
        # Once more, of the cache.
        again = await talk("ListMessages", m.ListMessagesRequest(session_id=name))
        assert again == page
    branch = await talk("ListMessages", m.ListMessagesRequest(session_id="branch"))
    assert branch.messages[0].redact_reason.startswith("Marked")
    file = await talk("DownloadAttachment", a.DownloadAttachmentRequest(session_id="s", attachment_id="whole"))
    assert b"".join(part.chunk for part in file) == content
    part = a.DownloadAttachmentRequest(session_id="s", attachment_id="whole", offset=524_000, length=70_000)
    assert b"".join(each.chunk for each in await talk("DownloadAttachment", part)) == content[524_000:594_000]


async def _flushed(folder: Path) -> bytes:
    """Makes Postgres write everything to its files, and returns a dump of what Valkey has."""
    dsn = running_dsn(folder)
    assert dsn is not None
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("checkpoint")
    finally:
        await connection.close()
    client = redis.Redis(unix_socket_path=str(folder / "run" / "valkey.sock"))
    try:
        keys: Sequence[bytes] = client.keys("*")  # type: ignore[assignment]
        return b"".join(client.dump(key) or b"" for key in keys)
    finally:
        client.close()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
