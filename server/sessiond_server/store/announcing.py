"""A store that tells what is committed through it: the hub of this process gets the bytes, the bus a hint for the other
replicas, after the commit and before the caller is acknowledged."""

import logging
from collections.abc import Sequence

from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server import failpoints
from sessiond_server.domain.commands import Command, Result, Scope, SessionSnapshot, SessionWritten
from sessiond_server.domain.log import FeedPlace
from sessiond_server.domain.rows import Key, Writes
from sessiond_server.events.bus import Bus, Hint
from sessiond_server.events.hub import EventHub
from sessiond_server.events.watched import Moment
from sessiond_server.store.contract import (
    CACHED,
    Applied,
    FeedPage,
    Freshness,
    LogHeads,
    LogPage,
    MessagesPage,
    SessionsPage,
    Store,
)

_log = logging.getLogger("sessiond.events")


class AnnouncingStore:
    """A Store (see contract.py) over another one. Telling never fails a write and never waits for anybody.

    What goes untold (the process ends, the connection breaks while the commit is under way) is found by the hubs'
    polls. A command that had been done before is told once more: nobody knows whether it was the first time.
    """

    def __init__(self, store: Store, hub: EventHub, bus: Bus) -> None:
        self._store = store
        self._hub = hub
        self._bus = bus

    async def apply(self, commands: Sequence[Command]) -> Applied:
        moment = self._hub.moment()
        applied = await self._store.apply(commands)
        await self._tell(applied.writes, moment, _replayed(commands, applied))
        return applied

    async def expire_due(self, limit: int) -> Writes:
        moment = self._hub.moment()
        writes = await self._store.expire_due(limit)
        await self._tell(writes, moment, [])
        return writes

    async def get_session(
        self, scope: Scope, session_id: str, *, content: bool, freshness: Freshness = CACHED
    ) -> SessionSnapshot:
        return await self._store.get_session(scope, session_id, content=content, freshness=freshness)

    async def get_sessions(
        self, scope: Scope, session_ids: Sequence[str], *, content: bool, freshness: Freshness = CACHED
    ) -> Sequence[SessionSnapshot | None]:
        return await self._store.get_sessions(scope, session_ids, content=content, freshness=freshness)

    async def list_sessions(
        self,
        scope: Scope,
        where: SessionFilter,
        order_by: SessionOrder.ValueType,
        *,
        after: tuple[int | str, str] | None,
        limit: int,
        content: bool,
    ) -> SessionsPage:
        return await self._store.list_sessions(scope, where, order_by, after=after, limit=limit, content=content)

    async def count_sessions(self, scope: Scope, where: SessionFilter) -> int:
        return await self._store.count_sessions(scope, where)

    async def get_message(
        self, scope: Scope, session_id: str, message_id: str, *, freshness: Freshness = CACHED
    ) -> tuple[int, bytes]:
        return await self._store.get_message(scope, session_id, message_id, freshness=freshness)

    async def list_messages(
        self,
        scope: Scope,
        session_id: str,
        *,
        after_seq: int,
        before_seq: int,
        descending: bool,
        limit: int,
        freshness: Freshness = CACHED,
    ) -> MessagesPage:
        return await self._store.list_messages(
            scope,
            session_id,
            after_seq=after_seq,
            before_seq=before_seq,
            descending=descending,
            limit=limit,
            freshness=freshness,
        )

    async def log_heads(self, keys: Sequence[Key]) -> LogHeads:
        return await self._store.log_heads(keys)

    async def read_log(self, key: Key, *, after_seq: int, limit: int) -> LogPage:
        return await self._store.read_log(key, after_seq=after_seq, limit=limit)

    async def read_feed(self, tenant_id: str, *, after: FeedPlace, limit: int) -> FeedPage:
        return await self._store.read_feed(tenant_id, after=after, limit=limit)

    async def feed_end(self, tenant_id: str) -> Sequence[tuple[FeedPlace, str]]:
        return await self._store.feed_end(tenant_id)

    async def find_lost(self, tenant_id: str, witnesses: Sequence[tuple[FeedPlace, str]]) -> FeedPlace | None:
        return await self._store.find_lost(tenant_id, witnesses)

    async def purge(self, limit: int) -> int:
        return await self._store.purge(limit)

    async def token_key(self) -> bytes:
        return await self._store.token_key()

    async def ping(self) -> None:
        await self._store.ping()

    async def _tell(self, writes: Writes, moment: Moment, replayed: Sequence[Hint]) -> None:
        if not writes.heads and not replayed:
            return
        try:
            if not (failpoints.armed and await failpoints.reach("before_announce")):
                self._hub.committed(writes, moment)
            if not (failpoints.armed and failpoints.hit("before_hint")):
                self._bus.ring([*(Hint(row.key, row.head.version) for row in writes.heads), *replayed])
        except Exception as error:
            _log.error("a commit could not be announced; the poll finds it", exc_info=error)


def _replayed(commands: Sequence[Command], applied: Applied) -> list[Hint]:
    """Of commands that wrote nothing in this batch, but did once."""
    if len(applied.writes.heads) == len(commands):
        return []
    written = {row.key for row in applied.writes.heads}
    return [
        Hint(command.key, seq)
        for command, result in zip(commands, applied.results, strict=True)
        if command.key not in written and (seq := _reached(result))
    ]


def _reached(result: Result) -> int:
    """The version that a command brought its session to; 0: it was refused, or says nothing."""
    version: object = result.session.version if isinstance(result, SessionWritten) else getattr(result, "version", 0)
    return version if isinstance(version, int) else 0
