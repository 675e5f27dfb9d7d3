"""The checklist of `sessiond check --production`: one finding for each item of docs/operations.md, with the remedy."""

import ipaddress
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sessiond_server.postgres import growth
from sessiond_server.postgres.production import Facts
from sessiond_server.redis import Upkeep
from sessiond_server.settings import Settings

OPERATORS: Final = 10
"""Connections to Postgres that are left for operators, migrations and monitoring."""
NEWEST_TRIED: Final = 18
OLDEST_MAINTAINED: Final = 15
"""Oldest and newest major version of Postgres that gets no warning."""
AGE_OF_DANGER: Final = 1_600_000_000
"""Age at which Postgres itself takes emergency measures (vacuum_failsafe_age); it stops writes at 2.1 billion."""
SKEW_SEEN, SKEW_HARMFUL = 1.0, 30.0
"""Seconds. Keys expire by the clock of the service's machine, everything else by the database's."""
FILES_NEEDED: Final = 8192
"""Open files: 4096 connections of callers, and room for those of the service."""


@dataclass(frozen=True, slots=True)
class Place:
    """What the items are judged by."""

    settings: Settings
    replicas: int
    """Most replicas that run on the database at the same time."""
    facts: Facts | None
    """None: there is no database of Postgres, or it does not answer, which the check itself has reported."""
    upkeep: Upkeep | None
    """None: there is no cache, or it does not answer."""
    files: int
    """Most files that `serve` may have open."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to an item."""

    status: str
    """ok, warn, fail, or manual: only a person can answer it."""
    text: str
    remedy: str = ""


def ok(text: str) -> Finding:
    return Finding("ok", text)


def warn(text: str, remedy: str) -> Finding:
    return Finding("warn", text, remedy)


def fail(text: str, remedy: str) -> Finding:
    return Finding("fail", text, remedy)


def findings(place: Place) -> Iterator[tuple[str, Finding]]:
    """Item and finding, in the order of the checklist; the worst finding of an item that has several."""
    for name, judge in ITEMS.items():
        found = judge(place)
        yield name, max(found, key=lambda finding: _SEVERITY[finding.status])


_SEVERITY: Final = {"ok": 0, "manual": 1, "warn": 2, "fail": 3}


def _tls(place: Place) -> Sequence[Finding]:
    settings = place.settings
    if settings.tls_cert_file is not None:
        callers = ", and callers need a certificate" if settings.tls_client_ca_file else ""
        return [ok(f"the service speaks TLS only{callers}")]
    if settings.listen.loopback:
        return [ok(f"{settings.listen} is reachable from this machine only")]
    remedy = "set --tls-cert-file and --tls-key-file, or listen on 127.0.0.1 behind what terminates TLS"
    return [fail(f"{settings.listen} is reachable from the network without TLS: keys and contents can be read", remedy)]


def _keys(place: Place) -> Sequence[Finding]:
    settings = place.settings
    found = []
    if settings.keys_file is None:
        remedy = "make keys (sessiond keys new), and set --keys-file"
        if not settings.listen.loopback:
            found.append(fail("every client that reaches the port may read and change everything", remedy))
        else:
            found.append(warn("every process of this machine may read and change everything", remedy))
    secrets = [(settings.keys_file, False), (settings.tls_key_file, True)]
    for path, private in secrets:
        if path is not None:
            found += _permissions(path, private)
    return found


def _encryption(place: Place) -> Sequence[Finding]:
    where = place.settings.encryption_keys
    if where is None:
        remedy = "encrypt the volumes, the bucket and the backups, or set --encryption-keys (docs/encryption.md)"
        return [Finding("manual", "the service stores contents in the clear", remedy)]
    found = [ok(f"contents are encrypted by keys from {where}; keep a copy of the keys elsewhere")]
    if not place.settings.encryption_writes:
        found.append(warn("what is written is not encrypted yet", "remove --encryption-writes false"))
    if where.startswith("file:"):
        found += _permissions(Path(where.removeprefix("file:")), private=True)
    return found


def _permissions(path: Path, private: bool) -> Sequence[Finding]:
    """`private`: whether reading the file does harm. A file of keys holds only digests of keys."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return [fail(f"{path}: {error.strerror}", "name files that the user of sessiond may read")]
    remedy = f"chmod 640 {path}, and give it to the group of sessiond"
    if mode & stat.S_IWOTH:
        return [fail(f"every user of the machine may change {path}", remedy)]
    if private and mode & stat.S_IROTH:
        return [fail(f"every user of the machine may read {path}", remedy)]
    if mode & stat.S_IROTH:
        return [warn(f"every user of the machine may read {path}, which names tenants and users", remedy)]
    return [ok(f"{path} is closed to other users of the machine")]


def _durable(place: Place) -> Sequence[Finding]:
    if place.settings.store == "memory":
        return [fail("the memory store forgets everything when the service stops", "set --store postgres")]
    if place.settings.embedded:
        remedy = "set --postgres-dsn to a server with a standby and backups"
        return [warn("the bundled Postgres has no standby and no backups", remedy)]
    if place.facts is None:
        return [_unknown()]
    if place.facts.unsafe:
        remedy = "turn it on for the database and the role, and set --require-durable"
        return [fail(f"{', '.join(place.facts.unsafe)} is off: acknowledged writes can be lost", remedy)]
    guard = "" if place.settings.require_durable else "; --require-durable would refuse to start without them"
    return [ok(f"fsync, full_page_writes and synchronous_commit are on{guard}")]


def _pool(place: Place) -> Sequence[Finding]:
    if place.facts is None:
        return [_unknown()]
    size, replicas, workers = place.settings.pool_size, place.replicas, place.settings.workers
    wanted = size * workers * replicas + OPERATORS
    each = f"{size} connections" if workers == 1 else f"{workers} workers with {size} connections each"
    text = f"{replicas} replicas of {each} and {OPERATORS} for operators, of {place.facts.connections}"
    if place.facts.pooler:
        return [warn(f"{text}, behind a pooler", "compare its max_client_conn and pool size with --pool-size yourself")]
    if wanted > place.facts.connections:
        remedy = "lower --pool-size, raise max_connections, or put PgBouncer between"
        return [fail(f"{text}: the last replicas cannot connect", remedy)]
    # While an upgrade runs there is one replica more.
    if wanted + size * workers > place.facts.connections:
        return [warn(f"{text}: no room for one replica more during an upgrade", "lower --pool-size or --replicas")]
    return [ok(text)]


def _cache(place: Place) -> Sequence[Finding]:
    if place.settings.redis_url is None:
        return [warn("there is no cache: every read asks Postgres", "set --redis-url")]
    if place.upkeep is None:
        return [warn("the cache does not answer: every read asks Postgres", "see above")]
    found = [ok("it keeps nothing on disk, and evicts within its memory limit")]
    if place.upkeep.persistent:
        remedy = 'switch persistence off: save "" and appendonly no. Nothing in it needs to be kept'
        found.append(warn("it writes its data to disk, which costs time and is needed for nothing", remedy))
    if not place.upkeep.max_memory:
        found.append(warn("its memory has no limit", "set maxmemory, and maxmemory-policy allkeys-lru"))
    elif not place.upkeep.evicts:
        found.append(warn("it refuses writes when its memory is full", "set maxmemory-policy allkeys-lru"))
    return found


def _blobs(place: Place) -> Sequence[Finding]:
    settings = place.settings
    if settings.blob_store is None:
        return [ok("attachments are in the database, and in its backups")]
    if str(settings.blob_store).startswith("file:") and place.replicas > 1:
        remedy = "use object storage, or a folder that all replicas share"
        return [warn(f"{settings.blob_store} must be the same folder for {place.replicas} replicas", remedy)]
    return [ok(f"{settings.blob_store}; its backups are not those of the database")]


def _clock(place: Place) -> Sequence[Finding]:
    if place.facts is None:
        return [_unknown()]
    skew = place.facts.clock_skew
    text = f"the clocks of this machine and of the database differ by {abs(skew):.1f} s"
    if abs(skew) > SKEW_HARMFUL:
        return [fail(f"{text}: keys expire too soon or too late", "run chrony or another NTP client on both machines")]
    if abs(skew) > SKEW_SEEN:
        return [warn(text, "run chrony or another NTP client on both machines")]
    return [ok(text)]


def _log(place: Place) -> Sequence[Finding]:
    level = place.settings.log_level
    if level == "debug":
        return [warn("debug records cost time and disk", "set --log-level info")]
    if level == "error":
        return [
            warn("warnings, of expired keys and of settings that lose data, are not logged", "set --log-level info")
        ]
    return [ok(f"{level} and above, as {place.settings.log_format}")]


def _limits(place: Place) -> Sequence[Finding]:
    settings = place.settings
    found = [ok(f"of sessions, lifetimes, attachments and open files ({place.files})")]
    if settings.failpoints:
        found.append(fail(f"faults are injected: {settings.failpoints}", "remove --failpoints"))
    if place.files < FILES_NEEDED:
        remedy = f"ulimit -n {FILES_NEEDED}, LimitNOFILE of the unit, or the container's ulimits"
        found.append(warn(f"the process may open {place.files} files and connections only", remedy))
    unlimited = [
        "--" + name.replace("_", "-")
        for name in ("default_ttl", "max_attachment_size", "max_live_sessions", "max_session_attachments_size")
        if getattr(settings, name) == 0
    ]
    if unlimited:
        found.append(warn(f"unlimited: {', '.join(unlimited)}", "set limits, unless you trust every tenant"))
    return found


def _metrics(place: Place) -> Sequence[Finding]:
    address = place.settings.metrics_listen
    if address is None:
        return [warn("no metrics are served: no alert can fire", "set --metrics-listen 127.0.0.1:9464")]
    if address.loopback:
        return [ok(f"{address} is reachable from this machine only")]
    remedy = "listen on loopback or on a private address, and let only your monitoring reach it"
    try:
        host = ipaddress.ip_address(address.host)
    except ValueError:
        return [warn(f"{address} needs no key", remedy)]
    if host.is_unspecified:
        return [warn(f"{address}, every interface of the machine, needs no key", remedy)]
    if host.is_global:
        return [fail(f"{address} is a public address, and needs no key", remedy)]
    return [ok(f"{address} is a private address: let only your monitoring reach it")]


def _backups(place: Place) -> Sequence[Finding]:
    known = "" if place.facts is None else f" (archive_mode is {'on' if place.facts.archiving else 'off'})"
    remedy = "restore one into an empty cluster, and run sessiond check there: docs/operations.md, Restoring a dump"
    return [Finding("manual", f"only a restore proves a backup{known}", remedy)]


def _version(place: Place) -> Sequence[Finding]:
    if place.facts is None:
        return [_unknown()]
    major = place.facts.version // 10000
    if major < OLDEST_MAINTAINED:
        return [warn(f"PostgreSQL {major} works, and gets no fixes any more", "upgrade it with pg_upgrade")]
    if major > NEWEST_TRIED:
        return [
            warn(f"PostgreSQL {major} has not been tried with this version", f"use {NEWEST_TRIED}, or try it first")
        ]
    return [ok(f"PostgreSQL {major}")]


def _transactions(place: Place) -> Sequence[Finding]:
    if place.facts is None:
        return [_unknown()]
    facts = place.facts
    return [
        _age("transaction id", facts.transaction_age, facts.freeze_age),
        _age("multixact", facts.multixact_age, facts.multixact_freeze_age),
    ]


def _age(what: str, age: int, freeze_age: int) -> Finding:
    text = f"the oldest {what} is {age:,} old; autovacuum freezes at {freeze_age:,}"
    if age > AGE_OF_DANGER:
        return fail(f"{text}; at 2.1 billion Postgres refuses writes", growth.REMEDY_OF_AGE)
    if age > growth.AGE_TIMES * freeze_age:
        return warn(f"{text}, and does not keep up", growth.REMEDY_OF_AGE)
    return ok(text)


def _autovacuum(place: Place) -> Sequence[Finding]:
    if place.facts is None:
        return [_unknown()]
    if not place.facts.autovacuum:
        return [fail("it is off: tables grow, and transaction ids run out", "set autovacuum and track_counts to on")]
    if place.facts.not_vacuumed:
        tables = ", ".join(place.facts.not_vacuumed)
        return [fail(f"it is off for {tables}", "alter table ... reset (autovacuum_enabled)")]
    return [ok("it is on, for every table")]


def _unknown() -> Finding:
    return fail("the database cannot be asked", "see above")


ITEMS: Final[dict[str, Callable[[Place], Sequence[Finding]]]] = {
    "tls": _tls,
    "keys": _keys,
    "encryption": _encryption,
    "durable": _durable,
    "pool": _pool,
    "cache": _cache,
    "blobs": _blobs,
    "clock": _clock,
    "log": _log,
    "limits": _limits,
    "metrics": _metrics,
    "backups": _backups,
    "version": _version,
    "xids": _transactions,
    "vacuum": _autovacuum,
}
"""The items in the order of docs/operations.md, each with the function that judges it."""
