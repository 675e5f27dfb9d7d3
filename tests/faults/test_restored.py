"""A database that is restored from a dump into another cluster, whose transaction ids are lower: no position skips an
event, neither one from before the dump, nor one from behind it, nor a new one.
"""

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

import sessiond
from sessiond_server.domain.log import FeedEntry, FeedPlace
from sessiond_server.embedded import binaries
from sessiond_server.embedded.folder import DataFolder
from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres import feed_order
from sessiond_server.postgres.schema.migrate import migrate
from sessiond_server.postgres.store import PostgresStore
from tests.support.caller import Caller, accepted
from tests.support.effort import left_to_long
from tests.support.feeds import complete, names
from tests.support.postgres_pair import Node
from tests.support.proxy import Proxy
from tests.support.search import index_all, messages, places
from tests.support.serve_process import command, serving


@dataclass
class Clusters:
    """Clusters of their own, made one after the other."""

    folder: DataFolder
    programs: binaries.Binaries
    made: list[Node]

    async def make(self) -> Node:
        """A running cluster with an empty database."""
        node = Node(self.folder, self.programs, f"cluster-{len(self.made)}", {"fsync": "off"})
        self.made.append(node)
        await node.make_primary()
        return node

    async def restored(self, source: Node) -> Node:
        """A younger cluster with what the other one has now."""
        dump = self.folder.path / f"dump-{len(self.made)}"
        await source.dump(dump)
        node = await self.make()
        await node.restore(dump)
        return node


@pytest.fixture
async def clusters() -> AsyncIterator[Clusters]:
    # Not below pytest's private folder, which the account that root starts Postgres as could not enter.
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        folder = DataFolder(Path(path, "clusters"))
        folder.give(folder.path)
        clusters = Clusters(folder, binaries.find(folder.account, folder.runtime), [])
        try:
            yield clusters
        finally:
            for node in clusters.made:
                await node.stop(signal.SIGQUIT)


def anchors(entries: Sequence[FeedEntry]) -> list[tuple[FeedPlace, str]]:
    return [(item.place, item.entry.event_id) for item in entries]


async def next_id(node: Node) -> int:
    async with node.connected() as connection:
        found: int = await connection.fetchval("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        return found


async def order(dsn: str) -> feed_order.FeedOrder:
    connection = await asyncpg.connect(dsn)
    try:
        found = await feed_order.look(connection)
        assert found is not None
        return found
    finally:
        await connection.close()


@pytest.mark.long
@pytest.mark.parametrize("epochs", [*left_to_long(0), 3])
async def test_every_position_goes_on_after_a_dump_was_restored(clusters: Clusters, epochs: int) -> None:
    caller = Caller()
    old = await clusters.make()
    await old.age(epochs)
    await migrate(old.dsn)
    async with PostgresStore(old.dsn) as store:
        await accepted(store, caller.create("a"), caller.create("b"), caller.create("c"))
        await accepted(store, caller.append("a", "one"), caller.delete("c"))
        await accepted(store, caller.append("b", "one"))
        kept = await complete(store)
        young = await clusters.restored(old)
        await accepted(store, caller.append("a", "lost"), caller.create("d"))
        await accepted(store, caller.append("b", "lost"))
        lost = (await complete(store))[len(kept) :]
    assert len(lost) == 3
    assert await next_id(young) < kept[0].place.commit_xid
    assert not (await order(young.dsn)).settled

    # Several servers at once start on what was restored, and write at once.
    await asyncio.gather(*(migrate(young.dsn) for _ in range(3)))
    assert (await order(young.dsn)).settled
    async with PostgresStore(young.dsn) as store, PostgresStore(young.dsn) as other:
        await asyncio.gather(
            accepted(store, caller.append("a", "new"), caller.create("e")),
            accepted(other, caller.append("b", "new"), caller.create("d")),
        )
        await accepted(other, caller.append("a", "newer"))
        everything = await complete(store)
        new = everything[len(kept) :]
        assert anchors(everything[: len(kept)]) == anchors(kept)
        assert sorted(names(new)) == ["a3", "a4", "b3", "d1", "e1"]
        assert names(new)[-1] == "a4"
        for number, item in enumerate(everything):
            assert await complete(store, item.place) == everything[number + 1 :]
        # What was written behind the dump is known to be lost, and no place of it is before what is new.
        for place, event_id in anchors(lost):
            assert await store.find_lost("tenant", [(place, event_id)]) == place
            assert await complete(store, place) == new
        assert await store.find_lost("tenant", anchors(everything)) is None

        settled = await order(young.dsn)
        await migrate(young.dsn)
        assert (await order(young.dsn)).shift == settled.shift

        # Once more, into a still younger one.
        youngest = await clusters.restored(young)
        await accepted(store, caller.append("a", "lost too"))
        lost = (await complete(store))[len(everything) :]
    await migrate(youngest.dsn)
    async with PostgresStore(youngest.dsn) as store:
        await accepted(store, caller.append("a", "newest"))
        assert names(await complete(store, everything[-1].place)) == ["a5"]
        assert names(await complete(store, lost[0].place)) == ["a5"]


@pytest.mark.long
async def test_a_connection_to_another_cluster_settles_the_order_before_it_writes(clusters: Clusters) -> None:
    """The name of the database leads to the restored one while servers run."""
    caller = Caller()
    old = await clusters.make()
    await old.age(0)
    await migrate(old.dsn)
    async with Proxy("127.0.0.1", old.port) as proxy:
        dsn = old.dsn.replace(f":{old.port}/", f":{proxy.port}/")
        async with PostgresStore(dsn, max_connections=1) as store:
            await accepted(store, caller.create("a"), caller.append("a", "one"))
            kept = await complete(store)
            young = await clusters.restored(old)
            proxy.point_to(young.port)
            proxy.cut()
            with pytest.raises(StoreUnavailable):
                await store.log_heads([])  # by the connection that was cut
            await accepted(store, caller.append("a", "new"), caller.create("b"))
            assert names(await complete(store, kept[-1].place)) == ["a3", "b1"]
            assert (await order(young.dsn)).settled


@pytest.mark.long
async def test_a_writer_under_way_is_waited_for(clusters: Clusters) -> None:
    """Raising the order waits for who has written in the present one, so that none commits behind a reader."""
    caller = Caller()
    old = await clusters.make()
    await old.age(0)
    await migrate(old.dsn)
    async with PostgresStore(old.dsn) as store:
        await accepted(store, caller.create("a"))
    young = await clusters.restored(old)
    async with young.connected() as writer:
        writing = writer.transaction()
        await writing.start()
        await writer.execute("select from session_heads for update")
        migrating = asyncio.create_task(migrate(young.dsn))
        async with young.connected() as observer, asyncio.timeout(60):
            while not await observer.fetchval(  # noqa: ASYNC110  another process's state
                "select exists (select from pg_locks where not granted and relation = 'session_heads'::regclass)"
            ):
                await asyncio.sleep(0.01)
            assert (await order(young.dsn)).shift == 0
        await writing.commit()
        await migrating
    assert (await order(young.dsn)).settled


@pytest.mark.long
async def test_streams_go_on_at_a_service_that_was_restored(clusters: Clusters) -> None:
    old = await clusters.make()
    await old.age(0)
    positions: list[str] = []
    told: list[str] = []
    async with serving("--postgres-dsn", old.dsn) as server, sessiond.Client(server.target) as client:
        session_id = (await client.create_session(active=True)).session_id
        async with client.watch_events(from_beginning=True) as feed:
            # Each in a frame of its own, with a position behind it.
            for text in ("one", "two", "three"):
                told.append((await anext(feed)).event_id)
                feed.ack()
                positions.append(feed.position)
                if text == "three":
                    young = await clusters.restored(old)
                await client.append_messages(session_id, [sessiond.user(text)])
            await anext(feed)
            feed.ack()
            behind = feed.position
        assert await server.stop() == 0

    said = command("check", "--postgres-dsn", young.dsn, "--listen", "127.0.0.1:0")
    assert said.returncode == 0
    assert "restored from a dump" in said.stdout
    async with serving("--postgres-dsn", young.dsn) as server, sessiond.Client(server.target) as client:
        await server.until_logged("restored from a dump")
        await client.append_messages(session_id, [sessiond.user("new")])
        for number, position in enumerate(positions):
            seen = []
            async with client.watch_events(position=position) as feed:
                async for event in feed:
                    seen.append((event.event_id, event.seq))
                    if event.seq == 4:
                        break
            assert [event_id for event_id, _ in seen[:-1]] == told[number + 1 :]
        with pytest.raises(sessiond.PositionLost):
            async with client.watch_events(position=behind) as feed:
                await anext(aiter(feed))
        assert await server.stop() == 0
    said = command("check", "--postgres-dsn", young.dsn, "--listen", "127.0.0.1:0")
    assert said.returncode == 0
    assert "restored from a dump" not in said.stdout


@pytest.mark.long
async def test_index_of_searches_goes_along_with_a_dump(clusters: Clusters) -> None:
    """It has what the log has, and goes on behind the place up to which it was read, though ids begin lower there."""
    caller = Caller()
    old = await clusters.make()
    await old.age(3)
    await migrate(old.dsn)
    async with PostgresStore(old.dsn) as store:
        await accepted(store, caller.create("s"), caller.append("s", "word one", "word two"))
        await index_all(store)
        await accepted(store, caller.pop("s"), caller.append("s", "word three"))  # not read before the dump
        young = await clusters.restored(old)
        await accepted(store, caller.append("s", "word lost"))
        await index_all(store)
    await migrate(young.dsn)
    async with PostgresStore(young.dsn) as store:
        assert places(await messages(store, "word")) == [("s", 2)]
        await accepted(store, caller.append("s", "word four"))
        assert await index_all(store) == 3
        assert places(await messages(store, "word")) == [("s", 6), ("s", 5), ("s", 2)]
