"""WatchSession through a real channel: what a watcher sees from its first frame to its last (G7 to G10)."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtoMessage
from grpc import StatusCode

from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.session_pb2 import Session, SessionView
from sessiond_server.domain import fold
from sessiond_server.events.limits import HubLimits
from sessiond_server.memory.store import MemoryStore
from tests.support.waiting import until
from tests.support.wire import ALICE, TENANT, Watch, Wire, said, serving

CREATED = EventType.EVENT_TYPE_SESSION_CREATED
UPDATED = EventType.EVENT_TYPE_SESSION_UPDATED
TOUCHED = EventType.EVENT_TYPE_SESSION_TOUCHED
DELETED = EventType.EVENT_TYPE_SESSION_DELETED
APPENDED = EventType.EVENT_TYPE_MESSAGE_APPENDED

QUICK = HubLimits(poll=0.02, fast_poll=0.02, bookmark=0.02)
"""Bookmarks soon, for tests that wait for them."""


def request(position: str = "", types: Sequence[Any] = (), **fields: Any) -> e.WatchSessionRequest:
    where = e.SessionEventFilter(types=types) if types else None
    return e.WatchSessionRequest(session_id="s", position=position, filter=where, **fields)


def watch(wire: Wire, position: str = "", *, key: str = TENANT, **fields: Any) -> Watch:
    return wire.watch("WatchSession", request(position, **fields), key=key)


async def touch(wire: Wire) -> None:
    await wire.call("TouchSession", s.TouchSessionRequest(session_id="s"))


async def delete(wire: Wire) -> None:
    await wire.call("DeleteSession", s.DeleteSessionRequest(session_id="s"))


async def events(watcher: Watch, last: int) -> list[Any]:
    """Batches, up to the event `last`; bookmarks in between are passed over."""
    batches: list[Any] = []
    while not batches or batches[-1].events[-1].seq < last:
        frame = await watcher.read()
        if not frame.HasField("bookmark"):
            assert frame.HasField("events"), frame
            batches.append(frame.events)
    return batches


def seqs(batches: Sequence[Any]) -> list[int]:
    return [event.seq for batch in batches for event in batch.events]


async def test_a_snapshot_and_what_follows_it_fold_to_the_session(wire: Wire) -> None:
    long = "so far " * 1000  # changes of a short content are stored whole
    await wire.create("s", summary=long)
    await wire.append("s", "one", "two")
    watcher = watch(wire)
    snapshot = (await watcher.read()).snapshot
    assert snapshot.session == await wire.call("GetSession", s.GetSessionRequest(session_id="s"))
    assert (snapshot.session.version, snapshot.session.summary) == (3, long)
    await wire.append("s", "three", "four")
    update = s.UpdateSessionRequest(session=Session(session_id="s", name="Renamed"))
    update.session.state.update({"step": 1})
    assert (await wire.call("UpdateSession", update)).summary == long
    update.view = SessionView.SESSION_VIEW_BASIC
    assert (await wire.call("UpdateSession", update)).ByteSize() < 500
    await touch(wire)
    batches = await events(watcher, 8)
    assert seqs(batches) == [4, 5, 6, 7, 8]
    views = [event.session_view for batch in batches for event in batch.events if event.HasField("session")]
    assert views == [SessionView.SESSION_VIEW_PATCH, SessionView.SESSION_VIEW_PATCH, SessionView.SESSION_VIEW_BASIC]
    folded = snapshot.session
    for batch in batches:
        for event in batch.events:
            assert event.previous_event_id == folded.last_event_id
            folded = fold.fold(folded, event)
    assert folded == await wire.call("GetSession", s.GetSessionRequest(session_id="s"))


async def test_the_snapshot_has_what_the_view_asks_for(wire: Wire) -> None:
    await wire.create("s", summary="so far")
    basic = (await watch(wire, view=SessionView.SESSION_VIEW_BASIC).read()).snapshot.session
    assert (basic.session_id, basic.summary) == ("s", "")
    full = (await watch(wire, view=SessionView.SESSION_VIEW_FULL).read()).snapshot.session
    assert full.summary == "so far"


async def test_a_session_can_be_replayed_from_its_beginning(wire: Wire) -> None:
    created = await wire.create("s")
    await wire.append("s", "one")
    watcher = watch(wire, from_beginning=True)
    resumed = (await watcher.read()).resumed
    assert resumed.head_seq == 2
    (batch,) = await events(watcher, 2)
    assert [event.type for event in batch.events] == [CREATED, APPENDED]
    assert batch.events[0].session == created
    assert batch.head_seq == 2
    again = watch(wire, resumed.position)
    assert (await again.read()).HasField("resumed")
    assert seqs(await events(again, 2)) == [1, 2]


async def test_every_position_resumes_where_it_was(wire: Wire) -> None:
    await wire.create("s")
    for text in ("one", "two", "three"):
        await wire.append("s", text)
    first = watch(wire, from_beginning=True)
    positions = [(0, (await first.read()).resumed.position)]
    for last in range(2, 5):
        page = await wire.call("ListEvents", e.ListEventsRequest(session_id="s", page_size=last))
        positions.append((last, page.position))
    positions += [(batch.events[-1].seq, batch.position) for batch in await events(first, 4)]
    await wire.append("s", "four")
    for seq, position in positions:
        watcher = watch(wire, position)
        resumed = (await watcher.read()).resumed
        assert resumed.head_seq == 5
        assert resumed.position == position
        assert seqs(await events(watcher, 5)) == list(range(seq + 1, 6))
        watcher.cancel()


async def test_filtered_events_move_the_position(wire: Wire) -> None:
    await wire.create("s")
    watcher = watch(wire, types=[APPENDED])
    assert (await watcher.read()).HasField("snapshot")
    await touch(wire)
    await wire.append("s", "one")
    await touch(wire)
    await wire.append("s", "two")
    batches = await events(watcher, 5)
    assert seqs(batches) == [3, 5]
    again = watch(wire, batches[-1].position, types=[APPENDED])
    assert (await again.read()).resumed.head_seq == 5
    await touch(wire)
    await wire.append("s", "three")
    assert seqs(await events(again, 7)) == [7]


async def test_watcher_of_a_busy_session_gets_positions_whatever_it_filters() -> None:
    async with serving(bookmark_interval=0.0) as wire:
        await wire.create("s")
        watcher = watch(wire, types=[UPDATED])
        assert (await watcher.read()).HasField("snapshot")
        await touch(wire)
        bookmark = (await watcher.read()).bookmark
        assert bookmark.head_seq == 2
        assert not bookmark.HasField("read_time")
        await wire.call("UpdateSession", s.UpdateSessionRequest(session=Session(session_id="s", name="Renamed")))
        again = watch(wire, bookmark.position, types=[UPDATED])
        assert (await again.read()).HasField("resumed")
        assert seqs(await events(again, 3)) == [3]


async def test_idle_watcher_gets_bookmarks_that_prove_the_end_of_the_log() -> None:
    async with serving(limits=QUICK) as wire:
        await wire.create("s")
        watcher = watch(wire)
        snapshot = (await watcher.read()).snapshot
        first, second = [(await watcher.read()).bookmark for _ in range(2)]
        assert first.position == second.position == snapshot.position
        assert first.head_seq == second.head_seq == 1
        assert snapshot.session.create_time.ToNanoseconds() <= first.read_time.ToNanoseconds()
        assert first.read_time.ToNanoseconds() < second.read_time.ToNanoseconds()


async def test_bookmarks_come_within_the_requested_interval() -> None:
    async with serving(limits=HubLimits(poll=0.02, bookmark=3600)) as wire:
        await wire.create("s")
        watcher = watch(wire, bookmark_interval=Duration(seconds=1))
        assert (await watcher.read()).HasField("snapshot")
        assert (await watcher.read()).bookmark.head_seq == 1


async def test_requested_interval_never_exceeds_the_servers() -> None:
    async with serving(limits=QUICK) as wire:
        await wire.create("s")
        watcher = watch(wire, bookmark_interval=Duration(seconds=3600))
        assert (await watcher.read()).HasField("snapshot")
        assert (await watcher.read()).HasField("bookmark")


async def test_filtered_watcher_of_a_busy_session_gets_bookmarks_in_time() -> None:
    """The filter skips many events."""
    async with serving(bookmark_interval=3600.0) as wire:
        await wire.create("s")
        watcher = watch(wire, types=[UPDATED], bookmark_interval=Duration(seconds=1))
        assert (await watcher.read()).HasField("snapshot")
        reading = asyncio.ensure_future(watcher.read())
        while not reading.done():
            await touch(wire)
            await asyncio.wait([reading], timeout=0.1)
        assert reading.result().HasField("bookmark")


async def test_commits_of_another_replica_arrive() -> None:
    """Without any hint: the poll finds it."""
    async with serving(limits=QUICK) as wire:
        await wire.create("s")
        watcher = watch(wire)
        assert (await watcher.read()).HasField("snapshot")
        async with serving(wire.store) as other:
            await other.append("s", "from elsewhere")
        batches = await events(watcher, 2)
        assert batches[0].events[0].message.parts[0].text == "from elsewhere"


async def test_a_deletion_is_the_last_event_and_ends_the_stream(wire: Wire) -> None:
    await wire.create("s")
    await wire.append("s", "one")
    behind = (await wire.call("ListEvents", e.ListEventsRequest(session_id="s", page_size=1))).position
    filtered = (await watch(wire, types=[UPDATED]).read()).snapshot.position
    watchers = [watch(wire), watch(wire, types=[UPDATED])]
    for watcher in watchers:
        assert (await watcher.read()).HasField("snapshot")
    await delete(wire)
    for position, types in ((behind, []), (filtered, [UPDATED])):
        late = watch(wire, position, types=types)
        assert (await late.read()).resumed.head_seq == 3
        watchers.append(late)
    for watcher in watchers:
        (batch,) = await events(watcher, 3)
        assert [(event.seq, event.type) for event in batch.events] == [(3, DELETED)]
        assert batch.events[0].session == Session(session_id="s", version=3)
        assert await watcher.read() is None
    failure = await wire.failure("WatchSession", request())
    assert (failure.code, failure.reason) == (StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    failure = await wire.failure("WatchSession", request(from_beginning=True))
    assert (failure.code, failure.reason) == (StatusCode.OUT_OF_RANGE, "POSITION_COMPACTED")
    assert failure.metadata == {"session_id": "s", "oldest_seq": "3"}


@pytest.mark.parametrize(
    "changed",
    [
        e.WatchSessionRequest(session_id="t"),
        e.WatchSessionRequest(session_id="s", filter=e.SessionEventFilter(types=[APPENDED])),
    ],
    ids=["session", "filter"],
)
async def test_a_position_is_good_for_its_stream_only(wire: Wire, changed: Any) -> None:
    for session_id in ("s", "t"):
        await wire.create(session_id)
    changed.position = (await watch(wire).read()).snapshot.position
    failure = await wire.failure("WatchSession", changed)
    assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_POSITION")
    assert failure.violations.keys() == {"position"}


async def test_a_position_of_another_caller_or_of_a_feed_is_invalid(wire: Wire) -> None:
    await wire.create("s", user_id="alice")
    position = (await watch(wire).read()).snapshot.position
    feed = (await wire.call("WatchEvents", e.WatchEventsRequest())).resumed.position
    attempts: list[tuple[str, ProtoMessage, str]] = [
        ("WatchSession", request(position), ALICE),
        ("WatchSession", request(feed), TENANT),
        ("ListEvents", e.ListEventsRequest(session_id="s", position=feed), TENANT),
        ("WatchEvents", e.WatchEventsRequest(position=position), TENANT),
    ]
    for rpc, attempt, key in attempts:
        failure = await wire.failure(rpc, attempt, key=key)
        assert failure.reason == "INVALID_POSITION"
    assert (await watch(wire, position).read()).HasField("resumed")


async def test_unknown_position_is_a_typed_error(wire: Wire) -> None:
    """Defect 10."""
    await wire.create("s")
    good = (await watch(wire).read()).snapshot.position
    other = "A" if good[-1] != "A" else "Q"
    damaged = (good[:-1], good[1:], good[:-1] + other, good + good, good + "\0", good.lower())
    for position in ("x", "2", "A" * 76, "x" * 4096, "x" * 5000, "x" * 1_000_000, "\0", "\U0001f642" * 20, *damaged):
        for rpc, attempt in (
            ("WatchSession", request(position)),
            ("ListEvents", e.ListEventsRequest(session_id="s", position=position)),
            ("WatchEvents", e.WatchEventsRequest(position=position)),
        ):
            failure = await wire.failure(rpc, attempt)
            assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_POSITION")


async def test_lost_history_is_data_loss() -> None:
    """The database has failed over to one that never had the newest events, and has written others since."""
    before, after = MemoryStore(), MemoryStore()
    key = await before.token_key()
    async with serving(before) as wire:
        await wire.create("s")
        await wire.append("s", "one")
        position = (await watch(wire).read()).snapshot.position
    async with serving(after, ready=False) as wire:
        await wire.server.open(key)
        await wire.create("s")
        for attempt in (0, 1):
            for rpc, lost in (
                ("WatchSession", request(position)),
                ("ListEvents", e.ListEventsRequest(session_id="s", position=position)),
            ):
                failure = await wire.failure(rpc, lost)
                assert (failure.code, failure.reason) == (StatusCode.DATA_LOSS, "POSITION_LOST"), attempt
                assert failure.metadata == {"session_id": "s", "seq": "2"}
            # Now the log has another event there.
            await wire.append("s", "two")


async def test_deltas_are_delivered_and_not_stored(wire: Wire) -> None:
    await wire.create("s")
    watcher, other = watch(wire, deltas=True), watch(wire)
    for one in (watcher, other):
        assert (await one.read()).HasField("snapshot")
    pieces = [e.Delta(message_id="m1", text="Hel"), e.Delta(message_id="m1", text="lo", offset=3)]
    await wire.call("PublishDelta", e.PublishDeltaRequest(session_id="s", deltas=pieces))
    seen: list[e.Delta] = []
    while len(seen) < 2:
        seen += (await watcher.read()).deltas.deltas
    assert seen == pieces
    message = said("Hello", message_id="m1")
    await wire.call("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=[message]))
    for one in (watcher, other):
        (batch,) = await events(one, 2)
        assert batch.events[0].message.message_id == "m1"
    again = watch(wire, batch.position, deltas=True)
    assert (await again.read()).HasField("resumed"), "whether deltas are wanted is not part of the position"


async def test_more_watchers_than_there_may_be_are_refused_and_room_comes_back() -> None:
    async with serving(limits=HubLimits(watchers=1)) as wire:
        await wire.create("s")
        watcher = watch(wire)
        assert (await watcher.read()).HasField("snapshot")
        for rpc, attempt in (("WatchSession", request()), ("WatchEvents", e.WatchEventsRequest())):
            failure = await wire.failure(rpc, attempt)
            assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHERS")
            assert int(failure.trailers["grpc-retry-pushback-ms"]) > 0
        watcher.cancel()
        await until(lambda: wire.hub.state().streams == 0)
        assert (await watch(wire).read()).HasField("snapshot")


async def test_watcher_that_leaves_frees_its_resources(wire: Wire) -> None:
    await wire.create("s")
    watchers = [watch(wire) for _ in range(20)]
    await asyncio.gather(*(watcher.read() for watcher in watchers))
    assert (wire.server.calls, wire.hub.state().streams) == (20, 20)
    for watcher in watchers:
        watcher.cancel()
    await until(lambda: wire.server.calls == 0)
    assert (wire.hub.state().streams, wire.hub.state().sessions) == (0, 0)


async def test_watching_needs_no_more_than_the_scope_to_read_and_outlasts_the_longest_deadline() -> None:
    async with serving(longest_deadline=0.01, limits=QUICK) as wire:
        await wire.create("s")
        watcher = wire.watch("WatchSession", request(), timeout=None)
        assert (await watcher.read()).HasField("snapshot")
        for _ in range(3):
            assert (await watcher.read()).HasField("bookmark")


async def test_start_says_where_a_watch_without_a_position_begins(wire: Wire) -> None:
    await wire.create("s")
    await wire.append("s", "one")
    beginning = watch(wire, start=e.FeedStart.FEED_START_BEGINNING)
    assert (first := await beginning.read()).HasField("resumed")
    assert first.position == first.resumed.position
    assert seqs(await events(beginning, 2)) == [1, 2]
    now = await watch(wire, start=e.FeedStart.FEED_START_NOW).read()
    assert now.position == now.snapshot.position
    beside = watch(wire, now.position, start=e.FeedStart.FEED_START_BEGINNING)
    assert (await beside.read()).resumed.position == now.position
    await wire.append("s", "two")
    (batch,) = await events(beside, 3)
    assert [event.seq for event in batch.events] == [3]
    failure = await watch(wire, start=99).failure()
    assert failure.violations.keys() == {"start"}
