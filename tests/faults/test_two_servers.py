"""The same request raced through two server processes: one effect, one outcome (G4)."""

import asyncio
from pathlib import Path

import pytest

import sessiond
from tests.support.replica import Replica

REQUESTS = 60


@pytest.mark.long
async def test_a_request_raced_through_two_servers_has_one_effect(postgres_dsn: str, tmp_path: Path) -> None:
    replicas = [Replica(postgres_dsn, tmp_path / f"server-{number}.log") for number in range(2)]
    for replica in replicas:
        await replica.start()
    try:
        clients = [sessiond.Client(replica.address, timeout=60.0, wait_for_ready=True) for replica in replicas]
        try:
            create, *ids = [sessiond.new_request_id() for _ in range(REQUESTS + 1)]
            created = await asyncio.gather(
                *(client.create_session(active=True, request_id=create) for client in clients for _ in range(2))
            )
            assert all(session == created[0] for session in created)
            session_id = created[0].session_id

            async def append(client: sessiond.Client, request_id: str) -> object:
                return await client.append_messages(session_id, [sessiond.user(request_id)], request_id=request_id)

            # Interleaved, so that both servers are at the same request at about the same time.
            answers = await asyncio.gather(*(append(client, one) for one in ids for client in clients))
            assert answers[0::2] == answers[1::2]
            stored = [sessiond.text_of(m) async for m in clients[0].list_messages(session_id, consistency="strong")]
            assert sorted(stored) == sorted(ids)
            assert (await clients[1].get_session(session_id, consistency="strong")).version == REQUESTS + 1
        finally:
            for client in clients:
                await client.close()
    finally:
        for replica in replicas:
            assert await replica.stop() == 0
