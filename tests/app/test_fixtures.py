"""The servers of conftest.py are real, and tests do not see each other through them."""

import asyncio
import socket
from contextlib import suppress
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis.asyncio

from tests.support.databases import Databases
from tests.support.proxy import Proxy
from tests.support.waiting import PATIENCE


@pytest.mark.parametrize("attempt", [1, 2])
async def test_each_test_has_a_database_of_its_own(empty_postgres_dsn: str, attempt: int) -> None:
    connection = await asyncpg.connect(empty_postgres_dsn)
    try:
        await connection.execute("CREATE TABLE mine (n int)")  # fails when another test has been here
        name = await connection.fetchval("SELECT current_database()")
    finally:
        await connection.close()
    assert name == urlsplit(empty_postgres_dsn).path.lstrip("/")


async def test_the_cache_server_answers(redis_url: str, redis_prefix: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.set(redis_prefix + "key", "value", px=60_000)
        assert await client.get(redis_prefix + "key") == b"value"


@pytest.mark.parametrize("turns", range(5))
async def test_proxy_closes_a_connection_that_arrives_while_it_closes(turns: int) -> None:
    """A server of asyncio that is closed between the two steps in which it accepts a connection leaves that open."""
    async with Proxy("127.0.0.1", 1) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port))
        client.setblocking(False)
        for _ in range(turns):
            await asyncio.sleep(0)
    with client, suppress(ConnectionResetError):
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""


async def test_each_database_has_a_key_of_its_own(databases: Databases) -> None:
    """Databases with one key are one database for what servers keep in Redis."""
    keys = set()
    for dsn in (databases.create_migrated(), databases.create_migrated()):
        connection = await asyncpg.connect(dsn)
        keys.add(await connection.fetchval("select secret from service_keys where name = 'tokens'"))
        await connection.close()
        databases.drop(dsn)
    assert len(keys) == 2
