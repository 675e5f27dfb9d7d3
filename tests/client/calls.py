"""One call of each RPC, by the method of the client that makes it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import sessiond
from tests.client.scripted import METHODS

Call = Callable[..., Awaitable[Any]]

READS: Mapping[str, Callable[[sessiond.Client], Call]] = {
    "GetSession": lambda client: lambda **kw: client.get_session("s", **kw),
    "BatchGetSessions": lambda client: lambda **kw: client.batch_get_sessions(["s"], **kw),
    "ListSessions": lambda client: lambda **kw: client.list_sessions(**kw).page(),
    "CountSessions": lambda client: lambda **kw: client.count_sessions(**kw),
    "GetSessionMetrics": lambda client: lambda **kw: client.get_session_metrics("s", **kw),
    "GetMessage": lambda client: lambda **kw: client.get_message("s", "m", **kw),
    "ListMessages": lambda client: lambda **kw: client.list_messages("s", **kw).page(),
}

WRITES: Mapping[str, Callable[[sessiond.Client], Call]] = {
    "CreateSession": lambda client: lambda **kw: client.create_session("s", **kw),
    "UpdateSession": lambda client: lambda **kw: client.update_session("s", name="n", **kw),
    "ActivateSession": lambda client: lambda **kw: client.activate_session("s", **kw),
    "SuspendSession": lambda client: lambda **kw: client.suspend_session("s", **kw),
    "ResumeSession": lambda client: lambda **kw: client.resume_session("s", **kw),
    "EndSession": lambda client: lambda **kw: client.end_session("s", **kw),
    "TouchSession": lambda client: lambda **kw: client.touch_session("s", **kw),
    "DeleteSession": lambda client: lambda **kw: client.delete_session("s", **kw),
    "BatchDeleteSessions": lambda client: lambda **kw: client.batch_delete_sessions(["s"], **kw),
    "AppendMessages": lambda client: lambda **kw: client.append_messages("s", [sessiond.user("hi")], **kw),
    "RedactMessage": lambda client: lambda **kw: client.redact_message("s", "m", **kw),
}

OTHERS: Mapping[str, Callable[[sessiond.Client], Call]] = {
    "ListEvents": lambda client: lambda **kw: client.list_events("s", **kw).page(),
    "PublishDelta": lambda client: lambda **kw: client.publish_delta("s", [sessiond.Delta(text="t")], **kw),
}
"""Neither cached nor stored."""

ALL = {**READS, **WRITES, **OTHERS}
"""That have one answer."""

STREAMS: Mapping[str, Callable[[sessiond.Client], Any]] = {
    "WatchSession": lambda client: client.watch("s"),
    "WatchEvents": lambda client: client.watch_events(),
}
"""Read as async iterators."""


def takes(rpc: str, field: str) -> bool:
    """Whether the RPC's request has the field."""
    return field in METHODS[rpc].input_type.fields_by_name
