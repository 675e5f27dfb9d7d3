"""Opens the bus between the processes that serve one database: NOTIFY, and Redis if the settings name one."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sessiond_server.events.bus import Bus
from sessiond_server.events.combined_bus import CombinedBus
from sessiond_server.memory.bus import MemoryBus
from sessiond_server.settings import Settings


@asynccontextmanager
async def opened_bus(
    settings: Settings, dsn: str | None, redis_url: str | None
) -> AsyncIterator[tuple[Bus, Callable[[str], None]]]:
    """The bus, and a function that begins it with the database's id, which the names of its channels contain."""
    if settings.store == "memory":
        yield MemoryBus(), lambda prefix: None
        return
    from sessiond_server.postgres.bus import NotifyBus

    assert dsn is not None
    async with NotifyBus(dsn) as notify:
        if redis_url is None:
            yield notify, notify.begin
            return
        from sessiond_server.redis.bus import RedisBus

        async with RedisBus(redis_url) as redis:

            def begin(prefix: str) -> None:
                notify.begin(prefix)
                redis.begin(prefix)

            yield CombinedBus(redis, notify), begin
