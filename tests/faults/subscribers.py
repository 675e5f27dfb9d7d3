"""A process of subscribers that write down what they are told: `python -m tests.faults.subscribers < plan`.

The first line of standard input is the plan (see Plan). A line on standard output follows once every subscriber has its
first frame, and then one each second: how many events have arrived so far. A second line of input names the last events
that sessions have in the end; the process ends when its subscribers have got that far, or after the patience that the
line gives, and says which have not.
"""

import asyncio
import json
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc.aio

import sessiond
from sessiond.status import typed_error
from sessiond.v1.event_service_pb2 import (
    Bookmark,
    EventBatch,
    FeedFilter,
    FeedStart,
    Snapshot,
    WatchEventsRequest,
    WatchSessionRequest,
)
from sessiond.v1.event_service_pb2_grpc import EventServiceStub
from tests.faults.history import Closed, End, Lost, Marked, Opened, Recorder, got, identity

if TYPE_CHECKING:
    from sessiond.v1.event_service_pb2_grpc import EventServiceAsyncStub

BEGINNING, NOW, RESUMED, ELSEWHERE = -2, 0, -1, -3
"""`seq` of a feed's Opened; ELSEWHERE also a session's: the answer names another position than was given."""
STAYING, AWAY = (1.0, 5.0), (0.0, 6.0)
"""Seconds that one who comes and goes watches, and does not."""
PAUSE = 0.1
"""Seconds between two streams of a raw subscriber."""


@dataclass(frozen=True, slots=True)
class Place:
    """One subscriber."""

    name: str
    """Of its history, in the plan's folder."""
    session_id: str
    """"": the feed."""
    library: bool
    """Through the client library, which keeps the position and reconnects; else through the bare stub."""
    replica: int
    """Where a raw subscriber begins; later it goes on with the next."""
    from_beginning: bool = False
    absent: bool = False
    """A raw one that leaves every few seconds, and comes back with its position after some."""
    only: tuple[str, ...] = ()
    """Of the feed only these sessions; empty: all."""


@dataclass(frozen=True, slots=True)
class Plan:
    folder: str
    addresses: Sequence[str]
    silence: float
    """Seconds without a frame after which a stream counts as dead: longer than the pause between bookmarks."""
    places: Sequence[Place]

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> "Plan":
        fields = json.loads(text)
        places = [Place(**{**place, "only": tuple(place["only"])}) for place in fields["places"]]
        return cls(**{**fields, "places": places})


class Subscriber(ABC):
    """What both kinds do: write down, and know how far they are."""

    def __init__(self, plan: Plan, place: Place, recorder: Recorder) -> None:
        self.place = place
        self.begun = asyncio.Event()
        self.delivered = 0
        self._plan = plan
        self._recorder = recorder
        self._from_beginning = place.from_beginning
        """Until its position is lost: then it begins with what comes."""
        self._newest: dict[str, tuple[int, bytes]] = {}
        self._last = (0, b"")
        """Session streams: the event that the next one follows."""

    @abstractmethod
    async def run(self) -> None:
        """Until cancelled."""

    def has(self, ends: Mapping[str, End]) -> bool:
        """Whether everything has arrived. One with an event that was lost may be further than the log: it is yet to be
        told."""
        if self.place.session_id:
            return self._last == _newest(ends[self.place.session_id])
        selected = self.place.only or ends.keys()
        return all(self._newest.get(session_id) == _newest(ends[session_id]) for session_id in selected)

    def _snapshot(self, frame: Snapshot, replica: int) -> None:
        session = frame.session
        self._last = (session.version, identity(session.last_event_id))
        self._recorder.write(Opened(time.time(), replica, *self._last, session.SerializeToString()))
        self.begun.set()

    def _resumed(self, replica: int, *, elsewhere: bool = False) -> None:
        if not self.place.session_id:
            self._last = (RESUMED if self.begun.is_set() else BEGINNING if self._from_beginning else NOW, b"")
        seq, event_id = (ELSEWHERE, b"") if elsewhere else self._last
        self._recorder.write(Opened(time.time(), replica, seq, event_id, b""))
        self.begun.set()

    def _events(self, frame: EventBatch) -> None:
        now = time.time()
        for event in frame.events:
            record = got(now, event)
            self._recorder.write(record)
            self._last = (record.seq, record.event_id)
            self._newest[record.session_id] = self._last
        self.delivered += len(frame.events)

    def _bookmark(self, frame: Bookmark) -> None:
        self._recorder.write(Marked(time.time(), frame.head_seq, frame.read_time.ToMicroseconds() / 1e6))

    def _closed(self, reason: str) -> None:
        self._recorder.write(Closed(time.time(), reason))

    def _lost(self, reason: str) -> None:
        self._recorder.write(Lost(time.time(), reason))
        self._last = (0, b"")
        self._from_beginning = False
        self._newest.clear()
        self.begun.clear()


class Raw(Subscriber):
    """Keeps its position by itself, and believes whatever it is told."""

    def __init__(self, plan: Plan, place: Place, recorder: Recorder, stubs: "Sequence[EventServiceAsyncStub]") -> None:
        super().__init__(plan, place, recorder)
        self._stubs = stubs
        self._replica = place.replica
        self._position = ""

    async def run(self) -> None:
        while True:
            call: Any = self._open()
            leaving = time.monotonic() + (random.uniform(*STAYING) if self.place.absent else inf)
            try:
                while time.monotonic() < leaving:
                    async with asyncio.timeout(self._plan.silence):
                        frame = await call.read()
                    if frame is grpc.aio.EOF:
                        self._closed("OK")
                        break
                    self._take(frame)
                else:
                    self._closed("LEFT")
                    call.cancel()
                    await asyncio.sleep(random.uniform(*AWAY))
            except TimeoutError:
                self._closed("SILENCE")
            except grpc.aio.AioRpcError as error:
                self._failed(typed_error(error))
            finally:
                call.cancel()
            self._replica = (self._replica + 1) % len(self._stubs)
            await asyncio.sleep(PAUSE)

    def _open(self) -> Any:
        stub = self._stubs[self._replica]
        if self.place.session_id:
            return stub.WatchSession(
                WatchSessionRequest(
                    session_id=self.place.session_id,
                    position=self._position,
                    from_beginning=self._from_beginning and not self._position,
                )
            )
        start = FeedStart.FEED_START_BEGINNING if self._from_beginning else FeedStart.FEED_START_NOW
        if self._position:
            start = FeedStart.FEED_START_UNSPECIFIED
        where = FeedFilter(session_ids=self.place.only)
        return stub.WatchEvents(WatchEventsRequest(position=self._position, start=start, filter=where))

    def _take(self, response: Any) -> None:
        kind = response.WhichOneof("frame")
        frame = getattr(response, kind)
        if kind == "snapshot":
            self._snapshot(frame, self._replica)
        elif kind == "resumed":
            self._resumed(self._replica, elsewhere=bool(self._position) and frame.position != self._position)
        elif kind == "events":
            self._events(frame)
        elif kind == "bookmark":
            self._bookmark(frame)
        self._position = frame.position

    def _failed(self, error: sessiond.SessiondError) -> None:
        if isinstance(error, sessiond.PositionGone):
            self._lost(error.reason)
            self._position = ""
        else:
            self._closed(error.reason or error.code)


class Library(Subscriber):
    """The client library's `watch` and `watch_events`, from which it begins anew only when it is told of a loss."""

    def __init__(self, plan: Plan, place: Place, recorder: Recorder, client: sessiond.Client) -> None:
        super().__init__(plan, place, recorder)
        self._client = client

    async def run(self) -> None:
        while True:
            try:
                await self._watch()
            except sessiond.PositionGone as error:
                self._lost(error.reason)
            except sessiond.SessiondError as error:
                # It should have gone on by itself; that it did not shows in what is missing.
                self._closed(f"raised {type(error).__name__}: {error}")
                await asyncio.sleep(PAUSE)

    async def _watch(self) -> None:
        watch: Any = (
            self._client.watch(self.place.session_id, from_beginning=self._from_beginning)
            if self.place.session_id
            else self._client.watch_events(from_beginning=self._from_beginning)
        )
        async with watch:
            streams = watch.streams
            if not self.place.session_id or watch.snapshot is None:
                self._resumed(-1)
            async for frame in watch.frames():
                if watch.streams != streams:
                    streams = watch.streams
                    self._closed("reconnected")
                    self._resumed(-1)
                if isinstance(frame, Snapshot):
                    self._snapshot(frame, -1)
                elif isinstance(frame, EventBatch):
                    self._events(frame)
                elif isinstance(frame, Bookmark):
                    self._bookmark(frame)


async def main() -> None:
    loop = asyncio.get_running_loop()
    plan = Plan.of(await loop.run_in_executor(None, sys.stdin.readline))
    options = [
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    channels = [grpc.aio.insecure_channel(address, options) for address in plan.addresses]
    stubs = [cast("EventServiceAsyncStub", EventServiceStub(channel)) for channel in channels]
    # Each begins with another address, so that they spread over the replicas.
    client = sessiond.Client(
        f"ipv4:{','.join(plan.addresses)}", reconnect=sessiond.Reconnect(idle_timeout=plan.silence)
    )
    recorders = [Recorder(Path(plan.folder, place.name)) for place in plan.places]
    subscribers = [
        Library(plan, place, recorder, client) if place.library else Raw(plan, place, recorder, stubs)
        for place, recorder in zip(plan.places, recorders, strict=True)
    ]
    tasks = [asyncio.create_task(subscriber.run()) for subscriber in subscribers]
    try:
        await _report(subscribers, tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for recorder in recorders:
            recorder.__exit__(None, None, None)
        await client.close()
        for channel in channels:
            await channel.close()


async def _report(subscribers: Sequence[Subscriber], tasks: Sequence["asyncio.Task[None]"]) -> None:
    while not all(subscriber.begun.is_set() for subscriber in subscribers):
        _check(tasks)
        await asyncio.sleep(0.02)
    ending = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    while not ending.done():
        _check(tasks)
        _say(delivered=sum(subscriber.delivered for subscriber in subscribers))
        await asyncio.wait([ending], timeout=1.0)
    if not ending.result():
        return  # the campaign is gone
    end = json.loads(ending.result())
    until = time.monotonic() + end["patience"]
    late = list(subscribers)
    while late and time.monotonic() < until:
        late = [one for one in late if not one.has(end["ends"])]
        await asyncio.sleep(0.02)
    _say(delivered=sum(subscriber.delivered for subscriber in subscribers), late=[one.place.name for one in late])


def _newest(end: End) -> tuple[int, bytes]:
    seq, event_id = end
    return seq, identity(event_id)


def _check(tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Raises what ended one of them: they go on until cancelled."""
    for task in tasks:
        if task.done():
            task.result()


def _say(**what: object) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - read by the campaign


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
