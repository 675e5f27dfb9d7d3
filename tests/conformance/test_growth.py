"""How the tables of a database grow: what the store sees, and what an operator is told."""

from dataclasses import replace

import asyncpg
import pytest

from sessiond_server.postgres.growth import DEAD_SHARE, INDEX_TIMES, LARGE, MANY_ROWS, GrowthWatch, warnings
from sessiond_server.postgres.schema.tables import TABLES
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.store.condition import Growth, Table
from tests.support.caller import Caller, accepted
from tests.support.waiting import until

SOUND = Table("events", bytes=2.0 * LARGE, index_bytes=1.0 * LARGE, rows=10**6, dead_rows=50_000, vacuum_seconds=60.0)


def of(table: Table, age: int = 1000) -> list[tuple[str, str]]:
    return list(warnings(Growth([table], transaction_age=age, freeze_age=200_000_000)))


async def test_tables_are_seen_with_their_dead_rows_until_vacuum_removes_them(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    await accepted(postgres, caller.create("s"))
    watch = GrowthWatch(postgres._transactions.fetch)
    for _ in range(5):
        await accepted(postgres, caller.append("s", "x" * 9000))

    async def seen() -> Table:
        await watch.look()
        assert watch.found is not None
        assert sorted(table.name for table in watch.found.tables) == sorted(TABLES)
        assert 0 < watch.found.transaction_age < watch.found.freeze_age
        return next(table for table in watch.found.tables if table.name == "session_heads")

    async def counted() -> bool:
        return (await seen()).dead_rows > 0

    await until(counted)
    before = await seen()
    assert (before.rows, before.vacuum_seconds) == (1, None)
    assert before.bytes >= 8192
    assert before.index_bytes >= 2 * 8192
    await database.execute("vacuum session_heads")

    async def vacuumed() -> bool:
        return (await seen()).dead_rows == 0

    await until(vacuumed)
    age = (await seen()).vacuum_seconds
    assert age is not None
    assert 0 <= age < 60


async def test_database_that_refuses_to_say_is_unknown(
    postgres: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    watch = GrowthWatch(lambda statement, tables: postgres._transactions.fetch("select no_such_column"))
    for _ in range(2):
        await watch.look()
    assert watch.found is None
    assert [record.getMessage() for record in caplog.records if "cannot find out" in record.getMessage()] == [
        "cannot find out how the tables of the database grow"
    ]


def test_sound_tables_get_no_warning() -> None:
    assert of(SOUND) == []
    assert of(replace(SOUND, dead_rows=MANY_ROWS - 1, rows=0)) == []
    assert of(replace(SOUND, dead_rows=MANY_ROWS, rows=MANY_ROWS + 1)) == []
    assert of(replace(SOUND, bytes=1.0, index_bytes=LARGE - 1.0)) == []
    assert of(replace(SOUND, bytes=1.0 * LARGE, index_bytes=INDEX_TIMES * LARGE - 1)) == []
    assert of(SOUND, age=300_000_000) == []


def test_dead_rows_large_indexes_and_old_ids_get_a_warning_with_its_remedy() -> None:
    assert DEAD_SHARE == 0.5
    bloated = replace(SOUND, rows=MANY_ROWS, dead_rows=MANY_ROWS, vacuum_seconds=None)
    ((problem, advice),) = of(bloated)
    assert problem == "50% of the rows of events are dead (100,000), last vacuumed never"
    assert "vacuum (verbose) events" in advice
    ((problem, _),) = of(replace(bloated, vacuum_seconds=86_400.0 * 3))
    assert problem.endswith("last vacuumed 3 days ago")
    ((problem, advice),) = of(replace(SOUND, bytes=1.0 * LARGE, index_bytes=INDEX_TIMES * LARGE))
    assert problem == "the indexes of events are 4 times as large as the table (4.0 GiB)"
    assert advice == "reindex table concurrently events"
    ((problem, _),) = of(SOUND, age=300_000_001)
    assert problem.startswith("the oldest transaction id is 300,000,001 old")
