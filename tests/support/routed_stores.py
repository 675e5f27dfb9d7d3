"""Several databases as one store, for suites that take a whole Store: each call goes to the database where its tenant
lives, as `rpc/routing.py` sends it, and the sweeps, which every database has for itself, go to all of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, cast

from sessiond_server.domain.attachments.rows import Piece, Upload
from sessiond_server.domain.commands import Command, Scope
from sessiond_server.domain.imports.rows import Import
from sessiond_server.domain.rows import Writes
from sessiond_server.postgres.placement import give_home
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.store.commits import Applied
from sessiond_server.store.erasures import ErasureClaim
from sessiond_server.store.forks import Untold
from sessiond_server.store.log_reads import LogHeads
from sessiond_server.store.retention import Retained
from tests.support.store_backend import Backend
from tests.support.transactions import connected

IDS: Final = ("main", "eu", "us")
"""The default database first."""
_ABILITIES: Final = frozenset(
    {"attachments", "documents", "erasures", "forks", "imports", "retention", "search", "templates"}
)
_SUMS: Final = frozenset({"purge", "abandon_uploads", "release_blobs", "purge_imports", "purge_templates"})
"""What every database does for itself, with how much it did."""


def tenant_of(argument: object) -> str:
    """Whose data a call is about, by its first argument."""
    match argument:
        case Scope() | Piece() | ErasureClaim() | Retained():
            return argument.tenant_id
        case Command():
            return argument.scope.tenant_id
        case Upload():
            return argument.key[0]
        case Import():
            return argument.start.key[0]
        case str():
            return argument
        case (str(), *_):
            return cast(str, argument[0])
    raise TypeError(f"says no tenant: {argument!r}")


class Routed:
    """Has the methods of the stores, or of one of their abilities."""

    def __init__(self, parts: Mapping[str, Any], home: Callable[[str], str]) -> None:
        """`parts`: by the id of their database, the default one first."""
        self._parts = parts
        self._home = home

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in _ABILITIES:
            return Routed({each: getattr(part, name) for each, part in self._parts.items()}, self._home)
        if name == "search_upkeep":
            return _SearchUpkeep([part.search_upkeep for part in self._parts.values()])
        if name == "usage":
            return _Usage({each: part.usage for each, part in self._parts.items()}, self._home)
        if name in _SUMS:
            return self._sum(name)

        def routed(first: object, *rest: Any, **named: Any) -> Awaitable[Any]:
            answer: Awaitable[Any] = getattr(self._at(first), name)(first, *rest, **named)
            return answer

        return routed

    def _at(self, argument: object) -> Any:
        return self._parts[self._home(tenant_of(argument))]

    def _sum(self, name: str) -> Callable[[int], Awaitable[int]]:
        async def summed(limit: int) -> int:
            return sum([await getattr(part, name)(limit) for part in self._parts.values()])

        return summed

    async def _split(self, items: Sequence[Any], work: Callable[[Any, Sequence[Any]], Awaitable[Any]]) -> Any:
        """What `work` makes of each database's items, with their places."""
        places: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            places.setdefault(self._home(tenant_of(item)), []).append(place)
        done = await asyncio.gather(
            *(work(self._parts[each], [items[n] for n in numbers]) for each, numbers in places.items())
        )
        return list(zip(places.values(), done, strict=True))

    async def apply(self, commands: Sequence[Command]) -> Applied:
        results, writes = [cast(Any, None)] * len(commands), Writes()
        for places, applied in await self._split(commands, lambda part, some: part.apply(some)):
            for place, result in zip(places, applied.results, strict=True):
                results[place] = result
            writes.extend(applied.writes)
        return Applied(results, writes)

    async def log_heads(self, keys: Sequence[tuple[str, str]]) -> LogHeads:
        heads, found = [cast(Any, None)] * len(keys), cast(LogHeads | None, None)
        for places, found in await self._split(keys, lambda part, some: part.log_heads(some)):
            for place, head in zip(places, found.heads, strict=True):
                heads[place] = head
        found = found or await next(iter(self._parts.values())).log_heads(keys)
        return LogHeads(heads, found.incarnation, found.now_us, found.running)

    async def expire_due(self, limit: int) -> Writes:
        writes = Writes()
        for part in self._parts.values():
            writes.extend(await part.expire_due(limit))
        return writes

    async def claim_erasure(self, seconds: float) -> ErasureClaim | None:
        for part in self._parts.values():
            claim: ErasureClaim | None = await part.claim_erasure(seconds)
            if claim is not None:
                return claim
        return None

    async def retained_tenants(self, default_us: int, *, after: str, limit: int) -> Sequence[Retained]:
        parts = [await each.retained_tenants(default_us, after=after, limit=limit) for each in self._parts.values()]
        return sorted((kept for part in parts for kept in part), key=lambda kept: kept.tenant_id)[:limit]

    async def dropped_pieces(self, limit: int) -> Sequence[Piece]:
        return [piece for part in self._parts.values() for piece in await part.dropped_pieces(limit)]

    async def forget_pieces(self, pieces: Sequence[Piece]) -> None:
        await self._split(pieces, lambda part, some: part.forget_pieces(some))

    async def unknown_pieces(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        left = list(pieces)
        for part in self._parts.values():
            left = list(await part.unknown_pieces(left))
        return left

    async def hide(self, tenant_id: str) -> bool:
        return all([await part.hide(tenant_id) for part in self._chosen(tenant_id)])

    async def untold(self, tenant_id: str, limit: int) -> Sequence[Untold]:
        return [one for part in self._chosen(tenant_id) for one in await part.untold(tenant_id, limit)]

    async def end_spreads(self, tenant_id: str) -> bool:
        return all([await part.end_spreads(tenant_id) for part in self._chosen(tenant_id)])

    def _chosen(self, tenant_id: str) -> Sequence[Any]:
        """An empty name stands for all tenants."""
        return [self._at(tenant_id)] if tenant_id else list(self._parts.values())

    async def ping(self) -> None:
        for part in self._parts.values():
            await part.ping()

    async def token_key(self) -> bytes:
        """That of the default database: those who ask have one tenant."""
        key: bytes = await next(iter(self._parts.values())).token_key()
        return key


class _SearchUpkeep:
    """The indexing of one database after the other, for tests in which one task indexes."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts
        self._behind = parts[0]

    async def behind(self) -> Sequence[Any]:
        """The indexes of the first database that has any which are behind."""
        for part in self._parts:
            self._behind = part
            found: Sequence[Any] = await part.behind()
            if found:
                return found
        return ()

    async def advance(self, feed_id: int) -> Any:
        return await self._behind.advance(feed_id)


class _Usage(Routed):
    """Every database counts for itself."""

    async def take_lease(self, holder: str, seconds: float) -> bool:
        return all([await part.take_lease(holder, seconds) for part in self._parts.values()])

    async def count(self) -> tuple[int, bool]:
        counted = [await part.count() for part in self._parts.values()]
        return sum(events for events, _ in counted), all(done for _, done in counted)


async def place(dsns: Mapping[str, str], homes: Mapping[str, str]) -> None:
    """Makes the databases a group, and gives these tenants their homes: tenant -> id."""
    for each, dsn in dsns.items():
        async with PostgresStore(dsn, max_connections=2) as store:
            await store.claim(each, "group", empty=False)
    async with AsyncExitStack() as stack:
        to = {each: await stack.enter_async_context(connected(dsn)) for each, dsn in dsns.items()}
        for tenant, home in homes.items():
            await give_home(to[IDS[0]], to[home], tenant, home)


@asynccontextmanager
async def opened(dsns: Mapping[str, str], **settings: Any) -> AsyncIterator[Routed]:
    """A store over databases of a group."""
    async with AsyncExitStack() as stack:
        stores = {each: await stack.enter_async_context(PostgresStore(dsn, **settings)) for each, dsn in dsns.items()}
        default = stores[IDS[0]]
        await default.placement()
        yield Routed(stores, lambda tenant: default.homes.of(tenant) or IDS[0])


def backend_of(store: Routed, other: Routed, advance: Callable[[float], Awaitable[None]], dsn: str) -> Backend:
    return Backend(
        cast(Any, store),
        cast(Any, other),
        cast(Any, store),
        store.attachments,
        other.attachments,
        store.documents,
        store.erasures,
        store.retention,
        store.forks,
        store.imports,
        store.templates,
        store.usage,
        store.usage,
        advance,
        dsn,
    )
