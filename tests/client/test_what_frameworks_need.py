"""What frameworks of agents ask of a session store: each of their operations is one call of either client, against the
whole service on Postgres and Valkey. In earlier adapters each of them took several calls, or lost something."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

import sessiond
from sessiond_server.auth import LOCAL_PRINCIPAL
from tests.support.both_clients import connected
from tests.support.client_service import serving

BOTH_CLIENTS = True

MIB = 1024 * 1024
LONG_USERS = ("u" * 200, "\U0001f980" * 63 + "abc")
"""200 characters; 255 bytes of four-byte characters."""
MANY = 100_000


@pytest.fixture
def flags(postgres_dsn: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    blobs = (tmp_path / "blobs").as_uri()
    return {"store": "postgres", "postgres_dsn": postgres_dsn, "redis_url": redis_url, "blob_store": blobs}


@pytest.fixture
async def client(flags: dict[str, str], client_kind: str) -> AsyncIterator[sessiond.Client]:
    async with serving(flags) as service, connected(client_kind, service.target) as client:
        yield client


async def texts(client: sessiond.Client, session_id: str) -> list[str]:
    return [sessiond.text_of(message) async for message in client.list_messages(session_id)]


async def test_cleared_session_takes_its_id_anew(client: sessiond.Client) -> None:
    """OpenAI's Agents SDK and agno clear a session and go on under its id: delete_session is the one call, and
    create_session with reuse_deleted the other one, of the next run."""
    await client.create_session("s", active=True, user_id="ada", state={"step": 1})
    await client.append_messages("s", [sessiond.user("old")])
    cleared_at = await client.delete_session("s")
    anew = await client.create_session("s", active=True, user_id="ada", reuse_deleted=True)
    assert anew.version == cleared_at + 1
    assert not anew.state.fields
    appended = await client.append_messages("s", [sessiond.user("new")])
    assert appended.version == cleared_at + 2
    assert await texts(client, "s") == ["new"]


async def test_one_append_writes_three_scopes_of_state_or_nothing(client: sessiond.Client) -> None:
    """ADK's append_event: state of the session, `user:` and `app:` keys with the event."""
    await client.create_session("s", active=True, user_id="ada", state={"step": 1, "gone": True})

    def writes(step: int, theme_at: int) -> list[sessiond.DocumentWrite]:
        return [
            sessiond.document_put("theme", f"dark {step}", user_id="ada", expected_version=theme_at),
            sessiond.document_put("motd", f"hello {step}"),
        ]

    async def state() -> tuple[object, object, object, list[str]]:
        session = await client.get_session("s")
        theme = await client.get_document("theme", user_id="ada")
        motd = await client.get_document("motd")
        values = (sessiond.document_value(theme), sessiond.document_value(motd))
        return sessiond.from_struct(session.state), *values, await texts(client, "s")

    appended = await client.append_messages(
        "s",
        [sessiond.assistant("one")],
        update={"state": {"step": 2, "answer": None}},
        struct_update="set_keys",
        remove_keys=["state.gone"],
        documents=writes(2, 0),
    )
    assert [change.version for change in appended.documents] == [1, 1]
    first = ({"step": 2, "answer": None}, "dark 2", "hello 2", ["one"])
    assert await state() == first

    with pytest.raises(sessiond.DocumentVersionMismatch):
        await client.append_messages(
            "s",
            [sessiond.assistant("two")],
            update={"state": {"step": 3}},
            struct_update="set_keys",
            documents=writes(3, 9)[::-1],
        )
    with pytest.raises(sessiond.MessageAlreadyExists):
        await client.append_messages(
            "s",
            [sessiond.assistant("two", message_id=appended.message_ids[0])],
            update={"state": {"step": 3}},
            struct_update="set_keys",
            documents=writes(3, 1),
        )
    assert await state() == first
    assert (await client.get_session("s", consistency="strong")).version == appended.version


@pytest.mark.parametrize("count", [1, 300])
async def test_pop_returns_the_newest_messages_and_removes_them(client: sessiond.Client, count: int) -> None:
    await client.create_session("s", active=True)
    for start in (0, 200):
        await client.append_messages("s", [sessiond.user(f"{n}") for n in range(start, start + 200)])
    popped = await client.pop_messages("s", count)
    assert [sessiond.text_of(message) for message in popped] == [f"{n}" for n in range(400 - count, 400)]
    assert await texts(client, "s") == [f"{n}" for n in range(400 - count)]
    assert (await client.get_session("s")).message_count == 400 - count


@pytest.mark.long
async def test_messages_with_a_label_are_found_among_100_000(flags: dict[str, str]) -> None:
    """LangGraph and agno look messages up by an id of their own. Long, for it appends that many messages."""
    async with serving(flags) as service, sessiond.Client(service.target, timeout=600) as writer:
        await writer.create_session("s", active=True)
        named = [
            sessiond.assistant(f"step {n}", labels={"checkpoint": f"c{n % 2}"}, message_id=f"m{n}") for n in range(20)
        ]
        await writer.append_messages("s", named[:10])
        rest = [sessiond.user("x" * 100) for _ in range(250)]

        async def fill(count: int) -> None:
            for _ in range(count):
                await writer.append_messages("s", rest)

        await asyncio.gather(*(fill(MANY // 250 // 8) for _ in range(8)))
        await writer.append_messages("s", named[10:])
        assert (await writer.get_session("s")).message_count == MANY + 20
        for kind in ("async", "sync"):
            async with connected(kind, service.target, timeout=600) as client:
                pages = [page async for page in client.list_messages("s", labels={"checkpoint": "c1"}).pages()]
                found = [message.message_id for page in pages for message in page.messages]
                assert found == [f"m{n}" for n in range(20) if n % 2]
                assert len(pages) == 1
                newest = client.list_messages("s", labels={"checkpoint": "c0"}, order_by="newest_first", page_size=1)
                async for message in newest:
                    assert message.message_id == "m18"
                    break


def picture() -> sessiond.Message:
    return sessiond.user(sessiond.blob(os.urandom(2 * MIB), "image/png"), "What is this?", message_id="m")


async def test_image_of_2_mib_is_one_message_where_the_operator_allows_3(
    flags: dict[str, str], client_kind: str
) -> None:
    async with (
        serving(flags | {"max_message_size": "3MiB"}) as service,
        connected(client_kind, service.target) as client,
    ):
        await client.create_session("s", active=True)
        message = picture()
        await client.append_messages("s", [message])
        assert (await client.get_message("s", "m")).parts == message.parts
        assert [found.parts async for found in client.list_messages("s")] == [message.parts]


async def test_image_of_2_mib_is_appended_by_one_call_under_the_usual_limit(client: sessiond.Client) -> None:
    await client.create_session("s", active=True)
    message = picture()
    with pytest.raises(sessiond.InvalidFields):
        await client.append_messages("s", [message])
    for _ in range(2):  # a retry uploads and appends nothing twice
        appended = await client.append_messages("s", [message], offload_above=MIB // 4, request_id="r")
        assert list(appended.message_ids) == ["m"]
    assert (await client.get_session("s", consistency="strong")).attachment_count == 1
    stored = [found async for found in client.list_messages("s")]
    assert stored[0].parts[0].file.media_type == "image/png"
    assert [whole.parts for whole in await client.inline_parts("s", stored)] == [message.parts]


async def test_a_run_offloads_and_writes_documents_with_its_fence(client: sessiond.Client) -> None:
    await client.create_session("s", active=True)
    async with client.run("s") as run:
        appended = await run.append_messages(
            [picture()], offload_above=MIB, documents=[sessiond.document_put("seen", {"m": 1}, session_id="s")]
        )
    assert [change.version for change in appended.documents] == [1]
    stored = await client.get_message("s", "m")
    assert (stored.run_id, stored.parts[0].WhichOneof("kind")) == (run.run.run_id, "file")


@pytest.mark.parametrize("user_id", LONG_USERS, ids=["200 characters", "255 bytes"])
async def test_long_user_id_works_wherever_an_id_goes(
    client: sessiond.Client,
    user_id: str,
    flags: dict[str, str],
    redis_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In columns, keys of Redis, names of files and log lines, as the ids of the user, the session and the rest."""
    caplog.set_level(logging.INFO)
    session_id = user_id
    await client.create_session(session_id, active=True, user_id=user_id)
    await client.append_messages(session_id, [sessiond.user("hi", message_id=user_id)])
    await client.put_document("theme", "dark", user_id=user_id)
    attachment = await client.upload(session_id, b"bytes", attachment_id=user_id, name="a.txt")
    for _ in range(2):  # the second time from Redis
        assert (await client.get_session(session_id)).user_id == user_id
    assert [session.user_id async for session in client.list_sessions(user_id=user_id)] == [user_id]
    assert await texts(client, session_id) == ["hi"]
    assert sessiond.document_value(await client.get_document("theme", user_id=user_id)) == "dark"
    assert await client.download(session_id, attachment.attachment_id).read() == b"bytes"
    with pytest.raises(sessiond.SessionAlreadyExists):
        await client.create_session(session_id)

    names = [path.name.encode() for path in (tmp_path / "blobs").rglob("*")]
    assert names
    assert max(map(len, names)) <= 255
    async with redis.asyncio.Redis.from_url(redis_url) as keys:
        kept = [key async for key in keys.scan_iter(count=1000) if LOCAL_PRINCIPAL.tenant_id.encode() in key]
    assert any(session_id.encode() in key for key in kept)
    assert all("\n" not in record.getMessage() for record in caplog.records)


async def test_who_joins_late_reads_the_draft_from_its_beginning(client: sessiond.Client) -> None:
    """Vercel's resumable streams: a page that is loaded anew shows the answer so far, and then what follows."""
    await client.create_session("s", active=True)
    async with client.draft("s", message_id="answer", interval=0) as draft:
        await draft.write("Mild: ")
        async with client.watch("s", deltas=True) as first:
            async for item in first:
                if isinstance(item, sessiond.Delta) and item.text:
                    break
        async with client.watch("s", deltas=True) as late:
            said = ""
            async for item in late:
                if isinstance(item, sessiond.Event):
                    break
                assert item.offset == len(said.encode()) or not item.text
                said += item.text
                if said == "Mild: ":
                    await draft.write("21 °C")
                elif said == "Mild: 21 °C":
                    await draft.append()
            assert isinstance(item, sessiond.Event)
            assert (item.message.message_id, sessiond.text_of(item.message)) == ("answer", "Mild: 21 °C")
