"""The caches that the suite runs over."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from sessiond_server.store.cached.contract import Cache
from tests.support.caches import Backend, memory_backend, redis_backend
from tests.support.redis_cluster import ClusterOfThree


@pytest.fixture(params=["memory", "redis", "cluster"])
def urls(request: pytest.FixtureRequest) -> Sequence[str]:
    """The servers; none for the cache in memory. Started here, where no event loop runs yet."""
    if request.param == "memory":
        return []
    if request.param == "redis":
        return [request.getfixturevalue("redis_url")]
    cluster: ClusterOfThree = request.getfixturevalue("cluster_of_three")
    return [server.url for server in cluster.servers]


@pytest.fixture
async def backend(urls: Sequence[str], redis_prefix: str) -> AsyncIterator[Backend]:
    async with AsyncExitStack() as stack:
        if urls:
            yield redis_backend(
                stack, urls[0], redis_prefix, [await stack.enter_async_context(Redis.from_url(url)) for url in urls]
            )
        else:
            yield memory_backend()


@pytest.fixture
async def cache(backend: Backend) -> Cache:
    return await backend.open()
