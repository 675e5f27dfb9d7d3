"""The first outcome of a request that is made again, rebuilt from the events that it wrote."""

from collections.abc import Sequence

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import commands as c
from sessiond_server.domain import wire
from sessiond_server.domain.rows import StoredEvent


def content_version(events: Sequence[StoredEvent]) -> int:
    """`seq` of the event whose content `outcome` needs; 0 for none. `events` as for `outcome`."""
    last = events[-1]
    if last.type < wire.FIRST_MESSAGE_EVENT:
        return Session.FromString(last.body).content_version
    return 0


def outcome(action: c.Action, events: Sequence[StoredEvent], content: bytes) -> c.Outcome:
    """Equal to what the command's first application answered.

    `events` are first_seq..last_seq of the Replay, complete and ascending; `content` is the content column of the event
    at `content_version(events)`, b"" for none. The fingerprint has shown that `action` is the first one's equal.
    """
    first, last = events[0], events[-1]
    if isinstance(action, c.DeleteSession):
        return c.SessionDeleted(last.seq)
    if isinstance(action, c.AppendMessages):
        ids = tuple(event.message_id or "" for event in events)
        return c.MessagesAppended(last.seq, first.seq, ids, last.create_time_us)
    if isinstance(action, c.RedactMessage):
        return c.MessageRedacted(last.seq, last.body)
    return c.SessionWritten(c.SessionSnapshot(last.seq, last.body, content))
