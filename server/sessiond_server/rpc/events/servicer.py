"""EventService. Each RPC makes four moves: check, authorise, call, answer."""

from typing import Final

from sessiond.v1.event_service_pb2 import (
    ListEventsRequest,
    ListEventsResponse,
    PublishDeltaRequest,
    PublishDeltaResponse,
    WatchEventsRequest,
    WatchSessionRequest,
)
from sessiond.v1.session_pb2 import Session
from sessiond_server.auth import SESSIONS_READ, SESSIONS_WRITE
from sessiond_server.domain import encoding
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.events.bus import Bus, Deltas
from sessiond_server.events.contract import Cursor, Hub
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.events import checks as event_requests
from sessiond_server.rpc.events import pages as log_pages
from sessiond_server.rpc.events.delivery import Deliveries
from sessiond_server.rpc.events.frames import FeedFrames, SessionFrames
from sessiond_server.rpc.events.positions import Positions
from sessiond_server.store.log_reads import LogReads
from sessiond_server.store.session_reads import SessionReads

_BEGINNING: Final = Cursor(0, "")
_LISTED_EVENT: Final = encoding.tag(ListEventsResponse.EVENTS_FIELD_NUMBER)


class EventServicer:
    """The RPCs of sessiond.v1.EventService, on a hub and a bus."""

    def __init__(
        self,
        sessions: SessionReads,
        logs: LogReads,
        hub: Hub,
        bus: Bus,
        positions: Positions,
        deliveries: Deliveries,
    ) -> None:
        self._sessions = sessions
        self._logs = logs
        self._hub = hub
        self._bus = bus
        self._positions = positions
        self._deliveries = deliveries

    async def watch_session(self, request: WatchSessionRequest, call: Call) -> None:
        watch = event_requests.watch_session(request)
        scope = call.admit(SESSIONS_READ)
        session_id, deltas = request.session_id, request.deltas
        positions = self._positions.of_session(scope, session_id, watch.selection)
        after = positions.open(request.position) or (_BEGINNING if watch.from_beginning else None)
        self._deliveries.admit()
        async with self._hub.watch_session(scope, session_id, after, content=watch.full, deltas=deltas) as (
            stream,
            snapshot,
        ):
            stream.shorten_silence(watch.silence)
            frames = SessionFrames(stream, positions, watch.selection)
            await self._deliveries.deliver(call.write, frames, frames.first(snapshot), call.principal, watch.silence)

    async def watch_events(self, request: WatchEventsRequest, call: Call) -> None:
        watch = event_requests.watch_events(request, call.principal.user_id)
        scope = call.admit(SESSIONS_READ)
        positions = self._positions.of_feed(scope, watch.selection)
        after = positions.open(request.position)
        self._deliveries.admit()
        async with self._hub.watch_feed(scope, after, from_beginning=watch.from_beginning) as stream:
            stream.shorten_silence(watch.silence)
            frames = FeedFrames(stream, positions, watch.selection)
            await self._deliveries.deliver(call.write, frames, frames.first(), call.principal, watch.silence)

    async def list_events(self, request: ListEventsRequest, call: Call) -> bytes:
        wanted = event_requests.list_events(request)
        scope = call.admit(SESSIONS_READ)
        positions = self._positions.of_session(scope, request.session_id, wanted.selection)
        after = positions.open(request.position)
        page = await log_pages.read(self._logs, scope, request.session_id, after, wanted.selection, wanted.limit)
        rest = ListEventsResponse(position=positions.seal(page.end), more=page.more, version=page.version)
        return encoding.repeated(_LISTED_EVENT, [entry.data for entry in page.entries], rest.SerializeToString())

    async def publish_delta(self, request: PublishDeltaRequest, call: Call) -> bytes:
        deltas = event_requests.publish_delta(request)
        scope = call.admit(SESSIONS_WRITE)
        snapshot = await self._sessions.get_session(scope, request.session_id, content=False)
        # Expiry is not checked: deltas are not stored, and the sweeper ends expired sessions.
        lifecycle.check_active(Session.FromString(snapshot.core), now_us=0)
        self._bus.publish_deltas(Deltas((scope.tenant_id, request.session_id), deltas))
        return PublishDeltaResponse().SerializeToString()
