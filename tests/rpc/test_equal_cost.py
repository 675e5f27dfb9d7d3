"""A request for another user's session costs as much as one for a missing session: the same statements and round trips.

Numbers are compared, not times, in the whole service over Postgres and Redis.
"""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import session_service_pb2 as s
from sessiond_server.app.service import running
from sessiond_server.auth import digest_of
from sessiond_server.postgres.read import PING
from sessiond_server.redis import RedisCache
from sessiond_server.settings import load
from tests.support.requests_by_session import named, use
from tests.support.statements import LOOKS_FOR_BLOCKERS, note_statements
from tests.support.waiting import until
from tests.support.wire import ALICE, BOB, PRINCIPALS, TENANT, Failure, Wire

BACKGROUND = {
    "sweeper",
    "reaper",
    "health",
    "feed-holders",
    "notify",
    "event-poll",
    "search",
    "usage",
    "summary-feeds",
    "summary-claims",
    "summary",
    LOOKS_FOR_BLOCKERS,
}
"""Tasks whose statements are no caller's."""


def entry(key: str) -> str:
    """Of the keys file."""
    principal = PRINCIPALS[key]
    user = f'user = "{principal.user_id}"\n' if principal.user_id else ""
    scopes = ", ".join(f'"{scope}"' for scope in sorted(principal.scopes))
    return (
        f'[[keys]]\nname = "{principal.name}"\nsha256 = "{digest_of(key).hex()}"\ntenant = "{principal.tenant_id}"\n'
        f"{user}scopes = [{scopes}]\n"
    )


@pytest.fixture
async def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the process asks of Postgres and of the cache, from now on."""
    log: list[str] = []

    def statement_sent(kind: str, statement: str) -> None:
        if statement != PING:
            log.append(f"{kind}: {statement}")

    note_statements(monkeypatch, statement_sent, BACKGROUND)
    get, offer = RedisCache.get, RedisCache.offer

    def getting(self: RedisCache, key: Any, *, content: bool = False, newest: int = 0) -> Any:
        log.append(f"cache: content {content}, newest {newest}")
        return get(self, key, content=content, newest=newest)

    def offering(self: RedisCache, change: Any) -> None:
        log.append("cache: offer")
        offer(self, change)

    monkeypatch.setattr(RedisCache, "get", getting)
    monkeypatch.setattr(RedisCache, "offer", offering)
    return log


@pytest.fixture
async def service(tmp_path: Path, postgres_dsn: str, redis_url: str, sent: list[str]) -> AsyncIterator[Wire]:
    keys = tmp_path / "keys.toml"
    keys.write_text("".join(entry(key) for key in (TENANT, ALICE, BOB)))
    variables = {
        "SESSIOND_POSTGRES_DSN": postgres_dsn,
        "SESSIOND_REDIS_URL": redis_url,
        "SESSIOND_LISTEN": "127.0.0.1:0",
        "SESSIOND_KEYS_FILE": str(keys),
        "SESSIOND_SWEEP_INTERVAL": "24h",
        "SESSIOND_SEARCH": "true",
        "SESSIOND_SUMMARISER": "extractive",
        "SESSIOND_GRACE": "1s",
    }
    async with (
        running(load({}, variables)) as served,
        grpc.aio.insecure_channel(f"127.0.0.1:{served.listening.port}") as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)

        async def cached() -> bool:
            answer = await health.Check(health_pb2.HealthCheckRequest(service="cache"))
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        await until(cached)
        wire = Wire(None, served.listening.port, channel, None, None)  # type: ignore[arg-type]
        await use(wire)
        yield wire


async def cost(wire: Wire, sent: list[str], rpc: str, session_id: str) -> list[str]:
    """What a call of alice's asks of the backends."""
    sent.clear()
    with suppress(Failure):
        await wire.call(rpc, named(session_id)[rpc], key=ALICE)
    return sent.copy()


async def test_session_of_another_user_costs_as_much_as_a_missing_one(service: Wire, sent: list[str]) -> None:
    """Both have been warmed up by their owner: the cache has the session with its content and its messages."""
    for _ in range(2):
        await service.call("GetSession", s.GetSessionRequest(session_id="bobs"), key=BOB)
        await service.call("ListMessages", m.ListMessagesRequest(session_id="bobs"), key=BOB)
    differing = {}
    for rpc in named("x"):
        missing = await cost(service, sent, rpc, "none")
        assert missing, f"{rpc} asks for nothing: what is counted here?"
        for other in ("bobs", "gone"):
            if (found := await cost(service, sent, rpc, other)) != missing:
                differing[rpc, other] = (found, missing)
    assert differing == {}


async def test_a_watch_from_the_beginning_costs_the_same(service: Wire, sent: list[str]) -> None:
    costs = []
    for session_id in ("none", "bobs", "gone"):
        sent.clear()
        request = e.WatchSessionRequest(session_id=session_id, from_beginning=True)
        failure = await service.failure("WatchSession", request, key=ALICE)
        assert failure.reason == "SESSION_NOT_FOUND"
        costs.append(sent.copy())
    assert costs[0] == costs[1] == costs[2] != []


async def test_the_owners_own_reads_come_from_the_cache(service: Wire, sent: list[str]) -> None:
    """The equal cost for other users does not keep owners from using the cache."""
    for key in (BOB, TENANT):
        await service.call("GetSession", s.GetSessionRequest(session_id="bobs"), key=key)
        sent.clear()
        await service.call("GetSession", s.GetSessionRequest(session_id="bobs"), key=key)
        assert {line.partition(":")[0] for line in sent} == {"cache"}


async def test_a_foreign_row_is_neither_locked_nor_waited_for(service: Wire, postgres_dsn: str) -> None:
    holder = await asyncpg.connect(postgres_dsn)
    try:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("select from session_heads where session_id = 'bobs' for update")
        for _ in range(2):
            failure = await service.failure("TouchSession", s.TouchSessionRequest(session_id="bobs"), key=ALICE)
            assert failure.reason == "SESSION_NOT_FOUND"
        await transaction.rollback()
    finally:
        await holder.close()
