"""What the session's tool calls say of calls whose results no message has: those that were rejected, or have failed.

A tool call belongs to the message that its `message_id` names, else to the latest one before its request in which the
model made a call with its `model_call_id` (or, without one, with its own id). Of several that belong to one call of a
message, the one requested last counts: the others are earlier attempts.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sessiond.v1.message_pb2 import Part
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallStatus
from sessiond_server.domain import commands as c
from sessiond_server.domain.context import tokens
from sessiond_server.domain.context.conversation import CallKey, Said, Shape, Unit, cut

MOST_MESSAGES: Final = 500
"""Messages with such calls that are looked at, the newest ones. A context has no more of them: each has a message for
its missing results behind it, and together they are at most 1 000."""

REJECTED: Final = "This call was rejected, and was not carried out."
FAILED: Final = "This call failed, and no result of it was recorded."
EXPIRED: Final = "This call was not carried out: its approval did not come in time."
# None of them has fewer tokens than NO_RESULT: what exceeds a budget before they are known exceeds it afterwards.


def ranges(made: Sequence[Unit], version: int) -> list[tuple[int, int]]:
    """The parts of the log, each behind one `seq` and up to another one, in which tool calls of calls without a result
    may have been requested, up to `version`: from each message with such calls to the next one. They ascend."""
    seqs = [unit.seq for unit in made if unit.open_calls][-MOST_MESSAGES:]
    return list(zip(seqs, [*seqs[1:], version], strict=True)) if seqs else []


def results(
    conversation: Iterable[Said], made: Sequence[Unit], calls: Iterable[ToolCall], version: int, shape: Shape
) -> dict[CallKey, Part]:
    """The results of those calls without one that were rejected or have failed at `version`. `conversation`: what
    `made` was made of; `calls`: tool calls that were requested in `ranges`, as they are now, oldest first."""
    wanted = {(unit.seq, call_id) for unit in made for call_id in unit.open_calls}
    ids = {call_id for _, call_id in wanted}
    asking, named = _messages(conversation, ids)
    last: dict[CallKey, ToolCall] = {}
    for call in calls:
        call_id = call.model_call_id or call.tool_call_id
        if call_id in ids:
            seq = named.get(call.message_id, 0) if call.message_id else _before(asking[call_id], call.seq)
            last[seq, call_id] = call
    parts = {key: _part(key[1], call, shape) for key, call in last.items() if key in wanted and call.version <= version}
    return {key: part for key, part in parts.items() if part is not None}


def _messages(conversation: Iterable[Said], ids: set[str]) -> tuple[Mapping[str, list[int]], Mapping[str, int]]:
    """By the id of a call: where messages with it are, ascending. By the id of a message: where it is."""
    asking: defaultdict[str, list[int]] = defaultdict(list)
    named: dict[str, int] = {}
    for one in conversation:
        if "tool_call" not in one.kinds:
            continue
        message = one.message
        named[message.message_id] = message.seq
        for call_id in {part.tool_call.tool_call_id for part in message.parts if part.HasField("tool_call")} & ids:
            asking[call_id].append(message.seq)
    return asking, named


def _before(seqs: Sequence[int], seq: int) -> int:
    """The last one below `seq`; 0 if there is none."""
    place = bisect_left(seqs, seq)
    return seqs[place - 1] if place else 0


def _part(call_id: str, call: ToolCall, shape: Shape) -> Part | None:
    """What the model gets as the result; None where the call was neither rejected nor has failed."""
    says, why = EXPIRED, ""
    if call.status == ToolCallStatus.TOOL_CALL_STATUS_REJECTED:
        if call.approval.actor != c.ACTOR:
            says, why = REJECTED, call.approval.reason
    elif call.status == ToolCallStatus.TOOL_CALL_STATUS_FAILED:
        if call.HasField("start_time"):
            says, why = FAILED, ": ".join(filter(None, (call.error.code, call.error.message)))
    else:
        return None
    part = Part()
    result = part.tool_result
    result.tool_call_id, result.text, result.is_error = call_id, _joined(says, why, shape), True
    return part


def _joined(says: str, why: str, shape: Shape) -> str:
    """The sentence, which stays whole, and the reason as far as it may be."""
    left = shape.result_tokens - tokens.of_text(f"{says} Reason: ")
    if why and shape.result_tokens and tokens.of_text(why) > left:
        why = cut(why, left) if left > 0 else ""
    return f"{says} Reason: {why}" if why else says
