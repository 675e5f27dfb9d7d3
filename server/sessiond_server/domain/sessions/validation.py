"""Validates sessions by the rules that their proto comments state. See domain/validation.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from google.protobuf.duration_pb2 import Duration

from sessiond.v1.session_pb2 import AgentMode, Session, SessionConfig, SessionStatus, SessionType
from sessiond_server.domain import text, validation
from sessiond_server.domain.validation import FieldViolations

STATE_BYTES: Final = validation.MIB
CONTENT_BYTES: Final = 3 * validation.MIB + 256 * validation.KIB
"""Most bytes of a session's content, with the runs that it is created with. Keeps every event below 3.5 MiB, and so
every answer below the 4 MiB that gRPC's clients take by default."""
SUMMARY_CHARACTERS: Final = 65_536
SYSTEM_PROMPT_CHARACTERS: Final = 262_144
TOOLS: Final = 256
TTL_SECONDS: Final = (1, 3650 * 24 * 3600)
_CONFIG_LIMITS: Final = {
    "max_messages": 1_000_000_000,
    "max_attachments": 1_000_000,
    "max_attachment_bytes": validation.MOST_INTEGER,
}
CONFIG_FIELDS: Final = frozenset(SessionConfig.DESCRIPTOR.fields_by_name)


def life_time(found: FieldViolations, path: str, value: Duration) -> None:
    """Checks a duration of 1 second to 3650 days."""
    least, most = TTL_SECONDS
    valid = 0 <= value.nanos <= 999_999_999
    if not valid or not least <= value.seconds <= most or (value.seconds == most and value.nanos > 0):
        found.add(path, "must be 1 second to 3650 days")


def config(found: FieldViolations, path: str, value: SessionConfig) -> None:
    for name in sorted(CONFIG_FIELDS):
        config_field(found, path, value, name)


def config_field(found: FieldViolations, path: str, value: SessionConfig, name: str) -> None:
    """Checks one field of a config, by its name in CONFIG_FIELDS."""
    here = f"{path}.{name}"
    if name == "system_prompt":
        found.add(here, text.text(value.system_prompt, SYSTEM_PROMPT_CHARACTERS))
    elif name == "allowed_tools":
        _tools(found, here, value.allowed_tools)
    elif name == "blocked_tools":
        _tools(found, here, value.blocked_tools)
    elif not 0 <= getattr(value, name) <= _CONFIG_LIMITS[name]:
        found.add(here, f"must be 0 to {_CONFIG_LIMITS[name]}")


def _tools(found: FieldViolations, path: str, names: Sequence[str]) -> None:
    if len(names) > TOOLS:
        found.add(path, f"must be at most {TOOLS}")
    for index, name in enumerate(names):
        if found.enough:
            return
        found.add(f"{path}[{index}]", text.line(name, 1, 128))


def new_session(found: FieldViolations, path: str, session: Session) -> None:
    """Checks a session to create. `session_id` may be empty; type, mode and status may be unspecified."""
    if session.session_id:
        found.add(f"{path}.session_id", text.identifier(session.session_id))
    validation.enum(found, f"{path}.type", session.type, SessionType.DESCRIPTOR)
    found.add(f"{path}.user_id", text.optional_identifier(session.user_id))
    if session.status not in (
        SessionStatus.SESSION_STATUS_UNSPECIFIED,
        SessionStatus.SESSION_STATUS_CREATED,
        SessionStatus.SESSION_STATUS_ACTIVE,
    ):
        found.add(f"{path}.status", "must be SESSION_STATUS_CREATED or SESSION_STATUS_ACTIVE")
    for field, _ in session.ListFields():
        if field.name in _MUTABLE:
            mutable_field(found, path, session, field.name)
    if session.HasField("ttl") and session.HasField("expire_time"):
        found.add(f"{path}.expire_time", EXCLUSIVE_RULE)


EXCLUSIVE_RULE: Final = "excludes ttl: set one of them"


def content_size(found: FieldViolations, path: str, size: int) -> None:
    """Checks the size of the content, and the runs of a new session."""
    if size > CONTENT_BYTES:
        found.add(path, f"must have at most {CONTENT_BYTES} bytes of content in all")


def mutable_field(found: FieldViolations, path: str, session: Session, name: str) -> None:
    """Checks one field of MUTABLE_FIELDS. An unset field is always valid: in an update it clears the stored one."""
    _MUTABLE[name](found, f"{path}.{name}", session)


def _id_of(field: str) -> Callable[[FieldViolations, str, Session], None]:
    return lambda found, path, session: found.add(path, text.optional_identifier(getattr(session, field)))


def _object(field: str, most_bytes: int) -> Callable[[FieldViolations, str, Session], None]:
    return lambda found, path, session: validation.struct(found, path, getattr(session, field), most_bytes)


def _ttl(found: FieldViolations, path: str, session: Session) -> None:
    if session.HasField("ttl"):
        life_time(found, path, session.ttl)


def _expire_time(found: FieldViolations, path: str, session: Session) -> None:
    if session.HasField("expire_time"):
        validation.timestamp(found, path, session.expire_time)


def _client_time(found: FieldViolations, path: str, session: Session) -> None:
    if session.HasField("client_time"):
        validation.timestamp(found, path, session.client_time)


_MUTABLE: Final[Mapping[str, Callable[[FieldViolations, str, Session], None]]] = {
    "agent_id": _id_of("agent_id"),
    "team_id": _id_of("team_id"),
    "workflow_id": _id_of("workflow_id"),
    "agent_mode": lambda found, path, session: validation.enum(found, path, session.agent_mode, AgentMode.DESCRIPTOR),
    "name": lambda found, path, session: found.add(path, text.text(session.name, 200)),
    "labels": lambda found, path, session: validation.labels(found, path, session.labels),
    "ttl": _ttl,
    "expire_time": _expire_time,
    "metadata": _object("metadata", validation.METADATA_BYTES),
    "state": _object("state", STATE_BYTES),
    "agent_data": _object("agent_data", STATE_BYTES),
    "summary": lambda found, path, session: found.add(path, text.text(session.summary, SUMMARY_CHARACTERS)),
    "config": lambda found, path, session: config(found, path, session.config),
    "client_time": _client_time,
}
MUTABLE_FIELDS: Final = tuple(_MUTABLE)
"""Fields of Session that an update may change, in the order of UpdateSessionRequest.update_mask's comment."""
