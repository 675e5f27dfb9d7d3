"""Begins a stream's deltas with the drafts that are open, without those whose message or session is over."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from sessiond.v1.event_pb2 import Event
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.log import LogEntry
from sessiond_server.domain.rows import Key
from sessiond_server.errors import MessageNotFound
from sessiond_server.events.channel import APPENDED
from sessiond_server.events.contract import PrimaryReads, ReceivedDeltas
from sessiond_server.events.deltas import MESSAGES_REMEMBERED
from sessiond_server.events.drafts import Drafts
from sessiond_server.events.reads import Reads
from sessiond_server.events.watched import SessionWatcher, WatchedSession

_PRIMED: Final = 32
"""Number of events before the cursor of a new stream whose late deltas are dropped."""
READS: Final = 16
"""Most reads, of at most `_PAGE` events each, by which the end of drafts is looked for. A draft that began before what
they reach is not shown: its message may have been appended and deleted since."""
_PAGE: Final = 64
EARLIER: Final = 60.0
"""Seconds before a draft's first kept piece from which on its end is looked for: pieces may arrive late."""


async def begin_deltas(stream: SessionWatcher, scope: Scope, store: PrimaryReads, reads: Reads, drafts: Drafts) -> None:
    """Makes the DeltaLane drop late deltas of messages that were committed before the stream's cursor, and gives the
    stream the open drafts. Drafts that are over, which no notice told, are dropped."""
    channel = stream.channel
    key, clock = channel.key, asyncio.get_running_loop().time
    after = max(0, stream.cursor.seq - _PRIMED)
    page = await reads.run(key[0], lambda: store.read_log(key, after_seq=after, limit=_PRIMED))
    supersede(channel, page.entries)
    drafts.note_events(key, page.entries)
    if drafts.of(key, clock()):
        await _look_back(key, page.head.version, store, reads, drafts)
    for message_id in drafts.of(key, clock()):
        with suppress(MessageNotFound):
            await reads.run(key[0], partial(store.get_message, scope, key[1], message_id))
            drafts.drop(key, [message_id])
    late = drafts.pieces(key, drafts.of(key, clock()), clock())
    # What has arrived meanwhile is among them.
    stream.deltas_taken = channel.lane.count if channel.lane is not None else 0
    if late:
        stream.late = ReceivedDeltas(late)


async def _look_back(key: Key, end: int, store: PrimaryReads, reads: Reads, drafts: Drafts) -> None:
    """Drops the drafts that events of the log up to `end` have ended since they began. The appended message of a draft
    may be deleted since, so that only the log still has its id."""
    clock = asyncio.get_running_loop().time
    heads = await reads.run(key[0], lambda: store.log_heads([key]))
    read_at = clock()
    after = start = max(0, end - _PAGE)
    for _ in range(READS):
        page = await reads.run(key[0], partial(store.read_log, key, after_seq=after, limit=end - after))
        drafts.note_events(key, page.entries)
        began = drafts.began(key)
        if began is None or not page.entries:
            return
        if page.entries[-1].seq < end:  # a page ends where it would be too large, too
            after = page.entries[-1].seq
            continue
        since_us = heads.now_us - round((read_at - began + EARLIER) * 1_000_000)
        # Nothing comes before an event that does not follow `after`: the session took the id of a deleted one.
        if not start or page.entries[0].seq > after + 1 or _time_us(page.entries[0]) < since_us:
            return
        end, after = start, max(0, start - _PAGE)
        start = after
    drafts.drop_begun_until(key, read_at)


def _time_us(entry: LogEntry) -> int:
    return Event.FromString(entry.data).create_time.ToMicroseconds()


def supersede(channel: WatchedSession, entries: Sequence[LogEntry]) -> None:
    """Drops the deltas of these messages. Skips old messages, since the DeltaLane remembers only the newest."""
    lane, tip = channel.lane, channel.tip
    if lane is not None and tip is not None:
        for entry in entries:
            if entry.type == APPENDED and entry.seq > tip.seq - MESSAGES_REMEMBERED:
                lane.supersede(entry)
