"""The client's methods for documents, against the real service."""

import asyncio

import pytest

import sessiond
from sessiond.documents import owner
from sessiond.v1.document_pb2 import DocumentScope
from tests.support.client_service import Service


@pytest.mark.parametrize(
    "value", [None, True, 1, 2**60, 0.5, "ü", [1, {"a": None}], {"b": [], "a": ""}, b"", b"\0\xff"]
)
async def test_a_value_comes_back(service: Service, value: object) -> None:
    async with sessiond.Client(service.target) as client:
        put = await client.put_document("k", value, user_id="ada")
        got = await client.get_document("k", user_id="ada")
        assert put == got
        assert sessiond.document_value(got) == value


async def test_a_json_text_is_kept_byte_for_byte(service: Service) -> None:
    text = ' {"b": 1.0, "a": 9007199254740993, "b": "\\u00fc"}\n'
    async with sessiond.Client(service.target) as client:
        await client.put_document("k", text, json_text=True)
        assert (await client.get_document("k")).json == text


async def test_lists_and_batches(service: Service) -> None:
    async with sessiond.Client(service.target) as client:
        for number in range(45):
            await client.put_document(f"a/{number:02}", number, agent_id="app", labels={"odd": str(number % 2)})
        await client.put_document("b", 1, agent_id="app")
        listed = client.list_documents(agent_id="app", key_prefix="a/", labels={"odd": "1"}, page_size=10)
        assert [sessiond.document_value(item) async for item in listed] == list(range(1, 45, 2))
        names = client.list_documents(agent_id="app", omit_values=True)
        assert [sessiond.document_value(item) async for item in names] == [None] * 46
        found = await client.batch_get_documents(
            [sessiond.document_name("b", agent_id="app"), sessiond.document_name("b")]
        )
        assert ([item.key for item in found.documents], [name.scope_id for name in found.not_found]) == (["b"], [""])


async def test_errors_name_the_document(service: Service) -> None:
    async with sessiond.Client(service.target) as client:
        with pytest.raises(sessiond.DocumentNotFound) as missing:
            await client.get_document("k", user_id="ada")
        assert missing.value.key == "k"
        await client.put_document("k", 1, expected_version=0)
        with pytest.raises(sessiond.DocumentVersionMismatch) as mismatch:
            await client.put_document("k", 2, expected_version=0)
        assert (mismatch.value.key, mismatch.value.current_version) == ("k", 1)
        with pytest.raises(sessiond.DocumentVersionMismatch):
            await client.delete_document("k", expected_version=2)
        assert await client.delete_document("k", expected_version=1) == 1


async def test_an_append_commits_three_scopes_of_state(service: Service) -> None:
    """What a framework's append of an event with state needs, in one call; a retry does it once."""
    async with sessiond.Client(service.target) as client:
        await client.create_session("s", user_id="ada", active=True)

        async def turn(expected: int) -> list[int]:
            answer = await client.append_messages(
                "s",
                [sessiond.user("hi")],
                update={"state": {"step": 1}},
                documents=[
                    sessiond.document_put("n", 1, agent_id="app", expected_version=expected),
                    sessiond.document_put("n", 2, user_id="ada", ttl=60, labels={"a": "b"}),
                    sessiond.document_put("n", 3, session_id=""),
                    sessiond.document_delete("gone", agent_id="app"),
                ],
                request_id=f"turn-{expected}",
            )
            return [change.version for change in answer.documents]

        assert await turn(0) == await turn(0) == [1, 1, 1, 0]
        with pytest.raises(sessiond.DocumentVersionMismatch):
            await turn(7)
        session = await client.get_session("s")
        assert (session.message_count, sessiond.from_struct(session.state)) == (1, {"step": 1})
        for document, value in (
            (await client.get_document("n", agent_id="app"), 1),
            (await client.get_document("n", user_id="ada"), 2),
            (await client.get_document("n", session_id="s"), 3),
        ):
            assert sessiond.document_value(document) == value


async def test_a_watcher_sees_what_was_written(service: Service) -> None:
    async with sessiond.Client(service.target) as client:
        session = await client.create_session("s", active=True)
        await client.append_messages("s", [sessiond.user("hi")], documents=[sessiond.document_put("n", 1)])
        await client.put_document("k", 1, session_id="s")
        await client.delete_document("k", session_id="s")
        seen = [event async for event in client.list_events("s") if event.seq > session.version]
        assert [(change.key, change.version, change.deleted) for event in seen for change in event.documents] == [
            ("n", 1, False),
            ("k", 1, False),
            ("k", 1, True),
        ]
        kinds = [sessiond.EventType.Name(event.type) for event in seen]
        assert kinds == [f"EVENT_TYPE_{name}" for name in ("MESSAGE_APPENDED", "DOCUMENT_PUT", "DOCUMENT_DELETED")]


async def test_racing_writers_win_once_each(service: Service) -> None:
    async with sessiond.Client(service.target) as client:

        async def add() -> None:
            while True:
                try:
                    found = await client.get_document("n")
                    version, value = found.version, sessiond.document_value(found)
                except sessiond.DocumentNotFound:
                    version, value = 0, 0
                try:
                    await client.put_document("n", value + 1, expected_version=version)
                except sessiond.DocumentVersionMismatch:
                    continue
                return

        await asyncio.gather(*(add() for _ in range(20)))
        final = await client.get_document("n")
        assert (sessiond.document_value(final), final.version) == (20, 20)


def test_a_document_has_one_owner() -> None:
    assert owner(None, None, None) == (DocumentScope.DOCUMENT_SCOPE_TENANT, "")
    assert owner(None, "", None) == (DocumentScope.DOCUMENT_SCOPE_USER, "")
    with pytest.raises(ValueError, match="at most one"):
        sessiond.document_put("k", 1, user_id="a", session_id="s")
    with pytest.raises(ValueError, match="JSON"):
        sessiond.document_put("k", float("nan"))
    with pytest.raises(TypeError):
        sessiond.document_put("k", object())
