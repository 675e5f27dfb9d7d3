"""What one server takes, the watchers of another one see: events by the log, deltas by the bus."""

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

import sessiond
from tests.support.replica import Replica


async def test_a_watcher_at_another_server_sees_events_and_deltas(
    postgres_dsn: str, redis_url: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(2):
            replica = Replica(postgres_dsn, tmp_path / f"server-{number}.log", {"SESSIOND_REDIS_URL": redis_url})
            await replica.start()
            stack.push_async_callback(replica.stop)
            client = sessiond.Client(replica.address, timeout=60.0, wait_for_ready=True)
            clients.append(await stack.enter_async_context(client))
        here, there = clients
        session_id = (await here.create_session(active=True)).session_id
        seen: list[object] = []
        feed_seen: list[int] = []
        async with there.watch(session_id, deltas=True) as watch, there.watch_events(from_beginning=True) as feed:
            typing = asyncio.create_task(publish_until(here, session_id, seen))
            async for item in watch:
                seen.append(item)
                if isinstance(item, sessiond.Delta):
                    break
            await typing
            await here.append_messages(session_id, [sessiond.user("from here")])
            async for item in watch:
                if isinstance(item, sessiond.Event):
                    seen.append(item)
                    break
            async for one in feed:
                feed_seen.append(one.seq)
                if one.seq == 2:
                    break
        delta, event = seen
        assert isinstance(delta, sessiond.Delta)
        assert (delta.message_id, delta.text) == ("m1", "fr")
        assert isinstance(event, sessiond.Event)
        assert (event.seq, event.message.parts[0].text) == (2, "from here")
        assert feed_seen == [1, 2]


@pytest.mark.long
async def test_late_joiner_at_another_server_gets_the_draft_of_a_writer_that_was_killed(
    postgres_dsn: str, redis_url: str, tmp_path: Path
) -> None:
    """The writer's server is killed too. Long, for the service waits 15 seconds before it calls a draft interrupted."""
    async with AsyncExitStack() as stack:
        replicas, clients = [], []
        for number in range(2):
            replica = Replica(postgres_dsn, tmp_path / f"server-{number}.log", {"SESSIOND_REDIS_URL": redis_url})
            await replica.start()
            stack.push_async_callback(replica.stop)
            replicas.append(replica)
            client = sessiond.Client(replica.address, timeout=60.0, wait_for_ready=True)
            clients.append(await stack.enter_async_context(client))
        here, there = clients
        session_id = (await here.create_session(active=True)).session_id
        # The servers have found each other on the bus.
        found: list[object] = []
        async with there.watch(session_id, deltas=True) as watch:
            probing = asyncio.create_task(publish_until(here, session_id, found))
            found.append(await anext(watch))
            await probing
            draft = here.draft(session_id, message_id="answer", interval=0)
            await draft.__aenter__()
            await draft.write("To be, or not")
            async for item in watch:
                if isinstance(item, sessiond.Delta) and item.message_id == "answer" and item.text:
                    break
        await replicas[0].kill()
        await here.close()
        async with there.watch(session_id, deltas=True) as late:
            said = ""
            async for item in late:
                assert isinstance(item, sessiond.Delta)
                if item.message_id == "answer":
                    said += item.text
                    if item.interrupted:
                        break
        assert said == "To be, or not"
        await there.append_messages(session_id, [sessiond.assistant("whole", message_id="answer")])
        async with there.watch(session_id, deltas=True) as after:
            await there.append_messages(session_id, [sessiond.user("next")])
            async for item in after:
                if isinstance(item, sessiond.Event):
                    break
                assert item.message_id != "answer"
        with suppress(Exception):
            await draft.__aexit__(None, None, None)


async def publish_until(client: sessiond.Client, session_id: str, seen: list[object]) -> None:
    """Deltas may be lost, as long as the servers have not found each other on the bus above all."""
    delta = sessiond.Delta(message_id="m1", text="fr")
    while not seen:
        await client.publish_delta(session_id, [delta])
