"""Picks the database that serves a call. What serves it then knows nothing of other databases."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sessiond_server.auth import ANY_DATABASE, DATABASE, is_database_id
from sessiond_server.blobs.access import AttachmentAccess
from sessiond_server.errors import InvalidFields, ScopeMissing, StoreUnavailable, Violation
from sessiond_server.events.bus import Bus
from sessiond_server.events.contract import Hub
from sessiond_server.rpc.call import Call
from sessiond_server.store.commits import Writer
from sessiond_server.store.documents import DocumentReads
from sessiond_server.store.homes import Homes
from sessiond_server.store.log_reads import LogReads
from sessiond_server.store.session_reads import SessionQueries, SessionReads
from sessiond_server.store.work import WorkStore

KEY: Final = "db_id"
"""Metadata by which a caller names a database other than its tenant's home."""


@dataclass(frozen=True, slots=True)
class Reads:
    """The sources of reads, by ability."""

    sessions: SessionReads
    """May answer from a cache."""
    queries: SessionQueries
    logs: LogReads
    work: WorkStore
    documents: DocumentReads


@dataclass(frozen=True, slots=True)
class Database:
    """What serves the calls of one database."""

    id: str
    reads: Reads
    writer: Writer
    hub: Hub
    bus: Bus
    files: AttachmentAccess


class Routing:
    """The database of each call: the one that its metadata names, else the home of its tenant."""

    def __init__(self, ids: Iterable[str], homes: Homes) -> None:
        """`ids`: all databases, the default one first. `homes`: the map of the default database."""
        self._known = tuple(ids)
        self._default = self._known[0]
        self._several = len(self._known) > 1
        self._homes = homes
        self._open: set[str] = set()

    def open(self, database_id: str) -> None:
        """From now on the database serves its calls."""
        self._open.add(database_id)

    def of(self, call: Call) -> str:
        """The id of the call's database. Raises ScopeMissing, InvalidFields for a name that is wrong, and
        StoreUnavailable if the database is not open, or unknown here."""
        home = self._homes.of(call.principal.tenant_id) or self._default
        for key, value in call.metadata:
            if key == KEY:
                home = self._named(call, value, home)
                break
        if self._several or home != self._default:
            call.database = home
        if home not in self._open:
            raise StoreUnavailable
        return home

    def _named(self, call: Call, named: str | bytes, home: str) -> str:
        if not isinstance(named, str) or not is_database_id(named):
            raise InvalidFields([Violation(KEY, "must be the id of a database")])
        scope = DATABASE + named
        if scope not in call.principal.scopes and ANY_DATABASE not in call.principal.scopes:
            raise ScopeMissing(scope)
        if named not in self._known:
            raise InvalidFields([Violation(KEY, "is not the id of a database of this server")])
        if named == self._default != home:
            # The default database refuses all writes of tenants that live elsewhere.
            raise InvalidFields([Violation(KEY, "must not name the default database: the tenant lives in another one")])
        return named


class Routed:
    """Has the methods of a servicer, each of which calls that of the call's database. Adds no coroutine to a call."""

    def __init__(self, routing: Routing, servicers: Mapping[str, object]) -> None:
        """`servicers`: one for each database, by its id."""
        self._of = routing.of
        self._servicers = servicers

    def __getattr__(self, name: str) -> Callable[[Any, Call], Awaitable[bytes | None]]:
        """Raises AttributeError for a method that the servicers lack."""
        methods: dict[str, Any] = {each: getattr(servicer, name) for each, servicer in self._servicers.items()}
        of = self._of

        def routed(request: Any, call: Call) -> Awaitable[bytes | None]:
            chosen: Awaitable[bytes | None] = methods[of(call)](request, call)
            return chosen

        routed.takes_bytes = all(getattr(method, "takes_bytes", False) for method in methods.values())  # type: ignore[attr-defined]
        return routed
