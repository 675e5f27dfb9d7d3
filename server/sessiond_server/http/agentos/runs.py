"""Runs: ours as the platform stores them, and the platform's as ours.

A run's messages are messages of the session. What else the platform's run says lies in the run's metadata, as a
difference from what we would show without it; where it is too large for these, in a document of the session.
"""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sessiond.v1.message_pb2 import Message
from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.session_pb2 import Session, SessionType
from sessiond_server.http.agentos import structs
from sessiond_server.http.agentos.messages import (
    KEPT,
    MEMBER_LABEL,
    difference,
    is_id,
    is_line,
    is_time,
    metrics,
    patched,
    taken,
    text,
)
from sessiond_server.http.agentos.refusals import Json

DOCUMENT: Final = "agentos/runs/"
"""The key of a document that keeps more of a run begins with it and ends with the run's id."""
IN_DOCUMENT: Final = "document"
"""Member of what metadata keep: true where a document keeps it."""
MOST_IN_METADATA: Final = 12 * 1024
"""Bytes; a run's metadata have room for 16 KiB."""
MARGIN: Final = 60.0
"""Seconds by which a time must have passed to be stored: the database's clock must not find it in the future."""
LARGEST_COUNT: Final = 2**53 - 1

_STATUSES: Final = {
    "COMPLETED": RunStatus.RUN_STATUS_COMPLETED,
    "ERROR": RunStatus.RUN_STATUS_FAILED,
    "CANCELLED": RunStatus.RUN_STATUS_CANCELLED,
    "PAUSED": RunStatus.RUN_STATUS_CANCELLED,
    "PENDING": RunStatus.RUN_STATUS_CANCELLED,
    "RUNNING": RunStatus.RUN_STATUS_CANCELLED,
    "REGENERATED": RunStatus.RUN_STATUS_COMPLETED,
}
"""What a run of the platform becomes: a session begins with runs that have ended."""
STATUSES: Final = tuple(sorted(_STATUSES))
_NAMES: Final = {
    RunStatus.RUN_STATUS_QUEUED: "PENDING",
    RunStatus.RUN_STATUS_RUNNING: "RUNNING",
    RunStatus.RUN_STATUS_COMPLETED: "COMPLETED",
    RunStatus.RUN_STATUS_FAILED: "ERROR",
    RunStatus.RUN_STATUS_CANCELLED: "CANCELLED",
}
COMPONENTS: Final = {
    SessionType.SESSION_TYPE_AGENT: "agent_id",
    SessionType.SESSION_TYPE_TEAM: "team_id",
    SessionType.SESSION_TYPE_WORKFLOW: "workflow_id",
}


@dataclass(slots=True)
class Taken:
    """What a run of the platform becomes."""

    run: Run
    messages: list[Message] = field(default_factory=list)
    document: str = ""
    """JSON text of what does not fit into the run."""


def shown(run: Run, session: Session, messages: Sequence[Json], more: Json) -> Json:
    """A run as the platform stores it. `messages`: its own, as shown. `more`: what is kept of it."""
    found = patched(plain(run, session, messages), {name: each for name, each in more.items() if name != "messages"})
    if "messages" in more:
        others = iter(messages)
        found["messages"] = [each for known in more["messages"] if (each := known or next(others, None)) is not None]
    return found


def plain(run: Run, session: Session, messages: Sequence[Json]) -> Json:
    """The run without what is kept of it."""
    component = COMPONENTS.get(session.type, "agent_id")
    found: Json = {
        "run_id": run.run_id,
        component: (run.agent_id if component == "agent_id" else "") or getattr(session, component),
        "session_id": session.session_id,
        "content_type": "str",
        "created_at": run.create_time.seconds,
        "status": _NAMES.get(run.status, "COMPLETED"),
    }
    if session.user_id:
        found["user_id"] = session.user_id
    if run.model:
        found["model"] = run.model
    spent = _metrics(run)
    if spent:
        found["metrics"] = spent
    if own := {name: each for name, each in structs.shown(run.metadata).items() if name != KEPT}:
        found["metadata"] = own
    if messages:
        found["messages"] = list(messages)
        found |= _told(messages)
    if run.status == RunStatus.RUN_STATUS_FAILED and "content" not in found and (run.error.message or run.error.code):
        found["content"] = run.error.message or run.error.code
    return found


def _metrics(run: Run) -> Json:
    spent = metrics(run.usage)
    if spent and run.HasField("start_time") and run.HasField("end_time"):
        spent["duration"] = (run.end_time.ToMicroseconds() - run.start_time.ToMicroseconds()) / 1e6
    return spent


def _told(messages: Sequence[Json]) -> Json:
    """What a run's messages say of it: input, answer, thoughts and tools."""
    found: Json = {}
    asked = next((each for each in messages if each.get("role") == "user" and each.get("content")), None)
    if asked is not None:
        found["input"] = {"input_content": asked["content"]}
    answers = [each for each in messages if each.get("role") == "assistant"]
    if answers and answers[-1].get("content") is not None:
        found["content"] = answers[-1]["content"]
    if answers and answers[-1].get("reasoning_content"):
        found["reasoning_content"] = answers[-1]["reasoning_content"]
    results = {str(each.get("tool_call_id")): each for each in messages if each.get("role") == "tool"}
    lists = [each["tool_calls"] for each in answers if isinstance(each.get("tool_calls"), list)]
    calls = [
        call for each in lists for call in each if isinstance(call, dict) and isinstance(call.get("function"), dict)
    ]
    if tools := [_tool(call, results.get(str(call.get("id")))) for call in calls]:
        found["tools"] = tools
    return found


def _tool(call: Json, result: Json | None) -> Json:
    found: Json = {
        "tool_call_id": call.get("id"),
        "tool_name": call["function"].get("name"),
        "tool_args": call["function"].get("arguments"),
        "tool_call_error": bool(result and result.get("tool_call_error")),
    }
    if result is not None and "content" in result:
        found["result"] = result["content"]
    return found


def taken_run(found: Json, session: Session, ids: set[str], runs: set[str], now: float) -> Taken:
    """What a run of the platform becomes. `ids`, `runs`: ids of messages and runs that are in use, to which its own are
    added. `now`: seconds."""
    run_id = found.get("run_id")
    if not is_id(run_id) or run_id in runs:
        run_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{len(runs)} {text(found)}"))  # a retry must make the same one
    runs.add(run_id)
    run = Run(run_id=run_id, status=_STATUSES.get(str(found.get("status")), RunStatus.RUN_STATUS_COMPLETED))
    if session.type == SessionType.SESSION_TYPE_AGENT and is_id(agent_id := found.get("agent_id")):
        run.agent_id = agent_id
    if is_line(found.get("model"), 128):
        run.model = found["model"]
    _set_times(run, found, now)
    _set_usage(run, found.get("metrics"))
    given = found.get("messages")
    given = given if isinstance(given, list) else []
    own = [each for each in given if isinstance(each, dict) and not each.get("from_history")]
    messages = [taken(each, run_id, ids) for each in own]
    if found.get("parent_run_id"):
        for message in messages:
            message.labels[MEMBER_LABEL] = "true"
    told = plain(run, session, own if own else ())
    more = difference({**told, "messages": given} if given else told, found)
    if len(own) != len(given):
        more["messages"] = [None if any(each is one for one in own) else each for each in given]
    return _with_more(Taken(run, messages), more)


def _with_more(made: Taken, more: Json) -> Taken:
    if more:
        whole = text(more)
        fits = len(whole.encode()) <= MOST_IN_METADATA
        made.run.metadata[KEPT] = whole if fits else text({IN_DOCUMENT: True})
        made.document = "" if fits else whole
    return made


def _set_times(run: Run, found: Json, now: float) -> None:
    created = found.get("created_at")
    if not is_time(created) or created > now - MARGIN:
        return
    run.create_time.FromSeconds(created)
    spent = found.get("metrics")
    duration = spent.get("duration") if isinstance(spent, dict) else None
    if not isinstance(duration, int | float) or isinstance(duration, bool) or not math.isfinite(duration):
        return
    if duration >= 0 and created + duration <= now - MARGIN:
        run.start_time.FromSeconds(created)
        run.end_time.FromMicroseconds(created * 1_000_000 + round(duration * 1e6))


def _set_usage(run: Run, spent: Any) -> None:
    if not isinstance(spent, dict):
        return
    names = {
        "input_tokens": "input_tokens",
        "output_tokens": "output_tokens",
        "total_tokens": "total_tokens",
        "reasoning_tokens": "reasoning_tokens",
        "cache_read_tokens": "cached_tokens",
    }
    for theirs, ours in names.items():
        count = spent.get(theirs)
        if isinstance(count, int) and not isinstance(count, bool) and 0 < count <= LARGEST_COUNT:
            setattr(run.usage, ours, count)
