"""Appends in one statement: what they may believe, move by move, and that the locked path has the last word."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest
from google.protobuf.duration_pb2 import Duration

from sessiond.v1.event_pb2 import Event
from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond_server.domain import commands as c
from sessiond_server.domain.commands import Scope
from sessiond_server.errors import (
    MessageAlreadyExists,
    MessageLimitReached,
    RequestIdReused,
    RunFenced,
    SessionEnded,
    SessionNotFound,
    StoreUnavailable,
    VersionMismatch,
)
from sessiond_server.postgres import database_clock, optimistic, placement
from sessiond_server.postgres.optimistic import OptimisticWrites
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.postgres.write import LOCK_HEADS
from tests.support.caller import OTHER_PRINT, Caller, accepted, message, refused, whole_log
from tests.support.documents import APP, put
from tests.support.run_actions import INTERRUPT, begin
from tests.support.shared_database import SharedDatabase
from tests.support.statements import count_statements
from tests.support.transactions import (
    COMMITTING,
    SLOW_COMMIT,
    cancelled_in_commit,
    connected,
    only,
    terminate_others,
    waiting,
)
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate of the time may be behind by as much as a busy machine needs."""
    monkeypatch.setattr(optimistic, "BEHIND_US", 60_000_000)
    monkeypatch.setattr(database_clock, "DOUBT_US", 60_000_000)


@pytest.fixture
async def store(emptied: SharedDatabase) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(emptied.dsn) as store:
        yield store


@pytest.fixture
async def second(emptied: SharedDatabase) -> AsyncIterator[PostgresStore]:
    """Another replica, whose writes take locks."""
    async with PostgresStore(emptied.dsn, optimistic="off") as store:
        yield store


@pytest.fixture
async def rows(emptied: SharedDatabase) -> AsyncIterator[asyncpg.Connection]:
    async with connected(emptied.dsn) as connection:
        yield connection


def paths(store: PostgresStore, since: Counter[str] | None = None) -> dict[str, int]:
    """How many commands took which path, besides those of `since`."""
    found = Counter(store.condition().writes)
    found.subtract(since or {})
    return {name: count for name, count in found.items() if count}


def taken(store: PostgresStore) -> Counter[str]:
    return Counter(store.condition().writes)


async def _path(store: PostgresStore, *commands: c.Command) -> dict[str, int]:
    before = taken(store)
    await accepted(store, *commands)
    return paths(store, before)


async def _gapless(store: PostgresStore, caller: Caller, session_id: str) -> Sequence[Event]:
    """The log; it and the head belong together."""
    log = await whole_log(store, caller.scope, session_id)
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert [event.previous_event_id for event in log] == ["", *(event.event_id for event in log[:-1])]
    times = [event.create_time.ToMicroseconds() for event in log]
    assert times == sorted(times)
    core = Session.FromString((await store.get_session(caller.scope, session_id, content=False)).core)
    assert (core.version, core.last_event_id) == (len(log), log[-1].event_id)
    assert core.update_time.ToMicroseconds() == times[-1]
    return log


async def test_an_append_to_a_session_just_written_is_one_statement(
    store: PostgresStore, second: PostgresStore, monkeypatch: pytest.MonkeyPatch, caller: Caller
) -> None:
    await accepted(store, *(caller.create(f"s{i}") for i in range(3)))
    sent = count_statements(monkeypatch)
    batch = [caller.append("s0", "a", "b", request_id="r"), caller.append("s1"), caller.append_ids("s2", "m")]
    results = (await store.apply([*batch, caller.append("s0", "c")])).results
    assert sent == [optimistic.WRITE_IF_UNCHANGED]
    assert all(isinstance(result, c.MessagesAppended) for result in results)
    sent.clear()
    await accepted(store, caller.append("s0", "d", expected_version=4))
    assert len(sent) == 1
    monkeypatch.undo()
    assert paths(store) == {"optimistic": 5, "more": 3}
    log = await _gapless(second, caller, "s0")
    assert [event.message.parts[0].text for event in log[1:]] == ["a", "b", "c", "d"]
    assert log[1].request_id == "r"
    # The locked path of a replica goes on where it ended.
    await accepted(second, caller.append("s0"), caller.append("s2"))
    await _gapless(store, caller, "s0")


async def test_what_is_written_is_what_the_locked_path_writes(
    store: PostgresStore, second: PostgresStore, rows: asyncpg.Connection, caller: Caller
) -> None:
    """But for times, ids and transactions: row by row, also in columns that no read shows."""
    for writer, session_id in ((store, "a"), (second, "b")):
        await accepted(writer, caller.create(session_id, user_id="ann", config=SessionConfig(max_messages=500)))
        for number in range(70):
            append = caller.append(session_id, "x", "y", request_id=f"r{number}")
            await accepted(writer, append, caller.append_ids(session_id, f"m{number}"))
    assert paths(store)["optimistic"] == 140
    for table, besides in (
        ("session_heads", "session_id, update_time, expire_check_time, core, update_period, commit_xid"),
        ("events", "session_id, create_time, message_id, head, body, core, commit_xid"),
        ("requests", "session_id, create_time"),
    ):
        left = " - ".join(f"'{column.strip()}'" for column in besides.split(","))
        found = await rows.fetch(
            f"select session_id, to_jsonb(t) - {left} as row from {table} t order by to_jsonb(t) ->> 'seq', 1, 2"
        )
        of = {each: sorted(row["row"] for row in found if row["session_id"] == each) for each in "ab"}
        if table == "requests":
            of = {each: [row for row in found_rows if '"request_id": "r' in row] for each, found_rows in of.items()}
        assert of["a"] == of["b"] != [], table
    kept = await rows.fetch("select seq, session_id from events where core is not null order by seq, session_id")
    assert [(row["seq"], row["session_id"]) for row in kept] == [(n, s) for n in (64, 128, 192) for s in "ab"]
    nulls = await rows.fetchval("select count(*) from session_heads where update_period is null or commit_xid is null")
    assert nulls == 0
    places = await rows.fetch(
        "select distinct h.commit_xid = e.commit_xid from session_heads h join events e on"
        " e.session_id = h.session_id and e.seq = h.version"
    )
    assert [row[0] for row in places] == [True]


async def test_another_writer_was_first(store: PostgresStore, second: PostgresStore, caller: Caller) -> None:
    """Mutant: no version in the condition."""
    await accepted(store, *(caller.create(each) for each in "abc"))
    await accepted(second, caller.append("b", "other"))
    batch = [caller.append("a", "1"), caller.append("b", "2"), caller.append("b", "3"), caller.append("c", "4")]
    applied = await store.apply(batch)
    assert [result.version for result in applied.results if isinstance(result, c.MessagesAppended)] == [2, 3, 4, 2]
    assert paths(store) == {"more": 3, "optimistic": 2, "changed": 2}
    assert sorted(row.key[1] for row in applied.writes.heads) == ["a", "b", "c"]
    assert len(applied.writes.events) == 4
    log = await _gapless(store, caller, "b")
    assert [event.message.parts[0].text for event in log[1:]] == ["other", "2", "3"]
    assert await _path(store, *(caller.append(each) for each in "abc")) == {"optimistic": 3}


async def test_a_head_of_the_same_version_from_another_history(
    store: PostgresStore, second: PostgresStore, rows: asyncpg.Connection, caller: Caller
) -> None:
    """A database restored to an earlier time, in which others have written since. Mutant: the version alone counts."""
    await accepted(store, caller.create("s"))
    before = await rows.fetch("select * from session_heads")
    await accepted(store, caller.append("s", "lost"))
    await rows.execute("delete from events where seq = 2")
    await rows.execute("delete from requests where first_seq = 2")
    await rows.execute("update session_heads set version = 1, core = $1", before[0]["core"])
    await accepted(second, caller.append("s", "instead"))
    assert await _path(store, caller.append("s", "next")) == {"changed": 1}
    log = await _gapless(store, caller, "s")
    assert [event.message.parts[0].text for event in log[1:]] == ["instead", "next"]


async def test_retries_get_the_first_outcome(store: PostgresStore, caller: Caller) -> None:
    """Whichever path the request took first. Its record makes the statement fail, and the locked path answers."""
    first = caller.append("s", "one", request_id="r0")
    await accepted(store, caller.create("s"))
    (outcome,) = await accepted(store, first)
    assert paths(store) == {"more": 1, "optimistic": 1}
    other = caller.append("s", "two", request_id="r1")
    results = (await store.apply([other, first, other])).results
    assert results[1] == outcome
    assert results[0] == results[2]
    assert paths(store) == {"more": 1, "optimistic": 1, "exists": 3}
    assert await _path(store, caller.append("s")) == {"optimistic": 1}
    await refused(store, caller.append("s", request_id="r0", fingerprint=OTHER_PRINT), RequestIdReused)
    assert len(await _gapless(store, caller, "s")) == 4


async def test_refusals_are_those_of_the_locked_path(
    store: PostgresStore, second: PostgresStore, caller: Caller
) -> None:
    """What a stale head would refuse is accepted, and the other way round; the others of the batch are written."""
    limited = SessionConfig(max_messages=3)
    await accepted(store, caller.create("s", config=limited, user_id="ann"), caller.create("t"))
    await accepted(store, caller.append_ids("s", "m"), caller.append_ids("t", "m"))
    before = taken(store)
    results = (await store.apply([caller.append_ids("s", "m"), caller.append("t")])).results
    assert isinstance(results[0], MessageAlreadyExists)
    assert isinstance(results[1], c.MessagesAppended)
    assert paths(store, before) == {"exists": 2}
    await accepted(store, caller.append("s"), caller.append("t"))
    await accepted(second, caller.update("s", config=SessionConfig(max_messages=4)))
    before = taken(store)
    results = (await store.apply([caller.append("s", "1", "2"), caller.append("t")])).results
    assert isinstance(results[0], c.MessagesAppended)
    assert paths(store, before) == {"refused": 1, "optimistic": 1}
    await refused(store, caller.append("s"), MessageLimitReached)
    await refused(store, caller.append("t", expected_version=1), VersionMismatch)
    # What another user has costs what is not there costs.
    before = taken(store)
    await refused(store, Caller(Scope("tenant", "bob")).append("s"), SessionNotFound)
    await refused(store, Caller(Scope("other")).append("t"), SessionNotFound)
    assert paths(store, before) == {"unknown": 2}
    await accepted(second, caller.end("t"))
    await refused(store, caller.append("t"), SessionEnded)
    await refused(store, caller.append("t"), SessionEnded)
    await accepted(second, caller.delete("s"))
    await refused(store, caller.append("s"), SessionNotFound)


async def test_a_session_that_is_gone_is_not_made_anew(
    store: PostgresStore, rows: asyncpg.Connection, caller: Caller
) -> None:
    """Mutant: an upsert that finds no row, of a tombstone that was purged or of a tenant that has moved."""
    await accepted(store, caller.create("s"), caller.create("t"))
    await rows.execute("delete from session_heads where session_id = 's'")
    results = (await store.apply([caller.append("s"), caller.append("t")])).results
    assert isinstance(results[0], SessionNotFound)
    assert isinstance(results[1], c.MessagesAppended)
    assert await rows.fetchval("select count(*) from session_heads") == 1
    assert await rows.fetchval("select count(*) from events where session_id = 's' and seq > 1") == 0


async def test_an_id_that_is_taken_again(store: PostgresStore, second: PostgresStore, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s"))
    await accepted(second, caller.delete("s"), caller.create("s", reuse=True))
    assert await _path(store, caller.append("s", "new")) == {"changed": 1}
    await accepted(store, caller.delete("s"))
    await refused(store, caller.append("s"), SessionNotFound)


@pytest.mark.parametrize("seconds", [3600, -3600])
async def test_the_clock_of_the_database_decides(
    store: PostgresStore, emptied: SharedDatabase, rows: asyncpg.Connection, caller: Caller, seconds: float
) -> None:
    """Mutant: the estimate is not compared with the database's clock."""
    await accepted(
        store, caller.create("s", ttl=Duration(seconds=60)), caller.create("t", ttl=Duration(seconds=200_000))
    )
    assert await _path(store, caller.append("t")) == {"optimistic": 1}
    await emptied.advance(seconds)
    before = taken(store)
    if seconds == 3600:
        await refused(store, caller.append("s"), SessionEnded)
    else:
        await accepted(store, caller.append("s"))
    assert paths(store, before) == {"clock": 1}
    await accepted(store, caller.append("t"))
    log = await _gapless(store, caller, "t")
    now = await rows.fetchval("select extract(epoch from test_clock.clock_timestamp())::float8")
    if seconds > 0:
        assert abs(log[-1].create_time.ToMicroseconds() / 1e6 - now) < 60
    else:
        assert log[-1].create_time.ToMicroseconds() == log[-2].create_time.ToMicroseconds()


async def test_what_is_overloaded_is_not_asked_twice(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, caller: Caller
) -> None:
    """A statement that came too late is not sent again for a while."""
    await accepted(store, caller.create("s"))
    monkeypatch.setattr(optimistic, "BEHIND_US", -1_000)
    monkeypatch.setattr(optimistic, "PAUSE_SECONDS", 600.0)
    assert await _path(store, caller.append("s")) == {"clock": 1}
    monkeypatch.setattr(optimistic, "BEHIND_US", 60_000_000)
    assert await _path(store, caller.append("s")) == {"paused": 1}
    monkeypatch.setattr(store._optimistic, "_paused_until", 0.0)
    assert await _path(store, caller.append("s")) == {"optimistic": 1}


async def test_what_is_about_to_expire_is_decided_with_locks(store: PostgresStore, caller: Caller) -> None:
    """A session, or the lease of its run."""
    await accepted(store, caller.create("s", ttl=Duration(seconds=1)), caller.create("t"), caller.create("u"))
    assert await _path(store, caller.append("s")) == {"expires": 1}
    await accepted(store, caller.command("t", begin("r", lease=1)), caller.command("u", begin("r", lease=60)))
    fence = c.Fence("r", 2)
    assert await _path(store, caller.append("t", fence=fence)) == {"expires": 1}
    assert await _path(store, caller.append("u", fence=fence)) == {"optimistic": 1}


async def test_a_lease_that_moved_and_a_run_that_was_taken_over(
    store: PostgresStore, second: PostgresStore, rows: asyncpg.Connection, caller: Caller
) -> None:
    """The head has another lease in the same version. Mutant: the lease is not compared."""
    fence = c.Fence("r", 2)
    await accepted(store, caller.create("s"), caller.command("s", begin("r", lease=60)))
    await accepted(store, caller.command("s", c.HeartbeatRun(), fence=fence))
    lease = await rows.fetchval("select lease_expire_time from session_heads")
    assert await _path(store, caller.append("s", fence=fence)) == {"optimistic": 1}
    assert await rows.fetchval("select lease_expire_time from session_heads") == lease
    await accepted(second, caller.command("s", c.HeartbeatRun(), fence=fence))
    lease = await rows.fetchval("select lease_expire_time from session_heads")
    assert await _path(store, caller.append("s", fence=fence)) == {"changed": 1}
    assert await rows.fetchval("select lease_expire_time from session_heads") == lease
    await rows.execute("update session_heads set lease_expire_time = test_clock.now() - interval '1 s'")
    await refused(store, caller.append("s", fence=fence), RunFenced)
    await accepted(second, caller.command("s", begin("r2", INTERRUPT)))
    await refused(store, caller.append("s", fence=fence), RunFenced)


async def test_appends_that_need_more_than_heads_take_locks(store: PostgresStore, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.create("unnamed", name=""))
    await accepted(store, caller.fork("s", "f", seq=1))
    labelled = message()
    labelled.labels["k"] = "v"
    for command in (
        caller.append_with("s", put(APP, "k")),
        caller.append("unnamed", "gives a name"),
        caller.command("s", c.AppendMessages([labelled])),
        caller.append_ids("f", "m"),
        caller.update_and_append("s", name="other"),
        caller.touch("s", 0),
    ):
        assert await _path(store, command) == {"more": 1}, command.action
    assert await _path(store, caller.append("s"), caller.append("unnamed"), caller.append("f")) == {"optimistic": 3}
    assert await _path(store, caller.append("s"), caller.touch("s", 0)) == {"more": 2}


async def test_a_session_that_a_transaction_holds_is_waited_for_with_locks(
    store: PostgresStore, rows: asyncpg.Connection, caller: Caller
) -> None:
    await accepted(store, caller.create("s"), caller.create("t"))
    async with rows.transaction():
        await rows.fetch("select from session_heads where session_id = 's' for update")
        append = asyncio.create_task(store.apply([caller.append("s"), caller.append("t")]))
        await until(waiting(rows, 1))
        assert paths(store)["optimistic"] == paths(store)["busy"] == 1
        assert await rows.fetchval("select version from session_heads where session_id = 't'") == 2
    assert all(isinstance(result, c.MessagesAppended) for result in (await append).results)
    assert await _path(store, caller.append("s"), caller.append("t")) == {"optimistic": 2}


async def test_a_tenant_that_leaves_while_the_statement_waits(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """The statement's snapshot is younger than its lock on the table, and shows the new map. Mutant: the map is not
    compared."""
    await placement.claim(database, "main", "group", empty=False)
    await postgres.ping()
    await accepted(postgres, caller.create("s"))
    await accepted(postgres, caller.append("s"))
    async with database.transaction():
        await database.execute(placement.LOCK)
        append = asyncio.create_task(only(postgres, caller.append("s")))
        await until(waiting(database, 1))
        await database.execute(placement.WRITE_HOME, "tenant", "eu", 7, None, None)
    assert isinstance(await append, StoreUnavailable)
    assert paths(postgres) == {"more": 1, "optimistic": 1, "elsewhere": 1}
    assert await database.fetchval("select version from session_heads") == 2
    assert isinstance(await only(postgres, caller.append("s")), StoreUnavailable)
    await database.execute(placement.WRITE_HOME, "tenant", "main", 9, None, None)
    await postgres.ping()
    assert isinstance(await only(postgres, caller.append("s")), c.MessagesAppended)


async def test_a_role_with_another_isolation_level(
    postgres_dsn: str, database: asyncpg.Connection, caller: Caller
) -> None:
    """The settings of the service go before the role's."""
    name = await database.fetchval("select current_database()")
    await database.execute(f'alter database "{name}" set default_transaction_isolation = "serializable"')
    async with PostgresStore(postgres_dsn) as store:
        await accepted(store, caller.create("s"))
        assert await _path(store, caller.append("s")) == {"optimistic": 1}


async def test_a_connection_lost_in_the_statement(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """Nothing is believed of the session until the outcome is known, and the locked path finds what was written."""
    await accepted(postgres, caller.create("s"))
    await database.execute(SLOW_COMMIT)
    await database.execute(f"select pg_advisory_lock({COMMITTING})")
    append = caller.append("s", request_id="r")
    applied = asyncio.create_task(only(postgres, append))
    await until(waiting(database, 1))
    await terminate_others(database)
    with pytest.raises(StoreUnavailable):
        await applied
    await database.execute(f"select pg_advisory_unlock({COMMITTING})")
    assert isinstance(await only(postgres, append), c.MessagesAppended)
    assert paths(postgres) == {"more": 1, "unknown": 1}
    assert len(await _gapless(postgres, caller, "s")) == 2


async def test_a_statement_goes_on_without_its_caller(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """Mutant: no shield around it."""
    await accepted(postgres, caller.create("s"))
    append = caller.append("s", request_id="r")
    await cancelled_in_commit(postgres, database, append)
    assert len(await _gapless(postgres, caller, "s")) == 2
    (first,) = (await postgres.apply([append])).results
    assert isinstance(first, c.MessagesAppended)
    assert paths(postgres) == {"more": 1, "unknown": 1}


async def test_a_statement_that_the_server_runs_late_writes_nothing(
    store: PostgresStore,
    second: PostgresStore,
    emptied: SharedDatabase,
    monkeypatch: pytest.MonkeyPatch,
    caller: Caller,
) -> None:
    """Its connection was given up on the way, and the head is as it was. The time gives it away."""
    await accepted(store, caller.create("s"))
    sent: list[tuple[object, ...]] = []

    async def given_up(*statement: object) -> None:
        sent.append(statement)
        raise StoreUnavailable

    monkeypatch.setattr(store._transactions, "alone", given_up)
    with pytest.raises(StoreUnavailable):
        await only(store, caller.append("s", request_id="r"))
    await emptied.advance(61)
    (late,) = await second._transactions.alone(*sent[0])  # type: ignore[arg-type]
    assert late["outcome"] == "clock"
    assert len(await _gapless(store, caller, "s")) == 1


async def test_heads_that_are_kept_are_those_of_the_database(
    store: PostgresStore, rows: asyncpg.Connection, caller: Caller
) -> None:
    """Whatever was written last, by either path. Of forks of it the head says nothing that appends read."""
    await accepted(store, caller.create("s", user_id="ann", config=SessionConfig(max_messages=9, system_prompt="p")))
    await accepted(store, caller.append("s"))
    await accepted(store, caller.command("s", begin("r")))
    await accepted(store, caller.update("s", name="n", summary="long " * 900))
    await accepted(store, caller.fork("s", "f", seq=2), caller.create("t"))
    await accepted(store, caller.append("f"))
    found = await rows.fetch(LOCK_HEADS, ["tenant"] * 3, ["f", "s", "t"], [""] * 3)
    for row, session_id in zip(found, "fst", strict=True):
        kept = store._optimistic._heads.get(("tenant", session_id))
        assert kept is not None
        head = kept.head
        lease = row["lease_expire_time"]
        assert (head.version, head.user_id, head.core, head.limits) == tuple(row[1:5]), session_id
        assert (head.content_version, head.deleted, head.content_sizes) == (row[5], row[6], row[8])
        assert head.fork_seq == row["fork_seq"]
        assert (lease is None) == (head.lease_expire_us is None)
        if lease is not None:
            assert lease.timestamp() * 1e6 == pytest.approx(head.lease_expire_us, abs=10)


async def test_two_replicas_that_append_to_the_same_sessions(
    store: PostgresStore, emptied: SharedDatabase, caller: Caller
) -> None:
    """Both believe their heads, and lose races all the time."""
    async with PostgresStore(emptied.dsn) as third:
        await accepted(store, *(caller.create(f"s{i}") for i in range(4)))

        async def write(by: PostgresStore, name: str) -> None:
            for number in range(25):
                batch = [caller.append(f"s{i}", f"{name} {number}", request_id=f"{name}-{number}") for i in range(4)]
                for command, result in zip(batch, (await by.apply(batch)).results, strict=True):
                    assert isinstance(result, c.MessagesAppended), (command, result)

        await asyncio.gather(write(store, "a"), write(third, "b"))
        found = taken(store) + taken(third)
        assert found["optimistic"] > 0
        assert found["changed"] + found["busy"] > 0
        for i in range(4):
            log = await _gapless(store, caller, f"s{i}")
            texts = [event.message.parts[0].text for event in log[1:]]
            assert len(texts) == len(set(texts)) == 50
            for name in "ab":
                own = [text for text in texts if text.startswith(name)]
                assert own == [f"{name} {number}" for number in range(25)]


async def test_off_is_off(emptied: SharedDatabase, monkeypatch: pytest.MonkeyPatch, caller: Caller) -> None:
    async with PostgresStore(emptied.dsn, optimistic="off") as store:
        monkeypatch.setattr(OptimisticWrites, "_write", None)
        await accepted(store, caller.create("s"))
        await accepted(store, caller.append("s"))
        assert paths(store) == {"off": 2}
