"""Chats in the common form, with all that is odd in them."""

from typing import Any


def call(arguments: str, name: str = "search", call_id: str = "call_1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


CHATS: list[dict[str, Any]] = [
    {"role": "system", "content": "# Policy\n\n- Be brief.\n\n"},
    {"role": "user", "content": "Wie spät ist es in 東京? 🕰️ مرحبا"},
    {"role": "user", "content": "  \u00a0 kept \t\r\n", "name": "ada"},
    {"role": "user", "content": ""},
    {"role": "user", "content": None},
    {"role": "assistant", "content": "Gerne."},
    {"role": "assistant", "content": ""},
    {"role": "assistant", "content": None},
    {"role": "assistant", "content": None, "tool_calls": [call('{"q": "東京",  "n":1.0}')]},
    {"role": "assistant", "content": "", "tool_calls": [call("{}")]},
    {"role": "assistant", "content": "Both.", "tool_calls": [call("", call_id="a"), call('{"broken', call_id="b")]},
    {"role": "tool", "content": '{"temp": 21.50}', "tool_call_id": "call_1", "name": "weather"},
    {"role": "tool", "content": "", "tool_call_id": "call_1", "name": "think"},
    {"role": "tool", "content": None, "tool_call_id": "call_1"},
    {"role": "tool", "content": "of an unknown call"},
    {"role": "tool", "content": [{"type": "text", "text": "one"}], "tool_call_id": "c"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
        ],
    },
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]},
    {"role": "user", "content": [{"type": "text", "text": "cached", "cache_control": {"type": "ephemeral"}}]},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Yes."}]},
    {
        "role": "user",
        "content": [{"type": "file", "file": {"uri": "s3://b/k", "media_type": "text/plain", "name": "k"}}],
    },
]
