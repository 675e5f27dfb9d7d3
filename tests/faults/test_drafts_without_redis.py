"""Open drafts outlive what happens to Redis: they are in the memory of the servers (docs/decisions/0030)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import sessiond
from tests.support.client_service import serving
from tests.support.valkey import Valkey
from tests.support.waiting import until


@asynccontextmanager
async def two_servers(postgres_dsn: str, valkey: Valkey) -> AsyncIterator[tuple[sessiond.Client, sessiond.Client]]:
    """Clients of two servers that have found each other on the bus."""
    flags = {"store": "postgres", "postgres_dsn": postgres_dsn, "redis_url": valkey.url}
    async with (
        serving(flags) as first,
        serving(flags) as second,
        sessiond.Client(first.target) as here,
        sessiond.Client(second.target) as there,
    ):
        await here.create_session("probe", active=True)

        async def found() -> bool:
            await here.publish_delta("probe", [sessiond.Delta(message_id="m", text="a")])
            return bool(await shown(there, "probe"))

        await until(found)
        yield here, there


async def shown(client: sessiond.Client, session_id: str) -> dict[str, str]:
    """What a watcher that joins now gets of each draft before anything else happens."""
    drafts: dict[str, str] = {}
    async with client.watch(session_id, deltas=True) as watch, asyncio.TaskGroup() as group:
        closing = group.create_task(publish_ends(client, session_id))
        async for item in watch:
            assert isinstance(item, sessiond.Delta)
            if item.message_id == "end":
                break
            if item.text:
                assert item.offset == len(drafts.get(item.message_id, ""))
                drafts[item.message_id] = drafts.get(item.message_id, "") + item.text
        closing.cancel()
    return drafts


async def publish_ends(client: sessiond.Client, session_id: str) -> None:
    """More than once, for a delta may be lost as long as a server takes Redis for present."""
    while True:
        await client.publish_delta(session_id, [sessiond.Delta(message_id="end", typing=True)])


async def published(client: sessiond.Client, text: str, offset: int = 0) -> None:
    await client.publish_delta("s", [sessiond.Delta(message_id="m", text=text, offset=offset)])


async def test_flush_of_redis_keeps_the_open_draft_on_every_server(postgres_dsn: str, valkey: Valkey) -> None:
    async with two_servers(postgres_dsn, valkey) as (here, there):
        await here.create_session("s", active=True)
        await published(here, "to ")
        async with valkey.client() as redis:
            await redis.flushall()
        await published(here, "be", 3)

        async def both() -> bool:
            return [await shown(client, "s") for client in (here, there)] == [{"m": "to be"}] * 2

        await until(both)
        await here.append_messages("s", [sessiond.assistant("to be", message_id="m")])
        assert [await shown(client, "s") for client in (here, there)] == [{}] * 2


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_draft_goes_on_without_redis_where_it_is_written(postgres_dsn: str, valkey: Valkey, how: str) -> None:
    """The other server keeps what reached it before, and shows neither once the message is deleted."""
    async with two_servers(postgres_dsn, valkey) as (here, there):
        await here.create_session("s", active=True)
        await published(here, "to ")
        await until(lambda: shown_is(there, {"m": "to "}))
        if how == "killed":
            valkey.kill()
        else:
            valkey.freeze()
        try:
            # What is on its way when Redis goes may be lost, so the writer begins anew until it has come.
            async def begun_anew() -> bool:
                await published(here, "to be")
                return await shown_is(here, {"m": "to be"})

            await until(begun_anew)
            await published(here, " or", 5)
            assert await shown(here, "s") == {"m": "to be or"}
            assert await shown(there, "s") == {"m": "to "}
            await here.append_messages("s", [sessiond.assistant("to be or", message_id="m")])
            await here.delete_messages("s", message_ids=["m"])
            assert [await shown(client, "s") for client in (here, there)] == [{}] * 2
        finally:
            if how == "frozen":
                valkey.thaw()


async def shown_is(client: sessiond.Client, expected: dict[str, str]) -> bool:
    return await shown(client, "s") == expected
