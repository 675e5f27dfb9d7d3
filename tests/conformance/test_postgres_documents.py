"""How transactions on one Postgres meet at documents, move by move, and what a batch with documents sends.

Mutants: each safeguard is taken out in turn, and the race that it prevents is then lost.
"""

import asyncio
from collections.abc import Iterable

import asyncpg
import pytest

from sessiond_server.domain import commands as c
from sessiond_server.domain.documents.rows import DocumentKey
from sessiond_server.errors import DocumentLocked, DocumentVersionMismatch, SessionNotFound
from sessiond_server.postgres import documents, locked, transactions
from sessiond_server.postgres.store import PostgresStore
from tests.support.caller import Caller, accepted, refused
from tests.support.documents import ALL, ANN, APP, S, alone, change_of, put, read, value, written
from tests.support.statements import count_statements
from tests.support.transactions import connected, only, waiting
from tests.support.waiting import until


async def _raced_put(
    first: PostgresStore, second: PostgresStore, database: asyncpg.Connection, *commands: c.Command
) -> list[c.Result]:
    """Two transactions write the document `k` of the tenant, while a third party holds it."""
    async with database.transaction():
        await database.fetch("select from documents for update")
        one = asyncio.create_task(only(first, commands[0]))
        await until(waiting(database, 1))
        two = asyncio.create_task(only(second, commands[1]))
        await until(waiting(database, 2))
    return [await one, await two]


async def test_one_of_two_raced_puts_wins(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection
) -> None:
    await written(postgres, put(ALL, "k"))
    results = await _raced_put(postgres, other, database, alone(put(ALL, "k", "a", 1)), alone(put(ALL, "k", "b", 1)))
    assert sorted(type(result).__name__ for result in results) == ["DocumentVersionMismatch", "DocumentWritten"]
    assert (await written(postgres, put(ALL, "k"))).version == 3


async def test_without_the_lock_of_documents_both_raced_puts_win(
    monkeypatch: pytest.MonkeyPatch, postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection
) -> None:
    mutated = documents.LOOK_UP_ALL.replace("for update", "")
    assert mutated != documents.LOOK_UP_ALL
    monkeypatch.setattr(documents, "LOOK_UP_ALL", mutated)
    await written(postgres, put(ALL, "k"))
    results = await _raced_put(postgres, other, database, alone(put(ALL, "k", "a", 1)), alone(put(ALL, "k", "b", 1)))
    assert [change_of(result).version for result in results if isinstance(result, c.DocumentWritten)] == [2, 2]


async def test_a_raced_retry_finds_the_record_of_the_first(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection
) -> None:
    await written(postgres, put(ALL, "k"))
    command = alone(put(ALL, "k", "a", 1), "r")
    first, second = await _raced_put(postgres, other, database, command, command)
    assert isinstance(first, c.DocumentWritten)
    assert first == second


async def test_without_a_second_statement_the_raced_retry_is_refused(
    monkeypatch: pytest.MonkeyPatch, postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection
) -> None:
    """The mutant looks request ids up before the documents are locked: it never sees the record."""

    async def too_early(*_: object) -> None:
        pass

    await written(postgres, put(ALL, "k"))
    monkeypatch.setattr(documents, "look_up_requests", too_early)
    command = alone(put(ALL, "k", "a", 1), "r")
    first, second = await _raced_put(postgres, other, database, command, command)
    assert {type(first), type(second)} == {c.DocumentWritten, DocumentVersionMismatch}


async def test_one_of_two_raced_creations_starts_over(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """Both found no row to lock. The second must not overwrite the first, and its append happens once."""
    await accepted(postgres, caller.create("s"))
    async with database.transaction():
        await database.execute("lock table documents in share mode")
        one = asyncio.create_task(only(postgres, alone(put(ALL, "k", "a", 0))))
        await until(waiting(database, 1))
        two = asyncio.create_task(only(other, caller.append_with("s", put(ALL, "k", "b"))))
        await until(waiting(database, 2))
    results = await one, await two
    assert all(isinstance(r, c.DocumentWritten | c.MessagesAppended | DocumentVersionMismatch) for r in results)
    found = await read(postgres.documents, ALL, "k")
    assert found is not None
    assert found.version == sum(not isinstance(result, Exception) for result in results)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "LOCK_SECONDS", 0.1)
    monkeypatch.setattr(locked, "SHORT_LOCK_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient")
async def test_a_held_document_refuses_only_the_commands_that_need_it(
    postgres: PostgresStore, postgres_dsn: str, caller: Caller
) -> None:
    """The batch is neither refused nor halved, and later batches do not wait for the document."""
    await accepted(postgres, caller.create("s"), caller.create("t"), alone(put(APP, "held")), alone(put(APP, "free")))
    async with connected(postgres_dsn) as holder, holder.transaction():
        await holder.fetch("select from documents where key = 'held' for update")
        for _ in range(2):
            applied = await postgres.apply(
                [
                    caller.append_with("s", put(APP, "free"), put(APP, "held")),
                    caller.append("s"),
                    alone(put(APP, "held")),
                    alone(put(APP, "free")),
                    alone(put(ALL, "new")),
                ]
            )
            kinds = [type(result) for result in applied.results]
            assert kinds == [DocumentLocked, c.MessagesAppended, DocumentLocked, c.DocumentWritten, c.DocumentWritten]
        refusal = applied.results[0]
        assert isinstance(refusal, DocumentLocked)
        assert dict(refusal.metadata) == {"scope": "AGENT", "scope_id": "app", "key": "held"}
        assert postgres._locked._documents
    await accepted(postgres, caller.append_with("s", put(APP, "held", "2")))
    assert not postgres._locked._documents
    assert await value(postgres.documents, APP, "held") == "2"


@pytest.mark.usefixtures("impatient")
async def test_a_document_that_another_transaction_is_creating(
    postgres: PostgresStore, postgres_dsn: str, caller: Caller
) -> None:
    """SKIP LOCKED does not see its row: all commands with documents are refused, the others go on."""
    await accepted(postgres, caller.create("s"), alone(put(APP, "free")))
    async with connected(postgres_dsn) as holder:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute(
            "insert into documents select tenant_id, scope, scope_id, 'coming', version, create_time, update_time,"
            " expire_time, delete_time, user_readable, labels, body, value from documents"
        )
        applied = await postgres.apply([caller.append_with("s", put(APP, "coming")), caller.append("s")])
        assert [type(result) for result in applied.results] == [DocumentLocked, c.MessagesAppended]
        await transaction.rollback()
    await accepted(postgres, caller.append_with("s", put(APP, "coming")))


@pytest.mark.usefixtures("impatient")
async def test_a_held_session_and_a_held_document(postgres: PostgresStore, postgres_dsn: str, caller: Caller) -> None:
    await accepted(postgres, caller.create("s"), caller.create("t"), alone(put(APP, "held")))
    async with connected(postgres_dsn) as holder, holder.transaction():
        await holder.fetch("select from documents for update")
        await holder.fetch("select from session_heads where session_id = 's' for update")
        applied = await postgres.apply(
            [caller.append("s"), caller.append_with("t", put(APP, "held")), caller.append("t")]
        )
        names = [type(result).__name__ for result in applied.results]
        assert names == ["SessionLocked", "DocumentLocked", "MessagesAppended"]


@pytest.mark.usefixtures("impatient")
async def test_a_held_document_is_not_shown_to_those_who_may_not_see_its_session(
    postgres: PostgresStore, postgres_dsn: str, caller: Caller
) -> None:
    eve = c.Scope("tenant", "eve")
    await accepted(postgres, caller.create("s", user_id="ann"), alone(put(S, "held")))
    async with connected(postgres_dsn) as holder, holder.transaction():
        await holder.fetch("select from documents where key = 'held' for update")
        for _ in range(2):
            commands = [alone(put(S, "held")), alone(put(S, "held"), scope=eve)]
            for batch in (commands, commands[1:]):
                applied = await postgres.apply(batch)
                refusals = [DocumentLocked, SessionNotFound]
                assert [type(result) for result in applied.results] == refusals[-len(batch) :]
        assert postgres._locked._documents


@pytest.mark.usefixtures("impatient")
async def test_a_write_to_a_hidden_session_locks_none_of_its_documents(
    postgres: PostgresStore, postgres_dsn: str, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else strangers could keep the owner of a session waiting for its documents."""
    key: DocumentKey = ("tenant", *S, "held")
    locked_by: list[set[DocumentKey]] = []
    lock_free = documents.lock_free

    async def recorded(connection: asyncpg.Connection, suspects: Iterable[DocumentKey]) -> set[DocumentKey]:
        locked_by.append(set(suspects))
        return await lock_free(connection, suspects)

    monkeypatch.setattr(documents, "lock_free", recorded)
    await accepted(postgres, caller.create("s", user_id="ann"), alone(put(S, "held")))
    async with connected(postgres_dsn) as holder, holder.transaction():
        await holder.fetch("select from documents where key = 'held' for update")
        await refused(postgres, alone(put(S, "held")), DocumentLocked)
        assert locked_by == [{key}]
        await refused(postgres, alone(put(S, "held"), scope=c.Scope("tenant", "eve")), SessionNotFound)
        assert locked_by == [{key}, set()]
        await refused(postgres, alone(put(S, "held"), scope=c.Scope("tenant", "ann")), DocumentLocked)
        assert locked_by == [{key}, set(), {key}]


async def test_a_batch_with_documents_sends_no_more_statements(
    monkeypatch: pytest.MonkeyPatch, postgres: PostgresStore, caller: Caller
) -> None:
    """Nor does a batch without documents send others than before; where it takes locks, as many."""
    monkeypatch.setattr("sessiond_server.postgres.database_clock.DOUBT_US", 60_000_000)  # on a busy machine, too
    await accepted(postgres, caller.create("s", user_id="ann"), alone(put(APP, "a")))
    sent = count_statements(monkeypatch)
    await accepted(postgres, caller.append("s"))
    assert len(sent) == 1, sent
    assert not [statement for statement in sent if "documents" in statement]
    sent.clear()
    plain = 5  # begin, lock, look up, write, commit
    await accepted(postgres, caller.append_with("s", put(APP, "a"), put(ANN, "b"), put(S, "c")))
    assert len(sent) == plain
    sent.clear()
    await accepted(postgres, alone(put(APP, "a")))
    assert len(sent) == plain  # no head to lock, but a request id to look up
