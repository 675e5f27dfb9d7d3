"""Rows of a tenant that lives in another database are left alone by all that works on rows of all tenants."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import commands as c
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.domain.commands import Scope
from sessiond_server.errors import StorageUnavailable, StoreUnavailable
from sessiond_server.postgres import placement
from sessiond_server.postgres.blobs import PostgresBlobs
from sessiond_server.postgres.moving import copying, removal, switching
from sessiond_server.postgres.moving.record import MoveRefused
from sessiond_server.postgres.schema.tables import TABLES, UNMOVED
from sessiond_server.postgres.store import PostgresStore
from tests.support.caller import Caller, accepted, one
from tests.support.documents import ALL, alone, put
from tests.support.store_backend import Backend
from tests.support.stored_uploads import begun, declared, new_piece

ACME, GLOBEX = Caller(Scope("acme")), Caller(Scope("globex"))
TENANTS = (ACME, GLOBEX)


@pytest.fixture
async def eager(postgres_dsn: str, database: asyncpg.Connection) -> AsyncIterator[PostgresStore]:
    """A store that keeps nothing for any time."""
    await placement.claim(database, "main", "group", empty=False)
    none = timedelta(0)
    async with PostgresStore(
        postgres_dsn, request_retention=none, tombstone_retention=none, upload_retention=none
    ) as store:
        yield store


def _backend(store: PostgresStore) -> Backend:
    async def advance(seconds: float) -> None:
        raise AssertionError

    files, beside = store.attachments, (store.documents, store.erasures, store.retention, store.forks, store.imports)
    return Backend(store, store, store, files, files, *beside, store.templates, store.usage, store.usage, advance)


async def _leave(database: asyncpg.Connection, tenant_id: str) -> None:
    await switching.write_home(database, tenant_id, "eu")


async def _counts(database: asyncpg.Connection, tenant_id: str) -> dict[str, int]:
    return {
        table: await database.fetchval(f"select count(*) from {table} where tenant_id = $1", tenant_id)
        for table in await copying.tables(database)
    }


async def _fill(store: PostgresStore, database: asyncpg.Connection) -> None:
    """Something of each kind that is due to be removed or changed."""
    for caller in TENANTS:
        await accepted(store, caller.create("expires"))
        await accepted(store, caller.create("deleted"))
        await one(store, caller.command("deleted", c.DeleteSession()), c.SessionDeleted)
        await accepted(store, caller.create("files"))
        waits = ToolCall(tool_call_id="t", name="search", requires_approval=True)
        await accepted(store, caller.create("asks"), caller.command("asks", c.RequestToolCall(waits, 1)))
        for key in ("expired", "removed"):
            command = alone(put(ALL, key))
            await store.apply([c.Command(caller.scope, "", command.action, command.actor, command.request_id)])
    await database.execute("update session_heads set expire_check_time = now() where session_id = 'expires'")
    await database.execute("update documents set expire_time = now() where key = 'expired'")
    await database.execute("update documents set delete_time = now() - interval '1 s' where key = 'removed'")
    await database.execute("update session_heads set delete_time = now() - interval '1 s' where session_id = 'deleted'")
    piece, blob = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
    for caller in TENANTS:
        tenant = caller.scope.tenant_id
        await database.execute(
            "insert into uploads (tenant_id, session_id, attachment_id, blob_id, epoch, size_bytes, touch_time, body) "
            "values ($1, 'files', 'a', $2, 1, 5, now() - interval '1 s', '')",
            tenant,
            blob,
        )
        await database.execute(
            "insert into releases (tenant_id, blob_id, session_id, attachment_id) values ($1, $2, 'files', 'b')",
            tenant,
            blob,
        )
        await database.execute(
            "insert into pieces (tenant_id, piece_id, blob_id, start, drop_time) values ($1, $2, $3, 0, now())",
            tenant,
            piece,
            blob,
        )


async def _work(store: PostgresStore) -> None:
    """All work on rows of all tenants."""
    await store.expire_due(100)
    await store.purge(100)
    await store.attachments.abandon_uploads(100)
    await store.attachments.release_blobs(100)
    await store.attachments.forget_pieces(await store.attachments.dropped_pieces(100))


async def test_sweeper_and_reaper_leave_rows_of_a_tenant_alone_that_lives_elsewhere(
    eager: PostgresStore, database: asyncpg.Connection
) -> None:
    await _fill(eager, database)
    before = await _counts(database, "acme")
    await _leave(database, "acme")
    await _work(eager)
    assert await _counts(database, "acme") == before
    assert (
        await database.fetchval("select count(*) from documents where tenant_id = 'acme' and delete_time is null") == 1
    )
    waiting = await database.fetch("select tenant_id from tool_calls where awaits_approval")
    assert [tenant_id for (tenant_id,) in waiting] == ["acme"]
    other = await _counts(database, "globex")
    for table in ("uploads", "releases", "pieces", "requests"):
        assert other[table] == 0, table
    for table in ("session_heads", "documents", "document_requests"):
        assert other[table] < before[table], table


async def test_uploads_of_a_tenant_that_lives_elsewhere_are_refused(
    eager: PostgresStore, database: asyncpg.Connection
) -> None:
    backend = _backend(eager)
    await accepted(eager, ACME.create("s"))
    upload = await begun(backend, ACME, declared("a", b"12345"))
    before = await _counts(database, "acme")
    await _leave(database, "acme")
    attachments, scope = eager.attachments, ACME.scope
    for refused in (
        attachments.begin_upload(scope, "s", declared("b", b"1"), new_piece(ACME)),
        attachments.resume_upload(scope, upload, [], new_piece(ACME)),
        attachments.touch_upload(upload),
        attachments.discard_upload(scope, "s", "a", None),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            await refused
        assert caught.value.elsewhere
    assert await _counts(database, "acme") == before
    assert await database.fetchval("select epoch from uploads") == 1


async def test_bytes_of_a_tenant_that_lives_elsewhere_are_neither_orphans_nor_lost(
    eager: PostgresStore, database: asyncpg.Connection, postgres_dsn: str
) -> None:
    pieces = [Piece(each, "00000000-0000-4000-8000-000000000001") for each in ("acme", "globex")]
    async with PostgresBlobs(postgres_dsn) as blobs:
        for piece in pieces:
            await blobs.append(piece, 0, [b"12345"])
        await _leave(database, "acme")
        assert [piece async for piece in blobs.pieces()] == [pieces[1]]
        assert b"".join([bytes(data) async for data in blobs.read(pieces[0], 0, 5)]) == b"12345"
        await database.execute("delete from blob_rows")
        with pytest.raises(StorageUnavailable):
            [data async for data in blobs.read(pieces[0], 0, 5)]


async def test_old_rows_are_removed_and_rows_of_others_stay(
    monkeypatch: pytest.MonkeyPatch, eager: PostgresStore, database: asyncpg.Connection
) -> None:
    monkeypatch.setattr(removal, "AT_ONCE", 2)
    await _fill(eager, database)
    before = {each: await _counts(database, each) for each in ("acme", "globex")}
    await _leave(database, "acme")
    steps = [count async for count in removal.remove(database, "acme")]
    assert steps[-1] == sum(before["acme"].values())
    assert all(later - earlier <= 2 for earlier, later in zip([0, *steps], steps, strict=False))
    assert set((await _counts(database, "acme")).values()) == {0}
    assert await _counts(database, "globex") == before["globex"]


async def test_rows_of_a_tenant_that_lives_here_are_not_removed(
    eager: PostgresStore, database: asyncpg.Connection
) -> None:
    await _fill(eager, database)
    before = await _counts(database, "acme")
    with pytest.raises(MoveRefused):
        [count async for count in removal.remove(database, "acme")]
    await switching.write_home(database, "acme", "main")
    with pytest.raises(MoveRefused):
        [count async for count in removal.remove(database, "acme")]
    assert await _counts(database, "acme") == before


WHOLE = {
    "encryption_state": "of the database: which changes of keys its servers have to see",
    "feed_order": "of the database: how far the places of its feeds are ahead of its transaction ids",
    "placement": "of the database: its id",
    "service_keys": "of the database: the key of a tenant that moves is in its row of tenant_homes",
    **dict.fromkeys(
        ("search_buckets", "search_entries", "search_lease", "search_sessions"),
        "of the index, which is built anew where the tenant goes",
    ),
    "usage_lease": "of the database: which server counts there",
}
"""Tables whose rows have no tenant, and why they stay. All others have rows in tests/app/test_moved_contents.py."""


async def test_every_table_goes_with_its_tenant_or_is_known_not_to(database: asyncpg.Connection) -> None:
    """A row filter needs the tenant in the primary key."""
    moved = await copying.tables(database)
    for table in moved:
        columns = [row[0] for row in await database.fetch(removal.PRIMARY_KEY, table)]
        assert columns[:1] == ["tenant_id"], table
    assert set(moved) | UNMOVED | WHOLE.keys() == set(TABLES)
    assert not WHOLE.keys() & set(moved)


@pytest.mark.parametrize("ahead", [0, switching.AHEAD])
async def test_new_events_come_behind_those_of_a_server_whose_ids_are_higher(
    eager: PostgresStore, database: asyncpg.Connection, ahead: int
) -> None:
    await accepted(eager, GLOBEX.create("before"))
    place = await database.fetchval(switching.NEXT) + 3 * 2**32
    for _ in range(2):
        await switching.put_feed_behind(database, place, ahead)
        assert place + ahead <= await database.fetchval(switching.NEXT) < place + ahead + 2**32 + 1000
    await accepted(eager, GLOBEX.create("after"))
    assert await database.fetchval(switching.NEWEST, "globex") >= place + ahead
    assert await database.fetchval("select shift from feed_order") in (3 * 2**32, 4 * 2**32)


async def test_a_database_that_holds_data_of_the_tenant_is_refused_and_takes_writes_on(
    eager: PostgresStore, database: asyncpg.Connection
) -> None:
    await accepted(eager, ACME.create("s"))
    tables = await copying.tables(database)
    with pytest.raises(MoveRefused, match="holds data"):
        await switching.shut_target(database, "acme", "eu", b"key", tables)
    await accepted(eager, ACME.create("another"))
    await switching.shut_target(database, "globex", "eu", b"key", tables)
    (refused,) = (await eager.apply([GLOBEX.create("s")])).results
    assert isinstance(refused, StoreUnavailable)
    assert refused.elsewhere
    assert eager.homes.keys == {"globex": b"key"}
