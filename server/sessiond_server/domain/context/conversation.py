"""Turns messages of a log into units that providers accept: calls of tools with their results, and all else alone.

A unit is never torn. Its messages are what goes to the model; a message that needs no change is the stored one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from google.protobuf.json_format import MessageToJson

from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond_server.domain.context import tokens

NO_RESULT: Final = "No result of this call was recorded."
"""The result that a call without one gets."""
CUT: Final = "\n[... shortened ...]\n"
"""What stands in a shortened result for its middle."""
LEFT_OUT: Final = "[Earlier messages are left out.]"
"""What stands for a user's message that is too far back."""
FRAME_BYTES: Final = 6
"""Most bytes of the tag and the length of a message in another one of some MiB."""

_USER: Final = Role.ROLE_USER
_TOOL: Final = Role.ROLE_TOOL
_SYSTEM: Final = Role.ROLE_SYSTEM


CallKey = tuple[int, str]
"""A call in a message: the message's `seq`, and the id that the model gave the call."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the caller wants of each message."""

    thinking: bool = False
    result_tokens: int = 0
    """Longest result of a tool, in estimated tokens; 0: not shortened."""


class Said(NamedTuple):
    """A message in the shape in which it may go to the model, measured once."""

    message: Message
    kinds: Sequence[str | None]
    """Of its parts."""
    tokens: int
    exact: bool
    """Whether `tokens` is the count that the message carries."""
    size: int
    """Bytes."""


@dataclass(slots=True)
class Unit:
    """What is taken or left out as a whole: what one says, with the results of the calls in it, and behind the messages
    of the system that came right before it."""

    seq: int
    """Of the message that says it."""
    role: Role.ValueType
    messages: list[Message] = field(default_factory=list)
    open_calls: list[str] = field(default_factory=list)
    """Ids of calls that have no result yet."""
    completed: int = 0
    """Calls that got a result from here, for want of one in the log."""
    tokens: int = 0
    exact_tokens: int = 0
    """Of `tokens`, those that messages carry."""
    size: int = 0
    """Bytes of its messages, as fields of another message."""

    @property
    def begins(self) -> bool:
        """Whether a conversation may begin with it."""
        return self.role == _USER

    def add(self, said: Said) -> None:
        self.messages.append(said.message)
        self.tokens += said.tokens
        self.exact_tokens += said.tokens if said.exact else 0
        self.size += said.size + FRAME_BYTES


def said(message: Message, shape: Shape) -> Said:
    """The message without thinking and with shortened results, if so wished."""
    kinds = [part.WhichOneof("kind") for part in message.parts]
    if ("thinking" not in kinds or shape.thinking) and ("tool_result" not in kinds or not shape.result_tokens):
        return _measured(message, kinds)
    parts: list[Part] = []
    changed = False
    for part, kind in zip(message.parts, kinds, strict=True):
        if kind == "thinking" and not shape.thinking:
            changed = True
        elif kind == "tool_result" and shape.result_tokens:
            parts.append(_shortened(part, shape.result_tokens))
            changed = changed or parts[-1] is not part
        else:
            parts.append(part)
    return _changed(message, parts, message.role) if changed else _measured(message, kinds)


def units(conversation: Iterable[Said], known: Mapping[CallKey, Part] = MappingProxyType({})) -> list[Unit]:
    """The units of these messages, which ascend by `seq`. Results are put behind their calls, also where others spoke
    in between; of several open calls with one id, the latest gets the result. Results without a call are left out, and
    so is what says nothing. `known`: results of calls for which there is no message (see ended_calls)."""
    made: list[Unit] = []
    waiting: dict[str, list[Unit]] = {}
    instructions: list[Said] = []
    for whole in conversation:
        one = _own(waiting, whole)
        if one is None or (role := one.message.role) == _TOOL or not _says_something(one):
            continue  # of a tool's message nothing is left but what answers no call
        if role == _SYSTEM:
            instructions.append(one)
            continue
        unit = Unit(one.message.seq, role)
        for instruction in instructions:
            unit.add(instruction)
        unit.add(one)
        instructions = []
        made.append(unit)
        if "tool_call" in one.kinds:
            for part, kind in zip(one.message.parts, one.kinds, strict=True):
                if kind == "tool_call":
                    unit.open_calls.append(part.tool_call.tool_call_id)
                    waiting.setdefault(part.tool_call.tool_call_id, []).append(unit)
    if instructions:
        unit = Unit(instructions[-1].message.seq, _SYSTEM)
        for instruction in instructions:
            unit.add(instruction)
        made.append(unit)
    for unit in made:
        if unit.open_calls:
            unit.completed = len(unit.open_calls)
            unit.add(_completion(unit, known))
    return made


def opening(session_id: str) -> Unit:
    """Stands for a user's message that is too far back to be looked for."""
    message = Message(session_id=session_id, role=_USER)
    message.parts.add().text = LEFT_OUT
    unit = Unit(0, _USER)
    unit.add(_measured(message, ["text"]))
    return unit


def _measured(message: Message, kinds: Sequence[str | None]) -> Said:
    if count := message.token_count:
        return Said(message, kinds, count, True, message.ByteSize())
    count = tokens.MESSAGE_TOKENS
    for kind, part in zip(kinds, message.parts, strict=True):
        count += tokens.of_part(kind, part)
    return Said(message, kinds, count, False, message.ByteSize())


def _own(waiting: dict[str, list[Unit]], whole: Said) -> Said | None:
    """Gives the results in the message to the units that wait for them; returns what is left of it. What follows a
    result in a message of a tool, such as a picture, belongs to the result."""
    message, kinds = whole.message, whole.kinds
    if "tool_result" not in kinds:
        return whole
    rest: list[Part] = []
    given: list[tuple[Unit | None, list[Part]]] = []
    for part, kind in zip(message.parts, kinds, strict=True):
        if kind == "tool_result":
            given.append((_taker(waiting, part.tool_result.tool_call_id), [part]))
        elif given and message.role == _TOOL:
            given[-1][1].append(part)
        else:
            rest.append(part)
    takers = [unit for unit, _ in given]
    if message.role == _TOOL and takers[0] is not None and not rest and all(unit is takers[0] for unit in takers):
        takers[0].add(whole)
        return None
    for unit, parts in given:
        if unit is not None:
            unit.add(_changed(message, parts, _TOOL))
    return _changed(message, rest, message.role) if rest else None


def _taker(waiting: dict[str, list[Unit]], call_id: str) -> Unit | None:
    """The latest unit in which a call with this id is open; None if there is none."""
    if not waiting.get(call_id):
        return None
    unit = waiting[call_id].pop()
    unit.open_calls.remove(call_id)
    return unit


def _completion(unit: Unit, known: Mapping[CallKey, Part]) -> Said:
    """The message of a tool that says what is known of each call without a result, or that there is none."""
    message = Message(session_id=unit.messages[0].session_id, role=_TOOL)
    for call_id in unit.open_calls:
        if (part := known.get((unit.seq, call_id))) is not None:
            message.parts.append(part)
            continue
        result = message.parts.add().tool_result
        result.tool_call_id, result.text, result.is_error = call_id, NO_RESULT, True
    return _measured(message, ["tool_result"] * len(unit.open_calls))


def _says_something(one: Said) -> bool:
    for kind, part in zip(one.kinds, one.message.parts, strict=True):
        if kind == "text":
            if part.text and not part.text.isspace():
                return True
        elif kind not in ("thinking", None):
            return True
    return False


def _changed(message: Message, parts: Iterable[Part], role: Role.ValueType) -> Said:
    """The message with other parts, which no exact count and no form of a converter (tokens.FORM) fits any more."""
    changed = Message()
    changed.CopyFrom(message)
    del changed.parts[:]
    changed.parts.extend(part for part in parts if not part.json.startswith(tokens.FORM))
    changed.role = role
    changed.ClearField("token_count")
    return _measured(changed, [part.WhichOneof("kind") for part in changed.parts])


def _shortened(part: Part, most: int) -> Part:
    """The result with the beginning and the end of its text, at most about `most` estimated tokens; itself if it fits.
    A result that is an object becomes text."""
    result = part.tool_result
    if tokens.of_part("tool_result", part) - tokens.CALL_TOKENS <= most:
        return part
    text = result.text or MessageToJson(result.data, indent=None, ensure_ascii=False, sort_keys=True)
    shorter = Part()
    shorter.CopyFrom(part)
    shorter.tool_result.text = cut(text, most)
    return shorter


def cut(text: str, most: int) -> str:
    """The beginning and the end of the text, at most `most` estimated tokens, with CUT between them."""
    keep, total = len(text), tokens.of_text(text)
    while keep and total > most:
        # An eighth less than proportional, so that text of uneven density takes few rounds.
        keep = min(keep - 1, keep * most * 7 // (total * 8))
        total = tokens.of_text(text[: keep - keep // 2] + text[len(text) - keep // 2 :])
    return text[: keep - keep // 2] + CUT + text[len(text) - keep // 2 :]
