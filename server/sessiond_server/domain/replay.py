"""Rebuilds the first outcome of a repeated request from the events that the request wrote."""

from collections.abc import Container, Iterator, Mapping, Sequence

from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding
from sessiond_server.domain.batch import ACTIONS
from sessiond_server.domain.forks.rules import FORKED
from sessiond_server.domain.rows import Key, StoredEvent
from sessiond_server.errors import SessiondError


def session_content(action: c.Action, events: Sequence[StoredEvent]) -> int:
    """The `content_version` of the session whose whole content `outcome` needs; 0: none."""
    # A fork's first event is followed by those that close what was live at its place.
    last = events[0] if isinstance(action, c.ForkSession) else events[-1]
    with_content = ACTIONS[type(action)].with_content
    if last.type >= encoding.FIRST_MESSAGE_EVENT or with_content is None or not with_content(action):
        return 0
    return Session.FromString(last.body).content_version


def tool_call_contents(events: Sequence[StoredEvent]) -> tuple[int, ...]:
    """The `seq` of each event whose data of a tool call `outcome` needs."""
    last = events[-1]
    if events[0].type == FORKED:
        return ()
    if encoding.FIRST_TOOL_CALL_EVENT <= last.type < encoding.FIRST_ATTACHMENT_EVENT:
        call = ToolCall.FromString(last.body)
        return (call.seq, call.result_seq) if call.result_seq else (call.seq,)
    return ()


def keeps_answer(action: c.Action) -> bool:
    """Whether `outcome` needs the answer that the request record keeps."""
    return ACTIONS[type(action)].keeps_answer


def outcome(
    action: c.Action, events: Sequence[StoredEvent], content: Mapping[int, bytes], answer: bytes = b""
) -> c.Outcome:
    """Returns an outcome equal to the first one of the request.

    `events` are first_seq..last_seq of the Replay, complete and ascending. `content` holds, by seq, what
    `session_content` and `tool_call_contents` name, where there is something. `answer` is RequestRecord.answer, for an
    action that keeps one. `action` equals the first action: the fingerprint has been compared.
    """
    version = session_content(action, events)
    needed = (version,) if version else tool_call_contents(events)
    first_outcome = ACTIONS[type(action)].first_outcome
    assert first_outcome is not None, "only actions that write events have a request record"
    if keeps_answer(action):
        return first_outcome(events, answer)
    return first_outcome(events, b"".join(content.get(seq, b"") for seq in needed))


def repeated(
    commands: Sequence[c.Command], results: Sequence[c.Result], written: Container[Key]
) -> Iterator[tuple[c.Command, c.Outcome]]:
    """The commands that an earlier transaction had applied already, with their first outcomes. Commands on sessions
    that this batch wrote are left out, and so are writes of documents that belong to no session.

    Caches and subscribers may not know of the first application: its process may have ended right after the commit, or
    lost its connection during the commit.
    """
    for command, result in zip(commands, results, strict=True):
        if isinstance(result, SessiondError) or command.key in written or not command.session_id:
            continue
        if ACTIONS[type(command.action)].first_outcome is not None:
            yield command, result
