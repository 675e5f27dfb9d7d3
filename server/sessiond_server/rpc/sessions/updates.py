"""Checks what an update of a session writes, for UpdateSession and for writes that update a session along the way."""

from collections.abc import Sequence
from typing import Final, Literal, Protocol

from google.protobuf.field_mask_pb2 import FieldMask

from sessiond.v1.session_pb2 import AgentMode, Session
from sessiond.v1.session_service_pb2 import StructUpdate
from sessiond_server.domain import commands, text, validation
from sessiond_server.domain.sessions import validation as session_validation
from sessiond_server.domain.validation import FieldViolations

REMOVED_KEYS: Final = 1000
REMOVED_KEY_BYTES: Final = 1024
_OBJECTS: Final = ("metadata", "state", "agent_data")


class Update(Protocol):
    """The fields that UpdateSessionRequest and SessionUpdate share."""

    @property
    def session(self) -> Session: ...
    @property
    def update_mask(self) -> FieldMask: ...
    @property
    def struct_update(self) -> StructUpdate.ValueType: ...
    @property
    def remove_keys(self) -> Sequence[str]: ...

    def HasField(self, field_name: Literal["session"]) -> bool: ...  # noqa: N802 - protobuf's name


def check(found: FieldViolations, prefix: str, update: Update, *, full: bool) -> commands.UpdateSession:
    """Checks all but the session's id, and returns the action, which is good for use if nothing was found. `prefix`:
    what the names of the update's fields begin with in violations, such as `update.`. `full`: whether the outcome has
    the session's content.

    Only the fields of the mask are checked; without one, the mutable fields that are set are the mask.
    """
    validation.enum(found, f"{prefix}struct_update", update.struct_update, StructUpdate.DESCRIPTOR)
    session, here = update.session, f"{prefix}session"
    if not update.HasField("session"):
        found.add(here, "is required")
    paths = _paths(found, prefix, update)
    for path in paths:
        name, _, config_field = path.partition(".")
        if config_field:
            session_validation.config_field(found, f"{here}.config", session.config, config_field)
        else:
            session_validation.mutable_field(found, here, session, name)
    if {"ttl", "expire_time"} <= paths.keys() and session.HasField("ttl") and session.HasField("expire_time"):
        found.add(f"{here}.expire_time", session_validation.EXCLUSIVE_RULE)
    if "agent_mode" in paths and not session.agent_mode:
        # Clearing it sets the default, as on create.
        session = Session()
        session.CopyFrom(update.session)
        session.agent_mode = AgentMode.AGENT_MODE_GENERAL
    struct_update = update.struct_update or StructUpdate.STRUCT_UPDATE_REPLACE
    return commands.UpdateSession(session, tuple(paths), struct_update, tuple(update.remove_keys), prefix, full)


def _paths(found: FieldViolations, prefix: str, update: Update) -> dict[str, None]:
    """The valid paths of the mask, each once and in its order; a whole config stands for its fields. The fields of
    `remove_keys` come last."""
    session = update.session
    paths: dict[str, None] = {}
    removed_from = _removed_from(found, f"{prefix}remove_keys", update)
    if not update.update_mask.paths:
        set_fields = {field.name for field, _ in session.ListFields()}
        paths = dict.fromkeys(name for name in session_validation.MUTABLE_FIELDS if name in set_fields)
        if not paths and not update.remove_keys:
            found.add(f"{prefix}update_mask", "must name a field, or session must set one that an update may write")
        return paths | removed_from
    for index, path in enumerate(update.update_mask.paths):
        if found.enough:
            break
        rule = _path_rule(path)
        found.add(f"{prefix}update_mask.paths[{index}]", rule)
        if rule is None:
            paths[path] = None
    if "config" in paths:
        paths = {path: None for path in paths if not path.startswith("config.")}
    return paths | removed_from


def _path_rule(path: str) -> str | None:
    if path in session_validation.MUTABLE_FIELDS or path.removeprefix("config.") in session_validation.CONFIG_FIELDS - {
        path
    }:
        return None
    if path in ("session_id", "type", "user_id"):
        return "is immutable"
    if path in Session.DESCRIPTOR.fields_by_name:
        return "is output only"
    return "must be a field that an update may write"


def _removed_from(found: FieldViolations, path: str, update: Update) -> dict[str, None]:
    """The fields that `remove_keys` removes members from."""
    keys = update.remove_keys
    if not keys:
        return {}
    if update.struct_update != StructUpdate.STRUCT_UPDATE_SET_KEYS:
        found.add(path, "needs STRUCT_UPDATE_SET_KEYS")
    if len(keys) > REMOVED_KEYS:
        found.add(path, f"must be at most {REMOVED_KEYS}")
    fields: dict[str, None] = {}
    seen: dict[str, int] = {}
    for index, key in enumerate(keys[:REMOVED_KEYS]):
        if found.enough:
            break
        name, dot, member = key.partition(".")
        first = seen.setdefault(key, index)
        if not dot or name not in _OBJECTS:
            found.add(f"{path}[{index}]", f"must begin with {', '.join(f'{field}.' for field in _OBJECTS)}")
        elif len(key.encode()) > REMOVED_KEY_BYTES:
            found.add(f"{path}[{index}]", f"must be at most {REMOVED_KEY_BYTES} bytes")
        elif "\0" in key:
            found.add(f"{path}[{index}]", text.NUL_RULE)
        elif first != index:
            found.add(f"{path}[{index}]", f"is that of {path}[{first}]")
        elif member in getattr(update.session, name).fields:
            found.add(f"{path}[{index}]", "is set in session as well")
        else:
            fields[name] = None
    return fields
