"""Runs as the platform's answers have them, from runs as it stores them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sessiond.v1.session_pb2 import Session, SessionType
from sessiond_server.http.agentos.refusals import Json

PREVIEW: Final = 280
"""Characters of a preview."""

_MEDIA: Final = ("images", "videos", "audio", "files")
_LINEAGE: Final = (
    "forked_from_run_id",
    "forked_from_message_index",
    "forked_from_session_id",
    "regenerated_from",
    "last_checkpoint_at_message_index",
)


def view(run: Json, session: Session, agent_data: Json | None = None) -> Json | None:
    """A run in the form of its kind, with nulls; None for one that the platform leaves out. Sessions of teams and
    workflows have runs of other kinds too."""
    if session.type == SessionType.SESSION_TYPE_TEAM:
        if run.get("agent_id") is not None:
            return _agent(run, session, None)
        return None if run.get("team_id") is None else _team(run)
    if session.type == SessionType.SESSION_TYPE_WORKFLOW:
        return _by_component(run, session, None)
    return _agent(run, session, agent_data)


def single(run: Json, session: Session, agent_data: Json | None) -> Json:
    """The same where one run is asked for: its kind follows from the run alone."""
    return _by_component(run, session, agent_data)


def _by_component(run: Json, session: Session, agent_data: Json | None) -> Json:
    if run.get("workflow_id") is not None:
        return _workflow(run)
    return _team(run) if run.get("team_id") is not None else _agent(run, session, agent_data)


def preview(found: Json) -> Json:
    """A short form of a view."""
    content = found.get("content")
    shortened = {
        "run_input": _preview(found.get("run_input")),
        "content_preview": _preview(content),
    }
    names = ("run_id", "parent_run_id", "agent_id", "team_id", "workflow_id", "user_id", "status", "created_at")
    return {**{name: found.get(name) for name in names}, **shortened}


def without_nulls(found: Json) -> Json:
    """As most answers are: members that are null are left out, but not those of free objects."""
    return {name: value for name, value in found.items() if value is not None}


def moment(value: Any) -> str | None:
    """A time as answers have it, from seconds or a text; None where it is none."""
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            return None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            found = datetime.fromtimestamp(value, tz=UTC)
        except (ValueError, OverflowError, OSError):
            return None
    else:
        return None
    return found.isoformat().replace("+00:00", "Z")


def agent_metadata(metadata: Json | None, agent_data: Json | None) -> Json | None:
    """Metadata with the name of the framework that the agent is made with, where the session knows it."""
    sdk = (agent_data.get("sdk") or agent_data.get("framework")) if agent_data else None
    return {**(metadata or {}), "sdk": sdk} if isinstance(sdk, str) and sdk else metadata


def _agent(run: Json, session: Session, agent_data: Json | None) -> Json:
    if run.get("agent_id") not in (None, session.agent_id or None):
        agent_data = None  # a member's run is no run of the session's own agent
    return {
        "parent_run_id": run.get("parent_run_id", ""),
        "agent_id": run.get("agent_id", ""),
        "user_id": run.get("user_id", ""),
        "metadata": agent_metadata(run.get("metadata"), agent_data),
        "session_state": run.get("session_state"),
        **_common(run),
        "input_media": _input_media(run),
        "followups": run.get("followups"),
        **_lineage(run),
    }


def _team(run: Json) -> Json:
    return {
        "parent_run_id": run.get("parent_run_id", ""),
        "team_id": run.get("team_id", ""),
        "user_id": run.get("user_id"),
        "session_state": None,
        **_common(run),
        "input_media": _input_media(run),
        "followups": run.get("followups"),
        **_lineage(run),
    }


def _workflow(run: Json) -> Json:
    names = ("step_requirements", "pause_kind", "paused_step_name", "paused_step_index", "cancellation_stage")
    lists = ("step_results", "step_executor_runs", "events", "reasoning_steps", "references", "reasoning_messages")
    return {
        "run_id": run.get("run_id", ""),
        "run_input": run_input(run, of_workflow=True),
        "workflow_id": run.get("workflow_id", ""),
        "user_id": run.get("user_id", ""),
        "content": run.get("content", ""),
        "content_type": run.get("content_type", ""),
        "status": run.get("status", ""),
        "metrics": run.get("metrics", {}),
        "created_at": moment(run.get("created_at")),
        "reasoning_content": run.get("reasoning_content", ""),
        "citations": run.get("citations"),
        "response_audio": run.get("response_audio"),
        **{name: run.get(name) for name in names},
        **{name: run.get(name, []) for name in (*lists, *_MEDIA)},
    }


def _common(run: Json) -> Json:
    """What the forms of agents and of teams have both."""
    return {
        "run_id": run.get("run_id", ""),
        "status": run.get("status"),
        "cancellation_stage": run.get("cancellation_stage"),
        "run_input": run_input(run),
        "content": run.get("content", ""),
        "run_response_format": "text" if run.get("content_type", "str") == "str" else "json",
        "reasoning_content": run.get("reasoning_content", ""),
        "reasoning_steps": run.get("reasoning_steps", []),
        "metrics": run.get("metrics", {}),
        **{name: run.get(name) or None for name in ("messages", "tools", "events")},
        "created_at": moment(run.get("created_at")),
        "references": run.get("references", []),
        "citations": run.get("citations"),
        "reasoning_messages": run.get("reasoning_messages", []),
        **{name: run.get(name, []) for name in _MEDIA},
        "response_audio": run.get("response_audio"),
    }


def _lineage(run: Json) -> Json:
    return {name: run.get(name) for name in _LINEAGE}


def _input_media(run: Json) -> Json:
    given = run.get("input")
    return {
        name: list(given.get(name) or ()) if isinstance(given, dict) else []
        for name in ("images", "videos", "audios", "files")
    }


def run_input(run: Json, *, of_workflow: bool = False) -> Any:
    """What the run was asked."""
    given = run.get("input")
    if of_workflow:
        if given is not None:
            return _input_text(given)
        steps = run.get("step_executor_runs") or []
        found = _last_of_user(steps[0].get("messages") or []) if steps and isinstance(steps[0], dict) else None
        if found is not None:
            return found
    elif isinstance(given, dict) and given.get("input_content") is not None:
        return _input_text(given["input_content"])
    found = _last_of_user(run.get("messages") or [])
    return "" if found is None else found


def _last_of_user(messages: Sequence[Any]) -> Any:
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return message.get("content", "")
    return None


def _input_text(content: Any) -> Any:
    if isinstance(content, dict):
        return json.dumps(content, indent=2)
    if isinstance(content, list) and content and isinstance(content[0], dict) and content[0].get("role") == "user":
        return content[0].get("content", str(content))
    return content if isinstance(content, str) else str(content)


def _preview(value: Any) -> str | None:
    if value is None:
        return None
    return (value if isinstance(value, str) else json.dumps(value))[:PREVIEW]
