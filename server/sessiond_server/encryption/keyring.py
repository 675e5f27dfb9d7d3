"""The data keys of tenants, as one server knows them: a bounded cache that learns of changes within a second."""

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Protocol

from sessiond_server.encryption.envelope import KEY_BYTES, DataKey
from sessiond_server.encryption.wrapping import CannotUnwrap, KeyEncryption, Wrapped
from sessiond_server.errors import SessiondError, StoreUnavailable, TenantKeyDestroyed, TenantKeyUnavailable

_log = logging.getLogger("sessiond.encryption")

WATCH_SECONDS: Final = 0.5
"""Between two looks for changed keys."""
TRUSTED_SECONDS: Final = 5.0
"""How long keys may be used without a look that succeeded. So a server that is cut off from the database, and may not
know of a destroyed key, stops using it."""
MOST_CORES: Final = 20_000
MOST_CORE_BYTES: Final = 32 * 1024 * 1024
"""Of `SealedCores`."""
KEPT_SECONDS: Final = 300.0
"""How long an entry is kept: a tenant that comes back from another database may have other keys."""
FAILED_SECONDS: Final = 2.0
"""As KEPT_SECONDS, of a tenant whose keys could not be unwrapped."""
MOST_TENANTS: Final = 10_000
"""Tenants whose keys are kept, about a kilobyte each."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A data key as the store has it."""

    tenant_id: str
    id: int
    """Random, of 63 bits."""
    wrapped: Wrapped | None
    """None: it was destroyed."""
    active: bool
    """Whether it may seal."""


@dataclass(frozen=True, slots=True)
class Encryption:
    """How contents are encrypted."""

    keks: KeyEncryption
    seals: bool = True
    """Whether what is written is encrypted; if not, what is encrypted already is read."""


class KeyStore(Protocol):
    """Where wrapped data keys are. Every method raises StoreUnavailable."""

    async def keys(self, tenant_id: str) -> Sequence[StoredKey]:
        """The keys of the tenant, oldest first."""
        ...

    async def add_first_key(self, key: StoredKey) -> None:
        """Adds a key unless the tenant has one already."""
        ...

    async def changed(self, since: int) -> tuple[int, Collection[str]]:
        """The current version of the keys, and the tenants whose keys have changed since an earlier one. With `since`
        negative, no tenants."""
        ...


@dataclass(slots=True)
class TenantKeys:
    """The keys of one tenant."""

    tenant_id: str
    by_id: dict[int, DataKey] = field(default_factory=dict)
    first: DataKey | None = None
    """The oldest, from which tokens are derived."""
    active: DataKey | None = None
    """The one that seals. None: the tenant has none yet."""
    refusal: Callable[[], TenantKeyDestroyed | TenantKeyUnavailable] | None = None
    """Makes the error for a tenant whose contents cannot be read."""
    until: float = 0.0
    """`monotonic` until which the entry is used."""


def context(tenant_id: str, key_id: int) -> bytes:
    """To what a wrapped data key is bound."""
    return b"sessiond data key %d of %s" % (key_id, tenant_id.encode())


async def new_key(tenant_id: str, keks: KeyEncryption, *, active: bool) -> StoredKey:
    """A new random data key, wrapped. Raises CannotUnwrap."""
    key_id = int.from_bytes(os.urandom(8), "big") >> 1
    wrapped = await keks.wrap(os.urandom(KEY_BYTES), context(tenant_id, key_id))
    return StoredKey(tenant_id, key_id, wrapped, active)


class SealedCores:
    """The cores of sessions as they were sealed last, by which an optimistic write tells whether what is stored is what
    it was decided on. Bounded; what is not here goes through the locked path."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[bytes, bytes]] = OrderedDict()
        self._bytes = 0

    def note(self, key: tuple[str, str], core: bytes, sealed: bytes) -> None:
        before = self._kept.pop(key, None)
        self._kept[key] = core, sealed
        self._bytes += len(core) + len(sealed) - (len(before[0]) + len(before[1]) if before else 0)
        while len(self._kept) > MOST_CORES or self._bytes > MOST_CORE_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest[0]) + len(oldest[1])

    def of(self, key: tuple[str, str], core: bytes) -> bytes | None:
        """The core as it was sealed; None if it is not known. It may not be what is stored."""
        found = self._kept.get(key)
        return found[1] if found is not None and found[0] == core else None


async def check_unwraps(keks: KeyEncryption, keys: Iterable[StoredKey]) -> None:
    """Raises CannotUnwrap if one of the keys cannot be unwrapped, or none could be wrapped."""
    await keks.current()
    for key in keys:
        if key.wrapped is not None:
            await keks.unwrap(key.wrapped, context(key.tenant_id, key.id))


class Keyring:
    """The data keys of tenants. Use as `async with`; belongs to one event loop."""

    def __init__(
        self, store: KeyStore, keks: KeyEncryption, *, seals: bool = True, clock: Callable[[], float] = monotonic
    ) -> None:
        """`seals`: whether what is written is encrypted; if not, only what is encrypted already is read."""
        self.seals = seals
        self.cores = SealedCores()
        self._store = store
        self._keks = keks
        self._clock = clock
        self._tenants: OrderedDict[str, TenantKeys] = OrderedDict()
        self._loading: dict[str, asyncio.Task[TenantKeys]] = {}
        self._version = -1
        self._trusted_until = 0.0
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Keyring":
        self._watch = asyncio.get_running_loop().create_task(self._watching(), name="data keys")
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._loading.values(), *([self._watch] if self._watch else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def known(self, tenant_id: str) -> TenantKeys | None:
        """The tenant's keys if they are at hand and may be trusted. No I/O."""
        found = self._tenants.get(tenant_id)
        if found is None:
            return None
        now = self._clock()
        return found if now < self._trusted_until and now < found.until else None

    async def of(self, tenant_id: str) -> TenantKeys:
        """The tenant's keys. Raises StoreUnavailable; TenantKeyDestroyed, TenantKeyUnavailable."""
        found = self.known(tenant_id) or await self._loaded(tenant_id)
        if found.refusal is not None:
            raise found.refusal()
        return found

    async def sealing(self, tenant_id: str) -> TenantKeys:
        """As `of`, and the tenant has an active key: the first one is made here. Raises StoreUnavailable also if the
        tenant lives in another database."""
        found = await self.of(tenant_id)
        if found.active is None:
            try:
                await self._store.add_first_key(await new_key(tenant_id, self._keks, active=True))
            except CannotUnwrap as error:
                _log.error("no data key can be made: %s", error)
                raise TenantKeyUnavailable from error
            self.forget(tenant_id)
            found = await self.of(tenant_id)
            if found.active is None:
                raise StoreUnavailable(elsewhere=True)
        return found

    def key(self, tenant_id: str) -> DataKey:
        """The key that seals for a tenant of which `sealing` has returned. Raises StoreUnavailable if it is not at hand
        any more; nothing was written then."""
        found = self._tenants.get(tenant_id)
        if found is None or found.active is None:
            raise StoreUnavailable(divisible=True)
        return found.active

    def tokens(self, tenant_id: str) -> DataKey:
        """As `key`, the key of which tokens are derived: it stays the same when data keys are rotated."""
        found = self._tenants.get(tenant_id)
        if found is None or found.first is None:
            raise StoreUnavailable(divisible=True)
        return found.first

    async def refusals(self, tenants: Iterable[str]) -> dict[str, SessiondError]:
        """Prepares to write for the tenants, and returns the errors of those for which it cannot. Raises
        StoreUnavailable."""
        found: dict[str, SessiondError] = {}
        for tenant_id in tenants:
            keys = self.known(tenant_id)
            if keys is not None and keys.refusal is None and (keys.active is not None or not self.seals):
                continue
            try:
                await (self.sealing(tenant_id) if self.seals else self.of(tenant_id))
            except (TenantKeyDestroyed, TenantKeyUnavailable) as error:
                found[tenant_id] = error
            except StoreUnavailable as error:
                if not error.elsewhere:
                    raise
                found[tenant_id] = error
        return found

    def closed(self) -> Sequence[str]:
        """Tenants whose contents cannot be read for now, as far as this server knows: work on the sessions of all
        tenants leaves them out, at most FAILED_SECONDS longer than it lasts."""
        return [tenant_id for tenant_id, keys in self._tenants.items() if keys.refusal is not None]

    def forget(self, tenant_id: str) -> None:
        """Makes the next use read the tenant's keys anew."""
        self._tenants.pop(tenant_id, None)

    async def check(self, keys: Iterable[StoredKey]) -> None:
        """See `check_unwraps`."""
        await check_unwraps(self._keks, keys)

    async def _loaded(self, tenant_id: str) -> TenantKeys:
        """Reads the keys of a tenant, once for all that ask meanwhile."""
        task = self._loading.get(tenant_id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._load(tenant_id), name="data keys of a tenant")
            self._loading[tenant_id] = task
            task.add_done_callback(lambda _: self._loading.pop(tenant_id, None))
        return await asyncio.shield(task)

    async def _load(self, tenant_id: str) -> TenantKeys:
        if self._clock() >= self._trusted_until:
            await self._look()
        version = self._version
        found = TenantKeys(tenant_id)
        kept = KEPT_SECONDS
        for stored in await self._store.keys(tenant_id):
            if stored.wrapped is None:
                found.refusal = TenantKeyDestroyed
                break
            try:
                secret = await self._keks.unwrap(stored.wrapped, context(tenant_id, stored.id))
            except CannotUnwrap as error:
                _log.error("a data key cannot be used: %s", error)
                found.refusal, kept = TenantKeyUnavailable, FAILED_SECONDS
                break
            key = found.by_id[stored.id] = DataKey(tenant_id, stored.id, secret)
            found.first = found.first or key
            if stored.active:
                found.active = key
        found.until = self._clock() + kept
        if version == self._version:
            # Else the keys may have changed since they were read; this caller has them, the next one reads them anew.
            self._tenants[tenant_id] = found
            while len(self._tenants) > MOST_TENANTS:
                self._tenants.popitem(last=False)
        return found

    async def _look(self) -> None:
        """Forgets the tenants whose keys have changed."""
        asked = self._clock()
        version, tenants = await self._store.changed(self._version)
        for tenant_id in tenants:
            self.forget(tenant_id)
        self._version = version
        self._trusted_until = asked + TRUSTED_SECONDS

    async def _watching(self) -> None:
        while True:
            with suppress(StoreUnavailable):
                await self._look()
            await asyncio.sleep(WATCH_SECONDS)
