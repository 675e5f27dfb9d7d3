"""Entries of the log as subscribers get them: bytes that are serialised once, with what a stream must know of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

XIDS: Final = 2**32
"""The ids that writers are told apart by are those of transactions modulo this."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One event of a session."""

    seq: int
    event_id: str
    previous_event_id: str
    """Of the event at seq - 1; "" for the first, and for events older than the field."""
    type: int
    """EventType."""
    data: bytes
    """The serialised Event."""


@dataclass(frozen=True, slots=True, order=True)
class FeedPlace:
    """Where an event stands in its tenant's feed: feeds are read in this order."""

    commit_xid: int
    """Of the transaction that wrote it, or higher: never below that of the event before it in the session."""
    session_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """One event of a tenant, with what feeds are filtered by: as the session was when the entry was read."""

    place: FeedPlace
    entry: LogEntry
    user_id: str
    agent_id: str
    """Empty for a deleted session, as are the labels."""
    labels: Mapping[str, str]
    writer: int = 0
    """The id, modulo XIDS, of the transaction that wrote the row: the place's commit_xid may be higher. Of a redacted
    event, of the one that redacted it. 0: not known."""
