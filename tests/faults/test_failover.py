"""What stores tell of a real primary and its standby that restart and change roles: incarnations, and what was lost."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import asyncpg
import pytest

from sessiond_server.domain.commands import Scope
from sessiond_server.domain.log import FeedEntry, FeedPlace
from sessiond_server.errors import StoreUnavailable
from sessiond_server.events.contract import FeedBatch
from sessiond_server.events.feed import ANCHORS
from sessiond_server.events.hub import EventHub
from sessiond_server.memory.bus import MemoryBus
from sessiond_server.postgres.schema.migrate import migrate
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.store.log_reads import FeedPage
from tests.support.caller import Caller, accepted
from tests.support.feeds import START, complete, names
from tests.support.postgres_pair import PostgresPair
from tests.support.transactions import waiting
from tests.support.waiting import until

KEY = ("tenant", "a")


@pytest.fixture
async def pair() -> AsyncIterator[PostgresPair]:
    # Not below pytest's private folder, which the account that root starts Postgres as could not enter.
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        async with PostgresPair(Path(folder, "pair"), durable=False) as pair:
            yield pair


def anchors(entries: Sequence[FeedEntry]) -> list[tuple[FeedPlace, str]]:
    return [(item.place, item.entry.event_id) for item in entries]


class ReadStore(PostgresStore):
    """Remembers what was read of feeds, and takes the locks of a batch in their order."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, optimistic="off")
        self.pages: list[FeedPage] = []

    async def read_feed(self, tenant_id: str, *, after: FeedPlace, limit: int) -> FeedPage:
        page = await super().read_feed(tenant_id, after=after, limit=limit)
        self.pages.append(page)
        return page


async def _answering(store: PostgresStore) -> None:
    """Returns once the database can be reached again."""

    async def answers() -> bool:
        try:
            await store.log_heads([])
        except StoreUnavailable:
            return False
        return True

    await until(answers)


async def _crash_of_a_backend(pair: PostgresPair) -> None:
    """One server process is killed; the postmaster ends all others and recovers. Returns when it has."""
    async with pair.primary.connected() as killed, pair.primary.connected() as ended:
        os.kill(killed.get_server_pid(), signal.SIGKILL)
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await ended.execute("select pg_sleep(20)")

    async def accepting() -> bool:
        try:
            async with pair.primary.connected():
                return True
        except (OSError, asyncpg.PostgresError):
            return False

    await until(accepting)


@pytest.mark.long
async def test_incarnations_and_losses(pair: PostgresPair) -> None:
    caller = Caller()
    await migrate(pair.dsn())
    # With one connection only: each that an outage has cut fails once more when it is used.
    async with PostgresStore(pair.dsn(), max_connections=1) as store:

        async def incarnation() -> str:
            heads = (await store.log_heads([KEY])).incarnation
            assert heads == (await store.read_feed("tenant", after=START, limit=1)).incarnation
            return heads

        await accepted(store, caller.create("a"), caller.create("b"))
        await accepted(store, caller.append("a", "one"), caller.append("b", "one"))
        kept = await complete(store)
        seen = [await incarnation()]

        await _crash_of_a_backend(pair)
        await _answering(store)
        assert [await incarnation()] == seen
        assert await complete(store) == kept

        await pair.restart(signal.SIGQUIT)
        await _answering(store)
        seen.append(await incarnation())
        await pair.streaming()

        async def write() -> None:
            await accepted(store, caller.append("a", "two"), caller.create("c"))
            await accepted(store, caller.append("b", "two"))

        await pair.fail_over(write, synchronous=True)
        await _answering(store)
        seen.append(await incarnation())
        assert names(await complete(store)) == [*names(kept), "a3", "c1", "b3"]
        assert await store.find_lost("tenant", anchors(await complete(store))) is None
        await pair.rebuild()

        kept = await complete(store)
        delivered: list[FeedEntry] = []

        async def write_in_vain() -> None:
            await accepted(store, caller.append("a", "lost"), caller.create("d"))
            await accepted(store, caller.append("b", "lost"), caller.delete("c"))
            delivered.extend(await complete(store))

        async with PostgresStore(f"postgresql://sessiond@127.0.0.1:{pair.standby.port}/sessiond") as behind:
            await pair.fail_over(write_in_vain, synchronous=False)
            await _answering(store)
            seen.append(await incarnation())
            # One that had been reached as a standby serves as well, now that it is the primary.
            assert (await behind.log_heads([KEY])).incarnation == seen[-1]
        assert len(set(seen)) == 4

        lost = [item.place for item in delivered if item not in kept]
        assert [f"{place.session_id}{place.seq}" for place in lost] == ["a4", "d1", "b4", "c2"]
        assert await store.find_lost("tenant", anchors(delivered)) == lost[0]
        for place, event_id in anchors(delivered):
            assert await store.find_lost("tenant", [(place, event_id)]) == (place if place in lost else None)
        assert await store.find_lost("tenant", anchors(kept)) is None

        # Transaction ids are used again, and so are places: a position at a bare id would skip what is there now.
        await accepted(store, caller.append("a", "anew"), caller.create("d"), caller.append("c"), caller.append("b"))
        again = await complete(store, kept[-1].place)
        assert sorted(names(again)) == ["a4", "b4", "c2", "d1"]
        for place, event_id in anchors(delivered):
            assert await store.find_lost("tenant", [(place, event_id)]) == (place if place in lost else None)


async def test_a_transaction_that_many_overtook_is_missed_when_it_alone_is_lost(pair: PostgresPair) -> None:
    """By ids it stands before more transactions than there are anchors; by commits it is the last."""
    caller = Caller()
    others = [f"s{number}" for number in range(ANCHORS + 4)]
    await migrate(pair.dsn())
    store = ReadStore(pair.dsn())
    async with store, EventHub(store, MemoryBus()) as hub:
        await accepted(store, *(caller.create(session_id) for session_id in ["m", "a", *others]))
        await complete(store)
        store.pages.clear()
        async with (
            hub.watch_feed(Scope("tenant"), None, from_beginning=False) as feed,
            pair.primary.connected() as database,
        ):
            delivered: list[FeedEntry] = []

            async def follow() -> None:
                while len(delivered) < len(others) + 2:
                    item = await feed.next()
                    if isinstance(item, FeedBatch):
                        delivered.extend(item.entries)

            following = asyncio.create_task(follow())
            holding = database.transaction()
            await holding.start()
            await database.fetch("select from session_heads where session_id = 'm' for update")
            late_commit = asyncio.create_task(accepted(store, caller.append("a"), caller.append("m")))
            await until(waiting(database, 1))
            for session_id in others:
                await accepted(store, caller.append(session_id))

            async def seen_waiting() -> bool:
                return any(page.pending for page in store.pages)

            await until(seen_waiting)

            async def commit_in_vain() -> None:
                await holding.commit()
                await late_commit
                await following

            await pair.fail_over(commit_in_vain, synchronous=False)
            cursor = feed.cursor
        assert names(delivered)[:2] == ["a2", "m2"]
        assert len(delivered) == len(others) + 2
        await _answering(store)
        (head,) = (await store.log_heads([KEY])).heads
        assert head is not None
        assert head.version == 1
        assert await store.find_lost("tenant", cursor.anchors) is None
        assert await store.find_lost("tenant", cursor.named) == delivered[1].place


async def test_a_standby_gives_no_answers(pair: PostgresPair) -> None:
    caller = Caller()
    await migrate(pair.dsn())
    async with PostgresStore(pair.dsn()) as store:
        await accepted(store, caller.create("a"))
        await pair.streaming(synchronous=True)
        await accepted(store, caller.append("a"))
        (first, *_) = anchors(await complete(store))
    async with pair.standby.connected() as connection:
        # Replayed, not only received.
        async def there() -> bool:
            return bool(await connection.fetchval("select count(*) = 2 from events"))

        await until(there)
    async with PostgresStore(f"postgresql://sessiond@127.0.0.1:{pair.standby.port}/sessiond") as standby:
        for read in (
            standby.ping(),
            standby.log_heads([KEY]),
            standby.read_log(KEY, after_seq=0, limit=1),
            standby.read_log(("tenant", "none"), after_seq=0, limit=1),
            standby.read_feed("tenant", after=START, limit=1),
            standby.feed_end("tenant"),
            standby.find_lost("tenant", [first]),
        ):
            with pytest.raises(StoreUnavailable):
                await read
