"""Every sentence of the cache's contract, over every cache."""

import random

import pytest

from sessiond_server.domain.rows import Key
from sessiond_server.store.cached.contract import ALL, EMBARGO, MAX_AGE, Cache, CacheTime, Change, Forget, Put
from tests.support.cached_copies import KEY, copy, forget, put, seqs, settled
from tests.support.caches import LIMITS, Backend
from tests.support.odd_ids import ODD_IDS
from tests.support.waiting import until


async def test_entry_is_returned_as_it_was_put(cache: Cache) -> None:
    what = copy(7, 3, 5, 6, after=1, content_version=2, content=b"\x00content\xff", core=b"\r\n\x00core")
    assert await put(cache, what)
    assert await cache.get(KEY, content=True, newest=ALL) == what
    assert await cache.get(KEY, newest=ALL) == what._replace(content=None)
    assert await cache.get(KEY, content=True) == what._replace(messages=[])
    assert await cache.get(("acme", "s2")) is None


@pytest.mark.parametrize("newest", [1, 2, 3, 4])
async def test_newest_messages_are_returned(cache: Cache, newest: int) -> None:
    await put(cache, copy(9, 3, 5, 6, after=1))
    found = await cache.get(KEY, newest=newest)
    assert seqs(found) == [3, 5, 6][-newest:]
    assert found is not None
    assert found.after_seq == {1: 5, 2: 4, 3: 2, 4: 1}[newest]


async def test_older_entry_never_replaces_a_newer_one(cache: Cache) -> None:
    await put(cache, copy(7, 6, after=5))
    assert await put(cache, copy(6, 6, after=0)), "outdone is as good as in place"
    found = await cache.get(KEY, newest=ALL)
    assert found is not None
    assert (found.version, found.after_seq) == (7, 5)


async def test_longer_window_wins_at_the_same_version(cache: Cache) -> None:
    await put(cache, copy(7))
    assert seqs(await cache.get(KEY, newest=ALL)) == []
    await put(cache, copy(7, 3, 5, after=2))
    assert seqs(await cache.get(KEY, newest=ALL)) == [3, 5]
    await put(cache, copy(7, 5, after=4))
    assert seqs(await cache.get(KEY, newest=ALL)) == [3, 5]


async def test_a_commit_extends_the_version_it_followed(cache: Cache) -> None:
    await put(cache, copy(3, 2, 3, after=0, content_version=1, content=b"c"))
    await put(cache, copy(5, 4, 5, after=3, content_version=1), extends=True)
    await put(cache, copy(6, after=5, content_version=1), extends=True)
    found = await cache.get(KEY, content=True, newest=ALL)
    assert found == copy(6, 2, 3, 4, 5, after=0, content_version=1, content=b"c")


@pytest.mark.parametrize("held", [1, 2, 4])
async def test_window_is_not_extended_over_a_gap_or_an_overlap(cache: Cache, held: int) -> None:
    await put(cache, copy(held, 1, after=0))
    await put(cache, copy(5, 4, 5, after=3), extends=True)
    found = await cache.get(KEY, newest=ALL)
    assert found == copy(5, 4, 5, after=3)


async def test_window_of_a_fill_is_not_joined_with_the_cached_one(cache: Cache) -> None:
    """A message may have been redacted in between without an invalidation."""
    await put(cache, copy(3, 2, 3, after=0))
    await put(cache, copy(4, 4, after=3), extends=False)
    assert seqs(await cache.get(KEY, newest=ALL)) == [4]


async def test_no_more_messages_than_the_limit(cache: Cache) -> None:
    await put(cache, copy(4, 1, 2, 3, 4, after=0))
    await put(cache, copy(7, 6, 7, after=4), extends=True)
    found = await cache.get(KEY, newest=ALL)
    assert found is not None
    assert (seqs(found), found.after_seq) == ([2, 3, 4, 6, 7], 1)
    await put(cache, copy(20, *range(10, 21), after=9))
    found = await cache.get(KEY, newest=ALL)
    assert found is not None
    assert (seqs(found), found.after_seq) == ([16, 17, 18, 19, 20], 15)


async def test_no_more_bytes_of_messages_than_the_limit(cache: Cache) -> None:
    await put(cache, copy(2, 1, 2, after=0, body=b"x" * 400))
    await put(cache, copy(3, 3, after=2, body=b"x" * 400), extends=True)
    found = await cache.get(KEY, newest=ALL)
    assert found is not None
    assert (seqs(found), found.after_seq) == ([2, 3], 1)
    await put(cache, copy(4, 4, after=3, body=b"x" * 2000), extends=True)
    found = await cache.get(KEY, newest=ALL)
    assert found is not None
    assert (found.version, seqs(found), found.after_seq) == (4, [], 4)


async def test_content_belongs_to_its_version(cache: Cache) -> None:
    async def content() -> bytes | None:
        found = await cache.get(KEY, content=True)
        assert found is not None
        return found.content

    await put(cache, copy(1))
    assert await content() == b"", "there is none"
    await put(cache, copy(2, content_version=2))
    assert await content() is None, "unknown"
    await put(cache, copy(2, content_version=2, content=b"two"))
    assert await content() == b"two", "learned at the same version"
    await put(cache, copy(3, content_version=2))
    assert await content() == b"two", "unchanged"
    await put(cache, copy(4, content_version=4))
    assert await content() is None, "of an older version"
    await put(cache, copy(5, content_version=5, content=b""))
    assert await content() == b"", "empty"
    await put(cache, copy(6, content_version=6, content=b"x" * (LIMITS.content_bytes + 1)))
    assert await content() is None, "too large"


async def test_tombstone_removes_the_entry_and_refuses_older_ones(cache: Cache) -> None:
    await put(cache, copy(7, 6, after=5, content_version=1, content=b"c"))
    assert await forget(cache, 8)
    assert await cache.get(KEY, content=True, newest=ALL) is None
    assert await cache.get(KEY, content=True) is None
    assert await put(cache, copy(7))
    assert await cache.get(KEY) is None
    await put(cache, copy(8, content_version=1))
    assert await cache.get(KEY, content=True, newest=3) == copy(8, content_version=1)


async def test_tombstone_of_an_absent_entry_refuses_older_ones(cache: Cache) -> None:
    await forget(cache, 8)
    await put(cache, copy(7))
    assert await cache.get(KEY) is None


async def test_tombstone_keeps_newer_entries(cache: Cache) -> None:
    await put(cache, copy(8, 8, after=7))
    await forget(cache, 8)
    assert seqs(await cache.get(KEY, newest=ALL)) == [8]
    await forget(cache, 9)
    await forget(cache, 5)
    await put(cache, copy(8))
    assert await cache.get(KEY) is None, "a later, weaker order took nothing back"


async def test_embargo_refuses_every_version(cache: Cache) -> None:
    await put(cache, copy(8))
    await forget(cache, EMBARGO)
    await put(cache, copy(10**12))
    assert await cache.get(KEY) is None


async def test_fill_from_a_read_that_is_too_old_is_refused(cache: Cache) -> None:
    assert not await put(cache, copy(8), as_of=earlier(cache, MAX_AGE + 1))
    await settled(cache)
    assert await cache.get(KEY) is None
    assert await put(cache, copy(8), as_of=earlier(cache, MAX_AGE - 5))
    assert await cache.get(KEY) is not None


def earlier(cache: Cache, seconds: float) -> CacheTime:
    moment = cache.moment()
    return moment._replace(time=moment.time - seconds)


async def test_fill_from_before_the_epoch_is_refused(cache: Cache) -> None:
    """Newer entries vanished with the epoch before, so a slow reader's stale entry would be the only one."""
    before = cache.moment()
    await put(cache, copy(7))
    cache.new_epoch()
    await settled(cache)
    assert not await put(cache, copy(6), as_of=before)
    cache.offer(Put(KEY, copy(6), before))
    await put(cache, copy(1), ("acme", "other"))
    assert await cache.get(KEY) is None
    assert await forget(cache, 8), "an order is as good as ever"
    await put(cache, copy(7))
    assert await cache.get(KEY) is None


async def test_entries_and_tombstones_expire(backend: Backend) -> None:
    cache = await backend.open()
    for number in range(20):
        key = ("acme", f"s{number}")
        await put(cache, copy(2, content_version=1, content=b"c"), key)
        await put(cache, copy(3, content_version=1), key)
    lives = await backend.lifetimes()
    assert len(lives) == 40
    assert 0.8 * LIMITS.ttl - 5 < min(lives) < max(lives) <= LIMITS.ttl
    assert len({round(life, 1) for life in lives}) > 5, "they do not vanish together"
    await forget(cache, 9, ("acme", "gone"))
    assert max(await backend.lifetimes()) > max(MAX_AGE, 0.9 * LIMITS.ttl), "longer than what was read before can take"


async def test_keys_do_not_collide(cache: Cache) -> None:
    keys = [("acme", "a"), ("acme", "b"), ("globex", "a"), ("acm", "e.a"), ("}{", "a"), ("é \n", "a"), ("", "a")]
    for number, key in enumerate(keys, 1):
        await put(
            cache, copy(number, content_version=number, content=b"%d" % number, user_id=f"user\r\n é {number}"), key
        )
    for number, key in enumerate(keys, 1):
        assert await cache.get(key, content=True) == copy(
            number, content_version=number, content=b"%d" % number, user_id=f"user\r\n é {number}"
        )


async def test_batches_change_and_read_many_entries(cache: Cache) -> None:
    keys = [("acme", f"s{number}") for number in range(300)]
    changes: list[Change] = [Put(key, copy(number + 1, content_version=1, content=key[1].encode()), cache.moment())
                             for number, key in enumerate(keys)]  # fmt: skip
    changes += [Forget(key, 10**6) for key in keys[::3]]
    assert list(await cache.put(changes)) == [True] * 400
    answers = [cache.get(key, content=bool(number % 2), newest=number % 3) for number, key in enumerate(keys)]
    answers[1].cancel()
    for number, (key, answer) in enumerate(zip(keys, answers, strict=True)):
        if number == 1:
            continue  # cancelled, to no harm of the others
        if number % 3 == 0:
            assert await answer is None
        else:
            content = key[1].encode() if number % 2 else None
            assert await answer == copy(number + 1, content_version=1, content=content)
    assert list(await cache.put([])) == []


async def test_offered_fill_is_stored(cache: Cache) -> None:
    cache.offer(Put(KEY, copy(5), cache.moment()))
    await put(cache, copy(1), ("acme", "other"))
    assert await cache.get(KEY) == copy(5)


async def test_processes_share_entries(backend: Backend) -> None:
    one, other = await backend.open(), await backend.open()
    await put(one, copy(5))
    assert await other.get(KEY) == copy(5)
    await put(other, copy(6))
    assert await one.get(KEY) == copy(6)


async def test_new_epoch_hides_entries_from_every_process(backend: Backend) -> None:
    one, other = await backend.open(), await backend.open()
    await put(one, copy(5))
    one.new_epoch()
    await settled(one)
    assert await one.get(KEY) is None
    assert await other.get(KEY) is None
    await settled(other)
    assert await put(other, copy(4))
    assert await one.get(KEY) == copy(4)
    assert one.state().epochs >= 1
    assert other.state().epochs >= 1


async def test_change_in_a_past_epoch_is_reported_as_failed(backend: Backend) -> None:
    one, other = await backend.open(), await backend.open()
    one.new_epoch()
    await settled(one)
    await put(one, copy(1), ("acme", "begun"))
    keys = [("acme", f"s{number}") for number in range(20)]
    told = await other.put([Put(key, copy(5), other.moment()) for key in keys])
    assert not any(told)
    await settled(other)
    assert all(await other.put([Put(key, copy(5), other.moment()) for key in keys]))
    assert await one.get(keys[0]) == copy(5)


async def test_server_that_lost_its_memory_starts_a_new_epoch(backend: Backend) -> None:
    """A slow reader's stale entry, put after the loss, is never served: no newer entry exists that would refuse it."""
    one, other = await backend.open(), await backend.open()
    await put(one, copy(5))
    await backend.flush()
    assert not await put(other, copy(4))
    await settled(other)
    assert await other.get(KEY) is None
    assert await one.get(KEY) is None
    await settled(one)
    assert await put(one, copy(5))


async def test_entries_of_another_server_are_not_served(backend: Backend) -> None:
    """A lagging replica, or a restart from a file, has entries that the old server had some time ago."""
    one = await backend.open()
    await put(one, copy(5))
    await backend.swap()
    other = await backend.open()
    assert await other.get(KEY) is None
    assert await one.get(KEY) is None
    await settled(one)
    await put(one, copy(6))
    assert await one.get(KEY) == copy(6)


async def test_expired_entry_can_be_filled_again(backend: Backend) -> None:
    cache = await backend.open()
    await put(cache, copy(5, 4, after=3))
    await backend.lapse()
    assert await cache.get(KEY) is None
    await put(cache, copy(5, 4, after=3))
    assert seqs(await cache.get(KEY, newest=2)) == [4]


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_of_changes_leaves_the_newest(cache: Cache, seed: int) -> None:
    chance = random.Random(seed)
    highest: dict[str, int] = {}
    changes: list[Change] = []
    for _ in range(400):
        session_id, version = f"s{chance.randrange(10)}", chance.randrange(1, 50)
        if chance.random() < 0.2:
            changes.append(Forget(("acme", session_id), version))
        else:
            reach = chance.randrange(version)
            changes.append(
                Put(("acme", session_id), copy(version, version, after=reach), cache.moment(), chance.random() < 0.5)
            )
        highest[session_id] = max(highest.get(session_id, 0), version)
    assert all(await cache.put(changes))
    for session_id, version in highest.items():
        found = await cache.get(("acme", session_id), newest=ALL)
        last = [c for c in changes if c.key[1] == session_id]
        puts = [c.copy.version for c in last if isinstance(c, Put)]
        forgets = [c.version for c in last if isinstance(c, Forget)]
        assert found is None or found.version == version
        if max(puts, default=0) > max(forgets, default=0):
            assert found is not None
            assert seqs(found)[-1] == version


@pytest.mark.parametrize("under_it", ["commit", "deletion"])
async def test_what_an_embargo_kept_out_outlasts_it(cache: Cache, backend: Backend, under_it: str) -> None:
    """A read from before a commit that was made under the embargo may arrive when the embargo is over."""
    await forget(cache, EMBARGO)
    await backend.age(LIMITS.ttl - 0.5)
    before = cache.moment()
    if under_it == "commit":
        assert await put(cache, copy(8, 8, after=7), extends=True)
    else:
        assert await forget(cache, 8)
    assert min(await backend.lifetimes()) > MAX_AGE

    async def newer_ones_are_taken() -> bool:
        (done,) = await cache.put([Put(KEY, copy(7, 7, after=6), before)])
        assert done, "outdone is as good as in place"
        assert await cache.get(KEY) is None, "older than what was committed"
        await put(cache, copy(8, 8, after=7))
        return await cache.get(KEY) is not None

    await until(newer_ones_are_taken)
    assert seqs(await cache.get(KEY, newest=ALL)) == [8]


async def test_an_embargo_over_another_lasts_anew(cache: Cache, backend: Backend) -> None:
    await forget(cache, EMBARGO)
    await backend.age(LIMITS.ttl - 5.0)
    assert await forget(cache, EMBARGO)
    assert min(await backend.lifetimes()) > LIMITS.ttl - 5.0
    await backend.age(LIMITS.ttl - 5.0)
    await put(cache, copy(8))
    assert await forget(cache, EMBARGO)
    assert min(await backend.lifetimes()) > LIMITS.ttl - 5.0
    await backend.age(10.0)
    await put(cache, copy(9))
    assert await cache.get(KEY) is None


async def test_sessions_of_every_id_have_copies_of_their_own(backend: Backend) -> None:
    keys: list[Key] = [(tenant_id, session_id) for tenant_id in ("acme", "a") for session_id in ODD_IDS]
    cache, other = await backend.open(), await backend.open()
    for number, key in enumerate(keys, 1):
        made = copy(number, number, after=0, user_id=key[1], content_version=number, content=b"%d" % number)
        assert await put(cache, made, key)
    for number, key in enumerate(keys, 1):
        made = copy(number, number, after=0, user_id=key[1], content_version=number, content=b"%d" % number)
        assert await other.get(key, content=True, newest=ALL) == made
    assert all([await forget(cache, 1000, key) for key in keys[::2]])
    assert [await other.get(key) is None for key in keys] == [True, False] * (len(keys) // 2)
