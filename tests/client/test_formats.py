"""Conversions from and to the forms of others: the same back, whatever the form allows, and sense across forms."""

import copy
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sessiond
from sessiond.formats import anthropic, chat, langchain, responses, vercel
from sessiond.formats.form import form_of
from sessiond.formats.plain import same
from sessiond.v1.message_pb2 import Message
from sessiond_server.domain.messages import validation
from sessiond_server.domain.validation import FieldViolations
from tests.support.chats import call
from tests.support.effort import examples
from tests.support.item_strategies import ITEMS, VALUES, as_json

FORMS: dict[str, ModuleType] = {module.NAME: module for module in (anthropic, chat, langchain, responses, vercel)}
SHAPES = Path(__file__).parents[1] / "support" / "shapes"
RECORDED: dict[str, list[Any]] = {name: json.loads((SHAPES / f"{name}.json").read_text("utf-8")) for name in FORMS}

each_form = pytest.mark.parametrize("name", FORMS)
PATIENT = settings(max_examples=examples(20, 50))


def stored(messages: list[Message]) -> list[Message]:
    """Through the wire form, and through the checks that the service makes of each."""
    found = FieldViolations()
    for message in messages:
        validation.new_message(found, "message", message, message.ByteSize(), validation.MESSAGE_BYTES)
    found.check()
    return [Message.FromString(message.SerializeToString()) for message in messages]


def there_and_back(name: str, items: list[Any]) -> list[Any]:
    messages = stored(FORMS[name].from_items(items))
    assert len(messages) == len(items)
    back: list[Any] = FORMS[name].to_items(messages)
    return back


@each_form
def test_recorded_items_come_back(name: str) -> None:
    for item in RECORDED[name]:
        (back,) = there_and_back(name, [item])
        assert same(back, item)
    assert there_and_back(name, RECORDED[name]) == RECORDED[name]


@each_form
@PATIENT
@given(data=st.data())
def test_any_items_come_back(name: str, data: st.DataObject) -> None:
    items = data.draw(st.lists(ITEMS[name], max_size=3))
    assert same(there_and_back(name, items), items)


@each_form
@PATIENT
@given(data=st.data())
def test_items_with_anything_in_them_come_back_or_are_refused(name: str, data: st.DataObject) -> None:
    """Recorded items in which any value may be another one, of any type."""
    item = copy.deepcopy(data.draw(st.sampled_from(RECORDED[name])))
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = item
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and data.draw(st.booleans()):
                place = place[key]
                continue
            place[key] = as_json(data.draw(VALUES))
            break
    refused, messages = None, []
    try:
        messages = FORMS[name].from_items([item])
    except (ValueError, TypeError) as error:
        refused = str(error)
    if refused is None:
        assert same(FORMS[name].to_items(stored(messages)), [item])
    else:
        assert refused.startswith("[0]")


@pytest.mark.parametrize("into", FORMS)
@each_form
def test_recorded_items_become_items_of_each_form(name: str, into: str) -> None:
    items = FORMS[into].to_items(stored(FORMS[name].from_items(RECORDED[name])))
    assert there_and_back(into, items) == items
    assert "sessiond.form" not in json.dumps(items)


@each_form
@PATIENT
@given(data=st.data())
def test_any_items_become_items_of_each_form(name: str, data: st.DataObject) -> None:
    into = data.draw(st.sampled_from(sorted(FORMS)))
    items = FORMS[into].to_items(stored(FORMS[name].from_items(data.draw(st.lists(ITEMS[name], max_size=2)))))
    assert same(there_and_back(into, items), items)


def test_plain_items_have_no_form() -> None:
    plain = [
        {"role": "user", "content": "hi", "name": "ada"},
        {"role": "assistant", "content": None, "tool_calls": [call('{"a":1}'), call("{broken", call_id="b")]},
        {"role": "tool", "content": "", "tool_call_id": "call_1"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]},
    ]
    assert [form_of(message) for message in chat.from_items(plain)] == [""] * 4
    blocks = [
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"b": 2**60, "a": None}},
    ]
    assert [form_of(message) for message in anthropic.from_items([{"role": "assistant", "content": blocks}])] == [""]


def test_a_form_repeats_nothing_that_parts_hold() -> None:
    said, signed = "x" * 10_000, "s" * 100
    block = {"type": "thinking", "thinking": said, "signature": signed}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA" * 1000}}
    answer = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": said}, image]}
    for item in ({"role": "assistant", "content": [block]}, {"role": "user", "content": [answer, block]}):
        (message,) = anthropic.from_items([item])
        assert form_of(message) == "anthropic"
        assert len(message.parts[-1].json) < 500


def test_what_parts_express_is_in_parts() -> None:
    (message,) = anthropic.from_items(RECORDED["anthropic"][2:3])
    kinds = [part.WhichOneof("kind") for part in message.parts]
    assert kinds == ["thinking", "text", "text", "tool_call", "tool_call", "json"]
    asked = message.parts[3].tool_call
    assert (asked.tool_call_id, asked.name) == ("toolu_01D7FLrfh4GYq7yT1ULFeyMV", "get_stock_price")
    assert asked.arguments_json == '{"ticker":"^GSPC","b":1,"a":12345678901234567890,"none":null}'
    (message,) = anthropic.from_items(RECORDED["anthropic"][4:5])
    results = [part.tool_result for part in message.parts if part.HasField("tool_result")]
    assert (results[0].text, results[1].is_error) == ("15 degrees\nand a picture", True)
    assert (message.parts[1].blob.media_type, message.role) == ("image/jpeg", sessiond.Role.ROLE_USER)
    (message,) = vercel.from_items(RECORDED["vercel"][2:3])
    kinds = [part.WhichOneof("kind") for part in message.parts]
    assert kinds == [
        *("thinking", "text", "tool_call", "tool_call", "tool_call"),
        *("tool_result", "tool_result", "tool_result", "tool_call", "text", "tool_result", "json"),
    ]
    (message,) = langchain.from_items(RECORDED["langchain"][3:4])
    usage = message.usage
    counted = (usage.input_tokens, usage.output_tokens, usage.total_tokens, usage.cached_tokens, usage.reasoning_tokens)
    assert counted == (50, 20, 70, 10, 5)
    (message,) = anthropic.from_items(RECORDED["anthropic"][5:6])
    assert (message.usage.input_tokens, message.usage.cached_tokens, message.usage.output_tokens) == (2200, 100, 503)


TURN: dict[str, list[Any]] = {
    "chat": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Wait.", "tool_calls": [call('{"c":1}', "w", "1"), call("{}", "v", "2")]},
        {"role": "tool", "content": '{"t":21}', "tool_call_id": "1"},
        {"role": "tool", "content": "wet", "tool_call_id": "2"},
        {"role": "assistant", "content": "Mild."},
    ],
    "anthropic": [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Wait."},
                {"type": "tool_use", "id": "1", "name": "w", "input": {"c": 1}},
                {"type": "tool_use", "id": "2", "name": "v", "input": {}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": '{"t":21}'}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "2", "content": "wet"}]},
        {"role": "assistant", "content": "Mild."},
    ],
    "responses": [
        {"type": "message", "role": "user", "content": "Weather?"},
        {"type": "message", "role": "assistant", "content": "Wait."},
        {"type": "function_call", "call_id": "1", "name": "w", "arguments": '{"c":1}'},
        {"type": "function_call", "call_id": "2", "name": "v", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": '{"t":21}'},
        {"type": "function_call_output", "call_id": "2", "output": "wet"},
        {"type": "message", "role": "assistant", "content": "Mild."},
    ],
    "vercel": [
        {"id": "", "role": "user", "parts": [{"type": "text", "text": "Weather?"}]},
        {
            "id": "",
            "role": "assistant",
            "parts": [
                {"type": "step-start"},
                {"type": "text", "text": "Wait."},
                {
                    "type": "tool-w",
                    "toolCallId": "1",
                    "state": "output-available",
                    "input": {"c": 1},
                    "output": {"t": 21},
                },
                {"type": "tool-v", "toolCallId": "2", "state": "output-available", "input": {}, "output": "wet"},
                {"type": "step-start"},
                {"type": "text", "text": "Mild."},
            ],
        },
    ],
    "langchain": [
        {"type": "human", "data": {"type": "human", "content": "Weather?"}},
        {
            "type": "ai",
            "data": {
                "type": "ai",
                "content": "Wait.",
                "tool_calls": [
                    {"name": "w", "args": {"c": 1}, "id": "1", "type": "tool_call"},
                    {"name": "v", "args": {}, "id": "2", "type": "tool_call"},
                ],
                "invalid_tool_calls": [],
            },
        },
        *(
            {"type": "tool", "data": {"type": "tool", "content": said, "tool_call_id": tool, "status": "success"}}
            for tool, said in (("1", '{"t":21}'), ("2", "wet"))
        ),
        {"type": "ai", "data": {"type": "ai", "content": "Mild.", "tool_calls": [], "invalid_tool_calls": []}},
    ],
}
"""One conversation in each form."""


@pytest.mark.parametrize("into", FORMS)
@each_form
def test_a_turn_with_tools_is_the_same_turn_in_each_form(name: str, into: str) -> None:
    assert FORMS[into].to_items(stored(FORMS[name].from_items(TURN[name]))) == TURN[into]


def test_messages_built_by_hand_become_items_of_each_form() -> None:
    made = [
        sessiond.assistant(
            "Look.",
            sessiond.blob(b"x", "image/png"),
            sessiond.blob(b"x", "audio/wav"),
            sessiond.json_part('{"type":"custom_block","n":9007199254740993}'),
            sessiond.json_part("[1]"),
            sessiond.json_part("no JSON"),
            {"a": 1},
            tool_calls=[sessiond.tool_call("1", "f", {"a": 1}), sessiond.tool_call("2", "g")],
            thinking="hm",
        ),
        sessiond.tool({"b": 2}, tool_call_id="1", name="f"),
        sessiond.tool(None, tool_call_id="2", is_error=True),
    ]
    for name, module in FORMS.items():
        items = module.to_items(made)
        assert same(there_and_back(name, items), items)
        text = json.dumps(items)
        assert "Look." in text
        assert "9007199254740993" in text
        assert ("hm" in text) == (name not in ("anthropic", "responses"))
        with pytest.raises(ValueError, match="role"):
            module.to_items([sessiond.Message()])
        with pytest.raises(ValueError, match="without content"):
            module.to_items([sessiond.user(sessiond.Part())])


def test_a_message_that_lost_what_its_form_needs_is_refused() -> None:
    (message,) = chat.from_items([{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": 1}]}])
    changed = sessiond.Message()
    changed.CopyFrom(message)
    changed.parts[0].text = "redacted"
    assert chat.to_items([changed])[0]["content"][0] == {"type": "text", "text": "redacted", "cache_control": 1}
    changed.parts[0].file.uri = "attachment:a"
    with pytest.raises(ValueError, match=r"^parts\[0\].*needs its text"):
        chat.to_items([changed])
    del changed.parts[0]
    with pytest.raises(ValueError, match=r"^parts\[0\]"):
        chat.to_items([changed])


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        '{"item":1',
        '{"item":{"$":"9.text"}}',
        '{"item":{"$":"x.text"}}',
        '{"item":{"$":"0.blob"}}',
        '{"item":{"$":"0.text","cut":[1]}}',
        '{"item":{"$":"0.text","cut":1}}',
        '{"item":{"$":"0.text","before":1}}',
        '{"item":{"$":"0.text","as":"json"}}',
        '{"item":[]}',
        '{"item":' + '{"a":' * 3000 + "1" + "}" * 3001,
        '{"item":' + "[" * 100_000,
        '{"item":[' + ",".join(['{"$":"0.text"}'] * 1000) + "]}",
    ],
)
def test_a_form_that_no_converter_makes_is_refused(form: str) -> None:
    """Messages may come from any program: each is refused typed, and in memory of its own size."""
    message = sessiond.user("x" * 10_000, sessiond.json_part('{"sessiond.form":"chat",' + form.removeprefix("{")))
    with pytest.raises(ValueError, match=r"^parts\[\d\]"):
        chat.to_items([message])


def test_an_answer_of_many_texts_comes_back() -> None:
    """It took 50 s when each text was appended to a growing one."""
    item = {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "x" * 20}] * 10_000}
    assert there_and_back("chat", [item]) == [item]


def test_answers_and_texts_have_the_shape_that_the_apis_take() -> None:
    made = [sessiond.assistant("a", "b"), sessiond.tool(None, tool_call_id="c")]
    assert responses.to_items(made) == [
        {"type": "message", "role": "assistant", "content": "a"},
        {"type": "message", "role": "assistant", "content": "b"},
        {"type": "function_call_output", "call_id": "c", "output": ""},
    ]
    assert chat.to_items(made[1:]) == [{"role": "tool", "content": "", "tool_call_id": "c"}]
    (shot,) = (item for item in RECORDED["responses"] if item.get("type") == "computer_call_output")
    url = shot["output"]["image_url"]
    picture = {"type": "image_url", "image_url": {"url": url}}
    assert chat.to_items(responses.from_items([shot])) == [{"role": "user", "content": [picture]}]


def test_nul_and_lone_surrogates_come_back_and_read_as_replacement_characters() -> None:
    odd = "a\x00b\ud800"
    (message,) = chat.from_items([{"role": "user", "content": odd}])
    assert message.parts[0].text == "a\ufffdb\ufffd"
    assert there_and_back("chat", [{"role": "user", "content": odd}]) == [{"role": "user", "content": odd}]
    assert there_and_back("chat", [{"role": "user", "content": "\ud83d\ude00"}])[0]["content"] == "\U0001f600"


USE = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
UI_CALL = {"type": "tool-f", "toolCallId": "c", "state": "input-available", "input": {}}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("name", "good", "bad", "place"),
    [
        (
            "chat",
            {"role": "assistant", "tool_calls": [call("{}", call_id="i" * 8192)]},
            {"role": "assistant", "tool_calls": [call("{}", call_id="i" * 8193)]},
            r"\[0\]\.tool_calls\[0\]\.id",
        ),
        (
            "chat",
            {"role": "assistant", "tool_calls": [call("{}", name="n" * 128)]},
            {"role": "assistant", "tool_calls": [call("{}", name="n" * 129)]},
            r"\[0\]\.tool_calls\[0\]\.name",
        ),
        (
            "chat",
            {"role": "tool", "content": "x", "tool_call_id": "é"},
            {"role": "tool", "content": "x", "tool_call_id": "a\x00"},
            r"\[0\]\.tool_call_id",
        ),
        (
            "anthropic",
            {"role": "assistant", "content": [USE]},
            {"role": "assistant", "content": [USE | {"name": ""}]},
            r"\[0\]\.content\[0\]\.name",
        ),
        (
            "anthropic",
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "i" * 8192}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "i" * 8193}]},
            r"\[0\]\.content\[0\]\.tool_call_id",
        ),
        (
            "responses",
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""},
            {"type": "function_call", "call_id": "c\ud800", "name": "f", "arguments": ""},
            r"\[0\]\.id",
        ),
        (
            "vercel",
            {"id": "a", "role": "assistant", "parts": [UI_CALL]},
            {"id": "a", "role": "assistant", "parts": [UI_CALL | {"toolCallId": "\n"}]},
            r"\[0\]\.parts\[0\]\.id",
        ),
        (
            "chat",
            {"role": "user", "content": [{"type": "text", "text": "x"}] * 256},
            {"role": "user", "content": [{"type": "text", "text": "x"}] * 257},
            r"\[0\].*257 parts.*256",
        ),
        (
            "anthropic",
            {"role": "user", "content": [{"type": "text", "text": "x", "citations": None}] * 255},
            {"role": "user", "content": [{"type": "text", "text": "x", "citations": None}] * 256},
            r"\[0\].*257 parts.*256",
        ),
        ("chat", {"role": "user", "x": 1.5}, {"role": "user", "x": float("nan")}, r"\[0\]\.x"),
        ("chat", {"role": "user", "x": 10**4000}, {"role": "user", "x": 10**4300}, r"\[0\]\.x"),
        ("chat", {"role": "user", "x": deep(126)}, {"role": "user", "x": deep(127)}, r"\[0\]\.x.*128 levels"),
        ("chat", {"role": "user", "x": {}}, {"role": "user", "x": {1: 2}}, r"\[0\]\.x.*str"),
        ("chat", {"role": "user", "x": ""}, {"role": "user", "x": b""}, r"\[0\]\.x.*bytes"),
        ("responses", {"type": "x"}, {"kind": "x"}, r"\[0\]"),
        ("anthropic", {"role": "user", "content": []}, {"role": "tool", "content": []}, r"\[0\]\.role"),
        ("vercel", {"role": "user"}, {"role": "data"}, r"\[0\]\.role"),
        ("langchain", {"type": "human", "content": ""}, {"type": "robot", "content": ""}, r"\[0\]\.type"),
        ("langchain", {"type": "human", "content": ["a"]}, {"type": "human", "content": [1]}, r"\[0\]\.content\[0\]"),
    ],
)
def test_bounds_are_met_from_both_sides(name: str, good: Any, bad: Any, place: str) -> None:
    assert there_and_back(name, [good]) == [good]
    with pytest.raises((ValueError, TypeError), match=f"^{place}") as caught:
        FORMS[name].from_items([bad])
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("url", "held"),
    [
        ("data:image/png;base64,iVBORw0KGgo=", ("image/png", b"\x89PNG\r\n\x1a\n")),
        ("data:text/plain;charset=utf-8;base64,w6Q=", ("text/plain;charset=utf-8", "ä".encode())),
        ("data:;base64,", ("", b"")),
        ("data:image/png;base64,iVBORw0KGgo", None),
        ("data:image/png;base64,iVBO\nRw0KGgo=", None),
        ("data:image/png;base64,AB==", None),
        ("data:text/plain,hello", None),
        ("data:" + "x" * 300 + ";base64,AA==", None),
    ],
)
def test_data_urls_become_bytes_where_they_come_back_the_same(url: str, held: tuple[str, bytes] | None) -> None:
    known = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    unknown = {"role": "user", "content": [{"type": "of_the_future", "deep": [{"x": url}]}]}
    for item in (known, unknown):
        (message,) = chat.from_items([item])
        blobs = [(part.blob.media_type, part.blob.data) for part in message.parts if part.HasField("blob")]
        assert blobs == ([held] if held else [])
        assert there_and_back("chat", [item]) == [item]


class Dumped:
    """As the objects of the providers' packages, which are pydantic models."""

    def __init__(self, **members: Any) -> None:
        self.members = members

    def model_dump(self, *, exclude_unset: bool = False) -> dict[str, Any]:
        return {key: item for key, item in self.members.items() if not exclude_unset or item is not None}


def test_objects_of_other_packages_are_taken() -> None:
    answer = Dumped(role="assistant", content="hi", refusal=None)
    assert chat.to_items(chat.from_items([answer])) == [{"role": "assistant", "content": "hi"}]
    turn = {"role": "assistant", "content": [Dumped(type="text", text="hi")]}
    assert anthropic.to_items(anthropic.from_items([turn])) == [
        {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}
    ]
    human = Dumped(type="human", content="hi", id=None)
    assert langchain.to_items(langchain.from_items([human])) == [
        {"type": "human", "data": {"type": "human", "content": "hi", "id": None}}
    ]


async def test_converted_conversations_come_back_from_the_service(sessions: sessiond.Client) -> None:
    for name, module in FORMS.items():
        session = await sessions.create_session(active=True)
        await sessions.append_messages(session.session_id, module.from_items(RECORDED[name]))
        read = [message async for message in sessions.list_messages(session.session_id)]
        assert module.to_items(read) == RECORDED[name]
