"""Whatever a tenant has goes with it: every table has rows of it when it moves, and work that was half done is ended in
its new home. What is stored is encrypted, with a key of the tenant that moves too."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Any, Final

import pytest

from sessiond.v1.erasure_pb2 import ErasureState
from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import Session
from sessiond.v1.template_service_pb2 import Template
from sessiond_server import erasing
from sessiond_server.domain import commands as c
from sessiond_server.domain.sessions import rules as session_rules
from sessiond_server.domain.templates.rules import TemplateRequest
from sessiond_server.errors import ImportIncomplete
from sessiond_server.exports import files, receiving
from sessiond_server.postgres import forks as postgres_forks
from sessiond_server.postgres.blobs import PostgresBlobs
from sessiond_server.postgres.moving import copying
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.store.branches import BranchedCommits
from sessiond_server.store.contract import Store
from sessiond_server.store.retention import NewHold
from sessiond_server.store.usage import UsageQuery
from tests.support import rich_session
from tests.support.caller import DAY, Caller, accepted, one, texts
from tests.support.databases import Databases
from tests.support.documents import ANN, put, written
from tests.support.encryption import encryption
from tests.support.exported import Moves, whole
from tests.support.several_databases import Dsns, group
from tests.support.store_backend import Backend
from tests.support.stored_uploads import begun, declared
from tests.support.stores import composed
from tests.support.summaries import Scripted, Site
from tests.support.tenant_moves import contents, left_over, move
from tests.support.transactions import connected
from tests.support.wire import DirectWriter

TENANT: Final = "tenant"
ALWAYS: Final = UsageQuery(date.min, date.max, None, None, None, frozenset())
EMPTY: Final = {"move_marks": "has a row only while a move closes the source, and at the end of one"}
"""Tables that have no row of the tenant before the move, and why."""


@pytest.fixture
def dsns(databases: Databases) -> Iterator[Dsns]:
    made = {each: databases.create_migrated() for each in ("main", "eu", "us")}
    group(made, {TENANT: "eu"})
    yield made
    for dsn in made.values():
        databases.drop(dsn)


@asynccontextmanager
async def backend_of(dsn: str) -> AsyncIterator[tuple[Backend, PostgresBlobs]]:
    async def never(seconds: float) -> None:
        raise AssertionError("the clock of this database cannot be moved")

    async with PostgresStore(dsn, encryption=encryption()) as store, PostgresBlobs(dsn) as blobs:
        await store.ping()
        files, usage = store.attachments, store.usage
        yield (
            Backend(
                store=store,
                other=store,
                work=store,
                attachments=files,
                other_attachments=files,
                imports=store.imports,
                templates=store.templates,
                usage=usage,
                counting=usage,
                advance=never,
                dsn=dsn,
                documents=store.documents,
                erasures=store.erasures,
                forks=store.forks,
                retention=store.retention,
            ),
            blobs,
        )


def with_branches(backend: Backend) -> Store:
    return composed(backend.store, BranchedCommits(backend.store, backend.forks), backend.store)


def site_of(backend: Backend) -> Site:
    assert isinstance(backend.store, PostgresStore)
    return Site(backend.store, Scripted())


async def fill(backend: Backend, blobs: PostgresBlobs, caller: Caller) -> list[Any]:
    """Something in every table, much of it work that is half done. Returns the records of the unfinished import."""
    branched, store = with_branches(backend), backend.store
    await rich_session.made(backend, caller, blobs)
    await backend.counting.count()
    await accepted(store, caller.create("uncounted"), caller.append("uncounted", "counted after its end"))
    await accepted(store, caller.delete("uncounted"))
    await begun(backend, caller, declared("half"))
    template = Template(template_id="t", session=Session(name="Draft"))
    await backend.templates.put_template(caller.scope, template, 0, TemplateRequest("r-template", b"same"))
    await written(store, put(ANN, "likes"), "r-document")
    await one(branched, caller.fork("s", "early", seq=3), c.SessionWritten)
    # A redaction whose process ends before the fork is told, and a deletion whose first step is yet to come.
    await accepted(branched, caller.create("p"), caller.append_ids("p", *(f"m{n}" for n in range(30))))
    for name, place in (("a", 5), ("b", 25)):
        await one(branched, caller.fork("p", name, seq=place), c.SessionWritten)
    await accepted(branched, caller.create("q"), caller.append_ids("q", "secret"))
    await one(branched, caller.fork("q", "shows"), c.SessionWritten)
    await one(store, caller.redact("q", "secret", "why", request_id="r-redaction"), c.MessageRedacted)
    await one(store, caller.delete("p", request_id="r-deletion"), c.SessionDeleted)
    await accepted(store, caller.create("anns", user_id="ann"), caller.append("anns", "of ann"))
    await backend.erasures.begin_erasure(caller.scope, "ann", "r-erasure")
    claim = await backend.erasures.claim_erasure(0.001)
    assert claim is not None
    assert await backend.erasures.sessions_to_erase(claim, 10) == ["anns"]
    hold = NewHold("early", "", "asked for", "test", "r-hold")
    await backend.retention.place_hold(caller.scope, hold)
    await backend.retention.set_policy(caller.scope, 90 * DAY, "test")
    site = site_of(backend)
    await site.follow()
    await accepted(store, caller.create("due"), caller.append("due", *"abcdef"))
    await site.follow()
    moves = Moves(backend, backend, blobs)
    records = await moves.records(caller.scope, "s")
    large = max(range(len(records)), key=lambda n: records[n].ByteSize())
    with pytest.raises(ImportIncomplete):
        await moves.receive(caller.scope, records, "imported", ends_at=large + 1)
    return records


async def seen(backend: Backend, caller: Caller) -> dict[str, Any]:
    """What callers read of the sessions."""
    shown: dict[str, Any] = {}
    for name in ("s", "early", "a", "b", "q", "shows", "anns", "due"):
        page = await backend.store.list_messages(
            caller.scope, name, after_seq=0, before_seq=0, descending=False, limit=100
        )
        shown[name] = await whole(backend, caller.scope, name), page.messages
    for name in ("s", "q"):
        shown[f"forks of {name}"] = await backend.forks.list_forks(caller.scope, name, after=None, limit=10)
    shown["erasure"] = await backend.erasures.get_erasure(caller.scope, "ann")
    shown["template"] = await backend.templates.get_template(caller.scope, "t")
    shown["policy"] = await backend.retention.get_policy(caller.scope)
    shown["usage"] = (await backend.usage.get_usage(caller.scope, ALWAYS, after=None, limit=10)).rows
    shown["document"] = await backend.documents.get_documents(caller.scope, [(*ANN, "likes")])
    return shown


@pytest.mark.long
async def test_rows_of_every_table_move_and_half_done_work_is_ended_in_the_new_home(
    dsns: Dsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (session_rules, postgres_forks):
        monkeypatch.setattr(module, "HIDDEN_AT_ONCE", 7)
    monkeypatch.setattr(receiving, "BATCH_EVENTS", 3)
    monkeypatch.setattr(files, "PIECE_BYTES", 300_000)
    caller = Caller()
    async with backend_of(dsns["eu"]) as (backend, blobs):
        records = await fill(backend, blobs, caller)
        before = await seen(backend, caller)
    stored = await contents(dsns["eu"], TENANT)
    async with connected(dsns["eu"]) as connection:
        assert set(await copying.tables(connection)) - stored.keys() == EMPTY.keys()
    await move(dsns, TENANT, "eu", "us")
    assert await contents(dsns["us"], TENANT) == stored
    assert await contents(dsns["eu"], TENANT) == {}
    assert await left_over(dsns) == []
    async with backend_of(dsns["us"]) as (backend, blobs):
        assert await seen(backend, caller) == before
        await _end_what_is_half_done(backend, blobs, caller, records)


async def _end_what_is_half_done(backend: Backend, blobs: PostgresBlobs, caller: Caller, records: list[Any]) -> None:
    branched = with_branches(backend)
    assert not await backend.forks.end_spreads(TENANT)
    await branched.expire_due(10)
    assert await backend.forks.end_spreads(TENANT)
    assert await backend.forks.hide(TENANT)
    assert not Message.FromString((await branched.get_message(caller.scope, "shows", "secret"))[1]).parts
    page = await branched.list_messages(caller.scope, "b", after_seq=0, before_seq=0, descending=False, limit=100)
    assert len(texts(page.messages)) == 24
    while await erasing.erase_one(backend.erasures, DirectWriter(branched)):
        continue
    assert (await backend.erasures.get_erasure(caller.scope, "ann")).state == ErasureState.ERASURE_STATE_DONE
    site = site_of(backend)
    assert await site.work() == 1
    assert [each.text for each in await site.summaries(caller.scope, "due")] == ["6 messages"]
    done, line = await Moves(backend, backend, blobs).receive(caller.scope, records, "imported")
    assert (done.already_there, line > 1) == (False, True)
    assert await whole(backend, caller.scope, "imported") == await whole(backend, caller.scope, "s")
    again = await one(branched, caller.redact("q", "secret", "why", request_id="r-redaction"), c.MessageRedacted)
    assert Message.FromString(again.message).message_id == "secret"
