"""Servers with TLS, and clusters whose slots move."""

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sessiond_server.domain.rows import Key
from sessiond_server.redis import RedisCache
from sessiond_server.redis.cluster import slot_of
from sessiond_server.redis.entries import tag
from sessiond_server.store.cached.contract import Cache, Forget
from tests.support.cached_copies import copy, forget, put, settled
from tests.support.caches import LIMITS, PATIENT
from tests.support.proxy import Proxy
from tests.support.redis_cluster import ClusterOfThree
from tests.support.valkey import Valkey
from tests.support.waiting import until

KEYS: list[Key] = [("acme", f"s{number}") for number in range(60)]


@asynccontextmanager
async def opened(url: str, prefix: str) -> AsyncIterator[RedisCache]:
    async with RedisCache(url, limits=LIMITS, timeouts=PATIENT, random=Random(1)) as cache:
        cache.begin(prefix)
        await settled(cache)
        yield cache


async def taken(cache: Cache, version: int) -> bool:
    """Whether copies of all sessions at that version are taken, and there."""
    if not all([await put(cache, copy(version), key) for key in KEYS]):
        return False
    return [await cache.get(key) for key in KEYS] == [copy(version)] * len(KEYS)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
async def test_cache_connects_with_tls(valkey: Valkey, tmp_path: Path) -> None:
    """The bundled server has no TLS, so a TLS proxy stands in front of it."""
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    named = ["-subj", "/CN=cache", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *made, *named, "-out", certificate, "-keyout", key], check=True, capture_output=True)  # noqa: ASYNC221
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with Proxy("127.0.0.1", valkey.port, tls=context) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0"
        async with opened(f"{url}?ssl_ca_certs={certificate}", "tls:") as cache:
            assert await taken(cache, 3)
        async with RedisCache(url, timeouts=PATIENT) as distrustful:
            distrustful.begin("tls:")

            async def refused() -> bool:
                return "certificate is not trusted" in distrustful.state().reason

            await until(refused)


async def test_cluster_spreads_sessions_over_its_servers(cluster_of_three: ClusterOfThree, redis_prefix: str) -> None:
    async with opened(cluster_of_three.servers[2].url, redis_prefix) as cache:
        assert await taken(cache, 3)
        for server in cluster_of_three.servers:
            async with server.client() as client:
                names = [name async for name in client.scan_iter(f"{redis_prefix}*", count=1000)]
            assert len(names) > 5
        told = await cache.put([Forget(key, 9) for key in KEYS])
        assert list(told) == [True] * len(KEYS)


async def test_moved_slot_is_followed(tmp_path: Path, redis_prefix: str) -> None:
    cluster = ClusterOfThree(tmp_path)
    try:
        await cluster.start()
        async with opened(cluster.servers[0].url, redis_prefix) as cache:
            assert await taken(cache, 3)
            source, target = cluster.servers[0], cluster.servers[1]
            mine = [key for key in KEYS if slot_of(tag(key)) < 5000]
            await _move(cluster, source, target, range(5000))

            async def followed() -> bool:
                return all([await put(cache, copy(4), key) for key in mine])

            await until(followed)
            await settled(cache)
            assert [await cache.get(key) for key in mine] == [copy(4)] * len(mine)
    finally:
        cluster.stop()


@pytest.mark.long
async def test_failover_of_a_master_is_followed(tmp_path: Path, redis_prefix: str) -> None:
    cluster = ClusterOfThree(tmp_path)
    try:
        await cluster.start()
        master = cluster.servers[0]
        replica = await cluster.server()
        await cluster.meet(cluster.servers[1], replica)
        async with master.client() as client, replica.client() as other:
            identity = (await _do(client, "CLUSTER", "MYID")).decode()

            async def met() -> bool:
                return identity.encode() in await _do_raw(other, "CLUSTER", "NODES")

            await until(met)
            await _do(other, "CLUSTER", "REPLICATE", identity)

            async def copied() -> bool:
                return bool((await other.info("replication"))["master_link_status"] == "up")

            await until(copied)
        async with opened(cluster.servers[1].url, redis_prefix) as cache:
            assert await taken(cache, 3)
            lost = [key for key in KEYS if slot_of(tag(key)) <= 5461]
            master.kill()
            others = [key for key in KEYS if key not in lost]
            assert [await cache.get(key) for key in others] == [copy(3)] * len(others), "these go on"
            assert [await cache.get(key) for key in lost] == [None] * len(lost)

            async def followed() -> bool:
                return all([await forget(cache, 4, key) for key in lost])

            await until(followed)
            assert [await cache.get(key) for key in lost] == [None] * len(lost)
            await settled(cache)
            assert await taken(cache, 5)
    finally:
        cluster.stop()


async def _move(cluster: ClusterOfThree, source: Valkey, target: Valkey, slots: range) -> None:
    """Gives empty slots to another master; what is in them is dropped first."""
    async with source.client() as giving, target.client() as taking:
        identity = (await _do(taking, "CLUSTER", "MYID")).decode()
        async for name in giving.scan_iter("*", count=1000):
            await giving.delete(name)
        for server in (target, *cluster.servers):
            async with server.client() as client:
                for slot in slots[:: max(1, len(slots) // 200)]:
                    await _do(client, "CLUSTER", "SETSLOT", slot, "NODE", identity)


async def _do(client: Any, *command: str | int) -> Any:
    return await client.execute_command(*command)


async def _do_raw(client: Any, *command: str) -> bytes:
    """The reply as text, which redis-py parses for some commands."""
    return str(await client.execute_command(*command)).encode()
