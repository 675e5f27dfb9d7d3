"""The map of databases: an id for each, and the DSN that leads to it."""

import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from sessiond_server.settings.connections import postgres_dsn
from sessiond_server.settings.urls import SecretUrl

ONLY: Final = "default"
"""Id of the database where there is one only, by a DSN without an id."""

MOST: Final = 200
"""Most databases of one process."""

LEAST_CONNECTIONS: Final = 5
"""Fewest connections that each database needs: for a batch, reads, transfers, health and the bus."""

_ID: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_ID_RULE: Final = "1 to 32 of [a-z0-9-], and begin with a letter"


class DatabaseMap(Mapping[str, SecretUrl]):
    """Database id -> DSN, in the order given. Its text form shows no secret."""

    __slots__ = ("_dsns",)

    def __init__(self, dsns: Mapping[str, SecretUrl]) -> None:
        self._dsns = MappingProxyType(dict(dsns))

    def __getitem__(self, database_id: str) -> SecretUrl:
        return self._dsns[database_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._dsns)

    def __len__(self) -> int:
        return len(self._dsns)

    def __hash__(self) -> int:
        return hash(tuple(self._dsns.items()))

    def __reduce__(self) -> tuple[type["DatabaseMap"], tuple[dict[str, SecretUrl]]]:
        # A read-only view cannot be sent to another process.
        return DatabaseMap, (dict(self._dsns),)

    def __repr__(self) -> str:
        return f"DatabaseMap({dict(self._dsns)!r})"

    def scrub(self, text: str) -> str:
        """`text` without the secrets of any DSN."""
        for dsn in self._dsns.values():
            text = dsn.scrub(text)
        return text


def database_id(text: str) -> str:
    """An id of a database. Raises ValueError."""
    if not _ID.fullmatch(text):
        raise ValueError(f"must be the id of a database: {_ID_RULE}")
    return text


def database_map(text: str) -> DatabaseMap:
    """Parses a JSON object of ids and DSNs. Raises ValueError, whose text quotes no DSN."""
    try:
        pairs: Any = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        raise ValueError('must be a JSON object of ids and DSNs, such as {"main": "postgresql://..."}') from None
    if not isinstance(pairs, _Pairs) or not pairs:
        raise ValueError('must be a JSON object of ids and DSNs, such as {"main": "postgresql://..."}')
    if len(pairs) > MOST:
        raise ValueError(f"must have at most {MOST} databases")
    found: dict[str, SecretUrl] = {}
    for number, (name, value) in enumerate(pairs, 1):
        if not _ID.fullmatch(name):
            raise ValueError(f"entry {number}: the id must be {_ID_RULE}")
        if name in found:
            raise ValueError(f"has the id {name} twice")
        if not isinstance(value, str):
            raise ValueError(f"{name}: must be a DSN in quotes")
        try:
            dsn = postgres_dsn(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if twin := next((other for other, known in found.items() if known == dsn), None):
            raise ValueError(f"{twin} and {name} have the same DSN")
        found[name] = dsn
    return DatabaseMap(found)


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object, of which a name may occur twice."""
