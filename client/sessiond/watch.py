"""A watch of one session's events."""

from collections.abc import Callable, Sequence
from typing import cast

from sessiond.chain import Chain, new_events
from sessiond.positions import Saver
from sessiond.subscription import Item, Subscription
from sessiond.tail import Frame, Tail
from sessiond.v1.event_service_pb2 import (
    Bookmark,
    DeltaBatch,
    EventBatch,
    Resumed,
    Snapshot,
    WatchSessionResponse,
)
from sessiond.v1.session_pb2 import Session

SessionFrame = Snapshot | EventBatch | Bookmark | DeltaBatch


class Watch(Subscription[Item, SessionFrame]):
    """One session's events in order, each once, none missing; see Subscription for how it is read and resumed, and
    `Client.watch` for how it is made.

        async with client.watch(session_id) as watch:
            show(watch.snapshot)
            async for event in watch:
                apply(event)

    With deltas its items are Events and Deltas. It ends after the event that says the session was deleted.
    """

    def __init__(
        self,
        open_tail: Callable[[str], Tail[WatchSessionResponse]],
        session_id: str,
        position: str,
        saver: Saver | None,
        *,
        from_beginning: bool,
        contiguous: bool,
    ) -> None:
        super().__init__(position, saver)
        self._open_tail_at = open_tail
        self._session_id = session_id
        self._from_beginning = from_beginning
        self._contiguous = contiguous
        self._chain = Chain(contiguous=contiguous)
        self._snapshot: Session | None = None
        self._head_seq = 0

    @property
    def session_id(self) -> str:
        return self._session_id

    @property
    def snapshot(self) -> Session | None:
        """The session where the watch began; what follows folds into it (see Event). None before the first frame, and
        for a watch that began at a position or at the beginning."""
        return self._snapshot

    @property
    def seq(self) -> int:
        """The seq of the last event that was received, or of the snapshot until then; 0 where none is known."""
        return self._chain.seq

    @property
    def head_seq(self) -> int:
        """The seq of the session's last event, as far as the service knew; 0 before the first frame."""
        return self._head_seq

    def _open_tail(self, position: str) -> Tail[WatchSessionResponse]:
        if not position and self._from_beginning:
            self._chain.begin(0, "")
        return self._open_tail_at(position)

    def _take(self, frame: Frame) -> Frame | None:
        proof = False
        match frame:
            case Snapshot():
                self._snapshot = frame.session
                self._chain.begin(frame.session.version, frame.session.last_event_id)
                self._head_seq = frame.session.version
            case Resumed():
                self._head_seq = frame.head_seq
            case EventBatch():
                new = new_events(self._chain, frame.events)
                self._head_seq = max(self._head_seq, frame.head_seq, self._chain.seq)
                self._ended = self._chain.over
                if not new:
                    return None
                if len(new) != len(frame.events):
                    frame = EventBatch(events=new, position=frame.position, head_seq=frame.head_seq)
            case Bookmark():
                self._head_seq = max(self._head_seq, frame.head_seq)
                proof = frame.HasField("read_time")
                if proof and self._contiguous:
                    self._chain.prove(frame.head_seq, self._session_id)
            case DeltaBatch():
                return frame
        self._caught_up = proof or self._chain.seq >= self._head_seq
        return frame

    def _items_of(self, frame: Frame) -> Sequence[Item]:
        match frame:
            case EventBatch():
                return cast("Sequence[Item]", frame.events)
            case DeltaBatch():
                return cast("Sequence[Item]", frame.deltas)
        return ()

    def _shown(self, frame: Frame) -> SessionFrame | None:
        return None if isinstance(frame, Resumed) else frame
