"""The servers of a campaign: three replicas on one Postgres pair and one Valkey, with a proxy on each link of the last
replica.

writers, subscribers --- replica 0, replica 1 ------------ Postgres a, b; Valkey
                    \\-- proxy -- replica 2 -- proxies --/
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tests.support import s3
from tests.support.postgres_pair import PostgresPair, Survey
from tests.support.proxy import Proxy
from tests.support.replica import Replica
from tests.support.valkey import Valkey

REPLICAS = 3
PROXIED = 2
"""The replica whose links go through proxies."""
LINKS = ("client", "postgres", "redis")


class Site:
    """Use as `async with Site(folder, log) as site`, in the main thread. Starting it takes seconds."""

    def __init__(
        self,
        folder: Path,
        log: Path,
        settings: Mapping[str, str],
        chance: random.Random,
        *,
        storage: bool = False,
        restored: bool = False,
        workers: int = 1,
    ) -> None:
        """`settings`: environment of the replicas besides. `storage`: attachments lie in an S3 server of its own, which
        the last replica reaches through a proxy; else in Postgres. `restored`: the database can be backed up and
        restored. `workers`: processes of each replica."""
        self._workers = workers
        self._storage = storage
        self._log = log
        self._settings = settings
        self._stack = AsyncExitStack()
        self._watched = [True] * REPLICAS
        self._turns: defaultdict[object, asyncio.Lock] = defaultdict(asyncio.Lock)
        """What is hurt already is hurt again afterwards."""
        self.pair = PostgresPair(folder / "postgres", durable=False, archived=restored)
        self.redis = Valkey(folder / "valkey")
        self._chance = chance
        self.links: dict[str, list[Proxy]] = {}
        self.replicas: list[Replica] = []
        self.died: list[int] = []
        """Replicas that ended by themselves, as failpoints make them."""

    async def __aenter__(self) -> "Site":
        async with self._stack:
            await self._stack.enter_async_context(self.pair)
            await self.redis.start()
            self._stack.callback(self.redis.stop)
            self.links["postgres"] = [await self._proxy(port) for port in self.pair.ports]
            self.links["redis"] = [await self._proxy(self.redis.port)]
            buckets = await self._start_storage() if self._storage else ()
            for number in range(REPLICAS):
                proxied = number == PROXIED
                redis_port = self.links["redis"][0].port if proxied else self.redis.port
                dsn = self.pair.dsn([proxy.port for proxy in self.links["postgres"]] if proxied else ())
                redis_url = f"redis://127.0.0.1:{redis_port}/0"
                environment = {"SESSIOND_SEARCH": "true", **self._settings, "SESSIOND_REDIS_URL": redis_url}
                if buckets:
                    environment["SESSIOND_BLOB_STORE"] = buckets[proxied]
                    environment |= {"AWS_ACCESS_KEY_ID": s3.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": s3.SECRET_KEY}
                replica = Replica(dsn, self._log, environment, workers=self._workers)
                self.replicas.append(replica)
                self._stack.push_async_callback(replica.stop)
                await replica.start()
            self.links["client"] = [await self._proxy(self.replicas[PROXIED].port)]
            watching = asyncio.create_task(self._keep_running())
            self._stack.push_async_callback(_ended, watching)
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def addresses(self) -> Sequence[str]:
        """Where clients reach the replicas."""
        own = [replica.address for replica in self.replicas]
        return [*own[:PROXIED], f"127.0.0.1:{self.links['client'][0].port}"]

    async def kill(self, number: int, failpoints: str = "") -> None:
        """The replica dies, and starts again with these failpoints."""
        async with self._turns[number]:
            self._watched[number] = False
            await self.replicas[number].kill()
            await self.replicas[number].start({"SESSIOND_FAILPOINTS": failpoints})
            self._watched[number] = True

    async def kill_a_worker(self, number: int) -> None:
        """One of several workers of the replica dies; another one takes its place."""
        async with self._turns[number]:
            self.replicas[number].kill_a_worker(self._chance)

    async def drain(self, number: int) -> None:
        """The replica gets SIGTERM and starts again once it has ended; no client may notice."""
        async with self._turns[number]:
            self._watched[number] = False
            await self.replicas[number].stop()
            await self.replicas[number].start()
            self._watched[number] = True

    async def restore(
        self, how: str, before: Callable[[], Awaitable[None]], behind: Callable[[], Awaitable[None]], survey: Survey
    ) -> None:
        """The database is lost and restored as docs/operations.md says, from a backup that lacks what is written during
        `behind`. What is written during `before` is in the log behind a base backup. Redis starts anew. `survey` sees
        what was restored, before a replica does."""
        async with AsyncExitStack() as turns:
            for what in (*range(REPLICAS), "redis"):
                await turns.enter_async_context(self._turns[what])
            backup = await self.pair.back_up(how)
            await before()
            await self.pair.mark(backup)
            await behind()
            self._watched = [False] * REPLICAS
            await asyncio.gather(*(replica.stop() for replica in self.replicas))
            await self.pair.restore(backup, survey)
            self.redis.kill()
            await self.redis.start()
            await asyncio.gather(*(replica.start() for replica in self.replicas))
            self._watched = [True] * REPLICAS

    async def hurt_redis(self, how: str, seconds: float) -> None:
        """`kill`: away for so long; `flush`; `freeze`: silent for so long."""
        async with self._turns["redis"]:
            if how == "kill":
                self.redis.kill()
                await asyncio.sleep(seconds)
                await self.redis.start()
            elif how == "flush":
                async with self.redis.client() as client:
                    await client.flushall()
            else:
                self.redis.freeze()
                await asyncio.sleep(seconds)
                self.redis.thaw()

    async def hurt_link(self, link: str, how: str, seconds: float) -> None:
        """`cut`: its connections are reset; `stall`: nothing gets through for so long; `slice`: in small pieces."""
        async with self._turns["link", link]:
            for proxy in self.links[link]:
                if how == "cut":
                    proxy.cut()
                elif how == "stall":
                    proxy.stall()
                else:
                    proxy.slicing = True
            if how != "cut":
                await asyncio.sleep(seconds)
            for proxy in self.links[link]:
                proxy.flow()
                proxy.slicing = False

    async def _start_storage(self) -> tuple[str, str]:
        """The bucket's URL, and the one through the proxy."""
        server = self._stack.enter_context(s3.running())
        self.links["storage"] = [await self._proxy(server.port)]
        bucket = server.bucket()
        return bucket, bucket.replace(str(server.port), str(self.links["storage"][0].port))

    async def silence(self, link: str, how: str, direction: str, seconds: float) -> None:
        """For so long; `how` and `direction` as in SILENCES."""
        onward, back = direction != "back", direction != "onward"
        async with self._turns["link", link]:
            for proxy in self.links[link]:
                if how == "hush":
                    proxy.silence(onward=onward, back=back)
                elif how == "hole":
                    proxy.stall(onward=onward, back=back)
                else:
                    proxy.crawling = True
            try:
                await asyncio.sleep(seconds)
            finally:
                for proxy in self.links[link]:
                    proxy.flow()

    async def pause(self, number: int, seconds: float) -> None:
        """The replica stands still for so long, in the middle of whatever it does."""
        async with self._turns[number]:
            self.replicas[number].pause()
            try:
                await asyncio.sleep(seconds)
            finally:
                self.replicas[number].go_on()

    async def _proxy(self, port: int) -> Proxy:
        return await self._stack.enter_async_context(Proxy("127.0.0.1", port, self._chance))

    async def _keep_running(self) -> None:
        """Starts replicas again that end by themselves, without failpoints, until cancelled."""
        while True:
            await asyncio.sleep(0.1)
            for number, replica in enumerate(self.replicas):
                if self._watched[number] and replica.ended:
                    self.died.append(number)
                    await replica.start()


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
