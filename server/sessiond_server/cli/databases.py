"""`sessiond databases list | add | place`: several databases, and which tenants live where (docs/databases.md)."""

import asyncio
from collections.abc import Mapping, Sequence

from sessiond_server.app import database
from sessiond_server.app.databases import Group, WrongDatabase
from sessiond_server.auth import is_tenant
from sessiond_server.errors import StoreUnavailable
from sessiond_server.settings import SettingError, Settings, scrub


def show(settings: Settings) -> int:
    """Prints a line for each database. Exits with 1 if one of them cannot be used."""
    return asyncio.run(_show(several(settings)))


def add(settings: Settings, database_id: str) -> int:
    """Migrates a database, and gives it its id in the group of the default one. Safe to repeat."""
    return asyncio.run(_add(several(settings), database_id))


def add_all(settings: Settings) -> int:
    """Adds each database of the map; what has its id already is migrated only. Ends at the first that cannot be added,
    with its id in the error. Safe to repeat."""
    for database_id in several(settings).database_ids:
        asyncio.run(_add(settings, database_id))
    return 0


def place(settings: Settings, tenant_id: str, database_id: str) -> int:
    """Makes a database the home of a tenant that has no data yet. Safe to repeat."""
    if not is_tenant(tenant_id):
        raise SettingError("a tenant has 1 to 128 characters of [A-Za-z0-9._:~-]")
    return asyncio.run(_place(several(settings), tenant_id, database_id))


def several(settings: Settings) -> Settings:
    """The settings. Raises SettingError if they name one database only."""
    if settings.databases is None:
        raise SettingError("needs --databases and --default-database, as serve has them")
    return settings


def dsn_in(settings: Settings, database_id: str) -> str:
    """The DSN of one of several databases. Raises SettingError."""
    if database_id not in settings.database_ids:
        raise SettingError(f"--databases has none of this id; it has {', '.join(settings.database_ids)}")
    found = database.dsn_of(settings, database_id)
    assert found is not None
    return found


async def _show(settings: Settings) -> int:
    from sessiond_server.postgres.fitness import DatabaseUnfit
    from sessiond_server.postgres.moving.record import Move, under_way
    from sessiond_server.postgres.schema import migrate
    from sessiond_server.postgres.schema.migrate import connected
    from sessiond_server.postgres.store import PostgresStore

    group, failed = Group(settings), False
    tenants: Mapping[str, int] = {}
    moves: Sequence[Move] = ()
    assert settings.databases is not None
    for database_id in settings.database_ids:
        dsn = dsn_in(settings, database_id)
        try:
            schema = await migrate.status(dsn)
            if not schema.ready:
                raise WrongDatabase(
                    f"its schema is version {schema.version}, not {schema.latest}: run sessiond migrate"
                )
            async with PostgresStore(dsn, max_connections=2) as store:
                await group.check(store, database_id, await store.token_key(), claim=False)
                if database_id == settings.default_database:
                    tenants = store.homes.counts()
            if database_id == settings.default_database:
                async with connected(dsn) as connection:
                    moves = await under_way(connection)
            state = "ok"
        except StoreUnavailable as error:
            failed, state = True, f"UNREACHABLE: {database.why(error)}"
        except DatabaseUnfit as error:
            failed, state = True, f"UNFIT: {error}"
        role = "default" if database_id == settings.default_database else f"{tenants.get(database_id, 0)} tenants"
        print(scrub(settings, f"{database_id:<16} {role:<12} {settings.databases[database_id]}  {state}"))
    for move in moves:
        print(f"{move.tenant_id} moves from {move.source_id} to {move.target_id}: {move.step} for {move.seconds:.0f} s")
    return 1 if failed else 0


async def _add(settings: Settings, database_id: str) -> int:
    from sessiond_server.postgres.placement import Claimed, HoldsData
    from sessiond_server.postgres.store import PostgresStore

    group = Group(settings)
    default, wanted = settings.database_ids[0], dsn_in(settings, database_id)
    for each in dict.fromkeys((default, database_id)):
        await database.migrated(dsn_in(settings, each), settings)
    async with PostgresStore(dsn_in(settings, default), max_connections=2) as store:
        await group.check(store, default, await store.token_key())
    for each in settings.database_ids[1:]:
        if each != database_id:
            await _note(group, settings, each)
    async with PostgresStore(wanted, max_connections=2) as store:
        token_key = await store.token_key()
        group.distinct(database_id, token_key)
        try:
            await store.claim(database_id, group.default, empty=database_id != default)
        except Claimed:
            raise group.wrong(database_id, await store.placement()) from None
        except HoldsData:
            raise WrongDatabase(
                f"the database {database_id} holds sessions or documents already, whose tenants would not find them: "
                "add an empty one"
            ) from None
    print(f"{database_id} is a database of the group whose default one is {default}")
    return 0


async def _note(group: Group, settings: Settings, database_id: str) -> None:
    """Notes the identity of a database, if it answers and has one."""
    from sessiond_server.postgres.schema import migrate
    from sessiond_server.postgres.store import PostgresStore

    dsn = dsn_in(settings, database_id)
    try:
        if (await migrate.status(dsn)).ready:
            async with PostgresStore(dsn, max_connections=2) as store:
                group.distinct(database_id, await store.token_key())
    except StoreUnavailable:
        return


async def _place(settings: Settings, tenant_id: str, database_id: str) -> int:
    from sessiond_server.postgres.moving import record
    from sessiond_server.postgres.placement import Claimed, HoldsData, give_home
    from sessiond_server.postgres.schema.migrate import connected
    from sessiond_server.postgres.store import PostgresStore

    default = settings.database_ids[0]
    wanted = dsn_in(settings, database_id)
    if database_id == default:
        raise SettingError(f"{default} is the default database: tenants live there that were given no other home")
    group = Group(settings)
    for each in (default, database_id):
        async with PostgresStore(dsn_in(settings, each), max_connections=2) as store:
            await group.check(store, each, await store.token_key(), claim=False)
    async with connected(dsn_in(settings, default)) as old, connected(wanted) as new:
        await record.lock(old, tenant_id)
        move = await record.read(old, tenant_id)
        if move is not None and move.under_way:
            raise WrongDatabase(
                f"the tenant {tenant_id} is being moved from {move.source_id} to {move.target_id}: sessiond databases "
                f"move {tenant_id} --to {move.target_id}, or --abort"
            )
        try:
            await give_home(old, new, tenant_id, database_id)
        except Claimed:
            raise WrongDatabase(
                f"the tenant {tenant_id} was given another home before: sessiond databases move {tenant_id} --to "
                f"{database_id}"
            ) from None
        except HoldsData:
            raise WrongDatabase(
                f"the tenant {tenant_id} has sessions or documents in {default}: sessiond databases move {tenant_id} "
                f"--to {database_id}"
            ) from None
    print(f"{tenant_id} lives in {database_id}; servers know within a second")
    return 0
