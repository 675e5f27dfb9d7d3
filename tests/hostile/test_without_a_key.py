"""What callers without a key can take: bounded memory, no place of others, few lines of log."""

import asyncio
import re
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from sessiond_server.metrics.port import MOST_SCRAPES
from sessiond_server.rpc.health import MOST_WATCHES
from tests.support.hostile_target import Target
from tests.support.raw_http2 import RawClient, message, raw_client, statuses
from tests.support.waiting import until

GET = "/sessiond.v1.SessionService/GetSession"
APPEND = "/sessiond.v1.MessageService/AppendMessages"
WATCH_HEALTH = "/grpc.health.v1.Health/Watch"
CHECK_HEALTH = "/grpc.health.v1.Health/Check"
MIB = 1024 * 1024
PARTIAL = message(bytes(8 * MIB - 100), length=8 * MIB)
UNAUTHENTICATED, RESOURCE_EXHAUSTED = 16, 8


async def test_partial_messages_hold_no_memory(target: Target) -> None:
    before = target.resident_mib()
    async with raw_client(target.port) as raw:
        streams = [raw.open(APPEND, key, PARTIAL) for key in (None, "wrong") * 50]
        await raw.flush()
        await until(lambda: all(stream.ended or stream.status for stream in streams))
        assert set(statuses(streams)) == {UNAUTHENTICATED}
        assert target.resident_mib(highest=True) - before < 60


async def test_partial_messages_to_health_hold_bounded_memory(target: Target) -> None:
    before = target.resident_mib()
    async with raw_client(target.port) as raw:
        for _ in range(100):
            raw.open(WATCH_HEALTH, None, message(bytes(MIB), length=8 * MIB))
        await raw.flush()
        async with target.other() as quiet:
            await quiet.count_sessions()
        await _check_health(target)
        assert target.resident_mib(highest=True) - before < 200


async def test_watches_of_health_are_bounded_and_keep_no_names(target: Target) -> None:
    before = target.resident_mib()
    long, short = ("n" * 200_000, "n" * 10)
    async with raw_client(target.port) as first, raw_client(target.port) as second:
        for name in (long, *[short] * MOST_WATCHES):
            first.open(WATCH_HEALTH, None, _asking(name), end=True)
        await first.flush()
        await until(lambda: sum(1 for stream in first.streams.values() if stream.data) >= MOST_WATCHES - 10)
        async with asyncio.timeout(60):
            # The oldest give way once they are old enough; until then those that come are refused.
            while not await _watched(second, 50):
                pass
        await until(lambda: RESOURCE_EXHAUSTED in statuses(first.streams.values()))
        await _check_health(target)
        assert target.resident_mib(highest=True) - before < 120


async def test_keys_are_tried_slowly_and_the_log_stays_short(target: Target) -> None:
    async with raw_client(target.port) as raw, target.other() as quiet:
        tries = [raw.open(GET, f"wrong-{number}", message(b""), end=True) for number in range(1500)]
        await raw.flush()
        await until(lambda: sum(1 for each in tries if each.status == UNAUTHENTICATED) >= 100)
        for _ in range(20):
            await quiet.count_sessions()
        answered = sum(1 for each in tries if each.status is not None)
        assert answered < 1000, "keys are tried as fast as they come"
    log = target.server.log.read_text()
    assert len(log) < 400_000
    assert "wrong-" not in log


async def test_flood_without_keys_fails_no_good_call(target: Target) -> None:
    async with target.other() as quiet, raw_client(target.port) as one, raw_client(target.port) as two:
        session = await quiet.create_session(active=True)
        for raw in (one, two):
            for _ in range(1000):
                raw.open(GET, None, message(b""), end=True)
            await raw.flush()
        async with asyncio.TaskGroup() as group:
            for _ in range(64):
                group.create_task(quiet.get_session(session.session_id))


async def test_methods_that_do_not_exist_are_refused_at_the_same_pace(target: Target) -> None:
    async with raw_client(target.port) as raw:
        tries = [raw.open("/no.Such/Method", target.key, PARTIAL) for _ in range(50)]
        await raw.flush()
        await until(lambda: all(each.status == 12 for each in tries))


@pytest.mark.long
async def test_idle_connections_to_the_metrics_keep_no_one_out_and_end(target: Target) -> None:
    found = re.search(r"metrics +http://127.0.0.1:(\d+)", target.server.announced)
    assert found
    port = int(found[1])
    threads = _threads(target)
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(200)]
        with await asyncio.to_thread(urlopen, f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            assert b"sessiond_build_info" in answer.read()
        assert _threads(target) <= threads + MOST_SCRAPES + 4
        for connection in idle:
            connection.settimeout(60)
            assert await asyncio.to_thread(connection.recv, 1) == b""


def _threads(target: Target) -> int:
    return len(list(Path(f"/proc/{target.server.process.pid}/task").iterdir()))


def _asking(name: str) -> bytes:
    return message(HealthCheckRequest(service=name).SerializeToString())


async def _watched(raw: RawClient, count: int) -> bool:
    """Whether one of so many new watches of health is answered with the status."""
    late = [raw.open(WATCH_HEALTH, None, _asking(""), end=True) for _ in range(count)]
    await raw.flush()
    await until(lambda: all(stream.data or stream.ended for stream in late))
    return any(stream.data for stream in late)


async def _check_health(target: Target) -> None:
    async with raw_client(target.port) as raw:
        check = raw.open(CHECK_HEALTH, None, _asking(""), end=True)
        await raw.flush()
        await until(lambda: check.ended)
        assert check.status == 0
        assert HealthCheckResponse.FromString(check.data[5:]).status == HealthCheckResponse.SERVING
