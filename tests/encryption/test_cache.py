"""Copies of sessions that are encrypted: what is stored of them, and who gets them."""

import asyncio
from collections.abc import Sequence

import pytest

from sessiond_server.domain.rows import Key
from sessiond_server.encryption.cache import SealedCache
from sessiond_server.memory.cache import MemoryCache, MemoryServer
from sessiond_server.store.cached.contract import Cache, Change, Copy, Put, placed
from tests.support.encryption import MemoryKeys, keyring

KEY = ("acme", "s")
COPY = Copy(3, "u", 2, b"words", b"content", 1, [placed(2, b"first"), placed(3, b"second")])


async def put(cache: Cache, copy: Copy = COPY, key: tuple[str, str] = KEY) -> bool:
    return (await cache.put([Put(key, copy, cache.moment())]))[0]


async def test_a_copy_is_got_as_it_was_put_and_stored_sealed() -> None:
    server = MemoryServer(asyncio.get_running_loop().time)
    ring = keyring()
    await ring.sealing("acme")
    cache = SealedCache(MemoryCache(server), ring)
    assert await put(cache)
    assert await cache.get(KEY, content=True, newest=2) == COPY
    stored = await MemoryCache(server).get(KEY, content=True, newest=2)
    assert stored is not None
    for word in (b"words", b"content", b"first", b"second"):
        assert word not in b"".join((stored.core, stored.content or b"", *stored.messages))
    without_content = COPY._replace(version=4, content_version=0, content=None)
    assert await put(cache, without_content)
    got = await cache.get(KEY, content=True)
    assert got is not None
    assert (got.version, got.core, got.content) == (4, b"words", b"")


async def test_a_copy_of_another_place_is_none() -> None:
    server = MemoryServer(asyncio.get_running_loop().time)
    plain = MemoryCache(server)
    ring = keyring()
    await ring.sealing("acme")
    await ring.sealing("globex")
    cache = SealedCache(plain, ring)
    await put(cache)
    stored = await plain.get(KEY, newest=2)
    assert stored is not None
    for key, copy in ((("acme", "t"), stored), (("globex", "s"), stored), (("acme", "v"), COPY)):
        assert await put(plain, copy, key)
        assert await cache.get(key, newest=2) is None


async def test_servers_that_write_in_the_clear_share_their_copies() -> None:
    server = MemoryServer(asyncio.get_running_loop().time)
    keys = MemoryKeys()
    sealing, reading = keyring(keys), keyring(keys, seals=False)
    await sealing.sealing("acme")
    await reading.of("acme")
    old, new = SealedCache(MemoryCache(server), reading), SealedCache(MemoryCache(server), sealing)
    await put(old)
    assert await old.get(KEY, content=True, newest=2) == COPY
    assert await new.get(KEY) is None
    await put(new, COPY._replace(version=4))
    assert await old.get(KEY, content=True, newest=2) == COPY._replace(version=4)


async def test_without_a_key_at_hand_there_is_no_copy() -> None:
    server = MemoryServer(asyncio.get_running_loop().time)
    keys = MemoryKeys()
    ring = keyring(keys)
    cache = SealedCache(MemoryCache(server), ring)
    assert not await put(cache)
    await ring.sealing("acme")
    assert await put(cache)
    keys.shred("acme")
    ring.forget("acme")
    assert await cache.get(KEY) is None


class Broken(MemoryCache):
    """A cache whose answers are errors."""

    def get(self, key: Key, *, content: bool = False, newest: int = 0) -> "asyncio.Future[Copy | None]":
        answer: asyncio.Future[Copy | None] = asyncio.get_running_loop().create_future()
        answer.set_exception(RuntimeError("broken"))
        return answer

    def put(self, changes: Sequence[Change]) -> "asyncio.Future[Sequence[bool]]":
        answer: asyncio.Future[Sequence[bool]] = asyncio.get_running_loop().create_future()
        answer.set_exception(RuntimeError("broken"))
        return answer


async def test_nobody_waits_for_ever_for_an_answer_that_is_an_error() -> None:
    ring = keyring()
    await ring.sealing("acme")
    cache = SealedCache(Broken(MemoryServer(asyncio.get_running_loop().time)), ring)
    with pytest.raises(RuntimeError):
        await cache.get(KEY)
    with pytest.raises(RuntimeError):  # one of the copies cannot be sealed, so that the answer is one of its own
        await cache.put([Put(KEY, COPY, cache.moment()), Put(("globex", "s"), COPY, cache.moment())])
