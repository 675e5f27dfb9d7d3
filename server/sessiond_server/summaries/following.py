"""Looks through the feeds of all tenants, and notes which sessions become due for a summary."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sessiond.v1.event_pb2 import Event, EventType
from sessiond_server.domain.context.conversation import Shape, said
from sessiond_server.domain.log import FeedEntry
from sessiond_server.errors import Unavailable
from sessiond_server.store.log_reads import LogReads
from sessiond_server.summaries.queue import NO_MESSAGE, Behind, Note, SummaryQueue, When

PAGE: Final = 500
"""Events that are looked at in one transaction."""
PAGES: Final = 8
"""Most pages of a round: other work has a turn then."""
_TURN_BYTES: Final = 64 * 1024
"""Bytes of messages that are measured before the loop has a turn."""

_APPENDED: Final = EventType.EVENT_TYPE_MESSAGE_APPENDED
_ENDS: Final = (EventType.EVENT_TYPE_SESSION_ENDED, EventType.EVENT_TYPE_SESSION_EXPIRED)
_DELETED: Final = EventType.EVENT_TYPE_SESSION_DELETED


@dataclass(slots=True)
class _Noted:
    notes: list[Note] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    """Sessions that were deleted. The notes are of what came after."""


class Following:
    """The position is the queue's, so another replica may go on with each page."""

    def __init__(self, queue: SummaryQueue, logs: LogReads, when: When) -> None:
        self._queue = queue
        self._logs = logs
        self._when = when
        self._last = ""
        """The tenant whose feed was read last: the next round begins with the one behind it."""

    async def round(self) -> tuple[int, bool]:
        """Looks through a page of the feed of each tenant, PAGES at most. Returns how many events there were, and
        whether all has been looked through. A feed that cannot be read does not keep the others from being read: its
        error is raised after them. Raises StoreUnavailable."""
        behind = await self._queue.behind()
        turns = sorted(behind, key=lambda one: (one.tenant_id <= self._last, one.tenant_id))
        events, complete = 0, len(turns) <= PAGES
        failed: Exception | None = None
        for one in turns[:PAGES]:
            self._last = one.tenant_id
            try:
                count, whole = await self._page(one)
            except Unavailable:
                raise
            except Exception as error:
                failed = error
                continue
            events, complete = events + count, complete and whole
        if failed is not None:
            raise failed
        return events, complete

    async def _page(self, behind: Behind) -> tuple[int, bool]:
        page = await self._logs.read_feed(behind.tenant_id, after=behind.place, limit=PAGE)
        if not page.entries:
            return 0, True
        noted = await self._noted(page.entries)
        through = page.entries[-1].place
        await self._queue.note(behind, through, noted.notes, noted.gone, self._when)
        return len(page.entries), page.complete

    async def _noted(self, entries: Iterable[FeedEntry]) -> _Noted:
        noted, size = _Noted(), 0
        for one in entries:
            session_id, event = one.place.session_id, one.entry
            if event.type == _APPENDED:
                count = 0
                if self._when.tokens:
                    count = said(Event.FromString(event.data).message, Shape()).tokens
                    size += len(event.data)
                noted.notes.append(Note(session_id, event.seq, count))
            elif event.type in _ENDS and self._when.at_end:
                noted.notes.append(Note(session_id, event.seq, NO_MESSAGE, ends=True))
            elif event.type == _DELETED:
                noted.notes = [note for note in noted.notes if note.session_id != session_id]
                noted.gone.append(session_id)
            if size > _TURN_BYTES:
                size = 0
                await asyncio.sleep(0)
        return noted


def counted(notes: Sequence[Note], counted_to: int) -> tuple[int, int]:
    """(messages, tokens) of the notes of one session that were not counted yet."""
    found = [note.tokens for note in notes if note.tokens != NO_MESSAGE and note.seq > counted_to]
    return len(found), sum(found)
