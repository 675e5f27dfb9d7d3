"""The feeds that this process watches: their streams, and one reader for each feed."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from sessiond_server.domain.commands import Scope
from sessiond_server.domain.log import FeedEntry
from sessiond_server.domain.rows import Key, Writes
from sessiond_server.errors import PositionLost, StoreUnavailable
from sessiond_server.events.channel import Where, rewritten_by
from sessiond_server.events.contract import CaughtUp, FeedBatch, FeedCursor
from sessiond_server.events.feed import BEGINNING, Feed, advanced, check_order
from sessiond_server.events.late_commits import RunningTransactions
from sessiond_server.events.limits import BATCH_EVENTS, HubLimits
from sessiond_server.events.reads import Reads, Shared
from sessiond_server.events.ring_budget import Rings
from sessiond_server.events.streams import Stream, Waiting
from sessiond_server.store.log_reads import FeedPage, LogReads

_log = logging.getLogger("sessiond.events")

_SOON: Final = 0.005
_LESS_SOON: Final = 0.05
"""First and longest pause in seconds before a feed with held-back events is read again."""


class _Watched(Feed):
    """A feed and the streams that watch it."""

    __slots__ = ("complete_at", "reader", "streams", "waiting")

    def __init__(self, tenant_id: str, limits: HubLimits, transactions: RunningTransactions, now: float) -> None:
        super().__init__(tenant_id, limits, transactions)
        self.complete_at = now
        """When, by the loop's clock, the last read began that found all events that were committed before it."""
        self.streams: dict[FeedWatcher, None] = {}
        self.waiting = Waiting()
        self.reader: asyncio.Task[None] | None = None


class _Page:
    """The result of a read of a feed after one cursor."""

    __slots__ = ("end", "redactions", "run")

    def __init__(self, run: FeedBatch | None, end: FeedCursor, redactions: int) -> None:
        self.run = run
        self.end = end
        self.redactions = redactions
        """The feed's `redaction_count` when the read was checked."""


class FeedWatcher(Stream):
    """See contract.FeedStream. Made by Feeds.open."""

    __slots__ = ("_bookmarked", "_feeds", "cursor", "feed", "names_sessions", "proved_at")

    def __init__(self, feeds: "Feeds", feed: _Watched, now: float, silence: float, *, names_sessions: bool) -> None:
        super().__init__(now, silence)
        self.cursor = BEGINNING
        self._feeds = feeds
        self.feed = feed
        self.names_sessions = names_sessions
        self.proved_at: tuple[_Watched, int] | None = None
        """The feed, and its `proofs`, when the cursor was last proved."""
        self._bookmarked = 0

    async def next(self) -> FeedBatch | CaughtUp:
        """As contract.FeedStream.next. Raises Draining when the hub has closed. Await it directly, as
        SessionWatcher.next."""
        feeds = self._feeds
        while True:
            if self._failure is not None:
                raise self._failure()
            feed = self.feed
            if self.proved_at != (feed, feed.proofs):
                await feeds.prove(self)
                continue
            found = feed.after(self.cursor)
            if found is Where.ELSEWHERE:
                page = await feeds.page(self)
                if page is None or page.redactions != feed.redaction_count:
                    continue
                if self.proved_at != (self.feed, feed.proofs):
                    continue
                if page.run is not None:
                    return self._advance(page.run, page.end)
            elif found is Where.TIP:
                now = feeds.clock()
                if now >= self._due and (read_us := self._proof()) is not None:
                    self._due = now + self._silence
                    return CaughtUp(read_us)
                feeds.schedule_read(feed, caller_waits=True)
                await self.wait(feed.waiting)
            else:
                return self._advance(*found)

    def _advance(self, batch: FeedBatch, end: FeedCursor) -> FeedBatch:
        self.cursor = end
        self._due = self._feeds.clock() + self._silence
        return batch

    def _proof(self) -> int | None:
        proof = self.feed.proof
        if proof is None or proof[0] != self.cursor.place or proof[1] <= self._bookmarked:
            return None
        self._bookmarked = proof[1]
        return proof[1]


class Feeds:
    """The streams of all watched feeds. Belongs to the hub, which notifies it of commits and hints."""

    def __init__(self, store: LogReads, limits: HubLimits, reads: Reads, rings: Rings) -> None:
        self.limits: Final = limits
        self.clock: Final = asyncio.get_running_loop().time
        self.transactions: Final = RunningTransactions()
        """The transactions that reads have seen running. Polls of log heads count as reads too, since no stream may be
        waiting for a feed."""
        self.on_redacted: Callable[[Key, int, int], None] = lambda key, first, last: None
        """Called when a read shows that events of that session between two `seq` were rewritten."""
        self.on_read: Callable[[str, Sequence[FeedEntry]], None] = lambda tenant_id, entries: None
        """Called with the events of a tenant that a read has brought."""
        self._store = store
        self._reads = reads
        self._rings = rings
        self._feeds: dict[str, _Watched] = {}
        self._pages: Shared[tuple[str, FeedCursor], _Page | None] = Shared(self._read_page)

    def __len__(self) -> int:
        """Number of watched feeds."""
        return len(self._feeds)

    async def open(self, scope: Scope, after: FeedCursor | None, *, from_beginning: bool) -> FeedWatcher:
        """As Hub.watch_feed. The caller must end the stream with `close`."""
        tenant_id = scope.tenant_id
        feed = self._feeds.get(tenant_id)
        if feed is None:
            feed = self._feeds[tenant_id] = _Watched(tenant_id, self.limits, self.transactions, self.clock())
        stream = FeedWatcher(self, feed, self.clock(), self.limits.bookmark, names_sessions=not scope.user_id)
        feed.streams[stream] = None
        try:
            while not self._begun(stream):
                feed, proofs = stream.feed, stream.feed.proofs
                stream.cursor = await self._first(stream, after, from_beginning)
                stream.proved_at = (feed, proofs)
        except BaseException:
            self.close(stream)
            raise
        return stream

    def close(self, stream: FeedWatcher) -> None:
        feed = stream.feed
        feed.streams.pop(stream, None)
        if not feed.streams:
            if self._feeds.get(feed.tenant_id) is feed:
                del self._feeds[feed.tenant_id]
            if feed.reader is not None:
                feed.reader.cancel()
            self._rings.removed(feed)

    def fail(self, failure: Callable[[], Exception]) -> None:
        """Ends all streams."""
        for feed in self._feeds.values():
            for stream in feed.streams:
                stream.fail(failure)

    def clear_proofs(self) -> None:
        """Drops all proofs, because the store is unavailable. No stream gets a bookmark until a read succeeds again."""
        for feed in self._feeds.values():
            feed.proof = None

    async def end(self) -> None:
        """Cancels all reads and waits until they have ended."""
        readers = [feed.reader for feed in self._feeds.values() if feed.reader is not None]
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await self._pages.close()

    def committed(self, writes: Writes) -> None:
        """This process has committed the writes: applies redactions and starts reads of the tenants' feeds."""
        feeds = self._feeds
        for (tenant_id, session_id), places in writes.rewritten().items():
            if tenant_id in feeds:
                feeds[tenant_id].redact(session_id, *places)
                self._rings.changed(feeds[tenant_id])
        for tenant_id in {row.key[0] for row in writes.heads if row.key[0] in feeds}:
            feed = feeds[tenant_id]
            feed.hint_pending = True
            self.schedule_read(feed)

    def on_hint(self, tenant_id: str) -> None:
        """A hint says that the tenant has new events."""
        feed = self._feeds.get(tenant_id)
        if feed is not None:
            feed.hint_pending = True
            self.schedule_read(feed)

    def redacted(self, key: Key, first_seq: int, last_seq: int) -> None:
        """A read of the session's log has shown that events of the range were rewritten."""
        feed = self._feeds.get(key[0])
        if feed is not None:
            feed.redact(key[1], first_seq, last_seq)
            self._rings.changed(feed)

    def lag(self) -> float:
        """How far the watched feed that is farthest behind is behind now, in seconds: the age of the last read that
        found everything, so about a second at rest. Feeds all of whose streams are busy with what they have do not
        count. Any thread may call it."""
        now = self.clock()
        behind = (now - feed.complete_at for feed in tuple(self._feeds.values()) if feed.waiting.count)
        return max(0.0, max(behind, default=0.0))

    def poll(self) -> None:
        """Starts a read of every feed that a stream waits for. It finds events whose hints were lost, and proves
        bookmarks."""
        now = self.clock()
        for feed in self._feeds.values():
            if not feed.waiting.count:
                feed.complete_at = now  # no read is due while no stream waits
            feed.forget_batches()
            feed.hint_pending = True
            self.schedule_read(feed)

    def schedule_read(self, feed: _Watched, *, caller_waits: bool = False) -> None:
        """Starts a read behind the tip if there may be new events and a stream waits for them.

        `caller_waits`: the calling stream is about to wait, and counts as waiting.
        """
        if feed.reader is None and feed.tip is not None and feed.behind and (caller_waits or feed.waiting.count):
            feed.reader = asyncio.get_running_loop().create_task(self._follow(feed, at_least_once=caller_waits))
            feed.reader.add_done_callback(partial(self._followed, feed))

    async def page(self, stream: FeedWatcher) -> _Page | None:
        """Reads the events after the stream's cursor from the store. None: something has changed, so look at the ring
        again."""
        feed = stream.feed
        task = self._pages.start((feed.tenant_id, stream.cursor))
        # Not `shield`: when the hub closes, cancelling the task must not cancel the stream.
        await asyncio.wait({task})
        if task.cancelled():
            return None
        if isinstance(task.exception(), StoreUnavailable):
            # Waits until the store answers again, or until the hub ends the stream.
            await stream.wait(feed.waiting, self.limits.poll)
            return None
        return task.result()

    async def prove(self, stream: FeedWatcher) -> None:
        """Proves a stream's cursor after the database was restarted or another server took over. Raises
        PositionLost."""
        feed, proofs = stream.feed, stream.feed.proofs
        try:
            await self._check(stream, stream.cursor)
        except StoreUnavailable:
            await stream.wait(feed.waiting, self.limits.poll)
            return
        stream.proved_at = (feed, proofs)
        self._begun(stream)

    def _begun(self, stream: FeedWatcher) -> bool:
        """Lets a stream continue at its proved cursor. Returns False if the proof is out of date."""
        feed = stream.feed
        if stream.proved_at != (feed, feed.proofs):
            return False
        feed.begin(stream.cursor)
        self._rings.changed(feed)
        return True

    async def _first(self, stream: FeedWatcher, after: FeedCursor | None, from_beginning: bool) -> FeedCursor:
        """The proved cursor at which a stream begins. Raises PositionLost."""
        tenant_id = stream.feed.tenant_id
        if after is not None:
            await self._check(stream, after)
            return after
        if from_beginning:
            return BEGINNING
        end = await self._reads.run(tenant_id, lambda: self._store.feed_end(tenant_id))
        return FeedCursor(end[-1][0], tuple(end)) if end else BEGINNING

    async def _check(self, stream: FeedWatcher, cursor: FeedCursor) -> None:
        """Raises PositionLost if the database has lost an event that the cursor names. The error names the session only
        if the stream's owner may see all sessions of the tenant."""
        named = cursor.named
        if not named:
            return
        tenant_id = stream.feed.tenant_id
        lost = await self._reads.run(tenant_id, lambda: self._store.find_lost(tenant_id, named))
        if lost is not None:
            raise PositionLost(lost.session_id, lost.seq) if stream.names_sessions else PositionLost("", 0)

    async def _follow(self, feed: _Watched, *, at_least_once: bool) -> None:
        """Reads after the tip until there are no more events, or no stream waits."""
        pause = _SOON
        while self._feeds.get(feed.tenant_id) is feed and (at_least_once or feed.waiting.count):
            at_least_once = feed.hint_pending = False
            tip = feed.tip
            assert tip is not None
            began = self.clock()
            page = await self._reads.run(feed.tenant_id, partial(self._read, feed, tip))
            if page is None:
                feed.hint_pending = True
                at_least_once = True
                continue
            feed.caught_up = page.complete and not page.pending
            if feed.caught_up:
                feed.complete_at = began
            if page.complete and page.pending:
                # The held-back events wait for another transaction, whose end is not announced.
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LESS_SOON)
            elif page.complete and not feed.hint_pending:
                if feed.tip is not None and feed.tip.place == (page.entries[-1].place if page.entries else tip.place):
                    feed.proof = (feed.tip.place, page.now_us)
                    now = self.clock()
                    for stream in feed.streams:
                        stream.wake_if_due(now)
                return

    def _followed(self, feed: _Watched, task: "asyncio.Task[None]") -> None:
        """The reader has ended."""
        feed.reader = None
        if task.cancelled() or self._feeds.get(feed.tenant_id) is not feed:
            return
        error = task.exception()
        if error is None:
            self.schedule_read(feed)
            return
        # The feed is not caught up, so the next stream that waits, or the poll, reads again.
        feed.caught_up = False
        if not isinstance(error, StoreUnavailable) and isinstance(error, Exception):
            # A defect ends the streams, rather than that they wait on.
            _log.error("cannot follow a feed", exc_info=error)
            for stream in feed.streams:
                stream.fail(partial(_same, error))

    async def _read(self, feed: _Watched, cursor: FeedCursor) -> FeedPage | None:
        """Reads once after a cursor, and adds new events to the feed. None if the result is out of date already."""
        since = feed.redaction_count
        number = self.transactions.begin_read()
        page = await self._store.read_feed(feed.tenant_id, after=cursor.place, limit=BATCH_EVENTS)
        if self._feeds.get(feed.tenant_id) is not feed:
            return None
        if page.incarnation != feed.incarnation:
            await self._reincarnated(feed, page.incarnation)
            return None
        self.transactions.note_running(number, page.running)
        if feed.may_show_redacted(since, page.entries):
            return None
        check_order(feed.tenant_id, cursor.place, page.entries)
        self._note_redactions(feed, page)
        self.on_read(feed.tenant_id, page.entries)
        tip = feed.tip
        feed.append(cursor.place, page.entries)
        self._rings.changed(feed)
        if feed.tip is not tip:
            for stream in feed.streams:
                stream.wake()
        return page

    async def _read_page(self, what: tuple[str, FeedCursor]) -> _Page | None:
        """Reads after a cursor, for all streams at that cursor."""
        tenant_id, cursor = what
        feed = self._feeds.get(tenant_id)
        if feed is None:
            return None
        page = await self._reads.run(tenant_id, lambda: self._read(feed, cursor))
        if page is None:
            return None
        run = FeedBatch(page.entries) if page.entries else None
        return _Page(run, advanced(cursor, page.entries, self.transactions), feed.redaction_count)

    async def _reincarnated(self, feed: _Watched, incarnation: str) -> None:
        """Checks, after the database was restarted or another server took over, that it has the delivered events."""
        tip = feed.tip
        if tip is None:
            return
        named = tip.named
        lost = await self._store.find_lost(feed.tenant_id, named) if named else None
        if self._feeds.get(feed.tenant_id) is not feed or feed.tip is not tip:
            return
        if lost is None:
            feed.proved(incarnation)
            for stream in feed.streams:
                stream.wake()
        else:
            self._replace(feed)

    def _replace(self, dead: _Watched) -> None:
        """Replaces a feed whose history is lost by an empty one, at which every stream must prove its cursor."""
        _log.warning("tenant %r: the database has lost events that were delivered", dead.tenant_id)
        feed = _Watched(dead.tenant_id, self.limits, self.transactions, dead.complete_at)
        feed.take_over(dead)
        feed.streams, dead.streams = dead.streams, {}
        self._feeds[dead.tenant_id] = feed
        self._rings.removed(dead)
        for stream in feed.streams:
            stream.feed = feed
            stream.wake()

    def _note_redactions(self, feed: _Watched, page: FeedPage) -> None:
        """Applies the redactions and deletions of messages in a page. The page shows what remains of the messages
        already; events in the ring may show the originals."""
        for entry in page.entries:
            if (places := rewritten_by(entry.entry)) is not None:
                session_id = entry.place.session_id
                feed.redact(session_id, *places)
                self.on_redacted((feed.tenant_id, session_id), *places)


def _same(error: Exception) -> Exception:
    return error
