"""A watch of the events of all sessions of a tenant."""

from collections.abc import Callable, Sequence

from sessiond.chain import Chains, new_events
from sessiond.positions import Saver
from sessiond.subscription import Subscription
from sessiond.tail import Frame, Tail
from sessiond.v1.event_pb2 import Event
from sessiond.v1.event_service_pb2 import Bookmark, EventBatch, WatchEventsResponse

FeedFrame = EventBatch | Bookmark


class Feed(Subscription[Event, FeedFrame]):
    """A tenant's events in commit order, each once, none missing; see Subscription for how it is read and resumed, and
    `Client.watch_events` for how it is made. It does not end by itself.

        async with client.watch_events(store=sessiond.FilePositions("indexer.position")) as feed:
            async for event in feed:
                index(event)

    The order of each session's events is checked for the 4 096 sessions that were active last.
    """

    def __init__(
        self,
        open_tail: Callable[[str], Tail[WatchEventsResponse]],
        position: str,
        saver: Saver | None,
        *,
        contiguous: bool,
    ) -> None:
        super().__init__(position, saver)
        self._open_tail_at = open_tail
        self._chains = Chains(contiguous=contiguous)

    def _open_tail(self, position: str) -> Tail[WatchEventsResponse]:
        return self._open_tail_at(position)

    def _take(self, frame: Frame) -> Frame | None:
        self._caught_up = isinstance(frame, Bookmark)
        if isinstance(frame, EventBatch):
            new = new_events(self._chains, frame.events)
            if not new:
                return None
            if len(new) != len(frame.events):
                return EventBatch(events=new, position=frame.position)
        return frame

    def _items_of(self, frame: Frame) -> Sequence[Event]:
        return frame.events if isinstance(frame, EventBatch) else ()

    def _shown(self, frame: Frame) -> FeedFrame | None:
        return frame if isinstance(frame, EventBatch | Bookmark) else None
