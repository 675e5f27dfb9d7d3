"""Contexts through both clients: real conversations, cut off at every message in turn, as three providers take them."""

import json
from datetime import UTC
from pathlib import Path

import pytest

import sessiond
from sessiond.formats import anthropic, chat
from sessiond_server.domain.context.conversation import NO_RESULT
from sessiond_server.domain.context.ended_calls import EXPIRED
from tests.support.approvals import request_that_expires
from tests.support.both_clients import connected
from tests.support.chat_rules import anthropic_fault, chat_fault, gemini_fault
from tests.support.client_service import serving

BOTH_CLIENTS = True
BRIEF = sessiond.SessionConfig(system_prompt="Be brief.")

CONVERSATIONS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "examples/demo/conversations.jsonl").read_text("utf-8").splitlines()
]


async def test_conversation_cut_off_at_every_message_is_accepted(sessions: sessiond.Client) -> None:
    """The beginning is the same each time, but for calls that have no result yet."""
    for conversation in CONVERSATIONS:
        session_id = (await sessions.create_session(active=True)).session_id
        before: list[bytes] = []
        for message in chat.from_items(conversation["messages"]):
            said = await sessions.append_messages(session_id, [message])
            context = await sessions.get_context(session_id, min_version=said.version)
            assert context.version == said.version
            sent = list(context.messages)
            assert not chat_fault(chat.to_items(sent)), conversation["id"]
            assert not anthropic_fault(anthropic.to_items(sent)), conversation["id"]
            assert not gemini_fault(sent), conversation["id"]
            now = [each.SerializeToString() for each in sent]
            stored = [each.SerializeToString() for each in sent if each.seq]
            assert now[: len(before)] == before
            before = now if now == stored else before
        whole = conversation["messages"]
        speaking = [each for each in whole if each.get("content") or each.get("tool_calls") or each["role"] == "tool"]
        assert chat.to_items(context.messages) == speaking
        assert context.omitted_message_count == len(whole) - len(speaking)
        assert context.completed_call_count == 0


async def test_beginning_moves_in_steps(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True, config=BRIEF)).session_id
    before: list[bytes] = []
    moves = 0
    for number in range(100):
        turn = [sessiond.user(f"{number}? " + "u" * 150), sessiond.assistant("a" * 150)]
        await sessions.append_messages(session_id, turn)
        context = await sessions.get_context(session_id, max_tokens=2000)
        assert context == await sessions.get_context(session_id, max_tokens=2000)
        assert context.system_prompt == "Be brief."
        assert context.token_count <= 2000
        now = [message.SerializeToString() for message in context.messages]
        moves += now[: len(before)] != before
        before = now
    assert context.omitted_message_count > 100
    assert 3 < moves < 25


async def test_options_reach_the_service(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True, config=BRIEF)).session_id
    asked = {"id": "a", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    await sessions.append_messages(
        session_id,
        chat.from_items(
            [
                {"role": "user", "content": "go"},
                {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [asked]},
                {"role": "tool", "content": "word " * 1000, "tool_call_id": "a"},
                {"role": "assistant", "content": None, "tool_calls": [{**asked, "id": "b"}]},
            ]
        ),
    )
    context = await sessions.get_context(session_id, thinking=True, system_prompt=False, max_tool_result_tokens=50)
    assert context.system_prompt == ""
    items = chat.to_items(context.messages)
    assert items[1]["reasoning_content"] == "hm"
    assert len(items[2]["content"]) < 500
    assert items[-1] == {"role": "tool", "content": NO_RESULT, "tool_call_id": "b"}
    assert context.completed_call_count == 1
    first = await sessions.get_context(session_id, as_of_seq=2)
    assert (first.version, chat.to_items(first.messages)) == (2, [{"role": "user", "content": "go"}])
    plain = await sessions.get_context(session_id, consistency="strong")
    assert "reasoning_content" not in chat.to_items(plain.messages)[1]
    with pytest.raises(sessiond.ContextBudgetTooSmall) as refused:
        await sessions.get_context(session_id, max_messages=2)
    assert (refused.value.field, refused.value.needed_messages) == ("max_messages", 3)
    with pytest.raises(sessiond.ContextBudgetTooSmall) as refused:
        await sessions.get_context(session_id, max_tokens=10)
    least = refused.value.needed_tokens
    assert (await sessions.get_context(session_id, max_tokens=least)).token_count == least


async def test_call_whose_approval_does_not_come_has_a_result(client_kind: str) -> None:
    """A conversation that goes on without the person who was asked; nothing is appended for the call."""
    async with serving({"sweep_interval": "50ms"}) as service, connected(client_kind, service.target) as sessions:
        session_id = (await sessions.create_session(active=True, config=BRIEF)).session_id
        asks = sessiond.assistant(sessiond.tool_call("c1", "rm", {"path": "/"}))
        await sessions.append_messages(session_id, [sessiond.user("tidy up"), asks])
        call = await request_that_expires(sessions, session_id, model_call_id="c1")
        ended = await sessions.wait_for_decision(session_id, call.tool_call_id, timeout=30.0)
        context = await sessions.get_context(session_id, min_version=ended.version)
        assert chat.to_items(context.messages)[-1] == {"role": "tool", "content": EXPIRED, "tool_call_id": "c1"}
        assert context.completed_call_count == 1
        with pytest.raises(sessiond.ApprovalExpired) as late:
            await sessions.approve_tool_call(session_id, call.tool_call_id, approver="ada")
        assert (late.value.tool_call_id, late.value.status) == (call.tool_call_id, "REJECTED")
        assert (late.value.action, late.value.expire_time) == ("approve", call.expire_time.ToDatetime(UTC))
