"""Strategies that make items of the forms that the client converts, with unknown fields and all that is odd in text."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

Strategy = st.SearchStrategy[Any]

ODD = ["", "\x00", "a\x00b", "\ud800", "x\udfff y", "\u2028", "data:", "data:,x", "data:image/png;base64,iVBORw0KGgo="]
ODD += [
    "data:image/png;base64,iVBORw0KGgo",
    "data:text/plain;charset=utf-8;base64,w6Q=",
    "$",
    '{"$":"0.text"}',
    "\r\n\t",
]

TEXT = st.sampled_from(ODD) | st.text(max_size=20)
LINE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
KEYS = st.sampled_from(["$", "$$", "$ref", "x_new", "type", "text", "id", "\x00", "\ud800"]) | st.text(max_size=5)
NUMBERS = (
    st.integers()
    | st.sampled_from([2**53 + 1, -(2**63), 10**40, 1.0, -0.0])
    | st.floats(allow_nan=False, allow_infinity=False)
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXT
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=3)
BASE64 = st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode()) | st.sampled_from(
    ["", "AA", "!", "AA=="]
)
URLS = (
    st.sampled_from(["https://example.com/a.png?b", "s3://b/k", "attachment:a-1"])
    | BASE64.map("data:image/png;base64,".__add__)
    | TEXT
)
_NEW = st.dictionaries(st.sampled_from(["$", "$ref", "x_new", "cache_control", "providerMetadata"]), VALUES, max_size=2)


def has(required: Mapping[str, Strategy | str], **optional: Strategy) -> Strategy:
    """Objects with these members, those that may be absent, and unknown ones. A str stands for itself."""
    fixed = {key: st.just(value) if isinstance(value, str) else value for key, value in required.items()}
    known = st.fixed_dictionaries(fixed, optional=optional)
    return st.builds(lambda new, said: {**new, **said}, _NEW, known)


def listed(*kinds: Strategy, most: int = 3) -> Strategy:
    return st.lists(st.one_of(*kinds), max_size=most)


def as_json(items: Any) -> Any:
    """As a JSON parser gives it: two surrogates that make a pair are the character."""
    return json.loads(json.dumps(items))


UNKNOWN = has({"type": "of_the_future"}, payload=VALUES)

CHAT_BLOCKS = listed(
    has({"type": "text", "text": TEXT}),
    has({"type": "refusal", "refusal": TEXT}),
    has({"type": "thinking", "thinking": TEXT}, signature=TEXT),
    has({"type": "image_url", "image_url": has({"url": URLS}, detail=TEXT)}),
    has({"type": "input_audio", "input_audio": has({"data": BASE64, "format": TEXT})}),
    has({"type": "file", "file": has({}, file_id=TEXT, filename=TEXT, file_data=URLS | BASE64)}),
    has({"type": "file", "file": has({"uri": URLS, "media_type": TEXT, "name": TEXT})}),
    UNKNOWN,
)
CHAT_CALLS = listed(
    has({"id": LINE, "type": "function", "function": has({"name": LINE}, arguments=TEXT | OBJECTS)}, index=NUMBERS),
    has({"id": LINE, "type": "custom", "custom": has({"name": LINE, "input": TEXT})}),
    has({"function": has({"name": LINE, "arguments": TEXT})}, id=st.none()),
    UNKNOWN,
)
_SAID = TEXT | st.none() | CHAT_BLOCKS
CHAT = (
    has({"role": st.sampled_from(["system", "developer", "user"])}, content=_SAID, name=TEXT | st.none())
    | has(
        {"role": "assistant"},
        content=_SAID,
        name=TEXT,
        refusal=TEXT | st.none(),
        annotations=st.lists(OBJECTS, max_size=2) | st.none(),
        audio=has({}, id=TEXT, data=BASE64, transcript=TEXT) | st.none(),
        reasoning_content=TEXT | st.none(),
        tool_calls=CHAT_CALLS | st.none(),
        function_call=has({"name": LINE, "arguments": TEXT}) | st.none(),
    )
    | has({"role": st.sampled_from(["tool", "function"])}, content=_SAID, tool_call_id=LINE | st.none(), name=TEXT)
)

_INPUTS = listed(
    has({"type": st.sampled_from(["input_text", "output_text"]), "text": TEXT}, annotations=VALUES, logprobs=VALUES),
    has({"type": "refusal", "refusal": TEXT}),
    has({"type": "input_image"}, image_url=URLS, file_id=TEXT, detail=TEXT),
    has({"type": "input_file"}, file_data=URLS | BASE64, file_url=URLS, file_id=TEXT, filename=TEXT),
    UNKNOWN,
)
RESPONSES = (
    has({"role": TEXT, "content": TEXT | _INPUTS}, type=st.just("message"), id=TEXT, status=TEXT)
    | has(
        {"type": "reasoning", "summary": listed(has({"type": "summary_text", "text": TEXT}))},
        content=listed(has({"type": "reasoning_text", "text": TEXT})) | st.none(),
        encrypted_content=TEXT | st.none(),
        id=TEXT,
    )
    | has({"type": "function_call", "call_id": LINE, "name": LINE, "arguments": TEXT}, id=TEXT, status=TEXT)
    | has({"type": "custom_tool_call", "call_id": LINE, "name": LINE, "input": TEXT}, id=TEXT)
    | has(
        {
            "type": st.sampled_from(["function_call_output", "custom_tool_call_output"]),
            "call_id": LINE,
            "output": TEXT | _INPUTS | VALUES.filter(lambda value: not isinstance(value, list)),
        },
        id=TEXT,
    )
    | has({"type": "image_generation_call", "result": BASE64 | st.none()}, output_format=TEXT)
    | has({"type": st.sampled_from(["web_search_call", "mcp_call", "item_reference", "computer_call_output"])}, id=TEXT)
    | UNKNOWN
)

_TEXT_BLOCK = has({"type": "text", "text": TEXT}, citations=VALUES)
_IMAGE = has(
    {"type": "image"},
    source=has({"type": "base64", "media_type": TEXT, "data": BASE64})
    | has({"type": "url", "url": URLS})
    | has({"type": "file", "file_id": TEXT}),
)
_DOCUMENT = has(
    {"type": "document"},
    source=has({"type": "base64", "media_type": TEXT, "data": BASE64})
    | has({"type": "text", "media_type": TEXT, "data": TEXT})
    | has({"type": "content", "content": TEXT | listed(_TEXT_BLOCK, _IMAGE)})
    | has({"type": "url", "url": URLS}),
    title=TEXT | st.none(),
    context=TEXT,
    citations=OBJECTS,
)
ANTHROPIC_BLOCKS = listed(
    _TEXT_BLOCK,
    _IMAGE,
    _DOCUMENT,
    has({"type": "thinking", "thinking": TEXT, "signature": TEXT}),
    has({"type": "redacted_thinking", "data": TEXT}),
    has({"type": "tool_use", "id": LINE, "name": LINE, "input": OBJECTS}),
    has({"type": "server_tool_use", "id": TEXT, "name": TEXT, "input": OBJECTS}),
    has({"type": "web_search_tool_result", "tool_use_id": TEXT, "content": VALUES}),
    has(
        {"type": "tool_result", "tool_use_id": LINE},
        content=TEXT | listed(_TEXT_BLOCK, _IMAGE, _DOCUMENT, UNKNOWN) | st.none(),
        is_error=st.booleans(),
    ),
    UNKNOWN,
    most=4,
)
ANTHROPIC = has(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": TEXT | ANTHROPIC_BLOCKS},
    id=TEXT,
    stop_reason=TEXT | st.none(),
    usage=has({}, input_tokens=NUMBERS, output_tokens=NUMBERS, cache_read_input_tokens=NUMBERS | st.none()) | st.none(),
)

_STATES = [
    "input-streaming",
    "input-available",
    "approval-requested",
    "output-available",
    "output-error",
    "output-denied",
]
_TOOL_MEMBERS: dict[str, Strategy] = {
    "input": VALUES,
    "output": VALUES,
    "errorText": TEXT,
    "providerExecuted": st.booleans(),
    "approval": OBJECTS,
    "callProviderMetadata": OBJECTS,
}
VERCEL = has(
    {
        "id": TEXT,
        "role": st.sampled_from(["system", "user", "assistant"]),
        "parts": listed(
            has({"type": st.sampled_from(["text", "reasoning"]), "text": TEXT}, state=TEXT),
            has(
                {"type": LINE.map("tool-".__add__), "toolCallId": LINE, "state": st.sampled_from(_STATES)},
                **_TOOL_MEMBERS,
            ),
            has(
                {"type": "dynamic-tool", "toolName": LINE, "toolCallId": LINE, "state": st.sampled_from(_STATES)},
                **_TOOL_MEMBERS,
            ),
            has({"type": "file", "mediaType": TEXT, "url": URLS}, filename=TEXT | st.none()),
            has({"type": st.sampled_from(["source-url", "source-document", "data-progress"])}, data=VALUES, url=URLS),
            st.just({"type": "step-start"}),
            UNKNOWN,
            most=6,
        ),
    },
    metadata=VALUES,
)

_LANGCHAIN_BLOCKS = listed(
    TEXT,
    has({"type": "text", "text": TEXT}),
    has({"type": "reasoning"}, reasoning=TEXT),
    has({"type": "image_url", "image_url": URLS | has({"url": URLS})}),
    has({"type": st.sampled_from(["image", "audio", "file", "video"])}, url=URLS, base64=BASE64, mime_type=TEXT),
    has({"type": "image", "source_type": TEXT, "data": BASE64}),
    has({"type": "tool_use", "id": LINE, "name": LINE, "input": OBJECTS}),
    UNKNOWN,
)
_COMMON: dict[str, Strategy] = {
    "additional_kwargs": OBJECTS,
    "response_metadata": OBJECTS,
    "name": TEXT | st.none(),
    "id": TEXT | st.none(),
}


def _enveloped(kind: str, **members: Strategy) -> Strategy:
    data = has({"type": kind, "content": TEXT | _LANGCHAIN_BLOCKS}, **_COMMON, **members)
    return has({"type": kind, "data": data})


_USAGE = has(
    {}, input_tokens=NUMBERS, output_tokens=NUMBERS, total_tokens=NUMBERS, input_token_details=OBJECTS | st.none()
)
LANGCHAIN = (
    _enveloped("human")
    | _enveloped("system")
    | _enveloped(
        "ai",
        tool_calls=listed(has({"name": LINE, "args": OBJECTS, "id": LINE | st.none(), "type": "tool_call"})),
        invalid_tool_calls=st.lists(OBJECTS, max_size=2),
        usage_metadata=_USAGE | st.none(),
    )
    | _enveloped("tool", tool_call_id=LINE, status=st.sampled_from(["success", "error"]), artifact=VALUES)
    | _enveloped("function")
    | _enveloped("chat", role=TEXT)
    | _enveloped("remove")
)

ITEMS: Mapping[str, Strategy] = {
    "chat": CHAT.map(as_json),
    "responses": RESPONSES.map(as_json),
    "anthropic": ANTHROPIC.map(as_json),
    "vercel": VERCEL.map(as_json),
    "langchain": LANGCHAIN.map(as_json),
}
