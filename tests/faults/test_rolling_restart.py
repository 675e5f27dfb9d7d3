"""Two servers restarted in turn behind one client: no call fails, and no watcher loses or doubles an event."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import sessiond
from tests.support.effort import left_to_long
from tests.support.replica import Replica

SESSIONS = 4
WRITERS = 16


class Traffic:
    """Writers and readers that never stop, and never see a failure: the first one ends the test."""

    def __init__(self, client: sessiond.Client, session_ids: list[str]) -> None:
        self.appended: Counter[str] = Counter()
        self.reads = 0
        self._client = client
        self._session_ids = session_ids
        self._over = False

    async def write(self, number: int) -> None:
        session_id = self._session_ids[number % SESSIONS]
        while not self._over:
            await self._client.append_messages(session_id, [sessiond.user("text")])
            self.appended[session_id] += 1

    async def read(self) -> None:
        while not self._over:
            await asyncio.gather(*(self._client.get_session(session_id) for session_id in self._session_ids))
            self.reads += SESSIONS

    def end(self) -> None:
        self._over = True


async def seqs_of_session(client: sessiond.Client, session_id: str) -> list[int]:
    """Of all events, from the first to the end of the session."""
    found = []
    async for event in client.watch(session_id, from_beginning=True):
        found.append(event.seq)
        if event.session.status == sessiond.SessionStatus.SESSION_STATUS_ENDED:
            return found
    raise AssertionError("unreachable: a watch of a session that is not deleted has no end")


async def seqs_of_feed(client: sessiond.Client, session_ids: list[str]) -> dict[str, list[int]]:
    """Of all events of these sessions, until each has ended."""
    found: dict[str, list[int]] = {session_id: [] for session_id in session_ids}
    ended = 0
    async for event in client.watch_events(from_beginning=True, session_ids=session_ids):
        found[event.session_id].append(event.seq)
        ended += event.session.status == sessiond.SessionStatus.SESSION_STATUS_ENDED
        if ended == SESSIONS:
            break
    return found


@pytest.mark.parametrize("rounds", [1, *left_to_long(3)])
async def test_restarts_in_turn_are_not_noticed(postgres_dsn: str, tmp_path: Path, rounds: int) -> None:
    replicas = [Replica(postgres_dsn, tmp_path / f"server-{number}.log") for number in range(2)]
    target = "ipv4:" + ",".join(replica.address for replica in replicas)
    async with AsyncExitStack() as stack:
        for replica in replicas:
            await replica.start()
            stack.push_async_callback(replica.stop)
            await answers(replica)
        client = await stack.enter_async_context(sessiond.Client(target, timeout=30.0))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        created = await asyncio.gather(*(client.create_session(active=True) for _ in range(SESSIONS)))
        session_ids = [session.session_id for session in created]
        traffic = Traffic(client, session_ids)
        watchers = [tasks.create_task(seqs_of_session(client, session_id)) for session_id in session_ids * 2]
        feed = tasks.create_task(seqs_of_feed(client, session_ids))
        under_way = [tasks.create_task(traffic.write(number)) for number in range(WRITERS)]
        under_way.append(tasks.create_task(traffic.read()))
        for replica in replicas * rounds:
            before = traffic.appended.total() + traffic.reads
            assert await replica.stop() == 0
            await replica.start()
            await answers(replica)
            assert traffic.appended.total() + traffic.reads > before, "the other one goes on"
        traffic.end()
        await asyncio.gather(*under_way)
        for session_id in session_ids:
            await client.end_session(session_id)
    for session_id, seqs in [
        *zip(session_ids * 2, [task.result() for task in watchers], strict=True),
        *feed.result().items(),
    ]:
        # Created, each append once though it may have been sent twice, ended.
        assert seqs == list(range(1, traffic.appended[session_id] + 3))


async def answers(replica: Replica) -> None:
    """Returns when it does."""
    async with sessiond.Client(replica.address, timeout=60.0, wait_for_ready=True) as client:
        await client.count_sessions()
