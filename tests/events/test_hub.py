"""The hub's dealings with its store, its bus and its streams, in virtual time."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest

from sessiond.v1.event_service_pb2 import Delta
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding
from sessiond_server.errors import (
    Draining,
    PositionCompacted,
    PositionLost,
    SessionNotFound,
    StoreUnavailable,
    TooManyWatchers,
)
from sessiond_server.events.announcer import Announcer
from sessiond_server.events.bus import Deltas, Hint
from sessiond_server.events.contract import (
    Batch,
    CaughtUp,
    Cursor,
    FeedBatch,
    FeedStream,
    ReceivedDeltas,
    SessionStream,
)
from sessiond_server.events.feed import ANCHORS
from sessiond_server.events.hub import EventHub
from sessiond_server.events.late_drafts import READS
from sessiond_server.events.limits import HubLimits
from sessiond_server.memory.bus import MemoryBus
from sessiond_server.memory.store import MemoryStore
from sessiond_server.store.announcing import AnnouncedCommits
from tests.support import virtual_time
from tests.support.caller import Caller, accepted
from tests.support.hub_database import Database
from tests.support.listener import Ear

CALLER = Caller(c.Scope("tenant"))
START = Cursor(0, "")
T = TypeVar("T")


class Faulty:
    """A store whose reads can be counted, refused and held up."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.calls: list[str] = []
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.reading = self.most_reading = 0

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self.store, name)

        async def call(*args: Any, **more: Any) -> Any:
            self.calls.append(name)
            self.reading += name != "log_heads"
            self.most_reading = max(self.reading, self.most_reading)
            try:
                await self.gate.wait()
                if self.away:
                    raise StoreUnavailable
                return await method(*args, **more)
            finally:
                self.reading -= name != "log_heads"

        return call


class World:
    """A hub on a memory store: `here` writes through this process, `elsewhere` through another one."""

    def __init__(self, **limits: Any) -> None:
        self.elsewhere = MemoryStore()
        self.bus = MemoryBus()
        store: Any = Faulty(self.elsewhere)
        self.store = store
        self.hub = EventHub(store, self.bus, HubLimits(**limits))
        self.here = AnnouncedCommits(store, Announcer(self.hub, self.bus))

    def watch(
        self,
        session_id: str = "s",
        after: Cursor | None = None,
        *,
        deltas: bool = False,
        scope: c.Scope = CALLER.scope,
    ) -> Any:
        return self.hub.watch_session(scope, session_id, after, content=True, deltas=deltas)


@asynccontextmanager
async def world(**limits: Any) -> AsyncIterator[World]:
    made = World(**limits)
    async with made.hub:
        await accepted(made.elsewhere, CALLER.create("s", user_id="ada"))
        yield made


def run(test: Callable[[], Any]) -> Any:
    """Runs the test on a loop whose clock jumps."""

    def virtually() -> None:
        virtual_time.run(test())

    virtually.__name__, virtually.__doc__ = test.__name__, test.__doc__
    return virtually


async def batch(stream: Any) -> list[int]:
    item = await stream.next()
    assert isinstance(item, Batch), item
    assert stream.cursor == Cursor(item.entries[-1].seq, item.entries[-1].event_id)
    return [entry.seq for entry in item.entries]


async def quiet() -> None:
    """Lets everything happen that can happen now."""
    for _ in range(50):
        await asyncio.sleep(0)


@run
async def test_snapshot_and_announced_events_need_no_read() -> None:
    async with world() as w, w.watch() as (stream, snapshot):
        assert snapshot is not None
        assert stream.cursor == Cursor(1, Session.FromString(snapshot.core).last_event_id)
        await asyncio.sleep(1.5)
        w.store.calls.clear()
        waiting = asyncio.ensure_future(batch(stream))
        await quiet()
        await accepted(w.here, CALLER.append("s", "a", "b"))
        assert await waiting == [2, 3]
        assert "read_log" not in w.store.calls
        assert stream.head_seq == 3


@run
async def test_hint_of_another_replica_is_read_at_once() -> None:
    async with world() as w, w.watch() as (stream, _):
        waiting = asyncio.ensure_future(batch(stream))
        await asyncio.sleep(1.5)
        before = asyncio.get_running_loop().time()
        await accepted(w.elsewhere, CALLER.append("s"))
        w.bus.publish_hints([Hint(("tenant", "s"), 2)])
        assert await waiting == [2]
        assert asyncio.get_running_loop().time() == before


@run
async def test_poll_finds_commits_whose_hint_was_lost() -> None:
    async with world() as w, w.watch() as (stream, _):
        await asyncio.sleep(1.5)
        await accepted(w.elsewhere, CALLER.append("s"))
        before = asyncio.get_running_loop().time()
        assert await batch(stream) == [2]
        assert asyncio.get_running_loop().time() - before <= 1


@run
async def test_missed_hints_cause_a_read_at_once() -> None:
    async with world() as w, w.watch() as (stream, _):
        await asyncio.sleep(1.5)
        await accepted(w.elsewhere, CALLER.append("s"))
        before = asyncio.get_running_loop().time()
        w.hub.on_gap()
        assert await batch(stream) == [2]
        assert asyncio.get_running_loop().time() == before


@run
async def test_all_waiting_streams_share_one_batch_of_one_read() -> None:
    async with world() as w, AsyncExitStack() as stack:
        streams = [(await stack.enter_async_context(w.watch()))[0] for _ in range(20)]
        waiting = [asyncio.ensure_future(stream.next()) for stream in streams]
        await asyncio.sleep(1.5)
        w.store.calls.clear()
        await accepted(w.elsewhere, CALLER.append("s"))
        w.bus.publish_hints([Hint(("tenant", "s"), 2)])
        batches = await asyncio.gather(*waiting)
        assert isinstance(batches[0], Batch)
        assert all(one is batches[0] for one in batches)
        assert w.store.calls.count("read_log") == 1


@run
async def test_slow_streams_at_the_same_place_share_a_page() -> None:
    async with world(ring_events=1) as w, AsyncExitStack() as stack:
        streams = [(await stack.enter_async_context(w.watch()))[0] for _ in range(5)]
        for _ in range(4):
            await accepted(w.here, CALLER.append("s"))
        await asyncio.sleep(1.5)
        w.store.calls.clear()
        batches = await asyncio.gather(*(stream.next() for stream in streams))
        assert [entry.seq for entry in batches[0].entries] == [2, 3, 4, 5]
        assert all(one is batches[0] for one in batches)
        assert w.store.calls.count("read_log") == 1


@run
async def test_number_of_concurrent_reads_is_bounded() -> None:
    async with world(reads=3) as w, AsyncExitStack() as stack:
        for number in range(10):
            await accepted(w.elsewhere, CALLER.create(f"t{number}"))
        opening = [asyncio.ensure_future(stack.enter_async_context(w.watch(f"t{n}"))) for n in range(10)]
        w.store.gate.clear()
        await quiet()
        assert w.store.reading == 3
        w.store.gate.set()
        await asyncio.gather(*opening)
        assert w.store.most_reading == 3


@run
async def test_a_cancelled_wait_loses_nothing() -> None:
    async with world() as w, w.watch() as (stream, _):
        for seq in (2, 3):
            waiting = asyncio.ensure_future(stream.next())
            await quiet()
            await accepted(w.here, CALLER.append("s"))
            # Woken already, and not yet run.
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert stream.cursor.seq == seq - 1
            assert await batch(stream) == [seq]


@run
async def test_a_cancelled_opening_leaves_nothing() -> None:
    async with world() as w:
        w.store.gate.clear()
        opening = asyncio.ensure_future(w.watch().__aenter__())
        await quiet()
        assert w.hub.state().sessions == 1
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        w.store.gate.set()
        assert w.hub.state().streams == w.hub.state().sessions == 0


@run
async def test_a_position_goes_on_where_it_was() -> None:
    async with world() as w:
        async with w.watch() as (stream, _):
            await accepted(w.here, CALLER.append("s"))
            await batch(stream)
            kept = stream.cursor
        await accepted(w.elsewhere, CALLER.append("s"), CALLER.append("s"))
        async with w.watch(after=kept) as (stream, snapshot):
            assert snapshot is None
            assert stream.cursor == kept
            assert stream.head_seq == 4
            assert await batch(stream) == [3, 4]
        async with w.watch(after=START) as (stream, _):
            assert await batch(stream) == [1, 2, 3, 4]


@run
async def test_position_of_another_history_is_lost() -> None:
    async with world() as w:
        for cursor in (Cursor(1, "other"), Cursor(2, "later")):
            with pytest.raises(PositionLost):
                await w.watch(after=cursor).__aenter__()
        assert w.hub.state().streams == 0


@run
async def test_session_of_another_owner_is_not_found() -> None:
    async with world() as w, w.watch() as (_, _):
        for scope in (c.Scope("tenant", "bob"), c.Scope("other")):
            for after in (None, START, Cursor(1, "other")):
                with pytest.raises((SessionNotFound, PositionLost)) as caught:
                    await w.watch(after=after, scope=scope).__aenter__()
                if after != Cursor(1, "other"):
                    assert caught.type is SessionNotFound
        async with w.watch(after=START, scope=c.Scope("tenant", "ada")) as (stream, _):
            assert await batch(stream) == [1]


@run
async def test_deletion_is_the_last_event_of_every_stream() -> None:
    async with world(ring_events=1) as w, w.watch() as (ahead, _), w.watch() as (behind, _):
        await accepted(w.here, CALLER.append("s"), CALLER.append("s"))
        assert await batch(ahead) == [2, 3]
        kept = ahead.cursor
        await accepted(w.here, CALLER.delete("s"))
        assert await batch(ahead) == [4]
        assert await batch(behind) == [4]
        final = ahead.cursor
        with pytest.raises(SessionNotFound):
            await ahead.next()
        async with w.watch(after=kept) as (stream, _):
            assert await batch(stream) == [4]
        with pytest.raises(SessionNotFound):
            await w.watch(after=final).__aenter__()
        with pytest.raises(SessionNotFound):
            await w.watch().__aenter__()
        with pytest.raises(PositionCompacted) as compacted:
            await w.watch(after=START).__aenter__()
        assert compacted.value.metadata["oldest_seq"] == "4"


@run
async def test_at_the_final_event_of_a_deleted_session_there_is_nothing_to_wait_for() -> None:
    """This also holds when no stream watches the session and no channel knows of the deletion."""
    async with world() as w:
        await accepted(w.elsewhere, CALLER.delete("s"))
        page = await w.elsewhere.read_log((CALLER.scope.tenant_id, "s"), after_seq=1, limit=1)
        final = Cursor(page.entries[0].seq, page.entries[0].event_id)
        with pytest.raises(SessionNotFound):
            await w.watch(after=final).__aenter__()
        assert w.hub.state().sessions == 0


@run
async def test_a_session_that_was_lost_is_not_merely_unknown() -> None:
    async with world() as w:
        async with w.watch() as (stream, _):
            kept = stream.cursor
        w.elsewhere._logs.clear()
        with pytest.raises(PositionLost):
            await w.watch(after=kept).__aenter__()
        w.hub._sessions._wall_clock = lambda: 10.0**10
        with pytest.raises(SessionNotFound):
            await w.watch(after=kept).__aenter__()


@run
async def test_bookmarks_come_to_the_idle_and_say_when_the_store_was_read() -> None:
    async with world(bookmark=10.0) as w, w.watch() as (stream, _):
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = await stream.next()
        assert isinstance(first, CaughtUp)
        assert 10 <= loop.time() - began <= 11
        second = await stream.next()
        assert isinstance(second, CaughtUp)
        assert second.read_time_us > first.read_time_us
        assert 20 <= loop.time() - began <= 22


@run
async def test_no_bookmark_while_the_store_is_away_and_then_the_end() -> None:
    async with world(bookmark=1.0, outage=10.0) as w, w.watch() as (stream, _):
        loop = asyncio.get_running_loop()
        async with w.hub.watch_feed(CALLER.scope, None, from_beginning=False) as feed:
            assert isinstance(await stream.next(), CaughtUp)
            assert isinstance(await feed.next(), CaughtUp)
            w.store.away = True
            began = loop.time()
            for one in (stream, feed):
                with pytest.raises(StoreUnavailable):
                    await one.next()
                assert 9 <= loop.time() - began <= 12
            assert w.hub.state().away


@run
async def test_store_that_hangs_counts_as_unavailable() -> None:
    async with world(bookmark=1.0, outage=10.0) as w, w.watch() as (stream, _):
        assert isinstance(await stream.next(), CaughtUp)
        w.store.gate.clear()
        began = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailable):
            await stream.next()
        assert 9 <= asyncio.get_running_loop().time() - began <= 12


@run
async def test_short_outage_ends_no_stream() -> None:
    async with world(bookmark=60.0, outage=10.0) as w, w.watch() as (stream, _):
        waiting = asyncio.ensure_future(batch(stream))
        await asyncio.sleep(2)
        w.store.away = True
        await accepted(w.elsewhere, CALLER.append("s"))
        w.bus.publish_hints([Hint(("tenant", "s"), 2)])
        await asyncio.sleep(8)
        assert not waiting.done()
        assert w.hub.state().away
        w.store.away = False
        assert await waiting == [2]
        await asyncio.sleep(2)
        assert not w.hub.state().away


@run
async def test_number_of_watchers_is_bounded() -> None:
    async with world(watchers=2) as w:
        async with w.watch(), w.hub.watch_feed(CALLER.scope, None, from_beginning=True):
            for opening in (w.watch(), w.hub.watch_feed(CALLER.scope, None, from_beginning=True)):
                with pytest.raises(TooManyWatchers):
                    await opening.__aenter__()
        async with w.watch():
            assert w.hub.state().streams == 1


@run
async def test_watchers_of_one_tenant_leave_places_to_another() -> None:
    async with world() as w, AsyncExitStack() as stack:
        hub = await stack.enter_async_context(EventHub(w.store, w.bus, HubLimits(watchers=8), alone=lambda: False))

        async def opened(tenant_id: str) -> int:
            for count in range(9):
                try:
                    await stack.enter_async_context(
                        hub.watch_feed(replace(CALLER.scope, tenant_id=tenant_id), None, from_beginning=True)
                    )
                except TooManyWatchers:
                    return count
            raise AssertionError("watchers have no bound")

        assert await opened("loud") == 6
        assert await opened("quiet") == 1
        assert hub.state().streams == 7


@run
async def test_closing_ends_every_stream() -> None:
    w = World()
    async with AsyncExitStack() as stack:
        async with w.hub:
            await accepted(w.elsewhere, CALLER.create("s"))
            stream: SessionStream = (await stack.enter_async_context(w.watch()))[0]
            feed = await stack.enter_async_context(w.hub.watch_feed(CALLER.scope, None, from_beginning=False))
            waiting = [asyncio.ensure_future(one.next()) for one in (stream, feed)]
            await quiet()
        for one in waiting:
            with pytest.raises(Draining):
                await one
        with pytest.raises(Draining):
            await stream.next()
        with pytest.raises(Draining):
            await w.watch().__aenter__()


@run
async def test_closing_ends_streams_whose_read_hangs() -> None:
    w = World(ring_events=1)
    async with AsyncExitStack() as stack:
        async with w.hub:
            await accepted(w.elsewhere, CALLER.create("s"))
            stream, _ = await stack.enter_async_context(w.watch(after=START))
            stream.cursor = START
            await accepted(w.here, CALLER.append("s"), CALLER.append("s"))
            w.store.gate.clear()
            waiting = asyncio.ensure_future(stream.next())
            await quiet()
            assert not waiting.done()
        with pytest.raises(Draining):
            await waiting


@run
async def test_commits_come_in_any_order() -> None:
    async with world() as w, w.watch() as (stream, _):
        await asyncio.sleep(1.5)
        start = w.hub.transaction_start()
        first = await w.elsewhere.apply([CALLER.append("s")])
        second = await w.elsewhere.apply([CALLER.append("s")])
        waiting = asyncio.ensure_future(batch(stream))
        await quiet()
        w.store.gate.clear()
        w.hub.committed(second.writes, start)
        w.hub.committed(first.writes, start)
        assert await waiting == [2]
        w.store.gate.set()
        assert await batch(stream) == [3]


@run
async def test_announced_commit_from_before_a_failover_is_read_from_the_store() -> None:
    async with world() as w, w.watch() as (stream, _):
        await asyncio.sleep(1.5)
        start = w.hub.transaction_start()
        applied = await w.elsewhere.apply([CALLER.append("s")])
        w.hub._sessions.channels.incarnation = "another"
        w.store.calls.clear()
        w.hub.committed(applied.writes, start)
        assert await batch(stream) == [2]
        assert "read_log" in w.store.calls


@run
async def test_announced_commit_older_than_the_channel_is_read_from_the_store() -> None:
    """It may have been redacted meanwhile, before there was a channel that could note the redaction."""
    async with world() as w:
        start = w.hub.transaction_start()
        async with w.watch() as (stream, _):
            early = await w.elsewhere.apply([CALLER.append_ids("s", "m")])
            await accepted(w.elsewhere, CALLER.redact("s", "m"))
            w.hub.committed(early.writes, start)
            item = await stream.next()
            assert isinstance(item, Batch)
            assert all(b"text of m" not in entry.data for entry in item.entries)
            assert early.writes.events[0].seq == item.entries[0].seq


@run
async def test_events_of_an_unwatched_session_are_not_serialized() -> None:
    made: list[int] = []
    original = encoding.event

    def counted(*args: Any) -> bytes:
        made.append(1)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "event", counted)
        async with world() as w, w.watch() as (stream, _):
            await accepted(w.elsewhere, CALLER.create("t"))
            made.clear()
            await accepted(w.here, CALLER.append("t"))
            assert not made
            await accepted(w.here, CALLER.append("s", "a", "b"))
            assert len(made) == 2
            assert await batch(stream) == [2, 3]


@run
async def test_failing_announcement_does_not_fail_the_write() -> None:
    class Broken(MemoryBus):
        def publish_hints(self, hints: Any) -> None:
            raise RuntimeError("no bus")

    w = World()
    w.here = AnnouncedCommits(w.store, Announcer(w.hub, Broken()))
    logging.getLogger("sessiond.events").setLevel(logging.CRITICAL)
    try:
        async with w.hub:
            await accepted(w.here, CALLER.create("s"))
            assert (await w.store.get_session(CALLER.scope, "s", content=False)).version == 1
    finally:
        logging.getLogger("sessiond.events").setLevel(logging.NOTSET)


@run
async def test_retried_command_is_announced_again() -> None:
    async with world() as w:
        heard: list[Hint] = []
        ear: Any = type("Ear", (), {"on_hints": lambda self, hints: heard.extend(hints), "on_deltas": print})()
        w.bus.listen(ear)
        command = CALLER.append("s", request_id="again")
        await accepted(w.elsewhere, command)
        await accepted(w.here, command)
        await quiet()
        assert heard == [Hint(("tenant", "s"), 2)]


@run
async def test_expiry_is_announced_too() -> None:
    now = [10**15]
    w = World()
    w.elsewhere = w.store.store = MemoryStore(clock=lambda: now[0])
    async with w.hub:
        await accepted(w.elsewhere, CALLER.create("s", ttl={"seconds": 60}))
        async with w.watch() as (stream, _):
            now[0] += 61 * 10**6
            w.store.calls.clear()
            await w.here.expire_due(10)
            assert await batch(stream) == [2]
            assert "read_log" not in w.store.calls


@run
async def test_deltas_follow_the_events_for_watchers_that_ask_for_them() -> None:
    async with world() as w, w.watch(deltas=True) as (asks, _), w.watch() as (does_not, _):
        await accepted(w.here, CALLER.append("s"))
        piece = Delta(message_id="m", text="hel").SerializeToString()
        w.bus.publish_deltas(Deltas(("tenant", "s"), [piece]))
        await quiet()
        assert await batch(asks) == [2]
        passed = await asks.next()
        assert isinstance(passed, ReceivedDeltas)
        assert list(passed.data) == [piece]
        w.bus.publish_deltas(Deltas(("tenant", "s"), [piece]))
        await quiet()
        await accepted(w.here, CALLER.append_ids("s", "m"))
        w.bus.publish_deltas(Deltas(("tenant", "s"), [piece]))
        await quiet()
        assert await batch(asks) == [3]
        assert await batch(does_not) == [2, 3]
        for stream in (asks, does_not):
            assert isinstance(await stream.next(), CaughtUp)


def draft(message_id: str, **fields: Any) -> Deltas:
    return Deltas(("tenant", "s"), [Delta(message_id=message_id, **fields).SerializeToString()])


async def received(stream: Any) -> list[tuple[str, str, bool]]:
    passed = await stream.next()
    assert isinstance(passed, ReceivedDeltas)
    return [(each.message_id, each.text, each.interrupted) for each in map(Delta.FromString, passed.data)]


@run
async def test_late_watcher_gets_open_drafts_once_and_then_what_follows() -> None:
    async with world() as w:
        w.bus.publish_deltas(draft("m", text="he"))
        w.bus.publish_deltas(draft("m", text="l", offset=2))
        await quiet()
        async with w.watch(deltas=True) as (late, _), w.watch() as (does_not, _):
            assert await received(late) == [("m", "hel", False)]
            w.bus.publish_deltas(draft("m", text="lo", offset=3))
            await quiet()
            assert await received(late) == [("m", "lo", False)]
            assert isinstance(await does_not.next(), CaughtUp)
        async with w.watch(after=Cursor(1, (await head(w)).event_id), deltas=True) as (resumed, _):
            assert await received(resumed) == [("m", "hello", False)]


async def head(w: World) -> Any:
    return (await w.elsewhere.read_log(("tenant", "s"), after_seq=0, limit=1)).entries[0]


@run
async def test_message_of_any_process_supersedes_its_kept_draft() -> None:
    async with world() as w:
        w.bus.publish_deltas(draft("here", text="a"))
        w.bus.publish_deltas(draft("elsewhere", text="b"))
        w.bus.publish_deltas(draft("open", text="c"))
        await quiet()
        await accepted(w.here, CALLER.append_ids("s", "here"))
        # The other process' notice is lost: the message itself tells.
        await accepted(w.elsewhere, CALLER.append_ids("s", "elsewhere"))
        async with w.watch(deltas=True) as (late, _):
            assert await received(late) == [("open", "c", False)]


@run
async def test_commit_tells_other_processes_which_drafts_are_superseded() -> None:
    async with world() as w:
        w.bus.publish_deltas(draft("m", text="a"))
        await quiet()
        other = EventHub(w.store, w.bus, HubLimits())
        async with other:
            w.bus.publish_deltas(draft("n", text="b"))
            await quiet()
            await accepted(w.here, CALLER.append_ids("s", "n"))
            await quiet()
            w.store.calls.clear()
            async with other.watch_session(CALLER.scope, "s", None, content=False, deltas=True):
                assert "get_message" not in w.store.calls


@run
async def test_watchers_are_told_once_when_a_draft_falls_silent() -> None:
    async with world() as w, w.watch(deltas=True) as (stream, _):
        w.bus.publish_deltas(draft("m", text="a"))
        await quiet()
        assert await received(stream) == [("m", "a", False)]
        began = asyncio.get_running_loop().time()
        told = await stream.next()
        while isinstance(told, CaughtUp):
            told = await stream.next()
        assert [Delta.FromString(data).interrupted for data in told.data] == [True]
        assert 15.0 <= asyncio.get_running_loop().time() - began < 17.0
        assert isinstance(await stream.next(), CaughtUp)
        w.bus.publish_deltas(draft("m", text="b", offset=1))
        await quiet()
        assert await received(stream) == [("m", "b", False)]


@run
async def test_write_does_not_wait_for_drafts_and_a_store_that_is_away_keeps_them() -> None:
    async with world() as w:
        w.bus.publish_deltas(draft("m", text="a"))
        await quiet()
        w.store.away = True
        with pytest.raises(StoreUnavailable):
            async with w.watch(deltas=True):
                pytest.fail("opened")
        w.store.away = False
        async with w.watch(deltas=True) as (late, _):
            assert await received(late) == [("m", "a", False)]
        await accepted(w.here, CALLER.append_ids("s", "m"))
        assert w.hub._sessions.drafts.size == 0


@run
async def test_drafts_of_a_deleted_session_are_gone() -> None:
    async with world() as w:
        w.bus.publish_deltas(draft("m", text="secret"))
        await quiet()
        await accepted(w.here, CALLER.delete("s"))
        assert w.hub._sessions.drafts.size == 0


@run
async def test_drafts_of_an_ended_session_are_gone_in_every_process() -> None:
    async with world() as w, EventHub(w.store, w.bus, HubLimits()) as other:
        w.bus.publish_deltas(draft("m", text="a"))
        await quiet()
        await accepted(w.here, CALLER.end("s"))
        await quiet()
        assert [hub._sessions.drafts.size for hub in (w.hub, other)] == [0, 0]


@run
async def test_lost_notice_of_a_message_that_was_deleted_since_does_not_show_its_draft() -> None:
    """However many events came between, as far as the service looks back, and then no draft at all."""
    async with world() as w:
        for between in (0, 200, READS * 64):
            w.bus.publish_deltas(draft("m", text="secret"))
            w.bus.publish_deltas(draft("open", text="c"))
            await quiet()
            await accepted(w.elsewhere, CALLER.append_ids("s", "m"))
            await accepted(w.elsewhere, CALLER.delete_messages("s", "m"))
            for _ in range(between):
                await accepted(w.elsewhere, CALLER.update("s"))
            async with w.watch(deltas=True) as (late, _):
                if between < READS * 64:
                    assert await received(late) == [("open", "c", False)]
                else:
                    assert isinstance(await late.next(), CaughtUp)
                assert w.hub._sessions.drafts.of(("tenant", "s"), 0) == ["open"] * (between < READS * 64)
                w.hub._sessions.drafts.drop_session(("tenant", "s"))


@run
async def test_lost_notice_of_a_session_that_has_ended_does_not_show_its_drafts() -> None:
    async with world() as w:
        w.bus.publish_deltas(draft("m", text="secret"))
        await quiet()
        await accepted(w.elsewhere, CALLER.end("s"))
        async with w.watch(deltas=True) as (late, _):
            assert isinstance(await late.next(), CaughtUp)


@run
async def test_log_that_begins_high_does_not_hide_the_open_draft() -> None:
    """A session that took the id of a deleted one has no events before its first."""
    async with world() as w:
        for _ in range(READS * 64):
            await accepted(w.elsewhere, CALLER.update("s"))
        await accepted(w.elsewhere, CALLER.delete("s"))
        await accepted(w.elsewhere, CALLER.create("s", reuse=True, user_id="ada"))
        w.bus.publish_deltas(draft("m", text="a"))
        await quiet()
        async with w.watch(deltas=True) as (late, _):
            assert await received(late) == [("m", "a", False)]


@pytest.mark.parametrize("watched", ["session", "feed"])
@pytest.mark.parametrize("end", ["message", "deleted message", "ended", "deleted"])
def test_events_that_a_process_follows_end_its_kept_drafts(watched: str, end: str) -> None:
    """Without a notice, and without a watcher of drafts."""
    virtual_time.run(_followed(watched, end))


async def _followed(watched: str, end: str) -> None:
    async with world() as w:
        following = w.watch() if watched == "session" else w.hub.watch_feed(CALLER.scope, None, from_beginning=False)
        async with following as followed:
            stream = followed[0] if isinstance(followed, tuple) else followed
            w.bus.publish_deltas(draft("m", text="secret"))
            await quiet()
            if "message" in end:
                await accepted(w.elsewhere, CALLER.append_ids("s", "m"))
            if end == "deleted message":
                await accepted(w.elsewhere, CALLER.delete_messages("s", "m"))
            elif end == "ended":
                await accepted(w.elsewhere, CALLER.end("s"))
            elif end == "deleted":
                await accepted(w.elsewhere, CALLER.delete("s"))
            assert w.hub._sessions.drafts.size
            while isinstance(await stream.next(), CaughtUp):
                pass
            assert not w.hub._sessions.drafts.size


@run
async def test_late_deltas_of_what_a_snapshot_has_are_not_shown() -> None:
    async with world() as w:
        await accepted(w.elsewhere, CALLER.append_ids("s", "m"))
        async with w.watch(deltas=True) as (stream, _):
            w.bus.publish_deltas(Deltas(("tenant", "s"), [Delta(message_id="m", text="late").SerializeToString()]))
            assert isinstance(await stream.next(), CaughtUp)


@run
async def test_feed_starts_from_now_from_the_beginning_or_from_a_position() -> None:
    async with world() as w:
        watch = w.hub.watch_feed
        async with (
            watch(CALLER.scope, None, from_beginning=True) as old,
            watch(CALLER.scope, None, from_beginning=False) as new,
        ):
            first = await old.next()
            assert isinstance(first, FeedBatch)
            assert [entry.place.seq for entry in first.entries] == [1]
            await accepted(w.here, CALLER.append("s"))
            batches = [await old.next(), await new.next()]
            assert isinstance(batches[0], FeedBatch)
            assert batches[0] is batches[1]
            kept = new.cursor
        await accepted(w.elsewhere, CALLER.append("s"))
        async with watch(CALLER.scope, kept, from_beginning=False) as stream:
            item = await stream.next()
            assert isinstance(item, FeedBatch)
            assert [entry.place.seq for entry in item.entries] == [3]


@run
async def test_lag_of_streams_is_the_age_of_the_last_answered_poll() -> None:
    async with world() as w:
        assert w.hub.state().lag_seconds == 0.0
        async with w.watch():
            await asyncio.sleep(5)
            assert w.hub.state().lag_seconds <= 1.0
            w.store.away = True
            await asyncio.sleep(5)
            assert 4.0 <= w.hub.state().lag_seconds <= 6.0
            w.store.away = False
            await asyncio.sleep(2)
            assert w.hub.state().lag_seconds <= 1.0
        await asyncio.sleep(5)
        assert w.hub.state().lag_seconds == 0.0


@run
async def test_reads_that_wait_for_their_turn_are_counted() -> None:
    async with world(reads=1) as w, AsyncExitStack() as stack:
        opening = []
        w.store.gate.clear()
        for number in range(3):
            await accepted(w.elsewhere, CALLER.create(f"s{number}"))
            opening.append(asyncio.ensure_future(stack.enter_async_context(w.watch(f"s{number}"))))
            await quiet()
        assert w.hub.state().reads_waiting == 2
        w.store.gate.set()
        await asyncio.gather(*opening)
        assert w.hub.state().reads_waiting == 0


@run
async def test_feed_that_is_held_back_lags_from_the_first_moment() -> None:
    async def events(stream: FeedStream) -> FeedBatch:
        while not isinstance(item := await stream.next(), FeedBatch):
            pass
        return item

    database: Any = Database(asyncio.get_running_loop().time)
    async with (
        EventHub(database, MemoryBus()) as hub,
        hub.watch_feed(CALLER.scope, None, from_beginning=False) as stream,
    ):
        await asyncio.sleep(60)
        assert hub.state().feed_lag_seconds == 0.0, "no stream waits for anything"
        following = asyncio.ensure_future(events(stream))
        await asyncio.sleep(5)
        assert hub.state().feed_lag_seconds <= 1.0
        held = database.begin()
        database.commit(database.begin(), [CALLER.create("s")])
        await asyncio.sleep(30)
        assert 29.0 <= hub.state().feed_lag_seconds <= 31.0
        database.commit(held, [CALLER.create("t")])
        assert len((await following).entries) == 2
        following = asyncio.ensure_future(events(stream))
        await asyncio.sleep(2)
        assert hub.state().feed_lag_seconds <= 1.0
        following.cancel()


@pytest.mark.parametrize("waiting", [True, False])
def test_feed_position_names_a_late_commit(waiting: bool) -> None:
    """In the ring and behind it; also when only the poll has seen it, because no stream waited meanwhile."""
    virtual_time.run(_overtaken(waiting))


async def _overtaken(waiting: bool) -> None:
    database: Any = Database(asyncio.get_running_loop().time)
    async with EventHub(database, MemoryBus(), HubLimits(ring_events=4)) as hub:
        watch = partial(hub.watch_feed, CALLER.scope, None, from_beginning=False)
        others = [f"s{number}" for number in range(ANCHORS + 4)]
        for session_id in ["slow", *others]:
            database.commit(database.begin(), [CALLER.create(session_id)])
        async with watch() as early, watch() as laggard:
            following = asyncio.create_task(early.next()) if waiting else None
            late_commit = database.begin()
            for session_id in others:
                database.commit(database.begin(), [CALLER.append(session_id)])
            await asyncio.sleep(2)
            assert following is None or not following.done()
            database.commit(late_commit, [CALLER.append("slow")])
            event = list(database.history.events.values())[-1]
            assert isinstance(await (following or early.next()), FeedBatch)
            assert isinstance(await laggard.next(), FeedBatch)
            for stream in early, laggard:
                assert stream.cursor.late_commits == ((event.place, event.event_id),)
                assert event.event_id not in [event_id for _, event_id in stream.cursor.anchors]
            database.commit(database.begin(), [CALLER.append("slow")])
            assert isinstance(await early.next(), FeedBatch)
            assert early.cursor.late_commits == laggard.cursor.late_commits
            async with watch() as late:
                assert late.cursor.late_commits == ()


@run
async def test_lost_feed_position_names_no_session_of_another_owner() -> None:
    async with world() as w:
        async with w.hub.watch_feed(CALLER.scope, None, from_beginning=False) as stream:
            kept = stream.cursor
        w.elsewhere._logs.clear()
        for scope, named in ((CALLER.scope, "s"), (c.Scope("tenant", "bob"), "")):
            with pytest.raises(PositionLost) as lost:
                await w.hub.watch_feed(scope, kept, from_beginning=False).__aenter__()
            assert lost.value.metadata["session_id"] == named


@run
async def test_hub_without_watchers_reads_nothing() -> None:
    async with world() as w:
        async with w.watch():
            await asyncio.sleep(3)
        await asyncio.sleep(2)
        w.store.calls.clear()
        await asyncio.sleep(3600)
        assert not w.store.calls
        assert w.hub.state().ring_bytes == 0


@run
async def test_slow_stream_causes_no_reads_of_the_log() -> None:
    """It has not asked for more: there is nothing to bring it."""
    async with world(bookmark=10**6) as w, w.watch() as (_, _):
        await asyncio.sleep(2)
        w.store.calls.clear()
        for _ in range(20):
            await accepted(w.elsewhere, CALLER.append("s"))
            w.bus.publish_hints([Hint(("tenant", "s"), 10)])
            await asyncio.sleep(1)
        assert set(w.store.calls) == {"log_heads"}


@run
async def test_an_idle_watcher_holds_no_task_and_little_memory() -> None:
    async with world() as w, AsyncExitStack() as stack:
        for number in range(200):
            await accepted(w.elsewhere, CALLER.create(f"t{number}"))
        tasks = len(asyncio.all_tasks())
        for number in range(200):
            await stack.enter_async_context(w.watch(f"t{number}"))
        await asyncio.sleep(3)
        gc.collect()
        assert len(asyncio.all_tasks()) == tasks
        assert w.hub.state().ring_bytes == 0
        assert not any(hasattr(one, "__dict__") for one in w.hub._sessions.channels)


@run
async def test_watcher_ends_where_one_batch_deletes_the_session_and_takes_its_id_again() -> None:
    """Whether the watcher waits, has not taken what was written before, or reads the store."""
    for behind, ring in ((0, 1000), (2, 1000), (2, 1)):
        async with world(ring_events=ring) as w, w.watch() as (stream, _):
            for _ in range(behind):
                await accepted(w.here, CALLER.append("s"))
            create = CALLER.create("s", reuse=True, user_id="ada")
            await accepted(w.here, CALLER.delete("s"), create, CALLER.append("s", "of the next"))
            assert await batch(stream) == [behind + 2]
            with pytest.raises(SessionNotFound):
                await stream.next()
            async with w.watch() as (_, snapshot):
                assert snapshot.version == behind + 4


@run
async def test_id_is_taken_again_while_a_watcher_has_not_taken_the_deletion() -> None:
    """Its commits are announced to other processes all the same."""
    async with world() as w, w.watch() as (stream, _):
        ear = Ear(w.bus)
        await accepted(w.here, CALLER.append_ids("s", "m"))
        await accepted(w.here, CALLER.delete("s"))
        await accepted(w.here, CALLER.create("s", reuse=True, user_id="ada"), CALLER.append_ids("s", "m"))
        await ear.heard(Hint(("tenant", "s"), 5))
        await accepted(w.here, CALLER.redact("s", "m"))
        assert await batch(stream) == [3]
        with pytest.raises(SessionNotFound):
            await stream.next()
    assert w.hub.state().ring_bytes == 0


@run
async def test_draft_whose_message_follows_the_snapshot_is_not_shown_behind_it() -> None:
    """The message may be there by the time that the new watcher first asks."""
    for elsewhere in (False, True):
        async with world() as w:
            w.bus.publish_deltas(draft("m", text="a"))
            w.bus.publish_deltas(draft("n", text="b"))
            await quiet()
            async with w.watch(deltas=True) as (late, _), w.watch() as (other, _):
                await accepted(w.elsewhere if elsewhere else w.here, CALLER.append_ids("s", "m"))
                assert await batch(other) == [2]
                assert await batch(late) == [2]
                assert await received(late) == [("n", "b", False)]
                w.bus.publish_deltas(draft("n", text="c", offset=1))
                await quiet()
                assert await received(late) == [("n", "c", False)]
