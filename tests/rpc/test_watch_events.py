"""WatchEvents through a real channel: a tenant's events in commit order, from anywhere, none twice and none missing."""

from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.session_pb2 import Session
from sessiond_server.events.limits import HubLimits
from tests.support.wire import ALICE, BOB, OTHER_TENANT, TENANT, Watch, Wire, serving

CREATED = EventType.EVENT_TYPE_SESSION_CREATED
TOUCHED = EventType.EVENT_TYPE_SESSION_TOUCHED
DELETED = EventType.EVENT_TYPE_SESSION_DELETED
APPENDED = EventType.EVENT_TYPE_MESSAGE_APPENDED

BEGINNING = e.FeedStart.FEED_START_BEGINNING
QUICK = HubLimits(poll=0.02, fast_poll=0.02, bookmark=0.02)


def watch(
    wire: Wire,
    position: str = "",
    *,
    start: Any = BEGINNING,
    key: str = TENANT,
    types: Sequence[Any] = (),
    **where: Any,
) -> Watch:
    request = e.WatchEventsRequest(position=position, start=start, filter=e.FeedFilter(types=types, **where))
    return wire.watch("WatchEvents", request, key=key)


async def resumed(watcher: Watch) -> Watch:
    frame = await watcher.read()
    assert frame.HasField("resumed"), frame
    assert frame.resumed.head_seq == 0
    assert frame.resumed.position
    return watcher


async def seen(watcher: Watch, count: int) -> list[tuple[str, int]]:
    """The next events as (session, seq), exactly so many."""
    return [(event.session_id, event.seq) for batch in await batches(watcher, count) for event in batch.events]


async def batches(watcher: Watch, count: int) -> list[Any]:
    found: list[Any] = []
    while sum(len(batch.events) for batch in found) < count:
        frame = await watcher.read()
        if not frame.HasField("bookmark"):
            assert frame.HasField("events"), frame
            found.append(frame.events)
    assert sum(len(batch.events) for batch in found) == count
    return found


async def touch(wire: Wire, session_id: str) -> None:
    await wire.call("TouchSession", s.TouchSessionRequest(session_id=session_id))


async def delete(wire: Wire, session_id: str) -> None:
    await wire.call("DeleteSession", s.DeleteSessionRequest(session_id=session_id))


async def test_feed_delivers_past_and_new_events_in_commit_order(wire: Wire) -> None:
    await wire.create("a")
    await wire.create("b")
    await wire.append("a", "one", "two")
    watcher = await resumed(watch(wire))
    assert await seen(watcher, 4) == [("a", 1), ("b", 1), ("a", 2), ("a", 3)]
    await wire.append("b", "three")
    await touch(wire, "a")
    assert await seen(watcher, 2) == [("b", 2), ("a", 4)]


@pytest.mark.parametrize("start", [0, e.FeedStart.FEED_START_NOW])
async def test_feed_from_now_delivers_new_events_only(wire: Wire, start: Any) -> None:
    await wire.create("a")
    watcher = await resumed(watch(wire, start=start))
    await wire.append("a", "one")
    await wire.create("b")
    assert await seen(watcher, 2) == [("a", 2), ("b", 1)]


async def test_every_position_resumes_where_it_was(wire: Wire) -> None:
    now = watch(wire, start=0)
    start = (await now.read()).resumed.position
    now.cancel()
    expected = []
    positions = [start]
    watcher = await resumed(watch(wire, start))
    for number in range(5):
        session_id = f"s{number % 2}"
        if number < 2:
            await wire.create(session_id)
        else:
            await wire.append(session_id, "text")
        expected.append((session_id, number // 2 + 1))
        (batch,) = await batches(watcher, 1)
        positions.append(batch.position)
    for passed, position in enumerate(positions[:-1]):
        again = await resumed(watch(wire, position))
        assert await seen(again, 5 - passed) == expected[passed:]
        again.cancel()


async def test_a_feed_delivers_what_its_filter_selects(wire: Wire) -> None:
    await wire.create("a", agent_id="x", labels={"team": "red"}, user_id="u")
    await wire.create("b", agent_id="y", labels={"team": "red"})
    await wire.create("c", agent_id="x")
    for session_id in ("a", "b", "c"):
        await wire.append(session_id, "text")
    cases: list[tuple[dict[str, Any], list[tuple[str, int]]]] = [
        ({"agent_id": "x"}, [("a", 1), ("c", 1), ("a", 2), ("c", 2)]),
        ({"labels": {"team": "red"}}, [("a", 1), ("b", 1), ("a", 2), ("b", 2)]),
        ({"session_ids": ["c", "b"]}, [("b", 1), ("c", 1), ("b", 2), ("c", 2)]),
        ({"user_id": "u"}, [("a", 1), ("a", 2)]),
        ({"types": [APPENDED]}, [("a", 2), ("b", 2), ("c", 2)]),
        ({"types": [APPENDED], "agent_id": "x", "labels": {"team": "red"}}, [("a", 2)]),
    ]
    for where, expected in cases:
        watcher = await resumed(watch(wire, **where))
        assert await seen(watcher, len(expected)) == expected, where
        watcher.cancel()


async def test_labels_are_those_that_the_session_has_when_its_event_is_read(wire: Wire) -> None:
    await wire.create("a", labels={"team": "red"})
    red, blue = [await resumed(watch(wire, start=0, labels={"team": team})) for team in ("red", "blue")]
    await wire.append("a", "one")
    assert await seen(red, 1) == [("a", 2)]
    update = s.UpdateSessionRequest(session=Session(session_id="a", labels={"team": "blue"}))
    update.update_mask.paths.append("labels")
    await wire.call("UpdateSession", update)
    await wire.append("a", "two")
    assert await seen(blue, 2) == [("a", 3), ("a", 4)], "the change itself is in the feed of the new labels"
    await wire.create("b", labels={"team": "red"})
    assert await seen(red, 1) == [("b", 1)], "and not in that of the old ones"


async def test_a_deletion_is_delivered_whatever_agent_and_labels_say(wire: Wire) -> None:
    for session_id in ("a", "b"):
        await wire.create(session_id, agent_id="x", labels={"team": "red"})
    watchers = [
        await resumed(watch(wire, start=0, agent_id="x")),
        await resumed(watch(wire, start=0, agent_id="other")),
        await resumed(watch(wire, start=0, labels={"team": "blue"}, types=[DELETED])),
    ]
    others = await resumed(watch(wire, start=0, types=[CREATED]))
    await delete(wire, "a")
    for watcher in watchers:
        (batch,) = await batches(watcher, 1)
        assert [(event.session_id, event.seq, event.type) for event in batch.events] == [("a", 2, DELETED)]
    await wire.create("c")
    assert await seen(others, 1) == [("c", 1)]
    # Who was behind gets of a deleted session its last event alone.
    assert await seen(await resumed(watch(wire)), 3) == [("b", 1), ("a", 2), ("c", 1)]


async def test_filtered_events_move_the_position() -> None:
    async with serving(bookmark_interval=0.0) as wire:
        watcher = await resumed(watch(wire, start=0, types=[TOUCHED]))
        await wire.create("a")
        bookmark = (await watcher.read()).bookmark
        assert bookmark.head_seq == 0
        await touch(wire, "a")
        again = await resumed(watch(wire, bookmark.position, types=[TOUCHED]))
        assert await seen(again, 1) == [("a", 2)]


async def test_an_idle_feed_gets_bookmarks() -> None:
    async with serving(limits=QUICK) as wire:
        await wire.create("a")
        watcher = await resumed(watch(wire))
        (batch,) = await batches(watcher, 1)
        first, second = [(await watcher.read()).bookmark for _ in range(2)]
        assert first.position == second.position == batch.position
        assert 0 < first.read_time.ToNanoseconds() < second.read_time.ToNanoseconds()


async def test_bookmarks_come_within_the_requested_interval() -> None:
    async with serving(limits=HubLimits(poll=0.02, bookmark=3600)) as wire:
        watcher = await resumed(wire.watch("WatchEvents", e.WatchEventsRequest(bookmark_interval=Duration(seconds=1))))
        assert (await watcher.read()).HasField("bookmark")


async def test_commits_of_another_replica_arrive() -> None:
    async with serving(limits=QUICK) as wire:
        watcher = await resumed(watch(wire))
        async with serving(wire.store) as other:
            await other.create("a")
        assert await seen(watcher, 1) == [("a", 1)]


async def test_feed_of_a_user_delivers_sessions_of_that_user_only(wire: Wire) -> None:
    for user_id, session_id in (("alice", "alices"), ("bob", "bobs"), ("", "nobodys")):
        await wire.create(session_id, user_id=user_id)
    assert await seen(await resumed(watch(wire, key=ALICE)), 1) == [("alices", 1)]
    bob = await resumed(watch(wire, key=BOB, session_ids=["alices", "bobs"]))
    assert await seen(bob, 1) == [("bobs", 1)]
    assert len(await seen(await resumed(watch(wire)), 3)) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"agent_id": "x"},
        {"user_id": "x"},
        {"session_ids": ["x"]},
        {"labels": {"x": ""}},
        {"types": [APPENDED]},
        {"key": ALICE},
        {"key": OTHER_TENANT},
    ],
    ids=str,
)
async def test_a_position_is_good_for_its_feed_only(wire: Wire, changed: dict[str, Any]) -> None:
    position = (await watch(wire).read()).resumed.position
    failure = await watch(wire, position, **changed).failure()
    assert failure.reason == "INVALID_POSITION"
    back = (await watch(wire, **changed).read()).resumed.position
    assert (await watch(wire, back).failure()).reason == "INVALID_POSITION"


async def test_lost_history_is_data_loss(wire: Wire) -> None:
    await wire.create("a")
    watcher = await resumed(watch(wire))
    (batch,) = await batches(watcher, 1)
    async with serving(ready=False) as other:
        await other.server.open(await wire.store.token_key())
        failure = await watch(other, batch.position).failure()
        assert (failure.code.name, failure.reason) == ("DATA_LOSS", "POSITION_LOST")
        assert failure.metadata["session_id"] in ("", "a")


async def test_a_session_keeps_its_events_in_order_with_many_writers(wire: Wire) -> None:
    watcher = await resumed(watch(wire))
    for number in range(3):
        await wire.create(f"s{number}")
    for _ in range(20):
        for number in range(3):
            await wire.append(f"s{number}", "a", "b")
    found = await seen(watcher, 3 + 20 * 3 * 2)
    for number in range(3):
        assert [seq for session_id, seq in found if session_id == f"s{number}"] == list(range(1, 42))
