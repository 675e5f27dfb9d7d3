"""An import goes on when the service is killed while it arrives, and nothing shows before it is complete."""

import asyncio
from pathlib import Path

import pytest

import sessiond
from tests.support.client_service import RECONNECT
from tests.support.replica import Replica

FILE = bytes(range(256)) * 160_000
"""40 MB: three pieces."""


@pytest.mark.long
async def test_a_killed_service_loses_nothing_of_an_import(postgres_dsn: str, tmp_path: Path) -> None:
    replica, path = Replica(postgres_dsn, tmp_path / "server.log"), tmp_path / "s.jsonl"
    await replica.start()
    async with sessiond.Client(replica.address, wait_for_ready=True, timeout=60, reconnect=RECONNECT) as client:
        await client.create_session("s", active=True)
        for number in range(20):
            await client.append_messages("s", [sessiond.user(f"message {number} {n}") for n in range(100)])
        await client.upload("s", FILE, attachment_id="a")
        lines = await client.export_session("s", path)
        kills = [0.005, 0.4, 0.8, 0.999]
        restarts: list[asyncio.Task[None]] = []

        def kill(done: int, total: int) -> None:
            if kills and done / total >= kills[0]:
                kills.pop(0)
                restarts.append(asyncio.create_task(again()))

        async def again() -> None:
            await replica.kill()
            await replica.start()
            with pytest.raises(sessiond.SessionNotFound):
                await client.get_session("new", consistency="strong")

        try:
            done = await client.import_session(path, session_id="new", progress=kill)
            assert not kills
            # After the last kill it may be there already, before the client was told.
            assert done.session.version == (await client.get_session("s")).version
            await asyncio.gather(*restarts[:-1])
            await asyncio.wait(restarts)
            assert await client.download("new", "a").read() == FILE
            assert await client.export_session("new", tmp_path / "new.jsonl") == lines
        finally:
            await replica.kill()
