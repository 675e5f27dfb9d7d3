"""ListEvents: a session's log page by page, with the positions of streams."""

from collections.abc import Sequence
from typing import Any

import pytest
from grpc import StatusCode

from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.event_pb2 import EventType
from sessiond_server.rpc.events import pages as log_pages
from tests.support.wire import Wire

CREATED = EventType.EVENT_TYPE_SESSION_CREATED
TOUCHED = EventType.EVENT_TYPE_SESSION_TOUCHED
DELETED = EventType.EVENT_TYPE_SESSION_DELETED
APPENDED = EventType.EVENT_TYPE_MESSAGE_APPENDED


async def page(wire: Wire, position: str = "", size: int = 0, types: Sequence[Any] = ()) -> Any:
    where = e.SessionEventFilter(types=types)
    request = e.ListEventsRequest(session_id="s", position=position, page_size=size, filter=where)
    return await wire.call("ListEvents", request)


@pytest.fixture
async def log(wire: Wire) -> Wire:
    """`s` at version 7: created, six messages."""
    await wire.create("s")
    for text in "abcdef":
        await wire.append("s", text)
    return wire


async def test_pages_join_without_loss_or_repetition(log: Wire) -> None:
    position, found = "", []
    for size, more in ((2, True), (3, True), (1, True), (5, False)):
        answer = await page(log, position, size)
        assert (answer.more, answer.version) == (more, 7)
        found += [event.seq for event in answer.events]
        position = answer.position
    assert found == [1, 2, 3, 4, 5, 6, 7]
    end = await page(log, position)
    assert (list(end.events), end.more, end.position) == ([], False, position)
    await log.append("s", "g")
    assert [event.seq for event in (await page(log, position)).events] == [8]


async def test_page_that_reaches_the_end_has_no_more(log: Wire) -> None:
    assert not (await page(log, size=7)).more
    assert (await page(log, size=6)).more


async def test_the_default_page_has_fifty(wire: Wire) -> None:
    await wire.create("s")
    await wire.append("s", *["text"] * 60)
    assert [event.seq for event in (await page(wire)).events] == list(range(1, 51))


async def test_filtered_events_still_move_the_position(log: Wire) -> None:
    for _ in range(2):
        await log.call("TouchSession", s.TouchSessionRequest(session_id="s"))
    first = await page(log, size=2, types=[APPENDED])
    assert ([event.seq for event in first.events], first.more) == ([2, 3], True)
    rest = await page(log, first.position, 100, types=[APPENDED])
    assert ([event.seq for event in rest.events], rest.more) == ([4, 5, 6, 7], False)
    await log.append("s", "g")
    assert [event.seq for event in (await page(log, rest.position, types=[APPENDED])).events] == [10]


async def test_page_scans_a_bounded_number_of_events_for_a_rare_type(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_pages, "LOOKED_AT", 4)
    await wire.create("s")
    await wire.append("s", *["text"] * 9)
    await wire.call("TouchSession", s.TouchSessionRequest(session_id="s"))
    position, found, pages = "", [], 0
    while True:
        answer = await page(wire, position, types=[TOUCHED, CREATED])
        found += [event.seq for event in answer.events]
        pages += 1
        assert answer.position not in ("", position)
        position = answer.position
        if not answer.more:
            break
    assert (found, pages) == ([1, 11], 3)


async def test_positions_of_lists_and_streams_are_interchangeable(log: Wire) -> None:
    answer = await page(log, size=5)
    watcher = log.watch("WatchSession", e.WatchSessionRequest(session_id="s", position=answer.position))
    assert (await watcher.read()).resumed.position == answer.position
    batch = (await watcher.read()).events
    assert [event.seq for event in batch.events] == [6, 7]
    assert batch.position == (await page(log)).position
    await log.append("s", "g")
    assert [event.seq for event in (await page(log, batch.position)).events] == [8]


async def test_deleted_session_keeps_its_last_event_for_a_held_position(log: Wire) -> None:
    behind = (await page(log, size=2)).position
    filtered = (await page(log, size=2, types=[CREATED, APPENDED])).position
    await log.call("DeleteSession", s.DeleteSessionRequest(session_id="s"))
    for position, types in ((behind, []), (filtered, [CREATED, APPENDED])):
        last = await page(log, position, types=types)
        assert [(event.seq, event.type) for event in last.events] == [(8, DELETED)]
        assert (last.more, last.version) == (False, 8)
        end = await page(log, last.position, types=types)
        assert (list(end.events), end.more, end.position) == ([], False, last.position)
    failure = await log.failure("ListEvents", e.ListEventsRequest(session_id="s"))
    assert (failure.code, failure.reason) == (StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


async def test_a_page_obeys_the_limit_of_bytes(wire: Wire) -> None:
    await wire.create("s")
    for _ in range(5):
        await wire.append("s", "x" * 900_000)
    position, found = "", []
    while True:
        answer = await page(wire, position)
        assert answer.ByteSize() < 4 * 1024 * 1024
        found.append([event.seq for event in answer.events])
        position = answer.position
        if not answer.more:
            break
    assert found == [[1, 2, 3, 4], [5, 6]]
