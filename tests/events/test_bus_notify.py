"""The bus in Postgres, with connections that end and servers that will not do."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg
import pytest

from sessiond_server.domain.rows import Key
from sessiond_server.events.bus import Hint
from sessiond_server.postgres import bus as notify
from sessiond_server.postgres.bus import NotifyTimeouts
from tests.support.buses import opened_notify
from tests.support.databases import Databases
from tests.support.listener import Ear
from tests.support.ports import free_port
from tests.support.postgres_pair import PostgresPair
from tests.support.waiting import until

ONE: Key = ("acme", "one")
BRISK = NotifyTimeouts(connect=10.0, answer=0.3, heartbeat=0.05)

_END_THEM = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and application_name = 'sessiond hints'
"""


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def connection(own_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(own_dsn)
    yield connection
    await connection.close()


@pytest.fixture
def own_dsn(empty_postgres_dsn: str) -> str:
    """A database in which to end all connections."""
    return empty_postgres_dsn


async def test_closed_connection_is_reopened_and_hints_are_reported_as_missed(
    stack: AsyncExitStack, own_dsn: str, connection: asyncpg.Connection, bus_prefix: str
) -> None:
    bus = await opened_notify(stack, own_dsn, bus_prefix)
    ear = Ear(bus)
    for turn in range(1, 4):
        assert len(await connection.fetch(_END_THEM)) == 1, "one connection for each process"
        await ear.until(lambda turn=turn: ear.missed == turn)  # type: ignore[misc]
        await until(lambda: bus.ready)
        bus.publish_hints([Hint(ONE, turn)])
        await ear.heard(Hint(ONE, turn))


@pytest.mark.skipif("SESSIOND_POSTGRES_DSN" in os.environ, reason="stops one of the server's processes")
async def test_stalled_server_is_not_ready_and_blocks_no_caller(
    stack: AsyncExitStack, own_dsn: str, connection: asyncpg.Connection, bus_prefix: str
) -> None:
    bus = await opened_notify(stack, own_dsn, bus_prefix, BRISK)
    ear = Ear(bus)
    pid = await connection.fetchval(
        "select pid from pg_stat_activity  where datname = current_database() and application_name = 'sessiond hints'"
    )
    os.kill(pid, signal.SIGSTOP)
    try:
        await until(lambda: not bus.ready)
        bus.publish_hints([Hint(ONE, 1)])
        assert bus.dropped_hints == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    await until(lambda: bus.ready)
    assert ear.missed >= 1
    bus.publish_hints([Hint(ONE, 2)])
    await ear.heard(Hint(ONE, 2))


async def test_host_that_accepts_writes_is_used(
    stack: AsyncExitStack, own_dsn: str, connection: asyncpg.Connection, bus_prefix: str
) -> None:
    """A standby is read-only, and so is a database with default_transaction_read_only."""
    bus = await opened_notify(stack, behind_a_dead_host(own_dsn), bus_prefix)
    ear = Ear(bus)
    bus.publish_hints([Hint(ONE, 1)])
    await ear.heard(Hint(ONE, 1))
    name = urlsplit(own_dsn).path.lstrip("/")
    await connection.execute(f'alter database "{name}" set default_transaction_read_only = on')
    await connection.fetch(_END_THEM)
    await until(lambda: bus.reason not in ("", "the connection was lost"))
    assert not bus.ready
    await connection.execute(f'alter database "{name}" reset default_transaction_read_only')
    await until(lambda: bus.ready)


async def test_after_a_failover_the_new_primary_is_used(stack: AsyncExitStack, bus_prefix: str) -> None:
    # Below the public temporary folder: the account that root starts Postgres as could not enter pytest's own.
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sessiond-tests-")))
    folder.chmod(0o711)
    pair = await stack.enter_async_context(PostgresPair(folder / "pair", durable=False))
    standby_first = f"postgresql://sessiond@127.0.0.1:{pair.ports[1]},127.0.0.1:{pair.ports[0]}/sessiond"
    buses = [await opened_notify(stack, dsn, bus_prefix) for dsn in (pair.dsn(), standby_first)]
    ears = [Ear(bus) for bus in buses]
    buses[0].publish_hints([Hint(ONE, 1)])
    for ear in ears:
        await ear.heard(Hint(ONE, 1))
    await pair.fail_over(_nothing, synchronous=False)
    for ear, bus in zip(ears, buses, strict=True):
        await ear.until(lambda ear=ear: ear.missed > 0)  # type: ignore[misc]
        await until(lambda bus=bus: bus.ready)  # type: ignore[misc]
    buses[1].publish_hints([Hint(ONE, 2)])
    for ear in ears:
        await ear.heard(Hint(ONE, 2))


async def _nothing() -> None:
    """Happens meanwhile."""


async def test_bus_is_not_ready_until_it_receives_its_own_notification(
    stack: AsyncExitStack, own_dsn: str, bus_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a pooler, LISTEN is taken and says nothing."""
    monkeypatch.setattr(notify, "_NOTIFY", "select $1 || payload from unnest($2::text[]) as payload")
    bus = await opened_notify(stack, own_dsn, bus_prefix, BRISK, ready=False)
    await until(lambda: bus.reason == "the server does not deliver notifications on this connection")
    assert not bus.ready
    monkeypatch.undo()
    await until(lambda: bus.ready)


async def test_readiness_probes_of_other_replicas_are_not_hints(
    stack: AsyncExitStack, own_dsn: str, bus_prefix: str
) -> None:
    bus = await opened_notify(stack, own_dsn, bus_prefix)
    ear = Ear(bus)
    await opened_notify(stack, own_dsn, bus_prefix)
    bus.publish_hints([Hint(ONE, 1)])
    await ear.heard(Hint(ONE, 1))
    assert ear.calls == 1
    assert ear.missed == 0


async def test_hints_beyond_one_payload_are_split(stack: AsyncExitStack, own_dsn: str, bus_prefix: str) -> None:
    bus = await opened_notify(stack, own_dsn, bus_prefix)
    ear = Ear(bus)
    keys = [("t" * 128, f"{number:0128}") for number in range(500)]
    bus.publish_hints([Hint(key, 2**62) for key in keys])
    await ear.heard(*[Hint(key, 2**62) for key in keys])
    assert ear.calls > 1
    assert ear.missed == 0
    bus.publish_hints([Hint(("acme", f"{number}"), 1) for number in range(notify.MOST_HINTS + 1)])
    await ear.until(lambda: ear.missed == 1)
    assert len(ear.hints) == 500


async def test_bus_is_not_ready_and_drops_hints_while_the_database_is_missing(
    stack: AsyncExitStack, databases: Databases, own_dsn: str, bus_prefix: str
) -> None:
    missing = urlsplit(own_dsn)._replace(path="/sessiond_test_missing").geturl()
    bus = await opened_notify(stack, missing, bus_prefix, ready=False)
    await until(lambda: bus.reason == "InvalidCatalogNameError")
    bus.publish_hints([Hint(ONE, 1)])
    await asyncio.sleep(0)
    assert bus.dropped_hints == 1
    assert not bus.ready


def behind_a_dead_host(dsn: str) -> str:
    """Returns the DSN with a host before its own that does not answer."""
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query))
    if "host" in query:
        query = {"host": f"/nowhere,{query['host']}", "port": f"5432,{query['port']}"}
        return parts._replace(query=urlencode(query, safe="/,")).geturl()
    user, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{at}127.0.0.1:{free_port()},{host}").geturl()
