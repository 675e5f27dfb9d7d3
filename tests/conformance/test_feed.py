"""A tenant's feed: every event once, in an order that nothing committed later can change; and what it has lost."""

import asyncio
from collections.abc import Sequence

import asyncpg

from sessiond_server.domain.log import FeedEntry, FeedPlace
from sessiond_server.store.contract import Store
from sessiond_server.store.postgres.store import PostgresStore
from tests.conformance.caller import Caller, accepted
from tests.conformance.meeting import until, waiting
from tests.conformance.test_logs import same

START = FeedPlace(0, "", 0)


async def feed(store: Store, after: FeedPlace = START, *, tenant: str = "tenant", limit: int = 1000) -> list[FeedEntry]:
    """What may be delivered behind the place; fails unless every page is in order and of that tenant."""
    entries: list[FeedEntry] = []
    while True:
        page = await store.read_feed(tenant, after=after, limit=limit)
        for item in page.entries:
            event = same(item.entry)
            assert after < item.place
            assert (item.place.session_id, item.place.seq) == (event.session_id, event.seq)
            after = item.place
        entries += page.entries
        if page.complete:
            return entries
        assert page.entries


def names(entries: Sequence[FeedEntry]) -> list[str]:
    return [f"{item.place.session_id}{item.place.seq}" for item in entries]


async def test_events_come_in_the_order_of_commits(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("b"), caller.create("a"))
    await accepted(store, caller.append("b", "x", "y"))
    await accepted(store, caller.append("a"), caller.append("b"))
    entries = await feed(store)
    assert names(entries) == ["a1", "b1", "b2", "b3", "a2", "b4"]
    transactions = [item.place.commit_xid for item in entries]
    assert transactions[0] == transactions[1] < transactions[2] == transactions[3] < transactions[4] == transactions[5]


async def test_within_a_session_the_order_is_that_of_seq(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """A batch has its transaction id from the first session that it locks, and locks the last one perhaps much later:
    when others with later ids have written to it and committed."""
    await accepted(postgres, *(caller.create(session_id) for session_id in "amz"))
    async with database.transaction():
        await database.fetch("select from session_heads where session_id = 'm' for update")
        early = asyncio.create_task(accepted(postgres, *(caller.append(session_id) for session_id in "amz")))
        await until(waiting(database, 1))
        await accepted(other, caller.append("z"))
    await early
    entries = await feed(postgres)
    assert [item.place.seq for item in entries if item.place.session_id == "z"] == [1, 2, 3]
    assert len(entries) == 7
