"""Derives the cache changes of a commit. Pure."""

from collections.abc import Container, Sequence
from typing import Final

from sessiond.v1.event_pb2 import EventType
from sessiond_server.domain import replay
from sessiond_server.domain.commands import Command, Result, SessionDeleted
from sessiond_server.domain.rows import EventRow, HeadRow, Key, Writes
from sessiond_server.store.cached.contract import CacheTime, Change, Copy, Forget, Put, placed

CREATED: Final = (EventType.EVENT_TYPE_SESSION_CREATED, EventType.EVENT_TYPE_SESSION_FORKED)


def of_writes(writes: Writes, as_of: CacheTime) -> list[Change]:
    """One change for each written session, made of the committed bytes."""
    events: dict[Key, list[EventRow]] = {}
    for event in writes.events:
        events.setdefault(event.key, []).append(event)
    rewritten = {*writes.rewritten(), *(row.key for row in writes.rewound)}
    return [_of_head(row, events[row.key], rewritten=row.key in rewritten, as_of=as_of) for row in writes.heads]


def of_repeated(commands: Sequence[Command], results: Sequence[Result], written: Container[Key]) -> list[Change]:
    """A Forget for each session that a repeated command had changed, so that no cache entry is older than that
    change."""
    return [
        Forget(command.key, outcome.version + isinstance(outcome, SessionDeleted))
        for command, outcome in replay.repeated(commands, results, written)
    ]


def _of_head(row: HeadRow, events: Sequence[EventRow], *, rewritten: bool, as_of: CacheTime) -> Change:
    head = row.head
    if head.deleted:
        return Forget(row.key, head.version + 1)
    created = next((place for place, event in enumerate(events) if event.type in CREATED), None)
    if created is not None:
        # What was there before belongs to a deleted session.
        events = events[created:]
    # An entry may hold a message that was redacted, deleted or rewound, or lack one that is visible again, so the new
    # entry keeps no earlier message.
    copy = Copy(
        version=head.version,
        user_id=head.user_id,
        content_version=head.content_version,
        core=head.core,
        content=row.content,
        after_seq=head.version if rewritten else events[0].seq - 1,
        messages=[] if rewritten else [placed(e.seq, e.body) for e in events if e.message_id is not None],
    )
    return Put(row.key, copy, as_of, extends=created is None and not rewritten)
