"""The client's methods for events."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, overload

from google.protobuf.duration_pb2 import Duration

from sessiond.connection import Connection
from sessiond.feed import Feed
from sessiond.fields import EventTypeLike, ViewLike, duration, enum_value
from sessiond.options import Reconnect
from sessiond.pages import EventPages
from sessiond.positions import PositionStore, Saver
from sessiond.tail import Tail
from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.event_service_pb2 import (
    Delta,
    FeedFilter,
    FeedStart,
    ListEventsRequest,
    ListEventsResponse,
    PublishDeltaRequest,
    SessionEventFilter,
    WatchEventsRequest,
    WatchEventsResponse,
    WatchSessionRequest,
    WatchSessionResponse,
)
from sessiond.v1.session_pb2 import SessionView
from sessiond.watch import Watch


class EventCalls:
    """EventService; see `Client` for what all methods have in common."""

    _connection: Connection
    _reconnect: Reconnect

    @overload
    def watch(
        self,
        session_id: str,
        *,
        position: str | None = None,
        deltas: Literal[False] = False,
        types: Iterable[EventTypeLike] = (),
        from_beginning: bool = False,
        view: ViewLike = "full",
        store: PositionStore | None = None,
        save_events: int = 1000,
        save_seconds: float = 1.0,
        idle_timeout: float | None = None,
        give_up_after: float | None = None,
        bookmark_interval: float | None = None,
    ) -> Watch[Event]: ...

    @overload
    def watch(
        self,
        session_id: str,
        *,
        position: str | None = None,
        deltas: bool,
        types: Iterable[EventTypeLike] = (),
        from_beginning: bool = False,
        view: ViewLike = "full",
        store: PositionStore | None = None,
        save_events: int = 1000,
        save_seconds: float = 1.0,
        idle_timeout: float | None = None,
        give_up_after: float | None = None,
        bookmark_interval: float | None = None,
    ) -> Watch[Event | Delta]: ...

    def watch(
        self,
        session_id: str,
        *,
        position: str | None = None,
        deltas: bool = False,
        types: Iterable[EventTypeLike] = (),
        from_beginning: bool = False,
        view: ViewLike = "full",
        store: PositionStore | None = None,
        save_events: int = 1000,
        save_seconds: float = 1.0,
        idle_timeout: float | None = None,
        give_up_after: float | None = None,
        bookmark_interval: float | None = None,
    ) -> Watch[Event] | Watch[Event | Delta]:
        """Watches a session's events, for `async for`; see Watch. The watch connects when it is first read.

        It begins with a snapshot of the session (`view` says which fields) and continues with the events after that.
        With a `position` it begins after the position, with `from_beginning` at the first event. `types`, such as
        "message_appended", selects events; the deletion is always yielded. A position is valid with the same `types`
        only. With `deltas` the watch yields deltas, which are not stored, too.

        With a `store` it begins at the stored position, if there is one, and saves the position of the processed
        events: the first one at once, then after `save_events` events or `save_seconds` seconds, and at the end.
        `idle_timeout`, `give_up_after` and `bookmark_interval` override those of the client's `reconnect`.

        Raises, when it is read: SessionNotFound, InvalidPosition, PositionLost, PositionCompacted.
        """
        reconnect = self._reconnecting(idle_timeout, give_up_after, bookmark_interval)
        request = WatchSessionRequest(
            session_id=session_id,
            filter=_session_filter(types),
            deltas=deltas,
            view=enum_value(SessionView.DESCRIPTOR, view),
            bookmark_interval=_silence(reconnect),
        )

        def open_tail(position: str) -> Tail[WatchSessionResponse]:
            return Tail(
                lambda at: self._connection.stream(
                    lambda stubs: stubs.events.WatchSession, _at(request, at, from_beginning=from_beginning and not at)
                ),
                self._connection.end,
                position,
                reconnect,
            )

        saver = _saver(store, save_events, save_seconds, position)
        return Watch(
            open_tail,
            session_id,
            position or "",
            saver,
            from_beginning=from_beginning,
            contiguous=not request.filter.types,
        )

    def watch_events(
        self,
        *,
        position: str | None = None,
        from_beginning: bool = False,
        session_ids: Iterable[str] = (),
        agent_id: str = "",
        user_id: str = "",
        labels: Mapping[str, str] | None = None,
        types: Iterable[EventTypeLike] = (),
        store: PositionStore | None = None,
        save_events: int = 1000,
        save_seconds: float = 1.0,
        idle_timeout: float | None = None,
        give_up_after: float | None = None,
        bookmark_interval: float | None = None,
    ) -> Feed:
        """Watches the events of all sessions of the tenant, for `async for`; see Feed. The feed connects when it is
        first read.

        It begins with the events that are committed after its first frame (as a context manager it has received that
        frame when the block is entered). With a `position` it begins after the position, with `from_beginning` at the
        oldest stored event. An event must match all given filters; a position is valid with the same filters only.
        `store` and the other parameters are those of `watch`.

        Raises, when it is read: InvalidPosition, PositionLost, PositionCompacted.
        """
        where = FeedFilter(
            session_ids=session_ids, agent_id=agent_id, user_id=user_id, labels=labels, types=_types(types)
        )
        reconnect = self._reconnecting(idle_timeout, give_up_after, bookmark_interval)
        request = WatchEventsRequest(
            start=FeedStart.FEED_START_BEGINNING if from_beginning else FeedStart.FEED_START_NOW,
            filter=where,
            bookmark_interval=_silence(reconnect),
        )

        def open_tail(position: str) -> Tail[WatchEventsResponse]:
            return Tail(
                lambda at: self._connection.stream(lambda stubs: stubs.events.WatchEvents, _feed_at(request, at)),
                self._connection.end,
                position,
                reconnect,
            )

        saver = _saver(store, save_events, save_seconds, position)
        contiguous = not (where.types or agent_id or user_id or where.labels)
        return Feed(open_tail, position or "", saver, contiguous=contiguous)

    def list_events(
        self,
        session_id: str,
        *,
        position: str | None = None,
        types: Iterable[EventTypeLike] = (),
        page_size: int = 0,
        timeout: float | None = None,
    ) -> EventPages:
        """Lists a session's stored events, from the first one or after a position of this session and these `types`,
        for `async for`; see Pages.

        `page_size` 0 means 50; the maximum is 1000. `timeout` applies to each page. Raises, when it is read:
        SessionNotFound, InvalidPosition, PositionLost, PositionCompacted.
        """
        selected = _session_filter(types)

        async def fetch(at: str) -> ListEventsResponse:
            request = ListEventsRequest(session_id=session_id, position=at, filter=selected, page_size=page_size)
            return await self._connection.call(self._connection.events.ListEvents, request, timeout)

        return EventPages(fetch, lambda page: page.events, position or "")

    async def publish_delta(self, session_id: str, deltas: Iterable[Delta], *, timeout: float | None = None) -> None:
        """Publishes 1 to 64 deltas to the watchers of the session that ask for deltas. They are not stored and may be
        lost; a Draft publishes them by itself. Raises SessionNotFound, SessionNotActive, SessionEnded."""
        request = PublishDeltaRequest(session_id=session_id, deltas=deltas)
        await self._connection.call(self._connection.events.PublishDelta, request, timeout)

    def _reconnecting(
        self, idle_timeout: float | None, give_up_after: float | None, bookmark_interval: float | None
    ) -> Reconnect:
        given: dict[str, Any] = {
            "idle_timeout": idle_timeout, "give_up_after": give_up_after, "bookmark_interval": bookmark_interval,
        }  # fmt: skip
        return replace(self._reconnect, **{name: value for name, value in given.items() if value is not None})


def _silence(reconnect: Reconnect) -> Duration | None:
    return None if reconnect.bookmark_interval is None else duration(reconnect.bookmark_interval)


def _at(request: WatchSessionRequest, position: str, *, from_beginning: bool) -> WatchSessionRequest:
    placed = WatchSessionRequest(position=position, from_beginning=from_beginning)
    placed.MergeFrom(request)
    return placed


def _feed_at(request: WatchEventsRequest, position: str) -> WatchEventsRequest:
    placed = WatchEventsRequest(position=position)
    placed.MergeFrom(request)
    return placed


def _types(types: Iterable[EventTypeLike]) -> Sequence[EventType.ValueType]:
    return [enum_value(EventType.DESCRIPTOR, each) for each in types]


def _session_filter(types: Iterable[EventTypeLike]) -> SessionEventFilter | None:
    """Returns None where all events are selected: an unset filter equals an empty one, in a position too."""
    listed = _types(types)
    return SessionEventFilter(types=listed) if listed else None


def _saver(store: PositionStore | None, events: int, seconds: float, position: str | None) -> Saver | None:
    if events < 1 or seconds <= 0:
        raise ValueError("save_events: must be 1 or more; save_seconds: above 0")
    if store is None:
        return None
    if position is not None:
        raise ValueError("position: comes from the store")
    return Saver(store, events, seconds)
