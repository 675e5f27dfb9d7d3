"""What a commit means for the cache. Pure."""

from collections.abc import Mapping, Sequence

from sessiond_server.domain.commands import (
    Command,
    MessageRedacted,
    MessagesAppended,
    Outcome,
    Result,
    RunWritten,
    SessionDeleted,
    SessionWritten,
    ToolCallWritten,
)
from sessiond_server.domain.rows import EventRow, HeadRow, Key, Writes
from sessiond_server.domain.wire import FIRST_MESSAGE_EVENT
from sessiond_server.errors import SessiondError
from sessiond_server.store.cached.contract import Change, Copy, Forget, Moment, Put, placed


def of_writes(writes: Writes, as_of: Moment) -> list[Change]:
    """One change for each session that was written, from the bytes that were committed."""
    events: dict[Key, list[EventRow]] = {}
    for event in writes.events:
        events.setdefault(event.key, []).append(event)
    redacted = {key for key, _ in writes.redactions}
    return [_of_head(row, events[row.key], redacted=row.key in redacted, as_of=as_of) for row in writes.heads]


def of_replays(commands: Sequence[Command], results: Sequence[Result], written: Mapping[Key, object]) -> list[Change]:
    """Commands that had been done before, of which this batch wrote nothing, and nobody knows whether the cache heard
    of it: the process may have ended between the commit and the cache, or lost its connection during the commit."""
    return [
        Forget(command.key, version)
        for command, result in zip(commands, results, strict=True)
        if not isinstance(result, SessiondError) and command.key not in written and (version := _version(result))
    ]


def _of_head(row: HeadRow, events: Sequence[EventRow], *, redacted: bool, as_of: Moment) -> Change:
    head = row.head
    if head.deleted:
        return Forget(row.key, head.version + 1)
    of_session = (e.content for e in reversed(events) if e.content is not None and e.type < FIRST_MESSAGE_EVENT)
    content = next(of_session, None)
    # A redaction rewrites a message that copies may hold: they start anew behind it.
    copy = Copy(
        version=head.version,
        user_id=head.user_id,
        content_version=head.content_version,
        core=head.core,
        content=content,
        after_seq=head.version if redacted else events[0].seq - 1,
        messages=[] if redacted else [placed(e.seq, e.body) for e in events if e.message_id is not None],
    )
    return Put(row.key, copy, as_of, extends=not redacted)


def _version(outcome: Outcome) -> int:
    """Below this, the session must not be seen any more; 0: the outcome says nothing."""
    if isinstance(outcome, SessionWritten):
        return outcome.session.version
    if isinstance(outcome, MessagesAppended | MessageRedacted | RunWritten | ToolCallWritten):
        return outcome.version
    if isinstance(outcome, SessionDeleted):
        return outcome.version + 1
    return 0
