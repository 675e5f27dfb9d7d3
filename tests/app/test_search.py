"""The index of searches, with servers and commands as processes: kills, rebuilding, and what callers see of it."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import sessiond
from sessiond_server.postgres.store import PostgresStore
from tests.support.caller import Caller, accepted
from tests.support.search import index_all, messages
from tests.support.serve_process import command, environment, serving
from tests.support.transactions import connected
from tests.support.waiting import PATIENCE

WORDS = 30


async def filled(store: PostgresStore) -> Caller:
    caller = Caller()
    await accepted(store, caller.create("s"), *(caller.append("s", f"word n{n}") for n in range(WORDS)))
    return caller


async def found(store: PostgresStore) -> list[int]:
    """`seq` of all messages, as the index has them."""
    return sorted(hit.seq for hit in await messages(store, "word", limit=100))


@asynccontextmanager
async def process(*arguments: str, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`sessiond` with these arguments, killed in the end unless it has ended."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sessiond_server", *arguments, env=environment(**variables),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def test_server_that_is_killed_while_it_indexes_leaves_the_index_whole(postgres_dsn: str, redis_url: str) -> None:
    """Another one goes on where it was, once the lease is over."""
    async with PostgresStore(postgres_dsn) as store, connected(postgres_dsn) as database:
        await filled(store)
        variables = {"DATABASE_URL": postgres_dsn, "SESSIOND_REDIS_URL": redis_url, "SESSIOND_SEARCH": "true"}
        async with process(
            "serve", "--listen", "127.0.0.1:0", **variables, SESSIOND_FAILPOINTS="indexed=exit:1"
        ) as server:
            assert await server.wait() == -signal.SIGKILL
        assert await database.fetchval("select holder from search_lease") is not None
        assert await database.fetchval("select count(*) from search_entries") == 0
        await database.execute("update search_lease set expire_time = clock_timestamp()")
        assert await store.search_upkeep.take_lease("next", 60.0)
        await index_all(store)
        assert await found(store) == list(range(2, WORDS + 2))
        assert await database.fetchval("select count(*) from search_entries") == WORDS


@pytest.mark.long
async def test_rebuilding_goes_on_after_a_kill_and_ctrl_c(postgres_dsn: str) -> None:
    rebuild = ("search", "rebuild")
    async with PostgresStore(postgres_dsn) as store, connected(postgres_dsn) as database:
        done = await asyncio.to_thread(command, *rebuild, DATABASE_URL=postgres_dsn)
        assert (done.returncode, done.stdout) == (0, "there is nothing to build\n")
        await filled(store)
        await index_all(store)
        old = await database.fetchval("select feed_id from search_feeds")
        await database.execute("delete from search_entries where seq > 10")
        async with process(*rebuild, DATABASE_URL=postgres_dsn, SESSIOND_FAILPOINTS="indexed=exit:1") as killed:
            assert await killed.wait() == -signal.SIGKILL
        assert len(await found(store)) == 9
        new = await database.fetchval("select feed_id from search_feeds where state = 2")
        await database.execute("update search_lease set expire_time = clock_timestamp()")
        async with database.transaction():
            await database.fetch("select from search_feeds where state = 2 for update")
            async with process(*rebuild, DATABASE_URL=postgres_dsn) as interrupted:
                assert interrupted.stdout is not None
                line = (await interrupted.stdout.readline()).decode()
                assert line == f"1 of 1 tenants left, 0 of about {WORDS} messages and events of tools\n"
                interrupted.send_signal(signal.SIGINT)
                _, stderr = await interrupted.communicate()
            assert interrupted.returncode == 130
            assert stderr.decode() == (
                "a running server with search on goes on with it, and so does this command when it is run again\n"
            )
            assert not await store.search_upkeep.is_kept()
        done = await asyncio.to_thread(command, *rebuild, "--tenant", "tenant", DATABASE_URL=postgres_dsn)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "the index of 1 tenants was built anew")
        assert await found(store) == list(range(2, WORDS + 2))
        assert await database.fetchval("select feed_id from search_feeds where state = 1") == new != old


@pytest.mark.long
async def test_rebuilding_refuses_what_is_no_tenant(postgres_dsn: str) -> None:
    refused = await asyncio.to_thread(command, "search", "rebuild", "--tenant", "a b", DATABASE_URL=postgres_dsn)
    assert refused.returncode == 2
    assert "a tenant has 1 to 128 characters" in refused.stderr
    refused = await asyncio.to_thread(command, "search", "rebuild", "--store", "memory")
    assert (refused.returncode, refused.stdout) == (1, "the memory store has no index\n")


async def test_search_follows_a_running_server(postgres_dsn: str, redis_url: str) -> None:
    variables = {"DATABASE_URL": postgres_dsn, "SESSIOND_REDIS_URL": redis_url}
    async with (
        serving("--metrics-listen", "127.0.0.1:0", **variables, SESSIOND_SEARCH="true") as server,
        sessiond.Client(server.target) as client,
    ):
        await client.create_session(session_id="s", active=True)
        appended = await client.append_messages("s", [sessiond.user("使用Python编程"), sessiond.user("no")])
        hits = [hit async for hit in client.search_messages("编程", wait_for=("s", appended.version))]
        assert [(hit.session_id, hit.seq) for hit in hits] == [("s", 2)]
        with pytest.raises(sessiond.VersionNotReached):
            await client.search_messages("编程", wait_for=("s", 99)).page()
        metrics = await server.metrics()
        assert metrics["sessiond_swept_total indexed_events"] == 3
        assert metrics["sessiond_sweeps_total failed search"] == 0
        assert metrics["sessiond_search_lag_seconds"] < PATIENCE
    async with (
        serving(**variables) as server,
        sessiond.Client(server.target) as client,
    ):
        with pytest.raises(sessiond.SearchOff):
            await client.search_messages("编程").page()
        await client.delete_session("s")
        async with connected(postgres_dsn) as database:
            assert await database.fetchval("select count(*) from search_entries") == 0
