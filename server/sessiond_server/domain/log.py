"""Log entries as subscribers get them: events serialised once, with the fields that streams need."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from sessiond_server.domain import encoding

XIDS: Final = 2**32
"""FeedEntry.writer is a transaction id modulo this number."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One event of a session."""

    seq: int
    event_id: str
    previous_event_id: str
    """Id of the event at seq - 1. "" for the first event, and for events that were written before the field existed."""
    type: int
    """An EventType."""
    data: bytes
    """The serialised Event."""


def inherited(entry: LogEntry, session_id: str) -> LogEntry:
    """The event as a fork shows it that shares it: with the fork's id."""
    data = entry.data + encoding.of_session(entry.type, session_id)
    if entry.type == encoding.SESSION_CREATED:
        data = encoding.preset_runs_of_session(data, session_id)
    return replace(entry, data=data)


@dataclass(frozen=True, slots=True, order=True)
class FeedPlace:
    """The place of an event in its tenant's feed. Feeds are read in the order of places."""

    commit_xid: int
    """Id of the transaction that wrote the event, or a higher one: never lower than that of the session's previous
    event."""
    session_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """One event of a tenant's feed, with the fields of the session that feeds filter by, as they were when the entry
    was read."""

    place: FeedPlace
    entry: LogEntry
    user_id: str
    agent_id: str
    """Empty for a deleted session, like the labels."""
    labels: Mapping[str, str]
    writer: int = 0
    """Id, modulo XIDS, of the transaction that wrote the row, which may be lower than the place's commit_xid. For a
    redacted event, the transaction of the redaction. 0: not known."""
