"""Erasures of users over every store: how they begin, who may work on them, and what they remove."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import asyncpg
import pytest

from sessiond.v1.erasure_pb2 import ErasureState
from sessiond_server import erasing
from sessiond_server.domain.commands import Command, Outcome, Scope
from sessiond_server.domain.rows import Key
from sessiond_server.errors import ErasureNotFound, StoreUnavailable
from sessiond_server.postgres.schema.tables import TABLES
from sessiond_server.store.commits import Commits
from tests.support.caller import Caller, accepted, struct
from tests.support.documents import ALL, ANN, SESSION, USER, keys, page, put, read, written
from tests.support.store_backend import Backend
from tests.support.wire import DirectWriter

EVERYONE = Scope("tenant")
RUNNING, DONE = ErasureState.ERASURE_STATE_RUNNING, ErasureState.ERASURE_STATE_DONE
MARKER = "zebrafish"
OTHERS = ((USER, "bob"), ALL, (SESSION, "bobs"))


class KilledWriter:
    """Applies so many commands, and then fails as if the process had been killed."""

    def __init__(self, commits: Commits, commands: int) -> None:
        self._direct = DirectWriter(commits)
        self._left = commands

    async def write(self, command: Command) -> Outcome:
        if not self._left:
            raise StoreUnavailable
        self._left -= 1
        return await self._direct.write(command)


async def fill(backend: Backend, names: Sequence[str] = ("a", "b", "c")) -> None:
    """Three sessions of ann, each with a message and a document, and a document of ann. Of the sessions the first is
    ended and the second deleted."""
    ann, store = Caller(), backend.store
    for name in names:
        labels, metadata = {"k": MARKER}, struct(k=MARKER)
        await accepted(
            store, ann.create(name, user_id="ann", name=MARKER, summary=MARKER, metadata=metadata, labels=labels)
        )
        await accepted(store, ann.append(name, MARKER))
        await written(store, put((SESSION, name), MARKER, f'"{MARKER}"'))
    await accepted(store, ann.end(names[0]))
    await accepted(store, ann.delete(names[1]))
    await written(store, put(ANN, MARKER, f'"{MARKER}"', labels={"k": MARKER}), "r-ann")


async def fill_others(backend: Backend) -> None:
    """A session of bob with a document, and documents of bob and of the tenant."""
    await accepted(backend.store, Caller().create("bobs", user_id="bob"))
    for owner in OTHERS:
        await written(backend.store, put(owner, "kept"), "r-other")


async def erase(backend: Backend) -> None:
    assert await erasing.erase_one(backend.erasures, DirectWriter(backend.store))


async def test_an_erasure_removes_all_that_the_user_has_and_nothing_else(backend: Backend) -> None:
    await fill(backend)
    await fill_others(backend)
    begun = await backend.erasures.begin_erasure(EVERYONE, "ann", "r1")
    assert (begun.user_id, begun.state, begun.HasField("end_time")) == ("ann", RUNNING, False)
    await erase(backend)
    ended = await backend.erasures.get_erasure(EVERYONE, "ann")
    # Two live sessions; three names of their documents, one document of the user and its request.
    assert (ended.state, ended.session_count, ended.document_count) == (DONE, 2, 5)
    assert ended.erasure_id == begun.erasure_id
    assert ended.end_time.ToNanoseconds() >= ended.create_time.ToNanoseconds() == begun.create_time.ToNanoseconds()
    found = await backend.store.get_sessions(EVERYONE, ["a", "b", "c", "bobs"], content=False)
    assert [each is not None for each in found] == [False, False, False, True]
    assert not (await page(backend.documents, ANN)).documents
    for owner in OTHERS:
        assert keys((await page(backend.documents, owner)).documents) == ["kept"]
    # The name goes on from nothing, and so does the request id.
    change = await written(backend.store, put(ANN, MARKER), "r-ann")
    assert change.version == 1
    assert not await erasing.erase_one(backend.erasures, DirectWriter(backend.store))


async def test_nothing_that_a_user_wrote_is_in_any_row_after_an_erasure(backend: Backend) -> None:
    if backend.dsn is None:
        pytest.skip("rows are Postgres'")
    connection = await asyncpg.connect(backend.dsn)
    try:
        await fill(backend)
        await accepted(backend.store, Caller().fork("c", "fork", seq=2))
        assert await places(connection) >= {"events", "sessions", "documents", "session_heads"}
        await backend.erasures.begin_erasure(EVERYONE, "ann", "")
        await erase(backend)
        assert await places(connection) == set()
    finally:
        await connection.close()


async def places(connection: asyncpg.Connection) -> set[str]:
    """The tables with a row in which the marker is, as text or in bytes."""
    found = set()
    for table in TABLES:
        text, coded = MARKER, MARKER.encode().hex()
        query = f"select count(*) from {table} t where t::text like $1 or t::text like $2"
        if await connection.fetchval(query, f"%{text}%", f"%{coded}%"):
            found.add(table)
    return found


async def test_the_report_of_an_erasure_counts_what_it_removed(backend: Backend) -> None:
    await fill(backend)
    await backend.erasures.begin_erasure(EVERYONE, "ann", "r1")
    assert not (await backend.erasures.get_erasure(EVERYONE, "ann")).HasField("report")
    claim = await backend.erasures.claim_erasure(60)
    assert claim is not None
    assert set(await backend.erasures.sessions_to_erase(claim, 10)) == {"a", "c"}
    # A server is killed behind the first deletion; another one goes on, and counts what that one had deleted.
    await accepted(backend.store, Caller().delete("a"))
    await backend.advance(61)
    await erase(backend)
    ended = await backend.erasures.get_erasure(EVERYONE, "ann")
    assert (ended.state, ended.session_count) == (DONE, 2)
    report = json.loads(ended.report.json)
    digest = hashlib.sha256(b"a\nc\n").hexdigest()
    # a: created, message, document, end; c: the first three.
    removed = {"sessions": 2, "events": 7, "messages": 2, "attachments": 0, "attachment_bytes": 0, "document_rows": 5}
    assert (report.pop("removed"), report.pop("session_ids_sha256")) == (removed, digest)
    times = [datetime.fromisoformat(report.pop(name)) for name in ("begin_time", "end_time")]
    assert times[0] <= times[1]
    assert report == {
        "format": "sessiond-erasure-report-1",
        "tenant_id": "tenant",
        "erasure_id": ended.erasure_id,
        "user_id": "ann",
    }
    # The next one has a report of its own.
    await backend.erasures.begin_erasure(EVERYONE, "ann", "r2")
    assert not (await backend.erasures.get_erasure(EVERYONE, "ann")).HasField("report")
    await erase(backend)
    empty = json.loads((await backend.erasures.get_erasure(EVERYONE, "ann")).report.json)
    assert empty["session_ids_sha256"] == hashlib.sha256().hexdigest()
    assert set(empty["removed"].values()) == {0}


async def test_erasures_are_listed_by_user(backend: Backend) -> None:
    erasures = backend.erasures
    for tenant, user in (("tenant", "ann"), ("tenant", "bob"), ("other", "cyd"), ("tenant", "dan")):
        await erasures.begin_erasure(Scope(tenant), user, "")
    await erase(backend)

    async def listed(scope: Scope, after: str = "", limit: int = 9) -> tuple[list[str], str]:
        page = await erasures.list_erasures(scope, after=after, limit=limit)
        assert not any(each.HasField("report") for each in page.erasures)
        return [each.user_id for each in page.erasures], page.next_user_id

    assert await listed(EVERYONE) == (["ann", "bob", "dan"], "")
    assert await listed(EVERYONE, limit=2) == (["ann", "bob"], "bob")
    assert await listed(EVERYONE, after="bob", limit=2) == (["dan"], "")
    assert await listed(Scope("tenant", "bob")) == (["bob"], "")
    assert await listed(Scope("tenant", "eve")) == ([], "")


async def test_an_erasure_that_is_under_way_is_the_answer_to_another_request(backend: Backend) -> None:
    erasures = backend.erasures
    first = await erasures.begin_erasure(EVERYONE, "ann", "r1")
    assert await erasures.begin_erasure(EVERYONE, "ann", "r2") == first
    assert await erasures.begin_erasure(EVERYONE, "ann", "") == first
    assert (await erasures.begin_erasure(EVERYONE, "bob", "r1")).erasure_id != first.erasure_id
    assert (await erasures.begin_erasure(Scope("other"), "ann", "r1")).erasure_id != first.erasure_id
    with pytest.raises(ErasureNotFound):
        await erasures.get_erasure(Scope("another"), "ann")


async def test_a_retry_after_the_end_finds_the_same_erasure_and_another_request_begins_a_new_one(
    backend: Backend,
) -> None:
    erasures = backend.erasures
    first = await erasures.begin_erasure(EVERYONE, "ann", "r1")
    await erase(backend)
    assert (await erasures.begin_erasure(EVERYONE, "ann", "r1")).erasure_id == first.erasure_id
    assert (await erasures.get_erasure(EVERYONE, "ann")).state == DONE
    await fill(backend, ("d", "e", "f"))
    second = await erasures.begin_erasure(EVERYONE, "ann", "r2")
    assert (second.erasure_id != first.erasure_id, second.state, second.session_count) == (True, RUNNING, 0)
    assert not second.HasField("end_time")
    await erase(backend)
    assert (await erasures.get_erasure(EVERYONE, "ann")).session_count == 2


@pytest.mark.parametrize("commands", [0, 1])
async def test_another_server_goes_on_where_one_was_killed(backend: Backend, commands: int) -> None:
    await fill(backend)
    await backend.erasures.begin_erasure(EVERYONE, "ann", "")
    with pytest.raises(StoreUnavailable):
        await erasing.erase_one(backend.erasures, KilledWriter(backend.store, commands))
    assert await backend.erasures.claim_erasure(60) is None
    await backend.advance(erasing.CLAIM_SECONDS + 1)
    await erase(backend)
    ended = await backend.erasures.get_erasure(EVERYONE, "ann")
    assert (ended.state, ended.session_count) == (DONE, 2)
    assert await backend.store.get_sessions(EVERYONE, ["a", "c"], content=False) == [None, None]


async def test_cache_is_told_of_what_an_earlier_claim_deleted(backend: Backend) -> None:
    """The server may have been killed between its commit and the cache."""
    await fill(backend)
    await backend.erasures.begin_erasure(EVERYONE, "ann", "")
    with pytest.raises(StoreUnavailable):
        await erasing.erase_one(backend.erasures, KilledWriter(backend.store, 1))
    await backend.advance(erasing.CLAIM_SECONDS + 1)
    told: dict[Key, int] = {}

    async def forget(versions: Mapping[Key, int]) -> None:
        told.update(versions)

    assert await erasing.erase_one(backend.erasures, DirectWriter(backend.store), forget)
    ((key, version),) = told.items()
    page = await backend.store.read_log(key, after_seq=0, limit=1)
    assert (page.head.deleted, page.head.version) == (True, version)
    assert (await backend.erasures.get_erasure(EVERYONE, "ann")).state == DONE


class Mortal:
    """Passes calls on to several things, and dies before or behind the one with this number, as killed servers do."""

    def __init__(self, step: int, *, behind: bool) -> None:
        self._left = step
        self._behind = behind

    def around(self, target: Any) -> Any:
        outer = self

        class Around:
            def __getattr__(self, name: str) -> Any:
                async def call(*arguments: Any, **named: Any) -> Any:
                    outer._left -= 1
                    if not outer._left and not outer._behind:
                        raise StoreUnavailable
                    result = await getattr(target, name)(*arguments, **named)
                    if not outer._left:
                        raise StoreUnavailable
                    return result

                return call

        return Around()


@pytest.mark.parametrize("behind", [False, True])
async def test_an_erasure_that_is_killed_at_any_step_removes_and_reports_the_same(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    monkeypatch.setattr(erasing, "SESSIONS", 1)
    monkeypatch.setattr(erasing, "NAMED", 1)
    erasures, direct, caller = backend.erasures, DirectWriter(backend.store), Caller()
    step, survived = 0, False
    while not survived:
        step += 1
        user = f"user-{step}"
        names = [f"{user}-{name}" for name in "abc"]
        for name in names:
            await accepted(backend.store, caller.create(name, user_id=user), caller.append(name))
            await written(backend.store, put((SESSION, name), "d"))
        await accepted(backend.store, caller.delete(names[2]))
        await written(backend.store, put((USER, user), "d"), f"r-{user}")
        await erasures.begin_erasure(EVERYONE, user, "")
        mortal = Mortal(step, behind=behind)
        survived = True
        try:
            await erasing.erase_one(mortal.around(erasures), mortal.around(direct))
        except StoreUnavailable:
            survived = False
            await backend.advance(erasing.CLAIM_SECONDS + 1)
            while await erasing.erase_one(erasures, direct):
                pass
        ended = await erasures.get_erasure(EVERYONE, user)
        report = json.loads(ended.report.json)
        assert (ended.state, report["removed"]) == (
            DONE,
            {"sessions": 2, "events": 6, "messages": 2, "attachments": 0, "attachment_bytes": 0, "document_rows": 5},
        ), step
        digest = hashlib.sha256("".join(f"{name}\n" for name in names[:2]).encode()).hexdigest()
        assert report["session_ids_sha256"] == digest
        assert await backend.store.get_sessions(EVERYONE, names, content=False) == [None] * 3
        assert not (await page(backend.documents, (USER, user))).documents
    assert step > 10


async def test_a_claim_that_another_one_has_followed_changes_nothing(backend: Backend) -> None:
    await fill(backend)
    await backend.erasures.begin_erasure(EVERYONE, "ann", "")
    late = await backend.erasures.claim_erasure(60)
    assert late is not None
    await backend.advance(61)
    held = await backend.erasures.claim_erasure(60)
    assert held == replace(late, number=late.number + 1)
    assert not await backend.erasures.erase_documents(late, 10)
    assert not await backend.erasures.advance_erasure(late, 60, sessions=5, done=True)
    assert await read(backend.documents, ANN, MARKER) is not None
    assert (await backend.erasures.get_erasure(EVERYONE, "ann")).session_count == 0
    assert await backend.erasures.sessions_to_erase(held, 1) == ["a"]
    assert await backend.erasures.advance_erasure(held, 60, sessions=5, done=False)
    assert await backend.erasures.claim_erasure(60) is None


async def test_documents_are_removed_in_steps(backend: Backend) -> None:
    # Five documents, and the records of five requests.
    for number in range(5):
        await written(backend.store, put(ANN, f"k{number}"))
    await backend.erasures.begin_erasure(EVERYONE, "ann", "")
    claim = await backend.erasures.claim_erasure(60)
    assert claim is not None
    assert [await backend.erasures.erase_documents(claim, 2) for _ in range(4)] == [4, 4, 2, 0]
    assert (await backend.erasures.get_erasure(EVERYONE, "ann")).document_count == 10


async def test_names_of_documents_of_deleted_sessions_are_removed_in_steps(backend: Backend) -> None:
    for name in ("s1", "s2", "s3"):
        await accepted(backend.store, Caller().create(name, user_id="ann"))
        await written(backend.store, put((SESSION, name), "k"))
        await accepted(backend.store, Caller().delete(name))
    await backend.erasures.begin_erasure(EVERYONE, "ann", "")
    claim = await backend.erasures.claim_erasure(60)
    assert claim is not None
    counts, after = [], ""
    for step in (2, 2):
        following = await backend.erasures.erase_names(claim, after, step)
        counts.append(((await backend.erasures.get_erasure(EVERYONE, "ann")).document_count, following))
        after = following or ""
    assert counts == [(2, "s2"), (3, None)]
    late = replace(claim, number=claim.number - 1)
    assert await backend.erasures.erase_names(late, "", 2) is None
