"""Every type of event, as its comment in event.proto says: after which call it comes, with what it tells of."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message import Message as ProtoMessage
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1 import attachment_service_pb2 as a
from sessiond.v1 import context_service_pb2 as x
from sessiond.v1 import document_service_pb2 as d
from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import run_service_pb2 as r
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1 import tool_call_service_pb2 as t
from sessiond.v1.document_pb2 import Document, DocumentScope, DocumentWrite
from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.run_pb2 import Failure, Run, RunFence, RunStatus
from sessiond.v1.session_pb2 import Session, TokenUsage
from sessiond.v1.summary_pb2 import Summary
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallStatus, ToolData
from tests.support.attachments import Site, site
from tests.support.wire import Watch, said

FAILURE = Failure(code="broken")


class Watched:
    """The session `s`, watched from its beginning while calls are made."""

    def __init__(self, place: Site, watcher: Watch) -> None:
        self.place = place
        self._watcher = watcher
        self.seen: list[str] = []

    async def emits(self, *types: str) -> Sequence[Event]:
        """The next events, which are of just these types and follow what was seen."""
        events: list[Event] = []
        while len(events) < len(types):
            events += (await self._watcher.read()).events.events
        assert tuple(EventType.Name(event.type).removeprefix("EVENT_TYPE_") for event in events) == types
        self.seen += types
        assert events[-1].seq == len(self.seen), "and nothing between"
        return events

    async def does(self, rpc: str, request: ProtoMessage, *types: str) -> Any:
        """The answer of a call that emits these. The first that has the resource of the answer has it as answered."""
        answer = await self.place.wire.call(rpc, request)
        payloads = [getattr(event, str(event.WhichOneof("payload"))) for event in await self.emits(*types)]
        if isinstance(answer, Session):
            assert (payloads[-1].version, payloads[-1].status) == (answer.version, answer.status)
        elif isinstance(answer, Run | ToolCall):
            # What an earlier event has does not come again.
            for message in (answer, *payloads):
                if isinstance(message, ToolCall):
                    message.ClearField("arguments")
            assert answer in payloads
        return answer

    async def begins(self, run_id: str, status: str, policy: Any = 0) -> RunFence:
        request = r.BeginRunRequest(session_id="s", run=Run(run_id=run_id), policy=policy)
        run = await self.does("BeginRun", request, status)
        return RunFence(run_id=run_id, fence=run.fence)

    async def asks(self, tool_call_id: str, **fields: Any) -> None:
        call = ToolCall(tool_call_id=tool_call_id, name="search", arguments=ToolData(text="x"), **fields)
        await self.does(
            "RequestToolCall", t.RequestToolCallRequest(session_id="s", tool_call=call), "TOOL_CALL_REQUESTED"
        )

    async def starts(self, tool_call_id: str) -> None:
        request = t.StartToolCallRequest(session_id="s", tool_call_id=tool_call_id)
        await self.does("StartToolCall", request, "TOOL_CALL_STARTED")


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    async with site() as place:
        watcher = place.wire.watch("WatchSession", e.WatchSessionRequest(session_id="s", from_beginning=True))
        assert (await watcher.read()).HasField("resumed")
        one = Watched(place, watcher)
        await one.emits("SESSION_CREATED")
        yield one


async def life(one: Watched) -> None:
    update = s.UpdateSessionRequest(session=Session(session_id="s", name="new"))
    update.update_mask.paths.append("name")
    await one.does("UpdateSession", update, "SESSION_UPDATED")
    await one.does("SuspendSession", s.SuspendSessionRequest(session_id="s"), "SESSION_SUSPENDED")
    await one.does("ResumeSession", s.ResumeSessionRequest(session_id="s"), "SESSION_RESUMED")
    await one.does("SuspendSession", s.SuspendSessionRequest(session_id="s"), "SESSION_SUSPENDED")
    await one.does("ActivateSession", s.ActivateSessionRequest(session_id="s"), "SESSION_ACTIVATED")
    await one.does("TouchSession", s.TouchSessionRequest(session_id="s"), "SESSION_TOUCHED")
    await one.does("EndSession", s.EndSessionRequest(session_id="s"), "SESSION_ENDED")
    await one.place.wire.call("DeleteSession", s.DeleteSessionRequest(session_id="s"))
    (last,) = await one.emits("SESSION_DELETED")
    assert last.session == Session(session_id="s", version=last.seq)


async def expiry(one: Watched) -> None:
    one.place.clock.advance(2 * 86_400)
    await one.place.wire.call("EndSession", s.EndSessionRequest(session_id="s"))
    await one.emits("SESSION_EXPIRED")


async def messages(one: Watched) -> None:
    append = m.AppendMessagesRequest(session_id="s", messages=[said("one", message_id="m1"), said("two")])
    await one.place.wire.call("AppendMessages", append)
    first, _ = await one.emits("MESSAGE_APPENDED", "MESSAGE_APPENDED")
    assert first.session_name == "one"
    redact = m.RedactMessageRequest(session_id="s", message_id="m1")
    left = await one.place.wire.call("RedactMessage", redact)
    (event,) = await one.emits("MESSAGE_REDACTED")
    assert event.message == left
    delete = m.DeleteMessagesRequest(session_id="s", ids=m.MessageIds(message_ids=["m1"]))
    gone = await one.place.wire.call("DeleteMessages", delete)
    (event,) = await one.emits("MESSAGES_DELETED")
    assert list(event.deleted_messages.seqs) == list(gone.seqs) == [first.seq]


async def runs(one: Watched) -> None:
    enqueue = r.RunPolicy.RUN_POLICY_ENQUEUE
    fences = [await one.begins("r1", "RUN_STARTED")]
    fences += [await one.begins(f"r{number}", "RUN_QUEUED", enqueue) for number in (2, 3)]
    done = r.FinishRunRequest(session_id="s", run=fences[0], status=RunStatus.RUN_STATUS_COMPLETED)
    await one.does("FinishRun", done, "RUN_COMPLETED", "RUN_STARTED")
    second = await one.place.wire.call("GetRun", r.GetRunRequest(session_id="s", run_id="r2"))
    failed = r.FinishRunRequest(
        session_id="s",
        run=RunFence(run_id="r2", fence=second.fence),
        status=RunStatus.RUN_STATUS_FAILED,
        error=FAILURE,
    )
    run = await one.does("FinishRun", failed, "RUN_FAILED", "RUN_STARTED")
    assert run.error == FAILURE
    await one.does("CancelRun", r.CancelRunRequest(session_id="s", run_id="r3"), "RUN_CANCELLED")


async def tool_calls(one: Watched) -> None:
    for name in ("approved", "rejected"):
        await one.asks(name, requires_approval=True)
    for name in ("completed", "failed", "cancelled"):
        await one.asks(name)
    approve = t.ApproveToolCallRequest(session_id="s", tool_call_id="approved")
    call = await one.does("ApproveToolCall", approve, "TOOL_CALL_APPROVED")
    assert call.HasField("approval")
    reject = t.RejectToolCallRequest(session_id="s", tool_call_id="rejected")
    await one.does("RejectToolCall", reject, "TOOL_CALL_REJECTED")
    for name in ("completed", "failed", "cancelled"):
        await one.starts(name)
    complete = t.CompleteToolCallRequest(session_id="s", tool_call_id="completed", result=ToolData(text="y"))
    await one.does("CompleteToolCall", complete, "TOOL_CALL_COMPLETED")
    fail = t.FailToolCallRequest(session_id="s", tool_call_id="failed", error=FAILURE)
    call = await one.does("FailToolCall", fail, "TOOL_CALL_FAILED")
    assert call.error == FAILURE
    cancel = t.CancelToolCallRequest(session_id="s", tool_call_id="cancelled")
    await one.does("CancelToolCall", cancel, "TOOL_CALL_CANCELLED")
    late = t.CompleteToolCallRequest(session_id="s", tool_call_id="cancelled", result=ToolData(text="z"))
    await one.place.wire.call("CompleteToolCall", late)
    (event,) = await one.emits("TOOL_CALL_LATE_RESULT")
    assert event.tool_call.HasField("late_result")
    expire_time = Timestamp()
    expire_time.FromMicroseconds(one.place.clock() + 1_000_000)
    await one.asks("overdue", requires_approval=True, expire_time=expire_time)
    one.place.clock.advance(1)
    await one.place.wire.store.expire_due(10)
    (event,) = await one.emits("TOOL_CALL_EXPIRED")
    assert event.tool_call.status == ToolCallStatus.TOOL_CALL_STATUS_REJECTED


async def attachments(one: Watched) -> None:
    uploaded = await one.place.upload("s", "a1", b"content")
    (event,) = await one.emits("ATTACHMENT_UPLOADED")
    assert event.attachment == uploaded
    await one.place.wire.call("DeleteAttachment", a.DeleteAttachmentRequest(session_id="s", attachment_id="a1"))
    (event,) = await one.emits("ATTACHMENT_DELETED")
    assert event.attachment == uploaded


async def documents(one: Watched) -> None:
    """Of the session; those of others are no event, and those of an append are in its own."""
    own = Document(scope=DocumentScope.DOCUMENT_SCOPE_SESSION, scope_id="s", key="k", json="1")
    shared = Document(scope=DocumentScope.DOCUMENT_SCOPE_TENANT, key="k", json="1")
    await one.place.wire.call("PutDocument", d.PutDocumentRequest(document=shared))
    put = await one.place.wire.call("PutDocument", d.PutDocumentRequest(document=own))
    (event,) = await one.emits("DOCUMENT_PUT")
    assert [(x.key, x.version, x.seq, x.update_time) for x in event.documents] == [("k", 1, 2, put.update_time)]
    both = [DocumentWrite(put=own), DocumentWrite(put=shared)]
    request = m.AppendMessagesRequest(session_id="s", messages=[said("x"), said("y")], documents=both)
    answer = await one.place.wire.call("AppendMessages", request)
    first, second = await one.emits("MESSAGE_APPENDED", "MESSAGE_APPENDED")
    assert (list(first.documents), len(second.documents)) == (list(answer.documents), 0)
    gone = d.DeleteDocumentRequest(scope=own.scope, scope_id="s", key="k")
    deleted = await one.place.wire.call("DeleteDocument", gone)
    (event,) = await one.emits("DOCUMENT_DELETED")
    assert (event.documents[0].deleted, event.documents[0].version, event.seq) == (True, 2, deleted.seq)


async def summaries(one: Watched) -> None:
    await one.place.wire.call("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=[said("one")]))
    await one.emits("MESSAGE_APPENDED")
    given = Summary(through_seq=2, text="One.", model="m", usage=TokenUsage(input_tokens=3))
    made = await one.place.wire.call("CreateSummary", x.CreateSummaryRequest(session_id="s", summary=given))
    (event,) = await one.emits("SUMMARY_CREATED")
    assert (event.summary, event.actor) == (made, made.actor)


async def forks(one: Watched) -> None:
    """The fork's own first event; what it shares with its parent is of the parent."""
    wire = one.place.wire
    made = await wire.call("ForkSession", s.ForkSessionRequest(session_id="s", fork_session_id="f"))
    watcher = wire.watch("WatchSession", e.WatchSessionRequest(session_id="f", from_beginning=True))
    events: list[Any] = []
    while not events or events[-1].seq < made.version:
        events += (await watcher.read()).events.events
    assert events[-1].type == EventType.EVENT_TYPE_SESSION_FORKED
    assert events[-1].session == made
    one.seen.append("SESSION_FORKED")


async def rewinds(one: Watched) -> None:
    before = await one.place.wire.call("GetSession", s.GetSessionRequest(session_id="s"))
    made = await one.place.wire.call("RewindSession", s.RewindSessionRequest(session_id="s", seq=before.version))
    (event,) = await one.emits("SESSION_REWOUND")
    assert (event.rewound_to_seq, event.session.version) == (before.version, made.version)


STORIES: Sequence[Callable[[Watched], Awaitable[None]]] = (
    life,
    expiry,
    messages,
    runs,
    tool_calls,
    attachments,
    documents,
    summaries,
    forks,
    rewinds,
)


async def test_every_type_is_emitted_when_its_comment_says() -> None:
    """Nothing more and nothing else: each call's events follow those of the one before."""
    seen: set[str] = set()
    for story in STORIES:
        async with watched() as one:
            await story(one)
            seen.update(one.seen)
    assert {f"EVENT_TYPE_{name}" for name in seen} == set(EventType.keys()) - {"EVENT_TYPE_UNSPECIFIED"}
