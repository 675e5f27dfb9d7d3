"""The write path with one safeguard taken out at a time: what the tests of test_postgres_locks.py then see.

It proves that they would fail, so that no safeguard can be removed for speed unnoticed.
"""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from sessiond_server.domain import batch, replay
from sessiond_server.domain import commands as c
from sessiond_server.domain.rows import Head, Key, Known, Needs, Policy
from sessiond_server.domain.sessions import rules as session_rules
from sessiond_server.errors import PositionCompacted, PositionLost
from sessiond_server.events.channel import check, cursor_after
from sessiond_server.memory.cache import MemoryCache, MemoryServer
from sessiond_server.memory.store import MemoryStore
from sessiond_server.postgres import write
from sessiond_server.postgres.columns import columns
from sessiond_server.postgres.database_clock import DatabaseClock
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.store.cached import changes
from sessiond_server.store.cached.store import CachedSessions
from tests.support.caller import Caller, accepted, whole_log
from tests.support.transactions import backends, cancelled_in_commit, raced_through_the_lock


def _without_for_update() -> str:
    mutated = write.LOCK_HEADS.replace("for update", "")
    assert mutated != write.LOCK_HEADS
    return mutated


async def test_without_the_second_statement(
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresStore,
    other: PostgresStore,
    database: asyncpg.Connection,
    caller: Caller,
) -> None:
    """What a request did is looked up with a snapshot older than the lock: the second retry is not seen as one."""
    lock_heads, look_up, unlocked = write.lock_heads, write.look_up, _without_for_update()
    early: dict[asyncpg.Connection, Known] = {}

    async def look_up_and_lock(connection: asyncpg.Connection, commands: Sequence[c.Command]) -> dict[Key, Head]:
        head_keys = sorted({write.head_key(command) for command in commands})
        rows = await connection.fetch(unlocked, *columns(head_keys, 3))
        heads = {head_keys[row[0] - 1][:2]: write.head(row, 1) for row in rows}
        early[connection] = await look_up(connection, batch.needs(commands, heads, Policy()))
        return await lock_heads(connection, commands)

    async def looked_up(connection: asyncpg.Connection, needs: Needs, clock: DatabaseClock) -> Known:
        return early[connection]

    await accepted(postgres, caller.create("s"))
    monkeypatch.setattr(write, "lock_heads", look_up_and_lock)
    monkeypatch.setattr(write, "look_up", looked_up)
    with pytest.raises(asyncpg.UniqueViolationError, match="requests_pkey"):
        await raced_through_the_lock(postgres, other, database, caller.append("s", request_id="r"))


async def test_without_looking_up_nor_unique_request_ids(
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresStore,
    other: PostgresStore,
    database: asyncpg.Connection,
    caller: Caller,
) -> None:
    """The uniqueness is the last safeguard: without it the retry is appended again."""
    await database.execute("alter table requests drop constraint requests_pkey")
    look_up = write.look_up

    async def blind(connection: asyncpg.Connection, needs: Needs, clock: DatabaseClock) -> Known:
        needs.requests.clear()
        return await look_up(connection, needs, clock)

    await accepted(postgres, caller.create("s"))
    monkeypatch.setattr(write, "look_up", blind)
    await raced_through_the_lock(postgres, other, database, caller.append("s", request_id="r"))
    assert len(await whole_log(postgres, caller.scope, "s")) == 3


async def test_without_the_row_lock(
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresStore,
    other: PostgresStore,
    database: asyncpg.Connection,
    caller: Caller,
) -> None:
    """Both decide on the same version, and only the primary key of events keeps the log from forking."""
    await accepted(postgres, caller.create("s"))
    monkeypatch.setattr(write, "LOCK_HEADS", _without_for_update())
    with pytest.raises(asyncpg.UniqueViolationError, match=r"events_pkey|requests_pkey"):
        await raced_through_the_lock(postgres, other, database, caller.append("s", request_id="r"))


async def test_without_the_shield(
    monkeypatch: pytest.MonkeyPatch, postgres_dsn: str, database: asyncpg.Connection, caller: Caller
) -> None:
    """The cancellation reaches the commit. The store then cuts the connection, lest the server be told to stop too."""
    async with PostgresStore(postgres_dsn, max_connections=1) as store:
        await accepted(store, caller.create("s"))
        before = await backends(database)
        with monkeypatch.context() as mutated:
            mutated.setattr(asyncio, "shield", lambda task: task)
            await cancelled_in_commit(store, database, caller.append("s", request_id="r"))
        await whole_log(store, caller.scope, "s")
        assert await backends(database) != before


async def test_without_the_kept_answer(
    monkeypatch: pytest.MonkeyPatch, postgres: PostgresStore, caller: Caller
) -> None:
    """The log does not have the content that a pop returned: its retry comes back without."""
    pop = caller.pop("s", 1, "r")
    await accepted(postgres, caller.create("s"), caller.append("s", "said"))
    first = await accepted(postgres, pop)
    assert await accepted(postgres, pop) == first
    monkeypatch.setattr(replay, "keeps_answer", lambda action: False)
    assert await accepted(postgres, pop) != first


async def test_without_removing_before_appending(
    monkeypatch: pytest.MonkeyPatch, postgres: PostgresStore, caller: Caller
) -> None:
    """A batch that deletes a message and appends one with its id finds the id taken."""
    await accepted(postgres, caller.create("s"), caller.append_ids("s", "m"))
    nothing = "select $1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bytea[]"
    monkeypatch.setattr(write, "WRITE_REMOVALS", nothing)
    with pytest.raises(asyncpg.UniqueViolationError, match="events_message_key"):
        await postgres.apply([caller.delete_messages("s", "m"), caller.append_ids("s", "m")])


async def test_without_versions_that_go_on_behind_a_deletion(monkeypatch: pytest.MonkeyPatch, caller: Caller) -> None:
    """A position of the session before is taken for one of a history that was lost."""
    create = session_rules.create
    for mutated, error in ((False, PositionCompacted), (True, PositionLost)):
        store = MemoryStore()
        if mutated:
            monkeypatch.setattr(session_rules, "create", lambda step, action, known, _: create(step, action, known, 0))
        await accepted(store, caller.create("s"), caller.append("s", "x", "y"))
        (entry,) = (await store.read_log(("tenant", "s"), after_seq=1, limit=1)).entries
        await accepted(store, caller.delete("s"))
        await accepted(store, caller.create("s", reuse=True), caller.append("s", "x", "y"))
        page = await store.read_log(("tenant", "s"), after_seq=2, limit=10)
        with pytest.raises(error):
            check(("tenant", "s"), cursor_after(entry), page)


async def test_without_cutting_the_cached_window_at_a_creation(monkeypatch: pytest.MonkeyPatch, caller: Caller) -> None:
    """A cached copy joins the messages of the session before with those of the next."""
    for mutated, count in ((False, 1), (True, 3)):
        if mutated:
            monkeypatch.setattr(changes, "CREATED", ())
        store, server = MemoryStore(), MemoryServer(asyncio.get_running_loop().time)
        async with CachedSessions(store, store, MemoryCache(server)) as cached:
            await accepted(cached, caller.create("s"), caller.append("s", "x", "y"))
            await accepted(cached, caller.delete("s"), caller.create("s", reuse=True), caller.append("s", "z"))
            page = await cached.list_messages(caller.scope, "s", after_seq=0, before_seq=0, descending=True, limit=10)
            assert len(page.messages) == count
