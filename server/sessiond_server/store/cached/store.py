"""Commits and session reads with a cache in front: reads try the cache first, and commits update the cache before they
are acknowledged.

Failures of the cache cost latency, never correctness (docs/cache.md): decisions on writes never read it, and a session
whose entry may be stale is read from the store until the entry has been invalidated.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Final, TypeVar

from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import Session
from sessiond_server import failpoints
from sessiond_server.domain.commands import Command, Scope, SessionSnapshot
from sessiond_server.domain.rewinds.ranges import Ranges
from sessiond_server.domain.rows import Key, Writes
from sessiond_server.errors import SessionNotFound, StoreUnavailable
from sessiond_server.store.cached import changes as changes_of
from sessiond_server.store.cached import windows
from sessiond_server.store.cached.batched_reads import BatchedReads
from sessiond_server.store.cached.contract import ALL, EMBARGO, Cache, CacheState, Change, Copy, Forget, Put, placed
from sessiond_server.store.cached.dirty import DirtySessions
from sessiond_server.store.commits import Applied, Commits
from sessiond_server.store.session_reads import CACHED, Freshness, MessagesPage, SessionReads
from sessiond_server.tasks import run_in_background

_log = logging.getLogger("sessiond.cache")

V = TypeVar("V")

CACHE_TIMEOUT: Final = 0.02
"""Longest time in seconds that an acknowledgement waits for the cache."""

MOST_DIRTY: Final = 10_000
HEAL_BATCH: Final = 256
HEAL_RETRY_DELAY: Final = 0.05

READS_AT_ONCE: Final = 3
"""Most reads of the store in flight, for each of sessions, windows of newest messages, and other pages. It bounds the
load of a cold cache. The three together need fewer connections than the default pool has, so that writes find one."""
SESSIONS_PER_READ: Final = 32

_SessionRead = tuple[Scope, str, bool, bool]
"""(scope, session_id, whether with content, whether to offer the result to the cache)."""

_WindowWish = tuple[Scope, str]
"""(scope, session_id)."""

_PageRead = tuple[Scope, str, int, int, bool, int, Ranges | None, bool]
"""The arguments of `SessionReads.list_messages`."""


@dataclass(frozen=True, slots=True)
class CachedState:
    """For health and metrics."""

    cache: CacheState
    hits: int
    misses: int
    """CACHED reads that the store had to answer. STRONG reads are not counted."""
    dirty: int
    """Sessions whose cache entry may be stale."""


class CachedSessions:
    """Commits and SessionReads (see commits.py, session_reads.py) that wrap those of a store. Use as `async with`.

    STRONG reads go to the store. Closing it closes neither the store nor the cache.
    """

    def __init__(
        self,
        commits: Commits,
        reads: SessionReads,
        cache: Cache,
        *,
        most_dirty: int = MOST_DIRTY,
        random: Random | None = None,
    ) -> None:
        self._commits = commits
        self._reads = reads
        self._cache = cache
        self._random = random or Random()
        self._dirty = DirtySessions(most_dirty)
        self._has_dirty = asyncio.Event()
        self._overdue: set[asyncio.Future[Sequence[bool]]] = set()
        """Cache updates that took longer than CACHE_TIMEOUT. While there are any, acknowledgements do not wait."""
        self._sessions: BatchedReads[_SessionRead, Copy | None] = BatchedReads(
            self._read_sessions, most_keys=SESSIONS_PER_READ, most_reads=READS_AT_ONCE
        )
        self._windows: BatchedReads[_WindowWish, Copy] = BatchedReads(
            self._read_windows, most_keys=1, most_reads=READS_AT_ONCE
        )
        self._pages: BatchedReads[_PageRead, MessagesPage] = BatchedReads(
            self._read_pages, most_keys=1, most_reads=READS_AT_ONCE
        )
        self._hits = self._misses = 0
        self._healer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "CachedSessions":
        self._healer = run_in_background(self._heal(), "cache-healer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._healer is not None
        self._healer.cancel()
        await asyncio.gather(self._healer, return_exceptions=True)
        for reads_in_flight in (self._sessions, self._windows, self._pages):
            await reads_in_flight.close()
        if self._dirty and self._cache.ready:
            await asyncio.wait({self._cache.put(self._dirty.oldest(MOST_DIRTY))}, timeout=10 * CACHE_TIMEOUT)

    def state(self) -> CachedState:
        return CachedState(self._cache.state(), self._hits, self._misses, len(self._dirty))

    async def apply(self, commands: Sequence[Command]) -> Applied:
        as_of = self._cache.moment()
        try:
            applied = await self._commits.apply(commands)
        except (StoreUnavailable, asyncio.CancelledError):
            # The batch may have been committed, or may still be: no cache entry of these sessions may be served.
            for command in commands:
                self._mark_dirty(command.key, EMBARGO)
            raise
        changes = changes_of.of_writes(applied.writes, as_of)
        written = {row.key: row for row in applied.writes.heads}
        changes += changes_of.of_repeated(commands, applied.results, written)
        await self._update_cache(changes)
        return applied

    async def forget_deleted(self, versions: Mapping[Key, int]) -> None:
        """Takes sessions out of the cache whose deletion was committed by a process that may have been killed before
        it told the cache. `versions`: those of the deletions."""
        await self._update_cache([Forget(key, version + 1) for key, version in versions.items()])

    async def expire_due(self, limit: int) -> Writes:
        as_of = self._cache.moment()
        writes = await self._commits.expire_due(limit)
        await self._update_cache(changes_of.of_writes(writes, as_of))
        return writes

    async def get_session(
        self, scope: Scope, session_id: str, *, content: bool, freshness: Freshness = CACHED
    ) -> SessionSnapshot:
        key = (scope.tenant_id, session_id)
        if self._cache.ready and not freshness.strong and key not in self._dirty:
            copy = (await self._own_copies(scope, [key], content=content))[0]
            if copy is not None and copy.version >= freshness.min_version:
                snapshot = _snapshot(copy, content)
                if snapshot is not None:
                    self._hits += 1
                    return snapshot
        snapshot = self._found(await self._sessions.ask((scope, session_id, content, not freshness.strong)), content)
        if snapshot is None:
            raise SessionNotFound(session_id)
        self._misses += not freshness.strong
        return snapshot

    async def get_sessions(
        self, scope: Scope, session_ids: Sequence[str], *, content: bool, freshness: Freshness = CACHED
    ) -> Sequence[SessionSnapshot | None]:
        found: list[SessionSnapshot | None] = [None] * len(session_ids)
        places: Sequence[int] = range(len(session_ids))
        if self._cache.ready and not freshness.strong:
            keys = [(scope.tenant_id, session_id) for session_id in session_ids]
            clean = [place for place, key in enumerate(keys) if key not in self._dirty]
            copies = await self._own_copies(scope, [keys[place] for place in clean], content=content)
            cached: set[int] = set()
            for place, copy in zip(clean, copies, strict=True):
                if copy is None or copy.version < freshness.min_version:
                    continue
                snapshot = _snapshot(copy, content)
                if snapshot is not None:
                    found[place] = snapshot
                    cached.add(place)
            self._hits += len(cached)
            places = [place for place in places if place not in cached]
        reads = [(scope, session_ids[place], content, not freshness.strong) for place in places]
        for place, answer in zip(places, [self._sessions.ask(read) for read in reads], strict=True):
            found[place] = self._found(await answer, content)
        self._misses += 0 if freshness.strong else len(places)
        return found

    async def list_messages(
        self,
        scope: Scope,
        session_id: str,
        *,
        after_seq: int,
        before_seq: int,
        descending: bool,
        limit: int,
        rewound: Ranges | None = None,
        include_rewound: bool = False,
        freshness: Freshness = CACHED,
    ) -> MessagesPage:
        read = (scope, session_id, after_seq, before_seq, descending, limit, rewound, include_rewound)
        if not (freshness.strong or include_rewound) and rewound is None:
            key = (scope.tenant_id, session_id)
            if self._cache.ready and key not in self._dirty:
                copy = await self._held(scope, key, after_seq, before_seq, descending, limit)
                if copy is not None and copy.version >= freshness.min_version:
                    page = _page(copy, read)
                    if page is not None:
                        self._hits += 1
                        return page
            self._misses += 1
            if descending and not before_seq and limit < self._cache.limits.window:
                page = _page(_value(await self._windows.ask((scope, session_id))), read)
                if page is not None:
                    return page
        return _value(await self._pages.ask(read))

    async def _update_cache(self, changes: Sequence[Change]) -> None:
        """Applies the changes to the cache. Marks sessions dirty whose change is not confirmed within CACHE_TIMEOUT."""
        if not changes:
            return
        if not self._cache.ready or self._overdue or (failpoints.armed and failpoints.hit("before_cache")):
            self._mark_all_dirty(changes)
            return
        update = self._cache.put(changes)
        try:
            await asyncio.wait({update}, timeout=CACHE_TIMEOUT)
        finally:
            if update.done() and not update.cancelled():
                self._mark_unconfirmed(changes, update.result())
            else:
                self._mark_all_dirty(changes)
                self._overdue.add(update)
                update.add_done_callback(self._overdue.discard)

    def _mark_unconfirmed(self, changes: Sequence[Change], confirmed: Sequence[bool]) -> None:
        for change, done in zip(changes, confirmed, strict=True):
            if not done:
                self._mark_dirty(change.key, _version(change))
            elif self._dirty:
                self._dirty.clean(change.key, _version(change))

    def _mark_all_dirty(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._mark_dirty(change.key, _version(change))

    def _mark_dirty(self, key: Key, version: int) -> None:
        if self._dirty.add(key, version):
            self._has_dirty.set()
        else:
            _log.warning("too many sessions changed while the cache was unavailable: beginning a new epoch")
            self._cache.new_epoch()

    async def _heal(self) -> None:
        """Invalidates the cache entries of dirty sessions, until cancelled."""
        while True:
            await self._has_dirty.wait()
            await self._cache.became_ready()
            missed = self._dirty.oldest(HEAL_BATCH)
            confirmed = await self._cache.put(missed)
            for forget, done in zip(missed, confirmed, strict=True):
                if done:
                    self._dirty.clean(forget.key, forget.version)
                else:
                    self._dirty.postpone(forget.key)
            if not self._dirty:
                self._has_dirty.clear()
            elif not all(confirmed):
                await asyncio.sleep(HEAL_RETRY_DELAY * (0.5 + self._random.random()))

    async def _own_copies(
        self, scope: Scope, keys: Sequence[Key], *, content: bool = False, newest: int = 0
    ) -> Sequence[Copy | None]:
        """The cached copies of the keys; None for a cache miss, and for a session of another user.

        For a caller bound to a user, only the core is read until the session's owner is known. Another user's session
        then counts as a miss and is read from the store: both cases cost the same, and reveal nothing about the size.
        """
        if not scope.user_id or not (content or newest):
            return [
                _own(scope, await copy)
                for copy in [self._cache.get(key, content=content, newest=newest) for key in keys]
            ]
        copies: list[Copy | None] = [_own(scope, await copy) for copy in [self._cache.get(key) for key in keys]]
        places = [place for place, copy in enumerate(copies) if copy is not None]
        whole = [self._cache.get(keys[place], content=content, newest=newest) for place in places]
        for place, copy in zip(places, whole, strict=True):
            copies[place] = _own(scope, await copy)
        return copies

    async def _held(
        self, scope: Scope, key: Key, after_seq: int, before_seq: int, descending: bool, limit: int
    ) -> Copy | None:
        """The cached copy with the messages that a page needs, as far as the cache holds them."""
        if descending and not before_seq:
            return (await self._own_copies(scope, [key], newest=limit + 1))[0]
        # This read is cheap and shows how far the messages reach. They are fetched only if that is far enough.
        copy = _own(scope, await self._cache.get(key))
        if copy is None or not windows.reaches(copy, after_seq=after_seq, before_seq=before_seq, descending=descending):
            return None
        if after_seq >= copy.version:
            return copy._replace(after_seq=copy.version)
        # Each seq has at most one message.
        newest = ALL if before_seq or not after_seq else copy.version - after_seq
        return _own(scope, await self._cache.get(key, newest=newest))

    def _found(self, answer: Copy | Exception | None, content: bool) -> SessionSnapshot | None:
        copy = _value(answer)
        return None if copy is None else _snapshot(copy, content)

    async def _read_sessions(self, reads: Sequence[_SessionRead]) -> Sequence[Copy | Exception | None]:
        """Reads the sessions with one statement for each scope and kind of view, and offers them to the cache."""
        as_of = self._cache.moment()
        groups: dict[tuple[Scope, bool], list[int]] = {}
        for place, (scope, _, content, _) in enumerate(reads):
            groups.setdefault((scope, content), []).append(place)
        answers: list[Copy | Exception | None] = [None] * len(reads)
        for (scope, content), places in groups.items():
            try:
                snapshots = await self._reads.get_sessions(
                    scope, [reads[place][1] for place in places], content=content
                )
            except Exception as error:
                for place in places:
                    answers[place] = error
                continue
            for place, snapshot in zip(places, snapshots, strict=True):
                if snapshot is not None:
                    answers[place] = copy = _copy(snapshot, content)
                    if reads[place][3]:
                        self._cache.offer(Put((scope.tenant_id, reads[place][1]), copy, as_of))
        return answers

    async def _read_windows(self, reads: Sequence[_WindowWish]) -> Sequence[Copy | Exception]:
        """Reads the newest messages, as many as the cache holds, and the session. Offers them to the cache if both have
        the same version."""
        as_of = self._cache.moment()
        scope, session_id = reads[0]
        page = await self._reads.list_messages(
            scope, session_id, after_seq=0, before_seq=0, descending=True, limit=self._cache.limits.window
        )
        session = _copy(await self._reads.get_session(scope, session_id, content=False), False)
        messages = [placed(Message.FromString(message).seq, message) for message in reversed(page.messages)]
        copy = session._replace(
            version=page.version, after_seq=page.last_seq - 1 if page.more else 0, messages=messages
        )
        if page.version == session.version:
            self._cache.offer(Put((scope.tenant_id, session_id), copy, as_of))
        return [copy]

    async def _read_pages(self, reads: Sequence[_PageRead]) -> Sequence[MessagesPage | Exception]:
        scope, session_id, after_seq, before_seq, descending, limit, rewound, include_rewound = reads[0]
        page = await self._reads.list_messages(
            scope,
            session_id,
            after_seq=after_seq,
            before_seq=before_seq,
            descending=descending,
            limit=limit,
            rewound=rewound,
            include_rewound=include_rewound,
        )
        return [page]


def _own(scope: Scope, copy: Copy | None) -> Copy | None:
    return copy if copy is not None and scope.user_id in ("", copy.user_id) else None


def _snapshot(copy: Copy, content: bool) -> SessionSnapshot | None:
    """The snapshot; None if the content is requested and the copy does not have it."""
    if not content:
        return SessionSnapshot(copy.version, copy.core, b"")
    return None if copy.content is None else SessionSnapshot(copy.version, copy.core, copy.content)


def _page(copy: Copy, read: _PageRead) -> MessagesPage | None:
    """The page; None if the copy does not have all of it."""
    _, _, after_seq, before_seq, descending, limit, _, _ = read
    return windows.page(copy, after_seq=after_seq, before_seq=before_seq, descending=descending, limit=limit)


def _copy(snapshot: SessionSnapshot, content: bool) -> Copy:
    """A copy without messages: its `after_seq` is its own version."""
    core = Session.FromString(snapshot.core)
    return Copy(
        version=snapshot.version,
        user_id=core.user_id,
        content_version=core.content_version,
        core=snapshot.core,
        content=snapshot.content if content else None,
        after_seq=snapshot.version,
        messages=(),
    )


def _version(change: Change) -> int:
    return change.copy.version if isinstance(change, Put) else change.version


def _value(answer: V | Exception) -> V:
    if isinstance(answer, Exception):
        raise answer
    return answer
