"""Checks of the requests of SessionService: one function per RPC, with the RPC's name.

Each function checks the whole request and raises InvalidFields with all violations (at most InvalidFields.MOST).
Otherwise it returns the action of a mutation, the options of a read with defaults applied, or None if the handler needs
nothing else. Requests are never changed; an action may refer to messages of its request.

Not checked here: page tokens, which are signed and checked when they are opened, and everything that needs the stored
session or a clock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from sessiond.v1.session_pb2 import (
    AgentMode,
    EndReason,
    Session,
    SessionStatus,
    SessionType,
    SessionView,
)
from sessiond.v1.session_service_pb2 import (
    ActivateSessionRequest,
    BatchCreateSessionsRequest,
    BatchDeleteSessionsRequest,
    BatchGetSessionsRequest,
    BatchUpdateSessionsRequest,
    CountSessionsRequest,
    CreateSessionRequest,
    CreateSessionTokenRequest,
    DeleteSessionRequest,
    EndSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
    ResumeSessionRequest,
    SessionAccess,
    SessionFilter,
    SessionOrder,
    SuspendSessionRequest,
    TouchSessionRequest,
    UpdateSessionRequest,
)
from sessiond_server.domain import commands, ids, text, validation
from sessiond_server.domain.sessions import validation as session_validation
from sessiond_server.domain.sessions.parts import content_of
from sessiond_server.domain.times import microseconds
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc import as_of, fields
from sessiond_server.rpc.runs import checks as run_requests
from sessiond_server.rpc.sessions import updates

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    from sessiond.v1.run_pb2 import Run

BATCH: Final = 100
TOKEN_TTL: Final = (300.0, 3600.0)
"""Seconds: (default, most)."""
SESSIONS_PAGE: Final = (20, 100)
FILTER_LABELS: Final = 16
FILTER_STATUSES: Final = 4
FILTER_METADATA_BYTES: Final = 4 * validation.KIB

OUTPUT_ONLY: Final = (
    "end_reason",
    "create_time",
    "update_time",
    "last_activity_time",
    "end_time",
    "request_count",
    "message_count",
    "run_count",
    "usage",
    "version",
    "content_version",
    "base_version",
    "attachment_count",
    "attachment_bytes",
    "live_run_id",
    "live_run_fence",
    "queued_run_count",
    "open_tool_call_count",
    "pending_approval_count",
    "last_event_id",
    "summary_seq",
    "forked_from",
    "rewound",
    "template",
)
"""Fields of Session that clients cannot set; except on create, `status` is another."""


@dataclass(frozen=True, slots=True)
class SessionRead:
    """Options of a read of sessions."""

    full: bool
    """True for SESSION_VIEW_FULL, False for SESSION_VIEW_BASIC."""
    strong: bool
    """True for CONSISTENCY_STRONG, False for CONSISTENCY_CACHED."""
    past: bool = False
    """Whether it is as of a place, or of a time."""


@dataclass(frozen=True, slots=True)
class SessionsList:
    """A requested page of sessions."""

    order_by: SessionOrder.ValueType
    limit: int
    """Page size: 1 to 100."""
    full: bool
    strong: bool


def create_session(
    request: CreateSessionRequest, scope: commands.Scope, new_id: Callable[[], str] = ids.uuid7
) -> commands.CreateSession:
    """The action. Its session is a copy with output-only fields cleared, defaults set, and an id if there was none.

    A scope with a user sets `user_id`, and refuses another user and a session id without the user's prefix. If the
    request has neither a session id nor a request id, `new_id` makes the session's id.
    """
    found = FieldViolations()
    fields.request_id(found, request)
    found.add("template_id", text.optional_identifier(request.template_id))
    check_new(found, "", request, scope)
    found.check()
    return creation(request, scope, id_of(request, scope, request.request_id, new_id))


class New(Protocol):
    """The fields that CreateSessionRequest and NewSession share."""

    @property
    def session(self) -> Session: ...
    @property
    def runs(self) -> "RepeatedCompositeFieldContainer[Run]": ...
    @property
    def no_expiry(self) -> bool: ...
    @property
    def reuse_deleted(self) -> bool: ...

    def HasField(self, field_name: Literal["session"]) -> bool: ...  # noqa: N802 - protobuf's name


def check_new(found: FieldViolations, prefix: str, new: New, scope: commands.Scope) -> None:
    """`prefix`: what the names of the fields begin with in violations, such as `sessions[3].`."""
    path, session = f"{prefix}session", new.session
    if not new.HasField("session"):
        found.add(path, "is required")
    session_validation.new_session(found, path, session)
    if scope.user_id and session.user_id not in ("", scope.user_id):
        found.add(f"{path}.user_id", "must be the user that the key is bound to")
    if scope.user_id and session.session_id:
        # Otherwise a taken id would reveal sessions of other users (docs/decisions/0022-ids-of-bound-keys.md).
        own = ids.own_prefix(scope.user_id)
        if not session.session_id.startswith(own):
            found.add(f"{path}.session_id", f"must begin with {own} as the key is bound to a user")
    if new.no_expiry and (session.HasField("ttl") or session.HasField("expire_time")):
        found.add(f"{prefix}no_expiry", "excludes ttl and expire_time")
    run_requests.preset_runs(found, f"{prefix}runs", new.runs)
    size = len(content_of(session)) if session.ByteSize() > validation.MIB else 0
    session_validation.content_size(found, path, size + sum(run.ByteSize() for run in new.runs))


def id_of(new: New, scope: commands.Scope, request_id: str, new_id: Callable[[], str]) -> str:
    """The session's id: the caller's, or one that a retry with the same request id gets again."""
    if new.session.session_id:
        return new.session.session_id
    return ids.derived(scope.tenant_id, scope.user_id, request_id) if request_id else new_id()


def creation(new: New, scope: commands.Scope, session_id: str, prefix: str = "") -> commands.CreateSession:
    """The action for a checked session."""
    session = Session()
    session.CopyFrom(new.session)
    for name in OUTPUT_ONLY:
        session.ClearField(name)
    session.session_id = session_id
    session.type = session.type or SessionType.SESSION_TYPE_AGENT
    session.agent_mode = session.agent_mode or AgentMode.AGENT_MODE_GENERAL
    session.status = session.status or SessionStatus.SESSION_STATUS_CREATED
    session.user_id = session.user_id or scope.user_id
    return commands.CreateSession(session, new.runs, new.no_expiry, prefix, new.reuse_deleted)


def batch_create_sessions(
    request: BatchCreateSessionsRequest, scope: commands.Scope, new_id: Callable[[], str] = ids.uuid7
) -> list[commands.CreateSession]:
    """The action for each session, as create_session makes it."""
    found = FieldViolations()
    fields.request_id(found, request)
    if not 1 <= len(request.sessions) <= BATCH:
        found.add("sessions", f"must be 1 to {BATCH}")
        found.check()
    seen: dict[str, int] = {}
    for index, new in enumerate(request.sessions):
        if found.enough:
            break
        check_new(found, f"sessions[{index}].", new, scope)
        if session_id := new.session.session_id:
            _once(found, f"sessions[{index}].session.session_id", seen, session_id, index, "sessions")
    found.check()
    actions = []
    for index, new in enumerate(request.sessions):
        # A request id has no "/": no single creation derives the same id.
        request_id = request.request_id and f"{request.request_id}/{index}"
        session_id = id_of(new, scope, request_id, new_id)
        actions.append(creation(new, scope, session_id, f"sessions[{index}]."))
    return actions


def _once(found: FieldViolations, path: str, seen: dict[str, int], session_id: str, index: int, items: str) -> None:
    first = seen.setdefault(session_id, index)
    if first != index:
        found.add(path, f"is that of {items}[{first}]")


def get_session(request: GetSessionRequest) -> SessionRead:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.not_negative(found, "min_version", request.min_version)
    full = fields.full_view(found, request.view)
    strong = fields.consistency(found, request.consistency)
    past = as_of.check(found, request)
    found.check()
    return SessionRead(full, strong, past)


def batch_get_sessions(request: BatchGetSessionsRequest) -> SessionRead:
    found = FieldViolations()
    _session_ids(found, request.session_ids)
    if request.min_versions and len(request.min_versions) != len(request.session_ids):
        found.add("min_versions", "must be one for each of session_ids, or none")
    for index, version in enumerate(request.min_versions[:BATCH]):
        fields.not_negative(found, f"min_versions[{index}]", version)
    full = fields.full_view(found, request.view, SessionView.SESSION_VIEW_BASIC)
    strong = fields.consistency(found, request.consistency)
    found.check()
    return SessionRead(full, strong)


def list_sessions(request: ListSessionsRequest) -> SessionsList:
    found = FieldViolations()
    check_filter(found, request.filter)
    validation.enum(found, "order_by", request.order_by, SessionOrder.DESCRIPTOR)
    limit = fields.page_size(found, request.page_size, SESSIONS_PAGE)
    full = fields.full_view(found, request.view, SessionView.SESSION_VIEW_BASIC)
    strong = fields.consistency(found, request.consistency)
    found.check()
    return SessionsList(request.order_by or SessionOrder.SESSION_ORDER_CREATE_TIME_DESC, limit, full, strong)


def count_sessions(request: CountSessionsRequest) -> fields.Read:
    found = FieldViolations()
    check_filter(found, request.filter)
    strong = fields.consistency(found, request.consistency)
    found.check()
    return fields.Read(strong)


def update_session(request: UpdateSessionRequest) -> commands.UpdateSession:
    found = FieldViolations()
    fields.check_write(found, request)
    fields.fence(found, request)
    if request.HasField("session"):
        found.add("session.session_id", text.identifier(request.session.session_id))
    full = fields.full_view(found, request.view)
    update = updates.check(found, "", request, full=full)
    found.check()
    return update


def batch_update_sessions(request: BatchUpdateSessionsRequest) -> list[commands.UpdateSession]:
    """The action for each session."""
    found = FieldViolations()
    fields.request_id(found, request)
    if not 1 <= len(request.updates) <= BATCH:
        found.add("updates", f"must be 1 to {BATCH}")
        found.check()
    if request.expected_versions and len(request.expected_versions) != len(request.updates):
        found.add("expected_versions", "must be one for each of updates, or none")
    for index, version in enumerate(request.expected_versions[:BATCH]):
        fields.not_negative(found, f"expected_versions[{index}]", version)
    seen: dict[str, int] = {}
    actions: list[commands.UpdateSession] = []
    for index, update in enumerate(request.updates):
        if found.enough:
            break
        path = f"updates[{index}].session.session_id"
        found.add(path, text.identifier(update.session.session_id))
        _once(found, path, seen, update.session.session_id, index, "updates")
        actions.append(updates.check(found, f"updates[{index}].", update, full=False))
    found.check()
    return actions


def activate_session(request: ActivateSessionRequest) -> commands.ActivateSession:
    fields.named_write(request)
    return commands.ActivateSession()


def suspend_session(request: SuspendSessionRequest) -> commands.SuspendSession:
    fields.named_write(request)
    return commands.SuspendSession()


def resume_session(request: ResumeSessionRequest) -> commands.ResumeSession:
    fields.named_write(request)
    return commands.ResumeSession()


def end_session(request: EndSessionRequest) -> commands.EndSession:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.check_write(found, request)
    validation.enum(found, "reason", request.reason, EndReason.DESCRIPTOR)
    if request.reason == EndReason.END_REASON_EXPIRED:
        found.add("reason", "must not be END_REASON_EXPIRED, which is the server's alone")
    found.check()
    return commands.EndSession(request.reason or EndReason.END_REASON_CLIENT)


def touch_session(request: TouchSessionRequest) -> commands.TouchSession:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.check_write(found, request)
    if request.HasField("extend"):
        session_validation.life_time(found, "extend", request.extend)
    found.check()
    return commands.TouchSession(microseconds(request.extend))


def delete_session(request: DeleteSessionRequest) -> commands.DeleteSession:
    fields.named_write(request)
    return commands.DeleteSession()


def batch_delete_sessions(request: BatchDeleteSessionsRequest) -> commands.DeleteSession:
    """The action for each of `session_ids`."""
    found = FieldViolations()
    _session_ids(found, request.session_ids)
    fields.request_id(found, request)
    found.check()
    return commands.DeleteSession()


def _session_ids(found: FieldViolations, values: Sequence[str]) -> None:
    if not 1 <= len(values) <= BATCH:
        found.add("session_ids", f"must be 1 to {BATCH}")
        return
    seen: dict[str, int] = {}
    for index, value in enumerate(values):
        rule = text.identifier(value)
        first = seen.setdefault(value, index)
        found.add(f"session_ids[{index}]", rule or (None if first == index else f"is that of session_ids[{first}]"))


def check_filter(found: FieldViolations, where: SessionFilter) -> None:
    validation.enum(found, "filter.type", where.type, SessionType.DESCRIPTOR)
    for name in ("component_id", "agent_id", "team_id", "workflow_id", "user_id"):
        found.add(f"filter.{name}", text.line(getattr(where, name), 0, text.ID_BYTES))
    if len(where.statuses) > FILTER_STATUSES:
        found.add("filter.statuses", f"must be at most {FILTER_STATUSES}")
    for index, status in enumerate(where.statuses[:FILTER_STATUSES]):
        if status == SessionStatus.SESSION_STATUS_UNSPECIFIED or status not in SessionStatus.values():
            found.add(f"filter.statuses[{index}]", "must be a known status")
    found.add("filter.name_contains", text.text(where.name_contains, 200))
    validation.labels(found, "filter.labels", where.labels, FILTER_LABELS)
    if where.HasField("metadata"):
        validation.struct(found, "filter.metadata", where.metadata, FILTER_METADATA_BYTES)
    fields.time_range(found, where, "create_time")
    fields.time_range(found, where, "update_time")


@dataclass(frozen=True, slots=True)
class WantedToken:
    """What CreateSessionToken asks for."""

    append: bool
    ttl: float
    """Seconds."""


def create_session_token(request: CreateSessionTokenRequest) -> WantedToken:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    validation.enum(found, "access", request.access, SessionAccess.DESCRIPTOR)
    default, most = TOKEN_TTL
    ttl = request.ttl.seconds + request.ttl.nanos / 1e9 if request.HasField("ttl") else default
    if not 1 <= ttl <= most:
        found.add("ttl", f"must be 1 to {most:g} seconds")
    found.check()
    return WantedToken(request.access == SessionAccess.SESSION_ACCESS_APPEND, ttl)
