"""Watchers and positions of a deleted session whose id another one takes: each is told, none is given the other's."""

import asyncio
from typing import Any

import pytest
from grpc import StatusCode

from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.session_pb2 import Session, SessionStatus
from sessiond_server.domain.commands import Scope
from sessiond_server.events.limits import HubLimits
from sessiond_server.memory.store import MemoryStore
from tests.support.caller import Caller, accepted
from tests.support.wire import Failure, Watch, Wire, serving

CREATED = EventType.EVENT_TYPE_SESSION_CREATED
DELETED = EventType.EVENT_TYPE_SESSION_DELETED
APPENDED = EventType.EVENT_TYPE_MESSAGE_APPENDED
QUICK = HubLimits(poll=0.02, fast_poll=0.02, bookmark=0.02)
COMPACTED = (StatusCode.OUT_OF_RANGE, "POSITION_COMPACTED")
CALLER = Caller(Scope("acme"))


def watch(wire: Wire, position: str = "", **fields: Any) -> Watch:
    return wire.watch("WatchSession", e.WatchSessionRequest(session_id="s", position=position, **fields))


async def listed(wire: Wire, position: str = "") -> Any:
    return await wire.call("ListEvents", e.ListEventsRequest(session_id="s", position=position))


async def reuse(wire: Wire) -> Session:
    active = SessionStatus.SESSION_STATUS_ACTIVE
    request = s.CreateSessionRequest(session=Session(session_id="s", status=active), reuse_deleted=True)
    session: Session = await wire.call("CreateSession", request)
    return session


async def delete(wire: Wire) -> None:
    await wire.call("DeleteSession", s.DeleteSessionRequest(session_id="s"))


async def seen(watcher: Watch, last: int) -> list[tuple[int, int]]:
    """(seq, type) of the events up to `last`; what else comes is passed over."""
    found: list[tuple[int, int]] = []
    while not found or found[-1][0] < last:
        frame = await watcher.read()
        assert frame is not None
        found += [(event.seq, event.type) for event in frame.events.events]
    return found


async def positions(wire: Wire) -> list[str]:
    """A session that is deleted with event 4, and the positions after each of its events."""
    await wire.create("s")
    await wire.append("s", "one", "two")
    watcher = watch(wire, from_beginning=True)
    found = [(await listed(wire, "")).position]
    await seen(watcher, 3)
    await delete(wire)
    while (frame := await watcher.read()) is not None:
        if frame.HasField("events"):
            found.append(frame.events.position)
    return found


async def test_positions_of_a_session_before_are_compacted(wire: Wire) -> None:
    old = await positions(wire)
    assert len(old) == 2
    assert (await reuse(wire)).base_version == 4
    await wire.append("s", "three")
    for position in old:
        failure = await watch(wire, position).failure()
        assert ((failure.code, failure.reason), failure.metadata["oldest_seq"]) == (COMPACTED, "5")
        with pytest.raises(Failure) as listing:
            await listed(wire, position)
        assert (listing.value.code, listing.value.reason) == COMPACTED
        assert listing.value.metadata["oldest_seq"] == "5"


async def test_a_log_is_listed_and_watched_from_its_own_beginning(wire: Wire) -> None:
    await positions(wire)
    await reuse(wire)
    await wire.append("s", "three")
    page = await listed(wire)
    assert [(event.seq, event.type) for event in page.events] == [(5, CREATED), (6, APPENDED)]
    watcher = watch(wire, from_beginning=True)
    resumed = (await watcher.read()).resumed
    assert resumed.head_seq == 6
    assert await seen(watcher, 6) == [(5, CREATED), (6, APPENDED)]
    await wire.append("s", "four")
    assert await seen(watcher, 7) == [(7, APPENDED)]
    again = watch(wire, resumed.position)
    assert await seen(again, 7) == [(5, CREATED), (6, APPENDED), (7, APPENDED)]
    assert [event.seq for event in (await listed(wire, page.position)).events] == [7]
    snapshot = (await watch(wire).read()).snapshot
    assert (snapshot.session.version, snapshot.session.message_count) == (7, 2)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_watcher_of_the_session_before_ends_with_its_deletion(elsewhere: bool) -> None:
    """Also where another replica deletes one and creates the other: then the deletion is not shown, but named."""
    store = MemoryStore()
    async with serving(store, limits=QUICK) as wire:
        for base in (3, 6, 9):
            session = await (wire.create("s") if base == 3 else reuse(wire))
            await wire.append("s", "one")
            watcher, beginner = watch(wire), watch(wire, from_beginning=True)
            assert (await watcher.read()).snapshot.session.version == base - 1
            await seen(beginner, base - 1)
            if elsewhere:
                await accepted(store, CALLER.delete("s"), CALLER.create("s", reuse=True))
                await accepted(store, CALLER.append("s", "of the next"))
                for each in (watcher, beginner):
                    assert await ending(each) in (["end", (base, DELETED)], ["POSITION_COMPACTED"])
                await accepted(store, CALLER.delete("s"))
                return
            await delete(wire)
            await asyncio.gather(*(_ends(each, base) for each in (watcher, beginner)))
            assert session.base_version == base - 3


async def _ends(watcher: Watch, last: int) -> None:
    assert await seen(watcher, last) == [(last, DELETED)]
    assert await watcher.read() is None


async def ending(watcher: Watch) -> list[Any]:
    """What comes of a watch: its events, and how it ends."""
    found: list[Any] = []
    try:
        while (frame := await watcher.read()) is not None:
            found += [(event.seq, event.type) for event in frame.events.events]
    except Failure as failure:
        return [*found, failure.reason]
    return ["end", *found]


async def test_a_feed_shows_one_life_after_the_other(wire: Wire) -> None:
    await positions(wire)
    feed = wire.watch("WatchEvents", e.WatchEventsRequest(start=e.FeedStart.FEED_START_BEGINNING))
    assert (await feed.read()).HasField("resumed")
    frame = await feed.read()
    position = frame.events.position
    assert [(event.seq, event.type) for event in frame.events.events] == [(4, DELETED)]
    await reuse(wire)
    assert [(event.seq, event.type) for event in (await feed.read()).events.events] == [(5, CREATED)]
    resumed = wire.watch("WatchEvents", e.WatchEventsRequest(position=position))
    assert (await resumed.read()).HasField("resumed")
    assert [(event.seq, event.type) for event in (await resumed.read()).events.events] == [(5, CREATED)]
