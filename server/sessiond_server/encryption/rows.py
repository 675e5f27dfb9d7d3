"""What a batch writes, encrypted: copies of the rows, in which contents are sealed. The rows themselves stay as they
are, for whatever else looks at them after the commit."""

import base64
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Final

from sessiond.v1.event_pb2 import Event
from sessiond_server.domain.attachments.rows import AttachmentRow
from sessiond_server.domain.documents.rows import DocumentKey, DocumentRequest, DocumentRequestRow, DocumentRow
from sessiond_server.domain.encoding import EVENT_PRESET_RUN, tag
from sessiond_server.domain.forks.rows import Spread
from sessiond_server.domain.rows import (
    AppendedMessage,
    EventRow,
    Head,
    HeadRow,
    IndexRow,
    Key,
    RequestRecord,
    RequestRow,
    RunRow,
    ToolCallRow,
    Writes,
)
from sessiond_server.encryption.columns import metadata_tokens
from sessiond_server.encryption.envelope import DataKey, Kind, is_sealed, sealed_by
from sessiond_server.encryption.keyring import Keyring

_NAME: Final = tag(Event.SESSION_NAME_FIELD_NUMBER)


def sealed(writes: Writes, heads: Mapping[Key, Head], keyring: Keyring) -> Writes:
    """The writes with encrypted contents. `keyring.sealing` has returned for their tenants."""
    key = keyring.key
    found = copy(writes)
    found.heads = [_head(key(row.key[0]), row, heads.get(row.key)) for row in writes.heads]
    for plain, row in zip(writes.heads, found.heads, strict=True):
        keyring.cores.note(row.key, plain.head.core, row.head.core)
    found.events = [event(key(row.key[0]), row) for row in writes.events]
    found.requests = [_request(key(row.key[0]), row) for row in writes.requests]
    if writes.removals:
        found.removals = [(place, _message(key(place[0]), place, message)) for place, message in writes.removals]
    if writes.index:
        found.index = [index_row(keyring.tokens(row.key[0]), row) for row in writes.index]
    if writes.redactions:
        found.redactions = [
            (place, _message(key(place[0]), (place[0], message.log_id or place[1]), message))
            for place, message in writes.redactions
        ]
    if writes.runs or writes.tool_calls:
        found.runs = [run(key(row.key[0]), row) for row in writes.runs]
        found.tool_calls = [tool_call(key(row.key[0]), row) for row in writes.tool_calls]
    if writes.attachments:
        found.attachments = [_attachment(key(row.key[0]), row) for row in writes.attachments]
    if writes.spreads:
        found.spreads = [_spread(key(row.tenant_id), row) for row in writes.spreads]
    if writes.documents or writes.document_requests:
        found.documents = [_document(key(row.key[0]), row) for row in writes.documents]
        found.document_requests = [_document_request(key(row.owner[0]), row) for row in writes.document_requests]
    return found


def head_row(key: DataKey, row: HeadRow) -> HeadRow:
    """A new head, sealed."""
    return _head(key, row, None)


def event(key: DataKey, row: EventRow) -> EventRow:
    log, seq, seal = row.key[1], row.seq, key.seal
    return EventRow(
        row.key,
        seq,
        row.event_id,
        row.previous_event_id,
        row.type,
        row.create_time_us,
        row.message_id,
        seal(Kind.EVENT_HEAD, log, seq, row.head) if has_words(row.head) else row.head,
        seal(Kind.EVENT_BODY, log, seq, row.body) if row.body else row.body,
        seal(Kind.EVENT_CONTENT, log, seq, row.content) if row.content else row.content,
        seal(Kind.EVENT_CORE, log, seq, row.core) if row.core else row.core,
    )


def has_words(head: bytes) -> bool:
    """Whether the head of an event may have words: the name that a message gave to its session, or the runs with which
    a session was created. The others have ids and times. Bytes that look like the tag of one of these count as one."""
    return _NAME in head or EVENT_PRESET_RUN in head


def _message(key: DataKey, place: Key, message: AppendedMessage) -> AppendedMessage:
    log, seq = place[1], message.seq
    return AppendedMessage(
        seq,
        key.seal(Kind.EVENT_HEAD, log, seq, message.head) if has_words(message.head) else message.head,
        key.seal(Kind.EVENT_BODY, log, seq, message.body) if message.body else message.body,
        message.log_id,
    )


Repeating = tuple[str, str, int, bytes | None, bytes | None]


def repeating(keyring: Keyring | None, rows: Sequence[Repeating]) -> Sequence[Repeating]:
    """Rows of (tenant_id, log_id, seq, body, core) of events that are rewritten."""
    if keyring is None or not keyring.seals:
        return rows
    found: list[Repeating] = []
    for tenant_id, log_id, seq, body, core in rows:
        key = keyring.key(tenant_id)
        found.append(
            (
                tenant_id,
                log_id,
                seq,
                key.seal(Kind.EVENT_BODY, log_id, seq, body) if body else body,
                key.seal(Kind.EVENT_CORE, log_id, seq, core) if core else core,
            )
        )
    return found


def _head(key: DataKey, row: HeadRow, before: Head | None) -> HeadRow:
    head, log = row.head, row.key[1]
    core = key.seal(Kind.HEAD_CORE, log, 0, head.core) if head.core else head.core
    limits = head.limits
    # Limits that are as before are not written, so they need not be sealed.
    if limits and (before is None or before.limits != limits):
        limits = key.seal(Kind.HEAD_LIMITS, log, 0, limits)
    return HeadRow(
        row.key,
        Head(
            head.version,
            head.user_id,
            core,
            limits,
            head.content_version,
            head.deleted,
            head.lease_expire_us,
            head.content_sizes,
            head.fork_seq,
            head.forked,
        ),
        row.created,
        row.update_time_us,
        row.expire_time_us,
        row.delete_time_us,
    )


def _request(key: DataKey, row: RequestRow) -> RequestRow:
    record, log = row.record, row.key[1]
    return RequestRow(
        row.key,
        row.request_id,
        RequestRecord(
            key.seal(Kind.FINGERPRINT, log, record.first_seq, record.fingerprint),
            record.first_seq,
            record.last_seq,
            key.seal(Kind.ANSWER, log, record.first_seq, record.answer) if record.answer else record.answer,
        ),
    )


def index_row(tokens: DataKey, row: IndexRow) -> IndexRow:
    """Names are people's words, of which the index has none; the core has them. Of metadata it has tokens."""
    metadata = None if row.metadata_json is None else metadata_tokens(tokens, row.metadata_json, stored=True)
    return replace(row, name="", metadata_json=metadata)


def run(key: DataKey, row: RunRow) -> RunRow:
    return replace(row, body=key.seal(Kind.RUN, row.key[1], row.place, row.body))


def tool_call(key: DataKey, row: ToolCallRow) -> ToolCallRow:
    return replace(row, body=key.seal(Kind.TOOL_CALL, row.key[1], row.seq, row.body))


def _attachment(key: DataKey, row: AttachmentRow) -> AttachmentRow:
    return replace(row, body=attachment_body(key, row.key[1], row.body))


def attachment_body(key: DataKey, log: str, body: bytes) -> bytes:
    """The body of an attachment, or of an upload. Its id is in it."""
    return key.seal(Kind.ATTACHMENT, log, 0, body) if body else body


def _spread(key: DataKey, row: Spread) -> Spread:
    """Text columns: what is sealed is in base 64."""
    seal = _sealed_text
    log = row.session_id
    return replace(row, reason=seal(key, log, row.seq, row.reason), title=seal(key, log, row.seq, row.title))


def _sealed_text(key: DataKey, log: str, item: int, text: str) -> str:
    return base64.b64encode(key.seal(Kind.SPREAD, log, item, text.encode())).decode() if text else text


def opened_text(keys: Mapping[int, DataKey], text: str) -> str:
    """A text that may be sealed. Raises NotAuthentic, and KeyError for a key that is not among these."""
    if not text.startswith("BnNkA"):
        return text
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return text
    return keys[sealed_by(data)].open(data)[0].decode() if is_sealed(data) else text


def document_log(scope: int, scope_id: str, key: str) -> str:
    """What a document's values are bound to. No session has such an id."""
    return f"\x02{scope}\x00{scope_id}\x00{key}"


def _document(key: DataKey, row: DocumentRow) -> DocumentRow:
    log = _log_of(row.key)
    return replace(
        row,
        body=key.seal(Kind.DOCUMENT_BODY, log, 0, row.body) if row.body else row.body,
        value=key.seal(Kind.DOCUMENT_VALUE, log, 0, row.value) if row.value else row.value,
    )


def _log_of(key: DocumentKey) -> str:
    return document_log(*key[1:])


def _document_request(key: DataKey, row: DocumentRequestRow) -> DocumentRequestRow:
    log = document_log(*row.owner[1:], "\x00" + row.request_id)
    record = DocumentRequest(
        key.seal(Kind.FINGERPRINT, log, 0, row.record.fingerprint),
        key.seal(Kind.DOCUMENT_CHANGE, log, 0, row.record.change) if row.record.change else row.record.change,
    )
    return replace(row, record=record)
