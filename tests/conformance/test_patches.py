"""Contents that consist of patches, over every store: reads, lists, logs, retries, deletions, two replicas."""

import asyncio

import pytest

from sessiond.v1.event_pb2 import Event
from sessiond.v1.session_pb2 import Session, SessionView
from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder, StructUpdate
from sessiond_server.domain import commands as c
from sessiond_server.domain import fold
from sessiond_server.domain.rows import Policy
from sessiond_server.store.contract import Store
from tests.support.caller import PADDED, PATCHING, Caller, accepted, one, struct, whole_log
from tests.support.store_backend import Open


def change(caller: Caller, number: int, request_id: str = "", *, full: bool = False) -> c.Command:
    """Sets one member, and removes the one that was set two changes before."""
    state = struct(**{f"k{number}": number, "last": number})
    removed = [f"state.k{number - 2}"] if number % 3 else []
    update = c.UpdateSession(Session(state=state), ["state"], StructUpdate.STRUCT_UPDATE_SET_KEYS, removed, full=full)
    return caller.command("s", update, request_id)


async def read(store: Store, caller: Caller) -> Session:
    snapshot = await store.get_session(caller.scope, "s", content=True)
    return Session.FromString(snapshot.core + snapshot.content)


async def test_every_read_has_the_patched_content(open_backend: Open) -> None:
    backend = await open_backend(policy=PATCHING)
    store, caller = backend.store, backend.caller
    await accepted(store, caller.create("s", state=struct(big=PADDED)), caller.create("other"))
    for number in range(12):
        await accepted(store, change(caller, number), *[caller.append("s")] * (number % 3))
        expected = await read(store, caller)
        assert expected.state.fields["last"].number_value == number
        assert expected.state.fields["big"].string_value == PADDED
        folded = Session()
        for event in await whole_log(store, caller.scope, "s"):
            folded = fold.fold(folded, event)
        assert folded == expected
        for again in (backend.other, store):
            found = await again.get_sessions(caller.scope, ["other", "s"], content=True)
            snapshot = found[1]
            assert snapshot is not None
            assert Session.FromString(snapshot.core + snapshot.content) == expected
            page = await again.list_sessions(
                caller.scope,
                SessionFilter(),
                SessionOrder.SESSION_ORDER_CREATE_TIME_ASC,
                after=None,
                limit=10,
                content=True,
            )
            assert expected in [Session.FromString(s.core + s.content) for s in page.sessions]
    views = {event.session_view for event in await whole_log(store, caller.scope, "s")}
    assert SessionView.SESSION_VIEW_PATCH in views


@pytest.mark.parametrize("full", [True, False])
async def test_a_content_of_exactly_the_least_size_is_patched(open_backend: Open, full: bool) -> None:
    """And one that is a byte smaller is not."""
    size = Session(state=struct(big=PADDED)).ByteSize()
    backend = await open_backend(policy=Policy(least_patched_bytes=size))
    store, caller = backend.store, backend.caller
    for session_id, text, view in (
        ("exact", PADDED, SessionView.SESSION_VIEW_PATCH),
        ("smaller", PADDED[:-1], SessionView.SESSION_VIEW_FULL),
    ):
        await accepted(store, caller.create(session_id, state=struct(big=text)))
        await accepted(store, caller.set_keys(session_id, full=full, k=1))
        assert (await whole_log(store, caller.scope, session_id))[-1].session_view == view
        snapshot = await backend.other.get_session(caller.scope, session_id, content=True)
        assert Session.FromString(snapshot.content).state == struct(big=text, k=1)


async def test_a_retry_gets_the_content_of_its_own_version(open_backend: Open) -> None:
    backend = await open_backend(policy=PATCHING)
    store, caller = backend.store, backend.caller
    await accepted(store, caller.create("s", "r", state=struct(big=PADDED)))
    firsts = [await one(store, change(caller, n, f"r{n}", full=True), c.SessionWritten) for n in range(12)]
    for number, first in enumerate(firsts):
        again = await one(backend.other, change(caller, number, f"r{number}", full=True), c.SessionWritten)
        assert again.session.core == first.session.core
        assert Session.FromString(again.session.content) == Session.FromString(first.session.content)
    touched = await one(store, caller.touch("s", 0, "t"), c.SessionWritten)
    assert Session.FromString(touched.session.content).state.fields["last"].number_value == 11
    await accepted(store, change(caller, 12))
    again = await one(store, caller.touch("s", 0, "t"), c.SessionWritten)
    assert Session.FromString(again.session.content) == Session.FromString(touched.session.content)


async def test_a_batch_may_have_more_patches_than_a_content(open_backend: Open) -> None:
    backend = await open_backend(policy=PATCHING)
    store, caller = backend.store, backend.caller
    await accepted(store, caller.create("s", state=struct(big=PADDED)))
    await accepted(store, *[change(caller, number) for number in range(11)])
    assert (await read(store, caller)).state.fields["last"].number_value == 10
    events = await whole_log(store, caller.scope, "s")
    since_whole = 0
    for event in events:
        since_whole = since_whole + 1 if event.session_view == SessionView.SESSION_VIEW_PATCH else 0
        assert since_whole <= PATCHING.content_patches


async def test_writers_at_two_replicas_lose_no_patch(open_backend: Open) -> None:
    backend = await open_backend(policy=PATCHING)
    caller = backend.caller
    await accepted(backend.store, caller.create("s", state=struct(big=PADDED)))

    async def write(store: Store, name: str) -> None:
        for number in range(8):
            state = Session(state=struct(**{f"{name}{number}": number}))
            update = c.UpdateSession(state, ["state"], StructUpdate.STRUCT_UPDATE_SET_KEYS, full=number % 2 == 0)
            await accepted(store, caller.command("s", update))

    await asyncio.gather(write(backend.store, "a"), write(backend.other, "b"), write(backend.store, "c"))
    members = set((await read(backend.other, caller)).state.fields)
    assert members == {"big", *(f"{name}{number}" for name in "abc" for number in range(8))}


async def test_a_deleted_session_leaves_no_patch(open_backend: Open) -> None:
    backend = await open_backend(policy=PATCHING)
    store, caller = backend.store, backend.caller
    await accepted(store, caller.create("s", state=struct(big=PADDED)), change(caller, 1), change(caller, 2))
    await accepted(store, caller.delete("s"))
    page = await store.read_log((caller.scope.tenant_id, "s"), after_seq=0, limit=10)
    (entry,) = page.entries
    event = Event.FromString(entry.data)
    assert not event.HasField("session_patch")
    assert not event.session.HasField("state")


async def test_the_end_of_an_expired_session_keeps_its_patches(open_backend: Open) -> None:
    backend = await open_backend(policy=PATCHING)
    store, caller = backend.store, backend.caller
    created = caller.create("s", state=struct(big=PADDED))
    assert isinstance(created.action, c.CreateSession)
    created.action.session.ttl.seconds = 60
    await accepted(store, created, change(caller, 1))
    await backend.advance(61)
    assert len((await store.expire_due(10)).heads) == 1
    ended = await read(store, caller)
    assert ended.state.fields["last"].number_value == 1
    assert ended.state.fields["big"].string_value == PADDED
