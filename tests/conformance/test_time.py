"""What time brings about: expiry, and the end of tombstones. The store's clock decides."""

import asyncio
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.session_pb2 import EndReason, Session
from sessiond.v1.session_service_pb2 import SessionFilter, StructUpdate
from sessiond_server.domain import commands as c
from sessiond_server.domain.rows import Policy
from sessiond_server.errors import SessionAlreadyExists, SessionEnded, SessionNotFound
from sessiond_server.store.contract import Store
from tests.support.caller import ENDED, SECOND, Caller, accepted, one, refused, whole_log
from tests.support.store_backend import Backend, Open


def ttl(seconds: int) -> Duration:
    return Duration(seconds=seconds)


async def _session(store: Store, caller: Caller, session_id: str) -> Session:
    return Session.FromString((await store.get_session(caller.scope, session_id, content=False)).core)


async def test_expired_sessions_end_with_an_event(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("short", ttl=ttl(60)), caller.create("long", ttl=ttl(3600)))
    assert len((await store.expire_due(10)).heads) == 0
    await backend.advance(61)
    assert len((await store.expire_due(10)).heads) == 1
    assert len((await store.expire_due(10)).heads) == 0
    ended = await _session(store, caller, "short")
    assert (ended.status, ended.end_reason) == (ENDED, EndReason.END_REASON_EXPIRED)
    _, last = await whole_log(store, caller.scope, "short")
    assert (last.type, last.actor, last.request_id) == (EventType.EVENT_TYPE_SESSION_EXPIRED, "sessiond", "")
    assert (await _session(store, caller, "long")).version == 1
    assert await store.count_sessions(caller.scope, SessionFilter(statuses=[ENDED])) == 1


async def test_an_expired_session_takes_no_writes_before_it_is_swept(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s", ttl=ttl(60)))
    await backend.advance(61)
    error = await refused(store, caller.append("s"), SessionEnded)
    assert error.metadata["end_reason"] == "EXPIRED"
    assert len((await store.expire_due(10)).heads) == 1


async def test_writes_extend_a_sliding_life(backend: Backend, caller: Caller) -> None:
    """Defect 7 of the predecessors: messages did not extend the expiry."""
    store = backend.store
    await accepted(store, caller.create("s", ttl=ttl(60)), caller.create("idle", ttl=ttl(60)))
    for _ in range(3):
        await backend.advance(50)
        await accepted(store, caller.append("s"))
    assert len((await store.expire_due(10)).heads) == 1
    assert (await _session(store, caller, "s")).version == 4
    await backend.advance(61)
    assert len((await store.expire_due(10)).heads) == 1


async def test_a_life_that_an_update_shortened(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s", ttl=ttl(3600)), caller.update("s", ttl=ttl(60)))
    await backend.advance(61)
    assert len((await store.expire_due(10)).heads) == 1


async def test_a_life_that_an_update_made_unlimited(backend: Backend, caller: Caller) -> None:
    store = backend.store
    unlimited = caller.command(
        "s", c.UpdateSession(Session(), ["ttl", "expire_time"], StructUpdate.STRUCT_UPDATE_REPLACE)
    )
    await accepted(store, caller.create("s", ttl=ttl(60)), unlimited)
    await backend.advance(10**7)
    assert len((await store.expire_due(10)).heads) == 0
    limited = caller.update("s", ttl=ttl(60))
    await accepted(store, limited)
    await backend.advance(61)
    assert len((await store.expire_due(10)).heads) == 1


async def test_sessions_without_a_limit_never_expire(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(policy=Policy(default_ttl_us=0))
    await accepted(backend.store, caller.create("s"))
    await backend.advance(10**9)
    assert len((await backend.store.expire_due(10)).heads) == 0


async def test_the_default_life(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(policy=Policy(default_ttl_us=60 * SECOND))
    await accepted(backend.store, caller.create("s"))
    await backend.advance(61)
    assert len((await backend.store.expire_due(10)).heads) == 1


async def test_no_more_than_the_limit_expire_at_once(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, *(caller.create(f"s{i}", ttl=ttl(60)) for i in range(7)))
    await backend.advance(61)
    assert [len((await store.expire_due(3)).heads) for _ in range(4)] == [3, 3, 1, 0]


async def test_sessions_that_were_extended_do_not_hide_those_that_are_due(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, *(caller.create(f"s{i}", ttl=ttl(60)) for i in range(6)))
    await backend.advance(30)
    await accepted(store, caller.create("due", ttl=ttl(32)), *(caller.append(f"s{i}") for i in range(6)))
    await backend.advance(40)
    assert len((await store.expire_due(1)).heads) == 1
    assert (await _session(store, caller, "due")).status == ENDED


async def test_ended_and_deleted_sessions_do_not_expire(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, *(caller.create(i, ttl=ttl(60)) for i in ("ended", "deleted")))
    await accepted(store, caller.end("ended"), caller.delete("deleted"))
    await backend.advance(61)
    assert len((await store.expire_due(10)).heads) == 0
    assert (await _session(store, caller, "ended")).end_reason == EndReason.END_REASON_CLIENT


async def test_replicas_share_the_work_of_expiry(backend: Backend, caller: Caller) -> None:
    """Each session ends once, with any number of sweepers."""
    await accepted(backend.store, *(caller.create(f"s{i}", ttl=ttl(60)) for i in range(40)))
    await backend.advance(61)
    swept = await asyncio.gather(*(store.expire_due(8) for store in (backend.store, backend.other) * 4))
    ended = [len(writes.heads) for writes in swept]
    while more := len((await backend.store.expire_due(8)).heads):
        ended.append(more)
    assert sum(ended) == 40
    for i in range(40):
        assert (await _session(backend.store, caller, f"s{i}")).version == 2


async def test_tombstones_end_with_their_retention(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(tombstone_retention=timedelta(days=1), request_retention=timedelta(days=2))
    store = backend.store
    await accepted(store, *(caller.create(i) for i in "abc"), caller.append_ids("a", "m"))
    await accepted(store, caller.delete("a", "r"), caller.delete("b"))
    await backend.advance(86_000)
    assert await store.purge(10) == 0
    await refused(store, caller.create("a"), SessionAlreadyExists)
    await backend.advance(1_000)
    assert [await store.purge(1) for _ in range(3)] == [1, 1, 0]
    await refused(store, caller.delete("a", "r"), SessionNotFound)
    await accepted(store, caller.create("a"), caller.append_ids("a", "m"))
    assert len(await whole_log(store, caller.scope, "a")) == 2
    assert (await _session(store, caller, "c")).version == 1


async def test_purging_takes_no_more_than_its_limit_of_each(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(tombstone_retention=timedelta(hours=1), request_retention=timedelta(hours=1))
    store = backend.store
    await accepted(store, *(caller.create(f"s{i}") for i in range(5)))
    await accepted(store, *(caller.append(f"s{i}") for i in range(5)))
    await accepted(store, *(caller.delete(f"s{i}") for i in range(3)))
    await backend.advance(3601)
    # Left are 3 tombstones and the records of 5 creations, 2 appends and 3 deletions.
    purged: list[int] = []
    while not purged or purged[-1]:
        purged.append(await store.purge(2))
    assert all(count <= 4 for count in purged)
    assert 10 <= sum(purged) <= 13
    assert await store.count_sessions(caller.scope, SessionFilter()) == 2


async def test_times_never_go_back(backend: Backend, caller: Caller) -> None:
    """Defect 8 of the predecessors compared naive with aware times; here the clock itself steps back."""
    store = backend.store
    await accepted(store, caller.create("s"))
    await backend.advance(-3600)
    appended = await one(store, caller.append("s"), c.MessagesAppended)
    first, second = await whole_log(store, caller.scope, "s")
    assert second.create_time.ToMicroseconds() == appended.create_time_us == first.create_time.ToMicroseconds()
