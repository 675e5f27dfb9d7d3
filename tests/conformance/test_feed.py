"""A tenant's feed: every event once, in an order that nothing committed later can change."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from sessiond.v1.event_pb2 import EventType
from sessiond_server.domain import commands as c
from sessiond_server.domain.log import FeedEntry
from sessiond_server.domain.rows import Policy
from sessiond_server.postgres import log, write
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.store.contract import Store
from sessiond_server.store.session_reads import PAGE_BYTES
from tests.support.caller import Caller, accepted, struct
from tests.support.feeds import START, complete, feed, names, same
from tests.support.store_backend import Backend, Open
from tests.support.transactions import connected, waiting
from tests.support.waiting import until


async def test_events_come_in_the_order_of_commits(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("b"), caller.create("a"))
    await accepted(store, caller.append("b", "x", "y"))
    await accepted(store, caller.append("a"), caller.append("b"))
    entries = await complete(store)
    assert names(entries) == ["a1", "b1", "b2", "b3", "a2", "b4"]
    transactions = [item.place.commit_xid for item in entries]
    assert transactions[0] == transactions[1] < transactions[2] == transactions[3] < transactions[4] == transactions[5]


async def test_feed_continues_after_any_of_its_events(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("a"), caller.create("b"), caller.append("a", "x", "y"))
    await accepted(store, caller.append("b", "z"), caller.append("a"))
    entries = await complete(store)
    assert len(entries) == 6
    for count, item in enumerate(entries):
        assert await feed(store, item.place) == entries[count + 1 :]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_limits(store: Store, caller: Caller, limit: int) -> None:
    await accepted(store, caller.create("a"), caller.create("b"), caller.append("a", *"vwxyz"))
    entries = await complete(store)
    page = await store.read_feed("tenant", after=START, limit=limit)
    assert len(page.entries) == min(limit, 7)
    assert page.complete == (limit >= 7)
    assert await feed(store, limit=limit) == entries


async def test_pages_end_before_they_are_too_large(store: Store, caller: Caller) -> None:
    large = "x" * (PAGE_BYTES // 2 - 10_000)
    await accepted(store, caller.create("s"))
    for _ in range(3):
        await accepted(store, caller.append("s", large))
    await accepted(store, caller.create("t", state=struct(**{f"k{i}": "x" * (PAGE_BYTES // 4) for i in range(5)})))
    entries = await complete(store)
    assert names(entries) == ["s1", "s2", "s3", "s4", "t1"]
    found = []
    after = START
    for _ in range(3):
        page = await store.read_feed("tenant", after=after, limit=100)
        found.append((names(page.entries), page.complete))
        after = page.entries[-1].place
    assert found == [(["s1", "s2", "s3"], False), (["s4"], False), (["t1"], True)]


async def test_an_empty_feed(store: Store) -> None:
    page = await store.read_feed("tenant", after=START, limit=10)
    assert (list(page.entries), page.complete, page.pending) == ([], True, False)
    assert page.incarnation == (await store.log_heads([])).incarnation
    assert list(await store.feed_end("tenant")) == []


async def test_tenants_have_feeds_of_their_own(store: Store, caller: Caller) -> None:
    other, prefixed = Caller(c.Scope("other")), Caller(c.Scope("tenant2"))
    await accepted(store, caller.create("s"), other.create("s"), prefixed.create("s"), other.append("s"))
    mine = await complete(store)
    assert names(mine) == ["s1"]
    theirs = await complete(store, tenant="other")
    assert names(theirs) == ["s1", "s2"]
    assert same(mine[0].entry).event_id != same(theirs[0].entry).event_id
    assert (await complete(store, tenant="nobody"), list(await store.feed_end("nobody"))) == ([], [])
    assert [place for place, _ in await store.feed_end("tenant")] == [mine[0].place]


async def test_the_entries_are_those_of_the_logs(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("a", state=struct(a=1)), caller.append("a", "x"), caller.create("b"))
    entries = await complete(store)
    for session_id in "ab":
        logged = (await store.read_log(("tenant", session_id), after_seq=0, limit=10)).entries
        assert [item.entry for item in entries if item.place.session_id == session_id] == list(logged)


async def test_entries_carry_what_feeds_are_filtered_by(store: Store, caller: Caller) -> None:
    """As the session is when it is read."""
    await accepted(store, caller.create("s", user_id="alice", agent_id="old", labels={"k": "v", "ü": "\U0001f600"}))
    await accepted(store, caller.create("t"), caller.append("s"))
    (first, *_) = await complete(store)
    assert (first.user_id, first.agent_id, first.labels) == ("alice", "old", {"k": "v", "ü": "\U0001f600"})
    await accepted(store, caller.update("s", agent_id="new", labels={"k": "w"}))
    for item in await complete(store):
        expected = ("alice", "new", {"k": "w"}) if item.place.session_id == "s" else ("", "", {})
        assert (item.user_id, item.agent_id, item.labels) == expected


async def test_deleted_session_leaves_its_final_event_in_the_feed(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", user_id="alice", agent_id="a", labels={"k": "v"}), caller.create("t"))
    await accepted(store, caller.append("s"), caller.append("t"))
    before = await complete(store)
    await accepted(store, caller.delete("s"))
    entries = await complete(store)
    assert names(entries) == ["t1", "t2", "s3"]
    final = entries[-1]
    assert final.entry.type == EventType.EVENT_TYPE_SESSION_DELETED
    assert (final.user_id, final.agent_id, final.labels) == ("alice", "", {})
    for item in before:  # those that are gone too
        assert await feed(store, item.place) == [entry for entry in entries if entry.place > item.place]


async def test_a_session_that_is_created_and_deleted_at_once(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s"), caller.delete("s"))
    assert names(await complete(store)) == ["s3"]


async def test_expiry_reaches_the_feed(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"))
    await backend.advance(25 * 3600)
    await backend.store.expire_due(10)
    entries = await complete(backend.store)
    assert [item.entry.type for item in entries][-1] == EventType.EVENT_TYPE_SESSION_EXPIRED


async def test_a_purged_session_is_gone(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(tombstone_retention=timedelta(minutes=1), policy=Policy(default_ttl_us=0))
    await accepted(backend.store, caller.create("s"), caller.create("t"), caller.delete("s"))
    await backend.advance(61)
    await backend.store.purge(100)
    assert names(await complete(backend.store)) == ["t1"]
    await accepted(backend.store, caller.create("s"))
    assert names(await complete(backend.store)) == ["t1", "s1"]


async def test_redaction_is_seen_in_what_is_read_again(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", "m"))
    before = await complete(store)
    assert b"text of m" in before[1].entry.data
    await accepted(store, caller.redact("s", "m"))
    after = await complete(store)
    assert [item.place for item in after[:2]] == [item.place for item in before]
    assert not any(b"text of m" in item.entry.data for item in after)


async def test_the_end_of_a_feed(store: Store, caller: Caller) -> None:
    """The last event of each of the last eight transactions; what comes later is behind them all."""
    await accepted(store, caller.create("a"), caller.create("b"))
    for count in range(1, 12):
        await accepted(store, caller.append("b", "x", "y"), caller.append("a"))
        entries = await complete(store)
        lasts = [item for item, following in zip(entries, [*entries[1:], None], strict=True)
                 if following is None or following.place.commit_xid > item.place.commit_xid]  # fmt: skip
        assert len(lasts) == count + 1
        expected = [(item.place, item.entry.event_id) for item in lasts[-8:]]
        assert list(await store.feed_end("tenant")) == expected
    assert {place.session_id for place, _ in expected} == {"b"}
    assert await feed(store, expected[-1][0]) == []
    await accepted(store, caller.append("a"))
    assert len(await complete(store, expected[-1][0])) == 1


async def test_feeds_tell_the_time_of_the_store(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"))
    (item,) = await complete(backend.store)
    found = await backend.store.read_feed("tenant", after=START, limit=10)
    await accepted(backend.store, caller.append("s"))
    later = same((await complete(backend.store, item.place))[0].entry)
    assert same(item.entry).create_time.ToMicroseconds() <= found.now_us <= later.create_time.ToMicroseconds()


async def test_a_reader_misses_nothing_that_many_write(backend: Backend, caller: Caller) -> None:
    """Two replicas write to the same sessions in batches while a reader reads as fast as it can."""
    sessions = [f"s{i}" for i in range(8)]
    await accepted(backend.store, *(caller.create(session_id) for session_id in sessions))
    entries = await complete(backend.store)
    writing = True

    async def write(store: Store, shift: int) -> None:
        for count in range(40):
            chosen = [sessions[(count * step + shift) % 8] for step in range(1, 4)]
            await accepted(store, *(caller.append(session_id) for session_id in chosen))

    async def read() -> None:
        while writing:
            entries.extend(await feed(backend.store, entries[-1].place))
            await asyncio.sleep(0)

    reading = asyncio.create_task(read())
    writers = [write(store, shift) for shift in range(3) for store in (backend.store, backend.other)]
    await asyncio.gather(*writers)
    writing = False
    await reading
    entries += await complete(backend.store, entries[-1].place)
    assert len(entries) == 8 + 6 * 40 * 3
    assert entries == await complete(backend.store)
    for session_id in sessions:
        seqs = [item.place.seq for item in entries if item.place.session_id == session_id]
        assert seqs == list(range(1, len(seqs) + 1))


@pytest.fixture
async def postgres(postgres_dsn: str) -> AsyncIterator[PostgresStore]:
    """Writes take locks, in the order that these tests arrange."""
    async with PostgresStore(postgres_dsn, optimistic="off") as store:
        yield store


async def _passed(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> tuple[list[str], list[str]]:
    """What a reader gets while, and after, a transaction commits that began to write before another that it has seen.

    The early one has its id from session `a`, and waits for `m`, which a third party holds; `z` is written meanwhile.
    """
    await accepted(postgres, *(caller.create(session_id) for session_id in "amz"))
    created = (await complete(postgres))[-1].place
    async with database.transaction():
        await database.fetch("select from session_heads where session_id = 'm' for update")
        early = asyncio.create_task(accepted(postgres, *(caller.append(session_id) for session_id in "am")))
        await until(waiting(database, 1))
        await accepted(other, caller.append("z"))
        page = await postgres.read_feed("tenant", after=created, limit=100)
        assert (page.complete, page.pending) == (True, True)
    await early
    after = page.entries[-1].place if page.entries else created
    return names(page.entries), names(await complete(postgres, after))


async def test_a_feed_waits_for_transactions_that_began_to_write_earlier(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    assert await _passed(postgres, other, database, caller) == ([], ["a2", "m2", "z2"])


async def test_pages_name_open_transactions_and_writers(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """Also of an event that is filed higher than its transaction: `z3` is the early one's."""
    await accepted(postgres, *(caller.create(session_id) for session_id in "amz"))
    created = (await complete(postgres))[-1].place
    async with database.transaction():
        await database.fetch("select from session_heads where session_id = 'm' for update")
        holder = await database.fetchval("select pg_current_xact_id()::text::bigint")
        early = asyncio.create_task(accepted(postgres, *(caller.append(session_id) for session_id in "amz")))
        await until(waiting(database, 1))
        await accepted(other, caller.append("z"))
        page = await postgres.read_feed("tenant", after=created, limit=100)
        assert (list(page.entries), page.pending) == ([], True)
        heads = await postgres.log_heads([("tenant", "a")])
    await early
    entries = await complete(postgres, created)
    writers = dict(zip(names(entries), (item.writer for item in entries), strict=True))
    assert writers["a2"] == writers["m2"] == writers["z3"] != writers["z2"]
    places = {name: item.place.commit_xid % 2**32 for name, item in zip(names(entries), entries, strict=True)}
    assert places["z3"] == places["z2"] == writers["z2"] > writers["z3"] == places["a2"]
    for running in page.running, heads.running:
        assert {writers["a2"], holder % 2**32} <= running
        assert writers["z2"] not in running
    assert writers["a2"] not in (await postgres.read_feed("tenant", after=created, limit=1)).running


async def test_without_the_barrier(
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresStore,
    other: PostgresStore,
    database: asyncpg.Connection,
    caller: Caller,
) -> None:
    """Mutant: "whatever is behind the last". The reader is past the place where the early transaction's events go."""
    before_end = log.FEED.index("(e.commit_xid, e.session_id")
    mutated = log.FEED[:before_end].replace(
        "select (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + shift)::text::xid8 from feed_order",
        f"select '{2**62}'::xid8",
    )
    mutated += log.FEED[before_end:]
    assert mutated != log.FEED
    monkeypatch.setattr(log, "FEED", mutated)
    assert await _passed(postgres, other, database, caller) == (["z2"], [])


async def test_events_held_back_are_after_the_end_of_the_feed(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    await accepted(postgres, *(caller.create(session_id) for session_id in "amz"))
    before = await complete(postgres)
    async with database.transaction():
        await database.fetch("select from session_heads where session_id = 'm' for update")
        early = asyncio.create_task(accepted(postgres, *(caller.append(session_id) for session_id in "am")))
        await until(waiting(database, 1))
        await accepted(other, caller.append("z"))
        end = await postgres.feed_end("tenant")
    assert [place for place, _ in end] == [before[-1].place]
    await early
    assert names(await complete(postgres, end[-1][0])) == ["a2", "m2", "z2"]


async def _overtaken(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> list[FeedEntry]:
    """The feed after a batch has written to `z` later than a transaction with a later id.

    A batch has its transaction id from the first session that it locks, and locks the last one perhaps much later.
    """
    await accepted(postgres, *(caller.create(session_id) for session_id in "amz"))
    async with database.transaction():
        await database.fetch("select from session_heads where session_id = 'm' for update")
        early = asyncio.create_task(accepted(postgres, *(caller.append(session_id) for session_id in "amz")))
        await until(waiting(database, 1))
        await accepted(other, caller.append("z"))
    await early
    return await complete(postgres)


async def test_within_a_session_the_order_is_that_of_seq(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    entries = await _overtaken(postgres, other, database, caller)
    assert [item.place.seq for item in entries if item.place.session_id == "z"] == [1, 2, 3]
    assert len(entries) == 7
    await accepted(postgres, caller.append("z"))
    assert names(await complete(postgres, entries[-1].place)) == ["z4"]


async def test_without_filing_events_behind_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresStore,
    other: PostgresStore,
    database: asyncpg.Connection,
    caller: Caller,
) -> None:
    """Mutant: each event filed by its own transaction's id."""
    mutated = write.WRITE_LOG.replace("changed.commit_xid, (select", "(select")
    assert mutated != write.WRITE_LOG
    monkeypatch.setattr(write, "WRITE_LOG", mutated)
    entries = await _overtaken(postgres, other, database, caller)
    assert [item.place.seq for item in entries if item.place.session_id == "z"] == [1, 3, 2]


async def test_events_with_ids_of_another_cluster_come_before_what_is_written_next(
    postgres_dsn: str, caller: Caller
) -> None:
    """They were restored into a database that is in use; reading a feed detects them."""
    async with PostgresStore(postgres_dsn) as store:
        await accepted(store, caller.create("s"), Caller(c.Scope("other")).create("s"))
        async with connected(postgres_dsn) as database:
            await database.execute("update events set commit_xid = '1000000000000' where tenant_id = 'tenant'")
        (before,) = await complete(store)
        await accepted(store, caller.append("s"), caller.create("t"))
        assert names(await complete(store)) == ["s1", "s2", "t1"]
        assert names(await complete(store, before.place)) == ["s2", "t1"]
        assert names(await complete(store, tenant="other")) == ["s1"]
        end = await store.feed_end("tenant")
        assert [f"{place.session_id}{place.seq}" for place, _ in end] == ["s1", "t1"]


async def test_the_end_of_a_feed_with_ids_of_another_cluster(postgres_dsn: str, caller: Caller) -> None:
    async with PostgresStore(postgres_dsn) as store:
        await accepted(store, caller.create("s"), caller.append("s"))
        async with connected(postgres_dsn) as database:
            await database.execute("update events set commit_xid = '1000000000000'")
        ((place, _),) = await store.feed_end("tenant")
        assert (place.session_id, place.seq) == ("s", 2)
