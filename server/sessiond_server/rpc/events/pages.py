"""Reads pages of one session's log, starting at a position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sessiond_server.domain.commands import Scope
from sessiond_server.domain.log import LogEntry
from sessiond_server.errors import SessionNotFound
from sessiond_server.events import channel, reads
from sessiond_server.events.contract import Cursor
from sessiond_server.rpc.events.filters import SessionSelection
from sessiond_server.store.log_reads import LogReads

LOOKED_AT: Final = 1000
"""Most events that are read for one page of a filtered list."""


@dataclass(frozen=True, slots=True)
class EventsPage:
    entries: Sequence[LogEntry]
    """The selected events."""
    end: Cursor
    """The cursor after the last event that was read."""
    more: bool
    version: int


async def read(
    logs: LogReads, scope: Scope, session_id: str, after: Cursor | None, selection: SessionSelection, limit: int
) -> EventsPage:
    """At most `limit` selected events after `after`; None: from the first event.

    Raises SessionNotFound (also for a deleted session, without `after`), PositionLost and PositionCompacted.
    """
    start = after or Cursor(0, "")
    look_at = LOOKED_AT if selection.types else limit
    key = (scope.tenant_id, session_id)
    await reads.prove_owner(logs, key, scope.user_id)
    page = await logs.read_log(key, after_seq=start.seq, limit=look_at)
    if scope.user_id not in ("", page.user_id) or (after is None and page.head.deleted):
        raise SessionNotFound(session_id)
    channel.check(key, start, page)
    looked_at = page.entries
    selected = selection.of(looked_at)
    if len(selected) > limit:
        selected = selected[:limit]
        looked_at = [entry for entry in looked_at if entry.seq <= selected[-1].seq]
    end = channel.cursor_after(looked_at[-1]) if looked_at else start
    return EventsPage(selected, end, more=end.seq < page.head.version, version=page.head.version)
