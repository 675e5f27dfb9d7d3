"""What the store on Postgres says of its connections."""

import asyncio

import asyncpg

from sessiond_server.postgres.store import PostgresStore
from tests.support.waiting import until


async def test_calls_that_wait_for_a_connection_are_counted(postgres_dsn: str) -> None:
    release, held = asyncio.Event(), asyncio.Event()

    async def hold(connection: asyncpg.Connection) -> None:
        held.set()
        await release.wait()

    async with PostgresStore(postgres_dsn, max_connections=2) as store:
        assert store.condition().pool.waiting == sum(store.condition().pool.waits.counts) == 0
        holding = asyncio.create_task(store._transactions.use(hold))
        await asyncio.sleep(0)
        assert store.condition().pool.waiting == 0, "a connection is being opened"
        await held.wait()
        waiting = [asyncio.create_task(store.token_key()) for _ in range(3)]
        await until(lambda: store.condition().pool.waiting == 3)
        pool = store.condition().pool
        assert (pool.in_use, pool.idle, sum(pool.waits.counts)) == (1, 0, 1)
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        assert store.condition().pool.waiting == 2
        release.set()
        await asyncio.gather(holding, *waiting[1:])
        pool = store.condition().pool
        assert (pool.in_use, pool.idle, pool.waiting, sum(pool.waits.counts)) == (0, 1, 0, 3)
