"""Traffic that servers are replaced under: no call may fail, and no watcher may lose or double an event."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack

import sessiond
from tests.support.replica import Replica

SESSIONS = 4
WRITERS = 16
FILLING = "x" * 3000
"""Makes a content so large that changes of it are stored as patches."""


class Traffic:
    """Writers and readers that never stop, and never see a failure: the first one ends the test. Every other write
    changes the session's metadata, so that servers fold what others wrote."""

    def __init__(self, client: sessiond.Client, session_ids: list[str]) -> None:
        self.written: Counter[str] = Counter()
        """Events of each session, after its creation."""
        self.reads = 0
        self._client = client
        self._session_ids = session_ids
        self._over = False

    async def write(self, number: int) -> None:
        session_id = self._session_ids[number % SESSIONS]
        while not self._over:
            await self._client.append_messages(session_id, [sessiond.user("text")])
            self.written[session_id] += 1
            metadata = {f"writer-{number}": self.written[session_id], "filling": FILLING}
            await self._client.update_session(session_id, metadata=metadata, struct_update="merge")
            self.written[session_id] += 1

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


async def rolled(replicas: Sequence[Replica], successors: Sequence[Replica]) -> None:
    """Starts all replicas, and under traffic replaces one after the other by its successor on the same address: they
    take turns, as often as there are successors. In the end nothing was noticed."""
    target = "ipv4:" + ",".join(replica.address for replica in replicas)
    running = list(replicas)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_stopped, running)
        for replica in running:
            await replica.start()
            await answers(replica)
        client = await stack.enter_async_context(sessiond.Client(target, timeout=60.0))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        created = await asyncio.gather(*(client.create_session(active=True) for _ in range(SESSIONS)))
        session_ids = [session.session_id for session in created]
        traffic = Traffic(client, session_ids)
        watchers = [tasks.create_task(seqs_of_session(client, session_id)) for session_id in session_ids * 2]
        feed = tasks.create_task(seqs_of_feed(client, session_ids))
        under_way = [tasks.create_task(traffic.write(number)) for number in range(WRITERS)]
        under_way.append(tasks.create_task(traffic.read()))
        for number, successor in enumerate(successors):
            place = number % len(running)
            before = traffic.written.total() + traffic.reads
            assert await running[place].stop() == 0
            successor.port, successor.address = running[place].port, running[place].address
            running[place] = successor
            await successor.start()
            await answers(successor)
            assert traffic.written.total() + traffic.reads > before, "the other one goes on"
        traffic.end()
        await asyncio.gather(*under_way)
        for session_id in session_ids:
            await client.end_session(session_id)
    for session_id, seqs in [
        *zip(session_ids * 2, [task.result() for task in watchers], strict=True),
        *feed.result().items(),
    ]:
        # Created, each write once though it may have been sent twice, ended.
        assert seqs == list(range(1, traffic.written[session_id] + 3))


async def _stopped(running: Sequence[Replica]) -> None:
    for replica in running:
        await replica.stop()


async def answers(replica: Replica) -> None:
    """Returns when it does."""
    async with sessiond.Client(replica.address, timeout=60.0, wait_for_ready=True) as client:
        await client.count_sessions()
