"""`sessiond encryption`: the keys of encryption at rest (docs/encryption.md). All of it while the service runs."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Final

from sessiond_server.app import database
from sessiond_server.app.encryption import KeysUnfit, check_keys, encryption_of
from sessiond_server.auth import is_tenant
from sessiond_server.encryption.wrapping import CannotUnwrap, new_line
from sessiond_server.settings import SettingError, Settings

if TYPE_CHECKING:
    from sessiond_server.postgres.store import PostgresStore
    from sessiond_server.postgres.tenant_keys import PostgresKeyAdmin

KNOWN_SECONDS: Final = 6.0
"""After so long every server knows a new data key, or has stopped using the keys that it knows."""
SAY_SECONDS: Final = 1.0
_PAGE: Final = 500

Act = Callable[["PostgresStore", "PostgresKeyAdmin"], Awaitable[int]]


def new_key(name: str) -> int:
    """Prints a line for the file of key-encryption keys."""
    try:
        print(new_line(name))
    except ValueError as error:
        raise SettingError(f"--id {error}") from None
    return 0


def status(settings: Settings) -> int:
    return _run(settings, _status)


def rotate(settings: Settings, tenant_id: str) -> int:
    """A new data key for what is written from now on; of a tenant, or of all ("")."""
    _check(tenant_id, optional=True)
    return _run(settings, lambda _, admin: _rotate(admin, tenant_id))


def rewrap(settings: Settings) -> int:
    return _run(settings, lambda _, admin: _rewrap(admin))


def reencrypt(settings: Settings, tenant_id: str) -> int:
    """Encrypts what is in the clear, or by an older data key; of a tenant, or of all ("")."""
    _check(tenant_id, optional=True)
    return _run(settings, lambda store, _: _reencrypt(store, tenant_id))


def shred(settings: Settings, tenant_id: str, confirmed: str) -> int:
    """Destroys the keys of a tenant. `confirmed` must be the tenant once more."""
    _check(tenant_id)
    if confirmed != tenant_id:
        raise SettingError("what the tenant has stored can never be read again: repeat its name with --confirm TENANT")
    return _run(settings, lambda _, admin: _shred(admin, tenant_id))


def _check(tenant_id: str, *, optional: bool = False) -> None:
    if not (is_tenant(tenant_id) or (optional and not tenant_id)):
        raise SettingError("a tenant has 1 to 128 characters of [A-Za-z0-9._:~-]")


def _run(settings: Settings, act: Act) -> int:
    if settings.encryption_keys is None:
        raise SettingError("set --encryption-keys, as the servers have it (docs/encryption.md)")
    return asyncio.run(_acted(settings, act))


async def _acted(settings: Settings, act: Act) -> int:
    """Acts on each database."""
    from sessiond_server.postgres.tenant_keys import PostgresKeyAdmin

    encryption = encryption_of(settings)
    assert encryption is not None
    async with database.started(settings) as dsn:
        if dsn is None:
            print(f"there is no data in {settings.data_dir} yet")
            return 1
        code = 0
        for database_id in settings.database_ids:
            of_it = dsn if settings.databases is None else database.dsn_of(settings, database_id)
            assert of_it is not None
            if settings.databases is not None:
                print(f"{database_id}:")
            async with _opened(settings, of_it) as store:
                try:
                    code |= await act(store, PostgresKeyAdmin(store.unopened, encryption.keks))
                except CannotUnwrap as error:
                    raise KeysUnfit(f"--encryption-keys: {error}") from None
        return code


@asynccontextmanager
async def _opened(settings: Settings, dsn: str) -> AsyncIterator["PostgresStore"]:
    from sessiond_server.postgres.store import PostgresStore

    async with PostgresStore(dsn, max_connections=3, encryption=encryption_of(settings)) as store:
        await check_keys(store)
        yield store


async def _status(store: "PostgresStore", admin: "PostgresKeyAdmin") -> int:
    keks: Counter[str] = Counter()
    tenants = destroyed = keys = 0
    oldest = None
    last = ""
    while page := await admin.tenants(last, _PAGE):
        for each in page:
            tenants, keys, destroyed = tenants + 1, keys + each.keys, destroyed + each.destroyed
            keks.update(each.keks)
            if not each.destroyed:
                oldest = each.newest_us if oldest is None else min(oldest, each.newest_us)
        last = page[-1].tenant_id
    print(f"tenants   {tenants} with keys, {destroyed} of them destroyed")
    print(f"data keys {keys}")
    for kek, count in sorted(keks.items()):
        if kek:
            print(f"wrapped   by {kek}: those of {count} tenants")
    if oldest is not None:
        made = datetime.fromtimestamp(oldest / 1_000_000, UTC)
        print(f"oldest    newest key of a tenant: made {made:%Y-%m-%d}; sessiond encryption rotate makes new ones")
    return 0


async def _rotate(admin: "PostgresKeyAdmin", only: str) -> int:
    """All tenants at a time wait once for the servers to learn of their keys."""
    added: list[tuple[str, int]] = []
    last = ""
    while page := await admin.tenants(last, _PAGE):
        added += [
            (each.tenant_id, await admin.add(each.tenant_id))
            for each in page
            if not each.destroyed and only in ("", each.tenant_id)
        ]
        last = page[-1].tenant_id
    if not added:
        print("no tenant has a key to rotate")
        return 1 if only else 0
    await asyncio.sleep(KNOWN_SECONDS)
    for tenant_id, key_id in added:
        await admin.activate(tenant_id, key_id)
    print(f"{len(added)} tenants encrypt with a new data key; sessiond encryption reencrypt takes what there was to it")
    return 0


async def _rewrap(admin: "PostgresKeyAdmin") -> int:
    done = 0
    async for done in admin.rewrap():
        print(f"{done} data keys rewrapped", file=sys.stderr)
    print(f"done: {done} data keys rewrapped; no data key needs an older key-encryption key any more")
    return 0


async def _reencrypt(store: "PostgresStore", only: str) -> int:
    from sessiond_server.errors import TenantKeyDestroyed
    from sessiond_server.postgres.reencrypting import reencrypt

    assert store.keyring is not None
    total, said, counted = 0, 0.0, {}
    try:
        async for progress in reencrypt(store.unopened, store.keyring, only):
            counted[(progress.tenant_id, progress.table)] = progress.encrypted
            if monotonic() - said > SAY_SECONDS:
                said, total = monotonic(), sum(counted.values())
                print(f"{progress.tenant_id}: {progress.table}, {progress.looked_at} rows; {total} encrypted in all",
                      file=sys.stderr)  # fmt: skip
    except TenantKeyDestroyed:
        print(f"the key of {only} was destroyed")
        return 1
    print(f"done: {sum(counted.values())} rows encrypted")
    return 0


async def _shred(admin: "PostgresKeyAdmin", tenant_id: str) -> int:
    await admin.shred(tenant_id)
    print(f"the keys of {tenant_id} are destroyed: within a second no server reads what it had stored")
    return 0
