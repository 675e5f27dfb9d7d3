"""What a write costs in rows and bytes: an append to a session is the same whatever the session carries."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond.v1.session_service_pb2 import StructUpdate
from sessiond_server.domain import commands as c
from sessiond_server.domain.log import FeedPlace
from sessiond_server.postgres import documents
from sessiond_server.postgres.optimistic import Mode
from sessiond_server.postgres.statements import LOG, READ, WRITE
from sessiond_server.postgres.store import PostgresStore
from tests.support.caller import Caller, accepted, message, struct
from tests.support.documents import ANN, APP, S, put
from tests.support.run_actions import ENQUEUE, begin, finish, request
from tests.support.shared_database import SharedDatabase
from tests.support.statements import count_statements
from tests.support.waiting import until

STATE_BYTES = 256 * 1024


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Appends take the path that they take on an idle machine."""
    monkeypatch.setattr("sessiond_server.postgres.optimistic.BEHIND_US", 60_000_000)
    monkeypatch.setattr("sessiond_server.postgres.database_clock.DOUBT_US", 60_000_000)


TOOLS = [hashlib.sha512(str(i).encode()).hexdigest() for i in range(256)]  # not to be compressed away

_UPDATES = """
select (to_jsonb(t) ->> $1)::bigint from pg_stat_user_tables t where relname = 'session_heads'
"""


async def _sizes(database: asyncpg.Connection) -> dict[str, int]:
    """Bytes that each table keeps out of line. Every version of a value that is written adds to them."""
    rows = await database.fetch(
        "select relname, pg_relation_size(reltoastrelid) from pg_class"
        " where relnamespace = 'public'::regnamespace and reltoastrelid <> 0"
    )
    return {row[0]: row[1] for row in rows}


async def test_an_append_rewrites_neither_content_nor_limits(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """Mutants: content kept in the head row; limits written by every append."""
    large = struct(blob="".join(chr(0x4E00 + i % 20000) for i in range(STATE_BYTES // 3)))
    config = SessionConfig(allowed_tools=TOOLS, system_prompt="p" * 100_000)
    await accepted(postgres, caller.create("s", state=large, metadata=struct(m="m" * 50_000), config=config))
    before = await _sizes(database)
    assert before["events"] > STATE_BYTES
    assert before["session_heads"] > 0
    for _ in range(20):
        await accepted(postgres, caller.append("s"), caller.append("s"))
    assert await _sizes(database) == before

    stored = await postgres.get_session(caller.scope, "s", content=True)
    assert len(stored.core) < 2_000 < STATE_BYTES < len(stored.content)
    limits: bytes = await database.fetchval("select limits from session_heads")
    assert list(SessionConfig.FromString(limits).allowed_tools) == TOOLS


@pytest.mark.long
async def test_appends_leave_the_indexes_of_heads_alone(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """Updates are HOT unless they begin a period of update times. Mutant: an index on update_time."""
    await accepted(postgres, *(caller.create(f"s{i}") for i in range(10)))
    await database.execute("vacuum session_heads")
    rounds = 30
    for _ in range(rounds):
        await accepted(postgres, *(caller.append(f"s{i}") for i in range(10)))

    async def counted() -> bool:
        updates: int = await database.fetchval(_UPDATES, "n_tup_upd")
        return updates >= 10 * rounds

    await until(counted)
    assert await database.fetchval(_UPDATES, "n_tup_hot_upd") >= 10 * rounds / 2


@pytest.mark.parametrize(("size", "optimistic", "append"), [(100, "on", 1), (5_000, "off", 5)])
async def test_writes_take_few_round_trips(
    emptied: SharedDatabase,
    monkeypatch: pytest.MonkeyPatch,
    caller: Caller,
    size: int,
    optimistic: Mode,
    append: int,
) -> None:
    """As many as statements: BEGIN, locks, look-ups, writes and COMMIT; one for an append of which the process knows
    the session. A content of the larger size is patched, one of the smaller size is read and stored whole. A pop also
    looks for legal holds and for the message, removes its content, locks the indexing of its session out, and removes
    the message from the index of searches.
    """
    async with PostgresStore(emptied.dsn, optimistic=optimistic) as store:
        found = await _round_trips(store, monkeypatch, caller, size)
    assert found == {**dict.fromkeys(found, 5), "append": append, "append of an id": append, "pop": 10}


async def _round_trips(
    postgres: PostgresStore, monkeypatch: pytest.MonkeyPatch, caller: Caller, size: int
) -> dict[str, int]:
    await accepted(postgres, caller.create("s", user_id="ann", state=struct(blob="x" * size)), caller.append("s"))
    sent = count_statements(monkeypatch)
    documents_of_three = [put(owner, "k") for owner in (APP, ANN, S)]
    along = caller.update_and_append("s", state=struct(a=1))
    assert isinstance(along.action, c.UpdateAndAppend)
    along = replace(along, action=replace(along.action, documents=documents_of_three))
    found = {}
    for name, command in {
        "append": caller.append("s"),
        "append with state": caller.update_and_append("s", state=struct(b=1)),
        "append with state and documents": along,
        "append of an id": caller.append_ids("s", "m"),
        "pop": caller.pop("s"),
        "update": _one_key(caller, 1),
    }.items():
        sent.clear()
        await accepted(postgres, command)
        found[name] = len(sent)
    return found


async def test_an_append_touches_no_index_row(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    await accepted(postgres, caller.create("s"))
    before = await database.fetchval("select (xmin, ctid)::text from sessions")
    await accepted(postgres, caller.append("s"), caller.touch("s", 0))
    assert await database.fetchval("select (xmin, ctid)::text from sessions") == before
    await accepted(postgres, caller.update("s", name="renamed"))
    assert await database.fetchval("select (xmin, ctid)::text from sessions") != before


async def test_a_batch_is_one_transaction(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    await accepted(postgres, *(caller.create(f"s{i}") for i in range(5)))
    await accepted(postgres, *(caller.append(f"s{i}", "one", "two") for i in range(5)))
    transactions = await database.fetch("select commit_xid, count(*) from events group by commit_xid order by count(*)")
    assert [row[1] for row in transactions] == [5, 10]


async def test_redacted_and_deleted_content_is_in_no_row(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    secret = "xyzzy-secret"
    await accepted(postgres, caller.create("kept", name=""), caller.append("kept", secret))
    await accepted(postgres, caller.append("kept", secret))
    page = await postgres.list_messages(caller.scope, "kept", after_seq=0, before_seq=0, descending=False, limit=9)
    for item in page.messages[:1]:
        await accepted(postgres, caller.redact("kept", message().FromString(item).message_id))
    await accepted(postgres, caller.delete_messages("kept", message().FromString(page.messages[1]).message_id))
    await accepted(postgres, caller.append("kept", secret), caller.trim("kept", 1, 100))
    fields: dict[str, Any] = {"name": secret, "metadata": struct(k=secret), "labels": {"k": secret}, "summary": secret}
    await accepted(postgres, caller.create("gone", **fields), caller.append("gone", secret))
    await accepted(postgres, caller.update("gone", summary=secret), caller.delete("gone"))
    for table in ("session_heads", "sessions", "events", "requests"):
        rows = await database.fetch(
            f"select t::text, t::text like '%' || $1 || '%' from {table} t", secret.encode().hex()
        )
        assert rows or table == "sessions"
        assert not any(row[1] or secret in row[0] for row in rows), table


async def test_the_checks_of_the_sweeper_are_not_moved_by_appends(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    await accepted(postgres, caller.create("s"))
    before = await database.fetchval("select expire_check_time from session_heads")
    assert before is not None
    await accepted(postgres, caller.append("s"))
    assert await database.fetchval("select expire_check_time from session_heads") == before
    await accepted(postgres, caller.end("s"))
    assert await database.fetchval("select expire_check_time from session_heads") is None


@pytest.mark.parametrize(
    ("optimistic", "hot"), [("on", ["write_if_unchanged"]), ("off", ["lock_heads", "look_up", "write_log"])]
)
async def test_hot_statements_are_planned_once(
    postgres_dsn: str, caller: Caller, optimistic: Mode, hot: Sequence[str]
) -> None:
    """Postgres plans anew for each call as long as that promises a cheaper plan, which for short arrays it always does.

    The first five calls are always planned. Planning the look-up of a batch of one costs more than running it. What a
    plan promises depends on the statistics of the tables: in a database of its own there are none of other tests.
    """
    async with PostgresStore(postgres_dsn, max_connections=1, optimistic=optimistic) as store:
        await accepted(store, caller.create("s"))
        for i in range(12):
            await accepted(store, caller.append_ids("s", f"m{i}"))
            for content in (True, False):
                await store.get_session(caller.scope, "s", content=content)
                await store.get_sessions(caller.scope, ["s"], content=content)
                await store.list_messages(caller.scope, "s", after_seq=0, before_seq=0, descending=content, limit=50)
            await store.get_message(caller.scope, "s", f"m{i}")
            await store.read_log(("tenant", "s"), after_seq=i, limit=50)
            await store.log_heads([("tenant", "s")])
            await store.read_feed("tenant", after=FeedPlace(i, "s", 1), limit=50)
            end = await store.feed_end("tenant")
            await store.find_lost("tenant", end)
        # A view of one's own connection, of which the store has but one.
        rows = await store._transactions.fetch("select statement, custom_plans from pg_prepared_statements")
    planned = {row["statement"]: row["custom_plans"] for row in rows}
    reads = ["get_core", "get_session", "get_cores", "get_sessions", "get_message"]
    reads += ["list_messages_ascending", "list_messages_descending"]
    texts = {name: WRITE[name].text for name in hot} | {name: READ[name].text for name in reads}
    texts |= {name: statement.text for name, statement in LOG.items()}
    assert {name: planned[text] for name, text in texts.items() if planned[text] > 5} == {}


async def test_a_run_costs_an_append_nothing(
    monkeypatch: pytest.MonkeyPatch, postgres: PostgresStore, caller: Caller
) -> None:
    """Not a statement more: neither its fence nor what is open in the session is looked up."""
    await accepted(postgres, caller.create("idle"), caller.create("busy"), caller.command("busy", begin("r1")))
    fence = c.Fence("r1", 2)
    await accepted(postgres, *(caller.command("busy", request(), fence=fence) for _ in range(10)))
    await accepted(postgres, caller.command("busy", begin("r2", ENQUEUE)))
    sent = count_statements(monkeypatch)
    await accepted(postgres, caller.append("idle"))
    idle = sent.copy()
    sent.clear()
    await accepted(postgres, caller.append("busy", fence=fence))
    assert sent == idle
    assert len(sent) == 1
    sent.clear()
    await accepted(postgres, caller.command("busy", c.HeartbeatRun(), fence=fence))
    assert len(sent) == 6  # and finds the run; writes the lease alone
    sent.clear()
    await accepted(postgres, caller.command("busy", finish(), fence=fence))
    assert len(sent) == 7  # and finds what is open; writes what has ended with it


def _one_key(caller: Caller, number: int) -> c.Command:
    state = Session(state=struct(**{f"key {number % 7}": f"value {number}"}))
    return caller.command("s", c.UpdateSession(state, ["state"], StructUpdate.STRUCT_UPDATE_SET_KEYS, full=False))


async def test_changes_of_one_key_write_what_they_change(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """50 of them, of a state of 100 KiB: the log, the rows and the indexes grow by less than 300 KiB in all."""
    values = {f"key {i}": TOOLS[i] * 8 for i in range(100)}
    await accepted(postgres, caller.create("s", state=struct(**values)))
    before = await _total(database)
    for number in range(50):
        await accepted(postgres, _one_key(caller, number))
    assert await _total(database) - before < 300 * 1024
    state = Session.FromString((await postgres.get_session(caller.scope, "s", content=True)).content).state
    assert {f"key {n % 7}": f"value {n}" for n in range(50)}.items() <= dict(state.items()).items()


async def _total(database: asyncpg.Connection) -> int:
    """Bytes of all tables and their indexes."""
    total: int = await database.fetchval(
        "select sum(pg_total_relation_size(oid)) from pg_class"
        " where relnamespace = 'public'::regnamespace and relkind = 'r'"
    )
    return total


async def test_a_change_of_one_key_reads_no_content(
    postgres: PostgresStore, monkeypatch: pytest.MonkeyPatch, caller: Caller
) -> None:
    """Mutant: an update whose answer has no content loads it."""
    await accepted(postgres, caller.create("s", state=struct(blob="x" * 500_000)))
    monkeypatch.setattr(documents, "LOOK_UP_ALL", "select content from no_such_table")
    for number in range(20):
        await accepted(postgres, _one_key(caller, number), caller.update_and_append("s", state=struct(b=number)))
    with pytest.raises(asyncpg.UndefinedTableError):
        await postgres.apply([caller.touch("s", 0)])


async def test_a_content_of_the_version_before_is_read_and_patched(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """Its heads have no sizes. A server of that version that runs beside this one keeps those of an older content."""
    await accepted(postgres, caller.create("s", state=struct(blob="x" * 5000)))
    await database.execute("update session_heads set content_sizes = null")
    await accepted(postgres, _one_key(caller, 0))
    stale = await database.fetchval("select content_sizes from session_heads")
    assert stale is not None
    await accepted(postgres, caller.update("s", state=struct(blob="y" * 9000)))
    await database.execute("update session_heads set content_sizes = $1", stale)
    for number in range(3):
        await accepted(postgres, _one_key(caller, number))
    state = Session.FromString((await postgres.get_session(caller.scope, "s", content=True)).content).state
    assert dict(state.items()) == {"blob": "y" * 9000, **{f"key {n}": f"value {n}" for n in range(3)}}
