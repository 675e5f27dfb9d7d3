"""Cache entries to put and to compare."""

import asyncio
from typing import Any

from sessiond_server.domain.rows import Key
from sessiond_server.store.cached.contract import Cache, CacheTime, Copy, Forget, Put, placed
from tests.support.waiting import PATIENCE

KEY: Key = ("acme", "s1")


def copy(version: int, *seqs: int, after: int | None = None, **fields: Any) -> Copy:
    """A copy at `version` with messages at these places, reaching back to `after` (its own version unless told)."""
    return Copy(
        version=version,
        user_id=fields.pop("user_id", "alice"),
        content_version=fields.pop("content_version", 0),
        core=fields.pop("core", b"core of %d" % version),
        content=fields.pop("content", None),
        after_seq=version if after is None else after,
        messages=[placed(seq, fields.get("body", b"message %d" % seq)) for seq in seqs],
    )


async def put(
    cache: Cache, what: Copy, key: Key = KEY, *, extends: bool = False, as_of: CacheTime | None = None
) -> bool:
    (done,) = await cache.put([Put(key, what, as_of or cache.moment(), extends)])
    return done


async def forget(cache: Cache, version: int, key: Key = KEY) -> bool:
    (done,) = await cache.put([Forget(key, version)])
    return done


def seqs(found: Copy | None) -> list[int]:
    assert found is not None
    return [int(message[:16]) for message in found.messages]


async def settled(cache: Cache) -> None:
    """Returns when every server of it is in use."""
    async with asyncio.timeout(PATIENCE):
        while not cache.state().ready:  # noqa: ASYNC110 - of a cluster, `became_ready` tells of the first
            await asyncio.sleep(0.001)
