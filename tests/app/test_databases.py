"""Several databases behind one service: their commands, tenants apart, one of them away, and wrong ones refused."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from redis.asyncio import Redis

import sessiond
from sessiond_server.app import database
from sessiond_server.app.cache import identity
from sessiond_server.app.databases import WrongDatabase
from sessiond_server.app.summary import Service
from sessiond_server.blobs.folder import FolderBlobs
from sessiond_server.blobs.reaper import reap_orphans
from sessiond_server.cli import databases as commands
from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.store import PostgresStore
from tests.support.databases import Databases
from tests.support.proxy import proxied_postgres
from tests.support.serve_process import command
from tests.support.several_databases import Dsns, group, serving, settings_of, variables, write_keys
from tests.support.transactions import connected
from tests.support.waiting import until

TENANTS = {"acme": "main", "globex": "eu", "initech": "us"}
"""Tenant -> its home."""


@pytest.fixture
def dsns(databases: Databases) -> Iterator[Dsns]:
    """Three databases, of which the servers know nothing yet."""
    made = {each: databases.create_migrated() for each in ("main", "eu", "us")}
    yield made
    for dsn in made.values():
        databases.drop(dsn)


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """Tenant -> key; and `free`, a key of acme for all databases."""
    return write_keys(tmp_path, "acme", "globex", "initech", "hooli")


def _run(dsns: Dsns, *arguments: str) -> str:
    done = command(*arguments, **variables(dsns))
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture
def placed(dsns: Dsns) -> Dsns:
    """The three as one group, with a home for each tenant."""
    group(dsns, TENANTS)
    return dsns


def _client(service: Service, key: str, database: str | None = None, attempts: int = 1) -> sessiond.Client:
    retry = sessiond.Retry(max_attempts=attempts)
    return sessiond.Client(str(service.listening), api_key=key, database=database, retry=retry, timeout=60.0)


async def _health(service: Service, name: str) -> str:
    async with grpc.aio.insecure_channel(str(service.listening)) as channel:
        stub: Any = HealthStub(channel)
        answer = await stub.Check(HealthCheckRequest(service=name), timeout=60.0)
        return str(HealthCheckResponse.ServingStatus.Name(answer.status))


async def _sessions(dsn: str) -> Sequence[tuple[str, str]]:
    async with connected(dsn) as connection:
        rows = await connection.fetch("select tenant_id, session_id from session_heads order by 1, 2")
    return [(row[0], row[1]) for row in rows]


async def _deny(dsns: Dsns, name: str) -> None:
    """Ends all connections to a database, and lets none in again."""
    async with connected(dsns["main"]) as connection:
        there = Databases.name(dsns[name])
        await connection.execute(f'alter database "{there}" with allow_connections false')
        await connection.fetch("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", there)


async def _allow(dsns: Dsns, name: str) -> None:
    async with connected(dsns["main"]) as connection:
        await connection.execute(f'alter database "{Databases.name(dsns[name])}" with allow_connections true')


async def _identities(dsns: Dsns) -> dict[str, str]:
    found = {}
    for name, dsn in dsns.items():
        async with connected(dsn) as connection:
            found[name] = identity(await connection.fetchval("select secret from service_keys where name = 'tokens'"))
    return found


async def test_tenants_live_in_their_databases_and_nowhere_else(
    placed: Dsns, keys: dict[str, str], tmp_path: Path, redis_url: str
) -> None:
    async with serving(placed, tmp_path, SESSIOND_REDIS_URL=redis_url) as service:
        for tenant in TENANTS:
            async with _client(service, keys[tenant]) as client:
                await client.create_session(session_id="same", user_id=tenant, active=True)
                await client.append_messages("same", [sessiond.user(tenant)])
                assert (await client.get_session("same")).user_id == tenant
                assert [each.session_id async for each in client.list_sessions()] == ["same"]
                async with client.watch_events(from_beginning=True) as feed:
                    event = await anext(aiter(feed))
                    assert event.session_id == "same"
                    assert event.session.user_id == tenant
        async with _client(service, keys["free"], "eu") as client:
            await client.create_session(session_id="named")
            with pytest.raises(sessiond.SessionNotFound):
                await client.get_session("same")
        for name in placed:
            assert await _health(service, f"database/{name}") == "SERVING"
        assert await _sessions(placed["main"]) == [("acme", "same")]
        assert await _sessions(placed["eu"]) == [("acme", "named"), ("globex", "same")]
        assert await _sessions(placed["us"]) == [("initech", "same")]
        async with Redis.from_url(redis_url) as redis:
            for name, own in (await _identities(placed)).items():
                entries = [key.decode() async for key in redis.scan_iter(f"sessiond:{own}:*{{*")]
                tenants = {key.partition("{")[2].partition("}")[0].rpartition("/")[2] for key in entries}
                expected = {tenant for tenant, home in TENANTS.items() if home == name}
                assert expected <= tenants <= expected | ({"acme"} if name == "eu" else set()), entries


async def test_attachments_of_several_databases_share_a_folder(
    placed: Dsns, keys: dict[str, str], tmp_path: Path
) -> None:
    """Equal contents are stored for each tenant; nothing that a database knows is a stray to another one."""
    blobs = tmp_path / "blobs"
    async with serving(placed, tmp_path, SESSIOND_BLOB_STORE=blobs.as_uri()) as service:
        for tenant in TENANTS:
            async with _client(service, keys[tenant]) as client:
                await client.create_session(session_id="same", active=True)
                await client.upload("same", b"equal bytes", attachment_id="a")
                await client.upload("same", tenant.encode(), attachment_id=tenant)
        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(PostgresStore(dsn)) for dsn in placed.values()]
            assert await reap_orphans(FolderBlobs(blobs), *(store.attachments for store in stores)) == 0
        for tenant in TENANTS:
            async with _client(service, keys[tenant]) as client:
                assert await client.download("same", "a").read() == b"equal bytes"
                assert await client.download("same", tenant).read() == tenant.encode()
                listed = [each.attachment_id async for each in client.list_attachments("same")]
                assert sorted(listed) == sorted(["a", tenant])


async def test_one_database_away_is_unavailable_for_its_tenants_alone(
    placed: Dsns, keys: dict[str, str], tmp_path: Path
) -> None:
    async with serving(placed, tmp_path, SESSIOND_OUTAGE="0") as service:
        clients = {tenant: _client(service, keys[tenant]) for tenant in TENANTS}
        try:
            for client in clients.values():
                await client.create_session(session_id="s", active=True)
            await _deny(placed, "eu")
            await until(lambda: _is(service, "database/eu", "NOT_SERVING"))
            with pytest.raises(sessiond.StoreUnavailable) as caught:
                await clients["globex"].append_messages("s", [sessiond.user("lost?")])
            assert caught.value.metadata == {"database_id": "eu"}
            assert "postgresql" not in str(caught.value)
            for number in range(20):
                for tenant in ("acme", "initech"):
                    await clients[tenant].append_messages("s", [sessiond.user(str(number))])
                    await clients[tenant].get_session("s", consistency="strong")
            assert await _health(service, "") == await _health(service, "database/us") == "SERVING"
            await _allow(placed, "eu")
            await until(lambda: _is(service, "database/eu", "SERVING"))
            await clients["globex"].append_messages("s", [sessiond.user("back")])
        finally:
            for client in clients.values():
                await client.close()


async def _is(service: Service, name: str, status: str) -> bool:
    return await _health(service, name) == status


@pytest.mark.long
async def test_one_silent_database_delays_its_tenants_alone(placed: Dsns, keys: dict[str, str], tmp_path: Path) -> None:
    async with (
        proxied_postgres(placed["us"]) as (proxy, dsn),
        serving({**placed, "us": dsn}, tmp_path) as service,
        _client(service, keys["acme"]) as acme,
        _client(service, keys["initech"], attempts=5) as initech,
    ):
        for client in (acme, initech):
            await client.create_session(session_id="s", active=True)
        proxy.stall()
        silent = asyncio.create_task(initech.append_messages("s", [sessiond.user("hello?")]))
        for number in range(50):
            await acme.append_messages("s", [sessiond.user(str(number))])
        await until(lambda: _is(service, "database/us", "NOT_SERVING"))
        assert await _health(service, "") == "SERVING"
        await acme.append_messages("s", [sessiond.user("goes on")])
        proxy.flow()
        await asyncio.wait({silent})
        silent.exception()
        await until(lambda: _is(service, "database/us", "SERVING"))
        await initech.append_messages("s", [sessiond.user("back")])


async def test_a_service_starts_without_a_database_that_is_away(
    placed: Dsns, keys: dict[str, str], tmp_path: Path
) -> None:
    await _deny(placed, "eu")
    try:
        async with serving(placed, tmp_path) as service, _client(service, keys["globex"]) as globex:
            async with _client(service, keys["acme"]) as acme:
                await acme.create_session(session_id="s")
            with pytest.raises(sessiond.StoreUnavailable) as caught:
                await globex.create_session(session_id="s")
            assert caught.value.metadata == {"database_id": "eu"}
            await _allow(placed, "eu")
            async with asyncio.timeout(240):
                while True:
                    try:
                        await globex.create_session(session_id="s")
                        break
                    except sessiond.StoreUnavailable:
                        await asyncio.sleep(0.1)
            assert await _health(service, "database/eu") == "SERVING"
    finally:
        await _allow(placed, "eu")


async def test_a_service_does_not_start_without_its_default_database(
    monkeypatch: pytest.MonkeyPatch, placed: Dsns, keys: dict[str, str], tmp_path: Path
) -> None:
    monkeypatch.setattr(database, "OUTAGE_AT_START", 0.5)
    async with connected(placed["eu"]) as connection:
        there = Databases.name(placed["main"])
        await connection.execute(f'alter database "{there}" with allow_connections false')
        try:
            with pytest.raises(StoreUnavailable):
                async with serving(placed, tmp_path):
                    pass
        finally:
            await connection.execute(f'alter database "{there}" with allow_connections true')


async def test_a_tenant_that_gets_a_home_writes_there_from_then_on(
    placed: Dsns, keys: dict[str, str], tmp_path: Path
) -> None:
    async with serving(placed, tmp_path) as service, _client(service, keys["hooli"], attempts=5) as hooli:
        with pytest.raises(sessiond.SessionNotFound):
            await hooli.get_session("s")
        done = await asyncio.to_thread(_run, placed, "databases", "place", "hooli", "--to", "us")
        assert done == "hooli lives in us; servers know within a second\n"
        await hooli.create_session(session_id="s")
        assert await _sessions(placed["us"]) == [("hooli", "s")]
        assert await _sessions(placed["main"]) == []
        moved = await asyncio.to_thread(command, "databases", "place", "hooli", "--to", "eu", **variables(placed))
        assert moved.returncode == 1
        assert "sessiond databases move hooli --to eu" in moved.stderr


@pytest.mark.usefixtures("keys")
async def test_wrong_databases_are_refused_at_the_start(placed: Dsns, databases: Databases, tmp_path: Path) -> None:
    twin = {**placed, "twin": f"{placed['eu']}{'&' if '?' in placed['eu'] else '?'}application_name=twin"}
    await _started_refused(
        twin, tmp_path, "(eu and twin|twin and eu) lead to the same database|the DSN of twin leads to the database eu"
    )
    swapped = {**placed, "eu": placed["us"], "us": placed["eu"]}
    await _started_refused(swapped, tmp_path, "the DSN of (eu|us) leads to the database (us|eu)")
    await _started_refused(placed, tmp_path, "the DSN of|another default one", default="eu")
    new = databases.create_migrated()
    try:
        await _started_refused({**placed, "new": new}, tmp_path, "new is new: add it with: sessiond databases add new")
    finally:
        databases.drop(new)


async def _started_refused(dsns: Dsns, folder: Path, why: str, default: str = "main") -> None:
    error: BaseException | None = None
    try:
        async with serving(dsns, folder, default=default):
            pass
    except BaseException as caught:
        error = caught
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, WrongDatabase), error
    assert re.search(why, str(error)), str(error)
    assert "postgresql" not in str(error)


@pytest.mark.long
async def test_check_and_list_go_through_all_databases(placed: Dsns) -> None:
    swapped = {**placed, "eu": placed["us"], "us": placed["eu"]}
    right, wrong, listed = await asyncio.gather(
        asyncio.to_thread(command, "check", "--listen", "127.0.0.1:0", **variables(placed)),
        asyncio.to_thread(command, "check", "--listen", "127.0.0.1:0", **variables(swapped)),
        asyncio.to_thread(_run, placed, "databases", "list"),
    )
    assert re.search(r"(?m)^ok +databases +3 in the map", right.stdout), right.stdout
    assert right.returncode == 0
    assert re.search(r"(?m)^FAILED +databases", wrong.stdout)
    assert not re.search(r"(?m)^ok +databases", wrong.stdout)
    assert wrong.returncode == 1
    assert all(each in listed for each in placed)


def test_all_databases_of_a_map_are_added_at_once_and_again(dsns: Dsns) -> None:
    assert commands.add_all(settings_of(dsns)) == 0
    listed = _run(dsns, "databases", "list")
    assert [line.split()[-1] for line in listed.splitlines()] == ["ok"] * 3, listed
    assert commands.add_all(settings_of(dsns)) == 0
    with pytest.raises(WrongDatabase, match="eu"):
        commands.add_all(settings_of({**dsns, "us": dsns["eu"], "eu": dsns["us"]}))
