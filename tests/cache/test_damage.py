"""A value that is no valid entry is a cache miss; it is counted and replaced."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from sessiond_server.domain.commands import Scope
from sessiond_server.domain.rows import Key
from sessiond_server.memory.store import MemoryStore
from sessiond_server.redis import RedisCache, entries
from sessiond_server.store.cached.contract import ALL, Copy, placed
from sessiond_server.store.cached.store import CachedSessions
from sessiond_server.store.session_reads import MessagesPage
from tests.support.cached_copies import KEY, copy, forget, put, settled
from tests.support.caches import LIMITS, PATIENT
from tests.support.caller import Caller, accepted, struct, texts

SCOPE = Scope("acme")
CALLER = Caller(SCOPE)
OTHER: Key = ("globex", "s2")
WHOLE = copy(7, 3, 5, 6, after=1, content_version=2, content=b"content", core=b"\r\ncore")


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def cache(redis_url: str, redis_prefix: str) -> AsyncIterator[RedisCache]:
    async with RedisCache(redis_url, limits=LIMITS, timeouts=PATIENT) as cache:
        cache.begin(redis_prefix)
        await settled(cache)
        yield cache


async def named(client: Any, prefix: str, key: Key) -> tuple[bytes, bytes]:
    """The keys of a session's copy and content."""
    names = sorted([name async for name in client.scan_iter(f"{prefix}*{{{key[1]}/{key[0]}}}*", count=1000)])
    return names[0], names[0] + b"c"


async def tail_of(client: Any, name: bytes) -> bytes:
    tail = await client.lindex(name, -1)
    assert isinstance(tail, bytes)
    return tail


async def another_type(client: Any, name: bytes, content: bytes) -> None:
    await client.set(name, "somebody else's")


async def a_hash(client: Any, name: bytes, content: bytes) -> None:
    await client.delete(name)
    await client.hset(name, "field", "value")


async def noise(client: Any, name: bytes, content: bytes) -> None:
    await client.lset(name, -1, b"\xff\x00noise")


async def an_empty_tail(client: Any, name: bytes, content: bytes) -> None:
    await client.lset(name, -1, b"")


async def a_tail_cut_short(client: Any, name: bytes, content: bytes) -> None:
    await client.lset(name, -1, (await tail_of(client, name))[:-1])


async def a_tail_cut_in_its_numbers(client: Any, name: bytes, content: bytes) -> None:
    await client.lset(name, -1, (await tail_of(client, name))[:20])


async def a_bit_of_the_session(client: Any, name: bytes, content: bytes) -> None:
    tail = bytearray(await tail_of(client, name))
    tail[-1] ^= 1
    await client.lset(name, -1, bytes(tail))


async def a_higher_version(client: Any, name: bytes, content: bytes) -> None:
    tail = await tail_of(client, name)
    await client.lset(name, -1, tail[:1] + b"%016d" % 9 + tail[17:])


async def a_reach_that_is_no_number(client: Any, name: bytes, content: bytes) -> None:
    tail = await tail_of(client, name)
    await client.lset(name, -1, tail[:17] + b"-" * 16 + tail[33:])


async def a_layout_before_checksums(client: Any, name: bytes, content: bytes) -> None:
    await client.lset(name, -1, (await tail_of(client, name))[:-4])


async def more_behind_the_tail(client: Any, name: bytes, content: bytes) -> None:
    await client.rpush(name, b"%016d" % 8)


async def a_mark_that_is_none(client: Any, name: bytes, content: bytes) -> None:
    await client.lset(name, -1, b"F12")


async def a_message_of_noise(client: Any, name: bytes, content: bytes) -> None:
    await client.lset(name, 1, b"noise")


async def a_bit_of_a_message(client: Any, name: bytes, content: bytes) -> None:
    message = bytearray(placed(5, b"message 5"))
    message[-1] ^= 1
    await client.lset(name, 1, bytes(message))


async def a_message_out_of_place(client: Any, name: bytes, content: bytes) -> None:
    await client.lset(name, 1, placed(2, b"message 2"))


async def a_message_too_many(client: Any, name: bytes, content: bytes) -> None:
    await client.lset(name, 1, placed(6, b"message 6"))


async def content_of_another_type(client: Any, name: bytes, content: bytes) -> None:
    await client.delete(content)
    await client.rpush(content, b"a list")


async def content_of_noise(client: Any, name: bytes, content: bytes) -> None:
    await client.set(content, b"noise")


async def a_bit_of_the_content(client: Any, name: bytes, content: bytes) -> None:
    held = bytearray(placed(2, b"content"))
    held[-1] ^= 1
    await client.set(content, bytes(held))


Damage = Callable[[Any, bytes, bytes], Awaitable[None]]

DAMAGES: list[Damage] = [
    another_type,
    a_hash,
    noise,
    an_empty_tail,
    a_tail_cut_short,
    a_tail_cut_in_its_numbers,
    a_bit_of_the_session,
    a_higher_version,
    a_reach_that_is_no_number,
    a_layout_before_checksums,
    more_behind_the_tail,
    a_mark_that_is_none,
    a_message_of_noise,
    a_bit_of_a_message,
    a_message_out_of_place,
    a_message_too_many,
    content_of_another_type,
    content_of_noise,
    a_bit_of_the_content,
]


async def read(cache: RedisCache, key: Key = KEY) -> Copy | None:
    async with asyncio.timeout(20):
        return await cache.get(key, content=True, newest=ALL)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_entry_is_a_miss_and_is_replaced(
    damage: Damage, cache: RedisCache, client: Any, redis_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    await put(cache, WHOLE)
    await put(cache, WHOLE, OTHER)
    await damage(client, *await named(client, redis_prefix, KEY))
    # Of one pipeline: the damage of one is no matter of the others.
    found = await asyncio.gather(read(cache, OTHER), read(cache), read(cache, OTHER))
    assert list(found) == [WHOLE, None, WHOLE]
    assert cache.state().unreadable == 1
    assert await put(cache, WHOLE)
    assert await read(cache) == WHOLE
    assert cache.state().unreadable == 1
    assert cache.ready
    assert "cannot be used" not in caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
async def test_commit_replaces_a_damaged_entry_that_was_not_read(
    damage: Damage, cache: RedisCache, client: Any, redis_prefix: str
) -> None:
    await put(cache, WHOLE)
    await damage(client, *await named(client, redis_prefix, KEY))
    newer = copy(12, 11, 12, after=10, content_version=12, content=b"new")
    assert await put(cache, newer, extends=True)
    assert await read(cache) == newer


@pytest.mark.parametrize("damage", [another_type, noise, an_empty_tail, a_tail_cut_in_its_numbers])
async def test_deletion_removes_a_damaged_entry(
    damage: Damage, cache: RedisCache, client: Any, redis_prefix: str
) -> None:
    await put(cache, WHOLE)
    await damage(client, *await named(client, redis_prefix, KEY))
    name, _ = await named(client, redis_prefix, KEY)
    await forget(cache, 8)
    assert await client.lrange(name, 0, -1) == [b"F%016d" % 8]


async def test_entry_under_the_key_of_another_session_is_not_served(
    cache: RedisCache, client: Any, redis_prefix: str
) -> None:
    await put(cache, WHOLE)
    await put(cache, WHOLE, OTHER)
    (mine, _), (other, _) = await named(client, redis_prefix, KEY), await named(client, redis_prefix, OTHER)
    await client.delete(mine)
    await client.copy(other, mine)
    assert await read(cache) is None
    assert await read(cache, OTHER) == WHOLE
    assert cache.state().unreadable == 1


async def test_entries_of_another_layout_have_other_keys(
    cache: RedisCache, client: Any, redis_prefix: str, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    """During an upgrade, servers of two layouts share one epoch."""
    await put(cache, WHOLE)
    monkeypatch.setattr(entries, "LAYOUT", b"another")
    async with RedisCache(redis_url, limits=LIMITS, timeouts=PATIENT) as upgraded:
        upgraded.begin(redis_prefix)
        await settled(upgraded)
        assert await read(upgraded) is None
        await put(upgraded, copy(8, core=b"in another layout"))
        assert await read(cache) == WHOLE
        assert (cache.state().unreadable, upgraded.state().unreadable) == (0, 0)


async def newest(store: CachedSessions) -> MessagesPage:
    return await store.list_messages(SCOPE, "s", after_seq=0, before_seq=0, descending=True, limit=3)


async def test_read_of_a_damaged_entry_is_answered_by_the_store(
    cache: RedisCache, client: Any, redis_prefix: str
) -> None:
    store, key = MemoryStore(), (SCOPE.tenant_id, "s")
    async with CachedSessions(store, store, cache) as cached, asyncio.timeout(20):
        await accepted(cached, CALLER.create("s", state=struct(a=1)), CALLER.append("s", "one"))
        truth = await store.get_session(SCOPE, "s", content=True)
        for damage in (noise, a_bit_of_the_session, a_message_of_noise):
            assert await cached.get_session(SCOPE, "s", content=True) == truth
            page = await newest(cached)
            assert texts(page.messages) == ["one"]
            assert cached.state().dirty == 0
            misses = cached.state().misses
            await damage(client, *await named(client, redis_prefix, key))
            assert texts((await newest(cached)).messages) == ["one"]
            assert cached.state().misses == misses + 1
            while await cache.get(key, content=True, newest=ALL) is None:  # noqa: ASYNC110 - the fill is on its way
                await asyncio.sleep(0)
            assert texts((await newest(cached)).messages) == ["one"]
            assert cached.state().misses == misses + 1
        assert cached.state().cache.unreadable == 3
