"""Checks of the requests of MessageService: one function per RPC. See rpc/sessions/checks.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sessiond.v1.message_service_pb2 import (
    AppendMessagesRequest,
    DeleteMessagesRequest,
    ListMessagesRequest,
    MessageFilter,
    MessageOrder,
    RedactMessageRequest,
)
from sessiond_server.domain import commands, text, validation
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.messages import validation as message_validation
from sessiond_server.domain.messages.selection import Selection
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc import as_of, fields
from sessiond_server.rpc.documents import checks as documents
from sessiond_server.rpc.sessions import updates

MESSAGES: Final = 256
APPEND_BYTES: Final = 3 * validation.MIB
MESSAGES_PAGE: Final = (50, 1000)
FILTER_LABELS: Final = 16
FILTER_ROLES: Final = 4
"""Most roles of a filter: each is one of as many."""


@dataclass(frozen=True, slots=True)
class MessagesList:
    """A requested page of messages."""

    descending: bool
    """Whether the newest messages come first."""
    limit: int
    """Page size: 1 to 1000."""
    strong: bool
    selection: Selection | None
    """None: all messages."""
    filter: bytes
    """The filter, to bind page tokens to; equal for equal filters. Empty: all messages."""
    include_rewound: bool


def append_messages(
    request: AppendMessagesRequest, scope: Scope, most_bytes: int = message_validation.MESSAGE_BYTES
) -> commands.AppendMessages:
    """The action; an UpdateAndAppend if the request has an update. Its messages and documents are the request's own
    objects; the rules overwrite their output-only fields. `most_bytes`: largest message. Raises DocumentReadOnly."""
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.check_write(found, request)
    messages = request.messages
    if not 1 <= len(messages) <= MESSAGES:
        found.add("messages", f"must be 1 to {MESSAGES}")
        found.check()
    fields.fence(found, request)
    run_id = request.run.run_id
    together = 0
    seen: dict[str, int] = {}
    for index, message in enumerate(messages):
        if found.enough:
            break
        size = message.ByteSize()
        together += size
        path = f"messages[{index}]"
        message_validation.new_message(found, path, message, size, most_bytes)
        if run_id and message.run_id not in ("", run_id):
            found.add(f"{path}.run_id", "must be that of the request's run")
        if message_id := message.message_id:
            first = seen.setdefault(message_id, index)
            if first != index:
                found.add(f"{path}.message_id", f"is that of messages[{first}]")
    if together > APPEND_BYTES:
        found.add("messages", f"must be at most {APPEND_BYTES} bytes together")
    writes = documents.appended(found, request.session_id, request.documents, scope) if request.documents else ()
    if request.HasField("update"):
        return _update_and_append(found, request, writes)
    found.check()
    return commands.AppendMessages(messages, documents=writes)


def _update_and_append(
    found: FieldViolations, request: AppendMessagesRequest, writes: Sequence[commands.DocumentWrite]
) -> commands.UpdateAndAppend:
    update = updates.check(found, "update.", request.update, full=False)
    if request.update.session.session_id not in ("", request.session_id):
        found.add("update.session.session_id", "must be empty, or that of the request")
    found.check()
    return commands.UpdateAndAppend(request.messages, update, documents=writes)


def list_messages(request: ListMessagesRequest) -> MessagesList:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    validation.enum(found, "order_by", request.order_by, MessageOrder.DESCRIPTOR)
    limit = fields.page_size(found, request.page_size, MESSAGES_PAGE)
    fields.not_negative(found, "after_seq", request.after_seq)
    fields.not_negative(found, "before_seq", request.before_seq)
    fields.not_negative(found, "min_version", request.min_version)
    strong = fields.consistency(found, request.consistency)
    where = request.filter
    _filter(found, where)
    if as_of.check(found, request) and request.include_rewound:
        found.add("include_rewound", "excludes as_of_seq and as_of_time")
    found.check()
    bound_to = where.SerializeToString(deterministic=True)
    selection = Selection(where) if bound_to else None
    descending = request.order_by == MessageOrder.MESSAGE_ORDER_NEWEST_FIRST
    return MessagesList(descending, limit, strong, selection, bound_to, request.include_rewound)


def _filter(found: FieldViolations, where: MessageFilter) -> None:
    validation.labels(found, "filter.labels", where.labels, FILTER_LABELS)
    if len(where.roles) > FILTER_ROLES:
        found.add("filter.roles", f"must be at most {FILTER_ROLES}")
    for index, role in enumerate(where.roles[:FILTER_ROLES]):
        if not 1 <= role <= FILTER_ROLES:
            found.add(f"filter.roles[{index}]", "must be a known role")
    found.add("filter.name", text.line(where.name, 0, 128))
    if where.run_id:
        found.add("filter.run_id", text.identifier(where.run_id))
    fields.time_range(found, where, "client_time")


def redact_message(request: RedactMessageRequest) -> commands.RedactMessage:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.check_write(found, request)
    found.add("message_id", text.identifier(request.message_id))
    found.add("reason", text.text(request.reason, 200))
    found.check()
    return commands.RedactMessage(request.message_id, request.reason)


def delete_messages(request: DeleteMessagesRequest) -> commands.DeleteMessages:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.check_write(found, request)
    fields.fence(found, request)
    selection = request.WhichOneof("selection")
    if selection == "ids":
        _message_ids(found, request.ids.message_ids)
    elif selection == "range":
        if request.range.from_seq < 1:
            found.add("range.from_seq", "must be at least 1")
        if request.range.to_seq < request.range.from_seq:
            found.add("range.to_seq", "must be at least from_seq")
    elif selection == "last_n":
        if not 1 <= request.last_n <= commands.DELETED_AT_ONCE:
            found.add("last_n", f"must be 1 to {commands.DELETED_AT_ONCE}")
    else:
        found.add("ids", "must be set, or else range or last_n")
    found.check()
    return commands.DeleteMessages(
        tuple(request.ids.message_ids),
        request.range.from_seq,
        request.range.to_seq,
        request.last_n,
        request.return_messages,
    )


def _message_ids(found: FieldViolations, values: Sequence[str]) -> None:
    if not 1 <= len(values) <= commands.DELETED_AT_ONCE:
        found.add("ids.message_ids", f"must be 1 to {commands.DELETED_AT_ONCE}")
        return
    seen: dict[str, int] = {}
    for index, value in enumerate(values):
        if found.enough:
            return
        first = seen.setdefault(value, index)
        rule = text.identifier(value)
        found.add(
            f"ids.message_ids[{index}]", rule or (None if first == index else f"is that of ids.message_ids[{first}]")
        )


def weight(action: commands.DeleteMessages) -> int:
    """Bytes that a deletion counts in the bound of a batch, besides its request: as an estimate, those of the messages
    that it reads."""
    return 4 * validation.KIB * (len(action.message_ids) or action.last_n or commands.DELETED_AT_ONCE)
