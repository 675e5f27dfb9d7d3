"""Sessions: ours as the platform's answers have them, and the platform's as ours."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.session_pb2 import Session, SessionStatus, SessionType
from sessiond_server.http.agentos import structs
from sessiond_server.http.agentos.messages import KEPT, kept, metrics, text
from sessiond_server.http.agentos.refusals import Json
from sessiond_server.http.agentos.run_views import agent_metadata

TYPES: Final[Mapping[str, "SessionType.ValueType"]] = {
    "agent": SessionType.SESSION_TYPE_AGENT,
    "team": SessionType.SESSION_TYPE_TEAM,
    "workflow": SessionType.SESSION_TYPE_WORKFLOW,
}
_NAMES: Final = {kind: name for name, kind in TYPES.items()}


def type_of(session: Session) -> str:
    return _NAMES.get(session.type, "agent")


def listed(session: Session) -> Json:
    """One of a list, with nulls."""
    name = type_of(session)
    spent = metrics(session.usage) or None
    return {
        "session_id": session.session_id,
        "session_name": session.name,
        "session_state": _object(session, "state"),
        "created_at": moment(session.create_time),
        "updated_at": moment(session.update_time),
        "session_type": name,
        "user_id": session.user_id or None,
        **{each: getattr(session, each) or None if each == f"{name}_id" else None for each in _COMPONENTS},
        "session_summary": summary(session),
        "metrics": spent,
        "total_tokens": session.usage.total_tokens or None,
        "metadata": _metadata(session, name),
    }


_COMPONENTS: Final = ("agent_id", "team_id", "workflow_id")


def detail(session: Session, history: Sequence[Json]) -> Json:
    """A session alone, with nulls. `history`: messages of users and assistants."""
    name = type_of(session)
    found: Json = {
        "user_id": session.user_id or None,
        "session_id": session.session_id,
        "session_name": session.name,
        "session_state": _object(session, "state"),
        f"{name}_id": getattr(session, f"{name}_id") or None,
        f"{name}_data": component_data(session),
        "metadata": _metadata(session, name),
        "created_at": moment(session.create_time),
        "updated_at": moment(session.update_time),
    }
    if name == "workflow":
        data = {"session_name": session.name or None, "session_state": _object(session, "state")}
        found["session_data"] = {key: value for key, value in data.items() if value is not None}
        found["workflow_name"] = None
        found["workflow_data"] = found["workflow_data"] or {}
        return found
    if name == "agent":
        found["agent_session_id"] = session.session_id
    has_data = session.name or session.HasField("state") or session.usage.total_tokens
    return {
        **found,
        "session_summary": summary(session),
        "metrics": metrics(session.usage) if has_data else None,
        "total_tokens": session.usage.total_tokens or None,
        "chat_history": list(history),
    }


def made(given: Json, name: str) -> Session:
    """The session that a request to create one of the type `name` asks for. Raises Problem."""
    session = Session(
        session_id=given.get("session_id", ""),
        type=TYPES[name],
        user_id=given.get("user_id", ""),
        name=given.get("session_name", ""),
        status=SessionStatus.SESSION_STATUS_ACTIVE,
    )
    setattr(session, f"{name}_id", given.get(f"{name}_id", ""))
    put(session, given)
    if (data := given.get(f"{name}_data")) is not None:
        structs.put(
            session.agent_data, {key: value for key, value in data.items() if key != KEPT}, "session.agent_data"
        )
    if "summary" in given:
        keep_summary(session, given["summary"])
    return session


def put(session: Session, given: Json) -> list[str]:
    """Sets name, state, metadata and summary as given; the fields of Session that were set. Raises Problem."""
    fields = []
    if "session_name" in given:
        session.name = given["session_name"]
        fields.append("name")
    for name, theirs in (("state", "session_state"), ("metadata", "metadata")):
        if theirs in given:
            if given[theirs] is not None:
                structs.put(getattr(session, name), given[theirs], f"session.{name}")
            fields.append(name)
    if "summary" in given:
        session.summary = given["summary"]["summary"]
        fields.append("summary")
    return fields


def keep_summary(session: Session, given: Json) -> bool:
    """Keeps what a summary says beside its text; False if it says nothing."""
    if not given.keys() > {"summary"}:
        return False
    session.agent_data[KEPT] = text({"summary": given})
    return True


def has_summary(session: Session, given: Json) -> bool:
    """Whether what a session keeps beside a summary's text is what `given` says."""
    return bool(kept(session.agent_data).get("summary", {"summary": given["summary"]}) == given)


def summary(session: Session) -> Json | None:
    if not session.summary:
        return None
    known = kept(session.agent_data).get("summary")
    # Another client may have written another text since.
    if isinstance(known, dict) and known.get("summary") == session.summary:
        return {name: value for name, value in known.items() if value is not None}
    return {"summary": session.summary}


def component_data(session: Session) -> Json | None:
    """The data of the agent, team or workflow."""
    found = {name: value for name, value in structs.shown(session.agent_data).items() if name != KEPT}
    return found or None


def moment(time: Timestamp) -> str:
    """In whole seconds, as the platform keeps times."""
    return datetime.fromtimestamp(time.seconds, tz=UTC).isoformat().replace("+00:00", "Z")


def _object(session: Session, name: str) -> Json | None:
    return structs.shown(getattr(session, name)) if session.HasField(name) else None  # type: ignore[arg-type]


def _metadata(session: Session, name: str) -> Any:
    found = _object(session, "metadata")
    if name == "agent":
        return agent_metadata(found, component_data(session))
    return {} if found is None and name == "workflow" else found
