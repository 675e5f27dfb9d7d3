"""Whether a database still has what a feed delivered from it."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

MOST: Final = 8
"""Anchors that a position carries."""


@dataclass(frozen=True, slots=True)
class EventLookup:
    """What a database has of an event that was delivered."""

    version: int | None
    """Of the session or its tombstone; None: there is neither."""
    deleted: bool
    event_id: str
    """Of the event that stands at the delivered one's `seq`; "": there is none."""
    previous_event_id: str
    """Of the event before a tombstone's final one, as that one names it; "" elsewhere."""
    first_event_id: str
    """Of the session's first event; "": there is none."""


def is_lost(seq: int, event_id: str, lookup: EventLookup, *, now_us: int, tombstone_retention_us: int) -> bool:
    """Whether the event that was delivered is lost. False where its session may have been deleted since.

    Ages are told by event ids, which are UUIDv7: to the accuracy of the servers' clocks.
    """
    if lookup.event_id == event_id:
        return False
    if lookup.deleted and lookup.version is not None and lookup.version > seq:
        # Deletion removed it, unless the log went on without it before.
        return lookup.version == seq + 1 and lookup.previous_event_id not in ("", event_id)
    made_us = created_us(event_id)
    if not lookup.deleted and lookup.first_event_id and created_us(lookup.first_event_id) <= made_us:
        # The session was there before the event, and is: it was not deleted in between, its id not taken anew.
        return True
    return now_us - made_us < tombstone_retention_us


def created_us(event_id: str) -> int:
    """When a UUIDv7 was made, in microseconds since 1970, to the millisecond."""
    return (UUID(event_id).int >> 80) * 1000
