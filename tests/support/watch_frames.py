"""Logs of sessions as a service would send them, and the frames that carry them."""

from google.protobuf.message import Message

import sessiond
from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.event_service_pb2 import (
    Bookmark,
    Delta,
    DeltaBatch,
    EventBatch,
    GoingAway,
    Resumed,
    Snapshot,
    WatchEventsResponse,
    WatchSessionResponse,
)
from sessiond.v1.session_pb2 import Session

APPENDED = EventType.EVENT_TYPE_MESSAGE_APPENDED
CREATED = EventType.EVENT_TYPE_SESSION_CREATED
DELETED = EventType.EVENT_TYPE_SESSION_DELETED


def event(seq: int, *, session_id: str = "s", history: str = "a", type: EventType.ValueType | None = None) -> Event:
    """One of a log; logs of different histories differ in every event."""
    kind = type or (CREATED if seq == 1 else APPENDED)
    previous = f"{history}{seq - 1}" if seq > 1 else ""
    return Event(seq=seq, session_id=session_id, event_id=f"{history}{seq}", previous_event_id=previous, type=kind)


def position(seq: int) -> str:
    return f"after {seq}"


def snapshot(seq: int, *, history: str = "a") -> WatchSessionResponse:
    session = Session(session_id="s", version=seq, last_event_id=f"{history}{seq}")
    return WatchSessionResponse(snapshot=Snapshot(session=session, position=position(seq)))


def resumed(seq: int, head: int = 0) -> WatchSessionResponse:
    return WatchSessionResponse(resumed=Resumed(position=position(seq), head_seq=head or seq))


def batch(*events: Event | int, head: int = 0) -> WatchSessionResponse:
    """Numbers stand for events of the log."""
    listed = [event(each) if isinstance(each, int) else each for each in events]
    last = listed[-1].seq
    return WatchSessionResponse(events=EventBatch(events=listed, position=position(last), head_seq=head or last))


def bookmark(seq: int) -> WatchSessionResponse:
    """With a proof; others say only where the reader is."""
    frame = WatchSessionResponse(bookmark=Bookmark(position=position(seq), head_seq=seq))
    frame.bookmark.read_time.seconds = 1
    return frame


def going_away(seq: int) -> WatchSessionResponse:
    return WatchSessionResponse(going_away=GoingAway(position=position(seq)))


def deltas(*texts: str) -> WatchSessionResponse:
    return WatchSessionResponse(deltas=DeltaBatch(deltas=[Delta(message_id="m", text=text) for text in texts]))


def of_feed(frame: WatchSessionResponse, at: str = "") -> Message:
    """The same for a tenant-wide feed: with a position of its own, and no heads."""
    which = frame.WhichOneof("frame")
    assert which is not None
    told = WatchEventsResponse()
    getattr(told, which).CopyFrom(getattr(frame, which))
    inner = getattr(told, which)
    if at:
        inner.position = at
    if which != "going_away":
        inner.head_seq = 0
    return told


async def seqs(watch: "sessiond.Watch[sessiond.Event]", count: int) -> list[int]:
    return [(await anext(watch)).seq for _ in range(count)]
