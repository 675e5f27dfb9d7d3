"""The store with encryption, over a real database: what is in its rows, who can read them, and how keys come and go."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server.domain.commands import Scope
from sessiond_server.encryption.envelope import NotAuthentic
from sessiond_server.encryption.wrapping import CannotUnwrap
from sessiond_server.errors import (
    InvalidFields,
    SessiondError,
    SessionEnded,
    TenantKeyDestroyed,
    TenantKeyUnavailable,
)
from sessiond_server.postgres.reencrypting import reencrypt
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.postgres.tenant_keys import PostgresKeyAdmin
from tests.support.caller import Caller, accepted, struct
from tests.support.encryption import encryption, local_keys
from tests.support.rows import table
from tests.support.shared_database import SharedDatabase
from tests.support.waiting import until

ANY = SessionOrder.SESSION_ORDER_UNSPECIFIED


@asynccontextmanager
async def opened(emptied: SharedDatabase, *names: str, seals: bool = True) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(emptied.dsn, max_connections=4, encryption=encryption(*names, seals=seals)) as store:
        yield store


@asynccontextmanager
async def rows_of(emptied: SharedDatabase) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(emptied.dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def texts(store: PostgresStore, caller: Caller, session_id: str = "s") -> bytes:
    """All messages of a session, serialised."""
    page = await store.list_messages(caller.scope, session_id, after_seq=0, before_seq=0, descending=False, limit=100)
    return b"".join(page.messages)


def admin(store: PostgresStore, *names: str) -> PostgresKeyAdmin:
    return PostgresKeyAdmin(store.unopened, local_keys(*names))


async def test_a_row_of_another_place_is_never_read(emptied: SharedDatabase) -> None:
    """Whoever can write to the database cannot make the service show one's rows to another."""
    acme, globex = Caller(Scope("acme")), Caller(Scope("globex"))
    events = (
        "update events e set body = o.body from events o where (e.tenant_id, e.session_id, e.seq) = ('acme', 's', 2)"
    )
    heads = (
        "update session_heads h set core = o.core from session_heads o"
        " where (h.tenant_id, h.session_id) = ('acme', 's')"
    )
    bodies = {
        "of another tenant": f"{events} and (o.tenant_id, o.session_id, o.seq) = ('globex', 's', 2)",
        "of another session": f"{events} and (o.tenant_id, o.session_id, o.seq) = ('acme', 't', 2)",
        "of another seq": f"{events} and (o.tenant_id, o.session_id, o.seq) = ('acme', 's', 3)",
        "changed": "update events set body = set_byte(body, 60, get_byte(body, 60) # 1) where seq = 2",
    }
    cores = {
        "head of another tenant": f"{heads} and (o.tenant_id, o.session_id) = ('globex', 's')",
        "head of another session": f"{heads} and (o.tenant_id, o.session_id) = ('acme', 't')",
    }
    async with opened(emptied) as store, rows_of(emptied) as connection:
        for caller, name in ((acme, "s"), (acme, "t"), (globex, "s")):
            await accepted(store, caller.create(name))
            await accepted(store, caller.append(name, f"words of {caller.scope.tenant_id} {name}", "second"))
        await connection.execute("create temporary table good_events as select * from events")
        await connection.execute("create temporary table good_heads as select * from session_heads")
        with table() as rows:
            for name, statement in (bodies | cores).items():
                with rows.row(name):
                    await connection.execute(statement)
                    if name in bodies:
                        with pytest.raises(NotAuthentic):
                            await texts(store, acme)
                        with pytest.raises(NotAuthentic):
                            await store.read_log(("acme", "s"), after_seq=0, limit=10)
                    else:
                        with pytest.raises(NotAuthentic):
                            await store.get_session(acme.scope, "s", content=False)
                        # Nor is anything written on top of it, in one batch with an unharmed session.
                        with pytest.raises(NotAuthentic):
                            await store.apply([acme.append("s", "more"), globex.append("s", "more")])
                await connection.execute(
                    "update events e set body = g.body from good_events g where (e.tenant_id, e.session_id, e.seq)"
                    " = (g.tenant_id, g.session_id, g.seq)"
                )
                await connection.execute(
                    "update session_heads h set core = g.core from good_heads g where (h.tenant_id, h.session_id)"
                    " = (g.tenant_id, g.session_id)"
                )
        assert b"words of acme s" in await texts(store, acme)


async def test_names_and_metadata_are_not_in_the_index(emptied: SharedDatabase) -> None:
    caller = Caller(Scope("acme"))
    async with opened(emptied) as store, rows_of(emptied) as connection:
        await accepted(store, caller.create("s", name="Secret Plan", metadata=struct(colour="mauve", n=1)))
        await accepted(store, caller.create("t", metadata=struct(colour="blue")))
        row = await connection.fetchrow("select name, name_folded, metadata from sessions where session_id = 's'")
        assert row[:2] == ("", "")
        assert "mauve" not in row[2]
        assert "colour" not in row[2]

        async def found(**where: Any) -> list[str]:
            page = await store.list_sessions(
                caller.scope, SessionFilter(**where), ANY, after=None, limit=10, content=False
            )
            return [snapshot.core for snapshot in page.sessions]  # type: ignore[misc]

        assert len(await found(metadata=struct(colour="mauve"))) == 1
        assert len(await found(metadata=struct(n=1.0))) == 1
        assert await found(metadata=struct(colour="Mauve")) == []
        assert await store.count_sessions(caller.scope, SessionFilter(metadata=struct(colour="blue"))) == 1
        assert b"Secret Plan" in (await store.get_session(caller.scope, "s", content=False)).core
        with pytest.raises(InvalidFields, match=r"filter\.name_contains"):
            await found(name_contains="plan")
        with pytest.raises(InvalidFields, match="order_by"):
            await store.list_sessions(
                caller.scope, SessionFilter(), SessionOrder.SESSION_ORDER_NAME_ASC, after=None, limit=1, content=False
            )


async def test_a_database_in_the_clear_is_encrypted_while_it_is_used(emptied: SharedDatabase) -> None:
    caller = Caller(Scope("acme"))
    async with PostgresStore(emptied.dsn, max_connections=4) as clear:
        await accepted(clear, caller.create("s", name="Secret", metadata=struct(a="mauve"), state=struct(b="mauve")))
        await accepted(clear, caller.append("s", "mauve one", request_id="first"))
        await accepted(clear, Caller(Scope("globex")).create("s", name="mauve"))
    async with opened(emptied) as store, rows_of(emptied) as connection:
        # Both kinds of rows are read; a retry of a write in the clear finds its record.
        await accepted(store, caller.append("s", "mauve two"))
        await accepted(store, caller.append("s", "mauve one", request_id="first"))
        assert (await texts(store, caller)).count(b"mauve") == 2
        assert store.keyring is not None
        steps = [progress async for progress in reencrypt(store.unopened, store.keyring)]
        assert {step.tenant_id for step in steps} == {"acme", "globex"}
        assert sum(step.encrypted for step in steps) > 5
        for name in ("events", "session_heads", "sessions", "requests"):
            assert "mauve" not in str(await connection.fetch(f"select * from {name}"))
            assert "Secret" not in str(await connection.fetch(f"select * from {name}"))
        assert (await texts(store, caller)).count(b"mauve") == 2
        await accepted(store, caller.append("s", "mauve one", request_id="first"))
        snapshot = await store.get_session(caller.scope, "s", content=True)
        assert b"Secret" in snapshot.core
        assert b"mauve" in snapshot.content
        where = SessionFilter(metadata=struct(a="mauve"))
        assert await store.count_sessions(caller.scope, where) == 1
        # What is encrypted is left alone.
        assert sum(s.encrypted for s in [p async for p in reencrypt(store.unopened, store.keyring)]) == 0


async def test_servers_that_do_not_encrypt_yet_read_what_others_have_encrypted(emptied: SharedDatabase) -> None:
    caller = Caller(Scope("acme"))
    async with opened(emptied) as store, opened(emptied, seals=False) as other, rows_of(emptied) as connection:
        await accepted(other, caller.create("s"))
        await accepted(store, caller.append("s", "one"))
        await accepted(other, caller.append("s", "two"))
        assert b"two" in await texts(store, caller)
        assert b"one" in await texts(other, caller)
        assert b"two" in await connection.fetchval("select body from events where seq = 3")


async def test_data_keys_rotate_while_the_service_runs(emptied: SharedDatabase) -> None:
    caller = Caller(Scope("acme"))
    async with opened(emptied) as store, opened(emptied) as other, rows_of(emptied) as connection:
        await accepted(store, caller.create("s"))
        await accepted(store, caller.append("s", "old"))
        assert b"old" in await texts(other, caller)
        key_id = await admin(store).add("acme")
        await admin(store).activate("acme", key_id)
        await until(lambda: store.keyring is not None and store.keyring.known("acme") is None)
        await accepted(store, caller.append("s", "new"))
        # Another server that has not looked yet learns of the key by its id.
        assert b"new" in await texts(other, caller)
        assert b"old" in await texts(other, caller)
        by = await connection.fetchval("select substring(body from 5 for 8) from events where seq = 3")
        assert int.from_bytes(by, "big") == key_id
        assert store.keyring is not None
        assert sum(s.encrypted for s in [p async for p in reencrypt(store.unopened, store.keyring)]) > 0
        assert {row[0] for row in await connection.fetch("select substring(body from 5 for 8) from events")} == {by}
        assert b"old" in await texts(other, caller)


async def test_a_new_key_encryption_key_takes_over(emptied: SharedDatabase) -> None:
    caller = Caller(Scope("acme"))
    async with opened(emptied, "old") as store:
        await accepted(store, caller.create("s"))
        await accepted(store, caller.append("s", "words"))
    async with opened(emptied, "new") as store:
        assert store.keyring is not None
        with pytest.raises(CannotUnwrap, match="old"):
            await store.keyring.check(await store.keys_in_use())
        with pytest.raises(TenantKeyUnavailable):
            await texts(store, caller)
        (refused,) = (await store.apply([caller.append("s", "more")])).results
        assert isinstance(refused, TenantKeyUnavailable)
        # Another tenant of the same batch is served.
        results = (await store.apply([caller.append("s", "more"), Caller(Scope("globex")).create("g")])).results
        assert [isinstance(result, SessiondError) for result in results] == [True, False]
    async with opened(emptied, "new", "old") as store:
        assert [done async for done in admin(store, "new", "old").rewrap()] == [1]
        assert [done async for done in admin(store, "new", "old").rewrap()] == []
    async with opened(emptied, "new") as store:
        assert store.keyring is not None
        await store.keyring.check(await store.keys_in_use())
        assert b"words" in await texts(store, caller)
        assert b"more" not in await texts(store, caller)


async def test_a_shredded_tenant_is_gone_for_good_and_others_stay(emptied: SharedDatabase) -> None:
    caller, other = Caller(Scope("acme")), Caller(Scope("globex"))
    async with opened(emptied) as store, rows_of(emptied) as connection:
        for each in (caller, other):
            session = each.create("s")
            await accepted(store, session)
            await accepted(store, each.append("s", "words"))
        await admin(store).shred("acme")
        await until(lambda: store.keyring is not None and store.keyring.known("acme") is None)
        reads: dict[str, Callable[[], Awaitable[object]]] = {
            "session": lambda: store.get_session(Scope("acme"), "s", content=True),
            "messages": lambda: texts(store, caller),
            "log": lambda: store.read_log(("acme", "s"), after_seq=0, limit=10),
        }
        with table() as rows:
            for name, read in reads.items():
                with rows.row(name), pytest.raises(TenantKeyDestroyed):
                    await read()
        results = (await store.apply([caller.append("s", "more"), other.append("s", "more")])).results
        assert isinstance(results[0], TenantKeyDestroyed)
        assert not isinstance(results[1], SessiondError)
        assert b"more" in await texts(store, other)
        assert await connection.fetchval("select count(*) from tenant_keys where wrapped is not null") == 1
        # The sweeper goes on with the others.
        await emptied.advance(10 * 86_400)
        await store.expire_due(100)
        (late,) = (await store.apply([other.append("s", "late")])).results
        assert isinstance(late, SessionEnded)
        assert not [done async for done in admin(store).rewrap()]
        # A server without keys would hand out noise: there is something by which it knows.
        await admin(store).shred("globex")
        assert [key.wrapped for key in await store.keys_in_use()] == [None]


async def test_a_tenant_in_the_clear_can_be_shredded(emptied: SharedDatabase) -> None:
    caller = Caller(Scope("acme"))
    async with PostgresStore(emptied.dsn, max_connections=4) as clear:
        await accepted(clear, caller.create("s"))
    async with opened(emptied) as store:
        await admin(store).shred("acme")
        with pytest.raises(TenantKeyDestroyed):
            await store.get_session(Scope("acme"), "s", content=False)
