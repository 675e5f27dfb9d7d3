"""Waits for a state that an event announces, without polling."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from sessiond.errors import PositionGone
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
    """Returns what `look` finds now, or what `in_event` finds in the first of the events that follow.

    Looks again where events cannot be followed any more, as after a restore of the database. Raises what `look` and the
    watch raise otherwise; SessionNotFound once the session is deleted.
    """
    while True:
        with suppress(PositionGone):
            async with watch(types) as watching:
                # The watch has begun: a change from here on is in an event, and an earlier one is found by `look`.
                if (there := await look()) is not None:
                    return there
                async for event in watching:
                    if (told := in_event(event)) is not None:
                        return told
