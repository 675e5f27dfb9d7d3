"""Runs as streams of Vercel's AI SDK: what they have, live and behind the fact, and how they end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import run_service_pb2 as r
from sessiond.v1 import tool_call_service_pb2 as t
from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message, Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.run_pb2 import Failure, Run, RunFence, RunStatus
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallStatus, ToolData
from sessiond_server.http import run_streams
from sessiond_server.http.ai_sdk import Conversion
from sessiond_server.http.exchange import Gone
from sessiond_server.http.problems import Problem
from tests.support import node
from tests.support.programs import output_of
from tests.support.rows import table
from tests.support.waiting import PATIENCE
from tests.support.web import Web
from tests.support.wire import OTHER_TENANT, TENANT

URL = "/v1/sessions/s/runs/r/aiSdk"
FENCE = RunFence(run_id="r", fence=1)

COMPLETED, FAILED = RunStatus.RUN_STATUS_COMPLETED, RunStatus.RUN_STATUS_FAILED
CANCELLED = RunStatus.RUN_STATUS_CANCELLED


class Agent:
    """What an agent does in the run `r` of the session `s`."""

    def __init__(self, web: Web) -> None:
        self._call = web.wire.call
        self._web = web
        self._fence = FENCE

    async def begin(self) -> None:
        await self._web.wire.create("s")
        run = await self._call("BeginRun", r.BeginRunRequest(session_id="s", run=Run(run_id="r")))
        self._fence = RunFence(run_id="r", fence=run.fence)

    async def says(self, message_id: str, offset: int, text: str, part: int = 0, kind: str = "text") -> None:
        delta = e.Delta(message_id=message_id, part_index=part, offset=offset, run_id="r")
        setattr(delta, kind, text)
        await self._call("PublishDelta", e.PublishDeltaRequest(session_id="s", deltas=[delta]))

    async def appends(self, message: Message) -> None:
        request = m.AppendMessagesRequest(session_id="s", messages=[message], run=self._fence)
        await self._call("AppendMessages", request)

    async def asks(self, name: str, *, approval: bool = False) -> None:
        call = ToolCall(tool_call_id=name, name=name, requires_approval=approval, arguments=ToolData(text='{"q": 1}'))
        await self._call("RequestToolCall", t.RequestToolCallRequest(session_id="s", tool_call=call, run=self._fence))

    async def gets(self, name: str, result: str) -> None:
        await self._call("StartToolCall", t.StartToolCallRequest(session_id="s", tool_call_id=name, run=self._fence))
        request = t.CompleteToolCallRequest(session_id="s", tool_call_id=name, result=ToolData(text=result))
        await self._call("CompleteToolCall", request)

    async def finishes(self, status: "RunStatus.ValueType" = COMPLETED, **fields: Any) -> None:
        await self._call("FinishRun", r.FinishRunRequest(session_id="s", run=self._fence, status=status, **fields))


def assistant(message_id: str, *parts: Part) -> Message:
    return Message(message_id=message_id, role=Role.ROLE_ASSISTANT, parts=parts)


@asynccontextmanager
async def chunks(web: Web, url: str = URL, **headers: str) -> AsyncIterator[Any]:
    """An iterator of what comes."""
    async with web.client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"] == "text/event-stream"
        assert (response.headers.get("x-vercel-ai-ui-message-stream") == "v1") == (url == URL)
        lines = response.aiter_lines()

        async def found() -> AsyncIterator[Any]:
            async with asyncio.timeout(PATIENCE):
                async for line in lines:
                    if line.startswith("data: "):
                        yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])

        yield found()


async def whole(web: Web, url: str = URL) -> list[Any]:
    async with chunks(web, url) as found:
        return [each async for each in found]


TOLD = [
    {"type": "start", "messageId": "r"},
    {"type": "reasoning-start", "id": "m1:0"},
    {"type": "reasoning-delta", "id": "m1:0", "delta": "Hm."},
    {"type": "reasoning-end", "id": "m1:0"},
    {"type": "text-start", "id": "m1:1"},
    {"type": "text-delta", "id": "m1:1", "delta": "I look 日本"},
    {"type": "text-end", "id": "m1:1"},
    {"type": "tool-input-available", "toolCallId": "look", "toolName": "look", "input": {"q": 1}},
    {"type": "tool-approval-request", "approvalId": "look", "toolCallId": "look"},
    {"type": "tool-output-available", "toolCallId": "look", "output": "found"},
    {"type": "text-start", "id": "m2:0"},
    {"type": "text-delta", "id": "m2:0", "delta": "There."},
    {"type": "text-end", "id": "m2:0"},
    {"type": "finish"},
    "[DONE]",
]


async def told(agent: Agent) -> AsyncIterator[None]:
    """Does all of it, and stops after each step."""
    await agent.says("m1", 0, "Hm.", kind="thinking")
    yield
    await agent.says("m1", 0, "I look ", part=1)
    yield
    await agent.says("m1", 7, "日", part=1)
    yield
    await agent.appends(assistant("m1", Part(thinking="Hm."), Part(text="I look 日本")))
    yield
    await agent.asks("look", approval=True)
    yield
    await agent._call("ApproveToolCall", t.ApproveToolCallRequest(session_id="s", tool_call_id="look"))
    yield
    await agent.gets("look", "found")
    yield
    await agent.appends(assistant("m2", Part(text="There.")))
    yield
    await agent.finishes()


def joined(found: list[Any]) -> list[Any]:
    """The same with one delta for each text, in the order in which parts begin."""
    parts: dict[str, list[Any]] = {}
    for each in found:
        key = each if isinstance(each, str) else each.get("id") or each.get("toolCallId") or each["type"]
        known = parts.setdefault(key, [])
        if known and isinstance(each, dict) and "delta" in each and "delta" in known[-1]:
            known[-1] = {**each, "delta": known[-1]["delta"] + each["delta"]}
        else:
            known.append(each)
    return [each for known in parts.values() for each in known]


async def test_run_is_the_same_live_and_afterwards_and_from_the_middle(web: Web) -> None:
    agent = Agent(web)
    await agent.begin()
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(whole(web))]
        async for _ in told(agent):
            readers.append(group.create_task(whole(web)))
            async with chunks(web) as found:
                assert await anext(found) == TOLD[0]
    for place, reader in enumerate(readers):
        assert joined(reader.result()) == TOLD, place
    assert joined(await whole(web)) == TOLD


AG_UI = "/v1/sessions/s/runs/r/agUi"


async def test_run_as_events_of_ag_ui(web: Web) -> None:
    agent = Agent(web)
    await agent.begin()
    live = asyncio.create_task(whole(web, AG_UI))
    async with chunks(web, AG_UI) as found:
        assert await anext(found) == {"type": "RUN_STARTED", "threadId": "s", "runId": "r"}
    async for _ in told(agent):
        pass
    events = await whole(web, AG_UI)
    asked = {"threadId": "t", "runId": "x", "messages": [], "tools": [], "context": [], "state": {}}
    posted = await web.post(AG_UI, asked)
    assert [json.loads(line.removeprefix("data: ")) for line in posted.text.split("\n\n") if line] == events
    assert (await web.client.post(AG_UI, content=b"x")).status_code == 415
    assert (await web.post(AG_UI.replace("/r/", "/none/"), asked)).status_code == 404
    assert (await web.get("/v1/sessions/s/runs")).json()["runs"][0]["run_id"] == "r"  # no other has begun
    kinds = [event["type"] for event in events]
    # A draft ends with its message, so that live parts begin before others have ended; they come in more pieces.
    assert {event["type"] for event in await live} == set(kinds)
    assert kinds == [
        "RUN_STARTED",
        *("REASONING_START", "REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_END"),
        *("REASONING_END", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"),
        *("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "CUSTOM", "TOOL_CALL_RESULT"),
        *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "RUN_FINISHED"),
    ]
    assert events[13]["content"] == "found"
    assert events[12]["value"] == {"approvalId": "look", "toolCallId": "look"}


async def test_runs_that_do_not_complete_say_so(web: Web) -> None:
    agent = Agent(web)
    await agent.begin()
    await agent.asks("a")
    await agent.asks("b", approval=True)
    await agent._call("RejectToolCall", t.RejectToolCallRequest(session_id="s", tool_call_id="b"))
    await agent.finishes(FAILED, error=Failure(code="no_model", message="The model is away."))
    found = await whole(web)
    assert {"type": "tool-output-error", "toolCallId": "a", "errorText": "cancelled"} in found
    assert {"type": "tool-output-denied", "toolCallId": "b"} in found
    events = await whole(web, AG_UI)
    assert events[-1] == {"type": "RUN_ERROR", "message": "The model is away.", "code": "FAILED"}
    results = {event["toolCallId"]: event["content"] for event in events if event["type"] == "TOOL_CALL_RESULT"}
    assert results == {"a": '{"error":"cancelled"}', "b": '{"error":"the call was rejected"}'}
    assert found[-3:] == [{"type": "error", "errorText": "The model is away."}, {"type": "finish"}, "[DONE]"]


async def test_run_of_another_or_none_is_not_found(web: Web) -> None:
    agent = Agent(web)
    await agent.begin()
    token = (await web.post("/v1/sessions/s:createToken", {})).json()["token"]
    with table() as rows:
        for url, key, expected in (
            (URL.replace("/r/", "/none/"), TENANT, (404, "RUN_NOT_FOUND")),
            (URL.replace("/s/", "/none/"), TENANT, (404, "SESSION_NOT_FOUND")),
            (URL, OTHER_TENANT, (404, "SESSION_NOT_FOUND")),
            (URL, "no", (401, "UNAUTHENTICATED")),
            (URL.replace("/s/", "/t/"), token, (403, "TOKEN_FORBIDS")),
            (f"{URL}?x=1", TENANT, (400, "INVALID_FIELD")),
        ):
            with rows.row(url, key[:9]):
                answer = await web.get(url, authorization=f"Bearer {key}")
                assert (answer.status_code, answer.json()["reason"]) == expected
    async with chunks(web, authorization=f"Bearer {token}") as found:
        assert await anext(found) == TOLD[0]
    assert (await web.client.head(URL)).status_code == 200


async def test_deleted_session_breaks_the_stream_off(web: Web) -> None:
    agent = Agent(web)
    await agent.begin()
    reading = asyncio.create_task(whole(web))
    async with chunks(web) as found:
        await anext(found)
    assert (await web.client.delete("/v1/sessions/s")).status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        await reading


async def test_reads_that_find_no_room_break_the_stream_off() -> None:
    sent: list[bytes] = []

    async def unary(*_: Any) -> bytes:
        raise Problem(503, "TOO_MANY_CALLS", "too many calls at once")

    async def write(request: Any, text: bytes, tenant_id: str) -> None:
        sent.append(text)

    async def frames() -> AsyncIterator[bytes]:
        yield b""

    story = run_streams._Story(Any, Run(run_id="r", session_id="s"), "acme", unary, write)  # type: ignore[arg-type]
    with pytest.raises(Gone):
        await story.send(frames())
    assert sent == [b'data: {"type":"start","messageId":"r"}\n\n']


async def test_draft_that_overtakes_a_message_is_shown_behind_it() -> None:
    sent: list[bytes] = []
    first, second = assistant("m1", Part(text="first")), assistant("m2", Part(text="second"))
    first.run_id = second.run_id = "r"

    async def unary(rpc: str, *_: Any) -> bytes:
        return Session(version=7).SerializeToString() if rpc == "GetSession" else b""

    async def write(request: Any, text: bytes, tenant_id: str) -> None:
        sent.append(text)

    def event(seq: int, **content: Any) -> e.WatchSessionResponse:
        return e.WatchSessionResponse(events=e.EventBatch(events=[Event(seq=seq, **content)]))

    async def frames() -> AsyncIterator[bytes]:
        for offset, text in ((0, "sec"), (3, "on")):
            delta = e.Delta(message_id="m2", run_id="r", offset=offset, text=text)
            yield e.WatchSessionResponse(deltas=e.DeltaBatch(deltas=[delta])).SerializeToString()
        appended = EventType.EVENT_TYPE_MESSAGE_APPENDED
        yield event(6, type=EventType.EVENT_TYPE_SESSION_UPDATED).SerializeToString()
        yield event(7, type=appended, message=first).SerializeToString()
        yield event(8, type=appended, message=second).SerializeToString()
        yield event(9, run=Run(run_id="r", status=COMPLETED)).SerializeToString()

    story = run_streams._Story(Any, Run(run_id="r", session_id="s"), "acme", unary, write)  # type: ignore[arg-type]
    story.seq = 5
    await story.send(frames())
    found = [json.loads(line[6:]) for line in b"".join(sent).splitlines() if line.startswith(b"data: {")]
    assert [(each["type"], each.get("delta") or each.get("id")) for each in found[1:-1]] == [
        ("text-start", "m1:0"),
        ("text-delta", "first"),
        ("text-end", "m1:0"),
        ("text-start", "m2:0"),
        ("text-delta", "sec"),
        ("text-delta", "on"),
        ("text-delta", "d"),
        ("text-end", "m2:0"),
    ]


def texts(*steps: Any) -> list[tuple[str, str]]:
    conversion = Conversion("r")
    found: list[tuple[str, str]] = []
    for step in steps:
        if isinstance(step, Message):
            made = conversion.message(step)
        else:
            offset, text = step
            made = conversion.delta(e.Delta(message_id="m", offset=offset, text=text))
        found += [(each["type"], each.get("delta") or each["id"]) for each in made]
    return found


def test_pieces_that_do_not_join_are_mended_by_the_message() -> None:
    final = assistant("m", Part(text="abcdef"))
    start, end = ("text-start", "m:0"), ("text-end", "m:0")

    def delta(text: str) -> tuple[str, str]:
        return ("text-delta", text)

    with table() as rows:
        for steps, expected in (
            (((0, "abc"), (3, "def")), [start, delta("abc"), delta("def"), end]),
            (((0, "abc"), (0, "abcd"), (1, "b")), [start, delta("abc"), delta("d"), delta("ef"), end]),
            (((0, "ab"), (4, "ef")), [start, delta("ab"), delta("cdef"), end]),
            (((3, "def"),), [start, delta("abcdef"), end]),
            (((0, ""),), [start, delta("abcdef"), end]),
        ):
            with rows.row(steps):
                assert texts(*steps, final) == expected
                assert texts(*steps, final, final, (0, "late")) == expected
        with rows.row("another text"):
            other = [("text-start", "m:0:whole"), delta("abcdef"), ("text-end", "m:0:whole")]
            assert texts((0, "xyz"), final) == [start, delta("xyz"), end, *other]
        with rows.row("a part that the message lacks"):
            assert texts((0, "abc"), assistant("m")) == [start, delta("abc"), end]
        with rows.row("cut within a character"):
            assert texts((0, "é"), (1, "xx"))[:2] == [start, delta("é")]


def test_calls_and_results_in_messages_count_once() -> None:
    conversion = Conversion("r")
    asked = assistant("m", Part(tool_call=ToolCallPart(tool_call_id="c", name="look", arguments_json='{"q":')))
    call = ToolCall(tool_call_id="id", model_call_id="c", name="look", status=ToolCallStatus.TOOL_CALL_STATUS_PENDING)
    result = ToolResultPart(tool_call_id="c", text="no", is_error=True)
    answer = Message(message_id="n", role=Role.ROLE_TOOL, parts=[Part(tool_result=result)])
    found = [*conversion.message(asked), *conversion.tool_call(call), *conversion.message(answer)]
    call.status = ToolCallStatus.TOOL_CALL_STATUS_COMPLETED
    assert [*found, *conversion.tool_call(call)] == [
        {"type": "tool-input-available", "toolCallId": "c", "toolName": "look", "input": '{"q":'},
        {"type": "tool-output-error", "toolCallId": "c", "errorText": "no"},
    ]


@pytest.mark.long
@pytest.mark.skipif(bool(node.missing()), reason=node.missing())
async def test_published_packages_show_a_run_live_and_from_the_middle(web: Web) -> None:
    """The AI SDK's own transport and reader, and AG-UI's own agent, which verifies the order of events."""
    await asyncio.to_thread(node.install)
    agent = Agent(web)
    await agent.begin()
    async with asyncio.TaskGroup() as group:
        readers = []
        steps = told(agent)
        for _ in range(3):
            await anext(steps)
            readers.append(group.create_task(_shown(web, "ai_sdk.js", URL)))
            readers.append(group.create_task(_shown(web, "ag_ui.js", AG_UI)))
        async for _ in steps:
            pass
    found = [reader.result() for reader in readers]
    found += [await _shown(web, "ai_sdk.js", URL), await _shown(web, "ag_ui.js", AG_UI)]
    for last in found[::2]:
        assert last["error"] is None
        assert (last["message"]["id"], last["message"]["role"]) == ("r", "assistant")
        assert [(part["type"], part.get("text"), part.get("state")) for part in last["message"]["parts"]] == [
            ("reasoning", "Hm.", "done"),
            ("text", "I look 日本", "done"),
            ("tool-look", None, "output-available"),
            ("text", "There.", "done"),
        ]
    for last in found[1::2]:
        assert last["error"] is None
        kept = [(each["role"], each.get("content")) for each in last["messages"] if each.get("content")]
        assert kept == [
            ("reasoning", "Hm."),
            ("assistant", "I look 日本"),
            ("tool", "found"),
            ("assistant", "There."),
        ]
        calls = [call["function"] for each in last["messages"] for call in each.get("toolCalls") or []]
        assert calls == [{"name": "look", "arguments": '{"q":1}'}]


async def _shown(web: Web, program: str, url: str) -> Any:
    out = await output_of("node", str(node.BUILT / program), f"http://127.0.0.1:{web.port}{url}", TENANT)
    last = json.loads(out.splitlines()[-1])
    assert last["ended"]
    return last
