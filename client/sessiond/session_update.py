"""Keyword arguments as an update of a session: the mask names exactly what was given."""

from collections.abc import Iterable, Mapping
from typing import Any

from sessiond.fields import SessionChanges, StructUpdateLike, duration, enum_value, timestamp
from sessiond.structs import struct_of
from sessiond.v1.session_pb2 import AgentMode, Session, SessionConfig
from sessiond.v1.session_service_pb2 import SessionUpdate, StructUpdate


def session_update(
    changes: SessionChanges, struct_update: StructUpdateLike, remove_keys: Iterable[str]
) -> SessionUpdate:
    """Raises ValueError when nothing is given, for a field that sessions do not have, and for an unknown field of a
    config."""
    update = SessionUpdate(
        session=Session(),
        struct_update=enum_value(StructUpdate.DESCRIPTOR, struct_update),
        remove_keys=remove_keys,
    )
    unknown = changes.keys() - SessionChanges.__annotations__.keys()
    if unknown:
        raise ValueError(f"a session has no such field to change: {min(unknown)}")
    for name, value in changes.items():
        update.update_mask.paths.extend(_write(update.session, name, value))
    if not update.update_mask.paths and not update.remove_keys:
        raise ValueError("an update needs at least one field")
    return update


def _write(session: Session, name: str, value: Any) -> list[str]:
    """Sets the field, unless the value clears it, and returns the paths for the mask."""
    match name:
        case "metadata" | "state" | "agent_data" if value is not None:
            getattr(session, name).CopyFrom(struct_of(value))
        case "labels":
            session.labels.update(value or {})
        case "ttl" if value is not None:
            session.ttl.CopyFrom(duration(value))
        case "expire_time" | "client_time" if value is not None:
            getattr(session, name).CopyFrom(timestamp(value))
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
