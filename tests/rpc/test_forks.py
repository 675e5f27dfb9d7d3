"""Forks through a real channel: what clients and watchers of a fork see."""

import asyncio
from typing import Any

from sessiond.v1 import context_service_pb2 as x
from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import fold
from tests.support.wire import ALICE, BOB, Wire

FORKED = EventType.EVENT_TYPE_SESSION_FORKED
REDACTED = EventType.EVENT_TYPE_MESSAGE_REDACTED


async def fork(wire: Wire, session_id: str, fork_id: str, **fields: object) -> Session:
    request = s.ForkSessionRequest(session_id=session_id, fork_session_id=fork_id, **fields)  # type: ignore[arg-type]
    answer: Session = await wire.call("ForkSession", request)
    return answer


async def test_watcher_from_the_beginning_sees_the_shared_events_and_goes_on_from_any_position(wire: Wire) -> None:
    await wire.create("p")
    await wire.append("p", "one", "two", "three")
    made = await fork(wire, "p", "f", seq=3)
    await wire.append("f", "other")
    watcher = wire.watch("WatchSession", e.WatchSessionRequest(session_id="f", from_beginning=True))
    events: list[Any] = []
    positions: dict[int, str] = {}
    while not events or events[-1].seq < 5:
        frame = await watcher.read()
        if frame.HasField("events"):
            events += frame.events.events
            positions[events[-1].seq] = frame.events.position
    assert [event.seq for event in events] == [1, 2, 3, 4, 5]
    assert events[3].type == FORKED
    assert {event.session_id for event in events} == {"f"}
    state = Session()
    for event in events:
        state = fold.fold(state, event)
    assert state == await wire.call("GetSession", s.GetSessionRequest(session_id="f"))
    assert made.forked_from.event_id == events[2].event_id
    listed = await wire.call("ListEvents", e.ListEventsRequest(session_id="f", page_size=2))
    assert [event.seq for event in listed.events] == [1, 2]
    resumed = wire.watch("WatchSession", e.WatchSessionRequest(session_id="f", position=listed.position))
    seen: list[int] = []
    while not seen or seen[-1] < 5:
        frame = await resumed.read()
        if frame.HasField("events"):
            seen += [event.seq for event in frame.events.events]
    assert seen == [3, 4, 5]


async def test_watchers_of_every_branch_are_told_of_a_redaction_before_it_is_acknowledged(wire: Wire) -> None:
    await wire.create("p")
    await wire.append("p", "secret")
    await fork(wire, "p", "f")
    await fork(wire, "f", "g")
    page = await wire.call("ListMessages", m.ListMessagesRequest(session_id="g"))
    message_id = page.messages[0].message_id
    watchers = [
        wire.watch("WatchSession", e.WatchSessionRequest(session_id=name, from_beginning=True))
        for name in ("p", "f", "g")
    ]
    for watcher in watchers:  # the rings of all three have the content
        while not (frame := await watcher.read()).HasField("events"):
            continue
        assert frame.events.events[0].seq == 1
    await wire.call("RedactMessage", m.RedactMessageRequest(session_id="f", message_id=message_id, reason="asked"))
    for name in ("p", "f", "g"):
        again = wire.watch("WatchSession", e.WatchSessionRequest(session_id=name, from_beginning=True))
        events: list[object] = []
        while not events or events[-1].type != REDACTED:  # type: ignore[attr-defined]
            frame = await again.read()
            assert b"secret" not in frame.SerializeToString()
            events += frame.events.events
    for watcher in watchers:
        async with asyncio.timeout(10):
            while True:
                frame = await watcher.read()
                if any(event.type == REDACTED for event in frame.events.events):
                    break


async def test_contexts_and_lists_reach_through_forks(wire: Wire) -> None:
    await wire.create("p")
    await wire.append("p", "one", "two")
    for number in range(3):
        await fork(wire, f"f{number - 1}" if number else "p", f"f{number}")
        await wire.append(f"f{number}", f"{number}")
    context = await wire.call("GetContext", x.GetContextRequest(session_id="f2"))
    assert [one.parts[0].text for one in context.messages] == ["one", "two", "0", "1", "2"]
    earlier = await wire.call("GetContext", x.GetContextRequest(session_id="f2", as_of_seq=4))
    assert [one.parts[0].text for one in earlier.messages] == ["one", "two"]
    forks = await wire.call("ListForks", s.ListForksRequest(session_id="p"))
    assert [one.session_id for one in forks.sessions] == ["f0"]


async def test_bound_keys_fork_sessions_of_their_user_only(wire: Wire) -> None:
    await wire.create("alice~s", user_id="alice")
    request = s.ForkSessionRequest(session_id="alice~s")
    made = await wire.call("ForkSession", request, key=ALICE)
    assert made.user_id == "alice"
    failure = await wire.failure("ForkSession", request, key=BOB)
    assert failure.reason == "SESSION_NOT_FOUND"
    failure = await wire.failure("ListForks", s.ListForksRequest(session_id="alice~s"), key=BOB)
    assert failure.reason == "SESSION_NOT_FOUND"


async def test_retry_of_a_fork_without_an_id_finds_the_first_one(wire: Wire) -> None:
    await wire.create("p")
    request = s.ForkSessionRequest(session_id="p", request_id="once", session=Session(name="猫🐈"))
    first, again = [await wire.call("ForkSession", request) for _ in range(2)]
    assert first == again
    assert (first.name, first.version) == ("猫🐈", 2)
