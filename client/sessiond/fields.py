"""Converts Python values to fields of requests."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict, Union, overload

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.structs import struct_of
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.message_pb2 import Role
from sessiond.v1.message_service_pb2 import MessageOrder
from sessiond.v1.run_pb2 import Run, RunFence
from sessiond.v1.session_pb2 import (
    AgentMode,
    Consistency,
    EndReason,
    SessionConfig,
    SessionStatus,
    SessionType,
    SessionView,
)
from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder

if TYPE_CHECKING:
    from sessiond.v1.attachment_pb2 import AttachmentType
    from sessiond.v1.run_pb2 import RunStatus
    from sessiond.v1.run_service_pb2 import RunPolicy
    from sessiond.v1.search_service_pb2 import SearchOrder
    from sessiond.v1.session_service_pb2 import RewindState, SessionAccess, StructUpdate
    from sessiond.v1.tool_call_pb2 import ToolCallExpireAction, ToolCallStatus
    from sessiond.v1.usage_service_pb2 import UsageDimension

# Enums are taken by name, in lower case and without prefix, or by value as the generated code has it. Union, because
# the generated value types exist for type checkers only, and a string cannot stand in `|`.
TypeLike = Union[Literal["agent", "team", "workflow"], "SessionType.ValueType"]
ModeLike = Union[Literal["build", "plan", "general"], "AgentMode.ValueType"]
StatusLike = Union[Literal["created", "active", "suspended", "ended"], "SessionStatus.ValueType"]
EndReasonLike = Union[Literal["client", "expired", "completed", "failed"], "EndReason.ValueType"]
ViewLike = Union[Literal["basic", "full"], "SessionView.ValueType"]
SessionAccessLike = Union[Literal["read", "append"], "SessionAccess.ValueType"]
ConsistencyLike = Union[Literal["cached", "strong"], "Consistency.ValueType"]
MessageOrderLike = Union[Literal["oldest_first", "newest_first"], "MessageOrder.ValueType"]
SessionOrderLike = Union[
    Literal["create_time_desc", "create_time_asc", "update_time_desc", "update_time_asc", "name_asc", "name_desc"],
    "SessionOrder.ValueType",
]
RewindStateLike = Union[Literal["restore", "keep"], "RewindState.ValueType"]
StructUpdateLike = Union[Literal["replace", "merge", "set_keys"], "StructUpdate.ValueType"]
SearchOrderLike = Union[Literal["newest_first", "relevance"], "SearchOrder.ValueType"]
UsageDimensionLike = Union[Literal["user", "day", "agent", "model"], "UsageDimension.ValueType"]
RoleLike = Union[Literal["system", "user", "assistant", "tool"], "Role.ValueType"]
RunStatusLike = Union[Literal["queued", "running", "completed", "failed", "cancelled"], "RunStatus.ValueType"]
RunPolicyLike = Union[Literal["reject", "enqueue", "interrupt"], "RunPolicy.ValueType"]
ToolCallStatusLike = Union[
    Literal["pending", "approved", "rejected", "running", "completed", "failed", "cancelled"],
    "ToolCallStatus.ValueType",
]
ToolCallExpireActionLike = Union[Literal["reject", "fail"], "ToolCallExpireAction.ValueType"]
AttachmentTypeLike = Union[Literal["image", "document", "code", "data", "other"], "AttachmentType.ValueType"]
EventTypeLike = Union[
    Literal[
        "session_created",
        "session_activated",
        "session_suspended",
        "session_resumed",
        "session_updated",
        "session_touched",
        "session_ended",
        "session_expired",
        "session_deleted",
        "session_forked",
        "session_rewound",
        "message_appended",
        "message_redacted",
        "messages_deleted",
        "run_queued",
        "run_started",
        "run_completed",
        "run_failed",
        "run_cancelled",
        "tool_call_requested",
        "tool_call_approved",
        "tool_call_rejected",
        "tool_call_started",
        "tool_call_completed",
        "tool_call_failed",
        "tool_call_cancelled",
        "tool_call_late_result",
        "tool_call_expired",
        "attachment_uploaded",
        "attachment_deleted",
        "document_put",
        "document_deleted",
        "summary_created",
    ],
    "EventType.ValueType",
]


Fence = Run | RunFence
"""The run that writes: the Run as BeginRun or its start returned it, or its RunFence."""


class SessionFields(TypedDict, total=False):
    """The fields of a session to create, all but its id. With `active` it is ACTIVE, else CREATED.

    `ttl` (seconds, if a number), `expire_time` and `no_expiry` exclude each other; without any of them, the service's
    default ttl applies. `runs` are the session's earlier runs in another system, oldest first, all of them ended. With
    `reuse_deleted` the id may be that of a deleted session of the same user, whose versions then go on.
    """

    type: TypeLike
    agent_id: str
    team_id: str
    workflow_id: str
    user_id: str
    agent_mode: ModeLike
    name: str
    active: bool
    labels: Mapping[str, str] | None
    ttl: timedelta | float | None
    expire_time: datetime | None
    client_time: datetime | None
    no_expiry: bool
    reuse_deleted: bool
    metadata: Mapping[str, Any] | None
    state: Mapping[str, Any] | None
    agent_data: Mapping[str, Any] | None
    summary: str
    config: SessionConfig | None
    runs: Iterable[Run]


class NewSessionFields(SessionFields, total=False):
    """One session of `Client.batch_create_sessions`. Without `session_id` the service generates the id."""

    session_id: str


class SessionChanges(TypedDict, total=False):
    """What to change in a session: the fields that are given. None or an empty value clears a field.

    `ttl` is in seconds, if a number. A SessionConfig replaces the config; a mapping writes the fields that it names.
    """

    agent_id: str
    team_id: str
    workflow_id: str
    agent_mode: ModeLike
    name: str
    labels: Mapping[str, str] | None
    ttl: timedelta | float | None
    expire_time: datetime | None
    client_time: datetime | None
    metadata: Mapping[str, Any] | None
    state: Mapping[str, Any] | None
    agent_data: Mapping[str, Any] | None
    summary: str
    config: SessionConfig | Mapping[str, Any] | None


class ChangedSession(SessionChanges, total=False):
    """One session of `Client.batch_update_sessions`: its id, and what to change in it. `struct_update` and
    `remove_keys` as in `Client.update_session`."""

    session_id: Required[str]
    struct_update: StructUpdateLike
    remove_keys: Iterable[str]
    expected_version: int


class SessionWhere(TypedDict, total=False):
    """The filter of a list of sessions: a session must match all given fields; see `SessionFilter`."""

    type: TypeLike
    component_id: str
    agent_id: str
    team_id: str
    workflow_id: str
    user_id: str
    statuses: Sequence[StatusLike]
    name_contains: str
    labels: Mapping[str, str]
    metadata: Mapping[str, Any]
    create_time_from: datetime
    create_time_until: datetime
    update_time_from: datetime
    update_time_until: datetime


def enum_value(enum: EnumDescriptor, value: str | int | None) -> Any:
    """Returns the enum's number for a name such as "active"; 0 for None. Raises ValueError for an unknown name."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    member = enum.values_by_name.get(prefix + value.upper())
    if member is None or not member.number:
        names = (member.name.removeprefix(prefix).lower() for member in enum.values if member.number)
        raise ValueError(f"{enum.name}: must be one of {', '.join(names)}")
    return member.number


def timestamp(value: datetime) -> Timestamp:
    """Raises ValueError for a datetime without a time zone, which could mean any of 24 hours."""
    if value.tzinfo is None:
        raise ValueError("a datetime needs a time zone, such as datetime.UTC")
    result = Timestamp()
    result.FromDatetime(value.astimezone(UTC))
    return result


def duration(value: timedelta | float) -> Duration:
    """A number means seconds."""
    result = Duration()
    result.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=value))
    return result


@overload
def run_fence(run: Fence) -> RunFence: ...


@overload
def run_fence(run: Fence | None) -> RunFence | None: ...


def run_fence(run: Fence | None) -> RunFence | None:
    """Returns the fence that a request carries for a run."""
    return RunFence(run_id=run.run_id, fence=run.fence) if isinstance(run, Run) else run


def session_filter(where: SessionWhere) -> SessionFilter:
    """Raises TypeError for a name that the filter does not have."""
    fields: dict[str, Any] = {**where}
    if "type" in fields:
        fields["type"] = enum_value(SessionType.DESCRIPTOR, fields["type"])
    if "statuses" in fields:
        fields["statuses"] = [enum_value(SessionStatus.DESCRIPTOR, status) for status in fields["statuses"]]
    if "metadata" in fields:
        fields["metadata"] = struct_of(fields["metadata"])
    for name in fields.keys() & _TIMES:
        fields[name] = timestamp(fields[name])
    unknown = fields.keys() - SessionFilter.DESCRIPTOR.fields_by_name.keys()
    if unknown:
        raise TypeError(f"no such filter: {min(unknown)}")
    return SessionFilter(**fields)


_TIMES = {"create_time_from", "create_time_until", "update_time_from", "update_time_until"}
