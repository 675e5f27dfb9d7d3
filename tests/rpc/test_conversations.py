"""Real conversations with tool calls, replayed as runs and tool calls, read back equal.

A turn of the conversation is a run: the messages that answer a user's, each call of a tool as a tool call of its own
with the result that the tool's message carries.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from examples.demo import chats

import sessiond
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import run_service_pb2 as r
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1 import tool_call_service_pb2 as t
from sessiond.v1.message_pb2 import Message, Role, ToolCallPart
from sessiond.v1.run_pb2 import Run, RunFence, RunStatus
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallStatus, ToolData
from tests.support.wire import Wire

SAMPLE = Path(__file__).parents[2] / "examples" / "demo" / "conversations.jsonl"
CONVERSATIONS = chats.load(SAMPLE)
WITH_TOOLS = [c for c in CONVERSATIONS if any("tool_calls" in chat for chat in c.chats)]


def turns(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """What a user says, alone; and what follows until a user speaks again, together."""
    answer: list[Message] = []
    for message in messages:
        if message.role in (Role.ROLE_USER, Role.ROLE_SYSTEM):
            if answer:
                yield answer
            yield [message]
            answer = []
        else:
            answer.append(message)
    if answer:
        yield answer


def asked(message: Message) -> list[ToolCallPart]:
    return [part.tool_call for part in message.parts if part.HasField("tool_call")]


def answered(message: Message) -> dict[str, str]:
    """What tools answer in the message, by the model's id of the call."""
    results = (part.tool_result for part in message.parts if part.HasField("tool_result"))
    return {result.tool_call_id: result.text for result in results}


async def replay_turn(wire: Wire, session_id: str, number: int, turn: Sequence[Message]) -> None:
    """One run. Models repeat their ids of calls, so each call gets one of its own."""
    run: Run = await wire.call("BeginRun", r.BeginRunRequest(session_id=session_id, run=Run(run_id=f"turn-{number}")))
    fence = RunFence(run_id=run.run_id, fence=run.fence)
    waiting: dict[str, str] = {}
    for place, message in enumerate(turn):
        for tool_call_id, text in answered(message).items():
            name = waiting.pop(tool_call_id)
            start = t.StartToolCallRequest(session_id=session_id, tool_call_id=name, run=fence)
            await wire.call("StartToolCall", start)
            result = t.CompleteToolCallRequest(
                session_id=session_id, tool_call_id=name, result=ToolData(text=text), run=fence
            )
            await wire.call("CompleteToolCall", result)
        append = m.AppendMessagesRequest(session_id=session_id, messages=[message], run=fence)
        appended = await wire.call("AppendMessages", append)
        for index, part in enumerate(asked(message)):
            name = f"turn-{number}.{place}.{index}"
            waiting[part.tool_call_id] = name
            call = ToolCall(
                tool_call_id=name,
                message_id=appended.message_ids[0],
                model_call_id=part.tool_call_id,
                name=part.name,
                arguments=ToolData(text=part.arguments_json),
            )
            request = t.RequestToolCallRequest(session_id=session_id, tool_call=call, run=fence)
            await wire.call("RequestToolCall", request)
    assert not waiting
    done = r.FinishRunRequest(session_id=session_id, run=fence, status=RunStatus.RUN_STATUS_COMPLETED)
    await wire.call("FinishRun", done)


async def everything(wire: Wire, rpc: str, request: Any, field: str) -> list[Any]:
    """All pages of a list, oldest first."""
    found: list[Any] = []
    while True:
        page = await wire.call(rpc, request)
        found += getattr(page, field)
        if not page.next_page_token:
            return found if rpc == "ListMessages" else found[::-1]
        request.page_token = page.next_page_token


@pytest.mark.parametrize("conversation", WITH_TOOLS, ids=lambda conversation: conversation.id)
async def test_a_conversation_replays_as_runs_and_tool_calls(wire: Wire, conversation: chats.Conversation) -> None:
    name = "replayed"
    await wire.create(name)
    runs = 0
    for turn in turns(conversation.messages):
        if turn[0].role in (Role.ROLE_USER, Role.ROLE_SYSTEM):
            await wire.call("AppendMessages", m.AppendMessagesRequest(session_id=name, messages=turn))
        else:
            runs += 1
            await replay_turn(wire, name, runs, turn)

    messages = await everything(wire, "ListMessages", m.ListMessagesRequest(session_id=name, page_size=3), "messages")
    assert len(messages) == len(conversation.chats)
    for chat, message in zip(conversation.chats, messages, strict=True):
        assert chats.same(chat, message)

    calls = await everything(wire, "ListToolCalls", t.ListToolCallsRequest(session_id=name, page_size=2), "tool_calls")
    wanted = [
        call["function"] | {"id": call["id"]} for chat in conversation.chats for call in chat.get("tool_calls", [])
    ]
    assert [{"id": call.model_call_id, "name": call.name, "arguments": call.arguments.text} for call in calls] == wanted
    results = [chat["content"] for chat in conversation.chats if chat["role"] == "tool"]
    assert sorted(call.result.text for call in calls) == sorted(results)
    assert {call.status for call in calls} == {ToolCallStatus.TOOL_CALL_STATUS_COMPLETED}
    by_id = {message.message_id: message for message in messages}
    for call in calls:
        message = by_id[call.message_id]
        assert call.model_call_id in [part.tool_call_id for part in asked(message)]
        assert call.run_id == message.run_id

    done = await everything(wire, "ListRuns", r.ListRunsRequest(session_id=name, page_size=1), "runs")
    assert [run.run_id for run in done] == [f"turn-{number}" for number in range(1, runs + 1)]
    metrics = await wire.call("GetSessionMetrics", s.GetSessionMetricsRequest(session_id=name))
    assert (metrics.run_count, metrics.runs.completed_count, metrics.runs.success_rate) == (runs, runs, 1.0)
    assert metrics.message_count == len(conversation.chats)


def test_the_sample_has_conversations_with_tools() -> None:
    assert len(WITH_TOOLS) >= 3
    assert sessiond.to_chat(WITH_TOOLS[0].messages[0])
