"""The settings, from flags, then environment variables, then defaults. Only this package reads the environment.

values.py       parsers of values
urls.py         URLs, which may contain passwords
connections.py  URLs of Postgres and Redis, as managed services give them
databases.py    the map of several databases
encryption.py   where the key-encryption keys are
table.py        the table of settings
processors.py   how many processors there are
summaries.py    the key of the server that makes summaries
traces.py       OpenTelemetry's variables
"""

import argparse
import os
import pwd
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sessiond_server.settings.databases import LEAST_CONNECTIONS, DatabaseMap
from sessiond_server.settings.encryption import reader
from sessiond_server.settings.summaries import VARIABLE, key_of
from sessiond_server.settings.table import HTTP_DEFAULT, SETTINGS, Setting, Settings, markdown
from sessiond_server.settings.traces import protocol_of
from sessiond_server.settings.urls import SecretUrl
from sessiond_server.settings.values import Address

__all__ = [
    "SETTINGS",
    "Address",
    "SecretUrl",
    "Setting",
    "SettingError",
    "Settings",
    "add_flags",
    "encryption_lines",
    "load",
    "markdown",
    "scrub",
    "summary_key",
    "traces",
]


class SettingError(Exception):
    """A setting has no valid value. The text names the setting as the operator gave it, and the rule."""


def add_flags(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Adds a flag to `parser` for each setting in `names`; for all settings if None."""
    wanted = None if names is None else set(names)
    group = parser.add_argument_group("settings (flag, else environment variable, else default)")
    for setting in SETTINGS:
        if wanted is not None and setting.name not in wanted:
            continue
        default = setting.default if setting.default.startswith("(") else f"(default: {setting.default})"
        text = f"{setting.help} [{', '.join(setting.variables)}] {default}".replace("%", "%%")
        if setting.is_switch:
            group.add_argument(setting.flag, nargs="?", const="true", metavar="BOOL", dest=setting.name, help=text)
        else:
            group.add_argument(setting.flag, metavar=setting.kind, dest=setting.name, help=text)


def load(flags: Mapping[str, str | None] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Reads the settings from parsed flags (name -> value, None if not given) and `environ` (None: the process's).

    Raises SettingError. A variable that is set but empty counts as not set.
    """
    environ = os.environ if environ is None else environ
    found: dict[str, Any] = {}
    sources = {}
    for setting in SETTINGS:
        source, text = _given(setting, flags or {}, environ)
        if text is None:
            continue
        sources[setting.name] = source
        try:
            found[setting.name] = setting.parse(text)
        except ValueError as error:
            raise SettingError(f"{source}: {error}") from None
    _check_databases(found, sources)
    settings = Settings(**found)
    if settings.database_connections < LEAST_CONNECTIONS <= settings.pool_size:
        least = LEAST_CONNECTIONS * len(settings.database_ids)
        raise SettingError(
            f"--pool-size {settings.pool_size} is too small for {len(settings.database_ids)} databases, which need "
            f"{LEAST_CONNECTIONS} connections each: set it to {least} or more"
        )
    if "data_dir" not in found:
        settings = replace(settings, data_dir=_default_data_dir(environ, needed=settings.embedded))
    if settings.embedded and not {"http_listen", "listen"} & sources.keys():
        settings = replace(settings, http_listen=HTTP_DEFAULT)
    if settings.store == "postgres" and settings.shards >= settings.store_connections - 1:
        raise SettingError(
            f"--shards {settings.shards} leaves no connection for reads: of --pool-size {settings.pool_size}, "
            f"{settings.store_connections - 1} are for sessions{' of each database' if settings.databases else ''}; "
            "set --pool-size higher"
        )
    if settings.encryption_keys is not None:
        _check_encryption(settings, sources)
    if settings.workers > 1:
        _check_workers(settings, sources["workers"])
    if (settings.tls_cert_file is None) != (settings.tls_key_file is None):
        raise SettingError("--tls-cert-file and --tls-key-file belong together: set both or neither")
    if settings.tls_client_ca_file is not None and settings.tls_cert_file is None:
        raise SettingError("--tls-client-ca-file needs --tls-cert-file and --tls-key-file")
    return settings


def _check_workers(settings: Settings, source: str) -> None:
    """Raises SettingError where several processes cannot serve together."""
    if settings.store == "memory":
        raise SettingError(f"{source}: only one process can serve from memory; leave it out, or set --store postgres")
    if sys.platform != "linux":
        raise SettingError(f"{source}: several processes on one port need Linux; leave it out")


def _check_encryption(settings: Settings, sources: Mapping[str, str]) -> None:
    """Raises SettingError for what does not go together with encryption."""
    source = sources["encryption_keys"]
    if settings.store == "memory":
        raise SettingError(f"{source}: the memory store keeps nothing at rest; leave it out, or set --store postgres")
    if settings.search:
        raise SettingError(
            f"{source} and {sources['search']} exclude each other: the index of searches is not encrypted. "
            "Leave out one of them"
        )


def encryption_lines(where: str, environ: Mapping[str, str] | None = None) -> Callable[[], str]:
    """What reads the lines of the key-encryption keys of the setting `encryption_keys`. It may raise OSError, or
    ValueError with a text to show."""
    return reader(where, environ)


def _check_databases(found: dict[str, Any], sources: Mapping[str, str]) -> None:
    """Checks the settings that name databases against each other. With a map of databases, `postgres_dsn` becomes the
    DSN of the default one. Raises SettingError."""
    databases, default = found.get("databases"), found.get("default_database")
    if databases is None:
        if default is not None:
            raise SettingError(f"{sources['default_database']} needs --databases, of which it names one")
        return
    if found.get("store", "postgres") != "postgres":
        raise SettingError(f"{sources['databases']} needs --store postgres")
    # Platforms set DATABASE_URL by themselves. It is for services without a map.
    if "postgres_dsn" in found and sources["postgres_dsn"] != "DATABASE_URL":
        raise SettingError(f"{sources['databases']} and {sources['postgres_dsn']} exclude each other: set one of them")
    if default is None:
        raise SettingError(f"{sources['databases']} needs --default-database, which names one of them")
    if default not in databases:
        raise SettingError(
            f"{sources['default_database']} names none of {sources['databases']}: {', '.join(databases)}"
        )
    found["postgres_dsn"] = databases[default]


def scrub(settings: Settings, text: str) -> str:
    """`text`, such as a server's or library's error message, without the secrets of any setting."""
    for setting in SETTINGS:
        value = getattr(settings, setting.name)
        if isinstance(value, SecretUrl | DatabaseMap):
            text = value.scrub(text)
    return text


def traces(environ: Mapping[str, str] | None = None) -> str | None:
    """The protocol by which traces are exported, "grpc" or "http/protobuf"; None: the environment asks for none.

    Raises SettingError.
    """
    try:
        return protocol_of(os.environ if environ is None else environ)
    except ValueError as error:
        raise SettingError(str(error)) from None


def summary_key(file: Path | None, environ: Mapping[str, str] | None = None) -> str:
    """The key for the server that makes summaries: of `file`, else of the environment. Raises SettingError, OSError."""
    try:
        return key_of(file, os.environ if environ is None else environ)
    except ValueError as error:
        raise SettingError(f"{VARIABLE if file is None else '--summary-key-file'}: {error}") from None


def refuse_open_network(settings: Settings) -> None:
    """Raises SettingError if clients on the network could use the service without a key and no setting allows that."""
    if settings.keys_file or settings.allow_unauthenticated_network or not (exposed := _exposed(settings)):
        return
    raise SettingError(
        f"refusing to listen on {exposed}, which is reachable from the network, without keys.\n"
        "  Make one: sessiond keys new --name me >> keys.toml   and serve with: --keys-file keys.toml\n"
        "  or listen on 127.0.0.1, or, if something else guards the port, set --allow-unauthenticated-network"
    )


def _exposed(settings: Settings) -> Address | None:
    """An address of calls that the network can reach; None if there is none."""
    return next((each for each in (settings.listen, settings.http_listen) if each and not each.loopback), None)


def keys_in_the_clear(settings: Settings) -> str:
    """A warning for the operator if keys cross the network without TLS; else empty."""
    if not settings.keys_file or settings.tls_cert_file or not (exposed := _exposed(settings)):
        return ""
    return (
        f"keys cross the network in the clear: {exposed} is reachable from the network and serves no TLS. Set "
        "--tls-cert-file and --tls-key-file, or listen on 127.0.0.1 behind a proxy on this machine that terminates TLS"
    )


def _given(setting: Setting, flags: Mapping[str, str | None], environ: Mapping[str, str]) -> tuple[str, str | None]:
    """(name of the source, text) of a setting; text is None if the setting is not given."""
    flag = flags.get(setting.name)
    if flag is not None:
        return setting.flag, flag
    for variable in setting.variables:
        if environ.get(variable):
            return variable, environ[variable]
    return "", None


def _default_data_dir(environ: Mapping[str, str], *, needed: bool) -> Path:
    """The default data folder. Raises SettingError if there is none and `needed`; it is not needed if nothing will be
    stored in it."""
    if os.geteuid() == 0 or not needed:
        return Path("/var/lib/sessiond")
    if environ.get("XDG_DATA_HOME"):
        return Path(environ["XDG_DATA_HOME"]) / "sessiond"
    home = environ.get("HOME")
    if not home:
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            raise SettingError("--data-dir: there is no home folder for the data; name a folder") from None
    return Path(home) / ".local/share/sessiond"
