"""URLs of servers, which may contain passwords. Only this module parses and displays them."""

import re
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote

_URL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?]*)(/[^?]*)?(?:\?(.*))?", re.DOTALL)
_HOSTS: Final = re.compile(r"(?:[A-Za-z0-9._~%-]*|\[[0-9A-Fa-f:.%]+\])(?::[0-9]{1,5})?")
_PARAMETER: Final = re.compile(r"([A-Za-z0-9_.-]+)=([^&]*)")
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")

_SHOWN: Final = frozenset(
    (
        "application_name", "client_encoding", "connect_timeout", "db", "dbname", "endpoint", "gssencmode",
        "health_check_interval", "host", "max_connections", "port", "protocol", "region", "retry_on_timeout",
        "socket_connect_timeout", "socket_keepalive", "socket_timeout", "sslmode", "sslnegotiation",
        "ssl_min_protocol_version", "target_session_attrs", "timeout", "user", "username",
        "virtual_hosted_style_request",
    )
)  # fmt: skip
"""Parameters whose values are shown. Of all other parameters only the names are shown."""

_CREDENTIALS: Final = re.compile(r"secret|token|password|credential|sas|access_key|key(?!_id)", re.IGNORECASE)
"""Words in the names of parameters that hold secrets."""

_ESCAPES: Final = (
    "must be SCHEME://USER:PASSWORD@HOST:PORT/NAME, with / # ? @ and % in the user, the password and the rest written "
    "as %2F %23 %3F %40 and %25"
)
_HIDDEN: Final = "***"
_SHORT: Final = 4
"""A secret with fewer characters than this is scrubbed only where it is a whole word."""


class SecretUrl:
    """A completely parsed URL. Its text form shows no secret; code that connects uses `reveal`."""

    __slots__ = ("_secrets", "_shown", "_text")

    def __init__(self, text: str) -> None:
        """Raises ValueError, which quotes nothing of `text`, if a secret could end up in a part that is shown."""
        found = _URL.fullmatch(text)
        if found is None or "#" in text or _BAD_PERCENT.search(text) or not text.isprintable() or " " in text:
            raise ValueError(_ESCAPES)
        scheme, authority, path, query = found[1], found[2], found[3] or "", found[4] or ""
        login, at, hosts = authority.rpartition("@")
        # An unescaped slash or question mark in a password ends the authority early, so that its @ comes later.
        misplaced = "@" in login or "@" in query or ("@" in path and scheme != "file")
        if misplaced or not all(_HOSTS.fullmatch(host) for host in hosts.split(",")):
            raise ValueError(_ESCAPES)
        if query and not all(_PARAMETER.fullmatch(parameter) for parameter in query.split("&")):
            raise ValueError("must have parameters such as ?name=value&other=value")
        user, colon, password = login.partition(":")
        if not colon and scheme in ("redis", "rediss", "unix"):
            user, password = "", user  # a name alone may be a password in the wrong place
        self._text = text
        self._secrets = tuple(sorted({*_forms(text), *_forms(password), *_hidden_values(query)}, key=len, reverse=True))
        hidden = f":{_HIDDEN}" if password else ""
        self._shown = f"{scheme}://{user}{hidden}{at}{hosts}{path}{_shown_query(query)}"

    @property
    def scheme(self) -> str:
        return self._text.partition(":")[0]

    def reveal(self) -> str:
        """The URL as it was given, including secrets. Never print or log it."""
        return self._text

    def scrub(self, text: str) -> str:
        """`text`, such as a server's error message, without the secrets of this URL."""
        for secret in self._secrets:
            pattern = re.escape(secret)
            text = re.sub(rf"\b{pattern}\b" if len(secret) < _SHORT else pattern, _HIDDEN, text)
        return text

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"SecretUrl({self._shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretUrl) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


def url(*schemes: str) -> Callable[[str], SecretUrl]:
    """A parser for URLs with one of the schemes."""

    def parse(text: str) -> SecretUrl:
        if not text.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"must start with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return SecretUrl(text)

    return parse


def url_without_credentials(*schemes: str) -> Callable[[str], SecretUrl]:
    """A parser for URLs with one of the schemes that contain no secret, also not in URLs among their parameters."""

    def parse(text: str) -> SecretUrl:
        found = url(*schemes)(text)
        authority, _, query = text.partition("://")[2].partition("?")
        named = any(_CREDENTIALS.search(parameter.partition("=")[0]) for parameter in query.split("&"))
        if named or "@" in authority.partition("/")[0] or "@" in unquote(query):
            raise ValueError(
                "must not contain credentials, which belong in the environment: settings are shown and logged"
            )
        return found

    return parse


def _forms(secret: str) -> Iterator[str]:
    if secret:
        yield secret
        yield unquote(secret)


def _hidden_values(query: str) -> Iterator[str]:
    for name, value in _PARAMETER.findall(query):
        if name not in _SHOWN:
            yield from _forms(value)


def _shown_query(query: str) -> str:
    parameters = [f"{name}={value if name in _SHOWN else _HIDDEN}" for name, value in _PARAMETER.findall(query)]
    return f"?{'&'.join(parameters)}" if parameters else ""
