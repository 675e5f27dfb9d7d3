"""Connections and transactions that make no progress: every wait for them is bounded, and every write acts once."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import asyncpg
import pytest

from sessiond_server.domain import commands as c
from sessiond_server.domain.rows import Writes
from sessiond_server.errors import SessionLocked, StoreUnavailable
from sessiond_server.postgres import connection as connections
from sessiond_server.postgres import locked, transactions
from sessiond_server.postgres.bus import NotifyBus, NotifyTimeouts
from sessiond_server.postgres.connection import Connections, Connector, hosts_of
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.store.batcher import Batcher
from sessiond_server.store.batching import BatchLimits
from sessiond_server.store.commits import Applied
from tests.support.caller import Caller, accepted, whole_log
from tests.support.listener import Ear
from tests.support.pgbouncer import PROGRAM, transaction_pooler
from tests.support.proxy import Proxy, postgres_through, proxied_postgres, server_of
from tests.support.transactions import COMMITTING, SLOW_COMMIT, backends, connected, only, waiting
from tests.support.waiting import until

WITHIN = 60.0
"""Seconds for what takes for ever where the defect is; generous, for a busy machine."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for locks that a test can afford. All other limits are those that a test machine, paused for a while, keeps
    to; `brief_silence` and `brief_idleness` are for the tests in which these run out."""
    monkeypatch.setattr(transactions, "TRANSACTION_SECONDS", WITHIN)
    monkeypatch.setattr(transactions, "READ_SECONDS", WITHIN)
    monkeypatch.setattr(transactions, "IDLE_SECONDS", WITHIN)
    monkeypatch.setattr(transactions, "LOCK_SECONDS", 0.4)
    monkeypatch.setattr(transactions, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(locked, "SHORT_LOCK_SECONDS", 0.2)


@pytest.fixture
def brief_silence(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent connection is given up soon."""
    monkeypatch.setattr(transactions, "TRANSACTION_SECONDS", 3.0)
    monkeypatch.setattr(transactions, "LEAST_COMMIT_SECONDS", 0.5)
    monkeypatch.setattr(transactions, "READ_SECONDS", 0.7)


@pytest.fixture
def brief_idleness(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server soon ends a transaction whose client is idle."""
    monkeypatch.setattr(transactions, "IDLE_SECONDS", 0.6)


@pytest.mark.usefixtures("brief_silence")
@pytest.mark.parametrize("way", ["both", "onward", "back", "crawling"])
async def test_batch_on_a_silent_connection_is_applied_once(postgres_dsn: str, caller: Caller, way: str) -> None:
    async with proxied_postgres(postgres_dsn) as (proxy, dsn), PostgresStore(dsn) as store:
        async with Batcher(store, BatchLimits(outage=WITHIN)) as batcher:
            await batcher.write(caller.create("s"))
            if way == "crawling":
                proxy.crawling = True
                asyncio.get_running_loop().call_later(4.0, setattr, proxy, "crawling", False)
            else:
                proxy.silence(onward=way != "back", back=way != "onward")
            async with asyncio.timeout(WITHIN):
                outcome = await batcher.write(caller.append("s", "one"))
            assert isinstance(outcome, c.MessagesAppended)
        assert set(store.causes.counts) <= {"08003", "TimeoutError"}
        assert store.causes.counts["08003"] >= 1
        proxy.flow()
        assert [event.seq for event in await whole_log(store, caller.scope, "s")] == [1, 2]


@pytest.mark.usefixtures("brief_silence")
async def test_answer_to_a_commit_that_is_lost_in_silence_is_found_by_the_next_try(
    postgres_dsn: str, database: asyncpg.Connection, caller: Caller
) -> None:
    async with proxied_postgres(postgres_dsn) as (proxy, dsn), PostgresStore(dsn) as store:
        await accepted(store, caller.create("s"))
        await database.execute(SLOW_COMMIT)
        await database.execute(f"select pg_advisory_lock({COMMITTING})")
        append = caller.append("s", request_id="r")
        first = asyncio.create_task(only(store, append))
        await until(waiting(database, 1))
        proxy.silence()
        await database.execute(f"select pg_advisory_unlock({COMMITTING})")
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(WITHIN):
                await first
        assert isinstance(await only(store, append), c.MessagesAppended)
        assert len(await whole_log(store, caller.scope, "s")) == 2


@pytest.mark.usefixtures("brief_silence")
async def test_idle_connections_are_given_up_with_the_first_that_is_silent(
    postgres_dsn: str, database: asyncpg.Connection, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "READ_SECONDS", WITHIN)  # until all connections are there
    async with (
        proxied_postgres(postgres_dsn) as (proxy, dsn),
        PostgresStore(dsn, max_connections=5) as store,
    ):  # one is for pings
        await accepted(store, caller.create("s"))
        async with database.transaction():
            await database.execute("lock table session_heads in access exclusive mode")
            reads = [asyncio.create_task(store.get_session(caller.scope, "s", content=False)) for _ in range(4)]
            await until(waiting(database, 4))
        await asyncio.gather(*reads)
        assert 4 <= len(await backends(database)) <= 5
        proxy.silence()
        monkeypatch.setattr(transactions, "READ_SECONDS", 0.7)
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(WITHIN):
                await store.get_session(caller.scope, "s", content=False)
        monkeypatch.setattr(transactions, "READ_SECONDS", WITHIN)
        # None of the others costs its user as much.
        given_up = store.condition().given_up
        for _ in range(4):
            assert (await store.get_session(caller.scope, "s", content=False)).version == 1
        assert store.condition().given_up == given_up


@pytest.mark.usefixtures("brief_silence")
async def test_server_that_accepts_and_never_answers_is_given_up(postgres_dsn: str, caller: Caller) -> None:
    async with proxied_postgres(postgres_dsn) as (proxy, dsn), PostgresStore(dsn, connect_timeout=0.5) as store:
        proxy.stall()
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(WITHIN):
                await store.ping()
        proxy.flow()
        await store.ping()


async def test_first_of_two_servers_that_is_silent_does_not_hide_the_second(postgres_dsn: str) -> None:
    target = server_of(postgres_dsn)
    async with Proxy(*target) as silent, Proxy(*target) as other:
        silent.stall()
        connector = Connector(postgres_through(postgres_dsn, silent, other), 2.0)
        for _ in range(2):  # from the second on it is asked first
            async with asyncio.timeout(WITHIN):
                connection = await connector.open()
            await connection.close()


def test_hosts_of_a_dsn() -> None:
    assert hosts_of("postgresql://u:p%2C@a:1,[::1]:2/d?x=1") == [
        "postgresql://u:p%2C@a:1/d?x=1",
        "postgresql://u:p%2C@[::1]:2/d?x=1",
    ]
    assert hosts_of("postgresql:///d?host=/run/a") == ["postgresql:///d?host=/run/a"]
    assert hosts_of("postgresql://[::1/d") == ["postgresql://[::1/d"]
    assert hosts_of("postgres://a,b") == ["postgres://a", "postgres://b"]


async def test_the_kernel_looks_after_connections(postgres_dsn: str) -> None:
    import socket

    pool = Connections(postgres_dsn, max_connections=1, connect_timeout=5.0)
    await pool.open()
    connection = await pool.acquire()
    try:
        found = connection._transport.get_extra_info("socket")
        if found.family != socket.AF_UNIX:
            assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 8000
        assert await connection.fetchval("show statement_timeout") == "7200ms"
    finally:
        await pool.release(connection)
        await pool.close()


async def test_settings_that_are_refused_are_left_out(postgres_dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """As by a pooler."""
    connector = Connector(postgres_dsn, 5.0, {"application_name": "sessiond", "no_such_setting": "1"})
    for _ in range(2):
        connection = await connector.open()
        assert await connection.fetchval("show application_name") == "sessiond"
        await connection.close()
    assert [record.message for record in caplog.records if "refuses session settings" in record.message] == [
        "the pooler before Postgres refuses session settings: connecting without them"
    ]


@pytest.mark.skipif(PROGRAM is None, reason="needs pgbouncer")
async def test_limits_hold_behind_a_transaction_pooler(
    postgres_dsn: str,
    database: asyncpg.Connection,
    caller: Caller,
    unused_tcp_port_factory: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with transaction_pooler(postgres_dsn, unused_tcp_port_factory()) as pooled:
        connection = await Connector(pooled, 5.0).open()
        await connection.close()
        assert any("refuses session settings" in record.getMessage() for record in caplog.records)
        pool = await asyncpg.create_pool(
            pooled, min_size=0, max_size=2, statement_cache_size=0, connect=Connector(pooled, 5.0).open
        )
        async with pool, pool.acquire() as one:
            await transactions.begin(one, 0.3)
            assert await one.fetchval("show lock_timeout") == "300ms"
            assert await one.fetchval("show idle_in_transaction_session_timeout") == "1min"
            await one.execute("rollback")
            assert await one.fetchval("show lock_timeout") == "0"


@pytest.mark.usefixtures("brief_idleness")
async def test_transaction_whose_client_stands_still_is_ended_by_the_server(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """As a replica that was paused in the middle of one."""
    await accepted(postgres, caller.create("s"))
    held, go = asyncio.Event(), asyncio.Event()

    async def stand_still(connection: asyncpg.Connection) -> None:
        await connection.fetch("select from session_heads for update")
        held.set()
        await go.wait()
        await connection.fetch("select 1")

    paused = asyncio.create_task(postgres._transactions.run(stand_still, seconds=60))
    await held.wait()
    async with asyncio.timeout(WITHIN), Batcher(other, BatchLimits(outage=WITHIN)) as batcher:
        while True:
            try:
                await batcher.write(caller.append("s"))
            except SessionLocked:
                continue
            break
    go.set()
    with pytest.raises(StoreUnavailable):
        await paused


async def test_session_that_others_hold_is_refused_and_its_neighbours_go_on(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    await accepted(postgres, caller.create("a"), caller.create("b"), caller.create("c"))
    await database.execute("set application_name = 'a foreign job'")
    async with database.transaction():
        await database.fetch("select from session_heads where session_id = 'b' for update")
        for _ in range(3):
            async with asyncio.timeout(WITHIN):
                results = (await postgres.apply([caller.append("a"), caller.append("b"), caller.append("c")])).results
            assert isinstance(results[0], c.MessagesAppended)
            assert isinstance(results[1], SessionLocked)
            assert isinstance(results[2], c.MessagesAppended)
        # Known by now: nothing waits for it any more.
        pid = database.get_server_pid()
    named = [record.message for record in caplog.records if f"process {pid}" in record.message]
    assert len(named) == 1
    assert "application 'a foreign job'" in named[0]
    assert "idle in transaction" in named[0]
    assert isinstance(await only(postgres, caller.append("b")), c.MessagesAppended)
    assert not postgres._locked._sessions


async def test_known_lock_is_not_waited_for_again(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accepted(postgres, caller.create("a"), caller.create("b"))
    async with database.transaction():
        await database.fetch("select from session_heads where session_id = 'b' for update")
        await postgres.apply([caller.append("a"), caller.append("b")])
        # A wait would now outlast the test.
        monkeypatch.setattr(locked, "SHORT_LOCK_SECONDS", 60.0)
        async with asyncio.timeout(WITHIN):
            results = (await postgres.apply([caller.append("b"), caller.append("a")])).results
        assert isinstance(results[0], SessionLocked)
        assert isinstance(results[1], c.MessagesAppended)


class Counted:
    """Commits through a store, counting the batches."""

    def __init__(self, store: PostgresStore) -> None:
        self.batches = 0
        self._store = store

    async def apply(self, commands: Sequence[c.Command]) -> Applied:
        self.batches += 1
        return await self._store.apply(commands)

    async def expire_due(self, limit: int) -> Writes:
        return await self._store.expire_due(limit)


@pytest.mark.parametrize(
    "lock",
    [
        "lock table events in access exclusive mode",
        "lock table session_heads in access exclusive mode",
        "lock table requests in share mode",
    ],
)
async def test_locked_table_refuses_the_whole_batch_at_once(
    postgres: PostgresStore,
    database: asyncpg.Connection,
    caller: Caller,
    caplog: pytest.LogCaptureFixture,
    lock: str,
) -> None:
    """Halving it would not help, and each half would wait for the table again."""
    names = [f"s{number}" for number in range(64)]
    await accepted(postgres, *(caller.create(name) for name in names))
    await database.execute("set application_name = 'a foreign job'")
    commits = Counted(postgres)
    async with Batcher(commits, BatchLimits(outage=WITHIN)) as batcher:
        async with database.transaction():
            await database.execute(lock)
            async with asyncio.timeout(WITHIN):
                answers = await asyncio.gather(
                    *(batcher.write(caller.append(name)) for name in names), return_exceptions=True
                )
        assert {type(answer) for answer in answers} == {StoreUnavailable}
        assert "locked by another transaction" in str(answers[0])
        assert commits.batches <= 2  # the first command may go alone, for the shard was idle
        await batcher.write(caller.append("s1"))
    table = lock.split()[2]
    said = [record.message for record in caplog.records if "are refused" in record.message]
    assert len(said) == 1
    assert f"table {table} is locked" in said[0]
    assert f"process {database.get_server_pid()}, application 'a foreign job'" in said[0]


async def test_table_for_which_a_lock_is_waited_refuses_the_whole_batch(
    postgres: PostgresStore, database: asyncpg.Connection, postgres_dsn: str, caller: Caller
) -> None:
    """Writers queue behind one who waits for the table, though they would not conflict with the one that has it."""
    await accepted(postgres, caller.create("a"), caller.create("b"))
    async with connected(postgres_dsn) as second, database.transaction():
        await database.execute("lock table events in access share mode")
        altering = asyncio.create_task(second.execute("begin; lock table events in access exclusive mode"))
        await until(waiting(database, 1))
        with pytest.raises(StoreUnavailable) as refused:
            await postgres.apply([caller.append("a"), caller.append("b")])
        assert refused.value.locked
        altering.cancel()
        await asyncio.gather(altering, return_exceptions=True)


async def test_second_waiter_for_a_session_does_not_take_it_for_a_table(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """Postgres says whose row it was to the first who waits for it alone."""
    await accepted(postgres, *(caller.create(name) for name in ("held", "one", "two")))
    async with database.transaction():
        await database.fetch("select from session_heads where session_id = 'held' for update")
        both = [
            store.apply([caller.append("held"), caller.append(name)])
            for store, name in ((postgres, "one"), (other, "two"))
        ]
        async with asyncio.timeout(WITHIN):
            for applied in await asyncio.gather(*both):
                assert isinstance(applied.results[0], SessionLocked)
                assert isinstance(applied.results[1], c.MessagesAppended)


async def test_creation_that_waits_for_another_is_a_typed_refusal(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """A transaction that does not end creates the same id: there is no row yet that could be locked."""
    async with database.transaction():
        await database.execute(
            "insert into session_heads (tenant_id, session_id, version, content_version, update_time, user_id, core,"
            " limits) values ($1, 'x', 1, 1, now(), '', '', '')",
            caller.scope.tenant_id,
        )
        async with Batcher(postgres) as batcher:
            created, refused = await asyncio.gather(
                batcher.write(caller.create("y")), batcher.write(caller.create("x")), return_exceptions=True
            )
    assert isinstance(created, c.SessionWritten)
    assert isinstance(refused, SessionLocked)


async def test_closing_does_not_wait_for_a_silent_server(
    postgres_dsn: str, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "TRANSACTION_SECONDS", 600.0)
    monkeypatch.setattr(transactions, "CLOSE_SECONDS", 0.3)
    async with proxied_postgres(postgres_dsn) as (proxy, dsn):
        store = PostgresStore(dsn)
        await store.__aenter__()
        await accepted(store, caller.create("s"))
        proxy.silence()
        append = asyncio.create_task(only(store, caller.append("s")))
        await asyncio.sleep(0)
        append.cancel()
        async with asyncio.timeout(WITHIN):
            await store.__aexit__(None, None, None)
        with pytest.raises((asyncio.CancelledError, StoreUnavailable)):
            await append


async def test_bell_on_a_silent_connection_rings_again(postgres_dsn: str) -> None:
    timeouts = NotifyTimeouts(connect=2.0, answer=0.5, heartbeat=0.1)
    async with proxied_postgres(postgres_dsn) as (proxy, dsn), NotifyBus(dsn, timeouts=timeouts) as bus:
        bus.begin("test:")
        ear = Ear(bus)
        await until(lambda: bus.ready)
        before = ear.missed
        proxy.silence()
        await until(lambda: bus.ready and ear.missed > before)


async def test_cause_is_logged_once_with_its_sqlstate(postgres_dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    async with PostgresStore(postgres_dsn.replace(urlsplit(postgres_dsn).path, "/no_such_database")) as store:
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.ping()
        assert store.causes.counts == {"3D000": 3}
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1
    assert "3D000 InvalidCatalogNameError" in said[0].getMessage()


def test_limits_leave_the_server_the_first_word() -> None:
    """A server that answers ends a statement or transaction itself, before its connection is cut."""
    assert int(connections.SESSION["statement_timeout"].removesuffix("ms")) < connections.READ_SECONDS * 1000


async def test_fork_of_a_session_that_others_hold_is_refused_and_its_neighbours_go_on(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    await accepted(postgres, caller.create("p"), caller.create("a"))
    async with database.transaction():
        await database.fetch("select from session_heads where session_id = 'p' for update")
        for _ in range(2):
            async with asyncio.timeout(WITHIN):
                results = (await postgres.apply([caller.fork("p", "f"), caller.append("a")])).results
            assert isinstance(results[0], SessionLocked)
            assert results[0].metadata["session_id"] == "p"
            assert isinstance(results[1], c.MessagesAppended)
    assert isinstance(await only(postgres, caller.fork("p", "f")), c.SessionWritten)
