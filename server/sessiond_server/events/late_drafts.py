"""Begins a stream's deltas with the drafts that are open, without those of messages that are there."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from sessiond_server.domain.commands import Scope
from sessiond_server.domain.log import LogEntry
from sessiond_server.errors import MessageNotFound
from sessiond_server.events.channel import APPENDED
from sessiond_server.events.contract import PrimaryReads, ReceivedDeltas
from sessiond_server.events.deltas import MESSAGES_REMEMBERED
from sessiond_server.events.drafts import Drafts
from sessiond_server.events.reads import Reads
from sessiond_server.events.watched import SessionWatcher, WatchedSession

_PRIMED: Final = 32
"""Number of events before the cursor of a new stream whose late deltas are dropped."""


async def begin_deltas(stream: SessionWatcher, scope: Scope, store: PrimaryReads, reads: Reads, drafts: Drafts) -> None:
    """Makes the DeltaLane drop late deltas of messages that were committed before the stream's cursor, and gives the
    stream the open drafts. A draft whose message is there, which no notice told, is dropped."""
    channel = stream.channel
    key, clock = channel.key, asyncio.get_running_loop().time
    after = max(0, stream.cursor.seq - _PRIMED)
    page = await reads.run(key[0], lambda: store.read_log(key, after_seq=after, limit=_PRIMED))
    supersede(channel, page.entries, drafts)
    for message_id in drafts.of(key, clock()):
        with suppress(MessageNotFound):
            await reads.run(key[0], partial(store.get_message, scope, key[1], message_id))
            drafts.drop(key, [message_id])
    late = drafts.pieces(key, drafts.of(key, clock()), clock())
    # What has arrived meanwhile is among them.
    stream.deltas_taken = channel.lane.count if channel.lane is not None else 0
    if late:
        stream.late = ReceivedDeltas(late)


def supersede(channel: WatchedSession, entries: Sequence[LogEntry], drafts: Drafts) -> None:
    """Drops the deltas and drafts of these messages. Skips old messages, since the DeltaLane remembers only the
    newest."""
    lane, tip = channel.lane, channel.tip
    if lane is not None and tip is not None:
        for entry in entries:
            if entry.type == APPENDED and entry.seq > tip.seq - MESSAGES_REMEMBERED:
                drafts.drop(channel.key, [lane.supersede(entry)])
