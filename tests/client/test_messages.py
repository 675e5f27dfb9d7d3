"""Messages built by hand, and the conversion to and from the common chat form."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sessiond
from sessiond.v1.message_pb2 import FilePart, ToolCallPart, ToolResultPart
from tests.support.chats import CHATS, call


def there_and_back(chat: dict[str, Any]) -> dict[str, Any]:
    """Through the wire form, as a stored message goes."""
    return sessiond.to_chat(sessiond.Message.FromString(sessiond.from_chat(chat).SerializeToString()))


@pytest.mark.parametrize("chat", CHATS, ids=range(len(CHATS)))
def test_chat_messages_round_trip(chat: dict[str, Any]) -> None:
    assert there_and_back(chat) == chat


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


def spoken(role: str, content: st.SearchStrategy[Any], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fixed = {"role": st.just(role), "content": content}
    return st.fixed_dictionaries(fixed, optional={"name": NAMES, **more})


CALLS = st.lists(st.builds(call, TEXT, NAMES, NAMES), min_size=1, max_size=3)


@settings(deadline=None)
@given(
    spoken("system", TEXT)
    | spoken("user", TEXT | st.none())
    | spoken("assistant", TEXT | st.none(), tool_calls=CALLS)
    | spoken("tool", TEXT | st.none(), tool_call_id=NAMES)
)
def test_any_chat_message_round_trips(chat: dict[str, Any]) -> None:
    assert there_and_back(chat) == chat


@pytest.mark.parametrize(
    "chat",
    [
        {"role": "assistant"},
        {"role": "assistant", "content": "x", "tool_calls": None, "refusal": None, "annotations": [], "name": ""},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
        {"role": "assistant", "content": None, "tool_calls": [call({"ü": [1, None]}, "f", "1")]},  # type: ignore[arg-type]
    ],
)
def test_equivalent_chat_forms_stay_apart(chat: dict[str, Any]) -> None:
    assert there_and_back(chat) == chat


@pytest.mark.parametrize(
    ("chat", "key"),
    [
        ({"role": "oracle", "content": "x"}, "role"),
        ({"content": "x"}, "role"),
        ({"role": "user", "content": 5}, "content"),
        ({"role": "user", "content": ["text"]}, r"content\[0\]"),
        ({"role": "user", "content": "x", "tool_calls": [call("{}")]}, "tool_calls"),
        ({"role": "user", "content": "x", "tool_call_id": "c"}, "tool_call_id"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "custom"}]}, r"tool_calls\[0\]"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {}}]}, r"tool_calls\[0\]"),
        (
            {"role": "assistant", "content": None, "tool_calls": [call("{}", "classified" * 20)]},
            r"tool_calls\[0\].name",
        ),
    ],
)
def test_content_without_a_place_in_a_message_is_refused(chat: dict[str, Any], key: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{key}") as caught:
        sessiond.from_chat(chat)
    assert "classified" not in str(caught.value)


def test_constructors_set_role_and_parts() -> None:
    assert sessiond.user("hi") == sessiond.Message(role=sessiond.Role.ROLE_USER, parts=[sessiond.Part(text="hi")])
    assert sessiond.system("be brief").role == sessiond.Role.ROLE_SYSTEM
    data = sessiond.to_struct({"a": 1})
    assert sessiond.user("see", {"a": 1}, sessiond.Part(file=FilePart(uri="s3://b/k"))).parts == [
        sessiond.Part(text="see"),
        sessiond.Part(data=data),
        sessiond.Part(file=FilePart(uri="s3://b/k")),
    ]
    answer = sessiond.assistant(
        "Let me see.",
        tool_calls=[sessiond.tool_call("c1", "f", '{"a": 1}'), sessiond.tool_call("c2", "g", {"a": 1})],
        thinking="hm",
        usage=sessiond.TokenUsage(input_tokens=3),
        metadata={"a": 1},
        name="bot",
        message_id="m",
    )
    assert answer.parts == [
        sessiond.Part(thinking="hm"),
        sessiond.Part(text="Let me see."),
        sessiond.Part(tool_call=ToolCallPart(tool_call_id="c1", name="f", arguments_json='{"a": 1}')),
        sessiond.Part(tool_call=ToolCallPart(tool_call_id="c2", name="g", arguments_struct=data)),
    ]
    assert (answer.usage.input_tokens, answer.metadata, answer.name, answer.message_id) == (3, data, "bot", "m")


def test_tool_results_are_text_data_or_empty() -> None:
    def result(message: sessiond.Message) -> ToolResultPart:
        return message.parts[0].tool_result

    assert result(sessiond.tool("21°", tool_call_id="c", name="f")).text == "21°"
    assert result(sessiond.tool({"a": 1}, tool_call_id="c")).data == sessiond.to_struct({"a": 1})
    assert result(sessiond.tool("", tool_call_id="c")).WhichOneof("result") == "text"
    assert result(sessiond.tool(None, tool_call_id="c")).WhichOneof("result") is None
    failed = sessiond.tool("no such city", tool_call_id="c", is_error=True)
    assert (result(failed).is_error, result(failed).tool_call_id, failed.role) == (True, "c", sessiond.Role.ROLE_TOOL)


def test_to_chat_converts_or_refuses_messages_built_by_hand() -> None:
    made = sessiond.tool({"ü": 1}, tool_call_id="c", name="f")
    assert sessiond.to_chat(made) == {"role": "tool", "name": "f", "content": '{"ü":1}', "tool_call_id": "c"}
    made.parts.add().text = "and more"
    assert sessiond.to_chat(made)["content"] == [
        {"type": "text", "text": '{"ü":1}'},
        {"type": "text", "text": "and more"},
    ]
    made.parts.add().tool_result.text = "another"
    with pytest.raises(ValueError, match="2 chat messages"):
        sessiond.to_chat(made)
    with pytest.raises(ValueError, match="role"):
        sessiond.to_chat(sessiond.Message())
    with pytest.raises(ValueError, match="without content"):
        sessiond.to_chat(sessiond.user(sessiond.Part()))


def test_text_of_joins_texts_and_text_results() -> None:
    assert sessiond.text_of(sessiond.assistant("a", {"not": "text"}, "b", thinking="hm")) == "a\nb"
    assert sessiond.text_of(sessiond.tool("said", tool_call_id="c")) == "said"
    assert sessiond.text_of(sessiond.tool({"a": 1}, tool_call_id="c")) == ""
    assert sessiond.text_of(sessiond.assistant()) == ""


def test_json_is_kept_byte_for_byte_and_bytes_too() -> None:
    signed = '{"type":"thinking","signature":"a==","n":9007199254740993,"b":1,"a":2}'
    message = sessiond.assistant(sessiond.json_part(signed), sessiond.blob(b"\x00\xff", "image/png"))
    stored = sessiond.Message.FromString(message.SerializeToString())
    assert (stored.parts[0].json, stored.parts[1].blob.data) == (signed, b"\x00\xff")
    chat = sessiond.to_chat(stored)
    assert chat["content"][0] == json.loads(signed)
    assert stored.parts[1] in sessiond.from_chat(chat).parts
    assert sessiond.to_chat(sessiond.user(sessiond.json_part("[1]")))["content"] == "[1]"
