"""The sessions that this process watches: the streams on them, and the reads and commits that bring them events."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import encoding, ids
from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.log import LogEntry
from sessiond_server.domain.rows import EventRow, Key, Writes
from sessiond_server.errors import (
    NotFound,
    PositionCompacted,
    PositionGone,
    PositionLost,
    SessionNotFound,
    StoreUnavailable,
)
from sessiond_server.events.channel import DELETED, START, Fit, beginning, check, cursor_after
from sessiond_server.events.contract import Batch, Cursor, PrimaryReads
from sessiond_server.events.deltas import DeltaLane
from sessiond_server.events.drafts import Drafts
from sessiond_server.events.late_drafts import begin_deltas, supersede
from sessiond_server.events.limits import BATCH_EVENTS, HubLimits
from sessiond_server.events.open_channels import OpenChannels
from sessiond_server.events.reads import Reads, Shared, prove_owner
from sessiond_server.events.ring_budget import Rings
from sessiond_server.events.watched import LogRead, SessionWatcher, TransactionStart, WatchedSession
from sessiond_server.store.log_reads import LogHeads
from sessiond_server.store.session_reads import Freshness

_log = logging.getLogger("sessiond.events")

_STRONG: Final = Freshness(strong=True)


class Sessions:
    """The streams of all watched sessions. Belongs to the hub, which notifies it of commits, hints and log heads."""

    def __init__(
        self,
        store: PrimaryReads,
        limits: HubLimits,
        reads: Reads,
        rings: Rings,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.limits: Final = limits
        self.clock: Final = asyncio.get_running_loop().time
        self.channels: Final = OpenChannels(limits, rings)
        self.drafts: Final = Drafts(limits.drafts)
        self._store = store
        self._reads = reads
        self._rings = rings
        self._wall_clock = wall_clock
        self._pages: Shared[tuple[Key, Cursor], LogRead | None] = Shared(self._read)

    def __len__(self) -> int:
        """Number of watched sessions."""
        return len(self.channels)

    async def open(
        self, scope: Scope, session_id: str, after: Cursor | None, *, content: bool, deltas: bool
    ) -> tuple[SessionWatcher, SessionSnapshot | None]:
        """As Hub.watch_session. The caller must end the stream with `close`."""
        key = (scope.tenant_id, session_id)
        channel = self.channels.get(key)
        if channel is None:
            channel = self.channels.add(key)
        stream = SessionWatcher(self, channel, scope.user_id, self.clock(), self.limits.bookmark)
        # Registered before the first read, so that no commit after the read is missed.
        channel.streams[stream] = None
        try:
            if deltas:
                if channel.lane is None:
                    channel.lane = DeltaLane(self.limits)
                stream.deltas_taken = channel.lane.count
            snapshot = await self._start(stream, scope, content) if after is None else None
            if after is not None:
                await self._reads.run(key[0], lambda: prove_owner(self._store, key, scope.user_id))
                await self._resume(stream, after)
            if deltas:
                await begin_deltas(stream, scope, self._store, self._reads, self.drafts)
        except BaseException:
            self.close(stream)
            raise
        return stream, snapshot

    def close(self, stream: SessionWatcher) -> None:
        self.channels.close(stream)

    def fail(self, failure: Callable[[], Exception]) -> None:
        """Ends all streams."""
        for channel in self.channels:
            for stream in channel.streams:
                stream.fail(failure)

    def clear_proofs(self) -> None:
        """Drops all proofs, because the store is unavailable. No stream gets a bookmark until a read succeeds again."""
        for channel in self.channels:
            channel.proof = None

    async def end(self) -> None:
        """Cancels all reads and waits until they have ended."""
        await self._pages.close()

    def transaction_start(self) -> TransactionStart:
        """See EventHub.transaction_start."""
        return self.channels.transaction_start()

    def committed(self, writes: Writes, start: TransactionStart) -> None:
        """See EventHub.committed."""
        channels = self.channels
        watched = {row.key for row in writes.heads if row.key in channels}
        if not watched:
            return
        rows: dict[Key, list[EventRow]] = {}
        for event in writes.events:
            if event.key in watched:
                rows.setdefault(event.key, []).append(event)
        for key, events in rows.items():
            # One transaction may delete a session and create the next one with its id: two channels.
            end = next((place for place, row in enumerate(events, 1) if row.type == DELETED), len(events))
            for run in (events[:end], events[end:]):
                if run and (channel := channels.get(key)) is not None:
                    self._commit(channel, run, start)
        for key, places in writes.rewritten().items():
            self.redacted(key, *places)
        for key in rows:
            if (channel := channels.get(key)) is not None:
                self.schedule_read(channel)

    def on_hint(self, key: Key, seq: int) -> None:
        """A hint says that the session's log has reached `seq`."""
        channel = self.channels.get(key)
        if channel is not None:
            channel.note_hint(seq)
            self.schedule_read(channel)

    def redacted(self, key: Key, first_seq: int, last_seq: int) -> None:
        """A read of the feed has shown that events of the range were rewritten."""
        channel = self.channels.get(key)
        if channel is not None:
            channel.redact(first_seq, last_seq)
            self._rings.changed(channel)

    def on_deltas(self, key: Key, data: Sequence[bytes]) -> None:
        """Deltas of the session were published."""
        self.drafts.add(key, data, self.clock())
        self._pass_on(key, data)

    def _pass_on(self, key: Key, data: Sequence[bytes]) -> None:
        channel = self.channels.get(key)
        if channel is not None and channel.lane is not None and channel.lane.add(data):
            for stream in channel.streams:
                if stream.deltas_taken >= 0:
                    stream.wake()

    def watched(self) -> list[tuple[Key, Cursor]]:
        """Every watched session with its tip, to compare with the end of its log."""
        return [(channel.key, channel.tip) for channel in self.channels if channel.tip is not None]

    def note_heads(self, polled: Sequence[tuple[Key, Cursor]], heads: LogHeads) -> None:
        """Applies the ends of the logs, which were read after `watched` returned `polled`."""
        now = self.clock()
        self.channels.incarnation = heads.incarnation
        for (key, tip), head in zip(polled, heads.heads, strict=True):
            channel = self.channels.get(key)
            if channel is None or channel.tip is None:
                continue
            channel.forget_batches()
            if channel.final is not None and head is not None and head.version > channel.final.seq:
                self.channels.succeed(channel)
                continue
            channel.note_head(tip, head, heads.incarnation, heads.now_us)
            self.schedule_read(channel)
            if channel.proof is not None:
                for stream in channel.streams:
                    stream.wake_if_due(now)

    def schedule_read(self, channel: WatchedSession, *, caller_waits: bool = False) -> None:
        """Starts a read behind the tip if the tip needs a proof, or if there may be new events and a stream waits.

        `caller_waits`: the calling stream is about to wait, and counts as waiting.
        """
        tip = channel.tip
        if channel.reading_tip or tip is None:
            return
        if channel.suspect or (channel.behind and (caller_waits or channel.waiting.count)):
            channel.reading_tip = True
            task = self._pages.start((channel.key, tip))
            task.add_done_callback(partial(self._tip_read, channel))

    async def page(self, stream: SessionWatcher) -> LogRead | None:
        """Reads the events after the stream's cursor from the store. None: something has changed, so look at the ring
        again.

        Raises what `check` raises; SessionNotFound.
        """
        channel = stream.channel
        task = self._pages.start((channel.key, stream.cursor))
        # Not `shield`: when the hub closes, cancelling the task must not cancel the stream.
        await asyncio.wait({task})
        if task.cancelled():
            return None
        error = task.exception()
        if isinstance(error, StoreUnavailable):
            # Waits until the store answers again, or until the hub ends the stream.
            await stream.wait(channel.waiting, self.limits.poll)
            return None
        page = task.result()
        if page is not None and stream.user_id not in ("", page.user_id):
            raise SessionNotFound(channel.key[1])
        return page

    async def _start(self, stream: SessionWatcher, scope: Scope, content: bool) -> SessionSnapshot:
        """Starts a stream at a snapshot of the session."""
        key = stream.channel.key
        while True:
            incarnation = self.channels.incarnation
            snapshot = await self._reads.run(
                key[0], lambda: self._store.get_session(scope, key[1], content=content, freshness=_STRONG)
            )
            event_id = Session.FromString(snapshot.core).last_event_id
            if not event_id:
                event_id = await self._event_id(key, snapshot.version)
            if incarnation == self.channels.incarnation:
                break
        stream.cursor = Cursor(snapshot.version, event_id)
        stream.head_seq = snapshot.version
        self._take(stream.channel, stream.cursor, [], incarnation)
        return snapshot

    async def _event_id(self, key: Key, seq: int) -> str:
        """Reads the id of the last event, for sessions that are older than the field `last_event_id`."""
        page = await self._reads.run(key[0], lambda: self._store.read_log(key, after_seq=seq, limit=1))
        if page.before is None:
            raise SessionNotFound(key[1])
        return page.before.event_id

    async def _resume(self, stream: SessionWatcher, after: Cursor) -> None:
        """Resumes a stream at a cursor that a read proves."""
        key = stream.channel.key
        stream.cursor = after
        while True:
            task = self._pages.start((key, after))
            await asyncio.wait({task})
            if task.cancelled():
                raise StoreUnavailable
            page = task.result()
            if page is not None:
                break
        if stream.user_id not in ("", page.user_id):
            raise SessionNotFound(key[1])
        final = stream.channel.final
        if final is not None:
            if final.seq == after.seq:
                raise SessionNotFound(key[1])
            if after == START:
                raise PositionCompacted(key[1], final.seq)
        stream.head_seq = stream.channel.head_seq

    def note_silent_drafts(self) -> None:
        """Tells the watchers of drafts that have fallen silent."""
        for key, said in self.drafts.fell_silent(self.clock()):
            self._pass_on(key, [said])

    def _note(self, channel: WatchedSession, entries: Sequence[LogEntry]) -> None:
        """Drops the deltas and drafts that these events have superseded."""
        supersede(channel, entries)
        self.drafts.note_events(channel.key, entries)

    async def _read(self, what: tuple[Key, Cursor]) -> LogRead | None:
        """Reads after a cursor, for all streams at that cursor, and adds the events to the channel."""
        key, cursor = what
        while True:
            page = await self._reads.run(key[0], lambda: self._read_once(key, cursor))
            if page is not None:
                return page
            if key not in self.channels:
                return None

    async def _read_once(self, key: Key, cursor: Cursor) -> LogRead | None:
        """Reads once. None if the result is out of date already."""
        incarnation, channel = self.channels.incarnation, self.channels.get(key)
        if channel is None:
            return None
        asked, since = channel.hinted_seq, channel.redaction_count
        try:
            page = await self._store.read_log(key, after_seq=cursor.seq, limit=BATCH_EVENTS)
        except NotFound:
            if cursor.seq and self._is_remembered(cursor.event_id):
                raise PositionLost(key[1], cursor.seq) from None
            raise
        # A channel that was made after the read began knows no redaction that happened during the read.
        if (
            self.channels.get(key) is not channel
            or incarnation != self.channels.incarnation
            or channel.may_show_redacted(since, page)
        ):
            return None
        check(key, cursor, page)
        if page.head.deleted and not page.entries and channel.final is None:
            # The cursor is at the final event, which the channel does not have: no event will ever follow.
            raise SessionNotFound(key[1])
        channel.note_redactions(page.entries)
        channel = self._take(channel, beginning(cursor, page.entries), page.entries, incarnation)
        channel.read(asked, page)
        self._note(channel, page.entries)
        end = cursor_after(page.entries[-1]) if page.entries else cursor
        run = Batch(page.entries, page.head.version) if page.entries else None
        return LogRead(run, end, page.user_id, channel.redaction_count)

    def _take(
        self, channel: WatchedSession, before: Cursor, entries: Sequence[LogEntry], incarnation: str
    ) -> WatchedSession:
        """Adds events that were read to the channel. Returns the channel, or its replacement if its history is lost."""
        if channel.final is not None and (entries[-1].seq if entries else before.seq) > channel.final.seq:
            channel = self.channels.succeed(channel)
        tip = channel.tip
        fit = channel.append(before, entries)
        if fit is Fit.MISMATCH:
            channel, tip = self.channels.replace(channel), None
            fit = channel.append(before, entries)
        elif fit is Fit.GAP:
            channel.restart_at(before, entries)
        if tip is None or (entries[-1].seq if entries else before.seq) >= tip.seq:
            channel.proved(incarnation)
        self._grown(channel, tip)
        return channel

    def _commit(self, channel: WatchedSession, rows: Sequence[EventRow], start: TransactionStart) -> None:
        """Adds events that this process has committed, which saves a read."""
        first, last, tip = rows[0], rows[-1], channel.tip
        if channel.final is not None and last.seq > channel.final.seq:
            self.channels.succeed(channel)
            return
        if start.incarnation != self.channels.incarnation or start.channels < channel.number:
            # Announced late: the events may be lost since, or were redacted before the channel was made.
            channel.note_hint(last.seq)
            return
        if channel.follows(first.seq, last.seq):
            entries = [
                LogEntry(
                    row.seq,
                    row.event_id,
                    row.previous_event_id,
                    row.type,
                    encoding.event(row.type, row.head, row.body, row.content),
                )
                for row in rows
            ]
            fit = channel.append(Cursor(first.seq - 1, first.previous_event_id), entries)
            self._note(channel, entries)
        else:
            fit = channel.append(Cursor(last.seq, last.event_id), [])
        if fit is Fit.JOINED:
            self._grown(channel, tip)
            return
        channel.note_hint(last.seq)
        if fit is Fit.MISMATCH:
            channel.suspect = True

    def _grown(self, channel: WatchedSession, tip: Cursor | None) -> None:
        self._rings.changed(channel)
        if channel.tip != tip:
            for stream in channel.streams:
                stream.wake()

    def _tip_read(self, channel: WatchedSession, task: "asyncio.Task[LogRead | None]") -> None:
        """The read after the tip has ended."""
        channel.reading_tip = False
        if task.cancelled() or self.channels.get(channel.key) is not channel:
            return
        error = task.exception()
        if error is None:
            self.schedule_read(channel)
        elif channel.final is not None and isinstance(error, PositionGone):
            self.channels.succeed(channel)
        elif isinstance(error, PositionGone | NotFound):
            self.channels.replace(channel)
        elif isinstance(error, Exception) and not isinstance(error, StoreUnavailable):
            # The poll retries when the store is unavailable. A defect ends the streams, so that they do not wait on.
            _log.error("cannot follow a session", exc_info=error)
            for stream in channel.streams:
                stream.fail(partial(_same, error))

    def _is_remembered(self, event_id: str) -> bool:
        """Whether the event is so young that the store would still have the tombstone of its session."""
        made = ids.time_ms(event_id)
        return made is not None and made / 1000 > self._wall_clock() - self.limits.tombstone_retention


def _same(error: Exception) -> Exception:
    return error
