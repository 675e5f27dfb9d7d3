"""The memory store's index of searches: looks at everything, and is always up to date."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.message_pb2 import Message
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.log import FeedPlace
from sessiond_server.domain.rewinds.ranges import hides
from sessiond_server.domain.rows import EventRow, Key
from sessiond_server.errors import SessionNotFound
from sessiond_server.memory.filters import selects
from sessiond_server.memory.session import MemorySession
from sessiond_server.search import texts
from sessiond_server.search.contract import (
    TOOL,
    C,
    Candidates,
    EventCandidate,
    Place,
    SessionCandidate,
    Where,
)
from sessiond_server.search.query import Query
from sessiond_server.store.session_reads import PAGE_BYTES


class MemorySearch:
    """A SearchIndex (see search/contract.py) over the logs of a MemoryStore."""

    def __init__(self, logs: Mapping[Key, MemorySession], feed: Callable[[str], Sequence[FeedPlace]]) -> None:
        """`feed`: the places of a tenant's events, ascending."""
        self._logs = logs
        self._feed = feed

    async def message_candidates(
        self, scope: Scope, query: Query, where: Where, *, before: Place | None, limit: int
    ) -> Candidates[EventCandidate]:
        return self._page(scope, self._events(scope, where, before), limit, lambda each: len(each.data))

    async def session_candidates(
        self, scope: Scope, query: Query, where: Where, *, before: Place | None, limit: int
    ) -> Candidates[SessionCandidate]:
        found = self._sessions(scope, where, before)
        return self._page(scope, found, limit, lambda each: len(each.session.core) + len(each.session.content))

    async def wait_until_seen(self, scope: Scope, session_id: str, version: int, seconds: float) -> int:
        log = self._logs.get((scope.tenant_id, session_id))
        if log is None or log.head.deleted or scope.user_id not in ("", log.head.user_id):
            raise SessionNotFound(session_id)
        return log.head.version

    def _page(self, scope: Scope, found: Iterator[C], limit: int, size: Callable[[C], int]) -> Candidates[C]:
        feed = self._feed(scope.tenant_id)
        edge: Place = (feed[-1].commit_xid + 1,) if feed else (0,)
        items: list[C] = []
        together = 0
        for candidate in found:
            together += size(candidate)
            if items and (together > PAGE_BYTES or len(items) == limit):
                return Candidates(items, items[-1].place, edge)
            items.append(candidate)
        return Candidates(items, None, edge)

    def _events(self, scope: Scope, where: Where, before: Place | None) -> Iterator[EventCandidate]:
        for place, log in self._places(scope, where, before):
            event = log.events[place.seq]
            if event.type not in texts.SEARCHED or (event.type == texts.APPENDED and event.message_id is None):
                continue
            if hides(log.rewound, place.seq):
                continue
            if where.session_id and place.session_id != where.session_id:
                continue
            if where.roles and _role(event) not in where.roles:
                continue
            if where.from_us is not None and event.create_time_us < where.from_us:
                continue
            if where.until_us is not None and event.create_time_us >= where.until_us:
                continue
            data = event.body + (event.content or b"")
            yield EventCandidate(_tuple(place), place.session_id, place.seq, event.type, event.create_time_us, data)

    def _sessions(self, scope: Scope, where: Where, before: Place | None) -> Iterator[SessionCandidate]:
        for place, log in self._places(scope, where, before):
            if log.events[place.seq].type == EventType.EVENT_TYPE_SESSION_CREATED:
                yield SessionCandidate(_tuple(place), log.snapshot(content=True))

    def _places(self, scope: Scope, where: Where, before: Place | None) -> Iterator[tuple[FeedPlace, MemorySession]]:
        for place in reversed(self._feed(scope.tenant_id)):
            if before is not None and _tuple(place) >= before:
                continue
            log = self._logs[scope.tenant_id, place.session_id]
            if log.index is None or log.head.deleted:
                continue
            if selects(scope, where.sessions, log.index, log.update_time_us):
                yield place, log


def _tuple(place: FeedPlace) -> Place:
    return place.commit_xid, place.session_id, place.seq


def _role(event: EventRow) -> int:
    return Message.FromString(event.body).role if event.type == texts.APPENDED else TOOL
