"""Waiting for something that an event will say, without asking again and again."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from sessiond.fields import EventTypeLike
from sessiond.v1.event_pb2 import Event
from sessiond.watch import Watch

Found = TypeVar("Found")


async def found(
    watch: Callable[[Sequence[EventTypeLike]], Watch[Event]],
    types: Sequence[EventTypeLike],
    look: Callable[[], Awaitable[Found | None]],
    in_event: Callable[[Event], Found | None],
) -> Found:
    """What `look` finds now, or the first that one of the events which follow has in it.

    Raises what `look` and the watch raise; SessionNotFound once the session is deleted.
    """
    while True:
        async with watch(types) as watching:
            # What happens from here on is in an event, what has happened is there to be read.
            if (there := await look()) is not None:
                return there
            async for event in watching:
                if (told := in_event(event)) is not None:
                    return told
