"""The cached store: which reads go to the cache or to the store behind it, and what it writes to the cache."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import pytest

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import commands as c
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.errors import SessionNotFound, StoreUnavailable
from sessiond_server.memory.cache import MemoryCache, MemoryServer
from sessiond_server.memory.store import MemoryStore
from sessiond_server.store.cached.contract import ALL, CacheLimits, Change
from sessiond_server.store.cached.store import CachedSessions
from sessiond_server.store.commits import Applied
from sessiond_server.store.session_reads import Freshness, MessagesPage, SessionReads
from tests.support.caller import Caller, accepted, struct, texts

SCOPE = c.Scope("acme")
CALLER = Caller(SCOPE)
KEY = ("acme", "s")
WINDOW = CacheLimits(window=6)


class Watched(MemoryStore):
    """A store that counts how often each method is called, and lets a test hold its reads up."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.lost = False
        """The next commit's connection breaks after it was sent."""

    async def apply(self, commands: Sequence[c.Command]) -> Applied:
        applied = await super().apply(commands)
        if self.lost:
            self.lost = False
            raise StoreUnavailable
        return applied

    async def get_session(self, scope: c.Scope, session_id: str, **more: Any) -> c.SessionSnapshot:
        self.calls.append(("get_session", session_id))
        return await super().get_session(scope, session_id, **more)

    async def get_sessions(self, scope: c.Scope, session_ids: Sequence[str], **more: Any) -> Any:
        self.calls.append(("get_sessions", list(session_ids)))
        found = await super().get_sessions(scope, session_ids, **more)
        await self.gate.wait()
        return found

    async def list_messages(self, scope: c.Scope, session_id: str, **more: Any) -> MessagesPage:
        self.calls.append(("list_messages", more["limit"]))
        page = await super().list_messages(scope, session_id, **more)
        await self.gate.wait()
        return page


class Deaf(MemoryCache):
    """A cache whose answers to `put` are the test's."""

    answer: "asyncio.Future[Sequence[bool]] | None" = None

    def put(self, changes: Sequence[Change]) -> "asyncio.Future[Sequence[bool]]":
        return super().put(changes) if self.answer is None else self.answer


@pytest.fixture
async def behind() -> Watched:
    return Watched()


@pytest.fixture
async def server() -> MemoryServer:
    return MemoryServer(asyncio.get_running_loop().time, WINDOW)


@pytest.fixture
async def cache(server: MemoryServer) -> Deaf:
    return Deaf(server)


@pytest.fixture
async def store(behind: Watched, cache: Deaf) -> AsyncIterator[CachedSessions]:
    async with CachedSessions(behind, behind, cache) as store:
        yield store


async def newest(store: SessionReads, limit: int = 3, **more: Any) -> MessagesPage:
    return await store.list_messages(SCOPE, "s", after_seq=0, before_seq=0, descending=True, limit=limit, **more)


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_written_session_is_read_from_the_cache_with_the_same_bytes(
    store: CachedSessions, behind: Watched
) -> None:
    await accepted(store, CALLER.create("s", state=struct(a=1), user_id="u"), CALLER.append("s", "one", "two"))
    assert await store.get_session(SCOPE, "s", content=True) == await MemoryStore.get_session(
        behind, SCOPE, "s", content=True
    )
    page = await newest(store)
    assert texts(page.messages) == ["two", "one"]
    assert not page.more
    assert behind.calls == []
    assert (store.state().hits, store.state().misses) == (2, 0)


async def test_defect_1_message_is_read_after_the_session_was_cached(store: CachedSessions, behind: Watched) -> None:
    """A session cached before a message was served after it. The test fails when `apply` does not update the cache."""
    await accepted(store, CALLER.create("s"))
    before = await store.get_session(SCOPE, "s", content=True)
    assert await newest(store) == MessagesPage(1, [], 0, 0, more=False)
    await accepted(store, CALLER.append("s", "hello"))
    after = await store.get_session(SCOPE, "s", content=True)
    assert (before.version, after.version) == (1, 2)
    assert texts((await newest(store)).messages) == ["hello"]
    assert behind.calls == [], "and all of that from the cache"


async def test_defect_2_part_of_the_history_is_never_served_as_the_whole(
    store: CachedSessions, behind: Watched
) -> None:
    """The cache holds the newest 6 of 10 messages. The test fails when `windows.page` ignores how far back they
    reach."""
    await accepted(store, CALLER.create("s"), CALLER.append("s", *[str(number) for number in range(10)]))
    everything = await store.list_messages(SCOPE, "s", after_seq=0, before_seq=0, descending=False, limit=100)
    assert texts(everything.messages) == [str(number) for number in range(10)]
    backwards = await newest(store, 100)
    assert texts(backwards.messages) == [str(number) for number in reversed(range(10))]
    assert not backwards.more
    page = await newest(store, 5)
    assert (texts(page.messages), page.more) == (["9", "8", "7", "6", "5"], True)
    assert [call[0] for call in behind.calls] == ["list_messages", "list_messages"]


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 100])
@pytest.mark.parametrize("descending", [True, False])
async def test_pages_equal_those_of_the_store(
    store: CachedSessions, behind: Watched, descending: bool, limit: int
) -> None:
    await accepted(store, CALLER.create("s"), CALLER.append("s", *"abcdef"), CALLER.suspend("s"))
    await accepted(store, CALLER.command("s", c.ResumeSession()), CALLER.append("s", *"gh"))
    for after in range(13):
        for before in range(13):
            wish: Any = {"after_seq": after, "before_seq": before, "descending": descending, "limit": limit}
            page = await store.list_messages(SCOPE, "s", **wish)
            assert page == await MemoryStore.list_messages(behind, SCOPE, "s", **wish), wish
    assert store.state().hits > 50


async def test_poll_for_new_messages_is_answered_by_the_cache(
    store: CachedSessions, behind: Watched, server: MemoryServer
) -> None:
    await accepted(store, CALLER.create("s"), CALLER.append("s", *"abcdefghij"))
    for after, expected in ((11, ""), (10, "j"), (8, "hij")):
        page = await store.list_messages(SCOPE, "s", after_seq=after, before_seq=0, descending=False, limit=50)
        assert "".join(texts(page.messages)) == expected
    assert behind.calls == []
    held = server.get(1, KEY, False, ALL)
    assert held is not None
    assert len(held.messages) == WINDOW.window


async def test_concurrent_misses_are_one_read(store: CachedSessions, behind: Watched, server: MemoryServer) -> None:
    await accepted(store, *[CALLER.create(f"s{number}") for number in range(5)])
    server.flush()
    await store.get_session(SCOPE, "s0", content=False)  # finds the new epoch
    behind.calls.clear()
    reads = [store.get_session(SCOPE, f"s{number % 5}", content=False) for number in range(50)]
    several = store.get_sessions(SCOPE, ["s1", "none", "s2"], content=False)
    _, (first, none, _) = await asyncio.gather(asyncio.gather(*reads), several)
    assert first is not None
    assert none is None
    assert len(behind.calls) == 1
    assert sorted(behind.calls[0][1]) == ["none", "s1", "s2", "s3", "s4"], "s0 is there again"


async def test_cold_cache_bounds_the_reads_of_the_store(
    store: CachedSessions, behind: Watched, server: MemoryServer
) -> None:
    server.flush()
    behind.gate.clear()
    reads = [asyncio.create_task(store.get_sessions(SCOPE, [f"s{n}"], content=True)) for n in range(1000)]
    await turn()
    assert [len(ids) for _, ids in behind.calls] == [32, 32, 32]
    behind.gate.set()
    assert await asyncio.gather(*reads) == [[None]] * 1000


async def test_a_read_does_not_join_one_from_before_its_callers_write(
    store: CachedSessions, behind: Watched, cache: Deaf, server: MemoryServer
) -> None:
    """The test fails when `BatchedReads` lets callers join a read that has been issued."""
    await accepted(store, CALLER.create("s"))
    server.flush()
    behind.gate.clear()
    early = asyncio.create_task(store.get_session(SCOPE, "s", content=False))
    await turn()
    assert len(behind.calls) == 1
    cache.answer = asyncio.get_running_loop().create_future()
    cache.answer.set_result([False])
    await accepted(store, CALLER.append("s"))
    late = [
        asyncio.create_task(store.get_session(SCOPE, "s", content=False, freshness=freshness))
        for freshness in (Freshness(), Freshness(min_version=2), Freshness(strong=True))
    ]
    await turn()
    behind.gate.set()
    assert (await early).version == 1
    assert [(await read).version for read in late] == [2, 2, 2]


async def test_cancelled_read_does_not_affect_others(
    store: CachedSessions, behind: Watched, server: MemoryServer
) -> None:
    await accepted(store, CALLER.create("s"))
    server.flush()
    behind.gate.clear()
    leaver, stayer = (asyncio.create_task(store.get_session(SCOPE, "s", content=True)) for _ in range(2))
    await turn()
    leaver.cancel()
    behind.gate.set()
    assert (await stayer).version == 1
    assert leaver.cancelled()


async def test_a_foreign_owners_session_is_not_found_whether_cached_or_not(
    store: CachedSessions, server: MemoryServer
) -> None:
    await accepted(store, CALLER.create("s", user_id="alice"), CALLER.append("s"))
    for _ in range(2):
        for scope in (c.Scope("acme", "bob"), c.Scope("other")):
            with pytest.raises(SessionNotFound):
                await store.get_session(scope, "s", content=True)
            with pytest.raises(SessionNotFound):
                await store.list_messages(scope, "s", after_seq=0, before_seq=0, descending=True, limit=5)
            assert await store.get_sessions(scope, ["s"], content=False) == [None]
        server.flush()


async def test_a_strong_read_comes_from_the_store_and_leaves_the_cache_alone(
    store: CachedSessions, behind: Watched, server: MemoryServer
) -> None:
    await accepted(store, CALLER.create("s"), CALLER.append("s"))
    server.flush()
    strong = Freshness(strong=True)
    assert (await store.get_session(SCOPE, "s", content=True, freshness=strong)).version == 2
    assert len((await newest(store, freshness=strong)).messages) == 1
    (session,) = await store.get_sessions(SCOPE, ["s"], content=True, freshness=strong)
    assert session is not None
    assert len(behind.calls) == 3
    assert not server.entries
    assert (store.state().hits, store.state().misses) == (0, 0)


async def test_an_entry_below_min_version_is_not_served(store: CachedSessions, behind: Watched) -> None:
    """Another server wrote and could not update the cache. The test fails when `min_version` is not compared."""
    await accepted(store, CALLER.create("s"))
    await accepted(behind, CALLER.append("s"))
    fresh = Freshness(min_version=2)
    assert (await store.get_session(SCOPE, "s", content=False)).version == 1
    (session,) = await store.get_sessions(SCOPE, ["s"], content=False, freshness=fresh)
    assert session is not None
    assert session.version == 2
    await accepted(behind, CALLER.append("s"))
    assert (await newest(store, freshness=Freshness(min_version=3))).version == 3
    await accepted(behind, CALLER.append("s"))
    assert (await store.get_session(SCOPE, "s", content=False, freshness=Freshness(min_version=4))).version == 4
    for far_ahead in (99, 2**63 - 1):
        fresh = Freshness(min_version=far_ahead)
        assert (await store.get_session(SCOPE, "s", content=False, freshness=fresh)).version == 4
        assert (await newest(store, freshness=fresh)).version == 4


async def test_failed_invalidation_is_retried_and_the_entry_is_not_served_meanwhile(
    store: CachedSessions, behind: Watched, cache: Deaf
) -> None:
    await accepted(store, CALLER.create("s"))
    cache.answer = asyncio.get_running_loop().create_future()
    cache.answer.set_result([False])
    await accepted(store, CALLER.append("s"))
    assert store.state().dirty == 1
    assert (await store.get_session(SCOPE, "s", content=True)).version == 2
    assert len((await newest(store)).messages) == 1
    (session,) = await store.get_sessions(SCOPE, ["s"], content=False)
    assert session is not None
    assert session.version == 2
    cache.answer = None
    while store.state().dirty:  # noqa: ASYNC110 - the healer pauses between attempts
        await asyncio.sleep(0.01)
    behind.calls.clear()
    assert (await store.get_session(SCOPE, "s", content=True)).version == 2
    assert behind.calls == [("get_sessions", ["s"])], "told to forget"
    assert (await store.get_session(SCOPE, "s", content=True)).version == 2
    assert len(behind.calls) == 1, "and filled again"


async def test_commit_of_unknown_outcome_is_read_from_the_store(
    store: CachedSessions, behind: Watched, cache: Deaf
) -> None:
    await accepted(store, CALLER.create("s"))
    behind.lost = True
    lost = CALLER.append("s", request_id="r")
    with pytest.raises(StoreUnavailable):
        await store.apply([lost])
    assert (await store.get_session(SCOPE, "s", content=True)).version == 2
    await accepted(store, lost)
    assert (await store.get_session(SCOPE, "s", content=True)).version == 2


async def test_retry_of_another_servers_write_invalidates_the_cache(
    store: CachedSessions, behind: Watched, server: MemoryServer
) -> None:
    """The server died between its commit and its write to the cache: no other process invalidates the entry."""
    await accepted(store, CALLER.create("s"))
    did = CALLER.append("s", request_id="r")
    await accepted(behind, did)
    assert (await store.get_session(SCOPE, "s", content=False)).version == 1
    await accepted(store, did)
    assert (await store.get_session(SCOPE, "s", content=False)).version == 2
    gone = CALLER.delete("s", request_id="d")
    await accepted(behind, gone)
    await accepted(store, gone)
    with pytest.raises(SessionNotFound):
        await store.get_session(SCOPE, "s", content=False)


async def test_overflow_of_pending_invalidations_starts_a_new_epoch(behind: Watched, server: MemoryServer) -> None:
    cache = Deaf(server)
    async with CachedSessions(behind, behind, cache, most_dirty=3) as store:
        await accepted(store, *[CALLER.create(f"s{number}") for number in range(5)])
        cache.answer = asyncio.get_running_loop().create_future()
        cache.answer.set_result([False] * 5)
        await accepted(store, *[CALLER.append(f"s{number}") for number in range(5)])
        cache.answer = None
        assert store.state().cache.epochs == 1
        for number in range(5):
            assert (await store.get_session(SCOPE, f"s{number}", content=False)).version == 2


async def test_redacted_message_is_removed_from_the_cache(store: CachedSessions, server: MemoryServer) -> None:
    await accepted(store, CALLER.create("s"), CALLER.append_ids("s", "m1", "m2"))
    await accepted(store, CALLER.redact("s", "m1"))
    held = server.get(1, KEY, False, ALL)
    assert held is not None
    assert not any(b"text of m1" in message for message in held.messages)
    page = await newest(store)
    assert [Message.FromString(message).HasField("redact_time") for message in page.messages] == [False, True]


async def test_deletion_of_a_server_that_was_killed_can_be_told_to_the_cache(
    store: CachedSessions, behind: Watched
) -> None:
    """Until then its copy is there. The session that takes the id anew is cached as ever."""
    await accepted(store, CALLER.create("s"), CALLER.append("s", "one"))
    await accepted(behind, CALLER.delete("s"))
    assert (await store.get_session(SCOPE, "s", content=False)).version == 2
    await store.forget_deleted({KEY: 3})
    with pytest.raises(SessionNotFound):
        await store.get_session(SCOPE, "s", content=False)
    await accepted(store, CALLER.create("s", reuse=True))
    reads = len(behind.calls)
    assert (await store.get_session(SCOPE, "s", content=False)).version == 4
    assert len(behind.calls) == reads


async def test_expired_session_is_updated_in_the_cache(behind: Watched, cache: Deaf) -> None:
    now = 1_700_000_000_000_000
    behind._clock = lambda: now
    async with CachedSessions(behind, behind, cache) as store:
        create = CALLER.create("s")
        assert isinstance(create.action, c.CreateSession)
        create.action.session.ttl.FromSeconds(60)
        await accepted(store, create)
        now += 61_000_000
        assert len((await store.expire_due(10)).heads) == 1
        assert (await store.get_session(SCOPE, "s", content=False)).version == 2
        assert behind.calls == []


async def test_close_sends_pending_invalidations(behind: Watched, server: MemoryServer) -> None:
    cache = Deaf(server)
    async with CachedSessions(behind, behind, cache) as store:
        await accepted(store, CALLER.create("s"))
        cache.answer = asyncio.get_running_loop().create_future()
        cache.answer.set_result([False])
        await accepted(store, CALLER.append("s"))
        cache.answer = None
    assert server.get(1, KEY, False, 0) is None


async def upload_started(behind: Watched) -> c.CompleteUpload:
    content = b"content"
    declared = Attachment(
        attachment_id="a", name="a.txt", size_bytes=len(content), sha256=hashlib.sha256(content).digest()
    )
    upload = await behind.attachments.begin_upload(SCOPE, "s", declared, Piece(SCOPE.tenant_id, str(uuid4())))
    assert upload is not None
    return c.CompleteUpload("a", upload.epoch, declared.sha256, declared.size_bytes)


@pytest.mark.parametrize("deletes", [False, True], ids=["upload", "deletion"])
async def test_retry_of_upload_or_deletion_invalidates_cached_session(
    store: CachedSessions, behind: Watched, deletes: bool
) -> None:
    """The process that did it first ended between its commit and the cache."""
    await accepted(store, CALLER.create("s"))
    completes = CALLER.command("s", await upload_started(behind), "upload")
    if deletes:
        await accepted(store, completes)
    retried = CALLER.command("s", c.DeleteAttachment("a"), "deletion") if deletes else completes
    await accepted(behind, retried)
    (first,) = await accepted(store, retried)
    snapshot = await store.get_session(SCOPE, "s", content=False)
    assert snapshot.version == first.version


async def test_update_with_append_reaches_cached_session_and_window(store: CachedSessions, behind: Watched) -> None:
    await accepted(store, CALLER.create("s", state=struct(step=1)), CALLER.append_ids("s", "m1"))
    await newest(store)
    (outcome,) = await accepted(store, CALLER.update_and_append("s", "two", state=struct(step=2)))
    behind.calls.clear()
    snapshot = await store.get_session(SCOPE, "s", content=True)
    cached = Session.FromString(snapshot.core + snapshot.content)
    assert (cached.version, cached.state) == (outcome.version, struct(step=2))
    page = await newest(store)
    assert [Message.FromString(message).seq for message in page.messages] == [4, 2]
    assert behind.calls == []
