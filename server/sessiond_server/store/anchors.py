"""Decides whether a database still has an event that a feed has delivered from it."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

MOST: Final = 8
"""Most anchors of a position."""


@dataclass(frozen=True, slots=True)
class EventLookup:
    """What the database has in place of a delivered event."""

    version: int | None
    """Version of the session or its tombstone; None: there is neither."""
    deleted: bool
    """Whether the session is a tombstone."""
    event_id: str
    """Id of the event that now has the delivered event's `seq`; "": there is none."""
    previous_event_id: str
    """For a tombstone, the `previous_event_id` of its final event; else ""."""
    first_event_id: str
    """Id of the first event that is stored of the session; "": there is none."""
    first_seq: int
    """`seq` of that event. Above 1: the session took the id of one that was deleted at that seq, or before it."""


def is_lost(seq: int, event_id: str, lookup: EventLookup, *, now_us: int, tombstone_retention_us: int) -> bool:
    """Whether the delivered event is lost. False if the session may have been deleted since.

    Ages come from the event ids, which are UUIDv7s, and are as accurate as the servers' clocks.
    """
    if lookup.event_id == event_id:
        return False
    if lookup.deleted and lookup.version is not None and lookup.version > seq:
        # The deletion removed the event, unless the log had continued without it before.
        return lookup.version == seq + 1 and lookup.previous_event_id not in ("", event_id)
    if lookup.first_seq > seq:
        # The deletion of a session that had the id before removed the event.
        return False
    made_us = created_us(event_id)
    if not lookup.deleted and lookup.first_event_id and created_us(lookup.first_event_id) <= made_us:
        # The session is older than the event and still exists, so neither a deletion nor a reused id explains the loss.
        return True
    return now_us - made_us < tombstone_retention_us


def created_us(event_id: str) -> int:
    """When a UUIDv7 was made, in microseconds since 1970 UTC, accurate to the millisecond."""
    return (UUID(event_id).int >> 80) * 1000
