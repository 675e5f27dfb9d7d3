"""Waiting for a state that an event announces."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from sessiond.errors import PositionCompacted, PositionLost, SessionNotFound
from sessiond.v1.event_pb2 import Event
from sessiond.waiting import found
from sessiond.watch import Watch


class ScriptedWatch:
    """A watch that gives its events and then fails."""

    def __init__(self, events: Sequence[Event], error: Exception | None = None) -> None:
        self._events = events
        self._error = error

    async def __aenter__(self) -> "ScriptedWatch":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self._events:
            yield event
        if self._error is not None:
            raise self._error


class Waits:
    """Looks at states one after the other, and watches by a script."""

    def __init__(self, watches: Sequence[ScriptedWatch], looks: Sequence[str | Exception | None]) -> None:
        self._watches = iter(watches)
        self._looks = iter(looks)

    async def result(self) -> str:
        return await found(self._watch, ["tool_call_approved"], self._look, lambda event: event.event_id or None)

    def _watch(self, _: object) -> Watch[Event]:
        return cast("Watch[Event]", next(self._watches))

    async def _look(self) -> str | None:
        seen = next(self._looks)
        if isinstance(seen, Exception):
            raise seen
        return seen


@pytest.mark.parametrize("gone", [PositionLost, PositionCompacted])
async def test_a_wait_begins_again_where_events_cannot_be_followed(gone: Any) -> None:
    lost = ScriptedWatch([Event()], gone("no such position"))
    assert await Waits([lost, ScriptedWatch([Event(), Event(event_id="e")])], [None, None]).result() == "e"
    assert await Waits([lost, ScriptedWatch([])], [None, "there"]).result() == "there"
    with pytest.raises(SessionNotFound):
        await Waits([lost, ScriptedWatch([])], [None, SessionNotFound("no such session")]).result()


async def test_other_failures_of_a_watch_end_the_wait() -> None:
    with pytest.raises(SessionNotFound):
        await Waits([ScriptedWatch([], SessionNotFound("deleted"))], [None]).result()
