"""`sessiond check`: checks that everything is there that `serve` with the same settings needs. Changes nothing.

If the bundled Postgres is not running and has data, it is started for the check. With `--production` it also goes
through the checklist of docs/operations.md.
"""

import asyncio
import errno
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Final

from sessiond_server import auth, redis
from sessiond_server.app import blobs, database
from sessiond_server.app.credentials import tls_files
from sessiond_server.app.databases import Group, WrongDatabase
from sessiond_server.app.encryption import KeysUnfit, encryption_of, keys_fit
from sessiond_server.app.errors import CannotListen, CannotReachBlobs
from sessiond_server.cli import open_files, production
from sessiond_server.cli.healthcheck import identity, reachable
from sessiond_server.embedded import EmbeddedError
from sessiond_server.encryption.keyring import check_unwraps
from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.production import Facts
from sessiond_server.rpc import probe
from sessiond_server.rpc.tls import TlsInvalid
from sessiond_server.settings import SecretUrl, SettingError, Settings, keys_in_the_clear, refuse_open_network, scrub

_LABELS: Final = {"warn": "WARNING", "manual": "MANUAL"}


class Report:
    """Prints one line per check, and remembers whether a check failed."""

    def __init__(self) -> None:
        self.failed = False

    def ok(self, thing: str, finding: str) -> None:
        print(f"ok      {thing:<9} {finding}")

    def warn(self, thing: str, finding: str, advice: str = "", label: str = "warn") -> None:
        print(f"{_LABELS[label]:<7} {thing:<9} {finding}")
        if advice:
            print(f"{'':<18}{advice}")

    def fail(self, thing: str, finding: str, advice: str) -> None:
        self.failed = True
        print(f"FAILED  {thing:<9} {finding}\n{'':<18}{advice}")


def run(settings: Settings, replicas: int | None = None) -> int:
    """With `replicas`, the most that run at the same time, it goes through the checklist for production too."""
    report = Report()
    _guard(settings, report)
    _keys(settings, report)
    _tls(settings, report)
    _listen(settings, report)
    facts, upkeep = asyncio.run(_servers(settings, report, ask=replicas is not None))
    if replicas is not None:
        _production(production.Place(settings, replicas, facts, upkeep, open_files.most()), report)
    return 1 if report.failed else 0


def _production(place: production.Place, report: Report) -> None:
    print("\nthe checklist for production (docs/operations.md):")
    for item, finding in production.findings(place):
        text = scrub(place.settings, finding.text)
        if finding.status == "ok":
            report.ok(item, text)
        elif finding.status == "fail":
            report.fail(item, text, finding.remedy)
        else:
            report.warn(item, text, finding.remedy, label=finding.status)


def _guard(settings: Settings, report: Report) -> None:
    try:
        refuse_open_network(settings)
    except SettingError as error:
        problem, _, advice = str(error).partition("\n")
        report.fail("access", problem, advice.strip().replace("\n  ", f"\n{'':<18}"))
        return
    if settings.keys_file:
        report.ok("access", "by bearer key")
        if warning := keys_in_the_clear(settings):
            report.warn("access", warning)
    elif settings.listen.loopback:
        report.ok("access", f"without keys, from this machine only, as tenant {auth.DEFAULT_TENANT}")
    else:
        report.ok("access", "WITHOUT KEYS, FROM THE WHOLE NETWORK, as a setting allows")


def _keys(settings: Settings, report: Report) -> None:
    if settings.keys_file is None:
        return
    try:
        keys = auth.load_keys(settings.keys_file)
    except auth.KeysFileInvalid as error:
        report.fail("keys", str(error), "see deploy/keys.example.toml; make entries with: sessiond keys new")
    except OSError as error:
        report.fail("keys", f"{settings.keys_file}: {error.strerror}", "make one with: sessiond keys new")
    else:
        report.ok("keys", f"{len(keys)} in {settings.keys_file}")
        expired = [key.name for key in keys.values() if key.expires is not None and key.expires <= time.time()]
        if expired:
            report.warn("keys", f"expired: {', '.join(sorted(expired))}")


def _tls(settings: Settings, report: Report) -> None:
    files = tls_files(settings)
    if files is None:
        return
    try:
        files.read()
    except TlsInvalid as error:
        report.fail("tls", str(error), "serve would not start with it; a running one keeps the certificates it has")
    except OSError as error:
        report.fail("tls", f"{error.filename}: {error.strerror}", "name files that the user of sessiond may read")
    else:
        mutual = f", callers by certificates of {files.client_ca}" if files.client_ca else ""
        report.ok("tls", f"certificate {files.certificate}{mutual}")


def _listen(settings: Settings, report: Report) -> None:
    address = settings.listen
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((address.host, address.port))
    except OSError as error:
        here, status = reachable(address), "UNREACHABLE"
        if error.errno == errno.EADDRINUSE:
            tls = settings.tls_cert_file is not None
            status = probe.health(here.host, here.port, 2.0, tls=tls, identity=identity(settings))
        if status != "UNREACHABLE":
            report.ok("listen", f"{address}: a gRPC server runs there already, and says {status}")
        else:
            problem, _, advice = str(CannotListen(address, "--listen")).partition("\n")
            report.fail("listen", problem, advice.strip())
    else:
        report.ok("listen", f"{address} is free")


async def _servers(settings: Settings, report: Report, *, ask: bool) -> tuple[Facts | None, redis.Upkeep | None]:
    """`ask`: also return what database and cache say of themselves; None for one that cannot be asked."""
    facts = upkeep = None
    if settings.store == "memory":
        report.ok("store", "memory: all data is lost when the service stops")
    else:
        where = str(settings.postgres_dsn) if settings.postgres_dsn else f"bundled, data in {settings.data_dir}"
        if settings.databases is not None:
            where = f"{settings.default_database}, {where}"
        try:
            async with database.started(settings) as dsn:
                if dsn:
                    await _postgres(settings, dsn, where, report)
                    facts = await _facts(dsn) if ask else None
                else:
                    report.ok("postgres", f"{where}, to be created by serve")
        except EmbeddedError as error:
            report.fail("postgres", error.problem, error.advice)
    if settings.databases is not None:
        await _several(settings, settings.databases, report)
    if settings.redis_url:
        await _cache(settings.redis_url, report)
        upkeep = await _upkeep(settings.redis_url) if ask else None
    if settings.blob_store:
        await _blobs(settings, settings.blob_store, report)
    return facts, upkeep


async def _several(settings: Settings, databases: Mapping[str, SecretUrl], report: Report) -> None:
    """The databases other than the default one, and that each is the one that its id means."""
    from sessiond_server.postgres.fitness import DatabaseUnfit
    from sessiond_server.postgres.schema import migrate
    from sessiond_server.postgres.store import PostgresStore

    group, sound = Group(settings), True
    for database_id in settings.database_ids:
        dsn = databases[database_id].reveal()
        if database_id != settings.default_database:
            await _postgres(settings, dsn, f"{database_id}, {databases[database_id]}", report)
        try:
            if not (await migrate.status(dsn)).ready:
                sound = False
                continue
            async with PostgresStore(dsn, max_connections=2) as store:
                await group.check(store, database_id, await store.token_key(), claim=False)
        except WrongDatabase as error:
            report.fail("databases", str(error), "serve would not start")
            sound = False
        except (StoreUnavailable, DatabaseUnfit):
            sound = False  # reported already
    if sound:
        report.ok("databases", f"{len(databases)} in the map, of which {settings.default_database} is the default one")


async def _facts(dsn: str) -> Facts | None:
    from sessiond_server.postgres import production

    try:
        return await production.look(dsn)
    except StoreUnavailable:
        return None


async def _growth(dsn: str, report: Report) -> None:
    from sessiond_server.postgres import growth, production

    with suppress(StoreUnavailable):
        found = await production.look_at_tables(dsn)
        for problem, advice in growth.warnings(found) if found else ():
            report.warn("growth", problem, advice)


async def _upkeep(url: SecretUrl) -> redis.Upkeep | None:
    try:
        return await redis.upkeep(url.reveal())
    except redis.CacheUnavailable:
        return None


async def _postgres(settings: Settings, dsn: str, where: str, report: Report) -> None:
    from sessiond_server.postgres import fitness
    from sessiond_server.postgres.schema import migrate

    try:
        found = await migrate.status(dsn)
        if settings.require_durable and found.fitness:
            fitness.refuse_unsafe(found.fitness)
    except StoreUnavailable as error:
        advice = "is it running, and are host, port, database, name and password right?"
        report.fail("postgres", scrub(settings, f"{where}: {error}: {database.why(error)}"), advice)
        return
    except fitness.DatabaseUnfit as error:
        problem, _, advice = str(error).partition(": ")
        report.fail("postgres", scrub(settings, f"{where}: {problem}"), scrub(settings, advice))
        return
    report.ok("postgres", where)
    for warning in found.fitness.warnings() if found.fitness else ():
        report.warn("postgres", warning)
    if found.too_new:
        problem = str(migrate.SchemaTooNew(found.version, found.latest))
        report.fail("schema", problem, "this version would refuse to start")
    elif found.ready:
        report.ok("schema", f"version {found.version}")
    else:
        report.ok("schema", f"version {found.version}; serve or migrate will apply {', '.join(found.pending)}")
    if found.ready:
        await _encryption(settings, dsn, report)
    if found.version:
        await _growth(dsn, report)
    if found.restored:
        report.ok("feeds", "restored from a dump into another cluster; serve or migrate will raise their order")


async def _encryption(settings: Settings, dsn: str, report: Report) -> None:
    from sessiond_server.postgres import production

    try:
        encryption = encryption_of(settings)
        in_use = await production.look_at_keys(dsn)
        await keys_fit(in_use, None if encryption is None else partial(check_unwraps, encryption.keks))
    except (KeysUnfit, SettingError) as error:
        report.fail("encryption", str(error), "serve would not start")
    except StoreUnavailable:
        return  # reported already
    else:
        if encryption is not None:
            report.ok("encryption", f"by the keys of {settings.encryption_keys}, which fit the database")


async def _cache(url: SecretUrl, report: Report) -> None:
    try:
        found = await redis.probe(url.reveal())
    except redis.CacheUnavailable as error:
        report.fail("redis", f"{url}: {error}", "the service works without it, only slower; check the URL")
    else:
        report.ok("redis", f"{url}: {found}")


async def _blobs(settings: Settings, url: SecretUrl, report: Report) -> None:
    try:
        async with blobs.opened_blobs(settings, None) as storage:
            await blobs.reach_blobs(storage, url)
    except (SettingError, CannotReachBlobs) as error:
        problem, _, advice = str(error).partition("\n")
        report.fail("blobs", problem, advice.strip() or "check --blob-store and its credentials")
    else:
        report.ok("blobs", str(url))
