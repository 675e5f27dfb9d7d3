"""Converts URLs of Postgres and Redis, as managed services give them, into the form that the drivers accept.

URLs of managed services, and of other libraries' documentation, have parameters that our drivers would treat as server
settings or as unknown arguments. Each parameter is kept, translated, left out because sessiond decides on it itself, or
refused by name.
"""

import os
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

from sessiond_server.settings.urls import SecretUrl, url

Rule = Callable[[str], bool]


def _any(value: str) -> bool:
    return True


def _one_of(*choices: str) -> Rule:
    return lambda value: value in choices


def _matches(pattern: str) -> Rule:
    return lambda value: re.fullmatch(pattern, value) is not None


_TEXT: Final = _matches(r".+")
_BOOL: Final = _matches(r"(?i)true|false|yes|no|on|off|0|1")
_WHOLE: Final = _matches(r"[0-9]{1,9}")
_NUMBER: Final = _matches(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_VERIFYING: Final = ("verify-ca", "verify-full")

_POSTGRES_KEPT: Final[Mapping[str, Rule]] = {
    "application_name": _any,
    "database": _TEXT,
    "dbname": _TEXT,
    "gsslib": _TEXT,
    "host": _TEXT,
    "krbsrvname": _TEXT,
    "options": _any,
    "passfile": _TEXT,
    "password": _any,
    "port": _matches(r"[0-9]{1,5}(,[0-9]{1,5})*"),
    "search_path": _TEXT,
    "service": _TEXT,
    "ssl_max_protocol_version": _matches(r"TLSv1(\.[123])?"),
    "ssl_min_protocol_version": _matches(r"TLSv1(\.[123])?"),
    "sslcert": _TEXT,
    "sslcrl": _TEXT,
    "sslkey": _TEXT,
    "sslmode": _one_of("disable", "allow", "prefer", "require", *_VERIFYING),
    "sslnegotiation": _one_of("postgres", "direct"),
    "sslpassword": _any,
    "sslrootcert": _TEXT,
    "target_session_attrs": _one_of(
        "any", "read-write", "read-only", "primary", "standby", "prefer-standby"
    ),
    "user": _TEXT,
}  # fmt: skip

_POSTGRES_LEFT_OUT: Final[Mapping[str, Rule]] = {
    # sessiond itself decides on timeouts, the number of connections, and prepared statements.
    "connect_timeout": _WHOLE,
    "connection_limit": _WHOLE,
    "keepalives": _BOOL,
    "keepalives_count": _WHOLE,
    "keepalives_idle": _WHOLE,
    "keepalives_interval": _WHOLE,
    "pgbouncer": _BOOL,
    "pool_timeout": _WHOLE,
    "prepared_statements": _BOOL,
    "socket_timeout": _WHOLE,
    "statement_cache_size": _WHOLE,
    "tcp_user_timeout": _WHOLE,
    # The driver behaves like this anyway.
    "client_encoding": _matches(r"(?i)utf-?8|auto"),
    "fallback_application_name": _any,
    "gssencmode": _one_of("disable", "allow", "prefer"),
    "load_balance_hosts": _one_of("disable", "random"),
    "sslcompression": _one_of("0"),
    "sslsni": _one_of("1"),
    # Parameters for services themselves and for drivers of other languages.
    "supa": _any,
    "uselibpqcompat": _BOOL,
    "workaround": _any,
}

_POSTGRES_TRANSLATED: Final[Mapping[str, Rule]] = {
    "channel_binding": _one_of("disable", "prefer", "require"),
    "schema": _matches(r"[A-Za-z_][A-Za-z0-9_$]*"),
    "ssl": _BOOL,
}

_SYSTEM_CERTIFICATES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

_REDIS_KEPT: Final[Mapping[str, Rule]] = {
    "client_name": _matches(r"[!-~]+"),
    "db": _WHOLE,
    "password": _any,
    "username": _TEXT,
}
_REDIS_TLS: Final[Mapping[str, Rule]] = {
    "ssl_ca_certs": _TEXT,
    "ssl_ca_path": _TEXT,
    "ssl_cert_reqs": _matches(r"(?i)(CERT_)?(none|optional|required)"),
    "ssl_certfile": _TEXT,
    "ssl_check_hostname": _BOOL,
    "ssl_ciphers": _TEXT,
    "ssl_keyfile": _TEXT,
    "ssl_password": _any,
}
_REDIS_LEFT_OUT: Final[Mapping[str, Rule]] = {
    "decode_responses": _BOOL,
    "encoding": _TEXT,
    "health_check_interval": _NUMBER,
    "max_connections": _WHOLE,
    "protocol": _one_of("2", "3"),
    "retry_on_timeout": _BOOL,
    "socket_connect_timeout": _NUMBER,
    "socket_keepalive": _BOOL,
    "socket_timeout": _NUMBER,
    "timeout": _NUMBER,
}


def postgres_dsn(text: str) -> SecretUrl:
    """A DSN in the driver's form. Raises ValueError, whose text names the parameter and the rule, never the value."""
    url("postgresql", "postgres")(text)
    parameters = _parameters(text, _POSTGRES_TRANSLATED)
    found = _sorted_out(parameters, _POSTGRES_KEPT, _POSTGRES_LEFT_OUT)
    _translate_tls(parameters, found)
    if schema := parameters.get("schema"):
        found.setdefault("search_path", schema)
    return _with(text, found)


def _translate_tls(given: Mapping[str, str], found: dict[str, str]) -> None:
    if "ssl" in given:
        found.setdefault("sslmode", "require" if given["ssl"].lower() in ("true", "1", "yes", "on") else "disable")
    if found.get("sslrootcert") == "system":
        if found.setdefault("sslmode", "verify-full") != "verify-full":
            raise ValueError("has sslrootcert=system, which goes with sslmode=verify-full only")
        found["sslrootcert"] = _system_certificates()
    elif found.get("sslmode") in _VERIFYING and "sslrootcert" not in found and not _own_root_certificate():
        found["sslrootcert"] = _system_certificates()
    if given.get("channel_binding") == "require" and found.get("sslmode") not in _VERIFYING:
        raise ValueError(
            "has channel_binding=require, which the driver does not support: set sslmode=verify-full, which prevents "
            "the same attacks, beside it or instead of it"
        )


def _own_root_certificate() -> bool:
    if os.environ.get("PGSSLROOTCERT"):
        return True
    try:
        return (Path.home() / ".postgresql" / "root.crt").is_file()
    except (RuntimeError, OSError):
        return False


def _system_certificates() -> str:
    paths = ssl.get_default_verify_paths()
    for path in (os.environ.get("SSL_CERT_FILE"), paths.cafile, *_SYSTEM_CERTIFICATES):
        if path and Path(path).is_file():
            return path
    raise ValueError("verifies by this machine's root certificates, but it has none: name a file with sslrootcert")


def redis_url(text: str) -> SecretUrl:
    """A URL of Redis in the driver's form. Raises ValueError as `postgres_dsn`."""
    parsed = url("redis", "rediss", "unix")(text)
    tls = parsed.scheme == "rediss"
    parameters = _parameters(text, {} if tls else _REDIS_TLS)
    if not tls and parameters.keys() & _REDIS_TLS.keys():
        raise ValueError(f"has {min(parameters.keys() & _REDIS_TLS.keys())}, which goes with rediss:// only")
    found = _sorted_out(parameters, {**_REDIS_KEPT, **(_REDIS_TLS if tls else {})}, _REDIS_LEFT_OUT)
    if "ssl_cert_reqs" in found:
        found["ssl_cert_reqs"] = found["ssl_cert_reqs"].lower().removeprefix("cert_")
    _, slash, rest = text.partition("?")[0].partition("://")[2].partition("/")
    path = slash + rest
    if parsed.scheme != "unix" and not re.fullmatch(r"/?|/[0-9]{1,9}", path):
        raise ValueError("must name its database by a number, such as redis://host:6379/0")
    if parsed.scheme == "unix" and not path:
        raise ValueError("must name the socket's file, such as unix:///run/redis/redis.sock")
    return _with(text, found)


def _parameters(text: str, more: Mapping[str, Rule]) -> Mapping[str, str]:
    """The parameters of the query, each of which occurs once. `more` holds rules for their values."""
    pairs: Sequence[tuple[str, str]] = parse_qsl(text.partition("?")[2], keep_blank_values=True)
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"has the parameter {name} twice")
        if name in more and not more[name](value):
            raise ValueError(f"has a value for {name} that it cannot have")
        found[name] = value
    return found


def _sorted_out(
    parameters: Mapping[str, str], kept: Mapping[str, Rule], left_out: Mapping[str, Rule]
) -> dict[str, str]:
    found = {}
    for name, value in parameters.items():
        rule = kept.get(name) or left_out.get(name)
        if rule is None:
            if name in _POSTGRES_TRANSLATED and kept is _POSTGRES_KEPT:
                continue
            raise ValueError(f"has the parameter {name}, which sessiond does not know{_hint(kept)}")
        if not rule(value):
            raise ValueError(f"has a value for {name} that it cannot have")
        if name in kept:
            found[name] = value
    return found


def _hint(kept: Mapping[str, Rule]) -> str:
    return "; settings of the session are written options=-c%20name%3Dvalue" if kept is _POSTGRES_KEPT else ""


def _with(text: str, parameters: Mapping[str, str]) -> SecretUrl:
    query = urlencode(parameters, quote_via=quote, safe="/,:")
    return SecretUrl(text.partition("?")[0] + (f"?{query}" if query else ""))
