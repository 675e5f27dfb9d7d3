"""The rules by which three providers refuse a conversation, as checkers of what is sent to them."""

from collections.abc import Sequence
from typing import Any

from sessiond.v1.message_pb2 import Message, Role

Item = dict[str, Any]


def chat_fault(items: Sequence[Item]) -> str:
    """Why chat completions would refuse these messages; empty if they take them.

    "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'", and
    "messages with role 'tool' must be a response to a preceding message with 'tool_calls'".
    """
    wanted: list[str] = []
    for place, item in enumerate(items):
        if item["role"] == "tool":
            if item.get("tool_call_id") not in wanted:
                return f"[{place}]: a result without its call"
            wanted.remove(item["tool_call_id"])
            continue
        if wanted:
            return f"[{place}]: calls without results in front of it"
        if item["role"] == "assistant" and not item.get("content") and not item.get("tool_calls"):
            return f"[{place}]: neither content nor calls"
        wanted = [call["id"] for call in item.get("tool_calls", ())]
    return "calls without results at the end" if wanted else ""


def anthropic_fault(items: Sequence[Item]) -> str:
    """The same of Anthropic: the first message is a user's, neighbours of one role are one turn, and each turn that
    uses tools is followed by a turn that begins with exactly their results."""
    turns: list[tuple[str, list[Item]]] = []
    for item in items:
        if item["role"] == "system":
            continue  # its content is a parameter of its own
        content = item["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        if turns and turns[-1][0] == item["role"]:
            turns[-1][1].extend(blocks)
        else:
            turns.append((item["role"], blocks))
    if turns and turns[0][0] != "user":
        return "does not begin with a user's message"
    used: list[str] = []
    for place, (role, blocks) in enumerate(turns):
        if not blocks or any(block["type"] == "text" and not block["text"].strip() for block in blocks):
            return f"turn {place}: empty"
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if sorted(results) != sorted(used):
            return f"turn {place}: results {results} for calls {used}"
        if any(block["type"] == "tool_result" for block in blocks[len(results) :]):
            return f"turn {place}: results behind other content"
        used = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if used and role != "assistant":
            return f"turn {place}: a call that is not the assistant's"
    return f"calls {used} without results" if used else ""


def gemini_fault(messages: Sequence[Message]) -> str:
    """The same of Gemini, by messages: contents are of the user and of the model in turns, the first is the user's, and
    a turn with function calls is followed by one with as many function responses and nothing else."""
    turns: list[tuple[str, list[str]]] = []
    for message in messages:
        if message.role == Role.ROLE_SYSTEM:
            continue
        kinds = [str(part.WhichOneof("kind")) for part in message.parts]
        who = {Role.ROLE_ASSISTANT: "model", Role.ROLE_TOOL: "function"}.get(message.role, "user")
        if turns and turns[-1][0] == who:
            turns[-1][1].extend(kinds)
        else:
            turns.append((who, kinds))
    if turns and turns[0][0] != "user":
        return "does not begin with a user's turn"
    calls = 0
    for place, (who, kinds) in enumerate(turns):
        answers = kinds.count("tool_result")
        if answers != calls or (who == "function") != bool(calls):
            return f"turn {place}: {answers} responses to {calls} calls"
        calls = kinds.count("tool_call")
        if calls and who != "model":
            return f"turn {place}: a call that is not the model's"
    return "calls without responses at the end" if calls else ""
