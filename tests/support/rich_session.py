"""A session with something of everything that a log can have."""

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.document_pb2 import Document, DocumentScope
from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.session_pb2 import AgentMode, Session, SessionConfig, SessionType, TokenUsage
from sessiond.v1.summary_pb2 import Summary
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.blobs.contract import BlobStore
from sessiond_server.domain import commands as c
from tests.support import run_actions as act
from tests.support.caller import ACTIVE, PADDED, Caller, accepted, message, one, struct
from tests.support.store_backend import Backend
from tests.support.stored_uploads import begun, completion, declared

FILE = b"0123456789" * 60_000
"""More than a chunk, and than a segment."""


async def made(backend: Backend, caller: Caller, blobs: BlobStore, session_id: str = "s") -> None:
    """Makes the session `session_id`, which has a live run, a queued one, open tool calls and two attachments."""
    store, command = backend.store, caller.command
    preset = [Run(run_id=f"old-{n}", status=RunStatus.RUN_STATUS_COMPLETED) for n in range(2)]
    for run in preset:
        run.create_time.seconds, run.start_time.seconds, run.end_time.seconds = 1, 2, 3
    given = Session(
        session_id=session_id, status=ACTIVE, user_id="u\u00e9", labels={"a": "line\nbreak", "\u0062": "\U0001f600"},
        metadata=struct(deep={"x": [1, 2.5, None, True, "\u4e2d\u6587"]}), summary=PADDED, state=struct(n=0),
        config=SessionConfig(max_messages=1000, system_prompt="be kind", allowed_tools=["search"]),
    )  # fmt: skip
    given.type, given.agent_mode = SessionType.SESSION_TYPE_AGENT, AgentMode.AGENT_MODE_GENERAL
    given.ttl.seconds = 3600
    await accepted(store, command(session_id, c.CreateSession(given, preset), "creation"))
    marked = message("the name of the session \u05e9\u05dc\u05d5\u05dd", "m1")
    marked.labels["k"] = "v\nw"
    marked.client_time.seconds = 7
    marked.usage.CopyFrom(TokenUsage(input_tokens=3, output_tokens=4))
    await accepted(
        store, command(session_id, c.AppendMessages([marked, message("second", "m2"), message("third", "m3")]))
    )
    for number in range(3):
        await accepted(store, caller.set_keys(session_id, n=number, more=f"value {number}"))
    await accepted(store, caller.update(session_id, metadata=struct(other=1)))
    put = c.PutDocument(DocumentScope.DOCUMENT_SCOPE_SESSION, session_id, "d", Document(key="d", json='{"a": 1}'))
    await accepted(store, caller.append_with(session_id, put))
    await accepted(store, caller.redact(session_id, "m2", "asked for"))
    await accepted(store, caller.delete_messages(session_id, "m3"))
    await accepted(store, command(session_id, c.AppendMessages([message("third anew", "m3")])))
    await accepted(store, command(session_id, c.CreateSummary(Summary(text="short", through_seq=2))))
    await _work(backend, caller, session_id)
    for attachment_id, content in (("gone", b"gone"), ("small", b"x"), ("large", FILE), ("twin", FILE)):
        await _attach(backend, caller, blobs, session_id, attachment_id, content)
    await accepted(store, command(session_id, c.DeleteAttachment("gone")))


async def _work(backend: Backend, caller: Caller, session_id: str) -> None:
    store, command = backend.store, caller.command
    for number in range(3):
        started = await one(store, command(session_id, act.begin(f"run-{number}")), c.RunWritten)
        fence = c.Fence(f"run-{number}", Run.FromString(started.run).fence)
        ask = act.request(f"call-{number}", text="arguments", approval=number == 0)
        await accepted(store, command(session_id, ask, fence=fence))
        if number:
            await accepted(store, command(session_id, c.StartToolCall(f"call-{number}"), fence=fence))
        if number == 1:
            await accepted(store, command(session_id, act.complete("call-1", "the result"), fence=fence))
            await accepted(store, command(session_id, act.complete("call-1", "again")))
        if number < 2:
            await accepted(store, command(session_id, act.finish(10), fence=fence))
    waits = await one(store, command(session_id, act.begin("queued", act.ENQUEUE)), c.RunWritten)
    assert Run.FromString(waits.run).status == RunStatus.RUN_STATUS_QUEUED
    pending = await one(store, command(session_id, act.request("asks", approval=True, ttl=100)), c.ToolCallWritten)
    assert ToolCall.FromString(pending.tool_call).requires_approval


async def _attach(
    backend: Backend, caller: Caller, blobs: BlobStore, session_id: str, attachment_id: str, content: bytes
) -> None:
    upload = await begun(backend, caller, declared(attachment_id, content), session_id)
    for start in range(0, len(content), blobs.segment):
        await blobs.append(upload.piece, start, [content[start : start + blobs.segment]])
    done = await one(backend.store, caller.command(session_id, completion(upload)), c.AttachmentUploaded)
    assert Attachment.FromString(done.attachment).attachment_id == attachment_id
