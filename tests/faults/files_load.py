"""Files uploaded all the while, through any replica, and every one read in the end."""

import asyncio
import random
from collections.abc import Sequence
from hashlib import sha256

import sessiond

LARGEST = 700 * 1024
PAUSE = 0.5
AWAY = (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted, sessiond.TransferBroken)


class FilesLoad:
    """`workers` callers, each of which uploads one file after the other. Runs until stopped."""

    def __init__(self, client: sessiond.Client, sessions: Sequence[str], *, workers: int, seed: int) -> None:
        self.stored: dict[tuple[str, str], bytes] = {}
        """SHA-256 of each file that was acknowledged, by session and id."""
        self.unforeseen: list[str] = []
        self._client = client
        self._sessions = sessions
        self._workers = workers
        self._seed = seed
        self._stopped = False

    async def run(self) -> None:
        """Returns when stopped and every upload that was begun has been acknowledged."""
        async with asyncio.TaskGroup() as tasks:
            for worker in range(self._workers):
                tasks.create_task(self._work(worker, random.Random(f"{self._seed} {worker}")))

    def stop(self) -> None:
        self._stopped = True

    async def lost(self) -> int:
        """How many of the files that were acknowledged are not there, or not what was sent."""
        count = 0
        for (session_id, attachment_id), digest in self.stored.items():
            data = await self._client.download(session_id, attachment_id).read()
            count += sha256(data).digest() != digest
        return count

    async def _work(self, worker: int, chance: random.Random) -> None:
        number = 0
        while not self._stopped:
            content, number = chance.randbytes(chance.randrange(1, LARGEST)), number + 1
            session_id = self._sessions[(worker + number) % len(self._sessions)]
            attachment_id = f"{worker}-{number}"
            while True:
                try:
                    await self._client.upload(session_id, content, attachment_id=attachment_id, give_up_after=120.0)
                    break
                except AWAY:
                    await asyncio.sleep(0.05)
                except sessiond.SessiondError as error:
                    self.unforeseen.append(f"{type(error).__name__}: {error}")
                    await asyncio.sleep(0.05)
            self.stored[session_id, attachment_id] = sha256(content).digest()
            await asyncio.sleep(chance.uniform(0, PAUSE))
