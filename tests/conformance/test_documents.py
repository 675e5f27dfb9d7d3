"""Documents over every store: put, read, list, delete, along with messages, and how they end."""

import asyncio
from datetime import timedelta

import pytest

from sessiond.v1.document_pb2 import Document, DocumentChange
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import commands as c
from sessiond_server.errors import (
    DocumentNotFound,
    DocumentVersionMismatch,
    InvalidFields,
    RequestIdReused,
    SessionEnded,
    SessionNotFound,
    VersionMismatch,
)
from sessiond_server.store.session_reads import PAGE_BYTES
from tests.support.caller import OTHER_PRINT, SECOND, Caller, accepted, one, refused, session, whole_log
from tests.support.documents import (
    AGENT,
    ALL,
    ANN,
    APP,
    EVERYONE,
    SESSION,
    TENANT,
    USER,
    S,
    alone,
    delete,
    keys,
    page,
    put,
    read,
    value,
    written,
)
from tests.support.store_backend import Backend, Open

WRITERS = 20


async def test_a_document_is_read_as_it_was_put(backend: Backend) -> None:
    reads = backend.documents
    text = '{"b": 1.0, "a": 9007199254740993, "ü": "\\u0000 ☃"}  '
    await written(backend.store, put(ALL, "settings/é", text, media_type="application/json", labels={"kind": "x"}))
    found = await read(reads, ALL, "settings/é")
    assert found is not None
    assert (found.scope, found.scope_id, found.key, found.json) == (TENANT, "", "settings/é", text)
    assert (found.media_type, dict(found.labels), found.version, found.seq) == ("application/json", {"kind": "x"}, 1, 0)
    assert found.create_time == found.update_time
    assert not found.HasField("expire_time")
    await written(backend.store, put(ANN, "k", data=b"\0\xff"))
    stored = await read(reads, ANN, "k")
    assert stored is not None
    assert (stored.WhichOneof("value"), stored.data) == ("data", b"\0\xff")
    await written(backend.store, put(APP, "empty", ""))
    empty = await read(reads, APP, "empty")
    assert empty is not None
    assert (empty.WhichOneof("value"), empty.json) == ("json", "")


async def test_versions_count_puts(backend: Backend) -> None:
    store = backend.store
    first = await written(store, put(ANN, "k", "1", labels={"a": "b"}))
    second = await written(store, put(ANN, "k", "2"))
    assert (first.version, second.version) == (1, 2)
    found = await read(backend.documents, ANN, "k")
    assert found is not None
    assert (found.json, found.version, dict(found.labels)) == ("2", 2, {})
    assert (found.create_time, found.update_time) == (first.create_time, second.update_time)
    assert found.update_time.ToNanoseconds() >= found.create_time.ToNanoseconds()


async def test_scopes_and_keys_are_apart(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"))
    other_tenant = c.Scope("other")
    owners = [ALL, APP, (AGENT, "ann"), ANN, (USER, "app"), S]
    for number, owner in enumerate(owners):
        await written(backend.store, put(owner, "k", str(number)))
    await written(backend.store, put(ALL, "k", "other"), scope=other_tenant)
    assert [await value(backend.documents, owner, "k") for owner in owners] == [str(n) for n in range(len(owners))]
    assert await value(backend.documents, ALL, "k", other_tenant) == "other"
    assert await value(backend.documents, ALL, "K") is None
    assert await value(backend.documents, ANN, "k", other_tenant) is None


async def test_expected_versions(backend: Backend) -> None:
    store = backend.store
    for expected, current in ((1, 0), (7, 0)):
        error = await refused(store, alone(put(ANN, "k", expected=expected)), DocumentVersionMismatch)
        assert dict(error.metadata) == {
            "scope": "USER",
            "scope_id": "ann",
            "key": "k",
            "current_version": str(current),
            "expected_version": str(expected),
        }
    assert (await written(store, put(ANN, "k", expected=0))).version == 1
    for expected in (0, 2):
        await refused(store, alone(put(ANN, "k", expected=expected)), DocumentVersionMismatch)
    assert (await written(store, put(ANN, "k", "2", expected=1))).version == 2
    await refused(store, alone(delete(ANN, "k", 1)), DocumentVersionMismatch)
    assert await value(backend.documents, ANN, "k") == "2"
    assert (await written(store, delete(ANN, "k", 2))).version == 2


@pytest.mark.parametrize("owner", [ANN, S], ids=["user", "session"])
async def test_a_document_put_again_is_not_taken_for_the_deleted_one(
    backend: Backend, caller: Caller, owner: tuple[int, str]
) -> None:
    """Mutant: a tombstone that does not keep the version."""
    store = backend.store
    await accepted(store, caller.create("s"))
    first = await written(store, put(owner, "k"))  # type: ignore[arg-type]
    gone = await written(store, delete(owner, "k"))  # type: ignore[arg-type]
    assert (gone.version, gone.deleted, gone.HasField("update_time")) == (1, True, False)
    assert await read(backend.documents, owner, "k") is None  # type: ignore[arg-type]
    await refused(store, alone(delete(owner, "k")), DocumentNotFound)  # type: ignore[arg-type]
    await refused(store, alone(put(owner, "k", expected=1)), DocumentVersionMismatch)  # type: ignore[arg-type]
    again = await written(store, put(owner, "k", "2", expected=0))  # type: ignore[arg-type]
    assert again.version == 2
    assert again.create_time.ToNanoseconds() >= first.create_time.ToNanoseconds()
    assert again.create_time == again.update_time
    await refused(store, alone(put(owner, "k", expected=1)), DocumentVersionMismatch)  # type: ignore[arg-type]


async def test_retries_get_the_first_outcome(backend: Backend) -> None:
    store = backend.store
    first = await written(store, put(ANN, "k", "1", expected=0), "r")
    await written(store, put(ANN, "k", "2"), "r2")
    assert await written(store, put(ANN, "k", "1", expected=0), "r") == first
    assert await value(backend.documents, ANN, "k") == "2"
    await refused(store, alone(put(ANN, "other"), "r", fingerprint=OTHER_PRINT), RequestIdReused)
    gone = await written(store, delete(ANN, "k"), "r3")
    await written(store, put(ANN, "k", "3"))
    assert await written(store, delete(ANN, "k"), "r3") == gone
    assert await value(backend.documents, ANN, "k") == "3"
    # Each owner's request ids are its own.
    assert (await written(store, put(APP, "k"), "r")).version == 1
    both = await accepted(store, alone(put(ALL, "k"), "b"), alone(put(ALL, "k"), "b"))
    assert both[0] == both[1]


async def test_a_request_is_forgotten_after_its_retention(open_backend: Open) -> None:
    backend = await open_backend(request_retention=timedelta(seconds=60))
    await written(backend.store, put(ANN, "k"), "r")
    assert await backend.store.purge(10) == 0
    await backend.advance(61)
    assert await backend.store.purge(10) == 1
    assert (await written(backend.store, put(ANN, "k"), "r")).version == 2


async def test_documents_of_a_session_are_part_of_its_log(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"))
    first = await written(store, put(S, "k", "secret"), "r")
    gone = await written(store, delete(S, "k"))
    _, put_event, delete_event = await whole_log(store, caller.scope, "s")
    assert (put_event.type, put_event.request_id) == (EventType.EVENT_TYPE_DOCUMENT_PUT, "r")
    assert list(put_event.documents) == [first]
    assert put_event.WhichOneof("payload") is None
    assert (first.version, first.seq, gone.seq) == (1, 2, 3)
    assert delete_event.type == EventType.EVENT_TYPE_DOCUMENT_DELETED
    assert list(delete_event.documents) == [gone]
    assert b"secret" not in put_event.SerializeToString()
    assert await written(store, put(S, "k", "secret"), "r") == first
    session = Session.FromString((await store.get_session(caller.scope, "s", content=False)).core)
    assert (session.version, session.request_count, session.message_count) == (3, 3, 0)


async def test_ended_and_missing_sessions_take_no_documents(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"))
    await written(store, put(S, "k"))
    await accepted(store, caller.end("s"))
    await refused(store, alone(put(S, "k")), SessionEnded)
    await refused(store, alone(delete(S, "k")), SessionEnded)
    assert await value(backend.documents, S, "k") == "1"
    await refused(store, alone(put((SESSION, "none"), "k")), SessionNotFound)
    with pytest.raises(SessionNotFound):
        await page(backend.documents, (SESSION, "none"))


async def test_documents_outside_of_the_users_scope_do_not_exist(backend: Backend, caller: Caller) -> None:
    """Neither in a read of one or of several, nor in a list; those of the user do."""
    store, reads = backend.store, backend.documents
    await accepted(store, caller.create("s", user_id="ann"))
    owners = (S, ANN, ALL, APP)
    await accepted(store, *(alone(put(owner, "k")) for owner in owners))
    await accepted(store, *(alone(put(owner, "shown", "2", user_readable=True)) for owner in (ALL, APP)))
    names = [(*owner, "k") for owner in owners] + [(*owner, "shown") for owner in (ALL, APP)]
    for user, expected in (
        ("", ["1", "1", "1", "1", "2", "2"]),
        ("ann", ["1", "1", None, None, "2", "2"]),
        ("bob", [None, None, None, None, "2", "2"]),
    ):
        scope = c.Scope("tenant", user)
        found = await reads.get_documents(scope, names)
        assert [Document.FromString(item).json if item else None for item in found] == expected, user
        assert [await value(reads, name[:2], name[2], scope) for name in names] == expected, user
        shown = {owner: keys((await page(reads, owner, scope=scope)).documents) for owner in (ALL, APP)}
        assert shown == dict.fromkeys((ALL, APP), ["shown"] if user else ["k", "shown"]), user
        assert keys((await page(reads, ANN, scope=scope)).documents) == ([] if user == "bob" else ["k"])
        if user != "bob":
            assert keys((await page(reads, S, scope=scope)).documents) == ["k"]
    with pytest.raises(SessionNotFound):
        await page(reads, S, scope=c.Scope("tenant", "bob"))


async def test_documents_go_with_their_session(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(tombstone_retention=timedelta(seconds=60))
    store = backend.store
    await accepted(store, caller.create("s"), caller.create("t"))
    await accepted(store, alone(put(S, "k")), alone(put(S, "l")), alone(put((SESSION, "t"), "k")), alone(put(ANN, "s")))
    # One that the batch itself writes goes too.
    await accepted(store, alone(put(S, "m")), caller.delete("s"))
    assert [await value(backend.documents, S, key) for key in "klm"] == [None, None, None]
    with pytest.raises(SessionNotFound):
        await page(backend.documents, S)
    assert await value(backend.documents, (SESSION, "t"), "k") == "1"
    assert await value(backend.documents, ANN, "s") == "1"
    await backend.advance(61)
    assert await backend.store.purge(100) == 4  # the session and its documents


async def test_an_append_writes_documents_of_three_scopes(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s", user_id="ann"))
    await written(store, put(APP, "old"))
    puts = [put(APP, "a", "1"), put(ANN, "u", "2"), put(S, "t", "3")]
    writes: list[c.DocumentWrite] = [*puts, delete(APP, "old"), delete(ALL, "none")]
    done = await one(store, caller.append_with("s", *writes), c.MessagesAppended)
    changes = [DocumentChange.FromString(change) for change in done.documents]
    assert [(x.scope, x.scope_id, x.key, x.version, x.deleted, x.seq) for x in changes] == [
        (AGENT, "app", "a", 1, False, 0),
        (USER, "ann", "u", 1, False, 0),
        (SESSION, "s", "t", 1, False, 2),
        (AGENT, "app", "old", 1, True, 0),
        (TENANT, "", "none", 0, True, 0),
    ]
    assert [await value(backend.documents, *name) for name in ((APP, "a"), (ANN, "u"), (S, "t"))] == ["1", "2", "3"]
    assert await read(backend.documents, APP, "old") is None
    _, event = await whole_log(store, caller.scope, "s")
    assert list(event.documents) == changes
    assert event.message.parts[0].text == "hello"


async def test_a_retried_append_gets_the_first_changes(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"))
    writes = (put(APP, "a", expected=0), put(S, "t"))
    first = await one(store, caller.append_with("s", *writes, request_id="r"), c.MessagesAppended)
    assert len(first.documents) == 2
    assert await one(store, caller.append_with("s", *writes, request_id="r"), c.MessagesAppended) == first
    await accepted(store, caller.redact("s", first.message_ids[0]))
    assert await one(store, caller.append_with("s", *writes, request_id="r"), c.MessagesAppended) == first
    await accepted(store, caller.command("s", c.DeleteMessages(last_n=1)))
    assert await one(store, caller.append_with("s", *writes, request_id="r"), c.MessagesAppended) == first
    assert (await read(backend.documents, APP, "a") or Document()).version == 1


async def test_an_append_with_state_and_documents(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"))
    update = caller.update_and_append("s", summary="changed").action
    assert isinstance(update, c.UpdateAndAppend)
    action = c.UpdateAndAppend(update.messages, update.update, documents=[put(S, "t")])
    command = caller.command("s", action, "r")
    done = await one(store, command, c.MessagesAppended)
    _, updated, appended = await whole_log(store, caller.scope, "s")
    assert (len(updated.documents), len(appended.documents)) == (0, 1)
    assert appended.documents[0].seq == appended.seq == done.first_seq
    assert await one(store, command, c.MessagesAppended) == done


async def test_a_refused_append_writes_no_document(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s", user_id="ann"))
    await written(store, put(ANN, "k", "old"))
    await refused(store, caller.append_with("s", put(APP, "a"), put(ANN, "k", expected=7)), DocumentVersionMismatch)
    error = await refused(store, caller.append_with("s", put(APP, "a"), put((USER, "bob"), "k")), InvalidFields)
    assert error.violations[0].field == "documents[1].scope_id"
    await refused(store, caller.append_with("s", put(APP, "a"), expected_version=9), VersionMismatch)
    await refused(store, caller.append_with("none", put(APP, "a")), SessionNotFound)
    await accepted(store, caller.end("s"))
    await refused(store, caller.append_with("s", put(APP, "a")), SessionEnded)
    assert await read(backend.documents, APP, "a") is None
    assert await value(backend.documents, ANN, "k") == "old"
    assert len(await whole_log(store, caller.scope, "s")) == 2


async def test_each_command_of_a_batch_sees_those_before_it(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await written(store, put(APP, "n"))
    results = await accepted(
        store,
        caller.create("s"),
        caller.append_with("s", put(APP, "n", "2", expected=1), put(APP, "new", expected=0)),
        alone(put(APP, "n", "3", expected=2)),
        caller.append_with("s", put(APP, "n", "4", expected=3), delete(APP, "new", 1)),
        alone(put(APP, "new", "again", expected=0)),
    )
    assert len(results) == 5
    found = await read(backend.documents, APP, "n")
    assert found is not None
    assert (found.json, found.version) == ("4", 4)
    again = await read(backend.documents, APP, "new")
    assert again is not None
    assert (again.json, again.version) == ("again", 2)


async def test_expired_documents_do_not_exist(backend: Backend) -> None:
    store = backend.store
    first = await written(store, put(ANN, "k", "1", ttl=60))
    assert first.expire_time.ToMicroseconds() == first.update_time.ToMicroseconds() + 60 * SECOND
    await written(store, put(ANN, "l", ttl=3600))
    await backend.advance(50)
    await written(store, put(ANN, "k", "2", ttl=60))
    await backend.advance(50)
    assert await value(backend.documents, ANN, "k") == "2"
    await backend.advance(11)
    assert await value(backend.documents, ANN, "k") is None
    assert keys((await page(backend.documents, ANN)).documents) == ["l"]
    await refused(store, alone(delete(ANN, "k")), DocumentNotFound)
    await refused(store, alone(put(ANN, "k", expected=2)), DocumentVersionMismatch)
    again = await written(store, put(ANN, "k", "3", expected=0))
    assert (again.version, again.create_time) == (3, again.update_time)
    assert not again.HasField("expire_time")


async def test_the_sweeper_removes_expired_documents(open_backend: Open) -> None:
    backend = await open_backend(tombstone_retention=timedelta(seconds=100))
    store = backend.store
    await accepted(store, *(alone(put(ANN, f"k{i}", ttl=60)) for i in range(5)))
    await written(store, put(ANN, "stays", ttl=3600))
    assert await store.purge(10) == 0
    await backend.advance(61)
    assert [await store.purge(3), await store.purge(3), await store.purge(3)] == [3, 2, 0]
    assert (await written(store, put(ANN, "k0"))).version == 2
    await backend.advance(101)
    assert await store.purge(10) == 4
    assert (await written(store, put(ANN, "k1"))).version == 1
    assert keys((await page(backend.documents, ANN)).documents) == ["k0", "k1", "stays"]


async def test_lists_go_by_key_prefix_and_labels(backend: Backend) -> None:
    names = ["a", "a/1", "a/10", "a/2", "a/\U0010ffff", "a0", "b", "z/é", "é"]
    labels = {"a/1": {"kind": "x", "n": "1"}, "a/2": {"kind": "x"}, "b": {"kind": "x"}, "a0": {"kind": "y"}}
    await accepted(backend.store, *(alone(put(ANN, name, labels=labels.get(name, {}))) for name in reversed(names)))
    await accepted(backend.store, alone(put(APP, "a/1")), alone(put((USER, "annabel"), "a/1")))

    async def listed(**how: object) -> list[str]:
        return keys((await page(backend.documents, ANN, **how)).documents)  # type: ignore[arg-type]

    assert await listed() == names == sorted(names)
    assert await listed(key_prefix="a/") == ["a/1", "a/10", "a/2", "a/\U0010ffff"]
    assert await listed(key_prefix="a/\U0010ffff") == ["a/\U0010ffff"]
    assert await listed(key_prefix="a/1", after="a/1") == ["a/10"]
    assert await listed(labels={"kind": "x"}) == ["a/1", "a/2", "b"]
    assert await listed(labels={"kind": "x", "n": "1"}, key_prefix="a") == ["a/1"]
    assert await listed(labels={"kind": "z"}) == []
    found: list[str] = []
    after = ""
    while True:
        part = await page(backend.documents, ANN, after=after, limit=4)
        found += keys(part.documents)
        if part.next_key is None:
            break
        after = part.next_key
    assert found == names


async def test_lists_without_values(backend: Backend) -> None:
    await written(backend.store, put(ANN, "k", "1", media_type="text/plain"))
    (item,) = (await page(backend.documents, ANN, values=False)).documents
    found = Document.FromString(item)
    assert (found.key, found.media_type, found.WhichOneof("value")) == ("k", "text/plain", None)


async def test_pages_and_batches_stay_within_their_bytes(backend: Backend) -> None:
    large = "x" * 262_144
    count = PAGE_BYTES // len(large) + 3
    names = [f"k{i:02}" for i in range(count)]
    await accepted(backend.store, *(alone(put(ANN, name, large)) for name in names))
    first = await page(backend.documents, ANN)
    assert 1 < len(first.documents) < count
    assert sum(map(len, first.documents)) <= PAGE_BYTES
    rest = await page(backend.documents, ANN, after=first.next_key or "")
    assert keys([*first.documents, *rest.documents]) == names
    found = await backend.documents.get_documents(EVERYONE, [(*ANN, name) for name in (*names, "none")])
    assert found[-1] is None
    given = [item for item in found if item]
    assert len(given) == len(first.documents)
    assert list(found[len(given) : -1]) == [b""] * (count - len(given))


async def test_batches_answer_in_order(backend: Backend) -> None:
    await accepted(backend.store, alone(put(ANN, "b", "2")), alone(put(ALL, "a", "1")))
    names = [(*ANN, "b"), (*ANN, "none"), (*ALL, "a")]
    found = await backend.documents.get_documents(EVERYONE, names)
    assert [Document.FromString(item).json if item else None for item in found] == ["2", None, "1"]


async def test_writers_of_one_document_win_once_each(backend: Backend) -> None:
    """20 writers add one to the same number, each as often as it takes, through two instances."""
    stores = (backend.store, backend.other)
    won: list[int] = []

    async def add(number: int) -> None:
        while True:
            found = await read(backend.documents, ALL, "n")
            version, text = (0, "0") if found is None else (found.version, found.json)
            command = alone(put(ALL, "n", str(int(text) + 1), expected=version))
            (result,) = (await stores[number % 2].apply([command])).results
            if isinstance(result, c.DocumentWritten):
                won.append(DocumentChange.FromString(result.change).version)
                return
            assert isinstance(result, DocumentVersionMismatch)

    await asyncio.gather(*(add(number) for number in range(WRITERS)))
    assert sorted(won) == list(range(1, WRITERS + 1))
    assert await value(backend.documents, ALL, "n") == str(WRITERS)


async def test_writers_of_different_documents_do_not_meet(backend: Backend) -> None:
    stores = (backend.store, backend.other)
    commands = [alone(put(ALL, f"k{number:02}", expected=0)) for number in range(WRITERS)]
    applied = await asyncio.gather(*(stores[i % 2].apply([command]) for i, command in enumerate(commands)))
    assert all(isinstance(result, c.DocumentWritten) for item in applied for result in item.results)
    assert len((await page(backend.documents, ALL)).documents) == WRITERS


async def test_raced_retries_of_a_put_get_one_outcome(backend: Backend) -> None:
    """Mutant: request ids looked up before the document is locked."""
    stores = (backend.store, backend.other)
    for key in "abc":
        command = alone(put(ALL, key), f"r-{key}")
        applied = await asyncio.gather(*(stores[i % 2].apply([command]) for i in range(WRITERS)))
        results = [item.results[0] for item in applied]
        assert results == [results[0]] * WRITERS
        assert (await read(backend.documents, ALL, key) or Document()).version == 1


async def test_appends_that_write_the_same_documents_all_succeed(backend: Backend, caller: Caller) -> None:
    """Each names the documents in another order, half of them are new, and other commands write them alone."""
    store, names = backend.store, ["a", "b", "c", "d"]
    await accepted(store, *(caller.create(f"s{i}") for i in range(WRITERS)))
    await accepted(store, alone(put(APP, "a")), alone(put(APP, "c")))
    stores = (backend.store, backend.other)

    def writes(i: int) -> list[c.PutDocument]:
        return [put(APP, names[(i + n) % 4], str(i)) for n in range(3)]

    batches = [
        [caller.append_with(f"s{i}", *writes(i)), alone(put(APP, names[i % 4])), caller.append(f"s{(i + 1) % WRITERS}")]
        for i in range(WRITERS)
    ]
    applied = await asyncio.gather(*(stores[i % 2].apply(batch) for i, batch in enumerate(batches)))
    for item in applied:
        assert not [result for result in item.results if isinstance(result, Exception)]
    versions = [(await read(backend.documents, APP, name) or Document()).version for name in names]
    assert sum(versions) == 2 + 4 * WRITERS


async def test_a_session_whose_id_is_reused_has_none_of_the_old_documents(backend: Backend, caller: Caller) -> None:
    """Nor does an old version match a new document, in the batch of the deletion or later."""
    store = backend.store
    again = caller.command("s", c.CreateSession(session(session_id="s"), reuse_deleted=True))
    await accepted(store, caller.create("s"), alone(put(S, "k")), alone(put(S, "l")))
    await accepted(store, caller.delete("s"), again, alone(put(S, "k", "new", 0)))
    assert await value(backend.documents, S, "l") is None
    found = await read(backend.documents, S, "k")
    assert found is not None
    assert (found.json, found.version) == ("new", 2)
    await refused(store, alone(put(S, "l", expected=1)), DocumentVersionMismatch)
    assert (await written(store, put(S, "l", expected=0))).version == 2
