"""The first outcome of a request that is made again, rebuilt from the events that it wrote."""

from collections.abc import Container, Iterator, Mapping, Sequence

from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding
from sessiond_server.domain.batch import ACTIONS
from sessiond_server.domain.rows import Key, StoredEvent
from sessiond_server.errors import SessiondError


def contents(events: Sequence[StoredEvent]) -> tuple[int, ...]:
    """`seq` of the events whose content `outcome` needs."""
    last = events[-1]
    if last.type < encoding.FIRST_MESSAGE_EVENT:
        version = Session.FromString(last.body).content_version
        return (version,) if version else ()
    if encoding.FIRST_TOOL_CALL_EVENT <= last.type < encoding.FIRST_ATTACHMENT_EVENT:
        call = ToolCall.FromString(last.body)
        return (call.seq, call.result_seq) if call.result_seq else (call.seq,)
    return ()


def outcome(action: c.Action, events: Sequence[StoredEvent], content: Mapping[int, bytes]) -> c.Outcome:
    """Equal to what the command's first application answered.

    `events` are first_seq..last_seq of the Replay, complete and ascending; `content` has, by seq, the content of the
    events that `contents(events)` names, where they have any. The fingerprint has shown that `action` is the first
    one's equal.
    """
    first_outcome = ACTIONS[type(action)].first_outcome
    assert first_outcome is not None, "only what wrote events is told again"
    return first_outcome(events, b"".join(content.get(seq, b"") for seq in contents(events)))


def repeated(
    commands: Sequence[c.Command], results: Sequence[c.Result], written: Container[Key]
) -> Iterator[tuple[c.Command, c.Outcome]]:
    """Commands that had been done before, on sessions of which this batch wrote nothing, with their first outcomes.

    It is unknown whether caches and subscribers learnt of the first time: the process may have ended right after the
    commit, or lost its connection during it.
    """
    for command, result in zip(commands, results, strict=True):
        if isinstance(result, SessiondError) or command.key in written:
            continue
        if ACTIONS[type(command.action)].first_outcome is not None:
            yield command, result
