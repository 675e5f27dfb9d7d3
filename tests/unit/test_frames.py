"""Frames: their contents, and that watchers with the same position and filter share one."""

from collections.abc import Sequence
from typing import Any

import pytest

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.event_service_pb2 import Delta, WatchEventsResponse, WatchSessionResponse
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import encoding
from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.log import FeedEntry, FeedPlace, LogEntry
from sessiond_server.events.contract import Batch, CaughtUp, Cursor, FeedBatch, FeedCursor, ReceivedDeltas
from sessiond_server.rpc.events.filters import FeedSelection, SessionSelection
from sessiond_server.rpc.events.frames import FRAME_BYTES_KEPT, FRAMES_KEPT, FeedFrames, SessionFrames
from sessiond_server.rpc.events.positions import Positions
from sessiond_server.rpc.seals import Seal

POSITIONS = Positions(b"k" * 32)
SCOPE = Scope("acme")
APPENDED = EventType.EVENT_TYPE_MESSAGE_APPENDED
UPDATED = EventType.EVENT_TYPE_SESSION_UPDATED
DELETED = EventType.EVENT_TYPE_SESSION_DELETED

Item = Batch | CaughtUp | ReceivedDeltas


class Stream:
    """Gives what it was made with, and moves as a hub's stream does."""

    def __init__(self, *items: Item) -> None:
        self.cursor = Cursor(1, "e1")
        self.head_seq = 1
        self._items = iter(items)

    async def next(self) -> Item:
        item = next(self._items)
        if isinstance(item, Batch):
            last = item.entries[-1]
            self.cursor, self.head_seq = Cursor(last.seq, last.event_id), item.head_seq
        return item

    def shorten_silence(self, seconds: float) -> None:
        """Has no silence: what it gives is there already."""


class Feed:
    def __init__(self, *items: FeedBatch | CaughtUp) -> None:
        self.cursor = FeedCursor(FeedPlace(0, "", 0), ())
        self._items = iter(items)

    async def next(self) -> FeedBatch | CaughtUp:
        item = next(self._items)
        if isinstance(item, FeedBatch):
            last = item.entries[-1]
            self.cursor = FeedCursor(last.place, ((last.place, last.entry.event_id),))
        return item

    def shorten_silence(self, seconds: float) -> None:
        """Has no silence: what it gives is there already."""


def entry(seq: int, kind: EventType.ValueType = APPENDED, size: int = 0) -> LogEntry:
    data = Event(seq=seq, session_id="s", event_id=f"e{seq}", type=kind, actor="x" * size).SerializeToString()
    return LogEntry(seq, f"e{seq}", f"e{seq - 1}", kind, data)


def batch(*entries: LogEntry, head_seq: int = 9) -> Batch:
    return Batch(entries, head_seq)


def frames(*items: Item, types: Sequence[int] = (), scope: Scope = SCOPE) -> SessionFrames:
    selection = SessionSelection(frozenset(types))
    return SessionFrames(Stream(*items), POSITIONS.of_session(scope, "s", selection), selection)


def feed(*items: FeedBatch | CaughtUp, selection: FeedSelection | None = None) -> FeedFrames:
    selection = selection or FeedSelection()
    return FeedFrames(Feed(*items), POSITIONS.of_feed(SCOPE, selection), selection)


def opened(position: str, types: Sequence[int] = ()) -> Cursor | None:
    return POSITIONS.of_session(SCOPE, "s", SessionSelection(frozenset(types))).open(position)


def said(frame: bytes) -> WatchSessionResponse:
    """Parsed; and its bytes are those that a client's would be, so that nothing is in it twice."""
    response = WatchSessionResponse.FromString(frame)
    assert sorted(response.SerializeToString()) == sorted(frame)
    within = getattr(response, response.WhichOneof("frame") or "")
    assert response.position
    assert response.position == getattr(within, "position", response.position)
    return response


def test_a_stream_begins_with_the_snapshot() -> None:
    core = Session(session_id="s", version=1, last_event_id="e1").SerializeToString()
    content = Session(summary="so far").SerializeToString()
    snapshot = said(frames().first(SessionSnapshot(1, core, content))).snapshot
    assert (snapshot.session.session_id, snapshot.session.version, snapshot.session.summary) == ("s", 1, "so far")
    assert opened(snapshot.position) == Cursor(1, "e1")


def test_stream_from_a_position_begins_with_resumed() -> None:
    resumed = said(frames().first(None)).resumed
    assert (opened(resumed.position), resumed.head_seq) == (Cursor(1, "e1"), 1)
    start = WatchEventsResponse.FromString(feed().first()).resumed
    assert POSITIONS.of_feed(SCOPE, FeedSelection()).open(start.position) == FeedCursor(FeedPlace(0, "", 0), ())


@pytest.mark.parametrize("size", [0, 200, 20_000])
async def test_events_are_passed_on_as_they_are(size: int) -> None:
    entries = [entry(2, size=size), entry(3, UPDATED)]
    events = said(await frames(batch(*entries, head_seq=5)).next()).events
    assert [event.SerializeToString() for event in events.events] == [one.data for one in entries]
    assert (opened(events.position), events.head_seq) == (Cursor(3, "e3"), 5)


async def test_filtered_events_still_move_the_position() -> None:
    watcher = frames(batch(entry(2, UPDATED), entry(3), entry(4, UPDATED)), batch(entry(5, UPDATED)), types=[APPENDED])
    events = said(await watcher.next()).events
    assert [event.seq for event in events.events] == [3]
    assert opened(events.position, [APPENDED]) == Cursor(4, "e4")
    assert await watcher.next() == b""
    bookmark = said(watcher.bookmark()).bookmark
    assert (opened(bookmark.position, [APPENDED]), bookmark.head_seq) == (Cursor(5, "e5"), 9)
    assert not bookmark.HasField("read_time"), "the log was read, at no time that is known"


async def test_a_deletion_ends_the_stream_whatever_the_filter() -> None:
    watcher = frames(batch(entry(2)), batch(entry(7, DELETED)), types=[UPDATED])
    assert (await watcher.next(), watcher.ended) == (b"", False)
    events = said(await watcher.next()).events
    assert [event.seq for event in events.events] == [7]
    assert watcher.ended


async def test_a_bookmark_says_when_the_store_was_read() -> None:
    bookmark = said(await frames(CaughtUp(1_500_000)).next()).bookmark
    assert (bookmark.read_time.seconds, bookmark.read_time.nanos) == (1, 500_000_000)
    assert (opened(bookmark.position), bookmark.head_seq) == (Cursor(1, "e1"), 1)
    of_feed = WatchEventsResponse.FromString(await feed(CaughtUp(2_000_000)).next()).bookmark
    assert of_feed.read_time.seconds == 2


async def test_deltas_are_passed_on_as_they_are() -> None:
    deltas = [Delta(message_id="m", text="a"), Delta(message_id="m", text="b", offset=1)]
    passed = ReceivedDeltas([delta.SerializeToString() for delta in deltas])
    watcher, other = frames(passed), frames(passed, types=[UPDATED])
    first = await watcher.next()
    assert list(said(first).deltas.deltas) == deltas
    assert opened(said(first).position) == watcher.cursor == Cursor(1, "e1")
    filtered = said(await other.next())
    assert list(filtered.deltas.deltas) == deltas
    assert opened(filtered.position, [UPDATED]) == Cursor(1, "e1")
    assert await frames(passed).next() is first, "one frame for all streams with one filter at one cursor"


def test_going_away_carries_the_position() -> None:
    assert opened(said(frames().going_away(Cursor(1, "e1"))).going_away.position) == Cursor(1, "e1")
    assert opened(frames().position(Cursor(2, "e2"))) == Cursor(2, "e2")
    away = WatchEventsResponse.FromString(feed().going_away(feed().cursor)).going_away
    assert POSITIONS.of_feed(SCOPE, FeedSelection()).open(away.position) == feed().cursor


class Counted:
    """Counts the calls of a function that it stands in for."""

    def __init__(self, patch: pytest.MonkeyPatch, where: object, name: str) -> None:
        self.calls = 0
        original = getattr(where, name)

        def counting(*arguments: Any) -> Any:
            self.calls += 1
            return original(*arguments)

        patch.setattr(where, name, counting)


async def test_frame_of_a_batch_is_built_once_for_a_hundred_watchers(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, sealed = Counted(monkeypatch, encoding, "repeated"), Counted(monkeypatch, Seal, "seal")
    shared = batch(entry(2), entry(3))
    delivered = [await frames(shared).next() for _ in range(100)]
    assert all(frame is delivered[0] for frame in delivered)
    assert (joined.calls, sealed.calls) == (1, 1)
    filtered = [await frames(shared, types=[UPDATED]).next() for _ in range(100)]
    assert (filtered, joined.calls, sealed.calls) == ([b""] * 100, 1, 1)


async def test_another_user_or_filter_gets_a_frame_with_a_position_of_its_own() -> None:
    shared = batch(entry(2), entry(3))
    whole = said(await frames(shared).next()).events
    alices = said(await frames(shared, scope=Scope("acme", "alice")).next()).events
    filtered = said(await frames(shared, types=[APPENDED]).next()).events
    assert whole.events == alices.events == filtered.events
    assert len({whole.position, alices.position, filtered.position}) == 3


@pytest.mark.parametrize(
    ("size", "filters", "kept"), [(0, FRAMES_KEPT + 9, FRAMES_KEPT), (FRAME_BYTES_KEPT // 4, 5, 3)]
)
async def test_number_of_frames_cached_per_batch_is_bounded(size: int, filters: int, kept: int) -> None:
    shared = batch(entry(2, size=size))
    first, again = [
        [await frames(shared, scope=Scope("acme", f"user-{number}")).next() for number in range(filters)]
        for _ in range(2)
    ]
    assert first == again
    assert len(set(first)) == filters
    assert len(shared.frames) == kept


def feed_batch(*sessions: str) -> FeedBatch:
    return FeedBatch(
        [
            FeedEntry(FeedPlace(10 + number, session_id, 2), entry(2), "u", f"agent-{session_id}", {})
            for number, session_id in enumerate(sessions)
        ]
    )


async def test_filtered_feed_moves_its_position_past_all_events_read() -> None:
    selection = FeedSelection(agent_id="agent-a")
    watcher = feed(feed_batch("a", "b"), feed_batch("b"), selection=selection)
    events = WatchEventsResponse.FromString(await watcher.next()).events
    assert (len(events.events), events.head_seq) == (1, 0)
    cursor = POSITIONS.of_feed(SCOPE, selection).open(events.position)
    assert cursor is not None
    assert cursor.place == FeedPlace(11, "b", 2)
    assert cursor.anchors == ((FeedPlace(11, "b", 2), "e2"),)
    assert await watcher.next() == b""
    assert not watcher.ended
    bookmark = WatchEventsResponse.FromString(watcher.bookmark()).bookmark
    assert POSITIONS.of_feed(SCOPE, selection).open(bookmark.position) == watcher.cursor


async def test_frame_of_a_feed_batch_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, sealed = Counted(monkeypatch, encoding, "repeated"), Counted(monkeypatch, Seal, "seal")
    shared = feed_batch("a", "b")
    delivered = [await feed(shared).next() for _ in range(100)]
    assert all(frame is delivered[0] for frame in delivered)
    assert (joined.calls, sealed.calls) == (1, 1)
