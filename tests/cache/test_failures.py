"""Redis fails in every way: reads and writes continue, and the cache recovers with Redis."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sessiond_server.domain import commands as c
from sessiond_server.memory.store import MemoryStore
from sessiond_server.redis import RedisCache, Timeouts
from sessiond_server.redis.link import open_link, parse
from sessiond_server.store.cached.contract import Cache, CacheLimits
from sessiond_server.store.cached.store import CACHE_TIMEOUT, CachedSessions
from tests.support.cached_copies import KEY, copy, put, settled
from tests.support.caller import Caller, accepted
from tests.support.proxy import Proxy
from tests.support.valkey import Valkey
from tests.support.waiting import until

SCOPE = c.Scope("acme")
CALLER = Caller(SCOPE)
QUICK = Timeouts(connect=1.0, answer=0.25)
"""Quick enough to test, and patient with a busy machine."""


@asynccontextmanager
async def opened(
    url: str, *, timeouts: Timeouts = QUICK, limits: CacheLimits | None = None
) -> AsyncIterator[RedisCache]:
    async with RedisCache(url, limits=limits, timeouts=timeouts, random=Random(1)) as cache:
        cache.begin("test:")
        yield cache


@asynccontextmanager
async def cached(url: str) -> AsyncIterator[tuple[CachedSessions, RedisCache]]:
    truth = MemoryStore()
    async with opened(url) as cache, CachedSessions(truth, truth, cache) as store:
        await settled(cache)
        await accepted(store, CALLER.create("s1"), CALLER.append("s1"))
        # The copy of the write is lost where Redis takes longer than CACHE_TIMEOUT: a read puts another one there.
        await until(lambda: hit(store))
        yield store, cache


async def hit(store: CachedSessions) -> bool:
    """Reads the session, and says whether the answer came from the cache."""
    before = store.state().hits
    await store.get_session(SCOPE, "s1", content=True)
    return store.state().hits > before


def url_of(proxy: Proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}"


async def down(cache: Cache, why: str = "") -> None:
    """Returns when it is not in use, for that reason."""

    async def is_down() -> bool:
        return not cache.ready and why in cache.state().reason

    await until(is_down)


async def kill(valkey: Valkey) -> None:
    valkey.kill()


async def freeze(valkey: Valkey) -> None:
    valkey.freeze()


async def fill_up(valkey: Valkey) -> None:
    async with valkey.client() as client:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", "1")


async def become_replica(valkey: Valkey) -> None:
    async with valkey.client() as client:
        await client.replicaof("127.0.0.1", 1)


async def lock_out(valkey: Valkey) -> None:
    """Every user but the tests' own is refused what it asks for."""
    async with valkey.client() as client:
        await client.acl_setuser("default", enabled=True, nopass=True, categories=["-@all", "+@admin", "+@connection"])


async def restart(valkey: Valkey) -> None:
    await valkey.start()


async def thaw(valkey: Valkey) -> None:
    valkey.thaw()


async def make_room(valkey: Valkey) -> None:
    async with valkey.client() as client:
        await client.config_set("maxmemory", "0")


async def become_master(valkey: Valkey) -> None:
    async with valkey.client() as client:
        await client.replicaof("NO", "ONE")


async def let_in(valkey: Valkey) -> None:
    async with valkey.client() as client:
        await client.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"])


OUTAGES = {
    "killed": (kill, restart),
    "frozen": (freeze, thaw),
    "full": (fill_up, make_room),
    "read-only": (become_replica, become_master),
    "forbidden": (lock_out, let_in),
}


@pytest.mark.parametrize("outage", OUTAGES)
async def test_outage_fails_no_call_and_the_cache_recovers(
    outage: str, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    hurt, heal = OUTAGES[outage]
    async with cached(valkey.url) as (store, cache):
        openings = cache.state().openings
        await hurt(valkey)
        async with asyncio.timeout(20):
            for number in range(40):
                await accepted(store, CALLER.append("s1", f"during {number}"))
                session = await store.get_session(SCOPE, "s1", content=True)
                assert session.version == number + 3
                page = await store.list_messages(SCOPE, "s1", after_seq=0, before_seq=0, descending=True, limit=5)
                assert page.version == number + 3
            await down(cache)
        assert store.state().dirty <= 1
        assert cache.state().reason
        assert cache.state().openings > openings
        await heal(valkey)
        await settled(cache)

        async def healed() -> bool:
            return not store.state().dirty and await hit(store)

        await until(healed)
        assert (await store.get_session(SCOPE, "s1", content=True)).version == 42
        said = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [record.getMessage() for record in said if "cannot be used" in record.getMessage()] != []
        assert len(said) == 1, "once"


async def test_flush_is_detected_at_once(valkey: Valkey) -> None:
    async with cached(valkey.url) as (store, cache):
        async with valkey.client() as client:
            await client.flushall()
        assert not await hit(store)
        await settled(cache)
        await until(lambda: hit(store))


async def test_scripts_that_were_flushed_are_loaded_again(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(valkey.url) as cache:
        await settled(cache)
        assert await put(cache, copy(1))
        async with valkey.client() as client:
            await client.script_flush()
        assert not await put(cache, copy(2))
        assert not cache.ready
        await settled(cache)
        assert await put(cache, copy(2))
        assert await cache.get(KEY) == copy(2)
        assert not caplog.records, "no outage"


async def test_entries_of_a_promoted_lagging_replica_are_not_served(tmp_path: Path) -> None:
    master = Valkey(tmp_path / "master", "--repl-diskless-sync-delay", "0")
    replica = Valkey(tmp_path / "replica")
    await master.start()
    await replica.start()
    try:
        async with (
            Proxy("127.0.0.1", master.port) as proxy,
            cached(url_of(proxy)) as (store, cache),
        ):
            async with replica.client() as client, master.client() as other:
                await client.replicaof("127.0.0.1", master.port)

                async def copied() -> bool:
                    return await client.dbsize() == await other.dbsize()

                await until(copied)
                replica.freeze()
                await accepted(store, CALLER.append("s1"))
                await until(lambda: hit(store))
                master.kill()
                replica.thaw()
                await client.replicaof("NO", "ONE")
                assert [key async for key in client.scan_iter("test:*s1*")], "it has the copy from before"
            proxy.point_to(replica.port)
            proxy.cut()
            assert not await hit(store)
            await settled(cache)
            assert not await hit(store)
            await until(lambda: hit(store))
            assert (await store.get_session(SCOPE, "s1", content=True)).version == 3
    finally:
        master.stop()
        replica.stop()


async def test_server_swapped_behind_open_connections_is_detected(tmp_path: Path) -> None:
    """A proxy keeps the connections open while another server answers: the heartbeat detects it."""
    # A run id cannot be changed; the epoch of another server's life is as good.
    server = Valkey(tmp_path / "server")
    await server.start()
    try:
        async with opened(server.url) as cache:
            await settled(cache)
            await put(cache, copy(5))
            async with server.client() as client:
                value = await client.get("test:epoch")
                assert isinstance(value, bytes)
                await client.set("test:epoch", b"0" * 40 + value[40:])

            async def forgotten() -> bool:
                return cache.state().epochs == 2 and await cache.get(KEY) is None

            await until(forgotten)
    finally:
        server.stop()


async def test_calls_do_not_wait_for_a_server_that_was_never_up() -> None:
    truth = MemoryStore()
    async with opened("redis://127.0.0.1:1") as cache, CachedSessions(truth, truth, cache) as store:
        await accepted(store, CALLER.create("s1"))
        assert not await hit(store)
        assert not cache.ready
        await down(cache, "ConnectionError")


async def test_stalled_read_is_answered_by_the_store_and_disables_the_cache(valkey: Valkey) -> None:
    async with Proxy("127.0.0.1", valkey.port) as proxy, cached(url_of(proxy)) as (store, cache):
        proxy.stall()
        reads = [asyncio.create_task(hit(store)) for _ in range(50)]
        assert not any(await asyncio.gather(*reads))
        assert not cache.ready
        assert "no answer" in cache.state().reason
        proxy.flow()
        await settled(cache)
        await until(lambda: hit(store))


@pytest.mark.parametrize("way", ["both", "onward", "back", "crawling"])
async def test_silent_connections_are_replaced_while_new_ones_work(
    valkey: Valkey, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Proxy("127.0.0.1", valkey.port) as proxy, cached(url_of(proxy)) as (store, cache):
        if way == "crawling":
            proxy.crawling = True
        else:
            proxy.silence(onward=way != "back", back=way != "onward")
        assert not any(await asyncio.gather(*(hit(store) for _ in range(20))))
        await until(lambda: "no answer" in caplog.text)
        if way == "crawling":
            proxy.flow()
        # The others stay silent: nothing but new connections helps.
        await settled(cache)
        await until(lambda: hit(store))


async def test_sliced_replies_are_reassembled(valkey: Valkey) -> None:
    async with Proxy("127.0.0.1", valkey.port) as proxy:
        proxy.slicing = True
        async with opened(url_of(proxy), timeouts=Timeouts(connect=10, answer=10)) as cache:
            await settled(cache)
            what = copy(9, *range(1, 9), after=0, content_version=1, content=b"c" * 3000, body=b"\r\n$-1\r\n" * 50)
            assert await put(cache, what)
            answers = [cache.get(KEY, content=True, newest=20) for _ in range(20)]
            assert [await answer for answer in answers] == [what] * 20


async def test_acl_user_of_the_documentation_suffices(valkey: Valkey) -> None:
    text = (Path(__file__).parents[2] / "docs" / "cache.md").read_text()
    (rule,) = [line for line in text.splitlines() if line.startswith("ACL SETUSER ")]
    words = rule.replace("sessiond:*", "test:*").replace("PASSWORD", "secret").split()
    async with valkey.client() as client:
        await client.execute_command(*words)  # type: ignore[no-untyped-call]
    async with opened(f"redis://sessiond:secret@127.0.0.1:{valkey.port}/0") as cache:
        await settled(cache)
        assert await put(cache, copy(2, 1, 2, after=0, content_version=1, content=b"c"))
        assert await put(cache, copy(3, 3, after=2, content_version=1), extends=True)
        assert await cache.get(KEY, content=True, newest=9) is not None
        cache.new_epoch()
        await settled(cache)
        assert await cache.get(KEY) is None
    async with opened(f"redis://sessiond:wrong@127.0.0.1:{valkey.port}/0") as cache:
        await down(cache, "refuses the name or the password")


async def test_write_waits_for_the_cache_timeout_at_most_once(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes after one that has timed out do not wait at all."""
    waits: list[float] = []
    wait: Any = asyncio.wait

    async def counted(futures: Any, *, timeout: float) -> Any:  # noqa: ASYNC109 - as asyncio has it
        waits.append(timeout)
        return await wait(futures, timeout=timeout)

    async with Proxy("127.0.0.1", valkey.port) as proxy, cached(url_of(proxy)) as (store, _):
        proxy.stall()
        monkeypatch.setattr(asyncio, "wait", counted)
        for number in range(20):
            await accepted(store, CALLER.append("s1", f"{number}"))
        assert waits == [CACHE_TIMEOUT]
        assert store.state().dirty == 1
        monkeypatch.undo()


async def test_an_idle_cache_stays_in_use(valkey: Valkey) -> None:
    cache: Cache
    async with opened(valkey.url) as cache:
        await settled(cache)
        async with valkey.client() as client:

            async def asked_again() -> bool:
                return int((await client.info("commandstats"))["cmdstat_info"]["calls"]) >= 8

            await until(asked_again)
        assert cache.state().ready
        assert cache.state().epochs == 1


async def test_connecting_ends_when_it_is_cancelled(valkey: Valkey) -> None:
    """Wherever it is: redis-py's handshake swallows some cancellations."""

    async def connect_for_ever() -> None:
        while True:
            (await open_link(parse(valkey.url), 5.0)).close()

    for turns in range(150):
        task = asyncio.create_task(connect_for_ever())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=5.0)
        assert task.cancelled(), turns
