"""Builds the frames of streams from stored bytes, so that no event is parsed on its way to a subscriber.

A frame for all streams at one position with one filter is built once and kept with the batch.
"""

from collections.abc import Callable, Sequence
from typing import Final

from sessiond.v1.event_service_pb2 import (
    Bookmark,
    DeltaBatch,
    EventBatch,
    GoingAway,
    Resumed,
    Snapshot,
    WatchEventsResponse,
    WatchSessionResponse,
)
from sessiond_server.domain import encoding
from sessiond_server.domain.commands import SessionSnapshot
from sessiond_server.domain.log import LogEntry
from sessiond_server.domain.times import set_timestamp
from sessiond_server.events.contract import (
    Batch,
    CaughtUp,
    Cursor,
    FeedBatch,
    FeedCursor,
    FeedStream,
    ReceivedDeltas,
    SessionStream,
)
from sessiond_server.rpc.events.filters import DELETED, FeedSelection, SessionSelection
from sessiond_server.rpc.events.positions import FeedPositions, SessionPositions

_EVENT: Final = encoding.tag(EventBatch.EVENTS_FIELD_NUMBER)
_DELTA: Final = encoding.tag(DeltaBatch.DELTAS_FIELD_NUMBER)
_SNAPSHOT_SESSION: Final = encoding.tag(Snapshot.SESSION_FIELD_NUMBER)
_SESSION_EVENTS: Final = encoding.tag(WatchSessionResponse.EVENTS_FIELD_NUMBER)
_SESSION_SNAPSHOT: Final = encoding.tag(WatchSessionResponse.SNAPSHOT_FIELD_NUMBER)
_SESSION_DELTAS: Final = encoding.tag(WatchSessionResponse.DELTAS_FIELD_NUMBER)
_FEED_EVENTS: Final = encoding.tag(WatchEventsResponse.EVENTS_FIELD_NUMBER)

_SESSION_POSITION: Final = encoding.tag(WatchSessionResponse.POSITION_FIELD_NUMBER)
_FEED_POSITION: Final = encoding.tag(WatchEventsResponse.POSITION_FIELD_NUMBER)

FRAMES_KEPT: Final = 64
FRAME_BYTES_KEPT: Final = 8 * 1024 * 1024
"""Most frames of one batch that are kept for other streams, and most bytes of them. For further filters, each stream
builds its own frames: a batch outlives its delivery, and watchers may use any number of filters."""


class SessionFrames:
    """The frames for one watcher of a session."""

    __slots__ = ("_positions", "_selection", "_stream", "ended")

    def __init__(self, stream: SessionStream, positions: SessionPositions, selection: SessionSelection) -> None:
        self._stream = stream
        self._positions = positions
        self._selection = selection
        self.ended = False
        """Whether the last frame has the session's deletion, after which nothing follows."""

    @property
    def cursor(self) -> Cursor:
        """The cursor after the last frame of `next`."""
        return self._stream.cursor

    def first(self, snapshot: SessionSnapshot | None) -> bytes:
        """The first frame of the stream."""
        position = self.position(self.cursor)
        if snapshot is None:
            resumed = Resumed(position=position, head_seq=self._stream.head_seq)
            return WatchSessionResponse(resumed=resumed, position=position).SerializeToString()
        session = encoding.field(_SNAPSHOT_SESSION, snapshot.core + snapshot.content)
        frame = encoding.field(_SESSION_SNAPSHOT, session + Snapshot(position=position).SerializeToString())
        return frame + encoding.field(_SESSION_POSITION, position.encode())

    async def next(self) -> bytes:
        """The frame with the next events; empty if the filter selects none of them. Raises as SessionStream.next."""
        item = await self._stream.next()
        if isinstance(item, CaughtUp):
            return self.bookmark(item)
        if isinstance(item, ReceivedDeltas):
            # Nearly always all streams are at one cursor.
            return _once(item.frames, (self._positions.binding, self.cursor), lambda: self._deltas(item))
        self.ended = item.entries[-1].type == DELETED
        return _once(item.frames, self._positions.binding, lambda: self._events(item))

    def bookmark(self, read: CaughtUp | None = None) -> bytes:
        """A bookmark. `read` is the read that proves it; None: the events that were read and skipped are the proof."""
        position = self.position(self.cursor)
        bookmark = Bookmark(position=position, head_seq=self._stream.head_seq)
        if read is not None:
            set_timestamp(bookmark.read_time, read.read_time_us)
        return WatchSessionResponse(bookmark=bookmark, position=position).SerializeToString()

    def going_away(self, at: Cursor) -> bytes:
        position = self.position(at)
        return WatchSessionResponse(going_away=GoingAway(position=position), position=position).SerializeToString()

    def position(self, at: Cursor) -> str:
        return self._positions.seal(at)

    def _events(self, batch: Batch) -> bytes:
        entries = self._selection.of(batch.entries)
        last = batch.entries[-1]

        def rest() -> EventBatch:
            return EventBatch(position=self.position(Cursor(last.seq, last.event_id)), head_seq=batch.head_seq)

        return _event_batch(_SESSION_EVENTS, entries, rest, _SESSION_POSITION)

    def _deltas(self, item: ReceivedDeltas) -> bytes:
        frame = encoding.field(_SESSION_DELTAS, encoding.repeated(_DELTA, item.data))
        return frame + encoding.field(_SESSION_POSITION, self.position(self.cursor).encode())


class FeedFrames:
    """The frames for one watcher of a tenant's feed."""

    __slots__ = ("_positions", "_selection", "_stream")

    ended: Final = False

    def __init__(self, stream: FeedStream, positions: FeedPositions, selection: FeedSelection) -> None:
        self._stream = stream
        self._positions = positions
        self._selection = selection

    @property
    def cursor(self) -> FeedCursor:
        """As of SessionFrames."""
        return self._stream.cursor

    def first(self) -> bytes:
        """The first frame of the stream."""
        position = self.position(self.cursor)
        return WatchEventsResponse(resumed=Resumed(position=position), position=position).SerializeToString()

    async def next(self) -> bytes:
        """As of SessionFrames. Raises as FeedStream.next."""
        item = await self._stream.next()
        if isinstance(item, CaughtUp):
            return self.bookmark(item)
        return _once(item.frames, self._positions.binding, lambda: self._events(item))

    def bookmark(self, read: CaughtUp | None = None) -> bytes:
        """As of SessionFrames."""
        position = self.position(self.cursor)
        bookmark = Bookmark(position=position)
        if read is not None:
            set_timestamp(bookmark.read_time, read.read_time_us)
        return WatchEventsResponse(bookmark=bookmark, position=position).SerializeToString()

    def going_away(self, at: FeedCursor) -> bytes:
        position = self.position(at)
        return WatchEventsResponse(going_away=GoingAway(position=position), position=position).SerializeToString()

    def position(self, at: FeedCursor) -> str:
        return self._positions.seal(at)

    def _events(self, batch: FeedBatch) -> bytes:
        entries = [event.entry for event in self._selection.of(batch.entries)]

        # All streams that share the batch have read it completely, so they share the position after its last event.
        def rest() -> EventBatch:
            return EventBatch(position=self.position(self.cursor))

        return _event_batch(_FEED_EVENTS, entries, rest, _FEED_POSITION)


def _once(frames: dict[object, bytes], key: object, make: Callable[[], bytes]) -> bytes:
    frame = frames.get(key)
    if frame is None:
        frame = make()
        if len(frames) < FRAMES_KEPT and sum(map(len, frames.values())) + len(frame) <= FRAME_BYTES_KEPT:
            frames[key] = frame
    return frame


def _event_batch(
    frame_tag: bytes, entries: Sequence[LogEntry], rest: Callable[[], EventBatch], position_tag: bytes
) -> bytes:
    """A frame with the entries; empty if there are none."""
    if not entries:
        return b""
    batch = rest()
    events = encoding.repeated(_EVENT, [entry.data for entry in entries], batch.SerializeToString())
    return encoding.field(frame_tag, events) + encoding.field(position_tag, batch.position.encode())
