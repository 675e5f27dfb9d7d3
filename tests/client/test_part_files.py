"""Large parts of messages in attachments, and back."""

import base64
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sessiond
from sessiond.formats import anthropic, chat, responses
from sessiond.part_files import attachment_of, put_back, take_out
from sessiond.v1.message_pb2 import FilePart
from tests.support.effort import examples
from tests.support.item_strategies import ITEMS

MIB = 1024 * 1024
KINDS = [
    sessiond.Part(text="text"),
    sessiond.Part(text=""),
    sessiond.Part(thinking="hm"),
    sessiond.json_part('{"a":  12345678901234567890}'),
    sessiond.json_part("no JSON"),
    sessiond.Part(data=sessiond.to_struct({"a": [1, -0.0, 1e300, None, "ä"]})),
    sessiond.blob(b"\x00\xff", "image/png"),
    sessiond.blob(b"", ""),
    sessiond.tool_call("c", "f", '{"a": 1.0}'),
    sessiond.tool_call("c", "f", {"a": 1.5}),
    sessiond.tool_call("c", "f"),
    sessiond.tool("said", tool_call_id="c", is_error=True).parts[0],
    sessiond.tool({"a": None}, tool_call_id="c").parts[0],
    sessiond.tool(None, tool_call_id="c").parts[0],
    sessiond.Part(file=FilePart(uri="attachment:mine", media_type="image/png", name="n")),
    sessiond.Part(),
]


def there_and_back(message: sessiond.Message) -> sessiond.Message:
    light, taken = take_out(message, 0, "seed")
    places = [attachment_of(part) for part in light.parts if attachment_of(part)]
    assert places == [out.attachment_id for out in taken]
    return put_back(light, {out.attachment_id: out.content for out in taken})


def test_every_kind_of_part_comes_back() -> None:
    message = sessiond.user(*KINDS, name="ada", metadata={"a": 1}, message_id="m")
    assert there_and_back(message) == message
    _, taken = take_out(message, 0, "seed")
    assert len(taken) == len(KINDS) - 4


@settings(max_examples=examples(20, 50))
@given(ITEMS["anthropic"])
def test_any_message_comes_back(item: object) -> None:
    (message,) = anthropic.from_items([item])
    assert there_and_back(message) == message


@settings(deadline=None)
@given(st.integers(0, 40))
def test_only_parts_above_the_bound_are_taken_out(above: int) -> None:
    message = sessiond.user(*("x" * length for length in range(40)))
    light, _ = take_out(message, above, "seed")
    for part, original in zip(light.parts, message.parts, strict=True):
        assert bool(attachment_of(part)) == (original.ByteSize() > above)


def test_references_that_look_alike_stay_as_they_are() -> None:
    alike = [
        sessiond.Part(file=FilePart(uri="attachment:part.text.short")),
        sessiond.Part(file=FilePart(uri=f"part.text.{'a' * 32}")),
        sessiond.tool({"$attachment": "x"}, tool_call_id="c").parts[0],
        sessiond.tool_call("c", "f", {"$attachment": 1}),
    ]
    assert [attachment_of(part) for part in alike] == [""] * 4


async def test_picture_of_two_mib_goes_through_an_attachment_and_comes_back(sessions: sessiond.Client) -> None:
    session = await sessions.create_session(active=True)
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(os.urandom(2 * MIB)).decode()}
    seen = [{"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "source": source}]}]
    messages = anthropic.from_items(seen)
    with pytest.raises(sessiond.InvalidFields) as refused:
        await sessions.append_messages(session.session_id, messages)
    assert refused.value.violations[0].field == "messages[0]"

    light = await sessions.offload_parts(session.session_id, messages, request_id="r")
    again = await sessions.offload_parts(session.session_id, messages, request_id="r")
    assert again == light
    await sessions.append_messages(session.session_id, light, request_id="r")
    assert len([file async for file in sessions.list_attachments(session.session_id)]) == 1

    read = [message async for message in sessions.list_messages(session.session_id)]
    assert (read[0].parts[0].text, read[0].parts[1].file.media_type) == ("What?", "image/png")
    with pytest.raises(ValueError, match=r"^parts\[1\].*inline_parts"):
        anthropic.to_items(read)
    whole = await sessions.inline_parts(session.session_id, read)
    assert anthropic.to_items(whole) == seen
    with pytest.raises(ValueError, match=r"^parts\[1\]: 2097152 bytes, more than 2097151"):
        await sessions.inline_parts(session.session_id, read, most_bytes=2 * MIB - 1)
    await sessions.delete_attachment(session.session_id, light[0].parts[1].file.uri.removeprefix("attachment:"))
    with pytest.raises(sessiond.AttachmentNotFound):
        await sessions.inline_parts(session.session_id, read)


async def test_large_answers_and_forms_go_through_attachments(sessions: sessiond.Client) -> None:
    session = await sessions.create_session(active=True)
    conversations = {
        chat: [{"role": "tool", "content": "x" * (2 * MIB), "tool_call_id": "c"}],
        responses: [{"type": "reasoning", "summary": [], "encrypted_content": "x" * (2 * MIB)}],
    }
    for module, items in conversations.items():
        light = await sessions.offload_parts(session.session_id, module.from_items(items))
        appended = await sessions.append_messages(session.session_id, light)
        stored = await sessions.get_message(session.session_id, appended.message_ids[0])
        assert stored.ByteSize() < 1000
        with pytest.raises(ValueError, match="inline_parts"):
            module.to_items([stored])
        assert module.to_items(await sessions.inline_parts(session.session_id, [stored])) == items
