"""The hub of one process: streams of committed events, whichever replica committed them.

What is committed here comes in as bytes, without a read; what other replicas commit is read once for all streams of a
session, or of a tenant, when the bus says that there is something. Below both lies the poll: one look at the ends of
all watched logs every second, which bounds the cost of anything that was not heard, and proves bookmarks.

Bounded: streams by HubLimits.watchers (TooManyWatchers), memory by the rings' limits (slower streams read from the
store), reads by HubLimits.reads (others wait their turn). Of each a tenant has a share (domain/shares.py). A stream has
no queue: one that is not read costs nothing.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.rows import Writes
from sessiond_server.domain.shares import Shares, one_tenant
from sessiond_server.errors import Draining, StoreUnavailable, TooManyWatchers
from sessiond_server.events.bus import Bus, Deltas, Hint
from sessiond_server.events.contract import Cursor, FeedCursor, FeedStream, PrimaryReads, SessionStream
from sessiond_server.events.drafts import SUPERSEDED
from sessiond_server.events.feeds import Feeds
from sessiond_server.events.limits import HubLimits
from sessiond_server.events.reads import Reads
from sessiond_server.events.ring_budget import Rings
from sessiond_server.events.sessions import Sessions
from sessiond_server.events.watched import TransactionStart
from sessiond_server.tasks import run_in_background

_log = logging.getLogger("sessiond.events")

HEADS: Final = 10_000
"""Most logs whose ends one statement reads."""
RETRY_AFTER: Final = 5.0
"""RetryInfo of a refused watcher, in seconds."""


@dataclass(frozen=True, slots=True)
class HubState:
    """For health and metrics."""

    streams: int
    sessions: int
    feeds: int
    """Watched feeds."""
    ring_bytes: int
    away: bool
    """Whether the store did not answer the last poll."""
    reads_waiting: int
    """Reads for streams that wait for their turn."""
    lag_seconds: float
    """Seconds since the last poll began that the store has answered; 0 without streams. What was committed before that
    is known here."""
    feed_lag_seconds: float
    """Of the watched feeds, how far the one that is farthest behind is behind now; see `Feeds.lag`."""


class EventHub:
    """A Hub (see contract.py) on a store and a bus. Use as `async with EventHub(store, bus) as hub`.

    `store` is the truth itself, not a cache of it. Closing it ends all streams with Draining, and closes neither store
    nor bus. Belongs to the loop that it is made on.
    """

    def __init__(
        self,
        store: PrimaryReads,
        bus: Bus,
        limits: HubLimits | None = None,
        *,
        alone: Callable[[], bool] = one_tenant,
        streams: Shares | None = None,
    ) -> None:
        """`alone`: whether there is only one tenant, which may then have all streams. `streams`: places that several
        hubs share; None: as many as the limits say."""
        self._limits = limits or HubLimits()
        self._store = store
        self._bus = bus
        self._clock = asyncio.get_running_loop().time
        reads, rings = Reads(self._limits.reads, alone=alone), Rings(self._limits.total_ring_bytes)
        self._rings = rings
        self._reads = reads
        self._sessions = Sessions(store, self._limits, reads, rings)
        self._feeds = Feeds(store, self._limits, reads, rings)
        self._sessions.channels.on_redacted = self._feeds.redacted
        self._feeds.on_redacted = self._sessions.redacted
        self._feeds.on_read = self._sessions.drafts.note_feed
        self._streams = streams or Shares(self._limits.watchers, alone=alone)
        self._open = 0
        """Streams of this hub."""
        self._watched = asyncio.Event()
        """Set while there is a stream."""
        self._poll_now = asyncio.Event()
        """Set when the poll must not wait for its interval."""
        self._answered = 0.0
        """When the store last answered the poll, by the loop's clock."""
        self._away = False
        self._closed = False
        self._poller: asyncio.Task[None] | None = None
        self._stop_listening: Callable[[], None] = lambda: None

    async def __aenter__(self) -> "EventHub":
        self._stop_listening = self._bus.listen(self)
        self._poller = run_in_background(self._poll(), "event-poll")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._stop_listening()
        assert self._poller is not None
        self._poller.cancel()
        await asyncio.gather(self._poller, return_exceptions=True)
        self._fail(Draining)
        await self._sessions.end()
        await self._feeds.end()

    def state(self) -> HubState:
        """Any thread may call it."""
        lag = max(0.0, self._clock() - self._answered) if self._watched.is_set() else 0.0
        return HubState(
            self._open,
            len(self._sessions),
            len(self._feeds),
            self._rings.held,
            self._away,
            self._reads.waiting,
            lag,
            self._feeds.lag(),
        )

    @asynccontextmanager
    async def watch_session(
        self, scope: Scope, session_id: str, after: Cursor | None, *, content: bool, deltas: bool
    ) -> AsyncIterator[tuple[SessionStream, SessionSnapshot | None]]:
        """As Hub.watch_session. For a deleted session, raises SessionNotFound if `after` is its final event, and
        PositionCompacted if `after` is before its first event."""
        self._admit(scope.tenant_id)
        try:
            stream, snapshot = await self._sessions.open(scope, session_id, after, content=content, deltas=deltas)
            try:
                yield stream, snapshot
            finally:
                self._sessions.close(stream)
        finally:
            self._dismiss(scope.tenant_id)

    @asynccontextmanager
    async def watch_feed(
        self, scope: Scope, after: FeedCursor | None, *, from_beginning: bool
    ) -> AsyncIterator[FeedStream]:
        """As Hub.watch_feed."""
        self._admit(scope.tenant_id)
        try:
            stream = await self._feeds.open(scope, after, from_beginning=from_beginning)
            try:
                yield stream
            finally:
                self._feeds.close(stream)
        finally:
            self._dismiss(scope.tenant_id)

    def transaction_start(self) -> TransactionStart:
        """Call before a transaction begins; pass the result to `committed`."""
        return self._sessions.transaction_start()

    def committed(self, writes: Writes, start: TransactionStart) -> None:
        """This process has committed these writes, in a transaction that began after `start`.

        Returns at once. A session without watchers costs one look-up. Batches may arrive out of order.
        """
        for key, message_ids in self._sessions.drafts.superseded(writes, self._clock()):
            self._bus.publish_deltas(Deltas(key, [SUPERSEDED + each.encode() for each in message_ids]))
        if self._open:
            self._sessions.committed(writes, start)
            self._feeds.committed(writes)

    def on_hints(self, hints: Sequence[Hint]) -> None:
        """As Listener.on_hints."""
        if self._open:
            for hint in hints:
                self._sessions.on_hint(hint.key, hint.seq)
                self._feeds.on_hint(hint.key[0])

    def on_deltas(self, deltas: Deltas) -> None:
        """As Listener.on_deltas."""
        self._sessions.on_deltas(deltas.key, deltas.data)

    def on_gap(self) -> None:
        """As Listener.on_gap."""
        self._poll_now.set()

    def _admit(self, tenant_id: str) -> None:
        if self._closed:
            raise Draining
        if not self._streams.take(tenant_id):
            raise TooManyWatchers(RETRY_AFTER)
        self._open += 1
        if not self._watched.is_set():
            self._answered = self._clock()
            self._watched.set()

    def _dismiss(self, tenant_id: str) -> None:
        self._streams.give(tenant_id)
        self._open -= 1
        if not self._open:
            self._watched.clear()

    def _fail(self, failure: Callable[[], Exception]) -> None:
        self._sessions.fail(failure)
        self._feeds.fail(failure)

    async def _poll(self) -> None:
        """Polls everything that is watched, until cancelled."""
        while True:
            if not self._watched.is_set():
                await self._watched.wait()
                self._answered = self._clock()
            self._poll_now.clear()
            await self._poll_once()
            interval = self._limits.poll if self._bus.ready else self._limits.fast_poll
            try:
                async with asyncio.timeout(interval):
                    await self._poll_now.wait()
            except TimeoutError:
                pass

    async def _poll_once(self) -> None:
        """Polls once. Ends all streams if the store has been unavailable for too long."""
        began = self._clock()
        try:
            async with asyncio.timeout_at(max(self._answered + self._limits.outage, began + self._limits.poll)):
                await self._poll_heads()
        except (StoreUnavailable, TimeoutError) as error:
            self._store_failed(error)
        except Exception as error:
            _log.error("cannot look at the ends of the watched logs", exc_info=error)
            self._store_failed(error)
        else:
            if self._away:
                _log.info("the store answers again")
            self._away = False
            self._answered = began
            self._feeds.poll()
        self._sessions.note_silent_drafts()

    async def _poll_heads(self) -> None:
        watched = self._sessions.watched()
        # Also polls without watched sessions: feeds need to know whether the store answers.
        for start in range(0, max(len(watched), 1), HEADS):
            polled = watched[start : start + HEADS]
            number = self._feeds.transactions.begin_read()
            heads = await self._store.log_heads([key for key, _ in polled])
            self._feeds.transactions.note_running(number, heads.running)
            self._sessions.note_heads(polled, heads)

    def _store_failed(self, error: Exception) -> None:
        if not self._away:
            _log.warning("the store does not answer: streams wait, for %g s at most", self._limits.outage)
        self._away = True
        self._sessions.clear_proofs()
        self._feeds.clear_proofs()
        if self._clock() - self._answered >= self._limits.outage:
            self._fail(StoreUnavailable)
