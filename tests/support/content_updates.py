"""Updates of the content of a session, as commands."""

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond.v1.session_service_pb2 import StructUpdate
from sessiond_server.domain import commands as c

SET_KEYS = StructUpdate.STRUCT_UPDATE_SET_KEYS


def struct(value: dict[str, object]) -> Struct:
    return json_format.ParseDict(value, Struct())


def update(
    how: StructUpdate.ValueType = SET_KEYS, *, full: bool = True, **fields: dict[str, object] | SessionConfig | str
) -> c.UpdateSession:
    """An update of the given fields."""
    session = Session()
    for name, value in fields.items():
        if isinstance(value, dict):
            getattr(session, name).CopyFrom(struct(value))
        elif isinstance(value, SessionConfig):
            session.config.CopyFrom(value)
        else:
            setattr(session, name, value)
    return c.UpdateSession(session, tuple(fields), how, full=full)
