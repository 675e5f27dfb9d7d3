"""Cuts and joins the messages of other forms where a form divides a conversation in another way."""

from collections.abc import Iterable, Iterator

from sessiond.formats.form import filled, form_of, without_form
from sessiond.formats.plain import Item
from sessiond.part_files import attachment_of
from sessiond.v1.message_pb2 import Message, Role


def arranged(messages: Iterable[Message], name: str) -> Iterator[Item | Message]:
    """For a message that came from the form `name`, its item. For others what `pieces` makes of them.

    What the Responses API gives as several items of one turn becomes one message. A message of another form whose item
    has nothing that parts hold, such as a search that the provider made, is left out.

    Raises ValueError for a part that lies in an attachment, as for all that `filled` refuses.
    """
    turn: Message | None = None
    for message in messages:
        _check_whole(message)
        form = form_of(message)
        if form == "responses" != name and message.role == Role.ROLE_ASSISTANT:
            turn = turn or Message(role=message.role)
            turn.parts.extend(without_form(message).parts)
            continue
        if turn is not None:
            yield from pieces(turn)
            turn = None
        if form == name:
            yield filled(message)
        elif not form:
            yield from pieces(message) or [message]
        else:
            yield from pieces(without_form(message))
    if turn is not None:
        yield from pieces(turn)


def _check_whole(message: Message) -> None:
    for index, part in enumerate(message.parts):
        if attachment_of(part):
            raise ValueError(f"parts[{index}]: lies in an attachment; put it back first (Client.inline_parts)")


def pieces(message: Message) -> list[Message]:
    """The message's parts in order, cut so that each piece is what one speaks, or the answer of one tool.

    An answer is followed by its files, and in a tool's message by all that follows up to the next answer. A call is the
    assistant's, whoever speaks.
    """
    found: list[Message] = []
    for part in message.parts:
        kind = part.WhichOneof("kind")
        role = message.role
        if kind == "tool_result" or (found and found[-1].role == Role.ROLE_TOOL and kind in ("file", "blob")):
            role = Role.ROLE_TOOL
        elif kind == "tool_call":
            role = Role.ROLE_ASSISTANT
        if kind == "tool_result" or not found or found[-1].role != role:
            found.append(Message(message_id=message.message_id, role=role))
            if role == message.role:
                found[-1].name = message.name
        found[-1].parts.append(part)
    if found and message.HasField("usage"):
        found[0].usage.CopyFrom(message.usage)
    return found
