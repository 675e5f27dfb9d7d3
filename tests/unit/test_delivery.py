"""Delivery: in order, with a position that is never ahead of what was taken, and an end for every watcher."""

import asyncio
from random import Random
from typing import Any

import pytest

from sessiond_server.auth import LOCAL_PRINCIPAL
from sessiond_server.errors import Draining, PositionLost, WatcherTooSlow
from sessiond_server.rpc.events.delivery import AGE_SPREAD, Deliveries

LONG = 3600.0


class Script:
    """Frames that come one by one as the test says; cursors are how many `next` has given."""

    def __init__(self, *frames: bytes | Exception, then_ends: bool = False) -> None:
        self.cursor = 0
        self.ended = False
        self.waiting = asyncio.Event()
        self._frames = list(frames)
        self._then_ends = then_ends

    async def next(self) -> bytes:
        if not self._frames:
            self.waiting.set()
            await asyncio.get_running_loop().create_future()
        frame = self._frames.pop(0)
        if isinstance(frame, Exception):
            raise frame
        self.cursor += 1
        self.ended = self._then_ends and not self._frames
        return frame

    def bookmark(self) -> bytes:
        return f"bookmark {self.cursor}".encode()

    def going_away(self, at: int) -> bytes:
        return f"away {at}".encode()

    def position(self, at: int) -> str:
        return f"position {at}"


class Peer:
    """The call, as far as delivery uses it: takes frames until it stops reading."""

    def __init__(self, takes: int = 1000) -> None:
        self.taken: list[bytes] = []
        self.stalled = asyncio.Event()
        self._takes = takes

    async def write(self, frame: bytes) -> None:
        if len(self.taken) == self._takes:
            self.stalled.set()
            await asyncio.get_running_loop().create_future()
        self.taken.append(frame)


def deliveries(**changes: Any) -> Deliveries:
    return Deliveries(**{"write_timeout": LONG, "max_age": LONG, "bookmark_interval": LONG, **changes})


def started(of: Deliveries, peer: Peer, script: Script) -> "asyncio.Task[None]":
    return asyncio.create_task(of.deliver(peer.write, script, b"first", LOCAL_PRINCIPAL))


async def test_frames_are_sent_in_order_up_to_the_last() -> None:
    peer = Peer()
    await deliveries().deliver(peer.write, Script(b"a", b"b", then_ends=True), b"first", LOCAL_PRINCIPAL)
    assert peer.taken == [b"first", b"a", b"b"]


async def test_filtered_batch_sends_no_frame() -> None:
    peer = Peer()
    await deliveries().deliver(peer.write, Script(b"", b"b", b"", b"c", then_ends=True), b"first", LOCAL_PRINCIPAL)
    assert peer.taken == [b"first", b"b", b"c"]


async def test_filtered_events_are_followed_by_bookmarks() -> None:
    peer = Peer()
    script = Script(b"", b"", b"c", then_ends=True)
    await deliveries(bookmark_interval=0.0).deliver(peer.write, script, b"first", LOCAL_PRINCIPAL)
    assert peer.taken == [b"first", b"bookmark 1", b"bookmark 2", b"c"]


async def test_error_of_the_source_ends_the_stream() -> None:
    with pytest.raises(PositionLost):
        await deliveries().deliver(Peer().write, Script(b"a", PositionLost("s", 1)), b"first", LOCAL_PRINCIPAL)


async def test_drain_sends_going_away_to_idle_watchers() -> None:
    of, peer, script = deliveries(), Peer(), Script(b"a", b"")
    watcher = started(of, peer, script)
    await script.waiting.wait()
    of.drain()
    with pytest.raises(Draining):
        await watcher
    assert peer.taken == [b"first", b"a", b"away 2"]
    with pytest.raises(Draining):
        of.admit()
    with pytest.raises(Draining):
        await of.deliver(peer.write, Script(), b"first", LOCAL_PRINCIPAL)


async def test_drain_lets_a_frame_that_is_being_written_finish() -> None:
    class Slow(Peer):
        def __init__(self) -> None:
            super().__init__()
            self.go = asyncio.Event()

        async def write(self, frame: bytes) -> None:
            if frame == b"a":
                self.stalled.set()
                await self.go.wait()
            await super().write(frame)

    of, peer = deliveries(), Slow()
    watcher = started(of, peer, Script(b"a", b"b"))
    await peer.stalled.wait()
    of.drain()
    of.drain()
    peer.go.set()
    with pytest.raises(Draining):
        await watcher
    assert peer.taken == [b"first", b"a", b"away 1"], "b was not taken from the stream: the position is before it"


async def test_a_stream_ends_at_its_age() -> None:
    of, peer, script = deliveries(max_age=0.0), Peer(), Script()
    with pytest.raises(Draining):
        await of.deliver(peer.write, script, b"first", LOCAL_PRINCIPAL)
    assert peer.taken == [b"first", b"away 0"]
    of.admit()


async def test_maximum_ages_of_streams_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    ages: list[float] = []
    loop = asyncio.get_running_loop()
    original = loop.call_later

    def call_later(delay: float, *rest: Any) -> Any:
        ages.append(delay)
        return original(delay, *rest)

    monkeypatch.setattr(loop, "call_later", call_later)
    of = deliveries(max_age=100.0, random=Random(1))
    for _ in range(200):
        await of.deliver(Peer().write, Script(b"a", then_ends=True), b"first", LOCAL_PRINCIPAL)
    spread = [age for age in ages if age <= 100.0]
    assert len(spread) == 200
    assert 100.0 * (1 - AGE_SPREAD) <= min(spread) < 92.0
    assert 98.0 < max(spread) <= 100.0


@pytest.mark.parametrize(("takes", "position"), [(0, "position 0"), (1, "position 0"), (2, "position 1")])
async def test_watcher_that_does_not_read_is_too_slow_at_its_last_taken_position(takes: int, position: str) -> None:
    of, peer = deliveries(write_timeout=0.01), Peer(takes)
    with pytest.raises(WatcherTooSlow) as caught:
        await of.deliver(peer.write, Script(b"a", b"b", b"c"), b"first", LOCAL_PRINCIPAL)
    assert caught.value.metadata == {"position": position}
    assert caught.value.retry_after == 1.0


async def test_filtered_events_count_as_taken() -> None:
    with pytest.raises(WatcherTooSlow) as caught:
        await deliveries(write_timeout=0.01).deliver(Peer(1).write, Script(b"", b"", b"c"), b"first", LOCAL_PRINCIPAL)
    assert caught.value.metadata == {"position": "position 2"}


async def test_a_watcher_that_leaves_is_cancelled_and_not_sent_away() -> None:
    of, peer, script = deliveries(), Peer(), Script()
    watcher = started(of, peer, script)
    await script.waiting.wait()
    watcher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watcher
    assert peer.taken == [b"first"]


async def test_a_watcher_that_leaves_during_a_drain_is_cancelled() -> None:
    for order in (0, 1):
        of, peer, script = deliveries(), Peer(), Script()
        watcher = started(of, peer, script)
        await script.waiting.wait()
        for step in (of.drain, watcher.cancel)[:: 1 - 2 * order]:
            step()
        with pytest.raises(asyncio.CancelledError):
            await watcher
        assert peer.taken == [b"first"]


async def test_only_slow_watchers_are_disconnected() -> None:
    of = deliveries(write_timeout=0.02)
    well, quiet = Peer(), Script(b"a")
    healthy = started(of, well, quiet)
    slow = [started(of, Peer(takes), Script(b"a", b"b")) for takes in (0, 1, 2, 0, 1, 2)]
    assert [type(result) for result in await asyncio.gather(*slow, return_exceptions=True)] == [WatcherTooSlow] * 6
    # Again, with a timer of its own.
    late = started(of, Peer(1), Script(b"a"))
    assert [type(result) for result in await asyncio.gather(late, return_exceptions=True)] == [WatcherTooSlow]
    assert not healthy.done()
    assert well.taken == [b"first", b"a"]
    of.drain()
    with pytest.raises(Draining):
        await healthy


async def test_timeout_inside_the_source_is_not_reported_as_a_slow_watcher() -> None:
    with pytest.raises(TimeoutError):
        await deliveries().deliver(Peer().write, Script(TimeoutError()), b"first", LOCAL_PRINCIPAL)
