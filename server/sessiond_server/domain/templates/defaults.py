"""What a template says of a session that is created from it."""

from typing import Final

from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond.v1.template_service_pb2 import Template
from sessiond_server.domain import text, validation
from sessiond_server.domain.sessions import validation as sessions
from sessiond_server.domain.sessions.parts import copy_field
from sessiond_server.domain.validation import FieldViolations

DEFAULTS: Final = frozenset(
    (
        "type", "agent_id", "team_id", "workflow_id", "agent_mode", "name", "summary", "labels", "metadata", "state",
        "agent_data", "config", "ttl",
    )
)  # fmt: skip
"""Fields of Session that a template may have."""
OBJECTS: Final = ("metadata", "state", "agent_data")
TEMPLATE_BYTES: Final = 256 * validation.KIB
DESCRIPTION_CHARACTERS: Final = 1000


def template(found: FieldViolations, path: str, given: Template) -> None:
    """Checks a template to put."""
    found.add(f"{path}.template_id", text.identifier(given.template_id))
    found.add(f"{path}.description", text.text(given.description, DESCRIPTION_CHARACTERS))
    if given.session.ByteSize() > TEMPLATE_BYTES:
        found.add(f"{path}.session", f"must be at most {TEMPLATE_BYTES} bytes serialised")
    for field, _ in given.session.ListFields():
        if field.name not in DEFAULTS:
            found.add(f"{path}.session.{field.name}", "must be empty in a template")
    sessions.new_session(found, f"{path}.session", given.session)


def with_defaults(given: Session, defaults: Session, *, no_expiry: bool) -> Session:
    """The session of a request with what the template has and the request has not.

    A field that the request sets wins; of labels, metadata, state and agent data each member by itself, whole; of the
    config each field by itself. The template's `ttl` counts where the request says nothing of the expiry.
    """
    session = Session()
    session.CopyFrom(defaults)
    if no_expiry or given.HasField("expire_time"):
        session.ClearField("ttl")
    for field, value in given.ListFields():
        name = field.name
        if name == "labels":
            session.labels.update(given.labels)
        elif name in OBJECTS:
            members = getattr(session, name).fields
            for key, member in value.fields.items():
                members[key].CopyFrom(member)
        elif name == "config":
            _set_config(session.config, value)
        else:
            copy_field(given, session, name)
    return session


def _set_config(config: SessionConfig, given: SessionConfig) -> None:
    for field, _ in given.ListFields():
        config.ClearField(field.name)  # type: ignore[arg-type]  # the stubs want literals
        one = SessionConfig()
        one.CopyFrom(given)
        for other in SessionConfig.DESCRIPTOR.fields:
            if other.name != field.name:
                one.ClearField(other.name)  # type: ignore[arg-type]
        config.MergeFrom(one)
