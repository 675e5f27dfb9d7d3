"""Splits a session into its two stored parts: the core, which every event rewrites, and the content, which few
events rewrite."""

from sessiond.patches import CONTENT_FIELDS, copy_content_field
from sessiond.v1.session_pb2 import Session, SessionConfig


def content_of(session: Session) -> bytes:
    """The serialised content of a full session."""
    content = Session()
    for name in CONTENT_FIELDS:
        copy_content_field(session, content, name)
    return content.SerializeToString()


def core_of(session: Session) -> Session:
    """A copy without content."""
    core = Session()
    core.CopyFrom(session)
    for name in CONTENT_FIELDS:
        core.ClearField(name)  # type: ignore[arg-type]  # the stubs want literals
    return core


def limits_of(config: SessionConfig) -> bytes:
    """The serialised config without its system prompt, which is all that the rules check."""
    limits = SessionConfig()
    limits.CopyFrom(config)
    limits.ClearField("system_prompt")
    return limits.SerializeToString()


def copy_field(source: Session, target: Session, name: str) -> None:
    """Copies one field from `source` to `target`; clears it if it is unset in `source`."""
    field = Session.DESCRIPTOR.fields_by_name[name]
    target.ClearField(name)  # type: ignore[arg-type]  # the stubs want literals
    if field.message_type is None:
        setattr(target, name, getattr(source, name))
    elif field.message_type.GetOptions().map_entry:
        getattr(target, name).update(getattr(source, name))
    elif source.HasField(name):  # type: ignore[arg-type]
        getattr(target, name).CopyFrom(getattr(source, name))
