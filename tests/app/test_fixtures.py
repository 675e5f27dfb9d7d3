"""The servers of conftest.py are real, and tests do not see each other through them."""

from urllib.parse import urlsplit

import asyncpg
import pytest
import redis.asyncio


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
