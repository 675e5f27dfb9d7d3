"""Text that UTF-8 cannot encode is refused with the name of its argument, before anything is sent."""

import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import sessiond
from tests.support.both_clients import connected
from tests.support.client_service import serving

BOTH_CLIENTS = True

BAD = "secret\ud800"
"""Half of a surrogate pair, as in a file name that was decoded with `surrogateescape`."""
FENCE = sessiond.RunFence(run_id="r", fence=1)


@pytest.fixture
async def client(client_kind: str) -> AsyncIterator[sessiond.Client]:
    async with serving() as service, connected(client_kind, service.target) as client:
        await client.create_session("s", active=True)
        yield client


def refused(error: sessiond.SessiondError) -> str:
    """The field that the error names."""
    assert isinstance(error, sessiond.InvalidFields)
    assert (error.reason, error.code) == ("INVALID_FIELD", "INVALID_ARGUMENT")
    shown = "".join(traceback.format_exception(error)) + repr(error)
    assert "secret" not in shown
    shown.encode()
    (violation,) = error.violations
    return violation.field


CALLS: dict[str, Callable[[sessiond.Client], Any]] = {
    "session_id": lambda client: client.get_session(BAD),
    "session_id ": lambda client: client.create_session(BAD),
    "session_id  ": lambda client: client.append_messages(BAD, [sessiond.user("x")]),
    "session_id   ": lambda client: client.upload(BAD, b"x", name="a"),
    "session_id    ": lambda client: client.typing(BAD),
    "user_id": lambda client: client.create_session("a", user_id=BAD),
    "state.a.b[1]": lambda client: client.create_session("a", state={"a": {"b": ["x", BAD]}}),
    "state.a": lambda client: client.create_session("a", state={"a": {BAD: 1}}),
    "labels.team": lambda client: client.create_session("a", labels={"team": BAD}),
    "labels": lambda client: client.create_session("a", labels={BAD: "x"}),
    "sessions[1].name": lambda client: client.batch_create_sessions([{"name": "x"}, {"name": BAD}]),
    "session_ids[1]": lambda client: client.batch_get_sessions(["s", BAD]),
    "name": lambda client: client.update_session("s", name=BAD),
    "remove_keys[0]": lambda client: client.update_session("s", struct_update="set_keys", remove_keys=["state." + BAD]),
    "update.summary": lambda client: client.append_messages("s", [sessiond.user("x")], update={"summary": BAD}),
    "request_id": lambda client: client.delete_session("s", request_id=BAD),
    "message_ids[0]": lambda client: client.delete_messages("s", message_ids=[BAD]),
    "reason": lambda client: client.redact_message("s", "m", reason=BAD),
    "value.text": lambda client: client.put_document("k", {"text": BAD}),
    "key": lambda client: client.get_document(BAD),
    "agent_id": lambda client: client.get_document("k", agent_id=BAD),
    "run_id": lambda client: client.begin_run("s", run_id=BAD),
    "arguments.a": lambda client: client.request_tool_call("s", "tool", {"a": BAD}, run=FENCE),
}

MAKING: dict[str, Callable[[sessiond.Client], Any]] = {
    "session_id": lambda client: client.list_messages(BAD),
    "labels.a": lambda client: client.list_messages("s", labels={"a": BAD}),
    "user_id": lambda client: client.list_sessions(user_id=BAD),
    "key_prefix": lambda client: client.list_documents(key_prefix=BAD),
    "position": lambda client: client.watch("s", position=BAD),
    "session_ids[0]": lambda client: client.watch_events(session_ids=[BAD]),
    "attachment_id": lambda client: client.download("s", BAD),
    "name": lambda client: client.draft("s", name=BAD),
    "run_id": lambda client: client.run("s", run_id=BAD),
}

BUILDING: dict[str, Callable[[], Any]] = {
    "content[1]": lambda: sessiond.user("x", BAD),
    "content[0].a": lambda: sessiond.system({"a": BAD}),
    "name": lambda: sessiond.assistant("x", name=BAD),
    "thinking": lambda: sessiond.assistant("x", thinking=BAD),
    "tool_call_id": lambda: sessiond.tool("x", tool_call_id=BAD),
    "arguments": lambda: sessiond.tool_call("c", "name", BAD),
    "text": lambda: sessiond.json_part(f'"{BAD}"'),
    "media_type": lambda: sessiond.blob(b"", BAD),
    "value": lambda: sessiond.document_put("k", BAD, json_text=True),
    "user_id": lambda: sessiond.document_delete("k", user_id=BAD),
    "key": lambda: sessiond.document_name(BAD),
    "value.a[0]": lambda: sessiond.to_struct({"a": [BAD]}),
}


async def test_calls_name_the_argument(client: sessiond.Client) -> None:
    for field, call in CALLS.items():
        with pytest.raises(sessiond.InvalidFields) as error:
            await call(client)
        assert refused(error.value) == field.strip()
    session = await client.get_session("s", consistency="strong")
    assert session.version == 1


async def test_what_makes_its_requests_later_names_the_argument_at_once(client: sessiond.Client) -> None:
    for field, make in MAKING.items():
        with pytest.raises(sessiond.InvalidFields) as error:
            make(client)
        assert refused(error.value) == field


@pytest.mark.parametrize("field", BUILDING)
def test_what_builds_messages_and_documents_names_the_argument(field: str) -> None:
    with pytest.raises(sessiond.InvalidFields) as error:
        BUILDING[field]()
    assert refused(error.value) == field


async def test_data_that_a_draft_shows_names_the_argument(client: sessiond.Client) -> None:
    async with client.draft("s") as draft:
        for field, content, media_type in (("content.a", {"a": BAD}, ""), ("media_type", {}, BAD)):
            with pytest.raises(sessiond.InvalidFields) as error:
                await draft.show(content, media_type=media_type)
            assert refused(error.value) == field
        await draft.write(BAD)
    assert [sessiond.text_of(message) async for message in client.list_messages("s")] == ["secret\ufffd"]


async def test_error_of_the_callers_own_code_is_raised_as_it_is(client: sessiond.Client) -> None:
    def progress(*_: object) -> None:
        BAD.encode()

    with pytest.raises(UnicodeEncodeError):
        await client.upload("s", b"x", name="a", progress=progress)
