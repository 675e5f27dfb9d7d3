"""Ids of every kind, empty attachments and the largest messages through client and service, over each storage."""

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import sessiond
from tests.support import s3
from tests.support.client_service import serving
from tests.support.effort import left_to_long
from tests.support.odd_ids import BAD_IDS, ODD_IDS
from tests.support.redis_cluster import ClusterOfThree

LARGE = 3 * 1024 * 1024


@pytest.fixture(scope="module")
def s3_server() -> Iterator[s3.S3Server]:
    s3.needed()
    with s3.running() as server:
        yield server


@pytest.fixture(params=["memory", *left_to_long("folder"), "redis", *left_to_long("cluster", "s3")])
def flags(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Servers start here, outside of any event loop."""
    if request.param == "memory":
        return {}
    if request.param == "folder":
        return {"blob_store": (tmp_path / "blobs").as_uri()}
    if request.param == "s3":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET_KEY)
        server: s3.S3Server = request.getfixturevalue("s3_server")
        return {"blob_store": server.bucket()}
    postgres = {"store": "postgres", "postgres_dsn": request.getfixturevalue("postgres_dsn")}
    if request.param == "redis":
        return postgres | {"redis_url": request.getfixturevalue("redis_url")}
    cluster: ClusterOfThree = request.getfixturevalue("cluster_of_three")
    return postgres | {"redis_url": cluster.servers[0].url, "blob_store": (tmp_path / "blobs").as_uri()}


@pytest.fixture
async def client(flags: dict[str, str]) -> AsyncIterator[sessiond.Client]:
    async with serving(flags) as service, sessiond.Client(service.target) as client:
        yield client


async def test_ids_of_every_kind_come_back_from_everywhere(client: sessiond.Client) -> None:
    for name in ODD_IDS:
        created = await client.create_session(name, active=True, user_id=name, agent_id=name, team_id=name)
        assert (created.session_id, created.user_id) == (name, name)
        drafted = f"{name[:20].strip()}\u00a0draft"
        async with client.run(name, run_id=name) as run:
            appended = await run.append_messages([sessiond.user("hello", message_id=name)])
            assert list(appended.message_ids) == [name]
            async with run.draft(message_id=drafted) as draft:
                await draft.write("piece")
            call = await run.request_tool_call("search", tool_call_id=name)
            await run.cancel_tool_call(call.tool_call_id)
        content = name.encode()
        await client.upload(name, content, attachment_id=name, name="a")
        assert await client.download(name, name).read() == content
        assert (await client.get_message(name, name)).message_id == name
        assert (await client.get_run(name, name)).run_id == name
        assert (await client.get_tool_call(name, name)).tool_call_id == name
        assert (await client.get_session(name)).version == (
            await client.get_session(name, consistency="strong")
        ).version
        listed = [message.message_id async for message in client.list_messages(name)]
        events = [event async for event in client.list_events(name)]
        assert {event.message.message_id for event in events if event.HasField("message")} == {name, drafted}
        assert {event.session_id for event in events} == {name}
        assert set(listed) == {name, drafted}
        assert [s.session_id async for s in client.list_sessions(user_id=name)] == [name]
        with pytest.raises(sessiond.SessionAlreadyExists) as taken:
            await client.create_session(name)
        assert taken.value.session_id == name
        with pytest.raises(sessiond.RunNotFound) as missing:
            await client.get_run(name, f"{name[:60]}?")
        assert (missing.value.session_id, missing.value.run_id) == (name, f"{name[:60]}?")
    async with client.watch_events(session_ids=ODD_IDS, from_beginning=True) as feed:
        kept: set[str] = set()
        async for event in feed:
            kept.add(event.session_id)
            if len(kept) == len(ODD_IDS):
                break
        assert feed.position
        assert len(feed.position) <= 4096
    assert sorted([s.session_id async for s in client.list_sessions(page_size=3)]) == sorted(ODD_IDS)


async def test_empty_files_are_attachments(client: sessiond.Client, tmp_path: Path) -> None:
    await client.create_session("s", active=True)
    target = tmp_path / "there"
    for attachment_id in ("a", "b"):
        made = await client.upload("s", b"", attachment_id=attachment_id, name="empty.txt", request_id=attachment_id)
        assert (made.size_bytes, made.sha256) == (0, hashlib.sha256().digest())
        assert (
            await client.upload("s", b"", attachment_id=attachment_id, name="empty.txt", request_id=attachment_id)
            == made
        )
        assert await client.download("s", attachment_id).read() == b""
        assert await client.download("s", attachment_id).save(target) == made
        assert target.read_bytes() == b""
    assert await client.delete_attachment("s", "a") == 4
    assert await client.download("s", "b").read() == b""
    assert (await client.get_session("s", consistency="strong")).attachment_count == 1
    assert [attachment.attachment_id async for attachment in client.list_attachments("s")] == ["b"]


@pytest.mark.parametrize("flags", ["memory", "redis"], indirect=True)
async def test_messages_of_3_mib_reach_clients_with_the_usual_limits(flags: dict[str, str]) -> None:
    """A message as large as the operator can allow fits into an answer of every method that returns it."""
    message = sessiond.user("x" * LARGE, message_id="large")
    message.parts[0].text = "x" * (2 * LARGE - message.ByteSize())
    assert message.ByteSize() == LARGE
    async with serving(flags | {"max_message_size": "3MiB"}) as service, sessiond.Client(service.target) as client:
        await client.create_session("s", active=True)
        for number in range(3):
            message.message_id = f"larg{number}"
            version = (await client.append_messages("s", [message])).version
        assert [len(sessiond.text_of(found)) async for found in client.list_messages("s", min_version=version)] == [
            len(message.parts[0].text)
        ] * 3
        assert (await client.get_message("s", "larg1")).parts == message.parts
        found = [event async for event in client.list_events("s")]
        assert [event.message.message_id for event in found[1:]] == ["larg0", "larg1", "larg2"]
        async with client.watch("s", from_beginning=True) as watch, client.watch_events(from_beginning=True) as feed:
            for event in found:
                assert await anext(watch) == event
                assert await anext(feed) == event
        assert [sessiond.text_of(one) for one in await client.pop_messages("s")] == [message.parts[0].text]
        message.message_id = "large1"
        with pytest.raises(sessiond.InvalidFields) as error:
            await client.append_messages("s", [message])
        assert [violation.field for violation in error.value.violations] == ["messages[0]", "messages"]


@pytest.mark.parametrize("flags", ["memory"], indirect=True)
@pytest.mark.parametrize("bad", BAD_IDS[1:])
async def test_an_id_that_is_none_is_refused_with_its_field(client: sessiond.Client, bad: str) -> None:
    for field, refused in {
        "session.session_id": client.create_session(bad),
        "session.user_id": client.create_session(user_id=bad),
        "session_id": client.get_session(bad),
        "message_id": client.get_message("s", bad),
        "run_id": client.get_run("s", bad),
        "tool_call_id": client.get_tool_call("s", bad),
        "attachment_id": client.get_attachment("s", bad),
    }.items():
        with pytest.raises(sessiond.InvalidFields) as error:
            await refused
        assert [violation.field for violation in error.value.violations] == [field]
