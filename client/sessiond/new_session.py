"""Keyword arguments as a session to create."""

from typing import Any

from sessiond.fields import NewSessionFields, duration, enum_value, timestamp
from sessiond.structs import struct_of
from sessiond.v1.session_pb2 import AgentMode, Session, SessionStatus, SessionType
from sessiond.v1.session_service_pb2 import NewSession


def new_session(fields: NewSessionFields) -> NewSession:
    """Raises ValueError for a field that sessions do not have."""
    unknown = fields.keys() - NewSessionFields.__annotations__.keys()
    if unknown:
        raise ValueError(f"a new session has no such field: {min(unknown)}")
    values: dict[str, Any] = {**fields}
    runs, active = values.pop("runs", ()), values.pop("active", False)
    no_expiry, reuse_deleted = values.pop("no_expiry", False), values.pop("reuse_deleted", False)
    for name in ("metadata", "state", "agent_data"):
        if values.get(name) is not None:
            values[name] = struct_of(values[name])
    for name, convert in (("ttl", duration), ("expire_time", timestamp), ("client_time", timestamp)):
        if values.get(name) is not None:
            values[name] = convert(values[name])
    session = Session(
        **values
        | {
            "type": enum_value(SessionType.DESCRIPTOR, values.get("type", "agent")),
            "agent_mode": enum_value(AgentMode.DESCRIPTOR, values.get("agent_mode", "general")),
            "status": SessionStatus.SESSION_STATUS_ACTIVE if active else SessionStatus.SESSION_STATUS_CREATED,
        }
    )
    return NewSession(session=session, runs=runs, no_expiry=no_expiry, reuse_deleted=reuse_deleted)
