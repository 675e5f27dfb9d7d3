"""Responses as bytes, put together from stored bytes wherever nothing must be parsed."""

from collections.abc import Sequence
from typing import TypeVar

from sessiond.v1.message_service_pb2 import AppendMessagesResponse, ListMessagesResponse
from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import BatchGetSessionsResponse, ListSessionsResponse, SessionMetrics
from sessiond_server.domain import wire
from sessiond_server.domain.commands import MessagesAppended, Outcome, SessionSnapshot
from sessiond_server.domain.times import SECOND, microseconds, set_timestamp
from sessiond_server.errors import VersionNotReached
from sessiond_server.store.contract import PAGE_BYTES

_BATCHED_SESSION = wire.tag(BatchGetSessionsResponse.SESSIONS_FIELD_NUMBER)

O = TypeVar("O", bound=Outcome)  # noqa: E741 - an outcome


def outcome(kind: type[O], value: Outcome) -> O:
    """What a command of a known action did. Another kind is a defect: TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} in place of {kind.__name__}")
    return value


def not_before(min_version: int, session_id: str, version: int) -> None:
    """Raises VersionNotReached when an answer of `version` would be older than asked for."""
    if version < min_version:
        raise VersionNotReached(session_id, version, min_version)


def session(snapshot: SessionSnapshot) -> bytes:
    """A Session, with what the snapshot has of its content."""
    return snapshot.core + snapshot.content


def listed_sessions(snapshots: Sequence[SessionSnapshot], next_page_token: str) -> bytes:
    rest = ListSessionsResponse(next_page_token=next_page_token).SerializeToString()
    return wire.repeated(wire.LISTED_SESSION, map(session, snapshots), rest)


def batch_of_sessions(session_ids: Sequence[str], snapshots: Sequence[SessionSnapshot | None]) -> bytes:
    """Ends before the session that would pass PAGE_BYTES, but has at least one; the ids behind are `omitted`."""
    rest = BatchGetSessionsResponse()
    items: list[bytes] = []
    size = 0
    for session_id, snapshot in zip(session_ids, snapshots, strict=True):
        if snapshot is None:
            rest.not_found.append(session_id)
            continue
        item = session(snapshot)
        if rest.omitted or (items and size + len(item) > PAGE_BYTES):
            rest.omitted.append(session_id)
            continue
        items.append(item)
        size += len(item)
    return wire.repeated(_BATCHED_SESSION, items, rest.SerializeToString())


def metrics(snapshot: SessionSnapshot) -> bytes:
    core = Session.FromString(snapshot.core)
    figures = SessionMetrics(
        session_id=core.session_id,
        version=snapshot.version,
        request_count=core.request_count,
        message_count=core.message_count,
        run_count=core.run_count,
        usage=core.usage,
    )
    active = max(microseconds(core.last_activity_time) - microseconds(core.create_time), 0)
    figures.active_duration.seconds, rest = divmod(active, SECOND)
    figures.active_duration.nanos = rest * 1000
    return figures.SerializeToString()


def appended(done: MessagesAppended) -> bytes:
    response = AppendMessagesResponse(version=done.version, first_seq=done.first_seq, message_ids=done.message_ids)
    set_timestamp(response.create_time, done.create_time_us)
    return response.SerializeToString()


def listed_messages(messages: Sequence[bytes], rest: ListMessagesResponse) -> bytes:
    return wire.repeated(wire.LISTED_MESSAGE, messages, rest.SerializeToString())
