"""The index of Postgres: what is gone leaves it, raced with the indexer; two indexers; rebuilding; moves of tenants."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import asyncpg
import pytest

from sessiond.v1.tool_call_pb2 import ToolCall, ToolData
from sessiond_server.domain import commands as c
from sessiond_server.domain.commands import Command
from sessiond_server.errors import DeadlinePassed, InvalidPageToken
from sessiond_server.postgres import search, search_index
from sessiond_server.postgres.moving import removal, switching
from sessiond_server.postgres.statements import SEARCH_LIST
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.search import finding, indexer
from sessiond_server.search.contract import Where
from sessiond_server.search.indexer import Advanced, Behind, Indexing
from sessiond_server.search.query import parse
from tests.support.caller import Caller, accepted, message
from tests.support.effort import batches
from tests.support.search import index_all, keys_of, message_pages, messages, places
from tests.support.statement_order import StatementOrder
from tests.support.transactions import connected
from tests.support.waiting import until

MARKER = "zxqmarker"
"""What is removed says it, and nothing else does."""
SCHEDULES = 12


async def left(database: asyncpg.Connection, tenant_id: str = "tenant") -> list[str]:
    """Tables of the index in which something tells of MARKER: its key in a row, or its text anywhere."""
    found = []
    for kind, name, table in (
        (search.SESSIONS, "sessions", "search_sessions"),
        (search.ENTRIES, "entries", "search_entries"),
    ):
        feeds = await database.fetch(f"select feed_id, {name} from search_feeds where tenant_id = $1", tenant_id)
        for feed_id, count in feeds:
            keys = keys_of(MARKER, feed_id, kind, count)
            if await database.fetchval(
                f"select exists (select from {table} where feed_id = $1 and keys && $2)", feed_id, keys
            ):
                found.append(table)
    found += [
        f"text of {table}"
        for table in ("search_feeds", "search_sessions", "search_entries", "search_buckets")
        if await database.fetchval(f"select exists (select from {table} t where t::text like '%{MARKER}%')")
    ]
    return found


def said(caller: Caller, session_id: str, user_id: str = "") -> list[Command]:
    """A session, whose name and messages all say MARKER."""
    texts = [message(f"{MARKER} says {session_id} {n}", f"m{n}") for n in range(3)]
    return [
        caller.create(session_id, name="", user_id=user_id),
        caller.command(session_id, c.AppendMessages(texts)),
    ]


def called(caller: Caller, session_id: str) -> list[Command]:
    call = ToolCall(tool_call_id="t", name="lookup", arguments=ToolData(text=MARKER))
    return [
        caller.command(session_id, c.RequestToolCall(call)),
        caller.command(session_id, c.StartToolCall("t")),
        caller.command(session_id, c.EndToolCall("t", ToolData(text=MARKER), None)),
    ]


def redacted(caller: Caller, session_id: str) -> list[Command]:
    return [caller.redact(session_id, f"m{n}") for n in range(3)]


def deleted_messages(caller: Caller, session_id: str) -> list[Command]:
    return [caller.delete_messages(session_id, "m1", "m0"), caller.pop(session_id)]


def deleted(caller: Caller, session_id: str) -> list[Command]:
    return [caller.delete(session_id)]


def used_anew(caller: Caller, session_id: str) -> list[Command]:
    return [
        caller.delete(session_id),
        caller.create(session_id, reuse=True, name="other", user_id=caller.scope.user_id),
        caller.append(session_id, "other words"),
    ]


REMOVALS: Sequence[Callable[[Caller, str], list[Command]]] = (redacted, deleted_messages, deleted, used_anew)


async def _schedule(
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    writer: PostgresStore,
    reader: PostgresStore,
    database: asyncpg.Connection,
    dsn: str,
) -> list[str]:
    """What was left of MARKER: when the removal was acknowledged, and when the indexer had come to the end."""
    random = Random(seed)
    user = random.choice(["", "ann"])
    owner, caller = Caller(c.Scope("tenant", user)), Caller()
    removal_of = random.choice(REMOVALS)
    session_id = f"s{seed}"
    await accepted(writer, *said(caller, session_id, user))
    if removal_of in (deleted, used_anew):
        await accepted(writer, *called(caller, session_id))
    if random.random() < 0.5:
        await index_all(reader)
    elif random.random() < 0.5:
        with monkeypatch.context() as few:
            few.setattr(search_index, "EVENTS", 2)
            for index in await reader.search_upkeep.behind():
                await reader.search_upkeep.advance(index.feed_id)
    if random.random() < 0.3:
        await reader.search_upkeep.begin_rebuild("")
    await accepted(writer, caller.create(f"{session_id}-other", name=""), caller.append(f"{session_id}-other", "fresh"))
    problems: list[str] = []

    async def remove() -> None:
        await accepted(writer, *removal_of(owner, session_id))
        problems.extend(f"{removal_of.__name__}, acknowledged: {table}" for table in await left(database))

    async with connected(dsn) as watcher:
        with monkeypatch.context() as controlled:
            order = StatementOrder(watcher, seed)
            order.control(controlled, {"writer": writer, "reader": reader})
            await order.run(writer=remove(), reader=index_all(reader))
    await index_all(reader)
    problems.extend(f"{removal_of.__name__}, indexed: {table}" for table in await left(database))
    if places(await messages(writer, "fresh", session_id=f"{session_id}-other")) != [(f"{session_id}-other", 2)]:
        problems.append("another session is not found")
    await writer.apply([caller.delete(each) for each in (session_id, f"{session_id}-other")])
    await index_all(reader)
    return [f"seed {seed}: {problem}" for problem in problems]


@pytest.mark.parametrize("batch", batches(2, 20))
async def test_what_is_gone_never_comes_back(
    batch: int,
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresStore,
    other: PostgresStore,
    database: asyncpg.Connection,
    postgres_dsn: str,
) -> None:
    """Redactions and deletions, raced with an indexer statement by statement, leave nothing once acknowledged."""
    problems: list[str] = []
    for seed in range(batch * SCHEDULES, (batch + 1) * SCHEDULES):
        problems += await _schedule(seed, monkeypatch, postgres, other, database, postgres_dsn)
    assert not problems, "\n".join(problems)


async def _found_by_schedules(
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresStore,
    other: PostgresStore,
    database: asyncpg.Connection,
    dsn: str,
) -> bool:
    for seed in range(5 * SCHEDULES):
        if await _schedule(seed, monkeypatch, postgres, other, database, dsn):
            return True
    return False


async def test_without_the_lock_it_comes_back(
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresStore,
    other: PostgresStore,
    database: asyncpg.Connection,
    postgres_dsn: str,
) -> None:
    monkeypatch.setattr(search_index, "LOCK_SEARCHED", "select $1::text[], $2::text[]")
    assert await _found_by_schedules(monkeypatch, postgres, other, database, postgres_dsn)


async def test_without_the_removal_it_stays(
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresStore,
    other: PostgresStore,
    database: asyncpg.Connection,
    postgres_dsn: str,
) -> None:
    monkeypatch.setattr(search_index, "UNSEARCH_EVENTS", "select $1::text[], $2::text[], $3::bigint[], $4::integer")
    assert await _found_by_schedules(monkeypatch, postgres, other, database, postgres_dsn)


READABLE = """
select (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + shift)::text::xid8 >
  (select commit_xid from events order by commit_xid desc limit 1)
from feed_order
"""
"""Whether no open transaction, perhaps of the server itself, keeps feeds from being read to their ends."""


async def entries(database: asyncpg.Connection) -> list[tuple[int, int]]:
    """(number, seq) of what is in the index that answers, by number."""
    rows = await database.fetch(
        "select number, e.seq from search_entries e join search_feeds f using (feed_id) where state = 1 order by number"
    )
    return [tuple(row) for row in rows]


async def test_two_indexers_at_once_read_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
    caller: Caller,
    postgres: PostgresStore,
    other: PostgresStore,
    database: asyncpg.Connection,
) -> None:
    """Both believe to have the lease, as after a pause of one of them that was longer than the lease."""

    async def taken(self: object, holder: str, seconds: float) -> bool:
        return True

    monkeypatch.setattr(search_index.PostgresSearchUpkeep, "take_lease", taken)
    monkeypatch.setattr(search_index, "EVENTS", 7)
    await accepted(postgres, caller.create("s"))
    indexings = [Indexing(), Indexing()]
    tasks = [
        asyncio.create_task(indexer.run(store.search_upkeep, holder, indexing, store.search.news))
        for store, holder, indexing in ((postgres, "a", indexings[0]), (other, "b", indexings[1]))
    ]
    for part in range(20):
        await accepted(postgres, caller.append("s", *(f"word{part} n{number}" for number in range(10))))
    assert await other.search.wait_until_seen(caller.scope, "s", 201, 60.0) == 201
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await entries(database) == [(number, number + 2) for number in range(200)]
    assert [indexing.rounds.failed for indexing in indexings] == [0, 0]
    assert len(await messages(postgres, "word7", limit=100)) == 10


async def test_lease_that_is_given_back_or_over_passes_to_another_replica(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection
) -> None:
    first, second = postgres.search_upkeep, other.search_upkeep
    assert await first.take_lease("a", 60.0)
    assert await first.take_lease("a", 60.0)
    assert not await second.take_lease("b", 60.0)
    await second.give_lease("b")
    assert not await second.take_lease("b", 60.0)
    await first.give_lease("a")
    assert await second.take_lease("b", 60.0)
    await database.execute("update search_lease set expire_time = clock_timestamp() - interval '1 s'")
    assert await first.take_lease("a", 60.0)
    assert not await second.take_lease("b", 60.0)


async def test_index_is_built_anew_beside_the_one_that_answers(
    monkeypatch: pytest.MonkeyPatch, caller: Caller, postgres: PostgresStore, database: asyncpg.Connection
) -> None:
    monkeypatch.setattr(search_index, "EVENTS", 5)
    await accepted(postgres, caller.create("s"), *(caller.append("s", f"word n{n}") for n in range(20)))
    await index_all(postgres)
    upkeep = postgres.search_upkeep
    page = await postgres.search.message_candidates(caller.scope, parse("word"), Where(), before=None, limit=3)
    await database.execute("delete from search_entries where seq < 10")  # it was damaged
    assert len(await messages(postgres, "word")) == 12
    await upkeep.begin_rebuild("another")
    assert await upkeep.rebuilding("") == (0, 0, 0)
    for _ in range(2):
        await upkeep.begin_rebuild("tenant")
        assert await upkeep.rebuilding("") == (1, 0, 20)
    seen = 0
    while (progress := await upkeep.rebuilding("tenant"))[0]:
        assert progress[1] >= seen
        seen = progress[1]
        assert len(await messages(postgres, "word")) == 12
        for index in await upkeep.behind():
            await upkeep.advance(index.feed_id)
    assert len(await messages(postgres, "word")) == 20
    with pytest.raises(InvalidPageToken):
        await postgres.search.message_candidates(caller.scope, parse("word"), Where(), before=page.next, limit=3)
    while await upkeep.remove_dropped():
        pass
    assert await database.fetchval("select count(*) from search_feeds") == 1
    assert len(await entries(database)) == await database.fetchval("select count(*) from search_entries") == 20


async def test_first_index_says_that_it_is_not_complete(
    monkeypatch: pytest.MonkeyPatch, caller: Caller, postgres: PostgresStore, database: asyncpg.Connection
) -> None:
    async def complete() -> bool:
        for relevance in (False, True):
            pages = [page async for page in message_pages(postgres, "word", relevance=relevance)]
            assert len({page.partial for page in pages}) == 1
        return not pages[0].partial

    assert await complete()  # of a tenant that has nothing
    monkeypatch.setattr(search_index, "EVENTS", 5)
    await accepted(postgres, caller.create("s"), *(caller.append("s", f"word n{n}") for n in range(10)))
    assert not await complete()
    await until(partial(database.fetchval, READABLE))
    (index,) = await postgres.search_upkeep.behind()
    for _ in range(2):
        assert not (await postgres.search_upkeep.advance(index.feed_id)).complete
        assert not await complete()
    assert (await postgres.search_upkeep.advance(index.feed_id)).complete
    assert await complete()
    await accepted(postgres, caller.append("s", "word"))
    assert await complete()


async def test_statement_that_takes_too_long_looks_into_fewer_buckets(
    monkeypatch: pytest.MonkeyPatch, caller: Caller, postgres: PostgresStore, database: asyncpg.Connection
) -> None:
    monkeypatch.setattr(search, "BUCKET_BITS", 1)
    monkeypatch.setattr(search_index, "BUCKET_BITS", 1)
    small = {name: replace(each, text=each.text.replace("16384", "2")) for name, each in SEARCH_LIST.items()}
    monkeypatch.setattr(search, "SEARCH_LIST", small)
    await accepted(postgres, caller.create("s"), *(caller.append("s", f"word n{n}") for n in range(40)))
    await index_all(postgres)
    fetch_within, looked = Transactions.fetch_within, []

    async def slow(self: Transactions, seconds: float, statement: str, *parameters: Any) -> Sequence[asyncpg.Record]:
        (buckets,) = [each for each in parameters if isinstance(each, list) and each == sorted(each, reverse=True)][:1]
        looked.append(len(buckets))
        if len(buckets) > most:
            return await fetch_within(self, 0.05, "select pg_sleep(60)")
        return await fetch_within(self, seconds, statement, *parameters)

    monkeypatch.setattr(Transactions, "fetch_within", slow)
    most = 2
    assert len(await messages(postgres, "word")) == 40
    assert looked[:2] == [20, 2]
    most = 0
    with pytest.raises(DeadlinePassed):
        await messages(postgres, "word")
    assert (await database.fetchval("select count(*) from pg_stat_activity where query like '%pg_sleep(60)%'")) <= 1


async def test_page_ends_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, caller: Caller, postgres: PostgresStore
) -> None:
    await accepted(postgres, caller.create("s"), caller.append("s", *("one two" for _ in range(120))))
    await index_all(postgres)
    monkeypatch.setattr(finding, "SECONDS", 0.0)
    pages = [page async for page in message_pages(postgres, '"two one"', limit=100)]
    assert [len(page.hits) for page in pages] == [0, 0, 0]
    assert len(await messages(postgres, '"one two"', limit=100)) == 120


async def test_tenant_that_leaves_takes_its_index_along_and_no_other(
    caller: Caller, postgres: PostgresStore, database: asyncpg.Connection
) -> None:
    """Where the tenant goes, the index is built from the log; here, it goes with the old rows."""
    stays = Caller(c.Scope("other"))
    for each in (caller, stays):
        await accepted(postgres, *said(each, "s"))
    await index_all(postgres)
    await switching.write_home(database, "tenant", "elsewhere")
    await accepted(postgres, stays.append("s", MARKER))
    assert {index.tenant_id for index in await postgres.search_upkeep.behind()} == {"other"}
    feeds = await database.fetch("select feed_id from search_feeds where tenant_id = 'tenant'")
    assert await postgres.search_upkeep.advance(feeds[0][0]) == Advanced(0, complete=True)
    steps = [count async for count in removal.remove(database, "tenant")]
    assert steps[0] == 4
    await database.execute("insert into search_feeds (tenant_id, state) values ('tenant', 1)")
    await database.execute("delete from search_feeds where tenant_id = 'tenant'")
    await index_all(postgres)
    assert [row[0] for row in await database.fetch("select tenant_id from search_feeds")] == ["other"]
    assert await database.fetchval("select count(*) from search_entries") == 4
    assert len(await messages(postgres, MARKER, c.Scope("other"))) == 4


async def test_index_is_not_begun_before_the_rows_of_a_tenant_are_here(
    caller: Caller, postgres: PostgresStore, database: asyncpg.Connection
) -> None:
    """Copied rows arrive in any order: an index that had read some of them would miss the others."""
    await accepted(postgres, *said(caller, "s"))
    await switching.write_home(database, "tenant", "elsewhere")
    assert await index_all(postgres) == 0
    assert await database.fetchval("select count(*) from search_feeds") == 0
    await database.execute("delete from tenant_homes")
    assert await index_all(postgres) == 4
    assert len(await messages(postgres, MARKER)) == 3


async def test_damaged_row_keeps_no_other_from_being_found(
    caller: Caller, postgres: PostgresStore, database: asyncpg.Connection
) -> None:
    async def damage(seq: int) -> None:
        await database.execute("update events set body = '\\xff' where session_id = 's' and seq = $1", seq)

    await accepted(postgres, caller.create("s"), *(caller.append("s", f"word n{n}") for n in range(4)))
    await damage(3)
    await index_all(postgres)
    assert places(await messages(postgres, "word")) == [("s", 5), ("s", 4), ("s", 2)]
    await damage(4)
    assert places(await messages(postgres, "word")) == [("s", 5), ("s", 2)]


class Upkeep:
    """Feeds of tenants that are behind for ever, of which one cannot be read."""

    def __init__(self, broken: str = "") -> None:
        self.read: list[str] = []
        self._broken = broken

    async def behind(self) -> Sequence[Behind]:
        return [Behind(tenant, number) for number, tenant in enumerate("abcd")]

    async def advance(self, feed_id: int) -> Advanced:
        tenant = "abcd"[feed_id]
        self.read.append(tenant)
        if tenant == self._broken:
            raise ValueError(tenant)
        return Advanced(1, complete=True)

    async def remove_dropped(self) -> bool:
        return False

    async def take_lease(self, holder: str, seconds: float) -> bool:
        return True

    async def give_lease(self, holder: str) -> None:
        pass


async def test_feed_that_cannot_be_read_does_not_stop_the_others() -> None:
    upkeep = Upkeep("b")
    indexing = Indexing()
    for _ in range(2):
        with pytest.raises(ValueError, match="b"):
            await indexer.round_of(upkeep, indexing, 0.0)
    assert upkeep.read == [*"abcd"] * 2


async def test_tenants_take_turns_when_a_round_is_too_short_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer, "WORK_SECONDS", -1.0)
    upkeep = Upkeep()
    indexing = Indexing()
    for _ in range(6):
        await indexer.round_of(upkeep, indexing, 0.0)
    assert upkeep.read == [*"abcdab"]
