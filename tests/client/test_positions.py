"""Stored positions: when they are saved, and which events come again after a crash."""

import asyncio
import os
from pathlib import Path

import pytest

import sessiond
from tests.support.scripted_server import QUIET, UNAVAILABLE, Fail, ScriptedServer, Wait, asked
from tests.support.watch_frames import batch, bookmark, position, resumed, seqs, snapshot


class Notes:
    """A PositionStore that remembers all it was told."""

    def __init__(self, first: str | None = None) -> None:
        self.saved = [first] if first else list[str]()
        self.changed = asyncio.Event()
        self.fail = False
        self.busy = False

    async def load(self) -> str | None:
        return self.saved[-1] if self.saved else None

    async def save(self, position: str) -> None:
        assert not self.busy
        self.busy = True
        await asyncio.sleep(0)
        self.busy = False
        if self.fail:
            raise OSError("disk full")
        self.saved.append(position)
        self.changed.set()


async def test_watch_begins_at_the_stored_position(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([resumed(7), batch(8), QUIET])
    async with client.watch("s", store=Notes(position(7))) as watch:
        assert watch.position == position(7)
        assert await seqs(watch, 1) == [8]
    assert asked(server) == [position(7)]


async def test_first_position_is_saved_at_once(client: sessiond.Client, server: ScriptedServer) -> None:
    """Otherwise a feed from now on whose reader crashes before the first event would begin later and miss events."""
    notes = Notes()
    server.script.append([snapshot(3), QUIET])
    async with client.watch("s", store=notes, save_seconds=3600) as watch:
        waiting = asyncio.create_task(anext(watch))
        await notes.changed.wait()
        assert notes.saved == [position(3)]
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_position_is_saved_after_a_number_of_events(client: sessiond.Client, server: ScriptedServer) -> None:
    notes = Notes(position(3))
    server.script.append([resumed(3), *(batch(seq, seq + 1) for seq in range(4, 16, 2)), QUIET])
    async with client.watch("s", store=notes, save_events=4, save_seconds=3600) as watch:
        await seqs(watch, 12)
        # Not the frame that its reader is still at.
        assert notes.saved == [position(3), position(7), position(11)]
    assert notes.saved[-1] == position(13)


async def test_position_is_saved_after_an_interval_without_events_too(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    notes = Notes(position(3))
    later = asyncio.Event()
    server.script.append([resumed(3), batch(4), Wait(later), batch(5), QUIET])
    async with client.watch("s", store=notes, save_seconds=0.02) as watch:
        assert await seqs(watch, 1) == [4]
        waiting = asyncio.create_task(seqs(watch, 1))
        await notes.changed.wait()
        assert notes.saved == [position(3), position(4)]
        later.set()
        assert await waiting == [5]
    assert len(server.seen) == 1


async def test_position_is_saved_at_the_end(client: sessiond.Client, server: ScriptedServer) -> None:
    notes = Notes(position(3))
    server.script.append([resumed(3), batch(4), bookmark(4), batch(5), QUIET])
    async with client.watch("s", store=notes, save_seconds=3600) as watch:
        await seqs(watch, 2)
        assert notes.saved == [position(3)]
        watch.ack()
    assert notes.saved == [position(3), position(5)]


async def test_position_of_unprocessed_events_is_not_saved(client: sessiond.Client, server: ScriptedServer) -> None:
    notes = Notes(position(3))
    server.script.append([resumed(3), batch(4), batch(5), QUIET])

    async def handle() -> None:
        async with client.watch("s", store=notes, save_seconds=3600) as watch:
            async for event in watch:
                if event.seq == 5:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await handle()
    assert notes.saved == [position(3), position(4)]


async def test_no_position_is_saved_twice(client: sessiond.Client, server: ScriptedServer) -> None:
    notes = Notes(position(3))
    server.script.append([resumed(3), bookmark(3), bookmark(3), batch(4), QUIET])
    async with client.watch("s", store=notes, save_events=1) as watch:
        await seqs(watch, 1)
    await watch.aclose()
    assert notes.saved == [position(3)]


async def test_one_save_at_a_time(client: sessiond.Client, server: ScriptedServer) -> None:
    class Slow(Notes):
        async def save(self, position: str) -> None:
            saving.set()
            assert not self.busy
            self.busy = True
            await finish.wait()
            self.busy = False
            self.saved.append(position)

    saving, finish = asyncio.Event(), asyncio.Event()
    notes = Slow(position(3))
    server.script.append([resumed(3), batch(4), QUIET])
    watch = client.watch("s", store=notes, save_events=1)
    assert await seqs(watch, 1) == [4]

    async def read() -> list[sessiond.Event]:
        return [event async for event in watch]

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        await saving.wait()
        group.create_task(watch.aclose())
        await client.get_session("s")
        finish.set()
    assert reading.result() == []
    assert notes.saved == [position(3), position(4)]


async def test_frame_counts_as_processed_when_the_next_is_read(client: sessiond.Client, server: ScriptedServer) -> None:
    notes = Notes()
    server.script.append([snapshot(3), batch(4, 5), batch(6), QUIET])
    async with client.watch("s", store=notes, save_events=1, save_seconds=3600) as watch:
        frames = watch.frames()
        for _ in range(3):
            await anext(frames)
        assert notes.saved == [position(3), position(5)]
        watch.ack()
    assert notes.saved == [position(3), position(5), position(6)]


async def test_a_store_that_fails_loses_no_event(client: sessiond.Client, server: ScriptedServer) -> None:
    notes = Notes(position(3))
    server.script.append([resumed(3), batch(4), batch(5), batch(6), QUIET])
    async with client.watch("s", store=notes, save_events=1) as watch:
        assert await seqs(watch, 1) == [4]
        notes.fail = True
        for _ in range(2):
            with pytest.raises(OSError, match="disk full"):
                await anext(watch)
        notes.fail = False
        assert await seqs(watch, 2) == [5, 6]
    assert notes.saved == [position(3), position(4), position(5)]


async def test_frame_that_arrives_while_saving_fails_is_kept(client: sessiond.Client, server: ScriptedServer) -> None:
    class Failing(Notes):
        async def save(self, position: str) -> None:
            later.set()
            for _ in range(1000):
                if arrived():
                    break
                await client.get_session("s")
            raise OSError("disk full")

    def arrived() -> bool:
        tail = watch._tail
        return tail is not None and tail.position == position(5)

    later = asyncio.Event()
    server.script.append([resumed(3), batch(4), Wait(later), batch(5), Fail(UNAVAILABLE.code)])
    watch = client.watch("s", store=(notes := Failing(position(3))), save_seconds=0.1)
    assert await seqs(watch, 1) == [4]
    with pytest.raises(OSError, match="disk full"):
        await anext(watch)
    notes.save = super(Failing, notes).save  # type: ignore[method-assign]
    assert await seqs(watch, 1) == [5]
    await watch.aclose()


async def test_watch_continues_after_a_cancellation_before_a_save(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    notes = Notes(position(3))
    server.script.extend([[resumed(3), batch(4), QUIET], [resumed(4), batch(5), QUIET]])
    async with client.watch("s", store=notes, save_seconds=3600) as watch:
        assert await seqs(watch, 1) == [4]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await anext(watch)
        assert await seqs(watch, 1) == [5]
    assert asked(server) == [position(3), position(4)]


async def test_file_hands_the_position_to_the_next_client(
    client: sessiond.Client, server: ScriptedServer, tmp_path: Path
) -> None:
    path = tmp_path / "indexer.position"
    server.script.extend([[snapshot(3), batch(4), batch(5), QUIET], [resumed(4), batch(5), QUIET]])
    async with client.watch("s", store=sessiond.FilePositions(path)) as watch:
        assert await seqs(watch, 2) == [4, 5]
    async with (
        sessiond.Client(server.target) as another,
        another.watch("s", store=sessiond.FilePositions(path)) as watch,
    ):
        assert await seqs(watch, 1) == [5]
    assert asked(server) == ["", position(4)]
    assert sorted(os.listdir(tmp_path)) == [path.name]


async def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = sessiond.FilePositions(tmp_path / "position")
    assert await store.load() is None
    await store.save("one")
    await store.save("two")
    assert await store.load() == "two"

    def crash(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        store._save("three")
    assert await store.load() == "two"
    assert str(tmp_path) in repr(store)


@pytest.mark.parametrize("content", [b"", b"\n", b"cut off", b"two\nlines\n", b"\xff\n"])
async def test_file_without_a_position_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "position"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds no position"):
        await sessiond.FilePositions(path).load()


async def test_missing_folder_is_raised(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await sessiond.FilePositions(tmp_path / "nowhere" / "position").save("p")
