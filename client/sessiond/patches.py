"""What an event changed of a session's content, and how to apply it. The service applies patches by this module too."""

from google.protobuf.struct_pb2 import Struct, Value

from sessiond.v1.event_pb2 import Event, EventType, SessionPatch
from sessiond.v1.session_pb2 import Session, SessionConfig, SessionView

CONTENT_FIELDS = ("metadata", "state", "agent_data", "summary", "config")
"""The fields of Session that form its content. All others form its core (SESSION_VIEW_BASIC)."""


def session_after(before: Session, event: Event) -> Session:
    """The whole session after an event that has a `session`, given the whole session before it: with the content that
    the event leaves as it was, or patches. Changes neither argument."""
    after = Session()
    after.CopyFrom(event.session)
    if event.session_view == SessionView.SESSION_VIEW_FULL or event.type == EventType.EVENT_TYPE_SESSION_DELETED:
        return after
    for name in CONTENT_FIELDS:
        copy_content_field(before, after, name)
    apply_patch(after, event.session_patch)
    return after


def apply_patch(session: Session, patch: SessionPatch) -> None:
    """Changes the content of `session` in place; see SessionPatch. An empty patch changes nothing."""
    for path in patch.replaced:
        name, _, config_field = path.partition(".")
        if config_field:
            session.config.SetInParent()
            copy_config_field(patch.session.config, session.config, config_field)
        else:
            copy_content_field(patch.session, session, name)
    for name in patch.keys_set:
        target: Struct = getattr(session, name)
        target.SetInParent()
        set_members(target, getattr(patch.session, name))
    for name in patch.merged:
        target = getattr(session, name)
        target.SetInParent()
        merge_patch(target, getattr(patch.session, name))
    for key in patch.removed_keys:
        name, _, member = key.partition(".")
        target = getattr(session, name)
        if member in target.fields:
            del target.fields[member]


def copy_content_field(source: Session, target: Session, name: str) -> None:
    """Copies one of CONTENT_FIELDS; clears it where it is unset in `source`."""
    target.ClearField(name)  # type: ignore[arg-type]  # the stubs want literals
    if name == "summary":
        target.summary = source.summary
    elif source.HasField(name):  # type: ignore[arg-type]
        getattr(target, name).CopyFrom(getattr(source, name))


def copy_config_field(source: SessionConfig, target: SessionConfig, name: str) -> None:
    """Copies one field of a config; clears it where it is unset in `source`."""
    target.ClearField(name)  # type: ignore[arg-type]  # the stubs want literals
    value = getattr(source, name)
    if isinstance(value, int | str):
        setattr(target, name, value)
    else:
        getattr(target, name).extend(value)


def merge_patch(target: Struct, patch: Struct) -> None:
    """Applies a JSON merge patch (RFC 7396) in place: null removes a member, objects merge member by member, other
    values replace.

    Recurses once for each level of `patch`. The caller must have bounded its depth.
    """
    for name, value in patch.fields.items():
        kind = value.WhichOneof("kind")
        if kind == "null_value":
            if name in target.fields:
                del target.fields[name]
        elif kind == "struct_value":
            _object_member(target, name)
            merge_patch(target.fields[name].struct_value, value.struct_value)
        else:
            target.fields[name].CopyFrom(value)


def set_members(target: Struct, given: Struct) -> None:
    """Changes `target` in place: each member of `given` replaces the one of that name whole; a null is a value."""
    for name, value in given.fields.items():
        target.fields[name].CopyFrom(value)


def _object_member(target: Struct, name: str) -> None:
    """Makes sure that the member is an object: keeps one, replaces any other value by an empty one."""
    if name not in target.fields or target.fields[name].WhichOneof("kind") != "struct_value":
        target.fields[name].CopyFrom(Value(struct_value=Struct()))
