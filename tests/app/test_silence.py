"""A service whose database falls silent recovers by itself, reports the cause meanwhile, and can be stopped."""

import asyncio
import time
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

import sessiond
from tests.support.proxy import proxied_postgres
from tests.support.serve_process import serving
from tests.support.waiting import until

FOREVER = 60.0
"""Seconds that stand for it; what is awaited takes 6 to 8 on an idle machine."""
METRICS = ("--metrics-listen", "127.0.0.1:0")


async def _says(health: Any, status: int) -> bool:
    answer = await health.Check(HealthCheckRequest(), timeout=FOREVER)
    return bool(answer.status == status)


@pytest.mark.long
async def test_writes_and_strong_reads_go_on_after_connections_fell_silent(postgres_dsn: str) -> None:
    async with proxied_postgres(postgres_dsn) as (proxy, dsn), serving("--postgres-dsn", dsn, *METRICS) as server:
        async with sessiond.Client(server.target, timeout=FOREVER) as client:
            session = await client.create_session(active=True)
            await asyncio.gather(*(client.get_session(session.session_id, consistency="strong") for _ in range(20)))
            proxy.silence()
            async with asyncio.timeout(FOREVER):
                await client.append_messages(session.session_id, [sessiond.user("still there?")])
                await client.get_session(session.session_id, consistency="strong")
            messages = [message async for message in client.list_messages(session.session_id, consistency="strong")]
            assert len(messages) == 1
        metrics = await server.metrics()
        assert metrics["sessiond_store_connections_given_up_total"] >= 1
        assert metrics.get("sessiond_store_errors_total 08003", 0) >= 1, (metrics, server.log.read_text())
        assert "gave no answer for 6 s" in server.log.read_text()


@pytest.mark.long
async def test_health_and_metrics_say_that_the_database_is_silent_and_a_stop_takes_its_grace(postgres_dsn: str) -> None:
    async with (
        proxied_postgres(postgres_dsn) as (proxy, dsn),
        serving("--postgres-dsn", dsn, "--grace", "1s", *METRICS) as server,
        grpc.aio.insecure_channel(server.target) as channel,
        sessiond.Client(server.target, timeout=FOREVER, retry=sessiond.Retry(max_attempts=1)) as client,
    ):
        health: Any = HealthStub(channel)
        session = await client.create_session(active=True)
        assert await _says(health, HealthCheckResponse.SERVING)
        proxy.stall()
        append = asyncio.create_task(client.append_messages(session.session_id, [sessiond.user("anybody?")]))
        await until(lambda: _says(health, HealthCheckResponse.NOT_SERVING))
        metrics = await server.metrics()
        assert metrics["sessiond_writes_under_way"] == 1
        assert metrics["sessiond_writes_stalled_seconds"] > 0
        assert metrics["sessiond_store_reachable"] == 0
        began = time.monotonic()
        await server.stop()
        assert time.monotonic() - began < FOREVER / 2
        with pytest.raises(sessiond.SessiondError):
            await append
