"""Builds an UpdateSessionRequest from keyword arguments. Its mask names exactly the given fields."""

from collections.abc import Mapping
from typing import Any

from sessiond.fields import UNSET, duration, enum_value, timestamp
from sessiond.structs import to_struct
from sessiond.v1.session_pb2 import AgentMode, Session, SessionConfig
from sessiond.v1.session_service_pb2 import StructUpdate, UpdateSessionRequest


def update_request(session: Session, given: Mapping[str, Any], *, merge: bool) -> UpdateSessionRequest:
    """Fills in `session`, which has only its id. Raises ValueError when all of `given` is UNSET, and for an unknown
    field of a config."""
    request = UpdateSessionRequest(
        session=session,
        struct_update=StructUpdate.STRUCT_UPDATE_MERGE if merge else StructUpdate.STRUCT_UPDATE_REPLACE,
    )
    for name, value in given.items():
        if value is not UNSET:
            request.update_mask.paths.extend(_write(request.session, name, value))
    if not request.update_mask.paths:
        raise ValueError("an update needs at least one field")
    return request


def _write(session: Session, name: str, value: Any) -> list[str]:
    """Sets the field, unless the value clears it, and returns the paths for the mask."""
    match name:
        case "metadata" | "state" | "agent_data" if value is not None:
            getattr(session, name).CopyFrom(to_struct(value))
        case "labels":
            session.labels.update(value or {})
        case "ttl" if value is not None:
            session.ttl.CopyFrom(duration(value))
        case "expire_time" if value is not None:
            session.expire_time.CopyFrom(timestamp(value))
        case "agent_mode":
            session.agent_mode = enum_value(AgentMode.DESCRIPTOR, value)
        case "config" if isinstance(value, Mapping):
            unknown = value.keys() - SessionConfig.DESCRIPTOR.fields_by_name.keys()
            if unknown:
                raise ValueError(f"config: no such field: {min(unknown)}")
            session.config.CopyFrom(SessionConfig(**value))
            return [f"config.{field}" for field in value]
        case "config" if value is not None:
            session.config.CopyFrom(value)
        case "agent_id" | "team_id" | "workflow_id" | "name" | "summary":
            setattr(session, name, value)
    return [name]
